"""Tests of rules in training: hand-computed losses, exact weights, and what a tiny model learns."""

import itertools

import numpy as np
import pytest

from tfgpt import CharTokenizer, masked_loss
from tfgpt.safety import (
    BannedPhrases,
    example_weights,
    forbidden_after,
    mark_texts,
    rule_targets,
)
from tfgpt.tuning import RuleLoss, unlikelihood_loss


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_unlikelihood_is_the_log_of_what_remains(rng):
    logits = rng.normal(size=(2, 3, 5)).astype("float32")
    targets = np.array([[1, 2, 3], [4, 0, 0]])  # two are padding
    banned = rng.random((2, 3, 5)) < 0.3
    banned[..., 1] = False
    rest = 1 - np.sum(softmax(logits) * banned, axis=-1)  # (B, T)
    expected = -np.log(rest)[targets > 0].mean()
    assert float(unlikelihood_loss(targets, logits, banned)) == pytest.approx(expected, rel=1e-5)
    assert float(unlikelihood_loss(targets, logits, banned & False)) == 0.0
    with pytest.raises(ValueError, match=r"banned must have the shape of logits, \(2, 3, 5\)"):
        unlikelihood_loss(targets, logits, banned[..., :4])


@pytest.mark.requires_tensorflow
def test_a_banned_token_that_is_almost_sure_still_has_a_gradient():
    """1 - p is 0 in float32 there: the formula of the paper gives inf."""
    import tensorflow as tf

    logits = tf.Variable([[[40.0, 0.0, 0.0]]])
    banned = np.array([[[True, False, False]]])
    with tf.GradientTape() as tape:
        loss = unlikelihood_loss(np.array([[1]]), logits, banned)
    assert float(loss) == pytest.approx(40 - np.log(2), rel=1e-4)
    np.testing.assert_allclose(tape.gradient(loss, logits)[0, 0], [1, -0.5, -0.5], atol=1e-5)


def test_the_rule_knows_where_a_phrase_would_be_complete():
    """All texts of five tokens, compared with Python's own search."""
    tokenizer = CharTokenizer.train("abc")
    banned = BannedPhrases(["ab", "bca"], tokenizer)
    texts = ["".join(letters) for letters in itertools.product("abc", repeat=5)]
    rows = np.stack([tokenizer.encode(text) for text in texts])
    pairs = rule_targets(banned, rows[:, :-1], rows[:, 1:])
    np.testing.assert_array_equal(pairs[..., 0], rows[:, 1:])
    forbidden = forbidden_after(banned)[pairs[..., 1]]  # (B, T, V)
    for text, row in zip(texts, forbidden, strict=True):
        for place, letter in itertools.product(range(4), "abc"):
            written = text[: place + 1] + letter
            expected = written.endswith(("ab", "bca"))
            assert row[place, "abc".index(letter) + 1] == expected, written
    with pytest.raises(TypeError, match="banned must be BannedPhrases, got str"):
        rule_targets("ab", rows, rows)
    with pytest.raises(ValueError, match=r"the same shape \(B, T\), got \(2, 3\) and \(2, 2\)"):
        rule_targets(banned, rows[:2, :3], rows[:2, :2])


def test_a_rule_leaves_banned_targets_out_and_adds_its_penalty(rng):
    forbidden = np.array([[False] * 4, [False, False, True, False], [True] * 4])
    targets, states = np.array([[1, 2, 3, 0]]), np.array([[0, 1, 1, 0]])
    logits = rng.normal(size=(1, 4, 4)).astype("float32")
    pairs = np.stack([targets, states], axis=-1)
    p = softmax(logits)[0]
    likelihood = -np.log([p[0, 1], p[2, 3]]).mean()  # not the 2 of state 1, not the padding
    penalty = -np.log([1, 1 - p[1, 2], 1 - p[2, 2]]).mean()
    for weight in (0.0, 2.0):
        loss = RuleLoss(forbidden, weight)
        assert float(loss(pairs, logits)) == pytest.approx(likelihood + weight * penalty, rel=1e-5)
        copy = RuleLoss.from_config(loss.get_config())
        assert float(copy(pairs, logits)) == float(loss(pairs, logits))
    free = RuleLoss(np.zeros((2, 4), bool))  # without a rule: the masked loss
    np.testing.assert_allclose(free(pairs, logits), masked_loss(targets, logits), rtol=1e-6)
    halved = free(pairs, logits, sample_weight=np.array([0.5]))
    np.testing.assert_allclose(halved, 0.5 * masked_loss(targets, logits), rtol=1e-6)
    with pytest.raises(ValueError, match=r"forbidden must be \(S, V\), got shape \(4,\)"):
        RuleLoss(forbidden[0])
    with pytest.raises(ValueError, match="weight must be >= 0, got -1"):
        RuleLoss(forbidden, -1)


def test_weights_by_true_probabilities_give_the_texts_of_the_good_ones():
    """Bayes' rule: weighted by P(good | x), the texts x have the distribution P(x | good)."""
    good, bad = np.array([6, 3, 1]), np.array([0, 2, 8])  # counts of three texts
    texts = np.repeat([0, 1, 2], good + bad)
    weights = example_weights((bad / (good + bad))[texts])
    np.testing.assert_allclose(np.bincount(texts, weights), 2 * good, rtol=1e-6)
    assert weights.mean() == pytest.approx(1)
    for wrong in ([1.2], [[0.5]], [np.nan], [1.0, 1.0]):
        with pytest.raises(ValueError, match="bad_probabilities must be numbers in"):
            example_weights(wrong)


def test_marks_stand_before_the_texts():
    assert mark_texts(["x", "y"], np.array([True, False]), "好", "坏") == ["坏x", "好y"]
    with pytest.raises(ValueError, match="good and bad must be two different texts, got 'a' and"):
        mark_texts(["x"], [True], "a", "a")
    with pytest.raises(ValueError, match="texts and is_bad must have the same length, got 1 and 2"):
        mark_texts(["x"], [True, False], "+", "-")


@pytest.mark.slow
def test_rules_in_training_lower_a_planted_phrase_and_cost_little():
    from benchmarks.rules import BEST, compare_rules

    rows = compare_rules(["plain", "unlikelihood", "control token"], steps=150)
    plain, unlikely, marked = rows["plain"], rows["unlikelihood"], rows["control token"]
    assert plain.phrases > 150  # of 1,000: a quarter of the texts has it
    assert unlikely.phrases <= 5 and marked.phrases < plain.phrases / 2
    assert BEST < unlikely.loss < plain.loss and BEST < marked.loss < plain.loss
