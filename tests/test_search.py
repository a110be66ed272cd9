"""Tests of tfgpt.search: beam search against greedy decoding and all possible texts."""

import functools
import itertools

import numpy as np
import pytest
from keras import ops
from layer_check import IS_TENSORFLOW, randomize, to_numpy

from tfgpt import GPT, Transformer, compilation
from tfgpt.compilation import programs_of
from tfgpt.generation.beam import BeamSearch, beam_loop, beam_search

START, END, PAD = 1, 2, 0
VOCAB, MAX_LENGTH = 6, 5
SOURCE = np.array([[3, 4, 5, 2], [5, 3, 2, 0], [4, 2, 0, 0]], "int32")


@functools.cache
def random_model(seed=0, **settings):
    """Make a model once for all tests, with the programs that it compiled."""
    options = {"num_layers": 2, "norm_first": True} | settings
    model = Transformer(
        d_model=8,
        num_heads=2,
        dff=12,
        source_vocab_size=VOCAB,
        target_vocab_size=VOCAB,
        max_length=MAX_LENGTH,
        **options,
    )
    return randomize(model, np.random.default_rng(seed))


@pytest.fixture
def model():
    return random_model()


def log_probabilities(model, source, targets):
    """Return the log-probability of each token of targets (N, T), by one full pass."""
    targets = np.asarray(targets)
    inputs = np.insert(targets[:, :-1], 0, START, axis=1).astype("int32")
    sources = np.repeat(source[None], len(targets), axis=0)
    logits = to_numpy(model({"source": sources, "target": inputs})).astype("float64")
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


def scores_of(model, source, targets, length_penalty):
    """Compute log p / ((5 + length) / 6)^length_penalty; padding after the end is free."""
    targets = np.asarray(targets)
    real = targets != PAD
    totals = (log_probabilities(model, source, targets) * real).sum(axis=1)
    return totals / ((5 + real.sum(axis=1)) / 6) ** length_penalty


def greedy(model, source):
    """Take the likeliest token, again and again, without a cache."""
    target = []
    while len(target) < MAX_LENGTH and END not in target:
        candidates = [[*target, token] for token in range(1, VOCAB)]  # all but padding
        chances = log_probabilities(model, source, candidates)[:, -1]
        target = candidates[int(np.argmax(chances))]
    return target


def all_targets(length):
    """List every target that has ended, or has `length` tokens, padded: (N, length)."""
    rows = itertools.product(range(VOCAB), repeat=length)
    inner = set(range(1, VOCAB)) - {END}

    def is_target(row):
        tokens = row[: row.index(END)] if END in row else row
        rest = row[len(tokens) + 1 :]
        return set(tokens) <= inner and not any(rest)

    return np.array([row for row in rows if is_target(row)])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("options", [{}, {"norm_first": False}, {"tie_embeddings": True}])
def test_one_beam_is_greedy_decoding_without_a_cache(seed, options):
    model = random_model(seed, **options)
    token_ids, scores = beam_search(model, SOURCE, beam_size=1)
    for row, row_scores, source in zip(token_ids, scores, SOURCE, strict=True):
        target = greedy(model, source)
        assert row.tolist() == [target + [PAD] * (MAX_LENGTH - len(target))]
        np.testing.assert_allclose(row_scores, scores_of(model, source, [target], 1.0), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_the_best_of_all_targets(length_penalty):
    # Four inner tokens: 1 + 4 + 4^2 = 21 beginnings of up to two tokens, all kept by 21
    # beams, so the search is exhaustive for three steps: 1 + 4 + 4^2 + 4^3 = 85 targets.
    targets = all_targets(3)
    assert len(targets) == 85
    for seed in range(2):
        model = random_model(seed)
        token_ids, scores = beam_search(
            model, SOURCE, beam_size=21, length_penalty=length_penalty, max_new_tokens=3
        )
        for row, value, source in zip(token_ids[:, 0], scores[:, 0], SOURCE, strict=True):
            expected = scores_of(model, source, targets, length_penalty)
            np.testing.assert_array_equal(row, targets[np.argmax(expected)])
            np.testing.assert_allclose(value, expected.max(), atol=1e-4)


@pytest.mark.slow
def test_more_beams_than_targets_show_by_their_scores(model):
    # One step: five tokens are possible, padding is not.
    _, scores = beam_search(model, SOURCE, beam_size=7, max_new_tokens=1)
    assert (scores[:, :5] > -100).all() and (scores[:, 5:] < -1e8).all()


@pytest.mark.slow
def test_scores_belong_to_the_targets_and_descend(model):
    token_ids, scores = beam_search(model, SOURCE, beam_size=4, length_penalty=0.6)
    assert (np.diff(scores, axis=1) <= 0).all()
    for rows, row_scores, source in zip(token_ids, scores, SOURCE, strict=True):
        assert len({tuple(row) for row in rows}) == 4  # four different targets
        np.testing.assert_allclose(row_scores, scores_of(model, source, rows, 0.6), atol=1e-4)


@pytest.mark.slow
def test_a_source_alone_and_in_a_padded_batch_has_the_same_result(model):
    batch_ids, batch_scores = beam_search(model, SOURCE, beam_size=3)
    for index, source in enumerate(SOURCE):
        alone_ids, alone_scores = beam_search(model, source[source != PAD][None], beam_size=3)
        np.testing.assert_array_equal(alone_ids[0], batch_ids[index])
        np.testing.assert_allclose(alone_scores[0], batch_scores[index], atol=1e-5)


@pytest.mark.slow
def test_a_beam_finds_a_likelier_target_than_greedy_decoding(model):
    one, four = (
        beam_search(model, SOURCE, beam_size=size, length_penalty=0.6)[1][:, 0] for size in (1, 4)
    )
    # A beam can lose the greedy target, but not with these weights.
    assert (four >= one - 1e-5).all() and (four > one + 1e-3).any()


@pytest.mark.slow
def test_a_larger_penalty_gives_no_shorter_targets(model):
    def length(penalty):
        token_ids, _ = beam_search(model, SOURCE, beam_size=5, length_penalty=penalty)
        return (token_ids[:, 0] != PAD).sum()

    lengths = [length(penalty) for penalty in (0.0, 1.0, 8.0)]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]


