"""The encoder-decoder Transformer and its two stacks."""

import io

import keras
import numpy as np
import pytest
import reference
from layer_check import (
    HALF_POLICIES,
    IS_TENSORFLOW,
    assert_close,
    assert_identical,
    check_config,
    check_layer,
    check_no_leak,
    compiled,
    leak_cases,
    randomize,
    to_numpy,
    with_dtype,
)

from tfgpt.losses import masked_accuracy, masked_loss
from tfgpt.masks import causal_mask, create_masks, padding_mask
from tfgpt.transformer import Decoder, Encoder, Transformer

SOURCE_VOCAB, TARGET_VOCAB, D, HEADS = 9, 11, 8, 2
SETTINGS = {
    "num_layers": 1,
    "d_model": D,
    "num_heads": HEADS,
    "dff": 12,
    "source_vocab_size": SOURCE_VOCAB,
    "target_vocab_size": TARGET_VOCAB,
    "max_length": 10,
}
SOURCE = np.array([[3, 4, 5, 6, 0, 0], [7, 8, 1, 2, 3, 4]], "int32")
TARGET = np.array([[1, 5, 6, 0], [1, 9, 10, 2]], "int32")
IDS = {"source": SOURCE, "target": TARGET}
TIED = {"tie_embeddings": True, "source_vocab_size": TARGET_VOCAB}


def transformer(rng=None, **settings):
    model = Transformer(**{**SETTINGS, **settings})
    return randomize(model, rng or np.random.default_rng(0))


# Properties


@leak_cases
def test_the_transformer_never_sees_later_target_tokens(rng, mode, policy, dropout, training):
    model = with_dtype(transformer(dropout=dropout), policy)

    def call(target, asked):
        inputs = {"source": SOURCE, "target": target}
        return model(inputs, return_attention_weights=asked, training=training)

    # Ids from 1 to 10: a change never makes padding.
    check_no_leak(model, call, np.maximum(TARGET, 1), lambda row: row % 10 + 1, mode)


@pytest.mark.parametrize("pad_id", [0, 3])
@pytest.mark.parametrize("norm_first", [False, True])
def test_the_amount_of_padding_never_changes_real_positions(norm_first, pad_id):
    model = transformer(norm_first=norm_first, pad_id=pad_id)
    source = np.array([[4, 5, 6], [7, 8, 1]], "int32")
    target = np.array([[1, 5], [1, 9]], "int32")
    plain = to_numpy(model({"source": source, "target": target}))
    for extra in (1, 4):
        padding = np.full((2, extra), pad_id, "int32")
        longer = {
            "source": np.concatenate([source, padding], axis=1),
            "target": np.concatenate([target, padding], axis=1),
        }
        np.testing.assert_allclose(to_numpy(model(longer))[:, :2], plain, atol=1e-5)


def test_a_sentence_alone_and_in_a_padded_batch_has_the_same_logits():
    model = transformer()
    batch = to_numpy(model(IDS))
    alone = to_numpy(model({"source": SOURCE[:1, :4], "target": TARGET[:1, :3]}))
    np.testing.assert_allclose(alone[0], batch[0, :3], atol=1e-5)


def test_the_vector_of_the_padding_token_never_changes_real_positions():
    model = transformer()
    plain = to_numpy(model(IDS))
    for stack in (model.encoder, model.decoder):
        table = to_numpy(stack.embedding.embeddings).copy()
        table[0] += 10
        stack.embedding.embeddings.assign(table)
    np.testing.assert_array_equal(to_numpy(model(IDS))[TARGET != 0], plain[TARGET != 0])


def test_no_weight_is_given_to_padding_or_to_the_future():
    _, weights = to_numpy(transformer()(IDS, return_attention_weights=True))
    for name, mask in zip(
        ("encoder/0", "decoder/0/self", "decoder/0/cross"),
        create_masks(SOURCE, TARGET),
        strict=True,
    ):
        mask = np.broadcast_to(to_numpy(mask), weights[name].shape)
        assert (weights[name][~mask] == 0).all()
        assert (weights[name][mask] > 0).all()
        np.testing.assert_allclose(weights[name].sum(axis=-1), 1, atol=1e-6)


def test_a_batch_of_padding_only_is_finite():
    zeros = {"source": np.zeros_like(SOURCE), "target": np.zeros_like(TARGET)}
    logits, weights = to_numpy(transformer()(zeros, return_attention_weights=True))
    assert np.isfinite(logits).all()
    assert all((array == 0).all() for array in weights.values())


