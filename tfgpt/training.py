"""The loop around the training step: rows, validation, checkpoints, faults. Notebook 06."""

import itertools
import time
import warnings

import keras
from keras import ops

from tfgpt.data.passes import Batches
from tfgpt.history import Log, TrainingError
from tfgpt.machine.devices import user_level
from tfgpt.runs import Run, averaged_weights, validation_losses
from tfgpt.schedules import WarmupLinearDecay
from tfgpt.signals import Terminated, delayed_interrupt, termination_as_interrupt
from tfgpt.train_step import (
    evaluate,
    evaluate_batches,
    make_evaluation_step,
    make_train_step,
)
from tfgpt.validation import check_choice, check_integer, check_positive

__all__ = ["evaluate", "make_evaluation_step", "make_train_step", "set_seed", "train"]


def train(
    model,
    dataset,
    steps,
    optimizer=None,
    *,
    validation_data=None,
    validate_every=500,
    validation_batches=100,
    validate_all_at_end=False,
    patience=None,
    log_every=10,
    run_dir=None,
    checkpoint_every=500,
    checkpoint_minutes=None,
    keep_checkpoints=2,
    keep_best=False,
    on_write_error="stop",
    on_fault="stop",
    most_faults=10,
    spike=None,
    resume=False,
    tokenizer=None,
    facts=None,
    on_step=None,
    callbacks=(),
    progress=True,
    pad_id="auto",
    jit_compile="parts",
    **step_options,
):
    """Train for a number of steps, with progress, validation and checkpoints.

    Ctrl-C stops early and keeps the work so far; so do SIGTERM and SIGHUP, which then end
    the program with their exit code. With `run_dir`, a folder is kept for this run alone:
    config.json and tokenizer.json from the start, `history.csv` and `history.jsonl`, and with
    each checkpoint (weights, optimizer, step, random state, place in the data)
    weights.safetensors, so that `tfgpt.LanguageModel.load(run_dir)` works at any time.
    Checkpoints are written while training goes on. `resume=True` goes on from the last
    undamaged checkpoint, and training 10 + 10 steps gives the same weights as training 20.

    An optimizer with moving averages (`use_ema=True`) has them measured in validations,
    written to weights.safetensors and, at the end, put into the model.

    Args:
        model: built Keras model; inputs -> logits (B, T, V).
        dataset: tf.data.Dataset or list of (inputs, targets), repeated when it ends; or a
            function that returns an iterator, called again for each pass; or `TokenBatches`;
            an iterator ends the training when it is exhausted. To resume exactly, the order
            must not change between runs.
        steps: int >= 1, the step at which training ends.
        optimizer: Keras optimizer; default: AdamW with `WarmupLinearDecay(steps)`.
        validation_data: finite iterable of (inputs, targets), or a function that returns
            one.
        validate_every: int >= 1, steps between validations; also at the end.
        validation_batches: int >= 1, the most batches that a validation reads; None: all.
        validate_all_at_end: bool, read all validation data at the end.
        patience: int >= 1, end after so many validations without a lower loss, with the best
            weights; None: never.
        log_every: int >= 1, steps between rows of the history.
        run_dir: folder to write to, without an earlier run unless resume=True;
            None: write nothing.
        checkpoint_every: int >= 1, steps between checkpoints; also at the end.
        checkpoint_minutes: float > 0, write one also when so much time has passed since the
            last, at the next row of the history; None: by steps only.
        keep_checkpoints: int >= 1, how many stay.
        keep_best: bool, keep the weights with the lowest held-out loss in run_dir/best.
        on_write_error: "stop", or "continue": say that the disk is full and go on training.
        on_fault: what to do about a loss or gradient that is NaN or infinite. "stop"; "skip":
            leave the weights as they are in that step; "rollback": go back to the last
            checkpoint, and on with the data behind.
        most_faults: int >= 1, how many times that is done before training stops.
        spike: float > 1, a mean loss of a row so many times the median of the ten rows before
            is a fault too: "rollback" goes back, the others stop; None: any loss is right.
        resume: bool, go on from the last checkpoint in run_dir if there is one.
        tokenizer: tokenizer of the model, written to run_dir; None: none.
        facts: dict that JSON can hold, what else must be the same to go on with a run,
            such as {"corpus": ..., "seed": 0}; it is written to config.json.
        on_step: function (step, result), called after each step with the result of
            `make_train_step`; if it returns True, training ends.
        callbacks: Keras callbacks, told of each step as a batch, and of each validation (and
            the end) as an epoch; one that sets `model.stop_training` ends the training.
        progress: bool, show progress.
        pad_id: int or None, the target id that does not count; see `make_train_step`.
        jit_compile: "parts", True or False, what XLA compiles; see `make_train_step`.
        **step_options: further arguments of `make_train_step`.

    Returns:
        list of dicts, one per row: "step", "loss" (mean since the last row),
        "val_loss" (None if not measured), "tokens_per_s", "seconds" (since the
        start, all included).

    Raises:
        ValueError: if an argument is outside its range, a dataset is empty or has no end
            where it needs one, run_dir holds another run or is in use, its checkpoints
            are all damaged, or the loss or a weight is NaN.
        OSError: if a checkpoint cannot be written.
    """
    for name, value in (
        ("steps", steps),
        ("validate_every", validate_every),
        ("log_every", log_every),
        ("checkpoint_every", checkpoint_every),
        ("most_faults", most_faults),
        ("patience", 1 if patience is None else patience),
    ):
        check_positive(name, value)
    check_choice("on_write_error", on_write_error, ("stop", "continue"))
    check_choice("on_fault", on_fault, ("stop", "skip", "rollback"))
    check_faults(on_fault, spike, run_dir, checkpoint_minutes)
    optimizer = optimizer or keras.optimizers.AdamW(WarmupLinearDecay(steps), weight_decay=0.1)
    if on_fault == "skip":
        step_options["skip_nonfinite"] = True
    step = make_train_step(model, optimizer, pad_id=pad_id, jit_compile=jit_compile, **step_options)
    optimizer = step.optimizer
    validate = Validation(
        make_evaluation_step(model, pad_id=pad_id, jit_compile=jit_compile is True),
        validation_data,
        validation_batches,
        validate_all_at_end,
    )
    batches = Batches(dataset)
    facts = {"pad_id": step.pad_id, "step_options": step_options, **(facts or {})}
    run = Run(
        run_dir,
        *(model, optimizer, batches, resume, tokenizer, facts),
        keep_checkpoints=keep_checkpoints,
        keep_best=keep_best or patience is not None,
        stops_on_write_error=on_write_error == "stop",
    )
    listeners = Listeners(callbacks, model, steps)
    faults_left = most_faults if on_fault == "rollback" else 0
    last_save = time.monotonic()
    with termination_as_interrupt(), run:
        log = Log(
            *(run, steps, progress, lambda: rate_of(optimizer), spike),
            skips=most_faults if on_fault == "skip" else 0,
        )
        validate_cut_off(run, log, validate, validate_every)
        try:
            ended = run.step >= steps
            while not ended:
                batch = batches.take()
                if batch is not None:
                    with delayed_interrupt():
                        result = step(batch)
                        log.add(result)
                        run.step += 1
                elif run.step == 0:
                    raise ValueError("dataset must yield at least one batch.")
                stopped = batch is None or (on_step is not None and on_step(run.step, result))
                stopped = listeners.step_ended(run.step, result if batch else None) or stopped
                ended = stopped or run.step >= steps
                validates = validate.has_data and (ended or run.step % validate_every == 0)
                is_row = ended or validates or run.step % log_every == 0
                is_late = (
                    checkpoint_minutes is not None
                    and time.monotonic() - last_save > 60 * checkpoint_minutes
                )
                try:
                    if is_row:
                        log.write_row()  # before the checkpoint: a resumed run begins after it
                        run.check_disk()
                    if ended or run.step % checkpoint_every == 0 or (is_row and is_late):
                        log.check_losses()
                        run.save()  # before validation, so that nothing there can lose it
                        last_save = time.monotonic()
                except TrainingError as fault:
                    ended, faults_left = False, faults_left - 1
                    roll_back(run, log, fault, faults_left)
                    continue
                if validates:
                    with averaged_weights(model, optimizer):
                        log.add_validation(validate(at_end=ended))
                    run.keep_if_best()
                if validates or ended:
                    stopped = listeners.validation_ended(run.history) or stopped
                log.show()
                warn_of_rate_0(optimizer, run.step, ended or run.step % log_every)
                ended = ended or stopped or is_stale(run.history, patience)
            run.save()  # where a validation has ended it
            if run.step < steps:
                print(f"\nThe training ended at step {run.step} of {steps}.")
        except KeyboardInterrupt as stop:
            run.save()
            print(f"\nStopped at step {run.step} of {steps}; the work so far is kept.")
            if isinstance(stop, Terminated):
                raise SystemExit(128 + stop.number) from None
        # As `fit` does: an optimizer with moving averages puts them in the weights.
        optimizer.finalize_variable_values(model.trainable_variables)
        if patience is not None:
            run.use_best()
        listeners.ended()
    return run.history


