"""Exercises of notebook 07, translation and attention."""

from collections import Counter

import keras
import numpy as np
from keras import ops

from tfgpt.checks.registry import Case, exercises_of, features
from tfgpt.generation.beam import choose, penalty

add_exercise = exercises_of("07")


def beam_step(log_probs, totals):
    """Continue the beams of one source, without a length penalty."""
    log_probs, totals = (np.asarray(x, "float32")[None] for x in (log_probs, totals))
    beams, tokens, _ = choose(log_probs, totals, np.ones_like(totals), 0.0)
    return beams[0], tokens[0]


def modified_precision(hypothesis, reference, n):
    """Count the runs of n words that are right, each as often as the reference has it."""
    found, known = (
        Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        for words in (hypothesis, reference)
    )
    return (found & known).total() / max(found.total(), 1)


def crossings(places):
    """Count the pairs of target tokens whose source places are exchanged."""
    return int(np.triu(np.greater.outer(places, places)).sum())


add_exercise(
    "length penalty",
    penalty,
    Case("alpha 1", (7, 1.0), "(5 + 7) / 6: the sum first, then the division."),
    Case("alpha 0.6", (20, 0.6), "alpha is the power of the whole fraction."),
    Case("edge case: alpha 0", (20, 0.0), "Any number to the power 0 is 1."),
)

add_exercise(
    "beam step",
    beam_step,
    Case(
        "one beam",
        (np.log([[0.2, 0.5, 0.3]]), np.array([-1.0])),
        "With one beam it is greedy: the token with the largest log-probability.",
    ),
    Case(
        "both winners continue one beam",
        (np.log([[0.5, 0.4, 0.1], [0.1, 0.2, 0.7]]), np.log([0.8, 0.1])),
        "Add the totals, then choose the best of all beams x V, not one of each beam.",
    ),
    Case(
        "a beam far behind",
        (np.log([[0.9, 0.06, 0.04], [0.4, 0.35, 0.25]]), np.array([0.0, -1.0])),
        "Totals are sums of log-probabilities: add log_probs as they are, without exp.",
    ),
    Case(
        "the second beam wins",
        (np.log([[0.4, 0.35, 0.25], [0.05, 0.9, 0.05]]), np.log([0.5, 0.45])),
        "Best first; the place p in the flat array is beam p // V, token p % V.",
    ),
    Case(
        "edge case: the first step",
        (np.log([[0.1, 0.6, 0.3], [0.1, 0.6, 0.3]]), np.array([0.0, -1e9])),
        "All beams begin alike; a total of -1e9 keeps the second from being chosen.",
    ),
    tolerance=0.0,
)

add_exercise(
    "modified precision",
    modified_precision,
    Case(
        "single words",
        (["the", "cat", "sat"], ["the", "cat", "is", "here"], 1),
        "Divide by the number of runs in the hypothesis, not in the reference.",
    ),
    Case(
        "a repeated word",
        (["the"] * 7, ["the", "cat", "is", "on", "the", "mat"], 1),
        "The reference has it twice, so only two of the seven count.",
    ),
    Case(
        "pairs of words",
        (["one", "cat", "and", "the", "dog"], ["the", "cat", "and", "one", "dog"], 2),
        "Words must stand side by side, in the same order: 4 runs here.",
    ),
    Case(
        "edge case: fewer than n words",
        (["yes"], ["yes", "indeed"], 2),
        "There is no run, and 0 / 0 has no value: divide by at least 1.",
    ),
)

add_exercise(
    "crossings",
    crossings,
    Case("noun and adjective", ([0, 2, 1, 3],), "One pair is exchanged: 2 before 1."),
    Case(
        "the reverse order",
        ([3, 2, 1, 0],),
        "Compare all pairs, not only neighbours: 4 * 3 / 2 of them.",
    ),
    Case("equal places", ([1, 1, 0],), "Two tokens of the same word do not cross."),
    Case("edge case: one token", ([4],), "One token makes no pair, so nothing crosses."),
    tolerance=0.0,
)


def masked_weights(scores, token_ids):
    """Turn scores (T, S) into weights that see the real tokens; padding has the id 0."""
    scores = np.where(token_ids != 0, scores, -1e9)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def make_attention(num_heads, d_model):
    """Make Keras's layer with heads that are d_model wide together."""
    return keras.layers.MultiHeadAttention(num_heads, key_dim=d_model // num_heads)


def play_make_attention(make, num_heads, d_model):
    """Count the weights of the layer that a program makes."""
    layer = make(num_heads, d_model)
    if layer is None or layer is Ellipsis:
        return None
    layer.build((1, 2, d_model), (1, 2, d_model))
    return layer.count_params()


def cross_attention(attention, target, source):
    """Let the target ask the source."""
    return attention(query=target, value=source, key=source)


def play_cross_attention(attend, target, source):
    """Run cross-attention with a layer of Keras whose weights are known."""
    attention = keras.layers.MultiHeadAttention(2, key_dim=3)
    attention.build(target.shape, source.shape)
    attention.set_weights([features(*weight.shape) for weight in attention.weights])
    return attend(attention, ops.convert_to_tensor(target), ops.convert_to_tensor(source))


add_exercise(
    "bug 1",
    masked_weights,
    Case(
        "two real tokens, one padding",
        (features(3, 3), np.array([5, 6, 0])),
        "Look at the last column: which tokens may be seen?",
    ),
    Case("edge case: no padding", (features(2, 2), np.array([5, 6])), "Then all are seen."),
    mistake="mask upside down",
)

add_exercise(
    "bug 2",
    lambda token_ids: (token_ids[:, :-1], token_ids[:, 1:]),
    Case(
        "two sequences",
        (np.array([[5, 6, 7], [1, 2, 3]]),),
        "Which token must the model write after it has read the first one?",
    ),
    Case("edge case: two tokens", (np.array([[5, 6]]),), "One input, one target."),
    tolerance=0.0,
    mistake="no shift",
)

add_exercise(
    "bug 3",
    make_attention,
    Case("4 heads", (4, 8), "Count the weights: 4 D^2 + 4 D for any number of heads."),
    Case("edge case: one head", (1, 8), "One head is as wide as the model."),
    tolerance=0.0,
    play=play_make_attention,
    mistake="heads too wide",
)

add_exercise(
    "bug 4",
    cross_attention,
    Case(
        "equal lengths",
        (features(1, 4, 6), features(1, 4, 6) + 1),
        "Which sequence asks, and which one is asked? Keras's order is query, value, key.",
    ),
    Case(
        "edge case: 2 target tokens, 3 source tokens",
        (features(1, 2, 6), features(1, 3, 6) + 1),
        "The output has one row for each target token.",
    ),
    play=play_cross_attention,
    mistake="query and key exchanged",
)

add_exercise(
    "bug 5",
    lambda losses, targets: np.sum(losses * (targets != 0)) / max(np.sum(targets != 0), 1),
    Case(
        "half is padding",
        (np.array([[1.0, 2.0, 0.1, 0.1]]), np.array([[5, 6, 0, 0]])),
        "Only real targets count, above and below the fraction line.",
    ),
    Case(
        "edge case: only padding",
        (np.array([[0.1, 0.1]]), np.array([[0, 0]])),
        "0 / 0 is NaN: divide by at least 1.",
    ),
    mistake="loss counts padding",
)
