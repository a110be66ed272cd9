"""Tests of tfgpt.samplers: exact numbers on an alphabet of four letters."""

from dataclasses import dataclass

import numpy as np
import pytest
from keras import ops
from layer_check import compiled

from tfgpt.generation.decoding import choose_tokens
from tfgpt.generation.samplers import (
    Greedy,
    MinP,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    adjust_logits,
    check_samplers,
    draw,
    make_samplers,
    seen_tokens,
)

INF = np.inf
# Letters a, b, c, d.
LOGITS = np.array([[2.0, -1.0, 0.5, 1.5]], "float32")
PROBABILITIES = [0.4, 0.1, 0.2, 0.3]


def adjusted(sampler, logits=LOGITS, seen=None):
    return np.asarray(sampler.adjust(np.asarray(logits, "float32"), seen)).tolist()


def kept(sampler, probabilities):
    """List the places that a sampler leaves possible."""
    logits = np.log(np.array([probabilities], "float32"))
    result = np.asarray(sampler.adjust(logits, None))[0]
    possible = np.isfinite(result)
    np.testing.assert_array_equal(result[possible], logits[0, possible])
    return np.flatnonzero(possible).tolist()


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (Greedy(), [2.0, -INF, -INF, -INF]),
        (Temperature(0.5), [4.0, -2.0, 1.0, 3.0]),
        (Temperature(2), [1.0, -0.5, 0.25, 0.75]),
        (TopK(1), [2.0, -INF, -INF, -INF]),
        (TopK(3), [2.0, -INF, 0.5, 1.5]),
        (TopK(4), [2.0, -1.0, 0.5, 1.5]),
        (TopK(10**12), [2.0, -1.0, 0.5, 1.5]),
        (MinP(0.0), [2.0, -1.0, 0.5, 1.5]),
        (MinP(1.0), [2.0, -INF, -INF, -INF]),
        (MinP(0.5), [2.0, -INF, -INF, 1.5]),  # exp(1.5 - 2) = 0.61, exp(0.5 - 2) = 0.22
    ],
)
def test_the_logits_are_what_is_computed_by_hand(sampler, expected):
    assert adjusted(sampler) == [expected]


