"""What a program costs, read from its graph and from a profile. Notebooks 09 and 11.

A graph lists every operation with its shapes before anything runs; a profile lists what ran.
"""

import math
import re
import tempfile
from collections import Counter
from pathlib import Path

import tensorflow as tf

from tfgpt.losses import masked_loss


def count_flops(function):
    """Count the operations of all matrix products in a graph.

    A product of (m, k) and (k, n) takes 2 m k n: a multiplication and an addition each.

    Args:
        function: tf.function without arguments, of known shapes.

    Returns:
        int, additions and multiplications of one call. What is not a matrix product
        (sums, softmax, norms) is left out.

    Raises:
        ValueError: if the graph holds an Einsum, whose products are not listed.

    Example:
        >>> count_flops(tf.function(lambda: tf.ones((2, 3)) @ tf.ones((3, 5))))
        60

    Source: Kaplan et al., "Scaling Laws for Neural Language Models", section 2.1; notebook 09.
    """
    total = 0
    for operation in function.get_concrete_function().graph.get_operations():
        if operation.type == "Einsum":
            raise ValueError(
                f"function must hold plain matrix products, got an Einsum, {operation.name}: "
                "write it with matmul."
            )
        if "MatMul" in operation.type:
            # A product knows by one of two names whether its first input is turned.
            turned = any(operation.node_def.attr[name].b for name in ("transpose_a", "adj_x"))
            inner = operation.inputs[0].shape[-2 if turned else -1]
            total += 2 * inner * math.prod(operation.outputs[0].shape)
    return total


def count_kept_bytes(model, inputs, targets):
    """Count the bytes that a training step keeps from the forward pass for the backward pass.

    Args:
        model: Keras model, built, that gives logits (B, T, V).
        inputs: int array (B, T).
        targets: int array (B, T).

    Returns:
        int, the bytes of all floating results of the forward pass that gradients read;
        weights are not counted.

    Example:
        >>> import numpy as np
        >>> model = tf.keras.Sequential([tf.keras.layers.Embedding(5, 2), tf.keras.layers.Dense(5)])
        >>> ids = np.array([[1, 2, 3]])
        >>> count_kept_bytes(model, ids, ids) > 0
        True

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost"; notebook 11.
    """
    kept = {}

    @tf.function
    def step(inputs, targets):
        graph = tf.compat.v1.get_default_graph()
        with tf.GradientTape() as tape:
            loss = masked_loss(targets, model(inputs, training=True))
        forward = set(graph.get_operations())
        gradients = tape.gradient(loss, model.trainable_variables)
        backward = set(graph.get_operations()) - forward
        kept.update(kept_tensors(forward, backward))
        return gradients

    step.get_concrete_function(tf.constant(inputs), tf.constant(targets))
    return sum(kept.values())


def kept_tensors(forward, backward):
    """Return the bytes of each result of `forward` that an operation of `backward` reads."""
    inputs = [source_of(tensor) for operation in backward for tensor in operation.inputs]
    return {
        tensor.name: (tensor.shape.num_elements() or 0) * tensor.dtype.size
        for tensor in inputs
        if tensor.op in forward and tensor.dtype.is_floating and tensor.op.type != "ReadVariableOp"
    }


def source_of(tensor):
    """Go back over reshapes: a reshaped tensor is no new memory."""
    while tensor.op.type in ("Identity", "Reshape"):
        tensor = tensor.op.inputs[0]
    return tensor


def profile_operations(run):
    """Run a function under TensorFlow's profiler and add up its operations by kind.

    Args:
        run: function without arguments.

    Returns:
        pair of Counters by kind of operation: milliseconds, and how often it was started.
        Operations may run at the same time, so the sum can exceed the time of the run.

    Raises:
        ImportError: if this TensorFlow does not hold the format of its profiles.

    Source: TensorFlow guide, "Optimize TensorFlow performance using the Profiler"; notebook 11.
    """
    space_type = profile_format()
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        run()
        tf.profiler.experimental.stop()
        (file,) = Path(folder).rglob("*.xplane.pb")
        space = space_type.FromString(file.read_bytes())
    milliseconds, starts = Counter(), Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                kind = kind_of(plane.event_metadata[event.metadata_id].name)
                if kind:
                    milliseconds[kind] += event.duration_ps / 1e9
                    starts[kind] += 1
    return milliseconds, starts


def profile_format():
    """Return the class that reads a profile; its place is not part of TensorFlow's promises."""
    try:
        from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace
    except ImportError as error:
        raise ImportError(
            "This TensorFlow keeps the format of profiles elsewhere: open the profile with "
            "TensorBoard (pip install tensorboard-plugin-profile)."
        ) from error
    return XSpace


def kind_of(event_name):
    """Return the kind of operation in the name of an event, or None for other events."""
    if "Executable::Execute" in event_name:
        return "a program of XLA"
    found = re.fullmatch(r"[^:]+:(_?[A-Z]\w*)", event_name)  # place:Kind
    return found[1] if found else None
