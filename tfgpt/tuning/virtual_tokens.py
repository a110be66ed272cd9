"""Prefix and prompt tuning: trained vectors before the text, the model stays as it is.

Prompt tuning trains embeddings of virtual tokens; prefix tuning trains the keys and values of
virtual tokens in each layer. Both enter through the cache of keys and values, so training and
generation use the same doors of a GPT. They take `length` places of its context.
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from tfgpt.gpt import GPT
from tfgpt.masks import combine_masks, left_padding
from tfgpt.tuning.adapters import AdapterSet
from tfgpt.validation import check_length, check_positive, check_token_ids


@dataclass(frozen=True)
class PromptTuning:
    """Settings of prompt tuning: trained embeddings before the text.

    Args:
        length: int >= 1, virtual tokens.

    Source: Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning" (2021).
    """

    length: int = 16

    def __post_init__(self):
        check_positive("length", self.length)

    def adapt(self, base):
        """Put the virtual tokens before a GPT."""
        return VirtualTokens(base, self, PromptVectors)


@dataclass(frozen=True)
class PrefixTuning:
    """Settings of prefix tuning: trained keys and values before the text, in each layer.

    Args:
        length: int >= 1, virtual tokens.
        hidden: int >= 1, the inner width of the network that makes the keys and values from
            small embeddings while it trains; None: they are trained themselves.

    Source: Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation"
    (2021), sections 4.2 and 4.3.
    """

    length: int = 16
    hidden: int | None = 64

    def __post_init__(self):
        check_positive("length", self.length)
        if self.hidden is not None:
            check_positive("hidden", self.hidden)

    def adapt(self, base):
        """Put the prefix before a GPT."""
        return VirtualTokens(base, self, PrefixVectors)


class VirtualTokens(AdapterSet):
    """A GPT with trained vectors before each text. Use `adapt` to make them.

    `model` is a PrefixedGPT around the base.

    Args:
        base: GPT.
        settings: PromptTuning or PrefixTuning.
        kind: PromptVectors or PrefixVectors.

    Raises:
        TypeError: if the base is no GPT.
        ValueError: if the virtual tokens leave no place for a text.
    """

    def __init__(self, base, settings, kind):
        super().__init__(base, settings)
        if not isinstance(base, GPT):
            raise TypeError(f"model must be a GPT for virtual tokens, got {type(base).__name__}.")
        if settings.length >= base.context_length:
            raise ValueError(
                f"length must be below context_length={base.context_length}, got {settings.length}."
            )
        vectors = kind(base, settings)
        self.layers = {vectors.name: vectors}
        self.model = PrefixedGPT(base, vectors)
        self.attach()

    def merge(self):
        raise ValueError("virtual tokens cannot be merged: they are no part of a kernel.")


class PromptVectors(keras.layers.Layer):
    """Trained embeddings (P, D), at first those of tokens all over the vocabulary."""

    def __init__(self, base, settings):
        super().__init__(name="prompt", dtype="float32")
        self.length = settings.length
        ids = np.linspace(1, base.vocab_size - 1, self.length).astype("int32")
        self.vectors = self.add_weight((self.length, base.d_model), "zeros", name="vectors")
        self.vectors.assign(base.embed(ids[None])[0])
        self.built = True

    def caches(self, base, batch_size):
        """Return the keys and values of the virtual tokens: L pairs (B, H, P, K)."""
        x = ops.cast(ops.convert_to_tensor(self.vectors), base.compute_dtype)[None]  # (1, P, D)
        _, caches = base.decode(x, base.make_caches(1, 0), 0)
        return repeat_rows(caches, batch_size)


class PrefixVectors(keras.layers.Layer):
    """Trained keys and values of each layer, made by a small network or as they are."""

    def __init__(self, base, settings):
        super().__init__(name="prefix", dtype="float32")
        self.length = settings.length
        # (P, L, keys and values, H, K)
        head_dim = base.d_model // base.num_heads
        self.shape = (self.length, base.num_layers, 2, base.num_heads, head_dim)
        self.has_network = settings.hidden is not None
        width = int(np.prod(self.shape[1:]))
        small = keras.initializers.RandomNormal(stddev=0.02)
        inputs = base.d_model if self.has_network else width
        self.vectors = self.add_weight((self.length, inputs), small, name="vectors")
        if self.has_network:
            self.first = self.add_weight((inputs, settings.hidden), "glorot_uniform", name="first")
            self.second = self.add_weight((settings.hidden, width), small, name="second")
        self.built = True

    def caches(self, base, batch_size):
        """Return the keys and values of the virtual tokens: L pairs (B, H, P, K)."""
        x = ops.convert_to_tensor(self.vectors)
        if self.has_network:
            x = ops.matmul(ops.tanh(ops.matmul(x, self.first)), self.second)
        x = ops.transpose(ops.reshape(x, self.shape), (1, 2, 3, 0, 4))  # (L, 2, H, P, K)
        x = ops.cast(x, base.compute_dtype)
        caches = [(x[i, 0][None], x[i, 1][None]) for i in range(base.num_layers)]
        return repeat_rows(caches, batch_size)


def repeat_rows(caches, batch_size):
    """Give each row of a batch the same keys and values: (1, H, P, K) -> (B, H, P, K) each."""
    return keras.tree.map_structure(
        lambda heads: ops.broadcast_to(heads, (batch_size, *heads.shape[1:])), tuple(caches)
    )


class PrefixedGPT(keras.Model):
    """A GPT whose texts begin behind virtual tokens; it has the doors of a GPT.

    Call: model(token_ids, mask=None) -> logits, float32 (B, T, V). Dropout of the base is off.

    Args:
        base: GPT.
        vectors: PromptVectors or PrefixVectors.
    """

    def __init__(self, base, vectors):
        super().__init__(dtype=base.dtype_policy, name="prefixed")
        self.autocast = False
        self.base, self.vectors = base, vectors
        self.context_length = base.context_length - vectors.length
        self.vocab_size, self.d_model, self.pad_id = base.vocab_size, base.d_model, base.pad_id
        self.num_layers = base.num_layers
        self.built = True

    def call(self, token_ids, mask=None, training=None):
        check_length("token_ids", token_ids, "context_length", self.context_length)
        mask = combine_masks(mask, self.own_mask(token_ids))
        return self.logits(self.hidden(self.embed(token_ids), mask, training=training))

    def embed(self, token_ids, start=None, training=None):
        """Embed tokens with their positions, which begin behind the virtual tokens."""
        if start is None:
            start = 0 if self.pad_id is None else -left_padding(token_ids, self.pad_id)
        return self.base.embed(token_ids, start=start + self.vectors.length, training=training)

    def own_mask(self, token_ids):
        """Hide the future, and padding if there is a pad_id."""
        return self.base.own_mask(token_ids)

    def hidden(self, x, mask=None, training=None):
        """Pass embeddings (B, T, D) through all blocks and the final norm: (B, T, D)."""
        caches = self.vectors.caches(self.base, ops.shape(x)[0])
        return self.decode(x, caches, 0, mask)[0]

    def make_caches(self, batch_size, length):
        """Make the memory of `decode`, with the virtual tokens in it."""
        virtual = self.vectors.caches(self.base, batch_size)
        room = self.base.make_caches(batch_size, length)
        return keras.tree.map_structure(
            lambda heads, zeros: ops.concatenate([heads, zeros], axis=2), virtual, room
        )

    def decode(self, inputs, caches, start, mask=None):
        """Run new tokens only; see `GPT.decode`. `start` counts without the virtual tokens."""
        if mask is not None:  # all may attend to the virtual tokens
            virtual = ops.ones((*ops.shape(mask)[:-1], self.vectors.length), dtype="bool")
            mask = ops.concatenate([virtual, mask], axis=-1)
        return self.base.decode(inputs, caches, start + self.vectors.length, mask)

    def logits(self, hidden):
        """Score every token of the vocabulary: (B, T, D) -> float32 (B, T, V)."""
        return self.base.logits(hidden)

    def check_ids(self, token_ids):
        """Raise unless ids and length are in range; for use before a compiled step."""
        check_token_ids("token_ids", token_ids, self.vocab_size)
        check_length("token_ids", token_ids, "context_length", self.context_length)

    def compute_mask(self, inputs, previous_mask):
        # The attention mask of a call is no mask of the logits.
        return None

    def compute_output_spec(self, token_ids, mask=None, training=None):
        return keras.KerasTensor((*token_ids.shape, self.vocab_size), dtype="float32")
