"""Checks for the exercises of the notebooks: shape first, then values, then edges.

`check("causal mask", my_function)` runs the learner's function on a few inputs
and compares each result with a known answer. It prints one line when all is
right or when the exercise is still empty, and raises AssertionError with a hint
when a result is wrong.
"""

import copy
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from keras import ops

from tfgpt.attention import (
    MultiHeadAttention,
    attention_scores,
    masked_softmax,
    scaled_dot_product_attention,
)
from tfgpt.data.batches import shift
from tfgpt.generation.beam import choose, penalty
from tfgpt.generation.decoding import next_token_probabilities
from tfgpt.generation.samplers import MinP
from tfgpt.gpt import GPT
from tfgpt.layers import DecoderLayer
from tfgpt.losses import bits_per_byte, masked_accuracy, masked_loss
from tfgpt.masks import causal_mask, create_masks
from tfgpt.positional import apply_rotary, get_angles, positional_encoding
from tfgpt.schedules import WarmupSchedule


@dataclass(frozen=True)
class Case:
    """One input of an exercise and the hint that is shown when its result is wrong.

    Args:
        what: str, what the case tests: "a small example", "edge case: one token".
        inputs: tuple of the function's arguments.
        hint: str, where to look.
    """

    what: str
    inputs: tuple
    hint: str


@dataclass(frozen=True)
class Exercise:
    """A function to write: what is right, and the cases that show it.

    Args:
        reference: function with the right behaviour.
        cases: tuple of Case, easy ones first.
        tolerance: float >= 0, the largest allowed difference.
    """

    reference: object
    cases: tuple
    tolerance: float = 1e-5


def count_parameters(layer, d_model):
    """Build a layer for inputs (B, T, d_model) and count its parameters."""
    hidden_shape = (None, None, d_model)
    needs_source = isinstance(layer, DecoderLayer) and layer.cross_attention
    layer.build(hidden_shape, hidden_shape) if needs_source else layer.build(hidden_shape)
    return layer.count_params()


def layer_norm(x, gain=1.0, bias=0.0, epsilon=1e-6):
    """Normalise the features of each position with Keras's own operation."""
    x = ops.convert_to_tensor(x, dtype="float32")
    ones = ops.ones(x.shape[-1:])
    return ops.layer_normalization(x, gain * ones, bias * ones, axis=-1, epsilon=epsilon)


def features(*shape):
    """Make test values of a shape: 0, 1, 2, ... turned into numbers in [-1, 1]."""
    return np.sin(np.arange(np.prod(shape), dtype="float32")).reshape(shape)


def beam_step(log_probs, totals):
    """Continue the beams of one source, without a length penalty."""
    log_probs, totals = (np.asarray(x, "float32")[None] for x in (log_probs, totals))
    beams, tokens, _ = choose(log_probs, totals, np.ones_like(totals), 0.0)
    return beams[0], tokens[0]


def modified_precision(hypothesis, reference, n):
    """Count the runs of n words that are right, each as often as the reference has it."""
    found, known = (
        Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        for words in (hypothesis, reference)
    )
    return (found & known).total() / max(found.total(), 1)


def crossings(places):
    """Count the pairs of target tokens whose source places are exchanged."""
    return int(np.triu(np.greater.outer(places, places)).sum())


def best_pair(words, counts):
    """Find the most frequent pair of neighbours; of equals, the one with the smallest ids."""
    pairs = Counter()
    for word, count in zip(words, counts, strict=True):
        for pair in pairwise(word):
            pairs[pair] += count
    return min(pairs, key=lambda pair: (-pairs[pair], pair))


def merge_pair(ids, pair, new_id):
    """Put new_id in place of each pair of neighbours, from left to right."""
    merged, place = [], 0
    while place < len(ids):
        found = tuple(ids[place : place + 2]) == tuple(pair)
        merged.append(new_id if found else ids[place])
        place += 2 if found else 1
    return merged


def forward_flops(vocab_size, num_layers, d_model, length):
    """Count the floating-point operations of all matrix products of one forward pass."""
    kernels = 12 * d_model**2 * num_layers + vocab_size * d_model
    scores_and_sums = 2 * length * d_model * num_layers
    return 2 * length * (kernels + scores_and_sums)


def log_likelihood(token_ids, logits):
    """Add the log-probabilities of all tokens but the first."""
    inputs, targets = shift(np.asarray(token_ids))
    loss = masked_loss(targets[None], np.asarray(logits)[None, :-1], pad_id=None)
    return -len(inputs) * float(loss)


