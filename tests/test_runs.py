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

from tfgpt import GPT, CharTokenizer, LanguageModel, signals
from tfgpt.data.batches import random_batches
from tfgpt.data.passes import Batches
from tfgpt.history import HISTORY_COLUMNS, read_history
from tfgpt.schedules import WarmupLinearDecay
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
    keras.utils.set_random_seed(0)
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


@pytest.mark.slow
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
    assert lines[0] == COLUMNS == list(HISTORY_COLUMNS)
    assert [line[0] for line in lines[1:]] == ["3", "5", "6", "7"]
    assert [line[2] == "" for line in lines[1:]] == [True, False, True, False]
    assert read_history(tmp_path / "history.csv") == history
    assert read_history(tmp_path / "history.csv", last_step=5) == history[:2]


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
    rows = read_history(tmp_path / "two" / "history.csv")
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


@pytest.mark.slow
def test_ctrl_c_keeps_the_work_and_resume_finishes_it_bit_for_bit(tmp_path, capsys):
    _, expected = run(20)
    history, _ = run_and_interrupt(tmp_path, at_step=13)
    assert "Stopped at step 13 of 20" in capsys.readouterr().out
    assert [row["step"] for row in history] == [5, 10]
    assert read_history(tmp_path / "history.csv") == history
    rows, result = run(20, tmp_path, model=make_model(seed=99), resume=True)
    assert "Going on from step 13" in capsys.readouterr().out
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert_equal_bits(result, expected)


def test_ctrl_c_without_a_folder_returns_the_rows():
    history, _ = run_and_interrupt(None, at_step=7, model=make_table())
    assert [row["step"] for row in history] == [5]


def test_ctrl_c_between_a_batch_and_its_step_loses_no_batch(tmp_path, monkeypatch, capsys):
    take, taken = Batches.take, []

    def take_and_interrupt(batches):
        batch = take(batches)
        taken.append(batch)
        if len(taken) == 7:
            signal.raise_signal(signal.SIGINT)
        return batch

    monkeypatch.setattr(Batches, "take", take_and_interrupt)
    run(20, tmp_path, make_table())
    assert "Stopped at step 7 of 20" in capsys.readouterr().out
    monkeypatch.setattr(Batches, "take", take)
    _, result = run(20, tmp_path, make_table(), resume=True)
    _, expected = run(20, model=make_table())
    assert_equal_bits(result, expected)


def test_ctrl_c_during_a_step_waits_until_the_step_is_counted():
    done = []
    with pytest.raises(KeyboardInterrupt):
        with signals.delayed_interrupt():
            signal.raise_signal(signal.SIGINT)
            done.append("whole step")
        done.append("not reached")
    assert done == ["whole step"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_interrupt_handler_comes_back_after_an_error():
    with pytest.raises(ValueError, match="of the step"), signals.delayed_interrupt():
        raise ValueError("of the step")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_training_works_in_a_thread(tmp_path):
    results = []
    worker = threading.Thread(target=lambda: results.append(run(5, tmp_path, make_table())[0]))
    worker.start()
    worker.join(timeout=120)
    assert results and results[0][-1]["step"] == 5


def damage(folder, how, step=5):
    checkpoints = folder / "checkpoint"
    (data,) = checkpoints.glob(f"ckpt-{step}.data*")
    index = checkpoints / f"ckpt-{step}.index"
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


DAMAGES = [
    "data changed",
    *(
        pytest.param(how, marks=pytest.mark.slow)
        for how in ("data cut", "data missing", "index cut", "index changed")
    ),
]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, how, capsys):
    """Saying so; the run ends with the weights of one that was never disturbed."""
    whole, expected = run(15, model=make_table())
    run(10, tmp_path, make_table())
    damage(tmp_path, how, step=10)
    rows, result = run(15, tmp_path, make_table(), resume=True)
    printed = capsys.readouterr().out
    assert "The checkpoint ckpt-10 is damaged" in printed and "Going on from step 5" in printed
    assert_equal_bits(result, expected)
    assert [row["loss"] for row in rows] == [row["loss"] for row in whole]


