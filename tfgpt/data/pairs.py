"""Pairs of texts for translation: read them, split them, batch them by length.

Pairs that stand in one chapter are never divided between training and held-out
parts. Batches have few different shapes, so that nothing is compiled twice.
"""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfgpt.data.batches import shift
from tfgpt.data.texts import DATA_FOLDER, read_utf8
from tfgpt.validation import check_integer

PAIR_CORPORA = ("verses_en-es", "verses_kjv-modern")
# Without chapters, so many neighbouring lines are taken for one document; fewer where a
# file would not fill so many documents.
LINES_PER_GROUP, FEWEST_GROUPS = 20, 50
# The third column of the files of manythings.org names the licence and the authors.
ATTRIBUTION = re.compile(r"\s*CC[ -](BY|0)|.*\bAttribution:", re.IGNORECASE)
SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？")


@dataclass(frozen=True)
class Pairs:
    """Texts and their translations.

    Args:
        sources: list of N str.
        targets: list of N str.
        groups: list of N str; pairs with the same name belong together.
    """

    sources: list
    targets: list
    groups: list

    def __len__(self):
        return len(self.sources)

    def select(self, keep):
        """Return the pairs whose place in the list `keep` of N bool is True."""
        parts = zip(self.sources, self.targets, self.groups, keep, strict=True)
        rows = [row[:3] for row in parts if row[3]]
        return Pairs(*map(list, zip(*rows, strict=True))) if rows else Pairs([], [], [])


def load_pairs(corpus, target_file=None):
    """Read a bundled corpus of pairs, your own TSV file, or two files side by side.

    A TSV file holds on each line a source and its translation with a tab between,
    or id, source and translation; ids such as "Gen.1.3" name verse 3 of the chapter
    "Gen.1", an id without a dot is the name of a chapter. Without ids every 20
    neighbouring lines count as one chapter, fewer in a file below 1,000 lines. A third
    column with the licence, as in the files of manythings.org, is dropped. White space
    around a text is dropped. A file may end with empty lines.

    Args:
        corpus: "verses_en-es", "verses_kjv-modern", the path of a TSV file, or the
            path of a file with one source per line.
        target_file: path of a file with one translation per line, if `corpus` is
            such a file of sources.

    Returns:
        Pairs.

    Raises:
        FileNotFoundError: if there is no such corpus or file.
        ValueError: if a file is not UTF-8, a line lacks a text or has another number
            of columns than the first, or two files differ in their number of lines.

    Example:
        >>> pairs = load_pairs("verses_kjv-modern")
        >>> pairs.groups[0], pairs.sources[0]
        ('Gen.1', 'In the beginning God created the heaven and the earth.')
    """
    path = DATA_FOLDER / f"{corpus}.tsv" if corpus in PAIR_CORPORA else Path(corpus)
    lines = read_lines(path, "corpus", f"{', '.join(PAIR_CORPORA)} or the path of a file")
    if target_file is None:
        rows = [line.split("\t") for line in lines]
    else:
        targets = read_lines(Path(target_file), "target_file", "the path of a file")
        if len(targets) != len(lines):
            raise ValueError(
                "target_file must have one line per line of corpus, "
                f"{len(lines):,}, got {len(targets):,}."
            )
        rows = list(zip(lines, targets, strict=True))
    return rows_to_pairs(rows, str(path))


def read_lines(path, name, expected):
    """Return the lines of a UTF-8 file without the empty ones at its end."""
    text = read_utf8(path, name, expected)
    # Not splitlines(): a text may hold U+2028 and its like.
    return text.rstrip("\n").split("\n")


def rows_to_pairs(rows, path):
    """Turn rows of 2 or 3 columns into Pairs; raise with the line number if one is wrong."""
    columns = len(rows[0])
    if columns == 3 and ATTRIBUTION.match(rows[0][2]):
        rows = [row[:2] if ATTRIBUTION.match(row[-1]) else row for row in rows]
        columns = 2
    for number, row in enumerate(rows, start=1):
        wrong = fault(row, columns)
        if wrong:
            raise ValueError(
                "corpus must have source and translation on every line, with a tab between (or id, "
                f"source, translation), got {wrong} on line {number} of {path!r}."
            )
    sources, targets = ([row[place].strip() for row in rows] for place in (-2, -1))
    if columns == 3:
        return Pairs(sources, targets, [chapter_of(row[0]) for row in rows])
    return Pairs(sources, targets, neighbours(sources))


