"""One file with everything that writes text: the program, the tokenizer, the sizes.

A LiteRT program (.tflite) with a ZIP archive behind it, the way in which such files carry
what belongs to them: any LiteRT interpreter runs the file, any ZIP program opens it.
The archive holds `facts.json`, `tokenizer.json` and `arrays.npz`.
"""

import hashlib
import io
import json
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tfgpt.tokenizers import load_tokenizer
from tfgpt.validation import check_choice, check_positive

VERSION = 1
LOADERS = {"GPT": "LiteModel", "Transformer": "LiteTranslator"}
FACTS, TOKENIZER, ARRAYS = "facts.json", "tokenizer.json", "arrays.npz"


@dataclass(frozen=True)
class Facts:
    """What must be known to run the program of a file.

    Args:
        kind: "GPT" or "Transformer", the class of the model.
        vocab_size: int, V; of a translator, of the target.
        context_length: int, what the model was made for; of a translator, its max_length.
        room: int, R, how many tokens the caches hold; at most context_length.
        batch_size: int, B, rows that are written at once.
        chunk: int, T, tokens of a prompt or source that are read at once.
        d_model: int, D.
        num_layers: int, L.
        pad_id: int or None, never written.
        rotary: bool, the program wants to know positions.
        quantize: None, "float16" or "int8".
        table: dtype and offset of the embedding table (V, D) inside the program, or None
            if it is one of the arrays.
        task: dict with "task" and "max_new_tokens" of a fine-tuned model that answers; None: of
            one that continues texts.
    """

    kind: str
    vocab_size: int
    context_length: int
    room: int
    batch_size: int
    chunk: int
    d_model: int
    num_layers: int
    pad_id: int | None
    rotary: bool
    quantize: str | None
    table: list | None
    task: dict | None = None

    def __post_init__(self):
        for name in ("vocab_size", "context_length", "room", "batch_size", "chunk", "d_model"):
            check_positive(name, getattr(self, name))
        check_choice("kind", self.kind, tuple(LOADERS))


def write_lite_file(path, program, facts, tokenizer, arrays):
    """Write a program and what belongs to it.

    Args:
        path: file to write.
        program: bytes of a .tflite file.
        facts: Facts.
        tokenizer: CharTokenizer, BPETokenizer or None.
        arrays: dict of numpy arrays.
    """
    content = {
        "version": VERSION,
        "program": {"bytes": len(program), "sha256": hashlib.sha256(program).hexdigest()},
        "facts": asdict(facts),
    }
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    Path(path).write_bytes(program)
    with zipfile.ZipFile(path, "a") as archive:  # not compressed
        archive.writestr(FACTS, json.dumps(content, indent=1))
        archive.writestr(ARRAYS, packed.getvalue())
        if tokenizer is not None:
            archive.writestr(TOKENIZER, saved(tokenizer))


def read_lite_file(path, kind):
    """Read what `write_lite_file` wrote, and check all of it.

    Args:
        path: file to read.
        kind: "GPT" or "Transformer", the only class that is accepted.

    Returns:
        Facts, the tokenizer or None, and the dict of arrays; with "table" among them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, altered, foreign, of another version or kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must be a file of export_litert, got {str(path)!r}.")
    try:
        with zipfile.ZipFile(path) as archive:  # it compares checksums
            files = {name: archive.read(name) for name in archive.namelist()}
        content = json.loads(files[FACTS])
        if content["version"] == VERSION:
            check_program(path, content["program"])
            facts = Facts(**content["facts"])
            arrays = dict(np.load(io.BytesIO(files[ARRAYS]), allow_pickle=False))
            tokenizer = loaded(files[TOKENIZER]) if TOKENIZER in files else None
            arrays |= look_up_table(path, facts)
    except ImportError:  # the library of the tokenizer
        raise
    except Exception as error:  # anything may stand in a damaged file
        raise ValueError(
            f"path must be a whole file of export_litert, got {str(path)!r}, which is truncated, "
            f"altered or of another kind ({type(error).__name__}): export it again."
        ) from error
    if content["version"] != VERSION:
        raise ValueError(
            f"path must be a file of version {VERSION}, got {str(path)!r} of version "
            f"{content['version']!r}: export the model again with this version of tfgpt."
        )
    if facts.kind != kind:
        raise ValueError(
            f"path must be a file of a {kind}, got {str(path)!r} of a {facts.kind}: load it with "
            f"{LOADERS[facts.kind]}."
        )
    return facts, tokenizer, arrays


def check_program(path, expected):
    """Raise unless the program is as long as it was and has the same SHA-256."""
    digest, left = hashlib.sha256(), expected["bytes"]
    with path.open("rb") as file:
        while left > 0:
            part = file.read(min(left, 2**20))
            if not part:
                break
            digest.update(part)
            left -= len(part)
    if left or digest.hexdigest() != expected["sha256"]:
        raise ValueError("the program differs from the one that was written")


def look_up_table(path, facts):
    """Map the embedding table (V, D) that lies inside the program: {} if it does not."""
    if facts.table is None:
        return {}
    dtype, offset = facts.table
    shape = (facts.vocab_size, facts.d_model)
    return {"table": np.memmap(path, dtype, "r", offset=offset, shape=shape)}


def saved(tokenizer):
    """Return what `tokenizer.save` writes, as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder) / TOKENIZER)
        return (Path(folder) / TOKENIZER).read_bytes()


def loaded(content):
    """Return the tokenizer of bytes that `saved` returned."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / TOKENIZER).write_bytes(content)
        return load_tokenizer(Path(folder) / TOKENIZER)
