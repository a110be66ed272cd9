"""LiteModel: text from one file, without TensorFlow and Keras."""

from dataclasses import dataclass

import numpy as np

from tfgpt.generation.constraints import (
    FORBIDDEN,
    check_constraint,
    constraint_stop,
    start_states,
)
from tfgpt.generation.pieces import check_stop_strings, text_pieces, until_string
from tfgpt.generation.prompts import (
    check_prompts,
    check_stop_tokens,
    check_vocab_size,
    row_generators,
)
from tfgpt.generation.settings import NO_TOKEN
from tfgpt.generation.text_model import TextModel, batches
from tfgpt.serving.lite_file import read_lite_file
from tfgpt.serving.lite_program import LiteProgram
from tfgpt.serving.lite_sampling import Sampling, choose_token
from tfgpt.validation import check_integer, check_positive


class LiteModel(TextModel):
    """Continue text with a file of `export_litert`, several times faster than with TensorFlow.

    Needs numpy, ai-edge-litert and, for byte pairs, tokenizers. `generate`, `stream` and
    `generate_ids` are those of `LanguageModel`, with all settings except samplers and strategy;
    score, rank and save are not here. A file in float32 writes the same tokens, also with a
    seed. Several threads may share one model, one token after the other.

    A text that outgrows the context slides through it by one token each time, as in
    `tfgpt.generate`. Every token then reads the whole context again: with 128 tokens this
    takes about 12 times as long, with 256 about 30 times.

    Args:
        program: LiteProgram.
        tokenizer: CharTokenizer, BPETokenizer or None: then only ids can be continued.

    Example:
        >>> import tempfile
        >>> from tfgpt import GPT, CharTokenizer, export_litert
        >>> tokenizer = CharTokenizer.train("床前明月光")
        >>> model = GPT(tokenizer.vocab_size, 8, num_layers=1, d_model=8, num_heads=2, pad_id=0)
        >>> path = export_litert(model, tokenizer, tempfile.mkdtemp() + "/moon.tflite")
        >>> len(LiteModel.load(path).generate("明月", max_new_tokens=3))
        5
    """

    def __init__(self, program, tokenizer=None):
        super().__init__(tokenizer)
        self.program = program
        self.vocab_size = program.facts.vocab_size
        self.context_length = program.facts.context_length
        self.pad_id = program.facts.pad_id

    @classmethod
    def load(cls, path, num_threads=None):
        """Read a file that `export_litert` wrote.

        Args:
            path: file to read.
            num_threads: int >= 1; None: one per processor, or one for a file below 4 MB.

        Returns:
            LiteModel.

        Raises:
            FileNotFoundError: if there is no such file.
            ImportError: if ai-edge-litert, or tokenizers for byte pairs, is not installed.
            ValueError: if the file is truncated, altered, foreign, of another version or of a
                translator.
        """
        facts, tokenizer, arrays = read_lite_file(path, "GPT")
        return cls(LiteProgram(path, facts, arrays, num_threads), tokenizer)

    def generate_ids(self, prompt_ids, max_new_tokens, *, num_samples=1, **settings):
        """Continue prompts with tokens drawn from the model.

        Args:
            prompt_ids: int array (B, T) or (T,), T >= 1; or a list of B arrays.
            max_new_tokens: int >= 1, N.
            num_samples: int >= 1, continuations of each prompt, one after the other.
            **settings: as for `tfgpt.generate`: temperature, top_k, top_p, stop_token, seed,
                min_p, repetition_penalty, no_repeat_ngram_size, vocab_size, constraint.

        Returns:
            int32 array (B, T + N), prompt included, filled with the stop token. For prompts of
            different lengths a list of B arrays.

        Raises:
            TypeError: if a setting is unknown or the prompt is not integer.
            ValueError: as `tfgpt.generate`; or if a text outgrows a room that is smaller than
                the context.
        """
        check_positive("num_samples", num_samples)
        prompts = [p for p in check_prompts(self, prompt_ids) for _ in range(num_samples)]
        request = make_request(self, prompts, max_new_tokens, **settings)
        written = []
        for rows in batches(range(len(prompts)), self.program.facts.batch_size):
            *_, texts = write_tokens(self.program, request, rows)
            written += texts
        for text, prompt in zip(written, prompts, strict=True):
            # If every text ended early, the rest is its stop token.
            text += text[-1:] * (len(prompt) + request.max_new_tokens - len(text))
        filled = [np.array(text, dtype="int32") for text in written]
        return np.stack(filled) if len({len(text) for text in filled}) == 1 else filled

    def stream_ids(self, token_ids, max_new_tokens, stop_strings, **settings):
        """Continue one prompt, piece by piece.

        Args:
            token_ids: int array (T,).
            max_new_tokens: int >= 1.
            stop_strings: str, list of str or None.
            **settings: as for `generate_ids`.

        Returns:
            generator of str, not empty, without the prompt and the stop token.

        Raises:
            as `generate_ids`.
        """
        stop_strings = check_stop_strings(stop_strings)
        request = make_request(self, check_prompts(self, token_ids), max_new_tokens, **settings)
        tokens = new_tokens(self.program, request)
        return until_string(text_pieces(self.tokenizer, tokens), stop_strings)

    def encode(self, texts, shortest=1):
        """Return the ids of each text; raise unless each has enough tokens."""
        if self.tokenizer is None:
            raise ValueError("the file must have a tokenizer for texts: continue ids instead.")
        return super().encode(texts, shortest)


