"""Interpretability: what a GPT computes on the way, and whether a picture of it is true.

The names are loaded when they are first used.
"""

import importlib

LAZY = {
    "Probe": "probing",
    "SparseAutoencoder": "autoencoder",
    "TunedLens": "lenses",
    "activation_names": "walk",
    "activations": "walk",
    "average_embeddings": "attributions",
    "class_score": "attributions",
    "deletion_curve": "attributions",
    "found_directions": "autoencoder",
    "gradient_times_input": "attributions",
    "induction_batch": "induction",
    "induction_scores": "induction",
    "integrated_gradients": "attributions",
    "lens_divergences": "lenses",
    "logit_difference": "patching",
    "logit_lens": "lenses",
    "next_token_score": "attributions",
    "patched": "walk",
    "patching_map": "patching",
    "previous_token_scores": "induction",
    "probe": "probing",
    "repeated_tokens": "induction",
    "toy_states": "autoencoder",
}


def __getattr__(name):
    """Load a name of LAZY."""
    if name not in LAZY:
        raise AttributeError(f"module 'tfgpt.interpret' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tfgpt.interpret.{LAZY[name]}"), name)


def __dir__():
    """List the lazy names too."""
    return sorted({*globals(), *LAZY})


__all__ = list(LAZY)
