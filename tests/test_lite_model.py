"""LiteModel: what is around the program of a file, which a table of bigrams stands in for."""

import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tfgpt.generation.settings import Wish
from tfgpt.safety import BannedPhrases, Grammar
from tfgpt.serving.lite_file import Facts, read_lite_file, write_lite_file
from tfgpt.serving.lite_model import LiteModel
from tfgpt.serving.lite_program import choose_threads, count_processors
from tfgpt.tasks.chat import chat
from tfgpt.tokenizers import BPETokenizer, CharTokenizer

ROOT = Path(__file__).parents[1]
SIZES = {
    "kind": "GPT",
    "vocab_size": 5,
    "context_length": 8,
    "room": 8,
    "batch_size": 2,
    "chunk": 4,
    "d_model": 2,
    "num_layers": 1,
    "pad_id": 0,
    "rotary": False,
    "quantize": None,
    "table": None,
}


class Bigrams:
    """A program whose likeliest next token is the next in the circle 1, 2, 3, 4, 1, ..."""

    def __init__(self, **facts):
        self.facts = Facts(**{**SIZES, **facts})
        self.calls = []

    def next_logits(self, texts):
        self.calls.append([list(text) for text in texts])
        logits = np.zeros((len(texts), 5), "float32")
        for row, text in enumerate(texts):
            logits[row, text[-1] % 4 + 1] = 9
        return logits


def model(**facts):
    return LiteModel(Bigrams(**facts), CharTokenizer("abcd"))


def test_texts_go_on_and_streams_give_the_same():
    assert model().generate("ab", 4, temperature=0) == "abcdab"
    assert "".join(model().stream("ab", 4, temperature=0)) == "cdab"
    assert model().generate(["a", "bc", "d"], 3, temperature=0) == ["abcd", "bcdab", "dabc"]
    assert model().generate([], 3) == []


def test_no_more_rows_than_the_program_has_are_read_at_once():
    lite = model()
    lite.generate(["a", "bc", "d"], 2, temperature=0)
    assert [len(texts) for texts in lite.program.calls] == [2, 2, 1, 1]


def test_texts_end_at_a_stop_token_and_are_filled_with_it():
    rows = model().generate_ids([[1], [4]], 5, temperature=0, stop_token=3)
    assert rows.tolist() == [[1, 2, 3, 3, 3, 3], [4, 1, 2, 3, 3, 3]]
    lite = model()
    assert lite.generate("a", 5, temperature=0, stop_token=3) == "ab"
    assert len(lite.program.calls) == 2
    assert "".join(model().stream("a", 5, temperature=0, stop_token=[3, 4])) == "b"


def test_texts_end_before_a_stop_string():
    assert model().generate("ab", 6, temperature=0, stop_strings="da") == "abc"
    assert list(model().stream("ab", 6, temperature=0, stop_strings=["da"])) == ["c"]


def test_texts_keep_to_a_constraint():
    banned = BannedPhrases(["cd", "bb"], model().tokenizer)
    assert model().generate("ab", 4, temperature=0, constraint=banned) == "abcabc"
    assert "".join(model().stream("ab", 4, temperature=0, constraint=banned)) == "cabc"
    grammar = Grammar.from_regex("(ca){1,2}", model().tokenizer, stop_token=4)
    assert model().generate("ab", 6, temperature=0, constraint=grammar) == "abcaca"
    assert model().generate("ab", 3, temperature=0, constraint=grammar) == "abca"
    with pytest.raises(ValueError, match="max_new_tokens must be at least 2, .* got 1"):
        model().generate("ab", 1, constraint=grammar)


WISHES = [
    Wish([[1]], 6, temperature=9.0, seed=3),
    Wish([[2, 3], [2, 3], [4]], 2, temperature=9.0, top_p=0.9, seed=4),
    Wish([[3]], 9, temperature=0),
]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_texts_of_several_requests_are_what_each_gets_alone(batch_size):
    lite, alone = model(batch_size=batch_size), []
    for wish in WISHES:
        settings = {"temperature": wish.temperature, "top_p": wish.top_p, "seed": wish.seed}
        for row, prompt in zip(
            lite.generate_ids(wish.prompts, wish.max_new_tokens, stop_token=2, **settings),
            wish.prompts,
            strict=True,
        ):
            new = row[len(prompt) :].tolist()
            alone.append(new[: new.index(2)] if 2 in new else new)
    lite.program.calls.clear()
    together = [list(tokens) for tokens in lite.write_together(WISHES, stop_token=2)]
    assert together == alone and len(set(map(len, alone))) > 2
    assert max(map(len, lite.program.calls)) == min(batch_size, 5)


