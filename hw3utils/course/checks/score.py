"""Checks of the exercises of notebook 05: the score of a mixture, and the losses of score matching."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hw3utils.course.checks.building_blocks import Score, as_tensor, fresh_generator, relative_error, say


def _random_mixture(generator: torch.Generator, dimension: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (K,), means (K, D) and variances (K,) whose components overlap, all different."""
    k = 3 if dimension > 2 else 2
    weights = 0.2 + torch.rand(k, generator=generator)
    means = 2 * torch.randn(k, dimension, generator=generator)
    return weights / weights.sum(), means, 0.5 + 1.5 * torch.rand(k, generator=generator)


def _mixture_score(x: Tensor, weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """The score as the gradient of the log density, which no formula for the score is needed for."""
    x = x.double().requires_grad_()
    weights, means, variances = weights.double(), means.double(), variances.double()
    square = (x[:, None] - means).square().sum(2)
    each = weights.log() - x.shape[1] / 2 * variances.log() - square / (2 * variances)
    return torch.autograd.grad(torch.logsumexp(each, 1).sum(), x)[0]


def check_mixture_score(
    score: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], *, generator: torch.Generator | None = None
) -> float:
    """Judge Q2.P1: score(x, weights, means, variances) -> (N, D) of a mixture of K isotropic Gaussians.

    x is (N, D), weights (K,), means (K, D), variances (K,).

    Returns:
        The largest relative error against the gradient of the log density, over random mixtures.
    """
    generator = fresh_generator(generator)
    worst = 0.0
    for dimension in (2, 1, 5):
        weights, means, variances = _random_mixture(generator, dimension)
        x = 2 * torch.randn(200, dimension, generator=generator)
        kept = x.clone()
        got = as_tensor(score(x, weights, means, variances), "the score", (200, dimension))
        say(torch.equal(x, kept), "x itself was changed; make a new tensor.")
        want = _mixture_score(x, weights, means, variances)
        say(relative_error(-got, want) > 1e-3, "the arrows point down the density, not up.")
        one = as_tensor(score(x, weights[:1] * 0 + 1, means[:1], variances[:1]), "the score", (200, dimension))
        alone = relative_error(one, _mixture_score(x, torch.ones(1), means[:1], variances[:1]))
        say(alone < 1e-3, f"for a single Gaussian of variance {float(variances[0]):.3f} it is already off.")
        even = _mixture_score(x, torch.full_like(weights, 1 / len(weights)), means, variances)
        error = relative_error(got, want)
        say(error < 1e-3 or relative_error(got, even) > 1e-3, "the weights of the components do not count in it.")
        say(
            error < 1e-3,
            "it is right for one Gaussian and off for a mixture: how much each component counts depends on x, and "
            "those shares must add up to 1 at every x.",
        )
        worst = max(worst, error)
    return worst


def check_perturbed_score(
    score: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor], *, generator: torch.Generator | None = None
) -> float:
    """Judge Q2.P1 with noise: score(x, weights, means, variances, sigma) of the mixture after noise N(0, sigma^2 I).

    Returns:
        The largest relative error against the gradient of the log of the convolved density.
    """
    generator = fresh_generator(generator)
    worst = 0.0
    for sigma in (0.0, 0.7, 3.0, 7.0):
        weights, means, variances = _random_mixture(generator, 2)
        x = (1 + sigma) * torch.randn(200, 2, generator=generator)
        got = as_tensor(score(x, weights, means, variances, sigma), "the score", (200, 2))
        want = _mixture_score(x, weights, means, variances + sigma**2)
        clean = _mixture_score(x, weights, means, variances)
        say(sigma == 0 or relative_error(got, clean) > 1e-3, f"at sigma = {sigma:g} the noise does not show in it.")
        error = relative_error(got, want)
        say(
            error < 1e-3,
            f"at sigma = {sigma:g} it is off by {100 * error:.0f} %: what is the variance of the sum of a point of a "
            "component and of independent noise?",
        )
        worst = max(worst, error)
    return worst


