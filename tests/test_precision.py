"""Tests of tfgpt.precision: copies in fewer bits predict nearly the same."""

import keras
import numpy as np
import pytest

from tfgpt import GPT, Transformer, generate
from tfgpt.precision import cast_model, compare_predictions

VOCAB, CONTEXT = 20, 16


def make_gpt(seed=0, **options):
    """A GPT as a training leaves it: some tokens are much likelier than others."""
    keras.utils.set_random_seed(seed)
    model = GPT(VOCAB, CONTEXT, num_layers=2, d_model=16, num_heads=2, **options)
    generator = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        if len(weight.shape) == 2:
            weight.assign(generator.normal(size=weight.shape) * 0.5)
    return model


@pytest.fixture(scope="module")
def model():
    return make_gpt()


@pytest.fixture(scope="module")
def texts():
    return np.random.default_rng(5).integers(0, VOCAB, (8, CONTEXT + 1))


def size(model):
    dtypes = {"float32": 4, "bfloat16": 2, "float16": 2}
    return sum(np.prod(weight.shape) * dtypes[weight.dtype] for weight in model.weights)


def test_a_float32_copy_is_the_same_model(model, texts):
    copy = cast_model(model, "float32")
    assert copy is not model
    np.testing.assert_array_equal(copy(texts[:, :-1]), model(texts[:, :-1]))
    result = compare_predictions(model, copy, texts)
    assert result["top_1_agreement"] == 1.0 and result["perplexity_ratio"] == 1.0
    assert result["loss"] == result["other_loss"]
    copy.weights[0].assign(copy.weights[0] * 0)
    assert np.abs(np.asarray(model.weights[0])).max() > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_are_half_the_bytes_and_nearly_the_same_predictions(model, texts, dtype):
    copy = cast_model(model, dtype)
    assert {weight.dtype for weight in copy.weights} == {dtype} and copy.compute_dtype == dtype
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert 2 * size(copy) == size(model)
    assert "float32" in str(copy(texts[:, :-1]).dtype)
    result = compare_predictions(model, copy, texts)
    assert 0.9 <= result["top_1_agreement"] <= 1.0
    assert result["perplexity_ratio"] == pytest.approx(1.0, abs=0.1)
    assert result["loss"] != result["other_loss"]


@pytest.mark.slow
def test_a_bfloat16_copy_generates_and_comes_back(model):
    copy = cast_model(model, "bfloat16")
    first = generate(copy, [[1, 2, 3]], 8, temperature=0)
    assert first.shape == (1, 11)
    caches = copy.make_caches(1, 4)
    assert keras.backend.standardize_dtype(caches[0][0].dtype) == "bfloat16"
    back = cast_model(copy, "float32")
    assert {weight.dtype for weight in back.weights} == {"float32"}
    np.testing.assert_allclose(back.weights[0], model.weights[0], rtol=2**-8)


def test_a_transformer_is_cast_too():
    model = Transformer(1, 8, 2, 16, 12, 12, max_length=6, tie_embeddings=True)
    copy = cast_model(model, "bfloat16")
    ids = {"source": np.array([[5, 6, 0]]), "target": np.array([[1, 9]])}
    np.testing.assert_allclose(copy(ids), model(ids), atol=0.1)
    assert {weight.dtype for weight in copy.weights} == {"bfloat16"}


def test_an_unrelated_model_does_not_agree(model, texts):
    result = compare_predictions(model, make_gpt(seed=9), texts)
    assert result["top_1_agreement"] < 0.5
    expected = np.exp(result["other_loss"] - result["loss"])
    assert result["perplexity_ratio"] == pytest.approx(expected)


def test_the_loss_is_the_mean_over_real_targets(texts):
    model = make_gpt(pad_id=0)
    padded = texts.copy()
    padded[:, 10:] = 0
    result = compare_predictions(model, model, padded)
    logits = np.asarray(model(padded[:, :-1])).astype("float64")
    scores = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    losses = -np.take_along_axis(scores, padded[:, 1:, None], axis=-1)[..., 0]
    assert result["loss"] == pytest.approx(losses[padded[:, 1:] != 0].mean(), rel=1e-4)


def test_wrong_models_and_dtypes_are_refused(model, monkeypatch):
    with pytest.raises(ValueError, match="dtype must be one of 'bfloat16', .*, got 'int8'"):
        cast_model(model, "int8")
    with pytest.raises(TypeError, match="model must be a GPT or Transformer, got Sequential"):
        cast_model(keras.Sequential(), "bfloat16")
    large = make_gpt()
    large.weights[0].assign(large.weights[0] * 1e6)
    with pytest.raises(ValueError, match="dtype must hold every weight, got 'float16' for"):
        cast_model(large, "float16")
    monkeypatch.setattr(model, "built", False)
    with pytest.raises(ValueError, match="model must have weights"):
        cast_model(model, "bfloat16")


@pytest.mark.parametrize(
    ("token_ids", "error", "message"),
    [
        ([1, 2], ValueError, r"token_ids must have shape \(B, T \+ 1\), T >= 1, got \(2,\)"),
        ([[1]], ValueError, r"T >= 1, got \(1, 1\)"),
        ([[1, VOCAB]], ValueError, r"token_ids must be in .*, got 20"),
        ([[1.0, 2.0]], TypeError, "token_ids must be integers"),
        ([[1] * (CONTEXT + 2)], ValueError, "at most context_length . 1 = 17 .*, got 18"),
    ],
)
def test_wrong_texts_are_refused(model, token_ids, error, message):
    with pytest.raises(error, match=message):
        compare_predictions(model, model, token_ids)


def test_models_of_different_vocabularies_are_refused(model):
    other = GPT(VOCAB + 1, CONTEXT, num_layers=1, d_model=8, num_heads=2)
    with pytest.raises(ValueError, match="other must have the model's vocab_size=20, got 21"):
        compare_predictions(model, other, [[1, 2]])
