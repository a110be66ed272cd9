"""The record of a training run: its configuration, checkpoints, history and best weights.

The folder is a bundle: config.json and tokenizer.json stand there from the first second, and
weights.safetensors is renewed with each checkpoint, so that a run can be sampled at any time.
"""

import contextlib
import hashlib
import importlib.util
import json
from pathlib import Path

import keras
import numpy as np

from tfgpt.bundle import (
    CLASSES,
    CONFIG,
    replaced_file,
    weight_arrays,
    write_arrays,
    write_config,
    write_tokenizer,
)
from tfgpt.checkpoints import Checkpoints, copied
from tfgpt.history import (
    HISTORY,
    TrainingError,
    append_row,
    read_details,
    read_history,
    write_history,
)
from tfgpt.run_folder import RunLock, holds_run, keep_aside, read_run
from tfgpt.tokenizers import tokenizer_hash
from tfgpt.workers import copy_from_chief, from_chief, is_chief, is_one_of_several

BEST = "best"
# What may differ when a run goes on: names, how long it is to go, what is done about faults.
FREE_KEYS = {
    *("name", "steps", "warmup_steps", "plan"),
    *("module", "registered_name", "skip_nonfinite"),
}


class Run:
    """What a training run keeps: step and history, on disk if there is a folder.

    Use it as a context: it holds the lock of its folder.

    Args:
        run_dir: folder, or None.
        model: Keras model.
        optimizer: Keras optimizer, built.
        batches: Batches, the training data.
        resume: bool, restore the last checkpoint in the folder.
        tokenizer: tokenizer to write beside the model, or None.
        facts: dict of what else must be the same when the run goes on.
        keep_checkpoints: int >= 1, how many checkpoints stay.
        keep_best: bool, keep the weights with the lowest held-out loss.
        stops_on_write_error: bool, end when a file cannot be written; False: say so and go on.
    """

    def __init__(
        self,
        run_dir,
        model,
        optimizer,
        batches,
        resume,
        tokenizer,
        facts,
        keep_checkpoints=2,
        keep_best=False,
        stops_on_write_error=True,
    ):
        self.step = 0
        self.saved_step = None
        self.history, self.details = [], []
        self.has_whole_rows = False  # the files, so that a row can be added at their end
        self.model, self.optimizer, self.batches = model, optimizer, batches
        self.tokenizer = tokenizer
        self.keeps_best, self.best = keep_best, None
        self.stops_on_write_error = stops_on_write_error
        self.folder = self.checkpoints = None
        self.stack = contextlib.ExitStack()
        if run_dir is None:
            return
        self.folder = folder = Path(run_dir)
        if not resume and holds_run(folder):
            raise ValueError(
                f"run_dir must not hold another run, got {str(folder)!r}: pass resume=True to go "
                "on with it, or choose another folder."
            )
        self.stack.enter_context(RunLock(folder))
        self.checkpoints = Checkpoints(
            folder / "checkpoint", model, optimizer, batches, keep_checkpoints
        )
        try:
            self.open(resume, facts)
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        with self.stack:
            if self.checkpoints is None:
                return
            if kind is None:
                with self.writing():
                    self.checkpoints.wait()
            else:
                with contextlib.suppress(OSError):  # the first error is the one to see
                    self.checkpoints.wait()

    def open(self, resume, facts):
        """Write what is known from the start, or go on from the last checkpoint."""
        facts = {
            "optimizer": keras.optimizers.serialize(self.optimizer),
            "tokenizer": None if self.tokenizer is None else tokenizer_hash(self.tokenizer),
            "first_batch": batch_hash(self.batches),
            **facts,
        }
        facts = {name: fact for name, fact in facts.items() if fact is not None}
        facts = json.loads(json.dumps(facts, default=str))
        earlier = read_run(self.folder)
        if earlier is not None:
            self.compare(earlier, facts)
        step = self.checkpoints.restore() if resume else None
        if step is not None:
            self.step = self.saved_step = step
            self.history = read_history(self.folder / HISTORY, last_step=step)
            self.details = read_details(self.folder, self.history)
            print(f"Going on from step {step} in {self.folder}.")
        elif resume:
            if (self.folder / HISTORY).exists():
                keep_aside(self.folder / HISTORY)
            print(f"There is no checkpoint in {self.folder} yet: starting at step 0.")
        self.write_start(self.folder, run=facts)
        if self.history:
            self.write_history()  # without the rows of steps that come again

    def follow_chief(self, strategy):
        """Take over the state of the first process, which alone has the folder."""
        if not is_one_of_several():
            return
        step = int(from_chief(strategy, self.step))
        place = int(from_chief(strategy, self.batches.place_at(self.step)))
        copy_from_chief(strategy, [*self.model.variables, *self.optimizer.variables])
        if not is_chief():
            self.step = step
            self.batches.seek(step, place, None)

    def write_start(self, folder, **facts):
        """Write config.json and tokenizer.json."""
        if type(self.model) in CLASSES.values():
            write_config(folder, self.model, **facts)
        else:
            content = {"class_name": type(self.model).__name__, "config": {}, **facts}
            with replaced_file(folder / CONFIG) as path:
                path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        if self.tokenizer is not None:
            write_tokenizer(folder, self.tokenizer)

    def compare(self, earlier, facts):
        """Raise with the first difference if a run was started with other settings."""
        shared = earlier["run"].keys() & facts.keys()  # a generator has no first batch to show
        known = {"run": {name: earlier["run"][name] for name in shared}}
        wanted = {"run": {name: facts[name] for name in shared}}
        if type(self.model) in CLASSES.values() and earlier.get("config"):
            known["model"] = earlier["config"]
            wanted["model"] = json.loads(json.dumps(self.model.get_config(), default=str))
        difference = first_difference(known, wanted)
        if difference:
            name, before, now = difference
            raise ValueError(
                f"run_dir must hold a run with the same settings, got {str(self.folder)!r}, where "
                f"{name} is {before!r} and not {now!r}: use that, or start again in another folder."
            )

    @contextlib.contextmanager
    def writing(self):
        """Let an error of the disk through, or say it and go on, as was asked for."""
        try:
            yield
        except OSError as error:
            if self.stops_on_write_error:
                raise
            print(f"\n{error} The training goes on.")

    def check_disk(self):
        """Raise, or say, that the last checkpoint could not be written."""
        if self.checkpoints is not None and self.checkpoints.error is not None:
            with self.writing():
                self.checkpoints.wait()

    def save(self):
        """Write a checkpoint and the weights for sampling; raise if a weight is NaN."""
        if self.checkpoints is None or self.step == self.saved_step:
            return
        self.check_finite_weights()
        with self.writing():
            self.checkpoints.save(self.step, self.weight_writer(self.folder))
            self.saved_step = self.step

    def weight_writer(self, folder):
        """Copy the weights now; return the function that writes them, None if no file can."""
        if type(self.model) not in CLASSES.values() or not importlib.util.find_spec("safetensors"):
            return None
        with averaged_weights(self.model, self.optimizer):
            arrays = weight_arrays(self.model)
        return lambda: write_arrays(folder, arrays)

    def roll_back(self):
        """Restore the last checkpoint, but stay behind the data that was read; say the step."""
        place = self.batches.place_at(self.step)
        self.checkpoints.wait()
        step = self.checkpoints.restore(moves=False)
        if step is None:
            return None
        self.step = self.saved_step = step
        self.batches.stay(step, place)
        kept = [row for row in self.history if row["step"] <= step]
        self.history, self.details = kept, self.details[: len(kept)]
        self.write_history()
        return step

    def add_row(self, row, details):
        """Keep a row and write it."""
        self.history.append(row)
        self.details.append(details)
        if self.folder is None:
            return
        if not self.has_whole_rows:
            self.write_history()
            return
        self.has_whole_rows = False  # a full disk may take a part of the row
        with self.writing():
            append_row(self.folder, row, details)
            self.has_whole_rows = True

    def write_history(self):
        """Write the files of the history anew."""
        if self.folder is not None:
            with self.writing():
                write_history(self.folder, self.history, self.details)
                self.has_whole_rows = True

    def keep_if_best(self):
        """Keep the weights if the newest held-out loss is the lowest so far."""
        losses = validation_losses(self.history)
        if not self.keeps_best or not losses or losses[-1] > min(losses):
            return
        with averaged_weights(self.model, self.optimizer):
            self.best = [copied(weight) for weight in self.model.weights]
        writer = self.folder and self.weight_writer(self.folder / BEST)
        if writer:
            with self.writing():
                writer()
                self.write_start(self.folder / BEST, best=self.history[-1])

    def use_best(self):
        """Put the best weights into the model, and into the folder as those of the run."""
        from tfgpt.bundle import WEIGHTS, load_weights

        if self.best is None and self.folder and (self.folder / BEST / WEIGHTS).exists():
            load_weights(self.model, self.folder / BEST / WEIGHTS)
        elif self.best is not None:
            for weight, value in zip(self.model.weights, self.best, strict=True):
                weight.assign(value)
        if self.folder and self.checkpoints is not None:
            self.checkpoints.wait()
            if type(self.model) in CLASSES.values() and importlib.util.find_spec("safetensors"):
                write_arrays(self.folder, weight_arrays(self.model))

    def check_finite_weights(self):
        """Raise if a weight is NaN or infinite."""
        for weight in self.model.trainable_weights:
            if not bool(keras.ops.all(keras.ops.isfinite(weight))):
                raise TrainingError(self.advice(self.step, f"{weight.path} is NaN or infinite"))

    def advice(self, step, what):
        """Say that a training cannot go on, and what to do."""
        return (
            f"Training stopped at step {step} ({self.batches.describe(step)}): {what}. The "
            "checkpoints before are kept. Look at this batch; lower the learning rate, use "
            "warm-up or a smaller clip_norm, or bfloat16 in place of float16."
        )


