"""Right answers in unusual styles, and wrong ones, to the exercises of notebooks 07 to 09."""

from collections import Counter
from itertools import pairwise

import keras
import numpy as np
from answers_00_to_06 import LayerNorm, OtherBlock, changed
from keras import ops

from tfgpt.checks import EXERCISES
from tfgpt.masks import causal_mask


def my_beam_step(log_probs, totals):
    """Another style: all pairs of beam and token in a list, sorted by their totals."""
    pairs = [(beam, token) for beam, row in enumerate(log_probs) for token in range(len(row))]
    pairs.sort(key=lambda pair: -(totals[pair[0]] + log_probs[pair]))
    return tuple(np.array(part) for part in zip(*pairs[: len(totals)], strict=True))


def best_of_each_beam(log_probs, totals):
    """Forget that two winners may continue one beam."""
    tokens = log_probs.argmax(axis=1)
    order = np.argsort(-(totals + log_probs.max(axis=1)))
    return order, tokens[order]


def without_totals(log_probs, totals):
    return my_beam_step(log_probs, 0 * totals)


def worst_first(log_probs, totals):
    return [part[::-1] for part in my_beam_step(log_probs, totals)]


def pairs_of_beams(log_probs, totals):
    return np.transpose(my_beam_step(log_probs, totals))


def runs(words, n):
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def without_clipping(hypothesis, reference, n):
    known = runs(reference, n)
    return np.mean([run in known for run in runs(hypothesis, n)])


def recall(hypothesis, reference, n):
    return EXERCISES["modified precision"].reference(reference, hypothesis, n)


def single_words_only(hypothesis, reference, n):
    return EXERCISES["modified precision"].reference(hypothesis, reference, 1)


def without_an_edge_case(hypothesis, reference, n):
    found = runs(hypothesis, n)
    right = EXERCISES["modified precision"].reference(hypothesis, reference, n) * len(found)
    return np.float64(right) / len(found) if found else np.nan


def with_equal_places(places):
    return sum(a >= b for i, a in enumerate(places) for b in places[i + 1 :])


def only_neighbours(places):
    return int((np.diff(places) < 0).sum())


def bytes_by_table(code_point):
    """Another style: how many bits the number needs; 7, 11 and 16 fit into 1, 2 and 3 bytes."""
    return 1 + sum(int(code_point).bit_length() > bits for bits in (7, 11, 16))


def best_pair_by_sorting(words, counts):
    pairs = {}
    for word, count in zip(words, counts, strict=True):
        for i in range(len(word) - 1):
            pairs[word[i], word[i + 1]] = pairs.get((word[i], word[i + 1]), 0) + count
    return np.array(sorted(pairs, key=lambda pair: (pairs[pair], -pair[0], -pair[1]))[-1])


def first_of_equals(words, counts):
    """Forget the rule for ties: the pair that was met first wins."""
    pairs = Counter()
    for word, count in zip(words, counts, strict=True):
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs.most_common(1)[0][0]


def without_counts(words, counts):
    return best_pair_by_sorting(words, [1] * len(words))


def ties_by_first_id_only(words, counts):
    pairs = Counter()
    for word, count in zip(words, counts, strict=True):
        for pair in pairwise(word):
            pairs[pair] += count
    return min(pairs, key=lambda pair: (-pairs[pair], pair[0]))


def merge_in_place(ids, pair, new_id):
    """Another style: the list itself becomes shorter."""
    place = 0
    while place + 1 < len(ids):
        if (ids[place], ids[place + 1]) == pair:
            ids[place : place + 2] = [new_id]
        place += 1
    return ids


def merge_keeps_the_second(ids, pair, new_id):
    return [new_id if found == pair else found[0] for found in pairwise([*ids, -1])]


def merge_the_first_only(ids, pair, new_id):
    for place, found in enumerate(pairwise(ids)):
        if found == pair:
            return [*ids[:place], new_id, *ids[place + 2 :]]
    return ids


def merge_from_the_right(ids, pair, new_id):
    return merge_in_place(ids[::-1], pair[::-1], new_id)[::-1]


def merge_without_the_last(ids, pair, new_id):
    merged, place = [], 0
    while place + 1 < len(ids):
        found = (ids[place], ids[place + 1]) == pair
        merged.append(new_id if found else ids[place])
        place += 1 + found
    return merged


def parameters_by_hand(vocab_size, context_length, num_layers, d_model, tables=1, norm=2):
    tables = (tables * vocab_size + context_length) * d_model
    return tables + num_layers * (12 * d_model**2 + 13 * d_model) + norm * d_model


