"""Text in, text out: what every model with a tokenizer offers, whatever computes it."""

import abc

import numpy as np

from tfgpt.generation.constraints import constraint_stop
from tfgpt.generation.pieces import check_stop_strings, until_string
from tfgpt.validation import check_positive


class TextModel(abc.ABC):
    """A model that continues token ids, with the tokenizer that makes them of text.

    Args:
        tokenizer: CharTokenizer or BPETokenizer.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    @abc.abstractmethod
    def generate_ids(self, prompt_ids, max_new_tokens, **settings):
        """Continue prompts; see `tfgpt.generate`.

        Args:
            prompt_ids: list of B int arrays (T,).
            max_new_tokens: int >= 1.
            **settings: further arguments of `tfgpt.generate`.

        Returns:
            int32 array (B, T + N), or a list of B arrays.
        """

    @abc.abstractmethod
    def stream_ids(self, token_ids, max_new_tokens, stop_strings, **settings):
        """Continue one prompt, piece by piece; see `tfgpt.stream`.

        Args:
            token_ids: int array (T,).
            max_new_tokens: int >= 1.
            stop_strings: str, list of str or None.
            **settings: further arguments of `tfgpt.generate`.

        Returns:
            generator of str.
        """

    def generate(self, texts, max_new_tokens, *, num_samples=1, stop_strings=None, **settings):
        """Continue one text or many.

        Args:
            texts: str, or list of str, each of at least one token.
            max_new_tokens: int >= 1.
            num_samples: int >= 1, how many times each text is continued.
            stop_strings: str, or list of str: a text ends before the first that the model
                writes. All tokens are made first; `stream` stops there.
            **settings: further arguments of `tfgpt.generate`. stop_token is by default
                the end token of the constraint or the tokenizer, if one has it.

        Returns:
            str for a str, list of str for a list: each text with its continuation, without
            the stop token. With num_samples > 1 a list of so many str in place of each str.

        Raises:
            TypeError: if a text is no str.
            ValueError: if a text has no token or an unknown character, or an argument is
                outside its range.
        """
        if isinstance(texts, str):
            options = {"num_samples": num_samples, "stop_strings": stop_strings}
            return self.generate([texts], max_new_tokens, **options, **settings)[0]
        check_positive("num_samples", num_samples)
        stop_strings = check_stop_strings(stop_strings)
        texts = list(texts)
        prompts = [ids for ids in self.encode(texts) for _ in range(num_samples)]
        if not prompts:
            return []
        settings = self.with_stop_token(settings)
        rows = self.generate_ids(prompts, max_new_tokens, **settings)
        stops = np.atleast_1d([] if settings["stop_token"] is None else settings["stop_token"])
        whole = [
            self.tokenizer.decode(until_stop(row, len(prompt), stops))
            for prompt, row in zip(prompts, rows, strict=True)
        ]
        given = [text for text in texts for _ in range(num_samples)]
        continued = [
            text + "".join(until_string([result[len(text) :]], stop_strings))
            for text, result in zip(given, whole, strict=True)
        ]
        return continued if num_samples == 1 else list(batches(continued, num_samples))

    def stream(self, text, max_new_tokens, *, stop_strings=None, **settings):
        """Continue a text, piece by piece; see `tfgpt.stream`.

        Args:
            text: str of at least one token.
            max_new_tokens: int >= 1.
            stop_strings: as for `generate`; what may become one is held back.
            **settings: as for `generate`.

        Returns:
            generator of str, without the text that was given and the stop token.

        Raises:
            as `generate`.
        """
        (token_ids,) = self.encode([text])
        settings = self.with_stop_token(settings)
        return self.stream_ids(token_ids, max_new_tokens, stop_strings, **settings)

    def encode(self, texts, shortest=1):
        """Return the ids of each text; raise unless each has enough tokens."""
        encoded = []
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts[{index}] must be a str, got {type(text).__name__}.")
            encoded.append(self.tokenizer.encode(text))
            if len(encoded[-1]) < shortest:
                raise ValueError(
                    f"texts[{index}] must have at least {shortest} token(s), got {text!r}."
                )
        return encoded

    def with_stop_token(self, settings):
        """Add the end token of the constraint or the tokenizer to settings without a stop token."""
        end_id = constraint_stop(None, settings.get("constraint"))
        if end_id is None:
            end_id = getattr(self.tokenizer, "end_id", None)
        return {"stop_token": end_id, **settings}


def until_stop(token_ids, start, stops):
    """Cut a row at the first stop token from `start` on."""
    (found,) = np.isin(token_ids[start:], stops).nonzero()
    return token_ids[: start + found[0]] if len(found) else token_ids


def batches(items, size):
    """Yield lists of at most `size` items."""
    items = list(items)
    for start in range(0, len(items), size):
        yield items[start : start + size]


def sample_start(tokenizer, prompt=None):
    """Return the prompt, or without one a line end; a text without lines starts at its first id."""
    has_lines = "\n" in getattr(tokenizer, "ids", "\n")  # byte pairs know every character
    return prompt or ("\n" if has_lines else tokenizer.tokens[1])
