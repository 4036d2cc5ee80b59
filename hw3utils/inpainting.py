"""Inpainting by resampling: a part of the data is known, the sampler fills in the rest."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from hw3utils.arguments import check_count, check_data
from hw3utils.diffusion import perturb_input
from hw3utils.noise import EpsModel, Generators, evaluate_eps, gaussian_noise, working_dtype
from hw3utils.progress import run_to_end
from hw3utils.samplers import State, large_sigma, last_x, reverse_coefficients
from hw3utils.schedules import NoiseSchedule
from hw3utils.time_grid import Steps, steps_to_grid


def inpaint_steps(
    eps_model: EpsModel,
    x_T: Tensor,
    schedule: NoiseSchedule,
    *,
    known: Tensor,
    mask: Tensor,
    steps: Steps = None,
    spacing: str = "uniform",
    n_resamplings: int = 10,
    generator: Generators = None,
) -> Iterator[State]:
    """Sample what the mask leaves open, given what it covers (RePaint, jumps of one step).

    At each time the known part is the known data with fresh noise of that time, the open part a DDPM step. The two were
    not made for each other, so the step is undone by adding its noise, and done again, with the parts now seen
    together. With one resampling the open part hardly heeds the known one; more bring it nearer to the conditional
    distribution, at the price of as many model calls.

    Args:
        eps_model: callable (x_t, t) -> eps.
        x_T: where the chain starts, shape (B, ...), normally standard normal noise.
        schedule: noise schedule.
        known: the known data, shape of x_T or one sample without the batch; outside the mask it is not looked at.
        mask: 1 (or True) where the data are known, 0 where they are to be made; shape of `known`, or one that
            broadcasts to it.
        steps: None for every step, a number S in 1..T, or increasing time steps in 1..T that end at T.
        spacing: how S steps are spread, see `time_grid`.
        n_resamplings: how often each step is done, at least 1: S n_resamplings - n_resamplings + 1 model calls.
        generator: source of the noise: one generator, one per sample, or None for torch's default generator.

    Yields:
        The state at each time before its step is done for the last time, and at t = 0, where the known part is exactly
        what was given (S + 1 states). `sample_inpaint` returns the last x, shape and dtype of x_T.

    Raises:
        ValueError: arguments out of range or of shapes that do not fit, a mask of other values than 0 and 1, or a model
            that returns another shape, NaN or infinity.

    Source: Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1.
    """
    check_data(x_T, "x_T")
    grid = steps_to_grid(steps, schedule.T, spacing, schedule)
    n_resamplings = check_count(n_resamplings, "n_resamplings")
    known, mask = (_as_batch(value, x_T, name) for value, name in ((known, "known"), (mask, "mask")))
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("the mask holds other values than 0 and 1, expected 1 where the data are known, else 0.")
    known = torch.where(mask == 1, known, 0)
    check_data(known, "known")
    return _inpainting(eps_model, x_T, schedule, grid, known, mask == 1, n_resamplings, generator)


sample_inpaint = run_to_end(inpaint_steps, "sample_inpaint", last_x)


def _as_batch(value: Tensor, x: Tensor, name: str) -> Tensor:
    """A tensor spread out to the shape of x."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is {type(value).__name__}, expected a tensor.")
    try:
        return value.to(x.device, x.dtype).expand(x.shape)
    except RuntimeError:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {tuple(x.shape)} or a part of it.") from None


@torch.no_grad()
def _inpainting(
    eps_model: EpsModel,
    x_T: Tensor,
    schedule: NoiseSchedule,
    grid: list[int],
    known: Tensor,
    mask: Tensor,
    n_resamplings: int,
    generator: Generators,
) -> Iterator[State]:
    """The loop of `inpaint_steps` over what it has checked."""
    work, dtype = working_dtype(x_T), x_T.dtype
    x, known = x_T.to(work), known.to(work)

    def noise() -> Tensor:
        return gaussian_noise(x_T, generator).to(work)

    for t, s in itertools.pairwise(grid):
        # The step to the data adds no noise: there is nothing to do again.
        for k in range(n_resamplings if s > 0 else 1):
            if k:
                ratio = (schedule.alpha_bar[t] / schedule.alpha_bar[s]).item()
                x = ratio**0.5 * x + (1 - ratio) ** 0.5 * noise()
            eps = evaluate_eps(eps_model, x.to(dtype), t).to(work)
            x0_hat = (x - schedule.noise[t].item() * eps) / schedule.signal[t].item()
            last, (on_x, on_x0, _) = x, reverse_coefficients(schedule, t, s, eta=1.0)
            x = on_x * x + on_x0 * x0_hat
            if s > 0:
                x = torch.where(
                    mask, perturb_input(known, s, noise(), schedule), x + large_sigma(schedule, t, s) * noise()
                )
        yield State(t, last.to(dtype), x0_hat.to(dtype))
    x = torch.where(mask, known, x).to(dtype)
    yield State(0, x, x)
