"""Exercises of notebook 06, training step."""

import keras
import numpy as np
from keras import ops

from tfgpt.checks.registry import Build, Case, exercises_of, features
from tfgpt.data.batches import shift
from tfgpt.losses import masked_accuracy, masked_loss
from tfgpt.schedules import WarmupSchedule

add_exercise = exercises_of("06")

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
    Case("while it rises", (10, 64, 100), "The rate grows by the same amount at each step."),
    Case("after the top", (400, 64, 100), "It falls; the two pieces meet at warmup_steps."),
    Case("edge case: step 0", (0, 64, 100), "0^-0.5 is infinite: count step 0 as 1."),
)


def train_step(model, optimizer, inputs, targets):
    """Learn from one batch: forward, masked loss, gradients, update; return the loss."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = masked_loss(targets, model(inputs, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)
    return loss


class Bigram(keras.Model):
    """A table of logits, one row per token; in training its logits are doubled."""

    def __init__(self):
        super().__init__()
        self.table = self.add_weight(shape=(4, 4), name="table")
        self.table.assign(features(4, 4))

    def call(self, token_ids, training=False):
        return ops.take(self.table, token_ids, axis=0) * (2.0 if training else 1.0)


def play_train_step(train_step, part, inputs, targets):
    """Run two steps; return 0: the first loss; 1: the weights after both."""
    model, optimizer = Bigram(), keras.optimizers.SGD(0.5)
    optimizer.build(model.trainable_variables)
    losses = [train_step(model, optimizer, inputs, targets) for _ in range(2)]
    if losses[0] is None or losses[0] is Ellipsis:
        return None
    return np.asarray(losses[0]) if part == 0 else model.table.numpy()


BATCH = np.array([[1, 2, 3], [3, 1, 2]]), np.array([[2, 3, 1], [1, 2, 2]])
PADDED = np.array([[1, 2, 3], [3, 0, 0]]), np.array([[2, 3, 1], [1, 0, 0]])

add_exercise(
    "train step",
    train_step,
    Case("the loss", (0, *BATCH), "Return the masked loss of the model with training=True."),
    Case(
        "the weights",
        (1, *BATCH),
        "After two steps: optimizer.apply takes the gradients of the loss, with their sign, and "
        "model.trainable_variables.",
    ),
    Case("the loss with padding", (0, *PADDED), "The loss counts real targets only."),
    Case("the weights with padding", (1, *PADDED), "Compute the loss inside of the tape."),
    Case(
        "edge case: only padding",
        (1, np.array([[1, 2]]), np.array([[0, 0]])),
        "No real target, no change: tfgpt.masked_loss divides by at least 1.",
    ),
    play=play_train_step,
    build=Build(
        "train_step",
        difficulty=3,
        minutes=15,
        know="section 2",
        hints=(
            "Four lines. The tape must see the forward pass and the loss. The update stands "
            "outside of it.",
            "with tf.GradientTape() as tape: loss = tfgpt.masked_loss(targets, model(inputs, "
            "training=True)); then tape.gradient(loss, variables) and "
            "optimizer.apply(gradients, variables).",
        ),
    ),
)
