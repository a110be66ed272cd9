"""BLEU, chrF and METEOR of translations, and the baselines they are compared with."""

import math
import shutil
import sys

import numpy as np
import pytest

from tfgpt.tasks import scores
from tfgpt.tasks.scores import (
    Score,
    bleu,
    check_language,
    chrf,
    format_scores,
    meteor,
    most_frequent_sentence,
    score_translations,
)

sacrebleu = pytest.importorskip("sacrebleu")
nltk = pytest.importorskip("nltk")

METRICS = [bleu, chrf, meteor]
WORDS = ["the", "a", "cat", "dog", "bird", "sees", "feeds", "one", "two", "red", "old", "today"]


@pytest.fixture(autouse=True)
def nltk_data(monkeypatch, tmp_path):
    """Let nltk see only the data that a test puts into this folder: none at first."""
    from nltk.corpus.reader import WordNetCorpusReader
    from nltk.corpus.util import LazyCorpusLoader

    folder = tmp_path / "nltk_data"
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(nltk.data, "path", [str(folder)])
    not_loaded = LazyCorpusLoader(
        "wordnet", WordNetCorpusReader, LazyCorpusLoader("omw-1.4", WordNetCorpusReader)
    )
    monkeypatch.setattr(nltk.corpus, "wordnet", not_loaded)
    return folder


def write_wordnet(nltk_data):
    """Write a WordNet of one meaning: a car is an auto."""
    folder = nltk_data / "corpora" / "wordnet"
    folder.mkdir(parents=True)
    for kind in ("noun", "verb", "adj", "adv"):
        for name in (f"index.{kind}", f"data.{kind}", f"{kind}.exc"):
            (folder / name).write_text("")
    (folder / "index.sense").write_text("")
    (folder / "lexnames").write_text("00 noun.artifact 1\n")
    (folder / "data.noun").write_text("00000000 00 n 02 car 0 auto 0 000 | a vehicle\n")
    (folder / "index.noun").write_text("auto n 1 0 1 0 00000000\ncar n 1 0 1 0 00000000\n")
    keep_to_owner(nltk_data)


def keep_to_owner(folder):
    """nltk reads no file that other users may change."""
    for path in folder.rglob("*"):
        path.chmod(0o700)


def random_sentences(rng, count=20, length=12):
    return [" ".join(rng.choice(WORDS, size=length)) for _ in range(count)]


# Properties


@pytest.mark.parametrize("metric", METRICS)
def test_a_score_is_from_0_to_100_and_carries_its_name_and_signature(rng, metric):
    score = metric(random_sentences(rng), random_sentences(rng))
    assert 0 < score.value < 100
    assert score.name == {bleu: "BLEU", chrf: "chrF2", meteor: "METEOR"}[metric]
    assert "nrefs:1|case:" in score.signature and "|version:" in score.signature


@pytest.mark.parametrize("metric", METRICS)
def test_the_order_of_the_sentences_does_not_change_a_score(rng, metric):
    hypotheses, references = random_sentences(rng), random_sentences(rng)
    order = rng.permutation(len(references))
    moved = metric([hypotheses[i] for i in order], [references[i] for i in order])
    assert moved == metric(hypotheses, references)


@pytest.mark.parametrize("metric", METRICS)
def test_the_pairing_of_hypotheses_and_references_does(rng, metric):
    references = random_sentences(rng)
    assert metric(references[::-1], references).value < metric(references, references).value - 5


@pytest.mark.parametrize("metric", [bleu, chrf])
def test_perfect_translations_have_exactly_100(rng, metric):
    # Without care sacreBLEU's sum of logarithms gives 100.00000000000004.
    references = random_sentences(rng, count=200)
    assert metric(references, list(references)).value == 100


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_in_common_is_0(metric):
    assert metric(["aaa bbb ccc ddd eee"], ["vvv www xxx yyy zzz"]).value == 0


@pytest.mark.parametrize("metric", METRICS)
def test_a_model_that_says_nothing_has_0(metric):
    references = ["the cat sat on the mat", "a dog"]
    assert metric(["", " "], references).value == 0
    assert metric([""], [""]).value == 0


@pytest.mark.parametrize("metric", METRICS)
def test_one_empty_hypothesis_lowers_the_score(rng, metric):
    references = random_sentences(rng)
    value = metric([*references[:-1], ""], references).value
    assert 80 < value < metric(references, references).value


