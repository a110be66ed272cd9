"""Figures of a classifier: which classes it confuses, and whether its confidence is right."""

import numpy as np

from tfgpt.plotting.figures import (
    add_title_and_save,
    cell_side,
    check_labels,
    check_save,
    label_axes,
    new_figure,
)

MOST_NUMBERS = 12  # rows; of more the cells have no numbers


def plot_confusion(matrix, labels, title=None, save=None):
    """Draw a confusion matrix: a row per true class, a column per predicted one.

    Colours are shares of the true class, numbers are examples.

    Args:
        matrix: int array (C, C), examples.
        labels: list of C str.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if the matrix is not square or the labels do not fit.
    """
    matrix = check_square("matrix", matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure, axis = draw_matrix(shares, labels, matrix, "share of the true class", save)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    return add_title_and_save(figure, title, save)


def plot_accuracy_matrix(matrix, tasks, title=None, save=None):
    """Draw how well each task is done after each one that was learned.

    Args:
        matrix: float array (N, N), row: after training on this task; column: measured on
            that one; 0 to 1.
        tasks: list of N str.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if the matrix is not square or the names do not fit.
    """
    matrix = check_square("matrix", matrix)
    figure, axis = draw_matrix(matrix, tasks, np.round(matrix, 2), "accuracy", save)
    axis.set_xlabel("measured on")
    axis.set_ylabel("after training on")
    return add_title_and_save(figure, title, save)


def plot_calibration(confidence, accuracy, counts, title=None, save=None):
    """Draw how often a classifier is right at each confidence; the diagonal is honest.

    Args:
        confidence: float array (N,), the mean confidence of each bin.
        accuracy: float array (N,), the share that is right.
        counts: int array (N,), examples; bins without any are left out.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if the lengths differ.
    """
    check_save(save)
    confidence, accuracy, counts = map(np.asarray, (confidence, accuracy, counts))
    if not len(confidence) == len(accuracy) == len(counts):
        raise ValueError(
            "confidence, accuracy and counts must have one length, got "
            f"{len(confidence)}, {len(accuracy)} and {len(counts)}."
        )
    some = counts > 0
    figure, axes = new_figure(1, 1, size=(4.4, 3.8))
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="grey", linestyle=":", label="honest")
    sizes = 10 + 190 * counts[some] / max(counts.max(initial=0), 1)
    axis.scatter(confidence[some], accuracy[some], s=sizes, alpha=0.7, label="bins, by size")
    axis.set_xlabel("confidence")
    axis.set_ylabel("share that is right")
    axis.legend()
    return add_title_and_save(figure, title, save)


def check_square(name, matrix):
    """Return a matrix as an array; raise unless it is square."""
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} must have the shape (N, N), got {matrix.shape}.")
    return matrix


def draw_matrix(shares, labels, numbers, meaning, save):
    """Draw shares as colours and numbers in the cells; return the figure and its axis."""
    check_save(save)
    labels = check_labels("labels", labels, len(shares))
    side = cell_side(shares.shape, labels)
    figure, axes = new_figure(1, 1, size=(side + 1.4, side))
    axis = axes[0, 0]
    image = axis.imshow(shares, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    label_axes(axis, labels, labels)
    if len(shares) <= MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share < 0.6 else "black"
            text = str(numbers[row, column])
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, ax=axis, label=meaning)
    return figure, axis
