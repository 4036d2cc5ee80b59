"""Checks of the exercises of notebook 07: the reverse drift, Heun, likelihood, and flow matching."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hw3utils.course.checks.building_blocks import (
    as_loss,
    as_tensor,
    fresh_generator,
    on_copies,
    relative_error,
    require,
)
from hw3utils.noise import EpsModel
from hw3utils.schedules import NoiseSchedule, linear_schedule

Field = Callable[[Tensor], Tensor]
Velocity = Callable[[Tensor, Tensor], Tensor]


def check_reverse_drift(
    drift: Callable[[Tensor, Tensor, float, float], Tensor], *, generator: torch.Generator | None = None
) -> float:
    """Judge drift(x, score, beta, lam), of dx = drift dt + lam sqrt(beta) dW with time running back; x, score (N, 2).

    Returns:
        The largest relative error.
    """
    generator = fresh_generator(generator)
    drift = on_copies(drift, "x", "score", "beta", "lam")
    worst = 0.0
    for lam in (1.0, 0.0, 0.5):
        beta = 0.02 + 0.08 * float(torch.rand((), generator=generator))
        x, score = torch.randn(2, 50, 2, generator=generator)
        got = as_tensor(drift(x, score, beta, lam), "the drift", (50, 2))
        # The drift is a combination of both; least squares gives their factors.
        columns = torch.stack([x.flatten(), score.flatten()], dim=1).double()
        coef_x, coef_score = torch.linalg.lstsq(columns, got.reshape(-1, 1)).solution.flatten().tolist()
        want = -beta / 2 * (x.double() + (1 + lam**2) * score.double())
        require(
            abs(coef_x + beta / 2) < 1e-3 * beta,
            f"at beta = {beta:.3f} the drift has {coef_x:.3f} times x, which is not the forward drift of the SDE.",
        )
        require(
            coef_score < 0, f"at lam = {lam:g} the score enters with the wrong sign: with dt < 0 points must climb it."
        )
        root = (1 + lam**2) / 2 * math.sqrt(beta)
        require(abs(coef_score + root) > 1e-3 * root, "the score is multiplied by g, not by its square, beta.")
        ratio = -coef_score / beta
        require(
            abs(ratio / ((1 + lam**2) / 2) - 1) < 1e-3,
            f"at lam = {lam:g} the score enters with {ratio:.3f} beta: look at the one half and at lam.",
        )
        worst = max(worst, relative_error(got, want))
    return worst


def _linear_eps(schedule: NoiseSchedule, variance: float, asked: list[int]) -> tuple[EpsModel, Tensor]:
    """The exact noise predictor of N(0, variance), eps = slope[t] x, which notes the times; the slopes, (T + 1,)."""
    slope = schedule.noise / (schedule.alpha_bar * variance + 1 - schedule.alpha_bar)

    def eps_model(x: Tensor, t: int | Tensor) -> Tensor:
        time = int(torch.as_tensor(t).reshape(-1)[0])
        asked.append(time)
        require(time > 0, "the model was asked at time 0, where nothing is left to predict.")
        return slope[time].to(x.dtype) * x

    return eps_model, slope


def check_heun(
    heun: Callable[[EpsModel, Tensor, NoiseSchedule, Sequence[int]], Tensor],
    *,
    generator: torch.Generator | None = None,
) -> float:
    """Judge heun(eps_model, x_T, schedule, times), times falling from T to 0, on Gaussian data.

    There every step is linear, so that x_T is multiplied by a known number.

    Returns:
        The largest relative error of that number.
    """
    generator = fresh_generator(generator)
    heun = on_copies(heun, "the model", "x_T", "schedule", "times")
    schedule = linear_schedule()
    sigma = schedule.noise / schedule.signal
    worst = 0.0
    for times in ([1000, 600, 300, 100, 0], [1000, 900, 700, 500, 350, 200, 90, 20, 0]):
        variance = 0.2 + float(torch.rand((), generator=generator))
        asked: list[int] = []
        eps_model, slope = _linear_eps(schedule, variance, asked)
        factor = {"heun": 1.0, "euler": 1.0}
        for t, s in itertools.pairwise(times):
            width = sigma[s] - sigma[t]
            # The slope of y = x / signal is slope[t] signal[t] y.
            first, second = (slope[k] * schedule.signal[k] for k in (t, s))
            factor["euler"] *= float(1 + width * first)
            mean = first if s == 0 else (first + second * (1 + width * first)) / 2
            factor["heun"] *= float(1 + width * mean)
        factor = {name: value / float(schedule.signal[-1]) for name, value in factor.items()}
        x = torch.randn(100, 2, generator=generator, dtype=torch.float64)
        got = as_tensor(heun(eps_model, x, schedule, times), "the result", (100, 2))
        require(asked[:1] == [1000], "the model must be asked at T first: time runs from noise to data.")
        number = float((got * x).sum() / x.square().sum())
        require(relative_error(got, number * x) < 1e-3, "the result is not x_T times a number: was noise added?")
        require(
            abs(number / factor["euler"] - 1) > 1e-3, "these are Euler's steps: only the slope at their start counts."
        )
        error = abs(number / factor["heun"] - 1)
        require(
            error < 1e-3,
            f"x_T is multiplied by {number:.4f} where Heun's method gives another number: which two slopes are "
            "averaged, at which point and time is the second one taken, and what is the width of a step?",
        )
        worst = max(worst, error)
    return worst


def _curved_field(a: Tensor, c: float) -> Field:
    return lambda x: x @ a.T + c * x**2


def check_trace_estimate(
    estimate: Callable[[Field, Tensor, Tensor], Tensor], *, generator: torch.Generator | None = None
) -> float:
    """Judge estimate(field, x, v) -> (N,): the mean over the n directions v (n, N, D) of v^T (d field / dx) v.

    Returns:
        The largest relative error on random curved fields.
    """
    generator = fresh_generator(generator)
    estimate = on_copies(estimate, "the field", "x", "v")
    worst = 0.0
    for dimension, n in ((2, 3), (5, 8)):
        a = torch.randn(dimension, dimension, generator=generator)
        c = 0.3 + float(torch.rand((), generator=generator))
        x = torch.randn(20, dimension, generator=generator)
        v = torch.randn(n, 20, dimension, generator=generator)
        field = _curved_field(a, c)
        v64 = v.double()
        each = (v64 @ a.double() * v64).sum(2) + (2 * c * x.double() * v64**2).sum(2)
        raw = torch.as_tensor(estimate(field, x, v)).detach()
        require(
            tuple(raw.shape) not in ((), (1,), (n,)),
            f"the result has shape {tuple(raw.shape)}: average over the directions, not over the samples.",
        )
        got = as_tensor(raw, "the estimate", (20,))
        want = each.mean(0)
        one = (a[0, 0] + 2 * c * x[:, 0]).double()
        require(relative_error(got, one) > 1e-3, "only one coordinate counts: the trace is a sum over all of them.")
        require(relative_error(-got, want) > 1e-3, "the trace has the wrong sign.")
        require(relative_error(got, want * n) > 1e-3, "the directions are summed, not averaged.")
        require(
            relative_error(got, each[0]) > 1e-3, "only the first direction counts; there are more, and each costs time."
        )
        error = relative_error(got, want)
        require(error < 1e-3, "the estimate is off: is the derivative multiplied by v from both sides?")
        worst = max(worst, error)
    return worst


def _linear_flow(k: float, c: float, asked: list[float] | None = None) -> tuple[Velocity, Velocity]:
    """The velocity k x + c s, which notes the times, and its divergence in the plane."""

    def velocity(x: Tensor, s: float | Tensor) -> Tensor:
        s = torch.as_tensor(s, dtype=x.dtype).reshape(-1, 1)
        if asked is not None:
            asked.append(float(s[0]))
        return k * x + c * s

    def divergence(x: Tensor, s: float | Tensor) -> Tensor:
        return torch.full((len(x),), 2 * k, dtype=x.dtype)

    return velocity, divergence


def check_flow_log_prob(
    log_prob: Callable[[Velocity, Velocity, Tensor, Field, int], Tensor], *, generator: torch.Generator | None = None
) -> float:
    """Judge log_prob(velocity, divergence, x, base, steps) -> (N,), log p of x (N, 2) at s = 0.

    dx/ds = velocity(x, s) from s = 0 to s = 1, divergence(x, s) its divergence, base(x_1) the log density at s = 1.

    Returns:
        The largest error in nats on fields whose flow is known; with 1000 steps Euler's own is below 0.1.
    """
    generator = fresh_generator(generator)
    log_prob = on_copies(log_prob, "the velocity", "the divergence", "x", "the base", "steps")
    worst = 0.0
    for sign in (1, -1):
        k = sign * (0.5 + 0.5 * float(torch.rand((), generator=generator)))
        c = 1 + float(torch.rand((), generator=generator))
        x = torch.randn(50, 2, generator=generator, dtype=torch.float64)

        velocity, divergence = _linear_flow(k, c)

        def base(x: Tensor) -> Tensor:
            return -0.5 * (x - 0.5).square().sum(1)

        got = as_tensor(log_prob(velocity, divergence, x, base, 1000), "log p", (50,))
        # x' = k x + c s has the solution e^k x + c (e^k - 1 - k) / k^2 at s = 1.
        end = math.exp(k) * x + c * (math.exp(k) - 1 - k) / k**2
        back = math.exp(-k) * x - c * (1 - math.exp(-k) * (1 + k)) / k**2
        turned = math.exp(k) * x + c * (math.exp(k) * (k - 1) + 1) / k**2
        wrong_way = "time runs the wrong way: go from the data at s = 0 to the noise at s = 1."
        known = (
            (
                base(end) - 2 * k,
                "the trace has the wrong sign: where points flow apart, was the density higher before?",
            ),
            (base(end), "the change of volume is missing."),
            (base(x) + 2 * k, "the density is asked at the point itself, not at the end of its path."),
            (base(back) - 2 * k, wrong_way),
            (base(turned) + 2 * k, wrong_way),
            (base(end) + 2 * k * 1000, "the divergence is added up without the width of a step."),
        )
        want = base(end) + 2 * k
        error = float((got - want).abs().max())
        for value, message in known:
            require(error < 0.1 or float((got - value).abs().max()) > 0.1, message)
        require(error < 0.1, f"log p is off by up to {error:.3g} nats.")
        worst = max(worst, error)
    return worst


def _linear_velocity(a: float, b: float, c: float, seen: list[tuple[Tensor, Tensor]]) -> Velocity:
    """The velocity a x + b s + c, which notes points and times."""

    def velocity(x: Tensor, s: Tensor) -> Tensor:
        s = torch.as_tensor(s)
        seen.append((x.detach().clone(), s.detach().reshape(-1)))
        return a * x + b * s.reshape(-1, 1) + c

    return velocity


def _constant_velocity(value: Tensor) -> Velocity:
    return lambda x, s: value.clone()


def check_flow_matching_loss(
    loss: Callable[[Velocity, Tensor, Tensor, Tensor], Tensor], *, generator: torch.Generator | None = None
) -> float:
    """Judge loss(velocity, x0, s, eps) on x_s = (1 - s) x0 + s eps: x0, eps (N, 2), s (N,), one value or one a sample.

    Right is any positive multiple, the same for every model, of the squared error of the velocity eps - x0.

    Returns:
        The largest relative error of the ratio between losses of random models.
    """
    generator = fresh_generator(generator)
    loss = on_copies(loss, "the velocity", "x0", "s", "eps")
    x0, eps = torch.randn(2, 100, 2, generator=generator)
    s = 0.1 + 0.8 * torch.rand(100, generator=generator)
    wide = s[:, None]
    at_s, turned = (1 - wide) * x0 + wide * eps, wide * x0 + (1 - wide) * eps
    losses, wanted = [], []
    for _ in range(5):
        a, b, c = torch.randn(3, generator=generator).tolist()
        seen: list[tuple[Tensor, Tensor]] = []
        velocity = _linear_velocity(a, b, c, seen)
        value = as_loss(loss(velocity, x0, s, eps))
        require(len(seen) > 0, "the model was never asked.")
        point, time = seen[0]
        require(
            not torch.allclose(point, turned, atol=1e-4), "time runs the wrong way: at s = 0 the path is at the data."
        )
        require(point.shape == at_s.shape and torch.allclose(point, at_s, atol=1e-4), "the model does not see x_s.")
        require(torch.allclose(time.expand(100), s), "the model is told another time than s.")
        losses.append(float(value.mean()))
        wanted.append(float((velocity(at_s, s) - (eps - x0)).double().square().mean()))
    scale = max(abs(value) for value in losses)
    ends = {name: loss(_constant_velocity(v), x0, s, eps) for name, v in (("right", eps - x0), ("left", x0 - eps))}
    least = {name: float(as_loss(value).abs().max()) for name, value in ends.items()}
    require(least["left"] > 1e-4 * scale, "the velocity points to the wrong end: which way does x_s go as s grows?")
    require(least["right"] < 1e-4 * scale, "a model that gives the velocity of each path is not the best one.")
    ratio = torch.tensor(losses, dtype=torch.float64) / torch.tensor(wanted, dtype=torch.float64)
    error = float((ratio.max() - ratio.min()) / ratio.abs().max()) if ratio.min() > 0 else math.inf
    require(error < 1e-3, "the loss is not proportional to the squared error of the velocity.")
    return error


def check_sample_flow(
    sample: Callable[[Velocity, Tensor, int], Tensor], *, generator: torch.Generator | None = None
) -> float:
    """Judge sample(velocity, x1, steps): equal Euler steps from the noise at s = 1 to the data at s = 0.

    Returns:
        The largest relative error on random linear velocities.
    """
    generator = fresh_generator(generator)
    sample = on_copies(sample, "the velocity", "x1", "steps")
    worst = 0.0
    for steps in (1, 2, 7):
        k, c = (0.3 + torch.rand(2, generator=generator)).tolist()
        x = torch.randn(50, 2, generator=generator, dtype=torch.float64)
        asked: list[float] = []
        velocity, _ = _linear_flow(k, c, asked)
        got = as_tensor(sample(velocity, x, steps), "the result", (50, 2))
        require(len(asked) == steps, f"the model was asked {len(asked)} times for {steps} steps.")
        want, wrong = x, x
        for i in range(steps, 0, -1):
            want = want - (k * want + c * i / steps) / steps
            wrong = wrong + (k * wrong + c * i / steps) / steps
        require(
            relative_error(got, wrong) > 1e-3, "the points go on into the noise: s falls, so the step is against it."
        )
        first = [i / steps for i in range(steps, 0, -1)]
        require(
            all(abs(p - q) < 1e-5 for p, q in zip(asked, first, strict=True)),
            f"the model must be asked at the start of each step, at s = {first[0]:g} first; it was at {asked[0]:g}.",
        )
        error = relative_error(got, want)
        require(error < 1e-3, f"after {steps} steps the points are elsewhere: how wide is a step?")
        worst = max(worst, error)
    return worst
