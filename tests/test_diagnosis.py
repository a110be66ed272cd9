"""The doctor: each check sees what it is for, nothing makes it crash, and it changes nothing."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import tfgpt
from tfgpt import cli
from tfgpt.machine import device_checks, devices, diagnosis

NO_NVIDIA = {"present": False, "gpus": [], "error": ""}
CARD = {"name": "NVIDIA L4", "total": 23034, "free": 22000, "driver": "550.54"}
NVIDIA = {"present": True, "gpus": [CARD], "error": ""}
CPU = {"kind": "CPU", "name": "CPU:0", "compute_capability": None}
BUILD = {
    "is_cuda_build": True,
    "cuda_version": "12.5.1",
    "cuda_compute_capabilities": ["sm_60", "sm_80", "compute_90"],
}


def gpu(major=8, minor=9):
    """Describe a GPU as TensorFlow does."""
    return {"kind": "GPU", "name": "NVIDIA L4", "compute_capability": [major, minor]}


def make_facts(found=(CPU,), nvidia=NO_NVIDIA, build=BUILD, errors=None, **results):
    """Make the facts of a machine where everything works, with changes."""
    steps = {
        "backend": "tensorflow",
        "devices": {"devices": list(found), "build": build},
        "product": 0.0,
        "xla": 0.0,
    }
    errors = errors or {}
    steps = {name: value for name, value in (steps | results).items() if name not in errors}
    return {"results": steps, "errors": errors, "nvidia": nvidia}


@pytest.fixture
def versions(monkeypatch):
    """Let a test choose which packages are installed: {name: version}."""
    installed = {
        "tensorflow": "2.21.0",
        "keras": "3.15.1",
        "numpy": "2.4.6",
        "keras-hub": "0.32.0",
        "keras-nlp": "0.32.0",
        "tensorflow-text": "2.21.1",
        "tokenizers": "0.22.0",
        "matplotlib": "3.10.0",
    }

    def version(name):
        if name not in installed:
            raise diagnosis.importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(diagnosis.importlib.metadata, "version", version)
    return installed


@pytest.fixture
def no_cuda_folders(monkeypatch):
    """Hide what pip may have installed for CUDA, and the variables about it."""
    monkeypatch.setattr(device_checks, "nvidia_folders", lambda: [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)


@pytest.fixture
def quick_doctor(monkeypatch):
    """Leave the doctor two checks and no second process; the test may change them."""
    monkeypatch.setattr(diagnosis, "MACHINE_CHECKS", {"Python": diagnosis.check_python})
    only = {"XLA": device_checks.check_xla}
    monkeypatch.setattr(device_checks, "DEVICE_CHECKS", only)
    monkeypatch.setattr(devices, "gather_facts", lambda time_limit: make_facts())
    return monkeypatch


# Packages


def test_the_tested_versions_are_fine(versions):
    for name in diagnosis.PACKAGES:
        assert diagnosis.check_package(name) == ("ok", versions[name], "")


@pytest.mark.parametrize(
    ("name", "changes", "status", "value", "advice"),
    [
        ("tensorflow-text", {"tensorflow-text": "2.21.0"}, "problem", "2.21.0", "2.21.1"),
        ("tensorflow-text", {"tensorflow-text": "2.22.0"}, "problem", "with tensorflow", "same"),
        ("tensorflow-text", {"tensorflow": "2.20.0"}, "problem", "tensorflow 2.20.0", ">=2.21"),
        ("tensorflow-text", {"tensorflow": None}, "problem", "tensorflow missing", ">=2.21"),
        ("keras-nlp", {"keras": "3.14.2"}, "problem", "0.32.0 with keras 3.14.2", "keras>=3.15"),
        ("keras-hub", {"keras": "3.9.0"}, "problem", "with keras 3.9.0", "keras>=3.15"),
        ("keras-nlp", {"keras-hub": None}, "problem", "keras-hub missing", "keras-hub>=0.32"),
        ("keras-nlp", {"keras-nlp": "0.18.1"}, "problem", "0.18.1", "Too old"),
        ("keras", {"keras": "2.15.0"}, "problem", "2.15.0", "keras>=3.15"),
        ("numpy", {"numpy": "1.26.4"}, "problem", "1.26.4", "numpy>=2"),
        ("tensorflow", {"tensorflow": "2.22.0rc1"}, "note", "2.22.0rc1", "Newer than tested"),
        ("numpy", {"numpy": None}, "problem", "not installed", "pip install"),
        ("tensorflow", {"tensorflow": None}, "problem", "not installed", "pip install"),
        ("keras-nlp", {"keras-nlp": None}, "note", "not installed", "GPT-2"),
        ("tokenizers", {"tokenizers": None}, "note", "not installed", "BPETokenizer"),
    ],
)
def test_a_version_that_does_not_fit_is_named(
    name, changes, status, value, advice, versions, monkeypatch
):
    monkeypatch.setattr(devices, "current_backend", lambda: "tensorflow")
    for package, version in changes.items():
        versions.pop(package) if version is None else versions.update({package: version})
    found = diagnosis.check_package(name)
    assert found[0] == status and value in found[1] and advice in found[2]


def test_tensorflow_is_found_under_its_other_names(versions):
    versions["tensorflow-cpu"] = versions.pop("tensorflow")
    assert diagnosis.check_package("tensorflow") == ("ok", "2.21.0", "")


def test_without_tensorflow_another_backend_is_enough(versions, monkeypatch):
    del versions["tensorflow"]
    monkeypatch.setattr(devices, "current_backend", lambda: "jax")
    assert diagnosis.check_package("tensorflow")[0] == "note"


def test_windows_learns_that_tensorflow_text_has_no_wheel(versions, monkeypatch):
    del versions["tensorflow-text"]
    monkeypatch.setattr(sys, "platform", "win32")
    status, _, advice = diagnosis.check_package("tensorflow-text")
    assert status == "note" and "Windows" in advice


# The machine


def test_an_old_python_is_a_problem(monkeypatch):
    assert diagnosis.check_python()[0] == "ok"
    assert sys.executable in diagnosis.check_python()[1]
    monkeypatch.setattr(sys, "version_info", (3, 10, 14, "final", 0))
    status, _, advice = diagnosis.check_python()
    assert status == "problem" and "3.11" in advice


def test_little_memory_is_a_note_and_a_full_disk_a_problem(monkeypatch):
    monkeypatch.setattr(diagnosis, "total_memory", lambda: 2 * 1024**3)
    assert diagnosis.check_memory()[:2] == ("note", "2.0 GB")
    monkeypatch.setattr(diagnosis, "total_memory", lambda: 8 * 1024**3)
    assert diagnosis.check_memory()[:2] == ("ok", "8.0 GB")
    for free, status in ((10**8, "problem"), (10**11, "ok")):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(diagnosis.shutil, "disk_usage", lambda path, usage=usage: usage)
        assert diagnosis.check_disk()[0] == status


def test_missing_texts_are_named(monkeypatch, tmp_path):
    assert diagnosis.check_texts()[0] == "ok"
    (tmp_path / "shakespeare.txt").write_text("To be")
    monkeypatch.setattr(tfgpt.data.texts, "DATA_FOLDER", tmp_path)
    status, value, _ = diagnosis.check_texts()
    assert status == "problem"
    assert "chinese_poems" in value and "shakespeare" not in value


def test_a_chinese_font_is_found_or_noted(monkeypatch):
    font_manager = pytest.importorskip("matplotlib.font_manager")
    name = tfgpt.plotting.figures.CJK_FONTS[-1]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [SimpleNamespace(name=name)])
    assert diagnosis.check_font() == ("ok", name, "")
    monkeypatch.setattr(
        font_manager.fontManager, "ttflist", [SimpleNamespace(name="DejaVu", fname="")]
    )
    assert diagnosis.check_font()[:2] == ("note", "none")
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    assert diagnosis.check_font()[:2] == ("note", "matplotlib not installed")


# GPU and CUDA


def test_a_machine_without_a_gpu_has_no_problem():
    for name, check in device_checks.DEVICE_CHECKS.items():
        assert check(make_facts())[0] == "ok", name


def test_a_gpu_that_works_has_no_problem(no_cuda_folders, monkeypatch):
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    monkeypatch.setattr(device_checks.shutil, "which", lambda name, path=None: "/cuda/ptxas")
    facts = make_facts([CPU, gpu()], NVIDIA)
    for name, check in device_checks.DEVICE_CHECKS.items():
        assert check(facts)[0] == "ok", name
    value = device_checks.check_gpu(facts)[1]
    assert "capability 8.9" in value and "21.5 of 22.5 GB free" in value and "550.54" in value


@pytest.mark.parametrize(
    ("capability", "status", "advice"),
    [
        ((3, 7), "problem", "TensorFlow needs 6.0"),
        ((6, 0), "ok", ""),
        ((9, 0), "ok", ""),
        ((12, 0), "note", "Newer"),
    ],
)
def test_a_gpu_too_old_or_too_new_for_tensorflow_is_named(capability, status, advice):
    found = device_checks.check_gpu(make_facts([gpu(*capability)], NVIDIA))
    assert found[0] == status and advice in found[2]


def test_a_gpu_whose_memory_is_full_is_noted():
    full = {**NVIDIA, "gpus": [{**CARD, "free": 300}]}
    status, _, advice = device_checks.check_gpu(make_facts([gpu()], full))
    assert status == "note" and "1 GB" in advice


def test_libraries_that_do_not_load_are_named_if_a_gpu_is_there(no_cuda_folders, monkeypatch):
    monkeypatch.setattr(device_checks, "failing_libraries", lambda: ["libcudnn.so.9"])
    facts = make_facts(nvidia=NVIDIA)
    status, value, advice = device_checks.check_cuda_libraries(facts)
    assert status == "problem" and "libcudnn.so.9" in value and "and-cuda" in advice
    status, value, _ = device_checks.check_gpu(facts)
    assert status == "problem" and "not used" in value

    monkeypatch.setattr(device_checks, "failing_libraries", lambda: ["libcuda.so.1"])
    assert "driver" in device_checks.check_cuda_libraries(facts)[2]
    monkeypatch.setattr(device_checks, "failing_libraries", lambda: [])
    status, value, advice = device_checks.check_cuda_libraries(facts)
    assert status == "problem" and "all load" in value and "12.5.1" in advice


def test_other_reasons_for_an_unseen_gpu_come_before_the_libraries(no_cuda_folders, monkeypatch):
    def must_not_run():
        raise AssertionError("the libraries are not the reason")

    monkeypatch.setattr(device_checks, "failing_libraries", must_not_run)
    without_cuda = make_facts(nvidia=NVIDIA, build={"is_cuda_build": False})
    status, value, _ = device_checks.check_cuda_libraries(without_cuda)
    assert status == "problem" and "without CUDA" in value
    on_jax = make_facts(nvidia=NVIDIA, backend="jax")
    assert device_checks.check_cuda_libraries(on_jax)[0] == "ok"
    assert device_checks.check_gpu(on_jax)[0] == "note"
    with monkeypatch.context() as windows:
        windows.setattr(sys, "platform", "win32")
        assert "WSL2" in device_checks.check_cuda_libraries(make_facts(nvidia=NVIDIA))[2]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    status, value, _ = device_checks.check_cuda_libraries(make_facts(nvidia=NVIDIA))
    assert status == "note" and "CUDA_VISIBLE_DEVICES" in value


def test_a_library_is_found_by_name_or_in_the_folders_of_pip(monkeypatch, tmp_path):
    monkeypatch.setattr(device_checks, "nvidia_folders", lambda: [tmp_path / "cudnn"])
    loadable = {"libcuda.so.1", "libcublas.so.12", str(tmp_path / "cudnn/lib/libcudnn.so.9")}

    def load(path):
        if path not in loadable:
            raise OSError(f"{path}: cannot open shared object file")

    found = {"libcuda.so.1", "libcublas.so.12", "libcudnn.so.9"}
    expected = [name for name in device_checks.CUDA_LIBRARIES if name not in found]
    assert device_checks.failing_libraries(load) == expected
    # The real loader: a file that is no library does not load.
    (tmp_path / "cudnn/lib").mkdir(parents=True)
    (tmp_path / "cudnn/lib/libcudnn.so.9").write_text("not a library")
    monkeypatch.setattr(device_checks, "CUDA_LIBRARIES", ("libcudnn.so.9",))
    if not device_checks.importlib.util.find_spec("nvidia"):
        assert device_checks.failing_libraries() == ["libcudnn.so.9"]


def test_ptxas_is_looked_for_on_the_path_and_in_the_folders_of_pip(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(device_checks, "nvidia_folders", lambda: [tmp_path / "cuda_nvcc"])
    facts = make_facts([gpu()], NVIDIA)
    assert device_checks.check_ptxas(facts)[:2] == ("note", "not found")
    assert device_checks.check_ptxas(make_facts())[0] == "ok"  # nobody needs it
    name = "ptxas.exe" if sys.platform == "win32" else "ptxas"
    program = tmp_path / "cuda_nvcc" / "bin" / name
    program.parent.mkdir(parents=True)
    program.write_text("")
    program.chmod(0o755)
    assert device_checks.check_ptxas(facts) == ("ok", str(program), "")


@pytest.mark.parametrize(
    ("output", "returncode", "gpus", "error"),
    [
        ("NVIDIA L4, 23034, 22000, 550.54\n", 0, [CARD], ""),
        (
            "NVIDIA GB10, [N/A], [N/A], 580.1\n",
            0,
            [{"name": "NVIDIA GB10", "total": None, "free": None, "driver": "580.1"}],
            "",
        ),
        ("NVIDIA-SMI has failed.\nIs it running?\n", 9, [], "NVIDIA-SMI has failed."),
    ],
)
def test_nvidia_smi_is_read(output, returncode, gpus, error, monkeypatch):
    process = SimpleNamespace(stdout=output, stderr="", returncode=returncode)
    monkeypatch.setattr(devices.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(devices.subprocess, "run", lambda *args, **options: process)
    monkeypatch.setattr(devices.Path, "exists", lambda path: False)
    found = devices.find_nvidia_gpus()
    assert found == {"present": bool(gpus), "gpus": gpus, "error": error}
    status, value, _ = device_checks.check_gpu(make_facts([gpu()] if gpus else [CPU], found))
    assert status == ("note" if error else "ok") and error in value


class FakeConfig:
    """TensorFlow's settings of one GPU; `used`: too late to change."""

    def __init__(self, growth=None, used=False):
        self.growth, self.used, self.experimental = growth, used, self

    def list_physical_devices(self, kind):
        return ["GPU:0"]

    def get_memory_growth(self, gpu):
        return self.growth

    def set_memory_growth(self, gpu, enable):
        if self.used and enable != self.growth:
            raise RuntimeError("Physical devices cannot be modified after being initialized")
        self.growth = enable


