"""Train a GPT that sees, on emoji or own images: contrast, then captions and questions.

`train_vision` is what `tfgpt train-vision` runs. The scores stand in `vision_scores`.
"""

import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from tfgpt.gpt import GPT
from tfgpt.run_folder import set_aside
from tfgpt.schedules import make_muon
from tfgpt.tasks.recipe import train_task
from tfgpt.tasks.vision_batches import (
    caption_batches,
    held_out_batches,
    question_batches,
)
from tfgpt.tasks.vision_classes import score_classes
from tfgpt.tasks.vision_scores import score_retrieval, score_vision, write_report
from tfgpt.tokenizers import BPETokenizer
from tfgpt.training import set_seed
from tfgpt.transformer import Encoder
from tfgpt.validation import check_choice, check_positive
from tfgpt.vision.contrastive import DualEncoder
from tfgpt.vision.emoji import SIDE, load_emoji, split_pictures
from tfgpt.vision.encoder import ImageEncoder
from tfgpt.vision.folders import load_pictures
from tfgpt.vision.questions import CAPTION_PROMPTS, QUESTIONS, questions_about
from tfgpt.vision.vision_gpt import WAYS, VisionGPT
from tfgpt.vision.vision_model import VisionModel

CONTRAST = "contrast.weights.h5"  # in the folder of a run
LOWER_RATES = (0.01, 0.002)  # of `make_muon`, for a model that is trained already


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
        cnn_steps: int >= 0, steps of a small CNN that the encoder is compared with; 0: none.
    """

    contrast_steps: int = 400
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
    dropout: float = 0.15
    way: str = "prefix"
    cnn_steps: int = 600


def train_vision(run_dir="runs/vision", settings=None, seed=0, data=None, base=None, resume=False):
    """Train encoder and GPT, write the bundle `run_dir`/model, and score it.

    Args:
        run_dir: folder to write to; an earlier run there is kept beside it.
        settings: VisionSettings; None: the default sizes.
        seed: int >= 0, of weights and batches.
        data: path of a table of images with captions, see `tfgpt.vision.load_image_table`;
            None: the bundled emoji.
        base: folder of a trained model, or "emoji", to go on with: its sizes are kept, the
            rates are lower, there is no contrast, and each picture gets several questions.
            None: a new model.
        resume: bool, go on with the run in run_dir, which had the same settings and data.

    Returns:
        VisionModel, and the dict of scores that was written to scores.txt.

    Raises:
        ValueError: if an argument is outside its range, or there are too few images.
    """
    settings = settings or VisionSettings()
    check_positive("steps", settings.steps)
    check_choice("way", settings.way, WAYS)
    folder = Path(run_dir)
    training, validation, test = read_parts(data, settings.batch_size)
    if not resume:
        set_aside(folder)
    if base is None:
        tokenizer, dual, retrieval = contrast(training, test, settings, seed, folder, resume)
        start, rates = partial(make_vision_gpt, settings, tokenizer, dual.image_encoder), ()
    else:
        earlier, retrieval = VisionModel.load(base), {}
        settings, tokenizer = sizes_of(earlier.model, settings), earlier.tokenizer
        start, rates = partial(getattr, earlier, "model"), LOWER_RATES
    facts = {"settings": asdict(settings), "data": str(data or "emoji"), "base": str(base or "")}
    model, history = train_task(
        start,
        folder,
        settings.steps,
        lambda: question_batches(training, tokenizer, settings, seed, several=base is not None),
        seed=seed,
        resume=resume,
        facts=facts,
        title="captions and questions",
        rates=rates,
        validation_data=held_out_batches(validation, tokenizer, settings) or None,
        validate_every=250,
    )
    vision_model = VisionModel(model, tokenizer)
    vision_model.save(folder / "model", "float16", vision=facts)
    # What is measured is what was written: weights rounded to float16.
    vision_model = VisionModel.load(folder / "model")
    scores = score_vision(vision_model, training, test)
    classes = {}
    if data is None:
        encoder = vision_model.model.encoder
        classes = score_classes(encoder, training, test, settings.cnn_steps, seed)
    write_report(folder, scores, retrieval, classes)
    return vision_model, {"questions": scores, "retrieval": retrieval, "classes": classes}


def read_parts(data, batch_size):
    """Read the pictures and divide them: training, validation and test."""
    pictures = load_emoji() if data is None else load_pictures(data, SIDE)
    training, validation, test = split_pictures(pictures)
    if len(training) < batch_size:
        raise ValueError(
            f"data must have at least batch_size={batch_size} images to learn from, got "
            f"{len(training)}."
        )
    print(
        f"{len(training):,} pictures to learn from, {len(validation)} for validation, {len(test)} "
        "for the test, no family in two parts."
    )
    return training, validation, test


def contrast(training, test, settings, seed, folder, resume):
    """Make a tokenizer, train with contrast and score that: (tokenizer, DualEncoder, scores)."""
    tokenizer = make_tokenizer(training, settings.vocab_size)
    dual = train_contrast(training, tokenizer, settings, seed, folder / CONTRAST, resume)
    return tokenizer, dual, score_retrieval(dual, tokenizer, training, test)


def sizes_of(model, settings):
    """Return settings with the sizes of a VisionGPT."""
    encoder, gpt = model.encoder, model.gpt
    return replace(
        settings,
        contrast_steps=0,
        vocab_size=gpt.vocab_size,
        context_length=gpt.context_length,
        stem=encoder.stem,
        patch_size=encoder.patch_size,
        encoder_layers=encoder.num_layers,
        num_layers=gpt.num_layers,
        d_model=gpt.d_model,
        num_heads=gpt.num_heads,
        dropout=gpt.dropout,
        way=model.way,
    )


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


def train_contrast(pictures, tokenizer, settings, seed=0, file=None, resume=False):
    """Train an image encoder and a text encoder to find each other.

    Args:
        pictures: Pictures.
        tokenizer: BPETokenizer.
        settings: VisionSettings.
        seed: int >= 0.
        file: Path of the trained weights to write, or None.
        resume: bool, read that file in place of training, if it is there.

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
    if resume and file.exists():
        dual.load_weights(file)
        return dual
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
    options = {"steps_per_epoch": settings.contrast_steps, "shuffle": False, "verbose": 0}
    rows = dual.fit(batches, **options).history
    print(
        f"Contrast: {settings.contrast_steps:,} steps in {time.perf_counter() - started:.0f} s, "
        f"loss {rows['loss'][-1]:.2f} nats (ln {settings.batch_size} = "
        f"{np.log(settings.batch_size):.2f})."
    )
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        dual.save_weights(file)
    return dual
