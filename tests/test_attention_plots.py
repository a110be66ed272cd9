"""Tests of tfgpt.attention_plots: what is drawn, what is said about it, files, errors."""

import base64
import io
import json
import re
import time
import zlib
from xml.etree import ElementTree

import keras
import numpy as np
import pytest

import tfgpt
from tfgpt.plotting import plot_attention_overview, plot_attention_weights

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgb  # noqa: E402

TOKENS = ["I", "am", "here", "<pad>"]
REAL = np.array([True, True, True, False])
LONG = [f"token{index}" for index in range(120)]


def random_weights(*shape):
    """Rows that sum to 1."""
    scores = np.exp(2 * np.random.default_rng(0).normal(size=shape))
    return (scores / scores.sum(-1, keepdims=True)).astype("float32")


def encoder_decoder(layers=2, heads=3):
    """Weights by name as a Transformer returns them for a batch of one, and the tokens."""
    shapes = {"encoder/{}": (4, 4), "decoder/{}/self": (5, 5), "decoder/{}/cross": (5, 4)}
    weights = {
        name.format(layer): random_weights(1, heads, *shape)
        for layer in range(layers)
        for name, shape in shapes.items()
    }
    return weights, {"encoder": list("abcd"), "decoder": list("vwxyz")}


def heat_maps(figure):
    return [axis for axis in figure.axes if axis.images and axis.get_visible()]


def titles_of(figure):
    return [axis.get_title() for axis in heat_maps(figure)]


def texts_of(labels):
    return [label.get_text() for label in labels]


def notes_of(figure):
    return figure.get_supxlabel().splitlines()


def row_names(figure):
    """The layers of an overview, without their sizes."""
    return [text.split("\n")[0] for text in texts_of(figure.axes[0].get_yticklabels())]


def render(figure):
    """Return the pixels of a figure, (height, width, 3)."""
    figure.savefig(io.BytesIO(), format="png", dpi=figure.dpi)
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def content_of(path):
    """Read the data of a page as a browser does, and its weights."""
    page = path.read_text(encoding="ascii")
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    content = json.loads(text)
    packed = zlib.decompress(base64.b64decode(content["weights"]))
    return content, np.frombuffer(packed, "uint8") / 255


# Heads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "expected"), [([2, 0], [2, 0]), (1, [1]), (np.array([1, 2]), [1, 2])]
)
def test_chosen_heads_are_drawn_in_the_order_of_the_choice_under_their_own_number(heads, expected):
    weights = random_weights(3, 4, 4)
    figure = plot_attention_weights(weights, heads=heads)
    assert titles_of(figure) == [f"head {head}" for head in expected]
    for axis, head in zip(heat_maps(figure), expected, strict=True):
        np.testing.assert_allclose(axis.images[0].get_array(), weights[head])


def test_heads_that_are_left_out_are_mentioned_below_the_figure():
    weights = random_weights(20, 3, 3)
    assert notes_of(plot_attention_weights(weights)) == ["first 16 of 20 heads"]
    assert notes_of(plot_attention_weights(weights, max_heads=20)) == []
    figure = plot_attention_weights(weights, max_heads=2, heads=[19, 5, 7])
    assert titles_of(figure) == ["head 19", "head 5", "head 7"] and notes_of(figure) == []


@pytest.mark.parametrize("heads", [[9], 3, -1, [0, 3], [1.0], "0", True, [[0]]])
def test_heads_that_do_not_exist_are_refused(heads):
    for function, weights, name in (
        (plot_attention_weights, random_weights(3, 2, 2), "weights"),
        (plot_attention_overview, {"a": random_weights(3, 2, 2)}, r"weights\['a'\]"),
    ):
        with pytest.raises(
            ValueError, match=rf"heads must be in \[0, 3\), the heads of {name}, got"
        ):
            function(weights, heads=heads)


@pytest.mark.parametrize("heads", [[], [1, 1]])
def test_heads_must_be_named_once(heads):
    with pytest.raises(ValueError, match=r"at least one head, and each once, got \["):
        plot_attention_weights(random_weights(3, 2, 2), heads=heads)


# Tokens ----------------------------------------------------------------------------------


