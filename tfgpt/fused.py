"""The element-wise parts of a training step, each as one small compiled program.

Between its matrix products a Transformer layer does many small operations, and each
reads and writes whole tensors. Here the four groups that cost most (layer norm,
activation, masked softmax, cross-entropy) are compiled by XLA, forward and backward,
with derivatives written by hand that keep only what the backward pass needs. The matrix
products stay outside: on a CPU TensorFlow runs them faster than XLA does.

TensorFlow only. `REPLACEMENTS` lists what takes the place of which formula while
`make_train_step(..., jit_compile="parts")` is traced; see `tfgpt.parts`. Values and gradients
equal those of the formulas. What has no compiled form here runs as it is.

Shape letters: B batch, T query length, S key length, H heads, D features, V vocabulary.
"""

import functools

import keras
import numpy as np
from keras import ops

from tfgpt.layers import gelu_tanh
from tfgpt.layers import layer_norm as layer_norm_formula
from tfgpt.masks import MASKED_SCORE

# Each number of their result depends on one number of the input only, so that one
# derivative per number is enough. A softmax, or an activation with weights, is none of them.
ELEMENT_WISE = {
    gelu_tanh,
    keras.activations.elu,
    keras.activations.gelu,
    keras.activations.leaky_relu,
    keras.activations.linear,
    keras.activations.mish,
    keras.activations.relu,
    keras.activations.selu,
    keras.activations.sigmoid,
    keras.activations.silu,
    keras.activations.softplus,
    keras.activations.tanh,
}


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
    """Do what tfgpt.layers.layer_norm does; without scale or offset, by that formula."""
    if gamma is None or beta is None:
        return layer_norm_formula.__wrapped__(x, gamma, beta, epsilon)
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
    """Apply an activation; if it is element-wise, with its derivative in the same pass."""
    if activation not in ELEMENT_WISE:
        return activation(x)
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


def softmax(scores, mask):
    """Do what tfgpt.attention.softmax does; scores may be in half precision."""
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


def token_losses(targets, logits, weights, label_smoothing):
    """Do what tfgpt.losses.token_losses does; logits may be in half precision."""
    import tensorflow as tf

    @tf.custom_gradient
    def run(logits):
        losses, log_sum = losses_forward(targets, logits, weights, label_smoothing)

        def gradient(upstream):
            upstream = upstream * weights
            return losses_backward(targets, logits, log_sum, upstream, label_smoothing)

        return losses, gradient

    return run(logits)


@compiled
def losses_forward(targets, logits, weights, label_smoothing):
    """Return the losses (B, T) and log sum exp(logits), (B, T, 1)."""
    logits = ops.cast(logits, "float32")
    largest = ops.max(logits, axis=-1, keepdims=True)
    log_sum = ops.log(row_sums(ops.exp(logits - largest))) + largest  # (B, T, 1)
    score = ops.take_along_axis(logits, targets[..., None], axis=-1)
    if label_smoothing:
        finite = logits > -np.inf
        mean = row_sums(ops.where(finite, logits, 0.0)) / row_sums(ops.cast(finite, "float32"))
        score = (1 - label_smoothing) * score + label_smoothing * mean
    return ops.where(weights > 0, (log_sum - score)[..., 0], 0.0), log_sum


@compiled
def losses_backward(targets, logits, log_sum, upstream, label_smoothing):
    """Compute (probabilities - wanted distribution) x upstream, (B, T, V)."""
    wide = ops.cast(logits, "float32")
    probabilities = ops.exp(wide - log_sum)
    is_target = ops.arange(logits.shape[-1], dtype="int32") == targets[..., None]
    wanted = ops.where(is_target, 1.0 - label_smoothing, 0.0)
    if label_smoothing:
        finite = ops.cast(wide > -np.inf, "float32")
        wanted = wanted + label_smoothing * finite / row_sums(finite)
    upstream = upstream[..., None]
    # What does not count is not read: its logits may be NaN.
    result = ops.where(upstream == 0, 0.0, (probabilities - wanted) * upstream)
    return ops.cast(result, logits.dtype)


# The compiled form of each formula that has one, by the formula's name.
REPLACEMENTS = {
    "activate": activate,
    "layer_norm": layer_norm,
    "softmax": softmax,
    "to_float32": lambda x: x,  # the part that reads x casts it
    "token_losses": token_losses,
}
