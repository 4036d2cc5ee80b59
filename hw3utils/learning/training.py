"""The training loop of every network here; a run resumed from a checkpoint ends with the same bits.

The loss is an `Objective`: its random draws, and the loss computed from them. The loop owns the order of the data, the
random state, the optimizer and the EMA.
"""

import atexit
import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hw3utils.arguments import check_count, check_number, shown
from hw3utils.devices import device_of, process_count, process_rank
from hw3utils.files import check_writable
from hw3utils.learning.ema import EMA
from hw3utils.learning.objectives import Batch, Objective
from hw3utils.learning.run_files import POINTER, History, check_new_run, load_checkpoint, lock_run, save_checkpoint
from hw3utils.noise import evaluating
from hw3utils.progress import progress

PRECISIONS = ("fp32", "bf16")
# (network, optimizer, average, batch, generator, decay) -> loss: one training step written by the caller.
TrainingStep = Callable[[nn.Module, torch.optim.Optimizer, list[Tensor], Batch, torch.Generator, float], Tensor | float]


@dataclass(frozen=True)
class TrainConfig:
    """Configuration of a run: everything that decides it but the network, the data and the objective.

    Args:
        steps: optimizer steps in all.
        batch_size: samples a step, over all processes together.
        lr: Adam's learning rate.
        lr_decay: let the learning rate fall to zero along half a cosine (False: constant, as the homework has it).
        ema_decay: upper bound on the average's decay; at step n it is min(ema_decay, (1 + n) / (10 + n)), 0 is no EMA.
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
        plain["lr"] = check_number(self.lr, "lr", above=0)
        plain["ema_decay"] = check_number(self.ema_decay, "ema_decay", at_least=0, below=1)
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        if not isinstance(self.lr_decay, bool):
            raise ValueError(f"lr_decay is {shown(self.lr_decay)}, expected True or False.")
        if not isinstance(self.precision, str) or self.precision not in PRECISIONS:
            raise ValueError(f"precision is {shown(self.precision)}, expected one of {', '.join(PRECISIONS)}.")


class Step(NamedTuple):
    """A step of `train`: its number (from 1), its mean loss, the held-out loss where it was measured, the EMA."""

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
        network: its training or evaluation mode is restored at the end.
        objective: the loss.
        data: tensors of equal length, on any device.
        seed: decides every draw (made on the CPU, so that devices agree).
        batch_size: samples at once; part of what decides the draws.

    Raises:
        ValueError: when the data are no tensors of equal length, or a number is out of its range.
    """
    data = _as_batch(data)
    check_count(batch_size, "batch_size")
    device = device_of(network)
    generator = torch.Generator().manual_seed(check_count(seed, "seed", low=0, high=2**32 - 1))
    total = 0.0
    with evaluating(network):
        for start in range(0, len(data[0]), batch_size):
            batch = tuple(tensor[start : start + batch_size].cpu() for tensor in data)
            drawn = [tensor.to(device) for tensor in objective.draw(batch, generator)]
            total += objective(network, *drawn).double().sum().item()
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


def train(
    network: nn.Module,
    data: Tensor | Sequence[Tensor],
    objective: Objective,
    config: TrainConfig,
    *,
    heldout: Tensor | Sequence[Tensor] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    compile: bool = False,
    step: TrainingStep | None = None,
    at_end: Callable[[], object] | None = None,
) -> Generator[Step]:
    """Train a network in place and yield after every step.

    The network stays on its device; the data are copied there once. With `out`, a checkpoint is written every
    `checkpoint_every` steps, at the end, and whenever the run ends before: the caller stops iterating (break, or
    closing the generator), an error ends a step or the caller, or the program exits. While it runs it holds a lock on
    the folder. Under torch.distributed each process takes its slice of the global batch; process 0 writes the files,
    and each one reads them to resume.

    Args:
        network: any module that the objective can call.
        data: one tensor or several of equal length (N, ...), indexed by sample.
        objective: the loss; see `Objective`.
        config: sizes, rates, seed.
        heldout: data on which the averaged network is measured every `heldout_every` steps.
        out: folder for checkpoints.
        resume: go on from the checkpoint in `out`, if there is one.
        compile: hand the network to `torch.compile` (CUDA graphs on CUDA). The first step takes longer, and losses and
            weights differ by rounding from those of the network itself.
        step: does a step in place of the loop's own, called as step(network, optimizer, average, batch, generator,
            decay). It must clear the gradients, update the network, then move each tensor of `average` (one for each
            parameter) by the fraction 1 - decay of its way to the parameter, and return the loss. In one process only.
        at_end: called once after the last step and its checkpoint, while the folder is still locked.

    Returns:
        A generator of `Step`; closing it ends and saves the run.

    Raises:
        ValueError: when the batch is larger than the data, the checkpoint belongs to other settings or is damaged,
            `out` holds a checkpoint and resume is off, or another training runs in `out`.
        FloatingPointError: when a loss is not finite, or the weights are not when a checkpoint is due; the last
            checkpoint stays as it was.
        OSError: when a checkpoint cannot be written; the last one stays as it was.
    """
    data = _as_batch(data)
    if config.batch_size > len(data[0]):
        raise ValueError(
            f"batch_size is {config.batch_size} but there are {len(data[0])} samples; take a smaller batch."
        )
    device_of(network)
    if resume and out is None:
        raise ValueError("resume needs the folder of the checkpoint; give out as well.")
    if out is not None:
        check_new_run(out, resume)
        check_writable(out)
    heldout = None if heldout is None else _as_batch(heldout)
    return _loop(lambda: _Run(network, data, objective, config, compile, step), heldout, out, resume, at_end)


