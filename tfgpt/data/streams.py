"""The text of a file as a stream: unpacked, decoded and checked chunk by chunk."""

import contextlib
import gzip
import io
import zlib

from tfgpt.data.encodings import SAMPLE, advice, encoding_of_mark, find_codec, kind_of_start
from tfgpt.data.files import form_of

CHUNK = 2**18  # bytes that are decoded at once


def read_text(path, encoding):
    """Yield the text of a file in chunks, with "\\n" as line end and without a mark."""
    codec = find_codec(encoding)
    decoder = io.IncrementalNewlineDecoder(codec.incrementaldecoder(), translate=True)
    offset = 0
    for content in read_bytes(path):
        check_content(content, offset, codec.name, path)
        try:
            text = decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            raise ValueError(not_in_encoding(error, offset, content, codec.name, path)) from error
        except UnicodeError as error:
            raise ValueError(f"corpus must be {encoding}, got {str(path)!r}: {error}.") from error
        yield text if offset else text.removeprefix("\ufeff")
        offset += len(content)


def read_bytes(path):
    """Yield the content of a file in chunks, unpacked, and b"" at the end."""
    _, packing = form_of(path)
    with damage_named(path, EOFError, zlib.error), open_packed(path, packing) as stream:
        while content := stream.read(CHUNK):
            yield content
    yield b""


@contextlib.contextmanager
def damage_named(path, *errors):
    """Name the file in errors of a library that reads it; those of the system have its name."""
    try:
        yield
    except (OSError, *errors) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise ValueError(
            f"corpus must have whole files, got {str(path)!r}, which is damaged or no such "
            f"file as its name says: {error}"
        ) from error


def open_packed(path, packing):
    """Open a file for its unpacked bytes."""
    if packing == ".gz":
        return gzip.open(path)
    if packing == ".zst":
        # Not the zstandard library: it takes a file that was cut off for a whole one.
        return import_pyarrow(path).input_stream(str(path), compression="zstd")
    return open(path, "rb")


def import_pyarrow(path):
    """Return pyarrow; raise with what to install if it is missing."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            f"{str(path)!r} is read with pyarrow, which is missing: pip install tfgpt[corpus]."
        ) from error
    return pyarrow


def check_content(content, offset, encoding, path):
    """Raise if a chunk shows that a file is in another encoding, or no text at all."""
    begins = f"corpus must be text, got {str(path)!r}, which"
    mark = encoding_of_mark(content) if offset == 0 else None
    if mark and not encoding.startswith(mark):
        raise ValueError(f"{begins} has the mark of {mark} at its start: pass encoding={mark!r}.")
    kind = kind_of_start(content) if offset == 0 and not mark else None
    if kind:
        raise ValueError(f"{begins} looks like {kind}: save it as text first.")
    # Most characters of UTF-16 and UTF-32 have a NUL byte.
    place = -1 if encoding.startswith(("utf-16", "utf-32")) else content.find(b"\0")
    if place >= 0:
        raise ValueError(
            f"{begins} has a NUL byte at offset {offset + place}. "
            f"{advice(content[place // SAMPLE * SAMPLE :], encoding)}"
        )


def not_in_encoding(error, offset, content, encoding, path):
    """Say which byte of a file is not in an encoding, and what the file looks like."""
    # The decoder has put the bytes in front that it had kept of the chunk before.
    place = offset + len(content) - len(error.object) + error.start
    # No character lies across the start of a line; those of UTF-16 have two bytes or four.
    start = error.object.rfind(b"\n", 0, error.start) + 1
    start -= start % 4 if encoding.startswith(("utf-16", "utf-32")) else 0
    return (
        f"corpus must be text in {encoding}, got {str(path)!r} with the byte "
        f"0x{error.object[error.start]:02x} at offset {place}. "
        f"{advice(error.object[start:], encoding)}"
    )
