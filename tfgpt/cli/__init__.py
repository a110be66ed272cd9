"""The `tfgpt` command: demo, generate, translation, fine-tuning and doctor.

Its help needs no TensorFlow: what does is imported where it is used.
"""

import argparse
import contextlib
import importlib.metadata
import os
import re
import sys
import traceback
import warnings
from pathlib import Path

from . import finetuning, serving, training, vision

# TensorFlow would take all memory of a GPU that others may use too.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

EXAMPLES = """examples:
  tfgpt demo                                          train on Shakespeare, about three minutes
  tfgpt train --corpus my_texts --minutes 10          train on a folder of your own texts
  tfgpt generate runs/mine --prompt "The "            write with that model
  echo "The " | tfgpt generate --prompt - --stop "."  a prompt from a pipe, up to a full stop
  tfgpt generate runs/mine --ban damn                 never write that, in any case
  tfgpt clean my_texts --out clean.jsonl              no duplicates, no personal data
  tfgpt translate "In the beginning" --beam 4         English to Spanish, with a bundled model
  tfgpt finetune --task classify --data reviews_zh --out runs/reviews
  tfgpt predict runs/reviews "很好吃"                  the label of a text, or --file FILE
  tfgpt serve --model runs/mine                       answer OpenAI's clients and a browser
  tfgpt ask picture.png "What is the main colour?"    also caption picture.png --language zh
  tfgpt doctor                                        what is wrong with this installation

TFGPT_DEBUG=1 shows where an error comes from. NO_COLOR=1 leaves escape codes out."""
PIPE_CLOSED = 141  # the exit code of a program whose reader went away


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: list of str; None: those of the process.

    Returns:
        int, the exit code: 0 if all went well, 1 if the doctor found a problem, 2 after
        an error, 130 after Ctrl-C (of a training too, which keeps its work; 143 after SIGTERM),
        141 if the reader of a pipe went away.
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
    warnings.formatwarning = lambda message, *place: f"Note: {message}\n"
    code_of_interrupts()  # of trainings before this command
    try:
        return options.run(options) or code_of_interrupts()
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        return 130  # the exit code of a program that was stopped from the keyboard
    except Exception as error:  # a library may raise anything; nobody wants its traceback
        if os.environ.get("TFGPT_DEBUG"):
            traceback.print_exc()
        print(f"tfgpt: {one_sentence(error)}", file=sys.stderr)
        return 2


def code_of_interrupts():
    """Return the exit code of a command whose training was stopped early, with its work kept."""
    signals = sys.modules.get("tfgpt.signals")  # nothing was trained without it
    return signals.code_of_interrupts() if signals else 0


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
    demo.add_argument(
        "--tokenizer",
        help="bpe: byte pairs learned from the text; char: one token per character, also chosen "
        "for short texts and for Chinese",
    )
    demo.add_argument("--run-dir", default="runs/demo", help="folder for all results")
    demo.add_argument("--steps", type=int, help="training steps")
    demo.add_argument("--seed", type=int, default=0, help="seed of weights, batches and sample")
    demo.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    demo.set_defaults(run=run_demo)

    generate = commands.add_parser("generate", help="write text with a trained model")
    generate.add_argument("folder", nargs="?", help="what --out of train was, or a LiteRT file")
    generate.add_argument(
        "--model", "--run-dir", dest="model", help="the same; runs/demo if neither is given"
    )
    generate.add_argument("--prompt", help="text to continue; -: read it from standard input")
    generate.add_argument("--prompts", help="file with a prompt per line (-: standard input)")
    generate.add_argument("--step", type=int, help="use the checkpoint of this step of a run")
    generate.add_argument("--stop", action="append", help="end before this text; may come again")
    generate.add_argument(
        "--ban", action="append", help="never write this, in any case; may come again"
    )
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
    translate.add_argument("text", nargs="?", help="what to translate")
    translate.add_argument("--file", help="a text per line; -: standard input")
    translate.add_argument(
        "--checkpoint",
        default="verses_en-es",
        help="verses_en-es, verses_kjv-modern, the folder of a translator or a file of export",
    )
    translate.add_argument(
        "--beam", type=int, help="beam size (4); 1: greedy, the only one of a file"
    )
    translate.add_argument("--attention", help="write the attention weights to this .html file")
    translate.set_defaults(run=run_translate)

    base = commands.add_parser("pretrain-base", help="train a small GPT on all bundled texts")
    base.add_argument("--name", default="base_en", help="base_en or base_zh")
    base.add_argument("--run-dir", help="folder for all results; runs/ and the name")
    base.add_argument("--steps", type=int, help="training steps")
    base.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    base.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    base.set_defaults(run=run_pretrain_base)

    finetuning.add_commands(commands)
    training.add_commands(commands)
    serving.add_serve(commands)
    vision.add_commands(commands)
    doctor = commands.add_parser("doctor", help="check versions, devices, CUDA and XLA")
    doctor.add_argument("--json", action="store_true", help="print the checks as JSON")
    doctor.set_defaults(run=run_doctor)
    return parser


