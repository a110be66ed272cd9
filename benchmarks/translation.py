"""Train a translator with tfgpt and with KerasHub for the same minutes; compare BLEU.

    python -m benchmarks.translation --corpus verses_en-es --minutes 5

What is the same on all sides:

- corpus, split, byte-pair tokenizer, and the very same batches in the same order;
- layers, width, heads, dff, dropout, label smoothing, pre-norm with a last norm, one
  table for source, target and output, and so almost the same number of weights;
- the training step: `tfgpt.make_train_step`, gradients clipped to norm 1. For KerasHub
  it is as fast as `fit`: 655 and 667 ms of CPU time per step of the default sizes;
- the minutes of training. Tracing comes before and is not counted: every batch shape
  runs once, then weights and optimizer get their first values back;
- the procedure: 20 steps of a model that is thrown away give the ms per step. They
  give the number of steps that fit into the minutes, which a learning-rate schedule
  must know. A fresh model then trains until these steps are done or the minutes are
  over, whichever comes first; both numbers of steps are printed;
- the test pairs, chapters that nobody has seen, and greedy decoding.

Each side runs in a process of its own, one after the other. With more rounds every
second round runs in the opposite order, and each round has its own seed.

What differs is what each library brings. tfgpt has sinusoidal positions and trains with
its Muon. KerasHub has TransformerEncoder, TransformerDecoder and the learned positions
of TokenAndPositionEmbedding. Its English-to-Spanish example has no padding masks,
post-norm and RMSprop; here it has masks, pre-norm and a warm-up. "kerashub-adam" is
Adam. "kerashub-muon" is tfgpt's Muon, but Keras gives Muon matrices only: KerasHub's
attention kernels have three axes and stay with Adam. Try several values of --adam-rate
for the best of KerasHub: 0.004 was better than 0.001 and 0.002 in short trials.

tfgpt is also scored with 4 beams. KerasHub is not: its BeamSampler has no length
penalty and goes on adding probabilities after the end token. Its greedy decoding here
reads all tokens again for each new one, so it takes minutes; that time does not count.

The loss is plain cross-entropy on the validation chapters, in nats per token. Peak
memory is that of the process up to the end of training.
"""

import argparse
import importlib.util
import json
import math
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean

import keras
import numpy as np
from keras import ops

from benchmarks.machine import cpu_name
from tfgpt import BPETokenizer, evaluate, make_train_step, set_seed
from tfgpt.data.pairs import (
    Pairs,
    encode_pairs,
    load_pairs,
    pad_rows,
    pair_batches,
    pair_windows,
    short_pairs,
    split_pairs,
)
from tfgpt.schedules import WarmupLinearDecay, make_muon
from tfgpt.tasks.scores import align_columns, bleu, chrf
from tfgpt.tasks.translation import SMALL, TranslationSettings, make_model
from tfgpt.tasks.translator import Translator
from tfgpt.validation import check_positive

SIDES = ("tfgpt", "kerashub-adam", "kerashub-muon")
REHEARSAL_STEPS = 20
# Name in the JSON file, title and format in the table.
COLUMNS = (
    ("side", "side", "{}"),
    ("round", "round", "{}"),
    ("steps", "steps", "{:,}"),
    ("planned_steps", "planned", "{:,}"),
    ("first_step_s", "first step s", "{:.1f}"),
    ("ms_per_step", "ms/step", "{:.0f}"),
    ("weights", "weights", "{:,}"),
    ("peak_mb", "peak MB", "{:,.0f}"),
    ("val_loss", "val loss", "{:.3f}"),
    ("bleu", "BLEU", "{:.1f}"),
    ("chrf", "chrF2", "{:.1f}"),
    ("bleu_beam_4", "BLEU beam 4", "{:.1f}"),
    ("chrf_beam_4", "chrF2 beam 4", "{:.1f}"),
)


@dataclass(frozen=True)
class Task:
    """What every side gets.

    Args:
        settings: TranslationSettings; its number of steps is not used.
        tokenizer_file: str, a saved BPETokenizer.
        training: Pairs.
        validation: Pairs.
        test: Pairs.
        minutes: float > 0, training time.
        adam_rate: float > 0, the highest rate of Adam on the KerasHub sides.
    """

    settings: TranslationSettings
    tokenizer_file: str
    training: Pairs
    validation: Pairs
    test: Pairs
    minutes: float
    adam_rate: float

    @property
    def shapes(self):
        """The arguments of `pair_batches` and `pair_windows` that fix the shapes."""
        return self.settings.buckets, self.settings.batch_tokens


