"""Writing with a model: samplers, searches, the cached decoding loop, streaming. Notebook 10.

The names are loaded when they are first used: settings, prompts and texts need no Keras.
"""

import importlib

LAZY = {
    "BeamSearch": "beam",
    "ContrastiveSearch": "contrastive",
    "SpeculativeDecoding": "speculative",
    "beam_search": "beam",
    "generate": "decoding",
    "next_token_probabilities": "decoding",
    "speculative_generate": "speculative",
    "stream": "streaming",
}


def __getattr__(name):
    """Load a name of LAZY."""
    if name not in LAZY:
        raise AttributeError(f"module 'tfgpt.generation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tfgpt.generation.{LAZY[name]}"), name)


def __dir__():
    """List the lazy names too."""
    return sorted({*globals(), *LAZY})


__all__ = list(LAZY)
