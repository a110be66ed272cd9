"""Tests of tfgpt.replicas and tfgpt.workers: together they learn what one device learns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgpt import GPT, replicas, workers
from tfgpt.tasks.launch import launch
from tfgpt.training import make_evaluation_step, make_train_step

pytestmark = pytest.mark.requires_tensorflow

FOLDER = Path(__file__).resolve().parents[1]

# Learn the same batches, on one device or on those of a strategy. Most real tokens are in
# the first rows, and the number of rows is not always one that the replicas divide.
LEARN = """
import json
import sys
import keras
import numpy as np
import tensorflow as tf
import tfgpt
from tfgpt.replicas import scope_of
from tfgpt.workers import copy_from_chief, from_chief, is_chief, strategy_of_environment

def gpt():
    return tfgpt.GPT(11, 8, 1, 16, 2)

def transformer():
    return tfgpt.Transformer(1, 16, 2, 32, 11, 11, 8, dropout=0.0)

def bigram():
    table = keras.layers.Embedding(11, 11, embeddings_regularizer=keras.regularizers.L2(0.01))
    return keras.Sequential([keras.Input((None,), dtype="int32"), table])

def make_batch(model, number, rows):
    ids = np.random.default_rng(number).integers(1, 11, (rows, 9))
    ids[4:, 3:] = ids[6, 1:] = 0
    if isinstance(model, tfgpt.Transformer):
        return {"source": ids[:, 1:], "target": ids[:, :-1]}, ids[:, 1:]
    return ids[:, :-1], ids[:, 1:]

def learn(strategy, make_model, make_optimizer, rows=(7,), steps=2, **options):
    with scope_of(strategy):
        keras.utils.set_random_seed(0)
        model, optimizer = make_model(), make_optimizer()
    options = {"clip_norm": 0.3, "jit_compile": False, **options}
    step = tfgpt.make_train_step(model, optimizer, **options)
    results = []
    for number in range(steps):
        result = step(make_batch(model, number, rows[number % len(rows)]))
        results.append({name: float(value) for name, value in result.items()})
    step.optimizer.finalize_variable_values(model.trainable_variables)
    return model, results

def difference(first, second):
    pairs = zip(first.get_weights(), second.get_weights(), strict=True)
    return max(float(abs(a - b).max()) for a, b in pairs)
"""

COMPARE = """
count, names = int(sys.argv[1]), sys.argv[2].split(",")
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(count)])

# The gradient of a key's bias is 0 but for rounding: with Adam's own epsilon, 1e-7, noise of
# 1e-9 would be seen.
def adam(**options):
    return lambda: keras.optimizers.Adam(0.01, epsilon=1e-5, **options)

averaged = {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2}
muon = lambda: keras.optimizers.Muon(0.01, weight_decay=0.1)
cases = {
    "adam": (gpt, adam(), {"steps": 10, "rows": (8, 7)}),
    "transformer": (transformer, adam(), {"steps": 10}),
    "muon": (gpt, muon, {"steps": 10}),
    "averages": (gpt, adam(clipnorm=0.1, **averaged), {"steps": 3, "clip_norm": None}),
    "accumulation": (gpt, adam(gradient_accumulation_steps=2), {"steps": 4}),
    "parts": (gpt, adam(), {"accumulate": 2, "jit_compile": "parts"}),
    "unpadded": (gpt, adam(), {"pad_id": None, "skip_nonfinite": True}),
    "regularizer": (bigram, adam(), {}),
    "cast": (lambda: tfgpt.cast_model(gpt(), "bfloat16"), adam(), {}),
    "bfloat16": (gpt, adam(), {"mixed_precision": "bfloat16"}),
    "float16": (gpt, adam(), {"mixed_precision": "float16"}),
}

def compare(name):
    make_model, make_optimizer, options = cases[name]
    one, expected = learn(None, make_model, make_optimizer, **options)
    many, results = learn(strategy, make_model, make_optimizer, **options)
    batches = [make_batch(one, number, 7) for number in (0, 1)]
    copies = [strategy.experimental_local_results(v.value) for v in many.variables]
    keras.utils.set_random_seed(0)
    return {
        "expected": expected,
        "results": results,
        "evaluations": [tfgpt.evaluate(model, batches) for model in (one, many)],
        "difference": difference(one, many),
        "moved": difference(one, make_model()),
        "copies differ": sum(
            not np.array_equal(own[0], other) for own in copies for other in own[1:]
        ),
    }

