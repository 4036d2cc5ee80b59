"""Where a network computes, and how: CPU, CUDA or MPS, in fp32 or bf16, compiled or not."""

import contextlib
import copy
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

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
            f"device {str(name)!r} is not here; take auto, cpu, cuda or mps, as this machine has."
        ) from None
    return device


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's parameters.

    Raises:
        ValueError: when it has no parameter.
    """
    for parameter in network.parameters():
        return parameter.device
    raise ValueError(f"the network is a {type(network).__name__} without parameters, there is nothing to train.")


@contextlib.contextmanager
def together(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun has started, if it has, for the length of a `with`; gives this one's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # A process may wait long for a slower one; torchrun stops all when one is lost.
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=timedelta(days=1))
    try:
        yield device
    finally:
        torch.distributed.destroy_process_group()


def process_count() -> int:
    """How many processes of torch.distributed work together, 1 without it."""
    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if joined else 1


def process_rank() -> int:
    """The number of this process among those that work together, from 0; the first writes the files."""
    return torch.distributed.get_rank() if process_count() > 1 else 0


def in_precision(network: nn.Module, precision: str) -> nn.Module:
    """The same network as an eps_model whose arithmetic is fp32, or bf16 by autocast (opt-in: it changes the pictures).

    Args:
        network: left as it is; its weights are shared, not copied.
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
    """A copy of a network for fast inference: compiled, on the CPU channels last (fp32) and its weights frozen in.

    Call it under `torch.no_grad()`. The first call at each shape compiles, for up to a minute. Answers differ from the
    network's own by rounding (another order of the same fp32 sums), so what is compared bit by bit is not made with it.

    Args:
        network: left as it is.
        precision: as in `in_precision`.

    Returns:
        A module that is called in the same way.

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
        # Named, it is part of the key of torch's cache, which otherwise takes what was compiled for another one.
        options["cpp.simdlen"] = width
    return torch.compile(fast, options=options)
