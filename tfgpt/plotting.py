"""Figures: arrays and tokens in, a matplotlib Figure out.

Nothing here knows a model. Figures are readable on light and dark pages, need no
screen, and show Chinese labels when a font for them is installed.
"""

import io
import warnings
from functools import lru_cache

import numpy as np

from tfgpt.validation import check_positive

# Fonts with Chinese characters, by the names they have on Linux, macOS and Windows.
CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Heiti SC",
    "Songti SC",
    "Arial Unicode MS",
    "Microsoft YaHei",
    "SimHei",
    "Droid Sans Fallback",
)
FIRST_CJK_CHARACTER = "\u2e80"


def plot_attention_weights(
    weights, query_tokens=None, key_tokens=None, title=None, save=None, max_heads=16
):
    """Draw one heat map per head: rows are queries, columns are keys.

    Args:
        weights: float array (H, T, S), or (T, S) for one head, values in [0, 1].
        query_tokens: list of T labels, or None.
        key_tokens: list of S labels; default: query_tokens if T = S.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.
        max_heads: int >= 1, draw at most so many heads.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if the shape is wrong or a label count differs from its axis.

    Example:
        >>> figure = plot_attention_weights(np.eye(2)[None], ["I", "am"])
        >>> len(figure.axes)  # one head and the colour bar
        2
    """
    if isinstance(weights, dict):
        names = ", ".join(map(repr, weights))
        raise TypeError(
            f"weights must be one array, got a dict with {names}: choose a layer and one "
            "sequence of the batch with weights[name][0]."
        )
    weights = np.asarray(weights, dtype="float32")
    weights = weights[None] if weights.ndim == 2 else weights
    if weights.ndim != 3 or not weights.size:
        raise ValueError(
            f"weights must have shape (H, T, S) or (T, S), got {weights.shape}: "
            "choose one sequence of the batch with weights[0]."
        )
    check_positive("max_heads", max_heads)
    if key_tokens is None and weights.shape[1] == weights.shape[2]:
        key_tokens = query_tokens
    check_labels("query_tokens", query_tokens, weights.shape[1])
    check_labels("key_tokens", key_tokens, weights.shape[2])

    num_heads = min(len(weights), max_heads)
    columns = min(num_heads, 4)
    rows = -(-num_heads // columns)
    # Labels need about 0.14 inches each; 8 inches are enough for any screen.
    side = min(max(3.2, 1.2 + 0.14 * max(weights.shape[1:])), 8.0)
    figure, axes = new_figure(rows, columns, size=(side, side))
    for head, axis in enumerate(axes.flat):
        if head >= num_heads:
            axis.set_visible(False)
            continue
        image = axis.imshow(weights[head], vmin=0, vmax=1, cmap="viridis", aspect="auto")
        label_axes(axis, query_tokens, key_tokens)
        if num_heads > 1:
            axis.set_title(f"head {head}")
        axis.set_xlabel("key")
        axis.set_ylabel("query")
    figure.colorbar(image, ax=axes.ravel().tolist(), label="attention weight", shrink=0.8)
    return finish(figure, title, save)


def plot_mask(mask, query_tokens=None, key_tokens=None, title=None, save=None):
    """Draw a mask: bright cells may attend, dark cells may not.

    Args:
        mask: bool array (T, S), or any shape (..., T, S) with leading sizes 1.
        query_tokens: list of T labels, or None.
        key_tokens: list of S labels; default: query_tokens if T = S.
        title: str above the figure, or None.
        save: path to write to, or None.

    Returns:
        matplotlib Figure.

    Raises:
        TypeError: if the mask is not boolean.
        ValueError: if the shape is wrong or a label count differs from its axis.
    """
    from matplotlib import colormaps

    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"mask must be boolean with True = may attend, got dtype {mask.dtype}.")
    if mask.ndim < 2 or mask.size != mask.shape[-1] * mask.shape[-2]:
        raise ValueError(f"mask must hold one (T, S) matrix, got shape {mask.shape}.")
    mask = mask.reshape(mask.shape[-2:])
    if key_tokens is None and mask.shape[0] == mask.shape[1]:
        key_tokens = query_tokens
    check_labels("query_tokens", query_tokens, mask.shape[0])
    check_labels("key_tokens", key_tokens, mask.shape[1])
    figure, axes = new_figure(1, 1, size=(4.2, 3.8))
    axis = axes[0, 0]
    two_colours = colormaps["viridis"].resampled(2)
    image = axis.imshow(mask, vmin=0, vmax=1, cmap=two_colours, aspect="auto")
    label_axes(axis, query_tokens, key_tokens)
    axis.set_xlabel("key")
    axis.set_ylabel("query")
    bar = figure.colorbar(image, ax=axis, ticks=[0.25, 0.75], shrink=0.8)
    bar.ax.set_yticklabels(["hidden", "may attend"])
    return finish(figure, title, save)


