"""tfgpt: its training step and its `generate`, with their settings."""

import keras
import numpy as np

from benchmarks.sizes import Size
from benchmarks.worker import Job, repeat
from tfgpt import GPT, Transformer, generate, make_train_step, set_seed

PACKAGES = ("tfgpt", "keras", "tensorflow")


def make_job(settings):
    """Make the job that the settings describe; see `benchmarks.comparisons`."""
    size = Size(**settings["size"])
    set_seed(0)
    model = make_model(size)
    work = train_work if settings["kind"] == "train" else decode_work
    return work(model, size, settings)


def make_model(size):
    """Make the untrained model of a size, without dropout."""
    if size.encoder_decoder:
        vocabularies = size.vocab_size, size.vocab_size
        width = size.d_model, size.num_heads, 4 * size.d_model
        return Transformer(size.num_layers, *width, *vocabularies, size.length, dropout=0.0)
    return GPT(size.vocab_size, size.length, size.num_layers, size.d_model, size.num_heads)


def train_work(model, size, settings):
    """One step: learn the batch."""
    step = make_train_step(
        model,
        keras.optimizers.AdamW(1e-3, weight_decay=0.1),
        pad_id=None,
        clip_norm=1.0,
        jit_compile=settings["jit_compile"],
        mixed_precision="bfloat16" if settings["precision"] == "bfloat16" else None,
    )
    batch = size.training_batch()
    return Job(repeat(lambda: step(batch)["loss"]), PACKAGES, model.count_params())


def decode_work(model, size, settings):
    """One step: continue the prompts by all new tokens."""
    weights = model.count_params()
    if settings["precision"] == "bfloat16":
        from tfgpt.precision import cast_model

        model = cast_model(model, "bfloat16")
    new_tokens = settings["new_tokens"]
    prompt = size.prompt(settings["batch"], settings["prompt"])

    def call():
        return generate(
            model, prompt, new_tokens, temperature=1.0 if settings["sample"] else 0.0, seed=0
        )

    def finish(ids):
        check_continuation(ids, prompt, new_tokens)

    return Job(repeat(call, finish), PACKAGES, weights, units=new_tokens)


def check_continuation(ids, prompt, new_tokens):
    """Raise unless the ids are the prompt and so many new tokens."""
    expected = prompt.shape[0], prompt.shape[1] + new_tokens
    if ids.shape != expected or not np.array_equal(ids[:, : prompt.shape[1]], prompt):
        raise RuntimeError(f"generated ids must continue the prompt to {expected}, got {ids.shape}")
