"""Split weights, optimizer and batches over devices, on the JAX backend.

A rule for each kind of weight says which dimension is split over which axis of the
devices. XLA splits the computation and adds the communication; no layer knows of it.
Shape letters: B batch, T length, D model width, V vocabulary.

Several processes: call `keras.distribution.initialize` first, then use `parallel` or
`keras.distribution.DataParallel` as in one process; `fit` takes a `tf.data.Dataset` of
whole batches and gives each process its part. Weights that are split over processes must be
gathered by all of them before one writes them (`jax.experimental.multihost_utils`).

Pipeline parallel (each device holds other layers, parts of a batch pass through them in
turn) is not offered: Keras has none, and JAX has only the pieces to write one by hand
(`jax.shard_map`, `jax.lax.ppermute`). For a model larger than a device use
`shard_weights=True`, with `model_devices` if one layer is already large.
"""

import re

import keras
from keras import distribution

from tfgpt.validation import check_positive

AXES = BATCH, SEQUENCE, MODEL = ("batch", "sequence", "model")

# The end of a weight's path, and its split over the model axis; the first match counts.
# Columns, then rows: between the two products of a sublayer nothing is sent.
SPLITS = (
    (r"\w*attention/output/kernel", (MODEL, None)),  # (D, D)
    (r"\w*attention/output/bias", (None,)),  # added after the sum over the devices
    ("(query|key|value|expand)/kernel", (None, MODEL)),  # (D, D) or (D, dff)
    ("(query|key|value|expand)/bias", (MODEL,)),
    ("contract/kernel", (MODEL, None)),  # (dff, D)
    ("embedding/embeddings", (MODEL, None)),  # (V, D)
    ("output/kernel", (None, MODEL)),  # (D, V)
    ("output/bias", (MODEL,)),
)


