"""Tests of tfgpt.generation: readable alphabets, seeds, the sliding window and errors."""

import sys
import time
import warnings
from dataclasses import dataclass

import keras
import numpy as np
import pytest

from tfgpt import GPT, compilation
from tfgpt.compilation import programs_of
from tfgpt.generation.beam import BeamSearch
from tfgpt.generation.decoding import draw, generate, next_token_probabilities
from tfgpt.generation.samplers import Greedy, RepetitionPenalty, Temperature, TopK

VOCAB, CONTEXT = 7, 6


class Successor:
    """A stand-in for a model: after token t comes t + 1, nearly always.

    Its logits depend on the last token only; `favourite` gets the largest logit.
    """

    vocab_size, context_length = VOCAB, CONTEXT

    def __init__(self, pad_id=None, favourite=None):
        self.pad_id = pad_id
        self.favourite = favourite

    def predict_on_batch(self, token_ids):
        logits = np.eye(VOCAB)[(np.asarray(token_ids) + 1) % VOCAB] * 30
        if self.favourite is not None:
            logits[..., self.favourite] = 60
        return logits.astype("float32")


@pytest.fixture(scope="module")
def model():
    """A random GPT with large weights, so that its choices depend on all it sees."""
    keras.utils.set_random_seed(1)
    model = GPT(VOCAB, CONTEXT, num_layers=1, d_model=16, num_heads=2)
    for weight in model.trainable_variables:
        weight.assign(np.random.default_rng(len(weight.shape)).normal(size=weight.shape))
    return model


def distribution(logits, *arguments, **options):
    return np.asarray(next_token_probabilities(np.asarray(logits), *arguments, **options))


def probabilities(values, **options):
    return distribution(np.log([values]), **options)[0].tolist()


# The distribution, on an alphabet of four letters


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.4, 0.1, 0.2, 0.3]),
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"temperature": 0.5}, [16 / 30, 1 / 30, 4 / 30, 9 / 30]),  # squares, over their sum
        ({"top_k": 1}, [1, 0, 0, 0]),
        ({"top_k": 2}, [4 / 7, 0, 0, 3 / 7]),
        ({"top_k": 4}, [0.4, 0.1, 0.2, 0.3]),
        ({"top_k": 99}, [0.4, 0.1, 0.2, 0.3]),
        ({"top_p": 0.3}, [1, 0, 0, 0]),  # the likeliest is always kept
        ({"top_p": 0.6}, [4 / 7, 0, 0, 3 / 7]),
        ({"top_p": 0.75}, [4 / 9, 0, 2 / 9, 3 / 9]),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
        ({"top_p": 1.0}, [0.4, 0.1, 0.2, 0.3]),
        ({"top_k": 3, "top_p": 0.5}, [4 / 7, 0, 0, 3 / 7]),  # 4/9 < 0.5, then 7/9
        ({"temperature": 0.5, "top_p": 0.6}, [16 / 25, 0, 0, 9 / 25]),
    ],
)
def test_the_distribution_is_what_is_computed_by_hand(options, expected):
    assert probabilities([0.4, 0.1, 0.2, 0.3], **options) == pytest.approx(expected, abs=1e-5)


def test_top_p_of_1_keeps_even_what_is_below_rounding():
    logits = np.array([[0.0, -30.0, -50.0, -80.0]])
    kept = distribution(logits, top_p=1.0)
    assert (kept > 0).all()
    np.testing.assert_allclose(kept, distribution(logits), rtol=1e-6)


def test_of_equal_tokens_the_first_is_taken_and_no_more_than_k_are_kept():
    equal = np.zeros((1, 4))
    assert distribution(equal, temperature=0).tolist() == [[1, 0, 0, 0]]
    assert sorted(distribution(equal, top_k=2)[0].tolist()) == [0, 0, 0.5, 0.5]
    assert sorted(distribution(equal, top_p=0.5)[0].tolist()) == [0, 0, 0.5, 0.5]


@pytest.mark.parametrize("temperature", [1e-320, 1e-300, 1e-3, 1.0, 1e300])
def test_every_temperature_gives_finite_probabilities_that_sum_to_1(temperature):
    logits = np.array([[5.0, -3.0, -np.inf, 1e4], [0.0, 0.0, 0.0, 0.0]])
    result = distribution(logits, temperature=temperature)
    np.testing.assert_allclose(result.sum(axis=-1), 1.0, atol=1e-6)
    assert result[0, 2] == 0.0
    assert result[0, 3] == result[0].max()