def main(arguments=None):
    """Run the command line; return the exit code, 2 after wrong input."""
    options = make_parser().parse_args(arguments)
    try:
        check_options(options)
        with tempfile.TemporaryDirectory() as folder:
            task = prepare_task(options, Path(folder) / "tokenizer.json")
            results = run_rounds(task, options.sides, options.rounds)
        report = make_report(options, task, results)
        print(format_report(report))
        if options.json:
            text = json.dumps(report, indent=1, ensure_ascii=False)
            Path(options.json).write_text(text + "\n", encoding="utf-8")
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"benchmarks.translation: {error}", file=sys.stderr)
        return 2
    return 0


def make_parser():
    """Describe the options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.translation",
        description="Train a translator with tfgpt and with KerasHub; compare BLEU.",
    )
    parser.add_argument(
        "--corpus",
        default="verses_en-es",
        help="verses_en-es, verses_kjv-modern, or a TSV file: source, tab, translation",
    )
    parser.add_argument("--minutes", type=float, default=5, help="training time of each side")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="default: all")
    parser.add_argument("--rounds", type=int, default=1, help="how often each side is trained")
    parser.add_argument(
        "--adam-rate", type=float, default=4e-3, help="highest rate of Adam, KerasHub sides only"
    )
    parser.add_argument("--small", action="store_true", help="small sizes")
    parser.add_argument("--test-pairs", type=int, help="use only the first test pairs")
    parser.add_argument("--json", help="also write the results to this file")
    return parser


def check_options(options):
    """Raise unless the options are in range and what the sides need is installed."""
    for name in ("minutes", "adam_rate"):
        value = getattr(options, name)
        if not 0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} must be > 0 and finite, got {value}.")
    check_positive("--rounds", options.rounds)
    if options.test_pairs is not None:
        check_positive("--test-pairs", options.test_pairs)
    if options.json and not Path(options.json).absolute().parent.is_dir():
        raise FileNotFoundError(f"--json must be in a folder that exists, got {options.json!r}.")
    if set(options.sides) - {"tfgpt"} and importlib.util.find_spec("keras_hub") is None:
        raise ImportError(
            'the KerasHub sides need keras_hub: pip install "keras-hub>=0.32,<0.33" '
            "(or choose --sides tfgpt)"
        )


def prepare_task(options, tokenizer_file):
    """Read and split the corpus and train the tokenizer, once for all sides."""
    settings = SMALL if options.small else TranslationSettings()
    parts = split_pairs(load_pairs(options.corpus))
    texts = [f" {text}" for text in parts[0].sources + parts[0].targets]
    tokenizer = BPETokenizer.train(texts, settings.vocab_size)
    tokenizer.save(tokenizer_file)
    training, validation, test = (
        short_pairs(part, tokenizer, settings.buckets[-1]) for part in parts
    )
    if options.test_pairs is not None:
        test = test.select([index < options.test_pairs for index in range(len(test))])
    return Task(
        settings,
        str(tokenizer_file),
        training,
        validation,
        test,
        options.minutes,
        options.adam_rate,
    )


def run_rounds(task, sides, rounds):
    """Run all sides one after the other, every second round in the opposite order."""
    results = []
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            print(f"round {number + 1}, {side}: {task.minutes:g} minutes of training", flush=True)
            # A new process, so that no side finds memory or programs of another.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                result = pool.submit(run_side, side, task, seed=number).result()
            results.append({"side": side, "round": number + 1, **result})
    return results


def run_side(side, task, seed):
    """Train and score one side.

    Args:
        side: one of SIDES.
        task: Task.
        seed: int >= 0, seeds initial weights, dropout and the order of batches.

    Returns:
        dict of what COLUMNS names, and "test_pairs", their number.
    """
    tokenizer = BPETokenizer.load(task.tokenizer_file)
    batches = pair_batches(encode_pairs(task.training, tokenizer), *task.shapes, seed)
    windows = pair_windows(encode_pairs(task.validation, tokenizer), *task.shapes)
    first_step, pace = rehearse(side, task, tokenizer.vocab_size, batches, windows, seed)
    planned = max(int(60 * task.minutes / pace), 1)
    model, step, _ = make_ready(side, task, tokenizer.vocab_size, planned, windows, seed)
    steps, seconds = train_for(step, batches, 60 * task.minutes, planned)
    result = {
        "steps": steps,
        "planned_steps": planned,
        "first_step_s": first_step,
        "ms_per_step": 1000 * seconds / steps,
        "weights": model.count_params(),
        "peak_mb": peak_memory(),
        "val_loss": evaluate(model, windows)["loss"],
        "test_pairs": len(task.test),
    }
    if side == "tfgpt":
        translator = Translator(model, tokenizer)
        result |= score(translator.translate(task.test.sources), task.test, "_beam_4")
    else:
        translator = KerasHubTranslator(model, tokenizer, task.settings.buckets[-1])
    return result | score(translator.translate(task.test.sources, beam_size=1), task.test)


def rehearse(side, task, vocab_size, batches, windows, seed):
    """Train a model that is thrown away: return the seconds of its first and later steps."""
    _, step, first_step = make_ready(side, task, vocab_size, REHEARSAL_STEPS, windows, seed)
    steps, seconds = train_for(step, batches, math.inf, REHEARSAL_STEPS)
    return first_step, seconds / steps


def make_ready(side, task, vocab_size, steps, windows, seed):
    """Make an untrained model whose training step is traced for every batch shape.

    Returns:
        model, the step of `make_train_step`, and the seconds of its first call.
    """
    set_seed(seed)
    model, optimizer = make_learner(side, task.settings, vocab_size, steps, task.adam_rate)
    step = make_train_step(model, optimizer, label_smoothing=task.settings.label_smoothing)
    variables = [*model.variables, *optimizer.variables]
    first_values = [ops.convert_to_numpy(variable) for variable in variables]
    seconds = []
    for batch in {batch[1].shape: batch for batch in windows}.values():
        start = time.perf_counter()
        float(step(batch)["loss"])
        seconds.append(time.perf_counter() - start)
    for variable, value in zip(variables, first_values, strict=True):
        variable.assign(value)
    return model, step, seconds[0]


def make_learner(side, settings, vocab_size, steps, adam_rate):
    """Make the untrained model of a side, and its optimizer for so many steps."""
    if side == "tfgpt":
        return make_model(settings, vocab_size), make_muon(steps)
    model = make_peer(settings, vocab_size)
    if side == "kerashub-muon":
        return model, make_muon(steps, other_rate=adam_rate)
    schedule = WarmupLinearDecay(steps, peak=adam_rate)
    return model, keras.optimizers.Adam(schedule, beta_2=0.98)  # as in section 5.3 of the paper


def make_peer(settings, vocab_size):
    """Make the untrained encoder-decoder of KerasHub layers.

    Args:
        settings: TranslationSettings.
        vocab_size: int, V.

    Returns:
        keras.Model; {"source": ids (B, S), "target": ids (B, T)} -> logits (B, T, V).
    """
    from keras_hub import layers

    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    # Every later layer learns from mask_zero where the padding is. Keras warns that inner
    # layers drop the mask; the outer ones have read it by then.
    embedding = layers.TokenAndPositionEmbedding(
        vocab_size, settings.buckets[-1], settings.d_model, tie_weights=True, mask_zero=True
    )
    options = {
        "intermediate_dim": 4 * settings.d_model,
        "num_heads": settings.num_heads,
        "dropout": settings.dropout,
        "normalize_first": True,
    }
    x = keras.layers.Dropout(settings.dropout)(embedding(source))
    for _ in range(settings.num_layers):
        x = layers.TransformerEncoder(**options)(x)
    encoder_output = keras.layers.LayerNormalization()(x)
    x = keras.layers.Dropout(settings.dropout)(embedding(target))
    for _ in range(settings.num_layers):
        x = layers.TransformerDecoder(**options)(x, encoder_output)
    x = keras.layers.LayerNormalization()(x)
    logits = embedding.token_embedding(x, reverse=True)
    return keras.Model({"source": source, "target": target}, logits)


def train_for(step, batches, seconds, steps):
    """Train until the steps are done or the seconds over; return both as they were."""
    batches = iter(batches)
    start = time.perf_counter()
    done, elapsed = 0, 0.0
    while done < steps and elapsed < seconds:
        float(step(next(batches))["loss"])  # waits until the device is done
        done, elapsed = done + 1, time.perf_counter() - start
    return done, elapsed


def peak_memory():
    """Return the most memory that this process has used so far, in MB; None on Windows.

    On Linux it counts from the peak of the process that started this one, which trains
    nothing and stays far below.
    """
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class KerasHubTranslator(Translator):
    """The texts in and out of `Translator`, with KerasHub's greedy decoding.

    Args:
        model: what `make_peer` returns.
        tokenizer: BPETokenizer.
        max_length: int, the longest source or target.
    """

    def __init__(self, model, tokenizer, max_length):
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.decode = make_greedy(model, tokenizer, max_length)

    def search(self, sources, beam_size, length_penalty):
        """Translate id arrays of any lengths: list of (S,) -> int32 (B, max_length)."""
        if beam_size != 1:
            raise ValueError(f"beam_size must be 1, got {beam_size}.")
        source = pad_rows(sources, len(sources), max(map(len, sources)))
        token_ids = ops.convert_to_numpy(self.decode(source))
        is_end = token_ids == self.tokenizer.end_id
        ended_before = np.cumsum(is_end, axis=1) - is_end > 0
        return np.where(ended_before, self.tokenizer.pad_id, token_ids)


def make_greedy(model, tokenizer, max_length):
    """Compile KerasHub's greedy decoding: int32 (B, S) -> (B, max_length)."""
    import keras_hub
    import tensorflow as tf

    sampler = keras_hub.samplers.GreedySampler()

    def decode(source):
        def next_logits(prompt, cache, index):
            # The last place of the prompt is only written, never read.
            inputs = {"source": source, "target": prompt[:, :-1]}
            logits = model(inputs, training=False)[:, index - 1]
            # Padding is no word; tfgpt's search does not choose it either.
            is_padding = tf.one_hot(tokenizer.pad_id, logits.shape[-1])
            return logits - 1e9 * is_padding, None, cache

        starts = tf.fill((tf.shape(source)[0], 1), tokenizer.start_id)
        prompt = tf.pad(starts, [[0, 0], [0, max_length]], constant_values=tokenizer.pad_id)
        return sampler(next_logits, prompt, stop_token_ids=[tokenizer.end_id], index=1)[:, 1:]

    signature = [tf.TensorSpec((None, None), tf.int32)]
    return tf.function(decode, input_signature=signature)


