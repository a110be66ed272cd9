"""Tests of the Chinese edition: the code of the English notebooks, and prose that is up to date."""

import hashlib
import json
import re
import runpy
import shlex
from pathlib import Path

import pytest

from tfgpt.cli import make_parser

ROOT = Path(__file__).resolve().parents[1]
ENGLISH = ROOT / "notebooks"
CHINESE = ENGLISH / "zh"
NAMES = sorted(path.name for path in CHINESE.glob("*.ipynb"))
LESSONS = sorted(path.name for path in ENGLISH.glob("*.ipynb"))
CODE_SPAN = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
FORMULA = re.compile(r"\$\$.+?\$\$|\$[^$\n]+\$", re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
CHINESE_TEXT = re.compile(r"[\u4e00-\u9fff]")
# 1.5 million is 150 万: numbers are compared by their values.
NUMBER = re.compile(
    r"(\d+(?:,\d{3})*(?:\.\d+)*)(?: ?(thousand|million|billion|trillion|千|万亿|万|百万|十亿|亿))?"
)
UNITS = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
UNITS |= {"千": 1e3, "万": 1e4, "百万": 1e6, "亿": 1e8, "十亿": 1e9, "万亿": 1e12}
GLOSSARY = (CHINESE / "glossary.md").read_text(encoding="utf-8")
TERMS = re.findall(r"^\| (.+) \| (.+) \| .+ \| \[(\d\d)\]\((.+)\) \|$", GLOSSARY, re.MULTILINE)
README = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
ENGLISH_README = (ROOT / "README.md").read_text(encoding="utf-8")
every = pytest.mark.parametrize("name", NAMES)


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def text_of(cell):
    return "".join(cell["source"])


def prose_of(folder, name):
    cells = read(folder, name)["cells"]
    return "\n".join(text_of(cell) for cell in cells if cell["cell_type"] == "markdown")


def pairs_of_prose(name):
    """Pair the text of each English cell of prose with its translation; the id comes first."""
    pairs = zip(read(ENGLISH, name)["cells"], read(CHINESE, name)["cells"], strict=True)
    return [
        (english["id"], text_of(english), text_of(chinese))
        for english, chinese in pairs
        if english["cell_type"] == "markdown"
    ]


def links_of(text):
    return [first or second for first, second in LINK.findall(CODE_SPAN.sub("", text))]


def anchors_of(name):
    """List the places that links of Jupyter can lead to: headings with - for each space."""
    headings = re.findall(r"^#+ (.+)$", prose_of(CHINESE, name), re.MULTILINE)
    return {heading.replace(" ", "-") for heading in headings}


def moved(link):
    """Say where a link of an English notebook leads from the folder of the Chinese ones."""
    if "://" in link or link.startswith("#"):
        return link
    if link.startswith("zh/"):  # each edition links the other one
        return link.replace("zh/", "../")
    return link if link.split("#")[0] in LESSONS else f"../{link}"


def values_of(text):
    values = set()
    for digits, unit in NUMBER.findall(text):
        digits = digits.replace(",", "")
        if digits.count(".") < 2:
            digits = round(float(digits) * UNITS.get(unit, 1), 9)
        values.add(digits)
    return values


def broken_bold(text):
    """Find bold text that is shown with its asterisks.

    Markdown closes no bold text between a punctuation mark and a letter, and Chinese has no spaces
    there: "**词：**字" stays as it is, "**词**：字" is bold.
    """
    parts = CODE_SPAN.sub("`", text).split("**")
    return [
        parts[i]
        for i in range(1, len(parts), 2)
        if re.match(r".*\w\n[^\w\s]", parts[i - 1][-1:] + "\n" + parts[i][:1])
        or re.match(r"[^\w\s]\n\w", parts[i][-1:] + "\n" + "".join(parts[i + 1 : i + 2])[:1])
    ]


def test_every_lesson_has_a_chinese_edition():
    assert NAMES == LESSONS


@every
def test_code_outputs_and_order_are_those_of_the_english_notebook(name):
    english, chinese = read(ENGLISH, name), read(CHINESE, name)
    assert {**chinese, "cells": []} == {**english, "cells": []}
    assert len(chinese["cells"]) == len(english["cells"])
    for ours, theirs in zip(chinese["cells"], english["cells"], strict=True):
        assert (ours["id"], ours["cell_type"]) == (theirs["id"], theirs["cell_type"])
        if theirs["cell_type"] == "code":
            assert ours == theirs, f"run notebooks/zh/update.py: {ours['id']} is another one"


@every
def test_every_translation_belongs_to_the_present_english_text(name):
    pairs = zip(read(ENGLISH, name)["cells"], read(CHINESE, name)["cells"], strict=True)
    stale = [
        english["id"]
        for english, chinese in pairs
        if english["cell_type"] == "markdown"
        and chinese["metadata"].get("translated")
        != hashlib.sha256(text_of(english).encode()).hexdigest()[:12]
    ]
    assert not stale, "notebooks/zh/update.py prints the cells to translate anew"


@every
def test_formulas_and_code_are_not_translated(name):
    for cell, english, chinese in pairs_of_prose(name):
        for pattern in (CODE_SPAN, FORMULA):
            missing = set(pattern.findall(english)) - set(pattern.findall(chinese))
            assert not missing, cell


@every
def test_numbers_keep_their_values(name):
    for cell, english, chinese in pairs_of_prose(name):
        assert not values_of(english) - values_of(chinese), cell


@every
def test_every_line_of_prose_is_chinese(name):
    for cell, _, chinese in pairs_of_prose(name):
        prose = LINK.sub("]", FORMULA.sub("", CODE_SPAN.sub("", chinese)))
        assert CHINESE_TEXT.search(prose), cell
        for line in prose.splitlines():
            words = re.findall(r"[A-Za-z]{2,}", re.sub(r"<[^>]+>", "", line))
            assert len(words) < 4 or CHINESE_TEXT.search(line), f"{cell}: {line}"


@every
def test_the_form_of_a_cell_is_kept(name):
    """Headings, rows of tables, items of lists and folded hints are as many, in the same order."""
    for cell, english, chinese in pairs_of_prose(name):
        form = re.compile(r"^(#+ |\|[-: |]+\|$|\||[-*] |\d+\. |</?details)", re.MULTILINE)
        assert form.findall(chinese) == form.findall(english), cell


@every
def test_bold_text_is_shown_bold(name):
    for cell, _, chinese in pairs_of_prose(name):
        assert CODE_SPAN.sub("", chinese).count("**") % 2 == 0, cell
        assert not broken_bold(chinese), cell


@every
def test_links_lead_where_the_english_ones_lead(name):
    for cell, english, chinese in pairs_of_prose(name):
        ours = [link.split("#")[0] for link in links_of(chinese) if link != "glossary.md"]
        theirs = [moved(link).split("#")[0] for link in links_of(english)]
        assert sorted(ours) == sorted(theirs), cell


@every
def test_a_link_to_a_lesson_names_its_title(name):
    for cell, _, chinese in pairs_of_prose(name):
        for text, link in re.findall(r"\[(\d\d [^\]]+)\]\((\w+\.ipynb)\)", chinese):
            assert prose_of(CHINESE, link).startswith(f"# {text}\n"), f"{cell}: {text}"


@every
def test_links_lead_to_files_and_headings(name):
    for cell, _, chinese in pairs_of_prose(name):
        for link in links_of(chinese):
            path, _, anchor = link.partition("#")
            if "://" in link:
                continue
            assert (CHINESE / path).exists(), f"{cell}: {link}"
            if anchor and (path or name) in NAMES:
                assert anchor in anchors_of(path or name), f"{cell}: {link}"


def notebook(*cells):
    """Make a notebook of (id, type, text)."""
    return {
        "cells": [
            {"cell_type": kind, "id": name, "metadata": {}, "source": [text]}
            for name, kind, text in cells
        ]
    }


def test_an_update_takes_code_and_order_and_keeps_what_is_translated():
    update = runpy.run_path(str(CHINESE / "update.py"))
    combine, find_stale = update["combine"], update["find_stale"]
    old = notebook(("a", "markdown", "One"), ("b", "code", "1"), ("c", "markdown", "Two"))
    chinese = notebook(("a", "markdown", "一"), ("b", "code", "1"), ("c", "markdown", "二"))
    chinese = combine(old, chinese, translated=["a", "c"])
    assert find_stale(old, chinese) == []

    new = notebook(("d", "markdown", "New"), ("c", "markdown", "Two."), ("b", "code", "2"))
    new["cells"].append(old["cells"][0])
    after = combine(new, chinese)
    assert [text_of(cell) for cell in after["cells"]] == ["New", "二", "2", "一"]
    assert [cell["id"] for cell in find_stale(new, after)] == ["d", "c"]


@pytest.mark.parametrize("text", ["**词：**字", "字**（词）**", "看**“词”**。"])
def test_bold_text_that_is_not_bold_is_recognized(text):
    assert broken_bold(text)
    assert not broken_bold("**词**：字，**一`a`**。\n- **A** 是对的。**当 j <= i。** 对")


def test_the_glossary_has_each_term_once():
    rows = [line for line in GLOSSARY.splitlines() if line.startswith("|")]
    assert len(TERMS) == sum("|---|" not in row and "| 英文 |" not in row for row in rows)
    chinese, english, _, _ = zip(*TERMS, strict=True)
    assert len(set(chinese)) == len(set(english)) == len(TERMS)


@every
def test_a_term_of_the_glossary_stands_in_the_notebook_that_it_names(name):
    for chinese, english, number, link in TERMS:
        assert link[:2] == number and link in LESSONS
        if link == name:
            prose = prose_of(CHINESE, name)
            assert chinese in prose, chinese
            assert english.lower() in (prose_of(ENGLISH, name) + prose).lower(), english


def test_the_errata_have_the_same_rows_in_both_languages_and_lead_to_files():
    english = (ENGLISH / "errata.md").read_text(encoding="utf-8")
    chinese = (CHINESE / "errata.md").read_text(encoding="utf-8")
    for pattern in (re.compile(r"^(#+ |\||)", re.MULTILINE), re.compile(r"^## .+", re.MULTILINE)):
        forms = [[f for f in pattern.findall(text) if f] for text in (english, chinese)]
        assert forms[0] == forms[1]
    assert values_of(english) <= values_of(chinese)
    assert all((CHINESE / link).exists() for link in links_of(chinese))
    assert "zh/errata.md" in english and "../errata.md" in chinese


def test_each_readme_links_the_other_in_its_first_lines():
    assert "(README.zh-CN.md)" in ENGLISH_README[:200]
    assert "(README.md)" in README[:200]


def test_the_links_of_the_readme_lead_to_files_and_headings():
    headings = {line.lstrip("# ").replace(" ", "-") for line in README.splitlines()}
    for link in links_of(README):
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        assert not anchor or anchor in headings, link


def test_the_readme_lists_every_lesson_with_its_title_and_what_to_read_before():
    rows = re.findall(
        r"^\| \[(.+)\]\(notebooks/zh/(.+)\) \| (.*?) ?\| .+ \| .+ \|$", README, re.MULTILINE
    )
    assert [name for _, name, _ in rows] == LESSONS
    for title, name, before in rows:
        header = text_of(read(ENGLISH, name)["cells"][0])
        line = re.search(r"\*\*Read before:\*\*.*?(?=\*\*Letters|$)", header, re.MULTILINE).group()
        needed = re.findall(r"\]\((\d\d)_", line)
        assert before == "、".join(needed), name
        assert prose_of(CHINESE, name).startswith(f"# {title}\n")


def test_both_readmes_say_the_same_about_the_time_of_the_lessons():
    english = re.search(r"on two CPU cores, (.*?) Exercises", ENGLISH_README, re.DOTALL)[1]
    chinese = re.search(r"在两个 CPU 核上从头运行到尾，(.*?)练习", README, re.DOTALL)[1]
    english = english.replace("two minutes", "2 minutes").replace("in under three", "under 3")
    assert values_of(english) == values_of(chinese) != set()


def test_the_examples_and_numbers_of_the_readme_are_those_of_the_english_one():
    (python,) = re.findall(r"```python\n.*?```", README, re.DOTALL)
    assert python in ENGLISH_README
    assert values_of(README) <= values_of(ENGLISH_README)


def test_the_readme_names_every_command_and_its_lines_are_understood():
    parser = make_parser()
    commands = re.findall(r"^    ([a-z][a-z-]+)(?: |$)", parser.format_help(), re.MULTILINE)
    table = README.split("## 命令行")[1].split("\n## ")[0]
    assert set(re.findall(r"`tfgpt ([a-z][a-z-]+)`", table)) == set(commands)
    lines = re.findall(r"^\.venv/bin/tfgpt (.+)$", README, re.MULTILINE)
    assert len(lines) > 5
    for line in lines:
        parser.parse_args(shlex.split(line, comments=True))


def test_badges_come_into_both_editions_and_are_replaced_not_repeated(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ENGLISH))
    import badges

    name = "02_masks_and_padding.ipynb"
    for folder, source in ((tmp_path, ENGLISH), (tmp_path / "zh", ENGLISH / "zh")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes((source / name).read_bytes())
    for repository in ("first/course", "second/tfgpt"):
        badges.main([repository, "--folder", str(tmp_path)])
    english, chinese = (
        json.loads((folder / name).read_text(encoding="utf-8"))["cells"]
        for folder in (tmp_path, tmp_path / "zh")
    )
    place = "github/second/tfgpt/blob/main/notebooks/"
    for cells, path in ((english, name), (chinese, f"zh/{name}")):
        header, code = ("".join(cells[index]["source"]) for index in (0, 1))
        assert header.startswith("# ") and f"{place}{path}" in header
        assert header.count("Open In Colab") == code.count("%pip install") == 1
        assert "first/course" not in header + code and "import tfgpt" in code
    assert "".join(english[1]["source"]) == "".join(chinese[1]["source"])
    assert chinese[0]["metadata"]["translated"] == badges.digest(english[0])
    with pytest.raises(SystemExit):
        badges.main(["no-owner", "--folder", str(tmp_path)])
