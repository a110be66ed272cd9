"""Unlikelihood: a loss for what must not be written. S states, V tokens."""

import keras
import numpy as np
from keras import ops

from tfgpt.losses import real_tokens, sum_over_replicas, weighted_losses, weighted_sum
from tfgpt.validation import check_pad_id


def unlikelihood_loss(targets, logits, banned, pad_id=0):
    """Average -log of the probability that no banned token follows.

    With one banned token of probability p it is -log(1 - p), and it pushes p towards 0.
    Several count together: p is their sum.

    Args:
        targets: int tensor (B, T); they only say where the padding is.
        logits: float tensor (B, T, V).
        banned: bool tensor (B, T, V), the tokens that must not follow, never all of them.
        pad_id: int or None, the target id that does not count.

    Returns:
        float32 scalar, in nats per token; 0 if nothing is banned.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> banned = np.array([[[False, False, False, True]]])
        >>> loss = unlikelihood_loss(np.array([[1]]), np.zeros((1, 1, 4)), banned)
        >>> round(float(loss), 4)  # -log(1 - 1/4)
        0.2877

    Source: Welleck et al., "Neural Text Generation with Unlikelihood Training" (2020),
    equation 4, with the sum in place of each p; notebook 22.
    """
    losses, real = banned_losses(targets, logits, banned, pad_id)
    return ops.sum(losses * real) / ops.maximum(ops.sum(real), 1.0)


def banned_losses(targets, logits, banned, pad_id):
    """Return -log of the probability of the rest, and what counts: float32 (B, T) each."""
    logits, banned = ops.cast(logits, "float32"), ops.convert_to_tensor(banned)
    if tuple(banned.shape) != tuple(logits.shape):
        raise ValueError(
            f"banned must have the shape of logits, {tuple(logits.shape)}, got "
            f"{tuple(banned.shape)}."
        )
    rest = ops.where(banned, -np.inf, logits)
    # A difference of two logarithms: exact and with a gradient even where p is nearly 1.
    losses = ops.logsumexp(logits, axis=-1) - ops.logsumexp(rest, axis=-1)  # (B, T, V) -> (B, T)
    return losses, real_tokens(targets, pad_id)


@keras.saving.register_keras_serializable("tfgpt")
class RuleLoss(keras.losses.Loss):
    """The masked loss with a rule: what is banned is not learned, and is pushed down.

    For `compile` and `fit`, or in a loss of `make_loss_step`. It is the mean cross-entropy of
    the real targets that are allowed, plus `weight` times `unlikelihood_loss`. Targets have
    the state of an automaton beside them: `tfgpt.safety.rule_targets`. Under a tf.distribute
    strategy the replicas share their means; a sample weight multiplies the losses of its
    sample.

    Call: loss(targets, logits, sample_weight=None) -> float32 scalar; targets int (B, T, 2).

    Args:
        forbidden: bool array (S, V), the tokens that must not follow in each state:
            `tfgpt.safety.forbidden_after`.
        weight: float >= 0, of the unlikelihood; 0: banned targets are only left out.
        pad_id: int or None, the target id that does not count.

    Raises:
        ValueError: if forbidden is not (S, V), or weight is below 0; when called, if the shapes
            do not fit.

    Example:
        >>> loss = RuleLoss([[False, False], [False, True]])  # no token 1 in state 1
        >>> targets = np.array([[[0, 0], [1, 1]]])
        >>> round(float(loss(targets, np.zeros((1, 2, 2)))), 4)  # the pad does not count
        0.6931

    Source: Welleck et al. (2020), equation 5.
    """

    def __init__(self, forbidden, weight=1.0, pad_id=0, name="rule_loss"):
        super().__init__(name=name)
        self.forbidden = np.asarray(forbidden, dtype=bool)
        if self.forbidden.ndim != 2:
            raise ValueError(f"forbidden must be (S, V), got shape {self.forbidden.shape}.")
        # Only states that are never reached forbid all; without it their loss would be inf.
        self.forbidden = self.forbidden & ~self.forbidden.all(axis=1, keepdims=True)
        if not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}.")
        self.weight = weight
        self.pad_id = check_pad_id(pad_id)

    def __call__(self, y_true, y_pred, sample_weight=None):
        pairs = ops.cast(y_true, "int32")
        targets, states = pairs[..., 0], pairs[..., 1]
        banned = ops.take(self.forbidden, states, axis=0)  # (B, T) -> (B, T, V)
        penalties, real = banned_losses(targets, y_pred, banned, self.pad_id)
        losses, _ = weighted_losses(targets, y_pred, self.pad_id, 0.0)
        in_row = ops.where(real > 0, targets, 0)  # a padding id need not be in the vocabulary
        is_banned = ops.take_along_axis(banned, in_row[..., None], axis=-1)[..., 0]
        allowed = ops.where(is_banned, 0.0, real)
        return weighted_mean(losses, allowed, sample_weight) + self.weight * weighted_mean(
            penalties, real, sample_weight
        )

    def call(self, y_true, y_pred):
        """Compute the whole loss: float32 scalar."""
        return self(y_true, y_pred)

    def get_config(self):
        return {
            "name": self.name,
            "forbidden": self.forbidden.tolist(),
            "weight": self.weight,
            "pad_id": self.pad_id,
        }


def weighted_mean(values, counts, sample_weight):
    """Average values (B, T) over what counts, in all replicas; samples may have weights."""
    total = ops.maximum(sum_over_replicas(ops.sum(counts)), 1.0)
    return weighted_sum(values, counts, sample_weight) / total
