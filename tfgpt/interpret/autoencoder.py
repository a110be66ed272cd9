"""A sparse autoencoder: states as sums of a few directions out of many.

Shape letters: N states, D features of a state, M directions.
"""

import keras
import numpy as np
from keras import ops

from tfgpt.validation import check_positive


class SparseAutoencoder(keras.Model):
    """Write each state as a sum of a few of M directions: relu((x - c) E + b) W + c.

    The rows of W have length 1. The loss is the squared error of a state plus `sparsity`
    times the sum of its codes. Compile it without a loss, and fit it on states:

        model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
        model.fit(states, batch_size=256, epochs=10)

    Call: model(x) -> reconstructions, float32 (..., D).

    Args:
        d_model: int, D.
        size: int, M, usually larger than D.
        sparsity: float >= 0, the price of a code.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> model = SparseAutoencoder(d_model=4, size=8, sparsity=0.1)
        >>> x = np.ones((2, 4), "float32")
        >>> tuple(model(x).shape), tuple(model.encode(x).shape)
        ((2, 4), (2, 8))

    Source: Bricken et al., "Towards Monosemanticity" (2023), section "Sparse autoencoders".
    """

    def __init__(self, d_model, size, sparsity):
        super().__init__(dtype="float32", name="sparse_autoencoder")
        self.d_model = check_positive("d_model", d_model)
        self.size = check_positive("size", size)
        if not sparsity >= 0:
            raise ValueError(f"sparsity must be >= 0, got {sparsity!r}.")
        self.sparsity = sparsity
        self.encoder = self.add_weight((self.d_model, self.size), "orthogonal", name="encoder")
        self.bias = self.add_weight((self.size,), "zeros", name="bias")
        unit_rows = keras.constraints.UnitNorm(axis=1)
        shape = (self.size, self.d_model)
        self.decoder = self.add_weight(shape, "zeros", name="decoder", constraint=unit_rows)
        self.centre = self.add_weight((self.d_model,), "zeros", name="centre")
        # Each direction begins where its code looks.
        self.decoder.assign(ops.normalize(ops.transpose(self.encoder), axis=1))
        self.built = True

    def call(self, x, training=None):
        codes = self.encode(x)  # (..., D) -> (..., M)
        output = self.decode(codes)  # (..., M) -> (..., D)
        if training:
            error = ops.sum(ops.square(x - output), axis=-1)
            self.add_loss(ops.mean(error + self.sparsity * ops.sum(codes, axis=-1)))
        return output

    def encode(self, x):
        """Return the codes of states, none negative: (..., D) -> (..., M)."""
        x = ops.cast(x, "float32") - self.centre
        return ops.relu(ops.matmul(x, self.encoder) + self.bias)

    def decode(self, codes):
        """Return the states of codes: (..., M) -> (..., D)."""
        return ops.matmul(codes, self.decoder) + self.centre

    def measure(self, states):
        """Measure the autoencoder on states.

        Args:
            states: float array (N, D).

        Returns:
            dict: "unexplained", the squared error over the variance, 0 to 1; "active", the
            mean number of codes > 0 of a state (L0); "dead", how many of the M codes are 0
            on all states.
        """
        states = ops.convert_to_numpy(states).astype("float32")
        codes = ops.convert_to_numpy(self.encode(states))
        error = states - ops.convert_to_numpy(self.decode(codes))
        return {
            "unexplained": float(np.sum(error**2) / np.sum((states - states.mean(axis=0)) ** 2)),
            "active": float((codes > 0).sum(axis=1).mean()),
            "dead": int((codes <= 0).all(axis=0).sum()),
        }


def toy_states(directions, count, active=1.0, seed=0):
    """Make states whose true features are known: sparse sums of more directions than features.

    Args:
        directions: float array (F, D), F true features, rows of length 1.
        count: int, N.
        active: float > 0, how many features a state has on average.
        seed: int.

    Returns:
        states, float32 (N, D); codes, float32 (N, F), 0 or uniform in [0.5, 1.5].
    """
    rng, features = np.random.default_rng(seed), len(directions)
    present = rng.random((check_positive("count", count), features)) < active / features
    codes = (present * rng.uniform(0.5, 1.5, present.shape)).astype("float32")
    return codes @ np.asarray(directions, dtype="float32"), codes


def found_directions(decoder, directions):
    """Measure how well each true direction was found: its best cosine with a row of W.

    Args:
        decoder: float array (M, D).
        directions: float array (F, D).

    Returns:
        float array (F,), -1 to 1.

    Example:
        >>> found_directions(np.eye(2), [[0.0, 3.0]]).tolist()
        [1.0]
    """
    unit = [
        rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for rows in (ops.convert_to_numpy(decoder), np.asarray(directions))
    ]
    return (unit[1] @ unit[0].T).max(axis=1)
