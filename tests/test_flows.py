"""The SDE, the flow, likelihood and straight paths against the truth: identities, orders, exact densities."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hw3utils.flows import (
    bits_per_dim,
    divergence,
    heun_steps,
    log_likelihood,
    predictor_corrector,
    predictor_corrector_steps,
    reverse_drift,
    sample_heun,
    sample_sde,
    sde_steps,
    vp_sde,
)
from hw3utils.learning.training import seeded
from hw3utils.losses import gaussian_projection
from hw3utils.mixtures import GaussianMixture
from hw3utils.samplers import sample_ddim, sample_ddpm
from hw3utils.schedules import cosine_schedule, geometric_sigmas, linear_schedule
from hw3utils.velocities import (
    PREDICTIONS,
    as_eps_model,
    convert,
    flow_matching_loss,
    flow_steps,
    sample_flow,
    straightness,
    velocity_model,
)

SCHEDULE = linear_schedule()
SHORT = linear_schedule(40, 0.0025, 0.4)
PLANE = GaussianMixture([0.3, 0.7], [[-0.7, 0.7], [0.7, -0.7]], [0.05, 0.1])
TILTED = GaussianMixture([0.4, 0.6], [[-0.7, 0.2], [0.5, -0.3]], [[[0.2, 0.1], [0.1, 0.3]], [[0.1, 0.0], [0.0, 0.2]]])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def gaussian(std, mean=0.5):
    return GaussianMixture([1.0], [[mean]], std**2)


def width(std, t, schedule=SCHEDULE):
    """Standard deviation of x_t, for data of standard deviation std."""
    abar = schedule.alpha_bar[t].item()
    return math.sqrt(abar * std**2 + 1 - abar)


def fitted_order(S, errors):
    """Minus the slope of log error against log S, by least squares."""
    x, y = torch.tensor(S).double().log(), torch.tensor(errors).double().log()
    x = x - x.mean()
    return -((x * y).sum() / (x * x).sum()).item()


def at_T(mixture, schedule=SCHEDULE):
    """The exact density of x_T."""
    return mixture.perturbed(schedule.signal[-1], schedule.noise[-1])


# ------------------------------------------------------------------------------------------------------------ the SDE


@pytest.mark.parametrize("schedule", [SCHEDULE, SHORT, cosine_schedule(100)], ids=["linear", "short", "cosine"])
def test_the_sde_passes_through_the_schedule(schedule):
    t = torch.arange(schedule.T + 1, dtype=torch.float64)
    sde = vp_sde(schedule, t)
    assert_close(sde.signal, schedule.signal)
    assert_close(sde.noise, schedule.noise)
    assert_close(sde.beta[1:], -(1 - schedule.beta[1:]).log())
    assert_close(sde.signal**2 + sde.noise**2, torch.ones_like(t))


def test_beta_is_the_rate_at_which_the_signal_falls():
    t = torch.tensor([0.3, 17.5, 999.9], dtype=torch.float64, requires_grad=True)
    sde = vp_sde(SCHEDULE, t)
    [rate] = torch.autograd.grad(sde.signal.log().sum(), t)
    assert_close(rate, -sde.beta / 2)


def chain_variance(T, std):
    """Variance of ancestral sampling on N(0, std^2) with T steps of beta(u) / T, beta from 0.1 to 10; and the truth."""
    schedule = linear_schedule(T, 0.1 / T, 10 / T)
    v = width(std, T, schedule) ** 2
    for t in range(T, 0, -1):
        bar, before = (schedule.alpha_bar[k].item() for k in (t, t - 1))
        beta = 1 - bar / before
        score = -1 / (bar * std**2 + 1 - bar)
        v = ((1 + beta * score) / math.sqrt(1 - beta)) ** 2 * v + (beta if t > 1 else 0)
    return v - std**2


def test_the_chain_goes_to_the_reverse_sde_with_order_1():
    steps = [100, 200, 400, 800]
    assert fitted_order(steps, [abs(chain_variance(T, 0.6)) for T in steps]) == pytest.approx(1, abs=0.1)


def log_density(mixture, x, signal, noise):
    """log p_t(x), differentiable in x and in signal and noise, from torch's own mixture."""
    covariances = signal**2 * mixture.covariances + noise**2 * torch.eye(2, dtype=torch.float64)
    components = torch.distributions.MultivariateNormal(signal * mixture.means, covariances)
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(mixture.weights), components).log_prob(
        x
    )


