"""Generation: one token at a time, each chosen from the model's distribution.

Up to the context length a GPT decodes with a cache of keys and values, in one
compiled loop. Past it, the window slides and is run again for every token: exact,
with the same samplers, but slower. Shape letters: B batch, T length, R room of
the cache, V vocabulary.
"""

from dataclasses import fields

import keras
import numpy as np
from keras import ops

from tfgpt.compilation import compiled
from tfgpt.generation.cache import cache_room, read_text
from tfgpt.generation.constraints import FORBIDDEN, NEVER, constraint_rules, start_states
from tfgpt.generation.prompts import row_generators
from tfgpt.generation.request import make_request, stop_token_row
from tfgpt.generation.samplers import Greedy, adjust_logits, draw, make_samplers
from tfgpt.generation.settings import NO_TOKEN


def generate(
    model,
    prompt_ids,
    max_new_tokens,
    temperature=1.0,
    top_k=None,
    top_p=None,
    stop_token=None,
    seed=None,
    *,
    min_p=None,
    repetition_penalty=None,
    no_repeat_ngram_size=None,
    samplers=None,
    strategy=None,
    num_samples=1,
    vocab_size=None,
    constraint=None,
):
    """Continue prompts with tokens drawn from a GPT.

    Only the last `context_length` tokens are seen; a longer text slides through
    that window. Padding is never generated if the model has a pad_id. Prompts may
    have different lengths: each is continued as it would be alone, with the same seed
    too; only if the same prompt comes again, it draws other numbers.

    The first call for a batch size and a kind of samplers compiles the loop. Other
    prompts, lengths, temperatures, k, p, seeds and stop tokens use the same
    program, until a text outgrows the cache: 256, 512, 1024, ... tokens.

    Args:
        model: GPT, or a Keras model with vocab_size and context_length whose
            logits at a position depend on earlier tokens only (runs uncached).
        prompt_ids: int array (B, T) or (T,), T >= 1; or a list of B arrays of
            different lengths, or a tf.RaggedTensor. If the model has a pad_id,
            padding on the left or right of a row is cut off.
        max_new_tokens: int >= 1, N.
        temperature: float >= 0, divides the logits; 0 takes the likeliest token.
        top_k: int >= 1, draw among the k likeliest tokens; None: all.
        top_p: float in (0, 1], draw among the fewest tokens whose probabilities
            sum to at least p; None: all.
        stop_token: int, or a list of at most 8: a sequence ends when one of them is
            drawn and is filled with it.
        seed: int, the same seed gives the same tokens; None: different each time. A
            search does not use it.
        min_p: float in [0, 1], draw among the tokens at least p times as likely as
            the likeliest; None: all.
        repetition_penalty: float > 0, tokens in the text get smaller logits if it
            is above 1; None: they do not.
        no_repeat_ngram_size: int in [1, 8], no run of so many tokens comes twice in a
            text, prompt included; None: it may.
        samplers: list of samplers in place of the settings temperature to
            no_repeat_ngram_size.
        strategy: how the text is found: None draws token by token; BeamSearch(...),
            ContrastiveSearch(...), SpeculativeDecoding(...), or an object with a method
            search(model, prompt, max_new_tokens, stop_tokens, vocab_size) ->
            int array (B, T + N). A text must fit the context then.
        num_samples: int >= 1, continuations of each prompt, one after the other: row
            i x num_samples + j is number j of prompt i.
        vocab_size: int in [1, V], ids from it on are never generated; None: V.
        constraint: Constraint, which new texts are allowed: BannedPhrases or Grammar of
            `tfgpt.safety`; with any samplers, or with BeamSearch. None: all.

    Returns:
        int32 array (B, T + N), prompt included. For prompts of different lengths
        (without padding) a list of B arrays, each N longer than its prompt.

    Raises:
        TypeError: if the prompt is not integer, or samplers or strategy is something else.
        ValueError: if an argument is outside its range, the prompt is empty, an id is
            outside the vocabulary, a stop token can never be written, samplers is given
            with a setting, or the model's logits are NaN or leave no token.

    Example:
        >>> from tfgpt import GPT
        >>> model = GPT(10, context_length=4, num_layers=1, d_model=8, num_heads=2)
        >>> generate(model, [[1, 2]], max_new_tokens=3, seed=0).shape
        (1, 5)
        >>> [len(row) for row in generate(model, [[1, 2], [3]], max_new_tokens=3, seed=0)]
        [5, 4]

    Source: top-p: Holtzman et al., "The Curious Case of Neural Text Degeneration"
    (2020), section 3.1; the other samplers: `tfgpt.samplers`.
    """
    request = make_request(
        model,
        prompt_ids,
        max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_token=stop_token,
        seed=seed,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram_size=no_repeat_ngram_size,
        samplers=samplers,
        strategy=strategy,
        num_samples=num_samples,
        vocab_size=vocab_size,
        constraint=constraint,
    )
    if hasattr(request.strategy, "write"):
        rows = request.strategy.write(request)
    elif request.strategy is not None:
        rows = search_by_length(request)
    else:
        decoding = Decoding(request)
        decoding.advance(decoding.total)
        rows = decoding.rows()
    is_even = len({len(row) for row in rows}) == 1
    return np.stack(rows) if is_even else rows


