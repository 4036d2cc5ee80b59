"""One more call of a student's function, with its tensors on a GPU: where it stops there, a note names the cause.

A check passes or fails by the calls on the CPU. The call here is made after them, on the accelerator of this machine.
Without one a GPU is imitated: its tensors are on the CPU and marked, and an operation that a GPU refuses is refused.
"""

import contextlib
import copy
import io
import re
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hw3utils.devices import resolve_device
from hw3utils.schedules import NoiseSchedule

CPU = torch.device("cpu")
# The name of the imitated GPU; no machine has so many.
IMITATED = torch.device("cuda", 99)
_DEVICE_OF = Tensor.device.__get__
# A GPU lets these have tensors on two devices.
_ACROSS = (
    *("to", "type_as", "cpu", "copy_", "fill_", "tensor", "as_tensor", "new_tensor", "__set__"),
    *("expand_as", "view_as", "reshape_as", "broadcast_tensors", "result_type"),
)
# What helps, by a part of the error.
_HINTS = {
    "generator": "draw with device=generator.device and move the numbers with .to(x.device)",
    "indices": "look up with t.cpu(), for the table is on the CPU",
    "same device": "make new tensors with device=x.device",
}


@dataclass
class Call:
    """A student's function, and the arguments of its first call in a check."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        self.args = self.args or args
        return self.function(*args)


def watched(value: Any) -> Any:
    """A student's function as a `Call`; other values as they are."""
    return Call(value) if _of_a_student(value) and not isinstance(value, nn.Module) else value


def calls(arguments: Sequence[Any]) -> list[Call]:
    """The calls behind a check with these arguments; a network is called with the tensors beside it."""
    tensors = tuple(value for value in arguments if isinstance(value, Tensor))
    networks = [value for value in arguments if isinstance(value, nn.Module) and _of_a_student(value)]
    return [value for value in arguments if isinstance(value, Call)] + [Call(network, tensors) for network in networks]


def _of_a_student(value: Any) -> bool:
    """Whether a function is neither the package's nor the judge's, which would ask another process."""
    return callable(value) and not str(getattr(value, "__module__", "")).startswith("hw3utils")


def accelerator() -> torch.device | None:
    """The accelerator on which the notebooks compute, if this machine has one."""
    device = resolve_device("auto")
    return None if device == CPU else device


def where_it_stops(call: Call, device: torch.device) -> str | None:
    """Where and why a function stops with its tensors on a device, in one sentence; None if it goes through.

    Errors that the same call has on the CPU do not count.
    """
    if not any(isinstance(arg, Tensor) for arg in call.args):
        return None
    error = _error(call, device)
    if error is None or (not isinstance(error, _Refused) if device == IMITATED else _error(call, CPU)):
        return None
    said = str(error).splitlines()[0].split(". ")[0].rstrip(".!")
    hint = next((f"; {hint}" for part, hint in _HINTS.items() if part in said), "")
    return f"stops{_line_of(error, call.function)}: {said}{hint}."


class _Enough(Exception):
    """The call is ended without a finding."""


class _Refused(RuntimeError):
    """A GPU would not do this."""


class _There(torch.Generator):
    """A generator on the imitated GPU."""

    device = IMITATED


