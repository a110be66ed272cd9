"""The speed benchmark: fair turns, right ratios, and no crash when a worker has one."""

import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from layer_check import IS_TENSORFLOW

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))  # the benchmarks are not installed

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import report, runner  # noqa: E402
from benchmarks.comparisons import (  # noqa: E402
    TARGETS,
    Comparison,
    Contender,
    Target,
    make_comparisons,
    select,
)
from benchmarks.sizes import SIZES, Size  # noqa: E402

TINY = Size("tiny", 1, 2, 8, length=4, batch=2, vocab_size=10)
# Answers the seconds of its list, one after the other, and logs every request.
FAKE = """
import json, sys, time
fake = json.loads(sys.argv[1])
def answer(message):
    print(json.dumps(message), flush=True)
def start(first):
    answer({"first_call_s": 9.0, "pace_s": 0.5, "first_loss": 2.3, "weights": 1000, "units": 1,
            "versions": {"fake": "1.0"}, **first})
start(fake.get("first", {}))
for second, line in zip(fake["seconds"], sys.stdin):
    steps = json.loads(line)["steps"]
    open(fake["log"], "a").write(f"{fake['name']} {steps}\\n")
    if second == "crash":
        print("some warning", file=sys.stderr)
        raise SystemExit("out of luck")
    if second == "hang":
        time.sleep(99)
    if second == "nonsense":
        print("hello", flush=True)
        continue
    answer({"seconds": second * steps, "loss": fake.get("loss", 1.5), "peak_mb": 100.0})
sys.stdin.readline()
"""


class FakePlan(runner.Plan):
    """A plan whose workers are FAKE."""

    def command(self, library, settings):
        return [sys.executable, "-S", "-c", FAKE, json.dumps(settings)]


@pytest.fixture
def fakes(tmp_path):
    """Return a function that compares fake contenders; and the file of their requests."""
    log = tmp_path / "requests.txt"

    def make(kind="train", size=TINY, **contenders):
        made = tuple(
            Contender(
                name.replace("_", " "),
                "torch",
                {"name": name, "log": str(log), "precision": "float32", **options},
            )
            for name, options in contenders.items()
        )
        return Comparison("train tiny", kind, made, size, {"batch": 1})

    return make, log


def run(comparison, **plan):
    return runner.run_comparison(comparison, FakePlan(**{"timeout": 20.0, **plan}))


def test_contenders_take_turns_and_ratios_are_paired(fakes):
    make, log = fakes
    # The machine is three times slower in the second round: the ratios do not see it.
    comparison = make(
        tfgpt_a={"seconds": [0.1, 0.3, 0.1]},
        tfgpt_b={"seconds": [0.4, 0.9, 0.4]},
        peer={"seconds": [0.2, 0.6, 0.4]},
    )
    results = run(comparison, rounds=3, steps=2)
    assert log.read_text().split("\n")[:-1] == ["tfgpt_a 2", "tfgpt_b 2", "peer 2"] * 3
    ours, _, peer = results
    assert ours.times == pytest.approx([100, 300, 100]) and ours.median_ms == pytest.approx(100)
    assert peer.median_ms == pytest.approx(400)
    assert runner.paired_ratio(ours, peer) == pytest.approx(0.5)
    assert runner.best_of_ours(results) is ours
    assert runner.fastest(results[1:]).name in ("tfgpt b", "peer")


def test_steps_fill_the_seconds(fakes):
    make, log = fakes
    comparison = make(
        fast={"seconds": [0.1], "first": {"pace_s": 0.1}},
        slow={"seconds": [9.0], "first": {"pace_s": 9.0}},
    )
    run(comparison, rounds=1, seconds=2.0)
    assert log.read_text() == "fast 20\nslow 1\n"


def test_times_are_per_unit(fakes):
    make, _ = fakes
    comparison = make(kind="decode", tfgpt={"seconds": [2.0], "first": {"units": 200}})
    (result,) = run(comparison, rounds=1, steps=3)
    assert result.times == pytest.approx([10])


