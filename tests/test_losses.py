"""Loss and accuracy over real tokens, perplexity and bits per byte."""

import json
import math
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import reference
from layer_check import IS_TENSORFLOW, assert_close, compiled, gradient, to_numpy

from tfgpt.losses import (
    MaskedAccuracy,
    MaskedLoss,
    Perplexity,
    bits_per_byte,
    masked_accuracy,
    masked_loss,
    perplexity,
)

VOCAB = 7
TARGETS = np.array([[3, 4, 0, 0], [1, 2, 6, 0]], "int32")


@pytest.fixture
def logits(rng):
    return rng.normal(size=(2, 4, VOCAB)).astype("float32") * 2


# Properties


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_neither_the_amount_nor_the_logits_of_padding_change_the_loss(rng, logits, label_smoothing):
    loss = masked_loss(TARGETS, logits, label_smoothing=label_smoothing)
    accuracy = masked_accuracy(TARGETS, logits)
    longer = np.pad(TARGETS, ((0, 0), (0, 3)))
    other = np.concatenate([logits, 50 * rng.normal(size=(2, 3, VOCAB))], axis=1)
    other[:, :4][TARGETS == 0] = 30
    other = other.astype("float32")
    assert_close(masked_loss(longer, other, label_smoothing=label_smoothing), loss, 1e-6)
    assert_close(masked_accuracy(longer, other), accuracy, 1e-7)


def test_padding_gets_no_gradient_and_real_targets_do(logits):
    grad = gradient(lambda x: masked_loss(TARGETS, x, label_smoothing=0.1), logits)
    assert (grad[TARGETS == 0] == 0).all()
    assert (np.abs(grad[TARGETS != 0]).max(axis=-1) > 0).all()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_batch_of_padding_only_has_loss_0_and_gradient_0(logits, label_smoothing):
    zeros = np.zeros_like(TARGETS)

    def loss(x):
        return masked_loss(zeros, x, label_smoothing=label_smoothing)

    assert float(loss(logits)) == 0
    assert float(masked_accuracy(zeros, logits)) == 0
    assert (gradient(loss, logits) == 0).all()


def test_adding_a_number_to_all_logits_of_a_position_changes_nothing(logits):
    for label_smoothing in (0.0, 0.1):
        losses = [
            masked_loss(TARGETS, x, label_smoothing=label_smoothing) for x in (logits, logits + 5)
        ]
        assert_close(*losses, 1e-5)


def test_without_a_pad_id_every_target_counts(logits):
    expected = reference.masked_loss(TARGETS, logits.astype("float64"), pad_id=None)
    assert float(masked_loss(TARGETS, logits, pad_id=None)) == pytest.approx(expected, abs=1e-5)
    expected = reference.masked_accuracy(TARGETS, logits, pad_id=None)
    assert float(masked_accuracy(TARGETS, logits, pad_id=None)) == pytest.approx(expected)


# Equality


@pytest.mark.parametrize("pad_id", [0, 3])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.5])
def test_loss_and_accuracy_equal_slow_numpy(logits, pad_id, label_smoothing):
    expected = reference.masked_loss(TARGETS, logits.astype("float64"), pad_id, label_smoothing)
    assert float(masked_loss(TARGETS, logits, pad_id, label_smoothing)) == pytest.approx(
        expected, abs=1e-5
    )
    expected = reference.masked_accuracy(TARGETS, logits, pad_id)
    assert float(masked_accuracy(TARGETS, logits, pad_id)) == pytest.approx(expected)


def test_without_padding_the_loss_is_the_cross_entropy_of_keras(logits):
    targets = np.array([[3, 4, 1, 2], [1, 2, 6, 5]])
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert_close(masked_loss(targets, logits), theirs(targets, logits), 1e-6)


def test_label_smoothing_is_that_of_keras(logits):
    targets = np.array([[3, 4, 1, 2], [1, 2, 6, 5]])
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    expected = theirs(np.eye(VOCAB, dtype="float32")[targets], logits)
    assert_close(masked_loss(targets, logits, label_smoothing=0.1), expected, 1e-5)


# Hand-computed values


