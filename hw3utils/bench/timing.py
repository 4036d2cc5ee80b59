"""How times are taken, in turn and with the device waited for, and how they are told."""

import contextlib
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hw3utils.arguments import check_count
from hw3utils.noise import EpsModel
from hw3utils.progress import progress


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


class Counted:
    """An eps_model that counts its calls, and where `limit` is set raises at the first call beyond it."""

    def __init__(self, eps_model: EpsModel) -> None:
        self.eps_model, self.calls, self.limit = eps_model, 0, math.inf

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Count, and call the model."""
        self.calls += 1
        if self.calls > self.limit:
            raise _Enough
        return self.eps_model(*args, **kwargs)


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
    warm, seconds, nfe = Counted(eps_model), {name: [] for name in runs}, {}
    for run in runs.values():
        warm.calls, warm.limit = 0, 2
        with contextlib.suppress(_Enough):
            run(warm)
    for _ in range(repeats):
        for name, run in runs.items():
            if seconds[name] and sum(seconds[name]) > budget:
                continue
            counted = Counted(eps_model)
            synchronize(device)
            start = clock()
            run(counted)
            synchronize(device)
            seconds[name].append(clock() - start)
            nfe[name] = counted.calls
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


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Row:
    """One contender in one table.

    Args:
        name: what was timed.
        seconds: each measurement, in s.
        extra: what else is known of it (parameters, FLOPs, ...).
        group: a ratio is taken to the first row of the same group.
    """

    name: str
    seconds: list[float]
    extra: dict[str, Any] = field(default_factory=dict)
    group: str = ""

    @property
    def median(self) -> float:
        """Median time, in s."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile, in s; both the value itself where there is one."""
        return quartiles(self.seconds)


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile; of a single value, twice that value."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


@contextmanager
def threads(n: int | None) -> Iterator[None]:
    """A number of CPU threads for the length of a `with`; None leaves it."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def alternate(
    runs: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
    desc: str = "timing",
) -> dict[str, list[float]]:
    """Time functions in turn, after two calls of each that do not count.

    Args:
        runs: name -> what to time.
        rounds: measurements of each.
        device: waited for before each look at the clock.
        clock: gives seconds.
        desc: name of the progress bar.

    Returns:
        name -> seconds of each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in progress(range(rounds + 2), desc=desc):
        for name, run in runs.items():
            synchronize(device)
            start = clock()
            run()
            synchronize(device)
            if number >= 2:
                seconds[name].append(clock() - start)
    return seconds


