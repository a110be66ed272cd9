"""Text and pairs of texts in, training examples out."""

from tfgpt.data.batches import (
    random_batches,
    shift,
    split_held_out,
    window_batches,
    windows,
)
from tfgpt.data.chat import dialogue_parts, encode_parts, join_parts, prompt_parts
from tfgpt.data.documents import read_pieces
from tfgpt.data.files import find_files
from tfgpt.data.labelled import (
    BUNDLED,
    Labelled,
    load_answers,
    load_dialogues,
    load_labelled,
    load_tagged,
    split_examples,
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
    "BUNDLED",
    "CORPORA",
    "DATA_FOLDER",
    "Labelled",
    "PAIR_CORPORA",
    "Pairs",
    "dialogue_parts",
    "encode_pairs",
    "encode_parts",
    "find_files",
    "join_parts",
    "load_answers",
    "load_dialogues",
    "load_labelled",
    "load_pairs",
    "load_tagged",
    "load_text",
    "pack_tokens",
    "pad_rows",
    "pair_batches",
    "pair_windows",
    "prompt_parts",
    "random_batches",
    "read_pieces",
    "shift",
    "short_pairs",
    "split_examples",
    "split_held_out",
    "split_pairs",
    "window_batches",
    "windows",
]