def test_the_file_of_a_fine_tuned_model_answers_and_another_does_not():
    """A base of characters: what is too long loses its beginning, as in the model itself."""
    lite = model(room=6, task={"task": "lm", "max_new_tokens": 3})
    assert "".join(lite.answer("ab")) == "cda"
    assert lite.prompt_ids("abcdab").tolist() == [4, 1, 2]
    assert "".join(lite.answer("abcdab", temperature=9.0, seed=1)) != "cda"
    with pytest.raises(ValueError, match="must be of a fine-tuned model to answer"):
        model().answer("ab")


def test_the_file_of_a_fine_tuned_model_chats(capsys):
    lines = iter(["ab", "/quit"])
    chat(model(task={"task": "lm", "max_new_tokens": 3}), read=lambda prompt: next(lines))
    assert capsys.readouterr().out == "model: cda\n"
    with pytest.raises(ValueError, match="must write answers to chat, got the task None"):
        chat(model())


def test_a_text_without_a_token_fails_alone():
    class OneBroken(Bigrams):
        def next_logits(self, texts):
            logits = super().next_logits(texts)
            logits[[text[0] == 4 for text in texts]] = np.nan
            return logits

    lite = LiteModel(OneBroken(), CharTokenizer("abcd"))
    wishes = [Wish([[1]], 3, temperature=0), Wish([[4]], 3, temperature=0)]
    whole, broken = lite.write_together(wishes)
    assert next(whole) == 2
    with pytest.raises(ValueError, match="NaN, infinity or none at place 1 of row 0"):
        next(broken)
    assert list(whole) == [3, 4]


def test_a_seed_repeats_texts_and_samples_differ():
    texts = model().generate("ab", 6, seed=1, temperature=9.0, num_samples=4)
    assert texts == model().generate("ab", 6, seed=1, temperature=9.0, num_samples=4)
    assert len(set(texts)) > 1
    assert model().generate("ab", 6, seed=1, temperature=9.0) == texts[0]


def test_prompts_of_one_length_give_an_array_and_others_a_list():
    assert model().generate_ids([1, 2], 2).shape == (1, 4)
    assert [len(row) for row in model().generate_ids([[1], [2, 3]], 2)] == [3, 4]
    assert model().generate_ids([[0, 1, 0]], 2, temperature=0).tolist() == [[1, 2, 3]]


def test_hidden_tokens_are_never_written():
    rows = model().generate_ids([[1]], 200, temperature=1e9, seed=0, vocab_size=3)
    assert set(rows[0].tolist()) == {1, 2}


