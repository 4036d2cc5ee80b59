"""Devices (CPU, CUDA, MPS), processes of torch.distributed, arithmetic (fp32, bf16) and compilation of a network."""

import contextlib
import copy
import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from hw3utils.arguments import shown


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """The device of a name; "auto" is CUDA, else MPS, else the CPU.

    Raises:
        ValueError: on an unknown name, or a device that this machine lacks.
    """
    if str(name) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):
        raise ValueError(
            f"device {str(name)!r} is not here; take auto, cpu, cuda or mps, whichever this machine has."
        ) from None
    return device


def device_name(device: torch.device) -> str:
    """The model name of a GPU or of this machine's processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{device.type}: {names[0] if names else platform.processor() or platform.machine()}"


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's parameters.

    Raises:
        ValueError: when it has no parameter.
    """
    for parameter in network.parameters():
        return parameter.device
    raise ValueError(f"the network is a {type(network).__name__} without parameters, there is nothing to train.")


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join torchrun's process group, where there is one, for the length of a `with`; yields this process's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # A long timeout, for a process may wait for a slower one; torchrun ends all when one dies.
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=timedelta(days=1))
    try:
        yield device
    finally:
        torch.distributed.destroy_process_group()


def process_count() -> int:
    """The number of processes in the group of torch.distributed, 1 without it."""
    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if joined else 1


def process_rank() -> int:
    """The rank of this process in its group, 0 without one; rank 0 writes the files."""
    return torch.distributed.get_rank() if process_count() > 1 else 0


def in_precision(network: nn.Module, precision: str) -> nn.Module:
    """A network computing in fp32, or in bf16 by autocast (which changes the pictures).

    Args:
        network: not changed; its weights are shared.
        precision: "fp32" (the network itself) or "bf16".

    Raises:
        ValueError: on another precision.
    """
    if not isinstance(precision, str) or precision not in ("fp32", "bf16"):
        raise ValueError(f"precision is {shown(precision)}, expected 'fp32' or 'bf16'.")
    return network if precision == "fp32" else _Autocast(network)


class _Autocast(nn.Module):
    """Calls a network under bf16 autocast."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, *arguments: Tensor, **named: Tensor) -> Tensor:
        with torch.autocast(x_t.device.type, torch.bfloat16):
            return self.network(x_t, *arguments, **named).to(x_t.dtype)


def compiled(network: nn.Module, precision: str = "fp32") -> nn.Module:
    """A copy of a network compiled for inference; on the CPU with frozen weights, and in fp32 with channels last.

    Call it under `torch.no_grad()`. The first call at each shape compiles, for up to a minute. The outputs differ from
    the network's own by rounding (another order of the same sums), so tests of exact bits use the network itself.

    Args:
        network: not changed.
        precision: as in `in_precision`.

    Returns:
        A module with the same call signature.

    Raises:
        ValueError: on an unknown precision.
    """
    fast = in_precision(copy.deepcopy(network).eval().requires_grad_(False), precision)
    frozen = next(network.parameters()).device.type == "cpu"
    if precision == "fp32":
        fast = fast.to(memory_format=torch.channels_last)
    options: dict[str, Any] = {"freezing": frozen}
    width = {"DEFAULT": 0, "AVX2": 256, "AVX512": 512}.get(torch.backends.cpu.get_cpu_capability())
    if width is not None:
        # Part of the key of torch's cache, which otherwise returns code compiled for another instruction set.
        options["cpp.simdlen"] = width
    return cast(nn.Module, torch.compile(fast, options=options))


def reuse_freed_memory() -> bool:
    """Let glibc keep freed memory for the next allocation instead of returning it to the system; False elsewhere.

    Every training step allocates its activations anew, and glibc returns blocks of that size at once, so each step
    page-faults all of its memory again. Memory stays at its peak between steps; results do not change.

    Process time of a step of the recipe with it, divided by that without, one thread in turn, medians of 5 processes on
    a Xeon with AMX, other work beside it: 0.93 in bf16, 1.00 in fp32 (page faults a step: 2,800 to 140, 2,300 to 80);
    sampling does not change.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # of malloc.h
    # Some versions take at most 32 MB as the size from which a block is mapped by itself.
    mapped = mallopt(mmap_threshold, 1 << 30) or mallopt(mmap_threshold, 1 << 25)
    return bool(mapped and mallopt(trim_threshold, 2**31 - 1) and mallopt(top_pad, 1 << 28))
