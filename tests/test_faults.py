"""Tests of what a training does when something goes wrong: numbers, disk, kills."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_runs import (
    VOCAB,
    assert_equal_bits,
    make_dataset,
    make_model,
    make_table,
    run,
)

from tfgpt import GPT, CharTokenizer, LanguageModel
from tfgpt.bundle import load_bundle
from tfgpt.checkpoints import Checkpoints, read_arrays, read_model, write_arrays
from tfgpt.data.passes import Batches
from tfgpt.history import read_history
from tfgpt.training import train

pytestmark = pytest.mark.requires_tensorflow

TESTS = Path(__file__).parent


def poison_at(model, *steps):
    """Make the loss NaN in these steps: the step before writes a bad weight."""

    def poison(step, result):
        if step + 1 in steps:
            model.weights[0].assign(np.full((VOCAB, VOCAB), np.nan))

    return poison


class BadBatches:
    """Batches of numbers, some of them NaN: a model of floats learns from them."""

    def __init__(self, bad):
        self.bad = bad

    def __len__(self):
        return 40

    def __getitem__(self, index):
        inputs = np.random.default_rng(index).normal(size=(4, 3, 5)).astype("float32")
        if index in self.bad:
            inputs[0, 0, 0] = np.nan
        return inputs, np.argmax(np.nan_to_num(inputs), axis=-1) % VOCAB


def make_reader(seed=0):
    """Make a model that reads numbers: (B, T, 5) -> (B, T, V)."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((None, 5)), keras.layers.Dense(VOCAB)])


@pytest.mark.parametrize("jit_compile", [False, "parts"])
def test_a_step_with_a_gradient_that_is_nan_is_left_out(capsys, jit_compile):
    """The weights are those of a training without that batch."""
    options = {"on_fault": "skip", "pad_id": None, "jit_compile": jit_compile}
    model = make_reader()
    history, _ = run(10, model=model, dataset=BadBatches({6}), **options)
    assert "Step 7 (batch number 7) was left out" in capsys.readouterr().out
    good = [BadBatches(set())[index] for index in range(10) if index != 6]
    _, expected = run(9, model=make_reader(), dataset=good, pad_id=None, jit_compile=jit_compile)
    assert_equal_bits(model.get_weights(), expected[:2])
    assert all(np.isfinite(row["loss"]) for row in history)


def test_more_faults_than_allowed_stop_the_training():
    options = {"on_fault": "skip", "most_faults": 2, "pad_id": None}
    with pytest.raises(ValueError, match=r"stopped at step 5 \(batch number 5\): the loss is nan"):
        run(10, model=make_reader(), dataset=BadBatches({1, 3, 4}), **options)


def test_a_rollback_restores_the_weights_and_skips_the_data(tmp_path, capsys):
    """From the checkpoint of step 5 on, the training reads what is behind the bad batch."""
    model = make_reader()
    options = {"pad_id": None, "checkpoint_every": 5}
    run(15, tmp_path, model, BadBatches({8}), on_fault="rollback", **options)
    assert "Going back to step 5; the data up to batch number 10" in capsys.readouterr().out
    order = [*range(5), *range(10, 20)]
    good = [BadBatches(set())[index] for index in order]
    _, expected = run(15, model=make_reader(), dataset=good, pad_id=None)
    assert_equal_bits(model.get_weights(), expected[:2])
    steps = [row["step"] for row in read_history(tmp_path / "history.csv")]
    assert steps == [5, 10, 15]
    resumed = make_reader(seed=9)
    run(20, tmp_path, resumed, BadBatches({8}), resume=True, **options)
    good = [BadBatches(set())[index] for index in [*order, *range(20, 25)]]
    _, expected = run(20, model=make_reader(), dataset=good, pad_id=None)
    assert_equal_bits(resumed.get_weights(), expected[:2])


