"""Checks of the exercises of notebooks 05 and 06: score matching and Langevin dynamics."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hw3utils.course.checks.building_blocks import as_tensor, fresh_generator, say

Score = Callable[[Tensor], Tensor]


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


def _relative(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


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
        say(_relative(-got, want) > 1e-3, "the arrows point down the density, not up.")
        one = as_tensor(score(x, weights[:1] * 0 + 1, means[:1], variances[:1]), "the score", (200, dimension))
        alone = _relative(one, _mixture_score(x, torch.ones(1), means[:1], variances[:1]))
        say(alone < 1e-3, f"for a single Gaussian of variance {float(variances[0]):.3f} it is already off.")
        even = _mixture_score(x, torch.full_like(weights, 1 / len(weights)), means, variances)
        error = _relative(got, want)
        say(error < 1e-3 or _relative(got, even) > 1e-3, "the weights of the components do not count in it.")
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
        say(sigma == 0 or _relative(got, clean) > 1e-3, f"at sigma = {sigma:g} the noise does not show in it.")
        error = _relative(got, want)
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
    error = _relative(got.detach().double().reshape(-1), want.reshape(-1))
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
            return got.shape == value.shape and _relative(got.detach().double().view(-1), value.view(-1)) < 1e-3

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


def _gaussian(mean: float, variance: float, asked: list | None = None) -> Callable[..., Tensor]:
    """The score of N(mean, variance), convolved with N(0, sigma^2) when a level is given."""

    def score(x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        if asked is not None:
            asked.append(float(torch.as_tensor(sigma).reshape(-1)[0]))
        return -(x - mean) / (variance + sigma**2)

    return score


def _judge_chain(x: Tensor, start: Tensor, mean: float, factor: float, variance: float, where: str) -> float:
    """Samples of a linear chain: the part that follows the start, and the variance of the rest, in standard errors."""
    n = x.numel()
    x, start = (x - mean).reshape(-1), (start.double() - mean).reshape(-1)
    slope = float((x * start).sum() / start.square().sum())
    rest = x - slope * start
    got = float(rest.var())
    drift = abs(slope - factor) / math.sqrt(variance / float(start.square().sum()))
    off = abs(got / variance - 1) / math.sqrt(2 / n)
    shift = abs(float(rest.mean())) / math.sqrt(variance / n)
    say(got > 1e-3 * variance, f"{where} no noise is added.")
    word = "much" if got > variance else "little"
    say(drift < 5, f"{where} the drift is off: after the run {slope:.3f} of the start is left, not {factor:.3f}.")
    say(
        off < 5,
        f"{where} too {word} noise: the variance is {got:.3g} where noise and drift together give {variance:.3g}.",
    )
    say(shift < 5, f"{where} the noise does not have mean 0.")
    return max(drift, off, shift)


def check_ascent(
    ascent: Callable[[Score, Tensor, float, int], Tensor], *, generator: torch.Generator | None = None
) -> float:
    """Judge the deterministic half of Q2.P3: ascent(score, x, step_size, n_steps) climbs by (step_size / 2) score.

    Returns:
        The largest relative error on random Gaussians, where every step is linear.
    """
    generator = fresh_generator(generator)
    worst = 0.0
    for n_steps in (1, 7):
        mean, spread = torch.rand(2, generator=generator).tolist()
        a, variance = 0.3, 0.5 + spread
        x = 3 * torch.randn(50, 2, generator=generator)
        kept = x.clone()
        got = as_tensor(ascent(_gaussian(mean, variance), x, a, n_steps), "the result", (50, 2))
        say(torch.equal(x, kept), "x itself was changed; make a new tensor.")
        away = (got - mean).norm() > (kept.double() - mean).norm()
        say(not away, "the points go away from the mode.")
        want = mean + (1 - a / (2 * variance)) ** n_steps * (x.double() - mean)
        error = _relative(got - x.double(), want - x.double())
        say(error < 1e-3, f"after {n_steps} steps the points are elsewhere: is every step (a / 2) times the score?")
        worst = max(worst, error)
    return worst


def check_langevin(
    langevin: Callable[[Score, Tensor, float, int, torch.Generator], Tensor],
    *,
    generator: torch.Generator | None = None,
) -> float:
    """Judge Q2.P3: langevin(score, x, step_size, n_steps, generator), x + (a / 2) score(x) + sqrt(a) z.

    On Gaussian data a step is linear: what is left of the start and the variance of the rest are known for any number
    of steps, and for many of them the variance is that of the data over 1 - a / (4 variance).

    Returns:
        The largest deviation, in standard errors.
    """
    generator = fresh_generator(generator)
    n, worst = 10_000, 0.0
    for a, n_steps in ((0.4, 1), (0.3, 4), (1.0, 60)):
        mean, spread = torch.rand(2, generator=generator).tolist()
        variance = 0.6 + spread
        x = mean + 2 * torch.randn(n, 2, generator=generator)
        kept = x.clone()
        got = as_tensor(langevin(_gaussian(mean, variance), x, a, n_steps, generator), "the result", (n, 2))
        say(torch.equal(x, kept), "x itself was changed; make a new tensor.")
        r = 1 - a / (2 * variance)
        noise = a * sum(r ** (2 * k) for k in range(n_steps))
        where = f"after {n_steps} step{'s' * (n_steps > 1)} of size {a:g}"
        worst = max(worst, _judge_chain(got, kept, mean, r**n_steps, noise, where))
        left = got - mean - r**n_steps * (kept.double() - mean)
        # z ~ N(0, 1) has a fourth moment of 3: evenly drawn noise of the same variance has less.
        fourth = float((left / left.std()).pow(4).mean())
        say(n_steps > 1 or abs(fourth - 3) < 0.3, "the noise is not normal: look at the function that draws it.")
        same = float(torch.corrcoef(left.T)[0, 1])
        say(abs(same) < 0.06, "both coordinates of a point get the same noise.")
    return worst


def check_annealed_langevin(
    annealed: Callable[
        [Callable[[Tensor, float], Tensor], Tensor, Sequence[float], float, int, torch.Generator], Tensor
    ],
    *,
    generator: torch.Generator | None = None,
) -> float:
    """Judge Q2.T5 and Q2.P5: annealed(score, x, sigmas, step_size, n_steps, generator), sigmas falling.

    n_steps at each level, with the step size step_size (sigma_i / sigma_last)^2. On Gaussian data every step is linear.

    Returns:
        The largest deviation from the closed form, in standard errors.
    """
    generator = fresh_generator(generator)
    n, worst = 10_000, 0.0
    for sigmas, a, n_steps in (([2.0, 1.0], 0.05, 3), ([4.0, 2.0, 1.0, 0.5], 0.03, 2)):
        mean, spread = torch.rand(2, generator=generator).tolist()
        variance = 0.3 + spread
        asked: list[float] = []
        x = mean + 3 * torch.randn(n, 2, generator=generator)
        kept = x.clone()
        got = annealed(_gaussian(mean, variance, asked), x, sigmas, a, n_steps, generator)
        got = as_tensor(got, "the result", (n, 2))
        say(torch.equal(x, kept), "x itself was changed; make a new tensor.")
        order = [level for level in sigmas for _ in range(n_steps)]
        say(asked != order[::-1], "the levels go the wrong way: the noise must fall.")
        say(
            len(asked) == len(order) and all(abs(p - q) < 1e-5 for p, q in zip(asked, order, strict=True)),
            f"the score must be asked {n_steps} times at each of the levels {sigmas}, the largest first.",
        )
        factor, noise = 1.0, 0.0
        for sigma in order:
            step = a * (sigma / sigmas[-1]) ** 2
            r = 1 - step / (2 * (variance + sigma**2))
            factor, noise = r * factor, r**2 * noise + step
        where = f"with the levels {sigmas} and {n_steps} steps at each"
        worst = max(worst, _judge_chain(got, kept, mean, factor, noise, where))
    return worst


def check_denoise(
    denoise: Callable[[Callable[[Tensor, float], Tensor], Tensor, float], Tensor],
    *,
    generator: torch.Generator | None = None,
) -> float:
    """Judge the last step of Q2.P5: denoise(score, x, sigma) -> the mean of the clean point given the noisy one.

    Returns:
        The largest relative error on random Gaussians, where that mean is known from Bayes' rule.
    """
    generator = fresh_generator(generator)
    worst = 0.0
    for sigma in (0.3, 1.0, 4.0):
        mean, spread = torch.rand(2, generator=generator).tolist()
        variance = 0.5 + spread
        x = mean + (1 + sigma) * torch.randn(50, 2, generator=generator)
        kept = x.clone()
        got = as_tensor(denoise(_gaussian(mean, variance), x, sigma), "the result", (50, 2))
        say(torch.equal(x, kept), "x itself was changed; make a new tensor.")
        # Bayes' rule for two Gaussians: the two means, weighted by their precisions.
        want = (mean / variance + kept.double() / sigma**2) / (1 / variance + 1 / sigma**2)
        error = _relative(got - mean, want - mean)
        away = (got - mean).norm() > (kept.double() - mean).norm()
        say(not away, f"at sigma = {sigma:g} the points move away from the data.")
        say(
            error < 1e-3, f"at sigma = {sigma:g} the points move too {_moved(got, want, kept)}: how large is the noise?"
        )
        worst = max(worst, error)
    return worst


def _moved(got: Tensor, want: Tensor, start: Tensor) -> str:
    return "little" if (got - start).norm() < (want - start).norm() else "far"


def check_starting_points(
    samples: dict[str, Tensor], score: Score, means: Tensor, variances: Tensor, *, n: int = 1000
) -> float:
    """Judge Q2.P4: samples["deterministic"] and samples["langevin"], (n, 2) each, of a mixture with far components.

    Deterministic ends are places where the score is nothing; Langevin's spread within a component is the component's.

    Args:
        samples: the two sets.
        score: the exact score, x (N, 2) -> (N, 2).
        means, variances: of the components, (K, 2) and (K,).
        n: points that were asked for in each set.

    Returns:
        The largest relative error of a component's variance.
    """
    for name in ("deterministic", "langevin"):
        say(name in samples, f"there is no set named {name!r}.")
        as_tensor(samples[name], f"the set {name!r}", (n, 2))
    rest = float(score(samples["deterministic"]).norm(dim=1).quantile(0.99))
    say(rest < 0.05, f"the deterministic points have not come to rest: the score is still {rest:.2g} at some of them.")
    x = samples["langevin"].double().cpu()
    nearest = torch.cdist(x, means.double().cpu()).argmin(1)
    worst = 0.0
    for k, variance in enumerate(variances.tolist()):
        mine = x[nearest == k] - means[k].double().cpu()
        if len(mine) < 50:
            continue
        got = float(mine.square().mean())
        limit = 0.15 + 5 * math.sqrt(1 / len(mine))
        say(
            abs(got / variance - 1) < limit,
            f"around ({means[k][0]:g}, {means[k][1]:g}) the Langevin points have variance {got:.3g}: too "
            f"{'wide' if got > variance else 'narrow'}; look at the noise, the step size and the number of steps.",
        )
        worst = max(worst, abs(got / variance - 1))
    return worst