def validation_losses(history):
    """List the held-out losses that were measured."""
    return [row["val_loss"] for row in history if row["val_loss"] is not None]


@contextlib.contextmanager
def averaged_weights(model, optimizer):
    """Put the moving averages of an optimizer into the weights while the block runs."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not inner.use_ema:
        yield
        return
    values = [copied(weight) for weight in model.trainable_variables]
    inner.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        for weight, value in zip(model.trainable_variables, values, strict=True):
            weight.assign(value)


def first_difference(before, now, name=""):
    """Find where two settings differ: (name, before, now), or None.

    Example:
        >>> first_difference({"a": {"rate": 1}}, {"a": {"rate": 2}})
        ('a.rate', 1, 2)
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            if key in FREE_KEYS:
                continue
            inner = f"{name}.{key}" if name else key
            found = first_difference(before.get(key), now.get(key), inner)
            if found:
                return found
        return None
    return None if before == now else (name, before, now)


def batch_hash(batches):
    """Return a digest of the first batch: other data, sizes or seeds give another.

    None if that would use the batch up. A dataset that counts examples says itself what must
    stay: its batch size may change.
    """
    if batches.counts_examples:
        return batches.dataset.fingerprint
    batch = batches.first()
    if batch is None:
        return None
    digest = hashlib.sha256()
    for array in keras.tree.flatten(batch):
        array = np.asarray(array)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]
