"""Tests of tfgpt.checks: empty, right and wrong answers to the exercises."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from answers_10_to_11 import with_signature
from answers_12_to_19 import remove_first, write_pieces_in_place

from tfgpt import checks
from tfgpt.checks import EXERCISES, Case, Exercise, check, compare, prove_equal
from tfgpt.checks.notebook_18 import after_kill, atomic_write
from tfgpt.checks.registry import call

SOLUTIONS = sorted((Path(__file__).parents[1] / "notebooks" / "solutions").glob("*.ipynb"))


@pytest.fixture(autouse=True)
def folder_of_the_learner(tmp_path, monkeypatch):
    """Keep the files that a check writes out of the repository."""
    monkeypatch.chdir(tmp_path)


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


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] if path.stem[:2] in ("09", "10") else [])
        for path in SOLUTIONS
    ],
    ids=lambda path: path.stem,
)
def test_every_exercise_accepts_the_solution_of_its_notebook(path, capsys):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    names = {"__name__": path.stem}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    printed = capsys.readouterr().out
    for name in re.findall(
        r"\b(?:check|use|find_bug)\(\"([^\"]+)\"",
        path.read_text(encoding="utf-8").replace('\\"', '"'),
    ):
        assert f"{name}: all {len(EXERCISES[name].cases)} checks passed.\n" in printed


FUNCTIONS = [name for name, exercise in EXERCISES.items() if exercise.play is call]


@pytest.mark.parametrize("name", FUNCTIONS)
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
    assert all(case.hint.endswith((".", "?")) for case in cases)


@pytest.mark.parametrize("name", FUNCTIONS)
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
        (lambda x: ["2.0", "4.0"], "double, a list: the result must be one array of numbers"),
        (lambda x: [b"2.0", b"4.0"], "double, a list: the result must be one array of numbers"),
        (lambda x: [2.0 + 1j, 4.0], "double, a list: the result must be one array of numbers"),
        (lambda x: "text", "double, a list: the result must be one array of numbers"),
        (lambda x: [[1.0], [1.0, 2.0]], "double, a list: the result must be one array"),
        (lambda x: {"a": 1}, "double, a list: the result must be one array of numbers"),
        (lambda x: [2.0, 4.0], r"double, edge case: nothing: the shape is \(2,\)"),
    ],
    ids=[
        "shape",
        "dtype",
        "value",
        "NaN",
        "inf",
        "digits",
        "bytes",
        "complex",
        "text",
        "ragged",
        "dict",
        "edge case",
    ],
)
def test_a_wrong_answer_names_the_case_and_ends_with_the_hint(double, answer, message):
    with pytest.raises(AssertionError, match=message) as raised:
        check("double", answer)
    edge = "edge case" in str(raised.value)
    assert str(raised.value).endswith(double.cases[edge].hint)


def test_the_modified_precision_is_that_of_sacrebleu():
    metric = pytest.importorskip("sacrebleu").metrics.BLEU(tokenize="none")
    generator = np.random.default_rng(0)
    for _ in range(20):
        texts = [list(generator.choice(list("abc"), length)) for length in (7, 9)]
        score = metric.corpus_score([" ".join(texts[0])], [[" ".join(texts[1])]])
        for n, count, total in zip(range(1, 5), score.counts, score.totals, strict=True):
            precision = EXERCISES["modified precision"].reference(*texts, n)
            assert precision == pytest.approx(count / total)


def test_the_early_stopping_of_the_exercise_is_that_of_keras():
    import keras

    rule = EXERCISES["early stopping"].reference
    generator = np.random.default_rng(0)
    for _ in range(20):
        losses, patience = generator.random(12).round(1).tolist(), int(generator.integers(1, 5))
        callback = keras.callbacks.EarlyStopping(patience=patience)
        callback.set_model(keras.Sequential())
        callback.model.stop_training = False
        callback.on_train_begin()
        for epoch, loss in enumerate(losses):
            callback.on_epoch_end(epoch, {"val_loss": loss})
            if callback.model.stop_training:
                break
        assert rule(losses, patience) == (epoch, callback.best_epoch)


def test_accept_or_replace_keeps_the_distribution_of_the_model():
    rule = EXERCISES["accept or replace"].reference
    generator = np.random.default_rng(0)
    for _ in range(5):
        p, q = generator.dirichlet(np.ones(6), size=2)
        points = (np.arange(2000) + 0.5) / 2000
        written = sum(
            q[token] * np.mean([rule(p, q, token, point) for point in points], axis=0)
            for token in range(6)
        )
        np.testing.assert_allclose(written, p, atol=1e-3)


def test_the_traces_of_one_check_are_not_counted_in_the_next():
    for _ in range(2):
        assert check("one trace", with_signature)


def test_the_training_flops_are_those_of_the_benchmarks():
    sizes = pytest.importorskip("benchmarks.sizes")
    size = sizes.SIZES["M"]
    flops = EXERCISES["training flops"].reference(
        size.vocab_size, size.num_layers, size.d_model, size.batch, size.length, False
    )
    # The benchmarks also count gains and biases.
    assert flops < size.step_flops < 1.01 * flops


@pytest.mark.parametrize(
    ("write", "state"), [(write_pieces_in_place, 2), (remove_first, 2), (atomic_write, 0)]
)
def test_a_kill_shows_what_is_left_of_a_file(write, state):
    assert after_kill(write, b"old", [b"ne", b"w"], 1) == [state, 1]
    assert after_kill(lambda path, pieces: None, b"old", [b"new"], None) is None


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


def test_an_error_in_the_answer_is_shown_as_it_is_with_the_case_and_its_hint(double):
    with pytest.raises(ZeroDivisionError) as raised:
        check("double", lambda x: 1 / len(x) * np.asarray(x) * 4)
    (note,) = raised.value.__notes__
    assert note.startswith("double, edge case: nothing: ") and "An empty list" in note


def test_an_answer_without_return_names_the_case(double, capsys):
    assert check("double", lambda x: [2.0, 4.0] if x else None) is False
    printed = capsys.readouterr().out
    assert "returned None in case 'edge case: nothing'" in printed and "`return`" in printed


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


def test_a_proof_prints_the_largest_difference_and_refuses_what_differs(capsys):
    prove_equal("near", np.float32([[1, 2]]), [[1, 2 + 1e-6]])
    prove_equal("rows sum to 1", np.ones(3), 1)
    printed = capsys.readouterr().out
    assert printed == "near: largest difference 1.0e-06\nrows sum to 1: equal in every bit\n"
    with pytest.raises(AssertionError, match="far"):
        prove_equal("far", [1.0, 2.0], [1.0, 2.1])
    with pytest.raises(AssertionError, match=r"shapes \(2,\) and \(1, 2\) differ"):
        prove_equal("turned", [1.0, 2.0], [[1.0, 2.0]])
    with pytest.raises(AssertionError, match="not a number"):
        prove_equal("not a number", [np.nan], [1.0])