def gradient(values, x):
    return torch.autograd.grad(values.sum(), x, create_graph=True)[0]


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 1.7])
@pytest.mark.parametrize("time", [30.5, 400.2])
def test_the_whole_family_has_the_densities_of_the_diffusion(lam, time):
    """d p / dt = -div(drift p) - lam^2 beta / 2 laplacian p, the Fokker-Planck equation of time that runs back."""
    x = TILTED.sample(200, generator(), dtype=torch.float64).requires_grad_()
    t = torch.tensor(time, dtype=torch.float64, requires_grad=True)
    beta, signal, noise = vp_sde(SCHEDULE, t)
    log_p = log_density(TILTED, x, signal, noise)
    rate = torch.stack([torch.autograd.grad(value, t, retain_graph=True)[0] for value in log_p])
    score = gradient(log_p, x)
    drift = reverse_drift(x, score, beta, lam=lam)

    def flux(field):
        """div(field p) / p."""
        inner = sum(gradient(field[:, i], x)[:, i] for i in range(2))
        return inner + (field * score).sum(1)

    right = -flux(drift) - lam**2 * beta / 2 * flux(score)
    assert (rate - right).abs().max().item() < 1e-9
    wrong = -flux(reverse_drift(x, -score, beta, lam=lam)) - lam**2 * beta / 2 * flux(score)
    assert (rate - wrong).abs().max().item() > 1e-3


# --------------------------------------------------------------------------------------------------------- the solvers


def test_lam_0_is_ddim_and_lam_1_is_ddpm():
    model, x = PLANE.eps_model(SCHEDULE), randn(50, 2)
    for steps in (1, 7, 50):
        assert_close(sample_sde(model, x, SCHEDULE, lam=0.0, steps=steps), sample_ddim(model, x, SCHEDULE, steps=steps))
        noise = {"steps": steps, "generator": generator(1)}
        theirs = sample_ddpm(model, x, SCHEDULE, variance="posterior", **noise)
        assert_close(sample_sde(model, x, SCHEDULE, steps=steps, generator=generator(1)), theirs)


def test_lam_is_eta_as_the_steps_grow_short():
    model, x = PLANE.eps_model(SCHEDULE), randn(200, 2)
    gaps = []
    for steps in (50, 100, 200):
        ours = sample_sde(model, x, SCHEDULE, lam=0.5, steps=steps, generator=generator(1))
        gaps.append(
            float((ours - sample_ddim(model, x, SCHEDULE, eta=0.5, steps=steps, generator=generator(1))).norm())
        )
    assert gaps[2] < gaps[1] < gaps[0]


@pytest.mark.parametrize("lam", [0.5, 1.0, 1.5])
def test_every_lam_samples_the_data(lam):
    n, std = 20_000, 0.6
    options = {"lam": lam, "steps": 200, "generator": generator(1)}
    x = sample_sde(gaussian(std, 0.0).eps_model(SCHEDULE), randn(n, 1), SCHEDULE, **options)
    assert x.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * n) + 0.04)


@pytest.mark.parametrize(
    ("twin", "order", "tolerance"), [(sde_steps, 1, 0.06), (heun_steps, 2, 0.15)], ids=["Euler", "Heun"]
)
@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
def test_order_of_convergence_to_the_exact_flow(twin, order, tolerance, std):
    # The flow keeps the quantile. Measured at t = 1, for the last step is the same for every S.
    model, z, steps = gaussian(std).eps_model(SCHEDULE), randn(100, 1), [20, 40, 80, 160]
    start = SCHEDULE.signal[-1] * 0.5 + width(std, 1000) * z
    options = {"lam": 0.0} if twin is sde_steps else {}
    errors = []
    for n in steps:
        state = list(twin(model, start, SCHEDULE, steps=n, spacing="logsnr", **options))[-2]
        assert state.t == 1
        errors.append((state.x - SCHEDULE.signal[1] * 0.5 - width(std, 1) * z).abs().mean().item())
    assert fitted_order(steps, errors) == pytest.approx(order, abs=tolerance)


