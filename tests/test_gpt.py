"""The decoder-only GPT."""

import io
import math
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import reference
from layer_check import (
    HALF_POLICIES,
    IS_TENSORFLOW,
    assert_close,
    assert_identical,
    check_layer,
    check_no_leak,
    leak_cases,
    randomize,
    to_numpy,
    with_dtype,
)

import tfgpt
from tfgpt.gpt import GPT
from tfgpt.layers import gelu_tanh
from tfgpt.losses import masked_accuracy, masked_loss
from tfgpt.masks import padding_mask

GPT2 = dict(np.load(Path(__file__).parent / "references" / "gpt2.npz"))
VOCAB, D, HEADS = 11, 8, 2
SETTINGS = {
    "vocab_size": VOCAB,
    "context_length": 10,
    "num_layers": 1,
    "d_model": D,
    "num_heads": HEADS,
    "dff": 12,
}
IDS = np.array([[1, 5, 6, 3], [2, 9, 10, 2]], "int32")
POSITIONS = ("learned", "sinusoidal", "rotary")


def gpt(**settings):
    return randomize(GPT(**{**SETTINGS, **settings}), np.random.default_rng(0))


# Properties


@pytest.mark.parametrize("positions", POSITIONS)
@leak_cases
def test_gpt_never_sees_later_tokens(positions, mode, policy, dropout, training):
    model = with_dtype(gpt(positions=positions, dropout=dropout), policy)

    def call(ids, asked):
        return model(ids, return_attention_weights=asked, training=training)

    check_no_leak(model, call, IDS, lambda row: (row + 3) % VOCAB, mode)


@pytest.mark.parametrize("settings", [{"pad_id": 0}, {"norm_first": False}], ids=str)
def test_gpt_with_other_settings_never_sees_later_tokens(settings):
    model = gpt(num_layers=2, **settings)
    real = np.ones((2, 1, 1, 4), bool)

    def call(ids, asked):
        return model(ids, mask=real, return_attention_weights=asked)

    check_no_leak(model, call, IDS, lambda row: (row + 3) % VOCAB, "eager")


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_short_run_is_the_beginning_of_a_long_run(positions):
    model = gpt(positions=positions, num_layers=2)
    whole = to_numpy(model(IDS))
    for length in range(1, 4):
        part = to_numpy(model(IDS[:, :length]))
        np.testing.assert_allclose(part, whole[:, :length], atol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS)
def test_neither_the_values_nor_the_amount_of_padding_changes_real_positions(positions):
    model = gpt(positions=positions, pad_id=0)
    plain = to_numpy(model(IDS))
    for extra in (1, 5):
        longer = np.pad(IDS, ((0, 0), (0, extra)))
        np.testing.assert_allclose(to_numpy(model(longer))[:, :4], plain, atol=1e-5)
    table = to_numpy(model.embedding.embeddings).copy()
    table[0] += 10  # the vector of padding; token 0 is scored with it, so leave its logit out
    before = to_numpy(model(np.pad(IDS, ((0, 0), (2, 0)))))[:, 2:]
    model.embedding.embeddings.assign(table)
    after = to_numpy(model(np.pad(IDS, ((0, 0), (2, 0)))))[:, 2:]
    np.testing.assert_array_equal(after[..., 1:], before[..., 1:])


def test_padding_on_the_left_changes_nothing_with_rotary_positions():
    # Rotary attention knows distances only, and the padded keys are hidden.
    model = gpt(positions="rotary", pad_id=0)
    left = to_numpy(model(np.pad(IDS, ((0, 0), (3, 0)))))[:, 3:]
    np.testing.assert_allclose(left, to_numpy(model(IDS)), atol=1e-5)


def test_a_batch_of_padding_only_is_finite():
    logits, weights = gpt(pad_id=0)(np.zeros((2, 4), "int32"), return_attention_weights=True)
    assert np.isfinite(to_numpy(logits)).all()
    assert (to_numpy(weights["decoder/0/self"]) == 0).all()


def test_an_explicit_mask_hides_keys_in_addition_to_the_future():
    model = gpt()
    ids = np.array([[1, 5, 0, 3]], "int32")
    hidden = model(ids, mask=padding_mask(ids))
    assert_identical(hidden, gpt(pad_id=0)(ids))
    assert np.abs(to_numpy(hidden) - to_numpy(model(ids)))[:, 3].max() > 0.01


