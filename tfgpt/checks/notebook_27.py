"""Exercises of notebook 27, text GANs."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of

add_exercise = exercises_of("27")


def best_discriminator(real, written):
    """Compute the probability that a sentence is real: float (Y,)."""
    total = real + written
    return np.where(total > 0, real / np.where(total > 0, total, 1.0), 0.5)


def policy_gradient(logits, drawn, rewards):
    """Estimate the gradient of the mean reward with respect to logits: float (V,)."""
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    gains = rewards - rewards.mean()
    return np.mean(gains[:, None] * (np.eye(len(logits))[drawn] - probabilities), axis=0)


def distinct_runs(sentences, n):
    """Compute the share of different runs of n words, 0 to 1."""
    runs = [tuple(row[i : i + n]) for row in sentences for i in range(len(row) - n + 1)]
    return len(set(runs)) / len(runs)


rng = np.random.default_rng(0)

add_exercise(
    "best discriminator",
    best_discriminator,
    Case(
        "three sentences",
        (np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.5, 0.25])),
        "Of all times that a sentence comes, how often is it real?",
    ),
    Case(
        "the generator is right",
        (np.array([0.2, 0.8]), np.array([0.2, 0.8])),
        "Then nobody can tell: 0.5 everywhere.",
    ),
    Case(
        "edge case: a sentence that never comes",
        (np.array([0.0, 1.0]), np.array([0.0, 1.0])),
        "0 / 0: answer 0.5.",
    ),
)

add_exercise(
    "policy gradient",
    policy_gradient,
    Case(
        "two words, three draws",
        (np.zeros(2), np.array([0, 1, 0]), np.array([1.0, 0.0, 2.0])),
        "The gradient of ln p(word) by the logits is one_hot(word) - p.",
    ),
    Case(
        "five words",
        (rng.normal(size=5), rng.integers(0, 5, 8), rng.normal(size=8)),
        "Subtract the mean reward, multiply, and average over the draws.",
    ),
    Case(
        "edge case: equal rewards",
        (rng.normal(size=4), np.array([0, 2, 2]), np.full(3, 5.0)),
        "With the mean as baseline equal rewards teach nothing: zeros.",
    ),
)

add_exercise(
    "distinct runs",
    distinct_runs,
    Case(
        "two sentences, runs of two",
        (np.array([[1, 2, 3], [1, 2, 4]]), 2),
        "Four runs, three different ones.",
    ),
    Case("one word again and again", (np.full((3, 5), 7), 3), "One run among nine."),
    Case(
        "edge case: a run is a whole sentence",
        (np.array([[1, 2], [2, 1], [1, 2]]), 2),
        "A run never goes over the end of a sentence.",
    ),
)
