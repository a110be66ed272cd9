"""The encoder-decoder Transformer of "Attention Is All You Need".

The encoder reads the source with a padding mask. The decoder reads the target
with a causal mask and attends to the encoder's output. Shape letters: B batch,
S source length, T target length, D model width, V vocabulary. Notebook 05.
"""

import keras

from tfgpt.layers import DecoderLayer, EncoderLayer, LayerNorm
from tfgpt.masks import (
    MaskedLayer,
    causal_mask,
    combine_masks,
    create_masks,
    left_padding,
    serialize_policy,
)
from tfgpt.parts import to_float32
from tfgpt.positional import PositionalEmbedding
from tfgpt.validation import (
    check_length,
    check_pad_id,
    check_positive,
    check_rate,
    check_rectangular,
    check_token_ids,
)


class LayerStack(MaskedLayer):
    """What encoder and decoder share: an embedding, equal layers, a last norm.

    With post-norm every layer ends in a norm; with pre-norm the stack needs one
    more at its end.
    """

    layer_class = None

    def __init__(
        self,
        num_layers,
        d_model,
        num_heads,
        dff,
        vocab_size,
        max_length,
        dropout=0.1,
        *,
        norm_first=False,
        activation="relu",
        positions="sinusoidal",
        embedding=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # Keras would round float placeholders of ids to half precision.
        self.autocast = False
        self.num_layers = check_positive("num_layers", num_layers)
        self.d_model = check_positive("d_model", d_model)
        self.num_heads = check_positive("num_heads", num_heads)
        self.dff = check_positive("dff", dff)
        self.vocab_size = check_positive("vocab_size", vocab_size)
        self.max_length = check_positive("max_length", max_length)
        self.dropout = check_rate("dropout", dropout)
        self.norm_first = norm_first
        self.activation = keras.activations.get(activation)
        self.positions = positions
        if isinstance(embedding, dict):  # from a config
            embedding = keras.saving.deserialize_keras_object(embedding)
        self.has_own_embedding = embedding is None
        self.embedding = embedding or PositionalEmbedding(
            self.vocab_size,
            self.d_model,
            self.max_length,
            positions=positions,
            dropout=self.dropout,
            dtype=self.dtype_policy,
            name="embedding",
        )
        self.layers = [
            self.layer_class(
                self.d_model,
                self.num_heads,
                self.dff,
                dropout=self.dropout,
                norm_first=norm_first,
                activation=self.activation,
                dtype=self.dtype_policy,
                name=f"layer_{index}",
            )
            for index in range(self.num_layers)
        ]
        if norm_first:
            self.final_norm = LayerNorm(epsilon=1e-6, dtype=self.dtype_policy, name="final_norm")

    def build(self, token_ids_shape, *context_shapes):
        hidden_shape = (*token_ids_shape, self.d_model)
        if not self.embedding.built:  # it may be shared with another stack
            self.embedding.build(token_ids_shape)
        for layer in self.layers:
            layer.build(hidden_shape, *context_shapes)
        if self.norm_first:
            self.final_norm.build(hidden_shape)

    def embedding_config(self):
        """Return the config of a shared embedding; None for an own one."""
        if self.has_own_embedding:
            return None
        return keras.saving.serialize_keras_object(self.embedding)

    def embed(self, token_ids, start=0, training=None):
        """Embed tokens with their positions: (B, T) -> (B, T, D); see `PositionalEmbedding`."""
        return self.embedding(token_ids, start=start, training=training)

    def last_norm(self, x):
        """Apply the last norm of a pre-norm stack."""
        return self.final_norm(x) if self.norm_first else x

    def weight_names(self, index):
        """Name the attention weights of one layer, in the order in which it returns them."""
        return [f"encoder/{index}"]

    def run_layers(self, x, return_attention_weights, *inputs, **arguments):
        """Pass x (B, T, D) through all layers and the last norm."""
        weights = {}
        for index, layer in enumerate(self.layers):
            x = layer(x, *inputs, return_attention_weights=return_attention_weights, **arguments)
            if return_attention_weights:
                x, found = x
                names = self.weight_names(index)
                weights.update(zip(names, keras.tree.flatten(found), strict=True))
        x = self.last_norm(x)
        return (x, weights) if return_attention_weights else x

    def describe(self, token_ids, return_attention_weights, *inputs, **arguments):
        """Describe the output for a model that is built symbolically; check what is known."""
        self.embedding.compute_output_spec(token_ids)
        x = keras.KerasTensor((*token_ids.shape, self.d_model), dtype=self.compute_dtype)
        weights = {}
        for index, layer in enumerate(self.layers):
            _, found = layer.compute_output_spec(
                x, *inputs, return_attention_weights=True, **arguments
            )
            names = self.weight_names(index)
            weights.update(zip(names, keras.tree.flatten(found), strict=True))
        return (x, weights) if return_attention_weights else x

    def get_config(self):
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "d_model": self.d_model,
            "num_heads": self.num_heads,
            "dff": self.dff,
            "vocab_size": self.vocab_size,
            "max_length": self.max_length,
            "dropout": self.dropout,
            "norm_first": self.norm_first,
            "activation": keras.activations.serialize(self.activation),
            "positions": self.positions,
            "embedding": self.embedding_config(),
        }


