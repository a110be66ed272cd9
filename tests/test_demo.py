"""The demo: which tokens a text gets, what is measured, and in which unit."""

import numpy as np
import pytest

from tfgpt import BPETokenizer, CharTokenizer, LanguageModel, cli, evaluate
from tfgpt.data import load_text
from tfgpt.tasks import demo
from tfgpt.tokenizers import load_tokenizer

WORDS = "The moon is bright tonight, and the frost is on the ground.\n"


@pytest.fixture
def english(tmp_path):
    path = tmp_path / "english.txt"
    path.write_text(WORDS * 60, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (WORDS * 2000, "bpe", ""),
        (WORDS * 60, "char", "Fewer than 100,000 characters"),
        ("".join(chr(0x4E00 + i) for i in range(1001)) * 200, "char", "More than 1,000 different"),
        ("".join(chr(0x4E00 + i) for i in range(999)) * 200 + "\n", "bpe", ""),
    ],
    ids=["english", "short", "chinese", "1,000 characters"],
)
def test_a_text_gets_byte_pairs_unless_it_is_short_or_has_many_characters(
    text, kind, reason, capsys
):
    assert demo.choose_tokenizer(text) == kind
    said = capsys.readouterr().out
    assert said.startswith(reason) and bool(said) == bool(reason)


@pytest.mark.parametrize(("corpus", "kind"), [("shakespeare", "bpe"), ("chinese_poems", "char")])
def test_the_bundled_texts_get_what_suits_them(corpus, kind):
    assert demo.choose_tokenizer(load_text(corpus)) == kind


@pytest.mark.parametrize("size", [1, 7, 8, 9, 30])
def test_each_held_out_token_is_scored_once_the_first_and_the_last_too(size):
    held_out = np.arange(100, 100 + size)
    settings = demo.DemoSettings(steps=1, context_length=8, batch_size=2)
    batches = list(demo.held_out_batches(np.array([5, 6, 7]), held_out, settings))
    inputs, targets = (np.concatenate([np.ravel(b[i]) for b in batches]) for i in (0, 1))
    is_real = targets != 0
    np.testing.assert_array_equal(targets[is_real], held_out)
    np.testing.assert_array_equal(inputs[is_real], [7, *held_out[:-1]])


def test_pieces_are_split_in_the_first_part_of_the_training_and_whole_in_the_rest():
    tokenizer = BPETokenizer.train(WORDS * 50, 400)
    ids = tokenizer.encode(WORDS * 50)
    settings = demo.DemoSettings(steps=10, context_length=16, batch_size=64, split=0.3)
    batches = demo.training_batches(tokenizer, ids, settings, 10, seed=0)
    kinds = len(set(ids.tolist()))
    found = [len(np.unique(inputs)) for inputs, _ in batches.take(10).as_numpy_iterator()]
    assert min(found[:6]) > kinds >= max(found[6:])
    # To go on with a training, the batches that would have come are needed.
    late = next(batches.skip(5).as_numpy_iterator())
    np.testing.assert_array_equal(late, list(batches.take(6).as_numpy_iterator())[5])


def test_the_summary_turns_nats_per_token_into_nats_per_character():
    rows = [
        {"step": 500, "val_loss": 4.0, "seconds": 9.0},
        {"step": 1000, "val_loss": 3.2, "seconds": 19.6},
        {"step": 1010, "val_loss": None, "seconds": 20.0},
    ]
    # 0.5 tokens per character; e^1.6 = 4.953
    assert demo.summary(rows, 0.5) == (
        "Step 1,000, 20 s: held-out loss 1.600 nats per character (3.200 per token), perplexity "
        "4.95 per character."
    )
    assert "ended too early" in demo.summary(rows[2:], 0.5)


@pytest.mark.slow
def test_a_demo_with_byte_pairs_is_a_bundle_and_says_its_loss_per_character(
    tmp_path, english, capsys
):
    run_dir = tmp_path / "run"
    options = ["--corpus", str(english), "--run-dir", str(run_dir), "--tokenizer", "bpe"]
    assert cli.main(["demo", *options, "--steps", "2"]) == 0
    said = capsys.readouterr().out
    text_model = LanguageModel.load(run_dir)
    assert isinstance(text_model.tokenizer, BPETokenizer)
    assert text_model.generate("The ", 5).startswith("The ")

    text = english.read_text()
    cut = len(text) - round(len(text) * 0.1)
    # Learned from the training part only.
    expected = BPETokenizer.train(text[:cut], demo.VOCAB_SIZE)
    ids = [tokenizer.encode(text[cut:]) for tokenizer in (expected, text_model.tokenizer)]
    np.testing.assert_array_equal(*ids)
    # All of the last tenth, measured in one long batch of windows by hand.
    before = expected.encode(text[:cut])[-1:]
    token_ids, context = np.concatenate([before, ids[0]]), text_model.model.context_length
    pieces = [token_ids[i : i + context + 1] for i in range(0, len(ids[0]), context)]
    batches = [(piece[None, :-1], piece[None, 1:]) for piece in pieces]
    nats = evaluate(text_model.model, batches)["loss"] * len(ids[0]) / (len(text) - cut)
    assert f"held-out loss {nats:.3f} nats per character" in said

    assert cli.main(["demo", *options, "--steps", "3", "--resume"]) == 0
    assert "Step 3" in capsys.readouterr().out
    options[-1] = "char"
    assert cli.main(["demo", *options, "--steps", "4", "--resume"]) == 2
    assert "run_dir must hold a run with the same settings" in capsys.readouterr().err


@pytest.mark.slow
def test_characters_stay_to_be_had_for_any_text(tmp_path, capsys):
    path = tmp_path / "long.txt"
    path.write_text(WORDS * 1700)
    assert demo.choose_tokenizer(path.read_text()) == "bpe"
    demo.run_demo(path, tmp_path / "run", steps=1, tokenizer="char")
    assert isinstance(load_tokenizer(tmp_path / "run" / "tokenizer.json"), CharTokenizer)
    assert "1.00 characters each (char)" in capsys.readouterr().out