def check_faults(on_fault, spike, run_dir, checkpoint_minutes):
    """Raise unless the arguments of `train` about faults and time fit together."""
    for name, value, low in (("spike", spike, 1), ("checkpoint_minutes", checkpoint_minutes, 0)):
        if value is not None and not value > low:
            raise ValueError(f"{name} must be > {low} or None, got {value!r}.")
    if on_fault == "rollback" and run_dir is None:
        raise ValueError('on_fault="rollback" needs checkpoints: pass run_dir.')


def roll_back(run, log, fault, faults_left):
    """Go back to the last checkpoint after a fault; raise it if that may not be done any more."""
    step, place = run.step, run.batches.describe(run.step)
    if faults_left < 0 or run.roll_back() is None:
        raise fault
    log.forget()
    print(
        f"\n{str(fault).split('. ')[0]}. Going back to step {run.step}; the data up to {place} of "
        f"step {step} will not be read again. {faults_left} more times."
    )


def validate_cut_off(run, log, validate, validate_every):
    """Measure the held-out loss that a kill cut off between a checkpoint and its validation."""
    is_due = run.history and run.step == run.history[-1]["step"] and run.step % validate_every == 0
    if is_due and validate.has_data and run.history[-1]["val_loss"] is None:
        with averaged_weights(run.model, run.optimizer):
            log.add_validation(validate(at_end=False))
        run.keep_if_best()


