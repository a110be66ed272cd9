"""Write what TRL's DPO trainer computes; the tests compare with it.

Run it where torch and trl are installed; the tests need neither:

    python tests/references/make_preference_references.py

Made with Python 3.11.7, torch 2.13.0, trl 1.16.0, transformers 5.24.0 on a CPU.

`preferences.npz` holds the weights of two small random GPT-2 (the one that learns and the
reference), pairs of answers, and the losses "sigmoid" and "ipo" of `DPOTrainer`, float32.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

FOLDER = Path(__file__).parent
VOCAB = 50
PROMPTS = [[3, 7, 9], [5], [11, 2, 4, 8]]
CHOSEN = [[6, 13], [21, 30, 31, 8], [40]]
REJECTED = [[17, 22, 9, 44], [12], [33, 34]]


def make_gpt2():
    """Make a small GPT-2 whose weights are all random."""
    config = GPT2Config(
        vocab_size=VOCAB, n_positions=16, n_embd=16, n_layer=1, n_head=4, layer_norm_epsilon=1e-5
    )
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    model = GPT2LMHeadModel(config).eval()
    for name, weight in model.named_parameters():
        is_scale = name.endswith("weight") and weight.ndim == 1
        torch.nn.init.normal_(weight, mean=1.0 if is_scale else 0.0, std=0.3)
    return model


def make_tokenizer():
    """Make a tokenizer whose words are the ids themselves."""
    words = {str(index): index for index in range(VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="0", eos_token="1", unk_token="1"
    )


def trl_loss(model, reference, kind, beta):
    """Return the loss of TRL's trainer on the pairs, the end token added by it."""

    def written(rows):
        return [" ".join(map(str, row)) for row in rows]

    data = Dataset.from_dict(
        {
            "prompt": [text + " " for text in written(PROMPTS)],
            "chosen": written(CHOSEN),
            "rejected": written(REJECTED),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = DPOConfig(
            **{"output_dir": folder, "beta": beta, "loss_type": kind, "report_to": "none"},
            **{"per_device_train_batch_size": len(PROMPTS), "use_cpu": True, "bf16": False},
            gradient_checkpointing=False,
        )
        tokenizer = make_tokenizer()
        trainer = DPOTrainer(model, reference, arguments, None, data, processing_class=tokenizer)
        batch = next(iter(trainer.get_train_dataloader()))
        with torch.no_grad():
            loss = float(trainer.compute_loss(trainer.model, batch))
    return loss, batch["input_ids"].numpy(), batch["completion_mask"].numpy().astype(bool)


def main():
    torch.manual_seed(0)
    models_ = {"policy": make_gpt2(), "reference": make_gpt2()}
    data = {
        f"{name}/{path}": weight.detach().numpy()
        for name, model in models_.items()
        for path, weight in model.transformer.named_parameters()
    }
    for kind, beta in (("sigmoid", 0.3), ("ipo", 0.3)):
        loss, token_ids, marks = trl_loss(*models_.values(), kind, beta)
        data |= {f"loss/{kind}": np.float32(loss), "token_ids": token_ids, "is_answer": marks}
    np.savez_compressed(FOLDER / "preferences.npz", beta=np.float32(0.3), **data)


if __name__ == "__main__":
    main()
