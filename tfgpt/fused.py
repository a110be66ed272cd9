"""The element-wise parts of a training step, each as one small compiled program.

Between its matrix products a Transformer layer does many small operations, and each
reads and writes whole tensors. Here the four groups that cost most (layer norm,
activation, masked softmax, cross-entropy) are compiled by XLA, forward and backward,
with derivatives written by hand that keep only what the backward pass needs. The matrix
products stay outside: on a CPU TensorFlow runs them faster than XLA does.

TensorFlow only. Layers use these functions inside `fused_parts()`, which
`make_train_step(..., jit_compile="parts")` opens while it is traced. Values and gradients
equal those of the plain functions, which every other call uses.

Shape letters: B batch, T query length, S key length, H heads, D features, V vocabulary.
"""

import contextlib
import contextvars
import functools

from keras import ops

from tfgpt.masks import MASKED_SCORE

_fusing = contextvars.ContextVar("fusing", default=False)


@contextlib.contextmanager
def fused_parts():
    """Let tfgpt's layers and losses use the compiled parts inside this block."""
    token = _fusing.set(True)
    try:
        yield
    finally:
        _fusing.reset(token)


def is_fusing():
    """Return True inside `fused_parts()`."""
    return _fusing.get()


def to_float32(x):
    """Cast to float32; inside `fused_parts()` leave it to the compiled part that reads x."""
    return x if is_fusing() else ops.cast(x, "float32")


def compiled(function):
    """Compile a function with XLA when it is first called; without tensorflow, do nothing."""

    @functools.cache
    def program():
        import tensorflow as tf

        return tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def run(*arguments):
        return program()(*arguments)

    return run


def row_sums(x):
    """Sum the last axis and keep it as size 1: float32 (..., D) -> (..., 1)."""
    import tensorflow as tf

    if tf.config.list_logical_devices("GPU"):
        return tf.reduce_sum(x, axis=-1, keepdims=True)
    # On a CPU a product with ones is about twice as fast as XLA's sum.
    width = tf.shape(x)[-1]
    sums = tf.matmul(tf.reshape(x, (-1, width)), tf.ones((width, 1)))
    return tf.reshape(sums, tf.concat([tf.shape(x)[:-1], [1]], axis=0))


def column_sums(x):
    """Sum all axes but the last, with one matrix product: (..., D) -> (D,)."""
    import tensorflow as tf

    rows = tf.reshape(x, (-1, x.shape[-1]))
    return tf.matmul(tf.ones((1, tf.shape(rows)[0]), x.dtype), rows)[0]


def layer_norm(x, gamma, beta, epsilon):
    """Normalise the features of each position, as keras.layers.LayerNormalization does.

    Args:
        x: float tensor (B, T, D).
        gamma: float32 tensor (D,), the scale.
        beta: float32 tensor (D,), the offset.
        epsilon: float > 0, added to the variance.

    Returns:
        tensor (B, T, D), dtype of x. Statistics are float32.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def run(x, gamma, beta):
        output, normed, scale = norm_forward(x, gamma, beta, epsilon)

        def gradient(upstream):
            to_x, to_gamma = norm_backward(normed, scale, gamma, upstream)
            return (
                to_x,
                tf.cast(column_sums(to_gamma), gamma.dtype),
                tf.cast(column_sums(upstream), beta.dtype),
            )

        return output, gradient

    return run(x, tf.convert_to_tensor(gamma), tf.convert_to_tensor(beta))


@compiled
def norm_forward(x, gamma, beta, epsilon):
    """Return the output, and what the backward pass needs: normed x and 1 / deviation."""
    wide = ops.cast(x, "float32")
    centred = wide - row_sums(wide) / x.shape[-1]
    scale = ops.rsqrt(row_sums(centred * centred) / x.shape[-1] + epsilon)  # (B, T, 1)
    normed = centred * scale
    gamma, beta = ops.cast(gamma, "float32"), ops.cast(beta, "float32")
    return ops.cast(normed * gamma + beta, x.dtype), ops.cast(normed, x.dtype), scale


@compiled
def norm_backward(normed, scale, gamma, upstream):
    """Return the gradient of x, and what sums over positions to that of gamma."""
    normed, wide = ops.cast(normed, "float32"), ops.cast(upstream, "float32")
    width = normed.shape[-1]
    to_normed = wide * ops.cast(gamma, "float32")
    along = row_sums(to_normed * normed) / width
    to_x = scale * (to_normed - row_sums(to_normed) / width - normed * along)
    return ops.cast(to_x, upstream.dtype), ops.cast(wide * normed, upstream.dtype)


def activate(activation, x):
    """Apply an element-wise activation; its derivative is computed in the same pass.

    Args:
        activation: function of a tensor, element by element.
        x: float tensor of any shape.

    Returns:
        tensor of the same shape and dtype.
    """
    import tensorflow as tf

    forward = activation_program(activation)

    @tf.custom_gradient
    def run(x):
        output, slope = forward(x)
        return output, lambda upstream: upstream * slope

    return run(x)


@functools.cache
def activation_program(activation):
    """Make the compiled function x -> (activation(x), its derivative)."""
    import tensorflow as tf

    @compiled
    def forward(x):
        wide = ops.cast(x, "float32")
        output = activation(wide)
        # Not a GradientTape: rematerialisation pauses the recording of tapes.
        (slope,) = tf.gradients(output, wide)
        return ops.cast(output, x.dtype), ops.cast(slope, x.dtype)

    return forward


def masked_softmax(scores, mask):
    """Turn scores into weights, as tfgpt.attention.masked_softmax does.

    Args:
        scores: float tensor (B, H, T, S).
        mask: bool tensor, broadcastable to `scores`, True = may attend; or None.

    Returns:
        tensor (B, H, T, S), dtype of `scores`. The softmax is float32.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def run(scores):
        weights = softmax_forward(scores, mask)
        return weights, lambda upstream: softmax_backward(weights, upstream)

    return run(scores)


