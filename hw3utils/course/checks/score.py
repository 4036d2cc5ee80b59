"""Checks of the exercises of notebook 05: the score of a mixture, and the losses of score matching."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hw3utils.course.checks.building_blocks import (
    Score,
    as_loss,
    as_tensor,
    fresh_generator,
    on_copies,
    relative_error,
    require,
)


def _random_mixture(generator: torch.Generator, dimension: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (K,), means (K, D) and variances (K,) whose components overlap, all different."""
    k = 3 if dimension > 2 else 2
    weights = 0.2 + torch.rand(k, generator=generator)
    means = 2 * torch.randn(k, dimension, generator=generator)
    return weights / weights.sum(), means, 0.5 + 1.5 * torch.rand(k, generator=generator)


def _mixture_score(x: Tensor, weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """The score as the gradient of the log density, without a formula for the score."""
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
    score = on_copies(score, "x", "weights", "means", "variances")
    worst = 0.0
    for dimension in (2, 1, 5):
        weights, means, variances = _random_mixture(generator, dimension)
        x = 2 * torch.randn(200, dimension, generator=generator)
        got = as_tensor(score(x, weights, means, variances), "the score", (200, dimension))
        want = _mixture_score(x, weights, means, variances)
        require(relative_error(-got, want) > 1e-3, "the arrows point down the density, not up.")
        one = as_tensor(score(x, weights[:1] * 0 + 1, means[:1], variances[:1]), "the score", (200, dimension))
        alone = relative_error(one, _mixture_score(x, torch.ones(1), means[:1], variances[:1]))
        require(alone < 1e-3, f"for a single Gaussian of variance {float(variances[0]):.3f} it is already off.")
        even = _mixture_score(x, torch.full_like(weights, 1 / len(weights)), means, variances)
        error = relative_error(got, want)
        require(error < 1e-3 or relative_error(got, even) > 1e-3, "the weights of the components do not count in it.")
        require(
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
    score = on_copies(score, "x", "weights", "means", "variances", "sigma")
    worst = 0.0
    for sigma in (0.0, 0.7, 3.0, 7.0):
        weights, means, variances = _random_mixture(generator, 2)
        x = (1 + sigma) * torch.randn(200, 2, generator=generator)
        got = as_tensor(score(x, weights, means, variances, sigma), "the score", (200, 2))
        want = _mixture_score(x, weights, means, variances + sigma**2)
        clean = _mixture_score(x, weights, means, variances)
        require(sigma == 0 or relative_error(got, clean) > 1e-3, f"at sigma = {sigma:g} the noise does not show in it.")
        error = relative_error(got, want)
        require(
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
    require(isinstance(got, Tensor), f"{name} is {type(got).__name__}; return a tensor.")
    require(got.shape in ((), want.shape), f"{name} has shape {tuple(got.shape)}, expected one value a sample, or one.")
    if got.ndim == 0:
        want, slope = want.mean(), slope.mean()
    require(bool(got.isfinite().all()), f"{name} holds NaN or infinity.")
    error = relative_error(got.detach().double().reshape(-1), want.reshape(-1))
    require(error < 1e-3, f"{name} is off by {100 * error:.0f} %{hint}")
    require(got.requires_grad, f"{name} cannot be trained with: it does not depend on the parameters of the score.")
    [by_factor] = torch.autograd.grad(got.mean(), factor)
    off = abs(float(by_factor) / float(slope.mean()) - 1)
    require(off < 1e-2, f"{name} is right, but its gradient misses a part: are derivatives by x kept in the graph?")
    return error


def check_implicit_score_matching(
    loss: Callable[[Score, Tensor], Tensor], *, generator: torch.Generator | None = None
) -> float:
    """Judge the trace form of Q2.T2: loss(score, x) -> tr(d score / dx) + |score|^2 / 2, one a sample or their mean.

    Returns:
        The largest relative error on random curved scores, in several dimensions.
    """
    generator = fresh_generator(generator)
    loss = on_copies(loss, "the score", "x")
    worst = 0.0
    for dimension in (2, 5):
        score, a, c, factor = _curved_score(generator, dimension)
        x = torch.randn(64, dimension, generator=generator)
        wide = x.double()
        s, trace = wide @ a.T + c * wide**2, a.trace() + (2 * c * wide).sum(1)
        half = s.square().sum(1) / 2
        got = loss(score, x)

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
                require(not same(value), message)
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
    loss = on_copies(loss, "the score", "x", "v")
    worst = 0.0
    for dimension in (2, 6):
        score, a, c, factor = _curved_score(generator, dimension)
        x, v = torch.randn(2, 64, dimension, generator=generator)
        x64, v64 = x.double(), v.double()
        s = x64 @ a.T + c * x64**2
        v_jacobian_v = ((v64 @ a.T) * v64).sum(1) + (2 * c * x64 * v64**2).sum(1)
        projected = (s * v64).sum(1).square() / 2
        half = s.square().sum(1) / 2 if variance_reduced else projected
        calls: list[int] = []
        got = loss(_counted(score, calls), x, v)
        require(len(calls) <= 2, f"the score was asked {len(calls)} times: one pass is enough, whatever D is.")
        hint = ": is the derivative multiplied by v from both sides?"
        worst = max(worst, _judge_loss(got, v_jacobian_v + half, factor, v_jacobian_v + 2 * half, "the loss", hint))
    return worst


def _counted(score: Score, calls: list[int]) -> Score:
    """The score, which notes its calls."""

    def counted(x: Tensor) -> Tensor:
        calls.append(len(x))
        return score(x)

    return counted


def _linear_score(a: Tensor, b: Tensor, asked: list[Tensor]) -> Callable[..., Tensor]:
    """The score a x + b at every level, which notes the points."""

    def score(points: Tensor, level: float | Tensor = 0.0) -> Tensor:
        asked.append(points.detach().clone())
        return a * points + b

    return score


def _constant_score(value: Tensor) -> Callable[..., Tensor]:
    def score(points: Tensor, level: float | Tensor = 0.0) -> Tensor:
        return value.clone()

    return score


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
    loss = on_copies(loss, "the score", "x", "sigma", "z")
    worst = 0.0
    for sigma in (0.5, 1.0, 3.0, 7.0):
        x, z = torch.randn(2, 100, 2, generator=generator)
        noisy = x + sigma * z
        losses, wanted = [], []
        exact = -z / sigma
        for _ in range(5):
            a = -torch.rand((), generator=generator) / (1 + sigma**2)
            b = torch.randn(2, generator=generator) / (1 + sigma)
            asked: list[Tensor] = []
            score = _linear_score(a, b, asked)
            value = as_loss(loss(score, x, sigma, z))
            require(len(asked) > 0, "the score was never asked.")
            require(not torch.allclose(asked[0], x), "the score must see the noisy points, not the clean ones.")
            require(
                torch.allclose(asked[0], noisy, atol=1e-4),
                f"at sigma = {sigma:g} the perturbed points are not the data plus noise of that standard deviation.",
            )
            losses.append(float(value.mean()))
            wanted.append(float((score(noisy) - exact).double().square().sum(1).mean()))
        perfect, flipped = (as_loss(loss(_constant_score(value), x, sigma, z)) for value in (exact, -exact))
        scale = max(abs(value) for value in losses)
        require(
            float(flipped.abs().max()) > 1e-4 * scale,
            "the loss is least for a score that points away from the clean point.",
        )
        require(
            float(perfect.abs().max()) < 1e-3 * scale,
            f"at sigma = {sigma:g} a score that points to the clean point with the right length is not the best one: "
            "what is the gradient of log N(x_noisy; x, sigma^2 I)?",
        )
        ratio = torch.tensor(losses, dtype=torch.float64) / torch.tensor(wanted, dtype=torch.float64)
        error = float((ratio.max() - ratio.min()) / ratio.abs().max()) if ratio.min() > 0 else math.inf
        require(error < 1e-3, f"at sigma = {sigma:g} the loss is not proportional to the squared error of the score.")
        worst = max(worst, error)
    return worst