print(json.dumps({name: compare(name) for name in names}))
"""


def run(script, *arguments, **environment):
    """Run a script in a process of its own; return the JSON that it prints last."""
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        cwd=FOLDER,
        env={**os.environ, **environment},
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def check_equal(found, tolerance):
    """Check that replicas have the results, evaluation and weights of one device."""
    for expected, result in zip(found["expected"], found["results"], strict=True):
        assert result == pytest.approx(expected, rel=tolerance, abs=1e-7)
    expected, evaluation = found["evaluations"]
    assert evaluation == pytest.approx(expected, rel=tolerance)
    assert found["difference"] < min(tolerance, 0.5 * found["moved"])
    assert found["copies differ"] == 0


LONG_CASES = ["adam", "transformer", "muon"]
SHORT_CASES = ["averages", "accumulation", "parts", "unpadded", "regularizer"]
HALF_PRECISION = ["cast", "bfloat16", "float16"]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_replicas_learn_what_one_device_learns(count):
    """Same losses, norms and weights after 10 clipped steps, within 1e-5."""
    found = run(LEARN + COMPARE, str(count), ",".join(LONG_CASES))
    for name in LONG_CASES:
        assert all(result["gradient_norm"] > 0.3 for result in found[name]["results"]), name
        check_equal(found[name], tolerance=1e-5)


@pytest.mark.slow
def test_every_option_of_the_step_works_on_two_replicas():
    """In half precision the sums of a batch depend on its size: losses within 1 in 1000."""
    found = run(LEARN + COMPARE, "2", ",".join([*SHORT_CASES, *HALF_PRECISION]))
    for name in SHORT_CASES:
        check_equal(found[name], tolerance=1e-5)
    for name in HALF_PRECISION:
        losses = [[r["loss"] for r in found[name][kind]] for kind in ("expected", "results")]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)
        assert found[name]["copies differ"] == 0


RESUME = """
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def train(folder, steps, resume=False):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = tfgpt.GPT(11, 8, 1, 16, 2, dropout=0.5)
        optimizer = keras.optimizers.Adam(0.01)
    data = [make_batch(model, number, 7) for number in range(3)]
    options = {"progress": False, "jit_compile": False, "validation_data": data[:1]}
    folder = f"{sys.argv[1]}/{folder}"
    tfgpt.train(model, data, steps, optimizer, run_dir=folder, resume=resume, **options)
    return model

whole = train("whole", 4)
train("half", 2)
print(json.dumps(difference(whole, train("half", 4, resume=True))))
"""


@pytest.mark.slow
def test_training_on_replicas_goes_on_from_a_checkpoint(tmp_path):
    """2 + 2 steps give the weights of 4, bit-equal, with dropout and validation."""
    assert run(LEARN + RESUME, str(tmp_path)) == 0


TRAIN_IN_PROCESSES = """
strategy = strategy_of_environment()
model, results = learn(strategy, gpt, lambda: keras.optimizers.Adam(0.01), steps=5)
number = 0 if is_chief() else 1
shared = from_chief(strategy, number + 0.5)
name = f"{number}.npz" if strategy else "one.npz"
losses = [result["loss"] for result in results]
weights = {f"weight{index}": weight for index, weight in enumerate(model.get_weights())}
lost = [*model.variables, keras.Variable(number + 3, dtype="int64")]
if number:
    model.set_weights([0 * weight for weight in model.get_weights()])
copy_from_chief(strategy, lost)
found = {f"found{index}": np.array(variable) for index, variable in enumerate(lost)}
np.savez(f"{sys.argv[1]}/{name}", losses=losses, shared=shared, **weights, **found)
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    """Within 1e-6 of one process after 5 steps, and bit-equal to each other.

    A number or weights that only the chief has reach the other.
    """
    command = [sys.executable, "-c", LEARN + TRAIN_IN_PROCESSES, str(tmp_path)]
    assert launch(command, processes=2) == 0
    subprocess.run(command, cwd=FOLDER, check=True)
    first, second, alone = (np.load(tmp_path / f"{name}.npz") for name in ("0", "1", "one"))
    for name in alone.files:
        assert np.array_equal(first[name], second[name]), name
        np.testing.assert_allclose(first[name], alone[name], atol=1e-6)


DRAW = """
import json
import keras
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tfgpt.replicas import on_replicas, random_states_of

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5, seed=1)])
states = random_states_of(model)

def measure(inputs, targets, share, parts):
    model(tf.ones((1, 4)), training=True)
    return 2 * share * tf.random.stateless_uniform((), states[0].value), tf.zeros(()), []

before = float(tf.random.stateless_uniform((), [1, 1]))
measured = tf.function(on_replicas(strategy, measure, 0, states))
ids = tf.ones((4, 1), "int32")
total = float(measured(ids, ids, 1)[0])
copies = strategy.experimental_local_results(states[0].value)
print(json.dumps([before, total, [copy.numpy().tolist() for copy in copies]]))
"""


