"""The benchmark treats its peer right, and its command runs."""

import importlib.util
import json
import math
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layer_check import IS_TENSORFLOW, assert_close, assert_identical, compiled, randomize, to_numpy

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))  # the benchmarks are not installed

pytest.importorskip("sacrebleu")
pytest.importorskip("keras_hub")
if not IS_TENSORFLOW:
    pytest.skip("the benchmark needs the TensorFlow backend", allow_module_level=True)

from benchmarks import translation as benchmark  # noqa: E402
from tfgpt import BPETokenizer, Transformer, beam_search  # noqa: E402
from tfgpt.data.pairs import Pairs, load_pairs  # noqa: E402
from tfgpt.tasks.translation import TranslationSettings  # noqa: E402

# Keras says that inner layers of KerasHub drop masks; the first test shows they do no harm.
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")

VOCAB, LENGTH = 20, 8
SETTINGS = TranslationSettings(
    num_layers=2, d_model=8, num_heads=2, dropout=0.1, buckets=(4, LENGTH), batch_tokens=16
)
SOURCE = np.array([[3, 4, 5, 2], [7, 8, 9, 2]], "int32")
TARGET = np.array([[1, 5, 6], [1, 9, 10]], "int32")


@pytest.fixture
def peer(rng):
    return randomize(benchmark.make_peer(SETTINGS, VOCAB), rng)


def test_padding_never_changes_what_the_peer_says_about_real_tokens(peer):
    expected = peer({"source": SOURCE, "target": TARGET})
    # Padded to the lengths of a longer row beside them.
    source = np.pad(SOURCE, ((0, 1), (0, 4)))
    target = np.pad(TARGET, ((0, 1), (0, 2)))
    source[2], target[2] = 3, 3
    assert_close(peer({"source": source, "target": target})[:2, :3], expected, 1e-5)
    assert_close(
        compiled("graph", peer)({"source": source, "target": target})[:2, :3], expected, 1e-5
    )

    source[:2, 5] = 3  # no padding any more
    changed = peer({"source": source, "target": target})[:2, :3]
    assert np.abs(to_numpy(changed) - to_numpy(expected)).max() > 1e-3


@pytest.mark.parametrize("position", [1, 2])
def test_the_peer_never_sees_later_target_tokens(peer, position):
    logits = to_numpy(peer({"source": SOURCE, "target": TARGET}))
    changed_target = TARGET.copy()
    changed_target[:, position] += 1
    changed = to_numpy(peer({"source": SOURCE, "target": changed_target}))
    np.testing.assert_array_equal(changed[:, :position], logits[:, :position])
    assert (changed[:, position:] != logits[:, position:]).all(axis=(0, 2)).all()


def greedy_by_hand(model, source):
    """Decode one source without padding, one whole pass per token, as plainly as possible."""
    words = [BPETokenizer.start_id]
    while len(words) <= LENGTH and words[-1] != BPETokenizer.end_id:
        logits = to_numpy(model({"source": source[None], "target": np.array([words], "int32")}))
        words.append(1 + int(logits[0, -1, 1:].argmax()))  # never padding
    return words[1:]


@pytest.mark.slow
def test_greedy_decoding_of_the_peer_is_that_of_single_eager_steps(peer, rng):
    table = next(w for w in peer.weights if w.path.endswith("token_embedding/embeddings"))
    # Padding is the likeliest "word" of all: it must not be chosen.
    table.assign(to_numpy(table) * np.where(np.arange(VOCAB) == 0, -10, 1)[:, None])
    sources = [rng.integers(3, VOCAB, length).astype("int32") for length in (2, 3, 5, 8)]
    translator = benchmark.KerasHubTranslator(peer, BPETokenizer, LENGTH)
    rows = translator.search(sources, beam_size=1, length_penalty=1.0)
    expected = [greedy_by_hand(peer, source) for source in sources]
    assert [row[row != 0].tolist() for row in rows] == expected
    assert len({len(words) for words in expected}) > 1  # some end early
    with pytest.raises(ValueError, match="beam_size must be 1"):
        translator.search(sources, beam_size=4, length_penalty=1.0)


@pytest.mark.slow
def test_greedy_decoding_is_the_same_search_on_both_sides(rng):
    model = randomize(Transformer(1, 8, 2, 16, VOCAB, VOCAB, LENGTH, norm_first=True), rng)
    source = np.array([[3, 4, 0, 0], [7, 8, 9, 2], [5, 5, 5, 0], [11, 2, 0, 0]], "int32")
    translator = benchmark.KerasHubTranslator(model, BPETokenizer, LENGTH)
    rows = translator.search([row[row != 0] for row in source], 1, 1.0)
    expected, _ = beam_search(model, source, beam_size=1)
    np.testing.assert_array_equal(rows, expected[:, 0])


