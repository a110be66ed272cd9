"""Compare the speed of tfgpt with other libraries, in one run.

python -m benchmarks                            # all
python -m benchmarks train --sizes S M          # a part, with the limits of the machine
python -m benchmarks --only "train S" --rounds 2

Every contender is a process of its own. They are measured in turn, A B C A B C ..., and
a ratio is the median of the ratios of single rounds. See benchmarks/README.md.
"""

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.comparisons import KINDS, make_comparisons, select
from benchmarks.machine import describe_machine
from benchmarks.report import as_dict, check_targets, find_limits, table, target_table
from benchmarks.runner import Plan, run_comparison
from benchmarks.sizes import SIZES


def main(arguments=None):
    """Run the command line; return the exit code, 2 after wrong input."""
    options = make_parser().parse_args(arguments)
    try:
        comparisons = choose(options)
        plan = make_plan(options)
        if options.list:
            print_list(comparisons)
        else:
            run(comparisons, plan, Path(options.json))
    except (ValueError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


def make_parser():
    """Describe the options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = [*KINDS, "all"]
    parser.add_argument("what", nargs="*", metavar="what", help=f"{', '.join(what)}; default: all")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), help="some of S M G T")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument(
        "--seconds", type=float, default=3, help="about the length of one measurement"
    )
    parser.add_argument("--steps", type=int, help="steps of one measurement, whatever they take")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="parts of the names that --list shows"
    )
    parser.add_argument("--extras", action="store_true", help="also what --list marks as extra")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--json", default="runs/benchmarks.json", help="file for all results")
    parser.add_argument(
        "--torch-python", default=sys.executable, help="a Python with torch and transformers"
    )
    parser.add_argument(
        "--timeout", type=float, default=600, help="seconds until a silent worker has failed"
    )
    return parser


def choose(options):
    """Return the comparisons that the options name; raise if there are none."""
    named = set(options.what or ["all"])
    # Training and decoding are compared with what the machine can do in the same run.
    named |= {"limits"} if named & {"train", "decode"} else set()
    kinds = [kind for kind in KINDS if {kind, "all"} & named]
    for name, values, known in (
        ("what", options.what, (*KINDS, "all")),
        ("--sizes", options.sizes, tuple(SIZES)),
    ):
        for value in values:
            if value not in known:
                raise ValueError(f"{name} must be some of {', '.join(known)}, got {value!r}.")
    # A list shows everything.
    extras = options.extras or options.list
    chosen = select(make_comparisons(), kinds, options.sizes, options.only, extras)
    if not chosen:
        raise ValueError("nothing is left to compare; --list shows the names and what is extra.")
    return chosen


def make_plan(options):
    """Return the Plan of the options; raise if one is out of range."""
    for name in ("rounds", "steps", "seconds", "timeout"):
        value = getattr(options, name)
        smallest = 1 if name in ("rounds", "steps") else 0.001
        if value is not None and not smallest <= value < math.inf:
            raise ValueError(f"--{name} must be >= {smallest} and finite, got {value}.")
    return Plan(
        rounds=options.rounds,
        seconds=options.seconds,
        steps=options.steps,
        timeout=options.timeout,
        torch_python=options.torch_python,
    )


def print_list(comparisons):
    """Print the names of comparisons and contenders."""
    for comparison in comparisons:
        for contender in comparison.contenders:
            extra = "  (extra)" if comparison.extra or contender.extra else ""
            print(f"{comparison.name}: {contender.name}{extra}")


def run(comparisons, plan, json_file):
    """Run comparisons, print their tables and write the JSON file after each of them."""
    json_file.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": describe_machine(), "plan": asdict(plan), "comparisons": []}
    print(", ".join(f"{name}: {value}" for name, value in report["machine"].items()), flush=True)
    if (report["machine"]["load"] or 0) > 0.5:
        show_progress(
            "Other programs are or were busy: PyTorch suffers most, its rows mean little."
        )
    results_by_name = {}
    for comparison in comparisons:
        results = run_comparison(comparison, plan, log=show_progress)
        results_by_name[comparison.name] = results
        limits = find_limits(results_by_name)
        print("\n".join(["", *table(comparison, results, limits)]), flush=True)
        report["comparisons"].append(as_dict(comparison, results, limits))
        report["targets"] = check_targets(results_by_name, comparisons)
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if report["targets"]:
        print("\n".join(["", *target_table(report["targets"])]))


def show_progress(text):
    """Show what happens now, apart from the results."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
