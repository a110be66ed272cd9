"""Masks: which key each query may attend to.

One convention everywhere: boolean, True = may attend, broadcastable to
(B, H, T, S). B batch, H heads, T query length, S key length.
Masks are computed from token ids and passed explicitly.
Built step by step in notebook 02.
"""

import inspect
import re

import keras
from keras import ops

from tfgpt.validation import concrete_values

# A masked score. Finite, so that a fully masked row gives no NaN (-inf - -inf);
# far below any real score in float32, in which the softmax is computed.
MASKED_SCORE = -1e9


def padding_mask(token_ids, pad_id=0):
    """Mark the keys that hold real tokens.

    Args:
        token_ids: int tensor (B, S).
        pad_id: int, the id that stands for padding.

    Returns:
        bool tensor (B, 1, 1, S), True where the token is not padding.

    Raises:
        ValueError: if `token_ids` is not of rank 2, or pad_id is None.

    Example:
        >>> import numpy as np
        >>> np.array(padding_mask(np.array([[7, 6, 0]])))[0, 0, 0].tolist()
        [True, True, False]
    """
    token_ids = ops.convert_to_tensor(token_ids)
    if len(token_ids.shape) != 2:
        raise ValueError(f"token_ids must have shape (B, S), got {tuple(token_ids.shape)}.")
    if pad_id is None:
        raise ValueError("pad_id must be an integer, got None: without padding use no mask.")
    # (B, S) -> (B, 1, 1, S)
    return ops.expand_dims(ops.not_equal(token_ids, pad_id), (1, 2))


def left_padding(token_ids, pad_id):
    """Count the padding before the first real token of each row: (B, T) -> int32 (B, 1)."""
    is_real = ops.cast(ops.not_equal(token_ids, pad_id), "int32")
    return ops.cast(ops.argmax(is_real, axis=1, keepdims=True), "int32")


def causal_mask(query_length, key_length=None, offset=0):
    """Let query i see key j exactly when j <= i + offset.

    Args:
        query_length: int T >= 0, or a scalar integer tensor.
        key_length: int S, or a scalar integer tensor; default: query_length.
        offset: int, or a scalar integer tensor: how many keys come before the
            first query. A decoder that keeps 5 earlier keys uses offset=5.

    Returns:
        bool tensor (1, 1, T, S).

    Raises:
        ValueError: if a length is negative, or None as in a symbolic shape.

    Example:
        >>> import numpy as np
        >>> np.array(causal_mask(2, 3, offset=1))[0, 0].tolist()
        [[True, True, False], [True, True, True]]

    Source: "Attention Is All You Need", section 3.2.3.
    """
    key_length = query_length if key_length is None else key_length
    for name, length in (("query_length", query_length), ("key_length", key_length)):
        if length is None:
            raise ValueError(
                f"{name} must be known, got None: give keras.Input a fixed length, or build the "
                "mask inside a layer."
            )
        value = concrete_values(length)
        # An exporter's symbolic length is an object.
        if value is not None and value.dtype.kind in "iu" and value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}.")
    query_index = ops.arange(query_length, dtype="int32")[:, None]  # (T, 1)
    key_index = ops.arange(key_length, dtype="int32")[None, :]  # (1, S)
    # (T, S) -> (1, 1, T, S)
    return ops.expand_dims(key_index <= query_index + offset, (0, 1))


def check_mask(mask, name="mask"):
    """Raise unless `mask` is a boolean tensor.

    Args:
        mask: the tensor to check.
        name: str, the argument's name in the message.

    Returns:
        the mask as a backend tensor.

    Raises:
        TypeError: if the dtype is not bool.
    """
    if not isinstance(mask, keras.KerasTensor):
        mask = ops.convert_to_tensor(mask)
    dtype = keras.backend.standardize_dtype(mask.dtype)
    if dtype != "bool":
        raise TypeError(
            f"{name} must be boolean with True = may attend, got dtype {dtype}. "
            "Older code uses numbers with 1 = masked: convert such a mask with (mask == 0)."
        )
    return mask


