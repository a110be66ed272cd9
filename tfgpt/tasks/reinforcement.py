"""Reinforcement: a model writes, a function scores, the model learns. PPO, GRPO, best of n.

Notebook 23. Shape letters: P prompts, G answers to each, B = P x G answers, T length of prompt
and answer.
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from tfgpt.generation import generate
from tfgpt.train_step import make_loss_step
from tfgpt.tuning.policy_gradient import (
    GPTWithValue,
    generalised_advantages,
    group_advantages,
    grpo_loss,
    ppo_loss,
    token_rewards,
    value_loss,
)
from tfgpt.tuning.preferences import token_log_probs
from tfgpt.validation import check_choice, check_positive


@dataclass(frozen=True)
class PPO:
    """Settings of PPO: a value head says what was to be expected.

    Args:
        beta: float >= 0, the penalty per nat that an answer leaves the reference; it is part
            of the reward of each token.
        clip: float > 0; see `tfgpt.tuning.ppo_loss`.
        decay: float in [0, 1], of `tfgpt.tuning.generalised_advantages`.
        value_weight: float >= 0, of the loss of the value head.
        passes: int >= 1, steps on the same answers.

    Source: Schulman et al., "Proximal Policy Optimization Algorithms" (2017).
    """

    beta: float = 0.1
    clip: float = 0.2
    decay: float = 0.95
    value_weight: float = 0.5
    passes: int = 2

    def wrap(self, gpt):
        """Make the model that learns, from the one that writes."""
        return GPTWithValue(gpt)

    def look(self, model, token_ids, is_answer):
        """Compute what the loss needs of a model: dict of float32 tensors (B, T)."""
        logits, values = model(token_ids, training=False)
        return {"log_probs": token_log_probs(logits, token_ids, is_answer), "values": values}

    def judge(self, answers, group_size):
        """Compute what the loss needs of the scores: dict of arrays."""
        names = ("scores", "log_probs", "reference_log_probs", "is_answer")
        rewards = token_rewards(*(answers[name] for name in names), self.beta)
        advantages, returns = generalised_advantages(
            rewards, answers["values"], answers["is_answer"], decay=self.decay
        )
        real = advantages[answers["is_answer"]]
        advantages = (advantages - real.mean()) / (real.std() + 1e-4)
        return {"advantages": advantages, "returns": returns}

    def loss(self, model, batch):
        """Compute the loss of a step: a function for `make_loss_step`."""
        marks = batch["is_answer"]
        found = self.look(model, batch["token_ids"], marks)
        policy = ppo_loss(
            found["log_probs"], batch["log_probs"], batch["advantages"], marks, self.clip
        )
        return {
            "loss": policy
            + self.value_weight * value_loss(found["values"], batch["returns"], marks)
        }


@dataclass(frozen=True)
class GRPO:
    """Settings of GRPO: the other answers to a prompt say what was to be expected.

    With penalty="reward" the optimum is that of "reward minus beta KL". As published, with
    penalty="loss", it is another one: the gradient of that penalty is that of the KL divergence
    the other way round, and with scale=True its weight changes with the spread of the group.

    Args:
        beta: float >= 0, the penalty for leaving the reference.
        clip: float > 0; see `tfgpt.tuning.grpo_loss`.
        scale: bool, divide by the standard deviation of each group.
        penalty: "loss": beta x `tfgpt.tuning.kl_penalty` in the loss; "reward": beta
            ln(p / p_ref) of the answer is taken from its score.
        passes: int >= 1, steps on the same answers.

    Source: Shao et al., "DeepSeekMath" (2024).
    """

    beta: float = 0.04
    clip: float = 0.2
    scale: bool = True
    penalty: str = "loss"
    passes: int = 1

    def __post_init__(self):
        check_choice("penalty", self.penalty, ("loss", "reward"))

    def wrap(self, gpt):
        """Make the model that learns, from the one that writes."""
        return gpt

    def look(self, model, token_ids, is_answer):
        """Compute what the loss needs of a model: dict of float32 tensors (B, T)."""
        return {
            "log_probs": token_log_probs(model(token_ids, training=False), token_ids, is_answer)
        }

    def judge(self, answers, group_size):
        """Compute what the loss needs of the scores: dict of arrays."""
        scores = answers["scores"]
        if self.penalty == "reward":
            scores = scores - self.beta * log_ratios(answers)
        return {"advantages": group_advantages(scores, group_size, self.scale)}

    def loss(self, model, batch):
        """Compute the loss of a step: a function for `make_loss_step`."""
        log_probs = self.look(model, batch["token_ids"], batch["is_answer"])["log_probs"]
        others = (batch[name] for name in ("log_probs", "reference_log_probs", "advantages"))
        beta = self.beta if self.penalty == "loss" else 0.0
        return {"loss": grpo_loss(log_probs, *others, batch["is_answer"], self.clip, beta)}


def log_ratios(answers):
    """Compute ln(p(answer) / p_ref(answer)): float array (B,); its mean estimates the KL."""
    return np.sum(answers["log_probs"] - answers["reference_log_probs"], axis=1)


def sample_answers(model, prompts, max_new_tokens, stop_token=None, group_size=1, seed=None):
    """Let a model answer prompts, in the compiled loop of `tfgpt.generate`.

    Args:
        model: GPT.
        prompts: list of P lists of int.
        max_new_tokens: int >= 1, the most tokens of an answer.
        stop_token: int, it ends an answer and is its last token; None: all have the same
            length.
        group_size: int >= 1, G, answers to each prompt.
        seed: int; None: different each time.

    Returns:
        dict: token_ids int32 (B, T), filled up with 0, or the pad_id of the model; is_answer
        bool (B, T). The G answers to a prompt lie side by side.

    Raises:
        ValueError: if a prompt is empty or an answer would not fit; else as `tfgpt.generate`.
    """
    lengths = [len(prompt) for prompt in prompts]
    if not lengths or min(lengths) < 1:
        raise ValueError(f"prompts must hold prompts of one token or more, got {prompts!r:.60}.")
    if max(lengths) + max_new_tokens > model.context_length:
        raise ValueError(
            f"max_new_tokens and the longest prompt must fit context_length="
            f"{model.context_length}, got {max_new_tokens} + {max(lengths)}."
        )
    rows = generate(
        *(model, prompts, max_new_tokens),
        stop_token=stop_token,
        num_samples=group_size,
        seed=seed,
    )
    starts = np.repeat(lengths, group_size)  # (B,)
    shape = len(rows), int(starts.max()) + max_new_tokens
    token_ids = np.full(shape, getattr(model, "pad_id", None) or 0, dtype="int32")
    is_answer = np.zeros(shape, dtype=bool)
    for row, mark, start, written in zip(token_ids, is_answer, starts, rows, strict=True):
        end = len(written)
        if stop_token is not None:
            (stops,) = np.nonzero(written[start:] == stop_token)
            end = start + stops[0] + 1 if len(stops) else end
        row[:end], mark[start:end] = written[:end], True
    return {"token_ids": token_ids, "is_answer": is_answer}


def answers_of(rows):
    """List the tokens of the answers of `sample_answers`: B int arrays."""
    return [row[mark] for row, mark in zip(rows["token_ids"], rows["is_answer"], strict=True)]


class Reinforcement:
    """Sample, score, learn: `step` does it once. Needs the TensorFlow backend.

    Answers are drawn at temperature 1. The pad_id of a model is never drawn, though its
    probability, tiny in a trained model, stays in the log-probabilities.

    Args:
        model: GPT, or the model of adapters on one.
        method: PPO(...) or GRPO(...).
        max_new_tokens: int >= 1, the most tokens of an answer.
        stop_token: int or None; see `sample_answers`.
        group_size: int >= 1, G, answers to each prompt; GRPO needs 2.
        optimizer: Keras optimizer, or its name; None: Adam(1e-3).
        reference: GPT that does not learn; None: a copy of the model as it is now. A model
            with adapters needs one: its base, loaded once more.

    Raises:
        ValueError: if a model with adapters comes without a reference.
    """

    def __init__(
        self,
        model,
        method,
        max_new_tokens,
        stop_token=None,
        group_size=8,
        optimizer=None,
        reference=None,
    ):
        import tensorflow as tf

        self.model, self.method, self.group_size = model, method, group_size
        self.max_new_tokens, self.stop_token = max_new_tokens, stop_token
        self.learner = method.wrap(model)
        reference = copy_of(model) if reference is None else reference

        @tf.function(reduce_retracing=True)
        def look(token_ids, is_answer):
            logits = reference(token_ids, training=False)
            known = token_log_probs(logits, token_ids, is_answer)
            own = method.look(self.learner, token_ids, is_answer)
            return {**own, "reference_log_probs": known}

        self.look = look
        optimizer = optimizer or keras.optimizers.Adam(1e-3)
        self.learn = make_loss_step(self.learner, optimizer, method.loss)

    def step(self, prompts, score, seed=None):
        """Let the model answer each prompt G times, score, and learn from it.

        Args:
            prompts: list of P lists of int; always as many, or the loop compiles anew.
            score: function (prompts, answers) -> B numbers, both lists of B int arrays; an
                answer has its stop token.
            seed: int; None: different each time.

        Returns:
            dict of floats: "reward" (mean score), "kl" (estimate of the KL divergence from
            the reference, in nats per answer), "loss", "gradient_norm".

        Raises:
            ValueError: if there are not B finite scores.
        """
        rows = sample_answers(
            self.model, prompts, self.max_new_tokens, self.stop_token, self.group_size, seed
        )
        repeated = [prompt for prompt in prompts for _ in range(self.group_size)]
        answers = {**rows, "scores": scores_of(score, repeated, answers_of(rows))}
        tensors = (ops.convert_to_tensor(rows[name]) for name in ("token_ids", "is_answer"))
        found = self.look(*tensors)
        answers |= {name: ops.convert_to_numpy(value) for name, value in found.items()}
        batch = {**answers, **self.method.judge(answers, self.group_size)}
        for _ in range(check_positive("passes", self.method.passes)):
            result = self.learn(batch)
        learned = {name: float(value) for name, value in result.items()}
        return {
            "reward": float(np.mean(answers["scores"])),
            "kl": float(np.mean(log_ratios(answers))),
            **learned,
        }


def reinforce(model, method, prompts, score, steps, max_new_tokens, *, seed=0, **options):
    """Train a model on a reward, for a number of steps; each answers all prompts.

    Args:
        model: GPT, or the model of adapters on one.
        method: PPO(...) or GRPO(...).
        prompts: list of P lists of int.
        score: function (prompts, answers) -> B numbers; see `Reinforcement.step`.
        steps: int >= 1.
        max_new_tokens: int >= 1, the most tokens of an answer.
        seed: int >= 0.
        **options: further arguments of `Reinforcement`.

    Returns:
        list of dicts of floats, one per step: "step", "reward" and "kl" (before the step),
        "loss", "gradient_norm".

    Example:
        >>> from tfgpt import GPT
        >>> model = GPT(4, context_length=4, num_layers=1, d_model=8, num_heads=2)
        >>> def score(prompts, answers):
        ...     return [float(answer[0] == 3) for answer in answers]
        >>> fast = keras.optimizers.Adam(0.01)
        >>> history = reinforce(model, GRPO(), [[0]], score, 20, 1, group_size=32, optimizer=fast)
        >>> history[0]["reward"] < history[-1]["reward"]
        True
    """
    check_positive("steps", steps)
    training = Reinforcement(model, method, max_new_tokens, **options)
    seeds = np.random.default_rng(seed).integers(2**31, size=steps)
    return [
        {"step": number, **training.step(prompts, score, int(step_seed))}
        for number, step_seed in enumerate(seeds, start=1)
    ]


def scores_of(score, prompts, answers):
    """Return the scores of answers as float32 (B,); raise unless there are B finite numbers."""
    scores = np.asarray(score(prompts, answers), dtype="float32")
    if scores.shape != (len(answers),) or not np.isfinite(scores).all():
        raise ValueError(f"score must return {len(answers)} finite numbers, got {scores!r:.80}.")
    return scores


def copy_of(model):
    """Copy a GPT with its weights, as a reference that does not learn."""
    reference = type(model).from_config(model.get_config())
    if len(reference.weights) != len(model.weights):
        raise ValueError("reference must be given for a model with adapters: its base, once more.")
    reference.set_weights(model.get_weights())
    reference.trainable = False
    return reference


def best_of_n(scores, n, values=None):
    """Compute the mean of the best of n answers, from the scores of more answers.

    It is the mean over all choices of n of the N answers: less noise than one choice. The
    baseline that any training on a reward must beat at the same distance, see
    `tfgpt.tuning.best_of_n_kl`.

    Args:
        scores: float array (P, N), N answers to each prompt.
        n: int, 1 to N.
        values: float array (P, N), what to average over the chosen answers, such as the true
            reward; None: the scores.

    Returns:
        float.

    Raises:
        ValueError: if n is outside its range.

    Example:
        >>> round(best_of_n([[1.0, 2.0, 3.0]], n=2), 3)  # of three pairs two have 3, one has 2
        2.667
    """
    scores = np.asarray(scores, dtype=float)
    values = scores if values is None else np.asarray(values, dtype=float)
    count = scores.shape[1]
    if check_positive("n", n) > count:
        raise ValueError(f"n must be at most the {count} answers, got {n}.")
    # P(the best is among the i lowest) = C(i, n) / C(N, n).
    below = np.ones(count + 1)
    for drawn in range(n):
        below *= np.maximum(np.arange(count + 1) - drawn, 0) / (count - drawn)
    order = np.argsort(scores, axis=1, kind="stable")
    ranked = np.take_along_axis(values, order, axis=1)  # (P, N)
    return float(np.mean(ranked @ np.diff(below)))
