"""Tests of tfgpt.tokenizers: text to ids and back, without loss."""

import copy
import json
import pickle
import random

import numpy as np
import pytest
import tensorflow as tf

from tfgpt.data import pack_tokens
from tfgpt.tokenizers import BPETokenizer, CharTokenizer, load_tokenizer, text_parts

TEXTS = {
    "English": "First Citizen:\nBefore we proceed, don't speak 1234.",
    "Chinese": "床前明月光,疑是地上霜。",
    "emoji": "🌕 👨‍👩‍👧 🇫🇷",
    "CRLF": "one\r\ntwo\r\n",
    "combining": "e\u0301 é a\u030a\u0323",
    "spaces": "  two  spaces\t\ttabs\n\n\nlines \u3000\u00a0 ",
    "control": "\x01\x02\x1f\x7f\u200b\ufeff",
    "empty": "",
}
SPECIAL_TEXTS = ["<pad>", "a<end>b", "<start> <pad><pad>", " <end>", "<|endoftext|>"]
# Pieces of random strings. Left out: what `to_keras_nlp` says it treats differently.
PIECES = [
    *[" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\f", "\u00a0", "\u3000", "\u2009", "\u202f"],
    *["1", "23", "456789", "½", "²", "٣", "Ⅷ", "𝟙"],
    *["'s", "'t", "'ll", "'re", "'S", "'", "''", "don't", "’s"],
    *["the", "The", "KING", "é", "e\u0301", "ü", "aé", "µ", "ª", "明月", "床前", "\U00020000"],
    *["नमस्ते", "สวัสดี", "Ĵ", "ĴA", "🌕", "👨‍👩‍👧", "\ue000"],
    *[":", ";", "!?", "--", "_", "@", "#", "|", "，", "<", ">", "<end>", "<pad>", "$", "\\"],
    *["\x01", "\x1c", "\x1f", "\x7f", "\u00ad", "\u200b", "\ufeff"],
]


def random_texts(count, longest, seed):
    rng = random.Random(seed)
    return ["".join(rng.choices(PIECES, k=rng.randint(0, longest))) for _ in range(count)]


@pytest.fixture(scope="module")
def char():
    return CharTokenizer.train("".join(TEXTS.values()))


@pytest.fixture(scope="module")
def bpe():
    # Random texts with many merges: every way to cut a text differently shows.
    return BPETokenizer.train([*TEXTS.values(), *random_texts(5000, 8, seed=1)], vocab_size=2000)


@pytest.fixture(scope="module")
def layer(bpe):
    return bpe.to_keras_nlp()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_text_comes_back_unchanged(request, kind, text):
    tokenizer = request.getfixturevalue(kind)
    token_ids = tokenizer.encode(text)
    assert tokenizer.decode(token_ids) == text
    assert tokenizer.decode(token_ids.tolist()) == text
    assert token_ids.dtype == np.int32 and token_ids.ndim == 1
    assert all(0 < index < tokenizer.vocab_size for index in token_ids)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_padding_decodes_to_nothing(request, kind):
    tokenizer = request.getfixturevalue(kind)
    token_ids = tokenizer.encode("明月")
    assert tokenizer.pad_id == 0 and tokenizer.id_to_token(0) == "<pad>"
    assert tokenizer.decode([0, *token_ids, 0, 0]) == "明月"


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_ids_outside_the_vocabulary_are_refused(request, kind):
    tokenizer = request.getfixturevalue(kind)
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=rf"\[0, {tokenizer.vocab_size}\), got {wrong}"):
            tokenizer.decode([1, wrong])
        with pytest.raises(ValueError, match=f"got {wrong}"):
            tokenizer.id_to_token(wrong)


@pytest.mark.parametrize("kind", ["char", "bpe"])
@pytest.mark.parametrize("token_ids", [[[1, 2]], 5], ids=["batch", "one id"])
def test_only_the_ids_of_one_text_are_decoded(request, kind, token_ids):
    with pytest.raises(ValueError, match=r"must have shape \(T,\)"):
        request.getfixturevalue(kind).decode(token_ids)


