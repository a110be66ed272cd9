"""The program of a file: tokens in, logits out, with the caches of earlier tokens.

The program itself knows no state. It takes embeddings, what may be attended to, and the
caches; it gives logits and the keys and values of the new tokens, which are written into the
caches here. The caches lie where the program reads them, so that no token copies them.
Shape letters: B batch, T length, R room of the caches, D model width, H heads, K head width,
V vocabulary.
"""

import os
import threading
from pathlib import Path

import numpy as np

from tfgpt.machine.quiet import quiet_start
from tfgpt.validation import check_positive

MASKED_SCORE = -1e9  # as in tfgpt.masks, which needs Keras
SMALL_FILE = 4e6  # bytes


class Program:
    """What the programs of all files share: an interpreter, and views of its memory.

    Args:
        path: file of `export_litert`.
        facts: Facts of the file.
        arrays: dict of numpy arrays: table (V, D), table_scales (V, 1) if the table is int8,
            positions (R, D) unless they are rotary, scale () if embeddings have one.
        num_threads: int >= 1; None: see `choose_threads`.

    Raises:
        ImportError: if ai-edge-litert is not installed.
        ValueError: if num_threads is outside its range.
    """

    def __init__(self, path, facts, arrays, num_threads=None):
        self.facts = facts
        self.arrays = arrays
        threads = choose_threads(path) if num_threads is None else num_threads
        check_positive("num_threads", threads)
        with quiet_start():
            self.interpreter = load_interpreter()(model_path=str(path), num_threads=threads)
            self.interpreter.allocate_tensors()
        decode = self.interpreter.get_signature_runner("decode")
        self.inputs = self.views(decode.get_input_details())
        self.outputs = self.views(decode.get_output_details())
        self.caches = [name for name in self.inputs if name.startswith("cache")]
        for name in self.caches:
            self.inputs[name]().fill(0)
        self.lock = threading.Lock()

    def views(self, details):
        """Map names to functions that return a view of the memory of a tensor.

        A view must be gone when the program runs, so none is kept.
        """
        return {name: self.interpreter.tensor(detail["index"]) for name, detail in details.items()}

    def decode(self, **inputs):
        """Run the program on one token per row: logits (B, V); new_cache_... hold the rest."""
        for name, value in inputs.items():
            self.inputs[name]()[:] = value
        self.interpreter.invoke()
        return self.outputs["logits"]().copy()


class LiteProgram(Program):
    """Read texts with the program of a GPT; see `Program`."""

    def __init__(self, path, facts, arrays, num_threads=None):
        super().__init__(path, facts, arrays, num_threads)
        # Of each row: the text in the caches, how long it was, and how many tokens are there.
        self.texts, self.lengths = [None] * facts.batch_size, [0] * facts.batch_size
        self.read = np.zeros(facts.batch_size, dtype=int)

    def next_logits(self, texts):
        """Read what is new in some texts and score the tokens that may follow.

        Texts that are longer than the room slide: each token then reads the last R again.

        Args:
            texts: list of up to B lists of int, at least one each. A list that was in the same
                row before and has only grown is read on; another one from its beginning.

        Returns:
            float32 array (number of texts, V).
        """
        with self.lock:
            windows = [text[-self.facts.room :] for text in texts]
            for row, text in enumerate(texts):
                slides = len(text) > max(self.facts.room, self.lengths[row])
                if text is not self.texts[row] or slides:
                    self.read[row] = 0
                self.texts[row], self.lengths[row] = text, len(text)
            ends = np.array([len(window) - 1 for window in windows])
            while (self.read[: len(ends)] < ends).any():
                self.read_chunk(windows, ends)
            return self.read_last(windows)

    def read_chunk(self, windows, ends):
        """Bring up to T tokens of each text into the caches."""
        starts = self.read.copy()
        token_ids = np.zeros((self.facts.batch_size, self.facts.chunk), dtype=int)
        for row, (window, end) in enumerate(zip(windows, ends, strict=True)):
            new = window[starts[row] : min(starts[row] + self.facts.chunk, end)]
            token_ids[row, : len(new)] = new
            self.read[row] += len(new)
        caches = {name: self.inputs[name]() for name in self.caches}
        # A runner that is kept counts as a view.
        prefill = self.interpreter.get_signature_runner("prefill")
        found = prefill(**self.embed(token_ids, starts), **caches)
        for name, cache in caches.items():
            for row, (start, end) in enumerate(zip(starts, self.read, strict=True)):
                cache[row, :, start:end] = found[f"new_{name}"][row, :, : end - start]

    def read_last(self, windows):
        """Bring the last token of each text into the caches and score what may follow."""
        token_ids = np.zeros((self.facts.batch_size, 1), dtype=int)
        token_ids[: len(windows), 0] = [window[-1] for window in windows]
        starts = self.read.copy()
        starts[: len(windows)] = [len(window) - 1 for window in windows]
        logits = self.decode(**self.embed(token_ids, starts))
        for name in self.caches:
            cache, new = self.inputs[name](), self.outputs[f"new_{name}"]()
            for row, start in enumerate(starts):
                cache[row, :, start] = new[row, :, 0]
        self.read[: len(windows)] = starts[: len(windows)] + 1
        return logits[: len(windows)]

    def embed(self, token_ids, starts):
        """Make the inputs of the program that depend on tokens and places.

        Args:
            token_ids: int array (B, T).
            starts: int array (B,), the place of the first token of each row.

        Returns:
            dict: x float32 (B, T, D), bias float32 (B, 1, T, R + T), which is added to the
            scores, and, if the program wants it, position int32 (B, 1).
        """
        length, room = token_ids.shape[1], self.facts.room
        x = look_up(self.arrays, token_ids, starts)
        bias = np.zeros((len(starts), 1, length, room + length), dtype="float32")
        bias[..., :room] = np.where(np.arange(room) < starts[:, None, None, None], 0, MASKED_SCORE)
        bias[..., room:] = np.where(np.tri(length, dtype=bool), 0, MASKED_SCORE)
        inputs = {"x": x, "bias": bias}
        if self.facts.rotary:
            inputs["position"] = starts[:, None].astype("int32")
        return inputs


def look_up(arrays, token_ids, starts):
    """Embed tokens with their positions, as a PositionalEmbedding does.

    Args:
        arrays: dict as for `Program`.
        token_ids: int array (B, T).
        starts: int array (B,), the place of the first token of each row.

    Returns:
        float32 array (B, T, D).
    """
    x = arrays["table"][token_ids].astype("float32")  # (B, T) -> (B, T, D)
    if "table_scales" in arrays:
        x *= arrays["table_scales"][token_ids]
    if "scale" in arrays:
        x *= arrays["scale"]
    if "positions" in arrays:
        places = starts[:, None] + np.arange(token_ids.shape[1])
        # What pads a chunk may stand behind the last place.
        x += arrays["positions"][np.minimum(places, len(arrays["positions"]) - 1)]
    return x


def load_interpreter():
    """Return the class that runs programs; say what to install if it is missing."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            'exported files need ai-edge-litert: pip install "tfgpt[litert]", or without '
            "TensorFlow: pip install numpy ai-edge-litert tokenizers."
        ) from error
    return Interpreter


def choose_threads(path):
    """Take a thread per processor for a large file, and one for a small one.

    Threads wait for each other after each operation. With 3 MB of weights that takes as long
    as a second thread saves.
    """
    return 1 if Path(path).stat().st_size < SMALL_FILE else count_processors()


def count_processors():
    """Count the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
