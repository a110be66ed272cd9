"""Tests of tfgpt.plotting: files, labels in every script, errors, no screen."""

import io
import warnings

import numpy as np
import pytest

from tfgpt import plotting
from tfgpt.plotting import attention as attention_plots
from tfgpt.plotting import basics, figures
from tfgpt.schedules import WarmupSchedule

pytest.importorskip("matplotlib")

import matplotlib  # noqa: E402
from matplotlib import font_manager  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

HISTORY = [
    {"step": 1, "loss": 3.0, "val_loss": None},
    {"step": 2, "loss": 2.0, "val_loss": 2.5},
]
MASK = np.tril(np.ones((3, 3), bool))
TOKENS = ["I", "am", "here"]
FIGURES = {
    "attention": lambda **options: plotting.plot_attention_weights(
        np.full((2, 3, 3), 1 / 3), TOKENS, **options
    ),
    "overview": lambda **options: plotting.plot_attention_overview(
        {"decoder/0/self": np.full((2, 3, 3), 1 / 3)}, **options
    ),
    "mask": lambda **options: plotting.plot_mask(MASK, TOKENS, **options),
    "positions": lambda **options: plotting.plot_positional_encoding(np.eye(4), **options),
    "schedule": lambda **options: plotting.plot_schedule(
        {"warm-up": WarmupSchedule(64, 10)}, 50, **options
    ),
    "history": lambda **options: plotting.plot_history(HISTORY, **options),
}


def labels_of(axis):
    return [label.get_text() for label in axis.get_xticklabels()]


