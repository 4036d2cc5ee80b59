"""Each exercise's check passes right implementations in several styles and fails every known wrong one."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from remote_checks import way  # noqa: F401

from hw3utils.course import checks
from hw3utils.diffusion import perturb_input
from hw3utils.fid import frechet_distance
from hw3utils.losses import noise_prediction_loss
from hw3utils.samplers import sample_ddim, sample_ddpm
from hw3utils.schedules import linear_schedule


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


# ------------------------------------------------------------------------------------------------------- the schedule


def schedule_with_numpy_style(T, first, last):
    beta = torch.cat([torch.zeros(1), torch.linspace(first, last, T)])
    alpha = 1 - beta
    return beta, alpha, torch.exp(torch.cumsum(torch.log(alpha), 0))


def schedule_with_loop(T, first, last):
    beta = [0.0] + [first + (last - first) * k / (T - 1) for k in range(T)]
    bars = [1.0]
    for b in beta[1:]:
        bars.append(bars[-1] * (1 - b))
    return beta, [1 - b for b in beta], bars


def schedule_shifted(T, first, last):
    beta, alpha, bar = schedule_with_numpy_style(T, first, last)
    return beta, alpha, torch.cat([bar[:1], bar[:-1]])


def schedule_of_sums(T, first, last):
    beta, alpha, _ = schedule_with_numpy_style(T, first, last)
    return beta, alpha, 1 - beta.cumsum(0)


def schedule_squared(T, first, last):
    beta = torch.cat([torch.zeros(1), torch.linspace(first**0.5, last**0.5, T) ** 2])
    return beta, 1 - beta, torch.cumprod(1 - beta, 0)


@pytest.mark.parametrize("make", [schedule_with_numpy_style, schedule_with_loop])
def test_right_schedules_pass(make, generator):
    assert checks.check_linear_schedule(make, generator=generator) < 1e-5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (schedule_shifted, "index"),
        (schedule_of_sums, "product"),
        (schedule_squared, "equal steps"),
        (lambda T, a, b: tuple(x[1:] for x in schedule_with_numpy_style(T, a, b)), "shape"),
    ],
)
def test_wrong_schedules_fail(make, message, generator):
    with pytest.raises(AssertionError, match=message):
        checks.check_linear_schedule(make, generator=generator)


# ------------------------------------------------------------------------------------------------------- perturbation


def perturb_by_loop(x0, t, eps, schedule):
    rows = [
        schedule.alpha_bar[k].sqrt() * x + (1 - schedule.alpha_bar[k]).sqrt() * e
        for x, k, e in zip(x0, t, eps, strict=True)
    ]
    return torch.stack(rows)


def perturb_in_double(x0, t, eps, schedule):
    wide = (-1,) + (1,) * (x0.dim() - 1)
    return schedule.signal[t].reshape(wide) * x0.double() + schedule.noise[t].reshape(wide) * eps.double()


def wide(table, t, x):
    return table[t].view(-1, *[1] * (x.ndim - 1)).to(x)


def perturb_without_root(x0, t, eps, s):
    return wide(s.signal, t, x0) * x0 + wide(1 - s.alpha_bar, t, x0) * eps


def perturb_with_rand(x0, t, eps, s):
    return wide(s.signal, t, x0) * x0 + wide(s.noise, t, x0) * torch.rand_like(x0)


def perturb_shifted(x0, t, eps, s):
    return perturb_input(x0, t - 1, eps, s)


def perturb_signal_without_root(x0, t, eps, s):
    return wide(s.alpha_bar, t, x0) * x0 + wide(s.noise, t, x0) * eps


def perturb_with_beta(x0, t, eps, s):
    return wide(s.alpha.sqrt(), t, x0) * x0 + wide(s.beta.sqrt(), t, x0) * eps


def perturb_first_time_only(x0, t, eps, s):
    return perturb_input(x0, int(t[0]), eps, s)


def perturb_in_place(x0, t, eps, s):
    return x0.mul_(wide(s.signal, t, x0)).add_(wide(s.noise, t, x0) * eps)


@pytest.mark.parametrize("perturb", [perturb_input, perturb_by_loop, perturb_in_double])
def test_right_perturbations_pass(perturb, generator):
    assert checks.check_perturb_input(perturb, generator=generator) < 1e-5


@pytest.mark.parametrize(
    ("perturb", "message"),
    [
        (perturb_without_root, "noise has the wrong size"),
        (perturb_with_rand, "differs from call to call"),
        (perturb_shifted, "index convention"),
        (perturb_signal_without_root, "multiplies x0 is off"),
        (perturb_with_beta, "multiplies x0 is off"),
        (perturb_first_time_only, "off|wrong size|time of its own"),
        (perturb_in_place, "changed"),
        (lambda x0, t, eps, s: x0.mean(), "shape"),
        (lambda x0, t, eps, s: x0 * math.nan, "NaN"),
    ],
)
def test_wrong_perturbations_fail(perturb, message, generator):
    with pytest.raises(AssertionError, match=message):
        checks.check_perturb_input(perturb, generator=generator)


# --------------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize(
    "loss",
    [
        noise_prediction_loss,
        lambda model, x0, t, eps, s: torch.nn.functional.mse_loss(model(perturb_input(x0, t, eps, s), t), eps),
    ],
)
def test_right_losses_pass(loss, generator):
    assert checks.check_noise_prediction_loss(loss, generator=generator) < 1e-4


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda model, x0, t, eps, s: (model(x0, t) - eps).square().mean(), "noisy"),
        (lambda model, x0, t, eps, s: (model(perturb_input(x0, t, eps, s), t) - eps).square().sum(), "times the mean"),
        (lambda model, x0, t, eps, s: (model(perturb_input(x0, t, eps, s), t) - eps).abs().mean(), "times the mean"),
        (
            lambda model, x0, t, eps, s: (model(perturb_input(x0, t, eps, s), t - 1) - eps).square().mean(),
            "other times",
        ),
        (lambda model, x0, t, eps, s: (x0 - eps).square().mean(), "never asked"),
    ],
)
def test_wrong_losses_fail(loss, message, generator):
    with pytest.raises(AssertionError, match=message):
        checks.check_noise_prediction_loss(loss, generator=generator)


# ------------------------------------------------------------------------------------------------- ancestral sampling


def ddpm(eps_model, x, s, generator, *, order=None, sigma=None, noise=torch.randn, last_noise=False, shift=0):
    """Ancestral sampling with one thing changed at a time."""
    for t in order or range(s.T, 0, -1):
        beta, bar = s.beta[t].item(), s.alpha_bar[t - shift].item()
        eps = eps_model(x, torch.full((len(x),), t))
        x = (x - beta / math.sqrt(max(1 - bar, 1e-12)) * eps) / math.sqrt(1 - beta)
        if t > 1 or last_noise:
            x = x + (sigma or math.sqrt)(beta) * noise(x.shape, generator=generator)
    return x


@pytest.mark.parametrize(
    "sample",
    [
        ddpm,
        lambda e, x, s, g: sample_ddpm(e, x, s, variance="posterior", generator=g),
        lambda e, x, s, g: sample_ddpm(e, x, s, variance="beta", generator=g),
    ],
)
def test_right_ancestral_samplers_pass(sample, generator):
    assert checks.check_sample_ddpm(sample, generator=generator) < 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"last_noise": True}, "noisier than the data"),
        ({"noise": torch.rand}, "mean|narrow|wide"),
        ({"sigma": lambda beta: beta}, "narrow"),
        ({"sigma": lambda beta: 0.0}, "narrow"),
        ({"shift": 1}, "narrow|wide|mean"),
        ({"order": range(1, 61)}, "wrong way|once at each"),
    ],
)
def test_wrong_ancestral_samplers_fail(change, message, generator):
    with pytest.raises(AssertionError, match=message):
        checks.check_sample_ddpm(lambda e, x, s, g: ddpm(e, x, s, g, **change), generator=generator)


def test_fresh_input_in_every_call():
    seen = []

    def perturb(x0, t, eps, schedule):
        seen[-1].add(eps.flatten()[0].item())
        return perturb_input(x0, t, eps, schedule)

    for _ in range(2):
        seen.append(set())
        checks.check_perturb_input(perturb)
    assert len(seen[0] ^ seen[1]) >= 4


# --------------------------------------------------------------------------------------------------------------- DDIM


def ddim(eps_model, x, s, times, eta, generator, *, wrong=None):
    """DDIM with one thing wrong at a time."""
    for t, before in itertools.pairwise(times):
        bar, bar_s = s.alpha_bar[t].item(), s.alpha_bar[before].item()
        eps = eps_model(x, torch.full((len(x),), t))
        x0_hat = (x - math.sqrt(1 - bar) * eps) / math.sqrt(bar)
        sigma2 = eta**2 * (1 - bar_s) / (1 - bar) * (1 - bar / bar_s)
        if wrong == "beta":
            sigma2 = min(eta**2 * (1 - bar / bar_s), 1 - bar_s)
        if wrong == "eta of everything":
            sigma2 = min(eta**2 * (1 - bar), 1 - bar_s)
        if wrong == "eta of everything before":
            sigma2 = eta**2 * (1 - bar_s)
        if wrong == "one-step beta":
            beta = s.beta[t].item()
            x = (x - beta / math.sqrt(1 - bar) * eps) / math.sqrt(1 - beta)
            continue
        direction = math.sqrt(1 - bar_s) if wrong == "no room for noise" else math.sqrt(1 - bar_s - sigma2)
        x = math.sqrt(bar_s) * x0_hat + direction * eps
        if sigma2 > 0 or (wrong == "noise at the end" and before == 0):
            noise = torch.rand if wrong == "rand" else torch.randn
            size = math.sqrt(sigma2) if wrong != "variance for std" else sigma2
            x = x + (size or 0.05) * noise(x.shape, generator=generator)
        elif wrong == "always noisy":
            x = x + 0.01 * torch.randn(x.shape, generator=generator)
    return x


def ddim_with_hw3utils(eps_model, x, s, times, eta, generator):
    return sample_ddim(eps_model, x, s, steps=times, eta=eta, generator=generator)


@pytest.mark.parametrize("sample", [ddim, ddim_with_hw3utils])
def test_right_ddim_passes(sample, generator):
    assert checks.check_sample_ddim(sample, generator=generator) < 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("one-step beta", "times as wide"),
        ("always noisy", "x_T alone"),
        ("noise at the end", "x_T alone"),
        ("beta", "too much|too little|follows x_T"),
        ("eta of everything", "too much|too little|follows x_T"),
        ("eta of everything before", "too much|too little|follows x_T"),
        ("no room for noise", "follows x_T|too much"),
        ("variance for std", "too little"),
        ("rand", "follows x_T|too little|mean"),
    ],
)
def test_wrong_ddim_fails(wrong, message, generator):
    with pytest.raises(AssertionError, match=message):
        checks.check_sample_ddim(functools.partial(ddim, wrong=wrong), generator=generator)


def test_ddim_over_the_wrong_times_fails(generator):
    def forwards(eps_model, x, s, times, eta, generator):
        for t in sorted(times)[1:]:
            eps_model(x, torch.full((len(x),), t))
        return x

    with pytest.raises(AssertionError, match="wrong way"):
        checks.check_sample_ddim(forwards, generator=generator)


# -------------------------------------------------------------------------------------------------------------- FID


def frechet_by_product(m, a, n, b):
    """The formula of common FID codes: eigenvalues of the product, in NumPy."""
    overlap = np.linalg.eigvals(a.numpy() @ b.numpy()).clip(0).real ** 0.5
    return float((m - n) @ (m - n)) + float(a.trace() + b.trace()) - 2 * overlap.sum()


def frechet_by_singular_values(m, a, n, b):
    roots = []
    for c in (a, b):
        values, vectors = torch.linalg.eigh(c)
        roots.append(vectors * values.clamp(min=0).sqrt())
    overlap = torch.linalg.svdvals(roots[0].mT @ roots[1]).sum()
    return ((m - n) ** 2).sum() + torch.trace(a) + torch.trace(b) - 2 * overlap


@pytest.mark.parametrize("distance", [frechet_distance, frechet_by_product, frechet_by_singular_values])
def test_right_frechet_distances_pass(distance):
    assert checks.check_frechet_distance(distance) < 1e-6


def entrywise(m, a, n, b):
    return ((m - n) ** 2).sum() + (a + b - 2 * (a @ b).abs().sqrt()).trace()


@pytest.mark.parametrize(
    ("distance", "message"),
    [
        (lambda m, a, n, b: frechet_distance(m, a, n, b) ** 0.5, "means only"),
        (lambda m, a, n, b: frechet_distance(m, a, n, b) - float(((m - n) ** 2).sum()), "means only"),
        (lambda m, a, n, b: float(((m - n) ** 2).sum()), "same mean"),
        (lambda m, a, n, b: (frechet_distance(m, a, n, b) + float(((m - n) ** 2).sum() + (a + b).trace())) / 2, "off"),
        (entrywise, "off"),
        (lambda m, a, n, b: frechet_distance(m, a, n, a), "same mean"),
        (lambda m, a, n, b: ((m - n) ** 2).sum() + ((a - b) ** 2).sum(), "same mean"),
        (lambda m, a, n, b: ((m - n) ** 2).sum() + (a.diagonal().sqrt() - b.diagonal().sqrt()).square().sum(), "off"),
        (lambda m, a, n, b: torch.full((2,), 1.0), "shape"),
        (lambda m, a, n, b: math.nan, "NaN"),
    ],
)
def test_wrong_frechet_distances_fail(distance, message):
    with pytest.raises(AssertionError, match=message):
        checks.check_frechet_distance(distance)


# ------------------------------------------------------------------------------------------- networks, features, paths


class Predictor(torch.nn.Module):
    """A small residual network for pictures, and the wrong ones that teaching code has."""

    def __init__(self, wrong=None):
        super().__init__()
        self.wrong = wrong
        self.first, self.second = (torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x, t):
        shortcut = self.first
        if self.wrong == "new":
            shortcut = torch.nn.Conv2d(3, 3, 1)
        if self.wrong == "kept":
            self.shortcut = shortcut = self.shortcut if hasattr(self, "shortcut") else torch.nn.Conv2d(3, 3, 1)
        if self.wrong == "noise":
            x = x + 0.1 * torch.randn(x.shape)
        if self.wrong == "unused":
            return t.view(-1, 1, 1, 1) * x.detach() + 0 * x
        if self.wrong == "shape":
            return self.first(x)[:, :1]
        return shortcut(x) + self.second(self.dropout(torch.relu(x))) * (1 + t.view(-1, 1, 1, 1) / 1000)


def test_a_right_network_passes_and_keeps_its_mode():
    network = Predictor().train()
    assert checks.check_noise_network(network, torch.randn(2, 3, 8, 8), torch.tensor([3, 700])) == 4
    assert network.training


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("new", "made anew in forward"),
        ("kept", "made new parameters: shortcut"),
        ("noise", "another output each time"),
        ("shape", "returns shape"),
        ("unused", "does not require grad|take no part"),
    ],
)
def test_wrong_networks_fail(wrong, message):
    with pytest.raises((AssertionError, RuntimeError), match=message):
        checks.check_noise_network(Predictor(wrong), torch.randn(2, 3, 8, 8), torch.tensor([3, 700]))


def feature_network(*layers):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8), *layers)


def test_features_in_evaluation_mode_pass_and_in_training_mode_fail():
    images = torch.randn(16, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    norm, dropout = torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2)
    assert checks.check_features(feature_network(norm, dropout).eval(), images) < 1e-5
    assert checks.check_features(lambda x: x.flatten(1).numpy(), images) == 0
    network = feature_network(norm, torch.nn.Softmax(0))
    with pytest.raises(AssertionError, match=r"in which mode|other features"):
        checks.check_features(feature_network(torch.nn.GroupNorm(2, 8), torch.nn.Softmax(0)).eval(), images)
    with pytest.raises(AssertionError, match="asked twice"):
        checks.check_features(feature_network(dropout).train(), images)
    with pytest.raises((AssertionError, ValueError), match=r"in which mode|more than 1 value"):
        checks.check_features(network.train(), images)
    with pytest.raises(AssertionError, match="not \\(N, d\\)"):
        checks.check_features(lambda x: x, images)


def test_paths_must_fall_from_noise_to_data():
    g = torch.Generator().manual_seed(0)
    smooth, noise = torch.ones(3, 8, 8).cumsum(2) / 8, torch.randn(3, 8, 8, generator=g)
    states = [noise, (noise + smooth) / 2, smooth]
    assert checks.check_reverse_path((1000, 500, 0), states) > 10
    for times, wrong, message in (
        ((0, 500, 1000), states, "time does not fall"),
        ((1000, 500, 0), states[::-1], "smoother than what is labelled as data"),
        ((1000, 0), states, "2 times for 3 states"),
    ):
        with pytest.raises(AssertionError, match=message):
            checks.check_reverse_path(times, wrong)


# ------------------------------------------------------------------------------------------- the pair, the parameters


class Halved(torch.nn.Module):
    def forward(self, x, t):
        return 0.5 * x


def pictures_by(steps, eta, *, first=0, shape=(3, 16, 16), change=lambda x: x):
    """A sampler of pictures, by DDIM on the homework's schedule, and what else it may do."""

    def sample(network, n):
        schedule = linear_schedule()
        x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))
        if steps is None:
            return x
        times = steps if isinstance(steps, list) else [round(1000 * (1 - k / steps)) for k in range(steps)] + [0]
        return change(ddim(network, x, schedule, times[first:], eta, torch.Generator().manual_seed(1)))

    return sample


