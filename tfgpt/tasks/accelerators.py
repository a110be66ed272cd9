"""What accelerators can do and what they cost: a table, and a measurement of this CPU."""

import os
import re
import time
from dataclasses import dataclass

import numpy as np


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
