"""GPT-2 in and out: a folder of Hugging Face or KerasHub becomes a GPT, and the other way.

The two differ in form only. GPT-2 keeps query, key and value side by side in one kernel,
c_attn, and calls the parts of a norm weight and bias; a GPT of tfgpt has a kernel for each.
Shape letters: D model width, T context length, V vocabulary, I inner width.
"""

import json
from pathlib import Path

import keras
import numpy as np
from keras import ops

from tfgpt.bundle import check_own_weights, named_weights, replaced_file
from tfgpt.gpt import GPT
from tfgpt.layers import gelu_tanh
from tfgpt.tokenizers import BPETokenizer

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER, VOCAB, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
FILES = (CONFIG, WEIGHTS, INDEX, TOKENIZER, VOCAB, MERGES)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")

# What GPT takes to have the size of each published GPT-2: GPT(**SIZES["gpt2"]).
SIZES = {
    name: {
        "vocab_size": 50257,
        "context_length": 1024,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "activation": gelu_tanh,
    }
    for name, num_layers, d_model, num_heads in (
        ("gpt2", 12, 768, 12),
        ("gpt2-medium", 24, 1024, 16),
        ("gpt2-large", 36, 1280, 20),
        ("gpt2-xl", 48, 1600, 25),
    )
}

# Their names at Hugging Face.
ACTIVATIONS = {
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu": keras.activations.gelu,
    "relu": keras.activations.relu,
    "silu": keras.activations.silu,
    "swish": keras.activations.silu,
    "tanh": keras.activations.tanh,
}
# Keys of config.json that a GPT reads, those that must have one value, and those that
# change no logits.
READ = {
    *("model_type", "vocab_size", "n_positions", "n_ctx", "n_embd", "n_layer", "n_head"),
    *("n_inner", "activation_function", "layer_norm_epsilon", "tie_word_embeddings"),
}
FIXED = {
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
}
HARMLESS = {
    *("_name_or_path", "_attn_implementation_autoset", "_num_labels", "architectures"),
    *("attn_implementation", "attn_pdrop", "bos_token_id", "chunk_size_feed_forward", "dtype"),
    *("embd_pdrop", "eos_token_id", "finetuning_task", "gradient_checkpointing", "id2label"),
    *("initializer_range", "is_decoder", "label2id", "output_attentions", "output_hidden_states"),
    *("output_past", "pad_token_id", "problem_type", "reorder_and_upcast_attn", "resid_pdrop"),
    *("return_dict", "summary_activation", "summary_first_dropout", "summary_proj_to_labels"),
    *("summary_type", "summary_use_proj", "task_specific_params", "torch_dtype"),
    *("transformers_version", "use_cache"),
}

# Blocks: the names of GPT-2 and those of GPT.
NORMS = {"ln_1": "self_attention_norm", "ln_2": "feed_forward_norm"}
DENSES = {
    "attn.c_attn": tuple(f"self_attention/{part}" for part in ("query", "key", "value")),
    "attn.c_proj": ("self_attention/output",),
    "mlp.c_fc": ("feed_forward/expand",),
    "mlp.c_proj": ("feed_forward/contract",),
}
PREFIX = "transformer."
# Causal masks that old files hold beside the weights.
BUFFERS = (".attn.bias", ".attn.masked_bias")
MOST_LINES = 12  # of one error


def load_gpt2(name_or_path, *, dropout=0.0, dtype=None):
    """Load a GPT-2 with its tokenizer.

    Nothing in the files is executed: weights are read from safetensors only.

    Args:
        name_or_path: path of a folder in the form of Hugging Face (config.json and
            model.safetensors, whole or in shards; for the tokenizer tokenizer.json, or
            vocab.json and merges.txt) or of a KerasHub preset; or a name to download:
            "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "owner/name" at Hugging Face
            (needs huggingface_hub), or a KerasHub preset such as "gpt2_base_en" (needs
            keras_hub and kagglehub).
        dropout: float in [0, 1), for further training; GPT-2 was trained with 0.1.
        dtype: dtype or policy of the model; None: Keras's default.

    Returns:
        GPT and its BPETokenizer, None if the folder has none. The logits are those of the
        original, up to rounding.

    Raises:
        FileNotFoundError: if the folder or a file is missing.
        ImportError: if a name is to be downloaded and the library for it is missing.
        ValueError: if the weights are pickled, config.json has a key that is not known or a
            value that GPT does not have, or tensors are missing, unknown or of another shape.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> model = GPT(10, context_length=4, num_layers=1, d_model=8, num_heads=2)
        >>> save_gpt2(folder, model)
        >>> loaded, tokenizer = load_gpt2(folder)
        >>> bool((loaded(np.array([[1]])) == model(np.array([[1]]))).numpy().all())
        True

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).
    """
    options = {"dropout": dropout, "dtype": dtype}
    folder = Path(name_or_path)
    if not folder.exists():
        name = str(name_or_path)
        if is_keras_hub_name(name):
            return load_keras_hub(name, options)
        folder = download(name)
    if not (folder / CONFIG).is_file():
        refuse_pickles(folder)
        raise FileNotFoundError(
            f"name_or_path must hold {CONFIG} and {WEIGHTS}, got {str(folder)!r} without {CONFIG}."
        )
    config = read_json(folder / CONFIG)
    if "registered_name" in config:
        return load_keras_hub(str(folder), options)
    files = tensor_files(folder)
    model = GPT(**sizes_of(config, folder), **options)
    fill(model, files, folder)
    return model, load_gpt2_tokenizer(folder, model.vocab_size)


def save_gpt2(folder, model, tokenizer=None):
    """Write a folder that Hugging Face's GPT2LMHeadModel and KerasHub read.

    Hugging Face hides padding by its attention_mask; a pad_id of the model becomes the
    pad_token_id there. KerasHub reads the form of the published GPT-2 only (tied
    embeddings, an inner width of 4 D and gelu_tanh), and cuts every text as GPT-2 does.

    Args:
        folder: path; made if it does not exist.
        model: GPT with learned positions, norm_first, biases, and an activation that GPT-2
            can have: gelu_tanh, "gelu", "relu", "silu" or "tanh".
        tokenizer: BPETokenizer or None.

    Raises:
        TypeError: if the model is no GPT or the tokenizer no BPETokenizer.
        ValueError: if the model has another form than GPT-2, or more weights (LoRA), or the
            tokenizer has more tokens than the model.
    """
    from safetensors.numpy import save_file

    if not isinstance(model, GPT):
        raise TypeError(f"model must be a GPT, got {type(model).__name__}.")
    if tokenizer is not None and not isinstance(tokenizer, BPETokenizer):
        raise TypeError(f"tokenizer must be a BPETokenizer, got {type(tokenizer).__name__}.")
    check_own_weights(model)
    config = config_of(model, tokenizer)
    arrays = {}
    for name, weights in weights_by_tensor(model).items():
        parts = [ops.convert_to_numpy(ops.cast(weight.value, "float32")) for weight in weights]
        array = np.concatenate(parts, axis=-1)
        arrays[name] = np.ascontiguousarray(array.T if name == "lm_head.weight" else array)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        save_gpt2_tokenizer(folder, tokenizer, model.vocab_size)
    with replaced_file(folder / WEIGHTS) as path:
        save_file(arrays, path, metadata={"format": "pt"})
    write_json(folder / CONFIG, config)


# Configuration


def sizes_of(config, folder):
    """Turn GPT-2's config.json into the arguments of GPT; raise for what GPT is not."""
    unknown = sorted(config.keys() - READ - FIXED.keys() - HARMLESS)
    problems = [f"{key}={config[key]!r} is not known" for key in unknown]
    problems += [
        f"{key}={config[key]!r} instead of {value!r}"
        for key, value in FIXED.items()
        if config.get(key, value) != value
    ]
    needed = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    problems += [f"{key} is missing" for key in needed if config.get(key) is None]
    activation = config.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        problems.append(f"activation_function={activation!r} instead of {', '.join(ACTIVATIONS)}")
    if problems:
        raise ValueError(
            f"config must describe a GPT-2, got {str(folder / CONFIG)!r}: {listed(problems)}"
        )
    return {
        "vocab_size": config["vocab_size"],
        "context_length": config["n_positions"],
        "num_layers": config["n_layer"],
        "d_model": config["n_embd"],
        "num_heads": config["n_head"],
        "dff": config.get("n_inner"),
        "activation": ACTIVATIONS[activation],
        "norm_epsilon": config.get("layer_norm_epsilon", 1e-5),
        "tie_embeddings": config.get("tie_word_embeddings", True),
    }


