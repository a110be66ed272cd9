"""Tests of tfgpt.viewer: the page's content in Python, its behaviour in a real browser.

The browser tests need Chromium and `pip install playwright`; they are skipped without.
"""

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from importlib import resources
from xml.etree import ElementTree

import keras
import numpy as np
import pytest

import tfgpt
from tfgpt.plotting.viewer import view_attention

SOURCE = ["Die", "Katze", "schlief", "."]
TARGET = ["<s>", " The", " cat", " slept", "."]
HOSTILE = [
    "<script>window.broken = 1</script>",
    "</script>",
    "<img src=x onerror='window.broken=1'>",
    "\"quote' & &amp;",
    "a\nb",
    " ",
    "",
    "x\u2028y",
    "{{title}}{{data}}",
    "\\u003c/script>",
    "שלום",
    "\u202eabc",
    "👩‍👩‍👧‍👦",
    "\u200d",
    "\u0301",
    "\x00",
    "\ud83d",
    "語",
]


def random_weights(*shape, seed=0):
    """Rows that sum to 1, some keys far stronger than others."""
    scores = np.exp(2 * np.random.default_rng(seed).normal(size=shape))
    return (scores / scores.sum(-1, keepdims=True)).astype("float32")


def encoder_decoder(layers=2, heads=3):
    """Weights by name and the two lists of tokens, as for a Transformer."""
    shapes = {"encoder/{}": (4, 4), "decoder/{}/self": (5, 5), "decoder/{}/cross": (5, 4)}
    weights = {
        name.format(layer): random_weights(heads, *shape, seed=10 * layer + seed)
        for layer in range(layers)
        for seed, (name, shape) in enumerate(shapes.items())
    }
    return weights, {"encoder": SOURCE, "decoder": TARGET}


