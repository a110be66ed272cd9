"""Tests of schedules and optimizers by their names, and of the search for a rate."""

import keras
import numpy as np
import pytest

from tfgpt import GPT
from tfgpt.plotting import plot_histories, plot_rates
from tfgpt.rate_finder import find_learning_rate
from tfgpt.schedules import (
    OPTIMIZERS,
    SCHEDULES,
    WarmupInverseRoot,
    WarmupSchedule,
    make_optimizer,
    make_schedule,
)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_rises_to_its_peak_and_comes_back_from_a_file(name):
    schedule = make_schedule(name, 1000, peak=0.5, warmup_steps=100)
    rates = np.array([float(schedule(step)) for step in range(1000)])
    assert rates.max() == pytest.approx(0.5, rel=0.01) and 95 <= rates.argmax() <= 100
    assert (np.diff(rates[1:95]) > 0).all() and rates[0] < 0.006
    again = keras.optimizers.schedules.deserialize(
        keras.optimizers.schedules.serialize(schedule),
    )
    assert [float(again(step)) for step in (7, 500)] == [rates[7], rates[500]]


def test_schedules_end_as_their_names_say():
    """At step 899 of 1,000, warm-up 100: by hand from the formulas."""
    expected = {
        "linear": 101 / 900,
        "cosine": 0.1 + 0.9 * (1 + np.cos(np.pi * 799 / 900)) / 2,
        "constant": 1.0,
        "stable-decay": 101 / 200,
        "inverse-root": (100 / 899) ** 0.5,
    }
    for name, rate in expected.items():
        found = float(make_schedule(name, 1000, peak=1.0, warmup_steps=100)(899))
        assert found == pytest.approx(rate, rel=1e-5), name


def test_the_inverse_root_is_the_articles_schedule_with_another_peak():
    article = WarmupSchedule(d_model=64, warmup_steps=100)
    own = WarmupInverseRoot(peak=64**-0.5 * 100**-0.5, warmup_steps=100)
    for step in (1, 50, 100, 1000):
        assert float(own(step)) == pytest.approx(float(article(step)), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_schedule("step", 10), "schedule must be one of"),
        (lambda: make_schedule("linear", 0), "steps must be an integer >= 1"),
        (lambda: make_schedule("cosine", 10, peak=0), "peak must be > 0, got 0"),
        (lambda: make_optimizer("adam", 0.1), "optimizer must be one of"),
        (lambda: make_optimizer("sgd", 0.1, weight_decay=-1), "weight_decay must be >= 0"),
        (lambda: make_optimizer("sgd", 0.1, ema=1.0), r"ema must be in \(0, 1\) or None, got 1"),
    ],
)
def test_wrong_names_and_numbers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_shrinks_matrices_and_no_vectors(name):
    """With a gradient of zero only the decay moves a weight."""
    keras.utils.set_random_seed(0)
    model = GPT(9, 8, num_layers=1, d_model=8, num_heads=2)
    for weight in model.trainable_variables:
        weight.assign(weight + 0.5)
    optimizer = make_optimizer(name, 0.1, weight_decay=0.5)
    before = [np.array(weight) for weight in model.trainable_variables]
    zeros = [keras.ops.zeros_like(weight) for weight in model.trainable_variables]
    optimizer.apply(zeros, model.trainable_variables)
    for weight, value in zip(model.trainable_variables, before, strict=True):
        is_matrix = weight.path.endswith("kernel")
        if is_matrix:
            np.testing.assert_allclose(np.array(weight), 0.95 * value, rtol=1e-5)
        elif len(weight.shape) == 1:
            np.testing.assert_allclose(np.array(weight), value, atol=1e-7)


@pytest.mark.requires_tensorflow
def test_a_search_finds_a_rate_that_learns_and_gives_the_weights_back():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(9, 9)])
    before = model.get_weights()
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 9, (40, 8, 4))
    data = [(x, (x + 1) % 9) for x in inputs]
    optimizer = keras.optimizers.SGD(1.0)
    options = {"pad_id": None, "jit_compile": False, "clip_norm": None}
    found = find_learning_rate(model, data, optimizer, low=0.01, high=1e5, steps=60, **options)
    # A table of logits learns best at a rate of tens: its gradients are of the size 1 / 9.
    assert 1 < found.best < 1000
    assert (np.diff(found.rates) > 0).all() and found.losses[0] == pytest.approx(2.2, abs=0.1)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
    for wrong in ({"low": 2.0, "high": 1.0}, {"steps": 3}):
        with pytest.raises(ValueError, match="low and high|steps must be"):
            find_learning_rate(model, data, keras.optimizers.SGD(1.0), **wrong)


def test_curves_of_several_runs_and_of_a_search_are_drawn(tmp_path):
    rows = [{"step": s, "loss": 3.0 / s, "val_loss": 3.1 / s if s % 2 else None} for s in (1, 2, 3)]
    figure = plot_histories({"one": rows, "床前": rows}, save=tmp_path / "a.png")
    assert len(figure.axes[0].lines) == 4 and (tmp_path / "a.png").exists()
    figure = plot_rates([0.1, 1.0], [2.0, 1.0], best=0.5)
    assert figure.axes[0].get_xscale() == "log"
    for call in (lambda: plot_histories({}), lambda: plot_rates([1.0], [])):
        with pytest.raises(ValueError, match="must"):
            call()
