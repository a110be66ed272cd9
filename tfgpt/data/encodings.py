"""What the bytes of a file are: text in which encoding, or no text at all."""

import codecs

# How files begin that are often taken for text.
FILE_STARTS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"PK\x03\x04": "a zip file or an Office document (.xlsx, .docx)",
    b"\xd0\xcf\x11\xe0": "an Office document (.xls, .doc)",
    b"\x1f\x8b": "a gzip file",
    b"%PDF": "a PDF",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"BZh91AY": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"7z\xbc\xaf": "a 7z file",
    b"Rar!\x1a": "a RAR file",
    b"PAR1\x15": "a Parquet file",
    b"ARROW1\0\0": "an Arrow file",
    b"SQLite format 3\0": "an SQLite database",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF89a": "a GIF image",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy file",
    b"\x7fELF": "a program",
    b"\x80\x02": "a pickle file",
    b"\x80\x03": "a pickle file",
    b"\x80\x04": "a pickle file",
    b"\x80\x05": "a pickle file",
}
# UTF-32 first: its mark begins with that of UTF-16.
MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8",
}
USUAL = "utf-8, utf-16, gb18030, gbk, big5, shift_jis, euc_jp, euc_kr, cp1251, cp1252, latin-1"
CHINESE = "的一是不了在人有我他中来上大和国地到说时要就出会可也你生能子那得于着下自之年过後个们这为"
TRADITIONAL = "的一是不了在人有我他中來上大和國地到說時要就出會可也你生能子那得於著下自之年過後個們"
SIGNS = "，。、：；？！“”「」《》…　"
KANA = "のにはをたがでてとしれさいるなかもらりっくすあこけ、。「」　"
HANGUL = "이다는에의가을를은한고하지로도기사서자그리나어아인시대"
CYRILLIC = "оеаинтсрвлкмдпуяыь"
LATIN = "éèêëàâçîïôùûäöüßñáíóúãõåæø¿¡«»’‘“”–—…£€°©"
WIDE = CHINESE + TRADITIONAL + SIGNS + KANA + HANGUL + CYRILLIC
# What is common in the texts of each encoding; texts in another one decode to rare characters.
COMMON = {
    "gb18030": CHINESE + TRADITIONAL + SIGNS,
    "big5": TRADITIONAL + SIGNS,
    "shift_jis": KANA,
    "euc_jp": KANA,
    "euc_kr": HANGUL,
    "utf-16-le": WIDE,
    "utf-16-be": WIDE,
    "cp1251": CYRILLIC,
    "koi8-r": CYRILLIC,
    "cp1252": LATIN,
}
# In these nearly all bytes are some character, so more of them must be common.
SINGLE_BYTE = ("cp1251", "koi8-r", "cp1252")
SAMPLE = 2**16  # bytes


def kind_of_file(content):
    """Name what a file is by its first bytes, if it is no text without NUL characters."""
    nul = "UTF-16 or another file with NUL bytes" if b"\0" in content else None
    return kind_of_start(content) or nul


def kind_of_start(content):
    """Name what a file is that begins as no text in UTF-8 does, or None."""
    return next((kind for start, kind in FILE_STARTS.items() if content.startswith(start)), None)


def find_codec(encoding):
    """Return Python's codec of a text encoding; raise with the usual names if there is none."""
    try:
        codec = codecs.lookup(encoding)
        # base64, zip and others turn bytes into bytes.
        if codec._is_text_encoding and codec.incrementaldecoder:
            # The same but for its mark, which is dropped in any case.
            return codecs.lookup("utf-8") if codec.name == "utf-8-sig" else codec
    except (LookupError, TypeError, ValueError):
        pass
    raise ValueError(f"encoding must be a text encoding such as {USUAL}, got {encoding!r}.")


def encoding_of_mark(content):
    """Return the encoding that the byte order mark at the start of a file names, or None."""
    return next((name for mark, name in MARKS.items() if content.startswith(mark)), None)


def guess_encoding(content):
    """Guess the encoding of a part of a text that begins with a whole character.

    Args:
        content: bytes.

    Returns:
        str, a name that Python knows; None if no encoding gives a usual text.
    """
    content = content[:SAMPLE]
    if encoding_of_mark(content):
        return encoding_of_mark(content)
    for order, zeros in (("utf-16-le", content[1::2]), ("utf-16-be", content[::2])):
        if zeros.count(0) > 0.7 * len(zeros):  # mostly ASCII
            return order
    if mostly_utf8(content):
        return "utf-8"
    shares = {name: common_share(content, name) for name in COMMON}
    likely = [name for name in COMMON if shares[name] > (0.5 if name in SINGLE_BYTE else 0.1)]
    several = [name for name in likely if name not in SINGLE_BYTE]
    return max(several or likely, key=shares.get, default=None)


def mostly_utf8(content):
    """Tell whether nearly all that is beyond ASCII is right in UTF-8: no other text is that."""
    text = content.decode("utf-8", errors="replace")
    others = sum(not character.isascii() for character in text)
    return b"\0" not in content and text.count("\ufffd") <= 0.1 * others


def common_share(content, encoding):
    """Return which share of the characters beyond ASCII is common in such texts."""
    text = decoded(content, encoding)
    others = [character for character in text or "" if not character.isascii()]
    common = set(COMMON[encoding])
    return sum(character in common for character in others) / max(len(others), 1)


def decoded(content, encoding):
    """Decode a sample that may end inside a character; None if it is not in this encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(content)
    except UnicodeError:
        return None


def advice(content, encoding):
    """Say what a text looks like that is not in the encoding it was read with, and what to do."""
    guess = guess_encoding(content)
    if guess is None:
        return "If you know its encoding, pass it; otherwise repair it and save it as UTF-8."
    if guess == encoding:
        return "The rest looks right, so the file may be damaged there: repair or remove it."
    return (
        f"It looks like {guess}: pass encoding={guess!r} (--encoding {guess}), or save it as UTF-8."
    )