def test_a_spike_of_the_loss_goes_back_too(tmp_path, capsys):
    model = make_table()

    def push(step, result):
        if step == 12 and not is_pushed:
            is_pushed.append(step)
            model.weights[0].assign(100 * np.random.default_rng(0).normal(size=(VOCAB, VOCAB)))

    is_pushed = []
    rows, _ = run(20, tmp_path, model, on_step=push, on_fault="rollback", spike=2.0)
    assert "the loss rose from" in capsys.readouterr().out
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert max(row["loss"] for row in rows) < 3
    with pytest.raises(ValueError, match="the loss rose from 2"):
        is_pushed.clear()
        run(20, model=(model := make_table()), on_step=push, spike=2.0)


def test_a_fault_without_a_checkpoint_stops(tmp_path):
    model = make_table()
    with pytest.raises(ValueError, match="the loss is nan"):
        run(20, tmp_path, model, on_step=poison_at(model, 2), on_fault="rollback")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_fault": "ignore"}, "on_fault must be one of"),
        ({"on_fault": "rollback"}, "needs one process and its checkpoints: pass run_dir"),
        ({"on_write_error": "ignore"}, "on_write_error must be one of"),
        ({"spike": 1.0}, "spike must be > 1 or None, got 1.0"),
        ({"checkpoint_minutes": 0}, "checkpoint_minutes must be > 0 or None, got 0"),
        ({"most_faults": 0}, "most_faults must be an integer >= 1"),
        ({"patience": 0}, "patience must be an integer >= 1"),
    ],
)
def test_wrong_arguments_about_faults_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(2, model=make_table(), **options)


def test_as_many_checkpoints_stay_as_asked_for(tmp_path):
    run(30, tmp_path, make_table(), keep_checkpoints=3)
    names = sorted(path.name for path in (tmp_path / "checkpoint").glob("*.json"))
    assert names == ["ckpt-20.json", "ckpt-25.json", "ckpt-30.json"]
    assert not list((tmp_path / "checkpoint").glob("part-*"))


def test_a_checkpoint_comes_by_the_clock_too(tmp_path):
    seen = []

    def look(step, result):
        seen.append(len(list((tmp_path / "checkpoint").glob("ckpt-*.json"))))
        time.sleep(0.02)

    options = {"checkpoint_every": 1000, "checkpoint_minutes": 0.05 / 60, "on_step": look}
    run(20, tmp_path, make_table(), **options)
    assert seen[4] == 0 and seen[-1] > 0


@pytest.mark.slow
def test_the_best_weights_are_kept_beside_the_last(tmp_path):
    """The held-out loss is lowest where the weights were good; later steps make it worse."""
    tokenizer = CharTokenizer("abcdefghijkl")
    keras.utils.set_random_seed(0)
    model = GPT(VOCAB, 6, num_layers=1, d_model=8, num_heads=2, dropout=0.0)
    held_out = [next(iter(make_dataset()))]
    kept = {}

    def look(step, result):
        kept[step] = model.get_weights()

    options = {"validate_every": 5, "validation_data": held_out, "keep_best": True}
    rows, _ = run(25, tmp_path, model, on_step=look, tokenizer=tokenizer, **options)
    best = min(rows, key=lambda row: row["val_loss"])
    loaded, _ = load_bundle(tmp_path / "best")
    assert_equal_bits(loaded.get_weights(), kept[best["step"]])
    assert json.loads((tmp_path / "best" / "config.json").read_text())["best"] == best
    assert LanguageModel.load(tmp_path / "best").generate("a", 2)


def test_patience_ends_the_training_with_the_best_weights(tmp_path):
    """A rate of 3 on noise: the held-out loss rises from the first validation on."""
    corpus = np.random.default_rng(1).integers(1, VOCAB, (40, 4, 7))
    data = [(rows[:, :-1], rows[:, 1:]) for rows in corpus[:8]]
    held_out = [(rows[:, :-1], rows[:, 1:]) for rows in corpus[20:]]
    for folder in (None, tmp_path):
        model = make_table()
        kept = {}
        options = {"validation_data": held_out, "validate_every": 5, "patience": 2}
        rows = train(
            *(model, data, 500, keras.optimizers.SGD(30.0)),
            run_dir=folder,
            on_step=lambda step, result, k=kept, m=model: k.update({step: m.get_weights()}),
            progress=False,
            jit_compile=False,
            **options,
        )
        losses = [row["val_loss"] for row in rows if row["val_loss"] is not None]
        assert len(losses) - 1 - losses.index(min(losses)) == 2 and rows[-1]["step"] < 500
        best = next(row["step"] for row in rows if row["val_loss"] == min(losses))
        assert_equal_bits(model.get_weights(), kept[best])


