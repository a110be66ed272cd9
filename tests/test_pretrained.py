"""GPT-2 in and out: stored values of Hugging Face, files in every form, and what is refused."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from keras import ops
from safetensors.numpy import load_file, save_file
from test_tokenizers import TEXTS

from tfgpt import GPT, BPETokenizer, cast_model
from tfgpt.bundle import named_weights
from tfgpt.layers import gelu_tanh
from tfgpt.pretrained import SIZES, load_gpt2, save_gpt2
from tfgpt.pretrained.gpt2 import keras_hub_path
from tfgpt.tuning import LoRA, adapt

REFERENCE = dict(np.load(Path(__file__).parent / "references" / "gpt2.npz"))
CONFIG = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "vocab_size": 50,
    "n_positions": 16,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
}


def reference_tensors():
    return {
        name.removeprefix("weights/"): value
        for name, value in REFERENCE.items()
        if name.startswith("weights/")
    }


@pytest.fixture
def folder(tmp_path):
    """A folder as Hugging Face writes it, with the weights of the reference."""
    tensors = {f"transformer.{name}": value for name, value in reference_tensors().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    write_config(tmp_path)
    return tmp_path


def write_config(folder, **changes):
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}), encoding="utf-8")


def rewrite(folder, change):
    """Change the tensors of a folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def numbers(model):
    return {name: ops.convert_to_numpy(weight) for name, weight in named_weights(model).items()}


def equal_weights(first, second):
    first, second = numbers(first), numbers(second)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def small_gpt(**options):
    options = {"activation": gelu_tanh, **options}
    return GPT(60, context_length=8, num_layers=2, d_model=8, num_heads=2, **options)


# In


def check_reference(model):
    real = REFERENCE["data/real"]
    logits = model(REFERENCE["data/token_ids"], mask=real[:, None, None, :])
    np.testing.assert_allclose(
        ops.convert_to_numpy(logits), REFERENCE["data/logits"], rtol=0, atol=1e-4
    )


def test_the_logits_are_those_of_hugging_face(folder):
    model, tokenizer = load_gpt2(folder)
    assert tokenizer is None and model.activation is gelu_tanh and model.tie_embeddings
    check_reference(model)
    check_reference(load_gpt2(str(folder))[0])


def test_names_without_a_prefix_and_stored_masks_are_read(folder):
    tensors = reference_tensors()
    for index in range(2):
        tensors[f"h.{index}.attn.bias"] = np.tri(16, dtype="float32")[None, None]
        tensors[f"h.{index}.attn.masked_bias"] = np.array(-1e4, "float32")
    save_file(tensors, folder / "model.safetensors")
    check_reference(load_gpt2(folder)[0])


def test_shards_are_read(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2]}
    shards["model-00002-of-00002.safetensors"] = names[1::2]
    for file, inside in shards.items():
        save_file({name: tensors[name] for name in inside}, folder / file)
    places = {name: file for file, inside in shards.items() for name in inside}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    check_reference(load_gpt2(folder)[0])
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="must hold model-00002-of-00002"):
        load_gpt2(folder)
    index.write_text(json.dumps({"weight_map": {"wte.weight": "../other.safetensors"}}))
    with pytest.raises(ValueError, match="must map tensors to files beside it"):
        load_gpt2(folder)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_sixteen_bits_are_read(folder, dtype):
    import ml_dtypes

    kind = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    rewrite(folder, lambda tensors: tensors.update({k: v.astype(kind) for k, v in tensors.items()}))
    table = ops.convert_to_numpy(load_gpt2(folder)[0].embedding.embeddings)
    np.testing.assert_array_equal(table, reference_tensors()["wte.weight"].astype(kind))


def test_the_dtype_and_the_dropout_can_be_chosen(folder):
    model, _ = load_gpt2(folder, dropout=0.1, dtype="mixed_bfloat16")
    assert (model.dropout, model.compute_dtype) == (0.1, "bfloat16")


def test_an_untied_head_is_read_and_a_tied_one_may_be_there_twice(folder):
    head = np.random.default_rng(0).normal(size=(50, 32)).astype("float32")
    table = reference_tensors()["wte.weight"]
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": table}))
    check_reference(load_gpt2(folder)[0])
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": head}))
    with pytest.raises(ValueError, match="set tie_word_embeddings to false"):
        load_gpt2(folder)
    write_config(folder, tie_word_embeddings=False)
    model, _ = load_gpt2(folder)
    kernel = ops.convert_to_numpy(model.output_projection.kernel)
    np.testing.assert_array_equal(kernel, head.T)


