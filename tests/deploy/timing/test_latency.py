"""Statistics of timings with scripted durations; no test reads a clock."""

import gc
import math

import numpy as np
import pytest

from deploy.device.rounds import median_interval, relative_interval
from deploy.timing.latency import Latency, Ratio, Rounds, clocked, take_rounds


class Scripted:
    """Candidates whose seconds are given in advance, and a clock that advances by them."""

    def __init__(self, **seconds):
        self.seconds = {name: iter(values) for name, values in seconds.items()}
        self.order, self.now = [], 0.0

    def timers(self):
        def timer(name):
            def timed():
                self.order.append(name)
                taken = next(self.seconds[name])
                self.now += taken
                return taken

            return timed

        return {name: timer(name) for name in self.seconds}

    def run(self, rounds, **options):
        return take_rounds(self.timers(), rounds, clock=lambda: self.now, **options)


def endless(*values):
    while True:
        yield from values


def test_candidates_take_turns_and_the_order_is_reversed_every_other_round():
    script = Scripted(a=endless(1), b=endless(2), c=endless(3))
    seconds = script.run(Rounds(warmup=1, least=2, most=3, budget_s=1e9))
    assert "".join(script.order) == "abc" + "abc" + "cba" + "abc"
    assert seconds == {"a": [1, 1, 1], "b": [2, 2, 2], "c": [3, 3, 3]}


def test_warm_up_is_thrown_away():
    script = Scripted(a=iter([9, 8, 1, 2]))
    assert script.run(Rounds(warmup=2, least=2, most=2)) == {"a": [1, 2]}


def test_rounds_end_when_the_interval_of_every_median_is_narrow_enough():
    steady = Scripted(a=endless(1.0), b=endless(2.0))
    assert len(steady.run(Rounds(least=10, most=100, budget_s=1e9))["a"]) == 10
    # b swings by a fifth around its median, which is never known to 2 %
    swinging = Scripted(a=endless(1.0), b=endless(0.8, 1.2))
    assert len(swinging.run(Rounds(least=10, most=100, budget_s=1e9))["a"]) == 100
    assert len(Scripted(a=endless(0.8, 1.2)).run(Rounds(least=10, most=100, interval=0.3))["a"]) == 10


def test_no_median_counts_as_known_after_fewer_than_six_rounds():
    script = Scripted(a=endless(1.0))
    assert len(script.run(Rounds(least=2, most=100, budget_s=1e9))["a"]) == 6


def test_rounds_end_when_time_is_up_but_not_before_two():
    script = Scripted(a=endless(10.0), b=endless(10.0))
    assert len(script.run(Rounds(warmup=1, least=10, most=100, budget_s=70))["a"]) == 3  # 20 + 3 * 20 s
    script = Scripted(a=endless(100.0))
    assert len(script.run(Rounds(warmup=5, least=10, most=100, budget_s=1))["a"]) == 2
    assert len(script.order) == 3  # one of the warm-up took more than half of the time


def test_progress_shows_how_well_medians_are_known():
    shown = []
    Scripted(a=endless(1.0)).run(Rounds(least=6, most=9), progress=lambda *words: shown.append(words))
    assert shown[0] == (1, "")
    assert shown[-1] == (6, "medians known to 0.0%")


def test_the_collector_is_off_during_rounds_and_on_again_after_an_error():
    def failing():
        assert not gc.isenabled()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        take_rounds({"a": failing}, Rounds())
    assert gc.isenabled()


# Ranks, counted from 1, of the 95 % interval of a median: tables of the sign test (two-sided, alpha .05).
@pytest.mark.parametrize(
    ("count", "low", "high"), [(6, 1, 6), (8, 1, 8), (9, 2, 8), (10, 2, 9), (20, 6, 15), (50, 18, 33)]
)
def test_the_interval_of_a_median_is_that_of_the_sign_test(count, low, high):
    values = list(range(1, count + 1))
    assert median_interval(np.random.default_rng(0).permutation(values).tolist()) == (low, high)


def test_five_values_know_no_median_to_95_percent():
    assert median_interval([1, 2, 3, 4, 5]) is None
    assert math.isinf(relative_interval([1, 2, 3, 4, 5]))


def test_the_interval_contains_the_median_as_often_as_promised():
    random = np.random.default_rng(1)
    held = 0
    for _ in range(2000):
        low, high = median_interval(random.lognormal(size=25).tolist())  # the true median is 1
        held += low <= 1 <= high
    assert 0.95 <= held / 2000 <= 0.98  # 25 values: 95.7 %, since ranks are whole numbers


def test_latency_in_milliseconds():
    latency = Latency.of([0.001 * value for value in range(1, 101)])
    assert (latency.p50, latency.minimum, latency.rounds) == (pytest.approx(50.5), pytest.approx(1), 100)
    assert latency.p95 == pytest.approx(95.05)
    assert latency.interval == (pytest.approx(40), pytest.approx(61))


def test_a_ratio_is_formed_within_rounds():
    # A load doubles every other round for both: medians of each would hide that a is always 3/4 of b.
    baseline = [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]
    steady = Ratio.of([0.75 * value for value in baseline], baseline)
    assert (steady.p50, steady.p5, steady.p95) == (0.75, 0.75, 0.75)
    spread = Ratio.of([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert (spread.p50, spread.p5, spread.p95) == (2.0, pytest.approx(1.1), pytest.approx(2.9))
    with pytest.raises(ValueError, match="same rounds, got 2 and 1"):
        Ratio.of([1.0, 2.0], [1.0])


def test_a_timer_waits_for_the_device_before_it_reads_the_clock():
    now, log = [0.0], []

    def work():
        log.append("run")
        now[0] += 1

    def wait():
        log.append("wait")
        now[0] += 10

    def look():
        log.append("look")
        return now[0]

    assert clocked(work, clock=look, synchronize=wait)() == 11
    assert log == ["wait", "look", "run", "wait", "look"]
    assert clocked(work, clock=look)() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": -1}, "warmup must be 0 or more"),
        ({"least": 1}, "2 <= least <= most, got 1 and 300"),
        ({"least": 9, "most": 8}, "2 <= least <= most"),
        ({"interval": 0.0}, "interval is a fraction"),
        ({"interval": 1.0}, "interval is a fraction"),
        ({"budget_s": 0.0}, "budget_s must be a positive"),
        ({"budget_s": math.nan}, "budget_s must be a positive"),
    ],
)
def test_rounds_out_of_range_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        Rounds(**options)
