"""Prompts and the ends of texts: checked and in one form, without a model's backend."""

import warnings
from collections import Counter

import numpy as np

from tfgpt.machine.devices import user_level
from tfgpt.validation import check_positive, check_token_ids

MOST_STOP_TOKENS = 8


def check_prompts(model, prompt_ids):
    """Return the prompts as a list of int32 arrays (T,)."""
    for name in ("vocab_size", "context_length"):
        if not hasattr(model, name):
            raise TypeError(f"model must have the attribute {name}, got {type(model).__name__}.")
    rows = prompt_rows(prompt_ids)
    for row in rows:
        check_token_ids("prompt_ids", row, model.vocab_size)
    pad_id = getattr(model, "pad_id", None)
    if pad_id is not None:
        rows = [without_padding(row, index, pad_id) for index, row in enumerate(rows)]
    longest = max(len(row) for row in rows)
    if longest > model.context_length:
        warnings.warn(
            f"The prompt has {longest} tokens; the model sees the last "
            f"context_length={model.context_length} of them.",
            stacklevel=user_level(),
        )
    return [row.astype("int32") for row in rows]


def prompt_rows(prompt_ids):
    """Split prompts into a list of arrays (T,), T >= 1."""
    if hasattr(prompt_ids, "to_list"):  # a tf.RaggedTensor
        prompt_ids = prompt_ids.to_list()
    if isinstance(prompt_ids, (list, tuple)):
        rows = [np.asarray(row) for row in prompt_ids]
        lengths = [len(row) if row.ndim == 1 else None for row in rows]
        if None not in lengths and len(set(lengths)) > 1:
            if 0 in lengths:
                raise ValueError(
                    "prompt_ids must have a token in every row, got none in row "
                    f"{lengths.index(0)}."
                )
            return rows
    prompt = np.asarray(prompt_ids)
    if prompt.ndim == 1:
        prompt = prompt[None]
    if prompt.ndim != 2 or prompt.size == 0:
        raise ValueError(
            f"prompt_ids must have shape (B, T) or (T,) with T >= 1, got {prompt.shape}."
        )
    return list(prompt)


def without_padding(row, index, pad_id):
    """Cut the padding off both ends of a prompt (T,); raise if there is any inside."""
    (real,) = np.nonzero(row != pad_id)
    if not real.size:
        raise ValueError(f"prompt_ids must have a token in every row, got none in row {index}.")
    row = row[real[0] : real[-1] + 1]
    if (row == pad_id).any():
        raise ValueError(
            f"prompt_ids must have padding (pad_id={pad_id}) at the ends only, "
            f"got some inside row {index}."
        )
    return row


def check_vocab_size(model, vocab_size):
    """Return how many ids may be generated."""
    if vocab_size is None:
        return model.vocab_size
    check_positive("vocab_size", vocab_size)
    if vocab_size > model.vocab_size:
        raise ValueError(
            f"vocab_size must be at most the model's vocab_size={model.vocab_size}, "
            f"got {vocab_size}."
        )
    return int(vocab_size)


def check_stop_tokens(model, stop_token, vocab_size):
    """Return the stop tokens as a tuple of int; raise if one can never be written."""
    if stop_token is None or (isinstance(stop_token, (list, tuple)) and not stop_token):
        return ()
    tokens = np.asarray(stop_token)
    check_token_ids("stop_token", tokens, vocab_size)
    pad_id = getattr(model, "pad_id", None)
    if pad_id is not None and (tokens == pad_id).any():
        raise ValueError(f"stop_token must not be the pad_id={pad_id}, which is never written.")
    if tokens.ndim > 1 or tokens.size > MOST_STOP_TOKENS:
        raise ValueError(
            f"stop_token must be an integer or at most {MOST_STOP_TOKENS} of them, "
            f"got shape {tokens.shape}."
        )
    return tuple(np.atleast_1d(tokens).tolist())


def row_generators(prompts, seed):
    """Make one random generator per prompt: list of B numpy Generators.

    It depends on the seed, the prompt and how often the same prompt came before: so a
    prompt goes on as it would alone, and several samples of one prompt differ.
    """
    entropy = np.random.SeedSequence(seed).entropy
    counts, generators = Counter(), []
    for prompt in prompts:
        key = prompt.tobytes()
        generators.append(np.random.default_rng([entropy, counts[key], *prompt.tolist()]))
        counts[key] += 1
    return generators
