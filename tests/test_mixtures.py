"""Gaussian mixtures: score, predictor and posterior against autograd, samples and brute force."""

import math

import pytest
import torch
from torch.testing import assert_close

from hw3utils.diffusion import eps_to_score, perturb_input
from hw3utils.mixtures import GaussianMixture, reverse_conditional, student_data, student_mixture
from hw3utils.schedules import cosine_schedule, linear_schedule

SCHEDULE = linear_schedule()
FULL = GaussianMixture(
    torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
    torch.tensor([[-2.0, 1.0], [1.0, 0.5], [3.0, -2.0]], dtype=torch.float64),
    torch.tensor([[[1.0, 0.6], [0.6, 0.8]], [[0.3, -0.1], [-0.1, 0.5]], [[2.0, 0.0], [0.0, 0.1]]], dtype=torch.float64),
)
ISOTROPIC = GaussianMixture([0.2, 0.8], [[-5.0, 5.0], [5.0, -5.0]], [1.0, 1.7])
DIAGONAL = GaussianMixture([0.6, 0.4], [[0.0, 0.0, 0.0], [2.0, 1.0, -1.0]], [[1.0, 0.5, 2.0], [0.2, 0.3, 0.4]])
LINE = GaussianMixture([0.3, 0.7], [-1.0, 1.0], 0.04)
MIXTURES = {"full": FULL, "isotropic": ISOTROPIC, "diagonal": DIAGONAL, "line": LINE}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


@pytest.fixture(params=MIXTURES.values(), ids=MIXTURES.keys())
def mixture(request):
    return request.param


def torch_log_prob(mixture, x):
    """The density by torch.distributions."""
    components = torch.distributions.MultivariateNormal(mixture.means, mixture.covariances)
    choice = torch.distributions.Categorical(mixture.weights)
    return torch.distributions.MixtureSameFamily(choice, components).log_prob(x)


