"""What is to be learned: labels, tags, answers, or plain text.

A problem reads its data, makes the rows of a task, and scores a fine-tuned model on its test
part, beside simple baselines.
"""

from dataclasses import dataclass

import keras
import numpy as np

from tfgpt.bundle import replaced_file
from tfgpt.data import load_text
from tfgpt.data.chat import dialogue_parts, join_parts, prompt_parts
from tfgpt.data.labelled import (
    Labelled,
    load_answers,
    load_dialogues,
    load_labelled,
    load_tagged,
    split_examples,
)
from tfgpt.losses import MaskedAccuracy, MaskedLoss
from tfgpt.plotting import plot_calibration, plot_confusion
from tfgpt.tasks.examples import (
    IGNORED,
    Row,
    answer_rows,
    encode_sentences,
    encode_texts,
    length_batches,
    names_of_tags,
    padding_id,
    tag_rows,
    tag_scores,
    window_rows,
)
from tfgpt.tasks.reports import (
    Measure,
    answer_baselines,
    answer_scores,
    calibration,
    class_table,
    classification_baselines,
    classification_scores,
    confusion,
    entity_table,
    nearest_answers,
    tagging_baseline,
    tagging_scores,
)
from tfgpt.validation import check_choice

# What reads the data of each task, and which columns can be chosen.
READERS = {
    "classify": (load_labelled, ("header", "label", "text")),
    "tag": (load_tagged, ()),
    "qa": (load_answers, ("answer", "header", "prompt")),
    "summarise": (load_answers, ("answer", "header", "prompt")),
    "chat": (load_dialogues, ("language",)),
    "lm": (load_text, ()),
}
TASKS = tuple(READERS)
MOST_ANSWERS = 200  # test examples whose answers are written and scored
PREDICTIONS = "predictions.tsv"


def read_examples(task, data, columns=None):
    """Read the data of a task.

    Args:
        task: str of TASKS.
        data: name of bundled texts, or path; see `tfgpt.data`.
        columns: dict of the arguments of the reader that say which columns to read.

    Returns:
        Labelled; for "lm" the text, str.

    Raises:
        ValueError: if a column is given for a task that has none, or as the readers.
    """
    reader, known = READERS[task]
    for name in columns or {}:
        check_choice(f"column argument for {task!r}", name, known or ("none",))
    return reader(data, **(columns or {}))


def make_problem(task, examples, seed=0, pooling="first-last"):
    """Divide examples into training, validation and test parts, and make their problem.

    Args:
        task: str of TASKS.
        examples: what `read_examples` returned.
        seed: int >= 0, of the division.
        pooling: "mean", "last" or "first-last", of a classifier.

    Returns:
        Classification, Tagging, Answering or Pretraining.

    Raises:
        ValueError: if the examples are too few, or a label is in one part only.
    """
    if task == "lm":
        return Pretraining(text_parts(examples))
    return problem_of(task, split_examples(examples, seed), pooling)


def problem_of(task, parts, pooling="first-last"):
    """Make the problem of a task from its three parts."""
    if task == "classify":
        return Classification(parts, pooling)
    if task == "tag":
        return Tagging(parts)
    return Pretraining(parts) if task == "lm" else Answering(task, parts)


def text_parts(text):
    """Divide a text: the last tenth for the test, the tenth before it for validation."""
    size = len(text)
    if size < 1000:
        raise ValueError(f"data must have at least 1000 characters, got {size}.")
    first, second = size * 8 // 10, size * 9 // 10
    return text[:first], text[first:second], text[second:]


