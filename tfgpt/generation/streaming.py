"""Streaming: text that appears while the model writes it."""

import numpy as np

from tfgpt.generation.decoding import Decoding
from tfgpt.generation.pieces import check_stop_strings, text_pieces, until_string
from tfgpt.generation.request import make_request
from tfgpt.generation.settings import NO_TOKEN


def stream(model, tokenizer, prompt, max_new_tokens, *, stop_strings=None, **settings):
    """Continue a prompt, piece by piece.

    The pieces together are the text that `generate` gives with the same seed. Each
    token is one call of the program that `generate` uses too.

    Args:
        model: GPT, or another model that `generate` takes.
        tokenizer: CharTokenizer or BPETokenizer of the model.
        prompt: str, or int array (T,) of its ids; at least one token.
        max_new_tokens: int >= 1.
        stop_strings: str, or list of str: the text ends before the first that the model
            writes; what may become one is held back.
        **settings: further arguments of `generate`: temperature, top_k, top_p, min_p,
            repetition_penalty, samplers, stop_token, seed, vocab_size, constraint.
            vocab_size is by default that of the tokenizer, if the model's is larger.

    Returns:
        generator of str, not empty, without the prompt and the stop token. Bytes that
        are no complete character at the end give U+FFFD.

    Raises:
        TypeError: if an argument has a wrong type or is unknown.
        ValueError: if an argument is outside its range, the prompt has no token, or a
            strategy is given, which has no text before its end.

    Example:
        >>> from tfgpt import GPT, CharTokenizer
        >>> tokenizer = CharTokenizer.train("床前明月光")
        >>> model = GPT(tokenizer.vocab_size, 8, num_layers=1, d_model=8, num_heads=2, pad_id=0)
        >>> pieces = list(stream(model, tokenizer, "明", max_new_tokens=3, seed=0))
        >>> [len(piece) for piece in pieces]
        [1, 1, 1]
    """
    stop_strings = check_stop_strings(stop_strings)
    token_ids = tokenizer.encode(prompt) if isinstance(prompt, str) else np.asarray(prompt)
    if token_ids.ndim != 1 or len(token_ids) == 0:
        raise ValueError(f"prompt must have at least one token, got {prompt!r}.")
    if settings.get("vocab_size") is None:
        settings["vocab_size"] = min(tokenizer.vocab_size, model.vocab_size)
    request = make_request(model, token_ids, max_new_tokens, **settings)
    if request.strategy is not None or len(request.prompts) != 1:
        raise ValueError(
            "strategy must be None and num_samples 1 to stream, got "
            f"{request.strategy!r} and {len(request.prompts)}: a search knows its text at its end."
        )
    return until_string(text_pieces(tokenizer, new_tokens(Decoding(request))), stop_strings)


def new_tokens(decoding):
    """Yield the tokens of one text as they are drawn, up to the stop token."""
    for place in range(decoding.position, decoding.total):
        decoding.advance(place + 1)
        if decoding.endings[0] != NO_TOKEN:
            return
        yield int(decoding.token_ids[0, place])
