"""What a GPT computes on the way, by name: to read it, and to put something else in its place.

`walk` runs a GPT by its public parts and shows every value to a visitor. No hook is left in
the model, so nothing has to be taken off again. Shape letters: B batch, T length, D model
width, H heads, K head width, V vocabulary, L layers.
"""

from fnmatch import fnmatchcase

import numpy as np
from keras import ops

from tfgpt.attention import attention_scores, masked_softmax, weighted_sum
from tfgpt.gpt import GPT
from tfgpt.layers import activate
from tfgpt.masks import combine_masks
from tfgpt.validation import check_length

# What a block computes, in this order; see `activations` for the shapes.
PARTS = (
    *("attention.query", "attention.key", "attention.value", "attention.scores"),
    *("attention.weights", "attention.heads", "attention", "residual_middle"),
    *("feed_forward.hidden", "feed_forward", "residual"),
)


def activation_names(model):
    """List the names of all values of a GPT, in the order in which they are computed.

    Args:
        model: GPT.

    Returns:
        list of str: "embedding", "blocks.0.attention.query", ..., "final_norm", "logits".

    Raises:
        TypeError: if the model is no GPT.

    Example:
        >>> from tfgpt import GPT
        >>> model = GPT(10, context_length=4, num_layers=1, d_model=8, num_heads=2)
        >>> names = activation_names(model)
        >>> names[0], names[5], names[-1], len(names)
        ('embedding', 'blocks.0.attention.weights', 'logits', 14)
    """
    check_gpt(model)
    blocks = [f"blocks.{index}.{part}" for index in range(model.num_layers) for part in PARTS]
    return ["embedding", *blocks, "final_norm", "logits"]


def activations(model, token_ids, names=None, mask=None):
    """Run a GPT and return what it computes on the way. Dropout is off.

    Names and shapes: "embedding" (B, T, D), "final_norm" (B, T, D), "logits" (B, T, V), and
    of block i, under "blocks.i.":

    - "attention.query", "attention.key", "attention.value": (B, H, T, K), rotated where
      positions are rotary;
    - "attention.scores": float32 (B, H, T, T), before the mask;
    - "attention.weights": float32 (B, H, T, T), rows sum to 1;
    - "attention.heads": (B, H, T, K), the weighted values of each head;
    - "attention": (B, T, D), what the sublayer adds;
    - "residual_middle": (B, T, D), the stream between the sublayers;
    - "feed_forward.hidden": (B, T, dff), after the activation function;
    - "feed_forward": (B, T, D), what the sublayer adds;
    - "residual": (B, T, D), the stream behind the block.

    Args:
        model: GPT of any configuration, with LoRA, IA3 or bottleneck adapters too.
        token_ids: int array (B, T).
        names: a name or a list of names, in which * stands for anything:
            "blocks.*.residual"; None: all.
        mask: bool array, broadcastable to (B, H, T, T), hides more than the model does.

    Returns:
        dict from name to tensor, in the order of the computation.

    Raises:
        TypeError: if the model is no GPT.
        ValueError: if a name fits no value, or the input is too long.

    Example:
        >>> from tfgpt import GPT
        >>> model = GPT(10, context_length=4, num_layers=2, d_model=8, num_heads=2)
        >>> found = activations(model, np.array([[1, 2, 3]]), "blocks.*.attention.weights")
        >>> {name: tuple(value.shape) for name, value in found.items()}
        {'blocks.0.attention.weights': (1, 2, 3, 3), 'blocks.1.attention.weights': (1, 2, 3, 3)}
    """
    wanted, found = find_names(model, ["*"] if names is None else names), {}

    def keep(name, value):
        if name in wanted:
            found[name] = value
        return value

    walk(model, token_ids, keep, mask)
    return found


