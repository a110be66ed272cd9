"""A text model as the server sees it: prompts become ids, requests become texts in the making."""

import itertools
import time

from tfgpt.generation.pieces import without_first_space
from tfgpt.serving.asking import WireError

DEFAULT_LENGTH = 16  # new tokens, as OpenAI's completions
UNWATCHED = 16  # tokens that are written at once where nobody reads them yet
MOST_AT_ONCE = 128
BLINK = 0.03  # seconds: pieces that come together within them seem to flow


class Row:
    """One text in the making.

    Args:
        job: Job that it belongs to.
        index: int, its place in the answer.
        place: int, tokens of its prompt: the rows that are shortest go on first.
    """

    def __init__(self, job, index, place):
        self.job, self.index, self.place = job, index, place
        self.num_tokens = 0
        self.is_full = False
        self.pieces = iter(())

    def counted(self, token_ids):
        """Count tokens as they are written; the last one may end the text by its length."""
        for token_id in token_ids:
            self.num_tokens += 1
            self.place += 1
            yield token_id
        self.is_full = self.num_tokens == self.job.max_new_tokens

    @property
    def reason(self):
        """Why the text ended: "length", or "stop" for a stop token or a stop string."""
        return "length" if self.is_full else "stop"


class Pace:
    """How many tokens a batch writes at once: each call of its program costs time too.

    Args:
        decoding: Decoding.
        is_watched: bool, somebody reads the text as it is written: the first token comes
            alone, then as many at once as come within a blink.
    """

    def __init__(self, decoding, is_watched):
        self.decoding, self.is_watched = decoding, is_watched
        self.at_once = 1 if is_watched else UNWATCHED

    def advance(self, place):
        """Write a place, and others behind it."""
        start = time.perf_counter()
        self.decoding.advance(min(place + self.at_once, self.decoding.total))
        seconds = time.perf_counter() - start
        if self.is_watched and seconds > BLINK:
            self.at_once = max(self.at_once // 2, 1)
        elif 2 * seconds < BLINK:
            self.at_once = min(2 * self.at_once, MOST_AT_ONCE)


class Served:
    """A model with its tokenizer, behind one form.

    Args:
        text_model: LanguageModel, or a fine-tuned model that writes; or another object with
            a tokenizer and a method `stream`, whose texts are written one token in turn.
        name: str, what clients call it.
        limits: Limits.
        constraint: Constraint of all texts, or None.

    Raises:
        ValueError: if the model gives labels or tags, or has no tokenizer.
    """

    def __init__(self, text_model, name, limits, constraint=None):
        if not hasattr(text_model, "stream"):
            task = getattr(text_model, "task", type(text_model).__name__)
            raise ValueError(f"model must write text to be served, got the task {task!r}.")
        if text_model.tokenizer is None:
            raise ValueError("model must have a tokenizer to be served, got a file without one.")
        self.text_model, self.name, self.limits = text_model, name, limits
        self.constraint = constraint
        self.tokenizer = text_model.tokenizer
        self.gpt = getattr(text_model, "model", None)
        self.task = getattr(text_model, "task", None)
        self.can_chat = self.task == "chat"
        owner = text_model if self.gpt is None else self.gpt
        self.longest = min(limits.prompt_tokens or owner.context_length, owner.context_length)
        facts = getattr(text_model, "facts", {})
        self.default_length = min(facts.get("max_new_tokens", DEFAULT_LENGTH), limits.new_tokens)

    def encode(self, prompt):
        """Turn a text or messages into ids: int array (T,); raise WireError if that fails.

        Where a fine-tuned model reads too much, the beginning goes: of a chat the first turns.
        """
        name = "prompt" if isinstance(prompt, str) else "messages"
        try:
            if name == "messages" or self.task not in (None, "chat", "lm"):
                token_ids = self.text_model.prompt_ids(prompt)
            else:
                token_ids = self.tokenizer.encode(prompt)
        except (TypeError, ValueError) as error:  # an unknown character, say
            raise WireError(f"{name} does not fit this model: {error}", 400, name) from error
        if not 0 < len(token_ids) <= self.longest:
            rule = f"must have between 1 and {self.longest} tokens"
            code = "context_length_exceeded" if len(token_ids) else None
            raise WireError(f"{name} {rule}, got {len(token_ids)}.", 400, name, code)
        return token_ids

    def begin(self, jobs):
        """Begin the texts of some jobs side by side: list of Row, whose pieces may be drawn."""
        rows = [
            Row(job, index, len(token_ids))
            for job in jobs
            for index, token_ids in enumerate(job.rows_of_ids)
        ]
        if self.gpt is None:
            self.begin_in_turns(rows)
        else:
            self.begin_together(jobs, rows)
        return rows

    def begin_together(self, jobs, rows):
        """Let a GPT write all rows in one batch."""
        from tfgpt.generation.streaming import text_pieces, until_string
        from tfgpt.generation.together import Wish, row_tokens

        wishes = [Wish(job.rows_of_ids, job.max_new_tokens, **job.settings) for job in jobs]
        decoding = self.decode(wishes, len(rows))
        advance = Pace(decoding, any(job.ask.streams for job in jobs)).advance
        for place, row in enumerate(rows):
            token_ids = row.counted(row_tokens(decoding, place, advance))
            pieces = until_string(text_pieces(self.tokenizer, token_ids), self.stops(row.job))
            row.pieces = pieces if self.task is None else without_first_space(pieces)

    def decode(self, wishes, num_rows):
        """Begin a batch of at least so many rows, of a size that has a program."""
        from tfgpt.generation.together import decode_together

        return decode_together(
            self.gpt,
            wishes,
            num_rows=next(size for size in row_sizes(self.limits.rows) if size >= num_rows),
            stop_token=getattr(self.tokenizer, "end_id", None),
            vocab_size=min(self.tokenizer.vocab_size, self.gpt.vocab_size),
            constraint=self.constraint,
        )

    def warm_up(self):
        """Compile the programs of all sizes of a batch, so that no request waits for them."""
        if self.gpt is None:
            return
        from tfgpt.generation.together import Wish

        token_id = 1 if getattr(self.gpt, "pad_id", None) == 0 else 0
        for size in row_sizes(self.limits.rows):
            decoding = self.decode([Wish([[token_id]], 1)], size)
            decoding.advance(decoding.total)

    def begin_in_turns(self, rows):
        """Let any other model write each row alone; they take turns."""
        for row in rows:
            row.pieces = row.counted(self.write_alone(row.job, row.index))

    def write_alone(self, job, index):
        """Yield the pieces of one text."""
        settings = dict(job.settings)
        if self.constraint is not None:
            settings["constraint"] = self.constraint
        if settings["seed"] is not None:  # samples of one prompt differ
            settings["seed"] += index % job.ask.num_samples
        stops = job.ask.stop_strings
        try:
            yield from self.text_model.stream(
                job.texts[index], job.max_new_tokens, stop_strings=stops, **settings
            )
        except ValueError as error:  # the text is too long for its file, say
            raise WireError(str(error)) from error

    def stops(self, job):
        """List the stop strings of a job, with those that the model was trained to avoid."""
        from tfgpt.data.chat import NEXT_USER

        return [*job.ask.stop_strings, *([] if self.task is None else [NEXT_USER])]


def row_sizes(most):
    """List the sizes of batches: each is a program of its own, so there are few.

    Example:
        >>> row_sizes(16), row_sizes(6)
        ([1, 4, 16], [1, 4, 6])
    """
    powers = itertools.takewhile(lambda size: size < most, (4**n for n in itertools.count()))
    return [*powers, most]
