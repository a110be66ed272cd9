"""Sphinx's settings for the pages of the course; `site/build.py` makes the sources."""

import re

from latex2mathml.converter import convert
from sphinx.search.en import SearchEnglish

project = "tfgpt"
html_title = "tfgpt: GPT, written to be read"
extensions = ["myst_nb"]
html_theme = "furo"
html_copy_source = html_show_sourcelink = html_show_sphinx = False
# Pages show the outputs that the notebooks hold, and load nothing from the network.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3
html_search_language = "en-zh"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["course.css"]


class SearchBoth(SearchEnglish):
    """English words by their stems, Chinese text by pairs of neighbouring characters."""

    lang = "en-zh"
    words = re.compile(r"[\u4e00-\u9fff]+|[^\W\u4e00-\u9fff]+")
    js_splitter_code = """
var splitQuery = (query) =>
  (query.match(/[\\u4e00-\\u9fff]+|(?:(?![\\u4e00-\\u9fff])[\\p{Letter}\\p{Number}_])+/gu) || [])
    .flatMap((word) =>
      /^[\\u4e00-\\u9fff]{2,}$/.test(word)
        ? [...word].slice(1).map((character, place) => word[place] + character)
        : [word]
    );
"""

    def split(self, text):
        """Return the terms of a text."""
        return [term for word in self.words.findall(text) for term in pairs(word)]


def pairs(word):
    """Cut a run of two or more Chinese characters into pairs: 注意力 -> 注意, 意力."""
    is_chinese = len(word) > 1 and "\u4e00" <= word[0] <= "\u9fff"
    return [a + b for a, b in zip(word, word[1:], strict=False)] if is_chinese else [word]


def inline_math(writer, node):
    """Write a formula inside of a line; browsers draw MathML without a library."""
    writer.body.append(convert(node.astext()))
    node.children.clear()


def block_math(writer, node):
    """Write a formula on a line of its own."""
    writer.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    node.children.clear()


def nothing(writer, node):
    """End a formula, all of which is written."""


def setup(app):
    """Make the search and the renderer known to Sphinx."""
    app.add_search_language(SearchBoth)
    app.add_html_math_renderer("mathml", (inline_math, nothing), (block_math, nothing))
