"""Let `python -m tfgpt` do what `tfgpt` does."""

import sys

from tfgpt.cli import main

sys.exit(main())
