"""Learning one task after the other: how much is forgotten, and what helps.

Three ways act on a classifier while it learns the next task: replay mixes in old texts,
elastic weight consolidation holds what mattered, learning without forgetting keeps the old
answers. The fourth, an adapter per task, cannot forget: the base never changes.
"""

import keras
import numpy as np
from keras import ops

from tfgpt.tasks.examples import length_batches
from tfgpt.validation import check_positive


def backward_transfer(matrix):
    """Compute how much learning later tasks changed earlier ones; below 0: forgetting.

    The mean over all tasks but the last of (accuracy at the end - accuracy when learned).

    Args:
        matrix: float array (N, N), row: after training on this task; column: measured on it.

    Returns:
        float.

    Raises:
        ValueError: if the matrix is not square with N >= 2.

    Example:
        >>> round(backward_transfer([[0.9, 0.5], [0.7, 0.8]]), 3)
        -0.2

    Source: Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning" (2017),
    section 2.
    """
    matrix = np.asarray(matrix, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"matrix must have shape (N, N) with N >= 2, got {matrix.shape}.")
    return float(np.mean(matrix[-1, :-1] - np.diag(matrix)[:-1]))


def fisher_information(model, rows, pad_id, length):
    """Estimate how much each weight matters for what a classifier has learned.

    The mean over examples of the squared gradient of the log-probability of their labels.
    Needs the TensorFlow backend.

    Args:
        model: TextClassifier.
        rows: list of Row with classes as targets.
        pad_id: int.
        length: int, all texts are filled up to it.

    Returns:
        list of float arrays, one per trainable weight.

    Source: Kirkpatrick et al., "Overcoming Catastrophic Forgetting in Neural Networks" (2017).
    """
    import tensorflow as tf

    weights = model.trainable_weights
    variables = [weight.value for weight in weights]

    @tf.function(reduce_retracing=True)
    def squared_gradients(token_ids, targets):
        with tf.GradientTape() as tape:
            logits = model(token_ids, training=False)
            loss = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
        gradients = tape.gradient(loss, variables)
        dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
        return [gradient**2 for gradient in dense]

    total = [np.zeros(weight.shape, "float32") for weight in weights]
    for token_ids, targets, _ in length_batches(rows, [length], 1, pad_id):
        for sum_, value in zip(total, squared_gradients(token_ids, targets), strict=True):
            sum_ += value.numpy()
    return [sum_ / len(rows) for sum_ in total]


class ElasticWeights:
    """The penalty of elastic weight consolidation: strength/2 x sum of F (w - old)^2.

    Args:
        model: TextClassifier, as it has learned the old tasks.
        fisher: list of arrays, see `fisher_information`.
        strength: float >= 0.
    """

    def __init__(self, model, fisher, strength=1000.0):
        self.weights = model.trainable_weights
        self.old = [ops.convert_to_tensor(ops.convert_to_numpy(w)) for w in self.weights]
        self.fisher = [ops.convert_to_tensor(value) for value in fisher]
        self.strength = strength

    def __call__(self, token_ids, logits):
        """Return the penalty, a scalar."""
        rows = zip(self.weights, self.old, self.fisher, strict=True)
        return self.strength / 2 * sum(ops.sum(f * (w - old) ** 2) for w, old, f in rows)


class OldAnswers:
    """The loss of learning without forgetting: the answers for old classes stay as they were.

    Args:
        teacher: TextClassifier, the model before the new task.
        classes: list of int, the old classes.
        strength: float >= 0.
        temperature: float > 0, above 1 small probabilities count more.

    Source: Li and Hoiem, "Learning without Forgetting" (2016), section 3.
    """

    def __init__(self, teacher, classes, strength=1.0, temperature=2.0):
        self.teacher, self.classes = teacher, list(classes)
        self.strength, self.temperature = strength, temperature

    def __call__(self, token_ids, logits):
        """Return the cross-entropy between the old and the new answers, a scalar."""
        old = ops.stop_gradient(self.teacher(token_ids, training=False))
        old, new = (
            ops.take(values, self.classes, axis=-1) / self.temperature for values in (old, logits)
        )
        cross = -ops.sum(ops.softmax(old) * ops.log_softmax(new), axis=-1)
        return self.strength * self.temperature**2 * ops.mean(cross)


def replay_rows(old_rows, count, rng):
    """Draw rows of old tasks to be learned again beside a new one.

    Args:
        old_rows: list of lists of Row, one list per old task.
        count: int >= 1, from each task, at most what it has.
        rng: numpy Generator.

    Returns:
        list of Row.
    """
    check_positive("count", count)
    return [
        rows[place]
        for rows in old_rows
        for place in rng.choice(len(rows), min(count, len(rows)), replace=False)
    ]


def accuracy_within(logits, targets, classes):
    """Measure how often the right one of a task's own classes is the likeliest.

    Args:
        logits: float array (N, C).
        targets: int array (N,).
        classes: list of int, the classes of the task.

    Returns:
        float in [0, 1].
    """
    logits = np.asarray(logits)[:, classes]
    return float(np.mean(np.asarray(classes)[logits.argmax(axis=1)] == np.asarray(targets)))
