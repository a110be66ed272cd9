"""Hugging Face Transformers: GPT2LMHeadModel.generate with its cache of keys and values."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.sizes import Size
from benchmarks.worker import Job, repeat


def make_job(settings):
    """Make the job that the settings describe; see `benchmarks.comparisons`."""
    size = Size(**settings["size"])
    torch.manual_seed(0)
    model = make_model(size)
    model = model.to(getattr(torch, settings["precision"])).eval()
    weights = sum(weight.numel() for weight in model.parameters())
    prompt = torch.from_numpy(size.prompt(settings["batch"], settings["prompt"]).astype("int64"))
    new_tokens = settings["new_tokens"]

    def call():
        with torch.inference_mode():
            return model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=new_tokens,
                do_sample=settings["sample"],
                top_k=0,  # all tokens
                use_cache=True,
            )

    def finish(ids):
        expected = prompt.shape[0], prompt.shape[1] + new_tokens
        if tuple(ids.shape) != expected:
            raise RuntimeError(f"generated ids must have the shape {expected}, got {ids.shape}")

    return Job(repeat(call, finish), ("torch", "transformers"), weights, units=new_tokens)


def make_model(size):
    """Make the untrained GPT-2 of a size; no token ends a text."""
    config = GPT2Config(
        vocab_size=size.vocab_size,
        n_positions=size.length,
        n_embd=size.d_model,
        n_layer=size.num_layers,
        n_head=size.num_heads,
        activation_function="gelu",  # one kernel; the default is a chain of small ones
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config)
