"""The layers that Transformers are stacked from.

A GPT block is a DecoderLayer without cross-attention. Shape letters: B batch,
T query length, S key length, H heads, D model width. Built in notebook 05.
"""

import keras
from keras import ops

from tfgpt.attention import MultiHeadAttention
from tfgpt.masks import MaskedLayer, serialize_policy
from tfgpt.parts import part
from tfgpt.validation import check_positive, check_rate, copy_initializer


@keras.saving.register_keras_serializable("tfgpt")
def gelu_tanh(x):
    """Compute GELU by the tanh formula, the form that GPT-2 was trained with.

    Args:
        x: float tensor of any shape.

    Returns:
        tensor of the same shape and dtype.

    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016), section 2.
    """
    return ops.gelu(x, approximate=True)


@part
def layer_norm(x, gamma, beta, epsilon):
    """Compute gamma x (x - mean) / sqrt(variance + epsilon) + beta over the last axis.

    Args:
        x: float tensor (..., D).
        gamma: float tensor (D,), the scale; None: 1.
        beta: float tensor (D,), the offset; None: 0.
        epsilon: float > 0.

    Returns:
        tensor (..., D), dtype of x. Everything is computed in float32.
    """
    wide = ops.cast(x, "float32")
    mean, variance = ops.moments(wide, axes=-1, keepdims=True)  # (..., 1)
    normed = (wide - mean) * ops.rsqrt(variance + epsilon)
    normed = normed if gamma is None else normed * ops.cast(gamma, "float32")
    normed = normed if beta is None else normed + ops.cast(beta, "float32")
    return ops.cast(normed, x.dtype)


@part
def activate(activation, x):
    """Apply an activation function: (..., D) -> (..., D)."""
    return activation(x)


@keras.saving.register_keras_serializable("tfgpt")
class LayerNorm(keras.layers.LayerNormalization):
    """Normalise the features of each position: (x - mean) / deviation, scaled and shifted.

    Call: layer(x). Statistics are float32 under every dtype policy. Arguments,
    results and weights are those of keras.layers.LayerNormalization.

    Example:
        >>> x = keras.ops.convert_to_tensor([[1.0, 3.0]])
        >>> keras.ops.convert_to_numpy(LayerNorm(epsilon=1e-6)(x)).round(3).tolist()
        [[-1.0, 1.0]]

    Source: Ba et al., "Layer Normalization" (2016), equation 4; notebook 05.
    """

    def call(self, inputs):
        is_last_axis = self.axis in ([-1], [len(inputs.shape) - 1])
        if self.rms_scaling or not is_last_axis:
            return super().call(inputs)
        output = layer_norm(inputs, self.gamma, self.beta, self.epsilon)
        return ops.cast(output, self.compute_dtype)


@keras.saving.register_keras_serializable("tfgpt")
class FeedForward(keras.layers.Layer):
    """Transform each position by itself: activation(x W1 + b1) W2 + b2.

    `training=True` turns on dropout after the activation. Both products run in
    the compute dtype. No mask: positions do not meet here.

    Call: layer(x).

    Args:
        d_model: int >= 1, D, the width of the output.
        dff: int >= 1, the width between the two products.
        activation: name or callable.
        dropout: float in [0, 1).
        use_bias: bool, add b1 and b2.
        kernel_initializer: initial values of W1.
        output_initializer: initial values of W2; default: as kernel_initializer.

    Returns:
        float tensor (B, T, D).

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> tuple(FeedForward(8, 32)(keras.random.normal((2, 5, 8))).shape)
        (2, 5, 8)

    Source: "Attention Is All You Need", equation 2; notebook 05.
    """

    def __init__(
        self,
        d_model,
        dff,
        activation="relu",
        dropout=0.0,
        *,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        output_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.d_model = check_positive("d_model", d_model)
        self.dff = check_positive("dff", dff)
        self.activation = keras.activations.get(activation)
        self.dropout = check_rate("dropout", dropout)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)
        self.supports_masking = True
        self.expand = keras.layers.Dense(
            self.dff,
            use_bias=use_bias,
            kernel_initializer=copy_initializer(self.kernel_initializer),
            dtype=self.dtype_policy,
            name="expand",
        )
        self.hidden_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy)
        self.contract = keras.layers.Dense(
            self.d_model,
            use_bias=use_bias,
            kernel_initializer=copy_initializer(self.output_initializer or self.kernel_initializer),
            dtype=self.dtype_policy,
            name="contract",
        )

    def build(self, x_shape):
        self.expand.build(x_shape)
        self.contract.build((*x_shape[:-1], self.dff))

    def call(self, x, training=None):
        hidden = activate(self.activation, self.expand(x))  # (B, T, D) -> (B, T, dff)
        hidden = self.hidden_dropout(hidden, training=training)
        return self.contract(hidden)  # (B, T, dff) -> (B, T, D)

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], self.d_model)

    def get_config(self):
        return {
            **super().get_config(),
            "dtype": serialize_policy(self),
            "d_model": self.d_model,
            "dff": self.dff,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
        }


