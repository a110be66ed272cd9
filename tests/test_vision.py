"""Images as tokens: patches, encoder, both ways into a GPT, contrast, writing with the cache."""

from pathlib import Path

import keras
import numpy as np
import pytest

from tests.layer_check import assert_close, check_config, check_half_precision, randomize, to_numpy
from tests.vision_helpers import vit_weights
from tfgpt import GPT, BeamSearch
from tfgpt.transformer import Encoder
from tfgpt.vision import (
    DualEncoder,
    GatedCrossAttention,
    ImageEncoder,
    VisionGPT,
    contrastive_loss,
    generate_ids,
    grid_encoding,
    patchify,
    recall_at,
    unpatchify,
)

REFERENCE = np.load(Path(__file__).parent / "references" / "vision.npz")
WAYS = ("prefix", "cross")


def small_model(rng, way, num_layers=2):
    """Make a VisionGPT whose every weight matters: 4 patches, 20 tokens."""
    encoder = ImageEncoder(8, patch_size=4, num_layers=1, d_model=8, num_heads=2)
    gpt = GPT(20, 40, num_layers, 16, 2, positions="rotary", pad_id=0)
    return randomize(VisionGPT(encoder, gpt, image_id=1, way=way), rng)


def texts(model, *texts):
    """Write texts as ids; "i" becomes the places of an image."""
    image = [1] * model.tokens_per_image
    return [[i for part in text for i in (image if part == "i" else [part])] for text in texts]


def pictures(rng, *shape):
    return rng.random((*shape, 8, 8, 3)).astype("float32")


# Patches


def test_a_patch_is_a_square_of_the_image(rng):
    images = rng.random((2, 6, 4, 3)).astype("float32")
    patches = to_numpy(patchify(images, 2))
    assert patches.shape == (2, 6, 12)
    np.testing.assert_array_equal(patches[1, 3], images[1, 2:4, 2:4].ravel())  # row 1, column 1
    np.testing.assert_array_equal(to_numpy(unpatchify(patches, 2, 6, 4)), images)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="patch_size must divide .*, got 3 for 8 x 8 pixels"):
        patchify(np.zeros((1, 8, 8, 3)), 3)
    with pytest.raises(ValueError, match=r"images must have shape \(B, H, W, C\)"):
        patchify(np.zeros((8, 8, 3)), 2)
    with pytest.raises(ValueError, match=r"patches must have shape \(B, 16, 4 C\), got"):
        unpatchify(np.zeros((1, 9, 4)), 2, 8, 8)


def test_positions_in_two_directions_tell_row_and_column():
    table = grid_encoding(3, 4, 8)[0].reshape(3, 4, 8)
    assert (table[:, :1, :4] == table[:, :, :4]).all()  # the first half is the row's
    assert (table[:1, :, 4:] == table[:, :, 4:]).all()
    assert len(np.unique(table.reshape(12, 8), axis=0)) == 12
    with pytest.raises(ValueError, match="d_model must be even .*, got 7"):
        grid_encoding(2, 2, 7)


# The encoder


def test_the_encoder_equals_a_vit_of_hugging_face_with_its_weights():
    encoder = ImageEncoder(16, 8, 2, 16, 4, dff=24, class_token=True)
    arrays = {name.partition("/")[2]: REFERENCE[name] for name in REFERENCE.files}
    weights = vit_weights(arrays, num_layers=2)
    assert len(weights) == len(encoder.weights)
    for weight in encoder.weights:
        weight.assign(weights[weight.path.partition("/")[2]])
    found = encoder(REFERENCE["vit/images"])
    assert np.abs(REFERENCE["vit/hidden"]).max() > 1
    assert_close(found, REFERENCE["vit/hidden"], 1e-5)


@pytest.mark.one_backend
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_the_encoder_keeps_its_config_and_half_precision(positions, rng):
    options = {"positions": positions, "class_token": positions == "learned"}
    encoder = randomize(ImageEncoder(8, 4, 1, 8, 2, **options), rng)
    images = pictures(rng, 2)
    check_config(encoder, [images], {}, encoder(images), 1e-5)
    check_half_precision(encoder, [images], {})
    described = encoder(keras.Input((8, 8, 3)), return_attention_weights=True)
    output, weights = encoder(images, return_attention_weights=True)
    assert described[0].shape[1:] == output.shape[1:]
    assert described[1]["encoder/0"].shape[1:] == weights["encoder/0"].shape[1:]
    np.testing.assert_allclose(to_numpy(weights["encoder/0"]).sum(-1), 1, rtol=1e-5)


