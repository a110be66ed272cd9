"""Exercises of notebook 10, generation."""

from functools import cache, partial

import numpy as np
from keras import ops

from tfgpt.attention import scaled_dot_product_attention
from tfgpt.checks.registry import Build, Case, WrongAnswerError, exercises_of, features
from tfgpt.generation.decoding import next_token_probabilities
from tfgpt.generation.samplers import MinP
from tfgpt.gpt import GPT
from tfgpt.masks import causal_mask

add_exercise = exercises_of("10")


def accept_or_replace(p, q, token, point):
    """Find the distribution of the token that speculative decoding writes."""
    if point * q[token] < p[token]:
        return np.eye(len(p))[token]
    rest = np.maximum(np.subtract(p, q), 0)
    return rest / rest.sum()


add_exercise(
    "top-p",
    lambda logits, p: next_token_probabilities(np.asarray(logits)[None], top_p=p)[0],
    Case(
        "three tokens",
        (np.log([0.5, 0.3, 0.2]), 0.6),
        "The kept tokens must reach p together, and then they sum to 1 again.",
    ),
    Case(
        "another order",
        (np.log([0.2, 0.5, 0.3]), 0.6),
        "Place i of the result belongs to token i, not to the i-th likeliest.",
    ),
    Case(
        "large logits",
        ([3.0, 1.0, 2.0, 5.0, 4.0], 0.95),
        "Logits are no probabilities, and no logarithms of them.",
    ),
    Case(
        "edge case: one token has more than p",
        (np.log([0.1, 0.9]), 0.5),
        "At least one token must be left.",
    ),
    Case(
        "edge case: p = 1",
        (np.log([0.1, 0.4, 0.3, 0.2]), 1.0),
        "Nothing is forbidden. Rounding can keep a sum just below 1.",
    ),
)

add_exercise(
    "min-p",
    lambda logits, p: ops.softmax(MinP(p).adjust(np.asarray(logits)[None], None)[0]),
    Case(
        "three tokens",
        (np.log([0.6, 0.3, 0.1]), 0.4),
        "p is a share of something, not a probability. What is kept sums to 1 again.",
    ),
    Case(
        "large logits",
        ([1.0, 4.0, 3.5, -2.0, 2.5], 0.2),
        "The rule compares probabilities, not logits.",
    ),
    Case("edge case: p = 0", ([1.0, 4.0, 3.5], 0.0), "Nothing is forbidden."),
    Case(
        "edge case: p = 1",
        ([1.0, 4.0, 3.5], 1.0),
        "The likeliest token must be left: at least, not more than.",
    ),
)

add_exercise(
    "accept or replace",
    accept_or_replace,
    Case(
        "the model gives more than the draft",
        (np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6]), 0, 0.95),
        "The draft proposed too little of this token: no reason to reject it.",
    ),
    Case(
        "accepted by chance",
        (np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6]), 2, 0.3),
        "Compare the point with a ratio of the two probabilities of this token.",
    ),
    Case(
        "rejected",
        (np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6]), 2, 0.5),
        "Drawn from p, what the draft likes would come too often. The result sums to 1.",
    ),
    Case(
        "edge case: equal distributions",
        (np.array([0.3, 0.7]), np.array([0.3, 0.7]), 0, 0.999),
        "A draft that agrees is never rejected.",
    ),
    Case(
        "edge case: an impossible token",
        (np.array([1.0, 0.0]), np.array([0.4, 0.6]), 1, 0.0),
        "A token that the model never writes must not be accepted.",
    ),
)


def sample(logits, temperature, top_p, point):
    """Choose a token: temperature, then top-p, then the token that a point in [0, 1) hits."""
    logits = np.asarray(logits, "float64")
    if temperature == 0:
        return int(np.argmax(logits))
    probabilities = next_token_probabilities(logits[None] / temperature, top_p=top_p)[0]
    return int(np.argmax(np.cumsum(probabilities) > point * (1 - 1e-6)))


