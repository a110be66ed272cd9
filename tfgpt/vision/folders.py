"""Images of your own: a table of files and texts, and the pictures as a tf.data stream."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfgpt.data.pairs import read_lines
from tfgpt.validation import check_positive
from tfgpt.vision.emoji import Pictures
from tfgpt.vision.reading import WHITE, as_floats, fit_array, read_image

EXPECTED = "a .tsv file (image, tab, text) or a .jsonl file with the keys image and text"


@dataclass(frozen=True)
class ImageTable:
    """Image files and a text for each.

    Args:
        paths: list of N Path.
        texts: list of N str.
    """

    paths: list
    texts: list

    def __len__(self):
        return len(self.paths)


def load_image_table(path):
    """Read a table of image files with texts; the images themselves are not opened.

    Args:
        path: path of a TSV file with two columns, the name of an image and a text (a first
            line "image, tab, text" is a header), or of a JSONL file with
            {"image": ..., "text": ...} on each line. Names are relative to its folder, and no
            image may lie outside of it.

    Returns:
        ImageTable.

    Raises:
        FileNotFoundError: if the table or an image does not exist.
        ValueError: if the table has no row, a row has another form, or an image lies outside.
    """
    path = Path(path)
    lines = read_lines(path, "data", EXPECTED)
    readers = {".tsv": tab_row, ".jsonl": json_row}
    if path.suffix not in readers:
        raise ValueError(f"data must be {EXPECTED}, got {str(path)!r}.")
    rows = [
        (number, readers[path.suffix](line, f"line {number} of {str(path)!r}"))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if rows and rows[0][1] == ("image", "text"):
        rows = rows[1:]
    if not rows:
        raise ValueError(f"data must have rows, got none in {str(path)!r}.")
    paths = [
        image_path(path.parent, name, f"line {number} of {str(path)!r}")
        for number, (name, _) in rows
    ]
    return ImageTable(paths, [text for _, (_, text) in rows])


def load_pictures(path, size):
    """Read a table of image files with texts, and all images, into memory.

    Args:
        path: path of the table, see `load_image_table`.
        size: int >= 1, side of the squares in pixels; see `read_image`.

    Returns:
        Pictures without groups and tags; the texts are the captions "en", in whatever
        language they are, and pictures with equal texts are of one family.

    Raises:
        FileNotFoundError, ValueError: as `load_image_table` and `read_image`.
    """
    table = load_image_table(path)
    images = np.stack([as_picture(image, size) for image in table.paths])
    count, texts = len(table), table.texts
    return Pictures(images, {"en": texts}, [None] * count, [()] * count, texts)


def tab_row(line, place):
    """Return the image and the text of a line with a tab between."""
    cells = line.split("\t")
    if len(cells) != 2 or not all(cells):
        raise ValueError(f"data must be {EXPECTED}, got {line[:60]!r} on {place}.")
    return tuple(cells)


def json_row(line, place):
    """Return the image and the text of a JSON object."""
    try:
        content = json.loads(line)
        row = content["image"], content["text"]
    except (ValueError, RecursionError, KeyError, TypeError):
        row = (None,)
    if not all(isinstance(cell, str) and cell for cell in row):
        raise ValueError(f"data must be {EXPECTED}, got {line[:60]!r} on {place}.")
    return row


def image_path(folder, name, place):
    """Return the path of an image of a table; raise unless it is a file of the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"image must lie in the folder of its table, got {name!r} on {place}.")
    if not path.is_file():
        raise FileNotFoundError(f"image must be a file that exists, got {name!r} on {place}.")
    return path


def stream_images(paths, size, batch_size, background=WHITE):
    """Read image files one after the other, never all at once.

    Args:
        paths: list of paths.
        size: int >= 1, side of the squares in pixels; see `read_image`.
        batch_size: int >= 1, B.
        background: three ints in [0, 255].

    Returns:
        tf.data.Dataset of float32 (B, size, size, 3), values in [0, 1]; the last batch may be
        smaller.

    Raises:
        ValueError: if an argument is outside its range; from the dataset, as tf.data wraps it,
            if a file cannot be read.
    """
    import tensorflow as tf

    check_positive("size", size)
    check_positive("batch_size", batch_size)

    def pictures():
        for path in paths:
            yield as_floats(read_image(path, size, background))

    signature = tf.TensorSpec((size, size, 3), tf.float32)
    dataset = tf.data.Dataset.from_generator(pictures, output_signature=signature)
    return dataset.batch(batch_size).prefetch(1)


def as_picture(image, size, background=WHITE):
    """Return one image as a model takes it.

    Args:
        image: path; or array (H, W, 3), uint8, or floats in [0, 1].
        size: int, side of the square.
        background: three ints in [0, 255].

    Returns:
        float32 array (size, size, 3), values in [0, 1].

    Raises:
        TypeError: if an array has another dtype.
        ValueError: if an array has another shape or values outside, or as `read_image`.
    """
    if isinstance(image, (str, Path)) or hasattr(image, "read"):
        return as_floats(read_image(image, size, background))
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"image must have shape (H, W, 3), got {image.shape}.")
    if image.dtype == "uint8":
        return as_floats(fit_array(image, size, background))
    if image.dtype.kind != "f":
        raise TypeError(f"image must be uint8, or floats in [0, 1], got dtype {image.dtype}.")
    if not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(f"image must have values in [0, 1], got {image.min()} to {image.max()}.")
    if image.shape[:2] == (size, size):
        return image.astype("float32")
    return as_floats(fit_array((image * 255).round().astype("uint8"), size, background))
