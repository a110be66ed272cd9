"""Exercises of notebook 02, masks and padding."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of
from tfgpt.masks import causal_mask, create_masks

add_exercise = exercises_of("02")

add_exercise(
    "causal mask",
    lambda length: causal_mask(length)[0, 0],
    Case("length 3", (3,), "Row i may see the columns j <= i, so also itself."),
    Case("edge case: length 1", (1,), "One token may see itself."),
)

add_exercise(
    "decoder mask",
    lambda target_ids, pad_id: create_masks(np.asarray(target_ids), np.asarray(target_ids), pad_id)[
        1
    ],
    Case(
        "one sequence without padding",
        ([[5, 6, 7]], 0),
        "The causal mask, with the shape (B, 1, T, T).",
    ),
    Case(
        "padding at the end",
        ([[5, 6, 7, 4], [5, 6, 0, 0]], 0),
        "A key must be both real and not in the future: use &.",
    ),
    Case(
        "edge case: another padding id",
        ([[9, 0, 3]], 9),
        "Compare the ids with pad_id, not with 0.",
    ),
)

add_exercise(
    "cached causal mask",
    lambda query_length, key_length, offset: causal_mask(query_length, key_length, offset)[0, 0],
    Case("no earlier keys", (3, 3, 0), "With offset 0 it is the usual causal mask."),
    Case(
        "two new queries after four earlier keys",
        (2, 6, 4),
        "Query i stands at place i + offset of the whole sequence.",
    ),
    Case(
        "a cache with free places",
        (2, 6, 1),
        "Count from offset, not from the end of the keys: the free places come later.",
    ),
    Case("edge case: one new query", (1, 6, 5), "The newest token sees every key."),
)
