"""The models of tfgpt in PyTorch, with the same weights: GPT as in nanoGPT, nn.Transformer.

Shape letters: B batch, T length, D model width, V vocabulary.
"""

import math

import torch
from torch import nn
from torch.nn import functional


class GPT(nn.Module):
    """ids (B, T) -> logits (B, T, V): learned positions, pre-norm, one table for both ends."""

    def __init__(self, size):
        super().__init__()
        self.tokens = nn.Embedding(size.vocab_size, size.d_model)
        self.positions = nn.Embedding(size.length, size.d_model)
        self.blocks = nn.ModuleList([Block(size) for _ in range(size.num_layers)])
        self.norm = nn.LayerNorm(size.d_model)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                # The matrices that end on the residual path begin smaller, as in GPT-2.
                is_last = name.endswith("output.weight")
                nn.init.normal_(weight, std=0.02 / (2 * size.num_layers) ** (0.5 * is_last))
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.tokens.weight)


class Block(nn.Module):
    """Attention and feed-forward network, each behind a norm: (B, T, D) -> (B, T, D)."""

    def __init__(self, size):
        super().__init__()
        self.attention_norm = nn.LayerNorm(size.d_model)
        self.attention = Attention(size.d_model, size.num_heads)
        self.norm = nn.LayerNorm(size.d_model)
        self.hidden = nn.Linear(size.d_model, 4 * size.d_model)
        self.output = nn.Linear(4 * size.d_model, size.d_model)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.output(functional.gelu(self.hidden(self.norm(x))))


class Attention(nn.Module):
    """Causal self-attention with one projection for queries, keys and values."""

    def __init__(self, width, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x):
        # (B, T, 3 D) -> 3 times (B, H, T, D / H)
        parts = self.inputs(x).split(x.shape[-1], dim=-1)
        heads = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        x = functional.scaled_dot_product_attention(*heads, is_causal=True)
        return self.output(x.transpose(1, 2).flatten(-2))


class Translator(nn.Module):
    """{"source", "target"} ids (B, T) -> logits (B, T, V), with nn.Transformer in between.

    Only the causal mask is given: the batch has no padding.
    """

    def __init__(self, size):
        super().__init__()
        self.width = size.d_model
        self.source = nn.Embedding(size.vocab_size, size.d_model)
        self.target = nn.Embedding(size.vocab_size, size.d_model)
        for table in (self.source, self.target):
            nn.init.normal_(table.weight, std=size.d_model**-0.5)
        self.transformer = nn.Transformer(
            size.d_model,
            size.num_heads,
            size.num_layers,
            size.num_layers,
            4 * size.d_model,
            dropout=0.0,
            batch_first=True,
        )
        # Post-norm layers end in a norm: the paper and tfgpt have no other one.
        self.transformer.encoder.norm = self.transformer.decoder.norm = None
        self.head = nn.Linear(size.d_model, size.vocab_size)
        self.register_buffer("positions", sinusoids(size.length, size.d_model))
        self.register_buffer(
            "mask", nn.Transformer.generate_square_subsequent_mask(size.length), persistent=False
        )

    def forward(self, ids):
        source, target = (
            table(ids[name]) * self.width**0.5 + self.positions
            for name, table in (("source", self.source), ("target", self.target))
        )
        return self.head(self.transformer(source, target, tgt_mask=self.mask, tgt_is_causal=True))


def sinusoids(length, width):
    """Make the positions of the paper, section 3.5: (T, D)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
