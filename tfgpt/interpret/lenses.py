"""Lenses: what a GPT would say if it stopped after each block.

Shape letters: B batch, T length, D model width, V vocabulary, L layers.
"""

import keras
import numpy as np
from keras import ops

from tfgpt.interpret.walk import activations, check_gpt
from tfgpt.parts import to_float32


def logit_lens(model, token_ids, mask=None):
    """Read the residual stream behind each block with the model's own last norm and output.

    Args:
        model: GPT.
        token_ids: int array (B, T).
        mask: bool array, broadcastable to (B, H, T, T), hides more than the model does.

    Returns:
        logits, float32 (L + 1, B, T, V): row 0 reads the embeddings, row i what block i - 1
        left, and row L is what the model says.

    Raises:
        TypeError: if the model is no GPT.

    Example:
        >>> from tfgpt import GPT
        >>> model = GPT(10, context_length=4, num_layers=2, d_model=8, num_heads=2)
        >>> lens = logit_lens(model, np.array([[1, 2, 3]]))
        >>> tuple(lens.shape), bool(np.allclose(lens[-1], model(np.array([[1, 2, 3]]))))
        ((3, 1, 3, 10), True)

    Source: nostalgebraist, "Interpreting GPT: the logit lens" (2020).
    """
    states = residual_stream(model, token_ids, mask)
    return ops.stack([model.logits(model.final_norm(x)) for x in states])


def residual_stream(model, token_ids, mask=None):
    """Return the embeddings and what each block left: L + 1 tensors (B, T, D)."""
    return list(activations(model, token_ids, ["embedding", "blocks.*.residual"], mask).values())


def lens_divergences(logits, real=None):
    """Measure how far each row of a lens is from what the model says.

    Args:
        logits: float array (L + 1, B, T, V), as the lenses return them.
        real: bool array (B, T), the positions that count; None: all.

    Returns:
        float array (L + 1,), the mean KL divergence KL(model || row) in nats; the last is 0.

    Example:
        >>> rows = np.log([[[[0.5, 0.5]]], [[[0.9, 0.1]]]])
        >>> [round(float(x), 3) for x in lens_divergences(rows)]  # 0.9 ln 1.8 + 0.1 ln 0.2
        [0.368, 0.0]
    """
    logs = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    rows = ops.convert_to_numpy(divergence(logs[-1], logs))  # (L + 1, B, T)
    real = np.ones(rows.shape[1:], bool) if real is None else np.asarray(real)
    return rows[:, real].mean(axis=1)


def divergence(target, logs):
    """Compute KL(target || row) of log-probabilities over the last axis, in nats."""
    return ops.sum(ops.exp(target) * (target - logs), axis=-1)


class TunedLens(keras.Model):
    """A logit lens with a trained translator before each block's reading.

    A translator adds W x + b to the stream x of one layer, W (D, D) and b (D,), both 0 at the
    start: an untrained tuned lens is the logit lens. It learns to make the lens say what the
    model says; the GPT stays as it is. Compile it without a loss and fit it on token ids:

        lens.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
        lens.fit(token_ids, batch_size=32)

    Call: lens(token_ids) -> logits, float32 (L + 1, B, T, V), as `logit_lens` returns them.

    Args:
        gpt: GPT.

    Raises:
        TypeError: if it is no GPT.

    Example:
        >>> from tfgpt import GPT
        >>> gpt = GPT(10, context_length=4, num_layers=2, d_model=8, num_heads=2)
        >>> lens, ids = TunedLens(gpt), np.array([[1, 2, 3]])
        >>> bool(np.allclose(lens(ids), logit_lens(gpt, ids))), lens.count_params()
        (True, 144)

    Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned
    Lens" (2023), section 3.
    """

    def __init__(self, gpt):
        super().__init__(name="tuned_lens")
        check_gpt(gpt)
        self.autocast = False
        self.__dict__["gpt"] = gpt  # read, and no part of this model
        self.translators = [
            keras.layers.Dense(
                gpt.d_model, kernel_initializer="zeros", dtype="float32", name=f"translator_{index}"
            )
            for index in range(gpt.num_layers)
        ]
        for translator in self.translators:
            translator.build((None, None, gpt.d_model))
        self.built = True

    def call(self, token_ids, training=None):
        *states, last = residual_stream(self.gpt, token_ids)
        moved = [self.translate(*pair) for pair in zip(self.translators, states, strict=True)]
        logits = ops.stack([self.gpt.logits(self.gpt.final_norm(x)) for x in [*moved, last]])
        if training:
            logs = ops.log_softmax(logits, axis=-1)
            self.add_loss(ops.mean(divergence(ops.stop_gradient(logs[-1]), logs[:-1])))
        return logits

    def translate(self, translator, x):
        """Move the stream of one layer: (B, T, D) -> (B, T, D)."""
        x = ops.stop_gradient(x)
        return ops.cast(to_float32(x) + translator(to_float32(x)), x.dtype)

    def compute_output_spec(self, token_ids, training=None):
        shape = (self.gpt.num_layers + 1, *token_ids.shape, self.gpt.vocab_size)
        return keras.KerasTensor(shape, dtype="float32")
