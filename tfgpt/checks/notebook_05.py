"""Exercises of notebook 05, encoder and decoder layers."""

import numpy as np
from keras import ops

from tfgpt import layers
from tfgpt.checks.building import TWO_LENGTHS, future_leak, layer_player, output, padding_change
from tfgpt.checks.notebook_04 import count_parameters
from tfgpt.checks.registry import Build, Case, exercises_of, features
from tfgpt.layers import DecoderLayer, FeedForward
from tfgpt.masks import causal_mask

add_exercise = exercises_of("05")


def LayerNorm(epsilon=1e-5):  # noqa: N802  (it stands for the learner's class)
    """Make tfgpt's layer norm with the signature of the exercise."""
    return layers.LayerNorm(epsilon=epsilon)


def Block(d_model, num_heads, dff):  # noqa: N802  (it stands for the learner's class)
    """Make tfgpt's GPT block: a decoder layer without cross-attention, pre-norm, GELU."""
    style = {"norm_first": True, "activation": "gelu", "norm_epsilon": 1e-5}
    return DecoderLayer(d_model, num_heads, dff, dropout=0.0, cross_attention=False, **style)


def norm(x):
    """Normalise the features of each position with Keras's own operation."""
    x = ops.convert_to_tensor(x, dtype="float32")
    return ops.layer_normalization(x, axis=-1, epsilon=1e-6)


def by_part_names(x):
    """Ask for the parts of a block, each by its name."""

    def ask(block):
        if block(x) is None:
            return None
        parts = block.self_attention_norm, block.self_attention
        parts += block.feed_forward_norm, block.feed_forward
        return ops.stack([part(x) for part in parts])

    return ask


X = features(2, 4, 6)
NARROW, BLOCK = {"d_model": 6, "dff": 8}, {"d_model": 6, "num_heads": 2, "dff": 8}

add_exercise(
    "feed-forward",
    FeedForward,
    Case(
        "ReLU",
        (NARROW, output(X)),
        "Two Dense layers with biases, first of width dff, then of width d_model.",
    ),
    Case(
        "GELU",
        ({**NARROW, "activation": "gelu"}, output(X)),
        "The activation stands between the two products, and nowhere else.",
    ),
    Case(
        "edge case: dff below d_model",
        ({"d_model": 6, "dff": 1}, output(X)),
        "The output is d_model wide, whatever dff is.",
    ),
    play=layer_player(FeedForward),
    build=Build(
        "FeedForward",
        difficulty=1,
        minutes=5,
        know="section 1, `keras.layers.Dense`",
        hints=(
            "Two Dense layers. The first one takes the activation; the second one has none.",
            "In __init__: self.expand = keras.layers.Dense(dff, activation=activation) and "
            "self.contract = keras.layers.Dense(d_model). In call: one after the other.",
        ),
    ),
)

add_exercise(
    "layer norm",
    LayerNorm,
    Case(
        "two rows",
        ({"epsilon": 1e-6}, output(features(2, 4))),
        "Over the last axis: subtract the mean, divide by the deviation; then gain, then bias. "
        "Weights in this order: gain (D,), bias (D,). Mind epsilon.",
    ),
    Case(
        "three axes",
        ({"epsilon": 1e-6}, output(features(2, 3, 4))),
        "axis=-1 and keepdims=True.",
    ),
    Case(
        "edge case: equal features",
        ({"epsilon": 1e-6}, output(np.full((1, 4), 3.0, "float32"))),
        "The variance is 0: add epsilon to it before the square root.",
    ),
    Case(
        "edge case: features that hardly differ",
        ({"epsilon": 1e-6}, output(1e-3 * features(2, 4))),
        "Divide by sqrt(variance + epsilon): epsilon is inside the root.",
    ),
    Case(
        "edge case: another epsilon",
        ({"epsilon": 0.5}, output(features(2, 4))),
        "Use the epsilon that the layer was made with.",
    ),
    play=layer_player(LayerNorm),
    tolerance=1e-4,  # float32, divided by a small epsilon
    build=Build(
        "LayerNorm",
        difficulty=2,
        minutes=10,
        know="the formula above, `ops.mean`, `ops.var`",
        hints=(
            "Mean and variance of the last axis, with keepdims=True, so that the shapes fit. "
            "Epsilon is added to the variance, not to the deviation.",
            "ops.mean and ops.var with axis=-1, keepdims=True; then self.gain * (x - mean) / "
            "ops.sqrt(variance + self.epsilon) + self.bias.",
        ),
    ),
)

add_exercise(
    "block",
    Block,
    Case(
        "without a mask",
        (BLOCK, output(X)),
        "Pre-norm: x + attention(norm(x)), then x + feed_forward(norm(x)). GELU, epsilon=1e-5. "
        "Parts in this order: attention, its norm, feed-forward, its norm.",
    ),
    Case(
        "with a causal mask",
        (BLOCK, output(X, mask=causal_mask(4))),
        "The mask belongs to the attention.",
    ),
    Case("no look into the future", (BLOCK, future_leak(X)), "Pass the mask to the attention."),
    Case("padding", (BLOCK, padding_change(X, 3)), "Pass the mask on to the attention."),
    Case(
        "sequences of two lengths",
        (BLOCK, output(X, mask=TWO_LENGTHS)),
        "The mask (2, 1, 1, 4) differs from sequence to sequence: pass all of it on.",
    ),
    Case(
        "its parts by name",
        (BLOCK, by_part_names(X)),
        "Notebook 10 uses self_attention, self_attention_norm, feed_forward, feed_forward_norm.",
    ),
    Case("edge case: one token", (BLOCK, output(X[:, :1])), "Nothing changes for one token."),
    play=layer_player(Block),
    build=Build(
        "Block",
        difficulty=3,
        minutes=20,
        know="sections 3 and 4",
        hints=(
            "Four parts and two sums. Each sum adds to x what a sublayer makes of the "
            "normalised x. Two norms: each has weights of its own.",
            "x = x + self.self_attention(self.self_attention_norm(x), mask=mask), and then "
            "the same with feed_forward, which takes no mask.",
        ),
    ),
)

add_exercise(
    "residual",
    lambda x, sublayer, norm_first: x + sublayer(norm(x)) if norm_first else norm(x + sublayer(x)),
    Case(
        "post-norm",
        (features(2, 4), lambda x: 2 * x + 1, False),
        "The norm comes last. Its epsilon is 1e-6.",
    ),
    Case(
        "pre-norm",
        (features(2, 4), lambda x: 2 * x + 1, True),
        "Only the sublayer reads normalised values.",
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
