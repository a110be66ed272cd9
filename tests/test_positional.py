"""Positions: sinusoidal tables, learned tables, rotary turns, and the embedding layer."""

import math

import keras
import numpy as np
import pytest
import reference
from layer_check import (
    HALF_POLICIES,
    assert_close,
    check_layer,
    randomize,
    to_numpy,
    with_dtype,
)

from tfgpt.positional import PositionalEmbedding, apply_rotary, get_angles, positional_encoding

IDS = np.array([[1, 2, 3, 4], [5, 6, 0, 0]], dtype="int32")


# Sinusoidal


@pytest.mark.parametrize("d_model", [1, 2, 7, 8])
def test_positional_encoding_equals_slow_numpy(d_model):
    actual = positional_encoding(50, d_model)
    assert actual.shape == (1, 50, d_model)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual[0], reference.positional_encoding(50, d_model), atol=1e-6)


def test_position_1_of_width_4_has_the_values_of_the_paper():
    # Rates 10000^(-0/4) = 1 and 10000^(-2/4) = 0.01: sin 1, cos 1, sin 0.01, cos 0.01.
    expected = [math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)]
    np.testing.assert_allclose(positional_encoding(2, 4)[0, 1], expected, atol=1e-7)


def test_position_0_is_sine_0_and_cosine_1():
    np.testing.assert_array_equal(positional_encoding(1, 6)[0, 0], [0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize("d_model", [7, 8])
def test_the_concat_layout_holds_the_same_numbers_in_another_order(d_model):
    interleaved = positional_encoding(5, d_model)
    concat = positional_encoding(5, d_model, layout="concat")
    expected = np.concatenate([interleaved[..., 0::2], interleaved[..., 1::2]], axis=-1)
    np.testing.assert_array_equal(concat, expected)
    assert not np.array_equal(concat, interleaved)


def test_positions_a_fixed_distance_apart_have_the_same_dot_product():
    table = positional_encoding(40, 8)[0].astype("float64")
    products = [table[i] @ table[i + 5] for i in range(35)]
    np.testing.assert_allclose(products, products[0], atol=1e-5)


def test_no_two_positions_are_equal():
    table = positional_encoding(200, 8)[0]
    assert len(np.unique(table.round(4), axis=0)) == 200


def test_angles_of_a_pair_of_features_are_equal():
    angles = get_angles(3, np.arange(6), 6)
    np.testing.assert_array_equal(angles[0::2], angles[1::2])
    # Second pair: 3 / 10000^(2/6) = 3 / 21.544 = 0.13925.
    assert angles[2] == pytest.approx(0.139248, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4), "length must be an integer >= 1, got 0"),
        ((4, 0), "d_model must be an integer >= 1, got 0"),
        ((4, 2.0), "d_model must be an integer >= 1, got 2.0"),
        ((4, 4, "sin"), "layout must be one of 'interleaved', 'concat', got 'sin'"),
    ],
)
def test_positional_encoding_names_the_wrong_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        positional_encoding(*arguments)


# Rotary


@pytest.mark.parametrize("head_dim", [2, 6])
def test_rotary_equals_slow_numpy(rng, head_dim):
    x = rng.normal(size=(2, 3, 9, head_dim)).astype("float32")
    actual = to_numpy(apply_rotary(x))
    for b in range(2):
        for h in range(3):
            np.testing.assert_allclose(actual[b, h], reference.rotary(x[b, h]), atol=1e-5)


def test_rotary_leaves_position_0_and_every_length_as_they_are(rng):
    x = rng.normal(size=(1, 2, 9, 6)).astype("float32")
    turned = to_numpy(apply_rotary(x))
    np.testing.assert_array_equal(turned[:, :, 0], x[:, :, 0])
    np.testing.assert_allclose(
        np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), atol=1e-5
    )


def test_rotary_products_of_one_query_and_key_depend_on_the_offset_only(rng):
    query, key = rng.normal(size=(2, 6)).astype("float32")
    everywhere = np.broadcast_to(query, (1, 1, 12, 6)), np.broadcast_to(key, (1, 1, 12, 6))
    turned_query, turned_key = (to_numpy(apply_rotary(x))[0, 0] for x in everywhere)
    products = turned_query @ turned_key.T
    for distance in range(-11, 12):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)


def test_rotary_takes_positions_per_batch_or_per_sequence(rng):
    x = rng.normal(size=(2, 1, 3, 4)).astype("float32")
    assert_close(apply_rotary(x, np.arange(3)), apply_rotary(x), 0)
    shifted = to_numpy(apply_rotary(x, np.array([[0, 1, 2], [5, 6, 7]])))
    assert_close(shifted[0], to_numpy(apply_rotary(x))[0], 1e-6)
    assert_close(shifted[1], to_numpy(apply_rotary(x, np.array([5, 6, 7])))[1], 1e-6)
    assert np.abs(shifted[1] - to_numpy(apply_rotary(x))[1]).max() > 0.1


