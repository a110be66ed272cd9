"""LoRA of a GPT-2 in the files of Hugging Face's peft, in and out.

peft adapts the joint kernel of query, key and value, c_attn, with one matrix A for all
three; here each of the three has its own A. In: each gets the same A. Out: different A are
put one above the other, and B has zeros where a part does not look. Both ways the function
is the same.
"""

import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
from keras import ops

from tfgpt.tuning.adapters import Adapters, adapt
from tfgpt.tuning.lora import LoRA
from tfgpt.validation import check_positive

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# The Dense layers of a GPT that lie side by side in each module of GPT-2.
MODULES = {
    "attn.c_attn": tuple(f"self_attention/{part}" for part in ("query", "key", "value")),
    "attn.c_proj": ("self_attention/output",),
    "mlp.c_fc": ("feed_forward/expand",),
    "mlp.c_proj": ("feed_forward/contract",),
}
TENSOR = re.compile(
    r"base_model\.model\.transformer\.h\.(\d+)\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)"
    r"\.lora_(A|B)\.weight"
)
# What would change the function in a way that LoRA does not have.
FIXED = {
    "peft_type": "LORA",
    "bias": "none",
    "modules_to_save": None,
    "use_dora": False,
    "layer_replication": None,
    "lora_bias": False,
    "trainable_token_indices": None,
    "target_parameters": None,
}


def load_peft(model, folder):
    """Put a LoRA that peft saved on a GPT-2.

    Modules of lower rank than others are filled up with zeros.

    Args:
        model: GPT, the base, see `tfgpt.pretrained.load_gpt2`. The files do not say which
            base they belong to; only shapes are checked.
        folder: path with adapter_config.json and adapter_model.safetensors.

    Returns:
        Adapters, attached.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, the adapter is no plain LoRA of a GPT-2, or it does
            not fit the model.

    Source: Mangrulkar et al., PEFT (github.com/huggingface/peft).
    """
    folder = Path(folder)
    config, arrays = read_files(folder)
    wrong = [f"{key}={config[key]!r}" for key in FIXED if config.get(key, FIXED[key]) != FIXED[key]]
    if wrong:
        raise ValueError(
            f"adapters must be a plain LoRA, got {', '.join(wrong)} in {str(folder)!r}."
        )
    modules = {}
    for name, array in arrays.items():
        found = TENSOR.fullmatch(name)
        if not found:
            raise ValueError(f"adapters must be of a GPT-2, got the tensor {name!r}.")
        block, module, kind = found.groups()
        modules.setdefault((int(block), module), {})[kind] = array.astype("float32")
    if not modules:
        raise ValueError(f"adapters must have tensors, got none in {str(folder)!r}.")
    rank, values = own_values(config, modules)
    layers = "|".join(re.escape(path) for path in values)
    adapters = adapt(model, LoRA(rank, alpha=rank, layers=f"^({layers})$"))
    try:
        assign(adapters, values, folder)
    except ValueError:
        adapters.detach()
        raise
    return adapters


def save_peft(adapters, folder, base=""):
    """Write the LoRA of a GPT-2 as peft reads it.

    Args:
        adapters: Adapters of a GPT with LoRA settings, without DoRA.
        folder: path; made if it does not exist.
        base: str, name or path of the base model at Hugging Face, for the reader.

    Raises:
        ValueError: if the adapters are no plain LoRA, or on other layers than GPT-2 has.
    """
    from safetensors.numpy import save_file

    settings = adapters.settings
    if not isinstance(adapters, Adapters) or not isinstance(settings, LoRA) or settings.dora:
        raise ValueError(f"adapters must be a plain LoRA, got {settings}.")
    matrices = {
        path: tuple(ops.convert_to_numpy(weight) for weight in (layer.a, layer.b))
        for path, layer in adapters.layers.items()
    }
    arrays, ranks, left = {}, {}, set(matrices)
    for block in range(adapters.base.num_layers):
        for module, parts in MODULES.items():
            paths = [f"decoder_{block}/{part}" for part in parts]
            left -= set(paths)
            if not any(path in matrices for path in paths):
                continue
            a, b = joined(paths, matrices, adapters.base.d_model)
            name = f"h.{block}.{module}"
            ranks[name] = len(a)
            arrays[f"base_model.model.transformer.{name}.lora_A.weight"] = np.ascontiguousarray(a)
            arrays[f"base_model.model.transformer.{name}.lora_B.weight"] = np.ascontiguousarray(b)
    if left:
        raise ValueError(f"adapters must lie on layers that GPT-2 has, got {sorted(left)[0]!r}.")
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: other for name, other in ranks.items() if other != rank}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": settings.scale * rank,
        "lora_dropout": settings.dropout,
        "rank_pattern": others,
        "alpha_pattern": {name: settings.scale * other for name, other in others.items()},
        "target_modules": sorted(ranks),
        "fan_in_fan_out": True,  # kernels of GPT-2 are (inputs, outputs)
        "bias": "none",
        "inference_mode": True,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file(arrays, folder / WEIGHTS, metadata={"format": "pt"})


