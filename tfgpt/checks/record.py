"""What a learner has solved, in a small file beside the notebook, and a picture of it."""

import contextlib
import json
import os
from pathlib import Path

RECORD = "my_progress.json"
STATES = "right", "wrong"  # what is not in the file is still empty


def write_beside(name, text):
    """Write a file of the learner at once or not at all; say so if it cannot be written.

    Args:
        name: str, the file's name; it lies in the folder of the notebook.
        text: str or bytes.

    Returns:
        bool, True if it is written.
    """
    part = Path(f"{name}.part")
    try:
        part.write_bytes(text if isinstance(text, bytes) else text.encode())
        os.replace(part, name)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        print(f"{name} could not be written here ({error.strerror}): nothing is kept.")
        return False
    return True


def read_record():
    """Read which exercises were right or wrong: dict from name to state.

    A damaged file counts as empty: a sentence says so.
    """
    try:
        record = json.loads(Path(RECORD).read_text(encoding="utf-8"))
        return {name: state for name, state in record.items() if state in STATES}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError):
        print(f"{RECORD} cannot be read: it is damaged or locked. The next check begins a new one.")
        return {}


def remember(name, state):
    """Write the state of one exercise into the record, unless it is there already."""
    record = read_record()
    if record.get(name) != state:
        write_beside(RECORD, json.dumps({**record, name: state}, indent=1))


def progress(save=None):
    """Draw which exercises pass, notebook by notebook.

    `check` writes the record, `my_progress.json`, into the folder of the notebook.

    Args:
        save: path of an image to write, or None.

    Returns:
        figure with one row per notebook; its `alt` says the same in words, and so does
        the line that is printed.

    Raises:
        ValueError: if the ending of `save` is no format of an image.
    """
    from matplotlib import rcParams

    from tfgpt.checks.registry import EXERCISES
    from tfgpt.plotting.figures import add_title_and_save, check_save, new_figure

    check_save(save)
    record = read_record()
    numbers = sorted({exercise.notebook for exercise in EXERCISES.values()})
    states = {number: [] for number in numbers}
    for name, exercise in EXERCISES.items():
        states[exercise.notebook].append(record.get(name, "empty"))
    figure, ((axis,),) = new_figure(1, 1, (6, 1 + 0.26 * len(numbers)))
    text_color = rcParams["text.color"]
    # Colour is never the only sign: right is full, wrong is hatched, empty is a frame.
    styles = {
        "right": {"color": "tab:blue"},
        "wrong": {"facecolor": "none", "edgecolor": "tab:orange", "hatch": "////"},
        "empty": {"facecolor": "none", "edgecolor": "tab:gray"},
    }
    for state, style in styles.items():
        places = [
            (place, row)
            for row, number in enumerate(numbers)
            for place, found in enumerate(sorted(states[number], key=list(styles).index))
            if found == state
        ]
        lefts, rows = zip(*places, strict=True) if places else ((), ())
        axis.barh(rows, 0.86, 0.66, lefts, align="center", label=state, **style)
    axis.set_yticks(range(len(numbers)), numbers)
    axis.set(xlabel="exercises", ylabel="notebook", ylim=(len(numbers) - 0.4, -0.6))
    axis.set_facecolor(figure.get_facecolor())
    axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper right", ncols=3, labelcolor=text_color, frameon=False)
    summary = summarize(states)
    print(summary)
    return add_title_and_save(figure, None, save, summary)


def summarize(states):
    """Say in one sentence how many exercises of each notebook are right."""
    every = [state for found in states.values() for state in found]
    parts = [
        f"{number}: {found.count('right')} of {len(found)}" for number, found in states.items()
    ]
    return f"{every.count('right')} of {len(every)} exercises are right ({', '.join(parts)})."
