"""Tests of the ladder: parts of the learner's GPT are checked, kept, found again and joined."""

import errno
import functools
import linecache
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest

import tfgpt
from tfgpt import checks
from tfgpt.checks import EXERCISES
from tfgpt.checks.hints_zh import HINTS_ZH
from tfgpt.checks.ladder import HEADER, ladder, source_of
from tfgpt.checks.notebook_04 import AttentionHead
from tfgpt.checks.record import RECORD, STATES, read_record, remember

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
ATTENTION = """
def attention(query, key, value, mask=None):
    scores = ops.matmul(query, ops.swapaxes(key, -1, -2)) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = ops.where(mask, scores, -1e9)
    weights = ops.softmax(scores, axis=-1)
    return ops.matmul(weights, value), weights
"""
LAYER_NORM = """
class LayerNorm(keras.layers.LayerNormalization):
    def __init__(self, epsilon=1e-5):
        super().__init__(epsilon=epsilon)
"""


@pytest.fixture(autouse=True)
def folder_of_the_learner(tmp_path, monkeypatch):
    """The folder of the learner's notebook."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cell():
    """Return a function that runs a cell in one namespace, as a notebook does."""
    names = {"__name__": "__main__"}
    exec("import keras\nimport tfgpt\nfrom keras import ops\nfrom tfgpt import checks\n", names)

    def run(code):
        file = f"<cell {len(linecache.cache)}>"
        linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
        exec(compile(code, file, "exec"), names)
        return names

    return run


def use_attention(cell, code=ATTENTION):
    return cell(f'{code}\n\nattention = checks.use("attention", attention)\n')["attention"]


def test_an_empty_part_gives_the_version_of_tfgpt_and_writes_nothing(cell, capsys, tmp_path):
    part = use_attention(cell, "def attention(query, key, value, mask=None): ...")
    assert part is tfgpt.scaled_dot_product_attention
    assert "goes on with tfgpt's version of attention" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_right_part_is_kept_and_found_again(cell, capsys):
    part = use_attention(cell)
    assert part is not tfgpt.scaled_dot_product_attention
    assert "goes on with your attention. It is kept in my_gpt.py." in capsys.readouterr().out
    text = Path("my_gpt.py").read_text()
    assert text.startswith(HEADER) and ATTENTION.strip() in text and "checks.use" not in text
    found = checks.mine("attention")
    assert found.__code__.co_consts == part.__code__.co_consts
    assert capsys.readouterr().out == "attention: your version, from my_gpt.py\n"


def test_the_file_has_all_parts_in_the_order_of_the_ladder_and_runs(cell):
    use_attention(cell)
    text = Path("my_gpt.py").read_text()
    assert re.findall(r"^# ---- (.+?):", text, re.MULTILINE) == list(ladder())
    names = {}
    exec(text, names)
    assert names["MyGPT"] is tfgpt.GPT and names["FeedForward"] is tfgpt.FeedForward
    assert all(exercise.build.part in names for exercise in ladder().values())


def test_a_part_that_is_checked_again_is_replaced_and_the_others_stay(cell):
    use_attention(cell)
    cell(f'{LAYER_NORM}\nLayerNorm = checks.use("layer norm", LayerNorm)\n')
    use_attention(cell, ATTENTION.replace("-1e9", "-1e8"))
    text = Path("my_gpt.py").read_text()
    assert "-1e8" in text and "-1e9" not in text and "class LayerNorm(" in text


def test_a_helper_of_another_cell_is_kept_too(cell):
    cell("def turn(x):\n    return ops.swapaxes(x, -1, -2)\n")
    use_attention(cell, ATTENTION.replace("ops.swapaxes(key, -1, -2)", "turn(key)"))
    text = Path("my_gpt.py").read_text()
    assert text.index("def turn(x):") < text.index("def attention(")


def test_imports_and_other_names_of_another_cell_are_kept_too(cell):
    cell("import math as numbers\nfrom tfgpt.masks import fit_mask\n\nfit = fit_mask\n")
    code = ATTENTION.replace("query.shape[-1] ** 0.5", "numbers.sqrt(query.shape[-1])")
    use_attention(cell, code.replace("where(mask,", "where(fit(mask, scores.shape),"))
    text = Path("my_gpt.py").read_text()
    assert "import math as numbers\n" in text and "import fit_mask as fit\n" in text


def test_parts_without_code_of_their_own_are_used_but_not_kept(cell, capsys):
    names = cell("class LayerNorm(keras.layers.LayerNormalization): ...\n")
    assert checks.use("layer norm", names["LayerNorm"]) is names["LayerNorm"]
    part = functools.partial(tfgpt.layers.LayerNorm, axis=-1)
    assert checks.use("layer norm", part) is part
    assert capsys.readouterr().out.count("It is not kept: its source cannot be read here.") == 2


def test_a_helper_that_would_break_another_part_is_not_kept(cell, capsys):
    code = ATTENTION.replace("softmax(scores,", "softmax(norm(scores),")
    use_attention(cell, f"def norm(x):\n    return x\n\n{code}")
    text = Path("my_gpt.py").read_text()
    cell(
        "def norm(x):\n    return 0 * x\n\n\n"
        "class LayerNorm(keras.layers.LayerNormalization):\n"
        "    def __init__(self, epsilon=1e-5):\n"
        "        super().__init__(epsilon=epsilon)\n\n\n"
        'checks.use("layer norm", LayerNorm)\n'
    )
    assert "attention of my_gpt.py would no longer pass" in capsys.readouterr().out
    assert Path("my_gpt.py").read_text() == text


def test_a_broken_file_is_not_written_over(cell, capsys):
    Path("my_gpt.py").write_text("def attention(:\n")
    use_attention(cell)
    assert Path("my_gpt.py").read_text() == "def attention(:\n"
    assert "Mend the file or delete it." in capsys.readouterr().out


def test_a_value_of_another_cell_is_named_and_nothing_is_kept(cell, capsys):
    cell("hidden = ops.convert_to_tensor(-1e9)\n")
    use_attention(cell, ATTENTION.replace("-1e9", "hidden"))
    printed = capsys.readouterr().out
    assert "It is not kept: NameError: name 'hidden' is not defined" in printed
    assert "into the same cell" in printed and not Path("my_gpt.py").exists()


def test_a_part_with_another_name_gets_the_name_of_the_ladder(cell):
    cell(ATTENTION.replace("attention", "my_formula") + '\n\nchecks.use("attention", my_formula)\n')
    assert "\n\nattention = my_formula\n" in Path("my_gpt.py").read_text()
    assert checks.mine("attention").__name__ == "my_formula"


def test_a_wrong_part_raises_with_its_hint_and_is_not_kept(cell):
    with pytest.raises(AssertionError, match="^attention, with a causal mask: .*-1e9"):
        use_attention(cell, ATTENTION.replace("-1e9", "0.0"))
    assert not Path("my_gpt.py").exists() and read_record() == {"attention": "wrong"}


def test_a_part_whose_source_cannot_be_read_is_used_but_not_kept(capsys):
    names = {}
    exec(f"from keras import ops\n{ATTENTION}", names)
    assert checks.use("attention", names["attention"]) is names["attention"]
    assert "It is not kept: its source cannot be read here." in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_said_in_a_sentence(cell, capsys, monkeypatch):
    def refuse(*paths):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    use_attention(cell)
    checks.keep_weights(keras.Sequential([keras.layers.Dense(1)]), vocab_size=1)
    printed = capsys.readouterr().out
    for name in ("my_gpt.py", RECORD, "my_gpt.npz"):
        assert f"{name} could not be written here (Permission denied)" in printed
    assert "goes on with your attention." in printed and os.listdir() == []


def test_kernels_that_check_at_the_same_time_lose_nothing():
    names = list(EXERCISES)[:24]
    with ThreadPoolExecutor(8) as kernels:
        list(kernels.map(lambda name: remember(name, "right"), names))
    assert read_record() == dict.fromkeys(names, "right") and os.listdir() == [RECORD]


def test_a_folder_that_the_learner_names_keeps_all_files(cell, capsys, tmp_path, monkeypatch):
    drive = tmp_path / "drive" / "course"
    monkeypatch.setenv("TFGPT_MY_FOLDER", str(drive))
    use_attention(cell)
    checks.keep_weights(keras.Sequential([keras.layers.Dense(1)]), vocab_size=1)
    assert {path.name for path in drive.iterdir()} == {"my_gpt.py", RECORD, "my_gpt.npz"}
    assert [path.name for path in tmp_path.iterdir()] == ["drive"]
    monkeypatch.chdir(drive.parent)  # the next notebook, in another folder
    capsys.readouterr()
    checks.mine("attention")
    assert capsys.readouterr().out == "attention: your version, from my_gpt.py\n"
    assert read_record() == {"attention": "right"}
    checks.load_trained(tfgpt.GPT, instead=tfgpt.GPT(5, 4, 1, 4, 2))
    assert "my_gpt.npz does not fit" in capsys.readouterr().out


def test_readers_are_told_how_to_name_their_folder():
    for name in ("README.md", "README.zh-CN.md"):
        assert "`TFGPT_MY_FOLDER`" in (NOTEBOOKS.parent / name).read_text(encoding="utf-8")
    for folder in (NOTEBOOKS, NOTEBOOKS / "zh"):
        text = (folder / "00_start_here.ipynb").read_text(encoding="utf-8")
        assert "`%env TFGPT_MY_FOLDER=" in text


def test_a_comment_that_looks_like_a_mark_ends_no_part(cell):
    code = ATTENTION.replace("    weights =", "# ---- weights ----\n    weights =")
    use_attention(cell, code)
    cell(f'{LAYER_NORM}\nLayerNorm = checks.use("layer norm", LayerNorm)\n')
    text = Path("my_gpt.py").read_text()
    assert code.strip() in text and "class LayerNorm(" in text


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("def attention(", "def attention((", "my_gpt.py cannot be used. SyntaxError"),
        ("-1e9", "0.0", "AssertionError: attention, with a causal mask"),
        ("return ops", "return thing", "NameError: name 'thing"),
    ],
    ids=["syntax", "wrong", "error"],
)
def test_a_part_that_is_broken_in_the_file_is_replaced_by_the_version_of_tfgpt(
    cell, capsys, old, new, sentence
):
    use_attention(cell)
    text = Path("my_gpt.py").read_text()
    Path("my_gpt.py").write_text(text.replace(old, new))
    capsys.readouterr()
    assert checks.mine("attention") is tfgpt.scaled_dot_product_attention
    printed = capsys.readouterr().out
    assert printed.startswith("attention: tfgpt's version: ") and sentence in printed


def test_without_a_file_every_part_is_the_version_of_tfgpt(capsys):
    block, gpt = checks.mine("block", "my gpt")
    assert gpt is tfgpt.GPT and block is checks.tfgpt_version("block")
    assert capsys.readouterr().out == "Block: tfgpt's version\nMyGPT: tfgpt's version\n"


def test_hints_have_two_steps_the_idea_and_almost_the_line(capsys):
    for name, exercise in ladder().items():
        checks.hint(name)
        checks.hint(name, 2)
        first, second = exercise.build.hints
        asked, *hints = capsys.readouterr().out.splitlines()
        assert hints == [first, second] and first != second
        assert asked.startswith(f"Difficulty {exercise.build.difficulty} of 5, ")
    with pytest.raises(ValueError, match="step must be 1 or 2, got 3"):
        checks.hint("block", 3)


def test_hints_in_chinese_name_the_same_code(capsys):
    code = re.compile(r"[A-Za-z_]+(?:\.[A-Za-z_]+)+|\w+_\w+|`.+?`", re.ASCII)
    assert list(HINTS_ZH) == list(ladder())
    for name, exercise in ladder().items():
        checks.hint(name, language="zh")
        checks.hint(name, 2, language="zh")
        asked, first, second = capsys.readouterr().out.splitlines()
        build = exercise.build
        assert asked.startswith(f"难度 {build.difficulty}（最高 5），约 {build.minutes} 分钟。")
        pairs = zip((build.know, *build.hints), (asked, first, second), strict=True)
        assert re.search(r"[\u4e00-\u9fff]", first)
        for english, chinese in pairs:
            assert not set(code.findall(english)) - set(code.findall(chinese)), name
    with pytest.raises(ValueError, match='language must be "en" or "zh", got \'fr\''):
        checks.hint("block", language="fr")


@pytest.mark.parametrize("ask", [checks.hint, checks.mine, checks.tfgpt_version])
def test_a_name_outside_of_the_ladder_is_refused_with_those_inside(ask):
    with pytest.raises(KeyError, match="attention, attention head.*got 'softmax'"):
        ask("softmax")


@pytest.mark.parametrize("name", ladder())
def test_a_lesson_tells_what_a_part_of_the_ladder_asks_for(name):
    exercise = EXERCISES[name]
    (path,) = NOTEBOOKS.glob(f"{exercise.notebook}_*.ipynb")
    text = path.read_text(encoding="utf-8").replace('\\"', '"')
    build = exercise.build
    asked = f"**Difficulty {build.difficulty} of 5, {build.minutes} minutes. To know:** "
    assert asked + build.know in text
    assert f'`checks.hint("{name}")`' in text and f'{build.part} = checks.use("{name}"' in text
    assert 1 <= build.difficulty <= 5 and f"`{build.part}`" in text


def test_one_head_is_multi_head_attention_with_one_head_and_no_output_projection():
    x, layer = np.random.default_rng(0).normal(size=(2, 4, 6)), tfgpt.MultiHeadAttention(1, 3)
    head = AttentionHead(3)
    head(x), layer(x)
    layer.set_weights([*head.get_weights(), np.eye(3), np.zeros(3)])
    np.testing.assert_allclose(head(x), layer(x), atol=1e-6)


def test_what_a_cell_runs_is_no_part_of_a_source(cell):
    names = cell(
        "limit = 3\nprint('run')\n\n\n@staticmethod\ndef f():\n    return limit\n\n\nf()\n"
    )
    source = source_of(names["f"], "f")
    assert "limit = 3" in source and "@staticmethod\ndef f" in source and "run" not in source


def test_the_weights_of_a_training_are_kept_and_loaded(capsys):
    sizes = {"vocab_size": 5, "context_length": 4, "num_layers": 1, "d_model": 4, "num_heads": 2}
    mine, other = tfgpt.GPT(**sizes), tfgpt.GPT(**{**sizes, "d_model": 8})
    checks.keep_weights(mine, **sizes)
    loaded = checks.load_trained(tfgpt.GPT, instead=other)
    np.testing.assert_array_equal(loaded(np.array([[1, 2]])), mine(np.array([[1, 2]])))
    assert "weights of your own training in my_gpt.npz" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, b"no weights", b""])
def test_without_kept_weights_those_of_another_model_are_taken(content, capsys):
    if content is not None:
        Path("my_gpt.npz").write_bytes(content)
    other = tfgpt.GPT(5, 4, 1, 4, 2)
    loaded = checks.load_trained(tfgpt.GPT, instead=other)
    np.testing.assert_array_equal(loaded(np.array([[1, 2]])), other(np.array([[1, 2]])))
    assert "my_gpt.npz" in capsys.readouterr().out


def test_progress_draws_and_says_what_is_right_in_each_notebook(capsys):
    remember("softmax", "right")
    remember("attention", "wrong")
    figure = checks.progress("progress.png")
    total = len(EXERCISES)
    assert figure.alt.startswith(f"1 of {total} exercises are right (00: 0 of 1, 01: 1 of 3, ")
    assert figure.alt in capsys.readouterr().out
    assert figure.alt.endswith("Wrong: attention.")
    names = [text.get_text().replace("\n", " ") for text in figure.axes[0].texts]
    assert names == list(EXERCISES) and Path("progress.png").stat().st_size > 1000
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {*STATES, "empty"}


def test_progress_is_black_under_a_dark_style():
    import matplotlib

    with matplotlib.rc_context({"text.color": "white"}):
        figure = checks.progress()
        assert figure.get_facecolor()[:3] == (0, 0, 0)
        color = figure.legends[0].get_texts()[0].get_color()
        assert matplotlib.colors.to_rgb(color) == (1, 1, 1)


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b'{"softmax": []}'])
def test_a_damaged_record_counts_as_empty_and_is_begun_anew(content, capsys):
    Path(RECORD).write_bytes(content)
    checks.progress()
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 of ")
    remember("softmax", "right")
    assert read_record() == {"softmax": "right"}


def test_check_remembers_what_was_right_last(monkeypatch):
    checks.check("causal mask", lambda n: np.tri(n, dtype=bool))
    assert read_record() == {"causal mask": "right"}
    checks.check("causal mask", lambda n: None)  # a fresh notebook: what was right stays
    assert read_record() == {"causal mask": "right"}
    with pytest.raises(AssertionError):
        checks.check("causal mask", lambda n: np.ones((n, n), bool))
    assert read_record() == {"causal mask": "wrong"}
    assert os.listdir() == [RECORD]


def no_shift(token_ids):
    return token_ids[:, :-1], token_ids[:, :-1]


def with_shift(token_ids):
    return token_ids[:, :-1], token_ids[:, 1:]


def test_a_bug_is_found_by_its_repair_and_its_name(capsys):
    assert checks.find_bug("bug 2", no_shift, with_shift, "no shift")
    assert "bug 2: no shift. The broken program fails, yours passes." in capsys.readouterr().out


def test_a_bug_that_is_not_mended_yet_is_empty():
    assert checks.find_bug("bug 2", no_shift, lambda token_ids: ..., ...) is False
    assert read_record() == {}


@pytest.mark.parametrize(
    ("broken", "mended", "mistake", "message"),
    [
        (with_shift, with_shift, "no shift", "bug 2: the broken program passes"),
        (None, with_shift, "no shift", "bug 2: the broken program raised TypeError"),
        (lambda ids: ..., with_shift, "no shift", "bug 2: the broken program is empty"),
        (no_shift, no_shift, "no shift", "^bug 2, two sequences: the value"),
        (no_shift, with_shift, "no mask", "mended, but the mistake is not 'no mask'.*no shift"),
        (no_shift, with_shift, ..., "mended, but the mistake is not Ellipsis"),
    ],
    ids=["not broken", "no program", "empty", "not mended", "another name", "no name"],
)
def test_a_bug_that_is_not_found_is_refused(broken, mended, mistake, message, capsys):
    with pytest.raises(AssertionError, match=message):
        checks.find_bug("bug 2", broken, mended, mistake)
    assert "passed" not in capsys.readouterr().out
    assert read_record().get("bug 2") != "right"


def test_only_programs_with_a_mistake_have_a_bug():
    with pytest.raises(ValueError, match="a mistake to find, got 'shift'"):
        checks.find_bug("shift", no_shift, with_shift, "no shift")


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_who_follows_the_ladder_ends_with_a_gpt_of_their_own(tmp_path, monkeypatch, capsys):
    """Notebooks 01 to 10 with the solutions' parts, one after the other, in one folder."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    tf = pytest.importorskip("tensorflow")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent))
    for number in ("01", "04", "05", "06", "09", "10"):
        (path,) = (NOTEBOOKS / "solutions").glob(f"{number}_*.ipynb")
        notebook = nbformat.read(path, as_version=4)
        nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute(
            cwd=str(tmp_path)
        )
    text = (tmp_path / "my_gpt.py").read_text()
    assert "tfgpt_version(" not in text.replace("import tfgpt_version", "")
    gpt, train_step, sample, generate = checks.mine(
        "my gpt", "train step", "sampler", "cached decoding"
    )
    assert capsys.readouterr().out.count("your version, from my_gpt.py") == 4

    text = tfgpt.data.load_text("shakespeare")[:50_000]
    tokenizer = tfgpt.CharTokenizer.train(text)
    sizes = {"vocab_size": tokenizer.vocab_size, "context_length": 32, "num_layers": 2}
    mine = gpt(**sizes, d_model=32, num_heads=4)
    batches = tfgpt.data.random_batches(tokenizer.encode(text), 32, 16)
    mine(np.zeros((1, 32), "int32"))
    optimizer, losses = keras.optimizers.Adam(0.005), []
    optimizer.build(mine.trainable_variables)
    step = tf.function(lambda *batch: train_step(mine, optimizer, *batch))
    for _, batch in zip(range(80), batches, strict=False):
        losses.append(float(step(*batch)))
    assert abs(losses[0] - np.log(tokenizer.vocab_size)) < 0.3
    assert np.mean(losses[-10:]) < losses[0] - 0.8

    theirs = tfgpt.GPT(**sizes, d_model=32, num_heads=4)
    theirs.set_weights(mine.get_weights())
    ids = tokenizer.encode(text[:32])[None]
    np.testing.assert_allclose(mine(ids), theirs(ids), atol=1e-4)
    greedy = tfgpt.generate(theirs, ids[:, :8], 12, temperature=0)[0]
    np.testing.assert_array_equal(generate(mine, ids[0, :8], 12, np.argmax), greedy)
    points = np.random.default_rng(0)
    written = generate(mine, ids[0, :8], 24, lambda z: sample(z, 0.8, 0.9, points.random()))
    assert len(tokenizer.decode(written)) == 32
