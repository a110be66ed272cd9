"""How good a fine-tuned model is, always beside simple baselines, with 95 % intervals.

Scores come from the libraries that researchers use: scikit-learn, seqeval, rouge-score and,
in `tfgpt.tasks.scores`, sacreBLEU and nltk.
"""

import re
import string
from collections import Counter
from dataclasses import dataclass

import numpy as np

from tfgpt.tasks.scores import align_columns, bleu, chrf, import_library, meteor

RESAMPLES = 1000  # of the examples, for an interval
BINS = 10  # of confidence
CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


@dataclass(frozen=True)
class Measure:
    """One score with its 95 % interval over examples.

    Args:
        value: float.
        low: float or None, the lower end of the interval.
        high: float or None, the upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self):
        if self.low is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def proportion(hits):
    """Measure a share, with Wilson's interval.

    Args:
        hits: bool array (N,), N >= 1.

    Returns:
        Measure.

    Example:
        >>> print(proportion([True] * 9 + [False]))
        0.900 (0.596 to 0.982)
    """
    stats = import_for_reports("scipy.stats")
    hits = np.asarray(hits, dtype=bool)
    interval = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return Measure(float(hits.mean()), float(interval.low), float(interval.high))


def average(values):
    """Measure a mean, with an interval by drawing the examples again and again.

    Args:
        values: float array (N,), N >= 1.

    Returns:
        Measure.
    """
    values = np.asarray(values, dtype=float)
    return resampled(lambda rows: values[rows].mean(axis=-1), len(values))


def resampled(score, count):
    """Measure score(places), with the interval of its values on drawn places (bootstrap).

    Args:
        score: function of int places (..., N) that returns floats (...).
        count: int, N.
    """
    rng = np.random.default_rng(0)
    drawn = score(rng.integers(0, count, (RESAMPLES, count)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Measure(float(score(np.arange(count))), float(low), float(high))


def over_seeds(values):
    """Describe one score of several trainings: mean and 95 % interval of Student's t.

    Args:
        values: list of float, one per seed.

    Returns:
        Measure, without an interval for one seed.
    """
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return Measure(mean)
    width = import_for_reports("scipy.stats").t.ppf(0.975, len(values) - 1)
    width *= values.std(ddof=1) / np.sqrt(len(values))
    return Measure(mean, float(mean - width), float(mean + width))


def import_for_reports(name):
    """Import a library of the `finetune` extra."""
    return import_library(name, "'tfgpt[finetune]'")


# Classification


def classification_scores(labels, predicted):
    """Measure accuracy and macro F1 of predicted labels.

    Args:
        labels: list of N str, what is right.
        predicted: list of N str.

    Returns:
        dict of Measure: "accuracy", "macro F1" (the mean of the F1 of each class).
    """
    metrics = import_for_reports("sklearn.metrics")
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    macro = metrics.f1_score(labels, predicted, average="macro", zero_division=0)
    return {"accuracy": proportion(labels == predicted), "macro F1": Measure(float(macro))}


def classification_baselines(training, test):
    """Score two simple classifiers: the most frequent label, and TF-IDF with a linear model.

    Args:
        training: Labelled.
        test: Labelled.

    Returns:
        dict of dicts of Measure, see `classification_scores`.
    """
    most = Counter(training.labels).most_common(1)[0][0]
    model = linear_classifier(training.texts)
    model.fit(training.texts, training.labels)
    return {
        "most frequent label": classification_scores(test.labels, [most] * len(test)),
        "TF-IDF + logistic regression": classification_scores(
            test.labels, model.predict(test.texts)
        ),
    }


def linear_classifier(texts):
    """Make TF-IDF with logistic regression: of characters where texts are Chinese, else words."""
    pipeline = import_for_reports("sklearn.pipeline")
    linear = import_for_reports("sklearn.linear_model")
    return pipeline.make_pipeline(
        vectorizer(texts), linear.LogisticRegression(C=10.0, max_iter=1000)
    )


def vectorizer(texts):
    """Make a TF-IDF of characters 1 to 3 where texts are Chinese, else of words 1 to 2."""
    text = import_for_reports("sklearn.feature_extraction.text")
    if is_cjk(texts):
        return text.TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
    return text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\b\w+\b")


def is_cjk(texts):
    """Say whether more than a third of the letters are Chinese, Japanese or Korean."""
    sample = "".join(texts[:200])
    letters = sum(character.isalpha() for character in sample)
    return len(CJK.findall(sample)) * 3 > letters


def class_table(labels, predicted):
    """Write precision, recall and F1 of each class as lines of text (scikit-learn)."""
    metrics = import_for_reports("sklearn.metrics")
    return metrics.classification_report(labels, predicted, zero_division=0, digits=3)


def confusion(labels, predicted, names):
    """Count (true, predicted) pairs: int array (C, C)."""
    return import_for_reports("sklearn.metrics").confusion_matrix(labels, predicted, labels=names)


def calibration(hits, confidences):
    """Compare confidence with the share that is right, in bins.

    Args:
        hits: bool array (N,).
        confidences: float array (N,), the probability of each predicted label.

    Returns:
        float, the expected calibration error: the mean distance of the two, weighted by
        examples; and three arrays (10,): mean confidence, share that is right, examples.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), section 2.
    """
    hits, confidences = np.asarray(hits, dtype=float), np.asarray(confidences, dtype=float)
    bins = np.minimum((confidences * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    filled = np.maximum(counts, 1)
    confidence = np.bincount(bins, confidences, BINS) / filled
    accuracy = np.bincount(bins, hits, BINS) / filled
    error = float(np.sum(counts * np.abs(confidence - accuracy)) / max(len(hits), 1))
    return error, confidence, accuracy, counts


# Tagging


def tagging_scores(tags, predicted):
    """Measure entities (seqeval) and words.

    An entity is right if its words and its kind are. The F1 of words counts "O" and parts
    of entities too, and is therefore higher: it says little about entities.

    Args:
        tags: list of N lists of BIO tags, what is right.
        predicted: list of N lists of tags.

    Returns:
        dict of Measure: "entity F1", "entity precision", "entity recall", "word accuracy".
    """
    find = import_for_reports("seqeval.metrics.sequence_labeling").get_entities
    counts = []
    for own, guess in zip(tags, predicted, strict=True):
        real, found = set(find(own)), set(find(guess))
        counts.append((len(real & found), len(found), len(real)))
    right, found, real = np.array(counts).T

    def f1(rows):
        total = found[rows].sum(axis=-1) + real[rows].sum(axis=-1)
        return 2 * right[rows].sum(axis=-1) / np.maximum(total, 1)

    flat, guesses = (sum(sentences, []) for sentences in (tags, predicted))
    words = np.array(flat) == np.array(guesses)
    return {
        "entity F1": resampled(f1, len(counts)),
        "entity precision": Measure(float(right.sum() / max(found.sum(), 1))),
        "entity recall": Measure(float(right.sum() / max(real.sum(), 1))),
        "word accuracy": proportion(words),
    }


def tagging_baseline(training, test):
    """Score the most frequent tag of each word, "O" for unknown words.

    Args:
        training: Labelled.
        test: Labelled.

    Returns:
        dict of dicts of Measure, see `tagging_scores`.
    """
    seen = {}
    for words, tags in zip(training.texts, training.labels, strict=True):
        for word, tag in zip(words, tags, strict=True):
            seen.setdefault(word, Counter())[tag] += 1
    best = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
    predicted = [[best.get(word, "O") for word in words] for words in test.texts]
    return {"most frequent tag of the word": tagging_scores(test.labels, predicted)}


def entity_table(tags, predicted):
    """Write precision, recall and F1 of each kind of entity as lines of text (seqeval)."""
    metrics = import_for_reports("seqeval.metrics")
    return metrics.classification_report(tags, predicted, zero_division=0, digits=3)


# Answers


def answer_scores(answers, predicted):
    """Measure answers: exact match, token F1, ROUGE, BLEU, chrF and METEOR.

    Exact match and token F1 ignore case, punctuation and English articles, as SQuAD does;
    each Chinese character is a token.

    Args:
        answers: list of N str, what is right.
        predicted: list of N str.

    Returns:
        dict of Measure, each 0 to 1, BLEU, chrF and METEOR 0 to 100.

    Source: Rajpurkar et al., "SQuAD" (2016); Lin, "ROUGE" (2004).
    """
    pairs = list(zip(answers, predicted, strict=True))
    rouge = import_for_reports("rouge_score.rouge_scorer")
    scorer = rouge.RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=RougeTokens())
    rouges = [scorer.score(answer, guess) for answer, guess in pairs]
    scores = {
        "exact match": proportion([answer_tokens(a) == answer_tokens(b) for a, b in pairs]),
        "token F1": average([token_f1(a, b) for a, b in pairs]),
    }
    for name, kind in (("ROUGE-1", "rouge1"), ("ROUGE-2", "rouge2"), ("ROUGE-L", "rougeL")):
        scores[name] = average([row[kind].fmeasure for row in rouges])
    for score in (bleu, chrf, meteor):
        found = score(predicted, answers)
        scores[found.name] = Measure(found.value)
    return scores


def answer_baselines(task, training, test):
    """Score simple answers: that of the nearest training prompt; for summaries the lead.

    Args:
        task: str, "summarise" for the lead.
        training: Labelled, prompts and answers.
        test: Labelled.

    Returns:
        dict of dicts of Measure, see `answer_scores`.
    """
    rows = {"answer of the nearest prompt": nearest_answers(training, test.texts)}
    if task == "summarise":
        rows["lead: the first sentence"] = [lead(text) for text in test.texts]
    return {name: answer_scores(test.labels, predicted) for name, predicted in rows.items()}


def nearest_answers(training, prompts):
    """Answer each prompt as the training prompt with the nearest TF-IDF vector."""
    vectors = vectorizer(training.texts)
    known = vectors.fit_transform(training.texts)
    nearest = (vectors.transform(prompts) @ known.T).argmax(axis=1)
    return [training.labels[place] for place in np.asarray(nearest).ravel()]


def lead(text):
    """Return the first sentence of a text.

    Example:
        >>> lead("One sentence. Another one.")
        'One sentence.'
    """
    return re.split(r"(?<=[.!?])\s|(?<=[。！？])", text, maxsplit=1)[0]


def answer_tokens(text):
    """Cut an answer into words, Chinese into characters; without articles and punctuation.

    Example:
        >>> answer_tokens("The 明月, again!")
        ['明', '月', 'again']
    """
    text = CJK.sub(r" \g<0> ", text.lower())
    text = text.translate(str.maketrans("", "", string.punctuation + "，。！？、：；“”"))
    return [word for word in text.split() if word not in ("a", "an", "the")]


def token_f1(answer, predicted):
    """Compute the F1 of the tokens of two answers, 0 to 1."""
    own, guess = answer_tokens(answer), answer_tokens(predicted)
    if not own or not guess:
        return float(own == guess)
    common = sum((Counter(own) & Counter(guess)).values())
    return 2 * common / (len(own) + len(guess))


class RougeTokens:
    """Cut text for rouge-score, whose own way loses all that is not ASCII."""

    def tokenize(self, text):
        """Return the tokens of a text."""
        return answer_tokens(text)


# Text


def score_table(rows):
    """Write scores as a table: a line per model, a column per score.

    Args:
        rows: dict from a name to a dict from a score to its Measure.

    Returns:
        str.

    Example:
        >>> print(score_table({"model": {"accuracy": Measure(0.5)}}))
               accuracy
        model     0.500
    """
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [["", *names]]
    lines += [
        [title, *(str(row[name]) if name in row else "-" for name in names)]
        for title, row in rows.items()
    ]
    return "\n".join(line.rstrip() for line in align_columns(lines))
