"""The training loop of every network here; resumed from a checkpoint, it ends with the same bits.

A loss enters as an `Objective`: what it draws at random, and what it computes from that. The loop owns the order of the
data, the random state, the optimizer and the average.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hw3utils.arguments import check_count, check_number, shown
from hw3utils.files import check_writable
from hw3utils.learning.ema import EMA
from hw3utils.learning.objectives import Batch, Objective
from hw3utils.learning.run_files import POINTER, History, load_checkpoint, save_checkpoint
from hw3utils.progress import progress

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run but the network, the data and the objective.

    Args:
        steps: optimizer steps in all.
        batch_size: samples a step, over all processes together.
        lr: Adam's learning rate.
        lr_decay: let the learning rate fall to zero along half a cosine (False: constant, as the homework has it).
        ema_decay: upper limit of the average's decay; at step n it is min(ema_decay, (1 + n) / (10 + n)), 0 is no EMA.
        seed: decides the order of the data and every draw.
        precision: "fp32", or "bf16" for autocast (weights, optimizer and EMA stay fp32).
        checkpoint_every: steps between checkpoints.
        heldout_every: steps between measurements of the held-out loss.

    Raises:
        ValueError: when a value is out of its range.
    """

    steps: int = 50_000
    batch_size: int = 64
    lr: float = 2e-4
    lr_decay: bool = False
    ema_decay: float = 0.9999
    seed: int = 0
    precision: str = "fp32"
    checkpoint_every: int = 1000
    heldout_every: int = 250

    def __post_init__(self) -> None:
        # Kept as plain numbers: NumPy's, for one, would not go into the JSON of a checkpoint.
        plain: dict[str, Any] = {"seed": check_count(self.seed, "seed", low=0, high=2**32 - 1)}
        for name in ("steps", "batch_size", "checkpoint_every", "heldout_every"):
            plain[name] = check_count(getattr(self, name), name)
        for name, expected in (("lr", "a positive number"), ("ema_decay", "a number in [0, 1)")):
            plain[name] = check_number(getattr(self, name), name, expected=expected)
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        if self.lr <= 0:
            raise ValueError(f"lr is {self.lr}, expected a positive number.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}, expected a number in [0, 1).")
        if not isinstance(self.lr_decay, bool):
            raise ValueError(f"lr_decay is {shown(self.lr_decay)}, expected True or False.")
        if not isinstance(self.precision, str) or self.precision not in PRECISIONS:
            raise ValueError(f"precision is {shown(self.precision)}, expected one of {', '.join(PRECISIONS)}.")


class Step(NamedTuple):
    """What the loop yields: steps done, this step's mean loss, the held-out loss where it was measured, the average."""

    step: int
    loss: float
    heldout: float | None
    ema: EMA


@torch.no_grad()
def heldout_loss(
    network: nn.Module, objective: Objective, data: Tensor | Batch, *, seed: int = 0, batch_size: int = 256
) -> float:
    """Mean loss over data with draws that depend on the seed only, in evaluation mode.

    Args:
        network: left in the mode it came in.
        objective: the loss.
        data: tensors of equal length, on any device.
        seed: decides every draw (made on the CPU, so that devices agree).
        batch_size: samples at once; part of what decides the draws.

    Raises:
        ValueError: when the data are no tensors of equal length, or a number is out of its range.
    """
    data = _as_batch(data)
    check_count(batch_size, "batch_size")
    device = _device_of(network)
    generator = torch.Generator().manual_seed(check_count(seed, "seed", low=0, high=2**32 - 1))
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    total = 0.0
    try:
        for start in range(0, len(data[0]), batch_size):
            batch = tuple(tensor[start : start + batch_size].cpu() for tensor in data)
            drawn = [tensor.to(device) for tensor in objective.draw(batch, generator)]
            total += objective(network, *drawn).double().sum().item()
    finally:
        for module, mode in modes:
            module.training = mode
    return total / len(data[0])


