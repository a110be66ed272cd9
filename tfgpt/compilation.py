"""Compilers: how a function of a model becomes a program, on each backend, and where it is kept.

On TensorFlow it is XLA, with a plain tf.function where XLA fails; on JAX, jax.jit.
"""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import keras
from keras import ops

from tfgpt.machine.devices import warn_without_xla

NOTICE = "Compiling the decoding loop; this happens once per batch size and kind of sampler."
NOTICE_AFTER = 1.0  # seconds


@dataclass(frozen=True)
class Program:
    """A compiled function of a model.

    Args:
        run: function of tensors of fixed shapes.
        compile_seconds: float, how long it took to compile, its first call included.
    """

    run: Callable
    compile_seconds: float


@dataclass
class ProgramStore:
    """The programs of one model, as its variables are now."""

    variables: list
    programs: dict


def programs_of(model):
    """List the programs that were compiled for a model as it is: list of Program."""
    return list(store_of(model).programs.values())


def store_of(model):
    """Return the store of a model; an empty one if its variables are others than before.

    `enable_lora`, `quantize` or an adapter gives a model other variables, and a program
    would go on with the old ones.
    """
    variables = list(model.variables)
    # Kept with the model, so that the programs live as long as its weights. Keras does
    # not track, save or copy what is written here.
    store = model.__dict__.get("program_store")
    if store is None or not are_same(store.variables, variables):
        store = model.__dict__["program_store"] = ProgramStore(variables, {})
    return store


def are_same(first, second):
    """Say whether two lists hold the same objects."""
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))


def compiled(model, function, arguments, *settings, first_arguments=None):
    """Return the program of function(model, *arguments, *settings) for these shapes.

    Args:
        model: the model that the function uses.
        function: function of the model, tensors and settings; returns tensors.
        arguments: tuple of tensors or of dicts, tuples and lists of them.
        *settings: what is fixed in the program, such as the number of beams.
        first_arguments: arguments of the first call, which compiles: those that give
            it the least to do; None: `arguments`.

    Returns:
        Program.
    """
    programs = store_of(model).programs
    shapes = [(tuple(x.shape), str(x.dtype)) for x in keras.tree.flatten(arguments)]
    key = (function.__module__, function.__name__, settings, model.compute_dtype, *shapes)
    if key not in programs:

        def program(*arguments):
            return function(model, *arguments, *settings)

        started = time.perf_counter()
        with notice_if_slow():
            run = compile_for(model, program, arguments)
            run(*(arguments if first_arguments is None else first_arguments))
        programs[key] = Program(run, time.perf_counter() - started)
    return programs[key]


def run_compiled(model, function, arguments, *settings):
    """Run function(model, *arguments, *settings), compiled once for these shapes."""
    arguments = keras.tree.map_structure(ops.convert_to_tensor, arguments)
    return compiled(model, function, arguments, *settings).run(*arguments)


def compile_for(model, function, arguments):
    """Compile a function of the model with the compiler of the backend."""
    if keras.backend.backend() == "tensorflow":
        return compile_with_xla(function, arguments)
    if keras.backend.backend() == "jax":
        import jax

        # The weights are arguments: as constants they would be copied into the program.
        @jax.jit
        def stateless(values, *arguments):
            with keras.StatelessScope(zip(model.variables, values, strict=True)):
                return function(*arguments)

        return lambda *arguments: stateless([v.value for v in model.variables], *arguments)
    return function


def compile_with_xla(function, arguments):
    """Compile a function with XLA; where XLA fails, run it as a plain tf.function.

    Args:
        function: function of tensors.
        arguments: tensors; only their shapes and dtypes count.

    Returns:
        function of tensors of these shapes. If XLA fails in its first call, it warns
        once and gives the same result more slowly.
    """
    import tensorflow as tf

    def trace(jit_compile, arguments):
        return tf.function(
            function, jit_compile=jit_compile, autograph=False
        ).get_concrete_function(*arguments)

    programs = [trace(True, arguments)]

    def run(*arguments):
        try:
            return programs[-1](*arguments)
        except tf.errors.OpError as error:
            if len(programs) == 2:
                raise
            warn_without_xla(error.message)
            programs.append(trace(False, arguments))
            return programs[-1](*arguments)

    return run


@contextmanager
def notice_if_slow():
    """Say in a terminal that something is compiled, if the block takes over a second."""
    if not sys.stderr.isatty():
        yield
        return
    timer = threading.Timer(NOTICE_AFTER, lambda: print(NOTICE, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