def test_attention_weights_have_their_names_and_shapes():
    model = transformer(num_layers=2)
    _, weights = model(IDS, return_attention_weights=True)
    expected = {}
    for index in range(2):
        expected[f"encoder/{index}"] = (2, HEADS, 6, 6)
        expected[f"decoder/{index}/self"] = (2, HEADS, 4, 4)
        expected[f"decoder/{index}/cross"] = (2, HEADS, 4, 6)
    assert {name: tuple(array.shape) for name, array in weights.items()} == expected
    assert {keras.backend.standardize_dtype(array.dtype) for array in weights.values()} == {
        "float32"
    }


def test_the_last_source_token_reaches_the_first_target_position():
    changed = SOURCE.copy()
    changed[1, 5] = 8
    model = transformer()
    plain, other = (to_numpy(model({**IDS, "source": s})) for s in (SOURCE, changed))
    assert np.abs(plain[1, 0] - other[1, 0]).max() > 1e-4


# Equality


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_transformer_equals_slow_numpy(norm_first):
    model = transformer(norm_first=norm_first)

    def embed(layer, ids):
        table = to_numpy(layer.embeddings)
        return table[ids] * D**0.5 + reference.positional_encoding(len(ids), D)

    def finish(stack, x):
        if not norm_first:
            return x
        return reference.layer_norm(x, *to_numpy(stack.final_norm.weights), 1e-6)

    actual = to_numpy(model(IDS))
    for b in range(2):
        source_real = np.tile(SOURCE[b] != 0, (6, 1))
        memory = reference.encoder_layer(
            embed(model.encoder.embedding, SOURCE[b]),
            reference.sublayer_weights(model.encoder.layers[0]),
            HEADS,
            norm_first,
            1e-6,
            source_real,
        )
        hidden = reference.decoder_layer(
            embed(model.decoder.embedding, TARGET[b]),
            finish(model.encoder, memory),
            reference.sublayer_weights(model.decoder.layers[0]),
            HEADS,
            norm_first,
            1e-6,
            np.tri(4, dtype=bool) & (TARGET[b] != 0),
            source_real[:4],
        )
        hidden = finish(model.decoder, hidden)
        expected = reference.dense(hidden, *to_numpy(model.output_projection.weights))
        np.testing.assert_allclose(actual[b], expected, atol=2e-4)


def test_the_transformer_is_its_encoder_its_decoder_and_a_projection():
    model = transformer(num_layers=2)
    encoder_mask, decoder_mask, cross_mask = create_masks(SOURCE, TARGET)
    memory = model.encoder(SOURCE, mask=encoder_mask)
    hidden = model.decoder(TARGET, memory, mask=decoder_mask, cross_mask=cross_mask)
    assert_close(model.output_projection(hidden), model(IDS), 1e-6)


# Routine checks


def test_encoder_passes_the_routine_checks(tmp_path):
    encoder = Encoder(2, D, HEADS, 12, SOURCE_VOCAB, 10, norm_first=True)
    check_layer(encoder, SOURCE, tmp_path=tmp_path, mask=to_numpy(padding_mask(SOURCE)))


def test_decoder_passes_the_routine_checks(rng, tmp_path):
    memory = rng.normal(size=(2, 6, D)).astype("float32")
    _, mask, cross_mask = to_numpy(create_masks(SOURCE, TARGET))
    decoder = Decoder(1, D, HEADS, 12, TARGET_VOCAB, 10, positions="learned")
    check_layer(decoder, TARGET, memory, tmp_path=tmp_path, mask=mask, cross_mask=cross_mask)


@pytest.mark.parametrize(
    "settings",
    [pytest.param({}, id="own tables"), pytest.param(TIED, id="one table", marks=pytest.mark.slow)],
)
def test_transformer_passes_the_routine_checks(settings, tmp_path):
    check_layer(transformer(activation="gelu", **settings), IDS, tmp_path=tmp_path)


def test_the_summary_shows_no_unbuilt_row_and_all_weights():
    model = Transformer(**SETTINGS)
    lines = io.StringIO()
    model.summary(print_fn=lambda line, **_: lines.write(line))
    assert "?" not in lines.getvalue() and "unbuilt" not in lines.getvalue()
    # Tables 9 x 8 and 11 x 8, 3 attentions 4 d^2 + 4 d, 2 feed-forwards 2 d f + d + f,
    # 5 norms 2 d, output (d + 1) x 11.
    expected = (9 + 11) * 8 + 3 * (4 * 64 + 32) + 2 * (2 * 96 + 20) + 5 * 16 + 9 * 11
    assert model.count_params() == expected
    assert f"{expected:,}" in lines.getvalue()


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_one_trace_with_open_shapes_serves_every_length():
    import tensorflow as tf

    model = transformer()
    spec = tf.TensorSpec((None, None), tf.int32)
    function = tf.function(model, input_signature=[{"source": spec, "target": spec}])
    for source_length, target_length in ((6, 4), (2, 3), (10, 2)):
        ids = {
            "source": np.ones((3, source_length), "int32"),
            "target": np.ones((3, target_length), "int32"),
        }
        assert_close(function(ids), model(ids), 1e-5)
    assert function.experimental_get_tracing_count() == 1


