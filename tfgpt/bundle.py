"""A text model on disk: one folder with its configuration, weights and tokenizer.

config.json (class and sizes of the model, versions, further facts), weights.safetensors
and tokenizer.json. Nothing in them is executed when they are read. Each file is written
beside its place first and then takes it, so that a kill leaves the old file or the new.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path

import keras
import numpy as np
from keras import ops

from tfgpt.gpt import GPT
from tfgpt.tokenizers import load_tokenizer
from tfgpt.transformer import Transformer
from tfgpt.validation import check_choice

CONFIG, WEIGHTS, TOKENIZER = "config.json", "weights.safetensors", "tokenizer.json"
# Only these are made from a configuration.
CLASSES = {"GPT": GPT, "Transformer": Transformer}
DTYPES = ("float32", "float16", "bfloat16")


def save_bundle(folder, model, tokenizer=None, dtype="float32", **facts):
    """Write a model and its tokenizer into one folder.

    The dtype policy of the model is kept. "float32" keeps every bit of float32, float16
    and bfloat16 weights; the other two halve the file and round float32 weights.

    Args:
        folder: path; made if it does not exist.
        model: GPT or Transformer, quantized or not. One with LoRA is refused: its
            weights are not those that its configuration makes.
        tokenizer: CharTokenizer or BPETokenizer, or None.
        dtype: "float32", "float16" or "bfloat16", of the weights in the file.
        facts: further keys of config.json, what JSON can hold.

    Raises:
        TypeError: if the model is no GPT or Transformer, or JSON cannot hold a fact.
        ValueError: if the model has other weights than its configuration makes, a weight
            is NaN, infinite or too large for the dtype, or the tokenizer does not fit.

    Example:
        >>> import tempfile
        >>> model = GPT(10, context_length=4, num_layers=1, d_model=8, num_heads=2)
        >>> folder = tempfile.mkdtemp()
        >>> save_bundle(folder, model, note="untrained")
        >>> loaded, tokenizer = load_bundle(folder)
        >>> bool((loaded(np.array([[1]])) == model(np.array([[1]]))).numpy().all())
        True
    """
    if type(model) not in CLASSES.values():
        raise TypeError(f"model must be a GPT or Transformer, got {type(model).__name__}.")
    if tokenizer is not None:
        check_vocabulary(model, tokenizer)
    check_own_weights(model)
    write_config(folder, model, **facts)
    if tokenizer is not None:
        write_tokenizer(folder, tokenizer)
    write_weights(folder, model, dtype)


def load_bundle(folder, class_name=None):
    """Read a model and its tokenizer that `save_bundle` wrote.

    Args:
        folder: path.
        class_name: "GPT" or "Transformer", the only class that is accepted; None: both.

    Returns:
        GPT or Transformer with the dtype policy that it had, and its tokenizer, None if
        the folder has none.

    Raises:
        FileNotFoundError: if config.json or weights.safetensors is missing.
        ValueError: if a file is damaged or foreign, the model is of another class, or
            the files do not fit together.
    """
    folder = Path(folder)
    config = read_config(folder)
    path = checked_path(folder, WEIGHTS)
    check_size(config["config"], path)
    model = make_model(config, folder, [class_name] if class_name else list(CLASSES))
    load_weights(model, path)
    if not (folder / TOKENIZER).exists():
        return model, None
    tokenizer = load_tokenizer(folder / TOKENIZER)
    check_vocabulary(model, tokenizer)
    return model, tokenizer


def write_config(folder, model, **facts):
    """Write config.json: class, configuration, versions and further facts.

    Args:
        folder: path; made if it does not exist.
        model: Keras model with a configuration; only a GPT or Transformer can be loaded.
        facts: further keys, what JSON can hold.

    Raises:
        TypeError: if JSON cannot hold a fact or the configuration.
        ValueError: if a fact has the name of another key.
    """
    serialized = keras.saving.serialize_keras_object(model)
    content = {
        "class_name": type(model).__name__,
        "config": serialized["config"],
        "versions": {"tfgpt": own_version(), "keras": keras.__version__},
    }
    taken = sorted(content.keys() & facts.keys())
    if taken:
        raise ValueError(f"facts must have names of their own, got {', '.join(taken)}.")
    text = json.dumps(content | facts, indent=1, ensure_ascii=False)
    with replaced_file(Path(folder) / CONFIG) as path:
        path.write_text(text, encoding="utf-8")


def read_config(folder):
    """Read the config.json of a bundle, facts included.

    Args:
        folder: path.

    Returns:
        dict with "class_name", "config" and the facts.

    Raises:
        FileNotFoundError: if there is no config.json.
        ValueError: if the file is damaged or foreign.
    """
    path = checked_path(Path(folder), CONFIG)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content["class_name"], str) and isinstance(content["config"], dict):
            return content
        raise ValueError("class_name or config is of another type")
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # JSON errors too
        raise ValueError(
            f"folder must hold an undamaged {CONFIG} of a saved model, got {str(path)!r}."
        ) from error


def write_weights(folder, model, dtype="float32"):
    """Write weights.safetensors.

    Args:
        folder: path; made if it does not exist.
        model: Keras model that is built.
        dtype: "float32", "float16" or "bfloat16"; integer weights stay integers.

    Raises:
        ValueError: if the dtype is unknown, or a weight is NaN, infinite or too large for it.
    """
    write_arrays(folder, weight_arrays(model, dtype))


def weight_arrays(model, dtype="float32"):
    """Copy the weights of a model, by their names in the file; see `write_weights`."""
    check_choice("dtype", dtype, DTYPES)
    arrays = {}
    for name, weight in named_weights(model).items():
        value = weight.value
        if keras.backend.is_float_dtype(weight.dtype):
            value = ops.cast(value, dtype)
            if not ops.all(ops.isfinite(value)):
                raise ValueError(
                    f"weights must be finite in {dtype}, got {name!r} with NaN or inf."
                )
        arrays[name] = np.array(ops.convert_to_numpy(value), order="C", copy=True)
    return arrays


def write_arrays(folder, arrays):
    """Write weights.safetensors from named arrays."""
    from safetensors.numpy import save_file

    with replaced_file(Path(folder) / WEIGHTS) as path:
        save_file(arrays, path)


def write_tokenizer(folder, tokenizer):
    """Write tokenizer.json."""
    with replaced_file(Path(folder) / TOKENIZER) as path:
        tokenizer.save(path)


def load_weights(model, path):
    """Fill a model with a safetensors file; raise unless names, shapes and numbers are right."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"folder must hold undamaged weights, got {str(path)!r}.") from error
    weights = named_weights(model)
    expected = {name: describe(weight) for name, weight in weights.items()}
    found = {name: describe(array) for name, array in arrays.items()}
    wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    if wrong:
        raise ValueError(
            f"weights must fit the model, got {str(path)!r} with {wrong[0]!r}: "
            f"{found.get(wrong[0], 'missing')} instead of {expected.get(wrong[0], 'nothing')}."
        )
    for name, array in arrays.items():
        if not np.isfinite(array.astype("float32")).all():
            raise ValueError(
                f"weights must be finite, got {name!r} in {str(path)!r} with NaN or inf."
            )
    for name, weight in weights.items():
        weight.assign(ops.cast(arrays[name], weight.dtype))


