"""Find the bug: a program with one silent mistake, to name and to mend."""

from tfgpt.checks.record import remember
from tfgpt.checks.registry import check, find_empty_case, find_exercise

MISTAKES = (
    "mask upside down",
    "no mask",
    "no shift",
    "shift by two",
    "heads too wide",
    "query and key exchanged",
    "scores not divided",
    "softmax over the wrong axis",
    "loss counts padding",
    "loss is a sum",
)


def find_bug(name, broken, mended, mistake):
    """Check that a program was wrong, is mended, and that its mistake has the right name.

    Args:
        name: str, an exercise that has a mistake to find.
        broken: function, the program as it was given.
        mended: function, the learner's repair; None as long as it is empty.
        mistake: str, one of MISTAKES.

    Returns:
        bool, True if all is right, False if the exercise is still empty.

    Raises:
        KeyError: if there is no such exercise.
        ValueError: if the exercise has no mistake to find.
        AssertionError: if the broken program passes, is empty or raises, the mended one
            fails, or the mistake has another name.
    """
    if find_exercise(name).mistake is None:
        raise ValueError(f"name must be an exercise with a mistake to find, got {name!r}.")
    check_broken(name, broken)
    if mistake != find_exercise(name).mistake and passes(name, mended):
        remember(name, "wrong")
        raise AssertionError(
            f"{name}: mended, but the mistake is not {mistake!r}. Which of these is it? "
            f"{', '.join(MISTAKES)}."
        )
    if not check(name, mended):
        return False
    print(f"{name}: {mistake}. The broken program fails, yours passes.")
    return True


def check_broken(name, broken):
    """Raise unless a program runs and gives a wrong result."""
    try:
        found = "passes" if find_empty_case(name, broken) is None else "is empty"
    except AssertionError:
        return
    except Exception as error:  # of the program, or there is none
        found = f"raised {type(error).__name__}: {error}"
    raise AssertionError(
        f"{name}: the broken program {found}. Leave it as it was given, and mend the copy."
    )


def passes(name, program):
    """Say whether a program is right in all cases of an exercise."""
    try:
        return find_empty_case(name, program) is None
    except Exception:  # of the program
        return False
