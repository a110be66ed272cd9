"""The doctor's checks of devices: GPU, CUDA libraries, ptxas, XLA.

Each takes the facts of `tfgpt.devices.gather_facts` and returns status, value and
advice, as in `tfgpt.diagnosis.Check`. Needs the standard library only.
"""

import ctypes
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

# The names that TensorFlow 2.21, built for CUDA 12 and cuDNN 9, asks the system for.
CUDA_LIBRARIES = (
    "libcuda.so.1",  # comes with the driver, the others with CUDA
    "libcudart.so.12",
    "libcublas.so.12",
    "libcublasLt.so.12",
    "libcudnn.so.9",
    "libcufft.so.11",
    "libcusparse.so.12",
    "libcusolver.so.11",
)
INSTALL_CUDA = 'Install the CUDA libraries: pip install "tensorflow[and-cuda]".'
TOLERANCE = 1e-3  # the exact result has whole numbers only: a wrong one is off by 1 or more
# What an error of the compiler usually means: a pattern, and what to do.
ERROR_ADVICE = (
    (r"out of memory|RESOURCE_EXHAUSTED", "Stop other programs that use the GPU and try again."),
    (r"libdevice|ptxas", INSTALL_CUDA),
    (r"SIGKILL", "Most likely the memory is full: close other programs and try again."),
    (r"SIGILL", "This processor lacks instructions, AVX for example, that the backend needs."),
    (r"no answer within", "Try again with more time: tfgpt.doctor(time_limit=600)."),
)


def no_result(facts, step):
    """Return the outcome of a check whose step gave no result."""
    if step not in facts["errors"]:
        return "note", "not run", "It runs once the problems above are solved."
    error = facts["errors"][step]
    for pattern, advice in ERROR_ADVICE:
        if re.search(pattern, error):
            return "problem", error, advice
    return "problem", error, "Run `pip check`, then reinstall the backend that the error names."


def check_backend(facts):
    """Name Keras's backend, or say why Keras cannot be imported."""
    if "backend" not in facts["results"]:
        return no_result(facts, "backend")
    backend = facts["results"]["backend"]
    if backend == "tensorflow":
        return "ok", backend, ""
    if backend == "jax":
        return "note", backend, "tfgpt.train needs KERAS_BACKEND=tensorflow; with jax use fit."
    return "note", backend, "tfgpt is tested with KERAS_BACKEND=tensorflow and jax."


def check_devices(facts):
    """List the devices that the backend sees."""
    if "devices" not in facts["results"]:
        return no_result(facts, "devices")
    devices = facts["results"]["devices"]["devices"]
    kinds = sorted({device["kind"] for device in devices})
    counts = [f"{sum(d['kind'] == kind for d in devices)} {kind}" for kind in kinds]
    return "ok", ", ".join(counts) or "only the CPU", ""


def seen_gpus(facts):
    """Return the backend's GPUs, as `list_devices` describes them."""
    devices = facts["results"].get("devices", {}).get("devices", [])
    return [device for device in devices if device["kind"] == "GPU"]


def check_gpu(facts):
    """Describe the GPUs; find one that is not seen, too old, too new or full."""
    gpus, nvidia = seen_gpus(facts), facts["nvidia"]
    if not gpus and not nvidia["present"]:
        if nvidia["error"]:
            advice = "If there is an NVIDIA GPU, install its driver again and restart."
            return "note", f"nvidia-smi fails: {nvidia['error']}", advice
        return "ok", "none, the CPU is used", ""
    value = describe_gpus(gpus, nvidia)
    if not gpus:
        backend = facts["results"].get("backend", "tensorflow")
        if backend != "tensorflow":
            return "note", f"{value}; not used", f"Install {backend} with CUDA support to use it."
        return check_cuda_libraries(facts)[0], f"{value}; not used", "See CUDA libraries below."
    status, advice = judge_capabilities(gpus, facts["results"]["devices"]["build"])
    if status == "ok" and any(g["free"] is not None and g["free"] < 1024 for g in nvidia["gpus"]):
        return "note", value, "Less than 1 GB is free: stop other programs that use the GPU."
    return status, value, advice


def describe_gpus(gpus, nvidia):
    """Write down name, capability, memory and driver of each GPU."""
    texts = []
    for gpu in gpus:
        capability = gpu.get("compute_capability")
        text = ".".join(str(part) for part in capability or ())
        texts.append(gpu["name"] + (f", compute capability {text}" if text else ""))
    for gpu in nvidia["gpus"]:
        memory = "memory unknown"
        if gpu["total"] is not None and gpu["free"] is not None:
            memory = f"{gpu['free'] / 1024:.1f} of {gpu['total'] / 1024:.1f} GB free"
        texts.append(f"{gpu['name']}: {memory}, driver {gpu['driver']}")
    return "; ".join(texts) or "NVIDIA GPU"


def judge_capabilities(gpus, build):
    """Compare the GPUs with what TensorFlow was built for: "sm_60" ... "compute_90"."""
    built = [
        divmod(int(number), 10)
        for text in build.get("cuda_compute_capabilities", ())
        for number in re.findall(r"\d+", text)
    ]
    for gpu in gpus:
        capability = tuple(gpu.get("compute_capability") or ())
        if not built or not capability:
            continue
        if capability < min(built):
            lowest = ".".join(map(str, min(built)))
            return "problem", f"Too old: TensorFlow needs {lowest}. Set CUDA_VISIBLE_DEVICES=-1."
        if capability[0] > max(built)[0]:
            return "note", "Newer than TensorFlow: the first run compiles for it, many minutes."
    return "ok", ""


