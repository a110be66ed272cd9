"""The pages of the course: every link leads somewhere, and a phone can read them."""

import importlib.util
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
LESSONS = sorted([*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("zh/*.ipynb")])
PAGES = ["index", "search", *(str(path.relative_to(ROOT).with_suffix("")) for path in LESSONS)]
pytestmark = pytest.mark.slow


class Links(HTMLParser):
    """Collect the ids of a page and what it links and loads."""

    def __init__(self):
        super().__init__()
        self.ids, self.links, self.loaded = set(), set(), set()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found.get("id")}
        if tag == "a":
            self.links |= {found.get("href")}
        elif tag in ("img", "script", "link", "iframe"):
            self.loaded |= {found.get("src") or found.get("href")}


@pytest.fixture(scope="module")
def site(once, tmp_path_factory):
    """The folder of the pages."""
    for name in ("sphinx", "myst_nb", "furo", "latex2mathml"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}: pip install 'tfgpt[site]'")

    def build():
        folder = str(tmp_path_factory.mktemp("site"))
        subprocess.run([sys.executable, ROOT / "site" / "build.py", folder], check=True)
        return folder

    return Path(once("site", build))


@pytest.fixture(scope="module")
def pages(site):
    """Path -> Links, of all pages."""
    parsed = {}
    for path in site.rglob("*.html"):
        parsed[path] = Links()
        parsed[path].feed(path.read_text(encoding="utf-8"))
    return parsed


def test_all_lessons_solutions_and_the_glossary_are_there(site):
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        assert (site / path.relative_to(ROOT)).with_suffix(".html").is_file()
    assert (site / "notebooks" / "zh" / "glossary.html").is_file()


def test_no_link_is_broken(pages):
    for page, found in pages.items():
        for link in found.links - {None, "", "#"}:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.is_file(), f"{page}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{page}: {link}"


def test_nothing_is_loaded_from_the_network(pages):
    for page, found in pages.items():
        loaded = {urlsplit(link).scheme for link in found.loaded - {None}}
        assert loaded <= {"", "data"}, page


def test_figures_and_formulas_are_shown(site):
    text = (site / "notebooks" / "01_attention_by_hand.html").read_text(encoding="utf-8")
    assert "<math " in text and "<img " in text and "Exercise 1" in text


def test_a_phone_shows_every_page_without_scrolling_sideways_and_without_an_error(site, browser):
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append((page.url, str(error))))
    page.on(
        "console",
        lambda line: faults.append((page.url, line.text)) if line.type == "error" else None,
    )
    for name in PAGES:
        page.goto((site / f"{name}.html").as_uri())
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > 390 or not page.locator("h1, h2, input[name=q]").first.is_visible():
            faults.append((name, width))
    assert faults == [] and len(PAGES) > 50
    context.close()


@pytest.mark.parametrize(
    ("words", "found"),
    [("softmax", "01_attention_by_hand"), ("填充掩码", "zh/02_masks_and_padding")],
)
def test_the_search_finds_lessons_in_both_languages(site, browser, words, found):
    context = browser.new_context()
    page = context.new_page()
    page.goto((site / "search.html").as_uri() + f"?q={words}")
    page.locator(f"#search-results a[href*='{found}']").first.wait_for(timeout=20_000)
    context.close()
