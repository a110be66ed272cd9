"""The bundled pictures: 1,907 emoji of 32 x 32 pixels with captions in five languages.

Pictures: Noto Color Emoji (SIL Open Font License 1.1). Captions, groups, tags: emojibase-data
(MIT). Pictures whose names differ in gender, colour, direction, hour or phase only form a
family; a family is never divided between training and test.
"""

import re
from dataclasses import dataclass

import numpy as np

from tfgpt.data.texts import DATA_FOLDER, read_utf8
from tfgpt.validation import check_integer
from tfgpt.vision.reading import read_image

SIDE, COLUMNS = 32, 48  # of a picture, in pixels; of the sheet, in pictures
LANGUAGES = ("en", "zh", "de", "fr", "es")
# Words that do not make another family.
VARIANTS = frozenset(
    (
        *("man", "woman", "person", "people", "men", "women", "boy", "girl", "child", "adult"),
        *("old", "older", "baby", "and", "mrs.", "mx", "santa", "prince", "princess"),
        *("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white"),
        *("gray", "grey", "pink", "light", "left", "right", "up", "down", "left-right"),
        *("up-right", "up-left", "down-right", "down-left", "up-down", "upwards", "downwards"),
        *("first", "last", "new", "full", "quarter", "crescent", "waxing", "waning", "gibbous"),
        *("1st", "2nd", "3rd", "large", "medium", "small", "medium-small", "low", "high"),
    )
)
# Other names of a family: a pattern of the caption, and the name.
FAMILIES = (
    (r"o’clock|-thirty$", "clock"),
    (r"^(merman|mermaid|merperson)$", "merperson"),
    (r"“.+” button|button$", "button"),
    (r" hair$|hair:|^skin-tone|skin tone", "hair or skin"),
)
LARGEST = 20  # pictures of a family that may be held out; larger ones are read in training


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size and what is known of each.

    Args:
        images: float32 array (N, H, W, 3), values in [0, 1].
        captions: dict from a language to a list of N str; "en" is always there.
        groups: list of N str, or of N None where there are no groups.
        tags: list of N tuples of str.
        families: list of N str; pictures of one family belong together.
    """

    images: np.ndarray
    captions: dict
    groups: list
    tags: list
    families: list

    def __len__(self):
        return len(self.images)

    def take(self, places):
        """Return the pictures at these places."""

        def chosen(column):
            return [column[place] for place in places]

        return Pictures(
            self.images[np.asarray(places, dtype=int)],
            {language: chosen(column) for language, column in self.captions.items()},
            *(chosen(column) for column in (self.groups, self.tags, self.families)),
        )


def load_emoji():
    """Read the bundled emoji, on white.

    Returns:
        Pictures: 1,907 of 32 x 32 pixels, in ten groups, with captions in "en", "zh", "de",
        "fr" and "es".

    Example:
        >>> emoji = load_emoji()
        >>> emoji.images.shape, emoji.captions["de"][0], emoji.groups[0]
        ((1907, 32, 32, 3), 'grinsendes Gesicht', 'smileys-emotion')
    """
    text = read_utf8(DATA_FOLDER / "emoji32.tsv", "data", "the bundled table")
    rows = [line.split("\t") for line in text.rstrip("\n").split("\n")]
    _, groups, *captions, tags = (list(column) for column in zip(*rows, strict=True))
    sheet = read_image(DATA_FOLDER / "emoji32.png").astype("float32") / 255  # (R, C, 3)
    height, width = (size // SIDE for size in sheet.shape[:2])
    cells = sheet.reshape(height, SIDE, width, SIDE, 3).swapaxes(1, 2)  # cut into a grid
    return Pictures(
        images=cells.reshape(-1, SIDE, SIDE, 3)[: len(rows)],
        captions=dict(zip(LANGUAGES, captions, strict=True)),
        groups=groups,
        tags=[tuple(row.split("|")) for row in tags],
        families=[family(caption) for caption in captions[0]],
    )


def family(caption):
    """Return the name of the family of an English caption.

    Example:
        >>> [family(caption) for caption in ("woman farmer", "flag: Oman", "red heart")]
        ['farmer', 'flag', 'heart']
    """
    for pattern, name in FAMILIES:
        if re.search(pattern, caption):
            return name
    start = re.split(r":| with | without | in ", caption)[0].lower()
    words = [word for word in start.split() if word not in VARIANTS]
    return " ".join(words) or ("person" if start.split() else caption)


def split_pictures(pictures, seed=0, shares=(0.08, 0.16)):
    """Divide pictures into training, validation and test parts, whole families each.

    A family of more than 20 pictures, such as the flags, is always read in training: held
    out, it alone would decide the scores.

    Args:
        pictures: Pictures.
        seed: int >= 0; the same seed gives the same parts.
        shares: two floats, of the families for validation and test.

    Returns:
        tuple of three Pictures.

    Raises:
        ValueError: if seed is no integer >= 0, or fewer than 10 families can be held out.

    Example:
        >>> [len(part) for part in split_pictures(load_emoji())]
        [1558, 137, 212]
    """
    check_integer("seed", seed, minimum=0)
    names, sizes = np.unique(pictures.families, return_counts=True)
    small = names[sizes <= LARGEST]
    if len(small) < 10:
        raise ValueError(f"pictures must be of at least 10 small families, got {len(small)}.")
    order = np.random.default_rng(seed).permutation(small)
    validation, test = (max(round(share * len(small)), 1) for share in shares)
    in_test = np.isin(pictures.families, order[:test])
    in_validation = np.isin(pictures.families, order[test : test + validation])
    parts = ~in_test & ~in_validation, in_validation, in_test
    return tuple(pictures.take(np.flatnonzero(part)) for part in parts)
