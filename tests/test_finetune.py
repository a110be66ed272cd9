"""Fine-tuning: rows and batches, heads, methods, reports, and the whole way from a file."""

import itertools
import json

import keras
import numpy as np
import pytest
from keras import ops

import tfgpt
from tfgpt import GPT, BPETokenizer, CharTokenizer
from tfgpt.bundle import load_bundle, save_bundle
from tfgpt.cli import main
from tfgpt.data.labelled import Labelled, split_examples
from tfgpt.signals import code_of_interrupts
from tfgpt.tasks.chat import chat
from tfgpt.tasks.examples import (
    IGNORED,
    Row,
    answer_rows,
    choose_buckets,
    encode_sentences,
    encode_texts,
    join_tags,
    length_batches,
    likeliest_tags,
    predict_rows,
    tag_rows,
    tag_scores,
    window_rows,
)
from tfgpt.tasks.finetune import finetune
from tfgpt.tasks.finetuned import (
    Writer,
    load_base,
    load_finetuned,
    make_task_model,
    save_finetuned,
)
from tfgpt.tasks.heads import TextClassifier, TokenTagger
from tfgpt.tasks.methods import METHODS, MethodSettings
from tfgpt.tasks.problems import Classification, make_problem, read_examples
from tfgpt.tasks.reports import (
    Measure,
    answer_scores,
    answer_tokens,
    calibration,
    classification_baselines,
    classification_scores,
    lead,
    over_seeds,
    proportion,
    score_table,
    tagging_baseline,
    tagging_scores,
    token_f1,
)

CONTEXT = 40
TOKENIZER = BPETokenizer.train("good bad fine poor film day 12 Main St. 好 坏 " * 20, 300)


def small_gpt(**options):
    sizes = {"num_layers": 2, "d_model": 16, "num_heads": 2, "pad_id": 0}
    model = GPT(TOKENIZER.vocab_size, CONTEXT, **{**sizes, **options})
    for weight in model.weights:  # larger than at the start, so that texts differ
        if len(weight.shape) == 2:
            weight.assign(keras.random.normal(weight.shape, stddev=0.2, seed=weight.shape[0]))
    return model


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    keras.utils.set_random_seed(0)
    save_bundle(folder, small_gpt(), TOKENIZER)
    return str(folder)


def write_labelled(folder, rows=80):
    """Write texts whose label is plain to see."""
    rng = np.random.default_rng(0)
    words = {"pos": ("good", "fine"), "neg": ("bad", "poor")}
    lines = []
    for number in range(rows):
        label = ("pos", "neg")[number % 2]
        text = f"{rng.choice(words[label])} film {number} {rng.choice(words[label])} day"
        lines.append(f"{text}\t{label}")
    path = folder / "labelled.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_tagged(folder, rows=40):
    lines = []
    for number in range(rows):
        lines += [f"{number}\tB-Number", "Main\tB-Street", "St.\tI-Street", "film\tO", ""]
    path = folder / "tagged.conll"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_answers(folder, rows=40):
    path = folder / "answers.tsv"
    path.write_text("".join(f"film {n}?\tgood day\n" for n in range(rows)), encoding="utf-8")
    return path


