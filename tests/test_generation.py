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


def probabilities(values, **options):
    return next_token_probabilities(np.log([values]), **options)[0].round(6).tolist()


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
    assert probabilities([0.4, 0.1, 0.2, 0.3], **options) == pytest.approx(expected, abs=1e-6)


def test_top_p_of_1_keeps_even_what_is_below_rounding():
    logits = np.array([[0.0, -50.0, -100.0, -700.0]])
    kept = next_token_probabilities(logits, top_p=1.0)
    assert (kept > 0).all()
    np.testing.assert_array_equal(kept, next_token_probabilities(logits))


def test_the_first_of_equal_tokens_is_taken():
    equal = np.zeros((1, 4))
    assert next_token_probabilities(equal, temperature=0).tolist() == [[1, 0, 0, 0]]
    assert next_token_probabilities(equal, top_k=2).tolist() == [[0.5, 0.5, 0, 0]]
    assert next_token_probabilities(equal, top_p=0.5).tolist() == [[0.5, 0.5, 0, 0]]


@pytest.mark.parametrize("temperature", [1e-320, 1e-300, 1e-3, 1.0, 1e300])
def test_every_temperature_gives_finite_probabilities_that_sum_to_1(temperature):
    logits = np.array([[5.0, -3.0, -np.inf, 1e4], [0.0, 0.0, 0.0, 0.0]])
    result = next_token_probabilities(logits, temperature=temperature)
    np.testing.assert_allclose(result.sum(axis=-1), 1.0, atol=1e-12)
    assert result[0, 2] == 0.0
    assert result[0].argmax() == 3


def test_rows_are_treated_one_by_one():
    logits = np.random.default_rng(0).normal(size=(5, 9))
    together = next_token_probabilities(logits, 0.7, top_k=5, top_p=0.8)
    for row, logit in zip(together, logits, strict=True):
        np.testing.assert_array_equal(
            row, next_token_probabilities(logit[None], 0.7, top_k=5, top_p=0.8)[0]
        )


def test_the_logits_are_not_changed():
    logits = np.random.default_rng(0).normal(size=(2, 5))
    before = logits.copy()
    next_token_probabilities(logits, 0.5, top_k=2, top_p=0.5)
    np.testing.assert_array_equal(logits, before)


def test_tokens_are_drawn_as_often_as_their_probabilities_say():
    """Chi-square with 3 degrees of freedom: 16.27 is passed by 999 of 1000 right samplers."""
    values = np.array([0.5, 0.0, 0.2, 0.05, 0.25])
    count = 20_000
    tokens = draw(np.tile(values, (count, 1)), np.random.default_rng(0))
    seen = np.bincount(tokens, minlength=5)
    assert seen[1] == 0 and seen.sum() == count and len(seen) == 5
    possible = values > 0
    expected = values[possible] * count
    assert ((seen[possible] - expected) ** 2 / expected).sum() < 16.27


def test_a_row_is_drawn_from_its_own_probabilities():
    tokens = draw(np.eye(6)[[4, 0, 5]], np.random.default_rng(0))
    assert tokens.tolist() == [4, 0, 5]


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
    logits = np.log([0.4, 0.3, 0.1, 0.1, 0.05, 0.03, 0.02]).astype("float32")
    flat.predict_on_batch = lambda ids: np.tile(logits, (*ids.shape, 1))
    seen = {
        name: set(generate(flat, [[0]], 200, seed=0, **options)[0, 1:].tolist())
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
    lengths, call = [], model.call

    def counted(token_ids, *args, **kwargs):
        lengths.append(token_ids.shape)
        return call(token_ids, *args, **kwargs)

    model.call = counted  # runs only while a trace is made
    generate(model, [[1, 2]], 3, seed=0)
    traced = len(lengths)
    assert 0 < traced < 3
    generate(model, [[1, 2, 3, 4]], 9, seed=0)
    generate(model, [[1]], 2, temperature=0)
    assert len(lengths) == traced


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
        ({"prompt_ids": []}, r"prompt_ids must have shape .* got \(0,\)"),
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
