"""How well a GPT sees: every score beside what needs no model, with 95 % intervals."""

from collections import Counter

import numpy as np

from tfgpt.tasks.reports import average, proportion, score_table
from tfgpt.tasks.scores import chrf
from tfgpt.tasks.vision_batches import encode_texts
from tfgpt.vision.contrastive import recall_at
from tfgpt.vision.emoji import LANGUAGES
from tfgpt.vision.questions import (
    QUESTIONS,
    answer_to,
    larger_answer,
    main_colour,
    questions_about,
)

BATCH = 64


def score_vision(model, training, test):
    """Ask every question about the test pictures, and answer it in three simple ways too.

    Args:
        model: VisionModel.
        training: Pictures that it has learned from.
        test: Pictures of other families.

    Returns:
        dict from a row ("model", "model without image", "nearest picture", "most frequent")
        to a dict from a column to its Measure. Questions without answers are left out.
    """
    kinds = (*QUESTIONS, *LANGUAGES)
    nearest = nearest_places(training.images, test.images)
    rows = {"model": {}, "model without image": {}, "nearest picture": {}, "most frequent": {}}
    for kind in kinds:
        questions = questions_about(test, kind)
        known = [question.answer for question in questions_about(training, kind)]
        if not questions or not known:
            continue
        frequent = Counter(known).most_common(1)[0][0]
        answers = {
            "model": ask_all(model, test, questions),
            "model without image": ask_all(model, test, questions, blank=True),
            "nearest picture": nearest_answers(training, nearest, questions, kind),
            "most frequent": [frequent] * len(questions),
        }
        for name, found in answers.items():
            rows[name] |= measures(kind, [question.answer for question in questions], found)
    return rows


def measures(kind, wanted, found):
    """Return the share of exact answers; for captions also the mean chrF of each."""
    exact = [one.strip() == other for one, other in zip(found, wanted, strict=True)]
    if kind not in LANGUAGES:
        return {kind: proportion(exact)}
    values = [chrf([one], [other]).value for one, other in zip(found, wanted, strict=True)]
    scores = {f"{kind} chrF": average(values)}
    return scores | ({"en exact": proportion(exact)} if kind == "en" else {})


def ask_all(model, pictures, questions, blank=False):
    """Answer questions with a model, in batches of one shape: list of str."""
    answers = []
    for start in range(0, len(questions), BATCH):
        some = questions[start : start + BATCH]
        filled = [*some, *[some[-1]] * (BATCH - len(some))]
        prompts = [
            [*(shown(pictures.images[place], blank) for place in question.places), question.text]
            for question in filled
        ]
        answers += model.generate_batch(prompts)[: len(some)]
    return answers


def shown(image, blank):
    """Return an image, or a white one of its size."""
    return np.ones_like(image) if blank else image


def nearest_places(known, images):
    """Find the picture that differs least in its pixels: (N, H, W, 3) -> int (N,)."""
    known, images = (array.reshape(len(array), -1) for array in (known, images))
    # |a - b|^2 without |b|^2, which is the same for all a
    distances = (known**2).sum(axis=1) - 2 * images @ known.T
    return distances.argmin(axis=1)


def nearest_answers(training, nearest, questions, kind):
    """Answer about the nearest pictures of training; "no" where they leave it open."""
    if kind == "larger":
        pairs = [[training.images[nearest[place]] for place in q.places] for q in questions]
        return [larger_answer(*pair) or "the first" for pair in pairs]
    places = [nearest[question.places[0]] for question in questions]
    if kind == "colour":  # also where two are almost equal
        return [main_colour(training.images[place]) for place in places]
    return [answer_to(kind, training, place) or "no" for place in places]


def score_retrieval(dual, tokenizer, training, test):
    """Let images of the test find their captions, and group names without training.

    Args:
        dual: DualEncoder.
        tokenizer: its tokenizer.
        training: Pictures that it has learned from.
        test: Pictures of other families.

    Returns:
        dict from "contrast" and "nearest picture" to a dict of Measure.
    """
    captions = test.captions["en"]
    images = np.asarray(dual.encode_images(test.images))  # (N, E)
    nearest = nearest_places(training.images, test.images)
    guessed = [training.captions["en"][place] for place in nearest]
    similar = np.array([[chrf([one], [other]).value for other in captions] for one in guessed])
    scores = {"contrast": images @ vectors_of(dual, tokenizer, captions).T}
    scores["nearest picture"] = similar
    rows = {
        name: {f"recall@{k}": proportion(recall_at(table, k)) for k in (1, 5)}
        for name, table in scores.items()
    }
    if None in training.groups:
        return rows
    groups = sorted(set(training.groups))
    names = vectors_of(dual, tokenizer, [group.replace("-", " ") for group in groups])
    zero_shot = [groups[place] for place in (images @ names.T).argmax(axis=1)]
    rows["contrast"]["zero-shot group"] = agreement(zero_shot, test.groups)
    found = [training.groups[place] for place in nearest]
    rows["nearest picture"]["zero-shot group"] = agreement(found, test.groups)
    return rows


def vectors_of(dual, tokenizer, texts):
    """Return the vectors of texts, float32 (N, E)."""
    return np.asarray(dual.encode_texts(encode_texts(tokenizer, texts)))


def agreement(found, wanted):
    """Measure the share of equal labels."""
    return proportion([one == other for one, other in zip(found, wanted, strict=True)])


def write_report(folder, scores, retrieval, classes):
    """Write the tables of all scores to scores.txt, and print them."""
    tables = vision_tables(scores)
    tables += [score_table(table) for table in (retrieval, classes) if table]
    text = "\n\n".join(tables)
    (folder / "scores.txt").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\nEverything is in {folder}.")


def vision_tables(scores):
    """Write the scores of questions and those of captions as two tables."""
    names = list(next(iter(scores.values())))
    kinds = [[n for n in names if n in QUESTIONS], [n for n in names if n not in QUESTIONS]]
    return [
        score_table({row: {name: cells[name] for name in some} for row, cells in scores.items()})
        for some in kinds
    ]
