"""Building blocks of the checks: random input, copies for the student's function, results, messages."""

import math
import os
import secrets
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hw3utils.course.assignment import SEED_VARIABLE
from hw3utils.schedules import NoiseSchedule

Score = Callable[[Tensor], Tensor]


def fresh_generator(generator: torch.Generator | None) -> torch.Generator:
    """The given generator, else one with the seed of the grading, else one with a secret seed."""
    seed = os.environ.get(SEED_VARIABLE)
    return generator or torch.Generator().manual_seed(int(seed) if seed else secrets.randbits(48))


def require(condition: bool, message: str) -> None:
    """Fail with a message for the student."""
    if not condition:
        raise AssertionError(message)


def as_tensor(value: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    """A student's result as a float64 tensor on the CPU, of the shape that the exercise asks for."""
    try:
        tensor = torch.as_tensor(value).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"{name} is {type(value).__name__}; return a tensor.") from None
    require(tuple(tensor.shape) == shape, f"{name} has shape {tuple(tensor.shape)}, the exercise asks for {shape}.")
    require(bool(tensor.isfinite().all()), f"{name} holds NaN or infinity.")
    return tensor


def as_loss(value: Any) -> Tensor:
    """A student's loss, of any shape, as a detached float64 tensor on the CPU."""
    try:
        loss = torch.as_tensor(value).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"the loss is {type(value).__name__}; return a tensor.") from None
    require(loss.numel() > 0 and bool(loss.isfinite().all()), "the loss holds NaN or infinity: it is not finite.")
    return loss


def on_copies(function: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """A student's function that is called with copies of its tensors and schedules.

    Args:
        function: the function.
        names: of its positional arguments, for the message.

    Returns:
        The function; its call raises AssertionError if it changes an argument. Lists of tensors, which an exercise may
        ask to change, and generators are passed as they are.
    """

    def call(*args: Any) -> Any:
        copies = [_copy(arg) for arg in args]
        result = function(*copies)
        for name, arg, copy in zip(names, args, copies, strict=True):
            require(_same(arg, copy), f"{name} itself was changed; make a new tensor.")
        return result

    return call


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, NoiseSchedule):
        return NoiseSchedule(value.beta.clone(), name=value.name, parameters=dict(value.parameters))
    return list(value) if isinstance(value, list) and not any(isinstance(part, Tensor) for part in value) else value


def _same(value: Any, copy: Any) -> bool:
    if isinstance(value, Tensor):
        return torch.equal(value, copy)
    if isinstance(value, NoiseSchedule):
        tables = ("beta", "alpha", "alpha_bar", "signal", "noise")
        return all(torch.equal(getattr(value, name), getattr(copy, name)) for name in tables)
    return value is copy or value == copy


def relative_error(got: Tensor, want: Tensor) -> float:
    """|got - want| / |want|, over all entries."""
    return float((got - want).norm() / want.norm())


def broadcast(table: Tensor, x: Tensor) -> Tensor:
    """One number per sample, shaped to multiply x of shape (B, ...)."""
    return table.view(-1, *[1] * (x.ndim - 1))


class Chain:
    """The states at which a sampler asks its model: each must follow from the one before by the sampler's step.

    A sampler that computes its result in another way does not ask the model at the states that it passes through.

    Args:
        tolerance: of the mean square of a step's noise, relative.
        message: for the student.
    """

    def __init__(
        self, tolerance: float, message: str = "the model is not asked at the states that the chain passes through."
    ) -> None:
        self.tolerance, self.message = tolerance, message
        self.expected: Tensor | None = None
        self.variances: tuple[float, ...] = ()
        self.holds = True

    def visit(self, x: Tensor, mean: Tensor, *variances: float) -> None:
        """Note a state.

        Args:
            x: the state.
            mean: of the next state.
            variances: of the next state; any of them is right, 0 for none.
        """
        self.end(x)
        self.expected, self.variances = mean.detach().double(), variances

    def end(self, x: Tensor) -> None:
        """Note the last state."""
        if self.expected is None:
            return
        x = x.detach().cpu().double().reshape(-1)
        if x.numel() != self.expected.numel():
            self.holds = False
            return
        noise, mean = x - self.expected.reshape(-1), self.expected.reshape(-1)
        got = float(noise.square().mean())
        scale = float(mean.square().mean()) + 1e-12
        # The last terms are for rounding in float32, also of tables that were turned into float32.
        limits = [(v * (1 - self.tolerance) - 1e-8 * scale, v * (1 + self.tolerance) + 1e-5 * scale)
                  for v in self.variances]  # fmt: skip
        independent = abs(float((noise * mean).mean())) <= 6 * math.sqrt(got * scale / x.numel()) + 1e-4 * scale
        self.holds &= any(low <= got <= high for low, high in limits) and independent

    def judge(self) -> None:
        """Fail if a state did not follow from the one before."""
        require(self.holds and self.expected is not None, self.message)


# The parameters that the homework fixes for each training.
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
        require(worst < 1e-9, f"{name} is {got:g}; look at the parameters that the homework fixes.")
    if item == "Q2.P2":
        levels = sorted(float(level) for level in torch.as_tensor(sigmas, dtype=torch.float64).reshape(-1))
        right = len(levels) == len(HOMEWORK_SIGMAS)
        off = max(abs(a / b - 1) for a, b in zip(levels, HOMEWORK_SIGMAS, strict=True)) if right else math.inf
        require(off < 1e-9, f"the noise levels are {levels}; the homework names three others.")
        worst = max(worst, off)
    return worst