@pytest.mark.slow
def test_a_missing_peer_a_crash_and_a_hang_leave_the_other_rows(fakes):
    make, _ = fakes
    comparison = make(
        tfgpt={"seconds": [0.1, 0.1]},
        missing={"seconds": [], "first": {"missing": "torch"}},
        crash={"seconds": [0.1, "crash"]},
        hang={"seconds": ["hang"]},
        nonsense={"seconds": ["nonsense"]},
        peer={"seconds": [0.2, 0.2]},
    )
    start = time.perf_counter()
    results = run(comparison, rounds=2, steps=1, timeout=5.0)
    assert time.perf_counter() - start < 60
    by_name = {result.name: result for result in results}
    assert {name: result.status for name, result in by_name.items()} == {
        "tfgpt": "ok",
        "missing": "not installed",
        "crash": "failed",
        "hang": "failed",
        "nonsense": "failed",
        "peer": "ok",
    }
    assert by_name["missing"].message == "no module torch: pip install torch"
    assert by_name["crash"].message == "ended with exit code 1\nsome warning\nout of luck"
    assert by_name["hang"].message == "no answer in 5 s"
    assert by_name["nonsense"].message == "answered 'hello', not JSON"
    assert runner.paired_ratio(by_name["tfgpt"], by_name["peer"]) == pytest.approx(0.5)
    text = "\n".join(report.table(comparison, results, {}))
    assert "missing: not installed: no module torch: pip install torch" in text
    assert "crash: failed: ended with exit code 1\n    some warning\n    out of luck" in text


def test_a_program_that_is_not_there_is_a_failed_row(fakes):
    make, _ = fakes
    plan = runner.Plan(rounds=1, torch_python="/no/such/python")
    (result,) = runner.run_comparison(make(peer={"seconds": []}), plan)
    assert result.status == "failed" and "/no/such/python" in result.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": {"weights": 1001}}, "weights must be 1,000, got 1,001"),
        ({"first": {"first_loss": 9.0}}, "the loss must begin near 2.30 and fall, got 9.00"),
        ({"loss": 2.4}, "the loss must begin near 2.30 and fall, got 2.30 to 2.40"),
        ({"loss": float("nan")}, "the loss must begin near 2.30 and fall, got 2.30 to nan"),
    ],
)
def test_other_work_is_no_result(fakes, options, message):
    make, _ = fakes
    (result,) = run(make(peer={"seconds": [0.1], **options}), rounds=1)
    assert result.status == "failed" and result.message.startswith(message)


def test_the_command_prints_tables_and_writes_everything(fakes, tmp_path, monkeypatch, capsys):
    make, _ = fakes
    comparison = make(tfgpt={"seconds": [0.1] * 2}, peer={"seconds": [0.4] * 2})
    limit = make(kind="limits", size=None, matmul_float32={"seconds": [0.01] * 2})
    limit = replace(limit, name="limits")
    target = Target("train tiny vs peer", "train tiny", 0.5, 0.2, ("peer",))
    monkeypatch.setattr(command, "make_comparisons", lambda: [limit, comparison])
    monkeypatch.setattr(command, "Plan", FakePlan)
    monkeypatch.setattr(report, "TARGETS", [target])
    monkeypatch.setitem(SIZES, "tiny", TINY)
    path = tmp_path / "new" / "results.json"
    options = ["--sizes", "tiny", "--rounds", "2", "--steps", "3", "--json", str(path)]
    assert command.main(options) == 0

    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["plan"]["rounds"] == 2 and written["machine"]["cores"] >= 1
    assert [each["name"] for each in written["comparisons"]] == ["limits", "train tiny"]
    ours, peer = written["comparisons"][1]["contenders"]
    assert peer["times_ms"] == pytest.approx([400, 400])
    assert peer["ratio_of_tfgpts_best"] == pytest.approx(0.25)
    assert ours["share_of_limit"] == pytest.approx(TINY.step_flops / 0.1 / 1e9 / 100)
    assert ours["first_call_s"] == 9.0 and ours["peak_mb"] == 100.0
    assert ours["versions"] == {"fake": "1.0"} and ours["first_loss"] == 2.3
    assert [each["verdict"] for each in written["targets"]] == ["met"]

    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.split()[:1] == ["peer"]]
    assert row.split() == ["peer", "400.00", "0.25", "9.0", "100", "0", "%", "2.30", "to", "1.50"]
    assert lines[-1].split()[:8] == ["train", "tiny", "vs", "peer", "0.50", "0.20", "0.25", "met"]


