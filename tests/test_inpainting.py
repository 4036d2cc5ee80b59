"""Inpainting on a Gaussian, where the distribution of the open part given the known one is known."""

import pytest
import torch

from hw3utils.inpainting import inpaint_steps, sample_inpaint
from hw3utils.schedules import linear_schedule

MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64)
COVARIANCE = 0.5 * torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
SCHEDULE = linear_schedule(100, 0.001, 0.2)
KNOWN, MASK = torch.tensor([1.0, float("nan")], dtype=torch.float64), torch.tensor([1, 0])
# b given a: mean_b + S_ba / S_aa (a - mean_a), variance S_bb - S_ba^2 / S_aa.
TRUE_MEAN, TRUE_VARIANCE = -0.2 + 0.8 * (1.0 - 0.3), 0.5 * (1 - 0.8**2)


def eps_model(x, t):
    alpha_bar = SCHEDULE.alpha_bar[t[0]]
    whole = alpha_bar * COVARIANCE + (1 - alpha_bar) * torch.eye(2, dtype=torch.float64)
    return (1 - alpha_bar).sqrt() * torch.linalg.solve(whole, (x - alpha_bar.sqrt() * MEAN).T).T


def errors(**options):
    """Of the mean and of the variance of the open part."""
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    x = sample_inpaint(eps_model, x_T, SCHEDULE, known=KNOWN, mask=MASK, generator=generator, **options)
    assert (x[:, 0] == 1.0).all()
    return abs(float(x[:, 1].mean()) - TRUE_MEAN), abs(float(x[:, 1].var()) - TRUE_VARIANCE)


def test_resampling_brings_the_open_part_to_its_conditional_distribution():
    once, often, best = (errors(n_resamplings=k) for k in (1, 5, 20))
    assert once[0] > 0.15 > often[0] > best[0]
    assert once[1] > often[1] > best[1]
    # Standard errors at 4,000 samples: 0.007 and 0.004.
    assert best[0] < 0.04
    assert best[1] < 0.03


def test_the_number_of_model_calls_is_what_is_said():
    calls = []

    def counted(x, t):
        calls.append(int(t[0]))
        return eps_model(x, t)

    states = list(inpaint_steps(counted, torch.zeros(1, 2).double(), SCHEDULE, known=KNOWN, mask=MASK, steps=5))
    assert len(calls) == 5 * 10 - 10 + 1
    assert [state.t for state in states] == [100, 80, 60, 40, 20, 0]


def test_nothing_known_is_plain_ddpm_in_distribution():
    generator = torch.Generator().manual_seed(1)
    x_T = torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    options = {"known": KNOWN, "mask": torch.zeros(2), "n_resamplings": 1, "generator": generator}
    x = sample_inpaint(eps_model, x_T, SCHEDULE, **options)
    assert (x.mean(0) - MEAN).abs().max() < 0.05
    assert (x.T.cov() - COVARIANCE).abs().max() < 0.06


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mask": torch.tensor([0.5, 0])}, "other values than 0 and 1"),
        ({"known": torch.zeros(3)}, r"known has shape \(3,\)"),
        ({"known": torch.tensor([float("nan"), 1.0])}, "known"),
        ({"n_resamplings": 0}, "n_resamplings is 0"),
        ({"mask": [1, 0]}, "mask is list"),
    ],
)
def test_bad_input_is_one_sentence(options, said):
    given = {"known": KNOWN, "mask": MASK} | options
    with pytest.raises(ValueError, match=said):
        sample_inpaint(eps_model, torch.zeros(1, 2).double(), SCHEDULE, **given)
