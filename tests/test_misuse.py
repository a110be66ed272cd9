"""Likely mistakes of users: each gets one clear error, and nothing already written is lost."""

from pathlib import Path

import keras
import numpy as np
import pytest

import tfgpt
from tfgpt import data, plotting
from tfgpt.positional import PositionalEmbedding
from tfgpt.run_folder import set_aside
from tfgpt.tasks import demo
from tfgpt.training import evaluate, make_train_step, train

IDS = np.array([[1, 2, 3]])


def small_gpt(**options):
    return tfgpt.GPT(10, context_length=8, num_layers=1, d_model=8, num_heads=2, **options)


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_training_into_the_folder_of_another_run_is_refused_and_loses_nothing(tmp_path):
    batches = [(IDS, IDS)]
    train(small_gpt(), batches, 3, run_dir=tmp_path, progress=False)
    before = (tmp_path / "history.csv").read_bytes()
    with pytest.raises(ValueError, match="run_dir must not hold another run.*resume=True"):
        train(small_gpt(), batches, 3, run_dir=tmp_path, progress=False)
    assert (tmp_path / "history.csv").read_bytes() == before


def test_a_new_demo_sets_earlier_ones_aside(tmp_path):
    for content in ("first", "second"):
        (tmp_path / "demo").mkdir()
        (tmp_path / "demo" / "history.csv").write_text(content)
        (tmp_path / "demo" / "config.json").write_text('{"class_name": "GPT", "run": {}}')
        set_aside(tmp_path / "demo")
    set_aside(tmp_path / "demo")  # nothing there: nothing to do
    assert (tmp_path / "demo.1" / "history.csv").read_text() == "first"
    assert (tmp_path / "demo.2" / "history.csv").read_text() == "second"
    assert not (tmp_path / "demo").exists()


