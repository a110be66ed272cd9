"""Attention: the formula, the multi-head layer, and their masks."""

import math

import keras
import numpy as np
import pytest
import reference
from layer_check import (
    HALF_POLICIES,
    assert_close,
    assert_identical,
    check_layer,
    compiled,
    gradient,
    randomize,
    to_numpy,
    with_dtype,
)

from tfgpt.attention import (
    MultiHeadAttention,
    attention_scores,
    masked_softmax,
    scaled_dot_product_attention,
)
from tfgpt.masks import causal_mask

B, H, T, S, D = 2, 2, 4, 5, 8


@pytest.fixture
def x(rng):
    """Queries (B, T, D)."""
    return rng.normal(size=(B, T, D)).astype("float32")


@pytest.fixture
def memory(rng):
    """Keys and values (B, S, D)."""
    return rng.normal(size=(B, S, D)).astype("float32")


@pytest.fixture
def mask(rng):
    """Random mask (B, 1, T, S); every query sees at least key 0."""
    mask = rng.random((B, 1, T, S)) < 0.5
    mask[..., 0] = True
    return mask


def built(rng, num_heads=H, **settings):
    """Make a layer with random weights, biases included."""
    layer = MultiHeadAttention(num_heads, D, **settings)
    layer.build((None, None, D))
    return randomize(layer, rng)


# Properties


@pytest.mark.parametrize("masked", [False, True])
def test_each_row_of_weights_sums_to_1(x, memory, mask, masked):
    _, weights = scaled_dot_product_attention(
        x[:, None], memory[:, None], memory[:, None], mask if masked else None
    )
    weights = to_numpy(weights)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-6)
    assert (weights >= 0).all()
    if masked:
        assert (weights[~np.broadcast_to(mask, weights.shape)] == 0).all()


