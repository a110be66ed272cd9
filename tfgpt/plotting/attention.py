"""Figures of attention: one heat map per head, or all layers and heads at a glance.

Arrays and tokens in, a matplotlib Figure out. Nothing here knows a model.
`tfgpt.plotting` offers both functions; `figures` holds what all figures share.
"""

import numpy as np

from tfgpt.plotting.figures import (
    LABEL_SIZE,
    add_title_and_save,
    cell_side,
    check_save,
    is_page,
    label_axes,
    label_list,
    label_text,
    labels_of_both,
    new_figure,
    show_space,
    style_text,
)
from tfgpt.plotting.viewer import check_arrays, check_axis, choose_axes, view_attention
from tfgpt.validation import check_positive

PADDING_COLOUR = "0.8"  # a row that means nothing; 0 is black, 1 is white
PADDING_LABEL = "0.46"  # can be read on white and on black
HALF_THUMBNAIL = 0.46  # of the distance between two; 0.5 would leave no gap


def plot_attention_weights(
    weights,
    query_tokens=None,
    key_tokens=None,
    title=None,
    save=None,
    max_heads=16,
    heads=None,
    max_tokens=64,
    query_mask=None,
):
    """Draw one heat map per head: rows are queries, columns are keys.

    What is left out is written below the figure. An .html page shows the same heads and
    tokens, but no grey rows; it counts its heads from 0, so its title names them.

    Args:
        weights: float array (H, T, S) or (1, H, T, S), or (T, S) for one head, values
            in [0, 1].
        query_tokens: list of T labels, or None.
        key_tokens: list of S labels; default: query_tokens if T = S.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf, or .html for an interactive page), or
            None.
        max_heads: int >= 1, draw at most the first so many heads if `heads` is None.
        heads: int or list of int, the heads to draw, in this order, or None.
        max_tokens: int >= 1, draw at most the first so many queries and keys.
        query_mask: bool array (T,), True = real token; rows of padding are drawn in
            grey. The (1, 1, 1, T) of `padding_mask` serves as well. None: no padding.

    Returns:
        matplotlib Figure.

    Raises:
        TypeError: if weights is a dict, or query_mask is not boolean.
        ValueError: if a shape is wrong, a weight is NaN or outside [0, 1], a label count
            differs from its axis, a head does not exist, or a suffix is unknown.
        FileNotFoundError: if the folder of `save` does not exist.

    Example:
        >>> figure = plot_attention_weights(np.eye(2)[None], ["I", "am"])
        >>> len(figure.axes)  # one head and the colour bar
        2
    """
    check_save(save, pages=True)
    check_positive("max_heads", max_heads)
    check_positive("max_tokens", max_tokens)
    weights = one_layer(weights)
    shown = check_arrays({"attention": weights}, max_tokens)["attention"]
    count, sizes = len(shown), weights.shape[-2:]
    tokens = labels_of_both(query_tokens, key_tokens, sizes)
    tokens = [first_labels(labels, max_tokens) for labels in tokens]
    real = check_query_mask(query_mask, sizes[0])[:max_tokens]
    chosen = choose_heads(heads, count, limit=max_heads)
    notes = cut_notes(sizes, max_tokens)
    if heads is None and len(chosen) < count:
        notes.append(f"first {len(chosen)} of {count} heads")

    titles = [f"head {head}" if count > 1 else "" for head in chosen]
    figure = draw_heads(shown[chosen], titles, *tokens, real)
    write_notes(figure, notes if real.all() else [*notes, "grey rows: padding"])
    if is_page(save):
        notes += heads_notes(heads, chosen)
        save_page(save, shown[chosen], *tokens, title, notes, max_tokens)
    return add_title_and_save(figure, title, save)


