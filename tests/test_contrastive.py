"""Tests of tfgpt.contrastive: against a slow search by full passes in NumPy."""

import functools

import numpy as np
import pytest
from layer_check import randomize, to_numpy

from tfgpt import GPT
from tfgpt.compilation import programs_of
from tfgpt.generation.contrastive import ContrastiveSearch

VOCAB, CONTEXT = 9, 40
PROMPTS = np.array([[3, 4, 5, 2], [5, 3, 1, 1]], "int32")


@functools.cache
def random_model(seed=0, scale=0.5, **settings):
    """Make a GPT once for all tests, with the programs that it compiled."""
    model = GPT(VOCAB, CONTEXT, num_layers=1, d_model=8, num_heads=2, **settings)
    return randomize(model, np.random.default_rng(seed), scale)


def full_pass(model, texts):
    """Return final hidden states (N, T, D) and log-probabilities (N, V) after each text."""
    length = len(texts[0])
    # One length for all passes; what comes later is not seen.
    texts = np.pad(texts, ((0, 0), (0, CONTEXT - length)), constant_values=1).astype("int32")
    x = model.embedding(texts)
    for layer in model.decoder_layers:
        x = layer(x, mask=model.own_mask(texts))
    hidden = model.final_norm(x)
    logits = to_numpy(model.logits(hidden))[:, length - 1].astype("float64")
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return to_numpy(hidden)[:, :length].astype("float64"), log_probs


def reference(model, prompt, count, k, alpha, stop_tokens=(), allowed=range(VOCAB)):
    """Search as the paper writes it: every candidate is a full pass over its whole text."""
    text = list(prompt)
    log_probs = full_pass(model, [text] * k)[1][0]
    for _ in range(count):
        if len(text) > len(prompt) and text[-1] in stop_tokens:
            text.append(text[-1])
            continue
        candidates = sorted(allowed, key=lambda token: -log_probs[token])[:k]
        hidden, after = full_pass(model, [[*text, token] for token in candidates])
        hidden /= np.linalg.norm(hidden, axis=-1, keepdims=True)
        similarity = (hidden[:, :-1] @ hidden[:, -1:].swapaxes(1, 2))[..., 0].max(axis=1)
        scores = (1 - alpha) * np.exp(log_probs[candidates]) - alpha * similarity
        best = int(np.argmax(scores))
        text.append(candidates[best])
        log_probs = after[best]
    return text


def search(model, prompts, count, k, alpha, stop_tokens=(), vocab_size=VOCAB):
    return ContrastiveSearch(k, alpha).search(model, prompts, count, stop_tokens, vocab_size)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alpha", [0.3, 0.6, 1.0])
def test_the_tokens_are_those_of_full_passes(seed, alpha):
    model = random_model(seed)
    result = search(model, PROMPTS, 16, 4, alpha)
    assert result.dtype == np.int32 and result.shape == (2, 20)
    assert result.tolist() == [reference(model, prompt, 16, 4, alpha) for prompt in PROMPTS]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"positions": "rotary"}, {"norm_first": False}])
def test_other_models_too(settings):
    model = random_model(**settings)
    result = search(model, PROMPTS, 12, 4, 0.6)
    assert result.tolist() == [reference(model, prompt, 12, 4, 0.6) for prompt in PROMPTS]


@pytest.mark.slow
@pytest.mark.parametrize(("k", "alpha"), [(4, 0.0), (1, 0.6)])
def test_no_weight_or_one_candidate_is_greedy_decoding(k, alpha):
    model = random_model()
    result = search(model, PROMPTS, 16, k, alpha)
    assert result.tolist() == [reference(model, prompt, 16, 1, 0.0) for prompt in PROMPTS]
    assert result.tolist() != search(model, PROMPTS, 16, 4, 0.6).tolist()


