"""Ctrl-C, SIGTERM and SIGHUP during a training: the step under way counts, the work is kept."""

import contextlib
import signal
import threading

kept_interrupts = []  # what ended trainings of this process early, with their work kept


def code_of_interrupts():
    """Return the exit code for what has ended a training early since the last call, else 0."""
    numbers = [getattr(stop, "number", signal.SIGINT) for stop in kept_interrupts]
    kept_interrupts.clear()
    return 128 + numbers[-1] if numbers else 0


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: stop as after Ctrl-C, then end with the code for it."""

    def __init__(self, number):
        super().__init__(f"signal {number}")
        self.number = number


def on_main_thread():
    """Say whether signals can be handled here: other threads receive none."""
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def termination_as_interrupt(ignored=False):
    """Raise Terminated for SIGTERM and SIGHUP inside the block, where nobody handles them.

    Args:
        ignored: bool, do nothing about them, nor about Ctrl-C: of several processes the first
            one saves and ends, and the others end with it.
    """
    numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    if not on_main_thread():
        numbers = []

    def stop(number, frame):
        raise Terminated(number)

    mine = [n for n in numbers if n is not None and signal.getsignal(n) is signal.SIG_DFL]
    mine += [signal.SIGINT] if ignored and on_main_thread() else []
    handlers = {n: signal.signal(n, signal.SIG_IGN if ignored else stop) for n in mine}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def delayed_interrupt():
    """Let Ctrl-C, SIGTERM and SIGHUP wait until the block is done: a step counts whole or not."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [getattr(signal, name) for name in names] if on_main_thread() else []
    received, handlers = [], {}
    for number in numbers:
        if callable(signal.getsignal(number)):  # not ignored, not the system's own
            handlers[number] = signal.signal(number, lambda n, frame: received.append(n))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])
