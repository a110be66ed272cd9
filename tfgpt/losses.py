"""Loss and accuracy over real tokens only, and what a loss means.

Everything is computed in float32. Padding never counts: extra padding changes
neither loss nor accuracy. `pad_id=None` says that there is no padding; -100, which other
libraries use, is no token of any vocabulary.

`masked_loss` and `masked_accuracy` give one number for one batch: for a loop of your own.
`MaskedLoss`, `MaskedAccuracy` and `Perplexity` are for `compile` and `fit`: they weigh
samples, and count each real token once over all batches and replicas.
"""

import math

import keras
import numpy as np
from keras import ops

from tfgpt.parts import part, to_float32
from tfgpt.validation import check_pad_id, check_rate, check_token_ids, concrete_values

IGNORED_IDS = (-100,)  # ids that stand for "does not count" and are never tokens


def real_tokens(targets, pad_id):
    """Mark what counts: float32 (B, T), 1 for a real token and 0 for padding."""
    if pad_id is None:
        return ops.ones_like(targets, dtype="float32")
    return ops.cast(ops.not_equal(targets, pad_id), "float32")


def mean_over_real(values, weights):
    """Average `values` where `weights` is 1; 0 if it is 1 nowhere."""
    return ops.sum(ops.where(weights > 0, values, 0.0)) / ops.maximum(ops.sum(weights), 1.0)


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
    losses, weights = weighted_losses(targets, logits, pad_id, label_smoothing)
    return mean_over_real(losses, weights)


def weighted_losses(targets, logits, pad_id, label_smoothing):
    """Compute the loss of each target, and what counts: float32 (B, T) each."""
    check_rate("label_smoothing", label_smoothing)
    check_pad_id(pad_id, ignored=IGNORED_IDS)
    # Keras hands float targets to a loss function in `fit`.
    targets = ops.cast(targets, "int32")
    logits = to_float32(logits)
    check_shapes(targets, logits)
    weights = real_tokens(targets, pad_id)
    # A padding id need not be a row of the logits.
    targets = ops.where(weights > 0, targets, 0)
    check_token_ids("targets", targets, logits.shape[-1])
    return token_losses(targets, logits, weights, label_smoothing), weights


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
    return mean_over_real(*weighted_hits(targets, logits, pad_id))


def weighted_hits(targets, logits, pad_id):
    """Say which targets have the largest logit, and what counts: float32 (B, T) each."""
    check_pad_id(pad_id, ignored=IGNORED_IDS)
    targets = ops.cast(targets, "int32")
    logits = ops.convert_to_tensor(logits)
    check_shapes(targets, logits)
    correct = ops.cast(ops.argmax(logits, axis=-1), "int32") == targets
    return ops.cast(correct, "float32"), real_tokens(targets, pad_id)


def sum_over_replicas(number):
    """Add up a number of all replicas of a tf.distribute strategy; without one, keep it."""
    if keras.backend.backend() != "tensorflow":
        return number
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return number
    return context.all_reduce(tf.distribute.ReduceOp.SUM, number)


def weighted_sum(values, weights, sample_weight=None):
    """Add up values (B, T) with weights (B, T), times those of samples (B,) or tokens (B, T)."""
    if sample_weight is not None:
        sample_weight = ops.cast(sample_weight, "float32")
        is_per_sample = len(sample_weight.shape) == 1
        weights *= ops.expand_dims(sample_weight, -1) if is_per_sample else sample_weight
    return ops.sum(ops.where(weights == 0, 0.0, values * weights))


