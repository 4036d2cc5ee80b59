"""Distances between samples and a density: KL, energy distance, sliced Wasserstein, mode weights.

Two samples of one density are not at distance 0. `floor` gives their mean distance, the sampling error.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hw3utils.arguments import check_count, check_data, check_number
from hw3utils.mixtures import GaussianMixture
from hw3utils.noise import check_per_sample, gaussian_noise


def _samples(x: Tensor, name: str, *, like: Tensor | None = None) -> Tensor:
    """Check samples (N, D) and convert them to float64 (not on MPS, which has none)."""
    check_data(x, name)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected samples (N, D) with N of at least 2.")
    if like is not None and x.shape[1] != like.shape[1]:
        raise ValueError(f"{name} has {x.shape[1]} dimensions, expected {like.shape[1]} as the other samples.")
    return x.detach() if x.device.type == "mps" else x.detach().double()


def sliced_wasserstein(
    x: Tensor, y: Tensor, *, n_projections: int = 200, generator: torch.Generator | None = None
) -> float:
    """Estimate the sliced 2-Wasserstein distance: exact in 1-D along random directions, root mean square over them.

    Args:
        x, y: samples, shapes (N, D) and (M, D).
        n_projections: directions, drawn evenly from the sphere.
        generator: source of the directions.

    Returns:
        The distance, in units of x.

    Raises:
        ValueError: samples of a wrong shape, NaN or infinity, n_projections below 1.

    Source: Rabin, Peyre, Delon and Bernot 2012; in 1-D the optimal plan pairs equal quantiles.

    >>> round(sliced_wasserstein(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [4.0]])), 6)
    3.0
    """
    x = _samples(x, "x")
    y = _samples(y, "y", like=x)
    n = check_count(n_projections, "n_projections")
    directions = gaussian_noise(x.new_empty(x.shape[1], n), generator)
    directions = directions / directions.norm(dim=0)
    a, b = _sorted(x @ directions), _sorted(y @ directions)
    if len(a) == len(b):
        return math.sqrt(float((a - b).square().mean()))
    # Both quantile functions are steps: between two of all their jumps each is constant.
    i, j = (torch.arange(1, len(z) + 1, device=x.device, dtype=x.dtype) / len(z) for z in (a, b))
    jumps = torch.cat([i, j]).sort().values
    width = jumps.diff(prepend=jumps.new_zeros(1))
    middle = jumps - width / 2
    at_a, at_b = ((middle * len(z)).long().clamp(max=len(z) - 1) for z in (a, b))
    return math.sqrt(float(((a[at_a] - b[at_b]).square() * width[:, None]).sum(0).mean()))


def _sorted(x: Tensor) -> Tensor:
    """The values of each column in ascending order. On the CPU NumPy's sort is several times faster than torch's."""
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.sort(x.detach().numpy(), axis=0))
    return x.sort(dim=0).values


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Estimate the squared energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'|, without bias.

    Args:
        x, y: samples, shapes (N, D) and (M, D).

    Returns:
        The estimate, in units of x; 0 on average for equal distributions, so it may come out below 0.

    Raises:
        ValueError: samples of a wrong shape, NaN or infinity.

    Source: Szekely and Rizzo 2013, equation 1.
    """
    x = _samples(x, "x")
    y = _samples(y, "y", like=x)
    within = sum(torch.cdist(z, z).sum() / (len(z) * (len(z) - 1)) for z in (x, y))
    return float(2 * torch.cdist(x, y).mean() - within)


def mode_weights(x: Tensor, mixture: GaussianMixture) -> Tensor:
    """Estimate the weight of each component: the mean responsibility of the mixture's components for the samples.

    Args:
        x: samples, shape (N, D).
        mixture: the density with these components.

    Returns:
        float64 (K,), adding up to 1.

    Raises:
        ValueError: samples of a wrong shape, NaN or infinity.
    """
    x = _samples(x, "x")
    return mixture.responsibilities(x).double().mean(0).cpu()


