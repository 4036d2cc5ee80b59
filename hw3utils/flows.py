"""The diffusion in continuous time: its SDE, the probability flow, the family between them, and the likelihood.

Divide by the signal: y = x_t / signal_t is the data plus noise of size sigma_t = noise_t / signal_t, and

    dy = eps(x_t, t) d sigma                                             the probability flow
    dy = (1 + lam^2) eps(x_t, t) d sigma + lam sqrt(2 sigma |d sigma|) z       the family, for decreasing sigma

have the densities of the diffusion at every time. The solvers use the time steps of a schedule, so they take every
`eps_model(x_t, t)`, exact or trained.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hw3utils.arguments import broadcast_to_batch, check_count, check_data, check_decreasing, check_number
from hw3utils.langevin import Score, denoise, langevin
from hw3utils.losses import Projection, rademacher_projection, vector_jacobian
from hw3utils.noise import (
    EpsModel,
    Generators,
    InferenceModel,
    check_answer,
    check_finite,
    check_per_sample,
    differentiable,
    evaluating,
    gaussian_noise,
    predict_eps,
    working_dtype,
)
from hw3utils.progress import last
from hw3utils.samplers import State
from hw3utils.schedules import NoiseSchedule, check_schedule
from hw3utils.time_grid import Steps, steps_to_grid


def _check_start(x: Tensor, schedule: NoiseSchedule, name: str) -> None:
    """Check the first state and the schedule."""
    check_schedule(schedule)
    check_data(x, name)
    if x.ndim < 2:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected (B, ...).")


# ------------------------------------------------------------------------------------------------------------ the SDE


class SDE(NamedTuple):
    """dx = -beta x / 2 dt + sqrt(beta) dW at some times, and x_t = signal x_0 + noise eps there; float64."""

    beta: Tensor
    signal: Tensor
    noise: Tensor


def vp_sde(schedule: NoiseSchedule, t: float | Tensor) -> SDE:
    """Give the coefficients of the variance-preserving SDE that passes through a schedule.

    Between two steps log alpha_bar is linear. So beta(t) is constant in each, -log(1 - beta_k), the chain's own beta_k
    but for beta_k^2 / 2, and signal and noise are the schedule's at every whole t.

    Args:
        schedule: noise schedule.
        t: real times in 0..T, in steps of the chain; a number or a tensor of any shape.

    Returns:
        beta (per step), signal and noise, float64, shape of t, differentiable in t.

    Raises:
        ValueError: t is out of range, or no schedule.

    Source: Song et al. 2021, arXiv 2011.13456, equation 11.

    >>> from hw3utils.schedules import linear_schedule
    >>> [round(float(value), 4) for value in vp_sde(linear_schedule(), 500.0)]
    [0.0101, 0.2803, 0.9599]
    """
    check_schedule(schedule)
    t = torch.as_tensor(t, dtype=torch.float64)
    if not bool(((t >= 0) & (t <= schedule.T)).all()):
        raise ValueError(f"t lies in [{float(t.min())}, {float(t.max())}], expected times in 0..{schedule.T}.")
    log_bar = schedule.alpha_bar.log()
    k = t.detach().ceil().long().clamp(min=1)
    beta = log_bar[k - 1] - log_bar[k]
    at_t = log_bar[k - 1] - beta * (t - (k - 1))
    return SDE(beta, (at_t / 2).exp(), (-torch.expm1(at_t)).sqrt())


def reverse_drift(x: Tensor, score: Tensor, beta: float | Tensor, *, lam: float = 1.0) -> Tensor:
    """Give the drift of dx = drift dt + lam sqrt(beta) dW, time running back: -beta x / 2 - (1 + lam^2) / 2 beta score.

    lam = 1 is the reverse SDE, lam = 0 the probability flow; the densities are those of the diffusion for every lam.

    Args:
        x, score: points and the score of the density there, same shape.
        beta: a number, or one a sample (B,).
        lam: at least 0.

    Returns:
        The drift, shape of x.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, lam below 0.

    Source: Song et al. 2021, arXiv 2011.13456, equations 6 and 13; the family: Zhang and Chen 2023, arXiv 2204.13902.
    """
    check_data(x, "x")
    check_data(score, "score", like=x)
    lam = check_number(lam, "lam", at_least=0)
    return -broadcast_to_batch(beta, x, "beta") / 2 * (x + (1 + lam**2) * score)


def _family_step(y: Tensor, y0: Tensor, sigma: tuple[float, float], lam: float, draw: Callable[[], Tensor]) -> Tensor:
    """Solve the equation of the family from sigma[0] to sigma[1] with the predicted data y0 held constant.

    Then it is linear, and the solution is y0 + r^(1 + lam^2) (y - y0) + sigma_s sqrt(1 - r^(2 lam^2)) z with
    r = sigma_s / sigma_t.
    """
    t, s = sigma
    y = y0 + (s / t) ** (1 + lam**2) * (y - y0)
    return y + s * math.sqrt(1 - (s / t) ** (2 * lam**2)) * draw() if lam > 0 and s > 0 else y


def sample_sde(
    eps_model: EpsModel,
    x_T: Tensor,
    schedule: NoiseSchedule,
    *,
    lam: float = 1.0,
    steps: Steps = None,
    spacing: str = "uniform",
    generator: Generators = None,
) -> Tensor:
    """Sample by the family between the probability flow (lam = 0) and the reverse SDE (lam = 1), of order 1.

    A step solves the equation exactly, except that the predicted data are held constant. So lam = 0 is DDIM, lam = 1 is
    DDPM with the posterior variance, and in the limit of short steps lam is DDIM's eta.

    Args:
        eps_model: callable (x_t, t) -> eps.
        x_T: initial state, shape (B, ...), normally standard normal noise.
        schedule: noise schedule.
        lam: at least 0.
        steps: None for every step, a number S in 1..T, or increasing time steps in 1..T that end at T.
        spacing: how S steps are spread, see `time_grid`.
        generator: source of the noise: one generator, one per sample, or None for torch's default generator.

    Returns:
        The sample, shape and dtype of x_T.

    Raises:
        ValueError: arguments out of range, or a model that returns another shape, NaN or infinity.

    Source: Zhang and Chen 2023, arXiv 2204.13902 (the family); Song et al. 2021, arXiv 2011.13456, equation 6.
    """
    states = sde_steps(eps_model, x_T, schedule, lam=lam, steps=steps, spacing=spacing, generator=generator)
    return last(states).x


def sde_steps(
    eps_model: EpsModel,
    x_T: Tensor,
    schedule: NoiseSchedule,
    *,
    lam: float = 1.0,
    steps: Steps = None,
    spacing: str = "uniform",
    generator: Generators = None,
) -> Iterator[State]:
    """Yield the S + 1 states of `sample_sde`, from x_T to t = 0."""
    _check_start(x_T, schedule, "x_T")
    grid = steps_to_grid(steps, schedule.T, spacing, schedule)
    lam = check_number(lam, "lam", at_least=0)
    work = working_dtype(x_T)

    def step(y: Tensor, eps: Tensor, t: int, s: int) -> Tensor:
        sigma_t, sigma_s = ((schedule.noise[k] / schedule.signal[k]).item() for k in (t, s))
        draw = functools.partial(gaussian_noise, x_T, generator)
        return _family_step(y, y - sigma_t * eps, (sigma_t, sigma_s), lam, lambda: draw().to(work))

    return _integrate(InferenceModel(eps_model), x_T.to(work), schedule, grid, step, x_T.dtype)


def sample_heun(
    eps_model: EpsModel,
    x_T: Tensor,
    schedule: NoiseSchedule,
    *,
    steps: Steps = None,
    spacing: str = "uniform",
    generator: Generators = None,
) -> Tensor:
    """Solve the probability flow by Heun's method, of order 2: the mean of the slopes at both ends of a step.

    The last step, to t = 0, is that of DDIM, since models take t in 1..T. S steps take 2 S - 1 model calls.

    Args:
        eps_model, x_T, schedule, steps, spacing: as for `sample_sde`.
        generator: ignored, the solver draws nothing; taken so that all samplers are called alike.

    Returns:
        The sample, shape and dtype of x_T.

    Raises:
        ValueError: as `sample_sde`.

    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 1.
    """
    return last(heun_steps(eps_model, x_T, schedule, steps=steps, spacing=spacing, generator=generator)).x


def heun_steps(
    eps_model: EpsModel,
    x_T: Tensor,
    schedule: NoiseSchedule,
    *,
    steps: Steps = None,
    spacing: str = "uniform",
    generator: Generators = None,
) -> Iterator[State]:
    """Yield the S + 1 states of `sample_heun`, from x_T to t = 0."""
    _check_start(x_T, schedule, "x_T")
    grid = steps_to_grid(steps, schedule.T, spacing, schedule)
    model, dtype, sigma = InferenceModel(eps_model), x_T.dtype, schedule.noise / schedule.signal

    def step(y: Tensor, eps: Tensor, t: int, s: int) -> Tensor:
        width = (sigma[s] - sigma[t]).item()
        if s > 0:
            x_s = schedule.signal[s].item() * (y + width * eps)
            eps = (eps + model.at(x_s.to(dtype), s).to(y.dtype)) / 2
        return y + width * eps

    return _integrate(model, x_T.to(working_dtype(x_T)), schedule, grid, step, dtype)


@torch.no_grad()
def _integrate(
    model: InferenceModel,
    x_T: Tensor,
    schedule: NoiseSchedule,
    grid: list[int],
    step: Callable[[Tensor, Tensor, int, int], Tensor],
    dtype: torch.dtype,
) -> Iterator[State]:
    """Integrate along the time grid in y = x / signal; `step(y, eps, t, s)` gives the next y."""
    y = x_T / schedule.signal[grid[0]].item()
    for t, s in itertools.pairwise(grid):
        x = (schedule.signal[t].item() * y).to(dtype)
        eps = model.at(x, t).to(y.dtype)
        yield State(t, x, (y - (schedule.noise[t] / schedule.signal[t]).item() * eps).to(dtype))
        y = step(y, eps, t, s)
    check_finite(y, "the sample holds NaN or infinity, expected finite numbers: look at what the eps_model returns.")
    yield State(0, y.to(dtype), y.to(dtype))


def predictor_corrector(
    score: Score,
    x: Tensor,
    sigmas: Sequence[float] | Tensor,
    *,
    lam: float = 1.0,
    n_corrections: int = 1,
    step_size: float = 0.1,
    generator: Generators = None,
) -> Tensor:
    """Sample along decreasing noise levels: a step of the family to the next level, then Langevin steps at that level.

    Args:
        score: callable (x (B, D), sigma) -> (B, D).
        x: initial points, data plus noise of sigmas[0], shape (B, D).
        sigmas: noise levels, strictly decreasing, above 0; a last step goes on to 0.
        lam: of the predictor, at least 0; 1 is the reverse SDE, 0 the probability flow.
        n_corrections: Langevin steps at each level, at least 0.
        step_size: of the corrector at sigma = 1, above 0; at sigma it is step_size sigma^2.
        generator: source of the noise.

    Returns:
        The points at sigma = 0, shape (B, D).

    Raises:
        ValueError: arguments out of range, or a score of a wrong shape, NaN or infinity.

    Source: Song et al. 2021, arXiv 2011.13456, section 4.2.
    """
    states = predictor_corrector_steps(
        score, x, sigmas, lam=lam, n_corrections=n_corrections, step_size=step_size, generator=generator
    )
    return last(states)


def predictor_corrector_steps(
    score: Score,
    x: Tensor,
    sigmas: Sequence[float] | Tensor,
    *,
    lam: float = 1.0,
    n_corrections: int = 1,
    step_size: float = 0.1,
    generator: Generators = None,
) -> Iterator[Tensor]:
    """Yield the points of `predictor_corrector` at each level and at 0, shape (B, D), the initial ones first."""
    levels, lam = check_decreasing(sigmas, "sigmas"), check_number(lam, "lam", at_least=0)
    n_corrections = check_count(n_corrections, "n_corrections", low=0)
    langevin(score, x, step_size=step_size, n_steps=0)  # checks x and step_size before the first state is asked for

    def states(x: Tensor) -> Iterator[Tensor]:
        yield x
        for t, s in itertools.pairwise([*levels, 0.0]):
            draw = functools.partial(gaussian_noise, x, generator)
            x = _family_step(x, denoise(score, x, t), (t, s), lam, draw)
            if s > 0:
                a = step_size * s**2
                x = langevin(score, x, step_size=a, n_steps=n_corrections, sigma=s, generator=generator)
            yield x

    return states(x)


# --------------------------------------------------------------------------------------------------------- likelihood


class Likelihood(NamedTuple):
    """log p of each point in nats, its standard error by the projections (0 for the exact trace), and its noise x_T."""

    log_prob: Tensor
    stderr: Tensor
    x_T: Tensor


def divergence(field: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Give a field and its divergence, the trace of its derivative: exact, or along directions.

    Args:
        field: differentiable callable x (B, ...) -> (B, ...) that treats each sample by itself.
        x: points, shape (B, ...).
        directions: v of shape (n, B, ...) with E[v v^T] = I, for n estimates v^T (d field / dx) v of each divergence
            (Hutchinson), one backward pass each; None for the exact trace, one backward pass a dimension.

    Returns:
        The field, shape of x, and its divergence, shape (n, B), n = 1 for the exact trace; both without a graph. The
        divergence of a constant field is 0.

    Raises:
        ValueError: a field of another shape than x.

    Source: Grathwohl et al. 2019, arXiv 1810.01367; Hutchinson 1990.
    """
    exact = directions is None
    if directions is None:
        unit = torch.eye(math.prod(x.shape[1:]), dtype=x.dtype, device=x.device)
        directions = unit.reshape(-1, 1, *x.shape[1:]).expand(-1, *x.shape)
    with differentiable(x) as x:
        value = check_answer(field(x), x, "field")
        rows = [(vector_jacobian(value, x, v) * v).sum(tuple(range(1, x.ndim))) for v in directions]
    estimates = torch.stack(rows).detach()
    return value.detach(), estimates.sum(0, keepdim=True) if exact else estimates


