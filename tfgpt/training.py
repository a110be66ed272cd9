"""Train for a number of steps, with progress, validation and checkpoints. Notebook 06."""

import contextlib

import keras

from tfgpt.data.passes import Batches
from tfgpt.history import Log
from tfgpt.loop import Listeners, Loop, Pace, Validation, rate_of, shown_optimizer
from tfgpt.replicas import scope_of, strategy_of
from tfgpt.runs import Run
from tfgpt.schedules import WarmupLinearDecay
from tfgpt.signals import Terminated, kept_interrupts, termination_as_interrupt
from tfgpt.train_step import evaluate, make_evaluation_step, make_train_step
from tfgpt.validation import check_choice, check_integer, check_positive
from tfgpt.workers import is_chief, is_one_of_several

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
            `model.optimizer` is the optimizer of the training.
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
    strategy = strategy_of(model)
    if optimizer is None:
        with scope_of(strategy):
            optimizer = keras.optimizers.AdamW(WarmupLinearDecay(steps), weight_decay=0.1)
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
        run_dir if is_chief() else None,
        *(model, optimizer, batches, resume, tokenizer, facts),
        keep_checkpoints=keep_checkpoints,
        keep_best=keep_best or patience is not None,
        stops_on_write_error=on_write_error == "stop",
    )
    pace = Pace(
        steps, log_every, validate_every, checkpoint_every, checkpoint_minutes, patience, strategy
    )
    shown = shown_optimizer(model, optimizer) if callbacks else contextlib.nullcontext()
    with termination_as_interrupt(ignored=not is_chief()), run, shown:
        run.follow_chief(strategy)
        log = Log(
            *(run, steps, progress and is_chief(), lambda: rate_of(optimizer), spike),
            skips=most_faults if on_fault == "skip" else 0,
        )
        listeners = Listeners(callbacks, model, steps)
        faults = most_faults if on_fault == "rollback" else 0
        loop = Loop(step, run, log, validate, listeners, pace, on_step, faults)
        try:
            loop.go()
        except KeyboardInterrupt as stop:
            run.save()
            print(f"\nStopped at step {run.step} of {steps}; the work so far is kept.")
            kept_interrupts.append(stop)
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
    if on_fault == "rollback" and (run_dir is None or is_one_of_several()):
        raise ValueError('on_fault="rollback" needs one process and its checkpoints: pass run_dir.')


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
