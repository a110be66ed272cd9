"""Tests of tfgpt.LanguageModel: text in, text out, and how probable a text is."""

import math

import keras
import numpy as np
import pytest
from layer_check import randomize

from tfgpt import GPT, BeamSearch, BPETokenizer, CharTokenizer, LanguageModel, generate
from tfgpt.bundle import CONFIG, TOKENIZER
from tfgpt.generation.pieces import until_string

CONTEXT = 8
LONG = "明月 a月b光a 月明光ab 明明a月b"


@pytest.fixture(scope="module")
def char():
    return make(CharTokenizer.train("ab明月光 \n"))


@pytest.fixture(scope="module")
def bpe():
    return make(BPETokenizer.train("ab 明月光 " * 20, vocab_size=262))


def make(tokenizer):
    keras.utils.set_random_seed(0)
    model = GPT(tokenizer.vocab_size, CONTEXT, 1, 16, 2, pad_id=0)
    return LanguageModel(randomize(model, np.random.default_rng(0)), tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_generated_text_is_the_prompt_and_what_stream_gives(request, kind):
    language_model = request.getfixturevalue(kind)
    for settings in ({"seed": 1}, {"temperature": 0}, {"seed": 2, "top_k": 3}):
        text = language_model.generate("明月", 5, **settings)
        pieces = list(language_model.stream("明月", 5, **settings))
        assert text == "明月" + "".join(pieces)


@pytest.mark.slow
def test_a_list_gives_a_list(char):
    texts = ["明", "ab月", "光 "]
    continued = char.generate(texts, 4, temperature=0)
    assert continued == [char.generate(text, 4, temperature=0) for text in texts]
    assert char.generate([], 4) == []


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"seed": 3}, {"samplers": BeamSearch(2)}])
def test_the_text_ends_before_the_stop_token(char, settings):
    whole = char.generate("明", 6, **settings)
    stop = whole[3]
    ended = char.generate("明", 6, stop_token=int(char.tokenizer.encode(stop)[0]), **settings)
    assert stop not in ended[1:]
    if "seed" in settings:
        assert ended == whole[: whole.index(stop, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_the_text_ends_before_the_first_stop_string(request, kind):
    language_model = request.getfixturevalue(kind)
    whole = language_model.generate("明月", 5, seed=1)
    new = whole[2:]
    for stops in (new[2], new[1:3], [new[2:4], new[3]], ["明月", new[1:4]], new[-1], ["zz"]):
        expected = new
        for stop in [stops] if isinstance(stops, str) else stops:
            expected = expected.partition(stop)[0]
        text = language_model.generate("明月", 5, seed=1, stop_strings=stops)
        assert text == "明月" + expected  # a stop string in the prompt is text
        pieces = language_model.stream("明月", 5, seed=1, stop_strings=stops)
        assert "".join(pieces) == expected


def test_what_may_become_a_stop_string_is_held_back():
    pieces = ["a", "b", "cab", "d", "ca"]
    assert list(until_string(pieces, ["cad", "bd"])) == ["a", "bca"]
    assert list(until_string(pieces, ["cae"])) == ["a", "b", "cab", "d", "ca"]
    assert list(until_string(pieces, [])) == pieces
    assert list(until_string(["x", "y"], ["x"])) == []


@pytest.mark.parametrize("stops", ["", [""], [3], ["a", ""]])
def test_stop_strings_without_a_character_are_refused(char, stops):
    with pytest.raises(ValueError, match="stop_strings must be str, none of them empty, got"):
        char.generate("a", 2, stop_strings=stops)
    with pytest.raises(ValueError, match="stop_strings must be"):
        char.stream("a", 2, stop_strings=stops)


@pytest.mark.slow
def test_several_samples_of_a_text_differ_and_follow_the_seed(char):
    samples = char.generate(["明", "ab"], 6, num_samples=3, seed=0)
    assert [len(row) for row in samples] == [3, 3]
    assert all(
        text.startswith(prompt)
        for prompt, row in zip(["明", "ab"], samples, strict=True)
        for text in row
    )
    assert all(len(set(row)) == 3 for row in samples)
    assert samples == char.generate(["明", "ab"], 6, num_samples=3, seed=0)
    assert len(char.generate("明", 6, num_samples=2)) == 2
    assert char.generate([], 6, num_samples=2) == []
    with pytest.raises(ValueError, match="num_samples must be an integer >= 1, got 0"):
        char.generate("明", 6, num_samples=0)


def test_a_stop_token_in_the_prompt_is_text(char):
    (stop,) = char.tokenizer.encode("月").tolist()
    assert char.generate("a月b", 3, stop_token=stop, seed=0).startswith("a月b")


@pytest.mark.slow
def test_a_byte_pair_text_ends_at_the_end_token_by_default(bpe):
    bias = np.zeros_like(bpe.model.embedding.get_weights()[0])
    bias[bpe.tokenizer.end_id] = 1e3 * np.sign(hidden_state(bpe, "ab"))
    first, *rest = bpe.model.embedding.get_weights()
    bpe.model.embedding.set_weights([first + bias, *rest])
    try:
        assert bpe.generate("ab", 4, temperature=0) == "ab"
        assert list(bpe.stream("ab", 4, temperature=0)) == []
    finally:
        bpe.model.embedding.set_weights([first, *rest])


def hidden_state(language_model, text):
    """Return the final state of the last token (D,)."""
    model, token_ids = language_model.model, language_model.tokenizer.encode(text)[None]
    hidden, _ = model.decode(token_ids, model.make_caches(1, token_ids.shape[1]), 0)
    return keras.ops.convert_to_numpy(hidden)[0, -1]


def log_probabilities(language_model, token_ids):
    """Score each token but the first alone, with all the context that fits."""
    values = []
    for end in range(1, len(token_ids)):
        context = token_ids[max(0, end - CONTEXT) : end]
        logits = keras.ops.convert_to_numpy(language_model.model(context[None]))[0, -1]
        logits = logits.astype("float64")
        values.append(logits[token_ids[end]] - np.log(np.exp(logits).sum()))
    return values


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_score_is_the_sum_over_all_tokens_but_the_first(request, kind):
    language_model = request.getfixturevalue(kind)
    texts = ["ab a", "b ab", "a ab b"]
    for text, score in zip(texts, language_model.score(texts), strict=True):
        token_ids = language_model.tokenizer.encode(text)
        assert len(token_ids) <= CONTEXT + 1
        expected = sum(log_probabilities(language_model, token_ids))
        assert score.log_probability == pytest.approx(expected, abs=1e-4)
        assert score.num_tokens == len(token_ids) - 1
        assert score.nats_per_token == pytest.approx(-expected / score.num_tokens, abs=1e-4)
        rest = len(text.encode()) - len(language_model.tokenizer.token_bytes(int(token_ids[0])))
        assert score.num_bytes == rest
        assert score.bits_per_byte == pytest.approx(-expected / math.log(2) / rest, abs=1e-4)


def test_a_long_text_is_scored_in_windows_that_overlap_by_half(char):
    token_ids = char.tokenizer.encode(LONG)
    expected, end = [], CONTEXT + 1
    for place in range(1, len(token_ids)):
        if place >= end:
            end = min(end + CONTEXT // 2, len(token_ids))
        window = token_ids[max(end - CONTEXT - 1, 0) : place]
        logits = keras.ops.convert_to_numpy(char.model(window[None]))[0, -1].astype("float64")
        expected.append(logits[token_ids[place]] - np.log(np.exp(logits).sum()))
    score = char.score(LONG)
    assert score.num_tokens == len(LONG) - 1 > 2 * CONTEXT
    assert score.log_probability == pytest.approx(sum(expected), abs=1e-3)
    # Texts beside it change nothing, nor does the size of a batch.
    scores = char.score(["ab", LONG, "月光"])
    assert scores[1].log_probability == pytest.approx(score.log_probability, abs=1e-4)


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (["a", 3], TypeError, r"texts\[1\] must be a str, got int"),
        (["a", b"a"], TypeError, r"texts\[1\] must be a str, got bytes"),
        (["a", ""], ValueError, r"texts\[1\] must have at least 1 token\(s\), got ''"),
        ("aé", ValueError, r"known characters only, got 'é' \(U\+00E9\) at position 1"),
    ],
)
def test_unreadable_texts_are_named(char, texts, error, message):
    with pytest.raises(error, match=message):
        char.generate(texts, 2)
    if isinstance(texts, str):
        with pytest.raises(error, match=message):
            char.stream(texts, 2)


def test_one_token_cannot_be_scored(char):
    with pytest.raises(ValueError, match=r"texts\[0\] must have at least 2 token\(s\), got 'a'"):
        char.score("a")


@pytest.mark.parametrize("kind", ["char", pytest.param("bpe", marks=pytest.mark.slow)])
def test_a_saved_language_model_writes_the_same_text(request, kind, tmp_path):
    language_model = request.getfixturevalue(kind)
    language_model.save(tmp_path, note="a test")
    loaded = LanguageModel.load(tmp_path)
    assert loaded.generate("明月", 5, seed=0) == language_model.generate("明月", 5, seed=0)
    (tmp_path / TOKENIZER).unlink()
    with pytest.raises(FileNotFoundError, match="without tokenizer.json"):
        LanguageModel.load(tmp_path)
    assert "a test" in (tmp_path / CONFIG).read_text()


def test_a_tokenizer_that_does_not_fit_is_refused(char, bpe):
    with pytest.raises(ValueError, match="as many tokens as the model, 8 for texts, got 262"):
        LanguageModel(char.model, bpe.tokenizer)


def test_a_warning_about_a_long_prompt_points_at_the_line_of_the_user():
    tokenizer = CharTokenizer("abc")
    model = GPT(tokenizer.vocab_size, 4, num_layers=1, d_model=8, num_heads=2)
    text_model = LanguageModel(model, tokenizer)
    with pytest.warns(UserWarning, match="The prompt has 6 tokens") as caught:
        text_model.generate("abcabc", 1, seed=0)
        generate(model, tokenizer.encode("abcabc"), 1, seed=0)
    assert {warning.filename for warning in caught} == {__file__}


def test_continuations_are_ranked_by_their_probability(char):
    text_model = char
    text = text_model.tokenizer.decode(range(1, 6))
    first, second = (text_model.tokenizer.decode([place]) for place in (2, 3))
    found = text_model.rank(text, [first, second, first + second])
    whole = [text_model.score(text + end).log_probability for end in (first, first + second)]
    before = text_model.score(text).log_probability
    np.testing.assert_allclose(found[0], whole[0] - before, atol=1e-4)
    np.testing.assert_allclose(found[2], whole[1] - before, atol=1e-4)
    with pytest.raises(ValueError, match="continuations must be at least one"):
        text_model.rank(text, [])
    with pytest.raises(ValueError, match=r"with up to \d+"):
        text_model.rank(text, [first * 1000])
