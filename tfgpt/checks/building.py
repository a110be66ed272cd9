"""How the check of a ladder plays a layer: build it, copy weights into it, ask it."""

from functools import partial

import numpy as np

from tfgpt.checks.registry import WrongAnswerError
from tfgpt.masks import causal_mask

# A mask (2, 1, 1, 4) that differs from sequence to sequence: 3 and 2 of 4 tokens are real.
TWO_LENGTHS = (np.arange(4) < np.array([[3], [2]]))[:, None, None]
LAYERS = {}  # (class, sizes) -> layer with known weights, for all cases of a check


def play_layer(reference, make, sizes, ask):
    """Build a layer, give it the weights that the reference gets too, and ask it.

    Args:
        reference: class of tfgpt with the same signature.
        make: class of the learner, or the reference.
        sizes: dict, the arguments of both.
        ask: function of a layer that returns what is compared.

    Returns:
        what `ask` returns; None as long as the layer returns None.

    Raises:
        WrongAnswerError: if the weights have not the shapes of the reference's.
    """
    layer = build_layer(make, sizes, ask)
    if layer is None:
        return None
    expected = build_layer(reference, sizes, ask)
    check_shapes(layer.weights, expected.weights)
    return ask(layer)


def check_shapes(weights, expected):
    """Raise unless a layer has the weights of the reference, in the same order."""
    if len(weights) != len(expected):
        raise WrongAnswerError(f"there are {len(weights)} weights, expected {len(expected)}.")
    for index, pair in enumerate(zip(weights, expected, strict=True)):
        found, wanted = (tuple(weight.shape) for weight in pair)
        if found != wanted:
            raise WrongAnswerError(f"weight {index} has the shape {found}, expected {wanted}.")


def build_layer(make, sizes, ask):
    """Make a layer once, with known weights; None as long as it returns None."""
    key = make, tuple(sizes.items())
    layer = LAYERS.get(key) or make(**sizes)
    if key not in LAYERS:
        if ask(layer) is None:  # the first call makes the weights
            return None
        layer.set_weights([known_weights(i, w.shape) for i, w in enumerate(layer.weights)])
        LAYERS[key] = layer
    return layer


def known_weights(index, shape):
    """Make small values that differ from place to place and from weight to weight."""
    return 0.5 * np.sin(np.arange(np.prod(shape)) + 2.0 * index).reshape(shape)


def layer_player(reference):
    """Return the `play` of an exercise whose answers are layers."""
    return partial(play_layer, reference)


def output(*inputs, **options):
    """Ask for the output of a call."""
    return lambda layer: layer(*inputs, **options)


def future_leak(x, head_axis=True):
    """Ask how far a change of the last position moves the outputs before it: it must be 0."""

    def ask(layer):
        mask, changed = causal_mask(x.shape[1]), x.copy()
        mask = mask if head_axis else mask[0]  # (1, 1, T, T) or (1, T, T)
        changed[:, -1] += 1
        return difference(layer(changed, mask=mask), layer(x, mask=mask), slice(None, -1))

    return ask


def padding_change(x, real, head_axis=True):
    """Ask how far other values at padded positions move the real ones: it must be 0."""

    def ask(layer):
        mask, changed = (np.arange(x.shape[1]) < real)[None, None, None], x.copy()
        mask = mask if head_axis else mask[0]  # (1, 1, 1, T) or (1, 1, T)
        changed[:, real:] += 1
        return difference(layer(changed, mask=mask), layer(x, mask=mask), slice(0, real))

    return ask


def difference(new, old, places):
    """Subtract two outputs at some positions: (B, T, ...) -> (B, places, ...); None of None."""
    if new is None:
        return None
    return np.asarray(new)[:, places] - np.asarray(old)[:, places]
