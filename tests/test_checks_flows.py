"""The checks of notebook 07 pass right implementations in several styles and fail every known wrong one."""

import functools
import itertools
import math

import pytest
import torch
from torch.func import jacrev, jvp, vmap

from hw3utils import flows, velocities
from hw3utils.course import checks


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def judged(check, cases):
    """Tests of one check: right ones by name, wrong ones with a part of the message."""

    @pytest.mark.parametrize(("function", "message"), cases)
    def test(function, message, generator):
        if message is None:
            check(function, generator=generator)
            return
        with pytest.raises(AssertionError, match=message):
            check(function, generator=generator)

    return test


# --------------------------------------------------------------------------------------------------- the reverse drift


def drift(x, score, beta, lam, *, on_x=-0.5, sign=-1.0, half=0.5, power=1.0, square=2):
    return on_x * beta * x + sign * half * (1 + lam**square) * beta**power * score


def drift_of_two_parts(x, score, beta, lam):
    g = math.sqrt(beta)
    flow = -0.5 * beta * x - 0.5 * g**2 * score
    return flow - 0.5 * (lam * g) ** 2 * score


def drift_with(**options):
    return functools.partial(drift, **options)


test_reverse_drift = judged(
    checks.check_reverse_drift,
    [
        (drift, None),
        (drift_of_two_parts, None),
        (lambda x, score, beta, lam: flows.reverse_drift(x, score, beta, lam=lam), None),
        (lambda x, score, beta, lam: drift(x, score, beta, lam).numpy(), None),
        (drift_with(sign=1.0), "wrong sign"),
        (drift_with(half=1.0), "one half"),
        (drift_with(power=0.5), "not by its square"),
        (drift_with(on_x=0.5), "not the forward drift"),
        (drift_with(on_x=-1.0), "not the forward drift"),
        (drift_with(square=1), "lam"),
        (lambda x, score, beta, lam: drift(x, score, beta, 0.0), "one half"),
        (lambda x, score, beta, lam: -drift(x, score, beta, lam), "not the forward drift"),
        (lambda x, score, beta, lam: drift(x, score, beta, lam)[0], "shape"),
    ],
)


# ---------------------------------------------------------------------------------------------------------------- Heun


def heun(eps_model, x, schedule, times, *, second=True, at="s", point="there", scaled=True, turned=False):
    sigma, signal = schedule.noise / schedule.signal, schedule.signal if scaled else torch.ones_like(schedule.signal)
    times = list(reversed(times))[1:] if turned else times
    y = x / signal[times[0]]
    ask = lambda y, t: eps_model(signal[t] * y, torch.full((len(x),), t))  # noqa: E731
    for t, s in itertools.pairwise(times):
        width = sigma[s] - sigma[t]
        slope = ask(y, t)
        if s > 0 and second:
            there = y + width * slope if point == "there" else y
            slope = (slope + ask(there, s if at == "s" else t)) / 2
        y = y + width * slope
    return y


def heun_in_x(eps_model, x, schedule, times):
    """The same in x itself: x_s = signal_s (x_t / signal_t + ...)."""
    a, b = schedule.signal.tolist(), schedule.noise.tolist()
    for t, s in itertools.pairwise(times):
        first = eps_model(x, t)
        move = lambda eps, x=x, t=t, s=s: a[s] / a[t] * (x - b[t] * eps) + b[s] * eps  # noqa: E731
        x = move(first) if s == 0 else move((first + eps_model(move(first), s)) / 2)
    return x


def heun_with(**options):
    return functools.partial(heun, **options)


test_heun = judged(
    checks.check_heun,
    [
        (heun, None),
        (heun_in_x, None),
        (lambda model, x, schedule, times: flows.sample_heun(model, x, schedule, steps=times), None),
        (heun_with(second=False), "Euler"),
        (heun_with(at="t"), "two slopes"),
        (heun_with(point="here"), "two slopes"),
        (heun_with(scaled=False), "two slopes"),
        (heun_with(turned=True), "from noise to data"),
        (lambda model, x, schedule, times: heun(model, x, schedule, times) + torch.randn(x.shape), "noise added"),
        (lambda model, x, schedule, times: model(x, 1000) + model(x, 0), "time 0"),
    ],
)


# ----------------------------------------------------------------------------------------------------------- the trace


def trace(field, x, v, *, sign=1.0, mean=0, both=True):
    rows = []
    for one in v:
        z = x.clone().requires_grad_()
        [row] = torch.autograd.grad((field(z) * one).sum(), z)
        rows.append(sign * (row * one if both else row).sum(1))
    return torch.stack(rows).mean(mean)


def trace_forward(field, x, v):
    return sum((one * jvp(field, (x,), (one,))[1]).sum(1) for one in v) / len(v)


def trace_of_one_coordinate(field, x, v):
    z = x.clone().requires_grad_()
    return torch.autograd.grad(field(z)[:, 0].sum(), z)[0][:, 0]


def trace_whole(field, x, v):
    jacobian = vmap(lambda row: jacrev(lambda r: field(r[None])[0])(row))(x)
    return torch.einsum("nbi,bij,nbj->b", v, jacobian, v) / len(v)


