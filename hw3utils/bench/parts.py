"""The parts of `hw3 bench`: our training, sampling, scores and distances beside those of others, as ratios.

Times are taken A B A B, so that a slow minute of the machine meets all contenders, and a ratio is the median over the
rounds of the ratio within a round. On the CPU the steadiest measure is the process time on one thread; the wall time on
all threads stands beside it. A part of the bench is a function in `PARTS`.
"""

import copy
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hw3utils.bench import peers
from hw3utils.bench.timing import (
    Counted,
    Options,
    add_facts,
    alternate,
    facts_of,
    ratios,
    synchronize,
    threads,
    two_measures,
)
from hw3utils.devices import compiled
from hw3utils.fid import frechet_distance
from hw3utils.learning.networks import ScoreMLP, UNet
from hw3utils.learning.objectives import DiffusionObjective
from hw3utils.learning.recipes import RECIPES, heldout_tensors, picture_tensors
from hw3utils.learning.training import TrainConfig, heldout_loss, seeded, train
from hw3utils.losses import denoising_score_matching, implicit_score_matching, sliced_score_matching
from hw3utils.noise import sample_in_batches
from hw3utils.progress import progress
from hw3utils.samplers import sample_ddim, sample_ddpm
from hw3utils.schedules import linear_schedule
from hw3utils.sprites import load_sprites

PICTURES = 50
BURST = 50  # steps that a captured run does at once


def our_network() -> nn.Module:
    """The network of the recipe."""
    return UNet(schedule=linear_schedule().card())


def make_network(name: str) -> nn.Module:
    """Our network (the name "ours"), or the peer with that name."""
    return seeded(our_network if name == "ours" else peers.CONTENDERS[name], 0)


# ---------------------------------------------------------------------------------------------------------- measuring


# ------------------------------------------------------------------------------------------------------------- memory


def peak_memory(**work: Any) -> float:
    """Peak memory of some work in a fresh process, in MB, less what the imports alone take.

    Args:
        work: arguments of `run_for_memory`.

    Raises:
        OSError: when the process failed.
    """
    call = f"run_for_memory(**json.loads({json.dumps(work)!r}))"
    code = f"import json; from hw3utils.bench.parts import run_for_memory; {call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise OSError(f"measuring the memory of {work} failed: {reason}")
    return float(done.stdout.split()[-1])


def run_for_memory(
    *, name: str, device: str, kind: str = "step", precision: str = "fp32", n: int = 64, side: int = 16
) -> None:
    """What `peak_memory` has done in its own process; prints MB.

    Args:
        name: the contender.
        device: where it runs.
        kind: "step" for training steps of n pictures, "sample" for n pictures in batches of at most 256.
        precision: of the training step.
        n: number of pictures.
        side: of each picture.
    """
    where = torch.device(device)
    # Imported late: by torch when it makes an optimizer, by the peer when it is made.
    importlib.import_module("torch._dynamo")
    if name.startswith("diffusers"):
        importlib.import_module("diffusers.models.unets.unet_2d")
    before = 0.0 if where.type == "cuda" else _peak_resident()
    network = make_network(name).to(where)
    if kind == "step":
        run = step_of(network, precision, where, batch_size=n, side=side)
    else:
        run = _sampling_in_batches(network.eval(), where, n=n, side=side)
    for _ in range(2):
        run()
    after = torch.cuda.max_memory_allocated(where) / 1e6 if where.type == "cuda" else _peak_resident()
    print(after - before)


