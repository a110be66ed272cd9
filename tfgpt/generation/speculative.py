"""Speculative decoding: a small draft model proposes, the large model checks.

One pass of the large model over several proposed tokens costs little more than a pass
over one. The rule of acceptance keeps its distribution exactly, whatever the draft.
"""

import numpy as np
from keras import ops

from tfgpt.generation.beam import may_be_chosen, read_chunks, run_compiled
from tfgpt.generation.decoding import cache_room, sampler_numbers
from tfgpt.generation.samplers import adjust_logits, draw, make_samplers
from tfgpt.validation import check_integer, check_positive, check_token_ids


def speculative_generate(
    model,
    draft,
    prompt_ids,
    max_new_tokens,
    lookahead=4,
    temperature=1.0,
    top_k=None,
    top_p=None,
    stop_token=None,
    seed=None,
    return_acceptance=False,
):
    """Continue one prompt with a GPT, helped by a smaller one.

    The draft proposes `lookahead` tokens, the model scores all of them in one pass.
    The tokens have the distribution of `generate` with the model alone; only the
    random numbers are used in another way. At temperature 0 they are the same tokens.
    A good draft saves time, a bad one costs some. The first call compiles one program
    for each of the two models; other prompts, lengths, numbers of tokens and seeds use
    the same.

    Args:
        model: GPT. Its pad_id is never generated.
        draft: GPT with the same vocabulary.
        prompt_ids: int array (1, T) or (T,), T >= 1.
        max_new_tokens: int >= 1, N; T + N must fit both contexts.
        lookahead: int >= 1, how many tokens are proposed for one pass of the model.
        temperature: float >= 0, divides the logits; 0 takes the likeliest token.
        top_k: int >= 1, draw among the k likeliest tokens; None: all.
        top_p: float in (0, 1], draw among the fewest tokens whose probabilities
            sum to at least p; None: all.
        stop_token: int, the text ends when it is drawn and is filled with it.
        seed: int, the same seed gives the same tokens; None: different each time.
        return_acceptance: bool, also return how many proposed tokens were accepted
            per pass of the model, on average; one more token comes from each pass.

    Returns:
        int32 array (1, T + N), prompt included; with return_acceptance=True also a
        float in [0, lookahead].

    Raises:
        TypeError: if the prompt is not integer.
        ValueError: if an argument is outside its range, the vocabularies differ, or
            T + N is more than a context_length.

    Example:
        >>> from tfgpt import GPT
        >>> model = GPT(10, context_length=8, num_layers=2, d_model=16, num_heads=2)
        >>> draft = GPT(10, context_length=8, num_layers=1, d_model=8, num_heads=2)
        >>> speculative_generate(model, draft, [[1, 2]], 5, lookahead=2, seed=0).shape
        (1, 7)

    Source: Leviathan et al., "Fast Inference from Transformers via Speculative
    Decoding" (2023), algorithm 1.
    """
    prompt = check_speculation(model, draft, prompt_ids, max_new_tokens, lookahead)
    if stop_token is not None:
        check_token_ids("stop_token", np.asarray(stop_token), model.vocab_size)
    if seed is not None:
        check_integer("seed", seed, minimum=0)
    samplers = make_samplers(temperature, top_k, top_p)
    generator = np.random.default_rng(seed)
    written = prompt.shape[1]
    total = written + max_new_tokens
    room = cache_room(total, min(model.context_length, draft.context_length))
    text = np.pad(prompt, ((0, 0), (0, room - written)))  # (1, C)
    readers = [Reader(gpt, room, samplers, min(lookahead, room - 1)) for gpt in (draft, model)]
    counts = []
    while written < total:
        text, accepted = write_tokens(*readers, text, written, total, generator)
        counts.append(accepted)
        new = text[0, written : written + accepted + 1]
        if stop_token is not None and stop_token in new:
            text[0, written + np.argmax(new == stop_token) : total] = stop_token
            break
        written += accepted + 1
    token_ids = text[:, :total]
    return (token_ids, float(np.mean(counts))) if return_acceptance else token_ids


