"""Give every lesson badges that open it in Colab and Kaggle, and a cell that installs tfgpt there.

    python notebooks/badges.py OWNER/NAME            # of the public repository on GitHub
    python notebooks/badges.py OWNER/NAME --branch v1

Both editions get them. Running it again with another repository replaces them.
"""

import argparse
import json
import re
import sys
from pathlib import Path

LESSONS = Path(__file__).resolve().parent
sys.path.insert(0, str(LESSONS / "zh"))

from update import digest  # noqa: E402

BADGES = (
    "[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/{branch}/notebooks/{name})"
    " [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
    "(https://kaggle.com/kernels/welcome?src="
    "https://github.com/{repository}/blob/{branch}/notebooks/{name})\n\n"
)
INSTALL = (
    "import importlib.util\n\n"
    'if importlib.util.find_spec("tfgpt") is None:  # in Colab or Kaggle\n'
    '    %pip install -q "tfgpt[notebooks] @ git+https://github.com/{repository}@{branch}"\n\n'
)
OLD_BADGES = re.compile(r"\[!\[Open In Colab\].*\n\n")
OLD_INSTALL = re.compile(r"\A(?:import importlib\.util\n\n)if importlib.*\n    %pip install .*\n\n")


def add_badges(notebook, name, **place):
    """Put badges below the title and the installation before the first line of code.

    Args:
        notebook: dict of an .ipynb file; it is changed.
        name: str, its path below notebooks/.
        place: repository and branch.
    """
    header = notebook["cells"][0]
    title, _, text = OLD_BADGES.sub("", "".join(header["source"])).partition("\n\n")
    set_source(header, f"{title}\n\n{BADGES.format(name=name, **place)}{text}")
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code = OLD_INSTALL.sub("", "".join(first["source"]))
    set_source(first, INSTALL.format(**place) + code)


def set_source(cell, text):
    """Write a cell as Jupyter does, line by line."""
    cell["source"] = text.splitlines(keepends=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("repository", help="OWNER/NAME on GitHub")
    parser.add_argument("--branch", default="main")
    parser.add_argument("--folder", type=Path, default=LESSONS, help="of the lessons")
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", options.repository):
        parser.error(f"repository must be OWNER/NAME, got {options.repository!r}.")
    place = {"repository": options.repository, "branch": options.branch}
    for path in sorted(options.folder.glob("*.ipynb")):
        english = json.loads(path.read_text(encoding="utf-8"))
        add_badges(english, path.name, **place)
        write(path, english)
        chinese_path = options.folder / "zh" / path.name
        chinese = json.loads(chinese_path.read_text(encoding="utf-8"))
        add_badges(chinese, f"zh/{path.name}", **place)
        chinese["cells"][0]["metadata"]["translated"] = digest(english["cells"][0])
        write(chinese_path, chinese)


def write(path, notebook):
    """Write a notebook in the form in which it is committed."""
    text = json.dumps(notebook, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