@pytest.mark.slow
def test_nothing_follows_the_end_token_and_padding_is_never_chosen(model):
    token_ids, _ = beam_search(model, SOURCE, beam_size=4)
    for row in token_ids.reshape(-1, MAX_LENGTH):
        real = row[row != PAD]
        np.testing.assert_array_equal(row[: len(real)], real)
        assert END not in real[:-1]


@pytest.mark.slow
def test_fewer_tokens_are_a_limit(model):
    token_ids, _ = beam_search(model, SOURCE, beam_size=2, max_new_tokens=2)
    assert token_ids.shape == (3, 2, 2)


@pytest.mark.slow
def test_other_lengths_penalties_and_limits_need_no_new_program(model):
    programs = len(programs_of(model))
    for source, penalty, steps in ((SOURCE, 0.6, 5), (SOURCE[:, :3], 2.0, 3), (SOURCE, 0.0, 4)):
        beam_search(model, np.maximum(source, 3), 1, 2, 2, penalty, steps)
    assert len(programs_of(model)) <= programs + 1


@pytest.mark.slow
def test_half_precision_finds_nearly_the_same_scores():
    models = random_model(), random_model(dtype="mixed_bfloat16")
    scores = [beam_search(model, SOURCE, beam_size=4)[1][:, 0] for model in models]
    np.testing.assert_allclose(*scores, atol=0.15)


@pytest.mark.slow
@pytest.mark.skipif(not IS_TENSORFLOW, reason="uses TensorFlow's compiler")
def test_compiled_and_eager_search_agree(model, monkeypatch):
    compiled = beam_search(model, SOURCE, beam_size=3)
    plain = Transformer.from_config(model.get_config())
    plain.set_weights(model.get_weights())
    monkeypatch.setattr(compilation, "compile_for", lambda model, function, arguments: function)
    eager = beam_search(plain, SOURCE, beam_size=3)
    np.testing.assert_array_equal(compiled[0], eager[0])
    np.testing.assert_allclose(compiled[1], eager[1], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"beam_size": 0}, ValueError, "beam_size must be an integer >= 1, got 0"),
        ({"length_penalty": -1}, ValueError, "length_penalty must be >= 0"),
        ({"length_penalty": float("nan")}, ValueError, "length_penalty must be >= 0"),
        ({"max_new_tokens": 6}, ValueError, "at most the model's max_length=5, got 6"),
        ({"end_id": 6}, ValueError, "end_id must be in"),
        ({"end_id": 1}, ValueError, "end_id must differ from start_id=1 .* pad_id=0, got 1"),
        ({"end_id": 0}, ValueError, "end_id must differ from .*, got 0"),
        ({"source_ids": [[3, 6]]}, ValueError, "source_ids must be in"),
        ({"source_ids": [3, 4]}, ValueError, r"must have shape \(B, S\)"),
        ({"source_ids": [[3] * 6]}, ValueError, "at most max_length=5 positions, got 6"),
        ({"source_ids": [[3, 2], [0, 0]]}, ValueError, "a row of padding only"),
        ({"source_ids": [[0.5]]}, TypeError, "source_ids must be integers"),
    ],
)
def test_wrong_input_is_named(model, options, error, message):
    options = {"source_ids": SOURCE} | options
    with pytest.raises(error, match=message):
        beam_search(model, **options)


