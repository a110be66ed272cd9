"""Preferences and reinforcement: losses by hand and by TRL, and optima that are known."""

import itertools
import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import tfgpt
from tfgpt import GPT
from tfgpt.pretrained import load_gpt2
from tfgpt.tasks.preferences import (
    encode_pairs,
    learn_preferences,
    learn_rewards,
    pair_log_probs,
    run_steps,
)
from tfgpt.tasks.reinforcement import (
    GRPO,
    PPO,
    Reinforcement,
    answers_of,
    best_of_n,
    reinforce,
    sample_answers,
    scores_of,
)
from tfgpt.train_step import make_loss_step
from tfgpt.tuning import (
    GPTWithValue,
    LoRA,
    RewardModel,
    adapt,
    answer_batch,
    answer_log_probs,
    best_of_n_kl,
    bradley_terry_loss,
    dpo_loss,
    generalised_advantages,
    group_advantages,
    grpo_loss,
    kl_penalty,
    ppo_loss,
    token_log_probs,
    token_rewards,
    value_loss,
)

tensorflow_only = pytest.mark.requires_tensorflow


def make_gpt(**options):
    sizes = {"vocab_size": 11, "context_length": 8, "num_layers": 1, "d_model": 16}
    return GPT(**{**sizes, "num_heads": 2, **options})


def array(x):
    return ops.convert_to_numpy(x)


# Log-probabilities of answers


def test_the_log_probability_of_an_answer_is_the_sum_over_its_tokens_alone():
    model = make_gpt()
    token_ids, marks = answer_batch([[1, 2], [3]], [[4], [5, 6, 7]])
    found = array(answer_log_probs(model, token_ids, marks))
    for row, prompt, answer in zip(found, ([1, 2], [3]), ([4], [5, 6, 7]), strict=True):
        text, total = list(prompt), 0.0
        for token in answer:
            scores = array(model(np.array([text])))[0, -1].astype(float)
            total += scores[token] - np.log(np.exp(scores).sum())
            text.append(token)
        assert row == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("pad_id", [None, 0])
def test_padding_and_other_rows_change_no_log_probability(pad_id):
    model = make_gpt(pad_id=pad_id)
    alone = array(answer_log_probs(model, *answer_batch([[1, 2]], [[4, 5]])))
    beside = array(answer_log_probs(model, *answer_batch([[1, 2], [3]], [[4, 5], [6] * 6])))
    assert beside[0] == pytest.approx(alone[0], abs=1e-5)


def test_the_probabilities_of_all_answers_sum_to_one():
    model = make_gpt(vocab_size=4)
    answers = list(itertools.product(range(4), repeat=2))
    found = array(answer_log_probs(model, *answer_batch([[1]] * 16, answers)))
    assert np.exp(found).sum() == pytest.approx(1.0, abs=1e-5)


def test_log_probabilities_are_float32_where_the_model_computes_in_bfloat16():
    half = make_gpt(dtype="mixed_bfloat16")
    token_ids, marks = answer_batch([[1]], [[2, 3]])
    assert answer_log_probs(half, token_ids, marks).dtype == "float32"
    assert RewardModel(half, 0)(token_ids).dtype == "float32"
    logits, values = GPTWithValue(half)(token_ids)
    assert logits.dtype == values.dtype == "float32"


