"""Right answers in unusual styles, and wrong ones, to the exercises of notebooks 23 and 27."""

from math import exp, log1p

import numpy as np


def dpo_by_loop(chosen, rejected, reference_chosen, reference_rejected, beta):
    losses = []
    for row in zip(chosen, rejected, reference_chosen, reference_rejected, strict=True):
        x = beta * (row[0] - row[2] - row[1] + row[3])
        losses.append(log1p(exp(-x)) if x > 0 else log1p(exp(x)) - x)
    return losses


def dpo_by_max(c, r, rc, rr, beta):
    x = beta * (c - r - (rc - rr))
    return np.maximum(-x, 0) + np.log1p(np.exp(-np.abs(x)))


def dpo_that_overflows(c, r, rc, rr, beta):
    with np.errstate(over="ignore"):
        return np.log(1 + np.exp(-beta * ((c - rc) - (r - rr))))


def best_policy(reference, rewards, beta, shift=True, uses_reference=True):
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        x = rewards / beta + (np.log(reference) if uses_reference else 0)
        weights = np.exp(x - x.max() * shift)
        return weights / weights.sum()


def best_policy_by_loop(reference, rewards, beta):
    top = max(rewards)
    weights = [p * exp((r - top) / beta) for p, r in zip(reference, rewards, strict=True)]
    return [w / sum(weights) for w in weights]


def advantages_by_sums(r, v, g, d, after=0.0):
    n = len(r)
    v = np.append(v, after)
    delta = [r[t] + g * v[t + 1] - v[t] for t in range(n)]
    return [sum((g * d) ** (k - t) * delta[k] for k in range(t, n)) for t in range(n)]


def advantages_by_matrix(r, v, g, d):
    steps = np.arange(len(r))[None] - np.arange(len(r))[:, None]
    weights = np.where(steps >= 0, (g * d) ** np.maximum(steps, 0.0), 0.0)
    return weights @ (r + g * np.append(v[1:], 0.0) - v)


def clipped_by_loop(new, old, gains, marks, clip, take=min, sign=-1):
    found = []
    for i, j in np.argwhere(marks):
        w = exp(new[i, j] - old[i, j])
        found.append(take(w * gains[i, j], min(max(w, 1 - clip), 1 + clip) * gains[i, j]))
    return sign * sum(found) / len(found)


def clipped_by_sign(new, old, gains, marks, clip):
    new, old, gains = new[marks], old[marks], gains[marks]
    w = np.exp(new - old)
    limited = np.where(gains > 0, np.minimum(w, 1 + clip), np.maximum(w, 1 - clip))
    return float(-np.mean(limited * gains))


def clipped_over_all_places(new, old, gains, marks, clip):
    w = np.exp(np.clip((new - old) * marks, -50, 50))
    return -np.mean(np.minimum(w * gains, np.clip(w, 1 - clip, 1 + clip) * gains))


def best_by_pairs(p, scores, n):
    below = [sum(q for q, t in zip(p, scores, strict=True) if t < s) for s in scores]
    return [(b + q) ** n - b**n for b, q in zip(below, p, strict=True)]


def best_by_ranks(p, scores, n):
    ranks = np.argsort(np.argsort(scores))
    reached = np.cumsum(p[np.argsort(scores)])
    whole = reached**n - (reached - p[np.argsort(scores)]) ** n
    return whole[ranks]


def best_in_sorted_order(p, scores, n):
    return np.diff(np.append(0, np.cumsum(p[np.argsort(scores)])) ** n)


def discriminator_by_loop(real, written):
    return [0.5 if r + w == 0 else r / (r + w) for r, w in zip(real, written, strict=True)]


def discriminator(real, written, empty=0.5):
    found = np.full(len(real), empty)
    return np.divide(real, real + written, out=found, where=real + written != 0)


def gradient_by_loop(logits, drawn, rewards, baseline=True, own=True):
    p = np.exp(logits) / np.exp(logits).sum()
    total = np.zeros(len(logits))
    for word, reward in zip(drawn, rewards, strict=True):
        gain = reward - (np.mean(rewards) if baseline else 0)
        total -= gain * p * own
        total[word] += gain
    return total / len(drawn)


