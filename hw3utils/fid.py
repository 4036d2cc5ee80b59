"""Distances between sets of pictures."""

import torch
from torch import Tensor


def frechet_distance(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians, in float64.

        d^2 = |mean_1 - mean_2|^2 + tr(cov_1) + tr(cov_2) - 2 tr((cov_1^(1/2) cov_2 cov_1^(1/2))^(1/2))

    The trace of the last term is the sum of the square roots of the eigenvalues of a symmetric matrix: no square root
    of a product is taken, and singular covariances are no exception.

    Args:
        mean_1, mean_2: means, shape (D,).
        cov_1, cov_2: covariances, symmetric, shape (D, D).

    Returns:
        The squared distance, at least 0, in squared units of the features.

    Raises:
        ValueError: when a shape does not fit, a matrix is not symmetric, or a value is not finite.

    Source: Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500, section 3 (the FID).

    >>> frechet_distance(torch.zeros(1), torch.eye(1), torch.ones(1), 4 * torch.eye(1))
    2.0
    """
    mean_1, cov_1 = _statistics(mean_1, cov_1, "1")
    mean_2, cov_2 = _statistics(mean_2, cov_2, "2")
    if mean_1.shape != mean_2.shape:
        raise ValueError(f"the two Gaussians have {len(mean_1)} and {len(mean_2)} dimensions, expected the same.")
    values, vectors = torch.linalg.eigh(cov_1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    # Rounding can leave a zero eigenvalue slightly negative.
    overlap = torch.linalg.eigvalsh(root @ cov_2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean_1 - mean_2).square().sum() + cov_1.trace() + cov_2.trace() - 2 * overlap
    return max(float(distance), 0.0)


def _statistics(mean: Tensor, cov: Tensor, which: str) -> tuple[Tensor, Tensor]:
    """Mean and covariance in float64 on the CPU, or a clear error."""
    mean, cov = (torch.as_tensor(value).detach().cpu().double() for value in (mean, cov))
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise ValueError(
            f"mean_{which} has shape {tuple(mean.shape)} and cov_{which} {tuple(cov.shape)}, expected (D,) and (D, D)."
        )
    if not (mean.isfinite().all() and cov.isfinite().all()):
        raise ValueError(f"mean_{which} or cov_{which} holds NaN or infinity, expected finite numbers.")
    if not torch.allclose(cov, cov.mT, rtol=1e-4, atol=1e-6 * float(cov.abs().max())):
        raise ValueError(f"cov_{which} is not symmetric, expected a covariance matrix.")
    return mean, (cov + cov.mT) / 2
