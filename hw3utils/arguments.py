"""Checks of arguments: each returns the plain value, or says in one sentence what was wrong with it."""

import math
import operator
from typing import Any


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