def gradient_by_sums(logits, drawn, rewards):
    p = np.exp(logits) / np.exp(logits).sum()
    gains = rewards - rewards.mean()
    return np.bincount(drawn, gains, len(p)) / len(drawn) - gains.mean() * p


def distinct_by_windows(sentences, n):
    windows = np.lib.stride_tricks.sliding_window_view(sentences, n, axis=1).reshape(-1, n)
    return len(np.unique(windows, axis=0)) / len(windows)


def distinct_by_text(sentences, n):
    runs = [str(list(row[i:][:n])) for row in sentences for i in range(sentences.shape[1] + 1 - n)]
    return len({*runs}) / len(runs)


def distinct_over_ends(sentences, n):
    row = np.ravel(sentences)
    runs = [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]
    return len(set(runs)) / len(runs)


RIGHT = [
    ("dpo loss", dpo_by_loop),
    ("dpo loss", dpo_by_max),
    ("best policy", best_policy),
    ("best policy", best_policy_by_loop),
    ("advantages", advantages_by_sums),
    ("advantages", advantages_by_matrix),
    ("clipped loss", clipped_by_loop),
    ("clipped loss", clipped_by_sign),
    ("best of n", best_by_pairs),
    ("best of n", best_by_ranks),
    ("best discriminator", discriminator_by_loop),
    ("best discriminator", discriminator),
    ("policy gradient", gradient_by_loop),
    ("policy gradient", gradient_by_sums),
    ("distinct runs", distinct_by_windows),
    ("distinct runs", distinct_by_text),
]

WRONG = [
    ("dpo loss", dpo_that_overflows, "edge case: margins"),
    ("dpo loss", lambda c, r, rc, rr, b: dpo_by_max(r, c, rr, rc, b), "three pairs"),
    ("dpo loss", lambda c, r, rc, rr, b: dpo_by_max(c, r, 0, 0, b), "one pair"),
    ("best policy", lambda p, r, b: best_policy(p, r, b, shift=False), "edge case: large"),
    ("best policy", lambda p, r, b: best_policy(p, r, b, uses_reference=False), "six answers"),
    ("best policy", lambda p, r, b: best_policy(p, r, 1 / b), "six answers"),
    ("best policy", lambda p, r, b: best_policy(p + 1e-3, r, b), "six|edge"),
    ("advantages", lambda r, v, g, d: advantages_by_sums(r, v, g, d, v[-1]), "a reward at the end"),
    ("advantages", lambda r, v, g, d: advantages_by_sums(r, v, g, d / g), "five tokens"),
    ("advantages", lambda r, v, g, d: advantages_by_sums(r, 0 * v, g, d), "a reward at the end"),
    ("clipped loss", lambda *x: clipped_by_loop(*x, sign=1), "two answers"),
    ("clipped loss", lambda *x: clipped_by_loop(*x, take=max), "two answers"),
    ("clipped loss", clipped_over_all_places, "two answers"),
    ("best of n", best_in_sorted_order, "six answers"),
    ("best of n", lambda p, s, n: best_by_pairs(p, -s, n), "two answers"),
    ("best of n", lambda p, s, n: best_by_pairs(p, s, n + 1), "two answers"),
    ("best discriminator", lambda r, w: discriminator(r, w, 0.0), "edge case"),
    ("best discriminator", lambda r, w: discriminator(w, r), "three sentences"),
    ("best discriminator", lambda r, w: (r > w).astype(float), "three sentences"),
    ("policy gradient", lambda *x: gradient_by_loop(*x, baseline=False), "two words"),
    ("policy gradient", lambda a, d, r: -gradient_by_loop(a, d, r), "two words"),
    ("policy gradient", lambda a, d, r: len(d) * gradient_by_sums(a, d, r), "two words"),
    ("distinct runs", distinct_over_ends, "two sentences"),
    ("distinct runs", lambda s, n: distinct_by_windows(s, 1), "two sentences"),
    ("distinct runs", lambda s, n: 1 - distinct_by_windows(s, n), "two sentences"),
]
