"""The doctor: is this machine ready for tfgpt, and if not, what is missing?

`tfgpt.doctor()` in a notebook, `tfgpt doctor` in a terminal. As a file,
`python tfgpt/machine/diagnosis.py`, it runs even where `import tfgpt` fails.
"""

import ctypes
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

if __package__:
    from tfgpt.machine import device_checks, devices
else:  # run as a file: `import tfgpt` may be what fails
    import device_checks
    import devices

    sys.path[0] = str(Path(__file__).resolve().parents[2])

GIB = 1024**3
PYTHON_NEEDED = (3, 11)


@dataclass(frozen=True)
class Check:
    """What one check found.

    Args:
        name: str, what was looked at.
        status: "ok", "note" (works, worth knowing) or "problem".
        value: str, what was found.
        advice: str, one line that says what to do; "" if nothing.
    """

    name: str
    status: str
    value: str
    advice: str


class Report(list):
    """The checks in order: a list of Check that a notebook shows as one line."""

    @property
    def problems(self):
        """The names of the checks that found a problem."""
        return [check.name for check in self if check.status == "problem"]

    def to_json(self):
        """Write the overall status, "ok" or "problem", and all checks as JSON text."""
        status = "problem" if self.problems else "ok"
        checks = [asdict(check) for check in self]
        return json.dumps({"status": status, "checks": checks}, indent=2)

    def __repr__(self):
        found = ", ".join(self.problems) or "none"
        return f"{len(self)} checks, problems: {found}."


@dataclass(frozen=True)
class Package:
    """A package and the versions that tfgpt is tested with.

    Args:
        lowest: tuple of int, the first version that works.
        below: tuple of int, the first version that is not tested.
        used_for: str, what misses it; "" if nothing works without it.
        needs: tuple of (package, lowest version), what it must meet.
    """

    lowest: tuple
    below: tuple
    used_for: str = ""
    needs: tuple = ()


PACKAGES = {
    "tensorflow": Package((2, 21), (2, 22)),
    "keras": Package((3, 15), (4,)),
    "numpy": Package((2,), (3,)),
    "keras-hub": Package((0, 32), (0, 33), "GPT-2 presets", (("keras", (3, 15)),)),
    "keras-nlp": Package(
        (0, 32), (0, 33), "GPT-2 presets", (("keras", (3, 15)), ("keras-hub", (0, 32)))
    ),
    # 2.21.0 cannot load its tokenizers.
    "tensorflow-text": Package(
        (2, 21, 1), (2, 22), "keras-nlp's tokenizers", (("tensorflow", (2, 21)),)
    ),
    "tokenizers": Package((0, 22), (0, 24), "BPETokenizer"),
    "matplotlib": Package((3, 10), (4,), "figures"),
}
# Other names under which the same package is installed.
OTHER_NAMES = {"tensorflow": ("tensorflow-cpu", "tf-nightly", "tensorflow-macos")}


def doctor(show=True, time_limit=120.0):
    """Check whether this machine is ready: versions, devices, CUDA, XLA, disk, fonts.

    It changes nothing, downloads nothing and leaves GPU memory alone: what needs
    a device runs in a second process, which takes 5 to 30 seconds.

    Args:
        show: bool, print each check as soon as it is done.
        time_limit: float > 0, seconds after which the second process is stopped.

    Returns:
        Report, a list of Check: name, status "ok", "note" or "problem", value,
        advice.

    Raises:
        ValueError: if time_limit is not > 0.
    """
    if not time_limit > 0:
        raise ValueError(f"time_limit must be > 0 seconds, got {time_limit!r}.")
    report = Report()
    for name, function in MACHINE_CHECKS.items():
        report.append(run_check(name, function))
        if show:
            print_check(report[-1])
    facts = gather_facts(time_limit)
    for name, function in device_checks.DEVICE_CHECKS.items():
        report.append(run_check(name, partial(function, facts)))
        if show:
            print_check(report[-1])
    return report


def gather_facts(time_limit):
    """Gather the facts about devices; a failure to do so is one of them."""
    try:
        return devices.gather_facts(time_limit)
    except Exception as error:
        nvidia = {"present": False, "gpus": [], "error": ""}
        return {"results": {}, "errors": {"backend": describe(error)}, "nvidia": nvidia}


def run_check(name, function):
    """Run one check; whatever it raises becomes a problem."""
    try:
        return Check(name, *function())
    except Exception as error:
        return Check(name, "problem", describe(error), "This check itself failed.")


def describe(error):
    """Write an error in one line."""
    return f"{type(error).__name__}: {devices.first_line(error)}"


def print_check(check):
    """Print a check as one aligned line, its advice below."""
    print_line(f"{check.status:8}{check.name:19}{check.value}")
    if check.advice:
        print_line(f"{'':27}-> {check.advice}")