@dataclass
class Classification:
    """Texts with one label each."""

    parts: tuple
    pooling: str = "first-last"
    monitor = ("val_accuracy", "max")

    def __post_init__(self):
        self.labels = sorted(set(self.parts[0].labels))
        for part in self.parts[1:]:
            check_known(part.labels, self.labels)

    def facts(self, tokenizer):
        """Return what task.json says of the labels."""
        return {"labels": self.labels, "pooling": self.pooling}

    def rows(self, tokenizer, part, context_length):
        """Encode one part of the data: rows, and how many texts were cut."""
        encoded, cut = encode_texts(tokenizer, part.texts, context_length)
        number = {label: place for place, label in enumerate(self.labels)}
        pairs = zip(encoded, part.labels, strict=True)
        return [Row(ids, number[label]) for ids, label in pairs], cut

    def weights(self, part):
        """Return weights with which each class counts as much: float array (N,)."""
        counts = {label: part.labels.count(label) for label in self.labels}
        share = len(part) / len(self.labels)
        return np.array([share / counts[label] for label in part.labels], "float32")

    def compile_options(self):
        """Return loss and metrics for `compile`."""
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {"loss": loss, "weighted_metrics": ["accuracy"]}

    def score(self, tuned, test, folder=None):
        """Score a Classifier; with a folder write figures and predictions there."""
        chances = tuned.probabilities(test.texts)
        predicted = [tuned.labels[place] for place in chances.argmax(axis=1)]
        hits = np.array(predicted) == np.array(test.labels)
        error, *bins = calibration(hits, chances.max(axis=1))
        scores = {
            **classification_scores(test.labels, predicted),
            "calibration error": Measure(error),
        }
        if folder is not None:
            matrix = confusion(test.labels, predicted, tuned.labels)
            plot_confusion(matrix, tuned.labels, "Test texts", folder / "confusion.png")
            plot_calibration(*bins, "Test texts", folder / "calibration.png")
            rows = zip(test.texts, test.labels, predicted, strict=True)
            write_rows(folder / PREDICTIONS, ("text", "label", "predicted"), rows)
        return scores, class_table(test.labels, predicted)

    def baselines(self):
        """Score simple classifiers on the same test texts."""
        return classification_baselines(self.parts[0], self.parts[2])


class TokenProblem:
    """What problems share whose targets are of tokens."""

    def compile_options(self):
        """Return loss and metrics for `compile`."""
        return {"loss": MaskedLoss(IGNORED), "weighted_metrics": [MaskedAccuracy(IGNORED)]}


@dataclass
class Tagging(TokenProblem):
    """Sentences with one BIO tag per word."""

    parts: tuple
    monitor = ("val_masked_accuracy", "max")

    def __post_init__(self):
        self.labels = names_of_tags(self.parts[0].labels)
        rest = {tag for part in self.parts[1:] for tags in part.labels for tag in tags}
        self.unknown = sorted(rest - set(self.labels))  # rare ones: they count as missed

    def facts(self, tokenizer):
        """Return what task.json says of the tags."""
        scores = tag_scores(self.parts[0].labels, self.labels)
        return {"labels": self.labels, "tag_scores": np.round(scores, 3).tolist()}

    def rows(self, tokenizer, part, context_length):
        """Encode one part of the data: rows, and how many sentences were divided."""
        pieces, divided = encode_sentences(tokenizer, part.texts, context_length)
        return tag_rows(pieces, part.labels, self.labels), divided

    def score(self, tuned, test, folder=None):
        """Score a Tagger; with a folder write predictions there."""
        predicted = tuned.tags(test.texts)
        if folder is not None:
            columns = (test.texts, test.labels, predicted)
            rows = zip(*(map(" ".join, column) for column in columns), strict=True)
            write_rows(folder / PREDICTIONS, ("words", "tags", "predicted"), rows)
        return tagging_scores(test.labels, predicted), entity_table(test.labels, predicted)

    def baselines(self):
        """Score the most frequent tag of each word on the same test sentences."""
        return tagging_baseline(self.parts[0], self.parts[2])