def search_by_length(request):
    """Run a search on the prompts of each length: a list of B int32 arrays (T + N,)."""
    context_length = request.model.context_length
    settings = {} if request.constraint is None else {"constraint": request.constraint}
    lengths = [len(prompt) for prompt in request.prompts]
    if max(lengths) + request.max_new_tokens > context_length:
        raise ValueError(
            f"prompt_ids and max_new_tokens of a search must fit context_length={context_length}, "
            f"got {max(lengths)} + {request.max_new_tokens} tokens."
        )
    rows = [None] * len(lengths)
    for length in sorted(set(lengths)):
        places = [place for place, other in enumerate(lengths) if other == length]
        prompts = np.stack([request.prompts[place] for place in places])
        found = request.strategy.search(
            request.model,
            prompts,
            request.max_new_tokens,
            request.stop_tokens,
            request.vocab_size,
            **settings,
        )
        for place, row in zip(places, np.asarray(found, dtype="int32"), strict=True):
            rows[place] = row
    return rows


class Decoding:
    """A batch of texts in the making.

    All rows share places. A row whose prompt is longer than the shortest takes its
    own tokens until the prompt ends; a row is done N places after its prompt.

    Args:
        request: Request with a list of samplers.
    """

    def __init__(self, request):
        self.request = request
        self.model = request.model
        self.lengths = np.array([len(prompt) for prompt in request.prompts], dtype="int32")  # (B,)
        self.ends = self.lengths + np.int32(request.max_new_tokens)  # (B,)
        self.total = int(self.ends.max())
        # Room for one full window; what lies to the right of a position is never seen.
        width = max(self.total, self.model.context_length)
        self.token_ids = np.zeros((len(self.lengths), width), dtype="int32")
        for row, prompt in zip(self.token_ids, request.prompts, strict=True):
            row[: len(prompt)] = prompt
        # One random number per new token: the same for the cached and the sliding part.
        self.random_numbers = np.zeros((self.total, len(self.lengths)), dtype="float32")
        for row, generator in enumerate(row_generators(request.prompts, request.seed)):
            numbers = generator.random(request.max_new_tokens, dtype="float32")
            self.random_numbers[self.lengths[row] : self.ends[row], row] = numbers
        # Places below it are written in every row.
        self.position = int(self.lengths.min())
        # Where the automaton of the constraint is, after the prompt and what was written.
        self.states = start_states(request.constraint, request.prompts)  # (B,)
        # The stop token that ended a row.
        self.endings = np.full(len(self.lengths), NO_TOKEN, dtype="int32")  # (B,)
        self.rules = constraint_rules(request.constraint, self.model.vocab_size)
        has_cache = hasattr(self.model, "decode")
        self.cached = min(self.total, self.model.context_length) if has_cache else 0
        self.state = self.program = None

    def advance(self, until):
        """Write tokens up to place `until`, or until every row has ended."""
        if self.position < min(until, self.cached):
            self.write_cached(min(until, self.cached))
        while self.position < until and self.unfinished().any():
            self.write_sliding()

    def unfinished(self):
        """Mark the rows that need more tokens: bool (B,)."""
        return (self.endings == NO_TOKEN) & (self.position < self.ends)

    def write_cached(self, until):
        """Write up to place `until` <= context_length in one compiled loop."""
        if self.state is None:
            self.start_cache()
        arguments = self.state, ops.convert_to_tensor(until, "int32"), self.settings
        if self.program is None:
            # Up to place 0 there is nothing to write: the first call only compiles.
            first = (self.state, ops.zeros((), dtype="int32"), self.settings)
            kinds = tuple(type(sampler) for sampler in self.request.samplers)
            self.program = compiled(
                self.model, decode_loop, arguments, kinds, first_arguments=first
            )
        self.state = self.program.run(*arguments)
        written = np.asarray(self.state["token_ids"])
        self.token_ids[:, : self.cached] = written[:, : self.cached]
        self.endings = np.array(self.state["endings"])
        self.states = np.array(self.state["states"])
        start, self.position = self.position, int(self.state["position"])
        self.check_written(start)

    def check_written(self, start):
        """Raise if a place from `start` on and below `position` holds no token."""
        rows, places = np.nonzero(self.token_ids[:, start : self.position] == NO_TOKEN)
        if len(rows):
            raise ValueError(
                "model must give finite logits and leave a token to choose, got NaN, infinity or "
                f"none at place {start + places.min()} of row {rows[places.argmin()]}."
            )

    def start_cache(self):
        """Make the state and the settings of `decode_loop`; they stay on the device."""
        batch, room = len(self.lengths), cache_room(self.cached, self.model.context_length)
        random_numbers = np.zeros((room, batch), dtype="float32")
        random_numbers[: self.cached] = self.random_numbers[: self.cached]
        state = {
            "token_ids": self.token_ids[:, :room],
            "position": np.int32(self.position),
            "read": np.int32(0),
            "endings": self.endings,
            "states": self.states,
        }
        settings = {
            "random_numbers": random_numbers,
            "lengths": self.lengths,
            "ends": self.ends,
            "stop_tokens": stop_token_row(self.request.stop_tokens),
            "pad_id": np.int32(pad_id_of(self.model)),
            "vocab_size": np.int32(self.request.vocab_size),
            "rules": self.rules,
        }
        state, settings = keras.tree.map_structure(ops.convert_to_tensor, (state, settings))
        self.state = {**state, "caches": self.model.make_caches(batch, room)}
        numbers = tuple(sampler_numbers(sampler) for sampler in self.request.samplers)
        self.settings = {**settings, "numbers": numbers}

    def write_sliding(self):
        """Write one place of every row, running a whole window."""
        place, context = self.position, self.model.context_length
        has_ended = self.endings != NO_TOKEN
        self.token_ids[has_ended, place] = self.endings[has_ended]
        is_written = self.unfinished() & (place >= self.lengths)  # (B,)
        self.position = place + 1
        if not is_written.any():
            return
        start = max(0, place - context)
        window = self.token_ids[:, start : start + context]  # (B, C), one shape for all steps
        logits = self.model.predict_on_batch(window)[:, place - 1 - start]  # (B, V)
        logits = hide_tokens(logits, pad_id_of(self.model), self.request.vocab_size)
        if self.rules:
            allowed = allowed_tokens(self.rules, self.states, self.ends - place)
            logits = ops.where(allowed, logits, -np.inf)
        numbers = self.random_numbers[place]  # (B,)
        chosen = choose_tokens(self.request.samplers, logits, self.token_ids, place, numbers)
        chosen = np.asarray(chosen)
        self.token_ids[is_written, place] = chosen[is_written]
        self.check_written(place)
        if self.rules:
            moved = np.asarray(next_states(self.rules, self.states, chosen))
            self.states = np.where(is_written, moved, self.states)
        ends = is_written & np.isin(chosen, self.request.stop_tokens)
        self.endings[ends] = chosen[ends]

    def rows(self):
        """Return the texts: a list of B int32 arrays (T + N,)."""
        # If every sequence ended early, the rest is its stop token.
        unwritten = np.arange(self.token_ids.shape[1]) >= self.position
        filled = unwritten & (self.endings != NO_TOKEN)[:, None]
        token_ids = np.where(filled, self.endings[:, None], self.token_ids)
        return [row[:end] for row, end in zip(token_ids, self.ends, strict=True)]


