"""Reverse-time samplers: DDPM, DDIM, DPM-Solver++(2M), DDIM inversion, the start of ES-DDPM, and guidance.

Every sampler takes `eps_model(x_t, t) -> eps` and goes down a grid of time steps T = tau_S > ... > tau_1 > 0. One step
from t to s < t is, for all of them, the same line

    x_s = on_x * x_t + on_x0 * x0_hat + sigma * z

whose three numbers `reverse_coefficients` computes in float64; the samplers differ in sigma and in x0_hat only. A
sampler is written as `*_steps`, which yields every state; `sample_*` is made of it and returns the last one.

A state is kept in float64 while the sampler runs (where the device has it) and handed to the model, and to the caller,
in the dtype of x_T. Models run without gradients and in eval mode, and get their mode back after each call.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hw3utils.arguments import check_count, check_data, check_number, shown
from hw3utils.diffusion import perturb_input
from hw3utils.noise import EpsModel, Generators, evaluate_eps, gaussian_noise, working_dtype
from hw3utils.progress import run_to_end
from hw3utils.schedules import NoiseSchedule
from hw3utils.time_grid import Steps, steps_to_grid

ClipRange = bool | tuple[float, float] | None


class State(NamedTuple):
    """One state of a sampler: time t, x at that time, and the model's guess of the data from there.

    At t = 0 the guess is x itself. `x` and `x0_hat` have the shape and dtype of x_T.
    """

    t: int
    x: Tensor
    x0_hat: Tensor


# -------------------------------------------------------------------------------------------- one step, for all of them


def reverse_coefficients(schedule: NoiseSchedule, t: int, s: int, *, eta: float = 0.0) -> tuple[float, float, float]:
    """Give the numbers of one Gaussian step from t to s: x_s = on_x * x_t + on_x0 * x0_hat + sigma * z.

    sigma^2 = eta^2 (1 - abar_s) / (1 - abar_t) (1 - abar_t / abar_s); eta = 1 is the posterior variance of the chain
    that has only the steps of the grid (of DDPM itself on the full grid), eta = 0 the deterministic DDIM. With eta = 0
    the step also holds for s > t, which is inversion.

    Args:
        schedule: noise schedule.
        t, s: from where to where, t in 1..T, s in 0..T.
        eta: in [0, 1].

    Returns:
        on_x, on_x0, sigma.

    Source: Song, Meng and Ermon 2021, arXiv 2010.02502, equations 12 and 16.
    """
    abar_t, abar_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    variance = 0.0 if eta == 0 else eta**2 * (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)
    on_x = math.sqrt(max(1 - abar_s - variance, 0.0) / (1 - abar_t))
    return on_x, math.sqrt(abar_s) - on_x * math.sqrt(abar_t), math.sqrt(variance)


def large_sigma(schedule: NoiseSchedule, t: int, s: int) -> float:
    """Give the standard deviation of q(x_t | x_s), sqrt(1 - abar_t / abar_s): sqrt(beta_t) when s = t - 1.

    Source: Song, Meng and Ermon 2021, arXiv 2010.02502, appendix D.3 (sigma-hat).
    """
    return math.sqrt(1 - schedule.alpha_bar[t].item() / schedule.alpha_bar[s].item())


@torch.no_grad()
def _reverse_chain(
    eps_model: EpsModel,
    x_T: Tensor,
    schedule: NoiseSchedule,
    grid: list[int],
    *,
    eta: float = 0.0,
    sigma: Callable[[int, int], float] | None = None,
    generator: Generators = None,
    clip: tuple[float, float] | None = None,
    second_order: bool = False,
) -> Iterator[State]:
    """Go down the grid and yield S + 1 states: at each time before its step, and at t = 0.

    `sigma(t, s)` replaces the standard deviation of the noise that is added, without touching the mean, which stays
    that of `eta`. `second_order` extrapolates x0_hat from the last two calls (DPM-Solver++(2M)).
    """
    x = x_T.to(working_dtype(x_T))
    last = None
    for t, s in itertools.pairwise(grid):
        x0_hat = _predict_x0(eps_model, x, t, schedule, x_T.dtype, clip)
        yield State(t, x.to(x_T.dtype), x0_hat.to(x_T.dtype))
        target = x0_hat
        if second_order and last is not None and s > 0:
            target = _extrapolate(schedule, last, (t, x0_hat), s)
        last = (t, x0_hat)
        on_x, on_x0, std = reverse_coefficients(schedule, t, s, eta=eta)
        std = std if sigma is None else sigma(t, s)
        x = on_x * x + on_x0 * target
        if s > 0 and std > 0:  # the step to t = 0 gives the mean: there is no noise left to match
            x = x + std * gaussian_noise(x_T, generator).to(x.dtype)
    yield State(0, x.to(x_T.dtype), x.to(x_T.dtype))


def _extrapolate(schedule: NoiseSchedule, last: tuple[int, Tensor], now: tuple[int, Tensor], s: int) -> Tensor:
    """Extrapolate the predicted data, linearly in lambda = log(signal / noise), to the middle of the step to s."""
    lam_last, lam, lam_s = (
        math.log(schedule.signal[t].item() / schedule.noise[t].item()) for t in (last[0], now[0], s)
    )
    r = (lam - lam_last) / (lam_s - lam)
    return now[1] + (now[1] - last[1]) / (2 * r)


def _predict_x0(
    eps_model: EpsModel,
    x: Tensor,
    t: int,
    schedule: NoiseSchedule,
    dtype: torch.dtype,
    clip: tuple[float, float] | None,
) -> Tensor:
    """Call the model, in eval mode, on x in the caller's dtype; give its guess of the data in the dtype of x."""
    eps = evaluate_eps(eps_model, x.to(dtype), t).to(x.dtype)
    x0_hat = (x - schedule.noise[t].item() * eps) / schedule.signal[t].item()
    return x0_hat if clip is None else x0_hat.clamp(*clip)


