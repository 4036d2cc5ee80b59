"""The parts of `hw3 bench`: training, sampling, scores and distances, ours and others' in turn, as ratios.

Times are taken A B A B, so that a slow minute of the machine affects all contenders, and a ratio is the median over
the rounds of the ratio within a round. On a CPU the process time on one thread varies least; the wall time on all
threads is measured too. Each part is a function in `PARTS`.
"""

import copy
import importlib
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchmetrics.image.fid import _compute_fid

from hw3utils.bench import peers
from hw3utils.bench.timing import CountedModel, columns, cpu_threads, measure, quartiles, ratios, wall_clock
from hw3utils.devices import compiled, device_of
from hw3utils.fid import frechet_distance
from hw3utils.learning.networks import ScoreMLP, UNet
from hw3utils.learning.objectives import DiffusionObjective
from hw3utils.learning.recipes import RECIPES, heldout_tensors, picture_tensors
from hw3utils.learning.training import TrainConfig, heldout_loss, seeded, train
from hw3utils.losses import denoising_score_matching, implicit_score_matching, sliced_score_matching
from hw3utils.progress import progress
from hw3utils.samplers import sample_ddim, sample_ddpm, sample_in_batches
from hw3utils.schedules import linear_schedule
from hw3utils.sprites import load_sprites

PICTURES = 50


@dataclass(frozen=True)
class Options:
    """The options of `hw3 bench`; `hw3 bench --help` describes them."""

    rounds: int = 11
    threads: int | None = None
    batch_size: int = 64
    nfe: int = 5
    growth: bool = False
    memory: bool = True
    compile: bool = True


def our_network() -> nn.Module:
    """The network of the recipe."""
    return UNet(schedule=linear_schedule().card())


def make_network(name: str) -> nn.Module:
    """Our network (the name "ours"), or the peer with that name, with first weights by seed 0."""
    return seeded(our_network if name == "ours" else peers.CONTENDERS[name], 0)


def network_facts(network: nn.Module, side: int = 16) -> dict[str, float]:
    """Parameters, and MFLOP of one forward pass for one picture."""
    device = device_of(network)
    x, t = torch.randn(2, 3, side, side, device=device), torch.tensor([3, 4], device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x, t)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {"parameters": parameters, "MFLOP/picture": counter.get_total_flops() / 2e6}


def time_both(
    runs: Mapping[str, Callable[[], Any]],
    facts: Mapping[str, Mapping[str, Any]],
    options: Options,
    device: torch.device,
    desc: str,
) -> dict[str, Any]:
    """Time functions by process time on one thread (CPU only) and by wall time.

    Args:
        runs: name -> function.
        facts: name -> further columns of its row; "pictures" and "passes" (forward passes a run) become rates.
        options: rounds and threads.
        device: where the functions run.
        desc: label of the progress bar.

    Returns:
        For each measure ("process", "wall"): the threads, the rows, and the ratios of ours to the others.
    """
    measures = {"wall": (options.threads, wall_clock)}
    if device.type == "cpu":
        measures = {"process": (1, time.process_time)} | measures
    result = {}
    for name, (n, clock) in measures.items():
        with cpu_threads(n) as threads:
            measured = measure(runs, rounds=options.rounds, clock=clock, desc=f"{desc}, {name} time")
        rows = []
        for run, taken in measured.items():
            row = {"name": run, "seconds": list(taken.times), "median": taken.median}
            # "D = 10, sliced" is compared with the first row of its D, other rows with the first of all.
            group = run.split(",")[0] if run.startswith("D = ") else ""
            row["times first"] = taken.median / next(m.median for r, m in measured.items() if r.startswith(group))
            own = dict(facts.get(run, {}))
            if "pictures" in own:
                row["pictures/s"] = own.pop("pictures") / taken.median
                row["GFLOP/s"] = 1e-3 * own["MFLOP/picture"] * own.pop("passes") / taken.median
            rows.append(row | own)
        result[name] = {"threads": threads, "rows": rows, "ratios": ratios(measured)}
    return result


