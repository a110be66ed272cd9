"""Images as tokens: patches, their exact inverse, and positions in two directions.

Shape letters: B batch, H and W height and width in pixels, C channels, P side of a patch,
S = (H / P) (W / P) patches, D model width.
"""

import numpy as np
from keras import ops

from tfgpt.positional import positional_encoding
from tfgpt.validation import check_positive


def patchify(images, patch_size):
    """Cut images into square patches, row by row, each as one vector.

    Args:
        images: float tensor (B, H, W, C).
        patch_size: int >= 1, P; divides H and W.

    Returns:
        tensor (B, S, P P C). Inside a patch: row, column, channel.

    Raises:
        ValueError: if the shape is another, or P does not divide H and W.

    Example:
        >>> image = np.arange(16).reshape(1, 4, 4, 1)
        >>> np.array(patchify(image, 2))[0].tolist()
        [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words" (2020), section 3.1.
    """
    rows, columns = grid_of(images.shape, patch_size)
    batch, channels = ops.shape(images)[0], images.shape[-1]
    # (B, H, W, C) -> (B, H/P, P, W/P, P, C)
    cells = ops.reshape(images, (batch, rows, patch_size, columns, patch_size, channels))
    cells = ops.transpose(cells, (0, 1, 3, 2, 4, 5))  # -> (B, H/P, W/P, P, P, C)
    return ops.reshape(cells, (batch, rows * columns, patch_size * patch_size * channels))


def unpatchify(patches, patch_size, height, width):
    """Put patches together again: the inverse of `patchify`.

    Args:
        patches: tensor (B, S, P P C).
        patch_size: int >= 1, P.
        height: int, H.
        width: int, W.

    Returns:
        tensor (B, H, W, C).

    Raises:
        ValueError: if the sizes do not fit together.

    Example:
        >>> image = np.arange(16).reshape(1, 4, 4, 1)
        >>> bool((np.array(unpatchify(patchify(image, 2), 2, 4, 4)) == image).all())
        True
    """
    rows, columns = grid_of((None, height, width, 1), patch_size)
    count, size = patches.shape[1:]
    if count != rows * columns or size % patch_size**2:
        raise ValueError(
            f"patches must have shape (B, {rows * columns}, {patch_size**2} C), got "
            f"{tuple(patches.shape)}."
        )
    batch, channels = ops.shape(patches)[0], size // patch_size**2
    cells = ops.reshape(patches, (batch, rows, columns, patch_size, patch_size, channels))
    cells = ops.transpose(cells, (0, 1, 3, 2, 4, 5))  # -> (B, H/P, P, W/P, P, C)
    return ops.reshape(cells, (batch, height, width, channels))


def grid_of(shape, patch_size):
    """Return how many rows and columns of patches images (B, H, W, C) have."""
    check_positive("patch_size", patch_size)
    if len(shape) != 4 or None in shape[1:]:
        raise ValueError(f"images must have shape (B, H, W, C) with known sizes, got {shape}.")
    if shape[1] % patch_size or shape[2] % patch_size:
        raise ValueError(
            f"patch_size must divide height and width, got {patch_size} for "
            f"{shape[1]} x {shape[2]} pixels."
        )
    return shape[1] // patch_size, shape[2] // patch_size


def grid_encoding(rows, columns, d_model):
    """Tabulate sinusoidal positions in two directions.

    The first half of the features tells the row, the second half the column; each half is
    `tfgpt.positional_encoding`.

    Args:
        rows: int >= 1.
        columns: int >= 1.
        d_model: int, D, even.

    Returns:
        float32 numpy array (1, rows columns, D).

    Raises:
        ValueError: if D is odd or a number is below 1.

    Example:
        >>> grid_encoding(2, 3, 8).shape
        (1, 6, 8)
    """
    if check_positive("d_model", d_model) % 2:
        raise ValueError(f"d_model must be even for positions in two directions, got {d_model}.")
    down = positional_encoding(rows, d_model // 2)[0]  # (rows, D/2)
    across = positional_encoding(columns, d_model // 2)[0]  # (columns, D/2)
    # Row by row, as patchify counts: -> (S, D/2) each
    table = [np.repeat(down, columns, axis=0), np.tile(across, (rows, 1))]
    return np.concatenate(table, axis=-1)[None]
