"""Exercises of notebook 10, generation."""

import numpy as np
from keras import ops

from tfgpt.attention import scaled_dot_product_attention
from tfgpt.checks.registry import Case, add_exercise, features
from tfgpt.generation.decoding import next_token_probabilities
from tfgpt.generation.samplers import MinP


def cached_attention_step(query, key, value, keys, values):
    """Attend from the newest token to the tokens in the cache and to itself: (K,)."""
    keys, values = np.vstack([keys, [key]]), np.vstack([values, [value]])
    query, keys, values = (np.asarray(x, "float32") for x in ([query], keys, values))
    return scaled_dot_product_attention(query, keys, values)[0][0]


def accept_or_replace(p, q, token, point):
    """Find the distribution of the token that speculative decoding writes."""
    if point * q[token] < p[token]:
        return np.eye(len(p))[token]
    rest = np.maximum(np.subtract(p, q), 0)
    return rest / rest.sum()


add_exercise(
    "top-p",
    lambda logits, p: next_token_probabilities(np.asarray(logits)[None], top_p=p)[0],
    Case(
        "three tokens",
        (np.log([0.5, 0.3, 0.2]), 0.6),
        "The kept tokens must reach p together, and then they sum to 1 again.",
    ),
    Case(
        "another order",
        (np.log([0.2, 0.5, 0.3]), 0.6),
        "Place i of the result belongs to token i, not to the i-th likeliest.",
    ),
    Case(
        "large logits",
        ([3.0, 1.0, 2.0, 5.0, 4.0], 0.95),
        "Logits are no probabilities, and no logarithms of them.",
    ),
    Case(
        "edge case: one token has more than p",
        (np.log([0.1, 0.9]), 0.5),
        "At least one token must be left.",
    ),
    Case(
        "edge case: p = 1",
        (np.log([0.1, 0.4, 0.3, 0.2]), 1.0),
        "Nothing is forbidden. Rounding can keep a sum just below 1.",
    ),
)

add_exercise(
    "min-p",
    lambda logits, p: ops.softmax(MinP(p).adjust(np.asarray(logits)[None], None)[0]),
    Case(
        "three tokens",
        (np.log([0.6, 0.3, 0.1]), 0.4),
        "p is a share of something, not a probability. What is kept sums to 1 again.",
    ),
    Case(
        "large logits",
        ([1.0, 4.0, 3.5, -2.0, 2.5], 0.2),
        "The rule compares probabilities, not logits.",
    ),
    Case("edge case: p = 0", ([1.0, 4.0, 3.5], 0.0), "Nothing is forbidden."),
    Case(
        "edge case: p = 1",
        ([1.0, 4.0, 3.5], 1.0),
        "The likeliest token must be left: at least, not more than.",
    ),
)

add_exercise(
    "cached attention step",
    cached_attention_step,
    Case(
        "two earlier tokens",
        (features(2), features(2) + 1, features(2) - 1, features(2, 2), features(2, 2)),
        "Which tokens may the newest one see? Count the weights.",
    ),
    Case(
        "width 4",
        (features(4), features(4), features(4) - 1, 3 * features(5, 4), features(5, 4)),
        "As in notebook 01: products, a division, softmax, a weighted sum.",
    ),
    Case(
        "edge case: the first token",
        (features(3), features(3), features(3) + 2, np.zeros((0, 3)), np.zeros((0, 3))),
        "The cache is empty, so there is one weight, and it is 1.",
    ),
)

add_exercise(
    "accept or replace",
    accept_or_replace,
    Case(
        "the model gives more than the draft",
        (np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6]), 0, 0.95),
        "The draft proposed too little of this token: no reason to reject it.",
    ),
    Case(
        "accepted by chance",
        (np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6]), 2, 0.3),
        "Compare the point with a ratio of the two probabilities of this token.",
    ),
    Case(
        "rejected",
        (np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6]), 2, 0.5),
        "Drawn from p, what the draft likes would come too often. The result sums to 1.",
    ),
    Case(
        "edge case: equal distributions",
        (np.array([0.3, 0.7]), np.array([0.3, 0.7]), 0, 0.999),
        "A draft that agrees is never rejected.",
    ),
    Case(
        "edge case: an impossible token",
        (np.array([1.0, 0.0]), np.array([0.4, 0.6]), 1, 0.0),
        "A token that the model never writes must not be accepted.",
    ),
)
