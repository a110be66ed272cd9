"""Positions: sinusoidal, learned and rotary.

Attention compares tokens without regard to their order, so the order is added
to the embeddings (sinusoidal, learned) or turned into the queries and keys
(rotary). All of it is float32. Built step by step in notebook 03.
"""

import keras
import numpy as np
from keras import ops

from tfgpt.parts import to_float32
from tfgpt.validation import (
    check_choice,
    check_positive,
    check_rate,
    check_token_ids,
    concrete_values,
    copy_initializer,
)

LAYOUTS = ("interleaved", "concat")
# The longest wavelength is 2 pi x 10000 positions (section 3.5 of the paper).
BASE = 10000.0


def get_angles(positions, dims, d_model):
    """Compute the angle of each position in each dimension, in radians.

    angle(position, dim) = position / 10000^(2 (dim // 2) / d_model).
    Dimensions 2i and 2i + 1 share one angle: one takes its sine, one its cosine.

    Args:
        positions: number or array, places in the sequence, from 0.
        dims: int or int array, broadcastable with `positions`, from 0 to d_model - 1.
        d_model: int, D.

    Returns:
        float64 numpy array of the broadcast shape.

    Raises:
        ValueError: if d_model is not an integer >= 1.

    Example:
        >>> get_angles(np.array([[0], [1]]), np.array([[0, 1, 2, 3]]), 4).tolist()
        [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.01, 0.01]]

    Source: "Attention Is All You Need", section 3.5.
    """
    check_positive("d_model", d_model)
    rates = 1.0 / np.power(BASE, 2 * (np.asarray(dims) // 2) / d_model)
    return np.asarray(positions, dtype="float64") * rates


def positional_encoding(length, d_model, layout="interleaved"):
    """Tabulate the sinusoidal position vectors.

    Args:
        length: int, the number of positions T.
        d_model: int, D; odd values work (the last sine has no cosine beside it).
        layout: "interleaved": sin, cos, sin, cos, ... as in the paper's formula;
            "concat": all sines, then all cosines. The same numbers in another order.

    Returns:
        float32 numpy array (1, T, D), values in [-1, 1].

    Raises:
        ValueError: if length or d_model is not an integer >= 1, or the layout is unknown.

    Example:
        >>> positional_encoding(2, 4)[0].astype(float).round(2).tolist()
        [[0.0, 1.0, 0.0, 1.0], [0.84, 0.54, 0.01, 1.0]]

    Source: "Attention Is All You Need", section 3.5.
    """
    check_positive("length", length)
    check_choice("layout", layout, LAYOUTS)
    angles = get_angles(np.arange(length)[:, None], np.arange(d_model)[None, :], d_model)
    sines, cosines = np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])
    if layout == "concat":
        table = np.concatenate([sines, cosines], axis=-1)
    else:
        table = np.empty_like(angles)
        table[:, 0::2], table[:, 1::2] = sines, cosines
    return table[None].astype("float32")  # (T, D) -> (1, T, D)


