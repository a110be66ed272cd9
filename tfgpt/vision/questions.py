"""Questions about pictures whose answers can be checked: most are computed from the pixels.

Shape letters: N pictures, H and W pixels.
"""

from dataclasses import dataclass

import numpy as np

from tfgpt.validation import check_choice
from tfgpt.vision.emoji import LANGUAGES

QUESTIONS = {
    "group": "What group is it?",
    "colour": "What is the main colour?",
    "pixels": "How many pixels are painted?",
    "face": "Is there a face?",
    "larger": "Which picture has more painted pixels?",
}
# A caption is asked for in its own language.
CAPTION_PROMPTS = {
    "en": "What is it?",
    "zh": "这是什么?",
    "de": "Was ist das?",
    "fr": "Qu’est-ce que c’est ?",
    "es": "¿Qué es?",
}
FACELESS = frozenset(("food-drink", "travel-places", "objects", "symbols", "flags"))
PAINTED = 0.15  # a painted pixel is farther from white in red, green or blue
STEPS = (200, 400, 600)  # of the answers about painted pixels
LEAST_DIFFERENCE = 40  # painted pixels, of two pictures that are compared
LEAST_LEAD = 0.1  # of the painted pixels, of the main colour before the second one
# The first degree of a hue and its name.
HUES = ((0, "red"), (16, "orange"), (38, "yellow"), (70, "green"), (165, "blue"), (255, "purple"))
HUES += ((295, "pink"), (345, "red"))


@dataclass(frozen=True)
class Question:
    """A question with its answer.

    Args:
        kind: str, a key of QUESTIONS, or the language of a caption.
        places: tuple of int, the pictures that are shown.
        answer: str.
    """

    kind: str
    places: tuple
    answer: str

    @property
    def text(self):
        """What is written behind the pictures."""
        return f" {(QUESTIONS | CAPTION_PROMPTS)[self.kind]} "


def check_question(question):
    """Return a question; raise unless it has words."""
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"question must be a text with words, got {question!r}.")
    return question


def caption_question(language):
    """Return the question that asks for a caption in a language; raise for an unknown one."""
    check_choice("language", language, LANGUAGES)
    return CAPTION_PROMPTS[language]


def painted(image):
    """Mark what is painted, on white: float (H, W, 3) -> bool (H, W)."""
    return image.min(axis=-1) < 1 - PAINTED


def count_class(image):
    """Say in words how many pixels are painted.

    Example:
        >>> count_class(np.ones((32, 32, 3)))
        'under 200'
    """
    count, (low, middle, high) = int(painted(image).sum()), STEPS
    if count < low:
        return f"under {low}"
    if count < middle:
        return f"{low} to {middle}"
    return f"{middle} to {high}" if count < high else f"over {high}"


def main_colour(image):
    """Name the colour that most painted pixels have; white if none is painted.

    Dark pixels are black, those with little colour grey, dark orange ones brown.

    Args:
        image: float array (H, W, 3), values in [0, 1].

    Returns:
        str, one of ten colours.

    Example:
        >>> main_colour(np.full((4, 4, 3), [1.0, 0.8, 0.1]))
        'yellow'
    """
    pixels = image[painted(image)]  # (K, 3)
    if not len(pixels):
        return "white"
    names, counts = np.unique(colour_names(pixels), return_counts=True)
    return str(names[counts.argmax()])


def colour_lead(image):
    """Return by how much of the painted pixels the main colour leads, 1 if there is no other.

    Args:
        image: float array (H, W, 3), values in [0, 1].

    Returns:
        float in [0, 1].

    Example:
        >>> image = np.full((4, 4, 3), [1.0, 0.8, 0.1])
        >>> image[0] = [0.1, 0.1, 1.0]
        >>> colour_lead(image)  # 12 yellow pixels, 4 blue ones
        0.5
    """
    pixels = image[painted(image)]  # (K, 3)
    if not len(pixels):
        return 1.0
    _, counts = np.unique(colour_names(pixels), return_counts=True)
    *_, second, first = [0, *sorted(counts.tolist())]
    return (first - second) / len(pixels)


def colour_names(pixels):
    """Name the colour of each pixel: float (K, 3) -> str (K,)."""
    high, low = pixels.max(axis=-1), pixels.min(axis=-1)
    spread = np.maximum(high - low, 1e-6)
    red, green, blue = ((high - pixels[:, channel]) / spread for channel in range(3))
    sixth = np.where(
        pixels[:, 0] == high,
        blue - green,
        np.where(pixels[:, 1] == high, 2 + red - blue, 4 + green - red),
    )
    hue = sixth * 60 % 360
    starts, names = zip(*HUES, strict=True)
    found = np.array(names)[np.searchsorted(starts, hue, side="right") - 1]
    found = np.where((found == "orange") & (high < 0.75), "brown", found)
    found = np.where(high - low < 0.15 * high, "grey", found)
    return np.where(high < 0.3, "black", found)


def face_answer(pictures, place):
    """Say "yes" or "no"; None where tags and group leave it open."""
    if pictures.groups[place] is None:
        return None
    words = {*pictures.tags[place], *pictures.captions["en"][place].split()}
    if "face" in words:
        return "yes"
    return "no" if pictures.groups[place] in FACELESS else None


def answer_to(kind, pictures, place, image=None):
    """Return the answer about one picture, or None if there is none.

    Args:
        kind: str, a key of QUESTIONS but "larger", or a language.
        pictures: Pictures.
        place: int.
        image: float array (H, W, 3), a changed form of the picture; None: as it is.

    Returns:
        str or None.
    """
    image = pictures.images[place] if image is None else image
    if kind in LANGUAGES:
        return pictures.captions[kind][place] if kind in pictures.captions else None
    if kind == "group":
        group = pictures.groups[place]
        return group and group.replace("-", " and ")
    if kind == "face":
        return face_answer(pictures, place)
    if kind == "colour":
        return main_colour(image) if colour_lead(image) >= LEAST_LEAD else None
    return count_class(image)


def larger_answer(first, second):
    """Say which of two pictures has more painted pixels; None if they are almost equal."""
    difference = int(painted(first).sum()) - int(painted(second).sum())
    if abs(difference) < LEAST_DIFFERENCE:
        return None
    return "the first" if difference > 0 else "the second"


def questions_about(pictures, kind, seed=0):
    """List the questions of one kind that pictures have an answer to.

    Args:
        pictures: Pictures.
        kind: str, a key of QUESTIONS, or a language.
        seed: int >= 0, draws the second picture where two are compared.

    Returns:
        list of Question.

    Example:
        >>> from tfgpt.vision.emoji import load_emoji
        >>> question = questions_about(load_emoji().take([0]), "colour")[0]
        >>> question.text, question.answer
        (' What is the main colour? ', 'yellow')
    """
    if kind == "larger":
        others = np.random.default_rng(seed).permutation(len(pictures))
        pairs = [(place, int(other)) for place, other in enumerate(others)]
        answers = [larger_answer(*(pictures.images[place] for place in pair)) for pair in pairs]
        found = zip(pairs, answers, strict=True)
    else:
        found = (((place,), answer_to(kind, pictures, place)) for place in range(len(pictures)))
    return [Question(kind, places, answer) for places, answer in found if answer is not None]
