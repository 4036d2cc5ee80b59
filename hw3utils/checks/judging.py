"""What every check is made of: fresh random input, a message for the student, a result turned into a tensor."""

import secrets
from typing import Any

import torch
from torch import Tensor


def fresh_generator(generator: torch.Generator | None) -> torch.Generator:
    """The generator that is given, or one with a seed that nobody knows."""
    return generator or torch.Generator().manual_seed(secrets.randbits(48))


def say(holds: bool, message: str) -> None:
    """Fail with a message for the student."""
    if not holds:
        raise AssertionError(message)


def as_tensor(value: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    """A student's result as a float64 tensor on the CPU, of the shape that the exercise asks for."""
    try:
        tensor = torch.as_tensor(value).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"{name} is {type(value).__name__}; return a tensor.") from None
    say(tuple(tensor.shape) == shape, f"{name} has shape {tuple(tensor.shape)}, the exercise asks for {shape}.")
    say(bool(tensor.isfinite().all()), f"{name} holds NaN or infinity.")
    return tensor
