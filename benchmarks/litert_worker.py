"""tfgpt's LiteModel: a model in one file, which another process has exported.

    python -m benchmarks.litert_worker SETTINGS PATH

writes the file, so that the memory of the worker is that of writing text.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.sizes import Size
from benchmarks.worker import Job, repeat

ROOM = 256  # tokens in the caches: the first size that `generate` takes for these texts


def make_job(settings):
    """Make the job that the settings describe; see `benchmarks.comparisons`."""
    import ai_edge_litert  # noqa: F401  (a missing peer is left out)

    size = Size(**settings["size"])
    prompt = size.prompt(settings["batch"], settings["prompt"])
    model = load(settings)
    new_tokens = settings["new_tokens"]

    def call():
        return model.generate_ids(
            prompt, new_tokens, temperature=1.0 if settings["sample"] else 0.0, seed=0
        )

    def finish(ids):
        expected = prompt.shape[0], prompt.shape[1] + new_tokens
        if ids.shape != expected or (ids[:, : prompt.shape[1]] != prompt).any():
            raise RuntimeError(f"ids must continue the prompt to {expected}, got {ids.shape}")

    return Job(repeat(call, finish), ("tfgpt", "ai-edge-litert"), size.weights, units=new_tokens)


def load(settings):
    """Export in a process of its own, then load the file without Keras."""
    os.environ["TFGPT_LITE"] = "1"
    from tfgpt import LiteModel

    kept = {name: value for name, value in os.environ.items() if name != "TFGPT_LITE"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        command = [sys.executable, "-m", "benchmarks.litert_worker", json.dumps(settings), path]
        subprocess.run(command, env=kept, check=True, stdout=subprocess.DEVNULL)
        return LiteModel.load(path)  # the file stays mapped


def export(settings, path):
    """Write the untrained model of the settings."""
    from benchmarks.tfgpt_worker import make_model
    from tfgpt import export_litert, set_seed

    set_seed(0)
    size = Size(**settings["size"])
    quantize = None if settings["precision"] == "float32" else settings["precision"]
    export_litert(make_model(size), None, path, quantize, min(ROOM, size.length), settings["batch"])


if __name__ == "__main__":
    export(json.loads(sys.argv[1]), sys.argv[2])
