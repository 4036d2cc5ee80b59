"""Kinds of numerical faults reported for other libraries: grids, modes, dtypes, returned shapes, what is refused."""

import functools
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hw3utils.bound import bound_terms
from hw3utils.divergences import grid_kl
from hw3utils.flows import divergence, log_likelihood, predictor_corrector, sample_heun, sample_sde
from hw3utils.inpainting import sample_inpaint
from hw3utils.langevin import acceptance_log_ratio, annealed_langevin, langevin, mala
from hw3utils.losses import denoising_score_matching, implicit_score_matching, sliced_score_matching
from hw3utils.mixtures import GaussianMixture
from hw3utils.noise import networks_inside
from hw3utils.samplers import ddim_invert, guided, sample_ddim, sample_ddpm, sample_dpm_solver, sample_in_batches
from hw3utils.schedules import NoiseSchedule, cosine_schedule, linear_schedule, schedule_from_card
from hw3utils.time_grid import time_grid
from hw3utils.velocities import as_eps_model, sample_flow, velocity_model

PLANE = GaussianMixture([0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [0.04, 0.09])
SHORT = linear_schedule(40, 0.0025, 0.4)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n=6, dtype=torch.float64):
    return torch.randn(n, 2, generator=generator(), dtype=torch.float64).to(dtype)


def gaussian_alpha_bar(T, end):
    """alpha_bar = exp(-u^2), down to exp(-end^2): a schedule that ends in pure noise."""
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.exp(-(torch.linspace(0.001, end, T).double() ** 2))])


SCHEDULES = {
    "linear": linear_schedule(),
    "cosine": cosine_schedule(),
    "cosine of 50 steps": cosine_schedule(50),
    "short": SHORT,
    "scaled linear": NoiseSchedule.from_beta(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2),
    "sigmoid": NoiseSchedule.from_beta(1e-4 + 0.0199 * torch.linspace(-6, 6, 1000, dtype=torch.float64).sigmoid()),
    "large betas": linear_schedule(1000, 1e-4, 0.06),
    "pure noise": NoiseSchedule.from_alpha_bar(gaussian_alpha_bar(500, 5.5)),
}


# ------------------------------------------------------------------------------------------------- grids on schedules


@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "logsnr"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_spacing_on_every_schedule_approaches_the_exact_flow(name, spacing):
    schedule, x = SCHEDULES[name], points(300)
    model = PLANE.eps_model(schedule)
    exact = sample_heun(model, x, schedule)
    error = {}
    for sampler in (sample_ddim, sample_dpm_solver):
        runs = [sampler(model, x, schedule, steps=S, spacing=spacing) for S in (5, 10, 20)]
        error[sampler] = [float((run - exact).abs().mean()) for run in runs]
        assert error[sampler][0] > error[sampler][1] > error[sampler][2] / 1.01
    assert error[sample_ddim][2] < 0.7 * error[sample_ddim][1]  # order 1
    for second, first in zip(error[sample_dpm_solver], error[sample_ddim], strict=True):
        assert second < 1.1 * first


@pytest.mark.parametrize("S", [10, 15, 20])
def test_the_default_grid_of_dpm_solver_beats_ddim_on_the_cosine_schedule(S):
    schedule, x = cosine_schedule(), points(300)
    model = PLANE.eps_model(schedule)
    exact = sample_heun(model, x, schedule)
    ours, ddim = sample_dpm_solver(model, x, schedule, steps=S), sample_ddim(model, x, schedule, steps=S)
    assert (ours - exact).abs().mean() < (ddim - exact).abs().mean()


def test_log_snr_steps_begin_where_the_schedule_is_not_pure_noise():
    schedule = cosine_schedule()
    grid = time_grid(1000, 20, "logsnr", schedule=schedule)
    log_snr = (schedule.signal / schedule.noise).log()
    assert grid[0] == 1000
    assert bool((log_snr[grid[1:-1]] > -5.1).all())
    # The linear schedule ends above the limit: equal steps to its very end.
    log_snr = (linear_schedule().signal / linear_schedule().noise).log()
    steps = log_snr[time_grid(1000, 10, "logsnr", schedule=linear_schedule())[:-1]].diff()
    assert_close(steps, steps.mean().expand(9), rtol=0.05, atol=0)


# ----------------------------------------------------------------------------------------------------------- eval mode


class Dropout(nn.Module):
    """A network that notes in which mode it is called."""

    n_classes = 3

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        self.modes = set()

    def forward(self, x, t, label=None):
        self.modes.add(self.training)
        return self.layers(x.float()).to(x.dtype)


