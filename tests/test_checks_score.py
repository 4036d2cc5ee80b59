"""The checks of notebooks 05 and 06 pass right implementations in several styles and fail every known wrong one."""

import functools
import math

import numpy as np
import pytest
import torch
from remote_checks import way  # noqa: F401
from torch.func import jacrev, jvp, vmap

from hw3utils.course import checks, stand_ins
from hw3utils.langevin import annealed_langevin, ascent, denoise, langevin
from hw3utils.losses import denoising_score_matching, implicit_score_matching
from hw3utils.mixtures import GaussianMixture, student_mixture


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def judged(check, cases):
    """Tests of one check: right ones by name, wrong ones with a part of the message."""

    @pytest.mark.parametrize(("function", "message"), cases)
    def test(function, message, generator):
        judge = getattr(checks, getattr(check, "__name__", ""), check)
        if message is None:
            judge(function, generator=generator)
            return
        with pytest.raises(AssertionError, match=message):
            judge(function, generator=generator)

    return test


# ------------------------------------------------------------------------------------------------------- the mixture


def score_by_autograd(x, weights, means, variances):
    x = x.clone().requires_grad_()
    components = torch.distributions.Independent(torch.distributions.Normal(means, variances.sqrt()[:, None]), 1)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), components)
    return torch.autograd.grad(mixture.log_prob(x).sum(), x)[0]


def score_by_loop(x, weights, means, variances):
    rows = []
    for point in x.double().numpy():
        d = means.shape[1]
        joint = [
            float(w) * math.exp(-float(((point - m.numpy()) ** 2).sum()) / (2 * v)) / v ** (d / 2)
            for w, m, v in zip(weights, means, variances.tolist(), strict=True)
        ]
        parts = [
            j / sum(joint) * (m.numpy() - point) / v for j, m, v in zip(joint, means, variances.tolist(), strict=True)
        ]
        rows.append(np.sum(parts, 0))
    return np.array(rows)


def score_by_shares(x, weights, means, variances, *, sign=1.0, scale=1.0, prior=True, power=1.0, normalise=True):
    shift = means - x[:, None]
    each = -shift.square().sum(2) / (2 * variances) - power * x.shape[1] / 2 * variances.log()
    each = each + weights.log() if prior else each
    shares = each.softmax(1) if normalise else each.exp()
    return sign * scale * (shares[..., None] * shift / variances[:, None]).sum(1)


def with_shares(**options):
    return functools.partial(score_by_shares, **options)


def score_of_the_nearest(x, weights, means, variances):
    k = torch.cdist(x, means).argmin(1)
    return (means[k] - x) / variances[k, None]


def score_with_deviation(x, weights, means, variances):
    shares = GaussianMixture(weights, means, variances).responsibilities(x).float()
    return (shares[..., None] * (means - x[:, None]) / variances.sqrt()[:, None]).sum(1)


test_mixture_score = judged(
    checks.check_mixture_score,
    [
        (score_by_autograd, None),
        (score_by_loop, None),
        (score_by_shares, None),
        (lambda x, w, m, v: GaussianMixture(w, m, v).score(x), None),
        (with_shares(sign=-1.0), "down the density"),
        (with_shares(scale=0.5), "single Gaussian of variance"),
        (with_shares(prior=False), "weights"),
        (with_shares(power=0.0), "right for one Gaussian"),
        (with_shares(normalise=False), "single Gaussian|right for one"),
        (score_of_the_nearest, "right for one Gaussian"),
        (score_with_deviation, "single Gaussian"),
        (lambda x, w, m, v: x[:, 0], "shape"),
        (lambda x, w, m, v: x.mul_(2), "x itself was changed"),
    ],
)


def perturbed(change):
    return lambda x, w, m, v, sigma: score_by_shares(x, w, m, change(v, sigma))


test_perturbed_score = judged(
    checks.check_perturbed_score,
    [
        (perturbed(lambda v, sigma: v + sigma**2), None),
        (lambda x, w, m, v, sigma: GaussianMixture(w, m, v).perturbed(1.0, sigma).score(x), None),
        (perturbed(lambda v, sigma: v), "does not show"),
        (perturbed(lambda v, sigma: (v.sqrt() + sigma) ** 2), "variance of the sum"),
        (perturbed(lambda v, sigma: torch.full_like(v, sigma**2) if sigma else v), "variance of the sum"),
        (perturbed(lambda v, sigma: v + sigma), "variance of the sum"),
        (lambda x, w, m, v, sigma: score_by_shares(x, w, m, v) / (1 + sigma**2), "variance of the sum"),
    ],
)


