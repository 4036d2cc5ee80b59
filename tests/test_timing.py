"""Samplers timed side by side, with a clock that counts."""

import itertools

import pytest
import torch

from hw3utils.bench.timing import Timing, time_samplers, timing_table
from hw3utils.samplers import sample_ddim, sample_ddpm
from hw3utils.schedules import linear_schedule


def clock_of(*durations):
    """A clock that shows these durations between its even and odd readings."""
    times = itertools.accumulate(x for duration in durations for x in (1.0, duration))
    return lambda: next(times)


def test_evaluations_are_those_of_the_samplers():
    schedule, x = linear_schedule(40), torch.zeros(3, 2)
    runs = {
        "ddpm": lambda model: sample_ddpm(model, x, schedule),
        "ddim": lambda model: sample_ddim(model, x, schedule, steps=7),
    }
    timings = time_samplers(runs, lambda x, t: x, repeats=2)
    assert [(t.name, t.nfe, len(t.seconds)) for t in timings] == [("ddpm", 40, 2), ("ddim", 7, 2)]
    assert all(seconds > 0 for timing in timings for seconds in timing.seconds)


def test_runs_take_turns_after_a_warm_up_of_two_evaluations():
    order = []

    def run(name):
        def sampler(model):
            for _ in range(3):
                order.append(name)
                model(0, 0)

        return sampler

    time_samplers({"a": run("a"), "b": run("b")}, lambda x, t: x, repeats=2)
    warm_up, timed = order[:6], order[6:]
    assert warm_up == list("aaabbb")
    assert timed == list("aaabbb") * 2


def test_median_spread_and_budget():
    [timing] = time_samplers({"a": lambda m: m(0, 0)}, lambda x, t: x, repeats=3, clock=clock_of(2.0, 5.0, 3.0))
    assert timing == Timing("a", (2.0, 5.0, 3.0), 1)
    assert (timing.median, timing.spread) == (3.0, 3.0)
    [short] = time_samplers({"a": lambda m: m(0, 0)}, lambda x, t: x, repeats=9, budget=4.0, clock=clock_of(2.0, 3.0))
    assert short.seconds == (2.0, 3.0)


def test_table_gives_ratios_to_the_first_row():
    rows = timing_table([Timing("slow", (4.0,), 100), Timing("fast", (1.0, 1.0), 25)]).splitlines()
    assert rows[1].split() == ["slow", "100", "4.000", "-", "1", "1.0x"]
    assert rows[2].split() == ["fast", "25", "1.000", "0.000", "2", "4.0x"]


def test_nothing_to_time():
    with pytest.raises(ValueError, match="empty"):
        time_samplers({}, lambda x, t: x)
    with pytest.raises(ValueError, match="repeats is 0"):
        time_samplers({"a": lambda m: None}, lambda x, t: x, repeats=0)
