"""Exercises of notebook 16, summaries, answers and chat."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of

add_exercise = exercises_of("16")


def answer_targets(token_ids, is_answer):
    """Return the next token where it belongs to an answer, else -100."""
    return np.where(is_answer[1:], token_ids[1:], -100)


def token_f1(answer, guess):
    """Compute the F1 of the words of two answers."""
    answer, guess = answer.split(), guess.split()
    common = sum(min(answer.count(word), guess.count(word)) for word in set(answer))
    return 2 * common / (len(answer) + len(guess))


def longest_common(a, b):
    """Compute the length of the longest common subsequence of two lists."""
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, first in enumerate(a, 1):
        for j, second in enumerate(b, 1):
            best = max(table[i - 1, j], table[i, j - 1])
            table[i, j] = table[i - 1, j - 1] + 1 if first == second else best
    return table[-1, -1]


add_exercise(
    "answer targets",
    answer_targets,
    Case(
        "a question and its answer",
        (np.array([2, 5, 6, 7, 2]), np.array([0, 0, 0, 1, 1], bool)),
        "Place t predicts token t + 1: shift both arrays by one.",
    ),
    Case(
        "edge case: two answers",
        (np.array([5, 6, 7, 8, 9]), np.array([0, 1, 0, 0, 1], bool)),
        "What the user says is not to be predicted.",
    ),
    tolerance=0.0,
)

add_exercise(
    "token f1",
    token_f1,
    Case("one word of two", ("New Delhi", "Delhi"), "2 common / (2 + 1)."),
    Case("equal", ("a b c", "c b a"), "The order does not count."),
    Case(
        "a word twice",
        ("very very good", "very good good"),
        "Count what both have: 2 words.",
    ),
    Case("edge case: nothing in common", ("yes", "no"), "Then it is 0."),
)

add_exercise(
    "longest common subsequence",
    longest_common,
    Case("a gap", (list("abcd"), list("abxd")), "a, b, d stand in both in this order: 3."),
    Case("another order", (list("ab"), list("ba")), "1: only one of them can be kept."),
    Case("edge case: an empty list", ([], list("ab")), "0."),
    tolerance=0.0,
)
