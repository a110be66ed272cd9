"""Measure how long a step waits for a checkpoint, and how long the writing takes beside it.

python -m benchmarks.checkpoints                  # size M: 6 layers, 384 wide, about a minute
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def main(arguments=None):
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description=__doc__)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--checkpoints", type=int, default=5)
    options = parser.parse_args(arguments)
    from tfgpt import GPT, make_train_step
    from tfgpt.checkpoints import Checkpoints
    from tfgpt.data.passes import Batches
    from tfgpt.data.token_batches import TokenBatches

    model = GPT(65, 256, options.layers, options.width, options.width // 64)
    step = make_train_step(model, "adamw")
    corpus = np.random.default_rng(0).integers(0, 65, 10**5)
    batches = Batches(TokenBatches(corpus, 256, 8))
    plain = [timed(step, batches)[0] for _ in range(8)][3:]
    waits, beside, writing = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), model, step.optimizer, batches)
        for number in range(1, options.checkpoints + 1):
            start = time.perf_counter()
            checkpoints.save(number)
            waits.append(time.perf_counter() - start)
            beside.append(timed(step, batches)[0])
            checkpoints.wait()
            writing.append(time.perf_counter() - start)
        size = sum(path.stat().st_size for path in Path(folder).glob(f"ckpt-{number}.*"))
    print(f"{model.count_params():,} weights, {size / 1e6:,.0f} MB per checkpoint")
    for name, times in (
        ("a step", plain),
        ("a step waits for the copy", waits),
        ("a step while a checkpoint is written", beside),
        ("from the copy to the whole checkpoint, with that step", writing),
    ):
        print(f"{name:56s}{1000 * np.median(times):8.0f} ms")
    return 0


def timed(step, batches):
    """Do one step; return its seconds and its loss."""
    start = time.perf_counter()
    loss = float(step(batches.take())["loss"])
    return time.perf_counter() - start, loss


if __name__ == "__main__":
    sys.exit(main())