@pytest.mark.slow
def test_a_validation_that_a_kill_cut_off_is_made_again(tmp_path):
    held_out = [next(iter(make_dataset()))]
    options = {"validation_data": held_out, "validate_every": 5}
    whole, _ = run(10, tmp_path / "whole", make_table(), **options)
    run(5, tmp_path / "cut", make_table())
    rows, _ = run(10, tmp_path / "cut", make_table(), resume=True, **options)
    assert [row["val_loss"] for row in rows] == [row["val_loss"] for row in whole]


class Watch(keras.callbacks.Callback):
    """Write down what a training tells its callbacks."""

    def __init__(self):
        super().__init__()
        self.told = []

    def on_train_begin(self, logs=None):
        self.told.append("begin")

    def on_train_batch_end(self, batch, logs=None):
        self.told.append((batch, sorted(logs)))

    def on_epoch_end(self, epoch, logs=None):
        self.told.append((epoch, round(logs["val_loss"], 6)))
        self.model.stop_training = epoch == 1

    def on_train_end(self, logs=None):
        self.told.append("end")


def test_keras_callbacks_hear_of_steps_and_validations_and_can_end_the_training():
    watch = Watch()
    held_out = [next(iter(make_dataset()))]
    options = {"validation_data": held_out, "validate_every": 3, "callbacks": [watch]}
    rows, _ = run(20, model=make_table(), **options)
    names = ["accuracy", "gradient_norm", "loss", "tokens"]
    losses = [round(row["val_loss"], 6) for row in rows if row["val_loss"] is not None]
    expected = ["begin", *((step, names) for step in range(3)), (0, losses[0])]
    expected += [*((step, names) for step in range(3, 6)), (1, losses[1]), "end"]
    assert watch.told == expected and rows[-1]["step"] == 6


def test_callbacks_find_the_optimizer_where_fit_has_it():
    """A plateau halves its rate; afterwards the model has its own again."""
    model, own = make_table(), keras.optimizers.SGD(0.5)
    model.compile(own, "mse")
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", 0.5, patience=1, min_delta=100)
    held_out = [next(iter(make_dataset()))]
    options = {"validation_data": held_out, "validate_every": 2, "callbacks": [plateau]}
    run(6, model=model, **options)
    assert model.optimizer is own and float(own.learning_rate) == 0.5
    rates = []

    def look(step, result):
        rates.append(float(plain.optimizer.learning_rate))

    plain = make_table()
    before = vars(plain).get("optimizer")
    run(6, model=plain, on_step=look, **options)
    assert rates == pytest.approx([0.01] * 4 + [0.005] * 2)
    assert vars(plain).get("optimizer") is before


@pytest.mark.slow
def test_moving_averages_are_validated_written_and_left_in_the_model(tmp_path):
    """The rows say the loss of the averages; a resumed run goes on from the weights themselves."""
    held_out = [next(iter(make_dataset()))]
    options = {"validation_data": held_out, "validate_every": 5, "progress": False}
    options |= {"jit_compile": False, "log_every": 5, "checkpoint_every": 5}

    def learn(steps, folder, **more):
        model = make_table()
        average = keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.9)
        rows = train(model, make_dataset(), steps, average, run_dir=folder, **options, **more)
        return rows, model

    rows, model = learn(10, tmp_path / "one")
    loss = keras.losses.sparse_categorical_crossentropy(
        held_out[0][1], model(held_out[0][0]), from_logits=True
    )
    assert rows[-1]["val_loss"] == pytest.approx(float(keras.ops.mean(loss)), rel=1e-5)
    learn(5, tmp_path / "two")
    _, resumed = learn(10, tmp_path / "two", resume=True)
    assert_equal_bits(resumed.get_weights(), model.get_weights())


