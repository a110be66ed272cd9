"""The start of the `tfgpt` command: loading TensorFlow takes seconds, and not all need it.

Importing `tfgpt.cli` would import `tfgpt` first, so the folder is loaded on its own.
"""

import importlib.util
import sys
from pathlib import Path


def main():
    """Run `tfgpt/cli`; what needs the package imports it there."""
    folder = Path(importlib.util.find_spec("tfgpt").origin).parent / "cli"
    spec = importlib.util.spec_from_file_location(
        "tfgpt_cli", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    cli = sys.modules["tfgpt_cli"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cli)
    return cli.main()
