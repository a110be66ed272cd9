"""Figures of scaling: what is drawn is what was measured."""

import io

import numpy as np
import pytest

from tfgpt.plotting import plot_best_rates, plot_scaling_law
from tfgpt.scaling import ScalingLaw

pytest.importorskip("matplotlib")

LAW = ScalingLaw(E=1.0, A=8.0, alpha=0.5, B=27.0, beta=1 / 3)
SIZES, TOKENS = np.array([1e4, 1e5, 1e4, 1e5]), np.array([2e5, 2e5, 1.5e6, 1.5e6])
LOSSES = np.array([1.6, 1.5, 1.4, 1.3])
RATES = [0.1, 0.001, 0.01]
CURVES = {"one rate": {64: (RATES, [3, 2, 2.5])}, "rate / width": {16: (RATES, [3, 2, 1])}}


def marked(axis, marker):
    """List the (x, y) of all points with a marker, in order of x and y."""
    lines = [line for line in axis.lines if line.get_marker() == marker]
    return sorted(point for line in lines for point in zip(*line.get_data(), strict=True))


def test_every_run_is_a_mark_and_every_length_a_curve_of_the_law():
    predicted = [False, False, False, True]
    figure = plot_scaling_law(LAW, SIZES, TOKENS, LOSSES, predicted)
    (axis,) = figure.axes
    assert marked(axis, "o") == [(1e4, 1.4), (1e4, 1.6), (1e5, 1.5)]
    assert marked(axis, "*") == [(1e5, 1.3)]
    curves = [line for line in axis.lines if line.get_linestyle() != "None"]
    assert [line.get_linestyle() for line in curves] == ["-", "--"]  # colour is not all
    for curve, length in zip(curves, (2e5, 1.5e6), strict=True):
        sizes, losses = curve.get_data()
        np.testing.assert_allclose(losses, LAW.loss(sizes, length))
    words = [text.get_text() for text in axis.get_legend().get_texts()]
    assert words == ["200k tokens", "1.5M tokens", "fitted run", "predicted run"]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")


def test_without_predictions_the_legend_has_no_star():
    (axis,) = plot_scaling_law(LAW, SIZES, TOKENS, LOSSES).axes
    assert not marked(axis, "*")
    assert axis.get_legend().get_texts()[-1].get_text() == "fitted run"


def test_losses_are_written_as_plain_numbers():
    figure = plot_scaling_law(LAW, SIZES, TOKENS, LOSSES)
    figure.savefig(io.BytesIO(), format="svg")
    values = [float(label.get_text()) for label in figure.axes[0].get_yticklabels()]
    assert values == sorted(values) and 1.4 in values


def test_a_ring_marks_the_best_rate_of_each_width_and_rates_are_in_order():
    figure = plot_best_rates(CURVES)
    assert [axis.get_title() for axis in figure.axes] == ["one rate", "rate / width"]
    assert [marked(axis, "o") for axis in figure.axes] == [[(0.001, 2)], [(0.01, 1)]]
    for axis in figure.axes:
        assert list(axis.lines[0].get_xdata()) == sorted(RATES)
        assert axis.get_xscale() == "log"


def test_the_panels_have_one_loss_axis_that_shows_all_points():
    curves = {"low": {8: (RATES, [1, 1, 1.2])}, "high": {8: (RATES, [5, 4, 3])}}
    limits = [axis.get_ylim() for axis in plot_best_rates(curves).axes]
    assert limits[0] == limits[1]
    assert limits[0][0] < 1 and limits[0][1] > 5


def test_a_width_has_one_colour_in_all_panels():
    both = {rule: {64: (RATES, [3, 2, 1]), 16: (RATES, [4, 3, 2])} for rule in ("a", "b")}
    colours = [
        [tuple(line.get_color()) for line in axis.lines] for axis in plot_best_rates(both).axes
    ]
    assert colours[0] == colours[1]
    assert len(set(colours[0])) == 2


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_both_figures_are_saved(tmp_path, suffix):
    for draw, given in (
        (plot_scaling_law, (LAW, SIZES, TOKENS, LOSSES)),
        (plot_best_rates, (CURVES,)),
    ):
        path = tmp_path / f"{draw.__name__}.{suffix}"
        draw(*given, title="$ 100", save=path)
        assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (SIZES, TOKENS[:2], LOSSES),
            r"must have one length \(R,\), got parameters \(4,\), tokens",
        ),
        (([], [], []), "parameters must hold at least one value, got none"),
        ((SIZES, TOKENS, -LOSSES), "losses must be > 0 and finite, got -1.6"),
        (
            (SIZES, TOKENS, LOSSES, [True]),
            r"predicted must have one value per run, \(4,\), got \(1,\)",
        ),
    ],
)
def test_wrong_runs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        plot_scaling_law(LAW, *arguments)


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "curves must hold at least one width for each rule, got {}"),
        ({"a": {}}, "curves must hold at least one width for each rule"),
        ({"a": {8: ([0, 1], [2, 2])}}, "rates must be > 0 and finite, got 0.0"),
        ({"a": {8: ([1, 1], [2])}}, r"got rates \(2,\), losses \(1,\)"),
    ],
)
def test_wrong_curves_are_refused(curves, message):
    with pytest.raises(ValueError, match=message):
        plot_best_rates(curves)


def test_a_place_that_cannot_be_written_is_said_before_anything_is_drawn(tmp_path):
    with pytest.raises(FileNotFoundError, match="save must be in a folder that exists"):
        plot_best_rates({}, save=tmp_path / "none" / "a.png")
