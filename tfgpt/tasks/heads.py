"""What stands on a GPT instead of its vocabulary: a class per text, or a tag per token.

Shape letters: B batch, T tokens, D model width, C classes or tags.
"""

import keras
from keras import ops

from tfgpt.layers import LayerNorm
from tfgpt.validation import check_choice, check_integer, check_rate

POOLINGS = ("mean", "last", "first-last")


class TextClassifier(keras.Model):
    """Score the classes of each text: a GPT, pooling, and one Dense layer.

    Call: model(token_ids) -> logits, float32 (B, C); token_ids int (B, T), padded on the
    right with pad_id.

    Args:
        gpt: GPT, or the model of adapters on one.
        num_classes: int >= 2, C.
        pad_id: int, what fills up short texts.
        pooling: "mean" of the hidden states of all real tokens; that of the "last" one; or
            "first-last", the means of the embeddings and of the hidden states side by side.
        dropout: float in [0, 1), before the Dense layer.

    Attributes: extra_losses, a list of functions (token_ids, logits) -> scalar that are
    added to the loss in training.

    Raises:
        ValueError: if an argument is outside its range.

    Source: Radford et al., "Improving Language Understanding by Generative Pre-Training"
    (GPT-1, 2018), section 3.2.
    """

    def __init__(self, gpt, num_classes, pad_id, pooling="mean", dropout=0.1):
        super().__init__(name="text_classifier", dtype=gpt.dtype_policy)
        self.autocast = False
        check_choice("pooling", pooling, POOLINGS)
        self.gpt, self.pad_id, self.pooling = gpt, pad_id, pooling
        self.__dict__["extra_losses"] = []  # a teacher in one is no part of this model
        parts = 2 if pooling == "first-last" else 1
        if parts == 2:
            self.norm = LayerNorm(dtype="float32", name="first_norm")
            self.norm.build((None, gpt.d_model))
        self.head = Head(parts * gpt.d_model, num_classes, dropout)
        self.built = True

    def call(self, token_ids, training=None):
        x = self.gpt.embed(token_ids, training=training)  # (B, T) -> (B, T, D)
        logits = self.score(x, token_ids, training)
        for extra_loss in self.extra_losses if training else ():
            self.add_loss(extra_loss(token_ids, logits))
        return logits

    def score(self, x, token_ids, training=None):
        """Score the classes of embeddings (B, T, D); token_ids say where padding is."""
        hidden = last_states(self.gpt, x, token_ids, training)  # (B, T, D)
        is_real, last = real_tokens(token_ids, self.pad_id)
        if self.pooling == "last":
            pooled = ops.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]  # (B, D)
        else:
            pooled = mean_over(hidden, is_real)
        if self.pooling == "first-last":
            first = self.norm(mean_over(ops.cast(x, "float32"), is_real))
            pooled = ops.concatenate([first, pooled], axis=-1)  # (B, 2 D)
        return self.head(pooled, training=training)

    def compute_output_spec(self, token_ids, training=None):
        return keras.KerasTensor((token_ids.shape[0], self.head.size), dtype="float32")


class TokenTagger(keras.Model):
    """Score the tags at each token: a GPT and one Dense layer.

    Call: model(token_ids) -> logits, float32 (B, T, C).

    Args:
        gpt: GPT, or the model of adapters on one.
        num_tags: int >= 2, C.
        dropout: float in [0, 1), before the Dense layer.

    Raises:
        ValueError: if an argument is outside its range.

    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (2019),
    section 5.3.
    """

    def __init__(self, gpt, num_tags, dropout=0.1):
        super().__init__(name="token_tagger", dtype=gpt.dtype_policy)
        self.autocast = False
        self.gpt = gpt
        self.head = Head(gpt.d_model, num_tags, dropout)
        self.built = True

    def call(self, token_ids, training=None):
        x = self.gpt.embed(token_ids, training=training)
        return self.head(last_states(self.gpt, x, token_ids, training), training=training)

    def compute_output_spec(self, token_ids, training=None):
        shape = (*token_ids.shape, self.head.size)
        return keras.KerasTensor(shape, dtype="float32")


class Head(keras.layers.Layer):
    """Dropout and a Dense layer in float32: (..., D) -> (..., C).

    Args:
        d_model: int, D.
        size: int >= 2, C.
        dropout: float in [0, 1).
    """

    def __init__(self, d_model, size, dropout):
        super().__init__(name="head", dtype="float32")
        self.size = check_integer("number of classes", size, minimum=2)
        self.dropout = keras.layers.Dropout(check_rate("dropout", dropout), dtype="float32")
        small = keras.initializers.RandomNormal(stddev=0.02)
        self.dense = keras.layers.Dense(size, kernel_initializer=small, dtype="float32")
        self.dense.build((None, d_model))
        self.built = True

    def call(self, x, training=None):
        return self.dense(self.dropout(x, training=training))


def last_states(gpt, x, token_ids, training):
    """Run embeddings through a GPT: (B, T, D) -> float32 (B, T, D)."""
    return ops.cast(gpt.hidden(x, gpt.own_mask(token_ids), training=training), "float32")


def mean_over(x, is_real):
    """Average over real tokens: (B, T, D), bool (B, T) -> (B, D)."""
    total = ops.sum(ops.where(is_real[..., None], x, 0.0), axis=1)
    return total / ops.sum(ops.cast(is_real, "float32"), axis=1, keepdims=True)


def real_tokens(token_ids, pad_id):
    """Say what is not padding on the right: bool (B, T), and the last real place, int (B,).

    An id that pads may also stand in a text: only what follows the last other id is padding.
    """
    places = ops.arange(ops.shape(token_ids)[1], dtype="int32")
    last = ops.max(ops.where(token_ids != pad_id, places, 0), axis=1)
    return places <= last[:, None], last
