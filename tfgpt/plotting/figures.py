"""Pages, labels and fonts that all figures share.

Labels and titles are shown as text whatever is in them: bytes, white space, control
characters, `$`, and Chinese where a font for it is installed.
"""

import contextlib
import io
import os
import textwrap
import unicodedata
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np

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
LABEL_SIZE = 8  # points
LONGEST_LABEL = 20  # characters of a token; longer ones end in an ellipsis


def new_figure(rows, columns, size):
    """Make a figure with a grid of axes; `size` is inches per cell.

    The figure is made without pyplot's registry, so that none stays in memory. Its page
    is white, or black if the style has light text: viewers of any colour show the labels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """A figure that a notebook shows without pyplot, with its alternative text."""

        alt = ""

        def _repr_png_(self):
            picture = io.BytesIO()
            self.savefig(picture, format="png")
            return picture.getvalue()

        def _repr_mimebundle_(self, include=None, exclude=None):
            # Beside the picture: matplotlib's inline backend draws it without asking us.
            return {}, {"image/png": {"alt": self.alt}} if self.alt else {}

    figure = NotebookFigure(
        figsize=(size[0] * columns, size[1] * rows),
        layout="constrained",
        facecolor="black" if is_dark() else "white",
    )
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def is_dark():
    """Tell whether the style of matplotlib has light text, so that pages are black."""
    from matplotlib import rcParams
    from matplotlib.colors import to_rgb

    return sum(to_rgb(rcParams["text.color"])) >= 1.5


def add_title_and_save(figure, title, save, alt=None):
    """Add title and alternative text, write the file unless it is a page, return the figure."""
    figure.alt = alt or (label_text(title) if title else "")
    if title:
        (text,), style = style_text([wrap_title(label_text(title), figure.get_figwidth())])
        figure.suptitle(text, **style)
    if save is not None and not is_page(save):
        is_svg = Path(save).suffix.lower() == ".svg"
        metadata = {"Title": figure.alt} if is_svg and figure.alt else None
        figure.savefig(save, dpi=150, metadata=metadata)
    return figure


def wrap_title(title, width):
    """Break a title into lines that a figure of `width` inches can show."""
    # A letter of a title takes about 0.11 inches, a Chinese character 0.18.
    letters = int(width * len(title) / (0.11 * len(title) + 0.07 * wide_characters(title)))
    lines = [" ".join(line.split()) for line in title.split("\n")]
    return "\n".join(textwrap.fill(escape_controls(line), max(letters, 1)) for line in lines)


def is_page(save):
    """Tell whether `save` is the path of an interactive page."""
    return save is not None and Path(save).suffix.lower() == ".html"


def check_save(save, pages=False):
    """Raise unless `save` is None or a path that can be written; .html needs `pages`."""
    from matplotlib.backend_bases import FigureCanvasBase

    if save is None:
        return
    if not isinstance(save, (str, os.PathLike)):
        raise TypeError(f"save must be a path or None, got {save!r}.")
    path = Path(save)
    suffixes = sorted(f".{name}" for name in FigureCanvasBase.get_supported_filetypes())
    suffixes = [".html", *suffixes] if pages else suffixes
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"save must end in one of {', '.join(suffixes)}, got {str(path)!r}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"save must be in a folder that exists, got {str(path)!r}: "
            f"create {str(path.parent)!r} first."
        )


def label_text(label):
    """Return a label or title as str: bytes, as tf.data and NumPy have them, are UTF-8."""
    label = label.numpy() if hasattr(label, "numpy") else label
    label = label.item() if isinstance(label, np.ndarray) and label.ndim == 0 else label
    return label.decode(errors="backslashreplace") if isinstance(label, bytes) else str(label)


def label_list(labels):
    """Return labels as a list of str: of a list, array, tensor, or ragged batch of one row."""
    labels = labels.to_list() if hasattr(labels, "to_list") else labels
    labels = list(labels.numpy() if hasattr(labels, "numpy") else labels)
    is_batch = len(labels) == 1 and np.ndim(labels[0]) == 1
    return [label_text(label) for label in (labels[0] if is_batch else labels)]


def check_labels(name, labels, size, of="", hint=""):
    """Return labels as a list of str, None as None; raise unless there is one per position."""
    if labels is None:
        return None
    labels = label_list(labels)
    if len(labels) != size:
        raise ValueError(
            f"{name} must have one label per position{of}, {size}, got {len(labels)}.{hint}"
        )
    return labels


def labels_of_both(query_tokens, key_tokens, sizes):
    """Return the labels of queries and keys; keys have those of the queries if T = S."""
    if key_tokens is None and sizes[0] == sizes[1]:
        key_tokens = query_tokens
    return (
        check_labels("query_tokens", query_tokens, sizes[0]),
        check_labels("key_tokens", key_tokens, sizes[1]),
    )


def cell_side(shape, *tokens):
    """Return the inches of a square heat map whose labels do not touch."""
    given = [label for group in tokens if group is not None for label in tick_labels(group)[0]]
    widths = [label_width(label) for label in given]
    # Above 11 inches the letters become smaller instead.
    return min(max(1.0 + 0.14 * max(shape) + 0.07 * max(widths, default=0), 3.2), 11.0)


def label_axes(axis, query_tokens, key_tokens):
    """Write the tokens, or whole numbers, beside rows and columns."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    for tokens, set_ticks, turns in (
        (key_tokens, axis.set_xticks, True),
        (query_tokens, axis.set_yticks, False),
    ):
        if tokens is None:
            continue
        labels, style = tick_labels(tokens)
        longest = max(map(label_width, labels), default=0)
        # Labels lie flat where two letters are the most, or where all fit into 2 inches.
        rotation = 90 if turns and longest > 2 and len(labels) * (longest + 1) > 28 else 0
        size = min(LABEL_SIZE, LABEL_SIZE * 70 / max(len(labels), 1))
        set_ticks(range(len(labels)), labels, rotation=rotation, fontsize=size, **style)


