"""Fine-tune a GPT on labelled texts, and report how good it is beside simple baselines.

The same for all tasks: Keras's `fit` with early stopping, the best weights kept, and a folder
with the model, its scores, figures, predictions and a model card.
"""

import hashlib
import json
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np

from tfgpt.bundle import own_version, replaced_file
from tfgpt.data.labelled import BUNDLED, bundled_path
from tfgpt.gpt import GPT
from tfgpt.run_folder import RunLock, keep_aside
from tfgpt.signals import kept_interrupts, termination_as_interrupt
from tfgpt.tasks.examples import choose_buckets, length_batches, padding_id
from tfgpt.tasks.finetuned import (
    KINDS,
    TASK,
    load_base,
    load_finetuned,
    make_task_model,
    save_finetuned,
)
from tfgpt.tasks.methods import MethodSettings
from tfgpt.tasks.problems import TASKS, check_known, make_problem, problem_of, read_examples
from tfgpt.tasks.reports import import_for_reports, is_cjk, over_seeds, score_table
from tfgpt.training import set_seed
from tfgpt.tuning.adapters import count
from tfgpt.validation import check_choice, check_integer, check_positive

# What the report of a task needs.
ANSWER_LIBRARIES = ("sklearn", "rouge_score", "sacrebleu", "nltk")
LIBRARIES = {
    "classify": ("sklearn", "matplotlib"),
    "tag": ("seqeval",),
    **dict.fromkeys(("qa", "summarise", "chat"), ANSWER_LIBRARIES),
    "lm": (),
}
REPORT, CARD = "report.json", "model_card.md"


def finetune(
    task,
    data,
    out,
    base=None,
    settings=None,
    *,
    seed=0,
    seeds=1,
    pooling="first-last",
    columns=None,
):
    """Fine-tune a model, score it on texts that it has never seen, and write it.

    Nothing that was in `out` is lost: an earlier model there is kept beside it. Ctrl-C ends
    the training early; what was best until then is scored and written.

    Args:
        task: "classify", "tag", "qa", "summarise", "chat" or "lm" (go on pre-training).
        data: name of bundled texts, or the path of a TSV, CSV, JSONL, CoNLL or, for "lm",
            text file; see `tfgpt.data.load_labelled` and its siblings.
        out: folder to write to.
        base: what to begin with, see `tfgpt.tasks.finetuned.load_base`; None: "base_zh" for
            Chinese texts, else "base_en".
        settings: MethodSettings; None: LoRA.
        seed: int >= 0, of weights, order and dropout. The division of the data stays.
        seeds: int >= 1, so many trainings; the report has the mean of their scores, and the
            model that is written is the best on the validation part.
        pooling: "mean", "last" or "first-last", of a classifier; see `TextClassifier`.
        columns: dict, which columns to read, such as {"text": 0, "label": 2}.

    Returns:
        the fine-tuned model, see `load_finetuned`, and the report, a dict.

    Raises:
        FileNotFoundError: if data or base are missing.
        ValueError: if the data is unusable or an argument is outside its range.
    """
    check_choice("task", task, TASKS)
    check_integer("seed", seed, minimum=0)
    check_positive("seeds", seeds)
    settings = (settings or MethodSettings()).for_task(task)
    if settings.class_weights and task != "classify":
        raise ValueError(f"class_weights need the task 'classify', got {task!r}.")
    for library in LIBRARIES[task]:  # not after minutes of training
        import_for_reports(library)
    started = time.time()
    examples = read_examples(task, data, columns)
    problem = make_problem(task, examples, pooling=pooling)
    base = base or default_base(problem)
    print(describe(task, data, base, settings, examples, problem))
    trainings = [Training(problem, task, base, settings, seed + number) for number in range(seeds)]
    trainings[0].prepare()  # a wrong base or pattern is found before the folder is touched
    folder = Path(out)
    prepare_folder(folder)
    with RunLock(folder):
        best, scores = trainings[0], []
        for training in trainings:
            if training is not best:
                training.prepare()
            training.run()
            best = max(best, training, key=Training.quality)
            if seeds > 1:
                scores.append(problem.score(training.tuned(), problem.parts[2])[0])
            if training.is_stopped:
                break
        report = write_all(folder, best, data, columns, scores, started)
    print(f"Everything is in {folder}: {CARD} says how to use the model.")
    return best.tuned(), report


