"""A SavedModel that writes: token ids in, token ids out, for TensorFlow Serving."""

from pathlib import Path

from tfgpt.generation.decoding import decode_loop, pad_id_of
from tfgpt.generation.prompts import MOST_STOP_TOKENS
from tfgpt.generation.samplers import Greedy
from tfgpt.generation.settings import NO_TOKEN
from tfgpt.gpt import GPT
from tfgpt.machine.quiet import quiet_save
from tfgpt.validation import check_positive

PROMPT = "token_ids must have shape (B, T) with T from 1 to the context length"
TOKENS, GOT = "max_new_tokens must be >= 1", "got"


def export_saved_model(model, folder, batch_size=1):
    """Write a GPT as a SavedModel whose signature continues prompts with the likeliest tokens.

    The signature "serving_default" takes prompts of one length, token_ids int32 (B, T), and
    max_new_tokens, an int32 scalar N. It returns token_ids int32 (B, T + N), cut at the
    context length; tf.errors.InvalidArgumentError says if T is 0 or above the context length,
    or N below 1. It needs TensorFlow, but neither Keras nor tfgpt.

    Args:
        model: GPT.
        folder: path to write.
        batch_size: int >= 1, B.

    Returns:
        Path, the folder.

    Raises:
        TypeError: if the model is no GPT.
        ValueError: if batch_size is no integer >= 1.
    """
    import tensorflow as tf

    if not isinstance(model, GPT):
        raise TypeError(f"model must be a GPT, got {type(model).__name__}.")
    check_positive("batch_size", batch_size)
    length = model.context_length

    @tf.function(
        input_signature=[
            tf.TensorSpec((batch_size, None), "int32", name="token_ids"),
            tf.TensorSpec((), "int32", name="max_new_tokens"),
        ],
        autograph=False,
    )
    def serve(token_ids, max_new_tokens):
        written = tf.shape(token_ids)[1]
        checks = [
            tf.debugging.Assert(
                (written >= 1) & (written <= length), [PROMPT, length, GOT, written]
            ),
            tf.debugging.Assert(max_new_tokens >= 1, [TOKENS, GOT, max_new_tokens]),
        ]
        with tf.control_dependencies(checks):  # before anything is made of them
            written = tf.identity(written)
        end = tf.minimum(written + max_new_tokens, length)
        padded = tf.pad(token_ids, [[0, 0], [0, length - written]])  # (B, T) -> (B, C)
        state = {
            "token_ids": tf.ensure_shape(padded, (batch_size, length)),
            "position": written,
            "read": tf.zeros((), "int32"),
            "endings": tf.fill((batch_size,), NO_TOKEN),
            "states": tf.zeros((batch_size,), "int32"),
            "caches": model.make_caches(batch_size, length),
        }
        settings = {
            "random_numbers": tf.zeros((length, batch_size)),  # nothing is drawn
            "lengths": tf.fill((batch_size,), written),
            "ends": tf.fill((batch_size,), end),
            "stop_tokens": tf.fill((MOST_STOP_TOKENS,), NO_TOKEN),
            "pad_id": tf.constant(pad_id_of(model)),
            "vocab_size": tf.constant(model.vocab_size),
            "rules": {},
            "numbers": ({},),
        }
        state = decode_loop(model, state, end, settings, (Greedy,))
        return {"token_ids": state["token_ids"][:, :end]}

    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    module.serve = serve
    with quiet_save():
        tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    return Path(folder)
