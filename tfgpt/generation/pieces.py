"""Pieces of text from tokens: characters that are complete, up to a stop string.

One token is often a part of a character only: a Chinese character has three bytes,
and a byte-level tokenizer may cut between them. Bytes are held until the character
is complete.
"""

import codecs


def text_pieces(tokenizer, token_ids):
    """Turn tokens into text as soon as their characters are complete.

    Args:
        tokenizer: object with a method token_bytes(token_id).
        token_ids: iterable of int.

    Returns:
        generator of str, not empty.

    Example:
        >>> from tfgpt import BPETokenizer
        >>> tokenizer = BPETokenizer.train("moon", vocab_size=259)
        >>> token_ids = tokenizer.encode("a月")  # one byte, then three
        >>> list(text_pieces(tokenizer, token_ids.tolist()))
        ['a', '月']
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token_id in token_ids:
        piece = decoder.decode(tokenizer.token_bytes(token_id))
        if piece:
            yield piece
    rest = decoder.decode(b"", final=True)
    if rest:
        yield rest


def check_stop_strings(stop_strings):
    """Return stop strings as a list; raise unless each has a character."""
    if stop_strings is None:
        return []
    stop_strings = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings)
    if not all(isinstance(stop, str) and stop for stop in stop_strings):
        raise ValueError(f"stop_strings must be str, none of them empty, got {stop_strings!r}.")
    return stop_strings


def until_string(pieces, stop_strings):
    """Yield pieces up to the first stop string; hold back what may be the start of one."""
    held = ""
    for piece in pieces:
        held += piece
        found = [held.find(stop) for stop in stop_strings if stop in held]
        if found:
            held = held[: min(found)]
            break
        starts = {stop[:size] for stop in stop_strings for size in range(1, len(stop))}
        kept = max((len(start) for start in starts if held.endswith(start)), default=0)
        if len(held) > kept:
            yield held[: len(held) - kept]
            held = held[len(held) - kept :]
    if held:
        yield held


def without_first_space(pieces):
    """Leave out the space between a prompt and its answer."""
    is_first = True
    for piece in pieces:
        piece = piece.lstrip() if is_first else piece
        if piece:
            is_first = False
            yield piece