def flops_by_products(vocab_size, num_layers, d_model, length, sums=2):
    """Another style: each product of (m, k) and (k, n) by itself."""
    products = num_layers * 4 * [(length, d_model, d_model)]
    products += num_layers * 2 * [(length, d_model, 4 * d_model)]
    products += num_layers * sums * [(length, d_model, length)]
    return 2 * sum(m * k * n for m, k, n in [*products, (length, d_model, vocab_size)])


def log_likelihood_by_loop(token_ids, logits, first=0):
    total = 0.0
    for place in range(len(token_ids) - 1):
        row = logits[place + first]
        total += row[token_ids[place + 1]] - np.log(np.sum(np.exp(row)))
    return total


def mean_log_likelihood(token_ids, logits):
    return log_likelihood_by_loop(token_ids, logits) / (len(token_ids) - 1)


def without_token_0(token_ids, logits):
    return log_likelihood_by_loop([*token_ids[:1], *filter(None, token_ids[1:])], logits)


def stop_by_counting(losses, patience):
    """The solution of notebook 09 in another style: count the bad epochs."""
    best, bad = 0, 0
    for epoch, loss in enumerate(losses):
        best, bad = (epoch, 0) if epoch == 0 or loss < losses[best] else (best, bad + 1)
        if bad == patience:
            return [epoch, best]
    return [len(losses) - 1, best]


def never_resets(losses, patience):
    best, bad = 0, 0
    for epoch, loss in enumerate(losses):
        if loss <= losses[best] and (epoch == 0 or loss < losses[best]):
            best = epoch
        else:
            bad += 1
        if bad == patience:
            return epoch, best
    return epoch, best


def compares_with_the_epoch_before(losses, patience):
    bad = 0
    for epoch in range(1, len(losses)):
        bad = bad + 1 if losses[epoch] >= losses[epoch - 1] else 0
        if bad == patience:
            break
    return epoch, int(np.argmin(losses[: epoch + 1]))


def best_of_all_epochs(losses, patience):
    return stop_by_counting(losses, patience)[0], int(np.argmin(losses))


def equal_is_better(losses, patience):
    best = 0
    for epoch, loss in enumerate(losses):
        best = epoch if loss <= losses[best] else best
        if epoch - best == patience:
            break
    return epoch, best


def forgets_to_end(losses, patience):
    stop, best = stop_by_counting(losses, patience)
    return (stop, best) if stop - best >= patience else (-1, best)


def once_per_word(words, counts):
    pairs = Counter()
    for word, count in zip(words, counts, strict=True):
        for pair in set(pairwise(word)):
            pairs[pair] += count
    return min(pairs, key=lambda pair: (-pairs[pair], pair))


def ties_by_sum(words, counts):
    pairs = Counter()
    for word, count in zip(words, counts, strict=True):
        for pair in pairwise(word):
            pairs[pair] += count
    return min(pairs, key=lambda pair: (-pairs[pair], sum(pair), pair))


def beam_step_by_sorting(log_probs, totals):
    """The beam step in another style: a sorted list of all continuations."""
    beams, size = np.shape(log_probs)
    every = [(totals[b] + log_probs[b, v], b, v) for b in range(beams) for v in range(size)]
    best = sorted(every, key=lambda item: -item[0])[:beams]
    return [b for _, b, _ in best], [v for _, _, v in best]


def precision_by_removing(hypothesis, reference, n):
    """Another style: each run that is found is taken out of the reference."""
    left, found = runs(reference, n), 0
    for run in runs(hypothesis, n):
        if run in left:
            left.remove(run)
            found += 1
    return found / len(runs(hypothesis, n)) if runs(hypothesis, n) else 0


def precision_by_counts(hypothesis, reference, n):
    mine, known = runs(hypothesis, n), runs(reference, n)
    return sum(min(mine.count(run), known.count(run)) for run in set(mine)) / (len(mine) or 1)


def crossings_by_merging(places):
    """Another style: sort by insertion and count how far each place moves."""
    done, moves = [], 0
    for place in places:
        moves += sum(other > place for other in done)
        done.append(place)
    return moves


def masked_weights(scores, token_ids, hidden=None):
    """Bug 1 in another style: weights of hidden keys are taken away after the exponential."""
    real = token_ids != 0 if hidden is None else ~hidden(token_ids)
    powers = np.exp(scores) * real
    return powers / np.maximum(powers.sum(-1, keepdims=True), 1e-30)


