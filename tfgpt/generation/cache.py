"""The cache of keys and values: its size, and how a text is read into it."""

from keras import ops

# Tokens that enter the cache at once. One size for all texts, so that another length
# needs no new program.
CHUNK = 16
# A cache has room for 256, 512, 1024, ... tokens: a short text reads no long empty one.
SMALLEST_ROOM = 256


def cache_room(total, context_length):
    """Choose how many tokens a cache holds.

    Args:
        total: int, the tokens it must hold, at most context_length.
        context_length: int.

    Returns:
        int, the smallest of 256, 512, 1024, ... that is enough, or context_length if
        that is less.

    Example:
        >>> [cache_room(total, context_length=1000) for total in (9, 256, 257, 513)]
        [256, 256, 512, 1000]
    """
    room = SMALLEST_ROOM
    while room < total:
        room *= 2
    return min(room, context_length)


def read_text(model, token_ids, start, end, caches, keep_hidden=False):
    """Bring the tokens from place `start` up to `end` into the caches, 16 at once.

    More may be read than asked for: entries from `end` on are wrong, and must be
    overwritten before they are seen.

    Args:
        model: GPT.
        token_ids: int32 tensor (B, C).
        start: int scalar; all before it is in the caches.
        end: int scalar, at most C.
        caches: caches of the model for (B, C).
        keep_hidden: bool, also return the final hidden states.

    Returns:
        caches: with these tokens.
        hidden: tensor (B, C, D), the hidden states of the tokens that were read, or
            (B, 0, D) if they are not kept.
    """
    batch, room = token_ids.shape
    chunk = min(CHUNK, room)

    def read(start, caches, hidden):
        # The last chunk begins earlier, so that it does not pass the end of the room.
        first = ops.minimum(start, room - chunk)
        places = first + ops.arange(chunk, dtype="int32")
        new, caches = model.decode(ops.take(token_ids, places, axis=1), caches, first)
        if keep_hidden:
            hidden = ops.slice_update(hidden, (0, first, 0), new)
        return start + chunk, caches, hidden

    shape = (batch, room if keep_hidden else 0, model.d_model)
    _, caches, hidden = ops.while_loop(
        lambda start, caches, hidden: start < end,
        read,
        (
            ops.convert_to_tensor(start, dtype="int32"),
            caches,
            ops.zeros(shape, dtype=model.compute_dtype),
        ),
    )
    return caches, hidden