def config_of(model, tokenizer):
    """Describe a GPT in GPT-2's config.json; raise if GPT-2 is not of that form."""
    activations = {function: name for name, function in reversed(ACTIVATIONS.items())}
    wrong = [
        f"{name}={getattr(model, name)!r}"
        for name, value in (("positions", "learned"), ("norm_first", True), ("use_bias", True))
        if getattr(model, name) != value
    ]
    if model.activation not in activations:
        wrong.append(f"activation={getattr(model.activation, '__name__', model.activation)}")
    if wrong:
        raise ValueError(
            "model must have the form of GPT-2 (positions='learned', norm_first=True, "
            f"use_bias=True, activation {', '.join(ACTIVATIONS)}), got {', '.join(wrong)}."
        )
    end_id = getattr(tokenizer, "end_id", None)
    start_id = getattr(tokenizer, "start_id", None)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": activations[model.activation],
        "vocab_size": model.vocab_size,
        "n_positions": model.context_length,
        "n_ctx": model.context_length,
        "n_embd": model.d_model,
        "n_layer": model.num_layers,
        "n_head": model.num_heads,
        "n_inner": None if model.dff == 4 * model.d_model else model.dff,
        "layer_norm_epsilon": model.norm_epsilon,
        "tie_word_embeddings": model.tie_embeddings,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), model.dropout),
        "bos_token_id": start_id,
        "eos_token_id": end_id,
        "pad_token_id": model.pad_id,
        "torch_dtype": "float32",
    }


# Weights


def weights_by_tensor(model):
    """Map the name of each tensor of GPT-2 to the weights of a GPT that lie in it side by side."""
    own = named_weights(model)
    found = {
        f"{PREFIX}wte.weight": [own["embedding/embeddings"]],  # (V, D)
        f"{PREFIX}wpe.weight": [own["embedding/position_embeddings"]],  # (T, D)
    }
    norms = {"ln_f": "final_norm"}
    denses = {}
    for index in range(model.num_layers):
        block = f"decoder_{index}"
        norms |= {f"h.{index}.{name}": f"{block}/{path}" for name, path in NORMS.items()}
        denses |= {
            f"h.{index}.{name}": [f"{block}/{path}" for path in paths]
            for name, paths in DENSES.items()
        }
    for name, path in norms.items():
        found[f"{PREFIX}{name}.weight"] = [own[f"{path}/gamma"]]  # (D,)
        found[f"{PREFIX}{name}.bias"] = [own[f"{path}/beta"]]
    for name, paths in denses.items():
        found[f"{PREFIX}{name}.weight"] = [own[f"{path}/kernel"] for path in paths]  # (D, n K)
        found[f"{PREFIX}{name}.bias"] = [own[f"{path}/bias"] for path in paths]
    if not model.tie_embeddings:
        found["lm_head.weight"] = [own["output/kernel"]]  # (D, V); GPT-2's is (V, D)
    return found


def shape_of(name, weights):
    """Return the shape of a tensor of GPT-2 that holds these weights."""
    *outer, last = weights[0].shape
    shape = (*outer, last * len(weights))
    return shape[::-1] if name == "lm_head.weight" else shape


def tensor_files(folder):
    """List the safetensors files of a folder: one, or the shards of an index."""
    if (folder / INDEX).is_file():
        content = read_json(folder / INDEX)
        names = content.get("weight_map")
        if not isinstance(names, dict) or not all(
            isinstance(name, str) and Path(name).name == name for name in names.values()
        ):
            raise ValueError(f"{INDEX} must map tensors to files beside it, got {str(folder)!r}.")
        files = [folder / name for name in sorted(set(names.values()))]
    else:
        files = [folder / WEIGHTS]
    for file in files:
        if not file.is_file():
            refuse_pickles(folder)
            raise FileNotFoundError(
                f"name_or_path must hold {file.name}, got {str(folder)!r} without it."
            )
    return files


