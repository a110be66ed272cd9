"""Find a learning rate: raise it from step to step and look where the loss falls fastest."""

from dataclasses import dataclass

import numpy as np

from tfgpt.checkpoints import copied
from tfgpt.data.passes import Batches
from tfgpt.training import make_train_step
from tfgpt.validation import check_integer

SMOOTHING = 0.9  # of the losses, as a moving average
BLOWN_UP = 1.5  # times the lowest loss: the rates above are useless


@dataclass(frozen=True)
class RateSearch:
    """The losses at growing learning rates.

    Args:
        rates: float array (N,), ascending.
        losses: float array (N,), nats per token, smoothed.
        best: float, a rate to begin with: where the loss falls fastest.
    """

    rates: np.ndarray
    losses: np.ndarray
    best: float


def find_learning_rate(model, dataset, optimizer, *, low=1e-5, high=1.0, steps=100, **step_options):
    """Raise the learning rate exponentially while training; give everything back unchanged.

    Args:
        model: built Keras model; its weights are as before afterwards.
        dataset: as in `train`.
        optimizer: Keras optimizer of its own for this search, with a number as its rate.
        low: float > 0, the first rate.
        high: float > low, the last rate; the search ends before if the loss blows up.
        steps: int >= 10.
        **step_options: further arguments of `make_train_step`.

    Returns:
        RateSearch.

    Raises:
        ValueError: if an argument is outside its range.

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), section 3.3.
    """
    if not 0 < low < high:
        raise ValueError(f"low and high must be 0 < low < high, got {low!r} and {high!r}.")
    check_integer("steps", steps, minimum=10)
    values = [copied(variable) for variable in model.variables]
    step = make_train_step(model, optimizer, **step_options)
    batches, found, average = Batches(dataset), [], 0.0
    rates = np.geomspace(low, high, steps)
    try:
        for number, rate in enumerate(rates, 1):
            step.optimizer.learning_rate = rate
            average = SMOOTHING * average + (1 - SMOOTHING) * float(step(batches.take())["loss"])
            found.append(average / (1 - SMOOTHING**number))
            if not np.isfinite(found[-1]) or found[-1] > BLOWN_UP * min(found):
                break
    finally:
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(value)
    losses = np.array(found)[np.isfinite(found)]
    return RateSearch(rates[: len(losses)], losses, steepest(rates[: len(losses)], losses))


def steepest(rates, losses):
    """Return the rate at which the loss falls fastest, before its lowest point.

    Example:
        >>> float(steepest(np.array([0.1, 1, 10, 100.0]), np.array([5, 4.9, 3, 2.9])))
        1.0
    """
    lowest = int(np.argmin(losses))
    if lowest == 0:
        return float(rates[0])
    falls = np.diff(losses[: lowest + 1])
    return float(rates[int(np.argmin(falls))])
