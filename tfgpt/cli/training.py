"""The commands about a training on texts of your own: train, evaluate, plot, export, compare."""

import argparse
import importlib.util
import sys
from dataclasses import fields
from pathlib import Path

# Of `tfgpt plan`: name, type, meaning; without one, the default of `tfgpt.tasks.planning.plan`.
PLAN_OPTIONS = (
    ("params", str, "number of weights, such as 124M or 175B; chooses a shape"),
    ("devices", str, "such as 8xH100 (the default), TPU-v4, or cpu, which is measured"),
    ("layers", int, "blocks"),
    ("width", int, "numbers per token"),
    ("heads", int, "heads of each block"),
    ("dff", int, "inner width of the feed-forward network"),
    ("vocab-size", int, "different tokens"),
    ("context", int, "the most tokens that the model reads at once"),
    ("positions", str, "learned, sinusoidal or rotary"),
    ("tokens", str, "to train on, such as 300B; by default 20 per weight"),
    ("batch-tokens", str, "tokens per step, over all devices"),
    ("optimizer", str, "adamw or muon"),
    ("precision", str, "float32, mixed_bfloat16 or mixed_float16"),
    ("mfu", float, "share of the devices' speed that is used, 0 to 1"),
    ("price", float, "dollars per device and hour"),
)
PLAN_NAMES = {"layers": "num_layers", "width": "d_model", "heads": "num_heads"} | {
    "context": "context_length"
}


def add_commands(commands):
    """Describe the commands."""
    add_train(commands)
    evaluate = commands.add_parser("evaluate", help="measure a model on texts")
    evaluate.add_argument("folder", help="what --out of train or finetune was")
    evaluate.add_argument(
        "--data",
        help="of a fine-tuned model: as for finetune; of a trained one: files, by default what "
        "its training held out",
    )
    evaluate.add_argument("--base", help="the base of adapters, if it is not where it was")
    finetuning().add_columns(evaluate)
    for name in ("field", "encoding", "separator"):
        evaluate.add_argument(f"--{name}", help="as for train; by default that of the run")
    evaluate.set_defaults(run=run_evaluate)

    plot = commands.add_parser("plot", help="draw the losses and the attention of a run")
    plot.add_argument("folder", help="what --out of train was")
    plot.add_argument("--prompt", help="the text that the attention is drawn on")
    plot.set_defaults(run=run_plot)

    export = commands.add_parser("export", help="write a trained model as one file or folder")
    export.add_argument("folder", help="what --out of train was, or OUT/best")
    export.add_argument("--out", required=True, help="file or folder to write")
    export.add_argument(
        "--format", default="bundle", help="bundle, keras, litert, onnx or savedmodel"
    )
    export.add_argument("--quantize", help="of litert: float16, or int8, the fastest")
    export.add_argument("--room", type=int, help="of litert: tokens of a text; fewer are faster")
    export.add_argument("--batch-size", type=int, default=1, help="texts at once, of litert")
    export.add_argument("--dtype", default="float32", help="of a bundle; float16 halves it")
    export.set_defaults(run=run_export)

    compare = commands.add_parser("compare", help="compare the settings and losses of runs")
    compare.add_argument("folders", nargs="+", help="two runs or more")
    compare.add_argument("--save", help="write the curves to this .png or .svg")
    compare.set_defaults(run=run_compare)

    add_clean(commands)
    add_plan(commands)
    launch = commands.add_parser(
        "launch",
        help="start a command as several processes that share its batches",
        description="Start a command as several processes of this machine: tfgpt launch "
        "--processes 2 -- train --corpus my_texts --steps 1000 --resume",
    )
    launch.add_argument("--processes", type=int, default=2, help="how many")
    launch.add_argument("--restarts", type=int, default=0, help="how often after a failure")
    launch.add_argument("command", nargs="+", help="of tfgpt, behind --")
    launch.set_defaults(run=run_launch)


def add_clean(commands):
    """Describe `tfgpt clean`."""
    clean = commands.add_parser(
        "clean",
        help="remove bad, repeated and personal parts of texts before a training",
        description="Write the texts of files that break no rule and are no near-duplicates, with "
        "personal data masked; say what was removed and why.",
    )
    clean.add_argument("files", nargs="+", help="files, folders or patterns, as for train")
    clean.add_argument("--out", required=True, help="file of JSON lines to write, for train")
    clean.add_argument("--report", help="write what was removed, with examples, to this .json")
    clean.add_argument(
        "--language", action="append", help="keep en, zh or other only; may come again"
    )
    for name in ("field", "encoding", "separator"):
        clean.add_argument(f"--{name}", help="as for train")
    clean.set_defaults(run=run_clean)


def run_clean(options):
    """Clean texts, with the options of `tfgpt clean`."""
    from tfgpt.safety.cleaning import clean_files, write_report

    report = clean_files(
        options.files,
        options.out,
        field=options.field,
        encoding=options.encoding or "utf-8",
        separator=options.separator,
        languages=options.language,
    )
    if options.report:
        write_report(report, options.report)
    print(report)


