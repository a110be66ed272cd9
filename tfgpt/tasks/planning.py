"""What a training costs before it begins: weights, operations, memory, layout, days and dollars.

Rules of thumb with their sources, for GPTs of 1 million to 175 billion weights and beyond.
"""

import math
from dataclasses import dataclass, replace

from tfgpt.tasks.accelerators import Device, parse_devices
from tfgpt.tasks.layouts import USABLE, Layout, advise, choose_layout
from tfgpt.tasks.sizes import Sizes, choose_sizes, parse_count

TOKENS_PER_PARAMETER = 20  # Hoffmann et al., "Training Compute-Optimal ..." (2022), table 3
MFU = 0.4  # Llama 2: 0.43 to 0.46 by its GPU hours; Llama 3 405B: 0.38 to 0.43
DAY = 86400

# The global batch in tokens from this number of weights on: Brown et al. (2020), table 2.1.
BATCH_TOKENS = ((0, 524288), (1e9, 2**20), (5e9, 2**21), (5e10, 3200000))


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
        advice: tuple of str, what would make it fit; empty if it fits.
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
        devices: str such as "8xH100", "TPU-v4" or "cpu", which is measured; see
            `tfgpt.tasks.accelerators.DEVICES`.
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
    if price is not None and price < 0:
        raise ValueError(f"price must be >= 0, got {price!r}.")
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
