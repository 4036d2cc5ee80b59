"""Langevin dynamics with a score: unadjusted, Metropolis-adjusted, annealed; gradient ascent; denoising.

The step size a has one meaning everywhere: x + (a / 2) score(x, sigma) + sqrt(a) z. For each sampler there are two
functions: `NAME` returns the last state, `NAME_steps` yields every state, the first one included.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hw3utils import CallableModule
from hw3utils.arguments import check_count, check_data, check_decreasing, check_number
from hw3utils.noise import Generators, InferenceModel, check_finite, check_per_sample, gaussian_noise
from hw3utils.progress import last

Score = Callable[[Tensor, float], Tensor]
LogProb = Callable[[Tensor], Tensor]

sys.modules[__name__].__class__ = CallableModule  # `hw3utils.langevin(...)` is the function


def _check_start(x: Tensor, step_size: float, n_steps: int, sigma: float) -> tuple[Tensor, float, int, float]:
    """Check the arguments of all samplers here; return x without its graph, a, the number of steps, and sigma."""
    check_data(x, "x")
    if x.ndim != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected points (B, D).")
    a = check_number(step_size, "step_size", above=0)
    return x.detach(), a, check_count(n_steps, "n_steps", low=0), check_number(sigma, "sigma", at_least=0)


DIVERGED = "the chain diverged (NaN or infinity); take a smaller step size."


def _evaluate(score: InferenceModel, x: Tensor, sigma: float) -> Tensor:
    """The score at x. On the CPU a diverged chain is reported at once, on an accelerator at the end of the chain."""
    if x.device.type == "cpu":
        check_finite(x, DIVERGED)
    return score(x, sigma)


def _end(states: Iterator[Tensor]) -> Tensor:
    """The last state of a chain, checked."""
    x = last(states)
    check_finite(x, DIVERGED)
    return x


def _chain(x: Tensor, n_steps: int, step: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    """Yield x and the n states that follow it."""
    yield x
    for _ in range(n_steps):
        x = step(x)
        yield x


def ascent(score: Score, x: Tensor, *, step_size: float, n_steps: int, sigma: float = 0.0) -> Tensor:
    """Gradient ascent on the log density, x + (a / 2) score(x): deterministic, it ends at a mode and does not sample.

    Args:
        score: callable (x (B, D), sigma) -> (B, D).
        x: initial points, shape (B, D).
        step_size: a, above 0.
        n_steps: number of steps, at least 0.
        sigma: noise level at which the score is evaluated, at least 0 (0: the data themselves).

    Returns:
        The last state, shape (B, D).

    Raises:
        ValueError: arguments out of range, a chain that diverges, or a score of a wrong shape, NaN or infinity.
    """
    return _end(ascent_steps(score, x, step_size=step_size, n_steps=n_steps, sigma=sigma))


def ascent_steps(score: Score, x: Tensor, *, step_size: float, n_steps: int, sigma: float = 0.0) -> Iterator[Tensor]:
    """Yield the n_steps + 1 states of `ascent`, shape (B, D)."""
    x, a, n, sigma = _check_start(x, step_size, n_steps, sigma)
    model = InferenceModel(score, "score")
    return _chain(x, n, lambda x: x + a / 2 * _evaluate(model, x, sigma))


def langevin(
    score: Score, x: Tensor, *, step_size: float, n_steps: int, sigma: float = 0.0, generator: Generators = None
) -> Tensor:
    """Run unadjusted Langevin dynamics: x + (a / 2) score(x) + sqrt(a) z.

    As a goes to 0 and the number of steps to infinity the states are samples of the density. At a finite a there is a
    bias: on N(0, 1) the stationary variance is 1 / (1 - a / 4).

    Args:
        score: callable (x (B, D), sigma) -> (B, D).
        x: initial points, shape (B, D).
        step_size: a, above 0.
        n_steps: number of steps, at least 0.
        sigma: noise level at which the score is evaluated, at least 0 (0: the data themselves).
        generator: source of the noise.

    Returns:
        The last state, shape (B, D).

    Raises:
        ValueError: arguments out of range, a chain that diverges, or a score of a wrong shape, NaN or infinity.

    Source: Roberts and Tweedie 1996; Welling and Teh 2011; Song and Ermon 2019, arXiv 1907.05600, equation 4.
    """
    states = langevin_steps(score, x, step_size=step_size, n_steps=n_steps, sigma=sigma, generator=generator)
    return _end(states)


def langevin_steps(
    score: Score, x: Tensor, *, step_size: float, n_steps: int, sigma: float = 0.0, generator: Generators = None
) -> Iterator[Tensor]:
    """Yield the n_steps + 1 states of `langevin`, shape (B, D)."""
    x, a, n, sigma = _check_start(x, step_size, n_steps, sigma)
    return _langevin_chain(InferenceModel(score, "score"), x, a, n, sigma, generator)


def _langevin_chain(
    score: InferenceModel, x: Tensor, a: float, n_steps: int, sigma: float, generator: Generators
) -> Iterator[Tensor]:
    def step(x: Tensor) -> Tensor:
        return x + a / 2 * _evaluate(score, x, sigma) + math.sqrt(a) * gaussian_noise(x, generator)

    return _chain(x, n_steps, step)


def acceptance_log_ratio(
    log_prob: LogProb, score: Score, x: Tensor, y: Tensor, *, step_size: float, sigma: float = 0.0
) -> Tensor:
    """Log of the Metropolis-Hastings ratio for a Langevin proposal from x to y.

    log p(y) q(x | y) - log p(x) q(y | x), with q(y | x) = N(x + (a / 2) score(x), a I).

    Args:
        log_prob: callable (B, D) -> (B,), up to a constant.
        score: its gradient, callable (x, sigma) -> (B, D).
        x, y: states, shape (B, D).
        step_size: a, above 0.
        sigma: noise level at which the score is evaluated, at least 0.

    Returns:
        The log ratio, shape (B,); antisymmetric in x and y.

    Raises:
        ValueError: states that do not fit, NaN or infinity, a step size that is not positive, or a log_prob or score
            of a wrong shape.

    Source: Roberts and Tweedie 1996, section 1.4.
    """
    x, a, _, sigma = _check_start(x, step_size, 1, sigma)
    check_data(y, "y", like=x)
    model = InferenceModel(score, "score")
    at_x, at_y = (_Point(z, _log_prob(log_prob, z), z + a / 2 * _evaluate(model, z, sigma)) for z in (x, y))
    return _log_ratio(at_x, at_y, a)


class _Point(NamedTuple):
    """A state of MALA, its log density, and the mean of the proposal from there."""

    x: Tensor
    log_prob: Tensor
    mean: Tensor


def _log_ratio(here: _Point, there: _Point, a: float) -> Tensor:
    """log p(there) q(here | there) - log p(here) q(there | here)."""

    def log_q(to: _Point, start: _Point) -> Tensor:
        return -(to.x - start.mean).square().sum(1) / (2 * a)

    return there.log_prob + log_q(here, there) - here.log_prob - log_q(there, here)


@torch.no_grad()
def _log_prob(log_prob: LogProb, x: Tensor) -> Tensor:
    """The log density at x, checked: a shape other than (B,) would broadcast into a wrong ratio."""
    return check_per_sample(log_prob(x), x, "log_prob")


def mala(
    log_prob: LogProb,
    score: Score,
    x: Tensor,
    *,
    step_size: float,
    n_steps: int,
    sigma: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Run Metropolis-adjusted Langevin dynamics: a Langevin step is a proposal, accepted or rejected by the density.

    It has no bias, for any step size; it needs the density itself, up to its constant.

    Args:
        log_prob: callable (B, D) -> (B,), up to a constant.
        score: callable (x (B, D), sigma) -> (B, D).
        x: initial points, shape (B, D).
        step_size: a, above 0.
        n_steps: number of steps, at least 0.
        sigma: noise level at which the score is evaluated, at least 0 (0: the data themselves).
        generator: source of proposals and decisions.

    Returns:
        The last state, shape (B, D).

    Raises:
        ValueError: arguments out of range, a chain that diverges, a log_prob or score of a wrong shape or not finite.

    Source: Roberts and Tweedie 1996, section 1.4.
    """
    states = mala_steps(log_prob, score, x, step_size=step_size, n_steps=n_steps, sigma=sigma, generator=generator)
    return _end(states)


