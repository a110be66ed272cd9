"""Watch a stream of yes and no, and raise an alarm when yes becomes more frequent.

Shape letters: R streams, N events in each.
"""

import numpy as np

from tfgpt.validation import check_integer


def cusum(events, usual, raised):
    """Add up the evidence that yes has become more frequent: Page's CUSUM.

    S_t = max(0, S_{t-1} + ln p_raised(event) / p_usual(event)), from S_0 = 0. A usual stream
    falls back to 0 again and again; a raised one climbs.

    Args:
        events: bool array (N,) or (R, N).
        usual: float in (0, 1), the share of yes as it should be.
        raised: float in (usual, 1), the share that is to be found soonest.

    Returns:
        float array of the same shape: S after each event. An alarm is S > a threshold.

    Raises:
        ValueError: if not 0 < usual < raised < 1, or an event is neither yes nor no.

    Example:
        >>> cusum([True, False, True, True], 0.25, 0.5).round(2).tolist()
        [0.69, 0.29, 0.98, 1.67]

    Source: Page, "Continuous Inspection Schemes" (1954).
    """
    check_shares(usual, raised)
    events = np.asarray(events)
    if not np.isin(events, (0, 1)).all():
        raise ValueError(f"events must be yes or no, True or False, got {events.ravel()!r:.60}.")
    steps = np.where(events == 1, np.log(raised / usual), np.log((1 - raised) / (1 - usual)))
    sums = np.cumsum(steps, axis=-1)
    # The sum since its lowest point so far is the sum that never falls below 0.
    lowest = np.minimum(np.minimum.accumulate(sums, axis=-1), 0)
    return sums - lowest


def alarm_threshold(usual, raised, length, false_alarms=0.05, runs=2000, seed=0):
    """Choose the threshold by simulation, so that false alarms have a stated rate.

    Args:
        usual, raised: as for `cusum`.
        length: int >= 1, events of a stream.
        false_alarms: float in (0, 1), the share of usual streams of this length with an alarm.
        runs: int >= 1, simulated streams.
        seed: int >= 0.

    Returns:
        float: this share of the simulated usual streams rises above it.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> alarm_threshold(0.25, 0.5, length=100) < alarm_threshold(0.25, 0.5, length=1000)
        True
    """
    check_shares(usual, raised)
    for name, value, least in (("length", length, 1), ("runs", runs, 1), ("seed", seed, 0)):
        check_integer(name, value, minimum=least)
    if not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms must be in (0, 1), got {false_alarms!r}.")
    events = np.random.default_rng(seed).random((runs, length)) < usual
    highest = cusum(events, usual, raised).max(axis=-1)  # (runs,)
    return float(np.quantile(highest, 1 - false_alarms, method="higher"))


def check_shares(usual, raised):
    """Raise unless 0 < usual < raised < 1."""
    if not 0 < usual < raised < 1:
        raise ValueError(
            f"usual and raised must be 0 < usual < raised < 1, got {usual!r} and {raised!r}."
        )
