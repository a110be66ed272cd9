"""Checks that every layer and model must pass, and helpers that several tests use."""

import inspect
import json

import keras
import numpy as np
import pytest
from keras import tree

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"
HALF_POLICIES = ("mixed_bfloat16", "mixed_float16")


def to_numpy(structure):
    """Convert every tensor to NumPy; half precision becomes float32 without rounding."""

    def convert(tensor):
        if "float16" in str(tensor.dtype):
            tensor = keras.ops.cast(tensor, "float32")
        return keras.ops.convert_to_numpy(tensor)

    return tree.map_structure(convert, structure)


def assert_close(actual, expected, tolerance):
    """Raise unless two structures of tensors agree within an absolute tolerance."""
    actual, expected = to_numpy(actual), to_numpy(expected)
    tree.assert_same_structure(actual, expected)
    for one, other in zip(tree.flatten(actual), tree.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


def assert_identical(actual, expected):
    """Raise unless two structures of tensors are equal bit by bit."""
    for one, other in zip(
        tree.flatten(to_numpy(actual)), tree.flatten(to_numpy(expected)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def randomize(layer, rng, scale=0.5):
    """Draw all weights anew: initial zeros and ones would hide mistakes. Return the layer."""
    for weight in layer.weights:
        is_gamma = weight.path.endswith("gamma")
        weight.assign(rng.normal(float(is_gamma), scale, weight.shape))
    return layer


def compiled(mode, function):
    """Return a function as it is, traced by tf.function, or compiled by XLA."""
    if mode == "eager":
        return function
    import tensorflow as tf

    return tf.function(function, jit_compile=mode == "xla")


def gradient(function, x):
    """Return the gradient of a scalar function at x, on TensorFlow and JAX."""
    if IS_TENSORFLOW:
        import tensorflow as tf

        x = tf.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            result = function(x)
        return to_numpy(tape.gradient(result, x))
    import jax

    return to_numpy(jax.grad(function)(x))


def random_state(layer):
    """Return what restores the layer's random numbers: the states of its seed generators."""
    weights = {id(weight) for weight in layer.weights}
    states = [variable for variable in layer.variables if id(variable) not in weights]
    values = [np.array(state) for state in states]

    def restore():
        for state, value in zip(states, values, strict=True):
            state.assign(value)

    return restore


def with_dtype(layer, policy):
    """Return a layer with the same settings and weights under another dtype policy."""
    twin = type(layer).from_config({**layer.get_config(), "dtype": policy})
    if not twin.built:
        twin.build_from_config(layer.get_build_config())
    twin.set_weights(layer.get_weights())
    return twin


DROPOUT_CASES = {
    "no_dropout": (0.0, False),
    "dropout_at_inference": (0.1, False),
    "dropout_in_training": (0.1, True),
}


def leak_cases(test):
    """Run a leak test for every mode, dtype policy and use of dropout.

    XLA takes seconds to compile, a trace in half precision one: these cases are slow tests.
    """
    cases = []
    for mode in ("eager", "graph", "xla"):
        for policy in ("float32", "mixed_bfloat16"):
            for name, (dropout, training) in DROPOUT_CASES.items():
                marks = [] if mode == "eager" else [pytest.mark.requires_tensorflow]
                if mode == "xla" or (mode == "graph" and policy != "float32"):
                    marks.append(pytest.mark.slow)
                case = (mode, policy, dropout, training)
                cases.append(pytest.param(*case, marks=marks, id=f"{mode}-{policy}-{name}"))
    return pytest.mark.parametrize(("mode", "policy", "dropout", "training"), cases)(test)


def check_no_leak(layer, call, x, change, mode):
    """Raise unless output and weights at a position ignore all later positions, bit by bit.

    Also checks that the position itself is seen, and that asking for the attention
    weights leaves the output as it is. With and without weights are two functions,
    so that each is traced and compiled by itself.

    Args:
        layer: built layer; dropout draws the same numbers in every call.
        call: function (x, return_attention_weights) -> output or (output, weights),
            weights a dict; those named "...self" must be causal.
        x: array (B, T, ...).
        change: function of an array, returns another one that differs everywhere.
        mode: "eager", "graph" or "xla".
    """
    restore = random_state(layer)
    outputs = []
    for asked in (False, True):
        function = compiled(mode, lambda x, asked=asked: call(x, asked))

        def run(x, function=function, asked=asked):
            restore()
            result = function(x)
            return to_numpy(result if asked else (result, {}))

        output, weights = run(x)
        outputs.append(output)
        assert not asked or weights
        for j in {1, x.shape[1] - 1}:
            changed = x.copy()
            changed[:, j] = change(x[:, j])
            changed_output, changed_weights = run(changed)
            np.testing.assert_array_equal(changed_output[:, :j], output[:, :j])
            assert (changed_output[:, j] != output[:, j]).any()
            for name in weights:
                if name.endswith("self"):
                    np.testing.assert_array_equal(
                        changed_weights[name][:, :, :j], weights[name][:, :, :j]
                    )
    np.testing.assert_array_equal(*outputs)


def all_layers(layer):
    """List the layer and everything inside it."""
    return list(layer._flatten_layers())


def symbolic(array, batch=None):
    """Describe an array for the functional API, with an open batch size."""
    return keras.Input(batch_shape=(batch, *array.shape[1:]), dtype=str(array.dtype))


def check_layer(layer, *inputs, tmp_path, tolerance=1e-5, **kwargs):
    """Run the routine checks of a layer or model on NumPy inputs.

    Args:
        layer: layer that was not called before.
        *inputs: NumPy arrays, or a dict of arrays.
        tmp_path: folder to save in.
        tolerance: float, allowed absolute difference between two ways to the same
            float32 result.
        **kwargs: NumPy arrays for keyword arguments, such as masks.
    """
    output = layer(*inputs, **kwargs)
    check_built(layer, inputs)
    check_config(layer, inputs, kwargs, output, tolerance)
    check_functional(layer, inputs, kwargs, output, tmp_path, tolerance)
    check_half_precision(layer, inputs, kwargs)
    if IS_TENSORFLOW:
        for mode in ("graph", "xla"):
            actual = compiled(mode, lambda *x: layer(*x, **kwargs))(*inputs)
            assert_close(actual, output, tolerance)


def check_built(layer, inputs):
    """Everything inside is built, and `build` alone makes all the weights of a call."""
    unbuilt = [inner.name for inner in all_layers(layer) if not inner.built]
    assert not unbuilt, f"not built after a call: {unbuilt}"
    twin = type(layer).from_config(layer.get_config())
    if not twin.built:
        twin.build(*(array.shape for array in inputs))
    made = [(weight.path, weight.shape) for weight in twin.weights]
    twin(*inputs)
    assert made == [(weight.path, weight.shape) for weight in twin.weights]


def check_config(layer, inputs, kwargs, output, tolerance):
    """Every argument is in the config, is JSON, and makes the same layer again."""
    config = layer.get_config()
    json.dumps(keras.saving.serialize_keras_object(layer))
    arguments = {
        name
        for cls in type(layer).__mro__
        if cls.__module__.startswith("tfgpt")
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    } - {"self"}
    assert arguments <= config.keys(), f"missing in get_config: {arguments - config.keys()}"
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert twin.get_config() == config
    twin(*inputs, **kwargs)
    twin.set_weights(layer.get_weights())
    assert_close(twin(*inputs, **kwargs), output, tolerance)


def check_functional(layer, inputs, kwargs, output, tmp_path, tolerance):
    """The functional API sees the real shapes and dtypes; save and load keep the model."""
    arguments, keywords = tree.map_structure(symbolic, (list(inputs), kwargs))
    described = layer(*arguments, **keywords)
    assert_described(described, output)
    if "return_attention_weights" in inspect.signature(layer.call).parameters:
        asked = {"return_attention_weights": True}
        with_weights = layer(*inputs, **kwargs, **asked)
        assert_described(layer(*arguments, **keywords, **asked), with_weights)
    model = keras.Model((arguments, keywords), described)
    assert_close(model((list(inputs), kwargs)), output, tolerance)
    path = tmp_path / f"{layer.name}.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert_identical(loaded.get_weights(), model.get_weights())
    assert_close(loaded((list(inputs), kwargs)), output, tolerance)


def assert_described(described, output):
    """Raise unless symbolic tensors have the structure, shapes and dtypes of real ones."""
    tree.assert_same_structure(described, output)
    for symbol, tensor in zip(tree.flatten(described), tree.flatten(output), strict=True):
        assert tuple(symbol.shape) == (None, *tensor.shape[1:])
        assert keras.backend.standardize_dtype(tensor.dtype) == symbol.dtype


def check_half_precision(layer, inputs, kwargs):
    """Under mixed policies outputs are finite and weights stay float32."""
    for policy in HALF_POLICIES:
        twin = with_dtype(layer, policy)
        output = to_numpy(twin(*inputs, **kwargs))
        assert all(np.isfinite(array).all() for array in tree.flatten(output))
        assert {weight.dtype for weight in twin.weights} <= {"float32"}
        assert {inner.compute_dtype for inner in all_layers(twin)} == {policy.split("_")[1]}
