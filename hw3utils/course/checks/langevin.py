"""Checks of the exercises of notebook 06: ascent, Langevin dynamics, annealing, the last denoising step."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hw3utils.course.checks.building_blocks import (
    Chain,
    Score,
    as_tensor,
    fresh_generator,
    on_copies,
    relative_error,
    require,
)


def _gaussian(
    mean: float, variance: float, visit: Callable[[float, Tensor, Tensor], None] = lambda sigma, x, score: None
) -> Callable[..., Tensor]:
    """The score of N(mean, variance), convolved with N(0, sigma^2) if a level is given; shows each state to `visit`."""

    def score(x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        value = -(x - mean) / (variance + sigma**2)
        visit(float(torch.as_tensor(sigma).reshape(-1)[0]), x.detach().double(), value.detach().double())
        return value

    return score


class _LangevinChain(Chain):
    """The points at which a chain asks the score, x + (a / 2) score + noise of variance a; any number of times each.

    With a last level, the step size is a at this level, and annealed at those before.
    """

    def __init__(self, n: int, a: float, *, last_level: float | None = None, noise: bool = True) -> None:
        super().__init__(8 * math.sqrt(2 / n), "the score is not asked at the points that the chain passes through.")
        self.a, self.last_level, self.noise, self.steps = a, last_level, noise, 0
        self.last: Tensor | None = None
        self.asked: list[float] = []

    def step_size(self, sigma: float) -> float:
        """The step size at a level."""
        return self.a if self.last_level is None else self.a * (sigma / self.last_level) ** 2

    def step(self, sigma: float, x: Tensor, score: Tensor) -> None:
        """Note a level and a point; asked again there, it is the same step."""
        self.asked.append(sigma)
        step_size = self.step_size(sigma)
        if self.last is None or self.last.shape != x.shape or not torch.equal(self.last, x):
            self.visit(x, x + step_size / 2 * score, step_size if self.noise else 0.0)
            self.steps += 1
        self.last = x

    def judge_end(self, x: Tensor, n_steps: int) -> None:
        """Fail unless the result follows from n_steps steps; the score may also be asked at the result."""
        if self.last is not None and torch.equal(self.last.reshape(-1), x.reshape(-1)):
            self.steps -= 1
        else:
            self.end(x)
        self.judge()
        require(self.steps == n_steps, f"the score was asked at {self.steps} points in {n_steps} steps.")


def _judge_chain(x: Tensor, start: Tensor, mean: float, factor: float, variance: float, where: str) -> float:
    """Deviation of a linear chain's samples in standard errors: the factor of the start, the variance of the rest."""
    n = x.numel()
    x, start = (x - mean).reshape(-1), (start.double() - mean).reshape(-1)
    slope = float((x * start).sum() / start.square().sum())
    rest = x - slope * start
    got = float(rest.var())
    drift = abs(slope - factor) / math.sqrt(variance / float(start.square().sum()))
    off = abs(got / variance - 1) / math.sqrt(2 / n)
    shift = abs(float(rest.mean())) / math.sqrt(variance / n)
    require(got > 1e-3 * variance, f"{where} no noise is added.")
    word = "much" if got > variance else "little"
    require(drift < 5, f"{where} the drift is off: after the run {slope:.3f} of the start is left, not {factor:.3f}.")
    require(
        off < 5,
        f"{where} too {word} noise: the variance is {got:.3g} where noise and drift together give {variance:.3g}.",
    )
    require(shift < 5, f"{where} the noise does not have mean 0.")
    return max(drift, off, shift)


