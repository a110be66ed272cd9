"""How good a translation is: BLEU, chrF and METEOR, next to two trivial baselines.

The scores come from the libraries that researchers use: sacreBLEU and nltk. They
compare each hypothesis (what the model said) with one reference (what a person
said). 100 is best, 0 is worst. Nothing is downloaded.

A score without its signature says little: other settings or versions give other
numbers. BLEU and METEOR cut text at spaces and ASCII punctuation here (tok:13a),
which does not fit Chinese, Japanese or Thai; chrF needs no words.
"""

import importlib
import reprlib
from collections import Counter
from dataclasses import dataclass
from statistics import fmean

from tfgpt.validation import check_choice


@dataclass(frozen=True)
class Score:
    """One score of one set of translations.

    Args:
        name: str, "BLEU", "chrF2" or "METEOR".
        value: float in [0, 100].
        signature: str, the settings and the version that gave the value.
    """

    name: str
    value: float
    signature: str


def bleu(hypotheses, references):
    """Compute the corpus BLEU of sacreBLEU: how many runs of 1 to 4 words are right.

    BLEU = 100 * BP * (p1 * p2 * p3 * p4)^(1/4). pn is the share of the
    hypotheses' runs of n words that are also in their reference. BP = e^(1 - r/h)
    if the hypotheses have fewer words (h) than the references (r), else 1. The
    runs of all sentences are counted together: it is no mean over sentences.
    Where no sentence has four words, even perfect translations have BLEU 0. Where
    words match but no run of n words does, pn is not 0: the first such pn is
    1 / (2 * runs), the next 1 / (4 * runs) (smooth:exp). So do not trust the BLEU
    of a few short sentences.

    Args:
        hypotheses: list of str, as a reader would see them; "" counts as no words.
        references: list of str, one for each hypothesis.

    Returns:
        Score.

    Raises:
        TypeError: if an argument is not a list of str.
        ValueError: if a list is empty or the lengths differ.
        ImportError: if sacreBLEU is not installed.

    Example:
        >>> score = bleu(["the cat sat on the mat"], ["the cat sat on a mat"])
        >>> score.name, round(score.value, 2)
        ('BLEU', 53.73)

    Source: Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine
    Translation"; Post, "A Call for Clarity in Reporting BLEU Scores" (sacreBLEU).
    """
    check_pairs(hypotheses, references)
    metric = import_library("sacrebleu.metrics").BLEU(tokenize="13a")
    return library_score(metric, hypotheses, references)


def chrf(hypotheses, references):
    """Compute the corpus chrF of sacreBLEU: how many runs of 1 to 6 characters are right.

    chrF2 = 100 * 5PR / (4P + R). P is the share of the hypotheses' runs that are
    right, R the share of the references' runs that were found, each a mean over
    the lengths 1 to 6 that occur in both. Spaces do not count. A wrong word ending
    costs less than in BLEU.

    Args:
        hypotheses: list of str; "" counts as no characters.
        references: list of str, one for each hypothesis.

    Returns:
        Score.

    Raises:
        TypeError: if an argument is not a list of str.
        ValueError: if a list is empty or the lengths differ.
        ImportError: if sacreBLEU is not installed.

    Example:
        >>> round(chrf(["ab"], ["abc"]).value, 2)  # P = 1, R = (2/3 + 1/2) / 2
        63.64

    Source: Popović, "chrF: character n-gram F-score for automatic MT evaluation".
    """
    check_pairs(hypotheses, references)
    return library_score(import_library("sacrebleu.metrics").CHRF(), hypotheses, references)


