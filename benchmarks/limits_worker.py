"""What the machine can do: operations of a large matmul, bytes read from memory."""

import tensorflow as tf

from benchmarks.worker import Job, repeat

MATRIX = 4096
FLOATS = 2**28  # 1 GiB, far more than any cache


def make_job(settings):
    """Make a job whose units are 10^9 operations, or 10^9 bytes."""
    if settings["operation"] == "matmul":
        matrix = tf.cast(tf.random.normal((MATRIX, MATRIX)), settings["precision"])
        call = tf.function(lambda: tf.matmul(matrix, matrix)[0, 0])
        units = 2 * MATRIX**3 / 1e9
    else:
        values = tf.random.uniform((FLOATS,))
        call = tf.function(lambda: tf.reduce_max(values))
        units = 4 * FLOATS / 1e9
    return Job(repeat(call, wait), ("tensorflow",), units=units)


def wait(result):
    """Wait until the result is there."""
    result.numpy()
