"""The training step of the articles, completed.

One step: model -> masked loss -> gradients -> clip -> optimizer, traced once by
tf.function. TensorFlow only; on other backends use `model.fit`. Notebook 06.
"""

import keras
from keras import ops

from tfgpt.fused import REPLACEMENTS
from tfgpt.losses import IGNORED_IDS, masked_accuracy, masked_loss, real_tokens
from tfgpt.machine.devices import xla_works
from tfgpt.masks import policy_of
from tfgpt.parts import replaced
from tfgpt.replicas import (
    check_outside_scope,
    check_same_strategy,
    exchange_errors_named,
    ignored_id_of,
    on_replicas,
    random_states_of,
    rows_of_each,
    scope_of,
    strategy_of,
)
from tfgpt.validation import (
    check_choice,
    check_pad_id,
    check_positive,
    check_rectangular,
    check_token_ids,
)

# Batch shapes that a step in parts compiles; each takes a second or two.
MOST_SHAPES = 4


def make_train_step(
    model,
    optimizer,
    *,
    pad_id="auto",
    label_smoothing=0.0,
    clip_norm=1.0,
    jit_compile="parts",
    mixed_precision=None,
    accumulate=1,
    skip_nonfinite=False,
):
    """Make the function that learns from one batch.

    It does for model and optimizer what Keras's `fit` does: losses that layers add
    (regularizers, `add_loss`), constraints, frozen layers, the optimizer's own clipping
    and moving averages. Model and optimizer are built first, so the function is traced
    once for each batch shape. Batches hold (inputs, targets) with targets already shifted, see
    `tfgpt.data.shift`: for a GPT `shift(ids)`; for an encoder-decoder
    target_inputs, targets = shift(target_ids), and the batch is
    ({"source": source_ids, "target": target_inputs}, targets).

    A model that was made in the scope of a tf.distribute strategy is trained by all of its
    replicas, and learns what one device would learn from the same batch: each replica takes
    its share of the rows, and draws dropout of its own. Call the step outside of the scope,
    with whole batches; a program of several processes gives the same batch to each. Make one
    strategy in a program, and use it for all models.

    Args:
        model: built Keras model; inputs -> logits (B, T, V).
        optimizer: Keras optimizer, or its name; made in the scope that the model has.
        pad_id: int or None, the target id that does not count; "auto": the model's
            pad_id, or 0 if it has none. If id 0 is a real token of yours, pass None. With
            -100 only targets of -100 do not count, whatever the model's pad_id is.
        label_smoothing: float in [0, 1).
        clip_norm: float > 0, the largest global gradient norm; None: no limit.
        jit_compile: what XLA compiles. "parts": the element-wise parts and the update;
            the fastest on a CPU with mixed_precision="bfloat16", and for wide models; from
            the fifth batch shape on, nothing, since each shape is compiled anew.
            True: the whole step; fast for small models in float32, but each batch
            shape takes seconds to compile. False: nothing. Where XLA fails, a warning
            says so and nothing is compiled. Under a strategy the update is not compiled,
            and True is "parts".
        mixed_precision: None: keep the model's dtype policy; "bfloat16" or
            "float16": compute in it, with float32 weights, from now on; quantized
            layers stay as they are. float16 wraps the optimizer in a LossScaleOptimizer.
        accumulate: int >= 1, in how many parts a batch runs, one after the other, or in
            a few more if that does not divide its size. The result is that of the whole
            batch, in less memory. Under a strategy: the parts of each replica's rows.
        skip_nonfinite: bool, leave the weights as they are in a step whose gradient is NaN
            or infinite.

    Returns:
        step((inputs, targets)) -> dict of scalars: "loss" (nats per token, plus the
        losses that layers add), "accuracy" (0 to 1), "gradient_norm" (before clipping),
        "tokens" (real targets). `step.optimizer` is the optimizer in use,
        `step.experimental_get_tracing_count()` the number of traces.

    Raises:
        ValueError: if an argument is outside its range, pad_id is not the model's, or
            the model is not built, or the optimizer is of another scope; from the step:
            if an id is outside the vocabulary.
        RuntimeError: if the Keras backend is not TensorFlow, the scope of a strategy is
            active, or the strategy is neither MirroredStrategy nor
            MultiWorkerMirroredStrategy; from the step: if another process has
            ended, or the program has made a second strategy.

    Example:
        >>> import numpy as np
        >>> from tfgpt import GPT
        >>> model = GPT(10, context_length=4, num_layers=1, d_model=8, num_heads=2)
        >>> step = make_train_step(model, keras.optimizers.Adam(0.01))
        >>> losses = [float(step((np.array([[1, 2]]), np.array([[2, 3]])))["loss"]) for _ in "12"]
        >>> losses[1] < losses[0]
        True

    Source: "Attention Is All You Need", section 5; notebook 06.
    """
    import tensorflow as tf

    check_backend("make_train_step")
    strategy = strategy_of(model)
    check_choice("jit_compile", jit_compile, (False, True, "parts"))
    jit_compile = jit_compile if jit_compile and xla_works() else False
    accumulate = check_positive("accumulate", accumulate)
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm must be > 0 or None, got {clip_norm!r}.")
    pad_id = resolve_pad_id(model, pad_id)
    optimizer = prepare(model, optimizer, mixed_precision)
    variables = model.trainable_variables
    ignored_id = ignored_id_of(strategy, pad_id)

    def measure(inputs, targets, share, parts):
        """Return loss and accuracy times `share`, and the gradients of that loss.

        The losses that layers add count equally in all parts of a batch.
        """
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            loss = share * masked_loss(targets, logits, ignored_id, label_smoothing)
            loss = tf.add_n([loss, *(tf.cast(x, loss.dtype) / parts for x in model.losses)])
            scaled_loss = optimizer.scale_loss(loss)
        # Dense, so that the norm counts a row that is used twice only once.
        gradients = [
            None if gradient is None else tf.convert_to_tensor(gradient)
            for gradient in tape.gradient(scaled_loss, variables)
        ]
        return loss, share * masked_accuracy(targets, logits, ignored_id), gradients

    def update(gradients):
        """Clip and apply the gradients; return their norm before clipping."""
        gradients, norm = clip(gradients, clip_norm, scaled_loss_factor(optimizer))
        if skip_nonfinite:
            tf.cond(
                tf.math.is_finite(norm),
                lambda: optimizer.apply(gradients, variables),
                lambda: None,
            )
        else:
            optimizer.apply(gradients, variables)
        return norm

    measure_batch = on_replicas(strategy, measure, ignored_id, random_states_of(model))
    if strategy is not None:
        jit_compile = jit_compile and "parts"
    elif jit_compile == "parts":
        update = tf.function(update, jit_compile=True, autograph=False)

    def train_step(inputs, targets, parts):
        loss, accuracy, gradients = measure_batch(inputs, targets, parts)
        return {
            "loss": loss,
            "accuracy": accuracy,
            "gradient_norm": update(gradients),
            "tokens": tf.reduce_sum(real_tokens(targets, pad_id)),
        }

    run, count_traces = compile_step(train_step, jit_compile)

    def step(batch):
        check_outside_scope()
        inputs, targets = check_batch(model, batch, pad_id)
        rows = rows_of_each(strategy, len(targets))
        with exchange_errors_named():
            return run(inputs, targets, count_parts(rows, accumulate))

    step.optimizer = optimizer
    step.pad_id = pad_id
    step.experimental_get_tracing_count = count_traces
    return step


