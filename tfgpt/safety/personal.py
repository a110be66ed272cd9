"""Personal data in texts, Chinese and English: found by form and check digit, and masked.

Found are forms, not meanings: a name, an address or a number written in words stays. Digits
and signs of full width count like those of ASCII.
"""

import datetime
import re
from collections import Counter
from dataclasses import dataclass

# Full-width signs have the codes of ASCII and 0xFEE0 more.
NARROW = {code + 0xFEE0: code for code in range(0x21, 0x7F)}
# The first two digits of Chinese id numbers: provinces.
PROVINCES = {
    *("11", "12", "13", "14", "15", "21", "22", "23", "31", "32", "33", "34", "35", "36", "37"),
    *("41", "42", "43", "44", "45", "46", "50", "51", "52", "53", "54", "61", "62", "63", "64"),
    *("65", "71", "81", "82", "83"),
}
ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
ID_CHECKS = "10X98765432"
# How the numbers of cards begin, and how many digits they have.
CARDS = re.compile(
    r"4(\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"
    r"|3[47]\d{13}|3(0[0-5]|[68]\d)\d{11}|35\d{14}|6(011|5\d\d|4[4-9]\d)\d{12}|62\d{14,17}"
)
# No digit, and no part of a longer number or word, stands beside.
BEFORE, AFTER = r"(?<![A-Za-z0-9_])(?<!\d[.-])", r"(?![A-Za-z0-9_])(?![.-]\d)"
EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_][A-Za-z0-9._%+-]{0,63}@"
    r"(?:[A-Za-z0-9-]{1,63}\.){1,5}[A-Za-z]{2,24}(?![A-Za-z0-9-])"
)
ID_ZH = re.compile(BEFORE + r"\d{17}[\dXx]" + AFTER)
CARD = re.compile(BEFORE + r"\d(?:[ -]?\d){12,18}" + AFTER)
SSN = re.compile(BEFORE + r"(?!000|666|9\d\d)\d{3}([- ])(?!00)\d{2}\1(?!0000)\d{4}" + AFTER)
PHONE = re.compile(
    r"(?<![A-Za-z0-9_+])(?<!\d[.-])(?:"
    r"(?:\+?86[- ]?)?1[3-9]\d[- ]?\d{4}[- ]?\d{4}"  # Chinese mobile
    r"|(?:\+?86[- ]?)?(?:\(0\d{2,3}\) ?|0\d{2,3}[- ])\d{7,8}"  # Chinese landline
    r"|(?:\+?1[-. ]?)?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-. ])[2-9]\d{2}[-. ]\d{4}"  # North America
    r"|\+[2-9]\d{0,2}(?:[- ]?\d{2,4}){2,5}"  # any other country
    r")" + AFTER
)


@dataclass(frozen=True)
class Finding:
    """A place of personal data.

    Args:
        kind: str: "email", "id_zh", "card", "ssn" or "phone".
        start, end: int, characters of the text.
    """

    kind: str
    start: int
    end: int


def find_personal(text):
    """Find e-mail addresses, phone, card and id numbers.

    Kinds: "email"; "id_zh", Chinese id numbers with their check digit and a real date;
    "card", numbers of bank cards of known issuers with Luhn's digit; "ssn", American
    social security numbers with hyphens or spaces; "phone", Chinese and North American
    numbers, and those of other countries with +.

    Args:
        text: str.

    Returns:
        list of Finding, in the order of the text; none overlaps another.

    Raises:
        TypeError: if `text` is no str.

    Example:
        >>> find_personal("邮箱：li@example.com，电话13812345678")
        [Finding(kind='email', start=3, end=17), Finding(kind='phone', start=20, end=31)]

    Source: check digits: ISO/IEC 7064 (MOD 11-2) as in GB 11643-1999; ISO/IEC 7812-1
    annex B (Luhn).
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type(text).__name__}.")
    plain = text.translate(NARROW)  # one character for one: places stay
    found, is_taken = [], bytearray(len(text))
    for kind, pattern, is_real in KINDS:
        for match in pattern.finditer(plain):
            start, end = match.span()
            if not any(is_taken[start:end]) and is_real(match[0]):
                is_taken[start:end] = b"\1" * (end - start)
                found.append(Finding(kind, start, end))
    return sorted(found, key=lambda finding: finding.start)


def mask_personal(text):
    """Replace personal data by its kind in brackets.

    Args:
        text: str.

    Returns:
        the text, a str, and how many of each kind were replaced, a Counter.

    Example:
        >>> mask_personal("Mail me: a.b@example.org")
        ('Mail me: [email]', Counter({'email': 1}))
    """
    found, parts, end = find_personal(text), [], 0
    for finding in found:
        parts += [text[end : finding.start], f"[{finding.kind}]"]
        end = finding.end
    return "".join([*parts, text[end:]]), Counter(finding.kind for finding in found)


def is_luhn(digits):
    """Check the last digit of a card number: every second digit from the right is doubled.

    Example:
        >>> is_luhn("79927398713"), is_luhn("79927398710")
        (True, False)
    """
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * (1 + place % 2)
        total += number // 10 + number % 10
    return total % 10 == 0


def is_card(text):
    """Tell whether a run of digits, maybe in groups, is a card number."""
    digits = re.sub(r"[ -]", "", text)
    return CARDS.fullmatch(digits) is not None and is_luhn(digits)


def is_chinese_id(text):
    """Check the province, the date of birth and the check digit of an id number."""
    if text[:2] not in PROVINCES:
        return False
    try:
        birth = datetime.date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    weighted = sum(int(d) * weight for d, weight in zip(text[:17], ID_WEIGHTS, strict=True))
    return birth.year >= 1850 and ID_CHECKS[weighted % 11] == text[17].upper()


def is_phone(text):
    """Tell whether a number has as many digits as a phone number may have."""
    return 10 <= sum(character.isdigit() for character in text) <= 15


def anything(text):
    """Accept what the form alone decides."""
    return True


# The surest first: a number that is found is not looked at again.
KINDS = (
    ("email", EMAIL, anything),
    ("id_zh", ID_ZH, is_chinese_id),
    ("card", CARD, is_card),
    ("ssn", SSN, anything),
    ("phone", PHONE, is_phone),
)