def report(part: str, result: Mapping[str, Any], device: torch.device) -> str:
    """The result of a part as text."""
    lines = [f"# {part} on {device}: times of one {result['unit']}"]
    for name, found in result["measures"].items():
        table = []
        for row in found["rows"]:
            first, third = (1e3 * value for value in quartiles(row["seconds"]))
            title = f"{name} time, {found['threads']} thread{'s' * (found['threads'] > 1)}"
            times = {"median ms": f"{1e3 * row['median']:.2f}", "quartiles ms": f"{first:.2f} to {third:.2f}"}
            rest = {key: value for key, value in row.items() if key not in ("name", "seconds", "median")}
            table.append({title: row["name"], **times, **rest})
        lines += ["", columns(table)]
        for pair in found["ratios"]:
            low, high = pair["quartiles"]
            lines.append(
                f"{pair['ours']}: {pair['ratio']:.2f} ({low:.2f} to {high:.2f}) times faster than {pair['other']}"
            )
    if "growth" in result:
        lines += ["", "as the work grows, ours in fp32:", columns(result["growth"])]
    if any("peak MB" in row for found in result["measures"].values() for row in found["rows"]):
        lines += ["", "peak MB: of its own process, less what the imports take"]
    return "\n".join([*lines, *result.get("missing", [])])


# ------------------------------------------------------------------------------------------------------------- memory


def peak_memory(device: torch.device, options: Options, **work: Any) -> dict[str, float]:
    """Peak memory in MB of some work in a new process, less that of the imports, as a column; empty if not asked for.

    Args:
        device: where it runs; on MPS nothing is measured.
        options: whether it is asked for.
        work: further arguments of `memory_of`.

    Raises:
        OSError: when the process fails.
    """
    if not options.memory or device.type not in ("cpu", "cuda"):
        return {}
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return {"peak MB": pool.submit(memory_of, device=str(device), **work).result()}
    except RuntimeError as error:  # torch's, or the process was killed
        raise OSError(f"measuring the memory of {work} failed: {error}") from error


def memory_of(
    *, name: str, device: str, kind: str = "step", precision: str = "fp32", n: int = 64, side: int = 16
) -> float:
    """Peak memory in MB of this process by two training steps, or sampling, of n pictures."""
    where = torch.device(device)
    # Imported late: by torch when it makes an optimizer, by the peer when it is made.
    importlib.import_module("torch._dynamo")
    if name.startswith("diffusers"):
        importlib.import_module("diffusers.models.unets.unet_2d")
    before = 0.0 if where.type == "cuda" else _peak_resident()
    network = make_network(name).to(where)
    if kind == "step":
        run = training_step(network, precision, where, batch_size=n, side=side)
    else:
        run = _sampling_run(network.eval(), where, n=n, side=side)
    for _ in range(2):
        run()
    return (torch.cuda.max_memory_allocated(where) / 1e6 if where.type == "cuda" else _peak_resident()) - before


