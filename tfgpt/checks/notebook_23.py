"""Exercises of notebook 23, preferences and reinforcement."""

import numpy as np

from tfgpt.checks.registry import Case, exercises_of

add_exercise = exercises_of("23")


def dpo(chosen, rejected, reference_chosen, reference_rejected, beta):
    """Compute the loss of DPO of each pair: float (B,)."""
    margin = (chosen - reference_chosen) - (rejected - reference_rejected)
    return np.logaddexp(0.0, -beta * margin)


def best_policy(reference, rewards, beta):
    """Compute the policy with the largest mean reward less beta KL: float (Y,)."""
    weights = reference * np.exp((rewards - rewards.max()) / beta)
    return weights / weights.sum()


def advantages(rewards, values, discount, decay):
    """Compute the generalised advantages of one answer: float (T,)."""
    found, following = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        after = values[t + 1] if t + 1 < len(rewards) else 0.0
        following = rewards[t] + discount * after - values[t] + discount * decay * following
        found[t] = following
    return found


def clipped_loss(log_probs, old_log_probs, advantages, is_answer, clip):
    """Compute the loss of PPO: the mean over the tokens of the answers, a number."""
    ratio = np.exp(np.where(is_answer, log_probs - old_log_probs, 0.0))
    smaller = np.minimum(ratio * advantages, np.clip(ratio, 1 - clip, 1 + clip) * advantages)
    return -smaller[is_answer].mean()


def best_of_n_policy(probabilities, scores, n):
    """Compute how likely each answer is the best of n draws: float (Y,)."""
    order = np.argsort(scores)
    reached = np.append(0.0, np.cumsum(probabilities[order])) ** n
    found = np.empty(len(scores))
    found[order] = np.diff(reached)
    return found


rng = np.random.default_rng(0)
SCORES = rng.normal(size=6)
PROBABILITIES = rng.dirichlet(np.ones(6))

add_exercise(
    "dpo loss",
    dpo,
    Case(
        "one pair, nothing learned yet",
        (*np.array([[-1.0], [-2.0], [-1.0], [-2.0]]), 0.1),
        "Model and reference agree: the margin is 0 and the loss ln 2.",
    ),
    Case(
        "three pairs",
        (*rng.normal(-5, 2, (4, 3)), 0.5),
        "margin = (chosen - reference_chosen) - (rejected - reference_rejected).",
    ),
    Case(
        "edge case: margins of thousands",
        (np.array([0.0, -5000.0]), np.array([-5000.0, 0.0]), np.zeros(2), np.zeros(2), 1.0),
        "np.exp overflows: -ln sigmoid(x) is np.logaddexp(0, -x).",
    ),
)

add_exercise(
    "best policy",
    best_policy,
    Case(
        "two answers",
        (np.array([0.5, 0.5]), np.array([1.0, 0.0]), 1.0),
        "Multiply the reference by exp(reward / beta), then divide by the sum.",
    ),
    Case(
        "six answers", (PROBABILITIES, SCORES, 0.3), "The reference counts: it is no softmax alone."
    ),
    Case(
        "edge case: large rewards and a small beta",
        (np.array([0.2, 0.3, 0.5]), np.array([900.0, 899.9, 100.0]), 0.05),
        "Subtract the largest reward first: it changes nothing, and exp does not overflow.",
    ),
    Case(
        "edge case: an answer that the reference never gives",
        (np.array([0.0, 0.4, 0.6]), np.array([9.0, 1.0, 1.0]), 1.0),
        "What the reference never writes stays impossible.",
    ),
)

add_exercise(
    "advantages",
    advantages,
    Case(
        "a reward at the end",
        (np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.5, 0.5]), 1.0, 0.5),
        "Begin at the last token: A_t = delta_t + discount * decay * A_(t+1).",
    ),
    Case(
        "five tokens and a discount",
        (*rng.normal(size=(2, 5)), 0.9, 0.8),
        "delta_t = r_t + discount * v_(t+1) - v_t.",
    ),
    Case(
        "edge case: one token",
        (np.array([2.0]), np.array([0.5]), 0.9, 0.9),
        "After the last token the value is 0.",
    ),
)

MARKS = np.array([[False, True, True, False], [False, True, True, True]])
OLD = np.where(MARKS, -1.0, 0.0)
NEW = OLD + np.where(MARKS, rng.normal(0, 0.4, MARKS.shape), 0.0)
GAINS = rng.normal(size=MARKS.shape)

add_exercise(
    "clipped loss",
    clipped_loss,
    Case(
        "two answers",
        (NEW, OLD, GAINS, MARKS, 0.2),
        "The smaller of w A and clip(w) A, token by token; a loss is made smaller: minus.",
    ),
    Case(
        "likelier tokens that were bad",
        (OLD + 0.5 * MARKS, OLD, -np.ones(MARKS.shape), MARKS, 0.2),
        "With A below 0 the smaller one is w A, which is not clipped.",
    ),
    Case(
        "edge case: numbers beside the answers",
        (NEW - 50 * ~MARKS, OLD + 900 * ~MARKS, GAINS + 7 * ~MARKS, MARKS, 0.2),
        "Only tokens of answers count, in the sum and in the number of tokens.",
    ),
)

add_exercise(
    "best of n",
    best_of_n_policy,
    Case(
        "two answers, two draws",
        (np.array([0.5, 0.5]), np.array([0.0, 1.0]), 2),
        "The worse answer is the best only if both draws give it.",
    ),
    Case(
        "six answers, four draws",
        (PROBABILITIES, SCORES, 4),
        "P(all n draws score at most s) = F(s)^n; take differences in the order of the scores.",
    ),
    Case(
        "edge case: one draw",
        (PROBABILITIES, SCORES, 1),
        "The best of one is any draw: the probabilities themselves, in their own order.",
    ),
)
