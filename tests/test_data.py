"""Tests of tfgpt.data: files in, windows and batches out."""

import numpy as np
import pytest
import tensorflow as tf

from tfgpt import data
from tfgpt.losses import masked_loss

MESSAGES = {
    "missing": "shakespeare, chinese_poems",
    "folder": "folder",
    "empty": "must not be empty",
    "blank": "must not be empty",
}


def write(folder, content):
    path = folder / "corpus.txt"
    path.write_bytes(content)
    return path


def first_batches(dataset, count):
    return [(inputs.numpy(), targets.numpy()) for inputs, targets in dataset.take(count)]


@pytest.mark.parametrize("corpus", data.CORPORA)
def test_a_bundled_corpus_is_long_and_has_unix_line_ends(corpus):
    text = data.load_text(corpus)
    assert len(text) > 100_000
    assert "\r" not in text and "\ufffd" not in text and "\x00" not in text
    assert not text.startswith("\ufeff")


def test_the_bundled_corpora_hold_their_languages():
    assert data.load_text("shakespeare").startswith("First Citizen:\n")
    poems = data.load_text("chinese_poems")
    chinese = sum("\u4e00" <= character <= "\u9fff" for character in poems)
    assert chinese > len(poems) / 2


def test_a_byte_order_mark_and_windows_line_ends_disappear(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert data.load_text(path) == "one\ntwo\n"
    assert data.load_text(str(path)) == "one\ntwo\n"


def test_only_the_first_byte_order_mark_disappears(tmp_path):
    text = "a\ufeffb"
    assert data.load_text(write(tmp_path, ("\ufeff" + text).encode())) == text


def test_chinese_emoji_and_combining_marks_come_back_unchanged(tmp_path):
    text = "床前明月光,\n👨‍👩‍👧 🌕 e\u0301 \u3000\U00020000"
    assert data.load_text(write(tmp_path, text.encode())) == text


@pytest.mark.parametrize("case", MESSAGES)
def test_a_file_without_text_is_named_in_the_error(tmp_path, case):
    path = {
        "missing": tmp_path / "none.txt",
        "folder": tmp_path,
        "empty": tmp_path / "empty.txt",
        "blank": tmp_path / "blank.txt",
    }[case]
    if case in ("empty", "blank"):
        path.write_bytes(b"\xef\xbb\xbf \r\n" if case == "blank" else b"")
    error = FileNotFoundError if case == "missing" else ValueError
    with pytest.raises(error, match=MESSAGES[case]) as raised:
        data.load_text(path)
    assert path.name in str(raised.value)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("hi".encode("utf-16"), "UTF-16"),
        ("hi 明".encode("utf-16-be"), "UTF-16 or another file with NUL bytes"),
        ("hi".encode("utf-32"), "UTF-16"),
        (b"one\0two", "UTF-16 or another file with NUL bytes"),
        (b"PK\x03\x04...", "a zip file or an Office document"),
        (b"%PDF-1.7", "a PDF"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, content, kind):
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"looks like {kind}.* Save it as UTF-8"):
        data.load_text(path)


@pytest.mark.parametrize(
    ("content", "byte", "offset"),
    [
        ("café".encode("latin-1"), "0xe9", 3),
        ("床".encode("gbk"), "0xb4", 0),
        (b"\xef\xbb\xbfab\xff", "0xff", 5),
        (b"x" * 100_000 + b"\x80" + b"x" * 10, "0x80", 100_000),
        ("明".encode()[:2], "0xe6", 0),
    ],
    ids=["latin-1", "gbk", "after a mark", "far inside", "cut character"],
)
def test_a_file_that_is_not_utf8_names_the_byte_and_its_offset(tmp_path, content, byte, offset):
    with pytest.raises(ValueError, match=f"{byte} at offset {offset}\\b.*Save it as UTF-8"):
        data.load_text(write(tmp_path, content))


def test_the_held_out_part_is_the_end_of_the_corpus():
    training, held_out = data.split_held_out(np.arange(100), share=0.2)
    np.testing.assert_array_equal(training, np.arange(80))
    np.testing.assert_array_equal(held_out, np.arange(80, 100))


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_held_out_share_outside_0_and_1_is_refused(share):
    with pytest.raises(ValueError, match="share must be in"):
        data.split_held_out([1, 2, 3], share=share)


def test_shift_pairs_each_token_with_the_next():
    token_ids = np.array([[5, 6, 7, 8], [1, 2, 3, 4]])
    inputs, targets = data.shift(token_ids)
    np.testing.assert_array_equal(inputs, [[5, 6, 7], [1, 2, 3]])
    np.testing.assert_array_equal(targets, [[6, 7, 8], [2, 3, 4]])


@pytest.mark.parametrize("length", [6, 7, 8, 9, 10])
def test_windows_hold_each_target_once(length):
    inputs, targets = data.windows(np.arange(length), context_length=3)
    full = (length - 1) // 3 * 3
    np.testing.assert_array_equal(targets.ravel(), np.arange(1, full + 1))
    np.testing.assert_array_equal(inputs.ravel(), np.arange(full))
    assert inputs.dtype == targets.dtype == np.int32


def test_the_shortest_corpus_gives_one_window():
    inputs, targets = data.windows([4, 5, 6], context_length=2)
    assert inputs.tolist() == [[4, 5]] and targets.tolist() == [[5, 6]]