def early_stopping(losses, patience):
    """Say at which epoch a training stops, and which epoch's weights it keeps."""
    for epoch in range(len(losses)):
        best = int(np.argmin(losses[: epoch + 1]))
        if epoch - best >= patience:
            break
    return epoch, best


def cached_attention_step(query, key, value, keys, values):
    """Attend from the newest token to the tokens in the cache and to itself: (K,)."""
    keys, values = np.vstack([keys, [key]]), np.vstack([values, [value]])
    query, keys, values = (np.asarray(x, "float32") for x in ([query], keys, values))
    return scaled_dot_product_attention(query, keys, values)[0][0]


def accept_or_replace(p, q, token, point):
    """Find the distribution of the token that speculative decoding writes."""
    if point * q[token] < p[token]:
        return np.eye(len(p))[token]
    rest = np.maximum(np.subtract(p, q), 0)
    return rest / rest.sum()


def paired_ratio(times, baseline_times, warm_up):
    """Find the median of the ratios of paired rounds, without the first rounds."""
    return np.median(np.divide(times, baseline_times)[warm_up:])


class CountedSum:
    """Sum a row, times a rate; and say how often this Python code has run.

    In a trace the count is a constant: it tells which trace a result is from.
    """

    def __init__(self):
        self.runs = 0

    def __call__(self, row, rate):
        """Return a tensor (2,): the sum and the count."""
        self.runs += 1
        return ops.stack([ops.sum(row * rate), ops.convert_to_tensor(self.runs, "float32")])


def run_traced_once(function, rows, rates):
    """Show the results of a `CountedSum` whose code runs once for all calls."""
    return [[np.sum(row) * rate, 1] for row, rate in zip(rows, rates, strict=True)]


def training_flops(vocab_size, num_layers, d_model, batch, length, remat):
    """Count the floating-point operations of the matrix products of one training step."""
    output = forward_flops(vocab_size, 0, d_model, length)
    blocks = forward_flops(vocab_size, num_layers, d_model, length) - output
    # Backward costs two forward passes: gradients of the inputs and of the kernels.
    return batch * ((4 if remat else 3) * blocks + 3 * output)


def decoding_limit(num_weights, batch, bytes_per_weight, peak, bandwidth):
    """Find the most tokens per second that arithmetic and memory allow."""
    computing = 2 * num_weights * batch / peak
    return batch / max(computing, num_weights * bytes_per_weight / bandwidth)


