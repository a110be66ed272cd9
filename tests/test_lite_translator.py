"""Exported translators write what the model writes greedily, and need no TensorFlow for it."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tfgpt import LiteModel, LiteTranslator, Transformer, Translator, export_litert
from tfgpt.serving.lite_file import Facts, write_lite_file
from tfgpt.tasks.exporting import export_run
from tfgpt.tokenizers import BPETokenizer, CharTokenizer

ROOT = Path(__file__).parents[1]
BUNDLED = ROOT / "data" / "checkpoints" / "verses_en-es"
TEXTS = [
    "In the beginning God created the heaven and the earth.",
    "And he said to them, Go into the city.",
    "I",
    "The LORD is my shepherd; I shall not want. He makes me lie down in green pastures.",
]
TOKENIZER = BPETokenizer.train("sun moon star " * 9, vocab_size=262)
FACTS = Facts(
    kind="Transformer",
    vocab_size=262,
    context_length=12,
    room=8,
    batch_size=1,
    chunk=8,
    d_model=4,
    num_layers=1,
    pad_id=0,
    rotary=False,
    quantize=None,
    table=None,
)


class Echo:
    """A program that gives back its source, one token after the other."""

    facts = FACTS

    def __init__(self):
        self.lock = threading.Lock()

    def read_source(self, token_ids):
        self.source = token_ids

    def next_logits(self, token, place):
        logits = np.zeros(262, "float32")
        logits[0] = 9  # padding, which is never written
        logits[self.source[place]] = 5
        return logits


def test_translations_end_with_the_end_token_or_at_their_limit():
    translator = LiteTranslator(Echo(), TOKENIZER)
    assert translator.translate("sun moon") == "sun moon"
    assert translator.translate(["moon\n sun", "star"]) == ["moon sun", "star"]
    assert (
        translator.translate("sun moon", max_new_tokens=1)
        == TOKENIZER.decode(TOKENIZER.encode(" sun moon")[:1]).strip()
    )
    assert translator.translate([]) == []


@pytest.mark.parametrize(
    ("texts", "limit", "error", "message"),
    [
        ("", None, ValueError, r"texts\[0\] must not be empty, got ''"),
        (["sun", " \n"], None, ValueError, r"texts\[1\] must not be empty"),
        (["sun", 3], None, TypeError, r"texts\[1\] must be a str, got int"),
        ("x" * 8, None, ValueError, r"texts\[0\] must have at most 7 tokens, got"),
        ("sun", 9, ValueError, "max_new_tokens must be at most the room=8 of the file, got 9"),
        ("sun", 0, ValueError, "max_new_tokens must be an integer >= 1, got 0"),
    ],
)
def test_wrong_arguments_are_told(texts, limit, error, message):
    with pytest.raises(error, match=message):
        LiteTranslator(Echo(), TOKENIZER).translate(texts, max_new_tokens=limit)


def test_logits_that_are_not_finite_are_told():
    program = Echo()
    program.next_logits = lambda token, place: np.full(262, np.nan, "float32")
    with pytest.raises(ValueError, match="model must give finite logits, got NaN"):
        LiteTranslator(program, TOKENIZER).translate("sun")


def test_a_file_of_the_other_kind_says_what_loads_it(tmp_path):
    arrays = {"table": np.ones((262, 4), "float32")}
    write_lite_file(tmp_path / "a", b"a program", FACTS, TOKENIZER, arrays)
    write_lite_file(tmp_path / "b", b"a program", replace(FACTS, kind="GPT"), None, arrays)
    with pytest.raises(ValueError, match="of a GPT, got .* of a Transformer: .*LiteTranslator"):
        LiteModel.load(tmp_path / "a")
    with pytest.raises(ValueError, match="of a Transformer, got .* of a GPT: .*LiteModel"):
        LiteTranslator.load(tmp_path / "b")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"tokenizer": None}, TypeError, "must be a BPETokenizer to export a Transformer, got N"),
        ({"tokenizer": CharTokenizer("ab")}, TypeError, "must be a BPETokenizer .* got CharT"),
        ({"batch_size": 2}, ValueError, "batch_size must be 1 to export a Transformer, got 2"),
        ({"room": 13}, ValueError, r"room must be in \[2, max_length=12\], got 13"),
    ],
)
def test_what_a_translator_cannot_be_exported_with_is_told(tmp_path, settings, error, message):
    model = Transformer(1, 8, 2, 16, 262, 262, max_length=12)
    with pytest.raises(error, match=message):
        export_litert(model, path=tmp_path / "a", **{"tokenizer": TOKENIZER, **settings})


@pytest.mark.slow
@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("quantize", [None, "float16", "int8"])
def test_the_bundled_translator_in_a_file_translates_alike(tmp_path, quantize):
    pytest.importorskip("ai_edge_litert")
    translator = Translator.load("verses_en-es")
    path = export_litert(translator.model, translator.tokenizer, tmp_path / "a.tflite", quantize)
    found = LiteTranslator.load(path).translate(TEXTS)
    expected = translator.translate(TEXTS, beam_size=1)
    # Rounding to eight bits may choose another word where two are nearly as likely.
    assert sum(map(str.__eq__, found, expected)) >= (3 if quantize == "int8" else 4)


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_two_tables_post_norm_and_a_small_room_translate_alike(tmp_path):
    pytest.importorskip("ai_edge_litert")
    model = Transformer(2, 12, 3, 20, 262, 262, max_length=20, positions="learned")
    for weight in model.weights:
        if len(weight.shape) > 1:
            weight.assign(weight * 4)
    translator = Translator(model, TOKENIZER)
    lite = LiteTranslator.load(export_litert(model, TOKENIZER, tmp_path / "a.tflite", room=16))
    texts = ["sun", "star moon sun", "moon, moon", "月"]
    for text in texts:
        expected = translator.search([translator.encode(text, "text")], 1, 1.0)[0]
        found = lite.write(translator.encode(text, "text"), 16)
        assert found == expected[: len(found)].tolist()


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_the_commands_export_a_translator_and_translate_with_the_file(tmp_path, capsys):
    pytest.importorskip("ai_edge_litert")
    file = export_run(BUNDLED, tmp_path / "a.tflite", "litert", quantize="int8")
    assert "a.tflite: 3." in capsys.readouterr().out
    code = (
        "import sys, tfgpt_command\n"
        "code = tfgpt_command.main()\n"
        "assert 'keras' not in sys.modules\n"
        "sys.exit(code)"
    )

    def translate(*options):
        command = [sys.executable, "-c", code, "translate", TEXTS[1], "--checkpoint", str(file)]
        return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)

    done = translate()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == LiteTranslator.load(file).translate(TEXTS[1])
    assert "--beam must be 1 for a file of export, got 4" in translate("--beam", "4").stderr
    assert "--attention needs the folder" in translate("--attention", "a.html").stderr
