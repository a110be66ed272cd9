"""Activation patching: which value, at which place, makes the answer?

Shape letters: B batch, T length, H heads, V vocabulary, L layers.
"""

import numpy as np
from keras import ops

from tfgpt.interpret.walk import PARTS, activations, patched
from tfgpt.validation import check_choice


def logit_difference(right, wrong):
    """Make the measure that compares two answers behind the last token.

    Args:
        right: int, the token that the clean text asks for.
        wrong: int, the token that the corrupted text asks for.

    Returns:
        function of logits, float (B, T, V), that returns float (B,): logit of `right` minus
        logit of `wrong`.
    """
    return lambda logits: logits[:, -1, right] - logits[:, -1, wrong]


def patching_map(model, clean_ids, corrupted_ids, measure, part="residual"):
    """Put one value of a clean run into a corrupted run, and see how much of the answer returns.

    Args:
        model: GPT.
        clean_ids: int array (1, T).
        corrupted_ids: int array (1, T), the same text with another answer.
        measure: function from logits, float (B, T, V), to float (B,), such as
            `logit_difference`.
        part: what is patched in each block, a name behind "blocks.i." of `activations`. Its
            second axis is patched piece by piece: the heads of "attention.heads", the
            positions of "residual", "attention" or "feed_forward".

    Returns:
        float array (L, T), or (L, H) for values with heads: 0 where the patch changes
        nothing, 1 where it brings the whole answer back.

    Raises:
        ValueError: if shapes differ, the part is unknown, or both texts measure the same.

    Example:
        >>> from tfgpt import GPT
        >>> model = GPT(10, context_length=4, num_layers=2, d_model=8, num_heads=2)
        >>> clean, other = np.array([[1, 2, 3]]), np.array([[1, 2, 4]])
        >>> table = patching_map(model, clean, other, logit_difference(5, 6))
        >>> (table[-1].round(3) + 0).tolist()  # of the last block only the last place counts
        [0.0, 0.0, 1.0]

    Source: Heimersheim and Nanda, "How to use and interpret activation patching" (2024).
    """
    check_choice("part", part, PARTS)
    clean_ids, corrupted_ids = np.asarray(clean_ids), np.asarray(corrupted_ids)
    if clean_ids.shape != corrupted_ids.shape or len(clean_ids) != 1:
        raise ValueError(
            "clean_ids and corrupted_ids must have one shape (1, T), got "
            f"{clean_ids.shape} and {corrupted_ids.shape}."
        )
    clean = activations(model, clean_ids, [f"blocks.*.{part}", "logits"])
    best = measure_of(measure, clean.pop("logits"))
    worst = measure_of(measure, patched(model, corrupted_ids, {}))
    if best == worst:
        raise ValueError(f"measure must tell the texts apart, got {float(best[0])!r} for both.")
    table = []
    for name, value in clean.items():
        pieces = value.shape[1]
        chosen = np.eye(pieces, dtype=bool).reshape(pieces, pieces, *[1] * (len(value.shape) - 2))
        rows = np.repeat(corrupted_ids, pieces, axis=0)  # row i: only piece i is clean

        def mend(x, value=value, chosen=chosen):
            return ops.where(chosen, value, x)

        table.append(measure_of(measure, patched(model, rows, {name: mend})))
    return (np.stack(table) - worst) / (best - worst)


def measure_of(measure, logits):
    """Measure logits: float (B, T, V) -> float array (B,)."""
    return ops.convert_to_numpy(measure(logits)).astype("float64")
