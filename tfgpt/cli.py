"""The `tfgpt` command: demo, generate, translation, fine-tuning and doctor.

Its help needs no TensorFlow: what does is imported where it is used.
"""

import argparse
import contextlib
import importlib.metadata
import itertools
import os
import re
import sys
import traceback

# TensorFlow would take all memory of a GPU that others may use too.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

EXAMPLES = """examples:
  tfgpt demo                                          train on Shakespeare, about three minutes
  tfgpt demo --corpus my_text.txt --run-dir runs/mine the same on your own UTF-8 text
  tfgpt generate --run-dir runs/mine --prompt "The "  write with that model
  echo "The " | tfgpt generate --prompt - --stop "."  a prompt from a pipe, up to a full stop
  tfgpt translate "In the beginning" --beam 4         English to Spanish, with a bundled model
  tfgpt finetune --task classify --data reviews_zh --out runs/reviews
  tfgpt predict runs/reviews "很好吃"                  the label of a text, or --file FILE
  tfgpt doctor                                        what is wrong with this installation

TFGPT_DEBUG=1 shows where an error comes from. NO_COLOR=1 leaves escape codes out."""
PIPE_CLOSED = 141  # the exit code of a program whose reader went away


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: list of str; None: those of the process.

    Returns:
        int, the exit code: 0 if all went well, 1 if the doctor found a problem, 2 after
        an error, 130 after Ctrl-C, 141 if the reader of a pipe went away.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe in a narrow encoding gets ? for what it cannot show.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        try:
            return run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python would write to the pipe once more when it ends.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def run(arguments):
    """Read the options and run their command; an error becomes one sentence on stderr."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.run is None:
        parser.print_help()
        return 0
    try:
        return options.run(options) or 0
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        return 130  # the exit code of a program that was stopped from the keyboard
    except Exception as error:  # a library may raise anything; nobody wants its traceback
        if os.environ.get("TFGPT_DEBUG"):
            traceback.print_exc()
        print(f"tfgpt: {one_sentence(error)}", file=sys.stderr)
        return 2


def one_sentence(error):
    """Write an error in one line, without escape codes; say what to do if memory is full.

    Example:
        >>> one_sentence(KeyError("corpus"))
        "KeyError: 'corpus'"
    """
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())[:600]
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return f"not enough memory: take a smaller model, batch or text. {text[:200]}".strip()
    if isinstance(error, (ValueError, TypeError, OSError, RuntimeError, ImportError)) and text:
        return text
    return f"{type(error).__name__}: {text}"


def own_version():
    """Return the version of tfgpt as it was installed."""
    try:
        return importlib.metadata.version("tfgpt")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def make_parser():
    """Describe the commands and their options."""
    parser = argparse.ArgumentParser(
        prog="tfgpt",
        description="GPT for Keras, made to be read.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tfgpt {own_version()}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(metavar="command")

    demo = commands.add_parser("demo", help="train a small GPT on a text in about three minutes")
    demo.add_argument(
        "--corpus",
        default="shakespeare",
        help="shakespeare, chinese_poems, or the path of a UTF-8 text of 1,300 characters or more",
    )
    demo.add_argument("--run-dir", default="runs/demo", help="folder for all results")
    demo.add_argument("--steps", type=int, help="training steps")
    demo.add_argument("--seed", type=int, default=0, help="seed of weights, batches and sample")
    demo.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    demo.set_defaults(run=run_demo)

    generate = commands.add_parser("generate", help="write text with a trained model")
    generate.add_argument("--run-dir", default="runs/demo", help="folder of the model")
    generate.add_argument("--prompt", help="text to continue; -: read it from standard input")
    generate.add_argument("--stop", action="append", help="end before this text; may come again")
    generate.add_argument("--tokens", type=int, default=500, help="tokens to generate")
    generate.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest")
    generate.add_argument("--top-k", type=int, help="draw among the k likeliest")
    generate.add_argument("--top-p", type=float, help="draw among those that sum to p")
    generate.add_argument("--min-p", type=float, help="draw among those p times the likeliest")
    generate.add_argument("--repetition-penalty", type=float, help="above 1: repeat less")
    generate.add_argument("--no-repeat-ngram", type=int, help="no run of so many tokens twice")
    generate.add_argument("--seed", type=int, help="the same seed gives the same text")
    generate.set_defaults(run=run_generate)

    train = commands.add_parser("train-translation", help="train a translator on pairs of texts")
    train.add_argument(
        "--corpus",
        default="verses_en-es",
        help="verses_en-es, verses_kjv-modern, or a TSV file: source, tab, translation",
    )
    train.add_argument("--target-file", help="translations of --corpus, if that has sources only")
    train.add_argument("--run-dir", default="runs/translation", help="folder for all results")
    train.add_argument("--small", action="store_true", help="small sizes, 500 steps")
    train.add_argument("--steps", type=int, help="training steps")
    train.add_argument("--dropout", type=float, help="more for fewer pairs, at least 0, below 1")
    train.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    train.add_argument("--language", help="of the targets, for the stemmer of METEOR")
    train.set_defaults(run=run_train_translation)

    translate = commands.add_parser("translate", help="translate text with a trained translator")
    translate.add_argument("text", help="what to translate")
    translate.add_argument(
        "--checkpoint",
        default="verses_en-es",
        help="verses_en-es, verses_kjv-modern, or the folder of a translator",
    )
    translate.add_argument("--beam", type=int, default=4, help="beam size; 1: greedy")
    translate.add_argument("--attention", help="write the attention weights to this .html file")
    translate.set_defaults(run=run_translate)

    base = commands.add_parser("pretrain-base", help="train a small GPT on all bundled texts")
    base.add_argument("--name", default="base_en", help="base_en or base_zh")
    base.add_argument("--run-dir", help="folder for all results; runs/ and the name")
    base.add_argument("--steps", type=int, help="training steps")
    base.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    base.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    base.set_defaults(run=run_pretrain_base)

    add_finetune(commands)
    predict = commands.add_parser("predict", help="use a fine-tuned model")
    predict.add_argument("folder", help="what --out of finetune was")
    predict.add_argument("text", nargs="?", help="one text")
    predict.add_argument("--file", help="a text per line; -: standard input; writes TSV")
    predict.add_argument("--base", help="the base of adapters, if it is not where it was")
    predict.set_defaults(run=run_predict)

    evaluate = commands.add_parser("evaluate", help="score a fine-tuned model on labelled texts")
    evaluate.add_argument("folder", help="what --out of finetune was")
    evaluate.add_argument("--data", required=True, help="as for finetune")
    evaluate.add_argument("--base", help="the base of adapters, if it is not where it was")
    add_columns(evaluate)
    evaluate.set_defaults(run=run_evaluate)

    chat = commands.add_parser("chat", help="talk with a fine-tuned model")
    chat.add_argument("folder", help="what --out of finetune was")
    chat.add_argument("--temperature", type=float, default=0.0, help="0: always the likeliest")
    chat.add_argument("--base", help="the base of adapters, if it is not where it was")
    chat.add_argument("--seed", type=int, help="the same seed gives the same answers")
    chat.set_defaults(run=run_chat)

    doctor = commands.add_parser("doctor", help="check versions, devices, CUDA and XLA")
    doctor.add_argument("--json", action="store_true", help="print the checks as JSON")
    doctor.set_defaults(run=run_doctor)
    return parser


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


def run_evaluate(options):
    """Print scores, with the options of `tfgpt evaluate`."""
    from tfgpt.tasks.finetune import evaluate_finetuned

    evaluate_finetuned(options.folder, options.data, options.base, columns_of(options))


def run_chat(options):
    """Talk, with the options of `tfgpt chat`."""
    from tfgpt.tasks.chat import chat
    from tfgpt.tasks.finetuned import load_finetuned

    model = load_finetuned(options.folder, options.base)
    chat(model, temperature=options.temperature, seed=options.seed)


def run_demo(options):
    """Train, with the options of `tfgpt demo`."""
    from tfgpt.tasks import demo

    demo.run_demo(options.corpus, options.run_dir, options.steps, options.seed, options.resume)


def run_generate(options):
    """Print a sample as it is written, with the options of `tfgpt generate`."""
    from tfgpt.tasks.demo import sample_start
    from tfgpt.tasks.language_model import LanguageModel

    text_model = LanguageModel.load(options.run_dir)
    prompt = options.prompt
    if prompt == "-":  # UTF-8, whatever the terminal is set to
        prompt = sys.stdin.buffer.read().decode("utf-8").rstrip("\n")
    pieces = text_model.stream(
        sample_start(text_model.tokenizer, prompt),
        options.tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram,
        stop_strings=options.stop,
        seed=options.seed,
    )
    print(prompt or "", end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def run_train_translation(options):
    """Train and score, with the options of `tfgpt train-translation`."""
    from dataclasses import replace

    from tfgpt.tasks import translation

    settings = translation.SMALL if options.small else translation.TranslationSettings()
    asked = {"steps": options.steps, "dropout": options.dropout}
    translation.train_translation(
        options.corpus,
        options.target_file,
        options.run_dir,
        replace(settings, **{name: value for name, value in asked.items() if value is not None}),
        options.seed,
        options.resume,
        options.language,
    )


def run_translate(options):
    """Print a translation, with the options of `tfgpt translate`."""
    from tfgpt.tasks.translator import Translator

    translator = Translator.load(options.checkpoint)
    print(translator.translate(options.text, beam_size=options.beam))
    if options.attention:
        alignment = translator.align(options.text, beam_size=options.beam)
        alignment.view(options.text, save=options.attention)
        print(f"The attention weights are in {options.attention}: open it in a browser.")


def run_pretrain_base(options):
    """Train a base model, with the options of `tfgpt pretrain-base`."""
    from tfgpt.tasks.base import pretrain_base

    pretrain_base(options.name, options.run_dir, options.steps, options.seed, options.resume)


def run_doctor(options):
    """Print the checks of `tfgpt doctor`; return 1 if one found a problem."""
    from tfgpt.machine.diagnosis import doctor

    report = doctor(show=not options.json)
    print(report.to_json() if options.json else report)
    return 1 if report.problems else 0