def test_attention_weights_have_their_names_and_shapes_and_sum_to_1():
    _, weights = gpt(num_layers=2)(IDS, return_attention_weights=True)
    assert list(weights) == ["decoder/0/self", "decoder/1/self"]
    for array in to_numpy(weights).values():
        assert array.shape == (2, HEADS, 4, 4)
        assert array.dtype == np.float32
        np.testing.assert_allclose(array.sum(axis=-1), 1, atol=1e-6)
        assert (np.triu(array, 1) == 0).all()


def random_ids(rng, count):
    return rng.integers(0, VOCAB, (count, 9)).astype("int32")


@pytest.mark.slow
def test_on_random_tokens_validation_stays_at_chance(rng):
    # A model that could see the token it predicts would learn to copy it. Independent
    # tokens cannot be predicted: accuracy 1/11 = 0.091; over 64 x 8 tokens the standard
    # error is 0.013, so below 0.15; no loss is below ln 11 by more than noise.
    model = GPT(**{**SETTINGS, "d_model": 16})
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=lambda targets, logits: masked_loss(targets, logits, pad_id=None),
        jit_compile=not IS_TENSORFLOW,
    )
    train, held_out = random_ids(rng, 256), random_ids(rng, 64)
    model.fit(train[:, :-1], train[:, 1:], batch_size=32, epochs=5, verbose=0)
    logits = model(held_out[:, :-1])
    assert float(masked_accuracy(held_out[:, 1:], logits, pad_id=None)) < 0.15
    assert float(masked_loss(held_out[:, 1:], logits, pad_id=None)) > math.log(VOCAB) - 0.05


# Equality


def load_gpt2_weights(model, weights):
    """Copy Hugging Face's GPT-2: kernels (D_in, D_out), query, key and value side by side."""
    model.embedding.set_weights([weights["wte.weight"], weights["wpe.weight"]])
    for index, layer in enumerate(model.decoder_layers):
        part = {
            name.removeprefix(f"h.{index}."): value
            for name, value in weights.items()
            if name.startswith(f"h.{index}.")
        }
        attention = layer.self_attention
        projections = (
            attention.query_projection,
            attention.key_projection,
            attention.value_projection,
        )
        kernels = np.split(part["attn.c_attn.weight"], 3, axis=1)
        biases = np.split(part["attn.c_attn.bias"], 3)
        for projection, kernel, bias in zip(projections, kernels, biases, strict=True):
            projection.set_weights([kernel, bias])
        for sublayer, name in (
            (attention.output_projection, "attn.c_proj"),
            (layer.self_attention_norm, "ln_1"),
            (layer.feed_forward_norm, "ln_2"),
            (layer.feed_forward.expand, "mlp.c_fc"),
            (layer.feed_forward.contract, "mlp.c_proj"),
        ):
            sublayer.set_weights([part[f"{name}.weight"], part[f"{name}.bias"]])
    model.final_norm.set_weights([weights["ln_f.weight"], weights["ln_f.bias"]])


