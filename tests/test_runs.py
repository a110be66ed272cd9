"""Tests of tfgpt.runs: what a run writes, and that it goes on where it stopped."""

import csv
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from tfgpt import GPT, runs
from tfgpt.data.batches import random_batches
from tfgpt.training import train

pytestmark = pytest.mark.requires_tensorflow

REPOSITORY = Path(__file__).resolve().parent.parent
VOCAB, LENGTH = 13, 6
COLUMNS = ["step", "loss", "val_loss", "tokens_per_s", "seconds"]


def make_model(seed=0, **options):
    keras.utils.set_random_seed(seed)
    settings = {"num_layers": 1, "d_model": 8, "num_heads": 2, "dropout": 0.3, **options}
    return GPT(VOCAB, LENGTH, **settings)


def make_table(rows=VOCAB):
    """Make the smallest model, a table of logits."""
    return keras.Sequential(
        [keras.Input((None,), dtype="int32"), keras.layers.Embedding(rows, rows)]
    )


def make_dataset():
    corpus = np.random.default_rng(0).integers(1, VOCAB, 400)
    return random_batches(corpus, LENGTH, batch_size=4, seed=3)


def run(steps, folder=None, model=None, dataset=None, **options):
    model = model or make_model()
    optimizer = keras.optimizers.Adam(0.01)
    settings = {"log_every": 5, "checkpoint_every": 5, "progress": False, **options}
    # Compiling is not the subject here; tests/test_fused.py resumes a compiled training.
    settings = {"jit_compile": False, **settings}
    history = train(model, dataset or make_dataset(), steps, optimizer, run_dir=folder, **settings)
    return history, state(model, optimizer)


def state(model, optimizer):
    variables = [*model.variables, *optimizer.variables, *model.non_trainable_variables]
    return [np.array(variable) for variable in variables]