def test_another_word_order_lowers_bleu_and_meteor_but_not_the_share_of_right_words(rng):
    references = random_sentences(rng)
    shuffled = [" ".join(rng.permutation(sentence.split())) for sentence in references]
    words_only = sacrebleu.BLEU(max_ngram_order=1)
    assert words_only.corpus_score(shuffled, [references]).precisions == [100]
    assert bleu(shuffled, references).value < 40
    assert meteor(shuffled, references).value < 90


def test_a_wrong_ending_costs_less_in_chrf_than_in_bleu():
    hypotheses, references = ["he walked the dogs every day"], ["he walks the dog every day"]
    assert chrf(hypotheses, references).value > bleu(hypotheses, references).value + 20


# Hand-computed values


def test_bleu_of_one_sentence_is_that_of_its_counted_runs():
    # Right runs of 1, 2, 3, 4 words: 5/6 ("the" is right once only), 3/5, 2/4, 1/3.
    # As many words as the reference: BP = 1. 100 * (5/6 * 3/5 * 2/4 * 1/3)^(1/4).
    score = bleu(["the cat sat on the mat"], ["the cat sat on a mat"])
    assert score.value == pytest.approx(100 * (1 / 12) ** 0.25)
    assert score.value == pytest.approx(53.7285, abs=1e-4)


def test_the_brevity_penalty_is_all_that_a_missing_end_costs_in_bleu():
    # Every run is right; 4 words for 6: e^(1 - 6/4) = 0.60653.
    score = bleu(["the cat sat on"], ["the cat sat on the mat"])
    assert score.value == pytest.approx(60.65307, abs=1e-4)


def test_bleu_counts_the_runs_of_all_sentences_together():
    # Right runs: (5 + 4)/10, (3 + 3)/8, (2 + 2)/6, (1 + 1)/4; 10 words for 12: e^(1 - 12/10).
    hypotheses = ["the cat sat on the mat", "the cat sat on"]
    references = ["the cat sat on a mat", "the cat sat on the mat"]
    expected = 100 * math.exp(-0.2) * (9 / 10 * 6 / 8 * 4 / 6 * 2 / 4) ** 0.25
    assert bleu(hypotheses, references).value == pytest.approx(expected)


def test_bleu_smooths_runs_that_are_never_right():
    # Only "." is right: 1/5, then 1/(2 * 4), 1/(4 * 3), 1/(8 * 2). The "." is a word of its own.
    expected = 100 * (1 / 5 / 8 / 12 / 16) ** 0.25
    assert bleu(["a b c d."], ["w x y z ."]).value == pytest.approx(expected)


def test_bleu_without_any_sentence_of_four_words_is_0():
    assert bleu(["thank you", "see you soon"], ["thank you", "see you soon"]).value == 0


def test_chrf_of_two_right_characters_of_three():
    # P = 1. R: 2 of 3 characters, 1 of 2 pairs, mean 7/12; no run of three in the hypothesis.
    # 5PR / (4P + R) = (35/12) / (55/12) = 35/55.
    assert chrf(["ab"], ["abc"]).value == pytest.approx(100 * 35 / 55)
    # The other way round P = 7/12 and R = 1: (35/12) / (28/12 + 1) = 35/40.
    assert chrf(["abc"], ["ab"]).value == pytest.approx(100 * 35 / 40)


def test_chrf_does_not_count_spaces():
    assert chrf(["a bc"], ["ab c"]).value == 100


@pytest.mark.parametrize(
    "hypothesis, reference, expected",
    [
        # P = R = 1, 3 matches in 1 chunk: 1 - 0.5 * (1/3)^3.
        ("the cat sat", "the cat sat", 1 - 0.5 / 27),
        # P = 1, R = 2/4: F = 10PR / (R + 9P) = 5 / 9.5; 1 chunk of 2.
        ("the cat", "the cat sat down", 5 / 9.5 * (1 - 0.5 / 8)),
        # P = R = 3/4 = F; chunks "a" and "cat sat": 1 - 0.5 * (2/3)^3.
        ("a small cat sat", "a cat sat down", 3 / 4 * (1 - 0.5 * 8 / 27)),
        # P = 6/7, R = 1: F = 60/61; 2 chunks of 6 matches.
        ("the cat was sat on the mat", "the cat sat on the mat", 60 / 61 * (1 - 0.5 / 27)),
        # The same two words, each a chunk: 1 - 0.5 * (2/2)^3.
        ("cat the", "the cat", 0.5),
        # Stems: cat and run; P = R = 1, 1 chunk of 2.
        ("Cats run", "cat runs", 1 - 0.5 / 8),
    ],
)
def test_meteor_of_one_sentence(hypothesis, reference, expected):
    assert meteor([hypothesis], [reference]).value == pytest.approx(100 * expected)


