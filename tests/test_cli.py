"""The command line: wrong input gives one line and exit code 2; the demo writes its files."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tfgpt import GPT, BPETokenizer, CharTokenizer, LanguageModel, cli
from tfgpt.tasks import demo

FILES = {
    "checkpoint",
    "config.json",
    "weights.safetensors",
    "tokenizer.json",
    "history.csv",
    "history.jsonl",
    "loss.png",
    "attention.png",
    "sample.txt",
}
TRANSLATION_FILES = {
    "config.json",
    "tokenizer.json",
    "weights.safetensors",
    "attention.html",
    "checkpoint",
    "history.csv",
    "history.jsonl",
    "loss.png",
    "scores.txt",
    "translations.tsv",
    "translator",
}


@pytest.fixture
def small_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("床前明月光，疑是地上霜。\n" * 200, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--corpus", "missing.txt"], "corpus must be one of .*missing.txt"),
        (["demo", "--corpus", "{empty}"], "corpus must not be empty"),
        (["demo", "--corpus", "{latin1}"], "corpus must be UTF-8 text.*0xe9 at offset 3"),
        (["demo", "--corpus", "{short}"], "corpus must have more than 1,285 characters"),
        (["demo", "--corpus", "{text}", "--steps", "0"], "steps must be an integer >= 1, got 0"),
        (["demo", "--tokenizer", "words"], "tokenizer must be one of 'bpe', 'char', got 'words'"),
        (["generate", "--run-dir", "nothing"], "folder must hold config.json"),
        (["generate", "--model", "nothing"], "folder must hold config.json, .*'nothing'"),
        (["generate", "a", "--model", "b"], "generate needs one model, got two"),
        (["train-translation", "--corpus", "{text}"], "source and translation on every line, .*1"),
        (["train-translation", "--steps", "0"], "steps must be an integer >= 1, got 0"),
        (["translate"], "translate needs either a text or --file"),
        (["translate", "--file", "x", "--attention", "y"], "--attention needs one text, not --fil"),
        (["train", "--corpus", "missing"], "corpus must be one of .*'missing'"),
        (["train", "--set", "stepz=3"], "--set must hold known settings, got 'stepz': did you me"),
        (["plan", "--params", "12X"], "params must be a count"),
        (["plan", "--params", "124M", "--devices", "8xZ1"], "devices must"),
        (["compare", "one"], "compare needs at least two runs, got 1"),
        (["evaluate", "nothing"], "folder must hold config.json"),
        (["plot", "nothing"], "folder must hold config.json"),
        (["serve", "--model", "nothing"], "folder must hold config.json"),
        (["serve", "--model", "x", "--batch", "0"], "--batch must be an integer >= 1, got 0"),
        (["serve", "--model", "x", "--api-key", ""], "--api-key must have a character, got ''"),
        (["serve", "--model", "x", "--api-key", " "], "--api-key must have a character, got ' '"),
        (["export", "nothing", "--out", "x"], "folder must hold config.json"),
        (
            ["launch", "--processes", "0", "--", "doctor"],
            "processes must be an integer >= 1, got 0",
        ),
        (["translate", "", "--checkpoint", "nothing"], "folder must be verses_en-es, .*'nothing'"),
    ],
)
def test_wrong_input_gives_one_line_and_writes_nothing(
    arguments, message, tmp_path, small_text, capsys
):
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "latin1").write_bytes(b"caf\xe9")
    (tmp_path / "short").write_text("too short")
    names = {name: tmp_path / name for name in ("empty", "latin1", "short")}
    arguments = [argument.format(text=small_text, **names) for argument in arguments]
    run_dir = tmp_path / "run"
    if arguments[0] in ("demo", "train-translation"):
        arguments += ["--run-dir", str(run_dir)]
    if arguments[0] == "train":
        arguments += ["--out", str(run_dir)]

    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("tfgpt: ") and error.count("\n") == 1
    assert re.search(message, error)
    assert not run_dir.exists()


@pytest.mark.slow
def test_demo_writes_its_files_and_generate_continues_a_prompt(tmp_path, small_text, capsys):
    run_dir = tmp_path / "run"
    arguments = ["--run-dir", str(run_dir)]
    assert cli.main(["demo", "--corpus", str(small_text), "--steps", "3", *arguments]) == 0
    assert {path.name for path in run_dir.iterdir()} == FILES
    assert "held-out loss" in capsys.readouterr().out
    with open(run_dir / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[-1]) == ["step", "loss", "val_loss", "tokens_per_s", "seconds"]
    assert rows[-1]["step"] == "3" and float(rows[-1]["val_loss"]) > 0

    text_model = LanguageModel.load(run_dir)
    model = text_model.model
    assert model.vocab_size == 14  # 13 characters and padding
    assert cli.main(["generate", "--prompt", "明月", "--tokens", "5", *arguments]) == 0
    written = capsys.readouterr().out
    assert written.startswith("明月") and len(written.rstrip("\n")) <= 7
    tokenizer = CharTokenizer.load(run_dir / "tokenizer.json")
    settings = {"top_k": 5, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.5, "seed": 3}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    assert cli.main(["generate", "--prompt", "明月", "--tokens", "200", *options, *arguments]) == 0
    expected = demo.sample_text(model, tokenizer, "明月", 200, temperature=0.8, **settings)
    assert capsys.readouterr().out == expected + "\n"
    banned = [f"--ban={expected[2]}", "--ban", expected[3:5]]
    assert cli.main(["generate", "--prompt=明月", "--tokens=60", *banned, *arguments]) == 0
    written = capsys.readouterr().out
    assert len(written) > 40 and expected[2] not in written and expected[3:5] not in written

    assert cli.main(["generate", "--prompt", "sun", *arguments]) == 2
    assert "'s' (U+0073) at position 0" in capsys.readouterr().err
    for option, message in (
        ("--temperature=-1", "temperature must be >= 0"),
        ("--top-k=0", "top_k must be an integer >= 1, got 0"),
        ("--min-p=2", "min_p must be in [0, 1], got 2.0"),
        ("--repetition-penalty=0", "repetition_penalty must be > 0"),
    ):
        assert cli.main(["generate", option, *arguments]) == 2
        output = capsys.readouterr()
        assert message in output.err and output.out == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "files"), [("demo", FILES), ("train-translation", TRANSLATION_FILES)]
)
def test_ctrl_c_keeps_the_work_so_far(tmp_path, small_text, command, files):
    run_dir = tmp_path / "run"
    corpus = small_text
    if command == "train-translation":
        corpus = tmp_path / "pairs.tsv"
        lines = [f"{i % 50}.{i}\tone {i}\tuno {i}\n" for i in range(500)]
        corpus.write_text("".join(lines), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "tfgpt", command, "--corpus", str(corpus)]
        + ["--steps", "100000", "--run-dir", str(run_dir)],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    limit = time.monotonic() + 240
    while not (run_dir / "history.csv").exists() and time.monotonic() < limit:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "the work so far is kept" in output
    assert {path.name for path in run_dir.iterdir()} == files


COMMAND = [sys.executable, "-c", "import sys, tfgpt_command; sys.exit(tfgpt_command.main())"]
ROOT = Path(__file__).parents[1]


def run_command(*arguments, **options):
    """Run the command in a new process, as its console script does."""
    environment = {"PYTHONPATH": str(ROOT), **options.pop("environment", {})}
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=240,
        cwd=ROOT,
        **options,
    )


def test_help_and_version_load_no_tensorflow():
    code = (
        "import sys, tfgpt_command\n"
        "helps = [[command, '--help'] for command in ('generate', 'serve')]\n"
        "for option in (['--help'], ['--version'], *helps, []):\n"
        "    sys.argv = ['tfgpt', *option]\n"
        "    try: assert tfgpt_command.main() == 0\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "print([name for name in ('tensorflow', 'keras', 'numpy', 'tfgpt') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.endswith("[]\n")
    assert "examples:" in done.stdout and re.search(r"tfgpt \d+\.\d+", done.stdout)


def test_a_reader_that_goes_away_is_no_error():
    """`tfgpt --help | head -1`, with a pipe that is closed at once."""
    process = subprocess.Popen(
        [*COMMAND, "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=60) in (0, cli.PIPE_CLOSED) and errors == b""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "tfgpt: [Errno 28] No space left on device"),
        (zipfile.BadZipFile("File is not a zip file"), "tfgpt: BadZipFile: File is not a zip file"),
        (MemoryError(), "tfgpt: not enough memory: take a smaller model, batch or text."),
        (KeyError("config"), "tfgpt: KeyError: 'config'"),
        (ValueError("one\n\n\x1b[1mtwo\x1b[0m"), "tfgpt: one two"),
    ],
)
def test_any_error_is_one_sentence(monkeypatch, capsys, error, message):
    def fail(options):
        raise error

    monkeypatch.setattr(cli, "run_doctor", fail)
    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().err == message + "\n"
    monkeypatch.setenv("TFGPT_DEBUG", "1")
    assert cli.main(["doctor"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.slow
def test_a_narrow_encoding_a_pipe_and_no_colour_do_not_end_a_command(tmp_path):
    text = "¿Qué beberemos? 床前明月光\n" * 200
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    options = ["--run-dir", str(tmp_path / "run")]
    trained = run_command("demo", "--corpus", str(tmp_path / "text.txt"), "--steps", "2", *options)
    assert trained.returncode == 0, trained.stderr
    assert b"\x1b" not in trained.stdout + trained.stderr
    assert b"step 2 of 2" in trained.stderr and b"step 2 of 2" not in trained.stdout
    narrow = {"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}
    written = run_command(
        "generate",
        "--prompt",
        "-",
        "--tokens",
        "9",
        *options,
        environment=narrow,
        input="¿Qué".encode(),
    )
    assert (written.returncode, written.stderr) == (0, b"")
    assert len(written.stdout.decode("ascii").rstrip("\n")) >= 9


@pytest.mark.slow
def test_generate_writes_with_a_byte_pair_model_and_refuses_a_foreign_tokenizer(tmp_path, capsys):
    tokenizer = BPETokenizer.train(["the moon is bright " * 30], vocab_size=270)
    model = GPT(tokenizer.vocab_size, 16, num_layers=1, d_model=8, num_heads=2)
    LanguageModel(model, tokenizer).save(tmp_path)
    arguments = ["generate", "--run-dir", str(tmp_path)]
    assert cli.main([*arguments, "--prompt", "the", "--tokens", "4"]) == 0
    assert capsys.readouterr().out.startswith("the")
    CharTokenizer("abc").save(tmp_path / "tokenizer.json")
    assert cli.main(arguments) == 2
    assert "tokenizer must have as many tokens as the model" in capsys.readouterr().err
