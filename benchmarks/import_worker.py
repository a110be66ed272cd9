"""The time of imports, each in a fresh Python."""

import subprocess
import sys

from benchmarks.worker import Job, repeat


def make_job(settings):
    """One step: start Python and import."""
    command = [sys.executable, "-c", f"import {settings['modules']}"]
    call = repeat(lambda: subprocess.run(command, check=True), finish=lambda _: None)
    return Job(call, ("tfgpt", "keras", "tensorflow"), in_child=True)