def test_a_folder_with_damaged_checkpoints_only_is_named_with_what_to_do(tmp_path):
    run(5, tmp_path, make_table())
    damage(tmp_path, "data cut")
    with pytest.raises(ValueError, match="start again in another folder") as raised:
        run(10, tmp_path, make_table(), resume=True)
    assert str(tmp_path) in str(raised.value) and "ckpt-5" in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lr*2", "a[1]", "what?", "back\\slash"])
def test_a_folder_whose_name_is_a_pattern_keeps_to_itself(tmp_path, name):
    siblings = [tmp_path / sibling for sibling in ("lr1_2", "a1", "whatX")]
    for sibling in siblings:
        run(5, sibling, make_table())
    run(10, tmp_path / name, make_table())
    _, expected = run(15, model=make_table())
    _, result = run(15, tmp_path / name, make_table(), resume=True)
    assert_equal_bits(result, expected)
    for sibling in siblings:
        assert (sibling / "checkpoint" / "ckpt-5.index").exists()


def start_tiny(folder, model=None, rate=0.01, seed=3, facts=None, **options):
    corpus = np.random.default_rng(0).integers(1, VOCAB, 400)
    data = random_batches(corpus, LENGTH, batch_size=4, seed=seed)
    facts = facts or {"alphabet": "abc"}
    fixed = {"run_dir": folder, "progress": False, "jit_compile": False, "facts": facts}
    optimizer = keras.optimizers.Adam(rate)
    return train(make_model(**(model or {})), data, 2, optimizer, **fixed, **options)


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_settings_only(tmp_path):
    start_tiny(tmp_path)
    for change, message in (
        ({"model": {"num_heads": 4}}, "model.num_heads is 2 and not 4"),
        ({"model": {"activation": "relu"}}, "model.activation"),
        ({"model": {"norm_first": False}}, "model.norm_first is True and not False"),
        ({"model": {"positions": "rotary"}}, "model.positions is 'learned' and not 'rotary'"),
        ({"model": {"pad_id": 3}}, "pad_id is"),
        ({"rate": 0.5}, r"run.optimizer.config.learning_rate is 0.\d+ and not 0.5"),
        ({"seed": 9}, "run.first_batch is"),
        ({"facts": {"alphabet": "xyz"}}, "run.alphabet is 'abc' and not 'xyz'"),
        ({"accumulate": 2}, "run.step_options.accumulate is None and not 2"),
    ):
        match = f"run_dir must hold a run with the same settings.*{message}"
        with pytest.raises(ValueError, match=match):
            start_tiny(tmp_path, resume=True, **change)
    assert start_tiny(tmp_path, resume=True)[-1]["step"] == 2


@pytest.mark.slow
def test_a_folder_in_use_is_refused_and_free_again_after_a_kill(tmp_path):
    process = start_training(tmp_path)
    wait_for_a_checkpoint(process, tmp_path)
    with pytest.raises(ValueError, match="run_dir must not be in use"):
        run(5, tmp_path, resume=True)
    process.kill()
    process.communicate()
    assert run(400, tmp_path, make_model(), resume=True)[0]


@pytest.mark.slow
def test_the_place_in_the_data_is_found_again(tmp_path, capsys):
    """For tf.data by its state; for a list by its index; a function is read again, saying so."""
    corpus = [tuple(x.numpy() for x in batch) for batch in make_dataset().take(7)]
    for kind, dataset in (("list", corpus), ("function", lambda: iter(corpus))):
        _, expected = run(15, model=make_table(), dataset=dataset)
        run(10, tmp_path / kind, make_table(), dataset)
        _, result = run(15, tmp_path / kind, make_table(), dataset, resume=True)
        assert_equal_bits(result, expected)
    assert capsys.readouterr().out.count("Reading 10 batches again") == 1
    run(10, tmp_path / "tf", make_table())
    assert (tmp_path / "tf" / "checkpoint" / "data-10.index").exists()


def test_an_iterator_that_is_exhausted_ends_the_training_with_its_work_kept(tmp_path, capsys):
    batches = list(make_dataset().take(7))
    history, _ = run(20, tmp_path, make_table(), iter(batches), log_every=2)
    assert history[-1]["step"] == 7
    assert "The training ended at step 7 of 20" in capsys.readouterr().out
    assert (tmp_path / "checkpoint" / "ckpt-7.json").exists()


