"""Which layers of a GPT learn, and how fast: freezing, layer-wise rates, gradual unfreezing."""

import re

import keras

from tfgpt.validation import check_integer


def depth_of(path, num_layers):
    """Return how deep a weight lies: 0 for embeddings, i + 1 for block i, L + 1 for the rest.

    Example:
        >>> [depth_of(path, 4) for path in ("gpt/embedding/x", "gpt/decoder_2/y", "head/z")]
        [0, 3, 5]
    """
    block = re.search(r"(?:^|/)decoder_(\d+)(?:/|$)", path)
    if block:
        return int(block[1]) + 1
    return 0 if re.search(r"(?:^|/)embedding(?:/|$)", path) else num_layers + 1


def freeze_all_but_last(model, layers, num_layers):
    """Freeze the embeddings and all blocks but the last ones; heads and norms stay trainable.

    Args:
        model: Keras model with a GPT in it, built.
        layers: int >= 0, how many of the last blocks are trained.
        num_layers: int >= 1, L of the GPT.

    Raises:
        ValueError: if layers is outside [0, L].
    """
    check_integer("layers", layers, minimum=0)
    if layers > num_layers:
        raise ValueError(f"layers must be at most num_layers={num_layers}, got {layers}.")
    for weight in model.weights:
        weight.trainable = depth_of(weight.path, num_layers) > num_layers - layers


class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW whose learning rate falls from the head of a GPT to its embeddings.

    The rate of a weight of depth i is rate x decay ^ (L + 1 - i). `unfrozen` says how many
    depths learn at all, counted from the head; GradualUnfreezing raises it.

    Args:
        num_layers: int >= 1, L.
        decay: float in (0, 1]; 1: the same rate for all.
        weight_decay: float >= 0, of matrices; vectors such as biases have none.
        **options: further arguments of keras.optimizers.AdamW.

    Raises:
        ValueError: if decay is outside (0, 1].

    Source: Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification"
    (2018), section 3.2: discriminative fine-tuning.
    """

    def __init__(self, num_layers, decay=0.8, weight_decay=0.01, **options):
        if not 0 < decay <= 1:
            raise ValueError(f"decay must be in (0, 1], got {decay!r}.")
        super().__init__(weight_decay=0.0, **options)
        self.num_layers = num_layers
        self.decay = decay
        self.matrix_decay = weight_decay

    def build(self, variables):
        super().build(variables)
        # `fit` builds in a graph, where an assignment would be lost.
        all_depths = keras.initializers.Constant(self.num_layers + 2)
        self.unfrozen = self.add_variable((), initializer=all_depths, name="unfrozen")
        self.depths = [depth_of(variable.path, self.num_layers) for variable in variables]

    def factor(self, variable):
        """Return by how much the rate of a weight is smaller; 0 while it is frozen."""
        below = self.num_layers + 1 - self.depths[self._get_variable_index(variable)]
        is_free = keras.ops.cast(self.unfrozen > below, "float32")
        return is_free * self.decay**below

    def update_step(self, gradient, variable, learning_rate):
        rate = keras.ops.cast(learning_rate * self.factor(variable), variable.dtype)
        if len(variable.shape) > 1:
            variable.assign(variable * (1 - self.matrix_decay * rate))
        super().update_step(gradient, variable, rate)


class GradualUnfreezing(keras.callbacks.Callback):
    """Let one more depth of a GPT learn with each epoch, from the head down.

    Args:
        first: int >= 1, depths that learn in the first epoch: 1 is head and final norm.

    Source: Howard and Ruder (2018), section 3.3.
    """

    def __init__(self, first=1):
        super().__init__()
        self.first = first

    def set_model(self, model):
        super().set_model(model)
        if not isinstance(model.optimizer, LayerwiseAdamW):
            raise TypeError(
                f"GradualUnfreezing needs a LayerwiseAdamW, got {type(model.optimizer).__name__}."
            )

    def on_epoch_begin(self, epoch, logs=None):
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        optimizer.unfrozen.assign(self.first + epoch)
