"""Cleaning: texts in a stream, with a report of what was removed and why."""

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tfgpt.data.documents import read_pieces
from tfgpt.data.files import find_files
from tfgpt.safety.duplicates import NearDuplicates
from tfgpt.safety.personal import mask_personal
from tfgpt.safety.quality import find_fault
from tfgpt.validation import check_choice

DUPLICATE = "duplicate"
MOST_EXAMPLES = 3
EXAMPLE_LENGTH = 80  # characters


@dataclass
class CleaningReport:
    """What a cleaning has read, kept, removed and masked so far.

    Args:
        read, kept: int, texts.
        characters_read, characters_kept: int.
        removed: Counter, texts by rule: "duplicate" and those of `find_fault`.
        masked: Counter, places by kind of personal data, in the texts that were kept.
        examples: dict of rule -> list of the beginnings of up to three removed texts,
            masked too.
    """

    read: int = 0
    kept: int = 0
    characters_read: int = 0
    characters_kept: int = 0
    removed: Counter = field(default_factory=Counter)
    masked: Counter = field(default_factory=Counter)
    examples: dict = field(default_factory=dict)

    def __str__(self):
        removed = ", ".join(f"{rule} {count}" for rule, count in self.removed.most_common())
        masked = ", ".join(f"{kind} {count}" for kind, count in self.masked.most_common())
        return (
            f"Kept {self.kept} of {self.read} texts, {self.characters_kept} of "
            f"{self.characters_read} characters.\n"
            f"Removed: {removed or 'nothing'}.\nMasked: {masked or 'nothing'}."
        )

    def remove(self, rule, text):
        """Count a text that a rule removes; the first ones are examples."""
        self.removed[rule] += 1
        examples = self.examples.setdefault(rule, [])
        if len(examples) < MOST_EXAMPLES:
            examples.append(text[:EXAMPLE_LENGTH])


def clean_texts(texts, report=None, *, languages=None, duplicates=None):
    """Yield the texts that break no rule and are no near-duplicates, with personal data masked.

    One text is in memory at a time. Masking comes first, so that two texts that differ in
    an address only are duplicates.

    Args:
        texts: iterable of str.
        report: CleaningReport that is filled on the way; None: none.
        languages: collection of "en", "zh", "other"; None: all.
        duplicates: NearDuplicates; None: a new one.

    Yields:
        str.

    Raises:
        ImportError: if datasketch is not installed.

    Example:
        >>> report = CleaningReport()
        >>> poem = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"
        >>> list(clean_texts([poem, "???", poem.replace("，", " ")], report)) == [poem]
        True
        >>> report.removed
        Counter({'short': 1, 'duplicate': 1})
    """
    report = CleaningReport() if report is None else report
    duplicates = NearDuplicates() if duplicates is None else duplicates
    for text in texts:
        report.read += 1
        report.characters_read += len(text)
        masked, counts = mask_personal(text)
        fault = find_fault(text, languages)
        if fault is None and duplicates.add(masked):
            fault = DUPLICATE
        if fault is not None:
            report.remove(fault, masked)
            continue
        report.kept += 1
        report.characters_kept += len(masked)
        report.masked += counts
        yield masked


def clean_files(files, out, *, field=None, encoding="utf-8", separator=None, languages=None):
    """Clean the texts of files into one file of JSON lines, in constant memory.

    A document of more than 2**18 characters is cleaned in parts. A file that was there is
    replaced when all is done.

    Args:
        files: what `find_files` takes: a path, a pattern or a list of these.
        out: path of the .jsonl to write: {"text": ...} per line, which `tfgpt train` reads.
        field, encoding, separator: as in `tfgpt.data.read_pieces`.
        languages: collection of "en", "zh", "other"; None: all.

    Returns:
        CleaningReport.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if datasketch is not installed.
        ValueError: if a file cannot be read as described, out is no .jsonl, or a
            language is unknown.
    """
    check_languages(languages)
    out = Path(out)
    if out.suffix != ".jsonl":
        raise ValueError(f"out must be a file with the suffix .jsonl, got {str(out)!r}.")
    settings = {"field": field, "encoding": encoding, "separator": separator}
    pieces = (piece for path in find_files(files) for piece, _ in read_pieces(path, **settings))
    report = CleaningReport()
    unfinished = out.with_suffix(".jsonl.part")
    with unfinished.open("w", encoding="utf-8") as file:
        for text in clean_texts(pieces, report, languages=languages):
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    os.replace(unfinished, out)
    return report


def check_languages(languages):
    """Raise if a language is none that `find_language` names."""
    for language in () if languages is None else languages:
        check_choice("languages", language, ("en", "zh", "other"))


def write_report(report, path):
    """Write a report as JSON: a CleaningReport and a path."""
    content = json.dumps(vars(report), ensure_ascii=False, indent=2)
    Path(path).write_text(content + "\n", encoding="utf-8")
