"""The tokenizer of a corpus: characters, byte pairs learned from it, or one that is there."""

from pathlib import Path

from tfgpt.bundle import TOKENIZER
from tfgpt.data import read_pieces
from tfgpt.data.sources import size_of
from tfgpt.tokenizers import BPETokenizer, CharTokenizer, load_tokenizer

TOKENIZER_CHARACTERS = 2**25  # of the corpus, that byte pairs are learned from


def make_tokenizer(kind, vocab_size, files, reading):
    """Learn a tokenizer from a corpus, or read one.

    Args:
        kind: "char", "bpe", or the path of a tokenizer or of a folder with one.
        vocab_size: int, pieces of "bpe"; None: by the size of the corpus.
        files: list of paths.
        reading: dict of the further arguments of `read_pieces`.

    Returns:
        CharTokenizer or BPETokenizer.

    Raises:
        FileNotFoundError: if there is no such tokenizer.
        ValueError: if the corpus is too small for vocab_size.
    """
    if kind == "char":
        known = {character for text in all_texts(files, reading) for character in set(text)}
        if not known:
            raise ValueError(f"corpus must hold text, got none in {str(files[0])!r}.")
        return CharTokenizer(sorted({*known, "\n"}))
    if kind != "bpe":
        path = Path(kind)
        if (path / TOKENIZER).exists():
            return load_tokenizer(path / TOKENIZER)
        if not path.exists():
            raise FileNotFoundError(
                f"tokenizer must be char, bpe, or a file or folder that exists, got {kind!r}."
            )
        return BPETokenizer.load(path) if path.is_dir() else load_tokenizer(path)
    texts = list(some_texts(files, reading))
    if not texts:
        raise ValueError(f"corpus must hold text, got none in {str(files[0])!r}.")
    size = sum(len(text.encode()) for text in texts)
    wanted = min(max(512, size // 250 // 64 * 64), 8192) if vocab_size is None else vocab_size
    print(f"Learning {wanted:,} byte pairs from {size / 1e6:,.1f} MB.")
    tokenizer = BPETokenizer.train(texts, wanted)
    if vocab_size and tokenizer.vocab_size < vocab_size:
        raise ValueError(
            f"vocab_size must be at most {tokenizer.vocab_size:,} for this corpus of "
            f"{size:,} bytes, got {vocab_size:,}: use that, less, or more text."
        )
    return tokenizer


def all_texts(files, reading):
    """Yield all texts of a corpus, in pieces."""
    for file in files:
        for text, _ in read_pieces(file, **reading):
            yield text


def some_texts(files, reading):
    """Yield the beginning of each file, its share of TOKENIZER_CHARACTERS."""
    total = sum(size_of(file) for file in files) or 1
    for file in files:
        room = TOKENIZER_CHARACTERS * size_of(file) / total
        for text, _ in read_pieces(file, **reading):
            yield text[: max(int(room), 0)]
            room -= len(text)
            if room <= 0:
                break
