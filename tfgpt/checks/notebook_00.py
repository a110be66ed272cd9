"""Exercises of notebook 00, start here."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of
from tfgpt.losses import masked_loss

add_exercise = exercises_of("00")

add_exercise(
    "untrained loss",
    # Equal logits: every token is equally likely.
    lambda vocab_size: masked_loss(
        np.zeros((1, 1), "int32"), np.zeros((1, 1, vocab_size), "float32"), pad_id=None
    ),
    Case("2 tokens", (2,), "Each token has the probability 1 / vocab_size."),
    Case("67 tokens", (67,), "Use the natural logarithm, np.log."),
    Case("edge case: 1 token", (1,), "The only token is certain, so the loss is 0."),
)