def test_rows_are_treated_one_by_one():
    logits = np.random.default_rng(0).normal(size=(5, 9))
    together = distribution(logits, 0.7, top_k=5, top_p=0.8)
    for row, logit in zip(together, logits, strict=True):
        alone = distribution(logit[None], 0.7, top_k=5, top_p=0.8)[0]
        np.testing.assert_allclose(row, alone, atol=1e-6)


def test_the_logits_are_not_changed():
    logits = np.random.default_rng(0).normal(size=(2, 5)).astype("float32")
    before = logits.copy()
    distribution(logits, 0.5, top_k=2, top_p=0.5)
    np.testing.assert_array_equal(logits, before)


def test_tokens_are_drawn_as_often_as_their_probabilities_say():
    """Chi-square with 3 degrees of freedom: 16.27 is passed by 999 of 1000 right samplers."""
    values = np.array([0.5, 0.0, 0.2, 0.05, 0.25], "float32")
    count = 20_000
    points = np.random.default_rng(0).random(count, dtype="float32")
    seen = np.bincount(np.asarray(draw(np.tile(values, (count, 1)), points)), minlength=5)
    assert seen[1] == 0 and seen.sum() == count and len(seen) == 5
    possible = values > 0
    expected = values[possible] * count
    assert ((seen[possible] - expected) ** 2 / expected).sum() < 16.27


def test_a_row_is_drawn_from_its_own_probabilities_even_at_the_ends():
    rows = np.eye(6, dtype="float32")[[4, 0, 5]]
    for point in (0.0, 0.5, np.nextafter(np.float32(1), np.float32(0))):
        tokens = draw(rows, np.full(3, point, "float32"))
        assert np.asarray(tokens).tolist() == [4, 0, 5]


# The loop


def test_greedy_tokens_are_the_largest_logits_of_full_passes(model):
    result = generate(model, [[1, 2]], max_new_tokens=4, temperature=0)
    for length in range(2, 6):
        logits = np.asarray(model(result[:, :length]))[0, -1]
        assert result[0, length] == logits.argmax()
    assert result.dtype == np.int32 and result[0, :2].tolist() == [1, 2]


def test_the_window_slides_as_a_fresh_pass_over_the_last_tokens(model):
    result = generate(model, [[1, 2, 3]], max_new_tokens=12, temperature=0)
    assert result.shape == (1, 15)
    for length in range(3, 15):
        window = result[:, max(0, length - CONTEXT) : length]
        assert result[0, length] == np.asarray(model(window))[0, -1].argmax()


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others():
    flat = Successor()
    flat.predict_on_batch = lambda ids: np.zeros((*ids.shape, VOCAB), "float32")
    first, same, other, free, free_again = (
        generate(flat, [[1]], 40, seed=seed).tolist() for seed in (0, 0, 1, None, None)
    )
    assert first == same
    assert first != other
    assert free != free_again  # chance to be equal: 7^-40


def test_the_sampling_options_reach_the_distribution():
    flat = Successor()
    logits = np.log([0.4, 0.3, 0.12, 0.08, 0.05, 0.03, 0.02]).astype("float32")
    flat.predict_on_batch = lambda ids: np.tile(logits, (*ids.shape, 1))
    seen = {
        name: set(generate(flat, [[0]] * 50, 6, seed=0, **options)[:, 1:].ravel().tolist())
        for name, options in {
            "all": {},
            "top_k": {"top_k": 2},
            "top_p": {"top_p": 0.75},
            "cold": {"temperature": 0.01},
        }.items()
    }
    assert seen == {"all": set(range(7)), "top_k": {0, 1}, "top_p": {0, 1, 2}, "cold": {0}}


def test_rows_do_not_depend_on_each_other_in_greedy_generation(model):
    prompts = np.array([[1, 2], [6, 5], [3, 3]])
    together = generate(model, prompts, 8, temperature=0)
    for prompt, row in zip(prompts, together, strict=True):
        np.testing.assert_array_equal(generate(model, prompt, 8, temperature=0)[0], row)


