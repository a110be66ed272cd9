"""Generation: one token at a time, each chosen from the model's distribution.

Up to the context length a GPT decodes with a cache of keys and values, in one
compiled loop. Past it, the window slides and is run again for every token.
"""

import warnings

import keras
import numpy as np
from keras import ops

from tfgpt.validation import check_integer, check_positive, check_token_ids

# Prompt tokens that enter the cache at once. One size for all prompts, so that
# another prompt length needs no new program.
CHUNK = 16


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
    that window. Padding is never generated if the model has a pad_id. The first
    call for a batch size compiles the loop; other prompts, lengths, temperatures,
    k, p and seeds use the same program.

    Args:
        model: GPT, or a Keras model with vocab_size and context_length whose
            logits at a position depend on earlier tokens only (runs uncached).
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
    if seed is not None:
        check_integer("seed", seed, minimum=0)
    prompt = check_prompt(model, prompt_ids)
    if stop_token is not None:
        check_token_ids("stop_token", np.asarray(stop_token), model.vocab_size)
    batch, length = prompt.shape
    sampling = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "stop_token": stop_token,
        "pad_id": getattr(model, "pad_id", None),
        "length": length,
    }
    total = length + max_new_tokens
    # One random point per token: the same for the cached and the sliding part.
    points = np.random.default_rng(seed).random((total, batch), dtype="float32")
    token_ids = np.zeros((batch, total), dtype="int32")
    token_ids[:, :length] = prompt
    cached = min(total, model.context_length) if hasattr(model, "decode") else length
    if cached > length:
        token_ids[:, :cached] = generate_cached(model, prompt, cached, points, sampling)
    return generate_sliding(model, token_ids, max(cached, length), points, sampling)


def generate_cached(model, prompt, total, points, sampling):
    """Fill a text up to `total` <= context_length tokens in one compiled loop."""
    batch, length = prompt.shape
    room = model.context_length
    token_ids = np.zeros((batch, room), dtype="int32")
    token_ids[:, :length] = prompt
    padded_points = np.zeros((room, batch), dtype="float32")
    padded_points[:total] = points[:total]
    greedy = sampling["temperature"] == 0
    filtered = sampling["top_k"] is not None or sampling["top_p"] is not None
    numbers = {
        "temperature": np.float32(1.0 if greedy else sampling["temperature"]),
        "top_k": np.int32(sampling["top_k"] or model.vocab_size),
        "top_p": np.float32(sampling["top_p"] or 1.0),
        # -1 is no token, so nothing stops.
        "stop_token": np.int32(-1 if sampling["stop_token"] is None else sampling["stop_token"]),
    }
    arguments = (token_ids, padded_points, np.int32(length), np.int32(total), numbers)
    arguments = keras.tree.map_structure(ops.convert_to_tensor, arguments)
    run = compiled_loop(model, arguments, greedy, filtered)
    return np.asarray(run(*arguments))[:, :total]


def compiled_loop(model, arguments, greedy, filtered):
    """Return the compiled decoding loop for arguments of these shapes.

    Args:
        model: GPT.
        arguments: tensors as `decode_loop` takes them; only their shapes count.
        greedy: bool, take the likeliest token.
        filtered: bool, use top_k and top_p.

    Returns:
        function (token_ids, points, length, total, numbers) -> token_ids.
    """
    # Kept with the model, so that the programs live as long as its weights.
    programs = model.__dict__.setdefault("generation_programs", {})
    key = (len(arguments[0]), model.compute_dtype, greedy, filtered)
    if key not in programs:

        def loop(*arguments):
            return decode_loop(model, *arguments, greedy, filtered)

        programs[key] = compile_for(model, loop, arguments)
    return programs[key]


def compile_for(model, function, arguments):
    """Compile a function of the model with the compiler of the backend."""
    if keras.backend.backend() == "tensorflow":
        return compile_with_xla(function, arguments)
    if keras.backend.backend() == "jax":
        import jax

        # The weights are arguments: as constants they would be copied into the program.
        @jax.jit
        def stateless(values, *arguments):
            with keras.StatelessScope(zip(model.variables, values, strict=True)):
                return function(*arguments)

        return lambda *arguments: stateless([v.value for v in model.variables], *arguments)
    return function


