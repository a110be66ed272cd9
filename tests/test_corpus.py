"""Tests of tfgpt.data.corpus and token_batches: any size, exact, resumable, in random order."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
from pathlib import Path

import keras
import numpy as np
import pytest

from tfgpt import BPETokenizer, CharTokenizer
from tfgpt.data import find_files
from tfgpt.data.corpus import Corpus, prepare_corpus
from tfgpt.data.token_batches import TokenBatches, Tokens, shuffled

REPOSITORY = Path(__file__).resolve().parent.parent
POEMS = ["床前明月光\n疑是地上霜\n", "春眠不觉晓\n", "白日依山尽\n黄河入海流\n"]


def write_folder(folder, texts):
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number:04d}.txt").write_text(text, encoding="utf-8")
    return find_files(folder)


def tokens_of(part):
    return part[: len(part)].tolist()


def test_tokens_in_pieces_read_like_one_array():
    whole = np.arange(20)
    tokens = Tokens([whole[:3], whole[3:3], whole[3:11], whole[11:]])
    assert len(tokens) == 20
    for start in range(20):
        for stop in range(start, 21):
            assert tokens[start:stop].tolist() == whole[start:stop].tolist()
    assert tokens[-4:].tolist() == [16, 17, 18, 19] and tokens[:].dtype == "int32"
    assert len(Tokens([])) == 0 and Tokens([])[:].tolist() == []
    with pytest.raises(ValueError, match="must have step 1, got 2"):
        tokens[::2]


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 1000, 4097])
def test_a_shuffle_has_every_place_once_and_another_seed_another_order(size):
    orders = [shuffled(np.arange(size), size, (seed, 0)).tolist() for seed in range(3)]
    for order in orders:
        assert sorted(order) == list(range(size))
    if size > 100:
        assert orders[0] != orders[1] != orders[2]
        # Neighbours are no neighbours any more: few steps are small.
        steps = np.abs(np.diff(orders[0]))
        assert np.mean(steps < size / 100) < 0.05
        assert abs(np.corrcoef(orders[0], np.arange(size))[0, 1]) < 0.1


def test_places_of_a_shuffle_do_not_depend_on_what_else_is_asked():
    order = shuffled(np.arange(500), 500, (7, 1))
    assert shuffled(np.array([499, 3, 77]), 500, (7, 1)).tolist() == order[[499, 3, 77]].tolist()


def test_a_shuffle_beyond_two_to_the_31_works():
    size = 2**40 + 3
    places = np.array([0, 1, 2**31, 2**40 + 2])
    found = shuffled(places, size, (0, 0))
    assert len(set(found.tolist())) == 4 and (found >= 0).all() and (found < size).all()
    assert found.max() > 2**33


class Endless:
    """A row of 2**33 tokens that nobody has to store."""

    def __len__(self):
        return 2**33

    def __getitem__(self, part):
        return (np.arange(part.start, part.stop) % 1000).astype("int32")


def test_a_corpus_of_more_than_two_billion_tokens_is_read_to_its_end():
    batches = TokenBatches(Endless(), context_length=64, batch_size=512)
    starts = [batches.read(place)[0][:, 0] for place in (0, 10**7)]
    assert starts[0].tolist() != starts[1].tolist()
    assert batches.examples == (2**33 - 64) // 64


@pytest.mark.parametrize(("size", "context"), [(101, 10), (100, 10), (11, 10), (57, 8)])
def test_each_pass_reads_windows_that_do_not_overlap(size, context):
    batches = TokenBatches(np.arange(size), context, batch_size=1)
    reader = batches.batches_from(0)
    firsts = []
    for _ in range(3):
        seen = []
        for _ in range(batches.examples):
            inputs, targets = next(reader)
            assert (targets == inputs + 1).all() and inputs.shape == (1, context)
            seen += inputs[0].tolist()
        assert len(set(seen)) == len(seen)
        firsts.append(min(seen) % context)
    if size > 50:
        assert len(set(firsts)) > 1  # another offset in another pass


def test_examples_depend_on_their_number_only():
    """So the place in the data is kept by examples, with any batch size."""
    tokens = np.random.default_rng(0).integers(0, 50, 1000)
    small, large = (TokenBatches(tokens, 8, size, seed=3) for size in (4, 12))
    reader = small.batches_from(24)
    rows = np.concatenate([next(reader)[0] for _ in range(3)])
    assert (rows == next(large.batches_from(24))[0]).all()
    assert small.fingerprint == large.fingerprint
    assert small.fingerprint != TokenBatches(tokens, 8, 4, seed=4).fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.arange(8), 8, 1), "tokens must be more than context_length=8, got 8"),
        ((np.arange(9), 0, 1), "context_length must be an integer >= 1"),
        ((np.arange(9), 2, 0), "batch_size must be an integer >= 1"),
        ((np.arange(9), 2, 1, -1), "seed must be an integer >= 0"),
    ],
)
def test_wrong_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenBatches(*arguments)


def test_fit_reads_every_example_of_a_pass_and_goes_on_in_the_next():
    batches = TokenBatches(np.arange(100), 8, batch_size=4)
    first = [batches[index] for index in range(len(batches))]
    assert len(batches) == 3 and sum(len(x) for x, _ in first) == 12
    batches.on_epoch_end()  # Keras looks at a batch and resets before it begins
    assert batches[0][0].tolist() == first[0][0].tolist()
    batches.on_epoch_begin()
    batches.on_epoch_end()
    assert batches[0][0].tolist() == batches.read(12)[0].tolist()
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,), dtype="int32"), keras.layers.Embedding(100, 100)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    history = model.fit(TokenBatches(np.arange(100), 8, batch_size=4), epochs=3, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


def documents_in(tokens, tokenizer):
    """List the texts between end tokens."""
    ids = np.array(tokens_of(tokens))
    cuts = np.flatnonzero(ids == tokenizer.end_id) + 1
    return [tokenizer.decode(row) for row in np.split(ids, cuts)[:-1]]


def test_a_few_long_documents_are_held_out_at_their_ends(tmp_path):
    tokenizer = CharTokenizer.train("".join(POEMS))
    files = write_folder(tmp_path / "texts", POEMS)
    corpus = prepare_corpus(files, tokenizer, tmp_path / "corpora", held_out=0.1)
    rows = [[*tokenizer.encode(poem), *tokenizer.encode("\n\n")] for poem in POEMS]
    cuts = [len(row) - round(len(row) * 0.1) for row in rows]
    expected = [sorted(row[:cut] for row, cut in zip(rows, cuts, strict=True))]
    expected.append(sorted(row[cut:] for row, cut in zip(rows, cuts, strict=True)))
    for part, pieces in zip((corpus.training, corpus.held_out), expected, strict=True):
        assert sorted(segment.tolist() for segment in part.segments) == pieces
    assert corpus.documents == 3 and corpus.text_bytes == len("".join(POEMS).encode())


@pytest.mark.parametrize("count", [120, 1500])
def test_many_documents_are_held_out_whole_and_copies_stay_together(tmp_path, count):
    texts = [f"text number {number % (count // 2)}. " * 3 for number in range(count)]
    tokenizer = BPETokenizer.train(texts[:60], 300)
    path = tmp_path / "texts.txt"
    path.write_text("<next>".join(texts), encoding="utf-8")
    options = {"held_out": 0.2, "separator": "<next>"}
    corpus = prepare_corpus([path], tokenizer, tmp_path / "corpora", **options)
    found = [documents_in(part, tokenizer) for part in (corpus.training, corpus.held_out)]
    assert sorted(found[0] + found[1]) == sorted(texts)
    assert not set(found[0]) & set(found[1]) and corpus.documents == count
    assert 0.15 < len(corpus.held_out) / (len(corpus.training) + len(corpus.held_out)) < 0.25
    ends = corpus.ends("training", corpus_part(corpus))
    assert (corpus.open_part(corpus_part(corpus))[int(ends[0]) - 1 :][:1] == 2).all()


def corpus_part(corpus):
    return json.loads((corpus.folder / "corpus.json").read_text())["parts"]["training"]


def test_the_second_time_nothing_is_encoded_and_a_changed_file_is_noticed(tmp_path, capsys):
    tokenizer = CharTokenizer.train("".join(POEMS))
    files = write_folder(tmp_path / "texts", POEMS)
    first = prepare_corpus(files, tokenizer, tmp_path / "corpora")
    assert "Encoded" in capsys.readouterr().out
    again = prepare_corpus(files, tokenizer, tmp_path / "corpora")
    assert again.key == first.key and "Encoded" not in capsys.readouterr().out
    os.utime(files[0], (1, 1))  # touched, with the same content
    assert prepare_corpus(files, tokenizer, tmp_path / "corpora").key == first.key
    assert "Encoded" not in capsys.readouterr().out
    files[0].write_text(POEMS[0] + "月", encoding="utf-8")
    changed = prepare_corpus(files, tokenizer, tmp_path / "corpora")
    assert changed.key != first.key
    printed = capsys.readouterr().out
    assert "0000.txt has changed" in printed and "Encoded" in printed
    other = CharTokenizer.train("".join(POEMS) + "x")
    assert prepare_corpus(files, other, tmp_path / "corpora").key != changed.key


def test_the_same_bytes_in_another_form_are_another_corpus(tmp_path):
    (tmp_path / "x.txt").write_text('{"text": "moon"}\n' * 40)
    tokenizer = CharTokenizer('{}": monetx\n')
    plain = prepare_corpus([tmp_path / "x.txt"], tokenizer, tmp_path / "corpora")
    path = (tmp_path / "x.txt").rename(tmp_path / "x.jsonl")
    records = prepare_corpus([path], tokenizer, tmp_path / "corpora")
    assert (plain.documents, records.documents) == (1, 40)


def test_a_damaged_file_of_a_corpus_is_named(tmp_path):
    tokenizer = CharTokenizer.train("".join(POEMS))
    files = write_folder(tmp_path / "texts", POEMS)
    corpus = prepare_corpus(files, tokenizer, tmp_path / "corpora")
    shard = corpus.folder / "training-00000.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[:-2] + b"\x07\x00")
    with pytest.raises(ValueError, match=r"training-00000.bin is missing or has other bytes"):
        Corpus(corpus.folder)
    shard.write_bytes(content)
    ends = corpus.folder / "training-documents.bin"
    content = ends.read_bytes()
    for damaged in (content[:-8], content[:-3], b"\x01" + content[1:]):
        ends.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"training-documents.bin is missing or has other"):
            Corpus(corpus.folder)
    ends.write_bytes(content)
    Corpus(corpus.folder)
    manifest = corpus.folder / "corpus.json"
    for text in ("{}", "[" * 9000, '{"parts": 3}'):
        manifest.write_text(text)
        with pytest.raises(ValueError, match="folder must hold an undamaged corpus"):
            Corpus(corpus.folder)
    with pytest.raises(FileNotFoundError):
        Corpus(tmp_path)


def test_a_corpus_without_text_and_a_wrong_share_are_refused(tmp_path):
    files = write_folder(tmp_path / "texts", ["  \n"])
    tokenizer = CharTokenizer("ab \n")
    with pytest.raises(ValueError, match="corpus must hold text, got none in"):
        prepare_corpus(files, tokenizer, tmp_path / "corpora")
    with pytest.raises(ValueError, match=r"held_out must be in \(0, 1\), got 1"):
        prepare_corpus(files, tokenizer, tmp_path / "corpora", held_out=1)


@pytest.mark.slow
def test_many_texts_at_once_have_the_ids_of_each_alone():
    texts = ["one two  three\n", "", "明月 moon 🌕 " * 90_000, "four\r\nfive"]
    tokenizer = BPETokenizer.train(texts, 300)
    for ids, text in zip(tokenizer.encode_batch(texts), texts, strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(text))


SLOW_ENCODER = """
import sys, time
sys.path.insert(0, {repository!r})
from pathlib import Path
from tfgpt import CharTokenizer
from tfgpt.data import find_files, shards
from tfgpt.data.corpus import prepare_corpus
shards.BATCH_CHARACTERS, shards.SAVE_CHARACTERS, shards.SHARD_TOKENS = 500, 1000, 3000

