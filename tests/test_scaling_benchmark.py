"""The recorded sweep: its law and its predictions are what its runs give; runs are kept."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))  # the benchmarks are not installed

pytest.importorskip("scipy")

from benchmarks import scaling as benchmark  # noqa: E402
from tfgpt.scaling import CONSTANTS  # noqa: E402

pytestmark = pytest.mark.requires_tensorflow


@pytest.fixture(scope="module")
def report():
    return json.loads(benchmark.RESULTS.read_text(encoding="utf-8"))


def test_the_recorded_law_is_that_of_the_recorded_runs(report):
    law = benchmark.fit_law(report)
    recorded = [report["law"][name][0] for name in CONSTANTS]
    np.testing.assert_allclose([getattr(law, name) for name in CONSTANTS], recorded, rtol=1e-3)


def test_the_predictions_come_from_runs_without_the_next_size(report):
    law = benchmark.fit_law(report)
    assert len(report["predictions"]) == len(report["next_runs"]) == len(benchmark.TOKENS)
    for row in report["predictions"]:
        assert row["parameters"] > max(run["parameters"] for run in report["runs"])
        assert row["loss"] == pytest.approx(law.loss(row["parameters"], row["tokens"]), rel=1e-4)


def test_what_the_results_hold_is_not_trained_again(report, tmp_path):
    path = tmp_path / "scaling.json"
    for part in (benchmark.run_next, benchmark.run_widths):
        part(report, benchmark.load_corpus(), path)
    after = json.loads(path.read_text(encoding="utf-8"))
    for key in ("runs", "next_runs", "width_runs"):
        assert after[key] == report[key]


def test_the_best_rate_is_that_of_the_lowest_loss():
    losses = {0.1: 2.5, 0.01: 2.0, 0.001: 3.0}
    runs = [{"rule": "a", "d_model": 8, "rate": rate, "loss": losses[rate]} for rate in losses]
    assert benchmark.best_rates(runs) == {"a": {"8": 0.01}}


def test_a_part_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["size"])
    assert "part must be one of sizes, next, widths, figures, got 'size'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_from_the_same_start_gives_the_same_loss(tmp_path):
    corpus = benchmark.load_corpus()
    model = benchmark.make_model(16, 1, corpus)
    schedule = benchmark.WarmupLinearDecay(steps=3, peak=0.03)
    optimizer = benchmark.make_constant_muon()
    results = list(benchmark.train_each(model, optimizer, [schedule, schedule], 2, corpus))
    assert results[0]["loss"] == results[1]["loss"] < np.log(corpus[0])