def plot_positional_encoding(encoding, title=None, save=None):
    """Draw a table of positions: rows are positions, columns are features.

    Args:
        encoding: float array (T, D) or (1, T, D).
        title: str above the figure, or None.
        save: path to write to, or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if the shape is wrong.
    """
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
    return finish(figure, title, save)


def plot_schedule(schedules, steps, title=None, save=None):
    """Draw learning rates over the steps of a training.

    Args:
        schedules: a function step -> rate, or a dict from label to function.
        steps: int >= 1, how many steps to draw.
        title: str above the figure, or None.
        save: path to write to, or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if steps is below 1.
    """
    check_positive("steps", steps)
    schedules = {None: schedules} if callable(schedules) else schedules
    places = np.unique(np.linspace(1, steps, min(steps, 400)).astype(int))
    figure, axes = new_figure(1, 1, size=(6.0, 3.4))
    for schedule in schedules.values():
        axes[0, 0].plot(places, [float(schedule(int(step))) for step in places])
    axes[0, 0].set_xlabel("step")
    axes[0, 0].set_ylabel("learning rate")
    if None not in schedules:
        labels, font = readable([visible(label) for label in schedules])
        axes[0, 0].legend(
            axes[0, 0].lines, labels, prop={"family": font["fontfamily"]} if font else None
        )
    return finish(figure, title, save)


def plot_history(history, title=None, save=None):
    """Draw training and validation loss over the steps.

    Args:
        history: the rows that `train` returns: dicts with "step", "loss" and
            "val_loss" (None where it was not measured).
        title: str above the figure, or None.
        save: path to write to, or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if there is no row.
    """
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
            label="held out",
        )
    axis.set_xlabel("step")
    axis.set_ylabel("loss (nats per token)")
    axis.legend()
    return finish(figure, title, save)


def new_figure(rows, columns, size):
    """Make a figure with a grid of axes; `size` is inches per cell.

    The figure is made without pyplot's registry, so that none stays in memory,
    and with a white page, so that dark viewers show the labels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """A figure that a notebook shows without pyplot."""

        def _repr_png_(self):
            picture = io.BytesIO()
            self.savefig(picture, format="png")
            return picture.getvalue()

    figure = NotebookFigure(
        figsize=(size[0] * columns, size[1] * rows), layout="constrained", facecolor="white"
    )
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def finish(figure, title, save):
    """Add the title, write the file, return the figure."""
    if title:
        (text,), font = readable([title])
        figure.suptitle(text, **font)
    if save is not None:
        figure.savefig(save, dpi=150)
    return figure


def check_labels(name, labels, size):
    """Raise unless there is one label per row or column."""
    if labels is not None and len(labels) != size:
        raise ValueError(f"{name} must have one label per position, {size}, got {len(labels)}.")


def label_axes(axis, query_tokens, key_tokens):
    """Write the tokens, or whole numbers, beside rows and columns."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    for tokens, set_ticks, long_rotation in (
        (key_tokens, axis.set_xticks, 90),
        (query_tokens, axis.set_yticks, 0),
    ):
        if tokens is not None:
            labels, font = readable([visible(token) for token in tokens])
            rotation = long_rotation if any(len(label) > 2 for label in labels) else 0
            set_ticks(range(len(labels)), labels, rotation=rotation, fontsize=8, **font)


def visible(token):
    """Show white space, control characters and `$` as text: labels would be lost."""
    text = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(token)
    ).replace("$", r"\$")
    return text.replace(" ", "\u2423") if text.strip(" ") == "" else text


def code_points(label):
    """Write characters that no font shows as U+XXXX."""
    return "".join(
        f"U+{ord(character):04X}" if character >= FIRST_CJK_CHARACTER else character
        for character in label
    )


def readable(labels):
    """Return labels and font arguments that show them; code points without a font."""
    if not any(character >= FIRST_CJK_CHARACTER for label in labels for character in label):
        return labels, {}
    font = cjk_font()
    if font is None:
        return [code_points(label) for label in labels], {}
    return labels, {"fontfamily": [font, "sans-serif"]}


@lru_cache(maxsize=1)
def cjk_font():
    """Find an installed font with Chinese characters; warn once if there is none."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    for font in CJK_FONTS:
        if font in installed:
            return font
    warnings.warn(
        "No font with Chinese characters was found; labels show code points. Install one, "
        "for example Noto Sans CJK (Debian: apt install fonts-noto-cjk), and restart Python.",
        stacklevel=2,
    )
    return None