def compile_with_xla(function, arguments):
    """Compile a function with XLA; where XLA fails, run it as a plain tf.function.

    Args:
        function: function of tensors.
        arguments: tensors; only their shapes and dtypes count.

    Returns:
        function of tensors of these shapes. If XLA fails in its first call, it warns
        once and gives the same result more slowly.
    """
    import tensorflow as tf

    def trace(jit_compile, arguments):
        return tf.function(
            function, jit_compile=jit_compile, autograph=False
        ).get_concrete_function(*arguments)

    programs = [trace(True, arguments)]

    def run(*arguments):
        try:
            return programs[-1](*arguments)
        except tf.errors.OpError as error:
            if len(programs) == 2:
                raise
            warnings.warn(
                "XLA failed on this machine; going on without it, more slowly. `tfgpt doctor` "
                f"says more. XLA's message begins: {error.message[:200]}",
                stacklevel=2,
            )
            programs.append(trace(False, arguments))
            return programs[-1](*arguments)

    return run


def decode_loop(model, token_ids, points, length, total, numbers, greedy, filtered):
    """Write tokens from position `length` to `total` into token_ids (B, C)."""
    batch, room = token_ids.shape
    chunk = min(CHUNK, room)

    def read_chunk(start, caches):
        # The last chunk begins earlier, so that it does not pass the context.
        first = ops.minimum(start, room - chunk)
        places = first + ops.arange(chunk, dtype="int32")
        _, caches = model.decode(ops.take(token_ids, places, axis=1), caches, first)
        return start + chunk, caches

    # The prompt but for its last token. What a chunk holds beyond the prompt is
    # overwritten before it is seen.
    _, caches = ops.while_loop(
        lambda start, caches: start < length - 1,
        read_chunk,
        (ops.zeros((), dtype="int32"), model.make_caches(batch, room)),
    )

    def write_token(position, token_ids, caches, stopped):
        newest = ops.take(token_ids, position, axis=1)[:, None]  # (B, 1)
        hidden, caches = model.decode(newest, caches, position)
        logits = hide_padding(model.logits(hidden)[:, 0], model.pad_id)  # (B, 1, V) -> (B, V)
        if greedy:
            chosen = ops.cast(ops.argmax(logits, axis=-1), "int32")
        else:
            probabilities = with_temperature(logits, numbers["temperature"])
            if filtered:
                probabilities = keep_likeliest(probabilities, numbers["top_k"], numbers["top_p"])
            chosen = draw(probabilities, ops.take(points, position + 1, axis=0))
        chosen = ops.where(stopped, numbers["stop_token"], chosen)
        token_ids = ops.slice_update(token_ids, (0, position + 1), chosen[:, None])
        return position + 1, token_ids, caches, stopped | (chosen == numbers["stop_token"])

    position, token_ids, _, _ = ops.while_loop(
        lambda position, token_ids, caches, stopped: (position < total - 1) & ~ops.all(stopped),
        write_token,
        (length - 1, token_ids, caches, ops.zeros((batch,), dtype="bool")),
    )
    # If every sequence stopped early, the rest is the stop token.
    places = ops.arange(room, dtype="int32")
    return ops.where(places > position, numbers["stop_token"], token_ids)


def generate_sliding(model, token_ids, written, points, sampling):
    """Write token_ids (B, N) from place `written` on, running a whole window each time."""
    batch, total = token_ids.shape
    context = model.context_length
    # Room for one full window; what lies to the right of a position is never seen.
    buffer = np.zeros((batch, max(total, context)), dtype="int32")
    buffer[:, :total] = token_ids
    stop_token = sampling["stop_token"]
    stopped = np.zeros(batch, dtype=bool)
    if stop_token is not None:
        stopped = (token_ids[:, sampling["length"] : written] == stop_token).any(axis=1)
    for position in range(written, total):
        if stopped.all():
            buffer[:, position:total] = stop_token
            break
        start = max(0, position - context)
        window = buffer[:, start : start + context]  # (B, C), one shape for all steps
        logits = model.predict_on_batch(window)[:, position - 1 - start]  # (B, V)
        probabilities = next_token_probabilities(
            hide_padding(logits, sampling["pad_id"]),
            sampling["temperature"],
            sampling["top_k"],
            sampling["top_p"],
        )
        buffer[:, position] = draw(probabilities, points[position])
        if stop_token is not None:
            buffer[stopped, position] = stop_token
            stopped |= buffer[:, position] == stop_token
    return buffer[:, :total]


