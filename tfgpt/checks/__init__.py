"""Checks for the exercises of the notebooks: shape first, then values, then edges.

`check("causal mask", my_function)` runs the learner's function on a few inputs
and compares each result with a known answer. It prints one line when all is
right or when the exercise is still empty, and raises AssertionError with a hint
when a result is wrong. `progress()` draws what has passed.

Some exercises are a ladder: each builds a part of a GPT. `Block = use("block", Block)`
checks a part and keeps it in `my_gpt.py` beside the notebook; `mine("block")` finds it
again in a later notebook. What is not built yet is tfgpt's version.
"""

from tfgpt.checks import (  # noqa: F401  (each adds its exercises)
    notebook_00,
    notebook_01,
    notebook_02,
    notebook_03,
    notebook_04,
    notebook_05,
    notebook_06,
    notebook_07,
    notebook_08,
    notebook_09,
    notebook_10,
    notebook_11,
    notebook_12,
    notebook_13,
    notebook_14,
    notebook_15,
    notebook_16,
    notebook_17,
    notebook_18,
    notebook_19,
    notebook_20,
    notebook_21,
    notebook_22,
    notebook_23,
    notebook_24,
    notebook_25,
    notebook_26,
    notebook_27,
)
from tfgpt.checks.bugs import find_bug
from tfgpt.checks.ladder import hint, keep_weights, load_trained, mine, tfgpt_version, use
from tfgpt.checks.proofs import prove_equal
from tfgpt.checks.record import progress
from tfgpt.checks.registry import EXERCISES, Case, Exercise, check, compare

__all__ = [
    "EXERCISES",
    "Case",
    "Exercise",
    "check",
    "compare",
    "find_bug",
    "hint",
    "keep_weights",
    "load_trained",
    "mine",
    "progress",
    "prove_equal",
    "tfgpt_version",
    "use",
]
