"""Texts of several requests in one batch, each with its own length, temperature, p and seed.

The rows of a batch share places: a row waits until the shorter ones have grown to the
length of its prompt. So requests of about the same length belong together.
"""

from dataclasses import replace

import numpy as np
from keras import ops

from tfgpt.generation.decoding import Decoding
from tfgpt.generation.request import make_request
from tfgpt.generation.samplers import Temperature, TopP

# With this p the likeliest token alone is kept, as temperature 0 does.
SMALLEST_P = 1e-30


def decode_together(
    model, wishes, *, num_rows=None, stop_token=None, vocab_size=None, constraint=None
):
    """Begin a batch in which each row is what `generate` gives for its wish alone.

    Args:
        model: GPT, or another model that `generate` takes.
        wishes: list of Wish.
        num_rows: int, rows of the batch; those that no wish needs write nothing, so that
            batches of different sizes share one program. None: as many as are needed.
        stop_token, vocab_size, constraint: as in `generate`, for all.

    Returns:
        JoinedDecoding; `advance` writes its rows: the prompts in their order.

    Raises:
        as `generate`.

    Example:
        >>> from tfgpt import GPT
        >>> from tfgpt.generation.settings import Wish
        >>> model = GPT(10, context_length=4, num_layers=1, d_model=8, num_heads=2)
        >>> wishes = [Wish([[1, 2]], 3, temperature=0), Wish([[3], [4]], 2, seed=0)]
        >>> decode_together(model, wishes).ends.tolist()
        [5, 3, 3]
    """
    parts, temperatures, shares = [], [], []
    for wish in wishes:
        settings = {"temperature": wish.temperature, "top_p": wish.top_p, "seed": wish.seed}
        limits = {"stop_token": stop_token, "vocab_size": vocab_size, "constraint": constraint}
        request = make_request(model, wish.prompts, wish.max_new_tokens, **settings, **limits)
        parts.append(Decoding(request))
        is_greedy = wish.temperature == 0
        temperatures += [1.0 if is_greedy else wish.temperature] * len(request.prompts)
        shares += [SMALLEST_P if is_greedy else wish.top_p] * len(request.prompts)
    num_rows = len(shares) if num_rows is None else num_rows
    samplers = [Temperature(column(temperatures, num_rows)), TopP(column(shares, num_rows))]
    return JoinedDecoding(parts, samplers, num_rows)


def column(numbers, num_rows):
    """Write a number per row, 1 for those without: float32 tensor (B, 1)."""
    filled = [*numbers, *[1.0] * (num_rows - len(numbers))]
    return ops.convert_to_tensor(np.array(filled, dtype="float32")[:, None])


class JoinedDecoding(Decoding):
    """A batch that is made of several.

    Args:
        parts: list of Decoding, of one model, with the same stop tokens, vocab_size and constraint.
        samplers: list of samplers of all rows.
        num_rows: int >= the rows of all parts; those behind them copy the first and end at 0.
    """

    def __init__(self, parts, samplers, num_rows):
        self.request = replace(parts[0].request, samplers=samplers)
        self.model = parts[0].model
        self.total = max(part.total for part in parts)
        missing = num_rows - sum(len(part.lengths) for part in parts)

        def stacked(arrays):
            rows = np.concatenate(arrays)
            return np.concatenate([rows, np.repeat(rows[:1], missing, axis=0)])

        self.lengths = stacked([part.lengths for part in parts])  # (B,)
        self.endings = stacked([part.endings for part in parts])  # (B,)
        self.states = stacked([part.states for part in parts])  # (B,)
        self.rules = parts[0].rules
        self.ends = stacked([part.ends for part in parts])  # (B,)
        self.ends[num_rows - missing :] = 0
        width = max(self.total, self.model.context_length)
        self.token_ids = stacked([widened(part.token_ids, width) for part in parts])
        numbers = [widened(part.random_numbers.T, self.total) for part in parts]
        self.random_numbers = stacked(numbers).T  # (N, B)
        self.position = int(self.lengths.min())
        # Places of the compiled loop: none without a cache.
        self.cached = max(part.cached for part in parts)
        self.state = self.program = None


def widened(rows, width):
    """Fill rows with zeros on the right: (B, T) -> (B, width)."""
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def row_tokens(decoding, row, advance=None):
    """Yield the tokens of one row as they are drawn, up to the stop token.

    Args:
        decoding: Decoding. Whichever row needs a place next lets all rows advance.
        row: int.
        advance: function of a place, which it lets `decoding` write, with others behind it;
            None: that place alone.

    Returns:
        generator of int.
    """
    for place in range(decoding.lengths[row], decoding.ends[row]):
        if place >= decoding.position:
            decoding.advance(place + 1) if advance is None else advance(place)
        token_id = int(decoding.token_ids[row, place])
        if token_id in decoding.request.stop_tokens:
            return
        yield token_id