def log_likelihood(
    score_or_eps: Callable[..., Tensor],
    x: Tensor,
    schedule: NoiseSchedule | Sequence[float] | Tensor,
    *,
    steps: Steps = None,
    spacing: str = "uniform",
    n_projections: int | None = None,
    prior: Callable[[Tensor], Tensor] | None = None,
    projection: Projection = rademacher_projection,
    generator: torch.Generator | None = None,
) -> Likelihood:
    """Give log p of points: the probability flow maps them to noise, and its divergence gives the change of volume.

        log p(x_0) = log p_T(x_T) + D log(signal_T) + integral over sigma of div_y eps

    Heun's method, two model calls a step. At sigma = 0 the slope is 0, as it is for data with a density.

    Args:
        score_or_eps: with a NoiseSchedule an eps_model (x_t, t) -> eps, with noise levels a score (x, sigma) -> score.
        x: data, shape (B, ...), floating point; float64 for more than three digits.
        schedule: noise schedule, or noise levels sigma above 0, strictly decreasing (then signal is 1).
        steps, spacing: of a NoiseSchedule, as for the samplers; None is every step.
        n_projections: None for the exact trace, one backward pass a dimension; or 2 and more of Hutchinson's
            directions, drawn once for all steps.
        prior: log density of x_T, (B, ...) -> (B,). None: N(0, I), or N(0, sigma_max^2 I) for levels, which neglects
            what x_T still holds of the mean and variance of the data.
        projection, generator: how the directions are drawn.

    Returns:
        log p (B,), its standard error (B,), and x_T.

    Raises:
        ValueError: arguments out of range, or a model that returns another shape, NaN or infinity.

    Source: Song et al. 2021, arXiv 2011.13456, appendix D.2; Grathwohl et al. 2019, arXiv 1810.01367.
    """
    levels = _levels(score_or_eps, x, schedule, steps, spacing)
    n = None if n_projections is None else check_count(n_projections, "n_projections", low=2)
    directions = None
    if n is not None:
        directions = torch.stack([check_answer(projection(x, generator), x, "projection") for _ in range(n)])
    with evaluating(score_or_eps):
        y, change = x.detach(), torch.zeros(1 if n is None else n, len(x), dtype=x.dtype, device=x.device)
        slope, div, sigma_prev = torch.zeros_like(y), torch.zeros_like(change), 0.0
        for i, (sigma, signal, eps) in enumerate(levels):
            width = sigma - sigma_prev
            upper = y + width * slope
            field = functools.partial(_scaled, eps, signal)
            slope_upper, div_upper = divergence(field, upper, directions)
            y = y + width * (slope + slope_upper) / 2
            change = change + width * (div + div_upper) / 2
            sigma_prev = sigma
            if i + 1 < len(levels):
                slope, div = divergence(field, y, directions)
    x_T, dimensions = signal * y, math.prod(x.shape[1:])
    check_finite(x_T, "the flow ends in NaN or infinity, expected finite numbers: look at what the model returns.")
    if prior is None:
        scale = 1.0 if isinstance(schedule, NoiseSchedule) else sigma
        log_prior = torch.distributions.Normal(0.0, scale).log_prob(x_T).sum(tuple(range(1, x.ndim)))
    else:
        log_prior = check_per_sample(prior(x_T), x, "prior")
    values = log_prior + dimensions * math.log(signal) + change
    stderr = torch.zeros_like(log_prior) if n is None else values.std(0) / math.sqrt(n)
    return Likelihood(values.mean(0), stderr, x_T)