@pytest.mark.requires_tensorflow
def test_gradients_reach_every_weight_but_no_token_that_never_occurs():
    import tensorflow as tf

    model = transformer()
    labels = np.array([[5, 6, 2, 0], [9, 10, 2, 3]], "int32")
    with tf.GradientTape() as tape:
        loss = masked_loss(labels, model(IDS))
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, grad in zip(model.trainable_variables, gradients, strict=True):
        assert grad is not None, variable.path
        grad = tf.convert_to_tensor(grad).numpy()
        assert np.isfinite(grad).all(), variable.path
        if not variable.path.endswith("key/bias"):  # softmax ignores it
            assert np.abs(grad).max() > 1e-6, variable.path
        if variable.path.endswith("embeddings"):
            seen = np.unique(SOURCE if "encoder" in variable.path else TARGET)
            unseen = np.setdiff1d(np.arange(len(grad)), seen[seen != 0])
            # Padding occurs, but nothing that counts depends on it.
            assert (grad[unseen] == 0).all(), variable.path


# Half precision


@pytest.mark.parametrize("policy", HALF_POLICIES)
def test_logits_and_weights_are_float32_and_finite_in_half_precision(policy):
    model = with_dtype(transformer(), policy)
    logits, weights = model(IDS, return_attention_weights=True)
    for array in (logits, *weights.values()):
        assert keras.backend.standardize_dtype(array.dtype) == "float32"
        assert np.isfinite(to_numpy(array)).all()
    # bfloat16 keeps 8 bits: logits of size 5 are off by a few hundredths.
    np.testing.assert_allclose(to_numpy(logits), to_numpy(transformer()(IDS)), atol=0.3)


# Training with Keras


@pytest.mark.slow
def test_fit_reports_masked_loss_and_learns():
    model = Transformer(**SETTINGS, dropout=0.0)
    labels = np.array([[5, 6, 2, 0], [9, 10, 2, 3]], "int32")
    model.compile(
        optimizer=keras.optimizers.Adam(0.03),
        loss=masked_loss,
        metrics=[masked_accuracy],
        # XLA would take longer to compile than the rest to run; JAX needs it.
        jit_compile=not IS_TENSORFLOW,
    )
    expected_loss = float(masked_loss(labels, model(IDS)))
    expected_accuracy = float(masked_accuracy(labels, model(IDS)))
    history = model.fit(IDS, labels, batch_size=2, epochs=25, verbose=0).history
    assert history["loss"][0] == pytest.approx(expected_loss, abs=1e-5)
    assert history["masked_accuracy"][0] == pytest.approx(expected_accuracy, abs=1e-6)
    assert history["loss"][-1] < 0.1
    assert history["masked_accuracy"][-1] == 1


def test_the_logits_carry_no_mask_that_a_keras_loss_would_apply_again():
    ids = {name: keras.Input((None,), dtype="int32") for name in ("source", "target")}
    model = transformer()
    for logits in (model(IDS), model(ids)):
        assert getattr(logits, "_keras_mask", None) is None


# Every setting acts


@pytest.mark.parametrize(
    "change",
    [
        {"num_layers": 2},
        {"num_heads": 4},
        {"dff": 13},
        {"pad_id": 4},
        {"norm_first": True},
        {"activation": "gelu"},
        {"positions": "learned"},
    ],
    ids=str,
)
def test_each_setting_changes_the_logits(change):
    def logits(**settings):
        keras.utils.set_random_seed(1)
        model = Transformer(**{**SETTINGS, **settings})
        # The ids 4 and 0 are padding under one pad_id and real under the other.
        return to_numpy(model(IDS))

    assert np.abs(logits() - logits(**change)).max() > 0.01


def test_dropout_acts_in_training_only():
    plain, dropping = transformer(dropout=0.0), transformer(dropout=0.5)
    assert_identical(dropping(IDS), plain(IDS))
    assert_identical(dropping(IDS, training=False), plain(IDS))
    assert np.abs(to_numpy(dropping(IDS, training=True) - plain(IDS))).max() > 0.01


def test_max_length_is_the_longest_sequence():
    model = transformer(max_length=4)
    model({"source": SOURCE[:, :4], "target": TARGET})
    with pytest.raises(ValueError, match="at most max_length=4 positions, got 6"):
        model(IDS)


def test_source_and_target_have_their_own_vocabularies():
    model = transformer()
    assert model.encoder.embedding.embeddings.shape == (SOURCE_VOCAB, D)
    assert model.decoder.embedding.embeddings.shape == (TARGET_VOCAB, D)
    assert model(IDS).shape[-1] == TARGET_VOCAB


