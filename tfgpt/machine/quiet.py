"""TensorFlow's start without its log: lines about drivers, oneDNN and processors."""

import contextlib
import logging
import os
import re
import sys
import tempfile

# How the lines of TensorFlow's and Abseil's logs begin, and the one line that goes on below.
LOG_LINE = re.compile(
    rb"WARNING: All log messages before absl|[IWE]\d{4} [\d:.]+ |To enable the following instr"
    rb"|\d{4}-\d\d-\d\d [\d:.]+: [IWE] |INFO: Created TensorFlow Lite "
)


@contextlib.contextmanager
def quiet_start():
    """Hide TensorFlow's log while it is imported, and later on, unless the user wants it.

    C++ writes it to file descriptor 2, where Python's sys.stderr cannot catch it. All other
    lines, and everything if the import fails, are written after all. TF_CPP_MIN_LOG_LEVEL
    from "0" to "2" shows the log from that level on.
    """
    if "tensorflow" in sys.modules or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        shown = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") != "3"
    else:
        shown = False
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        stderr = None if shown else os.dup(2)
    except OSError:  # the process was started with stderr closed
        stderr = None
    if stderr is None:
        yield
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            for line in file:
                if failed or not LOG_LINE.match(line):
                    os.write(2, line)


@contextlib.contextmanager
def quiet_save():
    """Hide what TensorFlow's Python log says when a model is saved, but no warning or error."""
    log = logging.getLogger("tensorflow")
    level = log.level
    log.setLevel(max(log.getEffectiveLevel(), logging.WARNING))
    try:
        yield
    finally:
        log.setLevel(level)