@pytest.mark.parametrize(
    ("growth", "used", "status", "text"),
    [
        (None, False, "note", "at first use"),
        (None, True, "note", "too late"),
        (True, True, "ok", "on"),
    ],
)
def test_memory_growth_is_reported_and_not_changed(
    growth, used, status, text, no_cuda_folders, monkeypatch
):
    config = FakeConfig(growth, used)
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(config=config))
    found = device_checks.check_memory_growth(make_facts([gpu()], NVIDIA))
    assert found[0] == status and text in found[1]
    assert config.growth is growth


def test_memory_growth_is_set_before_first_use_and_refused_after(monkeypatch):
    config = FakeConfig()
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(config=config))
    assert devices.set_memory_growth() == 1
    assert config.growth is True
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(config=FakeConfig(used=True)))
    with pytest.raises(RuntimeError, match="before the first tensor.*restart Python"):
        devices.set_memory_growth()


# The second process


def run_python(code, time_limit=30.0):
    """Gather facts with a few lines of Python in place of the real steps."""
    return devices.gather_facts(time_limit, [sys.executable, "-c", code])


LINES = "".join(
    f"print({json.dumps(json.dumps({'step': step, 'result': result}))}, flush=True)\n"
    for step, result in (
        ("backend", "tensorflow"),
        ("devices", {"devices": [], "build": {}}),
        ("product", 0.0),
    )
)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_a_compiler_that_kills_its_process_is_a_problem_of_xla_only():
    code = "import os, sys\nprint('LLVM ERROR: out of luck', file=sys.stderr, flush=True)\n"
    facts = run_python(LINES + code + "os.abort()")
    status, value, advice = device_checks.check_xla(facts)
    assert status == "problem"
    assert value == "stopped by SIGABRT: LLVM ERROR: out of luck"
    assert "jit_compile=False" in advice
    assert device_checks.check_product(facts) == ("ok", "equals NumPy's", "")
    assert device_checks.check_backend(facts)[0] == "ok"


