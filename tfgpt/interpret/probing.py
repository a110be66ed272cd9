"""Linear probes: what can be read from a state, beside what a probe can learn by itself.

Shape letters: N examples, D features, C classes.
"""

from dataclasses import dataclass

import numpy as np

from tfgpt.validation import check_integer

TRAINING_SHARE = 0.7


@dataclass(frozen=True)
class Probe:
    """The held-out accuracy of a linear probe, beside its baselines.

    Args:
        accuracy: float, 0 to 1, of the task.
        majority: float, always the most frequent label.
        control: float, of the control task: the same probe with a random label for each
            token. It shows how much a probe can learn by heart.
        kernel: float array (D + 1, C); the last row is the bias.
    """

    accuracy: float
    majority: float
    control: float
    kernel: np.ndarray

    @property
    def selectivity(self):
        """How much better the task is than the control task: high is worth believing."""
        return self.accuracy - self.control


def probe(states, labels, token_ids, seed=0, ridge=1e-3):
    """Fit a linear probe by least squares on 70 % of the examples, and measure it on the rest.

    Args:
        states: float array (N, D) or (B, T, D), activations.
        labels: int array (N,) or (B, T), the classes 0 to C - 1.
        token_ids: int array like `labels`, the token at each place; the control task gives
            each token a label, drawn once from `labels`.
        seed: int, of the parts and the control labels.
        ridge: float > 0, the weight of the squared kernel, per example.

    Returns:
        Probe.

    Raises:
        ValueError: if the sizes differ, labels are no classes, or there is one class only.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> states, tokens = rng.normal(size=(400, 4)), rng.integers(0, 50, 400)
        >>> found = probe(states, states[:, 0] > 0, tokens)  # a direction of the states
        >>> found.accuracy > 0.9, found.control < 0.7  # tokens cannot be read from them
        (True, True)

    Source: Hewitt and Liang, "Designing and Interpreting Probes with Control Tasks" (2019).
    """
    states = np.asarray(states, dtype="float64")
    states = states.reshape(-1, states.shape[-1])
    labels, token_ids = np.asarray(labels).ravel().astype("int64"), np.asarray(token_ids).ravel()
    if not len(states) == len(labels) == len(token_ids):
        raise ValueError(
            "states, labels and token_ids must be as many, got "
            f"{len(states)}, {len(labels)} and {len(token_ids)}."
        )
    if len(labels) == 0 or labels.min() < 0 or labels.max() == labels.min():
        found = np.unique(labels).tolist()
        raise ValueError(f"labels must be at least two classes >= 0, got {found!r:.60}.")
    rng = np.random.default_rng(check_integer("seed", seed, minimum=0))
    places = rng.permutation(len(labels))
    parts = np.split(places, [int(TRAINING_SHARE * len(places))])
    names, kinds = np.unique(token_ids, return_inverse=True)
    control_labels = rng.choice(labels, len(names))[kinds]
    kernel, accuracy = fit(states, labels, parts, ridge)
    _, control = fit(states, control_labels, parts, ridge)
    train, test = (labels[part] for part in parts)
    majority = float((test == np.bincount(train).argmax()).mean())
    return Probe(accuracy, majority, control, kernel)


def fit(states, labels, parts, ridge):
    """Fit one-hot labels by least squares; return the kernel and the held-out accuracy."""
    x = np.concatenate([states, np.ones((len(states), 1))], axis=1)  # (N, D + 1)
    targets = np.eye(labels.max() + 1)[labels]  # (N, C)
    train, test = parts
    square = x[train].T @ x[train] + ridge * len(train) * np.eye(x.shape[1])
    kernel = np.linalg.solve(square, x[train].T @ targets[train])
    return kernel, float(((x[test] @ kernel).argmax(axis=1) == labels[test]).mean())