@pytest.mark.slow
def test_each_replica_draws_random_numbers_of_its_own():
    """The first draws those of one device; afterwards the states agree: one draw each."""
    first, total, states = run(DRAW)
    assert 0 < total - first < 1
    assert abs(total - 2 * first) > 1e-3
    assert states == [[1, 1], [1, 1]]


TWO_STRATEGIES = """
import json
import keras
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tfgpt import make_train_step

message = ""
for size in (5, 6):
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        table = keras.layers.Embedding(size, size)
        model = keras.Sequential([keras.Input((None,), dtype="int32"), table])
    ids = tf.ones((2, 2), "int32")
    try:
        make_train_step(model, "sgd", jit_compile=False)((ids, ids))
    except RuntimeError as error:
        message = str(error)
print(json.dumps(message))
"""


@pytest.mark.slow
def test_a_second_strategy_in_one_program_is_named():
    assert "one tf.distribute strategy" in run(TWO_STRATEGIES)


def test_one_replica_is_one_device():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        keras.utils.set_random_seed(0)
        shared = GPT(11, 4, 1, 8, 2)
    keras.utils.set_random_seed(0)
    alone = GPT(11, 4, 1, 8, 2)
    ids = np.array([[1, 2, 3], [4, 0, 0]])
    results = [make_evaluation_step(model)((ids, ids)) for model in (shared, alone)]
    for name in ("loss", "accuracy", "tokens"):
        assert float(results[0][name]) == pytest.approx(float(results[1][name]), rel=1e-6)


def small_model():
    return keras.Sequential([keras.Input((None,), dtype="int32"), keras.layers.Embedding(5, 5)])


def test_a_step_in_the_scope_of_a_strategy_is_refused():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    ids = np.array([[1, 2]])
    with strategy.scope():
        model = small_model()
        for make in (lambda: make_train_step(model, "sgd"), lambda: make_evaluation_step(model)):
            with pytest.raises(RuntimeError, match=r"strategy\.scope\(\) must be left.*outside"):
                make()
    steps = make_train_step(model, "sgd", jit_compile=False), make_evaluation_step(model)
    for step in steps:
        with strategy.scope(), pytest.raises(RuntimeError, match="must be left"):
            step((ids, ids))


def test_an_optimizer_of_another_scope_is_refused():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    outside = keras.optimizers.SGD()
    with strategy.scope():
        model, inside = small_model(), keras.optimizers.SGD()
    with pytest.raises(ValueError, match=r"optimizer.*in strategy\.scope\(\), got SGD"):
        make_train_step(model, outside)
    with pytest.raises(ValueError, match=r"optimizer.*outside of strategy\.scope\(\), got SGD"):
        make_train_step(small_model(), inside)


def test_a_batch_is_filled_with_rows_that_do_not_count():
    inputs, targets = replicas.fill_rows(
        {"ids": tf.constant([[1, 2], [3, 4], [5, 6]])}, tf.constant([[2, 7], [4, 7], [6, 7]]), 2, 0
    )
    assert inputs["ids"].numpy().tolist() == [[1, 2], [3, 4], [5, 6], [1, 2]]
    assert targets.numpy().tolist() == [[2, 7], [4, 7], [6, 7], [0, 0]]
    assert replicas.fill_rows(inputs, targets, 2, 0)[1].shape == (4, 2)


CLUSTER = {"worker": ["a:1", "b:1"]}


@pytest.mark.parametrize(
    ("cluster", "task", "expected"),
    [
        ({}, {}, True),
        (CLUSTER, {"type": "worker", "index": 0}, True),
        (CLUSTER, {"type": "worker", "index": 1}, False),
        ({"chief": ["c:1"], **CLUSTER}, {"type": "worker", "index": 0}, False),
        ({"chief": ["c:1"], **CLUSTER}, {"type": "chief", "index": 0}, True),
    ],
)
def test_one_process_is_the_chief(monkeypatch, cluster, task, expected):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    assert workers.is_chief() is expected


def test_without_tf_config_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert workers.is_chief()
    assert workers.strategy_of_environment() is None
    assert workers.from_chief(None, 3) == 3.0


@pytest.mark.parametrize("text", ["{", "3", '"a"'])
def test_a_tf_config_that_is_no_object_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="TF_CONFIG must be a JSON object with cluster and task"):
        workers.is_chief()
