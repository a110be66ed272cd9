"""Exercises of notebook 22, safety and constrained decoding."""

import math

import numpy as np

from tfgpt.checks.registry import Case, exercises_of, features

add_exercise = exercises_of("22")


def next_states(phrase, alphabet):
    """Fill the table of the automaton that finds a phrase: (len(phrase), len(alphabet))."""
    table = np.zeros((len(phrase), len(alphabet)), dtype=int)
    for state in range(len(phrase)):
        for column, letter in enumerate(alphabet):
            text = phrase[:state] + letter
            ends = [n for n in range(len(phrase) + 1) if text.endswith(phrase[:n])]
            table[state, column] = -1 if text == phrase else max(ends)
    return table


def forbidden_tokens(table, pieces):
    """Tell in which state a token would run into -1: bool (S, V)."""
    forbidden = np.zeros((len(table), len(pieces)), dtype=bool)
    for start in range(len(table)):
        for token, piece in enumerate(pieces):
            state = start
            for letter in piece:
                state = table[state, letter] if state >= 0 else -1
            forbidden[start, token] = state < 0
    return forbidden


def unlikelihood(logits, banned):
    """Average -log(1 - p) over the places, where p is the probability of what is banned."""

    def log_sum(x):
        largest = x.max(axis=-1)
        return largest + np.log(np.exp(x - largest[..., None]).sum(axis=-1))

    logits = np.asarray(logits, dtype="float64")
    return np.mean(log_sum(logits) - log_sum(np.where(banned, -np.inf, logits)))


def exposure_in_bits(own, others):
    """Compute the exposure of a canary from its score and those of texts never seen."""
    rank = 1 + np.sum(np.asarray(others) >= own)
    return math.log2((len(others) + 1) / rank)


def private_gradient(gradients, clip_norm, noise):
    """Shorten the gradient of each example (B, P), add up, add noise (P,), divide by B."""
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    factors = clip_norm / np.maximum(norms, clip_norm)
    return ((gradients * factors).sum(axis=0) + noise) / len(gradients)


add_exercise(
    "next states",
    next_states,
    Case("the phrase ab", ("ab", "abc"), "After a comes state 1; from it, b is forbidden: -1."),
    Case(
        "a phrase that begins anew",
        ("aab", "ab"),
        "After aa another a leads to state 2, not 0: the text still ends with aa.",
    ),
    Case("a beginning within", ("abac", "abc"), "After aba, b leads to state 2: it ends with ab."),
    Case("edge case: one letter", ("b", "ab"), "One state; its own letter is forbidden at once."),
    tolerance=0.0,
)

TABLE = np.array([[1, 0, 0], [1, -1, 0]])  # never ab, over a, b, c

add_exercise(
    "forbidden tokens",
    forbidden_tokens,
    Case(
        "tokens of one or two letters",
        (TABLE, [[0], [1], [2], [0, 1], [1, 0]]),
        "b is forbidden after a only, the token ab everywhere.",
    ),
    Case(
        "a phrase inside of a token",
        (TABLE, [[2, 0, 1, 2], [1, 2, 0], [0, 2, 1]]),
        "What is forbidden on the way stays forbidden: row -1 of the table is no state.",
    ),
    Case("edge case: a token without letters", (TABLE, [[], [1]]), "It leads nowhere: allowed."),
    tolerance=0.0,
)

BANNED = np.array([[False, True, False, False], [True, False, True, False], [False] * 4])

add_exercise(
    "unlikelihood loss",
    unlikelihood,
    Case(
        "one and two banned tokens",
        (features(3, 4), BANNED),
        "-log(1 - p), p the sum over the banned tokens; then the mean over all T places.",
    ),
    Case("edge case: nothing is banned", (features(2, 4), BANNED[[2, 2]]), "p = 0, the loss is 0."),
    Case(
        "edge case: almost sure",
        (np.array([[0.0, 60.0, 0.0, 0.0]]), BANNED[:1]),
        "1 - p rounds to 0: subtract two log-sums, of all tokens and of those allowed.",
    ),
    tolerance=1e-4,
)

add_exercise(
    "exposure in bits",
    exposure_in_bits,
    Case("the second of four", (-2.0, [-1.0, -3.0, -4.0]), "log2 of 4 texts over rank 2: 1 bit."),
    Case("the first of eight", (-1.0, [-2.0] * 7), "Rank 1: log2 of 8. Count the canary too."),
    Case("edge case: equal scores", (-1.0, [-1.0, -1.0, -2.0]), "They count against it: rank 3."),
)

add_exercise(
    "private gradient",
    private_gradient,
    Case(
        "one long, one short",
        (np.array([[3.0, 4.0], [0.3, 0.4]]), 1.0, np.zeros(2)),
        "Only the first is shortened, to length 1. Clip each row, not the sum.",
    ),
    Case(
        "with noise",
        (features(3, 4), 0.5, np.array([0.3, -0.6, 0.0, 0.9])),
        "The noise is added once, to the sum, before the division by B.",
    ),
    Case(
        "edge case: a gradient of zeros",
        (np.array([[0.0, 0.0], [0.0, 2.0]]), 1.0, np.zeros(2)),
        "0 / 0 is NaN: a short gradient keeps its length.",
    ),
)
