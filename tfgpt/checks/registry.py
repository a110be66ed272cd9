"""An exercise, its cases, and `check`: shape first, then values, then edges."""

import copy
from dataclasses import dataclass

import numpy as np

EXERCISES = {}  # name -> Exercise; the module of each notebook adds its own


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


def add_exercise(name, reference, *cases, tolerance=1e-5):
    """Make an exercise known to `check`."""
    EXERCISES[name] = Exercise(reference, cases, tolerance)


def features(*shape):
    """Make test values of a shape: 0, 1, 2, ... turned into numbers in [-1, 1]."""
    return np.sin(np.arange(np.prod(shape), dtype="float32")).reshape(shape)


def check(name, answer):
    """Check the learner's function for an exercise.

    Args:
        name: str, a key of EXERCISES.
        answer: function to check; as long as it returns None or `...`, the
            exercise counts as empty. An error in it is raised as it is, with the
            case and its hint as a note.

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
        try:
            result = answer(*copy.deepcopy(case.inputs))  # the learner may write into them
        except Exception as error:
            error.add_note(f"{name}, {case.what}: your function raised this error. {case.hint}")
            raise
        if result is None or result is Ellipsis:
            print(
                f"{name}: still empty. It returned {result} in case {case.what!r}: write your "
                "code in place of the `...` line, or is `return` missing?"
            )
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
    try:
        result, expected = np.asarray(result), np.asarray(expected)
        numbers = result.astype("float64")
    except (TypeError, ValueError):
        raise AssertionError(
            f"{what}: the result must be one array of numbers, got {result!r}. {hint}"
        ) from None
    if result.shape != expected.shape:
        raise AssertionError(
            f"{what}: the shape is {result.shape}, expected {expected.shape}. {hint}"
        )
    if (result.dtype == bool) != (expected.dtype == bool):
        raise AssertionError(
            f"{what}: the dtype is {result.dtype}, expected {expected.dtype}. {hint}"
        )
    # NaN compares as False, so it counts as wrong; inf equals inf.
    with np.errstate(invalid="ignore"):
        near = np.abs(numbers - expected.astype("float64")) <= tolerance
    right = near | (result == expected)
    if not right.all():
        place = tuple(int(index) for index in np.argwhere(~right)[0])
        where = f" at index {list(place)}" if place else ""
        raise AssertionError(
            f"{what}: the value{where} is {result[place]}, expected {expected[place]}. {hint}"
        )
