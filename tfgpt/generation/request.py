"""What `generate` is asked for: its arguments, checked and in one form."""

from dataclasses import dataclass

import numpy as np

from tfgpt.generation.constraints import check_constraint, constraint_stop
from tfgpt.generation.prompts import (
    MOST_STOP_TOKENS,
    check_prompts,
    check_stop_tokens,
    check_vocab_size,
)
from tfgpt.generation.samplers import check_samplers, make_samplers
from tfgpt.generation.settings import NO_TOKEN
from tfgpt.validation import check_integer, check_positive


@dataclass(frozen=True)
class Request:
    """What `generate` was asked for, checked.

    Args:
        model: as in `generate`.
        prompts: list of B int32 arrays (T,).
        max_new_tokens: int, N.
        samplers: list of samplers.
        strategy: object with a method write(request) or search(...), or None.
        stop_tokens: tuple of int.
        seed: int or None.
        vocab_size: int, ids from it on are never generated.
        constraint: Constraint or None.
    """

    model: object
    prompts: list
    max_new_tokens: int
    samplers: list
    strategy: object
    stop_tokens: tuple
    seed: int | None
    vocab_size: int
    constraint: object = None


def make_request(
    model,
    prompt_ids,
    max_new_tokens,
    *,
    stop_token=None,
    seed=None,
    samplers=None,
    strategy=None,
    num_samples=1,
    vocab_size=None,
    constraint=None,
    **settings,
):
    """Check the arguments of `generate`; `settings` are those of `make_samplers`."""
    if hasattr(samplers, "write") or hasattr(samplers, "search"):
        samplers, strategy = None, samplers
    if strategy is not None and not hasattr(strategy, "write") and not hasattr(strategy, "search"):
        raise TypeError(
            "strategy must be BeamSearch, ContrastiveSearch, SpeculativeDecoding or an object "
            f"with a method search, got {strategy!r}."
        )
    made = make_samplers(**settings)
    if samplers is not None:
        check_alone("samplers", settings)
        check_samplers(samplers)
    if hasattr(strategy, "search"):  # it draws nothing
        check_alone("this strategy", {**settings, "samplers": samplers})
    if seed is not None:
        check_integer("seed", seed, minimum=0)
    check_positive("num_samples", num_samples)
    if hasattr(strategy, "search") and num_samples > 1:
        raise ValueError(
            f"num_samples must be 1 with a search, which draws nothing, got {num_samples}."
        )
    prompts = check_prompts(model, prompt_ids)
    vocab_size = check_vocab_size(model, vocab_size)
    max_new_tokens = check_positive("max_new_tokens", max_new_tokens)
    stop_token = constraint_stop(stop_token, constraint)
    stop_tokens = check_stop_tokens(model, stop_token, vocab_size)
    if constraint is not None:
        check_constraint(constraint, prompts, vocab_size, stop_tokens, max_new_tokens)
        if strategy is not None and not getattr(strategy, "takes_constraint", False):
            raise ValueError(
                f"strategy must be None or BeamSearch with a constraint, got {strategy!r}."
            )
    return Request(
        model=model,
        prompts=[prompt for prompt in prompts for _ in range(num_samples)],
        max_new_tokens=max_new_tokens,
        samplers=made if samplers is None else samplers,
        strategy=strategy,
        stop_tokens=stop_tokens,
        seed=seed,
        vocab_size=vocab_size,
        constraint=constraint,
    )


def check_alone(other, settings):
    """Raise if a setting of `make_samplers` is given next to what it has no effect on."""
    defaults = {"temperature": 1.0}
    for name, value in settings.items():
        if value is not None and value != defaults.get(name):
            raise ValueError(f"{name} must not be given with {other}, got {value!r}.")


def stop_token_row(stop_tokens):
    """Write stop tokens in the one shape that programs take: int32 array (8,), filled with -1."""
    row = np.full(MOST_STOP_TOKENS, NO_TOKEN, dtype="int32")
    row[: len(stop_tokens)] = stop_tokens
    return row
