"""Right answers in unusual styles, and wrong ones, to the exercises of notebooks 00 to 06."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfgpt.losses import masked_loss
from tfgpt.masks import MaskedLayer


def softmax_minus(shift):
    """Make a softmax that subtracts something before the exponential."""

    def answer(scores):
        scores = np.asarray(scores)
        with np.errstate(all="ignore"):
            weights = np.exp(scores - shift(scores))
            return weights / weights.sum(-1, keepdims=True)

    return answer


def softmax_over_axis_1(scores):
    rows = np.atleast_2d(scores)
    weights = np.exp(rows - rows.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True)).reshape(np.shape(scores))


def mask_from_the_end(query_length, key_length, offset):
    """Forget the offset: take the queries for the last places of the keys."""
    return np.tri(query_length, key_length, key_length - query_length, dtype=bool)


def sines_again(table):
    """Ignore the input but for its shape."""
    from tfgpt import positional_encoding

    return positional_encoding(*np.shape(table))[0]


def softmax_by_log_sum(scores):
    scores = np.asarray(scores, "float64")
    return np.exp(scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True))


def softmax_by_rows(scores):
    scores = np.asarray(scores, "float64")
    if scores.ndim > 1:
        return np.array([softmax_by_rows(row) for row in scores])
    powers = [np.exp(score - max(scores)) for score in scores]
    return np.array(powers) / sum(powers)


def attend(query, keys, values, scale=lambda query, keys: len(query) ** 0.5, softmax=None):
    query, keys, values = map(np.asarray, (query, keys, values))
    weights = (softmax or softmax_by_log_sum)(keys @ query / scale(query, keys))
    return weights @ values


def attend_by_loop(query, keys, values):
    scores = [sum(q * k for q, k in zip(query, key, strict=True)) for key in keys]
    weights = [np.exp(score / np.sqrt(len(query))) for score in scores]
    pairs = zip(weights, values, strict=True)
    return sum(weight * np.array(value) for weight, value in pairs) / sum(weights)


def attend_by_einsum(query, keys, values):
    scores = np.einsum("k,sk->s", query, keys) * np.power(len(query), -0.5)
    return np.einsum("s,sv->v", softmax_by_rows(scores), values)


def attention(query, key, value, mask=None, divide=True, axis=-1, hide=True, fill=-1e9):
    scores = ops.einsum("...tk,...sk->...ts", query, key)
    scores = scores / query.shape[-1] ** 0.5 if divide else scores
    scores = ops.where(mask, scores, fill) if mask is not None and hide else scores
    weights = ops.softmax(scores, axis=axis)
    return ops.einsum("...ts,...sv->...tv", weights, value), weights


def first_mask_for_all(query, key, value, mask=None, **options):
    """Read the mask of the first sequence only."""
    return attention(query, key, value, None if mask is None else mask[:1], **options)


def zeros_under_a_mask(query, key, value, mask=None, **options):
    """Right without a mask; with one, all zeros: padding and the future change nothing."""
    output, weights = attention(query, key, value, mask, **options)
    return (output if mask is None else 0 * output), weights


def attention_with_float_mask(query, key, value, mask=None):
    scores = ops.matmul(query * query.shape[-1] ** -0.5, ops.swapaxes(key, -2, -1))
    if mask is not None:
        scores = scores + (1 - ops.cast(mask, "float32")) * -1e9
    powers = ops.exp(scores - ops.max(scores, axis=-1, keepdims=True))
    weights = powers / ops.sum(powers, axis=-1, keepdims=True)
    return [ops.matmul(weights, value), weights]


def decoder_mask(token_ids, pad_id, real=True, causal=True):
    token_ids = np.asarray(token_ids)
    length = token_ids.shape[1]
    mask = np.tri(length, dtype=bool) if causal else np.ones((length, length), bool)
    return (mask & (token_ids != pad_id)[:, None, None]) if real else mask[None, None]


def decoder_mask_by_loops(token_ids, pad_id):
    rows = [
        [[key != pad_id and s <= t for s, key in enumerate(row)] for t in range(len(row))]
        for row in token_ids
    ]
    return np.array(rows)[:, None]


def cached_mask_by_rows(query_length, key_length, offset):
    return [[s <= t + offset for s in range(key_length)] for t in range(query_length)]


def interleave_by_stack(table):
    half = (table.shape[1] + 1) // 2
    columns = [table[:, i // 2 + (half if i % 2 else 0)] for i in range(table.shape[1])]
    return np.stack(columns, axis=1)


def interleave_by_order(table):
    half = (table.shape[1] + 1) // 2
    places = [i // 2 + half * (i % 2) for i in range(table.shape[1])]
    return np.take(table, places, axis=1)


def interleave_even_widths_only(table):
    half = table.shape[1] // 2
    return np.stack([table[:, :half], table[:, -half:]], axis=-1).reshape(len(table), -1)


class Head(MaskedLayer):
    """A right head in another style: einsum, and bare weights in place of Dense layers."""

    masked, source_of_keys, scaled, attend = True, "key", True, staticmethod(attention)

    def __init__(self, head_dim):
        super().__init__()
        self.head_dim = head_dim

    def build(self, query_shape, key_shape=None):
        shape = query_shape[-1], self.head_dim
        self.kernels = [
            (self.add_weight(shape=shape), self.add_weight(shape=shape[1:])) for _ in range(3)
        ]

    def call(self, query, key=None, mask=None):
        key = query if key is None or self.source_of_keys == "query" else key
        pairs = zip((query, key, key), self.kernels, strict=True)
        q, k, v = (ops.einsum("btd,dk->btk", x, w) + b for x, (w, b) in pairs)
        return self.attend(q, k, v, mask, divide=self.scaled, hide=self.masked)[0]


class PlainHead(keras.layers.Layer):
    """A right head in another style: a plain Keras layer with Dense layers in a list."""

    def __init__(self, head_dim):
        super().__init__()
        self.projections = [keras.layers.Dense(head_dim) for _ in range(3)]

    def call(self, query, key=None, mask=None):
        key = query if key is None else key
        inputs = zip(self.projections, (query, key, key), strict=True)
        return attention_with_float_mask(*(layer(x) for layer, x in inputs), mask)[0]


def changed(cls, **attributes):
    """Make a class with a mistake: some of its attributes have other values."""
    return type(f"Changed{cls.__name__}", (cls,), attributes)


class ManyHeads(MaskedLayer):
    """A right layer in another style: it loops over the heads, and slices the projections."""

    masked, scaled, values_of, attend = True, True, "value", staticmethod(attention)

    def __init__(self, num_heads, d_model):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, d_model // num_heads
        for name in ("query", "key", "value", "output"):
            setattr(self, f"{name}_projection", keras.layers.Dense(d_model))

    def call(self, query, key=None, value=None, mask=None):
        key = query if key is None else key
        value = key if value is None or self.values_of == "key" else value
        q, k, v = (
            self.query_projection(query),
            self.key_projection(key),
            self.value_projection(value),
        )
        mask = None if mask is None else mask[:, 0]
        heads = []
        for h in range(self.num_heads):
            part = slice(h * self.head_dim, (h + 1) * self.head_dim)
            slices = q[..., part], k[..., part], v[..., part]
            heads.append(self.attend(*slices, mask, divide=self.scaled, hide=self.masked)[0])
        return self.output_projection(ops.concatenate(heads, axis=-1))


class ReshapedHeads(ManyHeads):
    """A right layer in another style: all heads at once, by einsum."""

    def call(self, query, key=None, value=None, mask=None):
        key = query if key is None else key
        value = key if value is None else value
        batch, length, d_model = query.shape
        q, k, v = (
            ops.reshape(projection(x), (batch, x.shape[1], self.num_heads, self.head_dim))
            for projection, x in (
                (self.query_projection, query),
                (self.key_projection, key),
                (self.value_projection, value),
            )
        )
        scores = ops.einsum("bthk,bshk->bhts", q, k) / self.head_dim**0.5
        scores = scores if mask is None else ops.where(mask, scores, -1e9)
        heads = ops.einsum("bhts,bshk->bthk", ops.softmax(scores, axis=-1), v)
        return self.output_projection(ops.reshape(heads, (batch, length, d_model)))


class FeedForward(keras.layers.Layer):
    """A right layer in another style: the activation is applied by hand."""

    where, last_width = "between", None

    def __init__(self, d_model, dff, activation="relu"):
        super().__init__()
        self.activation = keras.activations.get(activation)
        self.first = keras.layers.Dense(dff)
        self.second = keras.layers.Dense(d_model)

    def call(self, x):
        hidden = self.first(x)
        hidden = hidden if self.where == "nowhere" else self.activation(hidden)
        output = self.second(hidden)
        return self.activation(output) if self.where == "everywhere" else output


class StackedFeedForward(keras.layers.Layer):
    """A right layer in another style: a Sequential inside."""

    def __init__(self, d_model, dff, activation="relu"):
        super().__init__()
        layers = [keras.layers.Dense(dff, activation=activation), keras.layers.Dense(d_model)]
        self.stack = keras.Sequential(layers)

    def call(self, x):
        return self.stack(x)


class ReluOnly(FeedForward):
    """Forget the argument."""

    def __init__(self, d_model, dff, activation="relu"):
        super().__init__(d_model, dff)


class LayerNorm(keras.layers.Layer):
    """A right layer in another style: moments and the reciprocal square root."""

    def __init__(self, epsilon=1e-5):
        super().__init__()
        self.epsilon = epsilon

    def build(self, x_shape):
        self.scale = self.add_weight(shape=(x_shape[-1],), initializer="ones")
        self.offset = self.add_weight(shape=(x_shape[-1],), initializer="zeros")

    def normalise(self, x):
        mean, variance = ops.moments(x, axes=-1, keepdims=True)
        return (x - mean) * ops.rsqrt(variance + self.epsilon)

    def call(self, x):
        return self.normalise(x) * self.scale + self.offset


class EpsilonOutside(LayerNorm):
    def normalise(self, x):
        deviation = ops.std(x, axis=-1, keepdims=True)
        return (x - ops.mean(x, axis=-1, keepdims=True)) / (deviation + self.epsilon)


class NormOverTheBatch(LayerNorm):
    def normalise(self, x):
        return (x - ops.mean(x, axis=0)) / ops.sqrt(ops.var(x, axis=0) + self.epsilon)


class WithoutEpsilon(LayerNorm):
    def normalise(self, x):
        mean, variance = ops.moments(x, axes=-1, keepdims=True)
        return (x - mean) / ops.sqrt(variance)


class OwnEpsilon(LayerNorm):
    def __init__(self, epsilon=1e-5):
        super().__init__(1e-6)


class OffsetFirst(LayerNorm):
    def call(self, x):
        return (self.normalise(x) + self.offset) * self.scale


class KerasNorm(keras.layers.LayerNormalization):
    """A right layer in another style: Keras's own."""

    def __init__(self, epsilon=1e-5):
        super().__init__(epsilon=epsilon)


