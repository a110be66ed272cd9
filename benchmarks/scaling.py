"""Measure how the loss falls with size and tokens, and which learning rate a width needs.

    python -m benchmarks.scaling            # all parts; about 15 minutes on one free core
    python -m benchmarks.scaling sizes      # 5 sizes x 3 numbers of tokens, then the law
    python -m benchmarks.scaling next       # the prediction for the next size, then its runs
    python -m benchmarks.scaling widths     # 3 widths x 8 learning rates x 2 rules
    python -m benchmarks.scaling figures    # both figures of what was measured

The results file is written after every run; a run that it holds is not repeated, so that a
sweep goes on where it was interrupted. One thread computes; seconds are those of the CPU, so
that other programs count little. The text is Shakespeare, a token is a character, the loss is
that of the whole last tenth of the text, in nats per character.
"""

import argparse
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import keras

from benchmarks.machine import describe_machine
from tfgpt import GPT, CharTokenizer, evaluate, make_train_step, set_seed
from tfgpt.data import load_text, random_batches, split_held_out, window_batches
from tfgpt.plotting import plot_best_rates, plot_scaling_law
from tfgpt.scaling import CONSTANTS, fit_scaling_law
from tfgpt.schedules import WarmupLinearDecay, make_muon
from tfgpt.training import make_evaluation_step
from tfgpt.widths import WidthAdam

RESULTS = Path(__file__).parent / "results" / "scaling.json"
PARTS = ("sizes", "next", "widths", "figures")
CONTEXT, HEAD_DIM = 64, 16
MATRIX_RATE = 0.03  # the highest rate of Muon, for all sizes
# The law: depth, widths, rows of a batch, and lengths of the training in tokens.
LAYERS, WIDTHS, NEXT_WIDTH, BATCH = 4, (16, 32, 48, 64, 96), 128, 16
TOKENS = (150_000, 300_000, 600_000)
# The best rates: depth, widths, the width whose rates the rule keeps, rows of a batch, steps.
RATE_LAYERS, RATE_WIDTHS, BASE_WIDTH, RATE_BATCH, RATE_STEPS = 2, (16, 64, 192), 64, 8, 200
RATES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)
RULES = ("one rate", "rate / width")


def main(arguments=None):
    """Run the command line; return the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"part must be one of {', '.join(PARTS)}, got {part!r}.")
    use_one_thread()
    report = load_report(options.json)
    corpus = load_corpus()
    steps = {"sizes": run_sizes, "next": run_next, "widths": run_widths, "figures": draw}
    for part in options.parts or PARTS:
        steps[part](report, corpus, options.json)
    return 0


def make_parser():
    """Describe the options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; default: all"
    )
    parser.add_argument("--json", type=Path, default=RESULTS, help="file for all results")
    return parser


def use_one_thread():
    """Let TensorFlow compute with one thread."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def load_report(path):
    """Read the results so far, or begin new ones with what they depend on."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    libraries = ("keras", "tensorflow", "numpy", "scipy")
    return {
        "machine": describe_machine() | {"threads": 1},
        "python": platform.python_version(),
        "versions": {name: version(name) for name in libraries},
        "recipe": {
            "corpus": "shakespeare, characters",
            "context_length": CONTEXT,
            "batch_size": BATCH,
            "positions": "rotary",
            "head_dim": HEAD_DIM,
            "sizes": f"{LAYERS} layers, make_muon(steps), the rate falls to 0 at the last token",
            "widths": f"{RATE_LAYERS} layers, Adam, {RATE_STEPS} steps, no tied embeddings",
            "parameters": "all weights without the embedding",
        },
        "runs": [],
        "next_runs": [],
        "width_runs": [],
    }


