"""Labelled texts as batches of few shapes: ids, what is to be predicted, and weights.

Texts of similar length share a batch, and all batches have one of a few lengths, the
buckets, so that a compiled model is compiled once for each. Each text begins with the end
token, which stands between the documents that a base model has read. Shape letters: B batch,
T tokens.
"""

from dataclasses import dataclass

import numpy as np

from tfgpt.data.chat import encode_parts, start_ids
from tfgpt.data.labelled import OUTSIDE

IGNORED = -100  # a target that does not count
MULTIPLE = 8  # lengths of batches are multiples of it
RARE = 0.02  # what is counted of each pair of tags that never came
SHARES = (0.6, 0.95, 1.0)  # of the texts that fit into each bucket


@dataclass(frozen=True)
class Row:
    """One text for a model.

    Args:
        token_ids: int32 array (T,).
        target: int, a class; or int32 array (T,), what each place predicts.
    """

    token_ids: np.ndarray
    target: object


def padding_id(tokenizer):
    """Return the id that fills up short texts; GPT-2, which has none, ends its texts with it."""
    return tokenizer.end_id if tokenizer.pad_id is None else tokenizer.pad_id


def encode_texts(tokenizer, texts, context_length):
    """Encode texts to be classified.

    Args:
        tokenizer: tokenizer of the model.
        texts: list of N str.
        context_length: int, what the model reads at most; the rest of a text is cut off.

    Returns:
        list of N int32 arrays, and how many texts were cut.
    """
    rows = [np.array([*start_ids(tokenizer), *tokenizer.encode(text)], "int32") for text in texts]
    cut = sum(len(row) > context_length for row in rows)
    return [row[:context_length] for row in rows], cut


@dataclass(frozen=True)
class Piece:
    """A part of a sentence that fits into the context.

    Args:
        token_ids: int32 array (T,): the words twice, so that each is read knowing all.
        places: list, the place of each word in the second copy.
        sentence: int, which sentence it is of.
    """

    token_ids: np.ndarray
    places: list
    sentence: int


def encode_sentences(tokenizer, sentences, context_length):
    """Encode sentences to be tagged: a causal model reads each twice.

    A word is tagged at its first token in the second copy, where the model has read the
    whole sentence. A sentence that does not fit twice is divided.

    Args:
        tokenizer: tokenizer of the model.
        sentences: list of lists of words.
        context_length: int.

    Returns:
        list of Piece, and how many sentences were divided.

    Raises:
        ValueError: if one word is too long for the context.

    Source: Springer et al., "Repetition Improves Language Model Embeddings" (2024).
    """
    start = start_ids(tokenizer)
    room = (context_length - 2 * len(start)) // 2
    pieces, divided = [], 0
    for number, words in enumerate(sentences):
        encoded = [tokenizer.encode(word if i == 0 else f" {word}") for i, word in enumerate(words)]
        parts, size = [[]], 0
        for word, token_ids in zip(words, encoded, strict=True):
            if not 0 < len(token_ids) <= room:
                raise ValueError(
                    f"words must have 1 to {room} tokens, got {word[:40]!r} with {len(token_ids)}."
                )
            if size + len(token_ids) > room:
                parts.append([])
                size = 0
            parts[-1].append(token_ids)
            size += len(token_ids)
        divided += len(parts) > 1
        for part in parts:
            copy = np.concatenate(part)
            ends = np.cumsum([len(token_ids) for token_ids in part])
            second = 2 * len(start) + len(copy)
            places = [second, *(second + ends[:-1])]
            token_ids = np.array([*start, *copy, *start, *copy], "int32")
            pieces.append(Piece(token_ids, [int(place) for place in places], number))
    return pieces, divided


def tag_rows(pieces, tags, names):
    """Make rows of pieces: the targets are the tags of the words, at their places.

    A tag that is not in `names` does not count in the loss.
    """
    number_of = {name: number for number, name in enumerate(names)}
    used, rows = {}, []
    for piece in pieces:
        first = used.get(piece.sentence, 0)
        used[piece.sentence] = first + len(piece.places)
        target = np.full(len(piece.token_ids), IGNORED, "int32")
        own = tags[piece.sentence][first : used[piece.sentence]]
        target[piece.places] = [number_of.get(tag, IGNORED) for tag in own]
        rows.append(Row(piece.token_ids, target))
    return rows