def finished(name, times, precision="float32", first_call=9.0):
    """Make the result of a contender that was measured."""
    result = runner.Result(Contender(name, "", {"precision": precision}))
    result.times = times
    result.first = {"first_call_s": first_call}
    return result


@pytest.mark.parametrize(
    ("times", "value", "verdict"),
    [
        ([3.0, 3.0], 0.3, "met, the aim too"),
        ([4.5, 4.5], 0.45, "met"),
        ([6.0, 6.0], 0.6, "missed"),
    ],
)
def test_targets_compare_the_best_with_the_best(times, value, verdict):
    target = Target("a", "b", must=0.5, aim=0.4, peers=("peer", "peer XLA"))
    results = [
        finished("tfgpt slow", [50.0, 50.0]),
        finished("tfgpt", times, "bfloat16"),
        finished("peer", [20.0, 20.0]),
        finished("peer XLA", [10.0, 10.0]),
        finished("another", [1.0, 1.0]),
    ]
    checked = report.check_target(target, results)
    assert checked["value"] == pytest.approx(value) and checked["verdict"] == verdict
    assert (checked["ours"], checked["peer"]) == ("tfgpt", "peer XLA")
    at_equal_precision = report.check_target(replace(target, precision="float32"), results)
    assert at_equal_precision["value"] == pytest.approx(5) and (
        at_equal_precision["ours"] == "tfgpt slow"
    )


def test_a_target_without_its_peer_is_not_measured():
    target = Target("a", "b", must=0.5, aim=0.4, peers=("peer",))
    failed = finished("peer", [])
    failed.stop("failed", "why")
    checked = report.check_target(target, [finished("tfgpt", [1.0]), failed])
    assert checked["verdict"] == "not measured" and checked["value"] is None
    assert "not measured" in report.target_table([checked])[1]


def test_a_target_without_peers_is_the_first_call():
    results = [finished("tfgpt a", [1.0], first_call=9.0), finished("tfgpt b", [2.0], first_call=5)]
    checked = report.check_target(Target("a", "b", must=8.0, aim=4.0), results)
    assert (checked["value"], checked["ours"], checked["verdict"]) == (5, "tfgpt b", "met")


@pytest.mark.parametrize(
    ("times", "value", "verdict"),
    [([20.0], 1.25, "met, the aim too"), ([24.0], 1.5, "met"), ([32.0], 2.0, "missed")],
)
def test_a_target_of_the_machine_compares_with_reading_all_weights(times, value, verdict):
    target = Target("a", "tiny", must=1.67, aim=1.25, precision="int8", is_limit=True)
    comparison = Comparison("tiny", "decode", (), TINY, {"batch": 1})
    # 968 bytes at 60,500 bytes per second: 16 ms.
    limits = {"memory reads": 60_500 / 1e9}
    ours = finished("tfgpt", times, "int8")
    checked = report.check_target(target, [ours], comparison, limits)
    assert checked["value"] == pytest.approx(value) and checked["verdict"] == verdict
    unmeasured = report.check_target(target, [ours], comparison, {})
    assert unmeasured["verdict"] == "not measured"


def test_limits_run_with_training_and_decoding_unless_names_leave_them_out():
    def kinds(*arguments):
        chosen = command.choose(command.make_parser().parse_args(arguments))
        return {comparison.kind for comparison in chosen}

    assert kinds("decode", "--sizes", "S") == {"limits", "decode"}
    assert kinds("decode", "--only", "decode S") == {"decode"}
    assert kinds("import") == {"import"}


def test_weights_and_operations_of_a_gpt_by_hand():
    # D = 8: a layer has 12 x 64 + 13 x 8 = 872 weights, the last norm 16, the tables 80 + 32.
    assert TINY.weights == 872 + 16 + 80 + 32 == 1000
    # 8 tokens: 6 x 968 x 8, and 12 x 1 layer x 8 wide x 4 long x 8.
    assert TINY.step_flops == 46464 + 3072
    assert TINY.token_bytes("float32") == 4 * 968 and TINY.token_bytes("bfloat16") == 2 * 968


