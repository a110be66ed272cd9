"""Learning rates over the steps of a training, and optimizers. Notebook 06."""

import keras
from keras import ops

from tfgpt.validation import check_choice, check_integer, check_positive

SCHEDULES = ("linear", "cosine", "constant", "stable-decay", "inverse-root")
OPTIMIZERS = ("muon", "adamw", "lion", "sgd")
RATES = {"muon": 0.03, "adamw": 1e-3, "lion": 1e-4, "sgd": 0.1}  # the highest, by default


@keras.saving.register_keras_serializable("tfgpt")
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Raise the learning rate linearly, then lower it with 1 / sqrt(step).

    rate(step) = d_model^-0.5 x min(step^-0.5, step x warmup_steps^-1.5);
    the highest rate, at step = warmup_steps, is 1 / sqrt(d_model x warmup_steps).

    Args:
        d_model: int >= 1, the width of the model.
        warmup_steps: int >= 1.

    Returns:
        schedule for any Keras optimizer; step 0 counts as step 1.

    Raises:
        ValueError: if an argument is below 1.

    Example:
        >>> float(WarmupSchedule(d_model=64, warmup_steps=100)(100))
        0.012500000186264515

    Source: "Attention Is All You Need", equation 3; notebook 06.
    """

    def __init__(self, d_model, warmup_steps=4000):
        check_positive("d_model", d_model)
        check_positive("warmup_steps", warmup_steps)
        self.d_model = d_model
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        step = ops.maximum(ops.cast(step, "float32"), 1.0)
        rising = step * self.warmup_steps**-1.5
        return self.d_model**-0.5 * ops.minimum(step**-0.5, rising)

    def get_config(self):
        return {"d_model": self.d_model, "warmup_steps": self.warmup_steps}


@keras.saving.register_keras_serializable("tfgpt")
class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Raise the learning rate linearly to a peak, then lower it linearly to 0.

    rate(step) = peak x min((step + 1) / warmup_steps, (steps - step) / (steps - warmup_steps)),
    with steps counted from 0, as optimizers do.

    Args:
        steps: int >= 1, the length of the training.
        peak: float > 0, the highest rate.
        warmup_steps: int >= 1; a tenth of `steps` if that is less.

    Returns:
        schedule for any Keras optimizer; from `steps` on the rate is 0.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> schedule = WarmupLinearDecay(steps=1000, peak=0.5, warmup_steps=100)
        >>> [float(schedule(step)) for step in (49, 99, 550, 1000)]
        [0.25, 0.5, 0.25, 0.0]
    """

    def __init__(self, steps, peak=1e-3, warmup_steps=100):
        check_positive("steps", steps)
        check_positive("warmup_steps", warmup_steps)
        if not peak > 0:
            raise ValueError(f"peak must be > 0, got {peak!r}.")
        self.steps = steps
        self.peak = peak
        self.warmup_steps = min(warmup_steps, max(steps // 10, 1))

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rising = (step + 1) / self.warmup_steps
        falling = (self.steps - step) / max(self.steps - self.warmup_steps, 1)
        return self.peak * ops.maximum(ops.minimum(rising, falling), 0.0)

    def get_config(self):
        return {"steps": self.steps, "peak": self.peak, "warmup_steps": self.warmup_steps}


@keras.saving.register_keras_serializable("tfgpt")
class WarmupStableDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Raise the learning rate linearly, keep it, and lower it linearly to 0 at the end.

    A run can be prolonged from any point of the level part.

    Args:
        steps: int >= 1, the length of the training.
        peak: float > 0, the highest rate.
        warmup_steps: int >= 1; a tenth of `steps` if that is less.
        decay_steps: int >= 0, the length of the last part; 0: the rate stays.

    Returns:
        schedule for any Keras optimizer.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> schedule = WarmupStableDecay(steps=100, peak=0.5, warmup_steps=10, decay_steps=20)
        >>> [float(schedule(step)) for step in (4, 9, 50, 80, 90, 100)]
        [0.25, 0.5, 0.5, 0.5, 0.25, 0.0]

    Source: Hu et al., "MiniCPM" (2024), section 4.
    """

    def __init__(self, steps, peak=1e-3, warmup_steps=100, decay_steps=0):
        self.steps = check_positive("steps", steps)
        self.peak = check_peak(peak)
        self.warmup_steps = min(
            check_positive("warmup_steps", warmup_steps), max(self.steps // 10, 1)
        )
        self.decay_steps = check_integer("decay_steps", decay_steps, minimum=0)

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rising = (step + 1) / self.warmup_steps
        falling = (self.steps - step) / self.decay_steps if self.decay_steps else 1.0
        return self.peak * ops.maximum(ops.minimum(ops.minimum(rising, falling), 1.0), 0.0)

    def get_config(self):
        names = ("steps", "peak", "warmup_steps", "decay_steps")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("tfgpt")
class WarmupInverseRoot(keras.optimizers.schedules.LearningRateSchedule):
    """Raise the learning rate linearly to a peak, then lower it with 1 / sqrt(step).

    `WarmupSchedule` with a peak of your own in place of the width of the model.

    Args:
        peak: float > 0, the highest rate, at step = warmup_steps.
        warmup_steps: int >= 1.

    Returns:
        schedule for any Keras optimizer.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> schedule = WarmupInverseRoot(peak=0.5, warmup_steps=100)
        >>> [float(schedule(step)) for step in (50, 100, 400)]
        [0.25, 0.5, 0.25]

    Source: "Attention Is All You Need", equation 3.
    """

    def __init__(self, peak=1e-3, warmup_steps=100):
        self.peak = check_peak(peak)
        self.warmup_steps = check_positive("warmup_steps", warmup_steps)

    def __call__(self, step):
        share = ops.maximum(ops.cast(step, "float32"), 1.0) / self.warmup_steps
        return self.peak * ops.minimum(share, share**-0.5)

    def get_config(self):
        return {"peak": self.peak, "warmup_steps": self.warmup_steps}


def check_peak(peak):
    """Return the highest rate; raise unless it is > 0."""
    if not peak > 0:
        raise ValueError(f"peak must be > 0, got {peak!r}.")
    return peak


def make_schedule(name, steps, peak=1e-3, warmup_steps=100):
    """Make the learning rate of a training by its name.

    Args:
        name: "linear": down to 0; "cosine": down to a tenth; "constant"; "stable-decay":
            level, then down to 0 in the last fifth; "inverse-root". All rise first.
        steps: int >= 1, the length of the training.
        peak: float > 0, the highest rate.
        warmup_steps: int >= 1, of rising; a tenth of `steps` if that is less.

    Returns:
        a Keras schedule.

    Raises:
        ValueError: if the name is unknown or an argument is outside its range.

    Example:
        >>> [round(float(make_schedule("cosine", 100, 1.0, 10)(step)), 3) for step in (5, 10, 100)]
        [0.5, 1.0, 0.1]
    """
    check_choice("schedule", name, SCHEDULES)
    warmup_steps = min(check_positive("warmup_steps", warmup_steps), max(steps // 10, 1))
    if name == "linear":
        return WarmupLinearDecay(steps, peak, warmup_steps)
    if name == "inverse-root":
        return WarmupInverseRoot(peak, warmup_steps)
    if name == "cosine":
        return keras.optimizers.schedules.CosineDecay(
            *(0.0, max(steps - warmup_steps, 1)),
            alpha=0.1,
            warmup_target=check_peak(peak),
            warmup_steps=warmup_steps,
        )
    decay_steps = max(steps // 5, 1) if name == "stable-decay" else 0
    return WarmupStableDecay(steps, peak, warmup_steps, decay_steps)


def make_optimizer(name, rate, weight_decay=0.1, ema=None):
    """Make an optimizer for a model of this package by its name.

    Weight decay acts on matrices only, not on biases and norms.

    Args:
        name: "muon" (for the matrices, with Adam for all other weights), "adamw", "lion" or
            "sgd" (with momentum).
        rate: float > 0 or Keras schedule, the learning rate; of Muon, that of the matrices.
        weight_decay: float >= 0.
        ema: float in (0, 1), how slowly moving averages of the weights move; None: no averages.

    Returns:
        Keras optimizer.

    Raises:
        ValueError: if the name is unknown or an argument is outside its range.

    Source: Muon: Jordan et al., "Muon: An optimizer for hidden layers in neural networks"
    (2024); AdamW: Loshchilov and Hutter (2019); Lion: Chen et al. (2023).
    """
    check_choice("optimizer", name, OPTIMIZERS)
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be >= 0, got {weight_decay!r}.")
    if ema is not None and not 0 < ema < 1:
        raise ValueError(f"ema must be in (0, 1) or None, got {ema!r}.")
    averages = {} if ema is None else {"use_ema": True, "ema_momentum": ema}
    if name == "muon":
        return muon(rate, 0.2, weight_decay, **averages)
    options = {"weight_decay": weight_decay, **averages}
    if name == "adamw":
        optimizer = keras.optimizers.AdamW(rate, beta_2=0.99, **options)
    elif name == "lion":
        optimizer = keras.optimizers.Lion(rate, **options)
    else:
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, **options)
    # The vectors of the layers of this package.
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def muon(rate, adam_ratio, weight_decay, **options):
    """Make Keras's Muon: Adam for embeddings, biases and norms, without weight decay."""
    return keras.optimizers.Muon(
        rate,
        adam_lr_ratio=adam_ratio,
        rms_rate=None,
        weight_decay=weight_decay,
        adam_weight_decay=0.0,
        adam_beta_2=0.99,
        **options,
    )


def make_muon(steps, matrix_rate=0.03, other_rate=0.006):
    """Make Muon for the matrices and Adam for all other weights, with linear decay.

    On small corpora it learns much faster per step than Adam alone.

    Args:
        steps: int >= 1, the length of the training; see `WarmupLinearDecay`.
        matrix_rate: float > 0, the highest rate of Muon.
        other_rate: float > 0, the highest rate of Adam: embeddings, biases, norms.

    Returns:
        keras.optimizers.Muon.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks"
    (2024).
    """
    rate = WarmupLinearDecay(steps, peak=matrix_rate)
    return muon(rate, other_rate / matrix_rate, weight_decay=0.1)
