"""Exercises of notebook 15, masked language models."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of, features

add_exercise = exercises_of("15")


def hide_tokens(token_ids, chosen, kind, others, mask_id):
    """Hide the chosen tokens in the three ways of BERT."""
    read = np.where(chosen & (kind < 0.8), mask_id, token_ids)
    return np.where(chosen & (kind >= 0.8) & (kind < 0.9), others, read)


def whole_words(chosen, starts):
    """Extend a choice of tokens to the whole words that they belong to."""
    word = np.cumsum(starts)
    return np.isin(word, word[chosen])


def fill_gaps(token_ids, logits, mask_id):
    """Put the likeliest token into each gap."""
    logits = logits.copy()
    logits[:, mask_id] = -np.inf
    return np.where(token_ids == mask_id, logits.argmax(axis=-1), token_ids)


IDS = np.array([5, 6, 7, 8])
OTHERS = np.array([1, 2, 3, 4])
ALL = np.ones(4, bool)

add_exercise(
    "hide tokens",
    hide_tokens,
    Case(
        "one of each kind",
        (IDS, np.array([True, True, True, False]), np.array([0.1, 0.85, 0.95, 0.1]), OTHERS, 9),
        "kind < 0.8: the mask; from 0.8 to 0.9: the other token; else as it was.",
    ),
    Case("nothing chosen", (IDS, ~ALL, np.zeros(4), OTHERS, 9), "What is not chosen stays."),
    Case(
        "edge case: the borders",
        (IDS, ALL, np.array([0.0, 0.8, 0.9, 0.7999]), OTHERS, 9),
        "0.8 belongs to the random tokens, 0.9 to those that stay.",
    ),
    tolerance=0.0,
)

add_exercise(
    "whole words",
    whole_words,
    Case(
        "one token of a word of three",
        (np.array([0, 1, 0, 0, 0], bool), np.array([1, 0, 0, 1, 1], bool)),
        "np.cumsum(starts) gives each token the number of its word.",
    ),
    Case(
        "two words",
        (np.array([0, 0, 1, 0, 1], bool), np.array([1, 0, 1, 0, 1], bool)),
        "All tokens whose word number is among those of the chosen ones.",
    ),
    Case(
        "edge case: nothing chosen",
        (np.zeros(3, bool), np.array([1, 0, 1], bool)),
        "Then no word is hidden.",
    ),
    tolerance=0.0,
)

add_exercise(
    "fill gaps",
    fill_gaps,
    Case(
        "one gap",
        (np.array([0, 3, 2]), features(3, 4), 3),
        "At the gap take the largest logit; elsewhere the token that stands there.",
    ),
    Case(
        "edge case: the mask is the likeliest",
        (np.array([3, 3]), np.array([[0.0, 1.0, 0.5, 9.0], [2.0, 1.0, 0.5, 9.0]]), 3),
        "The mask itself is no answer: leave its logit out.",
    ),
    tolerance=0.0,
)