class OtherBlock(MaskedLayer):
    """A right block in another style: names for what stands between."""

    order, masked, activation, epsilon, heads = "pre", True, "gelu", 1e-5, ManyHeads

    def __init__(self, d_model, num_heads, dff):
        super().__init__()
        self.self_attention = self.heads(num_heads, d_model)
        self.self_attention_norm = LayerNorm(self.epsilon)
        self.feed_forward = FeedForward(d_model, dff, self.activation)
        self.feed_forward_norm = LayerNorm(self.epsilon)

    def call(self, x, mask=None):
        mask = mask if self.masked else None
        attend, transform = self.self_attention, self.feed_forward
        if self.order == "post":
            x = self.self_attention_norm(x + attend(x, mask=mask))
            return self.feed_forward_norm(x + transform(x))
        if self.order == "neither":
            x = x + self.self_attention_norm(attend(x, mask=mask))
            return x + self.feed_forward_norm(transform(x))
        x = ops.add(x, attend(self.self_attention_norm(x), mask=mask))
        return ops.add(transform(self.feed_forward_norm(x)), x)


class BlockOfLibraryParts(MaskedLayer):
    """A right block in another style: parts of tfgpt and of Keras."""

    def __init__(self, d_model, num_heads, dff):
        from tfgpt import MultiHeadAttention

        super().__init__()
        self.self_attention = MultiHeadAttention(num_heads, d_model)
        self.self_attention_norm = KerasNorm()
        self.feed_forward = StackedFeedForward(d_model, dff, "gelu")
        self.feed_forward_norm = KerasNorm()

    def call(self, x, mask=None):
        normed = self.self_attention_norm(x)
        x = x + self.self_attention(query=normed, key=normed, value=normed, mask=mask)
        return x + self.feed_forward(self.feed_forward_norm(x))


