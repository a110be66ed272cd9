"""Run comparisons: every contender in its own process, measured in turn, round by round."""

import json
import math
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.comparisons import INSTALL, TORCH_LIBRARIES

REPOSITORY = Path(__file__).parents[1]
ERROR_LINES = 12


class WorkerError(RuntimeError):
    """A worker crashed, hangs or answers nonsense."""


@dataclass
class Result:
    """What one contender achieved.

    Args:
        contender: Contender.
        status: "ok", "not installed" or "failed".
        message: str, why it is not ok.
        times: list of float, ms per unit, one for each round.
        first: dict, the first answer of its worker.
        last: dict, the last answer of its worker.
    """

    contender: object
    status: str = "ok"
    message: str = ""
    times: list = field(default_factory=list)
    first: dict = field(default_factory=dict)
    last: dict = field(default_factory=dict)

    @property
    def name(self):
        """The contender's name."""
        return self.contender.name

    @property
    def precision(self):
        """The contender's precision."""
        return self.contender.options["precision"]

    @property
    def is_ok(self):
        """Say whether every round was measured."""
        return self.status == "ok"

    @property
    def median_ms(self):
        """The median of the rounds, in ms per unit."""
        return median(self.times)

    def stop(self, status, message):
        """End as "not installed" or "failed"."""
        self.status, self.message = status, message


@dataclass(frozen=True)
class Plan:
    """How comparisons are run.

    Args:
        rounds: int >= 1.
        seconds: float > 0, the length of one measurement, as far as whole steps allow.
        steps: int >= 1 or None, the steps of one measurement in place of `seconds`.
        timeout: float > 0, seconds after which a worker that does not answer has failed.
        torch_python: str, the Python of the peers that need PyTorch.
        python: str, the Python of all others.
    """

    rounds: int = 5
    seconds: float = 3.0
    steps: int | None = None
    timeout: float = 600.0
    torch_python: str = sys.executable
    python: str = sys.executable

    def command(self, library, settings):
        """Return the command that starts the worker of a library."""
        python = self.torch_python if library in TORCH_LIBRARIES else self.python
        return [python, "-m", "benchmarks.worker", library, json.dumps(settings)]

    def steps_for(self, pace):
        """Return the steps of one measurement for a contender with `pace` seconds per step."""
        return self.steps or max(1, math.ceil(self.seconds / max(pace, 1e-6)))


class Worker:
    """A process that answers one JSON per line.

    Args:
        command: list of str.
        timeout: float, seconds to wait for an answer.
    """

    def __init__(self, command, timeout):
        self.timeout = timeout
        self.process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=os.environ | environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        self.lines = queue.SimpleQueue()
        self.last_errors = deque(maxlen=ERROR_LINES)
        # Children of the process may keep its streams open: nobody waits for these threads.
        self.error_thread = threading.Thread(target=self.read_errors, daemon=True)
        for thread in (threading.Thread(target=self.read_lines, daemon=True), self.error_thread):
            thread.start()

    def read_lines(self):
        """Pass on what the process answers, and None at its end."""
        with self.process.stdout as stream:
            for line in stream:
                self.lines.put(line)
        self.lines.put(None)

    def read_errors(self):
        """Keep the last lines of standard error."""
        with self.process.stderr as stream:
            self.last_errors.extend(stream)

    def ask(self, request):
        """Send a request and return the answer."""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise self.error(f"ended with exit code {self.process.wait()}") from None
        return self.answer()

    def answer(self):
        """Wait for the next answer."""
        try:
            line = self.lines.get(timeout=self.timeout)
        except queue.Empty:
            raise self.error(f"no answer in {self.timeout:g} s") from None
        if line is None:
            raise self.error(f"ended with exit code {self.process.wait()}")
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            raise self.error(f"answered {line.strip()!r}, not JSON") from None

    def error(self, what):
        """Make a WorkerError with the last lines of standard error."""
        self.error_thread.join(timeout=1)  # what it wrote before its end
        return WorkerError("\n".join([what, *(line.rstrip() for line in self.last_errors)]))

    def close(self):
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()


def environment():
    """Return the variables that give every worker all cores of the CPU, and no more."""
    cores = str(count_cores())
    return {
        "OMP_NUM_THREADS": cores,
        "TF_NUM_INTRAOP_THREADS": cores,
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # The first call must compile, whatever an earlier run has left behind.
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    }


def count_cores():
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def run_comparison(comparison, plan, log=lambda text: None):
    """Measure all contenders of a comparison, A B C A B C ...

    Workers start one after the other and live until the end; while one measures, the
    others wait for their standard input.

    Args:
        comparison: Comparison.
        plan: Plan.
        log: function of a str, told what happens.

    Returns:
        list of Result, in the order of the contenders.
    """
    results = [Result(contender) for contender in comparison.contenders]
    workers = {}
    try:
        for result in results:
            log(f"{comparison.name}: {result.name} starts")
            start(result, comparison, plan, workers)
        for number in range(plan.rounds):
            log(f"{comparison.name}: round {number + 1} of {plan.rounds}")
            for result in results:
                if result.is_ok:
                    measure(result, plan, workers[result.name])
    finally:
        for worker in workers.values():
            worker.close()
    for result in results:
        if result.is_ok:
            check_work(result, comparison)
    return results


def start(result, comparison, plan, workers):
    """Start a contender's worker and keep it; write down its first answer."""
    contender = result.contender
    command = plan.command(contender.library, comparison.settings(contender))
    try:
        workers[result.name] = worker = Worker(command, plan.timeout)
        result.first = worker.answer()
    except (WorkerError, OSError) as error:
        result.stop("failed", str(error))
        return
    if "missing" in result.first:
        package = INSTALL.get(contender.library, result.first["missing"])
        result.stop("not installed", f"no module {result.first['missing']}: pip install {package}")


def measure(result, plan, worker):
    """Measure a contender once and write the time down."""
    steps = plan.steps_for(result.first["pace_s"])
    try:
        result.last = worker.ask({"steps": steps})
    except WorkerError as error:
        result.stop("failed", str(error))
        worker.close()
        return
    units = steps * result.first["units"]
    result.times.append(1000 * result.last["seconds"] / units)


def check_work(result, comparison):
    """Fail a contender that did not do the work: other weights, or a loss that is wrong.

    The weights must be exactly those of the size. A training loss must begin within 0.5
    of ln V, what knowing nothing costs, and fall.
    """
    if comparison.size is None:
        return
    if result.first["weights"] != comparison.size.weights:
        result.stop(
            "failed",
            f"weights must be {comparison.size.weights:,}, got {result.first['weights']:,}",
        )
    elif comparison.kind == "train":
        first, last = result.first["first_loss"], result.last["loss"]
        expected = math.log(comparison.size.vocab_size)
        if not (abs(first - expected) < 0.5 and last < first):
            result.stop(
                "failed",
                f"the loss must begin near {expected:.2f} and fall, got {first:.2f} to {last:.2f}",
            )


def paired_ratio(ours, peer):
    """Return the median over the rounds of our time divided by the peer's."""
    pairs = zip(ours.times, peer.times, strict=True)
    return median(our_time / peer_time for our_time, peer_time in pairs)


def fastest(results):
    """Return the result with the least median time, or None of none."""
    return min(results, key=lambda result: result.median_ms, default=None)


def best_of_ours(results, precision=None):
    """Return tfgpt's fastest result, of one precision if it is given; None if there is none."""
    return fastest(
        result
        for result in results
        if result.is_ok and result.contender.is_ours and precision in (None, result.precision)
    )
