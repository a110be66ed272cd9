"""Tests of tfgpt.fused: the compiled parts equal the plain functions, value and gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tfgpt import GPT, Transformer, attention, causal_mask, fused, layers, losses, parts
from tfgpt.attention import masked_softmax
from tfgpt.layers import FeedForward, LayerNorm, activate, gelu_tanh
from tfgpt.losses import masked_loss
from tfgpt.parts import replaced
from tfgpt.training import make_train_step, train

TOLERANCES = {"float32": 2e-5, "bfloat16": 3e-2}


def random(*shape, seed=0, dtype="float32"):
    values = np.random.default_rng(seed).normal(size=shape).astype("float32")
    return tf.cast(tf.constant(values), dtype)


def value_and_gradients(function, inputs, fusing):
    """Trace `function`, weigh its outputs with random numbers, differentiate."""

    @tf.function
    def run(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = function(*inputs)
            total = tf.reduce_sum(tf.cast(output, tf.float32) * random(*output.shape, seed=9))
        return output, *tape.gradient(total, inputs)

    if not fusing:
        return run(*inputs)
    with replaced(fused.REPLACEMENTS):
        return run(*inputs)


def assert_same(function, *inputs):
    """Compare the fused with the plain function, relative to the size of each result."""
    tolerance = TOLERANCES[inputs[0].dtype.name]
    plain = value_and_gradients(function, inputs, fusing=False)
    parts = value_and_gradients(function, inputs, fusing=True)
    for expected, received in zip(plain, parts, strict=True):
        assert inputs[0].dtype != tf.float32 or received.dtype == tf.float32
        expected, received = (np.asarray(tf.cast(x, tf.float32)) for x in (expected, received))
        np.testing.assert_allclose(received, expected, atol=tolerance * (1 + abs(expected).max()))
        assert abs(expected).max() > 1e-3  # there is something to compare


every_dtype = pytest.mark.parametrize("dtype", TOLERANCES)


@every_dtype
def test_layer_norm(dtype):
    layer = LayerNorm(epsilon=1e-5, dtype="float32" if dtype == "float32" else "mixed_bfloat16")
    layer.build((None, None, 24))
    layer.gamma.assign(random(24, seed=1))
    layer.beta.assign(random(24, seed=2))
    assert_same(layer, random(3, 5, 24, dtype=dtype) * 3 + 1)


def test_layer_norm_gives_scale_and_offset_their_gradients():
    x, upstream = random(3, 5, 24), random(3, 5, 24, seed=3)
    layer = LayerNorm()
    layer.build((None, None, 24))

    def gradients():
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(x) * upstream)
        return tape.gradient(total, [layer.gamma.value, layer.beta.value])

    plain = gradients()
    with replaced(fused.REPLACEMENTS):
        parts = gradients()
    for expected, received in zip(plain, parts, strict=True):
        np.testing.assert_allclose(received, expected, atol=1e-4)


@every_dtype
@pytest.mark.parametrize("mask", ["none", "causal", "a row without keys"])
def test_masked_softmax(dtype, mask):
    allowed = {
        "none": None,
        "causal": causal_mask(6),
        "a row without keys": ops.convert_to_tensor(np.tri(6, k=-1, dtype=bool)[None, None]),
    }[mask]
    assert_same(lambda scores: masked_softmax(scores, allowed), random(2, 3, 6, 6, dtype=dtype) * 4)


def test_the_softmax_of_huge_scores_is_finite():
    with replaced(fused.REPLACEMENTS):
        weights = masked_softmax(tf.constant([[[[3e38, -3e38, 0.0]]]]))
    np.testing.assert_array_equal(weights, [[[[1, 0, 0]]]])


def lopsided(x):
    """An activation that mixes the features of a position."""
    return x * ops.flip(x, axis=-1)


ACTIVATIONS = [gelu_tanh, "relu", "gelu", "silu", "linear", "softmax", "log_softmax", lopsided]


@every_dtype
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(dtype, activation):
    layer = FeedForward(8, 16, activation=activation)
    assert_same(lambda x: activate(layer.activation, x), random(2, 5, 16, dtype=dtype) * 2)


def test_every_activation_in_the_table_is_element_wise():
    x = random(1, 1, 4) * 2
    for activation in fused.ELEMENT_WISE:
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = activation(x)
        jacobian = tape.jacobian(output, x)[0, 0, :, 0, 0]
        np.testing.assert_array_equal(jacobian, np.diag(np.diag(jacobian)))


@pytest.mark.parametrize(
    "options",
    [
        {"axis": 1},
        {"axis": [1, 2]},
        {"axis": 2},
        {"center": False},
        {"scale": False},
        {"center": False, "scale": False},
        {"epsilon": 0.1},
    ],
)
def test_layer_norm_of_every_configuration_is_that_of_keras(options):
    x = random(3, 5, 24) * 3 + 1
    layer, keras_layer = LayerNorm(**options), keras.layers.LayerNormalization(**options)
    for each in (layer, keras_layer):
        each.build(x.shape)
        each.set_weights([random(*w.shape, seed=7) for w in each.weights])
    np.testing.assert_allclose(layer(x), keras_layer(x), atol=2e-5)
    assert_same(layer, x)


@pytest.mark.slow
def test_an_activation_with_weights_learns_them_in_parts():
    def learned(jit_compile):
        keras.utils.set_random_seed(0)
        model = GPT(17, 8, 1, 16, 2, activation=keras.layers.PReLU())
        step = make_train_step(model, keras.optimizers.SGD(0.5), jit_compile=jit_compile)
        step(make_batch(model))
        return [weight.numpy() for weight in model.trainable_variables]

    for expected, received in zip(learned(False), learned("parts"), strict=True):
        np.testing.assert_allclose(received, expected, atol=1e-5)


@every_dtype
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("pad_id", [0, None])
def test_cross_entropy(dtype, label_smoothing, pad_id):
    targets = tf.constant(np.random.default_rng(5).integers(0, 9, (2, 7)))
    assert_same(
        lambda logits: tf.reshape(masked_loss(targets, logits, pad_id, label_smoothing), (1,)),
        random(2, 7, 9, dtype=dtype) * 3,
    )


def gpt():
    keras.utils.set_random_seed(0)
    return GPT(17, context_length=8, num_layers=1, d_model=16, num_heads=2, pad_id=0)


def transformer():
    keras.utils.set_random_seed(0)
    return Transformer(1, 16, 2, 32, 17, 17, max_length=8, dropout=0.0)


def make_batch(model):
    """A random batch; the first two rows end with padding."""
    token_ids = np.random.default_rng(1).integers(1, 17, (4, 9))
    token_ids[:2, 6:] = 0
    inputs, targets = token_ids[:, :-1], token_ids[:, 1:]
    if isinstance(model, Transformer):
        inputs = {"source": token_ids[::-1, :-1], "target": inputs}
    return inputs, targets


def learn(make_model, jit_compile, precision=None, **options):
    """Train 20 steps; return the losses and the weights."""
    model = make_model()
    optimizer = keras.optimizers.AdamW(0.01)
    step = make_train_step(
        model, optimizer, jit_compile=jit_compile, mixed_precision=precision, **options
    )
    losses = [float(step(make_batch(model))["loss"]) for _ in range(20)]
    return losses, [weight.numpy() for weight in model.trainable_variables]


@pytest.mark.slow
@pytest.mark.parametrize("make_model", [gpt, pytest.param(transformer, marks=pytest.mark.slow)])
def test_a_training_in_parts_learns_what_the_plain_one_learns(make_model):
    plain, plain_weights = learn(make_model, False, label_smoothing=0.1)
    parts, part_weights = learn(make_model, "parts", label_smoothing=0.1)
    np.testing.assert_allclose(parts, plain, rtol=1e-4)
    assert parts[-1] < parts[0] - 0.5
    for expected, received in zip(plain_weights, part_weights, strict=True):
        np.testing.assert_allclose(received, expected, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_a_training_in_parts_in_half_precision_follows_float32(precision):
    full, _ = learn(gpt, False)
    half, weights = learn(gpt, "parts", precision)
    np.testing.assert_allclose(half, full, rtol=0.02)
    assert {weight.dtype for weight in weights} == {np.dtype("float32")}


def test_a_formula_is_exchanged_inside_the_block_only():
    def always_7(scores, mask):
        return scores * 0 + 7

    scores = random(1, 1, 2, 2)
    plain = masked_softmax(scores)
    with replaced({"softmax": always_7}):
        np.testing.assert_array_equal(masked_softmax(scores), np.full((1, 1, 2, 2), 7))
        np.testing.assert_array_equal(ops.softmax(scores), plain)
    model = gpt()
    make_train_step(model, "sgd", jit_compile="parts")(make_batch(model))
    np.testing.assert_array_equal(masked_softmax(scores), plain)


def test_every_replacement_has_a_formula_of_its_name():
    formulas = {layers.layer_norm, layers.activate, attention.softmax, losses.token_losses}
    names = {formula.__name__ for formula in formulas | {parts.to_float32}}
    assert set(fused.REPLACEMENTS) == names


@pytest.mark.slow
def test_a_compiled_training_that_is_resumed_ends_with_the_same_weights(tmp_path):
    """2 + 2 steps equal 4, bit for bit."""

    def run(steps, folder):
        model = gpt()
        options = {"run_dir": tmp_path / folder, "resume": True, "progress": False}
        train(model, [make_batch(model)], steps, keras.optimizers.Adam(0.01), **options)
        return model.get_weights()

    whole = run(4, "whole")
    run(2, "parts")
    for expected, received in zip(whole, run(4, "parts"), strict=True):
        np.testing.assert_array_equal(received, expected)
