"""Right answers in unusual styles, and wrong ones, to the exercises of notebooks 10 and 11."""

import numpy as np
import pytest
from keras import ops

from tfgpt.masks import causal_mask


def softmax_of(logits):
    weights = np.exp(np.asarray(logits) - np.max(logits))
    return weights / weights.sum()


def top_p_by_loop(logits, p, *, crossing=True, normalise=True):
    """Another style: add tokens, the likeliest first, until they reach p."""
    probabilities = softmax_of(logits)
    kept, total = np.zeros_like(probabilities), 0.0
    for token in np.argsort(-probabilities):
        if total >= p or (not crossing and total + probabilities[token] > p):
            break
        kept[token] = probabilities[token]
        total += probabilities[token]
    return kept / kept.sum() if normalise and kept.any() else kept


def top_p_in_sorted_order(logits, p):
    return np.sort(top_p_by_loop(logits, p))[::-1]


def top_p_of_exponentials(logits, p):
    """Forget that logits are no log-probabilities: the sum reaches p too soon."""
    weights = np.exp(logits)
    order = np.argsort(-weights)
    before = np.cumsum(weights[order]) - weights[order]
    kept = np.zeros_like(weights)
    kept[order[before < p]] = weights[order[before < p]]
    return kept / kept.sum()


def top_p_that_reaches_the_end(logits, p):
    """Take the first place where the sum is at least p; rounding can leave none."""
    probabilities = softmax_of(logits)
    order = np.argsort(-probabilities)
    last = np.argmax(np.cumsum(probabilities[order]) * (1 - 1e-12) >= p)
    kept = np.zeros_like(probabilities)
    kept[order[: last + 1]] = probabilities[order[: last + 1]]
    return kept / kept.sum()


def min_p_of_logits(logits, p):
    """Another style: compare logits with the largest one plus log p."""
    logits = np.asarray(logits)
    with np.errstate(divide="ignore"):
        return softmax_of(np.where(logits >= logits.max() + np.log(p), logits, -np.inf))


def min_p_with(compare_to, normalise=True, strict=False):
    def answer(logits, p):
        probabilities = softmax_of(logits)
        limit = compare_to(probabilities, p)
        kept = np.where(probabilities > limit if strict else probabilities >= limit, 1, 0)
        with np.errstate(invalid="ignore"):
            return kept * probabilities / ((kept * probabilities).sum() if normalise else 1)

    return answer


def min_p_of_the_raw_logits(logits, p):
    logits = np.asarray(logits)
    is_likely = logits >= p * logits.max() if logits.max() > 0 else logits >= logits.max() / p
    return softmax_of(np.where(is_likely, logits, -np.inf))


def accept_by_loop(p, q, token, point, *, ratio=lambda p, q: p / q, rest=None):
    """The solution of notebook 10 in another style: one token after the other."""
    if point < min(1, ratio(p[token], q[token])):
        return [int(place == token) for place in range(len(p))]
    rest = [max(a - b, 0) for a, b in zip(p, q, strict=True)] if rest is None else rest(p, q)
    return [value / sum(rest) for value in rest]


def accept_an_impossible_token(p, q, token, point):
    return np.eye(len(p))[token] if point <= p[token] / q[token] else accept_by_loop(p, q, token, 1)


def paired_ratio_by_sorting(times, baseline_times, warm_up):
    """Another style: plain Python."""
    ratios = sorted(a / b for a, b in list(zip(times, baseline_times, strict=True))[warm_up:])
    middle = len(ratios) // 2
    return (ratios[middle] + ratios[-middle - 1]) / 2


def upper_middle(times, baseline_times, warm_up):
    ratios = sorted(np.divide(times, baseline_times)[warm_up:])
    return ratios[len(ratios) // 2]


def with_signature(function, rows, rates):
    """Another style: the one graph is made before the first call."""
    tf = pytest.importorskip("tensorflow")
    signature = tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.float32)
    graph = tf.function(function).get_concrete_function(*signature)
    pairs = zip(rows, rates, strict=True)
    return [graph(tf.constant(row), tf.constant(rate)) for row, rate in pairs]


def with_padding(function, rows, rates):
    """Another style: zeros at the end make all shapes equal, and change no sum."""
    tf = pytest.importorskip("tensorflow")
    graph, longest = tf.function(function), max(map(len, rows))
    return tf.stack(
        [
            graph(tf.constant(np.pad(row, (0, longest - len(row)))), tf.constant(rate))
            for row, rate in zip(rows, rates, strict=True)
        ]
    )