def test_a_sequence_ends_at_its_stop_token_and_is_filled_with_it():
    result = generate(Successor(), [[1], [3]], 6, temperature=0, stop_token=4)
    assert result.tolist() == [[1, 2, 3, 4, 4, 4, 4], [3, 4, 4, 4, 4, 4, 4]]


def test_a_stop_token_in_the_prompt_does_not_end_the_sequence():
    result = generate(Successor(), [[4, 1]], 3, temperature=0, stop_token=4)
    assert result.tolist() == [[4, 1, 2, 3, 4]]


def test_no_pass_is_made_after_all_sequences_have_ended():
    model, calls = Successor(), []
    predict = model.predict_on_batch
    model.predict_on_batch = lambda ids: calls.append(ids.shape) or predict(ids)
    generate(model, [[1], [2]], 50, temperature=0, stop_token=4)
    assert calls == [(2, CONTEXT)] * 3


def test_padding_is_never_generated_if_the_model_has_some():
    assert 0 not in generate(Successor(0, favourite=0), [[1]], 30, temperature=0)[0, 1:]
    assert 0 not in generate(Successor(0, favourite=0), [[1]], 30, seed=0)[0, 1:]
    assert (generate(Successor(None, favourite=0), [[1]], 5, temperature=0)[0, 1:] == 0).all()


def test_a_gpt_with_padding_generates_none():
    keras.utils.set_random_seed(0)
    model = GPT(3, 4, num_layers=1, d_model=8, num_heads=2, pad_id=0)
    assert 0 not in generate(model, [[1, 2]], 20, seed=0)


def test_a_prompt_that_is_too_long_is_kept_and_warned_about_once():
    prompt = [[1, 2, 3, 4, 5, 6, 0, 1, 2]]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = generate(Successor(), prompt, 4, temperature=0)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 1
    assert "9 tokens" in messages[0] and "context_length=6" in messages[0]
    assert caught[0].filename == __file__
    assert result.tolist() == [[*prompt[0], 3, 4, 5, 6]]


def test_a_prompt_that_fits_exactly_is_not_warned_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate(Successor(), [[1] * CONTEXT], 2, temperature=0)


def test_only_the_last_tokens_of_a_long_prompt_matter(model):
    tail = [1, 2, 3, 4, 5, 6]
    with pytest.warns(UserWarning, match="sees the last"):
        long = generate(model, [[6, 5, *tail]], 5, temperature=0)
    np.testing.assert_array_equal(long[0, 2:], generate(model, [tail], 5, temperature=0)[0])


@pytest.mark.requires_tensorflow
def test_another_prompt_length_needs_no_new_trace():
    keras.utils.set_random_seed(0)
    model = GPT(VOCAB, CONTEXT, num_layers=1, d_model=8, num_heads=2)
    traces = []

    def count(name):
        function = getattr(model, name)

        def counted(*args, **kwargs):  # runs only while a trace is made
            traces.append(name)
            return function(*args, **kwargs)

        setattr(model, name, counted)

    count("call")
    count("decode")
    generate(model, [[1, 2]], 9, seed=0)  # with a cache, then past the context
    assert set(traces) == {"call", "decode"}
    traces.clear()
    generate(model, [[1, 2, 3, 4]], 9, seed=1)
    generate(model, [[1]], 2, temperature=0.5, seed=2)
    assert traces == []


def test_one_prompt_may_be_flat_and_any_integer_type():
    expected = [[1, 2, 3, 4]]
    for prompt in ([1, 2], np.array([1, 2], "uint8"), np.array([[1, 2]], "int64"), ((1, 2),)):
        assert generate(Successor(), prompt, 2, temperature=0).tolist() == expected