def _curved_score(generator: torch.Generator, dimension: int) -> tuple[Score, Tensor, Tensor, Tensor]:
    """A score A x + c x^2 with a parameter as its factor, whose derivatives are known; A is not symmetric."""
    a = torch.randn(dimension, dimension, generator=generator)
    c = torch.randn(dimension, generator=generator)
    factor = torch.ones((), requires_grad=True)
    return lambda x: factor * (x @ a.T + c * x**2), a.double(), c.double(), factor


def _judge_loss(got: Tensor, want: Tensor, factor: Tensor, slope: Tensor, name: str, hint: str) -> float:
    """A loss, one value a sample or their mean, and its gradient by a parameter of the score."""
    say(isinstance(got, Tensor), f"{name} is {type(got).__name__}; return a tensor.")
    say(got.shape in ((), want.shape), f"{name} has shape {tuple(got.shape)}, expected one value a sample, or one.")
    if got.ndim == 0:
        want, slope = want.mean(), slope.mean()
    say(bool(got.isfinite().all()), f"{name} holds NaN or infinity.")
    error = relative_error(got.detach().double().reshape(-1), want.reshape(-1))
    say(error < 1e-3, f"{name} is off by {100 * error:.0f} %{hint}")
    say(got.requires_grad, f"{name} cannot be trained with: it does not depend on the parameters of the score.")
    [by_factor] = torch.autograd.grad(got.mean(), factor)
    off = abs(float(by_factor) / float(slope.mean()) - 1)
    say(off < 1e-2, f"{name} is right, but its gradient misses a part: are derivatives by x kept in the graph?")
    return error


def check_implicit_score_matching(
    loss: Callable[[Score, Tensor], Tensor], *, generator: torch.Generator | None = None
) -> float:
    """Judge the trace form of Q2.T2: loss(score, x) -> tr(d score / dx) + |score|^2 / 2, one a sample or their mean.

    Returns:
        The largest relative error on random curved scores, in several dimensions.
    """
    generator = fresh_generator(generator)
    worst = 0.0
    for dimension in (2, 5):
        score, a, c, factor = _curved_score(generator, dimension)
        x = torch.randn(64, dimension, generator=generator)
        wide = x.double()
        s, trace = wide @ a.T + c * wide**2, a.trace() + (2 * c * wide).sum(1)
        half = s.square().sum(1) / 2
        got = loss(score, x.clone())

        def same(value: Tensor, got: Tensor = got) -> bool:
            value = value if got.ndim else value.mean()
            return got.shape == value.shape and relative_error(got.detach().double().view(-1), value.view(-1)) < 1e-3

        if isinstance(got, Tensor) and not same(trace + half):
            for value, message in (
                (half - trace, "the trace enters with the wrong sign."),
                (trace + 2 * half, "the square of the score counts twice: where is the one half?"),
                (half, "the trace is missing."),
                (half + a.sum() + (2 * c * wide).sum(1), "more than the diagonal of the derivative is summed."),
            ):
                say(not same(value), message)
        worst = max(worst, _judge_loss(got, trace + half, factor, trace + 2 * half, "the loss", "."))
    return worst