def split_heads(x, num_heads):
    """Cut projected features into heads: (B, T, D) -> (B, H, T, K)."""
    batch, length, d_model = x.shape
    return ops.transpose(
        ops.reshape(x, (batch, length, num_heads, d_model // num_heads)), (0, 2, 1, 3)
    )


def generate_with_cache(model, token_ids, count, choose):
    """Write tokens one by one; keys and values of earlier tokens are kept.

    Args:
        model: GPT of tfgpt, with learned positions, or of the learner.
        token_ids: int array (T,), the prompt.
        count: int, how many tokens to write.
        choose: function logits (V,) -> id.

    Returns:
        int array (T + count,).
    """
    token_ids, newest = list(token_ids), list(token_ids)
    caches = [None] * len(model.decoder_layers)
    for _ in range(count):
        x = model.embed(np.array([newest]), len(token_ids) - len(newest))  # (1, new, D)
        for index, block in enumerate(model.decoder_layers):
            x, caches[index] = decode_block(block, x, caches[index])
        logits = model.logits(model.final_norm(x))[0, -1]
        newest = [int(choose(np.array(logits)))]
        token_ids += newest
    return np.array(token_ids)


def decode_block(block, x, cache):
    """Run new tokens through a block with the keys and values (1, H, C, K) of earlier ones."""
    attention, normed = block.self_attention, block.self_attention_norm(x)
    projections = "query", "key", "value"
    query, *new = (
        split_heads(getattr(attention, f"{name}_projection")(normed), attention.num_heads)
        for name in projections
    )
    if cache is not None:
        new = [ops.concatenate(pair, axis=2) for pair in zip(cache, new, strict=True)]
    length, total = query.shape[2], new[0].shape[2]
    mask = causal_mask(length, total, offset=total - length)
    heads, _ = scaled_dot_product_attention(query, *new, mask)  # (1, H, new, K)
    merged = ops.reshape(ops.transpose(heads, (0, 2, 1, 3)), x.shape)
    x = x + attention.output_projection(merged)
    return x + block.feed_forward(block.feed_forward_norm(x)), new


class CountingGPT(GPT):
    """A small GPT with known weights that counts the tokens it embeds and makes keys of."""

    def __init__(self):
        super().__init__(11, 12, 2, 8, 2)
        self.set_weights([2 * features(*weight.shape) for weight in self.weights])
        self.embedded = self.keys = 0
        for block in self.decoder_layers:
            projection = block.self_attention.key_projection
            projection.call = partial(self.make_keys, projection.call)

    def make_keys(self, project, x, **options):
        """Project x to keys, and count them."""
        self.keys += x.shape[1]  # (1, new, D)
        return project(x, **options)

    def embed(self, token_ids, start=None, training=None):
        self.embedded += np.size(token_ids)
        return super().embed(token_ids, start, training)


counting_gpt = cache(CountingGPT)


def play_decoding(generate, part, prompt, count, pick=np.argmax):
    """Let a loop write; raise if it embeds earlier tokens again, or makes their keys again.

    Returns 0: the ids; 1: the logits that each choice was made from.
    """
    model, seen = counting_gpt(), []
    model.embedded = model.keys = 0

    def choose(logits):
        seen.append(np.asarray(logits))
        return pick(logits)

    written = generate(model, np.array(prompt), count, choose)
    if written is None or written is Ellipsis:
        return None
    if model.embedded > len(prompt) + count:
        raise WrongAnswerError(
            f"the model embedded {model.embedded} tokens for a prompt of {len(prompt)} and {count} "
            "new tokens."
        )
    blocks = len(model.decoder_layers)
    if model.keys > blocks * (len(prompt) + count):
        raise WrongAnswerError(
            f"{blocks} blocks made {model.keys} keys for a prompt of {len(prompt)} and {count} new "
            "tokens: the keys of earlier tokens must be kept, not made again."
        )
    return seen if part == 1 else written


add_exercise(
    "sampler",
    sample,
    Case(
        "the first half",
        (np.log([0.5, 0.3, 0.2]), 1.0, 1.0, 0.4),
        "Token 0 has the points from 0 to 0.5, token 1 those from 0.5 to 0.8.",
    ),
    Case("further right", (np.log([0.5, 0.3, 0.2]), 1.0, 1.0, 0.7), "Cumulative sum > point."),
    Case(
        "a high temperature",
        (np.log([0.9, 0.09, 0.01]), 2.0, 1.0, 0.85),
        "Divide the logits by the temperature before the softmax.",
    ),
    Case(
        "top-p",
        (np.log([0.2, 0.5, 0.3]), 1.0, 0.6, 0.1),
        "Use your top-p: token 0 is forbidden here, and the rest sums to 1 again.",
    ),
    Case(
        "temperature before top-p",
        (np.log([0.9, 0.09, 0.01]), 2.0, 0.8, 0.9),
        "Temperature comes first; top-p reads the changed probabilities.",
    ),
    Case("edge case: temperature 0", ([1.0, 3.0, 2.0], 0.0, 0.9, 0.99), "Greedy: the likeliest."),
    tolerance=0.0,
    build=Build(
        "sample",
        difficulty=2,
        minutes=15,
        know="exercise 1",
        hints=(
            "Put the probabilities side by side on a line from 0 to 1: the token at the point "
            "is drawn. Temperature 0 is a case of its own.",
            "p = my_top_p(logits / temperature, top_p), then the first place where "
            "np.cumsum(p) > point: np.argmax finds it.",
        ),
    ),
)

add_exercise(
    "cached decoding",
    generate_with_cache,
    Case(
        "a prompt of 3",
        (0, [1, 2, 3], 3),
        "First the prompt, then one token at a time. Its queries see the cache and, with "
        "causal_mask(T, S, offset), the prompt itself.",
    ),
    Case(
        "the logits of each choice",
        (1, [5, 1, 4, 2], 4),
        "start is how many tokens came before; keys and values of all earlier tokens stay; and "
        "in the prompt no token sees a later one.",
    ),
    Case(
        "another choice",
        (0, [1, 2, 3], 2, np.argmin),
        "choose decides: it gets the logits (V,) of the last position.",
    ),
    Case("edge case: a prompt of one token", (1, [7], 3), "The first cache is empty."),
    Case("edge case: nothing to write", (0, [7, 8], 0), "Then the prompt comes back."),
    play=play_decoding,
    tolerance=1e-4,
    build=Build(
        "generate_with_cache",
        difficulty=5,
        minutes=45,
        know="`MultiHeadAttention` (04), `MyGPT` (09)",
        hints=(
            "For each block keep two arrays: keys and values, (1, H, C, K). A step embeds only "
            "the new tokens, with start = how many came before. In each block the new keys and "
            "values are appended, and the new queries meet all of them.",
            "keys = ops.concatenate([keys, new_keys], axis=2); attention(query, keys, values, "
            "tfgpt.causal_mask(new, total, offset=total - new)); then output_projection, the "
            "sum, and x + feed_forward(feed_forward_norm(x)).",
        ),
    ),
)