def one_by_one(sample):
    """The network sees one picture at a time."""

    def run(network, n):
        return sample(lambda x, t: torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(len(x))]), n)

    return run


def asked_for_show(network, n):
    for t in range(1000, 0, -1):
        network(torch.randn(n, 3, 16, 16), torch.full((n,), t))
    return torch.randn(n, 3, 16, 16)


SLOW, FAST = pictures_by(1000, 1.0), pictures_by(50, 0.0)


def ddpm_with_beta(network, n):
    return ddpm(network, torch.randn(n, 3, 16, 16), linear_schedule(), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("slow", [SLOW, one_by_one(SLOW), ddpm_with_beta])
def test_right_pairs_of_samplers_pass(slow):
    network = Halved()
    pair = (functools.partial(sample, network) for sample in (slow, FAST))
    assert checks.check_sampling_pair(*pair, network) == 20
    assert not network._forward_hooks


def times(grid):
    """A grid of times from noise to data as a list that ends in 0."""
    return [*sorted({round(float(t)) for t in grid} - {0}, reverse=True), 0]


@pytest.mark.parametrize(
    "grid",
    [
        torch.linspace(0, 1000, 51),
        torch.linspace(0, 1000, 50),
        torch.linspace(1, 1000, 50),
        torch.linspace(1, 1000, 51),
        range(0, 1000, 20),
        range(1, 1001, 20),
        torch.linspace(0, 800**0.5, 50).square(),
        torch.linspace(0, 1, 51).square() * 1000,
    ],
)
def test_every_grid_of_fifty_steps_is_right(grid):
    network = Halved()
    pair = (functools.partial(sample, network) for sample in (SLOW, one_by_one(pictures_by(times(grid), 0.0))))
    assert 19 < checks.check_sampling_pair(*pair, network) < 23


@pytest.mark.parametrize(
    ("slow", "fast", "message"),
    [
        (pictures_by(1000, 1.0, first=1), FAST, "asked the network 999 times"),
        (SLOW, pictures_by(1000, 0.0), "DDIM asked the network 1000"),
        (SLOW, pictures_by(25, 0.0), "DDIM asked the network 25 times a picture; the exercise asks for fifty steps"),
        (SLOW, pictures_by(100, 0.0), "DDIM asked the network 100"),
        (SLOW, pictures_by(list(range(50, -1, -1)), 0.0), "DDIM begins at t = 50"),
        (pictures_by(50, 1.0), pictures_by(1000, 0.0), "asked the network 50 times"),
        (SLOW, pictures_by(None, 0.0), "never asked"),
        (SLOW, pictures_by(50, 0.0, shape=(1, 8, 8)), "shape"),
        (pictures_by(1000, 0.0), pictures_by(50, 1.0), "DDPM adds too little noise"),
        (SLOW, pictures_by(50, 1.0), "DDIM does not go on"),
        (pictures_by(1000, 1.0, change=torch.zeros_like), FAST, "the end of its chain"),
        (SLOW, pictures_by(50, 0.0, change=torch.zeros_like), "the end of its chain"),
        (asked_for_show, FAST, "DDPM does not go on"),
    ],
)
def test_wrong_pairs_of_samplers_fail(slow, fast, message):
    network = Halved()
    pair = (functools.partial(sample, network) for sample in (slow, fast))
    with pytest.raises(AssertionError, match=message):
        checks.check_sampling_pair(*pair, network)
    assert not network._forward_hooks


# ------------------------------------------------------------------------------------------------------- no cheats


def jump(eps_model, x, s, generator):
    """Data of the right mean and variance, found by asking the model; it is asked once at each time."""
    noise, signal = (float(table[-1]) for table in (s.noise, s.signal))
    points = torch.linspace(-1, 1, len(x)).view(-1, 1).to(x)
    slope = float((eps_model(points, torch.full((len(x),), s.T))[-1] - 0) / 1)
    for t in range(s.T - 1, 0, -1):
        eps_model(x, torch.full((len(x),), t))
    values = checks.diffusion.gaussian_chain_variances(
        s, max((noise / slope - noise**2) / signal**2, 1e-6) ** 0.5, "beta"
    )
    return values[0].sqrt().float() * torch.randn(x.shape, generator=generator)


def test_a_sampler_must_ask_at_its_own_states(generator):
    with pytest.raises(AssertionError):
        checks.check_sample_ddpm(jump, generator=generator)


def test_an_argument_that_is_changed_in_place_does_not_help(generator):
    def zero_time(x0, t, eps, schedule):
        t.zero_()
        return x0.clone()

    def zero_schedule(x0, t, eps, schedule):
        schedule.noise.zero_()
        schedule.signal.fill_(1)
        return x0.clone()

    for cheat in (zero_time, zero_schedule):
        with pytest.raises(AssertionError):
            checks.check_perturb_input(cheat, generator=generator)


def test_no_keyword_reaches_into_the_functions_that_a_check_hands_out(generator):
    """A default argument of the check's own function would be the student's to set."""
    seen = []

    def sample(eps_model, x, s, generator):
        seen.append(eps_model)
        return eps_model(x, torch.full((len(x),), s.T), asked=[], s=0.0)

    with pytest.raises(Exception, match="unexpected keyword"):
        checks.check_sample_ddpm(sample, generator=generator)
    assert seen


class Config:
    def __init__(self, lr, batch_size):
        self.lr, self.batch_size = lr, batch_size


def test_parameters_of_a_run_are_the_homeworks():
    assert checks.check_training_config(Config(2e-4, 64), "Q1.P3") == 0
    assert checks.check_training_config(Config(1e-3, 128), "Q2.P2", sigmas=torch.tensor([7.0, 1.0, 3.0])) == 0
    for config, item, sigmas, message in (
        (Config(1e-3, 64), "Q1.P3", None, "lr is 0.001"),
        (Config(2e-4, 128), "Q1.P3", None, "batch_size is 128"),
        (Config(1e-3, 64), "Q2.P2", (1, 3, 7), "batch_size is 64"),
        (Config(1e-3, 128), "Q2.P2", (1, 3, 5), "noise levels are"),
    ):
        with pytest.raises(AssertionError, match=message):
            checks.check_training_config(config, item, sigmas=sigmas)