def test_the_four_published_sizes_are_known():
    sizes = {name: (s["num_layers"], s["d_model"], s["num_heads"]) for name, s in SIZES.items()}
    assert sizes == {
        "gpt2": (12, 768, 12),
        "gpt2-medium": (24, 1024, 16),
        "gpt2-large": (36, 1280, 20),
        "gpt2-xl": (48, 1600, 25),
    }
    small = {"num_layers": 1, "d_model": 16, "num_heads": 2, "vocab_size": 20}
    assert GPT(**{**SIZES["gpt2"], **small}).context_length == 1024


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type='llama' instead of 'gpt2'"),
        ({"rope_theta": 10000}, "rope_theta=10000 is not known"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ({"scale_attn_weights": False, "n_embd": None}, "scale_attn_weights=False.*n_embd is miss"),
        ({"activation_function": "quick_gelu"}, "activation_function='quick_gelu'"),
    ],
)
def test_another_configuration_is_refused_with_its_keys(folder, changes, message):
    write_config(folder, **changes)
    with pytest.raises(ValueError, match=message):
        load_gpt2(folder)


def test_all_tensors_that_do_not_fit_are_listed_at_once(folder):
    def change(tensors):
        del tensors["transformer.h.0.ln_1.bias"]
        tensors["score.weight"] = np.zeros((2, 32), "float32")
        tensors["transformer.h.1.mlp.c_fc.weight"] = np.zeros((128, 32), "float32")

    rewrite(folder, change)
    with pytest.raises(ValueError) as caught:
        load_gpt2(folder)
    text = str(caught.value)
    for part in (
        "3 that do not",
        "transformer.h.0.ln_1.bias is missing, (32,)",
        "transformer.score.weight (2, 32) is not known",
        "transformer.h.1.mlp.c_fc.weight (128, 32) instead of (32, 128)",
    ):
        assert part in text
    rewrite(folder, dict.clear)
    with pytest.raises(ValueError, match="28 that do not.*and 16 more"):
        load_gpt2(folder)


def test_nan_and_damaged_files_are_refused(folder):
    whole = (folder / "model.safetensors").read_bytes()
    rewrite(folder, lambda tensors: tensors["transformer.ln_f.bias"].fill(np.nan))
    with pytest.raises(ValueError, match="must be finite, got transformer.ln_f.bias"):
        load_gpt2(folder)
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="must be undamaged"):
        load_gpt2(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="must be a JSON object"):
        load_gpt2(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "tf_model.h5"])
def test_pickled_weights_are_refused_with_the_command_that_converts_them(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match=rf"{name}.*can run any code.*from_pretrained\(r'"):
        load_gpt2(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="can run any code"):
        load_gpt2(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match="without config.json"):
        load_gpt2(folder)


# Out


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tie_embeddings": False, "activation": "gelu", "dff": 12, "norm_epsilon": 1e-6},
        {"activation": "relu", "dropout": 0.2, "pad_id": 0},
    ],
)
def test_what_is_saved_is_loaded_again(options, tmp_path):
    model = small_gpt(**options)
    for weight in model.weights:
        weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    save_gpt2(tmp_path / "new" / "folder", model)
    loaded, _ = load_gpt2(tmp_path / "new" / "folder", dropout=options.get("dropout", 0))
    equal_weights(model, loaded)
    different = {"pad_id", "name", "activation"}
    ours, theirs = model.get_config(), loaded.get_config()
    assert {k for k in ours if ours[k] != theirs[k]} <= different
    assert loaded.activation is model.activation


