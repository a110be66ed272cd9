"""Captions and answers: prompts with images, bundles, questions, scores, and where it looks."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.layer_check import randomize
from tfgpt import GPT, BPETokenizer, cli, make_train_step
from tfgpt.data import DATA_FOLDER
from tfgpt.plotting import plot_deletion, plot_patch_weights
from tfgpt.schedules import make_optimizer
from tfgpt.tasks import vision, vision_batches, vision_classes, vision_scores
from tfgpt.vision import (
    QUESTIONS,
    ImageEncoder,
    VisionGPT,
    VisionModel,
    colour_lead,
    deletion_curve,
    load_emoji,
    look,
    main_colour,
    questions_about,
    split_pictures,
)
from tfgpt.vision.looking import without_patches
from tfgpt.vision.questions import CAPTION_PROMPTS

SMALL = vision.VisionSettings(
    stem=(),
    patch_size=8,
    encoder_layers=1,
    num_layers=1,
    d_model=16,
    num_heads=2,
    vocab_size=300,
    context_length=160,
)


@pytest.fixture(scope="module")
def parts():
    return split_pictures(load_emoji())


@pytest.fixture(scope="module")
def tokenizer(parts):
    return vision.make_tokenizer(parts[0], SMALL.vocab_size)


def small_model(tokenizer, rng, way="prefix"):
    encoder = ImageEncoder(8, patch_size=4, num_layers=1, d_model=8, num_heads=2)
    gpt = GPT(300, 48, 1, 16, 2, positions="rotary", pad_id=0)
    return VisionModel(randomize(VisionGPT(encoder, gpt, 1, way), rng, 0.3), tokenizer)


# Prompts


def test_a_prompt_mixes_texts_and_images_in_any_order(tokenizer, rng):
    model = small_model(tokenizer, rng)
    image = rng.integers(0, 256, (20, 30, 3), dtype="uint8")
    token_ids, images = model.encode(["What is it?", image, " or ", image, " ?"])
    assert (token_ids == 1).sum() == 8 and len(images) == 2
    words = [*tokenizer.encode("What is it?"), *tokenizer.encode(" or "), *tokenizer.encode(" ?")]
    assert token_ids[token_ids != 1].tolist() == words
    assert images[0].shape == (8, 8, 3) and images[0].max() <= 1


def test_wrong_prompts_are_named(tokenizer, rng):
    model = small_model(tokenizer, rng)
    with pytest.raises(TypeError, match="prompt must be a list of texts and images, got 'text'"):
        model.generate("text")
    with pytest.raises(ValueError, match="prompt must have at least one token or image, got none"):
        model.generate([])
    with pytest.raises(FileNotFoundError, match="image must be a file that exists"):
        model.caption("missing.png")
    with pytest.raises(ValueError, match="language must be one of 'en', .*, got 'xx'"):
        model.caption(np.ones((8, 8, 3)), "xx")
    other = BPETokenizer.train("a b", vocab_size=259)
    with pytest.raises(ValueError, match="tokenizer must have vocab_size=300 .* got 259 and 0"):
        VisionModel(model.model, other)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["prefix", "cross"])
def test_a_bundle_writes_the_same_text_and_a_stream_its_pieces(way, tokenizer, rng, tmp_path):
    model = small_model(tokenizer, rng, way)
    prompt = [np.full((8, 8, 3), 0.5, "float32"), " What is it? "]
    text = model.generate(prompt, 6)
    assert "".join(model.stream(prompt, 6)) == text
    model.save(tmp_path, note="untrained")
    loaded = VisionModel.load(tmp_path)
    assert loaded.generate(prompt, 6) == text
    assert json.loads((tmp_path / "config.json").read_text())["note"] == "untrained"


def test_damaged_and_foreign_bundles_are_refused(tokenizer, rng, tmp_path):
    model = small_model(tokenizer, rng)
    model.save(tmp_path, "float16")
    loaded = VisionModel.load(tmp_path)
    for one, other in zip(loaded.model.weights, model.model.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)
    path = tmp_path / "config.json"
    whole = json.loads(path.read_text())

    def spoil(change):
        content = json.loads(json.dumps(whole))
        change(content)
        path.write_text(json.dumps(content))

    for change in (
        lambda content: content.update(class_name="GPT"),
        lambda content: content["config"].pop("encoder"),
        lambda content: content["config"]["gpt"]["config"].update(d_model=10**7),
        lambda content: content["config"].update(way="sideways"),
    ):
        spoil(change)
        with pytest.raises(ValueError, match="folder must hold the config"):
            VisionModel.load(tmp_path)
    spoil(lambda content: content["config"]["gpt"]["config"].update(num_layers=2))
    with pytest.raises(ValueError, match="weights must fit the model"):
        VisionModel.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="without weights.safetensors"):
        VisionModel.load(tmp_path / "nothing")


# Questions


def test_answers_are_computed_from_the_pixels():
    image = np.ones((32, 32, 3))
    assert main_colour(image) == "white"
    for name, colour in (
        ("red", (0.9, 0.1, 0.1)),
        ("yellow", (1, 0.8, 0.2)),
        ("orange", (1, 0.5, 0.1)),
        ("brown", (0.5, 0.3, 0.1)),
        ("green", (0.2, 0.7, 0.3)),
        ("blue", (0.1, 0.4, 0.9)),
        ("purple", (0.6, 0.2, 0.8)),
        ("pink", (1, 0.4, 0.7)),
        ("grey", (0.6, 0.6, 0.6)),
        ("black", (0.1, 0.1, 0.12)),
    ):
        image[:10, :10] = colour
        assert main_colour(image) == name
    image[:, :20] = (0, 0, 1)
    assert main_colour(image) == "blue"


def test_a_colour_is_asked_for_only_where_it_leads():
    image = np.ones((32, 32, 3))
    image[:10, :10] = (0.9, 0.1, 0.1)
    assert colour_lead(image) == 1.0
    for width, lead in ((5, 1 / 3), (8, 1 / 9), (9, 1 / 19), (10, 0.0)):
        image[20:30, :width] = (0.1, 0.4, 0.9)
        assert colour_lead(image) == pytest.approx(lead)
        shown = replace(load_emoji().take([0]), images=image[None])
        assert len(questions_about(shown, "colour")) == (lead >= 0.1)


def test_every_picture_has_the_answers_that_it_can_have(parts):
    test = parts[2]
    for kind in ("group", "pixels", "zh"):
        assert len(questions_about(test, kind)) == len(test)
    assert len(test) / 2 < len(questions_about(test, "colour")) < len(test)
    faces = {question.answer for question in questions_about(test, "face")}
    assert faces == {"yes", "no"}
    larger = questions_about(test, "larger")
    assert {question.answer for question in larger} == {"the first", "the second"}
    assert all(len(question.places) == 2 for question in larger)


# Training


@pytest.mark.parametrize("way", ["prefix", "cross"])
def test_only_answers_are_learned(way, parts, tokenizer):
    settings = replace(SMALL, way=way)
    batches = vision_batches.question_batches(parts[0], tokenizer, settings, seed=0)
    model = vision.make_vision_gpt(settings, tokenizer)
    assert vision_batches.image_token_count(settings) == model.tokens_per_image
    for _, (inputs, targets) in zip(range(vision_batches.PAIRS_EVERY), batches, strict=False):
        model.check_ids(inputs)
        token_ids = inputs["token_ids"]
        shown = (token_ids == 1).sum(axis=1)
        assert (shown == inputs["images"].shape[1] * model.tokens_per_image).all()
        assert inputs["images"].min() >= 0 and inputs["images"].max() <= 1
        for row, wanted in zip(token_ids, targets, strict=True):
            (places,) = wanted.nonzero()
            assert wanted[places[-1]] == tokenizer.end_id  # the answer ends
            np.testing.assert_array_equal(row[places[1:]], wanted[places[:-1]])
            question = tokenizer.decode(row[: places[0] + 1])
            assert question.rstrip().endswith("?") and places[0] >= (row == 1).sum()
    assert inputs["images"].shape[1] == 2  # the last one compares two pictures


def test_several_questions_stand_one_behind_the_other(parts, tokenizer):
    batches = vision_batches.question_batches(parts[0], tokenizer, SMALL, seed=0, several=True)
    inputs, targets = next(batches)
    assert (targets == tokenizer.end_id).sum(axis=1).min() >= 1
    assert (targets == tokenizer.end_id).sum(axis=1).max() == 4
    for row, wanted in zip(inputs["token_ids"], targets, strict=True):
        text = tokenizer.decode(row)
        for question in QUESTIONS.values():
            assert text.count(question) <= 1
        has_caption = any(prompt in text for prompt in CAPTION_PROMPTS.values())
        assert not (has_caption and QUESTIONS["group"] in text)
        places = (wanted != tokenizer.pad_id).nonzero()[0]
        inside = places[np.isin(places + 1, places)]
        np.testing.assert_array_equal(row[inside + 1], wanted[inside])
    question = questions_about(parts[0], "colour")[0]
    shown = parts[0].images[list(question.places)]
    short = replace(SMALL, context_length=120)
    cut, _ = vision_batches.encode_questions([([question] * 9, shown)], tokenizer, short)
    once = 16 + len(tokenizer.encode(question.text)) + len(tokenizer.encode(question.answer)) + 1
    used = (cut["token_ids"] != tokenizer.pad_id).sum()
    assert (used + 1 - 16) % (once - 16) == 0  # whole questions only


def test_a_moved_or_turned_picture_keeps_its_answers_true(parts, rng):
    image = parts[0].images[0]
    for _ in range(20):
        changed = vision_batches.moved(vision_batches.turned(image, rng), rng, recolours=True)
        assert changed.shape == image.shape and changed.dtype == "float32"
        assert changed.min() >= 0 and changed.max() <= 1
        assert (changed != image).any()


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_a_small_model_learns_the_answers_to_a_batch(parts, tokenizer):
    settings = replace(SMALL, batch_size=4)
    model = vision.make_vision_gpt(settings, tokenizer)
    batch = next(vision_batches.question_batches(parts[0], tokenizer, settings, seed=0))
    step = make_train_step(model, make_optimizer("adamw", 1e-2), jit_compile=False)
    losses = [float(step(batch)["loss"]) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


# Scores


class Oracle:
    """Answer every question as its owner wants; count the calls."""

    def __init__(self, answer):
        self.answer = answer

    def generate_batch(self, prompts):
        return [self.answer(prompt) for prompt in prompts]


def test_scores_stand_beside_baselines(parts, tmp_path):
    training, _, test = parts
    test = test.take(range(40))
    truth = {}
    for kind in (*QUESTIONS, "en", "zh", "de", "fr", "es"):
        for question in questions_about(test, kind):
            key = (question.text, *(test.images[place].tobytes() for place in question.places))
            truth[key] = question.answer

    def answer(prompt):
        *images, text = prompt
        return truth.get((text, *(image.tobytes() for image in images)), "?")

    scores = vision_scores.score_vision(Oracle(answer), training, test)
    assert {measure.value for measure in scores["model"].values()} <= {1.0, 100.0}
    assert scores["model without image"]["group"].value == 0
    assert 0 < scores["most frequent"]["group"].value < scores["nearest picture"]["group"].value < 1
    assert scores["nearest picture"]["group"].low < scores["nearest picture"]["group"].value
    other = {"contrast": {"recall@1": scores["model"]["group"]}}
    vision_scores.write_report(tmp_path, scores, other, other)
    text = (tmp_path / "scores.txt").read_text()
    assert "nearest picture" in text and "zh chrF" in text and "recall@1" in text


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_an_encoder_is_compared_with_a_cnn_of_its_size(parts):
    training, _, test = (part.take(range(0, len(part), 8)) for part in parts)
    encoder = vision.make_encoder(SMALL)
    scores = vision_classes.score_classes(encoder, training, test, cnn_steps=1)
    assert len(scores) == 4
    assert all(0 <= cells["group"].value <= 1 for cells in scores.values())
    for size in (200_000, 1_000_000):
        assert 0.9 < vision_classes.small_cnn(10, size).count_params() / size < 1.1


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_own_images_are_learned_and_a_run_goes_on(tmp_path, capsys):
    rng, lines = np.random.default_rng(0), []
    for number in range(30):
        square = rng.integers(256, size=(1, 1, 3)).repeat(20, 0).repeat(20, 1)
        Image.fromarray(square.astype("uint8")).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png\tdrawing {'abcdefghijklmnopqrstuvwxyzABCD'[number]}")
    (tmp_path / "table.tsv").write_text("\n".join(lines))
    own = tmp_path / "table.tsv"
    settings = replace(SMALL, contrast_steps=2, steps=2, batch_size=8, vocab_size=259)
    run = tmp_path / "run"
    model, scores = vision.train_vision(run, settings, data=own)
    assert {"colour", "pixels", "en exact"} <= set(scores["questions"]["model"])
    assert not {"group", "face", "zh chrF"} & set(scores["questions"]["model"])
    assert "recall@5" in scores["retrieval"]["contrast"] and not scores["classes"]
    capsys.readouterr()
    again, same = vision.train_vision(run, settings, data=own, resume=True)
    printed = capsys.readouterr().out
    assert "Going on from step 2" in printed and "Contrast" not in printed
    assert same == scores
    for one, other in zip(model.model.weights, again.model.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    further, scores = vision.train_vision(
        tmp_path / "further", settings, data=own, base=run / "model"
    )
    assert further.tokenizer.vocab_size == 259 and not scores["retrieval"]
    changes = [
        np.abs(one - other).max()
        for one, other in zip(model.model.get_weights(), further.model.get_weights(), strict=True)
    ]
    assert 0 < max(changes) < 0.1
    with pytest.raises(ValueError, match="at least batch_size=64 images .* got 2"):
        vision.train_vision(tmp_path / "other", replace(settings, batch_size=64), data=own)


def test_the_nearest_picture_is_itself(parts):
    images = parts[2].images[:20]
    assert vision_scores.nearest_places(images, images).tolist() == list(range(20))


# Where it looks


@pytest.mark.parametrize("way", ["prefix", "cross"])
@pytest.mark.parametrize("method", ["attention", "rollout"])
def test_each_token_of_an_answer_looks_at_the_patches_of_each_image(way, method, tokenizer, rng):
    model = small_model(tokenizer, rng, way)
    images = list(rng.random((2, 8, 8, 3)))
    looks = look(model, ["a", *images, " What? "], "blue cat", method)
    assert looks.weights.shape == (len(tokenizer.encode("blue cat")), 2, 2, 2)
    np.testing.assert_allclose(looks.weights.sum(axis=(1, 2, 3)), 1, rtol=1e-5)
    assert looks.weights.min() > 0 and "".join(looks.words).replace("Ġ", " ").strip()
    figure = looks.plot("What?")
    assert len(figure.axes) == 2 * (1 + len(looks.words))


def test_a_prompt_without_image_cannot_be_looked_at(tokenizer, rng):
    model = small_model(tokenizer, rng)
    with pytest.raises(ValueError, match="prompt must have an image, got texts only"):
        look(model, ["a"], "b")
    with pytest.raises(ValueError, match="method must be one of 'attention', 'rollout'"):
        look(model, [np.ones((8, 8, 3))], "b", "gradient")


def test_deleting_patches_makes_them_white_and_moves_the_probability(tokenizer, rng):
    model = small_model(tokenizer, rng)
    image = rng.random((8, 8, 3)).astype("float32")
    cut = without_patches(image, [1, 2], 4)
    assert (cut[:4, 4:] == 1).all() and (cut[4:, :4] == 1).all()
    np.testing.assert_array_equal(cut[:4, :4], image[:4, :4])
    orders = ([0, 1, 2, 3], [3, 2, 1, 0])
    curves = [deletion_curve(model, image, "What?", "blue", order) for order in orders]
    assert curves[0].shape == (5,) and ((curves[0] > 0) & (curves[0] < 1)).all()
    np.testing.assert_allclose(curves[0][[0, -1]], curves[1][[0, -1]], rtol=1e-4)
    assert abs(curves[0][1] / curves[1][1] - 1) > 1e-4
    with pytest.raises(ValueError, match="order must hold 0 to 3 once each"):
        deletion_curve(model, image, "What?", "blue", [0, 1])


def test_figures_of_images_check_what_they_get(tmp_path):
    plot_deletion({"most looked at first": [1.0, 0.5]}, save=tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="curves must hold at least one curve"):
        plot_deletion({})
    images, weights = np.ones((1, 8, 8, 3)), np.ones((2, 1, 2, 2))
    with pytest.raises(ValueError, match="words must have one label per position, 2, got 1"):
        plot_patch_weights(images, weights, ["a"])
    with pytest.raises(ValueError, match=r"weights must have shape \(A, N, G, G\)"):
        plot_patch_weights(images, weights[0], ["a", "b"])
    with pytest.raises(ValueError, match="weights must not be negative or NaN"):
        plot_patch_weights(images, -weights, ["a", "b"])


# The command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["caption", "missing.png"], "image must be a file that exists"),
        (["caption", "missing.png", "--language", "xx"], "language must be one of 'en'"),
        (["caption", "{text}"], "image must be a PNG, JPEG or WebP file"),
        (["caption", "{picture}", "--model", "nothing"], "folder must hold config.json"),
        (["ask", "a.png", "b.png", "c.png", "What?"], "ask needs one or two images, got 3"),
        (["ask", "{picture}", " "], "question must be a text with words, got ' '"),
        (["train-vision", "--steps", "0"], "steps must be an integer >= 1, got 0"),
        (["train-vision", "--way", "up"], "way must be one of 'prefix', 'cross'"),
    ],
)
def test_a_wrong_command_gets_one_sentence(arguments, message, tmp_path, capsys):
    picture, text = tmp_path / "picture.png", tmp_path / "text.png"
    Image.new("RGB", (9, 9)).save(picture)
    text.write_text("no image")
    arguments = [argument.format(picture=picture, text=text) for argument in arguments]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


@pytest.mark.slow
def test_the_bundled_model_answers_about_a_picture_that_it_never_saw(tmp_path, capsys):
    picture = Image.new("RGB", (120, 80), "white")
    ImageDraw.Draw(picture).ellipse((30, 10, 90, 70), fill=(210, 30, 40))
    picture.save(tmp_path / "ball.jpg")
    figure = tmp_path / "attention.png"
    page = tmp_path / "attention.html"
    question = "What is the main colour?"
    for path in (figure, page):
        command = ["ask", str(tmp_path / "ball.jpg"), question, "--attention", str(path)]
        assert cli.main(command) == 0
        assert capsys.readouterr().out.startswith("red\n")
    assert figure.stat().st_size > 1000
    content = page.read_text()
    assert content.startswith("<!doctype html>") and f'"title":"{question}"' in content
    assert cli.main(["caption", str(tmp_path / "ball.jpg"), "--language", "zh"]) == 0
    assert capsys.readouterr().out.strip()


def test_the_bundled_model_is_small():
    folder = DATA_FOLDER / "checkpoints" / "emoji"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6e6
