"""The record of a training run: its folder, lock, configuration, history and progress.

The folder is a bundle: config.json and tokenizer.json stand there from the first second, and
weights.safetensors is renewed with each checkpoint, so that a run can be sampled at any time.
"""

import contextlib
import csv
import hashlib
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np

from tfgpt.bundle import (
    CLASSES,
    CONFIG,
    TOKENIZER,
    replaced_file,
    write_config,
    write_tokenizer,
    write_weights,
)
from tfgpt.checkpoints import Checkpoints

HISTORY, LOCK = "history.csv", "lock"
HISTORY_COLUMNS = ("step", "loss", "val_loss", "tokens_per_s", "seconds")
# What may differ when a run goes on: names, and how long it is to go.
FREE_KEYS = {"name", "steps", "warmup_steps", "module", "registered_name"}
PLAIN_SECONDS = 10.0  # between two lines of progress where there is no terminal


def holds_run(folder):
    """Say whether a folder holds the configuration, history or checkpoints of a run."""
    return read_run(folder) is not None or any(
        (folder / name).exists() for name in (HISTORY, "checkpoint")
    )


def read_run(folder):
    """Return what config.json says of the run in a folder, None if there is none."""
    try:
        content = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
        return content if isinstance(content.get("run"), dict) else None
    except (OSError, ValueError, AttributeError):
        return None