def mala_steps(
    log_prob: LogProb,
    score: Score,
    x: Tensor,
    *,
    step_size: float,
    n_steps: int,
    sigma: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Yield the n_steps + 1 states of `mala`, shape (B, D); log_prob and score are called once a state."""
    x, a, n, sigma = _check_start(x, step_size, n_steps, sigma)
    model = InferenceModel(score, "score")

    def point(x: Tensor) -> _Point:
        return _Point(x, _log_prob(log_prob, x), x + a / 2 * _evaluate(model, x, sigma))

    def states() -> Iterator[Tensor]:
        here = point(x)
        yield here.x
        for _ in range(n):
            there = point(here.mean + math.sqrt(a) * gaussian_noise(here.x, generator))
            device = x.device if generator is None else generator.device
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=device).to(x.device)
            accepted = u.log() < _log_ratio(here, there, a)
            here = _Point(*(torch.where(_like(accepted, new), new, old) for new, old in zip(there, here, strict=True)))
            yield here.x

    return states()


def _like(accepted: Tensor, values: Tensor) -> Tensor:
    """Decisions (B,) shaped to broadcast against values (B,) or (B, D)."""
    return accepted if values.ndim == 1 else accepted[:, None]


def annealed_langevin(
    score: Score,
    x: Tensor,
    sigmas: Sequence[float] | Tensor,
    *,
    step_size: float,
    n_steps: int,
    generator: Generators = None,
) -> Tensor:
    """Run Langevin dynamics at decreasing noise levels; each level starts where the one before ended.

    The step size at level i is step_size (sigma_i / sigma_last)^2, which keeps the ratio of drift and noise in a step.
    The result are samples of the data convolved with N(0, sigma_last^2): see `denoise` for the last step to the data.

    Args:
        score: callable (x (B, D), sigma) -> (B, D).
        x: initial points, shape (B, D).
        sigmas: noise levels, strictly decreasing, above 0.
        step_size: a at the last level, above 0.
        n_steps: number of steps at each level, at least 0.
        generator: source of the noise.

    Returns:
        The last state, shape (B, D).

    Raises:
        ValueError: arguments out of range, a chain that diverges, or a score of a wrong shape, NaN or infinity.

    Source: Song and Ermon 2019, arXiv 1907.05600, algorithm 1.
    """
    return _end(annealed_langevin_steps(score, x, sigmas, step_size=step_size, n_steps=n_steps, generator=generator))


def annealed_langevin_steps(
    score: Score,
    x: Tensor,
    sigmas: Sequence[float] | Tensor,
    *,
    step_size: float,
    n_steps: int,
    generator: Generators = None,
) -> Iterator[Tensor]:
    """Yield the len(sigmas) n_steps + 1 states of `annealed_langevin`, shape (B, D)."""
    levels = check_decreasing(sigmas, "sigmas")
    x, a, n, _ = _check_start(x, step_size, n_steps, levels[-1])
    model = InferenceModel(score, "score")

    def states(x: Tensor) -> Iterator[Tensor]:
        yield x
        for sigma in levels:
            chain = _langevin_chain(model, x, a * (sigma / levels[-1]) ** 2, n, sigma, generator)
            next(chain)
            for x in chain:
                yield x

    return states(x)


def denoise(score: Score, x: Tensor, sigma: float) -> Tensor:
    """Denoise points of noise level sigma in one step: x + sigma^2 score(x, sigma), the mean of x_0 given x.

    Args:
        score: callable (x (B, D), sigma) -> (B, D).
        x: points of the density convolved with N(0, sigma^2), shape (B, D).
        sigma: the noise level, at least 0.

    Returns:
        Denoised points, shape (B, D).

    Raises:
        ValueError: sigma out of range, or a score of a wrong shape, NaN or infinity.

    Source: Tweedie's formula; Efron 2011, equation 1.3.
    """
    x, _, _, sigma = _check_start(x, 1.0, 0, sigma)
    return x + sigma**2 * _evaluate(InferenceModel(score, "score"), x, sigma)
