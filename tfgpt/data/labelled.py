"""Labelled texts for fine-tuning: bundled ones, or your own TSV, CSV, JSONL and CoNLL files.

Four forms: a text with a label, a sentence with a tag per word, a prompt with its answer,
and a dialogue of several turns. Each knows its groups: what belongs together, such as the
lines of one page, is never divided between training and test.
"""

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tfgpt.data.pairs import read_lines
from tfgpt.data.texts import DATA_FOLDER, read_utf8
from tfgpt.validation import check_integer

# What stands in the columns of the bundled files, and what a task reads by default.
BUNDLED = {
    "reviews_zh": ("reviews_zh.tsv", ("id", "label", "text")),
    "definitions": ("definitions_topic10.tsv", ("label", "term", "text")),
    "sections": ("summaries.tsv", ("label", "package", "text", "summary")),
    "addresses": ("addresses_bio.conll", None),
    "quiz": ("quiz_qa.tsv", ("topic", "prompt", "answer")),
    "summaries": ("summaries.tsv", ("section", "package", "prompt", "answer")),
    "dialogues": ("dialogues.jsonl", None),
    "service": ("service_questions.tsv", ("prompt", "answer")),
}
HEADER_WORDS = {
    *("text", "texts", "sentence", "review", "content", "document", "label", "labels", "class"),
    *("category", "target", "topic", "prompt", "question", "instruction", "answer", "response"),
    *("summary", "output", "input", "id", "sentiment", "intent", "rating", "comment", "message"),
    *("文本", "标签", "类别", "问题", "答案"),
}
OUTSIDE = "O"  # the tag of a word that belongs to no entity


@dataclass(frozen=True)
class Labelled:
    """Texts, what is to be said of each, and what was read.

    Args:
        texts: list of N: str, or for tagging lists of words.
        labels: list of N: str; for tagging lists of tags; for dialogues lists of turns,
            where texts has the topics.
        groups: list of N str; examples with the same name belong together.
        report: dict of what was read and what was left out.
    """

    texts: list
    labels: list
    groups: list
    report: dict = field(default_factory=dict)

    def __len__(self):
        return len(self.texts)

    def take(self, places):
        """Return the examples at these places."""
        columns = (self.texts, self.labels, self.groups)
        return Labelled(*([column[place] for place in places] for column in columns), self.report)

    def describe(self):
        """Say in one line what was read."""
        return ", ".join(f"{name} {value}" for name, value in self.report.items())


def load_labelled(source, *, text=None, label=None, header=None):
    """Read texts with one label each.

    A TSV file has no quotes; a CSV file may have quotes with commas and line breaks inside;
    a JSONL file has one object per line. With two columns the label is the one with fewer
    different values. Empty texts and rows that come again are left out and counted.

    Args:
        source: "reviews_zh", "definitions", "sections", or the path of a file that ends
            in .tsv, .csv or .jsonl.
        text: str or int, name or place of the column with the text; None: see above.
        label: str or int, the same for the label.
        header: bool, whether the first line names the columns; None: it does if all its
            cells are such names.

    Returns:
        Labelled.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is not of such a form, a line lacks a cell, the first line
            looks like a header but header is None, or fewer than two labels are found.

    Example:
        >>> examples = load_labelled("reviews_zh")
        >>> len(examples), sorted(set(examples.labels))
        (11338, ['neg', 'pos'])
    """
    rows, names, path = read_table(source, header, ("text", "label"))
    text_place, label_place = find_columns(rows, names, path, text=text, label=label)
    groups = None
    if "id" in names:  # of neighbouring lines, such as p1-0 and p1-1
        groups = [row[names.index("id")].rpartition("-")[0] or row[0] for row in rows]
    texts = [row[text_place].strip() for row in rows]
    if source == "definitions":
        texts = [f"{row[1]}: {text}" for row, text in zip(rows, texts, strict=True)]
    labels = [row[label_place].strip() for row in rows]
    check_header(texts, labels, header, path)
    examples = cleaned(texts, labels, groups)
    counts = Counter(examples.labels)
    if len(counts) < 2:
        raise ValueError(f"labels must be of at least two kinds, got {dict(counts)} in {path!r}.")
    examples.report["labels"] = dict(counts.most_common())
    return examples


def load_answers(source, *, prompt=None, answer=None, header=None):
    """Read prompts with one answer each: questions, or texts with a summary.

    Args:
        source: "quiz", "summaries", "service", or the path of a .tsv, .csv or .jsonl file.
        prompt: str or int, name or place of the column; None: the last but one.
        answer: str or int, the same; None: the last.
        header: as for `load_labelled`.

    Returns:
        Labelled: texts are the prompts, labels the answers.

    Raises:
        as `load_labelled`.

    Example:
        >>> examples = load_answers("quiz")
        >>> examples.texts[0], examples.labels[0]
        ('What is the capital of Algeria?', 'Algiers')
    """
    rows, names, path = read_table(source, header, ("prompt", "answer"))
    width = len(rows[0])
    places = [
        place_of(column, names, default, name, path)
        for column, default, name in (
            (prompt, names.index("prompt") if "prompt" in names else width - 2, "prompt"),
            (answer, names.index("answer") if "answer" in names else width - 1, "answer"),
        )
    ]
    texts, labels = ([row[place].strip() for row in rows] for place in places)
    return cleaned(texts, labels, None)