def norm_of(x, axis=-1):
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + 1e-6)


def residual_by_keras(x, sublayer, norm_first, epsilon=1e-6):
    norm = keras.layers.LayerNormalization(epsilon=epsilon)
    return x + sublayer(norm(x)) if norm_first else norm(ops.add(x, sublayer(x)))


def layer_parameters(D, dff, cross, norms=2, attention=lambda D: 4 * D**2 + 4 * D):
    feed_forward = D * dff + dff + dff * D + D
    return (1 + cross) * attention(D) + feed_forward + (norms + cross) * 2 * D


def masked_loss_by_loop(targets, logits):
    total, count = 0.0, 0
    for place in np.ndindex(targets.shape):
        if targets[place]:
            row = np.asarray(logits[place], "float64")
            total, count = total + np.log(np.exp(row - row[targets[place]]).sum()), count + 1
    return total / max(count, 1)


def masked_loss_by_keras(targets, logits):
    losses = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
    real = np.asarray(targets != 0, "float32")
    return np.average(losses, weights=real) if real.any() else 0.0


def token_losses(targets, logits):
    chosen = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - chosen


def without_max(values, mask):
    with np.errstate(invalid="ignore"):
        return (values * mask).sum() / np.float64(mask.sum())


def accuracy_by_loop(targets, logits):
    real = [place for place in np.ndindex(targets.shape) if targets[place]]
    hits = [targets[place] == np.argmax(logits[place]) for place in real]
    return sum(hits) / len(hits) if hits else 0