def sampler_numbers(sampler):
    """Return the numbers of a sampler as float32 tensors, by name."""
    return {
        field.name: ops.convert_to_tensor(getattr(sampler, field.name), "float32")
        for field in fields(sampler)
    }


def decode_loop(model, state, until, settings, kinds):
    """Write tokens up to place `until`, or until every row has ended.

    Args:
        model: GPT.
        state: dict: token_ids int32 (B, R), caches, endings and states int32 (B,), and two
            scalars: position, below which places are written, and read, below which
            they are in the caches.
        until: int32 scalar.
        settings: dict: random_numbers float32 (R, B), lengths and ends int32 (B,),
            stop_tokens int32 (8,), pad_id, vocab_size, the rules of a constraint, or none,
            and the numbers of each sampler.
        kinds: tuple of classes, the samplers.

    Returns:
        dict, the new state.
    """
    samplers = [kind(**numbers) for kind, numbers in zip(kinds, settings["numbers"], strict=True)]
    rules = settings["rules"]

    def unfinished(position, token_ids, caches, endings, states):
        return (position < until) & ops.any((endings == NO_TOKEN) & (position < settings["ends"]))

    def write_token(position, token_ids, caches, endings, states):
        newest = ops.take(token_ids, position - 1, axis=1)[:, None]  # (B, 1)
        hidden, caches = model.decode(newest, caches, position - 1)
        logits = model.logits(hidden)[:, 0]  # (B, 1, V) -> (B, V)
        logits = hide_tokens(logits, settings["pad_id"], settings["vocab_size"])
        if rules:
            allowed = allowed_tokens(rules, states, settings["ends"] - position)  # (B, V)
            logits = ops.where(allowed, logits, -np.inf)
        numbers = ops.take(settings["random_numbers"], position, axis=0)  # (B,)
        chosen = choose_tokens(samplers, logits, token_ids, position, numbers)
        chosen = ops.where(endings == NO_TOKEN, chosen, endings)
        in_prompt = position < settings["lengths"]
        if rules:
            states = ops.where(in_prompt, states, next_states(rules, states, chosen))
        is_stop = ops.any(chosen[:, None] == settings["stop_tokens"], axis=-1)
        endings = ops.where(~in_prompt & is_stop, chosen, endings)
        chosen = ops.where(in_prompt, ops.take(token_ids, position, axis=1), chosen)
        token_ids = ops.slice_update(token_ids, (0, position), chosen[:, None])
        return position + 1, token_ids, caches, endings, states

    # All written places but the last, which is read when it is used.
    end = ops.minimum(state["position"], until) - 1
    caches, _ = read_text(model, state["token_ids"], state["read"], end, state["caches"])
    position, token_ids, caches, endings, states = ops.while_loop(
        unfinished,
        write_token,
        (state["position"], state["token_ids"], caches, state["endings"], state["states"]),
    )
    return {
        "token_ids": token_ids,
        "position": position,
        "read": position - 1,
        "endings": endings,
        "states": states,
        "caches": caches,
    }


