"""Tests of tfgpt.callbacks in Keras's `fit`; tests/test_pretrain.py has them in `train`."""

import keras
import numpy as np
import pytest

from tfgpt import GPT, CharTokenizer, MaskedLoss
from tfgpt.callbacks import KeepRun, SampleText, TensorBoardLog
from tfgpt.data.token_batches import TokenBatches
from tfgpt.run_folder import RunLock

pytestmark = pytest.mark.requires_tensorflow

TOKENIZER = CharTokenizer("abcdefgh")
CORPUS = np.random.default_rng(0).integers(1, 9, 200)


def make_fit(seed=0, dropout=0.2):
    """Make a compiled model."""
    keras.utils.set_random_seed(seed)
    model = GPT(9, 8, num_layers=1, d_model=8, num_heads=2, dropout=dropout, pad_id=0)
    model.compile(keras.optimizers.Adam(0.01), loss=MaskedLoss())
    return model


def fit(model, epochs, callbacks, batches=None):
    batches = batches or TokenBatches(CORPUS, 8, batch_size=4)
    model.fit(batches, epochs=epochs, verbose=0, callbacks=callbacks, shuffle=False)
    return [np.array(w) for w in [*model.weights, *model.optimizer.variables]]


@pytest.mark.slow
def test_samples_come_at_every_so_many_batches_of_all_epochs(tmp_path, capsys):
    """Six batches an epoch; a sample after 5, 10, 15."""
    path = tmp_path / "samples.txt"
    fit(make_fit(), 3, [SampleText(TOKENIZER, "ab", 5, path, num_tokens=4)])
    samples = path.read_text().split("--- ")[1:]
    assert [sample.split("\n")[0] for sample in samples] == ["5", "10", "15"]
    # Padding has no text, so a sample may be shorter than 2 + 4 characters.
    assert all(sample.split("\n")[1].startswith("ab") for sample in samples)
    assert "After 10 steps: ab" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sample_leaves_the_training_as_it_was(tmp_path):
    plain = fit(make_fit(), 2, [])
    sampled = fit(make_fit(), 2, [SampleText(TOKENIZER, "ab", 2, num_tokens=3)])
    for one, other in zip(plain, sampled, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_fit_goes_on_where_it_stopped_bit_for_bit(tmp_path):
    """Weights, optimizer, dropout and the place in the data: 1 + 1 epochs are 2."""
    whole = fit(make_fit(), 2, [])
    for seed, epochs in ((0, 1), (99, 1)):
        batches = TokenBatches(CORPUS, 8, batch_size=4)
        model = make_fit(seed)
        weights = fit(model, epochs, [KeepRun(tmp_path, every=4, batches=batches)], batches)
    for one, other in zip(whole, weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert sorted(path.name for path in (tmp_path / "checkpoint").glob("*.json")) == [
        "ckpt-12.json",
        "ckpt-8.json",
    ]
    with RunLock(tmp_path), pytest.raises(ValueError, match="must not be in use"):
        fit(make_fit(), 1, [KeepRun(tmp_path)])


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C after a step."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_after_ctrl_c_a_notebook_begins_again_in_the_same_folder(tmp_path, capsys):
    """The cell is run again, while the name of its first callback still holds it."""
    first = KeepRun(tmp_path, every=2)
    with pytest.raises(KeyboardInterrupt):
        fit(make_fit(), 1, [first, Interrupt()])
    with pytest.raises(ValueError, match="must not be in use"), RunLock(tmp_path):
        pass
    fit(make_fit(), 1, [KeepRun(tmp_path, every=2)])
    assert "Going on from step 2" in capsys.readouterr().out
    with RunLock(tmp_path):
        pass


@pytest.mark.slow
def test_tensorboard_reads_what_fit_writes(tmp_path):
    import tensorflow as tf

    callback = TensorBoardLog(tmp_path, TOKENIZER, "ab", every=3)
    model = make_fit()
    batches = TokenBatches(CORPUS, 8, batch_size=4)
    model.fit(batches, epochs=2, verbose=0, callbacks=[callback], validation_data=batches)
    (path,) = tmp_path.iterdir()
    steps = {}
    for record in tf.data.TFRecordDataset(str(path)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            steps.setdefault(value.tag, []).append(event.step)
    assert steps["loss"] == [3, 6, 9, 12]
    assert steps["val_loss"] == steps["sample"] == steps["attention"] == [6, 12]


@pytest.mark.parametrize("every", [0, 1.5, "often"])
def test_a_wrong_interval_is_refused(every):
    with pytest.raises(ValueError, match="every must be an integer >= 1"):
        SampleText(TOKENIZER, "a", every)