def test_meteor_is_the_mean_over_sentences():
    # 50 (one match in one chunk), 100 - 50/8, 0.
    value = meteor(["cat", "the cat", "no"], ["cat", "the cat", "yes"]).value
    assert value == pytest.approx((50 + 93.75 + 0) / 3)


def test_meteor_cuts_punctuation_off_words():
    # Two words and a full stop: 1 - 0.5 / 27.
    assert meteor(["Cats run."], ["cat runs ."]).value == pytest.approx(100 * (1 - 0.5 / 27))


# Equality


def test_english_meteor_is_that_of_nltk_with_its_own_stemmer(rng):
    from nltk.translate.meteor_score import meteor_score

    # Porter's rules leave "fairli" of "fairly"; those of Snowball would leave "fair".
    hypotheses = [*random_sentences(rng), "fairly"]
    references = [*random_sentences(rng), "fair"]
    expected = [
        meteor_score([reference.split()], hypothesis.split(), wordnet=scores.NoSynonyms())
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]
    assert meteor(hypotheses, references).value == pytest.approx(100 * np.mean(expected))


# Languages and WordNet


def test_each_language_has_its_own_stems():
    # Both forms of "hablar" have the Spanish stem "habl"; English rules cut neither.
    assert meteor(["hablaron"], ["habló"], "spanish").value == 50
    assert meteor(["hablaron"], ["habló"]).value == 0


def test_the_signature_of_meteor_names_stages_cuts_and_version():
    assert meteor(["a"], ["a"]).signature == (
        f"nrefs:1|case:lc|tok:13a|stages:exact+porter|version:nltk-{nltk.__version__}"
    )
    assert "|stages:exact+snowball[spanish]|" in meteor(["a"], ["a"], "spanish").signature


def test_without_wordnet_synonyms_do_not_match():
    assert meteor(["a fast car"], ["a fast auto"]).value < 70


@pytest.mark.parametrize("form", ["unpacked", "zip"])
def test_wordnet_is_used_where_it_is(nltk_data, form):
    write_wordnet(nltk_data)
    if form == "zip":
        # What nltk.download leaves behind.
        corpora = nltk_data / "corpora"
        shutil.make_archive(corpora / "wordnet", "zip", corpora, "wordnet")
        shutil.rmtree(corpora / "wordnet")
        keep_to_owner(nltk_data)
    score = meteor(["a fast car"], ["a fast auto"])
    # P = R = 1, 1 chunk of 3.
    assert score.value == pytest.approx(100 * (1 - 0.5 / 27))
    assert "|stages:exact+porter+wordnet|" in score.signature
    # A word that WordNet does not know matches itself only.
    assert meteor(["bird"], ["auto"]).value == 0


def test_wordnet_is_for_english_only(nltk_data):
    write_wordnet(nltk_data)
    score = meteor(["car"], ["auto"], "spanish")
    assert score.value == 0
    assert "wordnet" not in score.signature


# Baselines and the table


def test_a_model_is_scored_next_to_its_source_and_the_most_frequent_sentence(rng):
    hypotheses, references, sources = (random_sentences(rng) for _ in range(3))
    targets = ["a red bird", references[0], "a red bird", references[0]]
    rows = score_translations(hypotheses, references, sources, targets)
    expected = {
        "model": hypotheses,
        "copy the source": sources,
        "most frequent sentence": ["a red bird"] * len(references),
    }
    assert list(rows) == list(expected)
    for name, candidate in expected.items():
        assert rows[name] == {
            "bleu": bleu(candidate, references),
            "chrf": chrf(candidate, references),
            "meteor": meteor(candidate, references),
        }


def test_the_language_reaches_every_row():
    rows = score_translations(["hablaron"], ["habló"], ["hablaste"], ["hablar"], "spanish")
    assert [row["meteor"].value for row in rows.values()] == [50, 50, 50]


def test_of_equally_frequent_sentences_the_first_is_taken():
    assert most_frequent_sentence(["c", "b", "a", "a", "b"]) == "b"
    assert most_frequent_sentence(["c", "a"]) == "c"