def meteor(hypotheses, references, language="english"):
    """Compute the mean sentence METEOR of nltk: which words match, and in what order.

    Words match if they are equal, else if their stems are, else (English only,
    where WordNet is on this machine) if they are synonyms. m matches give
    P = m / words of the hypothesis and R = m / words of the reference;
    METEOR = 100 * 10PR / (R + 9P) * (1 - 0.5 * (chunks / m)^3). A chunk is a run
    of matches in the same order, so a perfect sentence of m words has
    100 - 50 / m^3, not 100.

    Case does not count. The signature says which stages were used: scores with
    and without synonyms cannot be compared, nor with METEOR 1.5. To get WordNet,
    run `python -m nltk.downloader wordnet` once. nltk looks synonyms up for stems:
    "car" finds "auto", but "happy" has the stem "happi" and does not find "glad".

    Args:
        hypotheses: list of str; "" scores 0.
        references: list of str, one for each hypothesis.
        language: str, the language of both, in English: "english", "spanish", ...

    Returns:
        Score.

    Raises:
        TypeError: if an argument is not a list of str.
        ValueError: if a list is empty, the lengths differ, or nltk has no stemmer
            for the language.
        ImportError: if sacreBLEU (it cuts the words) or nltk is not installed.

    Example:
        >>> meteor(["cats run"], ["cat runs"]).value  # 2 stems match, 1 chunk
        93.75

    Source: Banerjee and Lavie, "METEOR: An Automatic Metric for MT Evaluation with
    Improved Correlation with Human Judgments"; nltk.translate.meteor_score.
    """
    check_pairs(hypotheses, references)
    stemmer, stages = load_stemmer(language)
    synonyms, synonym_stage = load_synonyms(language)
    tokenizer = import_library("sacrebleu.tokenizers.tokenizer_13a").Tokenizer13a()
    sentence_score = import_library("nltk.translate.meteor_score").single_meteor_score
    values = [
        sentence_score(
            tokenizer(reference).split(),
            tokenizer(hypothesis).split(),
            stemmer=stemmer,
            wordnet=synonyms,
        )
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]
    version = import_library("nltk").__version__
    signature = f"nrefs:1|case:lc|tok:13a|stages:{stages}{synonym_stage}|version:nltk-{version}"
    return Score("METEOR", 100 * fmean(values), signature)


def score_translations(hypotheses, references, sources, training_targets, language="english"):
    """Score a model next to two baselines that translate nothing.

    A model that is not clearly above both has learned little. "copy the source"
    repeats the sentence to translate. "most frequent sentence" always says the
    sentence that is most frequent in the training targets.

    Args:
        hypotheses: list of str, the model's translations.
        references: list of str, one for each hypothesis.
        sources: list of str, the sentence to translate of each hypothesis.
        training_targets: list of str, the translations that the model learned from.
        language: str, the language of the references, as in `meteor`.

    Returns:
        dict: for "model", "copy the source" and "most frequent sentence" a dict
        with the Scores "bleu", "chrf" and "meteor".

    Raises:
        TypeError: if an argument is not a list of str.
        ValueError: if a list is empty, the lengths differ, or the language is unknown.
        ImportError: if sacreBLEU or nltk is not installed.

    Example:
        >>> rows = score_translations(
        ...     hypotheses=["the black cat sleeps"],
        ...     references=["the cat sleeps"],
        ...     sources=["el gato duerme"],
        ...     training_targets=["no dogs", "the dog", "the dog"],
        ... )
        >>> [(name, round(row["chrf"].value)) for name, row in rows.items()]
        [('model', 69), ('copy the source', 10), ('most frequent sentence', 10)]
    """
    check_pairs(hypotheses, references)
    check_pairs(sources, references, name="sources")
    check_sentences("training_targets", training_targets)
    repeated = [most_frequent_sentence(training_targets)] * len(references)
    candidates = {
        "model": hypotheses,
        "copy the source": sources,
        "most frequent sentence": repeated,
    }
    return {
        name: {
            "bleu": bleu(candidate, references),
            "chrf": chrf(candidate, references),
            "meteor": meteor(candidate, references, language),
        }
        for name, candidate in candidates.items()
    }


def most_frequent_sentence(sentences):
    """Return the sentence that occurs most often; of several the one that came first.

    Args:
        sentences: list of str.

    Returns:
        str.

    Raises:
        TypeError: if sentences is not a list of str.
        ValueError: if it is empty.

    Example:
        >>> most_frequent_sentence(["yes", "no", "maybe", "no", "yes"])
        'yes'
    """
    check_sentences("sentences", sentences)
    return Counter(sentences).most_common(1)[0][0]