def patched(model, token_ids, changes, mask=None):
    """Run a GPT with some of its values replaced: what would it say if this were another?

    Everything behind a replaced value is computed from the new one.

    Args:
        model: GPT.
        token_ids: int array (B, T).
        changes: dict from a name of `activation_names` to an array of the value's shape, or
            to a function from the value to such an array, to replace a part of it.
        mask: bool array, broadcastable to (B, H, T, T), hides more than the model does.

    Returns:
        logits, float32 (B, T, V).

    Raises:
        TypeError: if the model is no GPT.
        ValueError: if a name is unknown or a shape differs.

    Example:
        >>> from tfgpt import GPT
        >>> model = GPT(10, context_length=4, num_layers=2, d_model=8, num_heads=2)
        >>> ids, others = np.array([[1, 2, 3]]), np.array([[1, 2, 4]])
        >>> last = activations(model, others, "blocks.1.residual")
        >>> bool(np.allclose(patched(model, ids, last), model(others)))
        True

    Source: Meng et al., "Locating and Editing Factual Associations in GPT" (2022), section 2.
    """
    find_names(model, list(changes))

    def change(name, value):
        if name not in changes:
            return value
        new = changes[name]
        new = ops.convert_to_tensor(new(value) if callable(new) else new, dtype=value.dtype)
        if tuple(new.shape) != tuple(value.shape):
            raise ValueError(
                f"changes[{name!r}] must have shape {tuple(value.shape)}, got {tuple(new.shape)}."
            )
        return new

    return walk(model, token_ids, change, mask)


def walk(model, token_ids, visit, mask=None):
    """Run a GPT; after each part `visit(name, value)` says with which value it goes on.

    Args:
        model: GPT.
        token_ids: int array (B, T).
        visit: function of a name of `activation_names` and its value, returns a value.
        mask: bool array, broadcastable to (B, H, T, T), or None.

    Returns:
        logits, float32 (B, T, V).
    """
    token_ids = np.asarray(token_ids) if isinstance(token_ids, list) else token_ids
    check_length("token_ids", token_ids, "context_length", model.context_length)
    mask = combine_masks(mask, model.own_mask(token_ids))
    x = visit("embedding", model.embed(token_ids))  # (B, T) -> (B, T, D)
    for index, layer in enumerate(model.decoder_layers):
        x = walk_block(layer, x, mask, lambda part, x, i=index: visit(f"blocks.{i}.{part}", x))
    x = visit("final_norm", model.final_norm(x))
    return visit("logits", model.logits(x))  # (B, T, D) -> (B, T, V)


def walk_block(layer, x, mask, visit):
    """Run one block: (B, T, D) -> (B, T, D)."""

    def attend(x):
        return walk_attention(layer.self_attention, x, mask, visit), None

    def transform(x):
        return walk_feed_forward(layer.feed_forward, x, visit), None

    x, _ = layer.residual(x, layer.self_attention_norm, attend, training=False)
    x = visit("residual_middle", x)
    x, _ = layer.residual(x, layer.feed_forward_norm, transform, training=False)
    return visit("residual", x)


def walk_attention(attention, x, mask, visit):
    """Run the attention of a block: (B, T, D) -> (B, T, D)."""
    query, key, value = attention.project(x, x, x)  # (B, H, T, K) each
    query, key = visit("attention.query", query), visit("attention.key", key)
    value = visit("attention.value", value)
    scores = visit("attention.scores", attention_scores(query, key))  # (B, H, T, T)
    weights = visit("attention.weights", masked_softmax(scores, mask))
    heads = visit("attention.heads", weighted_sum(weights, value))  # (B, H, T, K)
    output = attention.output_projection(attention.merge_heads(heads))
    return visit("attention", output)  # (B, T, D)


def walk_feed_forward(feed_forward, x, visit):
    """Run the feed-forward network of a block: (B, T, D) -> (B, T, D)."""
    hidden = activate(feed_forward.activation, feed_forward.expand(x))  # (B, T, dff)
    hidden = visit("feed_forward.hidden", hidden)
    return visit("feed_forward", feed_forward.contract(hidden))


def find_names(model, patterns):
    """Return the names that patterns such as "blocks.*.residual" fit; raise if one fits none."""
    names = activation_names(model)
    patterns = [patterns] if isinstance(patterns, str) else patterns
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"names must fit values of the model, got {pattern!r}; there are: embedding, "
                f"final_norm, logits, and in each block i < {model.num_layers} "
                f"blocks.i. and one of {', '.join(PARTS)}."
            )
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


def check_gpt(model):
    """Raise unless a model is a GPT."""
    if not isinstance(model, GPT):
        raise TypeError(f"model must be a GPT, got {type(model).__name__}.")
