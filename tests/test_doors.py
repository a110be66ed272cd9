"""The doors of the models: embed, hidden, logits, decode; what goes in and what is refused."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from layer_check import assert_close, compiled

from tfgpt import (
    GPT,
    Decoder,
    Encoder,
    EncoderLayer,
    FeedForward,
    MultiHeadAttention,
    PositionalEmbedding,
    Transformer,
    apply_rotary,
    cast_model,
    causal_mask,
)

IDS = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], "int32")
POSITIONS = ("learned", "sinusoidal", "rotary")
on_tensorflow = pytest.mark.requires_tensorflow


def small_gpt(**options):
    return GPT(10, context_length=8, num_layers=2, d_model=8, num_heads=2, **options)


def small_transformer(**options):
    return Transformer(1, 8, 2, 16, 10, 10, max_length=8, dropout=0.0, **options)


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_gpt_is_embed_then_hidden_then_logits(positions):
    model = small_gpt(positions=positions)
    expected = model(IDS)
    assert_close(model.logits(model.hidden(model.embed(IDS))), expected, 1e-6)
    hidden, weights = model.hidden(model.embed(IDS), return_attention_weights=True)
    assert_close(model.logits(hidden), expected, 1e-6)
    assert sorted(weights) == ["decoder/0/self", "decoder/1/self"]


def test_a_given_mask_of_hidden_is_all_that_counts():
    """A prefix may see itself in both directions, as the patches of an image do."""
    model = small_gpt()
    x = np.array(model.embed(IDS)) * 50
    mask = np.tri(4, dtype=bool)[None, None].copy()
    mask[..., :2, :2] = True
    changed = x.copy()
    changed[:, 1] += np.arange(8.0)
    free, causal = (
        np.abs(np.array(model.hidden(changed, mask=m)) - np.array(model.hidden(x, mask=m)))[:, 0]
        for m in (mask, None)
    )
    assert free.max() > 1e-9
    assert causal.max() == 0


@pytest.mark.parametrize("positions", POSITIONS)
def test_decoding_embeddings_is_decoding_tokens(positions):
    model = small_gpt(positions=positions)
    full = model.hidden(model.embed(IDS))
    for inputs in (IDS, model.embed(IDS, start=0)):
        caches = model.make_caches(2, 8)
        first, caches = model.decode(inputs[:, :3], caches, 0)
        last, _ = model.decode(inputs[:, 3:], caches, 3)
        assert_close(ops.concatenate([first, last], axis=1), full, 1e-5)


def test_a_mask_of_decode_hides_more_than_the_future():
    model = small_gpt()
    mask = np.ones((1, 1, 1, 8), bool)
    mask[..., 1] = False
    outputs = []
    for token in (2, 9):
        ids = IDS.copy()
        ids[:, 1] = token
        caches = model.make_caches(2, 8)
        outputs.append(np.array(model.decode(ids, caches, 0, mask=mask)[0]))
    np.testing.assert_array_equal(outputs[0][:, 2:], outputs[1][:, 2:])
    assert (outputs[0][:, 1] != outputs[1][:, 1]).any()


def test_encoder_and_decoder_have_the_same_doors():
    encoder = Encoder(1, 8, 2, 16, vocab_size=10, max_length=8)
    expected = encoder(IDS)
    assert_close(encoder.hidden(encoder.embed(IDS)), expected, 1e-6)
    decoder = Decoder(1, 8, 2, 16, vocab_size=10, max_length=8)
    memory, mask = keras.random.normal((2, 5, 8)), causal_mask(4)
    expected = decoder(IDS, memory, mask=mask)
    assert_close(decoder.hidden(decoder.embed(IDS), memory, mask=mask), expected, 1e-6)


MODES = ["eager", pytest.param("graph", marks=on_tensorflow)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("positions", POSITIONS)
def test_padding_on_either_side_never_changes_a_real_position_of_a_gpt(positions, mode):
    model = small_gpt(positions=positions, pad_id=0)
    run = compiled(mode, model)
    plain = np.array(run(IDS[:1]))
    for left, right in ((2, 0), (0, 2), (1, 2)):
        padded = np.pad(IDS[:1], ((0, 0), (left, right)))
        result = np.array(run(padded))[:, left : left + 4]
        np.testing.assert_allclose(result, plain, atol=2e-6)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_padding_on_either_side_never_changes_a_transformer(positions):
    model = small_transformer(positions=positions)
    plain = np.array(model({"source": IDS[:1], "target": IDS[1:]}))
    for left, right in ((2, 0), (0, 2), (1, 2)):
        source, target = (np.pad(ids, ((0, 0), (left, right))) for ids in (IDS[:1], IDS[1:]))
        result = np.array(model({"source": source, "target": target}))[:, left : left + 4]
        np.testing.assert_allclose(result, plain, atol=2e-6)


def test_attention_weights_are_made_only_when_asked_for():
    """A pass without weights keeps one layer's weights at a time, not those of all layers."""
    attention = MultiHeadAttention(2, 8)
    x = keras.random.normal((2, 3, 8))
    assert len(attention(x, return_attention_weights=True)) == 2
    assert not isinstance(attention(x), tuple)
    for model, inputs in (
        (small_gpt(), IDS),
        (small_transformer(), {"source": IDS, "target": IDS}),
    ):
        logits, weights = model(inputs, return_attention_weights=True)
        assert_close(model(inputs), logits, 1e-6)
        assert {np.array(array).dtype.name for array in weights.values()} == {"float32"}