def test_a_long_axis_is_cut_and_the_figure_says_so():
    weights = random_weights(2, 120, 7)
    figure = plot_attention_weights(weights, LONG, LONG[:7])
    axis = heat_maps(figure)[0]
    np.testing.assert_allclose(axis.images[0].get_array(), weights[0, :64])
    assert texts_of(axis.get_yticklabels()) == LONG[:64]
    assert texts_of(axis.get_xticklabels()) == LONG[:7]
    assert notes_of(figure) == ["first 64 of 120 queries"]


def test_max_tokens_cuts_both_axes_with_or_without_labels():
    weights = random_weights(1, 10, 10)
    figure = plot_attention_weights(weights, max_tokens=4)
    assert heat_maps(figure)[0].images[0].get_array().shape == (4, 4)
    assert notes_of(figure) == ["first 4 of 10 queries", "first 4 of 10 keys"]
    assert notes_of(plot_attention_weights(weights, max_tokens=10)) == []


def test_labels_are_counted_before_the_axis_is_cut():
    with pytest.raises(
        ValueError, match="query_tokens must have one label per position, 120, got 64"
    ):
        plot_attention_weights(random_weights(1, 120, 120), LONG[:64])


@pytest.mark.slow
@pytest.mark.parametrize(
    "tokens",
    [
        LONG[:64],
        LONG,
        [f"{token}, a long one" for token in LONG[:30]],
        ["here"] * 5,
        ["in"] * 40,
        ["举头望"] * 12,
    ],
)
def test_labels_do_not_touch_each_other(tokens):
    weights = random_weights(2, len(tokens), len(tokens))
    figure = plot_attention_weights(weights, tokens, max_tokens=len(tokens))
    render(figure)
    for axis in heat_maps(figure):
        across = [label.get_window_extent() for label in axis.get_xticklabels()]
        down = [label.get_window_extent() for label in axis.get_yticklabels()]
        assert all(a.x1 <= b.x0 for a, b in zip(across, across[1:], strict=False))
        assert all(a.y0 >= b.y1 for a, b in zip(down, down[1:], strict=False))


@pytest.mark.slow
def test_everything_is_inside_the_figure():
    figures = [
        plot_attention_weights(random_weights(8, 10, 10), LONG[:10], title="Eight heads"),
        plot_attention_weights(
            random_weights(1, 4, 4), TOKENS, max_tokens=3, query_mask=~REAL, title="One head"
        ),
        plot_attention_overview(encoder_decoder(4, 8)[0], title="Overview", max_tokens=2),
        plot_attention_overview({"decoder/0/self": random_weights(1, 3, 3)}, title="Small"),
    ]
    for figure in figures:
        render(figure)
        box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
        assert min(box.x0, box.y0) >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


def test_hostile_tokens_are_shown_as_text_in_every_kind_of_file(tmp_path):
    tokens = ["$x$", "a\nb", "<script>alert(1)</script>", "-->", "</svg>", "\x00", "&amp;"]
    weights = random_weights(1, 7, 7)
    for suffix in ("svg", "png", "pdf", "html"):
        figure = plot_attention_weights(weights, tokens, save=tmp_path / f"figure.{suffix}")
    labels = texts_of(heat_maps(figure)[0].get_xticklabels())
    assert labels[:2] == ["$x$", r"a\nb"] and labels[3:6] == ["-->", "</svg>", r"\x00"]
    root = ElementTree.parse(tmp_path / "figure.svg").getroot()
    assert not [element for element in root.iter() if "script" in str(element.tag)]
    assert "alert(1)</script>" not in (tmp_path / "figure.html").read_text()
    assert content_of(tmp_path / "figure.html")[0]["axes"]["query"] == tokens


# Padding ---------------------------------------------------------------------------------


def test_rows_of_padding_are_grey_and_their_labels_too():
    weights = random_weights(2, 4, 4)
    figure = plot_attention_weights(weights, TOKENS, query_mask=REAL)
    pixels = render(figure)
    for axis, values in zip(heat_maps(figure), weights, strict=True):
        np.testing.assert_allclose(axis.images[0].get_array()[:3], values[:3])
        box = axis.get_window_extent()
        rows = [pixels.shape[0] - int(box.y1 - box.height * (row + 0.5) / 4) for row in range(4)]
        greys = [(pixels[row, int(box.x0) + 9] == 204).all() for row in rows]
        assert greys == [False, False, False, True]
        colours = [to_rgb(label.get_color()) for label in axis.get_yticklabels()]
        assert colours == [(0, 0, 0)] * 3 + [to_rgb("0.46")]
        assert {to_rgb(label.get_color()) for label in axis.get_xticklabels()} == {(0, 0, 0)}
    assert notes_of(figure) == ["grey rows: padding"]


