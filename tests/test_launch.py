"""Tests of tfgpt.tasks.launch: processes that start, fail and end together."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from tfgpt.tasks import launch as launch_module
from tfgpt.tasks.launch import expanded_hosts, launch, share_gpus, slurm_config, tf_configs


def command(script, *arguments):
    return [sys.executable, "-c", script, *map(str, arguments)]


INDEX = """
import json, os, signal, sys, time
from pathlib import Path
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
"""


def test_every_process_knows_all_addresses_and_its_own_place():
    first, second = (json.loads(text) for text in tf_configs(2))
    assert first["cluster"] == second["cluster"]
    assert len(set(first["cluster"]["worker"])) == 2
    assert [x["task"] for x in (first, second)] == [
        {"type": "worker", "index": 0},
        {"type": "worker", "index": 1},
    ]


def recipe(name):
    """Return the lines that the docstring has for several machines."""
    text = launch_module.__doc__.split(f"\n{name}: ")[1].split("\n\n")[1]
    return textwrap.dedent(text).replace("TRAIN", "printenv TF_CONFIG")


def run_bash(script, **environment):
    """Run the lines; each line of the output is a TF_CONFIG."""
    found = subprocess.check_output(["bash", "-c", script], env={**os.environ, **environment})
    return [json.loads(line) for line in found.decode().splitlines()]


@pytest.mark.skipif(os.name == "nt", reason="lines for bash")
def test_the_lines_for_several_machines_give_each_process_its_place():
    expected = [
        {"cluster": {"worker": [f"host{x}:2222" for x in (0, 1)]}, "task": {"type": "worker"}}
        for _ in range(2)
    ]
    for index, each in enumerate(expected):
        each["task"]["index"] = index
    found = run_bash('ssh() { bash -c "$2"; }\n' + recipe("ssh"))
    assert sorted(found, key=lambda each: each["task"]["index"]) == expected


@pytest.mark.skipif(os.name == "nt", reason="lines for bash")
def test_the_lines_for_slurm_give_each_process_its_place(tmp_path, monkeypatch, capsys):
    """Here the shell's python writes down its code; it runs in this process."""
    monkeypatch.setenv("SLURM_STEP_NODELIST", "host[0-1]")
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.chdir(tmp_path)
    tools = 'srun() { shift; "$@"; }; python() { echo "$2" > code.py; echo "$FOUND"; }\n'
    script = tools + "export -f python\n" + recipe("Slurm")
    (found,) = run_bash(script, FOUND=slurm_config())
    exec((tmp_path / "code.py").read_text())
    assert json.loads(capsys.readouterr().out) == found
    assert found["task"] == {"type": "worker", "index": 1}
    assert found["cluster"]["worker"] == ["host0:2222", "host1:2222"]


def test_the_job_for_kubernetes_gives_each_pod_its_place():
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load(recipe("Kubernetes"))
    worker = job["spec"]["replicatedJobs"][0]
    (container,) = worker["template"]["spec"]["template"]["spec"]["containers"]
    (found,) = run_bash(container["args"][0], JOB_COMPLETION_INDEX="1")
    hosts = [f"{job['metadata']['name']}-{worker['name']}-0-{x}.mine:2222" for x in (0, 1)]
    assert found["cluster"]["worker"] == hosts and found["task"]["index"] == 1
    assert worker["template"]["spec"]["completions"] == len(hosts)


def test_slurm_writes_hosts_as_ranges():
    assert expanded_hosts("a") == ["a"]
    assert expanded_hosts("a1,b[08-10,12],c-2") == ["a1", "b08", "b09", "b10", "b12", "c-2"]


def test_the_output_of_each_process_has_its_number(capfd):
    script = INDEX + "print('é', index * 5); print('bad', file=sys.stderr)"
    assert launch(command(script), processes=2) == 0
    output, errors = capfd.readouterr()
    assert sorted(output.splitlines()) == ["[0] é 0", "[1] é 5"]
    assert sorted(errors.splitlines()) == ["[0] bad", "[1] bad"]


def test_when_one_fails_the_others_are_stopped(capfd, tmp_path):
    """By SIGTERM, so that they can save; the exit code is that of the first."""
    script = (
        INDEX
        + """
def save(*arguments):
    Path(sys.argv[1], "saved").touch()
    sys.exit(9)

signal.signal(signal.SIGTERM, save)
Path(sys.argv[1], f"ready{index}").touch()
while not Path(sys.argv[1], "ready0").exists(): time.sleep(0.01)
if index: sys.exit(7)
time.sleep(600)
"""
    )
    assert launch(command(script, tmp_path), processes=2) == 7
    assert (tmp_path / "saved").exists()
    assert "Worker 1 ended with exit code 7: the others are stopped." in capfd.readouterr().err


