"""Interpretability: values by name, patches, lenses, attributions, induction, probes, features."""

import runpy
from functools import lru_cache
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from safetensors.numpy import save_file
from test_pretrained import REFERENCE, reference_tensors, write_config

from tfgpt import GPT, make_train_step, padding_mask
from tfgpt.interpret import (
    SparseAutoencoder,
    TunedLens,
    activation_names,
    activations,
    average_embeddings,
    class_score,
    deletion_curve,
    found_directions,
    gradient_times_input,
    induction_batch,
    induction_scores,
    integrated_gradients,
    lens_divergences,
    logit_difference,
    logit_lens,
    next_token_score,
    patched,
    patching_map,
    previous_token_scores,
    probe,
    repeated_tokens,
    toy_states,
)
from tfgpt.interpret.induction import stripe
from tfgpt.pretrained import load_gpt2
from tfgpt.rollout import attention_rollout
from tfgpt.tasks.heads import TextClassifier
from tfgpt.tuning import IA3, Bottleneck, LoRA, PrefixTuning, adapt

REFERENCES = Path(__file__).parent / "references"
IDS = np.array([[1, 2, 3, 4, 5], [6, 5, 4, 3, 3]])
CONFIGURATIONS = {
    "as GPT-2": {},
    "post-norm": {"norm_first": False, "activation": "relu", "positions": "sinusoidal"},
    "rotary": {"positions": "rotary", "tie_embeddings": False, "use_bias": False, "dropout": 0.1},
    "half precision": {"dtype": "mixed_bfloat16", "pad_id": 3, "remat": True},
}


@lru_cache
def known_gpt():
    """A small GPT that no test changes."""
    return small_gpt()


def small_gpt(**options):
    """A GPT whose every weight matters."""
    gpt = GPT(12, context_length=8, num_layers=2, d_model=8, num_heads=2, **options)
    shake(gpt.weights)
    return gpt


def shake(weights):
    """Move all weights by random numbers."""
    rng = np.random.default_rng(0)
    for weight in weights:
        if "seed" not in weight.path:
            weight.assign(ops.convert_to_numpy(weight) + rng.normal(size=weight.shape, scale=0.3))