class ResidualLayer(MaskedLayer):
    """What encoder and decoder layers share: settings, norms and the residual sum.

    post-norm (the paper):  x = norm(x + sublayer(x))
    pre-norm  (GPT-2):      x = x + sublayer(norm(x))
    """

    def __init__(
        self,
        d_model,
        num_heads,
        dff,
        dropout=0.1,
        norm_first=False,
        activation="relu",
        *,
        use_bias=True,
        rotary=False,
        norm_epsilon=1e-6,
        kernel_initializer="glorot_uniform",
        output_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.d_model = check_positive("d_model", d_model)
        self.num_heads = check_positive("num_heads", num_heads)
        self.dff = check_positive("dff", dff)
        self.dropout = check_rate("dropout", dropout)
        self.norm_first = norm_first
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.rotary = rotary
        self.norm_epsilon = norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)
        self.self_attention = self.make_attention("self_attention", rotary=rotary)
        self.self_attention_norm = self.make_norm("self_attention_norm")
        self.feed_forward = FeedForward(
            self.d_model,
            self.dff,
            activation=self.activation,
            dropout=self.dropout,
            name="feed_forward",
            **self.shared_settings(),
        )
        self.feed_forward_norm = self.make_norm("feed_forward_norm")
        self.residual_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy)

    def shared_settings(self):
        """Settings that attention and feed-forward take alike."""
        return {
            "use_bias": self.use_bias,
            "kernel_initializer": self.kernel_initializer,
            "output_initializer": self.output_initializer,
            "dtype": self.dtype_policy,
        }

    def make_attention(self, name, rotary=False):
        """Make one attention sublayer."""
        return MultiHeadAttention(
            self.num_heads,
            self.d_model,
            dropout=self.dropout,
            rotary=rotary,
            name=name,
            **self.shared_settings(),
        )

    def make_norm(self, name):
        """Make one layer normalisation; its statistics are float32."""
        return LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype_policy, name=name)

    def build(self, x_shape):
        # The residual sum needs x to be as wide as the sublayers' outputs.
        if x_shape[-1] != self.d_model:
            raise ValueError(f"x must have d_model={self.d_model} features, got {x_shape[-1]}.")
        self.self_attention.build(x_shape)
        self.self_attention_norm.build(x_shape)
        self.feed_forward.build(x_shape)
        self.feed_forward_norm.build(x_shape)

    def residual(self, x, norm, sublayer, training):
        """Add what a sublayer makes of x.

        Args:
            x: float tensor (B, T, D).
            norm: LayerNorm.
            sublayer: function (B, T, D) -> (B, T, D) and anything else.
            training: bool, turn on dropout.

        Returns:
            float tensor (B, T, D), and that anything else.
        """
        if self.norm_first:
            output, other = sublayer(norm(x))
            return x + self.residual_dropout(output, training=training), other
        output, other = sublayer(x)
        return norm(x + self.residual_dropout(output, training=training)), other

    def add_self_attention(self, x, mask, asked, training):
        """Run the self-attention sublayer; the weights (B, H, T, T) if asked, or None."""

        def attend(x):
            result = self.self_attention(
                x, mask=mask, return_attention_weights=asked, training=training
            )
            return result if asked else (result, None)

        return self.residual(x, self.self_attention_norm, attend, training)

    def add_feed_forward(self, x, training):
        """Run the feed-forward sublayer."""

        def transform(x):
            return self.feed_forward(x, training=training), None

        return self.residual(x, self.feed_forward_norm, transform, training)[0]

    def self_attention_spec(self, x, mask):
        """Describe output and weights of self-attention; raise unless the mask fits."""
        if x.shape[-1] != self.d_model:
            raise ValueError(f"x must have d_model={self.d_model} features, got {x.shape[-1]}.")
        _, weights = self.self_attention.compute_output_spec(
            x, mask=mask, return_attention_weights=True
        )
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype), weights

    def compute_output_shape(self, x_shape, encoder_output_shape=None):
        return x_shape

    def get_config(self):
        return {
            **super().get_config(),
            "d_model": self.d_model,
            "num_heads": self.num_heads,
            "dff": self.dff,
            "dropout": self.dropout,
            "norm_first": self.norm_first,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "rotary": self.rotary,
            "norm_epsilon": self.norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
        }


