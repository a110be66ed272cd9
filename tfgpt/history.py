"""The rows of a training: on the screen, in history.csv and history.jsonl."""

import csv
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from tfgpt.bundle import replaced_file

HISTORY, DETAILS = "history.csv", "history.jsonl"
HISTORY_COLUMNS = ("step", "loss", "val_loss", "tokens_per_s", "seconds")
PLAIN_SECONDS = 10.0  # between two lines of progress where there is no terminal


class TrainingError(ValueError):
    """The training cannot go on as it is: NaN, an infinite number, a spike of the loss."""


class Log:
    """Collect the metrics of steps into rows and progress.

    Args:
        run: Run.
        steps: int, the step at which training ends.
        progress: bool, show progress.
        rate: function without arguments, returns the learning rate.
        spike: float > 1, how many times the median of the ten rows before a loss may be;
            None: any.
        skips: int, how many steps with a loss that is no number may be left out.
    """

    def __init__(self, run, steps, progress, rate, spike=None, skips=0):
        self.run = run
        self.rate = rate
        self.spike = spike
        self.skips_left = skips
        self.results = []
        earlier = run.history[-1]["seconds"] if run.history else 0.0
        self.start = time.perf_counter() - earlier
        self.last_row = self.last_step = time.perf_counter()
        self.is_new = False
        self.progress = Progress(steps, run.step) if progress else None

    def add(self, result):
        """Keep the result of one step, without waiting for its numbers."""
        self.results.append(result)
        self.last_step = time.perf_counter()

    def forget(self):
        """Drop what was added since the last row."""
        self.results = []
        self.last_row = time.perf_counter()

    def check_losses(self):
        """Drop the steps that learned nothing; raise if one has a loss that is no number."""
        for number, result in enumerate(self.results, self.run.step - len(self.results) + 1):
            loss, norm = float(result["loss"]), float(result["gradient_norm"])
            if np.isfinite(loss) and (np.isfinite(norm) or not self.skips_left):
                continue
            if not self.skips_left:
                raise TrainingError(self.run.advice(number, f"the loss is {loss}"))
            self.skips_left -= 1
            print(
                f"\nStep {number} ({self.run.batches.describe(number)}) was left out: its loss is "
                f"{loss}, its gradient norm {norm}. {self.skips_left} more may be."
            )
        self.results = [result for result in self.results if np.isfinite(float(result["loss"]))]

    def check_spike(self, loss):
        """Raise if the mean loss of a row is far above those before."""
        before = [row["loss"] for row in self.run.history[-10:]]
        if self.spike is not None and before and loss > self.spike * np.median(before):
            what = f"the loss rose from {np.median(before):.3f} to {loss:.3f}"
            raise TrainingError(self.run.advice(self.run.step, what))

    def write_row(self):
        """Average what was added since the last row; nothing was added, no row."""
        self.check_losses()
        if not self.results:
            return
        means = {
            name: float(np.mean([float(result[name]) for result in self.results]))
            for name in ("loss", "accuracy", "gradient_norm")
        }
        tokens = sum(float(result["tokens"]) for result in self.results)
        self.check_spike(means["loss"])
        row = {
            "step": self.run.step,
            "loss": means.pop("loss"),
            "val_loss": None,
            "tokens_per_s": tokens / max(self.last_step - self.last_row, 1e-9),
            "seconds": self.last_step - self.start,
        }
        self.run.add_row(row, {**means, "learning_rate": self.rate()})
        self.results, self.is_new = [], True
        self.last_row = time.perf_counter()

    def add_validation(self, loss):
        """Write the held-out loss into the newest row, if there is one."""
        if self.run.history:
            self.run.history[-1]["val_loss"] = loss
            self.run.write_history()
        # Time spent on validation belongs to no row.
        self.last_row = time.perf_counter()

    def show(self):
        """Show the newest row, if it was not shown yet."""
        if self.is_new and self.progress is not None:
            self.progress.show(self.run.history[-1])
        self.is_new = False


