"""Self-check: how sure a model is of its own answer, and when it should rather be silent.

Two scores need no truth: the probability of the answer, and how much samples agree. The
curve of risk and coverage says how much better the answers are that remain.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tfgpt.validation import check_integer


@dataclass(frozen=True)
class SelfCheck:
    """An answer of a model and two scores of it; the larger, the surer.

    Args:
        answer: str, the likeliest text, token by token.
        log_probability: float <= 0, nats per token of the answer; its negative's power of
            e is the perplexity.
        agreement: float in [0, 1], the mean similarity of the answer to samples.
    """

    answer: str
    log_probability: float
    agreement: float


def check_itself(text_model, prompts, max_new_tokens, *, num_samples=8, seed=None, **settings):
    """Answer prompts and measure how sure the model is of each answer.

    Args:
        text_model: LanguageModel, with the methods generate and rank.
        prompts: list of str.
        max_new_tokens: int >= 1.
        num_samples: int >= 1, samples at temperature 1 that the answer is compared with.
        seed: int or None.
        **settings: of both, such as stop_token, stop_strings and constraint.

    Returns:
        list of SelfCheck. An answer without text has log-probability 0 and says nothing.

    Raises:
        as `LanguageModel.generate`.

    Source: agreement: Manakul et al., "SelfCheckGPT" (2023), with the n-gram overlap of
    `similarity`; perplexity as the baseline: its section 5.
    """
    check_integer("num_samples", num_samples, 1)
    answers = text_model.generate(prompts, max_new_tokens, temperature=0, **settings)
    samples = text_model.generate(
        [prompt for prompt in prompts for _ in range(num_samples)],
        max_new_tokens,
        seed=seed,
        **settings,
    )
    checks = []
    for place, (prompt, text) in enumerate(zip(prompts, answers, strict=True)):
        answer = text[len(prompt) :]
        others = samples[place * num_samples : (place + 1) * num_samples]
        similarities = [similarity(answer, other[len(prompt) :]) for other in others]
        checks.append(
            SelfCheck(answer, mean_log_probability(text_model, prompt, answer), mean(similarities))
        )
    return checks


def mean_log_probability(text_model, prompt, answer):
    """Return the log-probability of an answer per token, in nats; 0 without a token."""
    num_tokens = len(text_model.tokenizer.encode(answer))
    return text_model.rank(prompt, [answer])[0] / num_tokens if num_tokens else 0.0


def mean(numbers):
    """Return the mean of a list as a float."""
    return float(np.mean(numbers))


def similarity(first, second):
    """Compare two texts by their pairs of characters: 1 for equal ones, 0 for nothing in common.

    Case and white space at the ends do not count; the measure is Dice's.

    Args:
        first, second: str.

    Returns:
        float in [0, 1].

    Example:
        >>> similarity("Paris", "paris "), similarity("moon", "moor"), similarity("a", "b")
        (1.0, 0.6666666666666666, 0.0)
    """
    first, second = first.strip().casefold(), second.strip().casefold()
    if first == second:
        return 1.0
    pairs = [Counter(map("".join, zip(text, text[1:], strict=False))) for text in (first, second)]
    total = sum(map(Counter.total, pairs))
    return 2 * (pairs[0] & pairs[1]).total() / total if total else 0.0


def agreement(texts):
    """Return the mean similarity of all pairs of texts.

    Args:
        texts: list of at least two str.

    Returns:
        float in [0, 1].

    Raises:
        ValueError: if there are fewer than two.

    Example:
        >>> agreement(["moon", "moon", "sun"])
        0.3333333333333333
    """
    if len(texts) < 2:
        raise ValueError(f"texts must be at least two, got {len(texts)}.")
    return mean([similarity(first, second) for first, second in combinations(texts, 2)])


@dataclass(frozen=True)
class AbstentionCurve:
    """What remains wrong if the least sure answers are left out.

    Args:
        coverage: float64 array (n,), the shares of the questions that are answered: 1/n to 1.
        risk: float64 array (n,), the share of wrong answers among them.
    """

    coverage: np.ndarray
    risk: np.ndarray

    @property
    def area(self):
        """The mean risk over all coverages: the smaller, the better the score orders answers."""
        return float(self.risk.mean())

    def coverage_at(self, risk):
        """Return the largest share that can be answered with at most this risk; 0 if none."""
        possible = self.coverage[self.risk <= risk]
        return float(possible.max(initial=0.0))


def abstention_curve(confidences, is_right):
    """Draw up the curve of risk and coverage.

    Answers of equal confidence cannot be told apart: each has the mean risk of its group.

    Args:
        confidences: float array (n,), the larger, the surer.
        is_right: bool array (n,).

    Returns:
        AbstentionCurve. A score that knows nothing has the area 1 - mean(is_right) on
        average.

    Raises:
        ValueError: if the shapes differ, are empty, or a confidence is NaN.

    Example:
        >>> curve = abstention_curve([0.9, 0.8, 0.3, 0.1], [True, True, False, False])
        >>> curve.risk.round(2).tolist(), curve.coverage_at(0.0)
        ([0.0, 0.0, 0.33, 0.5], 0.5)

    Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks"
    (2017); El-Yaniv and Wiener (2010).
    """
    confidences = np.asarray(confidences, dtype="float64")
    wrong = 1.0 - np.asarray(is_right, dtype="float64")
    if confidences.ndim != 1 or confidences.shape != wrong.shape or not len(wrong):
        raise ValueError(
            "confidences and is_right must have the same shape (n,) with n >= 1, got "
            f"{confidences.shape} and {wrong.shape}."
        )
    if np.isnan(confidences).any():
        raise ValueError("confidences must be numbers, got NaN.")
    _, groups = np.unique(-confidences, return_inverse=True)  # the surest first
    shares = np.bincount(groups, weights=wrong) / np.bincount(groups)
    expected = shares[np.sort(groups)]  # (n,): the mean of its group in place of each
    answered = np.arange(1, len(wrong) + 1)
    return AbstentionCurve(answered / len(wrong), np.cumsum(expected) / answered)