def test_without_padding_nothing_is_grey():
    for mask in (None, np.ones(4, bool)):
        figure = plot_attention_weights(np.eye(4), TOKENS, query_mask=mask)
        assert notes_of(figure) == []
        assert not np.ma.getmaskarray(heat_maps(figure)[0].images[0].get_array()).any()


def test_the_padding_mask_of_the_models_serves_as_well():
    token_ids = np.array([[5, 6, 7, 0]])
    mask = tfgpt.padding_mask(token_ids)
    for query_mask in (mask, mask[0], token_ids[0] != 0, [True, True, True, False]):
        figure = plot_attention_weights(np.eye(4), query_mask=query_mask)
        rows = np.ma.getmaskarray(heat_maps(figure)[0].images[0].get_array()).all(1)
        assert rows.tolist() == [False, False, False, True]


def test_padding_beyond_the_cut_is_not_mentioned():
    figure = plot_attention_weights(np.eye(4), query_mask=REAL, max_tokens=3)
    assert notes_of(figure) == ["first 3 of 4 queries", "first 3 of 4 keys"]


def test_a_fully_masked_row_is_drawn_as_zeros_with_a_black_label():
    weights = random_weights(1, 4, 4)
    weights[:, 3] = 0
    axis = heat_maps(plot_attention_weights(weights, TOKENS))[0]
    np.testing.assert_array_equal(axis.images[0].get_array()[3], 0)
    assert to_rgb(axis.get_yticklabels()[3].get_color()) == (0, 0, 0)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (
            [1, 1, 1, 0],
            TypeError,
            "query_mask must be boolean with True = real token, got dtype int",
        ),
        (REAL[:3], ValueError, r"query_mask must have shape \(4,\), .*got shape \(3,\)"),
        (REAL[:, None], ValueError, r"got shape \(4, 1\)"),
        (np.array([REAL, REAL]), ValueError, r"got shape \(2, 4\)"),
        (True, ValueError, r"got shape \(\)"),
    ],
)
def test_a_wrong_query_mask_is_refused(mask, error, message):
    with pytest.raises(error, match=message):
        plot_attention_weights(np.eye(4), query_mask=mask)


# Files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("HTML", b"<!")]
)
def test_the_suffix_chooses_the_kind_of_file(tmp_path, suffix, start):
    weights, tokens = encoder_decoder()
    path = tmp_path / f"one.{suffix}"
    assert len(plot_attention_weights(np.eye(3), save=str(path)).axes) == 2
    assert path.read_bytes().lower().startswith(start.lower())
    path = tmp_path / f"all.{suffix}"
    plot_attention_overview(weights, query_tokens=tokens, save=path)
    assert path.read_bytes().lower().startswith(start.lower())


def test_a_page_has_the_heads_and_tokens_of_the_figure(tmp_path):
    weights, path = random_weights(4, 5, 3), tmp_path / "page.html"
    plot_attention_weights(weights, list("vwxyz"), list("abc"), title="Title", save=path)
    content, numbers = content_of(path)
    assert content["title"] == "Title"
    assert content["axes"] == {"query": list("vwxyz"), "key": list("abc")}
    np.testing.assert_allclose(numbers, weights.ravel(), atol=1 / 500)

    plot_attention_weights(weights, heads=[3, 1], max_tokens=4, title="Title", save=path)
    content, numbers = content_of(path)
    assert content["title"] == "Title (first 4 of 5 queries, heads 3, 1)"
    assert content["axes"] == {"query": list("0123"), "key": list("012")}
    np.testing.assert_allclose(numbers, weights[[3, 1], :4].ravel(), atol=1 / 500)