def refuse_pickles(folder):
    """Raise with the command that converts them if a folder has weights in an unsafe form."""
    found = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
    if found:
        raise ValueError(
            f"weights must be {WEIGHTS}, got {', '.join(found[:3])} in {str(folder)!r}: such files "
            "can run any code when they are read. If you trust it, convert it with "
            'pip install torch transformers, then python -c "from transformers import '
            f"GPT2LMHeadModel as M; M.from_pretrained(r'{folder}').save_pretrained('converted')\"."
        )


def fill(model, files, folder):
    """Assign the tensors of files to a GPT; raise one error for all that does not fit."""
    from safetensors import SafetensorError, safe_open

    targets = weights_by_tensor(model)
    places, shapes = {}, {}
    try:
        for path in files:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 (a method, no dict)
                    if name.endswith(BUFFERS):
                        continue
                    full = name if name.startswith((PREFIX, "lm_head.")) else PREFIX + name
                    places[full] = path, name
                    shapes[full] = tuple(file.get_slice(name).get_shape())
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"weights must be undamaged, got {str(path)!r}: {error}.") from error
    head_of_table = None
    if model.tie_embeddings and "lm_head.weight" in places:
        head_of_table = places.pop("lm_head.weight")
        shapes.pop("lm_head.weight")
    wanted = {name: shape_of(name, weights) for name, weights in targets.items()}
    problems = [f"{name} is missing, {wanted[name]}" for name in wanted if name not in shapes]
    problems += [
        f"{name} {shapes[name]} is not known" for name in sorted(shapes) if name not in wanted
    ]
    problems += [
        f"{name} {shapes[name]} instead of {shape}"
        for name, shape in wanted.items()
        if shapes.get(name, shape) != shape
    ]
    if problems:
        raise ValueError(
            f"weights must fit config.json, got {str(folder)!r} with {len(problems)} that do "
            f"not: {listed(problems)}"
        )
    for name, weights in targets.items():
        array = read_tensor(*places[name])
        check_finite(name, array, folder)
        array = array.T if name == "lm_head.weight" else array
        for weight, value in zip(weights, np.split(array, len(weights), axis=-1), strict=True):
            weight.assign(value)
    if head_of_table is not None:
        table = ops.convert_to_numpy(model.embedding.embeddings)
        if not np.array_equal(read_tensor(*head_of_table).astype(table.dtype), table):
            raise ValueError(
                "lm_head.weight must be the table of the embeddings where config.json ties "
                f"them, got another one in {str(folder)!r}: set tie_word_embeddings to false."
            )


def read_tensor(path, name):
    """Read one tensor of a safetensors file as float32."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return file.get_tensor(name).astype("float32")


def check_finite(name, array, folder):
    """Raise if a tensor holds NaN or inf."""
    if not np.isfinite(array).all():
        raise ValueError(f"weights must be finite, got {name} with NaN or inf in {str(folder)!r}.")


# Tokenizer


def load_gpt2_tokenizer(folder, vocab_size):
    """Read the tokenizer of a folder, None if it has none."""
    # tokenizer.json comes first: it says how a text is cut, the other two do not.
    if not any((folder / name).is_file() for name in (TOKENIZER, VOCAB)):
        return None
    tokenizer = BPETokenizer.load(folder)
    check_size(tokenizer, vocab_size)
    return tokenizer


def save_gpt2_tokenizer(folder, tokenizer, vocab_size):
    """Write the three files of a tokenizer, and the class that reads them."""
    check_size(tokenizer, vocab_size)
    tokenizer.save(folder / TOKENIZER)
    library = tokenizer.library_tokenizer
    library.model.save(str(folder))  # vocab.json and merges.txt
    write_json(folder / VOCAB, library.get_vocab(with_added_tokens=True))
    names = {
        key: tokenizer.id_to_token(token_id)
        for key, token_id in (
            ("bos_token", tokenizer.start_id),
            ("eos_token", tokenizer.end_id),
            ("pad_token", tokenizer.pad_id),
        )
        if token_id is not None
    }
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    )


def check_size(tokenizer, vocab_size):
    """Raise if a tokenizer has ids that a model does not know."""
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"tokenizer must have at most the {vocab_size} tokens of the model, "
            f"got {tokenizer.vocab_size}."
        )


# KerasHub and downloads


def is_keras_hub_name(name):
    """Tell whether a name is of KerasHub: gpt2_base_en, kaggle://... or hf://..."""
    return name.startswith(("gpt2_", "kaggle://", "hf://"))


