"""Timing of functions in turn, and tables of the results."""

import contextlib
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hw3utils.arguments import check_count
from hw3utils.devices import device_name
from hw3utils.noise import EpsModel
from hw3utils.progress import progress

if TYPE_CHECKING:
    from torch.utils.benchmark import Measurement


@dataclass(frozen=True)
class Timing:
    """Times of one sampler.

    Args:
        name: of the sampler.
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


class _WarmUpDone(Exception):
    """Ends a warm-up."""


class CountedModel:
    """An eps_model that counts its calls and raises at the first call beyond `limit`."""

    def __init__(self, eps_model: EpsModel, limit: float = math.inf) -> None:
        self.eps_model, self.calls, self.limit = eps_model, 0, limit

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Count, and call the model."""
        self.calls += 1
        if self.calls > self.limit:
            raise _WarmUpDone
        return self.eps_model(*args, **kwargs)


def wall_clock() -> float:
    """Wall time in s, after the accelerator has finished its work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def time_samplers(
    runs: Mapping[str, Callable[[EpsModel], Any]],
    eps_model: EpsModel,
    *,
    repeats: int = 3,
    budget: float = 20.0,
    device: torch.device | str = "cpu",
    clock: Callable[[], float] = wall_clock,
) -> list[Timing]:
    """Time samplers in turn (A B A B), so that a slow minute of the machine affects all of them.

    Each is warmed up by its own first two network evaluations.

    Args:
        runs: name -> function that samples with the eps_model it is given.
        eps_model: the model; its calls are counted.
        repeats: most runs of each.
        budget: seconds after which a sampler is not repeated (it runs at least once).
        device: where the model is; the default clock waits for it.
        clock: gives seconds.

    Returns:
        A `Timing` for each run, in order.

    Raises:
        ValueError: when runs is empty, repeats is not a positive integer, or there is no such device.

    >>> ticks = iter(range(100))
    >>> [timing] = time_samplers({"two calls": lambda m: (m(0, 0), m(0, 0))}, lambda x, t: x, clock=lambda: next(ticks))
    >>> timing.nfe, timing.median
    (2, 1)
    """
    if not runs:
        raise ValueError("runs is empty, expected at least one sampler to time.")
    repeats, _ = check_count(repeats, "repeats"), torch.device(device)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    nfe = {}
    for run in runs.values():
        with contextlib.suppress(_WarmUpDone):
            run(CountedModel(eps_model, limit=2))
    for _ in range(repeats):
        for name, run in runs.items():
            if seconds[name] and sum(seconds[name]) > budget:
                continue
            counted, start = CountedModel(eps_model), clock()
            run(counted)
            seconds[name].append(clock() - start)
            nfe[name] = counted.calls
    return [Timing(name, tuple(taken), nfe[name]) for name, taken in seconds.items()]


def timing_table(timings: list[Timing]) -> str:
    """Timings as a plain table; the ratio is to the first row, and one run has no spread."""
    width = max(len("sampler"), *(len(timing.name) for timing in timings))
    lines = [f"{'sampler':{width}}  {'NFE':>5}  {'median s':>9}  {'spread s':>9}  {'runs':>4}  {'ratio':>7}"]
    for timing in timings:
        ratio = timings[0].median / timing.median
        spread = f"{timing.spread:.3f}" if len(timing.seconds) > 1 else "-"
        lines.append(
            f"{timing.name:{width}}  {timing.nfe:5}  {timing.median:9.3f}  {spread:>9}  "
            f"{len(timing.seconds):4}  {ratio:6.1f}x"
        )
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------- hw3 bench


def _benchmark() -> ModuleType:
    """torch.utils.benchmark, whose import logs a warning where there is a CUDA toolkit and no GPU."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from torch.utils import benchmark
    finally:
        logger.setLevel(before)
    return benchmark


@contextlib.contextmanager
def cpu_threads(n: int | None) -> Iterator[int]:
    """A number of CPU threads for the length of a `with`; None keeps it."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def measure(
    runs: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    clock: Callable[[], float] = wall_clock,
    desc: str = "timing",
) -> "dict[str, Measurement]":
    """Time functions in turn, after two calls of each as warm-up; name -> a measurement with a time of each round."""
    # Not benchmark.Timer, which times one function after the other: ratios would then compare different minutes.
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in progress(range(rounds + 2), desc=desc):
        for name, run in runs.items():
            start = clock()
            run()
            if number >= 2:
                seconds[name].append(clock() - start)
    benchmark, threads = _benchmark(), torch.get_num_threads()
    return {
        name: benchmark.Measurement(1, times, benchmark.TaskSpec(name, "", num_threads=threads))
        for name, times in seconds.items()
    }


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile."""
    first, third = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.25, 0.75], dtype=torch.float64))
    return float(first), float(third)


def ratios(measured: "Mapping[str, Measurement]") -> list[dict[str, Any]]:
    """How many times faster each of our rows ("ours...") is than each other one, as the median over the rounds.

    Returns:
        An object for each pair: ours, other, ratio, quartiles.
    """
    ours = [name for name in measured if name.startswith("ours")]
    others = [name for name in measured if name not in ours]
    pairs = []
    for name in ours:
        # Our variants are compared with the first of ours as well.
        for other in [*others, *ours[: name != ours[0]]]:
            each = [b / a for a, b in zip(measured[name].times, measured[other].times, strict=True)]
            pairs.append({"ours": name, "other": other, "ratio": statistics.median(each), "quartiles": quartiles(each)})
    return pairs


def matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Best measured rate of a square matrix product, in GFLOP/s."""

    def rate(size: int, rounds: int) -> float:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        timer = _benchmark().Timer("a @ b", globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
        return 2e-9 * size**3 / min(timer.timeit(1).mean for _ in range(rounds))

    # A large product in a precision that the processor lacks takes seconds.
    small = rate(256, 20)
    return rate(4096 if device.type == "cuda" else 1024, 10) if small > 5 else small


def machine_line(device: torch.device, threads: int | None) -> str:
    """The processor, the threads and the arithmetic rates, to compare tables of different machines."""
    with cpu_threads(threads) as n:
        rates = [f"{matmul_rate(dtype, device):.0f} in {str(dtype)[6:]}" for dtype in (torch.float32, torch.bfloat16)]
    products = f"matrix products at {' and '.join(rates)} GFLOP/s"
    return f"{device_name(device)}, {n} thread{'s' * (n > 1)}, {products}, torch {torch.__version__}"


def columns(rows: Sequence[Mapping[str, Any]]) -> str:
    """Objects as an aligned table: a line for each, a column for each key, empty where an object lacks it."""

    def cell(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"

    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [keys, *([cell(row[key]) if key in row else "" for key in keys] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    return "\n".join(
        "  ".join(f"{text:{'<' if i == 0 else '>'}{widths[i]}}" for i, text in enumerate(line)).rstrip()
        for line in cells
    )
