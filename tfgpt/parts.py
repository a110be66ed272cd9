"""Formulas that a compiled training step may exchange for compiled ones.

The core marks a formula with `@part` and stays readable; `tfgpt.fused` holds the
replacements, and a training step uses them while it is traced.
"""

import contextlib
import contextvars
import functools

from keras import ops

_replacements = contextvars.ContextVar("replacements", default=None)


def part(formula):
    """Mark a formula: inside `replaced(table)` its entry of the table runs in its place."""

    @functools.wraps(formula)
    def run(*arguments):
        table = _replacements.get()
        chosen = formula if table is None else table.get(formula.__name__, formula)
        return chosen(*arguments)

    return run


@contextlib.contextmanager
def replaced(table):
    """Run replacements in place of marked formulas inside this block.

    Args:
        table: dict from the name of a marked formula to a function of the same arguments
            with the same result. What is not in it runs as it is.
    """
    token = _replacements.set(table)
    try:
        yield
    finally:
        _replacements.reset(token)


@part
def to_float32(x):
    """Cast to float32; a compiled part that reads x casts by itself."""
    return ops.cast(x, "float32")
