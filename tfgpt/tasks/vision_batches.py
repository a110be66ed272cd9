"""Batches for a GPT that sees: changed pictures with captions, questions and answers.

Shape letters: B batch, N images of a text, H and W pixels, T length.
"""

import numpy as np

from tfgpt.data.pairs import pad_rows
from tfgpt.vision.emoji import LANGUAGES, SIDE
from tfgpt.vision.questions import Question, answer_to, larger_answer, questions_about

TEXT_LENGTH = 24  # tokens of a caption with tags
SHIFT = 4  # pixels that a picture is moved by at most
CAPTION_SHARE = 0.5  # of the rows with their own colours; the others ask for group and face
RECOLOURED_SHARE = 0.25  # of all rows
ENGLISH_SHARE = 0.4  # of the captions; the other languages share the rest
PAIRS_EVERY = 6  # one batch of so many compares two pictures


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


def question_batches(pictures, tokenizer, settings, seed):
    """Yield batches of questions about changed pictures, for ever; see `encode_rows`."""
    rng = np.random.default_rng(seed)
    number = 0
    while True:
        number += 1
        draw = draw_comparison if number % PAIRS_EVERY == 0 else draw_questions
        rows = [draw(pictures, rng) for _ in range(settings.batch_size)]
        yield encode_rows(rows, tokenizer, settings)


def draw_questions(pictures, rng):
    """Draw questions about one changed picture: (list of Question, images (1, H, W, 3)).

    Colour and pixels are always asked. No row has a caption and a group: the second would be
    learned from the first, not from the picture.
    """
    place, recolours = int(rng.integers(len(pictures))), rng.random() < RECOLOURED_SHARE
    image = moved(pictures.images[place], rng, recolours)
    kinds = ["colour", "pixels"]
    if not recolours:
        has_caption = rng.random() < CAPTION_SHARE
        kinds += [draw_language(rng)] if has_caption else ["group", "face"]
    answers = {kind: answer_to(kind, pictures, place, image) for kind in rng.permutation(kinds)}
    questions = [Question(kind, (place,), text) for kind, text in answers.items() if text]
    return questions, image[None]


def draw_language(rng):
    """Draw the language of a caption."""
    return "en" if rng.random() < ENGLISH_SHARE else str(rng.choice(LANGUAGES[1:]))


def draw_comparison(pictures, rng):
    """Draw two pictures that differ in size: ([Question], images (2, H, W, 3))."""
    answer = None
    while answer is None:
        places = tuple(rng.integers(len(pictures), size=2).tolist())
        images = [moved(pictures.images[place], rng, recolours=True) for place in places]
        answer = larger_answer(*images)
    return [Question("larger", places, answer)], np.stack(images)


def moved(image, rng, recolours=False):
    """Move a picture on white, mirror it at random, and change its strength or its colours."""
    down, right = rng.integers(2 * SHIFT + 1, size=2)
    padded = np.pad(image, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), constant_values=1.0)
    image = padded[down : down + SIDE, right : right + SIDE]
    if rng.random() < 0.5:
        image = image[:, ::-1]
    if recolours:
        image = image[..., rng.permutation(3)]
    if rng.random() < 0.5:
        image = 1 - (1 - image) * rng.uniform(0.8, 1.2)
    return np.clip(image, 0, 1).astype("float32")


def encode_rows(rows, tokenizer, settings):
    """Write pictures with questions and answers as a batch for `train`.

    Args:
        rows: list of B (list of Question, images (N, H, W, 3)); the questions of a row stand
            one behind the other, and those that do not fit are left out.
        tokenizer: BPETokenizer.
        settings: VisionSettings.

    Returns:
        inputs: dict of token_ids, int32 (B, T), and images, float32 (B, N, H, W, 3).
        targets: int32 (B, T), the next tokens of answers; padding elsewhere.
    """
    length = settings.context_length
    token_ids = np.full((len(rows), length), tokenizer.pad_id, dtype="int32")
    targets = np.full_like(token_ids, tokenizer.pad_id)
    for row, (questions, images) in enumerate(rows):
        whole = [tokenizer.start_id] * image_token_count(settings) * len(images)
        learned = [False] * len(whole)
        for question in questions:
            prompt, answer = map(tokenizer.encode, (question.text, question.answer))
            turn = [*prompt, *answer, tokenizer.end_id]
            if len(whole) + len(turn) <= length + 1:
                whole += turn
                learned += [False] * len(prompt) + [True] * (len(answer) + 1)
        token_ids[row, : len(whole) - 1] = whole[:-1]
        shifted = np.where(learned[1:], whole[1:], tokenizer.pad_id)
        targets[row, : len(whole) - 1] = shifted
    images = np.stack([images for _, images in rows])
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
    rows = [([question], pictures.images[list(question.places)]) for question in questions]
    size = settings.batch_size
    return [
        encode_rows(rows[start : start + size], tokenizer, settings)
        for start in range(0, len(rows) - size + 1, size)
    ]