def run_demo(options):
    """Train, with the options of `tfgpt demo`."""
    from tfgpt.tasks import demo

    demo.run_demo(
        options.corpus,
        options.run_dir,
        options.steps,
        options.seed,
        options.resume,
        options.tokenizer,
    )


def run_generate(options):
    """Print a sample as it is written, with the options of `tfgpt generate`."""
    if options.folder and options.model:
        raise ValueError("generate needs one model, got two: leave --model out.")
    path = options.folder or options.model or "runs/demo"
    text_model = load_text_model(path, options.step)
    if options.prompts is not None:
        if options.prompt is not None:
            raise ValueError("generate needs --prompt or --prompts, got both.")
        for number, line in enumerate(read_lines(options.prompts)):
            seed = None if options.seed is None else options.seed + number
            write_sample(text_model, line, options, seed)
        return
    prompt = options.prompt
    if prompt == "-":  # UTF-8, whatever the terminal is set to
        prompt = sys.stdin.buffer.read().decode("utf-8").rstrip("\n")
    write_sample(text_model, prompt, options, options.seed)


def load_text_model(path, step):
    """Load a model that writes: of a folder, or of a file, which needs no TensorFlow."""
    if os.path.isfile(path):
        if step is not None:
            raise ValueError(f"--step needs the folder of a run, got the file {path!r}.")
        os.environ["TFGPT_LITE"] = "1"  # `import tfgpt` loads no Keras then
        from tfgpt.serving.lite_model import LiteModel

        return LiteModel.load(path)
    from tfgpt.tasks.language_model import LanguageModel

    text_model = LanguageModel.load(path)
    if step is not None:
        from tfgpt.checkpoints import read_model

        read_model(path, step, text_model.model)
    return text_model


def read_lines(path):
    """List the lines of a UTF-8 file that are not empty; -: of the standard input."""
    if path == "-":
        content = sys.stdin.buffer.read().decode("utf-8")
    else:
        from tfgpt.data.texts import read_utf8

        content = read_utf8(Path(path), "file", "a text file")
    return [line for line in content.splitlines() if line.strip()]


def write_sample(text_model, prompt, options, seed):
    """Print a prompt and its continuation, as it is written."""
    from tfgpt.generation.text_model import sample_start

    constraint = serving.banned_phrases(options.ban, text_model.tokenizer)
    pieces = text_model.stream(
        sample_start(text_model.tokenizer, prompt),
        options.tokens,
        constraint=constraint,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram,
        stop_strings=options.stop,
        seed=seed,
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
    if (options.text is None) == (options.file is None):
        raise ValueError("translate needs either a text or --file.")
    if options.file is not None and options.attention:
        raise ValueError("--attention needs one text, not --file.")
    if os.path.isfile(options.checkpoint):
        translator, settings = load_lite_translator(options), {}
    else:
        from tfgpt.tasks.translator import Translator

        translator = Translator.load(options.checkpoint)
        settings = {"beam_size": 4 if options.beam is None else options.beam}
    if options.file is not None:
        for text in read_lines(options.file):
            print(translator.translate(text, **settings), flush=True)
        return
    print(translator.translate(options.text, **settings))
    if options.attention:
        alignment = translator.align(options.text, **settings)
        alignment.view(options.text, save=options.attention)
        print(f"The attention weights are in {options.attention}: open it in a browser.")


def load_lite_translator(options):
    """Read a translator from a file of `tfgpt export`; raise for what such a file cannot do."""
    if options.beam not in (None, 1):
        raise ValueError(f"--beam must be 1 for a file of export, got {options.beam}.")
    if options.attention:
        raise ValueError("--attention needs the folder of a translator, not a file of export.")
    os.environ["TFGPT_LITE"] = "1"  # `import tfgpt` loads no Keras then
    from tfgpt.serving.lite_translator import LiteTranslator

    return LiteTranslator.load(options.checkpoint)


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