@pytest.mark.parametrize("kind", ["bpe", "gpt2"])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_tokens_split_at_random_are_the_same_text_in_more_pieces(request, kind, share):
    tokenizer, text = request.getfixturevalue(kind), "".join(random_texts(300, 8, seed=9))
    whole = tokenizer.encode(text)
    pieces = tokenizer.split_at_random(whole, share, seed=1)
    assert tokenizer.decode(pieces) == text
    assert len(pieces) > len(whole) and pieces.dtype == np.int32
    np.testing.assert_array_equal(pieces, tokenizer.split_at_random(whole, share, seed=1))
    assert len(pieces) != len(tokenizer.split_at_random(whole, share, seed=2))


def test_a_token_is_split_as_often_as_the_share_says_at_any_place_and_its_parts_again():
    # Three merges: ab, abc, abcd.
    tokenizer = BPETokenizer.train("abcd\nabcd\nabcd\nabc\nabc\nabc\nab\nab\nab\nab\n", 262)
    (whole,) = tokenizer.encode("abcd")
    pieces = tokenizer.split_at_random(np.full(10_000, whole), share=0.3, seed=0)
    labels = [tokenizer.id_to_token(int(token_id)) for token_id in pieces]
    # 30 % are split, abc + d; 30 % of those again, ab + c: standard deviation 0.005.
    assert labels.count("d") / 10_000 == pytest.approx(0.3, abs=0.03)
    assert labels.count("c") / 10_000 == pytest.approx(0.09, abs=0.015)
    assert labels.count("b") / 10_000 == pytest.approx(0.027, abs=0.01)
    np.testing.assert_array_equal(tokenizer.split_at_random([whole], share=0.0), [whole])
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\), got 1"):
        tokenizer.split_at_random([whole], share=1)


def test_a_token_is_split_wherever_both_parts_are_tokens():
    texts = ["abcd\n" * 9, "ab\n" * 20, "cd\n" * 20, "abc\n" * 15]
    tokenizer = BPETokenizer.train(texts, 263)
    (whole,) = tokenizer.encode("abcd")
    pieces = tokenizer.split_at_random(np.full(1000, whole), share=0.5, seed=0).tolist()
    pairs = {
        (tokenizer.id_to_token(a), tokenizer.id_to_token(b))
        for a, b in zip(pieces, pieces[1:], strict=False)
    }
    assert {("ab", "cd"), ("abc", "d")} <= pairs


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_saved_tokenizer_has_the_same_ids(request, tmp_path, kind):
    tokenizer = request.getfixturevalue(kind)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = type(tokenizer).load(tmp_path / "tokenizer.json")
    assert loaded.vocab_size == tokenizer.vocab_size
    for text in [*TEXTS.values(), *(SPECIAL_TEXTS if kind == "bpe" else [])]:
        np.testing.assert_array_equal(loaded.encode(text), tokenizer.encode(text))


@pytest.mark.parametrize("kind", [CharTokenizer, BPETokenizer])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"characters": 5}'])
def test_a_file_that_is_no_saved_tokenizer_is_refused(tmp_path, kind, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"saved {kind.__name__}, got .*tokenizer.json"):
        kind.load(path)


@pytest.mark.parametrize("kind", [CharTokenizer, BPETokenizer])
def test_a_tokenizer_file_that_is_missing_is_named(tmp_path, kind):
    with pytest.raises(FileNotFoundError, match="none.json"):
        kind.load(tmp_path / "none.json")


def test_characters_have_ids_in_code_point_order_from_1_on():
    tokenizer = CharTokenizer.train("cab\nb月")
    assert [tokenizer.id_to_token(index) for index in range(6)] == ["<pad>", "\n", *"abc月"]
    assert tokenizer.vocab_size == 6
    assert CharTokenizer.train("月b\nacc").encode("abc").tolist() == [2, 3, 4]


def test_an_unknown_character_is_named_with_code_point_and_position():
    tokenizer = CharTokenizer.train("abc")
    with pytest.raises(ValueError, match=r"'月' \(U\+6708\) at position 2; .* 3 characters"):
        tokenizer.encode("ab月月")
    with pytest.raises(ValueError, match=r"U\+1F315"):
        tokenizer.encode("🌕")


@pytest.mark.parametrize("characters", [[], "", "aa", ["ab"], ["<pad>"], [""]])
def test_characters_must_be_single_and_distinct(characters):
    with pytest.raises(ValueError, match="distinct single characters"):
        CharTokenizer(characters)


