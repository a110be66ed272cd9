"""Bundled corpora and any UTF-8 file of your own, as text. Nothing is downloaded."""

from pathlib import Path

from tfgpt.data.encodings import kind_of_file


def find_data():
    """Return the folder of the bundled texts: inside an installed wheel, or the repository's."""
    package = Path(__file__).resolve().parents[1]
    bundled = package / "bundled"  # made when a wheel is built
    return bundled if bundled.is_dir() else package.parent / "data"


DATA_FOLDER = find_data()
CORPORA = ("shakespeare", "chinese_poems")


def load_text(corpus):
    """Read a bundled corpus or a UTF-8 text file.

    Windows line ends become "\\n"; a byte order mark at the start is dropped.

    Args:
        corpus: "shakespeare", "chinese_poems", or the path of a file.

    Returns:
        str, not empty.

    Raises:
        FileNotFoundError: if there is no such corpus or file.
        ValueError: if the file is empty, a folder, or not UTF-8 text.

    Example:
        >>> load_text("shakespeare")[:14]
        'First Citizen:'
    """
    path = DATA_FOLDER / f"{corpus}.txt" if corpus in CORPORA else Path(corpus)
    return read_utf8(path, "corpus", f"{', '.join(CORPORA)} or the path of a file")


def read_utf8(path, name, expected):
    """Read a UTF-8 text file with "\\n" as line end; raise with what it may be or looks like."""
    if path.is_dir():
        raise ValueError(f"{name} must be a text file, got the folder {str(path)!r}.")
    if not path.exists():
        raise FileNotFoundError(f"{name} must be one of {expected} that exists, got {str(path)!r}.")
    content = path.read_bytes()
    kind = kind_of_file(content)
    if kind:
        raise ValueError(
            f"{name} must be UTF-8 text, got {str(path)!r}, which looks like {kind}. "
            "Save it as UTF-8 text first."
        )
    try:
        # Not "utf-8-sig": its errors count offsets from after the mark.
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} must be UTF-8 text, got {str(path)!r} with the byte "
            f"0x{content[error.start]:02x} at offset {error.start}. "
            "Save it as UTF-8 in your editor first."
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise ValueError(f"{name} must not be empty, got {str(path)!r} without any text.")
    return text