def with_options(**options):
    """Make an answer with one tf.function and tensors of rates."""

    def answer(function, rows, rates):
        tf = pytest.importorskip("tensorflow")
        graph = tf.function(function, **options)
        return [graph(row, tf.constant(rate)) for row, rate in zip(rows, rates, strict=True)]

    return answer


def in_the_loop(function, rows, rates):
    tf = pytest.importorskip("tensorflow")
    return [
        tf.function(function)(row, tf.constant(rate)) for row, rate in zip(rows, rates, strict=True)
    ]


def python_rates(function, rows, rates):
    tf = pytest.importorskip("tensorflow")
    graph = tf.function(function, reduce_retracing=True)
    return [graph(row, rate) for row, rate in zip(rows, rates, strict=True)]


def without_tf_function(function, rows, rates):
    return [function(row, rate) for row, rate in zip(rows, rates, strict=True)]


def one_rate_for_all(function, rows, rates):
    return with_signature(function, rows, [rates[0]] * len(rates))


def six_n(V, L, D, B, T, remat, passes=6, per_length=12):
    """Another style: 6 N per token and 12 L D T for attention; with remat a third more."""
    blocks = passes * 12 * L * D**2 + per_length * L * D * T
    return B * T * (blocks * (4 / 3 if remat else 1) + passes * V * D)


def product_by_product(V, L, D, B, T, remat):
    """Another style: the shapes (rows, inner, columns) of all products of one text."""
    kernels = [(T, D, D)] * 4 + [(T, D, 4 * D), (T, 4 * D, D)]
    forward = L * sum(2 * m * k * n for m, k, n in [*kernels, (T, D, T), (T, T, D)])
    return B * (forward * (4 if remat else 3) + 3 * 2 * T * D * V)


def rate_of_each_limit(num_weights, batch, bytes_per_weight, peak, bandwidth):
    """Another style: the roofline, operations per second by intensity."""
    intensity = 2 * batch / bytes_per_weight
    return min(peak, intensity * bandwidth) / (2 * num_weights)


def one_after_the_other(num_weights, batch, bytes_per_weight, peak, bandwidth):
    seconds = 2 * num_weights * batch / peak + num_weights * bytes_per_weight / bandwidth
    return batch / seconds


def min_p_by_ratio(logits, p):
    probabilities = softmax_of(logits)
    kept = [q if q / max(probabilities) >= p else 0 for q in probabilities]
    return np.array(kept) / sum(kept)


def top_p_by_threshold(logits, p):
    """Another style: how much is likelier than each token?"""
    q = softmax_of(logits)
    kept = np.array([x if q[q > x].sum() < p else 0 for x in q])
    return kept / kept.sum()


def accept_by_where(p, q, token, point):
    rest = np.clip(np.subtract(p, q), 0, None)
    drawn = rest / max(rest.sum(), 1e-30)
    return np.where(point * q[token] < p[token], np.arange(len(p)) == token, drawn)


def sample_by_loop(logits, temperature, top_p, point, *, top=top_p_by_loop, heat=None):
    """A right sampler in another style: walk along the line until the point is passed."""
    if temperature == 0:
        return max(range(len(logits)), key=lambda token: logits[token])
    logits = np.divide(logits, temperature) if heat is None else heat(logits, temperature)
    total = 0.0
    for token, share in enumerate(top(logits, top_p)):
        total += share
        if share and total > point:
            return token
    return len(logits) - 1


def sample_by_search(logits, temperature, top_p, point):
    if temperature < 1e-6:
        return np.argmax(logits)
    line = np.cumsum(top_p_by_threshold(np.asarray(logits) / temperature, top_p))
    return np.searchsorted(line, point, side="right")


def top_p_then_heat(logits, temperature, top_p, point):
    kept = top_p_by_loop(logits, top_p) ** (1 / temperature)
    line = np.cumsum(kept / kept.sum())
    return int(np.argmax(line > point)) if temperature else int(np.argmax(logits))


def heads_of(x, num_heads):
    return ops.transpose(ops.reshape(x, (*x.shape[:2], num_heads, -1)), (0, 2, 1, 3))