def test_an_average_is_per_token_of_the_answer():
    model = make_gpt()
    batch = answer_batch([[1], [1]], [[2, 3], [4]])
    total, mean = (array(answer_log_probs(model, *batch, average=a)) for a in (False, True))
    np.testing.assert_allclose(total, mean * [2, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("prompts", "answers", "length", "message"),
    [
        ([[1]], [[2], [3]], None, "answers must be as many as prompts=1, got 2"),
        ([[]], [[2]], None, "prompts must have a token in every row"),
        ([[1]], [[]], None, "answers must have a token in every row"),
        ([[1]], [[2, 3]], 2, "length must be at least that of the longest, 3, got 2"),
    ],
)
def test_batches_that_cannot_be_made_are_refused(prompts, answers, length, message):
    with pytest.raises(ValueError, match=message):
        answer_batch(prompts, answers, length=length)


# Losses of pairs


def test_dpo_is_the_formula_of_the_paper():
    values = np.array([[-1.0, -3.0], [-2.5, -2.0], [-1.5, -2.0], [-2.0, -2.5]])
    margin = (values[0] - values[2]) - (values[1] - values[3])
    right, wrong = (np.log(1 + np.exp(sign * 0.3 * margin)) for sign in (-1, 1))
    np.testing.assert_allclose(dpo_loss(*values, beta=0.3), right, rtol=1e-5)
    smooth = dpo_loss(*values, beta=0.3, label_smoothing=0.2)
    np.testing.assert_allclose(smooth, 0.8 * right + 0.2 * wrong, rtol=1e-5)
    ipo = dpo_loss(*values, beta=0.3, kind="ipo")
    np.testing.assert_allclose(ipo, (margin - 1 / 0.6) ** 2, rtol=1e-5)


def test_extreme_margins_overflow_nowhere():
    zero, far = np.zeros(1), np.array([1e4])
    assert float(dpo_loss(far, zero, zero, zero)[0]) == 0
    assert float(dpo_loss(zero, far, zero, zero)[0]) == pytest.approx(1000.0)
    assert float(bradley_terry_loss(zero, far)[0]) == pytest.approx(1e4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "beta must be > 0, got 0.0"),
        ({"kind": "hinge"}, "kind must be one of 'sigmoid', 'ipo', got 'hinge'"),
        ({"label_smoothing": 0.5}, "label_smoothing must be below 0.5"),
        ({"label_smoothing": 0.1, "kind": "ipo"}, 'and 0 with kind="ipo", got 0.1'),
    ],
)
def test_settings_of_dpo_outside_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dpo_loss(*np.zeros((4, 1)), **settings)


REFERENCE = Path(__file__).parent / "references" / "preferences.npz"
CONFIG = {
    **{"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5},
    **{"vocab_size": 50, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 4},
}


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_the_loss_is_that_of_trl_under_copied_weights(kind, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    data = dict(np.load(REFERENCE))
    models = {}
    for name in ("policy", "reference"):
        own = {key.partition("/")[2]: x for key, x in data.items() if key.startswith(f"{name}/")}
        numpy.save_file(own, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
        models[name], _ = load_gpt2(tmp_path)
    batch = data["token_ids"], data["is_answer"]
    found = [
        np.split(array(answer_log_probs(model, *batch, average=kind == "ipo")), 2)
        for model in models.values()
    ]
    loss = dpo_loss(*found[0], *found[1], beta=float(data["beta"]), kind=kind)
    assert float(ops.mean(loss)) == pytest.approx(float(data[f"loss/{kind}"]), rel=1e-5)


# The reward model


def test_a_reward_is_read_at_the_last_real_token_whatever_the_padding():
    model = RewardModel(make_gpt(), pad_id=0)
    model.head.dense.kernel.assign(keras.random.normal((16, 1)))
    short = array(model(np.array([[1, 2, 3]])))
    padded = array(model(np.array([[1, 2, 3, 0, 0], [1, 2, 3, 4, 0]])))
    assert padded[0] == pytest.approx(short[0], abs=1e-5)
    assert abs(padded[1] - padded[0]) > 1e-3


@tensorflow_only
@pytest.mark.slow
def test_a_reward_model_finds_the_rewards_behind_noisy_preferences():
    """Six answers of one token; each pair is compared as often as Bradley and Terry say."""
    truth = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 6, (2, 3000))
    wins = rng.random(3000) < 1 / (1 + np.exp(truth[second] - truth[first]))
    chosen, rejected = np.where(wins, first, second) + 1, np.where(wins, second, first) + 1
    pairs = encode_pairs([[7]] * 3000, chosen[:, None], rejected[:, None])
    model = RewardModel(make_gpt(), pad_id=0)
    learn_rewards(model, pairs, 150, keras.optimizers.Adam(1e-2), batch_size=256)
    found = array(model(np.array([[7, answer] for answer in range(1, 7)])))
    assert np.abs((found - found.mean()) - (truth - truth.mean())).max() < 0.3


# Losses of reinforcement


def test_ppo_stops_pushing_where_the_ratio_leaves_the_clip():
    marks = np.array([[False, True, True, True, True]])
    log_probs = np.log([[1.0, 1.5, 0.5, 1.5, 0.5]])
    advantages = np.array([[9.0, 1.0, 1.0, -1.0, -1.0]])
    expected = -np.mean([1.2, 0.5, -1.5, -0.8])
    loss = ppo_loss(log_probs, np.zeros((1, 5)), advantages, marks, clip=0.2)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_advantages_lie_between_one_step_and_the_whole_sum():
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 1, 5)).astype("float32")
    marks = np.array([[False, True, True, True, False]])
    whole, returns = generalised_advantages(rewards, values, marks, decay=1.0)
    np.testing.assert_allclose(returns[0, 1], rewards[0, 1:4].sum(), rtol=1e-5)
    np.testing.assert_allclose(whole[0, 1], returns[0, 1] - values[0, 1], rtol=1e-5)
    one, _ = generalised_advantages(rewards, values, marks, decay=0.0)
    np.testing.assert_allclose(one[0, 1], rewards[0, 1] + values[0, 2] - values[0, 1], rtol=1e-4)
    assert whole[0, 0] == whole[0, 4] == one[0, 4] == 0


