"""Inpainting by resampling: a part of the data is known, the sampler fills in the rest."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from hw3utils.arguments import check_count, check_data
from hw3utils.diffusion import perturb_input, x0_from_eps
from hw3utils.noise import EpsModel, Generators, InferenceModel, check_finite, gaussian_noise, working_dtype
from hw3utils.progress import last
from hw3utils.samplers import State, ddim_coefficients, sigma_hat
from hw3utils.schedules import NoiseSchedule
from hw3utils.time_grid import Steps, steps_to_grid


def sample_inpaint(
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
) -> Tensor:
    """Sample the unknown part of data given the part under the mask (RePaint, with jumps of one step).

    At each time the known part is the known data with fresh noise of that time, and the unknown part a DDPM step. The
    two do not agree at first. So the step is undone by adding its noise, and repeated from both parts together
    (resampling). With one resampling the unknown part hardly depends on the known one. More of them bring it closer to
    the conditional distribution; each takes a model call.

    Args:
        eps_model: callable (x_t, t) -> eps.
        x_T: initial state, shape (B, ...), normally standard normal noise.
        schedule: noise schedule.
        known: the known data, shape of x_T or one sample without the batch; outside the mask it is ignored.
        mask: 1 (or True) where the data are known, 0 where they are to be sampled; shape of `known`, or one that
            broadcasts to it.
        steps: None for every step, a number S in 1..T, or increasing time steps in 1..T that end at T.
        spacing: how S steps are spread, see `time_grid`.
        n_resamplings: how often each step is done, at least 1: S n_resamplings - n_resamplings + 1 model calls.
        generator: source of the noise: one generator, one per sample, or None for torch's default generator.

    Returns:
        The sample, shape and dtype of x_T; its known part is exactly what was given.

    Raises:
        ValueError: arguments out of range or of shapes that do not fit, a mask of other values than 0 and 1, or a model
            that returns another shape, NaN or infinity.

    Source: Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1.
    """
    states = inpaint_steps(
        eps_model,
        x_T,
        schedule,
        known=known,
        mask=mask,
        steps=steps,
        spacing=spacing,
        n_resamplings=n_resamplings,
        generator=generator,
    )
    return last(states).x


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
    """Yield the S + 1 states of `sample_inpaint`: at each time before the last repetition of its step, and at t = 0."""
    check_data(x_T, "x_T")
    grid = steps_to_grid(steps, schedule.T, spacing, schedule)
    n_resamplings = check_count(n_resamplings, "n_resamplings")
    known, mask = (_as_batch(value, x_T, name) for value, name in ((known, "known"), (mask, "mask")))
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("the mask holds other values than 0 and 1, expected 1 where the data are known, else 0.")
    known = torch.where(mask == 1, known, 0)
    check_data(known, "known")
    return _inpaint(eps_model, x_T, schedule, grid, known, mask == 1, n_resamplings, generator)


def _as_batch(value: Tensor, x: Tensor, name: str) -> Tensor:
    """A tensor expanded to the shape of x."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is {type(value).__name__}, expected a tensor.")
    try:
        return value.to(x.device, x.dtype).expand(x.shape)
    except RuntimeError:
        shapes = f"{tuple(value.shape)}, expected {tuple(x.shape)} or one that broadcasts to it"
        raise ValueError(f"{name} has shape {shapes}.") from None


@torch.no_grad()
def _inpaint(
    eps_model: EpsModel,
    x_T: Tensor,
    schedule: NoiseSchedule,
    grid: list[int],
    known: Tensor,
    mask: Tensor,
    n_resamplings: int,
    generator: Generators,
) -> Iterator[State]:
    """The loop of `inpaint_steps`, on checked arguments."""
    model, work, dtype = InferenceModel(eps_model), working_dtype(x_T), x_T.dtype
    x, known = x_T.to(work), known.to(work)

    def noise() -> Tensor:
        return gaussian_noise(x_T, generator).to(work)

    for t, s in itertools.pairwise(grid):
        # The step to t = 0 adds no noise, so it is not repeated.
        for k in range(n_resamplings if s > 0 else 1):
            if k:
                ratio = (schedule.alpha_bar[t] / schedule.alpha_bar[s]).item()
                x = ratio**0.5 * x + (1 - ratio) ** 0.5 * noise()
            eps = model.at(x.to(dtype), t).to(work)
            x0_hat = x0_from_eps(eps, x, schedule.signal[t].item(), schedule.noise[t].item())
            before, (coef_x, coef_x0, _) = x, ddim_coefficients(schedule, t, s, eta=1.0)
            x = coef_x * x + coef_x0 * x0_hat
            if s > 0:
                x = torch.where(
                    mask, perturb_input(known, s, noise(), schedule), x + sigma_hat(schedule, t, s) * noise()
                )
        yield State(t, before.to(dtype), x0_hat.to(dtype))
    x = torch.where(mask, known, x).to(dtype)
    check_finite(x, "the sample holds NaN or infinity, expected finite numbers: look at what the eps_model returns.")
    yield State(0, x, x)