def assert_equal_bits(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def run_and_interrupt(folder, at_step, **options):
    """Stop a run as Ctrl-C does, while batch number `at_step` is made."""

    def batches():
        for index, batch in enumerate(make_dataset()):
            if index == at_step:
                raise KeyboardInterrupt
            yield batch

    return run(20, folder, dataset=batches(), **options)


def test_10_steps_and_10_more_equal_20_steps_bit_for_bit(tmp_path):
    """With dropout: weights, optimizer, random state and the rows' steps and losses."""
    whole, expected = run(20)
    first, half = run(10, tmp_path)
    rows, result = run(20, tmp_path, model=make_model(seed=99), resume=True)
    assert_equal_bits(result, expected)
    assert [row["step"] for row in rows] == [row["step"] for row in whole] == [5, 10, 15, 20]
    assert [row["loss"] for row in rows] == [row["loss"] for row in whole]
    assert rows[:2] == first
    assert any((one != other).any() for one, other in zip(half, expected, strict=True))


def test_the_history_file_has_the_same_rows_and_exactly_five_columns(tmp_path):
    held_out = [next(iter(make_dataset()))]
    history, _ = run(
        7, tmp_path, make_table(), validation_data=held_out, validate_every=5, log_every=3
    )
    with open(tmp_path / "history.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    assert lines[0] == COLUMNS == list(runs.HISTORY_COLUMNS)
    assert [line[0] for line in lines[1:]] == ["3", "5", "6", "7"]
    assert [line[2] == "" for line in lines[1:]] == [True, False, True, False]
    assert runs.read_history(tmp_path / "history.csv") == history
    assert runs.read_history(tmp_path / "history.csv", last_step=5) == history[:2]


def test_seconds_go_on_growing_after_a_resume(tmp_path):
    run(5, tmp_path, make_table())
    rows, _ = run(10, tmp_path, make_table(), resume=True)
    assert rows[1]["seconds"] > rows[0]["seconds"] > 0


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(2, model=make_table())
    assert list(tmp_path.iterdir()) == []


def test_a_run_can_be_moved_to_another_folder(tmp_path):
    run(5, tmp_path / "one", make_table())
    (tmp_path / "one").rename(tmp_path / "two")
    _, result = run(10, tmp_path / "two", make_table(), resume=True)
    _, expected = run(5, model=make_table())
    rows = runs.read_history(tmp_path / "two" / "history.csv")
    assert [row["step"] for row in rows] == [5, 10]
    assert any((one != other).any() for one, other in zip(result, expected, strict=True))


def test_resume_in_an_empty_folder_starts_at_the_beginning(tmp_path, capsys):
    history, _ = run(5, tmp_path, make_table(), resume=True)
    assert history[-1]["step"] == 5
    assert "Going on" not in capsys.readouterr().out


def test_resume_of_a_finished_run_returns_its_rows_and_changes_nothing(tmp_path, capsys):
    model = make_table()
    history, before = run(10, tmp_path, model)
    again, after = run(10, tmp_path, make_table(), resume=True)
    assert again == history
    assert "Going on from step 10" in capsys.readouterr().out
    assert_equal_bits(before, after)


def test_a_checkpoint_from_before_the_first_row_can_be_resumed(tmp_path):
    run_and_interrupt(tmp_path, at_step=3, model=make_table(), log_every=10)
    assert not (tmp_path / "history.csv").exists()
    with pytest.raises(ValueError, match="run_dir must not hold another run"):
        run(10, tmp_path, make_table(), log_every=10)
    rows, _ = run(10, tmp_path, make_table(), log_every=10, resume=True)
    assert [row["step"] for row in rows] == [10]


def test_ctrl_c_keeps_the_work_and_resume_finishes_it_bit_for_bit(tmp_path, capsys):
    _, expected = run(20)
    history, _ = run_and_interrupt(tmp_path, at_step=13)
    assert "Stopped at step 13 of 20" in capsys.readouterr().out
    assert [row["step"] for row in history] == [5, 10]
    assert runs.read_history(tmp_path / "history.csv") == history
    rows, result = run(20, tmp_path, model=make_model(seed=99), resume=True)
    assert "Going on from step 13" in capsys.readouterr().out
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert_equal_bits(result, expected)


def test_ctrl_c_without_a_folder_returns_the_rows():
    history, _ = run_and_interrupt(None, at_step=7, model=make_table())
    assert [row["step"] for row in history] == [5]


def test_ctrl_c_during_a_step_waits_until_the_step_is_counted():
    done = []
    with pytest.raises(KeyboardInterrupt):
        with runs.delayed_interrupt():
            signal.raise_signal(signal.SIGINT)
            done.append("whole step")
        done.append("not reached")
    assert done == ["whole step"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_interrupt_handler_comes_back_after_an_error():
    with pytest.raises(ValueError, match="of the step"), runs.delayed_interrupt():
        raise ValueError("of the step")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_works_in_a_thread(tmp_path):
    results = []
    worker = threading.Thread(target=lambda: results.append(run(5, tmp_path, make_table())[0]))
    worker.start()
    worker.join(timeout=120)
    assert results and results[0][-1]["step"] == 5


def damage(folder, how):
    checkpoints = folder / "checkpoint"
    (data,) = checkpoints.glob("ckpt-5.data*")
    index = checkpoints / "ckpt-5.index"
    if how == "data cut":
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    elif how == "data changed":
        data.write_bytes(b"\x55" * data.stat().st_size)
    elif how == "data missing":
        data.unlink()
    elif how == "index cut":
        index.write_bytes(index.read_bytes()[:20])
    elif how == "index changed":
        index.write_bytes(b"\x55" * index.stat().st_size)


@pytest.mark.parametrize(
    "how", ["data cut", "data changed", "data missing", "index cut", "index changed"]
)
def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path, how):
    run(5, tmp_path, make_table())
    damage(tmp_path, how)
    with pytest.raises(ValueError, match="start again in another folder") as raised:
        run(10, tmp_path, make_table(), resume=True)
    assert str(tmp_path) in str(raised.value) and "ckpt-5" in str(raised.value)


@pytest.mark.parametrize("other", ["width", "layers", "optimizer"])
def test_a_checkpoint_of_another_model_is_refused(tmp_path, other):
    run(5, tmp_path, make_model())
    model = make_model(**{"width": {"d_model": 16}, "layers": {"num_layers": 2}}.get(other, {}))
    optimizer = keras.optimizers.SGD(0.1) if other == "optimizer" else keras.optimizers.Adam()
    with pytest.raises(ValueError, match="start again in another folder") as raised:
        train(model, make_dataset(), 10, optimizer, run_dir=tmp_path, resume=True, progress=False)
    assert len(str(raised.value)) < 500


SCRIPT = """
import sys
sys.path[:0] = [{tests!r}, {repository!r}]
import test_runs
test_runs.run(400, {folder!r}, resume=True, checkpoint_every=20)
"""


def start_training(folder):
    script = SCRIPT.format(
        tests=str(Path(__file__).parent), repository=str(REPOSITORY), folder=str(folder)
    )
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"},
    )


def wait_for_a_checkpoint(process, folder, limit=240):
    end = time.monotonic() + limit
    while not list((folder / "checkpoint").glob("ckpt-*.index")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "no checkpoint was written"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_bit_for_bit(tmp_path, capsys):
    """SIGKILL after the first checkpoint, then resume: equal to a run that never stopped."""
    process = start_training(tmp_path)
    wait_for_a_checkpoint(process, tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    rows, result = run(400, tmp_path, make_model(seed=99), resume=True, checkpoint_every=20)
    assert "Going on from step" in capsys.readouterr().out
    whole, expected = run(400)
    assert_equal_bits(result, expected)
    assert [row["step"] for row in rows] == [row["step"] for row in whole]
    assert [row["loss"] for row in rows] == [row["loss"] for row in whole]


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_keeps_the_work(tmp_path):
    """SIGINT at any moment: a clean exit, and resume is bit-equal to a whole run."""
    process = start_training(tmp_path)
    wait_for_a_checkpoint(process, tmp_path)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "Stopped at step" in output and "Traceback" not in errors
    _, result = run(400, tmp_path, make_model(seed=99), resume=True, checkpoint_every=20)
    _, expected = run(400)
    assert_equal_bits(result, expected)