# ------------------------------------------------------------------------------------------------------- the losses


def implicit_by_func(score, x):
    trace = vmap(lambda row: jacrev(lambda r: score(r[None])[0])(row).trace())(x)
    return trace + score(x).square().sum(1) / 2


def implicit(score, x, *, trace=1.0, half=0.5, graph=True, whole=False):
    x = x.clone().requires_grad_()
    s = score(x)
    total = 0
    for i in range(x.shape[1]):
        row = torch.autograd.grad(s[:, i].sum(), x, create_graph=graph, retain_graph=True)[0]
        total = total + (row.sum(1) if whole else row[:, i])
    return trace * total + half * s.square().sum(1)


def loss_with(**options):
    return functools.partial(implicit, **options)


test_implicit_score_matching = judged(
    checks.check_implicit_score_matching,
    [
        (implicit, None),
        (implicit_by_func, None),
        (implicit_score_matching, None),
        (lambda score, x: implicit(score, x).mean(), None),
        (loss_with(trace=-1.0), "wrong sign"),
        (loss_with(half=1.0), "one half"),
        (loss_with(trace=0.0), "missing"),
        (loss_with(whole=True), "more than the diagonal"),
        (loss_with(graph=False), "gradient misses a part"),
        (lambda score, x: implicit(score, x).detach(), "cannot be trained with"),
        (lambda score, x: implicit(score, x).sum(), "off by"),
    ],
)


def sliced(score, x, v, *, reduced=False, length=False, left=True, square=1.0, graph=True):
    x = x.clone().requires_grad_()
    s = score(x)
    v = v / v.norm(dim=1, keepdim=True) if length else v
    along = (s * v).sum(1)
    [row] = torch.autograd.grad((along if left else s.sum(1)).sum(), x, create_graph=graph, retain_graph=True)
    return (row * v).sum(1) + square * (s.square().sum(1) if reduced else along.square()) / 2


def sliced_forward(score, x, v):
    s, bend = jvp(score, (x,), (v,))
    return (v * bend).sum(1) + (v * s).sum(1) ** 2 / 2


def sliced_with(**options):
    return functools.partial(sliced, **options)


test_sliced_score_matching = judged(
    checks.check_sliced_score_matching,
    [
        (sliced, None),
        (sliced_forward, None),
        (lambda score, x, v: sliced(score, x, v).mean(), None),
        (sliced_with(reduced=True), "off by"),
        (sliced_with(length=True), "off by"),
        (sliced_with(left=False), "from both sides"),
        (sliced_with(square=2.0), "off by"),
        (sliced_with(graph=False), "gradient misses a part"),
        (lambda score, x, v: implicit(score, x), "off by|asked"),
    ],
)
test_variance_reduced = judged(
    functools.partial(checks.check_sliced_score_matching, variance_reduced=True),
    [(sliced_with(reduced=True), None), (sliced, "off by")],
)


def denoising(score, x, sigma, z, *, sign=-1.0, power=1, at="noisy", weight=0):
    noisy = {"noisy": x + sigma * z, "clean": x, "variance": x + sigma**2 * z, "root": x + sigma**0.5 * z}[at]
    return sigma**weight * (score(noisy, sigma) - sign * z / sigma**power).square().sum(1)


def denoising_with(**options):
    return functools.partial(denoising, **options)


def denoising_of_the_library(score, x, sigma, z):
    state = torch.Generator().manual_seed(5)
    noise = torch.randn(x.shape, generator=state)
    shifted = x + sigma * (z - noise)

    def moved(points, level):
        return score(points, level) + (z - noise) / level

    return denoising_score_matching(moved, shifted, sigma, generator=torch.Generator().manual_seed(5))


test_denoising = judged(
    checks.check_denoising_score_matching,
    [
        (denoising, None),
        (denoising_with(weight=2), None),
        (lambda *arguments: 0.5 * denoising(*arguments).mean(), None),
        (lambda *arguments: denoising(*arguments).sum(), None),
        (denoising_of_the_library, None),
        (denoising_with(sign=1.0), "away from the clean point"),
        (denoising_with(power=0), "log N"),
        (denoising_with(power=2), "log N"),
        (denoising_with(at="clean"), "clean ones"),
        (denoising_with(at="variance"), "standard deviation"),
        (denoising_with(at="root"), "standard deviation"),
        (lambda score, x, sigma, z: (score(x + sigma * z, sigma) + z / sigma).abs().sum(1), "not proportional"),
        (lambda score, x, sigma, z: (score(x + sigma * z, sigma) + z / sigma).sum(1), "not proportional"),
        (lambda score, x, sigma, z: denoising(score, x, sigma, torch.rand(x.shape)), "standard deviation"),
    ],
)


