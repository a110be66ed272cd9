"""Labelled texts: the bundled files, files of a user, groups that stay together, prompts, chats."""

import json

import numpy as np
import pytest

from tfgpt import BPETokenizer
from tfgpt.data import (
    dialogue_parts,
    encode_parts,
    join_parts,
    load_answers,
    load_dialogues,
    load_labelled,
    load_tagged,
    prompt_parts,
    split_examples,
)


@pytest.fixture
def write(tmp_path):
    """Write a file and return its path."""

    def write(name, text):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8", newline="")
        return str(path)

    return write


@pytest.mark.parametrize(
    ("load", "source", "size", "kinds"),
    [
        (load_labelled, "reviews_zh", 11338, 2),
        (load_labelled, "definitions", 9368, 10),
        (load_labelled, "sections", 6000, 18),
        (load_answers, "quiz", 1472, None),
        (load_answers, "summaries", 6000, None),
        (load_tagged, "addresses", 1513, None),
        (load_dialogues, "dialogues", 2493, None),
    ],
)
def test_bundled_examples_are_whole_and_parts_share_no_group(load, source, size, kinds):
    examples = load(source)
    assert len(examples) == len(examples.labels) == len(examples.groups) == size
    assert all(examples.texts) or load is load_dialogues
    if kinds:
        assert len(set(examples.labels)) == kinds
    parts = split_examples(examples)
    assert sum(map(len, parts)) == size
    names = [set(part.groups) for part in parts]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
    assert min(map(len, parts)) > size // 20
    assert split_examples(examples)[2].labels == parts[2].labels
    assert split_examples(examples, seed=1)[2].labels != parts[2].labels


def test_neighbouring_reviews_stay_together():
    examples = load_labelled("reviews_zh")
    assert 10 < len(set(examples.groups)) < len(examples) / 2


def test_csv_with_quotes_and_line_breaks_is_read_as_it_is_meant(write):
    path = write("a.csv", 'label,text\ngood,"one, ""two""\nthree"\nbad,four\ngood,five\n')
    examples = load_labelled(path)
    assert examples.texts == ['one, "two"\nthree', "four", "five"]
    assert examples.labels == ["good", "bad", "good"]


def test_columns_are_found_or_named(write):
    path = write("a.tsv", "1\tgood film\tpos\n2\tbad film\tneg\n3\tthe best\tpos\n")
    examples = load_labelled(path, text=1, label=2)
    assert examples.texts[0] == "good film" and examples.labels == ["pos", "neg", "pos"]
    with pytest.raises(ValueError, match="text and label must be given"):
        load_labelled(path)
    with pytest.raises(ValueError, match="text must be one of the columns 0, 1, 2"):
        load_labelled(path, text="review", label=2)


def test_empty_and_repeated_rows_are_left_out(write):
    examples = load_labelled(write("a.tsv", "a\tone\nb\t \na\tone\nb\ttwo\n"))
    assert examples.texts == ["one", "two"]
    assert len(examples.report) > 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "a\tone\nb\n", "same two or more columns in every row, got 1 in row 2"),
        ("a.tsv", "a\tone\na\ttwo\n", "labels must be of at least two kinds"),
        ("a.csv", 'a,"one\nb,two', "must be a CSV file"),
        ("a.txt", "a\tone\n", "or the path of a .tsv"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n[1]\n', "one JSON object per line"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": "a"}\n', "the keys text, label"),
        ("a.tsv", "text\tlabel\n", "only a header"),
    ],
)
def test_files_of_another_form_are_named(write, name, text, message):
    with pytest.raises(ValueError, match=message):
        load_labelled(write(name, text))


def test_tags_begin_with_b_and_lines_without_a_tag_are_named(write):
    examples = load_tagged(write("a.conll", "-DOCSTART- O\n\nRome\tI-LOC\nis O\n\nI I-PER\n"))
    assert examples.texts == [["Rome", "is"], ["I"]]
    assert examples.labels == [["B-LOC", "O"], ["B-PER"]]
    assert examples.report["I tags without a B before, read as B"] == 2
    with pytest.raises(ValueError, match="'Rome' on line 1"):
        load_tagged(write("b.conll", "Rome\n"))


def test_dialogues_are_read_in_both_forms(write):
    turns = {"turns": ["Hi", "Hello", "Bye", "See you"]}
    question = {"role": "user", "content": "Hi"}
    answered = {"messages": [question, {"role": "assistant", "content": "Hello"}]}
    examples = load_dialogues(write("a.jsonl", f"{json.dumps(turns)}\n{json.dumps(answered)}\n"))
    assert [len(turns) for turns in examples.labels] == [4, 2]
    assert examples.labels[0][3] == {"role": "assistant", "content": "See you"}
    with pytest.raises(ValueError, match="no turn of the assistant on line 1"):
        load_dialogues(write("b.jsonl", json.dumps({"messages": [question]})))
    with pytest.raises(ValueError, match="the role 'bot'"):
        load_dialogues(write("c.jsonl", '{"messages": [{"role": "bot", "content": "a"}]}'))


def test_the_loss_counts_answers_and_the_end_behind_each():
    tokenizer = BPETokenizer.train("User: Hi. Assistant: Hello. " * 20, vocab_size=270)
    messages = [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye."},
        {"role": "assistant", "content": "See you."},
    ]
    parts = dialogue_parts(messages)
    token_ids, is_answer = encode_parts(tokenizer, parts)
    assert token_ids.shape == is_answer.shape
    assert tokenizer.decode(token_ids[is_answer]) == " Hello. See you."
    assert is_answer[token_ids == tokenizer.end_id].tolist() == [True, True]
    assert tokenizer.decode(token_ids) == join_parts(parts)


def test_a_prompt_for_generation_is_the_beginning_of_its_training_text():
    for task in ("qa", "summarise", "answer"):
        prompt = join_parts(prompt_parts(task, "What?"))
        assert join_parts(prompt_parts(task, "What?", "That.")) == f"{prompt} That."


def test_a_tokenizer_without_an_end_cannot_end_answers():
    with pytest.raises(ValueError, match="must have an end token"):
        encode_parts(object(), [("a", True)])


def test_few_groups_cannot_be_divided():
    with pytest.raises(ValueError, match="at least 10 groups"):
        split_examples(load_labelled("definitions").take(np.arange(9)))
