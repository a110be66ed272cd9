"""Loss and accuracy over real tokens, perplexity and bits per byte."""

import math

import keras
import numpy as np
import pytest
import reference
from layer_check import IS_TENSORFLOW, assert_close, compiled, gradient, to_numpy

from tfgpt.losses import bits_per_byte, masked_accuracy, masked_loss, perplexity

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
