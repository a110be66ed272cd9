"""`tfgpt train` in several processes and on several devices: equal to one, also after a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

pytestmark = [pytest.mark.requires_tensorflow, pytest.mark.slow]

REPOSITORY = Path(__file__).resolve().parent.parent
OPTIONS = [
    *("--tokenizer", "char", "--layers", "1", "--width", "16", "--heads", "2", "--context", "16"),
    *("--batch-size", "6", "--steps", "60", "--compile", "none", "--dropout", "0.1"),
    *("--checkpoint-every", "10", "--validate-every", "20", "--log-every", "10"),
]


def tfgpt(folder, out, *before):
    """Return the command of a training, and its environment."""
    arguments = [*before, "train", "--corpus", str(folder / "texts.txt"), "--out", str(out)]
    command = [sys.executable, "-m", "tfgpt", *arguments, *OPTIONS]
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return {"args": command, "env": environment, "cwd": folder}


def run(folder, out, *before):
    result = subprocess.run(
        **tfgpt(folder, out, *before), capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def workers(index):
    """List the processes that TF_CONFIG gives a place among the workers."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            environment = (place / "environ").read_bytes()
            command = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if f'"index": {index}'.encode() in environment and str(OPTIONS[5]).encode() in command:
            found.append(int(place.name))
    return found


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts.txt").write_text("床前明月光，疑是地上霜。\n" * 300, encoding="utf-8")
    return tmp_path


def difference(one, other):
    first, second = (load_file(path / "weights.safetensors") for path in (one, other))
    return max(np.abs(first[name] - second[name]).max() for name in first)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="Linux finds workers in /proc")
def test_a_killed_worker_costs_no_token(texts):
    """The job stops, says who was lost, starts again and ends with the weights of a whole one."""
    run(texts, texts / "whole", "launch", "--")
    launcher = subprocess.Popen(
        **tfgpt(texts, texts / "killed", "launch", "--restarts", "1", "--"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = time.monotonic() + 200
    while not list((texts / "killed" / "checkpoint").glob("ckpt-*.json")):
        assert launcher.poll() is None and time.monotonic() < end, launcher.communicate()[0]
        time.sleep(0.01)
    for process in workers(1):
        os.kill(process, signal.SIGKILL)
    output, _ = launcher.communicate(timeout=250)
    assert launcher.returncode == 0, output
    assert "SIGKILL" in output and "Going on from step" in output
    assert difference(texts / "killed", texts / "whole") == 0


def test_two_processes_and_two_devices_learn_what_one_does(texts):
    """Without dropout, which draws other numbers on each device."""
    plain = ("--dropout", "0")
    for name, before, more in (
        ("one", (), ()),
        ("processes", ("launch", "--"), ("--sample-every", "60")),
        ("devices", (), ("--replicas", "2")),
    ):
        settings = tfgpt(texts, texts / name, *before)
        settings["args"] += [*plain, *more]
        result = subprocess.run(**settings, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
    assert difference(texts / "one", texts / "processes") < 1e-4
    samples = (texts / "processes" / "samples.txt").read_text(encoding="utf-8")
    assert samples.count("--- 60\n") == 1  # of the first process alone
    assert difference(texts / "one", texts / "devices") < 1e-4


ELASTIC = """
import sys
from pathlib import Path
from tfgpt.tasks.pretrain import pretrain

folder = Path(sys.argv[1])
given = {"corpus": str(folder / "texts.txt"), "tokenizer": "char", "layers": 1, "width": 16,
         "heads": 2, "context": 16, "batch_size": 6, "compile": "none", "schedule": "constant",
         "warmup_steps": 1}
pretrain({**given, "steps": 10, "replicas": 2}, folder / "two")
pretrain({"steps": 20, "replicas": 1}, folder / "two", resume=True)
pretrain({**given, "steps": 20}, folder / "one")
"""


def test_a_run_goes_on_with_another_number_of_devices(texts):
    """Ten steps on two devices and ten on one give the weights of twenty on one."""
    settings = tfgpt(texts, texts / "two")
    settings["args"] = [sys.executable, "-c", ELASTIC, str(texts)]
    result = subprocess.run(**settings, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "Going on from step 10" in result.stdout
    assert difference(texts / "one", texts / "two") < 1e-4
