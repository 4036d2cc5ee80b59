"""Substitutes for missing answers, so that a notebook can go on, where the package has no function for them."""

from collections.abc import Callable

import torch
from torch import Tensor

from hw3utils.langevin import ascent, langevin


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