class Reader:
    """A GPT that reads a text as it grows: its cache, and how much of the text is in it.

    Args:
        model: GPT.
        room: int, C, the longest text.
        samplers: list of samplers, what makes probabilities of logits.
        lookahead: int, how many tokens are proposed at once.
    """

    def __init__(self, model, room, samplers, lookahead):
        self.model = model
        self.caches = model.make_caches(1, room)
        self.known = 0
        self.lookahead = lookahead
        # The kinds are fixed in a program, their numbers are its arguments.
        self.kinds = tuple(type(sampler) for sampler in samplers)
        self.numbers = tuple(sampler_numbers(sampler) for sampler in samplers)

    def run(self, function, text, written, *arguments):
        """Run a compiled function of the text; return its results as NumPy arrays."""
        places = {"known": np.int32(self.known), "written": np.int32(written)}
        arguments = (text, places, *arguments, self.numbers, self.caches)
        *results, self.caches = run_compiled(
            self.model, function, arguments, self.kinds, self.lookahead
        )
        return [np.array(result) for result in results]


def write_tokens(draft, model, text, written, total, generator):
    """Write the tokens that one pass of the model gives.

    Args:
        draft: Reader.
        model: Reader.
        text: int32 array (1, C).
        written: int >= 1, how many tokens of the text count.
        total: int, how many there will be.
        generator: numpy Generator.

    Returns:
        text: int32 array (1, C), with accepted + 1 more tokens.
        accepted: int, how many proposed tokens were accepted.
    """
    # A pass gives one token more than were accepted.
    count = min(draft.lookahead, total - written - 1)
    points = generator.random(draft.lookahead, dtype="float32")
    text, draft_probabilities = draft.run(proposal_loop, text, written, np.int32(count), points)
    (model_probabilities,) = model.run(scoring_pass, text, written)
    accepted, token = accept(
        text[0, written : written + count],
        draft_probabilities[:count],
        model_probabilities[: count + 1],
        generator,
    )
    text[0, written + accepted] = token
    # Rejected tokens are in the caches too, but will be overwritten. The draft has not
    # read the last token that it proposed.
    model.known = written + accepted
    draft.known = written + min(accepted, count - 1)
    return text, accepted


def accept(proposed, draft_probabilities, model_probabilities, generator):
    """Accept proposed tokens up to the first rejected one, and draw the token after them.

    A token drawn from q is accepted with probability min(1, p / q). One that replaces a
    rejected token is drawn from norm(max(p - q, 0)). So each token has distribution p.

    Args:
        proposed: int array (n,), tokens drawn from the rows of draft_probabilities.
        draft_probabilities: float array (n, V), q.
        model_probabilities: float array (n + 1, V), p.
        generator: numpy Generator.

    Returns:
        accepted: int in [0, n].
        token: int, the token after the accepted ones.

    Example:
        >>> never, always = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])
        >>> rng = np.random.default_rng(0)
        >>> accept([0], always, np.concatenate([never, never]), rng)
        (0, 1)
        >>> accept([0], always, np.concatenate([always, never]), rng)
        (1, 1)

    Source: Leviathan et al. (2023), algorithm 1 and appendix A.1.
    """
    model_probabilities = normalised(model_probabilities)
    draft_probabilities = normalised(draft_probabilities)
    for place, token in enumerate(proposed):
        p, q = model_probabilities[place], draft_probabilities[place]
        if generator.random() * q[token] >= p[token]:
            rest = np.maximum(p - q, 0)
            # Rounding can leave nothing where p and q are equal.
            return place, draw_one(rest if rest.any() else p, generator)
    return len(proposed), draw_one(model_probabilities[-1], generator)


def normalised(probabilities):
    """Let rows sum to 1 in float64: (n, V) -> (n, V)."""
    probabilities = np.asarray(probabilities, "float64")
    return probabilities / probabilities.sum(axis=-1, keepdims=True)


def draw_one(weights, generator):
    """Draw a token with probabilities that are proportional to weights (V,)."""
    limits = np.cumsum(weights)
    return int(np.searchsorted(limits, generator.random() * limits[-1], side="right"))


