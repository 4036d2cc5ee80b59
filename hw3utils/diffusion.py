"""The forward process: perturbation, chain, posterior, and conversions between eps, x0 and score.

    x_t = signal_t * x_0 + noise_t * eps,      score = -eps / noise_t,      x0 = (x_t - noise_t * eps) / signal_t

Everywhere `t` is an int, or an integer tensor of shape () or (B,), and counts from 0 (the data) to T. Coefficients are
looked up in float64 and then cast to the dtype and device of the data.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hw3utils.arguments import broadcast_to_batch, check_count, check_data
from hw3utils.noise import Generators, gaussian_noise
from hw3utils.schedules import NoiseSchedule, check_schedule


def check_times(t: Any, x: Tensor, schedule: NoiseSchedule, *, first: int = 1) -> Tensor:
    """Return the time steps as int64 on the CPU, shape () or (B,), or raise ValueError unless all are in first..T."""
    check_schedule(schedule)
    if not isinstance(t, Tensor):
        return torch.tensor(check_count(t, "t", low=first, high=schedule.T))
    if t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
        raise ValueError(f"t has dtype {t.dtype}, expected integers.")
    if t.ndim and (x.ndim == 0 or tuple(t.shape) != (x.shape[0],)):
        raise ValueError(f"t has shape {tuple(t.shape)}, expected () or one step per sample for data {tuple(x.shape)}.")
    steps = t.detach().to("cpu", torch.int64)
    if steps.numel() and not first <= int(steps.min()) <= int(steps.max()) <= schedule.T:
        raise ValueError(f"t lies in {int(steps.min())}..{int(steps.max())}, expected {first}..{schedule.T}.")
    return steps


def look_up(table: Tensor, steps: Tensor, x: Tensor) -> Tensor:
    """Take table[steps] (float64, CPU) in the dtype and on the device of x, shaped to broadcast against x."""
    return broadcast_to_batch(table[steps], x, "t")


def x0_from_eps(eps: Tensor, x_t: Tensor, signal: float | Tensor, noise: float | Tensor) -> Tensor:
    """The predicted data, (x_t - noise eps) / signal; no checks."""
    return (x_t - noise * eps) / signal


def perturb_input(x0: Tensor, t: int | Tensor, eps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Draw x_t given x_0 in one step: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps.

    Args:
        x0: data, shape (B, ...), floating point.
        t: step, or one step per sample (B,), in 0..T (t = 0 gives the data back).
        eps: standard normal noise, shape, dtype and device of x0.
        schedule: noise schedule.

    Returns:
        x_t, shape of x0.

    Raises:
        ValueError: shapes or dtypes that do not fit, t out of range, NaN or infinity.

    Source: Ho, Jain and Abbeel 2020, arXiv 2006.11239, equation 4.

    >>> from hw3utils.schedules import linear_schedule
    >>> perturb_input(torch.ones(2, 3), 0, torch.zeros(2, 3), linear_schedule()).sum().item()
    6.0
    """
    check_data(x0, "x0")
    check_data(eps, "eps", like=x0)
    steps = check_times(t, x0, schedule, first=0)
    return look_up(schedule.signal, steps, x0) * x0 + look_up(schedule.noise, steps, x0) * eps


def forward_chain(x0: Tensor, schedule: NoiseSchedule, *, generator: Generators = None) -> Iterator[Tensor]:
    """Simulate the forward chain step by step: x_1, x_2, ..., x_T.

    Each step is x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) z with fresh noise z.

    Args:
        x0: data, shape (B, ...), floating point.
        schedule: noise schedule.
        generator: source of the noise, see `gaussian_noise`.

    Returns:
        An iterator over T tensors of the shape of x0.

    Raises:
        ValueError: x0 is not a floating-point tensor of finite numbers.

    Source: Ho, Jain and Abbeel 2020, arXiv 2006.11239, equation 2.
    """
    check_data(x0, "x0")
    check_times(1, x0, schedule)
    return _forward_chain(x0, schedule, generator)


def _forward_chain(x: Tensor, schedule: NoiseSchedule, generator: Generators) -> Iterator[Tensor]:
    for beta in schedule.beta[1:].tolist():
        x = math.sqrt(1 - beta) * x + math.sqrt(beta) * gaussian_noise(x, generator)
        yield x


