"""Exported files write what the model writes, and need no TensorFlow for it."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tfgpt import GPT, LanguageModel, Transformer, cli, export_litert, generate
from tfgpt.bundle import load_bundle
from tfgpt.data import DATA_FOLDER
from tfgpt.serving.lite_model import LiteModel
from tfgpt.serving.litert_export import ROWS, is_rounded
from tfgpt.serving.onnx_export import export_onnx
from tfgpt.serving.saved_model import export_saved_model
from tfgpt.tasks.exporting import export_run
from tfgpt.tokenizers import CharTokenizer

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.requires_tensorflow]
SIZES = {"vocab_size": 40, "context_length": 48, "num_layers": 2, "d_model": 36, "num_heads": 3}
KINDS = {
    "learned": {},
    "rotary": {"positions": "rotary", "pad_id": 0},
    "sinusoidal": {"positions": "sinusoidal", "norm_first": False, "activation": "relu"},
    "untied": {"tie_embeddings": False, "use_bias": False, "dff": 40},
}


def make_model(**settings):
    """Make a GPT whose logits differ enough to have one likeliest token."""
    model = GPT(**SIZES, **settings)
    for weight in model.weights:
        if len(weight.shape) > 1:
            weight.assign(weight * 8)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a function that exports a kind of model once: the model, and its LiteModel."""
    pytest.importorskip("ai_edge_litert")
    folder, made = tmp_path_factory.mktemp("lite"), {}

    def get(kind, quantize=None, **settings):
        key = (kind, quantize, *settings.items())
        if key not in made:
            model = make_model(**KINDS[kind])
            path = export_litert(model, None, folder / f"{len(made)}.tflite", quantize, **settings)
            made[key] = model, LiteModel.load(path)
        return made[key]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_float32_writes_the_tokens_that_generate_writes(exported, kind):
    model, lite = exported(kind)
    prompts = [[5, 7, 9], [3, *range(1, 39)]]  # within a chunk of 32, and more
    for settings in ({"temperature": 0}, {"seed": 2}, {"seed": 3, "top_k": 5, "top_p": 0.9}):
        expected = generate(model, prompts, 8, **settings)
        for row, other in zip(lite.generate_ids(prompts, 8, **settings), expected, strict=True):
            assert row.tolist() == other.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_those_of_a_full_pass(exported, kind, rng):
    model, lite = exported(kind)
    text = rng.integers(1, 40, 45).tolist()
    expected = np.array(model(np.array([text])))[0]
    for length in (1, 2, 32, 33, 34, 45):
        found = lite.program.next_logits([text[:length]])[0]
        np.testing.assert_allclose(found, expected[length - 1], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_texts_slide_through_the_window_as_in_generate(exported):
    model, lite = exported("learned")
    prompt = [list(range(1, 39))]
    expected = generate(model, prompt, 20, temperature=0)
    assert np.array_equal(lite.generate_ids(prompt, 20, temperature=0), expected)


@pytest.mark.slow
def test_a_batch_writes_rows_of_different_lengths_as_one_by_one(exported):
    model, lite = exported("learned", batch_size=3, room=30)
    prompts = [[4], [9, 8, 7], list(range(1, 20)), [6, 5]]
    expected = generate(model, prompts, 10, temperature=0)
    for row, other in zip(lite.generate_ids(prompts, 10, temperature=0), expected, strict=True):
        assert row.tolist() == other.tolist()


@pytest.mark.slow
def test_two_streams_at_once_do_not_mix(exported):
    model, lite = exported("learned")
    lite = LiteModel(lite.program, CharTokenizer([chr(97 + i) for i in range(39)]))
    both = [lite.stream(text, 6, temperature=0) for text in ("abc", "qrs")]
    pieces = [[next(stream) for stream in both] for _ in range(6)]
    for index, text in enumerate(("abc", "qrs")):
        expected = generate(model, lite.tokenizer.encode(text), 6, temperature=0)[0]
        assert text + "".join(p[index] for p in pieces) == lite.tokenizer.decode(expected)


@pytest.mark.slow
@pytest.mark.parametrize(("quantize", "worst"), [("float16", 0.01), ("int8", 0.12)])
def test_fewer_bits_change_probabilities_little(exported, rng, quantize, worst):
    model, lite = exported("rotary", quantize)
    text = rng.integers(1, 40, 40).tolist()
    expected = np.array(model(np.array([text])))[0]
    expected = np.exp(expected - expected.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    for length in (5, 20, 40):
        found = np.exp(lite.program.next_logits([text[:length]])[0])
        distance = np.abs(found / found.sum() - expected[length - 1]).sum()
        assert distance < worst


@pytest.mark.slow
@pytest.mark.parametrize("quantize", [None, "float16", "int8"])
def test_the_table_is_in_a_file_once_also_where_it_is_the_output_kernel(exported, quantize):
    _, lite = exported("rotary", quantize)
    dtype, _ = lite.program.facts.table
    assert dtype == {None: "<f4", "float16": "<f2", "int8": "|i1"}[quantize]
    assert exported("untied")[1].program.facts.table is None


def test_arguments_outside_their_range_are_told_before_the_work(tmp_path):
    model, path = make_model(), tmp_path / "a.tflite"
    for arguments, message in [
        ({"quantize": "int4"}, "quantize must be one of None, 'float16', 'int8', got 'int4'"),
        ({"room": 49}, r"room must be in \[2, context_length=48\], got 49"),
        ({"room": 1}, r"room must be in \[2, context_length=48\], got 1"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            export_litert(model, None, path, **arguments)
    with pytest.raises(ValueError, match="tokenizer must have as many tokens as the model, 40"):
        export_litert(model, CharTokenizer("ab"), path)
    with pytest.raises(TypeError, match="model must be a GPT or Transformer, got str"):
        export_litert("gpt", None, path)
    assert not path.exists()


@pytest.mark.slow
def test_a_saved_model_writes_what_generate_writes_where_neither_keras_nor_tfgpt_is(tmp_path):
    model = make_model(**KINDS["rotary"])
    prompts = [rng_ids(length) for length in (3, 30, 49)]
    export_saved_model(model, tmp_path / "a", 2)
    done = subprocess.run(
        [sys.executable, "-c", SERVE, json.dumps([rows.tolist() for rows in prompts])],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *written, too_long, too_few = done.stdout.splitlines()
    for rows, new, found in zip(prompts, (20, 18), written, strict=False):
        assert json.loads(found) == generate(model, rows, new, temperature=0).tolist()
    assert "token_ids must have shape (B, T) with T from 1 to the context length] [48" in too_long
    assert "max_new_tokens must be >= 1] [got] [0]" in too_few


def rng_ids(length):
    """Make two prompts."""
    return np.random.default_rng(0).integers(1, 40, (2, length), "int32")


SERVE = """
import json, sys
sys.modules |= {"keras": None, "tfgpt": None}  # an import of them fails
import tensorflow as tf

serve = tf.saved_model.load("a").signatures["serving_default"]
def run(rows, new):
    return serve(token_ids=tf.constant(rows, "int32"), max_new_tokens=tf.constant(new))["token_ids"]
short, longer, too_long = json.loads(sys.argv[1])
print(run(short, 20).numpy().tolist())
print(run(longer, 30).numpy().tolist())  # cut at 48
for rows, new in ((too_long, 1), (short, 0)):
    try: run(rows, new)
    except tf.errors.InvalidArgumentError as error: print(" ".join(str(error).split()))
"""


@pytest.mark.slow
def test_the_command_exports_a_run_and_writes_with_the_file(tmp_path, capsys):
    pytest.importorskip("ai_edge_litert")
    run, file = str(DATA_FOLDER / "checkpoints" / "base_en"), tmp_path / "a.tflite"
    options = ["--format", "litert", "--quantize", "int8", "--room", "40"]
    assert cli.main(["export", run, *options, "--out", str(file)]) == 0
    assert "a.tflite: 3." in capsys.readouterr().out
    options = ["--prompt", "In the", "--tokens", "4", "--temperature", "0"]
    arguments = ["generate", "--model", str(file), *options]
    code = (
        f"import sys, tfgpt_command; sys.argv[1:] = {arguments!r}\n"
        "assert tfgpt_command.main() == 0\n"
        "assert 'keras' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == LiteModel.load(file).generate("In the", 4, temperature=0).strip()


@pytest.mark.slow
def test_the_command_exports_a_run_in_every_other_format(tmp_path, rng):
    model = make_model(**KINDS["rotary"])
    LanguageModel(model, CharTokenizer([chr(97 + i) for i in range(39)])).save(tmp_path / "run")
    names = {"bundle": "bundle", "keras": "a.keras", "savedmodel": "saved"}
    if importlib.util.find_spec("tf2onnx") and importlib.util.find_spec("onnxruntime"):
        names["onnx"] = "a.onnx"
    for format, name in names.items():
        options = ["--format", format, "--out", str(tmp_path / name)]
        assert cli.main(["export", str(tmp_path / "run"), *options]) == 0
    token_ids = rng.integers(1, 40, (2, 20), "int32")
    expected = np.array(model(token_ids))
    found = {
        "bundle": load_bundle(tmp_path / "bundle")[0](token_ids),
        "keras": keras.models.load_model(tmp_path / "a.keras")(token_ids),
    }
    if "onnx" in names:
        import onnxruntime

        session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
        (found["onnx"],) = session.run(None, {session.get_inputs()[0].name: token_ids})
    for format, logits in found.items():
        np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4, err_msg=format)
    assert (tmp_path / "saved" / "saved_model.pb").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["learned", "rotary", "untied"])
def test_an_onnx_file_scores_texts_of_any_length_as_the_model(tmp_path, kind, rng):
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = make_model(**KINDS[kind])
    session = onnxruntime.InferenceSession(export_onnx(model, tmp_path / "a.onnx"))
    for shape in ((1, 5), (3, 48)):
        token_ids = rng.integers(1, 40, shape).astype("int32")
        (logits,) = session.run(None, {session.get_inputs()[0].name: token_ids})
        np.testing.assert_allclose(logits, np.array(model(token_ids)), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_an_onnx_file_of_a_translator_scores_targets_as_the_model(tmp_path, rng):
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = Transformer(1, 8, 2, 16, 30, 40, max_length=12)
    session = onnxruntime.InferenceSession(export_onnx(model, tmp_path / "a.onnx"))
    inputs = {
        "source": np.array([[5, 6, 7, 0]], "int32"),
        "target": rng.integers(1, 40, (1, 9)).astype("int32"),
    }
    (logits,) = session.run(None, {f"inputs_{name}": x for name, x in inputs.items()})
    np.testing.assert_allclose(logits, np.array(model(inputs)), atol=1e-5)


def test_onnx_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs tf2onnx: pip install \"tfgpt\[onnx\]\""):
        export_onnx(make_model(), tmp_path / "a.onnx")


def test_options_that_a_format_does_not_know_are_told(tmp_path):
    with pytest.raises(ValueError, match="quantize must not be given with format 'keras'"):
        export_run("anywhere", tmp_path / "a.keras", "keras", quantize="int8")
    with pytest.raises(ValueError, match="format must be one of 'bundle', 'keras', 'litert'"):
        export_run("anywhere", tmp_path / "a", "gguf")


def test_what_can_be_told_before_a_model_is_loaded_is_told_then(tmp_path, monkeypatch):
    """The weights are damaged: whoever loads the model says so."""
    pytest.importorskip("ai_edge_litert")
    source = DATA_FOLDER / "checkpoints" / "base_en"
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"\0" * 4_000_000)
    for options, message in (
        ({"quantize": "int4"}, "quantize must be one of None, 'float16', 'int8', got 'int4'"),
        ({"room": 257}, r"room must be in \[2, context_length=256\], got 257"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({}, "folder must hold undamaged weights"),
    ):
        with pytest.raises(ValueError, match=message):
            export_run(tmp_path, tmp_path / "a.tflite", "litert", **options)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ImportError, match="exported files need ai-edge-litert"):
        export_run(tmp_path, tmp_path / "a.tflite", "litert")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="export_onnx needs tf2onnx"):
        export_run(tmp_path, tmp_path / "a.onnx", "onnx")


@pytest.mark.parametrize("row", [0, ROWS - 1, ROWS])
def test_a_table_is_found_by_all_of_its_rows(rng, row):
    table = rng.normal(size=(ROWS + 1, 3)).astype("float32")
    scales = np.abs(table).max(axis=1, keepdims=True) / 127
    weights = np.round(table / scales).astype("int8")
    assert is_rounded(weights, scales, table) and is_rounded(table.astype("float16"), None, table)
    other = table.copy()
    other[row, 0] += 2 * scales[row, 0]
    assert not is_rounded(weights, scales, other)
    assert not is_rounded(table.astype("float16"), None, other)
