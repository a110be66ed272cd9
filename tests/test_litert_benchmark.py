"""The benchmark of exported files: what is read, compared and printed."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))  # the benchmarks are not installed

from benchmarks import litert as benchmark  # noqa: E402
from tfgpt import LiteModel, export_litert  # noqa: E402
from tfgpt.bundle import load_bundle  # noqa: E402
from tfgpt.data import DATA_FOLDER  # noqa: E402
from tfgpt.generation.text_model import batches  # noqa: E402
from tfgpt.tasks.base import documents_of, join_ids, split_documents  # noqa: E402

LOGITS = np.log(np.array([0.5, 0.3, 0.19, 0.01], "float32"))


class Repeats:
    """A program that expects the last token again, with a probability of e / (e + 3)."""

    facts = SimpleNamespace(room=256)

    def __init__(self):
        self.calls = []

    def next_logits(self, texts):
        self.calls.append([list(text) for text in texts])
        return np.stack([np.eye(4, dtype="float32")[text[-1]] for text in texts])


def test_texts_are_read_token_by_token():
    program = Repeats()
    losses, likeliest = benchmark.read_texts(program, np.array([[1, 1, 2], [3, 0, 0]]))
    again, other = np.log(1 + 3 / np.e), np.log(np.e + 3)
    np.testing.assert_allclose(losses, [[again, other], [other, again]], rtol=1e-6)
    assert likeliest.tolist() == [[1, 1], [3, 0]]
    assert program.calls == [[[1]], [[1, 1]], [[3]], [[3, 0]]]


def test_draws_fit_their_own_distribution_and_no_other():
    pytest.importorskip("scipy")
    rng = np.random.default_rng(0)
    drawn = rng.choice(4, 3000, p=np.exp(LOGITS) / np.exp(LOGITS).sum())
    assert benchmark.chi_square(drawn, LOGITS) > 0.01
    assert benchmark.chi_square(drawn, LOGITS / 1.2) < 1e-4
    impossible = np.where(np.arange(4) == 3, -np.inf, LOGITS)
    assert benchmark.chi_square(drawn, impossible) == 0
    assert benchmark.chi_square(drawn[drawn != 3], impossible) > 0.01


def test_the_p_of_a_test_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    drawn = np.repeat(np.arange(4), [480, 310, 200, 10])
    expected = np.exp(LOGITS.astype("float64")) / np.exp(LOGITS.astype("float64")).sum() * 1000
    found = benchmark.chi_square(drawn, LOGITS)
    assert found == pytest.approx(stats.chisquare([480, 310, 200, 10], expected).pvalue)


def test_times_are_of_long_prompts_of_each_token_and_of_a_full_room():
    asked = []
    lite = SimpleNamespace(
        program=SimpleNamespace(facts=SimpleNamespace(room=256)),
        generate_ids=lambda prompts, new, temperature: asked.append((len(prompts[0]), new)),
    )
    assert len(benchmark.measure_once(lite, 65)) == 3
    assert list(batches(asked, 2)) == [[(200, 1), (16, 1)], [(16, 101), (256, 1)], [(256, 9)]]


def test_tables_are_markdown(capsys):
    benchmark.print_table({"M int8": {"MB": 11.2345678, "p own": 0.5}}, ("MB", "p own"))
    benchmark.print_table({}, ("MB",))
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines == ["| file | MB | p own |", "|---|---|---|", "| M int8 | 11.235 | 0.5 |"]


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_a_trained_model_in_int8_keeps_its_perplexity_within_one_per_cent(tmp_path):
    pytest.importorskip("ai_edge_litert")
    model, tokenizer = load_bundle(DATA_FOLDER / "checkpoints" / "base_en")
    path = export_litert(model, tokenizer, tmp_path / "a.tflite", "int8", room=64)
    _, held_out = split_documents(documents_of("base_en"))
    texts = join_ids(tokenizer, held_out)[: 64 * 64].reshape(64, 64)
    losses, likeliest = benchmark.read_texts(LiteModel.load(path).program, texts)
    logits = np.array(model(texts[:, :-1]))
    change = losses.mean() - benchmark.losses_of(logits, texts[:, 1:]).mean()
    assert abs(change) < np.log(1.01)
    assert (likeliest == logits.argmax(-1)).mean() > 0.97
    assert path.stat().st_size < 4e6