def posterior(x0: Tensor, x_t: Tensor, t: int | Tensor, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """Give mean and variance of q(x_{t-1} | x_t, x_0), a Gaussian.

        mean = sqrt(alpha_bar_{t-1}) beta_t / (1 - alpha_bar_t) x_0
             + sqrt(alpha_t) (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) x_t
        variance = (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) beta_t

    Args:
        x0, x_t: data and its noisy version, same shape (B, ...).
        t: step, or one step per sample (B,), in 1..T.
        schedule: noise schedule.

    Returns:
        mean (shape of x_t) and variance, which broadcasts against it: shape () for a single t, (B, 1, ..., 1) for t of
        shape (B,). At t = 1 the mean is x0 and the variance 0.

    Raises:
        ValueError: shapes or dtypes that do not fit, t out of range, NaN or infinity.

    Source: Ho, Jain and Abbeel 2020, arXiv 2006.11239, equations 6 and 7.
    """
    check_data(x_t, "x_t")
    check_data(x0, "x0", like=x_t)
    steps = check_times(t, x_t, schedule)
    coef_x0, coef_x_t, variance = (look_up(table, steps, x_t) for table in posterior_tables(schedule))
    return coef_x0 * x0 + coef_x_t * x_t, variance


def posterior_tables(schedule: NoiseSchedule) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients of x_0 and x_t in the posterior mean, and its variance, for t = 0..T (entry 0 is not used)."""
    beta, alpha, signal, noise2 = schedule.beta, schedule.alpha, schedule.signal, 1 - schedule.alpha_bar
    ratio = torch.zeros_like(beta)
    ratio[1:] = noise2[:-1] / noise2[1:]
    coef_x0, variance = torch.ones_like(beta), ratio * beta
    # At t = 1 the coefficient of x_0 is beta_1 / (1 - alpha_bar_1) = 1 exactly; the quotient would be rounded.
    coef_x0[2:] = signal[1:-1] * beta[2:] / noise2[2:]
    return coef_x0, alpha.sqrt() * ratio, variance


def eps_to_x0(eps: Tensor, x_t: Tensor, t: int | Tensor, schedule: NoiseSchedule) -> Tensor:
    """Turn predicted noise into predicted data: x0 = (x_t - noise_t eps) / signal_t, for t in 0..T.

    Args:
        eps, x_t: predicted noise and noisy data, same shape (B, ...).
        t: step, or one step per sample (B,).
        schedule: noise schedule.

    Returns:
        x0, shape of x_t.

    Raises:
        ValueError: shapes or dtypes that do not fit, t out of range, NaN or infinity.

    Source: Song, Meng and Ermon 2021, arXiv 2010.02502, equation 9.
    """
    return _convert("eps", eps, x_t, t, schedule, 0, x0_from_eps)


def x0_to_eps(x0: Tensor, x_t: Tensor, t: int | Tensor, schedule: NoiseSchedule) -> Tensor:
    """Turn predicted data into predicted noise: eps = (x_t - signal_t x0) / noise_t, for t in 1..T.

    Arguments, result and errors as in `eps_to_x0`, of which it is the inverse.
    """
    return _convert("x0", x0, x_t, t, schedule, 1, lambda x0, x, signal, noise: (x - signal * x0) / noise)


def eps_to_score(eps: Tensor, t: int | Tensor, schedule: NoiseSchedule) -> Tensor:
    """Turn predicted noise into the score of the density of x_t: score = -eps / noise_t, for t in 1..T.

    Args:
        eps: predicted noise, shape (B, ...).
        t: step, or one step per sample (B,).
        schedule: noise schedule.

    Returns:
        The score, shape of eps.

    Raises:
        ValueError: eps is not a finite floating-point tensor, or t is out of range.

    Source: Song et al. 2021, arXiv 2011.13456, section 3 and appendix C (score matching is noise prediction).
    """
    return _convert("eps", eps, eps, t, schedule, 1, lambda e, _, signal, noise: -e / noise)


def score_to_eps(score: Tensor, t: int | Tensor, schedule: NoiseSchedule) -> Tensor:
    """Turn the score of the density of x_t into predicted noise: eps = -noise_t score, for t in 1..T.

    Arguments, result and errors as in `eps_to_score`, of which it is the inverse.
    """
    return _convert("score", score, score, t, schedule, 1, lambda s, _, signal, noise: -noise * s)


def _convert(
    name: str,
    value: Tensor,
    x_t: Tensor,
    t: int | Tensor,
    schedule: NoiseSchedule,
    first: int,
    formula: Callable[..., Tensor],
) -> Tensor:
    """Check the arguments, look up signal and noise, and apply the formula."""
    check_data(x_t, "x_t" if x_t is not value else name)
    check_data(value, name, like=x_t)
    steps = check_times(t, x_t, schedule, first=first)
    return formula(value, x_t, look_up(schedule.signal, steps, x_t), look_up(schedule.noise, steps, x_t))
