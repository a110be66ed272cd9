"""Learning from preferences: of two answers to a prompt, one was liked more. Notebook 23.

Everything is computed in float32, whatever the model computes in. Shape letters: B answers,
T length of prompt and answer, V vocabulary, D model width.
"""

import keras
import numpy as np
from keras import ops

from tfgpt.losses import token_losses
from tfgpt.validation import check_choice, check_pad_id, check_rate

KINDS = ("sigmoid", "ipo")


def answer_batch(prompts, answers, pad_id=0, length=None):
    """Put prompts and answers into one batch, filled up on the right.

    Args:
        prompts: list of B lists of int, at least one token each.
        answers: list of B lists of int, at least one token each.
        pad_id: int, what fills up; it may also be a token of the answers.
        length: int, T; None: that of the longest.

    Returns:
        token_ids, int32 array (B, T), and is_answer, bool array (B, T): True for the tokens of
        the answers, False for prompts and padding.

    Raises:
        ValueError: if the lists differ in length, a prompt or an answer is empty, or one
            does not fit.

    Example:
        >>> token_ids, is_answer = answer_batch([[1, 2], [3]], [[4], [5]])
        >>> token_ids.tolist(), is_answer.astype(int).tolist()
        ([[1, 2, 4], [3, 5, 0]], [[0, 0, 1], [0, 1, 0]])
    """
    if len(prompts) != len(answers):
        raise ValueError(f"answers must be as many as prompts={len(prompts)}, got {len(answers)}.")
    for name, rows in (("prompts", prompts), ("answers", answers)):
        if any(len(row) == 0 for row in rows):
            raise ValueError(f"{name} must have a token in every row, got an empty one.")
    longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    length = longest if length is None else length
    if longest > length:
        raise ValueError(f"length must be at least that of the longest, {longest}, got {length}.")
    token_ids = np.full((len(prompts), length), pad_id, dtype="int32")
    is_answer = np.zeros(token_ids.shape, dtype=bool)
    for row, mark, prompt, answer in zip(token_ids, is_answer, prompts, answers, strict=True):
        end = len(prompt) + len(answer)
        row[:end] = [*prompt, *answer]
        mark[len(prompt) : end] = True
    return token_ids, is_answer


def token_log_probs(logits, token_ids, is_answer):
    """Read the log-probability of each token of the answers: ln p(token t | tokens before t).

    Args:
        logits: float tensor (B, T, V); those at place t - 1 score the token at t.
        token_ids: int tensor (B, T).
        is_answer: bool tensor (B, T); the first place is False.

    Returns:
        float32 tensor (B, T), 0 where is_answer is False.

    Example:
        >>> logits = np.log([[[0.5, 0.5], [0.25, 0.75]]])
        >>> marks = np.array([[False, True]])
        >>> [round(float(x), 2) for x in token_log_probs(logits, np.array([[0, 1]]), marks)[0]]
        [0.0, -0.69]
    """
    targets = ops.cast(token_ids, "int32")[:, 1:]
    weights = ops.cast(is_answer, "float32")[:, 1:]
    losses = token_losses(targets, logits[:, :-1], weights, 0.0)  # (B, T - 1)
    return ops.pad(-losses, ((0, 0), (1, 0)))


def answer_log_probs(model, token_ids, is_answer, average=False):
    """Compute the log-probability of whole answers under a model, without dropout.

    Args:
        model: GPT, or the model of adapters on one.
        token_ids: int tensor (B, T), prompts and answers, see `answer_batch`.
        is_answer: bool tensor (B, T).
        average: bool, the mean over the tokens of an answer in place of the sum.

    Returns:
        float32 tensor (B,), ln p(answer | prompt).

    Source: Rafailov et al., "Direct Preference Optimization" (2023), appendix B.
    """
    log_probs = token_log_probs(model(token_ids, training=False), token_ids, is_answer)
    total = ops.sum(log_probs, axis=1)  # (B, T) -> (B,)
    return total / ops.sum(ops.cast(is_answer, "float32"), axis=1) if average else total


def log_sigmoid(x):
    """Compute ln 1 / (1 + e^-x) without overflow, in the shape of x."""
    return -ops.softplus(-x)