def content_of(page_html):
    """Read the data of a page as a browser does: the text of the script element."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page_html)
    return json.loads(text)


def weights_of(content):
    """Undo the packing: one array of all weights."""
    packed = zlib.decompress(base64.b64decode(content["weights"]))
    return np.frombuffer(packed, f"<u{content['bits'] // 8}") / (2 ** content["bits"] - 1)


# The page, in Python ---------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "largest_error"), [(8, 1 / 510), (16, 1 / 131070)])
def test_weights_are_kept_up_to_half_a_step(bits, largest_error):
    weights = random_weights(4, 30, 30)
    content = view_attention(weights, list(range(30)), bits=bits).content
    error = np.abs(weights_of(content) - weights.ravel()).max()
    assert largest_error / 2 < error <= largest_error + 1e-7


def test_layers_are_named_and_have_the_tokens_of_their_side():
    content = view_attention(*encoder_decoder()).content
    assert [(layer["group"], layer["label"]) for layer in content["layers"][:3]] == [
        ("encoder", "layer 0"),
        ("decoder self", "layer 0"),
        ("decoder cross", "layer 0"),
    ]
    sides = [(layer["query"], layer["key"]) for layer in content["layers"][:3]]
    assert sides == [("encoder", "encoder"), ("decoder", "decoder"), ("decoder", "encoder")]
    assert content["axes"] == {"encoder": SOURCE, "decoder": TARGET}


def test_layers_of_other_models_keep_their_names():
    weights = {"block_a": np.eye(2)[None], "block_b": np.eye(2)[None]}
    layers = view_attention(weights, ["x", "y"]).content["layers"]
    assert [(layer["group"], layer["label"]) for layer in layers] == [
        ("attention", "block_a"),
        ("attention", "block_b"),
    ]


def test_the_weights_of_our_models_and_of_keras_are_accepted():
    gpt = tfgpt.GPT(vocab_size=10, context_length=8, num_layers=2, d_model=16, num_heads=4)
    _, weights = gpt(np.array([[1, 2, 3]]), return_attention_weights=True)
    content = view_attention(weights, ["a", "b", "c"]).content
    expected = [np.array(array).ravel() for array in weights.values()]
    np.testing.assert_allclose(weights_of(content), np.concatenate(expected), atol=1 / 500)

    transformer = tfgpt.Transformer(1, 8, 2, 32, 20, 30, max_length=6)
    inputs = {"source": np.array([[5, 6, 7, 8]]), "target": np.array([[1, 9, 3, 4, 5]])}
    _, weights = transformer(inputs, return_attention_weights=True)
    view = view_attention(weights, {"encoder": SOURCE, "decoder": TARGET})
    assert len(view.content["layers"]) == 3

    x = keras.random.normal((1, 3, 8))
    layer = keras.layers.MultiHeadAttention(2, 4)
    _, scores = layer(x, x, return_attention_scores=True)
    assert view_attention(scores, ["a", "b", "c"]).content["layers"][0]["heads"] == 2


def test_keys_may_be_other_tokens_than_queries():
    axes = view_attention(random_weights(2, 2, 3), ["a", "b"], ["x", "y", "z"]).content["axes"]
    assert axes == {"query": ["a", "b"], "key": ["x", "y", "z"]}


def test_the_page_is_one_small_ascii_file_that_asks_for_nothing(tmp_path):
    path = tmp_path / "page.html"
    view = view_attention(*encoder_decoder(), title="Ü", save=path)
    text = path.read_bytes().decode("ascii")
    assert text == view.to_html() and len(text) < 60_000
    namespace = "http://www.w3.org/2000/svg"
    assert not re.search(r"https?:|//cdn|@import|url\(|fetch\(|src=", text.replace(namespace, ""))
    (policy,) = re.findall(r'Content-Security-Policy"\s+content="([^"]+)"', text)
    assert policy.startswith("default-src 'none';")
    assert set(re.findall(r"[\w-]+:", policy)) == {"data:", "blob:"}


def test_many_weights_make_a_small_page():
    """GPT-2's 144 heads on 64 tokens: 0.6 million weights, under 0.6 MB."""
    weights = {f"decoder/{i}/self": random_weights(12, 64, 64, seed=i) for i in range(12)}
    weights = {name: np.tril(array) for name, array in weights.items()}
    assert len(view_attention(weights, ["x"] * 64).to_html()) < 600_000


def test_tokens_are_data_and_never_markup():
    view = view_attention(random_weights(1, 18, 18), HOSTILE, title="</title><script>")
    page = view.to_html()
    assert page.count("<script") == page.count("</script>") == 2
    assert content_of(page)["axes"]["query"] == HOSTILE
    assert content_of(page)["title"] == "</title><script>"
    assert page.isascii() and "\x00" not in page


def test_labels_of_tf_and_numpy_are_text():
    import tensorflow as tf

    words = ["I", "明", "$x"]
    for tokens in (np.array(words), tf.constant(words), tf.ragged.constant([words])):
        view = view_attention(np.eye(3)[None], tokens, title="明".encode())
        assert view.content["axes"]["query"] == words and view.content["title"] == "明"
    axes = view_attention(np.eye(3)[None], [b"a", np.bytes_(b"\xff"), 3]).content["axes"]
    assert axes["query"] == ["a", r"\xff", "3"]


def test_a_notebook_gets_the_page_in_a_sandbox():
    class Frame(HTMLParser):
        """Collects the attributes of the frame; anything else is an error."""

        def handle_starttag(self, tag, attributes):
            assert tag == "iframe" and not hasattr(self, "attributes")
            self.attributes = dict(attributes)

    view = view_attention(random_weights(1, 18, 18), HOSTILE, title='"><b>')
    frame = Frame()
    frame.feed(view._repr_html_())
    assert frame.attributes["sandbox"] == "allow-scripts allow-downloads"
    assert frame.attributes["title"] == '"><b>'
    assert frame.attributes["srcdoc"] == view.to_html()
    assert "layers=1" in repr(view)


