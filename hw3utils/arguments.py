"""Checks of arguments: each returns the plain value, or raises a ValueError that says what was wrong with it."""

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def shown(value: Any, *, width: int = 80) -> str:
    """Format a value for an error message: in one line of at most `width` characters."""
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


def check_number(
    value: Any,
    name: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """Return `value` as a finite float within limits, or say in one sentence what was wrong with it.

    Args:
        value: anything that is a real number (int, float, numpy number, tensor with one entry); not a bool or a string.
        name: how the error message calls it.
        above, at_least: lower limit, excluded or included.
        below, at_most: upper limit, excluded or included.

    Raises:
        ValueError: not a finite number, or out of range.
    """
    limits = {"above": above, "of at least": at_least, "below": below, "of at most": at_most}
    span = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if limit is not None)
    expected = f"a finite number {span}".rstrip()
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"{name} is {shown(value)}, expected {expected}.") from None
    inside = (
        math.isfinite(number)
        and (above is None or number > above)
        and (at_least is None or number >= at_least)
        and (below is None or number < below)
        and (at_most is None or number <= at_most)
    )
    if not inside:
        raise ValueError(f"{name} is {number}, expected {expected}.")
    return number


def check_data(x: Any, name: str, *, like: Tensor | None = None) -> None:
    """Raise ValueError unless x is a floating-point tensor of finite numbers, of the shape, dtype and device of `like`.

    Values are checked on the CPU only: on an accelerator the check would synchronise the device.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} is {got}, expected a floating-point tensor.")
    if like is not None:
        for what in ("shape", "dtype", "device"):
            found, wanted = getattr(x, what), getattr(like, what)
            if found != wanted:
                found, wanted = (tuple(v) if what == "shape" else v for v in (found, wanted))
                raise ValueError(f"{name} has {what} {found}, expected {wanted} as the data.")
    try:
        finite = x.device.type != "cpu" or bool(torch.isfinite(x).all())
    except RuntimeError:  # under torch.func.vmap values cannot be read
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


def check_decreasing(values: Any, name: str) -> list[float]:
    """Return noise levels as a list of floats, or raise ValueError unless they are above 0 and strictly decreasing."""
    levels = [check_number(value, f"an entry of {name}", above=0) for value in torch.as_tensor(values).reshape(-1)]
    if not levels or any(b >= a for a, b in itertools.pairwise(levels)):
        raise ValueError(f"{name} is {some_of(levels)}, expected strictly decreasing numbers above 0.")
    return levels


def broadcast_to_batch(level: float | Tensor, x: Tensor, name: str) -> Tensor:
    """Give a number, or one number a sample (B,), as a tensor that broadcasts against x (B, ...).

    It has the dtype and device of x, and shape () or (B, 1, ..., 1).

    Raises:
        ValueError: another shape.
    """
    level = torch.as_tensor(level, dtype=torch.float64 if not isinstance(level, Tensor) else None)
    if level.ndim and (x.ndim == 0 or level.shape != x.shape[:1]):
        expected = f"one number or one a sample, for data of shape {tuple(x.shape)}"
        raise ValueError(f"{name} has shape {tuple(level.shape)}, expected {expected}.")
    level = level.to(x.dtype).to(x.device)
    return level.reshape(-1, *[1] * (x.ndim - 1)) if level.ndim else level


def some_of(values: Sequence[float]) -> str:
    """Write numbers into an error message: the first four, and how many there are."""
    head = ", ".join(f"{value:.6g}" for value in values[:4])
    return f"[{head}, ...] ({len(values)} numbers)" if len(values) > 4 else f"[{head}]"