def dpo_loss(
    chosen,
    rejected,
    reference_chosen,
    reference_rejected,
    beta=0.1,
    kind="sigmoid",
    label_smoothing=0.0,
):
    """Compute the loss of pairs of answers, without a reward model.

    With the margin m = ln(p(chosen) / p_ref(chosen)) - ln(p(rejected) / p_ref(rejected)):

        sigmoid:  -(1 - e) ln sigmoid(beta m) - e ln sigmoid(-beta m)
        ipo:      (m - 1 / (2 beta))^2

    e is label_smoothing, how often a label is wrong. "ipo" does not push a margin to infinity
    where all labels agree. Other libraries give it the log-probabilities per token: see
    `answer_log_probs(..., average=True)`.

    Args:
        chosen: float tensor (B,), ln p(chosen answer | prompt) under the model that learns.
        rejected: float tensor (B,), that of the other answer.
        reference_chosen: float tensor (B,), under the model that does not learn.
        reference_rejected: float tensor (B,).
        beta: float > 0, how strongly the reference holds.
        kind: "sigmoid" or "ipo".
        label_smoothing: float in [0, 0.5), for "sigmoid".

    Returns:
        float32 tensor (B,).

    Raises:
        ValueError: if beta, kind or label_smoothing is outside its range.

    Example:
        >>> round(float(dpo_loss(*np.zeros((4, 1)))[0]), 4)  # nothing learned yet: ln 2
        0.6931

    Source: Rafailov et al., "Direct Preference Optimization" (2023), equation 7; label
    smoothing: Mitchell, "A note on DPO with noisy preferences" (2023); "ipo": Azar et al., "A
    General Theoretical Paradigm to Understand Learning from Human Preferences" (2023),
    equation 17.
    """
    check_choice("kind", kind, KINDS)
    check_rate("label_smoothing", label_smoothing)
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta!r}.")
    if label_smoothing >= 0.5 or (label_smoothing and kind == "ipo"):
        raise ValueError(
            f'label_smoothing must be below 0.5, and 0 with kind="ipo", got {label_smoothing!r}.'
        )
    chosen, rejected, reference_chosen, reference_rejected = (
        ops.cast(x, "float32") for x in (chosen, rejected, reference_chosen, reference_rejected)
    )
    margin = (chosen - reference_chosen) - (rejected - reference_rejected)  # (B,)
    if kind == "ipo":
        return (margin - 1 / (2 * beta)) ** 2
    right, wrong = log_sigmoid(beta * margin), log_sigmoid(-beta * margin)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def bradley_terry_loss(chosen, rejected):
    """Compute -ln P(chosen is liked more), with P = sigmoid(r(chosen) - r(rejected)).

    Args:
        chosen: float tensor (B,), rewards of the answers that were liked more.
        rejected: float tensor (B,), rewards of the others.

    Returns:
        float32 tensor (B,).

    Example:
        >>> round(float(bradley_terry_loss(np.array([2.0]), np.array([0.0]))[0]), 4)
        0.1269

    Source: Bradley and Terry, "Rank Analysis of Incomplete Block Designs" (1952); Ouyang et
    al., "Training language models to follow instructions with human feedback" (2022),
    equation 1.
    """
    return -log_sigmoid(ops.cast(chosen, "float32") - ops.cast(rejected, "float32"))


class ScalarHead(keras.layers.Layer):
    """One number per vector, in float32, 0 at first: (..., D) -> (...).

    Args:
        d_model: int, D.
    """

    def __init__(self, d_model):
        super().__init__(name="scalar_head", dtype="float32")
        self.dense = keras.layers.Dense(1, kernel_initializer="zeros", dtype="float32")
        self.dense.build((None, d_model))
        self.built = True

    def call(self, x):
        return self.dense(x)[..., 0]


def hidden_states(gpt, token_ids, training):
    """Return the last hidden states: (B, T) -> (B, T, D)."""
    x = gpt.embed(token_ids, training=training)
    return gpt.hidden(x, gpt.own_mask(token_ids), training=training)


class RewardModel(keras.Model):
    """Score whole answers: a GPT, and one number read at the last real token.

    Call: model(token_ids) -> rewards, float32 (B,). Train it with `bradley_terry_loss`. Only
    differences of rewards have a meaning: any number may be added to all.

    Args:
        gpt: GPT, or the model of adapters on one.
        pad_id: int, what fills up on the right; only what follows the last other id counts
            as padding.

    Raises:
        ValueError: if pad_id is outside its range.

    Example:
        >>> from tfgpt import GPT
        >>> gpt = GPT(10, context_length=4, num_layers=1, d_model=8, num_heads=2)
        >>> tuple(RewardModel(gpt, pad_id=0)(np.array([[1, 2, 0], [3, 4, 5]])).shape)
        (2,)

    Source: Ouyang et al., "Training language models to follow instructions with human
    feedback" (2022), section 3.5.
    """

    def __init__(self, gpt, pad_id):
        super().__init__(name="reward_model", dtype=gpt.dtype_policy)
        self.autocast = False
        self.gpt, self.pad_id = gpt, check_pad_id(pad_id, gpt.vocab_size)
        self.head = ScalarHead(gpt.d_model)
        self.built = True

    def call(self, token_ids, training=None):
        rewards = self.head(hidden_states(self.gpt, token_ids, training))  # (B, T, D) -> (B, T)
        places = ops.arange(ops.shape(token_ids)[1], dtype="int32")
        last = ops.max(ops.where(token_ids != self.pad_id, places, 0), axis=1)  # (B,)
        return ops.take_along_axis(rewards, last[:, None], axis=1)[:, 0]