@compiled
def softmax_forward(scores, mask):
    """Compute the weights (B, H, T, S); a row with no allowed key is all zeros."""
    wide = ops.cast(scores, "float32")
    if mask is not None:
        wide = ops.where(mask, wide, MASKED_SCORE)
    grown = ops.exp(wide - ops.max(wide, axis=-1, keepdims=True))
    weights = grown / row_sums(grown)
    if mask is not None:
        weights = ops.where(mask, weights, 0.0)
    return ops.cast(weights, scores.dtype)


@compiled
def softmax_backward(weights, upstream):
    """Compute weights x (upstream - sum(weights x upstream))."""
    wide = ops.cast(weights, "float32")
    part = wide * ops.cast(upstream, "float32")
    return ops.cast(part - wide * row_sums(part), weights.dtype)


def cross_entropy(targets, logits, label_smoothing):
    """Compute -log p(target), with label smoothing, from logits.

    Args:
        targets: int32 tensor (B, T).
        logits: float tensor (B, T, V).
        label_smoothing: float in [0, 1).

    Returns:
        float32 tensor (B, T), in nats.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def run(logits):
        losses, log_sum = cross_entropy_forward(targets, logits, label_smoothing)

        def gradient(upstream):
            return cross_entropy_backward(targets, logits, log_sum, upstream, label_smoothing)

        return losses, gradient

    return run(logits)


@compiled
def cross_entropy_forward(targets, logits, label_smoothing):
    """Return the losses (B, T) and log sum exp(logits), (B, T, 1)."""
    logits = ops.cast(logits, "float32")
    largest = ops.max(logits, axis=-1, keepdims=True)
    log_sum = ops.log(row_sums(ops.exp(logits - largest))) + largest  # (B, T, 1)
    chosen = ops.take_along_axis(logits, targets[..., None], axis=-1)
    losses = log_sum - (1 - label_smoothing) * chosen
    if label_smoothing:
        losses -= label_smoothing * row_sums(logits) / logits.shape[-1]
    return losses[..., 0], log_sum


@compiled
def cross_entropy_backward(targets, logits, log_sum, upstream, label_smoothing):
    """Compute (probabilities - wanted distribution) x upstream, (B, T, V)."""
    vocab_size = logits.shape[-1]
    probabilities = ops.exp(ops.cast(logits, "float32") - log_sum)
    is_target = ops.arange(vocab_size, dtype="int32") == targets[..., None]
    wanted = ops.where(is_target, 1.0 - label_smoothing, 0.0) + label_smoothing / vocab_size
    return ops.cast((probabilities - wanted) * upstream[..., None], logits.dtype)
