"""Beam search: the likeliest target that an encoder-decoder finds for a source.

The source is encoded once. The whole search is one compiled loop with a cache of
keys and values for each beam. With one beam it is greedy decoding.
"""

import keras
import numpy as np
from keras import ops

from tfgpt.generation import compile_for
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

    A beginning that has reached the end token stays and competes with the others.
    Beginnings are ranked by log p / ((5 + length) / 6)^length_penalty, the end token
    counted. The search stops when all beams of all sources have ended. Source
    lengths may differ: pad with the model's pad_id.

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
        ValueError: if an argument is outside its range, or a source is too long or
            holds nothing but padding.

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
    arguments = keras.tree.map_structure(ops.convert_to_tensor, (source, numbers))
    run = compiled_search(model, arguments, beam_size)
    token_ids, scores = run(*arguments)
    return np.asarray(token_ids)[:, :, :max_new_tokens], np.asarray(scores)


def compiled_search(model, arguments, beam_size):
    """Return the compiled search for arguments of these shapes."""
    # Kept with the model, so that the programs live as long as its weights.
    programs = model.__dict__.setdefault("search_programs", {})
    key = (tuple(arguments[0].shape), beam_size, model.compute_dtype)
    if key not in programs:

        def search(*arguments):
            return search_loop(model, *arguments, beam_size)

        programs[key] = compile_for(model, search, arguments)
    return programs[key]


def search_loop(model, source, numbers, beam_size):
    """Run the search of `beam_search`: source (B, S) -> (B, K, max_length), (B, K)."""
    batch, room = source.shape[0], model.stack_settings["max_length"]
    cross_mask = padding_mask(source, model.pad_id)  # (B, 1, 1, S)
    memories = model.decoder.make_memories(model.encoder(source, mask=cross_mask))
    # One row per beam: (B, ...) -> (B K, ...)
    memories = keras.tree.map_structure(lambda x: ops.repeat(x, beam_size, axis=0), memories)
    cross_mask = ops.repeat(cross_mask, beam_size, axis=0)

    def has_ended(newest):
        # The pad_id can be chosen after an end token only.
        return (newest == numbers["end_id"]) | (newest == model.pad_id)

    def advance(position, newest, token_ids, totals, lengths, caches):
        output, caches = model.decoder.decode(
            ops.reshape(newest, (-1, 1)), caches, position, memories, cross_mask
        )
        logits = model.logits(output)[:, 0]  # (B K, V)
        continuations = ops.reshape(ops.log_softmax(logits), (batch, beam_size, -1))
        ended = has_ended(newest)  # (B, K)
        continuations = only_padding_after_end(continuations, ended, model.pad_id)
        lengths = lengths + ops.cast(~ended, "float32")
        beams, tokens, totals = choose(continuations, totals, lengths, numbers["length_penalty"])

        token_ids = pick_beams(token_ids, beams)
        token_ids = ops.slice_update(token_ids, (0, 0, position), tokens[..., None])
        caches = keras.tree.map_structure(lambda x: reorder_rows(x, beams), caches)
        return position + 1, tokens, token_ids, totals, pick_beams(lengths, beams), caches

    def unfinished(position, newest, *state):
        return (position < numbers["steps"]) & ~ops.all(has_ended(newest))

    starts = ops.full((batch, beam_size), numbers["start_id"], dtype="int32")
    state = (
        ops.zeros((), dtype="int32"),
        starts,
        ops.full((batch, beam_size, room), model.pad_id, dtype="int32"),
        # All beams begin alike: only the first counts.
        ops.where(ops.arange(beam_size) == 0, ops.zeros((batch, beam_size)), IMPOSSIBLE),
        ops.zeros((batch, beam_size)),
        model.decoder.make_caches(batch * beam_size, room),
    )
    _, _, token_ids, totals, lengths, _ = ops.while_loop(unfinished, advance, state)
    return token_ids, totals / penalty(lengths, numbers["length_penalty"])


def penalty(lengths, length_penalty):
    """Compute what log-probabilities are divided by: ((5 + length) / 6)^length_penalty."""
    return ((5.0 + lengths) / 6.0) ** length_penalty


def only_padding_after_end(continuations, ended, pad_id):
    """Forbid padding in a running beam, and all but padding in an ended one.

    Args:
        continuations: float32 tensor (B, K, V), log-probabilities.
        ended: bool tensor (B, K).
        pad_id: int.

    Returns:
        float32 tensor (B, K, V).
    """
    is_padding = ops.arange(continuations.shape[-1]) == pad_id
    free = ops.where(is_padding, 0.0, IMPOSSIBLE)
    running = ops.where(is_padding, IMPOSSIBLE, continuations)
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
    ranks = candidates / penalty(lengths, length_penalty)[..., None]
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


def check_search(model, beam_size, length_penalty, max_new_tokens):
    """Raise unless the arguments of a search are in range."""
    check_positive("beam_size", beam_size)
    if isinstance(length_penalty, str) or not 0 <= length_penalty < float("inf"):
        raise ValueError(f"length_penalty must be >= 0 and finite, got {length_penalty!r}.")
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
