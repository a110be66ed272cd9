"""Attention, written by hand: the formula and the multi-head layer.

Shape letters: B batch, T query length, S key length, H heads, D model width,
K head width. Built step by step in notebooks 01 and 04.
"""

import math

import keras
from keras import ops

from tfgpt.masks import MASKED_SCORE, MaskedLayer, fit_mask
from tfgpt.parts import part, to_float32
from tfgpt.positional import apply_rotary
from tfgpt.validation import check_positive, check_rate, copy_initializer


def scaled_dot_product_attention(query, key, value, mask=None):
    """Compute softmax(query key^T / sqrt(K)) value.

    Scores and softmax are float32 for every input dtype. A query whose keys are
    all masked gets weights 0 and output 0.

    Args:
        query: float tensor (..., T, K).
        key: float tensor (..., S, K).
        value: float tensor (..., S, V).
        mask: bool tensor, broadcastable to (..., T, S), True = may attend. Its
            head axis of size 1 is dropped if the inputs have no heads (B, T, K).

    Returns:
        output: (..., T, V), dtype of `value`.
        weights: float32 (..., T, S), each row sums to 1 (or to 0 if fully masked).

    Raises:
        TypeError: if the mask is not boolean.
        ValueError: if widths or lengths do not fit, or the mask does not broadcast.

    Example:
        >>> import numpy as np
        >>> x = np.eye(2, dtype="float32")[None]
        >>> output, weights = scaled_dot_product_attention(x, x, x)
        >>> np.array(weights)[0].astype(float).round(2).tolist()  # exp(0.71) / (exp(0.71) + 1)
        [[0.67, 0.33], [0.33, 0.67]]

    Source: "Attention Is All You Need", equation 1.
    """
    query, key, value = (ops.convert_to_tensor(x) for x in (query, key, value))
    scores = attention_scores(query, key)
    weights = masked_softmax(scores, mask)
    return weighted_sum(weights, value), weights


def attention_scores(query, key):
    """Compute query key^T / sqrt(K) in float32.

    Args:
        query: float tensor (..., T, K).
        key: float tensor (..., S, K).

    Returns:
        float32 tensor (..., T, S).

    Raises:
        ValueError: if the last sizes differ.
    """
    head_dim = query.shape[-1]
    if key.shape[-1] != head_dim:
        raise ValueError(
            f"key must have the width of query, {head_dim}, got shape {tuple(key.shape)}."
        )
    if keras.backend.standardize_dtype(query.dtype) == "float16":
        # A product of float16 vectors can be above 65,504, where float16 ends.
        query, key = ops.cast(query, "float32"), ops.cast(key, "float32")
    # Scaling the query costs T x K products, scaling the scores T x S.
    query = query * ops.cast(1 / math.sqrt(head_dim), query.dtype)
    # (..., T, K) x (..., K, S) -> (..., T, S)
    return to_float32(ops.matmul(query, ops.swapaxes(key, -1, -2)))


def masked_softmax(scores, mask=None):
    """Turn scores into weights that sum to 1 over the allowed keys.

    Args:
        scores: float32 tensor (..., T, S).
        mask: bool tensor, broadcastable to `scores`, True = may attend.

    Returns:
        float32 tensor (..., T, S). A row with no allowed key is all zeros.

    Raises:
        TypeError: if the mask is not boolean.
        ValueError: if the mask does not broadcast to `scores`.
    """
    return softmax(scores, None if mask is None else fit_mask(mask, scores.shape))


@part
def softmax(scores, mask):
    """Compute exp(score) / sum of exp(scores) over the allowed keys, 0 for the others."""
    if mask is not None:
        scores = ops.where(mask, scores, MASKED_SCORE)
    # Keras warns about a softmax over one value; for attention that is no mistake.
    one_key = scores.shape[-1] == 1
    weights = ops.ones_like(scores) if one_key else ops.softmax(scores, axis=-1)
    return weights if mask is None else ops.where(mask, weights, 0.0)


def weighted_sum(weights, value):
    """Average the values with the attention weights.

    Args:
        weights: float32 tensor (..., T, S).
        value: float tensor (..., S, V).

    Returns:
        tensor (..., T, V), dtype of `value`.

    Raises:
        ValueError: if the key lengths differ.
    """
    lengths = weights.shape[-1], value.shape[-2]
    if None not in lengths and lengths[0] != lengths[1]:
        raise ValueError(
            f"value must have one row per key, {lengths[0]}, got shape {tuple(value.shape)}."
        )
    # (..., T, S) x (..., S, V) -> (..., T, V)
    return ops.matmul(ops.cast(weights, value.dtype), value)


