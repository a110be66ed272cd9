"""Which weights of a model learn, and how: full, the last blocks, or adapters."""

from dataclasses import dataclass, replace

import keras

from tfgpt.schedules import WarmupLinearDecay
from tfgpt.tuning import (
    IA3,
    AdaLoRA,
    Bottleneck,
    GradualUnfreezing,
    LayerwiseAdamW,
    LoRA,
    PrefixTuning,
    PromptTuning,
    adapt,
    freeze_all_but_last,
)
from tfgpt.validation import check_choice, check_integer, check_positive, check_rate

# The highest learning rate of each: the fewer weights, the higher.
RATES = {
    "full": 7e-4,
    "last-n": 5e-4,
    "lora": 3e-3,
    "dora": 3e-3,
    "adalora": 3e-3,
    "adapter": 2e-3,
    "ia3": 1e-2,
    "prefix": 5e-3,
    "prompt": 3e-2,
}
METHODS = tuple(RATES)
# What a task changes: epochs, texts per step, a factor of the rate, and dropout. Short texts
# and few examples need more and smaller steps.
TASK_DEFAULTS = {
    "classify": (3, 32, 1.0, 0.2),
    "tag": (10, 16, 3.0, 0.1),
    "qa": (6, 32, 1.0, 0.1),
    "summarise": (2, 32, 1.0, 0.1),
    "chat": (4, 32, 1.0, 0.1),
    "lm": (1, 16, 1.0, 0.1),
}
CLIP = 1.0  # the largest norm of all gradients together


@dataclass(frozen=True)
class MethodSettings:
    """How a model is fine-tuned.

    Args:
        method: "full"; "last-n" blocks; "lora", "dora", "adalora", "adapter" (bottlenecks),
            "ia3", "prefix" or "prompt".
        epochs: int >= 1, at most; None: that of TASK_DEFAULTS.
        batch_size: int >= 1, texts; None: the same.
        learning_rate: float > 0, the highest; None: that of RATES times a factor of the task.
        last: int >= 1, blocks that learn with "last-n".
        rank: int >= 1, of LoRA, DoRA and AdaLoRA; the width of a bottleneck; the length of
            a prefix or prompt.
        layers: str, pattern of the Dense layers that are adapted; None: that of the method.
        decay: float in (0, 1], by which the rate falls from block to block with "full".
        gradual: bool, with "full": one more block learns with each epoch.
        patience: int >= 0, epochs without improvement before the training stops.
        dropout: float in [0, 1), of the head, and of the whole model with "full"; None: that
            of TASK_DEFAULTS.
        class_weights: bool, rare classes count as much as frequent ones.

    Raises:
        ValueError: if an argument is outside its range.
    """

    method: str = "lora"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    last: int = 1
    rank: int = 8
    layers: str | None = None
    decay: float = 1.0
    gradual: bool = False
    patience: int = 2
    dropout: float | None = None
    class_weights: bool = False

    def __post_init__(self):
        check_choice("method", self.method, METHODS)
        for name in ("epochs", "batch_size", "last", "rank"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        check_integer("patience", self.patience, minimum=0)
        if self.dropout is not None:
            check_rate("dropout", self.dropout)
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0 or None, got {self.learning_rate!r}.")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be in (0, 1], got {self.decay!r}.")
        if (self.decay < 1 or self.gradual) and self.method != "full":
            raise ValueError(f"decay and gradual need the method 'full', got {self.method!r}.")
        if self.layers is not None and self.adapter_settings() is None:
            raise ValueError(f"layers needs a method with adapters, got {self.method!r}.")

    def for_task(self, task):
        """Fill in what is None with the defaults of a task and the method: MethodSettings."""
        epochs, batch_size, factor, dropout = TASK_DEFAULTS[task]
        return replace(
            self,
            epochs=self.epochs or epochs,
            batch_size=self.batch_size or batch_size,
            learning_rate=self.learning_rate or factor * RATES[self.method],
            dropout=dropout if self.dropout is None else self.dropout,
        )

    def adapter_settings(self):
        """Return the settings for `adapt`, None for methods without adapters."""
        layers = {} if self.layers is None else {"layers": self.layers}
        if self.method in ("lora", "dora"):
            return LoRA(self.rank, dora=self.method == "dora", **layers)
        if self.method == "adalora":
            return AdaLoRA(self.rank + max(self.rank // 2, 1), self.rank, **layers)
        if self.method == "adapter":
            return Bottleneck(2 * self.rank, **layers)
        if self.method == "ia3":
            return IA3(**layers)
        if self.method in ("prefix", "prompt"):
            if layers:
                raise ValueError(f"layers needs Dense layers to adapt, got {self.method!r}.")
            kind = PrefixTuning if self.method == "prefix" else PromptTuning
            return kind(2 * self.rank)
        return None

    def prepare(self, gpt):
        """Freeze what does not learn and add what does.

        Args:
            gpt: GPT.

        Returns:
            the model to build on, and its Adapters or VirtualTokens, None without them.

        Raises:
            ValueError: if `layers` matches no layer, or `last` is more than there are.
        """
        settings = self.adapter_settings()
        if settings is not None:
            adapters = adapt(gpt, settings)
            return adapters.model, adapters
        if self.method == "last-n":
            freeze_all_but_last(gpt, self.last, gpt.num_layers)
        return gpt, None

    def make_optimizer(self, gpt, adapters, steps):
        """Make the optimizer for a training of so many steps."""
        rate = self.learning_rate or RATES[self.method]
        schedule = WarmupLinearDecay(steps, rate, max(steps // 10, 1))
        options = {"learning_rate": schedule, "global_clipnorm": CLIP}
        if self.method == "adalora":
            return adapters.settings.make_optimizer(adapters, steps, **options)
        if self.method == "full":
            return LayerwiseAdamW(gpt.num_layers, self.decay, **options)
        return keras.optimizers.AdamW(weight_decay=0.01, **options)

    def callbacks(self):
        """Return what `fit` needs beside the optimizer."""
        return [GradualUnfreezing()] if self.gradual else []
