"""Exercises of notebook 18, training at scale."""

import contextlib
import os
import tempfile
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np

from tfgpt.checks.registry import Case, exercises_of, features

add_exercise = exercises_of("18")

DAY = 86400


def place_in_data(steps, batch_sizes, examples):
    """Say which pass a training is in, and how many examples of it are read."""
    return np.divmod(np.dot(steps, batch_sizes), examples)


def feistel(places, bits, keys):
    """Shuffle numbers of 2 x bits bits: one round for each key."""
    left, right = places >> bits, places & (2**bits - 1)
    for key in keys:
        left, right = right, left ^ (mix(right, key) & (2**bits - 1))
    return left << bits | right


def mix(right, key):
    """Turn one half of a number into bits that look random."""
    return (right + key) * 40503 >> 7


class Killed(BaseException):
    """End a write in the middle, as a kill does."""


def after_kill(write, old, pieces, moment):
    """Let a function replace a file, kill it on the way, and look at what is left.

    Args:
        write: function (path, pieces of bytes).
        old: bytes of the file before; None: there is no file.
        pieces: list of bytes, the new file.
        moment: int, how many pieces are handed out before the kill; None: no kill.

    Returns:
        list of two int. First: 0, the file is as before; 1, it is the new one; 2, neither.
        Second: 1 if all bytes were on the disk before the name changed, or after a kill.
        None if the function did nothing.
    """
    new, started, synced = b"".join(pieces), [], []
    fsync = os.fsync

    def hand_out():
        for number, piece in enumerate([*pieces, None]):
            started.append(number)
            if number == moment:
                raise Killed
            if piece is not None:
                yield piece

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        if old is not None:
            path.write_bytes(old)

        def found():
            return path.read_bytes() if path.exists() else None

        def watched(descriptor):
            fsync(descriptor)
            synced.append(os.fstat(descriptor).st_size == len(new) and found() == old)

        with mock.patch("os.fsync", watched), contextlib.suppress(Killed):
            write(path, hand_out())
        state = 0 if found() == old else 1 if found() == new else 2
    return [state, int(moment is not None or any(synced))] if started else None


def atomic_write(path, pieces):
    """Write a file beside, bring it to the disk, and give it the name at the end."""
    part = path.with_name(f"{path.name}.part")
    with open(part, "wb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def loss_of_replicas(losses, tokens):
    """Combine the mean losses of replicas, each by its real tokens."""
    return np.dot(losses, tokens) / max(np.sum(tokens), 1)


def partial_outputs(x, expand, bias, contract, devices):
    """Compute what each device adds to the output of a feed-forward layer."""
    columns = np.split(expand, devices, axis=1), np.split(bias, devices)
    parts = zip(*columns, np.split(contract, devices), strict=True)
    return np.stack([np.maximum(x @ w + b, 0) @ v for w, b, v in parts])


def training_bytes(num_weights, mixed, devices):
    """Count the bytes of weights, gradients and Adam on one of the devices."""
    return num_weights * (16 / devices + 2 * mixed)


def training_days(num_weights, tokens, devices, peak, mfu):
    """Find how long a training takes: 6 N D operations."""
    return 6 * num_weights * tokens / (devices * peak * mfu * DAY)


def best_split(flops, A, alpha, B, beta):  # noqa: N803
    """Find log10 of the weights and tokens with the lowest loss for 6 N D = flops."""
    log_ratio = np.log10(alpha * A / (beta * B)) / (alpha + beta)
    budget = np.log10(flops / 6)
    size = log_ratio + budget * beta / (alpha + beta)
    return np.array([size, budget - size])


add_exercise(
    "place in the data",
    place_in_data,
    Case("one batch size", ([100], [16], 1000), "100 steps of 16 read 1,600 examples."),
    Case(
        "two batch sizes",
        ([100, 50], [16, 32], 1000),
        "Count examples, not steps: add up steps x batch size of each part.",
    ),
    Case("edge case: just one pass", ([125], [8], 1000), "The next example begins pass 1."),
)

add_exercise(
    "feistel",
    feistel,
    Case(
        "one round",
        (np.arange(16), 2, [5]),
        "The new left half is the old right; the new right is left ^ (mix(right, key) & mask).",
    ),
    Case(
        "four rounds",
        (np.arange(64), 3, [11, 7, 90, 3]),
        "The result of a round is the input of the next; mask = 2 ** bits - 1.",
    ),
    Case("edge case: no key", (np.arange(16), 2, []), "Without a round nothing moves."),
)

add_exercise(
    "atomic write",
    partial(after_kill, atomic_write),
    Case(
        "no kill",
        (b"old", [b"ne", b"w"], None),
        "The first number must be 1 (the new file). The second is 1 if os.fsync, after "
        "file.flush(), came before os.replace.",
    ),
    Case(
        "a kill between two pieces",
        (b"old", [b"ne", b"w"], 1),
        "0: as before; 2: the file is torn. Write to another name in the same folder.",
    ),
    Case("a kill behind the last piece", (b"old", [b"ne", b"w"], 2), "The rename comes last."),
    Case("edge case: no file before", (None, [b"new"], None), "os.replace needs no old file."),
)

add_exercise(
    "loss of replicas",
    loss_of_replicas,
    Case("equal tokens", ([2.0, 4.0], [10, 10]), "Here it is the mean."),
    Case("uneven padding", ([2.0, 4.0], [30, 10]), "Weight each loss by its tokens."),
    Case("edge case: padding only", ([0.0, 0.0], [0, 0]), "Divide by max(tokens, 1): no NaN."),
)

WEIGHTS = features(4, 8), features(8), features(8, 4)[::-1]

add_exercise(
    "split feed-forward",
    partial_outputs,
    Case(
        "two devices",
        (features(3, 4), *WEIGHTS, 2),
        "Device 0: the first half of the columns of expand and of bias, ReLU, then the first "
        "half of the rows of contract.",
    ),
    Case("four devices", (features(3, 4), *WEIGHTS, 4), "np.split(..., devices, axis=...)."),
    Case("edge case: one device", (features(3, 4), *WEIGHTS, 1), "The whole layer: (1, T, D)."),
)

add_exercise(
    "training bytes",
    training_bytes,
    Case("float32", (10, False, 1), "4 weight, 4 gradient, 8 Adam: two moments."),
    Case("mixed precision", (10, True, 1), "The float32 weights stay; 2 bytes for a copy."),
    Case("shared", (64, True, 8), "The 16 bytes are shared, the copy is not."),
    Case("edge case: as many devices as weights", (4, False, 4), "16 bytes each."),
)

add_exercise(
    "training days",
    training_days,
    Case("one device", (1e9, 2e10, 1, 1e15, 1.0), "6 N D operations; a day has 86,400 s."),
    Case("half its peak", (1e9, 2e10, 1, 1e15, 0.5), "Half as fast takes twice as long."),
    Case("edge case: many devices", (1e9, 2e10, 1000, 1e15, 0.5), "They share the work."),
)

add_exercise(
    "compute budget",
    best_split,
    Case(
        "equal terms",
        (6e12, 8.0, 0.5, 8.0, 0.5),
        "Then N = D = sqrt(flops / 6). Return log10 of both.",
    ),
    Case(
        "data matter more",
        (6e12, 8.0, 0.5, 80.0, 0.5),
        "Where N is best, alpha A / N^alpha = beta B / n^beta.",
    ),
    Case(
        "edge case: another exponent",
        (6e15, 30.0, 0.4, 500.0, 0.6),
        "N grows with the power beta / (alpha + beta) of the budget.",
    ),
    tolerance=1e-3,
)
