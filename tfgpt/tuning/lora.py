"""LoRA and DoRA: the change of a kernel as a product of two thin matrices."""

from dataclasses import dataclass

import keras
from keras import ops

from tfgpt.tuning.adapters import AdapterLayer
from tfgpt.validation import check_positive, check_rate

ATTENTION = r"attention/(query|value)$"  # what the paper adapts


@dataclass(frozen=True)
class LoRA:
    """Settings of LoRA: W x + (alpha / rank) B A x, only A and B are trained.

    B starts at zero, so an adapted model begins as its base.

    Args:
        rank: int >= 1, r.
        alpha: float > 0, the weight of the change; None: 2 r.
        dropout: float in [0, 1), on the input of A.
        layers: str, regular expression of the paths of Dense layers.
        dora: bool, DoRA: the change gives each column of the kernel its direction, and a
            trained magnitude its length.

    Raises:
        ValueError: if an argument is outside its range.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), section
    4.1; Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" (2024), equation 5.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    layers: str = ATTENTION
    dora: bool = False

    def __post_init__(self):
        check_positive("rank", self.rank)
        check_rate("dropout", self.dropout)
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"alpha must be > 0 or None, got {self.alpha!r}.")

    @property
    def scale(self):
        """alpha / rank."""
        return 2.0 if self.alpha is None else self.alpha / self.rank

    def make_layer(self, dense, name):
        """Make the adapter of one Dense layer."""
        return (DoRALayer if self.dora else LoRALayer)(dense, self, name)


class LoRALayer(AdapterLayer):
    """W x + scale B A x beside one Dense layer."""

    def __init__(self, dense, settings, name):
        super().__init__(dense, name)
        self.settings = settings
        self.dropout = keras.layers.Dropout(settings.dropout)

    def build(self, x_shape):
        inputs, outputs = self.sizes
        self.a = self.add_weight((inputs, self.settings.rank), "he_uniform", name="a")
        self.b = self.add_weight((self.settings.rank, outputs), "zeros", name="b")

    def change(self, x, training):
        """Compute scale B A x: (B, T, D) -> (B, T, r) -> (B, T, K)."""
        x = self.dropout(x, training=training)
        return ops.matmul(ops.matmul(x, self.a), self.b) * self.settings.scale

    def adapted(self, x, training):
        return self.product(x) + self.change(x, training)

    def change_of_kernel(self):
        """Return scale A B, (D, K)."""
        a, b = (ops.convert_to_tensor(weight, "float32") for weight in (self.a, self.b))
        return ops.matmul(a, b) * self.settings.scale

    def merged(self):
        kernel = ops.convert_to_tensor(self.dense.kernel, "float32")
        return kernel + self.change_of_kernel(), self.dense.bias


class DoRALayer(LoRALayer):
    """m V / |V| x with V = W + scale A B, column by column, beside one Dense layer."""

    def __init__(self, dense, settings, name):
        super().__init__(dense, settings, name)
        if self.is_quantized:
            raise ValueError(f"dora needs kernels that are not quantized, got {dense.path}.")

    def build(self, x_shape):
        super().build(x_shape)
        self.magnitude = self.add_weight(self.sizes[1:], "ones", name="magnitude")
        self.magnitude.assign(self.lengths())

    def lengths(self):
        """Return the length of each column of W + scale A B: (K,)."""
        kernel = ops.convert_to_tensor(self.dense.kernel, "float32")
        return ops.sqrt(ops.sum(ops.square(kernel + self.change_of_kernel()), axis=0))

    def factor(self):
        """Return m / |V|, (K,); the length counts as a constant, as in the paper."""
        return ops.convert_to_tensor(self.magnitude, "float32") / ops.stop_gradient(self.lengths())

    def adapted(self, x, training):
        factor = ops.cast(self.factor(), self.compute_dtype)
        product = ops.matmul(x, self.dense.kernel)
        output = (product + self.change(x, training)) * factor
        return output if self.dense.bias is None else output + self.dense.bias

    def merged(self):
        return super().merged()[0] * self.factor(), self.dense.bias
