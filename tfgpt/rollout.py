"""Attention followed through layers: how much of each input reaches each output, if attention
told all. Below every room that draws it. Shape letters: T queries, S keys.
"""

import numpy as np


def attention_rollout(layers):
    """Follow attention from the last layer down to the inputs.

    Half of each layer's input is taken to stay where it is, for the residual sum; values,
    heads and feed-forward networks are taken to do nothing. So the result is a picture, and
    a deletion test says how true it is.

    Args:
        layers: list of float arrays (..., T, T), the weights of each layer, lowest first,
            averaged over the heads.

    Returns:
        float array (..., T, T): how much output t took from input s; rows sum to 1.

    Raises:
        ValueError: if there is no layer.

    Example:
        >>> attention_rollout([np.array([[1.0, 0.0], [1.0, 0.0]])]).tolist()
        [[1.0, 0.0], [0.5, 0.5]]

    Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (2020).
    """
    if not len(layers):
        raise ValueError("layers must hold the weights of at least one layer, got none.")
    flow = np.eye(layers[0].shape[-1])
    for weights in layers:
        flow = follow(weights, flow)
    return flow


def follow(weights, flow):
    """Follow one layer more: weights (..., T, T), flow below it (..., T, S) -> (..., T, S)."""
    return (weights + np.eye(weights.shape[-1])) / 2 @ flow
