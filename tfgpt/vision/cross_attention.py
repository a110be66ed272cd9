"""Gated cross-attention: how text looks at images in Flamingo.

Shape letters: B batch, T length of the text, S image vectors, D model width, H heads, K head
width.
"""

import keras
from keras import ops

from tfgpt.attention import MultiHeadAttention
from tfgpt.layers import FeedForward, LayerNorm
from tfgpt.masks import MaskedLayer
from tfgpt.validation import check_positive, check_rate


@keras.saving.register_keras_serializable("tfgpt")
class GatedCrossAttention(MaskedLayer):
    """Add to text what it finds in images, through gates that begin closed.

    x = x + tanh(a) attention(norm(x), images); x = x + tanh(b) feed_forward(norm(x)).
    The numbers a and b begin at 0: a new layer changes nothing, so it may be put into a GPT
    that is trained already. `cross_mask` is boolean, True = may attend, broadcastable to
    (B, H, T, S). `training=True` turns on dropout. Softmax and norm statistics are float32.

    Call: layer(x, visual, cross_mask=None, return_attention_weights=False).

    Args:
        d_model: int, D, a multiple of num_heads.
        num_heads: int >= 1, H.
        dff: int >= 1, inner width of the feed-forward network.
        dropout: float in [0, 1).

    Returns:
        output (B, T, D); with return_attention_weights=True also float32 (B, H, T, S).

    Raises:
        ValueError: if an argument is outside its range.
        TypeError: if the mask is not boolean.

    Example:
        >>> layer = GatedCrossAttention(d_model=8, num_heads=2, dff=16)
        >>> x, visual = keras.random.normal((1, 3, 8)), keras.random.normal((1, 4, 8))
        >>> bool(ops.all(layer(x, visual) == x))
        True

    Source: Alayrac et al., "Flamingo" (2022), section 2.2, figure 4.
    """

    def __init__(self, d_model, num_heads, dff, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.d_model = check_positive("d_model", d_model)
        self.num_heads = check_positive("num_heads", num_heads)
        self.dff = check_positive("dff", dff)
        self.dropout = check_rate("dropout", dropout)
        own = {"dtype": self.dtype_policy}
        self.attention = MultiHeadAttention(
            self.num_heads, self.d_model, dropout=self.dropout, name="attention", **own
        )
        self.attention_norm = LayerNorm(name="attention_norm", **own)
        self.feed_forward = FeedForward(
            self.d_model, self.dff, "gelu", self.dropout, name="feed_forward", **own
        )
        self.feed_forward_norm = LayerNorm(name="feed_forward_norm", **own)

    def build(self, x_shape, visual_shape=None):
        self.attention.build(x_shape, visual_shape or x_shape)
        self.attention_norm.build(x_shape)
        self.feed_forward.build(x_shape)
        self.feed_forward_norm.build(x_shape)
        self.attention_gate = self.add_weight(shape=(), initializer="zeros", name="attention_gate")
        self.feed_forward_gate = self.add_weight(
            shape=(), initializer="zeros", name="feed_forward_gate"
        )

    def call(self, x, visual, cross_mask=None, return_attention_weights=False, training=None):
        found = self.attention(
            self.attention_norm(x),
            visual,
            mask=cross_mask,
            return_attention_weights=return_attention_weights,
            training=training,
        )
        found, weights = found if return_attention_weights else (found, None)
        x = self.add(x, found, training)
        return (x, weights) if return_attention_weights else x

    def add(self, x, found, training=None):
        """Add what attention found, then what the feed-forward network makes of it."""
        x = x + ops.tanh(ops.cast(self.attention_gate, x.dtype)) * found
        found = self.feed_forward(self.feed_forward_norm(x), training=training)
        return x + ops.tanh(ops.cast(self.feed_forward_gate, x.dtype)) * found

    def memory(self, visual):
        """Make the keys and values of images, two tensors (B, H, S, K): once per text."""
        return self.attention.project_keys(visual, visual)

    def decode(self, x, memory, cross_mask):
        """Run new tokens (B, T, D) with the keys and values that `memory` returned."""
        found = self.attention.decode_cross(self.attention_norm(x), memory, cross_mask)
        return self.add(x, found)

    def compute_output_spec(
        self, x, visual, cross_mask=None, return_attention_weights=False, training=None
    ):
        _, weights = self.attention.compute_output_spec(
            x, visual, mask=cross_mask, return_attention_weights=True
        )
        output = keras.KerasTensor(x.shape, dtype=self.compute_dtype)
        return (output, weights) if return_attention_weights else output

    def get_config(self):
        return {
            **super().get_config(),
            "d_model": self.d_model,
            "num_heads": self.num_heads,
            "dff": self.dff,
            "dropout": self.dropout,
        }
