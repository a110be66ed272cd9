"""Exercises of notebook 25, what the articles get wrong."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of, features

add_exercise = exercises_of("25")


def cross_attention(decoder, encoder, is_real):
    """Let a decoder (T, D) ask the real places of an encoder (S, D), without weights."""
    scores = decoder @ encoder.T / np.sqrt(decoder.shape[-1])  # (T, S)
    weights = np.where(is_real, np.exp(scores), 0)
    return weights / weights.sum(axis=-1, keepdims=True) @ encoder


def next_token_loss(logits, token_ids, pad_id):
    """Compute the mean loss of the tokens that follow; padding is no target."""
    targets, rows = token_ids[1:], logits[:-1]
    losses = np.log(np.exp(rows).sum(axis=-1)) - rows[np.arange(len(targets)), targets]
    real = targets != pad_id
    return losses[real].sum() / max(real.sum(), 1)


def descent(x, y, rate, epochs):
    """Fit y = x w by one step per batch, each with a new gradient."""
    w = np.zeros(x.shape[-1])
    for _ in range(epochs):
        for inputs, outputs in zip(x, y, strict=True):
            w = w - rate * 2 * inputs.T @ (inputs @ w - outputs) / len(outputs)
    return w


def micro_f1(precision, recall, count, outside):
    """Compute the F1 of all words of the classes of a report, without one class."""
    rows = np.arange(len(count)) != outside
    hits = recall[rows] * count[rows]
    found = hits / np.where(precision[rows] > 0, precision[rows], 1)
    return 2 * hits.sum() / (found.sum() + count[rows].sum()) if hits.sum() else 0.0


def block(x, ffn, gain, bias, epsilon):
    """Compute a pre-norm block: x + ffn(norm(x))."""
    normed = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + epsilon)
    return x + ffn(gain * normed + bias)


def shifted_relu(x):
    """Stand in for a feed-forward network: it is neither linear nor symmetric."""
    return np.maximum(x - 0.2, 0) * 3


SOME = np.array([True, True, False])
PADDED = np.array([3, 1, 2, 0, 0])

add_exercise(
    "mended cross attention",
    cross_attention,
    Case(
        "two target tokens, four source tokens",
        (features(2, 6), features(4, 6), np.ones(4, bool)),
        "The decoder asks: scores are decoder @ encoder.T, (T, S), softmax over S.",
    ),
    Case(
        "more target than source tokens, one of padding",
        (features(5, 4), features(3, 4), SOME),
        "Hidden source tokens get the weight 0, and the other weights add up to 1.",
    ),
    Case(
        "edge case: one real source token",
        (features(2, 4), features(3, 4), np.array([False, True, False])),
        "With one real token every row of the result is that token.",
    ),
)

add_exercise(
    "mended loss",
    next_token_loss,
    Case(
        "four tokens, no padding",
        (4 * features(4, 5), np.array([3, 1, 2, 4]), 0),
        "Row 0 predicts token 1: logits[:-1] against token_ids[1:].",
    ),
    Case(
        "padding at the end",
        (4 * features(5, 5), PADDED, 0),
        "Targets that are padding are left out of the sum and of the count.",
    ),
    Case(
        "another pad id",
        (4 * features(5, 5), np.array([0, 1, 2, 4, 4]), 4),
        "Compare with pad_id, not with 0.",
    ),
    Case(
        "edge case: only padding follows",
        (4 * features(3, 5), np.array([3, 0, 0]), 0),
        "Divide by at least 1: 0 / 0 is NaN.",
    ),
)

add_exercise(
    "mended descent",
    descent,
    Case(
        "one batch, one epoch",
        (features(1, 4, 2), features(1, 4), 0.1, 1),
        "w = 0 - rate * gradient, gradient = 2 x.T @ (x @ w - y) / N.",
    ),
    Case(
        "three batches, two epochs",
        (features(3, 4, 2), features(3, 4), 0.3, 2),
        "Six steps; each has the gradient of its own batch only.",
    ),
    Case(
        "edge case: no epoch",
        (features(2, 4, 3), features(2, 4), 0.1, 0),
        "Without a step w is still 0, with one number per feature.",
    ),
)

add_exercise(
    "mended micro f1",
    micro_f1,
    Case(
        "three classes, O is the last",
        (np.array([0.5, 0.8, 0.99]), np.array([0.9, 0.4, 0.99]), np.array([10, 20, 900]), 2),
        "Right words: recall * count. Called words: right words / precision.",
    ),
    Case(
        "O is the first",
        (np.array([0.99, 0.5, 0.25]), np.array([0.98, 1.0, 0.5]), np.array([500, 4, 8]), 0),
        "`outside` is the row to leave out.",
    ),
    Case(
        "a class that was never found",
        (np.array([0.5, 0.0, 0.9]), np.array([0.9, 0.0, 0.9]), np.array([10, 20, 90]), 2),
        "Precision 0 and no right word: no word was called so. Its count still matters.",
    ),
    Case(
        "edge case: nothing is right",
        (np.array([0.0, 0.9]), np.array([0.0, 0.9]), np.array([10, 90]), 1),
        "No right word: 0, not NaN.",
    ),
)

add_exercise(
    "mended block",
    block,
    Case(
        "two tokens",
        (features(2, 4), shifted_relu, np.ones(4), np.zeros(4), 1e-6),
        "x + ffn(norm(x)): the norm stands before the network.",
    ),
    Case(
        "gain and bias",
        (3 * features(2, 4), shifted_relu, np.array([1, 2, 3, 0.5]), np.array([0, 1, 0, -1]), 1e-6),
        "The gain multiplies the normed features, then the bias is added.",
    ),
    Case(
        "edge case: equal features",
        (np.full((1, 4), 2.0), shifted_relu, np.ones(4), np.full(4, 0.7), 1e-3),
        "The variance is 0: epsilon is added under the root.",
    ),
)