def test_an_empty_text_trains_no_tokenizer():
    with pytest.raises(ValueError, match="text must not be empty"):
        CharTokenizer.train("")
    for texts in ("", [], ["", ""]):
        with pytest.raises(ValueError, match="texts must not be empty"):
            BPETokenizer.train(texts, vocab_size=300)


def test_the_typed_name_of_padding_is_encoded_as_characters(char):
    tokenizer = CharTokenizer.train("<pad>")
    assert tokenizer.decode(tokenizer.encode("<pad>")) == "<pad>"
    assert 0 not in tokenizer.encode("<pad>")


@pytest.mark.parametrize("text", SPECIAL_TEXTS)
def test_special_tokens_typed_by_a_user_are_encoded_as_plain_text(bpe, text):
    token_ids = bpe.encode(text)
    assert min(token_ids) > bpe.end_id
    assert bpe.decode(token_ids) == text


def test_special_tokens_in_the_training_text_stay_plain_text_too():
    tokenizer = BPETokenizer.train("<end> <pad>" * 200, vocab_size=300)
    assert min(tokenizer.encode("<end><pad> <end>")) > tokenizer.end_id


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_takes_special_words_for_text_as_well(copied):
    tokenizer = copied(BPETokenizer.train("<end> <pad>" * 200, vocab_size=300))
    assert min(tokenizer.encode("<end><pad> <end>")) > tokenizer.end_id
    assert tokenizer.decode(tokenizer.encode("a<end>b")) == "a<end>b"


def test_special_ids_are_first_and_decode_to_nothing(bpe):
    names = [bpe.id_to_token(index) for index in (bpe.pad_id, bpe.start_id, bpe.end_id)]
    assert names == ["<pad>", "<start>", "<end>"]
    assert bpe.decode([bpe.start_id, *bpe.encode("moon"), bpe.end_id]) == "moon"


def test_frequent_words_become_one_piece_with_their_space():
    tokenizer = BPETokenizer.train("the moon and the moon " * 50, vocab_size=300)
    assert [tokenizer.id_to_token(index) for index in tokenizer.encode("the moon")] == [
        "the",
        " moon",
    ]
    assert tokenizer.vocab_size < 300  # there is nothing more to merge


def test_training_twice_gives_the_same_ids():
    texts = random_texts(300, 8, seed=2)
    first, second = (BPETokenizer.train(texts, vocab_size=600) for _ in range(2))
    for text in texts:
        np.testing.assert_array_equal(first.encode(text), second.encode(text))


@pytest.mark.parametrize("vocab_size", [258, 0, -5, 300.0, True])
def test_a_vocabulary_too_small_for_the_bytes_is_refused(vocab_size):
    with pytest.raises(ValueError, match="vocab_size must be"):
        BPETokenizer.train("text", vocab_size)


def test_the_smallest_vocabulary_is_the_bytes_and_still_encodes_everything():
    tokenizer = BPETokenizer.train("text " * 9, vocab_size=259)
    assert tokenizer.vocab_size == 259
    for text in TEXTS.values():
        assert len(tokenizer.encode(text)) == len(text.encode())
        assert tokenizer.decode(tokenizer.encode(text)) == text
    every_byte = bytes(range(256)).decode("latin-1")
    assert tokenizer.decode(tokenizer.encode(every_byte)) == every_byte


def test_labels_show_whole_characters_and_the_bytes_of_partial_ones():
    tokenizer = BPETokenizer.train("x", vocab_size=259)
    labels = [tokenizer.id_to_token(index) for index in tokenizer.encode("a 月\n")]
    assert labels == ["a", " ", "<E6>", "<9C>", "<88>", "\n"]  # 月 is E6 9C 88
    trained = BPETokenizer.train("月月月月" * 50, vocab_size=270)
    assert "月" in trained.id_to_token(trained.encode("月")[0])
    partial = BPETokenizer.train(["月", "朋"] * 50, vocab_size=260)  # both begin with E6 9C
    assert partial.id_to_token(partial.encode("月")[0]) == "<E6><9C>"


def test_every_id_has_a_label(bpe):
    labels = [bpe.id_to_token(index) for index in range(bpe.vocab_size)]
    assert all(labels) and not any("\ufffd" in label for label in labels)


