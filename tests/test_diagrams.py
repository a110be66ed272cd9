"""Diagrams: what they say, on white and black pages, with an alternative text."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import matplotlib  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402

from tfgpt.plotting import draw_course, draw_gpt, draw_layers, draw_transformer  # noqa: E402
from tfgpt.plotting.diagrams import direct_needs, lesson_rows  # noqa: E402

NEEDS = {"00": [], "01": ["00"], "02": ["00", "01"], "03": ["00"]}
DIAGRAMS = {
    "layers": draw_layers,
    "gpt": draw_gpt,
    "transformer": draw_transformer,
    "course": lambda **options: draw_course(NEEDS, **options),
}
every_diagram = pytest.mark.parametrize("draw", DIAGRAMS.values(), ids=DIAGRAMS)


def words_of(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def circles_of(figure):
    return [patch for patch in figure.axes[0].patches if patch.__class__.__name__ == "Circle"]


def test_each_sublayer_has_one_sum_and_one_norm():
    figure = draw_layers()
    words = words_of(figure)
    assert words.count("+") == len(circles_of(figure)) == words.count("norm") == 2 + 3 + 2
    assert words.count("cross-attention") == 1
    assert {"encoder layer", "decoder layer", "GPT block"} <= set(words)


@pytest.mark.parametrize(("norm_first", "on_stream"), [(True, False), (False, True)])
def test_only_post_norm_stands_on_the_residual_stream(norm_first, on_stream):
    figure = draw_layers({"one": (["feed-forward"], norm_first)})
    places = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert (places["norm"][0] == places["+"][0]) is on_stream
    assert (places["norm"][1] > places["+"][1]) is on_stream


def test_a_gpt_goes_from_ids_to_logits_upwards():
    places = {text.get_text(): text.get_position()[1] for text in draw_gpt().axes[0].texts}
    steps = ["token ids (B, T)", "token table (V, D)", "causal self-attention", "feed-forward"]
    steps += ["final norm", "token table again", "logits (B, T, V)"]
    heights = [places[step] for step in steps]
    assert heights == sorted(heights) and len(set(heights)) == len(heights)
    assert "cross-attention" not in places


def test_the_decoder_reads_the_output_of_the_encoder():
    words = words_of(draw_transformer())
    assert words.count("cross-attention") == 1 and words.count("self-attention") == 1
    assert "encoder output (B, S, D): keys and values" in words


def test_the_map_has_an_arrow_for_each_direct_need():
    figure = draw_course(NEEDS)
    arrows = [p for p in figure.axes[0].patches if p.__class__.__name__ == "FancyArrowPatch"]
    assert len(arrows) == 3  # 00 -> 02 goes by 01
    assert direct_needs("02", NEEDS) == ["01"]
    assert lesson_rows(NEEDS) == [["00"], ["01", "03"], ["02"]]
    assert set(words_of(figure)) == set(NEEDS)


@every_diagram
def test_no_box_lies_on_another(draw):
    axis = draw().axes[0]
    boxes = [p.get_bbox() for p in axis.patches if p.__class__.__name__ == "FancyBboxPatch"]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
        assert axis.viewLim.x0 <= box.x0 and box.x1 <= axis.viewLim.x1


@pytest.mark.parametrize("name", ["16 Summaries, answers and chat", "decoder layer"])
def test_every_label_fits_into_its_box(name):
    figures = [draw_course({name: []}), draw_layers(), draw_gpt(), draw_transformer()]
    for figure in figures:
        figure.draw_without_rendering()
        axis = figure.axes[0]
        boxes = [p for p in axis.patches if p.__class__.__name__ == "FancyBboxPatch"]
        for box in (patch.get_window_extent() for patch in boxes):
            middle = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
            extents = [text.get_window_extent() for text in axis.texts]
            inside = [extent for extent in extents if extent.contains(*middle)]
            assert inside and all(box.x0 < e.x0 and e.x1 < box.x1 for e in inside)


@every_diagram
def test_letters_differ_from_the_page_in_light_and_dark_styles(draw):
    for style, page in (("default", "white"), ("dark_background", "black")):
        with matplotlib.style.context(style):
            figure = draw()
        assert to_rgb(figure.get_facecolor()) == to_rgb(page)
        for text in figure.axes[0].texts:
            distance = np.subtract(to_rgb(text.get_color()), to_rgb(page))
            assert np.abs(distance).max() > 0.9


@every_diagram
def test_a_diagram_says_in_words_what_it_shows(draw, tmp_path):
    figure = draw(save=tmp_path / "diagram.svg")
    assert len(figure.alt) > 20
    page = (tmp_path / "diagram.svg").read_text(encoding="utf-8")
    assert f"<title>{figure.alt}</title>" in page
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert figure._repr_mimebundle_() == ({}, {"image/png": {"alt": figure.alt}})


def test_a_mistake_in_what_is_to_be_drawn_is_named():
    with pytest.raises(ValueError, match="layers must have at least one sublayer each"):
        draw_layers({"empty": ([], True)})
    with pytest.raises(ValueError, match="'01' must need lessons before it only"):
        draw_course({"01": ["02"], "02": []})


@pytest.mark.parametrize("page", ["light", "dark"])
def test_the_diagram_of_the_readme_is_what_the_code_draws(page, tmp_path):
    images = Path(__file__).resolve().parents[1] / "notebooks" / "images"
    runpy.run_path(str(images / "draw.py"))["draw"](tmp_path)
    # Letters are paths, which differ with the font: each has its text as a comment.
    for pattern in (r"<!-- (.+?) -->", r"<title>(.+?)</title>", r"stroke: (#\w+)"):
        drawn, kept = (
            re.findall(pattern, (folder / f"gpt-{page}.svg").read_text(encoding="utf-8"))
            for folder in (tmp_path, images)
        )
        assert drawn == kept != []
