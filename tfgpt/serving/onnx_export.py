"""A model as an ONNX file: token ids in, logits out, for onnxruntime and other engines."""

import importlib.util
from pathlib import Path

import keras
from keras import ops

from tfgpt.bundle import replaced_file
from tfgpt.layers import FeedForward
from tfgpt.machine.quiet import quiet_start
from tfgpt.precision import cast_model


def export_onnx(model, path):
    """Write the full pass of a model as an ONNX file, in float32.

    It has no cache: each call reads the whole text, so it is for scoring texts and for
    engines that LiteRT does not reach. For writing texts `export_litert` is many times faster.

    Args:
        model: GPT, whose file takes ids int32 (B, T); or Transformer, whose file takes
            inputs_source (B, S) and inputs_target (B, T). Any B, S and T will do.
        path: file to write, best with the ending .onnx. The tokenizer is not in it.

    Returns:
        Path, the file. Its output is float32 (B, T, V).

    Raises:
        ImportError: if tf2onnx is not installed.
        TypeError: if the model is no GPT or Transformer.
        ValueError: if the model is quantized.
    """
    check_converter()
    model = cast_model(model, "float32")
    for layer in model._flatten_layers():
        if isinstance(layer, FeedForward) and layer.activation is keras.activations.gelu:
            layer.activation = gelu_by_erf
    with replaced_file(Path(path)) as beside, quiet_start():
        model.export(str(beside), format="onnx", verbose=False)
    return Path(path)


def check_converter():
    """Raise unless tf2onnx is installed."""
    if importlib.util.find_spec("tf2onnx") is None:
        raise ImportError('export_onnx needs tf2onnx: pip install "tfgpt[onnx]".')


def gelu_by_erf(x):
    """Compute the exact GELU with erf: tf2onnx does not know erfc, which Keras takes."""
    return 0.5 * x * (1 + ops.erf(x * 2**-0.5))