def test_one_table_can_serve_source_target_and_output():
    model, other = transformer(**TIED), transformer(**TIED | {"tie_embeddings": False})
    saved = TARGET_VOCAB * D + (D + 1) * TARGET_VOCAB  # a table, the output and its bias
    assert other.count_params() - model.count_params() == saved
    assert model.decoder.embedding is model.encoder.embedding
    hidden = model.decoder(TARGET, model.encoder(SOURCE))
    table = to_numpy(model.encoder.embedding.embeddings)
    assert_close(model.logits(hidden), to_numpy(hidden) @ table.T, 1e-5)


def test_a_stack_with_the_embedding_of_another_can_be_made_again_from_its_config():
    shared = Encoder(1, D, HEADS, 12, SOURCE_VOCAB, 10).embedding
    encoder = Encoder(1, D, HEADS, 12, SOURCE_VOCAB, 10, embedding=shared)
    assert encoder.embedding is shared
    check_config(encoder, (SOURCE,), {}, encoder(SOURCE), 1e-5)


# Decoding with a cache


@pytest.mark.parametrize("settings", [{}, TIED, {"norm_first": True, "num_layers": 2}], ids=str)
def test_cached_decoding_equals_a_full_pass(settings):
    model = transformer(**settings)
    decoder = model.decoder
    encoder_mask, _, cross_mask = create_masks(SOURCE, TARGET)
    memories = decoder.make_memories(model.encoder(SOURCE, mask=encoder_mask))
    target = np.maximum(TARGET, 1)  # a cache holds no padding
    expected = to_numpy(model({"source": SOURCE, "target": target}))
    for pieces in ([4], [1, 1, 1, 1], [2, 1, 1]):
        caches, start, logits = decoder.make_caches(2, length=7), 0, []
        for size in pieces:
            new = target[:, start : start + size]
            output, caches = decoder.decode(new, caches, start, memories, cross_mask)
            logits.append(to_numpy(model.logits(output)))
            start += size
        np.testing.assert_allclose(np.concatenate(logits, axis=1), expected, atol=1e-4)


# Messages


@pytest.mark.parametrize(
    "inputs", [SOURCE, (SOURCE, TARGET), {"source": SOURCE}, {"encoder": SOURCE, "decoder": TARGET}]
)
def test_inputs_without_source_and_target_are_refused(inputs):
    with pytest.raises(ValueError, match='inputs must be a dict with "source" and "target", got'):
        transformer()(inputs)


@pytest.mark.parametrize(
    ("name", "bad_id", "size"), [("source", 9, 9), ("source", -1, 9), ("target", 11, 11)]
)
def test_ids_outside_the_vocabulary_are_refused(name, bad_id, size):
    ids = {key: value.copy() for key, value in IDS.items()}
    ids[name][0, 1] = bad_id
    model = transformer()
    with pytest.raises(ValueError, match=rf"token_ids must be in .*\[0, {size}\), got {bad_id}"):
        model(ids)
    with pytest.raises(ValueError, match=rf"{name} must be in .*\[0, {size}\), got {bad_id}"):
        model.check_ids(ids)


def test_float_ids_are_refused():
    with pytest.raises(TypeError, match="must be integers, got dtype float32"):
        transformer()({name: ids.astype("float32") for name, ids in IDS.items()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 0}, "num_layers must be an integer >= 1, got 0"),
        ({"num_heads": 3}, "num_heads must divide d_model, got num_heads=3, d_model=8"),
        ({"source_vocab_size": 0}, "source_vocab_size must be an integer >= 1, got 0"),
        ({"target_vocab_size": 2.0}, "target_vocab_size must be an integer >= 1, got 2.0"),
        ({"max_length": 0}, "max_length must be an integer >= 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"tie_embeddings": True}, "tie_embeddings needs one vocabulary, got source_vocab_size=9"),
        ({"positions": "rotary"}, "positions must be one of 'sinusoidal', 'learned'"),
    ],
    ids=str,
)
def test_the_transformer_names_the_wrong_argument(change, message):
    with pytest.raises(ValueError, match=message):
        Transformer(**{**SETTINGS, **change})


def test_training_passed_positionally_is_refused():
    with pytest.raises(ValueError, match="positional"):
        transformer()(IDS, True)


@pytest.mark.requires_tensorflow
def test_a_stack_takes_its_masks_in_a_traced_function():
    encoder = Encoder(1, D, HEADS, 12, SOURCE_VOCAB, 10)
    function = compiled("graph", lambda ids: encoder(ids, mask=causal_mask(6)))
    assert_close(function(SOURCE), encoder(SOURCE, mask=causal_mask(6)), 1e-5)
