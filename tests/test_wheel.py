"""A wheel, installed where the repository is not, works: texts, checkpoints, page, command."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

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


def run(*command, cwd):
    """Run a command outside the repository; return what it wrote."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_a_wheel_without_the_repository_works(tmp_path):
    # A copy, so that a build leaves nothing in the repository.
    source = tmp_path / "source"
    run("git", "clone", "--quiet", str(ROOT), str(source), cwd=tmp_path)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(source), cwd=tmp_path)
    (wheel,) = tmp_path.glob("tfgpt-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"tfgpt/plotting/viewer.html", "tfgpt/plotting/image_viewer.html"} <= set(names)
    assert "tfgpt/bundled/shakespeare.txt" in names
    assert "tfgpt/serving/page.html" in names
    assert not [name for name in names if name.startswith(("tests", "notebooks", "data/"))]

    # A new environment that sees the libraries of this one, but not its tfgpt.
    run(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv"), cwd=tmp_path)
    scripts = "Scripts" if os.name == "nt" else "bin"
    python = str(tmp_path / "venv" / scripts / "python")
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path)
    site = Path(site.strip())
    run(*pip, "install", "--no-deps", "--target", str(site), str(wheel), cwd=tmp_path)
    # After its own packages; `.pth` files in there are not read again.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    program = PROGRAM.replace("{root}", str(ROOT))
    assert "all is there" in run(python, "-c", program, cwd=tmp_path)
    command = "import sys, tfgpt_command; sys.argv[1:] = ['--version']; tfgpt_command.main()"
    assert run(python, "-c", command, cwd=tmp_path).startswith("tfgpt 0.")