class Wrapper:
    """A callable object, not a module, that holds a network."""

    def __init__(self, network):
        self.inner = {"network": [network]}

    def __call__(self, x, t):
        return self.inner["network"][0](x, t)

    def method(self, x, t):
        return self(x, t)


GLOBAL = Dropout()
WRAPPED = {
    "the network": lambda net: net,
    "a bound method": lambda net: net.forward,
    "guided": lambda net: functools.partial(guided(net, guidance=2.0), label=torch.zeros(6, dtype=torch.int64)),
    "as_eps_model": lambda net: as_eps_model(net, SHORT, given="v"),
    "as_eps_model of guided": lambda net: as_eps_model(
        functools.partial(guided(net), label=torch.zeros(6, dtype=torch.int64)), SHORT, given="x0"
    ),
    "a closure": lambda net: lambda x, t: net(x, t),
    "a closure of a closure": lambda net: (lambda inner: lambda x, t: inner(x, t))(lambda x, t: net(x, t)),
    "a default argument": lambda net: lambda x, t, net=net: net(x, t),
    "an object": Wrapper,
    "a method of an object": lambda net: Wrapper(net).method,
    "a list in a closure": lambda net: (lambda nets: lambda x, t: sum(n(x, t) for n in nets) / len(nets))([net]),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_eval_mode_reaches_a_network_inside(name):
    network = Dropout().train()
    model = WRAPPED[name](network)
    runs = [sample_ddim(model, points(), SHORT, steps=5) for _ in range(2)]
    assert network.modes == {False}
    assert torch.equal(*runs)
    assert all(module.training for module in network.modules())


def test_eval_mode_reaches_a_network_under_a_module_level_name():
    GLOBAL.train()
    sample_ddim(lambda x, t: GLOBAL(x, t), points(), SHORT, steps=2)
    assert GLOBAL.modes == {False}
    assert GLOBAL.training


def test_eval_mode_reaches_a_network_in_batches():
    network = Dropout().train()
    options = {"n": 5, "batch_size": 2, "steps": 3}
    sample_in_batches(sample_ddim, lambda x, t: network(x, t), SHORT, (2,), **options)
    assert network.modes == {False}
    assert network.training


def test_a_mixture_has_no_network_inside():
    assert networks_inside(PLANE.eps_model(SHORT)) == []


# -------------------------------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixtures_far_out_in_half_precision(dtype):
    x = torch.tensor([[300.0, -200.0], [-1000.0, 5.0], [0.5, 0.25]], dtype=dtype)
    wide = GaussianMixture([0.5, 0.5], [[-5.0, 0.0], [5.0, 0.0]], 1.0)
    exact = x.double()
    tolerance = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-3}
    for got, want in (
        (wide.score(x), wide.score(exact)),
        (wide.responsibilities(x), wide.responsibilities(exact)),
        (wide.posterior_mean(x, 0.5, 0.8), wide.posterior_mean(exact, 0.5, 0.8)),
        (wide.eps_model(SHORT)(x, 7), wide.eps_model(SHORT)(exact, 7)),
    ):
        assert got.dtype == dtype
        assert_close(got.double(), want, **tolerance)
    inside = wide.log_prob(x[2:])
    assert inside.dtype == dtype
    assert_close(inside.double(), wide.log_prob(exact[2:]), **tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("sampler", [sample_ddpm, sample_ddim, sample_dpm_solver, sample_sde, sample_heun, ddim_invert])
def test_samplers_keep_the_dtype_of_the_data(sampler, dtype):
    x = points(4, dtype)
    got = sampler(PLANE.eps_model(SHORT), x, SHORT, steps=10)
    assert got.dtype == dtype
    assert bool(got.isfinite().all())


def test_a_changed_default_dtype_changes_nothing():
    def runs():
        model, x = PLANE.eps_model(SHORT), points(5)
        return [
            sample_dpm_solver(model, x, SHORT, steps=10),
            sample_ddim(model, x.float(), SHORT, steps=10).double(),
            log_likelihood(model, x, SHORT, steps=10).log_prob,
            langevin(PLANE.score_model(), x, step_size=0.01, n_steps=5, generator=generator()),
            time_grid(1000, 20, "logsnr", schedule=cosine_schedule()).double(),
        ]

    want = runs()
    torch.set_default_dtype(torch.float64)
    try:
        got = runs()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


IN_INFERENCE_MODE = {
    "DDIM": lambda x: sample_ddim(PLANE.eps_model(SHORT), x, SHORT, steps=5),
    "DDIM of an energy": lambda x: sample_ddim(energy_eps, x, SHORT, steps=5),
    "Langevin of an energy": lambda x: langevin(energy_score, x, step_size=0.01, n_steps=3, generator=generator()),
    "MALA": lambda x: mala(PLANE.log_prob, energy_score, x, step_size=0.01, n_steps=3, generator=generator()),
    "likelihood": lambda x: log_likelihood(PLANE.eps_model(SHORT), x, SHORT, steps=5).log_prob,
    "implicit": lambda x: implicit_score_matching(PLANE.score, x),
    "sliced": lambda x: sliced_score_matching(PLANE.score, x, generator=generator()),
    "denoising": lambda x: denoising_score_matching(PLANE.score_model(), x, 0.5, generator=generator()),
    "flow": lambda x: sample_flow(velocity_model(PLANE), x, steps=4),
}


def energy_score(x, sigma=0.0):
    x.requires_grad_()
    return torch.autograd.grad(PLANE.perturbed(1.0, sigma).log_prob(x).sum(), x)[0]


def energy_eps(x, t):
    signal, noise = SHORT.signal[t[0]].item(), SHORT.noise[t[0]].item()
    x.requires_grad_()
    return -noise * torch.autograd.grad(PLANE.perturbed(signal, noise).log_prob(x).sum(), x)[0]


@pytest.mark.parametrize("name", IN_INFERENCE_MODE)
def test_inference_mode_changes_no_result(name):
    want = IN_INFERENCE_MODE[name](points())
    with torch.inference_mode():
        got = IN_INFERENCE_MODE[name](points())
    assert torch.equal(got, want)


def test_a_model_that_needs_gradients_is_called_twice_once_only():
    calls = []

    def counted(x, t):
        calls.append(torch.is_grad_enabled())
        return energy_eps(x, t)

    sample_ddim(counted, points(), SHORT, steps=5)
    assert calls == [False, True, True, True, True, True]


def test_the_error_of_a_broken_model_is_its_own():
    def broken(x, t):
        raise RuntimeError("7 of 9")

    with pytest.raises(RuntimeError, match="7 of 9"):
        sample_ddim(broken, points(), SHORT, steps=2)


# ---------------------------------------------------------------------------------------------- what a caller returns


def squared(x):
    return -x.square().sum(1) / 2


WRONG_SHAPES = {
    "a sum over the batch": lambda: mala(lambda x: squared(x).sum(), normal_score, points(), step_size=1.0, n_steps=1),
    "keepdim": lambda: mala(lambda x: squared(x)[:, None], normal_score, points(), step_size=1.0, n_steps=1),
    "one value a coordinate": lambda: acceptance_log_ratio(
        lambda x: -x.square() / 2, normal_score, points(), points() + 1, step_size=1.0
    ),
    "log_prob of a grid": lambda: grid_kl(points(), lambda x: squared(x)[:, None]),
    "a prior": lambda: log_likelihood(PLANE.eps_model(SHORT), points(), SHORT, prior=lambda x: squared(x).sum()),
    "a score": lambda: langevin(lambda x, sigma: x[:, :1], points(), step_size=0.1, n_steps=1),
    "a number for a score": lambda: annealed_langevin(lambda x, s: 0.0, points(), [2.0, 1.0], step_size=0.1, n_steps=1),
    "a field": lambda: divergence(lambda x: x.sum(1), points()),
    "a score of levels": lambda: log_likelihood(lambda x, sigma: x[0], points(), [2.0, 1.0]),
    "an x0 prediction": lambda: sample_ddim(as_eps_model(lambda x, t: x[0], SHORT, given="x0"), points(), SHORT),
}


def normal_score(x, sigma=0.0):
    return -x


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_a_wrong_shape_from_the_caller_is_refused(name):
    with pytest.raises(ValueError, match="returned"):
        WRONG_SHAPES[name]()


def test_the_divergence_of_a_constant_field_is_0():
    for field in (torch.ones_like, lambda x: 0 * x + 3, lambda x: torch.stack([x[:, 0], torch.ones(len(x))], dim=1)):
        value, trace = divergence(field, points(dtype=torch.float32))
        assert_close(trace, torch.full((1, 6), float(torch.equal(value[:, 0], points(dtype=torch.float32)[:, 0]))))
    assert_close(implicit_score_matching(torch.ones_like, points()), torch.ones(6).double())
    assert_close(
        sliced_score_matching(torch.ones_like, points(), variance_reduced=True, generator=generator()),
        torch.ones(6).double(),
    )


EMPTY = {
    "DDPM": lambda x: sample_ddpm(PLANE.eps_model(SHORT), x, SHORT),
    "DPM-Solver++": lambda x: sample_dpm_solver(PLANE.eps_model(SHORT), x, SHORT),
    "Heun": lambda x: sample_heun(PLANE.eps_model(SHORT), x, SHORT),
    "inversion": lambda x: ddim_invert(PLANE.eps_model(SHORT), x, SHORT),
    "inpainting": lambda x: sample_inpaint(PLANE.eps_model(SHORT), x, SHORT, known=x, mask=torch.ones(2), steps=2),
    "Langevin": lambda x: langevin(PLANE.score_model(), x, step_size=0.1, n_steps=2),
    "MALA": lambda x: mala(PLANE.log_prob, PLANE.score_model(), x, step_size=0.1, n_steps=2),
    "corrector": lambda x: predictor_corrector(PLANE.score_model(), x, [2.0, 1.0]),
    "flow": lambda x: sample_flow(velocity_model(PLANE), x, steps=2),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_batch_stays_empty(name):
    assert EMPTY[name](torch.zeros(0, 2)).shape == (0, 2)


@pytest.mark.parametrize("n_projections", [None, 3])
def test_the_likelihood_of_no_points(n_projections):
    options = {"steps": 5, "n_projections": n_projections, "generator": generator()}
    found = log_likelihood(PLANE.eps_model(SHORT), torch.zeros(0, 2), SHORT, **options)
    assert found.log_prob.shape == found.stderr.shape == (0,)
    assert found.x_T.shape == (0, 2)
    assert divergence(PLANE.score, torch.zeros(0, 2))[1].shape == (1, 0)


# --------------------------------------------------------------------------------------------- what cannot be computed


@pytest.mark.parametrize("std", [1.0, 0.1, 0.05, 0.03, 0.01, 1e-4])
def test_grid_kl_of_a_narrow_density_is_right_or_refused(std):
    mixture = GaussianMixture([0.5, 0.5], [[-5.03, 5.01], [5.0, -5.0]], std**2)
    x = mixture.sample(20_000, generator(), dtype=torch.float64)
    if std < 0.03:
        with pytest.raises(ValueError, match="narrow"):
            grid_kl(x, mixture.log_prob)
    else:
        # With counts of n samples in k cells that have mass, KL is near (k - 1) / (2 n) plus what the halves cost.
        assert 0 <= grid_kl(x, mixture.log_prob) < 0.05


@pytest.mark.parametrize("beta", [5e-17, 1e-17, 1e-300])
def test_a_beta_that_float64_cannot_see_is_refused(beta):
    for make in (lambda: linear_schedule(100, beta, 0.02), lambda: NoiseSchedule.from_beta([beta, 0.1, 0.2])):
        with pytest.raises(ValueError, match="beta"):
            make()


def test_every_schedule_that_is_accepted_has_strictly_decreasing_alpha_bar_and_finite_terms():
    for schedule in (linear_schedule(100, 3e-16, 0.02), NoiseSchedule.from_beta([3e-16, 0.1, 0.2]), SHORT):
        assert bool((schedule.alpha_bar.diff() < 0).all())
        assert bool((schedule.noise[1:] > 0).all())
        assert bool(sample_ddim(PLANE.eps_model(schedule), points(), schedule).isfinite().all())
        assert bool(
            bound_terms(PLANE.eps_model(schedule), points(), schedule, generator=generator()).terms.isfinite().all()
        )


@pytest.mark.parametrize("betas", [[0.99] * 9, [0.5] * 60, [0.999] * 400])
def test_a_schedule_whose_noise_leaves_nothing_of_the_data_is_refused(betas):
    with pytest.raises(ValueError, match="alpha_bar"):
        NoiseSchedule.from_beta(betas)


def test_a_table_that_ends_with_zero_snr_is_refused_by_that_entry():
    with pytest.raises(ValueError, match="last entry of alpha_bar is 0"):
        NoiseSchedule.from_alpha_bar([1.0, 0.5, 0.0])


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_card_with_absurdly_many_steps_is_refused_before_memory_is_taken(name):
    with pytest.raises(ValueError, match="1000000000000"):
        schedule_from_card({"name": name, "T": 10**12})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_chain_is_refused(value):
    with pytest.raises(ValueError, match="NaN or infinity"):
        langevin(lambda x, sigma: x * value, points(), step_size=0.1, n_steps=3)
