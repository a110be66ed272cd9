"""Every public name is explained, and every example in a docstring runs."""

import doctest
import importlib
import inspect
import operator
import pkgutil
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import tfgpt

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(tfgpt.__path__, "tfgpt.")
    if not module.name.endswith("__main__")
)
RUNNER_FLAGS = doctest.NORMALIZE_WHITESPACE


def public(module_name):
    """List what a module itself defines under public names: (name, object)."""
    module = importlib.import_module(module_name)
    return [
        (name, member)
        for name, member in vars(module).items()
        if not name.startswith("_")
        and getattr(member, "__module__", None) == module_name
        and (inspect.isclass(member) or inspect.isfunction(member))
    ]


def own_methods(cls):
    """List public methods that a class adds; those of Keras are explained by Keras."""
    return [
        (name, method)
        for name, method in vars(cls).items()
        if inspect.isfunction(method)
        and not name.startswith("_")
        and not any(hasattr(base, name) for base in cls.__mro__[1:])
    ]


def example_modules():
    """List all modules; the examples of some compile programs and take seconds."""
    slow = re.compile(
        r"generation\.(speculative|beam|decoding|contrastive)|train_step|training|vision_model|tasks\.|serving\."
    )
    return [
        pytest.param(name, marks=pytest.mark.slow) if slow.search(name) else name
        for name in ["tfgpt", *MODULES]
    ]


@pytest.mark.parametrize("module_name", example_modules())
def test_the_examples_in_docstrings_run(module_name):
    if module_name.startswith("tfgpt.serving."):
        pytest.importorskip("ai_edge_litert")
    if module_name in ("tfgpt.safety.cleaning", "tfgpt.safety.duplicates"):
        pytest.importorskip("datasketch")
    module = importlib.import_module(module_name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=RUNNER_FLAGS)
    report = []
    for test in finder.find(module, extraglobs={"keras": keras, "np": np}):
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("module_name", ["tfgpt", *MODULES])
def test_every_module_class_function_and_method_has_a_docstring(module_name):
    assert inspect.getdoc(importlib.import_module(module_name)).strip()
    missing = []
    for name, member in public(module_name):
        # A dataclass without a docstring gets its signature as one.
        if not (member.__doc__ or "").strip() or member.__doc__.startswith(f"{name}("):
            missing.append(name)
        if inspect.isclass(member):
            missing += [
                f"{name}.{method_name}"
                for method_name, method in own_methods(member)
                if method_name not in ("build", "call", "get_config") and not method.__doc__
            ]
    assert not missing


def layer_classes():
    """List the public layers, models and schedules; bases that are not used alone left out."""
    kinds = (keras.layers.Layer, keras.optimizers.schedules.LearningRateSchedule)
    return [
        cls
        for module_name in MODULES
        for _, cls in public(module_name)
        if inspect.isclass(cls) and issubclass(cls, kinds)
    ]


@pytest.mark.parametrize("cls", [cls for cls in layer_classes() if hasattr(tfgpt, cls.__name__)])
def test_every_public_layer_is_registered_with_keras(cls):
    registered_name = f"tfgpt>{cls.__name__}"
    assert keras.saving.get_registered_name(cls) == registered_name
    assert keras.saving.get_registered_object(registered_name) is cls


def test_what_is_not_registered_is_a_base_of_what_is():
    """Adapters, heads and lenses apart: they need a layer or a GPT, and have files of their own.

    What checks compare with is never saved.
    """
    own_files = (".tuning.", ".tasks.", ".checks.", ".interpret.")
    classes = [c for c in layer_classes() if not any(part in c.__module__ for part in own_files)]
    assert len(classes) > 5
    for cls in classes:
        if keras.saving.get_registered_name(cls) != f"tfgpt>{cls.__name__}":
            assert any(issubclass(other, cls) and other is not cls for other in classes)


@pytest.mark.parametrize("name", tfgpt.__all__)
def test_every_name_that_the_package_exports_exists(name):
    assert hasattr(tfgpt, name)


def test_every_file_of_the_package_is_examined():
    folder = Path(tfgpt.__file__).parent
    files = {
        ".".join(["tfgpt", *path.relative_to(folder).with_suffix("").parts])
        for path in folder.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }
    rooms = {f"tfgpt.{path.parent.name}" for path in folder.glob("*/__init__.py")}
    assert files | rooms == set(MODULES)


def test_names_that_are_loaded_late_are_exported_too():
    assert set(tfgpt.LAZY) <= set(tfgpt.__all__) <= set(dir(tfgpt))


def test_the_names_in_the_readme_exist():
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    names = set(re.findall(r"\btfgpt((?:\.[A-Za-z_]\w*)+)\(", text))
    assert len(names) > 10
    for name in names:
        operator.attrgetter(name.strip("."))(tfgpt)