def trace_with(**options):
    return functools.partial(trace, **options)


test_trace_estimate = judged(
    checks.check_trace_estimate,
    [
        (trace, None),
        (trace_forward, None),
        (trace_whole, None),
        (lambda field, x, v: flows.divergence(field, x, v)[1].mean(0), None),
        (trace_with(mean=1), "average over the directions"),
        (trace_with(mean=(0, 1)), "average over the directions"),
        (trace_of_one_coordinate, "one coordinate"),
        (trace_with(sign=-1.0), "wrong sign"),
        (trace_with(both=False), "from both sides"),
        (lambda field, x, v: trace(field, x, v) * len(v), "summed"),
        (lambda field, x, v: trace(field, x, v[:1]), "first direction"),
    ],
)


# ---------------------------------------------------------------------------------------------------------- likelihood


def log_prob(velocity, divergence, x, base, steps, *, sign=1.0, width=True, times="up", at="end", trace=True):
    """Euler along the path, the trace added up on the way."""
    grid = [i / steps for i in range(steps)]
    h, y, change = 1 / steps, x, 0
    if times == "down":
        grid, h = [1 - s for s in grid], -h
    if times == "turned":
        grid = [1 - s for s in grid]
    for s in grid:
        change = change + (h if width else 1) * divergence(y, s)
        y = y + h * velocity(y, s)
    return base(y if at == "end" else x) + (sign * change if trace else 0)


def log_prob_by_midpoints(velocity, divergence, x, base, steps):
    total, h = torch.zeros(len(x), dtype=x.dtype), 1 / steps
    for i in range(steps):
        middle = x + h / 2 * velocity(x, i * h)
        total += h * divergence(middle, (i + 0.5) * h)
        x = x + h * velocity(middle, (i + 0.5) * h)
    return base(x) + total


def log_prob_with(**options):
    return functools.partial(log_prob, **options)


test_flow_log_prob = judged(
    checks.check_flow_log_prob,
    [
        (log_prob, None),
        (log_prob_by_midpoints, None),
        (log_prob_with(sign=-1.0), "wrong sign"),
        (log_prob_with(trace=False), "missing"),
        (log_prob_with(at="start"), "at the point itself"),
        (log_prob_with(times="down"), "wrong way"),
        (log_prob_with(times="turned"), "wrong way"),
        (log_prob_with(width=False), "without the width"),
        (lambda *arguments: log_prob(*arguments) / 2, "off by"),
        (lambda *arguments: log_prob(*arguments).mean(), "shape"),
    ],
)


# ------------------------------------------------------------------------------------------------------- flow matching


def matching(velocity, x0, s, eps, *, sign=1.0, turned=False, told=None, shared=False, power=2):
    w = s[:, None]
    w = w[:1] if shared else w
    x = w * x0 + (1 - w) * eps if turned else (1 - w) * x0 + w * eps
    return (velocity(x, s if told is None else told(s)) - sign * (eps - x0)).abs().pow(power).sum(1)


def matching_with(**options):
    return functools.partial(matching, **options)


test_flow_matching_loss = judged(
    checks.check_flow_matching_loss,
    [
        (matching, None),
        (lambda *arguments: matching(*arguments).mean() / 2, None),
        (velocities.flow_matching_loss, None),
        (lambda velocity, x0, s, eps: torch.nn.functional.mse_loss(
            velocity(torch.lerp(x0, eps, s[:, None]), s), eps - x0), None),
        (matching_with(sign=-1.0), "wrong end"),
        (matching_with(turned=True), "wrong way"),
        (matching_with(told=lambda s: 1 - s), "another time"),
        (matching_with(shared=True), "does not see x_s"),
        (matching_with(power=1), "not proportional"),
        (lambda velocity, x0, s, eps: (velocity((1 - s[:, None]) * x0 + s[:, None] * eps, s) - eps).square().sum(1),
         "not the best one"),
        (lambda velocity, x0, s, eps: (eps - x0).square().sum(1), "never asked"),
    ],
)  # fmt: skip


def euler(velocity, x, steps, *, sign=-1.0, last=0, width=None, up=False):
    for i in range(steps, last, -1) if not up else range(steps):
        x = x + sign * velocity(x, torch.full((len(x),), i / steps)) / (width or steps)
    return x


def euler_with(**options):
    return functools.partial(euler, **options)


test_sample_flow = judged(
    checks.check_sample_flow,
    [
        (euler, None),
        (lambda velocity, x, n: velocities.sample_flow(velocity, x, steps=n), None),
        (euler_with(sign=1.0), "against it"),
        (euler_with(up=True), "at the start of each step"),
        (euler_with(last=1), "asked"),
        (euler_with(width=10), "how wide"),
        (lambda velocity, x, n: euler(lambda y, s: velocity(y, s - 1 / n), x, n), "at the start of each step"),
        (lambda velocity, x, n: x.sub_(velocity(x, 1.0)), "x1 itself was changed"),
    ],
)
