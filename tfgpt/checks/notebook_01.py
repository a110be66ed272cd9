"""Exercises of notebook 01, attention by hand."""

import numpy as np

from tfgpt.attention import attention_scores, masked_softmax, scaled_dot_product_attention
from tfgpt.checks.registry import Case, add_exercise, features

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

add_exercise(
    "attention scores",
    lambda query, key: attention_scores(np.asarray(query, "float32"), np.asarray(key, "float32")),
    Case(
        "one query, two keys",
        ([[2.0, 2.0, 2.0, 2.0]], [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]]),
        "Rows are queries, columns are keys; divide by sqrt(4) = 2.",
    ),
    Case(
        "a batch of two",
        ([[[1.0, 2.0]], [[3.0, 4.0]]], [[[1.0, 0.0]], [[0.0, 1.0]]]),
        "Exchange only the last two axes of key: np.swapaxes(key, -1, -2).",
    ),
    Case("edge case: width 1", ([[3.0]], [[5.0]]), "sqrt(1) = 1: the plain product."),
)
