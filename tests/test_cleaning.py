"""Tests of cleaning: planted faults are found, harmless texts stay, memory stays constant."""

import json
import random
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from benchmarks.safety import changed, cut_texts, measure_duplicates, measure_personal
from tfgpt import cli
from tfgpt.data.texts import load_text
from tfgpt.safety import (
    CleaningReport,
    NearDuplicates,
    clean_files,
    clean_texts,
    find_fault,
    find_language,
    find_personal,
    mask_personal,
)
from tfgpt.safety.duplicates import shingles

ENGLISH = load_text("shakespeare")
CHINESE = load_text("chinese_poems")


@pytest.fixture
def datasketch():
    """Skip a test that needs MinHash where the library is missing."""
    pytest.importorskip("datasketch", reason="needs pip install 'tfgpt[safety]'")


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Write to Ann.Lee+x@mail.example.org.", ["email"]),
        ("邮箱ｌｉ＠ｅｘａｍｐｌｅ．ｃｏｍ，谢谢", ["email"]),
        ("not@home, @anna, a@b", []),
        ("我的手机是13812345678。", ["phone"]),
        ("电话：（０１０）８６６６３５７０", ["phone"]),
        ("Call (415) 555-2671 or +44 20 7946 0958!", ["phone", "phone"]),
        ("415.555.2671", ["phone"]),
        ("12812345678 and 1381234567 are none", []),
        ("version 10.415.555.2671 of 2021-05-04", []),
        ("4111 1111 1111 1111", ["card"]),
        ("4111 1111 1111 1112", []),
        ("id:11010519491231002X", ["id_zh"]),
        ("11010519491231002x", ["id_zh"]),
        ("110105194912310021", []),  # wrong check digit
        ("110105194913310029", []),  # month 13
        ("SSN 078-05-1120.", ["ssn"]),
        ("000-12-3456 666-12-3456 912-12-3456 123-00-4567 123-45-0000", []),
        ("138123456781381234567813812345678", []),
        ("", []),
    ],
)
def test_personal_data_is_found_by_form_and_check_digit(text, kinds):
    assert [finding.kind for finding in find_personal(text)] == kinds


def test_a_mask_leaves_the_rest_of_the_text_as_it_was():
    text = "甲：13812345678，乙：li@example.com。\n3.14"
    masked, counts = mask_personal(text)
    assert masked == "甲：[phone]，乙：[email]。\n3.14"
    assert counts == Counter(phone=1, email=1)
    assert mask_personal(masked) == (masked, Counter())


def test_planted_personal_data_is_found_and_little_else():
    for kind, (found, planted, false) in measure_personal(150, seed=1).items():
        assert found >= 0.97 * planted, kind
        assert false <= 0.03 * planted, kind


def test_poems_and_plays_hold_no_personal_data():
    assert find_personal(ENGLISH[:300_000]) == find_personal(CHINESE[:300_000]) == []


GOOD = "The moon was bright, and the old man walked home along the river to his house."
FAULTS = {
    "short": "Yes, it is.",
    "language": "Луна светит ярко над тихой рекой этой ночью.",
    "letters": "12 | 34 | 56 | -- | 78 | 90 | ab | 12 | 34",
    "filler": "Please enable JavaScript to see the page that you asked for.",
    "links": "See https://a.example and https://b.example or www.c.example now",
    "lines": "\n".join(["Buy the moon while it is new."] * 3 + ["It is far away, and it is cold."]),
    "repetition": "the moon is " * 60,
    "words": "pneumonoultramicroscopic antidisestablishmentarian incomprehensibilities",
}


@pytest.mark.parametrize("rule", FAULTS)
def test_each_rule_finds_its_fault(rule):
    assert find_fault(FAULTS[rule], languages=("en", "zh")) == rule
    assert find_fault(GOOD, languages=("en", "zh")) is None


def test_good_texts_break_no_rule():
    """False alarms on 400 passages of prose, verse and Chinese poems."""
    passages = [ENGLISH[start : start + 500] for start in range(0, 100_000, 500)]
    passages += [CHINESE[start : start + 300] for start in range(0, 60_000, 300)]
    faults = Counter(find_fault(text, ("en", "zh")) for text in passages)
    assert len(passages) == 400 and faults[None] >= 396, faults


