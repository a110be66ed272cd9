"""Export a GPT as one file for `LiteModel`: a LiteRT program with its tokenizer.

Two programs share the weights: "prefill" reads a chunk of a prompt, "decode" one token. Both
get the caches as inputs and return the new keys and values only, so that nothing is copied.
Embeddings are looked up outside, in the table that is also the output kernel: it is in the
file once. What is left has one kind of device code for everything (XNNPACK, on CPUs).
"""

import gc
import tempfile
from pathlib import Path

import numpy as np
from keras import ops

from tfgpt.attention import attention_scores, weighted_sum
from tfgpt.bundle import check_vocabulary, replaced_file
from tfgpt.gpt import GPT
from tfgpt.machine.quiet import quiet_start
from tfgpt.precision import cast_model
from tfgpt.serving.lite_file import Facts, write_lite_file
from tfgpt.serving.lite_program import load_interpreter
from tfgpt.validation import check_choice, check_positive

QUANTIZE = (None, "float16", "int8")
CHUNK = 32  # tokens of a prompt that are read at once


def export_litert(model, tokenizer, path, quantize=None, room=None, batch_size=1):
    """Write a GPT and its tokenizer into one file that needs no TensorFlow to run.

    Args:
        model: GPT, of any float dtype; LoRA's matrices are added to the kernels.
        tokenizer: CharTokenizer or BPETokenizer of the model, or None.
        path: file to write, best with the ending .tflite.
        quantize: None: float32; "float16": half the size; "int8": a quarter, faster, one scale
            per row of the weights, activations are quantized while the program runs.
        room: int in [2, context_length], how many tokens a text may have; a smaller one is
            faster. None: context_length, where longer texts slide through the window.
        batch_size: int >= 1, texts that are written at once; more are written in turn.

    Returns:
        Path, the file.

    Raises:
        TypeError: if the model is no GPT.
        ValueError: if an argument is outside its range, the model is quantized already, or
            the tokenizer does not fit.

    Example:
        >>> from tfgpt import GPT
        >>> model = GPT(10, context_length=8, num_layers=1, d_model=8, num_heads=2)
        >>> path = export_litert(model, None, tempfile.mkdtemp() + "/gpt.tflite", "int8")
        >>> path.stat().st_size < 100_000
        True
    """
    if not isinstance(model, GPT):
        raise TypeError(f"model must be a GPT, got {type(model).__name__}.")
    check_choice("quantize", quantize, QUANTIZE)
    check_positive("batch_size", batch_size)
    room = check_room(room, model.context_length)
    if tokenizer is not None:
        check_vocabulary(model, tokenizer)
    load_interpreter()  # so that it is not missing after the long part
    model = in_float32(model)
    embedding = model.embedding
    arrays = {"table": ops.convert_to_numpy(embedding.embeddings)}
    if embedding.positions is not None:
        arrays["positions"] = ops.convert_to_numpy(embedding.position_table)[:room]
    chunk = min(CHUNK, room)
    facts = {
        "vocab_size": model.vocab_size,
        "context_length": model.context_length,
        "room": room,
        "batch_size": batch_size,
        "chunk": chunk,
        "d_model": model.d_model,
        "num_layers": model.num_layers,
        "pad_id": model.pad_id,
        "rotary": model.positions == "rotary",
        "quantize": quantize,
    }
    with tempfile.TemporaryDirectory() as folder:
        save_programs(folder, model, batch_size, room, chunk)
        del model, embedding
        gc.collect()  # converting takes several times the memory of the weights
        program = convert(folder, quantize)
    table, arrays = place_table(program, arrays, quantize)
    with replaced_file(Path(path)) as beside:
        write_lite_file(beside, program, Facts(**facts, table=table), tokenizer, arrays)
    return Path(path)


def in_float32(model):
    """Return the model if all of it is float32, or else a copy that is; LoRA is added in it."""
    dtypes = {layer.compute_dtype for layer in model._flatten_layers()}
    dtypes |= {weight.dtype for weight in model.weights}
    has_lora = any(getattr(layer, "lora_enabled", False) for layer in model._flatten_layers())
    return cast_model(model, "float32") if has_lora or dtypes != {"float32"} else model


def check_room(room, context_length):
    """Return how many tokens the caches hold."""
    if room is None:
        return context_length
    check_positive("room", room)
    if not 2 <= room <= context_length:
        raise ValueError(
            f"room must be in [2, context_length={context_length}], got {room}: it holds the "
            "prompt and all new tokens."
        )
    return int(room)