def attention_of(key_dim):
    return lambda H, D: keras.layers.MultiHeadAttention(H, key_dim=key_dim(H, D))


def real_mean(losses, targets):
    real = losses[targets != 0]
    return real.mean() if real.size else 0.0


def best_pair_by_arrays(words, counts):
    """Another style: a table of counts, searched from its first row."""
    table = np.zeros((10, 10))
    for word, count in zip(words, counts, strict=True):
        for first, second in pairwise(word):
            table[first, second] += count
    return np.unravel_index(table.argmax(), table.shape)


def merge_by_recursion(ids, pair, new_id):
    if len(ids) < 2:
        return list(ids)
    if tuple(ids[:2]) == pair:
        return [new_id, *merge_by_recursion(ids[2:], pair, new_id)]
    return [ids[0], *merge_by_recursion(ids[1:], pair, new_id)]


def layers_of_parameters(V, T, L, D):
    """Another style: every part by itself."""
    attention, feed_forward, norm = 4 * (D * D + D), D * 4 * D + 4 * D + 4 * D * D + D, 2 * D
    return V * D + T * D + sum(attention + feed_forward + 2 * norm for _ in range(L)) + norm


def log_likelihood_by_softmax(token_ids, logits):
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = [probabilities[i, token] for i, token in enumerate(token_ids[1:])]
    return np.log(np.prod(chosen))


def stop_by_minimum(losses, patience):
    """Another style: where is the first minimum of each beginning?"""
    best = [int(np.argmin(losses[: n + 1])) for n in range(len(losses))]
    ends = [n for n, place in enumerate(best) if n - place == patience]
    end = min([*ends, len(losses) - 1])
    return np.array([end, best[end]])


class MyGPT(keras.Model):
    """A right GPT in another style: tables that are bare weights, logits by einsum."""

    masked, positions, tied, normed, width = True, True, True, True, 4

    def __init__(self, vocab_size, context_length, num_layers, d_model, num_heads):
        super().__init__()
        self.vocab_size, self.context_length = vocab_size, context_length
        self.tokens = self.add_weight(shape=(vocab_size, d_model))
        self.places = self.add_weight(shape=(context_length, d_model))
        self.decoder_layers = [
            OtherBlock(d_model, num_heads, self.width * d_model) for _ in range(num_layers)
        ]
        self.final_norm = LayerNorm()

    def embed(self, token_ids, start=0):
        rows = self.places[start : start + token_ids.shape[1]] if self.positions else 0.0
        return ops.take(self.tokens, token_ids, axis=0) + rows

    def logits(self, hidden):
        return ops.einsum("btd,vd->btv", hidden, self.tokens)

    def call(self, token_ids):
        x = self.embed(token_ids)
        mask = causal_mask(token_ids.shape[1]) if self.masked else None
        for block in self.decoder_layers:
            x = block(x, mask=mask)
        return self.logits(self.final_norm(x) if self.normed else x + 0 * self.final_norm(x))


class SubclassedGPT(MyGPT):
    """A right GPT in another style: the whole pass in one expression."""

    def call(self, token_ids):
        mask = np.tri(token_ids.shape[1], dtype=bool)[None, None]
        hidden = self.embed(token_ids)
        for index in range(len(self.decoder_layers)):
            hidden = self.decoder_layers[index](hidden, mask=mask)
        return ops.matmul(self.final_norm(hidden), ops.transpose(self.tokens))


class EmbedsAtZero(MyGPT):
    def embed(self, token_ids, start=0):
        return super().embed(token_ids, 0)


