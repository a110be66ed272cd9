"""Bottleneck adapters and IA3: a small network, or a scale, behind a Dense layer."""

from dataclasses import dataclass

import keras
from keras import ops

from tfgpt.tuning.adapters import AdapterLayer
from tfgpt.validation import check_positive


@dataclass(frozen=True)
class Bottleneck:
    """Settings of Houlsby's adapters: y + up(activation(down(y))) behind both sublayers.

    The second product starts near zero, so an adapted model begins almost as its base.

    Args:
        size: int >= 1, the width of the bottleneck.
        activation: name of an activation function.
        layers: str, regular expression of the paths of Dense layers; by default those that
            write to the residual stream.

    Raises:
        ValueError: if an argument is outside its range.

    Source: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP" (2019), figure 2.
    """

    size: int = 16
    activation: str = "gelu"
    layers: str = r"(attention/output|feed_forward/contract)$"

    def __post_init__(self):
        check_positive("size", self.size)
        keras.activations.get(self.activation)

    def make_layer(self, dense, name):
        """Make the adapter of one Dense layer."""
        return BottleneckLayer(dense, self, name)


class BottleneckLayer(AdapterLayer):
    """y + up(activation(down(y))) behind one Dense layer."""

    def __init__(self, dense, settings, name):
        super().__init__(dense, name)
        self.size = settings.size
        self.activation = keras.activations.get(settings.activation)

    def build(self, x_shape):
        width, small = self.sizes[1], keras.initializers.RandomNormal(stddev=1e-3)
        self.down = self.add_weight((width, self.size), "glorot_uniform", name="down")
        self.down_bias = self.add_weight((self.size,), "zeros", name="down_bias")
        self.up = self.add_weight((self.size, width), small, name="up")
        self.up_bias = self.add_weight((width,), "zeros", name="up_bias")

    def adapted(self, x, training):
        y = self.product(x)  # (B, T, K)
        hidden = self.activation(ops.matmul(y, self.down) + self.down_bias)  # (B, T, size)
        return y + ops.matmul(hidden, self.up) + self.up_bias


@dataclass(frozen=True)
class IA3:
    """Settings of IA3: one trained factor per output of keys, values and the first product.

    Args:
        layers: str, regular expression of the paths of Dense layers.

    Source: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than
    In-Context Learning" (2022), section 3.3; the factor of the feed-forward network stands
    here before its activation.
    """

    layers: str = r"(attention/(key|value)|feed_forward/expand)$"

    def make_layer(self, dense, name):
        """Make the adapter of one Dense layer."""
        return IA3Layer(dense, name)


class IA3Layer(AdapterLayer):
    """A factor for each output of one Dense layer."""

    def build(self, x_shape):
        self.factor = self.add_weight(self.sizes[1:], "ones", name="factor")

    def adapted(self, x, training):
        return self.product(x) * self.factor

    def merged(self):
        bias = self.dense.bias
        kernel = self.dense.kernel * self.factor
        return kernel, None if bias is None else bias * self.factor
