"""Samplers: which tokens may come next, and how likely each of them is.

A sampler takes logits (B, V) and gives logits (B, V). A forbidden token gets
-inf. A list of samplers is applied in order. B batch, V vocabulary.

The numbers of a sampler may be tensors: a compiled loop takes them as arguments,
so that another k, p or temperature needs no new program.
"""

from dataclasses import dataclass, fields, is_dataclass
from typing import ClassVar

import numpy as np
from keras import ops

from tfgpt.generation.settings import (
    ANY,
    HIGHEST_TEMPERATURE,
    LONGEST_NGRAM,
    LOWEST_TEMPERATURE,
    NGRAM,
    NO_TOKEN,
    POSITIVE,
    POSITIVE_SHARE,
    ROUNDING,
    SHARE,
    check_number,
    check_settings,
)
from tfgpt.validation import check_positive


@dataclass(frozen=True)
class Greedy:
    """Keep the likeliest token only; of equal ones the first.

    Example:
        >>> np.array(Greedy().adjust(np.array([[1.0, 3.0, 2.0]]), None)).tolist()
        [[-inf, 3.0, -inf]]
    """

    def adjust(self, logits, seen):
        """Forbid all but the largest logit: float32 (B, V) -> (B, V)."""
        logits = ops.convert_to_tensor(logits, "float32")
        places = ops.arange(logits.shape[-1], dtype="int32")
        likeliest = ops.cast(ops.argmax(logits, axis=-1), "int32")  # (B, V) -> (B,)
        return ops.where(places == likeliest[:, None], logits, -np.inf)


@dataclass(frozen=True)
class Temperature:
    """Divide the logits: below 1 the likeliest gain, above 1 all become more equal.

    Args:
        temperature: float > 0.

    Raises:
        ValueError: if the temperature is not positive and finite.

    Example:
        >>> np.array(Temperature(0.5).adjust(np.array([[1.0, -2.0]]), None)).tolist()
        [[2.0, -4.0]]
    """

    temperature: float

    def __post_init__(self):
        check_field("temperature", self.temperature, POSITIVE)

    def adjust(self, logits, seen):
        """Divide by the temperature: float32 (B, V) -> (B, V)."""
        temperature = ops.convert_to_tensor(self.temperature, "float32")
        temperature = ops.clip(temperature, LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)
        return ops.convert_to_tensor(logits, "float32") / temperature


@dataclass(frozen=True)
class TopK:
    """Keep the k likeliest tokens; of equal ones at the border the first.

    Args:
        k: int >= 1; more than V keeps all.

    Raises:
        ValueError: if k is no integer >= 1.

    Example:
        >>> np.array(TopK(2).adjust(np.array([[1.0, 3.0, 2.0, 0.0]]), None)).tolist()
        [[-inf, 3.0, 2.0, -inf]]
    """

    k: int

    def __post_init__(self):
        if not ops.is_tensor(self.k):
            check_positive("k", self.k)

    def adjust(self, logits, seen):
        """Forbid all but the k largest: float32 (B, V) -> (B, V)."""
        logits = ops.convert_to_tensor(logits, "float32")
        return keep_likeliest(logits, ops.ones_like(logits), self.k)


@dataclass(frozen=True)
class TopP:
    """Keep the fewest likeliest tokens whose probabilities sum to at least p.

    A sum that misses p by less than 1e-6 is p, rounded.

    Args:
        p: float in (0, 1]; 1 keeps all.

    Raises:
        ValueError: if p is outside (0, 1].

    Example:
        >>> logits = np.log([[0.5, 0.3, 0.2]])
        >>> np.isfinite(np.array(TopP(0.6).adjust(logits, None))).tolist()
        [[True, True, False]]

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020),
    section 3.1.
    """

    p: float

    def __post_init__(self):
        check_field("p", self.p, POSITIVE_SHARE)

    def adjust(self, logits, seen):
        """Forbid what is not needed to reach p: float32 (B, V) -> (B, V)."""
        logits = ops.convert_to_tensor(logits, "float32")
        p = ops.convert_to_tensor(self.p, "float32")
        # Rounding can let the sum reach 1 before the last token.
        p = ops.where(p < 1.0, ops.maximum(p - ROUNDING, np.finfo("float32").tiny), np.inf)
        return keep_likeliest(logits, ops.softmax(logits, axis=-1), p)


