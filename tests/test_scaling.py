"""The scaling law finds known constants, and its intervals hold them."""

import sys

import numpy as np
import pytest

from tfgpt.scaling import CONSTANTS, ScalingLaw, fit_scaling_law

pytest.importorskip("scipy")

TRUTH = ScalingLaw(E=1.3, A=30.0, alpha=0.4, B=90.0, beta=0.45)
SIZES, TOKENS = (axis.ravel() for axis in np.meshgrid([1e4, 4e4, 16e4, 64e4], [1e5, 2e5, 4e5, 8e5]))


def constants(law):
    return np.array([getattr(law, name) for name in CONSTANTS])


def noisy_losses(rng, spread=0.003):
    return TRUTH.loss(SIZES, TOKENS) * np.exp(rng.normal(0, spread, len(SIZES)))


def test_the_loss_is_what_the_formula_says():
    # 1 + 8 / 16^0.5 + 27 / 27^(1/3) = 1 + 2 + 9
    law = ScalingLaw(E=1.0, A=8.0, alpha=0.5, B=27.0, beta=1 / 3)
    assert law.loss(16, 27) == pytest.approx(12)
    # 1 + 8 / 64^0.5 = 2 without the term of the tokens
    assert law.loss([16, 64], 27) == pytest.approx([12, 11])


def test_exact_losses_give_back_their_constants():
    law = fit_scaling_law(SIZES, TOKENS, TRUTH.loss(SIZES, TOKENS), resamples=0)
    np.testing.assert_allclose(constants(law), constants(TRUTH), rtol=1e-4)


def test_the_order_and_the_unit_of_the_runs_change_nothing(rng):
    losses = noisy_losses(rng)
    law = fit_scaling_law(SIZES, TOKENS, losses, resamples=0)
    mixed = rng.permutation(len(losses))
    other = fit_scaling_law(SIZES[mixed] / 1e3, TOKENS[mixed] / 1e6, losses[mixed], resamples=0)
    assert other.loss(640, 0.8) == pytest.approx(law.loss(64e4, 8e5), rel=1e-6)
    assert pytest.approx(law.A / 1e3**law.alpha, rel=1e-3) == other.A


def test_one_run_that_went_wrong_moves_the_law_little():
    losses = TRUTH.loss(SIZES, TOKENS)
    losses[5] *= 1.3
    law = fit_scaling_law(SIZES, TOKENS, losses, resamples=0)
    np.testing.assert_allclose(law.loss(SIZES, TOKENS), TRUTH.loss(SIZES, TOKENS), rtol=0.01)


def test_intervals_hold_the_fit_and_grow_with_confidence_and_noise(rng):
    law = fit_scaling_law(SIZES, TOKENS, noisy_losses(rng), resamples=30)
    noisier = fit_scaling_law(SIZES, TOKENS, noisy_losses(rng, 0.01), resamples=30)
    for name in CONSTANTS:
        (low, high), (inner_low, inner_high) = law.interval(name), law.interval(name, 0.5)
        assert low < inner_low < inner_high < high
        assert low < getattr(law, name) < high
    assert np.ptp(noisier.predict(2e6, 8e5)[1]) > np.ptp(law.predict(2e6, 8e5)[1])


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Of 20 sweeps, each with its own next run; a constant may be missed somewhat more often."""
    runs_held = constants_held = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        law = fit_scaling_law(SIZES, TOKENS, noisy_losses(rng), resamples=50)
        measured = TRUTH.loss(2e6, 8e5) * np.exp(rng.normal(0, 0.003))
        _, (low, high) = law.predict(2e6, 8e5, confidence=0.9)
        runs_held += low < measured < high
        for name in CONSTANTS:
            low, high = law.interval(name)
            constants_held += low < getattr(TRUTH, name) < high
    assert runs_held >= 15
    assert constants_held >= 80  # of 100


def test_the_interval_of_exact_losses_is_the_prediction_itself():
    law = fit_scaling_law(SIZES, TOKENS, TRUTH.loss(SIZES, TOKENS), resamples=5)
    loss, (low, high) = law.predict(2e6, 8e5)
    assert loss == pytest.approx(TRUTH.loss(2e6, 8e5), rel=1e-5)
    assert high - low < 1e-4


def test_the_same_seed_gives_the_same_intervals(rng):
    losses = noisy_losses(rng)
    first, again, other = (
        fit_scaling_law(SIZES, TOKENS, losses, resamples=5, seed=seed).interval("E")
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_no_other_size_does_better_with_the_same_operations():
    flops = 1e15
    parameters, tokens = TRUTH.best_size(flops)
    assert 6 * parameters * tokens == pytest.approx(flops)
    best = TRUTH.loss(parameters, tokens)
    for factor in (0.8, 1.25):
        assert TRUTH.loss(parameters * factor, tokens / factor) > best


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": TOKENS[:-1]}, r"must have one shape \(R,\), got \(16,\), \(15,\), \(16,\)"),
        ({"losses": np.full(16, -1.0)}, "losses must be > 0 and finite, got -1.0"),
        ({"losses": np.full(16, np.nan)}, "losses must be > 0 and finite, got nan"),
        ({"tokens": np.full(16, 1e5)}, "tokens must have at least 3 different values, got 1"),
        ({"parameters": SIZES > 2e4}, "parameters must be > 0 and finite, got 0.0"),
        ({"resamples": -1}, "resamples must be an integer >= 0, got -1"),
    ],
)
def test_wrong_runs_are_refused_with_the_argument_and_the_value(change, message):
    given = {"parameters": SIZES, "tokens": TOKENS, "losses": TRUTH.loss(SIZES, TOKENS)}
    with pytest.raises(ValueError, match=message):
        fit_scaling_law(**given | change)


def test_five_runs_are_too_few_for_five_constants():
    sizes, tokens = [1e4, 4e4, 16e4, 1e4, 1e4], [1e5, 1e5, 1e5, 2e5, 4e5]
    with pytest.raises(ValueError, match="losses must be of more than 5 runs, got 5"):
        fit_scaling_law(sizes, tokens, TRUTH.loss(sizes, tokens))


def test_a_law_without_resamples_says_what_its_intervals_need():
    for ask in (lambda: TRUTH.interval("E"), lambda: TRUTH.predict(1e6, 1e6)):
        with pytest.raises(ValueError, match="must be fitted with resamples >= 1"):
            ask()


def test_wrong_shares_and_operations_are_refused(rng):
    law = fit_scaling_law(SIZES, TOKENS, noisy_losses(rng), resamples=1)
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\), got 95"):
        law.interval("E", confidence=95)
    with pytest.raises(ValueError, match="flops must be > 0, got 0"):
        law.best_size(0)


def test_without_scipy_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=r"needs SciPy: pip install 'tfgpt\[finetune\]'"):
        fit_scaling_law(SIZES, TOKENS, TRUTH.loss(SIZES, TOKENS))