def hide_padding(logits, pad_id):
    """Make padding impossible: (B, V) -> (B, V)."""
    if pad_id is None:
        return ops.convert_to_tensor(logits)
    return ops.where(ops.arange(logits.shape[-1]) == pad_id, -np.inf, logits)


def next_token_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """Turn logits into the distribution that the next token is drawn from.

    Args:
        logits: float array (B, V).
        temperature: float >= 0; 0 puts all probability on the largest logit.
        top_k: int >= 1 or None, applied first.
        top_p: float in (0, 1] or None, applied to what top_k left.

    Returns:
        float32 tensor (B, V), rows sum to 1.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> logits = np.log([[0.5, 0.3, 0.2]])
        >>> np.array(next_token_probabilities(logits, top_p=0.6)).round(3).tolist()
        [[0.625, 0.375, 0.0]]
    """
    check_sampling(temperature, top_k, top_p)
    logits = ops.convert_to_tensor(logits, dtype="float32")
    if temperature == 0:
        return ops.one_hot(ops.argmax(logits, axis=-1), logits.shape[-1], dtype="float32")
    probabilities = with_temperature(logits, temperature)
    if top_k is None and top_p is None:
        return probabilities
    return keep_likeliest(probabilities, top_k or logits.shape[-1], 1.0 if top_p is None else top_p)


def with_temperature(logits, temperature):
    """Compute softmax(logits / temperature): float32 (B, V) -> (B, V)."""
    # The largest becomes 0 first, and float32 makes of no temperature 0 or infinity.
    temperature = ops.clip(ops.convert_to_tensor(temperature, "float32"), 1e-30, 1e30)
    logits = logits - ops.max(logits, axis=-1, keepdims=True)
    return ops.softmax(logits / temperature, axis=-1)


def keep_likeliest(probabilities, top_k, top_p):
    """Keep the k likeliest, of these the fewest that sum to p: (B, V) -> (B, V)."""
    order = ops.flip(ops.argsort(probabilities, axis=-1), axis=-1)  # likeliest first
    ranked = ops.take_along_axis(probabilities, order, axis=-1)
    ranked = ops.where(ops.arange(ranked.shape[-1]) < top_k, ranked, 0.0)
    before = ops.cumsum(ranked, axis=-1) - ranked
    # The first token is always kept: nothing stands before it. p = 1 keeps all.
    enough = before >= top_p * ops.sum(ranked, axis=-1, keepdims=True)
    ranked = ops.where(enough & (top_p < 1.0), 0.0, ranked)
    ranked = ranked / ops.sum(ranked, axis=-1, keepdims=True)
    return ops.take_along_axis(ranked, ops.argsort(order, axis=-1), axis=-1)


def draw(probabilities, points):
    """Pick the token at a random point of the distribution.

    Args:
        probabilities: float tensor (B, V), rows sum to 1.
        points: float tensor (B,), uniform in [0, 1).

    Returns:
        int32 tensor (B,).
    """
    limits = ops.cumsum(probabilities, axis=-1)
    points = points[:, None] * limits[:, -1:]
    # Rounding can put a point on the last limit; no token lies beyond that.
    beyond = (limits <= points) & (limits < limits[:, -1:])
    return ops.sum(ops.cast(beyond, "int32"), axis=-1)


def check_sampling(temperature, top_k, top_p):
    """Raise unless the sampling arguments are in range."""
    if isinstance(temperature, str) or not temperature >= 0 or not np.isfinite(temperature):
        raise ValueError(f"temperature must be >= 0 and finite, got {temperature!r}.")
    if top_k is not None:
        check_positive("top_k", top_k)
    if top_p is not None and (isinstance(top_p, str) or not 0 < top_p <= 1):
        raise ValueError(f"top_p must be in (0, 1], got {top_p!r}.")


def check_prompt(model, prompt_ids):
    """Return the prompt as an int32 array (B, T)."""
    for name in ("vocab_size", "context_length"):
        if not hasattr(model, name):
            raise TypeError(f"model must have the attribute {name}, got {type(model).__name__}.")
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
