"""The house: which room may import which, read from the source."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tfgpt"
MODULES = sorted(path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py"))
CORE = ("masks", "positional", "attention", "layers", "transformer", "gpt", "losses")
MODELS = {"tfgpt.layers", "tfgpt.transformer", "tfgpt.gpt"}
ROOMS = (
    *("data", "generation", "machine", "plotting", "pretrained", "safety", "tuning"),
    *("tasks", "training", "checks", "cli"),
)


def dotted(path):
    """Turn a file into the name of its module: tfgpt/data/__init__.py -> tfgpt.data."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported(node, package):
    """List the full names that one import statement may load."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    start = package.rsplit(".", node.level - 1)[0] + "." if node.level else ""
    base = (start + (node.module or "")).removesuffix(".")
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def imports_of(path, anywhere=True):
    """List what a module imports: everywhere, or at module level only."""
    tree = ast.parse((PACKAGE.parent / path).read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if anywhere else tree.body
    package = dotted(path.parent) if path.name != "__init__.py" else dotted(path)
    found = [
        name
        for node in nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in imported(node, package)
    ]
    return {name for name in found if name.split(".")[0] == "tfgpt"}


def touches(names, *rooms):
    """Return the names that lie in one of the rooms."""
    homes = [f"tfgpt.{room}" for room in rooms]
    return {name for name in names if any(f"{name}.".startswith(f"{home}.") for home in homes)}


def files_of(*rooms):
    """List the modules of rooms, or single modules of the top folder."""
    return [path for path in MODULES if touches({dotted(path)}, *rooms)]


@pytest.mark.parametrize("path", files_of(*CORE, "validation"), ids=dotted)
def test_the_core_imports_only_the_core(path):
    allowed = touches(imports_of(path), *CORE, "parts", "validation") | {"tfgpt"}
    assert imports_of(path) <= allowed


def test_no_core_file_knows_the_compiled_replacements():
    for path in files_of(*CORE, "validation"):
        text = (PACKAGE.parent / path).read_text(encoding="utf-8")
        assert not re.search(r"\bfused\b", text), path


@pytest.mark.parametrize(
    "path", files_of("data", "plotting", "runs", "checkpoints", "tokenizers"), ids=dotted
)
def test_data_and_figures_know_no_model(path):
    assert not imports_of(path) & MODELS


@pytest.mark.parametrize("path", files_of("machine"), ids=dotted)
def test_the_machine_imports_itself_only(path):
    names = imports_of(path, anywhere=False) - {"tfgpt"}
    assert names == touches(names, "machine")


def test_adapters_and_files_of_others_need_the_core_only():
    for path in files_of("tuning", "pretrained"):
        allowed = touches(imports_of(path), *CORE, "validation", "tuning", "pretrained")
        files = touches(imports_of(path), "bundle", "tokenizers")
        assert imports_of(path) <= allowed | files | {"tfgpt"}, path


def test_images_need_no_files_of_others_and_no_adapters():
    for path in files_of("vision"):
        assert not touches(imports_of(path), "pretrained", "tuning", "interpret"), path


def test_interpretability_needs_the_core_and_no_other_room():
    below = (*CORE, "parts", "rollout", "validation", "interpret")
    for path in files_of("interpret"):
        names = imports_of(path)
        assert names <= touches(names, *below) | {"tfgpt"}, path


def test_safety_needs_texts_and_generation_only():
    below = ("safety", "generation", "data", "tokenizers", "validation")
    for path in files_of("safety"):
        names = imports_of(path)
        assert names <= touches(names, *below) | {"tfgpt"}, path
    for path in files_of("generation", "data", "tokenizers"):
        assert not touches(imports_of(path), "safety"), path


def test_training_and_generation_never_meet():
    for path in files_of(
        *("train_step", "training", "parts", "fused", "runs", "history", "checkpoints"),
        *("schedules", "replicas", "signals", "rate_finder"),
    ):
        assert not touches(imports_of(path), "generation")
    for path in files_of("generation"):
        assert not touches(
            imports_of(path), "train_step", "training", "fused", "runs", "checkpoints", "replicas"
        )


def test_nothing_imports_upwards():
    """Tasks may use all rooms, the command line uses tasks, and nobody uses the checks."""
    for path in MODULES:
        name, names = dotted(path), imports_of(path)
        if name not in ("tfgpt", "tfgpt.__main__") and not touches({name}, "cli"):
            assert not touches(names, "cli"), path
        if not touches({name}, "tasks", "cli") and name != "tfgpt":
            assert not touches(names, "tasks"), path
        if not touches({name}, "checks") and name != "tfgpt":
            assert not touches(names, "checks"), path


def test_nobody_inside_imports_the_whole_package():
    for path in MODULES:
        tree = ast.parse((PACKAGE.parent / path).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert "tfgpt" not in [alias.name for alias in node.names], path


def test_every_room_is_a_room_of_the_plan_and_will_be_committed():
    """A folder named like a public function would hide it; `runs` is ignored by git."""
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(ROOMS) | {"vision", "interpret", "serving"}
