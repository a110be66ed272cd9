"""Tests of the page of patches: its content in Python, its behaviour in a real browser."""

import base64
import json
import re
import zlib

import numpy as np
import pytest

from tfgpt.plotting import view_patch_weights

WORDS = [" red", "</script><b>"]


def looks():
    """Two words, two images of 8 x 6 pixels, patches in 2 x 2; the weights of a word sum to 1."""
    images = np.random.default_rng(0).uniform(size=(2, 8, 6, 3))
    weights = np.arange(1.0, 17).reshape(2, 2, 2, 2)
    return images, weights / weights.sum(axis=(1, 2, 3), keepdims=True)


def content_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(text)


def unpack(text, dtype):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


def test_the_page_holds_images_weights_and_words():
    images, weights = looks()
    page = view_patch_weights(images, weights, WORDS, title="<i>").to_html()
    content = content_of(page)
    assert (content["words"], content["title"], content["grid"]) == (WORDS, "<i>", 2)
    pixels = unpack(content["images"], "u1").reshape(images.shape) / 255
    np.testing.assert_allclose(pixels, images, atol=0.5 / 255 + 1e-6)
    kept = unpack(content["weights"], "<u2").reshape(weights.shape) / 65535
    np.testing.assert_allclose(kept, weights, atol=1e-5)
    assert page.count("</script>") == 2 and page.isascii() and len(page) < 20_000
    assert not re.search(r"https?:|@import|url\(|fetch\(|src=", page)


@pytest.mark.parametrize(
    ("weights", "words", "message"),
    [
        (np.ones((2, 1, 2, 2)), ["a", "b"], r"got \(2, 1, 2, 2\) and \(2, 8, 6, 3\)"),
        (np.ones((2, 2, 2, 3)), ["a", "b"], r"must have shape \(A, N, G, G\)"),
        (np.full((1, 2, 2, 2), 1.1), ["a"], r"in \[0, 1\], got others in 'attention'"),
        (np.full((1, 2, 2, 2), np.nan), ["a"], r"in \[0, 1\]"),
        (np.ones((2, 2, 2, 2)), ["a"], "words must have"),
        ({"a": np.ones((1, 2, 2, 2)), "b": np.ones((1, 2, 1, 1))}, ["a"], "one shape"),
    ],
)
def test_wrong_arguments_are_refused(weights, words, message):
    with pytest.raises(ValueError, match=message):
        view_patch_weights(looks()[0], weights, words)


@pytest.mark.slow
def test_a_word_shows_its_strongest_patches_in_a_browser(browser, tmp_path):
    images, weights = looks()
    path = tmp_path / "page.html"
    methods = {"attention": weights, "turned": weights[:, ::-1, ::-1, ::-1]}
    view_patch_weights(images, methods, WORDS, title="<i>A</i>", save=path)
    page, errors, requests = browser.new_page(), [], []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    strongest, words = page.locator("#strongest li"), page.locator("#words li")
    strongest.nth(2).wait_for()
    assert page.locator("h1").inner_text() == "<i>A</i>"
    assert words.all_inner_texts() == ["␣red", "</script><b>"]
    assert strongest.first.inner_text() == "image 2, row 2, column 2: 0.22"  # 8 / 36
    words.nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert words.nth(1).get_attribute("aria-selected") == "true"
    assert strongest.first.inner_text() == "image 2, row 2, column 2: 0.16"  # 16 / 100
    page.get_by_label("Weights").select_option("turned")
    assert strongest.first.inner_text() == "image 1, row 1, column 1: 0.16"
    # The strongest patch is as bright as in the image, others are darker by their share.
    pixel = "c => [...c.getContext('2d').getImageData(0, 0, 6, 8).data]"
    drawn = np.reshape(page.locator("canvas").first.evaluate(pixel), (8, 6, 4))[..., :3]
    np.testing.assert_allclose(drawn[:4, :3], images[0, :4, :3] * 255, atol=1.1)
    darker = images[0, 4:, 3:] * 255 * (0.15 + 0.85 * 13 / 16)
    np.testing.assert_allclose(drawn[4:, 3:], darker, atol=1.1)
    assert not errors and requests == [path.as_uri()]
    page.close()
