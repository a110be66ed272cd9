"""Tests of tfgpt.speculative: the distribution is exactly that of the model alone.

Frequencies of many continuations are compared by a chi-square statistic with all
probabilities, which full passes give. Wrong rules of acceptance fail the same test.
"""

import functools
import itertools

import numpy as np
import pytest
from layer_check import randomize, to_numpy

from tfgpt import GPT
from tfgpt.compilation import programs_of
from tfgpt.generation.decoding import next_token_probabilities
from tfgpt.generation.speculative import accept, draw_one, speculative_generate

VOCAB, CONTEXT = 5, 40
PROMPT = [1, 2, 3]
# Chi-square with 24 or 124 degrees of freedom: passed by 1 of 10 000 right samplers.
LIMITS = {25: 60.4, 125: 190.0}


@functools.cache
def random_gpt(seed, scale=0.5, vocab_size=VOCAB, context_length=CONTEXT, **settings):
    """Make a GPT once for all tests, with the programs that it compiled."""
    model = GPT(vocab_size, context_length, num_layers=1, d_model=8, num_heads=2, **settings)
    return randomize(model, np.random.default_rng(seed), scale)


def model_and_draft():
    return random_gpt(0), random_gpt(1)


def next_probabilities(model, texts, **settings):
    """Return the distribution after each text (N, T), by one full pass: float64 (N, V)."""
    length = len(texts[0])
    # One length for all passes; what comes later is not seen.
    texts = np.pad(texts, ((0, 0), (0, CONTEXT - length)), constant_values=1).astype("int32")
    logits = to_numpy(model(texts))[:, length - 1]
    return to_numpy(next_token_probabilities(logits, **settings)).astype("float64")


def joint_probabilities(model, count, **settings):
    """Return the probability of every continuation of the prompt by `count` tokens: (V^n,)."""
    joint = np.ones(1)
    for length in range(count):
        rows = itertools.product(range(VOCAB), repeat=length)
        step = next_probabilities(model, [[*PROMPT, *row] for row in rows], **settings)
        joint = (joint[:, None] * step / step.sum(axis=1, keepdims=True)).ravel()
    return joint