def _peak_resident() -> float:
    """Largest resident memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux ru_maxrss begins at the size of the parent process.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    # Bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


# ----------------------------------------------------------------------------------------------- training and sampling


def training_step(
    network: nn.Module, precision: str, device: torch.device, *, batch_size: int = 64, side: int = 16, **options: Any
) -> Callable[[], object]:
    """A function that does one step of our training loop: same data, draws, Adam and EMA for every network."""
    generator = torch.Generator().manual_seed(0)
    # Their content does not change the work.
    pictures = torch.randint(0, 256, (4 * batch_size, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 5, (4 * batch_size,), generator=generator)
    config = TrainConfig(steps=10**9, batch_size=batch_size, precision=precision)
    objective = DiffusionObjective(linear_schedule())
    return partial(next, train(network.to(device), (pictures, labels), objective, config, **options))


def _sampling_run(network: nn.Module, device: torch.device, *, n: int, side: int) -> Callable[[], Tensor]:
    """A function that samples n pictures by two steps of DDIM, at most 256 at once."""
    schedule, shape = linear_schedule(), (3, side, side)
    return partial(sample_in_batches, sample_ddim, network, schedule, shape, n=n, steps=2, device=device)


def bench_train(device: torch.device, options: Options) -> dict[str, Any]:
    """Training steps: ours in fp32 and bf16 (on CUDA also compiled), the others in fp32."""
    others, missing = peers.available()
    networks = {"ours": make_network("ours")} | others
    kinds = {"ours, fp32": ("ours", "fp32"), "ours, bf16": ("ours", "bf16")}
    kinds |= {f"{name}, fp32": (name, "fp32") for name in others}
    if options.compile and device.type == "cuda":
        kinds["ours, bf16, compiled"] = ("ours", "bf16")
    runs, facts = {}, dict[str, dict[str, Any]]()
    for row, (name, precision) in kinds.items():
        compile = row.endswith("compiled")
        network = copy.deepcopy(networks[name])
        runs[row] = training_step(network, precision, device, batch_size=options.batch_size, compile=compile)
        # Backward is two forward passes: for the gradients of the weights, and for those of the inputs.
        facts[row] = {"pictures": options.batch_size, "passes": 3 * options.batch_size}
        facts[row] |= network_facts(networks[name].to(device))
        if not compile:
            facts[row] |= peak_memory(device, options, name=name, precision=precision, n=options.batch_size)
    measures = time_both(runs, facts, options, device, "training step")
    result: dict[str, Any] = {"measures": measures}
    if options.growth:
        b = options.batch_size
        step = partial(training_step, make_network("ours"), "fp32", device)
        sizes = [(b // 4 or 1, 16), (b, 16), (4 * b, 16), (b, 32), (b, 64)]
        larger = {(n, side): step(batch_size=n, side=side) for n, side in sizes}
        result["growth"] = _growth(device, options, "step", larger)
    return result | {"missing": missing, "unit": f"training step of {options.batch_size} pictures"}


def bench_sample(device: torch.device, options: Options) -> dict[str, Any]:
    """Sampling 50 pictures in fp32 at equal NFE: each network with our samplers, or with those of its library."""
    others, missing = peers.available()
    networks = {name: network.to(device).eval() for name, network in ({"ours": make_network("ours")} | others).items()}
    schedule = linear_schedule()
    x_T = torch.randn(PICTURES, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)

    def ddim(model: Callable[..., Tensor]) -> Tensor:
        return sample_ddim(model, x_T, schedule, steps=options.nfe)

    def ddpm(model: Callable[..., Tensor]) -> Tensor:
        return sample_ddpm(model, x_T, schedule, steps=options.nfe)

    kinds: dict[str, tuple[str, Callable[..., Tensor]]] = {"ours, DDIM": ("ours", ddim), "ours, DDPM": ("ours", ddpm)}
    theirs = {
        f"its {scheduler}": partial(peers.sample_with_diffusers, scheduler, x_T=x_T, steps=options.nfe)
        for scheduler in ("DDIM", "DDPM")
    }
    for name in others:
        samplers = theirs if name.startswith("diffusers") else {"DDIM": ddim}
        kinds |= {f"{name}, {sampler}": (name, run) for sampler, run in samplers.items()}
    runs = {row: partial(sampler, networks[name]) for row, (name, sampler) in kinds.items()}
    facts: dict[str, dict[str, Any]] = {}
    for row, (name, sampler) in kinds.items():
        # Counted, as a sampler may call its network more often than asked.
        sampler(counted := CountedModel(networks[name]))
        facts[row] = {"pictures": PICTURES, "passes": PICTURES * counted.calls, "NFE": counted.calls}
        facts[row] |= network_facts(networks[name])
        if row == next(row for row, (of, _) in kinds.items() if of == name):
            facts[row] |= peak_memory(device, options, name=name, kind="sample", n=PICTURES)
    row = "ours compiled, DDIM"
    if options.compile and (fast := _compiled(networks["ours"], ddim, row, missing)) is not None:
        runs[row], facts[row] = partial(ddim, fast), facts["ours, DDIM"]
    measures = time_both(runs, facts, options, device, "sampling")
    for found in measures.values():
        # DDIM against DDIM, DDPM against DDPM: their names end with it.
        found["ratios"] = [pair for pair in found["ratios"] if pair["ours"][-4:] == pair["other"][-4:]]
    result: dict[str, Any] = {"measures": measures}
    if options.growth:
        sizes = [(64, 16), (256, 16), (1024, 16), (4096, 16), (64, 32), (64, 64)]
        larger = {(n, side): _sampling_run(networks["ours"], device, n=n, side=side) for n, side in sizes}
        result["growth"] = _growth(device, options, "sample", larger)
    return result | {"missing": missing, "unit": f"run of {options.nfe} evaluations for {PICTURES} pictures"}


def _compiled(network: nn.Module, sampler: Callable[..., Tensor], row: str, missing: list[str]) -> nn.Module | None:
    """The network compiled and warmed up; None, with a sentence in `missing`, where that fails."""
    fast = compiled(network)
    try:
        sampler(fast)
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        missing.append(f"{row}: left out, torch.compile does not work here ({reason})")
        return None
    return fast


def _growth(
    device: torch.device, options: Options, kind: str, runs: Mapping[tuple[int, int], Callable[[], object]]
) -> list[dict[str, Any]]:
    """Time and memory of our network for growing (numbers, sides) of pictures."""
    rows = []
    for (n, side), run in runs.items():
        with cpu_threads(options.threads):
            taken = measure({"": run}, rounds=min(options.rounds, 3), desc=f"{n} pictures, side {side}")
        memory = peak_memory(device, options, name="ours", kind=kind, n=n, side=side)
        rows.append({"pictures": n, "side": side, "wall ms": 1e3 * taken[""].median, **memory})
    return rows


# -------------------------------------------------------------------------------------- score matching and distances


def _gradient(loss: Callable[[], Tensor]) -> None:
    loss().mean().backward()


def bench_score(device: torch.device, options: Options) -> dict[str, Any]:
    """Loss and gradient of score matching at growing dimension: exact trace, sliced, denoising."""
    runs: dict[str, Callable[[], object]] = {}
    for d in (2, 10, 50, 100):
        x = torch.randn(128, d, generator=torch.Generator().manual_seed(0)).to(device)
        network = seeded(partial(ScoreMLP, dimension=d), 0).to(device)
        losses = {
            "denoising": partial(denoising_score_matching, network, x, 1.0),
            "sliced": partial(sliced_score_matching, network, x),
            "exact trace": partial(implicit_score_matching, network, x),
        }
        runs |= {f"D = {d}, {name}": partial(_gradient, loss) for name, loss in losses.items()}
    measures = time_both(runs, {}, options, device, "score matching")
    return {"measures": measures, "unit": "gradient, batch 128"}


def bench_fid(device: torch.device, options: Options) -> dict[str, Any]:
    """The Fréchet distance from statistics (on the CPU, in float64): ours and torchmetrics' on the same features."""
    runs: dict[str, Callable[[], object]] = {}
    for d in (128, 512):
        a, b = (torch.randn(2 * d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
        moments = (a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
        runs[f"D = {d}, ours"] = partial(frechet_distance, *moments)
        runs[f"D = {d}, torchmetrics"] = partial(_compute_fid, *moments)
    measures = time_both(runs, {}, options, torch.device("cpu"), "Fréchet distance")
    return {"measures": measures, "unit": "distance"}


PARTS: dict[str, Callable[[torch.device, Options], dict[str, Any]]] = {
    "train": bench_train,
    "sample": bench_sample,
    "score": bench_score,
    "fid": bench_fid,
}


# ------------------------------------------------------------------------------------------------- the race to a loss


def race_to_loss(
    device: torch.device,
    *,
    pictures: tuple[Tensor, ...],
    heldout: tuple[Tensor, ...],
    steps: int = 1000,
    every: int = 25,
    make: Mapping[str, Callable[[], nn.Module]] | None = None,
) -> dict[str, Any]:
    """Train the course network (fp32) and ours (bf16) by the recipe: losses at equal steps, times to the same loss.

    Both see the same pictures in the same order with the same draws, and their averaged weights are measured on the
    same held-out pictures with fixed draws. The times are without these measurements.

    Args:
        device: where to train.
        pictures, heldout: pictures and labels.
        steps: steps of each; the course network's held-out loss at the last one is the goal.
        every: steps between two held-out losses.
        make: the networks, ours first.

    Returns:
        The curve of each (step, held-out loss, process s, wall s), the goal, the first point of ours that reaches it,
        and the ratios of the times (None where it is not reached).
    """
    ours, course = (make or {"ours": our_network, "course": peers.ContextUnet}).values()
    objective, batch_size = DiffusionObjective(linear_schedule()), min(64, len(pictures[0]))
    curves: dict[str, list[list[float]]] = {}
    for name, maker, precision in (("course, fp32", course, "fp32"), ("ours, bf16", ours, "bf16")):
        config = TrainConfig(steps=steps, precision=precision, lr=RECIPES["sprites"].lr, batch_size=batch_size)
        curve, spent, mark = curves.setdefault(name, []), [0.0, 0.0], (time.process_time(), wall_clock())
        run = train(seeded(maker, 0).to(device), pictures, objective, config)
        for step in progress(run, total=steps, desc=name):
            if step.step % every and step.step != steps:
                continue
            now = time.process_time(), wall_clock()
            spent = [total + b - a for total, a, b in zip(spent, mark, now, strict=True)]
            with step.ema.applied() as averaged:
                curve.append([step.step, heldout_loss(averaged, objective, heldout), *spent])
            mark = time.process_time(), wall_clock()
    goal = curves["course, fp32"][-1]
    reached = next((point for point in curves["ours, bf16"] if point[1] <= goal[1]), None)
    times = None if reached is None else [there / here for there, here in zip(goal[2:], reached[2:], strict=True)]
    return {"curves": curves, "goal": goal, "reached": reached, "ratios": times}


def report_race(race: Mapping[str, Any]) -> str:
    """The race as text."""
    steps, loss, process, wall = race["goal"]
    lines = [
        f"# the race to the course network's held-out loss at step {steps}",
        f"held-out loss at step {steps}: course {loss:.4f}, ours {race['curves']['ours, bf16'][-1][1]:.4f}",
        f"course, fp32: {process:.1f} s process time, {wall:.1f} s wall time",
    ]
    if race["reached"] is None:
        return "\n".join([*lines, f"ours, bf16: not reached after {steps} steps"])
    step, _, process, wall = race["reached"]
    lines.append(f"ours, bf16: reached at step {step}, {process:.1f} s process time, {wall:.1f} s wall time")
    return "\n".join([*lines, "{:.2f} times shorter in process time, {:.2f} in wall time".format(*race["ratios"])])


def bench_to_loss(device: torch.device, options: Options) -> dict[str, Any]:
    """`race_to_loss` on the embedded sprites, 1000 steps, on one thread by default."""
    data = load_sprites("embedded")
    pictures, heldout = picture_tensors(data.train_images, data.train_labels), heldout_tensors(data)
    with cpu_threads(options.threads or 1):
        return race_to_loss(device, pictures=pictures, heldout=heldout)