@pytest.mark.slow
def test_a_compiler_that_hangs_is_stopped():
    start = time.monotonic()
    facts = run_python(LINES + "import time\ntime.sleep(60)", time_limit=2)
    assert time.monotonic() - start < 15
    status, value, advice = device_checks.check_xla(facts)
    assert (status, value) == ("problem", "no answer within 2 s") and "time_limit" in advice
    assert device_checks.check_product(facts)[0] == "ok"


def test_a_process_that_ends_at_once_is_a_problem_and_the_rest_is_not_run():
    facts = run_python("raise SystemExit('ImportError: numpy is broken')")
    status, value, _ = device_checks.check_backend(facts)
    assert status == "problem" and "numpy is broken" in value and "exit code 1" in value
    for check in (device_checks.check_devices, device_checks.check_xla):
        assert check(facts)[:2] == ("note", "not run")


def test_a_line_cut_in_the_middle_is_no_result():
    results, errors = devices.read_steps('noise\n{"step": "backend", "res', "stopped by SIGKILL")
    assert (results, errors) == ({}, {"backend": "stopped by SIGKILL"})
    assert "memory" in device_checks.check_backend(make_facts(errors=errors))[2]


def test_a_step_that_raises_does_not_stop_the_next(monkeypatch, capsys):
    def fail():
        raise RuntimeError("libdevice not found at ./libdevice.10.bc\nmore")

    steps = {"backend": lambda: "tensorflow", "product": fail, "xla": lambda: 0.0}
    monkeypatch.setattr(devices, "STEPS", steps)
    devices.run_steps()
    results, errors = devices.read_steps(capsys.readouterr().out, "end")
    assert results == {"backend": "tensorflow", "xla": 0.0}
    assert errors == {"product": "RuntimeError: libdevice not found at ./libdevice.10.bc"}
    assert "and-cuda" in device_checks.check_product(make_facts(errors=errors))[2]

    monkeypatch.setattr(devices, "STEPS", {"backend": fail, "xla": lambda: 0.0})
    devices.run_steps()
    assert devices.read_steps(capsys.readouterr().out, "end")[0] == {}


