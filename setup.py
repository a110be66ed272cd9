"""A wheel holds the folder `data` as `tfgpt/bundled`; pyproject.toml says everything else."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithData(build_py):
    """Copy the texts and the checkpoints into the package, except for an editable install."""

    def run(self):
        super().run()
        if not self.editable_mode:
            bundled = Path(self.build_lib) / "tfgpt" / "bundled"
            shutil.copytree("data", bundled, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithData})
