"""The start of the `tfgpt` command: its help needs no TensorFlow, which takes seconds to load.

Importing `tfgpt.cli` would import `tfgpt` first, so the file is loaded on its own.
"""

import importlib.util
from pathlib import Path


def main():
    """Run `tfgpt/cli.py`; what needs the package imports it there."""
    package = Path(importlib.util.find_spec("tfgpt").origin).parent
    spec = importlib.util.spec_from_file_location("tfgpt_cli", package / "cli.py")
    cli = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cli)
    return cli.main()
