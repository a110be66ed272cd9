"""tfgpt: GPT and the Transformer for Keras 3, written to be read.

Importing tfgpt needs keras, numpy and one Keras backend. Modules that need more
(plotting: matplotlib; tokenizers: the `tokenizers` library) load it when used.
"""

import keras

from tfgpt import (
    attention,
    attention_plots,
    checks,
    data,
    device_checks,
    devices,
    diagnosis,
    figures,
    generation,
    gpt,
    layers,
    losses,
    masks,
    pairs,
    plotting,
    positional,
    precision,
    samplers,
    scores,
    search,
    streaming,
    tokenizers,
    training,
    transformer,
    viewer,
)
from tfgpt.attention import MultiHeadAttention, scaled_dot_product_attention
from tfgpt.diagnosis import doctor
from tfgpt.generation import generate
from tfgpt.gpt import GPT
from tfgpt.layers import DecoderLayer, EncoderLayer, FeedForward
from tfgpt.losses import bits_per_byte, masked_accuracy, masked_loss, perplexity
from tfgpt.masks import causal_mask, combine_masks, create_masks, padding_mask
from tfgpt.positional import PositionalEmbedding, apply_rotary, get_angles, positional_encoding
from tfgpt.precision import cast_model, compare_predictions
from tfgpt.search import beam_search
from tfgpt.streaming import stream
from tfgpt.tokenizers import BPETokenizer, CharTokenizer
from tfgpt.training import WarmupLinearDecay, WarmupSchedule, evaluate, make_train_step, train
from tfgpt.transformer import Decoder, Encoder, Transformer
from tfgpt.translator import Translator
from tfgpt.validation import check_integer

__version__ = "0.1.0"


def set_seed(seed):
    """Seed Python, NumPy and the backend: two seeded CPU runs are identical.

    Call it before layers are made: their initial values are drawn then.

    Args:
        seed: int >= 0.

    Raises:
        ValueError: if seed is not an integer >= 0.
    """
    check_integer("seed", seed, minimum=0)
    keras.utils.set_random_seed(int(seed))


__all__ = [
    "BPETokenizer",
    "CharTokenizer",
    "Decoder",
    "DecoderLayer",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "GPT",
    "MultiHeadAttention",
    "PositionalEmbedding",
    "Transformer",
    "Translator",
    "WarmupLinearDecay",
    "WarmupSchedule",
    "apply_rotary",
    "attention",
    "attention_plots",
    "beam_search",
    "bits_per_byte",
    "cast_model",
    "causal_mask",
    "checks",
    "combine_masks",
    "compare_predictions",
    "create_masks",
    "data",
    "device_checks",
    "devices",
    "diagnosis",
    "doctor",
    "evaluate",
    "figures",
    "generate",
    "generation",
    "get_angles",
    "gpt",
    "layers",
    "losses",
    "make_train_step",
    "masked_accuracy",
    "masked_loss",
    "masks",
    "padding_mask",
    "pairs",
    "perplexity",
    "plotting",
    "positional",
    "positional_encoding",
    "precision",
    "samplers",
    "scaled_dot_product_attention",
    "scores",
    "search",
    "set_seed",
    "stream",
    "streaming",
    "tokenizers",
    "train",
    "training",
    "transformer",
    "viewer",
]
