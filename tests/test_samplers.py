"""Samplers against the truth: exact flows, exact marginals, each other, and the schedulers of diffusers.

Every model is the exact noise predictor of a Gaussian or of a mixture, so that what is left is the sampler's error.
"""

import functools
import itertools
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hw3utils.diffusion import posterior
from hw3utils.mixtures import GaussianMixture
from hw3utils.noise import sample_generators
from hw3utils.samplers import (
    ddim_coefficients,
    ddim_invert,
    ddim_invert_steps,
    ddim_steps,
    ddpm_steps,
    dpm_solver_steps,
    early_stop,
    sample_batches,
    sample_ddim,
    sample_ddpm,
    sample_dpm_solver,
    sample_in_batches,
    slerp,
)
from hw3utils.schedules import cosine_schedule, linear_schedule
from hw3utils.time_grid import time_grid

SCHEDULE = linear_schedule()
SHORT = linear_schedule(40, 0.0025, 0.4)
LINE = GaussianMixture([0.3, 0.7], [[-1.0], [1.0]], 0.09)
PLANE = GaussianMixture([0.3, 0.7], [[-0.7, 0.7], [0.7, -0.7]], [0.05, 0.1])
APART = GaussianMixture([0.3, 0.7], [[-1.0, 1.0], [1.0, -1.0]], [0.05, 0.1])
SAMPLERS = [sample_ddpm, sample_ddim, sample_dpm_solver]
TWINS = [ddpm_steps, ddim_steps, dpm_solver_steps]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def nothing(x, t):
    """A model that predicts no noise."""
    return torch.zeros_like(x)


def gaussian(std, mean=0.5):
    return GaussianMixture([1.0], [[mean]], std**2)


def exact_flow(std, t, z, mean=0.5):
    """The probability flow keeps the quantile z: N(signal mean, signal^2 std^2 + noise^2) at every t."""
    abar = SCHEDULE.alpha_bar[t].item()
    return math.sqrt(abar) * mean + math.sqrt(abar * std**2 + 1 - abar) * z


def fine_flow(mixture, x_T, schedule, n=600):
    """The flow to t = 0 by Runge-Kutta of order 4, in the variables x / signal and sigma = noise / signal."""
    sigma_T = (schedule.noise[-1] / schedule.signal[-1]).item()
    width = 0.05  # sigma = width sinh(u): small steps where sigma is small

    def slope(y, u):
        sigma = width * math.sinh(u)
        return -sigma * mixture.perturbed(1.0, sigma).score(y) * width * math.cosh(u)

    y, top = x_T / schedule.signal[-1], math.asinh(sigma_T / width)
    for u, v in itertools.pairwise([top * (1 - i / n) for i in range(n + 1)]):
        h = v - u
        k1 = slope(y, u)
        k2 = slope(y + h / 2 * k1, u + h / 2)
        k3 = slope(y + h / 2 * k2, u + h / 2)
        k4 = slope(y + h * k3, v)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y


def fitted_order(S, errors):
    """Minus the slope of log error against log S, by least squares."""
    x, y = torch.tensor(S).double().log(), torch.tensor(errors).double().log()
    x = x - x.mean()
    return -((x * y).sum() / (x * x).sum()).item()


# ------------------------------------------------------------------------------------------------------- the time grid


