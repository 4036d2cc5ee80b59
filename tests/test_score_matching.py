"""Score matching losses by their identities on a mixture whose score is known."""

import math

import pytest
import torch

from hw3utils.losses import (
    denoising_score_matching,
    explicit_score_matching,
    gaussian_projection,
    implicit_score_matching,
    rademacher_projection,
    sliced_score_matching,
    sphere_projection,
)
from hw3utils.mixtures import GaussianMixture

PROJECTIONS = [gaussian_projection, rademacher_projection, sphere_projection]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def mixture():
    means = torch.tensor([[-1.0, 0.5, 0.0], [1.0, -0.5, 0.3]], dtype=torch.float64)
    return GaussianMixture([0.3, 0.7], means, torch.tensor([0.5, 0.8], dtype=torch.float64))


def linear(matrix):
    return lambda x: x @ matrix.T


def test_implicit_is_trace_and_half_square_for_a_linear_score(generator):
    a = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    want = a.trace() + (x @ a.T).square().sum(1) / 2
    torch.testing.assert_close(implicit_score_matching(linear(a), x), want)


@torch.no_grad()
def test_implicit_and_explicit_differ_by_a_constant(mixture, generator):
    x = mixture.sample(40_000, generator, dtype=torch.float64)
    gaps = []
    for a, b in ((1.0, 0.0), (0.7, 0.1), (1.4, -0.2)):

        def score(x, a=a, b=b):
            return a * mixture.score(x) + b

        gap = explicit_score_matching(score, x, mixture.score) - implicit_score_matching(score, x)
        gaps.append((float(gap.mean()), float(gap.std()) / math.sqrt(len(x))))
    constant = float(mixture.score(x).square().sum(1).mean() / 2)
    assert all(abs(gap - constant) < 5 * error + 1e-9 for gap, error in gaps)
    assert gaps[0][0] == pytest.approx(constant, abs=5 * gaps[0][1])


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("variance_reduced", [False, True])
def test_sliced_is_unbiased_for_implicit(projection, variance_reduced, generator):
    a = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    x = torch.randn(1, 4, generator=generator, dtype=torch.float64).expand(40_000, 4)
    options = {"variance_reduced": variance_reduced, "projection": projection, "generator": generator}
    loss = sliced_score_matching(linear(a), x, **options)
    want = float(implicit_score_matching(linear(a), x[:1]).detach())
    assert abs(float(loss.mean()) - want) < 5 * float(loss.std()) / math.sqrt(len(x)) + 1e-12


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_directions_have_identity_covariance(projection, generator):
    v = projection(torch.zeros(50_000, 3, dtype=torch.float64), generator)
    torch.testing.assert_close(v.T @ v / len(v), torch.eye(3, dtype=torch.float64), atol=0.03, rtol=0)


@torch.no_grad()
def test_variance_reduction_and_more_projections_reduce_variance(generator):
    a = -torch.eye(6, dtype=torch.float64) + 0.1 * torch.randn(6, 6, generator=generator, dtype=torch.float64)
    x = torch.randn(1, 6, generator=generator, dtype=torch.float64).expand(4_000, 6)
    plain = sliced_score_matching(linear(a), x, generator=generator).var()
    reduced = sliced_score_matching(linear(a), x, variance_reduced=True, generator=generator).var()
    averaged = sliced_score_matching(linear(a), x, n_projections=8, generator=generator).var()
    assert reduced < 0.8 * plain
    assert averaged / plain == pytest.approx(1 / 8, rel=0.2)


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_denoising_is_least_at_the_perturbed_score(mixture, sigma):
    exact = mixture.perturbed(1.0, sigma)
    x = mixture.sample(20_000, torch.Generator().manual_seed(1), dtype=torch.float64)
    losses = {
        scale: float(
            denoising_score_matching(
                lambda x, s, scale=scale: scale * exact.score(x), x, sigma, generator=torch.Generator().manual_seed(2)
            ).mean()
        )
        for scale in (0.8, 0.9, 1.0, 1.1, 1.2)
    }
    assert min(losses, key=losses.get) == 1.0


def test_denoising_per_sample_levels_and_weighting(mixture):
    x = mixture.sample(6, torch.Generator().manual_seed(1), dtype=torch.float64)
    sigma = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    seen = []

    def score(x, sigma):
        seen.append(sigma)
        return -x

    plain = denoising_score_matching(score, x, sigma, generator=torch.Generator().manual_seed(3))
    weighted = denoising_score_matching(
        score, x, sigma, sigma_weighted=True, generator=torch.Generator().manual_seed(3)
    )
    torch.testing.assert_close(weighted, sigma**2 * plain)
    assert all(torch.equal(s, sigma) for s in seen)
    one = denoising_score_matching(score, x, 2.0, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(one[2], plain[2])


def test_the_loss_trains_the_score_by_every_route():
    x = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for loss in (
        lambda score: implicit_score_matching(score, x),
        lambda score: sliced_score_matching(score, x, generator=torch.Generator().manual_seed(5)),
    ):
        scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        loss(lambda x, scale=scale: -scale * x).mean().backward()
        # For N(0, I) the mean loss is -2 a + a^2, with the gradient 2 a - 2.
        assert float(scale.grad) == pytest.approx(-1.0, abs=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: implicit_score_matching(lambda x: x, torch.zeros(3)), r"shape \(3,\)"),
        (lambda: implicit_score_matching(lambda x: x[:, :1], torch.zeros(3, 2)), r"returned shape \(3, 1\)"),
        (lambda: implicit_score_matching(lambda x: x, torch.full((3, 2), math.nan)), "NaN"),
        (lambda: sliced_score_matching(lambda x: x, torch.zeros(3, 2), n_projections=0), "n_projections is 0"),
        (lambda: denoising_score_matching(lambda x, s: x, torch.zeros(3, 2), 0.0), "sigma is 0.0"),
        (lambda: denoising_score_matching(lambda x, s: x, torch.zeros(3, 2), torch.ones(2)), "expected 3 levels"),
        (lambda: denoising_score_matching(lambda x, s: None, torch.zeros(3, 2), 1.0), "NoneType"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rademacher_directions_are_signs_with_unit_covariance():
    v = rademacher_projection(torch.zeros(20_000, 2, dtype=torch.float64), torch.Generator().manual_seed(0))
    assert (v.abs() == 1).all()
    torch.testing.assert_close(v.T @ v / len(v), torch.eye(2, dtype=torch.float64), rtol=0, atol=0.03)
