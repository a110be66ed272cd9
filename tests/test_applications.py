"""Tests of what the applications use: ranking scores, and the watch over a stream."""

import numpy as np
import pytest

from tfgpt.data import load_answers, load_dialogues
from tfgpt.tasks.ranking import hit_rate, ndcg, ranks
from tfgpt.tasks.watch import alarm_threshold, cusum

RNG = np.random.default_rng(0)


def test_ranks_are_places_in_the_sorted_row():
    scores = RNG.permuted(np.tile(np.arange(9), (50, 1)), axis=1)
    targets = RNG.integers(0, 9, 50)
    order = np.argsort(-scores, axis=1)
    places = [list(row).index(target) for row, target in zip(order, targets, strict=True)]
    assert ranks(scores, targets).tolist() == places


def test_equal_scores_put_the_right_item_into_their_middle():
    assert ranks(np.zeros((1, 9)), [3]).tolist() == [4]
    assert hit_rate(np.zeros((1, 100)), [0], k=10).tolist() == [0]


def test_ndcg_is_that_of_scikit_learn_for_one_right_item():
    metrics = pytest.importorskip("sklearn.metrics")
    scores, targets = RNG.normal(size=(40, 12)), RNG.integers(0, 12, 40)
    relevant = np.eye(12)[targets]
    assert np.isclose(ndcg(scores, targets, k=5).mean(), metrics.ndcg_score(relevant, scores, k=5))
    assert np.isclose(
        hit_rate(scores, targets, k=5).mean(),
        metrics.top_k_accuracy_score(targets, scores, k=5, labels=range(12)),
    )


@pytest.mark.parametrize("targets", [[3], [-1], [0, 1]])
def test_a_target_outside_the_items_is_an_error(targets):
    with pytest.raises(ValueError, match="targets"):
        ranks(np.zeros((1, 3)), targets)


def test_k_below_one_is_an_error():
    with pytest.raises(ValueError, match="k"):
        ndcg(np.zeros((1, 3)), [0], k=0)


def sum_by_loop(events, usual, raised):
    total, found = 0.0, []
    for event in events:
        p, q = (raised, usual) if event else (1 - raised, 1 - usual)
        total = max(0.0, total + np.log(p / q))
        found.append(total)
    return found


def test_cusum_is_the_sum_that_never_falls_below_zero():
    events = RNG.random((5, 200)) < 0.3
    expected = [sum_by_loop(row, 0.2, 0.5) for row in events]
    assert np.allclose(cusum(events, 0.2, 0.5), expected)
    assert np.allclose(cusum(events[0], 0.2, 0.5), expected[0])


def test_usual_streams_raise_as_many_false_alarms_as_stated():
    threshold = alarm_threshold(0.25, 0.5, length=400, false_alarms=0.1, runs=4000)
    others = np.random.default_rng(7).random((4000, 400)) < 0.25
    share = (cusum(others, 0.25, 0.5).max(axis=1) > threshold).mean()
    assert abs(share - 0.1) < 0.03  # 4 standard errors of both simulations


def test_a_raised_stream_is_found_and_a_lower_threshold_is_sooner():
    raised = np.random.default_rng(1).random((200, 300)) < 0.5
    sums = cusum(raised, 0.25, 0.5)
    delays = [(sums > threshold).argmax(axis=1).mean() for threshold in (3.0, 6.0)]
    assert (sums.max(axis=1) > 6.0).all() and delays[0] < delays[1] < 100


def test_an_event_is_yes_or_no():
    with pytest.raises(ValueError, match="events must be yes or no"):
        cusum([0, 2], 0.25, 0.5)


@pytest.mark.parametrize("shares", [(0.0, 0.5), (0.5, 0.5), (0.6, 0.5), (0.5, 1.0)])
def test_shares_in_the_wrong_order_are_an_error(shares):
    with pytest.raises(ValueError, match="usual and raised"):
        cusum([True], *shares)


@pytest.mark.parametrize(
    ("name", "value"), [("length", 0), ("false_alarms", 1.0), ("runs", 0), ("seed", -1)]
)
def test_settings_of_the_simulation_have_ranges(name, value):
    with pytest.raises(ValueError, match=name):
        alarm_threshold(0.2, 0.5, **{"length": 10, name: value})


def test_every_question_of_a_user_means_a_stored_one_or_none():
    asked = load_answers("service")
    stored = {turns[0]["content"] for turns in load_dialogues("dialogues", "english").labels}
    assert set(asked.labels) <= stored | {"none"}
    assert len(asked) == 194 and asked.labels.count("none") == 80
    plain = {text.lower().strip(" ?.") for text in stored}
    assert not plain & {text.lower() for text in asked.texts}