def tag_scores(tags, names):
    """Count how tags follow each other: what `likeliest_tags` adds to a model's scores.

    Args:
        tags: list of lists of tags, of the training.
        names: list of C tags.

    Returns:
        float array (C + 1, C): log p(next tag | tag) - log p(next tag); the last row is of
        the beginning of a sentence.
    """
    number_of = {name: number for number, name in enumerate(names)}
    counts = np.full((len(names) + 1, len(names)), RARE)
    for sentence in tags:
        last = len(names)
        for tag in sentence:
            counts[last, number_of[tag]] += 1
            last = number_of[tag]
    following = np.log(counts / counts.sum(axis=1, keepdims=True))
    return following - np.log(counts.sum(axis=0) / counts.sum())


def likeliest_tags(logits, scores):
    """Find the sequence of tags with the largest sum of scores (Viterbi's algorithm).

    Args:
        logits: float array (W, C), of the words of a sentence.
        scores: float array (C + 1, C), see `tag_scores`.

    Returns:
        list of W int.

    Source: Bourlard and Morgan, "Connectionist Speech Recognition" (1994): the model's
    probabilities, divided by those of the tags, as emissions of a hidden Markov model.
    """
    best = logits[0] + scores[-1]  # (C,): the best sequence that ends with each tag
    back = []
    for row in logits[1:]:
        candidates = best[:, None] + scores[:-1]  # (from, to)
        back.append(candidates.argmax(axis=0))
        best = candidates.max(axis=0) + row
    tags = [int(best.argmax())]
    for step in reversed(back):
        tags.append(int(step[tags[-1]]))
    return tags[::-1]


def join_tags(pieces, found, sentences):
    """Put the tags of pieces together again: a list of tags per sentence."""
    tags = [[] for _ in sentences]
    for piece, own in zip(pieces, found, strict=True):
        tags[piece.sentence] += own
    return tags


def answer_rows(tokenizer, texts, context_length):
    """Make rows for a model that writes: each place predicts the next token of an answer.

    Args:
        tokenizer: tokenizer of the model.
        texts: list of N lists of parts, see `tfgpt.data.chat`.
        context_length: int; what is longer loses its beginning.

    Returns:
        list of Row, and how many texts were cut.
    """
    rows, cut = [], 0
    for parts in texts:
        token_ids, is_answer = encode_parts(tokenizer, parts)
        start = start_ids(tokenizer)
        token_ids = np.array([*start, *token_ids], "int32")
        is_answer = np.array([*([False] * len(start)), *is_answer])
        if len(token_ids) > context_length + 1:
            token_ids, is_answer = (
                token_ids[-context_length - 1 :],
                is_answer[-context_length - 1 :],
            )
            cut += 1
        target = np.where(is_answer[1:], token_ids[1:], IGNORED).astype("int32")
        rows.append(Row(token_ids[:-1], target))
    return rows, cut


def window_rows(token_ids, context_length):
    """Cut a long text into rows in which each place predicts the next token."""
    starts = range(0, len(token_ids) - 1, context_length)
    windows = (token_ids[start : start + context_length + 1] for start in starts)
    return [Row(window[:-1], window[1:]) for window in windows]