@pytest.mark.slow
def test_a_model_that_loops_repeats_less():
    def variety(tokens):
        """Return how many of the pairs of neighbours are different ones, as a share."""
        pairs = list(zip(tokens, tokens[1:], strict=False))
        return len(set(pairs)) / len(pairs)

    model = random_model(scale=0.3)
    varieties = []
    for seed in range(6):
        randomize(model, np.random.default_rng(seed), 0.3)
        for alpha in (0.0, 0.6):
            texts = search(model, PROMPTS, 36, 4, alpha)[:, 4:]
            varieties.append([variety(tokens) for tokens in texts.tolist()])
    greedy, contrastive = np.array(varieties[::2]), np.array(varieties[1::2])
    assert (greedy < 0.3).all() and (contrastive > greedy).all()
    assert contrastive.mean() > 2 * greedy.mean()


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 15, 16, 17, 34])
def test_prompts_of_all_lengths_use_one_program(length):
    model = random_model()
    search(model, PROMPTS, 2, 4, 0.6)
    programs = len(programs_of(model))
    prompts = np.random.default_rng(length).integers(0, VOCAB, (2, length)).astype("int32")
    result = search(model, prompts, 6, 4, 0.5, (1, 2), VOCAB - 1)
    expected = [reference(model, row, 6, 4, 0.5, (1, 2), range(VOCAB - 1)) for row in prompts]
    assert result.tolist() == expected
    assert len(programs_of(model)) == programs


def test_a_text_is_filled_with_the_stop_token_that_ended_it():
    model = random_model()
    free = search(model, PROMPTS, 12, 4, 0.6)
    stop_tokens = (int(free[0, 7]), int(free[1, 9]))
    result = search(model, PROMPTS, 12, 4, 0.6, stop_tokens)
    for row, without in zip(result.tolist(), free.tolist(), strict=True):
        end = next(place for place in range(4, 16) if without[place] in stop_tokens)
        assert row == without[:end] + [without[end]] * (16 - end)


def test_a_stop_token_in_the_prompt_ends_nothing():
    model = random_model()
    free = search(model, PROMPTS, 6, 4, 0.6)
    unused = {*PROMPTS.ravel().tolist()} - {*free[:, 4:].ravel().tolist()}
    assert unused
    np.testing.assert_array_equal(search(model, PROMPTS, 6, 4, 0.6, tuple(unused)), free)


@pytest.mark.slow
def test_a_text_alone_is_the_same_as_in_a_batch():
    model = random_model()
    batch = search(model, PROMPTS, 16, 4, 0.6)
    for row, prompt in zip(batch, PROMPTS, strict=True):
        np.testing.assert_array_equal(search(model, prompt[None], 16, 4, 0.6)[0], row)


@pytest.mark.slow
def test_neither_padding_nor_ids_beyond_the_vocabulary_are_chosen():
    # As many candidates as there are tokens: the weight of similarity lets none be left out.
    model = random_model(pad_id=0)
    result = search(model, PROMPTS, 16, 4, 1.0, vocab_size=5)
    assert set(result[:, 4:].ravel().tolist()) <= {1, 2, 3, 4}
    expected = [reference(model, row, 16, 4, 1.0, allowed=range(1, 5)) for row in PROMPTS]
    assert result.tolist() == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k must be an integer >= 1, got 0"),
        ({"k": 2.0}, "k must be an integer >= 1, got 2.0"),
        ({"alpha": -0.1}, r"alpha must be in \[0, 1\], got -0.1"),
        ({"alpha": 1.1}, r"alpha must be in \[0, 1\], got 1.1"),
        ({"alpha": float("nan")}, r"alpha must be in \[0, 1\], got nan"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveSearch(**settings)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"must fit context_length=40, got 4 \+ 37"):
        search(random_model(), PROMPTS, 37, 4, 0.6)
    with pytest.raises(ValueError, match="k must be at most 9, .*, got 10"):
        search(random_model(), PROMPTS, 2, 10, 0.6)
    with pytest.raises(ValueError, match="k must be at most 5, .*, got 6"):
        search(random_model(pad_id=0), PROMPTS, 2, 6, 0.6, vocab_size=6)
