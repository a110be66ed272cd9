"""The record of a training run: rows, progress bar, history.csv and checkpoints."""

import contextlib
import csv
import signal
import threading
import time
from pathlib import Path

import keras

SEED_STATE = "seed_generator_state"  # the name of a keras.random.SeedGenerator's variable
HISTORY_COLUMNS = ("step", "loss", "val_loss", "tokens_per_s", "seconds")


def holds_run(folder):
    """Say whether a folder holds the history or the checkpoints of a run."""
    return (folder / "history.csv").exists() or (folder / "checkpoint").exists()


def set_aside(folder):
    """Rename the folder of an earlier run, so that nothing of it is lost."""
    if holds_run(folder):
        number = 1
        while (kept := folder.with_name(f"{folder.name}.{number}")).exists():
            number += 1
        folder.rename(kept)
        print(f"The earlier run is kept in {kept}.")


class Run:
    """What a training run keeps: step and history, on disk if there is a folder.

    Args:
        run_dir: folder, or None.
        model: Keras model.
        optimizer: Keras optimizer, built.
        resume: bool, restore the last checkpoint in the folder.
    """

    def __init__(self, run_dir, model, optimizer, resume):
        import tensorflow as tf

        self.step = 0
        self.history = []
        self.csv_path = self.manager = None
        if run_dir is None:
            return
        folder = Path(run_dir)
        if not resume and holds_run(folder):
            raise ValueError(
                f"run_dir must not hold another run, got {str(folder)!r}: pass resume=True to go "
                "on with it, or choose another folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.csv_path = folder / "history.csv"
        self.saved_step = tf.Variable(0, dtype=tf.int64)
        # A tf Checkpoint of a Keras model leaves out the random state of its dropout.
        random_state = [
            variable.value for variable in model.variables if variable.name == SEED_STATE
        ]
        checkpoint = tf.train.Checkpoint(
            model=model, optimizer=optimizer, step=self.saved_step, random_state=random_state
        )
        self.manager = tf.train.CheckpointManager(
            checkpoint, str(folder / "checkpoint"), max_to_keep=2
        )
        if resume and self.manager.latest_checkpoint:
            self.restore(checkpoint)
            self.step = int(self.saved_step.numpy())
            self.history = read_history(self.csv_path, last_step=self.step)
            print(f"Going on from step {self.step} in {folder}.")

    def restore(self, checkpoint):
        """Read the last checkpoint; raise if it is damaged or of another model."""
        path = self.manager.latest_checkpoint
        try:
            checkpoint.restore(path).assert_consumed()
        except Exception as error:  # TensorFlow raises many kinds here
            raise ValueError(
                "run_dir must hold a checkpoint of this model and optimizer, got "
                f"{str(self.csv_path.parent)!r}, whose checkpoint {Path(path).name!r} is damaged "
                "or was written by another. Make a new model and start again in another folder."
            ) from error

    def save(self):
        """Write a checkpoint; a half-written one is never taken for a whole one."""
        if self.manager is not None:
            self.saved_step.assign(self.step)
            self.manager.save(checkpoint_number=self.step)

    def add_row(self, row):
        """Keep a row and rewrite history.csv."""
        self.history.append(row)
        if self.csv_path is not None:
            write_history(self.csv_path, self.history)


class Log:
    """Collect the metrics of steps into rows and a progress bar."""

    def __init__(self, run, steps, progress):
        self.run = run
        self.results = []
        earlier = run.history[-1]["seconds"] if run.history else 0.0
        self.start = time.perf_counter() - earlier
        self.last_row = self.last_step = time.perf_counter()
        self.bar = None
        if progress:
            self.bar = keras.utils.Progbar(
                steps, stateful_metrics=["loss", "val_loss", "tokens_per_s"], unit_name="step"
            )

    def add(self, result):
        """Keep the result of one step, without waiting for its numbers."""
        self.results.append(result)
        self.last_step = time.perf_counter()

    def write_row(self, validation):
        """Average what was added since the last row and show it."""
        loss = sum(float(result["loss"]) for result in self.results) / len(self.results)
        tokens = sum(float(result["tokens"]) for result in self.results)
        row = {
            "step": self.run.step,
            "loss": loss,
            "val_loss": validation,
            "tokens_per_s": tokens / (self.last_step - self.last_row),
            "seconds": self.last_step - self.start,
        }
        self.run.add_row(row)
        # Time spent on validation belongs to no row.
        self.results, self.last_row = [], time.perf_counter()
        if self.bar is not None:
            shown = [(name, row[name]) for name in ("loss", "val_loss", "tokens_per_s")]
            self.bar.update(self.run.step, [pair for pair in shown if pair[1] is not None])


@contextlib.contextmanager
def delayed_interrupt():
    """Let Ctrl-C wait until the block is done: a step counts whole or not at all."""
    if threading.current_thread() is not threading.main_thread():
        yield  # other threads receive no signals
        return
    interrupts = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler or signal.default_int_handler)
    if interrupts:
        signal.raise_signal(signal.SIGINT)


def write_history(path, history):
    """Write rows to a CSV file; an unmeasured value becomes an empty cell."""
    # Written beside and moved: a run that is killed leaves no half file.
    part = Path(path).with_suffix(".part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HISTORY_COLUMNS)
        writer.writeheader()
        writer.writerows(history)
    part.replace(path)


def read_history(path, last_step=None):
    """Read the rows of a CSV file that `train` wrote.

    Args:
        path: the file.
        last_step: int, leave out later rows; None: read all.

    Returns:
        list of dicts, as `train` returns it; empty if there is no file yet.
    """
    if not Path(path).exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = [
            {name: float(cell) if cell else None for name, cell in row.items()}
            for row in csv.DictReader(file)
        ]
    for row in rows:
        row["step"] = int(row["step"])
    return [row for row in rows if last_step is None or row["step"] <= last_step]