@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "logsnr"])
@pytest.mark.parametrize("schedule", [SCHEDULE, SHORT, cosine_schedule(100)], ids=["linear", "short", "cosine"])
def test_time_grid_goes_down_from_T_to_0_in_exactly_S_steps(schedule, spacing):
    T = schedule.T
    for S in {1, 2, 3, T // 3, T // 2 + 1, T - 1, T}:
        for start in {T, max(S, T // 2)}:
            grid = time_grid(start, S, spacing, schedule=schedule)
            assert grid.dtype == torch.int64
            assert grid.shape == (S + 1,)
            assert grid[0] == start
            assert grid[-1] == 0
            assert bool((grid.diff() < 0).all())


def test_time_grids_have_the_shape_they_are_named_after():
    assert time_grid(1000, 5).tolist() == [1000, 800, 600, 400, 200, 0]
    assert time_grid(1000, 10, "quadratic").tolist() == [1000, 810, 640, 490, 360, 250, 160, 90, 40, 10, 0]
    lam = (SCHEDULE.signal / SCHEDULE.noise).log()
    steps = lam[time_grid(1000, 10, "logsnr", schedule=SCHEDULE)[:-1]].diff()
    assert bool(((steps / steps.mean() - 1).abs() < 0.2).all())


@pytest.mark.parametrize(
    "steps",
    [
        [250, 500, 750, 1000],
        (250, 500, 750, 1000),
        range(250, 1001, 250),
        [0, 250, 500, 750, 1000],
        torch.tensor([250, 500, 750, 1000]),
        torch.tensor([250, 500, 750, 1000]).numpy(),
        time_grid(1000, 4),
        torch.tensor(4),
        4,
    ],
    ids=lambda s: type(s).__name__,
)
def test_every_form_of_steps_is_the_same_grid(steps):
    x = randn(3, 1)
    states = list(ddim_steps(LINE.eps_model(SCHEDULE), x, SCHEDULE, steps=steps))
    assert [state.t for state in states] == [1000, 750, 500, 250, 0]


# -------------------------------------------------------------------------------------------- one step, by its formula


def test_a_step_is_equation_12_of_ddim():
    x, x0 = randn(5), randn(5, seed=1)
    for t, s, eta in itertools.product((40, 30, 7), (6, 1, 0), (0.0, 0.5, 1.0)):
        coef_x, coef_x0, sigma = ddim_coefficients(SHORT, t, s, eta=eta)
        abar_t, abar_s = SHORT.alpha_bar[t].item(), SHORT.alpha_bar[s].item()
        expected = eta * math.sqrt((1 - abar_s) / (1 - abar_t)) * math.sqrt(1 - abar_t / abar_s)
        assert sigma == pytest.approx(expected, abs=1e-15)
        eps = (x - math.sqrt(abar_t) * x0) / math.sqrt(1 - abar_t)
        direction = math.sqrt(max(1 - abar_s - sigma**2, 0)) * eps
        assert_close(coef_x * x + coef_x0 * x0, math.sqrt(abar_s) * x0 + direction)


@pytest.mark.parametrize("schedule", [SCHEDULE, SHORT, cosine_schedule(50)], ids=["linear", "short", "cosine"])
def test_eta_1_on_the_full_grid_is_the_posterior_coefficient_by_coefficient(schedule):
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for t in range(1, schedule.T + 1):
        coef_x, coef_x0, sigma = ddim_coefficients(schedule, t, t - 1, eta=1.0)
        mean_x0, variance = posterior(one, zero, t, schedule)
        mean_x, _ = posterior(zero, one, t, schedule)
        # The smallest betas are differences of numbers near 1: 1e-16 of 1 is 1e-12 of 1e-4.
        assert coef_x == pytest.approx(mean_x.item(), rel=1e-11, abs=1e-15)
        assert coef_x0 == pytest.approx(mean_x0.item(), rel=1e-10)
        assert sigma**2 == pytest.approx(variance.item(), rel=1e-10, abs=1e-18)


@pytest.mark.parametrize("schedule", [SCHEDULE, SHORT], ids=["linear", "short"])
def test_ddim_with_eta_1_on_the_full_grid_equals_ddpm_with_the_posterior_variance(schedule):
    model, x_T = PLANE.eps_model(schedule), randn(16, 2)
    ddpm = ddpm_steps(model, x_T, schedule, variance="posterior", generator=generator(1))
    ddim = ddim_steps(model, x_T, schedule, eta=1.0, generator=generator(1))
    for a, b in zip(ddpm, ddim, strict=True):
        assert a.t == b.t
        assert_close(a.x, b.x, rtol=1e-12, atol=1e-12)


def test_ddpm_is_algorithm_2_written_out():
    # x_{t-1} = (x_t - beta_t / sqrt(1 - abar_t) eps) / sqrt(alpha_t) + sigma_t z, with z = 0 at t = 1.
    model, x = PLANE.eps_model(SHORT), randn(4, 2)
    for variance in ("beta", "posterior"):
        source, y = generator(1), x
        for t in range(SHORT.T, 0, -1):
            beta, abar, before = (v.item() for v in (SHORT.beta[t], SHORT.alpha_bar[t], SHORT.alpha_bar[t - 1]))
            sigma2 = beta if variance == "beta" else (1 - before) / (1 - abar) * beta
            y = (y - beta / math.sqrt(1 - abar) * model(y, t)) / math.sqrt(1 - beta)
            if t > 1:
                y = y + math.sqrt(sigma2) * torch.randn(4, 2, generator=source, dtype=torch.float64)
        sampled = sample_ddpm(model, x, SHORT, variance=variance, generator=generator(1))
        assert_close(sampled, y, rtol=1e-9, atol=1e-9)


def test_sigma_hat_on_a_stride_has_the_mean_of_eta_1_and_the_forward_variance():
    x, S = randn(4, 2), 8
    zero = {"steps": S, "noise_scale": 0.0}
    beta = sample_ddpm(PLANE.eps_model(SHORT), x, SHORT, variance="beta", **zero)
    assert torch.equal(beta, sample_ddpm(PLANE.eps_model(SHORT), x, SHORT, variance="posterior", **zero))
    # One step from x_T with a model that is 0: what is left is the noise.
    first = next(itertools.islice(ddpm_steps(nothing, x, SHORT, steps=S, generator=generator(1)), 1, 2))
    t, s = time_grid(SHORT.T, S)[:2].tolist()
    coef_x, coef_x0, _ = ddim_coefficients(SHORT, t, s, eta=1.0)
    noise = first.x - coef_x * x - coef_x0 * x / SHORT.signal[t]
    sigma = math.sqrt(1 - (SHORT.alpha_bar[t] / SHORT.alpha_bar[s]).item())
    assert_close(noise, sigma * randn(4, 2, seed=1))


# ----------------------------------------------------------------------------------------------- orders of convergence


@pytest.mark.parametrize("std", [0.3, 0.6, 1.0, 2.0])
@pytest.mark.parametrize(
    ("twin", "order", "tolerance"),
    [(ddim_steps, 1, 0.06), (dpm_solver_steps, 2, 0.1)],
    ids=["DDIM", "DPM-Solver++(2M)"],
)
def test_order_of_convergence_on_a_gaussian(twin, order, tolerance, std):
    # Measured at t = 1: the last step is the same for every S, and adds its own error, of about beta_1 = 1e-4.
    model, z, S = gaussian(std).eps_model(SCHEDULE), randn(100, 1), [20, 40, 80, 160]
    errors = []
    for n in S:
        states = list(twin(model, exact_flow(std, 1000, z), SCHEDULE, steps=n, spacing="logsnr"))
        assert states[-2].t == 1
        errors.append((states[-2].x - exact_flow(std, 1, z)).abs().mean().item())
        assert (states[-1].x - exact_flow(std, 0, z)).abs().mean().item() < errors[-1] + 2e-4 / std
    assert fitted_order(S, errors) == pytest.approx(order, abs=tolerance)


@pytest.mark.parametrize(
    ("sampler", "S", "order", "tolerance"),
    [(sample_ddim, [20, 40, 80, 160], 1, 0.15), (sample_dpm_solver, [10, 20, 40, 80, 160], 2, 0.2)],
    ids=["DDIM", "DPM-Solver++(2M)"],
)
@pytest.mark.parametrize("mixture", [LINE, PLANE], ids=["1-D", "2-D"])
def test_order_of_convergence_on_a_mixture(mixture, sampler, S, order, tolerance):
    at_T = mixture.perturbed(SCHEDULE.signal[-1], SCHEDULE.noise[-1])
    x_T = at_T.sample(300, generator(), dtype=torch.float64)
    truth = fine_flow(mixture, x_T, SCHEDULE)
    model = mixture.eps_model(SCHEDULE)
    errors = [(sampler(model, x_T, SCHEDULE, steps=n) - truth).abs().mean().item() for n in S]
    assert fitted_order(S, errors) == pytest.approx(order, abs=tolerance)


def test_the_reference_flow_is_exact_where_the_flow_is_known():
    z = randn(10, 1)
    assert_close(fine_flow(gaussian(0.6), exact_flow(0.6, 1000, z), SCHEDULE), exact_flow(0.6, 0, z), rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------------- the right distribution


@pytest.mark.parametrize(
    "sample",
    [
        functools.partial(sample_ddpm, variance="beta"),
        functools.partial(sample_ddpm, variance="posterior"),
        functools.partial(sample_ddpm, variance="posterior", steps=250),
        functools.partial(sample_ddim, steps=250),
        functools.partial(sample_ddim, steps=250, eta=0.5),
        functools.partial(sample_dpm_solver, steps=25),
    ],
    ids=["beta", "posterior", "strided", "ddim", "eta=0.5", "dpm-solver"],
)
def test_samples_of_a_mixture_have_its_weights_and_moments(sample):
    n = 3000
    x = sample(APART.eps_model(SCHEDULE), randn(n, 2), SCHEDULE, generator=generator(1))
    at_first = x[:, 0] < x[:, 1]  # 4.5 standard deviations away from either mean
    assert at_first.double().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / n))
    for k, part in enumerate((x[at_first], x[~at_first])):
        var = APART.covariances[k, 0, 0].item()
        # 4 standard errors, and what steps of this size are off by in themselves.
        assert bool(((part.mean(0) - APART.means[k]).abs() < 4 * math.sqrt(var / len(part)) + 0.01).all())
        assert bool(((part.var(0) / var - 1).abs() < 4 * math.sqrt(2 / len(part)) + 0.06).all())


def gaussian_std_after(schedule, std, grid, variance):
    """Exact standard deviation that a linear chain ends with, from N(0, 1) at T."""
    v = 1.0
    for t, s in itertools.pairwise(grid):
        abar_t, abar_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        gain = math.sqrt(abar_t) * std**2 / (abar_t * std**2 + 1 - abar_t)
        coef_x, coef_x0, small = ddim_coefficients(schedule, t, s, eta=1.0)
        sigma2 = 0.0 if s == 0 else small**2 if variance == "posterior" else 1 - abar_t / abar_s
        v = (coef_x + coef_x0 * gain) ** 2 * v + sigma2
    return math.sqrt(v)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
@pytest.mark.parametrize("steps", [5, 20, 40])
def test_ddpm_samples_have_exactly_the_spread_that_the_chain_implies(variance, steps):
    std, n = 0.6, 20_000
    options = {"variance": variance, "steps": steps, "generator": generator(1)}
    x = sample_ddpm(gaussian(std, 0.0).eps_model(SHORT), randn(n, 1), SHORT, **options)
    expected = gaussian_std_after(SHORT, std, time_grid(40, steps).tolist(), variance)
    assert x.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * n))


