"""Distances between samples, against closed forms for Gaussians."""

import math

import pytest
import torch

from hw3utils.divergences import energy_distance, floor, grid_kl, mode_weights, sliced_wasserstein
from hw3utils.mixtures import GaussianMixture


def normal(n, d=2, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions():
    return torch.Generator().manual_seed(9)


def test_wasserstein_of_a_shift_is_the_mean_square_of_its_projections():
    x, shift = normal(200), torch.tensor([3.0, 4.0], dtype=torch.float64)
    got = sliced_wasserstein(x, x + shift, n_projections=20_000, generator=directions())
    assert got == pytest.approx(5 / math.sqrt(2), rel=0.02)


def test_wasserstein_of_a_scaling_is_that_of_the_standard_deviations():
    x = normal(50_000, 1)
    assert sliced_wasserstein(x, 3 * x, n_projections=3) == pytest.approx(2 * float(x.square().mean().sqrt()), rel=1e-9)


def test_wasserstein_of_unequal_sizes():
    x = normal(300)
    assert sliced_wasserstein(x, x.repeat(4, 1), generator=directions()) == pytest.approx(0, abs=1e-9)
    y = x[:1].expand(7, 2).contiguous()
    want = math.sqrt(float((x - x[0]).square().sum(1).mean() / 2))
    assert sliced_wasserstein(x, y, n_projections=20_000, generator=directions()) == pytest.approx(want, rel=0.02)


def test_wasserstein_is_symmetric_and_zero_to_itself():
    x, y = normal(100), normal(70, seed=1)
    there, back = (sliced_wasserstein(*pair, generator=directions()) for pair in ((x, y), (y, x)))
    assert there == pytest.approx(back, rel=1e-9)
    assert sliced_wasserstein(x, x.flip(0)) == 0


def test_energy_distance_of_two_normals_on_the_line():
    x, y = normal(4_000, 1), normal(4_000, 1, seed=1) + 2
    # E|N(m, s^2)| = s sqrt(2 / pi) exp(-m^2 / 2 s^2) + m erf(m / s sqrt 2), with s^2 = 2.
    across = 2 / math.sqrt(math.pi) * math.exp(-1) + 2 * math.erf(1)
    assert energy_distance(x, y) == pytest.approx(2 * across - 4 / math.sqrt(math.pi), abs=0.1)
    assert abs(energy_distance(x, normal(4_000, 1, seed=2))) < 0.01


def test_grid_kl_is_small_for_the_truth_and_known_for_a_shift():
    mixture = GaussianMixture([1.0], torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    x = normal(400_000)
    options = {"low": -6.0, "high": 6.0, "bins": 24}
    assert grid_kl(x, mixture.log_prob, **options) < 2e-3
    # KL between unit normals at distance 1 is 1 / 2; cells of width 1 / 2 and empty ones in the tail take a little.
    assert grid_kl(x + torch.tensor([1.0, 0.0]), mixture.log_prob, **options) == pytest.approx(0.5, abs=0.03)


def test_mode_weights_of_far_components_are_their_shares():
    means = torch.tensor([[5.0, 5.0], [-5.0, -5.0]], dtype=torch.float64)
    mixture = GaussianMixture([0.8, 0.2], means, torch.ones(2, dtype=torch.float64))
    x = torch.cat([normal(300) + 5, normal(100, seed=1) - 5])
    torch.testing.assert_close(mode_weights(x, mixture), torch.tensor([0.75, 0.25], dtype=torch.float64))


def test_floor_falls_with_the_size():
    mixture = GaussianMixture([1.0], torch.zeros(1, 2), torch.ones(1))

    def distance(x, y):
        return sliced_wasserstein(x, y, generator=directions())

    small, large = (floor(distance, mixture, n, generator=torch.Generator().manual_seed(3)) for n in (100, 10_000))
    assert small / large == pytest.approx(10, rel=0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sliced_wasserstein(normal(5), normal(5, 3)), "y has 3 dimensions, expected 2"),
        (lambda: sliced_wasserstein(normal(5)[0], normal(5)), r"x has shape \(2,\)"),
        (lambda: sliced_wasserstein(normal(5), normal(5), n_projections=0), "n_projections is 0"),
        (lambda: energy_distance(normal(5), normal(5) * math.nan), "y holds NaN"),
        (lambda: energy_distance(normal(1), normal(5)), "N of at least 2"),
        (lambda: grid_kl(normal(5, 3), lambda x: x[:, 0]), "3 dimensions"),
        (lambda: grid_kl(normal(5), lambda x: x[:, 0], low=1.0, high=1.0), "low below high"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_default_grid_holds_what_is_eight_from_the_centre():
    density = GaussianMixture([1.0], [[8.0, -8.0]], [1.0])
    x = density.sample(50_000, torch.Generator().manual_seed(0))
    assert grid_kl(x, density.log_prob) < 0.01
    # A shift by (2, 2) has a KL of 4; outside of the grid all points are in one cell.
    assert grid_kl(x + 2, density.log_prob) > 1
