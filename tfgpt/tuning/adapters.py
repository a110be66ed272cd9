"""Adapters: small trainable layers beside the frozen layers of a model.

`adapt(model, LoRA(rank=8))` finds Dense layers by a pattern, puts an adapter layer beside
each, and freezes everything else. The base keeps every bit; taking the adapters off gives it
back. Shape letters: B batch, T length, D inputs of a Dense layer, K its outputs, r rank.
"""

import abc
import hashlib
import re

import keras
import numpy as np


class AdapterLayer(keras.layers.Layer):
    """What stands beside one Dense layer.

    Args:
        dense: keras.layers.Dense, built.
        name: str.
    """

    def __init__(self, dense, name):
        # Weights in float32, products in the compute dtype of the layer.
        half = dense.compute_dtype != "float32"
        super().__init__(name=name, dtype=f"mixed_{dense.compute_dtype}" if half else "float32")
        size = getattr(dense, "_orig_input_dim", None) or dense._kernel.shape[0]
        self.sizes = (int(size), int(dense.units))  # D, K
        self.is_quantized = bool(dense.quantization_mode)
        self.__dict__["dense"] = dense  # not as a part of this layer
        self.__dict__["plain"] = dense.quantized_call if self.is_quantized else dense.call
        if self.is_quantized and dense.activation is not keras.activations.linear:
            raise ValueError(
                f"layers must have no activation where they are quantized, got {dense.path}."
            )

    def product(self, x):
        """Compute what the Dense layer does before its activation: (B, T, D) -> (B, T, K)."""
        dense = self.dense
        if dense.activation is keras.activations.linear:
            return self.plain(x)
        output = keras.ops.matmul(x, dense.kernel)
        return output if dense.bias is None else output + dense.bias

    def call(self, x, training=None):
        """Compute in place of the Dense layer: (B, T, D) -> (B, T, K)."""
        return self.dense.activation(self.adapted(x, training))

    @abc.abstractmethod
    def adapted(self, x, training):
        """Compute the adapted product: (B, T, D) -> (B, T, K)."""

    def merged(self):
        """Return the kernel (D, K) and bias (K,) that do the same without the adapter.

        Raises:
            ValueError: if there are none.
        """
        raise ValueError(f"a {type(self).__name__} cannot be merged: it is no product.")


class AdapterSet(abc.ABC):
    """What all ways of adapting a model share: a frozen base and some weights beside it.

    Attributes: model, the model to train and use; base; settings, how it was made;
    base_hash, a digest of the weights of the base.

    Args:
        base: Keras model, built.
        settings: LoRA, AdaLoRA, Bottleneck, IA3, PrefixTuning or PromptTuning.
    """

    def __init__(self, base, settings):
        self.base, self.model, self.settings = base, base, settings
        self.base_hash = hash_weights(base)
        self.layers = {}  # adapter layers by path
        self.were_trainable = None

    def attach(self):
        """Put the adapters in their places and freeze the base."""
        if self.were_trainable is not None:
            raise ValueError("adapters must be off to be attached: detach them first.")
        self.were_trainable = [(weight, weight.trainable) for weight in base_weights(self.base)]
        for weight, _ in self.were_trainable:
            weight.trainable = False
        return self

    def detach(self):
        """Take the adapters off: the base is as it was, bit for bit, and trainable again."""
        if self.were_trainable is None:
            raise ValueError("adapters must be attached to be detached.")
        for weight, was_trainable in self.were_trainable:
            weight.trainable = was_trainable
        self.were_trainable = None
        return self

    @abc.abstractmethod
    def merge(self):
        """Write the adapters into the kernels of the base."""

    @property
    def weights(self):
        """Map "path/name" of each weight of the adapters to it."""
        return {
            f"{path}/{weight.path.rpartition('/')[2]}": weight
            for path, layer in self.layers.items()
            for weight in layer.weights
        }

    @property
    def share(self):
        """The trainable share: weights of the adapters over all weights, 0 to 1."""
        own, base = count(self.weights.values()), count(base_weights(self.base))
        return own / (own + base)


