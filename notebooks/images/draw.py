"""Draw the diagram of README.md, a whole GPT, for a light and for a dark page.

python notebooks/images/draw.py           # into the folder of this file
python notebooks/images/draw.py FOLDER
"""

import sys
from pathlib import Path

import matplotlib

from tfgpt.plotting import draw_gpt

STYLES = {"light": "default", "dark": "dark_background"}


def draw(folder):
    """Write gpt-light.svg and gpt-dark.svg."""
    for page, style in STYLES.items():
        with matplotlib.style.context(style):
            draw_gpt(save=Path(folder) / f"gpt-{page}.svg")


if __name__ == "__main__":
    matplotlib.use("Agg")
    draw(*(sys.argv[1:] or [Path(__file__).parent]))