def check_vocabulary(model, tokenizer):
    """Raise unless a tokenizer has as many tokens as a model, and the same padding."""
    if hasattr(model, "source_vocab_size"):
        sizes = {"sources": model.source_vocab_size, "targets": model.target_vocab_size}
    else:
        sizes = {"texts": model.vocab_size}
    if set(sizes.values()) != {tokenizer.vocab_size}:
        wanted = " and ".join(f"{size} for {name}" for name, size in sizes.items())
        raise ValueError(
            f"tokenizer must have as many tokens as the model, {wanted}, "
            f"got {tokenizer.vocab_size}."
        )
    pad_id = getattr(model, "pad_id", None)
    if pad_id is not None and pad_id != tokenizer.pad_id:
        raise ValueError(
            f"tokenizer must have the pad_id of the model, {pad_id}, got {tokenizer.pad_id}."
        )


def named_weights(model):
    """Map the path of each weight below the model, such as "decoder/layer_0/...", to it."""
    marker = f"/{model.name}/"
    paths = [f"/{weight.path}".partition(marker)[2] or weight.path for weight in model.weights]
    named = dict(zip(paths, model.weights, strict=True))
    if len(named) < len(model.weights):
        raise ValueError("model must have a name of its own for each weight, got one name twice.")
    return named


