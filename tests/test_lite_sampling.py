"""The samplers in NumPy choose as those of the compiled loop do."""

import numpy as np
import pytest

from tfgpt.generation.samplers import adjust_logits, make_samplers
from tfgpt.generation.samplers import draw as draw_in_graph
from tfgpt.serving.lite_sampling import Sampling, adjust, choose_token, draw, softmax

SETTINGS = [
    {},
    {"temperature": 0.7},
    {"top_k": 3},
    {"top_k": 1000},
    {"top_p": 0.6},
    {"top_p": 1.0},
    {"top_p": 1e-9},
    {"min_p": 0.2},
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"temperature": 1.3, "top_k": 9, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 0.8},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_logits_equal_those_of_the_samplers_for_keras(settings, rng):
    text = np.array([3, 1, 2, 3, 1], "int32")
    logits = rng.normal(0, 3, (20, 30)).astype("float32")
    logits[:, 4] = -np.inf
    texts = np.repeat(text[None], 20, axis=0)
    expected = np.array(adjust_logits(make_samplers(**settings), logits, texts, len(text)))
    found = np.stack([adjust(Sampling(**settings), row, text) for row in logits])
    assert np.array_equal(np.isneginf(found), np.isneginf(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_of_equal_tokens_at_the_border_the_first_are_kept():
    logits = np.array([1, 2, 1, 1, 0], "float32")
    assert np.isfinite(adjust(Sampling(top_k=3), logits, [])).tolist() == [1, 1, 1, 0, 0]
    halves = np.log(np.array([0.25, 0.25, 0.25, 0.25], "float32"))
    assert np.isfinite(adjust(Sampling(top_p=0.5), halves, [])).tolist() == [1, 1, 0, 0]


def test_a_point_picks_the_token_that_the_compiled_loop_picks(rng):
    logits = rng.normal(0, 2, (200, 40)).astype("float32")
    logits[rng.random(logits.shape) < 0.2] = -np.inf
    probabilities = np.stack([softmax(row) for row in logits])
    points = rng.random(200, dtype="float32")
    expected = np.array(draw_in_graph(probabilities, points))
    found = [draw(row, point) for row, point in zip(probabilities, points, strict=True)]
    assert found == expected.tolist()


def test_points_beyond_the_last_limit_pick_the_last_possible_token():
    assert draw(np.array([0.5, 0.5, 0.0], "float32"), 1.0) == 1
    assert draw(np.array([0.0, 1.0], "float32"), 0.0) == 1


def test_tokens_are_drawn_as_often_as_their_probabilities_say():
    """Chi-square with 3 degrees of freedom is above 16.27 once in 1,000 times."""
    probabilities = np.array([0.5, 0.25, 0.15, 0.1])
    logits, count = np.log(probabilities).astype("float32"), 4000
    points = np.random.default_rng(5).random(count, dtype="float32")
    drawn = [choose_token(Sampling(), logits, [], point) for point in points]
    seen, expected = np.bincount(drawn, minlength=4), count * probabilities
    assert ((seen - expected) ** 2 / expected).sum() < 16.27


@pytest.mark.parametrize("wrong", [[np.nan, 1.0], [np.inf, 1.0], [-np.inf, -np.inf]])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_leave_no_token_give_minus_one(wrong, temperature):
    logits = np.array(wrong, "float32")
    assert choose_token(Sampling(temperature), logits, [], 0.5) == -1


def test_settings_outside_their_range_are_told():
    with pytest.raises(ValueError, match=r"top_p must be in \(0, 1\], got 0"):
        Sampling(top_p=0)
    with pytest.raises(ValueError, match="temperature must be >= 0 and finite, got -1"):
        Sampling(-1)