def _as_batch(data: Tensor | Sequence[Tensor]) -> Batch:
    """One tensor or several of equal length as a tuple."""
    data = (data,) if isinstance(data, Tensor) else tuple(data)
    if not all(isinstance(tensor, Tensor) and tensor.ndim for tensor in data):
        got = ", ".join(type(tensor).__name__ for tensor in data)
        raise ValueError(f"data is one tensor or several, the first dimension the sample: got {got}.")
    lengths = [len(tensor) for tensor in data]
    if not lengths or not lengths[0] or len(set(lengths)) > 1:
        raise ValueError(f"data is one tensor or several of the same length, not empty: got lengths {lengths}.")
    for tensor in data:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError("the data hold NaN or infinity, expected finite numbers.")
    return data


def _device_of(network: nn.Module) -> torch.device:
    """The device of a network's parameters."""
    for parameter in network.parameters():
        return parameter.device
    raise ValueError(f"the network is a {type(network).__name__} without parameters, there is nothing to train.")


def train(
    network: nn.Module,
    data: Tensor | Sequence[Tensor],
    objective: Objective,
    config: TrainConfig,
    *,
    heldout: Tensor | Sequence[Tensor] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    capture: bool = False,
) -> Iterator[Step]:
    """Train a network in place and yield after every step.

    The network stays on its device; the data are copied there once. With `out`, a checkpoint is written every
    `checkpoint_every` steps, at the end, and when the caller stops listening (break, or closing the generator).
    Under torch.distributed each process takes its share of the global batch; process 0 writes the files, and each one
    reads them to resume.

    Args:
        network: any module that the objective can call.
        data: one tensor or several of equal length (N, ...), indexed by sample.
        objective: the loss; see `Objective`.
        config: sizes, rates, seed.
        heldout: data on which the averaged network is measured every `heldout_every` steps.
        out: folder for checkpoints.
        resume: go on from the checkpoint in `out`, if there is one.
        capture: replay the whole step as one CUDA graph (CUDA only); the steps then arrive in bursts, network, average
            and checkpoint being those of a burst's last step.

    Returns:
        An iterator over `Step`.

    Raises:
        ValueError: when the batch is larger than the data, the checkpoint belongs to other settings or is damaged, or
            `out` holds a checkpoint and resume is off.
        FloatingPointError: when a loss is not finite, or the weights are not when a checkpoint is due; the last
            checkpoint stays as it was.
        OSError: when a checkpoint cannot be written; the last one stays as it was.
    """
    data = _as_batch(data)
    if config.batch_size > len(data[0]):
        raise ValueError(
            f"batch_size is {config.batch_size} but there are {len(data[0])} samples; take a smaller batch."
        )
    device = _device_of(network)
    if capture and device.type != "cuda":
        raise ValueError(f"capture needs a network on a CUDA device, this one is on {device}; leave capture off.")
    if resume and out is None:
        raise ValueError("resume needs the folder of the checkpoint; give out as well.")
    if out is not None and not resume and (Path(out) / POINTER).exists():
        raise ValueError(f"{out} already holds a checkpoint; resume it or choose another folder.")
    if out is not None:
        check_writable(out)
    heldout = None if heldout is None else _as_batch(heldout)
    return _loop(lambda: _Run(network, data, objective, config, capture), heldout, out, resume)


class _Keeper:
    """What a run leaves behind: its history, and the checkpoint in its folder where it has one."""

    def __init__(self, run: "_Run", out: str | Path | None, resume: bool) -> None:
        self.run, self.out = run, None if out is None else Path(out)
        self.history = History()
        if resume and (self.out / POINTER).exists():
            self.history = load_checkpoint(self.out, run)
        run.check_together()
        self.saved = run.step
        self.started = time.monotonic() - self.history.seconds

    def add(self, losses: list[float]) -> None:
        """Take the losses of the next steps into the history; raise on the first that is not finite."""
        for loss in losses:
            if not math.isfinite(loss):
                step = len(self.history.losses) + 1
                raise FloatingPointError(f"the loss is {loss} at step {step}: {self._diverged()}")
            self.history.losses.append(loss)

    def save(self) -> None:
        """Write the checkpoint, where there is a folder and it is not there yet; raise when weights are not finite."""
        if self.out is None or self.saved == self.run.step:
            return
        self.history.seconds = time.monotonic() - self.started
        # The loss of a step says nothing of the weights that the step has made.
        if not all(bool(tensor.isfinite().all()) for tensor in (*self.run.ema.live, *self.run.ema.average)):
            raise FloatingPointError(f"the weights are not finite after step {self.run.step}: {self._diverged()}")
        if self.run.rank == 0:
            save_checkpoint(self.out, self.run, self.history)
        self.saved = self.run.step

    def _diverged(self) -> str:
        """The rest of the sentence on a run that has gone wrong."""
        untouched = self.out is not None and self.saved
        kept = f" The checkpoint of step {self.saved} in {self.out} is untouched." if untouched else ""
        lr = self.run.config.lr
        return f"training has diverged; lower the learning rate ({lr}) or look for bad values in the data.{kept}"


