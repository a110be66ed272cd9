"""Figures: arrays and tokens in, a matplotlib Figure out.

Nothing here knows a model. Figures are readable on light and dark pages, need no
screen, and show Chinese labels when a font for them is installed.
"""

import numpy as np

from tfgpt.plotting.figures import (
    add_title_and_save,
    cell_side,
    check_save,
    label_axes,
    labels_of_both,
    new_figure,
    show_space,
    style_text,
)
from tfgpt.validation import check_positive

LINE_STYLES = ("-", "--", "-.", ":")  # beside the colours, which not everybody tells apart


def line_style(number):
    """Return the line style of curve `number`."""
    return LINE_STYLES[number % len(LINE_STYLES)]


def plot_mask(mask, query_tokens=None, key_tokens=None, title=None, save=None):
    """Draw a mask: bright cells may attend, dark cells may not.

    Args:
        mask: bool array (T, S), or any shape (..., T, S) with leading sizes 1.
        query_tokens: list of T labels, or None.
        key_tokens: list of S labels; default: query_tokens if T = S.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        TypeError: if the mask is not boolean.
        ValueError: if the shape is wrong or a label count differs from its axis.
    """
    from matplotlib import colormaps

    check_save(save)
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"mask must be boolean with True = may attend, got dtype {mask.dtype}.")
    if mask.ndim < 2 or mask.size != mask.shape[-1] * mask.shape[-2]:
        raise ValueError(f"mask must hold one (T, S) matrix, got shape {mask.shape}.")
    mask = mask.reshape(mask.shape[-2:])
    tokens = labels_of_both(query_tokens, key_tokens, mask.shape)
    side = cell_side(mask.shape, *tokens)
    figure, axes = new_figure(1, 1, size=(side + 1.0, side))
    axis = axes[0, 0]
    two_colours = colormaps["viridis"].resampled(2)
    image = axis.imshow(mask, vmin=0, vmax=1, cmap=two_colours, aspect="auto")
    label_axes(axis, *tokens)
    axis.set_xlabel("key")
    axis.set_ylabel("query")
    bar = figure.colorbar(image, ax=axis, ticks=[0.25, 0.75], shrink=0.8)
    bar.ax.set_yticklabels(["hidden", "may attend"])
    return add_title_and_save(figure, title, save)


def plot_positional_encoding(encoding, title=None, save=None):
    """Draw a table of positions: rows are positions, columns are features.

    Args:
        encoding: float array (T, D) or (1, T, D).
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if the shape is wrong.
    """
    check_save(save)
    encoding = np.asarray(encoding)
    if encoding.ndim == 3 and len(encoding) == 1:
        encoding = encoding[0]
    if encoding.ndim != 2:
        raise ValueError(f"encoding must have shape (T, D) or (1, T, D), got {encoding.shape}.")
    figure, axes = new_figure(1, 1, size=(6.4, 3.8))
    image = axes[0, 0].imshow(encoding, cmap="RdBu", aspect="auto", interpolation="nearest")
    axes[0, 0].set_xlabel("feature")
    axes[0, 0].set_ylabel("position")
    figure.colorbar(image, ax=axes[0, 0], label="value")
    return add_title_and_save(figure, title, save)


def plot_schedule(schedules, steps, title=None, save=None):
    """Draw learning rates over the steps of a training.

    Args:
        schedules: a function step -> rate, or a dict from label to function.
        steps: int >= 1, how many steps to draw.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if steps is below 1.
    """
    check_save(save)
    check_positive("steps", steps)
    schedules = {None: schedules} if callable(schedules) else schedules
    places = np.unique(np.linspace(1, steps, min(steps, 400)).astype(int))
    figure, axes = new_figure(1, 1, size=(6.0, 3.4))
    for number, schedule in enumerate(schedules.values()):
        rates = [float(schedule(int(step))) for step in places]
        axes[0, 0].plot(places, rates, linestyle=line_style(number))
    axes[0, 0].set_xlabel("step")
    axes[0, 0].set_ylabel("learning rate")
    if None not in schedules:
        labels, style = style_text([show_space(label) for label in schedules])
        for text in axes[0, 0].legend(axes[0, 0].lines, labels).get_texts():
            text.update(style)
    return add_title_and_save(figure, title, save)


def plot_history(history, title=None, save=None):
    """Draw training and validation loss over the steps.

    Args:
        history: the rows that `train` returns: dicts with "step", "loss" and
            "val_loss" (None where it was not measured).
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if there is no row.
    """
    check_save(save)
    if isinstance(history, dict):
        raise TypeError(
            "history must be the rows that train returns, got a dict: turn fit's into "
            '[{"step": i, "loss": loss} for i, loss in enumerate(history["loss"])].'
        )
    if not history:
        raise ValueError("history must hold at least one row, got none.")
    figure, axes = new_figure(1, 1, size=(6.0, 3.6))
    axis = axes[0, 0]
    axis.plot([row["step"] for row in history], [row["loss"] for row in history], label="training")
    measured = [row for row in history if row.get("val_loss") is not None]
    if measured:
        axis.plot(
            [row["step"] for row in measured],
            [row["val_loss"] for row in measured],
            marker="o",
            linestyle="--",
            label="held out",
        )
    axis.set_xlabel("step")
    axis.set_ylabel("loss (nats per token)")
    axis.legend()
    return add_title_and_save(figure, title, save)


def plot_histories(histories, title=None, save=None):
    """Draw the held-out losses of several trainings over the steps; training losses faintly.

    Args:
        histories: dict from label to rows, as `plot_history` takes them.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if there is no history, or one has no row.
    """
    check_save(save)
    if not histories or not all(histories.values()):
        raise ValueError("histories must hold at least one row each, and there must be one.")
    figure, axes = new_figure(1, 1, size=(6.5, 4.0))
    axis, lines = axes[0, 0], []
    for number, history in enumerate(histories.values()):
        color, style = f"C{number}", line_style(number)
        steps, losses = zip(*((row["step"], row["loss"]) for row in history), strict=True)
        (line,) = axis.plot(steps, losses, style, color=color, alpha=0.35, linewidth=1)
        measured = [(row["step"], row["val_loss"]) for row in history if row["val_loss"]]
        if measured:
            (line,) = axis.plot(*zip(*measured, strict=True), style, color=color, marker="o")
        lines.append(line)
    axis.set_xlabel("step")
    axis.set_ylabel("loss (nats per token)")
    labels, style = style_text([show_space(label) for label in histories])
    for text in axis.legend(lines, labels).get_texts():
        text.update(style)
    return add_title_and_save(figure, title, save)


def plot_rates(rates, losses, best=None, title=None, save=None):
    """Draw the losses of a search for a learning rate.

    Args:
        rates: float array (N,), ascending, > 0.
        losses: float array (N,), nats per token.
        best: float, a rate to mark, or None.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if the arrays differ in length or are empty.
    """
    check_save(save)
    if len(rates) != len(losses) or not len(rates):
        raise ValueError(f"rates and losses must be as many, got {len(rates)} and {len(losses)}.")
    figure, axes = new_figure(1, 1, size=(6.0, 3.4))
    axis = axes[0, 0]
    axis.semilogx(rates, losses)
    if best is not None:
        axis.axvline(best, color="C1", linestyle="--", label=f"{best:.2g}")
        axis.legend()
    axis.set_xlabel("learning rate")
    axis.set_ylabel("loss (nats per token)")
    return add_title_and_save(figure, title, save)