@pytest.mark.parametrize("settings", [{"samplers": []}, {"strategy": None}])
def test_settings_that_only_keras_has_are_refused(settings):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{next(iter(settings))}'"):
        model().generate("ab", 3, **settings)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("", 3), {}, r"texts\[0\] must have at least 1 token\(s\), got ''"),
        (("x", 3), {}, "text must hold known characters only, got 'x'"),
        (("a", 0), {}, "max_new_tokens must be an integer >= 1, got 0"),
        (("a", 3), {"temperature": -1}, "temperature must be >= 0 and finite, got -1"),
        (("a", 3), {"top_k": 0}, "top_k must be an integer >= 1, got 0"),
        (("a", 3), {"seed": -1}, "seed must be an integer >= 0, got -1"),
        (("a", 3), {"stop_token": 5}, "stop_token must be"),
        (("a", 3), {"stop_token": 0}, "stop_token must not be the pad_id=0"),
        (("a", 3), {"stop_strings": [""]}, "stop_strings must be str, none of them empty"),
        (("a", 3), {"vocab_size": 6}, "vocab_size must be at most the model's vocab_size=5"),
    ],
)
def test_arguments_outside_their_range_are_told(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        model().generate(*arguments, **settings)
    with pytest.raises(ValueError, match=message):
        next(model().stream(*arguments, **settings))


def test_other_wrong_arguments_are_told():
    with pytest.raises(TypeError, match="unexpected keyword argument 'top_q'"):
        model().generate("a", 3, top_q=1)
    with pytest.raises(TypeError, match=r"texts\[0\] must be a str, got int"):
        model().generate([3], 3)
    with pytest.raises(ValueError, match="num_samples must be an integer >= 1, got 0"):
        model().generate("a", 3, num_samples=0)
    with pytest.raises(ValueError, match="the file must have a tokenizer"):
        LiteModel(Bigrams()).generate("a", 3)


def test_a_text_that_outgrows_a_small_room_is_told_and_a_full_one_slides():
    with pytest.raises(ValueError, match=r"must fit the room=6 of the file, got 3 \+ 4 tokens"):
        model(room=6).generate("abc", 4)
    assert model(room=6).generate("abc", 3, temperature=0) == "abcdab"
    assert model().generate("abc", 9, temperature=0) == "abcdabcdabcd"
    with pytest.warns(UserWarning, match="The prompt has 9 tokens"):
        model().generate("abcdabcda", 1)


def test_logits_without_a_token_are_told():
    lite = model()
    lite.program.next_logits = lambda texts: np.full((len(texts), 5), np.nan, "float32")
    with pytest.raises(ValueError, match="NaN, infinity or none at place 2 of row 0"):
        lite.generate("ab", 3)


def write(path, tokenizer=None, program=b"a program", arrays=None):
    table = {"table": np.ones((5, 2), "float32")}
    write_lite_file(path, program, Facts(**SIZES), tokenizer, arrays or table)
    return path


@pytest.mark.parametrize(
    "tokenizer", [CharTokenizer("abcd"), BPETokenizer.train("moon " * 9, 262), None]
)
def test_a_file_gives_back_what_it_was_given(tmp_path, tokenizer):
    facts, found, arrays = read_lite_file(write(tmp_path / "a.tflite", tokenizer), "GPT")
    assert facts == Facts(**SIZES)
    assert np.array_equal(arrays["table"], np.ones((5, 2)))
    if tokenizer is None:
        assert found is None
    else:
        assert found.encode("ab").tolist() == tokenizer.encode("ab").tolist()
    assert (tmp_path / "a.tflite").read_bytes().startswith(b"a program")


def test_a_table_inside_the_program_is_read_from_there(tmp_path):
    table = np.arange(10, dtype="float16").reshape(5, 2)
    facts = Facts(**{**SIZES, "table": ["<f2", 3]})
    write_lite_file(tmp_path / "a.tflite", b"abc" + table.tobytes(), facts, None, {})
    assert np.array_equal(read_lite_file(tmp_path / "a.tflite", "GPT")[2]["table"], table)


def test_a_damaged_file_is_told_in_one_way(tmp_path):
    whole = write(tmp_path / "a.tflite", CharTokenizer("abcd")).read_bytes()
    facts_at = whole.index(b'"room"')
    damaged = {
        "truncated": whole[:-30],
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "program altered": b"A" + whole[1:],
        "facts altered": whole[:facts_at] + b'"rOOm"' + whole[facts_at + 6 :],
        "foreign": b"TFL3" * 50,
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="path must be a whole file of export_litert"):
            read_lite_file(tmp_path / name, "GPT")
    with pytest.raises(FileNotFoundError, match="path must be a file of export_litert"):
        read_lite_file(tmp_path / "missing", "GPT")


def test_small_files_take_one_thread_and_large_ones_all_processors(tmp_path):
    (tmp_path / "small").write_bytes(b"x" * 3_900_000)
    (tmp_path / "large").write_bytes(b"x" * 4_100_000)
    assert choose_threads(tmp_path / "small") == 1
    assert choose_threads(tmp_path / "large") == count_processors() >= 1


def test_a_file_of_another_version_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.tflite", "w") as archive:
        archive.writestr("facts.json", json.dumps({"version": 99}))
    with pytest.raises(ValueError, match="of version 1, got .* of version 99: export"):
        LiteModel.load(tmp_path / "a.tflite")


def imported_at_load(name, found):
    """Collect the modules that importing a module of tfgpt loads."""
    path = ROOT / Path(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if name in found or not path.exists() or name == "tfgpt":
        return found
    found.add(name)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for other in names:
            imported_at_load(other, found)
            found.add(other.split(".")[0])
    parent = name.rpartition(".")[0]
    return imported_at_load(parent, found)


def test_what_a_lite_model_loads_needs_no_keras():
    found = imported_at_load("tfgpt.serving.lite_model", set())
    assert {"tfgpt.serving.lite_program", "tfgpt.generation.prompts", "numpy"} <= found
    assert not found & {"keras", "tensorflow", "tfgpt.gpt", "ai_edge_litert"}
    assert "keras" in imported_at_load("tfgpt.generation.samplers", set())


def test_a_missing_interpreter_is_told(monkeypatch):
    from tfgpt.serving.lite_program import load_interpreter

    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ImportError, match=r'pip install "tfgpt\[litert\]"'):
        load_interpreter()


def test_without_keras_other_names_say_what_they_need():
    code = (
        "import sys, tfgpt\n"
        "assert 'keras' not in sys.modules and 'tensorflow' not in sys.modules\n"
        "print(tfgpt.LiteModel.__name__, tfgpt.CharTokenizer('ab').encode('ba').tolist())\n"
        "try: tfgpt.GPT\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TFGPT_LITE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("LiteModel [2, 1]\ntfgpt.GPT needs Keras, which is not")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "{file}"], "path must be a whole file of export_litert"),
        (["serve", "--batch", "0", "--model", "{file}"], "--batch must be an integer >= 1, got 0"),
    ],
)
def test_the_module_as_a_command_loads_no_keras_for_a_file(tmp_path, arguments, message):
    (tmp_path / "damaged").write_bytes(b"TFL3")
    arguments = [argument.format(file=tmp_path / "damaged") for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tfgpt", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2 and f"tfgpt: {message}" in done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "tfgpt.validation" in loaded and not loaded & {"keras", "tensorflow"}
