"""The samplers of `generate` in NumPy, for logits that no Keras backend computes.

Values equal those of `tfgpt.samplers`, which say what each setting does. V vocabulary.
"""

from dataclasses import dataclass

import numpy as np

from tfgpt.generation.settings import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    NO_TOKEN,
    ROUNDING,
    check_settings,
)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, checked.

    Args:
        temperature: float >= 0; 0 takes the likeliest token.
        top_k: int >= 1 or None.
        top_p: float in (0, 1] or None.
        min_p: float in [0, 1] or None.
        repetition_penalty: float > 0 or None.
        no_repeat_ngram_size: int in [1, 8] or None.

    Raises:
        ValueError: if a setting is outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None

    def __post_init__(self):
        check_settings(**vars(self))


def choose_token(sampling, logits, text, number):
    """Choose the next token of a text.

    Args:
        sampling: Sampling.
        logits: float32 array (V,), -inf for what is never written.
        text: int array (T,), the tokens so far.
        number: float in [0, 1), where a token is drawn.

    Returns:
        int; -1 if the logits are NaN or infinite, or leave no token.

    Example:
        >>> choose_token(Sampling(temperature=0), np.array([1, 3, 2], "float32"), [0], 0.0)
        1
    """
    if not ((logits < np.inf) | (logits == -np.inf)).all():
        return NO_TOKEN
    logits = adjust(sampling, logits, np.asarray(text))
    likeliest = int(logits.argmax())
    if logits[likeliest] == -np.inf:
        return NO_TOKEN
    return likeliest if sampling.temperature == 0 else draw(softmax(logits), number)


def adjust(sampling, logits, text):
    """Apply the settings in the order of `tfgpt.samplers.make_samplers`: (V,) -> (V,)."""
    if sampling.repetition_penalty is not None:
        logits = penalise(logits, text, np.float32(sampling.repetition_penalty))
    if sampling.no_repeat_ngram_size is not None:
        logits = forbid_repeats(logits, text, sampling.no_repeat_ngram_size)
    if sampling.temperature == 0:
        return logits
    temperature = np.clip(sampling.temperature, LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)
    logits = logits / np.float32(temperature)
    if sampling.top_k is not None and sampling.top_k < len(logits):
        logits = keep_first(logits, logits, sampling.top_k)
    if sampling.top_p is not None and sampling.top_p < 1:
        logits = keep_share(logits, sampling.top_p)
    if sampling.min_p is not None:
        relative = np.exp(logits - logits.max())
        logits = np.where(relative >= np.float32(sampling.min_p), logits, -np.inf)
    return logits


def penalise(logits, text, penalty):
    """Make the tokens of the text less likely: (V,) -> (V,)."""
    logits, seen = logits.copy(), np.unique(text)
    values = logits[seen]
    logits[seen] = np.where(values > 0, values / penalty, values * penalty)
    return logits


def forbid_repeats(logits, text, n):
    """Forbid the tokens that would repeat a run of n tokens of the text: (V,) -> (V,)."""
    n = int(n)
    if len(text) < n:
        return logits
    runs = np.lib.stride_tricks.sliding_window_view(text, n)  # (T,) -> (T - n + 1, n)
    repeats = (runs[:, : n - 1] == text[len(text) - n + 1 :]).all(axis=-1)
    logits = logits.copy()
    logits[runs[repeats, -1]] = -np.inf
    return logits


def keep_share(logits, p):
    """Keep the fewest likeliest tokens whose probabilities sum to at least p: (V,) -> (V,)."""
    probabilities = softmax(logits)
    sums = np.cumsum(np.sort(probabilities)[::-1])
    target = max(np.float32(p) - np.float32(ROUNDING), np.finfo("float32").tiny)
    return keep_first(logits, probabilities, int(np.searchsorted(sums, target)) + 1)


def keep_first(logits, values, count):
    """Keep the `count` largest by their values, of equal ones the first: (V,) -> (V,)."""
    if count >= len(values):
        return logits
    border = np.partition(values, len(values) - count)[len(values) - count]
    is_kept = values > border
    (equal,) = np.nonzero(values == border)
    is_kept[equal[: count - is_kept.sum()]] = True
    return np.where(is_kept, logits, -np.inf)


def softmax(logits):
    """Turn logits into probabilities: float32 (V,) -> (V,)."""
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def draw(probabilities, point):
    """Pick the token at a point of the distribution, never one of probability 0."""
    limits = np.cumsum(probabilities)
    (possible,) = np.nonzero(probabilities)
    place = np.searchsorted(limits[possible], np.float32(point) * limits[-1], side="right")
    # Rounding can put a point on the last limit.
    return int(possible[min(place, len(possible) - 1)])
