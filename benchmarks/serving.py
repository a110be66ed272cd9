"""Measure the server under load: latency and tokens per second at 1, 4 and 16 clients.

python -m benchmarks.serving                   # size S of the benchmarks, untrained
python -m benchmarks.serving --size M --tokens 64 --requests 8

The server is a process of its own on the same machine. Each client sends its next request when
the last one has been answered: 16 prompt tokens, as many new ones as --tokens says, drawn at
temperature 1. Half of the requests are streams, whose first piece is timed too.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine

COLUMNS = ("clients", "requests", "tokens_per_s", "p50_s", "p95_s", "first_p50_s", "first_p95_s")
PROMPT = "to be or not to "  # 16 tokens of characters


def main(arguments=None):
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--size", default="S", help="S, M or G of benchmarks/sizes.py")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=12, help="of each client")
    parser.add_argument("--tokens", type=int, default=48, help="new tokens of each request")
    parser.add_argument("--json", default="runs/serving.json", help="file for the results")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(options.size, Path(folder) / "model")
        process, url = start_server(Path(folder) / "model")
        try:
            print("  ".join(f"{name:>12s}" for name in COLUMNS))
            for clients in options.clients:
                rows.append(measure(url, clients, options.requests, options.tokens))
                print("  ".join(f"{rows[-1][name]:12.4g}" for name in COLUMNS), flush=True)
        finally:
            process.terminate()
            process.wait()
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    asked = {name: getattr(options, name) for name in ("size", "requests", "tokens")}
    content = {"machine": describe_machine(), **asked, "results": rows}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def write_model(size, folder):
    """Write an untrained GPT of a size, with a token for each of so many characters."""
    from benchmarks.sizes import SIZES
    from tfgpt import GPT, CharTokenizer, LanguageModel

    shape = SIZES[size]
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz .,"))
    letters += [chr(0x4E00 + place) for place in range(shape.vocab_size - len(letters) - 1)]
    tokenizer = CharTokenizer.train("".join(letters))
    model = GPT(
        tokenizer.vocab_size,
        shape.length,
        num_layers=shape.num_layers,
        d_model=shape.d_model,
        num_heads=shape.num_heads,
        pad_id=tokenizer.pad_id,
    )
    LanguageModel(model, tokenizer).save(folder)


def start_server(folder):
    """Start `tfgpt serve`; wait until it listens: the process and its address."""
    command = [sys.executable, "-m", "tfgpt", "serve", "--model", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    found = re.search(r"http://127.0.0.1:\d+", process.stdout.readline())
    if found is None:
        raise RuntimeError(f"the server did not start: exit code {process.wait()}")
    return process, found[0]


def measure(url, clients, requests, tokens):
    """Let clients send requests, each one after the other; return one row of the table."""
    seconds, firsts = [], []
    threads = [
        threading.Thread(target=ask, args=(url, requests, tokens, seconds, firsts))
        for _ in range(clients)
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = time.perf_counter() - start
    if len(seconds) != clients * requests:
        raise RuntimeError(f"{clients * requests - len(seconds)} requests were not answered.")
    p50, p95 = np.percentile(seconds, [50, 95])
    first_p50, first_p95 = np.percentile(firsts, [50, 95])
    speed = len(seconds) * tokens / total
    values = (clients, len(seconds), speed, p50, p95, first_p50, first_p95)
    return dict(zip(COLUMNS, map(float, values), strict=True))


def ask(url, requests, tokens, seconds, firsts):
    """Be one client."""
    import httpx

    with httpx.Client(base_url=url, timeout=600) as client:
        for number in range(requests):
            body = {"prompt": PROMPT, "max_tokens": tokens, "stream": number % 2 == 0}
            start, first = time.perf_counter(), None
            with client.stream("POST", "/v1/completions", json=body) as response:
                response.raise_for_status()
                for _ in response.iter_raw():
                    first = first or time.perf_counter() - start
            seconds.append(time.perf_counter() - start)
            if body["stream"]:
                firsts.append(first)


if __name__ == "__main__":
    sys.exit(main())