def choose_buckets(lengths, longest):
    """Return a few lengths, multiples of MULTIPLE, that fit all texts; at most `longest`."""
    sizes = np.quantile(lengths, SHARES, method="higher")
    rounded = {min(-(-int(size) // MULTIPLE) * MULTIPLE, longest) for size in sizes}
    return sorted(rounded)


def bucket_of(length, buckets):
    """Return the shortest bucket that a text fits into."""
    return next(bucket for bucket in buckets if bucket >= length)


def pad(token_ids, length, value):
    """Fill up an array on the right."""
    return np.pad(token_ids, (0, length - len(token_ids)), constant_values=value)


def length_batches(rows, buckets, batch_size, pad_id, weights=None, seed=None):
    """Make batches of rows with similar lengths, in another order in each pass.

    The last batch of a bucket is filled up with rows of weight 0.

    Args:
        rows: list of Row.
        buckets: list of int, ascending.
        batch_size: int >= 1, B.
        pad_id: int, fills up ids.
        weights: float array (N,), of the rows; None: 1 each.
        seed: int, of the order; None: the order of the rows, always.

    Returns:
        tf.data.Dataset of ids (B, T), targets (B,) or (B, T), weights (B,).
    """
    import tensorflow as tf

    weights = np.ones(len(rows), "float32") if weights is None else weights
    rng = None if seed is None else np.random.default_rng(seed)
    by_bucket = places_by_bucket([row.token_ids for row in rows], buckets)

    def one_pass():
        batches = []
        for bucket, places in by_bucket.items():
            places = np.array(places) if rng is None else rng.permutation(places)
            starts = range(0, len(places), batch_size)
            batches += [(bucket, places[start : start + batch_size]) for start in starts]
        for place in range(len(batches)) if rng is None else rng.permutation(len(batches)):
            yield as_batch(rows, weights, *batches[place], batch_size, pad_id)

    count = sum(-(-len(places) // batch_size) for places in by_bucket.values())
    shape = (batch_size, None)[: 1 + np.ndim(rows[0].target)]
    dataset = tf.data.Dataset.from_generator(
        one_pass,
        output_signature=(
            tf.TensorSpec((batch_size, None), "int32"),
            tf.TensorSpec(shape, "int32"),
            tf.TensorSpec((batch_size,), "float32"),
        ),
    )
    return dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(2)


def places_by_bucket(rows, buckets):
    """Map each bucket to the places of the rows that go into it."""
    found = {}
    for place, token_ids in enumerate(rows):
        found.setdefault(bucket_of(len(token_ids), buckets), []).append(place)
    return dict(sorted(found.items()))


def as_batch(rows, weights, length, places, batch_size, pad_id):
    """Stack rows, and fill up to `batch_size` with rows of weight 0."""
    missing = batch_size - len(places)
    filled = [rows[place] for place in places] + [rows[places[0]]] * missing
    token_ids = np.stack([pad(row.token_ids, length, pad_id) for row in filled])
    own = np.append(weights[places], np.zeros(missing)).astype("float32")
    if np.ndim(filled[0].target) == 0:
        return token_ids, np.array([row.target for row in filled], "int32"), own
    targets = np.stack([pad(row.target, length, IGNORED) for row in filled])
    targets[len(places) :] = IGNORED
    return token_ids, targets, own


def predict_rows(model, rows, buckets, batch_size, pad_id):
    """Compute the logits of rows, in their order.

    Args:
        model: Keras model of ids.
        rows: list of N int arrays (T,).
        buckets: list of int, ascending; the last is at least the longest row.
        batch_size: int >= 1, at most; few rows make a smaller batch.
        pad_id: int.

    Returns:
        list of N float arrays (C,) or (T, C).
    """
    results = [None] * len(rows)
    batch_size = rows_per_batch(len(rows), batch_size)
    for bucket, places in places_by_bucket(rows, buckets).items():
        for start in range(0, len(places), batch_size):
            some = places[start : start + batch_size]
            filled = some + [some[0]] * (batch_size - len(some))
            batch = np.stack([pad(rows[place], bucket, pad_id) for place in filled])
            logits = np.asarray(model.predict_on_batch(batch))
            for place, row_logits in zip(some, logits, strict=False):
                is_token_wise = row_logits.ndim == 2
                size = len(rows[place])
                results[place] = row_logits[:size] if is_token_wise else row_logits
    return results


def rows_per_batch(count, batch_size):
    """Return 1, 2, 4, ... up to `batch_size`: the first that holds `count` rows.

    Example:
        >>> [rows_per_batch(count, 32) for count in (1, 3, 20, 500)]
        [1, 4, 32, 32]
    """
    return min(batch_size, 1 << max(count - 1, 0).bit_length())


def names_of_tags(tags):
    """List the tags of training sentences, "O" first."""
    return [OUTSIDE, *sorted({tag for sentence in tags for tag in sentence} - {OUTSIDE})]
