"""Exercises of notebook 01, attention by hand."""

import numpy as np
from keras import ops

from tfgpt.attention import masked_softmax, scaled_dot_product_attention
from tfgpt.checks.registry import Build, Case, WrongAnswerError, exercises_of, features
from tfgpt.masks import causal_mask

add_exercise = exercises_of("01")

add_exercise(
    "softmax",
    lambda scores: masked_softmax(np.asarray(scores, "float32")),
    Case("two equal scores", ([0.0, 0.0],), "Divide by the sum of the exponentials."),
    Case("a matrix", ([[1.0, 2.0], [3.0, 3.0]],), "Sum over the last axis, keepdims=True."),
    Case(
        "edge case: large scores",
        ([1000.0, 1001.0],),
        "exp(1000) overflows: subtract the largest score of the row first.",
    ),
    Case(
        "edge case: rows far apart",
        ([[1000.0, 1001.0], [0.0, -2000.0]],),
        "Subtract from each row its own largest score: no mean, no minimum, no other row's.",
    ),
    Case(
        "edge case: three axes",
        (features(2, 3, 4),),
        "The last axis is -1. It is axis 1 of a matrix only.",
    ),
)

add_exercise(
    "attend from one position",
    lambda query, keys, values: scaled_dot_product_attention(
        *(np.asarray(x, "float32") for x in ([query], keys, values))
    )[0][0],
    Case(
        "two keys",
        ([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [[10.0], [20.0]]),
        "Products, divided by sqrt(width of the query), softmax, weighted sum.",
    ),
    Case(
        "width 4, three keys",
        (
            [1.0, 2.0, 1.0, 1.0],
            [[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 2.0], [1.0, 2.0, 0.0, 2.0]],
            [[10.0, 0.0], [0.0, 10.0], [10.0, 10.0]],
        ),
        "The square root is taken of the width, 4, not of the number of keys, 3.",
    ),
    Case(
        "edge case: equal keys",
        ([3.0, -1.0], [[2.0, 5.0]] * 3, [[1.0], [2.0], [6.0]]),
        "Equal keys get equal weights, so the output is the mean of the values.",
    ),
)


def play_attention(attention, part, query, key, value, mask=None):
    """Return one of the two results of attention: 0, the output; 1, the weights."""
    result = attention(*(ops.convert_to_tensor(x) for x in (query, key, value)), mask)
    if result is None or result is Ellipsis:
        return None
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise WrongAnswerError(
            f"attention must return output and weights, got {type(result).__name__}."
        )
    return result[part]


THREE_QUERIES, FIVE_KEYS = features(2, 3, 4), features(2, 5, 4) + 1
HEADS = features(2, 2, 3, 4), features(2, 2, 5, 4) + 1, features(2, 2, 5, 4)

add_exercise(
    "attention",
    scaled_dot_product_attention,
    Case(
        "the output",
        (0, features(2, 4), features(3, 4), features(3, 2)),
        "Scores, divided by sqrt(K); softmax over the keys; weights times value.",
    ),
    Case(
        "the weights",
        (1, features(2, 4), features(3, 4), features(3, 2)),
        "Return two things: output, weights.",
    ),
    Case(
        "a batch, 3 queries and 5 keys",
        (0, THREE_QUERIES, FIVE_KEYS, features(2, 5, 4)),
        "Exchange the last two axes of key only: ops.swapaxes(key, -1, -2).",
    ),
    Case(
        "a batch with heads",
        (0, *HEADS),
        "Count axes from the end: -1 and -2.",
    ),
    Case(
        "with a causal mask",
        (1, 3 * features(1, 1, 4, 8), features(1, 1, 4, 8), features(1, 1, 4, 8), causal_mask(4)),
        "Before the softmax: where the mask is False, the score becomes -1e9.",
    ),
    Case(
        "a mask for each sequence",
        (0, *HEADS, np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], bool)[:, None, None]),
        "The mask (2, 1, 1, 5) differs from sequence to sequence: use all of it.",
    ),
    Case(
        "edge case: large scores",
        (1, 1000 * features(2, 4), features(3, 4), features(3, 4)),
        "ops.softmax does not overflow; exp does.",
    ),
    play=play_attention,
    build=Build(
        "attention",
        difficulty=2,
        minutes=15,
        know="sections 4 to 8",
        hints=(
            "Four lines: K is query.shape[-1]; scores of all queries with all keys; hide the "
            "scores where the mask is False, if there is one; softmax over the last axis.",
            "scores = ops.matmul(query, ops.swapaxes(key, -1, -2)) / K**0.5, then "
            "ops.where(mask, scores, -1e9), then ops.softmax(scores, axis=-1), then a product "
            "with value. Return output, weights.",
        ),
    ),
)