# Beam search of a GPT

CONTEXT = 32
ALLOWED = range(1, VOCAB)  # all but padding
PROMPTS = np.array([[3, 4, 5, 2], [5, 3, 1, 1]], "int32")


@functools.cache
def random_gpt(seed=0, **settings):
    """Make a GPT once for all tests, with the programs that it compiled."""
    options = {"num_layers": 1, "d_model": 8, "num_heads": 2, "pad_id": PAD} | settings
    model = GPT(VOCAB, CONTEXT, **options)
    return randomize(model, np.random.default_rng(seed))


def text_log_probabilities(model, prompt, continuations):
    """Return the log-probability of each new token (N, T), by one full pass."""
    continuations = np.asarray(continuations)
    prompts = np.repeat(prompt[None], len(continuations), axis=0)
    texts = np.concatenate([prompts, continuations], axis=1)
    length = texts.shape[1]
    # One length for all passes; what comes later is not seen.
    texts = np.pad(texts, ((0, 0), (0, CONTEXT - length)), constant_values=1).astype("int32")
    logits = to_numpy(model(texts))[:, len(prompt) - 1 : length - 1].astype("float64")
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return np.take_along_axis(logits, continuations[..., None], axis=-1)[..., 0]


def filled(row, stop_tokens):
    """Return a row whose tokens after the first stop token are that token, and its length."""
    for place, token in enumerate(row):
        if token in stop_tokens:
            return (*row[:place], *[token] * (len(row) - place)), place + 1
    return tuple(row), len(row)


def best_continuation(model, prompt, count, stop_tokens, length_penalty):
    """Return the best of all continuations, without a search and without a cache."""
    lengths = dict(filled(row, stop_tokens) for row in itertools.product(ALLOWED, repeat=count))
    rows = np.array(list(lengths))
    sizes = np.array(list(lengths.values()))
    log_probs = text_log_probabilities(model, prompt, rows)
    totals = (log_probs * (np.arange(count) < sizes[:, None])).sum(axis=1)
    return rows[np.argmax(totals / ((5 + sizes) / 6) ** length_penalty)].tolist()


def greedy_texts(model, prompts, count, stop_tokens=(), allowed=ALLOWED):
    """Take the likeliest tokens, again and again, without a cache: lists of new tokens."""
    length = prompts.shape[1]
    texts = np.pad(prompts, ((0, 0), (0, CONTEXT - length)), constant_values=1)
    for place in range(length, length + count):
        logits = to_numpy(model(texts))[:, place - 1]
        texts[:, place] = np.array(allowed)[logits[:, allowed].argmax(axis=-1)]
    return [list(filled(row, stop_tokens)[0]) for row in texts[:, length : length + count].tolist()]


@pytest.mark.slow
@pytest.mark.parametrize("stop_tokens", [(), (2,), (1, 4)])
def test_a_wide_beam_finds_the_best_of_all_texts(stop_tokens):
    # Five tokens: 25 beams keep all beginnings of up to two tokens.
    for seed, penalty in ((0, 0.0), (0, 1.0), (0, 4.0), (1, 1.0)):
        model = random_gpt(seed)
        search = BeamSearch(25, penalty)
        result = search.search(model, PROMPTS, 3, stop_tokens, VOCAB)
        assert result.dtype == np.int32
        np.testing.assert_array_equal(result[:, :4], PROMPTS)
        for row, prompt in zip(result[:, 4:], PROMPTS, strict=True):
            expected = best_continuation(model, prompt, 3, stop_tokens, penalty)
            assert row.tolist() == expected


def test_the_length_penalty_decides_between_short_and_long_texts():
    model = random_gpt()
    short, long = (
        [best_continuation(model, prompt, 3, (1, 4), penalty) for prompt in PROMPTS]
        for penalty in (0.0, 4.0)
    )
    assert short != long  # so the test above tells them apart


@pytest.mark.parametrize("length", [1, 4, 20, 27])
def test_one_beam_is_greedy_decoding_of_a_text(length):
    model = random_gpt()
    prompts = np.random.default_rng(length).integers(1, VOCAB, (2, length)).astype("int32")
    for stop_tokens in ((), (2, 5)):
        result = BeamSearch(1).search(model, prompts, 5, stop_tokens, VOCAB)
        assert result[:, length:].tolist() == greedy_texts(model, prompts, 5, stop_tokens)


