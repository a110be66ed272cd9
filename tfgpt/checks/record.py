"""What a learner has solved, in a small file beside the notebook, and a picture of it.

The learner's files lie in the folder of the notebook, or in the one that the environment variable
TFGPT_MY_FOLDER names: there a later notebook finds them on another machine too.
"""

import contextlib
import json
import os
import tempfile
import textwrap
from pathlib import Path

RECORD = "my_progress.json"
STATES = "right", "wrong"  # what is not in the file is still empty
# Colour is never the only sign: right is full, wrong has dashes, empty is a frame.
STYLES = {
    "right": {"color": "tab:blue"},
    "wrong": {"facecolor": "none", "edgecolor": "tab:orange", "linestyle": "--", "linewidth": 2},
    "empty": {"facecolor": "none", "edgecolor": "tab:gray"},
}


def my_path(name=""):
    """Say where a file of the learner lies: in TFGPT_MY_FOLDER, or beside the notebook."""
    return Path(os.environ.get("TFGPT_MY_FOLDER", "")).expanduser() / name


@contextlib.contextmanager
def alone():
    """Make other kernels wait, where the system can lock a folder: Linux and macOS."""
    folder = None
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        folder = os.open(my_path(), os.O_RDONLY)
        fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if folder is not None:
            os.close(folder)  # gives the lock back


def write_beside(name, text):
    """Write a file of the learner at once or not at all; say so if it cannot be written.

    Args:
        name: str, the file's name; `my_path` says in which folder.
        text: str or bytes.

    Returns:
        bool, True if it is written.
    """
    path, part = my_path(name), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file, part = tempfile.mkstemp(prefix=f"{name}.", suffix=".part", dir=path.parent)
        with open(file, "wb") as stream:
            stream.write(text if isinstance(text, bytes) else text.encode())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError, TypeError):
            os.unlink(part)
        print(f"{name} could not be written here ({error.strerror}): nothing is kept.")
        return False
    return True


def read_record():
    """Read which exercises were right or wrong: dict from name to state.

    A damaged file counts as empty: a sentence says so.
    """
    try:
        record = json.loads(my_path(RECORD).read_text(encoding="utf-8"))
        return {name: state for name, state in record.items() if state in STATES}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError):
        print(f"{RECORD} cannot be read: it is damaged or locked. The next check begins a new one.")
        return {}


def remember(name, state):
    """Write the state of one exercise into the record, unless it is there already."""
    with alone():
        record = read_record()
        if record.get(name) != state:
            write_beside(RECORD, json.dumps({**record, name: state}, indent=1))


def progress(save=None):
    """Draw which exercises pass, notebook by notebook.

    `check` writes the record, `my_progress.json`, into the folder of the notebook, or into the
    one that the environment variable TFGPT_MY_FOLDER names.

    Args:
        save: path of an image to write, or None.

    Returns:
        figure with one row per notebook and one box per exercise; its `alt` says the same
        in words, and so does what is printed.

    Raises:
        ValueError: if the ending of `save` is no format of an image.
    """
    from matplotlib import rcParams
    from matplotlib.patches import Patch

    from tfgpt.checks.registry import EXERCISES
    from tfgpt.plotting.figures import add_title_and_save, check_save, new_figure

    check_save(save)
    record, rows = read_record(), {}
    for name, exercise in EXERCISES.items():
        rows.setdefault(exercise.notebook, {})[name] = record.get(name, "empty")
    figure, ((axis,),) = new_figure(1, 1, (9.5, 1 + 0.36 * len(rows)))
    for row, states in enumerate(rows.values()):
        draw_boxes(axis, row, states)
    axis.set_yticks(range(len(rows)), rows)
    axis.tick_params(length=0)
    axis.set(xticks=[], xlim=(-0.05, None), ylabel="notebook", ylim=(len(rows) - 0.4, -0.6))
    axis.set_facecolor(figure.get_facecolor())
    axis.spines[:].set_visible(False)
    patches = [Patch(label=state, **style) for state, style in STYLES.items()]
    options = {"labelcolor": rcParams["text.color"], "frameon": False}
    figure.legend(handles=patches, loc="outside upper right", ncols=3, **options)
    summary = summarize(rows)
    print(summary)
    return add_title_and_save(figure, None, save, summary)


def draw_boxes(axis, row, states):
    """Draw one box for each exercise of a notebook, with its name in it."""
    for place, (name, state) in enumerate(states.items()):
        axis.barh(row, 0.95, 0.8, place, **STYLES[state])
        label, color = (
            textwrap.fill(name, 15, break_on_hyphens=False),
            "white" if state == "right" else None,
        )
        axis.text(place + 0.475, row, label, ha="center", va="center", fontsize=6.5, color=color)


def summarize(rows):
    """Say how many exercises of each notebook are right, and which ones are wrong."""
    every = {name: state for states in rows.values() for name, state in states.items()}
    right = {number: list(states.values()).count("right") for number, states in rows.items()}
    parts = [f"{number}: {right[number]} of {len(states)}" for number, states in rows.items()]
    wrong = [name for name, state in every.items() if state == "wrong"]
    return (
        f"{sum(right.values())} of {len(every)} exercises are right ({', '.join(parts)}). "
        f"Wrong: {', '.join(wrong) or 'none'}."
    )