def accuracy_by_mean(targets, logits):
    found = (logits.argmax(-1) == targets)[targets > 0]
    return found.mean() if found.size else 0.0


def schedule_by_cases(step, d_model, warmup_steps):
    step = step or 1
    rate = step**-0.5 if step > warmup_steps else step / warmup_steps**1.5
    return rate / np.sqrt(d_model)


def step_with(training=True, loss=masked_loss, sign=1, inside=True):
    """Make a train step, right as it is, wrong with other arguments."""

    def train_step(model, optimizer, inputs, targets):
        with tf.GradientTape() as tape:
            value = loss(targets, model(inputs, training=training))
        variables = model.trainable_weights
        gradients = [sign * tf.convert_to_tensor(g) for g in tape.gradient(value, variables)]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return value

    return train_step


def step_with_keras_loss(model, optimizer, inputs, targets):
    """A right step in another style: the loss of each token, weighted by hand."""
    with tf.GradientTape() as tape:
        logits = model(inputs, training=True)
        real = ops.cast(targets != 0, "float32")
        losses = ops.sparse_categorical_crossentropy(targets, logits, from_logits=True)
        loss = ops.sum(losses * real) / ops.maximum(ops.sum(real), 1)
    optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    return loss


def step_without_update(model, optimizer, inputs, targets):
    return masked_loss(targets, model(inputs, training=True))


