"""Export a GPT or a translator as one file: a LiteRT program with its tokenizer.

`LiteModel` and `LiteTranslator` run it. Embeddings are looked up outside of the program, in
the table that is also the output kernel: it is in the file once. What is left has one kind
of device code for everything (XNNPACK, on CPUs).
"""

import gc
import tempfile
from pathlib import Path

import numpy as np
from keras import ops

from tfgpt.bundle import check_vocabulary, replaced_file
from tfgpt.gpt import GPT
from tfgpt.machine.quiet import quiet_save, quiet_start
from tfgpt.precision import cast_model
from tfgpt.serving.lite_file import Facts, write_lite_file
from tfgpt.serving.lite_program import load_interpreter
from tfgpt.serving.litert_graphs import gpt_programs, translator_programs
from tfgpt.tokenizers import BPETokenizer
from tfgpt.transformer import Transformer
from tfgpt.validation import check_choice, check_positive

QUANTIZE = (None, "float16", "int8")
# What limits the room, by the class of the model.
LONGEST = {"GPT": "context_length", "Transformer": "max_length"}
CHUNK = 32  # tokens of a prompt that are read at once
ROWS = 4096  # of a table that are compared at once


def export_litert(model, tokenizer, path, quantize=None, room=None, batch_size=1):
    """Write a model and its tokenizer into one file that needs no TensorFlow to run.

    Args:
        model: GPT, for `LiteModel`, or Transformer, for `LiteTranslator`, of any float dtype;
            LoRA's matrices are added to the kernels.
        tokenizer: CharTokenizer or BPETokenizer of the model; None for a GPT that continues
            ids only.
        path: file to write, best with the ending .tflite.
        quantize: None: float32; "float16": half the size; "int8": a quarter, faster, one scale
            per row of the weights, activations are quantized while the program runs.
        room: int >= 2, how many tokens a text may have, at most the context_length of a GPT or
            the max_length of a Transformer; a smaller one is faster. None: all, and longer
            texts of a GPT slide through the window.
        batch_size: int >= 1, texts of a GPT that are written at once; more are written in turn.

    Returns:
        Path, the file.

    Raises:
        TypeError: if the model is no GPT or Transformer, or a Transformer has no BPETokenizer.
        ValueError: if an argument is outside its range, the model is quantized already, or
            the tokenizer does not fit.

    Example:
        >>> from tfgpt import GPT
        >>> model = GPT(10, context_length=8, num_layers=1, d_model=8, num_heads=2)
        >>> path = export_litert(model, None, tempfile.mkdtemp() + "/gpt.tflite", "int8")
        >>> path.stat().st_size < 100_000
        True
    """
    with tempfile.TemporaryDirectory() as folder:
        parts = save_parts(folder, model, tokenizer, quantize, room, batch_size)
        return join_parts(folder, parts, path)


def save_parts(folder, model, tokenizer, quantize=None, room=None, batch_size=1, task=None):
    """Do the first half of `export_litert`, after which the model is not needed.

    Args:
        folder: path, empty, where the programs wait as a SavedModel.
        model, tokenizer, quantize, room, batch_size: as for `export_litert`.
        task: dict or None, as in `Facts`.

    Returns:
        what `join_parts` takes.
    """
    if not isinstance(model, (GPT, Transformer)):
        raise TypeError(f"model must be a GPT or Transformer, got {type(model).__name__}.")
    kind = "GPT" if isinstance(model, GPT) else "Transformer"
    longest = model.get_config()[LONGEST[kind]]
    check_options(kind, longest, quantize, room, batch_size)
    room = longest if room is None else int(room)
    if kind == "Transformer" and not isinstance(tokenizer, BPETokenizer):
        raise TypeError(
            "tokenizer must be a BPETokenizer to export a Transformer, got "
            f"{type(tokenizer).__name__}."
        )
    if task is not None and room <= task["max_new_tokens"]:
        raise ValueError(
            f"room must be more than the max_new_tokens={task['max_new_tokens']} of the answers of "
            f"the fine-tuned model, got {room}."
        )
    if tokenizer is not None:
        check_vocabulary(model, tokenizer)
    model = in_float32(model)
    describe = describe_gpt if isinstance(model, GPT) else describe_translator
    programs, arrays, facts = describe(model, room, batch_size)
    save_programs(folder, model, programs)
    facts |= {"room": room, "batch_size": batch_size, "quantize": quantize, "task": task}
    return list(programs), arrays, facts, tokenizer


def join_parts(folder, parts, path):
    """Do the second half of `export_litert`: what `save_parts` wrote and returned -> Path."""
    names, arrays, facts, tokenizer = parts
    gc.collect()  # converting takes several times the memory of the weights
    program = convert(folder, names, facts["quantize"])
    table, arrays = place_table(program, arrays, facts["quantize"])
    with replaced_file(Path(path)) as beside:
        write_lite_file(beside, program, Facts(**facts, table=table), tokenizer, arrays)
    return Path(path)


def describe_gpt(model, room, batch_size):
    """Return the programs of a GPT, the arrays that are looked up outside, and facts."""
    chunk = min(CHUNK, room)
    facts = {
        "kind": "GPT",
        "vocab_size": model.vocab_size,
        "context_length": model.context_length,
        "chunk": chunk,
        "d_model": model.d_model,
        "num_layers": model.num_layers,
        "pad_id": model.pad_id,
        "rotary": model.positions == "rotary",
    }
    arrays = tables_of(model.embedding, room)
    return gpt_programs(model, batch_size, room, chunk), arrays, facts


def describe_translator(model, room, batch_size):
    """Return the programs of a Transformer, the arrays that are looked up outside, and facts."""
    facts = {
        "kind": "Transformer",
        "vocab_size": model.target_vocab_size,
        "context_length": model.stack_settings["max_length"],
        "chunk": room,
        "d_model": model.decoder.d_model,
        "num_layers": model.decoder.num_layers,
        "pad_id": model.pad_id,
        "rotary": False,
    }
    arrays = tables_of(model.decoder.embedding, room)
    if not model.tie_embeddings:
        arrays |= {f"source_{k}": x for k, x in tables_of(model.encoder.embedding, room).items()}
    return translator_programs(model, room), arrays, facts


def tables_of(embedding, room):
    """Return what a PositionalEmbedding looks up: its table (V, D), positions (R, D), scale."""
    arrays = {"table": ops.convert_to_numpy(embedding.embeddings)}
    if embedding.positions is not None:
        arrays["positions"] = ops.convert_to_numpy(embedding.position_table)[:room]
    if embedding.scale:
        arrays["scale"] = np.float32(embedding.d_model**0.5)
    return arrays


def check_options(kind, longest, quantize, room, batch_size):
    """Raise if something is wrong that can be known before a model is loaded.

    Args:
        kind: "GPT" or "Transformer".
        longest: int, its context_length or max_length.
        quantize, room, batch_size: as for `export_litert`.

    Raises:
        ImportError: if ai-edge-litert is not installed.
        ValueError: if an argument is outside its range.
    """
    check_choice("quantize", quantize, QUANTIZE)
    check_positive("batch_size", batch_size)
    if kind == "Transformer" and batch_size != 1:
        raise ValueError(f"batch_size must be 1 to export a Transformer, got {batch_size}.")
    if room is not None and not 2 <= check_positive("room", room) <= longest:
        raise ValueError(
            f"room must be in [2, {LONGEST[kind]}={longest}], got {room}: it holds the prompt and "
            "all new tokens."
        )
    load_interpreter()


def in_float32(model):
    """Return the model if all of it is float32, or else a copy that is; LoRA is added in it."""
    dtypes = {layer.compute_dtype for layer in model._flatten_layers()}
    dtypes |= {weight.dtype for weight in model.weights}
    has_lora = any(getattr(layer, "lora_enabled", False) for layer in model._flatten_layers())
    return cast_model(model, "float32") if has_lora or dtypes != {"float32"} else model


def save_programs(folder, model, programs):
    """Write functions as a SavedModel.

    From there the converter reads the weights as variables, which takes a fraction of the
    time and memory that constants of a traced function take.

    Args:
        folder: path.
        model: the model whose weights they use.
        programs: what `gpt_programs` returns.
    """
    import tensorflow as tf

    def trace(function, shapes):
        specs = {
            name: tf.TensorSpec(shape, "int32" if name == "position" else "float32", name)
            for name, shape in shapes.items()
        }
        return tf.function(function, autograph=False).get_concrete_function(**specs)

    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    signatures = {name: trace(*program) for name, program in programs.items()}
    with quiet_save():
        tf.saved_model.save(module, str(folder), signatures=signatures)


def convert(folder, names, quantize):
    """Convert a SavedModel: bytes of a .tflite file with built-in operations only."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=names)
    converter._trackable_obj = None  # a copy of all weights that nobody reads
    gc.collect()
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantize is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    with quiet_start(), quiet_save():
        return converter.convert()


def place_table(program, arrays, quantize):
    """Find the embedding table inside the program, where it is the output kernel.

    Args:
        program: bytes of a .tflite file.
        arrays: dict with "table", float32 (V, D), and other arrays.
        quantize: None, "float16" or "int8".

    Returns:
        dtype and offset of the table in the program, or None; and the arrays that are still
        needed beside the program.
    """
    place, found = find_table(program, arrays["table"])
    if place is not None:
        del arrays["table"]
    if quantize is not None:  # the output kernel is another one
        halves = {name: x.astype("float16") for name, x in arrays.items() if "table" in name}
        arrays = arrays | halves
    return place, arrays | found


def find_table(program, table):
    """Find a table (V, D) inside a program.

    Returns:
        its dtype and offset, and {"table_scales": (V, 1)} if it is int8; None and {} if it is
        not there.
    """
    for weights, scales in constants_like(program, table):
        offset = program.find(weights.tobytes())
        if offset >= 0 and is_rounded(weights, scales, table):
            scales = {} if scales is None else {"table_scales": scales.astype("float32")}
            return [weights.dtype.str, offset], scales
    return None, {}


def is_rounded(weights, scales, table):
    """Say whether weights (V, D) are a table, rounded; some rows at a time, to save memory."""
    for start in range(0, len(table), ROWS):
        rows = slice(start, start + ROWS)
        values, wanted = weights[rows].astype("float32"), table[rows]
        # The largest error of rounding to a scale is half of it; float16 keeps 11 bits.
        limit = np.abs(wanted) * 2.0**-10 if scales is None else scales[rows] * 0.51
        values = values if scales is None else values * scales[rows]
        if not (np.abs(values - wanted) <= limit + 1e-7).all():
            return False
    return True


def constants_like(program, table):
    """Yield the constants of a program with a shape: the array, and scales (V, 1) or None."""
    with quiet_start():
        interpreter = load_interpreter()(model_content=program)
    for detail in interpreter.get_tensor_details():
        if tuple(detail["shape"]) != table.shape or detail["dtype"] == np.int32:
            continue
        try:
            weights = interpreter.get_tensor(detail["index"])
        except ValueError:  # it is computed, not stored
            continue
        scales = detail["quantization_parameters"]["scales"]
        yield weights, scales.reshape(-1, 1) if len(scales) else None
