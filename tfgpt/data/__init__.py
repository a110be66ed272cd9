"""Text and pairs of texts in, training examples out."""

from tfgpt.data.batches import (
    random_batches,
    shift,
    split_held_out,
    window_batches,
    windows,
)
from tfgpt.data.packing import pack_tokens
from tfgpt.data.pairs import (
    PAIR_CORPORA,
    Pairs,
    encode_pairs,
    load_pairs,
    pad_rows,
    pair_batches,
    pair_windows,
    short_pairs,
    split_pairs,
)
from tfgpt.data.texts import CORPORA, DATA_FOLDER, load_text

__all__ = [
    "CORPORA",
    "DATA_FOLDER",
    "PAIR_CORPORA",
    "Pairs",
    "encode_pairs",
    "load_pairs",
    "load_text",
    "pad_rows",
    "pack_tokens",
    "pair_batches",
    "pair_windows",
    "random_batches",
    "shift",
    "short_pairs",
    "split_held_out",
    "split_pairs",
    "window_batches",
    "windows",
]
