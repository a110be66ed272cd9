"""What a training costs before it begins: weights, operations, memory, layout, days and dollars.

Rules of thumb with their sources, for GPTs of 1 million to 175 billion weights and beyond.
"""

import math
import os
import re
import time
from dataclasses import dataclass, replace

import numpy as np

from tfgpt.tasks.memory import memory_of
from tfgpt.tasks.sizes import Sizes, choose_sizes, parse_count

TOKENS_PER_PARAMETER = 20  # Hoffmann et al., "Training Compute-Optimal ..." (2022), table 3
MFU = 0.4  # Llama 2: 0.43 to 0.46 by its GPU hours; Llama 3 405B: 0.38 to 0.43
USABLE = 0.9  # of a device's memory; the rest is for the runtime and messages
DAY = 86400
MOST_MICRO_BATCH = 64

# The global batch in tokens from this number of weights on: Brown et al. (2020), table 2.1.
BATCH_TOKENS = ((0, 524288), (1e9, 2**20), (5e9, 2**21), (5e10, 3200000))


@dataclass(frozen=True)
class Device:
    """One accelerator: dense operations per second in 16 bits, bytes of memory, dollars per hour.

    The price is None where the table has none.
    """

    flops: float
    memory: float
    price: float | None = None


# Data sheets of NVIDIA and Google Cloud: dense 16-bit operations with float32 sums, no sparsity.
# RTX: white papers of Ada (appendix A) and GA102. Prices of one device on demand: A100 and H100
# as in llm.c's scripts run_gpt2_124M.sh and run_gpt2_1558M.sh (mid 2024), TPUs by Google Cloud's
# list of 2024. They change: give `price`.
DEVICES = {
    "V100": Device(125e12, 32e9),
    "A100-40GB": Device(312e12, 40e9, 1.3),
    "A100": Device(312e12, 80e9, 1.75),
    "H100": Device(989e12, 80e9, 3.5),
    "H200": Device(989e12, 141e9),
    "B200": Device(2250e12, 180e9),
    "TPU-v3": Device(123e12, 32e9),
    "TPU-v4": Device(275e12, 32e9, 3.22),
    "TPU-v5e": Device(197e12, 16e9, 1.2),
    "TPU-v5p": Device(459e12, 95e9, 4.2),
    "RTX-4090": Device(165e12, 24e9),
    "RTX-3090": Device(71e12, 24e9),
}


@dataclass(frozen=True)
class Layout:
    """How a training is spread: data x tensor x pipeline devices, sequences per device at once."""

    data: int
    tensor: int
    pipeline: int
    sharded: bool
    micro_batch: int

    def __str__(self):
        if self.data * self.tensor * self.pipeline == 1:
            return "one device"
        parts = [f"{'FSDP' if self.sharded else 'data parallel'} x {self.data}"]
        parts += [f"tensor parallel x {self.tensor}"] * (self.tensor > 1)
        parts += [f"pipeline x {self.pipeline}"] * (self.pipeline > 1)
        return " + ".join(parts)


@dataclass(frozen=True)
class Plan:
    """What `plan` found out; `str(plan)` is the report.

    Args:
        sizes: Sizes of the model.
        device_name, device, num_devices: on what it runs.
        tokens: int, how many are trained on.
        tokens_rule: str, where that number comes from.
        batch_size: int, sequences of one step, over all devices.
        layout: Layout, or None if nothing fits.
        memory: dict of bytes per device, of the layout, or of the one that lacks least.
        flops: float, operations of the whole training.
        mfu: float, the share of the peak that is used.
        seconds: float.
        dollars: float or None.
        advice: list of str.
    """

    sizes: Sizes
    device_name: str
    device: Device
    num_devices: int
    tokens: int
    tokens_rule: str
    batch_size: int
    layout: Layout | None
    memory: dict
    flops: float
    mfu: float
    seconds: float
    dollars: float | None
    advice: tuple

    @property
    def days(self):
        """The days that the training takes."""
        return self.seconds / DAY

    @property
    def device_hours(self):
        """The hours of all devices together."""
        return self.seconds * self.num_devices / 3600

    def __str__(self):
        return "\n".join(report(self))


