"""The learning rate that stays when a model becomes wider."""

import keras

from tfgpt.validation import check_positive


@keras.saving.register_keras_serializable("tfgpt")
class WidthAdam(keras.optimizers.Adam):
    """Adam whose best learning rate stays when a model becomes wider.

    The rate of every kernel is rate x base_width / width; embeddings, biases and norms keep
    the rate. Find the rate on a narrow model with width = base_width, then use it for the
    wide one. Without the rule a wider model needs a lower rate: one step of Adam changes
    each weight by the rate, and the change of a sum over the width grows with the width.

    For a GPT with `tie_embeddings=False`: a table that is also the output kernel would need
    both rates. Models to compare differ in d_model and num_heads; head_dim is the same.

    Args:
        width: int >= 1, d_model of the model that is trained.
        base_width: int >= 1, d_model of the model for which the rate was found.
        learning_rate: float or schedule, as for Adam.
        **options: further arguments of keras.optimizers.Adam.

    Raises:
        ValueError: if a width is below 1.

    Example:
        >>> optimizer = WidthAdam(width=256, base_width=64, learning_rate=0.01)
        >>> optimizer.build([keras.Variable(np.ones(shape)) for shape in ((8, 8), (8,))])
        >>> optimizer.factors
        [0.25, 1.0]

    Source: Yang et al., "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot
    Hyperparameter Transfer" (2022), table 8: the rates of muP. Its smaller initial values
    for wide models are left out.
    """

    def __init__(self, width, base_width, learning_rate=1e-3, **options):
        super().__init__(learning_rate, **options)
        self.width = check_positive("width", width)
        self.base_width = check_positive("base_width", base_width)

    def build(self, variables):
        super().build(variables)
        self.factors = [
            self.base_width / self.width if is_kernel(variable) else 1.0 for variable in variables
        ]

    def update_step(self, gradient, variable, learning_rate):
        factor = self.factors[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * factor)

    def get_config(self):
        return super().get_config() | {"width": self.width, "base_width": self.base_width}


def is_kernel(variable):
    """Tell whether a weight multiplies vectors; an embedding table is read row by row."""
    return len(variable.shape) > 1 and "embedding" not in variable.path