def test_the_reward_of_an_answer_is_its_score_less_beta_times_its_log_ratio():
    rng = np.random.default_rng(0)
    marks = np.array([[False, True, True, False], [False, True, True, True]])
    own, known = rng.normal(size=(2, 2, 4)) * marks
    rewards = token_rewards(np.array([1.0, 2.0]), own, known, marks, beta=0.5)
    expected = [1.0, 2.0] - 0.5 * (own - known).sum(axis=1)
    np.testing.assert_allclose(rewards.sum(axis=1), expected, rtol=1e-5)
    assert rewards[0, 3] == 0


def test_the_value_loss_counts_answers_only():
    marks = np.array([[False, True, True]])
    loss = value_loss(np.array([[9.0, 1.0, 2.0]]), np.array([[0.0, 0.0, 0.0]]), marks)
    assert float(loss) == pytest.approx(0.5 * (1 + 4) / 2)


def test_groups_are_compared_within_themselves():
    found = group_advantages([1.0, 2.0, 3.0, 10.0, 10.0, 10.0], 3)
    np.testing.assert_allclose(found, [-1.2247, 0, 1.2247, 0, 0, 0], atol=1e-3)
    np.testing.assert_allclose(group_advantages([1.0, 2.0, 3.0], 3, scale=False), [-1, 0, 1])
    for size in (1, 2):
        with pytest.raises(ValueError, match=f"group_size must be >= 2 .* got {size}"):
            group_advantages([1.0, 2.0, 3.0], size)


def test_the_estimate_of_the_kl_divergence_is_right_in_the_mean_and_never_negative():
    p, reference = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.3, 0.5])
    estimates = array(kl_penalty(np.log(p), np.log(reference)))
    assert (estimates >= 0).all()
    assert (p * estimates).sum() == pytest.approx((p * np.log(p / reference)).sum(), rel=1e-5)


@tensorflow_only
def test_the_gradient_of_the_penalty_is_that_of_the_divergence_the_other_way_round(rng):
    """With respect to logits the gradient of KL(p_ref | p) is p - p_ref."""
    import tensorflow as tf

    logits, reference = tf.Variable(rng.normal(size=5).astype("float32")), rng.dirichlet(np.ones(5))
    with tf.GradientTape() as tape:
        log_probs = tf.nn.log_softmax(logits)
        p = tf.stop_gradient(tf.exp(log_probs))  # how often each token is drawn
        loss = tf.reduce_sum(p * kl_penalty(log_probs, np.log(reference)))
    np.testing.assert_allclose(tape.gradient(loss, logits), array(p) - reference, atol=1e-5)


def test_grpo_is_the_mean_over_answers_of_the_mean_over_tokens():
    marks = np.array([[False, True, False], [False, True, True]])
    log_probs = np.array([[0.0, -1.0, 0.0], [0.0, -2.0, -0.5]])
    known = np.array([[0.0, -1.5, 0.0], [0.0, -1.0, -0.5]])
    k = np.exp(known - log_probs) - (known - log_probs) - 1
    expected = np.mean([0.1 * k[0, 1] - 2.0, np.mean(0.1 * k[1, 1:]) + 1.0])
    loss = grpo_loss(log_probs, log_probs, known, [2.0, -1.0], marks, beta=0.1)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_best_of_n_is_the_mean_over_all_choices(n):
    rng = np.random.default_rng(n)
    scores, values = rng.normal(size=(2, 2, 6))
    best = [
        np.mean([row[max(c, key=own.__getitem__)] for c in itertools.combinations(range(6), n)])
        for own, row in zip(scores, values, strict=True)
    ]
    assert best_of_n(scores, n, values) == pytest.approx(np.mean(best))
    with pytest.raises(ValueError, match="n must be at most the 6 answers, got 7"):
        best_of_n(scores, 7)