# ------------------------------------------------------------------------------------------------------- the chains


def climb(score, x, a, n, *, factor=0.5, times=None, noise=0.0):
    for _ in range(n if times is None else times):
        x = x + factor * a * score(x) + noise * torch.randn(x.shape)
    return x


test_ascent = judged(
    checks.check_ascent,
    [
        (climb, None),
        (lambda score, x, a, n: ascent(lambda x, sigma: score(x), x, step_size=a, n_steps=n), None),
        (functools.partial(climb, factor=1.0), "elsewhere"),
        (functools.partial(climb, factor=-0.5), "go away"),
        (functools.partial(climb, times=1), "elsewhere"),
        (functools.partial(climb, noise=0.1), "ascent adds no noise"),
        (lambda score, x, a, n: x.add_(a / 2 * score(x)), "x itself was changed"),
    ],
)


def walk(score, x, a, n, generator, *, drift=0.5, noise=1.0, power=0.5, draw=torch.randn, once=False, last=True):
    first = draw(x.shape, generator=generator)
    for k in range(n):
        z = first if once or k == 0 else draw(x.shape, generator=generator)
        scale = noise * a**power if last or k < n - 1 else 0.0
        x = x + drift * a * score(x) + scale * z
    return x


def walk_with(**options):
    return functools.partial(walk, **options)


def even(shape, generator):
    return (torch.rand(shape, generator=generator) - 0.5) * 12**0.5


def walk_by_numpy(score, x, a, n, generator):
    states = [x]
    while len(states) <= n:
        z = torch.normal(torch.zeros_like(x), 1.0, generator=generator)
        states.append(states[-1] + a * (score(states[-1]) / 2) + np.sqrt(a) * z)
    return states[-1]


def walk_by_pairs(score, x, a, n, generator):
    for _ in range(n):
        x = x + a / 2 * score(x) + math.sqrt(a) * torch.randn(len(x), 1, generator=generator)
    return x


def walk_and_ask_again(score, x, a, n, generator):
    """The score may be asked at the end as well, and twice at each point."""
    x = walk(lambda x: (score(x) + score(x)) / 2, x, a, n, generator)
    score(x)
    return x


test_langevin = judged(
    checks.check_langevin,
    [
        (walk, None),
        (walk_and_ask_again, None),
        (walk_by_numpy, None),
        (
            lambda score, x, a, n, generator: langevin(
                lambda x, sigma: score(x), x, step_size=a, n_steps=n, generator=generator
            ),
            None,
        ),
        (walk_with(noise=2**0.5), "too much noise"),
        (walk_with(power=1.0), "too little noise"),
        (walk_with(drift=1.0), "drift"),
        (walk_with(noise=0.0), "no noise"),
        (walk_with(noise=2.0), "too much noise"),
        (walk_with(draw=torch.rand), "noise"),
        (walk_with(draw=even), "not normal"),
        (walk_with(once=True), "noise"),
        (walk_with(last=False), "no noise"),
        (walk_by_pairs, "same noise"),
    ],
)


def anneal(score, x, sigmas, a, n, generator, *, reference=-1, power=2, order=1, own=True, constant=False):
    for sigma in list(sigmas)[::order]:
        step = a if constant else a * (sigma / sigmas[reference]) ** power
        for _ in range(n):
            drift = step / 2 * score(x, sigma if own else sigmas[-1])
            x = x + drift + math.sqrt(step) * torch.randn(x.shape, generator=generator)
    return x


def anneal_with(**options):
    return functools.partial(anneal, **options)


def anneal_by_langevin(score, x, sigmas, a, n, generator):
    for sigma in sigmas:
        x = langevin(score, x, step_size=a * (sigma / sigmas[-1]) ** 2, n_steps=n, sigma=sigma, generator=generator)
    return x


def anneal_without_noise(score, x, sigmas, a, n, generator):
    for sigma in sigmas:
        for _ in range(n):
            x = x + a * (sigma / sigmas[-1]) ** 2 / 2 * score(x, sigma)
    return x


def anneal_restarted(score, x, sigmas, a, n, generator):
    """Each level starts again from the first points."""
    return [anneal(score, x, [sigma], a * (sigma / sigmas[-1]) ** 2, n, generator) for sigma in sigmas][-1]