def test_half_a_character_decodes_to_the_replacement_character():
    tokenizer = BPETokenizer.train("x", vocab_size=259)
    assert tokenizer.decode(tokenizer.encode("月")[:1]) == "\ufffd"


@pytest.mark.slow
def test_the_layer_in_a_tf_data_graph_equals_encode(bpe, layer):
    texts = [*TEXTS.values(), *SPECIAL_TEXTS, *random_texts(1000, 6, seed=3)]
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(len(texts)).map(layer)
    for text, token_ids in zip(texts, next(iter(dataset)), strict=True):
        assert token_ids.numpy().tolist() == bpe.encode(text).tolist(), repr(text)


def test_the_layer_called_directly_equals_encode_too(bpe, layer):
    texts = random_texts(200, 6, seed=4)
    for text, token_ids in zip(texts, layer(texts), strict=True):
        assert np.asarray(token_ids).tolist() == bpe.encode(text).tolist(), repr(text)


@pytest.mark.slow
def test_the_layer_differs_from_encode_only_where_it_says_so(bpe, layer):
    """Pins the exceptions in the docstring: should this fail, a newer library is better."""
    a, b = bpe.encode("a").tolist(), bpe.encode("b").tolist()
    for text, expected in {"a\x00b": a, "a६b": a + b}.items():
        assert np.asarray(layer([text])[0]).tolist() == expected
        assert bpe.decode(bpe.encode(text)) == text


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_the_bytes_of_tokens_are_those_of_the_text(request, kind, text):
    tokenizer = request.getfixturevalue(kind)
    pieces = [tokenizer.token_bytes(int(token_id)) for token_id in tokenizer.encode(text)]
    assert b"".join(pieces) == text.encode()


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_special_tokens_have_no_bytes_and_unknown_ids_are_refused(request, kind):
    tokenizer = request.getfixturevalue(kind)
    special = [0, 1, 2] if kind == "bpe" else [0]
    assert [tokenizer.token_bytes(token_id) for token_id in special] == [b""] * len(special)
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=f"token_id must be in .*, got {wrong}"):
            tokenizer.token_bytes(wrong)


# Many texts, long texts, texts that are none


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_many_texts_are_encoded_and_decoded_as_one_by_one(request, kind):
    tokenizer = request.getfixturevalue(kind)
    texts = list(TEXTS.values())
    rows = tokenizer.encode_batch(texts)
    for row, text in zip(rows, texts, strict=True):
        np.testing.assert_array_equal(row, tokenizer.encode(text))
    assert tokenizer.decode_batch(rows) == texts
    assert tokenizer.decode_batch(tf.ragged.constant([row.tolist() for row in rows])) == texts
    assert tokenizer.decode_batch(pack_tokens(rows, max(map(len, rows)))) == texts
    assert tokenizer.encode_batch([]) == tokenizer.decode_batch([]) == []


@pytest.mark.parametrize("kind", ["bpe", "gpt2"])
def test_a_long_text_is_cut_only_where_its_ids_do_not_change(request, kind):
    tokenizer = request.getfixturevalue(kind)
    for text in random_texts(300, 40, seed=5):
        expected = tokenizer.encode(text).tolist()
        for size in (1, 2, 5, 11):
            parts = list(text_parts(text, size))
            assert "".join(parts) == text
            found = [token_id for part in parts for token_id in tokenizer.encode(part).tolist()]
            assert found == expected, repr(text)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_text_of_several_parts_has_the_ids_of_its_lines(request, kind):
    tokenizer = request.getfixturevalue(kind)
    line = "First Citizen: 床前明月光,疑是地上霜。\n"
    token_ids = tokenizer.encode(line * 20_000)
    np.testing.assert_array_equal(token_ids, np.tile(tokenizer.encode(line), 20_000))


