"""LiteModel: text from one file, without TensorFlow and Keras."""

from dataclasses import dataclass

import numpy as np

from tfgpt.data.chat import NEXT_USER, asked_ids
from tfgpt.generation.constraints import (
    FORBIDDEN,
    check_constraint,
    constraint_stop,
    start_states,
)
from tfgpt.generation.pieces import (
    check_stop_strings,
    text_pieces,
    until_string,
    without_first_space,
)
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
        self.batch_size = program.facts.batch_size
        self.facts = program.facts.task or {}
        self.task = self.facts.get("task")

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
        written = []
        for requests in batches(
            make_requests(self, prompts, max_new_tokens, **settings), self.batch_size
        ):
            texts = SideBySide(self.program, requests)
            for index in range(len(requests)):
                list(texts.tokens(index))  # until all are written
            written += texts.texts
        for text, prompt in zip(written, prompts, strict=True):
            # If a text ended early, the rest is its stop token.
            text += text[-1:] * (len(prompt) + int(max_new_tokens) - len(text))
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
        requests = make_requests(self, check_prompts(self, token_ids), max_new_tokens, **settings)
        tokens = SideBySide(self.program, requests).tokens(0)
        return until_string(text_pieces(self.tokenizer, tokens), stop_strings)

    def write_together(self, wishes, stop_token=None, constraint=None):
        """Begin the texts of several requests, each with its own length, temperature, p and seed.

        As many as the file has rows are written side by side, then the next: draw their
        tokens in that order, since a text that is left and taken up again is read again.

        Args:
            wishes: list of Wish.
            stop_token: int, list of int or None; for all, as the next.
            constraint: Constraint or None.

        Returns:
            list of generators of int, one per prompt: the tokens that `generate_ids` writes
            for its wish alone, up to the stop token. Where one needs a token, those beside
            it get theirs.

        Raises:
            as `generate_ids`.
        """
        requests = []
        for wish in wishes:
            prompts = check_prompts(self, wish.prompts)
            settings = {"temperature": wish.temperature, "top_p": wish.top_p, "seed": wish.seed}
            limits = {"stop_token": stop_token, "constraint": constraint}
            requests += make_requests(self, prompts, wish.max_new_tokens, **settings, **limits)
        groups = [SideBySide(self.program, some) for some in batches(requests, self.batch_size)]
        return [group.tokens(index) for group in groups for index in range(len(group.requests))]

    def answer(self, text, **settings):
        """Answer a prompt or chat piece by piece, with the file of a model that was tuned to.

        Args:
            text: str, or of a model of chats a list of messages {"role", "content"}.
            **settings: as for `generate_ids`; temperature is 0 by default.

        Returns:
            generator of str, as `Writer.stream` of the fine-tuned model gives.

        Raises:
            ValueError: if the file is of a model that continues texts.
        """
        if self.task is None:
            raise ValueError("the file must be of a fine-tuned model to answer: use stream.")
        settings = {"temperature": 0, **self.with_stop_token(settings)}
        length = self.facts["max_new_tokens"]
        pieces = self.stream_ids(self.prompt_ids(text), length, [NEXT_USER], **settings)
        return without_first_space(pieces)

    def prompt_ids(self, text):
        """Write a prompt as the fine-tuned model has learned it; a long one loses its beginning."""
        token_ids = asked_ids(self.tokenizer, self.task, text)
        left = self.program.facts.room - self.facts["max_new_tokens"]
        return np.array(token_ids[-left:], "int32")

    @property
    def room(self):
        """How many tokens a text may have; None: any number, which slide through the context."""
        room = self.program.facts.room
        return room if room < self.context_length else None

    def encode(self, texts, shortest=1):
        """Return the ids of each text; raise unless each has enough tokens."""
        if self.tokenizer is None:
            raise ValueError("the file must have a tokenizer for texts: continue ids instead.")
        return super().encode(texts, shortest)


