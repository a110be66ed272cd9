"""Figures of images: weights of patches drawn over them, and what their deletion does."""

import numpy as np

from tfgpt.plotting.basics import line_style
from tfgpt.plotting.figures import (
    add_title_and_save,
    check_labels,
    check_save,
    new_figure,
    shorten,
    show_space,
    style_text,
)

MOST_WORDS = 16  # columns of a figure


def plot_patch_weights(images, weights, words, title=None, save=None):
    """Draw the weights of patches over images: a row per image, a column per word.

    The first column shows the image alone. Bright places have large weights; each word has
    its own scale.

    Args:
        images: float array (N, H, W, 3), values in [0, 1].
        weights: float array (A, N, G, G), not negative.
        words: list of A str.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure. Of more than 16 words the first are drawn.

    Raises:
        ValueError: if shapes do not fit, or a weight is negative or NaN.

    Example:
        >>> figure = plot_patch_weights(np.ones((1, 8, 8, 3)), np.ones((2, 1, 4, 4)), ["a", "b"])
        >>> len(figure.axes)
        3
    """
    check_save(save)
    images, weights = np.asarray(images, dtype=float), np.asarray(weights, dtype=float)
    if images.ndim != 4 or weights.ndim != 4 or weights.shape[1] != len(images):
        raise ValueError(
            "weights must have shape (A, N, G, G) for images (N, H, W, 3), got "
            f"{weights.shape} and {images.shape}."
        )
    if not (weights >= 0).all():
        raise ValueError("weights must not be negative or NaN.")
    words = check_labels("words", words, len(weights))[:MOST_WORDS]
    labels, style = style_text([shorten(show_space(word)) for word in words])
    figure, axes = new_figure(len(images), 1 + len(words), size=(1.5, 1.7))
    for row, image in zip(axes, images, strict=True):
        row[0].imshow(image.clip(0, 1))
    for column, label in enumerate(labels):
        most = weights[column].max() or 1.0
        axes[0, column + 1].set_title(label, **style)
        for row, image, some in zip(axes, images, weights[column], strict=True):
            row[column + 1].imshow(lit(image, some / most))
    for axis in axes.flat:
        axis.set_axis_off()
    return add_title_and_save(figure, title, save)


def lit(image, weights):
    """Darken an image where its patches have small weights: (H, W, 3), (G, G) -> (H, W, 3)."""
    rows, columns = (side // count for side, count in zip(image.shape, weights.shape, strict=False))
    light = np.kron(weights, np.ones((rows, columns)))[..., None]
    return (image * (0.15 + 0.85 * light)).clip(0, 1)


def curve_figure(curves, size):
    """Start a figure with one axis for curves; raise unless there is one."""
    if not curves:
        raise ValueError("curves must hold at least one curve, got none.")
    figure, axes = new_figure(1, 1, size=size)
    return figure, axes[0, 0]


def plot_deletion(curves, title=None, save=None, what="patches"):
    """Draw how likely an answer is while patches, or other parts, are deleted.

    Args:
        curves: dict from an order of deletion to float array (S + 1,), probabilities.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.
        what: str, what is deleted.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if there is no curve.
    """
    check_save(save)
    figure, axis = curve_figure(curves, (6.0, 3.6))
    for number, (label, curve) in enumerate(curves.items()):
        axis.plot(np.arange(len(curve)), curve, line_style(number), marker=".", label=label)
    axis.set_xlabel(f"deleted {what}")
    axis.set_ylabel("probability of the answer")
    axis.legend()
    return add_title_and_save(figure, title, save)


def plot_right_answers(curves, baselines=None, title=None, save=None):
    """Draw the share of right answers while models learn.

    Args:
        curves: dict from a name to a list of (step, share in [0, 1]).
        baselines: dict from a name to a share that needs no training; drawn as a level line.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if there is no curve.
    """
    check_save(save)
    figure, axis = curve_figure(curves, (8.0, 3.6))
    for number, (label, points) in enumerate(curves.items()):
        steps, shares = zip(*points, strict=True)
        axis.plot(steps, shares, line_style(number), marker=".", label=label)
    for label, share in (baselines or {}).items():
        axis.axhline(share, color="gray", linewidth=1, linestyle=":")
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axis.annotate(label, (1, share), xytext=(-3, 3), ha="right", fontsize=8, **place)
    axis.set_xlabel("step")
    axis.set_ylabel("share of right answers")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    return add_title_and_save(figure, title, save)
