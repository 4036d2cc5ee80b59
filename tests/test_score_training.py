"""The score networks and their objectives: the losses of `losses`, one network with two names, what training finds."""

import pytest
import torch
from torch import nn

from hw3utils.learning.networks import EpsMLP, ScoreMLP
from hw3utils.learning.objectives import DenoisingObjective, SlicedObjective
from hw3utils.learning.training import TrainConfig, fit, seeded
from hw3utils.losses import denoising_score_matching, implicit_score_matching, sliced_score_matching
from hw3utils.mixtures import GaussianMixture, student_mixture
from hw3utils.schedules import linear_schedule

SCHEDULE = linear_schedule()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


class Linear(nn.Module):
    """score(x) = -a x, with one parameter to find."""

    def __init__(self, start=0.2):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(start))

    def forward(self, x, sigma=0.0):
        return -self.a * x


def test_denoising_objective_is_the_weighted_loss(generator):
    network = ScoreMLP(conditional=True)
    objective = DenoisingObjective([1.0, 4.0, 9.0])
    x, sigma, z = objective.draw((torch.randn(500, 2, generator=generator),), generator)
    assert sorted(set(sigma.tolist())) == [1.0, 4.0, 9.0]

    level = sigma[:, None]
    by_hand = sigma**2 * (network(x + level * z, sigma) + z / level).square().sum(1) / 2
    torch.testing.assert_close(objective(network, x, sigma, z), by_hand)
    # The same noise through the public loss.
    state = torch.Generator().manual_seed(3)
    noise = torch.randn(x.shape, generator=state)
    want = denoising_score_matching(network, x, sigma, sigma_weighted=True, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(objective(network, x, sigma, noise), want)


@pytest.mark.parametrize("variance_reduced", [False, True])
def test_sliced_objective_is_the_loss_of_one_projection(variance_reduced, generator):
    network = ScoreMLP()
    objective = SlicedObjective(variance_reduced=variance_reduced)
    x, v = objective.draw((torch.randn(30, 2, generator=generator),), generator)
    want = sliced_score_matching(network, x, projection=lambda *_: v, variance_reduced=variance_reduced)
    torch.testing.assert_close(objective(network, x, v), want)
    exact = SlicedObjective(exact=True)
    torch.testing.assert_close(exact(network, x, v), implicit_score_matching(network, x))


@pytest.mark.parametrize(
    ("objective", "variance"),
    [(DenoisingObjective(1.5), 2.0**2 + 1.5**2), (SlicedObjective(), 2.0**2), (SlicedObjective(exact=True), 2.0**2)],
)
def test_fit_finds_the_score_that_its_loss_is_least_at(objective, variance, generator):
    # The score of N(0, s^2) is -x / s^2: one parameter, and the data's own variance decides it.
    x = torch.randn(4000, 2, generator=generator)
    x = 2.0 * (x - x.mean(0)) / x.std(0)
    network = Linear()
    losses = fit(network, x, objective, TrainConfig(steps=1500, lr=0.01, batch_size=256, ema_decay=0.99, seed=1))
    assert len(losses) == 1500
    assert not network.training
    assert float(network.a.detach()) * variance == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("sigmas", [0.0, [1.0, -1.0], [], [float("nan")]])
def test_denoising_objective_refuses_invalid_levels(sigmas):
    with pytest.raises(ValueError, match="sigmas"):
        DenoisingObjective(sigmas)


def test_eps_network_with_the_exact_score_is_the_exact_eps_model(generator):
    mixture = student_mixture(1)
    network = EpsMLP(schedule=SCHEDULE.card())

    class Exact(nn.Module):
        def forward(self, x, sigma):
            return mixture.score_model()(x, sigma)

    network.score = Exact()
    t = torch.randint(1, SCHEDULE.T + 1, (400,), generator=generator)
    x = 4 * torch.randn(400, 2, generator=generator)
    torch.testing.assert_close(network(x, t), mixture.eps_model(SCHEDULE)(x, t), rtol=1e-3, atol=1e-4)


def test_conditional_network_has_the_right_size_far_out():
    # Far from all data the score of p_sigma is -x / sigma^2: a fresh network's answer shrinks as 1 / sigma.
    network = seeded(lambda: ScoreMLP(conditional=True), 0)
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(1))
    sizes = [float(network(sigma * x, sigma).detach().norm(dim=1).mean()) * sigma for sigma in (5.0, 50.0)]
    assert 0.3 < sizes[0] / sizes[1] < 3


def test_training_at_one_noise_level_comes_near_the_exact_score(generator):
    mixture = GaussianMixture([0.4, 0.6], torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), [1.0, 1.0])
    network = seeded(lambda: ScoreMLP(width=64), 0)
    config = TrainConfig(steps=800, lr=1e-3, batch_size=256, ema_decay=0.99, seed=2)
    fit(network, mixture.sample(20_000, generator), DenoisingObjective(2.0), config)
    exact = mixture.perturbed(1.0, 2.0)
    x = exact.sample(4000, generator)
    with torch.no_grad():
        error = (network(x) - exact.score(x)).square().sum() / exact.score(x).square().sum()
    assert float(error) ** 0.5 < 0.1
