"""GPT: a stack of decoder layers that predicts the next token.

Decoder-only: no encoder and no cross-attention. Shape letters: B batch,
T length, D model width, H heads, V vocabulary. Built in notebooks 05 and 06.
"""

import keras
import numpy as np
from keras import ops

from tfgpt.attention import is_full
from tfgpt.layers import DecoderLayer, LayerNorm
from tfgpt.masks import causal_mask, combine_masks, left_padding, padding_mask, serialize_policy
from tfgpt.parts import to_float32
from tfgpt.positional import PositionalEmbedding
from tfgpt.validation import (
    check_choice,
    check_length,
    check_pad_id,
    check_positive,
    check_rate,
    check_rectangular,
    check_token_ids,
)

# GPT-2's initial standard deviation of every kernel and embedding.
INITIAL_STDDEV = 0.02


@keras.saving.register_keras_serializable("tfgpt")
class GPT(keras.Model):
    """Predict the next token at every position, seeing only earlier ones.

    The causal mask is built in; `mask` can hide more. With `pad_id`, padded keys
    are hidden too. `training=True` turns on dropout. Under a mixed dtype policy
    softmax, norm statistics and the returned logits are float32.

    Call: model(token_ids, mask=None, return_attention_weights=False).

    Args:
        vocab_size: int, V.
        context_length: int, the longest input; with learned or sinusoidal
            positions also the length of the position table.
        num_layers: int, L.
        d_model: int, D, a multiple of num_heads.
        num_heads: int, H.
        dff: int, inner width of the feed-forward network; default: 4 D.
        dropout: float in [0, 1).
        tie_embeddings: bool, use the embedding table as output kernel too.
        positions: "learned" (GPT-2), "sinusoidal" or "rotary".
        norm_first: bool, True: pre-norm (GPT-2); False: post-norm (GPT-1).
        activation: name or callable, used in the feed-forward network.
        use_bias: bool, biases of all projections.
        norm_epsilon: float > 0, added to the variance.
        pad_id: int or None, an id whose keys are hidden.
        remat: bool, rematerialise: in training keep only what each block reads, and
            run the block again when its gradient is computed. Less memory, more time;
            the gradients are the same. Needs dropout=0.

    Returns:
        logits, float32 (B, T, V); with return_attention_weights=True also a dict
        {"decoder/0/self": float32 (B, H, T, T), ...}.

    Raises:
        TypeError: if ids are not integers or the mask is not boolean.
        ValueError: if an argument is outside its range, an id is outside [0, V),
            or the input is longer than context_length.

    Example:
        >>> import numpy as np
        >>> model = GPT(vocab_size=10, context_length=8, num_layers=2, d_model=16, num_heads=4)
        >>> tuple(model(np.array([[1, 2, 3]])).shape)
        (1, 3, 10)

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners"
    (GPT-2, 2019), section 2.3; notebook 06.
    """

    def __init__(
        self,
        vocab_size,
        context_length,
        num_layers,
        d_model,
        num_heads,
        dff=None,
        dropout=0.0,
        tie_embeddings=True,
        *,
        positions="learned",
        norm_first=True,
        activation="gelu",
        use_bias=True,
        norm_epsilon=1e-5,
        pad_id=None,
        remat=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # Keras would round float placeholders of ids to half precision.
        self.autocast = False
        self.vocab_size = check_positive("vocab_size", vocab_size)
        self.context_length = check_positive("context_length", context_length)
        self.num_layers = check_positive("num_layers", num_layers)
        self.d_model = check_positive("d_model", d_model)
        self.num_heads = check_positive("num_heads", num_heads)
        self.dff = 4 * self.d_model if dff is None else check_positive("dff", dff)
        self.dropout = check_rate("dropout", dropout)
        if remat and dropout:
            # The second run of a block would draw other numbers than the first.
            raise ValueError(f"remat needs dropout=0, got dropout={dropout}.")
        check_choice("positions", positions, ("learned", "sinusoidal", "rotary"))
        self.tie_embeddings = tie_embeddings
        self.positions = positions
        self.norm_first = norm_first
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.norm_epsilon = norm_epsilon
        self.pad_id = check_pad_id(pad_id, self.vocab_size)
        self.remat = remat

        self.embedding = PositionalEmbedding(
            self.vocab_size,
            self.d_model,
            self.context_length,
            positions=None if positions == "rotary" else positions,
            scale=False,
            dropout=dropout,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=INITIAL_STDDEV),
            dtype=self.dtype_policy,
            name="embedding",
        )
        self.decoder_layers = [self.make_layer(index) for index in range(self.num_layers)]
        self.final_norm = LayerNorm(
            epsilon=norm_epsilon, dtype=self.dtype_policy, name="final_norm"
        )
        if not tie_embeddings:
            self.output_projection = keras.layers.Dense(
                self.vocab_size,
                use_bias=False,
                kernel_initializer=keras.initializers.RandomNormal(stddev=INITIAL_STDDEV),
                dtype=self.dtype_policy,
                name="output",
            )
        self.supports_masking = True
        # Every shape is known: optimizers, summaries and weight files need no first call.
        self.build((None, self.context_length))

    def make_layer(self, index):
        """Make one block: a decoder layer without cross-attention."""
        # 2 L sublayers add to the residual stream: with kernels smaller by
        # sqrt(2 L) its variance stays the same for any depth (GPT-2, section 2.3).
        output_stddev = INITIAL_STDDEV / (2 * self.num_layers) ** 0.5
        return DecoderLayer(
            self.d_model,
            self.num_heads,
            self.dff,
            dropout=self.dropout,
            norm_first=self.norm_first,
            activation=self.activation,
            cross_attention=False,
            use_bias=self.use_bias,
            rotary=self.positions == "rotary",
            norm_epsilon=self.norm_epsilon,
            kernel_initializer=keras.initializers.RandomNormal(stddev=INITIAL_STDDEV),
            output_initializer=keras.initializers.RandomNormal(stddev=output_stddev),
            dtype=self.dtype_policy,
            name=f"decoder_{index}",
        )

    def build(self, token_ids_shape=None):
        if self.built:
            return
        hidden_shape = (None, None, self.d_model)
        self.embedding.build(token_ids_shape)
        for layer in self.decoder_layers:
            layer.build(hidden_shape)
        self.final_norm.build(hidden_shape)
        if not self.tie_embeddings:
            self.output_projection.build(hidden_shape)

    def __call__(self, token_ids, *args, **kwargs):
        # Keras would take a nested list for many arguments.
        token_ids = np.asarray(token_ids) if isinstance(token_ids, list) else token_ids
        check_rectangular("token_ids", token_ids)
        return super().__call__(token_ids, *args, **kwargs)

    def call(self, token_ids, mask=None, return_attention_weights=False, training=None):
        check_length("token_ids", token_ids, "context_length", self.context_length)
        mask = combine_masks(mask, self.own_mask(token_ids))
        x = self.embed(token_ids, training=training)  # (B, T) -> (B, T, D)
        hidden = self.hidden(x, mask, return_attention_weights, training)
        if return_attention_weights:
            hidden, weights = hidden
            return self.logits(hidden), weights
        return self.logits(hidden)  # (B, T, D) -> (B, T, V)

    def embed(self, token_ids, start=None, training=None):
        """Embed tokens with their positions.

        Args:
            token_ids: int tensor (B, T).
            start: int scalar, the position of the first token; None: 0, where padding
                on the left is not counted.
            training: bool, turn on dropout.

        Returns:
            float tensor (B, T, D).
        """
        if start is None:
            start = 0 if self.pad_id is None else -left_padding(token_ids, self.pad_id)
        return self.embedding(token_ids, start=start, training=training)

    def hidden(self, x, mask=None, return_attention_weights=False, training=None):
        """Pass embeddings through all blocks and the final norm.

        Args:
            x: float tensor (B, T, D), what `embed` returned, or other vectors.
            mask: bool tensor, broadcastable to (B, H, T, T), all that may be attended
                to; None: what is not later.
            return_attention_weights: bool.
            training: bool, turn on dropout.

        Returns:
            float tensor (B, T, D); with return_attention_weights=True also a dict
            {"decoder/0/self": float32 (B, H, T, T), ...}.
        """
        mask = causal_mask(ops.shape(x)[1]) if mask is None else mask
        weights = {}
        for index, layer in enumerate(self.decoder_layers):
            if return_attention_weights:
                x, found = layer(x, mask=mask, return_attention_weights=True, training=training)
                weights[f"decoder/{index}/self"] = found["self"]
            elif self.remat and training:
                x = keras.remat(lambda x, layer=layer: layer(x, mask=mask, training=True))(x)
            else:
                x = layer(x, mask=mask, training=training)
        x = self.final_norm(x)
        return (x, weights) if return_attention_weights else x

    def compute_output_spec(
        self, token_ids, mask=None, return_attention_weights=False, training=None
    ):
        check_length("token_ids", token_ids, "context_length", self.context_length)
        x = keras.KerasTensor((*token_ids.shape, self.d_model), dtype=self.compute_dtype)
        weights = {}
        for index, layer in enumerate(self.decoder_layers):
            _, found = layer.compute_output_spec(x, mask=mask, return_attention_weights=True)
            weights[f"decoder/{index}/self"] = found["self"]
        logits = keras.KerasTensor((*token_ids.shape, self.vocab_size), dtype="float32")
        return (logits, weights) if return_attention_weights else logits

    def make_caches(self, batch_size, length):
        """Make the empty memory of `decode`: keys and values of each layer.

        Args:
            batch_size: int, B.
            length: int, C, how many tokens fit.

        Returns:
            tuple of L pairs of zeros (B, H, C, K) in the compute dtype.
        """
        return tuple(
            layer.self_attention.make_cache(batch_size, length) for layer in self.decoder_layers
        )

    def decode(self, inputs, caches, start, mask=None):
        """Run new tokens only; earlier ones are known by their keys and values.

        The result equals the same positions of a full pass.

        Args:
            inputs: int tensor (B, T), the new tokens; or float tensor (B, T, D), their
                embeddings.
            caches: what `make_caches` or the last `decode` returned, room for C tokens.
            start: int scalar, the position of the first new token; start + T <= C. With
                start=C, as a number, the caches grow by T, and gradients pass through them.
            mask: bool tensor, broadcastable to (B, H, T, C), hides more than the future.

        Returns:
            hidden states (B, T, D) for `logits`, and the caches with the new tokens.
        """
        length, room = ops.shape(inputs)[1], ops.shape(caches[0][0])[2]
        room = room + length if is_full(caches[0][0], start) else room
        future = causal_mask(length, room, offset=start)
        mask = combine_masks(future, mask)
        x = inputs if len(inputs.shape) == 3 else self.embed(inputs, start)  # (B, T, D)
        updated = []
        for layer, cache in zip(self.decoder_layers, caches, strict=True):
            x, cache = layer.decode(x, cache, start, mask)
            updated.append(cache)
        return self.final_norm(x), tuple(updated)

    def compute_mask(self, inputs, previous_mask):
        # The attention mask of a call is no mask of the logits.
        return None

    def check_ids(self, token_ids):
        """Raise unless ids and length are in range; for use before a compiled step."""
        check_token_ids("token_ids", token_ids, self.vocab_size)
        check_length("token_ids", token_ids, "context_length", self.context_length)

    def export(self, filepath, *args, input_signature=None, **kwargs):
        """Export for serving, by default for ids of any batch size and length.

        For ONNX take `tfgpt.serving.onnx_export`: tf2onnx does not know the exact GELU.
        """
        default = [keras.InputSpec(shape=(None, None), dtype="int32")]
        super().export(filepath, *args, input_signature=input_signature or default, **kwargs)

    def own_mask(self, token_ids):
        """Hide the future, and padding if there is a pad_id."""
        future = causal_mask(ops.shape(token_ids)[1])
        if self.pad_id is None:
            return future
        return combine_masks(future, padding_mask(token_ids, self.pad_id))

    def logits(self, hidden):
        """Score every token of the vocabulary: (B, T, D) -> float32 (B, T, V)."""
        if self.tie_embeddings:
            return self.embedding.logits(hidden)
        return to_float32(self.output_projection(hidden))

    def get_config(self):
        return {
            **super().get_config(),
            "dtype": serialize_policy(self),
            "vocab_size": self.vocab_size,
            "context_length": self.context_length,
            "num_layers": self.num_layers,
            "d_model": self.d_model,
            "num_heads": self.num_heads,
            "dff": self.dff,
            "dropout": self.dropout,
            "tie_embeddings": self.tie_embeddings,
            "positions": self.positions,
            "norm_first": self.norm_first,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "norm_epsilon": self.norm_epsilon,
            "pad_id": self.pad_id,
            "remat": self.remat,
        }