def test_the_template_is_part_of_the_package():
    template = resources.files("tfgpt.plotting").joinpath("viewer.html").read_text(encoding="utf-8")
    assert template.isascii() and template.count("{{") == 2


def bad(**changes):
    """The arguments of a good call, some of them changed."""
    return {"weights": random_weights(2, 3, 3), "query_tokens": ["a", "b", "c"], **changes}


WEIGHTS, TOKENS = encoder_decoder()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (bad(query_tokens=["a"]), r"query_tokens must .* of weights\['attention'\], 3, got 1"),
        (bad(key_tokens=["a"] * 4), "key_tokens must have one label per position .* 3, got 4"),
        (bad(weights=WEIGHTS), r"weights\['encoder/0'\], 4, got 3.* pass key_tokens"),
        (
            {"weights": WEIGHTS, "query_tokens": {**TOKENS, "decoder": ["x"] * 9}},
            r"query_tokens\['decoder'\] must have one label .*\['decoder/0/self'\], 5, got 9",
        ),
        (
            {"weights": WEIGHTS, "query_tokens": {"decoder": TARGET}},
            r"must have the key 'encoder' for weights\['encoder/0'\], got \['decoder'\]",
        ),
        ({"weights": WEIGHTS, "query_tokens": TOKENS, "key_tokens": ["x"]}, "must be None"),
        (bad(weights=np.eye(3)), r"got \(3, 3\).*add a head axis with array\[None\]"),
        (bad(weights=np.zeros((2, 1, 3, 3))), r"got \(2, 1, 3, 3\): choose one sequence"),
        (bad(weights={"a": np.eye(3)}), r"weights\['a'\] must have shape"),
        (bad(weights=np.zeros((0, 3, 3))), r"at least one head.*got shape \(0, 3, 3\)"),
        (bad(weights=np.zeros((2, 0, 0)), query_tokens=[]), "at least one head, query and key"),
        (bad(weights={}), "at least one layer"),
        (bad(weights=np.full((1, 3, 3), 1.2)), r"must be in \[0, 1\].* got 1.2"),
        (bad(weights=np.full((1, 3, 3), -0.1)), r"must be in \[0, 1\].* got -0.1"),
        (bad(weights=np.full((1, 3, 3), np.nan)), r"must be in \[0, 1\].* got nan"),
        (bad(weights=np.full((1, 3, 3), np.inf)), r"must be in \[0, 1\].* got inf"),
        (bad(bits=4), "bits must be one of 8, 16"),
        (bad(max_tokens=0), "max_tokens must be"),
        (bad(max_tokens=2), r"at most max_tokens=2 tokens, got 3: cut .* or pass max_tokens=3"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        view_attention(**arguments)


def test_513_tokens_are_refused_until_the_limit_is_raised():
    weights = np.zeros((1, 513, 513))
    with pytest.raises(ValueError, match="at most max_tokens=512 tokens, got 513"):
        view_attention(weights, ["x"] * 513)
    assert view_attention(weights, ["x"] * 513, max_tokens=513)


def test_there_is_a_limit_of_weights(monkeypatch):
    monkeypatch.setattr(tfgpt.viewer, "MAX_WEIGHTS", 17)
    with pytest.raises(ValueError, match="at most 17 values, got 18: pass a dict with fewer"):
        view_attention(random_weights(2, 3, 3), ["a", "b", "c"])


# The page, in a browser ---------------------------------------------------------------------


@pytest.fixture
def open_page(browser, tmp_path):
    """Open pages from disk; at the end: no error in them, and no request left them."""
    contexts, errors, requests = [], [], []

    def open_(page_html, in_frame=False, **options):
        context = browser.new_context(viewport={"width": 1000, "height": 640}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        path = tmp_path / f"page{len(contexts)}.html"
        path.write_text(page_html, encoding="utf-8")
        page.goto(path.as_uri())
        inside = page.frame_locator("iframe") if in_frame else page
        inside.locator("main[aria-busy=false]").wait_for()
        page.errors, page.requests = errors, requests
        return page

    yield open_
    for context in contexts:
        context.close()
    assert errors == []
    assert [url for url in requests if not re.match("(file|data|blob|about):", url)] == []


@pytest.fixture
def page(open_page):
    """The page of an encoder-decoder with two layers and three heads."""
    return open_page(view_attention(*encoder_decoder(), title="A cat").to_html())


@pytest.fixture
def expect(browser):
    """Playwright's assertions, which wait until the page has drawn."""
    from playwright.sync_api import expect

    return expect


def settle(page):
    """Wait until the page has drawn: it draws in the animation frame after a change."""
    page.locator("body").evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


def table_of(page):
    """Read the panel: {index of the partner: [mean, head 0, head 1, ...]}."""
    settle(page)
    rows = page.locator("#details tbody tr").all()
    cells = [row.locator("td").all_inner_texts() for row in rows]
    indices = [int(row.locator("small").inner_text()) for row in rows]
    return {i: list(map(float, row)) for i, row in zip(indices, cells, strict=True)}


def assert_table(page, columns):
    """Compare the panel with weights (partner, column), within a step and two digits."""
    table = table_of(page)
    assert len(table) == min(8, len(columns))
    for index, row in table.items():
        np.testing.assert_allclose(row, columns[index], atol=0.005 + 1 / 510 + 1e-6)
    assert list(table.values()) == sorted(table.values(), key=lambda row: -row[0])


def with_mean(heads):
    """(heads, partner) -> (partner, mean and heads)."""
    return np.concatenate([heads.mean(0, keepdims=True), heads]).T


def download(page, act):
    with page.expect_download() as waiting:
        act()
    path = waiting.value.path()
    return waiting.value.suggested_filename, path.read_bytes()


@pytest.mark.slow
def test_hovering_a_token_shows_its_weights(page, expect):
    page.hover("#queries li >> nth=2")
    expect(page.locator("#details h2")).to_contain_text("Query 2 “⁨schlief⁩” attends to")
    assert_table(page, with_mean(WEIGHTS["encoder/0"][:, 2, :]))
    page.hover("#keys li >> nth=1")
    expect(page.locator("#details h2")).to_contain_text("Key 1 “⁨Katze⁩” is attended by")
    assert_table(page, with_mean(WEIGHTS["encoder/0"][:, :, 1]))
    page.hover("h1")
    expect(page.locator("#details")).to_contain_text("Point at a token")


@pytest.mark.slow
def test_layer_group_and_heads_can_be_changed(page, expect):
    page.get_by_role("combobox", name="Attention").select_option("decoder cross")
    page.get_by_role("combobox", name="Layer").select_option("1")
    expect(page.locator("#status")).to_contain_text("decoder cross, layer 1, 3 of 3 heads")
    expect(page.locator("#queries li")).to_have_text(["<s>", "␣The", "␣cat", "␣slept", "."])
    expect(page.locator("#keys li")).to_have_text(SOURCE)
    page.click("#queries li >> nth=1")
    assert_table(page, with_mean(WEIGHTS["decoder/1/cross"][:, 1, :]))

    page.get_by_role("button", name="head 1").click()
    expect(page.get_by_role("button", name="head 1")).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#status")).to_contain_text("2 of 3 heads")
    assert_table(page, with_mean(WEIGHTS["decoder/1/cross"][[0, 2], 1, :]))

    page.get_by_role("button", name="head 2").click(modifiers=["Shift"])
    expect(page.locator("#status")).to_contain_text("layer 1, head 2")
    assert_table(page, WEIGHTS["decoder/1/cross"][2, 1, :, None])
    page.get_by_role("button", name="head 2").click()
    expect(page.locator("#details")).to_have_text("No head is on.")
    page.get_by_role("button", name="All heads").click()
    expect(page.locator("#status")).to_contain_text("3 of 3 heads")


@pytest.mark.slow
def test_a_threshold_hides_weak_lines(page, expect):
    drawn = page.locator("#lines canvas")
    for threshold in (0.05, 0.3):
        page.locator("#threshold").fill(str(threshold))
        rounded = np.rint(WEIGHTS["encoder/0"] * 255)
        expect(drawn).to_have_attribute("data-drawn", str((rounded >= threshold * 255).sum()))


@pytest.mark.slow
def test_the_matrix_shows_the_weight_of_a_cell(page, expect):
    page.get_by_text("Matrix", exact=True).click()
    canvas = page.locator("#matrix canvas")
    settle(page)
    left, top, cell = (float(canvas.get_attribute(f"data-{x}")) for x in ("left", "top", "cell"))
    canvas.hover(position={"x": left + 3.5 * cell, "y": top + 1.5 * cell})
    expect(page.locator("#details h2")).to_contain_text("Query 1 “⁨Katze⁩”, key 3 “⁨.⁩”: ")
    shown = float(page.locator("#details h2").inner_text().split(": ")[1])
    assert abs(shown - WEIGHTS["encoder/0"][:, 1, 3].mean()) < 0.005 + 1 / 510
    assert_table(page, with_mean(WEIGHTS["encoder/0"][:, 1, :]))


@pytest.mark.slow
def test_the_overview_opens_a_head(page, expect):
    page.get_by_text("Overview", exact=True).click()
    expect(page.locator("#overview canvas")).to_have_count(2 * 3)
    page.get_by_role("button", name="Open encoder layer 1, head 2").click()
    expect(page.locator("#status")).to_have_text("encoder, layer 1, head 2")
    expect(page.locator("#matrix canvas")).to_be_visible()


@pytest.mark.slow
def test_the_keyboard_reaches_everything(page, expect):
    status, heading = page.locator("#status"), page.locator("#details h2")
    page.locator("#queries li >> nth=0").focus()
    page.keyboard.press("ArrowDown")
    expect(heading).to_contain_text("Query 1")
    strongest = int(WEIGHTS["encoder/0"][:, 1].mean(0).argmax())
    expect(page.locator("#live")).to_contain_text(
        f"Query 1 “⁨Katze⁩” attends to: “⁨{SOURCE[strongest]}⁩"
    )
    page.keyboard.press("ArrowRight")
    expect(heading).to_contain_text(f"Key {strongest}")
    page.keyboard.press("Home")
    expect(heading).to_contain_text("Key 0")
    expect(page.locator("#keys li >> nth=0")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Escape")
    expect(heading).to_have_count(0)
    for key, text in (
        ("]", "encoder, layer 1"),
        ("[", "encoder, layer 0"),
        ("g", "decoder self, layer 0, 3 of 3 heads"),
        ("h", "decoder self, layer 0, head 0"),
        ("h", "decoder self, layer 0, head 1"),
        ("a", "3 of 3 heads"),
        ("3", "decoder self: 2 layers"),
        ("2", "3 of 3 heads, mean"),
    ):
        page.keyboard.press(key)
        expect(status).to_contain_text(text)
    page.locator("#matrix canvas").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(heading).to_contain_text("Query 1 “⁨␣The⁩”, key 1")
    expect(page.locator("#live")).to_contain_text("Strongest keys: ")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


@pytest.mark.slow
def test_tab_goes_through_the_controls_once_each(page):
    """Lists and toolbars are one stop each: two lists, one row of heads."""
    page.locator("h1").click()
    stops = []
    for _ in range(14):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.id"))
    assert stops.index("group") < stops.index("layer") < stops.index("head 0")
    assert stops.index("head 0") < stops.index("Save as SVG") < stops.index("0: Die")
    assert "head 1" not in stops and "1: Katze" not in stops


@pytest.mark.slow
def test_roles_and_names_are_there_for_screen_readers(page, expect):
    expect(page.get_by_role("listbox", name="queries (encoder)")).to_be_visible()
    expect(page.get_by_role("listbox", name="keys (encoder)")).to_be_visible()
    expect(page.get_by_role("option", name="1: Katze")).to_have_count(2)
    expect(page.get_by_role("radio", name="Lines")).to_be_checked()
    expect(page.get_by_role("button", name="head 0", pressed=True)).to_be_visible()
    expect(page.get_by_role("slider", name="Hide below")).to_be_visible()
    expect(page.get_by_role("heading", name="A cat")).to_be_visible()
    assert page.title() == "A cat"
    assert page.locator("#live").get_attribute("aria-live") == "polite"


def contrast(page, selector):
    """Contrast of an element's text with the nearest background (WCAG)."""
    colours = page.eval_on_selector(
        selector,
        """(element) => {
            const colour = getComputedStyle(element).color;
            let back = "rgba(0, 0, 0, 0)";
            for (let e = element; e && back === "rgba(0, 0, 0, 0)"; e = e.parentElement)
                back = getComputedStyle(e).backgroundColor;
            return [colour, back];
        }""",
    )

    def luminance(colour):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return np.dot(parts, (0.2126, 0.7152, 0.0722))

    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_light_and_dark_are_followed_and_readable(open_page, scheme, dark):
    page = open_page(view_attention(*encoder_decoder()).to_html(), color_scheme=scheme)
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", back))) < 200) == dark
    page.click("#queries li >> nth=1")
    settle(page)
    for selector in ("h1", "#status", "li.chosen", "#keys li", "#details h2", "#details thead th"):
        assert contrast(page, selector) >= 4.5, selector


@pytest.mark.slow
def test_the_colour_scheme_may_change_while_the_page_is_open(page, expect):
    swatch = page.locator("#heads button >> nth=0")
    before = swatch.get_attribute("style")
    page.emulate_media(color_scheme="dark")
    expect(swatch).not_to_have_attribute("style", before)


@pytest.mark.slow
def test_400_tokens_draw_a_bounded_number_of_lines(open_page, expect):
    weights = random_weights(12, 400, 400)
    page = open_page(view_attention(weights, [f"t{i}" for i in range(400)]).to_html())
    page.locator("#threshold").fill("0")
    expect(page.locator("#status")).to_contain_text("the strongest")
    settle(page)
    assert 1000 < int(page.locator("#lines canvas").get_attribute("data-drawn")) <= 3000
    assert page.evaluate("document.querySelectorAll('*').length") < 1200
    page.hover("#queries li >> nth=3")
    expect(page.locator("#details h2")).to_contain_text("Query 3 “⁨t3⁩”")
    settle(page)
    assert int(page.locator("#lines canvas").get_attribute("data-drawn")) <= 3000
    top = weights[:, 3].mean(0).max()
    assert abs(next(iter(table_of(page).values()))[0] - top) < 0.01
    page.keyboard.press("2")
    expect(page.locator("#matrix canvas")).to_be_visible()
    page.keyboard.press("3")
    expect(page.locator("#overview canvas")).to_have_count(12)
    page.keyboard.press("1")
    _, svg = download(page, lambda: page.keyboard.press("s"))
    assert svg.count(b"<path") <= 3000


@pytest.mark.slow
@pytest.mark.parametrize("in_frame", [False, True])
def test_hostile_tokens_stay_text(open_page, in_frame):
    view = view_attention(random_weights(1, 18, 18), HOSTILE, title=HOSTILE[0])
    page = open_page(view._repr_html_() if in_frame else view.to_html(), in_frame)
    inside = page.frames[-1]
    assert inside.title() == inside.locator("h1").inner_text() == HOSTILE[0]
    shown = inside.locator("#queries li").all_text_contents()
    assert shown[:5] == [
        "<script>window.br…",
        "</script>",
        "<img src=x onerro…",
        "\"quote' & &amp;",
        r"a\nb",
    ]
    assert shown[5:10] == ["␣", "(empty)", r"x\u2028y", "{{title}}{{data}}", r"\u003c/script>"]
    assert shown[10:] == [
        "שלום",
        r"\u202eabc",
        "👩‍👩‍👧‍👦",
        r"\u200d",
        "◌\u0301",
        r"\x00",
        r"\ud83d",
        "語",
    ]
    inside.click("#queries li >> nth=0")
    settle(inside)
    assert HOSTILE[0] in inside.locator("#details").inner_text()
    assert inside.evaluate("window.broken") is None
    assert inside.locator("img, main script").count() == 0


@pytest.mark.slow
def test_the_svg_holds_the_tokens_as_text(open_page):
    page = open_page(view_attention(random_weights(2, 18, 18), HOSTILE, title="<b>").to_html())
    for view in ("lines", "matrix"):
        page.locator(f"label:has(input[value={view}])").click()
        name, data = download(page, page.get_by_role("button", name="Save as SVG").click)
        assert name == f"attention-attention-attention-{view}.svg"
        root = ElementTree.fromstring(data)  # well-formed, whatever the tokens are
        texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
        assert "<b>" in texts and "attention, 2 of 2 heads" in texts
        for token in ("</script>", "שלום", "語", "␣", r"\x00"):
            assert texts.count(token) == 2
        assert not {element.tag.split("}")[1] for element in root.iter()} - {
            "svg", "text", "path", "rect", "image"
        }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("view", ["lines", "matrix", "overview"])
def test_every_view_is_saved_as_png(page, view):
    page.locator(f"label:has(input[value={view}])").click()
    name, data = download(page, page.get_by_role("button", name="Save as PNG").click)
    assert name == f"attention-encoder-layer-0-{view}.png"
    assert data.startswith(b"\x89PNG") and len(data) > 2000


@pytest.mark.slow
def test_a_notebook_frame_works_and_saves(open_page, expect):
    view = view_attention(*encoder_decoder())
    page = open_page(f"<!doctype html><body>{view._repr_html_()}</body>", in_frame=True)
    inside = page.frame_locator("iframe")
    inside.locator("#queries li >> nth=2").hover()
    expect(inside.locator("#details h2")).to_contain_text("Query 2")
    assert_table(inside, with_mean(WEIGHTS["encoder/0"][:, 2, :]))
    _, data = download(page, inside.get_by_role("button", name="Save as SVG").click)
    assert b"Katze" in data
    assert page.frames[-1].evaluate("window.origin") == "null"


@pytest.mark.slow
def test_the_policy_of_the_page_forbids_the_network(open_page):
    page = open_page(view_attention(*encoder_decoder()).to_html())
    outcome = page.evaluate(
        """async () => {
            const blocked = [];
            addEventListener("securitypolicyviolation", (e) => blocked.push(e.effectiveDirective));
            await fetch("https://example.invalid/x").catch(() => {});
            new Image().src = "https://example.invalid/x.png";
            const script = document.createElement("script");
            script.src = "https://example.invalid/x.js";
            document.body.append(script);
            await new Promise((resolve) => setTimeout(resolve, 300));
            return blocked.sort();
        }"""
    )
    assert outcome == ["connect-src", "img-src", "script-src-elem"]
    assert len(page.errors) >= 3 and all("Content Security Policy" in e for e in page.errors[:3])
    page.errors.clear()
    page.requests[:] = [url for url in page.requests if "example.invalid" not in url]


@pytest.mark.slow
def test_a_phone_needs_no_sideways_scrolling(open_page):
    page = open_page(view_attention(*encoder_decoder()).to_html())
    page.set_viewport_size({"width": 360, "height": 740})
    for view in ("lines", "matrix"):
        page.locator(f"label:has(input[value={view}])").click()
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate("(s => s.scrollWidth - s.clientWidth)(document.all.stage)") <= 0