@dataclass(frozen=True)
class MinP:
    """Keep the tokens that are at least p times as likely as the likeliest.

    Args:
        p: float in [0, 1]; 0 keeps all.

    Raises:
        ValueError: if p is outside [0, 1].

    Example:
        >>> logits = np.log([[0.6, 0.3, 0.1]])
        >>> np.isfinite(np.array(MinP(0.4).adjust(logits, None))).tolist()
        [[True, True, False]]

    Source: Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative and
    Coherent LLM Outputs" (2025), section 3.
    """

    p: float

    def __post_init__(self):
        check_field("p", self.p, SHARE)

    def adjust(self, logits, seen):
        """Forbid what is too unlikely: float32 (B, V) -> (B, V)."""
        logits = ops.convert_to_tensor(logits, "float32")
        # Probabilities are exp(logits) over a common sum: only differences count.
        relative = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
        return ops.where(relative >= self.p, logits, -np.inf)


@dataclass(frozen=True)
class RepetitionPenalty:
    """Make the tokens that are in the text already less likely.

    Their logits are divided by the penalty where positive and multiplied by it
    where negative. It reads the sign, so it comes before other samplers.

    Args:
        penalty: float > 0; 1 changes nothing, below 1 favours repetition.

    Raises:
        ValueError: if the penalty is not positive and finite.

    Example:
        >>> seen = np.array([[True, True, False]])
        >>> np.array(RepetitionPenalty(2.0).adjust(np.array([[4.0, -4.0, 4.0]]), seen)).tolist()
        [[2.0, -8.0, 4.0]]

    Source: Keskar et al., "CTRL: A Conditional Transformer Language Model for
    Controllable Generation" (2019), section 4.1.
    """

    penalty: float
    uses_seen: ClassVar[bool] = True

    def __post_init__(self):
        check_field("penalty", self.penalty, POSITIVE)

    def adjust(self, logits, seen):
        """Penalise seen tokens: float32 (B, V) and bool (B, V) -> (B, V)."""
        logits = ops.convert_to_tensor(logits, "float32")
        penalised = ops.where(logits > 0, logits / self.penalty, logits * self.penalty)
        return ops.where(seen, penalised, logits)


@dataclass(frozen=True)
class NoRepeatNGram:
    """Forbid the token that would repeat a run of n tokens of the text.

    Args:
        n: int in [1, 8]; 1 lets no token come twice.

    Raises:
        ValueError: if n is outside its range.

    Example:
        >>> text = np.array([[3, 1, 2, 3, 1]], "int32")  # 3 1 was followed by 2
        >>> np.array(NoRepeatNGram(3).adjust_text(np.zeros((1, 4)), text, 5)).tolist()
        [[0.0, 0.0, -inf, 0.0]]

    Source: Paulus et al., "A Deep Reinforced Model for Abstractive Summarization"
    (2018), section 2.5.
    """

    n: int

    def __post_init__(self):
        check_field("n", self.n, NGRAM)

    def adjust(self, logits, seen):
        """Leave logits as they are: without the text nothing is known."""
        return logits

    def adjust_text(self, logits, token_ids, length):
        """Forbid by the first `length` tokens: (B, V) and int32 (B, T) -> (B, V)."""
        logits = ops.convert_to_tensor(logits, "float32")
        token_ids = ops.convert_to_tensor(token_ids, "int32")
        batch, room = token_ids.shape
        n = ops.cast(self.n, "int32")
        places = ops.arange(room, dtype="int32")
        repeats = (places >= n - 1) & (places < length)  # (T,): may end a run of n
        repeats = ops.broadcast_to(repeats, (batch, room))
        for back in range(1, LONGEST_NGRAM):
            newest = ops.take(token_ids, ops.maximum(length - back, 0), axis=1)[:, None]
            before = ops.take(token_ids, ops.maximum(places - back, 0), axis=1)
            repeats = repeats & ((before == newest) | (back >= n))
        # A text that is too short has no run yet.
        repeats = repeats & (length >= n - 1)
        return ops.where(marked(token_ids, repeats, logits.shape[-1]), -np.inf, logits)