def test_rotary_angles_are_float32_for_half_precision_inputs():
    # Beyond 256 bfloat16 has no odd integers: its angle of 2001 would be that of 2000,
    # one radian away. The values themselves keep about 3 digits.
    x = keras.ops.cast(np.ones((1, 1, 2002, 2), "float32"), "bfloat16")
    turned = to_numpy(apply_rotary(x))[0, 0]
    expected = [math.cos(2001) - math.sin(2001), math.cos(2001) + math.sin(2001)]
    np.testing.assert_allclose(turned[2001], expected, atol=0.02)


def test_rotary_refuses_an_odd_width():
    with pytest.raises(ValueError, match="x must have an even last size, got 3"):
        apply_rotary(np.ones((1, 1, 2, 3), "float32"))


# The layer


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", None])
def test_positional_embedding_passes_the_routine_checks(positions, tmp_path):
    layer = PositionalEmbedding(7, 6, max_length=5, positions=positions, dropout=0.1)
    check_layer(layer, IDS, tmp_path=tmp_path)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned", None])
def test_positional_embedding_adds_the_position_to_the_embedding(positions, scale, rng):
    layer = PositionalEmbedding(7, 6, max_length=5, positions=positions, scale=scale)
    layer.build((None, None))
    randomize(layer, rng)
    expected = np.array(layer.embeddings)[IDS] * (math.sqrt(6) if scale else 1)
    if positions == "sinusoidal":
        expected = expected + reference.positional_encoding(4, 6)
    elif positions == "learned":
        expected = expected + np.array(layer.position_table)[:4]
    assert_close(layer(IDS), expected.astype("float32"), 1e-5)


def test_initial_embeddings_have_the_size_of_the_positions():
    # Standard deviation 1 / sqrt(D) times sqrt(D) is 1; the table has 20,000 numbers, so
    # the estimate is within 0.03 of it (six standard errors of 1 / sqrt(2 x 20,000)).
    layer = PositionalEmbedding(500, 40, max_length=4, positions=None)
    output = to_numpy(layer(np.arange(500)[:, None]))
    assert output.std() == pytest.approx(1, abs=0.03)


def test_the_position_table_has_max_length_rows_whatever_the_vocabulary():
    layer = PositionalEmbedding(3, 4, max_length=50, positions="learned")
    layer.build((None, None))
    assert layer.position_table.shape == (50, 4)
    assert layer.embeddings.shape == (3, 4)
    assert layer(np.zeros((1, 50), "int32")).shape == (1, 50, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"positions": "learned"},
        {"positions": None},
        {"layout": "concat"},
        {"scale": False},
        {"embeddings_initializer": "ones"},
    ],
)
def test_each_setting_of_the_embedding_changes_its_output(change):
    def output(**settings):
        keras.utils.set_random_seed(1)
        return to_numpy(PositionalEmbedding(7, 6, max_length=5, **settings)(IDS))

    assert np.abs(output() - output(**change)).max() > 0.01


def test_dropout_of_the_embedding_acts_in_training_only():
    layer = PositionalEmbedding(7, 6, max_length=5, dropout=0.5)
    plain = to_numpy(layer(IDS))
    np.testing.assert_array_equal(to_numpy(layer(IDS, training=False)), plain)
    dropped = to_numpy(layer(IDS, training=True))
    assert 0.2 < (dropped == 0).mean() < 0.8


@pytest.mark.parametrize("policy", HALF_POLICIES)
def test_the_sum_of_embedding_and_position_is_float32(policy, rng):
    layer = PositionalEmbedding(7, 6, max_length=5)
    layer.build((None, None))
    twin = with_dtype(randomize(layer, rng), policy)
    expected = keras.ops.cast(layer(IDS), twin.compute_dtype)  # rounded once, at the end
    assert_close(twin(IDS), expected, 0)


@pytest.mark.parametrize("bad_id", [7, -1])
def test_an_id_outside_the_vocabulary_is_refused(bad_id):
    layer = PositionalEmbedding(7, 6, max_length=5)
    with pytest.raises(ValueError, match=rf"token_ids must be in .*\[0, 7\), got {bad_id}"):
        layer(np.array([[1, bad_id]]))


def test_float_ids_are_refused():
    layer = PositionalEmbedding(7, 6, max_length=5)
    with pytest.raises(TypeError, match="token_ids must be integers, got dtype float32"):
        layer(np.array([[1.0, 2.0]], "float32"))


def test_a_sequence_longer_than_the_table_is_refused():
    layer = PositionalEmbedding(7, 6, max_length=3)
    with pytest.raises(ValueError, match="at most max_length=3 positions, got 4"):
        layer(IDS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be an integer >= 1, got 0"),
        ({"d_model": -4}, "d_model must be an integer >= 1, got -4"),
        ({"max_length": 2.5}, "max_length must be an integer >= 1, got 2.5"),
        ({"positions": "rotary"}, "positions must be one of 'sinusoidal', 'learned', None"),
        ({"layout": "x"}, "layout must be one of 'interleaved', 'concat', got 'x'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_the_embedding_names_the_wrong_argument(change, message):
    settings = {"vocab_size": 7, "d_model": 6, "max_length": 5}
    with pytest.raises(ValueError, match=message):
        PositionalEmbedding(**{**settings, **change})