def test_details_of_each_row_are_in_a_file_of_json_lines(tmp_path):
    run(10, tmp_path, make_table())
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10]
    assert all({"accuracy", "gradient_norm", "learning_rate"} <= line.keys() for line in lines)
    assert lines[0]["learning_rate"] == pytest.approx(0.01)


def test_a_torn_last_line_of_the_history_comes_again(tmp_path):
    whole, _ = run(10, model=make_table())
    run(5, tmp_path, make_table())
    for name in ("history.csv", "history.jsonl"):
        with open(tmp_path / name, "a") as file:
            file.write("7,2.1")
    rows, _ = run(10, tmp_path, make_table(), resume=True)
    assert [row["loss"] for row in rows] == [row["loss"] for row in whole]
    assert read_history(tmp_path / "history.csv") == rows


def make_checkpoints(folder, model=None):
    optimizer = keras.optimizers.Adam()
    model = model or make_table()
    optimizer.build(model.trainable_variables)
    return Checkpoints(folder, model, optimizer, Batches([1]))


def test_a_step_never_waits_for_the_disk(tmp_path):
    """A checkpoint comes back while its files are being written, with the values of then."""
    checkpoints = make_checkpoints(tmp_path)
    weight = checkpoints.variables["model/0"]
    before = np.array(weight)
    gate, returned = tmp_path / "gate", []

    def hold():
        while not gate.exists():
            time.sleep(0.005)
        returned.append(time.monotonic())

    checkpoints.save(1, hold)
    weight.assign(np.zeros(weight.shape))  # the next step
    assert checkpoints.writer.is_alive() and not returned
    gate.touch()
    checkpoints.wait()
    assert returned
    assert checkpoints.restore() == 1
    np.testing.assert_array_equal(np.array(weight), before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint32", "bool"])
def test_arrays_of_every_type_come_back(tmp_path, dtype):
    values = np.arange(6).reshape(2, 3) % 2
    variable = keras.Variable(values, dtype=dtype, trainable=False)
    write_arrays(tmp_path / "x", {"model/0": np.array(variable)})
    variable.assign(np.zeros((2, 3)))
    read_arrays(tmp_path / "x", {"model/0": variable})
    np.testing.assert_array_equal(np.array(variable).astype("int32"), values)


def forge(folder, change):
    """Change a checkpoint as somebody who can make checksums would."""
    path = folder / "checkpoint" / "ckpt-5.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(place="__import__('os')"),
        lambda content: content.update(place=-1),
        lambda content: content.update(sha256={"../../../etc/passwd": "0"}),
        lambda content: content.update(sha256=[1]),
        lambda content: content.pop("place"),
    ],
)
def test_forged_checksums_are_damage(tmp_path, change, capsys):
    run(5, tmp_path, make_table())
    forge(tmp_path, change)
    with pytest.raises(ValueError, match="are damaged: start again in another folder"):
        run(10, tmp_path, make_table(), resume=True)


