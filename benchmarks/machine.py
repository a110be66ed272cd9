"""What the numbers of a benchmark depend on: the machine."""

import os
import platform
import re
from pathlib import Path

from benchmarks.runner import count_cores


def describe_machine():
    """Return CPU, cores, memory, system and load as a dict."""
    return {
        "cpu": cpu_name(),
        "cores": count_cores(),
        "memory_gb": memory_gb(),
        "system": platform.platform(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def cpu_name():
    """Return the name of the processor, as far as the system tells it."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    names = re.findall(r"model name\s*: (.+)", text)
    return names[0] if names else platform.processor() or platform.machine()


def memory_gb():
    """Return the size of the memory in GB; None where the system does not tell it."""
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None
