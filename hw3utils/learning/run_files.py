"""The files of a training run: its checkpoint, with the loss curve and the EMA, and the lock on its folder."""

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from hw3utils.arguments import check_count, check_number
from hw3utils.files import file_sha256, read_json, read_tensors, write_json, write_tensors
from hw3utils.learning.ema import EMA
from hw3utils.learning.weights import check_state, load_state

POINTER, LOCK = "checkpoint.json", ".lock"
_TENSORS = re.compile(r"checkpoint-\d{8,}\.safetensors|\.checkpoint.*\.part")


class RunState(Protocol):
    """The state of a run that a checkpoint keeps: everything that the next step depends on."""

    network: nn.Module
    ema: EMA
    optimizer: torch.optim.Adam
    generator: torch.Generator
    device: torch.device
    config: Any
    step: int
    batches: int
    data: tuple[Tensor, ...]


@dataclass
class History:
    """The history of a run: every loss, the held-out losses (step, loss), the seconds spent."""

    losses: list[float] = dataclasses.field(default_factory=list)
    heldout: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0


def check_new_run(out: str | Path, resume: bool, *, results: Sequence[str] = ()) -> None:
    """Raise ValueError when a run that begins in a folder would overwrite another checkpoint or other results there.

    Args:
        out: the folder.
        resume: go on from the checkpoint there; without one, tensors of a run killed at its first checkpoint may stay.
        results: names of the files that the run writes beside its checkpoint.
    """
    out = Path(out)
    if (out / POINTER).exists():
        if not resume:
            raise ValueError(f"{out} already holds a checkpoint; add --resume or choose another folder (--out).")
        return
    left = [path.name for path in out.glob("checkpoint-*") if _TENSORS.fullmatch(path.name)]
    for name in [*results, *([] if resume else left)]:
        if (out / name).exists():
            raise ValueError(
                f"{out} already holds {name}, and no checkpoint that it belongs to; choose another folder (--out)."
            )


@contextlib.contextmanager
def lock_run(out: str | Path, resume: bool) -> Iterator[None]:
    """Lock the folder of a run for the length of a `with`; the lock of a process that died is free.

    Raises:
        ValueError: when another training holds it, or has left a checkpoint since and resume is off.
    """
    lock = FileLock(Path(out) / LOCK)
    try:
        with contextlib.suppress(NotImplementedError):  # some network file systems have no locks
            lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another training is running in {out}; wait for its end or choose another folder.") from None
    try:
        check_new_run(out, resume)
        yield
    finally:
        lock.release()


def save_checkpoint(out: Path, run: RunState, history: History) -> None:
    """Write the tensors under a new name, then the pointer to them (the commit), then delete the file before."""
    tensors = {f"network.{name}": tensor for name, tensor in run.network.state_dict().items()}
    averages, parameters = run.ema.state_dict(), run.network.named_parameters(remove_duplicate=False)
    tensors |= {f"ema.{name}": averages[name] for name, _ in parameters}
    for index, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors["generator"] = run.generator.get_state()
    tensors["losses"] = torch.tensor(history.losses, dtype=torch.float64)
    tensors["heldout"] = torch.tensor(history.heldout, dtype=torch.float64).reshape(-1, 2)
    name = f"checkpoint-{run.step:08d}.safetensors"
    write_tensors(out / name, tensors)
    pointer = {
        "file": name,
        "sha256": file_sha256(out / name),
        "step": run.step,
        "epoch": run.step // run.batches,
        "batch_in_epoch": run.step % run.batches,
        "seconds": history.seconds,
        "samples": len(run.data[0]),
        "data_sha256": _data_sha256(run.data),
        "config": dataclasses.asdict(run.config),
        "torch": torch.__version__,
    }
    try:
        write_json(out / POINTER, pointer)
    except OSError:
        (out / name).unlink(missing_ok=True)
        raise
    # The checkpoint before this one, and what a killed run may have left half written.
    for old in out.iterdir():
        if old.name != name and _TENSORS.fullmatch(old.name):
            old.unlink(missing_ok=True)