def describe(array):
    """Return what must be equal in file and model: the shape, and whether it is integers."""
    is_float = keras.backend.is_float_dtype(str(array.dtype))
    return f"{'numbers' if is_float else 'integers'} of shape {tuple(array.shape)}"


def make_model(config, folder, accepted):
    """Make the untrained model of a configuration."""
    if config["class_name"] not in accepted:
        raise ValueError(
            f"folder must hold the config of a {' or '.join(accepted)}, got "
            f"{config['class_name']!r} in {str(folder)!r}."
        )
    try:
        return CLASSES[config["class_name"]].from_config(config["config"])
    except Exception as error:  # anything may stand in a damaged file
        raise ValueError(
            f"folder must hold the config of a {config['class_name']}, got "
            f"{str(folder / CONFIG)!r}: {error}"
        ) from error


def check_size(config, path):
    """Raise if a configuration asks for far more weights than the file has bytes.

    A damaged or hostile one could otherwise fill all memory before it is noticed.
    """
    numbers = {name: value for name, value in config.items() if isinstance(value, int)}
    width, layers = numbers.get("d_model", 0), numbers.get("num_layers", 0)
    tables = max(value for name, value in {"": 0, **numbers}.items() if "vocab" in name or not name)
    longest = max(numbers.get("context_length", 0), numbers.get("max_length", 0))
    size = path.stat().st_size
    # At least; four-bit weights take half a byte each.
    least = width * tables + 4 * layers * width**2 + layers + numbers.get("dff", 0) * width
    if least > 4 * size + 10**6 or longest * width > 64 * size + 10**8:
        raise ValueError(
            f"folder must hold the config of its weights, got {str(path.parent)!r}, whose "
            f"{CONFIG} asks for {least:,} numbers or more and a length of {longest:,}, but "
            f"{path.name} has {size:,} bytes."
        )


def check_own_weights(model):
    """Raise if the weights are not those that the configuration makes: LoRA, quantized."""
    fresh = type(model).from_config(model.get_config())
    expected = {name: (weight.shape, weight.dtype) for name, weight in named_weights(fresh).items()}
    found = {name: (weight.shape, weight.dtype) for name, weight in named_weights(model).items()}
    wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    if wrong:
        shape, dtype = found.get(wrong[0], ("missing", ""))
        raise ValueError(
            "model must have the weights that its configuration makes, got "
            f"{wrong[0]!r} {shape} {dtype}: save it without LoRA, or with model.save."
        )


def checked_path(folder, name):
    """Return the path of a file of the bundle; raise if it is missing."""
    if not (folder / name).is_file():
        raise FileNotFoundError(
            f"folder must hold {CONFIG}, {WEIGHTS} and, for text, {TOKENIZER}, "
            f"got {str(folder)!r} without {name}."
        )
    return folder / name


def own_version():
    """Return the version of tfgpt, None if it is not installed."""
    try:
        return importlib.metadata.version("tfgpt")
    except importlib.metadata.PackageNotFoundError:
        return None


def digest_of(path):
    """Return the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def replaced_file(path):
    """Give a path beside `path` to write; the file takes its place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        with beside.open("r+b") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
