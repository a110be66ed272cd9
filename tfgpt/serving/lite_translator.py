"""LiteTranslator: translations from one file, without TensorFlow and Keras."""

import numpy as np

from tfgpt.data.pairs import read_source
from tfgpt.serving.lite_file import read_lite_file
from tfgpt.serving.lite_program import MASKED_SCORE, Program, look_up
from tfgpt.validation import check_positive


class LiteTranslator:
    """Translate with a file of `export_litert`, greedily.

    Needs numpy, ai-edge-litert and tokenizers. A file in float32 writes what
    `Translator.translate` writes with beam_size=1. Several threads may share one translator,
    one text after the other.

    Args:
        program: TranslationProgram.
        tokenizer: BPETokenizer for both languages.

    Example:
        >>> import tempfile
        >>> from tfgpt import BPETokenizer, Transformer, export_litert
        >>> tokenizer = BPETokenizer.train("a b c " * 9, vocab_size=259)
        >>> model = Transformer(1, 8, 2, 16, 259, 259, max_length=12)
        >>> path = export_litert(model, tokenizer, tempfile.mkdtemp() + "/abc.tflite")
        >>> isinstance(LiteTranslator.load(path).translate("a b"), str)  # untrained, so nonsense
        True
    """

    def __init__(self, program, tokenizer):
        self.program = program
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, path, num_threads=None):
        """Read a file that `export_litert` wrote of a Transformer.

        Args:
            path: file to read.
            num_threads: int >= 1; None: one per processor, or one for a file below 4 MB.

        Returns:
            LiteTranslator.

        Raises:
            FileNotFoundError: if there is no such file.
            ImportError: if ai-edge-litert or tokenizers is not installed.
            ValueError: if the file is truncated, altered, foreign, of another version or of a
                GPT, or num_threads is outside its range.
        """
        facts, tokenizer, arrays = read_lite_file(path, "Transformer")
        return cls(TranslationProgram(path, facts, arrays, num_threads), tokenizer)

    def translate(self, texts, max_new_tokens=None):
        """Translate one text or many, one after the other.

        Args:
            texts: str, or list of str.
            max_new_tokens: int >= 1, end token included; None: what the file has room for.

        Returns:
            str for a str, list of str for a list.

        Raises:
            TypeError: if a text is no str.
            ValueError: if a text is empty or longer than the file reads, or max_new_tokens is
                outside its range.
        """
        room = self.program.facts.room
        limit = room if max_new_tokens is None else check_positive("max_new_tokens", max_new_tokens)
        if limit > room:
            raise ValueError(
                f"max_new_tokens must be at most the room={room} of the file, got {limit}."
            )
        if isinstance(texts, str):
            return self.translate([texts], limit)[0]
        sources = [
            read_source(text, self.tokenizer, room, f"texts[{index}]")
            for index, text in enumerate(texts)
        ]
        return [self.tokenizer.decode(self.write(source, limit)).strip() for source in sources]

    def write(self, source, limit):
        """Write the likeliest token after the likeliest: ids (S,) -> list of at most N ids."""
        written = []
        with self.program.lock:
            self.program.read_source(source)
            newest = self.tokenizer.start_id
            while len(written) < limit and newest != self.tokenizer.end_id:
                logits = self.program.next_logits(newest, len(written))
                logits[self.program.facts.pad_id] = -np.inf
                newest = int(logits.argmax())
                if not np.isfinite(logits[newest]):
                    raise ValueError("model must give finite logits, got NaN or infinity.")
                written.append(newest)
        return written


class TranslationProgram(Program):
    """Read a source and the tokens of its translation; see `Program`.

    `arrays` may hold a table and positions of their own for the source, named source_table and
    so on; otherwise source and target share them.
    """

    def __init__(self, path, facts, arrays, num_threads=None):
        super().__init__(path, facts, arrays, num_threads)
        self.source_arrays = {
            name.removeprefix("source_"): array
            for name, array in arrays.items()
            if name.startswith("source_")
        } or arrays

    def read_source(self, token_ids):
        """Bring the keys and values of a source (S,) to where "decode" reads them."""
        padded = np.zeros((1, self.facts.room), dtype=int)
        padded[0, : len(token_ids)] = token_ids
        is_token = np.arange(self.facts.room) < len(token_ids)  # (R,)
        x = look_up(self.source_arrays, padded, np.zeros(1, dtype=int))
        # A runner that is kept counts as a view.
        encode = self.interpreter.get_signature_runner("encode")
        memories = encode(x=x, is_token=is_token[None, None, None].astype("float32"))
        for name, memory in memories.items():
            self.inputs[name]()[:] = memory
        self.inputs["source_bias"]()[:] = np.where(is_token, 0, MASKED_SCORE)

    def next_logits(self, token, place):
        """Read the target's token at a place and score the tokens that may follow: (V,)."""
        bias = np.where(np.arange(self.facts.room + 1) < place, 0.0, MASKED_SCORE)
        bias[-1] = 0.0  # the token itself, beside the cache
        x = look_up(self.arrays, np.array([[token]]), np.array([place]))
        logits = self.decode(x=x, bias=bias)
        for name in self.caches:
            self.inputs[name]()[0, :, place] = self.outputs[f"new_{name}"]()[0, :, 0]
        return logits[0]
