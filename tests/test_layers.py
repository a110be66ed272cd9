"""Feed-forward network, encoder layer and decoder layer."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest
import reference
from layer_check import (
    HALF_POLICIES,
    assert_close,
    assert_identical,
    check_layer,
    check_no_leak,
    compiled,
    leak_cases,
    randomize,
    to_numpy,
    with_dtype,
)

from tfgpt.layers import DecoderLayer, EncoderLayer, FeedForward, gelu_tanh
from tfgpt.masks import causal_mask, combine_masks, padding_mask

TORCH = dict(np.load(Path(__file__).parent / "references" / "torch_layers.npz"))
B, T, S, D, HEADS, DFF = 2, 4, 5, 8, 2, 12
REAL = np.array([[True, True, True, False], [True, True, False, False]])


@pytest.fixture
def x(rng):
    return rng.normal(size=(B, T, D)).astype("float32")


@pytest.fixture
def memory(rng):
    return rng.normal(size=(B, S, D)).astype("float32")


def built(layer, rng, *shapes):
    """Build a layer and draw all its weights."""
    layer.build((None, None, D), *shapes)
    return randomize(layer, rng)


def encoder(rng, **settings):
    return built(EncoderLayer(D, HEADS, DFF, **settings), rng)


def decoder(rng, cross_attention=True, **settings):
    layer = DecoderLayer(D, HEADS, DFF, cross_attention=cross_attention, **settings)
    return built(layer, rng, *([(None, None, D)] if cross_attention else []))


# Properties: no leak, padding


@pytest.mark.parametrize("cross_attention", [False, True], ids=["block", "cross"])
@leak_cases
def test_a_decoder_layer_with_a_causal_mask_never_sees_the_future(
    rng, x, memory, cross_attention, mode, policy, dropout, training
):
    layer = with_dtype(decoder(rng, cross_attention, dropout=dropout, norm_first=True), policy)

    def call(x, asked):
        return layer(
            x,
            memory if cross_attention else None,
            mask=causal_mask(T),
            return_attention_weights=asked,
            training=training,
        )

    check_no_leak(layer, call, x, lambda row: row[..., ::-1] + 1, mode)


def test_without_a_causal_mask_the_leak_test_fails(rng, x):
    layer = decoder(rng, cross_attention=False)
    with pytest.raises(AssertionError, match="not equal"):
        check_no_leak(
            layer,
            lambda x, asked: layer(x, return_attention_weights=asked),
            x,
            lambda row: row + row[..., ::-1],
            "eager",
        )


@pytest.mark.parametrize("norm_first", [False, True])
def test_neither_the_values_nor_the_amount_of_padding_changes_real_positions(rng, x, norm_first):
    layer = encoder(rng, norm_first=norm_first)
    mask = REAL[:, None, None, :]
    plain = to_numpy(layer(x, mask=mask))
    other = np.where(REAL[..., None], x, 100).astype("float32")
    np.testing.assert_array_equal(to_numpy(layer(other, mask=mask))[REAL], plain[REAL])
    longer = np.concatenate([x, rng.normal(size=(B, 3, D)).astype("float32")], axis=1)
    longer_mask = np.pad(mask, ((0, 0), (0, 0), (0, 0), (0, 3)))
    actual = to_numpy(layer(longer, mask=longer_mask))[:, :T]
    np.testing.assert_allclose(actual[REAL], plain[REAL], atol=1e-5)
    alone = to_numpy(layer(x[1:, :2]))
    np.testing.assert_allclose(alone[0], plain[1, :2], atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_padding_of_the_encoder_output_changes_nothing_in_the_decoder(rng, x, memory, norm_first):
    layer = decoder(rng, norm_first=norm_first)
    real = np.array([[True] * 3 + [False] * 2, [True] * 4 + [False]])
    changed = np.where(real[..., None], memory, -50).astype("float32")
    outputs = [layer(x, m, cross_mask=real[:, None, None]) for m in (memory, changed)]
    assert_identical(*outputs)


def test_layers_are_finite_when_everything_is_masked(rng, x, memory):
    nothing = np.zeros((B, 1, T, T), bool)
    assert np.isfinite(to_numpy(encoder(rng)(x, mask=nothing))).all()
    output = decoder(rng)(x, memory, mask=nothing, cross_mask=np.zeros((1, S), bool))
    assert np.isfinite(to_numpy(output)).all()


@pytest.mark.parametrize("training", [False, True])
def test_asking_for_weights_does_not_change_the_output(rng, x, memory, training):
    for layer, arguments in ((encoder(rng, dropout=0.3), (x,)), (decoder(rng), (x, memory))):
        outputs = []
        for asked in (False, True):
            keras.utils.set_random_seed(3)
            twin = type(layer).from_config(layer.get_config())
            twin(*arguments)
            twin.set_weights(layer.get_weights())
            output = twin(*arguments, return_attention_weights=asked, training=training)
            outputs.append(output[0] if asked else output)
        assert_identical(*outputs)


def test_attention_weights_have_their_names_and_shapes(rng, x, memory):
    _, weights = encoder(rng)(x, return_attention_weights=True)
    assert tuple(weights.shape) == (B, HEADS, T, T)
    _, weights = decoder(rng)(x, memory, return_attention_weights=True)
    assert {name: tuple(array.shape) for name, array in weights.items()} == {
        "self": (B, HEADS, T, T),
        "cross": (B, HEADS, T, S),
    }
    _, weights = decoder(rng, cross_attention=False)(x, return_attention_weights=True)
    assert list(weights) == ["self"]


def test_feed_forward_treats_each_position_by_itself(rng, x):
    layer = built(FeedForward(D, DFF), rng)
    changed = x.copy()
    changed[:, 2] += 1
    plain, other = to_numpy(layer(x)), to_numpy(layer(changed))
    np.testing.assert_array_equal(np.delete(other, 2, axis=1), np.delete(plain, 2, axis=1))
    assert (other[:, 2] != plain[:, 2]).any()


# Equality


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_encoder_layer_equals_slow_numpy(rng, x, norm_first):
    layer = encoder(rng, norm_first=norm_first, norm_epsilon=1e-3)
    actual = to_numpy(layer(x, mask=REAL[:, None, None, :]))
    weights = reference.sublayer_weights(layer)
    for b in range(B):
        expected = reference.encoder_layer(
            x[b], weights, HEADS, norm_first, 1e-3, mask=[REAL[b]] * T
        )
        np.testing.assert_allclose(actual[b], expected, atol=1e-4)


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_decoder_layer_equals_slow_numpy(rng, x, memory, norm_first):
    layer = decoder(rng, norm_first=norm_first, norm_epsilon=1e-3)
    cross = np.array([[True] * 3 + [False] * 2] * T)
    actual = to_numpy(layer(x, memory, mask=causal_mask(T), cross_mask=cross))
    weights = reference.sublayer_weights(layer)
    for b in range(B):
        expected = reference.decoder_layer(
            x[b], memory[b], weights, HEADS, norm_first, 1e-3, np.tri(T, dtype=bool), cross
        )
        np.testing.assert_allclose(actual[b], expected, atol=1e-4)


def load_torch_weights(layer, weights):
    """Copy the weights of a PyTorch layer: its kernels are (D_out, D_in)."""

    def load_dense(dense, kernel, bias):
        dense.set_weights([kernel.T, bias])

    def load_attention(attention, name):
        kernels = np.split(weights[f"{name}.in_proj_weight"], 3)
        biases = np.split(weights[f"{name}.in_proj_bias"], 3)
        parts = attention.query_projection, attention.key_projection, attention.value_projection
        for part, kernel, bias in zip(parts, kernels, biases, strict=True):
            load_dense(part, kernel, bias)
        load_dense(
            attention.output_projection,
            weights[f"{name}.out_proj.weight"],
            weights[f"{name}.out_proj.bias"],
        )

    norms = [layer.self_attention_norm, layer.feed_forward_norm]
    load_attention(layer.self_attention, "self_attn")
    if hasattr(layer, "encoder_attention"):
        load_attention(layer.encoder_attention, "multihead_attn")
        norms.insert(1, layer.encoder_attention_norm)
    for index, dense in enumerate((layer.feed_forward.expand, layer.feed_forward.contract), 1):
        load_dense(dense, weights[f"linear{index}.weight"], weights[f"linear{index}.bias"])
    for index, norm in enumerate(norms, 1):
        norm.set_weights([weights[f"norm{index}.weight"], weights[f"norm{index}.bias"]])


def torch_case(name):
    """Return weights and data of one layer in the stored file."""
    return {
        key.split("/", 1)[1]: value for key, value in TORCH.items() if key.startswith(f"{name}/")
    }


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_encoder_layer_equals_the_layer_of_pytorch(norm_first):
    case = torch_case(f"encoder_norm_first_{norm_first}")
    layer = EncoderLayer(16, 4, 24, norm_first=norm_first, norm_epsilon=1e-5)
    layer.build(case["x"].shape)
    load_torch_weights(layer, case)
    assert_close(layer(case["x"], mask=case["real"][:, None, None, :]), case["y"], 1e-4)


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_decoder_layer_equals_the_layer_of_pytorch(norm_first):
    case = torch_case(f"decoder_norm_first_{norm_first}")
    layer = DecoderLayer(16, 4, 24, norm_first=norm_first, norm_epsilon=1e-5)
    layer.build(case["x"].shape, case["memory"].shape)
    load_torch_weights(layer, case)
    actual = layer(
        case["x"],
        case["memory"],
        mask=combine_masks(case["real"][:, None, None, :], causal_mask(5)),
        cross_mask=case["memory_real"][:, None, None, :],
    )
    assert_close(actual, case["y"], 1e-4)


def test_feed_forward_equals_slow_numpy(rng, x):
    layer = built(FeedForward(D, DFF), rng)
    weights = {name: to_numpy(getattr(layer, name).weights) for name in ("expand", "contract")}
    for b in range(B):
        expected = reference.feed_forward(x[b], weights)
        np.testing.assert_allclose(to_numpy(layer(x))[b], expected, atol=1e-5)


# Hand-computed values


def test_gelu_tanh_has_the_values_of_its_formula():
    # 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))); at 1: 0.5 (1 + tanh 0.833562) = 0.841192.
    x = np.array([-3.0, -1.0, 0.0, 1.0, 2.0], "float32")
    expected = [
        0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x
    ]
    np.testing.assert_allclose(to_numpy(gelu_tanh(x)), expected, atol=1e-6)
    assert float(gelu_tanh(x)[3]) == pytest.approx(0.841192, abs=1e-6)


def test_layers_have_the_number_of_weights_of_the_paper():
    # Attention 4 d^2 + 4 d, feed-forward 2 d f + d + f, each norm 2 d.
    attention, feed_forward, norm = 4 * D**2 + 4 * D, 2 * D * DFF + D + DFF, 2 * D
    rng = np.random.default_rng(0)
    assert encoder(rng).count_params() == attention + feed_forward + 2 * norm
    assert decoder(rng).count_params() == 2 * attention + feed_forward + 3 * norm
    assert decoder(rng, False).count_params() == encoder(rng).count_params()
    no_bias = encoder(rng, use_bias=False).count_params()
    assert no_bias == 4 * D**2 + 2 * D * DFF + 2 * norm


def test_post_norm_outputs_have_mean_0_and_variance_1(x):
    output = to_numpy(EncoderLayer(D, HEADS, DFF)(x))
    np.testing.assert_allclose(output.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(output.var(axis=-1), 1, atol=1e-3)


def test_a_pre_norm_layer_with_zero_output_kernels_changes_nothing(x):
    layer = EncoderLayer(D, HEADS, DFF, norm_first=True, output_initializer="zeros")
    assert_identical(layer(x), x)


# Routine checks


def test_feed_forward_passes_the_routine_checks(x, tmp_path):
    check_layer(FeedForward(D, DFF, dropout=0.1), x, tmp_path=tmp_path)


@pytest.mark.parametrize(
    "settings",
    [{}, {"norm_first": True, "rotary": True, "activation": gelu_tanh, "use_bias": False}],
    ids=["default", "changed"],
)
def test_encoder_layer_passes_the_routine_checks(x, settings, tmp_path):
    layer = EncoderLayer(D, HEADS, DFF, **settings)
    check_layer(layer, x, tmp_path=tmp_path, mask=REAL[:, None, None, :])


def test_decoder_layer_passes_the_routine_checks(x, memory, tmp_path):
    cross = np.ones((B, 1, 1, S), bool)
    mask = np.broadcast_to(to_numpy(causal_mask(T)), (B, 1, T, T))
    layer = DecoderLayer(D, HEADS, DFF)
    check_layer(layer, x, memory, tmp_path=tmp_path, mask=mask, cross_mask=cross)


def test_gpt_block_passes_the_routine_checks(x, tmp_path):
    layer = DecoderLayer(D, HEADS, DFF, cross_attention=False, norm_first=True)
    check_layer(layer, x, tmp_path=tmp_path, mask=REAL[:, None, None, :])


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis -1")
@pytest.mark.requires_tensorflow
def test_one_trace_with_open_shapes_serves_every_length(rng, x, memory):
    import tensorflow as tf

    layer = decoder(rng)
    spec = tf.TensorSpec((None, None, D))
    function = tf.function(
        lambda x, m: layer(x, m, mask=causal_mask(tf.shape(x)[1])), input_signature=[spec, spec]
    )
    for length in (1, 3, T):
        part = x[:, :length]
        assert_close(function(part, memory), layer(part, memory, mask=causal_mask(length)), 1e-5)
    assert function.experimental_get_tracing_count() == 1


@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("norm_first", [False, True])
def test_every_weight_gets_a_finite_gradient(rng, x, memory, norm_first):
    import tensorflow as tf

    layer = decoder(rng, norm_first=norm_first)
    with tf.GradientTape() as tape:
        output = layer(x, memory, mask=causal_mask(T))
        loss = tf.reduce_sum(output * rng.normal(size=output.shape).astype("float32"))
    for weight, grad in zip(
        layer.trainable_weights, tape.gradient(loss, layer.trainable_weights), strict=True
    ):
        assert grad is not None, weight.path
        assert np.isfinite(grad).all(), weight.path
        # A bias of the keys adds the same to all scores of a query: softmax ignores it.
        if not weight.path.endswith("key/bias"):
            assert np.abs(grad).max() > 1e-4, weight.path


# Half precision


@pytest.mark.parametrize("policy", HALF_POLICIES)
def test_layers_are_close_to_float32_in_half_precision(rng, x, memory, policy):
    # bfloat16 keeps 8 bits; after a dozen operations on values of size 4, 0.15 off.
    layer = decoder(rng)
    half = with_dtype(layer, policy)
    output, weights = half(x, memory, mask=causal_mask(T), return_attention_weights=True)
    assert keras.backend.standardize_dtype(output.dtype) == half.compute_dtype
    assert {keras.backend.standardize_dtype(w.dtype) for w in weights.values()} == {"float32"}
    expected = to_numpy(layer(x, memory, mask=causal_mask(T)))
    np.testing.assert_allclose(to_numpy(output), expected, atol=0.15)


@pytest.mark.parametrize("policy", HALF_POLICIES)
def test_norm_statistics_are_float32_in_half_precision(rng, policy):
    # Entries near 3000 +- 4: their squares overflow float16.
    x = (3000 + rng.normal(size=(1, 3, D)) * 4).astype("float32")
    layer = EncoderLayer(D, HEADS, DFF, norm_first=True, dtype=policy)
    assert np.isfinite(to_numpy(layer(x))).all()


# Every setting acts


RESIDUAL_CHANGES = [
    {"num_heads": 4},
    {"norm_first": True},
    {"activation": "gelu"},
    {"use_bias": False},
    {"rotary": True},
    {"norm_epsilon": 1.0},
    {"kernel_initializer": "ones"},
    {"output_initializer": "ones"},
]


def output_after(make, change, *arguments):
    """Call a new layer, made under one seed, with all biases at 0.5."""
    keras.utils.set_random_seed(1)
    layer = make(**change)
    layer.build(*(argument.shape for argument in arguments))
    for weight in layer.weights:  # biases start at zero, where they change nothing
        if weight.path.endswith("bias"):
            weight.assign(np.full(weight.shape, 0.5))
    return to_numpy(layer(*arguments))


@pytest.mark.parametrize("change", RESIDUAL_CHANGES, ids=str)
def test_each_setting_of_encoder_and_decoder_layers_changes_the_output(x, memory, change):
    def make_encoder(num_heads=HEADS, **settings):
        return EncoderLayer(D, num_heads, DFF, **settings)

    def make_decoder(num_heads=HEADS, **settings):
        return DecoderLayer(D, num_heads, DFF, **settings)

    for make, arguments in ((make_encoder, (x,)), (make_decoder, (x, memory))):
        difference = output_after(make, {}, *arguments) - output_after(make, change, *arguments)
        assert np.abs(difference).max() > 0.01


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "gelu"},
        {"use_bias": False},
        {"kernel_initializer": "ones"},
        {"output_initializer": "ones"},
    ],
    ids=str,
)
def test_each_setting_of_feed_forward_changes_the_output(x, change):
    def make(**settings):
        return FeedForward(D, DFF, **settings)

    assert np.abs(output_after(make, {}, x) - output_after(make, change, x)).max() > 0.01


def test_cross_attention_reads_the_encoder_output(rng, x, memory):
    layer = decoder(rng)
    assert np.abs(to_numpy(layer(x, memory)) - to_numpy(layer(x, memory + 1))).max() > 0.01


def test_dff_is_the_width_between_the_two_products():
    layer = EncoderLayer(D, HEADS, 20)
    layer.build((None, None, D))
    assert layer.feed_forward.expand.kernel.shape == (D, 20)
    assert layer.feed_forward.contract.kernel.shape == (20, D)


@pytest.mark.parametrize("part", ["attention weights", "feed-forward", "residual"])
def test_dropout_acts_in_three_places_in_training_only(rng, x, part):
    layer = encoder(rng, dropout=0.5)
    dropouts = {
        "attention weights": layer.self_attention.weights_dropout,
        "feed-forward": layer.feed_forward.hidden_dropout,
        "residual": layer.residual_dropout,
    }
    for name, dropout in dropouts.items():
        dropout.rate = 0.5 if name == part else 0.0
    plain = to_numpy(layer(x))
    assert_identical(layer(x, training=False), plain)
    assert np.abs(to_numpy(layer(x, training=True)) - plain).max() > 0.01


# Implicit masks of Keras


IDS = np.array([[3, 4, 5, 0, 0, 0], [6, 1, 2, 4, 0, 0]], "int32")
PADDED_LENGTH, REAL_IDS = IDS.shape[1], IDS != 0


def sequential_model(batch=None, length=None):
    return keras.Sequential(
        [
            keras.Input(batch_shape=(batch, length), dtype="int32"),
            keras.layers.Embedding(7, D, mask_zero=True),
            EncoderLayer(D, HEADS, DFF),
            EncoderLayer(D, HEADS, DFF, norm_first=True),
        ]
    )


def functional_model(batch=None, length=None):
    ids = keras.Input(batch_shape=(batch, length), dtype="int32")
    x = keras.layers.Embedding(7, D, mask_zero=True)(ids)
    for norm_first in (False, True):
        x = EncoderLayer(D, HEADS, DFF, norm_first=norm_first)(x)
    return keras.Model(ids, x)


@pytest.mark.parametrize(
    ("make", "mode"),
    [
        (sequential_model, "eager"),
        (functional_model, "eager"),
        pytest.param(sequential_model, "graph", marks=pytest.mark.requires_tensorflow),
        pytest.param(functional_model, "xla", marks=pytest.mark.requires_tensorflow),
    ],
)
def test_the_mask_of_an_embedding_hides_padding_in_every_layer(rng, make, mode):
    model = randomize(make(), rng)
    call = compiled(mode, model)
    padded = to_numpy(call(IDS))
    for b in range(len(IDS)):
        alone = to_numpy(call(IDS[b : b + 1, REAL_IDS[b]]))
        np.testing.assert_allclose(padded[b, REAL_IDS[b]], alone[0], atol=1e-5)


@pytest.mark.parametrize("make", [sequential_model, functional_model])
def test_the_mask_of_an_embedding_works_with_a_fixed_batch_as_large_as_the_length(rng, make):
    # With B = T a (B, S) mask would pass for a (T, S) one.
    model = randomize(make(PADDED_LENGTH, PADDED_LENGTH), rng)
    ids = np.concatenate([IDS, IDS[:, ::-1], np.zeros((2, PADDED_LENGTH), "int32")])
    padded = to_numpy(model(ids))
    open_model = make()
    open_model.set_weights(model.get_weights())
    for b in range(2):
        alone = to_numpy(open_model(IDS[b : b + 1, REAL_IDS[b]]))
        np.testing.assert_allclose(padded[b, REAL_IDS[b]], alone[0], atol=1e-5)
    assert np.isfinite(padded).all()


def test_the_mask_of_an_embedding_is_combined_with_an_explicit_one(rng):
    embedding = keras.layers.Embedding(7, D, mask_zero=True)
    layer = decoder(rng, cross_attention=False)
    explicit = combine_masks(padding_mask(IDS), causal_mask(PADDED_LENGTH))
    expected = layer(to_numpy(embedding(IDS)), mask=explicit)
    causal = to_numpy(causal_mask(PADDED_LENGTH))[0, 0]
    assert_identical(layer(embedding(IDS), mask=causal), expected)


def test_the_mask_of_the_encoder_output_hides_source_padding(rng, x):
    embedding = keras.layers.Embedding(7, D, mask_zero=True)
    layer = decoder(rng)
    memory = to_numpy(embedding(IDS))
    expected = layer(x, memory, cross_mask=padding_mask(IDS))
    assert_identical(layer(x, embedding(IDS)), expected)


def test_the_padding_of_the_input_is_passed_on_and_the_attention_mask_is_not(rng):
    embedding = keras.layers.Embedding(7, D, mask_zero=True)
    output = encoder(rng)(embedding(IDS), mask=causal_mask(PADDED_LENGTH))
    pooled = keras.layers.GlobalAveragePooling1D()(output)
    values = to_numpy(output)
    for b in range(len(IDS)):
        expected = values[b, REAL_IDS[b]].mean(axis=0)
        np.testing.assert_allclose(to_numpy(pooled)[b], expected, atol=1e-5)


# Messages


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 0}, "d_model must be an integer >= 1, got 0"),
        ({"num_heads": 3}, "num_heads must divide d_model, got num_heads=3, d_model=8"),
        ({"dff": 0}, "dff must be an integer >= 1, got 0"),
        ({"dropout": 1.5}, r"dropout must be in \[0, 1\), got 1.5"),
        ({"num_heads": 8, "rotary": True}, "rotary needs an even head_dim"),
    ],
    ids=str,
)
@pytest.mark.parametrize("layer_class", [EncoderLayer, DecoderLayer])
def test_layers_name_the_wrong_argument(layer_class, change, message):
    with pytest.raises(ValueError, match=message):
        layer_class(**{"d_model": 8, "num_heads": 2, "dff": 12, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 1.5}, "d_model must be an integer >= 1, got 1.5"),
        ({"dff": -1}, "dff must be an integer >= 1, got -1"),
        ({"dropout": -0.5}, r"dropout must be in \[0, 1\), got -0.5"),
    ],
)
def test_feed_forward_names_the_wrong_argument(change, message):
    with pytest.raises(ValueError, match=message):
        FeedForward(**{"d_model": 8, "dff": 12, **change})


def test_a_missing_or_unexpected_encoder_output_is_refused(rng, x, memory):
    with pytest.raises(ValueError, match="encoder_output must be given when cross_attention=True"):
        DecoderLayer(D, HEADS, DFF)(x)
    with pytest.raises(ValueError, match="encoder_output must be None when cross_attention=False"):
        DecoderLayer(D, HEADS, DFF, cross_attention=False)(x, memory)


def test_an_input_of_another_width_is_refused(x):
    with pytest.raises(ValueError, match="x must have d_model=6 features, got 8"):
        EncoderLayer(6, 2, DFF)(x)


def test_a_number_mask_is_refused_by_every_layer(rng, x, memory):
    message = r"mask must be boolean.*float32.*1 = masked"
    with pytest.raises(TypeError, match=message):
        encoder(rng)(x, mask=np.zeros((T, T), "float32"))
    with pytest.raises(TypeError, match=message):
        decoder(rng)(x, memory, mask=np.zeros((T, T), "float32"))
    with pytest.raises(TypeError, match=message):
        decoder(rng)(x, memory, cross_mask=np.zeros((T, S), "float32"))


def test_training_passed_positionally_is_refused(rng, x, memory):
    # The calls of older tutorials: (x, training, mask) and (x, encoder_output, training, ...).
    mask = np.ones((T, T), bool)
    with pytest.raises(ValueError, match="mask must be a tensor or None, got True.*keyword"):
        encoder(rng)(x, True, mask)
    with pytest.raises(ValueError, match="mask must be a tensor or None, got False.*keyword"):
        decoder(rng)(x, memory, False, mask)
    with pytest.raises(ValueError, match="positional"):
        FeedForward(D, DFF)(x, True)
