"""Rules for texts worth training on, in English and Chinese; each has a name and a number.

They follow Gopher's and C4's rules, with words of one character for Chinese.
"""

import re
import zlib

FEWEST_CHARACTERS = 20
LEAST_LETTERS = 0.6  # of all characters that are no white space
MOST_REPEATED_LINES = 0.3  # of the characters of all lines
# zlib makes English and Chinese prose two to three times smaller.
MOST_REDUCTION = 8
LONGEST_MEAN_WORD = 12  # characters, of texts with spaces
MOST_LINKS = 0.2  # of all words
FEWEST_STOP_WORDS = 2
STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with", "is", "in", "a", "was"}
FILLERS = (
    *("lorem ipsum", "enable javascript", "use of cookies"),
    *("请启用javascript", "版权所有 违者必究"),
)
MANY_CHARACTERS = 200  # below, a text has too few words for rules about words
IDEOGRAPH = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
LINK = re.compile(r"https?://|www\.")


def find_language(text):
    """Name the language of a text by its letters and small words.

    Args:
        text: str.

    Returns:
        str: "zh" if at least 30 % of the letters are Chinese characters and no kana or
        hangul is among them; "en" if nine of ten letters are of ASCII and, in texts of
        200 characters or more, there are two stop words; "other".

    Example:
        >>> [find_language(text) for text in ("床前明月光", "The moon is bright.", "Луна")]
        ['zh', 'en', 'other']
    """
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return "other"
    others = sum("\u3040" <= c <= "\u30ff" or "\uac00" <= c <= "\ud7a3" for c in letters)
    if len(IDEOGRAPH.findall(text)) >= 0.3 * len(letters) and others == 0:
        return "zh"
    is_short = len(text) < MANY_CHARACTERS
    stop_words = STOP_WORDS & set(re.findall(r"[a-z]+", text.lower()))
    is_ascii = sum(character.isascii() for character in letters) >= 0.9 * len(letters)
    has_stop_words = is_short or len(stop_words) >= FEWEST_STOP_WORDS
    return "en" if is_ascii and has_stop_words else "other"


def find_fault(text, languages=None):
    """Name the first rule that a text breaks.

    Rules: "short": fewer than 20 characters. "language": none of `languages`. "letters":
    under 60 % of the characters are letters. "filler": a phrase such as "lorem ipsum".
    "links": over 20 % as many links as words. "lines": over 30 % of the characters stand
    in lines that came before. "repetition": zlib makes it over 8 times smaller. "words":
    in texts with spaces the mean word is over 12 letters long.

    Args:
        text: str.
        languages: collection of "en", "zh", "other"; None: all.

    Returns:
        str, or None for a text that breaks none.

    Example:
        >>> find_fault("Buy now! " * 50), find_fault("The moon is bright tonight.")
        ('repetition', None)

    Source: Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training
    Gopher" (2021), appendix A.1; Raffel et al., "Exploring the Limits of Transfer Learning
    with a Unified Text-to-Text Transformer" (2020), section 2.2.
    """
    stripped = text.strip()
    if len(stripped) < FEWEST_CHARACTERS:
        return "short"
    if languages is not None and find_language(text) not in languages:
        return "language"
    visible = [character for character in text if not character.isspace()]
    if sum(character.isalpha() for character in visible) < LEAST_LETTERS * len(visible):
        return "letters"
    lowered = text.lower()
    if any(filler in lowered for filler in FILLERS):
        return "filler"
    words = WORD.findall(text)
    num_words = len(words) + len(IDEOGRAPH.findall(text))
    if len(LINK.findall(text)) > MOST_LINKS * num_words:
        return "links"
    if repeated_lines(stripped) > MOST_REPEATED_LINES:
        return "lines"
    content = stripped.encode()
    if len(content) > MOST_REDUCTION * len(zlib.compress(content)):
        return "repetition"
    letters_per_word = sum(map(len, words)) / max(len(words), 1)
    if not IDEOGRAPH.search(text) and letters_per_word > LONGEST_MEAN_WORD:
        return "words"
    return None


def repeated_lines(text):
    """Return the share of characters in lines that came before; empty lines do not count.

    Example:
        >>> repeated_lines("one\\ntwo\\none\\ntwo")
        0.5
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    unique = sum(map(len, dict.fromkeys(lines)))
    return 1 - unique / max(sum(map(len, lines)), 1)
