"""Unusual right answers and wrong answers to all exercises: what `check` says to each."""

from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

from tfgpt.checks import EXERCISES, check
from tfgpt.checks.registry import call

MODULES = [import_module(p.stem) for p in sorted(Path(__file__).parent.glob("answers_*.py"))]
RIGHT = [answer for module in MODULES for answer in module.RIGHT]
WRONG = [answer for module in MODULES for answer in module.WRONG]


@pytest.fixture(autouse=True)
def folder_of_the_learner(tmp_path, monkeypatch):
    """Keep the files that a check writes out of the repository."""
    monkeypatch.chdir(tmp_path)


def numbered(answers):
    """Make an id of each answer: the name of its exercise and a number."""
    found, ids = Counter(), []
    for name, *_ in answers:
        found[name] += 1
        ids.append(f"{name} {found[name]}")
    return ids


def sized(answers, fast):
    """Mark answers that build layers or models as slow, but the first ones of each exercise."""
    found = Counter()
    for values in answers:
        found[values[0]] += 1
        slow = EXERCISES[values[0]].play is not call and found[values[0]] > fast
        yield pytest.param(*values, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize(("name", "answer"), list(sized(RIGHT, fast=0)), ids=numbered(RIGHT))
def test_a_right_answer_in_another_style_passes(name, answer):
    assert check(name, answer)


@pytest.mark.parametrize(
    ("name", "answer", "message"), list(sized(WRONG, fast=1)), ids=numbered(WRONG)
)
def test_a_wrong_answer_is_refused_with_the_case_and_its_hint(name, answer, message):
    with pytest.raises(AssertionError, match=f"^{name}, (?:{message})") as raised:
        check(name, answer)
    case = next(case for case in EXERCISES[name].cases if f", {case.what}: " in str(raised.value))
    assert str(raised.value).endswith(case.hint)


@pytest.mark.parametrize("name", EXERCISES)
def test_each_exercise_has_two_unusual_right_answers_and_three_wrong_ones(name):
    assert sum(answer[0] == name for answer in RIGHT) >= 2
    assert sum(answer[0] == name for answer in WRONG) >= 3