def _check_start(x: Tensor, schedule: NoiseSchedule, t_start: int | None, name: str = "x_T") -> int:
    """Check what every sampler starts from and return the time at which it starts."""
    if not isinstance(schedule, NoiseSchedule):
        raise ValueError(f"schedule is {type(schedule).__name__}, expected a NoiseSchedule.")
    check_data(x, name)
    if x.ndim == 0:
        raise ValueError(f"{name} has shape (), expected (B, ...).")
    return schedule.T if t_start is None else check_count(t_start, "t_start", high=schedule.T)


def _check_clip(clip_x0: ClipRange) -> tuple[float, float] | None:
    if clip_x0 is None or clip_x0 is False:
        return None
    if clip_x0 is True:
        return -1.0, 1.0
    if not isinstance(clip_x0, Sequence) or len(clip_x0) != 2:
        raise ValueError(f"clip_x0 is {shown(clip_x0)}, expected False, True for (-1, 1), or a pair (low, high).")
    low, high = (check_number(value, "a limit of clip_x0") for value in clip_x0)
    if low >= high:
        raise ValueError(f"clip_x0 is {shown(clip_x0)}, expected low < high.")
    return low, high


def last_x(states: Iterator[State]) -> Tensor:
    """Go to the last state, keeping one at a time, and return its x."""
    for state in states:
        x = state.x
    return x


# ------------------------------------------------------------------------------------------------------ DDPM and DDIM


