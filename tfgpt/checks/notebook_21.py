"""Exercises of notebook 21, captions and questions."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of, features

add_exercise = exercises_of("21")


def recall(scores, count):
    """Return the share of rows whose own key is among the `count` best; ties count against."""
    own = np.diagonal(scores)[:, None]
    return np.mean((scores >= own).sum(axis=1) <= count)


def zero_shot(images, names):
    """Choose for each image (N, E) the name (G, E) with the largest cosine: int (N,)."""
    names = names / np.linalg.norm(names, axis=1, keepdims=True)
    return (images @ names.T).argmax(axis=1)


def rollout(weights):
    """Follow attention (L, T, T) down through all layers, half of each input staying: (T, T)."""
    stays = np.eye(weights.shape[-1])
    flow = stays
    for table in weights:
        flow = (table + stays) / 2 @ flow
    return flow


def without(image, places, size):
    """Make some patches of an image (H, W, 3) white."""
    image = image.copy()
    for place in places:
        row, column = divmod(place, image.shape[1] // size)
        image[row * size : (row + 1) * size, column * size : (column + 1) * size] = 1.0
    return image


def attention(*shape):
    """Make rows that sum to 1."""
    weights = np.exp(features(*shape))
    return weights / weights.sum(axis=-1, keepdims=True)


add_exercise(
    "recall",
    recall,
    Case(
        "the best of three",
        (np.array([[0.9, 0.1, 0.2], [0.8, 0.7, 0.1], [0.1, 0.2, 0.3]]), 1),
        "The key of row i is number i. The second image finds a wrong one first.",
    ),
    Case(
        "among the best two",
        (np.array([[0.1, 0.5, 0.3], [0.2, 0.3, 0.9], [0.1, 0.2, 0.3]]), 2),
        "Count the keys of a row that are at least as good as its own.",
    ),
    Case(
        "edge case: all scores are equal",
        (np.ones((4, 4)), 1),
        "A model that says the same of all has found nothing: ties count against it.",
    ),
)

add_exercise(
    "zero shot",
    zero_shot,
    Case(
        "two names",
        (np.array([[1.0, 0.1], [0.2, 1.0], [0.9, 0.3]]), np.eye(2)),
        "Compare each image with each name, and take the place of the best.",
    ),
    Case(
        "a long vector",
        (np.array([[1.0, 0.1], [0.1, 1.0]]), np.array([[1.0, 0.0], [20.0, 20.0]])),
        "A cosine knows no length: divide the names by theirs.",
    ),
    Case("edge case: one name", (features(3, 4), features(1, 4)), "There is no choice: 0."),
    tolerance=0.0,
)

add_exercise(
    "rollout",
    rollout,
    Case(
        "two layers",
        (np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [1.0, 0.0]]]),),
        "(second + I) / 2 times (first + I) / 2.",
    ),
    Case(
        "three layers",
        (attention(3, 4, 4),),
        "The last layer stands on the left of the product.",
    ),
    Case(
        "edge case: one layer",
        (attention(1, 3, 3),),
        "Half of the input stays where it is: (weights + I) / 2.",
    ),
)

add_exercise(
    "delete patches",
    without,
    Case(
        "two of four",
        (features(4, 4, 3), [1, 2], 2),
        "Patches are counted row by row: number 1 is at the top on the right.",
    ),
    Case(
        "wider than high",
        (features(4, 6, 3), [3], 2),
        "divmod by the number of columns, W / P.",
    ),
    Case("edge case: no patch", (features(4, 4, 3), [], 2), "Nothing is deleted."),
    tolerance=0.0,
)
