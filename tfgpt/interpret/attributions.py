"""Attributions: how much each token of a text did for one number that a model computes.

The number is a `score`: a function of the embeddings. `next_token_score` and `class_score`
make one. Shape letters: N rows, T length, D model width.
"""

import keras
import numpy as np
from keras import ops

from tfgpt.validation import check_order, check_positive


def next_token_score(model, token_ids, target):
    """Make the score of one next token, behind the last one.

    Args:
        model: GPT.
        token_ids: int array (1, T), without padding on the right.
        target: int, the token.

    Returns:
        function of embeddings, float (N, T, D), that returns the log-probability, float (N,).
    """
    mask = model.own_mask(token_ids)

    def score(x):
        last = model.hidden(x, mask)[:, -1:]  # (N, T, D) -> (N, 1, D)
        logits = model.logits(last)[:, 0]  # (N, V)
        return ops.log_softmax(logits, axis=-1)[:, target]

    return score


def class_score(classifier, token_ids, label):
    """Make the score of one class of a text.

    Args:
        classifier: tfgpt.tasks.heads.TextClassifier.
        token_ids: int array (1, T).
        label: int, the class.

    Returns:
        function of embeddings, float (N, T, D), that returns the log-probability, float (N,).
    """

    def score(x):
        rows = ops.repeat(ops.convert_to_tensor(token_ids), x.shape[0], axis=0)  # (N, T)
        return ops.log_softmax(classifier.score(x, rows), axis=-1)[:, label]

    return score


def average_embeddings(model, token_ids):
    """Embed a text of which nothing is known but its length: the baseline of attributions.

    Args:
        model: GPT.
        token_ids: int array (B, T).

    Returns:
        float tensor (B, T, D): each token's row of the table exchanged for the average row;
        positions are kept.
    """
    table = ops.cast(model.embedding.embeddings, "float32")
    rows = ops.take(table, ops.cast(token_ids, "int32"), axis=0)
    x = model.embed(token_ids)
    return x - ops.cast(rows - ops.mean(table, axis=0), x.dtype)


def gradient_times_input(score, x, baseline=None):
    """Multiply the gradient of a score with what each token adds to a baseline.

    It is exact where the score is linear, and a guess elsewhere.

    Args:
        score: function from float (N, T, D) to float (N,); rows do not meet.
        x: float tensor (1, T, D), `model.embed(token_ids)`.
        baseline: float tensor (1, T, D); None: zeros.

    Returns:
        float32 array (T,).

    Raises:
        ValueError: if x holds more than one text.
        RuntimeError: if the Keras backend is neither TensorFlow nor JAX.

    Example:
        >>> x = np.array([[[1.0, 2.0], [3.0, 4.0]]], "float32")
        >>> gradient_times_input(lambda x: keras.ops.sum(2 * x, axis=(1, 2)), x).tolist()
        [6.0, 14.0]

    Source: Shrikumar et al., "Not Just a Black Box" (2016).
    """
    x, baseline = check_text(x, baseline)
    return sum_features(gradient_of(score, x) * (x - baseline))


def integrated_gradients(score, x, baseline=None, steps=32):
    """Average the gradient on the way from a baseline to the text, times that way.

    The attributions of a text sum to score(x) - score(baseline), up to the error of `steps`.

    Args:
        score: function from float (N, T, D) to float (N,); rows do not meet.
        x: float tensor (1, T, D), `model.embed(token_ids)`.
        baseline: float tensor (1, T, D), such as `average_embeddings`; None: zeros.
        steps: int >= 1, points of the integral, placed by Gauss and Legendre.

    Returns:
        attributions, float32 array (T,); and the gap, float: their sum minus
        score(x) - score(baseline).

    Raises:
        ValueError: if x holds more than one text, or steps is below 1.
        RuntimeError: if the Keras backend is neither TensorFlow nor JAX.

    Example:
        >>> x = np.array([[[1.0, 2.0], [3.0, 4.0]]], "float32")
        >>> found, gap = integrated_gradients(lambda x: keras.ops.sum(x**3, axis=(1, 2)), x)
        >>> found.round(3).tolist(), abs(gap) < 1e-3
        ([9.0, 91.0], True)

    Source: Sundararajan et al., "Axiomatic Attribution for Deep Networks" (2017).
    """
    x, baseline = check_text(x, baseline)
    points, shares = np.polynomial.legendre.leggauss(check_positive("steps", steps))
    points, shares = (
        ops.cast(numbers.reshape(-1, 1, 1) / 2, x.dtype) for numbers in (points + 1, shares)
    )
    way = baseline + points * (x - baseline)  # (steps, T, D)
    gradient = ops.sum(shares * gradient_of(score, way), axis=0, keepdims=True)
    found = sum_features(gradient * (x - baseline))
    first, last = ops.convert_to_numpy(score(ops.concatenate([baseline, x])))
    return found, float(found.sum() - (last - first))


def deletion_curve(score, x, order, baseline=None):
    """Delete tokens of a text one after the other and watch a score fall.

    If attributions are true, deleting the largest first lowers the score faster than any
    other order.

    Args:
        score: function from float (N, T, D) to float (N,); rows do not meet.
        x: float tensor (1, T, D), `model.embed(token_ids)`.
        order: int array (T,), the positions in the order of their deletion.
        baseline: float tensor (1, T, D), what a deleted token becomes; None: zeros.

    Returns:
        float array (T + 1,), the score without 0, 1, ..., T tokens.

    Raises:
        ValueError: if x holds more than one text, or order not every position once.

    Source: Samek et al., "Evaluating the Visualization of What a Deep Neural Network Has
    Learned" (2017).
    """
    x, baseline = check_text(x, baseline)
    length = x.shape[1]
    rank = np.argsort(check_order(order, length))  # when each position is deleted
    kept = rank >= np.arange(length + 1)[:, None]  # (T + 1, T)
    rows = ops.where(kept[..., None], x, baseline)
    return ops.convert_to_numpy(score(rows)).astype("float64")


def check_text(x, baseline):
    """Return the embeddings of one text and its baseline as tensors (1, T, D)."""
    x = ops.convert_to_tensor(x)
    if len(x.shape) != 3 or x.shape[0] != 1:
        raise ValueError(f"x must be one text, (1, T, D), got shape {tuple(x.shape)}.")
    return x, ops.zeros_like(x) if baseline is None else ops.convert_to_tensor(baseline)


def gradient_of(score, x):
    """Return the gradient of the scores of rows by their inputs: (N, T, D) -> (N, T, D)."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            total = ops.sum(score(x))
        return tape.gradient(total, x)
    if backend == "jax":
        import jax

        return jax.grad(lambda x: ops.sum(score(x)))(x)
    raise RuntimeError(f"attributions need the TensorFlow or JAX backend, got {backend!r}.")


def sum_features(x):
    """Sum over the features of each token: (1, T, D) -> float32 array (T,)."""
    return ops.convert_to_numpy(ops.sum(ops.cast(x, "float32"), axis=-1))[0]