RIGHT = [
    ("bytes of a character", bytes_by_table),
    ("best pair", best_pair_by_sorting),
    ("merge", merge_in_place),
    ("bits per byte", lambda loss, text, n: loss * n / np.log(2) / len(text.encode())),
    ("gpt parameters", parameters_by_hand),
    ("forward flops", flops_by_products),
    ("log-likelihood", log_likelihood_by_loop),
    ("early stopping", stop_by_counting),
    ("length penalty", lambda n, alpha: np.exp(alpha * np.log((5 + n) / 6))),
    ("length penalty", lambda n, alpha: (5 + n) ** alpha / 6**alpha),
    ("beam step", my_beam_step),
    ("beam step", beam_step_by_sorting),
    ("modified precision", precision_by_removing),
    ("modified precision", precision_by_counts),
    ("crossings", crossings_by_merging),
    ("crossings", lambda places: sum(a > b for i, a in enumerate(places) for b in places[i:])),
    ("bug 1", masked_weights),
    ("bug 1", lambda z, ids: np.array(ops.softmax(np.where(ids > 0, z, -1e9), axis=-1))),
    ("bug 2", lambda ids: (ids[:, :-1], ids[:, 1:])),
    ("bug 2", lambda ids: np.array([ids[:, :-1], np.roll(ids, -1, axis=1)[:, :-1]])),
    ("bug 3", attention_of(lambda H, D: D // H)),
    ("bug 3", attention_of(lambda H, D: int(D / H))),
    ("bug 4", lambda layer, target, source: layer(target, source)),
    ("bug 4", lambda layer, target, source: layer(key=source, value=source, query=target)),
    ("bug 5", real_mean),
    ("bug 5", lambda losses, t: np.average(losses, weights=t > 0) if t.any() else 0),
    ("bytes of a character", lambda c: len(chr(c).encode())),
    ("best pair", best_pair_by_arrays),
    ("merge", merge_by_recursion),
    ("bits per byte", lambda loss, text, n: np.log2(np.e) * loss * n / len(bytes(text, "utf-8"))),
    ("gpt parameters", layers_of_parameters),
    ("forward flops", lambda V, L, D, T: 24 * T * L * D**2 + 4 * T**2 * D * L + 2 * T * D * V),
    ("log-likelihood", log_likelihood_by_softmax),
    ("early stopping", stop_by_minimum),
    ("my gpt", MyGPT),
    ("my gpt", SubclassedGPT),
]

WRONG = [
    ("length penalty", lambda n, alpha: 5 + n / 6, "alpha 1: the value is 6.1"),
    ("length penalty", lambda n, alpha: (5 + n) / 6, "alpha 0.6: the value is 4.1"),
    ("length penalty", lambda n, alpha: (5 + n) ** alpha / 6, "alpha 0.6: .*whole fraction"),
    ("beam step", lambda log_probs, totals: [0] * len(totals), "one beam: the shape is"),
    ("beam step", best_of_each_beam, "both winners continue one beam: .*not one of each"),
    ("beam step", pairs_of_beams, r"one beam: the shape is \(1, 2\), expected \(2, 1\)"),
    ("beam step", without_totals, "both winners continue one beam: .*Add the totals"),
    ("beam step", worst_first, "both winners continue one beam: the value"),
    ("modified precision", recall, "single words: .*not in the reference"),
    ("modified precision", without_clipping, "a repeated word: the value is 1.0, .*only two"),
    ("modified precision", single_words_only, "pairs of words: .*side by side"),
    ("modified precision", without_an_edge_case, "edge case: fewer than n words: .* is nan"),
    ("crossings", only_neighbours, "the reverse order: the value is 3, expected 6"),
    ("crossings", with_equal_places, "equal places: the value is 3, expected 2"),
    ("bytes of a character", lambda c: 3 if c > 127 else 1, "a full moon: the value is 3"),
    (
        "bytes of a character",
        lambda c: -(-c.bit_length() // 8),
        "月: the value is 2, expected 3",
    ),
    (
        "bytes of a character",
        lambda c: 1 + sum(c >= limit for limit in (0x7F, 0x7FF, 0xFFFF)),
        "edge case: the last of its row: the value is 2",
    ),
    (
        "bytes of a character",
        lambda c: 1 + sum(c > limit for limit in (0x80, 0x7FF, 0xFFFF)),
        "edge case: the first of its row: the value is 1",
    ),
    (
        "bytes of a character",
        lambda c: 1 + (c > 0x7F) + (c >= 0x7FF) + (c > 0xFFFF),
        "edge case: the last of row 2: the value is 3",
    ),
    ("best pair", without_counts, "words with counts: .*counts 5 times"),
    ("best pair", first_of_equals, "equal counts: .*smallest first id"),
    ("best pair", ties_by_first_id_only, "edge case: equal counts and equal first ids"),
    ("best pair", lambda words, counts: 4, r"one word: the shape is \(\), expected \(2,\)"),
    ("merge", merge_keeps_the_second, r"one pair: the shape is \(3,\), expected \(2,\)"),
    ("merge", merge_the_first_only, "two pairs: the shape .*Every pair is merged"),
    ("merge", merge_without_the_last, "one pair: the shape"),
    ("merge", merge_from_the_right, r"edge case: three equal tokens: the value at index \[0\]"),
    (
        "merge",
        lambda ids, pair, new_id: merge_in_place(ids, pair[::-1], new_id),
        "one pair: the shape",
    ),
    ("bits per byte", lambda loss, text, n: loss, "one token per character: .*in nats"),
    ("bits per byte", lambda loss, text, n: loss / np.log(2), "two tokens: .*a mean per token"),
    (
        "bits per byte",
        lambda loss, text, n: loss * n / (len(text) * np.log(2)),
        "edge case: Chinese: .*counts characters",
    ),
    (
        "gpt parameters",
        lambda *sizes: parameters_by_hand(*sizes, norm=0),
        "one block: .*the final norm",
    ),
    (
        "gpt parameters",
        lambda V, T, L, D: L * parameters_by_hand(V, T, 1, D),
        "three blocks: .*Only the blocks",
    ),
    (
        "gpt parameters",
        lambda *sizes: parameters_by_hand(*sizes, tables=2),
        "one block: the value is 1080, expected 1000",
    ),
    (
        "forward flops",
        lambda *sizes: flops_by_products(*sizes) // 2,
        "one position: .*two operations",
    ),
    (
        "forward flops",
        lambda V, L, D, T: L * flops_by_products(V, 1, D, T),
        "two layers: .*used once",
    ),
    (
        "forward flops",
        lambda V, L, D, T: T * flops_by_products(V, L, D, 1),
        "16 positions: .*all T keys",
    ),
    (
        "log-likelihood",
        lambda ids, logits: log_likelihood_by_loop(ids, logits, first=1),
        "two tokens: .*position 0",
    ),
    ("log-likelihood", mean_log_likelihood, "five tokens: .*no mean"),
    ("log-likelihood", lambda *x: -log_likelihood_by_loop(*x), "two tokens: the value"),
    ("log-likelihood", without_token_0, "five tokens: the value"),
    ("early stopping", never_resets, "a second chance: .*back to 0"),
    (
        "early stopping",
        compares_with_the_epoch_before,
        "a jump, then falling: .*best loss so far",
    ),
    ("early stopping", best_of_all_epochs, "patience 2: .*never seen"),
    ("early stopping", equal_is_better, "edge case: equal losses: .*the first one is kept"),
    ("early stopping", forgets_to_end, "edge case: it never stops: .*the last epoch"),
    ("early stopping", lambda losses, patience: 3, r"patience 2: the shape is \(\)"),
    ("beam step", lambda x, totals: my_beam_step(np.exp(x), totals), "a beam far behind"),
    ("best pair", once_per_word, "a pair twice in a word"),
    ("best pair", ties_by_sum, "edge case: equal counts, the larger sum"),
    ("crossings", lambda places: len(places) * (len(places) - 1) // 2, "noun and adjective"),
    ("bug 1", lambda z, ids: masked_weights(z, ids, lambda ids: ids != 0), "two real tokens"),
    ("bug 1", lambda z, ids: masked_weights(z, ids + 1), "two real tokens"),
    ("bug 1", lambda z, ids: np.array(ops.softmax(np.where(ids > 0, z, -1e9), axis=0)), "two real"),
    ("bug 2", lambda ids: (ids[:, :-1], ids[:, :-1]), "two sequences"),
    ("bug 2", lambda ids: (ids[:, 1:], ids[:, :-1]), "two sequences"),
    ("bug 2", lambda ids: (ids[:, :-2], ids[:, 2:]), "two sequences"),
    ("bug 3", attention_of(lambda H, D: D), "4 heads"),
    ("bug 3", attention_of(lambda H, D: H), "4 heads"),
    ("bug 3", attention_of(lambda H, D: D // 2), "4 heads"),
    ("bug 4", lambda layer, target, source: layer(source, source, target), "equal lengths"),
    ("bug 4", lambda layer, target, source: layer(source, target), "equal lengths"),
    ("bug 4", lambda layer, target, source: layer(target, target), "equal lengths"),
    ("bug 5", lambda losses, targets: np.mean(losses), "half is padding"),
    ("bug 5", lambda losses, targets: np.sum(losses * (targets != 0)), "half is padding"),
    ("bug 5", lambda losses, targets: np.mean(losses * (targets != 0)), "half is padding"),
    ("my gpt", changed(MyGPT, masked=False), "the logits"),
    ("my gpt", changed(MyGPT, positions=False), "the logits"),
    ("my gpt", changed(MyGPT, normed=False), "the logits"),
    ("my gpt", changed(MyGPT, width=2), r"the logits: weight \d+ has the shape"),
    ("my gpt", EmbedsAtZero, "embed and logits"),
]
