"""Figures of sizes: losses with their scaling law, and the best learning rates of widths."""

from itertools import cycle

import numpy as np

from tfgpt.plotting.figures import add_title_and_save, check_save, new_figure, style_text

CURVE_POINTS = 100
DASHES = ("-", "--", "-.", ":")  # beside the colour, for who does not see it
LOSS_LABEL = "loss (nats per token)"
FITTED = {"linestyle": "", "marker": "o", "markersize": 6, "label": "fitted run"}
PREDICTED = {"linestyle": "", "marker": "*", "markersize": 13, "label": "predicted run"}
EDGE = {"markeredgecolor": "black", "markeredgewidth": 0.6}


def plot_scaling_law(law, parameters, tokens, losses, predicted=None, title=None, save=None):
    """Draw measured losses over the sizes, and the law as one curve for each number of tokens.

    Args:
        law: an object with loss(parameters, tokens), such as a ScalingLaw.
        parameters: float array (R,), > 0, of each run.
        tokens: float array (R,), > 0, of each run.
        losses: float array (R,), > 0, measured.
        predicted: bool array (R,), True for runs that the law was not fitted to: they are
            drawn as stars; None: there are none.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if the lengths differ, there is no run, or a value is not positive.

    Example:
        >>> from tfgpt.scaling import ScalingLaw
        >>> law = ScalingLaw(E=1.0, A=8.0, alpha=0.5, B=27.0, beta=1 / 3)
        >>> figure = plot_scaling_law(law, [1e4, 1e5, 1e5], [1e6, 1e6, 2e6], [1.3, 1.2, 1.2])
    """
    check_save(save)
    columns = {"parameters": parameters, "tokens": tokens, "losses": losses}
    parameters, tokens, losses = check_columns(columns)
    predicted = np.zeros(len(losses)) if predicted is None else np.asarray(predicted)
    if predicted.shape != losses.shape:
        raise ValueError(
            f"predicted must have one value per run, {losses.shape}, got {predicted.shape}."
        )
    predicted = predicted.astype(bool)
    figure, axes = new_figure(1, 1, size=(6.4, 4.2))
    axis = axes[0, 0]
    sizes = np.geomspace(parameters.min() / 1.2, parameters.max() * 1.2, CURVE_POINTS)
    lengths = np.unique(tokens)
    for length, colour, dashes in zip(lengths, colours(len(lengths)), cycle(DASHES), strict=False):
        label = f"{short(length)} tokens"
        axis.plot(sizes, law.loss(sizes, length), color=colour, linestyle=dashes, label=label)
        for kind, mark in ((~predicted, FITTED), (predicted, PREDICTED)):
            some = kind & (tokens == length)
            axis.plot(parameters[some], losses[some], color=colour, **EDGE, **mark)
    axis.set_xscale("log")
    axis.set_yscale("log")
    label_losses(axis)
    axis.set_xlabel("parameters")
    add_legend(axis, [FITTED, PREDICTED] if predicted.any() else [FITTED])
    return add_title_and_save(figure, title, save)


def plot_best_rates(curves, title=None, save=None):
    """Draw losses over learning rates: a panel for each rule, a curve for each width.

    A ring marks the best rate of each width. A rule that keeps it has its rings one below
    the other.

    Args:
        curves: dict from the name of a rule to {width: (rates, losses)}; rates > 0.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if there is no curve, lengths differ, or a value is not positive.
    """
    check_save(save)
    if not curves or not all(curves.values()):
        raise ValueError(f"curves must hold at least one width for each rule, got {curves!r}.")
    figure, axes = new_figure(1, len(curves), size=(4.0, 3.8))
    widths = sorted({width for rule in curves.values() for width in rule})
    style_of = dict(
        zip(widths, zip(colours(len(widths)), cycle(DASHES), strict=False), strict=True)
    )
    for axis, (rule, by_width) in zip(axes[0], curves.items(), strict=True):
        axis.sharey(axes[0, 0])
        for width, (rates, losses) in sorted(by_width.items()):
            draw_rates(axis, rates, losses, style_of[width], f"width {width}")
        (text,), style = style_text([str(rule)])
        axis.set_title(text, **style)
        axis.set_xscale("log")
        axis.set_xlabel("learning rate")
    axes[0, 0].set_ylabel(LOSS_LABEL)
    axes[0, 0].legend()
    return add_title_and_save(figure, title, save)


def draw_rates(axis, rates, losses, style, label):
    """Draw the losses of one width over its rates, with a ring around the best."""
    rates, losses = check_columns({"rates": rates, "losses": losses})
    order, best = np.argsort(rates), np.argmin(losses)
    colour, dashes = style
    axis.plot(rates[order], losses[order], dashes, marker=".", color=colour, label=label)
    ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.8}
    axis.plot(rates[best], losses[best], linestyle="", color=colour, **ring)


def check_columns(columns):
    """Return the columns as float arrays; raise unless they have one length and are positive."""
    arrays = {name: np.asarray(values, float) for name, values in columns.items()}
    lengths = {name: values.shape for name, values in arrays.items()}
    if len(set(lengths.values())) > 1 or any(len(shape) != 1 for shape in lengths.values()):
        found = ", ".join(f"{name} {shape}" for name, shape in lengths.items())
        raise ValueError(f"{', '.join(arrays)} must have one length (R,), got {found}.")
    for name, values in arrays.items():
        if not values.size:
            raise ValueError(f"{name} must hold at least one value, got none.")
        wrong = values[~(np.isfinite(values) & (values > 0))]
        if wrong.size:
            raise ValueError(f"{name} must be > 0 and finite, got {wrong[0]}.")
    return tuple(arrays.values())


def colours(count):
    """Return colours from dark to bright, all of them visible on white and on black."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0.25, 0.85, count))


def short(number):
    """Write a number with three digits and a letter: 1,500,000 -> 1.5M.

    Example:
        >>> [short(number) for number in (850, 150_000, 1_500_000, 2e9)]
        ['850', '150k', '1.5M', '2B']
    """
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def label_losses(axis):
    """Write losses as plain numbers: a logarithmic axis of less than ten times has none."""
    from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

    axis.yaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_ylabel(LOSS_LABEL)


def add_legend(axis, marks):
    """Explain the curves, then the marks of runs, in grey: their colour is that of the curve."""
    from matplotlib.lines import Line2D

    curves = [line for line in axis.lines if line.get_linestyle() != "None"]
    axis.legend(handles=[*curves, *(Line2D([], [], color="grey", **mark) for mark in marks)])
