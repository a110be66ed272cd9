"""Splitting a model: on 4 and 8 devices and in 2 processes it computes what one device does.

The runs are in parallel_runs.py, in processes of their own: JAX fixes the number of its
devices at its start. All numbers are float32.
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from tfgpt.model_parallel import bytes_per_device, parallel

SCRIPT = Path(__file__).with_name("parallel_runs.py")
TOLERANCE = 1e-5
CASES = {
    "model 2 of 4": (4, {"model_devices": 2}),
    "model 8": (8, {"model_devices": 8}),  # half a head each
    "weights 8": (8, {"shard_weights": True}),
    "model 2, weights 4": (8, {"model_devices": 2, "shard_weights": True}),
    "sequence 4": (4, {"sequence_devices": 4}),
    "sequence 2, weights 8": (8, {"sequence_devices": 2, "shard_weights": True}),
}
needs_jax = pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="needs tfgpt[jax]")


@pytest.mark.requires_tensorflow
def test_on_tensorflow_the_message_says_how_to_share_a_batch():
    """The words after "in" are Python that works."""
    with pytest.raises(ValueError, match="make model and optimizer in") as raised:
        parallel()
    code = str(raised.value).rsplit(" in ", 1)[1].rstrip(".")
    assert code == "tf.distribute.MirroredStrategy().scope()"


def start(devices, *arguments):
    """Start parallel_runs.py on JAX with a number of CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    environment["PYTHONPATH"] = str(SCRIPT.parents[1])
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Wait for a process and return what it found."""
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def found(once):
    """All comparisons with one device, from one process with 8 devices."""
    return once("parallel", lambda: finish(start(8, "devices", json.dumps(CASES))))


@pytest.fixture(scope="module")
def processes(once):
    """Two workers with 2 devices each, and the same training in one process on one device."""
    return once("processes", run_processes)


def run_processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = [start(2, "worker", port, process) for process in range(2)]
    return [finish(worker) for worker in workers] + [finish(start(1, "worker", "alone", 0))]


# Properties


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, "transformer"])
def test_a_split_model_computes_what_one_device_does(found, name):
    for value in ("logits", "loss", "gradients", "fit"):
        assert found[name][value] < TOLERANCE, value


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, devices",
    [
        ("model 2 of 4", 2),
        ("model 8", 8),
        ("weights 8", 8),
        ("model 2, weights 4", 8),
        ("sequence 2, weights 8", 8),
        ("transformer", 8),
    ],
)
def test_each_device_holds_its_part_of_the_weights(found, name, devices):
    """Norms, output biases and what does not divide stay whole: up to 5 % more than 1/n."""
    for share in found[name]["weight_share"]:
        assert 1 / devices < share < 1 / devices + 0.05


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, "transformer"])
def test_the_slots_of_adam_lie_with_their_weights(found, name):
    """Two slots for each weight, and 4 bytes each for the step and the learning rate."""
    for weights, slots in zip(found[name]["weight_bytes"], found[name]["slot_bytes"], strict=True):
        assert slots == 2 * weights + 8


@needs_jax
@pytest.mark.slow
def test_a_device_computes_only_its_part_of_the_sequence(found):
    assert found["sequence 4"]["shard"] == [8, 4, 64]  # (B, T / 4, V)
    assert found["sequence 2, weights 8"]["shard"] == [2, 8, 64]  # (B / 4, T / 2, V)
    assert found["sequence 4"]["temporary_share"] < 0.3  # 1/4, and what is gathered


@needs_jax
@pytest.mark.slow
def test_a_split_model_generates_the_same_tokens(found):
    assert found["same tokens"]


@needs_jax
@pytest.mark.slow
def test_a_split_model_is_saved_as_a_whole_one(found):
    assert found["file"] == 0


# The layout


@needs_jax
@pytest.mark.slow
def test_first_kernels_are_split_by_columns_and_second_ones_by_rows(found):
    split, block = found["split"], "decoder_0"
    columns = ("self_attention/query", "self_attention/key", "self_attention/value")
    for name in (*columns, "feed_forward/expand"):
        assert split[f"{block}/{name}/kernel"] == ["batch", "model"]
        assert split[f"{block}/{name}/bias"] == ["model"]
    for name in ("self_attention/output", "feed_forward/contract"):
        assert split[f"{block}/{name}/kernel"] == ["model", "batch"]
        assert split[f"{block}/{name}/bias"] == [None]
    assert split["embedding/embeddings"] == ["model", "batch"]
    assert split["embedding/position_embeddings"] == [None, "batch"]  # (16, 32): the longer one
    assert split["final_norm/gamma"] == [None]


@needs_jax
@pytest.mark.slow
def test_a_vocabulary_that_does_not_divide_stays_whole(found):
    """Source 64 tokens, target 65, on 2 model devices; cross-attention is split as well."""
    split = found["split of the transformer"]
    assert split["encoder/embedding/embeddings"] == ["model", "batch"]
    assert split["decoder/embedding/embeddings"] == [None, "batch"]
    assert split["output/kernel"] == ["batch", None]
    assert split["output/bias"] == [None]
    assert split["decoder/layer_0/encoder_attention/query/kernel"] == ["batch", "model"]
    assert split["decoder/layer_0/encoder_attention/output/kernel"] == ["model", "batch"]


# Several processes


@needs_jax
@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(processes):
    first, second, alone = processes
    assert (first["processes"], first["devices"], alone["devices"]) == (2, 4, 1)
    assert first["sums"] == second["sums"]
    assert first["sums"] == pytest.approx(alone["sums"], rel=TOLERANCE)
    for name in ("data", "weights"):
        assert first[name]["fit"] == second[name]["fit"]
        assert first[name]["fit"] == pytest.approx(alone[name]["fit"], rel=TOLERANCE)


@needs_jax
@pytest.mark.slow
def test_weights_can_be_split_over_processes(processes):
    """Each of the 4 devices holds a quarter; no process can read the whole by itself."""
    for worker in processes[:2]:
        for part, whole in zip(worker["weights"]["bytes"], worker["data"]["bytes"], strict=True):
            assert 0.25 < part / whole < 0.3
        assert "non-addressable" in worker["reading split weights"]


# Errors and examples


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="says what other backends lack")
@pytest.mark.parametrize("call", [parallel, lambda: bytes_per_device([])])
def test_other_backends_are_told_what_to_use(call):
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax.*MirroredStrategy"):
        call()


@needs_jax
@pytest.mark.slow
def test_sizes_that_do_not_divide_are_named(found):
    errors = found["errors"]
    assert "divide the number of devices, got 3 x 1 for 8 devices" in errors["devices"]
    assert "sequence_devices must be an integer >= 1, got 0" in errors["type"]
    assert "partitioned 4 times, but the dimension size is 6" in errors["rows"]


@needs_jax
@pytest.mark.slow
def test_the_examples_run_on_jax(found):
    assert found["doctest failures"] == 0