def _data_sha256(data: tuple[Tensor, ...]) -> str:
    """A hash of the data, to recognise the data that a checkpoint was made with."""
    sha256 = hashlib.sha256()
    for tensor in data:
        sha256.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def open_checkpoint(out: Path) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """Read the checkpoint in a folder: its pointer, its tensors and their path; the hash is checked."""
    pointer = read_json(out / POINTER)
    lacking = {"file", "sha256", "step", "seconds", "samples", "config"} - pointer.keys()
    if lacking:
        raise ValueError(f"{out / POINTER} lacks {', '.join(sorted(lacking))}; it is not a checkpoint of this program.")
    if not isinstance(pointer["config"], dict):
        raise ValueError(f"{out / POINTER} has a config that is not an object; it is not a checkpoint of this program.")
    path = out / Path(str(pointer["file"])).name
    tensors = read_tensors(path)
    if file_sha256(path) != pointer["sha256"]:
        raise ValueError(f"{path} does not have the SHA-256 kept in {POINTER}; the checkpoint is damaged.")
    return pointer, tensors, path


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, under their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _history_of(pointer: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> History:
    """The history in a checkpoint."""
    losses, heldout = (tensors.get(name, torch.zeros(0)) for name in ("losses", "heldout"))
    step = check_count(pointer["step"], f"the step in {path.parent / POINTER}", low=0)
    if losses.shape != (step,) or heldout.ndim != 2 or heldout.shape[1] != 2:
        raise ValueError(
            f"{path} has losses of shape {tuple(losses.shape)} and heldout of {tuple(heldout.shape)}, "
            f"expected ({step},) and (n, 2); it is not a checkpoint of this program."
        )
    seconds = check_number(pointer["seconds"], f"seconds in {path.parent / POINTER}")
    return History(losses.tolist(), [(int(at), float(loss)) for at, loss in heldout.tolist()], seconds)


def load_checkpoint(out: Path, run: RunState) -> History:
    """Set a run to the state of the checkpoint in a folder.

    Raises:
        ValueError: when it belongs to other settings, data or another network, or is damaged; nothing is changed then.
    """
    pointer, tensors, path = open_checkpoint(out)
    history = _history_of(pointer, tensors, path)
    step = len(history.losses)
    # Without decay of the rate a step does not depend on their number; how often something is written changes nothing.
    free = {"checkpoint_every", "heldout_every"} | (set() if run.config.lr_decay else {"steps"})
    for name, now in dataclasses.asdict(run.config).items():
        then = pointer["config"].get(name)
        if name not in free and then != now:
            raise ValueError(f"the checkpoint in {out} was made with {name} = {then}, not {now}; resume it with that.")
    if step > run.config.steps:
        raise ValueError(
            f"the checkpoint in {out} is at step {step}, past steps = {run.config.steps}; take at least as many."
        )
    if pointer["samples"] != len(run.data[0]):
        raise ValueError(
            f"the checkpoint in {out} saw {pointer['samples']} samples, the data here are {len(run.data[0])}."
        )
    # A checkpoint of an early version lacks it.
    if "data_sha256" in pointer and pointer["data_sha256"] != _data_sha256(run.data):
        raise ValueError(f"the checkpoint in {out} was made with other data; resume it with those, or begin elsewhere.")
    parameters = dict(run.network.named_parameters())
    # Adam keeps no state of a parameter that has had no gradient yet.
    with_state = {name.split(".")[0] for name in _with_prefix(tensors, "adam.")}
    moments = {
        f"{index}.{key}": torch.zeros(()) if key == "step" else parameter
        for index, parameter in enumerate(parameters.values())
        for key in ("step", "exp_avg", "exp_avg_sq")
        if str(index) in with_state
    }
    check_state(run.network.state_dict(), _with_prefix(tensors, "network."), f"{path} (network)")
    averages = dict(run.network.named_parameters(remove_duplicate=False))
    check_state(averages, _with_prefix(tensors, "ema."), f"{path} (average)")
    check_state(moments, _with_prefix(tensors, "adam."), f"{path} (optimizer)")
    generator = tensors.get("generator", torch.zeros(0))
    if generator.shape != run.generator.get_state().shape or generator.dtype != torch.uint8:
        raise ValueError(f"the checkpoint in {out} was made on another kind of device than {run.device}; use that.")

    load_state(run.network, _with_prefix(tensors, "network."), str(path))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _with_prefix(tensors, "adam.").items():
        index, key = name.split(".")
        # A copy, for the tensors of a file may be views of the file itself.
        state.setdefault(int(index), {})[key] = tensor.clone()
    run.optimizer.load_state_dict({"state": state, "param_groups": run.optimizer.state_dict()["param_groups"]})
    run.ema.load(_with_prefix(tensors, "ema."), step)
    run.generator.set_state(generator.clone())
    run.step = step
    return history


def read_history(out: str | Path) -> tuple[list[float], list[tuple[int, float]], float]:
    """Losses of every step, held-out losses (step, loss), and seconds of the run whose checkpoint is in a folder."""
    history = _history_of(*open_checkpoint(Path(out)))
    return history.losses, history.heldout, history.seconds


def read_average(out: str | Path) -> dict[str, Tensor]:
    """The averaged weights (buffers as they are) in the checkpoint of a folder, under the network's own names."""
    _, tensors, _ = open_checkpoint(Path(out))
    return _with_prefix(tensors, "network.") | _with_prefix(tensors, "ema.")
