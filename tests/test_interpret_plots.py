"""Figures of lenses, patches and induction heads: what is drawn where, and what is refused."""

import numpy as np
import pytest

from tfgpt import GPT
from tfgpt.interpret import activations
from tfgpt.plotting import (
    plot_deletion,
    plot_induction,
    plot_lens,
    plot_patching,
    view_attention,
)


def test_a_lens_shows_a_word_and_its_probability_in_each_cell(tmp_path):
    words = [["a", "床"], ["c", " "], ["e", "f"]]
    figure = plot_lens(np.eye(3, 2), words, ["I", "$am"], title="x", save=tmp_path / "lens.png")
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.texts][3] == "\u2423"
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "embedding",
        "block 0",
        "block 1",
    ]
    np.testing.assert_array_equal(axis.images[0].get_array(), np.eye(3, 2))
    assert axis.get_ylim()[0] < axis.get_ylim()[1]  # the embeddings are below
    assert (tmp_path / "lens.png").stat().st_size > 1000


def test_a_lens_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="words must have one row per layer, 2, got 1"):
        plot_lens(np.eye(2), [["a", "b"]])
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        plot_lens(2 * np.eye(2), [["a", "b"]] * 2)


def test_a_patching_map_is_white_where_a_patch_brings_nothing(tmp_path):
    table = [[0.0, 1.5], [-0.5, 1.0]]
    figure = plot_patching(table, ["a", "b"], save=tmp_path / "patching.svg")
    image = figure.axes[0].images[0]
    assert image.get_clim() == (-1.5, 1.5)
    assert "the largest is 1.50 at (0, 1)" in figure.alt
    np.testing.assert_allclose(image.cmap(image.norm(0.0)), 0.97, atol=0.05)
    with pytest.raises(ValueError, match=r"table must be numbers \(L, N\), got shape \(2,\)"):
        plot_patching([0.0, 1.0])
    with pytest.raises(ValueError, match="labels must have one label per position, 2, got 1"):
        plot_patching(table, ["a"])


def test_the_stripe_of_induction_lies_behind_the_last_occurrence():
    stripe = np.zeros((2, 8, 8))
    for query in range(4, 8):
        stripe[1, query, query - 3] = 1
    figure = plot_induction({"one": stripe[:1], "two": stripe}, period=4)
    axis = figure.axes[3]
    weights = axis.images[0].get_array()
    (line,) = axis.lines
    keys, queries = line.get_xdata(), line.get_ydata()
    assert [weights[int(q), int(k)] for q, k in zip(queries, keys, strict=True)] == [1, 1]
    assert "block 1, head 0: 0.00, block 1, head 1: 1.00" in figure.alt
    assert axis.get_title() == "block 1, head 1" and not figure.axes[1].axison
    with pytest.raises(ValueError, match=r"must have shape \(H, 6, 6\) for period=3"):
        plot_induction({"one": stripe}, period=3)


def test_the_viewer_takes_values_by_name():
    gpt = GPT(12, context_length=8, num_layers=2, d_model=8, num_heads=2)
    weights = activations(gpt, np.array([[1, 2, 3]]), "blocks.*.attention.weights")
    page = view_attention(weights, ["a", "b", "c"])
    assert [(layer["group"], layer["label"]) for layer in page.content["layers"]] == [
        ("blocks attention weights", "layer 0"),
        ("blocks attention weights", "layer 1"),
    ]


def test_the_figure_of_a_deletion_says_what_is_deleted():
    figure = plot_deletion({"random": [1.0, 0.5]}, what="tokens")
    assert figure.axes[0].get_xlabel() == "deleted tokens"
