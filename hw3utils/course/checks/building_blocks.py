"""What every check is made of: fresh random input, a message for the student, a result turned into a tensor."""

import math
import os
import secrets
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]

# Set by `hw3 grade`, which writes it into its report, so that a grade can be repeated.
SEED_VARIABLE = "HW3_CHECK_SEED"


def fresh_generator(generator: torch.Generator | None) -> torch.Generator:
    """The generator that is given, or one with the seed of the grading, or one with a seed that nobody knows."""
    given = os.environ.get(SEED_VARIABLE)
    return generator or torch.Generator().manual_seed(int(given) if given else secrets.randbits(48))


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


def relative_error(got: Tensor, want: Tensor) -> float:
    """|got - want| / |want|, over all entries."""
    return float((got - want).norm() / want.norm())


# What the homework fixes for each training.
HOMEWORK = {
    "Q1.P3": {"lr": 2e-4, "batch_size": 64},
    "Q2.P2": {"lr": 1e-3, "batch_size": 128},
}
HOMEWORK_SIGMAS = (1.0, 3.0, 7.0)


def check_training_config(config: Any, item: str, *, sigmas: Any = None) -> float:
    """Judge the parameters of a training run, Q1.P3 or Q2.P2, against those that the homework fixes.

    Args:
        config: has the attributes `lr` and `batch_size`.
        item: the graded item.
        sigmas: Q2.P2, the noise levels.

    Returns:
        The largest relative deviation of a parameter from the homework's.
    """
    worst = 0.0
    for name, value in HOMEWORK[item].items():
        got = float(getattr(config, name))
        worst = max(worst, abs(got / value - 1))
        say(worst < 1e-9, f"{name} is {got:g}; look at the parameters that the homework fixes.")
    if item == "Q2.P2":
        levels = sorted(float(level) for level in torch.as_tensor(sigmas, dtype=torch.float64).reshape(-1))
        right = len(levels) == len(HOMEWORK_SIGMAS)
        off = max(abs(a / b - 1) for a, b in zip(levels, HOMEWORK_SIGMAS, strict=True)) if right else math.inf
        say(off < 1e-9, f"the noise levels are {levels}; the homework names three others.")
        worst = max(worst, off)
    return worst
