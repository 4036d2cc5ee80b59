"""One process in continuous time: its SDE, the flow of the same densities and all between, and the likelihood.

Divide by the signal: y = x_t / signal_t is the data plus noise of size sigma_t = noise_t / signal_t, and

    dy = eps(x_t, t) d sigma                                             the probability flow
    dy = (1 + lam^2) eps(x_t, t) d sigma + lam sqrt(2 sigma |d sigma|) z       the family, going down in sigma

have the densities of the diffusion at every time. The solvers go along the time steps of a schedule, so every
`eps_model(x_t, t)` fits, exact or trained.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hw3utils.arguments import check_count, check_data, check_number, some_of
from hw3utils.langevin import denoise, langevin
from hw3utils.losses import Projection, rademacher_projection
from hw3utils.noise import EpsModel, Generators, evaluate_eps, evaluating, gaussian_noise, predict_eps, working_dtype
from hw3utils.progress import run_to_end
from hw3utils.samplers import State, last_x
from hw3utils.schedules import NoiseSchedule
from hw3utils.time_grid import Steps, steps_to_grid

Score = Callable[[Tensor, float], Tensor]


def _start(x: Tensor, schedule: NoiseSchedule, name: str) -> None:
    """Check what the solvers along a schedule start from."""
    if not isinstance(schedule, NoiseSchedule):
        raise ValueError(f"schedule is {type(schedule).__name__}, expected a NoiseSchedule.")
    check_data(x, name)
    if x.ndim < 2:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected (B, ...).")


def _at_least_0(value: float, name: str) -> float:
    number = check_number(value, name, expected="a number of at least 0")
    if number < 0:
        raise ValueError(f"{name} is {number}, expected a number of at least 0.")
    return number


def _falling(sigmas: Sequence[float] | Tensor) -> list[float]:
    """Noise levels as numbers, checked."""
    levels = [check_number(s, "a sigma", expected="a number above 0") for s in torch.as_tensor(sigmas).reshape(-1)]
    if not levels or min(levels) <= 0 or any(b >= a for a, b in itertools.pairwise(levels)):
        raise ValueError(f"sigmas is {some_of(levels)}, expected strictly decreasing numbers above 0.")
    return levels


def _wide(level: float | Tensor, x: Tensor) -> float | Tensor:
    """One level a sample (B,) made to broadcast against x (B, ...)."""
    if not isinstance(level, Tensor) or level.ndim == 0:
        return level
    if level.shape != x.shape[:1]:
        raise ValueError(f"a level has shape {tuple(level.shape)}, expected one number or one a sample ({len(x)},).")
    return level.to(x).reshape(-1, *[1] * (x.ndim - 1))


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
    if not isinstance(schedule, NoiseSchedule):
        raise ValueError(f"schedule is {type(schedule).__name__}, expected a NoiseSchedule.")
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
    return -_wide(beta, x) / 2 * (x + (1 + _at_least_0(lam, "lam") ** 2) * score)


def _family_step(y: Tensor, y0: Tensor, sigma: tuple[float, float], lam: float, draw: Callable[[], Tensor]) -> Tensor:
    """Solve the family's equation from sigma[0] to sigma[1] with the predicted data y0 held fixed.

    Then it is linear: y0 + r^(1 + lam^2) (y - y0) + sigma_s sqrt(1 - r^(2 lam^2)) z, with r = sigma_s / sigma_t.
    """
    t, s = sigma
    y = y0 + (s / t) ** (1 + lam**2) * (y - y0)
    return y + s * math.sqrt(1 - (s / t) ** (2 * lam**2)) * draw() if lam > 0 and s > 0 else y


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
    """Sample by the family between the probability flow (lam = 0) and the reverse SDE (lam = 1), of order 1.

    A step solves the equation exactly but for the predicted data, which it holds fixed. So lam = 0 is DDIM, lam = 1
    DDPM with the posterior variance, and lam is DDIM's eta as the steps grow short.

    Args:
        eps_model: callable (x_t, t) -> eps.
        x_T: where the chain starts, shape (B, ...), normally standard normal noise.
        schedule: noise schedule.
        lam: at least 0.
        steps: None for every step, a number S in 1..T, or increasing time steps in 1..T that end at T.
        spacing: how S steps are spread, see `time_grid`.
        generator: source of the noise: one generator, one per sample, or None for torch's default generator.

    Yields:
        Every state, from x_T to the sample at t = 0 (S + 1 states). `sample_sde` returns the last x, shape of x_T.

    Raises:
        ValueError: arguments out of range, or a model that returns another shape, NaN or infinity.

    Source: Zhang and Chen 2023, arXiv 2204.13902 (the family); Song et al. 2021, arXiv 2011.13456, equation 6.
    """
    _start(x_T, schedule, "x_T")
    grid = steps_to_grid(steps, schedule.T, spacing, schedule)
    lam = _at_least_0(lam, "lam")
    work, dtype = working_dtype(x_T), x_T.dtype

    def step(y: Tensor, eps: Tensor, t: int, s: int) -> Tensor:
        levels = [(schedule.noise[k] / schedule.signal[k]).item() for k in (t, s)]
        return _family_step(y, y - levels[0] * eps, levels, lam, lambda: gaussian_noise(x_T, generator).to(work))

    return _down(eps_model, x_T.to(work), schedule, grid, step, dtype)


def heun_steps(
    eps_model: EpsModel,
    x_T: Tensor,
    schedule: NoiseSchedule,
    *,
    steps: Steps = None,
    spacing: str = "uniform",
    generator: Generators = None,
) -> Iterator[State]:
    """Solve the probability flow by Heun's method, of order 2: the mean of the slopes at both ends of a step.

    The step to t = 0, where no model is asked, is DDIM's. S steps take 2 S - 1 model calls.

    Args:
        eps_model, x_T, schedule, steps, spacing: as for `sde_steps`.
        generator: not used, the solver draws nothing; taken so that all samplers are called alike.

    Yields:
        Every state, from x_T to the sample at t = 0 (S + 1 states). `sample_heun` returns the last x, shape of x_T.

    Raises:
        ValueError: as `sde_steps`.

    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 1.
    """
    _start(x_T, schedule, "x_T")
    grid = steps_to_grid(steps, schedule.T, spacing, schedule)
    dtype, sigma = x_T.dtype, schedule.noise / schedule.signal

    def step(y: Tensor, eps: Tensor, t: int, s: int) -> Tensor:
        width = (sigma[s] - sigma[t]).item()
        if s > 0:
            there = schedule.signal[s].item() * (y + width * eps)
            eps = (eps + evaluate_eps(eps_model, there.to(dtype), s).to(y.dtype)) / 2
        return y + width * eps

    return _down(eps_model, x_T.to(working_dtype(x_T)), schedule, grid, step, dtype)


@torch.no_grad()
def _down(
    eps_model: EpsModel,
    x_T: Tensor,
    schedule: NoiseSchedule,
    grid: list[int],
    step: Callable[[Tensor, Tensor, int, int], Tensor],
    dtype: torch.dtype,
) -> Iterator[State]:
    """Go down the grid in y = x / signal; `step(y, eps, t, s)` makes the next y."""
    y = x_T / schedule.signal[grid[0]].item()
    for t, s in itertools.pairwise(grid):
        x = (schedule.signal[t].item() * y).to(dtype)
        eps = evaluate_eps(eps_model, x, t).to(y.dtype)
        yield State(t, x, (y - (schedule.noise[t] / schedule.signal[t]).item() * eps).to(dtype))
        y = step(y, eps, t, s)
    yield State(0, y.to(dtype), y.to(dtype))


sample_sde = run_to_end(sde_steps, "sample_sde", last_x)
sample_heun = run_to_end(heun_steps, "sample_heun", last_x)


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
    """Go down noise levels: a step of the family predicts the next level, Langevin steps correct at that level.

    Args:
        score: callable (x (B, D), sigma) -> (B, D).
        x: starting points, data plus noise of sigmas[0], shape (B, D).
        sigmas: noise levels, strictly decreasing, above 0; a last step goes on to 0.
        lam: of the predictor, at least 0; 1 is the reverse SDE, 0 the flow.
        n_corrections: Langevin steps at each level, at least 0.
        step_size: of the corrector at sigma = 1, above 0; at sigma it is step_size sigma^2.
        generator: source of the noise.

    Yields:
        The points at each level and at 0, shape (B, D), the start first. `predictor_corrector` returns the last ones.

    Raises:
        ValueError: arguments out of range, or a score of a wrong shape, NaN or infinity.

    Source: Song et al. 2021, arXiv 2011.13456, section 4.2.
    """
    levels, lam = _falling(sigmas), _at_least_0(lam, "lam")
    options = {"n_steps": check_count(n_corrections, "n_corrections", low=0), "generator": generator}
    langevin(score, x, step_size=step_size, n_steps=0)  # checks x and step_size before the first state is asked for

    def states(x: Tensor) -> Iterator[Tensor]:
        yield x
        for t, s in itertools.pairwise([*levels, 0.0]):
            before = x
            x = _family_step(x, denoise(score, x, t), (t, s), lam, lambda x=before: gaussian_noise(x, generator))
            if s > 0:
                x = langevin(score, x, step_size=step_size * s**2, sigma=s, **options)
            yield x

    return states(x)


def _last(states: Iterator[Tensor]) -> Tensor:
    """Go to the last state, keeping one at a time."""
    for x in states:  # noqa: B007
        pass
    return x


predictor_corrector = run_to_end(predictor_corrector_steps, "predictor_corrector", _last)


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
            (Hutchinson), a backward pass each; None for the exact trace, a backward pass a dimension.

    Returns:
        The field, shape of x, and its divergence, shape (n, B), n = 1 for the exact trace; both without a graph.

    Source: Grathwohl et al. 2019, arXiv 1810.01367; Hutchinson 1990.
    """
    exact = directions is None
    if exact:
        unit = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
        directions = unit.reshape(-1, 1, *x.shape[1:]).expand(-1, *x.shape)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(x)
        rows = [(torch.autograd.grad(value, x, v, retain_graph=True)[0] * v).flatten(1).sum(1) for v in directions]
    found = torch.stack(rows).detach()
    return value.detach(), found.sum(0, keepdim=True) if exact else found


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
    """Give log p of points: the probability flow takes them to noise, and its divergence is what the volume changes by.

        log p(x_0) = log p_T(x_T) + D log(signal_T) + integral over sigma of div_y eps

    Heun's method, two model calls a step. At sigma = 0 the slope is 0, as it is for data with a density.

    Args:
        score_or_eps: with a NoiseSchedule an eps_model (x_t, t) -> eps, with noise levels a score (x, sigma) -> score.
        x: data, shape (B, ...), floating point; float64 for more than three digits.
        schedule: noise schedule, or noise levels sigma above 0, strictly decreasing (then signal is 1).
        steps, spacing: of a NoiseSchedule, as for the samplers; None is every step.
        n_projections: None for the exact trace, a backward pass a dimension; or 2 and more of Hutchinson's directions,
            drawn once for the whole path.
        prior: log density of x_T, (B, ...) -> (B,). None: N(0, I), or N(0, sigma_max^2 I) for levels. The data differ
            from that by what their mean and spread still are at T.
        projection, generator: how the directions are drawn.

    Returns:
        log p (B,), its standard error (B,), and x_T.

    Raises:
        ValueError: arguments out of range, or a model that returns another shape, NaN or infinity.

    Source: Song et al. 2021, arXiv 2011.13456, appendix D.2; Grathwohl et al. 2019, arXiv 1810.01367.
    """
    levels = _levels(score_or_eps, x, schedule, steps, spacing)
    n = None if n_projections is None else check_count(n_projections, "n_projections", low=2)
    directions = None if n is None else torch.stack([projection(x, generator) for _ in range(n)])
    with evaluating(score_or_eps):
        y, change = x.detach(), torch.zeros(1 if n is None else n, len(x), dtype=x.dtype, device=x.device)
        slope, spread, below = torch.zeros_like(y), torch.zeros_like(change), 0.0
        for i, (sigma, signal, eps) in enumerate(levels):
            width = sigma - below
            there = y + width * slope
            after, spread_after = divergence(lambda z, a=signal, eps=eps: eps(a * z), there, directions)
            y = y + width * (slope + after) / 2
            change = change + width * (spread + spread_after) / 2
            below = sigma
            if i + 1 < len(levels):
                slope, spread = divergence(lambda z, a=signal, eps=eps: eps(a * z), y, directions)
    x_T = signal * y
    scale = 1.0 if isinstance(schedule, NoiseSchedule) else sigma
    normal = torch.distributions.Normal(0.0, scale)
    base = normal.log_prob(x_T).flatten(1).sum(1) if prior is None else prior(x_T)
    values = base + x[0].numel() * math.log(signal) + change
    stderr = torch.zeros_like(base) if n is None else values.std(0) / math.sqrt(n)
    return Likelihood(values.mean(0), stderr, x_T)


def _levels(
    model: Callable[..., Tensor], x: Tensor, schedule: NoiseSchedule | Sequence[float], steps: Steps, spacing: str
) -> list[tuple[float, float, Callable[[Tensor], Tensor]]]:
    """The way up from the data: sigma, signal and the noise predictor of each level."""
    if isinstance(schedule, NoiseSchedule):
        _start(x, schedule, "x")
        grid = steps_to_grid(steps, schedule.T, spacing, schedule)[-2::-1]
        tables = (schedule.noise / schedule.signal, schedule.signal)
        return [(*(table[t].item() for table in tables), lambda z, t=t: predict_eps(model, z, t)) for t in grid]
    check_data(x, "x")
    return [(s, 1.0, lambda z, s=s: -s * model(z, s)) for s in _falling(schedule)[::-1]]


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
    width = check_number(bin_width, "bin_width", expected="a number above 0")
    if width <= 0:
        raise ValueError(f"bin_width is {width}, expected a number above 0.")
    return -log_prob / (check_count(dimensions, "dimensions") * math.log(2)) - math.log2(width)
