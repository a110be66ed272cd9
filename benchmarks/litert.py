"""Quality beside speed of exported files, for every setting of `quantize`.

python -m benchmarks.litert                     # some minutes on one core
python -m benchmarks.litert --models base_en    # without the untrained M

Quality: `base_en` reads held-out text token by token, and the sampler draws many times after one
prompt. Chi-square tests compare the draws with the probabilities of the file itself and with those
of the float32 model in Keras: a p below 0.01 says that they differ. M is untrained, so only its
speed is measured. Speed: one thread, batch 1, room 256; the files take turns, medians of all
rounds. A cold start is a process of its own, from the start of Python to 20 tokens.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine

FILES = {"float32": None, "float16": "float16", "int8": "int8"}
MODELS = ("base_en", "M")
PROMPT = "In the morning the"
LONG_PROMPT, SHORT_PROMPT, NEW = 200, 16, 100  # tokens
SLIDING = 8  # tokens that are written when the text fills the room
LEAST = 5  # draws that are expected in each class of a chi-square test
QUALITY = ("MB", "perplexity", "ratio", "same likeliest", "p own", "p float")
SPEED = ("MB", "prompt tokens/s", "first token ms", "ms per token", "ms past the room", "cold s")
COLD = """
import sys
from tfgpt import LiteModel
assert LiteModel.load(sys.argv[1]).generate_ids([[5, 6, 7]], 20, seed=0).shape == (1, 23)
assert "keras" not in sys.modules and "tensorflow" not in sys.modules
"""


def main(arguments=None):
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.litert", description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--texts", type=int, default=24, help="held-out texts of 256 tokens")
    parser.add_argument("--draws", type=int, default=4000, help="of each chi-square test")
    parser.add_argument("--rounds", type=int, default=5, help="of the times")
    parser.add_argument("--json", default="runs/litert.json", help="file for the results")
    options = parser.parse_args(arguments)
    content = {"machine": describe_machine(), "quality": {}, "speed": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            model, tokenizer, texts = make_model(name, options.texts)
            paths = export_files(model, tokenizer, Path(folder), name)
            if texts is not None:
                prompt = tokenizer.encode(PROMPT)
                content["quality"] |= measure_quality(model, paths, texts, prompt, options.draws)
            content["speed"] |= measure_speed(paths, model.vocab_size, options.rounds)
    for kind, columns in (("quality", QUALITY), ("speed", SPEED)):
        print_table(content[kind], columns)
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def make_model(name, count):
    """Return a model, its tokenizer, and held-out texts (count, T); M has neither of the two."""
    if name == "M":
        from benchmarks import tfgpt_worker
        from benchmarks.sizes import SIZES

        return tfgpt_worker.make_model(SIZES["M"]), None, None
    from tfgpt.bundle import load_bundle
    from tfgpt.data import DATA_FOLDER
    from tfgpt.tasks.base import documents_of, join_ids, split_documents

    model, tokenizer = load_bundle(DATA_FOLDER / "checkpoints" / name)
    _, held_out = split_documents(documents_of(name))
    token_ids = join_ids(tokenizer, held_out)[: count * model.context_length]
    return model, tokenizer, token_ids.reshape(count, model.context_length)


def export_files(model, tokenizer, folder, name):
    """Write the file of each setting: dict of names to paths."""
    from tfgpt import export_litert

    return {
        f"{name} {kind}": export_litert(model, tokenizer, folder / f"{name}.{kind}", quantize)
        for kind, quantize in FILES.items()
    }


def measure_quality(model, paths, texts, prompt, draws):
    """Compare files with the model: dict of names to rows of the table.

    Args:
        model: GPT.
        paths: dict of names to files.
        texts: int array (B, T).
        prompt: int array (P,).
        draws: int, tokens that are drawn after the prompt.
    """
    from tfgpt import LiteModel

    logits = np.concatenate([np.array(model(text[None, :-1])) for text in texts])  # (B, T - 1, V)
    losses, likeliest = losses_of(logits, texts[:, 1:]), logits.argmax(-1)
    expected = np.array(model(prompt[None]))[0, -1]
    rows = {}
    for name, path in paths.items():
        lite = LiteModel.load(path, num_threads=1)
        read_losses, read_likeliest = read_texts(lite.program, texts)
        drawn = lite.generate_ids([prompt], 1, num_samples=draws, seed=0)[:, -1]
        own = lite.program.next_logits([prompt.tolist()])[0]
        hidden = np.arange(lite.vocab_size) == lite.pad_id
        rows[name] = {
            "MB": megabytes(path),
            "perplexity": float(np.exp(read_losses.mean())),
            "ratio": float(np.exp(read_losses.mean() - losses.mean())),
            "same likeliest": float((read_likeliest == likeliest).mean()),
            "p own": chi_square(drawn, np.where(hidden, -np.inf, own)),
            "p float": chi_square(drawn, np.where(hidden, -np.inf, expected)),
        }
    return rows


def losses_of(logits, targets):
    """Return the cross-entropies in nats: (..., V) and (...,) -> (...,)."""
    logits = logits.astype("float64")
    highest = logits.max(-1, keepdims=True)
    totals = np.log(np.exp(logits - highest).sum(-1)) + highest[..., 0]
    return totals - np.take_along_axis(logits, targets[..., None], -1)[..., 0]


def read_texts(program, texts):
    """Read texts (B, T) token by token: losses and likeliest next tokens, both (B, T - 1)."""
    losses, likeliest = [], []
    for text in texts:
        read = [[]]  # the same list grows, so nothing is read again
        for token, target in zip(text[:-1].tolist(), text[1:], strict=True):
            read[0].append(token)
            logits = program.next_logits(read)[0]
            losses.append(losses_of(logits, target))
            likeliest.append(logits.argmax())
    shape = len(texts), -1
    return np.reshape(losses, shape), np.reshape(likeliest, shape)


def chi_square(drawn, logits):
    """Return the p of Pearson's test that tokens (N,) were drawn from logits (V,).

    Tokens that are expected fewer than LEAST times make one class together.
    """
    from scipy.stats import chi2

    expected = np.exp(logits.astype("float64") - logits.max())
    expected *= len(drawn) / expected.sum()
    counts = np.bincount(drawn, minlength=len(logits))
    is_rare = expected < LEAST
    expected, counts = (np.append(x[~is_rare], x[is_rare].sum()) for x in (expected, counts))
    if expected[-1] == 0:
        if counts[-1]:
            return 0.0
        expected, counts = expected[:-1], counts[:-1]
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(chi2.sf(statistic, len(counts) - 1))


def measure_speed(paths, vocab_size, rounds):
    """Measure files in turn: dict of names to rows of the table, medians over the rounds."""
    from tfgpt import LiteModel

    lites = {name: LiteModel.load(path, num_threads=1) for name, path in paths.items()}
    times = {name: [] for name in paths}
    for _ in range(rounds + 1):
        for name, lite in lites.items():
            times[name].append([*measure_once(lite, vocab_size), cold_start(paths[name])])
    rows = {}
    for name, measured in times.items():
        first, each, sliding, cold = np.median(measured[1:], axis=0)  # the first round warms up
        values = megabytes(paths[name]), LONG_PROMPT / first, 1e3 * first, 1e3 * each, 1e3 * sliding
        rows[name] = dict(zip(SPEED, map(float, (*values, cold)), strict=True))
    return rows


def measure_once(lite, vocab_size):
    """Time the first token after a long prompt, each token after a short one, and past the room."""
    token_ids = np.random.default_rng(0).integers(1, vocab_size, lite.program.facts.room)

    def seconds(length, new_tokens):
        start = time.perf_counter()
        lite.generate_ids([token_ids[:length]], new_tokens, temperature=0)
        return time.perf_counter() - start

    def each(length, new_tokens):
        first = seconds(length, 1)
        return (seconds(length, 1 + new_tokens) - first) / new_tokens

    room = len(token_ids)
    return seconds(LONG_PROMPT, 1), each(SHORT_PROMPT, NEW), each(room, SLIDING)


def cold_start(path):
    """Time a new process that loads a file and writes 20 tokens."""
    start = time.perf_counter()
    environment = {**os.environ, "TFGPT_LITE": "1"}
    subprocess.run([sys.executable, "-c", COLD, str(path)], env=environment, check=True)
    return time.perf_counter() - start


def megabytes(path):
    """Return the size of a file."""
    return path.stat().st_size / 1e6


def print_table(rows, columns):
    """Print rows as Markdown."""
    if not rows:
        return
    print(f"\n| file | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row[column]:,.5g}' for column in columns)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
