"""Safety: what a model may write, what it may read, and what it remembers.

The names are loaded when they are first used.
"""

import importlib

LAZY = {
    "BannedPhrases": "banned",
    "Canary": "memory",
    "CleaningReport": "cleaning",
    "Grammar": "grammar",
    "NearDuplicates": "duplicates",
    "OutputFilter": "filters",
    "abstention_curve": "selfcheck",
    "agreement": "selfcheck",
    "check_itself": "selfcheck",
    "clean_files": "cleaning",
    "clean_texts": "cleaning",
    "example_weights": "rules",
    "exposure": "memory",
    "fill_forms": "memory",
    "find_fault": "quality",
    "find_language": "quality",
    "find_personal": "personal",
    "forbidden_after": "rules",
    "highest_rate": "filters",
    "mark_texts": "rules",
    "mask_personal": "personal",
    "plant": "memory",
    "rule_targets": "rules",
    "threshold_for": "filters",
}


def __getattr__(name):
    """Load a name of LAZY."""
    if name not in LAZY:
        raise AttributeError(f"module 'tfgpt.safety' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tfgpt.safety.{LAZY[name]}"), name)


def __dir__():
    """List the lazy names too."""
    return sorted({*globals(), *LAZY})


__all__ = list(LAZY)