def _scaled(eps: Callable[[Tensor], Tensor], signal: float, y: Tensor) -> Tensor:
    """The noise predictor as a function of y = x / signal."""
    return eps(signal * y)


def _levels(
    model: Callable[..., Tensor],
    x: Tensor,
    schedule: NoiseSchedule | Sequence[float] | Tensor,
    steps: Steps,
    spacing: str,
) -> list[tuple[float, float, Callable[[Tensor], Tensor]]]:
    """The levels from the data upwards: sigma, signal and the noise predictor of each."""
    if isinstance(schedule, NoiseSchedule):
        _check_start(x, schedule, "x")
        grid = steps_to_grid(steps, schedule.T, spacing, schedule)[-2::-1]
        sigma, signal = (table.tolist() for table in (schedule.noise / schedule.signal, schedule.signal))
        return [(sigma[t], signal[t], functools.partial(_eps_at, model, t)) for t in grid]
    check_data(x, "x")
    if x.ndim < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, ...).")
    levels = check_decreasing(schedule, "the noise levels")[::-1]
    return [(s, 1.0, functools.partial(_eps_of_score, model, s)) for s in levels]


def _eps_at(eps_model: Callable[..., Tensor], t: int, x_t: Tensor) -> Tensor:
    return predict_eps(eps_model, x_t, t)


def _eps_of_score(score: Callable[..., Tensor], sigma: float, x: Tensor) -> Tensor:
    return -sigma * check_answer(score(x, sigma), x, "score")


def bits_per_dim(log_prob: Tensor, dimensions: int, *, bin_width: float = 1.0) -> Tensor:
    """Turn log p in nats into bits per dimension: -log2 of the mass that a bin holds, over the dimensions.

    Args:
        log_prob: log density of each point, in nats.
        dimensions: D, at least 1.
        bin_width: 1 for continuous data; 2 / 255 for pictures of 256 levels in [-1, 1], to which noise even over a bin
            was added (dequantisation): then it is an upper bound on the bits of the pictures themselves.

    Returns:
        Bits per dimension, shape of log_prob.

    Raises:
        ValueError: dimensions is not a positive integer, or bin_width not above 0.

    Source: Theis, van den Oord and Bethge 2016, arXiv 1511.01844, section 3.1.

    >>> bits_per_dim(torch.tensor([-2 * math.log(2)]), 2).tolist()
    [1.0]
    """
    width = check_number(bin_width, "bin_width", above=0)
    return -log_prob / (check_count(dimensions, "dimensions") * math.log(2)) - math.log2(width)
