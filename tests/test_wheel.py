"""A wheel, installed where the repository is not, works: texts, checkpoints, page, command."""

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tfgpt import LiteModel, export_litert
from tfgpt.bundle import load_bundle
from tfgpt.data import DATA_FOLDER

ROOT = Path(__file__).parents[1]
PROGRAM = """
import re, sys
from pathlib import Path
import numpy as np
import tfgpt

assert "{root}" not in tfgpt.__file__, tfgpt.__file__
for name in tfgpt.__all__:
    getattr(tfgpt, name)
assert tfgpt.data.load_text("shakespeare").startswith("First Citizen:")
assert len(tfgpt.data.load_pairs("verses_en-es")) > 10_000
translator = tfgpt.Translator.load("verses_en-es")
assert translator.translate("In the beginning", beam_size=1)
tfgpt.viewer.view_attention(np.eye(3)[None], ["a", "b", "c"], save="page.html")
assert Path("page.html").stat().st_size > 10_000
print("all is there")
"""
WITHOUT_TENSORFLOW = """
import importlib.util
import tfgpt

assert not any(map(importlib.util.find_spec, ("keras", "tensorflow")))
print(tfgpt.LiteModel.load("a.tflite").generate("In the", 9, temperature=0))
"""


PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run(*command, cwd):
    """Run a command outside the repository; return what it wrote."""
    hidden = ("PYTHONPATH", "TFGPT_LITE")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(once, tmp_path_factory):
    """Build the wheel of the last commit, in a copy: a build leaves files behind."""

    def build():
        folder = tmp_path_factory.mktemp("wheel")
        run("git", "clone", "--quiet", str(ROOT), str(folder / "source"), cwd=folder)
        run(*PIP, "wheel", "--no-deps", "--wheel-dir", ".", "./source", cwd=folder)
        (path,) = folder.glob("tfgpt-*.whl")
        return str(path)

    return Path(once("wheel", build))


def make_environment(folder):
    """Make an empty virtual environment; return the folder of its programs."""
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=folder)
    return folder / "venv" / ("Scripts" if os.name == "nt" else "bin")


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_a_wheel_without_the_repository_works(tmp_path, wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"tfgpt/plotting/viewer.html", "tfgpt/plotting/image_viewer.html"} <= set(names)
    assert "tfgpt/bundled/shakespeare.txt" in names
    assert "tfgpt/serving/page.html" in names
    assert not [name for name in names if name.startswith(("tests", "notebooks", "data/"))]

    # A new environment that sees the libraries of this one, but not its tfgpt.
    python = str(make_environment(tmp_path) / "python")
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path)
    site = Path(site.strip())
    run(*PIP, "install", "--no-deps", "--target", str(site), str(wheel), cwd=tmp_path)
    # After its own packages; `.pth` files in there are not read again.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    program = PROGRAM.replace("{root}", str(ROOT))
    assert "all is there" in run(python, "-c", program, cwd=tmp_path)
    command = "import sys, tfgpt_command; sys.argv[1:] = ['--version']; tfgpt_command.main()"
    assert run(python, "-c", command, cwd=tmp_path).startswith("tfgpt 0.")


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_an_exported_file_runs_with_the_few_packages_that_the_readme_names(tmp_path, wheel):
    """Nothing else is installed: neither TensorFlow nor Keras."""
    pytest.importorskip("ai_edge_litert")
    bundle = load_bundle(DATA_FOLDER / "checkpoints" / "base_en")
    file = export_litert(*bundle, tmp_path / "a.tflite", "int8", room=32)
    (packages,) = set(re.findall(r"pip install (numpy [a-z -]+)$", README, re.MULTILINE))
    programs = make_environment(tmp_path)
    pip = (*PIP, "--python", str(programs / "python"), "install", "--no-compile")
    run(*pip, *packages.split(), cwd=tmp_path)
    run(*pip, "--no-deps", str(wheel), cwd=tmp_path)

    expected = LiteModel.load(file).generate("In the", 9, temperature=0)
    assert run(programs / "python", "-c", WITHOUT_TENSORFLOW, cwd=tmp_path) == expected + "\n"
    for command in ([programs / "tfgpt"], [programs / "python", "-m", "tfgpt"]):
        options = ("--prompt", "In the", "--tokens", "9", "--temperature", "0")
        assert run(*command, "generate", "a.tflite", *options, cwd=tmp_path) == expected + "\n"
