"""Tests of tfgpt.generation: readable alphabets, seeds, the sliding window and errors."""

import warnings

import keras
import numpy as np
import pytest

from tfgpt import GPT
from tfgpt.generation import draw, generate, next_token_probabilities

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


@pytest.mark.parametrize("context", [3, 16, 20])
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

    from tfgpt.generation import compile_with_xla

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

    from tfgpt.generation import compile_with_xla

    def check(x):
        with tf.control_dependencies([tf.debugging.assert_positive(x, "must be positive")]):
            return tf.strings.to_number(tf.strings.as_string(x))

    run = compile_with_xla(check, (tf.constant([1.0]),))
    with pytest.warns(UserWarning, match="XLA failed"), pytest.raises(tf.errors.OpError):
        run(tf.constant([-1.0]))
