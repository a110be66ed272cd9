"""Losses of reinforcement: PPO and GRPO, as plain functions. Notebook 23.

The model is the policy, a token is an action, and an answer gets one reward at its end.
Everything is in float32. Shape letters: B answers, T length of prompt and answer, G answers
to the same prompt, V vocabulary. is_answer, bool (B, T), marks the tokens that were drawn;
log-probabilities are those of `tfgpt.tuning.token_log_probs`, 0 elsewhere.
"""

import math

import keras
import numpy as np
from keras import ops

from tfgpt.tuning.preferences import ScalarHead, hidden_states
from tfgpt.validation import check_positive


def mean_over_tokens(values, is_answer):
    """Average (B, T) over all tokens of all answers: a scalar."""
    weights = ops.cast(is_answer, "float32")
    return ops.sum(values * weights) / ops.sum(weights)


def clipped_objective(log_probs, old_log_probs, advantages, clip):
    """Compute min(w A, clip(w, 1 - clip, 1 + clip) A), w = p(token) / p_old(token).

    Args:
        log_probs: float tensor (B, T), of the model as it is.
        old_log_probs: float tensor (B, T), of the model that drew the answers.
        advantages: float tensor (B, T) or (B, 1).
        clip: float > 0.

    Returns:
        float32 tensor (B, T).
    """
    ratio = ops.exp(log_probs - ops.cast(old_log_probs, "float32"))
    advantages = ops.cast(advantages, "float32")
    return ops.minimum(ratio * advantages, ops.clip(ratio, 1 - clip, 1 + clip) * advantages)


def ppo_loss(log_probs, old_log_probs, advantages, is_answer, clip=0.2):
    """Compute the loss of PPO: the mean over tokens of

        -min(w A, clip(w, 1 - clip, 1 + clip) A),   w = p(token) / p_old(token)

    A token that has become likelier (or less likely) by the factor 1 + clip (1 - clip) is not
    pushed further the same way.

    Args:
        log_probs: float tensor (B, T), of the model as it is.
        old_log_probs: float tensor (B, T), of the model that drew the answers.
        advantages: float tensor (B, T), A, how much better than expected each token was.
        is_answer: bool tensor (B, T).
        clip: float > 0.

    Returns:
        float32 scalar.

    Source: Schulman et al., "Proximal Policy Optimization Algorithms" (2017), equation 7.
    """
    return -mean_over_tokens(
        clipped_objective(log_probs, old_log_probs, advantages, clip), is_answer
    )


def value_loss(values, returns, is_answer):
    """Compute half the mean squared error of the value head.

    Args:
        values: float tensor (B, T), expected sums of the rewards from here on.
        returns: float tensor (B, T), what came, see `generalised_advantages`.
        is_answer: bool tensor (B, T).

    Returns:
        float32 scalar.
    """
    return 0.5 * mean_over_tokens((values - ops.cast(returns, "float32")) ** 2, is_answer)


def token_rewards(scores, log_probs, reference_log_probs, is_answer, beta):
    """Spread a reward over the tokens of an answer, with the penalty for leaving the reference.

        r_t = -beta ln(p(token t) / p_ref(token t)) + (score if t is the last token)

    Args:
        scores: float array (B,), the reward of each answer.
        log_probs: float array (B, T), of the model that drew the answers.
        reference_log_probs: float array (B, T).
        is_answer: bool array (B, T).
        beta: float >= 0.

    Returns:
        float32 array (B, T), 0 outside of the answers.

    Example:
        >>> zeros, marks = np.zeros((1, 3)), np.array([[False, True, True]])
        >>> token_rewards(np.array([2.0]), zeros, zeros, marks, beta=0.1).tolist()
        [[0.0, 0.0, 2.0]]

    Source: Ziegler et al., "Fine-Tuning Language Models from Human Preferences" (2019),
    equation 2.
    """
    rewards = beta * (np.asarray(reference_log_probs) - np.asarray(log_probs)) * is_answer
    last = is_answer.shape[1] - 1 - np.argmax(is_answer[:, ::-1], axis=1)  # (B,)
    rewards[np.arange(len(rewards)), last] += scores
    return rewards.astype("float32")


def generalised_advantages(rewards, values, is_answer, discount=1.0, decay=0.95):
    """Compute how much better than expected each token was.

        delta_t = r_t + discount v_(t+1) - v_t,    A_t = delta_t + discount decay A_(t+1)

    decay = 0 trusts the values, decay = 1 trusts the rewards.

    Args:
        rewards: float array (B, T).
        values: float array (B, T), expected before the token is drawn.
        is_answer: bool array (B, T), one run of True in each row.
        discount: float in [0, 1].
        decay: float in [0, 1].

    Returns:
        advantages and returns (advantages + values), float32 arrays (B, T), 0 outside of the
        answers.

    Example:
        >>> marks = np.array([[False, True, True]])
        >>> found, _ = generalised_advantages(
        ...     np.array([[0.0, 0.0, 1.0]]), np.array([[0.0, 0.5, 0.5]]), marks, decay=0.5
        ... )
        >>> found.tolist()
        [[0.0, 0.25, 0.5]]

    Source: Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage
    Estimation" (2016), equation 16.
    """
    rewards, values = (np.asarray(x, "float32") * is_answer for x in (rewards, values))
    advantages = np.zeros_like(rewards)
    following = next_value = np.zeros(len(rewards), "float32")  # (B,)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + discount * next_value - values[:, t]
        following = (delta + discount * decay * following) * is_answer[:, t]
        advantages[:, t], next_value = following, values[:, t]
    return advantages, advantages + values


