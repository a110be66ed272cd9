"""Constraints: which tokens may come next, decided by an automaton that has read the text.

An automaton is in one state at a time. A table tells, for each state and token, the next
state, or that the token is forbidden. The state of each text goes through the loop that
writes, beside the cache of keys and values. S states, V vocabulary, B batch.
"""

import abc

import numpy as np

FORBIDDEN = -1
# The distance of a state from which no allowed text can be reached.
NEVER = 2**30


class Constraint(abc.ABC):
    """Which texts may be written. Give it to `generate`, `stream` or a text model.

    Its tokens are chosen before the other settings of `generate` look at them: the
    samplers draw among what is left. Two constraints of as many states share a program.

    Attributes:
        table: int32 array (S, V), the next state; -1 where a token is forbidden.
        distances: int32 array (S,), how many more tokens a text needs at least.
        stop_token: int, the token that ends a text of this constraint, which no other may;
            None: any may.
    """

    @abc.abstractmethod
    def start(self, prompt_ids):
        """Return the state after a prompt.

        Args:
            prompt_ids: int array (T,).

        Returns:
            int in [0, S).
        """


def check_constraint(constraint, prompts, vocab_size, stop_tokens, max_new_tokens):
    """Raise unless a constraint fits the vocabulary and allows a text after each prompt.

    Args:
        constraint: the value to check.
        prompts: list of int arrays (T,).
        vocab_size: int, ids from it on are never written.
        stop_tokens: tuple of ints.
        max_new_tokens: int, N.

    Raises:
        TypeError: if it is no Constraint.
        ValueError: if its vocabulary is larger, another stop token is asked for, or no
            allowed text has at most N tokens.
    """
    if not isinstance(constraint, Constraint):
        raise TypeError(
            f"constraint must be BannedPhrases, Grammar or another Constraint, got {constraint!r}."
        )
    width = constraint.table.shape[1]
    if width > vocab_size:
        raise ValueError(
            f"constraint must know at most the vocab_size={vocab_size} tokens that are written, "
            f"got one of {width} tokens."
        )
    if constraint.stop_token is not None and set(stop_tokens) - {constraint.stop_token}:
        raise ValueError(
            f"stop_token must be {constraint.stop_token}, the one of the constraint, "
            f"got {stop_tokens}."
        )
    distances = constraint.distances[start_states(constraint, prompts)]  # (B,)
    if (distances == NEVER).any():
        raise ValueError(
            "prompt_ids must leave a token that the constraint allows, got none after row "
            f"{distances.argmax()}."
        )
    shortest = distances.max()
    if shortest > max_new_tokens:
        raise ValueError(
            f"max_new_tokens must be at least {shortest}, which the shortest text that the "
            f"constraint allows takes, got {max_new_tokens}."
        )


def constraint_stop(stop_token, constraint):
    """Return the stop token that is asked for, or else that of the constraint."""
    return getattr(constraint, "stop_token", None) if stop_token is None else stop_token


def start_states(constraint, prompts):
    """Return the state of each text after its prompt: list of B int arrays (T,) -> int32 (B,)."""
    if constraint is None:
        return np.zeros(len(prompts), dtype="int32")
    return np.array([constraint.start(prompt) for prompt in prompts], dtype="int32")


def constraint_rules(constraint, vocab_size):
    """Return the arrays of a constraint, as wide as the logits: dict; empty without one."""
    if constraint is None:
        return {}
    missing = vocab_size - constraint.table.shape[1]
    table = np.pad(constraint.table, ((0, 0), (0, missing)), constant_values=FORBIDDEN)
    return {"table": table, "distances": constraint.distances}
