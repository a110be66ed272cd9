"""Right answers in unusual styles, and wrong ones, to the exercises of notebook 24."""

import numpy as np


def lens(stream, gamma, beta, table, epsilon=1e-5, norm=True, root=np.sqrt, shift=True):
    centred = stream - stream.mean(axis=-1, keepdims=True)
    spread = (centred**2).mean(axis=-1, keepdims=True)
    normed = centred / root(spread + epsilon) * gamma + (beta if shift else 0)
    return np.einsum("rtd,vd->rtv", normed if norm else stream, table)


def lens_by_loop(stream, gamma, beta, table, epsilon=1e-5):
    return [
        [table @ (gamma * (x - np.mean(x)) / (np.var(x) + epsilon) ** 0.5 + beta) for x in row]
        for row in stream
    ]


def score_by_diagonal(weights, period, back=-1, axis=-1):
    stripe = np.diagonal(weights, back * (period - 1), axis1=-2, axis2=-1)
    return stripe[:, 1:].mean(axis=axis)


def score_by_loop(weights, period, start=None, ahead=1):
    start = period if start is None else start
    return [
        sum(head[t][t - period + ahead] for t in range(start, 2 * period)) / (2 * period - start)
        for head in weights
    ]


def patching_by_one_run(blocks, clean, corrupted, measure, share=True, swap=False, tail=True):
    """Another style: continue from the patched stream, without a second function."""
    rows, good, bad = [], np.array(clean), np.array(corrupted)
    if swap:
        good, bad = bad, good
    for index, block in enumerate(blocks):
        good, bad, row = block(good), block(bad), []
        for place in range(len(clean)):
            x = np.where(np.arange(len(clean))[:, None] == place, good, bad)
            for later in blocks[index + 1 :] if tail else ():
                x = later(x)
            row.append(measure(x))
        rows.append(row)
    worst, best = measure(bad), measure(good)
    return (np.array(rows) - worst) / (best - worst) if share else rows


def patching_by_recursion(blocks, clean, corrupted, measure):
    def rest(index, x):
        return measure(x) if index == len(blocks) else rest(index + 1, blocks[index](x))

    worst, best = rest(0, corrupted), rest(0, clean)
    table = np.zeros((len(blocks), len(clean)))
    for index, block in enumerate(blocks):
        clean, corrupted = block(clean), block(corrupted)
        for place in range(len(clean)):
            x = corrupted.copy()
            x[place] = clean[place]
            table[index, place] = (rest(index + 1, x) - worst) / (best - worst)
    return table


def gradients(gradient, x, baseline, steps, offset=0.5, times=True, features=True):
    total = 0
    for step in range(steps):
        total = total + gradient(baseline + (step + offset) / steps * (x - baseline)) / steps
    total = total * (x - baseline) if times else total
    return total.sum(axis=-1) if features else total


def gradients_by_mixing(gradient, x, baseline, steps):
    shares = np.linspace(0, 1, 2 * steps + 1)[1::2]
    way = [share * x + (1 - share) * baseline for share in shares]
    return np.einsum("std,td->t", [gradient(place) / steps for place in way], x - baseline)


def loss_by_loop(states, encoder, bias, decoder, centre, sparsity):
    total = 0
    for x in states:
        codes = [max(0, (x - centre) @ encoder[:, m] + bias[m]) for m in range(len(bias))]
        y = sum(c * row for c, row in zip(codes, decoder, strict=True)) + centre
        total += np.sum((x - y) ** 2) + sparsity * sum(codes)
    return total / len(states)


def loss(states, encoder, bias, decoder, centre, sparsity, relu=True, mean=False, add=True):
    codes = (states - centre) @ encoder + bias
    codes = np.where(codes > 0, codes, 0) if relu else codes
    error = np.square(codes @ decoder + (centre if add else 0) - states)
    error = error.mean(axis=1) if mean else error.sum(axis=1)
    return np.mean(error) + sparsity * np.mean(codes.sum(axis=1))


RIGHT = [
    ("logit lens", lens),
    ("logit lens", lens_by_loop),
    ("induction score", score_by_diagonal),
    ("induction score", score_by_loop),
    ("patching map", patching_by_one_run),
    ("patching map", patching_by_recursion),
    ("integrated gradients", gradients),
    ("integrated gradients", gradients_by_mixing),
    ("sparse loss", loss),
    ("sparse loss", loss_by_loop),
]

WRONG = [
    ("logit lens", lambda *x: lens(*x, norm=False), "three"),
    ("logit lens", lambda *x: lens(*x, root=lambda v: v), "three"),
    ("logit lens", lambda *x: lens(*x, shift=False), "three"),
    ("logit lens", lambda *x: lens(*x)[-1], "three"),
    ("induction score", lambda w, p: score_by_loop(w, p, ahead=0), "a perfect"),
    ("induction score", lambda w, p: score_by_diagonal(w, p, back=1), "a perfect"),
    ("induction score", lambda w, p: score_by_diagonal(w, p, axis=None), "a perfect"),
    ("induction score", lambda w, p: score_by_loop(w, p, start=p - 1), "a perfect"),
    ("patching map", lambda *x: patching_by_one_run(*x, share=False), "three blocks"),
    ("patching map", lambda *x: patching_by_one_run(*x, swap=True), "three blocks"),
    ("patching map", lambda *x: patching_by_one_run(*x, tail=False), "three blocks"),
    ("integrated gradients", lambda *x: gradients(*x, offset=0), "a sum"),
    ("integrated gradients", lambda *x: gradients(*x, times=False), "a sum"),
    ("integrated gradients", lambda *x: gradients(*x, features=False), "a sum"),
    ("integrated gradients", lambda g, x, b, s: gradients(g, x, 0 * b, s), "edge case: one step"),
    ("sparse loss", lambda *x: loss(*x, relu=False), "five states"),
    ("sparse loss", lambda *x: loss(*x, mean=True), "five states"),
    ("sparse loss", lambda *x: loss(*x, add=False), "five states"),
]