@pytest.mark.parametrize("start", [5, np.array([[0], [5]])])
def test_a_position_beyond_the_table_is_an_error(start):
    layer = PositionalEmbedding(10, 4, max_length=8)
    with pytest.raises(ValueError, match=r"at most max_length=8 positions, got 4 from start=5"):
        layer(IDS, start=start)
    assert layer(IDS, start=4).shape == (2, 4, 4)


@on_tensorflow
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_a_position_beyond_the_table_is_nan_in_a_compiled_function(positions):
    layer = PositionalEmbedding(10, 4, max_length=8, positions=positions)
    run = compiled("xla", lambda ids, start: layer(ids, start=start))
    result = np.array(run(IDS, np.int32(6)))
    assert np.isfinite(result[:, :2]).all() and np.isnan(result[:, 2:]).all()


# What may go in.


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int8", "int64"])
def test_ids_of_every_integer_type_are_the_same(dtype):
    model = small_gpt(pad_id=0)
    assert_close(model(IDS.astype(dtype)), model(IDS), 0)
    model = small_transformer()
    ids, same = ({"source": x, "target": x} for x in (IDS.astype(dtype), IDS))
    assert_close(model(ids), model(same), 0)


def test_numpy_integers_are_sizes_and_the_config_stays_json():
    sizes = np.array([10, 8, 2, 8, 2], "int64")
    model = GPT(*sizes, dff=np.int32(16), dropout=np.float32(0.5), pad_id=np.int64(0))
    json.dumps(model.get_config())
    json.dumps(Transformer(*np.array([1, 8, 2, 16, 10, 10, 8])).get_config())
    json.dumps(EncoderLayer(*np.array([8, 2, 16])).get_config())


def test_an_initializer_may_be_a_function():
    layer = FeedForward(8, 16, kernel_initializer=lambda shape, dtype=None: ops.ones(shape, dtype))
    layer(np.ones((1, 2, 8), "float32"))
    assert (np.array(layer.expand.kernel) == 1).all()


def test_float_ids_are_refused_by_value_and_cast_without_values():
    model = small_gpt()
    with pytest.raises(TypeError, match="token_ids must be integers, got dtype float"):
        model(IDS.astype("float32"))
    symbolic = keras.Input((4,))  # Keras's default dtype is a float
    traced = keras.Model(symbolic, model(symbolic)).predict(IDS, verbose=0)
    assert_close(traced, model(IDS), 1e-6)


@on_tensorflow
def test_half_precision_does_not_round_float_placeholders_of_ids():
    model = GPT(3000, 8, 1, 8, 2, dtype="mixed_float16")
    symbolic = keras.Input((1,))
    ids = np.array([[2049], [2051]], "int32")
    traced = keras.Model(symbolic, model(symbolic)).predict(ids, verbose=0)
    assert_close(traced, model(ids), 1e-3)
    assert abs(traced[0] - traced[1]).max() > 0.01  # in float16, 2049 and 2051 are no numbers


@pytest.mark.slow
@on_tensorflow
def test_a_text_layer_before_a_gpt_can_be_exported(tmp_path):
    import tensorflow as tf

    text = keras.layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=4)
    symbolic = keras.Input((), dtype="string")
    model = keras.Model(symbolic, small_gpt(pad_id=0)(text(symbolic)))
    model.export(str(tmp_path / "model"), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert_close(loaded.serve(tf.constant(["a b"])), model(tf.constant(["a b"])), 1e-5)


@pytest.mark.slow
@on_tensorflow
def test_a_gpt_can_be_written_by_tensorflow_and_converted_without_extra_operations(tmp_path):
    import tensorflow as tf

    model = small_gpt(pad_id=0)
    tf.saved_model.save(model, str(tmp_path / "saved"))
    function = tf.function(model, input_signature=[tf.TensorSpec((1, 8), tf.int32)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], model
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    assert len(converter.convert()) > 1000


def test_rotary_positions_work_on_a_length_that_is_not_known():
    symbolic = keras.Input((2, None, 4))
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 4)).astype("float32")
    assert_close(keras.Model(symbolic, apply_rotary(symbolic))(x), apply_rotary(x), 1e-6)


