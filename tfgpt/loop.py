"""The loop of `train`: step, row, checkpoint, validation, in this order, again and again."""

import contextlib
import itertools
import time
import warnings
from dataclasses import dataclass

import keras
from keras import ops

from tfgpt.history import TrainingError
from tfgpt.machine.devices import user_level
from tfgpt.runs import averaged_weights, validation_losses
from tfgpt.signals import delayed_interrupt
from tfgpt.train_step import evaluate_batches
from tfgpt.validation import check_positive
from tfgpt.workers import from_chief


@dataclass(frozen=True)
class Pace:
    """When a training does what; see the arguments of `train`."""

    steps: int
    log_every: int
    validate_every: int
    checkpoint_every: int
    checkpoint_minutes: float | None
    patience: int | None
    strategy: object  # tf.distribute strategy, or None


class Loop:
    """One training under way.

    Args:
        step: a function of `make_train_step`.
        run: Run, entered.
        log: Log.
        validate: Validation.
        listeners: Listeners.
        pace: Pace.
        on_step: function (step, result), or None; if it returns True, training ends.
        faults: int, how many times a fault may lead back to the last checkpoint.
    """

    def __init__(self, step, run, log, validate, listeners, pace, on_step, faults):
        self.step, self.run, self.log, self.validate = step, run, log, validate
        self.listeners, self.pace, self.on_step = listeners, pace, on_step
        self.faults_left = faults
        self.last_save = time.monotonic()
        self.ended = False

    def go(self):
        """Train to the end."""
        run, steps = self.run, self.pace.steps
        self.validate_cut_off()
        self.ended = run.step >= steps
        while not self.ended:
            self.learn()
            try:
                self.keep()
            except TrainingError as error:
                self.roll_back(error)
                continue
            self.measure()
        run.save()  # where a validation has ended it
        if run.step < steps:
            print(f"\nThe training ended at step {run.step} of {steps}.")

    def learn(self):
        """Do one step."""
        batches, stopped = self.run.batches, True
        # The saved state of a tf.data iterator counts what was taken: it must be learned too.
        with delayed_interrupt() if batches.is_tf_data else contextlib.nullcontext():
            batch = batches.take()
            result = None if batch is None else self.learn_from(batch)
        if batch is not None:
            stopped = self.on_step is not None and self.on_step(self.run.step, result)
            stopped = self.listeners.step_ended(self.run.step, result) or stopped
        elif self.run.step == 0:
            raise ValueError("dataset must yield at least one batch.")
        self.ended = bool(stopped) or self.run.step >= self.pace.steps

    def learn_from(self, batch):
        """Do the step of a batch, which counts whole or not at all."""
        with delayed_interrupt():
            result = self.step(batch)
            self.log.add(result)
            self.run.step += 1
        return result

    def validates(self):
        """Say whether a validation is due."""
        return self.validate.has_data and (
            self.ended or self.run.step % self.pace.validate_every == 0
        )

    def keep(self):
        """Write a row and a checkpoint where they are due."""
        is_row = self.ended or self.validates() or self.run.step % self.pace.log_every == 0
        if is_row:
            self.log.write_row()  # before the checkpoint: a resumed run begins after it
            self.run.check_disk()
        minutes = self.pace.checkpoint_minutes
        is_late = minutes is not None and time.monotonic() - self.last_save > 60 * minutes
        is_due = self.run.step % self.pace.checkpoint_every == 0 or (is_row and is_late)
        if self.ended or is_due:
            self.log.check_losses()
            self.run.save()  # before validation, so that nothing there can lose it
            self.last_save = time.monotonic()

    def measure(self):
        """Validate where it is due, and show the newest row."""
        run, validates = self.run, self.validates()
        stopped = False
        if validates:
            with averaged_weights(run.model, run.optimizer):
                self.log.add_validation(self.validate(at_end=self.ended))
            run.keep_if_best()
            stopped = is_stale(run.history, self.pace.patience)
        if validates or self.ended:
            stopped = self.listeners.validation_ended(run.history) or stopped
            # Of several processes the first one knows all rows.
            stopped = bool(from_chief(self.pace.strategy, stopped))
        self.log.show()
        is_quiet = self.ended or run.step % self.pace.log_every
        warn_of_rate_0(run.optimizer, run.step, is_quiet)
        self.ended = self.ended or stopped

    def roll_back(self, error):
        """Go back to the last checkpoint after a fault; raise it if that may not be done."""
        step, place = self.run.step, self.run.batches.describe(self.run.step)
        self.faults_left -= 1
        if self.faults_left < 0 or self.run.roll_back() is None:
            raise error
        self.ended = False
        self.log.forget()
        print(
            f"\n{str(error).split('. ')[0]}. Going back to step {self.run.step}; the data up to "
            f"{place} of step {step} will not be read again. {self.faults_left} more times."
        )

    def validate_cut_off(self):
        """Measure the held-out loss that a kill cut off between a checkpoint and its validation."""
        last = self.run.history[-1] if self.run.history else {"step": 0, "val_loss": None}
        is_due = (
            last["step"] == self.run.step > 0
            and self.run.step % self.pace.validate_every == 0
            and last["val_loss"] is None
        )
        if self.validate.has_data and from_chief(self.pace.strategy, is_due):
            with averaged_weights(self.run.model, self.run.optimizer):
                self.log.add_validation(self.validate(at_end=False))
            self.run.keep_if_best()


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


@contextlib.contextmanager
def shown_optimizer(model, optimizer):
    """Let callbacks find the optimizer where `fit` has it: as `model.optimizer`, in this block."""
    has_own, own = hasattr(model, "optimizer"), getattr(model, "optimizer", None)
    model.optimizer = optimizer
    try:
        yield
    finally:
        if has_own:
            model.optimizer = own
        else:
            del model.optimizer


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
