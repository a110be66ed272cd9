"""AdaLoRA: LoRA in the form of a singular value decomposition, which loses what matters least.

The change of a kernel is P diag(e) Q. While it trains, the numbers e of least importance are
set to zero over all layers, until `target_rank` per layer are left on average.
"""

from dataclasses import dataclass

import keras
from keras import ops

from tfgpt.tuning.adapters import AdapterLayer
from tfgpt.tuning.lora import ATTENTION
from tfgpt.validation import check_positive, check_rate


@dataclass(frozen=True)
class AdaLoRA:
    """Settings of AdaLoRA.

    Train it with the optimizer that `make_optimizer` returns, which holds the budget.

    Args:
        rank: int >= 1, at the start.
        target_rank: int in [1, rank], at the end, on average over the layers.
        alpha: float > 0, the weight of the change; None: 2 rank.
        orthogonality: float >= 0, the weight of |P'P - 1|^2 + |QQ' - 1|^2 in the loss.
        layers: str, regular expression of the paths of Dense layers.

    Raises:
        ValueError: if an argument is outside its range.

    Source: Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient
    Fine-Tuning" (2023), sections 3.1 to 3.3.
    """

    rank: int = 12
    target_rank: int = 8
    alpha: float | None = None
    orthogonality: float = 0.1
    layers: str = ATTENTION

    def __post_init__(self):
        check_positive("rank", self.rank)
        check_positive("target_rank", self.target_rank)
        if self.target_rank > self.rank:
            raise ValueError(
                f"target_rank must be at most rank={self.rank}, got {self.target_rank}."
            )
        if not self.orthogonality >= 0:
            raise ValueError(f"orthogonality must be >= 0, got {self.orthogonality!r}.")

    @property
    def scale(self):
        """alpha / rank."""
        return 2.0 if self.alpha is None else self.alpha / self.rank

    def make_layer(self, dense, name):
        """Make the adapter of one Dense layer."""
        return AdaLoRALayer(dense, self, name)

    def make_optimizer(self, adapters, steps, learning_rate=1e-3, **options):
        """Make AdamW that also measures importance and holds the budget.

        Args:
            adapters: Adapters with these settings.
            steps: int >= 1, how long the training is: the budget falls from a tenth on and
                stays for the last third.
            learning_rate: float or schedule.
            **options: further arguments of BudgetAdamW.

        Returns:
            BudgetAdamW.
        """
        return BudgetAdamW(adapters, steps, learning_rate=learning_rate, **options)


class AdaLoRALayer(AdapterLayer):
    """W x + scale P diag(e) Q x beside one Dense layer."""

    def __init__(self, dense, settings, name):
        super().__init__(dense, name)
        self.settings = settings

    def build(self, x_shape):
        inputs, outputs = self.sizes
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.p = self.add_weight((inputs, self.settings.rank), normal, name="p")
        self.e = self.add_weight((self.settings.rank,), "zeros", name="e")
        self.q = self.add_weight((self.settings.rank, outputs), normal, name="q")

    def adapted(self, x, training):
        if self.settings.orthogonality and training:
            self.add_loss(self.settings.orthogonality * self.distance_from_orthogonal())
        change = ops.matmul(ops.matmul(x, self.p) * self.e, self.q)
        return self.product(x) + change * self.settings.scale

    def distance_from_orthogonal(self):
        """Compute |P'P - 1|^2 + |QQ' - 1|^2: a scalar."""
        p, q = (ops.convert_to_tensor(weight, "float32") for weight in (self.p, self.q))
        products = ops.matmul(ops.transpose(p), p), ops.matmul(q, ops.transpose(q))
        return sum(ops.sum(ops.square(x - ops.eye(self.settings.rank))) for x in products)

    def merged(self):
        change = ops.matmul(self.p * self.e, self.q) * self.settings.scale
        return ops.convert_to_tensor(self.dense.kernel, "float32") + change, self.dense.bias


class BudgetAdamW(keras.optimizers.AdamW):
    """AdamW that gives the rank to the layers that need it.

    After each step it measures how much each weight w with gradient g matters, |w g|,
    smooths that over the steps, and sets the e of the least important triplets to zero.

    Args:
        adapters: Adapters with AdaLoRA's layers.
        steps: int >= 1, the length of the training.
        smoothing: float in [0, 1), of the importance (beta 1 and 2 of the paper).
        start: float in [0, 1), the share of the steps with the whole budget.
        end: float in [0, 1), the share of the steps with the final budget.
        **options: those of AdamW.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(self, adapters, steps, smoothing=0.85, start=0.1, end=0.33, **options):
        super().__init__(**options)
        self.steps = check_positive("steps", steps)
        self.smoothing = check_rate("smoothing", smoothing)
        self.start, self.end = check_rate("start", start), check_rate("end", end)
        if start + end >= 1:
            raise ValueError(f"start and end must sum to less than 1, got {start} and {end}.")
        self.adapters = list(adapters.layers.values())
        settings = adapters.settings
        self.budgets = tuple(
            len(self.adapters) * rank for rank in (settings.rank, settings.target_rank)
        )

    def build(self, variables):
        super().build(variables)
        places = {id(weight): place for place, weight in enumerate(variables)}
        # (place of P, e and Q in the variables) of each layer
        self.triplets = [
            tuple(places[id(weight)] for weight in (layer.p, layer.e, layer.q))
            for layer in self.adapters
        ]
        kept = [variables[place] for triplet in self.triplets for place in triplet]
        self.sensitivity, self.uncertainty = (
            [self.add_variable_from_reference(weight, name=name) for weight in kept]
            for name in ("sensitivity", "uncertainty")
        )

    def apply(self, grads, trainable_variables=None):
        """Learn, then measure importance and hold the budget."""
        super().apply(grads, trainable_variables)
        variables = trainable_variables or self._trainable_variables
        self.measure(grads, variables)
        threshold = self.threshold()
        for triplet, importance in zip(self.triplets, self.importances(), strict=True):
            e = variables[triplet[1]]
            e.assign(e * ops.cast(importance >= threshold, e.dtype))

    def measure(self, grads, variables):
        """Smooth |w g| and how much it changes, for each weight of the triplets."""
        places = [place for triplet in self.triplets for place in triplet]
        for place, sensitivity, uncertainty in zip(
            places, self.sensitivity, self.uncertainty, strict=True
        ):
            now = ops.abs(variables[place] * ops.cast(grads[place], "float32"))
            smooth = self.smoothing * sensitivity + (1 - self.smoothing) * now
            change = ops.abs(now - smooth)
            uncertainty.assign(self.smoothing * uncertainty + (1 - self.smoothing) * change)
            sensitivity.assign(smooth)

    def importances(self):
        """List the importance of the triplets of each layer, (r,) each."""
        scores = [s * u for s, u in zip(self.sensitivity, self.uncertainty, strict=True)]
        return [
            scores[i + 1] + ops.mean(scores[i], axis=0) + ops.mean(scores[i + 2], axis=1)
            for i in range(0, len(scores), 3)
        ]

    def threshold(self):
        """Return the importance of the last triplet that fits the budget of this step."""
        ranked = ops.flip(ops.sort(ops.concatenate(self.importances())))
        return ops.take(ranked, self.budget() - 1)

    def budget(self):
        """Return how many triplets may be kept now: it falls with the cube of the time left."""
        first, last = self.budgets
        begin, stop = self.start * self.steps, (1 - self.end) * self.steps
        time = ops.clip((ops.cast(self.iterations, "float32") - begin) / (stop - begin), 0.0, 1.0)
        return ops.cast(ops.round(last + (first - last) * (1 - time) ** 3), "int32")
