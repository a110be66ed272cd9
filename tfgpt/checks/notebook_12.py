"""Exercises of notebook 12, GPT-2's weights."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of, features

add_exercise = exercises_of("12")


def head_kernels(c_attn, num_heads, head):
    """Cut query, key and value of one head out of the joint kernel."""
    width = c_attn.shape[0] // num_heads
    query, key, value = np.split(c_attn, 3, axis=1)
    part = slice(head * width, (head + 1) * width)
    return query[:, part], key[:, part], value[:, part]


def gelu_by_tanh(x):
    """Compute GELU as GPT-2 does."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gpt2_parameters(vocab_size, context_length, num_layers, d_model):
    """Count the weights of a GPT-2."""
    block = 12 * d_model**2 + 13 * d_model
    return (vocab_size + context_length) * d_model + num_layers * block + 2 * d_model


add_exercise(
    "head kernels",
    head_kernels,
    Case(
        "edge case: one head",
        (features(4, 12), 1, 0),
        "c_attn holds the kernels of query, key and value side by side: three parts of D columns.",
    ),
    Case(
        "the second of two heads",
        (features(4, 12), 2, 1),
        "Each part has the heads side by side: head h has the columns h K to (h + 1) K, K = D / H.",
    ),
    Case("the last of four heads", (features(8, 24), 4, 3), "K = 2 here: columns 6 and 7."),
)

add_exercise(
    "gelu by tanh",
    gelu_by_tanh,
    Case("numbers around 0", (features(9),), "0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."),
    Case(
        "large numbers",
        (np.array([-20.0, 20.0]),),
        "Far from 0 it is 0 on the left, x on the right.",
    ),
    Case("edge case: 0", (np.zeros((1,)),), "gelu(0) = 0."),
)

add_exercise(
    "gpt2 parameters",
    gpt2_parameters,
    Case(
        "edge case: one block",
        (10, 4, 1, 8),
        "Two tables, L blocks of 12 D^2 + 13 D (count the biases and the two norms), a last norm.",
    ),
    Case("the smallest published one", (50257, 1024, 12, 768), "124,439,808."),
    Case("the largest", (50257, 1024, 48, 1600), "1,557,611,200."),
    tolerance=0.0,
)
