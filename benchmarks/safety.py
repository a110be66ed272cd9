"""Precision and recall of tfgpt.safety on planted cases: `python -m benchmarks.safety`.

Personal data in many forms, and numbers that look like it, stand in Chinese and English
sentences; near-duplicates are texts with some words exchanged. All are made from a seed.
"""

import argparse
import random
from collections import Counter

from tfgpt.safety.duplicates import NearDuplicates
from tfgpt.safety.filters import highest_rate
from tfgpt.safety.personal import (
    ID_CHECKS,
    ID_WEIGHTS,
    PROVINCES,
    find_personal,
    is_card,
)

SENTENCES = (
    "Please write to {} before Friday.",
    "My number: {}, or ask at the desk.",
    "({}) is what she noted",
    "联系方式：{}。",
    "请记下{}，谢谢",
    "他的号码是 {} ，不要外传。",
    "{}",
)
CARD_STARTS = (("4", 16), ("51", 16), ("55", 16), ("37", 15), ("6011", 16), ("62", 16), ("62", 19))
FULL_WIDTH = {ord(digit): ord(digit) + 0xFEE0 for digit in "0123456789@"}


def digits(rng, count):
    """Write random digits."""
    return "".join(rng.choice("0123456789") for _ in range(count))


def make_email(rng):
    """Make an address."""
    name = rng.choice(["li", "wang.fang", "j_smith", "anna-k", "x+news", "zhao88"])
    host = rng.choice(["example.com", "mail.example.org", "qq.example.cn", "a-b.example.co.uk"])
    return rng.choice([str, str.upper])(f"{name}{rng.randint(0, 99)}@{host}")


def make_phone(rng):
    """Make a phone number in one of many forms."""
    a, b = digits(rng, 4), digits(rng, 4)
    area = f"{rng.randint(2, 9)}{digits(rng, 2)}"
    middle = f"{rng.randint(2, 9)}{digits(rng, 2)}"
    mobile = f"1{rng.choice('3456789')}{digits(rng, 1)}"
    return rng.choice(
        [
            f"{mobile}{a}{b}",
            f"{mobile} {a} {b}",
            f"{mobile}-{a}-{b}",
            f"+86 {mobile}{a}{b}",
            f"0{rng.choice(['10', '21', '755', '571'])}-8{digits(rng, 7)}",
            f"({area}) {middle}-{b}",
            f"{area}-{middle}-{b}",
            f"+1 {area} {middle} {b}",
            f"+44 20 {a} {b}",
            f"+49 30 {digits(rng, 3)}{a}",
        ]
    )


def make_card(rng):
    """Make a card number with Luhn's digit."""
    start, length = rng.choice(CARD_STARTS)
    body = start + digits(rng, length - len(start) - 1)
    number = next(body + last for last in "0123456789" if is_card(body + last))
    groups = " ".join(number[place : place + 4] for place in range(0, length, 4))
    return rng.choice([number, groups, groups.replace(" ", "-")])


def make_id(rng):
    """Make a Chinese id number with its check digit."""
    birth = f"{rng.randint(1940, 2020)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}"
    body = f"{rng.choice(sorted(PROVINCES))}{digits(rng, 4)}{birth}{digits(rng, 3)}"
    total = sum(int(d) * weight for d, weight in zip(body, ID_WEIGHTS, strict=True))
    return body + ID_CHECKS[total % 11]


def make_ssn(rng):
    """Make a social security number."""
    first = rng.choice([n for n in range(1, 900) if n != 666])
    return f"{first:03}-{rng.randint(1, 99):02}-{rng.randint(1, 9999):04}"


def make_decoy(rng):
    """Make what looks like personal data and is none."""
    card, number = make_card(rng), make_id(rng)
    wrong_card = card[:-1] + str((int(card[-1]) + rng.randint(1, 9)) % 10)
    wrong_id = number[:-1] + rng.choice([c for c in "0123456789X" if c != number[-1]])
    return rng.choice(
        [
            wrong_card,
            wrong_id,
            f"v{rng.randint(1, 9)}.{rng.randint(0, 99)}.{rng.randint(0, 9999)}",
            f"192.168.{rng.randint(0, 255)}.{rng.randint(0, 255)}",
            f"{rng.randint(1900, 2030)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
            f"{rng.randint(1, 99)},{digits(rng, 3)},{digits(rng, 3)}.{digits(rng, 2)}",
            f"ISBN 978-{rng.randint(0, 9)}-{digits(rng, 4)}-{digits(rng, 4)}-{rng.randint(0, 9)}",
            f"order {digits(rng, 9)}",
            f"000-{digits(rng, 2)}-{digits(rng, 4)}",
            f"{digits(rng, 20)}",
            f"1{digits(rng, 12)}",  # milliseconds since 1970
            f"3.14159{digits(rng, 9)}",
            f"@{rng.choice(['anna', 'li'])} at 10:{rng.randint(10, 59)}",
            f"0x{digits(rng, 16)}",
            f"{rng.randint(1949, 2024)}年{rng.randint(1, 12)}月",
        ]
    )