def write_dialogues(folder, rows=40):
    path = folder / "dialogues.jsonl"
    lines = [json.dumps({"turns": [f"film {n}?", "good", "day?", "fine"]}) for n in range(rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# Rows and batches


def test_a_text_begins_with_the_end_token_and_is_cut_at_the_context():
    rows, cut = encode_texts(TOKENIZER, ["good", "good film " * 50], 10)
    assert rows[0].tolist() == [TOKENIZER.end_id, *TOKENIZER.encode("good")]
    assert [len(row) for row in rows] == [len(rows[0]), 10] and cut == 1
    rows, _ = encode_texts(CharTokenizer.train("abc"), ["abc"], 10)
    assert len(rows[0]) == 3  # no end token


def test_a_sentence_is_read_twice_and_tagged_in_the_second_copy():
    words = ["12", "Main", "St."]
    (piece,), divided = encode_sentences(TOKENIZER, [words], CONTEXT)
    end = TOKENIZER.end_id
    copy = TOKENIZER.encode("12 Main St.").tolist()
    assert piece.token_ids.tolist() == [end, *copy, end, *copy] and divided == 0
    for word, place in zip(words, piece.places, strict=True):
        first = TOKENIZER.encode(word if word == "12" else f" {word}")[0]
        assert piece.token_ids[place] == first and place > len(copy)


def test_long_sentences_are_divided_and_put_together_again():
    sentences = [["film"] * 30, ["day"], ["good", "bad"] * 20]
    pieces, divided = encode_sentences(TOKENIZER, sentences, CONTEXT)
    assert divided == 2 and all(len(piece.token_ids) <= CONTEXT for piece in pieces)
    tags = [[f"B-{number}" for number in range(len(words))] for words in sentences]
    names = ["O", *sorted({tag for row in tags for tag in row})]
    rows = tag_rows(pieces, tags, names)
    found = [
        [names[row.target[place]] for place in piece.places]
        for piece, row in zip(pieces, rows, strict=True)
    ]
    assert join_tags(pieces, found, sentences) == tags
    assert all(
        (row.target != IGNORED).sum() == len(p.places) for p, row in zip(pieces, rows, strict=True)
    )
    with pytest.raises(ValueError, match="words must have 1 to 19 tokens"):
        encode_sentences(TOKENIZER, [["x" * 100]], CONTEXT)


def test_a_tag_that_training_lacks_does_not_count():
    pieces, _ = encode_sentences(TOKENIZER, [["good", "bad"]], CONTEXT)
    (row,) = tag_rows(pieces, [["B-Rare", "O"]], ["O"])
    assert row.target[pieces[0].places].tolist() == [IGNORED, 0]


def test_only_answers_are_to_be_predicted():
    parts = [("film?", False), (" good", True)]
    (row,), cut = answer_rows(TOKENIZER, [parts], CONTEXT)
    answer = [*TOKENIZER.encode(" good"), TOKENIZER.end_id]
    assert row.token_ids[0] == TOKENIZER.end_id and cut == 0
    assert row.target[row.target != IGNORED].tolist() == answer
    counted = np.flatnonzero(row.target != IGNORED)
    assert counted.tolist() == list(range(len(row.target) - len(answer), len(row.target)))
    (row,), cut = answer_rows(TOKENIZER, [[("film " * 60, False), (" good", True)]], 12)
    assert len(row.token_ids) == 12 and cut == 1
    assert row.target[-len(answer) :].tolist() == answer  # the beginning goes, not the answer


def test_windows_predict_each_token_but_the_first_once():
    rows = window_rows(np.arange(23), 5)
    assert [token for row in rows for token in row.target] == list(range(1, 23))
    assert all((row.target == row.token_ids + 1).all() for row in rows)


def test_buckets_fit_all_and_are_few():
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 100, 500)
    buckets = choose_buckets(lengths, 99)
    assert buckets[-1] >= lengths.max() and len(buckets) <= 3 and buckets == sorted(set(buckets))
    assert choose_buckets([3, 3], 40) == [8] and choose_buckets([39], 39) == [39]


@pytest.mark.parametrize("token_wise", [False, True])
def test_each_pass_has_each_row_once_and_fills_up_with_weight_0(token_wise, rng):
    rows = []
    for number in range(23):
        token_ids = np.full(rng.integers(1, 20), number + 1, "int32")
        rows.append(Row(token_ids, token_ids if token_wise else number))
    weights = rng.random(23).astype("float32")
    batches = length_batches(rows, [8, 20], 4, pad_id=0, weights=weights, seed=0)
    orders = []
    for _ in range(2):
        seen = {}
        for token_ids, targets, weight in batches.as_numpy_iterator():
            assert token_ids.shape in ((4, 8), (4, 20)) and len(targets) == len(weight) == 4
            for row, target, own in zip(token_ids, targets, weight, strict=True):
                if own:
                    seen[int(row[0]) - 1] = own
                    expected = rows[row[0] - 1].target
                    size = np.size(expected)
                    np.testing.assert_array_equal(np.atleast_1d(target)[:size], expected)
                    assert (np.atleast_1d(target)[size:] == IGNORED).all()
                elif token_wise:
                    assert (target == IGNORED).all()
        orders.append(list(seen))
        np.testing.assert_allclose([seen[number] for number in range(23)], weights)
    assert orders[0] != orders[1] and len(batches) == sum(1 for _ in batches)


def test_predictions_keep_the_order_of_the_rows():
    class First:
        def predict_on_batch(self, batch):
            return batch[:, :1] * 10.0

    rows = [np.full(length, number) for number, length in enumerate((3, 30, 5, 1, 12, 9, 40))]
    found = predict_rows(First(), rows, [8, 40], 2, pad_id=0)
    assert [float(row[0]) for row in found] == [0, 10, 20, 30, 40, 50, 60]


# Heads


def test_the_order_of_tags_counts():
    tags = [["B-A", "I-A", "O"]] * 9 + [["O", "B-A", "O"]]
    names = ["O", "B-A", "I-A"]
    scores = tag_scores(tags, names)
    counts = np.full((4, 3), 0.02)
    for last, tag, count in ((3, 1, 9), (1, 2, 9), (2, 0, 9), (3, 0, 1), (0, 1, 1), (1, 0, 1)):
        counts[last, tag] += count
    expected = counts / counts.sum(1, keepdims=True) / (counts.sum(0) / counts.sum())
    np.testing.assert_allclose(scores, np.log(expected))
    logits = np.log([[0.2, 0.4, 0.4], [0.45, 0.1, 0.45], [0.4, 0.3, 0.3]])
    assert likeliest_tags(logits, scores) == [1, 2, 0]  # I-A cannot begin
    # The same by trying all sequences.
    best = max(
        itertools.product(range(3), repeat=3),
        key=lambda path: sum(
            logits[place, tag] + scores[path[place - 1] if place else 3, tag]
            for place, tag in enumerate(path)
        ),
    )
    assert list(best) == [1, 2, 0]
    assert likeliest_tags(logits[:1], scores) == [1]


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("pad_id", [0, None])
def test_a_classifier_pools_real_tokens_only(pooling, pad_id):
    gpt = small_gpt(pad_id=pad_id)
    end = TOKENIZER.end_id if pad_id is None else 0
    model = TextClassifier(gpt, 3, end, pooling)
    ids = np.array([[2, 7, 8, 9, end, end], [2, 5, end, end, end, end]])
    hidden = ops.convert_to_numpy(gpt.hidden(gpt.embed(ids), gpt.own_mask(ids)))
    for row, size in ((0, 4), (1, 2)):
        pooled = hidden[row, :size].mean(0) if pooling == "mean" else hidden[row, size - 1]
        expected = pooled @ ops.convert_to_numpy(model.head.dense.kernel)
        np.testing.assert_allclose(ops.convert_to_numpy(model(ids))[row], expected, atol=1e-5)
    longer = np.pad(ids, ((0, 0), (0, 5)), constant_values=end)
    np.testing.assert_allclose(
        ops.convert_to_numpy(model(longer)), ops.convert_to_numpy(model(ids)), atol=1e-5
    )


def test_heads_refuse_what_they_cannot_be():
    with pytest.raises(ValueError, match="pooling must be one of"):
        TextClassifier(small_gpt(), 2, 0, pooling="max")
    with pytest.raises(ValueError, match="number of classes must be"):
        TokenTagger(small_gpt(), 1)
    spec = TokenTagger(small_gpt(), 4).compute_output_spec(keras.KerasTensor((2, 7), "int32"))
    assert spec.shape == (2, 7, 4)


# Methods


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method must be one of"),
        ({"rank": 0}, "rank must be"),
        ({"epochs": 0}, "epochs must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"decay": 1.5}, r"decay must be in \(0, 1\]"),
        ({"decay": 0.5, "method": "lora"}, "need the method 'full', got 'lora'"),
        ({"layers": "query", "method": "full"}, "layers needs a method with adapters"),
        ({"layers": "query", "method": "prompt"}, "layers needs Dense layers"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
    ],
)
def test_settings_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MethodSettings(**options)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_says_what_learns(method):
    gpt = small_gpt()
    before = len(gpt.trainable_weights)
    model, adapters = MethodSettings(method, rank=2).prepare(gpt)
    assert (adapters is None) == (method in ("full", "last-n"))
    learning = len(model.trainable_weights)
    assert learning == before if method == "full" else learning > 0
    optimizer = MethodSettings(method).make_optimizer(model, adapters, 10)
    assert optimizer.global_clipnorm == 1.0
    if method == "last-n":
        assert all("decoder_0" not in w.path for w in model.trainable_weights)


def test_a_pattern_without_a_layer_is_refused():
    with pytest.raises(ValueError, match="layers must match the path of a Dense layer"):
        MethodSettings("lora", layers="nothing").prepare(small_gpt())
    with pytest.raises(ValueError, match="layers must be at most num_layers=2"):
        MethodSettings("last-n", last=3).prepare(small_gpt())


# Reports


def test_scores_of_labels_are_those_of_their_formulas():
    labels, predicted = list("aabbbc"), list("aabbcb")
    scores = classification_scores(labels, predicted)
    assert scores["accuracy"].value == pytest.approx(4 / 6)
    assert scores["macro F1"].value == pytest.approx((1 + 2 / 3 + 0) / 3)
    low, high = scores["accuracy"].low, scores["accuracy"].high
    assert 0.29 < low < 0.31 and 0.89 < high < 0.91  # Wilson, 4 of 6
    assert proportion([True] * 10).high == pytest.approx(1.0)


def test_calibration_of_an_honest_and_of_a_boasting_classifier(rng):
    confidence = rng.uniform(0.3, 1.0, 20000)
    hits = rng.random(20000) < confidence
    assert calibration(hits, confidence)[0] < 0.02
    error, means, shares, counts = calibration([True, False], [1.0, 1.0])
    assert (error, means[-1], shares[-1], counts.sum()) == (0.5, 1.0, 0.5, 2)


def test_entities_are_counted_as_seqeval_counts_them():
    from seqeval.metrics import f1_score, precision_score, recall_score

    tags = [["B-A", "I-A", "O", "B-B"], ["O", "B-A"], ["B-B", "I-B", "B-B"]]
    predicted = [["B-A", "I-A", "O", "O"], ["B-A", "I-A"], ["B-B", "I-B", "I-B"]]
    scores = tagging_scores(tags, predicted)
    for name, metric in (
        ("entity F1", f1_score),
        ("entity precision", precision_score),
        ("entity recall", recall_score),
    ):
        assert scores[name].value == pytest.approx(metric(tags, predicted)), name
    assert scores["word accuracy"].value == pytest.approx(5 / 9)
    assert scores["entity F1"].low <= scores["entity F1"].value <= scores["entity F1"].high


def test_scores_of_answers():
    assert answer_tokens("An apple, a day!") == ["apple", "day"]
    assert token_f1("Ouagadougou", "the ouagadougou.") == 1.0
    assert token_f1("北京市", "北京") == pytest.approx(0.8)
    assert token_f1("", "x") == 0.0 and lead("今天。明天。") == "今天。"
    scores = answer_scores(["the red house", "北京市"], ["the red house", "北京"])
    assert scores["exact match"].value == 0.5
    assert scores["ROUGE-1"].value == pytest.approx((1 + 0.8) / 2)
    assert scores["BLEU"].value == 0 and scores["chrF2"].value > 50  # no run of four words


def test_baselines_learn_from_the_training_part_only():
    training = Labelled(["good film", "bad film", "good day", "bad day"] * 3, ["p", "n"] * 6, [])
    test = Labelled(["a good one", "a bad one"], ["p", "n"], [])
    rows = classification_baselines(training, test)
    assert rows["TF-IDF + logistic regression"]["accuracy"].value == 1.0
    assert rows["most frequent label"]["accuracy"].value == 0.5
    training = Labelled([["Main", "St."]], [["B-S", "I-S"]], [])
    test = Labelled([["Main", "x"]], [["B-S", "O"]], [])
    (row,) = tagging_baseline(training, test).values()
    assert row["entity F1"].value == 1.0


def test_several_seeds_have_an_interval():
    assert over_seeds([0.5]) == Measure(0.5)
    measure = over_seeds([0.8, 0.9, 1.0])
    assert measure.value == pytest.approx(0.9)
    assert measure.high - measure.value == pytest.approx(4.303 * 0.1 / np.sqrt(3), rel=1e-3)
    table = score_table({"model": {"a": measure}, "other": {"b": Measure(1.0)}})
    assert table.splitlines()[2].split() == ["other", "-", "1.000"]


# Problems


def test_rare_classes_count_as_much_as_frequent_ones():
    part = Labelled(["x"] * 4, ["a", "a", "a", "b"], ["g"] * 4)
    problem = Classification((part, part, part))
    np.testing.assert_allclose(problem.weights(part), [2 / 3, 2 / 3, 2 / 3, 2])


def test_a_label_that_training_lacks_is_an_error():
    part, other = Labelled(["x"], ["a"], ["g"]), Labelled(["x"], ["b"], ["g"])
    with pytest.raises(ValueError, match="labels must be those of the training, got 'b'"):
        Classification((part, part, other))


@pytest.mark.parametrize(
    ("task", "columns"), [("classify", {"prompt": 0}), ("tag", {"text": 0}), ("lm", {"label": 1})]
)
def test_a_column_that_the_task_has_not_is_refused(task, columns):
    with pytest.raises(ValueError, match=f"column argument for '{task}' must be one of"):
        read_examples(task, "quiz", columns)


def test_texts_for_pretraining_are_divided_in_their_order():
    problem = make_problem("lm", "".join(chr(97 + i % 26) for i in range(2000)))
    assert [len(part) for part in problem.parts] == [1600, 200, 200]
    with pytest.raises(ValueError, match="at least 1000 characters, got 5"):
        make_problem("lm", "short")


# Models on disk


FACTS = {
    **{"task": "classify", "labels": ["neg", "pos"], "pooling": "mean", "method": "full"},
    **{"base": "none", "buckets": [8], "batch_size": 2},
}


def saved_classifier(folder):
    model = make_task_model(small_gpt(), TOKENIZER, FACTS)
    save_finetuned(folder, model, TOKENIZER, FACTS)
    return model


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_a_classifier_is_loaded_in_two_lines(tmp_path):
    model = saved_classifier(tmp_path)
    loaded = tfgpt.load_finetuned(tmp_path)
    texts = ["good film", "bad " * 60, "poor", "fine day"]
    labels = loaded.predict(texts)
    assert labels == [loaded.predict(text) for text in texts] and loaded.cut == 2
    rows, _ = encode_texts(TOKENIZER, texts, CONTEXT)
    for text, row in zip(texts, rows, strict=True):
        expected = ops.softmax(model(row[None]), axis=-1)[0]
        np.testing.assert_allclose(loaded.probabilities([text])[0], expected, atol=1e-5)
    assert loaded.predict([]) == []
    with pytest.raises(ValueError, match="texts must not be empty, got ' ' at 1"):
        loaded.predict(["good", " "])
    with pytest.raises(TypeError, match="texts must be str, got int at 0"):
        loaded.predict([3])
    rows = list(loaded.rows(["good", "", "bad"]))
    assert [row[0] for row in rows] == [loaded.predict("good"), "", loaded.predict("bad")]


def test_damaged_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="without task.json"):
        load_finetuned(tmp_path)
    saved_classifier(tmp_path)
    head = (tmp_path / "head.safetensors").read_bytes()
    (tmp_path / "head.safetensors").write_bytes(head[:20])
    with pytest.raises(ValueError, match="undamaged head"):
        load_finetuned(tmp_path)
    for text in ("{", '{"task": "cook", "buckets": []}', "[]"):
        (tmp_path / "task.json").write_text(text)
        with pytest.raises(ValueError, match="undamaged task.json"):
            load_finetuned(tmp_path)