def test_languages_are_told_apart():
    assert find_language(CHINESE[:300]) == "zh" and find_language(ENGLISH[:300]) == "en"
    assert find_language("これはペンです。月が明るい。") == "other"  # Japanese has kana
    assert find_language("Der Mond scheint hell auf den stillen Fluss. " * 8) == "other"
    assert find_language("12345") == "other"


def test_near_duplicates_are_found_and_other_texts_are_not(datasketch):
    texts = cut_texts(150)
    assert measure_duplicates(texts, 0.0) == (150, 150, 0)
    found, _, false = measure_duplicates(texts, 0.02)
    assert found >= 140 and false == 0
    assert measure_duplicates(texts, 0.5)[0] == 0


def test_the_chance_of_a_near_duplicate_follows_the_bands(datasketch):
    """16 bands of 8 values: 1 - (1 - s^8)^16 at similarity s."""
    rng = random.Random(0)
    expected, found = [], 0
    for text in cut_texts(200):
        other = changed(rng, text, 0.04)
        first, second = set(shingles(text)), set(shingles(other))
        similarity = len(first & second) / len(first | second)
        expected.append(1 - (1 - similarity**8) ** 16)
        seen = NearDuplicates(2**20)
        seen.add(text)
        found += seen.add(other)
    assert 100 < sum(expected) < 195
    assert found == pytest.approx(sum(expected), abs=20)


def test_a_full_filter_of_near_duplicates_errs_as_often_as_stated(datasketch):
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(0x4E00, 0x9FA5, 30))) for _ in range(800)]
    seen = NearDuplicates(2**17)
    mistakes = sum(seen.add(text) for text in texts)
    counts = np.arange(800)
    expected = (16 * (1 - np.exp(-64 * counts / 2**17)) ** 4).clip(max=1).sum()
    assert expected > 10 and mistakes == pytest.approx(expected, rel=0.4)


def test_files_are_cleaned_with_a_report(tmp_path, capsys, datasketch):
    texts = [GOOD, GOOD.upper(), GOOD + " Mail: li@example.com", *FAULTS.values(), CHINESE[:200]]
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    out, report = tmp_path / "clean.jsonl", tmp_path / "report.json"
    arguments = ["clean", str(source), "--out", str(out), "--report", str(report)]
    assert cli.main([*arguments, "--language", "en", "--language", "zh"]) == 0
    kept = [json.loads(line)["text"] for line in out.read_text("utf-8").splitlines()]
    assert kept == [GOOD, CHINESE[:200]]
    content = json.loads(report.read_text("utf-8"))
    assert content["read"] == len(texts) and content["kept"] == len(kept)
    assert content["removed"] == {"duplicate": 2, **dict.fromkeys(FAULTS, 1)}
    assert content["examples"]["short"] == [FAULTS["short"]]
    assert f"Kept {len(kept)} of {len(texts)} texts" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "clean.jsonl",
        "report.json",
        "texts.jsonl",
    ]


@pytest.mark.slow
def test_the_memory_of_a_cleaning_does_not_grow_with_the_texts(datasketch):
    def texts(count):
        rng = random.Random(0)
        words = ENGLISH.split()
        for _ in range(count):
            yield " ".join(rng.choices(words, k=80))

    peaks = []
    for count in (150, 1500):
        seen = NearDuplicates(2**20)
        tracemalloc.start()
        kept = sum(1 for _ in clean_texts(texts(count), duplicates=seen))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert kept > 0.9 * count
    assert peaks[1] < 1.3 * peaks[0]


def test_what_cannot_be_cleaned_is_named(tmp_path, datasketch):
    (tmp_path / "a.txt").write_text(GOOD)
    with pytest.raises(ValueError, match="out must be a file with the suffix .jsonl, got"):
        clean_files(tmp_path, tmp_path / "out.txt")
    with pytest.raises(ValueError, match="languages must be one of 'en', 'zh', 'other', got 'fr'"):
        clean_files(tmp_path, tmp_path / "out.jsonl", languages=["fr"])
    with pytest.raises(ValueError, match="bits must be a multiple of 8 >= 1024, got 10"):
        NearDuplicates(10)
    with pytest.raises(TypeError, match="text must be a str, got bytes"):
        find_personal(b"x")


def test_an_empty_report_of_a_cleaning_says_so():
    assert str(CleaningReport()).endswith("Removed: nothing.\nMasked: nothing.")
