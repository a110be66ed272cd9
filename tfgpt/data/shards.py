"""The writer of a corpus: texts in, files of token ids out, resumable at any moment."""

import hashlib
import json
import os
import sys
import time

import numpy as np

from tfgpt.bundle import digest_of, replaced_file
from tfgpt.data.documents import read_pieces
from tfgpt.data.sources import size_of

MANIFEST, PROGRESS = "corpus.json", "progress.json"
PARTS = ("training", "held_out")
SHARD_TOKENS = 2**26  # in one file
BATCH_CHARACTERS = 2**21  # that are encoded at once
SAVE_CHARACTERS = 2**26  # between two notes of how far it has come


def encode_corpus(files, tokenizer, folder, facts):
    """Write the files of a corpus, from where an earlier process stopped; the manifest last."""
    dtype = np.dtype("uint16" if tokenizer.vocab_size <= 2**16 else "uint32")
    state = read_state(folder)
    parts = {name: Part(folder, name, dtype, state["parts"].get(name)) for name in PARTS}
    report = Report(sum(size_of(file) for file in files))
    end = document_end(tokenizer)
    noted = 0
    for batch in batches_of_pieces(files, facts["reading"], state["pieces"]):
        rows = tokenizer.encode_batch([piece.text for piece in batch])
        for piece, token_ids in zip(batch, rows, strict=True):
            if piece.begins:
                state["name"] = PARTS[is_chosen(piece.text, facts["held_out"])]
            parts[state["name"]].add(token_ids, end if piece.ends else None)
            state["text_bytes"] += len(piece.text.encode())
        for part in parts.values():
            part.write()
        state["pieces"] += len(batch)
        noted += sum(len(piece.text) for piece in batch)
        report.show(state["text_bytes"], sum(part.tokens for part in parts.values()))
        if noted >= SAVE_CHARACTERS:
            noted = 0
            write_state(folder, state, parts)
    if not any(part.tokens for part in parts.values()):
        raise ValueError("corpus must hold text, got none in " + ", ".join(map(str, files[:3])))
    manifest = {
        **facts,
        "dtype": dtype.name,
        "text_bytes": state["text_bytes"],
        "parts": {name: part.close() for name, part in parts.items()},
    }
    with replaced_file(folder / MANIFEST) as path:
        path.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    (folder / PROGRESS).unlink(missing_ok=True)
    report.end(state["text_bytes"], sum(part.tokens for part in parts.values()))


class Piece:
    """A part of a document: its text, and whether the document begins and ends with it."""

    __slots__ = ("text", "begins", "ends")

    def __init__(self, text, begins, ends):
        self.text, self.begins, self.ends = text, begins, ends