def check_ascent(
    ascent: Callable[[Score, Tensor, float, int], Tensor], *, generator: torch.Generator | None = None
) -> float:
    """Judge the deterministic half of Q2.P3: ascent(score, x, step_size, n_steps) climbs by (step_size / 2) score.

    Returns:
        The largest relative error on random Gaussians, where every step is linear.
    """
    generator = fresh_generator(generator)
    ascent = on_copies(ascent, "the score", "x", "step_size", "n_steps")
    worst = 0.0
    for n_steps in (1, 7):
        mean, extra = torch.rand(2, generator=generator).tolist()
        a, variance = 0.3, 0.5 + extra
        x = 3 * torch.randn(50, 2, generator=generator)
        chain = _LangevinChain(100, a, noise=False)
        score = _gaussian(mean, variance, chain.step)
        got = as_tensor(ascent(score, x, a, n_steps), "the result", (50, 2))
        again = as_tensor(ascent(_gaussian(mean, variance), x, a, n_steps), "the result", (50, 2))
        require(relative_error(again, got) < 1e-3, "the result differs from call to call: ascent adds no noise.")
        away = (got - mean).norm() > (x.double() - mean).norm()
        require(not away, "the points go away from the mode.")
        want = mean + (1 - a / (2 * variance)) ** n_steps * (x.double() - mean)
        error = relative_error(got - x.double(), want - x.double())
        require(error < 1e-3, f"after {n_steps} steps the points are elsewhere: is every step (a / 2) times the score?")
        chain.judge_end(got, n_steps)
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
    langevin = on_copies(langevin, "the score", "x", "step_size", "n_steps", "generator")
    n, worst = 10_000, 0.0
    for a, n_steps in ((0.4, 1), (0.3, 4), (1.0, 60)):
        mean, extra = torch.rand(2, generator=generator).tolist()
        variance = 0.6 + extra
        x = mean + 2 * torch.randn(n, 2, generator=generator)
        chain = _LangevinChain(n, a)
        score = _gaussian(mean, variance, chain.step)
        got = as_tensor(langevin(score, x, a, n_steps, generator), "the result", (n, 2))
        r = 1 - a / (2 * variance)
        noise = a * sum(r ** (2 * k) for k in range(n_steps))
        where = f"after {n_steps} step{'s' * (n_steps > 1)} of size {a:g}"
        worst = max(worst, _judge_chain(got, x, mean, r**n_steps, noise, where))
        left = got - mean - r**n_steps * (x.double() - mean)
        # z ~ N(0, 1) has a fourth moment of 3; uniform noise of the same variance has less.
        fourth = float((left / left.std()).pow(4).mean())
        require(n_steps > 1 or abs(fourth - 3) < 0.3, "the noise is not normal: look at the function that draws it.")
        same = float(torch.corrcoef(left.T)[0, 1])
        require(abs(same) < 0.06, "both coordinates of a point get the same noise.")
        chain.judge_end(got, n_steps)
    return worst


def check_annealed_langevin(
    annealed: Callable[
        [Callable[[Tensor, float], Tensor], Tensor, Sequence[float], float, int, torch.Generator], Tensor
    ],
    *,
    generator: torch.Generator | None = None,
) -> float:
    """Judge Q2.T5 and Q2.P5: annealed(score, x, sigmas, step_size, n_steps, generator), sigmas decreasing.

    n_steps at each level, with the step size step_size (sigma_i / sigma_last)^2. On Gaussian data every step is linear.

    Returns:
        The largest deviation from the closed form, in standard errors.
    """
    generator = fresh_generator(generator)
    annealed = on_copies(annealed, "the score", "x", "sigmas", "step_size", "n_steps", "generator")
    n, worst = 10_000, 0.0
    for sigmas, a, n_steps in (([2.0, 1.0], 0.05, 3), ([4.0, 2.0, 1.0, 0.5], 0.03, 2)):
        mean, extra = torch.rand(2, generator=generator).tolist()
        variance = 0.3 + extra
        chain = _LangevinChain(n, a, last_level=sigmas[-1])
        x = mean + 3 * torch.randn(n, 2, generator=generator)
        got = annealed(_gaussian(mean, variance, chain.step), x, sigmas, a, n_steps, generator)
        got = as_tensor(got, "the result", (n, 2))
        order = [level for level in sigmas for _ in range(n_steps)]
        require(chain.asked != order[::-1], "the levels go the wrong way: the noise must decrease.")
        require(
            len(chain.asked) == len(order) and all(abs(p - q) < 1e-5 for p, q in zip(chain.asked, order, strict=True)),
            f"the score must be asked {n_steps} times at each of the levels {sigmas}, the largest first.",
        )
        where = f"with the levels {sigmas} and {n_steps} steps at each"
        _judge_step_sizes(got, x, mean, variance, sigmas, a, n_steps, where)
        factor, noise = _annealed_chain(order, variance, chain.step_size)
        worst = max(worst, _judge_chain(got, x, mean, factor, noise, where))
        chain.judge_end(got, len(order))
    return worst


def _judge_step_sizes(
    x: Tensor, start: Tensor, mean: float, variance: float, sigmas: Sequence[float], a: float, n_steps: int, where: str
) -> None:
    """Fail with its reason if the samples are those of a known wrong annealing."""
    first, last = sigmas[0], sigmas[-1]
    order = [level for level in sigmas for _ in range(n_steps)]
    wrong = {
        "the step size is proportional to sigma": (order, lambda sigma: a * sigma / last),
        "the step size is divided by the first sigma": (order, lambda sigma: a * (sigma / first) ** 2),
        "the step size is the same at every level": (order, lambda sigma: a),
        "each level starts again from the first points": (order[-n_steps:], lambda sigma: a * (sigma / last) ** 2),
    }
    for reason, (levels, step_size) in wrong.items():
        chain = _annealed_chain(levels, variance, step_size)
        require(not _is_chain(x, start, mean, *chain, where), f"{where} the annealing is off: {reason}.")


