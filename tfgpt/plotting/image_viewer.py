"""An interactive view of patches: images, weights and words in, one HTML page out.

Like the page of attention it needs no network and no library, and knows no model.

Shape letters: A words, N images, H and W pixels, G rows and columns of patches.
"""

import numpy as np

from tfgpt.plotting.figures import check_labels, label_text
from tfgpt.plotting.viewer import ROUNDING, AttentionView, pack


def view_patch_weights(images, weights, words, title=None, save=None):
    """Make an interactive page: point at a word and see the patches that it looks at.

    As the last line of a notebook cell it is shown there; `save` writes a file for any
    browser. The brightest patch is the one with the largest weight of the word.

    Args:
        images: float array (N, H, W, 3), values in [0, 1].
        weights: float array (A, N, G, G), values in [0, 1]; or a dict from the name of a
            method to such arrays, between which the page can change.
        words: list of A str.
        title: str above the page, or None.
        save: path of an .html file to write, or None.

    Returns:
        PatchView.

    Raises:
        ValueError: if shapes do not fit, or a weight is NaN or outside [0, 1].

    Example:
        >>> view_patch_weights(np.ones((1, 8, 8, 3)), np.full((2, 1, 2, 2), 0.25), ["a", "b"])
        PatchView('', words=2): shown by notebooks; save(path) for a browser
    """
    images = np.asarray(images, dtype="float32")
    methods = weights if isinstance(weights, dict) else {"attention": weights}
    arrays = [check_weights(name, table, images) for name, table in methods.items()]
    if len({array.shape for array in arrays}) != 1:
        raise ValueError(
            "weights must have one shape for all methods, got "
            f"{ {name: np.shape(table) for name, table in methods.items()} }."
        )
    words = [label_text(word) for word in check_labels("words", words, len(arrays[0]))]
    view = PatchView(
        {
            "title": label_text(title or ""),
            "methods": [label_text(name) for name in methods],
            "words": words,
            "count": len(images),
            "grid": arrays[0].shape[-1],
            "height": images.shape[1],
            "width": images.shape[2],
            "images": pack([images], bits=8),
            "weights": pack(arrays, bits=16),
        }
    )
    if save is not None:
        view.save(save)
    return view


def check_weights(name, weights, images):
    """Return weights as a float32 array; raise unless they fit the images."""
    array = np.asarray(weights, dtype="float32")
    fits = images.ndim == 4 and array.ndim == 4 and array.shape[1] == len(images) > 0
    if not fits or array.shape[2] != array.shape[3] or 0 in array.shape:
        raise ValueError(
            "weights must have shape (A, N, G, G) for images (N, H, W, 3), got "
            f"{array.shape} and {images.shape}."
        )
    if not ((array >= 0) & (array <= 1 + ROUNDING)).all():
        raise ValueError(f"weights must be in [0, 1], got others in {name!r}.")
    return array


class PatchView(AttentionView):
    """A page about the patches that words look at; `view_patch_weights` makes it.

    Args:
        content: dict, what the script of the page reads.
    """

    template = "image_viewer.html"

    def __repr__(self):
        return (
            f"PatchView({self.content['title']!r}, words={len(self.content['words'])}): "
            "shown by notebooks; save(path) for a browser"
        )
