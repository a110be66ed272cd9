"""A batch in parts: one after the other in less memory, or on several devices at once.

Either way loss, accuracy and gradients are those of the whole batch: a part counts by its
share of the real tokens, so that padding may be spread unevenly. The devices belong to a
tf.distribute strategy: those of one machine, or of several that TF_CONFIG lists.
"""

import contextlib
import contextvars
import functools

from tfgpt.losses import IGNORED_IDS, real_tokens

SUPPORTED = "tf.distribute.MirroredStrategy and tf.distribute.MultiWorkerMirroredStrategy"


def strategy_of(model):
    """Find the tf.distribute strategy in whose scope a model was made.

    Args:
        model: built Keras model.

    Returns:
        the strategy, or None.

    Raises:
        RuntimeError: if it is a strategy that no test covers, or a scope is active now.
    """
    import tensorflow as tf

    check_outside_scope()
    values = [variable.value for variable in model.variables]
    shared = [v for v in values if isinstance(v, tf.distribute.DistributedValues)]
    if not shared:
        return None
    strategy = shared[0].distribute_strategy
    known = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
    if not isinstance(strategy, known):
        raise RuntimeError(
            f"model must belong to no other strategies than {SUPPORTED}, got "
            f"{type(strategy).__name__}: use one of them, or none."
        )
    return strategy


def check_outside_scope():
    """Raise if the scope of a tf.distribute strategy is active."""
    import tensorflow as tf

    if tf.distribute.has_strategy():
        raise RuntimeError(
            "strategy.scope() must be left before training: make the model and its optimizer in "
            "the scope, then make and call the step outside; it finds the strategy by itself."
        )


def scope_of(strategy):
    """Return the scope of a strategy, as a context; of None, a context that does nothing."""
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def check_same_strategy(optimizer, strategy):
    """Raise unless an optimizer was made in the scope of a strategy, or outside for None."""
    import tensorflow as tf

    for value in (variable.value for variable in optimizer.variables):
        is_shared = isinstance(value, tf.distribute.DistributedValues)
        if (value.distribute_strategy if is_shared else None) is not strategy:
            place = "outside of strategy.scope()" if strategy is None else "in strategy.scope()"
            raise ValueError(
                f"optimizer must be made where the model was, {place}, got "
                f"{type(optimizer).__name__} that was made elsewhere: pass its name, or make it "
                "there."
            )


def ignored_id_of(strategy, pad_id):
    """Return the target id that does not count; under a strategy, rows of it fill up a batch."""
    return IGNORED_IDS[0] if strategy is not None and pad_id is None else pad_id