def test_bases_without_a_tokenizer_are_refused(tmp_path):
    save_bundle(tmp_path, small_gpt())
    with pytest.raises(ValueError, match="base must have a tokenizer"):
        load_base(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_base(str(tmp_path / "nowhere"))


# The whole way


@pytest.mark.slow
@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("method", METHODS)
def test_each_method_learns_labels_and_is_loaded_again(method, base, tmp_path, capsys):
    data, out = write_labelled(tmp_path), tmp_path / "out"
    options = {"epochs": 12, "batch_size": 16, "rank": 4, "patience": 12, "dropout": 0.0}
    rate = {"full": 1e-2, "last-n": 1e-2, "adapter": 1e-2}.get(method)  # for so small a model
    settings = MethodSettings(method, learning_rate=rate, **options)
    tuned, report = finetune("classify", data, out, base, settings)
    texts = ["good film fine day", "bad film poor day", "fine", "poor film"]
    assert load_finetuned(out).predict(texts) == tuned.predict(texts)
    np.testing.assert_allclose(
        load_finetuned(out).probabilities(texts), tuned.probabilities(texts), atol=1e-5
    )
    losses = report["history"]["loss"]
    assert losses[-1] < 0.95 * losses[0] and report["history"]["accuracy"][-1] > 0.6
    assert 0 < report["trainable_share"] <= 1
    original, _ = load_bundle(base)
    if method not in ("full", "last-n"):
        assert not (out / "weights.safetensors").exists()  # the adapter only
        for mine, theirs in zip(load_bundle(base)[0].weights, original.weights, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    for name in ("report.json", "model_card.md", "confusion.png", "predictions.tsv"):
        assert (out / name).stat().st_size > 0
    assert "TF-IDF + logistic regression" in (out / "model_card.md").read_text()


TASKS = [
    ("classify", write_labelled, ["good film", "bad film"]),
    ("tag", write_tagged, ["7 Main St. film", "8 Main St. film"]),
    ("qa", write_answers, ["film 7?", "film 70?"]),
    ("summarise", write_answers, ["film 7?", "film 70?"]),
    ("chat", write_dialogues, ["film 7?", "film 70?"]),
]


@pytest.mark.slow
@pytest.mark.requires_tensorflow
@pytest.mark.parametrize(("task", "write", "texts"), TASKS)
def test_each_task_goes_from_a_file_to_predictions(task, write, texts, base, tmp_path, capfd):
    data, out = write(tmp_path), tmp_path / "out"
    command = ["finetune", "--task", task, "--data", str(data), "--base", base, "--out", str(out)]
    assert main([*command, "--method", "full", "--epochs", "8", "--learning-rate", "3e-3"]) == 0
    printed = capfd.readouterr()
    assert "fine-tuned model" in printed.out and "test examples" in printed.out
    assert printed.out.count("\n") < 120

    assert main(["predict", str(out), texts[0]]) == 0
    single = capfd.readouterr().out
    file = tmp_path / "texts.txt"
    file.write_text("\n".join([texts[0], "", texts[1]]) + "\n", encoding="utf-8")
    assert main(["predict", str(out), "--file", str(file)]) == 0
    header, *rows = capfd.readouterr().out.splitlines()
    assert header.endswith("\ttext") and [row.split("\t")[-1] for row in rows] == [
        texts[0],
        "",
        texts[1],
    ]
    assert rows[0].split("\t")[:-1] == [" ".join(c.split()) for c in single.split("\t")]
    assert main(["evaluate", str(out), "--data", str(data)]) == 0
    assert "fine-tuned model" in capfd.readouterr().out

    # A second run keeps the first.
    assert main([*command, "--epochs", "1"]) == 0
    assert (tmp_path / "out.1" / "task.json").exists()


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_pretraining_goes_on_with_a_text(base, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("good film fine day bad film poor day. " * 60, encoding="utf-8")
    out = tmp_path / "out"
    settings = MethodSettings("full", epochs=3, learning_rate=3e-3)
    _, report = finetune("lm", text, out, base, settings)
    before = report["scores"]["base, not fine-tuned"]["perplexity"]["value"]
    assert report["scores"]["fine-tuned model"]["perplexity"]["value"] < before / 2
    assert load_bundle(out)[0].vocab_size == TOKENIZER.vocab_size  # a bundle like any other
    assert isinstance(load_finetuned(out).predict("good film"), str)


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_several_seeds_are_averaged_and_settings_are_written(base, tmp_path, capsys):
    settings = MethodSettings("lora", epochs=1, rank=3, class_weights=True)
    data = write_labelled(tmp_path)
    _, report = finetune("classify", data, tmp_path / "out", base, settings, seeds=2)
    assert report["scores"]["mean of 2 seeds"]["accuracy"]["low"] is not None
    assert report["settings"]["rank"] == 3 and len(report["data_sha256"]) == 64
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_ctrl_c_keeps_the_best_so_far(base, tmp_path, monkeypatch, capsys):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(MethodSettings, "callbacks", lambda self: [Stop()])
    settings = MethodSettings("lora", epochs=5)
    finetune("classify", write_labelled(tmp_path), tmp_path / "out", base, settings)
    assert "Stopped early" in capsys.readouterr().out
    assert code_of_interrupts() == 130
    assert load_finetuned(tmp_path / "out").predict("good") in ("pos", "neg")


# Wrong input from the command line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--task", "cook"], "task must be one of"),
        (["--method", "magic"], "method must be one of"),
        (["--rank", "0"], "rank must be"),
        (["--method", "lora", "--layers", "nothing"], "layers must match the path"),
        (["--data", "nowhere.tsv"], "nowhere.tsv"),
        (["--base", "nowhere/at/all"], "nowhere/at/all"),
        (["--task", "tag", "--class-weights"], "class_weights need the task 'classify'"),
        (["--pooling", "max"], "pooling must be one of"),
        (["--seeds", "0"], "seeds must be"),
    ],
)
@pytest.mark.requires_tensorflow
def test_wrong_options_give_one_sentence(change, message, base, tmp_path, capfd):
    data, out = write_labelled(tmp_path), tmp_path / "out"
    options = {"--task": "classify", "--data": str(data), "--base": base, "--out": str(out)}
    command = [part for pair in options.items() for part in pair]
    assert main(["finetune", *command, *change]) == 2
    error = capfd.readouterr().err
    assert message in error and error.count("\n") == 1, error
    assert not (out / "task.json").exists()


@pytest.mark.requires_tensorflow
def test_a_folder_with_other_files_is_left_alone(base, tmp_path, capfd):
    data = write_labelled(tmp_path)
    command = ["--task", "classify", "--data", str(data), "--base", base, "--out", str(tmp_path)]
    assert main(["finetune", *command]) == 2
    assert "which holds other files" in capfd.readouterr().err


@pytest.mark.requires_tensorflow
def test_predict_wants_a_text_or_a_file(tmp_path, capfd):
    saved_classifier(tmp_path)
    assert main(["predict", str(tmp_path)]) == 2
    assert main(["predict", str(tmp_path), "good", "--file", "x"]) == 2
    assert main(["predict", str(tmp_path), "  "]) == 2
    errors = capfd.readouterr().err
    assert errors.count("either a text or --file") == 2 and "must not be empty" in errors
    bad = tmp_path / "bad.tsv"
    bad.write_text("".join(f"film {n}\t{'ab'[n % 2]}\n" for n in range(20)))
    assert main(["evaluate", str(tmp_path), "--data", str(bad)]) == 2
    assert "labels must be those of the training, got 'a', 'b'" in capfd.readouterr().err


def test_adapters_of_another_base_are_refused(base, tmp_path, capfd):
    from tfgpt.tuning import LoRA, adapt

    gpt, _ = load_base(base)
    adapters = adapt(gpt, LoRA(rank=1))
    facts = {**FACTS, "base": base}
    save_finetuned(
        tmp_path / "out", make_task_model(gpt, TOKENIZER, facts), TOKENIZER, facts, adapters
    )
    load_finetuned(tmp_path / "out")
    other = small_gpt()
    other.weights[0].assign(other.weights[0] + 1)
    save_bundle(tmp_path / "other", other, TOKENIZER)
    with pytest.raises(ValueError, match="must be the base of the adapters"):
        load_finetuned(tmp_path / "out", base=tmp_path / "other")


# Chat


class Script(Writer):
    """A model for chats that answers with what it was given."""

    def __init__(self):
        self.task, self.seen = "chat", []

    def stream(self, text, **settings):
        self.seen.append([message["content"] for message in text])
        yield from ("fine", " day")


def test_a_chat_remembers_forgets_and_ends(capsys):
    lines = iter(["good?", "", "bad?", "/reset", "poor?", "/system Be kind.", "12?", "/quit"])
    model = Script()
    chat(model, read=lambda prompt: next(lines))
    assert model.seen == [
        ["good?"],
        ["good?", "fine day", "bad?"],
        ["poor?"],
        ["Be kind.", "12?"],
    ]
    assert capsys.readouterr().out.count("model: fine day") == 4


def test_ctrl_c_stops_an_answer_only(capsys):
    class Slow(Script):
        def stream(self, text, **settings):
            self.seen.append([message["content"] for message in text])
            yield "fine"
            raise KeyboardInterrupt

    lines = iter(["good?", "bad?"])

    def read(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    model = Slow()
    chat(model, read=read)
    assert model.seen[1] == ["good?", "fine", "bad?"]
    assert capsys.readouterr().out.count("(stopped)") == 2


def test_a_model_without_words_cannot_chat(tmp_path):
    saved_classifier(tmp_path)
    with pytest.raises(ValueError, match="must write answers to chat"):
        chat(load_finetuned(tmp_path))


@pytest.mark.slow
def test_a_writer_streams_what_it_predicts():
    facts = {"task": "qa", "buckets": [8], "batch_size": 2, "max_new_tokens": 6}
    model = Writer(small_gpt(), TOKENIZER, facts)
    for text in ("film?", "good film " * 30):
        assert "".join(model.stream(text)).strip() == model.predict(text)
    assert model.cut == 2
    with pytest.raises(ValueError, match="must end with the user's turn"):
        Writer(small_gpt(), TOKENIZER, {**facts, "task": "chat"}).predict(
            [[{"role": "assistant", "content": "x"}]]
        )


def test_the_parts_of_bundled_data_stay_apart():
    from tfgpt.data.labelled import load_labelled

    parts = split_examples(load_labelled("sections"))
    texts = [set(part.texts) for part in parts]
    assert not texts[0] & texts[2] and not texts[0] & texts[1]


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_ten_thousand_lines_need_no_new_program(tmp_path):
    saved_classifier(tmp_path)
    loaded = load_finetuned(tmp_path)
    traces = []
    call = loaded.model.call
    loaded.model.call = lambda *inputs, **options: traces.append(1) or call(*inputs, **options)
    lines = [f"{'good' if n % 3 else 'bad film'} " * (n % 9 + 1) for n in range(10_000)]
    rows = loaded.rows(lines)
    first = [next(rows) for _ in range(512)]
    before = len(traces)
    rest = list(rows)
    assert before <= 3 and len(traces) == before and len(first + rest) == 10_000
    assert [row[0] for row in rest[:5]] == loaded.predict(lines[512:517])


@pytest.mark.slow
def test_a_base_of_characters_goes_on_with_a_text():
    tokenizer = CharTokenizer.train("good film")
    gpt = GPT(tokenizer.vocab_size, 16, num_layers=1, d_model=8, num_heads=2, pad_id=0)
    facts = {"task": "lm", "buckets": [8], "batch_size": 2, "max_new_tokens": 4}
    model = Writer(gpt, tokenizer, facts)
    text = "good"
    assert "".join(model.stream(text)).strip() == model.predict(text)
