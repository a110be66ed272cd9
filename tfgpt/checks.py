"""Checks for the exercises of the notebooks: shape first, then values, then edges.

A check prints one line when all is right, and raises AssertionError with a hint
that names what differs when it is not.
"""

import numpy as np


def check_array(name, actual, expected, hint="", tolerance=1e-5):
    """Compare a result with the expected array: shape, then dtype kind, then values.

    Args:
        name: str, what the result is called in the exercise.
        actual: tensor or array to check; None if the exercise is still empty.
        expected: array with the right values.
        hint: str, shown when the values differ.
        tolerance: float >= 0, the largest allowed difference.

    Raises:
        AssertionError: if the result is missing or differs; the message says where.
    """
    assert actual is not None, f"{name} is None: write your code in place of the `...` line."
    assert actual is not Ellipsis, f"{name} is `...`: write your code in its place."
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, (
        f"{name} has shape {actual.shape}, expected {expected.shape}. {hint}"
    )
    assert (actual.dtype == bool) == (expected.dtype == bool), (
        f"{name} has dtype {actual.dtype}, expected {expected.dtype}. {hint}"
    )
    difference = np.abs(actual.astype("float64") - expected.astype("float64"))
    # NaN must fail as well, so the comparison is written this way round.
    wrong = ~(difference <= tolerance)
    if wrong.any():
        place = tuple(int(index) for index in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{name}{list(place)} is {actual[place]}, expected {expected[place]}. {hint}"
        )


def passed(exercise):
    """Print that an exercise is solved.

    Args:
        exercise: str, its name.
    """
    print(f"{exercise}: all checks passed.")
