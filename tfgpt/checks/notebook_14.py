"""Exercises of notebook 14, efficient fine-tuning."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of, features

add_exercise = exercises_of("14")


def lora(x, kernel, a, b, alpha):
    """Compute a Dense layer with LoRA, without bias."""
    return x @ kernel + alpha / a.shape[1] * (x @ a) @ b


def merged_kernel(kernel, a, b, alpha):
    """Return the kernel that does the same without LoRA."""
    return kernel + alpha / a.shape[1] * a @ b


def lora_share(num_layers, d_model, rank, vocab_size, context_length):
    """Compute the trainable share of LoRA on query and value of a GPT-2."""
    own = num_layers * 2 * 2 * d_model * rank
    block = 12 * d_model**2 + 13 * d_model
    base = (vocab_size + context_length) * d_model + num_layers * block + 2 * d_model
    return own / (own + base)


def bottleneck(y, down, up):
    """Compute a bottleneck adapter with ReLU."""
    return y + np.maximum(y @ down, 0) @ up


X, KERNEL = features(2, 4), features(4, 3)
A, B = features(4, 2), features(2, 3)

add_exercise(
    "lora",
    lora,
    Case("rank 2, alpha 2", (X, KERNEL, A, B, 2.0), "x W + (alpha / r) (x a) b; r is a.shape[1]."),
    Case("another alpha", (X, KERNEL, A, B, 8.0), "alpha 8, r 2: the change counts 4 times."),
    Case("edge case: at the start", (X, KERNEL, A, 0 * B, 2.0), "b = 0: nothing has changed yet."),
)

add_exercise(
    "merged kernel",
    merged_kernel,
    Case("rank 2", (KERNEL, A, B, 2.0), "W + (alpha / r) a b has the shape of W."),
    Case("edge case: rank 1", (KERNEL, A[:, :1], B[:1], 3.0), "alpha / r = 3."),
)

add_exercise(
    "lora share",
    lora_share,
    Case(
        "edge case: a small model",
        (2, 8, 2, 20, 10),
        "Two kernels per block, each with a (D, r) and b (r, D). The base is that of notebook 12.",
    ),
    Case("GPT-2, rank 8", (12, 768, 8, 50257, 1024), "About a quarter of a percent."),
    tolerance=1e-9,
)

add_exercise(
    "bottleneck",
    bottleneck,
    Case("one row", (X, features(4, 2), features(2, 4)), "y + max(y D, 0) U."),
    Case("edge case: at the start", (X, features(4, 2), np.zeros((2, 4))), "U = 0: it is y."),
)
