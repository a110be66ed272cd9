"""A language model: a GPT with its tokenizer, text in, text out.

On disk it is a bundle, see `tfgpt.bundle`; a run folder of `tfgpt.train` is one too.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from keras import ops

from tfgpt.bundle import TOKENIZER, check_vocabulary, checked_path, load_bundle, save_bundle
from tfgpt.generation import generate, stream
from tfgpt.generation.text_model import TextModel, batches
from tfgpt.losses import bits_per_byte

# Logits that are held at once: 256 MB of float32.
MOST_LOGITS = 2**26


@dataclass(frozen=True)
class TextScore:
    """How probable a model finds a text.

    Args:
        log_probability: float <= 0, nats, of all tokens but the first, together.
        num_tokens: int >= 1, how many tokens that is.
        num_bytes: int, their bytes in UTF-8.
    """

    log_probability: float
    num_tokens: int
    num_bytes: int

    @property
    def nats_per_token(self):
        """The loss: its power of e is the perplexity."""
        return -self.log_probability / self.num_tokens

    @property
    def bits_per_byte(self):
        """The loss in a unit that does not depend on the tokenizer."""
        return float(bits_per_byte(self.nats_per_token, self.num_tokens, self.num_bytes))


class LanguageModel(TextModel):
    """Continue and score text with a GPT and its tokenizer.

    Args:
        model: GPT, or another model that `generate` takes.
        tokenizer: CharTokenizer or BPETokenizer.

    Raises:
        ValueError: if model and tokenizer differ in their number of tokens or in padding.

    Example:
        >>> from tfgpt import GPT, CharTokenizer
        >>> tokenizer = CharTokenizer.train("床前明月光")
        >>> model = GPT(tokenizer.vocab_size, 8, num_layers=1, d_model=8, num_heads=2, pad_id=0)
        >>> text = LanguageModel(model, tokenizer).generate("明月", max_new_tokens=3)
        >>> len(text), text[:2]  # untrained, so nonsense follows
        (5, '明月')
    """

    def __init__(self, model, tokenizer):
        check_vocabulary(model, tokenizer)
        super().__init__(tokenizer)
        self.model = model

    def generate_ids(self, prompt_ids, max_new_tokens, **settings):
        """Continue prompts; see `tfgpt.generate`."""
        return generate(self.model, prompt_ids, max_new_tokens, **settings)

    def stream_ids(self, token_ids, max_new_tokens, stop_strings, **settings):
        """Continue one prompt, piece by piece; see `tfgpt.stream`."""
        settings = {"stop_strings": stop_strings, **settings}
        return stream(self.model, self.tokenizer, token_ids, max_new_tokens, **settings)

    def score(self, texts):
        """Measure how probable the model finds a text.

        The first token has no context and is not scored. A text longer than the context
        is read in windows that overlap by half: each token is scored once, and sees at
        least half a context where so much text is before it.

        Args:
            texts: str, or list of str, each of at least two tokens.

        Returns:
            TextScore for a str, list of TextScore for a list.

        Raises:
            TypeError: if a text is no str.
            ValueError: if a text has fewer than two tokens or an unknown character.
        """
        if isinstance(texts, str):
            return self.score([texts])[0]
        encoded = self.encode(texts, shortest=2)
        totals = np.zeros(len(encoded))
        for windows in batches(self.windows(encoded), self.rows_at_once()):
            for (text, *_), value in zip(windows, self.score_windows(windows), strict=True):
                totals[text] += value
        return [
            TextScore(float(total), len(token_ids) - 1, self.count_bytes(token_ids[1:]))
            for total, token_ids in zip(totals, encoded, strict=True)
        ]

    def rank(self, text, continuations):
        """Measure how probable each continuation of a text is: a classifier without training.

        Write the text so that a label may follow: "The film was boring. It was" with the
        continuations " bad" and " good". A text that is too long loses its beginning.

        Args:
            text: str of at least one token.
            continuations: list of str, each of at least one token, with their space.

        Returns:
            list of float, the log-probability of each in nats, of all its tokens together;
            the largest is the answer. Compare continuations of similar length.

        Raises:
            TypeError: if a text is no str.
            ValueError: if a text has no token or an unknown character, there is no
                continuation, or one is longer than the context.

        Source: Radford et al., "Language Models are Unsupervised Multitask Learners"
        (GPT-2, 2019), section 3.
        """
        (start,), ends = self.encode([text]), self.encode(continuations)
        longest = max((len(token_ids) for token_ids in ends), default=0)
        if not 0 < longest <= self.model.context_length:
            raise ValueError(
                "continuations must be at least one, each of at most context_length="
                f"{self.model.context_length} tokens, got {len(ends)} with up to {longest}."
            )
        windows = [
            (place, np.concatenate([start, end])[-self.model.context_length - 1 :], len(end))
            for place, end in enumerate(ends)
        ]
        rows = batches(windows, self.rows_at_once())
        return [float(value) for some in rows for value in self.score_windows(some)]

    def windows(self, encoded):
        """Cut texts into windows: (index of the text, its ids, how many of them are scored)."""
        context = self.model.context_length
        stride = max(context // 2, 1)
        for text, token_ids in enumerate(encoded):
            scored = 1  # the first token has no context
            end = min(context + 1, len(token_ids))
            while scored < len(token_ids):
                yield text, token_ids[max(end - context - 1, 0) : end], end - scored
                scored, end = end, min(end + stride, len(token_ids))

    def score_windows(self, windows):
        """Sum the log-probabilities of the last `count` tokens of each window: (B,) float64."""
        longest = max(len(token_ids) for _, token_ids, _ in windows)
        # Padding on the right is seen by no token.
        padded = np.full((len(windows), longest), self.tokenizer.pad_id or 0, dtype="int32")
        is_scored = np.zeros((len(windows), longest - 1), dtype=bool)
        for row, (_, token_ids, count) in enumerate(windows):
            padded[row, : len(token_ids)] = token_ids
            is_scored[row, len(token_ids) - 1 - count : len(token_ids) - 1] = True
        logits = ops.cast(self.model(padded[:, :-1]), "float32")  # (B, T, V)
        chosen = ops.take_along_axis(logits, padded[:, 1:, None], axis=-1)[..., 0]  # (B, T)
        log_probabilities = chosen - ops.logsumexp(logits, axis=-1)
        values = ops.convert_to_numpy(log_probabilities).astype("float64")
        return np.where(is_scored, values, 0).sum(axis=-1)

    def rows_at_once(self):
        """Return how many windows fit into memory at once."""
        return max(MOST_LOGITS // (self.model.context_length * self.model.vocab_size), 1)

    def count_bytes(self, token_ids):
        """Count the UTF-8 bytes of tokens."""
        values, counts = np.unique(token_ids, return_counts=True)
        sizes = [len(self.tokenizer.token_bytes(int(value))) for value in values]
        return int(np.dot(sizes, counts))

    def save(self, folder, dtype="float32", **facts):
        """Write config.json, weights.safetensors and tokenizer.json.

        Args:
            folder: path; made if it does not exist.
            dtype: "float32", "float16" or "bfloat16", of the weights in the file.
            facts: further keys of config.json, what JSON can hold.

        Raises:
            as `tfgpt.bundle.save_bundle`.
        """
        save_bundle(folder, self.model, self.tokenizer, dtype, **facts)

    @classmethod
    def load(cls, folder):
        """Read a language model that `save` wrote, or the run folder of a training.

        Args:
            folder: path.

        Returns:
            LanguageModel.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if a file is damaged or the three do not fit together.
        """
        checked_path(Path(folder), TOKENIZER)
        return cls(*load_bundle(folder, "GPT"))
