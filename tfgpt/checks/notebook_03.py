"""Exercises of notebook 03, positional encoding."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of, features
from tfgpt.positional import apply_rotary, get_angles, positional_encoding

add_exercise = exercises_of("03")


def interleave(table):
    """Put the columns of the first half on even places, those of the second on odd ones."""
    table = np.asarray(table)
    half = (table.shape[1] + 1) // 2
    mixed = np.empty_like(table)
    mixed[:, ::2], mixed[:, 1::2] = table[:, :half], table[:, half:]
    return mixed


add_exercise(
    "wavelength",
    lambda dim, d_model: 2 * np.pi / get_angles(1, dim, d_model),
    Case("the first feature", (0, 8), "The angle grows by 1 per position: 2 pi."),
    Case(
        "feature 6 of 8", (6, 8), "The angle at position 1 is 1 / 10000^(2 (dim // 2) / d_model)."
    ),
    Case(
        "edge case: an odd feature", (7, 8), "Features 2i and 2i + 1 share one wave: use dim // 2."
    ),
    tolerance=1e-2,
)

add_exercise(
    "interleave",
    interleave,
    Case(
        "width 4",
        (positional_encoding(3, 4, layout="concat")[0],),
        "Sines go to columns 0, 2, ...; cosines to columns 1, 3, ...",
    ),
    Case(
        "edge case: odd width 5",
        (positional_encoding(3, 5, layout="concat")[0],),
        "With 5 columns there are 3 sines and 2 cosines.",
    ),
    Case("any numbers", (features(2, 6),), "Move the columns of the table; compute no new ones."),
)

add_exercise(
    "rotate a pair",
    # With two features there is one pair, and its angle is the position.
    lambda pair, angle: apply_rotary(
        np.asarray(pair, "float32").reshape(1, 1, 1, 2), np.array([angle])
    )[0, 0, 0],
    Case(
        "an angle of 1",
        ([1.0, 0.0], 1.0),
        "The pair is a point; it turns counter-clockwise around 0.",
    ),
    Case("two features", ([2.0, 3.0], 0.5), "Each new number needs both old ones."),
    Case("edge case: angle 0", ([2.0, 3.0], 0.0), "An angle of 0 changes nothing."),
)