def test_the_map_from_noise_to_data_is_one_whatever_the_solver():
    model, x = PLANE.eps_model(SCHEDULE), randn(100, 2)
    fine = sample_heun(model, x, SCHEDULE, steps=500)
    assert_close(sample_ddim(model, x, SCHEDULE), fine, rtol=0, atol=0.03)
    assert_close(sample_heun(model, x, SCHEDULE, steps=100, spacing="logsnr"), fine, rtol=0, atol=2e-3)


def test_states_and_calls_are_counted_and_dtypes_kept():
    calls = []

    def model(x, t):
        calls.append(int(t[0]))
        assert x.dtype == torch.float32
        return 0.5 * x

    x = torch.randn(3, 2, 4, 4, generator=generator())
    states = list(heun_steps(model, x, SCHEDULE, steps=4))
    assert [state.t for state in states] == [1000, 750, 500, 250, 0]
    assert calls == [1000, 750, 750, 500, 500, 250, 250]
    assert {state.x.dtype for state in states} == {torch.float32}
    assert_close(states[0].x, x)


def test_noise_comes_from_the_generator_alone():
    model, x = PLANE.eps_model(SCHEDULE), randn(4, 2)
    one, two, other = (sample_sde(model, x, SCHEDULE, steps=5, generator=generator(k)) for k in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_predictor_and_corrector_sample_the_data_and_the_corrector_helps(lam):
    data = GaussianMixture([0.2, 0.8], [[-3.0, 3.0], [3.0, -3.0]], [1.0, 1.5])
    sigmas, n = geometric_sigmas(20, 0.05, 15), 4000
    start = 20 * randn(n, 2)
    spread = {}
    for corrections in (0, 4):
        options = {"lam": lam, "n_corrections": corrections, "step_size": 0.3, "generator": generator(1)}
        x = predictor_corrector(data.score_model(), start, sigmas, **options)
        second = data.responsibilities(x)[:, 1]
        assert float(second.mean()) == pytest.approx(0.8, abs=0.04)
        spread[corrections] = float(x[second > 0.5].var(0).mean()) / 1.5
    assert abs(spread[4] - 1) < abs(spread[0] - 1) < 0.3


def test_the_predictor_alone_is_the_family_in_other_coordinates():
    model, x = PLANE.eps_model(SHORT), randn(50, 2)
    levels = (SHORT.noise / SHORT.signal)[1:].flip(0)
    ours = predictor_corrector(
        PLANE.score_model(), x / SHORT.signal[-1], levels, n_corrections=0, generator=generator(1)
    )
    assert_close(ours, sample_sde(model, x, SHORT, generator=generator(1)))


# --------------------------------------------------------------------------------------------------------- likelihood


@pytest.mark.parametrize("mixture", [PLANE, TILTED], ids=["round", "tilted"])
def test_likelihood_is_that_of_the_mixture(mixture):
    x = mixture.sample(100, generator(), dtype=torch.float64)
    found = log_likelihood(mixture.eps_model(SCHEDULE), x, SCHEDULE, prior=at_T(mixture).log_prob)
    assert_close(found.log_prob, mixture.log_prob(x), rtol=0, atol=1e-3)
    assert float(found.stderr.abs().max()) == 0
    fewer = log_likelihood(mixture.eps_model(SCHEDULE), x, SCHEDULE, steps=100, spacing="logsnr")
    assert_close(fewer.log_prob, mixture.log_prob(x), rtol=0, atol=0.05)


def test_likelihood_by_a_score_and_noise_levels():
    x = PLANE.sample(50, generator(), dtype=torch.float64)
    levels = geometric_sigmas(30, 0.005, 500)
    prior = PLANE.perturbed(1.0, 30.0).log_prob
    found = log_likelihood(PLANE.score_model(), x, levels, prior=prior)
    assert_close(found.log_prob, PLANE.log_prob(x), rtol=0, atol=1e-3)
    normal = log_likelihood(PLANE.score_model(), x, levels)
    assert_close(normal.log_prob, PLANE.log_prob(x), rtol=0, atol=0.05)


def test_the_flow_takes_points_to_the_noise_that_the_sampler_takes_back():
    x = PLANE.sample(50, generator(), dtype=torch.float64)
    options = {"steps": 300, "spacing": "logsnr"}
    up = log_likelihood(PLANE.eps_model(SCHEDULE), x, SCHEDULE, **options).x_T
    assert_close(sample_heun(PLANE.eps_model(SCHEDULE), up, SCHEDULE, **options), x, rtol=0, atol=2e-3)


def test_hutchinsons_estimate_is_unbiased_and_says_its_error():
    x = TILTED.sample(1, generator(), dtype=torch.float64).expand(400, 2)
    options = {"steps": 50, "spacing": "logsnr"}
    exact = log_likelihood(TILTED.eps_model(SCHEDULE), x[:1], SCHEDULE, **options).log_prob
    found = log_likelihood(
        TILTED.eps_model(SCHEDULE), x, SCHEDULE, n_projections=4, projection=gaussian_projection,
        generator=generator(1), **options,
    )  # fmt: skip
    off = (found.log_prob - exact) / found.stderr.square().mean().sqrt()
    assert abs(float(off.mean())) < 4 / math.sqrt(400)
    assert float(off.std()) == pytest.approx(1, abs=0.15)


def test_divergence_of_a_linear_field_is_its_trace():
    a, x = randn(3, 3), randn(5, 3, seed=1)
    value, trace = divergence(lambda x: x @ a.T, x)
    assert_close(value, x @ a.T)
    assert_close(trace, a.trace().expand(1, 5))
    v = gaussian_projection(x.expand(6, 5, 3), generator(2))
    assert_close(divergence(lambda x: x @ a.T, x, v)[1], torch.einsum("nbi,ij,nbj->nb", v, a, v))


class Small(nn.Module):
    """A network of the right form, in training mode, with dropout."""

    def __init__(self):
        super().__init__()
        self.layer, self.drop = nn.Linear(2, 2), nn.Dropout(0.5)

    def forward(self, x, t):
        return self.drop(self.layer(x)) + 0 * t[:, None]


def test_likelihood_of_a_network_in_eval_mode_with_its_mode_given_back():
    torch.manual_seed(0)
    network, x = Small(), torch.randn(4, 2, generator=generator())
    one, two = (log_likelihood(network, x, SHORT).log_prob for _ in range(2))
    assert torch.equal(one, two)
    assert network.drop.training
    assert not one.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


def test_bits_of_even_bytes_are_8_and_a_bin_is_counted():
    even = torch.full((3,), -768 * math.log(2.0))  # the density of x even in [-1, 1]^768
    assert_close(bits_per_dim(even, 768, bin_width=2 / 256), torch.full((3,), 8.0))


# -------------------------------------------------------------------------------------------------------- conversions


@pytest.mark.parametrize(("given", "wanted"), list(itertools.permutations(PREDICTIONS, 2)))
def test_every_prediction_turns_into_every_other_and_back(given, wanted):
    x0, eps = randn(6, 3), randn(6, 3, seed=1)
    level = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    for signal, noise in ((0.6, 0.8), ((1 - level**2).sqrt(), level), (1 - level, level), (1.0, 20.0)):
        a, s = (torch.as_tensor(k, dtype=torch.float64).expand(6)[:, None] for k in (signal, noise))
        x = a * x0 + s * eps
        truth = {"eps": eps, "x0": x0, "v": a * eps - s * x0, "score": -eps / s, "velocity": eps - x0}
        assert_close(convert(truth[given], x, signal, noise, given=given, wanted=wanted), truth[wanted])
        back = convert(truth[wanted], x, signal, noise, given=wanted, wanted=given)
        assert_close(back, truth[given])


def test_a_model_of_v_is_an_eps_model():
    exact = PLANE.eps_model(SCHEDULE)
    x, t = randn(5, 2), torch.tensor([1, 10, 500, 999, 1000])
    for name in PREDICTIONS:

        def model(x, t, name=name):
            return convert(exact(x, t), x, SCHEDULE.signal[t], SCHEDULE.noise[t], given="eps", wanted=name)

        assert_close(as_eps_model(model, SCHEDULE, given=name)(x, t), exact(x, t))


def test_the_inner_function_of_the_shipped_network_is_v():
    from hw3utils import load_pretrained

    network, schedule = load_pretrained("sprites")
    x, t = torch.randn(4, 3, 16, 16, generator=generator()), torch.tensor([5, 200, 600, 1000])
    signal, noise = (table[t].float()[:, None, None, None] for table in (schedule.signal, schedule.noise))
    kept = []
    network.head.register_forward_hook(lambda module, args, out: kept.append(out))
    with torch.no_grad():
        eps = network(x, t)
    v = convert(eps, x, schedule.signal[t], schedule.noise[t], given="eps", wanted="v")
    assert_close(v, kept[0], rtol=0, atol=3e-4)  # at T the signal, 0.006, divides what float32 rounds
    assert_close(eps, noise * x + signal * kept[0])


# ------------------------------------------------------------------------------------------------------ straight paths


def test_the_exact_velocity_is_a_conversion_of_the_exact_score():
    x, s = randn(6, 2), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    velocity = velocity_model(TILTED)(x, s)
    scores = torch.cat([TILTED.perturbed(1 - k, k).score(x[i : i + 1]) for i, k in enumerate(s.tolist())])
    assert_close(velocity, convert(scores, x, 1 - s, s, given="score", wanted="velocity"))
    assert_close(velocity_model(TILTED)(x, 1.0), x - TILTED.mean)


def test_loss_less_its_least_value_is_the_distance_to_the_velocity():
    n, exact = 200_000, velocity_model(PLANE)
    x0, eps = PLANE.sample(n, generator(), dtype=torch.float64), randn(n, 2, seed=1)
    s = 0.05 + 0.95 * torch.rand(n, generator=generator(2), dtype=torch.float64)
    wrong = lambda x, s: exact(x, s) + 0.3 * x  # noqa: E731
    gap = flow_matching_loss(wrong, x0, s, eps) - flow_matching_loss(exact, x0, s, eps)
    x = (1 - s[:, None]) * x0 + s[:, None] * eps
    distance = (0.3 * x).square().mean(1)
    assert float((gap - distance).mean()) == pytest.approx(0, abs=5 * float((gap - distance).std()) / math.sqrt(n))


def test_a_network_trained_with_the_loss_learns_the_velocity():
    layers = lambda: nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))  # noqa: E731
    network, draw = seeded(layers, 0), generator()
    velocity = lambda x, s: network(torch.cat([x, s[:, None]], 1))  # noqa: E731
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)
    points = PLANE.sample(200_000, draw)
    for x0 in points.split(250):
        s, eps = torch.rand(250, generator=draw), torch.randn(250, 2, generator=draw)
        optimizer.zero_grad()
        flow_matching_loss(velocity, x0, s, eps).mean().backward()
        optimizer.step()
        rate.step()
    s, eps = 0.1 + 0.9 * torch.rand(5000, generator=draw), torch.randn(5000, 2, generator=draw)
    x = (1 - s[:, None]) * points[:5000] + s[:, None] * eps
    with torch.no_grad():
        error = (velocity(x, s) - velocity_model(PLANE)(x, s)).norm() / velocity_model(PLANE)(x, s).norm()
    assert float(error) < 0.3


