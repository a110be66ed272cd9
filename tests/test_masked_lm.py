"""Masked tokens, whole words, sentence pairs, and the encoder that fills gaps."""

import keras
import numpy as np
import pytest
from keras import ops
from layer_check import assert_close

from tfgpt import BPETokenizer, CharTokenizer, MaskedLoss
from tfgpt.data.masking import NO_TARGET, mask_tokens, sentence_pairs, word_starts
from tfgpt.tasks.masked_lm import MaskedLanguageModel, fill_in

TEXT = "the red house, the blue house. 明月光 isn't 3.5 "


def test_fifteen_percent_are_chosen_and_hidden_in_three_ways(rng):
    ids = rng.integers(1, 50, (400, 100))
    read, targets = mask_tokens(ids, 50, 50, rng)
    chosen = targets != NO_TARGET
    assert np.all(chosen.sum(axis=1) == 15)
    np.testing.assert_array_equal(targets[chosen], ids[chosen])
    np.testing.assert_array_equal(read[~chosen], ids[~chosen])
    hidden = (read == 50)[chosen].mean()
    same = (read == ids)[chosen].mean()
    assert abs(hidden - 0.8) < 0.02 and abs(same - 0.1 - 0.1 / 49) < 0.02
    assert 1 - hidden - same > 0.08 and read.max() == 50


def test_padding_is_never_chosen_and_never_drawn(rng):
    ids = np.pad(rng.integers(3, 9, (50, 6)), ((0, 0), (0, 4)))
    read, targets = mask_tokens(ids, 9, 9, rng, rate=0.9, special_ids=(0, 1, 2))
    assert (targets[:, 6:] == NO_TARGET).all() and (read[:, 6:] == 0).all()
    assert (targets[:, :6] != NO_TARGET).sum(axis=1).min() == 5
    assert not np.isin(read[:, :6], (0, 1, 2)).any()
    read, targets = mask_tokens(np.array([[5, 0]]), 9, 9, rng)
    assert targets.tolist() == [[5, NO_TARGET]]  # one target at least
    assert (mask_tokens(np.zeros((1, 3), int), 9, 9, rng)[1] == NO_TARGET).all()


def test_words_are_hidden_as_a_whole(rng):
    starts = np.array([[True, False, False, True, False, True, False, True]] * 60)
    ids = np.tile(np.arange(1, 9), (60, 1))
    _, targets = mask_tokens(ids, 20, 20, rng, rate=0.3, starts=starts)
    word = np.cumsum(starts[0])
    for row in targets != NO_TARGET:
        assert all(row[word == number].all() or not row[word == number].any() for number in word)
    with pytest.raises(ValueError, match="starts must have the shape"):
        mask_tokens(ids, 20, 20, rng, starts=starts[:, :3])
    with pytest.raises(ValueError, match=r"rate must be in \(0, 1\]"):
        mask_tokens(ids, 20, 20, rng, rate=0.0)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_words_begin_behind_spaces_and_signs_and_at_chinese_characters(kind):
    make = {"char": CharTokenizer.train, "bpe": lambda text: BPETokenizer.train(text, 262)}
    tokenizer = make[kind](TEXT)
    ids = tokenizer.encode(TEXT)
    words, starts = [], word_starts(tokenizer, ids)
    for token_id, starts_word in zip(ids, starts, strict=True):
        words += [b""] if starts_word else []
        words[-1] += tokenizer.token_bytes(int(token_id))
    found = [word.decode() for word in words if word.decode().strip()]
    assert [word.strip() for word in found] == [
        *("the", "red", "house", ",", "the", "blue", "house", "."),
        *(("明", "月", "光") if kind == "char" else ("明月光",)),  # one piece
        *("isn", "'", "t", "3", ".", "5"),
    ]
    assert (word_starts(tokenizer, np.stack([ids, ids]))[1] == starts).all()


def test_half_of_the_pairs_are_neighbours(rng):
    sentences = [np.array([number]) for number in range(500)]
    pairs, follows = sentence_pairs(sentences, rng)
    is_next = np.array([second[0] == first[0] + 1 for first, second in pairs])
    np.testing.assert_array_equal(is_next, follows == 1)
    assert 0.42 < follows.mean() < 0.58
    assert all(first[0] != second[0] for first, second in pairs)
    with pytest.raises(ValueError, match="at least 3"):
        sentence_pairs(sentences[:2], rng)


def make_model(vocab_size, **options):
    return MaskedLanguageModel(vocab_size, 12, 1, 16, 2, **{"dropout": 0.0, **options})


def test_each_place_sees_both_sides_and_no_padding():
    model = make_model(20)
    ids = np.array([[3, 4, 5, 6]])
    logits = model(ids)
    assert logits.shape == (1, 4, 21)
    for changed in ([[9, 4, 5, 6]], [[3, 4, 5, 9]]):
        other = ops.convert_to_numpy(model(np.array(changed)))
        assert np.abs(other - ops.convert_to_numpy(logits))[0, 1].max() > 1e-4
    longer = model(np.array([[3, 4, 5, 6, 0, 0]]))
    assert_close(longer[:, :4], logits, 1e-5)


def test_it_is_saved_and_loaded_as_a_keras_model(tmp_path):
    model = make_model(20, dropout=0.2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    ids = np.array([[3, 4, 20, 6]])
    assert_close(loaded(ids), model(ids), 1e-6)
    assert loaded.get_config() == model.get_config()
    with pytest.raises(ValueError, match="max_length"):
        model(np.ones((1, 13), "int32"))
    assert model.compute_output_spec(keras.KerasTensor((2, 5), "int32")).shape == (2, 5, 21)


@pytest.mark.slow
def test_it_learns_to_fill_a_gap():
    tokenizer = CharTokenizer.train("abcd ")
    text = "abcd" * 200
    ids = tokenizer.encode(text)[: 66 * 12].reshape(66, 12)
    model = make_model(tokenizer.vocab_size)
    read, targets = mask_tokens(
        np.tile(ids, (4, 1)), model.mask_id, model.vocab_size, np.random.default_rng(0)
    )
    model.compile(keras.optimizers.Adam(3e-3), MaskedLoss(NO_TARGET), jit_compile=False)
    model.fit(read, targets, epochs=12, verbose=0)
    (token, chance), *_ = fill_in(model, tokenizer, "abc[MASK]abcd")
    assert token == "d" and chance > 0.5
    with pytest.raises(ValueError, match="one .MASK., got 2"):
        fill_in(model, tokenizer, "a[MASK][MASK]")