@keras.saving.register_keras_serializable("tfgpt")
class Encoder(LayerStack):
    """Embed the source and pass it through num_layers encoder layers.

    `mask` is boolean, True = may attend, broadcastable to (B, H, S, S), usually
    `padding_mask(token_ids)`. `training=True` turns on dropout. Softmax and norm
    statistics are float32 under any dtype policy.

    Call: encoder(token_ids, mask=None, return_attention_weights=False).

    Args:
        num_layers: int >= 1, L.
        d_model: int, D, a multiple of num_heads.
        num_heads: int >= 1, H.
        dff: int >= 1, inner width of the feed-forward networks.
        vocab_size: int >= 1, V.
        max_length: int >= 1, the longest sequence.
        dropout: float in [0, 1).
        norm_first: bool, False: post-norm as in the paper; True: pre-norm.
        activation: name or callable, used in the feed-forward networks.
        positions: "sinusoidal" or "learned".
        embedding: PositionalEmbedding of another stack, to share its table; None:
            its own.

    Returns:
        output (B, S, D); with return_attention_weights=True also a dict
        {"encoder/0": float32 (B, H, S, S), ...}.

    Raises:
        ValueError: if an argument, an id or the length is outside its range.
        TypeError: if ids are not integers or the mask is not boolean.

    Example:
        >>> import numpy as np
        >>> encoder = Encoder(2, 8, 2, 32, vocab_size=10, max_length=6)
        >>> tuple(encoder(np.array([[1, 2, 3]])).shape)
        (1, 3, 8)

    Source: "Attention Is All You Need", section 3.1.
    """

    layer_class = EncoderLayer

    def call(self, token_ids, mask=None, return_attention_weights=False, start=0, training=None):
        x = self.embed(token_ids, start, training)  # (B, S) -> (B, S, D)
        return self.hidden(x, mask, return_attention_weights, training)

    def hidden(self, x, mask=None, return_attention_weights=False, training=None):
        """Pass embeddings through the layers: (B, S, D) -> (B, S, D); see the class."""
        return self.run_layers(x, return_attention_weights, mask=mask, training=training)

    def compute_output_shape(self, token_ids_shape):
        return (*token_ids_shape, self.d_model)

    def compute_output_spec(
        self, token_ids, mask=None, return_attention_weights=False, start=0, training=None
    ):
        return self.describe(token_ids, return_attention_weights, mask=mask)