def test_weights_of_half_precision_are_saved_in_full(tmp_path):
    model = cast_model(small_gpt(), "bfloat16")
    save_gpt2(tmp_path, model)
    loaded, _ = load_gpt2(tmp_path)
    table = ops.convert_to_numpy(ops.cast(model.embedding.embeddings, "float32"))
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded.embedding.embeddings), table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": "rotary"}, "positions='rotary'"),
        ({"norm_first": False, "use_bias": False}, "norm_first=False, use_bias=False"),
        ({"activation": "elu"}, "activation=elu"),
    ],
)
def test_a_gpt_of_another_form_cannot_be_saved(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_gpt2(tmp_path, small_gpt(**options))
    assert not list(tmp_path.iterdir())


def test_other_objects_cannot_be_saved(tmp_path):
    with pytest.raises(TypeError, match="model must be a GPT, got str"):
        save_gpt2(tmp_path, "gpt2")
    with pytest.raises(TypeError, match="tokenizer must be a BPETokenizer, got str"):
        save_gpt2(tmp_path, small_gpt(), "gpt2")
    adapted = small_gpt()
    adapt(adapted, LoRA(rank=1))
    with pytest.raises(ValueError, match="without LoRA"):
        save_gpt2(tmp_path, adapted)


def test_a_tokenizer_is_saved_and_loaded(tmp_path):
    tokenizer = BPETokenizer.train([*TEXTS.values()] * 3, 300)
    model = GPT(tokenizer.vocab_size, 8, num_layers=1, d_model=8, num_heads=2)
    save_gpt2(tmp_path, model, tokenizer)
    _, loaded = load_gpt2(tmp_path)
    assert (loaded.pad_id, loaded.start_id, loaded.end_id) == (0, 1, 2)
    for text in TEXTS.values():
        assert loaded.encode(text).tolist() == tokenizer.encode(text).tolist()
    (tmp_path / "tokenizer.json").unlink()  # the two files that KerasHub reads
    _, from_two = load_gpt2(tmp_path)
    assert from_two.encode("moon light").tolist() == tokenizer.encode("moon light").tolist()
    with pytest.raises(ValueError, match="at most the 10 tokens"):
        save_gpt2(tmp_path, GPT(10, 8, num_layers=1, d_model=8, num_heads=2), tokenizer)


# KerasHub and downloads


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_keras_hub_reads_what_was_saved_and_its_presets_are_read(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    tokenizer = BPETokenizer.train([*TEXTS.values()] * 3, 300)
    # KerasHub's tokenizer wants this name.
    tokens = tokenizer.library_tokenizer.get_vocab()
    tokens = {("<|endoftext|>" if name == "<end>" else name): i for name, i in tokens.items()}
    (tmp_path / "vocab.json").write_text(json.dumps(tokens))
    merges = json.loads(tokenizer.library_tokenizer.to_str())["model"]["merges"]
    (tmp_path / "merges.txt").write_text("\n".join(" ".join(pair) for pair in merges))
    tokenizer = BPETokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
    model = GPT(tokenizer.vocab_size, 8, 2, 8, 2, activation=gelu_tanh)
    for weight in model.weights:
        weight.assign(np.random.default_rng(1).normal(size=weight.shape, scale=0.3))
    save_gpt2(tmp_path / "ours", model, tokenizer)
    backbone = keras_hub.models.Backbone.from_preset(str(tmp_path / "ours"))
    ids = np.array([[5, 6, 7, 8]])
    hidden = backbone({"token_ids": ids, "padding_mask": np.ones_like(ids)})
    logits = backbone.token_embedding(hidden, reverse=True)
    np.testing.assert_allclose(logits, model(ids), atol=1e-4)

    library = keras_hub.models.GPT2Tokenizer.from_preset(str(tmp_path / "ours"))
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(library, sequence_length=8)
    task = keras_hub.models.GPT2CausalLM(backbone, preprocessor)
    task.save_to_preset(str(tmp_path / "preset"))
    loaded, from_preset = load_gpt2(tmp_path / "preset")
    equal_weights(model, loaded)
    for text in TEXTS.values():
        assert from_preset.encode(text).tolist() == tokenizer.encode(text).tolist()
    backbone.save_to_preset(str(tmp_path / "backbone"))
    assert load_gpt2(tmp_path / "backbone")[1] is None


def test_paths_of_keras_hub():
    assert keras_hub_path("layer_norm/gamma") == "final_norm/gamma"
    assert keras_hub_path("token_embedding/embeddings") == "embedding/embeddings"


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "a/b/c", ""])
def test_a_folder_that_is_missing_is_not_downloaded(name):
    with pytest.raises(FileNotFoundError, match="name_or_path must"):
        load_gpt2(Path(name) if name else name)


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of Hugging Face's server that a download asks for."""

    folder = None

    def do_HEAD(self):  # noqa: N802
        self.answer(with_body=False)

    def do_GET(self):  # noqa: N802
        self.answer(with_body=True)

    def answer(self, with_body):
        commit = "0" * 40
        name = self.path.partition("?")[0].rpartition("/")[2]
        if "/tree/" in self.path:
            kinds = {"type": "file", "oid": commit}
            files = [
                {**kinds, "path": path.name, "size": path.stat().st_size}
                for path in self.folder.iterdir()
                if path.is_file()
            ]
            body = json.dumps(files).encode()
        elif self.path.startswith("/api/"):
            files = [{"rfilename": path.name} for path in self.folder.iterdir()]
            body = json.dumps({"id": "me/small", "sha": commit, "siblings": files}).encode()
        elif (self.folder / name).is_file():
            body = (self.folder / name).read_bytes()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{len(body)}-{name}"')
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_a_name_is_downloaded_from_the_hub_without_its_pickles(folder, tmp_path):
    pytest.importorskip("huggingface_hub")
    (folder / "pytorch_model.bin").write_bytes(b"not wanted")
    Hub.folder = folder
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = "from tfgpt.pretrained import load_gpt2\nprint(load_gpt2('me/small')[0].vocab_size)\n"
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            check=False,
        )
    finally:
        server.shutdown()
    assert done.stdout.strip() == "50", done.stderr[-2000:]
    stored = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_symlink()}
    assert "model.safetensors" in stored and "pytorch_model.bin" not in stored


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_without_a_network_a_name_gives_one_sentence(tmp_path):
    pytest.importorskip("huggingface_hub")
    program = (
        "from tfgpt.pretrained import load_gpt2\n"
        "try: load_gpt2('gpt2')\n"
        "except FileNotFoundError as error: print(error)\n"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert "a model that can be downloaded, got 'gpt2'" in done.stdout, done.stderr[-2000:]