def plot_attention_overview(
    weights,
    layers=None,
    heads=None,
    query_tokens=None,
    key_tokens=None,
    title=None,
    save=None,
    max_tokens=128,
):
    """Draw all layers and heads at a glance: one row per layer, one column per head.

    The pictures are too small for tokens; an .html page shows these. Colours follow the
    square root of a weight, so that small weights differ from 0.

    Args:
        weights: dict from layer name to float array (H, T, S) or (1, H, T, S), values
            in [0, 1], as the models return for one sequence.
        layers: list of names, the rows from top to bottom; or a str, one or more whole
            parts of a name, such as "cross", "decoder" or "decoder/1"; None: all.
        heads: int or list of int, the columns from left to right; None: all.
        query_tokens: list of T labels, or a dict {"encoder": source tokens,
            "decoder": target tokens}; needed for an .html page only.
        key_tokens: list of S labels; default: query_tokens.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf, or .html for an interactive page), or
            None.
        max_tokens: int >= 1, draw at most the first so many queries and keys.

    Returns:
        matplotlib Figure.

    Raises:
        TypeError: if weights is no dict.
        ValueError: if a layer or head does not exist, a shape is wrong, a weight is NaN
            or outside [0, 1], tokens do not fit, or a suffix is unknown.
        FileNotFoundError: if the folder of `save` does not exist.

    Example:
        >>> weights = {"encoder/0": np.eye(3)[None], "decoder/0/cross": np.eye(3)[None]}
        >>> figure = plot_attention_overview(weights, layers="cross")
        >>> figure.axes[0].get_yticklabels()[0].get_text()
        'decoder/0/cross\\n3 × 3'
    """
    check_save(save, pages=True)
    check_positive("max_tokens", max_tokens)
    weights = choose_layers(weights, layers)
    sizes = {name: array.shape[-2:] for name, array in weights.items()}
    shown = check_arrays(weights, max_tokens)
    if query_tokens is not None or key_tokens is not None or is_page(save):
        check_tokens(sizes, query_tokens, key_tokens)
    chosen = {
        name: choose_heads(heads, len(array), f"weights[{name!r}]") for name, array in shown.items()
    }
    shown = {name: array[chosen[name]] for name, array in shown.items()}
    columns = max(chosen.values(), key=len)
    notes = []
    if any(max(size) > max_tokens for size in sizes.values()):
        notes.append(f"first {max_tokens} queries and keys")

    rows = [row_label(name, size, max_tokens) for name, size in sizes.items()]
    figure = draw_thumbnails(shown.values(), rows, columns)
    write_notes(figure, ["in each picture: queries down, keys across", *notes])
    if is_page(save):
        tokens = [first_labels(labels, max_tokens) for labels in (query_tokens, key_tokens)]
        notes += heads_notes(heads, columns)
        save_page(save, shown, *tokens, title, notes, max_tokens)
    return add_title_and_save(figure, title, save)


def one_layer(weights):
    """Return the weights of one layer as an array; one head gets a head axis."""
    if isinstance(weights, dict):
        names = ", ".join(map(repr, weights))
        raise TypeError(
            f"weights must be one array, got a dict with {names}: choose a layer and one "
            "sequence of the batch with weights[name][0], or draw all layers of one "
            "sequence with plot_attention_overview."
        )
    weights = np.asarray(weights)
    return weights[None] if weights.ndim == 2 else weights


def choose_layers(weights, layers):
    """Return the chosen part of the dict, in the order of the choice."""
    if not isinstance(weights, dict):
        raise TypeError(
            "weights must be a dict from layer name to array, got "
            f"{type(weights).__name__}: draw one array with plot_attention_weights."
        )
    names = [str(name) for name in weights]
    if isinstance(layers, str):
        # Whole parts: "decoder/1" is in "decoder/1/self", not in "decoder/10/self".
        chosen = [name for name in names if f"/{layers}/" in f"/{name}/"]
    else:
        chosen = names if layers is None else np.atleast_1d(layers).tolist()
    wrong = any(name not in names or chosen.count(name) > 1 for name in chosen)
    if names and (wrong or not chosen):
        raise ValueError(
            f"layers must be names, each once, or a part of the names, of {', '.join(names)}, "
            f"got {layers!r}."
        )
    arrays = dict(zip(names, weights.values(), strict=True))
    return {name: np.asarray(arrays[name]) for name in chosen}


def choose_heads(heads, count, where="weights", limit=None):
    """Return a list of the heads to draw: those asked for, or all up to `limit`."""
    if heads is None:
        return list(range(count))[:limit]
    chosen = np.atleast_1d(heads).tolist()
    for head in chosen:
        if type(head) is not int or not 0 <= head < count:
            raise ValueError(f"heads must be in [0, {count}), the heads of {where}, got {head!r}.")
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"heads must name at least one head, and each once, got {heads!r}.")
    return chosen


def check_query_mask(query_mask, size):
    """Return a bool array (T,), True = real token; all real if there is no mask."""
    if query_mask is None:
        return np.ones(size, bool)
    mask = np.asarray(query_mask)
    if mask.dtype != bool:
        raise TypeError(
            f"query_mask must be boolean with True = real token, got dtype {mask.dtype}: "
            "write, for example, token_ids != 0."
        )
    if mask.size != size or mask.shape[-1:] != (size,):
        raise ValueError(
            f"query_mask must have shape ({size},), one value per query, got shape {mask.shape}."
        )
    return mask.reshape(size)


