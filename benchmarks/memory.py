"""Measure the peak memory of training steps, beside what `tfgpt plan` says.

python -m benchmarks.memory                 # all cases, about ten minutes on two cores
python -m benchmarks.memory --only parts    # those with "parts" in the name

Every case is a process of its own. A tiny model is trained first, so that libraries are loaded;
what the process then grows by, from before the model is built to the peak of the steps after
the first, is measured. Linux only.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import describe_machine

SMALL = {"num_layers": 2, "d_model": 256, "num_heads": 4, "vocab_size": 1000, "context_length": 256}
DEEP = {**SMALL, "num_layers": 6}
HEADS = {**SMALL, "num_heads": 16}
WORDS = {**SMALL, "vocab_size": 9000}
WIDE = {**SMALL, "num_layers": 3, "d_model": 512, "num_heads": 8, "context_length": 128}
SHAPES = {"small": SMALL, "deep": DEEP, "heads": HEADS, "words": WORDS, "wide": WIDE}
TINY = {"num_layers": 1, "d_model": 32, "num_heads": 2, "vocab_size": 64, "context_length": 16}
MODES = {
    "parts": {"jit_compile": "parts"},
    "parts bfloat16": {"jit_compile": "parts", "precision": "mixed_bfloat16"},
    "plain": {"jit_compile": False},
    "xla": {"jit_compile": True},
}
CASES = {
    f"{mode}, {shape}": {"sizes": sizes, "batch_size": 16 if shape == "wide" else 8, **options}
    for mode, options in MODES.items()
    for shape, sizes in SHAPES.items()
}
STEPS = 4


def main(arguments=None):
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--only", default="", help="a part of the names of the cases")
    parser.add_argument("--json", default="runs/memory.json", help="file for the results")
    options = parser.parse_args(arguments)
    results = []
    print(f"{'case':24s}{'measured':>10s}{'planned':>10s}{'ratio':>8s}")
    for name, case in CASES.items():
        if options.only in name:
            measured, planned = measure(case), planned_bytes(case)
            results.append({"case": name, **case, "measured": measured, "planned": planned})
            ratio = planned / measured
            print(
                f"{name:24s}{measured / 1e6:7.0f} MB{planned / 1e6:7.0f} MB{ratio:8.2f}", flush=True
            )
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": describe_machine(), "results": results}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def planned_bytes(case):
    """Return what `memory_of` says of a case."""
    from tfgpt.tasks.memory import memory_of
    from tfgpt.tasks.sizes import Sizes

    settings = {name: value for name, value in case.items() if name != "sizes"}
    return sum(memory_of(Sizes(**case["sizes"]), **settings).values())


def measure(case):
    """Return the peak of a case, in bytes, in a new process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--worker", json.dumps(case)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    return int(output.split()[-1])


def run_worker(case):
    """Train and print by how many bytes this process grew."""
    train({**case, "sizes": TINY})
    before = status_bytes("VmRSS")
    train(case)
    print(status_bytes("VmHWM") - before)


def train(case):
    """Train a few steps on random ids."""
    import keras
    import numpy as np

    from tfgpt import GPT, make_train_step

    sizes = case["sizes"]
    model = GPT(**sizes, remat=case.get("remat", False))
    precision = case.get("precision", "float32").removeprefix("mixed_")
    step = make_train_step(
        model,
        keras.optimizers.AdamW(1e-3),
        jit_compile=case["jit_compile"],
        mixed_precision=None if precision == "float32" else precision,
    )
    shape = (case["batch_size"], sizes["context_length"] + 1)
    ids = np.random.default_rng(0).integers(1, sizes["vocab_size"], shape, "int32")
    for index in range(STEPS):
        float(step((ids[:, :-1], ids[:, 1:]))["loss"])
        if index == 0:  # from here on VmHWM counts anew, without the memory of the compiler
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def status_bytes(name):
    """Read one number of /proc/self/status: VmRSS is what is used now, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        run_worker(json.loads(sys.argv[2]))
    else:
        sys.exit(main())
