"""Exercises of notebook 13, fine-tuning."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of, features

add_exercise = exercises_of("13")


def mean_pooling(hidden, is_real):
    """Average hidden states over the real tokens of each text."""
    weights = is_real[..., None].astype(float)
    return (hidden * weights).sum(axis=1) / weights.sum(axis=1)


def macro_f1(matrix):
    """Average the F1 of all classes of a confusion matrix."""
    right = np.diag(matrix)
    return np.mean(2 * right / np.maximum(matrix.sum(axis=0) + matrix.sum(axis=1), 1))


def layer_rates(rate, decay, num_layers):
    """List the learning rates of embeddings, blocks and head."""
    return rate * decay ** np.arange(num_layers + 1, -1, -1.0)


def entity_f1(real, found):
    """Compute the F1 of entities given as sets of (start, end, kind)."""
    right = len(set(real) & set(found))
    return 2 * right / (len(set(real)) + len(set(found)))


add_exercise(
    "mean pooling",
    mean_pooling,
    Case(
        "one padded text",
        (features(1, 3, 2), np.array([[True, True, False]])),
        "Sum the states of real tokens, divide by how many they are.",
    ),
    Case(
        "edge case: only the first token is real",
        (features(2, 3, 2), np.array([[True, True, True], [True, False, False]])),
        "Each text has its own number of real tokens.",
    ),
)

add_exercise(
    "macro f1",
    macro_f1,
    Case(
        "two classes",
        (np.array([[8, 2], [1, 9]]),),
        "F1 of a class = 2 right / (its row + its column); then the mean over classes.",
    ),
    Case("edge case: a class that is never found", (np.array([[5, 0], [5, 0]]),), "Its F1 is 0."),
    Case("three classes", (np.array([[3, 1, 0], [0, 2, 2], [1, 0, 4]]),), "Rows are true."),
)

add_exercise(
    "layer rates",
    layer_rates,
    Case(
        "two blocks",
        (1.0, 0.5, 2),
        "From below: embeddings, blocks, head. The head has the whole rate.",
    ),
    Case("edge case: no decay", (0.1, 1.0, 3), "Then all rates are equal."),
)

add_exercise(
    "entity f1",
    entity_f1,
    Case(
        "one of two is right",
        ([(0, 0, "Number"), (1, 2, "Street")], [(0, 0, "Number"), (1, 1, "Street")]),
        "An entity is right if start, end and kind are. F1 = 2 right / (real + found).",
    ),
    Case("all right", ([(0, 1, "A")], [(0, 1, "A")]), "Then it is 1."),
    Case("edge case: another kind", ([(0, 1, "A")], [(0, 1, "B")]), "The kind counts."),
)
