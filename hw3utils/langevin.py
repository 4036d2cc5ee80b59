"""Markov chain Monte Carlo with a score: deterministic ascent, Langevin, Metropolis-adjusted, annealed.

The step size a has one meaning everywhere: x + (a / 2) score(x, sigma) + sqrt(a) z. A sampler is written as `*_steps`,
which yields every state, the start first; the function without `_steps` is made of it and returns the last one.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from hw3utils.arguments import check_count, check_data, check_number
from hw3utils.noise import Generators, gaussian_noise, without_gradients
from hw3utils.progress import run_to_end

Score = Callable[[Tensor, float], Tensor]


def _start(x: Tensor, step_size: float, n_steps: int, sigma: float) -> tuple[Tensor, float, int, float]:
    """Check what all samplers take."""
    check_data(x, "x")
    if x.ndim != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected points (B, D).")
    a = check_number(step_size, "step_size", expected="a number above 0")
    if a <= 0:
        raise ValueError(f"step_size is {a}, expected a number above 0.")
    level = check_number(sigma, "sigma", expected="a number of at least 0")
    if level < 0:
        raise ValueError(f"sigma is {level}, expected a number of at least 0.")
    return x.detach(), a, check_count(n_steps, "n_steps", low=0), level


def _evaluate(score: Score, x: Tensor, sigma: float) -> Tensor:
    """The score at x, checked: a chain that has left all numbers is told at once."""
    if x.device.type == "cpu" and not bool(x.isfinite().all()):
        raise ValueError("the chain has left all numbers; take a smaller step size.")
    s = without_gradients(score, x, sigma)
    if not isinstance(s, Tensor) or s.shape != x.shape:
        got = f"shape {tuple(s.shape)}" if isinstance(s, Tensor) else type(s).__name__
        raise ValueError(f"the score returned {got}, expected the shape {tuple(x.shape)} of its input.")
    if not bool(s.isfinite().all()):
        raise ValueError("the score returned NaN or infinity; the chain may have diverged, take a smaller step size.")
    return s


def _chain(x: Tensor, n_steps: int, step: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    """Yield x, then what n steps make of it."""
    yield x
    for _ in range(n_steps):
        x = step(x)
        yield x


def _last(states: Iterator[Tensor]) -> Tensor:
    """Go to the last state, keeping one at a time."""
    for x in states:  # noqa: B007
        pass
    return x


def ascent_steps(score: Score, x: Tensor, *, step_size: float, n_steps: int, sigma: float = 0.0) -> Iterator[Tensor]:
    """Climb the log density, x + (a / 2) score(x): deterministic, it ends at a mode and samples nothing.

    Args:
        score: callable (x (B, D), sigma) -> (B, D).
        x: starting points, shape (B, D).
        step_size: a, above 0.
        n_steps: steps, at least 0.
        sigma: noise level that the score is asked for, at least 0 (0: the data themselves).

    Yields:
        Every state, shape (B, D), the start first. `ascent` returns the last one.

    Raises:
        ValueError: arguments out of range, or a score of a wrong shape, NaN or infinity.
    """
    x, a, n, sigma = _start(x, step_size, n_steps, sigma)

    return _chain(x, n, lambda x: x + a / 2 * _evaluate(score, x, sigma))


ascent = run_to_end(ascent_steps, "ascent", _last)


def langevin_steps(
    score: Score, x: Tensor, *, step_size: float, n_steps: int, sigma: float = 0.0, generator: Generators = None
) -> Iterator[Tensor]:
    """Run unadjusted Langevin dynamics: x + (a / 2) score(x) + sqrt(a) z.

    As a goes to 0 and the number of steps to infinity the states are samples of the density. At a finite a there is a
    bias: on N(0, 1) the stationary variance is 1 / (1 - a / 4).

    Args:
        score: callable (x (B, D), sigma) -> (B, D).
        x: starting points, shape (B, D).
        step_size: a, above 0.
        n_steps: steps, at least 0.
        sigma: noise level that the score is asked for, at least 0 (0: the data themselves).
        generator: source of the noise.

    Yields:
        Every state, shape (B, D), the start first. `langevin` returns the last one.

    Raises:
        ValueError: arguments out of range, or a score of a wrong shape, NaN or infinity.

    Source: Roberts and Tweedie 1996; Welling and Teh 2011; Song and Ermon 2019, arXiv 1907.05600, equation 4.
    """
    x, a, n, sigma = _start(x, step_size, n_steps, sigma)

    def step(x: Tensor) -> Tensor:
        return x + a / 2 * _evaluate(score, x, sigma) + math.sqrt(a) * gaussian_noise(x, generator)

    return _chain(x, n, step)


langevin = run_to_end(langevin_steps, "langevin", _last)


def acceptance_log_ratio(
    log_prob: Callable[[Tensor], Tensor], score: Score, x: Tensor, y: Tensor, *, step_size: float, sigma: float = 0.0
) -> Tensor:
    """Log of the Metropolis-Hastings ratio for a Langevin proposal from x to y.

    log p(y) q(x | y) - log p(x) q(y | x), with q(y | x) = N(x + (a / 2) score(x), a I).

    Args:
        log_prob: callable (B, D) -> (B,), up to a constant.
        score: its gradient, callable (x, sigma) -> (B, D).
        x, y: states, shape (B, D).
        step_size: a.
        sigma: noise level that the score is asked for.

    Returns:
        The log ratio, shape (B,); antisymmetric in x and y.

    Raises:
        ValueError: states that do not fit, NaN or infinity, or a step size that is not positive.

    Source: Roberts and Tweedie 1996, section 1.4.
    """
    x, step_size, _, sigma = _start(x, step_size, 1, sigma)
    check_data(y, "y", like=x)

    def log_q(to: Tensor, here: Tensor) -> Tensor:
        mean = here + step_size / 2 * _evaluate(score, here, sigma)
        return -(to - mean).square().sum(1) / (2 * step_size)

    with torch.no_grad():
        return log_prob(y) + log_q(x, y) - log_prob(x) - log_q(y, x)


def mala_steps(
    log_prob: Callable[[Tensor], Tensor],
    score: Score,
    x: Tensor,
    *,
    step_size: float,
    n_steps: int,
    sigma: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Run Metropolis-adjusted Langevin dynamics: a Langevin step is a proposal, and the density decides.

    Without the bias of `langevin`, whatever the step size; it needs the density itself, up to its constant.

    Args:
        log_prob: callable (B, D) -> (B,), up to a constant.
        score: its gradient, callable (x (B, D), sigma) -> (B, D).
        x: starting points, shape (B, D).
        step_size: a, above 0.
        n_steps: steps, at least 0.
        sigma: noise level that the score is asked for, at least 0.
        generator: source of proposals and decisions.

    Yields:
        Every state, shape (B, D), the start first. `mala` returns the last one.

    Raises:
        ValueError: arguments out of range, or a score of a wrong shape, NaN or infinity.

    Source: Roberts and Tweedie 1996, section 1.4.
    """
    x, a, n, sigma = _start(x, step_size, n_steps, sigma)

    def step(x: Tensor) -> Tensor:
        y = x + a / 2 * _evaluate(score, x, sigma) + math.sqrt(a) * gaussian_noise(x, generator)
        ratio = acceptance_log_ratio(log_prob, score, x, y, step_size=a, sigma=sigma)
        device = x.device if generator is None else generator.device
        u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=device).to(x.device)
        return torch.where((u.log() < ratio)[:, None], y, x)

    return _chain(x, n, step)


