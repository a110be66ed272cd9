"""Right answers in unusual styles, and wrong ones, to the exercises of notebook 22."""

import math
from functools import reduce

import numpy as np


def states_by_search(phrase, alphabet, anew=True):
    """Look for the longest beginning from the long end."""
    rows = []
    for s in range(len(phrase)):
        row = []
        for letter in alphabet:
            text = phrase[:s] + letter
            n = len(text) if anew or text == phrase[: s + 1] else 0
            while not text.endswith(phrase[:n]):
                n -= 1
            row.append(-1 if n == len(phrase) else n)
        rows.append(row)
    return rows


def states_by_failure(phrase, alphabet, fallback=True, forbidden=-1):
    """The algorithm of Knuth, Morris and Pratt: each row is copied from a shorter one."""
    table = np.zeros((len(phrase), len(alphabet)), int)
    failure = 0
    for s, letter in enumerate(phrase):
        if s and fallback:
            table[s] = table[failure]
        column = alphabet.index(letter)
        shorter = table[failure, column]
        table[s, column] = s + 1 if s + 1 < len(phrase) else forbidden
        failure = shorter if s else 0
    return table


def tokens_by_reduce(table, pieces):
    def step(state, letter):
        return -1 if state == -1 else table[state][letter]

    return [[reduce(step, p, s) == -1 for p in pieces] for s in range(len(table))]


def tokens_by_rows(table, pieces):
    """All states at once, with a row of -1 that nothing leaves."""
    ways = np.vstack([table, np.full(table.shape[1], -1)])
    columns = []
    for piece in pieces:
        states = np.arange(len(table))
        for letter in piece:
            states = ways[states, letter]
        columns.append(states == -1)
    return np.stack(columns, axis=1)


def tokens_that_leave_minus_one(table, pieces):
    """Read the last row where the state is -1."""
    out = []
    for s in range(len(table)):
        row = []
        for piece in pieces:
            state = s
            for letter in piece:
                state = table[state][letter]
            row.append(state == -1)
        out.append(row)
    return out


def tokens_by_first_letter(table, pieces):
    return [[table[s][p[0]] == -1 if p else False for p in pieces] for s in range(len(table))]


def logsumexp(x):
    return np.logaddexp.reduce(np.asarray(x, float), axis=-1)


def unlikelihood_by_rest(logits, banned):
    rest = np.where(banned, -1e30, logits)
    return -(logsumexp(rest) - logsumexp(logits)).sum() / len(logits)


def unlikelihood_by_loop(logits, banned):
    total = 0.0
    for row, marks in zip(logits.tolist(), banned.tolist(), strict=True):
        rest = [z for z, mark in zip(row, marks, strict=True) if not mark]
        top = max(row)
        everything = top + math.log(sum(math.exp(z - top) for z in row))
        top = max(rest)
        total += everything - top - math.log(sum(math.exp(z - top) for z in rest))
    return total / len(logits)


def unlikelihood_by_formula(logits, banned, together=True):
    with np.errstate(all="ignore"):
        p = np.exp(logits - logsumexp(logits)[:, None])
        if together:
            return -np.mean(np.log(1 - (p * banned).sum(-1)))
        return -np.mean(np.log(1 - p * banned).sum(-1))


def exposure_by_sorting(own, others):
    better = sorted(others, reverse=True)
    rank = 1
    while rank <= len(better) and better[rank - 1] >= own:
        rank += 1
    return math.log(len(others) + 1, 2) - math.log(rank, 2)


def private_by_loop(gradients, clip_norm, noise, anyway=False, late=False):
    total = np.zeros(len(noise)) if late else np.array(noise, float)
    for g in gradients:
        length = math.sqrt(float(g @ g))
        total += g * (clip_norm / length) if length > clip_norm or anyway and length else g
    return total / len(gradients) + (noise if late else 0)


def private_by_einsum(gradients, clip_norm, noise):
    with np.errstate(divide="ignore"):
        factors = np.minimum(1, clip_norm / np.sqrt(np.einsum("bp,bp->b", gradients, gradients)))
    return np.mean(factors[:, None] * gradients, axis=0) + noise / len(gradients)


def private_of_the_sum(gradients, clip_norm, noise):
    total = gradients.sum(axis=0)
    return (total * min(1, clip_norm / np.linalg.norm(total)) + noise) / len(gradients)


RIGHT = [
    ("next states", states_by_search),
    ("next states", states_by_failure),
    ("forbidden tokens", tokens_by_reduce),
    ("forbidden tokens", tokens_by_rows),
    ("unlikelihood loss", unlikelihood_by_rest),
    ("unlikelihood loss", unlikelihood_by_loop),
    ("exposure in bits", exposure_by_sorting),
    ("exposure in bits", lambda own, others: -np.log2(np.mean(np.array([own, *others]) >= own))),
    ("private gradient", private_by_loop),
    ("private gradient", private_by_einsum),
]

WRONG = [
    ("next states", lambda *x: states_by_search(*x, anew=False), "the phrase ab"),
    ("next states", lambda *x: states_by_failure(*x, fallback=False), "a phrase that begins|the"),
    ("next states", lambda *x: states_by_failure(*x, forbidden=0), "the phrase ab"),
    ("next states", lambda p, a: np.array(states_by_search(p, a)).T, "the phrase ab: the shape"),
    ("forbidden tokens", tokens_that_leave_minus_one, "tokens of one or two"),
    ("forbidden tokens", tokens_by_first_letter, "tokens of one or two"),
    ("forbidden tokens", lambda t, p: ~tokens_by_rows(t, p), "tokens of one or two"),
    ("forbidden tokens", lambda t, p: 1 * tokens_by_rows(t, p), "tokens of one or two.*dtype"),
    ("unlikelihood loss", unlikelihood_by_formula, "edge case: almost sure"),
    (
        "unlikelihood loss",
        lambda z, banned: unlikelihood_by_formula(z, banned, together=False),
        "one and two",
    ),
    ("unlikelihood loss", lambda z, banned: unlikelihood_by_rest(z, ~banned), "one and two"),
    ("unlikelihood loss", lambda *x: 3 * unlikelihood_by_rest(*x), "one and two"),
    ("exposure in bits", lambda own, o: exposure_by_sorting(own + 1e-9, o), "edge case: equal"),
    (
        "exposure in bits",
        lambda own, o: math.log2(len(o) / (1 + sum(x >= own for x in o))),
        "the second of four",
    ),
    ("exposure in bits", lambda *x: math.log(2) * exposure_by_sorting(*x), "the second of four"),
    ("private gradient", private_of_the_sum, "one long, one short"),
    ("private gradient", lambda *x: private_by_loop(*x, anyway=True), "one long, one short"),
    ("private gradient", lambda *x: private_by_loop(*x, late=True), "with noise"),
]