def combine_masks(*masks):
    """Allow a position only where every mask allows it.

    Args:
        *masks: bool tensors that broadcast together; None is skipped.

    Returns:
        bool tensor of the broadcast shape, or None if every mask is None.

    Raises:
        TypeError: if a mask is not boolean.
        ValueError: if the shapes do not broadcast together.

    Example:
        >>> import numpy as np
        >>> ids = np.array([[7, 0, 9]])
        >>> np.array(combine_masks(padding_mask(ids), causal_mask(3)))[0, 0, 2].tolist()
        [True, False, True]
    """
    combined = None
    for index, mask in enumerate(masks):
        if mask is None:
            continue
        mask = check_mask(mask, f"masks[{index}]")
        if combined is None:
            combined = mask
            continue
        check_broadcastable(f"masks[{index}]", mask.shape, combined.shape, both_ways=True)
        combined = ops.logical_and(combined, mask)
    return combined


def check_broadcastable(name, shape, target_shape, both_ways=False):
    """Raise unless `shape` broadcasts to `target_shape`; unknown sizes (None) pass.

    Args:
        name: str, the argument's name in the message.
        shape: tuple of int or None.
        target_shape: tuple of int or None.
        both_ways: bool, let a size 1 in `target_shape` grow as well.

    Raises:
        ValueError: if the shapes do not fit.
    """
    shape, target_shape = tuple(shape), tuple(target_shape)
    pairs = zip(reversed(shape), reversed(target_shape), strict=False)
    fits = all(
        size is None or target is None or size in (1, target) or (both_ways and target == 1)
        for size, target in pairs
    )
    if not fits or (len(shape) > len(target_shape) and not both_ways):
        raise ValueError(f"{name} must be broadcastable to {target_shape}, got shape {shape}.")


def fit_mask(mask, shape):
    """Return a mask that broadcasts to attention scores of a shape.

    Args:
        mask: bool tensor.
        shape: tuple of int or None, (B, H, T, S), (B, T, S) or (T, S).

    Returns:
        the mask; its head axis of size 1 is dropped if the scores have no heads.

    Raises:
        TypeError: if the mask is not boolean.
        ValueError: if it does not broadcast, or its axes could be meant otherwise.
    """
    mask = check_mask(mask)
    rank = len(mask.shape)
    if rank == 4 and len(shape) == 3 and mask.shape[1] == 1:
        mask = mask[:, 0]  # (B, 1, T, S) -> (B, T, S)
    if rank == 2 and len(shape) > 2 and (mask.shape[0] is None or mask.shape[0] == shape[0] != 1):
        # It has the look of a padding mask (B, S), which would be read as (T, S).
        raise ValueError(
            f"mask must not have rank 2 with batch size {shape[0]} first, got shape "
            f"{tuple(mask.shape)}: write mask[:, None, None] for padding (B, S), mask[None, None] "
            "for one mask (T, S) of all sequences."
        )
    check_broadcastable("mask", mask.shape, shape)
    if len(mask.shape) == 3 and len(shape) == 4 and mask.shape[0] != 1:
        raise ValueError(
            f"mask must have rank 2 (T, S) or 4 (B, H, T, S), got shape {tuple(mask.shape)}: "
            "write mask[:, None] for one mask per sequence, mask[None] for one per head."
        )
    return mask