def grid_kl(
    x: Tensor, log_prob: Callable[[Tensor], Tensor], *, low: float = -12.0, high: float = 12.0, bins: int = 24
) -> float:
    """Estimate KL(density || samples) on a grid of the plane: cell masses of the density against counts.

    One half is added to the count of every cell (Krichevsky and Trofimov), so that an empty cell has a finite cost.
    The density is integrated in each cell by the midpoint rule, on 8 x 8 points or as many more as it needs.

    Args:
        x: samples, shape (N, 2).
        log_prob: log density, callable (M, 2) -> (M,).
        low, high: ends of the square.
        bins: cells along a side.

    Returns:
        The divergence in nats, at least 0; what lies outside the square is one more cell.

    Raises:
        ValueError: samples that are not in the plane, NaN or infinity, low not below high, a log_prob of another shape,
            or a density too narrow for the grid.
    """
    x = _samples(x, "x")
    if x.shape[1] != 2:
        raise ValueError(f"x has {x.shape[1]} dimensions, expected points of the plane.")
    bins = check_count(bins, "bins")
    low, high = check_number(low, "low"), check_number(high, "high")
    if not low < high:
        raise ValueError(f"the grid goes from {low} to {high}, expected low below high.")
    side = (high - low) / bins
    cell_mass = _cell_masses(log_prob, x, low, side, bins)
    mass = torch.cat([cell_mass.flatten(), (1 - cell_mass.sum()).clamp(min=0)[None]])
    cell = ((x.cpu() - low) / side).floor().long()
    inside = ((cell >= 0) & (cell < bins)).all(1)
    index = torch.where(inside, cell[:, 0] * bins + cell[:, 1], bins * bins)
    counts = torch.bincount(index, minlength=bins * bins + 1).double() + 0.5
    mass = mass / mass.sum()
    return float(torch.special.xlogy(mass, mass).sum() - torch.special.xlogy(mass, counts / counts.sum()).sum())


def _cell_masses(log_prob: Callable[[Tensor], Tensor], x: Tensor, low: float, side: float, bins: int) -> Tensor:
    """The mass of the density in each cell (bins, bins), by the coarsest rule that the next finer one confirms."""
    masses = _midpoint_rule(log_prob, low, side, bins, 8)
    peak = float(_densities(log_prob, x.cpu()).max())
    for n in (16, 32, 64):
        finer = _midpoint_rule(log_prob, low, side, bins, n)
        # A peak that lies between all points of both rules shows at the samples: no smooth density can be that high.
        if float((masses - finer).abs().sum()) < 0.01 and peak * (side / n) ** 2 < 1:
            return masses
        masses = finer
    raise ValueError(
        f"the density is too narrow for cells of side {side:g}: its integral does not converge; take more bins or a "
        "smaller square (bins, low, high)."
    )


def _midpoint_rule(log_prob: Callable[[Tensor], Tensor], low: float, side: float, bins: int, n: int) -> Tensor:
    """Cell masses (bins, bins) from n x n points in each cell."""
    centres = low + side * (torch.arange(bins * n, dtype=torch.float64) + 0.5) / n
    points = torch.cartesian_prod(centres, centres)
    return _densities(log_prob, points).reshape(bins, n, bins, n).mean((1, 3)) * side**2


def _densities(log_prob: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """The density at points (M, 2), float64 (M,)."""
    return check_per_sample(log_prob(points), points, "log_prob").detach().double().exp()


def floor(
    distance: Callable[[Tensor, Tensor], float],
    mixture: GaussianMixture,
    n: int,
    *,
    repeats: int = 10,
    generator: torch.Generator | None = None,
) -> float:
    """Mean distance of two samples of the mixture: the sampling error, which a perfect sampler has too.

    Args:
        distance: function of two samples (n, D).
        mixture: the density.
        n: samples in each set, at least 2.
        repeats: pairs of sets averaged.
        generator: source of the samples.

    Returns:
        The mean distance.

    Raises:
        ValueError: n or repeats out of range.
    """
    n, repeats = check_count(n, "n", low=2), check_count(repeats, "repeats")
    pairs = ((mixture.sample(n, generator), mixture.sample(n, generator)) for _ in range(repeats))
    return sum(distance(a, b) for a, b in pairs) / repeats