@pytest.mark.slow
def test_a_loss_that_is_nan_stops_the_training_and_keeps_the_good_checkpoint(tmp_path):
    model = make_table()

    def poison(step, result):
        if step == 12:
            model.weights[0].assign(np.full((VOCAB, VOCAB), np.nan))

    message = r"stopped at step 13 \(batch number 13\): the loss is nan"
    with pytest.raises(ValueError, match=message):
        run(20, tmp_path, model, on_step=poison)
    assert read_history(tmp_path / "history.csv")[-1]["step"] == 10
    _, result = run(20, tmp_path, make_table(), resume=True)
    _, expected = run(20, model=make_table())
    assert_equal_bits(result, expected)


def test_on_step_sees_every_step_and_can_end_the_training(tmp_path):
    seen = []

    def look(step, result):
        seen.append(step)
        return step == 4 and float(result["loss"]) > 0

    history, _ = run(20, tmp_path, make_table(), on_step=look)
    assert seen == [1, 2, 3, 4]
    assert history[-1]["step"] == 4 and (tmp_path / "checkpoint" / "ckpt-4.json").exists()


@pytest.mark.slow
def test_validation_reads_as_much_as_it_is_told():
    read = []

    def held_out():
        for number, batch in enumerate(make_dataset()):
            read.append(number)
            yield batch

    options = {"model": make_table(), "validate_every": 2}
    run(4, validation_data=held_out, validation_batches=3, **options)
    assert read == [0, 1, 2, 0, 1, 2]
    endless = make_dataset()
    history, _ = run(2, validation_data=endless, validation_batches=2, **options)
    assert history[-1]["val_loss"] > 0
    with pytest.raises(ValueError, match="validation_data must have an end"):
        run(2, validation_data=endless, validate_all_at_end=True, **options)
    with pytest.raises(ValueError, match="validation_data must be readable again"):
        run(2, validation_data=iter([]), **options)


@pytest.mark.slow
def test_a_run_can_be_sampled_from_its_first_checkpoint_on(tmp_path):
    tokenizer = CharTokenizer("abcdefghijkl")
    model = make_model()

    def look(step, result):
        assert (tmp_path / "config.json").exists() and (tmp_path / "tokenizer.json").exists()
        return step == 7

    run(20, tmp_path, model, tokenizer=tokenizer, on_step=look)
    loaded = LanguageModel.load(tmp_path)
    assert loaded.tokenizer.tokens == tokenizer.tokens
    assert_equal_bits(loaded.model.get_weights(), model.get_weights())


def test_a_history_that_another_program_changed_is_named(tmp_path):
    run(5, tmp_path, make_table())
    for content in ("step;loss;val_loss\n5;1;2\n", "step,loss\n5,1\n", "\ufeffx", "\x00"):
        (tmp_path / "history.csv").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"history\.csv must have the columns step, loss"):
            run(10, tmp_path, make_table(), resume=True)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_termination_keeps_the_work_and_has_its_exit_code(tmp_path, name):
    number = getattr(signal, name)

    def end(step, result):
        if step == 7:
            signal.raise_signal(number)

    with pytest.raises(SystemExit) as raised:
        run(20, tmp_path, make_table(), on_step=end)
    assert raised.value.code == 128 + number
    _, result = run(20, tmp_path, make_table(), resume=True)
    _, expected = run(20, model=make_table())
    assert_equal_bits(result, expected)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    def full(path, target):
        raise OSError(28, "No space left on device")

    run(5, tmp_path, make_table())
    with monkeypatch.context() as patch:
        patch.setattr("shutil.move", full)
        message = "step 10 could not be written.*No space left.*step 5 is kept"
        with pytest.raises(OSError, match=message):
            run(10, tmp_path, make_table(), resume=True)
    _, result = run(10, tmp_path, make_table(), resume=True)
    _, expected = run(10, model=make_table())
    assert_equal_bits(result, expected)


def test_a_schedule_that_has_ended_is_told():
    optimizer = keras.optimizers.SGD(WarmupLinearDecay(4))
    with pytest.warns(UserWarning, match="learning rate is 0 from step 6 on"):
        train(make_table(), make_dataset(), 8, optimizer, log_every=6, progress=False)


@pytest.mark.slow
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
    while not list((folder / "checkpoint").glob("ckpt-*.json")):
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