def test_the_prompt_is_not_changed():
    prompt = np.array([[1, 2]], "int32")
    generate(Successor(), prompt, 3, temperature=0)
    assert prompt.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature must be >= 0 and finite, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be >= 0 and finite, got nan"),
        ({"temperature": float("inf")}, "temperature must be >= 0 and finite, got inf"),
        ({"top_p": 0}, r"top_p must be in \(0, 1\], got 0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
        ({"top_p": float("nan")}, r"top_p must be in \(0, 1\], got nan"),
        ({"top_k": 0}, "top_k must be an integer >= 1, got 0"),
        ({"top_k": 2.0}, "top_k must be an integer >= 1, got 2.0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer >= 1, got 0"),
        ({"prompt_ids": []}, r"prompt_ids must have shape .* got \(1, 0\)"),
        ({"prompt_ids": [[]]}, r"prompt_ids must have shape .* got \(1, 0\)"),
        ({"prompt_ids": 3}, r"prompt_ids must have shape .* got \(\)"),
        ({"prompt_ids": [[[1]]]}, r"prompt_ids must have shape .* got \(1, 1, 1\)"),
        ({"prompt_ids": [[1, VOCAB]]}, r"prompt_ids must be in .*\[0, 7\), got 7"),
        ({"prompt_ids": [[-1, 2]]}, r"prompt_ids must be in .*\[0, 7\), got -1"),
        ({"stop_token": VOCAB}, r"stop_token must be in .*\[0, 7\), got 7"),
        ({"stop_token": [1, VOCAB]}, r"stop_token must be in .*\[0, 7\), got 7"),
        ({"stop_token": [1] * 9}, r"stop_token must be .* at most 8 of them, got shape \(9,\)"),
        (
            {"prompt_ids": [[1, 2], []]},
            "prompt_ids must have a token in every row, got none in row 1",
        ),
        ({"prompt_ids": [[1, 2], [VOCAB]]}, r"prompt_ids must be in .*\[0, 7\), got 7"),
        ({"min_p": 1.5}, r"min_p must be in \[0, 1\], got 1.5"),
        ({"repetition_penalty": 0}, "repetition_penalty must be > 0 and finite, got 0"),
        ({"vocab_size": 0}, "vocab_size must be an integer >= 1, got 0"),
        ({"vocab_size": 8}, "vocab_size must be at most the model's vocab_size=7, got 8"),
        ({"samplers": [Greedy()], "top_k": 3}, "top_k must not be given with samplers, got 3"),
        ({"samplers": [Greedy()], "temperature": 0}, "temperature must not be given .*, got 0"),
    ],
)
def test_arguments_outside_their_range_are_refused(options, message):
    arguments = {"prompt_ids": [[1]], "max_new_tokens": 2, **options}
    with pytest.raises(ValueError, match=message):
        generate(Successor(), **arguments)


@pytest.mark.parametrize("prompt", [[[1.0, 2.0]], np.ones((1, 2)), ["moon"]])
def test_a_prompt_that_is_not_integer_is_refused(prompt):
    with pytest.raises(TypeError, match="prompt_ids must be integers"):
        generate(Successor(), prompt, 2)


@pytest.mark.parametrize(
    "context", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (16, 20))]
)
def test_every_prompt_length_is_read_in_chunks_that_fit_the_context(context):
    """Greedy tokens equal full passes, for contexts that no chunk of 16 divides."""
    keras.utils.set_random_seed(3)
    model = GPT(VOCAB, context, num_layers=1, d_model=8, num_heads=2)
    for weight in model.trainable_variables:
        weight.assign(np.random.default_rng(len(weight.shape)).normal(size=weight.shape))
    for length in {1, 2, context - 2, context - 1} - {0}:
        prompt = np.random.default_rng(length).integers(0, VOCAB, (2, length))
        result = generate(model, prompt, 3, temperature=0)
        for place in range(length, length + 3):
            window = result[:, max(0, place - context) : place]
            expected = np.asarray(model(window))[:, -1].argmax(axis=-1)
            np.testing.assert_array_equal(result[:, place], expected)


@pytest.mark.requires_tensorflow
def test_where_xla_fails_the_plain_function_runs_with_one_notice():
    import tensorflow as tf

    from tfgpt.compilation import compile_with_xla

    def double(x):
        text = tf.strings.as_string(x)  # XLA knows no strings
        return 2.0 * tf.strings.to_number(text)

    run = compile_with_xla(double, (tf.constant([1.0, 2.0]),))
    with pytest.warns(UserWarning, match="XLA failed on this machine") as caught:
        assert run(tf.constant([1.0, 2.0])).numpy().tolist() == [2.0, 4.0]
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(tf.constant([3.0, 4.0])).numpy().tolist() == [6.0, 8.0]