class Progress:
    """One line that is renewed in a terminal; elsewhere a line now and then.

    It goes to stderr, so that results on stdout stay clean; in a notebook, where stderr is
    red, to stdout. NO_COLOR, or a stream that is no terminal, gets no escape codes.
    """

    def __init__(self, steps, first_step=0):
        self.steps = steps
        self.first_step = first_step
        self.start = time.perf_counter()
        self.stream = sys.stdout if "ipykernel" in sys.modules else sys.stderr
        self.is_live = self.stream.isatty() and not os.environ.get("NO_COLOR")
        self.last = 0.0

    def show(self, row):
        """Show one row of the history."""
        ended = row["step"] == self.steps
        if not self.is_live and not ended and time.perf_counter() - self.last < PLAIN_SECONDS:
            return
        self.last = time.perf_counter()
        held_out = "" if row["val_loss"] is None else f", held-out {row['val_loss']:.4f}"
        text = (
            f"step {row['step']:,} of {self.steps:,}: loss {row['loss']:.4f}{held_out}, "
            f"{row['tokens_per_s']:,.0f} tokens/s, {row['seconds']:.0f} s{self.time_left(row)}"
        )
        end = "\n" if ended or not self.is_live or held_out else ""
        print(f"\r\x1b[K{text}" if self.is_live else text, end=end, file=self.stream, flush=True)

    def time_left(self, row):
        """Say how long the training will go on at the speed so far."""
        done, left = row["step"] - self.first_step, self.steps - row["step"]
        seconds = (time.perf_counter() - self.start) * left / max(done, 1)
        if left <= 0 or done <= 0:
            return ""
        return f", {seconds:.0f} s left" if seconds < 120 else f", {seconds / 60:.0f} min left"


def write_history(folder, rows, details):
    """Write history.csv and history.jsonl anew; an unmeasured value becomes an empty cell.

    Args:
        folder: Path.
        rows: list of dicts with the keys HISTORY_COLUMNS.
        details: list of dicts, what else belongs to each row.
    """
    # history.csv comes last: where it is, the other is too, also after an interruption.
    with replaced_file(folder / DETAILS) as part, open(part, "w", encoding="utf-8") as file:
        file.writelines(
            json.dumps(row | more) + "\n" for row, more in zip(rows, details, strict=True)
        )
    with (
        replaced_file(folder / HISTORY) as part,
        open(part, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, HISTORY_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def append_row(folder, row, more):
    """Add a row at the end of both files: a long history is not written anew each time."""
    with open(folder / HISTORY, "a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, HISTORY_COLUMNS).writerow(row)
    with open(folder / DETAILS, "a", encoding="utf-8") as file:
        file.write(json.dumps(row | more) + "\n")


def read_details(folder, rows):
    """Read what history.jsonl holds beside the rows of history.csv, nothing where it is torn."""
    found = {}
    try:
        for line in (folder / DETAILS).read_text(encoding="utf-8").splitlines():
            content = json.loads(line)
            found[content["step"]] = {
                name: value for name, value in content.items() if name not in HISTORY_COLUMNS
            }
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # the details are read by people; a training does not need them
    return [found.get(row["step"], {}) for row in rows]


def read_history(path, last_step=None):
    """Read the rows of a CSV file that `train` wrote.

    Args:
        path: the file.
        last_step: int, leave out later rows; None: read all.

    Returns:
        list of dicts, as `train` returns it; empty if there is no file yet.

    Raises:
        ValueError: if the file was changed by another program.
    """
    if not Path(path).exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = file.readlines()
            whole = [line for line in lines if line.endswith("\n")]  # a kill may tear the last
            reader = csv.DictReader(whole, strict=True)
            if tuple(reader.fieldnames or ()) != HISTORY_COLUMNS:
                raise ValueError(f"its columns are {reader.fieldnames}")
            rows = [
                {name: float(cell) if cell else None for name, cell in row.items()}
                for row in reader
            ]
        for row in rows:
            row["step"] = int(row["step"])
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(
            f"{HISTORY} must have the columns {', '.join(HISTORY_COLUMNS)} and numbers in every "
            f"row, got {str(path)!r}, which another program may have changed: {error}. Move it "
            "away to go on without the earlier rows."
        ) from error
    return [row for row in rows if last_step is None or row["step"] <= last_step]
