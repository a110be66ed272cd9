"""Exercises of notebook 05, encoder and decoder layers."""

import numpy as np
from keras import ops

from tfgpt.checks.notebook_04 import count_parameters
from tfgpt.checks.registry import Case, add_exercise, features
from tfgpt.layers import DecoderLayer


def layer_norm(x, gain=1.0, bias=0.0, epsilon=1e-6):
    """Normalise the features of each position with Keras's own operation."""
    x = ops.convert_to_tensor(x, dtype="float32")
    ones = ops.ones(x.shape[-1:])
    return ops.layer_normalization(x, gain * ones, bias * ones, axis=-1, epsilon=epsilon)


add_exercise(
    "layer norm",
    layer_norm,
    Case(
        "gain 1, bias 0",
        (features(2, 4), 1.0, 0.0),
        "Subtract the mean, divide by the standard deviation, over the last axis.",
    ),
    Case(
        "gain 2, bias 1",
        (features(1, 3, 4), 2.0, 1.0),
        "The gain multiplies, the bias is added, both after the division.",
    ),
    Case(
        "edge case: equal features",
        (np.full((1, 4), 3.0, "float32"), 1.0, 0.0),
        "The variance is 0: add epsilon=1e-6 to it before the square root.",
    ),
    Case(
        "edge case: features that hardly differ",
        (1e-3 * features(2, 4), 1.0, 0.0),
        "Divide by sqrt(variance + epsilon): epsilon=1e-6 is inside the root.",
    ),
)

add_exercise(
    "residual",
    lambda x, sublayer, norm_first: (
        x + sublayer(layer_norm(x)) if norm_first else layer_norm(x + sublayer(x))
    ),
    Case(
        "post-norm",
        (features(2, 4), lambda x: 2 * x + 1, False),
        "norm(x + sublayer(x)): the norm comes last.",
    ),
    Case(
        "pre-norm",
        (features(2, 4), lambda x: 2 * x + 1, True),
        "x + sublayer(norm(x)): only the sublayer reads normalised values.",
    ),
    Case(
        "edge case: a sublayer that returns 0, pre-norm",
        (features(2, 4), lambda x: 0 * x, True),
        "Then x must come through unchanged.",
    ),
)

add_exercise(
    "layer parameters",
    lambda d_model, dff, cross_attention: count_parameters(
        DecoderLayer(d_model, 1, dff, cross_attention=cross_attention), d_model
    ),
    Case(
        "a GPT block",
        (8, 32, False),
        "One attention (4 D^2 + 4 D), one feed-forward, two norms of 2 D.",
    ),
    Case(
        "with cross-attention",
        (8, 32, True),
        "Cross-attention adds one more attention and one more norm.",
    ),
    Case(
        "edge case: dff below d_model",
        (8, 2, False),
        "The feed-forward has two kernels and two biases: 2 D dff + dff + D.",
    ),
    tolerance=0.0,
)