MAKERS = {
    "email": make_email,
    "phone": make_phone,
    "card": make_card,
    "id_zh": make_id,
    "ssn": make_ssn,
}


def make_unknown(rng):
    """Make personal data in a form that no rule knows."""
    mobile = f"13{digits(rng, 9)}"
    return rng.choice(
        [
            f"li{digits(rng, 2)} (at) example (dot) com",
            f"{rng.randint(2, 9)}{digits(rng, 9)}",  # ten digits of an American phone
            "".join("零一二三四五六七八九"[int(digit)] for digit in mobile),
            ".".join(mobile),
            make_ssn(rng).replace("-", ""),
        ]
    )


def plant(rng, content):
    """Put something into a sentence: the text, and where it stands."""
    before, after = rng.choice(SENTENCES).split("{}")
    if rng.random() < 0.1:
        content = content.translate(FULL_WIDTH)
    return before + content + after, (len(before), len(before) + len(content))


def measure_personal(count=500, seed=0):
    """Find planted personal data.

    Args:
        count: int, cases of each kind; six times as many decoys.
        seed: int.

    Returns:
        dict of kind -> (found, planted, false): places found exactly, places planted, and
        findings where nothing of the kind was planted.
    """
    rng = random.Random(seed)
    found, false = Counter(), Counter()
    for kind, make in MAKERS.items():
        for _ in range(count):
            text, place = plant(rng, make(rng))
            findings = [(f.kind, (f.start, f.end)) for f in find_personal(text)]
            found[kind] += (kind, place) in findings
            false.update(other for other, at in findings if (other, at) != (kind, place))
    for _ in range(6 * count):
        text, _ = plant(rng, make_decoy(rng))
        false.update(f.kind for f in find_personal(text))
    return {kind: (found[kind], count, false[kind]) for kind in MAKERS}


def measure_duplicates(texts, share, seed=0, bits=2**24):
    """Find texts of which a share of the words was exchanged, among others.

    Args:
        texts: list of n str, none of them alike.
        share: float, of the words that are exchanged in each copy.
        seed: int.
        bits: int, of the filter.

    Returns:
        (found, n, false): copies found, copies planted, originals taken for copies.
    """
    rng, seen = random.Random(seed), NearDuplicates(bits)
    false = sum(seen.add(text) for text in texts)
    return sum(seen.add(changed(rng, text, share)) for text in texts), len(texts), false


def changed(rng, text, share):
    """Exchange a share of the words of a text."""
    words = text.split()
    for place in rng.sample(range(len(words)), round(share * len(words))):
        words[place] = rng.choice(words)[::-1]
    return " ".join(words)


def cut_texts(count, seed=0):
    """Cut different passages of 150 words from the bundled plays."""
    from tfgpt.data.texts import load_text

    words = load_text("shakespeare").split()
    starts = random.Random(seed).sample(range(0, len(words) - 150, 150), count)
    return [" ".join(words[start : start + 150]) for start in starts]


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="planted cases of each kind")
    count = parser.parse_args().count
    print("| kind | planted | recall | precision | missed at most (95 %) |\n|---|---|---|---|---|")
    for kind, (found, planted, false) in measure_personal(count).items():
        precision = found / (found + false)
        bound = highest_rate(planted - found, planted)
        print(f"| {kind} | {planted} | {found / planted:.2%} | {precision:.2%} | {bound:.2%} |")
    rng = random.Random(0)
    unknown = sum(len(find_personal(plant(rng, make_unknown(rng))[0])) for _ in range(count))
    print(f"| forms that no rule knows | {count} | {unknown / count:.2%} | | |")
    texts = cut_texts(min(count, 1000))
    for share in (0.0, 0.01, 0.03, 0.1, 0.5):
        found, planted, false = measure_duplicates(texts, share)
        print(f"| {share:.0%} of words | {planted} | {found / planted:.1%} | false: {false} |  |")


if __name__ == "__main__":
    main()
