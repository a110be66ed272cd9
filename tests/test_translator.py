"""Tests of tfgpt.translator and tfgpt.translation: text in, text out, files, errors."""

import json
import shutil

import keras
import numpy as np
import pytest
from test_cli import TRANSLATION_FILES

from tfgpt import BPETokenizer, CharTokenizer, Transformer, Translator, cli
from tfgpt.bundle import CONFIG, TOKENIZER, WEIGHTS
from tfgpt.data.pairs import load_pairs, split_pairs
from tfgpt.data.texts import DATA_FOLDER
from tfgpt.generation import beam_search
from tfgpt.tasks.translation import TranslationSettings, fit_translator
from tfgpt.tasks.translator import CHECKPOINTS

TINY = TranslationSettings(
    num_layers=1,
    d_model=16,
    num_heads=2,
    dropout=0.1,
    vocab_size=270,
    buckets=(8, 16),
    batch_tokens=64,
    steps=3,
)
TEXTS = ["a b c", "b", "c a a b c a", "🌕 明月", "b c"]


def make_translator(seed=0):
    """Make a translator with random weights of 16 bits, which its files hold; max_length is 16."""
    tokenizer = BPETokenizer.train("a b c " * 9, vocab_size=262)
    size = tokenizer.vocab_size
    keras.utils.set_random_seed(seed)
    model = Transformer(1, 16, 2, 32, size, size, 16, norm_first=True, tie_embeddings=True)
    rng = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        value = weight.numpy() + rng.normal(size=weight.shape, scale=0.3)
        weight.assign(value.astype("float16").astype("float32"))
    return Translator(model, tokenizer)


@pytest.fixture(scope="module")
def translator():
    return make_translator()


@pytest.fixture
def pairs_file(tmp_path):
    """600 lines: each number word doubled is its translation."""
    words = ["one", "two", "three", "four", "five", "six"]
    rng = np.random.default_rng(0)
    lines = [f"{a} {b}\t{a} {a} {b}\n" for a, b in rng.choice(words, size=(600, 2))]
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{i % 100}.{i}\t{i} {line}" for i, line in enumerate(lines)))
    return path


# Text in, text out


@pytest.mark.slow
def test_a_list_and_single_texts_give_the_same_translations(translator):
    translations = translator.translate(TEXTS, batch_size=2)
    assert translations == [translator.translate(text) for text in TEXTS]
    assert len(set(translations)) > 1
    assert translator.translate([]) == []


@pytest.mark.slow
def test_line_ends_and_runs_of_spaces_count_as_one_space(translator):
    assert translator.translate(" a\n b\t c ") == translator.translate("a b c")


@pytest.mark.slow
def test_beam_size_and_penalty_reach_the_search(translator):
    sources = [translator.encode(text, "text") for text in ("a", "c a a b c a")]
    found = set()
    for beam_size, penalty in ((1, 0.0), (4, 0.0), (4, 2.0)):
        for source, text in zip(sources, ("a", "c a a b c a"), strict=True):
            target_ids, _ = beam_search(translator.model, source[None], 1, 2, beam_size, penalty)
            expected = translator.tokenizer.decode(target_ids[0, 0]).strip()
            assert translator.translate(text, beam_size, penalty) == expected
            tokens = translator.align(text, None, beam_size, penalty).output_tokens
            row = target_ids[0, 0][target_ids[0, 0] != 0]
            assert tokens == translator.labels(row)
            found.add((text, tuple(tokens)))
    assert len(found) > 2  # the settings matter


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("", ValueError, r"texts\[0\] must not be empty"),
        (["a", " \n"], ValueError, r"texts\[1\] must not be empty"),
        (["a", 3], TypeError, r"texts\[1\] must be a str, got int"),
        ("a " * 40, ValueError, r"texts\[0\] must have at most 15 tokens, got 4\d: .*by sentence"),
    ],
)
def test_unreadable_texts_are_named(translator, texts, error, message):
    with pytest.raises(error, match=message):
        translator.translate(texts)


