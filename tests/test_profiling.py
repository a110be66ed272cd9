"""Costs read from graphs and profiles, against numbers counted by hand."""

import numpy as np
import pytest
import tensorflow as tf

from tfgpt.gpt import GPT
from tfgpt.losses import masked_loss
from tfgpt.profiling import count_flops, count_kept_bytes, profile_operations

SIZES = {"vocab_size": 11, "context_length": 8, "num_layers": 2, "d_model": 8, "num_heads": 2}
IDS = np.arange(16).reshape(2, 8) % 10 + 1


@pytest.mark.parametrize("options", [{}, {"transpose_a": True}, {"transpose_b": True}])
def test_a_product_takes_two_operations_per_inner_number(options):
    first = (3, 2) if "transpose_a" in options else (2, 3)
    second = (5, 3) if "transpose_b" in options else (3, 5)
    function = tf.function(lambda: tf.matmul(tf.ones(first), tf.ones(second), **options))
    assert count_flops(function) == 2 * 2 * 3 * 5


def test_a_batch_of_products_counts_each():
    function = tf.function(lambda: tf.matmul(tf.ones((7, 2, 3)), tf.ones((7, 3, 5))))
    assert count_flops(function) == 7 * 2 * 2 * 3 * 5


def test_a_gpt_takes_what_its_formula_says_and_three_times_as_much_with_gradients():
    model, ids = GPT(**SIZES), tf.constant(IDS[:1])
    model(ids)

    @tf.function
    def with_gradients():
        with tf.GradientTape() as tape:
            loss = masked_loss(ids, model(ids))
        return tape.gradient(loss, model.trainable_variables)

    length, width, layers, vocabulary = 8, 8, 2, 11
    by_hand = 2 * length * (12 * width**2 * layers + vocabulary * width)
    by_hand += 4 * length**2 * width * layers
    assert count_flops(tf.function(lambda: model(ids))) == by_hand
    assert count_flops(with_gradients) == 3 * by_hand


def test_an_einsum_is_refused_because_its_products_are_not_listed():
    function = tf.function(lambda: tf.einsum("ij,jk->ik", tf.ones((2, 3)), tf.ones((3, 5))))
    with pytest.raises(ValueError, match="function must hold plain matrix products"):
        count_flops(function)


@pytest.mark.slow
def test_kept_bytes_grow_with_the_batch_and_shrink_with_rematerialisation():
    model, light = GPT(**SIZES), GPT(**SIZES, remat=True)
    one, two = count_kept_bytes(model, IDS[:1], IDS[:1]), count_kept_bytes(model, IDS, IDS)
    assert 1.8 * one < two < 2.2 * one  # what belongs to no text is small
    assert count_kept_bytes(light, IDS, IDS) < two / 2


def test_a_profile_finds_the_operations_that_ran():
    matrix = tf.ones((64, 64))
    product = tf.function(lambda: tf.linalg.matmul(matrix, tf.nn.relu(matrix)))
    product()
    milliseconds, starts = profile_operations(lambda: [product() for _ in range(3)])
    (kind,) = [kind for kind in starts if "MatMul" in kind]
    assert starts[kind] >= 3 and milliseconds[kind] > 0
