"""Tests of tfgpt.checks: empty, right and wrong answers to the exercises."""

import numpy as np
import pytest

from tfgpt import checks
from tfgpt.checks import EXERCISES, Case, Exercise, check, compare


@pytest.fixture
def double(monkeypatch):
    """An exercise to test with: twice a list."""
    exercise = Exercise(
        lambda x: np.asarray(x) * 2.0,
        (
            Case("a list", ([1.0, 2.0],), "Multiply by 2."),
            Case("edge case: nothing", ([],), "An empty list stays empty."),
        ),
        tolerance=1e-3,
    )
    monkeypatch.setitem(checks.EXERCISES, "double", exercise)
    return exercise


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_accepts_its_own_reference(name, capsys):
    assert check(name, EXERCISES[name].reference) is True
    assert capsys.readouterr().out == f"{name}: all {len(EXERCISES[name].cases)} checks passed.\n"


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_refuses_wrong_shapes_and_values_with_its_hint(name):
    exercise = EXERCISES[name]
    first = exercise.cases[0]

    def wrong_value(*inputs):
        result = np.asarray(exercise.reference(*inputs))
        return ~result if result.dtype == bool else result + 1

    def wrong_shape(*inputs):
        return np.asarray(exercise.reference(*inputs))[None]

    for answer in (wrong_value, wrong_shape):
        with pytest.raises(AssertionError) as raised:
            check(name, answer)
        message = str(raised.value)
        assert message.startswith(f"{name}, {first.what}: ") and message.endswith(first.hint)


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_has_an_edge_case_and_a_hint_for_each_case(name):
    cases = EXERCISES[name].cases
    assert len(cases) >= 2
    assert any(case.what.startswith("edge case") for case in cases)
    assert all(case.hint.endswith(".") for case in cases)


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("answer", [None, ...])
def test_a_stub_is_still_empty_and_no_error(name, answer, capsys):
    assert check(name, lambda *inputs: answer) is False
    printed = capsys.readouterr().out
    assert printed.startswith(f"{name}: still empty.") and "passed" not in printed


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: [[2.0, 4.0]], r"double, a list: the shape is \(1, 2\), expected \(2,\)"),
        (lambda x: [True, True], "double, a list: the dtype is bool, expected float64"),
        (lambda x: [2.0, 5.0], r"double, a list: the value at index \[1\] is 5.0, expected 4.0"),
        (lambda x: [2.0, np.nan], r"double, a list: the value at index \[1\] is nan"),
        (lambda x: [np.inf, 4.0], r"double, a list: the value at index \[0\] is inf"),
        (lambda x: "text", "double, a list: the result must be one array of numbers"),
        (lambda x: [[1.0], [1.0, 2.0]], "double, a list: the result must be one array"),
        (lambda x: {"a": 1}, "double, a list: the result must be one array of numbers"),
        (lambda x: [2.0, 4.0], r"double, edge case: nothing: the shape is \(2,\)"),
    ],
    ids=["shape", "dtype", "value", "NaN", "inf", "text", "ragged", "dict", "edge case"],
)
def test_a_wrong_answer_names_the_case_and_ends_with_the_hint(double, answer, message):
    with pytest.raises(AssertionError, match=message) as raised:
        check("double", answer)
    edge = "edge case" in str(raised.value)
    assert str(raised.value).endswith(double.cases[edge].hint)


def my_beam_step(log_probs, totals):
    """The solution of notebook 07."""
    best = np.argsort(-(totals[:, None] + log_probs).ravel())[: len(totals)]
    return best // log_probs.shape[1], best % log_probs.shape[1]


def best_of_each_beam(log_probs, totals):
    """Forget that two winners may continue one beam."""
    tokens = log_probs.argmax(axis=1)
    order = np.argsort(-(totals + log_probs.max(axis=1)))
    return order, tokens[order]


def without_totals(log_probs, totals):
    return my_beam_step(log_probs, 0 * totals)


def worst_first(log_probs, totals):
    return [part[::-1] for part in my_beam_step(log_probs, totals)]


def pairs_of_beams(log_probs, totals):
    return np.transpose(my_beam_step(log_probs, totals))


def runs(words, n):
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def without_clipping(hypothesis, reference, n):
    known = runs(reference, n)
    return np.mean([run in known for run in runs(hypothesis, n)])


def recall(hypothesis, reference, n):
    return EXERCISES["modified precision"].reference(reference, hypothesis, n)


