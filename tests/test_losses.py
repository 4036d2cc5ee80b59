"""The noise-prediction loss, on models whose loss is known."""

import pytest
import torch
from torch.testing import assert_close

from hw3utils.losses import noise_prediction_loss
from hw3utils.mixtures import GaussianMixture
from hw3utils.schedules import linear_schedule

SCHEDULE = linear_schedule()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_loss_is_the_mean_square_of_each_sample():
    x0, eps = torch.randn(5, 3, 4, 4, generator=generator()), torch.randn(5, 3, 4, 4, generator=generator(1))
    t = torch.tensor([1, 10, 100, 500, 1000])
    guess = torch.randn(5, 3, 4, 4, generator=generator(2))
    loss = noise_prediction_loss(lambda x, t: guess, x0, t, eps, SCHEDULE)
    assert_close(loss, torch.stack([((eps[i] - guess[i]) ** 2).mean() for i in range(5)]))
    assert noise_prediction_loss(lambda x, t: eps, x0, t, eps, SCHEDULE).tolist() == [0] * 5


@pytest.mark.parametrize("t", [7, torch.tensor(7), torch.tensor([7, 7, 7]), torch.tensor([7, 7, 7], dtype=torch.int32)])
def test_the_model_gets_x_t_and_one_int64_step_per_sample(t):
    x0, eps = torch.randn(3, 2, generator=generator()), torch.randn(3, 2, generator=generator(1))
    seen = []

    def model(x_t, t):
        seen.append((x_t, t))
        return x_t

    noise_prediction_loss(model, x0, t, eps, SCHEDULE)
    x_t, steps = seen[0]
    abar = SCHEDULE.alpha_bar[7].item()
    assert_close(x_t, abar**0.5 * x0 + (1 - abar) ** 0.5 * eps)
    assert steps.dtype == torch.int64
    assert steps.tolist() == [7, 7, 7]


def test_the_exact_model_has_the_smallest_loss_and_the_value_known_for_a_gaussian():
    # eps given x_t is Gaussian with variance abar s^2 / (abar s^2 + 1 - abar), which no predictor gets under.
    std, t, n = 0.6, 300, 200_000
    data = GaussianMixture([1.0], [[0.5]], std**2)
    x0 = data.sample(n, generator(), dtype=torch.float64)
    eps = torch.randn(n, 1, generator=generator(1), dtype=torch.float64)
    exact = data.eps_model(SCHEDULE)
    abar = SCHEDULE.alpha_bar[t].item()
    expected = abar * std**2 / (abar * std**2 + 1 - abar)
    loss = {a: noise_prediction_loss(lambda x, t, a=a: a * exact(x, t), x0, t, eps, SCHEDULE) for a in (0.9, 1.0, 1.1)}
    assert loss[1.0].mean().item() == pytest.approx(expected, abs=4 * loss[1.0].std().item() / n**0.5)
    assert loss[1.0].mean() < loss[0.9].mean()
    assert loss[1.0].mean() < loss[1.1].mean()


def test_gradients_reach_the_model():
    scale = torch.tensor(0.5, requires_grad=True)
    x0, eps = torch.randn(4, 2, generator=generator()), torch.randn(4, 2, generator=generator(1))
    noise_prediction_loss(lambda x, t: scale * x, x0, 10, eps, SCHEDULE).mean().backward()
    assert scale.grad.abs() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x0": torch.zeros(3)}, r"x0 has shape \(3,\)"),
        ({"x0": torch.zeros(3, 2, dtype=torch.uint8)}, r"x0 is a tensor of torch.uint8"),
        ({"eps": torch.zeros(3, 1)}, r"eps has shape \(3, 1\)"),
        ({"eps": torch.full((3, 2), torch.nan)}, r"eps holds NaN or infinity"),
        ({"t": 0}, r"t is 0.*1\.\.1000"),
        ({"t": torch.tensor([1, 2, 1001])}, r"t lies in 1\.\.1001.*1\.\.1000"),
        ({"t": torch.tensor([1, 2])}, r"t has shape \(2,\)"),
        ({"t": torch.rand(3)}, r"t has dtype torch.float32"),
        ({"eps_model": lambda x, t: x[:, :1]}, r"the eps_model returned shape \(3, 1\)"),
        ({"eps_model": lambda x, t: None}, r"the eps_model returned NoneType"),
        ({"schedule": 1000}, r"schedule is int"),
    ],
)
def test_wrong_arguments_are_named_in_one_sentence(arguments, message):
    right = {
        "eps_model": lambda x, t: x,
        "x0": torch.zeros(3, 2),
        "t": 5,
        "eps": torch.zeros(3, 2),
        "schedule": SCHEDULE,
    }
    with pytest.raises(ValueError, match=message):
        noise_prediction_loss(**right | arguments)