def test_a_page_of_the_overview_has_the_chosen_layers_and_heads(tmp_path):
    weights, tokens = encoder_decoder()
    path = tmp_path / "page.html"
    plot_attention_overview(
        weights, layers="cross", heads=[2], query_tokens=tokens, max_tokens=3, save=path
    )
    content, numbers = content_of(path)
    assert content["title"] == "Attention (first 3 queries and keys, heads 2)"
    assert [layer["group"] for layer in content["layers"]] == ["decoder cross"] * 2
    assert content["axes"] == {"encoder": list("abc"), "decoder": list("vwx")}
    expected = [weights[f"decoder/{layer}/cross"][0, 2, :3, :3] for layer in range(2)]
    np.testing.assert_allclose(numbers, np.ravel(expected), atol=1 / 500)


# Overview --------------------------------------------------------------------------------


def test_the_overview_has_a_row_per_layer_and_a_column_per_head():
    weights, _ = encoder_decoder()
    axis = plot_attention_overview(weights).axes[0]
    assert texts_of(axis.get_yticklabels())[:3] == [
        "encoder/0\n4 × 4",
        "decoder/0/self\n5 × 5",
        "decoder/0/cross\n5 × 4",
    ]
    assert texts_of(axis.get_xticklabels()) == ["0", "1", "2"]
    places = [(row, column) for row in range(6) for column in range(3)]
    arrays = list(weights.values())
    for image, (row, column) in zip(axis.images, places, strict=True):
        left, right, bottom, top = image.get_extent()
        assert left < column < right and top < row < bottom
        np.testing.assert_allclose(image.get_array(), arrays[row][0, column])
    assert axis.get_ylim() == (5.5, -0.5)  # the first layer is the top row


def test_all_pictures_of_the_overview_have_one_scale_that_shows_small_weights():
    images = plot_attention_overview(encoder_decoder()[0]).axes[0].images
    assert {image.get_clim() for image in images} == {(0, 1)}
    assert images[0].norm(0.01) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("cross", ["decoder/1/cross", "decoder/10/cross"]),
        ("decoder/1", ["decoder/1/self", "decoder/1/cross"]),
        ("encoder", ["encoder/1"]),
        ("decoder/10/cross", ["decoder/10/cross"]),
        (["decoder/10/cross", "encoder/1"], ["decoder/10/cross", "encoder/1"]),
        (None, ["encoder/1", "decoder/1/self", "decoder/1/cross", "decoder/10/cross"]),
    ],
)
def test_layers_are_chosen_by_names_or_by_whole_parts_of_a_name(layers, expected):
    names = ["encoder/1", "decoder/1/self", "decoder/1/cross", "decoder/10/cross"]
    figure = plot_attention_overview(dict.fromkeys(names, np.eye(2)[None]), layers=layers)
    assert row_names(figure) == expected


def test_the_overview_shows_chosen_heads_and_leaves_missing_ones_white():
    weights = {"wide": random_weights(4, 2, 2), "narrow": random_weights(2, 2, 2)}
    axis = plot_attention_overview(weights).axes[0]
    assert len(axis.images) == 6 and len(axis.get_xticks()) == 4
    axis = plot_attention_overview(weights, heads=[1, 0]).axes[0]
    assert texts_of(axis.get_xticklabels()) == ["1", "0"]
    np.testing.assert_allclose(axis.images[0].get_array(), weights["wide"][1])
    with pytest.raises(ValueError, match=r"in \[0, 2\), the heads of weights\['narrow'\], got 3"):
        plot_attention_overview(weights, heads=3)


def test_the_overview_says_how_much_of_a_layer_it_shows():
    weights = {"a": random_weights(1, 200, 5), "b": random_weights(1, 5, 5)}
    figure = plot_attention_overview(weights)
    labels = texts_of(figure.axes[0].get_yticklabels())
    assert labels == ["a\n128 of 200 × 5", "b\n5 × 5"]
    assert notes_of(figure)[1:] == ["first 128 queries and keys"]
    assert figure.axes[0].images[0].get_array().shape == (128, 5)
    assert len(notes_of(plot_attention_overview(weights, max_tokens=200))) == 1