def array(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


# Values by name


@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_the_values_of_every_configuration_lead_to_the_logits_of_the_model(options):
    gpt = small_gpt(**options)
    found = activations(gpt, IDS)
    assert list(found) == activation_names(gpt)
    logits, weights = gpt(IDS, return_attention_weights=True)
    np.testing.assert_array_equal(found["logits"], logits)
    for index in range(2):
        np.testing.assert_array_equal(
            found[f"blocks.{index}.attention.weights"], weights[f"decoder/{index}/self"]
        )
    # Continued from any stream, it is the rest of the model.
    hidden = gpt.final_norm(found["blocks.1.residual"])
    np.testing.assert_array_equal(gpt.logits(hidden), logits)


@pytest.mark.parametrize("kind", [LoRA, IA3, Bottleneck])
def test_adapters_are_seen(kind):
    gpt = small_gpt()
    plain = array(activations(gpt, IDS, "logits")["logits"])
    adapters = adapt(gpt, kind())
    shake(adapters.weights.values())
    found = activations(gpt, IDS, "logits")["logits"]
    np.testing.assert_array_equal(found, gpt(IDS))
    assert np.abs(array(found) - plain).max() > 0.01


def test_the_sublayers_add_up_to_the_stream():
    found = {name: array(x) for name, x in activations(known_gpt(), IDS).items()}
    stream = found["embedding"]
    for block in ("blocks.0", "blocks.1"):
        stream = stream + found[f"{block}.attention"]
        np.testing.assert_allclose(found[f"{block}.residual_middle"], stream, atol=1e-5)
        stream = stream + found[f"{block}.feed_forward"]
        np.testing.assert_allclose(found[f"{block}.residual"], stream, atol=1e-5)
    heads = found["blocks.1.attention.weights"] @ found["blocks.1.attention.value"]
    np.testing.assert_allclose(found["blocks.1.attention.heads"], heads, atol=1e-5)


def test_a_mask_hides_more_keys():
    gpt = known_gpt()
    mask = padding_mask(IDS, pad_id=3)
    np.testing.assert_array_equal(activations(gpt, IDS, "logits", mask)["logits"], gpt(IDS, mask))


def test_names_choose_values_and_wrong_names_and_models_are_refused():
    gpt = known_gpt()
    names = list(activations(gpt, IDS, ["logits", "*.0.residual"]))
    assert names == ["blocks.0.residual", "logits"]
    with pytest.raises(ValueError, match="names must fit values of the model, got 'blocks.2.resid"):
        activations(gpt, IDS, "blocks.2.residual")
    with pytest.raises(ValueError, match="token_ids must have at most context_length=8"):
        activations(gpt, np.ones((1, 9), int))
    prefixed = adapt(gpt, PrefixTuning(length=2)).model
    with pytest.raises(TypeError, match="model must be a GPT, got PrefixedGPT"):
        activations(prefixed, IDS)


# The same numbers as TransformerLens


@pytest.fixture
def gpt2(tmp_path):
    """The small random GPT-2 of gpt2.npz."""
    tensors = {f"transformer.{name}": value for name, value in reference_tensors().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    write_config(tmp_path)
    return load_gpt2(tmp_path)[0]


def compare_with_transformer_lens(gpt, ids, expected):
    """Compare all values, the logit lens, and the logits of a run without one head."""
    found = activations(gpt, ids)
    found["logit_lens"] = logit_lens(gpt, ids)
    keep = np.array([1, 0, 1, 1], "float32").reshape(1, 4, 1, 1)
    without = {"blocks.0.attention.heads": lambda heads: heads * keep}
    found["logits_without_head_1_of_block_0"] = patched(gpt, ids, without)
    assert len(expected) == 25 and np.abs(expected["logits"]).max() > 1
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4, err_msg=name)


def test_values_lens_and_patch_are_those_that_transformer_lens_stored(gpt2):
    expected = dict(np.load(REFERENCES / "transformer_lens.npz"))
    compare_with_transformer_lens(gpt2, REFERENCE["data/token_ids"], expected)


@pytest.mark.slow
def test_values_lens_and_patch_are_those_of_transformer_lens(gpt2, rng):
    pytest.importorskip("transformer_lens.HookedTransformer")
    import torch

    script = runpy.run_path(str(REFERENCES / "make_lens_references.py"))
    ids = rng.integers(0, 50, (3, 16))
    expected = script["read"](script["make_model"](REFERENCE), torch.tensor(ids))
    compare_with_transformer_lens(gpt2, ids, expected)


# Patches


def test_each_value_is_replaced_and_what_was_there_gives_the_same():
    gpt = GPT(12, context_length=8, num_layers=1, d_model=8, num_heads=2)
    shake(gpt.weights)
    logits, found = array(gpt(IDS)), activations(gpt, IDS)
    np.testing.assert_allclose(patched(gpt, IDS, found), logits, atol=1e-5)
    for name in found:
        other = array(patched(gpt, IDS, {name: lambda x: ops.flip(x, axis=0)}))
        assert np.abs(other - logits).max() > 1e-3, name


def test_a_stream_of_another_text_brings_its_answer():
    gpt = known_gpt()
    others = IDS[:, ::-1]
    for name in ("embedding", "blocks.0.residual", "final_norm"):
        found = activations(gpt, others, name)
        np.testing.assert_allclose(patched(gpt, IDS, found), gpt(others), atol=1e-5)


def test_a_patch_of_another_shape_or_name_is_refused():
    with pytest.raises(ValueError, match=r"changes\['logits'\] must have shape \(2, 5, 12\), got"):
        patched(known_gpt(), IDS, {"logits": np.zeros((2, 5))})
    with pytest.raises(ValueError, match="names must fit"):
        patched(known_gpt(), IDS, {"logit": np.zeros((2, 5))})


@pytest.mark.one_backend
def test_a_patching_map_shows_where_two_texts_differ():
    gpt, measure = known_gpt(), logit_difference(1, 2)
    clean, corrupted = [[1, 2, 3, 4]], [[1, 5, 3, 4]]
    table = patching_map(gpt, clean, corrupted, measure)
    assert table.shape == (2, 4)
    # In the last block only the last position counts; what both texts share brings nothing.
    np.testing.assert_allclose(table[-1], [0, 0, 0, 1], atol=1e-3)
    assert table[0, 0] == pytest.approx(0, abs=1e-3) and abs(table[0, 1]) > 0.01
    by_hand = {"blocks.1.attention.heads": activations(gpt, clean)["blocks.1.attention.heads"]}
    heads = patching_map(gpt, clean, corrupted, measure, "attention.heads")
    assert heads.shape == (2, 2)
    best, worst, both = (
        float(measure(logits)[0])
        for logits in (gpt(clean), gpt(corrupted), patched(gpt, corrupted, by_hand))
    )
    # With the sum of both heads patched; the last norm alone makes it differ from the sum.
    assert (both - worst) / (best - worst) == pytest.approx(heads[1].sum(), abs=0.3)


def test_a_patching_map_refuses_what_cannot_be_compared():
    gpt, measure = known_gpt(), logit_difference(1, 2)
    with pytest.raises(ValueError, match=r"must have one shape \(1, T\), got \(1, 2\) and"):
        patching_map(gpt, [[1, 2]], [[1, 2, 3]], measure)
    with pytest.raises(ValueError, match="measure must tell the texts apart"):
        patching_map(gpt, [[1, 2]], [[1, 2]], measure)
    with pytest.raises(ValueError, match="part must be one of"):
        patching_map(gpt, [[1, 2]], [[1, 3]], measure, "stream")


# Lenses


def test_the_last_row_of_a_lens_is_the_model_and_the_first_reads_the_embeddings():
    gpt = known_gpt()
    lens = logit_lens(gpt, IDS)
    assert tuple(lens.shape) == (3, 2, 5, 12)
    np.testing.assert_array_equal(lens[-1], gpt(IDS))
    np.testing.assert_array_equal(lens[0], gpt.logits(gpt.final_norm(gpt.embed(IDS))))
    distances = lens_divergences(lens)
    assert distances[0] > 0.01 and distances[1] > 0.01 and distances[2] == 0


def test_only_real_positions_count_in_a_divergence():
    lens = array(logit_lens(known_gpt(), IDS))
    real = IDS != 3
    rows = np.log(np.exp(lens) / np.exp(lens).sum(axis=-1, keepdims=True))[:, real]
    by_hand = (np.exp(rows[-1]) * (rows[-1] - rows)).sum(axis=-1).mean(axis=-1)
    np.testing.assert_allclose(lens_divergences(lens, real), by_hand, atol=1e-5)


@pytest.mark.one_backend
@pytest.mark.slow
def test_a_tuned_lens_comes_closer_to_the_model_and_leaves_it_as_it_is(rng):
    gpt = known_gpt()
    before = [array(weight) for weight in gpt.weights]
    ids, held_out = rng.integers(0, 12, (128, 8)), rng.integers(0, 12, (32, 8))
    lens = TunedLens(gpt)
    np.testing.assert_array_equal(lens(held_out), logit_lens(gpt, held_out))
    lens.compile(keras.optimizers.Adam(0.02), jit_compile=False)
    lens.fit(ids, batch_size=32, epochs=10, verbose=0)
    plain, tuned = (lens_divergences(x) for x in (logit_lens(gpt, held_out), lens(held_out)))
    assert (tuned[:2] < 0.7 * plain[:2]).all() and tuned[2] == 0
    for weight, value in zip(gpt.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)
    assert len(lens.trainable_weights) == 4


# Rollout and attributions


def test_rollout_follows_a_chain_of_looks():
    last_to_first = np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    rollout = attention_rollout([last_to_first] * 2)
    np.testing.assert_allclose(rollout[2], [0.25, 0.5, 0.25])  # 2 -> 1 -> 0, and half stays
    np.testing.assert_allclose(rollout.sum(axis=-1), 1)
    with pytest.raises(ValueError, match="layers must hold the weights of at least one layer"):
        attention_rollout([])


def classifier():
    model = TextClassifier(known_gpt(), 3, pad_id=0, pooling="first-last", dropout=0.0)
    shake(model.head.weights)
    return model


ONE = IDS[:1]


def scores():
    """The score of a next token and of a class, their model and the value they must have."""
    gpt, judge = known_gpt(), classifier()
    return {
        "next token": (next_token_score(gpt, ONE, 7), gpt, gpt(ONE)[:, -1, :], 7),
        "class": (class_score(judge, ONE, 2), judge.gpt, judge(ONE), 2),
    }


@pytest.mark.parametrize("kind", ["next token", "class"])
def test_integrated_gradients_add_up_to_the_change_of_the_score(kind):
    score, gpt, logits, target = scores()[kind]
    x = gpt.embed(ONE)
    np.testing.assert_allclose(score(x), ops.log_softmax(logits)[:, target], atol=1e-5)
    baseline = average_embeddings(gpt, ONE)
    found, gap = integrated_gradients(score, x, baseline)
    change = float(score(x)[0] - score(baseline)[0])
    assert abs(change) > 0.05 and abs(gap) < 2e-3
    assert gap == pytest.approx(found.sum() - change, abs=1e-5)
    plain = gradient_times_input(score, x, baseline)
    assert abs(plain.sum() - change) > 2e-3  # it has no such sum


def test_a_gradient_is_the_slope_of_the_score():
    gpt = known_gpt()
    score, x = next_token_score(gpt, ONE, 7), array(gpt.embed(ONE))
    found = gradient_times_input(score, x)
    step = 1e-2 * x * np.eye(5)[:, :, None].astype("float32")  # row t moves token t
    slope = array(score(x + step) - score(x - step)) / 2e-2
    np.testing.assert_allclose(found, slope, atol=2e-3)
    with pytest.raises(ValueError, match=r"x must be one text, \(1, T, D\), got shape \(2, 5, 8\)"):
        gradient_times_input(score, gpt.embed(IDS))


def test_the_average_embedding_knows_positions_and_no_tokens():
    gpt = known_gpt()
    first, second = (array(average_embeddings(gpt, ids)) for ids in (IDS, IDS[::-1]))
    np.testing.assert_allclose(first, second, atol=1e-6)
    every = np.stack([array(gpt.embed(np.full((1, 5), token)))[0] for token in range(12)])
    np.testing.assert_allclose(first[0], every.mean(axis=0), atol=1e-6)


def test_a_deletion_curve_removes_tokens_in_the_order_given():
    x = np.array([[[1.0], [2.0], [4.0]]], "float32")
    total = lambda x: ops.sum(x, axis=(1, 2))  # noqa: E731
    assert deletion_curve(total, x, [2, 0, 1]).tolist() == [7, 3, 2, 0]
    assert deletion_curve(total, x, [0, 1, 2], x + 1).tolist() == [7, 8, 9, 10]
    with pytest.raises(ValueError, match="order must hold 0 to 2 once each, got"):
        deletion_curve(total, x, [0, 1])


# Induction


def test_the_stripe_of_a_distance_holds_what_looks_so_far_back():
    weights = np.zeros((2, 6, 6))
    for query in range(2, 6):
        weights[1, query, query - 2] = query
    assert stripe(weights, 2).tolist() == [[0, 0, 0, 0], [2, 3, 4, 5]]
    assert stripe(weights, 1).tolist() == [[0] * 5] * 2


def test_an_untrained_model_looks_everywhere_alike():
    gpt = GPT(12, context_length=8, num_layers=2, d_model=8, num_heads=2)
    assert induction_scores(gpt, period=4).shape == (2, 2)
    even = np.mean([1 / (t + 1) for t in range(4, 8)])
    np.testing.assert_allclose(induction_scores(gpt, period=4), even, atol=0.01)


def test_repeated_tokens_repeat_different_tokens():
    ids = repeated_tokens(12, period=6, batch_size=3)
    assert ids.shape == (3, 12)
    np.testing.assert_array_equal(ids[:, :6], ids[:, 6:])
    assert all(len(set(row)) == 6 for row in ids.tolist())
    with pytest.raises(ValueError, match="vocab_size must be"):
        repeated_tokens(4, period=6, batch_size=3)


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_induction_heads_form_in_two_layers_and_cannot_in_one():
    found = {}
    for layers in (1, 2):
        keras.utils.set_random_seed(0)
        gpt = GPT(32, 24, layers, d_model=64, num_heads=2, dff=64, tie_embeddings=False)
        for weight in gpt.trainable_weights:
            if len(weight.shape) == 2:
                weight.assign(4 * weight)
        optimizer = keras.optimizers.Adam(3e-3, beta_2=0.98)
        step = make_train_step(gpt, optimizer, pad_id=-100, jit_compile=False)
        rng = np.random.default_rng(0)
        for _ in range(350):
            result = step(induction_batch(32, 12, 32, rng))
        scores = induction_scores(gpt, period=12).max()
        found[layers] = float(result["accuracy"]), scores, previous_token_scores(gpt, 12)[0].max()
    assert found[2][0] > 0.9 and found[2][1] > 0.6 and found[2][2] > 0.25
    assert found[1][0] < 0.4 and found[1][1] < 0.2


def test_a_batch_for_induction_tells_each_target_that_counts(rng):
    inputs, targets = induction_batch(16, period=8, batch_size=50, rng=rng)
    assert inputs.shape == targets.shape == (50, 16) and (targets[:, :8] == -100).all()
    counted = 0
    for row, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert len(set(row[:8])) == 8 and set(row[8:]) <= set(row[:8])
        for token, answer in zip(row[8:], answers[8:], strict=True):
            if answer != -100:
                counted += 1
                assert answer == row[row.index(token) + 1]
    assert 0.5 < counted / (50 * 8) < 0.8  # a quarter jumps, and behind the last place all do
    with pytest.raises(ValueError, match=r"jump must be in \[0, 1\)"):
        induction_batch(16, 8, 2, rng, jump=1.0)


# Probes


def test_a_probe_reads_what_is_there_and_the_control_is_learned_by_heart(rng):
    tokens = rng.integers(0, 10, 2000)
    known = np.eye(10)[tokens]  # states that know the token and nothing else
    found = probe(known, tokens % 3, tokens)
    assert found.accuracy == found.control == 1 and found.selectivity == 0
    secret = rng.integers(0, 2, 2000)
    hidden = probe(np.append(rng.normal(size=(2000, 3)), secret[:, None], 1), secret, tokens)
    assert hidden.accuracy == 1 and hidden.selectivity > 0.3
    nothing = probe(rng.normal(size=(2000, 3)), secret, tokens)
    assert nothing.accuracy == pytest.approx(nothing.majority, abs=0.1)


def test_a_probe_takes_batches_and_refuses_what_does_not_fit(rng):
    states, labels = rng.normal(size=(20, 5, 3)), rng.integers(0, 2, (20, 5))
    assert probe(states, labels, labels).kernel.shape == (4, 2)
    with pytest.raises(ValueError, match="must be as many, got 100, 10 and 100"):
        probe(states, labels[:2], labels)
    with pytest.raises(ValueError, match="labels must be at least two classes"):
        probe(states, 0 * labels, labels)


# Features


@pytest.mark.one_backend
@pytest.mark.slow
def test_an_autoencoder_finds_the_true_features_of_a_superposition(rng):
    truth = rng.normal(size=(16, 8))  # sixteen features in eight numbers
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    states, codes = toy_states(truth, 5000, active=0.5)
    assert (codes > 0).sum(axis=1).mean() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose(codes @ truth, states, atol=1e-5)
    model = SparseAutoencoder(8, 32, sparsity=0.3)
    assert found_directions(model.decoder, truth).mean() < 0.85
    model.compile(keras.optimizers.Adam(0.005), jit_compile=False)
    model.fit(states, batch_size=200, epochs=20, verbose=0)
    found = found_directions(model.decoder, truth)
    assert found.mean() > 0.92 and found.min() > 0.8
    measured = model.measure(states)
    assert measured["unexplained"] < 0.15 and measured["active"] < 3
    lengths = np.linalg.norm(array(model.decoder), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-3)


def test_an_autoencoder_counts_what_it_uses():
    model = SparseAutoencoder(2, 3, sparsity=0.0)
    model.encoder.assign([[1, 0, -1], [0, 1, 0]])
    model.decoder.assign([[1, 0], [0, 1], [1, 0]])
    found = model.measure([[1.0, 0.0], [2.0, 2.0]])
    assert found == {"unexplained": 0.0, "active": 1.5, "dead": 1}
    with pytest.raises(ValueError, match="sparsity must be >= 0, got -1"):
        SparseAutoencoder(2, 3, sparsity=-1)
