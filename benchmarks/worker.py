"""One contender in a process of its own: it waits, measures when told, and waits again.

    python -m benchmarks.worker LIBRARY SETTINGS

The module `LIBRARY_worker` makes the job. The worker answers with one JSON per line:
first after its first calls, then for every line {"steps": N} on its standard input.
"""

import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

try:
    import resource
except ImportError:  # Windows
    resource = None


@dataclass(frozen=True)
class Job:
    """What a worker measures.

    Args:
        measure: function of the number of steps; returns seconds and the last loss, or
            None in place of a loss. All work is done when it returns.
        packages: names of the packages whose versions count.
        weights: int, the number of weights, or None.
        units: float, what one step makes: tokens, operations, bytes.
        in_child: bool, the work is done in processes that the worker starts.
    """

    measure: Callable
    packages: tuple[str, ...]
    weights: int | None = None
    units: float = 1.0
    in_child: bool = False


def repeat(call, finish=float):
    """Make `Job.measure` of a function that does one step.

    Args:
        call: function without arguments.
        finish: function of the last result; waits for the work and returns the loss.
    """

    def measure(steps):
        start = time.perf_counter()
        for _ in range(steps):
            result = call()
        value = finish(result)
        return time.perf_counter() - start, value

    return measure


def main(arguments):
    """Make the job, answer, and measure until the standard input ends."""
    library, settings = arguments
    answer = claim_stdout()
    try:
        job = importlib.import_module(f"benchmarks.{library}_worker").make_job(json.loads(settings))
    except ModuleNotFoundError as error:
        answer({"missing": error.name})
        return
    answer(first_calls(job))
    for line in sys.stdin:
        seconds, loss = job.measure(json.loads(line)["steps"])
        answer({"seconds": seconds, "loss": loss, "peak_mb": peak_mb(job.in_child)})


def claim_stdout():
    """Return a function that answers; what libraries print goes to standard error."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(message):
        stream.write(json.dumps(message) + "\n")
        stream.flush()

    return answer


def first_calls(job):
    """Run the job until nothing is traced any more; describe it and its pace."""
    start = time.perf_counter()
    _, loss = job.measure(1)
    first_call = time.perf_counter() - start
    job.measure(1)
    pace, _ = job.measure(1)
    return {
        "first_call_s": first_call,
        "pace_s": pace,
        "first_loss": loss,
        "weights": job.weights,
        "units": job.units,
        "versions": {
            "Python": platform.python_version(),
            **{name: version(name) for name in job.packages},
        },
    }


def peak_mb(in_child=False):
    """Return the most memory that this process, or a child, has used; None on Windows."""
    if resource is None:
        return None
    who = resource.RUSAGE_CHILDREN if in_child else resource.RUSAGE_SELF
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, else KiB
    return resource.getrusage(who).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    main(sys.argv[1:])
