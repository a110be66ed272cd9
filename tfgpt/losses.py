"""Loss and accuracy over real tokens only, and what a loss means.

Everything is computed in float32. Padding never counts: extra padding changes
neither loss nor accuracy. `pad_id=None` says that there is no padding.
"""

import math

import keras
import numpy as np
from keras import ops

from tfgpt.parts import part, to_float32
from tfgpt.validation import check_rate, check_token_ids, concrete_values


def real_tokens(targets, pad_id):
    """Mark what counts: float32 (B, T), 1 for a real token and 0 for padding."""
    if pad_id is None:
        return ops.ones_like(targets, dtype="float32")
    return ops.cast(ops.not_equal(targets, pad_id), "float32")


def mean_over_real(values, weights):
    """Average `values` where `weights` is 1; 0 if it is 1 nowhere."""
    return ops.sum(values * weights) / ops.maximum(ops.sum(weights), 1.0)


def check_shapes(targets, logits):
    """Raise unless targets are (..., T) and logits (..., T, V)."""
    known = zip(targets.shape, logits.shape, strict=False)
    fits = all(None in pair or pair[0] == pair[1] for pair in known)
    if not fits or len(logits.shape) != len(targets.shape) + 1:
        raise ValueError(
            f"logits must have the shape of targets plus a vocabulary axis, got targets "
            f"{tuple(targets.shape)} and logits {tuple(logits.shape)}."
        )


@keras.saving.register_keras_serializable("tfgpt")
def masked_loss(targets, logits, pad_id=0, label_smoothing=0.0):
    """Average the cross-entropy over the targets that are not padding.

    An untrained model has a loss of about ln(V). With label smoothing e the
    target distribution is 1 - e on the right token plus e / V on every token.

    Args:
        targets: int tensor (B, T), the tokens to predict, already shifted.
        logits: float tensor (B, T, V).
        pad_id: int or None, the target id that does not count.
        label_smoothing: float in [0, 1).

    Returns:
        float32 scalar, in nats per token; 0 if every target is padding.

    Raises:
        ValueError: if the shapes do not fit, a target is outside [0, V), or
            label_smoothing is outside [0, 1).

    Example:
        >>> import numpy as np
        >>> float(masked_loss(np.array([[1, 0]]), np.zeros((1, 2, 4), "float32")))  # ln 4
        1.3862943649291992

    Source: "Attention Is All You Need", section 5.4 (label smoothing); notebook 06.
    """
    check_rate("label_smoothing", label_smoothing)
    # Keras hands float targets to a loss function in `fit`.
    targets = ops.cast(targets, "int32")
    logits = to_float32(logits)
    check_shapes(targets, logits)
    weights = real_tokens(targets, pad_id)
    # A padding id need not be a row of the logits.
    targets = ops.where(weights > 0, targets, 0)
    check_token_ids("targets", targets, logits.shape[-1])
    return mean_over_real(token_losses(targets, logits, weights, label_smoothing), weights)


@part
def token_losses(targets, logits, weights, label_smoothing):
    """Compute the cross-entropy of each position; logits of weight 0 are not read.

    Args:
        targets: int32 tensor (B, T).
        logits: float tensor (B, T, V); a class that cannot be has -inf.
        weights: float32 tensor (B, T).
        label_smoothing: float in [0, 1).

    Returns:
        float32 tensor (B, T), in nats; 0 where the weight is 0.
    """
    counts = weights > 0
    logits = ops.where(counts[..., None], ops.cast(logits, "float32"), 0.0)
    log_sum = ops.logsumexp(logits, axis=-1)  # (B, T, V) -> (B, T)
    score = ops.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    if label_smoothing:
        # The mean over all classes that can be.
        finite = logits > -np.inf
        mean = ops.sum(ops.where(finite, logits, 0.0), axis=-1)
        mean = mean / ops.sum(ops.cast(finite, "float32"), axis=-1)
        score = (1 - label_smoothing) * score + label_smoothing * mean
    return ops.where(counts, log_sum - score, 0.0)


@keras.saving.register_keras_serializable("tfgpt")
def masked_accuracy(targets, logits, pad_id=0):
    """Compute the share of real targets whose token has the largest logit.

    Args:
        targets: int tensor (B, T).
        logits: float tensor (B, T, V).
        pad_id: int or None, the target id that does not count.

    Returns:
        float32 scalar in [0, 1]; 0 if every target is padding.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> import numpy as np
        >>> logits = np.array([[[0.0, 9.0], [9.0, 0.0], [9.0, 0.0]]])
        >>> float(masked_accuracy(np.array([[1, 1, 0]]), logits))
        0.5
    """
    targets = ops.cast(targets, "int32")
    logits = ops.convert_to_tensor(logits)
    check_shapes(targets, logits)
    correct = ops.cast(ops.argmax(logits, axis=-1), "int32") == targets
    return mean_over_real(ops.cast(correct, "float32"), real_tokens(targets, pad_id))


def perplexity(loss):
    """Compute e^loss: among how many equally likely tokens the model hesitates.

    Args:
        loss: number or float tensor, nats per token.

    Returns:
        the same shape, >= 1 for a loss >= 0.

    Example:
        >>> round(float(perplexity(math.log(66))), 3)
        66.0
    """
    return ops.exp(loss)


def bits_per_byte(loss, num_tokens, num_bytes):
    """Convert nats per token to bits per byte of UTF-8 text.

    Models with different tokenizers can be compared by it, by loss they cannot.

    Args:
        loss: float, mean nats per token.
        num_tokens: int >= 1, tokens of the text.
        num_bytes: int >= 1, bytes of the same text in UTF-8.

    Returns:
        float, bits per byte.

    Raises:
        ValueError: if a count is below 1.

    Example:
        >>> bits_per_byte(math.log(2), num_tokens=6, num_bytes=3)
        2.0
    """
    for name, count in (("num_tokens", num_tokens), ("num_bytes", num_bytes)):
        value = concrete_values(count)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be >= 1, got {count!r}.")
    return loss * num_tokens / (num_bytes * math.log(2))
