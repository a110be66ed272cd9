"""Let `python -m tfgpt` do what `tfgpt` does."""

import sys

import tfgpt_command
from tfgpt import HAS_KERAS

if not HAS_KERAS:  # Python needed the package to find this file: a command may need more of it
    for name in [name for name in sys.modules if name.partition(".")[0] == "tfgpt"]:
        del sys.modules[name]

sys.exit(tfgpt_command.main())