def ddpm_steps(
    eps_model: EpsModel,
    x_T: Tensor,
    schedule: NoiseSchedule,
    *,
    variance: str = "beta",
    generator: Generators = None,
    steps: Steps = None,
    spacing: str = "uniform",
    t_start: int | None = None,
    noise_scale: float = 1.0,
    clip_x0: ClipRange = None,
) -> Iterator[State]:
    """Sample by DDPM's ancestral sampling: x_s = posterior mean at the predicted data + sigma_t z, down to t = 0.

    Args:
        eps_model: callable (x_t, t) -> eps.
        x_T: where the chain starts, shape (B, ...), normally standard normal noise.
        schedule: noise schedule.
        variance: "beta" (sigma_t^2 = beta_t; on a strided grid 1 - abar_t / abar_s, the sigma-hat of the DDIM paper) or
            "posterior" (sigma_t^2 = (1 - abar_s) / (1 - abar_t) (1 - abar_t / abar_s)).
        generator: source of the noise: one generator, one per sample, or None for torch's default generator.
        steps: None for every step, a number S in 1..T, or increasing time steps in 1..T that end at the start time.
        spacing: how S steps are spread, see `time_grid`.
        t_start: the time of x_T when it is not T (ES-DDPM).
        noise_scale: factor on sigma_t; 0 leaves the noise out, to show what it is for.
        clip_x0: clamp the predicted data, at each step, to this (low, high); True is (-1, 1), None or False is off.

    Yields:
        Every state, from x_T at its start time to the sample at t = 0 (S + 1 states); the last step adds no noise. The
        model is called as the states are asked for. `sample_ddpm` returns the last x, shape and dtype of x_T.

    Raises:
        ValueError: arguments out of range, or a model that returns another shape, NaN or infinity.

    Source: Ho, Jain and Abbeel 2020, arXiv 2006.11239, algorithm 2; Song, Meng and Ermon 2021, arXiv 2010.02502,
    equation 16 (strided).
    """
    start = _check_start(x_T, schedule, t_start)
    grid = steps_to_grid(steps, start, spacing, schedule)
    scale = check_number(noise_scale, "noise_scale")
    if scale < 0:
        raise ValueError(f"noise_scale is {scale}, expected a number of at least 0.")
    if not isinstance(variance, str) or variance not in ("beta", "posterior"):
        raise ValueError(f"variance is {shown(variance)}, expected 'beta' or 'posterior'.")

    def sigma(t: int, s: int) -> float:
        if variance == "beta":
            return scale * large_sigma(schedule, t, s)
        return scale * reverse_coefficients(schedule, t, s, eta=1.0)[2]

    return _reverse_chain(
        eps_model, x_T, schedule, grid, eta=1.0, sigma=sigma, generator=generator, clip=_check_clip(clip_x0)
    )


sample_ddpm = run_to_end(ddpm_steps, "sample_ddpm", last_x)


def ddim_steps(
    eps_model: EpsModel,
    x_T: Tensor,
    schedule: NoiseSchedule,
    *,
    steps: Steps = None,
    eta: float = 0.0,
    generator: Generators = None,
    spacing: str = "uniform",
    t_start: int | None = None,
    clip_x0: ClipRange = None,
) -> Iterator[State]:
    """Sample by DDIM on any grid of time steps: deterministic for eta = 0, DDPM's posterior variance for eta = 1.

    Args:
        eps_model: callable (x_t, t) -> eps.
        x_T: where the chain starts, shape (B, ...), normally standard normal noise.
        schedule: noise schedule.
        steps: None for every step, a number S in 1..T, or increasing time steps in 1..T that end at the start time.
        eta: in [0, 1].
        generator: source of the noise for eta > 0: one generator, one per sample, or None for torch's default one.
        spacing: how S steps are spread, see `time_grid`.
        t_start: the time of x_T when it is not T (ES-DDPM).
        clip_x0: clamp the predicted data, at each step, to this (low, high); True is (-1, 1), None or False is off.

    Yields:
        Every state, from x_T at its start time to the sample at t = 0 (S + 1 states); the last step adds no noise. The
        model is called as the states are asked for. `sample_ddim` returns the last x, shape and dtype of x_T.

    Raises:
        ValueError: arguments out of range, or a model that returns another shape, NaN or infinity.

    Source: Song, Meng and Ermon 2021, arXiv 2010.02502, equations 12 and 16.
    """
    start = _check_start(x_T, schedule, t_start)
    grid = steps_to_grid(steps, start, spacing, schedule)
    eta = check_number(eta, "eta")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}, expected a number in [0, 1].")
    return _reverse_chain(eps_model, x_T, schedule, grid, eta=eta, generator=generator, clip=_check_clip(clip_x0))


