"""Langevin samplers by their identities: stationary variance, detailed balance, mode weights."""

import itertools
import math

import pytest
import torch

from hw3utils.langevin import (
    acceptance_log_ratio,
    annealed_langevin,
    annealed_langevin_steps,
    ascent,
    denoise,
    langevin,
    langevin_steps,
    mala,
)
from hw3utils.mixtures import GaussianMixture
from hw3utils.schedules import geometric_sigmas


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal_score(x, sigma):
    return -x / (1 + sigma**2)


def normal(n, d=1, seed=1):
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def toy():
    """The toy of the NCSN paper: 0.8 N((5, 5), I) + 0.2 N((-5, -5), I)."""
    means = torch.tensor([[5.0, 5.0], [-5.0, -5.0]], dtype=torch.float64)
    return GaussianMixture([0.8, 0.2], means, torch.ones(2, dtype=torch.float64))


@pytest.fixture(scope="module")
def starts():
    return 16 * torch.rand(1000, 2, generator=generator(5), dtype=torch.float64) - 8


def big_mode(x):
    return float((x.sum(1) > 0).double().mean())


@pytest.mark.parametrize("a", [0.1, 0.5, 1.0])
def test_stationary_variance_on_a_gaussian_has_the_known_bias(a):
    x = langevin(normal_score, normal(40_000), step_size=a, n_steps=int(12 / a), generator=generator())
    assert float(x.var()) == pytest.approx(1 / (1 - a / 4), abs=5 * math.sqrt(2 / 40_000) / (1 - a / 4))


def test_one_step_has_the_moments_of_its_formula():
    x = torch.full((40_000, 1), 2.0, dtype=torch.float64)
    y = langevin(normal_score, x, step_size=0.3, n_steps=1, sigma=1.0, generator=generator())
    assert float(y.mean()) == pytest.approx(2 - 0.15 * 2 / 2, abs=5 * math.sqrt(0.3 / 40_000))
    assert float(y.var()) == pytest.approx(0.3, rel=5 * math.sqrt(2 / 40_000))


def test_mala_has_none_of_that_bias():
    x = mala(
        lambda x: -x.square().sum(1) / 2, normal_score, normal(40_000), step_size=1.0, n_steps=12, generator=generator()
    )
    assert float(x.var()) == pytest.approx(1.0, abs=5 * math.sqrt(2 / 40_000))


def test_acceptance_keeps_detailed_balance(toy):
    x, y = normal(50, 2), normal(50, 2, seed=2)
    score, a = toy.score_model(), 0.4
    there = acceptance_log_ratio(toy.log_prob, score, x, y, step_size=a)
    back = acceptance_log_ratio(toy.log_prob, score, y, x, step_size=a)
    torch.testing.assert_close(there, -back)

    def flow(x, y, ratio):
        """Log of p(x) q(y | x) min(1, ratio)."""
        mean = x + a / 2 * score(x, 0.0)
        return toy.log_prob(x) - (y - mean).square().sum(1) / (2 * a) + ratio.clamp(max=0)

    torch.testing.assert_close(flow(x, y, there), flow(y, x, back))


def test_ascent_ends_at_the_modes_and_samples_nothing(toy, starts):
    x = ascent(toy.score_model(), starts, step_size=0.1, n_steps=2000)
    distance = torch.cdist(x, toy.means).min(1).values
    assert float(distance.max()) < 0.01
    assert big_mode(x) == pytest.approx(0.5, abs=0.06)


def test_annealed_finds_the_weights_that_plain_langevin_does_not(toy, starts):
    score = toy.score_model()
    plain = langevin(score, starts, step_size=0.1, n_steps=1000, generator=generator())
    sigmas = geometric_sigmas(20, 1, 10)
    annealed = annealed_langevin(score, starts, sigmas, step_size=0.1, n_steps=100, generator=generator())
    assert big_mode(plain) == pytest.approx(0.5, abs=0.06)
    assert big_mode(annealed) == pytest.approx(0.8, abs=0.06)


def test_annealed_step_sizes_and_levels():
    seen = []

    def score(x, sigma):
        seen.append(sigma)
        return torch.zeros_like(x)

    x = torch.zeros(20_000, 1, dtype=torch.float64)
    states = list(annealed_langevin_steps(score, x, [4.0, 2.0], step_size=0.5, n_steps=3, generator=generator()))
    assert seen == [4.0] * 3 + [2.0] * 3
    assert len(states) == 7
    jumps = [float((b - a).var()) for a, b in itertools.pairwise(states)]
    assert jumps == pytest.approx([2.0] * 3 + [0.5] * 3, rel=0.06)


def test_denoising_gives_the_posterior_mean(toy):
    x = toy.perturbed(1.0, 2.0).sample(20, generator(), dtype=torch.float64)
    torch.testing.assert_close(denoise(toy.score_model(), x, 2.0), toy.posterior_mean(x, 1.0, 2.0))


def test_same_seed_same_bits_and_the_start_is_kept(toy, starts):
    kept = starts.clone()
    runs = [
        langevin(toy.score_model(), starts, step_size=0.1, n_steps=5, generator=generator(seed)) for seed in (3, 3, 4)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(starts, kept)
    states = list(langevin_steps(toy.score_model(), starts, step_size=0.1, n_steps=5, generator=generator(3)))
    assert torch.equal(states[0], starts)
    assert torch.equal(states[-1], runs[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: langevin(normal_score, x, step_size=0.0, n_steps=1), "step_size is 0.0"),
        (lambda x: langevin(normal_score, x, step_size=math.nan, n_steps=1), "step_size is nan"),
        (lambda x: langevin(normal_score, x, step_size=0.1, n_steps=-1), "n_steps is -1"),
        (lambda x: langevin(normal_score, x, step_size=0.1, n_steps=1, sigma=-1.0), "sigma is -1.0"),
        (lambda x: langevin(normal_score, x[0], step_size=0.1, n_steps=1), r"shape \(2,\)"),
        (lambda x: langevin(normal_score, x * math.nan, step_size=0.1, n_steps=1), "NaN"),
        (lambda x: langevin(lambda x, s: x[:1], x, step_size=0.1, n_steps=1), "score returned shape"),
        (lambda x: ascent(lambda x, s: x / 0, x, step_size=0.1, n_steps=1), "score returned NaN"),
        (lambda x: annealed_langevin(normal_score, x, [1.0, 2.0], step_size=0.1, n_steps=1), "sigmas"),
        (lambda x: annealed_langevin(normal_score, x, [], step_size=0.1, n_steps=1), "sigmas"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(3, 2))