def choose_tokens(samplers, logits, token_ids, position, random_numbers):
    """Choose the next token of each row.

    Args:
        samplers: list of samplers.
        logits: float32 tensor (B, V).
        token_ids: int32 tensor (B, T), the texts.
        position: int scalar, how many tokens of each text are written.
        random_numbers: float tensor (B,), uniform in [0, 1), where tokens are drawn.

    Returns:
        int32 tensor (B,); -1 if the logits are NaN or leave no token.
    """
    # NaN fails every comparison; a compiled max or isfinite need not see it.
    are_numbers = ops.all((logits < np.inf) | (logits == -np.inf), axis=-1)  # (B,)
    logits = adjust_logits(samplers, logits, token_ids, position)
    if samplers and isinstance(samplers[-1], Greedy):
        chosen = ops.cast(ops.argmax(logits, axis=-1), "int32")
        chosen = ops.where(ops.any(logits > -np.inf, axis=-1), chosen, NO_TOKEN)
    else:
        chosen = draw(ops.softmax(logits, axis=-1), random_numbers)
    return ops.where(are_numbers, chosen, NO_TOKEN)


def hide_tokens(logits, pad_id, vocab_size):
    """Make the pad_id, and ids from vocab_size on, impossible: (B, V) -> (B, V)."""
    token_ids = ops.arange(logits.shape[-1], dtype="int32")
    is_hidden = (token_ids == pad_id) | (token_ids >= vocab_size)
    return ops.where(is_hidden, -np.inf, ops.cast(logits, "float32"))


def allowed_tokens(rules, states, left):
    """Tell which tokens may follow.

    Args:
        rules: dict: table int32 (S, V), distances int32 (S,).
        states: int32 tensor (...), where the automaton is.
        left: int32 tensor (...), how many tokens may still be written, this one counted;
            below 1 in a text that has all, which others outgrow.

    Returns:
        bool tensor (..., V).
    """
    left = ops.where(left > 0, left, NEVER)
    following = ops.take(rules["table"], states, axis=0)  # (..., V)
    distances = ops.take(rules["distances"], ops.maximum(following, 0), axis=0)
    return (following != FORBIDDEN) & (distances < left[..., None])


def next_states(rules, states, tokens):
    """Move the automaton: int32 (...) and the chosen tokens int32 (...) -> int32 (...)."""
    rows = ops.take(rules["table"], states, axis=0)  # (..., V)
    tokens = ops.maximum(tokens, 0)[..., None]  # -1 where none could be chosen
    return ops.maximum(ops.take_along_axis(rows, tokens, axis=-1)[..., 0], 0)


def pad_id_of(model):
    """Return the id that is never generated; -1 if there is none."""
    value = getattr(model, "pad_id", None)
    return NO_TOKEN if value is None else value


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
    samplers = make_samplers(temperature, top_k, top_p)
    logits = ops.convert_to_tensor(logits, dtype="float32")
    if temperature == 0:
        return ops.one_hot(ops.argmax(logits, axis=-1), logits.shape[-1], dtype="float32")
    return ops.softmax(adjust_logits(samplers, logits), axis=-1)
