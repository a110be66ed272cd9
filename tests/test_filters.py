"""Tests of the output filter: the chosen rate of false alarms holds, and is used up."""

import numpy as np
import pytest

from tfgpt.safety import OutputFilter, highest_rate, threshold_for
from tfgpt.safety.filters import at_most


def test_the_true_rate_of_false_alarms_exceeds_the_chosen_one_as_seldom_as_promised(rng):
    """The scores are uniform, so that the true rate of a threshold t is 1 - t."""
    rate, confidence = 0.1, 0.9
    thresholds = [threshold_for(rng.random(150), rate, confidence) for _ in range(2000)]
    true_rates = 1 - np.array(thresholds)
    share = (true_rates > rate).mean()
    # k is an integer: the exact probability is a little below 10 %, and is computed here.
    allowed = max(k for k in range(20) if at_most(k, 150, rate) <= 1 - confidence)
    exact = at_most(allowed, 150, rate)
    assert exact <= 0.1 and share == pytest.approx(exact, abs=0.02)
    assert true_rates.mean() > rate / 2


def test_binomial_bounds_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for total in (5, 60, 1000):
        for count in (0, 1, total // 2, total - 1):
            assert at_most(count, total, 0.3) == pytest.approx(
                stats.binom.cdf(count, total, 0.3), abs=1e-9
            )
            expected = stats.beta.ppf(0.95, count + 1, total - count)
            assert highest_rate(count, total) == pytest.approx(expected, abs=1e-9)
    assert highest_rate(7, 7) == 1.0


def test_equal_scores_are_no_alarms():
    threshold = threshold_for([0.5] * 100, rate=0.05)
    assert not OutputFilter(lambda texts: [0.5] * len(texts), threshold).alarms(["a"]).any()


def test_a_refusal_takes_the_place_of_a_rejected_text():
    screened = OutputFilter(lambda texts: [len(text) for text in texts], 3, "No.").screen(
        ["abc", "abcd", ""]
    )
    assert screened == ["abc", "No.", ""]


def test_what_cannot_be_promised_is_named():
    with pytest.raises(ValueError, match="scores must be at least 299 for a rate of 0.01"):
        threshold_for(np.zeros(298), 0.01)
    threshold_for(np.zeros(299), 0.01)
    with pytest.raises(ValueError, match=r"rate must be in \(0, 1\), got 0"):
        threshold_for([1.0], 0)
    with pytest.raises(ValueError, match=r"scores must be numbers of shape \(n,\)"):
        threshold_for([[1.0]], 0.5)
    with pytest.raises(ValueError, match="classifier must give 2 numbers"):
        OutputFilter(lambda texts: [1.0], 0).screen(["a", "b"])
    with pytest.raises(TypeError, match="classifier must be a function and refusal a str"):
        OutputFilter("bad", 0)
    with pytest.raises(ValueError, match=r"count must be in \[0, 3\], got 4"):
        highest_rate(4, 3)
