"""Exercises of notebook 09, GPT from scratch."""

import numpy as np

from tfgpt.checks.building import difference, layer_player, output
from tfgpt.checks.registry import Build, Case, exercises_of, features
from tfgpt.data.batches import shift
from tfgpt.gpt import GPT
from tfgpt.losses import masked_loss

add_exercise = exercises_of("09")


def forward_flops(vocab_size, num_layers, d_model, length):
    """Count the floating-point operations of all matrix products of one forward pass."""
    kernels = 12 * d_model**2 * num_layers + vocab_size * d_model
    scores_and_sums = 2 * length * d_model * num_layers
    return 2 * length * (kernels + scores_and_sums)


def log_likelihood(token_ids, logits):
    """Add the log-probabilities of all tokens but the first."""
    inputs, targets = shift(np.asarray(token_ids))
    loss = masked_loss(targets[None], np.asarray(logits)[None, :-1], pad_id=None)
    return -len(inputs) * float(loss)


def early_stopping(losses, patience):
    """Say at which epoch a training stops, and which epoch's weights it keeps."""
    for epoch in range(len(losses)):
        best = int(np.argmin(losses[: epoch + 1]))
        if epoch - best >= patience:
            break
    return epoch, best


add_exercise(
    "gpt parameters",
    lambda vocab_size, context_length, num_layers, d_model: GPT(
        vocab_size, context_length, num_layers, d_model, num_heads=1
    ).count_params(),
    Case(
        "one block",
        (10, 4, 1, 8),
        "Two tables, one block of 12 D^2 + 13 D, the final norm; the output has no table.",
    ),
    Case("three blocks", (10, 4, 3, 8), "Only the blocks are there L times."),
    Case(
        "a larger vocabulary",
        (50, 4, 1, 8),
        "The output uses the embedding table again: count it once.",
    ),
    Case("edge case: D = 1", (2, 3, 1, 1), "The final norm has a gain and a bias, 2 D."),
    tolerance=0.0,
)

add_exercise(
    "forward flops",
    forward_flops,
    Case(
        "one position",
        (10, 1, 8, 1),
        "A number of a kernel costs two operations: one multiplication, one addition.",
    ),
    Case("two layers", (10, 2, 8, 1), "The output kernel is used once, the rest L times."),
    Case(
        "16 positions",
        (10, 2, 8, 16),
        "Scores and weighted sums meet all T keys at each of the T positions.",
    ),
    Case(
        "edge case: no layer",
        (10, 0, 8, 16),
        "Without layers only the product with the output kernel is left.",
    ),
    tolerance=0.0,
)

add_exercise(
    "log-likelihood",
    log_likelihood,
    Case(
        "two tokens",
        ([2, 1], features(2, 4)),
        "The logits at position 0 predict token 1. The last logits predict nothing here.",
    ),
    Case(
        "five tokens",
        ([2, 1, 3, 0, 3], features(5, 4)),
        "Add the log-probabilities of all tokens but the first; no mean.",
    ),
    Case(
        "edge case: all tokens equally likely",
        ([0, 1, 2], np.zeros((3, 4), "float32")),
        "Each predicted token has the probability 1 / V, also the token 0.",
    ),
    tolerance=1e-4,
)

add_exercise(
    "early stopping",
    early_stopping,
    Case(
        "patience 2",
        ([3.0, 2.0, 2.1, 2.2, 1.0], 2),
        "Stop after 2 epochs without a new best loss; later epochs are never seen.",
    ),
    Case(
        "a second chance",
        ([3.0, 2.0, 2.1, 1.9, 2.0, 2.5], 2),
        "Each new best loss sets the count of bad epochs back to 0.",
    ),
    Case(
        "a jump, then falling",
        ([3.0, 2.0, 2.5, 2.3, 1.9], 2),
        "Compare with the best loss so far, not with the epoch before.",
    ),
    Case(
        "edge case: equal losses",
        ([2.0, 2.0, 2.0], 2),
        "An equal loss is no new best loss: the first one is kept.",
    ),
    Case(
        "edge case: it never stops",
        ([3.0, 2.0, 2.5], 5),
        "Then the last epoch is the end; the best epoch is still the smallest loss.",
    ),
    tolerance=0.0,
)


def leak_of_ids(token_ids):
    """Ask how far another last token moves the logits before it: it must be 0."""

    def ask(model):
        changed = token_ids.copy()
        changed[:, -1] = (changed[:, -1] + 1) % 7
        return difference(model(changed), model(token_ids), slice(None, -1))

    return ask


def by_steps(token_ids, start):
    """Ask for the logits of embeddings that begin at a later place, without a block."""

    def ask(model):
        if model(token_ids) is None:
            return None
        return model.logits(model.final_norm(model.embed(token_ids, start)))

    return ask


def by_blocks(token_ids):
    """Ask for the logits by the blocks, the final norm and the sizes, each by its name."""

    def ask(model):
        if model(token_ids) is None:
            return None
        x = model.embed(token_ids)
        for block in model.decoder_layers:
            x = block(x)
        return model.logits(model.final_norm(x)) + model.vocab_size + model.context_length

    return ask


IDS = np.array([[1, 2, 3, 4], [6, 0, 5, 5]])
SIZES = {"vocab_size": 7, "context_length": 6, "num_layers": 2, "d_model": 4, "num_heads": 2}

add_exercise(
    "my gpt",
    GPT,
    Case(
        "the logits",
        (SIZES, output(IDS)),
        "Weights in this order: token table, position table, blocks, final norm. dff is "
        "4 d_model, the mask is causal, and the output uses the token table again.",
    ),
    Case("no look into the future", (SIZES, leak_of_ids(IDS)), "Give each block the causal mask."),
    Case(
        "embed and logits",
        (SIZES, by_steps(IDS[:, :2], 3)),
        "embed(token_ids, start): the first token stands at place start.",
    ),
    Case(
        "its parts by name",
        (SIZES, by_blocks(IDS)),
        "Notebook 10 uses embed, decoder_layers, final_norm, logits, vocab_size and "
        "context_length.",
    ),
    Case(
        "three blocks",
        ({**SIZES, "num_layers": 3}, output(IDS)),
        "One block for each layer: each has weights of its own.",
    ),
    Case("edge case: one token", (SIZES, output(IDS[:, :1])), "T is token_ids.shape[1]."),
    play=layer_player(GPT),
    tolerance=1e-4,
    build=Build(
        "MyGPT",
        difficulty=4,
        minutes=30,
        know="your `Block`, `keras.layers.Embedding`, the picture above",
        hints=(
            "Two embedding tables are added; the blocks follow one after the other with one "
            "causal mask; a norm; then the product with the token table, turned.",
            "embed: self.token_table(token_ids) + self.position_table(start + "
            "ops.arange(token_ids.shape[1])). logits: ops.matmul(hidden, "
            "ops.transpose(self.token_table.embeddings)).",
        ),
    ),
)
