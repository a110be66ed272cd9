"""Checkpoints: written whole, beside the training, verified when read.

A checkpoint holds weights, optimizer (moving averages and loss scale too), random states,
the place in the data and, where TensorFlow can write it, the state of the tf.data iterator.
A file with checksums is written last: a checkpoint without it, or with other bytes, is never
read. The files hold numbers only: nothing in them is executed.
"""

import json
import os
import re
import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np
from keras import ops

from tfgpt.bundle import digest_of
from tfgpt.validation import check_positive


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Path; made when something is written.
        model: Keras model; None to ask for steps and places only.
        optimizer: Keras optimizer, built; None to read the model alone.
        batches: Batches, or None.
        keep: int >= 1, how many checkpoints stay.
    """

    def __init__(self, folder, model, optimizer, batches, keep=2):
        self.folder = folder
        self.batches = batches
        self.keep = check_positive("keep_checkpoints", keep)
        # By number, not by name: Keras counts the names of layers on in one process.
        self.variables = {
            f"{owner}/{number}": variable
            for owner, part in (("model", model), ("optimizer", optimizer))
            for number, variable in enumerate(part.variables if part is not None else ())
        }
        self.writer = None  # the thread that writes
        self.error = None  # what went wrong in it

    def steps(self):
        """List the steps of the checkpoints, ascending."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        found = (re.fullmatch(r"ckpt-(\d+)\.json", name) for name in names)
        return sorted(int(match[1]) for match in found if match)

    def save(self, step, also=None):
        """Copy everything now and write it while training goes on.

        Args:
            step: int.
            also: function without arguments, called after the checkpoint is whole; None:
                nothing.

        Raises:
            OSError: if the checkpoint before could not be written; see `wait`.
        """
        self.wait()
        try:
            beside = self.make_room()
            self.batches.save(beside / f"data-{step}")
        except Exception as error:  # TensorFlow raises its own kinds
            raise self.failure(step, error) from error
        values = {name: copied(variable) for name, variable in self.variables.items()}
        place = self.batches.place_at(step)

        def work():
            try:
                self.write(step, place, values, beside)
                if also is not None:
                    also()
            except Exception as error:  # it is raised where somebody waits
                self.error = self.failure(step, error)
            finally:
                shutil.rmtree(beside, ignore_errors=True)

        # No daemon: a program that ends writes its last checkpoint whole.
        self.writer = threading.Thread(target=work, name="checkpoint")
        self.writer.start()

    def wait(self):
        """Wait until the last checkpoint is on the disk.

        Raises:
            OSError: if it could not be written; the ones before are still there.
        """
        if self.writer is not None:
            self.writer.join()
        error, self.writer, self.error = self.error, None, None
        if error is not None:
            raise error

    def make_room(self):
        """Make a folder for the files of a checkpoint; remove what a killed process left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob("part-*"):
            shutil.rmtree(left)
        place = None if is_pattern(self.folder) else self.folder
        return Path(tempfile.mkdtemp(prefix="part-", dir=place))

    def failure(self, step, error):
        """Make the error of a checkpoint that could not be written."""
        kept = self.steps()
        return OSError(
            f"The checkpoint of step {step} could not be written in {str(self.folder)!r}: "
            f"{str(error).splitlines()[0][:200]} "
            + (f"That of step {kept[-1]} is kept." if kept else "There is none before.")
        )

    def write(self, step, place, values, beside):
        """Write the files of a checkpoint to a folder, then move them, the checksums last."""
        write_arrays(beside / f"ckpt-{step}", values)
        paths = sorted(beside.iterdir())
        sums = {path.name: digest_of(path) for path in paths}
        ready = beside / f"ckpt-{step}.json"
        ready.write_text(json.dumps({"step": step, "place": place, "sha256": sums}))
        self.remove(step)  # an earlier one of the same step
        for path in (*paths, ready):
            with open(path, "rb+") as file:
                os.fsync(file.fileno())  # on the disk before its name appears
            shutil.move(path, self.folder / path.name)
        for old in self.steps()[: -self.keep]:
            self.remove(old)

    def remove(self, step):
        """Remove one checkpoint, its checksums first."""
        names = {f"ckpt-{step}", f"data-{step}"}
        paths = [path for path in self.folder.iterdir() if path.name.split(".")[0] in names]
        for path in sorted(paths, key=lambda path: path.suffix != ".json"):
            path.unlink()

    def restore(self, moves=True):
        """Read the newest undamaged checkpoint and go to its place in the data.

        Args:
            moves: bool, go to its place in the data; False: stay where it is.

        Returns:
            int, its step; None if there is no checkpoint.

        Raises:
            ValueError: if all are damaged, or they are of another model or optimizer.
        """
        steps = self.steps()
        for step in reversed(steps):
            fault = self.find_fault(step)
            if fault is None:
                self.read(step, moves)
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
            content = self.read_sums(step)
            sums = content["sha256"].items()
            is_whole = isinstance(content["place"], int) and content["place"] >= 0
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return "its checksums cannot be read"
        if not is_whole:
            return "its place in the data is no number"
        for name, expected in sums:
            path = self.folder / Path(name).name
            if not path.is_file():
                return f"{name} is missing"
            if digest_of(path) != expected:
                return f"{name} has other bytes than were written"
        return None

    def read_sums(self, step):
        """Read the file with the checksums and the place in the data."""
        return json.loads((self.folder / f"ckpt-{step}.json").read_text(encoding="utf-8"))

    def read(self, step, moves):
        """Restore a verified checkpoint; raise if it is of another model or optimizer."""
        with ReadableCopy(self.folder, {f"ckpt-{step}", f"data-{step}"}) as folder:
            try:
                read_arrays(folder / f"ckpt-{step}", self.variables)
            except Exception as error:  # TensorFlow raises many kinds here
                raise ValueError(
                    "run_dir must hold a checkpoint of this model and optimizer, got "
                    f"{str(self.folder)!r}, whose ckpt-{step} is of another one: "
                    f"{str(error).splitlines()[0][:200]} Make them as they were, or start again "
                    "in another folder."
                ) from error
            if moves:
                place = folder / f"data-{step}"
                has_state = (folder / f"data-{step}.index").exists()
                place_number = self.read_sums(step)["place"]
                self.batches.seek(step, place_number, place if has_state else None)


def copied(variable):
    """Return the value of a variable as an array of its own, which no later step changes."""
    return np.array(ops.convert_to_numpy(variable.value), copy=True)


def write_arrays(prefix, arrays):
    """Write named arrays in TensorFlow's checkpoint format."""
    import tensorflow as tf

    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(arrays),
        shape_and_slices=[""] * len(arrays),
        tensors=list(arrays.values()),
    )


