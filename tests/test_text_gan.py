"""The text GAN: a language that is known, its measures, and a game in which both learn."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from tfgpt import GPT
from tfgpt.tasks.text_gan import (
    KnownLanguage,
    TextGAN,
    discriminator_loss,
    distinct,
    make_discriminator,
    run_entropy,
    with_start,
    write_sentences,
)


def test_the_probabilities_of_all_sentences_sum_to_one():
    language = KnownLanguage(num_words=4, length=3, choices=2, seed=1)
    sentences = np.array(list(itertools.product(range(1, 5), repeat=3)))
    assert np.exp(language.log_probs(sentences)).sum() == pytest.approx(1.0)
    assert language.is_valid(sentences).sum() == 2**3


def test_sentences_come_as_often_as_the_language_says():
    language = KnownLanguage(num_words=3, length=2, choices=2)
    sentences = language.sample(20_000, seed=0)
    assert language.is_valid(sentences).all()
    found, counts = np.unique(sentences, axis=0, return_counts=True)
    np.testing.assert_allclose(counts / 20_000, np.exp(language.log_probs(found)), atol=0.015)
    np.testing.assert_array_equal(sentences[:5], language.sample(20_000, seed=0)[:5])


def test_measures_of_diversity_at_their_ends():
    same, all_different = np.ones((4, 6), int), np.arange(24).reshape(4, 6)
    assert distinct(same, n=3) == 1 / 16 and run_entropy(same, n=3) == 0
    assert distinct(all_different, n=3) == 1
    assert run_entropy(all_different, n=3) == pytest.approx(np.log(16))
    for n in (0, 7):
        with pytest.raises(ValueError, match=rf"n must be in \[1, T\] = \[1, 6\], got {n}"):
            distinct(same, n)


@pytest.mark.parametrize(
    ("settings", "message"),
    [((1, 3, 1), "num_words must be an integer >= 2"), ((4, 3, 5), "at most num_words=4, got 5")],
)
def test_languages_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        KnownLanguage(*settings)


def test_the_loss_of_the_discriminator_is_the_cross_entropy_of_real_and_written():
    model = make_discriminator(num_words=4)
    batch = {"real": with_start([[1, 2, 3], [2, 2, 2]]), "written": with_start([[3, 1, 4]])}
    logits = ops.convert_to_numpy(model(np.concatenate(list(batch.values()))))[:, 0]
    expected = np.mean(np.log1p(np.exp([-logits[0], -logits[1], logits[2]])))
    assert float(discriminator_loss(model, batch)["loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.requires_tensorflow
@pytest.mark.slow
def test_both_players_learn_when_the_other_one_waits():
    """From an untrained generator: real sentences are told, then the reward is raised."""
    language = KnownLanguage(num_words=6, length=5, choices=2, seed=1)
    real = language.sample(200, seed=0)
    generator = GPT(7, 6, num_layers=1, d_model=16, num_heads=2)
    gan = TextGAN(
        *(generator, make_discriminator(6), 5, 32),
        generator_optimizer=keras.optimizers.Adam(1e-2),
        discriminator_optimizer=keras.optimizers.Adam(1e-2),
    )
    told = [gan.discriminate(real[32 * k : 32 * k + 32], seed=k)["accuracy"] for k in range(6)]
    assert told[-1] > 0.8
    before = language.is_valid(write_sentences(generator, 32, 5)).mean()
    rewards = [gan.play.step([[0]], gan.reward, seed)["reward"] for seed in range(25)]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.5
    assert before < 0.2
