"""Several processes of one training: who they are, and what the first one tells the others.

Each process finds its place in TF_CONFIG; see `tfgpt.tasks.launch`. All run the same program
and read the same batches; the chief alone writes.
"""

import functools
import json
import os

from tfgpt.replicas import first_of, sum_over_all


def strategy_of_environment():
    """Make the strategy of the processes that TF_CONFIG lists.

    Call it in every process before TensorFlow is used for anything else, and make model and
    optimizer in its scope.

    Returns:
        tf.distribute.MultiWorkerMirroredStrategy; None without TF_CONFIG.

    Raises:
        ValueError: if TF_CONFIG is no JSON object.
    """
    if not read_tf_config().get("cluster"):
        return None
    import tensorflow as tf

    return tf.distribute.MultiWorkerMirroredStrategy()


def is_chief():
    """Say whether this process writes for all: the chief, else worker 0, or the only one.

    Raises:
        ValueError: if TF_CONFIG is no JSON object.
    """
    content = read_tf_config()
    task = content.get("task", {})
    if "chief" in content.get("cluster", {}):
        return task.get("type") == "chief"
    return int(task.get("index", 0)) == 0


def is_one_of_several():
    """Say whether TF_CONFIG lists more than one process."""
    cluster = read_tf_config().get("cluster", {})
    return sum(len(hosts) for hosts in cluster.values()) > 1


def read_tf_config():
    """Return what TF_CONFIG holds: dict, empty without it."""
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        raise ValueError(
            f"TF_CONFIG must be a JSON object with cluster and task, got {text!r}: see "
            "tfgpt.tasks.launch."
        ) from None


def from_chief(strategy, number):
    """Return the number that the chief has, in every process.

    What depends on the clock or the files of one process, such as the end of a training
    after some minutes, must be the same everywhere: a process that goes on alone waits for
    the others for ever. All processes must call it at the same point.

    Args:
        strategy: tf.distribute strategy, or None.
        number: int, float or bool, the number of this process.

    Returns:
        float.
    """
    if strategy is None:
        return float(number)
    return float(chief_program(strategy)(float(number)))


@functools.cache
def chief_program(strategy):
    """Make the function of `from_chief` for one strategy, compiled once."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((), tf.float64)])
    def program(number):
        return first_of(strategy, strategy.run(lambda x: sum_of_first([x])[0], args=(number,)))

    return program


def copy_from_chief(strategy, variables):
    """Give variables the values that they have in the chief, in every process.

    So only the chief needs the files of a checkpoint. All processes must call it at the same
    point.

    Args:
        strategy: tf.distribute strategy, or None: nothing to do.
        variables: list of Keras variables, such as those of a model and its optimizer.
    """
    if strategy is None:
        return
    import tensorflow as tf

    @tf.function
    def program():
        values = strategy.run(lambda: sum_of_first([tf.identity(v.value) for v in variables]))
        return [first_of(strategy, value) for value in values]

    for variable, value in zip(variables, program(), strict=True):
        variable.assign(value)


def sum_of_first(values):
    """Give every replica the tensors of the first one: those of the others count as 0."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    is_first = tf.equal(context.replica_id_in_sync_group, 0)
    values = [tf.where(is_first, value, tf.zeros_like(value)) for value in values]
    return sum_over_all(context, values)
