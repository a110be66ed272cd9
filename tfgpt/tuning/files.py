"""Adapters on disk: adapter.json and adapter.safetensors, in one small folder.

The base is not written; a digest of its weights is, so that adapters never meet another one.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from keras import ops

from tfgpt.tuning.adalora import AdaLoRA
from tfgpt.tuning.adapters import adapt, hash_weights
from tfgpt.tuning.bottleneck import IA3, Bottleneck
from tfgpt.tuning.lora import LoRA
from tfgpt.tuning.virtual_tokens import PrefixTuning, PromptTuning

SETTINGS = {
    kind.__name__: kind for kind in (LoRA, AdaLoRA, Bottleneck, IA3, PrefixTuning, PromptTuning)
}
CONFIG, WEIGHTS = "adapter.json", "adapter.safetensors"


def save_adapters(adapters, folder):
    """Write the adapters of a model without its base.

    Args:
        adapters: what `adapt` returned.
        folder: path; made if it does not exist.
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = adapters.settings
    content = {
        "kind": type(settings).__name__,
        "settings": asdict(settings),
        "base_hash": adapters.base_hash,
    }
    (folder / CONFIG).write_text(json.dumps(content, indent=1), encoding="utf-8")
    arrays = {
        name: np.ascontiguousarray(ops.convert_to_numpy(weight))
        for name, weight in adapters.weights.items()
    }
    save_file(arrays, folder / WEIGHTS)


def load_adapters(model, folder):
    """Read adapters and put them on the base that they were trained with.

    Args:
        model: Keras model, the base.
        folder: path that `save_adapters` wrote.

    Returns:
        Adapters or VirtualTokens, attached.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or they belong to another base.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"folder must hold {CONFIG} and {WEIGHTS}, got {str(folder)!r} without {name}."
            )
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        settings = SETTINGS[content["kind"]](**content["settings"])
        base_hash = content["base_hash"]
        arrays = load_file(folder / WEIGHTS)
    except (ValueError, KeyError, TypeError, SafetensorError, RecursionError) as error:
        raise ValueError(
            f"folder must hold undamaged adapters, got {str(folder)!r}: {error}"
        ) from error
    if hash_weights(model) != base_hash:
        raise ValueError(
            f"model must be the base of the adapters in {str(folder)!r}, with the hash "
            f"{base_hash}, got one with {hash_weights(model)}: load the base they were trained on."
        )
    adapters = adapt(model, settings)
    try:
        fill(adapters.weights, arrays, folder)
    except ValueError:
        adapters.detach()
        raise
    return adapters


def fill(weights, arrays, folder):
    """Assign arrays to weights by name; raise unless names and shapes are the same."""
    expected = {name: tuple(weight.shape) for name, weight in weights.items()}
    found = {name: array.shape for name, array in arrays.items()}
    wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    if wrong:
        raise ValueError(
            f"adapters must fit the model, got {str(folder)!r} with "
            + ", ".join(f"{n} {found.get(n)} instead of {expected.get(n)}" for n in wrong[:5])
            + "."
        )
    for name, weight in weights.items():
        if not np.isfinite(arrays[name].astype("float32")).all():
            raise ValueError(f"adapters must be finite, got {name!r} in {str(folder)!r}.")
        weight.assign(arrays[name])
