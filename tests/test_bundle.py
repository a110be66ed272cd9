"""Tests of tfgpt.bundle: what is saved comes back, and nothing else is read."""

import json
import pickle

import keras
import numpy as np
import pytest
from layer_check import assert_identical, randomize
from safetensors.numpy import load_file, save_file

from tfgpt import GPT, BPETokenizer, CharTokenizer, Transformer
from tfgpt.bundle import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    load_bundle,
    read_config,
    save_bundle,
    write_config,
    write_weights,
)
from tfgpt.layers import gelu_tanh
from tfgpt.tokenizers import load_tokenizer

CHAR = CharTokenizer.train("abc 月\n")


def gpt(**settings):
    return GPT(7, 6, 2, 8, 2, **settings)


def float32_arrays(model):
    return [keras.ops.convert_to_numpy(keras.ops.cast(w, "float32")) for w in model.weights]


@pytest.fixture
def saved(tmp_path):
    """A folder with a model of random weights."""
    save_bundle(tmp_path, randomize(gpt(), np.random.default_rng(0)), CHAR)
    return tmp_path


MODELS = {
    "gpt": lambda: gpt(pad_id=0, activation=gelu_tanh, norm_first=False),
    "gpt_rotary": lambda: gpt(positions="rotary", tie_embeddings=False, use_bias=False),
    "gpt_named": lambda: gpt(name="decoder_0"),
    "gpt_mixed": lambda: gpt(dtype="mixed_bfloat16"),
    "gpt_float16": lambda: gpt(dtype="float16"),
    "transformer": lambda: Transformer(1, 8, 2, 12, 7, 7, 10, tie_embeddings=True),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_bit_of_a_model_comes_back(rng, name, tmp_path):
    model = randomize(MODELS[name](), rng)
    save_bundle(tmp_path / "new" / "folder", model, CHAR)
    loaded, tokenizer = load_bundle(tmp_path / "new" / "folder")
    assert type(loaded) is type(model) and loaded.get_config() == model.get_config()
    assert [w.dtype for w in loaded.weights] == [w.dtype for w in model.weights]
    assert_identical(float32_arrays(loaded), float32_arrays(model))
    assert tokenizer.tokens == CHAR.tokens


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_in_16_bits_are_rounded_once_and_halve_the_file(rng, dtype, tmp_path):
    model = randomize(gpt(), rng)
    save_bundle(tmp_path / "full", model)
    save_bundle(tmp_path / "half", model, dtype=dtype)
    loaded, tokenizer = load_bundle(tmp_path / "half")
    assert tokenizer is None and loaded.weights[0].dtype == "float32"
    rounded = [keras.ops.cast(keras.ops.cast(w, dtype), "float32") for w in model.weights]
    assert_identical(loaded.get_weights(), [keras.ops.convert_to_numpy(w) for w in rounded])
    full, half = (load_file(tmp_path / name / WEIGHTS) for name in ("full", "half"))
    assert sum(a.nbytes for a in full.values()) == 2 * sum(a.nbytes for a in half.values())
    save_bundle(tmp_path / "again", loaded, dtype=dtype)
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "half" / WEIGHTS).read_bytes()


def test_the_tokenizer_file_says_which_class_it_is(tmp_path):
    for tokenizer in (CHAR, BPETokenizer.train("ab ab", vocab_size=260)):
        tokenizer.save(tmp_path / TOKENIZER)
        loaded = load_tokenizer(tmp_path / TOKENIZER)
        assert type(loaded) is type(tokenizer)
        assert loaded.encode("ab").tolist() == tokenizer.encode("ab").tolist()


def test_facts_stand_beside_the_configuration(tmp_path):
    write_config(tmp_path, gpt(), run={"seed": 3, "text": "明月"})
    config = read_config(tmp_path)
    assert config["run"] == {"seed": 3, "text": "明月"} and config["class_name"] == "GPT"
    assert config["versions"]["keras"] == keras.__version__
    with pytest.raises(ValueError, match="facts must have names of their own, got config"):
        write_config(tmp_path, gpt(), config=1)