def make_samplers(
    temperature=1.0,
    top_k=None,
    top_p=None,
    min_p=None,
    repetition_penalty=None,
    no_repeat_ngram_size=None,
):
    """Turn the settings of `generate` into samplers, in the order of their use.

    Args:
        temperature: float >= 0; 0 takes the likeliest token, whatever k and p are.
        top_k: int >= 1 or None.
        top_p: float in (0, 1] or None.
        min_p: float in [0, 1] or None.
        repetition_penalty: float > 0 or None.
        no_repeat_ngram_size: int in [1, 8] or None.

    Returns:
        list of samplers: repetition penalty, n-grams, temperature, top-k, top-p, min-p.
        What is None is left out.

    Raises:
        ValueError: if a setting is outside its range.

    Example:
        >>> make_samplers(0.8, top_k=5)
        [Temperature(temperature=0.8), TopK(k=5)]
        >>> make_samplers(0)
        [Greedy()]
    """
    check_settings(temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram_size)
    limits = ((RepetitionPenalty, repetition_penalty), (NoRepeatNGram, no_repeat_ngram_size))
    penalties = [kind(number) for kind, number in limits if number is not None]
    if temperature == 0:
        return [*penalties, Greedy()]
    limits = ((TopK, top_k), (TopP, top_p), (MinP, min_p))
    chosen = [kind(number) for kind, number in limits if number is not None]
    return [*penalties, Temperature(temperature), *chosen]


def check_samplers(samplers):
    """Raise unless `samplers` is a list of dataclasses of numbers with a method `adjust`.

    Args:
        samplers: the value to check.

    Raises:
        TypeError: if it is no list or tuple, or holds anything else.
        ValueError: if a field of a sampler is no number.
    """
    if not isinstance(samplers, (list, tuple)):
        raise TypeError(
            "samplers must be a list of samplers or an object with a method search, "
            f"got {samplers!r}."
        )
    for sampler in samplers:
        is_sampler = is_dataclass(sampler) and hasattr(sampler, "adjust")
        if not is_sampler or isinstance(sampler, type):
            raise TypeError(
                f"samplers must hold dataclass objects with a method adjust, got {sampler!r}."
            )
        for field in fields(sampler):
            name = f"{field.name} of {type(sampler).__name__}"
            check_field(name, getattr(sampler, field.name), ANY)


def reads_text(sampler):
    """Say whether a sampler looks at the tokens of the text."""
    return getattr(sampler, "uses_seen", False) or hasattr(sampler, "adjust_text")


def adjust_logits(samplers, logits, token_ids=None, length=None):
    """Apply samplers one after the other.

    Args:
        samplers: list of samplers.
        logits: float32 tensor (B, V).
        token_ids: int32 tensor (B, T), the texts; None: unknown, and no sampler reads them.
        length: int scalar, how many tokens of each text count.

    Returns:
        float32 tensor (B, V).
    """
    seen = None
    if any(getattr(sampler, "uses_seen", False) for sampler in samplers):
        seen = seen_tokens(token_ids, length, logits.shape[-1])
    for sampler in samplers:
        if hasattr(sampler, "adjust_text"):
            logits = sampler.adjust_text(logits, token_ids, length)
        else:
            logits = sampler.adjust(logits, seen)
    return logits


def draw(probabilities, points):
    """Pick the token at a random point of the distribution, never one of probability 0.

    Args:
        probabilities: float tensor (B, V), rows sum to 1.
        points: float tensor (B,), uniform in [0, 1).

    Returns:
        int32 tensor (B,); -1 if no token has a probability above 0 (all are NaN, say).
    """
    limits = ops.cumsum(probabilities, axis=-1)
    points = points[:, None] * limits[:, -1:]
    token_ids = ops.arange(probabilities.shape[-1], dtype="int32")
    # A compiler may add in another order for each token, so that the limits do not rise
    # everywhere, and rounding can put a point on the last limit: only tokens that can be
    # drawn are looked at, and the last of them takes what lies beyond.
    possible = probabilities > 0
    beyond = probabilities.shape[-1]
    first = ops.min(ops.where(possible & (limits > points), token_ids, beyond), axis=-1)
    last = ops.max(ops.where(possible, token_ids, NO_TOKEN), axis=-1)
    return ops.minimum(first, last)