def test_a_process_that_ignores_sigterm_is_killed(capfd, tmp_path):
    script = (
        INDEX
        + """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path(sys.argv[1], f"ready{index}").touch()
while not Path(sys.argv[1], "ready0").exists(): time.sleep(0.01)
if index: os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""
    )
    assert launch(command(script, tmp_path), processes=2, patience=0.2) == 128 + signal.SIGKILL
    assert "Worker 1 was killed by SIGKILL" in capfd.readouterr().err


def test_all_are_started_again_with_resume(capfd):
    script = INDEX + "print(sys.argv[1:]); sys.exit(index if '--resume' not in sys.argv else 0)"
    assert launch(command(script, "x"), processes=2, restarts=3) == 0
    output, errors = capfd.readouterr()
    assert output.count("['x']") <= 2
    assert output.count("['x', '--resume']") == 2
    assert errors.count("Starting again: 1 of 3 restarts.") == 1


def test_after_the_last_restart_the_code_is_returned(capfd):
    script = "import sys; print(sys.argv[1:]); sys.exit(5)"
    options = {"processes": 1, "restarts": 2, "restart_option": None}
    assert launch(command(script, "--resume"), **options) == 5
    assert capfd.readouterr().out.count("['--resume']") == 3


def test_an_option_that_is_there_is_not_added_again(capfd):
    script = "import sys; print(sys.argv[1:]); sys.exit(5)"
    assert launch(command(script, "--resume"), processes=1, restarts=1) == 5
    assert capfd.readouterr().out.count("['--resume']\n") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_worker_0_first_then_the_others(tmp_path, capfd, number):
    """Worker 0 needs the others until its checkpoint is written; no restart follows."""
    script = (
        INDEX
        + """
def save(*arguments):
    time.sleep(0.2)
    Path(sys.argv[1], f"saved{index}").write_text(str(time.time()))
    sys.exit(3)

for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, save)
Path(sys.argv[1], f"ready{index}").touch()
time.sleep(600)
"""
    )

    def send_when_ready():
        while len(list(tmp_path.glob("ready*"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=send_when_ready, daemon=True).start()
    assert launch(command(script, tmp_path), processes=2, restarts=1) == 3
    first, second = (float((tmp_path / name).read_text()) for name in ("saved0", "saved1"))
    assert first < second
    errors = capfd.readouterr().err
    assert f"{number.name} came" in errors
    assert "Starting again" not in errors


def test_gpus_are_shared():
    names = [each["CUDA_VISIBLE_DEVICES"] for each in share_gpus(list("abcde"), 2)]
    assert names == ["a,c,e", "b,d"]
    assert share_gpus([], 2) == [{}, {}]
    with pytest.raises(ValueError, match="processes must be at most the number of GPUs, 1, got 2"):
        share_gpus(["0"], 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 0}, "processes must be an integer >= 1, got 0"),
        ({"restarts": -1}, "restarts must be an integer >= 0, got -1"),
        ({"patience": 0}, "patience must be > 0, got 0"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        launch(["true"], **options)


# A training whose worker 1 is killed before step 4 when `killed` is given.
TRAIN = """
import os, signal, sys, time
import keras
import numpy as np
import tfgpt
from tfgpt.replicas import scope_of
from tfgpt.workers import copy_from_chief, from_chief, is_chief, strategy_of_environment

strategy = strategy_of_environment()
with scope_of(strategy):
    keras.utils.set_random_seed(0)
    model, optimizer = tfgpt.GPT(11, 8, 1, 16, 2), keras.optimizers.Adam(0.01)
step = tfgpt.make_train_step(model, optimizer, jit_compile=False)
state, path, done = [*model.variables, *optimizer.variables], sys.argv[1], 0
if is_chief() and "--resume" in sys.argv and os.path.exists(path):
    saved = np.load(path)
    done = int(saved["step"])
    for index, variable in enumerate(state):
        variable.assign(saved[str(index)])
    print("Going on from step", done, flush=True)
done = int(from_chief(strategy, done))
copy_from_chief(strategy, state)
for number in range(done, 6):
    if number == 4 and not is_chief() and sys.argv[2:] == ["killed"]:
        open(path + ".end", "w").write(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)
    ids = np.random.default_rng(number).integers(1, 11, (4, 9))
    step((ids[:, :-1], ids[:, 1:]))
    if is_chief():
        values = {str(index): np.array(variable) for index, variable in enumerate(state)}
        np.savez(path + ".part.npz", step=number + 1, **values)
        os.replace(path + ".part.npz", path)
"""


@pytest.mark.slow
def test_a_killed_worker_stops_the_job_with_a_message(tmp_path, capfd):
    """Worker 0 waits for a sum that never comes; the job ends within 60 s all the same."""
    training = command(TRAIN, tmp_path / "last.npz", "killed")
    assert launch(training, patience=10.0) == 128 + signal.SIGKILL
    assert time.time() - float((tmp_path / "last.npz.end").read_text()) < 60
    errors = capfd.readouterr().err
    assert "Worker 1 was killed by SIGKILL: the others are stopped." in errors


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_with_a_restart(tmp_path, capfd):
    """The job ends with the weights of an undisturbed one, bit-equal."""
    assert launch(command(TRAIN, tmp_path / "whole.npz")) == 0
    assert launch(command(TRAIN, tmp_path / "killed.npz", "killed"), restarts=1, patience=10.0) == 0
    output, errors = capfd.readouterr()
    assert "Going on from step" in output
    assert "Starting again: 1 of 1 restarts." in errors
    whole, killed = (np.load(tmp_path / f"{name}.npz") for name in ("whole", "killed"))
    assert int(whole["step"]) == 6
    for name in whole.files:
        assert np.array_equal(whole[name], killed[name]), name