@pytest.mark.slow
def test_twelve_layers_of_twelve_heads_are_drawn_in_less_than_five_seconds(tmp_path):
    weights = {f"decoder/{index}/self": random_weights(12, 128, 128) for index in range(12)}
    start = time.process_time()
    figure = plot_attention_overview(weights, save=tmp_path / "overview.png")
    assert time.process_time() - start < 5
    across = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert all(a.x1 < b.x0 for a, b in zip(across, across[1:], strict=False))


def test_an_overview_of_more_weights_than_a_page_can_hold_is_drawn(monkeypatch):
    monkeypatch.setattr(tfgpt.viewer, "MAX_WEIGHTS", 1000)
    weights = {"a": random_weights(1, 100, 100)}
    plot_attention_overview(weights, max_tokens=30)
    with pytest.raises(ValueError, match="weights must hold at most 1,000 values"):
        plot_attention_overview(weights, max_tokens=100)


def test_names_of_layers_are_text():
    figure = plot_attention_overview({"$x$\n": np.eye(2)[None]})
    assert row_names(figure) == [r"$x$\n"]
    render(figure)


def test_the_weights_of_our_models_are_drawn():
    transformer = tfgpt.Transformer(2, 8, 2, 32, 20, 30, max_length=6)
    inputs = {"source": np.array([[5, 6, 7, 8]]), "target": np.array([[1, 9, 3, 4, 5]])}
    _, weights = transformer(inputs, return_attention_weights=True)
    assert row_names(plot_attention_overview(weights)) == list(weights)
    half = keras.ops.cast(weights["decoder/1/cross"], "bfloat16")
    for array in (weights["decoder/1/cross"], weights["decoder/1/cross"][0], half):
        assert titles_of(plot_attention_weights(array)) == ["head 0", "head 1"]


# Errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.5, np.inf])
def test_numbers_that_are_no_weights_are_refused_as_in_the_viewer(bad):
    weights = random_weights(2, 3, 3)
    weights[1, 2, 0] = bad
    with pytest.raises(ValueError, match=r"weights must be in \[0, 1\], .*got"):
        plot_attention_weights(weights)
    with pytest.raises(ValueError, match=r"weights\['a'\] must be in \[0, 1\], .*got"):
        plot_attention_overview({"a": weights})


def overview(**options):
    weights, tokens = encoder_decoder()
    return plot_attention_overview(weights, **{"query_tokens": tokens, **options})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plot_attention_weights({"a": np.eye(2)}), TypeError, "plot_attention_overview"),
        (lambda: plot_attention_weights(np.eye(2), max_tokens=0), ValueError, "max_tokens must"),
        (lambda: plot_attention_overview(np.eye(2)), TypeError, "got ndarray: .*attention_weights"),
        (lambda: plot_attention_overview({}), ValueError, "at least one layer, got an empty dict"),
        (lambda: plot_attention_overview({"a": np.eye(2)}), ValueError, r"\['a'\] must have shape"),
        (
            lambda: plot_attention_overview({"a": np.zeros((2, 1, 3, 3))}),
            ValueError,
            r"got \(2, 1, 3, 3\): choose one sequence of a batch with array\[0\]",
        ),
        (lambda: overview(max_tokens=0), ValueError, "max_tokens must be an integer >= 1, got 0"),
        (lambda: overview(layers="dec"), ValueError, "of encoder/0, .*/1/cross, got 'dec'"),
        (lambda: overview(layers=["encoder/9"]), ValueError, r"layers must be .*got \['encoder/9"),
        (lambda: overview(layers=["encoder/0"] * 2), ValueError, "layers must be names, each once"),
        (lambda: overview(layers=[]), ValueError, r"layers must be .*got \[\]"),
        (lambda: overview(layers=3), ValueError, "layers must be .*got 3"),
        (lambda: overview(query_tokens=list("abcd")), ValueError, "weights..decoder/0/self.., 5"),
        (
            lambda: overview(query_tokens={"encoder": list("abcd")}),
            ValueError,
            "query_tokens must have the key 'decoder'",
        ),
        (
            lambda: overview(query_tokens=None, save="never_written.html"),
            ValueError,
            "query_tokens must be given .* for an .html page: .*got None",
        ),
        (
            lambda: overview(query_tokens=None, key_tokens=list("abcd")),
            ValueError,
            "query_tokens must be given with key_tokens",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