def test_equal_logits_give_the_logarithm_of_the_vocabulary():
    for label_smoothing in (0.0, 0.1):
        loss = masked_loss(TARGETS, np.zeros((2, 4, VOCAB)), label_smoothing=label_smoothing)
        assert float(loss) == pytest.approx(math.log(VOCAB), abs=1e-6)


def test_the_loss_of_two_tokens_is_the_mean_of_their_hand_computed_losses():
    # Token 1 has probability 3/4 at place 0 and 1/4 at place 1; place 2 is padding.
    # (ln 4/3 + ln 4) / 2 = (0.2876821 + 1.3862944) / 2 = 0.8369882.
    logits = np.array([[[0, math.log(3)], [math.log(3), 0], [9, 9]]], "float32")
    assert float(masked_loss(np.array([[1, 1, 0]]), logits)) == pytest.approx(0.8369882, abs=1e-6)
    # Smoothing 0.2: the other token gets 0.1, the right one 0.9.
    # Place 0: 0.9 x 0.2876821 + 0.1 x 1.3862944 = 0.3975433; place 1: 0.9 x 1.3862944 +
    # 0.1 x 0.2876821 = 1.2764332; mean 0.8369882 again, so look at place 0 alone.
    smoothed = masked_loss(np.array([[1]]), logits[:, :1], label_smoothing=0.2)
    assert float(smoothed) == pytest.approx(0.3975433, abs=1e-6)