def anneal_in_one_jump(score, x, sigmas, a, n, generator):
    """The closed form, from what the first score tells; the others are asked for show."""
    order = [sigma for sigma in sigmas for _ in range(n)]
    first, *_ = [score(x, sigma) for sigma in order]
    slope = float((first[1] - first[0])[0] / (x[1] - x[0])[0])
    variance, mean = -1 / slope - order[0] ** 2, float((x - first / slope)[0, 0])
    factor, noise = 1.0, 0.0
    for sigma in order:
        step = a * (sigma / sigmas[-1]) ** 2
        shrink = 1 - step / (2 * (variance + sigma**2))
        factor, noise = shrink * factor, shrink**2 * noise + step
    return mean + factor * (x - mean) + noise**0.5 * torch.randn(x.shape, generator=generator)


test_annealed_langevin = judged(
    checks.check_annealed_langevin,
    [
        (anneal, None),
        (anneal_by_langevin, None),
        (
            lambda score, x, sigmas, a, n, generator: annealed_langevin(
                score, x, sigmas, step_size=a, n_steps=n, generator=generator
            ),
            None,
        ),
        (anneal_with(order=-1), "wrong way"),
        (anneal_with(constant=True), "same at every level"),
        (anneal_with(reference=0), "first sigma"),
        (anneal_with(power=1), "proportional to sigma"),
        (anneal_restarted, "starts again"),
        (anneal_in_one_jump, "points that the chain passes through"),
        (anneal_with(own=False), "must be asked"),
        (anneal_without_noise, "no noise"),
        (lambda score, x, sigmas, a, n, generator: anneal(score, x, sigmas, a, 1, generator), "must be asked"),
    ],
)


# ------------------------------------------------------------------------------------------------------- the samples


def starting_points(*, steps=400, noise=1.0, a=0.1, n=1000, still=400, of_the_data=False):
    mixture = GaussianMixture([0.2, 0.8], torch.tensor([[5.0, 5.0], [-5.0, -5.0]]), [1.2, 1.9])
    start = 16 * torch.rand(n, 2, generator=torch.Generator().manual_seed(1)) - 8
    samples = {
        "deterministic": ascent(lambda x, s: mixture.score(x), start, step_size=0.5, n_steps=still),
        "langevin": walk(mixture.score, start, a, steps, torch.Generator().manual_seed(2), noise=noise),
    }
    if of_the_data:
        samples["langevin"] = mixture.sample(n, torch.Generator().manual_seed(3))
    return samples, mixture.score, mixture.means.float(), torch.tensor([1.2, 1.9])


def test_right_starting_points_pass():
    assert checks.check_starting_points(*starting_points()) < 0.3


def test_what_stands_in_for_missing_starting_points_would_pass():
    mixture = student_mixture(4711)
    starts = 16 * torch.rand(1000, 2, generator=torch.Generator().manual_seed(1)) - 8
    samples = stand_ins.ends_of_both(mixture.score_model(), starts, torch.Generator().manual_seed(2))
    variances = mixture.covariances[:, 0, 0]
    assert checks.check_starting_points(samples, mixture.score, mixture.means, variances) < 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 2**0.5}, "too wide"),
        ({"noise": 0.0}, "too narrow"),
        ({"steps": 2}, "too wide"),
        ({"still": 2}, "not come to rest"),
        ({"n": 50}, "shape"),
        ({"of_the_data": True}, "from the same starts the shares"),
    ],
)
def test_wrong_starting_points_fail(options, message):
    with pytest.raises(AssertionError, match=message):
        checks.check_starting_points(*starting_points(**options))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("check", "right"),
    [
        (checks.check_mixture_score, score_by_shares),
        (checks.check_perturbed_score, perturbed(lambda v, sigma: v + sigma**2)),
        (checks.check_denoising_score_matching, denoising),
        (checks.check_langevin, walk),
        (checks.check_annealed_langevin, anneal),
    ],
)
def test_a_right_answer_passes_whatever_the_input(check, right, seed):
    getattr(checks, check.__name__)(right, generator=torch.Generator().manual_seed(100 + seed))


def tweedie(score, x, sigma, *, power=2, sign=1.0, at=None):
    return x + sign * sigma**power * score(x, sigma if at is None else at)


test_denoise = judged(
    checks.check_denoise,
    [
        (tweedie, None),
        (lambda score, x, sigma: denoise(score, x, sigma), None),
        (functools.partial(tweedie, power=1), "too"),
        (functools.partial(tweedie, sign=-1.0), "away"),
        (functools.partial(tweedie, sign=0.5), "too little"),
        (functools.partial(tweedie, at=0.0), "too far|away"),
        (lambda score, x, sigma: x, "too little"),
        (lambda score, x, sigma: tweedie(score, x, sigma) + 0.1 * torch.randn(x.shape), "no noise is added"),
    ],
)
