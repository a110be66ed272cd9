"""Tests of the notebooks: committed executed and clean; run again from the top (slow)."""

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
    """Names of the exercises that a notebook checks, from the calls `check("name", ...)`."""
    code = "\n".join(source_of(cell) for cell in code_cells(path))
    return re.findall(r"\bcheck\(\s*[\"']([^\"']+)[\"']", code)


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
def test_exercises_are_known_and_have_a_solution(path):
    from tfgpt.checks import EXERCISES

    exercises = find_exercises(path)
    assert set(exercises) <= set(EXERCISES)
    if exercises:
        solution = FOLDER / "solutions" / path.name
        assert solution.exists()
        assert set(exercises) <= set(find_exercises(solution))


@every(SOLUTIONS)
def test_a_solution_passes_its_checks_and_belongs_to_a_lesson(path):
    assert (FOLDER / path.name).exists()
    printed = printed_text(path)
    assert printed.count("checks passed") >= len(set(find_exercises(path))) > 0
    assert "still empty" not in printed


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