def apply_rotary(x, positions=None):
    """Rotate each pair of features by an angle that grows with the position.

    Features i and i + K/2 form a pair. After rotation the product of a query and a key
    depends on what they hold and on the signed offset of their positions, not on the
    positions themselves. Lengths of vectors do not change.

    Args:
        x: float tensor (B, H, T, K), queries or keys; K is even.
        positions: int tensor (T,) or (B, T); default: 0, 1, ..., T - 1.

    Returns:
        tensor (B, H, T, K), dtype of `x`; the angles are float32.

    Raises:
        ValueError: if K is odd.

    Example:
        >>> x = np.ones((1, 1, 2, 2), "float32")
        >>> np.array(apply_rotary(x))[0, 0].astype(float).round(2).tolist()  # cos - sin, sin + cos
        [[1.0, 1.0], [-0.3, 1.38]]

    Source: Su et al., "RoFormer" (2021), section 3.2.2.
    """
    head_dim = x.shape[-1]
    if head_dim % 2:
        raise ValueError(f"x must have an even last size, got {head_dim}.")
    if positions is None:
        # Counted, not made by `arange`: in a symbolic call the length may be unknown.
        positions = ops.cumsum(ops.ones_like(x[0, 0, :, 0], dtype="int32")) - 1
    rates = BASE ** (-np.arange(head_dim // 2, dtype="float32") * 2 / head_dim)
    # (T,) or (B, T) -> (T, K/2) or (B, 1, T, K/2)
    angles = ops.expand_dims(ops.cast(positions, "float32"), -1) * rates
    if len(angles.shape) == 3:
        angles = ops.expand_dims(angles, 1)
    cosine, sine = ops.cast(ops.cos(angles), x.dtype), ops.cast(ops.sin(angles), x.dtype)
    first, second = x[..., : head_dim // 2], x[..., head_dim // 2 :]
    return ops.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=-1
    )


@keras.saving.register_keras_serializable("tfgpt")
class PositionalEmbedding(keras.layers.Layer):
    """Embed tokens and add their positions: sqrt(D) x embedding + position.

    The layer has no attention mask. `training=True` turns on dropout of the sum.
    Table and positions are float32; the sum is cast to the compute dtype.

    Call: layer(token_ids, start=0). `start` is the position of the first token: an int
    scalar, or (B, 1) for rows that begin at different places; a position below 0, such
    as that of padding on the left, counts as 0.

    Args:
        vocab_size: int >= 1, V, the number of tokens.
        d_model: int >= 1, D.
        max_length: int >= 1, the longest sequence; not the vocabulary size.
        positions: "sinusoidal", "learned" or None (no positions added, for
            models whose attention is rotary).
        layout: order of the sinusoidal features, see `positional_encoding`.
        scale: bool, multiply the embeddings by sqrt(D), as the paper does.
        dropout: float in [0, 1).
        embeddings_initializer: initial values of both tables.

    Returns:
        float tensor (B, T, D).

    Raises:
        TypeError: if the ids are not integers.
        ValueError: if an id is outside [0, V), a position is beyond max_length, or an
            argument is outside its range. In a compiled function (`fit`, XLA) a wrong
            id or position gives NaN instead of an error.

    Example:
        >>> layer = PositionalEmbedding(vocab_size=10, d_model=4, max_length=8)
        >>> tuple(layer(np.array([[1, 2, 3]])).shape)
        (1, 3, 4)

    Source: "Attention Is All You Need", sections 3.4 and 3.5; notebook 03.
    """

    def __init__(
        self,
        vocab_size,
        d_model,
        max_length,
        *,
        positions="sinusoidal",
        layout="interleaved",
        scale=True,
        dropout=0.0,
        embeddings_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # Keras would round float placeholders of ids to half precision.
        self.autocast = False
        self.vocab_size = check_positive("vocab_size", vocab_size)
        self.d_model = check_positive("d_model", d_model)
        self.max_length = check_positive("max_length", max_length)
        check_choice("positions", positions, ("sinusoidal", "learned", None))
        check_choice("layout", layout, LAYOUTS)
        self.positions = positions
        self.layout = layout
        self.scale = scale
        self.dropout = check_rate("dropout", dropout)
        # With the sqrt(D) factor, embeddings of standard deviation 1 / sqrt(D)
        # have the size of the sinusoidal values that are added to them.
        self.embeddings_initializer = keras.initializers.get(
            embeddings_initializer or keras.initializers.RandomNormal(stddev=self.d_model**-0.5)
        )
        self.sum_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy)

    def build(self, token_ids_shape):
        self.embeddings = self.add_weight(
            shape=(self.vocab_size, self.d_model),
            initializer=copy_initializer(self.embeddings_initializer),
            name="embeddings",
            autocast=False,
        )
        if self.positions == "learned":
            self.position_table = self.add_weight(
                shape=(self.max_length, self.d_model),
                initializer=copy_initializer(self.embeddings_initializer),
                name="position_embeddings",
                autocast=False,
            )
        elif self.positions == "sinusoidal":
            self.position_table = positional_encoding(self.max_length, self.d_model, self.layout)[0]

    def call(self, token_ids, start=0, training=None):
        check_token_ids("token_ids", token_ids, self.vocab_size)
        self.check_positions(token_ids, start)
        token_ids = ops.cast(token_ids, "int32")
        # (B, T) -> (B, T, D)
        x = ops.cast(ops.take(self.embeddings, token_ids, axis=0), "float32")
        if self.scale:
            x = x * self.d_model**0.5
        places = start + ops.arange(ops.shape(token_ids)[1], dtype="int32")  # (T,) or (B, T)
        if self.positions is not None:
            # (max_length, D) -> (T, D) or (B, T, D); a place outside is told below
            rows = ops.clip(places, 0, self.max_length - 1)
            x = x + ops.cast(ops.take(self.position_table, rows, axis=0), "float32")
        # Inside a compiled function nothing can be raised, and XLA reads a wrong row for
        # a wrong id or place: make the result, and so the loss, NaN instead.
        if concrete_values(token_ids) is None:
            x = ops.where(self.is_known(token_ids), x, float("nan"))
        if not isinstance(start, int) or token_ids.shape[1] is None:
            x = ops.where(ops.expand_dims(places < self.max_length, -1), x, float("nan"))
        return self.sum_dropout(ops.cast(x, self.compute_dtype), training=training)

    def is_known(self, token_ids):
        """Mark the ids that are in the vocabulary: (B, T) -> bool (B, T, 1)."""
        known = ops.logical_and(token_ids >= 0, token_ids < self.vocab_size)
        return ops.expand_dims(known, -1)

    def check_positions(self, token_ids, start):
        """Raise if a position is known to be beyond the table."""
        length, first = token_ids.shape[1], concrete_values(start)
        if not isinstance(length, int) or first is None:
            return
        first = max(int(first.max()), 0)
        if first + length > self.max_length:
            raise ValueError(
                f"token_ids must have at most max_length={self.max_length} positions, "
                f"got {length}{f' from start={first} on' if first else ''}."
            )

    def logits(self, hidden):
        """Score every token by its embedding: (B, T, D) -> float32 (B, T, V)."""
        kernel = ops.transpose(ops.cast(self.embeddings, hidden.dtype))
        return to_float32(ops.matmul(hidden, kernel))

    def compute_output_shape(self, token_ids_shape):
        return (*token_ids_shape, self.d_model)

    def compute_output_spec(self, token_ids, start=0, training=None):
        self.check_positions(token_ids, start)
        return keras.KerasTensor((*token_ids.shape, self.d_model), dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "vocab_size": self.vocab_size,
            "d_model": self.d_model,
            "max_length": self.max_length,
            "positions": self.positions,
            "layout": self.layout,
            "scale": self.scale,
            "dropout": self.dropout,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }
