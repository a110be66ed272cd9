"""Tests of tfgpt.streaming: whole characters only, and the same text as at once."""

import keras
import numpy as np
import pytest

from tfgpt import GPT, BPETokenizer, CharTokenizer, generate, stream
from tfgpt.compilation import programs_of
from tfgpt.generation.streaming import text_pieces

TEXT = "床前明月光，疑是地上霜。🌕 moon\n"


class Script:
    """A stand-in for a model that writes given ids, whatever the prompt is."""

    context_length = 64

    def __init__(self, vocab_size, token_ids, prompt_length):
        self.vocab_size = vocab_size
        self.token_ids = [0] * prompt_length + [int(token_id) for token_id in token_ids]

    def predict_on_batch(self, token_ids):
        logits = np.zeros((*token_ids.shape, self.vocab_size), "float32")
        for place, token_id in enumerate(self.token_ids[1:]):
            logits[:, place, token_id] = 50
        return logits


@pytest.fixture(scope="module")
def byte_tokenizer():
    """No merges: each Chinese character is three tokens, the emoji four."""
    return BPETokenizer.train("moon", vocab_size=259)


@pytest.fixture(scope="module")
def char_tokenizer():
    return CharTokenizer.train(TEXT)


def make_model(vocab_size, context_length=12):
    keras.utils.set_random_seed(0)
    model = GPT(vocab_size, context_length, num_layers=1, d_model=16, num_heads=2)
    for weight in model.trainable_variables:
        weight.assign(np.random.default_rng(len(weight.shape)).normal(size=weight.shape))
    return model


def script_pieces(tokenizer, token_ids, **settings):
    model = Script(tokenizer.vocab_size, token_ids, prompt_length=1)
    return list(stream(model, tokenizer, "m", len(token_ids), temperature=0, **settings))


def test_characters_of_several_tokens_come_whole(byte_tokenizer):
    token_ids = byte_tokenizer.encode(TEXT)
    assert len(token_ids) > len(TEXT)
    assert script_pieces(byte_tokenizer, token_ids) == list(TEXT)


def test_bytes_that_are_no_character_show_as_replacement_characters(byte_tokenizer):
    token_ids = byte_tokenizer.encode("a月")[:-1]  # the last byte is missing
    assert script_pieces(byte_tokenizer, token_ids) == ["a", "\ufffd"]
    broken = [*token_ids, *byte_tokenizer.encode("b")]
    assert script_pieces(byte_tokenizer, broken) == ["a", "\ufffdb"]


def test_random_bytes_give_the_text_of_decode(byte_tokenizer, rng):
    for token_ids in rng.integers(0, byte_tokenizer.vocab_size, (50, 40)).tolist():
        pieces = list(text_pieces(byte_tokenizer, token_ids))
        assert "".join(pieces) == byte_tokenizer.decode(token_ids)
        assert all(pieces)


@pytest.mark.slow
def test_the_pieces_are_the_text_that_generate_writes(char_tokenizer):
    model = make_model(char_tokenizer.vocab_size)
    for settings in ({"temperature": 0}, {"seed": 3}, {"seed": 4, "top_k": 5, "min_p": 0.01}):
        # 30 tokens: with a cache, then past the context of 12.
        at_once = generate(model, char_tokenizer.encode("明月"), 30, **settings)[0, 2:]
        pieces = list(stream(model, char_tokenizer, "明月", 30, **settings))
        assert "".join(pieces) == char_tokenizer.decode(at_once)
        assert all(len(piece) == 1 for piece in pieces)


def test_a_byte_model_writes_the_same_text_in_pieces(byte_tokenizer):
    model = make_model(byte_tokenizer.vocab_size)
    at_once = generate(model, byte_tokenizer.encode("月"), 25, seed=1)[0, 3:]
    assert "".join(stream(model, byte_tokenizer, "月", 25, seed=1)) == byte_tokenizer.decode(
        at_once
    )


def test_streaming_uses_the_programs_of_generate(char_tokenizer):
    model = make_model(char_tokenizer.vocab_size)
    generate(model, char_tokenizer.encode("明"), 5, seed=0)
    programs = programs_of(model)
    list(stream(model, char_tokenizer, "明月光", 6, temperature=0.5, seed=1))
    assert programs_of(model) == programs and len(programs) == 1


def test_a_stop_token_ends_the_text_and_is_not_shown(byte_tokenizer):
    token_ids = [*byte_tokenizer.encode("月光"), byte_tokenizer.end_id, *byte_tokenizer.encode("x")]
    assert script_pieces(byte_tokenizer, token_ids, stop_token=2) == ["月", "光"]
    newline = int(byte_tokenizer.encode("\n")[0])
    token_ids = byte_tokenizer.encode("a\nb")
    assert script_pieces(byte_tokenizer, token_ids, stop_token=[2, newline]) == ["a"]


def test_pieces_come_before_the_text_is_complete(char_tokenizer):
    model = Script(char_tokenizer.vocab_size, char_tokenizer.encode("明月光"), prompt_length=1)
    calls, predict = [], model.predict_on_batch
    model.predict_on_batch = lambda token_ids: calls.append(1) or predict(token_ids)
    pieces = stream(model, char_tokenizer, "床", 3, temperature=0)
    assert not calls
    assert next(pieces) == "明" and len(calls) == 1
    assert next(pieces) == "月" and len(calls) == 2


def test_ids_that_the_tokenizer_does_not_know_are_never_drawn(char_tokenizer):
    model = Script(char_tokenizer.vocab_size + 50, [char_tokenizer.vocab_size + 7] * 20, 1)
    pieces = list(stream(model, char_tokenizer, "床", 20, seed=0))
    assert 0 < len("".join(pieces)) <= 20


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        (("", 3), {}, ValueError, "prompt must have at least one token, got ''"),
        (("Q", 3), {}, ValueError, "text must hold known characters only, got 'Q'"),
        (("明", 0), {}, ValueError, "max_new_tokens must be an integer >= 1, got 0"),
        (("明", 3), {"temperature": -1}, ValueError, "temperature must be >= 0"),
        (("明", 3), {"stop_token": 99}, ValueError, "stop_token must be in"),
        (("明", 3), {"warmth": 1}, TypeError, "warmth"),
    ],
)
def test_errors_are_raised_at_the_call(char_tokenizer, arguments, settings, error, message):
    model = Script(char_tokenizer.vocab_size, [1], prompt_length=1)
    with pytest.raises(error, match=message):
        stream(model, char_tokenizer, *arguments, **settings)


def test_a_search_is_refused(char_tokenizer):
    class Search:
        def search(self, *arguments):
            raise AssertionError

    model = Script(char_tokenizer.vocab_size, [1], prompt_length=1)
    with pytest.raises(ValueError, match="strategy must be None and num_samples 1 to stream"):
        stream(model, char_tokenizer, "明", 3, samplers=Search())


def test_ids_are_continued_as_their_text_and_a_stop_string_ends_it():
    tokenizer = CharTokenizer.train("abcdef")
    model = GPT(tokenizer.vocab_size, 16, num_layers=1, d_model=8, num_heads=2, pad_id=0)
    whole = "".join(stream(model, tokenizer, "ab", 12, seed=0))
    assert "".join(stream(model, tokenizer, tokenizer.encode("ab"), 12, seed=0)) == whole
    stop = whole[4:6]
    until = whole[: whole.find(stop)]
    assert "".join(stream(model, tokenizer, "ab", 12, seed=0, stop_strings=stop)) == until
    with pytest.raises(ValueError, match="stop_strings must be str, none of them empty"):
        stream(model, tokenizer, "ab", 12, stop_strings=[""])
    with pytest.raises(ValueError, match="at least one token"):
        stream(model, tokenizer, [[1, 2]], 12)