def mean_over_everything(targets, logits):
    return ops.mean(ops.sparse_categorical_crossentropy(targets, logits, from_logits=True))


RIGHT = [
    ("untrained loss", lambda V: -np.log(1 / V)),
    ("untrained loss", lambda V: np.log2(V) / np.log2(np.e)),
    ("softmax", softmax_by_log_sum),
    ("softmax", softmax_by_rows),
    ("attend from one position", attend_by_loop),
    ("attend from one position", attend_by_einsum),
    ("attention", attention),
    ("attention", attention_with_float_mask),
    ("causal mask", lambda n: [[j <= i for j in range(n)] for i in range(n)]),
    ("causal mask", lambda n: ~np.triu(np.ones((n, n), bool), 1)),
    ("decoder mask", decoder_mask),
    ("decoder mask", decoder_mask_by_loops),
    ("cached causal mask", cached_mask_by_rows),
    ("cached causal mask", lambda T, S, offset: np.tri(T, S, offset) == 1),
    ("wavelength", lambda dim, D: 2 * np.pi * 10000 ** (dim // 2 * 2 / D)),
    ("wavelength", lambda dim, D: 2 * np.pi * np.exp((dim - dim % 2) / D * np.log(1e4))),
    ("interleave", interleave_by_stack),
    ("interleave", interleave_by_order),
    ("rotate a pair", lambda x, a: [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] @ np.array(x)),
    ("rotate a pair", lambda x, a: (lambda z: [z.real, z.imag])(complex(*x) * np.exp(1j * a))),
    ("attention head", Head),
    ("attention head", PlainHead),
    ("multi-head attention", ManyHeads),
    ("multi-head attention", ReshapedHeads),
    ("attention parameters", lambda D, H, bias: 4 * D * (D + bias)),
    ("attention parameters", lambda D, H, bias: sum(D * (D // H * H) + D * bias for _ in "qkvo")),
    ("feed-forward", FeedForward),
    ("feed-forward", StackedFeedForward),
    ("layer norm", LayerNorm),
    ("layer norm", KerasNorm),
    ("residual", lambda x, f, first: x + f(norm_of(x)) if first else norm_of(f(x) + x)),
    ("residual", residual_by_keras),
    ("block", OtherBlock),
    ("block", BlockOfLibraryParts),
    ("layer parameters", layer_parameters),
    (
        "layer parameters",
        lambda D, f, cross: f * (2 * D + 1) + D * (4 * D + 9 + cross * (4 * D + 6)),
    ),
    ("shift", lambda ids: np.stack([ids[:, :-1], ids[:, 1:]])),
    ("shift", lambda ids: [np.delete(ids, -1, axis=1), np.delete(ids, 0, axis=1)]),
    ("masked loss", masked_loss_by_loop),
    ("masked loss", masked_loss_by_keras),
    ("masked accuracy", accuracy_by_loop),
    ("masked accuracy", accuracy_by_mean),
    ("warm-up schedule", schedule_by_cases),
    ("warm-up schedule", lambda s, d, w: min(max(s, 1) ** -0.5, max(s, 1) * w**-1.5) * d**-0.5),
    ("train step", step_with()),
    ("train step", step_with_keras_loss),
]

WRONG = [
    ("untrained loss", lambda V: np.log2(V), "2 tokens"),
    ("untrained loss", lambda V: 1 / V, "2 tokens"),
    ("untrained loss", lambda V: -np.log(V), "2 tokens"),
    ("softmax", softmax_minus(lambda x: x.min(-1, keepdims=True)), "edge case: rows far"),
    ("softmax", softmax_minus(lambda x: x.mean(-1, keepdims=True)), "edge case: rows far"),
    ("softmax", softmax_minus(np.max), "edge case: rows far"),
    ("softmax", softmax_over_axis_1, "edge case: three axes"),
    ("attend from one position", lambda *x: attend(*x, scale=lambda q, k: 1), "two keys"),
    (
        "attend from one position",
        lambda *x: attend(*x, scale=lambda q, k: len(k) ** 0.5),
        "width 4",
    ),
    ("attend from one position", lambda *x: attend(*x, softmax=lambda s: s), "two keys"),
    ("attention", lambda *x: attention(*x, divide=False), "the output"),
    ("attention", lambda *x: attention(*x, axis=-2), "the output"),
    ("attention", lambda *x: attention(*x, hide=False), "with a causal mask"),
    ("attention", lambda *x: attention(*x, fill=0.0), "with a causal mask"),
    ("attention", first_mask_for_all, "a mask for each sequence"),
    ("attention", zeros_under_a_mask, "a mask for each sequence"),
    ("attention", lambda *x: attention(*x)[0], "the output: attention must return output and"),
    ("causal mask", lambda n: np.tri(n, k=-1, dtype=bool), "length 3"),
    ("causal mask", lambda n: np.tri(n, dtype=bool).T, "length 3"),
    ("causal mask", lambda n: np.tri(n), "length 3: the dtype is float64, expected bool"),
    ("decoder mask", lambda ids, pad: decoder_mask(ids, pad, real=False), "padding at the end"),
    ("decoder mask", lambda ids, pad: decoder_mask(ids, pad, causal=False), "one sequence"),
    ("decoder mask", lambda ids, pad: decoder_mask(ids, 0), "edge case: another padding id"),
    ("cached causal mask", mask_from_the_end, "a cache with free places"),
    ("cached causal mask", lambda T, S, offset: np.tri(T, S, dtype=bool), "two new queries"),
    ("cached causal mask", lambda T, S, offset: np.ones((T, S), bool), "no earlier keys"),
    ("wavelength", lambda dim, D: 10000 ** (dim // 2 * 2 / D), "the first feature"),
    ("wavelength", lambda dim, D: 2 * np.pi * 10000 ** (dim / D), "edge case: an odd feature"),
    ("wavelength", lambda dim, D: 2 * np.pi / 10000 ** (dim // 2 * 2 / D), "feature 6 of 8"),
    ("interleave", sines_again, "any numbers"),
    ("interleave", interleave_even_widths_only, "edge case: odd width 5"),
    ("interleave", lambda table: table, "width 4"),
    ("rotate a pair", lambda x, a: [x[0] * np.cos(a), x[1] * np.sin(a)], "an angle of 1"),
    (
        "rotate a pair",
        lambda x, a: [x[0] * np.cos(a) + x[1] * np.sin(a), x[1] * np.cos(a) - x[0] * np.sin(a)],
        "an angle of 1",
    ),
    (
        "rotate a pair",
        lambda x, a: [x[0] * np.cos(a) + x[1] * np.sin(a), x[0] * np.sin(a) + x[1] * np.cos(a)],
        "two features",
    ),
    ("attention head", changed(Head, masked=False), "no look into the future"),
    ("attention head", changed(Head, source_of_keys="query"), "4 queries, 5 keys"),
    ("attention head", changed(Head, scaled=False), "self-attention"),
    (
        "attention head",
        lambda head_dim: Head(head_dim + 1),
        "self-attention: weight 0 has the shape",
    ),
    (
        "attention head",
        lambda head_dim: keras.layers.Dense(head_dim),
        "self-attention: there are 2",
    ),
    ("multi-head attention", changed(ManyHeads, masked=False), "no look into the future"),
    *(
        (name, changed(layer, attend=staticmethod(attend)), "sequences of two lengths")
        for name, layer in (("attention head", Head), ("multi-head attention", ManyHeads))
        for attend in (first_mask_for_all, zeros_under_a_mask)
    ),
    ("multi-head attention", changed(ManyHeads, scaled=False), "self-attention"),
    ("multi-head attention", changed(ManyHeads, values_of="key"), "other values"),
    ("multi-head attention", lambda num_heads, d_model: ManyHeads(1, d_model), "self-attention"),
    ("attention parameters", lambda D, H, bias: 4 * D**2, "4 heads"),
    ("attention parameters", lambda D, H, bias: H * 4 * D * (D + bias), "4 heads"),
    ("attention parameters", lambda D, H, bias: 4 * D * (D + 1), "edge case: no bias"),
    ("feed-forward", changed(FeedForward, where="nowhere"), "ReLU"),
    ("feed-forward", changed(FeedForward, where="everywhere"), "ReLU"),
    ("feed-forward", ReluOnly, "GELU"),
    ("layer norm", EpsilonOutside, "edge case: features that hardly differ: .*inside"),
    ("layer norm", NormOverTheBatch, "two rows: .*Mind epsilon"),
    ("layer norm", WithoutEpsilon, "edge case: equal features: .*nan"),
    ("layer norm", OwnEpsilon, "edge case: another epsilon"),
    ("layer norm", OffsetFirst, "two rows"),
    ("residual", lambda x, f, first: norm_of(x + f(x)), "pre-norm"),
    ("residual", lambda x, f, first: x + norm_of(f(x)), "post-norm"),
    ("residual", lambda *x: residual_by_keras(*x, epsilon=1e-3), "post-norm: .*epsilon is 1e-6"),
    ("residual", lambda x, f, first: f(norm_of(x)) if first else norm_of(x + f(x)), "pre-norm"),
    ("block", changed(OtherBlock, order="post"), "without a mask"),
    ("block", changed(OtherBlock, order="neither"), "without a mask"),
    ("block", changed(OtherBlock, masked=False), "with a causal mask"),
    (
        "block",
        changed(OtherBlock, heads=changed(ManyHeads, attend=staticmethod(first_mask_for_all))),
        "sequences of two lengths",
    ),
    ("block", changed(OtherBlock, activation="relu"), "without a mask"),
    ("block", changed(OtherBlock, epsilon=1e-3), "without a mask"),
    ("layer parameters", lambda *x: layer_parameters(*x, norms=1), "a GPT block"),
    ("layer parameters", lambda D, f, cross: layer_parameters(D, f, 0), "with cross-attention"),
    ("layer parameters", lambda D, f, cross: layer_parameters(D, 4 * D, cross), "edge case: dff"),
    ("shift", lambda ids: (ids, ids), "one sequence: the shape"),
    ("shift", lambda ids: (ids[:, 1:], ids[:, :-1]), "one sequence"),
    ("shift", lambda ids: (ids[:, :-1], ids[:, :-1]), "one sequence"),
    ("masked loss", lambda t, z: token_losses(t, z).mean(), "with padding"),
    ("masked loss", lambda t, z: (token_losses(t, z) * (t != 0)).mean(), "with padding"),
    (
        "masked loss",
        lambda t, z: without_max(token_losses(t, z), t != 0),
        "edge case: only padding",
    ),
    ("masked accuracy", lambda t, z: (z.argmax(-1) == t).mean(), "with padding"),
    ("masked accuracy", lambda t, z: ((z.argmax(-1) == t) & (t != 0)).mean(), "with padding"),
    ("masked accuracy", lambda t, z: without_max(z.argmax(-1) == t, t != 0), "edge case: only pad"),
    ("warm-up schedule", lambda s, d, w: d**-0.5 * max(s, 1) * w**-1.5, "after the top"),
    ("warm-up schedule", lambda s, d, w: d**-0.5 * max(s, 1) ** -0.5, "while it rises"),
    (
        "warm-up schedule",
        lambda s, d, w: d**-0.5 * s * w**-1.5 if s < w else (d * s) ** -0.5,
        "edge",
    ),
    ("train step", step_with(training=False), "the loss"),
    ("train step", step_with(loss=mean_over_everything), "the loss with padding"),
    ("train step", step_with(sign=-1), "the weights: .*with their sign"),
    ("train step", step_without_update, "the weights: .*optimizer.apply"),
]