def test_accuracy_counts_real_targets_only():
    # Right, wrong, padding (which would be right): 1 of 2.
    logits = np.array([[[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]])
    assert float(masked_accuracy(np.array([[1, 1, 0]]), logits)) == 0.5


def test_perplexity_of_equally_likely_tokens_is_their_number():
    # e^(ln 7) = 7; e^0 = 1.
    np.testing.assert_allclose(
        to_numpy(perplexity(np.array([math.log(7), 0.0]))), [7, 1], atol=1e-5
    )


def test_bits_per_byte_of_one_byte_tokens_is_the_loss_in_bits():
    # ln 256 nats = 8 bits per token; tokens of 4 bytes: 2 bits per byte.
    assert bits_per_byte(math.log(256), 10, 10) == pytest.approx(8)
    assert bits_per_byte(math.log(256), 10, 40) == pytest.approx(2)


# Graphs, precision, Keras


@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_a_traced_loss_equals_the_eager_loss(logits, mode):
    def both(targets, logits):
        return masked_loss(targets, logits, 0, 0.1), masked_accuracy(targets, logits)

    assert_close(compiled(mode, both)(TARGETS, logits), both(TARGETS, logits), 1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_loss_of_half_precision_logits_is_float32(logits, dtype):
    half = keras.ops.cast(logits, dtype)
    loss = masked_loss(TARGETS, half)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    assert_close(loss, masked_loss(TARGETS, keras.ops.cast(half, "float32")), 0)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_targets_may_have_any_number_type(logits, dtype):
    # Keras turns integer targets into floats before it calls a loss.
    assert_close(masked_loss(TARGETS.astype(dtype), logits), masked_loss(TARGETS, logits), 0)
    assert_close(
        masked_accuracy(TARGETS.astype(dtype), logits), masked_accuracy(TARGETS, logits), 0
    )


def test_a_padding_id_outside_the_vocabulary_is_allowed(logits):
    targets = np.where(TARGETS == 0, -100, TARGETS)
    assert_close(masked_loss(targets, logits, pad_id=-100), masked_loss(TARGETS, logits), 0)


def test_a_compiled_keras_model_reports_the_masked_loss_and_accuracy(logits):
    model = keras.Sequential([keras.Input((4, VOCAB)), keras.layers.Activation("linear")])
    model.compile(loss=masked_loss, metrics=[masked_accuracy], jit_compile=not IS_TENSORFLOW)
    loss, accuracy = model.evaluate(logits, TARGETS, batch_size=2, verbose=0)
    assert loss == pytest.approx(float(masked_loss(TARGETS, logits)), abs=1e-6)
    assert accuracy == pytest.approx(float(masked_accuracy(TARGETS, logits)), abs=1e-6)


@pytest.mark.parametrize("function", [masked_loss, masked_accuracy])
def test_loss_and_accuracy_are_registered_with_keras(function):
    registered_name = f"tfgpt>{function.__name__}"
    assert keras.saving.get_registered_name(function) == registered_name
    assert keras.saving.get_registered_object(registered_name) is function


# Every setting acts


def test_each_setting_changes_the_loss(logits):
    plain = float(masked_loss(TARGETS, logits))
    for settings in ({"pad_id": 3}, {"pad_id": None}, {"label_smoothing": 0.1}):
        assert abs(float(masked_loss(TARGETS, logits, **settings)) - plain) > 1e-3
    right = logits.copy()
    right[TARGETS == 0, 0] = 99
    assert float(masked_accuracy(TARGETS, right)) != float(masked_accuracy(TARGETS, right, None))


# Messages


@pytest.mark.parametrize("shape", [(2, 3, VOCAB), (2, 4), (2, 4, 1, VOCAB)])
def test_targets_and_logits_that_do_not_fit_are_refused(shape):
    for function in (masked_loss, masked_accuracy):
        with pytest.raises(ValueError, match=r"logits must have the shape of targets.*\(2, 4\)"):
            function(TARGETS, np.zeros(shape, "float32"))


@pytest.mark.parametrize("bad_id", [VOCAB, -1])
def test_a_target_outside_the_vocabulary_is_refused(logits, bad_id):
    targets = TARGETS.copy()
    targets[0, 0] = bad_id
    with pytest.raises(ValueError, match=rf"targets must be in .*\[0, 7\), got {bad_id}"):
        masked_loss(targets, logits)


@pytest.mark.parametrize("value", [1.0, -0.1, "0.1"])
def test_a_label_smoothing_outside_0_to_1_is_refused(logits, value):
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\), got"):
        masked_loss(TARGETS, logits, label_smoothing=value)


def test_counts_below_1_are_refused():
    with pytest.raises(ValueError, match="num_tokens must be >= 1, got 0"):
        bits_per_byte(1.0, 0, 5)
    with pytest.raises(ValueError, match="num_bytes must be >= 1, got -2"):
        bits_per_byte(1.0, 5, -2)


# Ignored means not read


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_does_not_count_is_not_read(logits, bad, label_smoothing):
    """Neither the loss nor a gradient of it, nor the accuracy."""
    broken = logits.copy()
    broken[:, 3] = bad
    options = {"label_smoothing": label_smoothing}
    expected = masked_loss(TARGETS, logits, **options)
    assert_close(masked_loss(TARGETS, broken, **options), expected, 0)
    assert_close(masked_accuracy(TARGETS, broken), masked_accuracy(TARGETS, logits), 0)
    slopes = [gradient(lambda x: masked_loss(TARGETS, x, **options), x) for x in (logits, broken)]
    np.testing.assert_array_equal(*slopes)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_class_that_cannot_be_has_no_part_in_the_loss(logits, label_smoothing):
    """With -inf for class 0 the loss is that of the other classes."""
    masked = logits.copy()
    masked[..., 0] = -np.inf
    loss = masked_loss(TARGETS, masked, label_smoothing=label_smoothing)
    targets = np.where(TARGETS > 0, TARGETS - 1, -100)
    fewer = masked_loss(targets, logits[..., 1:], -100, label_smoothing)
    assert_close(loss, fewer, 1e-6)
    slope = gradient(lambda x: masked_loss(TARGETS, x, label_smoothing=label_smoothing), masked)
    assert np.isfinite(slope).all() and (slope[..., 0] == 0).all()


# Objects for compile and fit


def table_model(logits):
    """Make a model whose logits for id i are row i of a table."""
    rows = logits.reshape(-1, VOCAB)
    table = keras.layers.Embedding(len(rows), VOCAB)
    model = keras.Sequential([keras.Input((None,), dtype="int32"), table])
    table.set_weights([rows])
    return model, np.arange(len(rows), dtype="int32").reshape(logits.shape[:2])


def test_evaluate_counts_each_real_token_once(rng):
    """Five sequences in batches of 2, 2 and 1, with padding of every length."""
    logits = rng.normal(size=(5, 4, VOCAB)).astype("float32")
    targets = np.array([[1, 2, 3, 4], [5, 0, 0, 0], [1, 1, 0, 0], [2, 3, 4, 0], [6, 5, 0, 0]])
    model, ids = table_model(logits)
    model.compile(loss=MaskedLoss(), metrics=[MaskedAccuracy(), Perplexity()])
    found = model.evaluate(ids, targets, batch_size=2, verbose=0, return_dict=True)
    expected = reference.masked_loss(targets, logits.astype("float64"))
    assert found["perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
    assert found["masked_accuracy"] == pytest.approx(reference.masked_accuracy(targets, logits))
    whole = model.evaluate(ids, targets, batch_size=5, verbose=0, return_dict=True)
    assert whole["loss"] == pytest.approx(expected, rel=1e-5)


def test_sample_weights_weigh_samples(logits):
    """The loss is multiplied, as in Keras; a metric is an average with these weights."""
    losses = [float(masked_loss(TARGETS[i : i + 1], logits[i : i + 1])) for i in (0, 1)]
    loss = MaskedLoss()(TARGETS, logits, sample_weight=np.array([3.0, 1.0]))
    assert float(loss) == pytest.approx((3 * 2 * losses[0] + 3 * losses[1]) / 5, rel=1e-5)
    metric = Perplexity()
    metric.update_state(TARGETS, logits, sample_weight=np.array([3.0, 1.0]))
    mean = (3 * 2 * losses[0] + 3 * losses[1]) / (3 * 2 + 3)
    assert float(metric.result()) == pytest.approx(math.exp(mean), rel=1e-5)


def test_an_attached_mask_of_keras_changes_nothing(logits):
    """Targets say what counts; a second mask would count some of it twice."""
    if not IS_TENSORFLOW:
        pytest.skip("attaches a mask to an eager tensor")
    tensor = keras.ops.convert_to_tensor(logits)
    tensor._keras_mask = np.array([[True, False, True, True]] * 2)
    assert_close(MaskedLoss()(TARGETS, tensor), masked_loss(TARGETS, logits), 1e-6)


def test_losses_and_metrics_are_saved_with_their_settings():
    for thing in (MaskedLoss(3, 0.1), MaskedAccuracy(None), Perplexity(-100)):
        twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(thing))
        assert type(twin) is type(thing) and twin.get_config() == thing.get_config()


@pytest.mark.parametrize("cls", [MaskedLoss, MaskedAccuracy, Perplexity])
def test_a_wrong_pad_id_is_refused(cls):
    for pad_id in (-5, "x", 1.5, True):
        with pytest.raises(ValueError, match="pad_id must be an integer >= 0, -100 or None"):
            cls(pad_id=pad_id)


TWO_REPLICAS = """
import json
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import contextlib
import keras
import numpy as np
import tfgpt

def learn(strategy):
    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(0)
        model = tfgpt.GPT(11, 8, 1, 16, 2, pad_id=0)
        metrics = [tfgpt.MaskedAccuracy(), tfgpt.Perplexity()]
        model.compile(keras.optimizers.SGD(0.5), loss=tfgpt.MaskedLoss(), metrics=metrics)
    ids = np.random.default_rng(0).integers(1, 11, (8, 9))
    ids[5:, 3:] = ids[7, 1:] = 0  # most real tokens are in the first half
    data = ids[:, :-1], ids[:, 1:]
    options = {"batch_size": 8, "verbose": 0}
    history = model.fit(*data, epochs=3, shuffle=False, **options).history
    weights = np.concatenate([np.ravel(weight) for weight in model.get_weights()])
    found = [*history["loss"], *history["perplexity"], *model.evaluate(*data, **options)]
    return [float(x) for x in found], weights

one, two = learn(None), learn(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
print(json.dumps([one[0], two[0], float(abs(one[1] - two[1]).max())]))
"""


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_two_replicas_learn_what_one_device_learns():
    """Same losses, metrics and weights, though one replica has most of the real tokens."""
    folder = Path(__file__).resolve().parents[1]
    process = subprocess.run(
        [sys.executable, "-c", TWO_REPLICAS], capture_output=True, text=True, cwd=folder
    )
    assert process.returncode == 0, process.stderr
    one, two, difference = json.loads(process.stdout.splitlines()[-1])
    np.testing.assert_allclose(two, one, rtol=1e-5)
    assert difference < 1e-6
