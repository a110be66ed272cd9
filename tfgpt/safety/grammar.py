"""Grammars: the new text always has a given form, a regular expression or a JSON schema."""

import numpy as np

from tfgpt.generation.constraints import FORBIDDEN, NEVER, Constraint
from tfgpt.safety.automata import (
    distances_to,
    lift,
    pieces_of,
    reachable,
    with_room,
    with_states,
    without_dead_ends,
)
from tfgpt.safety.patterns import byte_automaton
from tfgpt.safety.schema import schema_pattern
from tfgpt.validation import check_integer


class Grammar(Constraint):
    """The form of a text that is to be written; the prompt does not belong to it.

    Each token leaves a way to a complete text of at most max_new_tokens tokens; the stop
    token comes only after a complete text. A text of exactly max_new_tokens tokens is
    complete without it. Make one with `from_regex` or `from_json_schema`, and give it to
    `generate(..., constraint=...)`; it works with any samplers, with `stream`, with
    BeamSearch and past the context. A stop string may still cut the text.

    Args:
        following: int32 array (S, 256), the next state after a byte, from state 0 on;
            -1: forbidden.
        is_complete: bool array (S,), the text may end here.
        tokenizer: CharTokenizer or BPETokenizer of the model.
        stop_token: int, the token that ends the text; None: the tokenizer's end token. It
            is never part of the text.

    Raises:
        ValueError: if there is no stop token, or no complete text can be written with the
            tokenizer.
    """

    def __init__(self, following, is_complete, tokenizer, stop_token=None):
        self.stop_token = check_stop(tokenizer, stop_token)
        pieces = pieces_of(tokenizer)
        table = lift(following, pieces)
        table[:, [len(piece) == 0 for piece in pieces]] = FORBIDDEN
        # One state more: the text has ended, and only the stop token follows.
        ended = len(table)
        table = np.pad(table, ((0, 1), (0, 0)), constant_values=FORBIDDEN)
        is_complete = np.append(is_complete, True)
        table[:, self.stop_token] = np.where(is_complete, ended, FORBIDDEN)
        distances = distances_to(table, is_complete)
        if distances[0] == NEVER:
            raise ValueError(
                "pattern must have a text that the tokenizer can write, got one without."
            )
        table = without_dead_ends(table, distances)
        self.table, self.distances = with_room(*with_states(table, distances, reachable(table)))

    def start(self, prompt_ids):
        """Return the state at the beginning of the new text, whatever the prompt: 0."""
        return 0

    @classmethod
    def from_regex(cls, pattern, tokenizer, *, stop_token=None):
        """Let the whole new text match a regular expression.

        Args:
            pattern: str, in the syntax that `tfgpt.safety.patterns` names: no look-around,
                no back-references.
            tokenizer: CharTokenizer or BPETokenizer of the model.
            stop_token: int; None: the tokenizer's end token.

        Returns:
            Grammar.

        Raises:
            ValueError: if the pattern is not understood, or matches no text that the
                tokenizer can write, or there is no stop token.

        Example:
            >>> from tfgpt import CharTokenizer
            >>> tokenizer = CharTokenizer.train("\\n01")
            >>> grammar = Grammar.from_regex("[01]{2}", tokenizer, stop_token=1)
            >>> int(grammar.distances[0])  # two digits
            2
        """
        return cls(*byte_automaton(pattern), tokenizer, stop_token)

    @classmethod
    def from_json_schema(cls, schema, tokenizer, *, stop_token=None):
        """Let the new text be compact JSON that a schema allows.

        Args:
            schema: dict, of the part of JSON schema that `schema_pattern` names.
            tokenizer: CharTokenizer or BPETokenizer of the model.
            stop_token: int; None: the tokenizer's end token.

        Returns:
            Grammar.

        Raises:
            ValueError: if the schema is not understood, the pattern of a string allows a
                quote, a backslash or a control character, no document can be written with
                the tokenizer, or there is no stop token.
        """
        return cls.from_regex(schema_pattern(schema), tokenizer, stop_token=stop_token)


def check_stop(tokenizer, stop_token):
    """Return the stop token of a grammar; raise if there is none."""
    stop_token = getattr(tokenizer, "end_id", None) if stop_token is None else stop_token
    if stop_token is None:
        raise ValueError(
            "stop_token must be given with a tokenizer without an end token, got None."
        )
    if check_integer("stop_token", stop_token, 0) >= tokenizer.vocab_size:
        raise ValueError(
            f"stop_token must be below the tokenizer's vocab_size={tokenizer.vocab_size}, "
            f"got {stop_token}."
        )
    return int(stop_token)
