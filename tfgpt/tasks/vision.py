"""Train a GPT that sees on the bundled emoji: contrast first, then captions and questions.

`train_vision` is what `tfgpt train-vision` runs. The scores stand in `vision_scores`.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np

from tfgpt.data.pairs import pad_rows
from tfgpt.gpt import GPT
from tfgpt.schedules import make_muon
from tfgpt.tasks.recipe import train_task
from tfgpt.tasks.vision_scores import score_retrieval, score_vision, write_report
from tfgpt.tokenizers import BPETokenizer
from tfgpt.training import set_seed
from tfgpt.transformer import Encoder
from tfgpt.validation import check_choice, check_positive
from tfgpt.vision.contrastive import DualEncoder
from tfgpt.vision.emoji import LANGUAGES, load_emoji, split_pictures
from tfgpt.vision.encoder import ImageEncoder
from tfgpt.vision.questions import (
    CAPTION_PROMPTS,
    QUESTIONS,
    Question,
    answer_to,
    larger_answer,
    questions_about,
)
from tfgpt.vision.vision_gpt import WAYS, VisionGPT
from tfgpt.vision.vision_model import VisionModel

SIDE = 32  # of the pictures, in pixels
TEXT_LENGTH = 24  # tokens of a caption with tags
SHIFT = 4  # pixels that a picture is moved by at most
# How often a kind is asked, of all questions about one picture.
SHARES = {"group": 0.2, "colour": 0.2, "pixels": 0.12, "face": 0.08, "en": 0.16}
SHARES |= dict.fromkeys(("zh", "de", "fr", "es"), 0.06)
PAIRS_EVERY = 6  # one batch of so many compares two pictures
RECOLOURED = ("colour", "pixels", "larger")  # their answers are computed from the new colours


@dataclass(frozen=True)
class VisionSettings:
    """Sizes of the model and lengths of its two trainings, for minutes on two CPU cores.

    Args:
        contrast_steps: int >= 0, steps of images against captions, which train the encoder.
        steps: int >= 1, steps of captions and questions.
        batch_size: int >= 2, B.
        vocab_size: int >= 259, byte pairs and special tokens.
        context_length: int, tokens of images, question and answer.
        stem: tuple of ints, filters of the convolutions.
        patch_size: int, of what the stem leaves.
        encoder_layers: int.
        num_layers: int, of the GPT.
        d_model: int, of encoder and GPT.
        num_heads: int, of both.
        dropout: float in [0, 1).
        way: "prefix" or "cross".
    """

    contrast_steps: int = 500
    steps: int = 1500
    batch_size: int = 64
    vocab_size: int = 1500
    context_length: int = 64
    stem: tuple = (48, 96, 128)
    patch_size: int = 1
    encoder_layers: int = 3
    num_layers: int = 3
    d_model: int = 128
    num_heads: int = 4
    dropout: float = 0.1
    way: str = "prefix"


def train_vision(run_dir="runs/vision", settings=None, seed=0):
    """Train encoder and GPT, write the bundle `run_dir`/model, and score it.

    Args:
        run_dir: folder to write to; an earlier run there is kept beside it.
        settings: VisionSettings; None: the default sizes.
        seed: int >= 0, of weights, batches and the division into parts.

    Returns:
        VisionModel, and the dict of scores that was written to scores.txt.

    Raises:
        ValueError: if an argument is outside its range.
    """
    settings = settings or VisionSettings()
    check_positive("steps", settings.steps)
    check_choice("way", settings.way, WAYS)
    folder = Path(run_dir)
    training, validation, test = split_pictures(load_emoji())
    tokenizer = make_tokenizer(training, settings.vocab_size)
    print(
        f"{len(training):,} pictures to learn from, {len(validation)} for validation, {len(test)} "
        f"for the test, no family in two parts; {tokenizer.vocab_size:,} tokens."
    )
    dual = train_contrast(training, tokenizer, settings, seed)
    retrieval = score_retrieval(dual, tokenizer, training, test)
    model, history = train_task(
        lambda: make_vision_gpt(settings, tokenizer, dual.image_encoder),
        folder,
        settings.steps,
        lambda: question_batches(training, tokenizer, settings, seed),
        seed=seed,
        resume=False,
        facts={"settings": asdict(settings)},
        title="captions and questions",
        validation_data=held_out_batches(validation, tokenizer, settings),
        validate_every=250,
    )
    vision_model = VisionModel(model, tokenizer)
    facts = {"settings": asdict(settings), "seconds": round(history[-1]["seconds"])}
    vision_model.save(folder / "model", "float16", vision=facts)
    # What is measured is what was written: weights rounded to float16.
    vision_model = VisionModel.load(folder / "model")
    scores = {**score_vision(vision_model, training, test), "retrieval": retrieval}
    write_report(folder, scores)
    return vision_model, scores


def make_tokenizer(pictures, vocab_size):
    """Learn byte pairs from the captions, questions and answers of training."""
    texts = [f" {text}" for column in pictures.captions.values() for text in column]
    texts += [f" {text} " for text in (QUESTIONS | CAPTION_PROMPTS).values() for _ in range(50)]
    for kind in QUESTIONS:
        texts += [f" {question.answer}" for question in questions_about(pictures, kind)]
    return BPETokenizer.train(texts, vocab_size)


def make_encoder(settings):
    """Make the untrained image encoder of these settings."""
    return ImageEncoder(
        SIDE,
        settings.patch_size,
        settings.encoder_layers,
        settings.d_model,
        settings.num_heads,
        dropout=settings.dropout,
        positions="sinusoidal",
        stem=settings.stem,
    )


def make_vision_gpt(settings, tokenizer, encoder=None):
    """Make the untrained GPT of these settings around an encoder, by default a new one."""
    gpt = GPT(
        tokenizer.vocab_size,
        settings.context_length,
        settings.num_layers,
        settings.d_model,
        settings.num_heads,
        dropout=settings.dropout,
        positions="rotary",
        pad_id=tokenizer.pad_id,
    )
    return VisionGPT(encoder or make_encoder(settings), gpt, tokenizer.start_id, settings.way)


# Contrast


def train_contrast(pictures, tokenizer, settings, seed=0):
    """Train an image encoder and a text encoder to find each other.

    Args:
        pictures: Pictures.
        tokenizer: BPETokenizer.
        settings: VisionSettings.
        seed: int >= 0.

    Returns:
        DualEncoder.
    """
    import tensorflow as tf

    set_seed(seed)
    texts = Encoder(
        2,
        settings.d_model,
        settings.num_heads,
        4 * settings.d_model,
        tokenizer.vocab_size,
        max_length=settings.context_length,
        dropout=settings.dropout,
        norm_first=True,
        activation="gelu",
    )
    dual = DualEncoder(make_encoder(settings), texts, settings.d_model, tokenizer.pad_id)
    if not settings.contrast_steps:
        return dual
    dual.compile(make_muon(settings.contrast_steps, 0.02, 0.004), jit_compile=False)
    signature = {
        "images": tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32),
        "token_ids": tf.TensorSpec((None, None), tf.int32),
    }
    batches = tf.data.Dataset.from_generator(
        lambda: caption_batches(pictures, tokenizer, settings, seed), output_signature=signature
    ).prefetch(2)
    started = time.perf_counter()
    rows = dual.fit(batches, steps_per_epoch=settings.contrast_steps, verbose=0).history
    print(
        f"Contrast: {settings.contrast_steps:,} steps in {time.perf_counter() - started:.0f} s, "
        f"loss {rows['loss'][-1]:.2f} nats (ln {settings.batch_size} = "
        f"{np.log(settings.batch_size):.2f})."
    )
    return dual


def caption_batches(pictures, tokenizer, settings, seed):
    """Yield images with an English caption each, half of them with a tag; for ever."""
    rng = np.random.default_rng(seed)
    while True:
        places = rng.choice(len(pictures), settings.batch_size, replace=False)
        texts = [caption_or_tags(pictures, place, rng) for place in places]
        images = [moved(pictures.images[place], rng) for place in places]
        yield {"images": np.stack(images), "token_ids": encode_texts(tokenizer, texts)}


def caption_or_tags(pictures, place, rng):
    """Draw what is said about a picture: its caption, alone or with two tags."""
    caption, tags = pictures.captions["en"][place], pictures.tags[place]
    if rng.random() < 0.5:
        return caption
    return " ".join([caption, *rng.permutation(tags)[:2]])


def encode_texts(tokenizer, texts):
    """Encode texts of one batch, cut and padded to one length: int32 (B, T)."""
    rows = [tokenizer.encode(f" {text}")[:TEXT_LENGTH] for text in texts]
    return pad_rows(rows, len(rows), TEXT_LENGTH)


# Captions and questions


def question_batches(pictures, tokenizer, settings, seed):
    """Yield batches of questions about changed pictures, for ever; see `encode_questions`."""
    rng = np.random.default_rng(seed)
    number = 0
    while True:
        number += 1
        compares = number % PAIRS_EVERY == 0
        draw = draw_comparison if compares else draw_question
        drawn = [draw(pictures, rng) for _ in range(settings.batch_size)]
        yield encode_questions(drawn, tokenizer, settings)


def draw_question(pictures, rng):
    """Draw a question that the picture has an answer to: (Question, images (1, H, W, 3))."""
    answer = None
    while answer is None:
        kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        place = int(rng.integers(len(pictures)))
        image = moved(pictures.images[place], rng, kind in RECOLOURED)
        answer = answer_to(kind, pictures, place, image)
    return Question(kind, (place,), answer), image[None]


def draw_comparison(pictures, rng):
    """Draw two pictures that differ in size: (Question, images (2, H, W, 3))."""
    answer = None
    while answer is None:
        places = tuple(rng.integers(len(pictures), size=2).tolist())
        images = [moved(pictures.images[place], rng, recolours=True) for place in places]
        answer = larger_answer(*images)
    return Question("larger", places, answer), np.stack(images)


def moved(image, rng, recolours=False):
    """Move a picture on white, mirror it at random, and change its strength or its colours."""
    down, right = rng.integers(2 * SHIFT + 1, size=2)
    padded = np.pad(image, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), constant_values=1.0)
    image = padded[down : down + SIDE, right : right + SIDE]
    if rng.random() < 0.5:
        image = image[:, ::-1]
    if recolours and rng.random() < 0.5:
        image = image[..., rng.permutation(3)]
    if rng.random() < 0.5:
        image = 1 - (1 - image) * rng.uniform(0.8, 1.2)
    return np.clip(image, 0, 1).astype("float32")


def encode_questions(drawn, tokenizer, settings):
    """Write questions with their answers as a batch for `train`.

    Args:
        drawn: list of B (Question, images (N, H, W, 3)).
        tokenizer: BPETokenizer.
        settings: VisionSettings.

    Returns:
        inputs: dict of token_ids, int32 (B, T), and images, float32 (B, N, H, W, 3).
        targets: int32 (B, T), the next tokens of answers; padding elsewhere.
    """
    count = image_token_count(settings)
    token_ids = np.full((len(drawn), settings.context_length), tokenizer.pad_id, dtype="int32")
    targets = np.full_like(token_ids, tokenizer.pad_id)
    for row, (question, images) in enumerate(drawn):
        start = [tokenizer.start_id] * count * len(images)
        prompt = np.concatenate([start, tokenizer.encode(question.text)]).astype("int32")
        answer = np.append(tokenizer.encode(question.answer), tokenizer.end_id)
        whole = np.concatenate([prompt, answer])[: settings.context_length + 1]
        token_ids[row, : len(whole) - 1] = whole[:-1]
        targets[row, len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
    images = np.stack([images for _, images in drawn])
    return {"token_ids": token_ids, "images": images}, targets


def image_token_count(settings):
    """Return how many tokens an image takes."""
    side = SIDE // 2 ** len(settings.stem) // settings.patch_size
    return side**2 if settings.way == "prefix" else 1


def held_out_batches(pictures, tokenizer, settings):
    """List batches of all questions about pictures as they are."""
    questions = [
        question
        for kind in ("group", "colour", "pixels", "face", *LANGUAGES)
        for question in questions_about(pictures, kind)
    ]
    drawn = [(question, pictures.images[list(question.places)]) for question in questions]
    size = settings.batch_size
    return [
        encode_questions(drawn[start : start + size], tokenizer, settings)
        for start in range(0, len(drawn) - size + 1, size)
    ]


def small_cnn(num_classes, num_weights):
    """Make a convolutional classifier with about as many weights as an encoder."""
    width = max(int((num_weights / 11.5) ** 0.5) // 4, 4)
    x = inputs = keras.Input((SIDE, SIDE, 3))
    for filters in (width, 2 * width, 4 * width):
        for _ in range(2):
            x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = keras.layers.BatchNormalization()(x)
            x = keras.layers.ReLU()(x)
        x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x))