sample_ddim = run_to_end(ddim_steps, "sample_ddim", last_x)


# -------------------------------------------------------------------------------------------------------- DPM-Solver++


def dpm_solver_steps(
    eps_model: EpsModel,
    x_T: Tensor,
    schedule: NoiseSchedule,
    *,
    steps: Steps = 20,
    spacing: str = "logsnr",
    t_start: int | None = None,
    clip_x0: ClipRange = None,
    generator: Generators = None,
) -> Iterator[State]:
    """Sample by DPM-Solver++(2M): deterministic, second order, one model call per step.

    The step of DDIM with eta = 0, but with the predicted data extrapolated to the middle of the step from the last two
    calls. The first step has one call only, and the step to t = 0 is infinitely long in log(signal / noise): both are
    plain DDIM steps, which leaves the order at 2. The last one's error, of the size of the noise variance at the time
    it starts from (1e-4 at t = 1 of the linear schedule), is a floor that more steps do not lower.

    Args:
        eps_model: callable (x_t, t) -> eps.
        x_T: where the chain starts, shape (B, ...), normally standard normal noise.
        schedule: noise schedule.
        steps: None for every step, a number S in 1..T, or increasing time steps in 1..T that end at the start time.
        spacing: how S steps are spread, see `time_grid`.
        t_start: the time of x_T when it is not T (ES-DDPM).
        clip_x0: clamp the predicted data, at each step, to this (low, high); True is (-1, 1), None or False is off.
        generator: not used, the solver draws nothing; taken so that all samplers are called alike.

    Yields:
        Every state, from x_T at its start time to the sample at t = 0 (S + 1 states). The model is called as the states
        are asked for. `sample_dpm_solver` returns the last x, shape and dtype of x_T.

    Raises:
        ValueError: arguments out of range, or a model that returns another shape, NaN or infinity.

    Source: Lu et al. 2022, arXiv 2211.01095, algorithm 2.
    """
    start = _check_start(x_T, schedule, t_start)
    grid = steps_to_grid(steps, start, spacing, schedule)
    return _reverse_chain(
        eps_model, x_T, schedule, grid, generator=generator, clip=_check_clip(clip_x0), second_order=True
    )


sample_dpm_solver = run_to_end(dpm_solver_steps, "sample_dpm_solver", last_x)


# -------------------------------------------------------------------------------------------- inversion and early stop


def ddim_invert_steps(
    eps_model: EpsModel,
    x0: Tensor,
    schedule: NoiseSchedule,
    *,
    steps: Steps = None,
    spacing: str = "uniform",
    t_end: int | None = None,
    n_corrections: int = 1,
) -> Iterator[State]:
    """Run DDIM (eta = 0) backwards, from data to the noise that `sample_ddim` turns into it.

    Without corrections the step up takes the noise predicted at its lower end, where the step down takes the one at its
    upper end, so that the way there and back misses by O(1 / S). A correction predicts the noise again at the upper end
    (a fixed-point iteration): with one the way back misses by O(1 / S^2), and with many it is exact, unless the steps
    are so long and the data so nearly singular that the iteration does not converge.

    Args:
        eps_model: callable (x_t, t) -> eps.
        x0: data, shape (B, ...), floating point.
        schedule: noise schedule.
        steps: None for every step, a number S in 1..T, or increasing time steps in 1..T that end at the last time.
        spacing: how S steps are spread, see `time_grid`.
        t_end: the time to stop at when it is not T.
        n_corrections: number of corrections in each step, at least 0; a step takes 1 + n_corrections model calls.

    Yields:
        Every state, from the data at t = 0 to the noise at the last time (S + 1 states); `x0_hat` of a state is the
        predicted data used by the step that led to it. `ddim_invert` returns the noise, shape and dtype of x0.

    Raises:
        ValueError: arguments out of range, or a model that returns another shape, NaN or infinity.

    Source: Song, Meng and Ermon 2021, arXiv 2010.02502, section 4.3, equations 13 and 14.
    """
    end = _check_start(x0, schedule, t_end, "x0")
    grid = steps_to_grid(steps, end, spacing, schedule)[::-1]
    n_corrections = check_count(n_corrections, "n_corrections", low=0)
    return _inversion(eps_model, x0, schedule, grid, n_corrections)


