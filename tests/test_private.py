"""Tests of private training: plain SGD without clipping and noise; less exposure with them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgpt import GPT, masked_loss
from tfgpt.tuning import make_private_step, poisson_batches, privacy_spent

pytestmark = pytest.mark.requires_tensorflow


def make_model():
    keras.utils.set_random_seed(1)
    return GPT(12, 6, num_layers=1, d_model=8, num_heads=2, pad_id=0)


def rows_of(rng, count):
    rows = rng.integers(1, 12, (count, 7))
    return rows[:, :-1], rows[:, 1:]


def moved(batch, **settings):
    """Return how a step of SGD with rate 1 moves the weights: one flat array."""
    model = make_model()
    before = [weight.numpy() for weight in model.trainable_variables]
    step = make_private_step(model, keras.optimizers.SGD(1.0), **settings)
    result = step(batch)
    moves = [w.numpy() - old for w, old in zip(model.trainable_variables, before, strict=True)]
    return np.concatenate([move.ravel() for move in moves]), result


def gradient_of(batch):
    """Return the gradient of the mean loss of a batch, in the common way."""
    model = make_model()
    with tf.GradientTape() as tape:
        loss = masked_loss(batch[1], model(batch[0]))
    gradients = tape.gradient(loss, model.trainable_variables)
    return np.concatenate([np.ravel(tf.convert_to_tensor(gradient)) for gradient in gradients])


@pytest.mark.slow
def test_each_gradient_is_clipped_before_the_sum(rng):
    """Compared with one gradient at a time; a row of padding changes nothing."""
    batch = rows_of(rng, 3)
    alone = [gradient_of([part[row : row + 1] for part in batch]) for row in range(3)]
    norms = [np.linalg.norm(gradient) for gradient in alone]
    clip_norm = float(np.median(norms))
    padded = [np.pad(part, ((0, 2), (0, 0))) for part in batch]
    move, result = moved(padded, batch_size=4, clip_norm=clip_norm, noise_multiplier=0.0)
    shortened = [
        gradient * min(1, clip_norm / norm) for gradient, norm in zip(alone, norms, strict=True)
    ]
    np.testing.assert_allclose(move, -sum(shortened) / 4, atol=1e-6)
    assert float(result["clipped"]) == pytest.approx(1 / 3)


@pytest.mark.slow
def test_without_clipping_and_noise_it_is_plain_sgd(rng):
    batch = rows_of(rng, 3)
    plain, result = moved(batch, batch_size=3, clip_norm=1e6, noise_multiplier=0.0)
    np.testing.assert_allclose(plain, -gradient_of(batch), atol=1e-6)
    expected = masked_loss(batch[1], make_model()(batch[0]))
    assert float(result["loss"]) == pytest.approx(float(expected))


@pytest.mark.slow
def test_the_noise_has_the_deviation_that_is_asked_for(rng):
    batch = [np.zeros((2, 6), int)] * 2  # padding alone: the move is noise alone
    move, _ = moved(batch, batch_size=5, clip_norm=2.0, noise_multiplier=3.0)
    assert len(move) > 900
    assert move.std() == pytest.approx(3.0 * 2.0 / 5, rel=0.1)
    assert abs(move.mean()) < 0.15


def test_each_example_is_drawn_by_a_coin_of_its_own():
    rows = np.arange(1, 41)[:, None]
    batches = list(poisson_batches(rows, 2 * rows, batch_size=10, steps=400, seed=3))
    assert len({inputs.shape for inputs, _ in batches}) <= 2
    assert all((targets == 2 * inputs).all() for inputs, targets in batches)
    drawn = np.array([np.isin(rows[:, 0], inputs) for inputs, _ in batches])  # (steps, N)
    np.testing.assert_allclose(drawn.mean(axis=0), 0.25, atol=0.09)
    assert drawn.sum(axis=1).std() == pytest.approx(np.sqrt(40 * 0.25 * 0.75), rel=0.15)
    with pytest.raises(ValueError, match="batch_size must be at most N.* got 41 with 40 and 40"):
        next(poisson_batches(rows, rows, 41, 1))


@pytest.mark.slow
def test_what_is_spent_is_a_little_less_than_the_looser_bound_by_moments():
    accounting = pytest.importorskip("dp_accounting")
    from dp_accounting.rdp import RdpAccountant

    noise = accounting.GaussianDpEvent(1.3)
    event = accounting.PoissonSampledDpEvent(250 / 60000, noise)
    by_moments = RdpAccountant().compose(event, 15 * 240).get_epsilon(1e-5)
    epsilon = privacy_spent(60000, 250, 15 * 240, 1.3, 1e-5)
    assert 0.8 * by_moments < epsilon < by_moments
    assert privacy_spent(60000, 250, 15 * 240, 2.6, 1e-5) < epsilon / 2


def test_what_cannot_be_private_is_named():
    model, optimizer = make_model(), keras.optimizers.SGD()
    with pytest.raises(ValueError, match="clip_norm must be > 0 and noise_multiplier >= 0, got 0"):
        make_private_step(model, optimizer, batch_size=2, clip_norm=0)
    with pytest.raises(ValueError, match=r"batch_size must be in \[1, 10\].*got 11, 1.0"):
        privacy_spent(10, 11, 1, 1.0, 1e-5)


@pytest.mark.slow
def test_deduplication_hides_repeated_codes_and_noise_those_that_stand_once():
    from benchmarks.rules import compare_privacy

    rows = compare_privacy(["each line once", "DP-SGD"])
    unique, private = rows["each line once"], rows["DP-SGD"]
    assert unique.repeated < 4.5 < unique.once + 1.5  # of 8.65 bits; 1.4 by chance
    assert private.once < 2.5  # those that stand ten times are ten examples
    assert private.repeated > unique.repeated + 2
