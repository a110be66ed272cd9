"""Pages, labels and fonts that all figures share.

Labels are shown as text whatever is in them: white space, control characters, `$`,
and Chinese where a font for it is installed.
"""

import contextlib
import io
import os
import textwrap
import unicodedata
import warnings
from functools import lru_cache
from pathlib import Path

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
    from matplotlib import rcParams
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """A figure that a notebook shows without pyplot."""

        def _repr_png_(self):
            picture = io.BytesIO()
            self.savefig(picture, format="png")
            return picture.getvalue()

    figure = NotebookFigure(
        figsize=(size[0] * columns, size[1] * rows),
        layout="constrained",
        facecolor="white" if sum(to_rgb(rcParams["text.color"])) < 1.5 else "black",
    )
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def finish(figure, title, save):
    """Add the title, write the file, return the figure."""
    if title:
        (text,), font = readable([fit(title, figure.get_figwidth())])
        figure.suptitle(text, **font)
    if save is not None:
        figure.savefig(save, dpi=150)
    return figure


def fit(title, width):
    """Break a title into lines that a figure of `width` inches can show."""
    # A letter of a title takes about 0.11 inches, a Chinese character 0.18.
    letters = int(width * len(title) / (0.11 * len(title) + 0.07 * wide_characters(title)))
    return "\n".join(textwrap.fill(line, max(letters, 1)) for line in title.split("\n"))


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


def check_labels(name, labels, size):
    """Raise unless there is one label per row or column."""
    if labels is not None and len(labels) != size:
        raise ValueError(f"{name} must have one label per position, {size}, got {len(labels)}.")


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
        labels, font = tick_labels(tokens)
        longest = max(map(label_width, labels), default=0)
        # Labels lie flat where two letters are the most, or where all fit into 2 inches.
        rotation = 90 if turns and longest > 2 and len(labels) * (longest + 1) > 28 else 0
        size = min(LABEL_SIZE, LABEL_SIZE * 70 / max(len(labels), 1))
        set_ticks(range(len(labels)), labels, rotation=rotation, fontsize=size, **font)


def tick_labels(tokens):
    """Return labels that leave room for the picture, and the font that shows them."""
    labels, font = readable([visible(token) for token in tokens])
    return [shorten(label) for label in labels], font


def visible(token):
    """Show white space, control characters and `$` as text: labels would be lost."""
    text = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(token)
    ).replace("$", r"\$")
    return text.replace(" ", "\u2423") if text.strip(" ") == "" else text


def shorten(label):
    """Cut a long label and show that it was cut."""
    if len(label) <= LONGEST_LABEL:
        return label
    return label[: LONGEST_LABEL - 1].rstrip("\\") + "\u2026"


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
