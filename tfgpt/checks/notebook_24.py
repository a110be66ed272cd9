"""Exercises of notebook 24, interpretability."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of, features

add_exercise = exercises_of("24")


def logit_lens(stream, gamma, beta, table, epsilon=1e-5):
    """Read the residual stream of each layer: (R, T, D) -> logits (R, T, V)."""
    mean = stream.mean(axis=-1, keepdims=True)
    variance = stream.var(axis=-1, keepdims=True)
    normed = (stream - mean) / np.sqrt(variance + epsilon) * gamma + beta
    return normed @ table.T


def induction_score(weights, period):
    """Average the attention to the token behind the last occurrence: (H, 2 P, 2 P) -> (H,)."""
    queries = np.arange(period, 2 * period)
    return weights[:, queries, queries - period + 1].mean(axis=1)


def patching_map(blocks, clean, corrupted, measure):
    """Put the clean stream of each block and position into the corrupted run: (L, T)."""

    def finish(x, index):
        for block in blocks[index:]:
            x = block(x)
        return measure(x)

    best, worst, table = finish(clean, 0), finish(corrupted, 0), []
    for index, block in enumerate(blocks, start=1):
        clean, corrupted = block(clean), block(corrupted)
        for place in range(len(clean)):
            patched = corrupted.copy()
            patched[place] = clean[place]
            table.append((finish(patched, index) - worst) / (best - worst))
    return np.reshape(table, (len(blocks), -1))


def integrated_gradients(gradient, x, baseline, steps):
    """Average the gradient at the middles of `steps` parts of the way: (T, D) -> (T,)."""
    points = (np.arange(steps) + 0.5) / steps
    mean = np.mean([gradient(baseline + p * (x - baseline)) for p in points], axis=0)
    return (mean * (x - baseline)).sum(axis=-1)


def sparse_loss(states, encoder, bias, decoder, centre, sparsity):
    """Compute the loss of a sparse autoencoder: squared error and price of the codes."""
    codes = np.maximum((states - centre) @ encoder + bias, 0)
    error = ((states - codes @ decoder - centre) ** 2).sum(axis=-1)
    return (error + sparsity * codes.sum(axis=-1)).mean()


def mix(x):
    """A block that looks at the token before: (T, D) -> (T, D)."""
    before = np.concatenate([x[:1], x[:-1]])
    return x + np.tanh(before @ features(3, 3))


def bend(x):
    """A block that changes each token by itself: (T, D) -> (T, D)."""
    return x + np.maximum(x @ features(3, 3).T, 0)


def first_of_last(x):
    """Measure a stream by one number of its last token."""
    return x[-1, 0]


def slope(x):
    """The gradient of the sum of x^3 / 3."""
    return x**2


STREAM, TABLE = features(3, 4, 6), features(5, 6)
CLEAN = features(4, 3)
CORRUPTED, FAR = CLEAN.copy(), CLEAN.copy()
CORRUPTED[2], FAR[1] = 1 - CLEAN[2], 1 - CLEAN[1]

add_exercise(
    "logit lens",
    logit_lens,
    Case(
        "three rows of a stream",
        (STREAM, 1 + features(6), features(6), TABLE),
        "Layer norm over the last axis, gamma and beta, then the product with table.T.",
    ),
    Case(
        "edge case: equal features",
        (np.ones((1, 1, 6)), np.ones(6), features(6), TABLE),
        "The variance is 0: epsilon keeps the root from 0, and beta is left.",
    ),
)

STRIPE = np.zeros((2, 8, 8))
STRIPE[0, range(4, 8), range(1, 5)] = 1
STRIPE[1] = np.tril(np.ones((8, 8))) / np.arange(1, 9)[:, None]

add_exercise(
    "induction score",
    induction_score,
    Case(
        "a perfect head and an even one",
        (STRIPE, 4),
        "The token at t stood at t - P before; look at t - P + 1, for t = P to 2 P - 1.",
    ),
    Case(
        "edge case: period 2",
        (np.abs(features(3, 4, 4)), 2),
        "Queries 2 and 3 look at the keys 1 and 2.",
    ),
)

add_exercise(
    "patching map",
    patching_map,
    Case(
        "three blocks, four tokens",
        ([mix, mix, bend], CLEAN, CORRUPTED, first_of_last),
        "Run the corrupted text; behind block i set position t to the clean stream there; go on.",
    ),
    Case(
        "edge case: what looks back once reaches one token further",
        ([mix, mix, bend], CLEAN, FAR, first_of_last),
        "Subtract the corrupted measure, and divide by clean minus corrupted.",
    ),
)

add_exercise(
    "integrated gradients",
    integrated_gradients,
    Case(
        "a sum of cubes",
        (slope, 1 + features(3, 4), np.zeros((3, 4)), 20),
        "The mean gradient at baseline + (i + 0.5) / steps (x - baseline), times (x - baseline).",
    ),
    Case(
        "edge case: one step",
        (slope, features(3, 4), np.ones((3, 4)), 1),
        "One step is the gradient in the middle of the way.",
    ),
)

add_exercise(
    "sparse loss",
    sparse_loss,
    Case(
        "five states, eight directions",
        (features(5, 4), features(4, 8), features(8), features(8, 4), features(4), 0.3),
        "Sum the squared errors over features, add sparsity times the sum of codes, then average.",
    ),
    Case(
        "edge case: no code is active",
        (features(5, 4), features(4, 8), np.full(8, -9.0), features(8, 4), features(4), 0.3),
        "All codes are 0: the reconstruction is the centre.",
    ),
)