def test_wrong_sizes_are_refused(translator):
    with pytest.raises(ValueError, match="beam_size must be an integer >= 1, got 0"):
        translator.translate("a", beam_size=0)
    with pytest.raises(ValueError, match="batch_size must be an integer >= 1, got 0"):
        translator.translate(["a"], batch_size=0)
    with pytest.raises(ValueError, match="as many tokens as the model, 262 .*, got 259"):
        Translator(translator.model, BPETokenizer.train("a", vocab_size=259))
    with pytest.raises(TypeError, match="tokenizer must be a BPETokenizer, got CharTokenizer"):
        Translator(translator.model, CharTokenizer.train("a"))
    with pytest.raises(TypeError, match="model must be a Transformer, got NoneType"):
        Translator(None, translator.tokenizer)


# Attention weights


def test_an_alignment_has_one_label_per_row_and_column(translator):
    alignment = translator.align("a b", "c a b")
    assert alignment.source_tokens == [" a", " b", "<end>"]
    assert alignment.input_tokens == ["<start>", " c", " a", " b"]
    assert alignment.output_tokens == [" c", " a", " b", "<end>"]
    shapes = {name: weights.shape for name, weights in alignment.weights.items()}
    assert shapes == {
        "encoder/0": (2, 3, 3),
        "decoder/0/self": (2, 4, 4),
        "decoder/0/cross": (2, 4, 3),
    }
    for weights in alignment.weights.values():
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    view = alignment.view(title="t")
    groups = [layer["group"] for layer in view.content["layers"]]
    assert groups == ["decoder cross", "encoder", "decoder self"]
    page = view.to_html()
    assert "c a b" not in page  # tokens, not the text
    assert "t (each decoder row writes the token of the next row)" in page


@pytest.mark.slow
def test_without_a_target_the_translators_own_words_are_aligned(translator):
    for text in TEXTS:
        tokens = translator.align(text).output_tokens
        words = "".join(token for token in tokens if token != "<end>").strip()
        if "<" not in words:  # single bytes of a character show as <E6>
            assert words == translator.translate(text)


# Files


@pytest.mark.slow
def test_a_saved_translator_gives_the_same_translations(translator, tmp_path):
    translator.save(tmp_path / "new" / "folder")
    loaded = Translator.load(tmp_path / "new" / "folder")
    for saved, read in zip(translator.model.weights, loaded.model.weights, strict=True):
        np.testing.assert_array_equal(saved.numpy(), read.numpy())
    assert loaded.translate(TEXTS, batch_size=2) == translator.translate(TEXTS, batch_size=2)


def damage(folder, name, how):
    """Break one file of a saved translator."""
    path = folder / name
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "other":
        config = json.loads(path.read_text())
        config["config"]["d_model"] = 8
        path.write_text(json.dumps(config))
    elif how == "class":
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"class_name": "GPT"}))


@pytest.mark.parametrize(
    ("name", "how", "error", "message"),
    [
        (CONFIG, "missing", FileNotFoundError, "without config.json"),
        (WEIGHTS, "missing", FileNotFoundError, "without weights.safetensors"),
        (TOKENIZER, "missing", FileNotFoundError, "without tokenizer.json"),
        (CONFIG, "cut", ValueError, "must hold an undamaged config.json of a saved model"),
        (WEIGHTS, "cut", ValueError, "must hold undamaged weights"),
        (TOKENIZER, "cut", ValueError, "must be a saved tokenizer"),
        (CONFIG, "other", ValueError, "weights must fit the model, .* of shape"),
        (CONFIG, "class", ValueError, "must hold the config of a Transformer"),
    ],
)
def test_a_damaged_checkpoint_gives_one_clear_error(
    translator, tmp_path, name, how, error, message
):
    translator.save(tmp_path)
    damage(tmp_path, name, how)
    with pytest.raises(error, match=message):
        Translator.load(tmp_path)