def keep_aside(path):
    """Rename a file or folder that would be written anew to the first free number."""
    number = 1
    while (kept := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return path.rename(kept)


def set_aside(folder):
    """Rename the folder of an earlier run, so that nothing of it is lost.

    Args:
        folder: Path.

    Raises:
        ValueError: if the folder holds something else than a run of tfgpt, or may not be
            renamed: the current folder, one above it, a mount point.
    """
    if not holds_run(folder):
        return
    place = folder.resolve()
    is_above = place in (Path.cwd(), *Path.cwd().parents)
    if read_run(folder) is None or os.path.ismount(place) or is_above:
        raise ValueError(
            f"run_dir must be a new folder or that of an earlier run, got {str(folder)!r}, which "
            "holds other files or is the current folder: choose another one."
        )
    with RunLock(folder):  # no other process may be writing there
        pass
    kept = keep_aside(place)
    print(f"The earlier run is kept in {folder.with_name(kept.name)}.")


class RunLock:
    """Keep a folder for one process; the end of the process, a kill too, gives it free.

    Args:
        folder: Path.

    Raises:
        ValueError: when entered, if another process holds it.
    """

    def __init__(self, folder):
        self.path = Path(folder) / LOCK
        self.file = None

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while self.file is None or not self.is_current():
            self.take()
        return self

    def __exit__(self, *error):
        with contextlib.suppress(PermissionError):  # Windows keeps open files
            self.path.unlink(missing_ok=True)
        self.file.close()

    def take(self):
        """Open the file and lock it."""
        if self.file is not None:
            self.file.close()
        self.file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            lock_file(self.file)
        except OSError as error:
            self.file.close()
            raise ValueError(
                f"run_dir must not be in use, got {str(self.path.parent)!r}, where another "
                "process is training: wait for its end, or choose another folder."
            ) from error

    def is_current(self):
        """Say whether the name is still that of the locked file: its last owner removes it."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.stat(self.path), os.fstat(self.file.fileno()))
        return False


def lock_file(file):
    """Lock an open file for this process; raise OSError if another one holds it."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        return
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Run:
    """What a training run keeps: step and history, on disk if there is a folder.

    Use it as a context: it holds the lock of its folder.

    Args:
        run_dir: folder, or None.
        model: Keras model.
        optimizer: Keras optimizer, built.
        batches: Batches, the training data.
        resume: bool, restore the last checkpoint in the folder.
        tokenizer: tokenizer to write beside the model, or None.
        facts: dict of what else must be the same when the run goes on.
    """

    def __init__(self, run_dir, model, optimizer, batches, resume, tokenizer, facts):
        self.step = 0
        self.history = []
        self.model = model
        self.folder = self.checkpoints = None
        self.stack = contextlib.ExitStack()
        if run_dir is None:
            return
        self.folder = folder = Path(run_dir)
        if not resume and holds_run(folder):
            raise ValueError(
                f"run_dir must not hold another run, got {str(folder)!r}: pass resume=True to go "
                "on with it, or choose another folder."
            )
        self.stack.enter_context(RunLock(folder))
        try:
            self.open(optimizer, batches, resume, tokenizer, facts)
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stack.close()

    def open(self, optimizer, batches, resume, tokenizer, facts):
        """Write what is known from the start, or go on from the last checkpoint."""
        facts = {
            "optimizer": keras.optimizers.serialize(optimizer),
            "tokenizer": None if tokenizer is None else tokenizer_hash(tokenizer),
            "first_batch": batch_hash(batches.first()),
            **facts,
        }
        facts = {name: fact for name, fact in facts.items() if fact is not None}
        facts = json.loads(json.dumps(facts, default=str))
        self.checkpoints = Checkpoints(self.folder / "checkpoint", self.model, optimizer, batches)
        earlier = read_run(self.folder)
        if earlier is not None:
            self.compare(earlier, facts)
        step = self.checkpoints.restore() if resume else None
        if step is not None:
            self.step = step
            self.history = read_history(self.folder / HISTORY, last_step=step)
            print(f"Going on from step {step} in {self.folder}.")
        elif resume:
            if (self.folder / HISTORY).exists():
                keep_aside(self.folder / HISTORY)
            print(f"There is no checkpoint in {self.folder} yet: starting at step 0.")
        self.write_start(tokenizer, facts)

    def write_start(self, tokenizer, facts):
        """Write config.json and tokenizer.json."""
        if type(self.model) in CLASSES.values():
            write_config(self.folder, self.model, run=facts)
        else:
            content = {"class_name": type(self.model).__name__, "config": {}, "run": facts}
            with replaced_file(self.folder / CONFIG) as path:
                path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        if tokenizer is not None:
            write_tokenizer(self.folder, tokenizer)

    def compare(self, earlier, facts):
        """Raise with the first difference if a run was started with other settings."""
        shared = earlier["run"].keys() & facts.keys()  # a generator has no first batch to show
        known = {"run": {name: earlier["run"][name] for name in shared}}
        wanted = {"run": {name: facts[name] for name in shared}}
        if type(self.model) in CLASSES.values() and earlier.get("config"):
            known["model"] = earlier["config"]
            wanted["model"] = json.loads(json.dumps(self.model.get_config(), default=str))
        difference = first_difference(known, wanted)
        if difference:
            name, before, now = difference
            raise ValueError(
                f"run_dir must hold a run with the same settings, got {str(self.folder)!r}, where "
                f"{name} is {before!r} and not {now!r}: use that, or start again in another folder."
            )

    def save(self):
        """Write a checkpoint and the weights for sampling; raise if a weight is NaN."""
        if self.checkpoints is None:
            return
        check_finite_weights(self.model, self.step)
        self.checkpoints.save(self.step)
        if type(self.model) in CLASSES.values() and importlib.util.find_spec("safetensors"):
            write_weights(self.folder, self.model)

    def add_row(self, row):
        """Keep a row and rewrite history.csv."""
        self.history.append(row)
        self.write_history()

    def write_history(self):
        """Write history.csv anew."""
        if self.folder is not None:
            write_history(self.folder / HISTORY, self.history)


def first_difference(before, now, name=""):
    """Find where two settings differ: (name, before, now), or None.

    Example:
        >>> first_difference({"a": {"rate": 1}}, {"a": {"rate": 2}})
        ('a.rate', 1, 2)
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            if key in FREE_KEYS:
                continue
            inner = f"{name}.{key}" if name else key
            found = first_difference(before.get(key), now.get(key), inner)
            if found:
                return found
        return None
    return None if before == now else (name, before, now)


def batch_hash(batch):
    """Return a digest of one batch, None for None: other data, sizes or seeds give another."""
    if batch is None:
        return None
    digest = hashlib.sha256()
    for array in keras.tree.flatten(batch):
        array = np.asarray(array)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def tokenizer_hash(tokenizer):
    """Return a digest of the file that a tokenizer writes."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TOKENIZER
        tokenizer.save(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def check_finite_weights(model, step):
    """Raise if a weight is NaN or infinite."""
    for weight in model.trainable_weights:
        if not bool(keras.ops.all(keras.ops.isfinite(weight))):
            raise ValueError(stop_message(step, f"{weight.path} is NaN or infinite"))


def stop_message(step, what):
    """Say that a training cannot go on, and what to do."""
    return (
        f"Training stopped at step {step} (batch number {step}): {what}. The checkpoints before "
        "are kept. Look at this batch; lower the learning rate, use warm-up or a smaller "
        "clip_norm, or bfloat16 in place of float16."
    )


class Log:
    """Collect the metrics of steps into rows and progress."""

    def __init__(self, run, steps, progress):
        self.run = run
        self.results = []
        earlier = run.history[-1]["seconds"] if run.history else 0.0
        self.start = time.perf_counter() - earlier
        self.last_row = self.last_step = time.perf_counter()
        self.is_new = False
        self.progress = Progress(steps) if progress else None

    def add(self, result):
        """Keep the result of one step, without waiting for its numbers."""
        self.results.append(result)
        self.last_step = time.perf_counter()

    def check_losses(self):
        """Raise if the loss of a step since the last row is NaN or infinite."""
        for number, result in enumerate(self.results, self.run.step - len(self.results) + 1):
            loss = float(result["loss"])
            if not np.isfinite(loss):
                raise ValueError(stop_message(number, f"the loss is {loss}"))

    def write_row(self):
        """Average what was added since the last row; nothing was added, no row."""
        if not self.results:
            return
        self.check_losses()
        loss = sum(float(result["loss"]) for result in self.results) / len(self.results)
        tokens = sum(float(result["tokens"]) for result in self.results)
        row = {
            "step": self.run.step,
            "loss": loss,
            "val_loss": None,
            "tokens_per_s": tokens / max(self.last_step - self.last_row, 1e-9),
            "seconds": self.last_step - self.start,
        }
        self.run.add_row(row)
        self.results, self.is_new = [], True
        self.last_row = time.perf_counter()

    def add_validation(self, loss):
        """Write the held-out loss into the newest row, if there is one."""
        if self.run.history:
            self.run.history[-1]["val_loss"] = loss
            self.run.write_history()
        # Time spent on validation belongs to no row.
        self.last_row = time.perf_counter()

    def show(self):
        """Show the newest row, if it was not shown yet."""
        if self.is_new and self.progress is not None:
            self.progress.show(self.run.history[-1])
        self.is_new = False


class Progress:
    """One line that is renewed in a terminal; elsewhere a line now and then.

    It goes to stderr, so that results on stdout stay clean; in a notebook, where stderr is
    red, to stdout. NO_COLOR, or a stream that is no terminal, gets no escape codes.
    """

    def __init__(self, steps):
        self.steps = steps
        self.stream = sys.stdout if "ipykernel" in sys.modules else sys.stderr
        self.is_live = self.stream.isatty() and not os.environ.get("NO_COLOR")
        self.last = 0.0

    def show(self, row):
        """Show one row of the history."""
        ended = row["step"] == self.steps
        if not self.is_live and not ended and time.perf_counter() - self.last < PLAIN_SECONDS:
            return
        self.last = time.perf_counter()
        held_out = "" if row["val_loss"] is None else f", held-out {row['val_loss']:.4f}"
        text = (
            f"step {row['step']:,} of {self.steps:,}: loss {row['loss']:.4f}{held_out}, "
            f"{row['tokens_per_s']:,.0f} tokens/s, {row['seconds']:.0f} s"
        )
        end = "\n" if ended or not self.is_live or held_out else ""
        print(f"\r\x1b[K{text}" if self.is_live else text, end=end, file=self.stream, flush=True)


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: stop as after Ctrl-C, then end with the code for it."""

    def __init__(self, number):
        super().__init__(f"signal {number}")
        self.number = number


def on_main_thread():
    """Say whether signals can be handled here: other threads receive none."""
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def termination_as_interrupt():
    """Raise Terminated for SIGTERM and SIGHUP inside the block, where nobody handles them."""
    numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    if not on_main_thread():
        numbers = []

    def stop(number, frame):
        raise Terminated(number)

    mine = [n for n in numbers if n is not None and signal.getsignal(n) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


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


def write_history(path, history):
    """Write rows to a CSV file; an unmeasured value becomes an empty cell."""
    with replaced_file(Path(path)) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HISTORY_COLUMNS)
        writer.writeheader()
        writer.writerows(history)


def read_history(path, last_step=None):
    """Read the rows of a CSV file that `train` wrote.

    Args:
        path: the file.
        last_step: int, leave out later rows; None: read all.

    Returns:
        list of dicts, as `train` returns it; empty if there is no file yet.

    Raises:
        ValueError: if the file was changed by another program.
    """
    if not Path(path).exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            if tuple(reader.fieldnames or ()) != HISTORY_COLUMNS:
                raise ValueError(f"its columns are {reader.fieldnames}")
            rows = [
                {name: float(cell) if cell else None for name, cell in row.items()}
                for row in reader
            ]
        for row in rows:
            row["step"] = int(row["step"])
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(
            f"{HISTORY} must have the columns {', '.join(HISTORY_COLUMNS)} and numbers in every "
            f"row, got {str(path)!r}, which another program may have changed: {error}. Move it "
            "away to go on without the earlier rows."
        ) from error
    return [row for row in rows if last_step is None or row["step"] <= last_step]
