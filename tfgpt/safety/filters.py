"""Filters: a classifier reads what was written, and a refusal takes the place of what it rejects.

How often harmless texts are refused is chosen beforehand, with an exact bound.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tfgpt.validation import check_positive


@dataclass(frozen=True)
class OutputFilter:
    """Refuses texts whose score is above a threshold. It needs whole texts, no stream.

    Args:
        classifier: function of a list of str, returns a float for each: the more, the worse.
        threshold: float; `threshold_for` chooses it.
        refusal: str, what is answered instead.

    Raises:
        TypeError: if the classifier is no function or the refusal no str.

    Example:
        >>> count_signs = lambda texts: [text.count("!") for text in texts]
        >>> quiet = OutputFilter(count_signs, threshold=1, refusal="I say no more.")
        >>> quiet.screen(["Hello!", "Hello!!!"])
        ['Hello!', 'I say no more.']
    """

    classifier: Callable
    threshold: float
    refusal: str = "I cannot answer that."

    def __post_init__(self):
        if not callable(self.classifier) or not isinstance(self.refusal, str):
            raise TypeError(
                "classifier must be a function and refusal a str, got "
                f"{self.classifier!r} and {self.refusal!r}."
            )

    def alarms(self, texts):
        """Tell which texts are rejected: list of n str -> bool array (n,)."""
        scores = np.asarray(self.classifier(list(texts)), dtype="float64")
        if scores.shape != (len(texts),) or np.isnan(scores).any():
            raise ValueError(
                f"classifier must give {len(texts)} numbers, got shape {scores.shape} "
                f"with {np.isnan(scores).sum()} NaN."
            )
        return scores > self.threshold

    def screen(self, texts):
        """Return each text, or the refusal in its place.

        Args:
            texts: list of n str.

        Returns:
            list of n str.

        Raises:
            ValueError: if the classifier does not give one number for each.
        """
        alarms = self.alarms(texts)
        return [
            self.refusal if is_alarm else text for text, is_alarm in zip(texts, alarms, strict=True)
        ]


def threshold_for(scores, rate, confidence=0.95):
    """Choose a threshold that rejects at most a given share of harmless texts.

    It is one of the largest scores: the one above which k others lie, with the largest k
    for which a binomial variable of n trials with this rate is at most k with probability
    1 - confidence. So it holds for any distribution of the scores, whatever the classifier.

    Args:
        scores: float array (n,), scores of held-out harmless texts, drawn as those to come.
        rate: float in (0, 1), the share of false alarms that is accepted.
        confidence: float in (0, 1), how probable it is that the true share is at most this.

    Returns:
        float; a text is rejected if its score is larger.

    Raises:
        ValueError: if an argument is outside its range, or there are too few scores.

    Example:
        >>> threshold_for(np.arange(100.0), rate=0.05)  # one of 100 is larger
        98.0

    Source: Clopper and Pearson, "The Use of Confidence or Fiducial Limits Illustrated in
    the Case of the Binomial" (1934); as order statistics: Wilks (1941).
    """
    check_share("rate", rate)
    check_share("confidence", confidence)
    scores = np.sort(np.asarray(scores, dtype="float64"))
    if scores.ndim != 1 or np.isnan(scores).any():
        raise ValueError(f"scores must be numbers of shape (n,), got shape {scores.shape}.")
    needed = math.ceil(math.log(1 - confidence) / math.log(1 - rate))
    if len(scores) < needed:
        raise ValueError(
            f"scores must be at least {needed} for a rate of {rate} with confidence {confidence}, "
            f"got {len(scores)}."
        )
    allowed = 0
    while at_most(allowed + 1, len(scores), rate) <= 1 - confidence:
        allowed += 1
    return float(scores[-1 - allowed])


def highest_rate(count, total, confidence=0.95):
    """Bound the rate of what was seen `count` times in `total` trials, from above.

    Args:
        count: int in [0, total].
        total: int >= 1.
        confidence: float in (0, 1).

    Returns:
        float in (0, 1]: a larger rate would give so few with probability 1 - confidence
        at most.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> round(highest_rate(0, 100), 4)
        0.0295

    Source: Clopper and Pearson (1934).
    """
    check_share("confidence", confidence)
    check_positive("total", total)
    if not 0 <= count <= total:
        raise ValueError(f"count must be in [0, {total}], got {count}.")
    if count == total:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):  # each step halves the interval
        middle = (low + high) / 2
        is_possible = at_most(count, total, middle) > 1 - confidence
        low, high = (middle, high) if is_possible else (low, middle)
    return high


def at_most(count, total, rate):
    """Return the probability of at most `count` successes in `total` trials."""
    successes = np.arange(count + 1)
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in successes
    ]
    logs += successes * math.log(rate) + (total - successes) * math.log1p(-rate)
    return float(np.exp(logs).sum())


def check_share(name, value):
    """Raise unless a number is in (0, 1)."""
    if isinstance(value, (bool, str)) or not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), got {value!r}.")
