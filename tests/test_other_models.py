"""Layers of other libraries: their attention scores go into the figures and the viewer.

The README shows the lines between the imports and the checks of each test.
"""

import keras
import numpy as np
import pytest

pytest.importorskip("matplotlib")


def test_scores_of_keras_go_into_the_figure_and_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from tfgpt.plotting import plot_attention_weights
    from tfgpt.plotting.viewer import view_attention

    tokens = ["The", "cat", "slept", "."]
    x = keras.random.normal((1, 4, 16))  # (batch, tokens, features)
    layer = keras.layers.MultiHeadAttention(num_heads=2, key_dim=8)
    _, scores = layer(x, x, return_attention_scores=True)  # (batch, heads, queries, keys)
    figure = plot_attention_weights(scores[0], tokens, save="attention.png")
    page = view_attention(scores[0], tokens, save="attention.html")

    assert scores.shape == (1, 2, 4, 4)
    drawn = [axis.images[0].get_array() for axis in figure.axes[:2]]
    np.testing.assert_allclose(drawn, scores[0], atol=1e-6)
    assert page.content["axes"] == {"query": tokens} and page.content["layers"][0]["heads"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attention.html", "attention.png"]


def test_scores_of_keras_hub_go_into_the_figures_and_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras_hub = pytest.importorskip("keras_hub")
    from tfgpt.plotting import plot_attention_overview, plot_attention_weights
    from tfgpt.plotting.viewer import view_attention

    tokens = ["The", "cat", "slept", "<pad>"]
    real = np.array([True, True, True, False])
    x, weights = keras.random.normal((1, 4, 16)), {}
    for index in range(3):
        layer = keras_hub.layers.TransformerEncoder(intermediate_dim=32, num_heads=2)
        x, scores = layer(x, padding_mask=real[None], return_attention_scores=True)
        weights[f"encoder/{index}"] = scores  # (batch, heads, queries, keys)
    overview = plot_attention_overview(weights, save="overview.png")
    figure = plot_attention_weights(weights["encoder/2"], tokens, query_mask=real, save="last.svg")
    page = view_attention(weights, tokens, save="attention.html")

    assert len(overview.axes[0].images) == 6
    drawn = np.ma.array([axis.images[0].get_array() for axis in figure.axes[:2]])
    np.testing.assert_allclose(drawn[:, :3], weights["encoder/2"][0, :, :3], atol=1e-6)
    np.testing.assert_allclose(drawn[:, :3, 3], 0, atol=1e-6)  # nobody looks at padding
    assert [layer["label"] for layer in page.content["layers"]] == ["layer 0", "layer 1", "layer 2"]
    assert len(list(tmp_path.iterdir())) == 3