def draw(figure, form="svg"):
    """Render a figure; a character without a glyph is a warning, so an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format=form)
    return figure


@pytest.fixture
def no_cjk_font(monkeypatch):
    """A machine without fonts for Chinese."""
    figures.cjk_font.cache_clear()
    monkeypatch.setattr(figures, "CJK_FONTS", ("No Such Font",))
    yield
    figures.cjk_font.cache_clear()


@pytest.fixture
def some_cjk_font(monkeypatch):
    """A machine that has a font by one of the names (its glyphs do not matter here)."""
    figures.cjk_font.cache_clear()
    monkeypatch.setattr(figures, "CJK_FONTS", ("No Such Font", "DejaVu Serif"))
    yield "DejaVu Serif"
    figures.cjk_font.cache_clear()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_saved_without_a_screen(tmp_path, monkeypatch, name):
    monkeypatch.delenv("DISPLAY", raising=False)
    png, svg = tmp_path / "figure.png", tmp_path / "figure.svg"
    assert isinstance(FIGURES[name](save=png), Figure)
    FIGURES[name](save=str(svg))
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in svg.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_not_kept_by_pyplot(name):
    import matplotlib.pyplot as plt

    plt.close("all")
    FIGURES[name]()
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", FIGURES)
def test_the_title_is_shown(name):
    assert FIGURES[name](title="What it shows").get_suptitle() == "What it shows"
    assert FIGURES[name]().get_suptitle() == ""


@pytest.mark.parametrize("name", FIGURES)
def test_a_file_that_cannot_be_written_is_refused_before_drawing(tmp_path, monkeypatch, name):
    def draw_nothing(*arguments, **options):
        raise AssertionError("a figure was drawn")

    for module in (basics, attention_plots):
        monkeypatch.setattr(module, "new_figure", draw_nothing)
    for bad in ("figure.docx", "figure", tmp_path / "figure.txt"):
        with pytest.raises(ValueError, match=r"save must end in one of .*\.pdf, .*got '.*figure"):
            FIGURES[name](save=bad)
    with pytest.raises(FileNotFoundError, match=r"folder that exists, got .*create '.*missing'"):
        FIGURES[name](save=tmp_path / "missing" / "figure.png")
    with pytest.raises(TypeError, match="save must be a path or None, got True"):
        FIGURES[name](save=True)
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("name", ["mask", "positions", "schedule", "history"])
def test_only_attention_has_a_page(tmp_path, name):
    with pytest.raises(ValueError, match="save must end in one of"):
        FIGURES[name](save=tmp_path / "figure.html")


@pytest.mark.parametrize("style", ["default", "dark_background"])
@pytest.mark.parametrize("name", FIGURES)
def test_text_differs_from_the_page_in_light_and_dark_styles(name, style):
    """Contrast of the least readable text is at least 4.5 to 1 (WCAG AA)."""

    def luminance(color):
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        return np.dot(parts, (0.2126, 0.7152, 0.0722))

    with matplotlib.style.context(style):
        figure = draw(FIGURES[name](title="Title"))
    page = figure.get_facecolor()
    assert page[3] == 1 and to_rgb(page) == ((1,) * 3 if style == "default" else (0,) * 3)
    texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text()]
    assert len(texts) > 3
    for text in texts:
        dark, light = sorted([luminance(text.get_color()), luminance(page)])
        assert (light + 0.05) / (dark + 0.05) >= 4.5, text


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(
    "title", ["What every single head of it looks at, " * 3, "onelongword" * 12]
)
def test_a_long_title_stays_on_the_figure(name, title):
    figure = draw(FIGURES[name](title=title), "png")
    box = figure._suptitle.get_window_extent()
    assert figure.get_suptitle().replace("\n", "").replace(" ", "") == title.replace(" ", "")
    assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


@pytest.mark.parametrize("name", FIGURES)
def test_a_title_is_text_whatever_is_in_it(name):
    titles = {
        "$x_$ costs 5$": "$x_$ costs 5$",
        r"\frac{ $ $$ ^_{": r"\frac{ $ $$ ^_{",
        "a\x00b\ud83dc\td": r"a\x00b\ud83dc d",
        "two\n\nlines": "two\n\nlines",
        "café".encode(): "café",
        b"\xff": r"\xff",
        np.str_("title"): "title",
        5: "5",
    }
    for title, shown in titles.items():
        figure = FIGURES[name](title=title)
        assert figure.get_suptitle() == shown
        figure.canvas.draw()


@pytest.mark.parametrize("function", [plotting.plot_attention_weights, plotting.plot_mask])
def test_labels_of_tf_and_numpy_are_text(function):
    import tensorflow as tf

    words = ["I", "明", "$x"]
    for tokens in (
        np.array(words),
        np.array([word.encode() for word in words]),
        [word.encode() for word in words],
        tf.constant(words),
        tf.ragged.constant([words]),
        [tf.constant(word) for word in words],
        [np.array(word) for word in words],
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            labels = labels_of(function(MASK, tokens).axes[0])
        assert labels[::2] == ["I", "$x"] and labels[1] in ("明", "U+660E")
    for numbers in (np.arange(3), [np.int64(i) for i in range(3)], tf.range(3), range(3)):
        assert labels_of(function(MASK, numbers).axes[0]) == ["0", "1", "2"]
    assert labels_of(function(MASK, ["\ud83d", b"\xff", "a"]).axes[0]) == [r"\ud83d", r"\xff", "a"]


def test_one_heat_map_is_drawn_per_head_with_a_common_scale():
    weights = np.random.default_rng(0).random((3, 2, 4))
    figure = plotting.plot_attention_weights(weights)
    drawn = [axis for axis in figure.axes if axis.images and axis.get_visible()]
    assert [axis.get_title() for axis in drawn] == ["head 0", "head 1", "head 2"]
    for axis, head in zip(drawn, weights, strict=True):
        np.testing.assert_allclose(axis.images[0].get_array(), head, atol=1e-6)
        assert axis.images[0].get_clim() == (0, 1)
        assert axis.get_xlabel() == "key" and axis.get_ylabel() == "query"


def test_one_head_may_come_without_the_head_axis_and_there_is_a_limit_of_heads():
    assert len(plotting.plot_attention_weights(np.eye(3)).axes) == 2
    figure = plotting.plot_attention_weights(np.zeros((20, 2, 2)), max_heads=5)
    assert sum(bool(axis.get_title()) for axis in figure.axes) == 5


def test_rows_are_queries_and_columns_are_keys():
    figure = plotting.plot_attention_weights(np.zeros((2, 3)), ["a", "b"], ["x", "y", "z"])
    axis = figure.axes[0]
    assert labels_of(axis) == ["x", "y", "z"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]


def test_keys_have_the_labels_of_the_queries_where_the_numbers_agree():
    assert labels_of(plotting.plot_attention_weights(np.eye(2), ["a", "b"]).axes[0]) == ["a", "b"]
    figure = plotting.plot_attention_weights(np.zeros((2, 3)), ["a", "b"])
    assert "a" not in labels_of(figure.axes[0])


def test_a_mask_is_bright_where_a_token_may_attend():
    figure = plotting.plot_mask(MASK[None, None], TOKENS)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), MASK)
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == [
        "hidden",
        "may attend",
    ]


def test_the_history_shows_both_losses_where_they_were_measured():
    lines = plotting.plot_history(HISTORY).axes[0].lines
    assert [line.get_xydata().tolist() for line in lines] == [[[1, 3], [2, 2]], [[2, 2.5]]]
    assert len(plotting.plot_history(HISTORY[:1]).axes[0].lines) == 1


def test_the_schedule_is_drawn_from_step_1_to_the_last():
    (line,) = plotting.plot_schedule(lambda step: step * 2.0, 1000).axes[0].lines
    steps, rates = line.get_xydata().T
    assert steps[0] == 1 and steps[-1] == 1000
    np.testing.assert_allclose(rates, steps * 2)


@pytest.mark.parametrize("function", [plotting.plot_attention_weights, plotting.plot_mask])
@pytest.mark.parametrize("axis", ["query_tokens", "key_tokens"])
def test_a_wrong_number_of_labels_names_both_numbers(function, axis):
    with pytest.raises(ValueError, match=f"{axis} must have one label per position, 3, got 2"):
        function(MASK, **{axis: ["a", "b"]})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plotting.plot_attention_weights(np.zeros((2, 2, 3, 3))), ValueError, "array.0."),
        (lambda: plotting.plot_attention_weights(np.zeros(3)), ValueError, r"got \(3,\)"),
        (lambda: plotting.plot_attention_weights(np.eye(2), max_heads=0), ValueError, "max_heads"),
        (lambda: plotting.plot_mask(np.eye(3)), TypeError, "True = may attend, got dtype float64"),
        (lambda: plotting.plot_mask(np.ones((2, 3, 3), bool)), ValueError, r"got shape \(2, 3, 3"),
        (lambda: plotting.plot_mask(np.ones(3, bool)), ValueError, r"got shape \(3,\)"),
        (lambda: plotting.plot_positional_encoding(np.zeros(4)), ValueError, r"got \(4,\)"),
        (lambda: plotting.plot_positional_encoding(np.zeros((2, 3, 4))), ValueError, "2, 3, 4"),
        (lambda: plotting.plot_schedule(WarmupSchedule(8), 0), ValueError, "steps must be"),
        (lambda: plotting.plot_history([]), ValueError, "at least one row"),
    ],
)
def test_wrong_arrays_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_white_space_control_characters_and_dollars_are_shown_as_text():
    tokens = [" ", "\n", "\t", "\r", "\x00", "$x_$", "$$", "a b", "<E6><98>", "", "\\frac", "%^_{"]
    figure = draw(plotting.plot_attention_weights(np.eye(len(tokens)), tokens))
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels[:5] == ["\u2423", r"\n", r"\t", r"\r", r"\x00"]
    assert labels[5:] == tokens[5:]
    draw(figure, "png")


def test_a_label_that_would_leave_no_room_is_cut_visibly():
    tokens = ["internationalization of everything", "$" * 30, "x" * 20]
    figure = draw(plotting.plot_mask(np.eye(3, dtype=bool), tokens), "png")
    labels = labels_of(figure.axes[0])
    assert labels[0] == "internationalizatio\u2026" and labels[2] == "x" * 20
    assert labels[1] == "$" * 19 + "\u2026"
    assert figure.axes[0].get_window_extent().width > 100


def test_tokens_may_be_an_array():
    for function in (plotting.plot_attention_weights, plotting.plot_mask):
        assert labels_of(function(MASK, np.array(TOKENS)).axes[0]) == TOKENS


def test_labels_of_schedules_are_safe_too(no_cjk_font):
    with pytest.warns(UserWarning, match="No font"):
        figure = plotting.plot_schedule({"$x_$": float, "学": float}, 5)
    draw(figure)
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts == ["$x_$", "U+5B66"]
    assert plotting.plot_schedule(float, 5).axes[0].get_legend() is None


def test_without_a_font_chinese_becomes_code_points_with_one_warning(no_cjk_font):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figures = [
            plotting.plot_attention_weights(np.eye(2), ["明", "moon"], title="月"),
            plotting.plot_mask(np.eye(2, dtype=bool), ["🌕", "光a"]),
        ]
    assert len(caught) == 1 and "Noto Sans CJK" in str(caught[0].message)
    assert labels_of(figures[0].axes[0]) == ["U+660E", "moon"]
    assert figures[0].get_suptitle() == "U+6708"
    assert labels_of(figures[1].axes[0]) == ["U+1F315", "U+5149a"]
    for figure in figures:
        draw(figure)


@pytest.mark.filterwarnings("ignore:No font")
def test_code_points_leave_room_for_the_picture(no_cjk_font):
    figure = draw(plotting.plot_attention_weights(np.eye(2), ["举头望明月", "低头"]), "png")
    assert labels_of(figure.axes[0])[0].startswith("U+4E3EU+5934U+671B")
    assert figure.axes[0].get_window_extent().height > 100


def test_latin_labels_need_no_font_and_no_warning(no_cjk_font):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(plotting.plot_attention_weights(np.eye(2), ["é", "–"], title="α"))


def test_an_installed_font_is_used_for_chinese_labels(some_cjk_font):
    figure = plotting.plot_attention_weights(np.eye(2), ["明", "moon"], title="月")
    texts = [*figure.axes[0].get_xticklabels(), *figure.axes[0].get_yticklabels()]
    assert [text.get_text() for text in texts] == ["明", "moon"] * 2
    for text in [*texts, figure._suptitle]:
        assert text.get_fontfamily()[0] == some_cjk_font
    legend = plotting.plot_schedule({"学": float}, 5).axes[0].get_legend()
    assert legend.get_texts()[0].get_fontfamily()[0] == some_cjk_font


def test_a_font_installed_after_matplotlib_wrote_its_list_is_found(monkeypatch):
    """The bundled DejaVu Serif plays the new font: first hidden, then found as a file."""
    manager = font_manager.fontManager
    path = next(font.fname for font in manager.ttflist if font.name == "DejaVu Serif")
    broken = __file__  # no font: left out
    others = [font for font in manager.ttflist if font.name != "DejaVu Serif"]
    monkeypatch.setattr(manager, "ttflist", others)
    monkeypatch.setattr(figures, "CJK_FONTS", ("DejaVu Serif",))
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [broken, path])
    figures.cjk_font.cache_clear()
    assert figures.installed_cjk_font() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert figures.cjk_font() == "DejaVu Serif"
    figures.cjk_font.cache_clear()


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_chinese_is_drawn_where_a_font_for_it_is_installed(form):
    figures.cjk_font.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        font = figures.cjk_font()
    if font is None:
        pytest.skip("no font with Chinese characters is installed")
    title = "床前明月光疑是地上霜" * 4
    figure = draw(plotting.plot_attention_weights(np.eye(2), ["明", "月"], title=title), form)
    assert labels_of(figure.axes[0]) == ["明", "月"]
    assert figure.get_suptitle().replace("\n", "") == title
    assert figure._suptitle.get_window_extent().x0 >= 0


# Classification


def test_a_confusion_matrix_shows_shares_and_numbers(tmp_path):
    figure = plotting.plot_confusion(
        [[8, 2], [0, 0]], ["neg", "pos"], "Test", tmp_path / "confusion.png"
    )
    axis = figure.axes[0]
    np.testing.assert_allclose(axis.images[0].get_array(), [[0.8, 0.2], [0, 0]])
    assert [text.get_text() for text in axis.texts] == ["8", "2", "0", "0"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "true")
    assert (tmp_path / "confusion.png").stat().st_size > 0
    many = plotting.plot_confusion(np.eye(30, dtype=int), [str(i) for i in range(30)])
    assert not many.axes[0].texts


def test_an_accuracy_matrix_shows_its_values():
    figure = plotting.plot_accuracy_matrix([[0.9, 0.123], [0.5, 1.0]], ["a", "b"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.9", "0.12", "0.5", "1.0"]
    np.testing.assert_allclose(figure.axes[0].images[0].get_array()[1], [0.5, 1.0])


def test_calibration_leaves_empty_bins_out():
    figure = plotting.plot_calibration([0.1, 0.0, 0.9], [0.2, 0.0, 0.8], [5, 0, 10])
    points = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points, [[0.1, 0.2], [0.9, 0.8]])


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plotting.plot_confusion([[1, 2]], ["a"]), r"matrix must have the shape \(N, N\)"),
        (lambda: plotting.plot_confusion([[1]], ["a", "b"]), "one label per position, 1, got 2"),
        (lambda: plotting.plot_accuracy_matrix([1.0], ["a"]), r"shape \(N, N\), got \(1,\)"),
        (lambda: plotting.plot_calibration([1], [1, 2], [1]), "one length, got 1, 2 and 1"),
    ],
)
def test_figures_of_a_classifier_refuse_other_shapes(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
