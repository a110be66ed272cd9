"""A person's own files as documents, read in pieces: memory does not grow with the files."""

from pathlib import Path

from tfgpt.data.encodings import find_codec
from tfgpt.data.files import RECORDS, form_of, is_dataset
from tfgpt.data.records import check_length, read_records
from tfgpt.data.streams import read_text
from tfgpt.tokenizers import PART, text_parts


def read_pieces(path, *, field=None, encoding="utf-8", separator=None):
    """Read the documents of a file, each in pieces, in constant memory.

    A piece ends where no byte pair crosses: the ids of the pieces of a document, put
    together, are the ids of the document. "\\r\\n" and "\\r" become "\\n", a byte order
    mark is dropped, and documents of white space only are left out.

    The suffix tells how a file is read. .jsonl, .ndjson: one object per line. .json: a list
    of objects. .csv, .tsv: a first row of names, then a document per row. .parquet, and a
    folder that the `datasets` library saved: a document per row (needs pyarrow). All
    others: one document of plain text. Text may be compressed: .gz, .zst (needs pyarrow).

    Args:
        path: Path or str, as `find_files` lists them.
        field: str, the key or column that holds the text; "a.b" is b inside of a.
            None: "text", or the only column.
        encoding: str, any text encoding of Python's.
        separator: str that stands between the documents of a plain text, such as
            "<|endoftext|>". None: the whole file is one document.

    Yields:
        (text, ends_document): a str of about 2**18 characters at most, more only where a
        text has no white space; True with the last piece of each document.

    Raises:
        ImportError: if the file needs pyarrow, and it is not installed.
        ValueError: if the file is damaged, is no text in this encoding, has no such field, or
            has a record of more than 2**26 characters.

    Example:
        >>> from tfgpt.data import find_files
        >>> (path,) = find_files("shakespeare")
        >>> pieces = list(read_pieces(path))
        >>> pieces[0][0][:14], [ends_document for text, ends_document in pieces]
        ('First Citizen:', [False, False, False, False, True])
    """
    path = Path(path)
    find_codec(encoding)
    if separator is not None and (not isinstance(separator, str) or not separator):
        raise ValueError(f"separator must be a text or None, got {separator!r}.")
    if form_read(path):
        parts = ((text, True) for text in read_records(path, field, encoding))
    else:
        parts = split_documents(read_text(path, encoding), separator)
    return cut_pieces(parts, path)


def form_read(path):
    """Return the suffix that tells how the records of a file are read, "" for a plain text."""
    form = "dataset" if is_dataset(path) else form_of(path)[0]
    return form if form in ("dataset", *RECORDS, ".parquet") else ""


def split_documents(chunks, separator):
    """Yield parts of documents, and True with the last part of each; the separator is removed."""
    if separator is None:
        yield from ((chunk, False) for chunk in chunks)
        yield "", True
        return
    separator = separator.replace("\r\n", "\n").replace("\r", "\n")
    rest = ""
    for chunk in chunks:
        *ended, rest = (rest + chunk).split(separator)
        yield from ((text, True) for text in ended)
        # A separator may begin in this chunk and end in the next.
        end = max(len(rest) - len(separator) + 1, 0)
        yield rest[:end], False
        rest = rest[end:]
    yield rest, True


def cut_pieces(parts, path):
    """Join the parts of a document and cut it where no byte pair crosses; drop blank ones."""
    begun, rest, wanted = False, "", 0
    for text, ends_document in parts:
        rest += text
        if len(rest) < wanted and not ends_document:
            continue
        *ready, rest = text_parts(rest)
        for piece in ready:
            begun = True
            yield piece, False
        if ends_document:
            if begun or rest.strip():
                yield rest, True
            begun, rest = False, ""
        check_length(len(rest), f"one word of {str(path)!r}, a text without white space")
        # A text without a place to cut is not searched again at each chunk.
        wanted = 2 * max(len(rest), PART)