@keras.saving.register_keras_serializable("tfgpt")
class EncoderLayer(ResidualLayer):
    """Self-attention, then a feed-forward network, each with residual and norm.

    `mask` is boolean, True = may attend, broadcastable to (B, H, T, T).
    `training=True` turns on dropout: on attention weights, inside the
    feed-forward network and on both sublayer outputs. Under a mixed dtype policy
    softmax and norm statistics stay float32.

    Call: layer(x, mask=None, return_attention_weights=False).

    Args:
        d_model: int, D, a multiple of num_heads.
        num_heads: int >= 1, H.
        dff: int >= 1, inner width of the feed-forward network.
        dropout: float in [0, 1).
        norm_first: bool, False: norm(x + f(x)) as in the paper; True: x + f(norm(x)).
        activation: name or callable, used in the feed-forward network.
        use_bias: bool, biases of all projections.
        rotary: bool, rotary positions in self-attention.
        norm_epsilon: float > 0, added to the variance.
        kernel_initializer: initial values of the kernels.
        output_initializer: initial values of the two kernels that write to the
            residual stream; default: as kernel_initializer.

    Returns:
        output (B, T, D); with return_attention_weights=True also the weights,
        float32 (B, H, T, T).

    Raises:
        ValueError: if an argument is outside its range or x is not D wide.
        TypeError: if the mask is not boolean.

    Example:
        >>> layer = EncoderLayer(d_model=8, num_heads=2, dff=32)
        >>> tuple(layer(keras.random.normal((2, 5, 8))).shape)
        (2, 5, 8)

    Source: "Attention Is All You Need", section 3.1; notebook 05.
    """

    def call(self, x, mask=None, return_attention_weights=False, training=None):
        x, weights = self.add_self_attention(x, mask, return_attention_weights, training)
        x = self.add_feed_forward(x, training)
        return (x, weights) if return_attention_weights else x

    def compute_output_spec(self, x, mask=None, return_attention_weights=False, training=None):
        output, weights = self.self_attention_spec(x, mask)
        return (output, weights) if return_attention_weights else output