def check_sliced_score_matching(
    loss: Callable[[Score, Tensor, Tensor], Tensor],
    *,
    variance_reduced: bool = False,
    generator: torch.Generator | None = None,
) -> float:
    """Judge sliced score matching of Q2.T2: loss(score, x, v) with one direction v a sample, all (N, D).

    v^T (d score / dx) v + (v^T score)^2 / 2, or with `variance_reduced` |score|^2 / 2 in place of the last term.

    Returns:
        The largest relative error on random curved scores and directions of any length.
    """
    generator = fresh_generator(generator)
    worst = 0.0
    for dimension in (2, 6):
        score, a, c, factor = _curved_score(generator, dimension)
        x, v = torch.randn(2, 64, dimension, generator=generator)
        wide, along = x.double(), v.double()
        s = wide @ a.T + c * wide**2
        bend = ((along @ a.T) * along).sum(1) + (2 * c * wide * along**2).sum(1)
        projected = (s * along).sum(1).square() / 2
        half = s.square().sum(1) / 2 if variance_reduced else projected
        calls = []

        def counted(x: Tensor, score: Score = score, calls: list = calls) -> Tensor:
            calls.append(len(x))
            return score(x)

        got = loss(counted, x.clone(), v.clone())
        say(len(calls) <= 2, f"the score was asked {len(calls)} times: one pass is enough, whatever D is.")
        hint = ": is the derivative multiplied by v from both sides?"
        worst = max(worst, _judge_loss(got, bend + half, factor, bend + 2 * half, "the loss", hint))
    return worst


def check_denoising_score_matching(
    loss: Callable[[Callable[[Tensor, float], Tensor], Tensor, float, Tensor], Tensor],
    *,
    generator: torch.Generator | None = None,
) -> float:
    """Judge Q2.P2: loss(score, x, sigma, z) with score(x, sigma), noise z ~ N(0, I), all (N, 2).

    Right is any positive multiple, the same for every score, of |score(x + sigma z, sigma) + z / sigma|^2 / 2, as one
    value a sample, their sum or their mean.

    Returns:
        The largest relative error of the ratio between losses of random scores.
    """
    generator = fresh_generator(generator)
    worst = 0.0
    for sigma in (0.5, 1.0, 3.0, 7.0):
        x, z = torch.randn(2, 100, 2, generator=generator)
        noisy = x + sigma * z
        losses, wanted = [], []
        exact = -z / sigma
        for _ in range(5):
            a = -torch.rand((), generator=generator) / (1 + sigma**2)
            b = torch.randn(2, generator=generator) / (1 + sigma)
            seen = []

            def score(points: Tensor, level: float | Tensor = sigma, a=a, b=b, seen=seen) -> Tensor:
                seen.append((points.detach(), level))
                return a * points + b

            value = torch.as_tensor(loss(score, x.clone(), sigma, z.clone())).detach().double()
            say(bool(value.isfinite().all()), "the loss holds NaN or infinity.")
            say(len(seen) > 0, "the score was never asked.")
            say(not torch.allclose(seen[0][0], x), "the score must see the noisy points, not the clean ones.")
            say(
                torch.allclose(seen[0][0], noisy, atol=1e-4),
                f"at sigma = {sigma:g} the perturbed points are not the data plus noise of that standard deviation.",
            )
            losses.append(float(value.mean()))
            wanted.append(float((score(noisy) - exact).double().square().sum(1).mean()))
        perfect = torch.as_tensor(loss(lambda p, level=sigma, e=exact: e.clone(), x, sigma, z)).detach()
        flipped = torch.as_tensor(loss(lambda p, level=sigma, e=exact: -e.clone(), x, sigma, z)).detach()
        scale = max(abs(value) for value in losses)
        say(
            float(flipped.abs().max()) > 1e-4 * scale,
            "the loss is least for a score that points away from the clean point.",
        )
        say(
            float(perfect.abs().max()) < 1e-3 * scale,
            f"at sigma = {sigma:g} a score that points to the clean point with the right length is not the best one: "
            "what is the gradient of log N(x_noisy; x, sigma^2 I)?",
        )
        ratio = torch.tensor(losses, dtype=torch.float64) / torch.tensor(wanted, dtype=torch.float64)
        error = float((ratio.max() - ratio.min()) / ratio.abs().max()) if ratio.min() > 0 else math.inf
        say(error < 1e-3, f"at sigma = {sigma:g} the loss is not proportional to the squared error of the score.")
        worst = max(worst, error)
    return worst
