"""How a training is spread over devices: the simplest layout whose memory fits."""

from dataclasses import dataclass, replace

from tfgpt.tasks.memory import memory_of

USABLE = 0.9  # of a device's memory; the rest is for the runtime and messages
MOST_MICRO_BATCH = 64


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
    """Say what would make the training fit: remat, more devices, or a shorter context."""
    if not settings["remat"]:
        again = {**settings, "remat": True}
        if choose_layout(sizes, devices, device, batch_size, again)[0]:
            return ("with remat it fits: blocks are run again, about a third more time",)
        settings = again
    for more in (2**power * devices for power in range(1, 14)):
        batch = batch_size if batch_size % more == 0 else more
        if choose_layout(sizes, more, device, batch, settings)[0]:
            return (f"with {more} devices and remat it fits",)
    return ("no number of these devices helps: take a shorter context or other devices",)
