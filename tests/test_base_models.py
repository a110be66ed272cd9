"""The base models: the bundled ones have read their language, and the command makes others."""

import numpy as np
import pytest

from tfgpt import LanguageModel, cli
from tfgpt.data import DATA_FOLDER, load_labelled, split_examples

CHECKPOINTS = DATA_FOLDER / "checkpoints"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "source", "most"), [("base_en", "definitions", 2.4), ("base_zh", "reviews_zh", 2.8)]
)
def test_a_base_model_knows_texts_that_it_has_not_read(name, source, most):
    """In bits per byte, over test texts; tokens without any model need 3.7."""
    base = LanguageModel.load(CHECKPOINTS / name)
    texts = [text for text in split_examples(load_labelled(source))[2].texts if len(text) > 20]
    scores = base.score(texts[:100])
    bits = -sum(score.log_probability for score in scores) / np.log(2)
    assert 0.5 < bits / sum(score.num_bytes for score in scores) < most


def test_both_together_are_small():
    files = [path for name in ("base_en", "base_zh") for path in (CHECKPOINTS / name).iterdir()]
    assert len(files) == 6
    assert sum(path.stat().st_size for path in files) < 12e6


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_the_command_writes_a_bundle_that_continues_text(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["pretrain-base", "--name", "base_zh", "--steps", "2", "--run-dir", str(folder)]
    assert cli.main(arguments) == 0
    assert "held out" in capsys.readouterr().out
    made = LanguageModel.load(folder / "base")
    assert made.generate("床前", 4, seed=0).startswith("床前")
    assert cli.main(["pretrain-base", "--name", "base_fr"]) == 2
    assert "base_en" in capsys.readouterr().err