def decode(model, token_ids, count, choose, *, one_by_one=False, keep=True, start=True, mask=True):
    """A right loop in another style: the caches are grown in place, and by einsum."""
    written, caches = list(token_ids), [[] for _ in model.decoder_layers]

    def step(ids, place):
        x = model.embed(np.array([ids]), place if start else 0)
        for block, cache in zip(model.decoder_layers, caches, strict=True):
            layer, normed = block.self_attention, block.self_attention_norm(x)
            projections = layer.query_projection, layer.key_projection, layer.value_projection
            q, k, v = (heads_of(project(normed), layer.num_heads) for project in projections)
            if not keep:
                cache.clear()
            cache.append((k, v))
            k, v = (ops.concatenate(parts, axis=2) for parts in zip(*cache, strict=True))
            scores = ops.einsum("bhtk,bhsk->bhts", q, k) / q.shape[-1] ** 0.5
            seen = np.tri(q.shape[2], k.shape[2], k.shape[2] - q.shape[2], dtype=bool)
            scores = ops.where(seen, scores, -1e9) if mask else scores
            heads = ops.einsum("bhts,bhsk->bthk", ops.softmax(scores), v)
            x = x + layer.output_projection(ops.reshape(heads, x.shape))
            x = x + block.feed_forward(block.feed_forward_norm(x))
        return np.array(model.logits(model.final_norm(x)))[0, -1]

    groups = [[i] for i in written] if one_by_one else [written]
    place = 0
    for ids in groups if count else []:
        logits, place = step(ids, place), place + len(ids)
    for number in range(count):
        written.append(int(choose(logits)))
        if number + 1 < count:
            logits, place = step(written[-1:], place), place + 1
    return written


def full_passes(model, token_ids, count, choose):
    """Forget the cache: the whole text again for each token."""
    written = list(token_ids)
    for _ in range(count):
        written.append(int(choose(np.array(model(np.array([written])))[0, -1])))
    return written


def full_blocks(model, token_ids, count, choose):
    """Keep what was embedded, but no keys: every block runs over all rows again."""
    written, new, rows = list(token_ids), list(token_ids), []
    for _ in range(count):
        rows.append(model.embed(np.array([new]), len(written) - len(new)))
        x = ops.concatenate(rows, axis=1)
        for block in model.decoder_layers:
            x = block(x, mask=causal_mask(x.shape[1]))
        new = [int(choose(np.array(model.logits(model.final_norm(x)))[0, -1]))]
        written += new
    return written


RIGHT = [
    ("top-p", top_p_by_loop),
    ("min-p", min_p_of_logits),
    ("min-p", min_p_with(lambda probabilities, p: p * probabilities.max())),
    ("accept or replace", accept_by_loop),
    ("paired ratio", paired_ratio_by_sorting),
    ("one trace", with_signature),
    ("one trace", with_padding),
    ("training flops", six_n),
    ("decoding limit", rate_of_each_limit),
    ("top-p", top_p_by_threshold),
    ("min-p", min_p_by_ratio),
    ("accept or replace", accept_by_where),
    ("sampler", sample_by_loop),
    ("sampler", sample_by_search),
    ("cached decoding", decode),
    ("cached decoding", lambda *x: decode(*x, one_by_one=True)),
    (
        "paired ratio",
        lambda a, b, w: np.quantile([x / y for x, y in zip(a, b, strict=True)][w:], 0.5),
    ),
    ("training flops", product_by_product),
    ("decoding limit", lambda N, B, s, p, b: min(p / (2 * N), B * b / (N * s))),
]