def format_scores(rows):
    """Write rows of scores as a text table; the last line holds the signatures.

    Args:
        rows: dict of dicts of Score, as made by `score_translations`.

    Returns:
        str, with a line for each row.

    Raises:
        ValueError: if there is no row, or the rows do not share their signatures.

    Example:
        >>> print(format_scores({"model": {"bleu": Score("BLEU", 31.4159, "tok:13a")}}))
        hypotheses  BLEU
        model       31.4
        signatures: BLEU|tok:13a
    """
    columns = {
        tuple((score.name, score.signature) for score in row.values()) for row in rows.values()
    }
    if len(columns) != 1:
        raise ValueError(
            "rows must hold one row at least, all with the same scores and signatures, "
            f"got {sorted(columns)}."
        )
    (column,) = columns
    lines = [["hypotheses", *(name for name, _ in column)]]
    lines += [
        [name, *(f"{score.value:.1f}" for score in row.values())] for name, row in rows.items()
    ]
    signatures = "  ".join(f"{name}|{signature}" for name, signature in column)
    return "\n".join([*align_columns(lines), f"signatures: {signatures}"])


def align_columns(rows):
    """Write a table as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


def check_language(language):
    """Raise unless METEOR has a stemmer for a language; for use before a long training.

    Args:
        language: str, in English: "english", "spanish", ...

    Raises:
        ValueError: if nltk has no stemmer for it.
        ImportError: if nltk is not installed.
    """
    # "porter" is the name of a stemmer for English.
    known = import_library("nltk.stem").SnowballStemmer.languages
    check_choice("language", language, [name for name in known if name != "porter"])


def load_stemmer(language):
    """Return nltk's stemmer for a language and the stages of METEOR that need no data."""
    check_language(language)
    stem = import_library("nltk.stem")
    if language == "english":
        # The stemmer of METEOR and the default of nltk's.
        return stem.PorterStemmer(), "exact+porter"
    return stem.SnowballStemmer(language), f"exact+snowball[{language}]"


class NoSynonyms:
    """Stand in for WordNet where it is not used: no word has a synonym."""

    def synsets(self, word):
        """List the meanings of a word: none."""
        return []


def load_synonyms(language):
    """Return what finds synonyms, and its stage of METEOR: WordNet, or nothing and "".

    WordNet is English. Its files may be unpacked or a zip.
    """
    if language == "english":
        wordnet = import_library("nltk.corpus").wordnet
        try:
            wordnet.ensure_loaded()
            return wordnet, "+wordnet"
        except LookupError:
            pass
    return NoSynonyms(), ""


def library_score(metric, hypotheses, references):
    """Compute a corpus score of sacreBLEU."""
    result = metric.corpus_score(hypotheses, [references])
    # Rounding can make a perfect score 100.00000000000004.
    return Score(result.name, min(result.score, 100.0), str(metric.get_signature()))


def import_library(module_name, packages="sacrebleu nltk"):
    """Import a module of an optional library; raise with the command that installs it."""
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        raise ImportError(
            f"scores need {module_name.partition('.')[0]}: pip install {packages}"
        ) from error


def check_pairs(hypotheses, references, name="hypotheses"):
    """Raise unless both are lists of str of the same length, not empty."""
    check_sentences(name, hypotheses)
    check_sentences("references", references)
    if len(hypotheses) != len(references):
        raise ValueError(
            f"{name} and references must have the same length, "
            f"got {len(hypotheses)} {name} and {len(references)} references."
        )


def check_sentences(name, sentences):
    """Raise unless `sentences` is a list of str that is not empty."""
    if not isinstance(sentences, (list, tuple)):
        kind = type(sentences).__name__
        raise TypeError(f"{name} must be a list of str, got {kind} {reprlib.repr(sentences)}.")
    if not sentences:
        raise ValueError(f"{name} must hold one sentence at least, got {sentences!r}.")
    for index, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise TypeError(
                f"{name} must be a list of str, one str for each sentence, "
                f"got {reprlib.repr(sentence)} at index {index}."
            )
