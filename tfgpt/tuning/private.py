"""Differentially private training: no single example can move the weights by much.

DP-SGD: the gradient of each example is clipped, and noise is added to their sum. P weights.
"""

import keras
import numpy as np

from tfgpt.losses import weighted_losses
from tfgpt.validation import check_positive


def make_private_step(model, optimizer, *, batch_size, clip_norm=1.0, noise_multiplier=1.0, seed=0):
    """Make the function that learns from one batch with DP-SGD.

    Each example's loss is the mean over its real tokens. Its gradient is shortened to
    `clip_norm`; the sum gets normal noise of deviation noise_multiplier x clip_norm and is
    divided by `batch_size`. The gradients of all examples are in memory at once: 4 B P bytes.
    `privacy_spent` says what this promises for batches of `poisson_batches`. Losses that
    layers add are left out; one device.

    The noise comes from TensorFlow's generator with a known seed: good for learning and
    measuring. To guard real secrets, the seed must be secret and the generator a
    cryptographic one.

    Args:
        model: built Keras model; inputs -> logits (B, T, V), with no layer that mixes
            examples, such as batch normalisation.
        optimizer: Keras optimizer.
        batch_size: int >= 1, the expected number of examples of a batch.
        clip_norm: float > 0, the largest norm of an example's gradient.
        noise_multiplier: float >= 0; 0: no noise, and no privacy.
        seed: int >= 0, of the noise.

    Returns:
        step((inputs, targets)) -> dict of scalars: "loss" (the mean over the examples, nats
        per token) and "clipped" (the share of examples whose gradient was shortened).
        Rows of padding are no examples. Both numbers come without noise: for your eyes only.

    Raises:
        ValueError: if an argument is outside its range.
        RuntimeError: if the Keras backend is not TensorFlow.

    Source: Abadi et al., "Deep Learning with Differential Privacy" (2016), algorithm 1;
    notebook 22.
    """
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"make_private_step needs the TensorFlow backend, got {keras.backend.backend()!r}."
        )
    check_positive("batch_size", batch_size)
    if not clip_norm > 0 or not noise_multiplier >= 0:
        raise ValueError(
            "clip_norm must be > 0 and noise_multiplier >= 0, got "
            f"{clip_norm!r} and {noise_multiplier!r}."
        )
    optimizer.build(model.trainable_variables)
    variables = [variable.value for variable in model.trainable_variables]
    pad_id = getattr(model, "pad_id", None)
    generator = tf.random.Generator.from_seed(seed)

    def privatise(gradients, factors):
        """Add up the shortened gradients of the examples, and noise: (B, ...) -> (...)."""
        total = tf.tensordot(factors, gradients, axes=1)
        noise = generator.normal(total.shape, stddev=noise_multiplier * clip_norm)
        return (total + noise) / batch_size

    @tf.function(reduce_retracing=True)
    def step(inputs, targets):
        with tf.GradientTape(persistent=True) as tape:
            losses, real = example_losses(targets, model(inputs, training=True), pad_id)  # (B,)
        rows = tf.shape(losses)[0]

        def gradients_of(row):
            """Go back from one loss alone; dense, so that the norm counts a row of a table once."""
            alone = tf.one_hot(row, rows)
            found = tape.gradient(losses, variables, alone, unconnected_gradients="zero")
            return [tf.convert_to_tensor(gradient) for gradient in found]

        gradients = tf.vectorized_map(gradients_of, tf.range(rows))  # of each weight (B, ...)
        squares = [tf.reduce_sum(tf.reshape(g, (rows, -1)) ** 2, axis=1) for g in gradients]
        norms = tf.sqrt(tf.add_n(squares))  # (B,)
        factors = tf.minimum(1.0, clip_norm / norms)
        optimizer.apply([privatise(g, factors) for g in gradients], model.trainable_variables)
        examples = tf.maximum(tf.reduce_sum(real), 1.0)
        return {
            "loss": tf.reduce_sum(losses) / examples,
            "clipped": tf.reduce_sum(tf.cast(norms > clip_norm, "float32")) / examples,
        }

    return lambda batch: step(*(tf.cast(part, tf.int32) for part in batch))