WRONG = [
    (
        "top-p",
        lambda logits, p: top_p_by_loop(logits, p, crossing=False),
        r"three tokens: the value at index \[0\] is 1.0",
    ),
    (
        "top-p",
        lambda logits, p: top_p_by_loop(logits, p, normalise=False),
        "three tokens: .*sum to 1 again",
    ),
    ("top-p", top_p_in_sorted_order, "another order: .*belongs to token i"),
    ("top-p", top_p_of_exponentials, "large logits: .*Logits are no probabilities"),
    ("top-p", top_p_that_reaches_the_end, "edge case: p = 1: .*Rounding"),
    ("top-p", lambda logits, p: np.flatnonzero(logits), r"three tokens: the value at index"),
    ("min-p", min_p_with(lambda probabilities, p: p), "three tokens: .*a share of something"),
    (
        "min-p",
        min_p_with(lambda probabilities, p: p * probabilities.max(), normalise=False),
        "three tokens: .*sums to 1 again",
    ),
    (
        "min-p",
        min_p_with(lambda probabilities, p: p * probabilities.max(), strict=True),
        r"edge case: p = 1: the value at index \[0\] is nan",
    ),
    ("min-p", min_p_of_the_raw_logits, "large logits: .*not logits"),
    (
        "accept or replace",
        lambda *x: accept_by_loop(*x, ratio=lambda p, q: q / p),
        "the model gives more than the draft: .*too little",
    ),
    (
        "accept or replace",
        lambda *x: accept_by_loop(*x, ratio=lambda p, q: p),
        "the model gives more than the draft: ",
    ),
    (
        "accept or replace",
        lambda *x: accept_by_loop(*x, ratio=lambda p, q: p >= q),
        "accepted by chance: .*a ratio",
    ),
    (
        "accept or replace",
        lambda *x: accept_by_loop(*x, rest=lambda p, q: p),
        "rejected: .*Drawn from p",
    ),
    (
        "accept or replace",
        lambda *x: accept_by_loop(*x, rest=lambda p, q: abs(p - q)),
        "rejected: ",
    ),
    ("accept or replace", accept_an_impossible_token, "edge case: an impossible token: "),
    ("paired ratio", lambda a, b, w: np.median(a[w:]) / np.median(b[w:]), "three rounds: "),
    ("paired ratio", lambda a, b, w: sum(a[w:]) / sum(b[w:]), "three rounds: .*each round"),
    ("paired ratio", lambda a, b, w: np.median(np.divide(b, a)[w:]), "three rounds: .*below"),
    ("paired ratio", lambda a, b, w: min(a) / min(b), "three rounds: the value is 3.0"),
    ("paired ratio", lambda a, b, w: np.divide(a, b)[w:], r"three rounds: the shape is \(3,\)"),
    ("paired ratio", lambda a, b, w: np.mean(np.divide(a, b)[w:]), "a disturbed round: "),
    ("paired ratio", lambda a, b, w: np.median(np.divide(a, b)), "a warm-up round: .*count"),
    ("paired ratio", upper_middle, "edge case: an even number of rounds: .*the mean"),
    ("one trace", in_the_loop, r"one length, two rates: the value at index \[1, 1\] is 2"),
    ("one trace", python_rates, "one length, two rates: .*Python number"),
    ("one trace", without_tf_function, "one length, two rates: "),
    ("one trace", one_rate_for_all, r"one length, two rates: the value at index \[1, 0\]"),
    ("one trace", with_options(), "three lengths: the value at index .*another length"),
    ("one trace", with_options(reduce_retracing=True), "three lengths: .*another length"),
    ("one trace", lambda *inputs: 1, r"one length, two rates: the shape is \(\)"),
    ("training flops", lambda *x: six_n(*x, passes=2), "one token: .*Backward"),
    ("training flops", lambda *x: six_n(*x, passes=4), "one token: .*Backward"),
    ("training flops", lambda *x: six_n(*x, per_length=0), "one token: the value"),
    (
        "training flops",
        lambda V, L, D, B, T, remat: B * T * six_n(V, L, D, 1, 1, remat),
        "16 tokens: .*all T keys",
    ),
    (
        "training flops",
        lambda V, L, D, B, T, remat: six_n(V, L, D, 1, B * T, remat),
        "4 texts: .*its own text",
    ),
    ("training flops", lambda *x: six_n(*x[:5], False), "with remat: .*once more"),
    (
        "training flops",
        lambda *x: six_n(*x[:5], False) * (4 / 3 if x[5] else 1),
        "with remat: .*Only the blocks",
    ),
    ("decoding limit", one_after_the_other, "one text: .*at the same time"),
    ("decoding limit", lambda N, B, s, p, b: b / (N * s), "10 texts: .*10 tokens"),
    ("decoding limit", lambda N, B, s, p, b: B * b / (N * s), "50 texts: "),
    ("decoding limit", lambda N, B, s, p, b: p / (2 * N), "one text: "),
    (
        "decoding limit",
        lambda N, B, s, p, b: B / max(N * B / p, N * s / b),
        "50 texts: .*two operations",
    ),
    (
        "decoding limit",
        lambda N, B, s, p, b: B / max(2 * N * B / p, N * 4 / b),
        "16 bits: .*two bytes",
    ),
    ("sampler", lambda z, heat, p, point: int(np.argmax(z)), "further right"),
    ("sampler", lambda *x: sample_by_loop(*x, heat=np.multiply), "a high temperature"),
    ("sampler", lambda *x: sample_by_loop(*x, top=lambda z, p: softmax_of(z)), "top-p"),
    ("sampler", top_p_then_heat, "temperature before top-p"),
    ("cached decoding", full_passes, "a prompt of 3: the model embedded"),
    ("cached decoding", full_blocks, "a prompt of 3: 2 blocks made 24 keys"),
    ("cached decoding", lambda *x: decode(*x, keep=False), "a prompt of 3|the logits of each"),
    ("cached decoding", lambda *x: decode(*x, start=False), "a prompt of 3|the logits of each"),
    ("cached decoding", lambda *x: decode(*x, mask=False), "a prompt of 3|the logits of each"),
    (
        "cached decoding",
        lambda m, ids, n, choose: decode(m, ids, n, np.argmax),
        "another choice|the logits of each",
    ),
]
