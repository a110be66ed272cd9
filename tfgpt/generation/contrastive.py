"""Contrastive search: likely tokens that do not repeat what is already there.

The likeliest text of a language model tends to loop. Here each candidate token pays for
being similar to a token before it, as the model's own hidden states measure it.
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from tfgpt.compilation import run_compiled
from tfgpt.generation.beam import (
    IMPOSSIBLE,
    fill_after,
    is_any_of,
    may_be_chosen,
    reorder_rows,
    repeat_rows,
    search_arguments,
)
from tfgpt.generation.cache import read_text
from tfgpt.validation import check_positive


@dataclass(frozen=True)
class ContrastiveSearch:
    """Continue texts with a GPT by probability minus similarity to what stands before.

    Give it to `generate`. At each step, of the k likeliest tokens v the one with the
    largest (1 - alpha) p(v) - alpha max_j cos(h_v, h_j) is taken. h_v is the final
    hidden state of v, h_j those of all tokens before it, the prompt included. Nothing
    is drawn: the same prompt has the same continuation.

    Args:
        k: int >= 1, the number of candidates; 1 is greedy decoding.
        alpha: float in [0, 1], the weight of the similarity; 0 is greedy decoding.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> from tfgpt import GPT
        >>> model = GPT(10, context_length=8, num_layers=1, d_model=8, num_heads=2)
        >>> prompt = np.array([[1, 2]], "int32")
        >>> ContrastiveSearch(k=3).search(model, prompt, 4, (), vocab_size=10).shape
        (1, 6)

    Source: Su et al., "A Contrastive Framework for Neural Text Generation" (2022),
    section 3.2.
    """

    k: int = 4
    alpha: float = 0.6

    def __post_init__(self):
        check_positive("k", self.k)
        if isinstance(self.alpha, str) or not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {self.alpha!r}.")

    def search(self, model, prompt, max_new_tokens, stop_tokens, vocab_size):
        """Continue each prompt.

        The first call for a batch size compiles the search. Prompts of other lengths,
        other numbers of tokens, stop tokens and alphas use the same program; a text
        that is longer than any before may need a larger one.

        Args:
            model: GPT. Its pad_id is never chosen.
            prompt: int32 array (B, T).
            max_new_tokens: int >= 1, N; T + N <= context_length.
            stop_tokens: tuple of at most 8 ints, the tokens that end a text.
            vocab_size: int, only ids below it are chosen.

        Returns:
            int32 array (B, T + N), prompt included; after a stop token a text is
            filled with it.

        Raises:
            ValueError: if T + N > context_length, there are too many stop tokens, or
                fewer than k tokens can be chosen.
        """
        padding = model.pad_id is not None and model.pad_id < vocab_size
        if self.k > vocab_size - padding:
            raise ValueError(
                f"k must be at most {vocab_size - padding}, the number of tokens that can be "
                f"chosen, got {self.k}."
            )
        arguments = search_arguments(model, prompt, max_new_tokens, stop_tokens, vocab_size)
        arguments[1]["alpha"] = np.float32(self.alpha)
        token_ids, newest = run_compiled(model, contrastive_loop, arguments, self.k)
        if not np.isfinite(ops.convert_to_numpy(ops.cast(newest, "float32"))).all():
            raise ValueError("model must give finite hidden states, got NaN.")
        return np.asarray(token_ids)[:, : prompt.shape[1] + max_new_tokens]


def contrastive_loop(model, token_ids, numbers, k):
    """Run the search of `ContrastiveSearch`: prompts (B, C) -> texts (B, C).

    Also returns the final hidden states of the newest tokens, (B, 1, D).
    """
    batch, room = token_ids.shape
    allowed = may_be_chosen(model, numbers["vocab_size"])
    caches, hidden = read_text(
        model, token_ids, 0, numbers["length"], model.make_caches(batch, room), keep_hidden=True
    )

    def advance(position, token_ids, newest, directions, ended, caches):
        log_probs = ops.log_softmax(model.logits(newest)[:, 0])  # (B, 1, D) -> (B, V)
        log_probs, candidates = ops.top_k(ops.where(allowed, log_probs, IMPOSSIBLE), k)  # (B, k)
        candidates = ops.cast(candidates, "int32")
        # One row per candidate; all rows of a text have the same cache.
        hidden, caches = model.decode(ops.reshape(candidates, (-1, 1)), caches, position)
        hidden = ops.reshape(hidden, (batch, k, -1))  # (B k, 1, D) -> (B, k, D)
        similarity = largest_cosine(unit_vectors(hidden), directions, position)
        best = choose_candidate(ops.exp(log_probs), similarity, numbers["alpha"])  # (B, 1)

        tokens = ops.take_along_axis(candidates, best, axis=1)
        ending = ops.take(token_ids, position - 1, axis=1)[:, None]
        tokens = ops.where(ended, ending, tokens)
        token_ids = ops.slice_update(token_ids, (0, position), tokens)
        newest = ops.take_along_axis(hidden, best[..., None], axis=1)  # (B, 1, D)
        directions = ops.slice_update(directions, (0, position, 0), unit_vectors(newest))
        rows = ops.repeat(best, k, axis=1)  # the cache of the chosen one for all
        caches = keras.tree.map_structure(lambda x: reorder_rows(x, rows), caches)
        ended = ended | is_any_of(tokens, numbers["stop_tokens"])
        return position + 1, token_ids, newest, directions, ended, caches

    def unfinished(position, token_ids, newest, directions, ended, caches):
        return (position < numbers["total"]) & ~ops.all(ended)

    state = (
        numbers["length"],
        token_ids,
        ops.take(hidden, numbers["length"] - 1, axis=1)[:, None],  # (B, 1, D)
        unit_vectors(hidden),  # (B, C, D)
        ops.zeros((batch, 1), dtype="bool"),
        repeat_rows(caches, k),
    )
    position, token_ids, newest, *_ = ops.while_loop(unfinished, advance, state)
    return fill_after(token_ids, position - 1), newest


def unit_vectors(hidden):
    """Scale vectors to length 1 in float32: (..., D) -> (..., D)."""
    return ops.normalize(ops.cast(hidden, "float32"), axis=-1)


def largest_cosine(candidates, directions, length):
    """Compute the similarity of candidates to the most similar token before them.

    Args:
        candidates: float32 tensor (B, k, D), unit vectors.
        directions: float32 tensor (B, C, D), unit vectors.
        length: int scalar, how many of the C are there.

    Returns:
        float32 tensor (B, k), in [-1, 1].
    """
    cosines = ops.matmul(candidates, ops.swapaxes(directions, 1, 2))  # (B, k, C)
    return ops.max(ops.where(ops.arange(cosines.shape[-1]) < length, cosines, -1.0), axis=-1)


def choose_candidate(probabilities, similarity, alpha):
    """Pick the largest (1 - alpha) p - alpha s of each row: (B, k), (B, k) -> int32 (B, 1)."""
    scores = (1 - alpha) * probabilities - alpha * similarity
    return ops.cast(ops.argmax(scores, axis=-1, keepdims=True), "int32")