def example_losses(targets, logits, pad_id):
    """Average the losses of each row over its real tokens; mark rows that have one: (B,) each."""
    losses, weights = weighted_losses(targets, logits, pad_id, 0.0)
    counts = keras.ops.sum(weights, axis=-1)
    means = keras.ops.sum(losses, axis=-1) / keras.ops.maximum(counts, 1.0)
    return means, keras.ops.cast(counts > 0, "float32")


def poisson_batches(inputs, targets, batch_size, steps, seed=0, pad_id=0):
    """Draw batches as the accounting of privacy needs it: each example by a coin of its own.

    The number of examples varies about `batch_size`. Rows of padding fill each batch up to
    a common size, so that nearly all have one shape.

    Args:
        inputs, targets: int arrays (N, T).
        batch_size: int in [1, N], the expected number of examples.
        steps: int >= 1.
        seed: int >= 0.
        pad_id: int, what the rows of padding hold.

    Yields:
        (inputs, targets), int32 (B, T) each, `steps` times.

    Raises:
        ValueError: if a number is outside its range.

    Example:
        >>> rows = np.arange(1, 101)[:, None]
        >>> batches = list(poisson_batches(rows, rows, batch_size=9, steps=3))
        >>> [int((inputs > 0).sum()) for inputs, _ in batches], len(batches[0][0])
        ([9, 11, 9], 21)
    """
    check_positive("batch_size", batch_size)
    check_positive("steps", steps)
    if len(inputs) != len(targets) or batch_size > len(inputs):
        raise ValueError(
            f"batch_size must be at most N, the same for inputs and targets, got {batch_size} "
            f"with {len(inputs)} and {len(targets)} rows."
        )
    rng = np.random.default_rng(seed)
    room = batch_size + int(np.ceil(4 * np.sqrt(batch_size)))
    for _ in range(steps):
        chosen = np.flatnonzero(rng.random(len(inputs)) < batch_size / len(inputs))
        missing = max(-len(chosen) % room, room if not len(chosen) else 0)
        fill = ((0, missing), (0, 0))
        yield tuple(
            np.pad(np.asarray(part)[chosen], fill, constant_values=pad_id).astype("int32")
            for part in (inputs, targets)
        )


def privacy_spent(num_examples, batch_size, steps, noise_multiplier, delta):
    """Compute what DP-SGD promises: (epsilon, delta)-differential privacy of each example.

    With and without an example, the probability of any outcome differs by a factor of at
    most e^epsilon, but for a probability of delta. A text that stands n times is n
    examples: its epsilon is about n times as large. Needs the extra "privacy".

    Args:
        num_examples: int >= 1, N.
        batch_size: int in [1, N], expected, of `poisson_batches`.
        steps: int >= 1.
        noise_multiplier: float > 0.
        delta: float in (0, 1), well below 1 / N.

    Returns:
        float, epsilon >= 0; the smaller, the more private.

    Raises:
        ValueError: if an argument is outside its range.
        ImportError: if dp-accounting is missing.

    Source: Abadi et al. (2016); computed by Google's dp-accounting from the distribution of
    the privacy loss (Koskela et al., 2020).
    """
    for name, value in (("num_examples", num_examples), ("steps", steps)):
        check_positive(name, value)
    if not 1 <= batch_size <= num_examples or not noise_multiplier > 0 or not 0 < delta < 1:
        raise ValueError(
            f"batch_size must be in [1, {num_examples}], noise_multiplier > 0 and delta in (0, 1), "
            f"got {batch_size!r}, {noise_multiplier!r} and {delta!r}."
        )
    try:
        import dp_accounting
        from dp_accounting.pld import PLDAccountant
    except ImportError as error:
        message = 'privacy_spent needs dp-accounting: pip install "tfgpt[privacy]".'
        raise ImportError(message) from error
    noise = dp_accounting.GaussianDpEvent(noise_multiplier)
    step = dp_accounting.PoissonSampledDpEvent(batch_size / num_examples, noise)
    return PLDAccountant().compose(step, steps).get_epsilon(delta)