def save_programs(folder, model, batch, room, chunk):
    """Write the functions "decode" and "prefill" as a SavedModel.

    From there the converter reads the weights as variables, which takes a fraction of the
    time and memory that constants of a traced function take.
    """
    import tensorflow as tf

    names = [f"cache_{kind}_{i:03}" for i in range(model.num_layers) for kind in ("keys", "values")]

    def make(length, with_logits):
        def program(**inputs):
            caches = [inputs[name] for name in names]
            pairs = list(zip(caches[::2], caches[1::2], strict=True))
            hidden, new = decode(model, inputs["x"], pairs, inputs["bias"], inputs.get("position"))
            outputs = {f"new_{name}": value for name, value in zip(names, new, strict=True)}
            return {**outputs, "logits": model.logits(hidden)[:, -1]} if with_logits else outputs

        cache_shape = (batch, model.num_heads, room, model.d_model // model.num_heads)
        shapes = {
            "x": (batch, length, model.d_model),
            "bias": (batch, 1, length, room + length),
            **dict.fromkeys(names, cache_shape),
        }
        inputs = {name: tf.TensorSpec(shape, name=name) for name, shape in shapes.items()}
        if model.positions == "rotary":
            inputs["position"] = tf.TensorSpec((batch, 1), "int32", name="position")
        return tf.function(program, autograph=False).get_concrete_function(**inputs)

    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    signatures = {"decode": make(1, True), "prefill": make(chunk, False)}
    tf.saved_model.save(module, str(folder), signatures=signatures)


def decode(model, x, caches, bias, position):
    """Run new tokens through all blocks.

    Args:
        model: GPT.
        x: float32 tensor (B, T, D), their embeddings.
        caches: list of L pairs, keys and values of earlier tokens (B, H, R, K).
        bias: float32 tensor (B, 1, T, R + T), 0 where a token may attend and -1e9 elsewhere.
        position: int32 tensor (B, 1), the place of the first token; None: not rotary.

    Returns:
        hidden states (B, T, D), and the list of L x 2 new keys and values (B, H, T, K).
    """
    added = []
    for layer, cache in zip(model.decoder_layers, caches, strict=True):

        def attend(x, attention=layer.self_attention, cache=cache):
            return attend_beside(attention, x, cache, bias, position)

        x, new = layer.residual(x, layer.self_attention_norm, attend, training=False)
        x = layer.add_feed_forward(x, training=False)
        added += new
    return model.final_norm(x), added


def attend_beside(attention, x, cache, bias, position):
    """Attend to a cache and to the new tokens beside it, which are not written into it.

    The result is that of `MultiHeadAttention.decode`. Joining scores in place of keys and
    values copies T x R numbers in place of R x K.
    """
    query, key, value = attention.project(x, x, x, 0 if position is None else position)
    keys, values = cache
    scores = [scores_of(query, keys), scores_of(query, key)]
    weights = ops.softmax(ops.concatenate(scores, axis=-1) + bias, axis=-1)  # (B, H, T, R + T)
    room = keys.shape[2]
    heads = average(weights[..., :room], values) + average(weights[..., room:], value)
    return attention.output_projection(attention.merge_heads(heads)), (key, value)


def scores_of(query, keys):
    """Compute query keys^T / sqrt(K): (B, H, T, K) and (B, H, S, K) -> (B, H, T, S).

    For a single query a matrix product would cost less than the copy of all keys that the
    interpreter makes before it: products number by number take three quarters of the time.
    """
    if query.shape[2] > 1:
        return attention_scores(query, keys)
    scores = ops.sum(query * query.shape[-1] ** -0.5 * keys, axis=-1)  # (B, H, S)
    return ops.expand_dims(scores, axis=2)


def average(weights, values):
    """Average values with weights: (B, H, T, S) and (B, H, S, K) -> (B, H, T, K)."""
    if weights.shape[2] > 1:
        return weighted_sum(weights, values)
    return ops.sum(ops.swapaxes(weights, 2, 3) * values, axis=2, keepdims=True)


def convert(folder, quantize):
    """Convert a SavedModel: bytes of a .tflite file with built-in operations only."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(folder), signature_keys=["decode", "prefill"]
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantize is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    with quiet_start():
        return converter.convert()


def place_table(program, arrays, quantize):
    """Find the embedding table inside the program, where it is the output kernel.

    Args:
        program: bytes of a .tflite file.
        arrays: dict with "table", float32 (V, D).
        quantize: None, "float16" or "int8".

    Returns:
        dtype and offset of the table in the program, or None; and the arrays that are still
        needed beside the program.
    """
    table = arrays["table"]
    for weights, scales in constants_like(program, table):
        values = weights.astype("float32") * (1 if scales is None else scales)
        # The largest error of rounding to a scale is half of it; float16 keeps 11 bits.
        limit = np.abs(table) * 2.0**-10 if scales is None else scales * 0.51
        offset = program.find(weights.tobytes())
        if offset >= 0 and (np.abs(values - table) <= limit + 1e-7).all():
            kept = {name: value for name, value in arrays.items() if name != "table"}
            kept |= {} if scales is None else {"table_scales": scales.astype("float32")}
            return [weights.dtype.str, offset], kept
    # The output kernel is another one.
    table = table if quantize is None else table.astype("float16")
    return None, {**arrays, "table": table}


def constants_like(program, table):
    """Yield the constants of a program with a shape: the array, and scales (V, 1) or None."""
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