def test_a_folder_that_is_no_run_is_never_renamed(tmp_path, monkeypatch):
    """A thesis may hold a history.csv too; and nobody renames the folder that one stands in."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "history.csv").write_text("year,event")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"class_name": "GPT", "run": {}}')
    monkeypatch.chdir(tmp_path / "run")
    for folder in (tmp_path / "thesis", Path(), tmp_path / "run"):
        with pytest.raises(ValueError, match="run_dir must be a new folder or that of an earlier"):
            set_aside(folder)
    assert (tmp_path / "thesis" / "history.csv").read_text() == "year,event"
    assert (tmp_path / "run").exists()


def test_a_text_too_short_for_the_demo_is_refused_with_the_length_it_needs(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("To be, or not to be. " * 30)
    with pytest.raises(ValueError, match="corpus must have more than 1,285 characters.*got 630"):
        demo.run_demo(path, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_length_that_the_demo_asks_for_is_enough():
    context = demo.SETTINGS["char"].context_length
    for length in (10 * context + 5, 10 * context + 6):
        _, held_out = data.split_held_out(np.zeros(length, "int32"))
        assert (len(held_out) > context) == (length > 10 * context + 5)


def test_a_text_that_is_one_long_repetition_has_too_few_byte_pairs_for_the_demo(tmp_path):
    path = tmp_path / "repeated.txt"
    path.write_text("a" * 2000)
    with pytest.raises(ValueError, match="corpus must give more than 128 byte pairs.*got "):
        demo.run_demo(path, run_dir=tmp_path / "run", tokenizer="bpe")
    assert not (tmp_path / "run").exists()


@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
def test_a_sequence_too_long_for_a_compiled_model_gives_nan_not_numbers(positions):
    import tensorflow as tf

    model = small_gpt(positions=positions)
    run = tf.function(model, input_signature=[tf.TensorSpec((None, None), tf.int32)])
    assert np.isfinite(run(np.ones((1, 8), "int32"))).all()
    assert np.isnan(run(np.ones((1, 9), "int32"))[0, 8]).all()


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_the_training_step_refuses_a_longer_sequence_after_shorter_ones():
    step = make_train_step(small_gpt(), "adam", jit_compile=False)
    for length in (3, 4, 5):
        ids = np.ones((1, length), "int32")
        step((ids, ids))
    ids = np.ones((1, 9), "int32")
    with pytest.raises(ValueError, match="token_ids must have at most context_length=8.*got 9"):
        step((ids, ids))


@pytest.mark.requires_tensorflow
def test_the_transformer_step_names_a_missing_target():
    model = tfgpt.Transformer(1, 8, 2, 16, 10, 10, max_length=8)
    step = make_train_step(model, "adam")
    with pytest.raises(ValueError, match='must be a dict with "source" and "target"'):
        step(({"source": IDS}, IDS))
    long = {"source": np.ones((1, 9), "int32"), "target": IDS}
    with pytest.raises(ValueError, match="source must have at most max_length=8.*got 9"):
        step((long, IDS))


@pytest.mark.requires_tensorflow
def test_export_serves_any_batch_and_length_without_a_signature(tmp_path):
    import tensorflow as tf

    model = small_gpt()
    model.export(tmp_path / "export", verbose=False)
    served = tf.saved_model.load(tmp_path / "export")
    for shape in ((1, 2), (3, 8)):
        ids = np.ones(shape, "int32")
        np.testing.assert_allclose(served.serve(ids), model(ids), atol=1e-5)


def test_a_symbolic_length_is_refused_by_the_causal_mask():
    token_ids = keras.Input((None,), dtype="int32")
    with pytest.raises(ValueError, match="query_length must be known, got None"):
        tfgpt.causal_mask(keras.ops.shape(token_ids)[1])


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_a_pure_half_precision_policy_works(positions):
    layer = PositionalEmbedding(10, 8, 8, positions=positions, dtype="bfloat16")
    assert keras.backend.standardize_dtype(layer(IDS).dtype) == "bfloat16"


@pytest.mark.requires_tensorflow
def test_the_training_step_clips_in_pure_bfloat16():
    step = make_train_step(small_gpt(dtype="bfloat16"), "sgd", clip_norm=0.01)
    result = step((IDS, IDS))
    assert np.isfinite(float(result["gradient_norm"])) and float(result["gradient_norm"]) > 0.01


def test_attention_refuses_inputs_that_are_no_batch_of_sequences():
    layer = tfgpt.MultiHeadAttention(2, 8)
    with pytest.raises(ValueError, match=r"key must have shape \(batch, length, features\)"):
        layer(np.ones((1, 3, 8), "float32"), np.ones((1, 1, 3, 8), "float32"))


def test_a_decoder_layer_without_cross_attention_refuses_a_cross_mask():
    layer = tfgpt.DecoderLayer(8, 2, 16, cross_attention=False)
    with pytest.raises(ValueError, match="cross_mask must be None when cross_attention=False"):
        layer(np.ones((1, 3, 8), "float32"), cross_mask=np.ones((1, 1, 3, 3), bool))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tfgpt.padding_mask(IDS, pad_id=None), ValueError, "pad_id must be an integer"),
        (lambda: tfgpt.generate(small_gpt(), IDS, 2, seed=-1), ValueError, "seed must be .*got -1"),
        (lambda: tfgpt.generate(small_gpt(), IDS, 2, temperature="a"), ValueError, "temperature"),
        (lambda: tfgpt.generate(small_gpt(), IDS, 2, top_p="a"), ValueError, "top_p must be in"),
        (lambda: tfgpt.generate(keras.Sequential(), IDS, 2), TypeError, "attribute vocab_size"),
        (
            lambda: plotting.plot_attention_weights({"decoder/0/self": np.ones((1, 1, 2, 2))}),
            TypeError,
            r"'decoder/0/self': choose a layer and one sequence .* weights\[name\]\[0\]",
        ),
        (lambda: plotting.plot_attention_weights(np.ones((0, 2, 2))), ValueError, "weights must"),
        (lambda: plotting.plot_history({"loss": [1.0]}), TypeError, "rows that train returns"),
    ],
)
def test_other_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_gpt_takes_lists():
    model = small_gpt()
    np.testing.assert_array_equal(model([[1, 2, 3]]), model(IDS))


def test_a_transformer_refuses_different_batch_sizes():
    model = tfgpt.Transformer(1, 8, 2, 16, 10, 10, max_length=8)
    with pytest.raises(ValueError, match="the same batch size, got 1 and 2"):
        model({"source": IDS, "target": np.ones((2, 3), "int32")})


def test_a_seed_may_be_a_numpy_integer():
    tfgpt.set_seed(np.int64(3))
    first = keras.random.uniform((2,))
    tfgpt.set_seed(3)
    np.testing.assert_array_equal(first, keras.random.uniform((2,)))


def test_evaluation_on_another_backend_says_what_to_use(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="make_evaluation_step needs the TensorFlow backend"):
        evaluate(small_gpt(), [(IDS, IDS)])


def test_pooling_with_the_padding_mask_does_not_see_padding():
    """The small classifier that the README shows."""
    token_ids = keras.Input((None,), dtype="int32")
    x = PositionalEmbedding(vocab_size=1000, d_model=64, max_length=128)(token_ids)
    x = tfgpt.EncoderLayer(64, num_heads=4, dff=256)(x, mask=tfgpt.padding_mask(token_ids))
    x = keras.layers.GlobalAveragePooling1D()(x, mask=keras.ops.not_equal(token_ids, 0))
    model = keras.Model(token_ids, keras.layers.Dense(2)(x))
    short, padded = np.array([[5, 6, 7]]), np.array([[5, 6, 7, 0, 0, 0]])
    np.testing.assert_allclose(model(short), model(padded), atol=1e-5)