EXERCISES = {
    "softmax": Exercise(
        lambda scores: masked_softmax(np.asarray(scores, "float32")),
        (
            Case("two equal scores", ([0.0, 0.0],), "Divide by the sum of the exponentials."),
            Case("a matrix", ([[1.0, 2.0], [3.0, 3.0]],), "Sum over the last axis, keepdims=True."),
            Case(
                "edge case: large scores",
                ([1000.0, 1001.0],),
                "exp(1000) overflows: subtract the largest score of the row first.",
            ),
        ),
    ),
    "causal mask": Exercise(
        lambda length: causal_mask(length)[0, 0],
        (
            Case("length 3", (3,), "Row i may see the columns j <= i, so also itself."),
            Case("edge case: length 1", (1,), "One token may see itself."),
        ),
    ),
    "untrained loss": Exercise(
        # Equal logits: every token is equally likely.
        lambda vocab_size: masked_loss(
            np.zeros((1, 1), "int32"), np.zeros((1, 1, vocab_size), "float32"), pad_id=None
        ),
        (
            Case("2 tokens", (2,), "Each token has the probability 1 / vocab_size."),
            Case("67 tokens", (67,), "Use the natural logarithm, np.log."),
            Case("edge case: 1 token", (1,), "The only token is certain, so the loss is 0."),
        ),
    ),
    "attend from one position": Exercise(
        lambda query, keys, values: scaled_dot_product_attention(
            *(np.asarray(x, "float32") for x in ([query], keys, values))
        )[0][0],
        (
            Case(
                "two keys",
                ([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [[10.0], [20.0]]),
                "Products, divided by sqrt(width of the query), softmax, weighted sum.",
            ),
            Case(
                "width 4, three keys",
                (
                    [1.0, 2.0, 1.0, 1.0],
                    [[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 2.0], [1.0, 2.0, 0.0, 2.0]],
                    [[10.0, 0.0], [0.0, 10.0], [10.0, 10.0]],
                ),
                "The square root is taken of the width, 4, not of the number of keys, 3.",
            ),
            Case(
                "edge case: equal keys",
                ([3.0, -1.0], [[2.0, 5.0]] * 3, [[1.0], [2.0], [6.0]]),
                "Equal keys get equal weights, so the output is the mean of the values.",
            ),
        ),
    ),
    "attention scores": Exercise(
        lambda query, key: attention_scores(
            np.asarray(query, "float32"), np.asarray(key, "float32")
        ),
        (
            Case(
                "one query, two keys",
                ([[2.0, 2.0, 2.0, 2.0]], [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]]),
                "Rows are queries, columns are keys; divide by sqrt(4) = 2.",
            ),
            Case(
                "a batch of two",
                ([[[1.0, 2.0]], [[3.0, 4.0]]], [[[1.0, 0.0]], [[0.0, 1.0]]]),
                "Exchange only the last two axes of key: np.swapaxes(key, -1, -2).",
            ),
            Case("edge case: width 1", ([[3.0]], [[5.0]]), "sqrt(1) = 1: the plain product."),
        ),
    ),
    "decoder mask": Exercise(
        lambda target_ids, pad_id: create_masks(
            np.asarray(target_ids), np.asarray(target_ids), pad_id
        )[1],
        (
            Case(
                "one sequence without padding",
                ([[5, 6, 7]], 0),
                "The causal mask, with the shape (B, 1, T, T).",
            ),
            Case(
                "padding at the end",
                ([[5, 6, 7, 4], [5, 6, 0, 0]], 0),
                "A key must be both real and not in the future: use &.",
            ),
            Case(
                "edge case: another padding id",
                ([[9, 0, 3]], 9),
                "Compare the ids with pad_id, not with 0.",
            ),
        ),
    ),
    "cached causal mask": Exercise(
        lambda query_length, key_length, offset: causal_mask(query_length, key_length, offset)[
            0, 0
        ],
        (
            Case("no earlier keys", (3, 3, 0), "With offset 0 it is the usual causal mask."),
            Case(
                "two new queries after four earlier keys",
                (2, 6, 4),
                "Query i stands at place i + offset of the whole sequence.",
            ),
            Case("edge case: one new query", (1, 6, 5), "The newest token sees every key."),
        ),
    ),
    "wavelength": Exercise(
        lambda dim, d_model: 2 * np.pi / get_angles(1, dim, d_model),
        (
            Case("the first feature", (0, 8), "The angle grows by 1 per position: 2 pi."),
            Case(
                "feature 6 of 8",
                (6, 8),
                "The angle at position 1 is 1 / 10000^(2 (dim // 2) / d_model).",
            ),
            Case(
                "edge case: an odd feature",
                (7, 8),
                "Features 2i and 2i + 1 share one wave: use dim // 2.",
            ),
        ),
        tolerance=1e-2,
    ),
    "interleave": Exercise(
        lambda table: positional_encoding(*np.shape(table))[0],
        (
            Case(
                "width 4",
                (positional_encoding(3, 4, layout="concat")[0],),
                "Sines go to columns 0, 2, ...; cosines to columns 1, 3, ...",
            ),
            Case(
                "edge case: odd width 5",
                (positional_encoding(3, 5, layout="concat")[0],),
                "With 5 columns there are 3 sines and 2 cosines.",
            ),
        ),
    ),
    "rotate a pair": Exercise(
        # With two features there is one pair, and its angle is the position.
        lambda pair, angle: apply_rotary(
            np.asarray(pair, "float32").reshape(1, 1, 1, 2), np.array([angle])
        )[0, 0, 0],
        (
            Case("an angle of 1", ([1.0, 0.0], 1.0), "(1, 0) becomes (cos angle, sin angle)."),
            Case("two features", ([2.0, 3.0], 0.5), "(a cos - b sin, b cos + a sin)."),
            Case("edge case: angle 0", ([2.0, 3.0], 0.0), "An angle of 0 changes nothing."),
        ),
    ),
    "split heads": Exercise(
        lambda x, num_heads: MultiHeadAttention(num_heads, x.shape[-1]).split_heads(x),
        (
            Case(
                "2 heads",
                (features(1, 3, 4), 2),
                "Reshape to (B, T, H, K), then exchange the axes 1 and 2.",
            ),
            Case(
                "a batch of 2 with 3 heads",
                (features(2, 4, 6), 3),
                "The batch axis stays in front: (B, H, T, K).",
            ),
            Case("edge case: one head", (features(1, 2, 4), 1), "One head keeps all features."),
        ),
    ),
    "multi-head attention": Exercise(
        # Kernels that change nothing leave the split, the attention and the merge.
        lambda query, key, value, num_heads: MultiHeadAttention(
            num_heads, query.shape[-1], use_bias=False, kernel_initializer="identity"
        )(query, key, value),
        (
            Case(
                "self-attention with 2 heads",
                (features(1, 3, 4), features(1, 3, 4), features(1, 3, 4), 2),
                "Split query, key and value; attend; merge: transpose back, then reshape.",
            ),
            Case(
                "3 queries, 5 keys",
                (features(2, 3, 4), features(2, 5, 4) + 1, features(2, 5, 4), 2),
                "The output has one row per query.",
            ),
            Case(
                "edge case: one head",
                (features(1, 3, 4), features(1, 3, 4), features(1, 3, 4), 1),
                "One head is plain attention on all features.",
            ),
        ),
    ),
    "attention parameters": Exercise(
        lambda d_model, num_heads, use_bias: count_parameters(
            MultiHeadAttention(num_heads, d_model, use_bias=use_bias), d_model
        ),
        (
            Case("4 heads", (8, 4, True), "Four kernels (D, D) and four biases (D,)."),
            Case("one head", (8, 1, True), "The number of heads changes nothing."),
            Case("edge case: no bias", (12, 2, False), "Without biases only 4 D^2 remain."),
        ),
        tolerance=0.0,
    ),
    "layer norm": Exercise(
        layer_norm,
        (
            Case(
                "gain 1, bias 0",
                (features(2, 4), 1.0, 0.0),
                "Subtract the mean, divide by the standard deviation, over the last axis.",
            ),
            Case(
                "gain 2, bias 1",
                (features(1, 3, 4), 2.0, 1.0),
                "The gain multiplies, the bias is added, both after the division.",
            ),
            Case(
                "edge case: equal features",
                (np.full((1, 4), 3.0, "float32"), 1.0, 0.0),
                "The variance is 0: add epsilon=1e-6 to it before the square root.",
            ),
        ),
    ),
    "residual": Exercise(
        lambda x, sublayer, norm_first: (
            x + sublayer(layer_norm(x)) if norm_first else layer_norm(x + sublayer(x))
        ),
        (
            Case(
                "post-norm",
                (features(2, 4), lambda x: 2 * x + 1, False),
                "norm(x + sublayer(x)): the norm comes last.",
            ),
            Case(
                "pre-norm",
                (features(2, 4), lambda x: 2 * x + 1, True),
                "x + sublayer(norm(x)): only the sublayer reads normalised values.",
            ),
            Case(
                "edge case: a sublayer that returns 0, pre-norm",
                (features(2, 4), lambda x: 0 * x, True),
                "Then x must come through unchanged.",
            ),
        ),
    ),
    "layer parameters": Exercise(
        lambda d_model, dff, cross_attention: count_parameters(
            DecoderLayer(d_model, 1, dff, cross_attention=cross_attention), d_model
        ),
        (
            Case(
                "a GPT block",
                (8, 32, False),
                "One attention (4 D^2 + 4 D), one feed-forward, two norms of 2 D.",
            ),
            Case(
                "with cross-attention",
                (8, 32, True),
                "Cross-attention adds one more attention and one more norm.",
            ),
            Case(
                "edge case: dff below d_model",
                (8, 2, False),
                "The feed-forward has two kernels and two biases: 2 D dff + dff + D.",
            ),
        ),
        tolerance=0.0,
    ),
    "shift": Exercise(
        shift,
        (
            Case(
                "one sequence",
                (np.array([[5, 6, 7, 8]]),),
                "Inputs lose the last token, targets lose the first.",
            ),
            Case(
                "two sequences",
                (np.array([[5, 6, 7], [1, 2, 0]]),),
                "Cut along the last axis: token_ids[:, :-1].",
            ),
            Case("edge case: two tokens", (np.array([[5, 6]]),), "One input, one target."),
        ),
        tolerance=0.0,
    ),
    "masked loss": Exercise(
        masked_loss,
        (
            Case(
                "no padding",
                (np.array([[1, 2]]), features(1, 2, 4)),
                "The loss of one token is logsumexp(logits) - logits[target].",
            ),
            Case(
                "with padding",
                (np.array([[1, 2, 0], [3, 0, 0]]), features(2, 3, 4)),
                "Divide by the number of real targets, not by all of them.",
            ),
            Case(
                "edge case: only padding",
                (np.array([[0, 0]]), features(1, 2, 4)),
                "0 / 0 is NaN: divide by at least 1.",
            ),
        ),
    ),
    "masked accuracy": Exercise(
        masked_accuracy,
        (
            Case(
                "no padding",
                (np.array([[2, 1]]), features(1, 2, 4)),
                "A prediction is the place of the largest logit; here one of two is right.",
            ),
            Case(
                "with padding",
                (np.array([[2, 1, 0], [1, 3, 0]]), features(2, 3, 4)),
                "Count real targets only, above and below the fraction line.",
            ),
            Case(
                "edge case: only padding",
                (np.array([[0, 0]]), features(1, 2, 4)),
                "0 / 0 is NaN: divide by at least 1.",
            ),
        ),
    ),
    "warm-up schedule": Exercise(
        lambda step, d_model, warmup_steps: WarmupSchedule(d_model, warmup_steps)(step),
        (
            Case("while it rises", (10, 64, 100), "d_model^-0.5 x step x warmup_steps^-1.5."),
            Case("after the top", (400, 64, 100), "d_model^-0.5 x step^-0.5."),
            Case("edge case: step 0", (0, 64, 100), "0^-0.5 is infinite: count step 0 as 1."),
        ),
    ),
    "length penalty": Exercise(
        penalty,
        (
            Case("alpha 1", (7, 1.0), "(5 + 7) / 6: the sum first, then the division."),
            Case("alpha 0.6", (20, 0.6), "alpha is the power of the whole fraction."),
            Case("edge case: alpha 0", (20, 0.0), "Any number to the power 0 is 1."),
        ),
    ),
    "beam step": Exercise(
        beam_step,
        (
            Case(
                "one beam",
                (np.log([[0.2, 0.5, 0.3]]), np.array([-1.0])),
                "With one beam it is greedy: the token with the largest log-probability.",
            ),
            Case(
                "both winners continue one beam",
                (np.log([[0.5, 0.4, 0.1], [0.1, 0.2, 0.7]]), np.log([0.8, 0.1])),
                "Add the totals, then choose the best K of all K x V, not one of each beam.",
            ),
            Case(
                "the second beam wins",
                (np.log([[0.4, 0.35, 0.25], [0.05, 0.9, 0.05]]), np.log([0.5, 0.45])),
                "Best first; the place p in the flat array is beam p // V, token p % V.",
            ),
            Case(
                "edge case: the first step",
                (np.log([[0.1, 0.6, 0.3], [0.1, 0.6, 0.3]]), np.array([0.0, -1e9])),
                "All beams begin alike; a total of -1e9 keeps the second from being chosen.",
            ),
        ),
        tolerance=0.0,
    ),
    "modified precision": Exercise(
        modified_precision,
        (
            Case(
                "single words",
                (["the", "cat", "sat"], ["the", "cat", "is", "here"], 1),
                "Divide by the number of runs in the hypothesis, not in the reference.",
            ),
            Case(
                "a repeated word",
                (["the"] * 7, ["the", "cat", "is", "on", "the", "mat"], 1),
                "The reference has it twice, so only two of the seven count.",
            ),
            Case(
                "pairs of words",
                (["one", "cat", "and", "the", "dog"], ["the", "cat", "and", "one", "dog"], 2),
                "Words must stand side by side, in the same order: 4 runs here.",
            ),
            Case(
                "edge case: fewer than n words",
                (["yes"], ["yes", "indeed"], 2),
                "There is no run, and 0 / 0 has no value: divide by at least 1.",
            ),
        ),
    ),
    "crossings": Exercise(
        crossings,
        (
            Case("noun and adjective", ([0, 2, 1, 3],), "One pair is exchanged: 2 before 1."),
            Case(
                "the reverse order",
                ([3, 2, 1, 0],),
                "Compare all pairs, not only neighbours: 4 * 3 / 2 of them.",
            ),
            Case("equal places", ([1, 1, 0],), "Two tokens of the same word do not cross."),
            Case("edge case: one token", ([4],), "One token makes no pair, so nothing crosses."),
        ),
        tolerance=0.0,
    ),
    "bytes of a character": Exercise(
        lambda code_point: len(chr(code_point).encode("utf-8")),
        (
            Case("the letter a", (0x61,), "ASCII is a part of UTF-8: see the first row."),
            Case("月", (0x6708,), "Compare the code point with the limits, not the character."),
            Case("a full moon", (0x1F315,), "Above U+FFFF a character has the most bytes."),
            Case(
                "edge case: the last of its row", (0x7F,), "The last number of a row belongs to it."
            ),
            Case("edge case: the first of its row", (0x80,), "The next row begins at this number."),
            Case(
                "edge case: the last of row 2", (0x7FF,), "The last number of a row belongs to it."
            ),
            Case(
                "edge case: the last of row 3", (0xFFFF,), "The last number of a row belongs to it."
            ),
        ),
        tolerance=0.0,
    ),
    "best pair": Exercise(
        best_pair,
        (
            Case(
                "one word",
                ([[5, 7, 5, 7, 6]], [1]),
                "A pair is two neighbours, in their order; return its two ids.",
            ),
            Case(
                "words with counts",
                ([[8, 9, 8, 9], [4, 3]], [2, 5]),
                "A pair in a word that stands 5 times in the text counts 5 times.",
            ),
            Case(
                "a pair inside several words",
                ([[1, 2], [9, 1, 2], [3, 4]], [2, 2, 3]),
                "Add the counts of all words that hold the pair.",
            ),
            Case(
                "equal counts",
                ([[6, 3, 6, 2, 5]], [1]),
                "Of equally frequent pairs the one with the smallest first id wins.",
            ),
            Case(
                "edge case: equal counts and equal first ids",
                ([[3, 9], [3, 4]], [2, 2]),
                "If the first ids are equal too, the second ids decide.",
            ),
        ),
        tolerance=0.0,
    ),
    "merge": Exercise(
        merge_pair,
        (
            Case(
                "one pair",
                ([4, 5, 6], (4, 5), 9),
                "The new id stands in place of both: the list becomes shorter.",
            ),
            Case(
                "two pairs",
                ([4, 5, 6, 4, 5], (4, 5), 9),
                "Every pair is merged, also one at the end.",
            ),
            Case(
                "the order of a pair",
                ([5, 4, 4, 6, 5], (4, 5), 9),
                "Only 4 followed by 5 counts. A token that is in no pair stays.",
            ),
            Case(
                "edge case: three equal tokens",
                ([4, 4, 4], (4, 4), 9),
                "Go from left to right; a merged token is in no second pair.",
            ),
            Case("edge case: one token", ([4], (4, 5), 9), "One token makes no pair."),
        ),
        tolerance=0.0,
    ),
    "bits per byte": Exercise(
        lambda loss, text, num_tokens: bits_per_byte(loss, num_tokens, len(text.encode("utf-8"))),
        (
            Case(
                "one token per character",
                (1.0, "O Romeo", 7),
                "The loss is in nats: one bit is ln 2 nats.",
            ),
            Case(
                "two tokens",
                (3.0, "O Romeo", 2),
                "The loss is a mean per token. First find the loss of the whole text.",
            ),
            Case(
                "edge case: Chinese",
                (5.0, "明月", 2),
                "len(text) counts characters, and one of these has three bytes in UTF-8.",
            ),
        ),
    ),
    "gpt parameters": Exercise(
        lambda vocab_size, context_length, num_layers, d_model: GPT(
            vocab_size, context_length, num_layers, d_model, num_heads=1
        ).count_params(),
        (
            Case(
                "one block",
                (10, 4, 1, 8),
                "Two tables, one block of 12 D^2 + 13 D, the final norm; the output has no table.",
            ),
            Case("three blocks", (10, 4, 3, 8), "Only the blocks are there L times."),
            Case(
                "a larger vocabulary",
                (50, 4, 1, 8),
                "The output uses the embedding table again: count it once.",
            ),
            Case("edge case: D = 1", (2, 3, 1, 1), "The final norm has a gain and a bias, 2 D."),
        ),
        tolerance=0.0,
    ),
    "forward flops": Exercise(
        forward_flops,
        (
            Case(
                "one position",
                (10, 1, 8, 1),
                "A number of a kernel costs two operations: one multiplication, one addition.",
            ),
            Case("two layers", (10, 2, 8, 1), "The output kernel is used once, the rest L times."),
            Case(
                "16 positions",
                (10, 2, 8, 16),
                "Scores and weighted sums meet all T keys at each of the T positions.",
            ),
            Case(
                "edge case: no layer",
                (10, 0, 8, 16),
                "Without layers only the product with the output kernel is left.",
            ),
        ),
        tolerance=0.0,
    ),
    "log-likelihood": Exercise(
        log_likelihood,
        (
            Case(
                "two tokens",
                ([2, 1], features(2, 4)),
                "The logits at position 0 predict token 1. The last logits predict nothing here.",
            ),
            Case(
                "five tokens",
                ([2, 1, 3, 0, 3], features(5, 4)),
                "Add the log-probabilities of all tokens but the first; no mean.",
            ),
            Case(
                "edge case: all tokens equally likely",
                ([0, 1, 2], np.zeros((3, 4), "float32")),
                "Each predicted token has the probability 1 / V, also the token 0.",
            ),
        ),
        tolerance=1e-4,
    ),
    "early stopping": Exercise(
        early_stopping,
        (
            Case(
                "patience 2",
                ([3.0, 2.0, 2.1, 2.2, 1.0], 2),
                "Stop after 2 epochs without a new best loss; later epochs are never seen.",
            ),
            Case(
                "a second chance",
                ([3.0, 2.0, 2.1, 1.9, 2.0, 2.5], 2),
                "Each new best loss sets the count of bad epochs back to 0.",
            ),
            Case(
                "a jump, then falling",
                ([3.0, 2.0, 2.5, 2.3, 1.9], 2),
                "Compare with the best loss so far, not with the epoch before.",
            ),
            Case(
                "edge case: equal losses",
                ([2.0, 2.0, 2.0], 2),
                "An equal loss is no new best loss: the first one is kept.",
            ),
            Case(
                "edge case: it never stops",
                ([3.0, 2.0, 2.5], 5),
                "Then the last epoch is the end; the best epoch is still the smallest loss.",
            ),
        ),
        tolerance=0.0,
    ),
    "top-p": Exercise(
        lambda logits, p: next_token_probabilities(np.asarray(logits)[None], top_p=p)[0],
        (
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
        ),
    ),
    "min-p": Exercise(
        lambda logits, p: ops.softmax(MinP(p).adjust(np.asarray(logits)[None], None)[0]),
        (
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
        ),
    ),
    "cached attention step": Exercise(
        cached_attention_step,
        (
            Case(
                "two earlier tokens",
                (features(2), features(2) + 1, features(2) - 1, features(2, 2), features(2, 2)),
                "Which tokens may the newest one see? Count the weights.",
            ),
            Case(
                "width 4",
                (features(4), features(4), features(4) - 1, 3 * features(5, 4), features(5, 4)),
                "As in notebook 01: products, a division, softmax, a weighted sum.",
            ),
            Case(
                "edge case: the first token",
                (features(3), features(3), features(3) + 2, np.zeros((0, 3)), np.zeros((0, 3))),
                "The cache is empty, so there is one weight, and it is 1.",
            ),
        ),
    ),
    "accept or replace": Exercise(
        accept_or_replace,
        (
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
        ),
    ),
    "paired ratio": Exercise(
        paired_ratio,
        (
            Case(
                "three rounds",
                ([3.0, 4.0, 10.0], [1.0, 2.0, 4.0], 0),
                "Divide the two times of each round first; the baseline is below.",
            ),
            Case(
                "a disturbed round",
                ([2.0, 2.0, 20.0], [4.0, 4.0, 4.0], 0),
                "One disturbed round must not decide, so a mean is of no use here.",
            ),
            Case(
                "a warm-up round",
                ([90.0, 2.0, 4.0, 3.0], [1.0, 2.0, 2.0, 2.0], 1),
                "The first warm_up rounds do not count.",
            ),
            Case(
                "edge case: an even number of rounds",
                ([2.0, 3.0], [1.0, 1.0], 0),
                "Of two values in the middle, the median is the mean.",
            ),
        ),
    ),
    "one trace": Exercise(
        run_traced_once,
        (
            Case(
                "one length, two rates",
                (CountedSum(), list(features(2, 4)), [0.5, 2.0]),
                "Column 1 says how often the Python code had run. All calls need one "
                "tf.function, and each Python number is traced again.",
            ),
            Case(
                "three lengths",
                (CountedSum(), [features(3), features(5), features(7)], [0.5, 2.0, 0.5]),
                "Column 1 counts the runs of the Python code: another length was traced again.",
            ),
            Case(
                "edge case: an empty row",
                (CountedSum(), [features(2), features(0)], [2.0, 3.0]),
                "The sum of nothing is 0, and no length needs a trace of its own.",
            ),
        ),
    ),
    "training flops": Exercise(
        training_flops,
        (
            Case(
                "one token",
                (10, 1, 8, 1, 1, False),
                "Forward: notebook 09. Backward: gradients of the inputs and of the kernels.",
            ),
            Case(
                "16 tokens",
                (10, 2, 8, 1, 16, False),
                "Attention has two products per layer; each token meets all T keys in both.",
            ),
            Case(
                "4 texts",
                (10, 2, 8, 4, 16, False),
                "A token meets the tokens of its own text only, not those of other texts.",
            ),
            Case(
                "with remat",
                (10, 2, 8, 4, 16, True),
                "Only the blocks run forward once more. Their backward pass stays as it is.",
            ),
            Case(
                "edge case: no layer",
                (10, 0, 8, 4, 16, True),
                "Without blocks remat changes nothing.",
            ),
        ),
        tolerance=0.5,  # whole numbers, also from a product with 4 / 3
    ),
    "decoding limit": Exercise(
        decoding_limit,
        (
            Case(
                "one text",
                (100, 1, 4, 1000.0, 80.0),
                "Here reading takes longer than computing. They go on at the same time.",
            ),
            Case(
                "10 texts",
                (100, 10, 4, 1000.0, 80.0),
                "The weights are read once per step, for all texts. A step writes 10 tokens.",
            ),
            Case(
                "50 texts",
                (100, 50, 4, 1000.0, 80.0),
                "Here arithmetic is the limit: two operations per weight and text.",
            ),
            Case(
                "16 bits",
                (100, 10, 2, 1000.0, 80.0),
                "A weight has two bytes now: both limits are nearer to each other.",
            ),
            Case(
                "edge case: both limits at once",
                (100, 25, 4, 1000.0, 80.0),
                "Both take equally long, so either one gives the answer.",
            ),
        ),
    ),
}