class CheckpointManager:
    """The history of a run, and the checkpoint in its folder where it has one.

    Args:
        run: the run; set to the state of its checkpoint when it is resumed.
        out: folder of the checkpoint, None for a run that keeps none.
        resume: go on from the checkpoint in `out`, if there is one.
    """

    def __init__(self, run: "_Run", out: str | Path | None, resume: bool) -> None:
        self.run, self.out = run, None if out is None else Path(out)
        self.history = History()
        if self.out is not None and resume and (self.out / POINTER).exists():
            self.history = load_checkpoint(self.out, run)
        run.check_same_step()
        self.saved_step, self.failed = run.step, False
        self.start_time = time.monotonic() - self.history.seconds

    def add(self, loss: float) -> None:
        """Add the loss of the step just done to the history; raise when it is not finite."""
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {self.run.step}: {self._advice()}")
        self.history.losses.append(loss)

    def save(self) -> None:
        """Write the checkpoint of the present step; raise when weights are not finite.

        Nothing is written without a folder, for a step that is saved already, in the middle of a step, and after a
        write that failed.
        """
        between_steps = self.run.step == len(self.history.losses)
        if self.out is None or self.saved_step == self.run.step or not between_steps or self.failed:
            return
        self.failed = True
        self.history.seconds = time.monotonic() - self.start_time
        # A finite loss does not mean that the update it led to is finite.
        if not all(bool(tensor.isfinite().all()) for tensor in (*self.run.ema.live, *self.run.ema.average)):
            raise FloatingPointError(f"the weights are not finite after step {self.run.step}: {self._advice()}")
        if self.run.rank == 0:
            save_checkpoint(self.out, self.run, self.history)
        self.saved_step, self.failed = self.run.step, False

    def _advice(self) -> str:
        """What to do about a run that has diverged, and which checkpoint is left."""
        kept = ""
        if self.out is not None and self.saved_step:
            kept = f" The checkpoint of step {self.saved_step} in {self.out} is untouched."
        lr = self.run.config.lr
        return f"training has diverged; lower the learning rate ({lr}) or look for bad values in the data.{kept}"


def _loop(
    make_run: Callable[[], "_Run"],
    heldout: Batch | None,
    out: str | Path | None,
    resume: bool,
    at_end: Callable[[], object] | None,
) -> Generator[Step]:
    """The iterator of `train`: nothing is read, locked or computed before its first step is asked for."""
    locked = contextlib.nullcontext() if out is None or process_rank() else lock_run(out, resume)
    with locked, _saved_at_exit(lambda: CheckpointManager(make_run(), out, resume)) as manager:
        run, config, history = manager.run, manager.run.config, manager.history
        run.network.train()
        while run.step < config.steps:
            manager.add(run.advance())
            measured = None
            if heldout is not None and run.step % config.heldout_every == 0:
                with run.ema.applied():
                    measured = heldout_loss(run.network, run.objective, heldout)
                history.heldout.append((run.step, measured))
            if run.step % config.checkpoint_every == 0 or run.step == config.steps:
                manager.save()
            yield Step(run.step, history.losses[-1], measured, run.ema)
        if at_end is not None:
            at_end()


