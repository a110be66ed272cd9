"""Tests of tfgpt.pairs: reading, splitting by chapter, batches of few shapes."""

import numpy as np
import pytest

from tfgpt import BPETokenizer
from tfgpt.data.pairs import (
    PAIR_CORPORA,
    Pairs,
    encode_pairs,
    load_pairs,
    pair_batches,
    pair_windows,
    short_pairs,
    split_pairs,
)

BUCKETS, BATCH_TOKENS = (4, 6, 9), 24


def write(tmp_path, text, name="pairs.tsv"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


@pytest.fixture(scope="module")
def encoded():
    """60 pairs of random lengths; every source starts with an id of its own."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 9, size=(60, 2))
    pairs = []
    for index, (source, target) in enumerate(lengths):
        source_ids = np.r_[100 + index, rng.integers(3, 50, source - 1)].astype("int32")
        pairs.append((source_ids, np.r_[1, rng.integers(3, 50, target - 1), 2].astype("int32")))
    return pairs


# Reading


def test_bundled_corpora_are_read_whole():
    sizes = {corpus: len(load_pairs(corpus)) for corpus in PAIR_CORPORA}
    assert sizes == {"verses_en-es": 13968, "verses_kjv-modern": 14672}
    pairs = load_pairs("verses_en-es")
    assert pairs.targets[0] == "EN el principio crió Dios los cielos y la tierra."
    assert (pairs.groups[0], pairs.groups[-1]) == ("Gen.1", "Rev.22")


def test_tsv_files_and_two_files_give_the_same_pairs(tmp_path):
    two_columns = write(tmp_path, "\ufeffgood day\t你好\r\n the  sun \t太阳\r\n\r\n")
    three_columns = write(tmp_path, "a.1\tgood day\t你好\nb.1\tthe  sun\t太阳\n", "ids.tsv")
    sources = write(tmp_path, "good day\nthe  sun\n", "sources.txt")
    targets = write(tmp_path, "你好\n太阳\n", "targets.txt")
    expected = (["good day", "the  sun"], ["你好", "太阳"])
    for pairs in (load_pairs(two_columns), load_pairs(sources, targets)):
        assert (pairs.sources, pairs.targets) == expected
        assert pairs.groups == ["0", "1"]
    assert load_pairs(three_columns).groups == ["a", "b"]


def test_an_id_without_a_dot_names_its_chapter(tmp_path):
    pairs = load_pairs(write(tmp_path, "letter\ta\tb\nletter\tc\td\nstory.7.1\te\tf\n"))
    assert pairs.groups == ["letter", "letter", "story.7"]


def test_without_ids_neighbouring_lines_form_a_group(tmp_path):
    for count, size in ((45, 1), (250, 5), (1000, 20), (2010, 20)):
        pairs = load_pairs(write(tmp_path, "".join(f"s{i}\tt{i}\n" for i in range(count))))
        assert pairs.groups == [str(i // size) for i in range(count)]
    # Several translations of one sentence are not divided.
    pairs = load_pairs(write(tmp_path, "a\tb\na\tc\na\td\nb\te\n"))
    assert pairs.groups == ["0", "0", "0", "3"]


LICENCE = "CC-BY 2.0 (France) Attribution: tatoeba.org #2877272 (CM) & #1158250 (Wittydev)"


def test_a_third_column_with_the_licence_is_no_translation(tmp_path):
    lines = ["Go.\tVa !", "Hi.\tSalut !", "Run!\tCours\u202f!"]
    with_licence = load_pairs(write(tmp_path, "".join(f"{line}\t{LICENCE}\n" for line in lines)))
    assert with_licence == load_pairs(write(tmp_path, "\n".join(lines)))
    assert with_licence.sources == ["Go.", "Hi.", "Run!"]
    mixed = write(tmp_path, f"{lines[0]}\t{LICENCE}\n{lines[1]}\tno licence\n")
    with pytest.raises(ValueError, match=r"got 3 column\(s\) on line 2"):
        load_pairs(mixed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\nonly one\nc\td\n", r"got 1 column\(s\) on line 2 of .*pairs.tsv"),
        ("a\tb\n\nc\td\n", "got an empty line on line 2"),
        ("a\tb\nc\t \n", "got an empty text on line 2"),
        ("a\tb\n1\tc\td\n", r"got 3 column\(s\) on line 2"),
        ("a\tb\tc\td\n", r"got 4 column\(s\) on line 1"),
        (" \n", "corpus must not be empty"),
        ("Go now.\tVa\tspoken\n", r"got the sentence 'Go now\.' in place of an id \(cut -f 1,2"),
        ("a, b\n", r"1 column\(s\) \(commas do not divide columns\) on line 1"),
        ("a\0b\tc\n", "looks like UTF-16 or another file with NUL bytes"),
        ("PK\3\4\tb", r"looks like a zip file or an Office document \(.xlsx, .docx\)"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_pairs(write(tmp_path, text))


def test_files_of_different_lengths_or_no_files_are_refused(tmp_path):
    sources, targets = write(tmp_path, "a\nb\n"), write(tmp_path, "c\n", "targets.txt")
    with pytest.raises(ValueError, match="target_file must have one line per line of corpus, 2, g"):
        load_pairs(sources, targets)
    with pytest.raises(FileNotFoundError, match="corpus must be one of verses_en-es.*nothing.tsv"):
        load_pairs("nothing.tsv")
    with pytest.raises(FileNotFoundError, match="target_file must be .*nothing.txt"):
        load_pairs(sources, "nothing.txt")


# Splitting


@pytest.mark.parametrize("corpus", PAIR_CORPORA)
def test_no_chapter_and_no_source_is_in_two_parts(corpus):
    pairs = load_pairs(corpus)
    training, validation, test = split_pairs(pairs)
    assert len(training) > 0.87 * len(pairs)
    for part in (validation, test):
        assert 0.03 * len(pairs) < len(part) < 0.08 * len(pairs)
        assert not set(part.groups) & set(training.groups)
        assert not set(part.sources) & set(training.sources)
    assert not set(validation.groups) & set(test.groups)


def test_both_bundled_corpora_hold_out_the_same_chapters():
    parts = [split_pairs(load_pairs(corpus)) for corpus in PAIR_CORPORA]
    for place in (1, 2):
        assert not set(parts[0][place].groups) & set(parts[1][0].groups)


def test_the_split_depends_on_seed_and_names_only():
    pairs = Pairs(*[[f"{name}{i}" for i in range(400)] for name in "stg"])
    assert split_pairs(pairs) == split_pairs(pairs)
    assert split_pairs(pairs) != split_pairs(pairs, seed=1)
    backwards = Pairs(pairs.sources[::-1], pairs.targets[::-1], pairs.groups[::-1])
    assert set(split_pairs(backwards)[2].sources) == set(split_pairs(pairs)[2].sources)


@pytest.mark.parametrize("count", [3, 4, 24, 36, 60, 144, 400, 999])
def test_a_small_file_is_divided_too(tmp_path, count):
    pairs = load_pairs(write(tmp_path, "".join(f"s{i}\tt{i}\n" for i in range(count))))
    parts = split_pairs(pairs)
    assert all(map(len, parts)) and sum(map(len, parts)) == count
    assert len(parts[0]) >= 0.8 * count - 2
    groups = [set(part.groups) for part in parts]
    assert not groups[0] & groups[1] and not (groups[0] | groups[1]) & groups[2]
    assert split_pairs(pairs) == parts


def test_a_few_chapters_are_divided_too():
    for count in (3, 4, 5, 9):
        names = [str(i % count) for i in range(40)]
        parts = split_pairs(Pairs([f"s{i}" for i in range(40)], ["t"] * 40, names), share=0.4)
        assert all(map(len, parts))
        assert sum(len(set(part.groups)) for part in parts) == count


def test_too_few_pairs_or_a_wrong_share_are_refused():
    pairs = Pairs(["a", "b"], ["c", "d"], ["0", "0"])
    with pytest.raises(ValueError, match="must fill a training, .* of 2 pairs in 1 chapters"):
        split_pairs(pairs)
    with pytest.raises(ValueError, match=r"share must be in \(0, 0.5\), got 0.5"):
        split_pairs(pairs, share=0.5)


# Ids


def test_ids_have_start_and_end_and_give_the_text_back():
    tokenizer = BPETokenizer.train("in the beginning", vocab_size=262)
    ((source, target),) = encode_pairs(Pairs(["in the"], ["über 明"], ["0"]), tokenizer)
    assert source[-1] == tokenizer.end_id and tokenizer.decode(source) == " in the"
    assert (target[0], target[-1]) == (tokenizer.start_id, tokenizer.end_id)
    assert tokenizer.decode(target) == " über 明"


def test_long_pairs_are_left_out_with_a_notice(capsys):
    tokenizer = BPETokenizer.train("a", vocab_size=259)
    # Bytes: a space before the text and the end token after it make 5 and 7 tokens.
    pairs = Pairs(["abc", "abcde", "abc"], ["a", "a", "abcde"], ["0", "1", "2"])
    assert short_pairs(pairs, tokenizer, 5).groups == ["0"]
    assert capsys.readouterr().out == "Left out, more than 5 tokens: 2 of 3 pairs.\n"
    assert short_pairs(pairs, tokenizer, 7) == pairs
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="some of at most 4 tokens, got none"):
        short_pairs(pairs, tokenizer, 4)


# Batches


def take(dataset, count):
    return [
        {"source": inputs["source"].numpy(), "target": inputs["target"].numpy(), "next": t.numpy()}
        for inputs, t in dataset.take(count)
    ]


def ids_of(batches):
    return [int(row[0]) for batch in batches for row in batch["source"]]


def test_batches_have_one_shape_per_bucket(encoded):
    for batch in take(pair_batches(encoded, BUCKETS, BATCH_TOKENS), 60):
        length = batch["source"].shape[1]
        assert length in BUCKETS
        for array in batch.values():
            assert array.shape == (BATCH_TOKENS // length, length) and array.dtype == np.int32


def test_batches_hold_the_pairs_with_targets_shifted(encoded):
    known = {int(source[0]): (source, target) for source, target in encoded}
    for batch in take(pair_batches(encoded, BUCKETS, BATCH_TOKENS), 10):
        for source, inputs, targets in zip(*batch.values(), strict=True):
            pair = known[int(source[0])]
            for row, expected in (
                (source, pair[0]),
                (inputs, pair[1][:-1]),
                (targets, pair[1][1:]),
            ):
                np.testing.assert_array_equal(row[: len(expected)], expected)
                assert not row[len(expected) :].any()


def test_every_pass_takes_each_pair_once(encoded):
    ids = ids_of(take(pair_batches(encoded, BUCKETS, BATCH_TOKENS), 150))
    counts = np.unique(ids, return_counts=True)[1]
    assert len(counts) == len(encoded)
    # Some pairs of the last pass still wait in their bucket, or have had their turn.
    assert counts.max() - counts.min() <= 2


@pytest.mark.slow
def test_the_order_follows_the_seed_and_skip_goes_on(encoded):
    def ids(seed, skip=0):
        dataset = pair_batches(encoded, BUCKETS, BATCH_TOKENS, seed)
        return ids_of(take(dataset.skip(skip), 40))

    assert ids(0) == ids(0)
    assert ids(0) != ids(1)
    whole = pair_batches(encoded, BUCKETS, BATCH_TOKENS, 0)
    assert ids_of(take(whole, 50)[10:]) == ids(0, skip=10)
    first_pass, second_pass = np.split(np.array(ids(0)[:120]), 2)
    assert list(first_pass) != list(second_pass)


def test_windows_hold_each_pair_exactly_once(encoded):
    rows = []
    for inputs, targets in pair_windows(encoded, BUCKETS, BATCH_TOKENS):
        length = targets.shape[1]
        assert targets.shape == (BATCH_TOKENS // length, length)
        rows += list(zip(inputs["source"], inputs["target"], targets, strict=True))
    real = {int(source[0]): target for source, _, target in rows if source.any()}
    assert len(real) == len(encoded)
    for source, target in encoded:
        np.testing.assert_array_equal(np.trim_zeros(real[int(source[0])]), target[1:])
    assert all(not target.any() for source, _, target in rows if not source.any())


@pytest.mark.parametrize(
    ("buckets", "message"),
    [((4, 6), "reach the longest pair, 8 tokens"), ((9, 4), "ascending"), ((), "ascending")],
)
def test_buckets_that_do_not_fit_are_refused(encoded, buckets, message):
    for function in (pair_batches, pair_windows):
        with pytest.raises(ValueError, match=message):
            function(encoded, buckets, BATCH_TOKENS)
