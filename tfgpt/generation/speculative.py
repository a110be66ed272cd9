"""Speculative decoding: a small draft model proposes, the large model checks.

One pass of the large model over several proposed tokens costs little more than a pass
over one. The rule of acceptance keeps its distribution exactly, whatever the draft.
"""

from dataclasses import dataclass

import numpy as np
from keras import ops

from tfgpt.compilation import run_compiled
from tfgpt.generation.cache import cache_room, read_text
from tfgpt.generation.decoding import hide_tokens, pad_id_of, sampler_numbers
from tfgpt.generation.prompts import row_generators
from tfgpt.generation.request import make_request
from tfgpt.generation.samplers import adjust_logits, draw, reads_text
from tfgpt.validation import check_positive


@dataclass(frozen=True)
class SpeculativeDecoding:
    """Draw tokens from a GPT, helped by a smaller one. Give it to `generate`.

    The draft proposes `lookahead` tokens, the model scores all of them in one pass.
    The tokens have the distribution of `generate` with the model alone; only the
    random numbers are used in another way. At temperature 0 they are the same tokens.
    A good draft saves time, a bad one costs some. The first call compiles one program
    for each of the two models; other prompts, lengths, numbers of tokens and seeds use
    the same. Prompts are continued one by one.

    Args:
        draft: GPT with the vocabulary of the model.
        lookahead: int >= 1, how many tokens are proposed for one pass of the model.

    Raises:
        ValueError: if lookahead is no integer >= 1; in `generate`, if the vocabularies
            differ or a text does not fit both contexts.

    Example:
        >>> from tfgpt import GPT, generate
        >>> model = GPT(10, context_length=8, num_layers=2, d_model=16, num_heads=2)
        >>> draft = GPT(10, context_length=8, num_layers=1, d_model=8, num_heads=2)
        >>> generate(model, [[1, 2]], 5, strategy=SpeculativeDecoding(draft, 2), seed=0).shape
        (1, 7)

    Source: Leviathan et al., "Fast Inference from Transformers via Speculative
    Decoding" (2023), algorithm 1.
    """

    draft: object
    lookahead: int = 4

    def __post_init__(self):
        check_positive("lookahead", self.lookahead)

    def write(self, request):
        """Continue each prompt of a Request: a list of B int32 arrays (T + N,)."""
        return [text for text, _ in self.write_counted(request)]

    def write_counted(self, request):
        """Continue each prompt: a list of texts (T + N,) and accepted tokens per pass."""
        check_speculation(request, self.draft)
        return [
            write_text(request, self.draft, self.lookahead, prompt, generator)
            for prompt, generator in zip(
                request.prompts, row_generators(request.prompts, request.seed), strict=True
            )
        ]


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
    **settings,
):
    """Continue one prompt by `SpeculativeDecoding`, and say how good the draft is.

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
        stop_token: int, or a list of at most 8; see `generate`.
        seed: int, the same seed gives the same tokens; None: different each time.
        return_acceptance: bool, also return how many proposed tokens were accepted
            per pass of the model, on average; one more token comes from each pass.
        **settings: further arguments of `generate`: min_p, repetition_penalty,
            samplers, vocab_size.

    Returns:
        int32 array (1, T + N), prompt included; with return_acceptance=True also a
        float in [0, lookahead].

    Raises:
        TypeError: if the prompt is not integer.
        ValueError: if an argument is outside its range, there are several prompts, the
            vocabularies differ, or T + N is more than a context_length.

    Example:
        >>> from tfgpt import GPT
        >>> model = GPT(10, context_length=8, num_layers=2, d_model=16, num_heads=2)
        >>> draft = GPT(10, context_length=8, num_layers=1, d_model=8, num_heads=2)
        >>> speculative_generate(model, draft, [[1, 2]], 5, lookahead=2, seed=0).shape
        (1, 7)
    """
    strategy = SpeculativeDecoding(draft, lookahead)
    settings |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    request = make_request(
        model, prompt_ids, max_new_tokens, stop_token=stop_token, seed=seed, **settings
    )
    if len(request.prompts) != 1:
        raise ValueError(
            f"prompt_ids must have shape (1, T) or (T,), got {len(request.prompts)} prompts: use "
            "generate(..., strategy=SpeculativeDecoding(draft))."
        )
    ((token_ids, acceptance),) = strategy.write_counted(request)
    return (token_ids[None], acceptance) if return_acceptance else token_ids[None]


def write_text(request, draft, lookahead, prompt, generator):
    """Continue one prompt (T,): the text (T + N,), and accepted tokens per pass."""
    model, written = request.model, len(prompt)
    total = written + request.max_new_tokens
    room = cache_room(total, min(model.context_length, draft.context_length))
    text = np.pad(prompt, (0, room - written))[None]  # (1, C)
    lookahead = min(lookahead, room - 1)
    readers = [Reader(gpt, room, request, lookahead) for gpt in (draft, model)]
    counts = []
    while written < total:
        text, accepted = write_tokens(*readers, text, written, total, generator)
        counts.append(accepted)
        new = text[0, written : written + accepted + 1]
        stops = np.isin(new, request.stop_tokens)
        if stops.any():
            end = written + np.argmax(stops)
            text[0, end:total] = text[0, end]
            break
        written += accepted + 1
    return text[0, :total], float(np.mean(counts))