def test_without_its_noise_the_chain_loses_the_spread():
    x_T, model = randn(500, 1), gaussian(0.6, 0.0).eps_model(SCHEDULE)
    assert sample_ddpm(model, x_T, SCHEDULE, noise_scale=0.0).std() < 0.1
    assert sample_ddpm(model, x_T, SCHEDULE, generator=generator(1)).std() > 0.5


def test_the_last_step_adds_no_noise():
    x = randn(3, 2)
    for options in ({"variance": "beta"}, {"variance": "posterior"}):
        *_, before, last = ddpm_steps(PLANE.eps_model(SHORT), x, SHORT, generator=generator(1), **options)
        assert (before.t, last.t) == (1, 0)
        assert_close(last.x, before.x0_hat)
    assert torch.equal(
        sample_ddpm(PLANE.eps_model(SHORT), x, SHORT, steps=1, generator=generator(1)),
        sample_ddpm(PLANE.eps_model(SHORT), x, SHORT, steps=1, generator=generator(2)),
    )


# ----------------------------------------------------------------------------------------------------------- the twins


@pytest.mark.parametrize(
    ("sampler", "twin"), list(zip(SAMPLERS, TWINS, strict=True)), ids=["ddpm", "ddim", "dpm-solver"]
)
def test_twins_yield_every_state_and_end_with_the_sample(sampler, twin):
    model, x_T = PLANE.eps_model(SHORT), randn(3, 2, dtype=torch.float32)
    copy = x_T.clone()
    states = list(twin(model, x_T, SHORT, steps=10, generator=generator(1)))
    assert len(states) == 11
    assert states[0].t == 40
    assert torch.equal(states[0].x, x_T)
    for state in states[:-1]:  # x0_hat is the guess from x at that very time
        noise, signal = SHORT.noise[state.t].item(), SHORT.signal[state.t].item()
        assert_close(state.x0_hat, (state.x - noise * model(state.x, state.t)) / signal, rtol=1e-4, atol=1e-4)
    assert states[-1].t == 0
    assert torch.equal(states[-1].x, states[-1].x0_hat)
    sample = sampler(model, x_T, SHORT, steps=10, generator=generator(1))
    assert sample.dtype == torch.float32
    assert torch.equal(states[-1].x, sample)
    assert torch.equal(x_T, copy)