def test_order_of_convergence_of_euler_on_the_straight_path():
    std, mean, x1 = 0.5, 0.7, randn(100, 1)
    velocity, truth = velocity_model(gaussian(std, mean)), mean + std * x1
    steps = [10, 20, 40, 80]
    errors = [(sample_flow(velocity, x1, steps=n) - truth).abs().mean().item() for n in steps]
    assert fitted_order(steps, errors) == pytest.approx(1, abs=0.1)


def test_flow_samples_the_mixture_by_the_same_map_as_the_probability_flow():
    x1 = randn(500, 2)
    straight = sample_flow(velocity_model(PLANE), x1, steps=300)
    # At T of the linear schedule a little of the data is left: the ends agree to about signal_T.
    through = sample_heun(PLANE.eps_model(SCHEDULE), x1, SCHEDULE, steps=200, spacing="logsnr")
    assert float((straight - through).abs().mean()) < 0.03


def test_straight_lines_are_straight_and_one_step_is_enough():
    x1 = randn(100, 2)
    line = lambda x, s: x1 - 3.0  # noqa: E731
    assert straightness(line, x1) == pytest.approx(0, abs=1e-20)
    assert_close(sample_flow(line, x1, steps=1), torch.full_like(x1, 3.0))
    assert straightness(velocity_model(PLANE), x1) > 0.01


