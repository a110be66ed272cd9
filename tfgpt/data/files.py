"""Which files a corpus is made of: names, folders, patterns, and what each file holds."""

import glob
import os
from collections import Counter
from pathlib import Path

from tfgpt.data.texts import CORPORA, DATA_FOLDER

PLAIN = (".txt", ".text", ".md", ".markdown", ".rst")
RECORDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
COMPRESSED = (".gz", ".zst")


def find_files(corpus):
    """List the files of a corpus.

    In a folder all files with a known suffix count, also in folders below it, sorted by
    path; hidden ones and others are left out. A file that is named itself, or by a
    pattern, is plain text if its suffix is unknown. A folder that the `datasets`
    library saved counts as one file.

    Args:
        corpus: "shakespeare", "chinese_poems", the path of a file or a folder, a pattern
            such as "books/**/*.txt", or a list of these.

    Returns:
        list of Path, none of them twice.

    Raises:
        FileNotFoundError: if there is no such file or folder, or a pattern fits none.
        ValueError: if a folder has no file that can be read, or the corpus is no path.

    Example:
        >>> [path.name for path in find_files(["shakespeare", "chinese_poems"])]
        ['shakespeare.txt', 'chinese_poems.txt']
    """
    items = corpus if isinstance(corpus, (list, tuple)) else [corpus]
    if not items or not all(isinstance(item, (str, Path)) and str(item) for item in items):
        raise ValueError(f"corpus must be a path, a pattern or a list of these, got {corpus!r}.")
    found = {}
    for item in items:
        for path in files_of(item):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def files_of(item):
    """List the files of one name, path or pattern."""
    if item in CORPORA:
        return [DATA_FOLDER / f"{item}.txt"]
    path = Path(item).expanduser()
    if path.is_file() or is_dataset(path):
        return [path]
    if path.is_dir():
        return files_below(path)
    if path.exists():
        raise ValueError(f"corpus must be made of files, got {str(path)!r}: write it to a file.")
    places = sorted(Path(place) for place in glob.glob(str(path), recursive=True))
    places = [place for place in places if place.is_file() or is_dataset(place)]
    if not places:
        raise FileNotFoundError(
            f"corpus must be one of {', '.join(CORPORA)}, or a file, a folder or a pattern of "
            f"files that exist, got {str(item)!r}."
        )
    return places


def files_below(folder):
    """List the readable files of a folder and those below it; print what is left out."""
    found, skipped = [], Counter()
    for path in walk(folder):
        if is_readable(path):
            found.append(path)
        else:
            skipped[path.suffix or "no suffix"] += 1
    kinds = ", ".join(f"{suffix} ({count})" for suffix, count in skipped.most_common(8))
    if not found:
        raise ValueError(
            f"corpus must hold files that can be read ({', '.join(PLAIN + RECORDS)}, .parquet; "
            f"with .gz or .zst too), got the folder {str(folder)!r} with {kinds or 'no file'}."
        )
    if skipped:
        print(f"Left out {skipped.total()} of the files in {folder}, no known text: {kinds}.")
    return sorted(found)


def walk(folder):
    """Yield the files and saved datasets of a folder and those below it, but hidden ones."""
    seen = set()
    for name, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        place = Path(name)
        if is_dataset(place):
            yield place
        if is_dataset(place) or place.resolve() in seen:
            folders.clear()
            continue
        seen.add(place.resolve())  # a link may lead back to where it lies
        folders[:] = [name for name in folders if not name.startswith(".")]
        # The file that names the parts of a saved dataset is no text.
        files = [name for name in files if name != "dataset_dict.json"]
        yield from (place / name for name in files if not name.startswith("."))


def fail(error):
    """Raise what os.walk would hide: a folder that may not be read."""
    raise error


def is_readable(path):
    """Tell whether a file in a folder belongs to a corpus."""
    form, packing = form_of(path)
    is_known = form in PLAIN + RECORDS or (form == ".parquet" and not packing)
    return is_dataset(path) or (is_known and path.is_file())


def is_dataset(path):
    """Tell whether a folder was written by the `datasets` library, with save_to_disk."""
    return (path / "state.json").is_file() and (path / "dataset_info.json").is_file()


def form_of(path):
    """Return what a file holds, as a suffix, and how it is compressed ("" if it is not)."""
    name = Path(path.name.lower())
    if name.suffix in COMPRESSED:
        return Path(name.stem).suffix, name.suffix
    return name.suffix, ""
