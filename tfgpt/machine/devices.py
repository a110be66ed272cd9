"""What the backend computes on: its devices, their memory, and whether they compute right.

The facts are gathered in a second Python process, because a broken driver or
compiler can end the whole process. This file is its program. Importing it needs
the standard library only.
"""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path


def set_memory_growth():
    """Let TensorFlow take GPU memory as it needs it, not all at once.

    Call it before the first tensor is made: TensorFlow takes the memory then, and
    other programs, a second notebook for example, find none left.

    Returns:
        int, the number of GPUs that it was set for.

    Raises:
        RuntimeError: if TensorFlow has used a GPU already.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    try:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:
        raise RuntimeError(
            "set_memory_growth must come before the first tensor, but TensorFlow has used the "
            "GPU already: restart Python and call it first."
        ) from error
    return len(gpus)


# The steps of the second process. Each returns something that JSON can hold.


def find_backend():
    """Import Keras and name its backend."""
    import keras

    return keras.backend.backend()


def list_devices():
    """List the backend's devices and what TensorFlow was built for."""
    backend = find_backend()
    if backend == "jax":
        import jax

        found = [{"kind": x.platform.upper(), "name": x.device_kind} for x in jax.devices()]
        return {"devices": found, "build": {}}
    if backend == "torch":
        import torch

        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return {"devices": [{"kind": "GPU", "name": name} for name in names], "build": {}}
    return list_tensorflow_devices()


def list_tensorflow_devices():
    """List devices without using them: TensorFlow takes no memory for this."""
    import tensorflow as tf

    found = []
    for device in tf.config.list_physical_devices():
        details = {}
        if device.device_type == "GPU":
            details = tf.config.experimental.get_device_details(device)
        found.append(
            {
                "kind": device.device_type,
                "name": details.get("device_name", device.name),
                "compute_capability": details.get("compute_capability"),
            }
        )
    build = tf.sysconfig.get_build_info()
    names = ("is_cuda_build", "cuda_version", "cuda_compute_capabilities")
    return {"devices": found, "build": {name: build[name] for name in names if name in build}}


def product(a, b):
    """Compute relu(a b - 1) with Keras: (T, K) x (K, S) -> (T, S)."""
    from keras import ops

    return ops.relu(ops.matmul(a, b) - 1.0)


def compare_product(function):
    """Return the largest difference between a product and NumPy's."""
    import numpy as np
    from keras import ops

    # Small whole numbers: exact in every float format, also in the GPU's TF32.
    a, b = np.random.default_rng(0).integers(-4, 5, (2, 64, 64)).astype("float32")
    expected = np.maximum(a @ b - 1.0, 0.0)
    result = ops.convert_to_numpy(function(ops.convert_to_tensor(a), ops.convert_to_tensor(b)))
    return float(np.abs(result - expected).max())


def run_product():
    """Compute a product as it is, without a compiler."""
    return compare_product(product)


def run_xla():
    """Compute a product that XLA has compiled; None: the backend has no XLA."""
    backend = find_backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return compare_product(tf.function(product, jit_compile=True))
    if backend == "jax":
        import jax

        return compare_product(jax.jit(product))
    return None


@functools.cache
def xla_works():
    """Compile and run a small product with XLA, once; warn if that fails.

    Returns:
        bool.
    """
    try:
        return run_xla() == 0.0
    except Exception as error:  # a backend can raise anything
        warn_without_xla(first_line(error))
        return False


def warn_without_xla(message):
    """Warn that XLA failed, with what it says, and a plain function takes its place."""
    warnings.warn(
        "XLA failed on this machine; going on without it, more slowly. `tfgpt doctor` "
        f"says more. XLA's message begins: {message[:200]}",
        stacklevel=user_level(),
    )


def user_level():
    """Return the stacklevel at which a warning points at the line outside tfgpt."""
    frame, level = sys._getframe(1), 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith("tfgpt."):
        frame, level = frame.f_back, level + 1
    return level


STEPS = {
    "backend": find_backend,
    "devices": list_devices,
    "product": run_product,
    "xla": run_xla,
}


def run_steps():
    """Run the steps and print a JSON line after each, so that a crash loses only the rest."""
    for step, function in STEPS.items():
        try:
            line = {"step": step, "result": function()}
        except Exception as error:  # a backend can raise anything
            line = {"step": step, "error": f"{type(error).__name__}: {first_line(error)}"}
        print(json.dumps(line), flush=True)
        if step == "backend" and "error" in line:
            break