def parallel(model_devices=1, sequence_devices=1, shard_weights=False, devices=None):
    """Make a distribution of a GPT or Transformer over the devices of the JAX backend.

    Set it with `keras.distribution.set_distribution(...)`, or use `with parallel(...).scope():`,
    before the model is made; then `fit`, `predict` and `tfgpt.generate` work as on one device
    and give the same numbers up to rounding. Batches are split over the devices that are left
    after `model_devices` and `sequence_devices`. Without arguments: data parallel.

    A weight that a split does not divide stays whole, such as the embeddings of 65 tokens over
    2 model devices; `bytes_per_device` shows what each device holds. Heads need not divide:
    the result is the same, but then scores are sent too. Batch size and length must divide,
    or JAX raises: use `batch(..., drop_remainder=True)`.

    Args:
        model_devices: int >= 1, devices that share each layer (tensor parallel): query, key,
            value and first feed-forward kernel by columns, the output kernels by rows,
            embeddings and head by vocabulary. Other layers than those of tfgpt stay whole.
        sequence_devices: int >= 1, devices that share each row of tokens (B, T) along T.
        shard_weights: bool, split every matrix, and its slots in the optimizer, also over the
            devices that share the batch and the sequence (as FSDP and ZeRO do), each on its
            largest dimension that divides. Works for any Keras model.
        devices: list of names of `keras.distribution.list_devices()`; None: all.

    Returns:
        Parallel, a keras.distribution.ModelParallel.

    Raises:
        ValueError: if the backend is not JAX, or the numbers do not divide the devices.

    Example:
        >>> if keras.backend.backend() == "jax":
        ...     with parallel(shard_weights=True).scope():
        ...         layer = keras.layers.Dense(8)
        ...         assert layer(np.ones((8, 8))).shape == (8, 8)

    Source: Shoeybi et al., "Megatron-LM" (2019), section 3; Rajbhandari et al., "ZeRO" (2020),
    section 5; Xu et al., "GSPMD" (2021).
    """
    check_backend()
    shared = check_positive("model_devices", model_devices)
    shared *= check_positive("sequence_devices", sequence_devices)
    devices = distribution.list_devices() if devices is None else list(devices)
    if not devices or len(devices) % shared:
        raise ValueError(
            "model_devices x sequence_devices must divide the number of devices, got "
            f"{model_devices} x {sequence_devices} for {len(devices)} devices."
        )
    shape = (len(devices) // shared, sequence_devices, model_devices)
    return Parallel(distribution.DeviceMesh(shape, AXES, devices), shard_weights)


def check_backend():
    """Raise unless Keras runs on JAX."""
    backend = keras.backend.backend()
    if backend != "jax":
        raise ValueError(
            f"splitting a model needs the JAX backend, got {backend!r}: set KERAS_BACKEND=jax "
            "before Python starts (pip install tfgpt[jax]). For data parallel training on "
            "TensorFlow make model and optimizer in tf.distribute.MirroredStrategy().scope()."
        )


class Parallel(distribution.ModelParallel):
    """Say how weights and batches lie on a mesh of devices; `parallel` makes it.

    Args:
        device_mesh: keras.distribution.DeviceMesh with the axes "batch", "sequence", "model".
        shard_weights: bool, see `parallel`.
    """

    def __init__(self, device_mesh, shard_weights):
        super().__init__(layout_map=distribution.LayoutMap(device_mesh), batch_dim_name=BATCH)
        self.sizes = dict(zip(device_mesh.axis_names, device_mesh.shape, strict=True))
        self.shard_weights = shard_weights
        self.data_axes = [axis for axis in (BATCH, SEQUENCE) if self.sizes[axis] > 1]

    def get_variable_layout(self, variable):
        """Return the layout of a weight; Keras gives the optimizer's slots that of their weight."""
        if getattr(variable, "_layout", None) is not None:
            return variable._layout
        axes = self.split_for_model(variable.path, variable.shape)
        if self.shard_weights and len(axes) > 1:
            for axis in self.data_axes:
                axes = self.split_largest(axes, variable.shape, axis)
        return distribution.TensorLayout(axes, self.device_mesh)

    def split_for_model(self, path, shape):
        """Name the axis that each dimension is split over by its kind, or None."""
        whole = (None,) * len(shape)
        axes = next((axes for end, axes in SPLITS if re.fullmatch(f"(.*/)?{end}", path)), whole)
        pairs = list(zip(axes, shape, strict=True))
        if self.sizes[MODEL] == 1 or not all(self.divides(*pair) for pair in pairs):
            return whole
        return axes

    def split_largest(self, axes, shape, axis):
        """Split the largest dimension that is whole so far and divides over one more axis."""
        free = [d for d, size in enumerate(shape) if not axes[d] and self.divides(axis, size)]
        largest = max(free, key=lambda d: shape[d], default=None)
        return tuple(axis if d == largest else other for d, other in enumerate(axes))

    def divides(self, axis, size):
        """Say whether a dimension can be split evenly over an axis; None splits nothing."""
        return axis is None or size % self.sizes[axis] == 0

    def get_data_layout(self, data_shape):
        """Split rows over the batch axis and tokens over the sequence axis: (B, T, ...)."""
        axes = (BATCH, SEQUENCE, *(None for _ in data_shape[2:]))[: len(data_shape)]
        return distribution.TensorLayout(axes, self.device_mesh)


def bytes_per_device(variables):
    """Count what a list of variables takes on each device of this process.

    Args:
        variables: list of keras.Variable, such as `model.variables` or
            `model.optimizer.variables`.

    Returns:
        dict from the device's name to int, bytes.

    Raises:
        ValueError: if the backend is not JAX.

    Example:
        >>> if keras.backend.backend() == "jax":
        ...     variable = keras.Variable(np.zeros(10, "float32"))
        ...     assert list(bytes_per_device([variable]).values()) == [40]
    """
    check_backend()
    found = {}
    for variable in variables:
        for shard in variable.value.addressable_shards:
            name = f"{shard.device.platform}:{shard.device.id}"
            found[name] = found.get(name, 0) + shard.data.nbytes
    return found