def seen_tokens(token_ids, length, vocab_size):
    """Mark the tokens that a text holds.

    Args:
        token_ids: int32 tensor (B, T).
        length: int scalar >= 1, how many tokens of each row count.
        vocab_size: int, V.

    Returns:
        bool tensor (B, V).

    Example:
        >>> np.array(seen_tokens(np.array([[2, 0, 1]], "int32"), 2, vocab_size=4)).tolist()
        [[True, False, True, False]]
    """
    counts = ops.arange(token_ids.shape[1], dtype="int32") < length
    return marked(token_ids, ops.broadcast_to(counts, token_ids.shape), vocab_size)


def marked(token_ids, is_marked, vocab_size):
    """Mark the tokens at some places: int32 (B, T) and bool (B, T) -> bool (B, V)."""
    batch, room = token_ids.shape
    # What is not marked goes to one column more, which is cut off.
    tokens = ops.where(is_marked, token_ids, vocab_size)
    rows = ops.broadcast_to(ops.arange(batch, dtype="int32")[:, None], (batch, room))
    places = ops.reshape(ops.stack([rows, tokens], axis=-1), (-1, 2))
    marks = ops.ones((batch * room,), dtype="bool")
    table = ops.zeros((batch, vocab_size + 1), dtype="bool")
    return ops.scatter_update(table, places, marks)[:, :vocab_size]


def keep_likeliest(logits, weights, target):
    """Keep the fewest likeliest tokens whose weights sum to at least `target`.

    Of equally likely ones at the border the first are kept; all are kept if their
    weights sum to less. Nothing is sorted: a row of 50,000 logits takes long to sort.

    Args:
        logits: float32 tensor (B, V).
        weights: float32 tensor (B, V), >= 0.
        target: float scalar > 0.

    Returns:
        float32 tensor (B, V), -inf where a token is not kept.
    """
    ranks = ordered_integers(logits)
    target = ops.convert_to_tensor(target, "float32")
    border = find_border(ranks, weights, target)  # (B, 1)
    above, equal = ranks > border, ranks == border
    sum_above = ops.sum(ops.where(above, weights, 0.0), axis=-1, keepdims=True)  # (B, 1)
    equal_weights = ops.where(equal, weights, 0.0)
    before = sum_above + ops.cumsum(equal_weights, axis=-1) - equal_weights  # (B, V)
    return ops.where(above | (equal & (before < target)), logits, -np.inf)


def find_border(ranks, weights, target):
    """Find the largest b such that the weights of ranks >= b sum to `target`.

    Args:
        ranks: int32 tensor (B, V).
        weights: float32 tensor (B, V), >= 0.
        target: float32 scalar.

    Returns:
        int32 tensor (B, 1); the smallest int32 if all weights are not enough.
    """
    limits = np.iinfo("int32")
    low = ops.full((ranks.shape[0], 1), limits.min, dtype="int32")
    high = ops.full((ranks.shape[0], 1), limits.max, dtype="int32")
    for _ in range(32):  # each step halves the interval of 2^32 integers
        # (low + high) / 2 without overflow.
        middle = ops.bitwise_and(low, high) + ops.right_shift(ops.bitwise_xor(low, high), 1)
        total = ops.sum(ops.where(ranks >= middle, weights, 0.0), axis=-1, keepdims=True)  # (B, 1)
        is_enough = total >= target
        low, high = ops.where(is_enough, middle, low), ops.where(is_enough, high, middle)
    return low


def ordered_integers(x):
    """Turn float32 into int32 of the same order, by their bits.

    Example:
        >>> np.argsort(ordered_integers(np.array([-2.0, 3.0, -np.inf, 0.5], "float32"))).tolist()
        [2, 0, 3, 1]
    """
    bits = ops.view(x, "int32")
    # The first bit is the sign, the others grow with the size. -0.0 and 0.0 become 0.
    return ops.where(bits < 0, np.iinfo("int32").min - bits, bits)


def check_field(name, value, rule):
    """Raise unless a sampler's number fits the rule; a tensor, of a compiled loop, passes."""
    if not ops.is_tensor(value):
        check_number(name, value, rule)