def is_stale(history, patience):
    """Say whether the last `patience` validations brought no lower loss.

    Example:
        >>> rows = [{"val_loss": loss} for loss in (3.0, 2.0, 2.5, None, 2.1)]
        >>> is_stale(rows, patience=2), is_stale(rows, patience=3), is_stale(rows, None)
        (True, False, False)
    """
    losses = validation_losses(history)
    return (
        patience is not None
        and bool(losses)
        and len(losses) - 1 - losses.index(min(losses)) >= patience
    )


class Listeners:
    """Tell Keras callbacks of a training: a step is their batch, a validation their epoch.

    Args:
        callbacks: iterable of keras.callbacks.Callback.
        model: Keras model.
        steps: int, the step at which training ends.
    """

    def __init__(self, callbacks, model, steps):
        self.model = model
        self.epoch = 0
        self.callbacks = None
        if callbacks:
            model.stop_training = False
            self.callbacks = keras.callbacks.CallbackList(
                list(callbacks), model=model, epochs=1, steps=steps, verbose=0
            )
            self.callbacks.on_train_begin()

    def step_ended(self, step, result):
        """Pass on the numbers of a step; say whether a callback ends the training."""
        if self.callbacks is None or result is None:
            return False
        logs = {name: float(value) for name, value in result.items()}
        self.callbacks.on_train_batch_end(step - 1, logs)
        return self.model.stop_training

    def validation_ended(self, history):
        """Pass on the newest row; say whether a callback ends the training."""
        if self.callbacks is None or not history:
            return False
        row = {name: value for name, value in history[-1].items() if value is not None}
        self.callbacks.on_epoch_end(self.epoch, row)
        self.epoch += 1
        return self.model.stop_training

    def ended(self):
        """Pass on that the training is over."""
        if self.callbacks is not None:
            self.callbacks.on_train_end()


def rate_of(optimizer):
    """Return the learning rate of the next step; replicas of a strategy have copies of it."""
    return float(ops.convert_to_numpy(optimizer.learning_rate))


def warn_of_rate_0(optimizer, step, is_quiet):
    """Warn, once per place in the program, of a schedule that ended before the training."""
    if not is_quiet and rate_of(optimizer) == 0:
        warnings.warn(
            f"The learning rate is 0 from step {step} on: the optimizer's schedule has ended, and "
            "nothing is learned. Make a schedule for all steps.",
            stacklevel=user_level(),
        )


class Validation:
    """Measure the loss on held-out data.

    Args:
        step: a function of `make_evaluation_step`.
        data: as in `train`, or None.
        most_batches: int, the most batches that are read; None: all.
        all_at_end: bool, read all at the end.

    Raises:
        ValueError: if all of endless data would be read, or data can be read once only.
    """

    def __init__(self, step, data, most_batches, all_at_end):
        import tensorflow as tf

        if most_batches is not None:
            check_positive("validation_batches", most_batches)
        if hasattr(data, "__next__"):
            raise ValueError(
                "validation_data must be readable again and again, got an iterator: pass a list "
                "or a function that returns one."
            )
        size = data.cardinality() if isinstance(data, tf.data.Dataset) else 0
        if size == tf.data.INFINITE_CARDINALITY and (most_batches is None or all_at_end):
            raise ValueError(
                "validation_data must have an end, got an endless dataset: write "
                "validation_data.take(100), or pass validation_batches=100."
            )
        self.step, self.data, self.all_at_end = step, data, all_at_end
        self.has_data = data is not None
        self.most_batches = most_batches

    def __call__(self, at_end):
        """Return the loss in nats per token."""
        data = self.data() if callable(self.data) else self.data
        whole = self.most_batches is None or (at_end and self.all_at_end)
        data = data if whole else itertools.islice(data, self.most_batches)
        return evaluate_batches(self.step, data)["loss"]


def set_seed(seed):
    """Seed Python, NumPy and the backend: two seeded CPU runs are identical.

    Call it before layers are made: their initial values are drawn then.

    Args:
        seed: int >= 0.

    Raises:
        ValueError: if seed is not an integer >= 0.
    """
    check_integer("seed", seed, minimum=0)
    keras.utils.set_random_seed(int(seed))
