"""Checks of the exercises of notebook 06: ascent, Langevin dynamics, annealing, the last denoising step."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hw3utils.course.checks.building_blocks import Score, as_tensor, fresh_generator, relative_error, say


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
        error = relative_error(got - x.double(), want - x.double())
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
        error = relative_error(got - mean, want - mean)
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
