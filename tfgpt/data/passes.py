"""Any dataset as batches without end, from any place on."""

import contextlib
import itertools


class Batches:
    """The batches of a dataset, again and again, from any place on.

    The place is a number: of batches read, or of examples read if the dataset counts those.

    Args:
        dataset: tf.data.Dataset; list or other sequence; function that returns an
            iterator, called again for each pass; an iterable; or an object with
            `batches_from(place)`, `batch_size` and `fingerprint`, such as `TokenBatches`. An
            iterator has one pass.

    Raises:
        ValueError: when used, if the dataset is empty.
    """

    def __init__(self, dataset):
        import tensorflow as tf

        self.dataset = dataset
        self.counts_examples = hasattr(dataset, "batches_from")
        self.is_tf_data = isinstance(dataset, tf.data.Dataset)
        self.is_sequence = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        self.start_step, self.start_place = 0, 0
        self.pending = None  # a batch that was looked at
        self.iterator = self.start(0)

    def start(self, place):
        """Make an iterator that begins at a place."""
        if self.counts_examples:
            return self.dataset.batches_from(place)
        if self.is_tf_data:
            repeated = self.dataset.repeat()
            return iter(repeated.skip(place) if place else repeated)
        if self.is_sequence:
            size = len(self.dataset)
            return (self.dataset[i % size] for i in itertools.count(place)) if size else iter(())
        if callable(self.dataset):
            return itertools.islice(self.passes(), place, None)
        is_iterator = hasattr(self.dataset, "__next__")
        batches = self.dataset if is_iterator else itertools.cycle(self.dataset)
        return itertools.islice(batches, place, None)

    def passes(self):
        """Call the function of the dataset for one pass after the other."""
        while True:
            batch = None
            for batch in self.dataset():
                yield batch
            if batch is None:
                return

    def first(self):
        """Return the first batch, which `take` will return too; None if it would be used up."""
        if not self.is_tf_data and hasattr(self.dataset, "__next__"):
            return None
        # From the iterator itself: another one would change the order of a shuffle.
        self.pending = next(self.iterator, None)
        if self.pending is None:
            raise ValueError("dataset must yield at least one batch.")
        return self.pending

    def take(self):
        """Return the next batch, or None at the end."""
        batch, self.pending = self.pending, None
        return next(self.iterator, None) if batch is None else batch

    def place_at(self, step):
        """Return the place after so many steps."""
        per_step = self.dataset.batch_size if self.counts_examples else 1
        return self.start_place + (step - self.start_step) * per_step

    def describe(self, step):
        """Say which part of the data a step has read."""
        if not self.counts_examples:
            return f"batch number {self.place_at(step)}"
        return f"examples {self.place_at(step - 1) + 1:,} to {self.place_at(step):,}"

    def stay(self, step, place):
        """Count on from another step without moving in the data."""
        self.start_step, self.start_place = step, place

    def seek(self, step, place, path):
        """Go to a place after a step, by the saved state at `path` if there is one."""
        import tensorflow as tf

        self.stay(step, place)
        self.pending = None
        if path is not None and self.is_tf_data:
            tf.train.Checkpoint(iterator=self.iterator).read(str(path)).assert_consumed()
            return
        if not self.is_sequence and not self.counts_examples and place:
            print(f"Reading {place:,} batches again, to go on behind them.")
        self.iterator = self.start(place)

    def save(self, path):
        """Write the state of the iterator, if that is possible."""
        import tensorflow as tf

        # A Python generator, say, cannot be written.
        cannot = (tf.errors.FailedPreconditionError, tf.errors.UnimplementedError, ValueError)
        if self.is_tf_data:
            with contextlib.suppress(*cannot):
                tf.train.Checkpoint(iterator=self.iterator).write(str(path))