def read_model(folder, step, model):
    """Give a model the weights of one checkpoint of a run, also while the run goes on.

    Args:
        folder: path of the run.
        step: int, of the checkpoint.
        model: built Keras model, made like the one that is trained.

    Raises:
        ValueError: if there is no such checkpoint, it is damaged, or of another model.
    """
    checkpoints = Checkpoints(Path(folder) / "checkpoint", model, None, None)
    steps = checkpoints.steps()
    if step not in steps:
        raise ValueError(f"step must be that of a checkpoint, {steps}, got {step!r}.")
    fault = checkpoints.find_fault(step)
    if fault is not None:
        raise ValueError(f"step must be that of an undamaged checkpoint, got {step}: {fault}.")
    with ReadableCopy(checkpoints.folder, {f"ckpt-{step}"}) as place:
        read_arrays(place / f"ckpt-{step}", checkpoints.variables, only="model/")


def read_arrays(prefix, variables, only=""):
    """Assign the arrays of a file to variables; raise unless names, shapes and types are equal.

    With `only`, arrays of other names are passed over.
    """
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(prefix))
    types, shapes = reader.get_variable_to_dtype_map(), reader.get_variable_to_shape_map()
    found = {
        name: (types[name].name, tuple(shape))
        for name, shape in shapes.items()
        if name.startswith(only)
    }
    wanted = {name: (str(v.dtype), tuple(v.shape)) for name, v in variables.items()}
    for name in sorted(found | wanted):
        if found.get(name) != wanted.get(name):
            path = getattr(variables.get(name), "path", name)
            raise ValueError(
                f"{path} is {found.get(name, 'missing')} there, {wanted.get(name, 'nothing')} here."
            )
    for name, variable in variables.items():
        variable.assign(reader.get_tensor(name))


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


def newest_place(folder):
    """Return step and place in the data of the newest undamaged checkpoint, or (0, 0)."""
    checkpoints = Checkpoints(folder, None, None, None)
    for step in reversed(checkpoints.steps()):
        if checkpoints.find_fault(step) is None:
            return step, checkpoints.read_sums(step)["place"]
    return 0, 0
