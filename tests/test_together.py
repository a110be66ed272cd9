"""Several requests in one batch: each row is what it is alone."""

import keras
import numpy as np
import pytest

from tfgpt import GPT, generate
from tfgpt.generation.settings import Wish
from tfgpt.generation.together import decode_together, row_tokens

pytestmark = pytest.mark.requires_tensorflow
WISHES = [
    Wish([[1, 2, 3]], 20, temperature=0),
    Wish([[4, 5]], 6, temperature=0.7, top_p=0.8, seed=3),
    Wish([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]], 9, temperature=1.3, seed=5),
]


def alone(model, wish, stop_token):
    """Return the new tokens of each prompt of a wish, up to the stop token."""
    settings = {"temperature": wish.temperature, "top_p": wish.top_p, "seed": wish.seed}
    rows = generate(model, wish.prompts, wish.max_new_tokens, stop_token=stop_token, **settings)
    new = [row[len(prompt) :].tolist() for row, prompt in zip(rows, wish.prompts, strict=True)]
    return [row[: row.index(stop_token)] if stop_token in row else row for row in new]


def uncached():
    """A model without a cache, which needs no compiled loop; its next logits are random."""
    inputs = keras.Input((None,), dtype="int32")
    model = keras.Model(inputs, keras.layers.Embedding(30, 30, "normal")(inputs) * 40)
    model.vocab_size, model.context_length = 30, 16
    return model


@pytest.mark.parametrize("pace", [1, 5])
@pytest.mark.parametrize(
    "make",
    [
        uncached,
        pytest.param(
            lambda: GPT(30, 16, num_layers=1, d_model=16, num_heads=2, pad_id=0),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["uncached", "GPT"],
)
def test_rows_of_one_batch_are_what_they_are_alone(make, pace):
    """Greedy and drawn, other lengths, beyond the context, with rows that nobody asked for."""
    keras.utils.set_random_seed(0)
    model = make()
    decoding = decode_together(model, WISHES, num_rows=8, stop_token=7)

    def advance(place):
        decoding.advance(min(place + pace, decoding.total))

    together = [list(row_tokens(decoding, row, advance)) for row in range(4)]
    assert together == [row for wish in WISHES for row in alone(model, wish, 7)]
    assert together[2] != together[3] and len(set(map(len, together))) > 1


def test_equal_wishes_of_two_clients_give_equal_texts():
    model, wish = uncached(), Wish([[4, 5]], 12, seed=3)
    decoding = decode_together(model, [wish, wish, Wish([[4, 5]], 12, seed=4)])
    first, second, other = [list(row_tokens(decoding, row)) for row in range(3)]
    assert first == second != other


def test_the_rows_that_nobody_needs_cost_no_steps():
    decoding = decode_together(uncached(), [Wish([[1, 2]], 3)], num_rows=4)
    decoding.advance(decoding.total)
    assert decoding.position == decoding.total == 5
    np.testing.assert_array_equal(decoding.ends, [5, 0, 0, 0])


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish([[1]], 0), "max_new_tokens must be an integer >= 1, got 0"),
        (Wish([[1]], 1, top_p=0.0), "top_p must be in"),
        (Wish([[30]], 1), r"prompt_ids must be in \[0, vocab_size\)"),
    ],
)
def test_each_wish_is_checked(wish, message):
    with pytest.raises(ValueError, match=message):
        decode_together(uncached(), [WISHES[0], wish])
