"""Compilers: how a function of a model becomes a program, on each backend.

On TensorFlow it is XLA, with a plain tf.function where XLA fails; on JAX, jax.jit.
"""

import sys
import threading
from contextlib import contextmanager

import keras

from tfgpt.machine.devices import warn_without_xla

NOTICE = "Compiling the decoding loop; this happens once per batch size and kind of sampler."
NOTICE_AFTER = 1.0  # seconds


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
            warn_without_xla(error.message, stacklevel=3)
            programs.append(trace(False, arguments))
            return programs[-1](*arguments)

    return run


@contextmanager
def notice_if_slow():
    """Say on stderr that something is compiled, once, if the block takes over a second."""
    timer = threading.Timer(NOTICE_AFTER, lambda: print(NOTICE, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