class Reader:
    """A GPT that reads a text as it grows: its cache, and how much of the text is in it.

    Args:
        model: GPT.
        room: int, C, the longest text.
        request: Request, whose samplers make probabilities of logits.
        lookahead: int, how many tokens are proposed at once.
    """

    def __init__(self, model, room, request, lookahead):
        self.model = model
        self.caches = model.make_caches(1, room)
        self.read = 0
        self.lookahead = lookahead
        # The kinds are fixed in a program, their numbers are its arguments.
        self.kinds = tuple(type(sampler) for sampler in request.samplers)
        self.numbers = tuple(sampler_numbers(sampler) for sampler in request.samplers)
        self.vocab_size = np.int32(request.vocab_size)

    def run(self, function, text, written, *arguments):
        """Run a compiled function of the text; return its results as NumPy arrays."""
        places = {
            "read": np.int32(self.read),
            "written": np.int32(written),
            "vocab_size": self.vocab_size,
        }
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
    numbers = generator.random(draft.lookahead, dtype="float32")
    text, draft_probabilities = draft.run(proposal_loop, text, written, np.int32(count), numbers)
    (model_probabilities,) = model.run(scoring_pass, text, written)
    if not np.isfinite(model_probabilities[: count + 1]).all():
        raise ValueError("model must give finite logits and leave a token to choose, got NaN.")
    accepted, token = accept(
        text[0, written : written + count],
        draft_probabilities[:count],
        model_probabilities[: count + 1],
        generator,
    )
    text[0, written + accepted] = token
    # Rejected tokens are in the caches too, but will be overwritten. The draft has not
    # read the last token that it proposed.
    model.read = written + accepted
    draft.read = written + min(accepted, count - 1)
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


def proposal_loop(model, text, places, count, random_numbers, numbers, caches, kinds, lookahead):
    """Write proposed tokens after the text, one by one.

    Args:
        model: GPT, the draft.
        text: int32 tensor (1, C).
        places: dict of int scalars: read, how many tokens are in the caches; written,
            how many there are; vocab_size, ids from it on are never written.
        count: int scalar, how many are proposed, at most lookahead.
        random_numbers: float32 tensor (lookahead,), uniform in [0, 1).
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
    caches, _ = read_text(model, text, places["read"], newest - 1, caches)

    def propose(position, text, probabilities, caches):
        token = ops.take(text, position, axis=1)[:, None]  # (1, 1)
        hidden, caches = model.decode(token, caches, position)
        samplers = [kind(**values) for kind, values in zip(kinds, numbers, strict=True)]
        lengths = ops.reshape(position + 1, (1,))
        row = next_probabilities(model, hidden[:, 0], samplers, text, lengths, places)  # (1, V)
        # After a pass that accepted all, one known token is read first.
        is_new = position >= newest
        index = ops.maximum(position - newest, 0)
        proposed = draw(row, ops.take(random_numbers, index)[None])  # (1,)
        proposed = ops.where(is_new, proposed, ops.take(text, position + 1, axis=1))
        text = ops.slice_update(text, (0, position + 1), proposed[:, None])
        return position + 1, text, ops.slice_update(probabilities, (index, 0), row), caches

    _, text, probabilities, caches = ops.while_loop(
        lambda position, text, probabilities, caches: position < newest + count,
        propose,
        (
            ops.maximum(places["read"], newest - 1),
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
    caches, _ = read_text(model, text, places["read"], first, caches)
    block = ops.arange(lookahead + 1, dtype="int32")
    hidden, caches = model.decode(ops.take(text, first + block, axis=1), caches, first)
    # The newest token's row comes first: (1, lookahead + 1, D) -> (lookahead + 1, D)
    rows = ops.minimum(newest - first + block, lookahead)
    hidden = ops.take(hidden[0], rows, axis=0)
    samplers = [kind(**values) for kind, values in zip(kinds, numbers, strict=True)]
    lengths = places["written"] + block
    return next_probabilities(model, hidden, samplers, text, lengths, places), caches


def next_probabilities(model, hidden, samplers, text, lengths, places):
    """Turn final hidden states into distributions of the next token.

    Args:
        model: GPT.
        hidden: float tensor (n, D).
        samplers: list of samplers.
        text: int32 tensor (1, C).
        lengths: int32 tensor (n,), how many tokens of the text each state has read.
        places: dict of int scalars, see `proposal_loop`.

    Returns:
        float32 tensor (n, V).
    """
    logits = hide_tokens(model.logits(hidden[None])[0], pad_id_of(model), places["vocab_size"])
    if not any(reads_text(sampler) for sampler in samplers):
        return ops.softmax(adjust_logits(samplers, logits), axis=-1)
    rows = [  # each row has read another part of the text
        adjust_logits(samplers, logits[row : row + 1], text, lengths[row])
        for row in range(hidden.shape[0])
    ]
    return ops.softmax(ops.concatenate(rows), axis=-1)


def check_speculation(request, draft):
    """Raise unless the draft has the model's vocabulary and the texts fit both contexts."""
    model = request.model
    for name, gpt in (("model", model), ("draft", draft)):
        if not hasattr(gpt, "decode"):
            raise TypeError(f"{name} must have a method decode, got {type(gpt).__name__}.")
    if draft.vocab_size != model.vocab_size:
        raise ValueError(
            f"draft must have the model's vocab_size={model.vocab_size}, got {draft.vocab_size}."
        )
    length = max(map(len, request.prompts))
    for name, gpt in (("model", model), ("draft", draft)):
        if length + request.max_new_tokens > gpt.context_length:
            raise ValueError(
                "prompt_ids and max_new_tokens must fit the context_length="
                f"{gpt.context_length} of the {name}, got {length} + {request.max_new_tokens} "
                "tokens."
            )