def load_tagged(source):
    """Read sentences with one BIO tag per word.

    Args:
        source: "addresses", or the path of a CoNLL file: on each line a word and, after a
            tab or spaces, its tag in the last column; an empty line between sentences.

    Returns:
        Labelled: texts are lists of words, labels lists of tags.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line has no tag, or a tag is not O, B-... or I-...

    Example:
        >>> examples = load_tagged("addresses")
        >>> examples.texts[0][:2], examples.labels[0][:2]
        (['8128', 'S.'], ['B-AddressNumber', 'B-StreetNamePreDirectional'])
    """
    path = bundled_path(source)
    lines = read_lines(path, "data", expected_files())
    texts, labels, words, tags, mended = [], [], [], [], 0
    for number, line in enumerate([*lines, ""], start=1):
        cells = line.split("\t") if "\t" in line else line.split()
        if not line.strip():
            if words:
                texts.append(words)
                labels.append(tags)
            words, tags = [], []
            continue
        if line.startswith("-DOCSTART-"):
            continue
        tag = cells[-1].strip()
        if len(cells) < 2 or not (tag == OUTSIDE or (tag[:2] in ("B-", "I-") and tag[2:])):
            raise ValueError(
                "data must have a word and a tag O, B-... or I-... on every line, got "
                f"{line!r} on line {number} of {str(path)!r}."
            )
        if tag.startswith("I-") and (not tags or tags[-1][2:] != tag[2:]):
            tag, mended = f"B-{tag[2:]}", mended + 1  # an entity begins with B
        words.append(cells[0])
        tags.append(tag)
    groups = [" ".join(words) for words in texts]  # a sentence that comes again
    report = {"sentences": len(texts), "words": sum(map(len, texts))}
    if mended:
        report["I tags without a B before, read as B"] = mended
    return Labelled(texts, labels, groups, report)


def load_dialogues(source, language=None):
    """Read dialogues.

    Args:
        source: "dialogues", or the path of a JSONL file: on each line {"turns": [str, ...]},
            from the user and the assistant in turn, or {"messages": [{"role": "user",
            "content": str}, ...]} with the roles system, user and assistant.
        language: keep lines whose "lang" is this; None: all.

    Returns:
        Labelled: texts are the topics, labels lists of {"role", "content"}.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is no such object.

    Example:
        >>> load_dialogues("dialogues").labels[0][0]
        {'role': 'user', 'content': 'What is AI?'}
    """
    path = bundled_path(source)
    texts, labels = [], []
    for number, content in read_json_lines(path):
        if language is not None and content.get("lang") != language:
            continue
        messages = content.get("messages")
        if messages is None and isinstance(content.get("turns"), list):
            roles = ("user", "assistant")
            messages = [
                {"role": roles[place % 2], "content": turn}
                for place, turn in enumerate(content["turns"])
            ]
        fault = fault_of_messages(messages)
        if fault:
            raise ValueError(
                'data must have "turns" or "messages" on every line, got '
                f"{fault} on line {number} of {str(path)!r}."
            )
        texts.append(str(content.get("topic", "")))
        labels.append(messages)
    groups = [messages[0]["content"] for messages in labels]  # answers to one question
    return Labelled(texts, labels, groups, {"dialogues": len(texts)})


def fault_of_messages(messages):
    """Say what is wrong with the messages of a dialogue, or return None."""
    if not isinstance(messages, list) or not messages:
        return "none of them"
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return f"the message {message!r}"
        if message.get("role") not in ("system", "user", "assistant"):
            return f"the role {message.get('role')!r}"
    if not any(message["role"] == "assistant" for message in messages):
        return "no turn of the assistant"
    return None


def split_examples(examples, seed=0, shares=(0.1, 0.1)):
    """Divide examples into training, validation and test parts, whole groups each.

    Args:
        examples: Labelled.
        seed: int >= 0; the same seed gives the same parts.
        shares: two floats, of the groups for validation and test.

    Returns:
        tuple of three Labelled.

    Raises:
        ValueError: if there are fewer than 10 groups.

    Example:
        >>> [len(part) for part in split_examples(load_labelled("reviews_zh"))]
        [9117, 1069, 1152]
    """
    check_integer("seed", seed, minimum=0)
    names = sorted(set(examples.groups))
    if len(names) < 10:
        raise ValueError(f"data must have at least 10 groups of examples, got {len(names)}.")
    order = np.random.default_rng(seed).permutation(len(names))
    sizes = [max(round(share * len(names)), 1) for share in shares]
    part_of = {names[place]: rank for rank, place in enumerate(order)}

    def part(start, end):
        places = [i for i, name in enumerate(examples.groups) if start <= part_of[name] < end]
        return examples.take(places)

    validation, test = sizes
    return part(validation + test, len(names)), part(test, validation + test), part(0, test)


