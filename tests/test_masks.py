"""Masks: boolean, True = may attend, broadcastable to (B, H, T, S)."""

import keras
import numpy as np
import pytest
from layer_check import compiled, to_numpy

from tfgpt.masks import (
    causal_mask,
    check_broadcastable,
    check_mask,
    combine_masks,
    create_masks,
    padding_mask,
)
from tfgpt.validation import check_choice, check_positive, check_rate, check_token_ids


def as_lists(mask):
    return to_numpy(mask).tolist()


# Values


def test_padding_mask_is_true_exactly_where_the_id_is_not_the_padding_id():
    ids = np.array([[7, 6, 0], [0, 0, 0]])
    assert as_lists(padding_mask(ids)) == [[[[True, True, False]]], [[[False, False, False]]]]
    assert as_lists(padding_mask(ids, pad_id=7))[0] == [[[False, True, True]]]


def test_causal_mask_lets_query_i_see_keys_up_to_i():
    mask = to_numpy(causal_mask(4))
    assert mask.shape == (1, 1, 4, 4)
    for i in range(4):
        for j in range(4):
            assert mask[0, 0, i, j] == (j <= i)


def test_causal_mask_with_an_offset_lets_query_i_see_the_earlier_keys_too():
    # 2 new queries after 3 kept keys: query 0 sits at place 3, query 1 at place 4.
    expected = [[True, True, True, True, False], [True, True, True, True, True]]
    assert as_lists(causal_mask(2, 5, offset=3))[0][0] == expected


def test_causal_mask_with_an_offset_is_the_bottom_of_the_whole_causal_mask():
    whole = to_numpy(causal_mask(6))
    for length in range(1, 7):
        part = to_numpy(causal_mask(length, 6, offset=6 - length))
        np.testing.assert_array_equal(part, whole[:, :, 6 - length :])


def test_causal_mask_of_length_zero_is_empty():
    assert to_numpy(causal_mask(0)).shape == (1, 1, 0, 0)


def test_combined_masks_allow_what_every_mask_allows():
    ids = np.array([[7, 0, 9], [1, 2, 0]])
    combined = to_numpy(combine_masks(padding_mask(ids), None, causal_mask(3)))
    assert combined.shape == (2, 1, 3, 3)
    for b in range(2):
        for i in range(3):
            for j in range(3):
                assert combined[b, 0, i, j] == (ids[b, j] != 0 and j <= i)


def test_combining_no_masks_gives_none():
    assert combine_masks() is None
    assert combine_masks(None, None) is None


def test_create_masks_hides_source_padding_target_padding_and_the_future():
    source, target = np.array([[5, 6, 0, 0]]), np.array([[1, 2, 0]])
    encoder_mask, decoder_mask, cross_mask = create_masks(source, target)
    assert as_lists(encoder_mask) == [[[[True, True, False, False]]]]
    assert as_lists(cross_mask) == as_lists(encoder_mask)
    expected = [[True, False, False], [True, True, False], [True, True, False]]
    assert as_lists(decoder_mask) == [[expected]]


def test_create_masks_uses_its_padding_id():
    encoder_mask, decoder_mask, cross_mask = create_masks(
        np.array([[9, 0]]), np.array([[0, 9]]), pad_id=9
    )
    assert as_lists(encoder_mask) == as_lists(cross_mask) == [[[[False, True]]]]
    assert as_lists(decoder_mask) == [[[[True, False], [True, False]]]]


def test_every_mask_is_boolean_and_of_rank_4():
    ids = np.array([[1, 0]])
    for mask in (padding_mask(ids), causal_mask(2), *create_masks(ids, ids)):
        assert keras.backend.standardize_dtype(mask.dtype) == "bool"
        assert len(mask.shape) == 4


# Graphs


@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_masks_of_a_traced_function_equal_eager_masks(mode):
    source, target = np.array([[5, 6, 0, 0]]), np.array([[1, 2, 0]])
    actual = compiled(mode, create_masks)(source, target)
    for one, other in zip(actual, create_masks(source, target), strict=True):
        assert as_lists(one) == as_lists(other)


@pytest.mark.requires_tensorflow
def test_causal_mask_takes_lengths_that_are_known_only_at_run_time():
    import tensorflow as tf

    function = tf.function(lambda length, offset: causal_mask(length, length + offset, offset))
    actual = function(tf.constant(2), tf.constant(3))
    assert as_lists(actual) == as_lists(causal_mask(2, 5, offset=3))
    function(tf.constant(4), tf.constant(1))
    assert function.experimental_get_tracing_count() == 1


