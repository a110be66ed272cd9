"""Token ids in, training examples out: NumPy arrays for every backend, and tf.data."""

import numpy as np

from tfgpt.validation import check_positive, check_rate


def split_held_out(token_ids, share=0.1):
    """Keep the last part of a corpus for validation.

    Args:
        token_ids: int array (N,), or any sequence.
        share: float in (0, 1), the part that is held out.

    Returns:
        training and held-out parts, in order; they do not overlap.

    Raises:
        ValueError: if share is outside (0, 1).

    Example:
        >>> split_held_out([1, 2, 3, 4], share=0.25)
        ([1, 2, 3], [4])
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share!r}.")
    cut = len(token_ids) - round(len(token_ids) * share)
    return token_ids[:cut], token_ids[cut:]


def shift(token_ids):
    """Pair each token with the next one: the targets of next-token prediction.

    Args:
        token_ids: int array or tensor (..., T + 1).

    Returns:
        inputs (..., T), all but the last token, and targets (..., T), all but the first.

    Example:
        >>> inputs, targets = shift(np.array([5, 6, 7]))
        >>> inputs.tolist(), targets.tolist()
        ([5, 6], [6, 7])
    """
    return token_ids[..., :-1], token_ids[..., 1:]


def windows(token_ids, context_length):
    """Cut a corpus into windows side by side, so that each target counts once.

    For evaluation, and for `fit` on any backend. The last window is dropped if
    it is not full.

    Args:
        token_ids: int array (N,), N > context_length.
        context_length: int >= 1, T.

    Returns:
        inputs and targets, int32 arrays ((N - 1) // T, T).

    Raises:
        ValueError: if the corpus is not longer than the context.

    Example:
        >>> inputs, targets = windows(np.arange(7), context_length=3)
        >>> inputs.tolist(), targets.tolist()
        ([[0, 1, 2], [3, 4, 5]], [[1, 2, 3], [4, 5, 6]])
    """
    token_ids = check_corpus(token_ids, context_length)
    count = (len(token_ids) - 1) // context_length
    inputs, targets = shift(token_ids[: count * context_length + 1])
    return inputs.reshape(count, context_length), targets.reshape(count, context_length)


def random_batches(token_ids, context_length, batch_size, seed=0, noise=0.0):
    """Draw random windows of a corpus, without end, as a tf.data pipeline.

    Batch i depends on `seed` and i only: after `skip(i)` training goes on with the
    batches that would have come. For `fit` pass steps_per_epoch.

    Args:
        token_ids: int array (N,), N > context_length.
        context_length: int >= 1, T.
        batch_size: int >= 1, B.
        seed: int.
        noise: float in [0, 1), the share of input tokens that are replaced by tokens drawn
            from the corpus; targets stay. A model that reads a small corpus many times then
            learns less of it by heart, at no cost in time.

    Returns:
        tf.data.Dataset of (inputs, targets), int32 (B, T) each.

    Raises:
        ValueError: if the corpus is not longer than the context, a size is below 1, or noise
            is outside [0, 1).

    Example:
        >>> dataset = random_batches(np.arange(100), context_length=8, batch_size=4)
        >>> inputs, targets = next(iter(dataset))
        >>> bool((inputs[:, 1:] == targets[:, :-1]).numpy().all())
        True

    Source: noise: Xie et al., "Data Noising as Smoothing in Neural Network Language Models"
    (2017), section 3.2, unigram noising.
    """
    import tensorflow as tf

    check_positive("batch_size", batch_size)
    check_rate("noise", noise)
    corpus = tf.constant(check_corpus(token_ids, context_length))
    # A longer text needs larger numbers; both draw in their own way.
    place_type = tf.int32 if len(token_ids) < 2**31 else tf.int64
    places = tf.range(context_length + 1, dtype=place_type)

    def draw(index):
        starts = tf.random.stateless_uniform(
            (batch_size, 1),
            seed=tf.stack([tf.constant(seed, tf.int64), index]),
            maxval=tf.constant(len(token_ids) - context_length, place_type),
            dtype=place_type,
        )
        examples = tf.gather(corpus, starts + places)  # (B, 1) + (T + 1,) -> (B, T + 1)
        inputs, targets = shift(examples)
        return (disturb(inputs, index) if noise else inputs), targets

    def disturb(inputs, index):
        """Replace a share of the tokens by others of the corpus: (B, T) -> (B, T)."""
        seeds = [tf.stack([tf.constant(seed, tf.int64), -2 * index - k]) for k in (1, 2)]
        shape = batch_size, context_length
        chosen = tf.random.stateless_uniform(shape, seeds[0]) < noise
        drawn = tf.random.stateless_uniform(
            shape, seeds[1], maxval=tf.constant(len(token_ids), place_type), dtype=place_type
        )
        return tf.where(chosen, tf.gather(corpus, drawn), inputs)

    return tf.data.Dataset.counter().map(draw, num_parallel_calls=1).prefetch(tf.data.AUTOTUNE)


def window_batches(token_ids, context_length, batch_size):
    """Batch the windows of `windows`: one full pass over a corpus as tf.data.

    Every batch has the same shape, so nothing is traced twice: the last batch is
    filled with rows of padding (id 0), which the losses do not count. With
    pad_id=None they would: batch the arrays of `windows` yourself then.

    Args:
        token_ids: int array (N,), N > context_length.
        context_length: int >= 1, T.
        batch_size: int >= 1, B.

    Returns:
        tf.data.Dataset of (inputs, targets), int32 (B, T) each.

    Raises:
        ValueError: if the corpus is not longer than the context, or a size is below 1.
    """
    import tensorflow as tf

    check_positive("batch_size", batch_size)
    inputs, targets = windows(token_ids, context_length)
    fill = ((0, -len(inputs) % batch_size), (0, 0))
    pairs = np.pad(inputs, fill), np.pad(targets, fill)
    return tf.data.Dataset.from_tensor_slices(pairs).batch(batch_size)


def check_corpus(token_ids, context_length):
    """Return the corpus as an int32 array; raise if no window fits into it."""
    check_positive("context_length", context_length)
    token_ids = np.asarray(token_ids)
    if token_ids.ndim != 1 or token_ids.dtype.kind not in "iu":
        raise ValueError(
            "token_ids must be a flat array of integers, got shape "
            f"{token_ids.shape} and dtype {token_ids.dtype}."
        )
    if len(token_ids) <= context_length:
        raise ValueError(
            f"token_ids must hold more than context_length={context_length} tokens, "
            f"got {len(token_ids)}: use a longer text or a shorter context."
        )
    return token_ids.astype("int32")