class Adapters(AdapterSet):
    """Adapters beside Dense layers: on or off, merged or not. Use `adapt` to make them.

    `model` is the base itself; `layers` maps the path of a Dense layer to its adapter.

    Args:
        base: Keras model, built.
        settings: LoRA, AdaLoRA, Bottleneck or IA3.
    """

    def __init__(self, base, settings):
        super().__init__(base, settings)
        for path, dense in find_dense_layers(base, settings.layers).items():
            check_free(path, dense)
            layer = settings.make_layer(dense, path.replace("/", "_"))
            layer.build((None, None, layer.sizes[0]))
            self.layers[path] = layer
        self.originals = None  # weights and their values before a merge
        self.attach()

    def attach(self):
        if self.originals is not None:
            raise ValueError("adapters must not be merged to be attached: unmerge them first.")
        for path, layer in self.layers.items():
            check_free(path, layer.dense)
        super().attach()
        for layer in self.layers.values():
            # The method of this one instance: what Keras calls from now on.
            layer.dense.__dict__.update(call=layer.__call__, quantized_call=layer.__call__)
            self.base._layers.append(layer)  # Keras finds its weights there
        return self

    def detach(self):
        super().detach()
        for layer in self.layers.values():
            del layer.dense.__dict__["call"], layer.dense.__dict__["quantized_call"]
            self.base._layers.remove(layer)
        return self

    def merge(self):
        """Write the adapters into the kernels: the plain model computes the same, as fast as ever.

        Raises:
            ValueError: if they are merged already, off, of a kind that cannot be merged, or
                a layer is quantized.
        """
        if self.originals is not None:
            raise ValueError("adapters must not be merged twice: they are in the kernels already.")
        quantized = [path for path, layer in self.layers.items() if layer.is_quantized]
        if quantized:
            raise ValueError(f"layers must not be quantized to merge, got {quantized[0]!r}.")
        merged = [layer.merged() for layer in self.layers.values()]
        self.detach()
        self.originals = []
        for layer, values in zip(self.layers.values(), merged, strict=True):
            for weight, value in zip((layer.dense.kernel, layer.dense.bias), values, strict=True):
                if weight is not None:
                    self.originals.append((weight, keras.ops.convert_to_numpy(weight)))
                    weight.assign(value)
        return self

    def unmerge(self):
        """Undo `merge`: the base comes back bit for bit, with the adapters beside it."""
        if self.originals is None:
            raise ValueError("adapters must be merged to be unmerged.")
        for weight, value in self.originals:
            weight.assign(value)
        self.originals = None
        return self.attach()


def adapt(model, settings):
    """Add adapters to a model and freeze everything else.

    Args:
        model: Keras model, built: GPT, Transformer, or any with Dense layers; for
            PrefixTuning and PromptTuning a GPT.
        settings: LoRA, AdaLoRA, Bottleneck, IA3, PrefixTuning or PromptTuning.

    Returns:
        Adapters, whose `model` is to be trained and used. With PrefixTuning and PromptTuning
        that is another model than the base, and there are VirtualTokens in place of Adapters.

    Raises:
        ValueError: if the pattern of the settings matches no Dense layer, or the model is
            not built.

    Example:
        >>> from tfgpt import GPT
        >>> from tfgpt.tuning import LoRA
        >>> model = GPT(10, context_length=4, num_layers=1, d_model=8, num_heads=2)
        >>> adapters = adapt(model, LoRA(rank=2))
        >>> len(model.trainable_weights), round(adapters.share, 3)
        (4, 0.06)

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021).
    """
    if not model.built:
        raise ValueError("model must be built: call it once on a batch first.")
    return settings.adapt(model) if hasattr(settings, "adapt") else Adapters(model, settings)


def find_dense_layers(model, pattern):
    """Find the Dense layers whose path a regular expression matches.

    Args:
        model: Keras model, built.
        pattern: str, searched in paths such as "decoder_0/self_attention/query".

    Returns:
        dict from path, without the name of the model, to layer.

    Raises:
        ValueError: if it is no regular expression or matches none, with the paths there are.
    """
    denses = {
        layer.path.partition(f"{model.name}/")[2] or layer.path: layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, keras.layers.Dense)
    }
    try:
        found = {path: dense for path, dense in denses.items() if re.search(pattern, path)}
    except re.error as error:
        raise ValueError(
            f"layers must be a regular expression, got {pattern!r}: {error}."
        ) from None
    if not found:
        known = ", ".join(sorted({re.sub(r"\d+", "*", path) for path in denses}))
        raise ValueError(
            f"layers must match the path of a Dense layer, got {pattern!r}; there are: {known}."
        )
    return found


def check_free(path, dense):
    """Raise if a Dense layer has an adapter already."""
    if "call" in dense.__dict__:
        raise ValueError(
            f"a layer must have one adapter at a time, got {path!r}: detach that first."
        )


def base_weights(model):
    """List the weights of a model without those of its adapters."""
    adapters = [layer for layer in model._layers if isinstance(layer, AdapterLayer)]
    own = {id(weight) for layer in adapters for weight in layer.weights}
    return [weight for weight in model.weights if id(weight) not in own]


def count(weights):
    """Count the numbers in weights."""
    return sum(int(np.prod(weight.shape)) for weight in weights)


def hash_weights(model):
    """Return a digest of the weights of a base, in their order: another base, another one."""
    digest = hashlib.sha256()
    for weight in base_weights(model):
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]