def is_full(cache, start):
    """Say whether a cache (B, H, C, K) has no room behind `start`; only a number can tell."""
    return isinstance(start, int) and cache.shape[2] == start


def write_cache(cache, heads, start):
    """Put new heads (B, H, T, K) into a cache, or behind a full one: there gradients pass."""
    heads = ops.cast(heads, cache.dtype)
    if is_full(cache, start):
        return ops.concatenate([cache, heads], axis=2)
    return ops.slice_update(cache, (0, 0, start, 0), heads)


@keras.saving.register_keras_serializable("tfgpt")
class MultiHeadAttention(MaskedLayer):
    """Attend with several heads, each with its own projections of all features.

    Projected queries, keys and values are split, not the sequence: head_dim =
    d_model / num_heads, so the layer has 4 d_model^2 weights (and 4 d_model biases)
    for any num_heads.
    `mask` is boolean, True = may attend, broadcastable to (B, H, T, S).
    `training=True` turns on dropout of the attention weights. Projections run in
    the compute dtype, scores and softmax in float32.

    Call: layer(query, key=None, value=None, mask=None,
    return_attention_weights=False). `key` defaults to `query` (self-attention),
    `value` to `key`. The order is query, key, value; Keras's own layer takes
    query, value, key.

    Args:
        num_heads: int >= 1, H.
        d_model: int, D, a multiple of num_heads; the width of the output.
        dropout: float in [0, 1), the share of attention weights dropped.
        use_bias: bool, add a bias to the four projections.
        rotary: bool, rotate queries and keys by their position (self-attention
            only; head_dim must be even).
        kernel_initializer: initial values of the query, key and value kernels.
        output_initializer: initial values of the output kernel; default: the
            same as kernel_initializer.

    Returns:
        output (B, T, D); with return_attention_weights=True also the weights,
        float32 (B, H, T, S), before dropout.

    Raises:
        ValueError: if num_heads does not divide d_model, a rate is outside
            [0, 1), or rotary is used with a key.
        TypeError: if the mask is not boolean.

    Example:
        >>> x = keras.random.normal((2, 5, 8))
        >>> output, weights = MultiHeadAttention(2, 8)(x, return_attention_weights=True)
        >>> tuple(output.shape), tuple(weights.shape)
        ((2, 5, 8), (2, 2, 5, 5))

    Source: "Attention Is All You Need", section 3.2.2; notebook 04.
    """

    def __init__(
        self,
        num_heads,
        d_model,
        dropout=0.0,
        use_bias=True,
        *,
        rotary=False,
        kernel_initializer="glorot_uniform",
        output_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        num_heads = check_positive("num_heads", num_heads)
        d_model = check_positive("d_model", d_model)
        if d_model % num_heads:
            raise ValueError(
                f"num_heads must divide d_model, got num_heads={num_heads}, d_model={d_model}."
            )
        if rotary and (d_model // num_heads) % 2:
            raise ValueError(
                f"rotary needs an even head_dim, got d_model / num_heads = {d_model // num_heads}."
            )
        self.num_heads = num_heads
        self.d_model = d_model
        self.head_dim = d_model // num_heads
        self.dropout = check_rate("dropout", dropout)
        self.use_bias = use_bias
        self.rotary = rotary
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)

        def projection(name, initializer):
            return keras.layers.Dense(
                d_model,
                use_bias=use_bias,
                kernel_initializer=copy_initializer(initializer),
                dtype=self.dtype_policy,
                name=name,
            )

        self.query_projection = projection("query", self.kernel_initializer)
        self.key_projection = projection("key", self.kernel_initializer)
        self.value_projection = projection("value", self.kernel_initializer)
        self.output_projection = projection(
            "output", self.output_initializer or self.kernel_initializer
        )
        self.weights_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy)

    def build(self, query_shape, key_shape=None, value_shape=None):
        key_shape = key_shape or query_shape
        self.query_projection.build(query_shape)
        self.key_projection.build(key_shape)
        self.value_projection.build(value_shape or key_shape)
        self.output_projection.build((*query_shape[:-1], self.d_model))

    def call(
        self,
        query,
        key=None,
        value=None,
        mask=None,
        return_attention_weights=False,
        training=None,
    ):
        key, value = self.fill_inputs(query, key, value)
        heads = self.project(query, key, value)
        output, weights = self.attend(*heads, mask, training)
        return (output, ops.cast(weights, "float32")) if return_attention_weights else output

    def fill_inputs(self, query, key, value):
        """Return key and value, by default the query; raise unless all three fit."""
        if self.rotary and key is not None:
            raise ValueError("rotary positions need key=None: they compare places in one sequence.")
        key = query if key is None else key
        value = key if value is None else value
        for name, x in (("query", query), ("key", key), ("value", value)):
            if len(x.shape) != 3:
                raise ValueError(
                    f"{name} must have shape (batch, length, features), got {tuple(x.shape)}."
                )
        if None not in (key.shape[1], value.shape[1]) and key.shape[1] != value.shape[1]:
            raise ValueError(
                f"value must have one row per key, {key.shape[1]}, got shape {tuple(value.shape)}."
            )
        return key, value

    def project(self, query, key, value, start=0):
        """Make the heads' queries, keys and values; `start` is the first position."""
        length = ops.shape(query)[1]
        query = self.split_heads(self.query_projection, query)  # (B, T, D) -> (B, H, T, K)
        key, value = self.project_keys(key, value)
        if self.rotary:
            positions = start + ops.arange(length, dtype="int32")
            query, key = apply_rotary(query, positions), apply_rotary(key, positions)
        return query, key, value

    def project_keys(self, key, value):
        """Make the heads' keys and values, which do not depend on the queries."""
        key = self.split_heads(self.key_projection, key)  # (B, S, D) -> (B, H, S, K)
        value = self.split_heads(self.value_projection, value)  # (B, S, D) -> (B, H, S, K)
        return key, value

    def attend(self, query, key, value, mask, training=False):
        """Run attention in every head; return output (B, T, D), weights (B, H, T, S)."""
        weights = masked_softmax(attention_scores(query, key), mask)  # (B, H, T, S)
        dropped = self.weights_dropout(weights, training=training)
        heads = weighted_sum(dropped, value)  # (B, H, T, K)
        return self.output_projection(self.merge_heads(heads)), weights

    def make_cache(self, batch_size, length):
        """Make the empty memory of `decode`: keys and values, zeros (B, H, C, K) each."""
        shape = (batch_size, self.num_heads, length, self.head_dim)
        return tuple(ops.zeros(shape, dtype=self.compute_dtype) for _ in ("keys", "values"))

    def decode(self, x, cache, start, mask):
        """Attend from new tokens to all tokens so far.

        Args:
            x: float tensor (B, T, D), the new tokens.
            cache: keys and values so far, two tensors (B, H, C, K).
            start: int scalar, the position of the first new token.
            mask: bool tensor, broadcastable to (B, H, T, C), or to (B, H, T, C + T) if the
                cache is full.

        Returns:
            output (B, T, D), and the cache with the new keys and values in it.
        """
        query, *new = self.project(x, x, x, start)
        cache = tuple(write_cache(*pair, start) for pair in zip(cache, new, strict=True))
        output, _ = self.attend(query, *cache, mask)
        return output, cache

    def decode_cross(self, x, memory, mask):
        """Attend from new tokens to keys and values that stay the same.

        Args:
            x: float tensor (B, T, D), the new tokens.
            memory: what `project_keys` returned, two tensors (B, H, S, K).
            mask: bool tensor, broadcastable to (B, H, T, S).

        Returns:
            output (B, T, D).
        """
        query = self.split_heads(self.query_projection, x)  # (B, T, D) -> (B, H, T, K)
        return self.attend(query, *memory, mask)[0]

    def split_heads(self, projection, x):
        """Project the features and cut them into heads: (B, T, D) -> (B, H, T, K)."""
        batch, length = ops.shape(x)[:2]
        heads = ops.reshape(projection(x), (batch, length, self.num_heads, self.head_dim))
        return ops.transpose(heads, (0, 2, 1, 3))

    def merge_heads(self, x):
        """Put the heads side by side again: (B, H, T, K) -> (B, T, D)."""
        batch, _, length, _ = ops.shape(x)
        return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch, length, self.d_model))

    def compute_output_shape(self, query_shape, key_shape=None, value_shape=None):
        return (*query_shape[:-1], self.d_model)

    def compute_output_spec(
        self,
        query,
        key=None,
        value=None,
        mask=None,
        return_attention_weights=False,
        training=None,
    ):
        key, value = self.fill_inputs(query, key, value)
        shape = (query.shape[0], self.num_heads, query.shape[1], key.shape[1])
        if mask is not None:
            fit_mask(mask, shape)
        output = keras.KerasTensor((*query.shape[:-1], self.d_model), dtype=self.compute_dtype)
        weights = keras.KerasTensor(shape, dtype="float32")
        return (output, weights) if return_attention_weights else output

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "d_model": self.d_model,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "rotary": self.rotary,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
        }