def test_weights_and_operations_of_an_encoder_decoder_by_hand():
    size = replace(TINY, encoder_decoder=True)
    # Encoder layer 872; decoder layer 872 + 256 + 48; tables 160; head 80 + 10.
    assert size.weights == 872 + 1176 + 160 + 90
    assert size.step_flops == 6 * (872 + 1176 + 90) * 8 + 3 * 3072


def test_gpt2_has_its_124_million_weights():
    assert SIZES["G"].weights == 124_439_808


def test_batches_have_no_padding_and_targets_are_shifted():
    inputs, targets = TINY.training_batch()
    assert inputs.shape == targets.shape == (2, 4) and inputs.dtype == "int32"
    assert (inputs[:, 1:] == targets[:, :-1]).all() and inputs.min() > 0
    inputs, targets = replace(TINY, encoder_decoder=True).training_batch()
    assert inputs["source"].shape == inputs["target"].shape == targets.shape
    assert min(inputs["source"].min(), targets.min()) > 0


def test_every_target_names_contenders_that_are_run():
    contenders = {
        comparison.name: [contender.name for contender in comparison.contenders]
        for comparison in select(make_comparisons(), command.KINDS, tuple(SIZES))
    }
    for target in TARGETS:
        assert set(target.peers) <= set(contenders[target.comparison]), target.name
        assert target.aim < target.must


def test_names_are_unique_and_extras_are_left_out():
    everything = select(make_comparisons(), command.KINDS, tuple(SIZES), extras=True)
    default = select(make_comparisons(), command.KINDS, tuple(SIZES))
    assert len({comparison.name for comparison in everything}) == len(everything)
    for comparison in everything:
        names = [contender.name for contender in comparison.contenders]
        assert len(set(names)) == len(names)
    assert "train G" in {comparison.name for comparison in everything}
    assert "train G" not in {comparison.name for comparison in default}


def test_only_keeps_what_is_named():
    chosen = select(make_comparisons(), command.KINDS, tuple(SIZES), only=["train S: torch eager"])
    assert [comparison.name for comparison in chosen] == ["train S"]
    assert [each.name for each in chosen[0].contenders] == [
        "torch eager float32",
        "torch eager bfloat16",
    ]
    assert select(make_comparisons(), ["decode"], ["S"], only=["train"]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["learn"], "what must be some of .*, got 'learn'"),
        (["--sizes", "XL"], "--sizes must be some of S, M, G, T, got 'XL'"),
        (["--rounds", "0"], "--rounds must be >= 1 and finite, got 0"),
        (["--seconds", "nan"], "--seconds must be >= 0.001 and finite, got nan"),
        (["--only", "nobody"], "nothing is left to compare"),
    ],
)
def test_wrong_options_give_one_line(arguments, message, capsys):
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert re.match(f"benchmarks: {message}", error) and error.count("\n") == 1


def test_the_list_shows_names_and_extras(capsys):
    assert command.main(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "train S: torch eager float32" in lines
    assert "train G: torch eager float32  (extra)" in lines


@pytest.mark.slow
@pytest.mark.skipif(not IS_TENSORFLOW, reason="the training step needs the TensorFlow backend")
@pytest.mark.parametrize("kind", ["train", "decode"])
def test_a_real_worker_of_tfgpt_from_end_to_end(kind):
    size = replace(TINY, length=8)
    options = {"precision": "float32", "jit_compile": False}
    case = {"batch": 1, "prompt": 3, "new_tokens": 4, "sample": False}
    comparison = Comparison("tiny", kind, (Contender("tfgpt", "tfgpt", options),), size, case)
    (result,) = runner.run_comparison(comparison, runner.Plan(rounds=2, steps=2))
    assert result.is_ok, result.message
    assert len(result.times) == 2 and min(result.times) > 0
    assert result.first["weights"] == size.weights
    assert result.last["peak_mb"] is None or result.last["peak_mb"] > 50
    assert {"Python", "tfgpt", "tensorflow"} <= result.first["versions"].keys()
