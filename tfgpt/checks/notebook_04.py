"""Exercises of notebook 04, multi-head attention."""

import keras
from keras import ops

from tfgpt.attention import MultiHeadAttention, scaled_dot_product_attention
from tfgpt.checks.building import TWO_LENGTHS, future_leak, layer_player, output, padding_change
from tfgpt.checks.registry import Build, Case, exercises_of, features
from tfgpt.layers import DecoderLayer
from tfgpt.masks import MaskedLayer

add_exercise = exercises_of("04")


def count_parameters(layer, d_model):
    """Build a layer for inputs (B, T, d_model) and count its parameters."""
    hidden_shape = (None, None, d_model)
    needs_source = isinstance(layer, DecoderLayer) and layer.cross_attention
    layer.build(hidden_shape, hidden_shape) if needs_source else layer.build(hidden_shape)
    return layer.count_params()


class AttentionHead(MaskedLayer):
    """One head: attention on its own projections of the features, (B, T, D) -> (B, T, K)."""

    def __init__(self, head_dim):
        super().__init__()
        self.query_projection = keras.layers.Dense(head_dim)
        self.key_projection = keras.layers.Dense(head_dim)
        self.value_projection = keras.layers.Dense(head_dim)

    def call(self, query, key=None, mask=None):
        key = query if key is None else key
        projected = self.query_projection(query), self.key_projection(key)
        return scaled_dot_product_attention(*projected, self.value_projection(key), mask)[0]


def by_projection_names(x):
    """Ask for the four projections of x, each by its name."""

    def ask(layer):
        if layer(x) is None:
            return None
        names = "query", "key", "value", "output"
        return ops.stack([getattr(layer, f"{name}_projection")(x) for name in names])

    return ask


X, SOURCE = features(2, 4, 6), features(2, 5, 6) + 1
HEAD, TWO_HEADS = {"head_dim": 3}, {"num_heads": 2, "d_model": 6}

add_exercise(
    "attention head",
    AttentionHead,
    Case(
        "self-attention",
        (HEAD, output(X)),
        "Weights in the order query, key, value: Dense(head_dim) with a bias each.",
    ),
    Case(
        "4 queries, 5 keys",
        (HEAD, output(X, SOURCE)),
        "Queries come from query; keys and values come from key.",
    ),
    Case(
        "no look into the future",
        (HEAD, future_leak(X, head_axis=False)),
        "Pass the mask on to attention.",
    ),
    Case(
        "padding", (HEAD, padding_change(X, 3, head_axis=False)), "Pass the mask on to attention."
    ),
    Case(
        "sequences of two lengths",
        (HEAD, output(X, mask=TWO_LENGTHS[:, 0])),
        "The mask (2, 1, 4) differs from sequence to sequence: pass all of it on.",
    ),
    Case("edge case: one token", (HEAD, output(X[:, :1])), "One token sees itself."),
    play=layer_player(AttentionHead),
    build=Build(
        "AttentionHead",
        difficulty=2,
        minutes=10,
        know="sections 1 and 2, `keras.layers.Dense`",
        hints=(
            "Three Dense layers of width head_dim, made in __init__. In call: project, then use "
            "your attention from notebook 01, which also returns the weights.",
            "output, _ = attention(self.query_projection(query), self.key_projection(key), "
            "self.value_projection(key), mask).",
        ),
    ),
)

add_exercise(
    "multi-head attention",
    MultiHeadAttention,
    Case(
        "self-attention with 2 heads",
        (TWO_HEADS, output(X)),
        "Weights in the order query, key, value, output: Dense(d_model) with a bias each. "
        "Project, split, attend, merge, project.",
    ),
    Case(
        "4 queries, 5 keys",
        (TWO_HEADS, output(X, SOURCE)),
        "key=None means query, value=None means key. The output has one row per query.",
    ),
    Case(
        "other values",
        (TWO_HEADS, output(X, SOURCE, SOURCE[::-1])),
        "Values come from value, keys from key.",
    ),
    Case("no look into the future", (TWO_HEADS, future_leak(X)), "Pass the mask to attention."),
    Case("padding", (TWO_HEADS, padding_change(X, 3)), "Pass the mask on to attention."),
    Case(
        "sequences of two lengths",
        (TWO_HEADS, output(X, mask=TWO_LENGTHS)),
        "The mask (2, 1, 1, 4) differs from sequence to sequence: pass all of it on.",
    ),
    Case(
        "its projections by name",
        (TWO_HEADS, by_projection_names(X)),
        "Notebook 10 uses query_projection, key_projection, value_projection, output_projection.",
    ),
    Case(
        "edge case: one head",
        ({"num_heads": 1, "d_model": 6}, output(X)),
        "One head is as wide as the model.",
    ),
    play=layer_player(MultiHeadAttention),
    build=Build(
        "MultiHeadAttention",
        difficulty=4,
        minutes=25,
        know="`AttentionHead`, `split_heads`, `merge_heads`",
        hints=(
            "No loop over heads: attention works on (B, H, T, K) as it is. Split the three "
            "projected arrays, attend once, merge, and project the result.",
            "q = split_heads(self.query_projection(query), self.num_heads), the same for k and "
            "v; output, _ = attention(q, k, v, mask); return "
            "self.output_projection(merge_heads(output)).",
        ),
    ),
)

add_exercise(
    "attention parameters",
    lambda d_model, num_heads, use_bias: count_parameters(
        MultiHeadAttention(num_heads, d_model, use_bias=use_bias), d_model
    ),
    Case("4 heads", (8, 4, True), "Four kernels (D, D) and four biases (D,)."),
    Case("one head", (8, 1, True), "The number of heads changes nothing."),
    Case("edge case: no bias", (12, 2, False), "Without biases only 4 D^2 remain."),
    tolerance=0.0,
)
