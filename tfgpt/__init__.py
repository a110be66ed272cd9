"""tfgpt: GPT and the Transformer for Keras 3, written to be read.

Importing tfgpt needs keras, numpy and one Keras backend. Modules that need more
(plotting: matplotlib; tokenizers: the `tokenizers` library) load it when used.
"""

import keras

from tfgpt import (
    attention,
    attention_plots,
    checks,
    compilation,
    contrastive,
    data,
    device_checks,
    devices,
    diagnosis,
    figures,
    fused,
    generation,
    gpt,
    layers,
    losses,
    masks,
    pairs,
    plotting,
    positional,
    precision,
    request,
    samplers,
    scores,
    search,
    speculative,
    streaming,
    tokenizers,
    training,
    transformer,
    viewer,
)
from tfgpt.attention import MultiHeadAttention, scaled_dot_product_attention
from tfgpt.contrastive import ContrastiveSearch
from tfgpt.diagnosis import doctor
from tfgpt.generation import generate
from tfgpt.gpt import GPT
from tfgpt.layers import DecoderLayer, EncoderLayer, FeedForward
from tfgpt.losses import bits_per_byte, masked_accuracy, masked_loss, perplexity
from tfgpt.masks import causal_mask, combine_masks, create_masks, padding_mask
from tfgpt.positional import PositionalEmbedding, apply_rotary, get_angles, positional_encoding
from tfgpt.precision import cast_model, compare_predictions
from tfgpt.search import BeamSearch, beam_search
from tfgpt.speculative import speculative_generate
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
    "BeamSearch",
    "CharTokenizer",
    "ContrastiveSearch",
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
    "compilation",
    "contrastive",
    "create_masks",
    "data",
    "device_checks",
    "devices",
    "diagnosis",
    "doctor",
    "evaluate",
    "figures",
    "fused",
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
    "request",
    "samplers",
    "scaled_dot_product_attention",
    "scores",
    "search",
    "set_seed",
    "speculative",
    "speculative_generate",
    "stream",
    "streaming",
    "tokenizers",
    "train",
    "training",
    "transformer",
    "viewer",
]