@pytest.mark.parametrize("content", ['{"step": 5' * 3, "[" * 100_000, "\x00\xff", "null"])
def test_a_file_of_checksums_that_is_no_json_is_damage(tmp_path, content):
    run(5, tmp_path, make_table())
    (tmp_path / "checkpoint" / "ckpt-5.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="ckpt-5 are damaged"):
        run(10, tmp_path, make_table(), resume=True)


def test_a_file_that_names_other_shapes_or_a_huge_one_is_refused_before_it_is_read(tmp_path):
    """The weights that are there stay as they are."""
    checkpoints = make_checkpoints(tmp_path)
    values = {name: np.array(v) for name, v in checkpoints.variables.items()}
    write_arrays(tmp_path / "x", values | {"model/0": np.zeros((2, 3), "float32")})
    with pytest.raises(ValueError, match=r"is \('float32', \(2, 3\)\) there"):
        read_arrays(tmp_path / "x", checkpoints.variables)
    write_arrays(tmp_path / "y", values | {"extra": np.zeros(1, "float32")})
    with pytest.raises(ValueError, match="extra is .* there, nothing here"):
        read_arrays(tmp_path / "y", checkpoints.variables)
    np.testing.assert_array_equal(values["model/0"], np.array(checkpoints.variables["model/0"]))


def test_a_pickle_in_a_run_folder_is_never_opened(tmp_path):
    """What looks like NumPy's or Python's pickles beside the checkpoints has no effect."""
    run(5, tmp_path, make_table())
    evil = b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR."
    for name in ("checkpoint/ckpt-9.pkl", "optimizer.pt", "weights.npy"):
        (tmp_path / name).write_bytes(evil)
    run(10, tmp_path, make_table(), resume=True)
    assert not (tmp_path / "owned").exists()


FULL_DISK = """
import resource, sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}, {repository!r}]
import test_runs
model = test_runs.make_table(rows=64)
def fill(step, result):
    if step == 7:
        while not Path({folder!r}, "checkpoint", "ckpt-5.json").exists():
            time.sleep(0.01)
        # From here on no file may grow beyond 4 KB, as with a full disk or a quota.
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    if step == 17:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
test_runs.run(30, {folder!r}, model, on_step=fill, on_write_error={policy!r})
print("ended")
"""


def run_script(script):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no such limit")
def test_a_full_disk_keeps_the_last_good_checkpoint_and_goes_on_if_asked(tmp_path):
    names = {"tests": str(TESTS), "repository": str(TESTS.parent)}
    stops = run_script(FULL_DISK.format(**names, folder=str(tmp_path / "a"), policy="stop"))
    assert stops.returncode == 1 and "ended" not in stops.stdout
    assert "The checkpoint of step 10 could not be written" in stops.stderr
    assert "That of step 5 is kept" in stops.stderr
    goes_on = run_script(FULL_DISK.format(**names, folder=str(tmp_path / "b"), policy="continue"))
    assert goes_on.returncode == 0 and "ended" in goes_on.stdout, goes_on.stderr
    assert "The checkpoint of step 10 could not be written" in goes_on.stdout
    _, expected = run(30, model=make_table(rows=64))
    _, resumed = run(30, tmp_path / "b", make_table(rows=64), resume=True)
    assert_equal_bits(resumed, expected)


@pytest.mark.skipif(os.name == "nt", reason="no such limit")
def test_a_row_that_a_full_disk_tears_is_written_whole_with_the_next(tmp_path, capsys):
    import resource

    path, torn = tmp_path / "history.csv", []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step, result):
        if step == 9:
            size = path.stat().st_size + 7
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        if step == 11:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            torn.append(path.read_text().splitlines()[-1])

    options = {"checkpoint_every": 20, "on_step": fill, "on_write_error": "continue"}
    try:
        rows, _ = run(20, tmp_path, make_table(), **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torn[0].startswith("10,") and len(torn[0]) == 7
    assert "The training goes on." in capsys.readouterr().out
    assert read_history(path) == rows and [row["step"] for row in rows] == [5, 10, 15, 20]
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [5, 10, 15, 20]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match=str(tmp_path)):
        run(5, tmp_path / "run", make_table())


