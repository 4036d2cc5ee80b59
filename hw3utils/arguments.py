"""Checks of arguments: each returns the plain value, or says in one sentence what was wrong with it."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def shown(value: Any, *, width: int = 80) -> str:
    """Write a value into an error message: in one line, and no longer than `width` characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= width else text[: width - 4] + " ..."


def check_count(value: Any, name: str, *, low: int = 1, high: int | None = None) -> int:
    """Return `value` as an int, or say in one sentence what was wrong with it.

    Args:
        value: anything that is an integer (int, numpy integer, integer tensor with one entry); not a bool.
        name: how the error message calls it.
        low, high: smallest and largest value allowed; `high=None` is no limit.

    Raises:
        ValueError: not an integer, or out of range.
    """
    span = f"an integer of at least {low}" if high is None else f"an integer in {low}..{high}"
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except (TypeError, RuntimeError):
        raise ValueError(f"{name} is {shown(value)}, expected {span}.") from None
    if number < low or (high is not None and number > high):
        raise ValueError(f"{name} is {number}, expected {span}.")
    return number


def check_number(value: Any, name: str, *, expected: str = "a finite number") -> float:
    """Return `value` as a finite float, or raise ValueError saying that `expected` was expected."""
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"{name} is {shown(value)}, expected {expected}.") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}, expected {expected}.")
    return number


def check_data(x: Any, name: str, *, like: Tensor | None = None) -> None:
    """Raise ValueError unless x is a floating-point tensor of finite numbers, of the shape, dtype and device of `like`.

    The numbers are looked at on the CPU only, where that costs next to nothing; an accelerator would be waited for.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} is {got}, expected a floating-point tensor.")
    if like is not None:
        for what in ("shape", "dtype", "device"):
            got, expected = getattr(x, what), getattr(like, what)
            if got != expected:
                got, expected = (tuple(v) if what == "shape" else v for v in (got, expected))
                raise ValueError(f"{name} has {what} {got}, expected {expected} as the data.")
    try:
        finite = x.device.type != "cpu" or bool(torch.isfinite(x).all())
    except RuntimeError:  # under torch.func.vmap no number can be asked for
        finite = True
    if not finite:
        raise ValueError(f"{name} holds NaN or infinity, expected finite numbers.")


def check_numbers(values: Any, name: str, *, expected: str = "a tensor or nested lists of numbers") -> Tensor:
    """Copy numbers to a finite float64 tensor on the CPU, or raise ValueError saying that `expected` was expected."""
    try:
        if isinstance(values, Sequence) and values and all(isinstance(value, Tensor) for value in values):
            values = torch.stack(list(values))
        values = values.detach().to("cpu") if isinstance(values, Tensor) else values
        tensor = torch.as_tensor(values, dtype=torch.float64).clone()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} is {type(values).__name__}, expected {expected}.") from None
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds NaN or infinity, expected finite numbers.")
    return tensor


def some_of(values: Sequence[float]) -> str:
    """Write numbers into an error message: the first few, and how many there are."""
    head = ", ".join(f"{value:.6g}" for value in values[:4])
    return f"[{head}, ...] ({len(values)} numbers)" if len(values) > 4 else f"[{head}]"