def create_masks(source_ids, target_ids, pad_id=0):
    """Build the three masks of an encoder-decoder from its token ids.

    Args:
        source_ids: int tensor (B, S), what the encoder reads.
        target_ids: int tensor (B, T), what the decoder reads.
        pad_id: int, the id that stands for padding.

    Returns:
        encoder_mask: bool (B, 1, 1, S), hides source padding from the encoder.
        decoder_mask: bool (B, 1, T, T), hides target padding and the future.
        cross_mask: bool (B, 1, 1, S), hides source padding from the decoder.

    Raises:
        ValueError: if an id tensor is not of rank 2.

    Example:
        >>> import numpy as np
        >>> masks = create_masks(np.array([[5, 0]]), np.array([[1, 2, 3]]))
        >>> [tuple(mask.shape) for mask in masks]
        [(1, 1, 1, 2), (1, 1, 3, 3), (1, 1, 1, 2)]

    Source: "Attention Is All You Need", section 3.2.3.
    """
    target_length = ops.shape(target_ids)[1]
    encoder_mask = padding_mask(source_ids, pad_id)
    decoder_mask = combine_masks(padding_mask(target_ids, pad_id), causal_mask(target_length))
    return encoder_mask, decoder_mask, encoder_mask


def merge_attached_mask(mask, keys):
    """Add the padding mask that Keras attached to `keys`, if there is one.

    Args:
        mask: bool tensor, broadcastable to (B, H, T, S), or None.
        keys: float tensor (B, S, D), the sequence that is attended to.
            `Embedding(mask_zero=True)` attaches a (B, S) mask to its output.

    Returns:
        bool tensor, broadcastable to (B, H, T, S), or None.
    """
    attached = attached_mask(keys)
    # (B, S) -> (B, 1, 1, S)
    return mask if attached is None else combine_masks(mask, ops.expand_dims(attached, (1, 2)))


def attached_mask(x):
    """Return the (B, S) mask that Keras attached to a tensor, or None."""
    return getattr(x, "_keras_mask", None)


def policy_of(layer):
    """Return the dtype policy of one layer, where a model has a map of them."""
    policy = layer.dtype_policy
    return policy[layer.path] if isinstance(policy, keras.dtype_policies.DTypePolicyMap) else policy


def serialize_policy(layer):
    """Describe the dtype policies of a layer and of all layers inside, for its config.

    A layer inside may have a policy of its own: `quantize` gives it one, or a user.
    """
    own, others = policy_of(layer), {}
    for inner in layer._flatten_layers(include_self=False):
        if inner.path and policy_of(inner) != own:
            place = re.escape(inner.path.removeprefix(f"{layer.path}/"))
            others[f"(.*/)?{re.escape(layer.name)}/{place}"] = policy_of(inner)
    policy = keras.dtype_policies.DTypePolicyMap(own, others) if others else own
    return keras.dtype_policies.serialize(policy)


class MaskedLayer(keras.layers.Layer):
    """A layer whose attention mask is always explicit.

    Keras hands a padding mask (B, S) to any argument named `mask`, where it could
    be taken for (T, S). Here it is merged into `mask` in its full shape before
    Keras looks, so layers compose with `Embedding(mask_zero=True)`.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def __call__(self, *args, **kwargs):
        arguments = inspect.signature(self.call).bind(*args, **kwargs).arguments
        # In older code the second argument is `training`; here it would become a mask.
        for name, value in zip(arguments, args, strict=False):
            if isinstance(value, bool):
                raise ValueError(
                    f"{name} must be a tensor or None, got {value}. Pass training and "
                    "return_attention_weights by keyword."
                )
        first_name = next(iter(arguments))
        first = arguments.pop(first_name)
        keys = arguments.get("key")
        for name, value in arguments.items():
            if name.endswith("mask") and value is not None:
                check_mask(value, name)
        mask = merge_attached_mask(arguments.get("mask"), first if keys is None else keys)
        if mask is not None:
            arguments["mask"] = mask
        return super().__call__(first, **arguments)

    def get_config(self):
        return {**super().get_config(), "dtype": serialize_policy(self)}

    def compute_mask(self, inputs, previous_mask):
        # The padding of the input is the padding of the output; the attention
        # mask of this call is not.
        return attached_mask(inputs)