@contextlib.contextmanager
def _saved_at_exit(make: Callable[[], CheckpointManager]) -> Iterator[CheckpointManager]:
    """Save the run when the `with` is left by an error or by closing, and when the program exits inside it."""
    manager = make()
    # At exit a generator is closed only when torch is half gone: saving there aborts the process.
    atexit.register(manager.save)
    try:
        yield manager
    except BaseException:
        manager.save()
        raise
    finally:
        atexit.unregister(manager.save)


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


class _Run:
    """State of a run and the step that changes it; everything the step touches lives on the device."""

    def __init__(
        self,
        network: nn.Module,
        data: Batch,
        objective: Objective,
        config: TrainConfig,
        compile: bool = False,
        own_step: TrainingStep | None = None,
    ) -> None:
        self.network, self.objective, self.config, self.own_step = network, objective, config, own_step
        self.device = device_of(network)
        self.data = tuple(tensor.to(self.device) for tensor in data)
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(network.parameters(), lr=config.lr, fused=fused)
        self.ema = EMA(network, config.ema_decay)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.step = 0
        self.batches = len(data[0]) // config.batch_size
        self.epoch: int | None = None
        self.order = torch.empty(0)
        self.rank, self.world, self.rank_slice = process_rank(), process_count(), slice(None)
        self.forward = network
        if self.world > 1:
            if config.batch_size % self.world:
                raise ValueError(
                    f"batch_size is {config.batch_size}, expected a multiple of the {self.world} processes."
                )
            size = config.batch_size // self.world
            self.rank_slice = slice(self.rank * size, (self.rank + 1) * size)
            self.forward = DistributedDataParallel(network)
        if compile:
            mode = "reduce-overhead" if self.device.type == "cuda" else None
            self.forward = cast(nn.Module, torch.compile(self.forward, mode=mode))

    def check_same_step(self) -> None:
        """Raise unless all processes are at the same step: one without the checkpoint would never end."""
        if self.world > 1:
            ends = torch.tensor([self.step, -self.step], device=self.device)
            torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MIN)
            if ends[0] != -ends[1]:
                raise ValueError(
                    f"the {self.world} processes found checkpoints of steps {int(ends[0])} to {-int(ends[1])}, "
                    "expected the same; give all of them the same folder."
                )

    def advance(self) -> float:
        """Do one step and return its loss. An error before the update leaves the state that the step began with."""
        if self.own_step is not None:
            return self._own_step(self.own_step)
        random_state = self.generator.get_state()
        try:
            loss = self._backward()
        except BaseException:
            self.generator.set_state(random_state)
            raise
        # Counted before the update: until its loss is in the history too, the state is known to be between two steps.
        self.step += 1
        self.optimizer.step()
        self.ema.update()
        return loss.item()

    def _own_step(self, step: TrainingStep) -> float:
        """Do one step by the caller's function and return its loss."""
        batch = self._next_batch()
        done = self.step + 1
        decay = min(self.config.ema_decay, (1 + done) / (10 + done))
        loss = step(self.network, self.optimizer, self.ema.average, batch, self.generator, decay)
        self.ema.updates += 1
        self.step = done
        return float(loss)

    def _next_batch(self) -> Batch:
        """The samples of the next step; sets the learning rate for it."""
        epoch, batch = divmod(self.step, self.batches)
        if epoch != self.epoch:
            self._begin_epoch(epoch)
        if self.config.lr_decay:
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.lr * 0.5 * (1 + math.cos(math.pi * self.step / self.config.steps))
        index = self.order[batch * self.config.batch_size : (batch + 1) * self.config.batch_size]
        return tuple(tensor.index_select(0, index) for tensor in self.data)

    def _backward(self) -> Tensor:
        """The mean loss of the next batch, over all processes, with the gradients in place."""
        drawn = self.objective.draw(self._next_batch(), self.generator)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            loss = self.objective(self.forward, *(tensor[self.rank_slice] for tensor in drawn)).float().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        loss = loss.detach()
        if self.world > 1:
            torch.distributed.all_reduce(loss)
            loss /= self.world
        return loss

    def _begin_epoch(self, epoch: int) -> None:
        """Set the order of the data: a function of seed and epoch alone, so that a resumed run has the same."""
        shuffle = torch.Generator().manual_seed((self.config.seed + 1) * 1_000_003 + epoch)
        self.order = torch.randperm(len(self.data[0]), generator=shuffle).to(self.device)
        self.epoch = epoch


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