# What is refused.


@pytest.mark.parametrize("pad_id", [10, 99, -5, "x", 1.5, True])
def test_a_pad_id_that_is_no_token_is_refused(pad_id):
    for make in (small_gpt, small_transformer):
        with pytest.raises(ValueError, match="pad_id must be an integer >= 0 below vocab_size=10"):
            make(pad_id=pad_id)


def test_a_padding_mask_is_not_taken_for_one_of_queries_and_keys():
    layer, x = EncoderLayer(8, 2, 16), keras.random.normal((3, 3, 8))
    padding = np.array([[True, True, False]] * 3)
    with pytest.raises(ValueError, match=r"rank 2 with batch size 3.*mask\[:, None, None\]"):
        layer(x, mask=padding)
    expected = layer(x, mask=padding[:, None, None])
    assert_close(layer(x[:1], mask=padding[:1]), expected[:1], 1e-5)  # both readings agree
    assert layer(x[:2], mask=np.tri(3, dtype=bool)).shape == (2, 3, 8)


def test_a_wrapper_cannot_smuggle_a_padding_mask_in():
    """Keras's TimeDistributed calls `call` itself, with (B, T) masks, here B = T."""
    embedding = keras.layers.Embedding(10, 8, mask_zero=True)
    layer = keras.layers.TimeDistributed(EncoderLayer(8, 2, 16))
    with pytest.raises(ValueError, match="mask must not have rank 2"):
        layer(embedding(np.ones((3, 2, 3), "int32")))


def test_a_symbolic_call_is_checked_as_far_as_it_is_known():
    x, y = keras.Input((4, 8)), keras.Input((5, 8))
    float_mask = keras.Input((1, 1, 4))
    with pytest.raises(TypeError, match="mask must be boolean"):
        EncoderLayer(8, 2, 16)(x, mask=float_mask)
    with pytest.raises(ValueError, match="broadcastable"):
        EncoderLayer(8, 2, 16)(x, mask=keras.Input((1, 1, 3), dtype="bool"))
    with pytest.raises(ValueError, match="value must have one row per key"):
        MultiHeadAttention(2, 8)(x, y, x)
    with pytest.raises(ValueError, match="at most context_length=8"):
        small_gpt()(keras.Input((9,), dtype="int32"))
    with pytest.raises(ValueError, match="at most max_length=8"):
        long, short = (keras.Input((n,), dtype="int32") for n in (9, 4))
        small_transformer()({"source": long, "target": short})
    with pytest.raises(TypeError, match="mask must be boolean"):
        small_gpt()(keras.Input((4,), dtype="int32"), mask=keras.Input((1, 4, 4)))


@on_tensorflow
def test_ragged_ids_are_refused_with_what_to_do():
    import tensorflow as tf

    with pytest.raises(ValueError, match=r"token_ids must have one length.*to_tensor"):
        small_gpt()(tf.ragged.constant([[1, 2], [3]]))


# What a file keeps.


slow = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    ["int8", pytest.param("int4", marks=slow), pytest.param("float8", marks=[slow, on_tensorflow])],
)
def test_a_quantized_model_is_saved_and_loaded(mode, tmp_path):
    one_layer = GPT(10, context_length=8, num_layers=1, d_model=8, num_heads=2)
    for number, model in enumerate((one_layer, small_transformer())):
        inputs = IDS if number == 0 else {"source": IDS, "target": IDS}
        model.quantize(mode)
        model.save(tmp_path / f"{number}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{number}.keras")
        assert_close(loaded(inputs), model(inputs), 1e-6)


def test_a_layer_inside_keeps_its_dtype_policy(tmp_path):
    symbolic = keras.Input((4, 8))
    layer = EncoderLayer(8, 2, 16)
    model = keras.Model(symbolic, layer(symbolic))
    layer.feed_forward.expand.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").layers[1]
    assert loaded.feed_forward.expand.compute_dtype == "bfloat16"
    assert loaded.feed_forward.contract.compute_dtype == "float32"


@pytest.mark.slow
def test_a_copy_in_another_precision_has_lora_in_its_kernels_and_refuses_int8():
    model = small_gpt()
    dense = model.decoder_layers[0].feed_forward.expand
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(np.ones(dense.lora_kernel_b.shape))
    assert_close(cast_model(model, "float32")(IDS), model(IDS), 1e-6)
    other = small_gpt()
    other.quantize("int8")
    with pytest.raises(ValueError, match="model must not be quantized, got .*'int8'"):
        cast_model(other, "bfloat16")
