"""`import tfgpt`: light, silent, and known under its former names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LATE = "tfgpt.checks tfgpt.plotting tfgpt.machine.diagnosis tokenizers safetensors keras_hub"


def run_python(code, **environment):
    """Run code in a new process without the log level that tests set."""
    kept = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.requires_tensorflow
def test_import_and_a_first_model_are_silent_and_load_no_figures_checks_or_doctor():
    done = run_python(
        "import sys, tfgpt\n"
        "model = tfgpt.GPT(8, context_length=4, num_layers=1, d_model=8, num_heads=2)\n"
        "import tensorflow as tf\n"
        "tf.function(lambda ids: model(ids), jit_compile=True)(tf.constant([[1, 2]]))\n"
        f"print([name for name in '{LATE}'.split() if name in sys.modules])"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


@pytest.mark.slow
def test_the_log_is_there_for_who_asks_and_other_lines_are_never_lost():
    code = (
        "import os\n"
        "from tfgpt.machine.quiet import quiet_start\n"
        "import sys; sys.modules.pop('tensorflow', None)\n"
        "os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'\n"
        "def speak():\n"
        "    os.write(2, b'I0000 00:00:1.5   21 port.cc:153] on\\nreal line\\n')\n"
        "with quiet_start(): speak()\n"
        "try:\n"
        "    with quiet_start(): speak(); raise ImportError\n"
        "except ImportError: os.write(2, b'raised\\n')\n"
        "os.environ['TF_CPP_MIN_LOG_LEVEL'] = '0'\n"
        "with quiet_start(): speak()\n"
    )
    log = "I0000 00:00:1.5   21 port.cc:153] on\n"
    spoken = log + "real line\n"
    assert run_python(code).stderr == "real line\n" + spoken + "raised\n" + spoken


@pytest.mark.slow
def test_import_works_with_stderr_closed():
    assert run_python("import os; os.close(2); import tfgpt; print(tfgpt.GPT)").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("first", ["former", "new"])
def test_former_module_names_are_the_same_modules(first):
    order = 1 if first == "former" else -1
    done = run_python(
        "import importlib\n"
        "import tfgpt\n"
        "from tfgpt.former_paths import FORMER_PATHS\n"
        "for pair in FORMER_PATHS.items():\n"
        f"    former, new = map(importlib.import_module, pair[::{order}])\n"
        "    assert former is new, pair\n"
        "from tfgpt.samplers import TopK\n"
        "from tfgpt.viewer import view_attention\n"
        "import tfgpt.samplers\n"
        "assert TopK is tfgpt.generation.samplers.TopK\n",
        TF_CPP_MIN_LOG_LEVEL="3",
    )
    assert done.returncode == 0, done.stderr
