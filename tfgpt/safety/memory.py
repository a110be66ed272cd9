"""Memorisation: secrets that were planted in the training texts, and how exposed they are.

A canary is a random text of a known form. A model that has memorised it finds it more
probable than the others of its form, which it has never seen.
"""

import math
import random
from dataclasses import dataclass

from tfgpt.validation import check_positive


@dataclass(frozen=True)
class Canary:
    """A planted text.

    Args:
        text: str, the form with its secret.
        times: int >= 0, how often it stands in the texts.
    """

    text: str
    times: int


def fill_forms(form, alphabet, count, seed=0):
    """Fill the places of a form with random characters; no two results are equal.

    Args:
        form: str with at least one "#", each a place: "The code of the safe is ######. ".
        alphabet: str of distinct characters.
        count: int >= 1.
        seed: int.

    Returns:
        list of `count` str.

    Raises:
        ValueError: if there is no place, or there are not so many fillings.

    Example:
        >>> len(fill_forms("code ##", "0123456789", 100))
        100
    """
    places = form.count("#")
    check_positive("count", count)
    possible = len(set(alphabet)) ** places
    if places == 0 or count > possible:
        raise ValueError(
            f"form must have places # for {count} different fillings, got {form!r} with {possible}."
        )
    rng, found = random.Random(seed), {}
    while len(found) < count:
        secret = iter(rng.choices(alphabet, k=places))
        found["".join(next(secret) if sign == "#" else sign for sign in form)] = None
    return list(found)


def plant(texts, canaries, seed=0):
    """Put canaries between texts, each as often as it says.

    Args:
        texts: list of str.
        canaries: list of Canary.
        seed: int, of the places.

    Returns:
        list of str, the texts in their order with the canaries at random places.

    Example:
        >>> sorted(plant(["a", "b"], [Canary("x", 2)]))
        ['a', 'b', 'x', 'x']
    """
    rng, planted = random.Random(seed), list(texts)
    for canary in canaries:
        for _ in range(canary.times):
            planted.insert(rng.randint(0, len(planted)), canary.text)
    return planted


def exposure(text_model, canary, others):
    """Measure how far a canary stands above texts of its form that were not in training.

    The exposure is log2 of the number of texts over the rank of the canary among them: 1.4
    bits on average for a text that was never seen, at most log2(len(others) + 1).

    Args:
        text_model: LanguageModel, with a method score.
        canary: str.
        others: list of str, other fillings of the form, none of them in the training texts.

    Returns:
        float in [0, log2(len(others) + 1)], bits. Equal scores count against the canary.

    Raises:
        ValueError: if there is no other text, or the canary is among them.

    Source: Carlini et al., "The Secret Sharer: Evaluating and Testing Unintended
    Memorization in Neural Networks" (2019), section 4.
    """
    if not others or canary in others:
        raise ValueError(
            f"others must be texts beside the canary, at least one, got {len(others)}."
        )
    own, *scores = (score.log_probability for score in text_model.score([canary, *others]))
    rank = 1 + sum(score >= own for score in scores)
    return math.log2((len(others) + 1) / rank)