def test_a_fully_masked_row_gives_zero_weights_and_zero_output(x, memory, mask):
    mask[0, 0, 1] = False
    output, weights = to_numpy(
        scaled_dot_product_attention(x[:, None], memory[:, None], memory[:, None], mask)
    )
    assert (weights[0, 0, 1] == 0).all() and (output[0, 0, 1] == 0).all()
    np.testing.assert_allclose(weights[0, 0, [0, 2, 3]].sum(axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize("argument", ["query", "key", "value"])
def test_a_fully_masked_row_has_zero_and_finite_gradient(x, memory, mask, argument):
    mask[:] = False
    inputs = {"query": x[:, None], "key": memory[:, None], "value": memory[:, None]}

    def total(tensor):
        return keras.ops.sum(
            scaled_dot_product_attention(**{**inputs, argument: tensor}, mask=mask)[0] ** 2
        )

    assert_identical(gradient(total, inputs[argument]), np.zeros_like(inputs[argument]))


def test_a_hidden_key_has_no_influence_even_with_huge_values(x, memory, mask):
    mask[..., 2] = False
    changed = memory.copy()
    changed[:, 2] = 1e6
    outputs = [
        scaled_dot_product_attention(x[:, None], keys[:, None], keys[:, None], mask)
        for keys in (memory, changed)
    ]
    assert_identical(*outputs)


def test_the_order_of_the_keys_does_not_matter(x, memory):
    order = np.array([3, 1, 4, 0, 2])
    output, weights = to_numpy(scaled_dot_product_attention(x, memory, memory))
    other, other_weights = to_numpy(
        scaled_dot_product_attention(x, memory[:, order], memory[:, order])
    )
    np.testing.assert_allclose(other, output, atol=1e-5)
    np.testing.assert_allclose(other_weights, weights[..., order], atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_asking_for_weights_does_not_change_the_output(rng, x, training):
    settings = {"dropout": 0.3}
    outputs = []
    for asked in (False, True):
        keras.utils.set_random_seed(3)
        layer = built(np.random.default_rng(0), **settings)
        output = layer(x, return_attention_weights=asked, training=training)
        outputs.append(output[0] if asked else output)
    assert_identical(*outputs)


def test_weights_are_returned_before_dropout(rng, x):
    layer = built(rng, dropout=0.5)
    plain = layer(x, return_attention_weights=True)
    dropped = layer(x, return_attention_weights=True, training=True)
    assert_identical(dropped[1], plain[1])
    assert np.abs(to_numpy(dropped[0]) - to_numpy(plain[0])).max() > 0.01


def test_weights_have_the_shape_batch_heads_queries_keys(rng, x, memory, mask):
    output, weights = built(rng)(x, memory, mask=mask, return_attention_weights=True)
    assert tuple(output.shape) == (B, T, D)
    assert tuple(weights.shape) == (B, H, T, S)
    assert keras.backend.standardize_dtype(weights.dtype) == "float32"


def test_rotary_scores_do_not_change_when_all_positions_move(rng):
    # Three hidden places in front move every token by 3; its outputs stay.
    layer = built(rng, rotary=True)
    x = rng.normal(size=(1, 4, D)).astype("float32")
    moved = np.concatenate([np.zeros((1, 3, D), "float32"), x], axis=1)
    visible = (np.arange(7) >= 3)[None, :]
    assert_close(to_numpy(layer(moved, mask=visible))[:, 3:], layer(x), 1e-5)


def test_rotary_tells_apart_the_order_of_tokens(rng):
    x = rng.normal(size=(1, 3, D)).astype("float32")
    swapped = x[:, [1, 0, 2]]
    for rotary in (False, True):
        layer = built(np.random.default_rng(1), rotary=rotary)
        difference = np.abs(to_numpy(layer(x)) - to_numpy(layer(swapped)))[:, 2].max()
        assert (difference > 0.01) == rotary


# Equality


@pytest.mark.parametrize("masked", [False, True])
def test_the_formula_equals_slow_numpy(x, memory, mask, masked):
    mask[0, 0, 1] = False  # one fully masked row
    actual = to_numpy(
        scaled_dot_product_attention(
            x[:, None], memory[:, None], memory[:, None], mask if masked else None
        )
    )
    for b in range(B):
        expected = reference.attention(x[b], memory[b], memory[b], mask[b, 0] if masked else None)
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_allclose(one[b, 0], other, atol=1e-5)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_the_layer_equals_slow_numpy(rng, x, memory, mask, num_heads):
    layer = built(rng, num_heads)
    actual, actual_weights = to_numpy(layer(x, memory, mask=mask, return_attention_weights=True))
    names = ("query", "key", "value", "output")
    projections = {name: to_numpy(getattr(layer, f"{name}_projection").weights) for name in names}
    for b in range(B):
        output, weights = reference.multi_head_attention(
            x[b], memory[b], projections, num_heads, mask[b, 0]
        )
        np.testing.assert_allclose(actual[b], output, atol=1e-5)
        np.testing.assert_allclose(actual_weights[b], weights, atol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("attention_mask", [None, "causal", "random"])
@pytest.mark.parametrize("cross", [False, True])
def test_the_layer_equals_the_layer_of_keras(rng, x, memory, mask, cross, attention_mask, use_bias):
    layer = built(rng, use_bias=use_bias)
    theirs = keras.layers.MultiHeadAttention(H, D // H, use_bias=use_bias)
    keys = memory if cross else x
    theirs.build(x.shape, keys.shape)
    # Keras keeps the heads apart: (D, D) -> (D, H, K), the output kernel (H, K, D).
    theirs.set_weights(
        [
            array.reshape(weight.shape)
            for array, weight in zip(layer.get_weights(), theirs.weights, strict=True)
        ]
    )
    mask = {
        None: None,
        "causal": to_numpy(causal_mask(T, keys.shape[1]))[:, 0],
        "random": mask[:, 0, :, : keys.shape[1]],
    }[attention_mask]
    expected = theirs(x, keys, attention_mask=mask, return_attention_scores=True)
    actual = layer(
        x,
        memory if cross else None,
        mask=None if mask is None else mask[:, None],
        return_attention_weights=True,
    )
    assert_close(actual, tuple(expected), 1e-5)


def test_value_may_be_another_sequence_than_key(rng, x, memory):
    layer = built(rng)
    values = rng.normal(size=memory.shape).astype("float32")
    theirs = keras.layers.MultiHeadAttention(H, D // H)
    theirs.build(x.shape, values.shape, memory.shape)
    for weight, array in zip(theirs.weights, layer.get_weights(), strict=True):
        weight.assign(array.reshape(weight.shape))
    # Keras's order is query, value, key.
    assert_close(layer(x, memory, values), theirs(x, values, memory), 1e-5)


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_a_mask_broadcasts_over_batch_and_heads(rng, x, rank):
    full = np.broadcast_to(to_numpy(causal_mask(T)), (B, H, T, T))
    small = to_numpy(causal_mask(T)).reshape((1,) * (rank - 2) + (T, T))
    layer = built(rng)
    assert_identical(layer(x, mask=small), layer(x, mask=full))


def test_each_head_may_have_its_own_mask(rng, x):
    per_head = np.stack([np.eye(T, dtype=bool), np.ones((T, T), bool)])[None]
    _, weights = built(rng)(x, mask=per_head, return_attention_weights=True)
    np.testing.assert_allclose(to_numpy(weights)[0, 0], np.eye(T), atol=1e-6)
    assert (to_numpy(weights)[0, 1] > 0).all()


# Hand-computed values


def test_two_scores_give_the_weights_of_a_hand_computed_softmax():
    # Scores 1 and 3 after division by sqrt(4) = 2: query 2 (1, 0, 0, 0), keys 1 and 3.
    # e^1 / (e^1 + e^3) = 1 / (1 + e^2) = 0.1192029; output 0.1192029 x 10 + 0.8807971 x 20.
    query = np.array([[[2.0, 0, 0, 0]]], "float32")
    key = np.array([[[1.0, 0, 0, 0], [3.0, 0, 0, 0]]], "float32")
    value = np.array([[[10.0], [20.0]]], "float32")
    output, weights = to_numpy(scaled_dot_product_attention(query, key, value))
    np.testing.assert_allclose(weights, [[[0.1192029, 0.8807971]]], atol=1e-6)
    np.testing.assert_allclose(output, [[[18.807971]]], atol=1e-5)


def test_scores_of_random_vectors_have_variance_1():
    # A sum of K products of independent N(0, 1) has variance K; / sqrt(K) makes it 1.
    # 200 x 200 scores: within 0.05 for this seed.
    query, key = np.random.default_rng(0).normal(size=(2, 200, 64)).astype("float32")
    assert to_numpy(attention_scores(query, key)).var() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("num_heads", [1, 2, 4, 8])
@pytest.mark.parametrize(("use_bias", "count"), [(True, 4 * D**2 + 4 * D), (False, 4 * D**2)])
def test_the_layer_has_4_d_squared_weights_for_any_number_of_heads(num_heads, use_bias, count):
    layer = MultiHeadAttention(num_heads, D, use_bias=use_bias)
    layer.build((None, None, D))
    assert layer.count_params() == count


def test_the_layer_divides_scores_by_the_root_of_the_head_width(rng, x):
    # Identity projections: the scores of head h are the products of features of that head.
    layer = MultiHeadAttention(4, D, use_bias=False)
    layer.build((None, None, D))
    layer.set_weights([np.eye(D, dtype="float32")] * 4)
    _, weights = to_numpy(layer(x, return_attention_weights=True))
    for head in range(4):
        part = x[0, :, 2 * head : 2 * head + 2]
        scores = part @ part.T / math.sqrt(2)
        expected = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(weights[0, head], expected, atol=1e-5)


# Routine checks and graphs


def test_self_attention_passes_the_routine_checks(x, mask, tmp_path):
    check_layer(MultiHeadAttention(H, D, dropout=0.1), x, tmp_path=tmp_path, mask=mask[..., :T])


def test_rotary_self_attention_passes_the_routine_checks(x, tmp_path):
    check_layer(MultiHeadAttention(H, D, rotary=True), x, tmp_path=tmp_path)


def test_cross_attention_passes_the_routine_checks(x, memory, mask, tmp_path):
    layer = MultiHeadAttention(H, D, use_bias=False)
    check_layer(layer, x, memory, tmp_path=tmp_path, mask=mask)


@pytest.mark.requires_tensorflow
def test_one_trace_with_open_shapes_serves_every_length(rng, x, memory):
    import tensorflow as tf

    layer = built(rng)
    spec = tf.TensorSpec((None, None, D))
    function = tf.function(lambda q, k: layer(q, k), input_signature=[spec, spec])
    for length in (1, 3, T):
        actual = function(x[:, :length], memory)
        assert_close(actual, layer(x[:, :length], memory), 1e-5)
    assert function.experimental_get_tracing_count() == 1


# Half precision


@pytest.mark.parametrize("policy", HALF_POLICIES)
def test_weights_are_float32_and_sum_to_1_in_half_precision(rng, x, mask, policy):
    layer = with_dtype(built(rng), policy)
    output, weights = layer(x, mask=mask[..., :T], return_attention_weights=True)
    assert keras.backend.standardize_dtype(weights.dtype) == "float32"
    assert keras.backend.standardize_dtype(output.dtype) == layer.compute_dtype
    # Rounding to half precision would leave errors of 1e-3.
    np.testing.assert_allclose(to_numpy(weights).sum(axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_large_scores_and_masks_stay_finite(dtype):
    # 4 x 100 x 100 / 2 = 20,000: e^20000 overflows, float16 still holds the score.
    x = keras.ops.cast(np.full((1, 3, 4), 100.0), dtype)
    output, weights = scaled_dot_product_attention(x, x, x, causal_mask(3)[0])
    assert np.isfinite(to_numpy(output)).all()
    np.testing.assert_allclose(to_numpy(weights)[0, 2], 1 / 3, atol=1e-6)
    np.testing.assert_allclose(to_numpy(weights)[0, 0], [1, 0, 0], atol=1e-6)


@pytest.mark.parametrize("policy", HALF_POLICIES)
def test_half_precision_is_close_to_float32(rng, x, policy):
    # bfloat16 keeps 8 bits: outputs of size 3 are off by a few times 3 / 256.
    layer = built(rng)
    assert_close(keras.ops.cast(with_dtype(layer, policy)(x), "float32"), layer(x), 0.1)


# Every setting acts


@pytest.mark.parametrize(
    "change",
    [
        {"num_heads": 4},
        {"use_bias": False},
        {"rotary": True},
        {"kernel_initializer": "ones"},
        {"output_initializer": "ones"},
    ],
)
def test_each_setting_of_the_layer_changes_its_output(x, change):
    def output(num_heads=H, **settings):
        keras.utils.set_random_seed(1)
        layer = MultiHeadAttention(num_heads, D, **settings)
        layer.build(x.shape)
        for weight in layer.weights:  # biases start at zero, where they change nothing
            if weight.path.endswith("bias"):
                weight.assign(np.full(weight.shape, 0.5))
        return to_numpy(layer(x))

    assert np.abs(output() - output(**change)).max() > 0.01


def test_dropout_acts_in_training_only(rng, x):
    plain, dropping = (built(np.random.default_rng(0), dropout=rate) for rate in (0.0, 0.5))
    assert_identical(dropping(x), plain(x))
    assert_identical(dropping(x, training=False), plain(x))
    assert np.abs(to_numpy(dropping(x, training=True)) - to_numpy(plain(x))).max() > 0.01


def test_kernels_of_one_seeded_initializer_differ():
    # One initializer with a seed would otherwise give query and key the same numbers.
    initializer = keras.initializers.RandomNormal(seed=None)
    layer = MultiHeadAttention(H, D, kernel_initializer=initializer)
    layer.build((None, None, D))
    query, key = (to_numpy(p.kernel) for p in (layer.query_projection, layer.key_projection))
    assert np.abs(query - key).max() > 0.01


# Messages


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, "num_heads must divide d_model, got num_heads=3, d_model=8"),
        ({"num_heads": 0}, "num_heads must be an integer >= 1, got 0"),
        ({"d_model": 8.0}, "d_model must be an integer >= 1, got 8.0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
        ({"num_heads": 8, "rotary": True}, "rotary needs an even head_dim, got .* = 1"),
    ],
)
def test_the_layer_names_the_wrong_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**{"num_heads": 2, "d_model": 8, **arguments})


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_a_number_mask_is_refused_and_the_old_convention_named(rng, x, dtype):
    mask = np.ones((T, T), dtype)
    message = rf"mask must be boolean.*dtype {dtype}.*1 = masked"
    with pytest.raises(TypeError, match=message):
        scaled_dot_product_attention(x, x, x, mask)
    with pytest.raises(TypeError, match=message):
        built(rng)(x, mask=mask)


@pytest.mark.parametrize("shape", [(T, T + 1), (3, 1, T, T), (1, B, 1, T, T)])
def test_a_mask_that_does_not_broadcast_is_refused(rng, x, shape):
    with pytest.raises(ValueError, match=r"mask must be broadcastable to \(2, 2, 4, 4\), got"):
        built(rng)(x, mask=np.ones(shape, bool))


def test_a_mask_of_rank_3_is_refused_because_it_may_mean_batch_or_heads(rng, x):
    with pytest.raises(ValueError, match=r"rank 2 \(T, S\) or 4.*write mask\[:, None\]"):
        built(rng)(x, mask=np.ones((B, T, T), bool))


def test_widths_and_lengths_that_do_not_fit_are_refused(x, memory):
    with pytest.raises(ValueError, match="key must have the width of query, 8, got shape"):
        scaled_dot_product_attention(x, memory[..., :4], memory)
    with pytest.raises(ValueError, match="value must have one row per key, 5, got shape"):
        scaled_dot_product_attention(x, memory, memory[:, :3])


def test_rotary_refuses_a_key(rng, x, memory):
    layer = built(rng, rotary=True)
    with pytest.raises(ValueError, match="rotary positions need key=None"):
        layer(x, memory)


@pytest.mark.parametrize("flag", [True, False])
def test_a_flag_passed_positionally_is_refused(rng, x, flag):
    # layer(x, x, x, training) of older code would become mask=training.
    with pytest.raises(ValueError, match=f"mask must be a tensor or None, got {flag}.*keyword"):
        built(rng)(x, x, x, flag)


def test_masked_softmax_without_a_mask_is_softmax(rng):
    scores = rng.normal(size=(3, 4)).astype("float32")
    assert_close(masked_softmax(scores), keras.ops.softmax(scores), 0)


@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_a_fully_masked_row_is_zero_in_a_traced_function(x, mode):
    mask = np.zeros((T, T), bool)
    function = compiled(mode, lambda q: scaled_dot_product_attention(q, q, q, mask))
    output, weights = to_numpy(function(x))
    assert (weights == 0).all() and (output == 0).all()
