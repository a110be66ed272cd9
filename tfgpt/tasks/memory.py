"""The memory of one training step, in bytes: what is there all the time, and what comes and goes.

Shape letters: B batch, T length, D model width, F inner width, H heads, L layers, V vocabulary,
N weights. Sizes of tensors: (B, T, D) is "wide", (B, T, F) "inner", (B, H, T, T) "scores".
"""

from tfgpt.validation import check_choice, check_positive

PRECISIONS = {"float32": 4, "mixed_bfloat16": 2, "mixed_float16": 2}  # bytes of an activation
OPTIMIZERS = ("adamw", "muon")

# How many wide, inner and scores tensors of each block, and how many logits (B, T, V), a step
# holds, by what is compiled and the bytes of an activation. In float32 the backward pass of
# compiled parts reads 8, 2 and 1: the normed input and the output of two norms, query, key,
# value and their mean; the activation and its slope; the attention weights. Plain formulas
# keep their steps too: 12, 4 and 2 (both norms keep 4, GELU 4, softmax its weights before and
# after the mask). The rest are gradients on their way, float32 copies inside the compiled
# parts, and holes in TensorFlow's arena on the CPU: counted by the differences between measured
# peaks of models that differ in one size. `python -m benchmarks.memory` compares; from about
# 250 MB on the estimate is within 10 % for "parts", in float32 and bfloat16, and for False in
# float32. For the other two rows in 16 bits nothing was measured.
HELD = {
    ("parts", 4): (12, 4, 2, 3.5),
    ("parts", 2): (18, 4, 4, 8),
    (False, 4): (24, 5, 2, 7),
    (False, 2): (24, 5, 4, 14),
    (True, 4): (22, 4.5, 2, 3),
    (True, 2): (22, 4.5, 4, 6),
}


def memory_of(
    sizes,
    batch_size,
    optimizer="adamw",
    precision="float32",
    remat=False,
    jit_compile="parts",
    *,
    shards=1,
    tensor=1,
    pipeline=1,
):
    """Estimate what a training step of `make_train_step` holds on one device.

    Args:
        sizes: Sizes.
        batch_size: int, B, sequences per device that run at once.
        optimizer: "adamw": two float32 numbers per weight; "muon": one for the matrices of
            the blocks, two for all other weights.
        precision: "float32", "mixed_bfloat16" or "mixed_float16"; weights, gradients and
            optimizer are float32 in all three.
        remat: bool, keep only the input of each block, and run one block again at a time.
        jit_compile: "parts", True or False; see `make_train_step`.
        shards: int, over how many devices FSDP spreads weights, gradients and optimizer.
        tensor: int, over how many devices each matrix is split (tensor parallel).
        pipeline: int, over how many devices the blocks are dealt out; as many batches are
            on their way at once, so activations stay as they are.

    Returns:
        dict of int, bytes: "weights", "gradients", "optimizer", "activations", "logits".

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> from tfgpt.tasks.sizes import choose_sizes
        >>> memory = memory_of(choose_sizes("124M"), batch_size=8)
        >>> memory["weights"], memory["optimizer"]
        (497759232, 995518464)
    """
    check_positive("batch_size", batch_size)
    check_choice("optimizer", optimizer, OPTIMIZERS)
    check_choice("precision", precision, tuple(PRECISIONS))
    check_choice("jit_compile", jit_compile, (False, True, "parts"))
    ways = shards * tensor * pipeline
    copies = working_bytes(sizes, precision, shards, tensor, pipeline)
    wide, inner, scores, logits = tensor_bytes(sizes, batch_size, precision, tensor)
    held = HELD[jit_compile, PRECISIONS[precision]]
    block = held[0] * wide + held[1] * inner + held[2] * scores
    blocks = sizes.num_layers * wide + block if remat else sizes.num_layers * block
    memory = {
        "weights": 4 * sizes.parameters / ways + copies,
        "gradients": 4 * sizes.parameters / ways,
        "optimizer": optimizer_bytes(sizes, optimizer) / ways,
        "activations": blocks + 2 * wide,  # and the final norm
        "logits": held[3] * logits,
    }
    return {name: round(value) for name, value in memory.items()}


def optimizer_bytes(sizes, optimizer):
    """Return the bytes of the optimizer's float32 moments."""
    if optimizer == "adamw":
        return 8 * sizes.parameters
    matrices = 4 * sizes.d_model**2 + 2 * sizes.d_model * sizes.dff
    return 8 * sizes.parameters - 4 * sizes.num_layers * matrices


def working_bytes(sizes, precision, shards, tensor, pipeline):
    """Return the bytes of weights beside the float32 ones that are kept.

    Mixed precision computes with copies in 16 bits; FSDP gathers one block at a time.
    """
    item = PRECISIONS[precision]
    if shards > 1:
        return item * sizes.layer_parameters / tensor
    return 0 if item == 4 else item * sizes.parameters / (tensor * pipeline)


def tensor_bytes(sizes, batch_size, precision, tensor):
    """Return the bytes of one wide, one inner, one scores tensor and one of logits.

    Tensor parallel splits heads, inner width and vocabulary; of the wide tensors half (query,
    key, value, their mean), norms and residuals are on every device.
    """
    item, length = PRECISIONS[precision], sizes.context_length
    tokens = batch_size * length
    wide = item * tokens * sizes.d_model * (0.5 + 0.5 / tensor)
    inner = item * tokens * sizes.dff / tensor
    scores = item * tokens * sizes.num_heads * length / tensor
    return wide, inner, scores, item * tokens * sizes.vocab_size / tensor
