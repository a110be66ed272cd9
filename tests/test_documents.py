"""Tests of tfgpt.data.documents and what it reads: files, encodings, records."""

import gzip
import json
import os
import random
import tracemalloc

import numpy as np
import pytest

from tfgpt import data
from tfgpt.data import find_files, read_pieces
from tfgpt.data.documents import split_documents
from tfgpt.data.encodings import guess_encoding
from tfgpt.data.records import LONGEST
from tfgpt.data.streams import CHUNK
from tfgpt.tokenizers import PART, BPETokenizer

POEM = "床前明月光，疑是地上霜。\n舉頭望明月，低頭思故鄉。\n"
PROSE = {
    "gb18030": "我们在这里说的是一个很大的国家，人们会来到这个地方。\n",
    "big5": "我們在這裡說的是一個很大的國家，人們會來到這個地方。\n",
    "shift_jis": "吾輩は猫である。名前はまだ無い。どこで生れたか見当がつかぬ。\n",
    "euc_jp": "吾輩は猫である。名前はまだ無い。どこで生れたか見当がつかぬ。\n",
    "euc_kr": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.\n",
    "cp1251": "Все люди рождаются свободными и равными в своем достоинстве.\n",
    "koi8-r": "Все люди рождаются свободными и равными в своем достоинстве.\n",
    "cp1252": "Tous les êtres humains naissent libres et égaux en dignité.\n",
    "utf-16-le": "First Citizen: before we proceed any further, hear me speak.\n",
    "utf-16-be": "First Citizen: before we proceed any further, hear me speak.\n",
}


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def documents(path, **options):
    """Join the pieces of each document."""
    found, parts = [], []
    for text, ends_document in read_pieces(path, **options):
        parts.append(text)
        if ends_document:
            found.append("".join(parts))
            parts = []
    assert not parts, "the last piece must end its document"
    return found


def error_of(path, **options):
    with pytest.raises(ValueError) as raised:
        documents(path, **options)
    assert path.name in str(raised.value)
    return str(raised.value)


# Which files


def names(corpus):
    return [path.name for path in find_files(corpus)]


def test_a_bundled_corpus_is_one_file_with_the_text_of_load_text():
    for corpus in data.CORPORA:
        (path,) = find_files(corpus)
        assert documents(path) == [data.load_text(corpus)]


def test_a_folder_is_read_with_those_below_it_sorted_by_path(tmp_path, capsys):
    for name in ("b.txt", "a/z.md", "a/c.jsonl.gz", "c.csv", "d.parquet", "a/.hidden.txt"):
        write(tmp_path, name, "x")
    for name in (".git/config.txt", "e.png", "f.parquet.gz", "README"):
        write(tmp_path, name, "x")
    assert names(tmp_path) == ["c.jsonl.gz", "z.md", "b.txt", "c.csv", "d.parquet"]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Left out 3 of the files in")
    assert all(part in line for part in (".png (1)", ".gz (1)", "no suffix (1)"))


def test_nothing_is_printed_where_nothing_is_left_out(tmp_path, capsys):
    write(tmp_path, "a.txt", "x")
    assert names(str(tmp_path)) == ["a.txt"]
    assert capsys.readouterr().out == ""


def test_patterns_and_lists_give_each_file_once_in_their_order(tmp_path):
    for name in ("b.txt", "a.txt", "deep/c.txt", "code.py"):
        write(tmp_path, name, "x")
    assert names(f"{tmp_path}/**/*.txt") == ["a.txt", "b.txt", "c.txt"]
    assert names(f"{tmp_path}/*.py") == ["code.py"]
    mixed = [tmp_path / "b.txt", str(tmp_path), "shakespeare", f"{tmp_path}/*.txt"]
    assert names(mixed) == ["b.txt", "a.txt", "c.txt", "shakespeare.txt"]


def test_a_file_that_is_named_is_read_whatever_its_suffix(tmp_path):
    path = write(tmp_path, "notes.log", POEM)
    assert find_files(path) == [path] and documents(path) == [POEM]


