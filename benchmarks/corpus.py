"""Measure how a training behaves as its corpus grows: encoding, memory, first step, later steps.

python -m benchmarks.corpus                       # 1, 100 and 2,000 MB, characters
python -m benchmarks.corpus --tokenizer bpe --megabytes 1 100

The corpus is Shakespeare, repeated. Each part is a process of its own: the first encodes the
text, the second opens what was encoded and trains. Linux only.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine

STEPS = 40
COLUMNS = ("megabytes", "tokens", "encode_s", "encode_mb", "open_s", "first_step_s", "step_ms")


def main(arguments=None):
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1, 100, 2000])
    parser.add_argument("--tokenizer", default="char", help="char or bpe")
    parser.add_argument("--json", default="runs/corpus.json", help="file for the results")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)  # of a worker: part and folder
    options = parser.parse_args(arguments)
    if options.work:
        print(json.dumps(PARTS[options.work[0]](Path(options.work[1]), options.tokenizer)))
        return 0
    rows = []
    print("  ".join(f"{name:>12s}" for name in (*COLUMNS, "train_mb")))
    for megabytes in options.megabytes:
        row = {"megabytes": megabytes, **measure(megabytes, options.tokenizer)}
        rows.append(row)
        print("  ".join(f"{row[name]:12,.1f}" for name in (*COLUMNS, "train_mb")), flush=True)
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": describe_machine(), "tokenizer": options.tokenizer, "results": rows}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(megabytes, tokenizer):
    """Make a corpus of a size, and run both parts on it."""
    from tfgpt.data.texts import load_text

    text = load_text("shakespeare")
    with tempfile.TemporaryDirectory() as folder:
        with open(Path(folder) / "text.txt", "w", encoding="utf-8") as file:
            for _ in range(max(megabytes * 10**6 // len(text), 1)):
                file.write(text)
        found = {}
        for part in PARTS:
            command = [sys.executable, "-m", "benchmarks.corpus", "--tokenizer", tokenizer]
            output = subprocess.check_output([*command, "--work", part, folder], text=True)
            found |= json.loads(output.splitlines()[-1])
        return found


def encode(folder, kind):
    """Encode the text: seconds, and by how many megabytes the process grew."""
    from tfgpt.data.corpus import prepare_corpus
    from tfgpt.tasks.own_tokenizer import make_tokenizer

    files = [folder / "text.txt"]
    reading = {"field": None, "encoding": "utf-8", "separator": "\n\n"}
    tokenizer = make_tokenizer(kind, 1024 if kind == "bpe" else None, files, reading)
    tokenizer.save(folder / "tokenizer.json")
    before, start = peak(), time.perf_counter()
    corpus = prepare_corpus(files, tokenizer, folder / "corpora", separator="\n\n")
    seconds = time.perf_counter() - start
    tokens = len(corpus.training) + len(corpus.held_out)
    return {"tokens": tokens, "encode_s": seconds, "encode_mb": peak() - before}


def train(folder, kind):
    """Open the encoded text and train: seconds until the first step, of a later one, memory."""
    from tfgpt import GPT, make_train_step
    from tfgpt.data.corpus import prepare_corpus
    from tfgpt.data.token_batches import TokenBatches
    from tfgpt.tokenizers import load_tokenizer

    before, start = peak(), time.perf_counter()
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    files = [folder / "text.txt"]
    corpus = prepare_corpus(files, tokenizer, folder / "corpora", separator="\n\n")
    opened = time.perf_counter() - start
    model = GPT(tokenizer.vocab_size, 64, num_layers=4, d_model=128, num_heads=4)
    step = make_train_step(model, "adamw", jit_compile=True)
    batches, times = TokenBatches(corpus.training, 64, 12).batches_from(0), []
    for _ in range(STEPS):
        begin = time.perf_counter()
        float(step(next(batches))["loss"])
        times.append(time.perf_counter() - begin)
    return {
        "open_s": opened,
        "first_step_s": opened + times[0],
        "step_ms": 1000 * float(np.median(times[5:])),
        "train_mb": peak() - before,
    }


def peak():
    """Return the peak memory of this process in megabytes, without mapped files."""
    status = Path("/proc/self/status").read_text()
    mapped = int(status.split("RssFile:")[1].split()[0])
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - mapped) / 1000


PARTS = {"encode": encode, "train": train}

if __name__ == "__main__":
    sys.exit(main())
