"""What the settings of `generate` may be: their rules, without a model or a backend."""

from dataclasses import dataclass

import numpy as np

from tfgpt.validation import check_positive

# What a number may be: the rule in words, and as a function.
ANY = ("a number", lambda number: True)
POSITIVE = ("> 0 and finite", lambda number: 0 < number < np.inf)
NOT_NEGATIVE = (">= 0 and finite", lambda number: 0 <= number < np.inf)
POSITIVE_SHARE = ("in (0, 1]", lambda number: 0 < number <= 1)
LONGEST_NGRAM = 8
NGRAM = (
    f"an integer in [1, {LONGEST_NGRAM}]",
    lambda number: 1 <= number <= LONGEST_NGRAM and number == int(number),
)
SHARE = ("in [0, 1]", lambda number: 0 <= number <= 1)
# No token: none can be chosen, none has ended a row, none is hidden.
NO_TOKEN = -1
# What a sum of float32 probabilities may be off.
ROUNDING = 1e-6
# Logits are divided by a temperature of at least this: float32 makes no infinity of them.
LOWEST_TEMPERATURE = 1e-20
HIGHEST_TEMPERATURE = 1e30


@dataclass(frozen=True)
class Wish:
    """What one of several requests asks for.

    Args:
        prompts: list of B int arrays (T,).
        max_new_tokens: int >= 1.
        temperature: float >= 0; 0 takes the likeliest token.
        top_p: float in (0, 1].
        seed: int >= 0; None: different each time.
    """

    prompts: list
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None


def check_settings(
    temperature=1.0,
    top_k=None,
    top_p=None,
    min_p=None,
    repetition_penalty=None,
    no_repeat_ngram_size=None,
):
    """Raise unless the settings of the samplers are in their ranges; see `make_samplers`.

    Args:
        temperature: float >= 0.
        top_k: int >= 1 or None.
        top_p: float in (0, 1] or None.
        min_p: float in [0, 1] or None.
        repetition_penalty: float > 0 or None.
        no_repeat_ngram_size: int in [1, 8] or None.

    Raises:
        ValueError: if a setting is outside its range.
    """
    check_number("temperature", temperature, NOT_NEGATIVE)
    if top_k is not None:
        check_positive("top_k", top_k)
    for name, value, rule in (
        ("top_p", top_p, POSITIVE_SHARE),
        ("min_p", min_p, SHARE),
        ("repetition_penalty", repetition_penalty, POSITIVE),
        ("no_repeat_ngram_size", no_repeat_ngram_size, NGRAM),
    ):
        if value is not None:
            check_number(name, value, rule)


def check_number(name, value, rule):
    """Raise unless `value` is a number that fits the rule.

    Args:
        name: str, the argument's name in the message.
        value: the value to check.
        rule: the rule in words, and as a function number -> bool.

    Raises:
        ValueError: if `value` is no number or does not fit.
    """
    words, fits = rule
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number or not fits(value):
        raise ValueError(f"{name} must be {words}, got {value!r}.")
