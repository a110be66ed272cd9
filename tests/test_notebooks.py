"""Tests of the notebooks: committed executed and clean; run again from the top (slow)."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted([*FOLDER.glob("*.ipynb"), *FOLDER.glob("solutions/*.ipynb")])
LESSONS = [path for path in NOTEBOOKS if path.parent == FOLDER]
SOLUTIONS = [path for path in NOTEBOOKS if path.parent != FOLDER]
MOST_CELLS, MOST_BYTES = 60, 400_000
# Folders of one machine; "/home" only where it begins a path, so that addresses may hold it.
MACHINE_PATH = re.compile(r"(?<![\w./:])(?:/work|/tmp|/root|/home|/Users|[A-Z]:\\\\Users)\b")
# What libraries write when they start or compile: red in a notebook, and no part of a lesson.
LOG_LINE = re.compile(
    r"^[IWEF]\d{4} |^\d{4}-\d\d-\d\d .*: [IWEF] |^WARNING:|cpu_feature_guard|oneDNN|"
    r"Compiling the decoding loop|Warning: ",
    re.MULTILINE,
)
ARTICLES = (
    "使用 Python 和 TensorFlow/PyTorch 实现 GPT-4",
    "本文旨在深入探讨GPT-4的核心特性",
    "GPT-4原理与代码实例讲解",
    "大语言模型原理与工程实践：GPT 系列模型的发展",
    "大语言模型应用指南：GPT-4V简介",
)
SECONDS_PER_CELL = 900


def name_of(path):
    return str(path.relative_to(FOLDER))


def every(paths):
    return pytest.mark.parametrize("path", paths, ids=name_of)


def cells_of(path, kind=None):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if kind in (None, cell["cell_type"])]


def source_of(cell):
    return "".join(cell["source"])


def code_cells(path):
    return [cell for cell in cells_of(path, "code") if source_of(cell).strip()]


def printed_text(path):
    """Everything that the cells of a notebook printed, and what they returned as text."""
    texts = []
    for cell in code_cells(path):
        for output in cell["outputs"]:
            texts.append("".join(output.get("text", [])))
            texts.append("".join(output.get("data", {}).get("text/plain", [])))
    return "\n".join(texts)


def find_exercises(path):
    """Names of the exercises of a notebook: `check("name", ...)`, and `use` and `find_bug`."""
    code = "\n".join(source_of(cell) for cell in code_cells(path))
    return re.findall(r"\b(?:check|use|find_bug)\(\s*[\"']([^\"']+)[\"']", code)


def test_there_are_notebooks():
    assert LESSONS and SOLUTIONS


@every(NOTEBOOKS)
def test_a_notebook_was_executed_once_from_top_to_bottom(path):
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    assert any(cell["outputs"] for cell in code_cells(path))


@every(NOTEBOOKS)
def test_a_notebook_shows_no_error_and_no_warning(path):
    for cell in code_cells(path):
        for output in cell["outputs"]:
            assert output["output_type"] != "error", source_of(cell)
            assert output.get("name") != "stderr", "".join(output["text"])


@every(NOTEBOOKS)
def test_a_notebook_prints_no_line_of_a_log(path):
    found = LOG_LINE.search(printed_text(path))
    assert found is None, found.group()


@pytest.mark.parametrize(
    "line",
    [
        "2026-01-02 10:11:12.131415: I tensorflow/core/platform/cpu_feature_guard.cc:210] This",
        "I0000 00:00:1764300000.123456   1 service.cc:153] XLA service",
        "WARNING:tensorflow:5 out of the last 5 calls",
        "Compiling the decoding loop; this happens once",
        "<string>:1: UserWarning: No font",
    ],
)
def test_lines_of_a_log_are_recognized(line):
    assert LOG_LINE.search(f"a result\n{line}\n")
    assert not LOG_LINE.search("loss 4.22, ln V 4.20\nW0 is a weight. Date: 2026-01-02")


@every(LESSONS)
def test_a_diagram_has_an_alternative_text(path):
    for cell in code_cells(path):
        if re.search(r"^draw_\w+\(", source_of(cell), re.MULTILINE):
            (metadata,) = (output["metadata"] for output in cell["outputs"] if "data" in output)
            assert len(metadata["image/png"]["alt"]) > 100


@every(NOTEBOOKS)
def test_a_notebook_names_no_folder_of_one_machine(path):
    found = MACHINE_PATH.search(path.read_text(encoding="utf-8"))
    assert found is None, found.group()


@every(NOTEBOOKS)
def test_a_notebook_is_small(path):
    assert path.stat().st_size < MOST_BYTES
    assert len(cells_of(path)) <= MOST_CELLS


@every(LESSONS)
def test_a_notebook_begins_with_a_title_and_a_number_in_its_name(path):
    first = cells_of(path)[0]
    assert first["cell_type"] == "markdown" and source_of(first).startswith("# ")
    assert re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name)


@every(LESSONS)
def test_a_header_links_the_table_of_letters(path):
    link = "#Letters" if path.name.startswith("00_") else "00_start_here.ipynb#Letters"
    assert f"]({link})" in source_of(cells_of(path)[0])


@every(LESSONS)
def test_a_header_does_not_tell_what_was_not_measured(path):
    for copy in (path, FOLDER / "zh" / path.name):
        header = source_of(cells_of(copy)[0])
        assert "not yet measured" not in header and "尚未测量" not in header


@every(NOTEBOOKS)
def test_heights_and_images_have_no_letter_of_heads_and_weights(path):
    """H counts heads and N weights: a shape of images names its height and its batch."""
    for cell in cells_of(path):
        found = re.search(r"\bH, W\b|\bH ?/ ?P\b|\(B, N,|\(N, [EN]\)", source_of(cell))
        assert found is None, found.group()


def read_before(path):
    """List the numbers of the notebooks that a header asks to read before."""
    header = source_of(cells_of(path)[0])
    line = re.search(r"\*\*Read before:\*\*.*?(?=\*\*Letters|$)", header, re.MULTILINE).group()
    return re.findall(r"\]\((\d\d)_", line)


def test_the_first_notebook_lists_and_draws_all_notebooks_with_what_they_need():
    sources = [source_of(cell) for cell in cells_of(LESSONS[0])]
    index = next(source for source in sources if source.startswith("## What tfgpt is"))
    for path in LESSONS[1:]:
        assert f"({path.name})" in index
    (code,) = (source for source in sources if source.startswith("needs = {"))
    needs = ast.literal_eval(code[len("needs = ") : code.index("}") + 1])
    titles = [source_of(cells_of(path)[0]).splitlines()[0][2:] for path in LESSONS]
    assert list(needs) == titles
    drawn = {name[:2]: before.split() for name, before in needs.items()}
    assert drawn == {"00": []} | {path.name[:2]: read_before(path) for path in LESSONS[1:]}


@pytest.mark.parametrize("title", ARTICLES)
def test_each_article_is_named_in_the_readme_the_first_notebook_and_the_errata(title):
    assert title in (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert title in LESSONS[0].read_text(encoding="utf-8")
    assert title in (FOLDER / "errata.md").read_text(encoding="utf-8")


def test_the_errata_lead_to_files_that_exist():
    links = re.findall(r"\]\(([^)]+)\)", (FOLDER / "errata.md").read_text(encoding="utf-8"))
    assert links and all((FOLDER / link).exists() for link in links)


@every(LESSONS)
def test_exercises_are_known_and_have_a_solution(path):
    from tfgpt.checks import EXERCISES

    exercises = find_exercises(path)
    assert set(exercises) <= set(EXERCISES)
    if exercises:
        solution = FOLDER / "solutions" / path.name
        assert solution.exists()
        assert set(exercises) <= set(find_exercises(solution))


def test_notebook_09_counts_without_the_formulas_that_its_exercises_ask_for():
    (path,) = FOLDER.glob("09_*.ipynb")
    code = "\n".join(source_of(cell) for cell in code_cells(path))
    assert "forward_flops(V, L, D, length)" in code and "count_params()" in code
    assert not re.search(r"def forward_flops|\* ?D ?\*\* ?2|13 ?\* ?D", code)


@every(SOLUTIONS)
def test_a_solution_passes_its_checks_and_belongs_to_a_lesson(path):
    assert (FOLDER / path.name).exists()
    from tfgpt.checks import EXERCISES

    printed, exercises = printed_text(path), set(find_exercises(path))
    assert exercises and "still empty" not in printed
    for name in exercises:
        assert f"{name}: all {len(EXERCISES[name].cases)} checks passed." in printed


def test_every_exercise_is_used_in_a_lesson():
    from tfgpt.checks import EXERCISES

    used = {name for path in LESSONS for name in find_exercises(path)}
    assert set(EXERCISES) <= used


@pytest.mark.parametrize("folder", ["/work/x", "'/tmp/a'", "/root/.cache", "/home/me/a.txt"])
def test_machine_paths_are_recognized(folder):
    assert MACHINE_PATH.search(folder)
    assert not MACHINE_PATH.search("https://example.org" + folder.strip("'"))
    assert not MACHINE_PATH.search("homework/tmp framework/root")


@pytest.mark.slow
@every(NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom_in_a_fresh_kernel(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    # Nothing that a cell writes lands in the repository.
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    # As a reader runs it, without what conftest.py sets: the first cell keeps the log quiet.
    for name in ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    notebook = nbformat.read(copy, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS_PER_CELL, kernel_name="python3", resources={}
    )
    client.execute(cwd=str(tmp_path))
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", "".join(output["text"])
            assert not LOG_LINE.search("".join(output.get("text", "")))