@keras.saving.register_keras_serializable("tfgpt")
class Decoder(LayerStack):
    """Embed the target and pass it through num_layers decoder layers.

    `mask` is boolean, True = may attend, broadcastable to (B, H, T, T), and must
    hide the future; `cross_mask` is broadcastable to (B, H, T, S) and hides source
    padding. `create_masks` makes both. `training=True` turns on dropout. Softmax
    and norm statistics are float32 under any dtype policy.

    Call: decoder(token_ids, encoder_output, mask=None, cross_mask=None,
    return_attention_weights=False).

    Args: the same as for `Encoder`.

    Returns:
        output (B, T, D); with return_attention_weights=True also a dict
        {"decoder/0/self": float32 (B, H, T, T), "decoder/0/cross": (B, H, T, S), ...}.

    Raises:
        ValueError: if an argument, an id or the length is outside its range.
        TypeError: if ids are not integers or a mask is not boolean.

    Example:
        >>> import numpy as np
        >>> decoder = Decoder(2, 8, 2, 32, vocab_size=10, max_length=6)
        >>> encoder_output = keras.random.normal((1, 5, 8))
        >>> tuple(decoder(np.array([[1, 2, 3]]), encoder_output).shape)
        (1, 3, 8)

    Source: "Attention Is All You Need", section 3.1.
    """

    layer_class = DecoderLayer

    def build(self, token_ids_shape, encoder_output_shape):
        super().build(token_ids_shape, encoder_output_shape)

    def weight_names(self, index):
        """Name the attention weights of one layer: keys sorted, as a dict is flattened."""
        return [f"decoder/{index}/cross", f"decoder/{index}/self"]

    def call(
        self,
        token_ids,
        encoder_output,
        mask=None,
        cross_mask=None,
        return_attention_weights=False,
        start=0,
        training=None,
    ):
        x = self.embed(token_ids, start, training)  # (B, T) -> (B, T, D)
        return self.hidden(x, encoder_output, mask, cross_mask, return_attention_weights, training)

    def hidden(
        self,
        x,
        encoder_output,
        mask=None,
        cross_mask=None,
        return_attention_weights=False,
        training=None,
    ):
        """Pass embeddings through the layers: (B, T, D) -> (B, T, D); see the class."""
        masks = {"mask": mask, "cross_mask": cross_mask}
        return self.run_layers(
            x, return_attention_weights, encoder_output, **masks, training=training
        )

    def make_caches(self, batch_size, length):
        """Make the empty memory of `decode`; see `GPT.make_caches`."""
        return tuple(layer.self_attention.make_cache(batch_size, length) for layer in self.layers)

    def make_memories(self, encoder_output):
        """Make each layer's cross-attention keys and values, once for all steps.

        Args:
            encoder_output: float tensor (B, S, D).

        Returns:
            tuple of L pairs (B, H, S, K).
        """
        return tuple(
            layer.encoder_attention.project_keys(encoder_output, encoder_output)
            for layer in self.layers
        )

    def decode(self, inputs, caches, start, memories, cross_mask, mask=None):
        """Run new tokens only; the result equals the same positions of a full pass.

        Args:
            inputs: int tensor (B, T), the new tokens; or their embeddings (B, T, D).
            caches: what `make_caches` or the last `decode` returned, room for C tokens.
            start: int scalar, the position of the first new token; start + T <= C.
            memories: what `make_memories` returned.
            cross_mask: bool tensor, broadcastable to (B, H, T, S).
            mask: bool tensor, broadcastable to (B, H, T, C), hides more than the future.

        Returns:
            output (B, T, D), and the caches with the new tokens.
        """
        future = causal_mask(inputs.shape[1], caches[0][0].shape[2], offset=start)
        mask = combine_masks(future, mask)
        x = inputs if len(inputs.shape) == 3 else self.embed(inputs, start)  # (B, T, D)
        updated = []
        for layer, cache, memory in zip(self.layers, caches, memories, strict=True):
            x, cache = layer.decode(x, cache, start, mask, memory, cross_mask)
            updated.append(cache)
        return self.last_norm(x), tuple(updated)

    def compute_output_shape(self, token_ids_shape, encoder_output_shape):
        return (*token_ids_shape, self.d_model)

    def compute_output_spec(
        self,
        token_ids,
        encoder_output,
        mask=None,
        cross_mask=None,
        return_attention_weights=False,
        start=0,
        training=None,
    ):
        masks = {"mask": mask, "cross_mask": cross_mask}
        return self.describe(token_ids, return_attention_weights, encoder_output, **masks)