def test_gpt_equals_the_gpt2_of_hugging_face():
    weights = {
        name.removeprefix("weights/"): value
        for name, value in GPT2.items()
        if name.startswith("weights/")
    }
    model = GPT(50, 16, num_layers=2, d_model=32, num_heads=4, activation=gelu_tanh)
    load_gpt2_weights(model, weights)
    real = GPT2["data/real"]
    logits = to_numpy(model(GPT2["data/token_ids"], mask=real[:, None, None, :]))
    np.testing.assert_allclose(logits, GPT2["data/logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_gpt_equals_slow_numpy(positions, norm_first):
    model = gpt(positions=positions, norm_first=norm_first, activation="relu")
    layer = model.decoder_layers[0]
    table = to_numpy(model.embedding.embeddings)
    if positions == "learned":
        position_table = to_numpy(model.embedding.position_table)
    else:
        position_table = reference.positional_encoding(10, D)
    actual = to_numpy(model(IDS))
    for b in range(2):
        x = table[IDS[b]] + position_table[:4]
        # A block is an encoder layer under a causal mask.
        x = reference.encoder_layer(
            x, reference.sublayer_weights(layer), HEADS, norm_first, 1e-5, np.tri(4, dtype=bool)
        )
        x = reference.layer_norm(x, *to_numpy(model.final_norm.weights), 1e-5)
        np.testing.assert_allclose(actual[b], x @ table.T, atol=1e-4)


# Hand-computed values


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_the_initial_loss_is_about_the_logarithm_of_the_vocabulary(rng, positions, tie_embeddings):
    # Logits of a new model are small, so each token has about probability 1 / V.
    model = GPT(65, 32, 2, 16, 2, positions=positions, tie_embeddings=tie_embeddings)
    ids = rng.integers(0, 65, (4, 33))
    loss = float(masked_loss(ids[:, 1:], model(ids[:, :-1]), pad_id=None))
    assert loss == pytest.approx(math.log(65), abs=0.1)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        # Table V d, positions C d, attention 4 d^2 + 4 d, feed-forward 2 d f + d + f, 3 norms 2 d.
        ({}, 11 * 8 + 10 * 8 + 4 * 64 + 32 + 2 * 96 + 20 + 3 * 16),
        ({"positions": "rotary"}, 11 * 8 + 4 * 64 + 32 + 2 * 96 + 20 + 3 * 16),
        ({"tie_embeddings": False}, 2 * 11 * 8 + 10 * 8 + 4 * 64 + 32 + 2 * 96 + 20 + 3 * 16),
        ({"use_bias": False}, 11 * 8 + 10 * 8 + 4 * 64 + 2 * 96 + 3 * 16),
        # dff defaults to 4 d = 32.
        ({"dff": None}, 11 * 8 + 10 * 8 + 4 * 64 + 32 + 2 * 8 * 32 + 40 + 3 * 16),
    ],
    ids=str,
)
def test_gpt_has_the_number_of_weights_of_its_formula(settings, count):
    assert GPT(**{**SETTINGS, **settings}).count_params() == count


def test_kernels_that_write_to_the_residual_stream_start_smaller_in_deep_models():
    # Standard deviation 0.02 for all, 0.02 / sqrt(2 x 8) = 0.005 for output kernels. 64 x 64
    # numbers give a standard error of 1.1 %: 5 % is more than four of them.
    layer = GPT(11, 4, num_layers=8, d_model=64, num_heads=2).decoder_layers[0]
    for kernel, stddev in (
        (layer.self_attention.query_projection.kernel, 0.02),
        (layer.feed_forward.expand.kernel, 0.02),
        (layer.self_attention.output_projection.kernel, 0.005),
        (layer.feed_forward.contract.kernel, 0.005),
    ):
        assert to_numpy(kernel).std() == pytest.approx(stddev, rel=0.05)