@pytest.mark.requires_tensorflow
def test_an_error_without_xla_is_raised():
    import tensorflow as tf

    from tfgpt.compilation import compile_with_xla

    def check(x):
        with tf.control_dependencies([tf.debugging.assert_positive(x, "must be positive")]):
            return tf.strings.to_number(tf.strings.as_string(x))

    run = compile_with_xla(check, (tf.constant([1.0]),))
    with pytest.warns(UserWarning, match="XLA failed"), pytest.raises(tf.errors.OpError):
        run(tf.constant([-1.0]))


# Prompts of different lengths


RAGGED = [[1, 2, 3], [4], [5, 6, 1, 2, 3], [2, 2]]


@pytest.mark.slow
@pytest.mark.parametrize("new_tokens", [1, 2, 9])
def test_prompts_of_different_lengths_go_on_as_each_would_alone(model, new_tokens):
    """With a cache, up to the end of the context, and past it."""
    together = generate(model, RAGGED, new_tokens, temperature=0, repetition_penalty=1.3)
    for prompt, row in zip(RAGGED, together, strict=True):
        alone = generate(model, prompt, new_tokens, temperature=0, repetition_penalty=1.3)[0]
        assert row.dtype == np.int32
        assert row.tolist() == alone.tolist()


def test_prompts_of_different_lengths_need_no_cache():
    prompts = [np.array([1]), np.array([3, 4, 5, 6, 0, 1, 2, 3])]
    with pytest.warns(UserWarning, match="The prompt has 8 tokens") as caught:
        rows = generate(Successor(), prompts, 3, temperature=0, stop_token=[3, 6])
    assert caught[0].filename == __file__
    assert [row.tolist() for row in rows] == [[1, 2, 3, 3], [3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6]]


@pytest.mark.requires_tensorflow
def test_a_ragged_tensor_is_a_list_of_prompts():
    import tensorflow as tf

    rows = generate(Successor(), tf.ragged.constant([[1], [3, 4]]), 2, temperature=0)
    assert [row.tolist() for row in rows] == [[1, 2, 3], [3, 4, 5, 6]]
    even = generate(Successor(), tf.ragged.constant([[1], [3]]), 2, temperature=0)
    assert even.tolist() == [[1, 2, 3], [3, 4, 5]]


# Stop tokens, vocabulary, samplers


def test_any_of_several_stop_tokens_ends_a_sequence_and_fills_it():
    result = generate(Successor(), [[1], [4]], 5, temperature=0, stop_token=[3, 6])
    assert result.tolist() == [[1, 2, 3, 3, 3, 3], [4, 5, 6, 6, 6, 6]]


def test_stop_tokens_end_cached_sequences_too(model):
    free = [row.tolist() for row in generate(model, RAGGED, 9, temperature=0)]
    stops = {free[0][4], free[2][6]}
    rows = generate(model, RAGGED, 9, temperature=0, stop_token=sorted(stops))
    ended = 0
    for prompt, row, expected in zip(RAGGED, rows, free, strict=True):
        ends = [i for i in range(len(prompt), len(expected)) if expected[i] in stops]
        if ends:
            ended += 1
            expected = expected[: ends[0]] + [expected[ends[0]]] * (len(expected) - ends[0])
        assert row.tolist() == expected
    assert ended >= 2


def test_ids_from_the_vocabulary_size_on_are_never_generated(model):
    for new_tokens in (4, 60):  # with a cache, and past the context
        result = generate(model, [[6, 5]] * 8, new_tokens, seed=0, temperature=5, vocab_size=3)
        assert set(result[:, 2:].ravel().tolist()) == {0, 1, 2}
    assert generate(Successor(), [[6, 2]], 2, temperature=0, vocab_size=3).tolist()[0][2:] == [0, 1]


@pytest.mark.slow
def test_the_settings_equal_their_samplers(model):
    settings = {"temperature": 0.7, "top_k": 4, "repetition_penalty": 1.2}
    samplers = [RepetitionPenalty(1.2), Temperature(0.7), TopK(4)]
    expected = generate(model, [[1, 2]], 9, seed=3, **settings)
    np.testing.assert_array_equal(generate(model, [[1, 2]], 9, seed=3, samplers=samplers), expected)