def save_report(report, path):
    """Write the results at once: an interrupted write leaves the former file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(new, path)


def load_corpus():
    """Return the number of characters, training ids and held-out ids."""
    text = load_text("shakespeare")
    tokenizer = CharTokenizer.train(text)
    return tokenizer.vocab_size, *split_held_out(tokenizer.encode(text))


def run_sizes(report, corpus, path):
    """Train all sizes for all numbers of tokens, then fit the law."""
    train_missing(report, "runs", WIDTHS, corpus, path)
    law = fit_law(report)
    report["law"] = {name: [getattr(law, name), *law.interval(name)] for name in CONSTANTS}
    save_report(report, path)
    for name, (value, low, high) in report["law"].items():
        show(f"{name}: {value:.3f} (95 %: {low:.3f} to {high:.3f})")


def fit_law(report):
    """Fit the scaling law to the runs of the sizes; the next size is never among them."""
    runs = report["runs"]
    return fit_scaling_law(
        *([run[key] for run in runs] for key in ("parameters", "tokens", "loss"))
    )


def run_next(report, corpus, path):
    """Write down what the law says about the next size, then train it and compare."""
    if "predictions" not in report:
        law = fit_law(report)
        parameters = count_parameters(make_model(NEXT_WIDTH, LAYERS, corpus))
        lengths = [count_steps(tokens) * BATCH * CONTEXT for tokens in TOKENS]
        report["predictions"] = [predict(law, parameters, tokens) for tokens in lengths]
        save_report(report, path)
    train_missing(report, "next_runs", (NEXT_WIDTH,), corpus, path)
    for row in report["predictions"]:
        (run,) = [run for run in report["next_runs"] if run["tokens"] == row["tokens"]]
        show(f"predicted: {row}, measured: {run['loss']}")


def predict(law, parameters, tokens):
    """Return the row of a prediction."""
    loss, (low, high) = law.predict(parameters, tokens)
    row = {"parameters": parameters, "tokens": tokens, "loss": loss, "low": low, "high": high}
    show(f"predicted: {row}")
    return row


def train_missing(report, key, widths, corpus, path):
    """Train what the results do not hold yet: every width for every number of tokens."""
    done = {(run["d_model"], run["tokens"]) for run in report[key]}
    for width in widths:
        lengths = [count_steps(tokens) for tokens in TOKENS]
        missing = [steps for steps in lengths if (width, steps * BATCH * CONTEXT) not in done]
        if not missing:
            continue
        set_seed(0)
        model = make_model(width, LAYERS, corpus)
        schedules = [WarmupLinearDecay(steps, MATRIX_RATE) for steps in missing]
        for result in train_each(model, make_constant_muon(), schedules, BATCH, corpus):
            report[key].append(describe_run(model, width, result))
            save_report(report, path)


def count_steps(tokens):
    """Return how many steps read about so many tokens."""
    return round(tokens / (BATCH * CONTEXT))


def make_constant_muon():
    """Make the optimizer of `make_muon` with a rate that can be set before each step."""
    config = make_muon(steps=1, matrix_rate=MATRIX_RATE).get_config()
    return keras.optimizers.Muon.from_config(config | {"learning_rate": MATRIX_RATE})


def describe_run(model, width, result):
    """Return the row of one run of a size."""
    row = {
        "layers": LAYERS,
        "d_model": width,
        "parameters": count_parameters(model),
        "tokens": result["steps"] * BATCH * CONTEXT,
        "loss": result["loss"],
        "cpu_seconds": result["cpu_seconds"],
    }
    show(f"sizes: {row}")
    return row


def make_model(width, layers, corpus, **options):
    """Make a GPT with heads of one size."""
    return GPT(corpus[0], CONTEXT, layers, width, width // HEAD_DIM, positions="rotary", **options)


def count_parameters(model):
    """Count the weights that are not of the embedding."""
    return model.count_params() - model.embedding.count_params()


def train_each(model, optimizer, schedules, batch_size, corpus):
    """Train from the same start with each schedule; the programs are compiled once.

    Args:
        model: GPT.
        optimizer: Keras optimizer whose rate is a number.
        schedules: list of WarmupLinearDecay.
        batch_size: int, rows of a batch.
        corpus: what `load_corpus` returns.

    Yields:
        dict after each training: "steps", "rate", "loss" (held out), "cpu_seconds".
    """
    step = make_train_step(model, optimizer, jit_compile=True)
    measure = make_evaluation_step(model, jit_compile=True)
    held_out = window_batches(corpus[2], CONTEXT, batch_size=64)
    variables = [*model.variables, *optimizer.variables]
    start = [keras.ops.convert_to_numpy(variable) for variable in variables]
    step(next(iter(random_batches(corpus[1], CONTEXT, batch_size))))  # compiles
    for schedule in schedules:
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        batches = random_batches(corpus[1], CONTEXT, batch_size).take(schedule.steps)
        started = time.process_time()
        for index, batch in enumerate(batches):
            optimizer.learning_rate.assign(schedule(index))
            step(batch)
        yield {
            "steps": schedule.steps,
            "rate": schedule.peak,
            "cpu_seconds": round(time.process_time() - started, 1),
            "loss": evaluate(model, held_out, step=measure)["loss"],
        }


def run_widths(report, corpus, path):
    """Train every width with every rate, with and without the width rule."""
    done = {(run["rule"], run["d_model"], run["rate"]) for run in report["width_runs"]}
    for width in RATE_WIDTHS:
        for rule in RULES:
            missing = [rate for rate in RATES if (rule, width, rate) not in done]
            for result in train_with_rates(rule, width, missing, corpus) if missing else ():
                report["width_runs"].append({"rule": rule, "d_model": width, **result})
                save_report(report, path)
                show(f"widths: {report['width_runs'][-1]}")
    report["best_rates"] = best_rates(report["width_runs"])
    save_report(report, path)
    show(f"best rates: {report['best_rates']}")


def train_with_rates(rule, width, rates, corpus):
    """Train one width with each rate; return the results as they come."""
    set_seed(0)
    model = make_model(width, RATE_LAYERS, corpus, tie_embeddings=False)
    optimizer = WidthAdam(width, BASE_WIDTH if rule == RULES[1] else width, beta_2=0.99)
    schedules = [WarmupLinearDecay(RATE_STEPS, rate) for rate in rates]
    return train_each(model, optimizer, schedules, RATE_BATCH, corpus)


def best_rates(runs):
    """Return the rate of the lowest loss of each rule and width."""
    best = {}
    for run in sorted(runs, key=lambda run: run["loss"], reverse=True):
        best.setdefault(run["rule"], {})[str(run["d_model"])] = run["rate"]
    return best


def draw(report, corpus, path):
    """Draw the law with its runs, and the rates of the widths, beside the results file."""
    runs = report["runs"] + report["next_runs"]
    columns = {key: [run[key] for run in runs] for key in ("parameters", "tokens", "loss")}
    plot_scaling_law(
        fit_law(report),
        *columns.values(),
        predicted=[False] * len(report["runs"]) + [True] * len(report["next_runs"]),
        save=path.with_name("scaling_law.png"),
    )
    plot_best_rates(width_curves(report["width_runs"]), save=path.with_name("width_rates.png"))


def width_curves(runs):
    """Group the runs of the widths: {rule: {width: (rates, losses)}}."""
    curves = {rule: {} for rule in RULES}
    for run in sorted(runs, key=lambda run: (run["d_model"], run["rate"])):
        rates, losses = curves[run["rule"]].setdefault(run["d_model"], ([], []))
        rates.append(run["rate"])
        losses.append(run["loss"])
    return curves


def show(text):
    """Show what was measured now."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