def plan(
    params=None,
    devices="8xH100",
    *,
    num_layers=None,
    d_model=None,
    num_heads=None,
    dff=None,
    vocab_size=None,
    context_length=None,
    positions="learned",
    tokens=None,
    batch_tokens=None,
    optimizer="adamw",
    precision="mixed_bfloat16",
    remat=False,
    mfu=MFU,
    price=None,
):
    """Plan the training of a GPT: its memory, layout, days and dollars.

    Args:
        params: int or str such as "124M"; with num_layers, d_model and num_heads: the number
            of weights of a model of another form, or None to count those of a tfgpt.GPT.
        devices: str such as "8xH100", "TPU-v4" or "cpu", which is measured; see DEVICES.
        num_layers, d_model, num_heads, dff: int, the shape; None: chosen by `choose_sizes`.
        vocab_size, context_length: int; None: those of the chosen shape, 50257 and 1024.
        positions: "learned", "sinusoidal" or "rotary".
        tokens: int or str, to train on; None: 20 per weight.
        batch_tokens: int or str, of one step; None: as GPT-3, and at least 1,000 steps.
        optimizer: "adamw" or "muon".
        precision: "float32", "mixed_bfloat16" or "mixed_float16".
        remat: bool, run blocks again in the backward pass.
        mfu: float in (0, 1], model FLOPs utilisation.
        price: float, dollars per device and hour; None: that of the table, if there is one.

    Returns:
        Plan.

    Raises:
        ValueError: if an argument cannot be read, is outside its range, or the batch cannot
            be divided over the devices.

    Example:
        >>> found = plan("124M", "8xH100")
        >>> str(found.layout), found.tokens
        ('data parallel x 8', 2488796160)
    """
    sizes = read_sizes(params, num_layers, d_model, num_heads, dff, vocab_size, context_length)
    sizes = replace(sizes, positions=positions)
    count, name, device = parse_devices(devices)
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu must be in (0, 1], got {mfu!r}.")
    price = device.price if price is None else price
    rule = "given"
    if tokens is None:
        tokens, rule = TOKENS_PER_PARAMETER * sizes.parameters, "20 per weight, Chinchilla"
    tokens = parse_count("tokens", tokens)
    batch_size = choose_batch_size(sizes, tokens, batch_tokens, count)
    settings = {"optimizer": optimizer, "precision": precision, "remat": remat}
    layout, memory = choose_layout(sizes, count, device, batch_size, settings)
    flops = sizes.flops_per_token * tokens
    seconds = flops / (count * device.flops * mfu)
    return Plan(
        sizes=sizes,
        device_name=name,
        device=device,
        num_devices=count,
        tokens=tokens,
        tokens_rule=rule,
        batch_size=batch_size,
        layout=layout,
        memory=memory,
        flops=flops,
        mfu=mfu,
        seconds=seconds,
        dollars=None if price is None else price * count * seconds / 3600,
        advice=() if layout else advise(sizes, count, device, batch_size, settings),
    )


def read_sizes(params, num_layers, d_model, num_heads, dff, vocab_size, context_length):
    """Return the Sizes that the arguments of `plan` name."""
    shape = (num_layers, d_model, num_heads)
    if shape == (None, None, None):
        if params is None:
            raise ValueError(
                'params must be given, such as "124M", or num_layers, d_model and num_heads.'
            )
        sizes = choose_sizes(params, vocab_size, context_length)
        return replace(sizes, dff=dff) if dff else sizes
    if None in shape:
        raise ValueError(
            "num_layers, d_model and num_heads must be given together, got "
            f"{num_layers}, {d_model} and {num_heads}."
        )
    known = None if params is None else parse_count("params", params)
    return Sizes(*shape, vocab_size or 50257, context_length or 1024, dff, known_parameters=known)