def test_a_stem_of_convolutions_comes_before_the_patches(rng):
    encoder = randomize(ImageEncoder(16, 2, 1, 8, 2, stem=(4, 6)), rng)
    images = rng.random((2, 16, 16, 3)).astype("float32")
    assert encoder.num_patches == 4 and encoder(images).shape == (2, 4, 8)
    assert encoder.projection.kernel.shape == (2 * 2 * 6, 8)
    check_config(encoder, [images], {}, encoder(images), 1e-5)
    check_half_precision(encoder, [images], {})
    with pytest.raises(ValueError, match="stem must halve image_size .*, got 2 convolutions for 6"):
        ImageEncoder(6, 1, 1, 8, 2, stem=(4, 4))


def test_a_patch_that_moves_changes_what_the_encoder_says(rng):
    encoder = randomize(ImageEncoder(8, 4, 1, 8, 2, positions="sinusoidal"), rng)
    images = pictures(rng, 1)
    moved = np.roll(images, 4, axis=1)
    mean, other = (to_numpy(encoder(x)).mean(axis=1) for x in (images, moved))
    assert np.abs(mean - other).max() > 1e-3


def test_wrong_images_are_named():
    encoder = ImageEncoder(8, 4, 1, 8, 2)
    with pytest.raises(ValueError, match=r"images must have shape \(B, \(8, 8, 3\)\)"):
        encoder(np.zeros((1, 4, 4, 3), "float32"))
    with pytest.raises(TypeError, match="images must be floats in .0, 1., got dtype uint8"):
        encoder(np.zeros((1, 8, 8, 3), "uint8"))
    with pytest.raises(ValueError, match="positions must be one of 'learned', 'sinusoidal'"):
        ImageEncoder(8, 4, 1, 8, 2, positions="rotary")


# Two ways into a GPT


def test_a_closed_gate_changes_nothing_and_an_open_one_does(rng):
    layer = GatedCrossAttention(8, 2, 16)
    x, visual = (rng.normal(size=(2, n, 8)).astype("float32") for n in (3, 5))
    np.testing.assert_array_equal(to_numpy(layer(x, visual)), x)
    randomize(layer, rng)
    output, weights = layer(x, visual, return_attention_weights=True)
    assert np.abs(to_numpy(output) - x).max() > 0.1 and weights.shape == (2, 2, 3, 5)
    check_config(layer, [x, visual], {}, output, 1e-5)
    hidden = np.zeros((2, 1, 3, 5), bool)
    none = to_numpy(layer(x, visual, cross_mask=hidden))
    np.testing.assert_array_equal(none, to_numpy(layer(x, 2 * visual, cross_mask=hidden)))


def test_new_cross_attention_leaves_a_trained_gpt_as_it_was(rng):
    encoder = ImageEncoder(8, 4, 1, 8, 2)
    gpt = randomize(GPT(20, 40, 2, 16, 2, positions="rotary", pad_id=0), rng)
    model = VisionGPT(encoder, gpt, image_id=1, way="cross")
    token_ids = np.array([[3, 1, 4, 5]])
    found = to_numpy(model({"token_ids": token_ids, "images": pictures(rng, 1, 1)}))
    expected = to_numpy(gpt(token_ids))
    np.testing.assert_array_equal(np.delete(found, 1, -1), np.delete(expected, 1, -1))
    assert (found[..., 1] == -np.inf).all()  # the id of images is never written


@pytest.mark.parametrize("way", WAYS)
def test_a_token_sees_the_images_before_it_and_no_other(way, rng):
    model = small_model(rng, way)
    (row,) = texts(model, (5, "i", 6, "i", 7))
    images = pictures(rng, 1, 2)
    size = model.tokens_per_image

    def logits(images):
        inputs = {"token_ids": np.array([row]), "images": images}
        return np.delete(to_numpy(model(inputs))[0], 1, -1)

    first, second = images.copy(), images.copy()
    first[:, 0], second[:, 1] = 1 - first[:, 0], 1 - second[:, 1]
    base, other_first, other_second = map(logits, (images, first, second))
    np.testing.assert_array_equal(base[0], other_first[0])
    assert np.abs(base[1:] - other_first[1:]).max(axis=-1).min() > 1e-4
    np.testing.assert_array_equal(base[: size + 2], other_second[: size + 2])
    assert np.abs(base[size + 2 :] - other_second[size + 2 :]).max(axis=-1).min() > 1e-4


