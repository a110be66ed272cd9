"""Checks of arguments: every message names the argument, the rule and the value."""

import numpy as np


def check_integer(name, value, minimum):
    """Raise unless `value` is an integer >= `minimum`.

    Args:
        name: str, the argument's name in the message.
        value: the value to check.
        minimum: int, the smallest allowed value.

    Returns:
        int: a NumPy integer would be no JSON.

    Raises:
        ValueError: if `value` is not an integer, is a bool, or is below `minimum`.
    """
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value!r}.")
    return int(value)


def check_positive(name, value):
    """Return `value` as an int; raise unless it is an integer >= 1."""
    return check_integer(name, value, minimum=1)


def check_rate(name, value):
    """Return `value` as a float; raise unless it is in [0, 1): a dropout or smoothing rate."""
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}.")
    return float(value)


def check_pad_id(pad_id, vocab_size=None, ignored=()):
    """Return a padding id as an int, or None for no padding.

    Args:
        pad_id: int in [0, vocab_size) or one of `ignored`, or None.
        vocab_size: int, the number of tokens; None: not known.
        ignored: tuple of ints that no token has, and that may stand for padding.

    Raises:
        ValueError: if `pad_id` is something else.
    """
    if pad_id is None:
        return None
    is_integer = isinstance(pad_id, (int, np.integer)) and not isinstance(pad_id, bool)
    if is_integer and pad_id in ignored:
        return int(pad_id)
    if not is_integer or pad_id < 0 or (vocab_size is not None and pad_id >= vocab_size):
        limit = "" if vocab_size is None else f" below vocab_size={vocab_size}"
        more = "".join(f", {other}" for other in ignored)
        raise ValueError(f"pad_id must be an integer >= 0{limit}{more} or None, got {pad_id!r}.")
    return int(pad_id)


def check_choice(name, value, choices):
    """Raise unless `value` is one of `choices`.

    Args:
        name: str, the argument's name in the message.
        value: the value to check.
        choices: the allowed values.

    Raises:
        ValueError: if `value` is not in `choices`.
    """
    if value not in choices:
        allowed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")


def check_length(name, token_ids, limit_name, limit):
    """Raise unless sequences stand in rows that a model can read; an unknown length passes.

    Args:
        name: str, the argument's name in the message.
        token_ids: int tensor (B, T).
        limit_name: str, the name of the limit in the message.
        limit: int, the largest T.

    Raises:
        ValueError: if the shape is not (B, T), or T > limit.
    """
    shape = token_ids.shape
    rank = shape.rank if hasattr(shape, "rank") else len(shape)  # None: unknown, TensorFlow
    if rank not in (None, 2):
        raise ValueError(
            f"{name} must have shape (B, T), got {tuple(shape)}; one sequence is {name}[None]."
        )
    length = shape[1]
    if isinstance(length, int) and length > limit:
        raise ValueError(f"{name} must have at most {limit_name}={limit} positions, got {length}.")


def check_rectangular(name, token_ids):
    """Raise if the rows are a ragged tensor of TensorFlow's: Keras would fill them with 0."""
    if hasattr(token_ids, "row_splits"):
        raise ValueError(
            f"{name} must have one length for all rows, got a ragged tensor: write "
            f"{name}.to_tensor(pad_id) and give the model that pad_id."
        )


def concrete_values(x):
    """Return `x` as a NumPy array, or None while a graph is being traced.

    Args:
        x: a tensor, array or nested list.

    Returns:
        numpy array of the same shape, or None if `x` has no values yet.
    """
    try:
        return np.asarray(x)
    except (TypeError, ValueError, NotImplementedError):
        return None


def check_token_ids(name, token_ids, vocab_size):
    """Raise unless `token_ids` are integers in [0, vocab_size).

    Without this check an id that is too large reads a wrong row on some devices
    and no error appears. Inside a traced function nothing is known but the dtype, and
    that may be one that Keras chose for its placeholders: ids without values pass.

    Args:
        name: str, the argument's name in the message.
        token_ids: integer tensor of any shape.
        vocab_size: int, the number of rows of the embedding table.

    Raises:
        TypeError: if the dtype is not an integer.
        ValueError: if an id is negative or >= vocab_size.
    """
    values = concrete_values(token_ids)
    if values is None:
        return
    if values.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got dtype {values.dtype}.")
    if values.size == 0:
        return
    for value in (values.min(), values.max()):
        if not 0 <= value < vocab_size:
            raise ValueError(
                f"{name} must be in [0, vocab_size) = [0, {vocab_size}), got {int(value)}."
            )


def copy_initializer(initializer):
    """Copy an initializer, so that each kernel draws its own numbers, also with a seed."""
    # An initializer may also be a plain function.
    return initializer.clone() if hasattr(initializer, "clone") else initializer


def check_order(order, count):
    """Return `order` as an int array; raise unless it holds 0 to count - 1 once each."""
    order = np.asarray(order)
    if sorted(order.tolist()) != list(range(count)):
        raise ValueError(f"order must hold 0 to {count - 1} once each, got {order.tolist()!r:.60}.")
    return order
