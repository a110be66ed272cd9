"""The tokenizer of a corpus: characters, byte pairs learned from it, or one that is there."""

import hashlib
import json
from pathlib import Path

from tfgpt.bundle import TOKENIZER, replaced_file
from tfgpt.data import read_pieces
from tfgpt.data.sources import facts_of_texts, size_of
from tfgpt.tokenizers import BPETokenizer, CharTokenizer, load_tokenizer

FORMAT = 1  # of what is learned; another number, learned anew
TOKENIZER_CHARACTERS = 2**25  # of the corpus, that byte pairs are learned from


def make_tokenizer(kind, vocab_size, files, reading, keep_in=None):
    """Learn a tokenizer from a corpus, or read one.

    What is learned is kept and found again, as an encoded corpus is, see `prepare_corpus`.

    Args:
        kind: "char", "bpe", or the path of a tokenizer or of a folder with one.
        vocab_size: int, pieces of "bpe"; None: by the size of the corpus.
        files: list of paths.
        reading: dict of the further arguments of `read_pieces`.
        keep_in: path of the folder of encoded texts; None: learn anew each time.

    Returns:
        CharTokenizer or BPETokenizer.

    Raises:
        FileNotFoundError: if there is no such tokenizer.
        ValueError: if the corpus is too small for vocab_size.
    """
    if kind not in ("char", "bpe"):
        return read_tokenizer(kind)
    if keep_in is None:
        return learn_tokenizer(kind, vocab_size, files, reading)
    path = kept_path(Path(keep_in), {"kind": kind, "vocab_size": vocab_size}, files, reading)
    if not path.exists():
        tokenizer = learn_tokenizer(kind, vocab_size, files, reading)
        with replaced_file(path) as part:
            tokenizer.save(part)
    return load_tokenizer(path)


def kept_path(folder, wanted, files, reading):
    """Return the path of the tokenizer that was learned from these texts."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, **wanted, **facts_of_texts(files, folder), "reading": reading}
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return folder / f"tokenizer-{key}.json"


def read_tokenizer(place):
    """Read a tokenizer from a file, or from a folder with one."""
    path = Path(place)
    if (path / TOKENIZER).exists():
        return load_tokenizer(path / TOKENIZER)
    if not path.exists():
        raise FileNotFoundError(
            f"tokenizer must be char, bpe, or a file or folder that exists, got {place!r}."
        )
    return BPETokenizer.load(path) if path.is_dir() else load_tokenizer(path)


def learn_tokenizer(kind, vocab_size, files, reading):
    """Learn the characters or byte pairs of a corpus."""
    if kind == "char":
        known = {character for text in all_texts(files, reading) for character in set(text)}
        if not known:
            raise ValueError(f"corpus must hold text, got none in {str(files[0])!r}.")
        return CharTokenizer(sorted({*known, "\n"}))
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