def autograd_score(log_prob, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(log_prob(x).sum(), x)[0]


# --------------------------------------------------------------------------------------------------- density and score


def test_log_prob_agrees_with_torch_distributions(mixture):
    x = 3 * randn(50, mixture.D)
    assert_close(mixture.log_prob(x), torch_log_prob(mixture, x))
    assert_close(mixture.log_prob(x.reshape(5, 10, -1)), mixture.log_prob(x).reshape(5, 10))


def test_score_is_the_gradient_of_the_log_density(mixture):
    x = 3 * randn(50, mixture.D)
    assert_close(mixture.score(x), autograd_score(mixture.log_prob, x))
    assert_close(mixture.score(x), autograd_score(lambda y: torch_log_prob(mixture, y), x))


def test_score_stays_finite_far_from_the_data_and_points_back():
    x = torch.tensor([[1e3, 1e3], [-1e4, 0.0]])
    score = ISOTROPIC.score(x)
    assert bool(torch.isfinite(score).all())
    assert bool(((score * x).sum(1) < 0).all())


def test_score_is_differentiable_and_works_under_torch_func():
    x = randn(4, 2)
    by_autograd = torch.stack(
        [torch.autograd.functional.jacobian(lambda y: FULL.score(y[None])[0], x[i]) for i in range(4)]
    )
    by_func = torch.func.vmap(torch.func.jacfwd(lambda y: FULL.score(y[None])[0]))(x)
    assert_close(by_autograd, by_func)
    assert_close(by_func, by_func.mT)  # the score is a gradient field


def test_float32_points_get_float32_answers_close_to_float64(mixture):
    x = 2 * randn(20, mixture.D)
    for answer in (mixture.log_prob, mixture.score, mixture.eps_model(SCHEDULE).__call__):
        args = (100,) if answer not in (mixture.log_prob, mixture.score) else ()
        low = answer(x.float(), *args)
        assert low.dtype == torch.float32
        assert_close(low.double(), answer(x, *args), rtol=1e-3, atol=1e-3)


def test_one_gaussian_is_the_textbook_case():
    gaussian = GaussianMixture([1.0], [[1.0, -1.0]], 0.25)
    x = randn(10, 2)
    assert_close(gaussian.score(x), -(x - gaussian.means[0]) / 0.25)


def test_covariances_of_every_accepted_shape():
    weights, means = [0.5, 0.5], [[0.0, 0.0], [1.0, 1.0]]
    full = GaussianMixture(weights, means, torch.eye(2).expand(2, 2, 2) * 0.5)
    for covariances in (0.5, torch.tensor(0.5), [0.5, 0.5], [[0.5, 0.5], [0.5, 0.5]]):
        other = GaussianMixture(weights, means, covariances)
        assert_close(other.covariances, full.covariances)
        x = randn(5, 2)
        assert_close(other.log_prob(x), full.log_prob(x))


def test_arguments_are_copied():
    means = torch.tensor([[1.0, 2.0]])
    gaussian = GaussianMixture([1.0], means, 1.0)
    means += 5
    assert gaussian.means.tolist() == [[1.0, 2.0]]


# ------------------------------------------------------------------------------------------------------------- samples


def test_samples_have_the_moments_and_the_weights(mixture):
    n = 40_000
    x = mixture.sample(n, generator(), dtype=torch.float64)
    std = mixture.covariance.diagonal().sqrt()
    assert bool(((x.mean(0) - mixture.mean).abs() < 4 * std / math.sqrt(n)).all())
    assert_close(torch.cov(x.T).reshape(mixture.D, mixture.D), mixture.covariance, rtol=0.05, atol=0.05)
    share = mixture.responsibilities(x).mean(0)
    error = 4 * (mixture.weights * (1 - mixture.weights) / n).sqrt()
    assert bool(((share - mixture.weights).abs() < error).all())


def test_samples_follow_the_density():
    # Along a line the empirical distribution function must match the exact one (Kolmogorov-Smirnov, p about 1e-4).
    n = 20_000
    x = LINE.sample(n, generator(), dtype=torch.float64)[:, 0].sort().values
    normal = torch.distributions.Normal(LINE.means[:, 0], LINE.covariances[:, 0, 0].sqrt())
    cdf = (normal.cdf(x[:, None]) * LINE.weights).sum(1)
    empirical = torch.arange(1, n + 1, dtype=torch.float64) / n
    assert (cdf - empirical).abs().max().item() * math.sqrt(n) < 2.2


def test_samples_are_decided_by_the_seed_alone():
    before = torch.get_rng_state()
    assert torch.equal(FULL.sample(10, generator(3)), FULL.sample(10, generator=generator(3)))
    assert not torch.equal(FULL.sample(10, generator(3)), FULL.sample(10, generator(4)))
    assert torch.equal(torch.get_rng_state(), before)
    assert FULL.sample(3).dtype == torch.float64
    assert ISOTROPIC.sample(3).dtype == torch.float32
    assert_close(FULL.sample(5, generator(), dtype=torch.float32).double(), FULL.sample(5, generator()))
    assert FULL.sample(0).shape == (0, 2)


# -------------------------------------------------------------------------------------------------------- perturbation


def test_perturbed_is_the_density_of_signal_x_plus_noise_eps(mixture):
    signal, noise, n = 0.7, 0.5, 40_000
    perturbed = mixture.perturbed(signal, noise)
    assert_close(perturbed.means, signal * mixture.means)
    eye = torch.eye(mixture.D, dtype=torch.float64)
    assert_close(perturbed.covariances, signal**2 * mixture.covariances + noise**2 * eye)
    assert_close(perturbed.mean, signal * mixture.mean)
    assert_close(perturbed.covariance, signal**2 * mixture.covariance + noise**2 * eye)
    x = signal * mixture.sample(n, generator(), dtype=torch.float64) + noise * randn(n, mixture.D, seed=1)
    assert_close(torch.cov(x.T).reshape(mixture.D, -1), perturbed.covariance, rtol=0.05, atol=0.05)
    points = 2 * randn(20, mixture.D)
    assert_close(perturbed.log_prob(points), torch_log_prob(perturbed, points))
    assert_close(perturbed.score(points), autograd_score(perturbed.log_prob, points))


def test_perturbed_density_is_the_convolution():
    # On a grid: p_sigma(y) = integral of p(x) N(y; x, sigma^2).
    sigma = 0.3
    x = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    y = torch.linspace(-2, 2, 21, dtype=torch.float64)
    kernel = torch.distributions.Normal(x, torch.tensor(sigma, dtype=torch.float64)).log_prob(y[:, None]).exp()
    convolved = torch.trapezoid(LINE.log_prob(x[:, None]).exp() * kernel, x)
    assert_close(LINE.perturbed(1.0, sigma).log_prob(y[:, None]).exp(), convolved, rtol=1e-8, atol=1e-10)


def test_perturbing_twice_is_perturbing_once():
    twice = FULL.perturbed(0.8, 0.3).perturbed(0.5, 0.2)
    once = FULL.perturbed(0.4, math.sqrt(0.15**2 + 0.2**2))
    assert_close(twice.means, once.means)
    assert_close(twice.covariances, once.covariances)


# -------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("schedule", [SCHEDULE, cosine_schedule(30)], ids=["linear", "cosine"])
def test_eps_model_is_minus_noise_times_the_perturbed_score(mixture, schedule):
    t = torch.tensor([1, 2, 15, 29, schedule.T])
    x = 2 * randn(5, mixture.D)
    eps = mixture.eps_model(schedule)(x, t)
    for i, step in enumerate(t.tolist()):
        signal, noise = schedule.signal[step], schedule.noise[step]
        score = mixture.perturbed(signal, noise).score(x[i : i + 1])
        assert_close(eps[i : i + 1], -noise * score)
        assert_close(mixture.eps_model(schedule)(x[i : i + 1], step), eps[i : i + 1])
        assert_close(eps_to_score(eps[i : i + 1], step, schedule), score)


def test_eps_model_is_the_least_squares_predictor_of_the_noise():
    # Among eps + c * f(x) no choice of c lowers the error: the residual is uncorrelated with any function of x_t.
    n, t = 100_000, 200
    x0, eps = ISOTROPIC.sample(n, generator(), dtype=torch.float64), randn(n, 2, seed=1)
    x_t = perturb_input(x0, t, eps, SCHEDULE)
    residual = eps - ISOTROPIC.eps_model(SCHEDULE)(x_t, t)
    for f in (torch.ones_like, lambda x: x, torch.tanh, torch.sin):
        product = (residual * f(x_t)).mean(1)
        assert product.mean().abs() < 4 * product.std() / math.sqrt(n)


def test_eps_model_takes_pictures():
    pictures = GaussianMixture([0.5, 0.5], randn(2, 12), 0.1)
    x = randn(3, 3, 2, 2, seed=1)
    eps = pictures.eps_model(SCHEDULE)(x, torch.tensor([3, 30, 300]))
    assert_close(eps.flatten(1), pictures.eps_model(SCHEDULE)(x.flatten(1), torch.tensor([3, 30, 300])))


def test_posterior_mean_agrees_with_tweedie_and_with_brute_force(mixture):
    x, signal, noise = 2 * randn(6, mixture.D), 0.6, 0.8
    mean = mixture.posterior_mean(x, signal, noise)
    assert_close(mean, (x + noise**2 * mixture.perturbed(signal, noise).score(x)) / signal)
    levels = torch.linspace(0.2, 1.0, 6, dtype=torch.float64)
    each = mixture.posterior_mean(x, levels, 1 - 0.5 * levels)
    for i, level in enumerate(levels.tolist()):
        assert_close(each[i], mixture.posterior_mean(x[i : i + 1], level, 1 - 0.5 * level)[0])
    grid = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    p = torch.softmax(LINE.log_prob(grid[:, None]) - (0.4 - signal * grid) ** 2 / (2 * noise**2), 0)
    point = torch.tensor([[0.4]], dtype=torch.float64)
    assert LINE.posterior_mean(point, signal, noise).item() == pytest.approx((p * grid).sum().item(), abs=1e-8)


def test_score_model_is_the_score_of_the_blurred_mixture(mixture):
    score = mixture.score_model()
    x, sigmas = 3 * randn(4, mixture.D), torch.tensor([0.0, 1.0, 3.0, 20.0])
    each = score(x, sigmas)
    for i, sigma in enumerate(sigmas.tolist()):
        assert_close(score(x, sigma)[i], each[i])
        assert_close(score(x, torch.tensor(sigma)), mixture.perturbed(1.0, sigma).score(x))
    assert_close(score(x, 0.0), mixture.score(x))


# ----------------------------------------------------------------------------------------------- the true reverse step


@pytest.mark.parametrize(("t", "beta_T"), [(1, 0.5), (2, 0.5), (8, 0.5), (5, 0.05)])
def test_reverse_conditional_is_bayes_rule_on_a_grid(t, beta_T):
    schedule = linear_schedule(8, 0.02, beta_T)
    x_t = torch.tensor([0.1], dtype=torch.float64)
    x = torch.linspace(-6, 6, 6001, dtype=torch.float64)
    before = LINE.perturbed(schedule.signal[t - 1], schedule.noise[t - 1])
    step = torch.distributions.Normal(schedule.alpha[t].sqrt() * x, schedule.beta[t].sqrt()).log_prob(x_t)
    brute = (before.log_prob(x[:, None]) + step).exp()
    brute = brute / torch.trapezoid(brute, x)
    exact = reverse_conditional(LINE, x_t, t, schedule)
    assert_close(exact.log_prob(x[:, None]).exp(), brute, rtol=1e-7, atol=1e-9)


def test_reverse_conditional_with_full_covariances_has_the_marginals_by_bayes():
    schedule, t = linear_schedule(8, 0.02, 0.5), 4
    x_t, x = randn(2), randn(7, 2, seed=1)
    before = FULL.perturbed(schedule.signal[t - 1], schedule.noise[t - 1])
    after = FULL.perturbed(schedule.signal[t], schedule.noise[t])
    step = torch.distributions.Normal(schedule.alpha[t].sqrt() * x, schedule.beta[t].sqrt()).log_prob(x_t).sum(1)
    bayes = before.log_prob(x) + step - after.log_prob(x_t[None])
    assert_close(reverse_conditional(FULL, x_t, t, schedule).log_prob(x), bayes)


def test_reverse_step_is_bimodal_for_large_beta_and_gaussian_for_small():
    def excess_kurtosis(beta):
        schedule = linear_schedule(1, beta)
        reverse = reverse_conditional(GaussianMixture([0.5, 0.5], [-1.0, 1.0], 0.04), torch.zeros(1), 1, schedule)
        x = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
        p = reverse.log_prob(x[:, None]).exp()
        p = p / p.sum()
        centred = x - (p * x).sum()
        return ((p * centred**4).sum() / (p * centred**2).sum() ** 2 - 3).item()

    assert excess_kurtosis(0.9) < -1.5  # two separate peaks: near -2
    assert abs(excess_kurtosis(1e-4)) < 0.02


# ----------------------------------------------------------------------------------------------- the student's mixture


def test_student_mixture_keeps_to_the_assignment_and_uses_all_of_it():
    mixtures = [student_mixture(810_100_000 + i) for i in range(300)]
    light = torch.tensor([m.weights.min().item() for m in mixtures])
    variances = torch.stack([m.covariances.diagonal(dim1=1, dim2=2) for m in mixtures])
    assert 0.15 <= light.min() < 0.16
    assert 0.24 < light.max() <= 0.25
    assert 1 <= variances.min() < 1.05
    assert 1.95 < variances.max() <= 2
    assert torch.equal(variances[..., 0], variances[..., 1])
    means = {tuple(map(tuple, m.means.tolist())) for m in mixtures}
    assert means == {((-5.0, 5.0), (5.0, -5.0)), ((5.0, 5.0), (-5.0, -5.0))}
    first_is_light = sum(m.weights[0].item() < 0.5 for m in mixtures)
    assert 100 < first_is_light < 200
    anti = sum(m.means[0, 0].item() < 0 for m in mixtures)
    assert 100 < anti < 200


def test_student_mixture_is_decided_by_the_number_alone():
    one, two, other = student_mixture(810100123), student_mixture("0810100123"), student_mixture("810100124")
    assert torch.equal(one.weights, two.weights)
    assert torch.equal(one.covariances, two.covariances)
    assert not torch.equal(one.weights, other.weights)
    # Pinned: a change here changes every student's data.
    assert one.weights.tolist() == pytest.approx([0.19324126365374675, 0.8067587363462533], abs=1e-12)
    assert one.means.tolist() == [[-5, 5], [5, -5]]


def test_student_data_are_4000_and_1000_points_of_the_mixture():
    train, test = student_data(810100123)
    assert train.shape == (4000, 2)
    assert test.shape == (1000, 2)
    assert train.dtype == test.dtype == torch.float32
    again = student_data("810100123")
    assert torch.equal(train, again[0])
    assert torch.equal(test, again[1])
    assert not torch.equal(train, student_data(810100124)[0])
    mixture = student_mixture(810100123)
    share = mixture.responsibilities(torch.cat([train, test])).mean(0)
    assert_close(share.double(), mixture.weights, atol=4 * 0.4 / math.sqrt(5000), rtol=0)


# --------------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5, 0.6], [[0.0], [1.0]], 1.0), r"weights is \[0.5, 0.6\]"),
        (([1.5, -0.5], [[0.0], [1.0]], 1.0), r"weights is \[1.5, -0.5\]"),
        (([], [], 1.0), r"weights has shape \(0,\)"),
        (([[1.0]], [[0.0]], 1.0), r"weights has shape \(1, 1\)"),
        ((["a"], [[0.0]], 1.0), r"weights is list"),
        (([0.5, 0.5], [[0.0, 0.0]], 1.0), r"means has shape \(1, 2\)"),
        (([1.0], [[math.nan]], 1.0), r"means holds NaN or infinity"),
        (([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.4, 1.0]]]), r"covariances are not symmetric"),
        (([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]]), r"covariances have an eigenvalue -1"),
        (([1.0], [[0.0, 0.0]], 0.0), r"covariances have an eigenvalue 0"),
        (
            ([1.0], [[0.0, 0.0]], [1.0, 2.0, 3.0]),
            r"covariances has shape \(3,\)",
        ),
    ],
)
def test_wrong_parameters_are_named_in_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(*arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FULL.sample(-1), r"n is -1"),
        (lambda: FULL.log_prob(torch.zeros(4, 3)), r"x has shape \(4, 3\)"),
        (lambda: FULL.score([0.0, 0.0]), r"x is list"),
        (lambda: FULL.score(torch.zeros(2, dtype=torch.long)), r"x is a tensor of torch.int64"),
        (lambda: FULL.perturbed(1.0, -1.0), r"noise is -1.0"),
        (lambda: FULL.perturbed(math.inf, 1.0), r"signal is inf"),
        (lambda: FULL.perturbed(0, 0), r"signal and noise are both 0"),
        (lambda: FULL.eps_model(10), r"schedule is int"),
        (lambda: FULL.eps_model(SCHEDULE)(torch.zeros(3, 2), 0), r"t is 0.*1\.\.1000"),
        (lambda: FULL.eps_model(SCHEDULE)(torch.zeros(3, 3), 1), r"x_t has shape \(3, 3\)"),
        (
            lambda: FULL.score_model()(torch.zeros(3, 2), torch.ones(2)),
            r"sigma has shape \(2,\)",
        ),
        (lambda: FULL.score_model()(torch.zeros(3, 2), "1"), r"sigma is '1'"),
        (lambda: FULL.posterior_mean(torch.zeros(3, 2), torch.ones(2), 1), r"signal has shape \(2,\)"),
        (lambda: reverse_conditional(FULL, torch.zeros(3), 1, SCHEDULE), r"x_t has 3 entries"),
        (lambda: reverse_conditional(FULL, torch.zeros(2), 0, SCHEDULE), r"t is 0.*1\.\.1000"),
        (lambda: reverse_conditional(FULL, torch.zeros(2), 1, 5), r"schedule is int"),
        (lambda: student_mixture("81o"), r"student_number is '81o'"),
        (lambda: student_mixture(-1), r"student_number is -1"),
        (lambda: student_mixture(1.5), r"student_number is 1.5"),
        (lambda: student_mixture(True), r"student_number is True"),
        (lambda: student_mixture(""), r"student_number is ''"),
        (lambda: student_data("9" * 21), r"student_number is '9+'"),
    ],
)
def test_wrong_calls_are_named_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_no_point_of_a_student_is_in_both_sets():
    train, test = student_data(810100001)
    assert len(torch.cat([train, test]).unique(dim=0)) == len(train) + len(test) == 5000
