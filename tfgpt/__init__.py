"""tfgpt: GPT and the Transformer for Keras 3, written to be read.

Importing tfgpt needs keras, numpy and one Keras backend. Modules that need more
(plotting: matplotlib; tokenizers: the `tokenizers` library) load it when used.

Where Keras is not installed, or with TFGPT_LITE=1 in the environment, only LiteModel,
LiteTranslator and the tokenizers are there: the import then takes less than half a second.
"""

import importlib
import importlib.util
import os
import sys

from tfgpt import former_paths, tokenizers
from tfgpt.tokenizers import BPETokenizer, CharTokenizer

WITHOUT_KERAS = ("BPETokenizer", "CharTokenizer", "LiteModel", "LiteTranslator", "tokenizers")
# While Python looks for `python -m tfgpt`, whose command says what it needs.
IS_COMMAND = sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] in ("tfgpt", "-mtfgpt")
IS_LITE = IS_COMMAND or os.environ.get("TFGPT_LITE") == "1"
HAS_KERAS = not IS_LITE and importlib.util.find_spec("keras") is not None

if HAS_KERAS:
    from tfgpt.machine.quiet import quiet_start

    with quiet_start():  # the first import of TensorFlow
        import keras  # noqa: F401

    # ruff: noqa: E402, I001
    from tfgpt import (
        attention,
        data,
        generation,
        gpt,
        layers,
        losses,
        masks,
        positional,
        precision,
        schedules,
        training,
        transformer,
    )
    from tfgpt.attention import MultiHeadAttention, scaled_dot_product_attention
    from tfgpt.generation import (
        BeamSearch,
        ContrastiveSearch,
        SpeculativeDecoding,
        beam_search,
        generate,
        samplers,
        speculative_generate,
        stream,
    )
    from tfgpt.gpt import GPT
    from tfgpt.layers import DecoderLayer, EncoderLayer, FeedForward
    from tfgpt.losses import (
        MaskedAccuracy,
        MaskedLoss,
        Perplexity,
        bits_per_byte,
        masked_accuracy,
        masked_loss,
        perplexity,
    )
    from tfgpt.masks import causal_mask, combine_masks, create_masks, padding_mask
    from tfgpt.positional import PositionalEmbedding, apply_rotary, get_angles, positional_encoding
    from tfgpt.precision import cast_model, compare_predictions
    from tfgpt.schedules import WarmupLinearDecay, WarmupSchedule
    from tfgpt.training import evaluate, make_train_step, set_seed, train
    from tfgpt.transformer import Decoder, Encoder, Transformer

__version__ = "0.1.0"
former_paths.install()

# Loaded when first used: a program that trains needs no figures, checks or doctor.
LAZY = {
    "LanguageModel": "tfgpt.tasks.language_model",
    "LiteModel": "tfgpt.serving.lite_model",
    "LiteTranslator": "tfgpt.serving.lite_translator",
    "Translator": "tfgpt.tasks.translator",
    "checks": "tfgpt.checks",
    "model_parallel": "tfgpt.model_parallel",
    "pack_tokens": "tfgpt.data.packing",
    "doctor": "tfgpt.machine.diagnosis",
    "devices": "tfgpt.machine.devices",
    "export_litert": "tfgpt.serving.litert_export",
    "finetune": "tfgpt.tasks.finetune",
    "load_finetuned": "tfgpt.tasks.finetuned",
    "plotting": "tfgpt.plotting",
    "pretrained": "tfgpt.pretrained",
    "tuning": "tfgpt.tuning",
    "viewer": "tfgpt.plotting.viewer",
}


def __getattr__(name):
    """Load what is in LAZY: a module, or a name that its module defines."""
    if not HAS_KERAS and name in __all__ and name not in WITHOUT_KERAS:
        raise AttributeError(
            f"tfgpt.{name} needs Keras, which is not installed or hidden by TFGPT_LITE=1: only "
            f"{', '.join(WITHOUT_KERAS)} are here without it. Install tensorflow and keras."
        )
    if name not in LAZY:
        raise AttributeError(f"module 'tfgpt' has no attribute {name!r}")
    module = importlib.import_module(LAZY[name])
    return getattr(module, name, module)


def __dir__():
    """List the lazy names too."""
    return sorted({*globals(), *LAZY})


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
    "LanguageModel",
    "LiteModel",
    "LiteTranslator",
    "MaskedAccuracy",
    "MaskedLoss",
    "MultiHeadAttention",
    "Perplexity",
    "PositionalEmbedding",
    "SpeculativeDecoding",
    "Transformer",
    "Translator",
    "WarmupLinearDecay",
    "WarmupSchedule",
    "apply_rotary",
    "attention",
    "beam_search",
    "bits_per_byte",
    "cast_model",
    "causal_mask",
    "checks",
    "combine_masks",
    "compare_predictions",
    "create_masks",
    "data",
    "devices",
    "doctor",
    "evaluate",
    "export_litert",
    "finetune",
    "generate",
    "generation",
    "get_angles",
    "gpt",
    "layers",
    "load_finetuned",
    "losses",
    "make_train_step",
    "masked_accuracy",
    "masked_loss",
    "masks",
    "model_parallel",
    "pack_tokens",
    "padding_mask",
    "perplexity",
    "plotting",
    "positional",
    "positional_encoding",
    "precision",
    "pretrained",
    "samplers",
    "scaled_dot_product_attention",
    "schedules",
    "set_seed",
    "speculative_generate",
    "stream",
    "tokenizers",
    "train",
    "training",
    "transformer",
    "tuning",
    "viewer",
]