def test_scores_are_written_as_a_table_with_their_signatures():
    rows = {
        "model": {"bleu": Score("BLEU", 100.0, "tok:13a"), "chrf": Score("chrF2", 5.04, "nc:6")},
        "copy": {"bleu": Score("BLEU", 0.0, "tok:13a"), "chrf": Score("chrF2", 1.26, "nc:6")},
    }
    assert format_scores(rows).splitlines() == [
        "hypotheses   BLEU  chrF2",
        "model       100.0    5.0",
        "copy          0.0    1.3",
        "signatures: BLEU|tok:13a  chrF2|nc:6",
    ]


def test_the_table_of_a_model_has_a_line_for_each_row_and_one_for_the_signatures(rng):
    sentences = random_sentences(rng)
    rows = score_translations(sentences, sentences, sentences[::-1], sentences)
    header, *lines, last = format_scores(rows).splitlines()
    assert header.split() == ["hypotheses", "BLEU", "chrF2", "METEOR"]
    assert {len(line) for line in lines} == {len(header)}
    assert [line[:22].strip() for line in lines] == list(rows)
    assert all(score.signature in last for score in rows["model"].values())


# Messages


@pytest.mark.parametrize("metric", METRICS)
def test_lists_that_cannot_be_scored_are_refused(metric):
    with pytest.raises(ValueError, match="hypotheses must hold one sentence at least, got"):
        metric([], [])
    with pytest.raises(ValueError, match="references must hold one sentence at least, got"):
        metric(["a"], [])
    with pytest.raises(ValueError, match="same length, got 2 hypotheses and 1 references"):
        metric(["a", "b"], ["a"])
    with pytest.raises(TypeError, match="hypotheses must be a list of str, got str 'a cat'"):
        metric("a cat", ["a cat"])
    with pytest.raises(TypeError, match="references must be a list of str, got ndarray"):
        metric(["a"], np.array(["a"]))
    with pytest.raises(TypeError, match="hypotheses must be a list of str.*got None at index 1"):
        metric(["a", None], ["a", "b"])
    # Several references for a hypothesis are not supported.
    with pytest.raises(TypeError, match=r"one str for each sentence, got \['a', 'b'\] at index 0"):
        metric(["a"], [["a", "b"]])


def test_a_long_text_in_place_of_a_list_is_not_printed_whole():
    with pytest.raises(TypeError) as error:
        bleu("a" * 5000, ["a"])
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("language", ["klingon", "porter", "es", None])
def test_a_language_without_a_stemmer_is_refused(language):
    message = f"language must be one of.*'spanish'.*got {language!r}"
    with pytest.raises(ValueError, match=message):
        meteor(["a"], ["a"], language)
    with pytest.raises(ValueError, match=message):
        check_language(language)


def test_the_lists_of_the_baselines_are_checked_too():
    with pytest.raises(ValueError, match="same length, got 2 sources and 1 references"):
        score_translations(["a"], ["a"], ["b", "c"], ["a"])
    with pytest.raises(ValueError, match="training_targets must hold one sentence at least"):
        score_translations(["a"], ["a"], ["b"], [])
    with pytest.raises(TypeError, match="training_targets must be a list of str, got str"):
        score_translations(["a"], ["a"], ["b"], "a")
    with pytest.raises(TypeError, match="sentences must be a list of str"):
        most_frequent_sentence("abc")


def test_rows_that_cannot_share_a_table_are_refused():
    english, spanish = ({"meteor": meteor(["a"], ["a"], name)} for name in ("english", "spanish"))
    with pytest.raises(ValueError, match="rows must hold one row at least.*porter.*snowball"):
        format_scores({"first": english, "second": spanish})
    with pytest.raises(ValueError, match=r"rows must hold one row at least.*got \[\]"):
        format_scores({})


@pytest.mark.parametrize(
    "metric, module, library",
    [
        (bleu, "sacrebleu.metrics", "sacrebleu"),
        (chrf, "sacrebleu.metrics", "sacrebleu"),
        (meteor, "nltk.stem", "nltk"),
        (meteor, "sacrebleu.tokenizers.tokenizer_13a", "sacrebleu"),
    ],
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    monkeypatch, metric, module, library
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"scores need {library}: pip install sacrebleu nltk"):
        metric(["a"], ["a"])