def check(name, answer):
    """Check the learner's function for an exercise.

    Args:
        name: str, a key of EXERCISES.
        answer: function to check; as long as it returns None or `...`, the
            exercise counts as empty.

    Returns:
        bool, True if every case is right, False if the exercise is still empty.

    Raises:
        KeyError: if there is no such exercise.
        AssertionError: if a result is wrong; the message names the case, what
            differs and a hint.
    """
    if name not in EXERCISES:
        raise KeyError(f"name must be one of {', '.join(sorted(EXERCISES))}, got {name!r}.")
    exercise = EXERCISES[name]
    for case in exercise.cases:
        result = answer(*copy.deepcopy(case.inputs))  # the learner may write into them
        if result is None or result is Ellipsis:
            print(f"{name}: still empty. Write your code in place of the `...` line.")
            return False
        expected = exercise.reference(*case.inputs)
        compare(f"{name}, {case.what}", result, expected, case.hint, exercise.tolerance)
    print(f"{name}: all {len(exercise.cases)} checks passed.")
    return True


def compare(what, result, expected, hint, tolerance):
    """Raise unless a result equals the expected array: shape, then dtype, then values.

    Args:
        what: str, names the result in the message.
        result: tensor, array or number.
        expected: tensor, array or number with the right values.
        hint: str, ends the message.
        tolerance: float >= 0, the largest allowed difference.

    Raises:
        AssertionError: if they differ.
    """
    try:
        result, expected = np.asarray(result), np.asarray(expected)
        numbers = result.astype("float64")
    except (TypeError, ValueError):
        raise AssertionError(
            f"{what}: the result must be one array of numbers, got {result!r}. {hint}"
        ) from None
    if result.shape != expected.shape:
        raise AssertionError(
            f"{what}: the shape is {result.shape}, expected {expected.shape}. {hint}"
        )
    if (result.dtype == bool) != (expected.dtype == bool):
        raise AssertionError(
            f"{what}: the dtype is {result.dtype}, expected {expected.dtype}. {hint}"
        )
    # NaN compares as False, so it counts as wrong; inf equals inf.
    with np.errstate(invalid="ignore"):
        near = np.abs(numbers - expected.astype("float64")) <= tolerance
    right = near | (result == expected)
    if not right.all():
        place = tuple(int(index) for index in np.argwhere(~right)[0])
        where = f" at index {list(place)}" if place else ""
        raise AssertionError(
            f"{what}: the value{where} is {result[place]}, expected {expected[place]}. {hint}"
        )
