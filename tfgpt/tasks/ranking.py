"""How well scores rank the one right item of each row: hit rate and NDCG.

Shape letters: N rows, V items.
"""

import numpy as np

from tfgpt.validation import check_integer


def ranks(scores, targets):
    """Count the items that score higher than the right one.

    Args:
        scores: float array (N, V), larger is better.
        targets: int array (N,), the right item of each row.

    Returns:
        int array (N,): 0 where the right item is first. An item with an equal score counts
        half, rounded down, as if equal scores were in random order.

    Raises:
        ValueError: if the shapes do not fit or a target is outside [0, V).

    Example:
        >>> ranks([[0.1, 0.7, 0.2]], [2]).tolist()
        [1]
    """
    scores, targets = np.asarray(scores, dtype=float), np.asarray(targets)
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise ValueError(
            "scores must be (N, V) and targets (N,), "
            f"got the shapes {scores.shape} and {targets.shape}."
        )
    if len(targets) and not (targets.min() >= 0 and targets.max() < scores.shape[1]):
        raise ValueError(
            f"targets must be in [0, {scores.shape[1]}), got {targets.min()} to {targets.max()}."
        )
    own = scores[np.arange(len(targets)), targets][:, None]  # (N, 1)
    return (scores > own).sum(axis=1) + ((scores == own).sum(axis=1) - 1) // 2


def hit_rate(scores, targets, k=10):
    """Tell for each row whether the right item is among the best k.

    Args:
        scores: float array (N, V).
        targets: int array (N,).
        k: int >= 1.

    Returns:
        float array (N,) of 0 and 1; its mean is HR@k.

    Raises:
        ValueError: as `ranks`, or if k < 1.

    Example:
        >>> hit_rate([[0.1, 0.7, 0.2]], [2], k=2).tolist()
        [1.0]
    """
    check_integer("k", k, minimum=1)
    return (ranks(scores, targets) < k).astype(float)


def ndcg(scores, targets, k=10):
    """Score each row by the place of its right item: 1 / log2(place + 1), place 1 is best.

    Args:
        scores: float array (N, V).
        targets: int array (N,).
        k: int >= 1; behind place k the score is 0.

    Returns:
        float array (N,) in [0, 1]; its mean is NDCG@k for one right item per row.

    Raises:
        ValueError: as `ranks`, or if k < 1.

    Example:
        >>> ndcg([[0.1, 0.7, 0.2], [3, 2, 1]], [2, 0]).round(3).tolist()
        [0.631, 1.0]

    Source: Järvelin and Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques"
    (2002); Kang and McAuley, "Self-Attentive Sequential Recommendation" (2018), section IV.
    """
    return hit_rate(scores, targets, k) / np.log2(ranks(scores, targets) + 2)
