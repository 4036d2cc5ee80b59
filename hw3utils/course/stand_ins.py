"""Substitutes for missing answers, so that a notebook can go on, where the package has no function for them.

They are here and not in the notebooks, where each would give away the answer of the exercise above it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hw3utils.langevin import ascent, langevin
from hw3utils.noise import EpsModel
from hw3utils.samplers import sample_ddim, sample_ddpm
from hw3utils.schedules import NoiseSchedule


def training_step(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a step of algorithm 1 of DDPM, with a moving average of the weights: Q1.P3.

    Args:
        loss: callable (network, x0, t, eps, schedule) -> the loss, one number.

    Returns:
        The function (network, optimizer, average, x0, schedule, generator, decay) -> the loss before the update.

    Source: Ho, Jain and Abbeel 2020, arXiv 2006.11239, algorithm 1.
    """

    def step(
        network: nn.Module, optimizer: torch.optim.Optimizer, average: Sequence[Tensor], x0: Tensor,
        schedule: NoiseSchedule, generator: torch.Generator, decay: float,
    ) -> Tensor:  # fmt: skip
        t = torch.randint(1, schedule.T + 1, (len(x0),), generator=generator, device=generator.device)
        eps = torch.randn(x0.shape, generator=generator, device=generator.device)
        value = loss(network, x0, t, eps, schedule)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(average, network.parameters(), strict=True):
                mean += (1 - decay) * (weight - mean)
        return value.detach()

    return step


def sampling_pair(
    network: EpsModel, schedule: NoiseSchedule, start: Callable[[int], Tensor]
) -> tuple[Callable[[int], Tensor], Callable[[int], Tensor]]:
    """Make two functions of n that sample n pictures, by all steps of DDPM and by fifty of DDIM: Q1.P6.

    Args:
        network: an eps_model.
        schedule: its noise schedule.
        start: callable n -> x_T, shape (n, ...).

    Returns:
        Both functions. DDPM has the variance of the posterior, and the seed 1.
    """

    def ddpm(n: int) -> Tensor:
        return sample_ddpm(
            network, start(n), schedule, variance="posterior", generator=torch.Generator().manual_seed(1)
        )

    def ddim(n: int) -> Tensor:
        return sample_ddim(network, start(n), schedule, steps=50)

    return ddpm, ddim


def guided(none: Tensor, label: Tensor, w: float) -> Tensor:
    """Combine the predictions without and with the label, of one shape, to that with guidance w.

    Source: Ho and Salimans 2022, arXiv 2207.12598, equation 6, with 1 + w there for w here.
    """
    return none + w * (label - none)


def denoising_loss(score: Callable[[Tensor, float], Tensor], x: Tensor, sigma: float, z: Tensor) -> Tensor:
    """Return |score(x + sigma z, sigma) + z / sigma|^2 / 2 for points x and noises z (N, D), shape (N,): Q2.P2.

    Source: Vincent 2011, equation 9.
    """
    return (score(x + sigma * z, sigma) + z / sigma).square().sum(1) / 2


def log_prob(
    velocity: Callable[[Tensor, float], Tensor], divergence: Callable[[Tensor, float], Tensor], x: Tensor,
    base: Callable[[Tensor], Tensor], steps: int,
) -> Tensor:  # fmt: skip
    """Compute the log density of points of a flow by Euler steps from s = 0 to 1: section 07.3.

    Args:
        velocity, divergence: callables (x (N, D), s) -> (N, D) and (N,).
        x: points at s = 0, shape (N, D).
        base: callable, the log density at s = 1, (N, D) -> (N,).
        steps: number of steps.

    Returns:
        log p of each point, shape (N,).

    Source: Song et al. 2021, arXiv 2011.13456, appendix D.2; Grathwohl et al. 2019, arXiv 1810.01367.
    """
    change = torch.zeros(len(x), dtype=x.dtype)
    for i in range(steps):
        change = change + divergence(x, i / steps) / steps
        x = x + velocity(x, i / steps) / steps
    return base(x) + change


def ends_of_both(
    score: Callable[[Tensor, float], Tensor], starts: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Run 500 steps of size 0.1 from the same starts, without noise and by Langevin dynamics: Q2.P4.

    Args:
        score: callable (x, sigma) -> score, as `GaussianMixture.score_model` gives.
        starts: points, shape (N, D).
        generator: source of Langevin's noise.

    Returns:
        The ends under the names "deterministic" and "langevin", shape (N, D) each.

    Raises:
        ValueError: as `ascent` and `langevin`.

    Source: Song and Ermon 2019, arXiv 1907.05600, equation 4.
    """
    return {
        "deterministic": ascent(score, starts, step_size=0.1, n_steps=500),
        "langevin": langevin(score, starts, step_size=0.1, n_steps=500, generator=generator),
    }