def test_a_twin_checks_its_arguments_before_the_first_state():
    with pytest.raises(ValueError, match=r"eta is 2.0"):
        ddim_steps(PLANE.eps_model(SHORT), randn(3, 2), SHORT, eta=2)


def test_a_paused_twin_leaves_gradients_and_the_model_alone():
    model = Network().train()
    states = ddpm_steps(model, randn(3, 2, dtype=torch.float32), SHORT, generator=generator(1))
    state = next(states)
    assert torch.is_grad_enabled()
    assert model.training
    assert not state.x0_hat.requires_grad
    next(states)
    assert torch.is_grad_enabled()
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_any_trailing_shape_and_both_dtypes(sampler):
    def model(x, t):
        assert t.dtype == torch.int64
        assert t.shape == (2,)
        return 0.5 * x

    flat = randn(2, 12)
    for dtype in (torch.float32, torch.float64):
        x = sampler(model, flat.to(dtype).reshape(2, 3, 2, 2), SHORT, steps=5, generator=generator(1))
        assert x.shape == (2, 3, 2, 2)
        assert x.dtype == dtype
        assert_close(x.flatten(1), sampler(model, flat.to(dtype), SHORT, steps=5, generator=generator(1)))


def test_clip_x0_bounds_the_guess_and_is_off_by_default():
    def model(x, t):
        return 0.1 * x

    x = 3 * randn(5, 2)
    free = list(ddim_steps(model, x, SHORT, steps=10))
    bound = list(ddim_steps(model, x, SHORT, steps=10, clip_x0=(-0.5, 0.75)))
    assert max(state.x0_hat.abs().max().item() for state in free[:-1]) > 3
    for state in bound:
        assert state.x0_hat.min() >= -0.5
        assert state.x0_hat.max() <= 0.75
    assert sample_ddim(model, x, SHORT, steps=10, clip_x0=True).abs().max() <= 1
    assert torch.equal(sample_ddim(model, x, SHORT, steps=10, clip_x0=False), free[-1].x)


# -------------------------------------------------------------------------------------------- the model keeps its mode