@pytest.mark.parametrize("make", ["windows", "random_batches", "window_batches"])
def test_a_corpus_that_is_not_longer_than_the_context_is_refused(make):
    sizes = {"context_length": 8}
    if make != "windows":
        sizes["batch_size"] = 2
    with pytest.raises(ValueError, match="context_length=8 tokens, got 8"):
        getattr(data, make)(np.arange(8), **sizes)


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [(np.ones((4, 4), int), r"shape \(4, 4\)"), (np.ones(9), "float64")],
    ids=["matrix", "floats"],
)
def test_a_corpus_that_is_no_flat_array_of_integers_is_refused(token_ids, message):
    with pytest.raises(ValueError, match=message):
        data.windows(token_ids, context_length=2)


@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_sizes_must_be_positive_integers(size):
    with pytest.raises(ValueError, match="context_length must be"):
        data.windows(np.arange(9), size)
    with pytest.raises(ValueError, match="batch_size must be"):
        data.random_batches(np.arange(9), 2, size)
    with pytest.raises(ValueError, match="batch_size must be"):
        data.window_batches(np.arange(9), 2, size)


def test_random_batches_hold_pieces_of_the_corpus_and_the_next_tokens():
    corpus = np.random.default_rng(0).permutation(50)
    for inputs, targets in first_batches(data.random_batches(corpus, 4, 3), 5):
        assert inputs.shape == targets.shape == (3, 4)
        assert inputs.dtype == targets.dtype == np.int32
        for row, next_row in zip(inputs, targets, strict=True):
            start = corpus.tolist().index(row[0])
            np.testing.assert_array_equal(row, corpus[start : start + 4])
            np.testing.assert_array_equal(next_row, corpus[start + 1 : start + 5])


def test_the_seed_and_nothing_else_decides_the_random_batches():
    corpus = np.arange(1000)
    once = first_batches(data.random_batches(corpus, 4, 8, seed=7), 3)
    tf.random.set_seed(99)
    again = first_batches(data.random_batches(corpus, 4, 8, seed=7), 3)
    other = first_batches(data.random_batches(corpus, 4, 8, seed=8), 3)
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)
    assert not np.array_equal(once[0], once[1])


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("start", [1, 5])
def test_skip_goes_on_with_the_batches_that_would_have_come(start, noise):
    dataset = data.random_batches(np.arange(1000), 4, 8, noise=noise)
    expected = first_batches(dataset, start + 3)[start:]
    np.testing.assert_array_equal(first_batches(dataset.skip(start), 3), expected)


def test_noise_replaces_its_share_of_the_inputs_by_tokens_of_the_corpus_and_no_target():
    corpus = np.arange(100, 1100)
    ((inputs, targets),) = first_batches(data.random_batches(corpus, 50, 200, noise=0.2), 1)
    places = targets - 1  # what stood in this corpus before each target
    # 10,000 tokens: the standard deviation of the share is 0.004.
    assert np.mean(inputs != places) == pytest.approx(0.2, abs=0.02)
    assert np.isin(inputs, corpus).all()
    assert (targets[:, 1:] == targets[:, :-1] + 1).all()
    assert len(np.unique(inputs[inputs != places])) > 700  # of 1,000, in about 2,000 draws


@pytest.mark.parametrize("noise", [-0.1, 1.0, "much"])
def test_noise_must_be_a_share(noise):
    with pytest.raises(ValueError, match=r"noise must be in \[0, 1\), got"):
        data.random_batches(np.arange(9), 2, 2, noise=noise)


def test_every_place_of_the_corpus_is_drawn_the_first_and_the_last_too():
    dataset = data.random_batches(np.arange(12), context_length=4, batch_size=100)
    ((inputs, targets),) = first_batches(dataset, 1)
    # 12 tokens hold 8 windows of 4 + 1; (7/8)^100 = 2e-6 is the chance to miss one.
    assert set(inputs[:, 0]) == set(range(8))
    assert targets.max() == 11


def test_window_batches_have_one_shape_and_hold_each_target_once():
    batches = list(data.window_batches(np.arange(1, 24), context_length=3, batch_size=4))
    assert [tuple(part.shape) for batch in batches for part in batch] == [(4, 3)] * 4
    targets = np.concatenate([batch[1].numpy() for batch in batches])
    np.testing.assert_array_equal(targets.ravel()[:21], np.arange(2, 23))
    assert not targets[7:].any()


def test_the_padding_of_the_last_batch_does_not_count_in_the_loss():
    corpus = np.random.default_rng(0).integers(1, 6, 20)
    table = np.random.default_rng(1).normal(size=(6, 6)).astype("float32")
    (inputs, targets), *rest = data.window_batches(corpus, context_length=3, batch_size=8)
    assert not rest and inputs.shape == (8, 3)
    padded = masked_loss(targets, table[inputs.numpy()])
    plain_inputs, plain_targets = data.windows(corpus, 3)  # 6 windows: 2 rows are padding
    plain = masked_loss(plain_targets, table[plain_inputs])
    assert float(padded) == pytest.approx(float(plain), abs=1e-6)


def test_no_padding_is_added_where_the_windows_fill_the_batches():
    batches = list(data.window_batches(np.arange(1, 26), context_length=3, batch_size=4))
    assert len(batches) == 2
    assert all((part.numpy() > 0).all() for batch in batches for part in batch)