@pytest.mark.slow
def test_ids_beyond_the_vocabulary_are_never_chosen():
    model = random_gpt(3)
    result = BeamSearch(1).search(model, PROMPTS, 8, (), 4)[:, 4:]
    expected = greedy_texts(model, PROMPTS, 8, allowed=range(1, 4))
    assert result.tolist() == expected
    assert expected != greedy_texts(model, PROMPTS, 8)


@pytest.mark.slow
def test_a_model_that_prefers_padding_chooses_none():
    model = random_gpt(3, tie_embeddings=False)
    # The last hidden states point where the logit of padding is largest.
    kernel = np.random.default_rng(0).normal(0, 0.1, (8, VOCAB))
    kernel[:, PAD] = 1
    model.output_projection.kernel.assign(kernel)
    model.final_norm.beta.assign(np.ones(8))
    model.final_norm.gamma.assign(np.full(8, 0.5))
    assert np.asarray(model(PROMPTS))[:, -1].argmax(axis=-1).tolist() == [PAD, PAD]
    assert PAD not in BeamSearch(2).search(model, PROMPTS, 6, (), VOCAB)


@pytest.mark.slow
def test_texts_alone_and_in_a_batch_are_the_same():
    model = random_gpt(2)
    for stop_tokens in ((), (2, 3)):
        batch = BeamSearch(3).search(model, PROMPTS, 10, stop_tokens, VOCAB)
        for row, prompt in zip(batch, PROMPTS, strict=True):
            alone = BeamSearch(3).search(model, prompt[None], 10, stop_tokens, VOCAB)
            np.testing.assert_array_equal(alone[0], row)


def test_texts_of_other_lengths_and_settings_need_no_new_program():
    model = random_gpt(2)
    programs = len(programs_of(model))
    for length, count, penalty, stop_tokens in (
        (1, 9, 0.5, ()),
        (20, 3, 2.0, (1,)),
        (4, 28, 0, (1, 2)),
    ):
        prompts = np.full((2, length), 3, "int32")
        result = BeamSearch(3, penalty).search(
            model, prompts, count, stop_tokens, VOCAB - count % 2
        )
        assert result.shape == (2, length + count)
    assert len(programs_of(model)) <= programs + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam_size": 0}, "beam_size must be an integer >= 1, got 0"),
        ({"beam_size": True}, "beam_size must be an integer >= 1, got True"),
        ({"length_penalty": -0.5}, "length_penalty must be >= 0 and finite, got -0.5"),
        ({"length_penalty": float("inf")}, "length_penalty must be >= 0 and finite, got inf"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        BeamSearch(**settings)


def test_texts_that_do_not_fit_and_too_many_stop_tokens_are_named():
    with pytest.raises(ValueError, match=r"must fit context_length=32, got 4 \+ 29"):
        BeamSearch().search(random_gpt(), PROMPTS, 29, (), VOCAB)
    with pytest.raises(ValueError, match="stop_tokens must be at most 8 tokens, got 9"):
        BeamSearch().search(random_gpt(), PROMPTS, 2, (1,) * 9, VOCAB)


def test_an_ended_text_is_not_lost_to_beginnings_that_end_worse():
    """0 -> 1 (ends) has probability 0.3; 0 -> 2 has 0.7, but each way on only 0.0875."""
    table = np.log([[1e-9, 0.3, 0.7, 1e-9], [1, 1, 1, 1], [1e-9, 1e-9, 0.5, 0.5], [0.25] * 4])
    later = np.log(np.full((4, 4), 0.25))

    def step(newest, caches, position):
        logits = ops.where(position < 2, table.astype("float32"), later.astype("float32"))
        return ops.take(logits, newest[:, 0], axis=0), caches

    numbers = {"stop_tokens": np.array([1]), "length_penalty": np.float32(0)}
    numbers |= {"rules": {}, "states": ops.zeros((1,), "int32")}
    token_ids, scores = beam_loop(
        step,
        (),
        ops.zeros((1, 2, 5), dtype="int32"),
        (np.int32(0), np.int32(4)),
        np.ones(4, bool),
        numbers,
    )
    assert np.asarray(token_ids)[0, 0].tolist() == [0, 1, 1, 1, 1]
    assert float(scores[0, 0]) == pytest.approx(np.log(0.3), abs=1e-5)
    assert float(scores[0, 1]) == pytest.approx(np.log(0.35 / 4), abs=1e-5)