def tick_labels(tokens):
    """Return labels that leave room for the picture, and the style that shows them."""
    labels, style = style_text([show_space(token) for token in tokens])
    return [shorten(label) for label in labels], style


def escape_controls(text):
    """Write control characters and halves of characters as escapes: they would be lost."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def show_space(token):
    """Escape a token, and show the spaces of one that is nothing else."""
    text = escape_controls(label_text(token))
    return text.replace(" ", "\u2423") if text.strip(" ") == "" else text


def shorten(label):
    """Cut a long label and show that it was cut."""
    if len(label) <= LONGEST_LABEL:
        return label
    return label[: LONGEST_LABEL - 1] + "\u2026"


def wide_characters(text):
    """Count the characters that take twice the room of a letter, as Chinese ones do."""
    return sum(unicodedata.east_asian_width(character) in "WF" for character in text)


def label_width(label):
    """Return how many letters wide a label is."""
    return len(label) + wide_characters(label)


def code_points(label):
    """Write characters that no font shows as U+XXXX."""
    return "".join(
        f"U+{ord(character):04X}" if character >= FIRST_CJK_CHARACTER else character
        for character in label
    )


def style_text(labels):
    """Return labels and the style that shows them; code points where no font has them."""
    style = {"parse_math": False}  # a `$` is a `$`
    if not any(character >= FIRST_CJK_CHARACTER for label in labels for character in label):
        return labels, style
    font = cjk_font()
    if font is None:
        return [code_points(label) for label in labels], style
    return labels, style | {"fontfamily": [font, "sans-serif"]}


@lru_cache(maxsize=1)
def cjk_font():
    """Find an installed font with Chinese characters; warn once if there is none."""
    font = installed_cjk_font() or newly_installed_cjk_font()
    if font is None:
        warnings.warn(
            "No font with Chinese characters was found; labels show code points. Install one, "
            "for example Noto Sans CJK (Debian: apt install fonts-noto-cjk), and restart Python.",
            stacklevel=2,
        )
    return font


def installed_cjk_font():
    """Return the first of CJK_FONTS that Matplotlib knows, or None."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return next((font for font in CJK_FONTS if font in installed), None)


def newly_installed_cjk_font():
    """Show Matplotlib the fonts that were installed after it wrote its list, and look again."""
    from matplotlib import font_manager

    known = {font.fname for font in font_manager.fontManager.ttflist}
    for path in set(font_manager.findSystemFonts()) - known:
        # A file that is no font, or of a kind Matplotlib cannot read, is left out.
        with contextlib.suppress(Exception):
            font_manager.fontManager.addfont(path)
    return installed_cjk_font()
