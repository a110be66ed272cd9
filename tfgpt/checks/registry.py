"""An exercise, its cases, and `check`: shape first, then values, then edges."""

import copy
import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np

from tfgpt.checks.record import remember

EXERCISES = {}  # name -> Exercise; the module of each notebook adds its own


class WrongAnswerError(AssertionError):
    """What playing an answer found wrong; `check` adds the case and its hint."""


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
class Build:
    """What belongs to a part of the learner's own GPT: `tfgpt.checks.use` keeps it.

    Args:
        part: str, the Python name of the part: "MultiHeadAttention".
        difficulty: int, 1 to 5.
        minutes: int, how long it takes.
        know: str, what to know before, as the notebook says it.
        hints: two str, the idea and almost the line.
    """

    part: str
    difficulty: int
    minutes: int
    know: str
    hints: tuple


def call(answer, *inputs):
    """Play an answer that is a function: call it."""
    return answer(*inputs)


@dataclass(frozen=True)
class Exercise:
    """Something to write: what is right, and the cases that show it.

    Args:
        reference: function or class with the right behaviour.
        cases: tuple of Case, easy ones first.
        tolerance: float >= 0, the largest allowed difference.
        notebook: str, its number: "04".
        play: function (answer, *inputs) -> array or None, runs an answer or the
            reference on the inputs of a case.
        build: Build, if the answer is a part of the learner's own GPT, or None.
        mistake: str, the name of the mistake to find in a program, or None.
    """

    reference: object
    cases: tuple
    tolerance: float = 1e-5
    notebook: str = "00"
    play: object = call
    build: Build | None = None
    mistake: str | None = None


def exercises_of(notebook):
    """Return the function that adds an exercise of a notebook: name, reference, cases."""
    return partial(add_exercise, notebook)


def add_exercise(notebook, name, reference, *cases, **settings):
    """Make an exercise known to `check`."""
    EXERCISES[name] = Exercise(reference, cases, notebook=notebook, **settings)


def find_exercise(name):
    """Return the exercise of a name; raise if there is none."""
    if name not in EXERCISES:
        raise KeyError(f"name must be one of {', '.join(sorted(EXERCISES))}, got {name!r}.")
    return EXERCISES[name]


def features(*shape):
    """Make test values of a shape: 0, 1, 2, ... turned into numbers in [-1, 1]."""
    return np.sin(np.arange(np.prod(shape), dtype="float32")).reshape(shape)


def check(name, answer):
    """Check the learner's answer to an exercise, and remember in a file whether it is right.

    Args:
        name: str, a key of EXERCISES.
        answer: function or class to check; as long as it returns None or `...`, the
            exercise counts as empty. An error in it is raised as it is, with the
            case and its hint as a note.

    Returns:
        bool, True if every case is right, False if the exercise is still empty.

    Raises:
        KeyError: if there is no such exercise.
        AssertionError: if a result is wrong; the message names the case, what
            differs and a hint.
    """
    exercise = find_exercise(name)
    try:
        empty = find_empty_case(name, answer)
    except Exception:
        remember(name, "wrong")
        raise
    if empty is not None:
        case, result = empty
        print(
            f"{name}: still empty. It returned {result} in case {case.what!r}: write your "
            "code in place of the `...` line, or is `return` missing?"
        )
        return False
    remember(name, "right")
    print(f"{name}: all {len(exercise.cases)} checks passed.")
    return True


def find_empty_case(name, answer):
    """Return (case, result) of the first empty result, None if all is right; raise if wrong."""
    exercise = find_exercise(name)
    for case in exercise.cases:
        try:
            result = play_quietly(exercise, answer, case)
        except WrongAnswerError as error:
            raise AssertionError(f"{name}, {case.what}: {error} {case.hint}") from None
        except Exception as error:
            error.add_note(f"{name}, {case.what}: your code raised this error. {case.hint}")
            raise
        if result is None or result is Ellipsis:
            return case, result
        expected = exercise.play(exercise.reference, *case.inputs)
        compare(f"{name}, {case.what}", result, expected, case.hint, exercise.tolerance)
    return None


def play_quietly(exercise, answer, case):
    """Run an answer on a case; Keras would warn about half empty layers and single keys."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Copied: the learner may write into them.
        return exercise.play(answer, *copy.deepcopy(case.inputs))


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
        if result.dtype.kind in "USc":  # text of digits would become numbers
            raise TypeError(f"{result.dtype} is text or complex.")
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