def _peak_resident() -> float:
    """Largest resident memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux ru_maxrss begins at the size of the parent, which a large parent makes meaningless.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    # Bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


# ------------------------------------------------------------------------------------------------------------ training


def step_of(
    network: nn.Module,
    precision: str,
    device: torch.device,
    *,
    batch_size: int = 64,
    side: int = 16,
    capture: bool = False,
) -> Callable[[], None]:
    """Our training loop with any network: same data, batches, draws, Adam and average for all contenders.

    Args:
        network: trained in place.
        precision: "fp32" or "bf16".
        device: where.
        batch_size: pictures a step.
        side: of the pictures, whose content is noise: it does not change the work.
        capture: replay the step as a CUDA graph; a call then does `BURST` steps.

    Returns:
        A function that does one step.
    """
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (4 * batch_size, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 5, (4 * batch_size,), generator=generator)
    config = TrainConfig(steps=10**9, batch_size=batch_size, precision=precision)
    objective = DiffusionObjective(linear_schedule())
    steps = train(network.to(device), (pictures, labels), objective, config, capture=capture)

    def run() -> None:
        for _ in range(BURST if capture else 1):
            next(steps)

    return run


def bench_train(device: torch.device, options: Options) -> dict[str, Any]:
    """Training steps side by side: ours in fp32 and bf16 (on CUDA also as a captured graph), the others in fp32."""
    others, missing = peers.available()
    networks = {"ours": make_network("ours")} | others
    step = partial(step_of, device=device, batch_size=options.batch_size)
    kinds = {"ours, fp32": ("ours", "fp32"), "ours, bf16": ("ours", "bf16")}
    kinds |= {f"{name}, fp32": (name, "fp32") for name in others}
    runs = {row: step(copy.deepcopy(networks[name]), precision) for row, (name, precision) in kinds.items()}
    calls = {}
    if device.type == "cuda":
        row = "ours, bf16, captured"
        kinds[row], calls[row] = ("ours", "bf16"), BURST
        runs[row] = step(copy.deepcopy(networks["ours"]), "bf16", capture=True)
    result = two_measures(runs, options=options, device=device, desc="training step", calls=calls)
    facts = {name: facts_of(network.to(device)) for name, network in networks.items()}
    peaks = {}
    if options.memory and device.type in ("cpu", "cuda"):
        for row in progress([row for row in kinds if row not in calls], desc="peak memory"):
            name, precision = kinds[row]
            peaks[row] = peak_memory(name=name, device=str(device), precision=precision, n=options.batch_size)
    # Backward is two forward passes: one for the gradients of the weights, one for those of the inputs.
    work = {row: (name, precision, 3 * options.batch_size) for row, (name, precision) in kinds.items()}
    add_facts(result, facts, work, options.batch_size, peaks)
    result["ratios"] = {measure: ratios(result[measure]) for measure in result["GFLOP/s"]}
    if options.growth:
        result["growth"] = _growth_of_training(device, options)
    return result | {"missing": missing, "unit": f"training step of {options.batch_size} pictures"}


def _growth_of_training(device: torch.device, options: Options) -> list[dict[str, Any]]:
    """Our fp32 step as the batch and the pictures grow."""
    b = options.batch_size
    rows = []
    for size, side in ((b // 4 or 1, 16), (b, 16), (4 * b, 16), (b, 32), (b, 64)):
        with threads(options.threads):
            run = step_of(make_network("ours"), "fp32", device, batch_size=size, side=side)
            times = alternate(
                {"": run}, rounds=min(options.rounds, 3), device=device, desc=f"batch {size}, side {side}"
            )
        row = {"batch": size, "side": side, "wall ms": 1e3 * statistics.median(times[""])}
        if options.memory and device.type in ("cpu", "cuda"):
            row["peak MB"] = peak_memory(name="ours", device=str(device), n=size, side=side)
        rows.append(row)
    return rows


# ------------------------------------------------------------------------------------------------------------ sampling


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

    kinds: dict[str, tuple[str, Callable]] = {"ours, DDIM": ("ours", ddim), "ours, DDPM": ("ours", ddpm)}
    for name in others:
        kinds |= _ways_to_sample(name, ddim, x_T, options.nfe)
    # Counted, not taken from the options: a sampler may call its network more often than it says.
    nfe = {row: _count_calls(networks[name], sampler) for row, (name, sampler) in kinds.items()}
    runs = {row: partial(sampler, networks[name]) for row, (name, sampler) in kinds.items()}
    row = "ours compiled, DDIM"
    if options.compile and (fast := _compiled(networks["ours"], ddim, row, missing)) is not None:
        kinds[row], nfe[row], runs[row] = ("ours", ddim), nfe["ours, DDIM"], partial(ddim, fast)
    result = two_measures(runs, options=options, device=device, desc="sampling")
    facts = {name: facts_of(network) for name, network in networks.items()}
    peaks = {}
    if options.memory and device.type in ("cpu", "cuda"):
        for name in progress(networks, desc="peak memory"):
            [row, *_] = [row for row, (of, _) in kinds.items() if of == name]
            peaks[row] = peak_memory(name=name, device=str(device), kind="sample", n=PICTURES)
    work = {row: (name, "fp32", nfe[row] * PICTURES) for row, (name, _) in kinds.items()}
    add_facts(result, facts, work, PICTURES, peaks)
    for measure in result["GFLOP/s"]:
        for row in result[measure]:
            row.extra["NFE"] = nfe[row.name]
    # DDIM against DDIM, DDPM against DDPM: their names end with it.
    result["ratios"] = {
        measure: [pair for pair in ratios(result[measure]) if pair["ours"][-4:] == pair["other"][-4:]]
        for measure in result["GFLOP/s"]
    }
    if options.growth:
        result["growth"] = _growth_of_sampling(device, options)
    return result | {"missing": missing, "unit": f"run of {options.nfe} evaluations for {PICTURES} pictures"}


def _ways_to_sample(
    name: str, ddim: Callable[..., Tensor], x_T: Tensor, nfe: int
) -> dict[str, tuple[str, Callable[..., Tensor]]]:
    """The rows of a contender: with our DDIM, or with both samplers of its library; row -> (contender, sampler)."""
    if not name.startswith("diffusers"):
        return {f"{name}, DDIM": (name, ddim)}
    return {
        f"{name}, its {scheduler}": (name, partial(peers.sample_with_diffusers, scheduler, x_T=x_T, steps=nfe))
        for scheduler in ("DDIM", "DDPM")
    }


def _compiled(network: nn.Module, sampler: Callable[..., Tensor], row: str, missing: list[str]) -> nn.Module | None:
    """The network compiled and warmed up; None, with a sentence in `missing`, where that does not work."""
    fast = compiled(network)
    try:
        sampler(fast)
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        missing.append(f"{row}: left out, torch.compile does not work here ({reason})")
        return None
    return fast


def _count_calls(network: nn.Module, sampler: Callable[..., Tensor]) -> int:
    """How often a sampler calls the network."""
    counted = Counted(network)
    sampler(counted)
    return counted.calls


def _sampling_in_batches(network: nn.Module, device: torch.device, *, n: int, side: int) -> Callable[[], Tensor]:
    """Two steps of DDIM for n pictures, at most 256 at once."""
    return partial(
        sample_in_batches, sample_ddim, network, linear_schedule(), (3, side, side), n=n, steps=2, device=device
    )


def _growth_of_sampling(device: torch.device, options: Options) -> list[dict[str, Any]]:
    """Our sampling (two evaluations a picture) as the pictures grow in number and size."""
    network = make_network("ours").to(device).eval()
    rows = []
    for n, side in ((64, 16), (256, 16), (1024, 16), (4096, 16), (64, 32), (64, 64)):
        run = _sampling_in_batches(network, device, n=n, side=side)
        with threads(options.threads):
            times = alternate({"": run}, rounds=1, device=device, desc=f"{n} pictures, side {side}")
        row = {"pictures": n, "side": side, "wall ms": 1e3 * times[""][0]}
        if options.memory and device.type in ("cpu", "cuda"):
            row["peak MB"] = peak_memory(name="ours", device=str(device), kind="sample", n=n, side=side)
        rows.append(row)
    return rows


# -------------------------------------------------------------------------------------- score matching and distances


def bench_score(device: torch.device, options: Options) -> dict[str, Any]:
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
    return two_measures(runs, options=options, device=device, desc="score matching") | {"unit": "gradient, batch 128"}


def bench_fid(device: torch.device, options: Options) -> dict[str, Any]:
    """The distance from statistics (on the CPU, in float64): ours beside torchmetrics on the same features."""
    missing = []
    try:
        from torchmetrics.image.fid import _compute_fid
    except ImportError as error:
        _compute_fid = None
        missing.append(f"torchmetrics: left out, {error.name or error} is not installed")
    runs = {}
    for d in (128, 512):
        a, b = (torch.randn(2 * d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
        moments = (a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
        runs[f"D = {d}, ours"] = partial(frechet_distance, *moments)
        if _compute_fid is not None:
            runs[f"D = {d}, torchmetrics"] = partial(_compute_fid, *moments)
    result = two_measures(runs, options=options, device=torch.device("cpu"), desc="Fréchet distance")
    return result | {"missing": missing, "unit": "distance"}


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
    """Train the course network and ours by the recipe: losses after equal steps, and times to the same loss.

    Both see the same pictures in the same order with the same draws, and the averaged weights are measured on the same
    held-out pictures with fixed draws. The measuring is not part of the times.

    Args:
        device: where to train.
        pictures, heldout: pictures and labels.
        steps: steps of each; the course network's held-out loss at the last one is the goal.
        every: steps between two looks at the held-out loss.
        make: name -> network; the first is ours, the second the one to beat.

    Returns:
        For each contender and precision its curve [step, held-out loss, process s, wall s] and what it took to the
        goal; and the ratios of these times (None where the goal was not reached).
    """
    ours, course = (make or {"ours": our_network, "course": peers.ContextUnet}).values()
    objective = DiffusionObjective(linear_schedule())
    curves: dict[str, list[list[float]]] = {}
    for name, maker, precision in (("course, fp32", course, "fp32"), ("ours, bf16", ours, "bf16")):
        config = TrainConfig(
            steps=steps, precision=precision, lr=RECIPES["sprites"].lr, batch_size=min(64, len(pictures[0]))
        )
        run = train(seeded(maker, 0).to(device), pictures, objective, config)
        curve, spent = [], [0.0, 0.0]
        mark = time.process_time(), time.perf_counter()
        for step in progress(run, total=steps, desc=name):
            if step.step % every and step.step != steps:
                continue
            synchronize(device)
            now = time.process_time(), time.perf_counter()
            spent = [total + b - a for total, a, b in zip(spent, mark, now, strict=True)]
            with step.ema.applied() as averaged:
                curve.append([step.step, heldout_loss(averaged, objective, heldout), *spent])
            mark = time.process_time(), time.perf_counter()
        curves[name] = curve
    goal = curves["course, fp32"][-1]
    reached = next((point for point in curves["ours, bf16"] if point[1] <= goal[1]), None)
    return {
        "steps": steps,
        "course loss": goal[1],
        "our loss": curves["ours, bf16"][-1][1],
        "course process s": goal[2],
        "course wall s": goal[3],
        "our step": reached and reached[0],
        "our process s": reached and reached[2],
        "our wall s": reached and reached[3],
        "process ratio": reached and goal[2] / reached[2],
        "wall ratio": reached and goal[3] / reached[3],
        "curves": curves,
    }


def bench_to_loss(device: torch.device, options: Options) -> dict[str, Any]:
    """`race_to_loss` on the embedded sprites, 1000 steps, on one thread unless told otherwise."""
    data = load_sprites("embedded")
    with threads(options.threads or 1):
        return race_to_loss(
            device,
            pictures=picture_tensors(data.train_images, data.train_labels),
            heldout=heldout_tensors(data),
        )


# ------------------------------------------------------------------------------------------------------------ printing
