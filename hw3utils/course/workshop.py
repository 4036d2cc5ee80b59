"""Whose function makes a result in a notebook: the student's once its check has passed, else the package's."""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hw3utils.course import other_devices
from hw3utils.course.assignment import NOTE

# What has passed a check in this session. Kept as objects: a cell that is run again makes a new function.
_passed: list[Any] = []
# What has not passed a check, with the reason.
_refused: list[tuple[Any, str]] = []
# What came of the last call of each check: "passed", "not passed" or "not written".
outcomes: dict[str, str] = {}
# What stops on the accelerator of this machine.
_stops: list[Any] = []
# To be printed below the PASS line.
_notes: list[str] = []
_exercises = 0
_last: tuple[str, int] = ("", 0)


def exercise(check: Callable[..., Any]) -> Callable[..., Any]:
    """Make a check remember what has passed it (a decorator)."""

    @functools.wraps(check)
    def checked(*args: Any, **kwargs: Any) -> Any:
        global _exercises, _last
        outcomes[check.__name__] = "not passed"
        judged = [value for value in (*args, *kwargs.values()) if callable(value) or isinstance(value, dict)]
        watched = [other_devices.watched(value) for value in args]
        try:
            result = check(*watched, **kwargs)
        except NotImplementedError:
            outcomes[check.__name__] = "not written"
            _refused.extend((value, "is not written") for value in judged)
            raise
        except Exception as error:
            said = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            said = " ".join(said.split())
            _refused.extend((value, f"has not passed its check: {said}") for value in judged)
            raise
        outcomes[check.__name__] = "passed"
        _last = check.__name__, len(_passed)
        _passed.extend(judged)
        _exercises += 1
        _note_other_device(other_devices.calls(watched))
        return result

    return checked


def _note_other_device(calls: Sequence[other_devices.Call]) -> None:
    """Note where functions that have passed stop with their tensors on the accelerator, or on an imitated one."""
    device = other_devices.accelerator()
    for call in calls:
        if where := other_devices.where_it_stops(call, device or other_devices.IMITATED):
            name = getattr(call.function, "__name__", type(call.function).__name__)
            _notes.append(f"{NOTE}on a GPU {name} {where}")
            if device:
                _stops.append(call.function)


def notes() -> list[str]:
    """The notes of the checks since the last call."""
    found = list(_notes)
    _notes.clear()
    return found


def passed_exercises() -> int:
    """How many checks of exercises have passed in this session."""
    return _exercises


def withdraw(line: str) -> None:
    """Take the last pass back: the number that the check returned is outside the limits of its notebook.

    Args:
        line: with the number and its limits.
    """
    name, before = _last
    outcomes[name] = "not passed"
    _refused.extend((value, f"has not passed its check: {line}") for value in _passed[before:])
    del _passed[before:]


def choose(name: str, instead: Any) -> Any:
    """The student's function (or dict) of this name if its check has passed, else the package's; says which and why.

    The student's function may compute in float32 or in NumPy: what it returns is given the dtype of its first
    floating-point tensor argument. A dict of arrays becomes one of tensors, with the dtype of those in its place.

    Args:
        name: of the function that the student writes, for example "my_sample_ddim".
        instead: what takes its place: a function with the same arguments, or data.

    Returns:
        The function (or dict) to go on with.
    """
    # A kernel runs the notebook's cells in this module.
    own = getattr(sys.modules["__main__"], name, None)
    if own is not None and any(own is value for value in _passed):
        print(f"from here on: your {name}")
        stops = any(own is value for value in _stops)
        if stops:
            print(f"on a GPU: the package's function, because {name} stops there")
        like = next((v for v in instead.values() if isinstance(v, Tensor)), None) if isinstance(instead, dict) else None
        return _adapted(own, instead if stops else None) if callable(own) else _as_tensors(own, like)
    why = "is not written" if own is None else "has not passed its check"
    why = next((reason for value, reason in reversed(_refused) if value is own), why)
    print(f"from here on: the package's function, because {name} {why}")
    return instead


def _adapted(function: Callable[..., Any], on_gpu: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """The same function with its results as tensors of the dtype of its first floating-point argument.

    Args:
        function: a student's function.
        on_gpu: takes its place where a tensor is not on the CPU.
    """

    @functools.wraps(function)
    def adapted(*args: Any, **kwargs: Any) -> Any:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if on_gpu and any(value.device.type != "cpu" for value in tensors):
            return on_gpu(*args, **kwargs)
        like = next((value for value in tensors if value.is_floating_point()), None)
        return _as_tensors(function(*args, **kwargs), like)

    return adapted


def _as_tensors(value: Any, like: Tensor | None) -> Any:
    """Arrays and tensors, also in tuples, lists and dicts, as tensors like the given one."""
    if isinstance(value, tuple | list):
        return type(value)(_as_tensors(part, like) for part in value)
    if isinstance(value, dict):
        return {key: _as_tensors(part, like) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        value = torch.as_tensor(value)
    if isinstance(value, Tensor) and value.is_floating_point() and like is not None:
        return value.to(like.dtype).to(like.device)
    return value