class _Gpu(TorchFunctionMode):
    """Imitates a GPU: the memory of its tensors is noted, and operations that mix it with the CPU's are refused."""

    def __init__(self) -> None:
        super().__init__()
        # By address; held, so that no address is used twice.
        self.memory: dict[int, Any] = {}

    def has(self, value: Tensor) -> bool:
        """Whether a tensor is on the GPU."""
        return value.untyped_storage().data_ptr() in self.memory

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do an operation of torch as a GPU does."""
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        inputs = list(_tensors((*args, *kwargs.values())))
        if name in ("numpy", "__array__") and self.has(args[0]):
            raise _Enough
        if func == _DEVICE_OF:
            return IMITATED if self.has(args[0]) else CPU
        if name == "_parse_to":
            return func(*args, **kwargs)
        place = self._asked_for(name, args, kwargs)
        if name not in _ACROSS and not re.match("_[^_]", name):
            self._refuse_mixtures(name, args, inputs)
        args = [CPU if isinstance(arg, torch.device) else arg for arg in args]
        result = func(*args, **(kwargs | {"device": CPU} if "device" in kwargs else kwargs))
        if place is not None and isinstance(result, Tensor) and (place == IMITATED) != self.has(result):
            result = result.clone()
        known = {value.untyped_storage().data_ptr() for value in inputs}
        if place == IMITATED or (place is None and name != "tensor" and any(map(self.has, inputs))):
            new = [value.untyped_storage() for value in _tensors([result])]
            self.memory |= {part.data_ptr(): part for part in new if part.data_ptr() not in known}
        generator = kwargs.get("generator")
        drawn = generator is not None and isinstance(result, Tensor)
        if drawn and isinstance(generator, _There) != self.has(result):
            raise _Refused("the generator is on another device than the random numbers")
        return result

    def _asked_for(self, name: str, args: Any, kwargs: dict[str, Any]) -> torch.device | None:
        """The device of the result that the caller names."""
        named = kwargs.get("device")
        if name in ("to", "type_as") and len(args) > 1:
            named = named or args[1]
        if isinstance(named, Tensor):
            return IMITATED if self.has(named) else CPU
        return torch.device(named) if isinstance(named, str | torch.device) else CPU if name == "cpu" else None

    def _refuse_mixtures(self, name: str, args: Any, inputs: list[Tensor]) -> None:
        there = [value for value in inputs if self.has(value)]
        # A number, also as a tensor, may come from the CPU.
        here = [value for value in inputs if not self.has(value) and value.ndim]
        if name in ("__getitem__", "__setitem__"):
            places = [value for value in _tensors([args[1]]) if self.has(value) and value.ndim]
            if places and not self.has(args[0]):
                raise _Refused("indices on the GPU do not fit a tensor on the CPU")
        elif there and here:
            raise _Refused("a tensor on the CPU is combined with one on the GPU, and both must be on the same device")


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors in values, also in lists and tuples, that have memory."""
    for value in values:
        if isinstance(value, Tensor):
            if value.numel():
                yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _error(call: Call, device: torch.device) -> Exception | None:
    """The error of a function on a device. It leaves no print, no warning, and the random numbers as they were."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(action="ignore"),
            torch.random.fork_rng([device] if device == torch.device("cuda") else []),
            _Gpu() if device == IMITATED else contextlib.nullcontext(),
        ):
            function = call.function
            if isinstance(function, nn.Module):
                function = copy.deepcopy(function).to(device)
            function(*_moved(call.args, device))
    except _Enough:
        pass
    except Exception as error:  # whatever a student's function raises
        return error
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return None


def _moved(args: tuple[Any, ...], device: torch.device) -> list[Any]:
    """Copies of arguments on a device, placed as in the notebooks.

    Tables are beside the times that ask for them, else on the CPU. A generator is on the CPU, except in training.
    """
    beside = any(isinstance(arg, Tensor) and not arg.is_floating_point() for arg in args)
    trains = any(isinstance(arg, torch.optim.Optimizer) for arg in args)
    found: list[Any] = []
    for arg in args:
        if isinstance(arg, NoiseSchedule):
            found.append(_schedule(arg, device if beside else CPU))
        elif isinstance(arg, torch.Generator):
            place = device if trains else CPU
            found.append((_There() if place == IMITATED else torch.Generator(place)).manual_seed(0))
        elif isinstance(arg, nn.Module):
            found.append(copy.deepcopy(arg).to(device))
        elif isinstance(arg, torch.optim.Optimizer):
            network = next(value for value in found if isinstance(value, nn.Module))
            found.append(torch.optim.Adam(network.parameters(), lr=arg.defaults["lr"]))
        elif isinstance(arg, list):
            found.append([_copy(part, device) if isinstance(part, Tensor) else part for part in arg])
        else:
            found.append(_copy(arg, device) if isinstance(arg, Tensor) else _model(device) if callable(arg) else arg)
    return found


def _copy(value: Tensor, device: torch.device) -> Tensor:
    # MPS has no float64.
    narrow = device.type == "mps" and value.dtype == torch.float64
    return value.detach().to(device, torch.float32 if narrow else value.dtype, copy=True)


def _schedule(schedule: NoiseSchedule, device: torch.device) -> NoiseSchedule:
    moved = copy.copy(schedule)
    for name in ("beta", "alpha", "alpha_bar", "signal", "noise"):
        object.__setattr__(moved, name, _copy(getattr(schedule, name), device))
    return moved


def _model(device: torch.device) -> Callable[..., Any]:
    """In place of a model, a score or a velocity: x / 2; times and levels, one a sample, must be on the device of x."""
    left = 20 if device == IMITATED else 10_000

    def half(x: Any, *rest: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise _Enough
        for value in rest:
            if isinstance(value, Tensor) and value.ndim and value.numel() == len(x):
                x = x + 0 * value.reshape(-1, *[1] * (x.ndim - 1))
        return x / 2

    return half


def _line_of(error: Exception, function: Callable[..., Any]) -> str:
    """The line of the function's file or cell at which it stopped."""
    code = getattr(function.forward if isinstance(function, nn.Module) else function, "__code__", None)
    file = getattr(code, "co_filename", None)
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" at `{lines[-1]}`" if lines and lines[-1] else ""
