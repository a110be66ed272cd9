"""Tests of the README: its longer examples run as they are printed."""

import json
import re
from pathlib import Path

import keras
import pytest

import tfgpt

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def example(heading):
    """Return the first Python block under a heading."""
    section = re.split(r"\n##+ ", README.split(f"# {heading}\n")[1])[0]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def test_make_lab_opens_the_first_notebook():
    root = Path(__file__).parents[1]
    (path,) = re.findall(r"jupyter lab (\S+)", (root / "Makefile").read_text(encoding="utf-8"))
    assert (root / path).is_file() and path.endswith("/00_start_here.ipynb")


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_train_on_a_text_and_generate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_text.txt").write_text("The moon is bright. " * 200, encoding="utf-8")
    keras.utils.set_random_seed(0)
    names = {"tfgpt": tfgpt}
    exec(example("A GPT on your own text, in Python").replace("steps=2000", "steps=3"), names)
    assert (tmp_path / "runs/mine/history.csv").exists()
    assert len(capsys.readouterr().out.strip()) > 150
    exec(example("Generation"), names)
    # An untrained model draws padding too, which has no text.
    assert 80 < len(capsys.readouterr().out) <= 100


@pytest.mark.slow
def test_a_base_model_is_fine_tuned_with_few_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(tfgpt.data.DATA_FOLDER)
    exec(example("With few weights"), {})
    assert "% of the weights are trained" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "runs/poems").iterdir()) == [
        "adapter.json",
        "adapter.safetensors",
    ]


@pytest.mark.slow
def test_a_constraint_holds_for_a_bundled_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(tfgpt.data.DATA_FOLDER)
    exec(example("Safety"), {})
    lines = capsys.readouterr().out.splitlines()
    assert "king" not in "\n".join(lines[:-1]).lower()
    assert list(json.loads(lines[-1])) == ["name", "age", "mood"]


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_a_reward_is_learned_and_cheated(capsys):
    exec(example("Preferences and reinforcement"), {})
    first, last, divergence = map(float, capsys.readouterr().out.split())
    assert first < 1 and last > 7 and divergence > 10


@pytest.mark.slow
def test_values_inside_are_read_and_replaced_by_name():
    found = {}
    exec(example("What happens inside"), found)
    assert len(found["found"]) == 3
    assert tuple(found["lens"].shape) == (3, 1, 4, 32)
    assert tuple(found["without"].shape) == (1, 4, 32)


def test_a_rise_is_noticed_and_a_ranking_scored(capsys):
    exec(example("Applications"), {})
    alarm, scores = capsys.readouterr().out.splitlines()
    assert alarm == "334" and scores.startswith("1.0 0.815")


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_a_file_writes_without_tensorflow(tmp_path, monkeypatch, capsys):
    pytest.importorskip("ai_edge_litert")
    base = tfgpt.LanguageModel.load(tfgpt.data.DATA_FOLDER / "checkpoints" / "base_en")
    tfgpt.export_litert(base.model, base.tokenizer, tmp_path / "mine.tflite", "int8")
    monkeypatch.chdir(tmp_path)
    exec(example("One file without TensorFlow"), {"tfgpt": tfgpt})
    assert capsys.readouterr().out.startswith("The ")


@pytest.mark.slow
def test_a_picture_is_asked_about(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(example("A GPT that sees"), {})
    assert capsys.readouterr().out.startswith("red\n")
    assert (tmp_path / "attention.png").exists()