class Slow(CharTokenizer):
    def encode_batch(self, texts):
        time.sleep({seconds})
        return super().encode_batch(texts)

prepare_corpus(find_files({texts!r}), Slow("abc d\\n"), {folder!r}, held_out=0.2)
"""


@pytest.mark.slow
def test_an_encoding_that_is_killed_again_and_again_gives_the_same_files(tmp_path):
    dice = np.random.default_rng(0)
    texts = ["".join(dice.choice(list("abc d\n"), 800)) for _ in range(60)]
    files = write_folder(tmp_path / "texts", texts)
    whole = prepare_corpus(files, CharTokenizer("abc d\n"), tmp_path / "whole", held_out=0.2)

    def start(seconds):
        script = SLOW_ENCODER.format(
            repository=str(REPOSITORY),
            seconds=seconds,
            texts=str(tmp_path / "texts"),
            folder=str(tmp_path / "killed"),
        )
        command = [sys.executable, "-c", textwrap.dedent(script)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    for kill in range(3):
        process = start(0.05)
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            notes = list((tmp_path / "killed").glob("*/progress.json"))
            if notes and json.loads(notes[0].read_text())["text_bytes"] > 9000 * (kill + 1):
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(0)
    assert "Going on with the encoding" in process.communicate()[0]
    (folder,) = (tmp_path / "killed").glob("*/corpus.json")
    killed = Corpus(folder.parent)
    assert tokens_of(killed.training) == tokens_of(whole.training)
    assert tokens_of(killed.held_out) == tokens_of(whole.held_out)
    assert killed.key == whole.key and killed.text_bytes == whole.text_bytes
    assert len(list(folder.parent.glob("training-*.bin"))) > 3


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    tokenizer = CharTokenizer("abcdefgh \n")
    peaks = []
    for size in (12, 48):
        path = tmp_path / f"{size}.txt"
        path.write_text("abcd efgh\n" * (size * 100_000), encoding="utf-8")
        tracemalloc.start()
        corpus = prepare_corpus([path], tokenizer, tmp_path / "corpora")
        batches = TokenBatches(corpus.training, 64, 8)
        next(batches.batches_from(0))
        peaks.append(tracemalloc.get_traced_memory()[1] / 1e6)
        tracemalloc.stop()
        assert len(corpus.training) + len(corpus.held_out) == size * 1_000_000 + 2
    assert peaks[1] < 1.2 * peaks[0] < 300, peaks
