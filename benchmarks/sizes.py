"""The sizes of the models, their weights and floating-point operations, and their data.

Shape letters: B batch, T length, D model width, L layers, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Size:
    """One model and the batch it learns from; dff is 4 D.

    Args:
        name: str.
        num_layers: int, L; an encoder-decoder has L + L.
        num_heads: int.
        d_model: int, D.
        length: int, T, the context length; of source and target in an encoder-decoder.
        batch: int, B, for training.
        vocab_size: int, V; of source and target.
        encoder_decoder: bool, False: a GPT whose embedding table is also its head; True:
            two tables and a head of their own, sinusoidal positions, post-norm.
    """

    name: str
    num_layers: int
    num_heads: int
    d_model: int
    length: int
    batch: int
    vocab_size: int
    encoder_decoder: bool = False

    @property
    def weights(self):
        """The exact number of weights; every library must have so many."""
        width = self.d_model
        # Attention has 4 D^2 + 4 D, feed-forward 8 D^2 + 5 D, a norm 2 D.
        layer = 12 * width**2 + 13 * width
        if self.encoder_decoder:
            cross_attention = 4 * width**2 + 6 * width  # with its norm
            head = (width + 1) * self.vocab_size
            return self.num_layers * (2 * layer + cross_attention) + self.looked_up + head
        return self.num_layers * layer + 2 * width + self.vocab_size * width + self.looked_up

    @property
    def looked_up(self):
        """Weights that are only looked up, never multiplied with a matrix."""
        rows = 2 * self.vocab_size if self.encoder_decoder else self.length
        return rows * self.d_model

    @property
    def step_flops(self):
        """Operations of one training step, forward and backward.

        6 N B T for the matrices of N weights, and 12 L D T B T for the products of
        queries, keys and values; an encoder-decoder has three attentions for every
        layer and its other half. Nothing is taken off for the causal mask.
        """
        tokens = self.batch * self.length
        attentions = self.num_layers * (3 if self.encoder_decoder else 1)
        matrices = 6 * (self.weights - self.looked_up) * tokens
        return matrices + 12 * attentions * self.d_model * self.length * tokens

    def token_bytes(self, precision):
        """Bytes of the weights that must be read to generate one token at batch 1."""
        return (self.weights - self.looked_up) * {"float32": 4, "bfloat16": 2, "int8": 1}[precision]

    def training_batch(self):
        """Make the one batch of random ids that every library learns.

        Returns:
            (inputs, targets), int32 (B, T); for an encoder-decoder the inputs are
            {"source": (B, T), "target": (B, T)}. No id is 0, which is padding there.
        """
        rng = np.random.default_rng(0)
        ids = rng.integers(1, self.vocab_size, (self.batch, self.length + 1), "int32")
        inputs, targets = ids[:, :-1], ids[:, 1:]
        if self.encoder_decoder:
            source = rng.integers(1, self.vocab_size, inputs.shape, "int32")
            return {"source": source, "target": inputs}, targets
        return inputs, targets

    def prompt(self, batch, length):
        """Make random prompts: int32 (batch, length)."""
        return np.random.default_rng(0).integers(1, self.vocab_size, (batch, length), "int32")


SIZES = {
    size.name: size
    for size in (
        Size("S", 4, 4, 128, length=64, batch=12, vocab_size=65),
        Size("M", 6, 6, 384, length=256, batch=8, vocab_size=65),
        Size("G", 12, 12, 768, length=1024, batch=1, vocab_size=50257),  # GPT-2, 124M
        Size("T", 4, 8, 128, length=32, batch=64, vocab_size=8000, encoder_decoder=True),
    )
}