def _loop(
    make_run: Callable[[], "_Run"], heldout: Batch | None, out: str | Path | None, resume: bool
) -> Iterator[Step]:
    run = make_run()
    config, keeper = run.config, _Keeper(run, out, resume)
    run.network.train()
    while run.step < config.steps:
        first = run.step
        keeper.add(run.advance(_burst(run, config)))
        measured = None
        if heldout is not None and run.step % config.heldout_every == 0:
            with run.ema.applied():
                measured = heldout_loss(run.network, run.objective, heldout)
            keeper.history.heldout.append((run.step, measured))
        if run.step % config.checkpoint_every == 0 or run.step == config.steps:
            keeper.save()
        for done in range(first + 1, run.step + 1):
            loss = keeper.history.losses[done - 1]
            try:
                yield Step(done, loss, measured if done == run.step else None, run.ema)
            except GeneratorExit:
                keeper.save()
                raise


def fit(
    network: nn.Module,
    data: Tensor | Sequence[Tensor],
    objective: Objective,
    config: TrainConfig,
    *,
    desc: str = "training",
) -> list[float]:
    """Train to the end with a progress bar; the network is left with its averaged weights, in evaluation mode.

    Arguments and errors as in `train`.

    Returns:
        The loss of every step.
    """
    losses = []
    for step in progress(train(network, data, objective, config), total=config.steps, desc=desc):
        losses.append(step.loss)
    step.ema.copy_to(network)
    network.eval()
    return losses


def _burst(run: "_Run", config: TrainConfig) -> int:
    """Steps until something must be looked at: 1 in plain mode, up to 50 where each look would stall the device."""
    if not run.capture:
        return 1
    events = [config.steps, *(run.step - run.step % n + n for n in (config.heldout_every, config.checkpoint_every, 50))]
    return min(events) - run.step


