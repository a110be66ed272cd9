"""Right answers in unusual styles, and wrong ones, to the exercises of notebook 25."""

import numpy as np


def softmax(z, axis=-1):
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def cross_by_loop(decoder, encoder, is_real):
    real = encoder[is_real]
    return [softmax(real @ asked / len(asked) ** 0.5) @ real for asked in decoder]


def cross_by_infinity(decoder, encoder, is_real, axis=-1, hidden=True, scaled=True):
    scores = np.einsum("td,sd->ts", decoder, encoder)
    scores = scores / np.sqrt(decoder.shape[1]) if scaled else scores
    return softmax(np.where(is_real | (not hidden), scores, -np.inf), axis) @ encoder


def asked_by_the_encoder(decoder, encoder, is_real):
    return softmax(encoder @ decoder.T / np.sqrt(decoder.shape[1])) @ decoder


def zeros_after_softmax(decoder, encoder, is_real):
    return softmax(decoder @ encoder.T / np.sqrt(decoder.shape[1])) * is_real @ encoder


def loss_by_loop(logits, token_ids, pad_id):
    losses = [
        -np.log(softmax(row)[target])
        for row, target in zip(logits, token_ids[1:], strict=False)
        if target != pad_id
    ]
    return np.mean(losses) if losses else 0


def loss_by_weights(logits, token_ids, pad_id, shift=1, all_count=False, least=1):
    rows = logits[: len(logits) - shift]
    targets = token_ids[shift:]
    p = np.take_along_axis(softmax(rows), targets[:, None], 1)[:, 0]
    weights = np.ones(len(targets)) if all_count else (targets != pad_id).astype(float)
    with np.errstate(invalid="ignore"):
        return -(weights * np.log(p)).sum() / np.maximum(weights.sum(), least)


def descent_by_einsum(x, y, rate, epochs):
    w = np.zeros(x.shape[2])
    for step in range(epochs * len(x)):
        a, b = x[step % len(x)], y[step % len(x)]
        w -= rate * 2 * np.einsum("nf,n->f", a, a @ w - b) / len(a)
    return w


def descent_by_moments(x, y, rate, epochs):
    """Another style: products of all batches first."""
    n = x.shape[1]
    squares, crosses = np.swapaxes(x, 1, 2) @ x, np.einsum("bnf,bn->bf", x, y)
    w = np.zeros(x.shape[2])
    for _ in range(epochs):
        for a, b in zip(squares, crosses, strict=True):
            w = w - 2 * rate / n * (a @ w - b)
    return w


def descent(x, y, rate, epochs, fresh=True, batches=None, factor=2):
    w, gradient = np.zeros(x.shape[2]), 0
    for _ in range(epochs):
        for a, b in zip(x[:batches], y[:batches], strict=True):
            new = factor * a.T @ (a @ w - b) / len(a)
            gradient = new if fresh else gradient + new
            w = w - rate * gradient
    return w


def one_step_per_epoch(x, y, rate, epochs):
    return descent(x, y, rate, epochs, batches=1)


def micro_by_loop(precision, recall, count, outside):
    hits = missed = false = 0.0
    for row, number in enumerate(count):
        if row != outside:
            right = recall[row] * number
            hits += right
            missed += number - right
            false += right / precision[row] - right if precision[row] else 0
    return 2 * hits / (2 * hits + missed + false) if hits else 0


def micro_by_means(precision, recall, count, outside, keep=False, least=0):
    rows = [row for row in range(len(count)) if keep or row != outside]
    p, r, n = precision[rows], recall[rows], count[rows]
    hits = r * n
    if not hits.sum():
        return least
    found = np.divide(hits, p, out=np.zeros(len(rows)), where=p > 0).sum()
    micro_p, micro_r = hits.sum() / found, hits.sum() / n.sum()
    return 2 * micro_p * micro_r / (micro_p + micro_r)


def macro_instead(precision, recall, count, outside):
    rows = np.arange(len(count)) != outside
    p, r = precision[rows], recall[rows]
    return np.mean(2 * p * r / np.where(p + r > 0, p + r, 1))


def normed(x, gain=1.0, bias=0.0, epsilon=0.0, root=True):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    below = np.sqrt(variance + epsilon) if root else np.sqrt(variance) + epsilon
    return gain * centred / below + bias


def block_by_loop(x, ffn, gain, bias, epsilon):
    rows = []
    for row in x:
        scale = gain * (row.var() + epsilon) ** -0.5
        rows.append(row + ffn((row - row.mean()) * scale + bias))
    return rows


RIGHT = [
    ("mended cross attention", cross_by_loop),
    ("mended cross attention", cross_by_infinity),
    ("mended loss", loss_by_loop),
    ("mended loss", loss_by_weights),
    ("mended descent", descent_by_einsum),
    ("mended descent", descent_by_moments),
    ("mended micro f1", micro_by_loop),
    ("mended micro f1", micro_by_means),
    ("mended block", block_by_loop),
    ("mended block", lambda x, ffn, g, b, e: np.add(ffn(normed(x, g, b, e)), x)),
]

WRONG = [
    ("mended cross attention", asked_by_the_encoder, "two target"),
    (
        "mended cross attention",
        lambda d, e, real: cross_by_infinity(d, e, real, axis=0),
        "two target",
    ),
    (
        "mended cross attention",
        lambda d, e, real: cross_by_infinity(d, e, real, scaled=False),
        "two target",
    ),
    (
        "mended cross attention",
        lambda d, e, real: cross_by_infinity(d, e, real, hidden=False),
        "more target",
    ),
    ("mended cross attention", zeros_after_softmax, "more target"),
    ("mended loss", lambda z, ids, pad: loss_by_weights(z, ids, pad, shift=0), "four tokens"),
    ("mended loss", lambda z, ids, pad: -loss_by_weights(z, ids, pad), "four tokens"),
    (
        "mended loss",
        lambda z, ids, pad: loss_by_weights(z, ids, pad, all_count=True),
        "padding at the end",
    ),
    ("mended loss", lambda z, ids, pad: loss_by_weights(z, ids, 0), "another pad id"),
    ("mended loss", lambda z, ids, pad: loss_by_weights(z, ids, pad, least=0), "edge case"),
    ("mended descent", lambda x, y, r, e: descent(x, y, r, e, factor=1), "one batch"),
    ("mended descent", lambda x, y, r, e: descent(x, y, -r, e), "one batch"),
    ("mended descent", one_step_per_epoch, "three batches"),
    ("mended descent", lambda x, y, r, e: descent(x, y, r, e, fresh=False), "three batches"),
    ("mended micro f1", lambda p, r, n, o: micro_by_means(p, r, n, o, keep=True), "three classes"),
    ("mended micro f1", macro_instead, "three classes"),
    ("mended micro f1", lambda p, r, n, o: micro_by_means(p, r, n, len(n) - 1), "O is the first"),
    ("mended micro f1", lambda p, r, n, o: micro_by_means(p, r, n, o, least=np.nan), "edge case"),
    ("mended block", lambda x, ffn, g, b, e: x + normed(ffn(x), g, b, e), "two tokens"),
    ("mended block", lambda x, ffn, g, b, e: normed(x + ffn(x), g, b, e), "two tokens"),
    ("mended block", lambda x, ffn, g, b, e: ffn(normed(x, g, b, e)), "two tokens"),
    ("mended block", lambda x, ffn, g, b, e: x + ffn(g + normed(x, 1, b, e)), "two tokens|gain"),
    ("mended block", lambda x, ffn, g, b, e: x + ffn(normed(x, 1, 0, e)), "gain and bias"),
]