def score(hypotheses, test, suffix=""):
    """Score translations of the test pairs: BLEU and chrF."""
    return {
        f"bleu{suffix}": bleu(hypotheses, test.targets).value,
        f"chrf{suffix}": chrf(hypotheses, test.targets).value,
    }


def make_report(options, task, results):
    """Put the results, the copy baseline and what they depend on into one dict."""
    copied = task.test.sources, task.test.targets
    return {
        "corpus": options.corpus,
        "minutes": options.minutes,
        "adam_rate": options.adam_rate,
        "settings": {name: x for name, x in asdict(task.settings).items() if name != "steps"},
        "test_pairs": len(task.test),
        "results": results,
        "copy": score(task.test.sources, task.test),
        "bleu_ratios": bleu_ratios(results),
        "signatures": [f"{x.name}|{x.signature}" for x in (bleu(*copied), chrf(*copied))],
        "versions": {name: version(name) for name in packages(options.sides)},
        "python": platform.python_version(),
        "cpu": f"{cpu_name()}, {os.cpu_count()} cores",
    }


def bleu_ratios(results):
    """Divide tfgpt's mean greedy BLEU by that of each other side; leave out zeros."""
    values = {}
    for result in results:
        values.setdefault(result["side"], []).append(result["bleu"])
    means = {side: fmean(side_values) for side, side_values in values.items()}
    ours = means.pop("tfgpt", None)
    return {side: ours / mean for side, mean in means.items() if ours is not None and mean}