def test_the_repetition_penalty_reads_the_whole_text_of_each_row():
    """Equal logits: with a large penalty no letter comes again before all were used."""
    flat = Successor()
    flat.predict_on_batch = lambda ids: np.ones((*ids.shape, VOCAB), "float32")
    result = generate(flat, [[2], [5]], VOCAB - 1, temperature=0, repetition_penalty=10.0)
    assert [sorted(row) for row in result.tolist()] == [list(range(VOCAB))] * 2
    keras.utils.set_random_seed(0)
    cached = GPT(VOCAB, VOCAB, num_layers=1, d_model=8, num_heads=2)
    for weight in cached.weights:  # every logit is 8
        weight.assign(np.ones(weight.shape) if len(weight.shape) == 2 else weight * 0 + 1)
    result = generate(cached, [[2], [5]], VOCAB - 1, temperature=0, repetition_penalty=1e6)
    assert [sorted(row) for row in result.tolist()] == [list(range(VOCAB))] * 2


def test_a_sampler_of_ones_own_is_used_and_its_numbers_need_no_new_program():
    @dataclass(frozen=True)
    class Only:
        token: int

        def adjust(self, logits, seen):
            places = keras.ops.arange(VOCAB, dtype="float32")
            return keras.ops.where(places == self.token, logits, -np.inf)

    model = GPT(VOCAB, CONTEXT, num_layers=1, d_model=8, num_heads=2)
    for token in (3, 5):
        result = generate(model, [[1]], 9, samplers=[Only(token)])
        assert result.tolist() == [[1] + [token] * 9]
    assert len(programs_of(model)) == 1


class Repeat:
    """A search that repeats the last token."""

    def __init__(self):
        self.calls = []

    def search(self, model, prompt, max_new_tokens, stop_tokens, vocab_size):
        self.calls.append((prompt.shape, prompt.dtype, max_new_tokens, stop_tokens, vocab_size))
        return np.concatenate([prompt, np.repeat(prompt[:, -1:], max_new_tokens, 1)], axis=1)


def test_a_search_gets_the_prompts_of_each_length():
    search = Repeat()
    rows = generate(Successor(), [[1, 2], [3], [4, 5]], 2, samplers=search, stop_token=[6, 0])
    assert [row.tolist() for row in rows] == [[1, 2, 2, 2], [3, 3, 3], [4, 5, 5, 5]]
    assert search.calls == [
        ((1, 1), np.int32, 2, (6, 0), VOCAB),
        ((2, 2), np.int32, 2, (6, 0), VOCAB),
    ]
    even = generate(Successor(), [[1], [2]], 1, samplers=search, vocab_size=3)
    assert even.tolist() == [[1, 1], [2, 2]] and search.calls[-1][-2:] == ((), 3)
    with pytest.raises(ValueError, match=r"must fit context_length=6, got 5 \+ 2 tokens"):
        generate(Successor(), [[1] * 5], 2, samplers=search)
    with pytest.raises(ValueError, match="top_p must not be given with this strategy, got 0.5"):
        generate(Successor(), [[1]], 2, samplers=search, top_p=0.5)