def proposal_loop(model, text, places, count, points, numbers, caches, kinds, lookahead):
    """Write proposed tokens after the text, one by one.

    Args:
        model: GPT, the draft.
        text: int32 tensor (1, C).
        places: dict of int scalars: known, how many tokens are in the caches; written,
            how many there are.
        count: int scalar, how many are proposed, at most lookahead.
        points: float32 tensor (lookahead,), uniform in [0, 1).
        numbers: tuple of dicts of tensors, the settings of each sampler.
        caches: caches of the model for (1, C).
        kinds: tuple of classes, the samplers.
        lookahead: int.

    Returns:
        text: int32 tensor (1, C), with the proposed tokens.
        probabilities: float32 tensor (lookahead, V), which they were drawn from.
        caches: with all tokens but the last.
    """
    newest = places["written"] - 1
    _, caches = read_chunks(model, text, places["known"], newest - 1, caches)

    def propose(position, text, probabilities, caches):
        token = ops.take(text, position, axis=1)[:, None]  # (1, 1)
        hidden, caches = model.decode(token, caches, position)
        row = next_probabilities(model, hidden[:, 0], kinds, numbers)  # (1, V)
        # After a pass that accepted all, one known token is read first.
        is_new = position >= newest
        index = ops.maximum(position - newest, 0)
        proposed = draw(row, ops.take(points, index)[None])  # (1,)
        proposed = ops.where(is_new, proposed, ops.take(text, position + 1, axis=1))
        text = ops.slice_update(text, (0, position + 1), proposed[:, None])
        return position + 1, text, ops.slice_update(probabilities, (index, 0), row), caches

    _, text, probabilities, caches = ops.while_loop(
        lambda position, text, probabilities, caches: position < newest + count,
        propose,
        (
            ops.maximum(places["known"], newest - 1),
            text,
            ops.zeros((lookahead, model.vocab_size), dtype="float32"),
            caches,
        ),
    )
    return text, probabilities, caches


def scoring_pass(model, text, places, numbers, caches, kinds, lookahead):
    """Compute the distributions of the next tokens at the newest one and all proposed ones.

    Args:
        model: GPT.
        text: int32 tensor (1, C).
        places: dict of int scalars, see `proposal_loop`.
        numbers: tuple of dicts of tensors, the settings of each sampler.
        caches: caches of the model for (1, C).
        kinds: tuple of classes, the samplers.
        lookahead: int.

    Returns:
        probabilities: float32 tensor (lookahead + 1, V). Rows that would stand beyond
            the room have no meaning.
        caches: with the tokens that were read.
    """
    newest = places["written"] - 1
    # Near the end of the room the pass begins earlier, with known tokens.
    first = ops.minimum(newest, text.shape[1] - lookahead - 1)
    _, caches = read_chunks(model, text, places["known"], first, caches)
    block = ops.arange(lookahead + 1, dtype="int32")
    hidden, caches = model.decode(ops.take(text, first + block, axis=1), caches, first)
    # The newest token's row comes first: (1, lookahead + 1, D) -> (lookahead + 1, D)
    rows = ops.minimum(newest - first + block, lookahead)
    hidden = ops.take(hidden[0], rows, axis=0)
    return next_probabilities(model, hidden, kinds, numbers), caches


def next_probabilities(model, hidden, kinds, numbers):
    """Turn final hidden states into distributions of the next token: (n, D) -> (n, V)."""
    logits = model.logits(hidden[None])[0]
    logits = ops.where(may_be_chosen(model, model.vocab_size), logits, -np.inf)
    samplers = [kind(**values) for kind, values in zip(kinds, numbers, strict=True)]
    return ops.softmax(adjust_logits(samplers, logits, None), axis=-1)


def check_speculation(model, draft, prompt_ids, max_new_tokens, lookahead):
    """Return the prompt as an int32 array (1, T)."""
    check_positive("max_new_tokens", max_new_tokens)
    check_positive("lookahead", lookahead)
    if draft.vocab_size != model.vocab_size:
        raise ValueError(
            f"draft must have the model's vocab_size={model.vocab_size}, got {draft.vocab_size}."
        )
    prompt = np.atleast_2d(np.asarray(prompt_ids))
    if prompt.ndim != 2 or len(prompt) != 1 or prompt.size == 0:
        raise ValueError(
            f"prompt_ids must have shape (1, T) or (T,) with T >= 1, got {np.shape(prompt_ids)}."
        )
    check_token_ids("prompt_ids", prompt, model.vocab_size)
    length = prompt.shape[1]
    for name, gpt in (("model", model), ("draft", draft)):
        if length + max_new_tokens > gpt.context_length:
            raise ValueError(
                "prompt_ids and max_new_tokens must fit the context_length="
                f"{gpt.context_length} of the {name}, got {length} + {max_new_tokens} tokens."
            )
    return prompt.astype("int32")
