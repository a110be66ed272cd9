"""Exercises of notebook 17, continual learning."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of, features

add_exercise = exercises_of("17")


def backward_transfer(matrix):
    """Average how much later tasks changed earlier ones."""
    return np.mean(matrix[-1, :-1] - np.diag(matrix)[:-1])


def elastic_penalty(weights, old, fisher, strength):
    """Compute the penalty of elastic weight consolidation."""
    return strength / 2 * np.sum(fisher * (weights - old) ** 2)


def fisher_of_softmax(x, logits, label):
    """Square the gradient of log p(label) with respect to a kernel."""
    chances = np.exp(logits - logits.max())
    chances /= chances.sum()
    return np.outer(x, np.eye(len(logits))[label] - chances) ** 2


def distillation(old, new, temperature):
    """Compute the cross-entropy between old and new answers."""

    def softmax(logits):
        powers = np.exp(logits / temperature - np.max(logits / temperature))
        return powers / powers.sum()

    return -np.sum(softmax(old) * np.log(softmax(new)))


add_exercise(
    "backward transfer",
    backward_transfer,
    Case(
        "forgetting",
        (np.array([[0.9, 0.1], [0.6, 0.8]]),),
        "The last row minus the diagonal, over all tasks but the last.",
    ),
    Case(
        "edge case: a task that became better",
        (np.array([[0.9, 0.1, 0.2], [0.5, 0.8, 0.1], [0.6, 0.9, 0.7]]),),
        "The mean of two differences.",
    ),
)

add_exercise(
    "elastic penalty",
    elastic_penalty,
    Case(
        "two weights",
        (np.array([1.0, 2.0]), np.array([0.0, 2.0]), np.array([3.0, 9.0]), 2.0),
        "Only the weight that moved costs: 2 / 2 x 3 x 1.",
    ),
    Case("a matrix", (features(2, 3), 0 * features(2, 3), features(2, 3) ** 2, 10.0), "Sum all."),
    Case("edge case: nothing moved", (features(3), features(3), np.ones(3), 5.0), "Then it is 0."),
)

add_exercise(
    "fisher of softmax",
    fisher_of_softmax,
    Case(
        "two classes",
        (np.array([1.0, 2.0]), np.array([0.0, 0.0]), 0),
        "The gradient of log p(label) by the kernel is x times (one-hot - probabilities).",
    ),
    Case(
        "edge case: the last class",
        (features(4), features(3), 2),
        "Square it at the end.",
    ),
)

add_exercise(
    "distillation",
    distillation,
    Case(
        "edge case: the same",
        (np.array([1.0, 2.0]), np.array([1.0, 2.0]), 1.0),
        "The entropy.",
    ),
    Case("a temperature", (features(4), features(4)[::-1], 2.0), "Divide both by it first."),
)
