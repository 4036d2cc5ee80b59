"""Models that are themselves gradients (energies, classifier guidance) go into every sampler, as plain ones do."""

import pytest
import torch

from hw3utils.flows import predictor_corrector, sample_heun, sample_sde
from hw3utils.langevin import acceptance_log_ratio, annealed_langevin, ascent, denoise, langevin, mala
from hw3utils.mixtures import GaussianMixture
from hw3utils.samplers import ddim_invert, sample_ddim, sample_ddpm, sample_dpm_solver
from hw3utils.schedules import linear_schedule
from hw3utils.velocities import sample_flow, velocity_model

MIXTURE = GaussianMixture([0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [0.04, 0.09])
SCHEDULE = linear_schedule(50, 0.002, 0.4)
X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gradient(log_prob, x):
    return torch.autograd.grad(log_prob(x).sum(), x)[0]


def energy_score(x, sigma=0.0):
    """The score as the derivative of a log density; it marks its own input, as people write it."""
    x.requires_grad_()
    return gradient(MIXTURE.perturbed(1.0, sigma).log_prob, x)


def energy_eps(x, t):
    signal, noise = SCHEDULE.signal[t[0]], SCHEDULE.noise[t[0]]
    return -noise * gradient(MIXTURE.perturbed(signal, noise).log_prob, x)


def energy_velocity(x, s):
    """u = -(x + s score(x, s)) / (1 - s) on the straight path; at s = 1, where it is 0 / 0, the plain formula."""
    if float(s[0]) > 0.999:
        return velocity_model(MIXTURE)(x, s)
    signal, noise = 1 - s[0], s[0]
    return -(x + noise * gradient(MIXTURE.perturbed(signal, noise).log_prob, x)) / signal


def generator():
    return torch.Generator().manual_seed(1)


EPS = {
    "DDPM": lambda eps: sample_ddpm(eps, X, SCHEDULE, generator=generator()),
    "DDIM": lambda eps: sample_ddim(eps, X, SCHEDULE, steps=10),
    "DPM-Solver++": lambda eps: sample_dpm_solver(eps, X, SCHEDULE, steps=10),
    "inversion": lambda eps: ddim_invert(eps, X, SCHEDULE, steps=10),
    "Heun": lambda eps: sample_heun(eps, X, SCHEDULE, steps=10),
    "SDE": lambda eps: sample_sde(eps, X, SCHEDULE, steps=10, generator=generator()),
}
SCORE = {
    "ascent": lambda score: ascent(score, X, step_size=0.01, n_steps=5),
    "Langevin": lambda score: langevin(score, X, step_size=0.01, n_steps=5, generator=generator()),
    "MALA": lambda score: mala(MIXTURE.log_prob, score, X, step_size=0.01, n_steps=5, generator=generator()),
    "acceptance": lambda score: acceptance_log_ratio(MIXTURE.log_prob, score, X, X + 0.1, step_size=0.1),
    "annealed": lambda score: annealed_langevin(
        score, X, [3.0, 1.0, 0.3], step_size=0.1, n_steps=5, generator=generator()
    ),
    "denoise": lambda score: denoise(score, X, 0.5),
    "predictor-corrector": lambda score: predictor_corrector(score, X, [3.0, 1.0], generator=generator()),
}


def same(made, wanted):
    made, wanted = (value if isinstance(value, tuple) else (value,) for value in (made, wanted))
    for one, other in zip(made, wanted, strict=True):
        assert not one.requires_grad
        assert torch.allclose(one.double(), other.double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", EPS)
def test_an_eps_model_that_is_a_gradient(name):
    same(EPS[name](energy_eps), EPS[name](MIXTURE.eps_model(SCHEDULE)))


@pytest.mark.parametrize("name", SCORE)
def test_a_score_that_is_a_gradient(name):
    same(SCORE[name](energy_score), SCORE[name](lambda x, sigma: MIXTURE.perturbed(1.0, sigma).score(x)))


def test_a_velocity_that_is_a_gradient():
    same(sample_flow(energy_velocity, X, steps=10), sample_flow(velocity_model(MIXTURE), X, steps=10))


def test_classifier_guidance_of_the_mixture_is_the_class_alone():
    """eps - noise grad log p(y | x_t): with the true classifier, exactly the eps of that class."""
    one = GaussianMixture([1.0], [[1.0, 0.0]], [0.09])

    def guided(x, t):
        signal, noise = SCHEDULE.signal[t[0]], SCHEDULE.noise[t[0]]
        all_classes, part = MIXTURE.perturbed(signal, noise), one.perturbed(signal, noise)
        classifier = gradient(lambda x: part.log_prob(x) - all_classes.log_prob(x), x)
        return MIXTURE.eps_model(SCHEDULE)(x, t) - noise * classifier

    same(sample_ddim(guided, X, SCHEDULE, steps=10), sample_ddim(one.eps_model(SCHEDULE), X, SCHEDULE, steps=10))


def test_other_errors_of_a_model_are_its_own():
    def broken(x, t):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        sample_ddim(broken, X, SCHEDULE, steps=2)