def test_the_product_is_compared_with_numpy():
    assert devices.run_product() == 0.0
    assert devices.run_xla() == 0.0

    def one_wrong_number(a, b):
        result = keras.ops.convert_to_numpy(devices.product(a, b)).copy()
        result[5, 7] += 1.0
        return result

    assert devices.compare_product(one_wrong_number) == 1.0
    assert np.isnan(devices.compare_product(lambda a, b: devices.product(a, b) * np.nan))


@pytest.mark.parametrize("difference", [1.0, float("nan")])
def test_a_wrong_product_is_a_problem(difference):
    for name, check in (("product", device_checks.check_product), ("xla", device_checks.check_xla)):
        status, value, _ = check(make_facts(**{name: difference}))
        assert status == "problem" and "differs" in value


def test_the_second_process_uses_the_backend_of_this_one_and_little_gpu_memory(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "changed-too-late")
    seen = {}

    def run(command, **options):
        seen.update(options["env"])
        return SimpleNamespace(stdout=b"", stderr=b"", returncode=0)

    monkeypatch.setattr(devices.subprocess, "run", run)
    monkeypatch.setattr(devices, "find_nvidia_gpus", lambda: NO_NVIDIA)
    devices.gather_facts()
    assert seen["KERAS_BACKEND"] == keras.backend.backend()
    assert seen["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert seen["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


# The report


def test_the_doctor_prints_aligned_lines_and_returns_the_records(quick_doctor, capsys):
    report = tfgpt.doctor()
    lines = capsys.readouterr().out.splitlines()
    assert [check.name for check in report] == ["Python", "XLA"]
    assert lines[0].startswith("ok      Python             3.")
    assert lines[1] == "ok      XLA                equals NumPy's"
    assert report.problems == [] and repr(report) == "2 checks, problems: none."
    tfgpt.doctor(show=False)
    assert capsys.readouterr().out == ""


def test_a_check_that_fails_itself_becomes_a_problem(quick_doctor, capsys):
    def fail(*facts):
        raise KeyError("no such thing")

    quick_doctor.setattr(diagnosis, "MACHINE_CHECKS", {"first": fail})
    quick_doctor.setattr(device_checks, "DEVICE_CHECKS", {"second": fail})
    report = tfgpt.doctor()
    assert report.problems == ["first", "second"]
    assert report[0].value == "KeyError: 'no such thing'"
    assert "KeyError" in capsys.readouterr().out


def test_a_second_process_that_cannot_start_becomes_a_problem(quick_doctor):
    def fail(time_limit):
        raise PermissionError("not allowed")

    quick_doctor.setattr(devices, "gather_facts", fail)
    checks = {"Keras backend": device_checks.check_backend, "GPU": device_checks.check_gpu}
    quick_doctor.setattr(device_checks, "DEVICE_CHECKS", checks)
    report = tfgpt.doctor(show=False)
    assert report.problems == ["Keras backend"]
    assert "not allowed" in report[1].value


def test_the_doctor_prints_where_the_terminal_lacks_characters(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    diagnosis.print_line("/home/\u6a21")
    assert terminal.buffer.getvalue().strip() == b"/home/\\u6a21"


def test_the_time_limit_must_be_positive_and_is_passed_on(quick_doctor):
    limits = []

    def gather(time_limit):
        limits.append(time_limit)
        return make_facts()

    quick_doctor.setattr(devices, "gather_facts", gather)
    tfgpt.doctor(show=False, time_limit=7)
    assert limits == [7]
    with pytest.raises(ValueError, match="time_limit must be > 0 seconds, got 0"):
        tfgpt.doctor(time_limit=0)


@pytest.mark.parametrize(("difference", "code"), [(0.0, 0), (2.0, 1)])
def test_the_command_prints_json_or_lines_and_its_exit_code_tells(
    difference, code, quick_doctor, capsys
):
    facts = make_facts(xla=difference)
    quick_doctor.setattr(devices, "gather_facts", lambda time_limit: facts)
    assert cli.main(["doctor", "--json"]) == code
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == ("problem" if code else "ok")
    assert [check["name"] for check in report["checks"]] == ["Python", "XLA"]
    assert set(report["checks"][1]) == {"name", "status", "value", "advice"}

    assert cli.main(["doctor"]) == code
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"2 checks, problems: {'XLA' if code else 'none'}."


def test_wrong_options_keep_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["doctor", "--jsno"])
    assert stopped.value.code == 2
    assert "--jsno" in capsys.readouterr().err


@pytest.mark.slow
def test_the_doctor_runs_on_this_machine(tmp_path):
    command = [sys.executable, "-m", "tfgpt", "doctor", "--json"]
    process = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=300, cwd=tmp_path
    )
    report = json.loads(process.stdout)
    assert process.returncode == (report["status"] == "problem")
    found = {check["name"]: check for check in report["checks"]}
    assert list(found) == [*diagnosis.MACHINE_CHECKS, *device_checks.DEVICE_CHECKS]
    for name in ("Python", "tensorflow", "keras", "numpy", "bundled texts", "Keras backend"):
        assert found[name]["status"] != "problem", found[name]
    for name in ("matrix product", "XLA"):
        assert found[name]["value"] == "equals NumPy's", found[name]
    for check in report["checks"]:
        assert check["status"] in ("ok", "note", "problem") and "\n" not in check["advice"]
        assert check["advice"] or check["status"] == "ok"


@pytest.mark.slow
def test_as_a_file_it_says_why_tensorflow_cannot_be_imported(tmp_path):
    # Put in front of the real one: a TensorFlow that breaks on import.
    (tmp_path / "tensorflow.py").write_text("raise ImportError('DLL load failed')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "KERAS_BACKEND": "tensorflow"}
    process = subprocess.run(
        [sys.executable, str(Path(diagnosis.__file__))],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        env=environment,
    )
    assert process.returncode == 1
    assert "problem Keras backend      ImportError: DLL load failed" in process.stdout
    count = len(diagnosis.MACHINE_CHECKS) + len(device_checks.DEVICE_CHECKS)
    assert process.stdout.splitlines()[-1].startswith(f"{count} checks, problems: ")
