"""PyTorch: a training step with fused AdamW, eager or compiled, float32 or autocast."""

import torch
from torch.nn import functional

from benchmarks import torch_models
from benchmarks.sizes import Size
from benchmarks.worker import Job, repeat


def make_job(settings):
    """Make the job that the settings describe; see `benchmarks.comparisons`."""
    size = Size(**settings["size"])
    torch.manual_seed(0)
    model = torch_models.Translator(size) if size.encoder_decoder else torch_models.GPT(size)
    step = make_step(model, size, settings)
    weights = sum(weight.numel() for weight in model.parameters())
    return Job(repeat(step), ("torch",), weights)


def make_step(model, size, settings):
    """Make the function that learns the batch once and returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    inputs, targets = as_tensors(size.training_batch())
    predict = torch.compile(model) if settings["compile"] else model

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=settings["precision"] == "bfloat16"):
            loss = functional.cross_entropy(predict(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


def as_tensors(batch):
    """Turn a batch of NumPy arrays into int64 tensors."""
    if isinstance(batch, dict):
        return {name: as_tensors(part) for name, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(as_tensors(part) for part in batch)
    return torch.from_numpy(batch.astype("int64"))