def read_files(folder):
    """Read configuration and tensors of an adapter."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"folder must hold {CONFIG} and {WEIGHTS}, got {str(folder)!r} without {name}; "
                "pickled adapters are not read."
            )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        arrays = load_file(folder / WEIGHTS)
        check_positive("r", config["r"])
        config["lora_alpha"] = float(config["lora_alpha"])
    except (ValueError, KeyError, TypeError, SafetensorError, RecursionError) as error:
        raise ValueError(
            f"folder must hold undamaged adapters, got {str(folder)!r}: {error}"
        ) from error
    return config, arrays


def own_values(config, modules):
    """Return the largest rank, and {path: (a (D, r), b (r, K))} with the scale in b."""
    missing = [name for name, found in modules.items() if set(found) != {"A", "B"}]
    if missing:
        raise ValueError(f"adapters must have lora_A and lora_B, got one of them for {missing[0]}.")
    largest = max(len(found["A"]) for found in modules.values())
    values = {}
    for (block, module), found in sorted(modules.items()):
        a, b = found["A"].T, found["B"].T  # (D, r), (r, n K)
        rank = a.shape[1]
        name = f"h.{block}.{module}"
        alpha = pattern_value(config.get("alpha_pattern"), name, config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        if len(b) != rank or b.shape[1] % len(MODULES[module]):
            raise ValueError(
                f"adapters must have matrices that fit, got {a.T.shape} and {b.shape}."
            )
        fill = largest - rank
        a = np.pad(a, ((0, 0), (0, fill)))
        b = np.pad(scale * b, ((0, fill), (0, 0)))
        parts = np.split(b, len(MODULES[module]), axis=1)
        for part, own in zip(MODULES[module], parts, strict=True):
            values[f"decoder_{block}/{part}"] = a, own
    return largest, values


def pattern_value(pattern, name, default):
    """Look up a module in peft's patterns: a regular expression of the end of its name."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", name):
            return float(value)
    return default


def assign(adapters, values, folder):
    """Give the adapter layers their matrices; raise unless shapes and numbers are right."""
    for path, (a, b) in values.items():
        layer = adapters.layers.get(path)
        shapes = layer and (tuple(layer.a.shape), tuple(layer.b.shape))
        if shapes != (a.shape, b.shape):
            raise ValueError(
                f"adapters must fit the model, got {a.shape} and {b.shape} for {path!r} in "
                f"{str(folder)!r} instead of {shapes}."
            )
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ValueError(f"adapters must be finite, got {path!r} in {str(folder)!r}.")
        layer.a.assign(a)
        layer.b.assign(b)


def joined(paths, matrices, width):
    """Join the LoRA of layers that lie side by side: A (r, D), B (n K, r)."""
    present = [path for path in paths if path in matrices]
    first = matrices[present[0]][0]
    if all(np.array_equal(first, matrices[path][0]) for path in present):
        blocks = [matrices[path][1].T if path in matrices else None for path in paths]
        a = first.T
    else:
        a = np.concatenate([matrices[path][0].T for path in present])
        blocks = [None] * len(paths)
        for place, path in enumerate(present):
            rank = first.shape[1]
            block = np.zeros((matrices[path][1].shape[1], len(a)), "float32")
            block[:, place * rank : (place + 1) * rank] = matrices[path][1].T
            blocks[paths.index(path)] = block
    blocks = [np.zeros((width, len(a)), "float32") if b is None else b for b in blocks]
    return a, np.concatenate(blocks)