def test_an_interrupted_write_leaves_the_old_file_and_no_other(saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    model = gpt()
    model.weights[0].assign(np.full(model.weights[0].shape, np.nan))
    with pytest.raises(ValueError, match="weights must be finite in float32, got 'embedding"):
        write_weights(saved, model)
    with pytest.raises(TypeError, match="JSON serializable"):
        write_config(saved, model, run=object())
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_weights_and_facts_of_any_model_can_be_written(rng, tmp_path):
    """A run folder holds them; only a GPT or Transformer is made from one again."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="a")])
    write_config(tmp_path, model, run={"seed": 1})
    write_weights(tmp_path, model)
    assert sorted(load_file(tmp_path / WEIGHTS)) == ["a/bias", "a/kernel"]
    assert read_config(tmp_path)["class_name"] == "Sequential"
    with keras.name_scope("outer"):
        inner = randomize(gpt(), rng)
    save_bundle(tmp_path, inner)
    assert_identical(float32_arrays(load_bundle(tmp_path)[0]), float32_arrays(inner))


def test_a_number_too_large_for_float16_is_refused(tmp_path):
    model = gpt()
    model.weights[0].assign(np.full(model.weights[0].shape, 1e5))
    with pytest.raises(ValueError, match="finite in float16"):
        write_weights(tmp_path, model, "float16")
    write_weights(tmp_path, model, "bfloat16")
    with pytest.raises(ValueError, match="dtype must be one of 'float32', .* got 'int8'"):
        write_weights(tmp_path, model, "int8")


@pytest.mark.filterwarnings("ignore")  # quantize names the layers it leaves alone
def test_a_model_with_other_weights_than_its_configuration_makes_is_refused(tmp_path):
    adapted = gpt()
    adapted.decoder_layers[0].feed_forward.expand.enable_lora(2)
    with pytest.raises(ValueError, match="save it without LoRA"):
        save_bundle(tmp_path / "new", adapted)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # quantize names the layers it leaves alone
def test_a_quantized_model_comes_back_bit_for_bit(tmp_path):
    model = gpt()
    model.quantize("int8")
    save_bundle(tmp_path, model)
    loaded, _ = load_bundle(tmp_path)
    ids = np.array([[1, 2, 3]])
    np.testing.assert_array_equal(loaded(ids), model(ids))


def test_only_the_two_models_are_saved_and_made(saved):
    with pytest.raises(TypeError, match="must be a GPT or Transformer, got Sequential"):
        save_bundle(saved, keras.Sequential())
    for name in ("Sequential", "Lambda", "os.system", "GPT2"):
        content = {"class_name": name, "config": {}}
        (saved / CONFIG).write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"config of a GPT or Transformer, got '{name}'"):
            load_bundle(saved)


@pytest.mark.filterwarnings("ignore")  # serializing a lambda warns
def test_code_in_a_configuration_is_not_run(saved, tmp_path):
    config = read_config(saved)
    config["config"]["activation"] = keras.saving.serialize_keras_object(lambda x: x)
    (saved / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match="must hold the config of a GPT"):
        load_bundle(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 10**12},
        {"d_model": 2**30},
        {"d_model": 2**20, "num_layers": 2},
        {"num_layers": 10**9},
        {"dff": 10**10},
        {"context_length": 10**11},
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused_before_memory_is_taken(saved, change):
    config = read_config(saved)
    config["config"].update(change)
    (saved / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match="folder must hold the config of its weights.*asks for"):
        load_bundle(saved)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"without {name}"):
        load_bundle(saved)


FOREIGN = {
    "empty": b"",
    "a list": b"[1]",
    "text": "明月".encode(),
    "UTF-16": "{}".encode("utf-16"),
    "a pickle": pickle.dumps({"a": 1}),
    "zeros": bytes(1000),
    "deep": b"[" * 100_000,
    "long header": b"\xff" * 1000,
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (CONFIG, "must hold an undamaged config.json"),
        (WEIGHTS, "must hold undamaged weights"),
        (TOKENIZER, "must be a saved"),
    ],
)
def test_a_foreign_file_gives_one_clear_error(saved, name, message, content):
    (saved / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_bundle(saved)


def test_other_weights_are_named(saved):
    arrays = load_file(saved / WEIGHTS)
    name = sorted(arrays)[0]
    rest = {other: array for other, array in arrays.items() if other != name}
    for changed, message in (
        (rest, f"'{name}': missing instead of numbers of shape"),
        (arrays | {"z": arrays[name]}, r"'z': numbers of shape \(.*\) instead of nothing"),
        (arrays | {name: arrays[name].T[:1]}, f"'{name}': numbers of shape"),
        (arrays | {name: arrays[name].astype("int32")}, f"'{name}': integers of shape"),
        (arrays | {name: arrays[name] * np.nan}, "must be finite, got .* with NaN"),
    ):
        save_file(changed, saved / WEIGHTS)
        with pytest.raises(ValueError, match=message):
            load_bundle(saved)


def test_a_tokenizer_that_does_not_fit_is_refused(saved):
    with pytest.raises(ValueError, match="as many tokens as the model, 7 for texts, got 4"):
        save_bundle(saved, gpt(), CharTokenizer.train("abc"))
    with pytest.raises(ValueError, match="the pad_id of the model, 3, got 0"):
        save_bundle(saved, gpt(pad_id=3), CHAR)
    CharTokenizer.train("abc").save(saved / TOKENIZER)
    with pytest.raises(ValueError, match="as many tokens as the model"):
        load_bundle(saved)