def single_words_only(hypothesis, reference, n):
    return EXERCISES["modified precision"].reference(hypothesis, reference, 1)


def without_an_edge_case(hypothesis, reference, n):
    found = runs(hypothesis, n)
    right = EXERCISES["modified precision"].reference(hypothesis, reference, n) * len(found)
    return np.float64(right) / len(found) if found else np.nan


def with_equal_places(places):
    return sum(a >= b for i, a in enumerate(places) for b in places[i + 1 :])


def only_neighbours(places):
    return int((np.diff(places) < 0).sum())


@pytest.mark.parametrize(
    ("name", "answer", "message"),
    [
        ("length penalty", lambda n, alpha: 5 + n / 6, "alpha 1: the value is 6.1"),
        ("length penalty", lambda n, alpha: (5 + n) / 6, "alpha 0.6: the value is 4.1"),
        ("length penalty", lambda n, alpha: (5 + n) ** alpha / 6, "alpha 0.6: .*whole fraction"),
        ("beam step", lambda log_probs, totals: [0] * len(totals), "one beam: the shape is"),
        ("beam step", best_of_each_beam, "both winners continue one beam: .*not one of each"),
        ("beam step", pairs_of_beams, r"one beam: the shape is \(1, 2\), expected \(2, 1\)"),
        ("beam step", without_totals, "both winners continue one beam: .*Add the totals"),
        ("beam step", worst_first, "both winners continue one beam: the value"),
        ("modified precision", recall, "single words: .*not in the reference"),
        ("modified precision", without_clipping, "a repeated word: the value is 1.0, .*only two"),
        ("modified precision", single_words_only, "pairs of words: .*side by side"),
        ("modified precision", without_an_edge_case, "edge case: fewer than n words: .* is nan"),
        ("crossings", only_neighbours, "the reverse order: the value is 3, expected 6"),
        ("crossings", with_equal_places, "equal places: the value is 3, expected 2"),
    ],
)
def test_a_typical_mistake_in_translation_gets_its_hint(name, answer, message):
    with pytest.raises(AssertionError, match=f"^{name}, {message}"):
        check(name, answer)


def test_the_beam_step_of_the_solution_is_right():
    assert check("beam step", my_beam_step)


def test_the_modified_precision_is_that_of_sacrebleu():
    metric = pytest.importorskip("sacrebleu").metrics.BLEU(tokenize="none")
    generator = np.random.default_rng(0)
    for _ in range(20):
        texts = [list(generator.choice(list("abc"), length)) for length in (7, 9)]
        score = metric.corpus_score([" ".join(texts[0])], [[" ".join(texts[1])]])
        for n, count, total in zip(range(1, 5), score.counts, score.totals, strict=True):
            precision = EXERCISES["modified precision"].reference(*texts, n)
            assert precision == pytest.approx(count / total)


def test_small_differences_are_allowed_up_to_the_tolerance(double):
    assert check("double", lambda x: np.asarray(x) * 2.0 + 0.9e-3)
    with pytest.raises(AssertionError, match="the value"):
        check("double", lambda x: np.asarray(x) * 2.0 + 1.1e-3)


def test_lists_integers_and_tensors_are_right_answers_too(double):
    from keras import ops

    assert check("double", lambda x: [int(value) * 2 for value in x])
    assert check("double", lambda x: ops.convert_to_tensor(x, "float32") * 2)


def test_an_answer_that_writes_into_its_inputs_spoils_nothing(double):
    def writes(x):
        result = [2 * value for value in x]
        x.clear()
        return result

    assert check("double", writes) and check("double", writes)


def test_an_error_in_the_answer_is_shown_as_it_is(double):
    with pytest.raises(ZeroDivisionError):
        check("double", lambda x: 1 / 0)


def test_an_unknown_exercise_lists_the_known_ones():
    with pytest.raises(KeyError, match="causal mask.*softmax.*got 'softmaxx'"):
        check("softmaxx", lambda: None)


def test_a_number_is_compared_without_an_index():
    with pytest.raises(AssertionError, match="loss: the value is 2.0, expected 1.0. Hint."):
        compare("loss", 2.0, 1.0, "Hint.", 0.1)
    compare("loss", 1.05, 1.0, "Hint.", 0.1)


def test_infinite_values_may_be_expected():
    scores = np.array([1.0, -np.inf])
    compare("scores", scores, scores, "Hint.", 1e-5)
    with pytest.raises(AssertionError, match=r"index \[1\]"):
        compare("scores", -scores, scores * [-1, 1], "Hint.", 1e-5)
