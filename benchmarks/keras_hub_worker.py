"""KerasHub: GPT2CausalLM, trained with `fit` and decoded with its compiled `generate`."""

import time

import keras
import numpy as np
import tensorflow as tf
from keras_hub import models, samplers

from benchmarks.sizes import Size
from benchmarks.worker import Job, repeat

PACKAGES = ("keras-hub", "keras", "tensorflow")


def make_job(settings):
    """Make the job that the settings describe; see `benchmarks.comparisons`."""
    size = Size(**settings["size"])
    keras.utils.set_random_seed(0)
    model = make_model(size, settings["precision"])
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-3, weight_decay=0.1, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=None,
        sampler=samplers.RandomSampler() if settings.get("sample") else samplers.GreedySampler(),
        jit_compile=settings["jit_compile"],
    )
    work = train_work if settings["kind"] == "train" else decode_work
    return work(model, size, settings)


def make_model(size, precision):
    """Make the untrained GPT-2 of a size; GELU is the approximate one, as always there."""
    backbone = models.GPT2Backbone(
        vocabulary_size=size.vocab_size,
        num_layers=size.num_layers,
        num_heads=size.num_heads,
        hidden_dim=size.d_model,
        intermediate_dim=4 * size.d_model,
        dropout=0.0,
        max_sequence_length=size.length,
        dtype="mixed_bfloat16" if precision == "bfloat16" else "float32",
    )
    return models.GPT2CausalLM(backbone, preprocessor=None)


def train_work(model, size, settings):
    """Steps: one `fit` over the batch, again and again."""
    inputs, targets = size.training_batch()
    batch = {"token_ids": inputs, "padding_mask": np.ones_like(inputs)}, targets
    batches = tf.data.Dataset.from_tensors(batch).cache().repeat()

    def measure(steps):
        # The start of `fit` costs up to seconds: the clock runs from the end of its first
        # step on, in favour of KerasHub.
        clock = Clock()
        fit = {"epochs": 1, "steps_per_epoch": steps + 1, "verbose": 0, "callbacks": [clock]}
        history = model.fit(batches, **fit).history
        return clock.ends[-1] - clock.ends[0], history["loss"][-1]

    return Job(measure, PACKAGES, model.count_params())


class Clock(keras.callbacks.Callback):
    """Write down when each step of `fit` ended."""

    def __init__(self):
        super().__init__()
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # waits for the step
        self.ends.append(time.perf_counter())


def decode_work(model, size, settings):
    """One step: continue the prompts by all new tokens; no token stops it."""
    new_tokens = settings["new_tokens"]
    prompt = size.prompt(settings["batch"], settings["prompt"])
    padding = (0, 0), (0, new_tokens)
    inputs = {
        "token_ids": np.pad(prompt, padding),
        "padding_mask": np.pad(np.ones_like(prompt), padding),
    }

    def finish(outputs):
        ids = outputs["token_ids"]
        if (
            not np.array_equal(ids[:, : prompt.shape[1]], prompt)
            or not outputs["padding_mask"].all()
        ):
            raise RuntimeError(f"generated ids must continue the prompt, got {ids}")

    call = repeat(lambda: model.generate(inputs, stop_token_ids=None), finish)
    return Job(call, PACKAGES, model.count_params(), units=new_tokens)
