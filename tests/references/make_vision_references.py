"""Write the reference values of Hugging Face's ViT and CLIP that the tests compare with.

Run it where torch and transformers are installed; the tests need neither:

    python tests/references/make_vision_references.py

Made with Python 3.11, torch 2.13.0, transformers 5.24.0, numpy 2.4.6 on a CPU. Weights stand
under their library's names; every weight is random. Images are stored as (B, H, W, 3) in
[0, 1]; a ViT reads them as (B, 3, H, W), shifted to [-1, 1].
"""

from pathlib import Path

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

FOLDER = Path(__file__).parent


def randomize(module):
    """Draw every weight: kernels and biases around 0, the scales of norms around 1."""
    for name, weight in module.named_parameters():
        is_scale = name.endswith("weight") and weight.ndim == 1
        torch.nn.init.normal_(weight, mean=1.0 if is_scale else 0.0, std=0.3)


def pixels(images):
    """Write images as a ViT reads them: (B, H, W, 3) in [0, 1] -> (B, 3, H, W) in [-1, 1]."""
    return 2 * images.permute(0, 3, 1, 2) - 1


def vit_model():
    """Make a small random ViT."""
    config = ViTConfig(
        image_size=16,
        patch_size=8,
        num_hidden_layers=2,
        hidden_size=16,
        num_attention_heads=4,
        intermediate_size=24,
        layer_norm_eps=1e-6,
        attn_implementation="eager",
    )
    model = ViTModel(config, add_pooling_layer=False).eval()
    randomize(model)
    return model


def vit():
    """Return the weights of a ViT, images, and its last hidden states."""
    model, images = vit_model(), torch.rand(2, 16, 16, 3)
    hidden = model(pixels(images)).last_hidden_state
    weights = {f"vit/{name}": w.detach().numpy() for name, w in model.named_parameters()}
    return weights | {"vit/images": images.numpy(), "vit/hidden": hidden.numpy()}


def clip():
    """Return image vectors, text vectors, scale and loss of a small random CLIP."""
    size = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    size["num_hidden_layers"] = 1
    vision = {**size, "image_size": 16, "patch_size": 8}
    text = {**size, "vocab_size": 30, "max_position_embeddings": 8, "eos_token_id": 29}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    model = CLIPModel(config).eval()
    randomize(model)
    torch.nn.init.constant_(model.logit_scale, 1.7)
    ids = torch.randint(1, 28, (5, 6))
    ids[:, -1] = 29
    out = model(input_ids=ids, pixel_values=torch.randn(5, 3, 16, 16), return_loss=True)
    # Vectors of length 1; multiplied here, so that the test sees the normalisation too.
    return {
        "clip/image_vectors": (3 * out.image_embeds).numpy(),
        "clip/text_vectors": (0.5 * out.text_embeds).numpy(),
        "clip/scale": model.logit_scale.exp().numpy(),
        "clip/loss": out.loss.numpy(),
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.no_grad():
        np.savez_compressed(FOLDER / "vision.npz", **vit(), **clip())