@pytest.mark.slow
def test_padding_around_a_prompt_is_cut_off():
    keras.utils.set_random_seed(1)
    model = GPT(VOCAB, 12, num_layers=1, d_model=16, num_heads=2, pad_id=0)
    padded = np.array([[0, 0, 0, 5, 2], [3, 6, 1, 4, 2], [4, 1, 0, 0, 0]])
    together = generate(model, padded, 4, temperature=0)
    for row, prompt in zip(together, ([5, 2], [3, 6, 1, 4, 2], [4, 1]), strict=True):
        assert row.tolist() == generate(model, prompt, 4, temperature=0)[0].tolist()
        assert row[: len(prompt)].tolist() == prompt and 0 not in row
    for wrong, message in (
        ([[1, 0, 2]], r"padding \(pad_id=0\) at the ends only, got some inside row 0"),
        ([[1, 2], [0, 0]], "a token in every row, got none in row 1"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(model, wrong, 1)


# Programs


@pytest.mark.slow
def test_one_program_serves_all_lengths_numbers_seeds_and_stop_tokens(monkeypatch):
    model = GPT(VOCAB, 40, num_layers=1, d_model=8, num_heads=2)
    compiled, compile_for = [], compilation.compile_for
    monkeypatch.setattr(
        compilation, "compile_for", lambda *arguments: compiled.append(1) or compile_for(*arguments)
    )
    settings = {"top_k": 3, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1}
    generate(model, [[1, 2], [3, 4]], 4, seed=0, **settings)
    assert len(compiled) == len(programs_of(model)) == 1
    assert all(program.compile_seconds > 0 for program in programs_of(model))
    settings = {"top_k": 5, "top_p": 0.5, "min_p": 0.2, "repetition_penalty": 0.9}
    generate(model, [[1], [3]], 39, temperature=0.3, seed=4, stop_token=2, **settings)
    generate(model, [[1, 2, 3], [3]], 9, temperature=2, stop_token=[4, 5], **settings)
    generate(model, [[1] * 30, [3]], 9, vocab_size=5, **settings)
    assert len(compiled) == 1
    generate(model, [[1]], 4, seed=0, **settings)  # another batch size
    generate(model, [[1]], 4, temperature=0)  # another kind of sampler
    assert len(compiled) == len(programs_of(model)) == 3


@pytest.mark.slow
def test_a_longer_text_takes_a_larger_cache():
    model = GPT(VOCAB, 600, num_layers=1, d_model=8, num_heads=2)
    rooms = []
    for length, new_tokens in ((1, 3), (254, 2), (255, 2), (510, 2), (511, 2)):
        prompt = np.random.default_rng(0).integers(0, VOCAB, (1, length))
        result = generate(model, prompt, new_tokens, temperature=0)
        logits = np.asarray(model(result[:, :-1]))[0, length - 1 :]
        assert result[0, length:].tolist() == logits.argmax(axis=-1).tolist()
        rooms.append(len(programs_of(model)))
    assert rooms == [1, 1, 2, 2, 3]  # room for 256, 512 and all 600 tokens


@pytest.mark.slow
def test_the_compiled_loop_writes_what_the_plain_loop_writes(model, monkeypatch):
    settings = {"top_k": 4, "top_p": 0.95, "repetition_penalty": 1.2, "stop_token": [3]}
    compiled = [generate(model, [[1, 2], [5, 6]], 4, seed=seed, **settings) for seed in range(3)]
    plain = GPT(VOCAB, CONTEXT, num_layers=1, d_model=16, num_heads=2)
    plain.set_weights(model.get_weights())
    monkeypatch.setattr(compilation, "compile_for", lambda model, function, arguments: function)
    for seed, expected in enumerate(compiled):
        result = generate(plain, [[1, 2], [5, 6]], 4, seed=seed, **settings)
        np.testing.assert_array_equal(result, expected)


def test_a_slow_compilation_is_announced_once(monkeypatch, capsys):
    def slow(model, function, arguments):
        calls = []

        def run(*arguments):
            if not calls:  # the first call compiles
                time.sleep(0.2)
            calls.append(1)
            return function(*arguments)

        time.sleep(0.2)
        return run

    model = GPT(VOCAB, CONTEXT, num_layers=1, d_model=8, num_heads=2)
    monkeypatch.setattr(compilation, "compile_for", slow)
    monkeypatch.setattr(compilation, "NOTICE_AFTER", 0.3)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for seed in range(2):
        generate(model, [[1]], 2, seed=seed)
        notices = capsys.readouterr().err.count("Compiling the decoding loop")
        assert notices == (1 if seed == 0 else 0)
    (program,) = programs_of(model)
    assert program.compile_seconds > 0.4


def test_a_fast_compilation_prints_nothing_however_long_the_text(monkeypatch, capsys):
    model = GPT(VOCAB, CONTEXT, num_layers=1, d_model=8, num_heads=2)

    def run_slowly(model, function, arguments):
        def run(state, until, settings):
            if int(until) > 0:  # it writes tokens, and is not called to compile
                time.sleep(0.5)
            return {**state, "position": until}

        return run

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(compilation, "compile_for", run_slowly)
    monkeypatch.setattr(compilation, "NOTICE_AFTER", 0.3)
    generate(model, [[1]], 2, seed=0)
    assert capsys.readouterr().err == ""


# Properties of drawing and of what is kept


@pytest.mark.slow
def test_a_model_that_changes_its_variables_gets_new_programs():
    model = GPT(VOCAB, CONTEXT, num_layers=1, d_model=8, num_heads=2)
    before = generate(model, [[1, 2]], 4, temperature=0)
    assert BeamSearch(2).search(model, np.array([[1, 2]], "int32"), 2, (), VOCAB).shape == (1, 4)
    dense = model.decoder_layers[0].feed_forward.contract
    dense.enable_lora(2)
    changes = np.random.default_rng(0).normal(size=(2, 8)).astype("float32") * 99
    dense.lora_kernel_a.assign(np.ones(dense.lora_kernel_a.shape))
    dense.lora_kernel_b.assign(changes)
    logits = np.asarray(model(np.array([[1, 2]])))[0, -1]
    after = generate(model, [[1, 2]], 4, temperature=0)
    assert after[0, 2] == logits.argmax()
    assert (after != before).any()
    beam = BeamSearch(1).search(model, np.array([[1, 2]], "int32"), 4, (), VOCAB)
    np.testing.assert_array_equal(beam, after)


@pytest.mark.slow
def test_a_prompt_goes_on_in_any_batch_as_it_does_alone(model):
    """With drawing: in batches of other sizes, in another order, next to other lengths."""
    prompts = [[1, 2], [3, 4, 5], [6]]
    alone = [generate(model, [prompt], 4, seed=3)[0].tolist() for prompt in prompts]
    for order in ((0, 1, 2), (2, 0), (1, 2, 0)):
        rows = generate(model, [prompts[place] for place in order], 4, seed=3)
        assert [row.tolist() for row in rows] == [alone[place] for place in order]


@pytest.mark.slow
def test_several_samples_of_a_prompt_differ_and_stand_side_by_side(model):
    rows = generate(model, [[1, 2], [3, 4]], 5, seed=0, num_samples=6)
    assert rows.shape == (12, 7)
    assert (rows[:6, :2] == [1, 2]).all() and (rows[6:, :2] == [3, 4]).all()
    assert len({tuple(row) for row in rows[:6].tolist()}) > 1
    np.testing.assert_array_equal(rows[0], generate(model, [[1, 2]], 5, seed=0)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_token": 0}, "stop_token must not be the pad_id=0, which is never written"),
        ({"stop_token": [3, 0]}, "stop_token must not be the pad_id=0"),
        ({"stop_token": 5, "vocab_size": 5}, r"stop_token must be in .*\[0, 5\), got 5"),
        ({"num_samples": 0}, "num_samples must be an integer >= 1"),
        ({"num_samples": 2, "strategy": BeamSearch(2)}, "num_samples must be 1 with a search"),
        ({"no_repeat_ngram_size": 9}, r"no_repeat_ngram_size must be an integer in \[1, 8\]"),
    ],
)
def test_what_can_never_be_is_refused(options, message):
    padded = GPT(VOCAB, CONTEXT, num_layers=1, d_model=8, num_heads=2, pad_id=0)
    with pytest.raises(ValueError, match=message):
        generate(padded, [[1, 2]], 2, **options)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_model_with_nan_weights_is_named(temperature):
    broken = GPT(VOCAB, CONTEXT, num_layers=1, d_model=8, num_heads=2)
    table = np.array(broken.embedding.embeddings)
    table[5] = np.nan  # one token only
    broken.embedding.embeddings.assign(table)
    for options in ({"temperature": temperature, "min_p": 0.1}, {"strategy": BeamSearch(2)}):
        with pytest.raises(ValueError, match="model must give .*got NaN"):
            generate(broken, [[1, 2]], 2, **options)


def test_no_run_of_n_tokens_comes_twice(model):
    for n in (1, 2, 3):
        rows = generate(
            model, [[1, 2], [4, 4]], CONTEXT - 2 if n > 1 else 3, seed=0, no_repeat_ngram_size=n
        )
        for row in rows.tolist():
            start = 2 if n == 1 else 0
            runs = [tuple(row[i : i + n]) for i in range(start, len(row) - n + 1)]
            assert len(set(runs)) == len(runs)
