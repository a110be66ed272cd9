"""A text model as the server sees it: prompts become ids, requests become texts in the making."""

import itertools
import math
import time
from dataclasses import replace

from tfgpt.generation.constraints import constraint_stop
from tfgpt.generation.pieces import text_pieces, until_string, without_first_space
from tfgpt.generation.settings import Wish
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
        place: int, the step in which its next token is written: the earliest rows go on first.
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
        text_model: LanguageModel, or a fine-tuned model that writes; or a LiteModel, or another
            object with its tokenizer, context_length, room, batch_size and `write_together`.
        name: str, what clients call it.
        limits: Limits; texts of a file end where its room does, too.
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
        self.text_model, self.name = text_model, name
        self.constraint = constraint
        self.tokenizer = text_model.tokenizer
        self.gpt = getattr(text_model, "model", None)
        self.task = getattr(text_model, "task", None)
        self.can_chat = self.task == "chat"
        owner = text_model if self.gpt is None else self.gpt
        self.longest = min(limits.prompt_tokens or owner.context_length, owner.context_length)
        self.rows = limits.rows if self.gpt else min(limits.rows, text_model.batch_size)
        self.room = None if self.gpt else text_model.room
        if self.room is not None:  # one token at least is the prompt's, and one is new
            self.longest = min(self.longest, self.room - 1)
            limits = replace(limits, new_tokens=min(limits.new_tokens, self.room - 1))
        self.limits = limits
        facts = getattr(text_model, "facts", {})
        self.default_length = min(facts.get("max_new_tokens", DEFAULT_LENGTH), limits.new_tokens)
        stop_token = constraint_stop(None, constraint)
        stop_token = getattr(self.tokenizer, "end_id", None) if stop_token is None else stop_token
        self.rules = {"stop_token": stop_token, "constraint": constraint}

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

    def length(self, max_new_tokens, longest):
        """Return how many tokens each text of a request gets; raise WireError if they do not fit.

        Args:
            max_new_tokens: int, what was asked for; None: the default, or less if the room ends.
            longest: int, tokens of the longest prompt.
        """
        left = self.limits.new_tokens if self.room is None else self.room - longest
        if max_new_tokens is None:
            return min(self.default_length, left)
        if max_new_tokens > left:
            raise WireError(
                f"The tokens of the prompt and max_tokens must be at most {self.room} together, "
                f"got {longest} + {max_new_tokens}.",
                *(400, "max_tokens", "context_length_exceeded"),
            )
        return max_new_tokens

    def span(self, lengths, max_new_tokens):
        """Return the first and last step of a request: of a GPT, whose rows share places, those.

        Args:
            lengths: list of int, the tokens of the prompts.
            max_new_tokens: int.
        """
        if self.gpt is not None:
            return min(lengths), max(lengths) + max_new_tokens
        return 0, math.ceil(len(lengths) / self.rows) * max_new_tokens

    def check(self, job):
        """Raise WireError unless a job can be written, so that it spoils no batch."""
        try:
            if self.gpt is None:
                self.text_model.write_together([job.wish], **self.rules)
            else:
                from tfgpt.generation.request import make_request

                make_request(self.gpt, job.wish.prompts, job.max_new_tokens, **self.rules)
        except ValueError as error:  # the constraint allows no text that is so short, say
            raise WireError(f"The request does not fit this model: {error}") from error

    def begin(self, jobs):
        """Begin the texts of some jobs side by side: list of Row, whose pieces may be drawn."""
        rows = [Row(job, index, 0) for job in jobs for index in range(len(job.rows_of_ids))]
        begin = self.begin_in_groups if self.gpt is None else self.begin_together
        for row, token_ids in zip(rows, begin(jobs, rows), strict=True):
            pieces = text_pieces(self.tokenizer, row.counted(token_ids))
            pieces = until_string(pieces, self.stops(row.job))
            row.pieces = pieces if self.task is None else without_first_space(pieces)
        return rows

    def begin_together(self, jobs, rows):
        """Let a GPT write all rows in one batch: list of generators of int."""
        from tfgpt.generation.together import row_tokens

        decoding = self.decode([job.wish for job in jobs], len(rows))
        advance = Pace(decoding, any(job.ask.streams for job in jobs)).advance
        for row in rows:
            row.place = len(row.job.rows_of_ids[row.index])
        return [row_tokens(decoding, place, advance) for place in range(len(rows))]

    def begin_in_groups(self, jobs, rows):
        """Let a file write as many rows at once as it has, then the next: as `begin_together`."""
        longest = max(job.max_new_tokens for job in jobs)
        for number, row in enumerate(rows):
            row.place = number // self.rows * longest
        return self.text_model.write_together([job.wish for job in jobs], **self.rules)

    def decode(self, wishes, num_rows):
        """Begin a batch of at least so many rows, of a size that has a program."""
        from tfgpt.generation.together import decode_together

        return decode_together(
            self.gpt,
            wishes,
            num_rows=next(size for size in row_sizes(self.limits.rows) if size >= num_rows),
            vocab_size=min(self.tokenizer.vocab_size, self.gpt.vocab_size),
            **self.rules,
        )

    def warm_up(self):
        """Compile the programs of all sizes of a batch, so that no request waits for them.

        Raises:
            TypeError, ValueError: if the constraint does not fit the model.
        """
        owner = self.text_model if self.gpt is None else self.gpt
        token_id = 1 if getattr(owner, "pad_id", None) == 0 else 0
        shortest = 1
        if self.constraint is not None:
            shortest = max(1, int(self.constraint.distances[self.constraint.start([token_id])]))
        wish = Wish([[token_id]], shortest)
        if self.gpt is None:  # nothing to compile
            self.text_model.write_together([wish], **self.rules)
            return
        for size in row_sizes(self.limits.rows):
            decoding = self.decode([wish], size)
            decoding.advance(decoding.total)

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
