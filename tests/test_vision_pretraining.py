"""An encoder that learns before the GPT: masked patches, freezing, and one curve for each way."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops

from tfgpt.plotting import plot_right_answers
from tfgpt.tasks import vision, vision_pretraining
from tfgpt.tasks.vision_batches import encode_questions, question_batches
from tfgpt.vision import (
    ImageEncoder,
    MaskedPatches,
    load_emoji,
    patchify,
    questions_about,
    split_pictures,
)


def small_painter(share=0.5):
    encoder = ImageEncoder(8, patch_size=2, num_layers=1, d_model=8, num_heads=2, stem=(4,))
    return MaskedPatches(encoder, share)


def test_the_loss_counts_masked_squares_only(rng):
    images = rng.uniform(size=(2, 8, 8, 3)).astype("float32")
    painter = small_painter()
    painted, masked = painter(images)
    assert painted.shape == (2, 4, 48) and 0 < ops.convert_to_numpy(masked).sum() < 8
    loss = float(painter.compute_loss(images, y_pred=(painted, masked)))
    squares = ops.convert_to_numpy(patchify(images, 4))
    chosen = ops.convert_to_numpy(masked)
    errors = (ops.convert_to_numpy(painted) - squares)[chosen] ** 2
    assert loss == pytest.approx(errors.mean(), rel=1e-5)
    spoiled = ops.where(ops.expand_dims(masked, -1), painted, 99.0)
    assert float(painter.compute_loss(images, y_pred=(spoiled, masked))) == pytest.approx(loss)


def test_what_is_masked_is_not_seen(rng):
    images = rng.uniform(size=(1, 8, 8, 3)).astype("float32")
    painter = small_painter(share=0.999999)
    np.testing.assert_array_equal(painter(images)[0], painter(1 - images)[0])
    assert not ops.any(small_painter(share=0.0)(images)[1])


def test_wrong_encoders_are_refused():
    with pytest.raises(TypeError, match="encoder must be of class ImageEncoder, got Dense"):
        MaskedPatches(keras.layers.Dense(3))
    with_class = ImageEncoder(8, 4, 1, 8, 2, class_token=True)
    with pytest.raises(ValueError, match="no class token, got class_token=True"):
        MaskedPatches(with_class)
    with pytest.raises(ValueError, match="share"):
        small_painter(share=1.0)


def test_a_painter_keeps_its_config():
    painter = small_painter(share=0.25)
    again = MaskedPatches.from_config(painter.get_config())
    assert again.get_config() == painter.get_config()
    assert again.count_params() == painter.count_params()


def test_the_figure_of_right_answers_has_a_curve_for_each_way(tmp_path):
    curves = {"a": [(0, 0.1), (5, 0.4)], "b": [(0, 0.1), (5, 0.3)]}
    figure = plot_right_answers(curves, {"majority": 0.2}, save=tmp_path / "a.png")
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines[:2]] == ["a", "b"] and len(lines) == 3
    assert list(lines[0].get_ydata()) == [0.1, 0.4] and (tmp_path / "a.png").exists()
    with pytest.raises(ValueError, match="at least one curve"):
        plot_right_answers({})


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_a_frozen_encoder_stays_and_in_two_stages_it_moves_later():
    training, held_out, _ = split_pictures(load_emoji())
    settings = replace(
        vision_pretraining.SMALL, stem=(), patch_size=8, encoder_layers=1, d_model=16, num_heads=2
    )
    settings = replace(settings, vocab_size=300, batch_size=8, context_length=160)
    tokenizer = vision.make_tokenizer(training, 300)
    moved = {}
    for frozen in (0.5, 1.0):
        model = vision.make_vision_gpt(settings, tokenizer)
        before = model.encoder.get_weights()
        batches = question_batches(training, tokenizer, settings, seed=0)
        question = questions_about(held_out, "group")[0]
        shown = [([question], held_out.images[list(question.places)])]
        asked = encode_questions(shown, tokenizer, settings)
        points = vision_pretraining.train_in_stages(model, batches, 2, frozen, asked)
        assert [step for step, _ in points] == [0, 1, 2]
        after = model.encoder.get_weights()
        moved[frozen] = max(np.abs(a - b).max() for a, b in zip(after, before, strict=True))
    assert moved[0.5] > 0 and moved[1.0] == 0
