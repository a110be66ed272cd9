"""Tests of `tfgpt train` and of what can be asked of its folder."""

import gzip
import json
import re
import tomllib
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
from test_runs import make_table, run_and_interrupt

from tfgpt import GPT, BPETokenizer, CharTokenizer, LanguageModel, cli
from tfgpt.data.texts import CORPORA
from tfgpt.history import read_history
from tfgpt.run_folder import RunLock
from tfgpt.signals import kept_interrupts
from tfgpt.tasks import job as job_module
from tfgpt.tasks.forecast import devices_of, forecast, memory_of_settings, sizes_of
from tfgpt.tasks.own_tokenizer import make_tokenizer
from tfgpt.tasks.pretrain import find_rate, pretrain, settings_to_go_on
from tfgpt.tasks.run_reports import compare_runs, evaluate_run
from tfgpt.tasks.settings import (
    NAMED,
    PRESETS,
    TrainSettings,
    parse_assignments,
    read_settings,
    write_settings,
)

pytestmark = pytest.mark.requires_tensorflow

LINES = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n"
TINY = {
    **{"layers": 1, "width": 8, "heads": 2, "context": 8, "batch_size": 4, "tokenizer": "char"},
    **{"validate_every": 4, "checkpoint_every": 4, "log_every": 2, "validation_batches": 2},
    "compile": "none",
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for number in range(5):
        (folder / f"{number}.txt").write_text(LINES * (10 + number), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(texts, tmp_path_factory):
    """One run of 8 steps, read by many tests and changed by none."""
    out = tmp_path_factory.mktemp("runs") / "poems"
    history = pretrain({**TINY, "corpus": str(texts), "steps": 8}, out)
    return out, history


@pytest.mark.slow
def test_a_folder_of_chinese_texts_becomes_a_model_that_writes(trained):
    out, history = trained
    assert [row["step"] for row in history] == [2, 4, 6, 8] and history[3]["val_loss"] > 0
    names = {path.name for path in out.iterdir()}
    assert names >= {
        *("config.toml", "config.json", "tokenizer.json", "weights.safetensors", "best"),
        *("checkpoint", "history.csv", "history.jsonl", "loss.png", "sample.txt"),
    }
    assert LanguageModel.load(out).generate("明月", 3).startswith("明月")
    assert LanguageModel.load(out / "best").generate("明月", 3).startswith("明月")


@pytest.mark.slow
def test_all_settings_are_written_and_repeat_the_run_exactly(trained, tmp_path):
    out, history = trained
    content = read_settings(out)
    written = set(re.findall(r"^#? ?(\w+) =", (out / "config.toml").read_text(), re.MULTILINE))
    assert written == {entry.name for entry in fields(TrainSettings)}
    assert content["steps"] == 8 and content["learning_rate"] == 0.03
    assert "vocab_size" not in content
    again = pretrain(content, tmp_path / "again")
    for row, other in zip(again, history, strict=True):
        assert (row["loss"], row["val_loss"]) == (other["loss"], other["val_loss"])


@pytest.mark.slow
def test_a_run_goes_on_from_its_folder_alone(texts, trained, tmp_path, capsys):
    out, history = trained
    options = {**TINY, "corpus": str(texts)}
    pretrain({**options, "steps": 4}, tmp_path / "run")
    assert pretrain({}, tmp_path / "run", resume=True)[-1]["step"] == 4
    rows = pretrain({"steps": 8}, tmp_path / "run", resume=True)
    assert "Going on from step 4" in capsys.readouterr().out
    assert [row["step"] for row in rows] == [row["step"] for row in history]


@pytest.mark.slow
def test_another_batch_size_keeps_the_place_in_the_data(texts, tmp_path, monkeypatch):
    """8 steps of 4 are planned; after 4, two steps of 8 read the rest, each example once."""
    read = []
    original = job_module.TokenBatches.read

    def spy(self, place):
        read.append((place, self.batch_size))
        return original(self, place)

    options = {**TINY, "corpus": str(texts), "schedule": "constant"}
    with monkeypatch.context() as patch:
        patch.setattr(job_module.TokenBatches, "read", spy)

        own = job_module.Job.callbacks

        def stop(self, model):
            return [*own(self, model), stop_after(4)]

        patch.setattr(job_module.Job, "callbacks", stop)
        pretrain({**options, "steps": 8}, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(job_module.TokenBatches, "read", spy)
        rows = pretrain({"batch_size": 8}, tmp_path / "run", resume=True)
    assert read == [(0, 4), (4, 4), (8, 4), (12, 4), (16, 8), (24, 8)]
    assert rows[-1]["step"] == 6
    plan = json.loads((tmp_path / "run" / "config.json").read_text())["run"]["plan"]
    assert plan == {"steps": 8, "tokens": 256}


def stop_after(steps):
    """Make a callback that ends the training after so many steps."""
    import keras

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch + 1 == steps

    return Stop()


@pytest.mark.slow
def test_a_resume_with_another_text_is_refused(texts, trained, tmp_path):
    options = {**TINY, "corpus": str(texts), "steps": 2}
    pretrain(options, tmp_path / "run")
    (tmp_path / "other.txt").write_text(LINES * 30, encoding="utf-8")
    with pytest.raises(ValueError, match=r"run\.(corpus|first_batch) is"):
        pretrain({"corpus": str(tmp_path / "other.txt")}, tmp_path / "run", resume=True)


@pytest.mark.slow
def test_a_refused_resume_changes_nothing(texts, tmp_path):
    out = tmp_path / "run"
    pretrain({**TINY, "corpus": str(texts), "steps": 4}, out)
    before = (out / "config.toml").read_text()
    (tmp_path / "other.txt").write_text(LINES * 30, encoding="utf-8")
    for change, message in (
        ({"width": 16}, "d_model is 8 and not 16"),
        ({"seed": 3}, "run.* is"),
        ({"corpus": str(tmp_path / "other.txt")}, "run.* is"),
        ({"tokenizer": "bpe"}, "tokenizer must stay as it was"),
        ({"steps": 3}, "steps must be at least 4, which are done, got 3"),
        ({"learning_rate": 0.5}, "learning_rate|peak"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrain({"steps": 9, **change}, out, resume=True)
        assert (out / "config.toml").read_text() == before
    with RunLock(out), pytest.raises(ValueError, match="must not be in use"):
        pretrain({"steps": 9, "batch_size": 2}, out, resume=True)
    assert (out / "config.toml").read_text() == before
    assert pretrain({"tokens": 8 * 32}, out, resume=True)[-1]["step"] == 8
    with pytest.raises(ValueError, match="folder of a run to go on with, got .*runx"):
        pretrain({}, tmp_path / "runx", resume=True)


@pytest.mark.slow
def test_bits_per_byte_are_those_of_what_was_measured(texts, tmp_path, capsys):
    """Chinese to learn from, English held out: other bytes per token."""
    (tmp_path / "held.txt").write_text("moon " * 60, encoding="utf-8")
    (tmp_path / "train.txt").write_text(LINES * 9 + "moon " * 9, encoding="utf-8")
    files = {"corpus": str(tmp_path / "train.txt"), "validation": str(tmp_path / "held.txt")}
    pretrain({**TINY, **files, "steps": 4, "validation_batches": 50}, tmp_path / "run")
    said = re.search(r"([\d.]+) bits per byte", capsys.readouterr().out)[1]
    scores = evaluate_run(tmp_path / "run")
    assert float(said) == pytest.approx(scores["bits_per_byte"], rel=0.01)
    assert scores["bits_per_byte"] == pytest.approx(scores["loss"] / np.log(2), rel=0.02)


@pytest.mark.slow
def test_evaluation_needs_the_texts_of_the_training(texts, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(LINES * 20, encoding="utf-8")
    pretrain({**TINY, "corpus": str(path), "steps": 2}, tmp_path / "run")
    path.write_text(LINES * 21, encoding="utf-8")
    with pytest.raises(ValueError, match="texts of the training must be as they were"):
        evaluate_run(tmp_path / "run")
    path.write_bytes((LINES * 20).encode("gbk"))
    assert evaluate_run(tmp_path / "run", path, encoding="gbk")["tokens"] > 100


@pytest.mark.slow
def test_a_dry_run_says_what_it_would_take_and_writes_no_run(texts, tmp_path, capsys):
    options = {**TINY, "corpus": str(texts), "steps": 1000}
    assert pretrain(options, tmp_path / "run", dry_run=True) is None
    printed = capsys.readouterr().out
    for part in ("weights", "memory of a step", "32 tokens", "1,000 steps", "ln(V) =", "passes"):
        assert part in printed, part
    assert "learned by heart" in printed and "Nothing was trained." in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_minutes_become_steps_and_are_written_down(texts, tmp_path):
    pretrain({**TINY, "corpus": str(texts), "minutes": 0.002}, tmp_path / "run")
    content = read_settings(tmp_path / "run")
    assert "minutes" not in content and content["steps"] >= 1
    assert read_history(tmp_path / "run" / "history.csv")[-1]["step"] == content["steps"]


def test_tokens_become_steps():
    settings = TrainSettings(**TINY, tokens=1000)
    job = object.__new__(job_module.Job)
    job.resume = False
    assert job.with_steps(settings)[0].steps == 32  # of 32 tokens: 1,000 / 32 rounded up


def test_minutes_are_refused_where_each_process_would_measure_its_own():
    """On a resume too."""
    job = object.__new__(job_module.Job)
    job.strategy = object()
    for job.resume in (False, True):
        with pytest.raises(ValueError, match="--steps or --tokens must be given for several"):
            job.with_steps(TrainSettings(**TINY, minutes=1.0))


def resume_at(out, step, place, monkeypatch, **given):
    """Return the step at which a run ends that goes on; keep what it keeps."""
    monkeypatch.setattr(job_module, "newest_place", lambda folder: (step, place))
    job = object.__new__(job_module.Job)
    job.out, job.resume, job.strategy = out, True, None
    settings, plan = job.with_steps(settings_to_go_on(out, given))
    write_settings(out / "config.toml", settings)
    (out / "config.json").write_text(json.dumps({"run": {"plan": plan}}))
    return settings.steps


def test_the_plan_is_kept_however_often_the_batch_size_changes(tmp_path, monkeypatch):
    """8 steps of 4 are 32 examples: 16 of them, 8 in a batch of 8, and 8 in two of 4."""
    write_settings(tmp_path / "config.toml", TrainSettings(**TINY, steps=8))
    assert resume_at(tmp_path, 4, 16, monkeypatch, batch_size=8) == 6
    assert resume_at(tmp_path, 5, 24, monkeypatch, batch_size=4) == 7
    assert resume_at(tmp_path, 6, 28, monkeypatch) == 7


@pytest.mark.parametrize(("batch_size", "end"), [(8, 70), (2, 160)])
def test_the_same_command_ends_at_the_same_step_after_each_kill(
    tmp_path, monkeypatch, batch_size, end
):
    """100 steps of 4 were planned; `launch --restarts` says --steps 100 again and again."""
    write_settings(tmp_path / "config.toml", TrainSettings(**TINY, steps=100))
    place = 160
    for step in range(40, end, 10):
        given = {"steps": 100, "batch_size": batch_size}
        assert resume_at(tmp_path, step, place, monkeypatch, **given) == end
        place += 10 * batch_size


def test_another_number_of_steps_is_another_plan(tmp_path, monkeypatch):
    write_settings(tmp_path / "config.toml", TrainSettings(**TINY, steps=100))
    assert resume_at(tmp_path, 40, 160, monkeypatch, steps=120) == 120
    assert resume_at(tmp_path, 60, 240, monkeypatch, batch_size=8) == 90
    assert resume_at(tmp_path, 60, 240, monkeypatch, tokens=8 * 400) == 80
    with pytest.raises(ValueError, match="steps must be at least 60, which are done, got 59"):
        resume_at(tmp_path, 60, 240, monkeypatch, steps=59)


def test_paths_in_the_record_of_a_run_hold_in_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus, whole = ("texts", "books/**/*.txt", "shakespeare"), str(tmp_path)
    settings = job_module.located(TrainSettings(corpus=corpus, init_from="m", validation="v.txt"))
    assert settings.corpus == (f"{whole}/texts", f"{whole}/books/**/*.txt", "shakespeare")
    assert (settings.init_from, settings.validation) == (f"{whole}/m", (f"{whole}/v.txt",))
    assert settings.tokenizer == "bpe" and settings.corpora is None
    assert NAMED["corpus"] == CORPORA
    write_settings(tmp_path / "config.toml", settings)
    assert settings_to_go_on(tmp_path, {"init_from": "m"}).init_from == f"{whole}/m"


def test_what_to_do_about_faults_reaches_the_training_from_the_command(
    texts, tmp_path, monkeypatch
):
    told = {}
    monkeypatch.setattr(job_module, "train", lambda *arguments, **options: told.update(options))
    monkeypatch.setattr(job_module.Job, "write_results", lambda self, history: None)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    faults = ["--on-fault", "rollback", "--spike", "2.5", "--on-write-error", "continue"]
    arguments = ["train", "--corpus", str(texts), "--out", str(tmp_path / "run"), "--steps", "9"]
    assert cli.main([*arguments, *options, *faults]) == 0
    found = (told["on_fault"], told["spike"], told["on_write_error"])
    assert found == ("rollback", 2.5, "continue")


def test_a_training_that_ctrl_c_ended_has_the_exit_code_for_it(texts, tmp_path, monkeypatch):
    """`tfgpt train && next` must not go on; the work is kept, and the next command has its own."""

    def interrupted(*arguments, **options):
        return run_and_interrupt(None, 3, model=make_table())[0]

    monkeypatch.setattr(job_module, "train", interrupted)
    monkeypatch.setattr(job_module.Job, "write_results", lambda self, history: None)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    arguments = ["train", "--corpus", str(texts), "--out", str(tmp_path / "run"), "--steps", "9"]
    assert cli.main([*arguments, *options]) == 130
    kept_interrupts.append(KeyboardInterrupt())  # outside of a command
    assert cli.main(["plan", "--params", "1M"]) == 0


def test_a_dry_run_is_about_the_model_it_goes_on_from_and_about_each_device():
    model = GPT(11, 8, 1, 16, 2, dff=24, positions="learned", tie_embeddings=False)
    settings = TrainSettings(**{**TINY, "width": 16})
    job = SimpleNamespace(
        settings=replace(settings, steps=9),
        start=(model, None),
        strategy=None,
        tokenizer=CharTokenizer("abcdefghij"),
        corpus=SimpleNamespace(text_bytes=90, training=[0] * 80, held_out=[0] * 10),
        training=[0] * 80,
        measure_step=lambda settings: 0.5,
        passes=lambda: 1.0,
        warnings=lambda: [],
    )
    sizes = sizes_of(job)
    assert sizes.parameters == model.count_params() and devices_of(job) == 1
    one, two = (memory_of_settings(settings, sizes, devices) for devices in (1, 2))
    half = memory_of_settings(replace(settings, batch_size=2), sizes, 1)
    assert two == half != one
    assert "devices" not in forecast(job)
    job.strategy = SimpleNamespace(num_replicas_in_sync=2)
    expected = f"about {sum(two.values()) / 1e6:,.0f} MB on each of 2 devices: "
    assert expected in forecast(job) and f"{model.count_params():,} weights" in forecast(job)


def test_of_several_processes_the_first_one_alone_writes_samples(texts, tmp_path, monkeypatch):
    options = {**TINY, "corpus": str(texts), "steps": 4, "sample_every": 2, "tensorboard": True}
    job = job_module.Job(TrainSettings(**options), tmp_path / "run")
    for index, count in ((0, 3), (1, 0)):
        cluster = {"worker": ["a:1", "b:1"]}
        task = {"type": "worker", "index": index}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
        assert len(job.callbacks(None)) == count
    monkeypatch.setattr(job_module, "from_chief", lambda strategy, number: 12)
    with pytest.raises(ValueError, match="every process must have the same texts and tokenizer"):
        job_module.Job(TrainSettings(**options), tmp_path / "run")


def test_the_first_process_says_the_steps_and_compares_the_settings(texts, tmp_path, monkeypatch):
    """It goes on with another batch size, in a folder that this process does not have."""
    options = {**TINY, "corpus": str(texts), "steps": 8}
    asked = []

    def from_chief(strategy, number):
        asked.append(number)
        return 6 if number == 8 else number

    monkeypatch.setattr(job_module, "from_chief", from_chief)
    job = job_module.Job(TrainSettings(**options), tmp_path / "run")
    assert job.settings.steps == 6
    same = job_module.Job(TrainSettings(**options, corpora=str(tmp_path)), tmp_path / "other")
    assert asked[:3] == asked[3:] and same.corpus.key == job.corpus.key

    def other_settings(strategy, number):
        return number - (number == asked[1])

    monkeypatch.setattr(job_module, "from_chief", other_settings)
    with pytest.raises(ValueError, match="every process must have the same settings"):
        job_module.Job(TrainSettings(**options), tmp_path / "run")


def test_a_tokenizer_is_learned_once(texts, tmp_path, capsys):
    """Other texts, other sizes and another form are learned anew."""
    path = tmp_path / "a.txt"
    path.write_text('{"text": "moon light and more"}\n' * 40)
    reading = {"field": None, "encoding": "utf-8", "separator": None}

    def learn(path, size=270):
        tokenizer = make_tokenizer("bpe", size, [path], reading, keep_in=tmp_path / "corpora")
        return tokenizer.encode('"text": moon').tolist(), capsys.readouterr().out.count("Learning")

    first, again = learn(path), learn(path)
    assert first == (again[0], 1) and again[1] == 0
    assert learn(path, size=265)[1] == 1
    renamed, count = learn(path.rename(tmp_path / "a.jsonl"))
    assert count == 1 and renamed != first[0]


@pytest.mark.slow
def test_own_validation_files_are_measured_on(texts, tmp_path, capsys):
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("明月光，思故乡。\n" * 10, encoding="utf-8")
    options = {**TINY, "corpus": str(texts), "validation": str(held_out), "steps": 2}
    pretrain(options, tmp_path / "run")
    assert " 92 held out" in capsys.readouterr().out  # 10 lines of 9 characters and two line ends


@pytest.mark.slow
def test_a_gzipped_jsonl_is_read(tmp_path):
    path = tmp_path / "texts.jsonl.gz"
    rows = [json.dumps({"body": LINES}, ensure_ascii=False) for _ in range(20)]
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    options = {**TINY, "corpus": str(path), "field": "body", "steps": 1}
    assert pretrain(options, tmp_path / "run")[-1]["step"] == 1


@pytest.mark.slow
def test_a_model_goes_on_learning_with_another_text(trained, tmp_path):
    out, _ = trained
    (tmp_path / "more.txt").write_text("明月光，低头思故乡。\n" * 30, encoding="utf-8")
    more = {"init_from": str(out), "corpus": str(tmp_path / "more.txt"), "steps": 1}
    pretrain({**TINY, **more, "learning_rate": 1e-9}, tmp_path / "run")
    before, after = (
        LanguageModel.load(path).model.get_weights() for path in (out, tmp_path / "run")
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"corpus": "missing"}, FileNotFoundError, "corpus must be one of .*'missing'"),
        ({"context": 4000}, ValueError, "corpus must have more than context=4000 tokens"),
        ({"width": 9}, ValueError, "width must be a multiple of heads=2, got 9"),
        ({"tokenizer": "nothing"}, FileNotFoundError, "tokenizer must be char, bpe, or a file"),
        ({"tokenizer": "bpe", "vocab_size": 5000}, ValueError, r"vocab_size must be at most \d+"),
        ({"held_out": 1.5}, ValueError, r"held_out must be in \(0, 1\)"),
        ({"preset": "huge"}, ValueError, "preset must be one of"),
        ({"optimizer": "magic"}, ValueError, "optimizer must be one of"),
        ({"steps": 5, "minutes": 1.0}, ValueError, "the length must be given once, got steps and"),
        ({"steps": "5"}, TypeError, "steps must be of type int or None, got '5'"),
        ({"dropout": 2}, ValueError, "dropout"),
        ({"minutes": -1}, ValueError, r"minutes must be in \(0, inf\), got -1"),
        ({"log_every": 0}, ValueError, "log_every must be an integer >= 1, got 0"),
        ({"sample_every": 0}, ValueError, "sample_every must be an integer >= 1, got 0"),
        ({"accumulate": 0}, ValueError, "accumulate must be an integer >= 1, got 0"),
        ({"spike": 0.5}, ValueError, r"spike must be in \(1, inf\), got 0.5"),
        ({"on_fault": "explode"}, ValueError, "on_fault must be one of"),
        ({"vocab_size": 90}, ValueError, "vocab_size must be left out with characters"),
        ({"weight_decay": -0.5}, ValueError, "weight_decay must be >= 0, .* got -0.5"),
        ({"seed": 2**32}, ValueError, r"seed must be below 2\*\*32"),
        ({"validation": "missing"}, FileNotFoundError, "validation must be one of .*'missing'"),
        ({"encoding": "latin-0"}, ValueError, "encoding"),
    ],
)
def test_wrong_settings_are_named(texts, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        pretrain({**TINY, "corpus": str(texts), **options}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_files_that_are_no_text_are_named(tmp_path):
    for name, content, message in (
        ("a.txt", b"", "corpus must hold text, got none"),
        ("b.txt", b"abc\0def" * 20, "NUL"),
        ("c.txt", "床前明月光，疑是地上霜。".encode("gb18030") * 50, "encoding='gb18030'"),
        ("d.txt", "床前明月光，疑是地上霜。".encode("utf-16") * 50, "utf-16"),
        ("e.txt", b"%PDF-1.7 ...", "PDF"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            pretrain({**TINY, "corpus": str(path), "steps": 1}, tmp_path / "run")


@pytest.mark.slow
def test_a_text_in_another_encoding_is_read_when_told(tmp_path):
    path = tmp_path / "gbk.txt"
    path.write_bytes(("\r\n".join(LINES.splitlines()) * 40).encode("gbk"))
    options = {**TINY, "corpus": str(path), "encoding": "gbk", "steps": 1}
    pretrain(options, tmp_path / "run")
    assert "\r" not in LanguageModel.load(tmp_path / "run").tokenizer.tokens


def test_settings_survive_a_file(tmp_path):
    odd = 'a "quoted" \\ path\twith\n lines \x7f and 明月 \x01'
    settings = TrainSettings(corpus=(odd, "b"), ema=0.999, steps=3, keep_best=False)
    write_settings(tmp_path / "config.toml", settings)
    assert TrainSettings(**read_settings(tmp_path)) == settings
    assert tomllib.loads((tmp_path / "config.toml").read_text(encoding="utf-8"))["ema"] == 0.999


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3", "got 'stepz': did you mean steps?"),
        ("qqq = 3", "got 'qqq': they are corpus, validation"),
        ("steps = ", "config must be a TOML file"),
    ],
)
def test_a_wrong_file_of_settings_is_named(tmp_path, text, message):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_settings(tmp_path / "x.toml")


def test_assignments_need_an_equals_sign_and_a_known_name():
    assert parse_assignments(['corpus=["a", "b"]', "learning-rate=1e-3", "prompt=明月"]) == {
        "corpus": ["a", "b"],
        "learning_rate": 1e-3,
        "prompt": "明月",
    }
    for wrong in ("steps", "step=3"):
        with pytest.raises(ValueError, match="--set"):
            parse_assignments([wrong])


def test_presets_are_those_of_the_published_models():
    from tfgpt.pretrained.gpt2 import SIZES

    for name, size in SIZES.items():
        shape = [size[key] for key in ("num_layers", "d_model", "num_heads", "context_length")]
        assert PRESETS[name] == tuple(shape)


def test_options_win_over_the_file_and_set_over_options(tmp_path):
    (tmp_path / "x.toml").write_text("steps = 3\nseed = 1\nbatch_size = 2\n")
    arguments = ["train", "--config", str(tmp_path / "x.toml"), "--minutes", "2", "--seed", "5"]
    options = cli.make_parser().parse_args([*arguments, "--set", "seed=7", "--no-keep-best"])
    given = cli.training.given_settings(options)
    assert given == {"batch_size": 2, "minutes": 2.0, "seed": 7, "keep_best": False}


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_tokenizer_is_learned_from_all_files(texts, kind):
    reading = {"field": None, "encoding": "utf-8", "separator": None}
    tokenizer = make_tokenizer(kind, None, sorted(texts.iterdir()), reading)
    assert isinstance(tokenizer, CharTokenizer if kind == "char" else BPETokenizer)
    assert tokenizer.decode(tokenizer.encode(LINES)) == LINES


@pytest.mark.slow
def test_commands_about_a_run(trained, tmp_path, capsys):
    out, history = trained
    assert cli.main(["evaluate", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "held-out texts of the training" in printed and "bits per byte" in printed
    (tmp_path / "other.txt").write_text("明月光" * 40, encoding="utf-8")
    assert cli.main(["evaluate", str(out), "--data", str(tmp_path / "other.txt")]) == 0
    assert "120 of 122 tokens" in capsys.readouterr().out  # whole windows of 8
    assert cli.main(["plot", str(out)]) == 0
    assert (out / "attention.png").exists() and "Drawn: " in capsys.readouterr().out
    (tmp_path / "prompts.txt").write_text("明月\n低头\n", encoding="utf-8")
    arguments = ["generate", str(out), "--prompts", str(tmp_path / "prompts.txt"), "--tokens", "4"]
    assert cli.main([*arguments, "--seed", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("明月") and "\n低头" in printed


@pytest.mark.slow
@pytest.mark.parametrize("format", ["bundle", "keras"])
def test_a_run_is_exported(trained, tmp_path, format):
    import keras

    out, _ = trained
    path = tmp_path / ("model.keras" if format == "keras" else "model")
    assert cli.main(["export", str(out), "--out", str(path), "--format", format]) == 0
    own = LanguageModel.load(out).model
    read = keras.models.load_model(path) if format == "keras" else LanguageModel.load(path).model
    ids = np.array([[1, 2, 3]])
    np.testing.assert_array_equal(np.array(own(ids)), np.array(read(ids)))
    assert cli.main(["export", str(out), "--out", str(path), "--format", format]) == 2


@pytest.mark.slow
def test_two_runs_are_compared(trained, texts, tmp_path):
    out, history = trained
    other = tmp_path / "wide"
    pretrain({**TINY, "corpus": str(texts), "width": 16, "steps": 4}, other)
    table = compare_runs([out, other], save=tmp_path / "curves.png")
    lines = {line.split()[0]: line.split()[1:] for line in table.splitlines()[1:]}
    assert table.splitlines()[0].split() == ["poems", "wide"]
    assert (
        lines["width"] == ["8", "16"] and lines["steps"] == ["8", "4"] and table.count("steps") == 1
    )
    assert "seed" not in lines and (tmp_path / "curves.png").stat().st_size > 5000
    for folders, message in (([out], "at least two runs, got 1"), ([out, texts], "history.csv")):
        with pytest.raises(ValueError, match=message):
            compare_runs(folders)


@pytest.mark.slow
def test_a_rate_is_found_and_drawn(texts, tmp_path, capsys):
    found = find_rate({**TINY, "corpus": str(texts)}, tmp_path / "run")
    assert found.rates[0] < found.best < found.rates[-1] and len(found.rates) == len(found.losses)
    assert (tmp_path / "run" / "rate.png").exists()
    assert f"--learning-rate {found.best:.2g}" in capsys.readouterr().out


@pytest.mark.slow
def test_samples_and_tensorboard_files_come_while_training(texts, tmp_path):
    import tensorflow as tf

    options = {"sample_every": 4, "tensorboard": True, "prompt": "明月", "corpus": str(texts)}
    history = pretrain({**TINY, **options, "steps": 8}, tmp_path / "run")
    samples = (tmp_path / "run" / "samples.txt").read_text(encoding="utf-8")
    assert samples.count("明月") >= 2 and samples.startswith("--- 4\n明月")
    (path,) = (tmp_path / "run" / "tensorboard").iterdir()
    tags = {}
    for record in tf.data.TFRecordDataset(str(path)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            tags.setdefault(value.tag, []).append(event.step)
    assert tags["loss"] == [2, 4, 6, 8] and tags["val_loss"] == [4, 8]
    assert tags["sample"] == tags["attention"] == [4, 8]
    assert any("kernel" in tag for tag in tags)
    plain = pretrain({**TINY, "corpus": str(texts), "steps": 8}, tmp_path / "plain")
    assert [row["loss"] for row in history] == [row["loss"] for row in plain]