def neighbours(sources):
    """Name groups of neighbouring lines; equal sources in a row stay in one group."""
    size = min(max(len(sources) // FEWEST_GROUPS, 1), LINES_PER_GROUP)
    groups = []
    for place, source in enumerate(sources):
        is_same = place > 0 and source == sources[place - 1]
        groups.append(groups[-1] if is_same else f"{place // size}")
    return groups


def fault(row, columns):
    """Say what is wrong with a row of a file whose rows have so many columns, or return None."""
    if not any(text.strip() for text in row):
        return "an empty line"
    if len(row) != columns or columns not in (2, 3):
        separated = len(row) == 1 and any(sign in row[0] for sign in ",;")
        return f"{len(row)} column(s)" + (" (commas do not divide columns)" if separated else "")
    if not all(text.strip() for text in row[-2:]):
        return "an empty text"
    if columns == 3 and row[0].strip().endswith(SENTENCE_ENDS):
        return f"the sentence {row[0]!r} in place of an id (cut -f 1,2 drops a third column)"
    return None


def chapter_of(pair_id):
    """Return the chapter of an id: "Gen.1.3" -> "Gen.1"; an id without a dot names one."""
    return pair_id.rpartition(".")[0] or pair_id


def split_pairs(pairs, share=0.05, seed=0):
    """Divide pairs into training, validation and test parts, whole chapters each.

    The place of a chapter depends on its name and the seed only; where so few chapters
    would leave a held-out part empty, it gets one. Held-out pairs whose source also
    stands in the training part are left out: a model could have learned them by heart.

    Args:
        pairs: Pairs.
        share: float in (0, 0.5), the share of chapters in each held-out part.
        seed: int >= 0.

    Returns:
        training, validation and test Pairs.

    Raises:
        ValueError: if share is outside (0, 0.5) or a part would be empty.

    Example:
        >>> training, validation, test = split_pairs(load_pairs("verses_en-es"))
        >>> set(training.groups) & set(validation.groups + test.groups)
        set()
    """
    if not 0 < share < 0.5:
        raise ValueError(f"share must be in (0, 0.5), got {share!r}.")
    check_integer("seed", seed, minimum=0)
    heights = {group: zlib.crc32(f"{seed}/{group}".encode()) / 2**32 for group in pairs.groups}
    order = sorted(heights, key=heights.get)
    cuts = np.searchsorted([heights[group] for group in order], [share, 2 * share])
    most = (len(order) - 1) // 2
    validation, test = (min(max(int(n), 1), most) for n in (cuts[0], cuts[1] - cuts[0]))
    part_of = dict.fromkeys(order[:validation], "validation")
    part_of |= dict.fromkeys(order[validation : validation + test], "test")
    chosen = np.array([part_of.get(group, "training") for group in pairs.groups])
    training = pairs.select(chosen == "training")
    known = set(training.sources)
    new = np.array([source not in known for source in pairs.sources])
    parts = (
        training,
        pairs.select(new & (chosen == "validation")),
        pairs.select(new & (chosen == "test")),
    )
    if not all(map(len, parts)):
        raise ValueError(
            "pairs must fill a training, a validation and a test part, got "
            f"{', '.join(f'{len(part):,}' for part in parts)} of {len(pairs):,} pairs in "
            f"{len(order):,} chapters: use more of them or a larger share."
        )
    return parts


def short_pairs(pairs, tokenizer, max_length):
    """Leave out pairs that are too long for a model, and print how many.

    Args:
        pairs: Pairs.
        tokenizer: BPETokenizer, the same for both languages.
        max_length: int >= 2, the longest source and the longest decoder input.

    Returns:
        Pairs.

    Raises:
        ValueError: if no pair is short enough.
    """
    check_integer("max_length", max_length, minimum=2)
    lengths = np.array([length_of(pair) for pair in encode_pairs(pairs, tokenizer)])
    short = pairs.select(lengths <= max_length)
    if not len(short):
        raise ValueError(f"pairs must hold some of at most {max_length} tokens, got none.")
    if len(short) < len(pairs):
        count = len(pairs) - len(short)
        print(f"Left out, more than {max_length} tokens: {count:,} of {len(pairs):,} pairs.")
    return short


def encode_pairs(pairs, tokenizer):
    """Turn pairs into ids: source + end, and start + target + end.

    Args:
        pairs: Pairs.
        tokenizer: BPETokenizer, the same for both languages.

    Returns:
        list of (source_ids (S,), target_ids (T + 1,)), int32 arrays.
    """
    return [
        (encode_source(source, tokenizer), encode_target(target, tokenizer))
        for source, target in zip(pairs.sources, pairs.targets, strict=True)
    ]


def encode_source(text, tokenizer):
    """Return the ids that the encoder reads: int32 (S,), the end token last."""
    # With the space, a word has the same tokens at the start and inside of a text.
    return np.append(tokenizer.encode(f" {text}"), np.int32(tokenizer.end_id))


def read_source(text, tokenizer, max_length, name):
    """Return the ids of a text that is to be translated.

    Args:
        text: str; line ends and runs of spaces count as one space.
        tokenizer: BPETokenizer.
        max_length: int, the most ids that the model reads.
        name: str, what an error calls the text.

    Returns:
        int32 array (S,), the end token last.

    Raises:
        TypeError: if the text is no str.
        ValueError: if it is empty or too long.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str, got {type(text).__name__}.")
    if not text.strip():
        raise ValueError(f"{name} must not be empty, got {text!r}.")
    token_ids = encode_source(" ".join(text.split()), tokenizer)
    if len(token_ids) > max_length:
        raise ValueError(
            f"{name} must have at most {max_length - 1} tokens, got {len(token_ids) - 1}: "
            f"{text[:30]!r}... Translate it sentence by sentence."
        )
    return token_ids


def encode_target(text, tokenizer):
    """Return the ids between a start and an end token: int32 (T + 1,)."""
    return np.insert(encode_source(text, tokenizer), 0, tokenizer.start_id)


def pair_batches(encoded, buckets, batch_tokens, seed=0):
    """Draw batches of pairs of similar length, without end, as a tf.data pipeline.

    Every pass takes each pair once, in a new order, which depends on `seed` and the
    number of the pass only: after `skip(i)` training goes on with the batches that
    would have come.

    Args:
        encoded: what `encode_pairs` returns.
        buckets: ascending list of int, the lengths that batches are padded to.
        batch_tokens: int, the size of a batch: length x rows, at least one row.
        seed: int.

    Returns:
        tf.data.Dataset of ({"source": (B, T), "target": (B, T)}, targets (B, T)),
        int32, T one of `buckets`, padded with 0.

    Raises:
        ValueError: if buckets do not ascend or a pair is longer than the last one.
    """
    import tensorflow as tf

    check_buckets(encoded, buckets)
    sources = tf.ragged.constant([source for source, _ in encoded], dtype=tf.int32)
    targets = tf.ragged.constant([target for _, target in encoded], dtype=tf.int32)

    def one_pass(number):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(encoded)), seed=tf.stack([tf.constant(seed, tf.int64), number])
        )
        return tf.data.Dataset.from_tensor_slices(order)

    def look_up(index):
        return sources[index], targets[index][:-1], targets[index][1:]

    batches = (
        tf.data.Dataset.counter()
        .flat_map(one_pass)
        .map(look_up)
        .bucket_by_sequence_length(
            lambda source, target, _: tf.maximum(tf.size(source), tf.size(target)),
            bucket_boundaries=[bucket + 1 for bucket in buckets],
            bucket_batch_sizes=[*(rows_of(bucket, batch_tokens) for bucket in buckets), 1],
            pad_to_bucket_boundary=True,
        )
    )
    return batches.map(as_batch).prefetch(tf.data.AUTOTUNE)


def pair_windows(encoded, buckets, batch_tokens):
    """Batch each pair once, in the shapes of `pair_batches`: for evaluation.

    The last batch of a bucket is filled with rows of padding, which losses do not
    count.

    Args: as for `pair_batches`.

    Returns:
        list of ({"source": (B, T), "target": (B, T)}, targets (B, T)), int32 arrays.
    """
    check_buckets(encoded, buckets)
    batches = []
    for shortest, bucket in zip([0, *buckets], buckets, strict=False):
        chosen = [pair for pair in encoded if shortest < length_of(pair) <= bucket]
        rows = rows_of(bucket, batch_tokens)
        for start in range(0, len(chosen), rows):
            part = chosen[start : start + rows]
            shifted = [(source, *shift(target)) for source, target in part]
            columns = (pad_rows(column, rows, bucket) for column in zip(*shifted, strict=True))
            batches.append(as_batch(*columns))
    return batches


def as_batch(source, target_inputs, targets):
    """Arrange three id arrays as the training step takes them."""
    return {"source": source, "target": target_inputs}, targets


def length_of(pair):
    """Return the length that a pair needs: its source or its decoder input."""
    source, target = pair
    return max(len(source), len(target) - 1)


def rows_of(bucket, batch_tokens):
    """Return how many rows of this length make a batch."""
    return max(batch_tokens // bucket, 1)


def pad_rows(sequences, rows, length):
    """Write sequences into a zero array: list of (T,) -> int32 (rows, length)."""
    padded = np.zeros((rows, length), dtype="int32")
    for row, sequence in zip(padded, sequences, strict=False):
        row[: len(sequence)] = sequence
    return padded


def check_buckets(encoded, buckets):
    """Raise unless buckets ascend and every pair fits into the last."""
    if not len(buckets) or any(a >= b for a, b in zip(buckets, buckets[1:], strict=False)):
        raise ValueError(f"buckets must be ascending lengths, got {buckets!r}.")
    longest = max(map(length_of, encoded), default=0)
    if longest > buckets[-1]:
        raise ValueError(f"buckets must reach the longest pair, {longest} tokens, got {buckets!r}.")
