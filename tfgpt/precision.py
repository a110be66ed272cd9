"""Precision: a copy of a model in fewer bits, and what that changes.

To write one token a model reads all its weights once. In 16 bits they are half the
bytes; on devices that compute in 16 bits, decoding is faster too.
"""

import math

import numpy as np
from keras import ops

from tfgpt.gpt import GPT
from tfgpt.transformer import Transformer
from tfgpt.validation import check_choice, check_token_ids

DTYPES = ("bfloat16", "float16", "float32")


def cast_model(model, dtype):
    """Copy a model with weights and computations in another dtype, for decoding.

    Norm statistics, softmax and the returned logits stay float32. bfloat16 has the
    range of float32 and 8 bits of precision; float16 has 11 bits and no number
    above 65,504. To train, use a mixed policy in place of this. LoRA's matrices are
    added to the kernels of the copy.

    Args:
        model: GPT or Transformer.
        dtype: "bfloat16", "float16" or "float32".

    Returns:
        a new model of the same class; `model` is not changed.

    Raises:
        TypeError: if the model is no GPT or Transformer.
        ValueError: if the dtype is unknown, the model has no weights yet or quantized
            ones, or a weight is too large for the dtype.

    Example:
        >>> model = GPT(10, context_length=4, num_layers=1, d_model=8, num_heads=2)
        >>> cast_model(model, "bfloat16").weights[0].dtype
        'bfloat16'
    """
    check_choice("dtype", dtype, DTYPES)
    if not isinstance(model, (GPT, Transformer)):
        raise TypeError(f"model must be a GPT or Transformer, got {type(model).__name__}.")
    if not model.built:
        raise ValueError("model must have weights, got one that is not built: call it once.")
    layers = model._flatten_layers()
    sources = {weight.path: weight for weight in model.weights}
    for layer in layers:
        if layer.quantization_mode:
            raise ValueError(
                "model must not be quantized, got one with the policy "
                f"{layer.quantization_mode!r} in {layer.path}."
            )
        if getattr(layer, "lora_enabled", False):
            sources[f"{layer.path}/kernel"] = layer.kernel  # with LoRA's part
    copy = type(model).from_config({**model.get_config(), "dtype": dtype})
    for target in copy.weights:
        source = sources[target.path]
        # A copy also where the dtype stays: JAX would share the memory of both models.
        value = ops.copy(ops.cast(source, dtype))
        if not ops.all(ops.isfinite(value)) and ops.all(ops.isfinite(source)):
            raise ValueError(f"dtype must hold every weight, got {dtype!r} for {target.path}.")
        target.assign(value)
    return copy


def compare_predictions(model, other, token_ids):
    """Measure how far another model predicts the same tokens.

    Args:
        model: GPT.
        other: GPT with the same vocabulary, for example a copy in another dtype.
        token_ids: int array (B, T + 1), texts; T at most the context length.

    Returns:
        dict of float: "top_1_agreement", the share of positions where both find the
        same token likeliest; "loss" and "other_loss" in nats per token;
        "perplexity_ratio", that of `other` over that of `model`. Padding is left out
        if `model` has a pad_id.

    Raises:
        TypeError: if the ids are not integers.
        ValueError: if the vocabularies differ, the shape is wrong, the texts are too
            long or nothing but padding, or an id is outside the vocabulary.

    Example:
        >>> model = GPT(10, context_length=4, num_layers=1, d_model=8, num_heads=2)
        >>> result = compare_predictions(model, model, np.array([[1, 2, 3]]))
        >>> result["top_1_agreement"], result["perplexity_ratio"]
        (1.0, 1.0)
    """
    token_ids = check_texts(model, other, token_ids)
    is_real = token_ids[:, 1:] != getattr(model, "pad_id", None)  # (B, T)
    if not is_real.any():
        raise ValueError("token_ids must have a token to predict, got padding only.")
    # Row by row: the logits of all texts at once could fill the memory.
    rows = [predict(each, row) for row in token_ids for each in (model, other)]
    likeliest, losses = (np.stack(values) for values in zip(*rows, strict=True))  # (2 B, T)
    loss, other_loss = (float(values[is_real].mean()) for values in (losses[::2], losses[1::2]))
    agrees = likeliest[::2] == likeliest[1::2]
    return {
        "top_1_agreement": float(agrees[is_real].mean()),
        "loss": loss,
        "other_loss": other_loss,
        "perplexity_ratio": math.exp(other_loss - loss),
    }


def predict(model, token_ids):
    """Return the likeliest next tokens of a text (T + 1,) and the losses, (T,) each."""
    logits = ops.convert_to_tensor(model.predict_on_batch(token_ids[None, :-1])[0], "float32")
    scores = ops.log_softmax(logits, axis=-1)  # (T, V)
    losses = -ops.take_along_axis(scores, token_ids[1:, None], axis=-1)[:, 0]  # (T, V) -> (T,)
    return np.asarray(ops.argmax(logits, axis=-1)), np.asarray(losses)


def check_texts(model, other, token_ids):
    """Return the texts as an int32 array (B, T + 1)."""
    if model.vocab_size != other.vocab_size:
        raise ValueError(
            f"other must have the model's vocab_size={model.vocab_size}, got {other.vocab_size}."
        )
    token_ids = np.asarray(token_ids)
    if token_ids.ndim != 2 or token_ids.shape[0] < 1 or token_ids.shape[1] < 2:
        raise ValueError(f"token_ids must have shape (B, T + 1), T >= 1, got {token_ids.shape}.")
    check_token_ids("token_ids", token_ids, model.vocab_size)
    longest = min(model.context_length, other.context_length)
    if token_ids.shape[1] > longest + 1:
        raise ValueError(
            f"token_ids must have at most context_length + 1 = {longest + 1} tokens per row, "
            f"got {token_ids.shape[1]}."
        )
    return token_ids.astype("int32")
