"""The width rule slows the kernels of wide models, and nothing else."""

import keras
import numpy as np
import pytest

from tfgpt import GPT
from tfgpt.widths import WidthAdam


def first_changes(optimizer):
    """Return by how much the first step changes each kind of weight of a small GPT."""
    keras.utils.set_random_seed(0)
    model = GPT(7, 4, num_layers=1, d_model=8, num_heads=2, tie_embeddings=False, name="gpt")
    before = [keras.ops.convert_to_numpy(weight) for weight in model.trainable_variables]
    optimizer.apply(
        [keras.ops.ones_like(weight) for weight in model.trainable_variables],
        model.trainable_variables,
    )
    return {
        weight.path: np.abs(keras.ops.convert_to_numpy(weight) - old).mean()
        for weight, old in zip(model.trainable_variables, before, strict=True)
    }


def test_only_kernels_learn_slower_in_a_wide_model():
    # The first step of Adam changes every weight by its rate, whatever the gradient is.
    changes = first_changes(WidthAdam(width=32, base_width=8, learning_rate=0.01))
    kernels = {path for path in changes if path.endswith("kernel")}
    assert len(kernels) == 7  # query, key, value, output, two feed-forward, logits
    for path, change in changes.items():
        assert change == pytest.approx(0.0025 if path in kernels else 0.01, rel=1e-3), path


def test_at_its_base_width_it_is_adam():
    own = first_changes(WidthAdam(width=8, base_width=8, learning_rate=0.01))
    assert own == first_changes(keras.optimizers.Adam(0.01))


def test_the_width_rule_is_saved_with_the_optimizer():
    optimizer = WidthAdam(width=32, base_width=8, learning_rate=0.01, beta_2=0.9)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(again, WidthAdam)
    assert again.get_config() == optimizer.get_config()
    assert (again.width, again.base_width, again.beta_2) == (32, 8, 0.9)


def test_a_width_must_be_positive():
    with pytest.raises(ValueError, match="base_width must be an integer >= 1, got 0"):
        WidthAdam(width=8, base_width=0)