@dataclass
class Answering(TokenProblem):
    """Prompts with answers: questions, texts to be summarised, or dialogues."""

    task: str
    parts: tuple
    monitor = ("val_loss", "min")

    def facts(self, tokenizer):
        """Return how long an answer may become."""
        answers = [answer for _, answer in self.pairs(self.parts[0])]
        lengths = [len(tokenizer.encode(answer)) for answer in answers]
        return {"max_new_tokens": int(np.quantile(lengths, 0.95)) + 8}

    def texts(self, part):
        """Write each example as parts, of which the answers count."""
        if self.task == "chat":
            return [dialogue_parts(messages) for messages in part.labels]
        rows = zip(part.texts, part.labels, strict=True)
        return [prompt_parts(self.task, prompt, answer) for prompt, answer in rows]

    def pairs(self, part):
        """List (prompt, answer); the prompt of a dialogue is what stands before its last answer."""
        if self.task != "chat":
            return list(zip(part.texts, part.labels, strict=True))
        found = []
        for messages in part.labels:
            roles = [message["role"] for message in messages]
            last = len(roles) - 1 - roles[::-1].index("assistant")
            if last:
                found.append((messages[:last], messages[last]["content"]))
        return found

    def rows(self, tokenizer, part, context_length):
        """Encode one part of the data: rows, and how many texts were cut."""
        return answer_rows(tokenizer, self.texts(part), context_length)

    def score(self, tuned, test, folder=None):
        """Score a Writer; with a folder write its answers there."""
        pairs = self.pairs(test)[:MOST_ANSWERS]
        predicted = tuned.predict_many([prompt for prompt, _ in pairs])
        answers = [answer for _, answer in pairs]
        if folder is not None:
            prompts = [as_line(prompt) for prompt, _ in pairs]
            rows = zip(prompts, answers, predicted, strict=True)
            write_rows(folder / PREDICTIONS, ("prompt", "answer", "predicted"), rows)
        rows, _ = self.rows(tuned.tokenizer, test, tuned.gpt.context_length)
        scores = {"perplexity": Measure(perplexity_of(tuned, rows))}
        return scores | answer_scores(answers, predicted), sample_of(pairs, predicted)

    def baselines(self):
        """Score simple answers to the same test prompts."""
        training, test = (self.pairs(self.parts[place]) for place in (0, 2))
        test = test[:MOST_ANSWERS]
        if self.task != "chat":
            own = self.parts[2].take(range(len(test)))
            return answer_baselines(self.task, self.parts[0], own)
        known = Labelled([as_line(p) for p, _ in training], [a for _, a in training], [])
        found = nearest_answers(known, [as_line(prompt) for prompt, _ in test])
        return {"answer of the nearest prompt": answer_scores([a for _, a in test], found)}


@dataclass
class Pretraining(TokenProblem):
    """Plain text, on which the base goes on as it was trained."""

    parts: tuple  # of str
    monitor = ("val_loss", "min")

    def facts(self, tokenizer):
        """Return how much `predict` writes."""
        return {"max_new_tokens": 100}

    def rows(self, tokenizer, part, context_length):
        """Cut one part of the text into windows."""
        return window_rows(tokenizer.encode(part), context_length), 0

    def score(self, tuned, test, folder=None):
        """Measure the perplexity of the test text."""
        rows, _ = self.rows(tuned.tokenizer, test, tuned.gpt.context_length)
        return {"perplexity": Measure(perplexity_of(tuned, rows))}, ""

    def baselines(self):
        """The base itself is the baseline, see `finetune`."""
        return {}


def check_known(found, labels):
    """Raise if a label is in the validation or test part, but never in training."""
    unknown = sorted(set(found) - set(labels))
    if unknown:
        raise ValueError(
            f"labels must be those of the training, got {', '.join(map(repr, unknown[:5]))}: a "
            "label needs several examples, or is written in another way."
        )


def perplexity_of(tuned, rows):
    """Compute e to the mean loss of the targets of rows."""
    pad_id = padding_id(tuned.tokenizer)
    total, count = 0.0, 0
    batches = length_batches(rows, tuned.buckets, tuned.facts["batch_size"], pad_id)
    for token_ids, targets, _ in batches.as_numpy_iterator():
        number = int((targets != IGNORED).sum())
        losses = MaskedLoss(IGNORED)(targets, tuned.model.predict_on_batch(token_ids))
        total, count = total + float(losses) * number, count + number
    return float(np.exp(total / max(count, 1)))


def as_line(prompt):
    """Write a prompt, or the messages before an answer, as one text."""
    return prompt if isinstance(prompt, str) else join_parts(dialogue_parts(prompt))


def sample_of(pairs, predicted, count=3):
    """Write a few prompts with what was answered, for the report."""
    lines = []
    for (prompt, answer), guess in list(zip(pairs, predicted, strict=True))[:count]:
        lines += [
            f"prompt   {as_line(prompt)!r:.300}",
            f"answer   {answer!r}",
            f"model    {guess!r}",
        ]
    return "\n".join(lines)


def write_rows(path, names, rows):
    """Write a TSV file; tabs and line breaks in a cell become spaces."""
    lines = [names, *rows]
    with replaced_file(path) as beside:
        text = "".join("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in lines)
        beside.write_text(text, encoding="utf-8")