def matmul_rate(dtype: torch.dtype, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Best measured rate of a square matrix product, in FLOP/s."""

    def rate(size: int, repeats: int, rounds: int) -> float:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

        def products() -> None:
            for _ in range(repeats):
                a @ b

        times = alternate({"": products}, rounds=rounds, device=device, clock=clock, desc="matmul rate")[""]
        return 2 * size**3 * repeats / max(min(times), 1e-9)

    if device.type == "cuda":
        # Large and many, for a small product is shorter there than its launch.
        return rate(4096, 20, 10)
    # A large product in a precision that the processor lacks takes seconds, and its rate is that of a small one.
    small = rate(256, 1, 3)
    return small if small < 5e9 else rate(1024, 1, 10)


def flops_per_picture(network: nn.Module, side: int = 16) -> float:
    """FLOPs of one forward pass for one picture."""
    device = next(network.parameters()).device
    x, t = torch.randn(2, 3, side, side, device=device), torch.tensor([3, 4], device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x, t)
    return counter.get_total_flops() / 2


def ratios(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """How many times faster each of our rows is than each of the others: within a round, then the median over rounds.

    Args:
        rows: of one measure; ours are those whose name begins with "ours".

    Returns:
        One object a pair: ours, other, ratio, quartiles.
    """
    mine = [row for row in rows if row.name.startswith("ours")]
    pairs = []
    for row in mine:
        # The plain one comes first; the others are held against it too.
        for other in [*(other for other in rows if other not in mine), *mine[: row is not mine[0]]]:
            each = [b / a for a, b in zip(row.seconds, other.seconds, strict=True)]
            pairs.append(
                {
                    "ours": row.name,
                    "other": other.name,
                    "ratio": statistics.median(each),
                    "quartiles": list(quartiles(each)),
                }
            )
    return pairs


def columns(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write objects as an aligned table: a line for each, a column for each key, empty where an object lacks it."""

    def cell(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"

    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [keys, *([cell(row[key]) if key in row else "" for key in keys] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    # The first column is the name.
    return "\n".join(
        "  ".join(f"{text:{'<' if i == 0 else '>'}{widths[i]}}" for i, text in enumerate(line)).rstrip()
        for line in cells
    )


def table(rows: Sequence[Row], *, title: str) -> str:
    """Rows as text: median, quartiles, rate, and how many times slower than the first row of the group."""
    lines = []
    for row in rows:
        base = next(other for other in rows if other.group == row.group)
        first, third = row.quartiles
        lines.append(
            {
                title: row.name,
                "median ms": f"{1e3 * row.median:.2f}",
                "quartiles ms": f"{1e3 * first:.2f} to {1e3 * third:.2f}",
                "per s": 1 / row.median,
                "times first": f"{row.median / base.median:.2f}",
                **row.extra,
            }
        )
    return columns(lines)


@dataclass(frozen=True)
class Options:
    """What the command line may change.

    Args:
        rounds: measurements of each contender, taken in turn.
        threads: CPU threads of the wall times; None for all of torch's.
        batch_size: pictures of a training step.
        nfe: evaluations of the network in one sampling run.
        growth: also time and memory as the work grows.
        memory: measure peak memory, each contender in a process of its own.
        compile: also our network compiled.
    """

    rounds: int = 11
    threads: int | None = None
    batch_size: int = 64
    nfe: int = 5
    growth: bool = False
    memory: bool = True
    compile: bool = True


def two_measures(
    runs: Mapping[str, Callable[[], Any]],
    *,
    options: Options,
    device: torch.device,
    desc: str,
    calls: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Process time on one thread (CPU only) and wall time on all, with the matmul rate under the same conditions.

    `calls` says how many units of work one call of a run does, where that is not one.
    """
    measures = {"wall": (options.threads, time.perf_counter)}
    if device.type == "cpu":
        measures = {"process": (1, time.process_time)} | measures
    result: dict[str, Any] = {"GFLOP/s": {}, "threads": {}}
    for measure, (n, clock) in measures.items():
        with threads(n):
            result["threads"][measure] = torch.get_num_threads()
            rates = {name: matmul_rate(dtype, device, clock=clock) for name, dtype in PRECISIONS.items()}
            times = alternate(runs, rounds=options.rounds, device=device, clock=clock, desc=f"{desc}, {measure} time")
        result["GFLOP/s"][measure] = {name: rate / 1e9 for name, rate in rates.items()}
        result[measure] = [
            Row(
                name,
                [second / (calls or {}).get(name, 1) for second in seconds],
                group=name.split(",")[0] if name.startswith("D = ") else "",
            )
            for name, seconds in times.items()
        ]
    return result


def facts_of(network: nn.Module) -> dict[str, float]:
    """Parameters and FLOPs of a forward pass for one picture."""
    flops = flops_per_picture(network)
    return {"parameters": sum(parameter.numel() for parameter in network.parameters()), "MFLOP/picture": flops / 1e6}


def add_facts(
    result: dict[str, Any],
    facts: Mapping[str, Mapping[str, float]],
    work: Mapping[str, tuple[str, str, float]],
    pictures: int,
    peaks: Mapping[str, float],
) -> None:
    """Give each row the parameters, FLOPs and memory of its network.

    `work` has for each row the network's name, the precision, and how many forward passes of one picture it measures.
    """
    for measure, rates in result["GFLOP/s"].items():
        for row in result[measure]:
            name, precision, passes = work[row.name]
            rate = 1e-3 * facts[name]["MFLOP/picture"] * passes / row.median
            row.extra = {
                "pictures/s": pictures / row.median,
                **facts[name],
                "of matmul %": 100 * rate / rates[precision],
            }
            if row.name in peaks:
                row.extra["peak MB"] = peaks[row.name]


def report(part: str, result: Mapping[str, Any], device: torch.device) -> str:
    """One part's result as text."""
    lines = [f"# {part} on {device}: times of one {result['unit']}"]
    for measure, rates in result["GFLOP/s"].items():
        n = result["threads"][measure]
        lines += ["", table(result[measure], title=f"{measure} time, {n} thread{'s' * (n > 1)}")]
        rate = ", ".join(f"{name} {value:.0f}" for name, value in rates.items())
        lines.append(f"measured matmul rate under the same conditions, GFLOP/s: {rate}")
        for pair in result.get("ratios", {}).get(measure, []):
            low, high = pair["quartiles"]
            lines.append(
                f"{pair['ours']}: {pair['ratio']:.2f} ({low:.2f} to {high:.2f}) times faster than {pair['other']}"
            )
    if "growth" in result:
        lines += ["", "as the work grows, ours in fp32:", columns(result["growth"])]
    if "ratios" in result:
        lines += ["", "peak MB: of a process of its own, less what its imports alone take"]
    return "\n".join([*lines, *result.get("missing", [])])


def report_race(race: Mapping[str, Any]) -> str:
    """The race as text."""
    lines = [
        f"# the race to the course network's held-out loss at step {race['steps']}",
        f"held-out loss at step {race['steps']}: course {race['course loss']:.4f}, ours {race['our loss']:.4f}",
        f"course, fp32: {race['course process s']:.1f} s process time, {race['course wall s']:.1f} s wall time",
    ]
    if race["our step"] is None:
        return "\n".join([*lines, f"ours, bf16: not there after {race['steps']} steps"])
    return "\n".join(
        [
            *lines,
            f"ours, bf16: there at step {race['our step']}, {race['our process s']:.1f} s process time, "
            f"{race['our wall s']:.1f} s wall time",
            f"{race['process ratio']:.2f} times shorter in process time, {race['wall ratio']:.2f} in wall time",
        ]
    )


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": str(device), "name": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def as_json(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result with its rows as plain objects."""
    return {
        key: [asdict(row) if isinstance(row, Row) else row for row in value] if isinstance(value, list) else value
        for key, value in result.items()
    }
