"""The commands about fine-tuned models: finetune, predict, chat; and what evaluate does there."""

import argparse
import contextlib
import itertools
import sys
from pathlib import Path


def add_commands(commands):
    """Describe the commands."""
    add_finetune(commands)
    predict = commands.add_parser("predict", help="use a fine-tuned model")
    predict.add_argument("folder", help="what --out of finetune was")
    predict.add_argument("text", nargs="?", help="one text")
    predict.add_argument("--file", help="a text per line; -: standard input; writes TSV")
    predict.add_argument("--base", help="the base of adapters, if it is not where it was")
    predict.set_defaults(run=run_predict)

    chat = commands.add_parser("chat", help="talk with a fine-tuned model")
    chat.add_argument("folder", help="what --out of finetune was, or a LiteRT file of it")
    chat.add_argument("--temperature", type=float, default=0.0, help="0: always the likeliest")
    chat.add_argument("--base", help="the base of adapters, if it is not where it was")
    chat.add_argument("--seed", type=int, help="the same seed gives the same answers")
    chat.set_defaults(run=run_chat)


def add_finetune(commands):
    """Describe `tfgpt finetune`."""
    tune = commands.add_parser(
        "finetune",
        help="teach a model labels, tags or answers",
        description="Teach a GPT labels, tags or answers; score it beside simple baselines.",
    )
    tune.add_argument("--task", required=True, help="classify, tag, qa, summarise, chat or lm")
    tune.add_argument(
        "--data",
        required=True,
        help="reviews_zh, definitions, sections (classify), addresses (tag), quiz (qa), "
        "summaries (summarise), dialogues (chat), or a .tsv, .csv, .jsonl or .conll file; for lm "
        "shakespeare or a text file",
    )
    tune.add_argument("--out", required=True, help="folder for the model and its report")
    tune.add_argument(
        "--base",
        help="base_en, base_zh, the folder of a model, or a GPT-2 from Hugging Face: gpt2; "
        "without it a bundled one of the language",
    )
    tune.add_argument(
        "--method",
        default="lora",
        help="full, last-n, lora, dora, adalora, adapter, ia3, prefix or prompt",
    )
    tune.add_argument("--epochs", type=int, help="at most so many passes over the data")
    tune.add_argument("--batch-size", type=int, help="texts per step")
    tune.add_argument("--learning-rate", type=float, help="the highest; by default of the method")
    tune.add_argument("--last", type=int, help="blocks that learn, with last-n")
    tune.add_argument("--rank", type=int, help="of LoRA; the size of other adapters")
    tune.add_argument("--layers", help="pattern of the layers that are adapted")
    tune.add_argument("--decay", type=float, help="of the rate from block to block, with full")
    tune.add_argument(
        "--gradual", action="store_true", default=None, help="one more block per epoch, with full"
    )
    tune.add_argument("--patience", type=int, help="epochs without improvement before the end")
    tune.add_argument("--dropout", type=float, help="of the head, and of the model with full")
    tune.add_argument(
        "--class-weights", action="store_true", default=None, help="rare classes count as much"
    )
    tune.add_argument(
        "--pooling", default="first-last", help="of a classifier: mean, last or first-last"
    )
    tune.add_argument("--seed", type=int, default=0, help="seed of weights and order")
    tune.add_argument("--seeds", type=int, default=1, help="so many trainings; their mean")
    add_columns(tune)
    tune.set_defaults(run=run_finetune)


def add_columns(parser):
    """Describe the options that say what to read of a file."""
    for name in ("text", "label", "prompt", "answer"):
        parser.add_argument(f"--{name}", help=f"name or place of the column with the {name}")
    parser.add_argument(
        "--header",
        action=argparse.BooleanOptionalAction,
        help="whether the first line names the columns",
    )
    parser.add_argument("--language", help="of bundled dialogues: english or chinese")


def columns_of(options):
    """Return the options of `add_columns` that were given."""
    names = ("text", "label", "prompt", "answer", "header", "language")
    found = {name: getattr(options, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def run_finetune(options):
    """Train and score, with the options of `tfgpt finetune`."""
    from dataclasses import fields

    from tfgpt.tasks.finetune import finetune
    from tfgpt.tasks.methods import MethodSettings

    names = [field.name for field in fields(MethodSettings)]
    asked = {name: getattr(options, name) for name in names}
    finetune(
        options.task,
        options.data,
        options.out,
        options.base,
        MethodSettings(**{name: value for name, value in asked.items() if value is not None}),
        seed=options.seed,
        seeds=options.seeds,
        pooling=options.pooling,
        columns=columns_of(options),
    )


def run_predict(options):
    """Print predictions, with the options of `tfgpt predict`."""
    if (options.text is None) == (options.file is None):
        raise ValueError("predict needs either a text or --file.")
    from tfgpt.tasks.finetuned import check_texts, load_finetuned

    check_texts([options.text] if options.file is None else [])
    model = load_finetuned(options.folder, options.base)
    if options.text is not None:
        print("\t".join(*model.rows([options.text])))
        return
    with contextlib.ExitStack() as stack:
        if options.file == "-":
            lines = (line.decode("utf-8") for line in sys.stdin.buffer)
        else:
            lines = stack.enter_context(open(options.file, encoding="utf-8"))
        write_predictions(model, (line.rstrip("\r\n") for line in lines))
    if model.cut:
        print(f"{model.cut:,} texts were longer than the context.", file=sys.stderr)


def write_predictions(model, texts):
    """Write a TSV line per text, as soon as it is known: predictions, then the text."""
    print("\t".join([*model.columns, "text"]))
    texts, again = itertools.tee(texts)
    for cells, text in zip(model.rows(texts), again, strict=True):
        print("\t".join([*(" ".join(cell.split()) for cell in cells), text.replace("\t", " ")]))


def evaluate_labels(options):
    """Print the scores of a fine-tuned model, with the options of `tfgpt evaluate`."""
    from tfgpt.tasks.finetune import evaluate_finetuned

    if options.data is None:
        raise ValueError("evaluate needs --data with labelled texts for a fine-tuned model.")

    evaluate_finetuned(options.folder, options.data, options.base, columns_of(options))


def run_chat(options):
    """Talk, with the options of `tfgpt chat`."""
    from tfgpt.serving.lite_model import LiteModel
    from tfgpt.tasks.chat import chat
    from tfgpt.tasks.finetuned import load_finetuned

    if Path(options.folder).is_file():
        model = LiteModel.load(options.folder)
    else:
        model = load_finetuned(options.folder, options.base)
    chat(model, temperature=options.temperature, seed=options.seed)