@pytest.mark.parametrize(
    ("p", "expected"),
    [(1e-9, [0]), (0.39, [0]), (0.6, [0, 3]), (0.75, [0, 2, 3]), (0.95, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_fewest_that_sum_to_p(p, expected):
    assert kept(TopP(p), PROBABILITIES) == expected


@pytest.mark.parametrize(("p", "expected"), [(0.2, [0, 1, 2, 3]), (0.4, [0, 2, 3]), (0.9, [0])])
def test_min_p_keeps_what_is_p_times_the_likeliest(p, expected):
    assert kept(MinP(p), PROBABILITIES) == expected


def test_the_repetition_penalty_makes_seen_tokens_less_likely_whatever_their_sign():
    seen = np.array([[True, True, False, False]])
    assert adjusted(RepetitionPenalty(2.0), seen=seen) == [[1.0, -2.0, 0.5, 1.5]]
    assert adjusted(RepetitionPenalty(0.5), seen=seen) == [[4.0, -0.5, 0.5, 1.5]]
    assert adjusted(RepetitionPenalty(1.0), seen=seen) == LOGITS.tolist()


def test_of_equal_tokens_the_first_are_kept_and_no_more_than_needed():
    equal = [0.25] * 4
    assert kept(Greedy(), equal) == [0]
    assert kept(TopK(2), equal) == [0, 1]
    assert kept(TopP(0.5), equal) == [0, 1]
    assert kept(TopK(2), [0.2, 0.4, 0.2, 0.2]) == [0, 1]
    assert kept(MinP(1.0), equal) == [0, 1, 2, 3]


def test_top_k_and_top_p_agree_with_a_sorted_row(rng):
    for places in (1, 5):  # rounded to one digit there are many equal logits
        logits = rng.normal(size=(40, 11)).round(places).astype("float32")
        order = np.argsort(-logits, axis=-1, kind="stable")
        sums = np.take_along_axis(np.exp(logits), order, axis=-1).cumsum(axis=-1)
        for k, p in ((1, 0.05), (4, 0.5), (10, 0.93)):
            counts = 1 + (sums / sums[:, -1:] < p).sum(axis=-1)
            for sampler, count in ((TopK(k), np.full(40, k)), (TopP(p), counts)):
                possible = np.isfinite(np.asarray(sampler.adjust(logits, None)))
                ranks = np.argsort(order, axis=-1)
                np.testing.assert_array_equal(possible, ranks < count[:, None])


@pytest.mark.parametrize("sampler", [Greedy(), Temperature(0.5), TopK(3), TopP(0.9), MinP(0.1)])
def test_a_forbidden_token_stays_forbidden(sampler):
    result = np.asarray(sampler.adjust(np.array([[1.0, -INF, 0.5, -INF]], "float32"), None))
    assert result[0, 1] == result[0, 3] == -INF
    assert result[0, 0] > -INF and not np.isnan(result).any()


def test_numbers_may_be_tensors_which_are_not_checked():
    for kind, number in ((Temperature, 0.5), (TopK, 3), (TopP, 0.7), (MinP, 0.5)):
        tensor = ops.convert_to_tensor(number, "float32")
        assert adjusted(kind(tensor)) == adjusted(kind(number))
    seen = np.ones((1, 4), bool)
    tensor = ops.convert_to_tensor(1.5, "float32")
    np.testing.assert_allclose(
        adjusted(RepetitionPenalty(tensor), seen=seen), adjusted(RepetitionPenalty(1.5), seen=seen)
    )


@pytest.mark.parametrize("temperature", [1e-320, 1e-30, 1e30, 1e300])
def test_extreme_temperatures_give_finite_logits(temperature):
    assert np.isfinite(adjusted(Temperature(temperature), [[1e4, -1e4, 0.0, 3.0]])).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Temperature(0), "temperature must be > 0 and finite, got 0"),
        (lambda: Temperature(float("nan")), "temperature must be > 0 and finite, got nan"),
        (lambda: Temperature("hot"), "temperature must be > 0 and finite, got 'hot'"),
        (lambda: TopK(0), "k must be an integer >= 1, got 0"),
        (lambda: TopK(2.0), "k must be an integer >= 1, got 2.0"),
        (lambda: TopP(0.0), r"p must be in \(0, 1\], got 0.0"),
        (lambda: TopP(1.5), r"p must be in \(0, 1\], got 1.5"),
        (lambda: MinP(-0.1), r"p must be in \[0, 1\], got -0.1"),
        (lambda: MinP(True), r"p must be in \[0, 1\], got True"),
        (lambda: RepetitionPenalty(0), "penalty must be > 0 and finite, got 0"),
        (lambda: RepetitionPenalty(INF), "penalty must be > 0 and finite, got inf"),
        (lambda: make_samplers(-1), "temperature must be >= 0 and finite, got -1"),
        (lambda: make_samplers(min_p=2), r"min_p must be in \[0, 1\], got 2"),
        (
            lambda: make_samplers(repetition_penalty=0),
            "repetition_penalty must be > 0 and .*, got 0",
        ),
    ],
)
def test_numbers_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_settings_become_samplers_in_one_order():
    assert make_samplers() == [Temperature(1.0)]
    assert make_samplers(0) == [Greedy()]
    assert make_samplers(0, top_k=3, repetition_penalty=1.2) == [RepetitionPenalty(1.2), Greedy()]
    everything = make_samplers(0.7, top_k=5, top_p=0.9, min_p=0.1, repetition_penalty=1.2)
    assert everything == [RepetitionPenalty(1.2), Temperature(0.7), TopK(5), TopP(0.9), MinP(0.1)]


