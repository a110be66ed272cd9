"""Exercises of notebook 08, tokenizers."""

from collections import Counter
from itertools import pairwise

from tfgpt.checks.registry import Case, exercises_of
from tfgpt.losses import bits_per_byte

add_exercise = exercises_of("08")


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


add_exercise(
    "bytes of a character",
    lambda code_point: len(chr(code_point).encode("utf-8")),
    Case("the letter a", (0x61,), "ASCII is a part of UTF-8: see the first row."),
    Case("月", (0x6708,), "Compare the code point with the limits, not the character."),
    Case("a full moon", (0x1F315,), "Above U+FFFF a character has the most bytes."),
    Case("edge case: the last of its row", (0x7F,), "The last number of a row belongs to it."),
    Case("edge case: the first of its row", (0x80,), "The next row begins at this number."),
    Case("edge case: the last of row 2", (0x7FF,), "The last number of a row belongs to it."),
    Case("edge case: the last of row 3", (0xFFFF,), "The last number of a row belongs to it."),
    tolerance=0.0,
)

add_exercise(
    "best pair",
    best_pair,
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
        "a pair twice in a word",
        ([[8, 9, 8, 9], [1, 3]], [2, 3]),
        "A pair that stands twice in a word counts twice each time: 2 * 2 is more than 3.",
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
        "edge case: equal counts, the larger sum first",
        ([[3, 4], [2, 9]], [1, 1]),
        "The first ids decide, whatever the second ones are.",
    ),
    Case(
        "edge case: equal counts and equal first ids",
        ([[3, 9], [3, 4]], [2, 2]),
        "If the first ids are equal too, the second ids decide.",
    ),
    tolerance=0.0,
)

add_exercise(
    "merge",
    merge_pair,
    Case(
        "one pair",
        ([4, 5, 6], (4, 5), 9),
        "The new id stands in place of both: the list becomes shorter.",
    ),
    Case("two pairs", ([4, 5, 6, 4, 5], (4, 5), 9), "Every pair is merged, also one at the end."),
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
    tolerance=0.0,
)

add_exercise(
    "bits per byte",
    lambda loss, text, num_tokens: bits_per_byte(loss, num_tokens, len(text.encode("utf-8"))),
    Case(
        "one token per character", (1.0, "O Romeo", 7), "The loss is in nats: one bit is ln 2 nats."
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
)
