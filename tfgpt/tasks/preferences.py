"""Training on pairs of answers: DPO and IPO, and the reward model. Notebook 23.

Shape letters: N pairs, B pairs of a step, T length. Axis 1 of a pair holds the answer that was
liked more, then the other.
"""

import keras
import numpy as np
from keras import ops

from tfgpt.train_step import make_loss_step
from tfgpt.tuning.preferences import (
    answer_batch,
    answer_log_probs,
    bradley_terry_loss,
    dpo_loss,
)
from tfgpt.validation import check_positive


def encode_pairs(prompts, chosen, rejected, pad_id=0, length=None):
    """Put pairs of answers into arrays.

    Args:
        prompts: list of N lists of int.
        chosen: list of N lists of int, the answers that were liked more.
        rejected: list of N lists of int, the others.
        pad_id: int, what fills up.
        length: int, T; None: that of the longest.

    Returns:
        dict: token_ids int32 (N, 2, T), is_answer bool (N, 2, T).

    Raises:
        ValueError: as `tfgpt.tuning.answer_batch`.

    Example:
        >>> encode_pairs([[1]], [[2, 3]], [[4]])["token_ids"].tolist()
        [[[1, 2, 3], [1, 4, 0]]]
    """
    if len(chosen) != len(rejected):
        raise ValueError(f"rejected must be as many as chosen={len(chosen)}, got {len(rejected)}.")
    answers = [answer for pair in zip(chosen, rejected, strict=True) for answer in pair]
    twice = [prompt for prompt in prompts for _ in range(2)]
    token_ids, is_answer = answer_batch(twice, answers, pad_id, length)
    shape = (len(prompts), 2, token_ids.shape[1])
    return {"token_ids": token_ids.reshape(shape), "is_answer": is_answer.reshape(shape)}


def pair_log_probs(model, pairs, average=False):
    """Compute the log-probability of each answer: float32 tensor (B, 2).

    Args:
        model: GPT.
        pairs: dict, see `encode_pairs`.
        average: bool, per token; see `tfgpt.tuning.answer_log_probs`.
    """
    flat = [flatten(pairs[name]) for name in ("token_ids", "is_answer")]  # (2 B, T)
    return ops.reshape(answer_log_probs(model, *flat, average=average), (-1, 2))


def flatten(x):
    """Put the pairs below each other: (B, 2, T) -> (2 B, T)."""
    return ops.reshape(x, (-1, x.shape[-1]))


def in_parts(function, pairs, size):
    """Apply a function of pairs to at most `size` of them at a time: float32 array (N, 2)."""
    count = len(pairs["token_ids"])
    parts = [
        {name: values[start : start + size] for name, values in pairs.items()}
        for start in range(0, count, size)
    ]
    return np.concatenate([ops.convert_to_numpy(function(part)) for part in parts])


def learn_preferences(
    model,
    pairs,
    steps,
    optimizer=None,
    *,
    reference=None,
    beta=0.1,
    kind="sigmoid",
    label_smoothing=0.0,
    batch_size=32,
    seed=0,
):
    """Train a model on pairs of answers, with DPO or IPO.

    The log-probabilities of the reference are computed once, before the first step. The model
    may have adapters: they learn, and their base, as it is, is the reference. Dropout is off.

    Args:
        model: GPT, or the model of adapters on one.
        pairs: dict, see `encode_pairs`.
        steps: int >= 1.
        optimizer: Keras optimizer, or its name; None: Adam(1e-4).
        reference: GPT that does not learn; None: the model as it is now.
        beta: float > 0; see `tfgpt.tuning.dpo_loss`.
        kind: "sigmoid", or "ipo", with log-probabilities per token.
        label_smoothing: float in [0, 0.5), for "sigmoid".
        batch_size: int >= 1, B, at most N.
        seed: int >= 0, for the order of the pairs.

    Returns:
        list of dicts of floats, one per step: "step", "loss", "margin" (beta x that of
        `dpo_loss`), "accuracy" (share of pairs with a margin above 0).

    Raises:
        ValueError: if an argument is outside its range.
    """
    average = kind == "ipo"
    known = in_parts(lambda part: pair_log_probs(reference or model, part, average), pairs, 64)

    def loss(model, batch):
        found = pair_log_probs(model, batch, average)  # (B, 2)
        columns = found[:, 0], found[:, 1], batch["reference"][:, 0], batch["reference"][:, 1]
        losses = dpo_loss(*columns, beta, kind, label_smoothing)  # (B,)
        gain = found - batch["reference"]
        return results_of(losses, beta * (gain[:, 0] - gain[:, 1]))

    step = make_loss_step(model, optimizer or keras.optimizers.Adam(1e-4), loss)
    return run_steps(step, {**pairs, "reference": known}, steps, batch_size, seed)


def learn_rewards(model, pairs, steps, optimizer=None, *, batch_size=32, seed=0):
    """Train a reward model on pairs of answers, with the loss of Bradley and Terry.

    Args:
        model: RewardModel.
        pairs: dict, see `encode_pairs`, filled up with the pad_id of the model.
        steps: int >= 1.
        optimizer: Keras optimizer, or its name; None: Adam(1e-3).
        batch_size: int >= 1, B, at most N.
        seed: int >= 0.

    Returns:
        list of dicts of floats, one per step: "step", "loss", "margin" (difference of the
        rewards), "accuracy".
    """

    def loss(model, batch):
        rewards = ops.reshape(model(flatten(batch["token_ids"])), (-1, 2))
        losses = bradley_terry_loss(rewards[:, 0], rewards[:, 1])
        return results_of(losses, rewards[:, 0] - rewards[:, 1])

    step = make_loss_step(model, optimizer or keras.optimizers.Adam(1e-3), loss)
    return run_steps(step, pairs, steps, batch_size, seed)


def results_of(losses, margins):
    """Average the losses and margins (B,) of a step."""
    return {
        "loss": ops.mean(losses),
        "margin": ops.mean(margins),
        "accuracy": ops.mean(ops.cast(margins > 0, "float32")),
    }


def run_steps(step, rows, steps, batch_size, seed):
    """Take steps on rows drawn without repetition, pass after pass: list of dicts of floats."""
    check_positive("steps", steps)
    count = len(rows["token_ids"])
    if check_positive("batch_size", batch_size) > count:
        raise ValueError(f"batch_size must be at most the {count} pairs, got {batch_size}.")
    rng = np.random.default_rng(seed)
    history, order = [], np.zeros(0, dtype=int)
    for number in range(1, steps + 1):
        if len(order) < batch_size:
            order = rng.permutation(count)
        chosen, order = order[:batch_size], order[batch_size:]
        result = step({name: values[chosen] for name, values in rows.items()})
        history.append({"step": number, **{name: float(x) for name, x in result.items()}})
    return history