def parse_devices(text):
    """Read "8xH100": the number, the name and the Device.

    Raises:
        ValueError: if the device is unknown.

    Example:
        >>> parse_devices("8xh100")[:2]
        (8, 'H100')
    """
    match = re.fullmatch(r"\s*(?:(\d+)\s*x\s*)?([\w-]+)\s*", str(text), re.IGNORECASE)
    wanted = match[2].lower() if match else ""
    known = {name.lower(): name for name in DEVICES}
    if wanted not in (*known, "cpu") or match[1] == "0":
        raise ValueError(
            f'devices must be such as "8xH100", got {text!r}: known are {", ".join(DEVICES)} and '
            "cpu."
        )
    count = int(match[1] or 1)
    if wanted == "cpu":
        return count, "cpu", measure_cpu()
    return count, known[wanted], DEVICES[known[wanted]]


def measure_cpu(width=1024):
    """Measure this machine: operations per second of a float32 matmul, and its memory."""
    matrix = np.ones((width, width), "float32")
    times = []
    for _ in range(4):
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    known = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 8e9
    return Device(2 * width**3 / min(times), memory)


def choose_batch_size(sizes, tokens, batch_tokens, devices):
    """Return the sequences of one step; raise if a given batch cannot be divided."""
    length = sizes.context_length
    if batch_tokens is None:
        table = max(row for row in BATCH_TOKENS if row[0] <= sizes.parameters)[1]
        sequences = max(min(table, tokens // 1000) // length, 1)
        # A power of two can be divided over most numbers of devices.
        return 2 ** round(math.log2(sequences))
    wanted = parse_count("batch_tokens", batch_tokens)
    sequences = max(wanted // length, 1)
    if sequences >= devices and sequences % devices:
        raise ValueError(
            f"batch_tokens must be divisible over {devices} devices, got {wanted:,} tokens = "
            f"{sequences} sequences of {length}: take "
            f"{round(sequences / devices) * devices * length}."
        )
    return sequences


def choose_layout(sizes, devices, device, batch_size, settings):
    """Find the simplest layout that fits.

    One device, then data parallel, FSDP, FSDP with tensor parallel, and pipeline last.

    Returns:
        Layout and its memory; None and the smallest memory found, if nothing fits.
    """
    smallest = {}
    for layout in layouts(sizes, devices, batch_size):
        memory = memory_at(sizes, layout, settings)
        if not smallest or sum(memory.values()) < sum(smallest.values()):
            smallest = memory
        if sum(memory.values()) <= USABLE * device.memory:
            return grow(sizes, layout, device, batch_size, settings)
    return None, smallest


def layouts(sizes, devices, batch_size):
    """Yield layouts with one sequence per device, the simplest first."""
    if devices <= batch_size and batch_size % devices == 0:
        yield Layout(devices, 1, 1, sharded=False, micro_batch=1)
    for pipeline in (1, 2, 4, 8, 16):
        for tensor in (1, 2, 4, 8):
            data = devices // (tensor * pipeline)
            fits = data * tensor * pipeline == devices and sizes.num_heads % tensor == 0
            fits = fits and sizes.num_layers % pipeline == 0
            if fits and devices > 1 and data <= batch_size and batch_size % data == 0:
                yield Layout(data, tensor, pipeline, sharded=True, micro_batch=1)


def memory_at(sizes, layout, settings):
    """Return the memory of one device in a layout."""
    return memory_of(
        sizes,
        layout.micro_batch,
        **settings,
        shards=layout.data if layout.sharded else 1,
        tensor=layout.tensor,
        pipeline=layout.pipeline,
    )


def grow(sizes, layout, device, batch_size, settings):
    """Return the layout with the largest micro-batch that fits, and its memory."""
    best = layout
    each = batch_size // layout.data
    for micro_batch in range(1, min(each, MOST_MICRO_BATCH) + 1):
        larger = replace(layout, micro_batch=micro_batch)
        fits = sum(memory_at(sizes, larger, settings).values()) <= USABLE * device.memory
        if each % micro_batch == 0 and fits:
            best = larger
    return best, memory_at(sizes, best, settings)


def advise(sizes, devices, device, batch_size, settings):
    """Say what would make the training fit."""
    advice = []
    if not settings["remat"]:
        again = {**settings, "remat": True}
        if choose_layout(sizes, devices, device, batch_size, again)[0]:
            advice.append("with remat it fits: blocks are run again, about a third more time")
        settings = again
    for more in (2**power * devices for power in range(1, 14)):
        batch = batch_size if batch_size % more == 0 else more
        if choose_layout(sizes, more, device, batch, settings)[0]:
            advice.append(f"with {more} devices{' and remat' if settings['remat'] else ''} it fits")
            break
    else:
        advice.append("no number of these devices helps: take a shorter context or other devices")
    return tuple(advice)


def report(found):
    """Write the lines of the report."""
    sizes, memory = found.sizes, found.memory
    total = sum(memory.values())
    steps = max(found.tokens // (found.batch_size * sizes.context_length), 1)
    device = found.device
    peak = found.num_devices * device.flops
    cost = "no price known: give one" if found.dollars is None else f"about ${found.dollars:,.0f}"
    lines = [
        f"model         {sizes.name}: {sizes.num_layers} layers, {sizes.d_model:,} wide, "
        f"{sizes.num_heads} heads, context {sizes.context_length:,}, vocabulary "
        f"{sizes.vocab_size:,}",
        f"parameters    {sizes.parameters:,} = L (4 D^2 + 2 D F + ...) + V D + T D",
        f"FLOPs         {sizes.flops_per_token:.3g} per token = 6 N + 12 L D T (half of the last "
        "term would do for a causal mask)",
        f"tokens        {found.tokens:,} ({found.tokens_rule})",
        f"batch         {found.batch_size:,} sequences = "
        f"{found.batch_size * sizes.context_length:,} tokens; {steps:,} steps",
        f"devices       {found.num_devices} x {found.device_name}: {device.flops / 1e12:,.4g} "
        f"TFLOP/s, {gigabytes(device.memory)} each",
        f"layout        {found.layout or 'does not fit'}",
    ]
    if found.layout:
        lines.append(f"micro-batch   {found.layout.micro_batch} sequences per device at once")
    lines += ["memory of one device:"]
    lines += [f"  {name:12s}{gigabytes(memory[name]):>11s}  {WHY[name]}" for name in memory]
    lines += [
        f"  {'total':12s}{gigabytes(total):>11s}  of {gigabytes(USABLE * device.memory)} "
        f"usable ({USABLE:.0%})",
        f"work          {found.flops:.3g} FLOPs = {found.flops / (1e15 * DAY):,.3g} "
        "petaflop/s-days",
        f"time          {duration(found.seconds)} = FLOPs / ({peak:.3g} FLOP/s x {found.mfu:.0%} "
        "MFU)",
        f"cost          {found.device_hours:,.0f} device hours, {cost}",
    ]
    return lines + [f"advice        {line}" for line in found.advice]


WHY = {
    "weights": "4 bytes each; mixed precision: and 2 for a copy",
    "gradients": "4 bytes each",
    "optimizer": "AdamW: 8 bytes each, two moments; Muon: 4 for matrices",
    "activations": "B T D, B T F and B H T^2 tensors of each block",
    "logits": "B T V, their gradient and the loss's working tensors",
}


def gigabytes(count):
    """Write bytes with a unit.

    Example:
        >>> gigabytes(2_500_000_000), gigabytes(12_000_000)
        ('2.5 GB', '12 MB')
    """
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def duration(seconds):
    """Write a time with a unit.

    Example:
        >>> duration(90), duration(5 * 3600), duration(40 * 86400)
        ('1.5 minutes', '5.0 hours', '40.0 days')
    """
    for unit, size in (("days", 2 * DAY), ("hours", 7200), ("minutes", 60)):
        if seconds >= size:
            return f"{seconds / {'days': DAY, 'hours': 3600, 'minutes': 60}[unit]:,.1f} {unit}"
    return f"{seconds:,.1f} seconds"
