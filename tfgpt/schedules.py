"""Learning rates over the steps of a training, and the optimizer of the demo. Notebook 06."""

import keras
from keras import ops

from tfgpt.validation import check_positive


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
    return keras.optimizers.Muon(
        WarmupLinearDecay(steps, peak=matrix_rate),
        adam_lr_ratio=other_rate / matrix_rate,
        rms_rate=None,
        weight_decay=0.1,
        adam_weight_decay=0.0,
        adam_beta_2=0.99,
    )