def test_a_name_with_signs_of_a_pattern_is_a_file_first(tmp_path):
    path = write(tmp_path, "part[1].txt", "x")
    assert find_files(path) == [path]


def test_a_link_to_a_folder_is_followed_but_not_in_circles(tmp_path):
    write(tmp_path, "disk/a.txt", "x")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(corpus)
    assert names(corpus) == ["a.txt"]


@pytest.mark.parametrize("corpus", ["nowhere.txt", "no*thing", "Shakespeare"])
def test_what_does_not_exist_is_named_in_the_error(tmp_path, corpus):
    with pytest.raises(FileNotFoundError, match="shakespeare, chinese_poems, or a file") as raised:
        find_files(str(tmp_path / corpus))
    assert corpus in str(raised.value)


@pytest.mark.parametrize("corpus", [[], None, 5, "", ["a", None]])
def test_a_corpus_that_is_no_path_is_refused(corpus):
    with pytest.raises(ValueError, match="corpus must be a path, a pattern or a list"):
        find_files(corpus)


def test_a_folder_without_files_to_read_says_what_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"\.txt.*with no file"):
        find_files(tmp_path)
    write(tmp_path, "a.pdf", "x")
    with pytest.raises(ValueError, match=r"\.txt.*with \.pdf \(1\)"):
        find_files(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_since_it_can_be_read_once_only(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="made of files.*write it to a file"):
        find_files(tmp_path / "pipe")


# Plain text


def test_line_ends_and_a_mark_are_the_same_wherever_a_chunk_ends(tmp_path):
    for shift in range(4):
        text = "x" * (CHUNK - shift - 3) + "\r\ny\rz\r\r\n"
        path = write(tmp_path, "a.txt", "\ufeff" + text)
        (found,) = documents(path)
        assert found == text.replace("\r\n", "\n").replace("\r", "\n")


def test_only_the_first_mark_is_dropped(tmp_path):
    assert documents(write(tmp_path, "a.txt", "\ufeffa\ufeffb")) == ["a\ufeffb"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb18030", "utf-32", "utf-8-sig"])
def test_characters_across_a_chunk_stay_whole(tmp_path, encoding):
    for shift in range(4):
        text = "a" * shift + ("明月 🌕" * 8 + "\n") * (CHUNK // 60)
        path = write(tmp_path, "a.txt", text.encode(encoding))
        assert path.stat().st_size > CHUNK
        assert documents(path, encoding=encoding) == [text]


@pytest.mark.parametrize("separator", ["<|endoftext|>", "\n\n\n", "\r\n\r\n\r\n", "%"])
def test_a_separator_is_found_wherever_a_chunk_ends(separator):
    plain = separator.replace("\r\n", "\n")
    rng = random.Random(0)
    for _ in range(200):
        pieces = ["".join(rng.choices(["a ", "\n", "<|end", "|>", "%%"], k=5)) for _ in range(4)]
        text = plain.join(pieces)
        cuts = sorted(rng.choices(range(len(text) + 1), k=6))
        chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        found, parts = [], ""
        for part, ends_document in split_documents(chunks, separator):
            parts += part
            if ends_document:
                found, parts = [*found, parts], ""
        assert found == text.split(plain) and not parts


def test_blank_documents_are_left_out(tmp_path):
    path = write(tmp_path, "a.txt", "one\n--- \r\n\t---\ntwo ---　---")
    assert documents(path, separator="---") == ["one\n", "\ntwo "]
    assert documents(write(tmp_path, "b.txt", "\n \r\n")) == []
    assert documents(write(tmp_path, "c.txt", "")) == []


def test_a_document_that_ends_in_much_white_space_is_one_document(tmp_path):
    text = "one two" + "\n" * (3 * PART)
    assert documents(write(tmp_path, "a.txt", text + "%" + "\n" * PART), separator="%") == [text]


@pytest.mark.parametrize("separator", ["", 5, b"x"])
def test_a_separator_that_is_no_text_is_refused(tmp_path, separator):
    with pytest.raises(ValueError, match="separator must be a text or None"):
        read_pieces(write(tmp_path, "a.txt", "x"), separator=separator)


# Pieces


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer.train([POEM * 20, data.load_text("shakespeare")[:50_000]], vocab_size=600)


@pytest.fixture(scope="module")
def gpt2():
    """Cuts text as GPT-2 does: runs of white space too."""
    import tokenizers

    library = tokenizers.ByteLevelBPETokenizer()
    library.train_from_iterator([data.load_text("shakespeare")[:50_000], "a  b\n\n\n" * 99], 600)
    return BPETokenizer(tokenizers.Tokenizer.from_str(library.to_str()))


@pytest.mark.parametrize("kind", ["bpe", "gpt2"])
@pytest.mark.parametrize(
    "text",
    ["english", *[pytest.param(name, marks=pytest.mark.slow) for name in ("spaces", "chinese")]],
)
def test_the_ids_of_the_pieces_are_the_ids_of_the_document(request, tmp_path, kind, text):
    tokenizer = request.getfixturevalue(kind)
    shakespeare = data.load_text("shakespeare")[:40_000]
    text = {
        "english": shakespeare * 8,
        "spaces": shakespeare.replace(" ", "  \n ") * 6,
        "chinese": POEM.replace("\n", "") * 12_000,  # no white space at all
    }[text]
    pieces = list(read_pieces(write(tmp_path, "a.txt", text)))
    assert [ends for _, ends in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len(pieces) > 1 and all(0 < len(piece) <= PART + 100 for piece, _ in pieces)
    found = np.concatenate([tokenizer.encode(piece) for piece, _ in pieces])
    whole = tokenizer.library_tokenizer.encode(text, add_special_tokens=False).ids
    np.testing.assert_array_equal(found, whole)


def test_a_long_record_is_cut_and_the_next_one_begins_anew(tmp_path):
    long, short = "one two " * PART, "three"
    lines = "".join(json.dumps({"text": text}) + "\n" for text in (long, short, long))
    path = write(tmp_path, "a.jsonl", lines)
    assert documents(path) == [long, short, long]
    assert max(len(text) for text, _ in read_pieces(path)) <= PART + 10


def test_a_text_without_white_space_is_one_piece_up_to_a_limit(tmp_path):
    text = "x" * (3 * PART)
    assert list(read_pieces(write(tmp_path, "a.txt", text))) == [(text, True)]


# Encodings


@pytest.mark.parametrize("encoding", PROSE)
def test_a_text_in_another_encoding_is_read_with_it_and_recognised_without(tmp_path, encoding):
    text = "one\n" + PROSE[encoding] * 3
    path = write(tmp_path, "a.txt", text.encode(encoding))
    assert documents(path, encoding=encoding) == [text]
    message = error_of(path)
    assert f"pass encoding='{encoding}'" in message and "at offset" in message


@pytest.mark.parametrize("encoding", ["gbk", "gb2312"])
def test_gbk_is_read_by_the_larger_encoding_that_the_error_names(tmp_path, encoding):
    path = write(tmp_path, "a.txt", PROSE["gb18030"].encode(encoding))
    assert "looks like gb18030" in error_of(path)
    assert documents(path, encoding="gb18030") == documents(path, encoding=encoding)


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [("utf-16", "utf-8"), ("utf-32", "utf-8"), ("utf-8", "gbk"), ("utf-16", "latin-1")],
)
def test_a_mark_tells_the_encoding_even_where_decoding_would_not_fail(tmp_path, mark, encoding):
    path = write(tmp_path, "a.txt", ("\ufeff" + POEM).encode(mark))
    message = error_of(path, encoding=encoding)
    assert f"the mark of {mark} at its start: pass encoding='{mark}'" in message


@pytest.mark.parametrize("far", [0, 5, CHUNK - 1, CHUNK, 3 * CHUNK + 7])
@pytest.mark.parametrize("before", ["", "明", "\n"])
def test_the_first_wrong_byte_is_named_with_its_offset_in_the_file(tmp_path, far, before):
    content = b"\xef\xbb\xbf" + b"x" * far + before.encode() + b"\xff" + POEM.encode() * 3
    message = error_of(write(tmp_path, "a.txt", content))
    assert f"byte 0xff at offset {content.index(bytes([0xFF]))}. " in message
    assert "may be damaged there" in message


def test_a_character_that_is_cut_off_at_the_end_is_an_error(tmp_path):
    content = POEM.encode() + "月".encode()[:2]
    assert f"0xe6 at offset {len(content) - 2}" in error_of(write(tmp_path, "a.txt", content))


def test_no_encoding_is_guessed_from_noise():
    assert guess_encoding(np.random.default_rng(0).bytes(5000)) is None


@pytest.mark.parametrize("encoding", ["klingon", "base64", "zip", None, 8, "utf\0-8", ""])
def test_an_unknown_encoding_lists_the_usual_ones(tmp_path, encoding):
    with pytest.raises(ValueError, match="encoding must be .*utf-8.*gb18030.*got"):
        read_pieces(write(tmp_path, "a.txt", "x"), encoding=encoding)


@pytest.mark.parametrize("far", [0, 7, CHUNK + 3])
def test_a_nul_byte_is_named_with_its_offset(tmp_path, far):
    path = write(tmp_path, "a.txt", b"x" * far + b"\0" + b"one two three")
    assert f"NUL byte at offset {far}. " in error_of(path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"%PDF-1.7", "a PDF"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"\x80\x04\x95", "a pickle file"),
        (b"PK\x03\x04", "a zip file"),
        (gzip.compress(b"one", mtime=0), "a gzip file"),
        (b"\x28\xb5\x2f\xfd", "a zstd file"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_file_of_another_kind_is_named(tmp_path, content, kind, encoding):
    message = error_of(write(tmp_path, "a.txt", content), encoding=encoding)
    assert f"looks like {kind}" in message


def test_words_that_begin_like_other_files_are_text(tmp_path):
    for text in ("GIF8 and PAR1", "PAR1 is a word", "BZhou", "Rar!"):
        assert documents(write(tmp_path, "a.txt", text)) == [text]


# Records


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.JSONL"])
def test_each_line_of_jsonl_is_a_document(tmp_path, name):
    content = '{"text": "one\\r\\ntwo"}\r\n\n{"text": null}\n{"text": " "}\n{"text": "三\u2028四"}'
    assert documents(write(tmp_path, name, content)) == ["one\ntwo", "三\u2028四"]


@pytest.mark.parametrize(
    ("record", "field", "text"),
    [
        ({"id": 5, "body": "b"}, "body", "b"),
        ({"content": "only"}, None, "only"),
        ({"a": {"b": {"c": "deep"}}, "text": "t"}, "a.b.c", "deep"),
        ({"a.b": "dot", "a": {"b": "deep"}}, "a.b", "dot"),
    ],
)
def test_the_field_names_the_text(tmp_path, record, field, text):
    path = write(tmp_path, "a.jsonl", json.dumps(record))
    assert documents(path, field=field) == [text]
    path = write(tmp_path, "a.json", json.dumps([record] * 2))
    assert documents(path, field=field) == [text] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 1, "body": "b"}', "got 'text', which is missing on line 3.*'id', 'body'"),
        ("{}", "missing on line 3.*none"),
        ("[1]", r"an object on line 3 of .*got '\[1\]'"),
        ('{"text": 5}', "field must name a text, got 'text' on line 3 .*int"),
        ('{"text": "\\ud83d"}', "on line 3 .*lone surrogate U.D83D"),
        ('{"text": ', "JSON on line 3 "),
        ("[" * 100_000, "JSON on line 3 "),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    path = write(tmp_path, "a.jsonl", '{"text": "fine"}\n\n' + line)
    with pytest.raises(ValueError, match=message) as raised:
        documents(path)
    assert "a.jsonl" in str(raised.value) and len(str(raised.value)) < 600


def test_a_json_file_that_is_no_list_is_refused(tmp_path):
    assert "list of objects" in error_of(write(tmp_path, "a.json", '{"text": "one"}'))
    lines = '{"text": "one"}\n{"text": "two"}'
    assert ".jsonl, an object on each line" in error_of(write(tmp_path, "b.json", lines))


def test_a_column_of_a_table_holds_the_documents(tmp_path):
    content = '\ufeffid,text\r\n1,"one, ""two""\r\nthree"\r\n\r\n2,四\r\n3,\r\n'
    path = write(tmp_path, "a.csv", content)
    assert documents(path) == ['one, "two"\nthree', "四"]
    assert documents(path, field="id") == ["1", "2", "3"]
    assert documents(write(tmp_path, "a.tsv", "id\ttext\n1\tone, two\n")) == ["one, two"]
    assert documents(write(tmp_path, "b.csv", "words\none\ntwo")) == ["one", "two"]
    assert documents(write(tmp_path, "c.csv", "")) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,body\n1,one", "'text', which is missing on line 2 .*'id', 'body'"),
        ("id,text\n1,one\n2,two,three", "2 cells in every row.*3 on line 3"),
        ('id,text\n1,"one"two', "line 2 of"),
        ('id,text\n1,"one', "unexpected end"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as raised:
        documents(write(tmp_path, "a.csv", content))
    assert "a.csv" in str(raised.value)


def test_a_cell_may_be_longer_than_the_limit_of_the_csv_module(tmp_path):
    text = "one two " * 50_000
    assert documents(write(tmp_path, "a.csv", f"text,id\n{text},1")) == [text]


# Packed files


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.csv.gz", "a.tsv.gz"])
def test_a_packed_file_is_read_as_what_it_holds(tmp_path, name):
    content = {"txt": "one", "jsonl": '{"text": "one"}'}.get(name.split(".")[1], "text\none")
    assert documents(write(tmp_path, name, gzip.compress(content.encode()))) == ["one"]


@pytest.mark.parametrize("damage", ["cut", "noise", "plain"])
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    packed = gzip.compress(random.Random(0).randbytes(3 * CHUNK).hex().encode())
    content = {"cut": packed[:-20], "noise": packed[:50_000] + b"x" * 99 + packed[50_099:]}
    path = write(tmp_path, "a.txt.gz", content.get(damage, b"no gzip"))
    assert "damaged or no such file as its name says" in error_of(path)


@pytest.fixture(scope="module")
def pyarrow():
    return pytest.importorskip("pyarrow")


@pytest.mark.parametrize("frames", [1, 2])
def test_a_zstd_file_is_read_to_its_end_or_refused(tmp_path, pyarrow, frames):
    text = random.Random(0).randbytes(CHUNK).hex() + "\n"
    packed = pyarrow.compress(text.encode(), codec="zstd", asbytes=True)
    assert documents(write(tmp_path, "a.txt.zst", packed * frames)) == [text * frames]
    for content in (packed[:-50], packed + packed[:-50], b"no zstd"):
        assert "damaged" in error_of(write(tmp_path, "a.txt.zst", content))


# Tables of others


def write_parquet(pyarrow, path, columns, **options):
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path, **options)
    return path


def test_each_row_of_parquet_is_a_document(tmp_path, pyarrow):
    texts = [f"text {number} 明月\r\n" for number in range(300)]
    columns = {"id": list(range(302)), "text": [*texts, None, " "], "meta": [{"b": "deep"}] * 302}
    path = write_parquet(pyarrow, tmp_path / "a.parquet", columns, row_group_size=100)
    assert documents(path) == [text.replace("\r\n", "\n") for text in texts]
    assert documents(path, field="meta.b") == ["deep"] * 302
    only = write_parquet(pyarrow, tmp_path / "b.parquet", {"words": [b"bytes", b"two"]})
    assert documents(only) == ["bytes", "two"]
    assert "'body', which is missing" in error_of(path, field="body")
    assert "got 'id' on row 1 of" in error_of(path, field="id")


def test_a_damaged_parquet_file_is_named(tmp_path, pyarrow):
    path = write_parquet(pyarrow, tmp_path / "a.parquet", {"text": ["one two " * 99] * 99})
    content = path.read_bytes()
    for damaged in (content[:-30], b"no parquet", b"", content[:20] + b"\xff" * 90 + content[110:]):
        assert "damaged" in error_of(write(tmp_path, "b.parquet", damaged))


def save_dataset(pyarrow, folder, shards, state=None):
    """Write what the `datasets` library does: Arrow streams and two files that describe them."""
    folder.mkdir(parents=True)
    files = []
    for number, columns in enumerate(shards):
        files.append({"filename": f"data-{number:05d}-of-{len(shards):05d}.arrow"})
        table = pyarrow.table(columns)
        with pyarrow.ipc.new_stream(folder / files[-1]["filename"], table.schema) as stream:
            stream.write_table(table, max_chunksize=100)
    (folder / "state.json").write_text(state or json.dumps({"_data_files": files}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_a_folder_of_the_datasets_library_is_one_item(tmp_path, pyarrow):
    shards = [{"id": [1, 2], "text": ["one", "two"]}, {"id": [3], "text": ["three"]}]
    folder = save_dataset(pyarrow, tmp_path / "corpus" / "train", shards)
    write(tmp_path / "corpus", "dataset_dict.json", '{"splits": ["train"]}')
    write(folder, "left.txt", "of another run")
    for corpus in (folder, tmp_path / "corpus", f"{tmp_path}/corpus/*"):
        assert [path for path in find_files(corpus) if path.is_dir()] == [folder]
    assert find_files(tmp_path) == [folder]
    assert documents(folder) == ["one", "two", "three"]
    assert "'body', which is missing" in error_of(folder, field="body")


@pytest.mark.parametrize("state", ["{", "[]", "{}", '{"_data_files": [{"filename": 5}]}'])
def test_a_damaged_folder_of_the_datasets_library_is_named(tmp_path, pyarrow, state):
    assert "damaged" in error_of(save_dataset(pyarrow, tmp_path / "d", [{"text": ["a"]}], state))


def test_a_folder_of_the_datasets_library_cannot_point_outside(tmp_path, pyarrow):
    save_dataset(pyarrow, tmp_path / "other", [{"text": ["secret"]}])
    state = '{"_data_files": [{"filename": "../other/data-00000-of-00001.arrow"}]}'
    folder = save_dataset(pyarrow, tmp_path / "mine", [{"text": ["own"]}], state)
    assert documents(folder) == ["own"]


def test_without_pyarrow_the_error_says_what_to_install(tmp_path):
    if pytest.importorskip("importlib.util").find_spec("pyarrow"):
        pytest.skip("pyarrow is installed")
    for name in ("a.parquet", "a.txt.zst"):
        with pytest.raises(ImportError, match=r"pip install tfgpt\[corpus\]") as raised:
            documents(write(tmp_path, name, b"x"))
        assert name in str(raised.value)


# Memory


def open_for_writing(path):
    return gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("wb")


def peak_of_reading(path, **options):
    """Return the number of characters of a file and the most bytes that Python held."""
    tracemalloc.start()
    count = sum(len(text) for text, _ in read_pieces(path, **options))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return count, peak


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.txt.gz"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    text = data.load_text("shakespeare")[: 2**16].replace('"', "'")
    blocks = 2**8 if name == "a.csv" else 2**10  # 16 or 64 MiB; tracemalloc slows csv
    row = {"jsonl": json.dumps({"text": text}) + "\n", "csv": f'"{text}"\n'}
    block = row.get(name.split(".")[1], text).encode()
    path = tmp_path / name
    with open_for_writing(path) as file:
        file.write(b"text\n" if name == "a.csv" else b"")
        for _ in range(blocks):
            file.write(block)
    count, peak = peak_of_reading(path)
    assert count == len(text) * blocks
    assert peak < 6 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.json", "a.txt.gz"])
def test_a_record_without_end_is_refused_before_it_fills_the_memory(tmp_path, name):
    path = tmp_path / name
    with open_for_writing(path) as file:
        file.write(b'text\n"' if name == "a.csv" else b"")
        for _ in range(2 * LONGEST // 2**20):
            file.write(b"x" * 2**20)
    assert f"at most {LONGEST:,} characters" in error_of(path)
