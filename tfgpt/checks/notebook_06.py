"""Exercises of notebook 06, training step."""

import numpy as np

from tfgpt.checks.registry import Case, add_exercise, features
from tfgpt.data.batches import shift
from tfgpt.losses import masked_accuracy, masked_loss
from tfgpt.schedules import WarmupSchedule

add_exercise(
    "shift",
    shift,
    Case(
        "one sequence",
        (np.array([[5, 6, 7, 8]]),),
        "Inputs lose the last token, targets lose the first.",
    ),
    Case(
        "two sequences",
        (np.array([[5, 6, 7], [1, 2, 0]]),),
        "Cut along the last axis: token_ids[:, :-1].",
    ),
    Case("edge case: two tokens", (np.array([[5, 6]]),), "One input, one target."),
    tolerance=0.0,
)

add_exercise(
    "masked loss",
    masked_loss,
    Case(
        "no padding",
        (np.array([[1, 2]]), features(1, 2, 4)),
        "The loss of one token is logsumexp(logits) - logits[target].",
    ),
    Case(
        "with padding",
        (np.array([[1, 2, 0], [3, 0, 0]]), features(2, 3, 4)),
        "Divide by the number of real targets, not by all of them.",
    ),
    Case(
        "edge case: only padding",
        (np.array([[0, 0]]), features(1, 2, 4)),
        "0 / 0 is NaN: divide by at least 1.",
    ),
)

add_exercise(
    "masked accuracy",
    masked_accuracy,
    Case(
        "no padding",
        (np.array([[2, 1]]), features(1, 2, 4)),
        "A prediction is the place of the largest logit; here one of two is right.",
    ),
    Case(
        "with padding",
        (np.array([[2, 1, 0], [1, 3, 0]]), features(2, 3, 4)),
        "Count real targets only, above and below the fraction line.",
    ),
    Case(
        "edge case: only padding",
        (np.array([[0, 0]]), features(1, 2, 4)),
        "0 / 0 is NaN: divide by at least 1.",
    ),
)

add_exercise(
    "warm-up schedule",
    lambda step, d_model, warmup_steps: WarmupSchedule(d_model, warmup_steps)(step),
    Case("while it rises", (10, 64, 100), "d_model^-0.5 x step x warmup_steps^-1.5."),
    Case("after the top", (400, 64, 100), "d_model^-0.5 x step^-0.5."),
    Case("edge case: step 0", (0, 64, 100), "0^-0.5 is infinite: count step 0 as 1."),
)
