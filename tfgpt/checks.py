"""Checks for the exercises of the notebooks: shape first, then values, then edges.

`check("causal mask", my_function)` runs the learner's function on a few inputs
and compares each result with a known answer. It prints one line when all is
right or when the exercise is still empty, and raises AssertionError with a hint
when a result is wrong.
"""

from dataclasses import dataclass

import numpy as np

from tfgpt.attention import masked_softmax
from tfgpt.masks import causal_mask


@dataclass(frozen=True)
class Case:
    """One input of an exercise and the hint that is shown when its result is wrong.

    Args:
        what: str, what the case tests: "a small example", "edge case: one token".
        inputs: tuple of the function's arguments.
        hint: str, where to look.
    """

    what: str
    inputs: tuple
    hint: str


@dataclass(frozen=True)
class Exercise:
    """A function to write: what is right, and the cases that show it.

    Args:
        reference: function with the right behaviour.
        cases: tuple of Case, easy ones first.
        tolerance: float >= 0, the largest allowed difference.
    """

    reference: object
    cases: tuple
    tolerance: float = 1e-5


EXERCISES = {
    "softmax": Exercise(
        lambda scores: masked_softmax(np.asarray(scores, "float32")),
        (
            Case("two equal scores", ([0.0, 0.0],), "Divide by the sum of the exponentials."),
            Case("a matrix", ([[1.0, 2.0], [3.0, 3.0]],), "Sum over the last axis, keepdims=True."),
            Case(
                "edge case: large scores",
                ([1000.0, 1001.0],),
                "exp(1000) overflows: subtract the largest score of the row first.",
            ),
        ),
    ),
    "causal mask": Exercise(
        lambda length: causal_mask(length)[0, 0],
        (
            Case("length 3", (3,), "Row i may see the columns j <= i, so also itself."),
            Case("edge case: length 1", (1,), "One token may see itself."),
        ),
    ),
}


def check(name, answer):
    """Check the learner's function for an exercise.

    Args:
        name: str, a key of EXERCISES.
        answer: function to check; as long as it returns None or `...`, the
            exercise counts as empty.

    Returns:
        bool, True if every case is right, False if the exercise is still empty.

    Raises:
        KeyError: if there is no such exercise.
        AssertionError: if a result is wrong; the message names the case, what
            differs and a hint.
    """
    if name not in EXERCISES:
        raise KeyError(f"name must be one of {', '.join(sorted(EXERCISES))}, got {name!r}.")
    exercise = EXERCISES[name]
    for case in exercise.cases:
        result = answer(*case.inputs)
        if result is None or result is Ellipsis:
            print(f"{name}: still empty. Write your code in place of the `...` line.")
            return False
        expected = exercise.reference(*case.inputs)
        compare(f"{name}, {case.what}", result, expected, case.hint, exercise.tolerance)
    print(f"{name}: all {len(exercise.cases)} checks passed.")
    return True


def compare(what, result, expected, hint, tolerance):
    """Raise unless a result equals the expected array: shape, then dtype, then values.

    Args:
        what: str, names the result in the message.
        result: tensor, array or number.
        expected: tensor, array or number with the right values.
        hint: str, ends the message.
        tolerance: float >= 0, the largest allowed difference.

    Raises:
        AssertionError: if they differ.
    """
    result, expected = np.asarray(result), np.asarray(expected)
    if result.shape != expected.shape:
        raise AssertionError(
            f"{what}: the shape is {result.shape}, expected {expected.shape}. {hint}"
        )
    if (result.dtype == bool) != (expected.dtype == bool):
        raise AssertionError(
            f"{what}: the dtype is {result.dtype}, expected {expected.dtype}. {hint}"
        )
    # NaN compares as False, so it counts as wrong.
    right = np.abs(result.astype("float64") - expected.astype("float64")) <= tolerance
    if not right.all():
        place = tuple(int(index) for index in np.argwhere(~right)[0])
        where = f" at index {list(place)}" if place else ""
        raise AssertionError(
            f"{what}: the value{where} is {result[place]}, expected {expected[place]}. {hint}"
        )
