"""Figures of what a GPT computes on the way: lenses, patches, induction heads.

Arrays and tokens in, a matplotlib Figure out. Nothing here knows a model. Shape letters: T
length, L layers, H heads, P period.
"""

import numpy as np

from tfgpt.plotting.figures import (
    add_title_and_save,
    check_labels,
    check_save,
    label_axes,
    new_figure,
    tick_labels,
)
from tfgpt.plotting.viewer import check_arrays

LENS_CELL = (0.75, 0.32)  # inches


def plot_lens(probabilities, words, tokens=None, title=None, save=None):
    """Draw what a model would say behind each layer and token: the embeddings are the last row.

    Args:
        probabilities: float array (L + 1, T), of the word of each cell, in [0, 1]; row 0
            belongs to the embeddings, as `logit_lens` has it.
        words: list of L + 1 lists of T str, the likeliest next token of each cell.
        tokens: list of T labels, what is read, or None.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if a shape is wrong, or a probability is NaN or outside [0, 1].

    Example:
        >>> figure = plot_lens([[0.1, 0.2], [0.9, 0.8]], [["a", "b"], ["c", "d"]], ["I", "am"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['a', 'b', 'c', 'd']
    """
    check_save(save)
    shown = check_arrays({"probabilities": np.asarray(probabilities)[None]})["probabilities"][0]
    if len(words) != len(shown):
        raise ValueError(f"words must have one row per layer, {len(shown)}, got {len(words)}.")
    words = [check_labels("words", row, shown.shape[1]) for row in words]
    tokens = check_labels("tokens", tokens, shown.shape[1])
    names = ["embedding", *(f"block {index}" for index in range(len(shown) - 1))]
    size = (LENS_CELL[0] * shown.shape[1] + 1.8, LENS_CELL[1] * len(shown) + 1.2)
    figure, axes = new_figure(1, 1, size)
    axis = axes[0, 0]
    image = axis.imshow(shown, vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower")
    label_axes(axis, names, tokens)
    for row, labels in enumerate(words):
        texts, style = tick_labels(labels)
        for column, text in enumerate(texts):
            colour = "black" if shown[row, column] > 0.6 else "white"
            place = {"ha": "center", "va": "center", "fontsize": 7, "color": colour}
            axis.text(column, row, text, **place, **style)
    figure.colorbar(image, ax=axis, label="probability")
    alt = describe(
        title, f"a heat map of {len(shown)} layers and {shown.shape[1]} tokens with a word"
    )
    return add_title_and_save(figure, title, save, f"{alt} in each cell; last row: {words[-1]}")


def plot_patching(table, labels=None, what="position", title=None, save=None):
    """Draw how much of the answer each patch brings back: rows are blocks, the first below.

    Args:
        table: float array (L, N), as `patching_map` returns it.
        labels: list of N labels, or None: numbers.
        what: str, what the columns are.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if the shape is wrong or a value is NaN.

    Example:
        >>> figure = plot_patching([[0.0, 1.0]], ["head 0", "head 1"], "head")
        >>> len(figure.axes)  # the map and the colour bar
        2
    """
    check_save(save)
    table = np.asarray(table, dtype=float)
    if table.ndim != 2 or table.size == 0 or np.isnan(table).any():
        raise ValueError(f"table must be numbers (L, N), got shape {table.shape} or a NaN.")
    labels = check_labels("labels", labels, table.shape[1])
    size = (min(max(0.3 * table.shape[1] + 1.8, 3.2), 11.0), 0.4 * len(table) + 1.4)
    figure, axes = new_figure(1, 1, size)
    axis, most = axes[0, 0], max(1.0, np.abs(table).max())
    image = axis.imshow(table, vmin=-most, vmax=most, cmap="RdBu", aspect="auto", origin="lower")
    label_axes(axis, [f"block {index}" for index in range(len(table))], labels)
    axis.set_xlabel(what)
    figure.colorbar(image, ax=axis, label="share of the answer")
    place = tuple(int(index) for index in np.unravel_index(table.argmax(), table.shape))
    size = f"a heat map of {len(table)} blocks and {table.shape[1]} columns ({what})"
    alt = describe(title, f"{size}; the largest is {table.max():.2f} at {place}")
    return add_title_and_save(figure, title, save, alt)


def plot_induction(weights, period, title=None, save=None):
    """Draw the attention of heads to a text that is written twice, and mark the stripe.

    An induction head looks along the dashed line: from each token of the second half to the
    token that followed it in the first.

    Args:
        weights: dict from the name of a layer to float array (H, 2 P, 2 P) or
            (1, H, 2 P, 2 P), values in [0, 1]: a row of heads for each layer.
        period: int, P.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if a shape does not fit, or a weight is NaN or outside [0, 1].

    Example:
        >>> figure = plot_induction({"blocks.0.attention.weights": np.eye(6)[None]}, period=3)
        >>> figure.axes[0].lines[0].get_xydata().tolist()  # keys and queries
        [[1.0, 3.0], [3.0, 5.0]]
    """
    check_save(save)
    layers = check_arrays(weights)
    for name, array in layers.items():
        if array.shape[1:] != (2 * period, 2 * period):
            raise ValueError(
                f"weights[{name!r}] must have shape (H, {2 * period}, {2 * period}) for "
                f"period={period}, got {array.shape}."
            )
    columns = max(map(len, layers.values()))
    figure, axes = new_figure(len(layers), columns, size=(2.6, 2.6))
    for number, (row, array) in enumerate(zip(axes, layers.values(), strict=True)):
        for head, axis in enumerate(row[: len(array)]):
            image = axis.imshow(array[head], vmin=0, vmax=1, cmap="viridis")
            axis.plot([1, period], [period, 2 * period - 1], "--", color="white", linewidth=1)
            axis.set_title(f"block {number}, head {head}", fontsize=9)
            axis.set_xlabel("key")
            axis.set_ylabel("query")
        for axis in row[len(array) :]:
            axis.set_axis_off()
    figure.colorbar(image, ax=axes.ravel().tolist(), label="attention weight", shrink=0.8)
    means = {
        f"block {number}, head {head}": np.diagonal(weights, 1 - period)[1:].mean()
        for number, array in enumerate(layers.values())
        for head, weights in enumerate(array)
    }
    text = ", ".join(f"{name}: {mean:.2f}" for name, mean in means.items())
    alt = describe(title, f"heat maps of attention; mean weight on the dashed line: {text}")
    return add_title_and_save(figure, title, save, alt)


def describe(title, text):
    """Put a title before the alternative text of a figure, if there is one."""
    return text if title is None else f"{title}: {text}"
