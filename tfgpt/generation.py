"""Generation: one token at a time, each chosen from the model's distribution.

Every step runs the whole window again. Sampling is NumPy, so a seed gives the
same tokens from the same logits on every backend. Notebook 06 generates text.
"""

import warnings

import numpy as np

from tfgpt.validation import check_positive, check_token_ids


def generate(
    model,
    prompt_ids,
    max_new_tokens,
    temperature=1.0,
    top_k=None,
    top_p=None,
    stop_token=None,
    seed=None,
):
    """Continue prompts with tokens drawn from a GPT.

    Only the last `context_length` tokens are seen; a longer text slides through
    that window. Padding is never generated if the model has a pad_id.

    Args:
        model: GPT, or a Keras model with vocab_size and context_length whose
            logits at a position depend on earlier tokens only.
        prompt_ids: int array (B, T) or (T,), T >= 1.
        max_new_tokens: int >= 1, N.
        temperature: float >= 0, divides the logits; 0 takes the likeliest token.
        top_k: int >= 1, draw among the k likeliest tokens; None: all.
        top_p: float in (0, 1], draw among the fewest tokens whose probabilities
            sum to at least p; None: all.
        stop_token: int, a sequence ends when it is drawn and is filled with it.
        seed: int, the same seed gives the same tokens; None: different each time.

    Returns:
        int32 array (B, T + N), prompt included.

    Raises:
        TypeError: if the prompt is not integer.
        ValueError: if an argument is outside its range, the prompt is empty, or
            an id is outside the vocabulary.

    Example:
        >>> from tfgpt import GPT
        >>> model = GPT(10, context_length=4, num_layers=1, d_model=8, num_heads=2)
        >>> generate(model, [[1, 2]], max_new_tokens=3, seed=0).shape
        (1, 5)

    Source: top-p: Holtzman et al., "The Curious Case of Neural Text Degeneration"
    (2020), section 3.1.
    """
    check_positive("max_new_tokens", max_new_tokens)
    check_sampling(temperature, top_k, top_p)
    prompt = check_prompt(model, prompt_ids)
    if stop_token is not None:
        check_token_ids("stop_token", np.asarray(stop_token), model.vocab_size)

    batch, length = prompt.shape
    total = length + max_new_tokens
    context = model.context_length
    # Room for one full window; what lies to the right of a position is never seen.
    token_ids = np.zeros((batch, max(total, context)), dtype="int32")
    token_ids[:, :length] = prompt
    random = np.random.default_rng(seed)
    stopped = np.zeros(batch, dtype=bool)
    for position in range(length, total):
        start = max(0, position - context)
        window = token_ids[:, start : start + context]  # (B, C), one shape for all steps
        logits = np.asarray(model.predict_on_batch(window))[:, position - 1 - start]  # (B, V)
        if getattr(model, "pad_id", None) is not None:
            logits[:, model.pad_id] = -np.inf
        probabilities = next_token_probabilities(logits, temperature, top_k, top_p)
        token_ids[:, position] = draw(probabilities, random)
        if stop_token is not None:
            token_ids[stopped, position] = stop_token
            stopped |= token_ids[:, position] == stop_token
            if stopped.all():
                token_ids[:, position:total] = stop_token
                break
    return token_ids[:, :total]


def next_token_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """Turn logits into the distribution that the next token is drawn from.

    Args:
        logits: float array (B, V).
        temperature: float >= 0; 0 puts all probability on the largest logit.
        top_k: int >= 1 or None, applied first.
        top_p: float in (0, 1] or None, applied to what top_k left.

    Returns:
        float64 array (B, V), rows sum to 1.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> logits = np.log([[0.5, 0.3, 0.2]])
        >>> next_token_probabilities(logits, top_p=0.6).round(3).tolist()  # 0.5 and 0.3 remain
        [[0.625, 0.375, 0.0]]
    """
    check_sampling(temperature, top_k, top_p)
    logits = np.asarray(logits, dtype="float64")
    if temperature == 0:
        return np.eye(logits.shape[-1])[logits.argmax(axis=-1)]
    ranked = np.argsort(-logits, axis=-1, kind="stable")  # likeliest first
    scaled = np.take_along_axis(logits, ranked, axis=-1)
    # The largest becomes 0 first, so that no temperature is too small.
    with np.errstate(over="ignore"):
        scaled = (scaled - scaled[:, :1]) / temperature
    if top_k is not None:
        scaled[:, top_k:] = -np.inf
    probabilities = np.exp(scaled)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    if top_p is not None and top_p < 1:  # 1 keeps all, also those below rounding
        before = np.cumsum(probabilities, axis=-1) - probabilities
        # The first token is always kept: nothing stands before it.
        probabilities = np.where(before < top_p, probabilities, 0.0)
        probabilities /= probabilities.sum(axis=-1, keepdims=True)
    result = np.empty_like(probabilities)
    np.put_along_axis(result, ranked, probabilities, axis=-1)
    return result


def draw(probabilities, random):
    """Draw one token per row: (B, V) -> (B,)."""
    limits = np.cumsum(probabilities, axis=-1)
    points = random.random((len(limits), 1)) * limits[:, -1:]
    return (limits <= points).sum(axis=-1)


def check_sampling(temperature, top_k, top_p):
    """Raise unless the sampling arguments are in range."""
    if not temperature >= 0 or not np.isfinite(temperature):
        raise ValueError(f"temperature must be >= 0 and finite, got {temperature!r}.")
    if top_k is not None:
        check_positive("top_k", top_k)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p!r}.")


def check_prompt(model, prompt_ids):
    """Return the prompt as an int32 array (B, T)."""
    prompt = np.asarray(prompt_ids)
    if prompt.ndim == 1:
        prompt = prompt[None]
    if prompt.ndim != 2 or prompt.size == 0:
        raise ValueError(
            f"prompt_ids must have shape (B, T) or (T,) with T >= 1, got {prompt.shape}."
        )
    check_token_ids("prompt_ids", prompt, model.vocab_size)
    if prompt.shape[1] > model.context_length:
        warnings.warn(
            f"The prompt has {prompt.shape[1]} tokens; the model sees the last "
            f"context_length={model.context_length} of them.",
            stacklevel=3,
        )
    return prompt.astype("int32")