# ----------------------------------------------------------------------------------------------------------- diffusers


def test_heun_agrees_with_diffusers():
    diffusers = pytest.importorskip("diffusers", reason="diffusers, with which this test compares, is not installed")
    scheduler = diffusers.HeunDiscreteScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", timestep_spacing="linspace"
    )
    scheduler.set_timesteps(10)
    model, x_T = PLANE.eps_model(SCHEDULE), randn(20, 2)
    # Its times are spread evenly and not whole; taken whole, both walk the same grid.
    grid = sorted({round(t) + 1 for t in scheduler.timesteps.tolist()}, reverse=True)
    sigma = torch.tensor([float(SCHEDULE.noise[t] / SCHEDULE.signal[t]) for t in grid] + [0.0])
    scheduler.sigmas = torch.cat([sigma[:1], sigma[1:-1].repeat_interleave(2), sigma[-1:]])
    scheduler.timesteps = torch.tensor([grid[0], *[t for t in grid[1:] for _ in range(2)]], dtype=torch.float64)
    x = x_T / SCHEDULE.signal[-1]
    for t in scheduler.timesteps:
        signal = SCHEDULE.signal[int(t)]
        x = scheduler.step(model(signal * x, int(t)), t, x).prev_sample
    assert_close(sample_heun(model, x_T, SCHEDULE, steps=grid[::-1]), x, rtol=1e-4, atol=1e-4)