class Training:
    """One training with one seed.

    Args:
        problem: see `make_problem`.
        task: str.
        base: str, name or path of the base.
        settings: MethodSettings.
        seed: int.
    """

    def __init__(self, problem, task, base, settings, seed):
        self.problem, self.task, self.base = problem, task, base
        self.settings, self.seed = settings, seed
        self.is_stopped = False  # by Ctrl-C

    def prepare(self):
        """Load the base, make the model and encode the data."""
        set_seed(self.seed)
        gpt, self.tokenizer = load_base(self.base)
        if self.settings.method == "full" and self.settings.dropout:
            gpt = with_dropout(gpt, self.settings.dropout)
        self.gpt, self.adapters = self.settings.prepare(gpt)
        length = self.gpt.context_length
        encoded = [self.problem.rows(self.tokenizer, part, length) for part in self.problem.parts]
        self.rows = [rows for rows, _ in encoded]
        self.cut = sum(cut for _, cut in encoded)
        lengths = [len(row.token_ids) for rows in self.rows for row in rows]
        self.facts = {
            "task": self.task,
            "base": base_to_write(self.base),
            "method": self.settings.method,
            "batch_size": self.settings.batch_size,
            "buckets": choose_buckets(lengths, length),
            **self.problem.facts(self.tokenizer),
        }
        if "max_new_tokens" in self.facts:  # half of the context is for the prompt
            self.facts["max_new_tokens"] = min(self.facts["max_new_tokens"], length // 2)
        self.model = make_task_model(self.gpt, self.tokenizer, self.facts, self.settings.dropout)
        self.share = count(self.model.trainable_weights) / count(self.model.weights)

    def run(self):
        """Train; keep the weights that are best on the validation part."""
        settings, weights = self.settings, None
        if settings.class_weights:
            weights = self.problem.weights(self.problem.parts[0])
        options = (self.facts["buckets"], settings.batch_size, padding_id(self.tokenizer))
        batches = length_batches(self.rows[0], *options, weights, seed=self.seed)
        held_out = length_batches(self.rows[1], *options)
        print(
            f"seed {self.seed}: {len(self.rows[0]):,} rows, {self.cut:,} texts longer than the "
            f"context of {self.gpt.context_length}; trainable share {self.share:.2%}. The first "
            "epoch compiles the model. Ctrl-C stops early and keeps the best so far.",
            flush=True,
        )
        optimizer = settings.make_optimizer(self.gpt, self.adapters, len(batches) * settings.epochs)
        self.model.compile(optimizer, **self.problem.compile_options(), jit_compile="auto")
        monitor, mode = self.problem.monitor
        self.stopper = keras.callbacks.EarlyStopping(
            monitor, mode=mode, patience=settings.patience, restore_best_weights=True
        )
        callbacks = [*settings.callbacks(), keras.callbacks.TerminateOnNaN(), self.stopper]
        try:
            with termination_as_interrupt():
                fitted = self.model.fit(
                    batches,
                    epochs=settings.epochs,
                    validation_data=held_out,
                    callbacks=callbacks,
                    verbose=1 if sys.stdout.isatty() else 2,
                    shuffle=False,
                )
            self.history = fitted.history
        except KeyboardInterrupt as stop:
            if self.stopper.best_weights is None:
                raise
            kept_interrupts.append(stop)
            self.model.set_weights(self.stopper.best_weights)
            self.history, self.is_stopped = {}, True
            print("Stopped early: the best weights so far are kept.")
        if not np.isfinite(self.stopper.best):
            raise ValueError(
                "learning_rate must be low enough for a finite loss, got none in this training "
                f"with {settings}: take a tenth of it."
            )

    def quality(self):
        """Return the best validation score, the higher the better."""
        return self.stopper.best if self.problem.monitor[1] == "max" else -self.stopper.best

    def tuned(self):
        """Return the model as a user loads it."""
        return KINDS[self.task](self.model, self.tokenizer, self.facts)


def write_all(folder, training, data, columns, scores, started):
    """Write model, scores, figures, predictions and model card; return the report."""
    problem, test = training.problem, training.problem.parts[2]
    facts = {**training.facts, "seed": training.seed}
    save_finetuned(folder, training.model, training.tokenizer, facts, training.adapters)
    own, table = problem.score(training.tuned(), test, folder)
    rows = {"fine-tuned model": own}
    if len(scores) > 1:
        rows[f"mean of {len(scores)} seeds"] = {
            name: over_seeds([score[name].value for score in scores]) for name in own
        }
    if training.task not in ("classify", "tag"):
        rows["base, not fine-tuned"] = untrained_scores(training)
    rows |= problem.baselines()
    summary = score_table(rows)
    print(f"\n{table}\n\n{len(test):,} test examples; 95 % intervals.\n{summary}")
    report = {
        "task": training.task,
        "data": str(Path(data).resolve()) if Path(data).is_file() else str(data),
        "data_sha256": hash_data(data),
        "columns": columns,
        "base": training.facts["base"],
        "settings": asdict(training.settings),
        "seed": training.seed,
        "trainable_share": training.share,
        "texts_cut": training.cut,
        "examples": {
            name: len(part)
            for name, part in zip(("training", "validation", "test"), problem.parts, strict=True)
        },
        "history": {name: [float(x) for x in row] for name, row in training.history.items()},
        "scores": {
            title: {name: asdict(measure) for name, measure in row.items()}
            for title, row in rows.items()
        },
        "seconds": round(time.time() - started),
        "versions": {"tfgpt": own_version(), "keras": keras.__version__},
        "backend": keras.backend.backend(),
        "machine": platform.machine(),
    }
    write_text(folder / REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / CARD, model_card(folder, report, table, summary))
    return report


def evaluate_finetuned(folder, data, base=None, columns=None):
    """Score a fine-tuned model on other labelled texts.

    The baselines are trained on what the model was trained on, where that file is still there.

    Args:
        folder: path that `finetune` wrote.
        data: name of bundled texts, or path, in the form of its task.
        base: the base of adapters, if it is not where it was.
        columns: as for `finetune`.

    Returns:
        dict of dicts of Measure: of the model, and of baselines.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a label is not one of the training, or the data is unusable.
    """
    tuned = load_finetuned(folder, base)
    examples = read_examples(tuned.task, data, columns)
    if tuned.task == "classify":
        check_known(examples.labels, tuned.labels)
    trained = training_problem(Path(folder), tuned)
    problem = trained or problem_of(tuned.task, (examples,) * 3)
    own, table = problem.score(tuned, examples)
    rows = {"fine-tuned model": own}
    notes = [f"{len(examples):,} {'characters' if tuned.task == 'lm' else 'examples'}"]
    if trained is None:
        notes.append("no baselines: the training data is not where it was, or was changed")
    elif tuned.task != "lm":
        known = set(map(str, trained.parts[0].texts))
        seen = sum(str(text) in known for text in examples.texts)
        notes.append(f"{seen:,} of them were in the training")
        problem.parts = (trained.parts[0], trained.parts[1], examples)
        rows |= problem.baselines()
    if tuned.cut:
        notes.append(f"{tuned.cut:,} longer than the context")
    print(f"{table}\n\n{', '.join(notes)}; 95 % intervals.\n{score_table(rows)}")
    return rows


def training_problem(folder, tuned):
    """Return the problem that a model was trained on; None if its data is not there as it was."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        if report["data_sha256"] is None or hash_data(report["data"]) != report["data_sha256"]:
            return None
        examples = read_examples(tuned.task, report["data"], report["columns"])
        return make_problem(tuned.task, examples)
    except (OSError, ValueError, KeyError):
        return None


def untrained_scores(training):
    """Score the base on the same test examples, before any training."""
    settings = MethodSettings("full").for_task(training.task)
    before = Training(training.problem, training.task, training.base, settings, training.seed)
    before.prepare()
    facts = training.facts
    tuned = KINDS[training.task](before.gpt, before.tokenizer, facts)
    return training.problem.score(tuned, training.problem.parts[2])[0]


def with_dropout(gpt, dropout):
    """Return a copy of a GPT that drops out while it is trained."""
    copy = GPT.from_config({**gpt.get_config(), "dropout": dropout})
    copy.set_weights(gpt.get_weights())
    return copy


def default_base(problem):
    """Choose the bundled base for the language of the training texts."""
    part = problem.parts[0]
    texts = [part] if isinstance(part, str) else part.texts
    if not isinstance(part, str) and getattr(problem, "task", None) == "chat":
        texts = [messages[0]["content"] for messages in part.labels]
    joined = [text if isinstance(text, str) else " ".join(text) for text in texts[:200]]
    return "base_zh" if is_cjk(joined) else "base_en"


def base_to_write(base):
    """Return the name of a base, or its whole path, for task.json."""
    return str(Path(base).resolve()) if Path(base).is_dir() else str(base)


def describe(task, data, base, settings, examples, problem):
    """Say in a few lines what was read and what is going to happen."""
    sizes = ", ".join(f"{len(part):,}" for part in problem.parts)
    report = f"{len(examples):,} characters" if task == "lm" else examples.describe()
    unknown = getattr(problem, "unknown", None)
    if unknown:
        report += f", tags that training lacks and that count as missed {', '.join(unknown)}"
    return (
        f"{task} with {data}: {report}.\n"
        f"training, validation and test: {sizes}. Base {base}, method {settings.method}."
    )


def prepare_folder(folder):
    """Keep an earlier fine-tuned model beside; raise if the folder holds something else."""
    if (folder / TASK).exists():
        with RunLock(folder):  # no other process may be writing there
            pass
        kept = keep_aside(folder.resolve())
        print(f"The earlier model is kept in {folder.with_name(kept.name)}.")
    elif folder.exists() and any(path.name != "lock" for path in folder.iterdir()):
        raise ValueError(
            f"out must be a new folder or that of an earlier fine-tuning, got {str(folder)!r}, "
            "which holds other files."
        )


def hash_data(data):
    """Return the SHA-256 of a data file, None for what is no file."""
    path = bundled_path(data) if data in BUNDLED else Path(data)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def write_text(path, text):
    """Write a text file as a whole."""
    with replaced_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def model_card(folder, report, table, summary):
    """Write what the next reader must know of the model, as Markdown."""
    used = {name: value for name, value in report["settings"].items() if value is not None}
    examples = report["examples"]
    unit = "characters" if report["task"] == "lm" else "examples"
    return f"""# A model for the task "{report["task"]}"

Made with tfgpt {report["versions"]["tfgpt"]} and Keras {report["versions"]["keras"]}.

- Base: `{report["base"]}`, method `{used["method"]}`, trainable share \
{report["trainable_share"]:.2%}.
- Data: `{report["data"]}`, SHA-256 `{report["data_sha256"]}`; {examples["training"]:,} {unit} \
for training, {examples["validation"]:,} for validation, {examples["test"]:,} for the test.
- Settings: {", ".join(f"{name}={value}" for name, value in used.items())}, seed \
{report["seed"]}.
- {report["texts_cut"]:,} texts were longer than the context.
- {report["seconds"]:,} seconds in all.

## Scores on the test part

With 95 % intervals over the test examples; a row of several seeds has its interval over seeds.

```
{summary}

{table}
```

## Use

```python
import tfgpt

model = tfgpt.load_finetuned({str(folder)!r})
print(model.predict("a text"))
```

The scores hold for texts like those of the data. For other texts, other people or another \
time they may be far lower: score the model on your own examples first, with \
`tfgpt evaluate {folder} --data FILE`.
"""