def batches_of_pieces(files, reading, skip):
    """Yield lists of pieces, together about BATCH_CHARACTERS long; leave out the first `skip`."""
    batch, size, number, begins = [], 0, 0, True
    for file in files:
        for text, ends in read_pieces(file, **reading):
            if number >= skip:
                batch.append(Piece(text, begins, ends))
                size += len(text)
            number, begins = number + 1, ends
            if size >= BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def is_chosen(text, share):
    """Say whether a document is held out: by a hash of its beginning, the same for its copies."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return number < share * 2**64


def document_end(tokenizer):
    """Return what stands between two documents: the end token, or an empty line if there is one."""
    end_id = getattr(tokenizer, "end_id", None)
    if end_id is not None:
        return np.array([end_id], "int32")
    ids = getattr(tokenizer, "ids", {})
    return np.array([ids["\n"]] * 2 if "\n" in ids else [], "int32")


class Part:
    """The files of one part of a corpus while they are written: ids, and ends of documents.

    Args:
        folder: Path.
        name: str, how the files begin.
        dtype: numpy dtype of the ids.
        state: dict {"tokens", "documents"} of an earlier process, whose later bytes are cut
            off; None: begin.
    """

    def __init__(self, folder, name, dtype, state):
        self.folder, self.name, self.dtype = folder, name, dtype
        state = state or {"tokens": 0, "documents": 0}
        self.tokens, self.documents = state["tokens"], state["documents"]
        self.size = self.tokens  # with what waits to be written
        self.waiting, self.waiting_ends = [], []
        self.ends = open_at(ends_path(folder, name), 8 * self.documents)
        self.open_shard()

    def open_shard(self):
        """Open the file that the next id belongs to, at its place."""
        self.path = self.shard_path(self.tokens // SHARD_TOKENS)
        self.file = open_at(self.path, self.tokens % SHARD_TOKENS * self.dtype.itemsize)

    def shard_path(self, number):
        """Return the path of a file of ids."""
        return self.folder / f"{self.name}-{number:05d}.bin"

    def add(self, token_ids, end=None):
        """Keep ids for the next `write`; `end` is what stands behind a document."""
        self.waiting.append(token_ids)
        self.size += len(token_ids)
        if end is not None:
            self.waiting.append(end)
            self.size += len(end)
            self.waiting_ends.append(self.size)

    def write(self):
        """Write what was added, in a new file where one is full."""
        if not self.waiting:
            return
        token_ids = np.concatenate(self.waiting).astype(self.dtype)
        np.array(self.waiting_ends, "int64").tofile(self.ends)
        self.documents += len(self.waiting_ends)
        self.waiting, self.waiting_ends = [], []
        while len(token_ids):
            room = SHARD_TOKENS - self.tokens % SHARD_TOKENS
            token_ids[:room].tofile(self.file)
            self.tokens += min(room, len(token_ids))
            token_ids = token_ids[room:]
            if self.tokens % SHARD_TOKENS == 0:
                sync(self.file).close()
                self.open_shard()

    def state(self):
        """Bring everything to the disk; return what an interrupted process must know."""
        sync(self.file)
        sync(self.ends)
        return {"tokens": self.tokens, "documents": self.documents}

    def close(self):
        """Close the files; return how they are described in the manifest."""
        state = self.state()
        self.file.close()
        self.ends.close()
        count = -(-self.tokens // SHARD_TOKENS)
        paths = [self.shard_path(number) for number in range(count)]
        return state | {
            "shards": [{"name": p.name, "sha256": digest_of(p)} for p in paths],
            "ends_sha256": digest_of(ends_path(self.folder, self.name)),
        }


def ends_path(folder, name):
    """Return the path of the file that says where the documents of a part end."""
    return folder / f"{name}-documents.bin"


def open_at(path, place):
    """Open a file for writing at a place; what is behind it is cut off."""
    file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115
    file.truncate(place)
    file.seek(place)
    return file


def sync(file):
    """Bring what was written to the disk; return the file."""
    file.flush()
    os.fsync(file.fileno())
    return file


def read_state(folder):
    """Return how far an earlier process has come, the beginning if there was none."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        state = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        print(f"Going on with the encoding in {folder}, behind {state['text_bytes']:,} bytes.")
        return state
    except (OSError, ValueError, RecursionError):
        return {"pieces": 0, "text_bytes": 0, "name": "training", "parts": {}}


def write_state(folder, state, parts):
    """Note how far the encoding has come."""
    content = {**state, "parts": {name: part.state() for name, part in parts.items()}}
    with replaced_file(folder / PROGRESS) as path:
        path.write_text(json.dumps(content), encoding="utf-8")


class Report:
    """Say how far the encoding has come, on stderr."""

    def __init__(self, total):
        self.total = total  # bytes of the files; compressed ones hold more
        self.start = self.last = time.monotonic()

    def show(self, text_bytes, tokens):
        """Say it now and then."""
        every = 1 if sys.stderr.isatty() else 10
        if time.monotonic() - self.last > every:
            self.last = time.monotonic()
            rate = text_bytes / 1e6 / (self.last - self.start)
            print(
                f"encoding: {text_bytes / 1e6:,.0f} of about {self.total / 1e6:,.0f} MB, "
                f"{tokens:,} tokens, {rate:.1f} MB/s",
                file=sys.stderr,
            )

    def end(self, text_bytes, tokens):
        """Say what was made."""
        seconds = time.monotonic() - self.start
        print(f"Encoded {text_bytes:,} bytes to {tokens:,} tokens in {seconds:.0f} s.")