def add_plan(commands):
    """Describe `tfgpt plan`."""
    plan = commands.add_parser(
        "plan", help="what a training takes: weights, operations, memory, days, dollars"
    )
    for name, kind, meaning in PLAN_OPTIONS:
        plan.add_argument(f"--{name}", type=kind, help=meaning)
    plan.add_argument("--remat", action="store_true", help="run blocks again, to save memory")
    plan.set_defaults(run=run_plan)


def add_train(commands):
    """Describe `tfgpt train`: an option for each setting."""
    train = commands.add_parser(
        "train",
        help="train a GPT on texts of your own",
        description="Train a GPT on texts of your own. Every setting may also stand in a TOML "
        "file; all of them are written to OUT/config.toml.",
    )
    train.add_argument("--out", default="runs/mine", help="folder for all results")
    train.add_argument("--resume", action="store_true", help="go on with the run in --out")
    train.add_argument("--dry-run", action="store_true", help="say what would be done, and end")
    train.add_argument("--find-rate", action="store_true", help="look for a learning rate, and end")
    train.add_argument("--config", help="TOML file with settings, or the folder of a run")
    train.add_argument("--set", action="append", default=[], help="key=value; may come again")
    for entry in fields(settings().TrainSettings):
        describe(train, entry)
    train.set_defaults(run=run_train)


def describe(parser, entry):
    """Add the option of one setting; what is not given is None."""
    options = {"help": entry.metadata["help"], "dest": entry.name}
    if entry.default is not None and entry.default != ():
        shown = " ".join(entry.default) if isinstance(entry.default, tuple) else entry.default
        options["help"] += f" ({shown})"
    kind = str(getattr(entry.type, "__name__", entry.type)).split(" ")[0]
    if kind == "bool":
        options["action"] = argparse.BooleanOptionalAction
    elif kind.startswith("tuple"):
        options["nargs"] = "+"
    else:
        options["type"] = {"int": int, "float": float, "str": str}[kind]
    parser.add_argument("--" + entry.name.replace("_", "-"), **options)


def settings():
    """Load the table of settings without the package, which would take seconds."""
    return beside("tfgpt_settings", Path(__file__).parents[1] / "tasks" / "settings.py")


def finetuning():
    """Return the module with the columns of labelled texts."""
    from . import finetuning

    return finetuning


def beside(name, path):
    """Load a file as a module of its own."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def given_settings(options):
    """Return the settings of `tfgpt train`: the file, then the options, then --set."""
    table = settings()
    names = [entry.name for entry in fields(table.TrainSettings)]
    asked = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    found = table.read_settings(options.config) if options.config else {}
    for values in (asked, table.parse_assignments(options.set)):
        if values.keys() & set(table.LENGTHS):  # one length takes the place of another
            found = {name: value for name, value in found.items() if name not in table.LENGTHS}
        found |= values
    return found


def run_train(options):
    """Train, with the options of `tfgpt train`."""
    from tfgpt.tasks import pretrain

    given = given_settings(options)
    if options.find_rate:
        pretrain.find_rate(given, options.out)
        return
    pretrain.pretrain(given, options.out, resume=options.resume, dry_run=options.dry_run)


def run_evaluate(options):
    """Print scores, with the options of `tfgpt evaluate`."""
    if (Path(options.folder) / "task.json").exists():
        finetuning().evaluate_labels(options)
        return
    from tfgpt.tasks.run_reports import evaluate_run

    names = ("field", "encoding", "separator")
    asked = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    evaluate_run(options.folder, options.data, **asked)


def run_plot(options):
    """Draw, with the options of `tfgpt plot`."""
    from tfgpt.tasks.run_reports import plot_run

    plot_run(options.folder, options.prompt)


def run_export(options):
    """Write a model, with the options of `tfgpt export`."""
    from tfgpt.tasks.exporting import export_run

    export_run(
        options.folder,
        options.out,
        options.format,
        options.dtype,
        quantize=options.quantize,
        room=options.room,
        batch_size=options.batch_size,
    )


def run_compare(options):
    """Print a table, with the options of `tfgpt compare`."""
    from tfgpt.tasks.run_reports import compare_runs

    print(compare_runs(options.folders, options.save))


def run_plan(options):
    """Print a plan, with the options of `tfgpt plan`."""
    from tfgpt.tasks.planning import plan

    asked = {}
    for name, _, _ in PLAN_OPTIONS:
        name = name.replace("-", "_")
        value = getattr(options, name)
        if value is not None:
            asked[PLAN_NAMES.get(name, name)] = value
    print(plan(**asked, remat=options.remat))


def run_launch(options):
    """Start processes, with the options of `tfgpt launch`; return their exit code."""
    from tfgpt.tasks.launch import launch

    from . import make_parser

    make_parser().parse_args(options.command)  # a wrong one is told once
    command = [sys.executable, "-m", "tfgpt", *options.command]
    return launch(command, options.processes, restarts=options.restarts)