@keras.saving.register_keras_serializable("tfgpt")
class MaskedLoss(keras.losses.Loss):
    """The mean cross-entropy of the targets that are not padding, for `compile`.

    Of each batch it is what `masked_loss` computes. Under a tf.distribute strategy the
    replicas share one mean over the real tokens of the global batch. A sample weight
    multiplies the losses of its sample, as in Keras's own losses. `fit` and `evaluate`
    show an average over batches as "loss"; for one over all tokens add `Perplexity`.

    Call: loss(targets, logits, sample_weight=None) -> float32 scalar.

    Args:
        pad_id: int or None, the target id that does not count.
        label_smoothing: float in [0, 1).

    Raises:
        ValueError: if an argument is outside its range; when called, as `masked_loss`.

    Example:
        >>> loss = MaskedLoss()
        >>> round(float(loss(np.array([[1, 0]]), np.zeros((1, 2, 4)))), 4)  # ln 4
        1.3863
    """

    def __init__(self, pad_id=0, label_smoothing=0.0, name="masked_loss"):
        super().__init__(name=name)
        self.pad_id = check_pad_id(pad_id, ignored=IGNORED_IDS)
        self.label_smoothing = check_rate("label_smoothing", label_smoothing)

    def __call__(self, y_true, y_pred, sample_weight=None):
        # Keras would divide by the number of all tokens, and use its own mask once more.
        losses, real = weighted_losses(y_true, y_pred, self.pad_id, self.label_smoothing)
        tokens = sum_over_replicas(ops.sum(real))
        return weighted_sum(losses, real, sample_weight) / ops.maximum(tokens, 1.0)

    def call(self, y_true, y_pred):
        """Compute the loss of each target: float32 (B, T), 0 for padding."""
        return weighted_losses(y_true, y_pred, self.pad_id, self.label_smoothing)[0]

    def get_config(self):
        return {
            "name": self.name,
            "pad_id": self.pad_id,
            "label_smoothing": self.label_smoothing,
        }


class TokenMean(keras.metrics.Metric):
    """What the metrics share: a weighted mean over the real tokens of all batches."""

    def __init__(self, pad_id=0, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        self.pad_id = check_pad_id(pad_id, ignored=IGNORED_IDS)
        self.total = self.add_variable((), "zeros", name="total")
        self.weight = self.add_variable((), "zeros", name="weight")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add one batch: targets (B, T), logits (B, T, V), weights (B,) or (B, T)."""
        values, real = self.measure(y_true, y_pred)
        self.total.assign_add(weighted_sum(values, real, sample_weight))
        self.weight.assign_add(weighted_sum(ops.ones_like(values), real, sample_weight))

    def result(self):
        """Return the mean so far; 0 without a token."""
        return ops.divide_no_nan(self.total, self.weight)

    def get_config(self):
        return {**super().get_config(), "pad_id": self.pad_id}


@keras.saving.register_keras_serializable("tfgpt")
class MaskedAccuracy(TokenMean):
    """The share of real targets whose token has the largest logit, over all batches.

    Args:
        pad_id: int or None, the target id that does not count.

    Raises:
        ValueError: if pad_id is outside its range.

    Example:
        >>> metric = MaskedAccuracy()
        >>> metric.update_state(np.array([[1, 1, 0]]), np.eye(3)[None, [1, 0, 0]])
        >>> float(metric.result())
        0.5
    """

    def __init__(self, pad_id=0, name="masked_accuracy", **kwargs):
        super().__init__(pad_id, name, **kwargs)

    def measure(self, y_true, y_pred):
        """Return 1 for a hit, and what counts: float32 (B, T) each."""
        return weighted_hits(y_true, y_pred, self.pad_id)


@keras.saving.register_keras_serializable("tfgpt")
class Perplexity(TokenMean):
    """e to the mean cross-entropy of the real targets of all batches.

    Args:
        pad_id: int or None, the target id that does not count.

    Raises:
        ValueError: if pad_id is outside its range.

    Example:
        >>> metric = Perplexity()
        >>> metric.update_state(np.array([[1, 0]]), np.zeros((1, 2, 4)))
        >>> round(float(metric.result()), 4)
        4.0
    """

    def __init__(self, pad_id=0, name="perplexity", **kwargs):
        super().__init__(pad_id, name, **kwargs)

    def measure(self, y_true, y_pred):
        """Return the losses, and what counts: float32 (B, T) each."""
        return weighted_losses(y_true, y_pred, self.pad_id, 0.0)

    def result(self):
        """Return the perplexity so far; 1 without a token."""
        return ops.exp(super().result())


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
