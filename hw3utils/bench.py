"""`hw3 bench`: our steps beside those of others, in one run, in turn, as ratios.

Times are taken A B A B, so that a slow minute of the machine meets all contenders; medians with quartiles. On the CPU
the steadiest measure is the process time on one thread; the wall time on all threads stands beside it.
"""

import copy
import importlib.util
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hw3utils.fid import frechet_distance
from hw3utils.losses import denoising_score_matching, implicit_score_matching, sliced_score_matching
from hw3utils.networks import ScoreMLP, UNet, compiled
from hw3utils.peers import ContextUnet
from hw3utils.progress import progress
from hw3utils.recipes import RECIPES, heldout_tensors, picture_tensors
from hw3utils.samplers import sample_ddim, sample_in_batches
from hw3utils.schedules import linear_schedule
from hw3utils.sprites import load_sprites
from hw3utils.timing import synchronize
from hw3utils.training import DiffusionObjective, TrainConfig, heldout_loss, seeded, train

BATCH = 64
PICTURES = 50


@dataclass
class Row:
    """One contender in one table.

    Args:
        name: what was timed.
        seconds: each measurement, in s.
        extra: what else is known of it (parameters, FLOPs, ...).
    """

    name: str
    seconds: list[float]
    extra: dict[str, Any]

    @property
    def median(self) -> float:
        """Median time, in s."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile, in s; both the value itself where there is one."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third


class FromDiffusers(nn.Module):
    """A diffusers UNet2DModel as eps_model(x_t, t); labels are ignored."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.model = UNet2DModel(
            sample_size=16,
            in_channels=3,
            out_channels=3,
            block_out_channels=widths,
            layers_per_block=2,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            attention_head_dim=widths[-1] // 4,
        )

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.model(x, t).sample


def _ours() -> nn.Module:
    return UNet(schedule=linear_schedule().card())


CONTENDERS: dict[str, Callable[[], nn.Module]] = {
    "ours": _ours,
    "course ContextUnet, 64": ContextUnet,
    "diffusers 32, 64, 64": lambda: FromDiffusers((32, 64, 64)),
    "diffusers 64, 128, 128": lambda: FromDiffusers((64, 128, 128)),
}


def available(names: Iterable[str] = CONTENDERS) -> tuple[dict[str, Callable[[], nn.Module]], list[str]]:
    """Contenders that can be made here, and a sentence for each that cannot."""
    made, missing = {}, []
    for name in names:
        if name.startswith("diffusers") and importlib.util.find_spec("diffusers") is None:
            missing.append(f"{name}: left out, diffusers is not installed")
        else:
            made[name] = CONTENDERS[name]
    return made, missing


# ---------------------------------------------------------------------------------------------------------- measuring


@contextmanager
def threads(n: int | None):
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


def matmul_rate(dtype: torch.dtype, device: torch.device, *, size: int = 1024, rounds: int = 10) -> float:
    """Best measured rate of a square matrix product, in FLOP/s."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = alternate({"matmul": lambda: a @ b}, rounds=rounds, device=device, desc="matmul rate")["matmul"]
    return 2 * size**3 / min(times)


def flops_per_picture(network: nn.Module, side: int = 16) -> float:
    """FLOPs of one forward pass for one picture."""
    device = next(network.parameters()).device
    x, t = torch.randn(2, 3, side, side, device=device), torch.tensor([3, 4], device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x, t)
    return counter.get_total_flops() / 2


def peak_memory(call: str) -> float:
    """Peak resident memory of a call in a fresh process, in MB.

    Args:
        call: name of a function of this module and its arguments, as `name:argument:argument`.
    """
    code = f"from hw3utils.bench import run_for_memory; run_for_memory({call!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {call} failed: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.split()[-1])


def run_for_memory(call: str) -> None:
    """What `peak_memory` runs in its own process: prints the peak in MB."""
    kind, *arguments = call.split(":")
    if kind == "step":
        name, batch = arguments
        run = step_of(CONTENDERS[name](), "fp32", torch.device("cpu"), batch=int(batch))
        for _ in range(2):
            run()
    elif kind == "sample":
        [n] = arguments
        sample_in_batches(sample_ddim, _ours().eval(), linear_schedule(), (3, 16, 16), n=int(n), steps=2)
    # ru_maxrss is in kilobytes on Linux and in bytes on macOS.
    unit = 1e6 if sys.platform == "darwin" else 1e3
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


# ------------------------------------------------------------------------------------------------------------- the runs


def step_of(
    network: nn.Module, precision: str, device: torch.device, *, batch: int = BATCH, side: int = 16
) -> Callable[[], None]:
    """One optimizer step on a fixed batch: the same batch, loss and Adam for all contenders."""
    network = network.to(device).train()
    objective = DiffusionObjective(linear_schedule())
    generator = torch.Generator(device).manual_seed(0)
    pictures = torch.randint(
        0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    data = (pictures.to(device), torch.zeros(batch, dtype=torch.int64, device=device))
    adam = torch.optim.Adam(network.parameters(), lr=2e-4, fused=device.type in ("cpu", "cuda"))

    def step() -> None:
        drawn = objective.draw(data, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = objective(network, *drawn).float().mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()

    return step


def _facts(network: nn.Module, median: float, rate: float, *, passes: int, pictures: int) -> dict[str, Any]:
    """Size, arithmetic, and the share of the machine's measured matmul rate; training counts three passes."""
    flops = flops_per_picture(network)
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "MFLOP": flops / 1e6,
        "share": flops * passes * pictures / median / rate,
    }


