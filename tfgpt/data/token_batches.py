"""A long row of token ids, in memory or in files, as training batches from any place on."""

import hashlib

import keras
import numpy as np

from tfgpt.data.batches import shift
from tfgpt.validation import check_integer, check_positive


class Tokens:
    """Token ids in several pieces, read like one array: nothing is copied before it is used.

    Args:
        segments: list of int arrays (N,), also `np.memmap`.

    Example:
        >>> tokens = Tokens([np.array([5, 6]), np.array([7, 8, 9])])
        >>> len(tokens), tokens[1:4].tolist()
        (5, [6, 7, 8])
    """

    def __init__(self, segments):
        self.segments = [segment for segment in segments if len(segment)]
        sizes = [len(segment) for segment in self.segments]
        self.ends = np.cumsum(sizes, dtype="int64") if sizes else np.zeros(0, "int64")

    def __len__(self):
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, part):
        """Return the ids of a slice with step 1 as an int32 array."""
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError(f"a slice of tokens must have step 1, got {step}.")
        found = []
        number = int(np.searchsorted(self.ends, start, side="right"))
        while start < stop:
            begin = int(self.ends[number]) - len(self.segments[number])
            found.append(self.segments[number][start - begin : stop - begin])
            start, number = int(self.ends[number]), number + 1
        return np.concatenate([np.zeros(0, "int32"), *found]).astype("int32")


class TokenBatches(keras.utils.PyDataset):
    """Windows of a long text in random order, each once per pass, as batches.

    Every pass has an order and an offset of its own. Example number n depends on the seed
    and n only: after any number of examples training goes on with the next, also with
    another batch size. Nothing but the batch itself is held in memory. It serves `train`
    and, as a `keras.utils.PyDataset`, `fit` on every backend.

    Args:
        tokens: Tokens or int array (N,), N > context_length.
        context_length: int >= 1, T.
        batch_size: int >= 1, B.
        seed: int >= 0.
        name: str that says which text it is, such as `Corpus.key`.

    Raises:
        ValueError: if the text is not longer than the context, or a size is outside its range.

    Example:
        >>> batches = TokenBatches(np.arange(100), context_length=8, batch_size=4)
        >>> inputs, targets = next(batches.batches_from(0))
        >>> inputs.shape, bool((inputs[:, 1:] == targets[:, :-1]).all())
        ((4, 8), True)
    """

    def __init__(self, tokens, context_length, batch_size, seed=0, name=""):
        super().__init__()
        self.tokens = tokens
        self.context_length = check_positive("context_length", context_length)
        self.batch_size = check_positive("batch_size", batch_size)
        self.seed = check_integer("seed", seed, minimum=0)
        if len(tokens) <= context_length:
            raise ValueError(
                f"tokens must be more than context_length={context_length}, got {len(tokens)}: "
                "use a longer text or a shorter context."
            )
        # One context is left over, so that each pass can begin at an offset of its own.
        self.examples = max((len(tokens) - context_length) // context_length, 1)
        self.offsets = min(context_length, len(tokens) - self.examples * context_length)
        self.fingerprint = f"{name or sample_hash(tokens)}-{len(tokens)}-{context_length}-{seed}"
        self.first = 0  # example number of the first batch of the pass that `fit` is in
        self.is_in_pass = False

    def __len__(self):
        """Return the batches of one pass, the last one filled from the next pass."""
        return -(-self.examples // self.batch_size)

    def __getitem__(self, index):
        """Return batch number `index` of the pass that `fit` is in."""
        return self.read(self.first + index * self.batch_size)

    def on_epoch_begin(self):
        """Note that a pass begins; Keras looks at some batches before."""
        self.is_in_pass = True

    def on_epoch_end(self):
        """Go to the next pass, when `fit` says so."""
        if self.is_in_pass:
            self.first += len(self) * self.batch_size
        self.is_in_pass = False

    def batches_from(self, place):
        """Yield (inputs, targets), int32 (B, T) each, from example number `place` on."""
        while True:
            yield self.read(place)
            place += self.batch_size

    def read(self, place):
        """Read the batch that begins with example number `place`."""
        numbers = np.arange(place, place + self.batch_size, dtype="int64")
        starts = np.empty_like(numbers)
        epochs, within = np.divmod(numbers, self.examples)
        for epoch in np.unique(epochs):
            is_in = epochs == epoch
            windows = shuffled(within[is_in], self.examples, (self.seed, int(epoch)))
            offset = int(keys_of((self.seed, int(epoch)))[-1] % self.offsets)
            starts[is_in] = windows * self.context_length + offset
        length = self.context_length + 1
        return shift(np.stack([self.tokens[int(s) : int(s) + length] for s in starts]))


def shuffled(places, size, seed):
    """Return where places of a row of `size` lie after a shuffle, without making the row.

    A Feistel network of four rounds is a permutation of the next power of four; what falls
    outside is sent through again until it falls inside.

    Args:
        places: int64 array of numbers in [0, size).
        size: int >= 1.
        seed: tuple of int.

    Returns:
        int64 array; all places together give each number in [0, size) once.

    Example:
        >>> sorted(shuffled(np.arange(5), 5, seed=(0, 1)).tolist())
        [0, 1, 2, 3, 4]

    Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (2002), section 4.
    """
    bits = np.uint64(max((int(size - 1).bit_length() + 1) // 2, 1))
    mask = np.uint64((1 << int(bits)) - 1)
    result = places.astype("uint64")
    outside = np.ones(len(result), bool)
    while outside.any():
        left, right = result[outside] >> bits, result[outside] & mask
        for key in keys_of(seed)[:4]:
            mixed = (right + key) * np.uint64(0x9E3779B97F4A7C15)  # wraps around
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
        result[outside] = (left << bits) | right
        outside = result >= size
    return result.astype("int64")


def keys_of(seed):
    """Return five random numbers that depend on a seed: uint64 (5,)."""
    return np.random.SeedSequence(seed).generate_state(5, "uint64")


def sample_hash(tokens):
    """Return a digest of a thousand ids at the beginning, in the middle and at the end."""
    digest = hashlib.sha256()
    for start in (0, len(tokens) // 2, max(len(tokens) - 1000, 0)):
        digest.update(np.asarray(tokens[start : start + 1000], "int32").tobytes())
    return digest.hexdigest()[:16]


def held_out_batches(tokens, context_length, batch_size, most_batches, ignored_id=0):
    """Yield windows spread over a held-out text, every batch of the same shape.

    Args:
        tokens: Tokens or int array (N,), N > context_length.
        context_length: int >= 1, T.
        batch_size: int >= 1, B.
        most_batches: int >= 1; None: all windows.
        ignored_id: int, the targets of rows that fill the last batch: they do not count.

    Returns:
        generator of (inputs, targets), int32 (B, T) each.

    Example:
        >>> batches = list(held_out_batches(np.arange(21), 5, batch_size=3, most_batches=None))
        >>> [batch[0][:, 0].tolist() for batch in batches]
        [[0, 5, 10], [15, 0, 0]]
    """
    count = (len(tokens) - 1) // context_length
    rows = count if most_batches is None else min(count, most_batches * batch_size)
    starts = np.linspace(0, count - 1, rows).astype("int64") * context_length
    for first in range(0, rows, batch_size):
        found = [tokens[int(s) : int(s) + context_length + 1] for s in starts[first:][:batch_size]]
        inputs, targets = shift(np.stack(found).astype("int32"))
        fill = ((0, batch_size - len(inputs)), (0, 0))
        yield np.pad(inputs, fill), np.pad(targets, fill, constant_values=ignored_id)