def group_advantages(scores, group_size, scale=True):
    """Compare each answer with the others to the same prompt: A = (r - mean) / std.

    Args:
        scores: float array (B,), B = prompts x G; the G answers to a prompt lie side by side.
        group_size: int >= 2, G.
        scale: bool, divide by the standard deviation of the group. Without it the sizes of
            rewards keep their meaning beside beta.

    Returns:
        float32 array (B,). A group with equal scores has zeros.

    Raises:
        ValueError: if group_size is below 2 or does not divide B.

    Example:
        >>> group_advantages(np.array([1.0, 3.0, 5.0, 5.0]), group_size=2).round(2).tolist()
        [-1.0, 1.0, 0.0, 0.0]

    Source: Shao et al., "DeepSeekMath" (2024), section 4.1.2; without scale: Liu et al.,
    "Understanding R1-Zero-Like Training" (2025).
    """
    scores = np.asarray(scores, dtype="float32")
    if check_positive("group_size", group_size) < 2 or len(scores) % group_size:
        raise ValueError(
            f"group_size must be >= 2 and divide the {len(scores)} scores, got {group_size}."
        )
    groups = scores.reshape(-1, group_size)
    centred = groups - groups.mean(axis=1, keepdims=True)
    if scale:
        centred = centred / (groups.std(axis=1, keepdims=True) + 1e-4)
    return centred.reshape(-1)


def kl_penalty(log_probs, reference_log_probs):
    """Estimate the KL divergence from the reference, token by token; never negative.

        k = p_ref / p - ln(p_ref / p) - 1

    Its mean over tokens drawn from p is KL(p | p_ref). Its gradient is not: it is that of
    KL(p_ref | p), the other way round.

    Args:
        log_probs: float tensor (B, T).
        reference_log_probs: float tensor (B, T).

    Returns:
        float32 tensor (B, T).

    Source: Schulman, "Approximating KL Divergence" (2020), k3.
    """
    difference = ops.cast(reference_log_probs, "float32") - ops.cast(log_probs, "float32")
    return ops.exp(difference) - difference - 1


def grpo_loss(
    log_probs, old_log_probs, reference_log_probs, advantages, is_answer, clip=0.2, beta=0.04
):
    """Compute the loss of GRPO: the mean over answers of the mean over their tokens of

        -min(w A, clip(w, 1 - clip, 1 + clip) A) + beta k,   w = p(token) / p_old(token)

    with k of `kl_penalty`. There is no value head: the group says what was to be expected.

    Args:
        log_probs: float tensor (B, T), of the model as it is.
        old_log_probs: float tensor (B, T), of the model that drew the answers.
        reference_log_probs: float tensor (B, T).
        advantages: float tensor (B,), one per answer, see `group_advantages`.
        is_answer: bool tensor (B, T).
        clip: float > 0.
        beta: float >= 0.

    Returns:
        float32 scalar.

    Source: Shao et al., "DeepSeekMath" (2024), equation 3.
    """
    advantages = ops.convert_to_tensor(advantages, "float32")[:, None]  # (B, 1)
    losses = beta * kl_penalty(log_probs, reference_log_probs)
    losses -= clipped_objective(log_probs, old_log_probs, advantages, clip)
    weights = ops.cast(is_answer, "float32")
    return ops.mean(ops.sum(losses * weights, axis=1) / ops.sum(weights, axis=1))


class GPTWithValue(keras.Model):
    """A GPT that also says what reward it expects: the policy and the critic of PPO.

    Call: model(token_ids) -> logits float32 (B, T, V) and values float32 (B, T), where the
    value at place t is expected before the token at t is drawn; 0 at the first place.

    Args:
        gpt: GPT, or the model of adapters on one.
    """

    def __init__(self, gpt):
        super().__init__(name="gpt_with_value", dtype=gpt.dtype_policy)
        self.autocast = False
        self.gpt = gpt
        self.head = ScalarHead(gpt.d_model)
        self.built = True

    def call(self, token_ids, training=None):
        hidden = hidden_states(self.gpt, token_ids, training)  # (B, T, D)
        values = self.head(hidden)[:, :-1]  # (B, T - 1)
        return self.gpt.logits(hidden), ops.pad(values, ((0, 0), (1, 0)))


def best_of_n_kl(n):
    """Bound how far the best of n draws is from one draw, in nats: ln n - (n - 1) / n.

    It is exact where no two answers have the same score and single answers are unlikely;
    else the distance is smaller.

    Args:
        n: int >= 1.

    Returns:
        float.

    Example:
        >>> [round(best_of_n_kl(n), 3) for n in (1, 4, 16)]
        [0.0, 0.636, 1.835]

    Source: Stiennon et al., "Learning to summarize from human feedback" (2020), appendix
    G.3; Beirami et al., "Theoretical guarantees on the best-of-n alignment policy" (2024).
    """
    check_positive("n", n)
    return math.log(n) - (n - 1) / n
