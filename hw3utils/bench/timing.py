"""Samplers timed side by side: warmed up, the device waited for, repeated in turn."""

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hw3utils.arguments import check_count
from hw3utils.noise import EpsModel


@dataclass(frozen=True)
class Timing:
    """Times of one sampler.

    Args:
        name: what was timed.
        seconds: wall time of each repetition, in s.
        nfe: evaluations of the network in one run.
    """

    name: str
    seconds: tuple[float, ...]
    nfe: int

    @property
    def median(self) -> float:
        """Median wall time, in s."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Largest minus smallest wall time, in s; 0 for one repetition."""
        return max(self.seconds) - min(self.seconds)


class _Enough(Exception):
    """Ends a warm-up."""


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def time_samplers(
    runs: Mapping[str, Callable[[EpsModel], Any]],
    eps_model: EpsModel,
    *,
    repeats: int = 3,
    budget: float = 20.0,
    device: torch.device | str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Time functions that sample with a model, in turn: A B A B, so that a slow minute of the machine meets them all.

    Each run is first warmed up by its own first two network evaluations.

    Args:
        runs: name -> function that takes the eps_model and samples with it.
        eps_model: the model; calls are counted.
        repeats: runs of each, at most.
        budget: seconds after which a sampler is not repeated again (it runs once at least).
        device: waited for before each look at the clock.
        clock: gives seconds.

    Returns:
        A `Timing` for each run, in order.

    Raises:
        ValueError: when there is nothing to time, or repeats is not a positive integer.

    >>> ticks = iter(range(100))
    >>> [timing] = time_samplers({"two calls": lambda m: (m(0, 0), m(0, 0))}, lambda x, t: x, clock=lambda: next(ticks))
    >>> timing.nfe, timing.median
    (2, 1)
    """
    if not runs:
        raise ValueError("there is nothing to time: runs is empty, expected at least one sampler.")
    repeats, device = check_count(repeats, "repeats"), torch.device(device)
    calls, limit = 0, 0

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if 0 < limit < calls:
            raise _Enough
        return eps_model(*args, **kwargs)

    for run in runs.values():
        calls, limit = 0, 2
        with contextlib.suppress(_Enough):
            run(counted)
    limit = 0
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    nfe = {}
    for _ in range(repeats):
        for name, run in runs.items():
            if seconds[name] and sum(seconds[name]) > budget:
                continue
            calls = 0
            synchronize(device)
            start = clock()
            run(counted)
            synchronize(device)
            seconds[name].append(clock() - start)
            nfe[name] = calls
    return [Timing(name, tuple(taken), nfe[name]) for name, taken in seconds.items()]


def timing_table(timings: list[Timing]) -> str:
    """Write timings as a plain table; the ratio is to the first row."""
    width = max(len("sampler"), *(len(timing.name) for timing in timings))
    lines = [f"{'sampler':{width}}  {'NFE':>5}  {'median s':>9}  {'spread s':>9}  {'runs':>4}  {'ratio':>7}"]
    for timing in timings:
        ratio = timings[0].median / timing.median
        lines.append(
            f"{timing.name:{width}}  {timing.nfe:5}  {timing.median:9.3f}  {timing.spread:9.3f}  "
            f"{len(timing.seconds):4}  {ratio:6.1f}x"
        )
    return "\n".join(lines)