def _annealed_chain(
    order: Sequence[float], variance: float, step_size: Callable[[float], float]
) -> tuple[float, float]:
    """The factor of the start and the variance of the noise after annealed Langevin dynamics on N(0, variance)."""
    factor, noise = 1.0, 0.0
    for sigma in order:
        step = step_size(sigma)
        r = 1 - step / (2 * (variance + sigma**2))
        factor, noise = r * factor, r**2 * noise + step
    return factor, noise


def _is_chain(x: Tensor, start: Tensor, mean: float, factor: float, variance: float, where: str) -> bool:
    """Whether `_judge_chain` passes."""
    try:
        _judge_chain(x, start, mean, factor, variance, where)
    except AssertionError:
        return False
    return True


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
    denoise = on_copies(denoise, "the score", "x", "sigma")
    worst = 0.0
    for sigma in (0.3, 1.0, 4.0):
        mean, extra = torch.rand(2, generator=generator).tolist()
        variance = 0.5 + extra
        x = mean + (1 + sigma) * torch.randn(50, 2, generator=generator)
        got, again = (as_tensor(denoise(_gaussian(mean, variance), x, sigma), "the result", (50, 2)) for _ in range(2))
        require(
            relative_error(again, got) < 1e-3,
            "the result differs from call to call: a mean is not a sample, so no noise is added.",
        )
        # Bayes' rule for two Gaussians: the two means, weighted by their precisions.
        want = (mean / variance + x.double() / sigma**2) / (1 / variance + 1 / sigma**2)
        error = relative_error(got - mean, want - mean)
        away = (got - mean).norm() > (x.double() - mean).norm()
        require(not away, f"at sigma = {sigma:g} the points move away from the data.")
        require(
            error < 1e-3, f"at sigma = {sigma:g} the points move too {_moved(got, want, x)}: how large is the noise?"
        )
        worst = max(worst, error)
    return worst


def _moved(got: Tensor, want: Tensor, start: Tensor) -> str:
    return "little" if (got - start).norm() < (want - start).norm() else "far"


def check_starting_points(
    samples: dict[str, Tensor], score: Score, means: Tensor, variances: Tensor, *, n: int = 1000
) -> float:
    """Judge Q2.P4: samples["deterministic"] and samples["langevin"], (n, 2) each, of a mixture with far components.

    At deterministic ends the score is 0; Langevin's variance within a component is the component's. Neither method goes
    from one component to another, so both sets have the same share of each.

    Args:
        samples: the two sets.
        score: the exact score, x (N, 2) -> (N, 2).
        means, variances: of the components, (K, 2) and (K,).
        n: points that were asked for in each set.

    Returns:
        The largest relative error of a component's variance.
    """
    for name in ("deterministic", "langevin"):
        require(name in samples, f"there is no set named {name!r}.")
    samples = {name: as_tensor(samples[name], f"the set {name!r}", (n, 2)) for name in ("deterministic", "langevin")}
    rest = float(score(samples["deterministic"]).norm(dim=1).quantile(0.99))
    require(
        rest < 0.05, f"the deterministic points have not come to rest: the score is still {rest:.2g} at some of them."
    )
    x = samples["langevin"].double().cpu()
    nearest = torch.cdist(x, means.double().cpu()).argmin(1)
    still = torch.cdist(samples["deterministic"].double().cpu(), means.double().cpu()).argmin(1)
    worst = 0.0
    for k, variance in enumerate(variances.tolist()):
        shares = [float((where == k).double().mean()) for where in (nearest, still)]
        require(
            abs(shares[0] - shares[1]) < 0.15,
            f"{shares[0]:.0%} of the Langevin points are around ({means[k][0]:g}, {means[k][1]:g}), but "
            f"{shares[1]:.0%} of "
            "the deterministic ones: from the same starts the shares are about the same.",
        )
        mine = x[nearest == k] - means[k].double().cpu()
        if len(mine) < 50:
            continue
        got = float(mine.square().mean())
        limit = 0.15 + 5 * math.sqrt(1 / len(mine))
        require(
            abs(got / variance - 1) < limit,
            f"around ({means[k][0]:g}, {means[k][1]:g}) the Langevin points have variance {got:.3g}: too "
            f"{'wide' if got > variance else 'narrow'}; look at the noise, the step size and the number of steps.",
        )
        worst = max(worst, abs(got / variance - 1))
    return worst
