"""Bring the Chinese notebooks up to date: code, outputs and order come from the English ones.

    python notebooks/zh/update.py                        # every notebook of this folder
    python notebooks/zh/update.py 02_masks_and_padding   # this one; it is made if it is missing

Prose is translated by hand. Each Chinese cell keeps in its metadata the first digits of the sha256
of the English text that it translates. The script prints every cell whose English text is another
one by now. Translate it in the Chinese notebook, then say so with its id:

    python notebooks/zh/update.py 02_masks_and_padding cell-04 cell-06
"""

import hashlib
import json
import sys
from pathlib import Path

CHINESE = Path(__file__).parent
ENGLISH = CHINESE.parent


def digest(cell):
    """Name the text of a cell by the first 12 hex digits of its sha256."""
    return hashlib.sha256("".join(cell["source"]).encode()).hexdigest()[:12]


def combine(english, chinese, translated=()):
    """Put the Chinese prose between the English code.

    `translated` holds the ids of the cells that were just translated. A cell without a translation
    shows the English text.
    """
    known = {cell["id"]: cell for cell in chinese["cells"]}
    cells = []
    for cell in english["cells"]:
        if cell["cell_type"] == "markdown":
            original, cell = cell, known.get(cell["id"], cell)
            if cell["id"] in translated:
                cell = cell | {"metadata": {"translated": digest(original)}}
        cells.append(cell)
    return english | {"cells": cells}


def find_stale(english, chinese):
    """List the English cells of prose whose translation is missing or belongs to another text."""
    pairs = zip(english["cells"], chinese["cells"], strict=True)
    return [
        cell
        for cell, translation in pairs
        if cell["cell_type"] == "markdown"
        and translation["metadata"].get("translated") != digest(cell)
    ]


def update(name, translated=()):
    """Write one Chinese notebook, and return the English cells that wait for a translation."""
    english = json.loads((ENGLISH / name).read_text(encoding="utf-8"))
    path = CHINESE / name
    chinese = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cells": []}
    unknown = set(translated) - {cell["id"] for cell in chinese["cells"]}
    if unknown:
        raise ValueError(f"translated must name cells of zh/{name}, received {sorted(unknown)}")
    chinese = combine(english, chinese, translated)
    path.write_text(json.dumps(chinese, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return find_stale(english, chinese)


def main(name=None, *translated):
    names = (
        [f"{name.removesuffix('.ipynb')}.ipynb"]
        if name
        else sorted(path.name for path in CHINESE.glob("*.ipynb"))
    )
    for name in names:
        for cell in update(name, translated):
            print(f"--- {name} {cell['id']}\n{''.join(cell['source'])}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