def print_line(text):
    """Print also where the terminal cannot show every character of a path."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def dotted(version):
    """Write (3, 15) as "3.15"."""
    return ".".join(str(number) for number in version)


def parse_version(text):
    """Read "2.21.0rc1" as (2, 21, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def installed_version(name):
    """Return the version of an installed package as text, or None."""
    for candidate in (name, *OTHER_NAMES.get(name, ())):
        try:
            return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def check_python():
    """Check Python's version; name the one that runs, which a notebook may not share."""
    value = f"{platform.python_version()}, {sys.executable}"
    if tuple(sys.version_info[:2]) < PYTHON_NEEDED:
        return "problem", value, f"Use Python >= {dotted(PYTHON_NEEDED)}."
    return "ok", value, ""


def check_system():
    """Name the operating system and the kind of processor."""
    return "ok", platform.platform(), ""


def check_package(name):
    """Compare an installed version with the tested ones and with what it must meet."""
    package, text = PACKAGES[name], installed_version(name)
    install = f'pip install "{name}>={dotted(package.lowest)},<{dotted(package.below)}"'
    if text is None:
        return missing_package(name, install)
    version = parse_version(text)
    if version < package.lowest:
        return "problem", text, f"Too old: {install}."
    for other, lowest in package.needs:
        other_text = installed_version(other)
        if other_text is None or parse_version(other_text) < lowest:
            advice = f'It needs {other}: pip install "{other}>={dotted(lowest)}".'
            return "problem", f"{text} with {other} {other_text or 'missing'}", advice
    if name == "tensorflow-text":
        tensorflow = installed_version("tensorflow")
        if version[:2] != parse_version(tensorflow)[:2]:
            advice = f"Both must have the same number: {install}."
            return "problem", f"{text} with tensorflow {tensorflow}", advice
    if version >= package.below:
        return "note", text, f"Newer than tested. If something fails: {install}."
    return "ok", text, ""


def missing_package(name, install):
    """Judge a package that is not installed: only what is always needed is a problem."""
    package = PACKAGES[name]
    if name == "tensorflow-text" and sys.platform == "win32":
        return "note", "not installed", "It has no Windows wheel; what needs it runs in WSL2."
    if package.used_for:
        return "note", "not installed", f"Only for {package.used_for}: {install}."
    if name == "tensorflow" and devices.current_backend() != "tensorflow":
        return "note", "not installed", f"Needed to train with tfgpt.train: {install}."
    return "problem", "not installed", f"{install}."


def check_cores():
    """Count the CPU cores that this process may use."""
    total = os.cpu_count()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return "ok", f"{usable} of {total}" if usable != total else f"{total}", ""


def total_memory():
    """Return the memory of the machine, or of its container, in bytes."""
    if sys.platform == "win32":
        kilobytes = ctypes.c_ulonglong()
        ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))
        return kilobytes.value * 1024
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else ""
    return min(total, int(text)) if text.isdigit() else total


def check_memory():
    """Check that the memory holds TensorFlow and a small model."""
    gib = total_memory() / GIB
    if gib < 3.5:  # a machine of "4 GB" shows a little less
        return "note", f"{gib:.1f} GB", "4 GB are needed with room to spare: close other programs."
    return "ok", f"{gib:.1f} GB", ""


def check_disk():
    """Check the free space of the current folder, where runs are written."""
    gib = shutil.disk_usage(Path.cwd()).free / GIB
    if gib < 0.5:
        return "problem", f"{gib:.2f} GB free", "Free some space: checkpoints need it."
    return "ok", f"{gib:.1f} GB free", ""


def check_texts():
    """Check that the bundled texts are there."""
    from tfgpt.data.texts import CORPORA, DATA_FOLDER

    missing = [name for name in CORPORA if not (DATA_FOLDER / f"{name}.txt").is_file()]
    if missing:
        advice = "Install from a clone of the repository: pip install -e ."
        return "problem", f"missing in {DATA_FOLDER}: {', '.join(missing)}", advice
    return "ok", ", ".join(CORPORA), ""


def check_font():
    """Look for a font that can show Chinese characters in figures."""
    from tfgpt.plotting.figures import installed_cjk_font, newly_installed_cjk_font

    try:
        font = installed_cjk_font() or newly_installed_cjk_font()
    except ImportError:
        return "note", "matplotlib not installed", "Figures need it: pip install matplotlib."
    if font:
        return "ok", font, ""
    advice = "Figures show code points. Install Noto Sans CJK (Debian: fonts-noto-cjk)."
    return "note", "none", advice


MACHINE_CHECKS = {
    "Python": check_python,
    "system": check_system,
    **{name: partial(check_package, name) for name in PACKAGES},
    "CPU cores": check_cores,
    "memory": check_memory,
    "free disk space": check_disk,
    "bundled texts": check_texts,
    "Chinese font": check_font,
}


if __name__ == "__main__":
    found = doctor()
    print(found)
    sys.exit(bool(found.problems))