def packages(sides):
    """Name the packages whose versions count for these sides."""
    peer = ["keras-hub"] if set(sides) - {"tfgpt"} else []
    return ["tfgpt", "keras", "tensorflow", *peer, "sacrebleu"]


def format_report(report):
    """Write a report as text: a table, then what the numbers depend on."""
    rows = [*report["results"], {"side": "copy the source", **report["copy"]}]
    lines = [[title for _, title, _ in COLUMNS]]
    lines += [[format_cell(row.get(name), form) for name, _, form in COLUMNS] for row in rows]
    ratios = [
        f"BLEU of tfgpt / BLEU of {side}, both greedy: {ratio:.2f}"
        for side, ratio in report["bleu_ratios"].items()
    ]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    return "\n".join(
        [
            f"\n{report['corpus']}, {report['minutes']:g} minutes of training on each side, "
            f"{report['test_pairs']:,} test pairs of unseen chapters",
            *align_columns(lines),
            *ratios,
            f"signatures: {'  '.join(report['signatures'])}",
            f"{versions}, Python {report['python']}",
            report["cpu"],
        ]
    )


def format_cell(value, form):
    """Format one number or name of the table; "-" stands for what was not measured."""
    return "-" if value is None else form.format(value)


if __name__ == "__main__":
    sys.exit(main())
