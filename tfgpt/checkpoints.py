"""Checkpoints: written whole, verified when read, with the place in the data.

A checkpoint holds weights, optimizer, random states and, where TensorFlow can write it, the
state of the tf.data iterator. A file with checksums is written last: a checkpoint without
it, or with other bytes, is never read.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

KEPT = 2  # how many checkpoints stay


class Batches:
    """The batches of a dataset, again and again, from any place on.

    Args:
        dataset: tf.data.Dataset; list or other sequence; function that returns an
            iterator, called again for each pass; or an iterable. An iterator has one pass.

    Raises:
        ValueError: when used, if the dataset is empty.
    """

    def __init__(self, dataset):
        import tensorflow as tf

        self.dataset = dataset
        self.is_tf_data = isinstance(dataset, tf.data.Dataset)
        self.is_sequence = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        self.iterator = self.start()

    def start(self, skip=0):
        """Make an iterator that begins with batch number `skip`."""
        if self.is_tf_data:
            repeated = self.dataset.repeat()
            return iter(repeated.skip(skip) if skip else repeated)
        if self.is_sequence:
            size = len(self.dataset)
            return (self.dataset[i % size] for i in itertools.count(skip)) if size else iter(())
        if callable(self.dataset):
            return itertools.islice(self.passes(), skip, None)
        is_iterator = hasattr(self.dataset, "__next__")
        batches = self.dataset if is_iterator else itertools.cycle(self.dataset)
        return itertools.islice(batches, skip, None)

    def passes(self):
        """Call the function of the dataset for one pass after the other."""
        while True:
            batch = None
            for batch in self.dataset():
                yield batch
            if batch is None:
                return

    def first(self):
        """Return the first batch, or None if that would use it up."""
        if not self.is_tf_data and hasattr(self.dataset, "__next__"):
            return None
        batch = next(Batches(self.dataset).iterator, None)
        if batch is None:
            raise ValueError("dataset must yield at least one batch.")
        return batch

    def seek(self, step, path):
        """Go to batch number `step`, by the saved state at `path` if there is one."""
        import tensorflow as tf

        if path is not None and self.is_tf_data:
            tf.train.Checkpoint(iterator=self.iterator).read(str(path)).assert_consumed()
            return
        if not self.is_sequence and step:
            print(f"Reading {step:,} batches again, to go on behind them.")
        self.iterator = self.start(step)

    def save(self, path):
        """Write the state of the iterator, if that is possible."""
        import tensorflow as tf

        # A Python generator, say, cannot be written.
        cannot = (tf.errors.FailedPreconditionError, tf.errors.UnimplementedError, ValueError)
        if self.is_tf_data:
            with contextlib.suppress(*cannot):
                tf.train.Checkpoint(iterator=self.iterator).write(str(path))


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Path; made when something is written.
        model: Keras model.
        optimizer: Keras optimizer, built.
        batches: Batches.
    """

    def __init__(self, folder, model, optimizer, batches):
        import tensorflow as tf

        self.folder = folder
        self.batches = batches
        weights = {id(weight) for weight in model.weights}
        # tf.train.Checkpoint follows the weights of a Keras model, not its other variables:
        # the random states of dropout, for example.
        others = [v.value for v in model.variables if id(v) not in weights]
        self.state = tf.train.Checkpoint(model=model, optimizer=optimizer, random_state=others)

    def steps(self):
        """List the steps of the checkpoints, ascending."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        found = (re.fullmatch(r"ckpt-(\d+)\.json", name) for name in names)
        return sorted(int(match[1]) for match in found if match)

    def save(self, step):
        """Write a checkpoint whole, then remove all but the newest two.

        Raises:
            OSError: if it cannot be written; the ones before are still there.
        """
        import tensorflow as tf

        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob("part-*"):  # by a process that was killed
            shutil.rmtree(left)
        try:
            with tempfile.TemporaryDirectory(
                prefix="part-", dir=None if is_pattern(self.folder) else self.folder
            ) as beside:
                self.write(step, Path(beside))
        except (OSError, tf.errors.OpError) as error:
            kept = self.steps()
            raise OSError(
                f"The checkpoint of step {step} could not be written in {str(self.folder)!r}: "
                f"{str(error).splitlines()[0][:200]} "
                + (f"That of step {kept[-1]} is kept." if kept else "There is none before.")
            ) from error
        for old in self.steps()[:-KEPT]:
            self.remove(old)

    def write(self, step, beside):
        """Write the files of a checkpoint to a folder, then move them, the checksums last."""
        self.state.write(str(beside / f"ckpt-{step}"))
        self.batches.save(beside / f"data-{step}")
        paths = sorted(beside.iterdir())
        content = {"step": step, "sha256": {path.name: checksum(path) for path in paths}}
        ready = beside / f"ckpt-{step}.json"
        ready.write_text(json.dumps(content), encoding="utf-8")
        self.remove(step)  # an earlier one of the same step
        for path in (*paths, ready):
            with open(path, "rb+") as file:
                os.fsync(file.fileno())  # on the disk before its name appears
            shutil.move(path, self.folder / path.name)

    def remove(self, step):
        """Remove one checkpoint, its checksums first."""
        names = {f"ckpt-{step}", f"data-{step}"}
        paths = [path for path in self.folder.iterdir() if path.name.split(".")[0] in names]
        for path in sorted(paths, key=lambda path: path.suffix != ".json"):
            path.unlink()

    def restore(self):
        """Read the newest undamaged checkpoint and go to its place in the data.

        Returns:
            int, its step; None if there is no checkpoint.

        Raises:
            ValueError: if all are damaged, or they are of another model or optimizer.
        """
        steps = self.steps()
        for step in reversed(steps):
            fault = self.find_fault(step)
            if fault is None:
                self.read(step)
                return step
            print(f"The checkpoint ckpt-{step} is damaged ({fault}).")
        if steps:
            raise ValueError(
                f"run_dir must hold an undamaged checkpoint, got {str(self.folder)!r}, where "
                f"{', '.join(f'ckpt-{step}' for step in steps)} are damaged: start again in "
                "another folder."
            )
        return None

    def find_fault(self, step):
        """Say what is wrong with the files of a checkpoint; None: nothing."""
        try:
            content = json.loads((self.folder / f"ckpt-{step}.json").read_text(encoding="utf-8"))
            sums = content["sha256"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return "its checksums cannot be read"
        for name, expected in sums:
            path = self.folder / Path(name).name
            if not path.is_file():
                return f"{name} is missing"
            if checksum(path) != expected:
                return f"{name} has other bytes than were written"
        return None

    def read(self, step):
        """Restore a verified checkpoint; raise if it is of another model or optimizer."""
        with ReadableCopy(self.folder, {f"ckpt-{step}", f"data-{step}"}) as folder:
            try:
                self.state.read(str(folder / f"ckpt-{step}")).assert_consumed()
            except Exception as error:  # TensorFlow raises many kinds here
                raise ValueError(
                    "run_dir must hold a checkpoint of this model and optimizer, got "
                    f"{str(self.folder)!r}, whose ckpt-{step} is of another one: make them as they "
                    "were, or start again in another folder."
                ) from error
            place = folder / f"data-{step}"
            has_place = (folder / f"data-{step}.index").exists()
            self.batches.seek(step, place if has_place else None)


class ReadableCopy:
    """A folder that TensorFlow can read from: the folder itself, or a copy of some files."""

    def __init__(self, folder, names):
        self.folder, self.names, self.copy = folder, names, None

    def __enter__(self):
        if not is_pattern(self.folder):
            return self.folder
        self.copy = tempfile.TemporaryDirectory(prefix="tfgpt-")
        for path in self.folder.iterdir():
            if path.name.split(".")[0] in self.names:
                shutil.copy(path, Path(self.copy.name) / path.name)
        return Path(self.copy.name)

    def __exit__(self, *error):
        if self.copy is not None:
            self.copy.cleanup()


def is_pattern(folder):
    """Say whether TensorFlow takes the path of a folder for a pattern."""
    return re.search(r"[\[\]*?\\]", str(folder.resolve())) is not None


def checksum(path):
    """Return the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
