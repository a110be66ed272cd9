"""Keras callbacks for `train` and for `fit`: samples of text, TensorBoard, checkpoints.

Other callbacks work in `train(callbacks=...)` too: those of Keras, of W&B
(`wandb.integration.keras.WandbMetricsLogger`) and of MLflow (`mlflow.keras.MlflowCallback`).
On the TensorFlow backend.
"""

import importlib.util
import io
import weakref
from pathlib import Path

import keras
import numpy as np

from tfgpt.checkpoints import Checkpoints
from tfgpt.data.passes import Batches
from tfgpt.generation import generate
from tfgpt.replicas import strategy_of
from tfgpt.run_folder import RunLock
from tfgpt.validation import check_positive


class EverySteps(keras.callbacks.Callback):
    """Call `act` every so many steps, counted over all epochs.

    Args:
        every: int >= 1.
    """

    def __init__(self, every):
        super().__init__()
        self.every = check_positive("every", every)
        self.step = self.before = 0

    def on_epoch_begin(self, epoch, logs=None):
        """Begin to count batches from 0, as `fit` does in each epoch."""
        self.before = self.step

    def on_train_batch_end(self, batch, logs=None):
        """Count, and act."""
        self.step = self.before + batch + 1
        if self.step % self.every == 0:
            self.act(self.step, logs or {})

    def act(self, step, logs):
        """Do what the callback is for."""
        raise NotImplementedError


class SampleText(EverySteps):
    """Write a sample of text now and then: one sees what the model learns.

    Args:
        tokenizer: tokenizer of the model.
        prompt: str of at least one token.
        every: int >= 1, steps between two samples.
        path: file that the samples are added to; None: print them only.
        num_tokens: int >= 1, the length of a sample.

    Example:
        >>> from tfgpt import CharTokenizer
        >>> callback = SampleText(CharTokenizer("abc"), "a", every=100)
    """

    def __init__(self, tokenizer, prompt, every, path=None, num_tokens=100):
        super().__init__(every)
        self.tokenizer, self.prompt = tokenizer, prompt
        self.path = None if path is None else Path(path)
        self.num_tokens = check_positive("num_tokens", num_tokens)

    def act(self, step, logs):
        text = sample(self.model, self.tokenizer, self.prompt, self.num_tokens, step)
        print(f"\nAfter {step:,} steps: {text}\n")
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(f"--- {step}\n{text}\n")


def sample(model, tokenizer, prompt, num_tokens, seed):
    """Continue a text; the random numbers of the training stay as they are."""
    ids, model = tokenizer.encode(prompt), alone(model)
    return tokenizer.decode(generate(model, ids, num_tokens, temperature=0.8, seed=seed)[0])


def alone(model):
    """Return a model that this process can call without the others: a copy, where they share it."""
    if strategy_of(model) is None:
        return model
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


class TensorBoardLog(EverySteps):
    """Write what TensorBoard shows: losses, samples, attention, histograms of the weights.

    `tensorboard --logdir FOLDER` shows it while the training goes on.

    Args:
        folder: path.
        tokenizer: tokenizer of the model; None: no samples and no attention.
        prompt: str of at least one token, what samples begin with.
        every: int >= 1, steps between two points of a curve.
    """

    def __init__(self, folder, tokenizer=None, prompt="\n", every=10):
        super().__init__(every)
        self.folder, self.tokenizer, self.prompt = str(folder), tokenizer, prompt
        self.writer = None

    def on_train_begin(self, logs=None):
        """Open the file."""
        import tensorflow as tf

        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError("TensorBoardLog needs tensorboard: pip install tfgpt[tensorboard].")
        self.writer = tf.summary.create_file_writer(self.folder)

    def act(self, step, logs):
        self.write_scalars(step, logs)

    def write_scalars(self, step, logs):
        """Add a point to each curve."""
        import tensorflow as tf

        with self.writer.as_default(step=step):
            for name, value in logs.items():
                tf.summary.scalar(name, value)

    def on_epoch_end(self, epoch, logs=None):
        """Write held-out losses, histograms, a sample and its attention."""
        import tensorflow as tf

        held_out = {name: value for name, value in (logs or {}).items() if "val" in name}
        self.write_scalars(self.step, held_out)
        with self.writer.as_default(step=self.step):
            for weight in self.model.trainable_weights:
                tf.summary.histogram(weight.path, weight.value)
            if self.tokenizer is not None:
                text = sample(self.model, self.tokenizer, self.prompt, 100, self.step)
                tf.summary.text("sample", text)
                tf.summary.image("attention", self.attention_image(text))
        self.writer.flush()

    def attention_image(self, text):
        """Draw the weights of the last layer on the beginning of a text: uint8 (1, h, w, 4)."""
        import tensorflow as tf

        from tfgpt.plotting import plot_attention_weights

        token_ids = self.tokenizer.encode(text)[: min(24, self.model.context_length)]
        _, weights = self.model(np.array(token_ids)[None], return_attention_weights=True)
        name = list(weights)[-1]
        labels = [self.tokenizer.id_to_token(int(token_id)) for token_id in token_ids]
        figure = plot_attention_weights(weights[name][0], labels, title=name)
        content = io.BytesIO()
        figure.savefig(content, format="png")
        return tf.io.decode_png(content.getvalue(), channels=4)[None]

    def on_train_end(self, logs=None):
        """Close the file."""
        self.writer.close()


class KeepRun(EverySteps):
    """Write checkpoints during `fit`, and go on from the last one when `fit` is called again.

    `train` does so itself. Weights, optimizer and random states are restored; the place in
    the data too, if `fit` reads a `TokenBatches` that is named here.

    A `fit` that was stopped by Ctrl-C has let go of the folder when the next one begins there.

    Args:
        run_dir: folder to write to; no other process may use it.
        every: int >= 1, steps between checkpoints; also at the end.
        batches: TokenBatches that `fit` reads, or None.
        keep: int >= 1, how many checkpoints stay.

    Raises:
        ValueError: when `fit` begins, if the folder is in use, or its checkpoints are damaged
            or of another model.
    """

    holders = weakref.WeakValueDictionary()  # by folder: who has its lock in this process

    def __init__(self, run_dir, every=500, batches=None, keep=2):
        super().__init__(every)
        self.folder, self.batches, self.keep = Path(run_dir), batches, keep
        self.checkpoints = self.lock = None

    def on_train_begin(self, logs=None):
        """Take the folder, from an earlier `fit` of this process too, and restore what is in it."""
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        earlier = KeepRun.holders.get(self.folder.resolve())
        if earlier is not None:
            earlier.let_go()
        self.lock = RunLock(self.folder)
        self.lock.__enter__()
        KeepRun.holders[self.folder.resolve()] = self
        passes = Batches([0] if self.batches is None else self.batches)
        self.checkpoints = Checkpoints(
            self.folder / "checkpoint", self.model, optimizer, passes, self.keep
        )
        self.step = self.checkpoints.restore() or 0
        if self.step:
            print(f"Going on from step {self.step} in {self.folder}.")
            if self.batches is not None:
                self.batches.first = passes.start_place

    def act(self, step, logs):
        self.checkpoints.save(step)

    def on_train_end(self, logs=None):
        """Write the last checkpoint and give the folder free."""
        try:
            self.checkpoints.save(self.step)
        finally:
            self.let_go()

    def let_go(self):
        """Wait for the last checkpoint and give the folder free."""
        try:
            if self.checkpoints is not None:
                self.checkpoints.wait()
        finally:
            KeepRun.holders.pop(self.folder.resolve(), None)
            self.lock.__exit__()
