"""A corpus of any size: encoded once into files that are mapped into memory.

The files of a corpus lie in a folder of their own, named after the content of the texts, the
tokenizer and how the texts are read. A kill while they are made loses a minute at most.
"""

import hashlib
import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from tfgpt.bundle import digest_of
from tfgpt.data.shards import MANIFEST, PARTS, encode_corpus, ends_path
from tfgpt.data.sources import facts_of_texts
from tfgpt.data.token_batches import Tokens
from tfgpt.run_folder import RunLock
from tfgpt.tokenizers import tokenizer_hash

FORMAT = 1  # of the files; another number, another folder
FEW_DOCUMENTS = 1000  # of fewer a hash alone would hold out too much or too little


class Corpus:
    """Texts as token ids in files, split into training and held-out part.

    Make it with `prepare_corpus`, or open what that wrote with `Corpus(folder)`.

    Args:
        folder: path.

    Attributes:
        key: str, the name of the folder: which texts, tokenizer and reading.
        training, held_out: Tokens.
        documents: int, in both parts.
        text_bytes: int, of all documents in UTF-8.

    Raises:
        FileNotFoundError: if there is no corpus in the folder.
        ValueError: if a file is damaged.
    """

    def __init__(self, folder):
        self.folder = folder = Path(folder)
        try:
            content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            parts, self.dtype = content["parts"], np.dtype(content["dtype"])
            self.key, share = content["key"], float(content["held_out"])
            self.text_bytes = int(content["text_bytes"])
            self.documents = sum(part["documents"] for part in parts.values())
            found = [self.open_part(parts[name]) for name in PARTS]
            if self.documents < FEW_DOCUMENTS:
                ends = [self.ends(name, parts[name]) for name in PARTS]
                found = split_few(list(zip(found, ends, strict=True)), share)
            self.training, self.held_out = found
        except FileNotFoundError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"folder must hold an undamaged corpus, got {str(folder)!r}: {error}. Remove the "
                "folder: it is made again from the texts."
            ) from error

    def open_part(self, part):
        """Map the files of a part into memory; raise if one has other bytes than were written."""
        segments = []
        for shard in part["shards"]:
            path = self.folder / Path(shard["name"]).name
            if not path.is_file() or digest_of(path) != shard["sha256"]:
                raise ValueError(f"{path.name} is missing or has other bytes than were written")
            segments.append(np.memmap(path, self.dtype, mode="r"))
        return Tokens(segments)

    def ends(self, name, part):
        """Return where the documents of a part end in its files: int64 array; raise if damaged."""
        path = ends_path(self.folder, name)
        ends = np.fromfile(path, "int64") if path.is_file() else ()
        # Corpora of earlier versions know the number of ends alone.
        digest = part.get("ends_sha256")
        if len(ends) != part["documents"] or digest not in (None, digest_of(path)):
            raise ValueError(f"{path.name} is missing or has other bytes than were written")
        return ends


def split_few(parts, share):
    """Split few documents: whole ones if that comes near the share, else the end of each.

    Args:
        parts: list of (Tokens, int array where its documents end).
        share: float in (0, 1), what is held out.

    Returns:
        training and held-out Tokens.
    """
    documents = [
        (tokens, start, stop)
        for tokens, ends in parts
        for start, stop in pairwise([0, *ends.tolist()])
    ]
    total = sum(stop - start for _, start, stop in documents)
    budget = share * total
    most = budget + 0.2 * min(budget, total - budget)
    groups = {}  # copies of a text stay together
    for number, (tokens, start, stop) in enumerate(documents):
        beginning = tokens[start : min(start + 1000, stop)]
        groups.setdefault(hashlib.sha256(beginning.tobytes()).digest(), []).append(number)
    chosen, size = set(), 0
    for _, numbers in sorted(groups.items()):
        more = sum(documents[number][2] - documents[number][1] for number in numbers)
        if size + more <= most:
            chosen.update(numbers)
            size += more
    if size >= 0.8 * budget:
        kept = [document for number, document in enumerate(documents) if number not in chosen]
        return joined(kept), joined(documents[number] for number in sorted(chosen))
    cuts = [stop - round((stop - start) * share) for _, start, stop in documents]
    heads = [(t, start, cut) for (t, start, _), cut in zip(documents, cuts, strict=True)]
    tails = [(t, cut, stop) for (t, _, stop), cut in zip(documents, cuts, strict=True)]
    return joined(heads), joined(tails)


def joined(ranges):
    """Make one row of tokens from ranges of others, without reading them."""
    return Tokens([piece for tokens, a, b in ranges for piece in mapped(tokens, a, b)])


def mapped(tokens, start, stop):
    """Yield the parts of files that hold a range."""
    begin = 0
    for segment, end in zip(tokens.segments, tokens.ends.tolist(), strict=True):
        if begin < stop and end > start:
            yield segment[max(start - begin, 0) : stop - begin]
        begin = end


def prepare_corpus(
    files, tokenizer, folder, *, held_out=0.1, field=None, encoding="utf-8", separator=None
):
    """Encode texts once, into files that are mapped into memory; find them again if they are there.

    Memory does not grow with the texts. A document ends with the end token of the tokenizer,
    or with an empty line for a CharTokenizer that has the line end. Whole documents are held
    out, chosen by a hash of their beginning, so that copies of one text are on one side. Of a
    few long documents the last part of each is held out.

    Args:
        files: list of paths, as `find_files` returns it.
        tokenizer: CharTokenizer or BPETokenizer.
        folder: path; each corpus has a folder of its own in it.
        held_out: float in (0, 1), the part that is kept for validation.
        field, encoding, separator: how texts are read, see `read_pieces`.

    Returns:
        Corpus.

    Raises:
        ValueError: if held_out is outside its range, a text cannot be read or encoded, or
            there is no text.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must be in (0, 1), got {held_out!r}.")
    folder, files = Path(folder), [Path(file) for file in files]
    folder.mkdir(parents=True, exist_ok=True)
    reading = {"field": field, "encoding": encoding, "separator": separator}
    facts = {
        "format": FORMAT,
        **facts_of_texts(files, folder),
        "tokenizer": tokenizer_hash(tokenizer),
        "reading": reading,
        "held_out": held_out,
    }
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    own = folder / key
    with WaitingLock(own):
        if not (own / MANIFEST).exists():
            encode_corpus(files, tokenizer, own, {**facts, "key": key})
    return Corpus(own)


class WaitingLock(RunLock):
    """Keep the folder of a corpus for one process; others wait for its end."""

    def __enter__(self):
        says = True
        while True:
            try:
                return super().__enter__()
            except ValueError:
                if says:
                    print(f"Another process is writing {self.path.parent}: waiting for it.")
                says, self.file = False, None
                time.sleep(0.5)