@pytest.mark.parametrize("way", WAYS)
def test_padding_and_images_that_are_not_shown_change_nothing(way, rng):
    model = small_model(rng, way)
    (row,) = texts(model, ("i", 6, 7))
    images = pictures(rng, 1, 1)
    base = to_numpy(model({"token_ids": np.array([row]), "images": images}))
    more = np.concatenate([images, pictures(rng, 1, 1)], axis=1)
    longer = to_numpy(model({"token_ids": np.array([row + [0, 0]]), "images": more}))
    np.testing.assert_allclose(longer[:, : len(row)], base, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_attention_weights_come_for_words_and_patches(way, rng):
    model = small_model(rng, way)
    rows = np.array(texts(model, (5, "i", 6, 7)))
    inputs = {"token_ids": rows, "images": pictures(rng, 1, 1)}
    logits, weights = model(inputs, return_attention_weights=True)
    assert_close(logits, model(inputs), 0)
    names = {"encoder/0", "decoder/0/self", "decoder/1/self"}
    names |= {"decoder/0/cross", "decoder/1/cross"} if way == "cross" else set()
    assert set(weights) == names
    symbols = {
        "token_ids": keras.Input((rows.shape[1],), dtype="int32"),
        "images": keras.Input((1, 8, 8, 3)),
    }
    described, spec = model(symbols, return_attention_weights=True)
    assert described.shape[1:] == logits.shape[1:]
    assert {n: w.shape[1:] for n, w in spec.items()} == {
        n: tuple(w.shape[1:]) for n, w in weights.items()
    }
    if way == "cross":
        cross = to_numpy(weights["decoder/0/cross"])[0].sum(-1)  # (H, T)
        np.testing.assert_allclose(cross, np.broadcast_to([0, 1, 1, 1], (2, 4)), atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_a_vision_gpt_is_saved_with_its_parts(way, rng, tmp_path):
    model = small_model(rng, way)
    inputs = {"token_ids": np.array(texts(model, ("i", 4))), "images": pictures(rng, 1, 1)}
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(to_numpy(loaded(inputs)), to_numpy(model(inputs)))


def test_wrong_parts_and_inputs_are_named(rng):
    encoder, gpt = ImageEncoder(8, 4, 1, 8, 2), GPT(20, 12, 1, 8, 2, pad_id=0)
    for arguments, error, message in (
        ((gpt, gpt, 1), TypeError, "encoder must be of class ImageEncoder, got GPT"),
        ((encoder, encoder, 1), TypeError, "gpt must be of class GPT, got ImageEncoder"),
        ((encoder, gpt, 20), ValueError, "image_id must be below vocab_size=20 .* got 20"),
        ((encoder, gpt, 0), ValueError, "not the pad_id=0, got 0"),
        ((encoder, gpt, 1, "middle"), ValueError, "way must be one of 'prefix', 'cross'"),
    ):
        with pytest.raises(error, match=message):
            VisionGPT(*arguments)
    model = VisionGPT(encoder, gpt, image_id=1)
    images = pictures(rng, 1, 1)
    for prompt, shown, new, message in (
        ([[1] * 8], images, 1, "image_id=1 at most 4 times in a row for 1 image.s., got 8"),
        ([[1] * 4 + [5]], images, 8, r"must fit context_length=12, got 5 \+ 8 tokens"),
        ([[5], [6]], images, 1, "images must have a row per prompt, 2, got 1"),
        ([[5]], images[0], 1, r"images must have shape \(B, N, H, W, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            generate_ids(model, prompt, shown, new)


# Writing


def greedy(model, prompt, images, count):
    """Write with a full pass per token, as a reference for the cache."""
    row = list(prompt)
    for _ in range(count):
        logits = model({"token_ids": np.array([row]), "images": images[None]})
        row.append(int(to_numpy(logits)[0, -1].argmax()))
    return row


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_cache_writes_what_full_passes_write(way, rng):
    model = small_model(rng, way)
    prompts = texts(model, (5, 6, "i", 7), ("i", 8, "i", 9, 4), (3,))
    images = pictures(rng, 3, 2)
    expected = [greedy(model, *row, 5) for row in zip(prompts, images, strict=True)]
    found = generate_ids(model, prompts, images, 5, temperature=0)
    assert [row.tolist() for row in found] == expected
    # Other images run in the same program, and are seen.
    expected = [greedy(model, *row, 5) for row in zip(prompts, 1 - images, strict=True)]
    found = generate_ids(model, prompts, 1 - images, 5, temperature=0)
    assert [row.tolist() for row in found] == expected
    assert len(model.__dict__["program_store"].programs) == (keras.backend.backend() != "torch")


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_beams_see_the_images_of_their_call(rng):
    model = small_model(rng, "prefix", num_layers=1)
    prompts = texts(model, (5, "i", 8))
    for images in (pictures(rng, 1, 1), pictures(rng, 1, 1)):
        (found,) = generate_ids(model, prompts, images, 4, strategy=BeamSearch(1))
        assert found.tolist() == greedy(model, prompts[0], images[0], 4)


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_samplers_draw_the_same_with_the_same_seed(rng):
    model = small_model(rng, "cross", num_layers=1)
    prompts = texts(model, ("i", 7), (5, "i", 8))
    images = pictures(rng, 2, 1)
    options = {"temperature": 0.9, "top_p": 0.9, "seed": 3, "num_samples": 2}
    drawn, again = (generate_ids(model, prompts, images, 5, **options) for _ in "12")
    assert len(drawn) == 4
    for one, other in zip(drawn, again, strict=True):
        np.testing.assert_array_equal(one, other)


# Contrast


def test_the_contrastive_loss_is_that_of_hugging_face_clip():
    names = ("image_vectors", "text_vectors", "scale")
    loss = contrastive_loss(*(REFERENCE[f"clip/{name}"] for name in names))
    np.testing.assert_allclose(to_numpy(loss), REFERENCE["clip/loss"], rtol=1e-5)


def test_the_contrastive_loss_of_equal_vectors_is_the_logarithm_of_the_batch():
    vectors = np.ones((5, 3), "float32")
    np.testing.assert_allclose(to_numpy(contrastive_loss(vectors, vectors, 7.0)), np.log(5), 1e-5)
    with pytest.raises(ValueError, match="text_vectors must have the shape of image_vectors"):
        contrastive_loss(vectors, vectors[:4], 1.0)


def test_recall_counts_ties_against_the_model():
    scores = np.array([[3, 2, 1], [3, 2, 1], [5, 5, 5]])
    assert recall_at(scores, 1).tolist() == [True, False, False]
    assert recall_at(scores, 2).tolist() == [True, True, False]
    assert recall_at(scores, 3).all()


def dual_encoder(rng):
    images = ImageEncoder(8, 4, 1, 16, 2)
    return DualEncoder(images, Encoder(1, 16, 2, 32, 12, 6, dropout=0.0), width=8)


def test_padding_does_not_change_the_vector_of_a_text(rng):
    model = randomize(dual_encoder(rng), rng)
    short, long = np.array([[5, 6]]), np.array([[5, 6, 0, 0]])
    assert_close(model.encode_texts(short), model.encode_texts(long), 1e-5)
    inputs = {"images": pictures(rng, 1), "token_ids": short}
    twin = DualEncoder.from_config(model.get_config())
    twin.set_weights(model.get_weights())
    assert_close(twin(inputs), model(inputs), 1e-6)
    np.testing.assert_allclose(np.linalg.norm(to_numpy(model(inputs)[0])), 1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_images_and_texts_of_a_batch_find_each_other_after_training(rng):
    model = dual_encoder(rng)
    inputs = {"images": pictures(rng, 8), "token_ids": np.arange(2, 10)[:, None] + [[0, 1]]}
    model.compile(keras.optimizers.Adam(5e-3), jit_compile=False)
    history = model.fit(inputs, epochs=40, batch_size=8, verbose=0).history["loss"]
    assert history[0] > 1.5 and history[-1] < 0.5
    image_vectors, text_vectors = map(to_numpy, model(inputs))
    assert recall_at(image_vectors @ text_vectors.T, 1).mean() > 0.8