def bench_train(device: torch.device, *, rounds: int, growth: bool = False) -> dict[str, Any]:
    """Training steps of batch 64 side by side."""
    makers, missing = available()
    networks = {name: seeded(make, 0) for name, make in makers.items()}
    runs = {f"{name}, fp32": step_of(network, "fp32", device) for name, network in networks.items()}
    runs["ours, bf16"] = step_of(copy.deepcopy(networks["ours"]), "bf16", device)
    result = _two_measures(runs, rounds=rounds, device=device, desc="training step")
    rates = {p: matmul_rate(d, device) for p, d in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    for row in result["wall"]:
        name, precision = row.name.rsplit(", ", 1)
        row.extra = _facts(networks[name], row.median, rates[precision], passes=3, pictures=BATCH)
        if device.type == "cpu":
            row.extra["peak MB"] = peak_memory(f"step:{name}:{BATCH}")
    if growth:
        result["growth"] = _growth_of_training(device, rounds)
    return result | {"missing": missing, "matmul GFLOP/s": {p: r / 1e9 for p, r in rates.items()}, "unit": "step"}


def bench_sample(device: torch.device, *, rounds: int, growth: bool = False) -> dict[str, Any]:
    """One evaluation of the network for 50 pictures, which is what a sampler is made of: equal NFE, fp32."""
    makers, missing = available()
    networks = {name: seeded(make, 0).to(device).eval() for name, make in makers.items()}
    x = torch.randn(PICTURES, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
    t = torch.full((PICTURES,), 500, device=device)

    def forward(network: nn.Module) -> Callable[[], Tensor]:
        @torch.no_grad()
        def run() -> Tensor:
            return network(x, t)

        return run

    runs = {f"{name}, fp32": forward(network) for name, network in networks.items()}
    runs["ours compiled, fp32"] = forward(compiled(networks["ours"]))
    result = _two_measures(runs, rounds=rounds, device=device, desc="network evaluation")
    rate = matmul_rate(torch.float32, device)
    for row in result["wall"]:
        name = row.name.rsplit(", ", 1)[0].replace(" compiled", "")
        row.extra = _facts(networks[name], row.median, rate, passes=1, pictures=PICTURES)
        row.extra["pictures/s, NFE 50"] = PICTURES / (50 * row.median)
    if growth:
        result["growth"] = [
            {"samples": n, "peak MB": peak_memory(f"sample:{n}")} for n in (64, 256, 1024, 4096) if device.type == "cpu"
        ]
    return result | {"missing": missing, "matmul GFLOP/s": {"fp32": rate / 1e9}, "unit": "evaluation of 50"}


def bench_score(device: torch.device, *, rounds: int, growth: bool = False) -> dict[str, Any]:
    """Loss and gradient of score matching at growing dimension: exact trace, sliced, denoising."""
    runs = {}
    for d in (2, 10, 50, 100):
        x = torch.randn(128, d, generator=torch.Generator().manual_seed(0)).to(device)
        network = seeded(lambda d=d: ScoreMLP(dimension=d), 0).to(device)
        losses = {
            "denoising": lambda network=network, x=x: denoising_score_matching(network, x, 1.0),
            "sliced": lambda network=network, x=x: sliced_score_matching(network, x),
            "exact trace": lambda network=network, x=x: implicit_score_matching(network, x),
        }
        runs |= {f"D = {d}, {name}": lambda loss=loss: loss().mean().backward() for name, loss in losses.items()}
    return _two_measures(runs, rounds=rounds, device=device, desc="score matching") | {"unit": "gradient, batch 128"}


def bench_fid(device: torch.device, *, rounds: int, growth: bool = False) -> dict[str, Any]:
    """The distance from statistics: ours beside torchmetrics on the same features."""
    from torchmetrics.image.fid import _compute_fid

    runs = {}
    for d in (128, 512):
        a, b = (torch.randn(2 * d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
        moments = (a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
        runs[f"ours, D = {d}"] = lambda moments=moments: frechet_distance(*moments)
        runs[f"torchmetrics, D = {d}"] = lambda m=moments: _compute_fid(m[0], m[1], m[2], m[3])
    return _two_measures(runs, rounds=rounds, device=device, desc="Fréchet distance") | {"unit": "distance"}


PARTS = {"train": bench_train, "sample": bench_sample, "score": bench_score, "fid": bench_fid}


def _two_measures(
    runs: Mapping[str, Callable[[], Any]], *, rounds: int, device: torch.device, desc: str
) -> dict[str, list[Row]]:
    """Process time on one thread (CPU only) and wall time on all."""
    result = {}
    if device.type == "cpu":
        with threads(1):
            times = alternate(runs, rounds=rounds, device=device, clock=time.process_time, desc=f"{desc}, one thread")
        result["process"] = [Row(name, seconds, {}) for name, seconds in times.items()]
    times = alternate(runs, rounds=rounds, device=device, desc=f"{desc}, all threads")
    return result | {"wall": [Row(name, seconds, {}) for name, seconds in times.items()]}


def _growth_of_training(device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Our step as the batch and the pictures grow."""
    rows = []
    for batch, side in ((16, 16), (64, 16), (256, 16), (64, 32), (64, 64)):
        run = step_of(_ours(), "fp32", device, batch=batch, side=side)
        [times] = alternate(
            {"": run}, rounds=min(rounds, 3), device=device, desc=f"batch {batch}, side {side}"
        ).values()
        row = {"batch": batch, "side": side, "ms": 1e3 * statistics.median(times)}
        if device.type == "cpu" and side == 16:
            row["peak MB"] = peak_memory(f"step:ours:{batch}")
        rows.append(row)
    return rows


# ------------------------------------------------------------------------------------------------- the race to a loss


def bench_to_loss(device: torch.device, *, steps: int = 1000, every: int = 50) -> dict[str, Any]:
    """Train the course network and ours (bf16) by the recipe: losses at equal steps, and times to the same loss.

    Args:
        device: where to train.
        steps: steps of the course network, whose last held-out loss is the goal.
        every: steps between two looks at the held-out loss.

    Returns:
        Held-out losses of both at the last step, process seconds of both to the goal, and their ratio.
    """
    data = load_sprites("embedded")
    pictures, heldout = picture_tensors(data.train_images, data.train_labels), heldout_tensors(data)
    objective = DiffusionObjective(linear_schedule())
    curves = {}
    for name, make, precision in (("course", ContextUnet, "fp32"), ("ours", _ours, "bf16")):
        config = TrainConfig(steps=steps, precision=precision, heldout_every=every, lr=RECIPES["sprites"].lr)
        network = seeded(make, 0).to(device)
        curve, spent, mark = [], 0.0, time.process_time()
        for step in progress(train(network, pictures, objective, config), total=steps, desc=name):
            if step.step % every:
                continue
            spent += time.process_time() - mark
            with step.ema.applied() as averaged:
                curve.append((step.step, heldout_loss(averaged, objective, heldout), spent))
            mark = time.process_time()
        curves[name] = curve
    goal = curves["course"][-1][1]
    reached = next((point for point in curves["ours"] if point[1] <= goal), None)
    return {
        "course loss": goal,
        "our loss": curves["ours"][-1][1],
        "course seconds": curves["course"][-1][2],
        "our seconds": None if reached is None else reached[2],
        "our step": None if reached is None else reached[0],
        "ratio": math.nan if reached is None else curves["course"][-1][2] / reached[2],
        "curves": curves,
    }


# ------------------------------------------------------------------------------------------------------------ printing


def table(rows: list[Row], *, title: str, reference: str | None = None) -> str:
    """Rows as text: median, quartiles, rate, ratio to the reference (the first row if none is named)."""
    base = next((row for row in rows if row.name == reference), rows[0])
    width = max(len(row.name) for row in rows)
    extras = list(dict.fromkeys(name for row in rows for name in row.extra))
    head = f"{title:{width}}  {'ms':>9}  {'quartiles':>17}  {'per s':>8}  {'ratio':>7}"
    lines = [head + "".join(f"  {name:>{max(len(name), 9)}}" for name in extras)]
    for row in rows:
        first, third = row.quartiles
        line = f"{row.name:{width}}  {1e3 * row.median:9.2f}  {1e3 * first:8.2f} {1e3 * third:8.2f}  "
        line += f"{1 / row.median:8.1f}  {row.median / base.median:6.2f}x"
        cells = ((f"{row.extra[name]:.4g}" if name in row.extra else "", max(len(name), 9)) for name in extras)
        lines.append(line + "".join(f"  {cell:>{space}}" for cell, space in cells))
    return "\n".join(lines)


def report(part: str, result: Mapping[str, Any], device: torch.device) -> str:
    """One part's result as text."""
    lines = [f"# {part} on {device}: times of one {result['unit']}; ratio = times slower than ours (first row)"]
    for measure, what in (("process", "process time, one thread"), ("wall", "wall time, all threads")):
        if measure in result:
            lines += ["", table(result[measure], title=what)]
    for row in result.get("growth", []):
        lines.append("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    for name, value in result.get("matmul GFLOP/s", {}).items():
        lines.append(f"measured matmul rate, {name}: {value:.0f} GFLOP/s")
    return "\n".join([*lines, *result.get("missing", [])])


def as_json(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result with its rows as plain objects."""
    return {
        key: [asdict(row) if isinstance(row, Row) else row for row in value] if isinstance(value, list) else value
        for key, value in result.items()
    }
