"""Models survive on disk: .keras files in a new process, and SavedModel exports."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from layer_check import assert_close, assert_identical, randomize, to_numpy

from tfgpt.attention import MultiHeadAttention
from tfgpt.gpt import GPT
from tfgpt.layers import DecoderLayer, EncoderLayer, FeedForward, gelu_tanh
from tfgpt.losses import masked_loss
from tfgpt.positional import PositionalEmbedding
from tfgpt.transformer import Decoder, Encoder, Transformer

IDS = np.array([[3, 4, 5, 0], [6, 1, 2, 4]], "int32")

# Only `import tfgpt`: no custom_objects. Writes the outputs and weights of each model.
LOADER = """
import pathlib, sys
import keras, numpy as np
import tfgpt

folder = pathlib.Path(sys.argv[1])
ids = np.load(folder / "ids.npy")
for path in sorted(folder.glob("*.keras")):
    model = keras.saving.load_model(path)
    inputs = {"source": ids, "target": ids} if path.stem == "transformer" else ids
    arrays = {f"weight_{i:03}": w for i, w in enumerate(model.get_weights())}
    output = keras.ops.convert_to_numpy(model(inputs))
    np.savez(path.with_suffix(".npz"), output=output, **arrays)
"""


def sequential():
    """Keras's own embedding with its mask, and a stack of our layers."""
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(7, 8, mask_zero=True),
            EncoderLayer(8, 2, 12),
            FeedForward(8, 12, activation=gelu_tanh),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(3),
        ]
    )


def functional():
    """Every layer of the package in one graph."""
    ids = keras.Input((None,), dtype="int32")
    x = PositionalEmbedding(7, 8, 10, positions="learned")(ids)
    memory = Encoder(1, 8, 2, 12, 7, 10)(ids)
    x = DecoderLayer(8, 2, 12)(x, memory)
    x = MultiHeadAttention(2, 8)(x, memory)
    return keras.Model(ids, x + Decoder(1, 8, 2, 12, 7, 10)(ids, memory))


def gpt(**settings):
    return GPT(7, 10, 2, 8, 2, dff=12, activation=gelu_tanh, pad_id=0, **settings)


def compiled_gpt():
    model = gpt(positions="rotary", tie_embeddings=False)
    model.compile(optimizer="adam", loss=masked_loss)
    return model


MODELS = {
    "sequential": sequential,
    "functional": functional,
    "gpt": gpt,
    "gpt_compiled": compiled_gpt,
    "gpt_bfloat16": lambda: gpt(dtype="mixed_bfloat16"),
    "transformer": lambda: Transformer(1, 8, 2, 12, 7, 7, 10, norm_first=True),
}


@pytest.mark.slow
def test_saved_models_load_in_a_new_process_without_custom_objects(rng, tmp_path):
    np.save(tmp_path / "ids.npy", IDS)
    models = {name: randomize(make(), rng) for name, make in MODELS.items()}
    for name, model in models.items():
        model.save(tmp_path / f"{name}.keras")
    subprocess.run([sys.executable, "-c", LOADER, str(tmp_path)], check=True, timeout=300)
    for name, model in models.items():
        loaded = np.load(tmp_path / f"{name}.npz")
        weights = [loaded[key] for key in sorted(loaded.files) if key != "output"]
        assert len(weights) == len(model.get_weights()) > 0
        assert_identical(weights, model.get_weights())
        inputs = {"source": IDS, "target": IDS} if name == "transformer" else IDS
        assert_close(loaded["output"], to_numpy(model(inputs)), 1e-6)


@pytest.mark.parametrize("name", ["gpt", "transformer"])
def test_weight_files_fit_a_new_model_that_was_never_called(rng, name, tmp_path):
    model = randomize(MODELS[name](), rng)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = MODELS[name]()
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert_identical(fresh.get_weights(), model.get_weights())


@pytest.mark.slow
@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_an_exported_gpt_takes_any_batch_and_length(rng, positions, tmp_path):
    import tensorflow as tf

    model = randomize(gpt(positions=positions), rng)
    spec = keras.InputSpec(shape=(None, None), dtype="int32")
    model.export(tmp_path / "export", input_signature=[spec], verbose=False)
    served = tf.saved_model.load(tmp_path / "export")
    for ids in (IDS, IDS[:1, :2], np.ones((3, 10), "int32")):
        assert_close(served.serve(ids), model(ids), 1e-5)


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_an_exported_transformer_takes_any_batch_and_lengths(rng, tmp_path):
    import tensorflow as tf

    model = randomize(MODELS["transformer"](), rng)
    spec = tf.TensorSpec((None, None), tf.int32)
    model.export(
        tmp_path / "export", input_signature=[{"source": spec, "target": spec}], verbose=False
    )
    served = tf.saved_model.load(tmp_path / "export")
    for source, target in ((IDS, IDS[:, :2]), (IDS[:1, :3], IDS[:1])):
        ids = {"source": source, "target": target}
        assert_close(served.serve(ids), model(ids), 1e-5)