def check_tokens(sizes, query_tokens, key_tokens):
    """Raise unless every layer has its tokens; `sizes` is a dict from name to (T, S)."""
    if query_tokens is None:
        raise ValueError(
            "query_tokens must be given with key_tokens and for an .html page: a list, or "
            'for an encoder-decoder {"encoder": [...], "decoder": [...]}, got None.'
        )
    for name, size in sizes.items():
        axes = choose_axes(name, query_tokens, key_tokens)
        for (_, label, tokens), length in zip(axes, size, strict=True):
            check_axis(name, label, tokens, length, max_tokens=length)


def first_labels(labels, max_tokens):
    """Keep the first labels of a list, or of each list in a dict."""
    if isinstance(labels, dict):
        return {name: first_labels(part, max_tokens) for name, part in labels.items()}
    return None if labels is None else label_list(labels)[:max_tokens]


def cut_notes(sizes, max_tokens):
    """Say which axes are longer than what is shown of them."""
    return [
        f"first {max_tokens} of {size} {name}"
        for name, size in zip(("queries", "keys"), sizes, strict=True)
        if size > max_tokens
    ]


def heads_notes(heads, chosen):
    """Name the chosen heads, for a page that counts them from 0."""
    return [] if heads is None else [f"heads {', '.join(map(str, chosen))}"]


def row_label(name, size, max_tokens):
    """Write a layer's name and its queries x keys; where it was cut, what is shown of them."""
    numbers = [f"{max_tokens} of {part}" if part > max_tokens else str(part) for part in size]
    return f"{show_space(name)}\n" + " \u00d7 ".join(numbers)


def write_notes(figure, notes):
    """Write what a reader must know below the figure, one line each."""
    figure.supxlabel("\n".join(notes), fontsize=9)


def draw_heads(weights, titles, query_tokens, key_tokens, real):
    """Draw a grid of heat maps of (H, T, S), the rows grey where `real` (T,) is False."""
    side = cell_side(weights.shape[1:], query_tokens, key_tokens)
    columns = min(len(weights), 4, int(22 / side))
    rows = -(-len(weights) // columns)
    figure, axes = new_figure(rows, columns, size=(side, side))
    for axis in axes.flat[len(weights) :]:
        axis.set_visible(False)
    for axis, title, values in zip(axes.flat, titles, weights, strict=False):
        values = np.where(real[:, None], values, np.nan)  # NaN shows the page below
        image = axis.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axis.set_facecolor(PADDING_COLOUR)
        label_axes(axis, query_tokens, key_tokens)
        padded = np.flatnonzero(~real) if query_tokens is not None else []
        for row in padded:
            axis.get_yticklabels()[row].set_color(PADDING_LABEL)
        axis.set(title=title, xlabel="key", ylabel="query")
    figure.colorbar(image, ax=axes.ravel().tolist(), label="attention weight", shrink=0.8)
    return figure


def draw_thumbnails(layers, rows, columns):
    """Draw a table of small pictures, layers (H, T, S) by heads; one pair of axes is quick."""
    from matplotlib.colors import PowerNorm

    cell = min(max(11 / len(columns), 0.5), 1.2)  # inches
    longest = max(len(line) for row in rows for line in row.split("\n"))
    size = (cell * len(columns) + 0.07 * longest + 1.0, max(cell * len(rows) + 1.2, 2.4))
    figure, ((axis,),) = new_figure(1, 1, size=size)
    scale = PowerNorm(0.5, vmin=0, vmax=1)
    for row, heads in enumerate(layers):
        for column, values in enumerate(heads):
            left, right = column - HALF_THUMBNAIL, column + HALF_THUMBNAIL
            place = (left, right, row + HALF_THUMBNAIL, row - HALF_THUMBNAIL)
            image = axis.imshow(values, norm=scale, extent=place, aspect="auto")
    names, style = style_text(rows)
    axis.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), xlabel="head")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), names, **style)
    axis.tick_params(length=0, labelsize=LABEL_SIZE)
    axis.xaxis.tick_top()
    axis.xaxis.set_label_position("top")
    axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=axis, label="attention weight", aspect=40, pad=0.02)
    return figure


def save_page(path, weights, query_tokens, key_tokens, title, notes, max_tokens):
    """Write the interactive page; what it leaves out, the notes, is in its title."""
    if not isinstance(weights, dict):
        query_tokens = range(weights.shape[1]) if query_tokens is None else query_tokens
        key_tokens = range(weights.shape[2]) if key_tokens is None else key_tokens
    if notes:
        title = f"{label_text(title or 'Attention')} ({', '.join(notes)})"
    view_attention(weights, query_tokens, key_tokens, title, path, max_tokens)
