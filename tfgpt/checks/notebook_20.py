"""Exercises of notebook 20, images as tokens."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of, features

add_exercise = exercises_of("20")


def cut(images, size):
    """Cut images (B, H, W, C) into patches (B, S, P P C), row by row."""
    batch, height, width, channels = images.shape
    cells = images.reshape(batch, height // size, size, width // size, size, channels)
    return cells.swapaxes(2, 3).reshape(batch, -1, size * size * channels)


def patch_vectors(images, kernel, bias, positions):
    """Project patches with the kernel of a convolution and add positions: (B, S, D)."""
    patches = cut(images, len(kernel))
    return patches @ kernel.reshape(-1, kernel.shape[-1]) + bias + positions


def splice(words, token_ids, visual, image_id):
    """Put image vectors (K, D) into their places among words (T, D)."""
    is_image = token_ids == image_id
    result = words.copy()
    result[is_image] = visual[: is_image.sum()]
    return result


def contrast(images, texts, scale):
    """Average the cross-entropy of rows and columns of the table of cosines."""
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts))
    scores = scale * images @ texts.T  # (B, B)
    losses = []
    for table in (scores, scores.T):
        largest = table.max(axis=1)
        logsumexp = np.log(np.exp(table - largest[:, None]).sum(axis=1)) + largest
        losses.append(np.mean(logsumexp - np.diagonal(table)))
    return np.mean(losses)


add_exercise(
    "patchify",
    cut,
    Case(
        "one grey image",
        (np.arange(16).reshape(1, 4, 4, 1), 2),
        "The first patch is [0, 1, 4, 5]: its second row lies W numbers further.",
    ),
    Case(
        "two images in colour",
        (features(2, 4, 4, 3), 2),
        "Inside a patch: row, column, channel. The batch stays the first axis.",
    ),
    Case(
        "higher than wide",
        (features(1, 6, 4, 1), 2),
        "H / P rows and W / P columns of patches, read row by row.",
    ),
    Case(
        "edge case: the whole image is one patch",
        (features(2, 3, 3, 2), 3),
        "One patch keeps its axis: (B, 1, P P C).",
    ),
)

add_exercise(
    "patch vectors",
    patch_vectors,
    Case(
        "four patches",
        (features(2, 4, 4, 3), features(2, 2, 3, 5), np.zeros(5), np.zeros((4, 5))),
        "Patches times the kernel as (P P C, D).",
    ),
    Case(
        "with a bias and positions",
        (features(1, 4, 6, 1), features(2, 2, 1, 4), features(4), features(6, 4)),
        "Add the bias to each patch, and to patch s the row s of the positions.",
    ),
    Case(
        "edge case: patches of one pixel",
        (features(1, 2, 2, 3), features(1, 1, 3, 2), np.ones(2), features(4, 2)),
        "With P = 1 each pixel is a patch.",
    ),
    tolerance=1e-4,
)

add_exercise(
    "splice",
    splice,
    Case(
        "an image between words",
        (features(5, 2), np.array([7, 1, 1, 8, 9]), 10 + features(2, 2), 1),
        "Words stay; the first place of the image gets the first vector.",
    ),
    Case(
        "two images with a word between them",
        (features(6, 2), np.array([2, 2, 5, 2, 2, 6]), 10 + features(4, 2), 2),
        "Count on over both images: the third place gets the third vector.",
    ),
    Case(
        "fewer places than vectors",
        (features(3, 2), np.array([4, 1, 4]), 10 + features(4, 2), 1),
        "Only as many vectors as places: visual[:count].",
    ),
    Case(
        "edge case: a text without an image",
        (features(3, 2), np.array([4, 5, 6]), 10 + features(4, 2), 1),
        "No place, no change.",
    ),
    tolerance=0.0,
)

add_exercise(
    "contrastive loss",
    contrast,
    Case(
        "three pairs",
        (features(3, 4), features(4, 4)[1:], 2.0),
        "Normalise both, multiply by the scale, take the mean of rows and columns.",
    ),
    Case(
        "vectors of other lengths",
        (5 * features(3, 4), features(3, 4)[::-1] / 9, 3.0),
        "Only directions count: divide each vector by its length.",
    ),
    Case(
        "rows and columns differ",
        (np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[1.0, 0.0], [0.8, -0.6]]), 4.0),
        "Each text must find its image, too: use the columns as well.",
    ),
    Case(
        "edge case: a scale of 1,000",
        (features(3, 4), features(3, 4), 1000.0),
        "exp overflows: subtract the largest number of the row before.",
    ),
    tolerance=1e-4,
)
