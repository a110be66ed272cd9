"""Groups of pictures by the image encoder alone, beside a small CNN and no model at all.

Shape letters: B batch, N pictures, H and W pixels, D width, C classes.
"""

from collections import Counter

import keras
import numpy as np

from tfgpt.schedules import WarmupLinearDecay, make_optimizer
from tfgpt.tasks.reports import import_for_reports, proportion
from tfgpt.tasks.vision_batches import moved
from tfgpt.tasks.vision_scores import nearest_places
from tfgpt.training import set_seed
from tfgpt.vision.emoji import SIDE

BATCH = 64


def score_classes(encoder, training, test, cnn_steps, seed=0):
    """Classify the groups of the test pictures in four ways.

    Args:
        encoder: ImageEncoder; it is frozen, and a linear classifier reads its mean vector.
        training: Pictures to learn from.
        test: Pictures of other families.
        cnn_steps: int >= 0, steps of a CNN with as many weights; 0: none is trained.
        seed: int >= 0, of the CNN.

    Returns:
        dict from a way to {"group": Measure}.
    """
    frequent = Counter(training.groups).most_common(1)[0][0]
    nearest = nearest_places(training.images, test.images)
    found = {"encoder, linear classifier": linear_groups(encoder, training, test)}
    if cnn_steps:
        weights = encoder.count_params()
        found["CNN of equal size"] = cnn_groups(weights, training, test, cnn_steps, seed)
    found["nearest picture"] = [training.groups[place] for place in nearest]
    found["most frequent"] = [frequent] * len(test)
    return {
        name: {"group": proportion(np.array(groups) == np.array(test.groups))}
        for name, groups in found.items()
    }


def linear_groups(encoder, training, test):
    """Classify with a linear classifier on the mean of the patches: list of N str."""
    linear = import_for_reports("sklearn.linear_model")
    pipeline = import_for_reports("sklearn.pipeline")
    scaler = import_for_reports("sklearn.preprocessing").StandardScaler()
    classifier = linear.LogisticRegression(C=0.01, max_iter=2000)
    model = pipeline.make_pipeline(scaler, classifier)
    model.fit(mean_vectors(encoder, training.images), training.groups)
    return model.predict(mean_vectors(encoder, test.images)).tolist()


def mean_vectors(encoder, images):
    """Average the vectors of the patches of each image: float32 (N, D)."""
    parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    return np.concatenate([np.asarray(encoder(part)).mean(axis=1) for part in parts])


def cnn_groups(num_weights, training, test, steps, seed):
    """Train a small CNN on moved pictures and classify with it: list of N str."""
    set_seed(seed)
    names = sorted(set(training.groups))
    labels = np.array([names.index(group) for group in training.groups])
    model = small_cnn(len(names), num_weights)
    model.compile(
        make_optimizer("adamw", WarmupLinearDecay(steps), weight_decay=0.05),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        places = rng.integers(len(training), size=BATCH)
        images = np.stack([moved(training.images[place], rng) for place in places])
        model.train_on_batch(images, labels[places])
    logits = model.predict(test.images, batch_size=BATCH, verbose=0)
    return [names[place] for place in logits.argmax(axis=1)]


def small_cnn(num_classes, num_weights):
    """Make a convolutional classifier with about as many weights as an encoder."""
    # Six kernels of 3 x 3: (1 + 2 + 4 + 8 + 16) w^2 x 9 numbers, and few others.
    width = max(round((num_weights / 279) ** 0.5), 4)
    x = inputs = keras.Input((SIDE, SIDE, 3))
    for filters in (width, 2 * width, 4 * width):
        for _ in range(2):
            x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = keras.layers.BatchNormalization()(x)
            x = keras.layers.ReLU()(x)
        x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x))
