"""Exercises of notebook 19, from Keras to a phone."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of, features

add_exercise = exercises_of("19")


def row_scales(x, bits):
    """Find the scales (R, 1) with which rows (R, C) fit into whole numbers of some bits."""
    largest = np.abs(x).max(axis=1, keepdims=True)
    return np.where(largest == 0, 1.0, largest / (2 ** (bits - 1) - 1))


def integer_product(x, q, scales):
    """Multiply rows that are rounded now with rows that were: (T, C), (R, C) -> (T, R)."""
    token_scales = row_scales(x, 8)
    p = np.round(x / token_scales).astype("int32")
    return token_scales * (p @ q.astype("int32").T) * scales.T


def pack(numbers):
    """Put two numbers from -8 to 7 into each byte, the first into the low four bits."""
    padded = np.append(numbers, [0] * (len(numbers) % 2)).astype(int) % 16
    return (padded[::2] + 16 * padded[1::2]).astype("uint8")


def latency(events):
    """Return the time to the first token and the mean time between tokens."""
    times = [seconds for seconds, line in events if line.startswith("data: {")]
    return [times[0], (times[-1] - times[0]) / max(len(times) - 1, 1)]


add_exercise(
    "row scales",
    row_scales,
    Case("two rows in 8 bits", (features(2, 4), 8), "The largest |x| of a row becomes 127."),
    Case(
        "the largest number is negative, in 4 bits",
        (np.array([[0.5, -2.0], [-7.0, 1.0]]), 4),
        "4 bits count to 7; the sign of the largest number does not matter.",
    ),
    Case(
        "edge case: a row of zeros",
        (np.array([[0.0, 0.0], [0.0, 1.27]]), 8),
        "A row of zeros has the scale 1.",
    ),
)

add_exercise(
    "integer product",
    integer_product,
    Case(
        "two tokens, three rows",
        (features(2, 4), (100 * features(3, 4)).astype("int8"), np.array([[0.1], [0.2], [0.3]])),
        "Round each token with its own scale, multiply, and undo both scales.",
    ),
    Case(
        "sums that do not fit into 16 bits",
        (np.ones((1, 400)), np.full((2, 400), 127, "int8"), np.array([[0.01], [0.02]])),
        "Cast to int32 before the product: int8 and int16 overflow silently.",
    ),
    Case(
        "tokens of very different size",
        (np.array([[1e-3, 2e-3], [50.0, -3.0]]), np.array([[3, -4]], "int8"), np.array([[0.5]])),
        "One scale per token, not one for all.",
    ),
    Case(
        "edge case: a token of zeros",
        (np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([[3, -4]], "int8"), np.array([[0.5]])),
        "The scale of zeros is 1: 0 / 0 is NaN.",
    ),
)

add_exercise(
    "two numbers in a byte",
    pack,
    Case("two numbers", (np.array([3, 5]),), "3 + 16 * 5: the first number is in the low bits."),
    Case(
        "negative numbers",
        (np.array([-1, 7, -8, 0, 2, -3]),),
        "A negative number is stored as number + 16.",
    ),
    Case("edge case: an odd number of them", (np.array([-2, 1, 4]),), "The last pair has a 0."),
    tolerance=0.0,
)

add_exercise(
    "latency",
    latency,
    Case(
        "three tokens",
        ([(0.5, 'data: {"a": 1}'), (0.6, 'data: {"a": 2}'), (0.9, 'data: {"a": 3}')],),
        "The first is at 0.5; two steps take 0.4.",
    ),
    Case(
        "other lines between",
        (
            [
                (0.1, ""),
                (0.2, ": hello"),
                (0.3, "data: {}"),
                (0.5, "data: {}"),
                (0.9, "data: [DONE]"),
            ],
        ),
        "Only lines that begin with 'data: {' are tokens.",
    ),
    Case(
        "edge case: one token",
        ([(0.3, "data: {}"), (0.4, "data: [DONE]")],),
        "With one token there is no time between tokens: 0.",
    ),
)
