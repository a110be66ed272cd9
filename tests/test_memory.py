"""Tests of self-check and memorisation: known orders, and tiny models whose truth is known."""

import keras
import numpy as np
import pytest

from tfgpt import GPT, CharTokenizer, LanguageModel, MaskedLoss
from tfgpt.safety import (
    Canary,
    NearDuplicates,
    abstention_curve,
    agreement,
    check_itself,
    exposure,
    fill_forms,
    plant,
)
from tfgpt.tasks.language_model import TextScore

LETTERS = "abcdefghij"
FORM = "\ncode ######"


def trained(text, lines, steps, d_model=48, seed=0):
    """Train a tiny character model on lines of one length; return it as a LanguageModel."""
    keras.utils.set_random_seed(seed)
    tokenizer = CharTokenizer.train(text)
    rows = np.stack([tokenizer.encode(line) for line in lines])
    sizes = {"num_layers": 2, "d_model": d_model, "num_heads": 4, "pad_id": 0}
    model = GPT(tokenizer.vocab_size, rows.shape[1], **sizes)
    model.compile(keras.optimizers.Adam(4e-3), loss=MaskedLoss())
    batches = np.random.default_rng(seed).integers(0, len(rows), (steps * 32,))
    model.fit(rows[batches, :-1], rows[batches, 1:], batch_size=32, verbose=0, shuffle=False)
    return LanguageModel(model, tokenizer)


class Scores:
    """A stand-in for a model that scores texts by a table."""

    def __init__(self, **table):
        self.table = table

    def score(self, texts):
        return [TextScore(self.table[text], 1, 1) for text in texts]


def test_exposure_is_the_rank_in_bits():
    model = Scores(a=-1.0, b=-2.0, c=-3.0, d=-3.0)
    assert exposure(model, "a", ["b", "c", "d"]) == 2.0  # the first of four
    assert exposure(model, "b", ["a", "c", "d"]) == 1.0
    assert exposure(model, "c", ["a", "b", "d"]) == 0.0  # equal scores count against it
    for others in ([], ["a"]):
        with pytest.raises(ValueError, match="others must be texts beside the canary"):
            exposure(model, "a", others)


def test_forms_are_filled_and_planted_as_often_as_asked():
    filled = fill_forms("c #-#", "ab", 4)
    assert sorted(filled) == ["c a-a", "c a-b", "c b-a", "c b-b"]
    with pytest.raises(ValueError, match="form must have places # for 5 different fillings"):
        fill_forms("c #-#", "ab", 5)
    texts = plant(list("12345"), [Canary("x", 3), Canary("y", 1)], seed=2)
    assert [text for text in texts if text.isdigit()] == list("12345")
    assert texts.count("x") == 3 and texts.count("y") == 1


@pytest.mark.slow
def test_a_canary_is_exposed_by_repetition_and_hidden_by_deduplication():
    pytest.importorskip("datasketch")
    fillings = fill_forms(FORM, LETTERS, 808, seed=1)
    canaries = [Canary(text, 30) for text in fillings[:4]]
    never, others = fillings[4:8], fillings[8:508]
    texts = plant(fillings[508:], canaries)  # 300 other codes, once each
    seen = NearDuplicates(2**20)
    unique = [text for text in texts if not seen.add(text)]
    assert len(texts) == 420 and 290 < len(unique) <= 304

    def exposures(model, fillings):
        return [exposure(model, text, others) for text in fillings]

    repeated = trained(FORM + LETTERS, texts, steps=120)
    cleaned = trained(FORM + LETTERS, unique, steps=120)
    before, after = (exposures(model, fillings[:4]) for model in (repeated, cleaned))
    assert min(before) > 6.9  # the first four of 501 and more; at most 8.97 bits
    assert np.mean(after) < np.mean(before) - 3
    assert np.mean(exposures(repeated, never)) < 4


def test_the_curve_of_risk_is_that_of_hand():
    curve = abstention_curve([3, 1, 2, 0], [True, False, False, True])
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk.tolist() == [0, 0.5, 2 / 3, 0.5]
    assert curve.area == pytest.approx((0 + 0.5 + 2 / 3 + 0.5) / 4)
    assert curve.coverage_at(0.0) == 0.25 and curve.coverage_at(0.5) == 1.0
    assert abstention_curve([1, 2], [False, False]).coverage_at(0.5) == 0.0


def test_equal_confidences_give_the_mean_risk_in_any_order(rng):
    is_right = np.array([True] * 30 + [False] * 20)
    np.testing.assert_allclose(abstention_curve(np.ones(50), is_right).risk, 0.4)
    confidences = rng.integers(0, 4, 50)
    order = rng.permutation(50)
    first = abstention_curve(confidences, is_right)
    second = abstention_curve(confidences[order], is_right[order])
    np.testing.assert_allclose(first.risk, second.risk)


def test_agreement_is_the_mean_over_pairs():
    assert agreement(["a b", "A B ", "a b"]) == 1.0
    assert agreement(["xyz", "abc"]) == 0.0
    with pytest.raises(ValueError, match="texts must be at least two, got 1"):
        agreement(["a"])


@pytest.mark.parametrize(
    ("confidences", "is_right", "message"),
    [
        ([1.0], [True, False], r"same shape \(n,\).*\(1,\) and \(2,\)"),
        ([], [], "n >= 1"),
        ([float("nan")], [True], "got NaN"),
    ],
)
def test_a_curve_of_nothing_is_named(confidences, is_right, message):
    with pytest.raises(ValueError, match=message):
        abstention_curve(confidences, is_right)


@pytest.mark.slow
def test_a_model_is_less_sure_of_what_it_cannot_know():
    """Half of the questions have one answer in training, the other half a random one each time."""
    rng = np.random.default_rng(0)
    questions = [first + second for first in LETTERS for second in LETTERS][:40]
    answers = ["".join(rng.choice(list(LETTERS), 3)) for _ in questions]
    lines = []
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        for _ in range(12):
            shown = answer if number % 2 else "".join(rng.choice(list(LETTERS), 3))
            lines.append(f"\n{question}={shown}")
    model = trained("\n=" + LETTERS, lines, steps=300)
    prompts = [f"\n{question}=" for question in questions]
    checks = check_itself(model, prompts, 3, num_samples=6, seed=0)
    is_right = [check.answer == answer for check, answer in zip(checks, answers, strict=True)]
    assert 8 <= sum(is_right) <= 24
    # Between an order by the truth and an order by chance.
    best, chance = abstention_curve(is_right, is_right).area, 1 - np.mean(is_right)
    for name in ("agreement", "log_probability"):
        area = abstention_curve([getattr(check, name) for check in checks], is_right).area
        assert area < best + 0.4 * (chance - best), (name, area, best, chance)