@keras.saving.register_keras_serializable("tfgpt")
class Transformer(keras.Model):
    """Predict the next target token from a source and the target so far.

    Builds its own masks from the ids: no position sees padding, no target
    position sees a later one. Source and target have their own embeddings unless
    tie_embeddings=True.
    `training=True` turns on dropout. Under a mixed dtype policy softmax, norm
    statistics and the returned logits are float32.

    Call: model({"source": ids, "target": ids}, return_attention_weights=False).

    Args:
        num_layers: int, L layers in the encoder and L in the decoder.
        d_model: int, D, a multiple of num_heads.
        num_heads: int, H.
        dff: int, inner width of the feed-forward networks.
        source_vocab_size: int, number of source tokens.
        target_vocab_size: int, V.
        max_length: int, the longest source or target.
        dropout: float in [0, 1).
        pad_id: int, the id that stands for padding in both sequences.
        norm_first: bool, False: post-norm as in the paper; True: pre-norm.
        activation: name or callable, used in the feed-forward networks.
        positions: "sinusoidal" or "learned".
        tie_embeddings: bool, one table for source, target and output (section 3.4);
            the two vocabularies must be one.

    Returns:
        logits, float32 (B, T, V); with return_attention_weights=True also a dict
        with "encoder/0" (B, H, S, S), "decoder/0/self" (B, H, T, T),
        "decoder/0/cross" (B, H, T, S) and so on for each layer, float32.

    Raises:
        ValueError: if an argument, an id or a length is outside its range, or the
            input is no dict with "source" and "target".
        TypeError: if ids are not integers.

    Example:
        >>> import numpy as np
        >>> model = Transformer(1, 8, 2, 32, 20, 30, max_length=6)
        >>> ids = {"source": np.array([[5, 6, 7, 0]]), "target": np.array([[1, 9]])}
        >>> tuple(model(ids).shape)
        (1, 2, 30)

    Source: "Attention Is All You Need", figure 1; notebooks 05 and 06.
    """

    def __init__(
        self,
        num_layers,
        d_model,
        num_heads,
        dff,
        source_vocab_size,
        target_vocab_size,
        max_length,
        dropout=0.1,
        pad_id=0,
        *,
        norm_first=False,
        activation="relu",
        positions="sinusoidal",
        tie_embeddings=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.autocast = False
        self.source_vocab_size = check_positive("source_vocab_size", source_vocab_size)
        self.target_vocab_size = check_positive("target_vocab_size", target_vocab_size)
        if tie_embeddings and source_vocab_size != target_vocab_size:
            raise ValueError(
                "tie_embeddings needs one vocabulary, got source_vocab_size="
                f"{source_vocab_size}, target_vocab_size={target_vocab_size}."
            )
        self.pad_id = check_pad_id(pad_id, min(self.source_vocab_size, self.target_vocab_size))
        if pad_id is None:
            raise ValueError("pad_id must be an integer, got None: a batch of pairs has padding.")
        self.tie_embeddings = tie_embeddings
        self.stack_settings = {
            "num_layers": check_positive("num_layers", num_layers),
            "d_model": check_positive("d_model", d_model),
            "num_heads": check_positive("num_heads", num_heads),
            "dff": check_positive("dff", dff),
            "max_length": check_positive("max_length", max_length),
            "dropout": check_rate("dropout", dropout),
            "norm_first": norm_first,
            "activation": activation,
            "positions": positions,
        }
        settings = {**self.stack_settings, "dtype": self.dtype_policy}
        self.encoder = Encoder(vocab_size=self.source_vocab_size, name="encoder", **settings)
        self.decoder = Decoder(
            vocab_size=self.target_vocab_size,
            embedding=self.encoder.embedding if tie_embeddings else None,
            name="decoder",
            **settings,
        )
        if not tie_embeddings:
            self.output_projection = keras.layers.Dense(
                self.target_vocab_size, dtype=self.dtype_policy, name="output"
            )
        # Every shape is known: optimizers, summaries and weight files need no first call.
        shape = (None, self.stack_settings["max_length"])
        self.build({"source": shape, "target": shape})

    def build(self, shapes=None):
        if self.built:
            return
        hidden_shape = (None, None, self.decoder.d_model)
        self.encoder.build(shapes["source"])
        self.decoder.build(shapes["target"], hidden_shape)
        if not self.tie_embeddings:
            self.output_projection.build(hidden_shape)

    def __call__(self, inputs, *args, **kwargs):
        for name, token_ids in zip(("source", "target"), source_and_target(inputs), strict=True):
            check_rectangular(name, token_ids)
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs, return_attention_weights=False, training=None):
        source, target = source_and_target(inputs)
        encoder_mask, decoder_mask, cross_mask = create_masks(source, target, self.pad_id)
        asked = {"return_attention_weights": return_attention_weights, "training": training}
        encoded = self.encoder(
            source, mask=encoder_mask, start=-left_padding(source, self.pad_id), **asked
        )
        encoder_output, encoder_weights = encoded if return_attention_weights else (encoded, {})
        decoded = self.decoder(
            target,
            encoder_output,
            mask=decoder_mask,
            cross_mask=cross_mask,
            start=-left_padding(target, self.pad_id),
            **asked,
        )
        decoder_output, decoder_weights = decoded if return_attention_weights else (decoded, {})
        logits = self.logits(decoder_output)  # (B, T, D) -> (B, T, V)
        return (logits, encoder_weights | decoder_weights) if return_attention_weights else logits

    def logits(self, decoder_output):
        """Score every target token: (B, T, D) -> float32 (B, T, V)."""
        if self.tie_embeddings:
            return self.decoder.embedding.logits(decoder_output)
        return to_float32(self.output_projection(decoder_output))

    def compute_output_spec(self, inputs, return_attention_weights=False, training=None):
        source, target = source_and_target(inputs)
        asked = {"return_attention_weights": True}
        encoder_output, encoder_weights = self.encoder.compute_output_spec(source, **asked)
        _, decoder_weights = self.decoder.compute_output_spec(target, encoder_output, **asked)
        logits = keras.KerasTensor((*target.shape, self.target_vocab_size), dtype="float32")
        return (logits, encoder_weights | decoder_weights) if return_attention_weights else logits

    def check_ids(self, inputs):
        """Raise unless ids and lengths are in range; for use before a compiled step."""
        source, target = source_and_target(inputs)
        check_token_ids("source", source, self.source_vocab_size)
        check_token_ids("target", target, self.target_vocab_size)
        for name, token_ids in (("source", source), ("target", target)):
            check_length(name, token_ids, "max_length", self.stack_settings["max_length"])

    def export(self, filepath, *args, input_signature=None, **kwargs):
        """Export for serving, by default for ids of any batch size and length."""
        spec = keras.InputSpec(shape=(None, None), dtype="int32")
        default = [{"source": spec, "target": spec}]
        super().export(filepath, *args, input_signature=input_signature or default, **kwargs)

    def get_config(self):
        activation = keras.activations.get(self.stack_settings["activation"])
        return {
            **super().get_config(),
            "dtype": serialize_policy(self),
            **self.stack_settings,
            "activation": keras.activations.serialize(activation),
            "source_vocab_size": self.source_vocab_size,
            "target_vocab_size": self.target_vocab_size,
            "pad_id": self.pad_id,
            "tie_embeddings": self.tie_embeddings,
        }


def source_and_target(inputs):
    """Return the two sequences of a Transformer's input; raise unless both fit."""
    if not isinstance(inputs, dict) or {"source", "target"} - inputs.keys():
        received = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
        raise ValueError(f'inputs must be a dict with "source" and "target", got {received}.')
    source, target = inputs["source"], inputs["target"]
    batch_sizes = source.shape[0], target.shape[0]
    if None not in batch_sizes and batch_sizes[0] != batch_sizes[1]:
        raise ValueError(
            f"source and target must have the same batch size, got {batch_sizes[0]} "
            f"and {batch_sizes[1]}."
        )
    return source, target
