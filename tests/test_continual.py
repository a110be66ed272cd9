"""Continual learning: what is measured, and what each remedy adds."""

import keras
import numpy as np
import pytest
from keras import ops
from test_finetune import TOKENIZER, small_gpt

from tfgpt.tasks.continual import (
    ElasticWeights,
    OldAnswers,
    accuracy_within,
    backward_transfer,
    fisher_information,
    replay_rows,
)
from tfgpt.tasks.examples import Row, encode_texts
from tfgpt.tasks.heads import TextClassifier


def make_rows():
    texts, _ = encode_texts(TOKENIZER, ["good film", "bad", "fine day", "poor film day"], 40)
    return [Row(text, number % 2) for number, text in enumerate(texts)]


def make_classifier(classes=2, **options):
    return TextClassifier(small_gpt(num_layers=1, **options), classes, 0, dropout=0.0)


def test_backward_transfer_is_the_mean_change_of_old_tasks():
    matrix = [[0.9, 0.1, 0.1], [0.5, 0.8, 0.1], [0.6, 0.9, 0.7]]
    assert backward_transfer(matrix) == pytest.approx((-0.3 + 0.1) / 2)
    with pytest.raises(ValueError, match="N >= 2"):
        backward_transfer([[1.0]])


def test_only_the_classes_of_a_task_compete():
    logits = np.array([[9.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    assert accuracy_within(logits, [2, 1], [1, 2]) == 1.0
    assert accuracy_within(logits, [2, 1], [0, 1, 2]) == 0.5


def test_replay_draws_from_each_old_task(rng):
    rows = replay_rows([list("abcd"), list("xy")], 3, rng)
    assert len(rows) == 5 and set(rows) > {"x", "y"} and len(set(rows)) == 5


@pytest.mark.requires_tensorflow
def test_fisher_is_the_mean_squared_gradient_of_single_examples():
    import tensorflow as tf

    model, rows = make_classifier(), make_rows()
    found = fisher_information(model, rows, 0, 16)
    expected = [np.zeros(weight.shape) for weight in model.trainable_weights]
    for row in rows:
        with tf.GradientTape() as tape:
            chance = ops.log_softmax(model(row.token_ids[None]))[0, row.target]
        for total, gradient in zip(
            expected,
            tape.gradient(chance, [w.value for w in model.trainable_weights]),
            strict=True,
        ):
            total += tf.convert_to_tensor(gradient).numpy() ** 2 / len(rows)
    for value, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-3, atol=1e-7)


def test_elastic_weights_pull_back_to_the_old_ones():
    model = make_classifier()
    fisher = [np.full(weight.shape, 2.0, "float32") for weight in model.trainable_weights]
    penalty = ElasticWeights(model, fisher, strength=3.0)
    assert float(penalty(None, None)) == 0.0
    weight = model.head.dense.bias
    weight.assign(weight + 0.5)
    assert float(penalty(None, None)) == pytest.approx(3.0 / 2 * 2 * 2.0 * 0.25)


def test_old_answers_are_kept_where_the_loss_is_smallest():
    teacher = make_classifier(3)
    ids = make_rows()[0].token_ids[None]
    loss = OldAnswers(teacher, [0, 1], strength=2.0, temperature=1.0)
    old = teacher(ids)
    chances = ops.convert_to_numpy(ops.softmax(old[:, :2]))
    entropy = -np.sum(chances * np.log(chances))
    assert float(loss(ids, old)) == pytest.approx(2 * entropy, rel=1e-5)
    assert float(loss(ids, old + np.array([[0.0, 0.0, 5.0]]))) == pytest.approx(
        2 * entropy, rel=1e-5
    )
    assert float(loss(ids, old + np.array([[1.0, 0.0, 0.0]]))) > 2 * entropy


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_extra_losses_count_in_training_only():
    model, rows = make_classifier(), make_rows()
    ids = np.stack([np.pad(row.token_ids, (0, 16 - len(row.token_ids))) for row in rows])
    targets = np.array([row.target for row in rows])
    teacher = make_classifier()
    model.extra_losses.append(OldAnswers(teacher, [0, 1], strength=5.0))
    before = [ops.convert_to_numpy(weight).copy() for weight in teacher.weights]
    count = len(model.trainable_weights)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=False)
    plain = model.evaluate(ids, targets, verbose=0)
    history = model.fit(ids, targets, epochs=1, verbose=0).history
    assert history["loss"][0] > plain + 1
    assert len(model.trainable_weights) == count  # the teacher is not trained
    for weight, value in zip(teacher.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