def read_table(source, header, wanted):
    """Return the rows of a file, the names of their columns ("" if unknown) and its path."""
    path = bundled_path(source)
    if path.suffix == ".jsonl":
        return (*read_objects(path, wanted), str(path))
    if path.suffix not in (".tsv", ".csv"):
        raise ValueError(f"data must be {expected_files()}, got {str(path)!r}.")
    text = read_utf8(path, "data", expected_files())
    if path.suffix == ".tsv":
        rows = [line.split("\t") for line in text.rstrip("\n").split("\n")]
    else:
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        except csv.Error as error:
            raise ValueError(f"data must be a CSV file, got {str(path)!r}: {error}.") from error
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]) or len(row) < 2:
            raise ValueError(
                "data must have the same two or more columns in every row, got "
                f"{len(row)} in row {number} of {str(path)!r}, which begins {row[0][:40]!r}."
            )
    names = list(BUNDLED.get(source, (None, None))[1] or [""] * len(rows[0]))
    cells = [cell.strip().lower() for cell in rows[0]]
    if header or (header is None and all(cell in HEADER_WORDS for cell in cells)):
        names, rows = cells, rows[1:]
    if not rows:
        raise ValueError(f"data must have rows, got only a header in {str(path)!r}.")
    return rows, names, str(path)


def read_objects(path, wanted):
    """Return the values of a JSONL file as rows of str, and the names of their columns."""
    objects = list(read_json_lines(path))
    names = list(objects[0][1])
    rows = []
    for number, content in objects:
        missing = [name for name in names if not isinstance(content.get(name), (str, int))]
        if missing:
            raise ValueError(
                f"data must have the keys {', '.join(names)} with texts on every line, got "
                f"{content.get(missing[0])!r} for {missing[0]!r} on line {number} of {str(path)!r}."
            )
        rows.append([str(content[name]) for name in names])
    return rows, [name.lower() for name in names]


def read_json_lines(path):
    """List (line number, object) of a JSONL file."""
    found = []
    for number, line in enumerate(read_lines(path, "data", expected_files()), start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise ValueError(
                f"data must have one JSON object per line, got {line[:60]!r} on line {number} "
                f"of {str(path)!r}."
            )
        found.append((number, content))
    return found


def bundled_path(source):
    """Return the path of a bundled file by its name, or of a file."""
    return DATA_FOLDER / BUNDLED[source][0] if source in BUNDLED else Path(source)


def expected_files():
    """Name what can be read, for errors."""
    return f"{', '.join(BUNDLED)} or the path of a .tsv, .csv, .jsonl or .conll file"


def find_columns(rows, names, path, text, label):
    """Return the places of text and label: named, asked for, or the one with fewer values."""
    if text is None and label is None and "text" in names and "label" in names:
        return names.index("text"), names.index("label")
    if text is None and label is None:
        if len(rows[0]) != 2:
            raise ValueError(
                "text and label must be given for a file with more than two columns, got "
                f"{len(rows[0])} columns in {path!r}: the first row is {rows[0]!r}."
            )
        values = [len({row[place] for row in rows}) for place in (0, 1)]
        return (1, 0) if values[0] <= values[1] else (0, 1)
    first = place_of(text, names, None, "text", path)
    second = place_of(label, names, None, "label", path)
    return first, second


def place_of(column, names, default, argument, path):
    """Return the place of a column that is given by name or number, else the default."""
    if column is None:
        if default is None:
            raise ValueError(f"{argument} must be given too, got None for {path!r}.")
        return default
    if isinstance(column, str) and not column.isdigit() and column.lower() in names:
        return names.index(column.lower())
    if str(column).isdigit() and int(column) < len(names):
        return int(column)
    known = ", ".join(name or str(place) for place, name in enumerate(names))
    raise ValueError(f"{argument} must be one of the columns {known} of {path!r}, got {column!r}.")


def check_header(texts, labels, header, path):
    """Raise if the first line may name the columns and nobody has said whether it does."""
    cells = {texts[0].lower(), labels[0].lower()}
    if header is None and cells & HEADER_WORDS and labels[0] not in labels[1:]:
        raise ValueError(
            "header must be True or False (--header or --no-header) for a file whose first line "
            f"looks like names of columns, got {texts[0]!r} with the label {labels[0]!r} in "
            f"{path!r}."
        )


def cleaned(texts, labels, groups):
    """Leave out empty texts and repeated rows; count both."""
    seen, kept, empty = set(), [], 0
    for place, row in enumerate(zip(texts, labels, strict=True)):
        if not all(row):
            empty += 1
        elif row not in seen:
            kept.append(place)
            seen.add(row)
    report = {"rows": len(kept)}
    repeated = len(texts) - len(kept) - empty
    if empty:
        report["left out as empty"] = empty
    if repeated:
        report["left out as repeated"] = repeated
    groups = texts if groups is None else groups  # a text that comes with two labels
    return Labelled(texts, labels, groups, report).take(kept)