ONE_AFTER_THE_OTHER = """
import os, sys, time
sys.path[:0] = [{tests!r}, {repository!r}]
import test_runs  # once: each training is a copy of this process
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        wait = lambda step, result: time.sleep(0.004)
        test_runs.run(600, {folder!r}, resume=True, checkpoint_every=10, on_step=wait)
        os._exit(0)
    print("child", child, flush=True)
    status = os.waitpid(child, 0)[1]
    print("status", status, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_20_kills_at_random_moments_change_nothing(tmp_path):
    """SIGKILL, half of them while a checkpoint is written; the weights are those of a whole run."""
    names = {"tests": str(TESTS), "repository": str(TESTS.parent), "folder": str(tmp_path)}
    command = [sys.executable, "-c", textwrap.dedent(ONE_AFTER_THE_OTHER.format(**names))]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    parent = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    dice = np.random.default_rng()

    def answer(word):
        return next(int(line.split()[1]) for line in parent.stdout if line.startswith(word))

    kills = 0
    while kills < 20:
        print("go", file=parent.stdin, flush=True)
        child, end = answer("child"), time.monotonic() + 60
        before = {path.name for path in tmp_path.glob("checkpoint/part-*")}
        while not {path.name for path in tmp_path.glob("checkpoint/part-*")} - before:
            assert time.monotonic() < end, "no checkpoint was written"
            time.sleep(0.0005)
        if kills % 2:
            time.sleep(float(dice.uniform(0.0, 0.3)))
        os.kill(child, signal.SIGKILL)
        assert answer("status") == signal.SIGKILL, "it was too fast to be killed"
        kills += 1
    parent.stdin.close()
    parent.wait()
    _, result = run(600, tmp_path, make_model(seed=99), resume=True, checkpoint_every=10)
    _, expected = run(600)
    assert_equal_bits(result, expected)
    steps = [row["step"] for row in read_history(tmp_path / "history.csv")]
    assert steps == list(range(5, 601, 5))


def test_nothing_is_written_into_a_folder_of_another_process(tmp_path):
    """The lock is the first file that is touched."""
    from tfgpt.run_folder import RunLock

    with RunLock(tmp_path), pytest.raises(ValueError, match="must not be in use"):
        run(5, tmp_path, make_table(), resume=True)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
def test_tf_data_that_shuffles_resumes_bit_for_bit(tmp_path):
    """With accumulation and dropout: 10 and 10 more steps are 20."""

    def data():
        keras.utils.set_random_seed(1)  # TensorFlow mixes it into the seed of a shuffle
        batches = list(make_dataset().take(12))
        inputs = np.concatenate([x for x, _ in batches])
        targets = np.concatenate([y for _, y in batches])
        rows = tf.data.Dataset.from_tensor_slices((inputs, targets))
        return rows.shuffle(48, seed=5, reshuffle_each_iteration=True).batch(4)

    options = {"accumulate": 2}
    _, expected = run(20, dataset=data(), **options)
    run(10, tmp_path, dataset=data(), **options)
    _, result = run(20, tmp_path, make_model(seed=99), data(), resume=True, **options)
    assert_equal_bits(result, expected)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_resumes_with_its_loss_scale_bit_for_bit(tmp_path, precision):
    options = {"mixed_precision": precision}
    _, expected = run(20, **options)
    run(10, tmp_path, **options)
    _, result = run(20, tmp_path, make_model(seed=99), resume=True, **options)
    assert_equal_bits(result, expected)


def test_a_place_that_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        run(5, tmp_path / "file" / "run", make_table())


@pytest.mark.slow
def test_any_checkpoint_of_a_run_gives_its_weights(tmp_path):
    kept = {}
    model = make_model()
    run(20, tmp_path, model, on_step=lambda step, result: kept.update({step: model.get_weights()}))
    other = make_model(seed=9)
    for step in (15, 20):
        read_model(tmp_path, step, other)
        assert_equal_bits(other.get_weights(), kept[step])
    with pytest.raises(ValueError, match=r"step must be that of a checkpoint, \[15, 20\], got 5"):
        read_model(tmp_path, 5, other)
    (data,) = (tmp_path / "checkpoint").glob("ckpt-15.data*")
    data.write_bytes(b"x")
    with pytest.raises(ValueError, match="undamaged checkpoint, got 15: ckpt-15.data.* has other"):
        read_model(tmp_path, 15, other)
    with pytest.raises(ValueError, match="there, .* here"):
        read_model(tmp_path, 20, make_model(d_model=16))