def first_line(error):
    """Return the first line of an error's text, or "" if it has none."""
    return next(iter(str(error).strip().splitlines()), "")


# Gathering the facts, in the first process.


def gather_facts(time_limit=120.0, command=None):
    """Run the steps in a second process; it takes little GPU memory and gives it back.

    Args:
        time_limit: float > 0, seconds until it is stopped.
        command: list of str, the program to run; default: this file.

    Returns:
        dict: "results" {step: result}, "errors" {step: text}, and "nvidia", what
        `find_nvidia_gpus` returns. A step that was not reached is in neither.
    """
    environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="2")
    environment.update(TF_FORCE_GPU_ALLOW_GROWTH="true", XLA_PYTHON_CLIENT_PREALLOCATE="false")
    if "keras" in sys.modules:
        environment["KERAS_BACKEND"] = current_backend()
    try:
        # -P: this folder has a tokenizers.py, which must not hide the library.
        process = subprocess.run(
            command or [sys.executable, "-P", __file__],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=time_limit,
            env=environment,
        )
        output, end = process.stdout, describe_end(process.returncode, process.stderr)
    except subprocess.TimeoutExpired as error:
        output, end = error.stdout or b"", f"no answer within {time_limit:g} s"
    results, errors = read_steps(output.decode("utf-8", "replace"), end)
    return {"results": results, "errors": errors, "nvidia": find_nvidia_gpus()}


def current_backend():
    """Name the backend of this process: once Keras is loaded, the variable changes nothing."""
    if "keras" in sys.modules:
        return sys.modules["keras"].backend.backend()
    return os.environ.get("KERAS_BACKEND", "tensorflow")


def describe_end(returncode, stderr):
    """Say how a process ended, with its last line of complaint."""
    if returncode < 0:
        names = {member.value: member.name for member in signal.Signals}
        end = f"stopped by {names.get(-returncode, f'signal {-returncode}')}"
    else:
        end = f"ended with exit code {returncode}"
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines()]
    complaints = [line for line in lines if re.search(r"error|fail|fatal", line, re.IGNORECASE)]
    last = (complaints or [line for line in lines if line] or [""])[-1]
    return f"{end}: {last[:300]}" if last else end


def read_steps(output, end):
    """Read the lines of `run_steps`; the first step without a line gets `end` as its error."""
    results, errors = {}, {}
    for line in output.splitlines():
        try:
            record = json.loads(line) if line.startswith('{"step"') else {}
        except json.JSONDecodeError:  # the process ended in the middle of a line
            continue
        if "result" in record:
            results[record["step"]] = record["result"]
        elif "error" in record:
            errors[record["step"]] = record["error"]
    left = [step for step in STEPS if step not in results and step not in errors]
    if left and "backend" not in errors:
        errors[left[0]] = end
    return results, errors


def find_nvidia_gpus():
    """Ask the NVIDIA driver for its GPUs, whatever the backend sees.

    Returns:
        dict: "present" bool; "gpus" list of dicts with name, total, free (MiB) and
        driver, empty if nvidia-smi gave none; "error" str, nvidia-smi's complaint.
    """
    gpus, error = [], ""
    if shutil.which("nvidia-smi"):
        query = "--query-gpu=name,memory.total,memory.free,driver_version"
        try:
            process = subprocess.run(
                ["nvidia-smi", query, "--format=csv,noheader,nounits"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=30,
            )
            if process.returncode == 0:
                gpus = [read_gpu(line) for line in process.stdout.splitlines() if line.strip()]
            else:
                error = first_line(process.stdout + process.stderr)
        except (OSError, subprocess.TimeoutExpired) as problem:
            error = first_line(problem)
    present = bool(gpus) or Path("/proc/driver/nvidia/version").exists()
    return {"present": present, "gpus": gpus, "error": error}


def read_gpu(line):
    """Read one line of nvidia-smi; a size that it does not know becomes None."""
    name, total, free, driver = (part.strip() for part in line.rsplit(",", 3))
    total, free = (int(size) if size.isdigit() else None for size in (total, free))
    return {"name": name, "total": total, "free": free, "driver": driver}


if __name__ == "__main__":
    run_steps()