def check_cuda_libraries(facts):
    """Find the reason why TensorFlow does not see an NVIDIA GPU that is there."""
    if not facts["nvidia"]["present"]:
        return "ok", "not needed, no NVIDIA GPU", ""
    if facts["results"].get("backend", "tensorflow") != "tensorflow":
        return "ok", "not checked for this backend", ""
    if seen_gpus(facts):
        return "ok", "found by TensorFlow", ""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "note", "CUDA_VISIBLE_DEVICES hides the GPU", "Unset it to use the GPU."
    if sys.platform == "win32":
        return "note", "TensorFlow has no GPU support on Windows", "Use WSL2 for the GPU."
    build = facts["results"].get("devices", {}).get("build", {})
    if build.get("is_cuda_build") is False:
        return "problem", "this TensorFlow is built without CUDA", INSTALL_CUDA
    failing = failing_libraries()
    if "libcuda.so.1" in failing:
        advice = "Install the NVIDIA driver; in a container start it with --gpus all."
        return "problem", "cannot load " + ", ".join(failing), advice
    if failing:
        return "problem", "cannot load " + ", ".join(failing), INSTALL_CUDA
    version = build.get("cuda_version", "12")
    advice = f"Unset LD_LIBRARY_PATH; if that does not help, update the driver for CUDA {version}."
    return "problem", "all load, but TensorFlow sees no GPU", advice


def nvidia_folders():
    """List the folders nvidia/* that pip installs CUDA's parts into."""
    spec = importlib.util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec else None
    return [folder for place in places or () for folder in sorted(Path(place).glob("*"))]


def failing_libraries(load=ctypes.CDLL):
    """Try to load each CUDA library by name, then from pip's folders.

    Args:
        load: function of a name or path that raises OSError if it cannot load it.

    Returns:
        list of str, the names that no place could give.
    """
    failing = []
    for name in CUDA_LIBRARIES:
        for candidate in [name, *(str(folder / "lib" / name) for folder in nvidia_folders())]:
            try:
                load(candidate)
                break
            except OSError:
                continue
        else:
            failing.append(name)
    return failing


def check_memory_growth(facts):
    """See whether TensorFlow takes GPU memory bit by bit, or can still be told to."""
    tensorflow = sys.modules.get("tensorflow")
    if not seen_gpus(facts) or facts["results"].get("backend") != "tensorflow":
        return "ok", "not needed, TensorFlow has no GPU", ""
    if os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH") == "true":
        return "ok", "on", ""
    advice = "To share the GPU, call tfgpt.devices.set_memory_growth() before the first tensor."
    if tensorflow is None:
        return "note", "off: all GPU memory is taken at first use", advice
    config = tensorflow.config.experimental
    for gpu in tensorflow.config.list_physical_devices("GPU"):
        current = config.get_memory_growth(gpu)
        if current:
            continue
        try:  # Only a change raises once the GPU is in use, so change it and change it back.
            config.set_memory_growth(gpu, True)
            config.set_memory_growth(gpu, current)
        except (RuntimeError, ValueError):
            return "note", "off, too late to set", f"Restart Python. {advice}"
        return "note", "off: all GPU memory is taken at first use", advice
    return "ok", "on", ""


def check_ptxas(facts):
    """Look for ptxas, with which XLA builds programs for NVIDIA GPUs."""
    if not facts["nvidia"]["present"]:
        return "ok", "not needed, no NVIDIA GPU", ""
    places = [str(folder / "bin") for folder in nvidia_folders()]
    found = shutil.which("ptxas") or shutil.which("ptxas", path=os.pathsep.join(places))
    if found:
        return "ok", found, ""
    return "note", "not found", f"XLA may be slow or fail without it. {INSTALL_CUDA}"


def check_product(facts):
    """Compare a matrix product on the default device with NumPy's."""
    if "product" not in facts["results"]:
        return no_result(facts, "product")
    return judge_difference(facts["results"]["product"])


def check_xla(facts):
    """Compare a matrix product that XLA compiled with NumPy's."""
    if "xla" not in facts["results"]:
        status, value, advice = no_result(facts, "xla")
        if status == "problem":
            advice += " Until then train with jit_compile=False."
        return status, value, advice
    if facts["results"]["xla"] is None:
        return "ok", "not used by this backend", ""
    return judge_difference(facts["results"]["xla"])


def judge_difference(difference):
    """Accept a product that equals NumPy's; NaN is not equal."""
    if difference <= TOLERANCE:
        return "ok", "equals NumPy's", ""
    advice = "Do not trust results of this device: update its driver and reinstall the backend."
    return "problem", f"differs from NumPy's by {difference:g}", advice


DEVICE_CHECKS = {
    "Keras backend": check_backend,
    "devices": check_devices,
    "GPU": check_gpu,
    "CUDA libraries": check_cuda_libraries,
    "GPU memory growth": check_memory_growth,
    "ptxas": check_ptxas,
    "matrix product": check_product,
    "XLA": check_xla,
}