def rows_of_each(strategy, batch_size):
    """Return how many rows each replica of a strategy measures, filled rows included."""
    return batch_size if strategy is None else -(-batch_size // strategy.num_replicas_in_sync)


def split_rows(x, parts):
    """Split the rows into equal parts: (B, ...) -> (parts, B / parts, ...)."""
    import tensorflow as tf

    return tf.reshape(x, tf.concat([[parts, -1], tf.shape(x)[1:]], axis=0))


def fill_rows(inputs, targets, replicas, pad_id):
    """Append rows that do not count, until the replicas can share the batch.

    Args:
        inputs: structure of tensors (B, ...); the first row is repeated.
        targets: int tensor (B, T).
        replicas: int >= 1.
        pad_id: int, the target id that does not count.

    Returns:
        inputs and targets, with a number of rows that `replicas` divides.
    """
    import tensorflow as tf

    missing = -tf.shape(targets)[0] % replicas
    inputs = tf.nest.map_structure(
        lambda x: tf.concat([x, tf.repeat(x[:1], missing, axis=0)], axis=0), inputs
    )
    return inputs, tf.pad(targets, [[0, missing], [0, 0]], constant_values=pad_id)


def count_tokens(targets, pad_id):
    """Count the real targets: float32 scalar, at least 1."""
    import tensorflow as tf

    return tf.maximum(tf.reduce_sum(real_tokens(targets, pad_id)), 1.0)


def on_replicas(strategy, measure, pad_id, random_states=()):
    """Make the function that measures a batch on all replicas of a strategy at once.

    Args:
        strategy: tf.distribute strategy, whose replicas each hold all weights; None: this
            device alone.
        measure: function (inputs, targets, share, parts) -> loss, accuracy, gradients, all
            of them times share; see `accumulated`.
        pad_id: int, the target id that does not count.
        random_states: list of Keras variables, see `random_states_of`.

    Returns:
        function (inputs, targets, parts) -> the sums over the replicas, each of which
        measures its rows in `parts` parts. Every process gets the whole batch.
    """
    import tensorflow as tf

    if strategy is None:
        return functools.partial(accumulated, measure, pad_id)
    replicas = strategy.num_replicas_in_sync

    def measure_own(inputs, targets, tokens, parts):
        context = tf.distribute.get_replica_context()
        own = context.replica_id_in_sync_group
        inputs, targets = tf.nest.map_structure(lambda x: x[own], (inputs, targets))
        own_share = tf.reduce_sum(real_tokens(targets, pad_id)) / tokens

        def measure_part(inputs, targets, share, parts):
            return measure(inputs, targets, own_share * share, parts * replicas)

        with own_random_numbers(random_states, own):
            results = accumulated(measure_part, pad_id, inputs, targets, parts)
        return sum_found(context, results)

    def measure_whole(inputs, targets, parts):
        tokens = count_tokens(targets, pad_id)
        batch = fill_rows(inputs, targets, replicas, pad_id)
        # (B, ...) -> (replicas, B / replicas, ...)
        batch = tf.nest.map_structure(lambda x: split_rows(x, replicas), batch)
        # Replicas run in threads, which do not inherit context variables: see `parts`.
        inherited = contextvars.copy_context()
        results = strategy.run(
            lambda *arguments: inherited.copy().run(measure_own, *arguments),
            args=(*batch, tokens, parts),
        )
        return tf.nest.map_structure(lambda x: first_of(strategy, x), results)

    return measure_whole


def random_states_of(model):
    """List the states of a model's random numbers: Keras counts them as variables, not weights."""
    weights = {id(weight) for weight in model.weights}
    others = [variable for variable in model.variables if id(variable) not in weights]
    return [v for v in others if tuple(v.shape) == (2,) and "int" in v.dtype]


@contextlib.contextmanager
def own_random_numbers(states, replica_id):
    """Draw other numbers on each replica in this block: dropout must not repeat itself.

    Between steps all replicas have the same state, so that a checkpoint needs one.
    """
    import tensorflow as tf

    for state in states:  # (seed, number of draws)
        state.value.assign_add(tf.cast([replica_id, 0], state.dtype))
    yield
    for state in states:
        state.value.assign_sub(tf.cast([replica_id, 0], state.dtype))


@contextlib.contextmanager
def exchange_errors_named():
    """Say in a short error why replicas could not add up, where TensorFlow writes a page."""
    import tensorflow as tf

    errors = tf.errors
    try:
        yield
    except (errors.UnavailableError, errors.AbortedError) as error:
        reason = next((x for x in error.message.splitlines() if "aborted by" in x), error.message)
        raise RuntimeError(
            f"Another process of this training has ended ({reason[:200]}): start all of them again "
            "with resume=True; the last checkpoint is kept."
        ) from None
    except errors.InvalidArgumentError as error:
        if "Shape mismatch in the collective" not in error.message:
            raise
        # TensorFlow numbers the exchanges of each strategy anew, and mixes up the numbers.
        raise RuntimeError(
            "A program can use one tf.distribute strategy for its devices, got a second one: make "
            "it once and use its scope again, or restart Python."
        ) from None


def sum_found(context, results):
    """Add up the tensors of a structure over all replicas; None stays."""
    import tensorflow as tf

    parts = tf.nest.flatten(results)
    sums = iter(sum_over_all(context, [x for x in parts if x is not None]))
    return tf.nest.pack_sequence_as(results, [None if x is None else next(sums) for x in parts])


def sum_over_all(context, tensors):
    """Add up a list of tensors over all replicas, in one exchange for each dtype."""
    import tensorflow as tf

    sums = {}
    for dtype in dict.fromkeys(x.dtype for x in tensors):  # in one order everywhere
        group = [x for x in tensors if x.dtype == dtype]
        sums[dtype] = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, group))
    return [next(sums[x.dtype]) for x in tensors]


def first_of(strategy, value):
    """Return the value of the first replica of this process: after a sum they are equal."""
    return None if value is None else strategy.experimental_local_results(value)[0]


def accumulated(measure, pad_id, inputs, targets, parts):
    """Measure a batch part by part: the result is that of the whole batch.

    Args:
        measure: function (inputs, targets, share, parts) -> loss, accuracy, gradients.
        pad_id: int or None, the target id that does not count.
        inputs: structure of tensors (B, ...).
        targets: int tensor (B, T).
        parts: int >= 1, a divisor of B.

    Returns:
        what `measure` returns: loss, accuracy, and the list of gradients.
    """
    import tensorflow as tf

    if parts == 1:
        return measure(inputs, targets, 1.0, 1)
    tokens = count_tokens(targets, pad_id)
    # (B, ...) -> (parts, B / parts, ...)
    batch = tf.nest.map_structure(lambda x: split_rows(x, parts), (inputs, targets))

    def measure_part(index):
        part_inputs, part_targets = tf.nest.map_structure(lambda x: x[index], batch)
        share = tf.reduce_sum(real_tokens(part_targets, pad_id)) / tokens
        return measure(part_inputs, part_targets, share, parts)

    # The first part shows which weights get a gradient at all.
    loss, accuracy, gradients = measure_part(0)
    reached = [gradient is not None for gradient in gradients]

    def add_part(index, *sums):
        loss, accuracy, gradients = measure_part(index)
        found = [gradient for gradient in gradients if gradient is not None]
        return index + 1, *(a + b for a, b in zip(sums, (loss, accuracy, *found), strict=True))

    start = (loss, accuracy, *(gradient for gradient in gradients if gradient is not None))
    _, loss, accuracy, *sums = tf.while_loop(
        lambda index, *sums: index < parts, add_part, (1, *start), parallel_iterations=1
    )
    sums = iter(sums)
    return loss, accuracy, [next(sums) if found else None for found in reached]
