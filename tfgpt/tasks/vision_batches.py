"""Batches for a GPT that sees: changed pictures with captions, questions and answers.

Shape letters: B batch, N images of a text, H and W pixels, T length.
"""

import numpy as np

from tfgpt.data.pairs import pad_rows
from tfgpt.vision.emoji import LANGUAGES, SIDE
from tfgpt.vision.questions import Question, answer_to, larger_answer, questions_about

TEXT_LENGTH = 24  # tokens of a caption with tags
SHIFT = 4  # pixels that a picture is moved by at most
MOST_TURN = 0.35  # radians
# How often a kind is asked, of all questions about one picture.
SHARES = {"group": 0.2, "colour": 0.2, "pixels": 0.12, "face": 0.08, "en": 0.16}
SHARES |= dict.fromkeys(("zh", "de", "fr", "es"), 0.06)
# Of pictures with several questions: how many have other colours, how many a caption.
RECOLOURED_SHARE, CAPTION_SHARE, ENGLISH_SHARE = 0.25, 0.5, 0.4
PAIRS_EVERY = 6  # one batch of so many compares two pictures
RECOLOURED = ("colour", "pixels", "larger")  # their answers are computed from the new colours


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


def question_batches(pictures, tokenizer, settings, seed, several=False):
    """Yield batches of questions about changed pictures, for ever; see `encode_questions`.

    Args:
        pictures: Pictures.
        tokenizer: BPETokenizer.
        settings: VisionSettings.
        seed: int >= 0.
        several: bool, ask several questions about each picture, one behind the other, and
            turn half of the pictures a little.
    """
    rng = np.random.default_rng(seed)
    number = 0
    while True:
        number += 1
        draw = draw_questions if several else draw_question
        draw = draw_comparison if number % PAIRS_EVERY == 0 else draw
        drawn = [draw(pictures, rng) for _ in range(settings.batch_size)]
        yield encode_questions(drawn, tokenizer, settings)


def draw_question(pictures, rng):
    """Draw a question that the picture has an answer to: ([Question], images (1, H, W, 3))."""
    answer = None
    while answer is None:
        kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        place = int(rng.integers(len(pictures)))
        image = moved(pictures.images[place], rng, kind in RECOLOURED and rng.random() < 0.5)
        answer = answer_to(kind, pictures, place, image)
    return [Question(kind, (place,), answer)], image[None]


def draw_questions(pictures, rng):
    """Draw questions about one changed picture: (list of Question, images (1, H, W, 3)).

    Colour and pixels are always asked. No picture has a caption and a group: the second would
    be learned from the first, not from the picture.
    """
    questions = []
    while not questions:
        place, recolours = int(rng.integers(len(pictures))), rng.random() < RECOLOURED_SHARE
        image = turned(pictures.images[place], rng) if rng.random() < 0.5 else None
        image = moved(pictures.images[place] if image is None else image, rng, recolours)
        kinds = ["colour", "pixels"]
        if not recolours:
            kinds += [draw_language(rng)] if rng.random() < CAPTION_SHARE else ["group", "face"]
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
        images = [moved(pictures.images[place], rng, rng.random() < 0.5) for place in places]
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


def turned(image, rng):
    """Turn a picture by up to 20 degrees, on white, and stretch it by up to a half."""
    from PIL import Image

    angle = rng.uniform(-MOST_TURN, MOST_TURN)
    zooms = np.exp(rng.uniform(-0.25, 0.25) + rng.uniform(-0.15, 0.15, size=2))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turn /= zooms[:, None]  # from a place in the new picture to one in the old picture
    shift = SIDE / 2 - turn @ [SIDE / 2, SIDE / 2]  # the middle stays
    picture = Image.fromarray((image * 255).round().astype("uint8")).transform(
        (SIDE, SIDE),
        Image.Transform.AFFINE,
        (*turn[0], shift[0], *turn[1], shift[1]),
        Image.Resampling.BILINEAR,
        fillcolor=(255, 255, 255),
    )
    return np.asarray(picture, dtype="float32") / 255


def encode_questions(drawn, tokenizer, settings):
    """Write questions with their answers as a batch for `train`.

    Args:
        drawn: list of B (list of Question, images (N, H, W, 3)); the questions of a picture
            stand one behind the other, and those that do not fit are left out or, if it is
            the only one, cut.
        tokenizer: BPETokenizer.
        settings: VisionSettings.

    Returns:
        inputs: dict of token_ids, int32 (B, T), and images, float32 (B, N, H, W, 3).
        targets: int32 (B, T), the next tokens of answers; padding elsewhere.
    """
    count, length = image_token_count(settings), settings.context_length
    token_ids = np.full((len(drawn), length), tokenizer.pad_id, dtype="int32")
    targets = np.full_like(token_ids, tokenizer.pad_id)
    for row, (questions, images) in enumerate(drawn):
        whole = [tokenizer.start_id] * count * len(images)
        learned = [False] * len(whole)
        for number, question in enumerate(questions):
            prompt, answer = map(tokenizer.encode, (question.text, question.answer))
            turn = [*prompt, *answer, tokenizer.end_id]
            if number and len(whole) + len(turn) > length + 1:
                continue
            whole += turn
            learned += [False] * len(prompt) + [True] * (len(answer) + 1)
        whole, learned = whole[: length + 1], learned[: length + 1]
        token_ids[row, : len(whole) - 1] = whole[:-1]
        targets[row, : len(whole) - 1] = np.where(learned[1:], whole[1:], tokenizer.pad_id)
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
    drawn = [([question], pictures.images[list(question.places)]) for question in questions]
    size = settings.batch_size
    return [
        encode_questions(drawn[start : start + size], tokenizer, settings)
        for start in range(0, len(drawn) - size + 1, size)
    ]