@torch.no_grad()
def _inversion(
    eps_model: EpsModel, x0: Tensor, schedule: NoiseSchedule, grid: list[int], n_corrections: int
) -> Iterator[State]:
    x = x0.to(working_dtype(x0))
    yield State(0, x0, x0)
    for t, s in itertools.pairwise(grid):  # from t up to s
        signal_t, noise_t, signal_s, noise_s = (
            table[k].item() for k in (t, s) for table in (schedule.signal, schedule.noise)
        )
        # No model knows t = 0: the data are shown to it at the first time it does know.
        eps = evaluate_eps(eps_model, x.to(x0.dtype), max(t, 1)).to(x.dtype)
        for _ in range(n_corrections):
            up = signal_s * (x - noise_t * eps) / signal_t + noise_s * eps
            eps = evaluate_eps(eps_model, up.to(x0.dtype), s).to(x.dtype)
        x0_hat = (x - noise_t * eps) / signal_t
        x = signal_s * x0_hat + noise_s * eps
        yield State(s, x.to(x0.dtype), x0_hat.to(x0.dtype))


ddim_invert = run_to_end(ddim_invert_steps, "ddim_invert", last_x)


def early_stop(x0: Tensor, schedule: NoiseSchedule, *, t_start: int, generator: Generators = None) -> Tensor:
    """Make the start of ES-DDPM: diffuse samples of a cheap generator to time T' = t_start, in one step.

    Hand the result to any sampler with the same `t_start`, which then needs T' steps in place of T.

    Args:
        x0: samples of the cheap generator, shape (B, ...), floating point.
        schedule: noise schedule.
        t_start: T', in 1..T.
        generator: source of the noise: one generator, one per sample, or None for torch's default generator.

    Returns:
        x at time T', shape of x0.

    Raises:
        ValueError: x0 is not a finite floating-point tensor, or t_start is out of range.

    Source: Lyu et al. 2022, arXiv 2205.12524, section 3.

    >>> from hw3utils.schedules import linear_schedule
    >>> schedule = linear_schedule()
    >>> x = early_stop(torch.zeros(2, 3), schedule, t_start=200)
    >>> sample_ddim(lambda x, t: x, x, schedule, steps=10, t_start=200).shape
    torch.Size([2, 3])
    """
    t_start = _check_start(x0, schedule, check_count(t_start, "t_start"), "x0")
    return perturb_input(x0, t_start, gaussian_noise(x0, generator), schedule)


# ----------------------------------------------------------------------------------------------------------- guidance


def guided(network: nn.Module, *, guidance: float = 1.0) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Classifier-free guidance: a function (x_t, t, label) -> eps.

    Fix the labels with `functools.partial(guided(network), label=label)` to have an eps_model, or hand them to
    `sample_in_batches` as `model_kwargs={"label": label}`.

    Args:
        network: called as network(x_t, t, label), with an attribute `n_classes`; label n_classes means none.
        guidance: w in eps_none + w (eps_label - eps_none); 1 is plain conditioning, 0 ignores the label.

    Returns:
        The function; label is int64 (B,). Two network evaluations a call unless guidance is 0 or 1.

    Raises:
        ValueError: when guidance is not a finite number.

    Source: Ho and Salimans 2022, arXiv 2207.12598, equation 6 (there w + 1 stands for our w).
    """
    guidance = check_number(guidance, "guidance")

    def eps_model(x_t: Tensor, t: Tensor, label: Tensor) -> Tensor:
        if guidance == 1:
            return network(x_t, t, label)
        none = network(x_t, t, torch.full_like(label, network.n_classes))
        return none if guidance == 0 else none + guidance * (network(x_t, t, label) - none)

    return eps_model