def load_keras_hub(preset, options):
    """Load a GPT-2 through KerasHub: a folder or a name."""
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            "a KerasHub preset needs keras-hub: pip install keras-hub kagglehub."
        ) from error
    backbone = keras_hub.models.Backbone.from_preset(preset)
    if not isinstance(backbone, keras_hub.models.GPT2Backbone):
        raise ValueError(
            f"name_or_path must be a preset of GPT-2, got {preset!r}, a {type(backbone).__name__}."
        )
    model = GPT(
        backbone.vocabulary_size,
        backbone.max_sequence_length,
        backbone.num_layers,
        backbone.hidden_dim,
        backbone.num_heads,
        dff=backbone.intermediate_dim,
        activation=gelu_tanh,
        **options,
    )
    own = named_weights(model)
    for weight in backbone.weights:
        target = own.pop(keras_hub_path(weight.path))
        target.assign(ops.reshape(weight.value, target.shape))  # heads side by side
    if own:
        raise ValueError(f"name_or_path must hold every weight, got {preset!r} without {[*own]}.")
    try:
        library = keras_hub.models.GPT2Tokenizer.from_preset(preset)
    except (ValueError, FileNotFoundError):  # a backbone alone
        return model, None
    return model, from_keras_hub(library)


def keras_hub_path(path):
    """Turn the path of a weight in KerasHub's GPT-2 into that in a GPT.

    Example:
        >>> keras_hub_path("transformer_layer_3/self_attention/attention_output/kernel")
        'decoder_3/self_attention/output/kernel'
    """
    for theirs, ours in (
        ("token_embedding/", "embedding/"),
        ("position_embedding/embeddings", "embedding/position_embeddings"),
        ("transformer_layer_", "decoder_"),
        ("attention_output/", "output/"),
        ("self_attention_layer_norm/", "self_attention_norm/"),
        ("feedforward_intermediate_dense/", "feed_forward/expand/"),
        ("feedforward_output_dense/", "feed_forward/contract/"),
        ("feedforward_layer_norm/", "feed_forward_norm/"),
    ):
        path = path.replace(theirs, ours)
    return path.replace("layer_norm/", "final_norm/") if path.startswith("layer_norm/") else path


def from_keras_hub(library):
    """Make a BPETokenizer of KerasHub's GPT2Tokenizer."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        vocab, merges = Path(folder) / VOCAB, Path(folder) / MERGES
        write_json(vocab, dict(library.vocabulary))
        merges.write_text("\n".join(library.merges) + "\n", encoding="utf-8")
        return BPETokenizer.from_files(vocab, merges)


def download(name):
    """Download the files of a repository of Hugging Face; return their folder."""
    if not name or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise FileNotFoundError(f"name_or_path must be a folder or a name, got {name!r}.")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        raise ImportError(
            f"name_or_path must be a folder, got {name!r}; to download a model of that name: "
            "pip install huggingface_hub."
        ) from error
    try:
        # Some weights are in shards; pickles stay where they are.
        return Path(snapshot_download(name, allow_patterns=[*FILES, "model-*.safetensors"]))
    except (OSError, HFValidationError) as error:  # of the network, the hub and the cache
        raise FileNotFoundError(
            f"name_or_path must be a folder or a model that can be downloaded, got {name!r}: "
            f"{str(error).splitlines()[0]}"
        ) from error


# Files


def listed(problems):
    """Write problems in one line, the first of many."""
    more = len(problems) - MOST_LINES
    return "; ".join(problems[:MOST_LINES]) + (f"; and {more} more." if more > 0 else ".")


def read_json(path):
    """Read a JSON object; raise if the file holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UTF-8 and JSON errors too
        raise ValueError(f"{path.name} must be JSON, got {str(path)!r}: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} must be a JSON object, got {str(path)!r}.")
    return content


def write_json(path, content):
    """Write a JSON object."""
    with replaced_file(path) as beside:
        beside.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