def test_euler_on_straight_paths_agrees_with_diffusers():
    diffusers = pytest.importorskip("diffusers", reason="diffusers, with which this test compares, is not installed")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    n = 10
    scheduler.set_timesteps(sigmas=[i / n for i in range(n, 0, -1)])
    velocity, x = velocity_model(PLANE), randn(20, 2).float()
    ours = sample_flow(velocity, x, steps=n)
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, float(t) / 1000), t, x).prev_sample
    assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_the_flow_agrees_with_torchdiffeq():
    torchdiffeq = pytest.importorskip("torchdiffeq", reason="torchdiffeq, with which this test compares, is missing")
    velocity, x1 = velocity_model(PLANE), randn(20, 2)
    times = torch.tensor([1.0, 0.5], dtype=torch.float64)
    theirs = torchdiffeq.odeint(lambda s, x: velocity(x, float(s)), x1, times, rtol=1e-10, atol=1e-10)[-1]
    off = [
        float((list(flow_steps(velocity, x1, steps=steps))[steps // 2] - theirs).abs().mean())
        for steps in (40, 80, 160)
    ]
    # One path, whatever the solver: Euler's steps come to it with order 1.
    assert off[0] < 0.05
    assert all(1.8 < coarse / fine < 2.2 for coarse, fine in itertools.pairwise(off))


# --------------------------------------------------------------------------------------------------------- wrong input


X = torch.zeros(2, 2)


def half(x, t):
    return x / 2


WRONG = {
    "no schedule": (lambda: vp_sde("linear", 1.0), "schedule is str"),
    "time below 0": (lambda: vp_sde(SCHEDULE, -1.0), r"t lies in \[-1.0"),
    "time above T": (lambda: vp_sde(SCHEDULE, 1000.5), "1000.5"),
    "time that is NaN": (lambda: vp_sde(SCHEDULE, math.nan), "nan"),
    "lam below 0": (lambda: sample_sde(half, X, SCHEDULE, lam=-1), "lam is -1.0"),
    "lam of the drift": (lambda: reverse_drift(X, X, 0.1, lam=-0.5), "lam is -0.5"),
    "score of another shape": (lambda: reverse_drift(X, X[:1], 0.1), "score has shape"),
    "beta of another shape": (lambda: reverse_drift(X, X, torch.ones(3)), r"shape \(3,\)"),
    "integers": (lambda: sample_heun(half, torch.zeros(2, 2, dtype=torch.int64), SCHEDULE), "floating-point"),
    "one point": (lambda: sample_heun(half, torch.zeros(2), SCHEDULE), r"shape \(2,\)"),
    "no steps": (lambda: sample_heun(half, X, SCHEDULE, steps=0), "steps is 0"),
    "NaN from a model": (lambda: sample_heun(lambda x, t: x / 0 * 0, X, SCHEDULE, steps=2), "NaN or infinity"),
    "levels that rise": (lambda: predictor_corrector(half, X, [1.0, 2.0]), "sigmas is"),
    "no levels": (lambda: predictor_corrector(half, X, []), "sigmas is"),
    "corrections below 0": (lambda: predictor_corrector_steps(half, X, [1.0], n_corrections=-1), "n_corrections is -1"),
    "step size of 0": (lambda: predictor_corrector_steps(half, X, [1.0], step_size=0), "step_size is 0"),
    "one projection": (lambda: log_likelihood(half, X, SHORT, n_projections=1), "n_projections is 1"),
    "levels at 0": (lambda: log_likelihood(half, X, [1.0, 0.0]), "levels is 0.0"),
    "bin of width 0": (lambda: bits_per_dim(X[:, 0], 2, bin_width=0), "bin_width is 0"),
    "no dimensions": (lambda: bits_per_dim(X[:, 0], 0), "dimensions is 0"),
    "unknown prediction": (lambda: convert(X, X, 0.6, 0.8, given="noise", wanted="x0"), "given is 'noise'"),
    "unknown wish": (lambda: convert(X, X, 0.6, 0.8, given="eps", wanted="f"), "wanted is 'f'"),
    "levels of another shape": (
        lambda: convert(X, X, torch.ones(3), 0.8, given="eps", wanted="x0"),
        r"signal has shape \(3,\)",
    ),
    "data from the noise where no signal is": (
        lambda: convert(X, X, 0.0, 1.0, given="eps", wanted="x0"),
        "eps .* x0",
    ),
    "score where no noise is": (lambda: convert(X, X, 1.0, 0.0, given="score", wanted="x0"), "score .* x0"),
    "s above 1": (lambda: flow_matching_loss(half, X, 1.5, X), r"s lies in \[1.5"),
    "s for others": (lambda: flow_matching_loss(half, X, torch.zeros(3), X), r"s has shape \(3,\)"),
    "velocity of another shape": (lambda: flow_matching_loss(lambda x, s: x[:1], X, 0.5, X), "the velocity returned"),
    "no Euler steps": (lambda: sample_flow(half, X, steps=0), "steps is 0"),
    "NaN from a velocity": (lambda: sample_flow(lambda x, s: x / 0 * 0, X), "NaN or infinity at s = 1"),
    "exact velocity at 0": (lambda: velocity_model(PLANE)(X.double(), 0.0), "s goes down to 0.0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_told_in_a_sentence(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