def make_loss_step(model, optimizer, loss, *, clip_norm=1.0):
    """Make the function that takes one step down a loss of your own.

    For what no pair (inputs, targets) can say: preferences, rewards, two models against each
    other. Gradients, clipping, frozen weights and adapters are those of `make_train_step`.
    One device; dropout is on only where the loss calls the model with training=True.

    Args:
        model: built Keras model.
        optimizer: Keras optimizer, or its name.
        loss: function (model, batch) -> dict of scalars; "loss" is made smaller, the others
            are only returned.
        clip_norm: float > 0, the largest global gradient norm; None: no limit.

    Returns:
        step(batch) -> the dict of the loss, with "gradient_norm" (before clipping). A batch
        is a tensor, or a dict, list or tuple of them; each new shape is traced.

    Raises:
        ValueError: if the model is not built or belongs to a tf.distribute strategy, or
            clip_norm is outside its range.
        RuntimeError: if the Keras backend is not TensorFlow.

    Example:
        >>> from tfgpt import GPT
        >>> model = GPT(10, context_length=4, num_layers=1, d_model=8, num_heads=2)
        >>> def loss(model, batch):
        ...     return {"loss": ops.mean(model(batch) ** 2)}
        >>> step = make_loss_step(model, keras.optimizers.Adam(0.01), loss)
        >>> losses = [float(step(ops.ones((1, 2), "int32"))["loss"]) for _ in "12"]
        >>> losses[1] < losses[0]
        True
    """
    import tensorflow as tf

    check_backend("make_loss_step")
    if strategy_of(model) is not None:
        raise ValueError("model must be made outside of the scope of a strategy.")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm must be > 0 or None, got {clip_norm!r}.")
    optimizer = prepare(model, optimizer)
    variables = model.trainable_variables

    @tf.function(reduce_retracing=True)
    def run(batch):
        with tf.GradientTape() as tape:
            results = loss(model, batch)
            total = tf.add_n([results["loss"], *model.losses])
            scaled_loss = optimizer.scale_loss(total)
        gradients = [
            None if gradient is None else tf.convert_to_tensor(gradient)
            for gradient in tape.gradient(scaled_loss, variables)
        ]
        gradients, norm = clip(gradients, clip_norm, scaled_loss_factor(optimizer))
        optimizer.apply(gradients, variables)
        return {**results, "loss": total, "gradient_norm": norm}

    def step(batch):
        return run(tf.nest.map_structure(tf.convert_to_tensor, batch))

    return step


