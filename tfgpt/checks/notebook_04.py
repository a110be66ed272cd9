"""Exercises of notebook 04, multi-head attention."""

from tfgpt.attention import MultiHeadAttention
from tfgpt.checks.registry import Case, add_exercise, features
from tfgpt.layers import DecoderLayer


def count_parameters(layer, d_model):
    """Build a layer for inputs (B, T, d_model) and count its parameters."""
    hidden_shape = (None, None, d_model)
    needs_source = isinstance(layer, DecoderLayer) and layer.cross_attention
    layer.build(hidden_shape, hidden_shape) if needs_source else layer.build(hidden_shape)
    return layer.count_params()


add_exercise(
    "split heads",
    lambda x, num_heads: MultiHeadAttention(num_heads, x.shape[-1]).split_heads(lambda x: x, x),
    Case(
        "2 heads",
        (features(1, 3, 4), 2),
        "Reshape to (B, T, H, K), then exchange the axes 1 and 2.",
    ),
    Case(
        "a batch of 2 with 3 heads",
        (features(2, 4, 6), 3),
        "The batch axis stays in front: (B, H, T, K).",
    ),
    Case("edge case: one head", (features(1, 2, 4), 1), "One head keeps all features."),
)

add_exercise(
    "multi-head attention",
    # Kernels that change nothing leave the split, the attention and the merge.
    lambda query, key, value, num_heads: MultiHeadAttention(
        num_heads, query.shape[-1], use_bias=False, kernel_initializer="identity"
    )(query, key, value),
    Case(
        "self-attention with 2 heads",
        (features(1, 3, 4), features(1, 3, 4), features(1, 3, 4), 2),
        "Split query, key and value; attend; merge: transpose back, then reshape.",
    ),
    Case(
        "3 queries, 5 keys",
        (features(2, 3, 4), features(2, 5, 4) + 1, features(2, 5, 4), 2),
        "The output has one row per query.",
    ),
    Case(
        "edge case: one head",
        (features(1, 3, 4), features(1, 3, 4), features(1, 3, 4), 1),
        "One head is plain attention on all features.",
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
