"""The files that a corpus is made from: their content and size."""

import json

from tfgpt.bundle import digest_of, replaced_file
from tfgpt.data.documents import form_read


def facts_of_texts(files, folder):
    """Return what the texts in files depend on: dict of their bytes, and their forms if any.

    The same bytes are other documents in x.txt and x.jsonl; plain texts need no word.

    Args:
        files: list of Path.
        folder: Path, where sources.json keeps what was read.
    """
    facts = {"texts": content_hashes(files, folder / "sources.json")}
    forms = [form_read(file) for file in files]
    return facts | ({"forms": forms} if any(forms) else {})


def content_hashes(files, table):
    """Return a digest of each file; one whose size and time are known is not read again.

    Args:
        files: list of paths.
        table: path of a JSON file that keeps what was read.
    """
    try:
        known = json.loads(table.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        known = {}
    hashes = []
    for path in [inner for file in files for inner in files_in(file)]:
        place, state = str(path.resolve()), path.stat()
        facts = [state.st_size, state.st_mtime_ns]
        entry = known.get(place)
        if entry is None or entry[:2] != facts:
            if entry is not None:
                print(f"{path} has changed since it was encoded: it is read again.")
            known[place] = entry = [*facts, digest_of(path)]
        hashes.append(entry[2])
    with replaced_file(table) as part:
        part.write_text(json.dumps(known), encoding="utf-8")
    return hashes


def files_in(path):
    """List the files of a folder, or the file itself."""
    return (
        sorted(inner for inner in path.rglob("*") if inner.is_file()) if path.is_dir() else [path]
    )


def size_of(path):
    """Return the bytes of a file or of all files in a folder."""
    return sum(inner.stat().st_size for inner in files_in(path))
