"""Rules in training: what must not follow, how much a text counts, and marks of good and bad.

A loss that obeys the first is `tfgpt.tuning.RuleLoss`.
"""

import numpy as np

from tfgpt.generation.constraints import FORBIDDEN
from tfgpt.safety.automata import lift
from tfgpt.safety.banned import BannedPhrases


def rule_targets(banned, inputs, targets):
    """Write beside each target the state of an automaton, for `tfgpt.tuning.RuleLoss`.

    Args:
        banned: BannedPhrases.
        inputs: int array (B, T). What stands before a row is not known.
        targets: int array (B, T), the tokens that follow.

    Returns:
        int32 array (B, T, 2): the target, and the state after the input.

    Raises:
        TypeError: if banned is no BannedPhrases.
        ValueError: if the shapes differ.

    Example:
        >>> from tfgpt import CharTokenizer
        >>> from tfgpt.safety import BannedPhrases
        >>> banned = BannedPhrases("ab", CharTokenizer.train("abc"))  # ids 1, 2, 3
        >>> pairs = rule_targets(banned, np.array([[1, 3]]), np.array([[3, 1]]))
        >>> forbidden_after(banned)[pairs[..., 1]].tolist()  # after a: no b
        [[[False, False, True, False], [False, False, False, False]]]
    """
    if not isinstance(banned, BannedPhrases):
        raise TypeError(f"banned must be BannedPhrases, got {type(banned).__name__}.")
    inputs, targets = np.asarray(inputs), np.asarray(targets)
    if inputs.ndim != 2 or inputs.shape != targets.shape:
        raise ValueError(
            "inputs and targets must have the same shape (B, T), got "
            f"{inputs.shape} and {targets.shape}."
        )
    steps = lift(banned.following, banned.pieces)  # (S, V), nothing forbidden
    states, state = np.zeros(inputs.shape, dtype="int32"), np.zeros(len(inputs), dtype="int32")
    for place in range(inputs.shape[1]):
        state = states[:, place] = steps[state, inputs[:, place]]
    return np.stack([targets, states], axis=-1).astype("int32")


def forbidden_after(constraint):
    """Tell which tokens a constraint forbids in each state.

    Args:
        constraint: BannedPhrases, or another Constraint.

    Returns:
        bool array (S, V).
    """
    return constraint.table == FORBIDDEN


def example_weights(bad_probabilities):
    """Weigh training texts by how probably they are good: `sample_weight` of `fit`.

    Where the probabilities are true, the weighted texts have the distribution of the good
    ones alone (Bayes' rule). Probabilities of 0 and 1 are a filter.

    Args:
        bad_probabilities: float array (n,) in [0, 1], from a classifier.

    Returns:
        float32 array (n,), of mean 1.

    Raises:
        ValueError: if a probability is outside [0, 1], or no text can be good.

    Example:
        >>> example_weights([0.0, 0.5, 1.0]).tolist()
        [2.0, 1.0, 0.0]
    """
    good = 1.0 - np.asarray(bad_probabilities, dtype="float64")
    if good.ndim != 1 or not ((good >= 0) & (good <= 1)).all() or not good.any():
        raise ValueError(
            "bad_probabilities must be numbers in [0, 1] of shape (n,), one below 1, got shape "
            f"{good.shape} with {np.asarray(bad_probabilities)[:10]!r}."
        )
    return (good / good.mean()).astype("float32")


def mark_texts(texts, is_bad, good, bad):
    """Put a control token before each text, so that a model learns both kinds apart.

    After training, begin each prompt with the mark of the good ones.

    Args:
        texts: list of n str.
        is_bad: bool array (n,), such as `OutputFilter.alarms`.
        good: str, before good texts: a character or token that they do not have.
        bad: str, before bad texts.

    Returns:
        list of n str.

    Raises:
        ValueError: if the marks are equal, one is empty, or the lengths differ.

    Example:
        >>> mark_texts(["tea", "poison"], [False, True], good="+", bad="-")
        ['+tea', '-poison']

    Source: Keskar et al., "CTRL" (2019); for preferences: Korbak et al., "Pretraining
    Language Models with Human Preferences" (2023), section 2: conditional training.
    """
    if not good or not bad or good == bad:
        raise ValueError(f"good and bad must be two different texts, got {good!r} and {bad!r}.")
    if len(texts) != len(is_bad):
        raise ValueError(
            f"texts and is_bad must have the same length, got {len(texts)} and {len(is_bad)}."
        )
    return [(bad if worse else good) + text for text, worse in zip(texts, is_bad, strict=True)]