@keras.saving.register_keras_serializable("tfgpt")
class DecoderLayer(ResidualLayer):
    """Self-attention, cross-attention, feed-forward, each with residual and norm.

    With cross_attention=False it is the block of a GPT. The layer adds no causal
    mask by itself: pass `mask=causal_mask(T)`. Masks are boolean, True = may
    attend: `mask` broadcastable to (B, H, T, T), `cross_mask` to (B, H, T, S).
    `training=True` turns on dropout. Under a mixed dtype policy softmax and norm
    statistics stay float32.

    Call: layer(x, encoder_output=None, mask=None, cross_mask=None,
    return_attention_weights=False).

    Args:
        d_model: int, D, a multiple of num_heads.
        num_heads: int >= 1, H.
        dff: int >= 1, inner width of the feed-forward network.
        dropout: float in [0, 1).
        norm_first: bool, False: norm(x + f(x)) as in the paper; True: x + f(norm(x)).
        activation: name or callable, used in the feed-forward network.
        cross_attention: bool, attend to an encoder's output as well.
        use_bias: bool, biases of all projections.
        rotary: bool, rotary positions in self-attention.
        norm_epsilon: float > 0, added to the variance.
        kernel_initializer: initial values of the kernels.
        output_initializer: initial values of the kernels that write to the
            residual stream; default: as kernel_initializer.

    Returns:
        output (B, T, D); with return_attention_weights=True also a dict with
        "self", float32 (B, H, T, T), and, with cross-attention, "cross",
        float32 (B, H, T, S).

    Raises:
        ValueError: if an argument is outside its range, x is not D wide, or
            encoder_output is missing or not expected.
        TypeError: if a mask is not boolean.

    Example:
        >>> from tfgpt.masks import causal_mask
        >>> block = DecoderLayer(8, 2, 32, cross_attention=False)
        >>> tuple(block(keras.random.normal((2, 5, 8)), mask=causal_mask(5)).shape)
        (2, 5, 8)

    Source: "Attention Is All You Need", section 3.1; notebook 05.
    """

    def __init__(
        self,
        d_model,
        num_heads,
        dff,
        dropout=0.1,
        norm_first=False,
        activation="relu",
        cross_attention=True,
        **kwargs,
    ):
        super().__init__(d_model, num_heads, dff, dropout, norm_first, activation, **kwargs)
        self.cross_attention = cross_attention
        if cross_attention:
            self.encoder_attention = self.make_attention("encoder_attention")
            self.encoder_attention_norm = self.make_norm("encoder_attention_norm")

    def build(self, x_shape, encoder_output_shape=None):
        super().build(x_shape)
        if self.cross_attention:
            self.encoder_attention.build(x_shape, encoder_output_shape)
            self.encoder_attention_norm.build(x_shape)

    def call(
        self,
        x,
        encoder_output=None,
        mask=None,
        cross_mask=None,
        return_attention_weights=False,
        training=None,
    ):
        self.check_encoder_output(encoder_output, cross_mask)
        asked, weights = return_attention_weights, {}
        x, weights["self"] = self.add_self_attention(x, mask, asked, training)
        if self.cross_attention:
            x, weights["cross"] = self.add_cross_attention(
                x, encoder_output, cross_mask, asked, training
            )
        x = self.add_feed_forward(x, training)
        return (x, weights) if asked else x

    def compute_output_spec(
        self,
        x,
        encoder_output=None,
        mask=None,
        cross_mask=None,
        return_attention_weights=False,
        training=None,
    ):
        self.check_encoder_output(encoder_output, cross_mask)
        weights = {}
        output, weights["self"] = self.self_attention_spec(x, mask)
        if self.cross_attention:
            _, weights["cross"] = self.encoder_attention.compute_output_spec(
                x, encoder_output, mask=cross_mask, return_attention_weights=True
            )
        return (output, weights) if return_attention_weights else output

    def add_cross_attention(self, x, encoder_output, mask, asked, training):
        """Run the cross-attention sublayer; the weights (B, H, T, S) if asked, or None."""

        def attend(x):  # queries from the decoder, keys and values from the encoder
            result = self.encoder_attention(
                x, encoder_output, mask=mask, return_attention_weights=asked, training=training
            )
            return result if asked else (result, None)

        return self.residual(x, self.encoder_attention_norm, attend, training)

    def decode(self, x, cache, start, mask, memory=None, cross_mask=None):
        """Run new tokens through the layer, with what is known of earlier ones.

        Args:
            x: float tensor (B, T, D), the new tokens.
            cache: keys and values so far; see `MultiHeadAttention.decode`.
            start: int scalar, the position of the first new token.
            mask: bool tensor, broadcastable to (B, H, T, C).
            memory: keys and values of the encoder's output, for cross-attention.
            cross_mask: bool tensor, broadcastable to (B, H, T, S).

        Returns:
            output (B, T, D), and the cache with the new keys and values in it.
        """

        def attend(x):
            return self.self_attention.decode(x, cache, start, mask)

        def attend_to_memory(x):
            return self.encoder_attention.decode_cross(x, memory, cross_mask), None

        x, cache = self.residual(x, self.self_attention_norm, attend, training=False)
        if self.cross_attention:
            x, _ = self.residual(x, self.encoder_attention_norm, attend_to_memory, training=False)
        return self.add_feed_forward(x, training=False), cache

    def check_encoder_output(self, encoder_output, cross_mask=None):
        """Raise unless encoder_output is given exactly when it is attended to."""
        if self.cross_attention and encoder_output is None:
            raise ValueError("encoder_output must be given when cross_attention=True, got None.")
        if not self.cross_attention and encoder_output is not None:
            raise ValueError("encoder_output must be None when cross_attention=False.")
        if not self.cross_attention and cross_mask is not None:
            raise ValueError("cross_mask must be None when cross_attention=False.")

    def get_config(self):
        return {**super().get_config(), "cross_attention": self.cross_attention}
