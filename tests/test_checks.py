"""Tests of tfgpt.checks: empty, right and wrong answers to the exercises."""

import json
import os
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tfgpt import checks
from tfgpt.checks import EXERCISES, Case, Exercise, check, compare, prove_equal
from tfgpt.checks.notebook_18 import after_kill, atomic_write
from tfgpt.checks.registry import call

SOLUTIONS = sorted((Path(__file__).parents[1] / "notebooks" / "solutions").glob("*.ipynb"))


@pytest.fixture(autouse=True)
def folder_of_the_learner(tmp_path, monkeypatch):
    """Keep the files that a check writes out of the repository."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def double(monkeypatch):
    """An exercise to test with: twice a list."""
    exercise = Exercise(
        lambda x: np.asarray(x) * 2.0,
        (
            Case("a list", ([1.0, 2.0],), "Multiply by 2."),
            Case("edge case: nothing", ([],), "An empty list stays empty."),
        ),
        tolerance=1e-3,
    )
    monkeypatch.setitem(checks.EXERCISES, "double", exercise)
    return exercise


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_every_exercise_accepts_the_solution_of_its_notebook(path, capsys):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    names = {"__name__": path.stem}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    printed = capsys.readouterr().out
    for name in re.findall(
        r"check\(\"([^\"]+)\"", path.read_text(encoding="utf-8").replace('\\"', '"')
    ):
        assert f"{name}: all {len(EXERCISES[name].cases)} checks passed.\n" in printed


FUNCTIONS = [name for name, exercise in EXERCISES.items() if exercise.play is call]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_exercise_refuses_wrong_shapes_and_values_with_its_hint(name):
    exercise = EXERCISES[name]
    first = exercise.cases[0]

    def wrong_value(*inputs):
        result = np.asarray(exercise.reference(*inputs))
        return ~result if result.dtype == bool else result + 1

    def wrong_shape(*inputs):
        return np.asarray(exercise.reference(*inputs))[None]

    for answer in (wrong_value, wrong_shape):
        with pytest.raises(AssertionError) as raised:
            check(name, answer)
        message = str(raised.value)
        assert message.startswith(f"{name}, {first.what}: ") and message.endswith(first.hint)


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_has_an_edge_case_and_a_hint_for_each_case(name):
    cases = EXERCISES[name].cases
    assert len(cases) >= 2
    assert any(case.what.startswith("edge case") for case in cases)
    assert all(case.hint.endswith(".") for case in cases)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("answer", [None, ...])
def test_a_stub_is_still_empty_and_no_error(name, answer, capsys):
    assert check(name, lambda *inputs: answer) is False
    printed = capsys.readouterr().out
    assert printed.startswith(f"{name}: still empty.") and "passed" not in printed


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: [[2.0, 4.0]], r"double, a list: the shape is \(1, 2\), expected \(2,\)"),
        (lambda x: [True, True], "double, a list: the dtype is bool, expected float64"),
        (lambda x: [2.0, 5.0], r"double, a list: the value at index \[1\] is 5.0, expected 4.0"),
        (lambda x: [2.0, np.nan], r"double, a list: the value at index \[1\] is nan"),
        (lambda x: [np.inf, 4.0], r"double, a list: the value at index \[0\] is inf"),
        (lambda x: "text", "double, a list: the result must be one array of numbers"),
        (lambda x: [[1.0], [1.0, 2.0]], "double, a list: the result must be one array"),
        (lambda x: {"a": 1}, "double, a list: the result must be one array of numbers"),
        (lambda x: [2.0, 4.0], r"double, edge case: nothing: the shape is \(2,\)"),
    ],
    ids=["shape", "dtype", "value", "NaN", "inf", "text", "ragged", "dict", "edge case"],
)
def test_a_wrong_answer_names_the_case_and_ends_with_the_hint(double, answer, message):
    with pytest.raises(AssertionError, match=message) as raised:
        check("double", answer)
    edge = "edge case" in str(raised.value)
    assert str(raised.value).endswith(double.cases[edge].hint)


def my_beam_step(log_probs, totals):
    """The solution of notebook 07."""
    best = np.argsort(-(totals[:, None] + log_probs).ravel())[: len(totals)]
    return best // log_probs.shape[1], best % log_probs.shape[1]


def best_of_each_beam(log_probs, totals):
    """Forget that two winners may continue one beam."""
    tokens = log_probs.argmax(axis=1)
    order = np.argsort(-(totals + log_probs.max(axis=1)))
    return order, tokens[order]


def without_totals(log_probs, totals):
    return my_beam_step(log_probs, 0 * totals)


def worst_first(log_probs, totals):
    return [part[::-1] for part in my_beam_step(log_probs, totals)]


def pairs_of_beams(log_probs, totals):
    return np.transpose(my_beam_step(log_probs, totals))


def runs(words, n):
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def without_clipping(hypothesis, reference, n):
    known = runs(reference, n)
    return np.mean([run in known for run in runs(hypothesis, n)])


def recall(hypothesis, reference, n):
    return EXERCISES["modified precision"].reference(reference, hypothesis, n)


def single_words_only(hypothesis, reference, n):
    return EXERCISES["modified precision"].reference(hypothesis, reference, 1)


def without_an_edge_case(hypothesis, reference, n):
    found = runs(hypothesis, n)
    right = EXERCISES["modified precision"].reference(hypothesis, reference, n) * len(found)
    return np.float64(right) / len(found) if found else np.nan


def with_equal_places(places):
    return sum(a >= b for i, a in enumerate(places) for b in places[i + 1 :])


def only_neighbours(places):
    return int((np.diff(places) < 0).sum())


@pytest.mark.parametrize(
    ("name", "answer", "message"),
    [
        ("length penalty", lambda n, alpha: 5 + n / 6, "alpha 1: the value is 6.1"),
        ("length penalty", lambda n, alpha: (5 + n) / 6, "alpha 0.6: the value is 4.1"),
        ("length penalty", lambda n, alpha: (5 + n) ** alpha / 6, "alpha 0.6: .*whole fraction"),
        ("beam step", lambda log_probs, totals: [0] * len(totals), "one beam: the shape is"),
        ("beam step", best_of_each_beam, "both winners continue one beam: .*not one of each"),
        ("beam step", pairs_of_beams, r"one beam: the shape is \(1, 2\), expected \(2, 1\)"),
        ("beam step", without_totals, "both winners continue one beam: .*Add the totals"),
        ("beam step", worst_first, "both winners continue one beam: the value"),
        ("modified precision", recall, "single words: .*not in the reference"),
        ("modified precision", without_clipping, "a repeated word: the value is 1.0, .*only two"),
        ("modified precision", single_words_only, "pairs of words: .*side by side"),
        ("modified precision", without_an_edge_case, "edge case: fewer than n words: .* is nan"),
        ("crossings", only_neighbours, "the reverse order: the value is 3, expected 6"),
        ("crossings", with_equal_places, "equal places: the value is 3, expected 2"),
    ],
)
def test_a_typical_mistake_in_translation_gets_its_hint(name, answer, message):
    with pytest.raises(AssertionError, match=f"^{name}, {message}"):
        check(name, answer)


def test_the_beam_step_of_the_solution_is_right():
    assert check("beam step", my_beam_step)


def test_the_modified_precision_is_that_of_sacrebleu():
    metric = pytest.importorskip("sacrebleu").metrics.BLEU(tokenize="none")
    generator = np.random.default_rng(0)
    for _ in range(20):
        texts = [list(generator.choice(list("abc"), length)) for length in (7, 9)]
        score = metric.corpus_score([" ".join(texts[0])], [[" ".join(texts[1])]])
        for n, count, total in zip(range(1, 5), score.counts, score.totals, strict=True):
            precision = EXERCISES["modified precision"].reference(*texts, n)
            assert precision == pytest.approx(count / total)


def bytes_by_table(code_point):
    """The solution of notebook 08."""
    return 1 + sum(code_point > limit for limit in (0x7F, 0x7FF, 0xFFFF))


def best_pair_by_sorting(words, counts):
    pairs = {}
    for word, count in zip(words, counts, strict=True):
        for i in range(len(word) - 1):
            pairs[word[i], word[i + 1]] = pairs.get((word[i], word[i + 1]), 0) + count
    return np.array(sorted(pairs, key=lambda pair: (pairs[pair], -pair[0], -pair[1]))[-1])


def first_of_equals(words, counts):
    """Forget the rule for ties: the pair that was met first wins."""
    pairs = Counter()
    for word, count in zip(words, counts, strict=True):
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs.most_common(1)[0][0]


def without_counts(words, counts):
    return best_pair_by_sorting(words, [1] * len(words))


def ties_by_first_id_only(words, counts):
    pairs = Counter()
    for word, count in zip(words, counts, strict=True):
        for pair in pairwise(word):
            pairs[pair] += count
    return min(pairs, key=lambda pair: (-pairs[pair], pair[0]))


def merge_in_place(ids, pair, new_id):
    """Another style: the list itself becomes shorter."""
    place = 0
    while place + 1 < len(ids):
        if (ids[place], ids[place + 1]) == pair:
            ids[place : place + 2] = [new_id]
        place += 1
    return ids


def merge_keeps_the_second(ids, pair, new_id):
    return [new_id if found == pair else found[0] for found in pairwise([*ids, -1])]


def merge_the_first_only(ids, pair, new_id):
    for place, found in enumerate(pairwise(ids)):
        if found == pair:
            return [*ids[:place], new_id, *ids[place + 2 :]]
    return ids


def merge_from_the_right(ids, pair, new_id):
    return merge_in_place(ids[::-1], pair[::-1], new_id)[::-1]


def merge_without_the_last(ids, pair, new_id):
    merged, place = [], 0
    while place + 1 < len(ids):
        found = (ids[place], ids[place + 1]) == pair
        merged.append(new_id if found else ids[place])
        place += 1 + found
    return merged


def parameters_by_hand(vocab_size, context_length, num_layers, d_model, tables=1, norm=2):
    tables = (tables * vocab_size + context_length) * d_model
    return tables + num_layers * (12 * d_model**2 + 13 * d_model) + norm * d_model


def flops_by_products(vocab_size, num_layers, d_model, length, sums=2):
    """Another style: each product of (m, k) and (k, n) by itself."""
    products = num_layers * 4 * [(length, d_model, d_model)]
    products += num_layers * 2 * [(length, d_model, 4 * d_model)]
    products += num_layers * sums * [(length, d_model, length)]
    return 2 * sum(m * k * n for m, k, n in [*products, (length, d_model, vocab_size)])


def log_likelihood_by_loop(token_ids, logits, first=0):
    total = 0.0
    for place in range(len(token_ids) - 1):
        row = logits[place + first]
        total += row[token_ids[place + 1]] - np.log(np.sum(np.exp(row)))
    return total


def mean_log_likelihood(token_ids, logits):
    return log_likelihood_by_loop(token_ids, logits) / (len(token_ids) - 1)


def without_token_0(token_ids, logits):
    return log_likelihood_by_loop([*token_ids[:1], *filter(None, token_ids[1:])], logits)


def stop_by_counting(losses, patience):
    """The solution of notebook 09 in another style: count the bad epochs."""
    best, bad = 0, 0
    for epoch, loss in enumerate(losses):
        best, bad = (epoch, 0) if epoch == 0 or loss < losses[best] else (best, bad + 1)
        if bad == patience:
            return [epoch, best]
    return [len(losses) - 1, best]


def never_resets(losses, patience):
    best, bad = 0, 0
    for epoch, loss in enumerate(losses):
        if loss <= losses[best] and (epoch == 0 or loss < losses[best]):
            best = epoch
        else:
            bad += 1
        if bad == patience:
            return epoch, best
    return epoch, best


def compares_with_the_epoch_before(losses, patience):
    bad = 0
    for epoch in range(1, len(losses)):
        bad = bad + 1 if losses[epoch] >= losses[epoch - 1] else 0
        if bad == patience:
            break
    return epoch, int(np.argmin(losses[: epoch + 1]))


def best_of_all_epochs(losses, patience):
    return stop_by_counting(losses, patience)[0], int(np.argmin(losses))


def equal_is_better(losses, patience):
    best = 0
    for epoch, loss in enumerate(losses):
        best = epoch if loss <= losses[best] else best
        if epoch - best == patience:
            break
    return epoch, best


def forgets_to_end(losses, patience):
    stop, best = stop_by_counting(losses, patience)
    return (stop, best) if stop - best >= patience else (-1, best)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("bytes of a character", bytes_by_table),
        ("best pair", best_pair_by_sorting),
        ("merge", merge_in_place),
        ("bits per byte", lambda loss, text, n: loss * n / np.log(2) / len(text.encode())),
        ("gpt parameters", parameters_by_hand),
        ("forward flops", flops_by_products),
        ("log-likelihood", log_likelihood_by_loop),
        ("early stopping", stop_by_counting),
    ],
)
def test_a_right_answer_in_another_style_passes(name, answer):
    assert check(name, answer)


@pytest.mark.parametrize(
    ("name", "answer", "message"),
    [
        ("bytes of a character", lambda c: 3 if c > 127 else 1, "a full moon: the value is 3"),
        (
            "bytes of a character",
            lambda c: -(-c.bit_length() // 8),
            "月: the value is 2, expected 3",
        ),
        (
            "bytes of a character",
            lambda c: 1 + sum(c >= limit for limit in (0x7F, 0x7FF, 0xFFFF)),
            "edge case: the last of its row: the value is 2",
        ),
        (
            "bytes of a character",
            lambda c: 1 + sum(c > limit for limit in (0x80, 0x7FF, 0xFFFF)),
            "edge case: the first of its row: the value is 1",
        ),
        (
            "bytes of a character",
            lambda c: 1 + (c > 0x7F) + (c >= 0x7FF) + (c > 0xFFFF),
            "edge case: the last of row 2: the value is 3",
        ),
        ("best pair", without_counts, "words with counts: .*counts 5 times"),
        ("best pair", first_of_equals, "equal counts: .*smallest first id"),
        ("best pair", ties_by_first_id_only, "edge case: equal counts and equal first ids"),
        ("best pair", lambda words, counts: 4, r"one word: the shape is \(\), expected \(2,\)"),
        ("merge", merge_keeps_the_second, r"one pair: the shape is \(3,\), expected \(2,\)"),
        ("merge", merge_the_first_only, "two pairs: the shape .*Every pair is merged"),
        ("merge", merge_without_the_last, "one pair: the shape"),
        ("merge", merge_from_the_right, r"edge case: three equal tokens: the value at index \[0\]"),
        (
            "merge",
            lambda ids, pair, new_id: merge_in_place(ids, pair[::-1], new_id),
            "one pair: the shape",
        ),
        ("bits per byte", lambda loss, text, n: loss, "one token per character: .*in nats"),
        ("bits per byte", lambda loss, text, n: loss / np.log(2), "two tokens: .*a mean per token"),
        (
            "bits per byte",
            lambda loss, text, n: loss * n / (len(text) * np.log(2)),
            "edge case: Chinese: .*counts characters",
        ),
        (
            "gpt parameters",
            lambda *sizes: parameters_by_hand(*sizes, norm=0),
            "one block: .*the final norm",
        ),
        (
            "gpt parameters",
            lambda V, T, L, D: L * parameters_by_hand(V, T, 1, D),  # noqa: N803
            "three blocks: .*Only the blocks",
        ),
        (
            "gpt parameters",
            lambda *sizes: parameters_by_hand(*sizes, tables=2),
            "one block: the value is 1080, expected 1000",
        ),
        (
            "forward flops",
            lambda *sizes: flops_by_products(*sizes) // 2,
            "one position: .*two operations",
        ),
        (
            "forward flops",
            lambda V, L, D, T: L * flops_by_products(V, 1, D, T),  # noqa: N803
            "two layers: .*used once",
        ),
        (
            "forward flops",
            lambda V, L, D, T: T * flops_by_products(V, L, D, 1),  # noqa: N803
            "16 positions: .*all T keys",
        ),
        (
            "log-likelihood",
            lambda ids, logits: log_likelihood_by_loop(ids, logits, first=1),
            "two tokens: .*position 0",
        ),
        ("log-likelihood", mean_log_likelihood, "five tokens: .*no mean"),
        ("log-likelihood", lambda *x: -log_likelihood_by_loop(*x), "two tokens: the value"),
        ("log-likelihood", without_token_0, "five tokens: the value"),
        ("early stopping", never_resets, "a second chance: .*back to 0"),
        (
            "early stopping",
            compares_with_the_epoch_before,
            "a jump, then falling: .*best loss so far",
        ),
        ("early stopping", best_of_all_epochs, "patience 2: .*never seen"),
        ("early stopping", equal_is_better, "edge case: equal losses: .*the first one is kept"),
        ("early stopping", forgets_to_end, "edge case: it never stops: .*the last epoch"),
        ("early stopping", lambda losses, patience: 3, r"patience 2: the shape is \(\)"),
    ],
)
def test_a_typical_mistake_with_tokens_and_gpt_gets_its_hint(name, answer, message):
    with pytest.raises(AssertionError, match=f"^{name}, {message}"):
        check(name, answer)


def test_the_early_stopping_of_the_exercise_is_that_of_keras():
    import keras

    rule = EXERCISES["early stopping"].reference
    generator = np.random.default_rng(0)
    for _ in range(20):
        losses, patience = generator.random(12).round(1).tolist(), int(generator.integers(1, 5))
        callback = keras.callbacks.EarlyStopping(patience=patience)
        callback.set_model(keras.Sequential())
        callback.model.stop_training = False
        callback.on_train_begin()
        for epoch, loss in enumerate(losses):
            callback.on_epoch_end(epoch, {"val_loss": loss})
            if callback.model.stop_training:
                break
        assert rule(losses, patience) == (epoch, callback.best_epoch)


def softmax_of(logits):
    weights = np.exp(np.asarray(logits) - np.max(logits))
    return weights / weights.sum()


def top_p_by_loop(logits, p, *, crossing=True, normalise=True):
    """Another style: add tokens, the likeliest first, until they reach p."""
    probabilities = softmax_of(logits)
    kept, total = np.zeros_like(probabilities), 0.0
    for token in np.argsort(-probabilities):
        if total >= p or (not crossing and total + probabilities[token] > p):
            break
        kept[token] = probabilities[token]
        total += probabilities[token]
    return kept / kept.sum() if normalise and kept.any() else kept


def top_p_in_sorted_order(logits, p):
    return np.sort(top_p_by_loop(logits, p))[::-1]


def top_p_of_exponentials(logits, p):
    """Forget that logits are no log-probabilities: the sum reaches p too soon."""
    weights = np.exp(logits)
    order = np.argsort(-weights)
    before = np.cumsum(weights[order]) - weights[order]
    kept = np.zeros_like(weights)
    kept[order[before < p]] = weights[order[before < p]]
    return kept / kept.sum()


def top_p_that_reaches_the_end(logits, p):
    """Take the first place where the sum is at least p; rounding can leave none."""
    probabilities = softmax_of(logits)
    order = np.argsort(-probabilities)
    last = np.argmax(np.cumsum(probabilities[order]) * (1 - 1e-12) >= p)
    kept = np.zeros_like(probabilities)
    kept[order[: last + 1]] = probabilities[order[: last + 1]]
    return kept / kept.sum()


def min_p_of_logits(logits, p):
    """Another style: compare logits with the largest one plus log p."""
    logits = np.asarray(logits)
    with np.errstate(divide="ignore"):
        return softmax_of(np.where(logits >= logits.max() + np.log(p), logits, -np.inf))


def min_p_with(compare_to, normalise=True, strict=False):
    def answer(logits, p):
        probabilities = softmax_of(logits)
        limit = compare_to(probabilities, p)
        kept = np.where(probabilities > limit if strict else probabilities >= limit, 1, 0)
        with np.errstate(invalid="ignore"):
            return kept * probabilities / ((kept * probabilities).sum() if normalise else 1)

    return answer


def min_p_of_the_raw_logits(logits, p):
    logits = np.asarray(logits)
    is_likely = logits >= p * logits.max() if logits.max() > 0 else logits >= logits.max() / p
    return softmax_of(np.where(is_likely, logits, -np.inf))


def attention_step_by_loop(query, key, value, keys, values, *, with_itself=True, scale=True):
    """The solution of notebook 10 in another style: a loop over the tokens."""
    tokens = list(zip(keys, values, strict=True)) + with_itself * [(key, value)]
    width = len(query) if scale else 1
    weights = [np.exp(np.dot(query, k) / np.sqrt(width)) for k, _ in tokens]
    summed = sum(w * v for w, (_, v) in zip(weights, tokens, strict=True))
    return summed / sum(weights) if tokens else np.zeros(len(query))


def accept_by_loop(p, q, token, point, *, ratio=lambda p, q: p / q, rest=None):
    """The solution of notebook 10 in another style: one token after the other."""
    if point < min(1, ratio(p[token], q[token])):
        return [int(place == token) for place in range(len(p))]
    rest = [max(a - b, 0) for a, b in zip(p, q, strict=True)] if rest is None else rest(p, q)
    return [value / sum(rest) for value in rest]


def accept_an_impossible_token(p, q, token, point):
    return np.eye(len(p))[token] if point <= p[token] / q[token] else accept_by_loop(p, q, token, 1)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("top-p", top_p_by_loop),
        ("min-p", min_p_of_logits),
        ("min-p", min_p_with(lambda probabilities, p: p * probabilities.max())),
        ("cached attention step", attention_step_by_loop),
        ("accept or replace", accept_by_loop),
    ],
)
def test_a_right_answer_about_generation_passes_in_another_style(name, answer):
    assert check(name, answer)


@pytest.mark.parametrize(
    ("name", "answer", "message"),
    [
        (
            "top-p",
            lambda logits, p: top_p_by_loop(logits, p, crossing=False),
            r"three tokens: the value at index \[0\] is 1.0",
        ),
        (
            "top-p",
            lambda logits, p: top_p_by_loop(logits, p, normalise=False),
            "three tokens: .*sum to 1 again",
        ),
        ("top-p", top_p_in_sorted_order, "another order: .*belongs to token i"),
        ("top-p", top_p_of_exponentials, "large logits: .*Logits are no probabilities"),
        ("top-p", top_p_that_reaches_the_end, "edge case: p = 1: .*Rounding"),
        ("top-p", lambda logits, p: np.flatnonzero(logits), r"three tokens: the value at index"),
        ("min-p", min_p_with(lambda probabilities, p: p), "three tokens: .*a share of something"),
        (
            "min-p",
            min_p_with(lambda probabilities, p: p * probabilities.max(), normalise=False),
            "three tokens: .*sums to 1 again",
        ),
        (
            "min-p",
            min_p_with(lambda probabilities, p: p * probabilities.max(), strict=True),
            r"edge case: p = 1: the value at index \[0\] is nan",
        ),
        ("min-p", min_p_of_the_raw_logits, "large logits: .*not logits"),
        (
            "cached attention step",
            lambda *x: attention_step_by_loop(*x, with_itself=False),
            "two earlier tokens: .*Which tokens",
        ),
        (
            "cached attention step",
            lambda *x: attention_step_by_loop(*x, scale=False),
            "two earlier tokens: ",
        ),
        (
            "cached attention step",
            lambda q, k, v, keys, values: attention_step_by_loop(k, k, v, keys, values),
            "width 4: |two earlier tokens: ",
        ),
        (
            "cached attention step",
            lambda *x: [attention_step_by_loop(*x)],
            r"two earlier tokens: the shape is \(1, 2\), expected \(2,\)",
        ),
        (
            "accept or replace",
            lambda *x: accept_by_loop(*x, ratio=lambda p, q: q / p),
            "the model gives more than the draft: .*too little",
        ),
        (
            "accept or replace",
            lambda *x: accept_by_loop(*x, ratio=lambda p, q: p),
            "the model gives more than the draft: ",
        ),
        (
            "accept or replace",
            lambda *x: accept_by_loop(*x, ratio=lambda p, q: p >= q),
            "accepted by chance: .*a ratio",
        ),
        (
            "accept or replace",
            lambda *x: accept_by_loop(*x, rest=lambda p, q: p),
            "rejected: .*Drawn from p",
        ),
        (
            "accept or replace",
            lambda *x: accept_by_loop(*x, rest=lambda p, q: abs(p - q)),
            "rejected: ",
        ),
        ("accept or replace", accept_an_impossible_token, "edge case: an impossible token: "),
    ],
)
def test_a_typical_mistake_in_generation_gets_its_hint(name, answer, message):
    with pytest.raises(AssertionError, match=f"^{name}, (?:{message})"):
        check(name, answer)


def test_accept_or_replace_keeps_the_distribution_of_the_model():
    rule = EXERCISES["accept or replace"].reference
    generator = np.random.default_rng(0)
    for _ in range(5):
        p, q = generator.dirichlet(np.ones(6), size=2)
        points = (np.arange(2000) + 0.5) / 2000
        written = sum(
            q[token] * np.mean([rule(p, q, token, point) for point in points], axis=0)
            for token in range(6)
        )
        np.testing.assert_allclose(written, p, atol=1e-3)


def paired_ratio_by_sorting(times, baseline_times, warm_up):
    """Another style: plain Python."""
    ratios = sorted(a / b for a, b in list(zip(times, baseline_times, strict=True))[warm_up:])
    middle = len(ratios) // 2
    return (ratios[middle] + ratios[-middle - 1]) / 2


def upper_middle(times, baseline_times, warm_up):
    ratios = sorted(np.divide(times, baseline_times)[warm_up:])
    return ratios[len(ratios) // 2]


def with_signature(function, rows, rates):
    """The solution of notebook 11."""
    tf = pytest.importorskip("tensorflow")
    signature = [tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.float32)]
    graph = tf.function(function, input_signature=signature)
    return [graph(row, rate) for row, rate in zip(rows, rates, strict=True)]


def with_padding(function, rows, rates):
    """Another style: zeros at the end make all shapes equal, and change no sum."""
    tf = pytest.importorskip("tensorflow")
    graph, longest = tf.function(function), max(map(len, rows))
    return tf.stack(
        [
            graph(tf.constant(np.pad(row, (0, longest - len(row)))), tf.constant(rate))
            for row, rate in zip(rows, rates, strict=True)
        ]
    )


def with_options(**options):
    """Make an answer with one tf.function and tensors of rates."""

    def answer(function, rows, rates):
        tf = pytest.importorskip("tensorflow")
        graph = tf.function(function, **options)
        return [graph(row, tf.constant(rate)) for row, rate in zip(rows, rates, strict=True)]

    return answer


def in_the_loop(function, rows, rates):
    tf = pytest.importorskip("tensorflow")
    return [
        tf.function(function)(row, tf.constant(rate)) for row, rate in zip(rows, rates, strict=True)
    ]


def python_rates(function, rows, rates):
    tf = pytest.importorskip("tensorflow")
    graph = tf.function(function, reduce_retracing=True)
    return [graph(row, rate) for row, rate in zip(rows, rates, strict=True)]


def without_tf_function(function, rows, rates):
    return [function(row, rate) for row, rate in zip(rows, rates, strict=True)]


def one_rate_for_all(function, rows, rates):
    return with_signature(function, rows, [rates[0]] * len(rates))


def six_n(V, L, D, B, T, remat, passes=6, per_length=12):  # noqa: N803
    """Another style: 6 N per token and 12 L D T for attention; with remat a third more."""
    blocks = passes * 12 * L * D**2 + per_length * L * D * T
    return B * T * (blocks * (4 / 3 if remat else 1) + passes * V * D)


def rate_of_each_limit(num_weights, batch, bytes_per_weight, peak, bandwidth):
    """Another style: the roofline, operations per second by intensity."""
    intensity = 2 * batch / bytes_per_weight
    return min(peak, intensity * bandwidth) / (2 * num_weights)


def one_after_the_other(num_weights, batch, bytes_per_weight, peak, bandwidth):
    seconds = 2 * num_weights * batch / peak + num_weights * bytes_per_weight / bandwidth
    return batch / seconds


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("paired ratio", paired_ratio_by_sorting),
        ("one trace", with_signature),
        ("one trace", with_padding),
        ("training flops", six_n),
        ("decoding limit", rate_of_each_limit),
    ],
)
def test_a_right_answer_about_speed_in_another_style_passes(name, answer):
    assert check(name, answer)


@pytest.mark.parametrize(
    ("name", "answer", "message"),
    [
        ("paired ratio", lambda a, b, w: np.median(a[w:]) / np.median(b[w:]), "three rounds: "),
        ("paired ratio", lambda a, b, w: sum(a[w:]) / sum(b[w:]), "three rounds: .*each round"),
        ("paired ratio", lambda a, b, w: np.median(np.divide(b, a)[w:]), "three rounds: .*below"),
        ("paired ratio", lambda a, b, w: min(a) / min(b), "three rounds: the value is 3.0"),
        ("paired ratio", lambda a, b, w: np.divide(a, b)[w:], r"three rounds: the shape is \(3,\)"),
        ("paired ratio", lambda a, b, w: np.mean(np.divide(a, b)[w:]), "a disturbed round: "),
        ("paired ratio", lambda a, b, w: np.median(np.divide(a, b)), "a warm-up round: .*count"),
        ("paired ratio", upper_middle, "edge case: an even number of rounds: .*the mean"),
        ("one trace", in_the_loop, r"one length, two rates: the value at index \[1, 1\] is 2"),
        ("one trace", python_rates, "one length, two rates: .*Python number"),
        ("one trace", without_tf_function, "one length, two rates: "),
        ("one trace", one_rate_for_all, r"one length, two rates: the value at index \[1, 0\]"),
        ("one trace", with_options(), "three lengths: the value at index .*another length"),
        ("one trace", with_options(reduce_retracing=True), "three lengths: .*another length"),
        ("one trace", lambda *inputs: 1, r"one length, two rates: the shape is \(\)"),
        ("training flops", lambda *x: six_n(*x, passes=2), "one token: .*Backward"),
        ("training flops", lambda *x: six_n(*x, passes=4), "one token: .*Backward"),
        ("training flops", lambda *x: six_n(*x, per_length=0), "one token: the value"),
        (
            "training flops",
            lambda V, L, D, B, T, remat: B * T * six_n(V, L, D, 1, 1, remat),  # noqa: N803
            "16 tokens: .*all T keys",
        ),
        (
            "training flops",
            lambda V, L, D, B, T, remat: six_n(V, L, D, 1, B * T, remat),  # noqa: N803
            "4 texts: .*its own text",
        ),
        ("training flops", lambda *x: six_n(*x[:5], False), "with remat: .*once more"),
        (
            "training flops",
            lambda *x: six_n(*x[:5], False) * (4 / 3 if x[5] else 1),
            "with remat: .*Only the blocks",
        ),
        ("decoding limit", one_after_the_other, "one text: .*at the same time"),
        ("decoding limit", lambda N, B, s, p, b: b / (N * s), "10 texts: .*10 tokens"),  # noqa: N803
        ("decoding limit", lambda N, B, s, p, b: B * b / (N * s), "50 texts: "),  # noqa: N803
        ("decoding limit", lambda N, B, s, p, b: p / (2 * N), "one text: "),  # noqa: N803
        (
            "decoding limit",
            lambda N, B, s, p, b: B / max(N * B / p, N * s / b),  # noqa: N803
            "50 texts: .*two operations",
        ),
        (
            "decoding limit",
            lambda N, B, s, p, b: B / max(2 * N * B / p, N * 4 / b),  # noqa: N803
            "16 bits: .*two bytes",
        ),
    ],
)
def test_a_typical_mistake_about_speed_gets_its_hint(name, answer, message):
    with pytest.raises(AssertionError, match=f"^{name}, {message}"):
        check(name, answer)


def test_the_traces_of_one_check_are_not_counted_in_the_next():
    for _ in range(2):
        assert check("one trace", with_signature)


def test_the_training_flops_are_those_of_the_benchmarks():
    sizes = pytest.importorskip("benchmarks.sizes")
    size = sizes.SIZES["M"]
    flops = EXERCISES["training flops"].reference(
        size.vocab_size, size.num_layers, size.d_model, size.batch, size.length, False
    )
    # The benchmarks also count gains and biases.
    assert flops < size.step_flops < 1.01 * flops


def killed_writes(write):
    """Make the answer to "atomic write" from a function that writes a file."""
    return lambda *case: after_kill(write, *case)


def write_in_place(path, pieces):
    path.write_bytes(b"".join(pieces))


def write_pieces_in_place(path, pieces):
    with open(path, "wb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())


def write_without_sync(path, pieces):
    part = path.with_suffix(".part")
    part.write_bytes(b"".join(pieces))
    part.replace(path)


def write_without_flush(path, pieces):
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        file.writelines(pieces)
        os.fsync(file.fileno())
    part.replace(path)


def remove_first(path, pieces):
    path.unlink(missing_ok=True)
    atomic_write(path, pieces)


def with_every_weight_of_the_second_matrix(x, expand, bias, contract, devices):
    whole = np.maximum(x @ expand + bias, 0) @ contract
    return np.stack([whole / devices] * devices)


@pytest.mark.parametrize(
    ("name", "answer", "message"),
    [
        (
            "place in the data",
            lambda steps, sizes, examples: divmod(sum(steps) * sizes[0], examples),
            "two batch sizes: .*Count examples, not steps",
        ),
        (
            "feistel",
            lambda places, bits, keys: places[::-1],
            r"one round: .*left \^ \(mix",
        ),
        ("atomic write", killed_writes(write_in_place), "no kill: .*os.fsync"),
        ("atomic write", killed_writes(write_without_sync), "no kill: .*os.fsync"),
        ("atomic write", killed_writes(write_without_flush), "no kill: .*file.flush"),
        ("atomic write", killed_writes(remove_first), "no kill: .*before os.replace"),
        ("atomic write", killed_writes(write_pieces_in_place), "no kill: .*before os.replace"),
        (
            "loss of replicas",
            lambda losses, tokens: np.mean(losses),
            "uneven padding: the value is 3.0, expected 2.5",
        ),
        (
            "split feed-forward",
            with_every_weight_of_the_second_matrix,
            "two devices: .*first half of the columns",
        ),
        (
            "training bytes",
            lambda weights, mixed, devices: weights * (16 - 2 * mixed) / devices,
            "mixed precision: .*The float32 weights stay",
        ),
        (
            "training days",
            lambda weights, tokens, devices, peak, mfu: 2 * weights * tokens / peak / 86400,
            "one device: .*6 N D",
        ),
        (
            "compute budget",
            lambda flops, A, alpha, B, beta: [np.log10(flops / 6) / 2] * 2,  # noqa: N803
            "data matter more: .*alpha A",
        ),
    ],
)
def test_a_typical_mistake_about_scale_gets_its_hint(name, answer, message):
    with pytest.raises(AssertionError, match=f"^{name}, {message}"):
        check(name, answer)


@pytest.mark.parametrize(
    ("write", "state"), [(write_pieces_in_place, 2), (remove_first, 2), (atomic_write, 0)]
)
def test_a_kill_shows_what_is_left_of_a_file(write, state):
    assert after_kill(write, b"old", [b"ne", b"w"], 1) == [state, 1]
    assert after_kill(lambda path, pieces: None, b"old", [b"new"], None) is None


def test_small_differences_are_allowed_up_to_the_tolerance(double):
    assert check("double", lambda x: np.asarray(x) * 2.0 + 0.9e-3)
    with pytest.raises(AssertionError, match="the value"):
        check("double", lambda x: np.asarray(x) * 2.0 + 1.1e-3)


def test_lists_integers_and_tensors_are_right_answers_too(double):
    from keras import ops

    assert check("double", lambda x: [int(value) * 2 for value in x])
    assert check("double", lambda x: ops.convert_to_tensor(x, "float32") * 2)


def test_an_answer_that_writes_into_its_inputs_spoils_nothing(double):
    def writes(x):
        result = [2 * value for value in x]
        x.clear()
        return result

    assert check("double", writes) and check("double", writes)


def test_an_error_in_the_answer_is_shown_as_it_is_with_the_case_and_its_hint(double):
    with pytest.raises(ZeroDivisionError) as raised:
        check("double", lambda x: 1 / len(x) * np.asarray(x) * 4)
    (note,) = raised.value.__notes__
    assert note.startswith("double, edge case: nothing: ") and "An empty list" in note


def test_an_answer_without_return_names_the_case(double, capsys):
    assert check("double", lambda x: [2.0, 4.0] if x else None) is False
    printed = capsys.readouterr().out
    assert "returned None in case 'edge case: nothing'" in printed and "`return`" in printed


def softmax_minus(shift):
    """Make a softmax that subtracts something before the exponential."""

    def answer(scores):
        scores = np.asarray(scores)
        with np.errstate(all="ignore"):
            weights = np.exp(scores - shift(scores))
            return weights / weights.sum(-1, keepdims=True)

    return answer


def softmax_over_axis_1(scores):
    rows = np.atleast_2d(scores)
    weights = np.exp(rows - rows.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True)).reshape(np.shape(scores))


def mask_from_the_end(query_length, key_length, offset):
    """Forget the offset: take the queries for the last places of the keys."""
    return np.tri(query_length, key_length, key_length - query_length, dtype=bool)


def sines_again(table):
    """Ignore the input but for its shape."""
    from tfgpt import positional_encoding

    return positional_encoding(*np.shape(table))[0]


def epsilon_outside(x, gain, bias):
    return gain * (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-6) + bias


def once_per_word(words, counts):
    pairs = Counter()
    for word, count in zip(words, counts, strict=True):
        for pair in set(pairwise(word)):
            pairs[pair] += count
    return min(pairs, key=lambda pair: (-pairs[pair], pair))


def ties_by_sum(words, counts):
    pairs = Counter()
    for word, count in zip(words, counts, strict=True):
        for pair in pairwise(word):
            pairs[pair] += count
    return min(pairs, key=lambda pair: (-pairs[pair], sum(pair), pair))


@pytest.mark.parametrize(
    ("name", "answer", "message"),
    [
        ("softmax", softmax_minus(lambda x: x.min(-1, keepdims=True)), "edge case: rows far"),
        ("softmax", softmax_minus(lambda x: x.mean(-1, keepdims=True)), "edge case: rows far"),
        ("softmax", softmax_minus(np.max), "edge case: rows far"),
        ("softmax", softmax_over_axis_1, "edge case: three axes"),
        ("cached causal mask", mask_from_the_end, "a cache with free places"),
        ("interleave", sines_again, "any numbers"),
        ("layer norm", epsilon_outside, "edge case: features that hardly differ: .*inside"),
        ("beam step", lambda x, totals: my_beam_step(np.exp(x), totals), "a beam far behind"),
        ("best pair", once_per_word, "a pair twice in a word"),
        ("best pair", ties_by_sum, "edge case: equal counts, the larger sum"),
    ],
)
def test_what_looks_right_on_small_examples_only_is_refused(name, answer, message):
    with pytest.raises(AssertionError, match=f"^{name}, {message}"):
        check(name, answer)


def test_an_unknown_exercise_lists_the_known_ones():
    with pytest.raises(KeyError, match="causal mask.*softmax.*got 'softmaxx'"):
        check("softmaxx", lambda: None)


def test_a_number_is_compared_without_an_index():
    with pytest.raises(AssertionError, match="loss: the value is 2.0, expected 1.0. Hint."):
        compare("loss", 2.0, 1.0, "Hint.", 0.1)
    compare("loss", 1.05, 1.0, "Hint.", 0.1)


def test_infinite_values_may_be_expected():
    scores = np.array([1.0, -np.inf])
    compare("scores", scores, scores, "Hint.", 1e-5)
    with pytest.raises(AssertionError, match=r"index \[1\]"):
        compare("scores", -scores, scores * [-1, 1], "Hint.", 1e-5)


def test_a_proof_prints_the_largest_difference_and_refuses_what_differs(capsys):
    prove_equal("near", np.float32([[1, 2]]), [[1, 2 + 1e-6]])
    prove_equal("rows sum to 1", np.ones(3), 1)
    printed = capsys.readouterr().out
    assert printed == "near: largest difference 1.0e-06\nrows sum to 1: equal in every bit\n"
    with pytest.raises(AssertionError, match="far"):
        prove_equal("far", [1.0, 2.0], [1.0, 2.1])
    with pytest.raises(AssertionError, match=r"shapes \(2,\) and \(1, 2\) differ"):
        prove_equal("turned", [1.0, 2.0], [[1.0, 2.0]])
    with pytest.raises(AssertionError, match="not a number"):
        prove_equal("not a number", [np.nan], [1.0])