# Routine checks and graphs


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"positions": "learned", "dropout": 0.1}, id="default"),
        pytest.param(
            {"positions": "rotary", "tie_embeddings": False, "activation": gelu_tanh, "pad_id": 2},
            id="changed",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_gpt_passes_the_routine_checks(settings, tmp_path):
    check_layer(gpt(**settings), IDS, tmp_path=tmp_path)


@pytest.mark.parametrize("positions", POSITIONS)
def test_the_summary_shows_no_unbuilt_row_and_all_weights(positions):
    model = GPT(**SETTINGS, positions=positions, tie_embeddings=False)
    lines = io.StringIO()
    model.summary(print_fn=lambda line, **_: lines.write(line))
    assert "?" not in lines.getvalue() and "unbuilt" not in lines.getvalue()
    assert f"{model.count_params():,}" in lines.getvalue()


@pytest.mark.requires_tensorflow
def test_one_trace_with_open_shapes_serves_every_length():
    import tensorflow as tf

    model = gpt(pad_id=0)
    function = tf.function(model, input_signature=[tf.TensorSpec((None, None), tf.int32)])
    for batch, length in ((1, 2), (2, 4), (3, 10)):
        ids = np.ones((batch, length), "int32")
        assert_close(function(ids), model(ids), 1e-5)
    assert function.experimental_get_tracing_count() == 1


@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize("positions", POSITIONS)
def test_gradients_reach_every_weight_but_no_token_that_never_occurs(positions, tie_embeddings):
    import tensorflow as tf

    model = gpt(positions=positions, tie_embeddings=tie_embeddings, pad_id=0)
    inputs = np.array([[1, 5, 6, 0, 0], [2, 9, 10, 2, 0]], "int32")
    targets = np.array([[5, 6, 3, 0, 0], [9, 10, 2, 4, 0]], "int32")
    with tf.GradientTape() as tape:
        loss = masked_loss(targets, model(inputs))
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, grad in zip(model.trainable_variables, gradients, strict=True):
        assert grad is not None, variable.path
        grad = tf.convert_to_tensor(grad).numpy()
        assert np.isfinite(grad).all(), variable.path
        # Softmax ignores a bias of the keys, but not one that rotary turns by position.
        if positions == "rotary" or not variable.path.endswith("key/bias"):
            assert np.abs(grad).max() > 1e-7, variable.path
        if variable.path.endswith("/embeddings") and not tie_embeddings:
            assert (grad[[0, 3, 4, 7, 8]] == 0).all()
        if variable.path.endswith("position_embeddings"):
            assert (grad[4:] == 0).all()


# Half precision


@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize("policy", HALF_POLICIES)
def test_logits_and_weights_are_float32_and_finite_in_half_precision(policy, tie_embeddings):
    model = gpt(tie_embeddings=tie_embeddings)
    half = with_dtype(model, policy)
    logits, weights = half(IDS, return_attention_weights=True)
    for array in (logits, *weights.values()):
        assert keras.backend.standardize_dtype(array.dtype) == "float32"
        assert np.isfinite(to_numpy(array)).all()
    # bfloat16 keeps 8 bits: logits of size 3 are off by a few hundredths.
    np.testing.assert_allclose(to_numpy(logits), to_numpy(model(IDS)), atol=0.2)


# Training with Keras


@pytest.mark.slow
def test_fit_reports_masked_loss_and_learns():
    model = GPT(**SETTINGS, pad_id=0)
    inputs = np.array([[1, 5, 6, 0, 0], [2, 9, 10, 2, 0]], "int32")
    targets = np.array([[5, 6, 3, 0, 0], [9, 10, 2, 4, 0]], "int32")
    model.compile(
        optimizer=keras.optimizers.Adam(0.03),
        loss=masked_loss,
        metrics=[masked_accuracy],
        # XLA would take longer to compile than the rest to run; JAX needs it.
        jit_compile=not IS_TENSORFLOW,
    )
    expected_loss = float(masked_loss(targets, model(inputs)))
    expected_accuracy = float(masked_accuracy(targets, model(inputs)))
    history = model.fit(inputs, targets, batch_size=2, epochs=30, verbose=0).history
    assert history["loss"][0] == pytest.approx(expected_loss, abs=1e-5)
    assert history["masked_accuracy"][0] == pytest.approx(expected_accuracy, abs=1e-6)
    assert history["loss"][-1] < 0.1
    assert history["masked_accuracy"][-1] == 1


def test_the_logits_carry_no_mask_that_a_keras_loss_would_apply_again():
    model = gpt(pad_id=0)
    for logits in (
        model(IDS),
        model(IDS, mask=padding_mask(IDS)),
        model(keras.Input((None,), dtype="int32")),
    ):
        assert getattr(logits, "_keras_mask", None) is None


# Every setting acts


@pytest.mark.parametrize(
    "change",
    [
        {"num_layers": 2},
        {"num_heads": 4},
        {"dff": 13},
        {"tie_embeddings": False},
        {"positions": "sinusoidal"},
        {"positions": "rotary"},
        {"norm_first": False},
        {"activation": "relu"},
        {"use_bias": False},
        {"norm_epsilon": 1.0},
        {"pad_id": 5},
    ],
    ids=str,
)
def test_each_setting_changes_the_logits(change):
    plain, changed = to_numpy(gpt()(IDS)), to_numpy(gpt(**change)(IDS))
    # randomize draws in the order of the weights, so models with other shapes differ
    # anyway; for the others this is the setting alone.
    assert np.abs(plain - changed).max() > 0.01


def test_a_tied_model_scores_with_its_embedding_table():
    model = gpt()
    assert not hasattr(model, "output_projection")
    table = to_numpy(model.embedding.embeddings).copy()
    table[7] += 1  # token 7 is not in IDS: only its logit changes
    before = to_numpy(model(IDS))
    model.embedding.embeddings.assign(table)
    changed = np.abs(to_numpy(model(IDS)) - before).max(axis=(0, 1)) > 0
    assert changed.tolist() == [token == 7 for token in range(VOCAB)]


def test_dropout_acts_in_training_only():
    plain, dropping = gpt(dropout=0.0), gpt(dropout=0.5)
    assert_identical(dropping(IDS), plain(IDS))
    assert_identical(dropping(IDS, training=False), plain(IDS))
    assert np.abs(to_numpy(dropping(IDS, training=True) - plain(IDS))).max() > 0.01


def test_set_seed_makes_two_models_and_their_dropout_equal():
    outputs = []
    for seed in (1, 1, 2):
        tfgpt.set_seed(seed)
        model = GPT(**SETTINGS, dropout=0.5)
        outputs.append((model.get_weights(), to_numpy(model(IDS, training=True))))
    assert_identical(outputs[0], outputs[1])
    assert np.abs(outputs[0][1] - outputs[2][1]).max() > 0


# Messages


@pytest.mark.parametrize("seed", [-1, 1.5, True, "1", None])
def test_set_seed_refuses_what_is_no_integer_from_0(seed):
    with pytest.raises(ValueError, match=f"seed must be an integer >= 0, got {seed!r}"):
        tfgpt.set_seed(seed)


@pytest.mark.parametrize("bad_id", [VOCAB, -1])
def test_an_id_outside_the_vocabulary_is_refused(bad_id):
    ids = np.array([[1, bad_id]])
    for call in (gpt(), gpt().check_ids):
        with pytest.raises(ValueError, match=rf"token_ids must be in .*\[0, 11\), got {bad_id}"):
            call(ids)


def test_float_ids_are_refused():
    with pytest.raises(TypeError, match="token_ids must be integers, got dtype float32"):
        gpt()(IDS.astype("float32"))


@pytest.mark.parametrize("shape", [(3,), (1, 2, 3)])
def test_token_ids_that_are_no_rows_are_refused(shape):
    message = re.escape(f"token_ids must have shape (B, T), got {shape}; one sequence is")
    with pytest.raises(ValueError, match=message):
        GPT(5, context_length=4, num_layers=1, d_model=8, num_heads=2)(np.ones(shape, "int32"))


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_sequence_longer_than_the_context_is_refused(positions):
    model = gpt(positions=positions)
    assert model(np.ones((1, 10), "int32")).shape == (1, 10, VOCAB)
    with pytest.raises(ValueError, match="at most context_length=10 positions, got 11"):
        model(np.ones((1, 11), "int32"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be an integer >= 1, got 0"),
        ({"context_length": 1.5}, "context_length must be an integer >= 1, got 1.5"),
        ({"num_layers": 0}, "num_layers must be an integer >= 1, got 0"),
        ({"d_model": 0}, "d_model must be an integer >= 1, got 0"),
        ({"num_heads": 3}, "num_heads must divide d_model, got num_heads=3, d_model=8"),
        ({"dff": 0}, "dff must be an integer >= 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"positions": "none"}, "positions must be one of 'learned', 'sinusoidal', 'rotary'"),
        ({"positions": "rotary", "num_heads": 8}, "rotary needs an even head_dim, got .* = 1"),
    ],
    ids=str,
)
def test_gpt_names_the_wrong_argument(change, message):
    with pytest.raises(ValueError, match=message):
        GPT(**{**SETTINGS, **change})


def test_training_passed_positionally_is_refused():
    with pytest.raises(ValueError, match="positional"):
        gpt()(IDS, True)


def test_a_number_mask_is_refused():
    with pytest.raises(TypeError, match=r"masks\[0\] must be boolean.*1 = masked"):
        gpt()(IDS, mask=np.zeros((4, 4), "float32"))


def test_a_mask_that_does_not_broadcast_is_refused():
    with pytest.raises(ValueError, match=r"must be broadcastable to .*got shape"):
        gpt()(IDS, mask=np.ones((5, 5), bool))
