"""Induction heads: they look for the token that followed the same token before, and copy it.

Text ... A B ... A: a head of an earlier layer tells B that A came before it; the induction
head at the second A looks for that, finds B, and says B. Shape letters: B batch, T length,
H heads, L layers, P period.
"""

import numpy as np
from keras import ops

from tfgpt.interpret.walk import activations
from tfgpt.validation import check_integer, check_positive, check_rate

IGNORED = -100  # a target that nothing in the text tells


def repeated_tokens(vocab_size, period, batch_size, seed=0):
    """Draw random texts of different tokens that are written twice.

    Only a model that reads the text can guess the second half: no token follows another
    more often than chance.

    Args:
        vocab_size: int, V >= P.
        period: int, P >= 2.
        batch_size: int, B.
        seed: int.

    Returns:
        int32 array (B, 2 P).

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> repeated_tokens(8, period=3, batch_size=1).tolist()
        [[2, 4, 3, 2, 4, 3]]
    """
    return np.tile(draw(vocab_size, period, batch_size, np.random.default_rng(seed)), (1, 2))


def draw(vocab_size, period, batch_size, rng):
    """Draw rows of different tokens: int32 (B, P)."""
    check_positive("batch_size", batch_size)
    check_integer("period", period, minimum=2)
    check_integer("vocab_size", vocab_size, minimum=period)
    ordered = np.tile(np.arange(vocab_size, dtype="int32"), (batch_size, 1))
    return rng.permuted(ordered, axis=1)[:, :period]


def induction_batch(vocab_size, period, batch_size, rng, jump=0.25):
    """Draw a batch of texts that only induction can guess.

    The first half is P different tokens. The second half walks over the first: from a place
    to the next one, or, with chance `jump`, to any place. Where it jumps, nothing tells the
    target, and it is -100: no place in the text, no count and no order of the tokens helps.

    Args:
        vocab_size: int, V >= P.
        period: int, P >= 2.
        batch_size: int, B.
        rng: numpy random generator.
        jump: float in [0, 1).

    Returns:
        inputs and targets, int32 (B, 2 P) each, for `make_train_step(..., pad_id=-100)`.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> inputs, targets = induction_batch(8, period=4, batch_size=1, rng=rng)
        >>> inputs.tolist(), targets[:, 4:].tolist()  # the last one jumps
        ([[5, 0, 1, 4, 5, 0, 1, 4]], [[0, 1, 4, -100]])
    """
    first = draw(vocab_size, period, batch_size, rng)  # (B, P)
    jumps = rng.random((batch_size, period)) < check_rate("jump", jump)
    places = [rng.integers(0, period, batch_size)]
    for index in range(period):
        jumps[:, index] |= places[-1] == period - 1  # behind the last place there is none
        anywhere = rng.integers(0, period, batch_size)
        places.append(np.where(jumps[:, index], anywhere, places[-1] + 1))
    second = np.take_along_axis(first, np.stack(places, axis=1), axis=1)  # (B, P + 1)
    targets = np.full((batch_size, 2 * period), IGNORED, dtype="int32")
    targets[:, period:] = np.where(jumps, IGNORED, second[:, 1:])
    return np.concatenate([first, second[:, :-1]], axis=1), targets


def induction_scores(model, period=16, batch_size=16, seed=0):
    """Find induction heads: on repeated random texts, who looks behind the last occurrence?

    Args:
        model: GPT.
        period: int, P >= 2, with 2 P <= the model's context.
        batch_size: int, B, how many texts.
        seed: int.

    Returns:
        float array (L, H): the mean attention from each token of the second half to the
        token that followed it in the first, 0 to 1. An even look at all earlier tokens has
        about 1 / (1.5 P).

    Raises:
        TypeError: if the model is no GPT.
        ValueError: if an argument is outside its range.

    Source: Olsson et al., "In-context Learning and Induction Heads" (2022).
    """
    token_ids = repeated_tokens(model.vocab_size, period, batch_size, seed)
    # The second half begins at P, and the token behind the last occurrence is P - 1 back.
    return stripe(attention_of(model, token_ids), period - 1)[..., 1:].mean(axis=-1)


def previous_token_scores(model, period=16, batch_size=16, seed=0):
    """Find the heads that look at the token before: induction heads need one below them.

    Args and errors: those of `induction_scores`.

    Returns:
        float array (L, H): the mean attention from each token to the one before, 0 to 1.
    """
    token_ids = repeated_tokens(model.vocab_size, period, batch_size, seed)
    return stripe(attention_of(model, token_ids), 1).mean(axis=-1)


def attention_of(model, token_ids):
    """Return the attention of all heads, averaged over the texts: float (L, H, T, T)."""
    found = activations(model, token_ids, "blocks.*.attention.weights").values()
    return np.stack([ops.convert_to_numpy(w).astype("float64").mean(axis=0) for w in found])


def stripe(weights, distance):
    """Return the attention to the token `distance` back: (..., T, T) -> (..., T - distance)."""
    return np.diagonal(weights, -distance, axis1=-2, axis2=-1)