def test_weights_that_are_not_finite_are_refused(translator, tmp_path):
    from safetensors.numpy import load_file, save_file

    translator.save(tmp_path)
    arrays = load_file(tmp_path / WEIGHTS)
    name = next(iter(arrays))
    save_file(arrays | {name: arrays[name] * np.float16("nan")}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="weights must be finite, got .* with NaN"):
        Translator.load(tmp_path)


def test_a_tokenizer_of_another_size_is_refused(translator, tmp_path):
    translator.save(tmp_path)
    BPETokenizer.train("a", vocab_size=259).save(tmp_path / TOKENIZER)
    with pytest.raises(ValueError, match="as many tokens as the model"):
        Translator.load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_bundled_checkpoints_are_small_and_translate(name):
    folder = DATA_FOLDER / "checkpoints" / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10e6
    translator = Translator.load(name)
    _, _, test = split_pairs(load_pairs(name))
    translation = translator.translate(test.sources[1], beam_size=1)
    assert 3 <= len(translation.split()) <= 40
    assert translation != test.sources[1]


# Training


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_the_tokenizer_sees_the_training_part_only(pairs_file):
    training, validation, _ = split_pairs(load_pairs(pairs_file), share=0.1)
    secret = type(validation)(
        [f"{text} xylophone" for text in validation.sources],
        validation.targets,
        validation.groups,
    )
    plain, _ = fit_translator(training, validation, TINY)
    other, history = fit_translator(training, secret, TINY)
    assert plain.tokenizer.library_tokenizer.to_str() == other.tokenizer.library_tokenizer.to_str()
    assert history[-1]["step"] == 3 and history[-1]["val_loss"] > 0


@pytest.mark.slow
def test_the_command_trains_scores_and_translates(pairs_file, tmp_path, capsys):
    run_dir = tmp_path / "run"
    command = ["train-translation", "--small", "--corpus", str(pairs_file)]
    assert cli.main([*command, "--steps", "2", "--run-dir", str(run_dir)]) == 0
    printed = capsys.readouterr().out
    assert "copy the source" in printed and "most frequent sentence" in printed
    assert {path.name for path in run_dir.iterdir()} == TRANSLATION_FILES
    rows = (run_dir / "translations.tsv").read_text(encoding="utf-8").split("\n")
    assert rows[0] == "source\ttranslation\treference"
    assert all(row.count("\t") == 2 for row in rows[:-1])

    # Interrupted and resumed: the run goes on where it was.
    resumed = [*command, "--steps", "3", "--run-dir", str(run_dir), "--resume"]
    assert cli.main(resumed) == 0
    assert "Going on from step 2" in capsys.readouterr().out

    page = tmp_path / "attention.html"
    translate = ["translate", "one two", "--checkpoint", str(run_dir / "translator")]
    assert cli.main([*translate, "--beam", "2", "--attention", str(page)]) == 0
    assert "decoder cross" in page.read_text(encoding="utf-8")
    assert cli.main([*translate, "--beam", "0"]) == 2
    assert "beam_size must be an integer >= 1, got 0" in capsys.readouterr().err
    shutil.rmtree(run_dir / "translator")
    assert cli.main(translate) == 2
    assert "got" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_a_translator_learns_to_double_words(pairs_file):
    training, validation, test = split_pairs(load_pairs(pairs_file), share=0.1)
    settings = TranslationSettings(
        num_layers=1,
        d_model=64,
        num_heads=4,
        dropout=0.0,
        vocab_size=300,
        buckets=(12,),
        batch_tokens=600,
        steps=300,
    )
    translator, _ = fit_translator(training, validation, settings)
    hypotheses = translator.translate(test.sources)
    right = np.mean([h == t for h, t in zip(hypotheses, test.targets, strict=True)])
    assert right > 0.8
