"""Right answers in unusual styles, and wrong ones, to the exercises of notebook 26."""

from collections import Counter
from math import log, log2, sqrt

import numpy as np


def bm25(query, documents, k1, b, one=1, each=True, count=None):
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        counts, score = Counter(document), 0.0
        for word in query if each else set(query):
            n = sum(word in other for other in documents)
            f = min(counts[word], count or counts[word])
            idf = log(one + (len(documents) - n + 0.5) / (n + 0.5))
            score += idf * f / (f + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


def bm25_by_matrix(query, documents, k1, b, length=True, extra=False):
    words = sorted({word for document in documents for word in document} | set(query))
    table = np.array([[document.count(word) for word in words] for document in documents])
    n = (table > 0).sum(axis=0)
    idf = np.log1p((len(documents) - n + 0.5) / (n + 0.5))
    sizes = table.sum(axis=1, keepdims=True)
    pull = k1 * (1 - b + b * sizes / sizes.mean() if length else 1)
    parts = idf * table / (table + pull) * (k1 + 1 if extra else 1)
    return parts @ np.array([query.count(word) for word in words])


def threshold_by_sums(top, right):
    """Another style: sort once, then add up from the top."""
    order = np.argsort(-top, kind="stable")
    gains = np.cumsum(np.where(right[order], 1, -1))
    best, threshold = 0, np.inf
    for place, gain in enumerate(gains):
        last = place + 1 == len(top) or top[order[place + 1]] < top[order[place]]
        if last and gain > best:
            best, threshold = gain, top[order[place]]
    return threshold


def threshold_by_max(top, right, infinity=True, sign=1, above=False, sure=False):
    choices = [*top, np.inf] if infinity else list(top)

    def value(threshold):
        answered = top > threshold if above else top >= threshold
        decisions = (answered & right).sum() if sure else (answered == right).sum()
        return decisions, sign * threshold

    return max(choices, key=value)


def cusum_by_lowest(events, usual, raised):
    steps = np.where(events, log(raised) - log(usual), log(1 - raised) - log(1 - usual))
    sums = np.concatenate([[0], np.cumsum(steps)])
    return (sums - np.minimum.accumulate(sums))[1:]


def cusum_by_max(events, usual, raised, floor=0.0, no=True, swapped=False):
    usual, raised = (raised, usual) if swapped else (usual, raised)
    sums = [0.0]
    for event in events:
        step = log(raised / usual) if event else log((1 - raised) / (1 - usual)) * no
        sums.append(max(floor, sums[-1] + step))
    return sums[1:]


def ndcg_by_sorting(scores, targets, k, first=1, base=2.0, hits=False):
    found = []
    for row, target in zip(scores, targets, strict=True):
        place = list(np.argsort(-row)).index(target) + first
        gain = 1.0 if hits else log(base) / log(place + 1)
        found.append(gain if place <= k else 0.0)
    return sum(found) / len(found)


def ndcg_by_gains(scores, targets, k):
    gains = np.array([1 / log2(place + 2) for place in range(k)])
    best = np.argsort(-scores, axis=1)[:, :k]
    return ((best == targets[:, None]) * gains[: best.shape[1]]).sum() / len(targets)


def ndcg_of_hits_only(scores, targets, k):
    places = [list(np.argsort(-r)).index(t) + 1 for r, t in zip(scores, targets, strict=True)]
    return np.mean([1 / log2(place + 1) for place in places if place <= k])


def neighbours_by_loop(visits, own=0.0):
    items = visits.shape[1]
    result = np.full((items, items), own)
    for i in range(items):
        for j in range(items):
            size = sqrt(visits[:, i].sum() * visits[:, j].sum())
            if i != j:
                result[i, j] = visits[:, i] @ visits[:, j] / size if size else 0.0
    return result


def neighbours_by_units(visits, diagonal=0.0, least=1e-12):
    with np.errstate(invalid="ignore"):
        units = visits / np.maximum(np.linalg.norm(visits, axis=0), least)
    cosines = units.T @ units
    np.fill_diagonal(cosines, diagonal)
    return cosines


def jaccard(visits):
    both = visits.T @ visits
    sizes = np.diag(both)
    either = sizes[:, None] + sizes - both
    return both / np.where(either > 0, either, 1) * (1 - np.eye(len(sizes)))


RIGHT = [
    ("bm25", bm25),
    ("bm25", bm25_by_matrix),
    ("refusal threshold", threshold_by_sums),
    ("refusal threshold", threshold_by_max),
    ("cusum", cusum_by_lowest),
    ("cusum", cusum_by_max),
    ("ndcg", ndcg_by_sorting),
    ("ndcg", ndcg_by_gains),
    ("item neighbours", neighbours_by_loop),
    ("item neighbours", neighbours_by_units),
]

WRONG = [
    ("bm25", lambda q, d, k1, b: bm25(q, d, k1, b, one=0), "one word"),
    ("bm25", lambda q, d, k1, b: bm25(q, d, k1, b, count=1), "one word"),
    ("bm25", lambda q, d, k1, b: bm25_by_matrix(q, d, k1, b, extra=True), "one word"),
    ("bm25", lambda q, d, k1, b: bm25_by_matrix(q, d, k1, b, length=False), "two words"),
    ("bm25", lambda q, d, k1, b: bm25(q, d, 1.2, 0.75), "one word|other settings"),
    ("bm25", lambda q, d, k1, b: bm25(q, d, k1, b, each=False), "a word twice"),
    ("refusal threshold", lambda t, r: threshold_by_max(t, r, above=True), "wrong ones below"),
    ("refusal threshold", lambda t, r: threshold_by_max(t, r, sure=True), "they overlap"),
    ("refusal threshold", lambda t, r: threshold_by_max(t, r, sign=-1), "two are equally"),
    ("refusal threshold", lambda t, r: threshold_by_max(t, r, infinity=False), "edge case"),
    ("cusum", lambda e, u, r: cusum_by_max(e, u, r, no=False), "yes, no"),
    ("cusum", lambda e, u, r: cusum_by_max(e, u, r, swapped=True), "yes, no"),
    ("cusum", lambda e, u, r: cusum_by_max(e, u, r, floor=-np.inf), "ten events"),
    ("cusum", lambda e, u, r: cusum_by_max(e, u, r)[-1], "yes, no"),
    ("ndcg", lambda s, t, k: ndcg_by_sorting(s, t, k, first=2), "three rows"),
    ("ndcg", lambda s, t, k: ndcg_by_sorting(s, t, k, base=np.e), "three rows"),
    ("ndcg", lambda s, t, k: ndcg_by_sorting(s, t, k, hits=True), "three rows"),
    ("ndcg", lambda s, t, k: ndcg_by_sorting(s, t, 99), "twelve items"),
    ("ndcg", ndcg_of_hits_only, "twelve items"),
    ("item neighbours", lambda v: v.T @ v * (1 - np.eye(v.shape[1])), "four users"),
    ("item neighbours", lambda v: neighbours_by_units(v, diagonal=1.0), "four users"),
    ("item neighbours", jaccard, "four users"),
    ("item neighbours", lambda v: neighbours_by_units(v, least=0.0), "edge case"),
]
