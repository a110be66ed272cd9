"""Exercises of notebook 26, applications."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of, features

add_exercise = exercises_of("26")


def bm25(query, documents, k1, b):
    """Score documents, lists of words, for a query: (N,)."""
    lengths = np.array([len(document) for document in documents])
    scores = np.zeros(len(documents))
    for word in query:
        f = np.array([document.count(word) for document in documents])
        n = (f > 0).sum()
        idf = np.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
        scores += idf * f / (f + k1 * (1 - b + b * lengths / lengths.mean()))
    return scores


def refusal_threshold(top, right):
    """Return the largest threshold with the most right decisions."""
    thresholds = np.append(np.unique(top), np.inf)
    decisions = [((top >= threshold) == right).sum() for threshold in thresholds]
    return thresholds[np.flatnonzero(decisions == np.max(decisions))[-1]]


def cusum(events, usual, raised):
    """Add up the evidence for the raised share, never below 0."""
    total, sums = 0.0, []
    for event in events:
        ratio = raised / usual if event else (1 - raised) / (1 - usual)
        total = max(0.0, total + np.log(ratio))
        sums.append(total)
    return np.array(sums)


def mean_ndcg(scores, targets, k):
    """Compute NDCG@k of rows with one right item each."""
    own = scores[np.arange(len(targets)), targets][:, None]  # (N, 1)
    places = 1 + (scores > own).sum(axis=1)
    return np.where(places <= k, 1 / np.log2(places + 1), 0).mean()


def item_neighbours(visits):
    """Compute the cosines of the columns (U, V) -> (V, V), with 0 on the diagonal."""
    together = visits.T @ visits
    norms = np.sqrt(np.diag(together))
    norms = np.where(norms > 0, norms, 1)
    return together / np.outer(norms, norms) * (1 - np.eye(len(norms)))


SHELF = [text.split() for text in ("a b c", "a a d", "e f g h i j", "b")]
EVENTS = np.array([False, True, False, True, True, False, False, False, False, True])

add_exercise(
    "bm25",
    bm25,
    Case(
        "one word, documents of one length",
        (["a"], [["a", "b"], ["c", "d"], ["a", "a"]], 1.5, 0.75),
        "With equal lengths the bracket is 1: idf * f / (f + k1).",
    ),
    Case(
        "two words, four lengths",
        (["a", "b"], SHELF, 1.2, 0.75),
        "The bracket is 1 - b + b * length / mean length.",
    ),
    Case(
        "other settings",
        (["b", "d"], SHELF, 0.5, 0.3),
        "Use k1 and b, not numbers of your own.",
    ),
    Case(
        "a word twice in the query",
        (["d", "a", "d"], SHELF, 1.2, 0.75),
        "Each word of the query adds its part, also when it comes again.",
    ),
    Case(
        "edge case: a word that no document has",
        (["z"], SHELF, 1.2, 0.75),
        "It adds 0 to every document.",
    ),
)

add_exercise(
    "refusal threshold",
    refusal_threshold,
    Case(
        "wrong ones below, right ones above",
        (np.array([0.5, 3.0, 1.0, 4.0]), np.array([False, True, False, True])),
        "From 3.0 upwards all answers are right: answer where top >= threshold.",
    ),
    Case(
        "they overlap",
        (np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), np.array([0, 1, 0, 0, 1, 1], bool)),
        "Count answers that are right and refusals where the answer would be wrong.",
    ),
    Case(
        "two are equally good",
        (np.array([2.0, 3.0, 4.0]), np.array([True, False, True])),
        "2.0 and 4.0 both make 2 right decisions: take the largest.",
    ),
    Case(
        "edge case: nothing is right",
        (np.array([2.0, 3.0]), np.array([False, False])),
        "Refuse everything: the threshold is infinity.",
    ),
)

add_exercise(
    "cusum",
    cusum,
    Case(
        "yes, no, yes, yes",
        (np.array([True, False, True, True]), 0.25, 0.5),
        "A yes adds ln(raised / usual), a no adds ln((1 - raised) / (1 - usual)).",
    ),
    Case(
        "ten events",
        (EVENTS, 0.2, 0.6),
        "After many a no the sum is 0, not below it.",
    ),
    Case(
        "edge case: only no",
        (np.zeros(3, bool), 0.2, 0.6),
        "The sum stays 0.",
    ),
)

add_exercise(
    "ndcg",
    mean_ndcg,
    Case(
        "three rows",
        (np.array([[0.1, 0.7, 0.2], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]), np.array([2, 0, 0]), 3),
        "Places 2, 1 and 3 give 1 / log2(3), 1 and 1 / 2; then the mean.",
    ),
    Case(
        "twelve items, k is 5",
        (features(6, 12), np.array([1, 0, 8, 5, 2, 11]), 5),
        "Behind place k a row gives 0, but it counts in the mean.",
    ),
    Case(
        "edge case: k is 1",
        (np.array([[0.1, 0.7], [3.0, 2.0]]), np.array([0, 0]), 1),
        "With k = 1 only the first place counts.",
    ),
)

add_exercise(
    "item neighbours",
    item_neighbours,
    Case(
        "four users, three items",
        (np.array([[1.0, 1, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0]]),),
        "Users of both, divided by the root of the users of each.",
    ),
    Case(
        "more items than users",
        (np.array([[1.0, 1, 0, 1], [0, 1, 1, 1]]),),
        "The result is (V, V), with one row per item.",
    ),
    Case(
        "edge case: an item without a visit",
        (np.array([[1.0, 0, 1], [1, 0, 0]]),),
        "0 / 0 is NaN: divide by 1 where the norm is 0.",
    ),
)