@pytest.mark.slow
def test_training_begins_with_fresh_weights_after_every_shape_is_traced():
    side, settings = "kerashub-adam", replace(SETTINGS, num_layers=1)
    nothing = Pairs([], [], [])
    task = benchmark.Task(settings, "", nothing, nothing, nothing, minutes=1.0, adam_rate=0.5)
    windows = [
        ({"source": SOURCE, "target": TARGET}, TARGET),
        ({"source": SOURCE, "target": SOURCE}, SOURCE),
    ]
    model, step, seconds = benchmark.make_ready(side, task, VOCAB, 9, windows, seed=3)
    benchmark.set_seed(3)
    fresh, optimizer = benchmark.make_learner(side, settings, VOCAB, 9, adam_rate=0.5)
    optimizer.build(fresh.trainable_variables)
    assert_identical([v.value for v in model.variables], [v.value for v in fresh.variables])
    assert_identical(
        [v.value for v in step.optimizer.variables], [v.value for v in optimizer.variables]
    )
    traces = step.experimental_get_tracing_count()
    steps, elapsed = benchmark.train_for(step, windows, math.inf, 2)
    assert steps == 2 and elapsed > 0 and seconds > 0
    assert step.experimental_get_tracing_count() == traces


def test_training_ends_with_the_steps_or_the_minutes():
    def step(batch):
        return {"loss": time.sleep(0.01) or 1.0}

    assert benchmark.train_for(step, range(99), math.inf, 3)[0] == 3
    steps, seconds = benchmark.train_for(step, range(99), 0.035, 99)
    assert 1 <= steps <= 4 and seconds >= 0.035


def test_ratios_are_of_mean_scores_and_zeros_have_none():
    rows = [("tfgpt", 9.0), ("a", 2.0), ("b", 0.0), ("tfgpt", 3.0), ("a", 4.0), ("b", 0.0)]
    results = [{"side": side, "bleu": value} for side, value in rows]
    assert benchmark.bleu_ratios(results) == {"a": 2.0}
    assert benchmark.bleu_ratios(results[1:3]) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "--minutes must be > 0 and finite, got 0.0"),
        (["--adam-rate", "nan"], "--adam-rate must be > 0 and finite, got nan"),
        (["--rounds", "0"], "--rounds must be"),
        (["--test-pairs", "0"], "--test-pairs must be"),
        (["--json", "missing/a.json"], "--json must be in a folder that exists"),
        (["--corpus", "missing.tsv"], "corpus must be .*missing.tsv"),
    ],
)
def test_wrong_options_give_one_line(arguments, message, capsys):
    assert benchmark.main(arguments) == 2
    error = capsys.readouterr().err
    assert re.match(f"benchmarks.translation: {message}", error) and error.count("\n") == 1


def test_without_keras_hub_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert benchmark.main([]) == 2
    assert 'pip install "keras-hub' in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_trains_and_scores_both_libraries(tmp_path):
    # Short texts only: one batch shape, one trace.
    pairs = load_pairs("verses_en-es")
    rows = zip(pairs.groups, pairs.sources, pairs.targets, strict=True)
    lines = [f"{row[0]}.1\t{row[1]}\t{row[2]}" for row in rows if len(row[1] + row[2]) < 90]
    corpus, path = tmp_path / "short.tsv", tmp_path / "results.json"
    corpus.write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.translation", "--small", "--minutes", "0.05"]
    command += ["--test-pairs", "4", "--sides", "tfgpt", "kerashub-adam"]
    command += ["--corpus", str(corpus), "--json", str(path)]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    report = json.loads(path.read_text(encoding="utf-8"))
    assert [result["side"] for result in report["results"]] == ["tfgpt", "kerashub-adam"]
    for result in report["results"]:
        assert result["test_pairs"] == report["test_pairs"] == 4
        assert 1 <= result["steps"] <= result["planned_steps"]
        assert 0 < result["val_loss"] < 2 * math.log(2000)
        assert 0 <= result["bleu"] <= 100 and 0 <= result["chrf"] <= 100
    assert report["results"][0].keys() - report["results"][1].keys() == {
        "bleu_beam_4",
        "chrf_beam_4",
    }
    assert "copy the source" in process.stdout and "|version:" in process.stdout
