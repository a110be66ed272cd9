"""Beam search: a likely target for a source, or a likely continuation of a text.

`beam_search` is for an encoder-decoder, which encodes the source once; `BeamSearch` is
for a GPT. Both run one compiled loop with a cache of keys and values for each beam.
With one beam it is greedy decoding.
"""

from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np
from keras import ops

from tfgpt.compilation import run_compiled
from tfgpt.generation.cache import cache_room, read_text
from tfgpt.generation.constraints import constraint_rules, start_states
from tfgpt.generation.decoding import allowed_tokens, next_states
from tfgpt.generation.prompts import MOST_STOP_TOKENS
from tfgpt.generation.request import stop_token_row
from tfgpt.masks import padding_mask
from tfgpt.validation import check_length, check_positive, check_token_ids

# The score of what cannot be chosen. Finite: the difference of two infinities is NaN.
IMPOSSIBLE = -1e9
# Sources are padded to a multiple of it, so that few lengths need a program of their own.
SOURCE_STEP = 16


def beam_search(
    model,
    source_ids,
    start_id=1,
    end_id=2,
    beam_size=4,
    length_penalty=1.0,
    max_new_tokens=None,
):
    """Translate ids, keeping the best `beam_size` beginnings at every step.

    A beginning that has reached the end token stays and competes with the others; the
    best ended ones are kept also when others push them out. Beginnings are ranked by
    log p / ((5 + length) / 6)^length_penalty, the end token counted. The search stops
    when all beams of all sources have ended. Source lengths may differ: pad with the
    model's pad_id.

    Args:
        model: Transformer.
        source_ids: int array (B, S), S <= max_length.
        start_id: int, the first token that the decoder reads.
        end_id: int, the token that ends a target.
        beam_size: int >= 1, K; 1 is greedy decoding.
        length_penalty: float >= 0; 0 prefers short targets, larger values longer ones.
        max_new_tokens: int >= 1, end token included; default: the model's max_length.

    Returns:
        token_ids: int32 array (B, K, N), best first, without the start token, filled
            with the pad_id after the end token.
        scores: float32 array (B, K), the penalised log-probabilities; below -1e8
            where fewer than K targets exist.

    Raises:
        TypeError: if ids are not integers.
        ValueError: if an argument is outside its range, a source is too long or holds
            nothing but padding, or the model's logits are NaN.

    Example:
        >>> from tfgpt import Transformer
        >>> model = Transformer(1, 8, 2, 32, 20, 30, max_length=6)
        >>> token_ids, scores = beam_search(model, np.array([[5, 6, 0]]), beam_size=2)
        >>> token_ids.shape, scores.shape
        ((1, 2, 6), (1, 2))

    Source: Wu et al., "Google's Neural Machine Translation System" (2016), section 7
    (length penalty); notebook 07.
    """
    max_length = model.stack_settings["max_length"]
    max_new_tokens = max_length if max_new_tokens is None else max_new_tokens
    check_search(model, beam_size, length_penalty, max_new_tokens)
    for name, token_id in (("start_id", start_id), ("end_id", end_id)):
        check_token_ids(name, np.asarray(token_id), model.target_vocab_size)
    if end_id in (start_id, model.pad_id):
        raise ValueError(
            f"end_id must differ from start_id={start_id} and the model's pad_id={model.pad_id}, "
            f"got {end_id}."
        )
    source = check_source(model, source_ids)
    room = min(-(-source.shape[1] // SOURCE_STEP) * SOURCE_STEP, max_length) - source.shape[1]
    source = np.pad(source, ((0, 0), (0, room)), constant_values=model.pad_id)
    numbers = {
        "start_id": np.int32(start_id),
        "end_id": np.int32(end_id),
        "length_penalty": np.float32(length_penalty),
        "steps": np.int32(max_new_tokens),
    }
    token_ids, scores = run_compiled(model, target_loop, (source, numbers), beam_size)
    check_scores(scores)
    return np.asarray(token_ids)[:, :, :max_new_tokens], np.asarray(scores)


@dataclass(frozen=True)
class BeamSearch:
    """Continue texts with a GPT, keeping the best `beam_size` beginnings at every step.

    Give it to `generate`. It finds a likely text, not a varied one: nothing is drawn.
    A beginning that has reached a stop token stays and competes with the others.
    Beginnings are ranked by log p / ((5 + length) / 6)^length_penalty; the length is
    the number of new tokens, the stop token counted.

    Args:
        beam_size: int >= 1, K; 1 is greedy decoding.
        length_penalty: float >= 0; 0 prefers short texts, larger values longer ones. It
            matters only if there are stop tokens.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> from tfgpt import GPT
        >>> model = GPT(10, context_length=8, num_layers=1, d_model=8, num_heads=2)
        >>> prompt = np.array([[1, 2]], "int32")
        >>> BeamSearch(beam_size=2).search(model, prompt, 3, (), vocab_size=10).shape
        (1, 5)

    Source: Wu et al., "Google's Neural Machine Translation System" (2016), section 7
    (length penalty).
    """

    beam_size: int = 4
    length_penalty: float = 1.0
    takes_constraint: ClassVar[bool] = True

    def __post_init__(self):
        check_beams(self.beam_size, self.length_penalty)

    def search(self, model, prompt, max_new_tokens, stop_tokens, vocab_size, constraint=None):
        """Find the best continuation of each prompt.

        The first call for a batch size compiles the search. Prompts of other lengths,
        other numbers of tokens, stop tokens and penalties use the same program; a text
        that is longer than any before may need a larger one.

        Args:
            model: GPT. Its pad_id is never chosen.
            prompt: int32 array (B, T).
            max_new_tokens: int >= 1, N; T + N <= context_length.
            stop_tokens: tuple of at most 8 ints, the tokens that end a text.
            vocab_size: int, only ids below it are chosen.
            constraint: Constraint, which texts are allowed; None: all. Their probability
                remains that of the model.

        Returns:
            int32 array (B, T + N), prompt included; after a stop token a text is
            filled with it.

        Raises:
            ValueError: if T + N > context_length, or there are too many stop tokens.
        """
        arguments = search_arguments(model, prompt, max_new_tokens, stop_tokens, vocab_size)
        arguments[1]["length_penalty"] = np.float32(self.length_penalty)
        arguments[1]["rules"] = constraint_rules(constraint, model.vocab_size)
        arguments[1]["states"] = start_states(constraint, prompt)
        token_ids, scores = run_compiled(model, text_loop, arguments, self.beam_size)
        check_scores(scores)
        return np.asarray(token_ids)[:, : prompt.shape[1] + max_new_tokens]


def search_arguments(model, prompt, max_new_tokens, stop_tokens, vocab_size):
    """Return the arrays that a compiled search of texts takes.

    Args:
        model: GPT.
        prompt: int32 array (B, T).
        max_new_tokens: int, N.
        stop_tokens: tuple of ints.
        vocab_size: int, only ids below it may be chosen.

    Returns:
        token_ids: int32 array (B, C), the prompt and room for new tokens.
        numbers: dict of arrays: length T, total T + N, vocab_size, stop_tokens (8,).

    Raises:
        TypeError: if the model decodes without a cache only.
        ValueError: if T + N > context_length, or there are too many stop tokens.
    """
    if not hasattr(model, "decode"):
        raise TypeError(f"model must have a method decode, got {type(model).__name__}.")
    length = prompt.shape[1]
    total = length + max_new_tokens
    if total > model.context_length:
        raise ValueError(
            "prompt and max_new_tokens must fit "
            f"context_length={model.context_length}, got {length} + {max_new_tokens} tokens."
        )
    if len(stop_tokens) > MOST_STOP_TOKENS:
        raise ValueError(
            f"stop_tokens must be at most {MOST_STOP_TOKENS} tokens, got {len(stop_tokens)}."
        )
    room = cache_room(total, model.context_length)
    numbers = {
        "length": np.int32(length),
        "total": np.int32(total),
        "vocab_size": np.int32(vocab_size),
        "stop_tokens": stop_token_row(stop_tokens),
    }
    return np.pad(prompt.astype("int32"), ((0, 0), (0, room - length))), numbers


def may_be_chosen(model, vocab_size):
    """Tell which ids a search may choose: all below vocab_size but padding, bool (V,)."""
    ids = ops.arange(model.vocab_size, dtype="int32")
    allowed = ids < vocab_size
    return allowed if model.pad_id is None else allowed & (ids != model.pad_id)


def repeat_rows(tree, times):
    """Repeat each row of all tensors: (B, ...) -> (B times, ...)."""
    return keras.tree.map_structure(lambda x: ops.repeat(x, times, axis=0), tree)


def text_loop(model, token_ids, numbers, beam_size):
    """Run the search of `BeamSearch`: prompts (B, C) -> the best texts (B, C), scores (B, K)."""
    batch, room = token_ids.shape
    last = numbers["length"] - 1
    caches = model.make_caches(batch, room)
    caches, _ = read_text(model, token_ids, 0, last, caches)

    def step(newest, caches, position):
        hidden, caches = model.decode(newest, caches, position)
        return model.logits(hidden)[:, 0], caches  # (B K, V)

    token_ids, scores = beam_loop(
        step,
        repeat_rows(caches, beam_size),
        ops.repeat(token_ids[:, None], beam_size, axis=1),
        (last, numbers["total"] - 1),
        may_be_chosen(model, numbers["vocab_size"]),
        numbers,
    )
    return token_ids[:, 0], scores  # the best is the first


def target_loop(model, source, numbers, beam_size):
    """Run the search of `beam_search`: source (B, S) -> (B, K, max_length), (B, K)."""
    batch, room = source.shape[0], model.stack_settings["max_length"]
    cross_mask = padding_mask(source, model.pad_id)  # (B, 1, 1, S)
    memories = model.decoder.make_memories(model.encoder(source, mask=cross_mask))
    memories, cross_mask = repeat_rows((memories, cross_mask), beam_size)

    def step(newest, caches, position):
        output, caches = model.decoder.decode(newest, caches, position, memories, cross_mask)
        return model.logits(output)[:, 0], caches  # (B K, V)

    token_ids, scores = beam_loop(
        step,
        model.decoder.make_caches(batch * beam_size, room),
        ops.full((batch, beam_size, room + 1), numbers["start_id"], dtype="int32"),
        (ops.zeros((), dtype="int32"), numbers["steps"]),
        ops.arange(model.target_vocab_size) != model.pad_id,
        numbers | {"stop_tokens": numbers["end_id"][None], "rules": {}, "states": source[:, 0]},
    )
    token_ids = token_ids[:, :, 1:]
    is_end = ops.cast(token_ids == numbers["end_id"], "int32")
    comes_after = ops.cumsum(is_end, axis=-1) > is_end
    return ops.where(comes_after, model.pad_id, token_ids), scores


def beam_loop(step, caches, token_ids, places, allowed, numbers):
    """Continue all beams of all texts until they have ended or are full.

    Args:
        step: function (newest tokens (B K, 1), caches, position) -> logits (B K, V) of
            the tokens after them, and the caches.
        caches: tensors (B K, ...), they hold what stands before the first place.
        token_ids: int32 tensor (B, K, C), the beginnings; the beams of a text are alike.
        places: two int scalars: the place of the newest token, and the last to be written.
        allowed: bool tensor (V,), the tokens that may be chosen.
        numbers: dict of tensors: stop_tokens (S,), length_penalty; the rules of a constraint,
            or none, and its states (B,).

    Returns:
        token_ids: int32 tensor (B, K, C), best first. An ended beam is filled with the
            token that ended it. Places after the last have no meaning.
        scores: float32 tensor (B, K), the penalised log-probabilities.
    """
    batch, beam_size, _ = token_ids.shape
    first, last = places
    length_penalty, rules = numbers["length_penalty"], numbers["rules"]

    def advance(position, token_ids, totals, lengths, ended, finished, caches, states):
        newest = ops.take(token_ids, position, axis=2)  # (B, K)
        logits, caches = step(ops.reshape(newest, (-1, 1)), caches, position)
        continuations = ops.reshape(ops.log_softmax(logits), (batch, beam_size, -1))
        may_follow = allowed
        if rules:
            left = ops.broadcast_to(last - position, states.shape)
            may_follow = allowed & allowed_tokens(rules, states, left)  # (B, K, V)
        continuations = only_repeats_after_end(continuations, newest, ended, may_follow)
        lengths = lengths + ops.cast(~ended, "float32")
        beams, tokens, totals = choose(continuations, totals, lengths, length_penalty)

        if rules:
            states = next_states(rules, pick_beams(states, beams), tokens)
        token_ids, lengths = pick_beams(token_ids, beams), pick_beams(lengths, beams)
        token_ids = ops.slice_update(token_ids, (0, 0, position + 1), tokens[..., None])
        had_ended = pick_beams(ended, beams)
        ended = had_ended | is_any_of(tokens, numbers["stop_tokens"])
        scores = penalised(totals, lengths, length_penalty)
        new = ops.where(ended & ~had_ended, scores, IMPOSSIBLE)
        finished = best_of(finished, (fill_after(token_ids, position + 1), new))
        caches = keras.tree.map_structure(lambda x: reorder_rows(x, beams), caches)
        return position + 1, token_ids, totals, lengths, ended, finished, caches, states

    def unfinished(position, token_ids, totals, lengths, ended, finished, caches, states):
        return (position < last) & ~ops.all(ended)

    nothing = ops.full((batch, beam_size), IMPOSSIBLE, dtype="float32")
    state = (
        first,
        token_ids,
        # All beams begin alike: only the first counts.
        ops.where(ops.arange(beam_size) == 0, ops.zeros((batch, beam_size)), IMPOSSIBLE),
        ops.zeros((batch, beam_size)),
        ops.zeros((batch, beam_size), dtype="bool"),
        (token_ids, nothing),
        caches,
        ops.repeat(numbers["states"][:, None], beam_size, axis=1),
    )
    position, token_ids, totals, lengths, ended, finished, *_ = ops.while_loop(
        unfinished, advance, state
    )
    # An ended beam is among the finished ones already.
    running = ops.where(ended, IMPOSSIBLE, penalised(totals, lengths, length_penalty))
    return best_of(finished, (fill_after(token_ids, position), running))


def best_of(first, second):
    """Keep the K best of two sets of texts.

    Args:
        first: texts int32 (B, K, C) and their scores float32 (B, K).
        second: the same; of equal scores those of `first` are better.

    Returns:
        texts and scores, best first.
    """
    token_ids, scores = (ops.concatenate(pair, axis=1) for pair in zip(first, second, strict=True))
    # The rank of each among the 2 K; XLA takes seconds to compile a sort.
    mine, other = scores[:, :, None], scores[:, None, :]  # (B, 2 K, 1), (B, 1, 2 K)
    order = ops.arange(scores.shape[1], dtype="int32")
    is_before = (other > mine) | ((other == mine) & (order[None, :] < order[:, None]))
    ranks = ops.sum(ops.cast(is_before, "int32"), axis=-1)  # (B, 2 K)
    wanted = order[: first[1].shape[1], None]  # (K, 1)
    places = ops.cast(ops.argmax(ranks[:, None] == wanted, axis=-1), "int32")  # (B, K)
    return pick_beams(token_ids, places), ops.take_along_axis(scores, places, axis=1)


def check_scores(scores):
    """Raise unless the best text of each row has a score, which NaN logits give to none."""
    if not (np.asarray(scores)[:, 0] > IMPOSSIBLE / 10).all():
        raise ValueError("model must give finite logits and leave a token to choose, got NaN.")


def is_any_of(tokens, stop_tokens):
    """Tell which tokens are among the stop tokens: int (...) and (S,) -> bool (...)."""
    return ops.any(tokens[..., None] == stop_tokens, axis=-1)


def fill_after(token_ids, position):
    """Repeat the token at a place in all later places: (..., C) -> (..., C)."""
    newest = ops.take(token_ids, position, axis=-1)[..., None]
    return ops.where(ops.arange(token_ids.shape[-1]) > position, newest, token_ids)


def penalty(lengths, length_penalty):
    """Compute what log-probabilities are divided by: ((5 + length) / 6)^length_penalty."""
    return ((5.0 + lengths) / 6.0) ** length_penalty


def penalised(totals, lengths, length_penalty):
    """Divide log-probabilities by the penalty; what is impossible stays so."""
    possible = totals > IMPOSSIBLE / 2
    return ops.where(possible, totals / penalty(lengths, length_penalty), totals)


def only_repeats_after_end(continuations, newest, ended, allowed):
    """Let an ended beam repeat its last token only, and a running one only choose as allowed.

    Args:
        continuations: float32 tensor (B, K, V), log-probabilities.
        newest: int tensor (B, K), the last tokens.
        ended: bool tensor (B, K).
        allowed: bool tensor (V,) or (B, K, V).

    Returns:
        float32 tensor (B, K, V).
    """
    is_newest = ops.arange(continuations.shape[-1]) == newest[..., None]  # (B, K, V)
    free = ops.where(is_newest, 0.0, IMPOSSIBLE)
    running = ops.where(allowed, continuations, IMPOSSIBLE)
    return ops.where(ended[..., None], free, running)


def choose(continuations, totals, lengths, length_penalty):
    """Choose the best K of all K x V continuations of each source.

    Args:
        continuations: float32 tensor (B, K, V), log-probabilities of the next token.
        totals: float32 tensor (B, K), log-probabilities so far.
        lengths: float32 tensor (B, K), the lengths with the next token.
        length_penalty: float scalar.

    Returns:
        beams: int32 tensor (B, K), which beginning is continued.
        tokens: int32 tensor (B, K), with which token.
        totals: float32 tensor (B, K), log-probabilities with it.
    """
    batch, beam_size, vocab_size = continuations.shape
    candidates = totals[..., None] + continuations  # (B, K, V)
    ranks = penalised(candidates, lengths[..., None], length_penalty)
    _, places = ops.top_k(ops.reshape(ranks, (batch, -1)), beam_size)  # (B, K)
    places = ops.cast(places, "int32")
    flat = ops.reshape(candidates, (batch, -1))
    totals = ops.take_along_axis(flat, places, axis=1)
    return places // vocab_size, places % vocab_size, totals


def pick_beams(x, beams):
    """Reorder the beams of each source: (B, K, ...) and int (B, K) -> (B, K, ...)."""
    beams = ops.reshape(beams, (*beams.shape, *([1] * (len(x.shape) - 2))))
    return ops.take_along_axis(x, beams, axis=1)


def reorder_rows(x, beams):
    """Reorder rows that hold one beam each: (B K, ...) and int (B, K) -> (B K, ...)."""
    batch, beam_size = beams.shape
    if beam_size == 1:
        return x
    rows = beams + ops.arange(batch, dtype="int32")[:, None] * beam_size
    return ops.take(x, ops.reshape(rows, (-1,)), axis=0)


def check_beams(beam_size, length_penalty):
    """Raise unless number of beams and length penalty are in range."""
    check_positive("beam_size", beam_size)
    if isinstance(length_penalty, str) or not 0 <= length_penalty < float("inf"):
        raise ValueError(f"length_penalty must be >= 0 and finite, got {length_penalty!r}.")


def check_search(model, beam_size, length_penalty, max_new_tokens):
    """Raise unless the arguments of `beam_search` are in range."""
    check_beams(beam_size, length_penalty)
    check_positive("max_new_tokens", max_new_tokens)
    max_length = model.stack_settings["max_length"]
    if max_new_tokens > max_length:
        raise ValueError(
            f"max_new_tokens must be at most the model's max_length={max_length}, "
            f"got {max_new_tokens}."
        )


def check_source(model, source_ids):
    """Return the sources as an int32 array (B, S)."""
    source = np.asarray(source_ids)
    if source.ndim != 2 or source.size == 0:
        raise ValueError(f"source_ids must have shape (B, S) with B, S >= 1, got {source.shape}.")
    check_token_ids("source_ids", source, model.source_vocab_size)
    check_length("source_ids", source, "max_length", model.stack_settings["max_length"])
    if not (source != model.pad_id).any(axis=1).all():
        raise ValueError("source_ids must have a token in every row, got a row of padding only.")
    return source.astype("int32")
