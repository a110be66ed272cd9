"""A model that fills in hidden words: the encoder alone, as BERT.

An encoder sees both sides of each place; a GPT sees the left side only. So the encoder
understands a gap better, and cannot write. Shape letters: B batch, T tokens, D model width,
V vocabulary with the mask token.
"""

import keras
import numpy as np
from keras import ops

from tfgpt.layers import LayerNorm
from tfgpt.masks import padding_mask
from tfgpt.tokenizers import BPETokenizer
from tfgpt.transformer import Encoder
from tfgpt.validation import check_length, check_pad_id, check_positive, check_token_ids


@keras.saving.register_keras_serializable("tfgpt")
class MaskedLanguageModel(keras.Model):
    """Predict each token from both sides.

    Positions are sinusoidal, which learns faster than BERT's learned ones on small texts.

    Call: model(token_ids) -> logits, float32 (B, T, V). Targets where nothing is hidden are
    -100: compile it with `MaskedLoss(pad_id=-100)`.

    Args:
        vocab_size: int, tokens of the tokenizer; the mask token gets the id after them,
            `mask_id`.
        max_length: int >= 1, the longest text.
        num_layers: int >= 1.
        d_model: int, D, a multiple of num_heads.
        num_heads: int >= 1.
        dropout: float in [0, 1).
        pad_id: int, the id that is never looked at.

    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding" (2019).
    """

    def __init__(
        self,
        vocab_size,
        max_length,
        num_layers,
        d_model,
        num_heads,
        dropout=0.1,
        pad_id=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.autocast = False
        self.vocab_size = check_positive("vocab_size", vocab_size)
        self.mask_id = self.vocab_size
        self.max_length = check_positive("max_length", max_length)
        self.pad_id = check_pad_id(pad_id, self.vocab_size)
        self.sizes = {"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads}
        self.dropout = dropout
        self.encoder = Encoder(
            num_layers,
            d_model,
            num_heads,
            4 * d_model,
            self.vocab_size + 1,
            max_length,
            dropout,
            norm_first=True,
            activation="gelu",
            positions="sinusoidal",
            name="encoder",
        )
        # Before the table is used as output kernel: a Dense layer, an activation, a norm.
        self.transform = keras.layers.Dense(d_model, activation="gelu", name="transform")
        self.norm = LayerNorm(name="norm")
        self.encoder.build((None, self.max_length))
        self.transform.build((None, None, d_model))
        self.norm.build((None, None, d_model))
        self.built = True

    def call(self, token_ids, training=None):
        hidden = self.hidden(token_ids, training)  # (B, T) -> (B, T, D)
        return self.encoder.embedding.logits(self.norm(self.transform(hidden)))

    def hidden(self, token_ids, training=None):
        """Read a text from both sides: (B, T) -> (B, T, D)."""
        check_length("token_ids", token_ids, "max_length", self.max_length)
        mask = padding_mask(token_ids, self.pad_id)
        return self.encoder(token_ids, mask=mask, training=training)

    def compute_output_spec(self, token_ids, training=None):
        return keras.KerasTensor((*token_ids.shape, self.vocab_size + 1), dtype="float32")

    def check_ids(self, token_ids):
        """Raise unless ids and length are in range; for use before a compiled step."""
        check_token_ids("token_ids", token_ids, self.vocab_size + 1)
        check_length("token_ids", token_ids, "max_length", self.max_length)

    def get_config(self):
        return {
            **super().get_config(),
            "vocab_size": self.vocab_size,
            "max_length": self.max_length,
            **self.sizes,
            "dropout": self.dropout,
            "pad_id": self.pad_id,
        }


def fill_in(model, tokenizer, text, count=5, gap="[MASK]"):
    """Guess what stands in the gap of a text.

    Args:
        model: MaskedLanguageModel.
        tokenizer: its tokenizer.
        text: str with one gap, which is one token of the tokenizer.
        count: int >= 1, how many guesses.
        gap: str that marks the gap.

    Returns:
        list of (token as str, probability), the likeliest first.

    Raises:
        ValueError: if there is not exactly one gap, or the text is too long.
    """
    check_positive("count", count)
    parts = text.split(gap)
    if len(parts) != 2:
        raise ValueError(f"text must have one {gap}, got {len(parts) - 1} in {text!r}.")
    if isinstance(tokenizer, BPETokenizer):  # the space before a word belongs to it
        parts[0] = parts[0].removesuffix(" ")
    left, right = map(tokenizer.encode, parts)
    token_ids = np.concatenate([left, [model.mask_id], right]).astype("int32")[None]
    chances = ops.convert_to_numpy(ops.softmax(model(token_ids)[0, len(left)]))
    chances = chances[: model.vocab_size]  # the mask token is no guess
    best = np.argsort(-chances)[:count]
    return [(tokenizer.id_to_token(int(place)), float(chances[place])) for place in best]