def chi_square(codes, probabilities):
    """Compute the statistic of observed continuations, written as numbers of base V."""
    seen = np.bincount(codes, minlength=len(probabilities))
    expected = probabilities * len(codes)
    # Rare ones are counted together, as one: the statistic needs more than a few of each.
    rare = expected < 5
    seen = np.append(seen[~rare], seen[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    possible = expected > 0
    assert not seen[~possible].any()
    return ((seen - expected)[possible] ** 2 / expected[possible]).sum()


@functools.cache
def greedy_text(prompt):
    """Continue a prompt by the first model's likeliest tokens, up to the context."""
    text = list(prompt)
    while len(text) < CONTEXT:
        text.append(int(next_probabilities(random_gpt(0), [text])[0].argmax()))
    return text


# The rule of acceptance alone


def always_accept(proposed, draft_probabilities, model_probabilities, generator):
    return len(proposed), draw_one(model_probabilities[-1], generator)


def redraw_from_the_model(proposed, draft_probabilities, model_probabilities, generator):
    for place, token in enumerate(proposed):
        p, q = model_probabilities[place], draft_probabilities[place]
        if generator.random() * q[token] >= p[token]:
            return place, draw_one(p, generator)
    return len(proposed), draw_one(model_probabilities[-1], generator)


def accept_if_likelier(proposed, draft_probabilities, model_probabilities, generator):
    for place, token in enumerate(proposed):
        p, q = model_probabilities[place], draft_probabilities[place]
        if p[token] < q[token]:
            return place, draw_one(np.maximum(p - q, 0), generator)
    return len(proposed), draw_one(model_probabilities[-1], generator)


def draw_pairs(rule, count):
    """Draw pairs of tokens by a rule, from a model and a draft that are tables.

    Returns:
        codes: int array (count,), the pairs as numbers of base V.
        probabilities: float array (V^2,), of the model's pairs.
    """
    rng = np.random.default_rng(3)
    first = rng.dirichlet(np.ones(VOCAB), 2)  # model and draft: (2, V)
    then = rng.dirichlet(np.ones(VOCAB), (2, VOCAB))  # after each token: (2, V, V)
    codes = np.empty(count, "int64")
    for sample in range(count):
        token = draw_one(first[1], rng)
        accepted, after = rule([token], first[1:], np.stack([first[0], then[0, token]]), rng)
        # A rejected token ends the pass: the second comes from the model in the next one.
        pair = (token, after) if accepted else (after, draw_one(then[0, after], rng))
        codes[sample] = pair[0] * VOCAB + pair[1]
    return codes, (first[0][:, None] * then[0]).ravel()


def test_the_rule_draws_pairs_as_often_as_the_model_does():
    assert chi_square(*draw_pairs(accept, 20_000)) < LIMITS[25]


@pytest.mark.parametrize("rule", [always_accept, redraw_from_the_model, accept_if_likelier])
def test_wrong_rules_fail_the_same_test(rule):
    assert chi_square(*draw_pairs(rule, 20_000)) > 5 * LIMITS[25]


def test_tokens_are_accepted_as_often_as_the_distributions_overlap():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(VOCAB), 2)
    rows = np.stack([p, p])
    accepted = [accept([draw_one(q, rng)], q[None], rows, rng)[0] for _ in range(20_000)]
    # Leviathan et al., theorem 3.5; the standard deviation of the mean is below 0.0036.
    assert np.mean(accepted) == pytest.approx(np.minimum(p, q).sum(), abs=0.015)


def test_the_first_rejected_token_ends_the_pass():
    one, two = np.eye(2)
    draft, rng = np.stack([one, one, one]), np.random.default_rng(0)
    assert accept([0, 0, 0], draft, np.stack([one, two, one, one]), rng) == (1, 1)
    assert accept([0, 0, 0], draft, np.stack([one, one, one, two]), rng) == (3, 1)
    assert accept([], draft[:0], np.stack([two]), rng) == (0, 1)


# The whole function


def draw_texts(runs, count, settings=None, **options):
    """Draw the continuations of many seeds, as numbers of base V."""
    model, draft = model_and_draft()
    settings = settings or {}
    powers = VOCAB ** np.arange(count)[::-1]
    texts = [
        speculative_generate(model, draft, PROMPT, count, seed=seed, **settings, **options)
        for seed in range(runs)
    ]
    return np.concatenate(texts)[:, len(PROMPT) :] @ powers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "lookahead"),
    [({}, 1), ({}, 4), ({"temperature": 2.0}, 2), ({"top_k": 3, "top_p": 0.9}, 2)],
)
def test_texts_are_drawn_as_often_as_the_model_alone_draws_them(settings, lookahead):
    codes = draw_texts(4000, 3, settings, lookahead=lookahead)
    model, draft = model_and_draft()
    assert chi_square(codes, joint_probabilities(model, 3, **settings)) < LIMITS[125]
    # The draft by itself is far from it.
    probabilities = joint_probabilities(draft, 3, **settings)
    codes = np.random.default_rng(0).choice(125, 4000, p=probabilities / probabilities.sum())
    observed = np.bincount(codes, minlength=125) / 4000
    assert abs(observed - joint_probabilities(model, 3, **settings)).sum() > 0.5


@pytest.mark.slow
def test_a_few_hundred_texts_are_drawn_as_often_as_the_model_alone_draws_them():
    codes = draw_texts(500, 2, lookahead=4)
    model, draft = model_and_draft()
    assert chi_square(codes, joint_probabilities(model, 2)) < LIMITS[25]
    assert chi_square(codes, joint_probabilities(draft, 2)) > 2 * LIMITS[25]


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [always_accept, redraw_from_the_model])
def test_wrong_rules_give_other_texts(wrong, monkeypatch):
    monkeypatch.setattr("tfgpt.generation.speculative.accept", wrong)
    codes = draw_texts(4000, 3, lookahead=4)
    assert chi_square(codes, joint_probabilities(random_gpt(0), 3)) > 2 * LIMITS[125]


@pytest.mark.slow
@pytest.mark.parametrize("lookahead", [1, 4, 100])
@pytest.mark.parametrize("length", [1, 3, 17, 35])
def test_at_temperature_0_it_is_greedy_decoding(length, lookahead):
    model, draft = model_and_draft()
    prompt = tuple(np.random.default_rng(length).integers(0, VOCAB, length).tolist())
    for count in (1, 5, CONTEXT - length):
        result = speculative_generate(
            model, draft, prompt, count, lookahead=lookahead, temperature=0
        )
        assert result.dtype == np.int32
        assert result.tolist() == [greedy_text(prompt)[: length + count]]


@pytest.mark.slow
def test_a_longer_context_of_one_model_changes_nothing():
    model, draft = random_gpt(0), random_gpt(2, context_length=64, positions="rotary")
    result = speculative_generate(model, draft, PROMPT, 37, temperature=0)
    assert result.tolist() == [greedy_text(tuple(PROMPT))]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"temperature": 0}, {}, {"top_k": 3, "top_p": 0.8}])