def test_the_distance_of_the_best_of_n_is_that_of_many_equally_likely_answers():
    """Of M answers the best of n is answer i with probability (i/M)^n - ((i-1)/M)^n."""
    places = np.arange(20_001) / 20_000
    chances = np.diff(places**4)
    assert np.sum(chances * np.log(chances * 20_000)) == pytest.approx(best_of_n_kl(4), abs=1e-3)


# Sampling


@tensorflow_only
@pytest.mark.slow
def test_answers_end_with_their_stop_token_and_are_marked_so():
    model = make_gpt(vocab_size=4)
    rows = sample_answers(model, [[1, 2], [3]], 4, stop_token=0, group_size=6, seed=0)
    assert rows["token_ids"].shape == (12, 6)
    answers = answers_of(rows)
    assert any(len(answer) < 4 for answer in answers)
    for index, answer in enumerate(answers):
        assert list(answer[:-1]).count(0) == 0 and (len(answer) == 4 or answer[-1] == 0)
        start = 2 if index < 6 else 1
        assert rows["is_answer"][index].argmax() == start


@pytest.mark.parametrize("scores", [[1.0], [1.0, math.nan], [[1.0, 2.0]]])
def test_scores_that_are_no_two_numbers_are_refused(scores):
    with pytest.raises(ValueError, match="score must return 2 finite numbers, got"):
        scores_of(lambda prompts, answers: scores, [[1]] * 2, [[2], [3]])


@tensorflow_only
@pytest.mark.parametrize(
    "prompts, count, message",
    [
        ([], 2, "prompts must hold prompts of one token or more"),
        ([[1], []], 2, "prompts must hold prompts of one token or more"),
        ([[1], [1, 2]], 99, "must fit context_length=.*got 99 . 2"),
    ],
)
def test_prompts_that_are_empty_or_too_long_are_refused(prompts, count, message):
    with pytest.raises(ValueError, match=message):
        sample_answers(make_gpt(vocab_size=4), prompts, count)


def test_a_penalty_lies_in_the_loss_or_in_the_reward():
    with pytest.raises(ValueError, match="penalty must be one of 'loss', 'reward', got 'both'"):
        GRPO(penalty="both")


# Optima that are known


class Truth:
    """All 25 answers of two tokens, a reward for each, and the best policy in closed form."""

    beta = 0.5

    def __init__(self):
        tfgpt.set_seed(0)
        self.model = GPT(5, 3, num_layers=1, d_model=32, num_heads=2, tie_embeddings=False)
        kernel = self.model.output_projection.kernel
        kernel.assign(keras.random.normal(kernel.shape, stddev=0.15, seed=1))
        self.answers = list(itertools.product(range(5), repeat=2))
        self.batch = answer_batch([[0]] * 25, self.answers)
        self.rewards = np.random.default_rng(0).normal(size=25).astype("float32")
        self.reference = self.probabilities()
        best = self.reference * np.exp(self.rewards / self.beta)
        self.best = best / best.sum()

    def probabilities(self):
        return np.exp(array(answer_log_probs(self.model, *self.batch)))

    def score(self, prompts, answers):
        return self.rewards[[5 * first + second for first, second in answers]]

    def error(self):
        """Measure the total variation between the policy and the best one, 0 to 1."""
        return 0.5 * np.abs(self.probabilities() - self.best).sum()


@tensorflow_only
@pytest.mark.slow
def test_dpo_reaches_the_known_optimum():
    """Every pair counts as often as it would be preferred: no noise, so the error is tiny."""
    truth = Truth()
    assert truth.error() > 0.5
    known = array(answer_log_probs(truth.model, *truth.batch))
    i, j = (x.ravel() for x in np.meshgrid(range(25), range(25)))
    weights = 1 / (1 + np.exp(truth.rewards[j] - truth.rewards[i]))

    def loss(model, batch):
        found = answer_log_probs(model, *truth.batch)
        pairs = ops.take(found, i), ops.take(found, j), known[i], known[j]
        return {"loss": ops.mean(dpo_loss(*pairs, beta=truth.beta) * weights)}

    rate = keras.optimizers.schedules.CosineDecay(1e-2, 200)
    step = make_loss_step(truth.model, keras.optimizers.Adam(rate), loss)
    for _ in range(200):
        step(np.zeros(1))
    assert truth.error() < 0.02


METHODS = {
    "ppo": PPO(beta=Truth.beta),
    "grpo": GRPO(beta=Truth.beta, scale=False, penalty="reward"),
}