def compile_step(train_step, jit_compile):
    """Make programs of a training step.

    With XLA every batch shape needs its own program. Without it, one program serves all
    lengths from the second shape on.

    Args:
        train_step: function of tensors and Python numbers.
        jit_compile: "parts", True or False; see `make_train_step`.

    Returns:
        the compiled function, and one that counts the traces.
    """
    import tensorflow as tf

    def train_step_in_parts(*arguments):
        with replaced(REPLACEMENTS):
            return train_step(*arguments)

    whole = tf.function(
        train_step, jit_compile=jit_compile is True, reduce_retracing=jit_compile is not True
    )
    in_parts = tf.function(train_step_in_parts, reduce_retracing=True)
    shapes = set()

    def run(inputs, targets, parts):
        shape = (*(tuple(x.shape) for x in tf.nest.flatten((inputs, targets))), parts)
        if jit_compile == "parts" and (shape in shapes or len(shapes) < MOST_SHAPES):
            shapes.add(shape)
            return in_parts(inputs, targets, parts)
        return whole(inputs, targets, parts)

    def count_traces():
        return sum(f.experimental_get_tracing_count() for f in (whole, in_parts))

    return run, count_traces


def clip(gradients, clip_norm, scale):
    """Shrink gradients to a global norm of at most clip_norm.

    Args:
        gradients: list of tensors or None, `scale` times the gradients of the loss.
        clip_norm: float > 0, or None: no limit.
        scale: number or tensor.

    Returns:
        the list, and the norm before, without the scale.
    """
    import tensorflow as tf

    # In float32 also for gradients in half precision: squares overflow early.
    found = [tf.cast(gradient, tf.float32) for gradient in gradients if gradient is not None]
    norm = tf.linalg.global_norm(found)
    if clip_norm is not None:
        limit = clip_norm * scale
        factor = limit * tf.minimum(1.0 / norm, 1.0 / limit)  # 1 up to the limit
        gradients = [
            None if gradient is None else gradient * tf.cast(factor, gradient.dtype)
            for gradient in gradients
        ]
    return gradients, norm / scale


