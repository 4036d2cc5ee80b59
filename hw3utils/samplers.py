"""Reverse-time samplers: DDPM, DDIM, DPM-Solver++(2M), DDIM inversion, ES-DDPM, guidance, sampling in batches.

Every sampler takes `eps_model(x_t, t) -> eps` and a grid of time steps T = tau_S > ... > tau_1 > 0. One step from t to
s < t is the same line for all of them:

    x_s = coef_x * x_t + coef_x0 * x0_hat + sigma * z

`ddim_coefficients` computes the three numbers in float64. The samplers differ in sigma and in x0_hat only. For each
there are two functions: `sample_NAME` returns the sample, `NAME_steps` yields every state.

A state is kept in float64 while the sampler runs (where the device has it). The model and the caller get it in the
dtype of x_T. Models run without gradients and in eval mode, and get their mode back after each call.

Names of diffusers, and ours:

    num_inference_steps                      steps
    timestep_spacing="trailing"              spacing="uniform"; for "leading" give the time steps themselves as `steps`
    eta                                      eta
    guidance_scale                           guidance, of `guided`
    variance_type="fixed_large"              variance="beta"
    variance_type="fixed_small"              variance="posterior"
    clip_sample, clip_sample_range           clip_x0
    pred_original_sample                     x0_hat, of a `State`
    scheduler.add_noise                      `diffusion.perturb_input`
    prediction_type="v_prediction"           `velocities.as_eps_model(model, schedule, given="v")`
    DDPMScheduler, DDIMScheduler             `sample_ddpm`, `sample_ddim`
    DPMSolverMultistepScheduler              `sample_dpm_solver`
    DDIMInverseScheduler                     `ddim_invert`
    a UNet2DModel and its scheduler          `learning.exchange.from_diffusers`
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from hw3utils.arguments import check_count, check_data, check_number, shown
from hw3utils.devices import resolve_device
from hw3utils.diffusion import perturb_input, x0_from_eps
from hw3utils.noise import (
    EpsModel,
    Generators,
    InferenceModel,
    check_finite,
    gaussian_noise,
    sample_generators,
    working_dtype,
)
from hw3utils.progress import last
from hw3utils.schedules import NoiseSchedule, check_schedule
from hw3utils.time_grid import Steps, steps_to_grid

ClipRange = bool | tuple[float, float] | None


class State(NamedTuple):
    """One state of a sampler: time t, x at that time, and the data predicted from there.

    At t = 0 the prediction is x itself. `x` and `x0_hat` have the shape and dtype of x_T.
    """

    t: int
    x: Tensor
    x0_hat: Tensor


# ----------------------------------------------------------------------------------------------------- one reverse step


def ddim_coefficients(schedule: NoiseSchedule, t: int, s: int, *, eta: float = 0.0) -> tuple[float, float, float]:
    """Give the coefficients of one step from t to s: x_s = coef_x * x_t + coef_x0 * x0_hat + sigma * z.

    sigma^2 = eta^2 (1 - abar_s) / (1 - abar_t) (1 - abar_t / abar_s). For eta = 1 it is the posterior variance of the
    chain that has only the steps of the grid (of DDPM itself on the full grid), for eta = 0 it is 0. With eta = 0 the
    step also holds for s > t, which is inversion.

    Args:
        schedule: noise schedule.
        t, s: times before and after the step, t in 1..T, s in 0..T.
        eta: in [0, 1].

    Returns:
        coef_x, coef_x0, sigma.

    Source: Song, Meng and Ermon 2021, arXiv 2010.02502, equations 12 and 16.
    """
    abar_t, abar_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    variance = 0.0 if eta == 0 else eta**2 * (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)
    coef_x = math.sqrt(max(1 - abar_s - variance, 0.0) / (1 - abar_t))
    return coef_x, math.sqrt(abar_s) - coef_x * math.sqrt(abar_t), math.sqrt(variance)


def sigma_hat(schedule: NoiseSchedule, t: int, s: int) -> float:
    """Give the standard deviation of q(x_t | x_s), sqrt(1 - abar_t / abar_s): sqrt(beta_t) when s = t - 1.

    Source: Song, Meng and Ermon 2021, arXiv 2010.02502, appendix D.3.
    """
    return math.sqrt(1 - schedule.alpha_bar[t].item() / schedule.alpha_bar[s].item())


@torch.no_grad()
def _integrate(
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
    """Integrate along the time grid; yield S + 1 states, each before its step, and the one at t = 0.

    `sigma(t, s)` replaces the standard deviation of the added noise; the mean stays that of `eta`. `second_order`
    extrapolates x0_hat from the last two calls (DPM-Solver++(2M)).
    """
    model, x = InferenceModel(eps_model), x_T.to(working_dtype(x_T))
    previous = None
    for t, s in itertools.pairwise(grid):
        eps = model.at(x.to(x_T.dtype), t).to(x.dtype)
        x0_hat = x0_from_eps(eps, x, schedule.signal[t].item(), schedule.noise[t].item())
        x0_hat = x0_hat if clip is None else x0_hat.clamp(*clip)
        yield State(t, x.to(x_T.dtype), x0_hat.to(x_T.dtype))
        target = x0_hat
        if second_order and previous is not None and s > 0:
            target = _extrapolate(schedule, previous, (t, x0_hat), s)
        previous = (t, x0_hat)
        coef_x, coef_x0, std = ddim_coefficients(schedule, t, s, eta=eta)
        std = std if sigma is None else sigma(t, s)
        x = coef_x * x + coef_x0 * target
        if s > 0 and std > 0:  # p(x_0 | x_1) is sampled by its mean
            x = x + std * gaussian_noise(x_T, generator).to(x.dtype)
    check_finite(x, "the sample holds NaN or infinity, expected finite numbers: look at what the eps_model returns.")
    yield State(0, x.to(x_T.dtype), x.to(x_T.dtype))


def _extrapolate(schedule: NoiseSchedule, previous: tuple[int, Tensor], now: tuple[int, Tensor], s: int) -> Tensor:
    """Extrapolate the predicted data, linearly in lambda = log(signal / noise), to the middle of the step to s."""
    lam_previous, lam, lam_s = (
        math.log(schedule.signal[t].item() / schedule.noise[t].item()) for t in (previous[0], now[0], s)
    )
    r = (lam - lam_previous) / (lam_s - lam)
    return now[1] + (now[1] - previous[1]) / (2 * r)


def _check_start(x: Tensor, schedule: NoiseSchedule, t_start: int | None, name: str = "x_T") -> int:
    """Check the first state and the schedule; return the time of that state."""
    check_schedule(schedule)
    check_data(x, name)
    if x.ndim == 0:
        raise ValueError(f"{name} has shape (), expected (B, ...).")
    return schedule.T if t_start is None else check_count(t_start, "t_start", high=schedule.T)


def _check_clip(clip_x0: ClipRange) -> tuple[float, float] | None:
    """The limits of the predicted data, None for no limits."""
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


# ------------------------------------------------------------------------------------------------------ DDPM and DDIM


def sample_ddpm(
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
) -> Tensor:
    """Sample by DDPM's ancestral sampling: x_s = posterior mean at the predicted data + sigma_t z, down to t = 0.

    The last step adds no noise.

    Args:
        eps_model: callable (x_t, t) -> eps.
        x_T: initial state, shape (B, ...), normally standard normal noise.
        schedule: noise schedule.
        variance: "beta" (sigma_t^2 = beta_t; on a strided grid 1 - abar_t / abar_s, the sigma-hat of the DDIM paper) or
            "posterior" (sigma_t^2 = (1 - abar_s) / (1 - abar_t) (1 - abar_t / abar_s)).
        generator: source of the noise: one generator, one per sample, or None for torch's default generator.
        steps: None for every step, a number S in 1..T, or increasing time steps in 1..T that end at the start time.
        spacing: how S steps are spread, see `time_grid`.
        t_start: the time of x_T when it is not T (ES-DDPM).
        noise_scale: factor on sigma_t, at least 0; 0 adds no noise, to show what the noise is for.
        clip_x0: limits (low, high) of the predicted data at each step; True is (-1, 1), None or False is no limit.

    Returns:
        The sample, shape and dtype of x_T.

    Raises:
        ValueError: arguments out of range, or a model that returns another shape, NaN or infinity.

    Source: Ho, Jain and Abbeel 2020, arXiv 2006.11239, algorithm 2; Song, Meng and Ermon 2021, arXiv 2010.02502,
    equation 16 (strided).
    """
    states = ddpm_steps(
        eps_model,
        x_T,
        schedule,
        variance=variance,
        generator=generator,
        steps=steps,
        spacing=spacing,
        t_start=t_start,
        noise_scale=noise_scale,
        clip_x0=clip_x0,
    )
    return last(states).x


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
    """Yield the S + 1 states of `sample_ddpm`, from x_T to t = 0; the model is called as they are asked for."""
    grid = steps_to_grid(steps, _check_start(x_T, schedule, t_start), spacing, schedule)
    scale = check_number(noise_scale, "noise_scale", at_least=0)
    if not isinstance(variance, str) or variance not in ("beta", "posterior"):
        raise ValueError(f"variance is {shown(variance)}, expected 'beta' or 'posterior'.")

    def sigma(t: int, s: int) -> float:
        std = sigma_hat(schedule, t, s) if variance == "beta" else ddim_coefficients(schedule, t, s, eta=1.0)[2]
        return scale * std

    return _integrate(
        eps_model, x_T, schedule, grid, eta=1.0, sigma=sigma, generator=generator, clip=_check_clip(clip_x0)
    )


def sample_ddim(
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
) -> Tensor:
    """Sample by DDIM on any time grid: deterministic for eta = 0, DDPM's posterior variance for eta = 1.

    The last step adds no noise.

    Args:
        eps_model: callable (x_t, t) -> eps.
        x_T: initial state, shape (B, ...), normally standard normal noise.
        schedule: noise schedule.
        steps: None for every step, a number S in 1..T, or increasing time steps in 1..T that end at the start time.
        eta: in [0, 1].
        generator: source of the noise for eta > 0: one generator, one per sample, or None for torch's default one.
        spacing: how S steps are spread, see `time_grid`.
        t_start: the time of x_T when it is not T (ES-DDPM).
        clip_x0: limits (low, high) of the predicted data at each step; True is (-1, 1), None or False is no limit.

    Returns:
        The sample, shape and dtype of x_T.

    Raises:
        ValueError: arguments out of range, or a model that returns another shape, NaN or infinity.

    Source: Song, Meng and Ermon 2021, arXiv 2010.02502, equations 12 and 16.
    """
    states = ddim_steps(
        eps_model,
        x_T,
        schedule,
        steps=steps,
        eta=eta,
        generator=generator,
        spacing=spacing,
        t_start=t_start,
        clip_x0=clip_x0,
    )
    return last(states).x


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
    """Yield the S + 1 states of `sample_ddim`, from x_T to t = 0; the model is called as they are asked for."""
    grid = steps_to_grid(steps, _check_start(x_T, schedule, t_start), spacing, schedule)
    eta = check_number(eta, "eta", at_least=0, at_most=1)
    return _integrate(eps_model, x_T, schedule, grid, eta=eta, generator=generator, clip=_check_clip(clip_x0))


# -------------------------------------------------------------------------------------------------------- DPM-Solver++


def sample_dpm_solver(
    eps_model: EpsModel,
    x_T: Tensor,
    schedule: NoiseSchedule,
    *,
    steps: Steps = 20,
    spacing: str = "logsnr",
    t_start: int | None = None,
    clip_x0: ClipRange = None,
    generator: Generators = None,
) -> Tensor:
    """Sample by DPM-Solver++(2M): deterministic, second order, one model call per step.

    A step is that of DDIM with eta = 0, with the predicted data extrapolated to the middle of the step from the last
    two calls. The first step has one call only, and the step to t = 0 is infinitely long in log(signal / noise).
    Both are DDIM steps, which leaves the order at 2. The error of the last one has the size of the noise variance at
    the time it starts from (1e-4 at t = 1 of the linear schedule); more steps do not lower it.

    Args:
        eps_model: callable (x_t, t) -> eps.
        x_T: initial state, shape (B, ...), normally standard normal noise.
        schedule: noise schedule.
        steps: None for every step, a number S in 1..T, or increasing time steps in 1..T that end at the start time.
        spacing: how S steps are spread, see `time_grid`.
        t_start: the time of x_T when it is not T (ES-DDPM).
        clip_x0: limits (low, high) of the predicted data at each step; True is (-1, 1), None or False is no limit.
        generator: ignored, the solver draws nothing; taken so that all samplers are called alike.

    Returns:
        The sample, shape and dtype of x_T.

    Raises:
        ValueError: arguments out of range, or a model that returns another shape, NaN or infinity.

    Source: Lu et al. 2022, arXiv 2211.01095, algorithm 2.
    """
    states = dpm_solver_steps(
        eps_model, x_T, schedule, steps=steps, spacing=spacing, t_start=t_start, clip_x0=clip_x0, generator=generator
    )
    return last(states).x


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
    """Yield the S + 1 states of `sample_dpm_solver`, from x_T to t = 0; the model is called as they are asked for."""
    grid = steps_to_grid(steps, _check_start(x_T, schedule, t_start), spacing, schedule)
    return _integrate(eps_model, x_T, schedule, grid, generator=generator, clip=_check_clip(clip_x0), second_order=True)


# --------------------------------------------------------------------------------------------- inversion and ES-DDPM


def ddim_invert(
    eps_model: EpsModel,
    x0: Tensor,
    schedule: NoiseSchedule,
    *,
    steps: Steps = None,
    spacing: str = "uniform",
    t_end: int | None = None,
    n_corrections: int = 1,
) -> Tensor:
    """Run DDIM (eta = 0) backwards, from data to the noise that `sample_ddim` maps to these data.

    Without corrections a step up uses the noise predicted at its lower end, where the step down uses that at its upper
    end: data -> noise -> data has an error O(1 / S). A correction predicts the noise again at the upper end
    (fixed-point iteration). With one the error is O(1 / S^2). With many it is 0, unless the iteration does not
    converge, which happens for very long steps on nearly singular data.

    Args:
        eps_model: callable (x_t, t) -> eps.
        x0: data, shape (B, ...), floating point.
        schedule: noise schedule.
        steps: None for every step, a number S in 1..T, or increasing time steps in 1..T that end at the last time.
        spacing: how S steps are spread, see `time_grid`.
        t_end: the time to stop at when it is not T.
        n_corrections: number of corrections in each step, at least 0; a step takes 1 + n_corrections model calls.

    Returns:
        The noise, shape and dtype of x0.

    Raises:
        ValueError: arguments out of range, or a model that returns another shape, NaN or infinity.

    Source: Song, Meng and Ermon 2021, arXiv 2010.02502, section 4.3, equations 13 and 14.
    """
    states = ddim_invert_steps(
        eps_model, x0, schedule, steps=steps, spacing=spacing, t_end=t_end, n_corrections=n_corrections
    )
    return last(states).x


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
    """Yield the S + 1 states of `ddim_invert`, from the data up; x0_hat is the prediction that led to the state."""
    grid = steps_to_grid(steps, _check_start(x0, schedule, t_end, "x0"), spacing, schedule)[::-1]
    n_corrections = check_count(n_corrections, "n_corrections", low=0)
    return _invert(eps_model, x0, schedule, grid, n_corrections)


@torch.no_grad()
def _invert(
    eps_model: EpsModel, x0: Tensor, schedule: NoiseSchedule, grid: list[int], n_corrections: int
) -> Iterator[State]:
    model, x = InferenceModel(eps_model), x0.to(working_dtype(x0))
    yield State(0, x0, x0)
    for t, s in itertools.pairwise(grid):  # from t up to s
        signal_t, noise_t, signal_s, noise_s = (
            table[k].item() for k in (t, s) for table in (schedule.signal, schedule.noise)
        )
        # Models take t in 1..T: the data are passed with t = 1.
        eps = model.at(x.to(x0.dtype), max(t, 1)).to(x.dtype)
        for _ in range(n_corrections):
            # In this order of operations the bits are those of earlier versions.
            upper = signal_s * (x - noise_t * eps) / signal_t + noise_s * eps
            eps = model.at(upper.to(x0.dtype), s).to(x.dtype)
        x0_hat = x0_from_eps(eps, x, signal_t, noise_t)
        x = signal_s * x0_hat + noise_s * eps
        yield State(s, x.to(x0.dtype), x0_hat.to(x0.dtype))


def early_stop(x0: Tensor, schedule: NoiseSchedule, *, t_start: int, generator: Generators = None) -> Tensor:
    """Start of ES-DDPM: diffuse samples of a cheap generator to time T' = t_start, in one step.

    Pass the result to any sampler with the same `t_start`, which then needs T' steps in place of T.

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
    """Classifier-free guidance: make a function (x_t, t, label) -> eps.

    `functools.partial(guided(network), label=label)` is an eps_model. To `sample_in_batches` give the labels as
    `model_kwargs={"label": label}`.

    Args:
        network: called as network(x_t, t, label), with an attribute `n_classes`; the label n_classes means no label.
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
        none = network(x_t, t, torch.full_like(label, cast(int, network.n_classes)))
        return none if guidance == 0 else none + guidance * (network(x_t, t, label) - none)

    return eps_model


# --------------------------------------------------------------------------------------------- batches of samples


def sample_in_batches(
    sampler: Callable[..., Tensor],
    eps_model: Callable[..., Tensor],
    schedule: NoiseSchedule,
    shape: Sequence[int],
    *,
    n: int | range,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str = "cpu",
    x_T: Tensor | None = None,
    model_kwargs: Mapping[str, Tensor] | None = None,
    **options: Any,
) -> Tensor:
    """Draw n samples in batches, as `sample_batches` does, and return them in one tensor (n, *shape).

    >>> from hw3utils.schedules import linear_schedule
    >>> run = functools.partial(sample_in_batches, sample_ddpm, lambda x, t: x, linear_schedule(5), (2,), n=7)
    >>> torch.equal(run(batch_size=2), run(batch_size=7))
    True
    """
    arguments: dict[str, Any] = {"n": n, "batch_size": batch_size, "seed": seed, "device": device}
    arguments |= {"x_T": x_T, "model_kwargs": model_kwargs}
    return torch.cat(list(sample_batches(sampler, eps_model, schedule, shape, **arguments, **options)))


def sample_batches(
    sampler: Callable[..., Tensor],
    eps_model: EpsModel,
    schedule: NoiseSchedule,
    shape: Sequence[int],
    *,
    n: int | range,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str = "cpu",
    x_T: Tensor | None = None,
    model_kwargs: Mapping[str, Tensor] | None = None,
    **options: Any,
) -> Iterator[Tensor]:
    """Yield n samples in batches; the batch size changes memory and time, not the samples.

    Sample i draws x_T and all further noise from its own generator, see `sample_generators`.

    Args:
        sampler: `sample_ddpm`, `sample_ddim`, `sample_dpm_solver`, or any function with the same arguments.
        eps_model, schedule: what the sampler takes.
        shape: shape of one sample, such as (3, 16, 16).
        n: number of samples, or a range of their indices (sample 7 is the same alone and among others).
        batch_size: largest number of samples in one call.
        seed: an integer of at least 0.
        device: where the samples are computed; noise is drawn on the CPU, the same for every device.
        x_T: initial states (n, *shape), in place of fresh noise in float32; see `early_stop`.
        model_kwargs: further arguments of the model by name (labels, for example), each a tensor with n rows.
        options: what else the sampler takes (`steps`, `eta`, `variance`, ...).

    Yields:
        Samples, (B, *shape) on `device`.

    Raises:
        ValueError: arguments out of range, and what the sampler raises.
    """
    if not callable(sampler) or not callable(eps_model):
        raise ValueError("sampler or eps_model cannot be called, expected two functions.")
    indices = n if isinstance(n, range) else range(check_count(n, "n"))
    batch_size, seed = check_count(batch_size, "batch_size"), check_count(seed, "seed", low=0)
    shape = tuple(check_count(size, "a size in shape") for size in shape)
    device, model_kwargs = resolve_device(device), model_kwargs or {}
    like = torch.empty(0, dtype=torch.float32) if x_T is None else x_T
    _check_rows(len(indices), shape, x_T, model_kwargs)

    def make(rows: slice) -> Tensor:
        generators = sample_generators(seed, indices[rows])
        # Drawn even when x_T is given, so that the chain never uses the noise that made x_T.
        start = gaussian_noise(like.new_empty(len(generators), *shape, device=device), generators)
        start = start if x_T is None else x_T[rows].to(device)
        own = {name: value[rows].to(device) for name, value in model_kwargs.items()}
        return sampler(functools.partial(eps_model, **own), start, schedule, generator=generators, **options)

    return (make(slice(first, first + batch_size)) for first in range(0, len(indices), batch_size))


def _check_rows(n: int, shape: tuple[int, ...], x_T: Tensor | None, model_kwargs: Mapping[str, Any]) -> None:
    """Raise ValueError unless x_T and the arguments of the model have one row per sample."""
    if x_T is not None and tuple(x_T.shape) != (n, *shape):
        raise ValueError(f"x_T has shape {tuple(x_T.shape)}, expected {(n, *shape)}.")
    for name, value in model_kwargs.items():
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != n:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"the model's argument {name!r} is {got}, expected a tensor with {n} rows.")


# ------------------------------------------------------------------------------------------- interpolation of noise


def slerp(noise_a: Tensor, noise_b: Tensor, weight: float | Tensor) -> Tensor:
    """Interpolate between two noises along the sphere, which keeps the length that noise has.

    Args:
        noise_a, noise_b: noises of shape (B, ...), interpolated sample by sample; shape (D,) is one sample. A batch of
            one is used with every weight, and with every sample of the other.
        weight: 0 gives noise_a, 1 gives noise_b; a number, or a tensor (B,) with one weight per sample.

    Returns:
        The interpolation, shape (B, ...), or (D,) when no argument has a batch dimension.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity.

    Source: Shoemake 1985; Song, Meng and Ermon 2021, arXiv 2010.02502, appendix D.5, equation 67.

    >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
    tensor([0.7071, 0.7071])
    """
    check_data(noise_a, "noise_a")
    check_data(noise_b, "noise_b")
    weight = torch.as_tensor(weight)
    if noise_a.ndim == 0 or noise_a.ndim != noise_b.ndim or noise_a.shape[1:] != noise_b.shape[1:]:
        shapes = f"{tuple(noise_a.shape)} and {tuple(noise_b.shape)}"
        raise ValueError(f"the noises have shapes {shapes}, expected the same shape (B, ...).")
    if weight.ndim > 1 or not bool(torch.isfinite(weight).all()):
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected one finite number or one per sample.")
    single = noise_a.ndim == 1
    a, b = (x[None] if single else x for x in (noise_a, noise_b))
    if single and a.shape != b.shape:
        raise ValueError(f"the noises have {a.shape[1]} and {b.shape[1]} entries, expected the same number.")
    sizes = {len(a), len(b), weight.numel()} - {1}
    if len(sizes) > 1:
        got = f"{len(a)} and {len(b)} noises and {weight.numel()} weights"
        raise ValueError(f"got {got}, expected equal numbers, or one.")
    work = working_dtype(a)
    u, v = a.to(work).flatten(1), b.to(work).flatten(1)
    cos = (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1)).clamp_min(torch.finfo(work).tiny)
    theta = cos.clamp(-1, 1).acos()
    w = weight.to(work).to(a.device).reshape(-1)
    straight = theta.sin() < 1e-6  # (nearly) parallel: the arc is the chord
    sin = torch.where(straight, torch.ones_like(theta), theta.sin())
    coef_a = torch.where(straight, 1 - w, ((1 - w) * theta).sin() / sin)
    coef_b = torch.where(straight, w, (w * theta).sin() / sin)
    shape = (-1, *[1] * (a.ndim - 1))
    out = (coef_a.reshape(shape) * a.to(work) + coef_b.reshape(shape) * b.to(work)).to(noise_a.dtype)
    return out[0] if single and weight.ndim == 0 else out
