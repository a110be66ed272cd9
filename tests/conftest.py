"""What all tests share: quiet logs, one seed, and a mark for TensorFlow's own features."""

import json
import os
import shutil
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Most tests run a program a few times: compiling it fast counts, not how fast it is.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402


def pytest_configure(config):
    # A shell that runs a command in the background starts it with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers",
        "requires_tensorflow: uses tf.function, XLA, GradientTape or export; skipped elsewhere",
    )
    # Keras's TensorFlow variables do not know NumPy 2's copy keyword; nothing depends on it.
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning")


def pytest_collection_modifyitems(items):
    if keras.backend.backend() == "tensorflow":
        return
    skip = pytest.mark.skip(reason="needs KERAS_BACKEND=tensorflow")
    for item in items:
        if "requires_tensorflow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def seed():
    """Start every test from the same random state, whatever ran before it."""
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """On JAX, free what a file of tests compiled: gigabytes at the end otherwise."""
    yield
    if keras.backend.backend() == "jax":
        import jax

        jax.clear_caches()


@pytest.fixture
def rng():
    """NumPy's random numbers, the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Make something for all workers of a run: a name and a function -> what JSON can hold."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    def make_once(name, make):
        import fcntl  # of Linux and macOS

        path = folder / f"{name}.json"
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the others wait
            if not path.exists():
                path.write_text(json.dumps(make()), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    return make_once


@pytest.fixture(scope="session")
def browser():
    """Chromium, or the test is skipped."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install 'tfgpt[browser]'"
    )
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox", "--headless", "--disable-gpu", "--no-first-run"]
        arguments += ["--disable-background-networking", "--disable-component-update"]
        arguments += ["--disable-sync"]
        chromium = started.chromium.launch(executable_path=path, args=arguments)
        yield chromium
        chromium.close()
