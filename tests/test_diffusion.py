"""The forward process against its closed forms: moments, Bayes' rule, the three names of one unknown, and the bound."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hw3utils.bound import bound_terms, discrete_decoder, gaussian_bound_terms
from hw3utils.diffusion import eps_to_score, eps_to_x0, forward_chain, perturb_input, posterior, score_to_eps, x0_to_eps
from hw3utils.mixtures import GaussianMixture
from hw3utils.noise import gaussian_noise
from hw3utils.schedules import cosine_schedule, linear_schedule

SCHEDULE = linear_schedule()
SHORT = linear_schedule(8, 0.02, 0.4)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


# ------------------------------------------------------------------------------------------------------- perturb_input


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 3, 5, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_perturb_input_is_equation_4_with_a_step_per_sample(shape, dtype):
    x0, eps = randn(*shape, dtype=dtype), randn(*shape, seed=1, dtype=dtype)
    t = torch.tensor([0, 1, 260, 1000])
    x_t = perturb_input(x0, t, eps, SCHEDULE)
    assert x_t.dtype == dtype
    for i, abar in enumerate(SCHEDULE.alpha_bar[t].tolist()):
        assert_close(x_t[i], math.sqrt(abar) * x0[i] + math.sqrt(1 - abar) * eps[i])
    assert torch.equal(x_t[0], x0[0])


@pytest.mark.parametrize("t", [260, torch.tensor(260), torch.full((4,), 260), torch.full((4,), 260, dtype=torch.int32)])
def test_every_form_of_t_means_the_same(t):
    x0, eps = randn(4, 2), randn(4, 2, seed=1)
    assert torch.equal(perturb_input(x0, t, eps, SCHEDULE), perturb_input(x0, 260, eps, SCHEDULE))


def test_arguments_are_not_mutated():
    x0, eps, t = randn(4, 2), randn(4, 2, seed=1), torch.tensor([1, 2, 3, 4])
    copies = [v.clone() for v in (x0, eps, t)]
    perturb_input(x0, t, eps, SCHEDULE)
    posterior(x0, eps, t, SCHEDULE)
    eps_to_x0(eps, x0, t, SCHEDULE)
    list(forward_chain(x0, SHORT, generator=generator()))
    assert all(torch.equal(a, b) for a, b in zip((x0, eps, t), copies, strict=True))


# ------------------------------------------------------------------------------------------------------- forward_chain


def test_iterated_chain_has_the_moments_of_the_closed_form():
    n, x0 = 40_000, 1.5
    chain = forward_chain(torch.full((n,), x0, dtype=torch.float64), SHORT, generator=generator())
    for t, x_t in enumerate(chain, start=1):
        mean, var = SHORT.signal[t].item() * x0, 1 - SHORT.alpha_bar[t].item()
        assert x_t.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(var / n))
        assert x_t.var().item() == pytest.approx(var, rel=4 * math.sqrt(2 / n))
    assert t == SHORT.T


def test_iterated_chain_is_the_closed_form_with_the_noises_summed():
    # x_t = sqrt(abar_t) x_0 + sum_i sqrt(abar_t / abar_i * beta_i) z_i, on the very noise of the chain.
    x0 = randn(3, 2)
    source = generator()
    z = [gaussian_noise(x0, source) for _ in range(SHORT.T)]
    beta, abar = SHORT.beta.tolist(), SHORT.alpha_bar.tolist()
    for t, x_t in enumerate(forward_chain(x0, SHORT, generator=generator()), start=1):
        parts = [math.sqrt(abar[t] / abar[i] * beta[i]) * z[i - 1] for i in range(1, t + 1)]
        assert_close(x_t, math.sqrt(abar[t]) * x0 + sum(parts))
        assert sum(abar[t] / abar[i] * beta[i] for i in range(1, t + 1)) == pytest.approx(1 - abar[t], rel=1e-12)


# ----------------------------------------------------------------------------------------------------------- posterior


@pytest.mark.parametrize("schedule", [SCHEDULE, SHORT, cosine_schedule(20)], ids=["linear", "short", "cosine"])
def test_posterior_is_bayes_rule_by_brute_force(schedule):
    for t in (2, schedule.T // 2, schedule.T):
        x0, x_t = randn(1, seed=t), randn(1, seed=t + 1)
        mean, variance = posterior(x0, x_t, t, schedule)
        x = mean + variance.sqrt() * torch.linspace(-12, 12, 4001, dtype=torch.float64)
        step = -((x_t - schedule.alpha[t].sqrt() * x) ** 2) / (2 * schedule.beta[t])
        prior = -((x - schedule.signal[t - 1] * x0) ** 2) / (2 * (1 - schedule.alpha_bar[t - 1]))
        p = torch.softmax(step + prior, 0)
        brute = (p * x).sum()
        assert brute.item() == pytest.approx(mean.item(), abs=1e-9)
        assert (p * (x - brute) ** 2).sum().item() == pytest.approx(variance.item(), rel=1e-8)


def test_posterior_at_the_first_step_is_the_data():
    x0, x_t = randn(3, 2), randn(3, 2, seed=1)
    mean, variance = posterior(x0, x_t, 1, SCHEDULE)
    assert torch.equal(mean, x0)
    assert variance.item() == 0


def test_posterior_variance_broadcasts():
    x0, x_t = randn(3, 2, 2), randn(3, 2, 2, seed=1)
    mean, variance = posterior(x0, x_t, torch.tensor([2, 3, 4]), SCHEDULE)
    assert variance.shape == (3, 1, 1)
    for i, t in enumerate((2, 3, 4)):
        one_mean, one_variance = posterior(x0[i], x_t[i], t, SCHEDULE)
        assert_close(mean[i], one_mean)
        assert_close(variance[i].squeeze(), one_variance)


def test_chain_then_posterior_gives_the_marginal_back():
    # Drawing x_t and then x_{t-1} from the posterior must have the moments of q(x_{t-1} | x_0).
    n, t = 100_000, 5
    x0 = torch.full((n,), -0.7, dtype=torch.float64)
    x_t = perturb_input(x0, t, randn(n), SHORT)
    mean, variance = posterior(x0, x_t, t, SHORT)
    x = mean + variance.sqrt() * randn(n, seed=1)
    var = 1 - SHORT.alpha_bar[t - 1].item()
    assert x.mean().item() == pytest.approx(-0.7 * SHORT.signal[t - 1].item(), abs=4 * math.sqrt(var / n))
    assert x.var().item() == pytest.approx(var, rel=4 * math.sqrt(2 / n))


# ----------------------------------------------------------------------------------------------------- the three names


@pytest.mark.parametrize("t", [1, 500, torch.tensor([1, 250, 1000])])
def test_eps_x0_and_score_are_one_unknown(t):
    x0, eps = randn(3, 2), randn(3, 2, seed=1)
    x_t = perturb_input(x0, t, eps, SCHEDULE)
    assert_close(eps_to_x0(eps, x_t, t, SCHEDULE), x0, rtol=1e-10, atol=1e-12)
    assert_close(x0_to_eps(x0, x_t, t, SCHEDULE), eps, rtol=1e-10, atol=1e-12)
    score = eps_to_score(eps, t, SCHEDULE)
    noise = SCHEDULE.noise[t].reshape(-1, 1)
    assert_close(score, -eps / noise)
    assert_close(score_to_eps(score, t, SCHEDULE), eps)


def test_the_score_of_the_perturbation_kernel_is_minus_eps_over_noise():
    x0, eps, t = randn(3, 2), randn(3, 2, seed=1), 400
    x_t = perturb_input(x0, t, eps, SCHEDULE).requires_grad_()
    log_q = -((x_t - SCHEDULE.signal[t] * x0) ** 2).sum() / (2 * SCHEDULE.noise[t] ** 2)
    (gradient,) = torch.autograd.grad(log_q, x_t)
    assert_close(eps_to_score(eps, t, SCHEDULE), gradient)


def test_at_t_0_the_noisy_data_are_the_data():
    x = randn(3, 2)
    assert torch.equal(eps_to_x0(randn(3, 2, seed=1), x, 0, SCHEDULE), x)


# ----------------------------------------------------------------------------------------------------------- the bound


def entropy_bits(std):
    return 0.5 * math.log2(2 * math.pi * math.e * std**2)


def model_nll_bits(schedule, mean, std, variance):
    """Exact -E log2 p(x_0) of the reverse chain with the exact Gaussian predictor: it is linear, so p is Gaussian."""
    m, v = 0.0, 1.0
    for t in range(schedule.T, 0, -1):
        abar, before = schedule.alpha_bar[t].item(), schedule.alpha_bar[t - 1].item()
        alpha, beta = schedule.alpha[t].item(), schedule.beta[t].item()
        gain = math.sqrt(abar) * std**2 / (abar * std**2 + 1 - abar)  # x0_hat = mean + gain (x - sqrt(abar) mean)
        coef_x0 = math.sqrt(before) * beta / (1 - abar)
        slope = coef_x0 * gain + math.sqrt(alpha) * (1 - before) / (1 - abar)
        sigma2 = beta if variance == "beta" or t == 1 else (1 - before) / (1 - abar) * beta
        m = coef_x0 * mean * (1 - gain * math.sqrt(abar)) + slope * m
        v = slope**2 * v + sigma2
    return 0.5 * (math.log2(2 * math.pi * v) + (std**2 + (mean - m) ** 2) / v / math.log(2))


def test_L_T_of_the_linear_schedule_is_the_reference_number():
    assert gaussian_bound_terms(SCHEDULE).L_T.item() == pytest.approx(2.9e-5, rel=0.01)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("schedule", [SCHEDULE, linear_schedule(50, 0.002, 0.35)], ids=["T=1000", "T=50"])
def test_the_bound_is_above_the_exact_likelihood_and_that_above_the_entropy(schedule, std, variance):
    bound = gaussian_bound_terms(schedule, mean=0.4, std=std, variance=variance)
    exact = model_nll_bits(schedule, 0.4, std, variance)
    assert bound.total.item() > exact > entropy_bits(std)
    assert bool((bound.terms[1:] > 0).all())


def test_the_bound_of_the_right_variances_is_tight():
    # At std = 1 the true reverse variance is beta_t itself: all that is lost is L_T and what x_1 tells about x_0.
    bound = gaussian_bound_terms(SCHEDULE, std=1.0, variance="beta")
    assert bound.total.item() == pytest.approx(entropy_bits(1.0), abs=1e-4)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_monte_carlo_terms_agree_with_the_closed_form(variance):
    schedule, mean, std = linear_schedule(20, 0.005, 0.4), 0.4, 0.6
    data = GaussianMixture([1.0], [[mean, mean]], std**2)
    x0 = data.sample(4000, generator(), dtype=torch.float64)
    options = {"variance": variance, "n_draws": 2, "generator": generator(1)}
    estimate = bound_terms(data.eps_model(schedule), x0, schedule, **options)
    exact = gaussian_bound_terms(schedule, mean=mean, std=std, variance=variance)
    assert estimate.terms.shape == exact.terms.shape == (21,)
    assert estimate.L_t.shape == (19,)
    z = (estimate.terms - exact.terms) / estimate.stderr
    assert z.abs().max() < 4
    assert estimate.stderr.max() < 0.05
    assert_close(estimate.total, estimate.L_0 + estimate.L_t.sum() + estimate.L_T)


def test_a_worse_model_has_a_larger_bound_term_by_term():
    schedule = linear_schedule(20, 0.005, 0.4)
    data = GaussianMixture([1.0], [[0.4]], 0.36)
    x0 = data.sample(2000, generator(), dtype=torch.float64)
    exact = data.eps_model(schedule)
    right = bound_terms(exact, x0, schedule, generator=generator(1))
    wrong = bound_terms(lambda x, t: exact(x, t) + 0.5, x0, schedule, generator=generator(1))
    assert bool((wrong.terms[:-1] > right.terms[:-1]).all())
    assert torch.equal(wrong.L_T, right.L_T)


def test_discrete_decoder_is_a_distribution_over_the_bins():
    bins = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for mean in (-1.3, 0.1234, 0.99):
        for std in (0.002, 0.05, 3.0):
            nats = discrete_decoder(bins, torch.full_like(bins, mean), torch.full_like(bins, std**2))
            assert bool(torch.isfinite(nats).all())
            assert nats.neg().exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_discrete_decoder_nears_the_density_for_narrow_bins_and_stays_finite_far_away():
    x0, mean, variance = (torch.tensor(v, dtype=torch.float64) for v in (0.2, 0.25, 0.01))
    levels = 100_001
    nats = discrete_decoder(x0, mean, variance, levels=levels) + math.log(2 / (levels - 1))
    assert nats.item() == pytest.approx(0.5 * math.log(2 * math.pi * 0.01) + 0.05**2 / 0.02, abs=1e-6)
    far = discrete_decoder(x0, torch.tensor([-90.0, 90.0], dtype=torch.float64), torch.full((2,), 1e-4).double())
    assert bool(torch.isfinite(far).all())
    assert far.min() > 1e7


def test_bound_terms_with_pictures_and_a_network_keep_its_mode():
    inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(0.5))
    inner.train()
    inner[0].eval()
    x0 = torch.randint(0, 256, (2, 3, 4, 4), generator=generator()) / 127.5 - 1
    model = Wrapped(inner)
    training = [m.training for m in model.modules()]
    bound = bound_terms(model, x0, SHORT, decoder=discrete_decoder, generator=generator(1))
    assert bool(torch.isfinite(bound.terms).all())
    assert [m.training for m in model.modules()] == training == [True, True, False, True]
    again = bound_terms(model, x0, SHORT, decoder=discrete_decoder, generator=generator(1))
    assert torch.equal(bound.terms, again.terms)  # dropout was off


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, t):
        return self.inner(x)


# ----------------------------------------------------------------------------------------------------------- the noise


def test_noise_comes_from_the_generator_alone():
    x = torch.zeros(3, 2)
    before = torch.get_rng_state()
    noise = gaussian_noise(x, generator(5))
    assert torch.equal(noise, torch.randn(3, 2, generator=generator(5)))
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_per_sample_does_not_depend_on_the_batch():
    x = torch.zeros(3, 2)
    together = gaussian_noise(x, [generator(1), generator(2), generator(3)])
    assert torch.equal(together[1:2], gaussian_noise(x[:1], [generator(2)]))


# --------------------------------------------------------------------------------------------------------- wrong input


ZEROS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: perturb_input([0.0], 1, ZEROS, SCHEDULE), r"x0 is list"),
        (lambda: perturb_input(ZEROS.int(), 1, ZEROS, SCHEDULE), r"x0 is a tensor of torch.int32"),
        (lambda: perturb_input(ZEROS, 1, ZEROS[:, :2], SCHEDULE), r"eps has shape \(2, 2\)"),
        (
            lambda: perturb_input(ZEROS, 1, ZEROS.double(), SCHEDULE),
            r"eps has dtype torch.float64",
        ),
        (lambda: perturb_input(ZEROS / 0, 1, ZEROS, SCHEDULE), r"x0 holds NaN or infinity"),
        (lambda: perturb_input(ZEROS, -1, ZEROS, SCHEDULE), r"t is -1.*0\.\.1000"),
        (lambda: perturb_input(ZEROS, 1001, ZEROS, SCHEDULE), r"t is 1001.*0\.\.1000"),
        (lambda: perturb_input(ZEROS, 1.5, ZEROS, SCHEDULE), r"t is 1.5"),
        (lambda: perturb_input(ZEROS, True, ZEROS, SCHEDULE), r"t is True"),
        (
            lambda: perturb_input(ZEROS, torch.tensor([1, 1001]), ZEROS, SCHEDULE),
            r"t lies in 1\.\.1001.*0\.\.1000",
        ),
        (lambda: perturb_input(ZEROS, torch.ones(2), ZEROS, SCHEDULE), r"t has dtype torch.float32"),
        (
            lambda: perturb_input(ZEROS, torch.ones(3).long(), ZEROS, SCHEDULE),
            r"t has shape \(3,\)",
        ),
        (lambda: perturb_input(ZEROS, 1, ZEROS, None), r"schedule is NoneType"),
        (lambda: posterior(ZEROS, ZEROS, 0, SCHEDULE), r"t is 0.*1\.\.1000"),
        (lambda: posterior(ZEROS[:1], ZEROS, 1, SCHEDULE), r"x0 has shape \(1, 3\)"),
        (lambda: x0_to_eps(ZEROS, ZEROS, 0, SCHEDULE), r"t is 0.*1\.\.1000"),
        (lambda: eps_to_score(ZEROS, 0, SCHEDULE), r"t is 0.*1\.\.1000"),
        (lambda: eps_to_score(ZEROS / 0, 1, SCHEDULE), r"eps holds NaN or infinity"),
        (lambda: score_to_eps("score", 1, SCHEDULE), r"score is str"),
        (lambda: forward_chain(ZEROS / 0, SCHEDULE), r"x0 holds NaN or infinity"),
        (lambda: forward_chain(ZEROS, 5), r"schedule is int"),
        (lambda: gaussian_noise(ZEROS, [generator()]), r"generator holds 1 generators"),
        (lambda: gaussian_noise(ZEROS, 0), r"generator is int"),
        (lambda: gaussian_bound_terms(SHORT, std=0), r"std is 0.0"),
        (lambda: gaussian_bound_terms(SHORT, variance="small"), r"variance is 'small'"),
        (lambda: bound_terms(lambda x, t: x, torch.zeros(3), SHORT), r"x0 has shape \(3,\)"),
        (lambda: bound_terms(lambda x, t: x / 0, ZEROS, SHORT), r"the eps_model returned NaN or infinity at t = 1"),
        (
            lambda: bound_terms(lambda x, t: 0 * x, ZEROS + 2, SHORT, decoder=discrete_decoder),
            r"x0 lies in \[2.0, 2.0\]",
        ),
    ],
)
def test_wrong_arguments_are_named_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