def test_what_is_no_list_of_samplers_is_refused():
    check_samplers([Temperature(1.0), Greedy()])
    with pytest.raises(TypeError, match="samplers must be a list .*, got 'greedy'"):
        check_samplers("greedy")
    for wrong in ("greedy", Greedy, object()):
        with pytest.raises(TypeError, match="samplers must hold dataclass objects"):
            check_samplers([wrong])

    @dataclass(frozen=True)
    class Ban:
        tokens: tuple

        def adjust(self, logits, seen):
            return logits

    with pytest.raises(ValueError, match=r"tokens of Ban must be a number, got \(1, 2\)"):
        check_samplers([Ban((1, 2))])


def test_seen_are_the_tokens_written_so_far_and_no_others():
    token_ids = np.array([[3, 3, 1, 2], [0, 4, 2, 2]], "int32")
    result = np.asarray(seen_tokens(token_ids, 2, vocab_size=5))
    assert [np.flatnonzero(row).tolist() for row in result] == [[3], [0, 4]]


def test_tokens_are_drawn_as_often_as_the_adjusted_distribution_says():
    """Chi-square with 2 degrees of freedom: 13.8 is passed by 999 of 1000 right samplers."""
    count, samplers = 20_000, [Temperature(0.7), TopK(3), MinP(0.05)]
    logits = np.tile(LOGITS, (count, 1))
    points = np.random.default_rng(0).random(count, dtype="float32")
    texts = np.zeros((count, 1), "int32")
    drawn = np.asarray(choose_tokens(samplers, ops.convert_to_tensor(logits), texts, 1, points))
    counts = np.bincount(drawn, minlength=4)
    expected = np.exp(np.asarray(adjust_logits(samplers, LOGITS, None))[0])
    expected *= count / expected.sum()
    assert counts[1] == expected[1] == 0
    possible = expected > 0
    statistic = ((counts[possible] - expected[possible]) ** 2 / expected[possible]).sum()
    assert statistic < 13.8


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode", ["eager", pytest.param("xla", marks=pytest.mark.requires_tensorflow)]
)
def test_a_token_of_probability_0_is_never_drawn(mode):
    """At all limits of the sums, and one step of float32 beside them, for 50,257 tokens."""
    rng = np.random.default_rng(0)
    run = compiled(mode, draw)
    for kept in (1, 3, 40, 5000):
        logits = np.full(50257, -np.inf, "float32")
        logits[rng.choice(50257, kept, replace=False)] = rng.normal(size=kept) * 3
        row = np.exp(logits - logits.max())
        row = (row / row.sum()).astype("float32")
        limits = np.cumsum(row)[row > 0][-66:].astype("float32")
        edges = [0.0, 1 - 2.0**-24, *limits, *np.nextafter(limits, 0), *np.nextafter(limits, 2)]
        points = np.clip(np.resize(np.array(edges, "float32"), 202), 0, 1 - 2.0**-24)
        for start in range(0, 202, 101):
            part = points[start : start + 101]
            chosen = np.asarray(run(np.broadcast_to(row, (101, 50257)), part))
            assert (row[chosen] > 0).all()


def test_where_nothing_can_be_drawn_there_is_no_token():
    rows = np.array([[np.nan, np.nan], [0.0, 0.0], [0.0, 1.0]], "float32")
    assert np.asarray(draw(rows, np.full(3, 0.5, "float32"))).tolist() == [-1, -1, 1]


def test_top_p_keeps_the_tokens_that_exact_sums_keep():
    """Also where the sum is p but for rounding: 0.5 + 0.3 for p = 0.8 is enough."""
    logits = np.log(np.array([[0.3, 0.1, 0.1, 0.5]]))
    assert np.isfinite(TopP(0.8).adjust(logits, None)).tolist() == [[True, False, False, True]]
    rng = np.random.default_rng(0)
    for _ in range(50):
        counts = rng.integers(1, 9, 7)
        probabilities = counts / counts.sum()
        order = np.argsort(-probabilities, kind="stable")
        sums = np.cumsum(counts[order])
        needed = rng.integers(1, counts.sum())
        keep = order[: int(np.searchsorted(sums, needed) + 1)]
        kept = np.isfinite(TopP(needed / counts.sum()).adjust(np.log(probabilities)[None], None))
        assert set(np.nonzero(kept[0])[0]) == set(keep)
