"""Exercises of notebook 11, speed."""

import numpy as np
from keras import ops

from tfgpt.checks.notebook_09 import forward_flops
from tfgpt.checks.registry import Case, exercises_of, features

add_exercise = exercises_of("11")


def paired_ratio(times, baseline_times, warm_up):
    """Find the median of the ratios of paired rounds, without the first rounds."""
    return np.median(np.divide(times, baseline_times)[warm_up:])


class CountedSum:
    """Sum a row, times a rate; and say how often this Python code has run.

    In a trace the count is a constant: it tells which trace a result is from.
    """

    def __init__(self):
        self.runs = 0

    def __call__(self, row, rate):
        """Return a tensor (2,): the sum and the count."""
        self.runs += 1
        return ops.stack([ops.sum(row * rate), ops.convert_to_tensor(self.runs, "float32")])


def run_traced_once(function, rows, rates):
    """Show the results of a `CountedSum` whose code runs once for all calls."""
    return [[np.sum(row) * rate, 1] for row, rate in zip(rows, rates, strict=True)]


def training_flops(vocab_size, num_layers, d_model, batch, length, remat):
    """Count the floating-point operations of the matrix products of one training step."""
    output = forward_flops(vocab_size, 0, d_model, length)
    blocks = forward_flops(vocab_size, num_layers, d_model, length) - output
    # Backward costs two forward passes: gradients of the inputs and of the kernels.
    return batch * ((4 if remat else 3) * blocks + 3 * output)


def decoding_limit(num_weights, batch, bytes_per_weight, peak, bandwidth):
    """Find the most tokens per second that arithmetic and memory allow."""
    computing = 2 * num_weights * batch / peak
    return batch / max(computing, num_weights * bytes_per_weight / bandwidth)


add_exercise(
    "paired ratio",
    paired_ratio,
    Case(
        "three rounds",
        ([3.0, 4.0, 10.0], [1.0, 2.0, 4.0], 0),
        "Divide the two times of each round first; the baseline is below.",
    ),
    Case(
        "a disturbed round",
        ([2.0, 2.0, 20.0], [4.0, 4.0, 4.0], 0),
        "One disturbed round must not decide, so a mean is of no use here.",
    ),
    Case(
        "a warm-up round",
        ([90.0, 2.0, 4.0, 3.0], [1.0, 2.0, 2.0, 2.0], 1),
        "The first warm_up rounds do not count.",
    ),
    Case(
        "edge case: an even number of rounds",
        ([2.0, 3.0], [1.0, 1.0], 0),
        "Of two values in the middle, the median is the mean.",
    ),
)

add_exercise(
    "one trace",
    run_traced_once,
    Case(
        "one length, two rates",
        (CountedSum(), list(features(2, 4)), [0.5, 2.0]),
        "Column 1 says how often the Python code had run. All calls need one "
        "tf.function, and each Python number is traced again.",
    ),
    Case(
        "three lengths",
        (CountedSum(), [features(3), features(5), features(7)], [0.5, 2.0, 0.5]),
        "Column 1 counts the runs of the Python code: another length was traced again.",
    ),
    Case(
        "edge case: an empty row",
        (CountedSum(), [features(2), features(0)], [2.0, 3.0]),
        "The sum of nothing is 0, and no length needs a trace of its own.",
    ),
)

add_exercise(
    "training flops",
    training_flops,
    Case(
        "one token",
        (10, 1, 8, 1, 1, False),
        "Forward: notebook 09. Backward: gradients of the inputs and of the kernels.",
    ),
    Case(
        "16 tokens",
        (10, 2, 8, 1, 16, False),
        "Attention has two products per layer; each token meets all T keys in both.",
    ),
    Case(
        "4 texts",
        (10, 2, 8, 4, 16, False),
        "A token meets the tokens of its own text only, not those of other texts.",
    ),
    Case(
        "with remat",
        (10, 2, 8, 4, 16, True),
        "Only the blocks run forward once more. Their backward pass stays as it is.",
    ),
    Case("edge case: no layer", (10, 0, 8, 4, 16, True), "Without blocks remat changes nothing."),
    tolerance=0.5,  # whole numbers, also from a product with 4 / 3
)

add_exercise(
    "decoding limit",
    decoding_limit,
    Case(
        "one text",
        (100, 1, 4, 1000.0, 80.0),
        "Here reading takes longer than computing. They go on at the same time.",
    ),
    Case(
        "10 texts",
        (100, 10, 4, 1000.0, 80.0),
        "The weights are read once per step, for all texts. A step writes 10 tokens.",
    ),
    Case(
        "50 texts",
        (100, 50, 4, 1000.0, 80.0),
        "Here arithmetic is the limit: two operations per weight and text.",
    ),
    Case(
        "16 bits",
        (100, 10, 2, 1000.0, 80.0),
        "A weight has two bytes now: both limits are nearer to each other.",
    ),
    Case(
        "edge case: both limits at once",
        (100, 25, 4, 1000.0, 80.0),
        "Both take equally long, so either one gives the answer.",
    ),
)