@pytest.mark.requires_tensorflow
def test_one_trace_with_open_shapes_serves_every_batch():
    import tensorflow as tf

    ids = tf.TensorSpec((None, None), tf.int32)
    function = tf.function(create_masks, input_signature=[ids, ids])
    for length in (1, 3):
        source = np.ones((2, length + 1), "int32")
        target = np.ones((2, length), "int32")
        assert tuple(function(source, target)[1].shape) == (2, 1, length, length)
    assert function.experimental_get_tracing_count() == 1


# Messages


@pytest.mark.parametrize("mask", [np.ones((2, 2), "float32"), np.ones((2, 2), "int32")])
def test_a_number_mask_is_refused_and_the_old_convention_named(mask):
    with pytest.raises(TypeError, match=rf"mask must be boolean.*dtype {mask.dtype}.*1 = masked"):
        check_mask(mask)
    with pytest.raises(TypeError, match=r"masks\[1\] must be boolean.*1 = masked"):
        combine_masks(None, mask)


@pytest.mark.parametrize("ids", [np.array([1, 2]), np.ones((1, 2, 3), "int32")])
def test_ids_of_another_rank_are_refused(ids):
    with pytest.raises(ValueError, match=r"token_ids must have shape \(B, S\), got \("):
        padding_mask(ids)


def test_a_negative_length_is_refused():
    with pytest.raises(ValueError, match="query_length must be >= 0, got -1"):
        causal_mask(-1, 2)
    with pytest.raises(ValueError, match="key_length must be >= 0, got -2"):
        causal_mask(2, -2)


def test_masks_that_do_not_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"masks\[1\] must be broadcastable.*\(1, 1, 4, 4\)"):
        combine_masks(causal_mask(3), causal_mask(4))


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((2, 3, 4, 5), True),
        ((1, 1, 1, 5), True),
        ((4, 5), True),
        ((), True),
        ((None, 1, None, 5), True),
        ((2, 3, 4, 4), False),
        ((2, 1, 1, 1, 5), False),
    ],
)
def test_check_broadcastable_accepts_exactly_what_broadcasts(shape, fits):
    if fits:
        check_broadcastable("mask", shape, (2, 3, 4, 5))
    else:
        with pytest.raises(ValueError, match=r"mask must be broadcastable to \(2, 3, 4, 5\), got"):
            check_broadcastable("mask", shape, (2, 3, 4, 5))


# Argument checks that every module uses


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", None])
def test_check_positive_refuses_what_is_no_integer_from_1(value):
    with pytest.raises(ValueError, match=f"size must be an integer >= 1, got {value!r}"):
        check_positive("size", value)


@pytest.mark.parametrize("value", [1, np.int64(3)])
def test_check_positive_accepts_integers_from_1(value):
    check_positive("size", value)


@pytest.mark.parametrize("value", [1.0, 1, -0.1, float("nan"), True, "0.1", None])
def test_check_rate_refuses_what_is_outside_0_to_1(value):
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\), got"):
        check_rate("rate", value)


@pytest.mark.parametrize("value", [0, 0.0, 0.999, np.float32(0.5)])
def test_check_rate_accepts_numbers_from_0_to_below_1(value):
    check_rate("rate", value)


def test_check_choice_names_the_choices():
    with pytest.raises(ValueError, match="layout must be one of 'a', None, got 'b'"):
        check_choice("layout", "b", ("a", None))


@pytest.mark.parametrize("bad_id", [5, -1, 10**6])
def test_check_token_ids_names_the_id_that_is_outside(bad_id):
    with pytest.raises(ValueError, match=rf"ids must be in .*\[0, 5\), got {bad_id}"):
        check_token_ids("ids", np.array([[0, bad_id, 4]]), 5)


@pytest.mark.parametrize("ids", [np.array([1.0]), [0.5], np.array([True])])
def test_check_token_ids_refuses_other_dtypes(ids):
    with pytest.raises(TypeError, match="ids must be integers, got dtype"):
        check_token_ids("ids", ids, 5)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_check_token_ids_accepts_every_integer_type_and_no_ids(dtype):
    check_token_ids("ids", np.array([0, 4], dtype), 5)
    check_token_ids("ids", keras.ops.convert_to_tensor(np.array([0, 4], dtype)), 5)
    check_token_ids("ids", np.zeros((2, 0), dtype), 5)
