"""The folder of a training run: what it holds, who may write there, where an old one goes."""

import contextlib
import json
import os
from pathlib import Path

from tfgpt.bundle import CONFIG
from tfgpt.history import HISTORY

LOCK = "lock"


def holds_run(folder):
    """Say whether a folder holds the configuration, history or checkpoints of a run."""
    return read_run(folder) is not None or any(
        (folder / name).exists() for name in (HISTORY, "checkpoint")
    )


def read_run(folder):
    """Return what config.json says of the run in a folder, None if there is none."""
    try:
        content = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
        return content if isinstance(content.get("run"), dict) else None
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def keep_aside(path):
    """Rename a file or folder that would be written anew to the first free number."""
    number = 1
    while (kept := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return path.rename(kept)


def set_aside(folder):
    """Rename the folder of an earlier run, so that nothing of it is lost.

    Args:
        folder: Path.

    Raises:
        ValueError: if the folder holds something else than a run of tfgpt, or may not be
            renamed: the current folder, one above it, a mount point.
    """
    if not holds_run(folder):
        return
    place = folder.resolve()
    is_above = place in (Path.cwd(), *Path.cwd().parents)
    if read_run(folder) is None or os.path.ismount(place) or is_above:
        raise ValueError(
            f"run_dir must be a new folder or that of an earlier run, got {str(folder)!r}, which "
            "holds other files or is the current folder: choose another one."
        )
    with RunLock(folder):  # no other process may be writing there
        pass
    kept = keep_aside(place)
    print(f"The earlier run is kept in {folder.with_name(kept.name)}.")


class RunLock:
    """Keep a folder for one process; the end of the process, a kill too, gives it free.

    Args:
        folder: Path.

    Raises:
        ValueError: when entered, if another process holds it.
    """

    def __init__(self, folder):
        self.path = Path(folder) / LOCK
        self.file = None

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while self.file is None or not self.is_current():
            self.take()
        return self

    def __exit__(self, *error):
        with contextlib.suppress(PermissionError):  # Windows keeps open files
            self.path.unlink(missing_ok=True)
        self.file.close()

    def take(self):
        """Open the file and lock it."""
        if self.file is not None:
            self.file.close()
        self.file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            lock_file(self.file)
        except OSError as error:
            self.file.close()
            raise ValueError(
                f"run_dir must not be in use, got {str(self.path.parent)!r}, where another "
                "process is training: wait for its end, or choose another folder."
            ) from error

    def is_current(self):
        """Say whether the name is still that of the locked file: its last owner removes it."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.stat(self.path), os.fstat(self.file.fileno()))
        return False


def lock_file(file):
    """Lock an open file for this process; raise OSError if another one holds it."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        return
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