def test_the_model_accepts_what_it_proposes_itself(settings):
    model = random_gpt(0)
    # Passes of 1 + 4 tokens: 30 = 6 x 5.
    _, accepted = speculative_generate(
        model, model, PROMPT, 30, seed=0, return_acceptance=True, **settings
    )
    assert accepted == 4.0


@pytest.mark.slow
def test_a_better_draft_is_accepted_more_often():
    model = random_gpt(0)
    near = random_gpt(9)
    near.set_weights([value + 0.02 for value in model.get_weights()])
    means = [
        np.mean([acceptance(model, draft, seed) for seed in range(5)])
        for draft in (near, random_gpt(1))
    ]
    assert 3.5 > means[0] > 1.5 * means[1] > 0


def acceptance(model, draft, seed):
    return speculative_generate(model, draft, PROMPT, 37, seed=seed, return_acceptance=True)[1]


@pytest.mark.slow
def test_the_seed_gives_the_same_text_and_another_seed_another():
    first, same, other = (
        speculative_generate(*model_and_draft(), PROMPT, 30, seed=seed).tolist()
        for seed in (0, 0, 1)
    )
    assert first == same != other


@pytest.mark.slow
def test_a_text_is_filled_with_its_stop_token():
    free = speculative_generate(*model_and_draft(), PROMPT, 30, seed=0)[0].tolist()
    for stop_token in set(free[3:]):
        result = speculative_generate(*model_and_draft(), PROMPT, 30, seed=0, stop_token=stop_token)
        end = free.index(stop_token, 3)
        assert result[0].tolist() == free[:end] + [stop_token] * (33 - end)


@pytest.mark.slow
def test_padding_is_never_generated():
    model = random_gpt(0, pad_id=0)
    free = speculative_generate(random_gpt(0), random_gpt(1), PROMPT, 37, seed=0)
    assert 0 in free
    assert 0 not in speculative_generate(model, random_gpt(1), PROMPT, 37, seed=0)


@pytest.mark.slow
def test_other_prompts_lengths_numbers_and_seeds_use_the_same_programs():
    model, draft = model_and_draft()
    speculative_generate(model, draft, PROMPT, 5, top_k=3, top_p=0.5)
    counts = len(programs_of(model)), len(programs_of(draft))
    speculative_generate(model, draft, [[4] * 20], 9, temperature=0.5, top_k=2, top_p=0.9)
    assert (len(programs_of(model)), len(programs_of(draft))) == counts


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens must be an integer >= 1, got 0"),
        ({"lookahead": 0}, ValueError, "lookahead must be an integer >= 1, got 0"),
        ({"lookahead": 1.5}, ValueError, "lookahead must be an integer >= 1, got 1.5"),
        ({"temperature": -1}, ValueError, "temperature must be >= 0 and finite, got -1"),
        ({"top_k": 0}, ValueError, "top_k must be an integer >= 1, got 0"),
        ({"top_p": 2}, ValueError, r"top_p must be in \(0, 1\], got 2"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0, got -1"),
        ({"stop_token": 5}, ValueError, r"stop_token must be in .*\[0, 5\), got 5"),
        ({"prompt_ids": [[1, 5]]}, ValueError, r"prompt_ids must be in .*\[0, 5\), got 5"),
        ({"prompt_ids": [[1], [2]]}, ValueError, r"prompt_ids must have .*, got 2 prompts"),
        ({"prompt_ids": []}, ValueError, r"prompt_ids must have .*, got \(1, 0\)"),
        ({"prompt_ids": [[[1]]]}, ValueError, r"prompt_ids must have .*, got \(1, 1, 1\)"),
        ({"prompt_ids": [0.5]}, TypeError, "prompt_ids must be integers"),
        (
            {"max_new_tokens": 38},
            ValueError,
            r"must fit the context_length=40 of the model, got 3 \+ 38",
        ),
        (
            {"draft": {"context_length": 8}, "max_new_tokens": 6},
            ValueError,
            r"must fit the context_length=8 of the draft, got 3 \+ 6",
        ),
        ({"draft": {"vocab_size": 6}}, ValueError, "the model's vocab_size=5, got 6"),
    ],
)
def test_wrong_input_is_named(options, error, message):
    options = {"prompt_ids": PROMPT, "max_new_tokens": 2} | options
    draft = random_gpt(1, **options.pop("draft", {}))
    with pytest.raises(error, match=message):
        speculative_generate(random_gpt(0), draft, **options)