class _Run:
    """State of a run and the step that changes it; everything the step touches lives on the device."""

    def __init__(
        self, network: nn.Module, data: Batch, objective: Objective, config: TrainConfig, capture: bool
    ) -> None:
        self.network, self.objective, self.config, self.capture = network, objective, config, capture
        self.device = next(network.parameters()).device
        self.data = tuple(tensor.to(self.device) for tensor in data)
        fused = self.device.type in ("cpu", "cuda")
        # A learning rate that is a tensor can change under a captured graph.
        lr = torch.tensor(config.lr, device=self.device) if capture else config.lr
        self.optimizer = torch.optim.Adam(network.parameters(), lr=lr, fused=fused, capturable=capture)
        self.ema = EMA(network, config.ema_decay)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.step = self.began = 0
        self.epoch: int | None = None
        self.batches = len(data[0]) // config.batch_size
        self.offsets = torch.arange(config.batch_size, device=self.device)
        self.position = torch.zeros((), dtype=torch.int64, device=self.device)
        self.order = torch.zeros(len(data[0]), dtype=torch.int64, device=self.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream: torch.cuda.Stream | None = None
        self.loss = torch.zeros((), device=self.device)
        self.rank, self.share, self.forward = 0, slice(None), network
        self.world = 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self.rank, self.world = torch.distributed.get_rank(), torch.distributed.get_world_size()
            if config.batch_size % self.world:
                raise ValueError(
                    f"batch_size is {config.batch_size}, expected a multiple of the {self.world} processes."
                )
            if capture:
                raise ValueError("capture works in one process only; leave it off under torch.distributed.")
            size = config.batch_size // self.world
            self.share = slice(self.rank * size, (self.rank + 1) * size)
            self.forward = DistributedDataParallel(network)

    def check_together(self) -> None:
        """Raise unless all processes stand at the same step: one without the checkpoint would wait for ever."""
        if self.world > 1:
            ends = torch.tensor([self.step, -self.step], device=self.device)
            torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MIN)
            if ends[0] != -ends[1]:
                raise ValueError(
                    f"the {self.world} processes found checkpoints of steps {int(ends[0])} to {-int(ends[1])}, "
                    "expected the same; give all of them the same folder."
                )

    def begin_epoch(self, epoch: int) -> None:
        """Set the order of the data: a function of seed and epoch alone, so a resume finds it again."""
        shuffle = torch.Generator().manual_seed((self.config.seed + 1) * 1_000_003 + epoch)
        self.order.copy_(torch.randperm(len(self.order), generator=shuffle))
        self.epoch = epoch

    def advance(self, burst: int) -> list[float]:
        """Do some steps; their losses."""
        losses = []
        for _ in range(burst):
            epoch, batch = divmod(self.step, self.batches)
            if epoch != self.epoch:
                self.begin_epoch(epoch)
                self.position.fill_(batch * self.config.batch_size)
            if self.config.lr_decay:
                self._set_lr(self.config.lr * 0.5 * (1 + math.cos(math.pi * self.step / self.config.steps)))
            losses.append(self._captured_step() if self.capture else self._one_step())
            self.step += 1
        return torch.stack(losses).tolist()

    def _set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def _one_step(self) -> Tensor:
        index = self.order.index_select(0, self.position + self.offsets)
        drawn = self.objective.draw(tuple(tensor.index_select(0, index) for tensor in self.data), self.generator)
        bf16 = self.config.precision == "bf16"
        # The cache of cast weights must not outlive a captured graph's memory.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16, cache_enabled=not self.capture):
            loss = self.objective(self.forward, *(tensor[self.share] for tensor in drawn)).float().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.ema.update()
        self.position += self.config.batch_size
        loss = loss.detach()
        if self.world > 1:
            torch.distributed.all_reduce(loss)
            loss /= self.world
        return loss

    def _captured_step(self) -> Tensor:
        """Three of the run's own steps in plain mode to warm up, then the same step replayed from its graph.

        All that the step reads or writes has its place for good: data, order, position, learning rate, weights, Adam's
        state, average and generator. So what happens between two replays (a new order, another learning rate, the
        average swapped in for a held-out loss and out again) is seen by the next one.

        Source: PyTorch's notes on CUDA semantics, "Whole-network capture".
        """
        if self.graph is None:
            if self.stream is None:
                self.stream = torch.cuda.Stream(self.device)
            with warnings.catch_warnings():
                # Adam warns of steps outside of a graph, and newer releases that generators register themselves.
                warnings.simplefilter("ignore")
                if self.step < self.began + 3:
                    return self._warm_up_step()
                self._capture()
        self.graph.replay()
        return self.loss.clone()

    def _warm_up_step(self) -> Tensor:
        """A plain step, but on the stream on which the graph will be captured."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            self.loss.copy_(self._one_step())
        current.wait_stream(self.stream)
        return self.loss.clone()

    def _capture(self) -> None:
        """Record one step; nothing is computed, and the generator does not move."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        # The gradients must come from the graph's own memory: backward then writes them there in each replay.
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph, stream=self.stream):
            self.loss.copy_(self._one_step())
        self.graph = graph


# ------------------------------------------------------------------------------------------------------- checkpoints


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Make a network, on the CPU, whose first weights depend on the seed (0..2^32 - 1) only.

    No global random state is changed.

    Raises:
        ValueError: when the seed is not such a number.
    """
    seed = check_count(seed, "seed", low=0, high=2**32 - 1)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed every accelerator as well, for good.
        torch.default_generator.manual_seed(seed)
        return make()