@pytest.mark.parametrize("kind", ["char", "bpe"])
@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (5, TypeError, "text must be a str, got int"),
        (None, TypeError, "text must be a str, got NoneType"),
        (["a"], TypeError, "text must be a str, got list"),
        (b"\xff", ValueError, "text must be UTF-8, got"),
        ("ab\ud83cd", ValueError, r"lone surrogate U\+D83C at position 2"),
    ],
)
def test_what_is_no_text_is_refused(request, kind, text, error, message):
    with pytest.raises(error, match=message):
        request.getfixturevalue(kind).encode(text)
    if not isinstance(text, list):
        with pytest.raises(error, match=message):
            CharTokenizer.train(text) if kind == "char" else BPETokenizer.train([text], 300)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_strings_of_tf_data_are_text(request, kind):
    tokenizer = request.getfixturevalue(kind)
    expected = tokenizer.encode("明月").tolist()
    for text in ("明月".encode(), tf.constant("明月"), np.bytes_("明月".encode()), np.str_("明月")):
        assert tokenizer.encode(text).tolist() == expected
    data = tf.data.Dataset.from_tensor_slices(["ab ab", "ab"]).as_numpy_iterator()
    assert "ab" in BPETokenizer.train(data, 300).id_to_token(259)


def test_half_a_character_is_no_character():
    with pytest.raises(ValueError, match="single characters, got '.ud800'"):
        CharTokenizer(["a", "\ud800"])


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_ids_that_are_no_integers_are_refused(request, kind):
    tokenizer = request.getfixturevalue(kind)
    with pytest.raises(TypeError, match="must be integers, got dtype float64"):
        tokenizer.decode([1.0, 2.0])
    assert tokenizer.decode(np.array([4, 5], "uint8")) == tokenizer.decode([4, 5])
    assert tokenizer.decode([]) == ""


# Files of others


@pytest.fixture(scope="module")
def library():
    """GPT-2's kind of tokenizer, as the library makes it: 256 bytes, pairs, <|endoftext|> last."""
    import tokenizers

    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(random_texts(500, 8, seed=6), vocab_size=500, show_progress=False)
    made = tokenizers.Tokenizer.from_str(made.to_str())
    made.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    made.add_special_tokens(["<|endoftext|>"])
    return made


@pytest.fixture(scope="module")
def gpt2(library):
    import tokenizers

    return BPETokenizer(tokenizers.Tokenizer.from_str(library.to_str()))