@dataclass(frozen=True)
class Request:
    """What is to be written after one prompt, checked.

    Args:
        row: int, the number of the prompt, for errors.
        prompt: int32 array (T,).
        max_new_tokens: int, N.
        sampling: Sampling.
        stop_tokens: tuple of int.
        hidden: bool array (V,), True for what is never written.
        numbers: float32 array (N,), a random number for each new token.
        constraint: Constraint or None.
    """

    row: int
    prompt: np.ndarray
    max_new_tokens: int
    sampling: Sampling
    stop_tokens: tuple
    hidden: np.ndarray
    numbers: np.ndarray
    constraint: object


def make_requests(
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
    """Check what is asked of a LiteModel: a Request per prompt; `settings` are of `Sampling`."""
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
    hidden = (token_ids == model.pad_id) | (token_ids >= vocab_size)
    return [
        Request(
            row=row,
            prompt=prompt,
            max_new_tokens=int(max_new_tokens),
            sampling=sampling,
            stop_tokens=stop_tokens,
            hidden=hidden,
            numbers=generator.random(max_new_tokens, dtype="float32"),
            constraint=constraint,
        )
        for row, (prompt, generator) in enumerate(
            zip(prompts, row_generators(prompts, seed), strict=True)
        )
    ]


def check_room(model, prompts, max_new_tokens):
    """Raise if a text outgrows caches that are smaller than the model's context."""
    longest = max(map(len, prompts))
    if model.room is not None and longest + max_new_tokens > model.room:
        raise ValueError(
            f"prompt_ids and max_new_tokens must fit the room={model.room} of the file, got "
            f"{longest} + {max_new_tokens} tokens: export the model with a larger room, up to "
            f"{model.context_length}."
        )


class SideBySide:
    """Texts in the making, each with its own settings; a call of the program adds a token to all.

    Args:
        program: LiteProgram.
        requests: list of Request, at most as many as the program has rows.
    """

    def __init__(self, program, requests):
        self.program, self.requests = program, requests
        self.texts = [request.prompt.tolist() for request in requests]
        self.have_ended = [False] * len(requests)
        self.states = [start_states(r.constraint, [r.prompt])[0] for r in requests]

    def tokens(self, index):
        """Yield the new tokens of one text, up to its stop token; when it needs one, all go on."""
        request, text = self.requests[index], self.texts[index]
        start = len(request.prompt)
        for place in range(start, start + request.max_new_tokens):
            if place == len(text):
                self.advance()
            if text[place] == NO_TOKEN:
                raise ValueError(
                    "model must give finite logits and leave a token to choose, got NaN, infinity "
                    f"or none at place {place} of row {request.row}."
                )
            if text[place] in request.stop_tokens:
                return
            yield text[place]

    def advance(self):
        """Write the next token of each text that has not ended; -1 where there is none."""
        logits = self.program.next_logits(self.texts)  # (B, V)
        for index, request in enumerate(self.requests):
            if not self.have_ended[index]:
                self.write(index, request, logits[index])

    def write(self, index, request, logits):
        """Choose the next token of a text with its logits (V,)."""
        text = self.texts[index]
        left = len(request.prompt) + request.max_new_tokens - len(text)
        logits[request.hidden] = -np.inf
        if request.constraint is not None:
            hide_forbidden(logits, request.constraint, self.states[index], left)
        token = choose_token(request.sampling, logits, text, request.numbers[-left])
        if request.constraint is not None and token != NO_TOKEN:
            self.states[index] = request.constraint.table[self.states[index], token]
        text.append(token)
        self.have_ended[index] = left == 1 or token in (NO_TOKEN, *request.stop_tokens)


def hide_forbidden(logits, constraint, state, left):
    """Make what a constraint forbids impossible, in place, in logits (V,)."""
    following = constraint.table[state]
    allowed = (following != FORBIDDEN) & (constraint.distances[following] < left)
    logits[: len(allowed)][~allowed] = -np.inf
    logits[len(allowed) :] = -np.inf