def count_parts(batch_size, accumulate):
    """Return in how many equal parts a batch runs: at least `accumulate`, as far as it goes.

    Example:
        >>> [count_parts(batch_size, accumulate=4) for batch_size in (8, 9, 7, 3)]
        [4, 9, 7, 3]
    """
    if batch_size == 0:
        raise ValueError("a batch must have at least one row, got none.")
    return next(
        n for n in range(min(accumulate, batch_size), batch_size + 1) if batch_size % n == 0
    )


def resolve_pad_id(model, pad_id):
    """Return the target id that does not count: the model's own, where it has one."""
    own = getattr(model, "pad_id", None)
    if isinstance(pad_id, str) and pad_id == "auto":
        return 0 if own is None else own
    pad_id = check_pad_id(pad_id, target_vocab_size(model), IGNORED_IDS)
    if own is not None and pad_id not in (own, *IGNORED_IDS):
        raise ValueError(
            f"pad_id must be that of the model, {own}, or {IGNORED_IDS[0]}, got {pad_id}: leave it "
            "out."
        )
    return pad_id


def target_vocab_size(model):
    """Return the number of tokens that a model can write, or None if it does not say."""
    return getattr(model, "target_vocab_size", getattr(model, "vocab_size", None))


def check_backend(name):
    """Raise unless Keras runs on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"{name} needs the TensorFlow backend, got {keras.backend.backend()!r}: "
            "use model.compile(...) with model.fit(...) and model.evaluate(...) instead."
        )


def prepare(model, optimizer, mixed_precision=None):
    """Set the precision, then build the optimizer, before anything is traced.

    Args:
        model: built Keras model.
        optimizer: Keras optimizer, or its name.
        mixed_precision: None, "bfloat16" or "float16".

    Returns:
        the optimizer, wrapped in a LossScaleOptimizer if the model computes in
        float16. A LossScaleOptimizer must be built before a trace reads its
        scale, or the trace keeps the first scale for ever.

    Raises:
        ValueError: if mixed_precision is unknown, the model is not built, or the optimizer
            is of another strategy's scope.
    """
    check_choice("mixed_precision", mixed_precision, (None, "bfloat16", "float16"))
    if not model.built:
        raise ValueError("model must be built: call it once on a batch first.")
    if mixed_precision:
        policy, general = keras.DTypePolicy(f"mixed_{mixed_precision}"), policy_of(model)
        # A layer with a policy of its own, such as a quantized one, keeps it.
        plain = [layer for layer in model._flatten_layers() if policy_of(layer) == general]
        for layer in plain:
            layer.dtype_policy = policy
    strategy = strategy_of(model)
    loss_scaling = keras.optimizers.LossScaleOptimizer
    with scope_of(strategy):
        optimizer = keras.optimizers.get(optimizer)
        check_same_strategy(optimizer, strategy)
        if model.compute_dtype == "float16" and not isinstance(optimizer, loss_scaling):
            optimizer = loss_scaling(optimizer)
        optimizer.build(model.trainable_variables)
    return optimizer


def scaled_loss_factor(optimizer):
    """Return the factor by which the optimizer scales the loss: 1 without scaling."""
    return optimizer.scale_loss(ops.convert_to_tensor(1.0))


def check_batch(model, batch, pad_id):
    """Return (inputs, targets) as tensors; raise if an id is outside the vocabulary.

    Inside the compiled step an id that is too large would read a wrong row, and
    such a target would make the loss NaN.
    """
    import tensorflow as tf

    try:
        inputs, targets = batch
    except (TypeError, ValueError):
        raise ValueError("batch must be a pair (inputs, targets).") from None

    def as_tensors(ids):
        if isinstance(ids, dict):
            return {name: as_tensors(part) for name, part in ids.items()}
        if isinstance(ids, (list, tuple)) and any(hasattr(part, "shape") for part in ids):
            return [as_tensors(part) for part in ids]  # a model with several inputs
        check_rectangular("a batch", ids)
        ids = tf.convert_to_tensor(ids)
        # One integer type, so that NumPy's int64 and tf.data's int32 share a trace.
        return tf.cast(ids, tf.int32) if ids.dtype.is_integer else ids

    inputs, targets = as_tensors(inputs), as_tensors(targets)
    if hasattr(model, "check_ids"):
        model.check_ids(inputs)
    vocab_size = target_vocab_size(model)
    if vocab_size is not None:
        # A padding id need not be in the vocabulary.
        real = targets if pad_id is None else tf.where(targets == pad_id, 0, targets)
        check_token_ids("targets", real, vocab_size)
    return inputs, targets


def make_evaluation_step(model, *, pad_id="auto", jit_compile=False):
    """Make the function that measures one batch without learning.

    Args:
        model: Keras model; inputs -> logits (B, T, V).
        pad_id: int or None, the target id that does not count; see `make_train_step`.
        jit_compile: bool, compile with XLA; under a strategy nothing is compiled.

    Returns:
        step((inputs, targets)) -> dict of scalars "loss", "accuracy" and "tokens".

    Raises:
        RuntimeError: if the scope of a strategy is active, or the strategy is one that
            `make_train_step` refuses.
    """
    check_backend("make_evaluation_step")
    import tensorflow as tf

    strategy = strategy_of(model)
    pad_id = resolve_pad_id(model, pad_id)
    ignored_id = ignored_id_of(strategy, pad_id)
    jit_compile = jit_compile and strategy is None

    def measure(inputs, targets, share, parts):
        logits = model(inputs, training=False)
        loss = masked_loss(targets, logits, ignored_id)
        return share * loss, share * masked_accuracy(targets, logits, ignored_id), []

    measure_batch = on_replicas(strategy, measure, ignored_id)

    @tf.function(jit_compile=jit_compile, reduce_retracing=not jit_compile)
    def evaluation_step(inputs, targets):
        loss, accuracy, _ = measure_batch(inputs, targets, 1)
        tokens = tf.reduce_sum(real_tokens(targets, pad_id))
        return {"loss": loss, "accuracy": accuracy, "tokens": tokens}

    def step(batch):
        check_outside_scope()
        with exchange_errors_named():
            return evaluation_step(*check_batch(model, batch, pad_id))

    return step


def evaluate(model, dataset, *, pad_id="auto", jit_compile=False, step=None):
    """Measure loss and accuracy over a whole dataset, each real token once.

    Args:
        model: Keras model; inputs -> logits (B, T, V).
        dataset: finite iterable of (inputs, targets).
        pad_id: int or None, the target id that does not count; see `make_train_step`.
        jit_compile: bool, compile with XLA.
        step: a function of `make_evaluation_step` to use again, with its trace.

    Returns:
        dict of floats: "loss" (nats per token) and "accuracy" (0 to 1).

    Raises:
        ValueError: if the dataset yields no real token.
    """
    step = step or make_evaluation_step(model, pad_id=pad_id, jit_compile=jit_compile)
    return evaluate_batches(step, dataset)


def evaluate_batches(step, batches):
    """Measure loss and accuracy of batches with a function of `make_evaluation_step`."""
    loss = accuracy = tokens = 0.0
    for batch in batches:
        result = {name: float(value) for name, value in step(batch).items()}
        loss += result["loss"] * result["tokens"]
        accuracy += result["accuracy"] * result["tokens"]
        tokens += result["tokens"]
    if not tokens:
        raise ValueError("dataset must hold at least one target that is not padding.")
    return {"loss": loss / tokens, "accuracy": accuracy / tokens}