mala = run_to_end(mala_steps, "mala", _last)


def annealed_langevin_steps(
    score: Score,
    x: Tensor,
    sigmas: Sequence[float] | Tensor,
    *,
    step_size: float,
    n_steps: int,
    generator: Generators = None,
) -> Iterator[Tensor]:
    """Run Langevin dynamics at falling noise levels, each level starting where the last one ended.

    The step at level i is step_size (sigma_i / sigma_last)^2, so that signal and noise of a step keep their ratio. It
    ends with samples of the data convolved with N(0, sigma_last^2): see `denoise` for the last step to the data.

    Args:
        score: callable (x (B, D), sigma) -> (B, D).
        x: starting points, shape (B, D).
        sigmas: noise levels, strictly decreasing.
        step_size: a at the last level, above 0.
        n_steps: steps at each level, at least 0.
        generator: source of the noise.

    Yields:
        Every state, shape (B, D), the start first. `annealed_langevin` returns the last one.

    Raises:
        ValueError: arguments out of range, or a score of a wrong shape, NaN or infinity.

    Source: Song and Ermon 2019, arXiv 1907.05600, algorithm 1.
    """
    levels = [check_number(s, "a sigma", expected="a number above 0") for s in torch.as_tensor(sigmas).reshape(-1)]
    if not levels or min(levels) <= 0 or any(b >= a for a, b in itertools.pairwise(levels)):
        raise ValueError(f"sigmas is {levels[:4]}, expected strictly decreasing numbers above 0.")
    x, a, n, _ = _start(x, step_size, n_steps, levels[-1])

    def states(x: Tensor) -> Iterator[Tensor]:
        yield x
        for sigma in levels:
            chain = langevin_steps(
                score, x, step_size=a * (sigma / levels[-1]) ** 2, n_steps=n, sigma=sigma, generator=generator
            )
            next(chain)
            for x in chain:
                yield x

    return states(x)


annealed_langevin = run_to_end(annealed_langevin_steps, "annealed_langevin", _last)


def denoise(score: Score, x: Tensor, sigma: float) -> Tensor:
    """Take the last step from the noise level sigma to the data: x + sigma^2 score(x, sigma), the mean of x_0 given x.

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
    x, _, _, sigma = _start(x, 1.0, 0, sigma)
    return x + sigma**2 * _evaluate(score, x, sigma)
