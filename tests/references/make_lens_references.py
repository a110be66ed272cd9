"""Write the activations of TransformerLens that the tests compare with.

Run it where torch, transformers and transformer_lens are installed; the tests need none:

    python tests/references/make_lens_references.py

The weights and token ids are those of gpt2.npz, a small random GPT-2. Made with Python
3.11.7, torch 2.13.0, transformers 4.57.6, transformer_lens 2.18.0, numpy 2.4.6 on a CPU;
transformer_lens 4 has no HookedTransformer.
"""

from pathlib import Path

import numpy as np
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights
from transformers import GPT2Config, GPT2LMHeadModel

FOLDER = Path(__file__).parent
# The name of each value in tfgpt, and in TransformerLens behind "blocks.i.".
NAMES = {
    "attention.query": "attn.hook_q",
    "attention.key": "attn.hook_k",
    "attention.value": "attn.hook_v",
    "attention.weights": "attn.hook_pattern",
    "attention.heads": "attn.hook_z",
    "attention": "hook_attn_out",
    "residual_middle": "hook_resid_mid",
    "feed_forward.hidden": "mlp.hook_post",
    "feed_forward": "hook_mlp_out",
    "residual": "hook_resid_post",
}
HEADS_THIRD = ("attention.query", "attention.key", "attention.value", "attention.heads")


def make_model(reference):
    """Make the GPT-2 of gpt2.npz in TransformerLens, its weights as they are."""
    names = {"bos_token_id": None, "eos_token_id": None}
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=4, **names)
    theirs = GPT2LMHeadModel(config).eval()
    weights = {
        f"transformer.{name.removeprefix('weights/')}": torch.tensor(value)
        for name, value in reference.items()
        if name.startswith("weights/")
    }
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    theirs.load_state_dict(weights)
    hooked = HookedTransformerConfig(
        n_layers=2,
        d_model=32,
        n_ctx=16,
        d_head=8,
        n_heads=4,
        d_mlp=128,
        d_vocab=50,
        act_fn="gelu_new",
        normalization_type="LN",
        eps=1e-5,
        device="cpu",
    )
    model = HookedTransformer(hooked)
    state = convert_gpt2_weights(theirs, hooked)
    as_they_are = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    model.load_and_process_state_dict(state, **dict.fromkeys(as_they_are, False))
    return model.eval()


def read(model, ids):
    """Return all values by tfgpt's names, the logit lens, and the logits of a patched run."""
    logits, cache = model.run_with_cache(ids)
    found = {"embedding": cache["hook_embed"] + cache["hook_pos_embed"], "logits": logits}
    found["final_norm"] = model.ln_final(cache["blocks.1.hook_resid_post"])
    for index in range(2):
        for ours, theirs in NAMES.items():
            value = cache[f"blocks.{index}.{theirs}"]
            value = value.transpose(1, 2) if ours in HEADS_THIRD else value
            found[f"blocks.{index}.{ours}"] = value
    streams = cache.accumulated_resid(layer=-1, apply_ln=False)
    found["logit_lens"] = torch.stack([model.unembed(model.ln_final(x)) for x in streams])

    def without_head_1(z, hook):
        z[:, :, 1] = 0
        return z

    hooks = [("blocks.0.attn.hook_z", without_head_1)]
    found["logits_without_head_1_of_block_0"] = model.run_with_hooks(ids, fwd_hooks=hooks)
    return {name: value.detach().numpy() for name, value in found.items()}


def main():
    reference = dict(np.load(FOLDER / "gpt2.npz"))
    ids = torch.tensor(reference["data/token_ids"]).long()
    np.savez_compressed(FOLDER / "transformer_lens.npz", **read(make_model(reference), ids))


if __name__ == "__main__":
    with torch.no_grad():
        main()