def write_files(library, folder):
    """Write vocab.json, with <|endoftext|> last as in GPT-2, and merges.txt."""
    model = json.loads(library.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(library.get_vocab()), encoding="utf-8")
    merges = "".join(f"{a} {b}\n" for a, b in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    return folder / "vocab.json", folder / "merges.txt"


def test_files_of_gpt2_give_the_ids_of_the_library(library, tmp_path):
    library.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    from_files = BPETokenizer.from_files(*write_files(library, tmp_path))
    from_files.save(tmp_path / "again.json")
    again = load_tokenizer(tmp_path / "again.json")
    for tokenizer in (loaded, from_files, again):
        assert tokenizer.vocab_size == library.get_vocab_size()
        for text in [*TEXTS.values(), *random_texts(200, 12, seed=7)]:
            token_ids = tokenizer.encode(text).tolist()
            assert token_ids == library.encode(text).ids
            assert tokenizer.decode(token_ids) == text


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_a_folder_is_read_by_its_files(names, library, tmp_path):
    for path, name in zip(write_files(library, tmp_path), names, strict=True):
        path.rename(tmp_path / name)
    from_two = BPETokenizer.load(tmp_path)
    assert from_two.end_id == library.token_to_id("<|endoftext|>")
    library.save(str(tmp_path / "tokenizer.json"))
    both = [
        tokenizer.encode("moon  light\n") for tokenizer in (from_two, BPETokenizer.load(tmp_path))
    ]
    assert both[0].tolist() == both[1].tolist()
    with pytest.raises(FileNotFoundError):
        BPETokenizer.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        BPETokenizer.load(tmp_path / "empty")


def test_special_ids_are_those_of_the_file(gpt2):
    end = gpt2.vocab_size - 1
    assert (gpt2.pad_id, gpt2.start_id, gpt2.end_id) == (None, end, end)
    assert gpt2.id_to_token(end) == "<|endoftext|>" and gpt2.token_bytes(end) == b""
    assert [gpt2.id_to_token(token_id) for token_id in range(3)] == ["!", '"', "#"]
    assert gpt2.decode([0, end, 1]) == '!"'
    assert b"".join(gpt2.token_bytes(token_id) for token_id in (0, end, 1)) == b'!"'
    assert end not in gpt2.encode("a <|endoftext|>")
    assert (BPETokenizer.pad_id, BPETokenizer.start_id, BPETokenizer.end_id) == (0, 1, 2)


def change(library, part, value):
    """Return the JSON of the library's tokenizer with another part."""
    content = json.loads(library.to_str())
    content[part] = value
    return json.dumps(content)


def test_settings_of_a_file_that_change_a_length_are_switched_off(library, tmp_path):
    import tokenizers

    other = tokenizers.Tokenizer.from_str(library.to_str())
    other.enable_truncation(3)
    other.enable_padding(length=9)
    other.save(str(tmp_path / "tokenizer.json"))
    tokenizer = BPETokenizer.load(tmp_path / "tokenizer.json")
    text = "床前明月光 whatever"
    assert tokenizer.encode(text).tolist() == library.encode(text).ids


def test_files_without_byte_level_pairs_are_refused(library, tmp_path):
    import tokenizers

    path = tmp_path / "tokenizer.json"
    models = tokenizers.models
    word_piece = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    words = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    for content, message in (
        (word_piece.to_str(), "byte-level pairs, got the model WordPiece"),
        (words.to_str(), "byte-level pairs, got the model BPE"),
        (change(library, "normalizer", {"type": "Lowercase"}), "not change a text, got Lowercase"),
        (change(library, "pre_tokenizer", None), "byte-level pairs"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=f"saved BPETokenizer, got .*{message}"):
            load_tokenizer(path)


def test_two_files_that_do_not_fit_together_are_refused(library, tmp_path):
    vocab, merges = write_files(library, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        BPETokenizer.from_files(vocab, tmp_path / "none.txt")
    merges.write_text("#version: 0.2\nqq zz\n")
    with pytest.raises(ValueError, match="must be a byte-level vocab.json and its merges.txt, got"):
        BPETokenizer.from_files(vocab, merges)


# Packing

PACKED = {
    "start and end": ({"start_id": 1, "end_id": 2}, [[1, 5, 6, 2, 0], [1, 7, 8, 9, 2]]),
    "end": ({"end_id": 2, "pad_id": 3}, [[5, 6, 2, 3, 3], [7, 8, 9, 10, 2]]),
    "neither": ({}, [[5, 6, 0, 0, 0], [7, 8, 9, 10, 11]]),
}


@pytest.mark.parametrize(("settings", "expected"), PACKED.values(), ids=PACKED)
def test_packed_texts_keep_their_ends_and_have_one_length(settings, expected):
    rows = [[5, 6], [7, 8, 9, 10, 11, 12]]
    for given in (rows, [np.array(row, "uint16") for row in rows], tf.ragged.constant(rows)):
        packed = pack_tokens(given, 5, **settings)
        assert np.asarray(packed).tolist() == expected and packed.dtype == "int32"
    for row, result in zip(rows, expected, strict=True):
        assert pack_tokens(row, 5, **settings).tolist() == result
    texts = tf.data.Dataset.from_tensor_slices(tf.ragged.constant(rows))
    packed = texts.map(lambda row: pack_tokens(row, 5, **settings))
    assert [row.tolist() for row in packed.as_numpy_iterator()] == expected
    batched = texts.ragged_batch(2).map(lambda rows: pack_tokens(rows, 5, **settings))
    assert next(iter(batched)).numpy().tolist() == expected
    assert batched.element_spec.shape == (None, 5)


def test_packing_equals_that_of_keras(layer):
    import keras_nlp

    rows = tf.ragged.constant([[5], [6, 7, 8], [], [9] * 12])
    packer = keras_nlp.layers.StartEndPacker(7, start_value=1, end_value=2, pad_value=0)
    np.testing.assert_array_equal(pack_tokens(rows, 7, 1, 2), packer(rows))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length must be an integer >= 1, got 0"),
        ({"length": 2, "start_id": 1, "end_id": 2}, "room for a text, got 2 with 2 ends"),
        ({"length": 5, "end_id": 0}, "pad_id must differ from start_id and end_id, got 0"),
        ({"length": 5, "end_id": -1}, "must be an integer >= 0, got -1"),
    ],
)
def test_packing_that_cannot_work_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        pack_tokens([[5, 6]], **settings)
