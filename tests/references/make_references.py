"""Write the reference values of other libraries that the tests compare with.

Run it where torch and transformers are installed; the tests need neither:

    python tests/references/make_references.py

Made with Python 3.11.7, torch 2.13.0, transformers 5.23.0, numpy 2.4.6 on a CPU.

Each file holds the weights under their library's names, the inputs and the
outputs, all float32. Every weight is random: a bias or a norm that starts at
zero or one would hide a mistake. Masks are stored as tfgpt has them, boolean
with True = may attend; PyTorch's layers take the opposite.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

FOLDER = Path(__file__).parent
BATCH, TARGET_LENGTH, SOURCE_LENGTH = 2, 5, 4
D_MODEL, NUM_HEADS, DFF = 16, 4, 24


def randomize(module):
    """Draw every weight: kernels and biases around 0, the scales of norms around 1."""
    for name, weight in module.named_parameters():
        is_scale = name.endswith("weight") and weight.ndim == 1
        torch.nn.init.normal_(weight, mean=1.0 if is_scale else 0.0, std=0.3)


def arrays(prefix, named_tensors):
    """Convert tensors to NumPy under `prefix/name`."""
    return {
        f"{prefix}/{name}": tensor.detach().numpy() for name, tensor in dict(named_tensors).items()
    }


def encoder_layer(norm_first):
    """Return a TransformerEncoderLayer's weights, input, mask and output."""
    layer = torch.nn.TransformerEncoderLayer(
        D_MODEL, NUM_HEADS, DFF, dropout=0.0, batch_first=True, norm_first=norm_first
    ).eval()
    randomize(layer)
    x = torch.randn(BATCH, SOURCE_LENGTH, D_MODEL)
    real = torch.tensor([[True, True, True, False], [True, True, False, False]])
    y = layer(x, src_key_padding_mask=~real)
    name = f"encoder_norm_first_{norm_first}"
    return arrays(name, layer.named_parameters()) | arrays(name, {"x": x, "real": real, "y": y})


def decoder_layer(norm_first):
    """Return a TransformerDecoderLayer's weights, inputs, masks and output."""
    layer = torch.nn.TransformerDecoderLayer(
        D_MODEL, NUM_HEADS, DFF, dropout=0.0, batch_first=True, norm_first=norm_first
    ).eval()
    randomize(layer)
    x = torch.randn(BATCH, TARGET_LENGTH, D_MODEL)
    memory = torch.randn(BATCH, SOURCE_LENGTH, D_MODEL)
    real = torch.tensor([[True] * TARGET_LENGTH, [True, True, True, False, False]])
    memory_real = torch.tensor([[True, True, True, False], [True, True, False, False]])
    future = torch.ones(TARGET_LENGTH, TARGET_LENGTH, dtype=torch.bool).triu(1)
    y = layer(
        x,
        memory,
        tgt_mask=future,
        tgt_key_padding_mask=~real,
        memory_key_padding_mask=~memory_real,
    )
    name = f"decoder_norm_first_{norm_first}"
    data = {"x": x, "memory": memory, "real": real, "memory_real": memory_real, "y": y}
    return arrays(name, layer.named_parameters()) | arrays(name, data)


def gpt2():
    """Return a small random GPT-2's weights, ids, mask and logits."""
    config = GPT2Config(
        vocab_size=50,
        n_positions=16,
        n_embd=32,
        n_layer=2,
        n_head=4,
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        attn_implementation="eager",
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).eval()
    randomize(model)
    ids = torch.randint(0, 50, (2, 12))
    real = torch.ones(2, 12, dtype=torch.bool)
    real[1, 9:] = False
    logits = model(ids, attention_mask=real.long()).logits
    data = {"token_ids": ids.int(), "real": real, "logits": logits}
    return arrays("weights", model.transformer.named_parameters()) | arrays("data", data)


def main():
    torch.manual_seed(0)
    # The same kernels for every mask; the fused ones skip padded rows.
    torch.backends.mha.set_fastpath_enabled(False)
    layers = {}
    for norm_first in (False, True):
        layers |= encoder_layer(norm_first) | decoder_layer(norm_first)
    np.savez_compressed(FOLDER / "torch_layers.npz", **layers)
    np.savez_compressed(FOLDER / "gpt2.npz", **gpt2())


if __name__ == "__main__":
    with torch.no_grad():
        main()
