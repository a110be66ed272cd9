"""Make the pages of the course: `python site/build.py FOLDER`, or `make site`.

All lessons in English and Chinese with their outputs, the solutions, the errata, the glossary,
and the code that they link, as static HTML with a search. Nothing is executed.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NOTEBOOKS = ROOT / "notebooks"
# A link in a notebook or page to a file outside of notebooks/.
LINK = re.compile(r"\]\(((?:\.\./)+)((?:tfgpt|tests|benchmarks|data)/[\w./-]+|README[\w.-]*\.md)\)")
# The place in a page of the course: Sphinx writes it in small letters, Jupyter as the heading.
ANCHOR = re.compile(r"(\]\([^)#\s:]*)(#[^)\s]+\))")
BADGES = re.compile(r'^ *"\[!\[Open In Colab\].*\n', re.MULTILINE)  # their pictures lie elsewhere
INDEX = """# tfgpt

A course and a library for Keras 3 and TensorFlow: from the arithmetic of attention to a GPT that
writes. Begin with [00 Start here](notebooks/00_start_here.ipynb), or read it
[in Chinese](notebooks/zh/00_start_here.ipynb). The pages show the notebooks as they ran. To work
with them, clone the repository and run `make lab`.
"""
LANGUAGES = {"md": "markdown", "py": "python"}


def build(target):
    """Write the pages into a folder.

    Args:
        target: Path, made if it does not exist.

    Raises:
        subprocess.CalledProcessError: if Sphinx finds a fault, such as a broken link.
    """
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder)
        collect(sources)
        options = ["-q", "-W", "--keep-going", "-c", HERE, "-d", sources / "doctrees"]
        command = [sys.executable, "-m", "sphinx", "-b", "html", *options, sources, target]
        subprocess.run([str(part) for part in command], check=True)


def collect(sources):
    """Copy everything that becomes a page."""
    shutil.copytree(NOTEBOOKS, sources / "notebooks", ignore=shutil.ignore_patterns(".*", "*.py"))
    linked = set()
    for path in [*sources.rglob("*.ipynb"), *sources.rglob("*.md")]:
        text = path.read_text(encoding="utf-8")
        linked |= {file for _, file in LINK.findall(text)}
        text = BADGES.sub("", text)
        text = ANCHOR.sub(lambda link: link[1] + link[2].lower(), LINK.sub(page_of, text))
        path.write_text(text, encoding="utf-8")
    for file in sorted(linked):
        write_page(sources / "source", file)
    (sources / "index.md").write_text(INDEX + contents(sources), encoding="utf-8")


def page_of(link):
    """Turn a link to a file into the link to its page."""
    return f"]({link[1]}source/{link[2].rstrip('/')}.md)"


def write_page(folder, name):
    """Write the page of a file, which shows it, or of a folder, which lists its files."""
    path, page = ROOT / name, folder / f"{name.rstrip('/')}.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        files = sorted(path.glob("*.py"))
        for file in files:
            write_page(folder, file.relative_to(ROOT).as_posix())
        shown = "".join(f"- [{file.name}]({path.name}/{file.name}.md)\n" for file in files)
    else:
        language = LANGUAGES.get(path.suffix.lstrip("."), "text")
        shown = f"``````{language}\n{path.read_text(encoding='utf-8')}``````\n"
    page.write_text(f"# {name}\n\n{shown}", encoding="utf-8")


def contents(sources):
    """Return the lists of pages for the menu."""
    folder = sources / "notebooks"
    parts = {
        "Course": [*sorted(folder.glob("*.ipynb")), folder / "errata.md"],
        "课程": [
            *sorted(folder.glob("zh/*.ipynb")),
            *(folder / "zh" / name for name in ("errata.md", "glossary.md")),
        ],
        "Solutions": sorted(folder.glob("solutions/*.ipynb")),
        "Code": sorted((sources / "source").rglob("*.md")),
    }
    lists = []
    for caption, pages in parts.items():
        names = "\n".join(page.relative_to(sources).as_posix() for page in pages)
        lists.append(f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{names}\n```\n")
    return "".join(lists)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