class Network(nn.Module):
    """A network whose training mode shows: dropout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 2))

    def forward(self, x, t, label=None):
        return self.layers(x) if label is None else self.layers(x) + label[:, None]


@pytest.mark.parametrize("sampler", [*SAMPLERS, lambda model, x, schedule, **_: ddim_invert(model, x, schedule)])
def test_networks_are_sampled_in_eval_mode_without_gradients_and_restored_exactly(sampler):
    network = Network()
    network.train()
    network.layers[0].eval()
    flags = [m.training for m in network.modules()]
    x = randn(3, 2, dtype=torch.float32)
    runs = [sampler(model, x, SHORT, generator=generator(1)) for model in (network, network, network.forward)]
    assert [m.training for m in network.modules()] == flags
    assert torch.equal(runs[0], runs[1])  # dropout was off
    assert torch.equal(runs[0], runs[2])
    assert not runs[0].requires_grad
    assert all(p.grad is None for p in network.parameters())


def test_the_mode_comes_back_when_the_model_fails():
    class Broken(Network):
        def forward(self, x, t):
            raise RuntimeError("broken")

    network = Broken().train()
    with pytest.raises(RuntimeError, match="broken"):
        sample_ddim(network, randn(3, 2), SHORT)
    assert all(m.training for m in network.modules())


# ------------------------------------------------------------------------------------------------- randomness, batches


@pytest.mark.parametrize("options", [{"variance": "beta"}, {"variance": "posterior"}])
def test_the_seed_decides_the_samples(options):
    model, x = PLANE.eps_model(SHORT), randn(4, 2)
    before = torch.get_rng_state()
    one, two, other = (sample_ddpm(model, x, SHORT, generator=generator(s), **options) for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_the_default_one_is_used():
    model, x = PLANE.eps_model(SHORT), randn(4, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        one = sample_ddpm(model, x, SHORT)
        torch.manual_seed(3)
        two = sample_ddpm(model, x, SHORT)
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [(sample_ddpm, {}), (sample_ddim, {"eta": 1.0, "steps": 10}), (sample_dpm_solver, {"steps": 10})],
)
def test_samples_do_not_depend_on_the_batch_size(sampler, options):
    def run(batch_size, seed=7):
        model = PLANE.eps_model(SHORT)
        return sample_in_batches(sampler, model, SHORT, (2,), n=11, batch_size=batch_size, seed=seed, **options)

    together = run(11)
    assert together.shape == (11, 2)
    for batch_size in (1, 4, 100):
        assert_close(run(batch_size), together, rtol=1e-5, atol=1e-5)
    assert not torch.equal(run(11, seed=8), together)
    assert len(together.unique(dim=0)) == 11


def test_batches_come_one_by_one_and_carry_their_labels():
    labels = torch.arange(5.0)
    seen = []

    class Labelled(Network):
        def forward(self, x, t, label):
            seen.append(label.tolist())
            return super().forward(x, t, label)

    network = Labelled().train()
    options = {"n": 5, "batch_size": 2, "model_kwargs": {"label": labels}, "steps": 1}
    batches = list(sample_batches(sample_ddim, network, SHORT, (2,), **options))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert seen == [[0, 1], [2, 3], [4]]
    assert network.training


def test_batches_start_where_they_are_told_and_use_noise_that_did_not_make_the_start():
    cheap, t_start = randn(6, 2), 20
    sources = sample_generators(3, range(6))
    start = early_stop(cheap, SHORT, t_start=t_start, generator=sources)
    chain = sample_ddpm(PLANE.eps_model(SHORT), start, SHORT, t_start=t_start, generator=sources)
    fresh = early_stop(cheap, SHORT, t_start=t_start, generator=sample_generators(3, range(6)))
    options = {"n": 6, "batch_size": 4, "seed": 3, "x_T": fresh, "t_start": t_start}
    assert_close(sample_in_batches(sample_ddpm, PLANE.eps_model(SHORT), SHORT, (2,), **options), chain)


def test_sample_generators_differ_and_look_independent():
    seeds = {g.initial_seed() for g in sample_generators(0, range(20_000))}
    assert len(seeds) == 20_000
    assert max(seeds) < 2**32
    first = torch.stack([torch.randn(2, generator=g) for g in sample_generators(0, range(4000))])
    assert first.mean().abs() < 4 / math.sqrt(8000)
    assert first.var().item() == pytest.approx(1, abs=4 * math.sqrt(2 / 8000))
    neighbours = (first[1:] * first[:-1]).mean()
    assert neighbours.abs() < 4 / math.sqrt(7998)


# ----------------------------------------------------------------------------------------------------------- inversion


@pytest.mark.parametrize(("n_corrections", "order"), [(0, 1), (1, 2)])
@pytest.mark.parametrize("mixture", [gaussian(0.6), PLANE], ids=["Gaussian", "mixture"])
def test_inversion_then_sampling_returns_the_data_to_its_order(mixture, n_corrections, order):
    model, x0 = mixture.eps_model(SCHEDULE), mixture.sample(100, generator(), dtype=torch.float64)
    S, errors = [25, 50, 100, 200], []
    for n in S:
        x_T = ddim_invert(model, x0, SCHEDULE, steps=n, n_corrections=n_corrections)
        errors.append((sample_ddim(model, x_T, SCHEDULE, steps=n) - x0).abs().mean().item())
    assert all(b < a for a, b in itertools.pairwise(errors))
    assert fitted_order(S, errors) == pytest.approx(order, abs=0.25)


def test_inversion_with_many_corrections_is_exact():
    model, x0 = PLANE.eps_model(SCHEDULE), PLANE.sample(50, generator(), dtype=torch.float64)
    x_T = ddim_invert(model, x0, SCHEDULE, steps=100, n_corrections=20)
    assert_close(sample_ddim(model, x_T, SCHEDULE, steps=100), x0, rtol=0, atol=1e-9)


def test_inversion_on_the_full_grid_returns_float32_pictures():
    pictures = GaussianMixture([0.5, 0.5], 0.5 * randn(2, 12), 0.05)
    x0 = pictures.sample(4, generator(), dtype=torch.float32).reshape(4, 3, 2, 2)
    x_T = ddim_invert(pictures.eps_model(SCHEDULE), x0, SCHEDULE)
    assert_close(sample_ddim(pictures.eps_model(SCHEDULE), x_T, SCHEDULE), x0, rtol=0, atol=1e-3)


def test_inverted_data_are_noise():
    x0 = PLANE.sample(1000, generator(), dtype=torch.float64)
    x_T = ddim_invert(PLANE.eps_model(SCHEDULE), x0, SCHEDULE, steps=500)
    assert bool((x_T.mean(0).abs() < 4 / math.sqrt(1000)).all())
    assert_close(torch.cov(x_T.T), torch.eye(2, dtype=torch.float64), atol=4 * math.sqrt(2 / 1000), rtol=0)


def test_inversion_steps_go_up_and_may_stop_early():
    model, x0 = PLANE.eps_model(SCHEDULE), randn(3, 2)
    states = list(ddim_invert_steps(model, x0, SCHEDULE, steps=5, t_end=500))
    assert [state.t for state in states] == [0, 100, 200, 300, 400, 500]
    assert torch.equal(states[0].x, x0)
    assert torch.equal(states[-1].x, ddim_invert(model, x0, SCHEDULE, steps=5, t_end=500))


# ------------------------------------------------------------------------------------------------------- interpolation


def test_slerp_walks_the_arc_at_constant_speed():
    a = torch.tensor([2.0, 0.0], dtype=torch.float64)
    b = torch.tensor([0.0, 2.0], dtype=torch.float64)
    for weight in (0.0, 0.25, 0.5, 1.0):
        angle = weight * math.pi / 2
        expected = torch.tensor([2 * math.cos(angle), 2 * math.sin(angle)], dtype=torch.float64)
        assert_close(slerp(a, b, weight), expected)


def test_slerp_of_noise_is_as_long_as_noise_and_a_straight_line_is_not():
    a, b = randn(50, 3, 16, 16), randn(50, 3, 16, 16, seed=1)
    middle = slerp(a, b, 0.5)
    assert middle.flatten(1).norm(dim=1).mean().item() == pytest.approx(math.sqrt(768), rel=0.01)
    assert ((a + b) / 2).flatten(1).norm(dim=1).mean().item() == pytest.approx(math.sqrt(768 / 2), rel=0.01)


def test_slerp_takes_a_weight_per_sample_and_broadcasts_single_noises():
    a, b, weights = randn(1, 3, 2, 2), randn(1, 3, 2, 2, seed=1), torch.linspace(0, 1, 5)
    strip = slerp(a, b, weights)
    assert strip.shape == (5, 3, 2, 2)
    assert_close(strip[:1], a)
    assert_close(strip[-1:], b)
    for i, weight in enumerate(weights.tolist()):
        assert_close(strip[i : i + 1], slerp(a, b, weight), rtol=1e-6, atol=1e-6)
    assert_close(slerp(a[0].flatten(), b[0].flatten(), weights), strip.flatten(1))


def test_slerp_of_a_noise_with_itself_is_itself():
    a = randn(3, 5)
    assert_close(slerp(a, a, 0.3), a)
    assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)


# ---------------------------------------------------------------------------------------------------------- early stop


def test_early_stop_has_the_closed_form_moments():
    n, t_start = 40_000, 300
    x = early_stop(torch.full((n, 1), 2.0, dtype=torch.float64), SCHEDULE, t_start=t_start, generator=generator())
    var = 1 - SCHEDULE.alpha_bar[t_start].item()
    assert x.mean().item() == pytest.approx(2 * SCHEDULE.signal[t_start].item(), abs=4 * math.sqrt(var / n))
    assert x.var().item() == pytest.approx(var, rel=4 * math.sqrt(2 / n))


def test_es_ddpm_repairs_a_cheap_generator_the_better_the_later_it_stops():
    # Cheap: one Gaussian with the mixture's moments, which puts a share of 0.22 between the peaks, where 0.01 belongs.
    # From T' on both chains take the same steps, so that no share is further off than the total variation at T'.
    cheap, n = GaussianMixture([1.0], LINE.mean[None], LINE.covariance[None]), 2000
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)

    def density(mixture, t):
        return mixture.perturbed(SCHEDULE.signal[t], SCHEDULE.noise[t]).log_prob(grid[:, None]).exp()

    truth = torch.trapezoid(density(LINE, 0) * (grid.abs() < 0.3), grid).item()
    tolerance = 4 * math.sqrt(truth / n) + 0.005
    shares = []
    for t_start in (10, 50, 100, 200):
        x = cheap.sample(n, generator(), dtype=torch.float64)
        x = early_stop(x, SCHEDULE, t_start=t_start, generator=generator(1))
        options = {"t_start": t_start, "variance": "posterior", "generator": generator(2)}
        x = sample_ddpm(LINE.eps_model(SCHEDULE), x, SCHEDULE, **options)
        shares.append((x.abs() < 0.3).double().mean().item())
        total_variation = 0.5 * torch.trapezoid((density(cheap, t_start) - density(LINE, t_start)).abs(), grid).item()
        assert abs(shares[-1] - truth) < total_variation + tolerance
    assert all(b < a for a, b in itertools.pairwise(shares))
    assert shares[0] > 0.2
    assert shares[-1] == pytest.approx(truth, abs=tolerance)


@pytest.mark.parametrize("twin", TWINS)
def test_t_start_is_where_the_chain_starts(twin):
    states = list(twin(PLANE.eps_model(SCHEDULE), randn(2, 2), SCHEDULE, steps=4, t_start=200, spacing="uniform"))
    assert [state.t for state in states] == [200, 150, 100, 50, 0]


# ----------------------------------------------------------------------------------------------------------- diffusers


LINEAR = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def diffusers_scheduler(name, **options):
    diffusers = pytest.importorskip("diffusers", reason="diffusers, with which this test compares, is not installed")
    return getattr(diffusers, name)(**LINEAR, **options)


def compare(scheduler, states, model, x, monkeypatch, tolerance, *, but_last=False, **options):
    """Step the scheduler beside our states, on the same noise; its time steps count from 0 at our t = 1."""
    module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
    source = generator(1)
    draw = lambda shape, **_: torch.randn(shape, generator=source, dtype=torch.float64)  # noqa: E731
    monkeypatch.setattr(module, "randn_tensor", draw)
    states = list(states)
    steps = scheduler.timesteps.tolist()
    assert [state.t for state in states[:-1]] == [t + 1 for t in steps]
    pairs = list(zip(steps, states[1:], strict=True))
    for t, state in pairs[:-1] if but_last else pairs:
        x = scheduler.step(model(x, t + 1), t, x, **options).prev_sample
        assert_close(state.x, x, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("steps", [1000, 50])
@pytest.mark.parametrize(("variance", "name"), [("beta", "fixed_large"), ("posterior", "fixed_small")])
def test_ddpm_agrees_with_diffusers_step_for_step(variance, name, steps, monkeypatch):
    scheduler = diffusers_scheduler("DDPMScheduler", variance_type=name, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    model, x = PLANE.eps_model(SCHEDULE), randn(4, 2)
    options = {"variance": variance, "steps": steps, "generator": generator(1)}
    # On a stride the scheduler adds noise in its last step too, with "fixed_large" as much as in any other.
    but_last = variance == "beta" and steps < 1000
    compare(scheduler, ddpm_steps(model, x, SCHEDULE, **options), model, x, monkeypatch, 2e-4, but_last=but_last)


@pytest.mark.parametrize("steps", [1000, 50, 10])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_agrees_with_diffusers_step_for_step(eta, steps, monkeypatch):
    options = {"clip_sample": False, "set_alpha_to_one": True, "timestep_spacing": "trailing"}
    scheduler = diffusers_scheduler("DDIMScheduler", **options)
    scheduler.set_timesteps(steps)
    model, x = PLANE.eps_model(SCHEDULE), randn(4, 2)
    states = ddim_steps(model, x, SCHEDULE, steps=steps, eta=eta, generator=generator(1))
    compare(scheduler, states, model, x, monkeypatch, 2e-4, eta=eta)


@pytest.mark.parametrize("steps", [10, 20, 50])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_dpm_solver_agrees_with_diffusers_step_for_step(steps, spacing, monkeypatch):
    options = {
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
        "solver_type": "midpoint",
        "final_sigmas_type": "zero",
    }
    scheduler = diffusers_scheduler("DPMSolverMultistepScheduler", timestep_spacing=spacing, **options)
    scheduler.set_timesteps(steps)
    times = [t + 1 for t in reversed(scheduler.timesteps.tolist())]
    model, x = PLANE.eps_model(SCHEDULE), randn(4, 2)
    states = dpm_solver_steps(model, x, SCHEDULE, steps=times)
    compare(scheduler, states, model, x, monkeypatch, 1e-5)


# --------------------------------------------------------------------------------------------------------- wrong input


X = torch.zeros(2, 3)


def half(x, t):
    return x / 2


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x_T": [0.0]}, r"x_T is list"),
        ({"x_T": X.int()}, r"x_T is a tensor of torch.int32"),
        ({"x_T": X / 0}, r"x_T holds NaN or infinity"),
        ({"x_T": torch.tensor(1.0)}, r"x_T has shape \(\)"),
        ({"schedule": 1000}, r"schedule is int"),
        ({"steps": 0}, r"steps is 0.*1\.\.40"),
        ({"steps": 41}, r"steps is 41.*1\.\.40"),
        ({"steps": 2.5}, r"steps is 2.5.*1\.\.40"),
        ({"steps": "ten"}, r"steps is 'ten'.*1\.\.40"),
        ({"steps": []}, r"steps is empty"),
        ({"steps": [0]}, r"steps is \[0\].*1\.\.40"),
        ({"steps": [10, 10, 40]}, r"steps is \[10, 10, 40\]"),
        ({"steps": [40, 20, 1]}, r"steps is \[40, 20, 1\]"),
        ({"steps": [10, 20]}, r"the last of steps is 20"),
        ({"steps": [10, 50]}, r"a time step is 50.*0\.\.40"),
        ({"steps": [1.5, 40]}, r"a time step is 1.5"),
        ({"spacing": "cubic", "steps": 3}, r"spacing is 'cubic'"),
        ({"t_start": 41}, r"t_start is 41.*1\.\.40"),
        ({"t_start": 0}, r"t_start is 0.*1\.\.40"),
        ({"t_start": 5, "steps": 6}, r"steps is 6.*1\.\.5"),
        ({"clip_x0": 1.0}, r"clip_x0 is 1.0"),
        ({"clip_x0": (1, -1)}, r"clip_x0 is \(1, -1\)"),
        ({"eps_model": lambda x, t: x[:1]}, r"the eps_model returned shape \(1, 3\)"),
        ({"eps_model": lambda x, t: x + math.nan}, r"the eps_model returned NaN or infinity at t = 40"),
    ],
)
def test_wrong_arguments_are_named_in_one_sentence(sampler, arguments, message):
    right = {"eps_model": half, "x_T": X, "schedule": SHORT, "steps": None, "generator": generator()}
    with pytest.raises(ValueError, match=message):
        sampler(**right | arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_ddpm(half, X, SHORT, variance="large"), r"variance is 'large'"),
        (lambda: sample_ddpm(half, X, SHORT, noise_scale=-1), r"noise_scale is -1.0"),
        (lambda: sample_ddpm(half, X, SHORT, generator=[]), r"generator holds 0 generators"),
        (lambda: sample_ddim(half, X, SHORT, eta=-0.1), r"eta is -0.1"),
        (lambda: sample_ddim(half, X, SHORT, eta=math.nan), r"eta is nan"),
        (
            lambda: ddim_invert(half, X, SHORT, n_corrections=-1),
            r"n_corrections is -1",
        ),
        (lambda: ddim_invert(half, X / 0, SHORT), r"x0 holds NaN or infinity"),
        (lambda: early_stop(X, SHORT, t_start=0), r"t_start is 0"),
        (lambda: early_stop(X, SHORT, t_start=41), r"t_start is 41.*1\.\.40"),
        (lambda: time_grid(10, 11), r"S is 11.*1\.\.10"),
        (lambda: time_grid(50, 5, "logsnr", schedule=SHORT), r"got a schedule of 40 steps"),
        (lambda: time_grid(50, 5, "logsnr"), r"got no schedule"),
        (lambda: slerp(X, X[:, :2], 0.5), r"the noises have shapes \(2, 3\) and \(2, 2\)"),
        (lambda: slerp(X[0], X[0, :2], 0.5), r"the noises have 3 and 2 entries"),
        (lambda: slerp(X, X, torch.zeros(3)), r"got 2 and 2 noises and 3 weights"),
        (lambda: slerp(X, X, math.nan), r"expected one finite number or one per sample"),
        (lambda: sample_in_batches(sample_ddim, half, SHORT, (3,), n=0), r"n is 0"),
        (lambda: sample_in_batches(sample_ddim, half, SHORT, (3,), n=2, seed=-1), r"seed is -1"),
        (lambda: sample_in_batches(sample_ddim, half, SHORT, (0,), n=2), r"a size in shape is 0"),
        (lambda: sample_in_batches(sample_ddim, None, SHORT, (3,), n=2), r"cannot be called"),
        (
            lambda: sample_in_batches(sample_ddim, half, SHORT, (3,), n=3, x_T=X),
            r"x_T has shape \(2, 3\)",
        ),
        (
            lambda: sample_in_batches(sample_ddim, half, SHORT, (3,), n=3, model_kwargs={"label": X}),
            r"the model's argument 'label' is shape \(2, 3\)",
        ),
    ],
)
def test_other_wrong_arguments_are_named_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
