"""Image files in, arrays out: any size and mode; what is damaged or hostile is refused.

Needs Pillow: pip install "tfgpt[vision]".
"""

import struct
import warnings
from pathlib import Path

import numpy as np

from tfgpt.validation import check_positive

FORMATS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 2**26  # of a file: 67 million take 200 MB
WHITE = (255, 255, 255)


def read_image(path, size=None, background=WHITE):
    """Read a PNG, JPEG or WebP file.

    The picture is turned as its EXIF data say. Palettes, grey, 16-bit and CMYK become RGB;
    transparent places show the background. With a size the whole picture is made to fit into
    a square, and the rest of the square is background.

    Args:
        path: path of a file, or an open binary file.
        size: int >= 1, side of the square in pixels; None: the size of the file.
        background: three ints in [0, 255], red, green and blue.

    Returns:
        uint8 array (H, W, 3); with a size (size, size, 3).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no such image, is damaged, cut short, animated, or has more
            than 67 million pixels; or an argument is outside its range.
        ImportError: if Pillow is not installed.
    """
    background = check_background(background)
    if size is not None:
        check_positive("size", size)
    with opened(path) as image:
        return np.asarray(fit(flatten(turn(image), background), size, background))


def opened(path):
    """Decode an image file with Pillow; raise with one sentence if it cannot be done."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("images need Pillow: pip install 'tfgpt[vision]'") from error
    name = str(getattr(path, "name", path))
    if isinstance(path, (str, Path)) and not Path(path).is_file():
        raise FileNotFoundError(f"image must be a file that exists, got {name!r}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
            check_opened(image, name)
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(too_large(name, str(error))) from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"image must be a PNG, JPEG or WebP file, got {name!r}.") from error
    except (OSError, SyntaxError, EOFError, IndexError, struct.error) as error:
        raise ValueError(f"image must be undamaged, got {name!r}: {error}.") from error
    return image


def check_opened(image, name):
    """Raise unless an image that is not decoded yet is small enough and stands still."""
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise ValueError(too_large(name, f"{image.width:,} x {image.height:,} pixels"))
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        image.close()
        raise ValueError(f"image must be one picture, got {name!r} with {frames} frames.")


def too_large(name, reason):
    """Say that an image has too many pixels."""
    return f"image must have at most {MOST_PIXELS:,} pixels, got {name!r}: {reason}."


def turn(image):
    """Turn an image as its EXIF data say; data that cannot be read say nothing."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # anything may stand in there
        return image


def flatten(image, background):
    """Lay an image of any mode on a background: mode RGB."""
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype("float32") / 65535 * 255  # 16 bits of grey
        image = Image.fromarray(values.clip(0, 255).astype("uint8"))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    below = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(below, image).convert("RGB")


def fit(image, size, background):
    """Shrink or enlarge a whole image into a square of `size` pixels, the rest background."""
    from PIL import Image, ImageOps

    if size is None or image.size == (size, size):
        return image
    scale = size / max(image.size)
    inner = tuple(max(round(side * scale), 1) for side in image.size)
    image = image.resize(inner, Image.Resampling.LANCZOS)
    return ImageOps.pad(image, (size, size), color=background)


def fit_array(pixels, size, background=WHITE):
    """Make a uint8 array (H, W, 3) fit into a square: (size, size, 3)."""
    from PIL import Image

    return np.asarray(fit(Image.fromarray(pixels), size, background))


def check_background(background):
    """Return a colour as a tuple of ints; raise unless it is three bytes."""
    values = np.asarray(background)
    is_colour = values.shape == (3,) and values.dtype.kind in "iu"
    if not is_colour or values.min() < 0 or values.max() > 255:
        raise ValueError(f"background must be three integers in [0, 255], got {background!r}.")
    return tuple(int(value) for value in values)


def as_floats(images):
    """Turn bytes into numbers: uint8 (..., 3) -> float32 in [0, 1]."""
    return np.asarray(images, dtype="float32") / 255
