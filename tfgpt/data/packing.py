"""Token ids of many lengths in, one array out: start, end and padding added."""

from tfgpt.validation import check_integer, check_positive


def pack_tokens(rows, length, start_id=None, end_id=None, pad_id=0):
    """Put a start and an end token around texts and give all of them one length.

    A text that is too long loses its last tokens, never its start or end token. Works on
    lists and arrays, and on tensors inside `tf.data.Dataset.map`, before or after batching.

    Args:
        rows: token ids: list of B lists or int arrays, int array or tensor (B, T),
            tf.RaggedTensor (B, None); or the ids of one text (T,).
        length: int >= 1, T of the result, start and end token included.
        start_id: int >= 0, or None for no start token.
        end_id: int >= 0, or None for no end token.
        pad_id: int >= 0, fills the rest.

    Returns:
        int32 (B, length), or (length,) for one text: a tensor for tensors, else a NumPy array.

    Raises:
        ValueError: if an argument is outside its range, start and end leave no room, or
            pad_id is one of them.

    Example:
        >>> pack_tokens([[5, 6], [7, 8, 9, 10]], length=5, start_id=1, end_id=2).tolist()
        [[1, 5, 6, 2, 0], [1, 7, 8, 9, 2]]
    """
    import tensorflow as tf

    ends = [token for token in (start_id, end_id) if token is not None]
    check_positive("length", length)
    for token in (*ends, pad_id):
        check_integer("start_id, end_id and pad_id", token, minimum=0)
    if pad_id in ends:
        raise ValueError(f"pad_id must differ from start_id and end_id, got {pad_id} twice.")
    if length <= len(ends):
        raise ValueError(f"length must leave room for a text, got {length} with {len(ends)} ends.")
    given_tensor = tf.is_tensor(rows) or isinstance(rows, tf.RaggedTensor)
    is_one = rows.shape.rank == 1 if given_tensor else not hasattr((*rows, 0)[0], "__len__")
    if not given_tensor:
        lists = [[int(token) for token in row] for row in ([rows] if is_one else rows)]
        rows = tf.ragged.constant(lists, dtype=tf.int32, ragged_rank=1)
    elif is_one:
        rows = rows[None]
    if not isinstance(rows, tf.RaggedTensor):
        rows = tf.RaggedTensor.from_tensor(rows)

    def column(token):
        return [] if token is None else [tf.fill([rows.nrows(), 1], tf.constant(token, tf.int32))]

    texts = tf.cast(rows[:, : length - len(ends)], tf.int32)
    packed = tf.concat([*column(start_id), texts, *column(end_id)], axis=1)
    packed = packed.to_tensor(default_value=pad_id, shape=(None, length))  # (B, length)
    packed = packed[0] if is_one else packed
    return packed if given_tensor else packed.numpy()