@dataclass(frozen=True)
class Request:
    """What is to be written, checked.

    Args:
        prompts: list of int32 arrays (T,).
        max_new_tokens: int, N.
        sampling: Sampling.
        stop_tokens: tuple of int.
        hidden: bool array (V,), True for what is never written.
        numbers: list of float32 arrays (N,), a random number for each new token.
        constraint: Constraint or None.
    """

    prompts: list
    max_new_tokens: int
    sampling: Sampling
    stop_tokens: tuple
    hidden: np.ndarray
    numbers: list
    constraint: object


def make_request(
    model,
    prompts,
    max_new_tokens,
    *,
    stop_token=None,
    seed=None,
    vocab_size=None,
    constraint=None,
    **settings,
):
    """Check what is asked of a LiteModel; `settings` are those of `Sampling`."""
    sampling = Sampling(**settings)
    if seed is not None:
        check_integer("seed", seed, minimum=0)
    vocab_size = check_vocab_size(model, vocab_size)
    check_positive("max_new_tokens", max_new_tokens)
    check_room(model, prompts, max_new_tokens)
    stop_tokens = check_stop_tokens(model, constraint_stop(stop_token, constraint), vocab_size)
    if constraint is not None:
        check_constraint(constraint, prompts, vocab_size, stop_tokens, max_new_tokens)
    token_ids = np.arange(model.vocab_size)
    return Request(
        prompts=prompts,
        max_new_tokens=int(max_new_tokens),
        sampling=sampling,
        stop_tokens=stop_tokens,
        hidden=(token_ids == model.pad_id) | (token_ids >= vocab_size),
        numbers=[
            generator.random(max_new_tokens, dtype="float32")
            for generator in row_generators(prompts, seed)
        ],
        constraint=constraint,
    )


def check_room(model, prompts, max_new_tokens):
    """Raise if a text outgrows caches that are smaller than the model's context."""
    longest, room = max(map(len, prompts)), model.program.facts.room
    if room < model.context_length and longest + max_new_tokens > room:
        raise ValueError(
            f"prompt_ids and max_new_tokens must fit the room={room} of the file, got {longest} "
            f"+ {max_new_tokens} tokens: export the model with a larger room, up to "
            f"{model.context_length}."
        )


def write_tokens(program, request, rows):
    """Write texts side by side, up to their end.

    Args:
        program: LiteProgram.
        request: Request.
        rows: list of int, the prompts that are continued.

    Returns:
        generator of the list of texts (lists of int), which grow by a token each time. A text
        that has ended is filled with its stop token until all have.
    """
    texts = [request.prompts[row].tolist() for row in rows]
    has_ended = [False] * len(texts)
    states = start_states(request.constraint, [request.prompts[row] for row in rows])
    for place in range(request.max_new_tokens):
        logits = program.next_logits(texts)
        logits[:, request.hidden] = -np.inf
        for index, (row, text) in enumerate(zip(rows, texts, strict=True)):
            token = text[-1]
            if not has_ended[index]:
                number = request.numbers[row][place]
                if request.constraint is not None:
                    left = request.max_new_tokens - place
                    hide_forbidden(logits[index], request.constraint, states[index], left)
                token = choose_token(request.sampling, logits[index], text, number)
                has_ended[index] = token in request.stop_tokens
            if token == NO_TOKEN:
                raise ValueError(
                    "model must give finite logits and leave a token to choose, got NaN, infinity "
                    f"or none at place {len(text)} of row {row}."
                )
            if request.constraint is not None:
                states[index] = request.constraint.table[states[index], token]
            text.append(token)
        yield texts
        if all(has_ended):
            return


def hide_forbidden(logits, constraint, state, left):
    """Make what a constraint forbids impossible, in place, in logits (V,)."""
    following = constraint.table[state]
    allowed = (following != FORBIDDEN) & (constraint.distances[following] < left)
    logits[: len(allowed)][~allowed] = -np.inf
    logits[len(allowed) :] = -np.inf


def new_tokens(program, request):
    """Yield the tokens of one text as they are drawn, up to the stop token."""
    for (text,) in write_tokens(program, request, [0]):
        if text[-1] in request.stop_tokens:
            return
        yield text[-1]