@tensorflow_only
@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_reinforcement_reaches_the_known_optimum(name):
    truth, method, steps = Truth(), METHODS[name], 80
    rate = keras.optimizers.schedules.CosineDecay(7e-3, steps * method.passes)
    history = reinforce(
        *(truth.model, method, [[0]], truth.score, steps, 2),
        group_size=256,
        optimizer=keras.optimizers.Adam(rate),
    )
    assert truth.error() < 0.06
    distance = np.sum(truth.best * np.log(truth.best / truth.reference))
    assert history[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert np.mean([row["kl"] for row in history[-10:]]) == pytest.approx(distance, abs=0.15)
    assert history[-1]["reward"] == pytest.approx(truth.best @ truth.rewards, abs=0.2)


# Training on pairs


def make_pairs():
    """Make pairs in which the larger token was liked more."""
    rng = np.random.default_rng(0)
    tokens = np.array([rng.choice(np.arange(1, 11), 2, replace=False) for _ in range(64)])
    prompts = rng.integers(1, 11, (64, 2))
    return encode_pairs(prompts, tokens.max(axis=1)[:, None], tokens.min(axis=1)[:, None])


def test_a_pair_lies_side_by_side_and_needs_both_answers():
    pairs = encode_pairs([[1, 2], [3]], [[4], [5, 6]], [[7, 8], [9]], pad_id=10)
    assert pairs["token_ids"].tolist() == [
        [[1, 2, 4, 10], [1, 2, 7, 8]],
        [[3, 5, 6, 10], [3, 9, 10, 10]],
    ]
    assert pairs["is_answer"].sum(axis=2).tolist() == [[1, 2], [2, 1]]
    with pytest.raises(ValueError, match="rejected must be as many as chosen=1, got 2"):
        encode_pairs([[1]], [[2]], [[3], [4]])


@tensorflow_only
def test_a_loss_step_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="clip_norm must be > 0 or None, got 0.0"):
        make_loss_step(make_gpt(), "adam", None, clip_norm=0.0)
    with pytest.raises(ValueError, match="batch_size must be at most the 64 pairs, got 65"):
        run_steps(None, make_pairs(), 1, 65, seed=0)
    with pytest.raises(ValueError, match="steps must be an integer >= 1, got 0"):
        run_steps(None, make_pairs(), 0, 8, seed=0)


@tensorflow_only
@pytest.mark.slow
def test_adapters_learn_preferences_while_their_base_stays_the_reference():
    model, pairs = make_gpt(), make_pairs()
    for weight in model.weights:
        if len(weight.shape) == 2:  # so that logits are not all near 0
            weight.assign(keras.random.normal(weight.shape, stddev=0.3))
    base = [array(weight).copy() for weight in model.weights]
    before = array(pair_log_probs(model, pairs))
    adapters = adapt(model, LoRA(rank=2, layers="attention|feed_forward"))
    history = learn_preferences(adapters.model, pairs, 40, keras.optimizers.Adam(3e-2), beta=0.5)
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert history[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert history[-1]["loss"] < 0.5 and history[-1]["accuracy"] > 0.8
    adapters.detach()
    np.testing.assert_array_equal(array(pair_log_probs(model, pairs)), before)
    for weight, value in zip(model.weights, base, strict=True):
        np.testing.assert_array_equal(array(weight), value)


@tensorflow_only
def test_a_copy_of_a_model_with_adapters_is_no_reference():
    adapters = adapt(make_gpt(), LoRA(rank=2))
    with pytest.raises(ValueError, match="reference must be given for a model with adapters"):
        Reinforcement(adapters.model, GRPO(), 2)


def test_a_value_is_expected_before_its_token_is_drawn():
    model = GPTWithValue(make_gpt())
    model.head.dense.kernel.assign(keras.random.normal((16, 1)))
    token_ids = np.array([[1, 2, 3], [1, 2, 9]])
    logits, values = (array(x) for x in model(token_ids))
    np.testing.assert_allclose(values[0], values[1], atol=1e-6)  # the last token is not seen
    assert values[0, 0] == 0 and abs(values[0, 2]) > 1e-4
    np.testing.assert_allclose(logits, array(model.gpt(token_ids)), atol=1e-5)


def test_the_first_place_has_no_log_probability():
    logits = np.zeros((1, 3, 4), "float32")
    found = array(token_log_probs(logits, np.array([[1, 2, 3]]), np.array([[False, True, False]])))
    np.testing.assert_allclose(found, [[0, -math.log(4), 0]], rtol=1e-6)
