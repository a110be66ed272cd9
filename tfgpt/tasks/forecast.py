"""What a training would take: `tfgpt train --dry-run`."""

from dataclasses import fields

import numpy as np

from tfgpt.tasks.memory import memory_of
from tfgpt.tasks.planning import duration
from tfgpt.tasks.sizes import Sizes

# What GPTs of 1 to 10 million weights reached on the bundled texts, in minutes to an hour.
BITS_PER_BYTE = (1.5, 2.5)


def forecast(job):
    """Say what a job would take: weights, memory, time, losses to expect.

    Args:
        job: Job of `tfgpt.tasks.job`. Some steps of it are run, to know their time.

    Returns:
        str of a few lines.
    """
    settings = job.settings
    seconds = job.measure_step(settings)
    sizes, devices = sizes_of(job), devices_of(job)
    memory = memory_of_settings(settings, sizes, devices)
    size = job.corpus.text_bytes / (len(job.corpus.training) + len(job.corpus.held_out))
    start = np.log(job.tokenizer.vocab_size)
    low, high = (min(bits * size * np.log(2), start) for bits in BITS_PER_BYTE)
    parts = ", ".join(f"{name} {value / 1e6:,.0f}" for name, value in memory.items())
    lines = [
        f"{sizes.parameters:,} weights",
        f"memory of a step  about {sum(memory.values()) / 1e6:,.0f} MB"
        + (f" on each of {devices} devices" if devices > 1 else "")
        + f": {parts}",
        f"a step            {settings.batch_size * settings.context:,} tokens, {seconds:.3f} s",
        f"training          {settings.steps:,} steps, about {duration(settings.steps * seconds)}",
        f"loss              from ln(V) = {start:.2f} to about {low:.2f} to {high:.2f} "
        f"nats per token ({BITS_PER_BYTE[0]} to {BITS_PER_BYTE[1]} bits per byte)",
        f"passes            {job.passes():,.1f} over {len(job.training):,} tokens",
        *(f"Note: {warning}" for warning in job.warnings()),
        "Nothing was trained.",
    ]
    return "\n".join(lines)


def sizes_of(job):
    """Return the sizes of the model of a job: of the one it goes on from, or as the settings."""
    settings, names = job.settings, [entry.name for entry in fields(Sizes)]
    if job.start is not None:
        config = job.start[0].get_config()
        return Sizes(**{x: config[x] for x in names if x in config and x != "name"})
    positions = "learned" if settings.preset.startswith("gpt2") else "rotary"
    shape = (settings.layers, settings.width, settings.heads)
    return Sizes(*shape, job.tokenizer.vocab_size, settings.context, positions=positions)


def devices_of(job):
    """Return how many devices share a batch."""
    return 1 if job.strategy is None else job.strategy.num_replicas_in_sync


def memory_of_settings(settings, sizes, devices):
    """Return the bytes of a training step on one device, by what holds them."""
    precision = "float32" if settings.precision == "float32" else f"mixed_{settings.precision}"
    rows = -(-settings.batch_size // (settings.accumulate * devices))
    optimizer = settings.optimizer if settings.optimizer in ("adamw", "muon") else "adamw"
    memory = memory_of(sizes, rows, optimizer, precision)
    if optimizer != settings.optimizer:
        memory["optimizer"] = 4 * sizes.parameters  # one moment
    if settings.ema is not None:
        memory["averages"] = 4 * sizes.parameters
    return memory
