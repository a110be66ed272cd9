"""Slow plain NumPy: each formula of the package again, as loops to be read.

Only `np` arithmetic on single rows; float64; no shape tricks. A layer's weights
are passed as a dict of arrays, kernels (D_in, D_out) as Keras stores them.
"""

import math

import numpy as np


def softmax(scores):
    """Turn one row of scores into weights; keys with None are hidden."""
    allowed = [score for score in scores if score is not None]
    if not allowed:
        return [0.0 for _ in scores]
    largest = max(allowed)
    parts = [0.0 if score is None else math.exp(score - largest) for score in scores]
    return [part / sum(parts) for part in parts]


def attention(query, key, value, mask=None):
    """Attend within one sequence and head: (T, K), (S, K), (S, V) -> (T, V), (T, S)."""
    outputs, weights = [], []
    for i, q in enumerate(query):
        scores = [
            float(np.dot(q, k)) / math.sqrt(len(q)) if mask is None or mask[i][j] else None
            for j, k in enumerate(key)
        ]
        row = softmax(scores)
        outputs.append(sum(weight * np.asarray(v) for weight, v in zip(row, value, strict=True)))
        weights.append(row)
    return np.array(outputs), np.array(weights)


def dense(x, kernel, bias):
    """Multiply each row by the kernel and add the bias: (T, D) -> (T, E)."""
    return np.array([row @ kernel + bias for row in x])


def multi_head_attention(x, memory, weights, num_heads, mask=None):
    """Attend with several heads: (T, D), (S, D) -> (T, D), (H, T, S)."""
    query = dense(x, *weights["query"])
    key = dense(memory, *weights["key"])
    value = dense(memory, *weights["value"])
    width = query.shape[-1] // num_heads
    heads, all_weights = [], []
    for head in range(num_heads):
        part = slice(head * width, (head + 1) * width)
        output, head_weights = attention(query[:, part], key[:, part], value[:, part], mask)
        heads.append(output)
        all_weights.append(head_weights)
    return dense(np.concatenate(heads, axis=-1), *weights["output"]), np.array(all_weights)


def layer_norm(x, gamma, beta, epsilon):
    """Bring each row to mean 0 and variance 1, then scale and shift it."""
    rows = []
    for row in x:
        mean = sum(row) / len(row)
        variance = sum((entry - mean) ** 2 for entry in row) / len(row)
        rows.append((row - mean) / math.sqrt(variance + epsilon) * gamma + beta)
    return np.array(rows)


def feed_forward(x, weights):
    """Compute relu(x W1 + b1) W2 + b2."""
    return dense(np.maximum(dense(x, *weights["expand"]), 0), *weights["contract"])


def residual(x, sublayer, norm, norm_first, epsilon):
    """Add a sublayer to the stream, with its norm before or after."""
    if norm_first:
        return x + sublayer(layer_norm(x, *norm, epsilon))
    return layer_norm(x + sublayer(x), *norm, epsilon)


def encoder_layer(x, weights, num_heads, norm_first, epsilon, mask=None):
    """Run self-attention and feed-forward on one sequence: (T, D) -> (T, D)."""

    def self_attention(y):
        return multi_head_attention(y, y, weights["self_attention"], num_heads, mask)[0]

    x = residual(x, self_attention, weights["self_attention_norm"], norm_first, epsilon)
    return residual(
        x,
        lambda y: feed_forward(y, weights["feed_forward"]),
        weights["feed_forward_norm"],
        norm_first,
        epsilon,
    )


def decoder_layer(x, memory, weights, num_heads, norm_first, epsilon, mask=None, cross_mask=None):
    """Run self-attention, cross-attention and feed-forward: (T, D), (S, D) -> (T, D)."""

    def self_attention(y):
        return multi_head_attention(y, y, weights["self_attention"], num_heads, mask)[0]

    def cross_attention(y):
        attention_weights = weights["encoder_attention"]
        return multi_head_attention(y, memory, attention_weights, num_heads, cross_mask)[0]

    x = residual(x, self_attention, weights["self_attention_norm"], norm_first, epsilon)
    x = residual(x, cross_attention, weights["encoder_attention_norm"], norm_first, epsilon)
    return residual(
        x,
        lambda y: feed_forward(y, weights["feed_forward"]),
        weights["feed_forward_norm"],
        norm_first,
        epsilon,
    )


def positional_encoding(length, d_model):
    """Tabulate sin and cos as the paper writes them: (T, D)."""
    table = np.zeros((length, d_model))
    for position in range(length):
        for dim in range(d_model):
            angle = position / 10000 ** (2 * (dim // 2) / d_model)
            table[position, dim] = math.sin(angle) if dim % 2 == 0 else math.cos(angle)
    return table


def rotary(x):
    """Turn the pair (i, i + K/2) of row t by the angle t / 10000^(2 i / K): (T, K)."""
    half = x.shape[-1] // 2
    turned = np.zeros(x.shape)
    for position, row in enumerate(x):
        for i in range(half):
            angle = position / 10000 ** (2 * i / x.shape[-1])
            first, second = row[i], row[i + half]
            turned[position, i] = first * math.cos(angle) - second * math.sin(angle)
            turned[position, i + half] = second * math.cos(angle) + first * math.sin(angle)
    return turned


def masked_loss(targets, logits, pad_id=0, label_smoothing=0.0):
    """Average -sum_v target(v) ln p(v) over the targets that are not padding."""
    losses = []
    for target_row, logit_row in zip(targets, logits, strict=True):
        for target, scores in zip(target_row, logit_row, strict=True):
            if target == pad_id:
                continue
            log_total = math.log(sum(math.exp(score) for score in scores))
            loss = 0.0
            for token, score in enumerate(scores):
                share = label_smoothing / len(scores)
                if token == target:
                    share += 1 - label_smoothing
                loss -= share * (score - log_total)
            losses.append(loss)
    return sum(losses) / len(losses) if losses else 0.0


def masked_accuracy(targets, logits, pad_id=0):
    """Count how often the largest logit is the target, over real targets."""
    right = [
        int(np.argmax(scores)) == target
        for target_row, logit_row in zip(targets, logits, strict=True)
        for target, scores in zip(target_row, logit_row, strict=True)
        if target != pad_id
    ]
    return sum(right) / len(right) if right else 0.0


def sublayer_weights(layer):
    """Collect the weights of an encoder or decoder layer for the functions above."""

    def attention_weights(attention_layer):
        return {
            name: [np.array(weight) for weight in projection.weights]
            for name, projection in (
                ("query", attention_layer.query_projection),
                ("key", attention_layer.key_projection),
                ("value", attention_layer.value_projection),
                ("output", attention_layer.output_projection),
            )
        }

    def plain(sublayer):
        return [np.array(weight) for weight in sublayer.weights]

    weights = {
        "self_attention": attention_weights(layer.self_attention),
        "self_attention_norm": plain(layer.self_attention_norm),
        "feed_forward": {
            "expand": plain(layer.feed_forward.expand),
            "contract": plain(layer.feed_forward.contract),
        },
        "feed_forward_norm": plain(layer.feed_forward_norm),
    }
    if hasattr(layer, "encoder_attention"):
        weights["encoder_attention"] = attention_weights(layer.encoder_attention)
        weights["encoder_attention_norm"] = plain(layer.encoder_attention_norm)
    return weights
