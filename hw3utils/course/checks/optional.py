"""Checks of exercises without points: the posterior as code, the time embedding, classifier-free guidance."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hw3utils.course.checks.building_blocks import as_tensor, fresh_generator, relative_error, require
from hw3utils.schedules import NoiseSchedule, cosine_schedule, linear_schedule


def check_posterior(
    posterior: Callable[[float, float, int, NoiseSchedule], Any], *, generator: torch.Generator | None = None
) -> float:
    """Judge `my_posterior(x0, x_t, t, schedule)`, Q1.T2, against Bayes' rule on a grid.

    Args:
        posterior: returns mean and variance of q(x_{t-1} | x_t, x_0) for numbers x0 and x_t, t in 2..T.
        generator: source of the random input.

    Returns:
        The largest error of mean (in standard deviations) and variance (relative).
    """
    generator = fresh_generator(generator)
    worst = 0.0
    for schedule in (linear_schedule(), linear_schedule(40, 0.0025, 0.4), cosine_schedule(100)):
        for _ in range(4):
            t = int(torch.randint(2, schedule.T + 1, (), generator=generator))
            x0, x_t = torch.randn(2, generator=generator, dtype=torch.float64).tolist()
            answer = posterior(x0, x_t, t, schedule)
            require(
                isinstance(answer, tuple | list) and len(answer) == 2,
                f"my_posterior returned {type(answer).__name__}, expected two numbers: the mean and the variance.",
            )
            mean, variance = (float(as_tensor(part, "a result of my_posterior", ())) for part in answer)
            require(variance > 0, f"the variance at t = {t} is {variance:g}, expected a number above 0.")
            want_mean, want_variance = _bayes_on_a_grid(x0, x_t, t, schedule)
            require(
                abs(variance / want_variance - 1) < 1e-3,
                f"the variance at t = {t} is {variance:g}, Bayes' rule on a grid gives {want_variance:g}.",
            )
            error = abs(mean - want_mean) / math.sqrt(want_variance)
            require(error < 1e-2, f"the mean at t = {t} is {mean:g}, Bayes' rule on a grid gives {want_mean:g}.")
            worst = max(worst, error, abs(variance / want_variance - 1))
    return worst


def _bayes_on_a_grid(x0: float, x_t: float, t: int, schedule: NoiseSchedule) -> tuple[float, float]:
    """Mean and variance of q(x_t | x_{t-1}) q(x_{t-1} | x_0), normalised over x_{t-1} on a grid."""
    alpha, beta, signal = (table.item() for table in (schedule.alpha[t], schedule.beta[t], schedule.signal[t - 1]))
    spread = schedule.noise[t - 1].item()
    # Both factors are Gaussian in x_{t-1}; the product lies within ten of the narrower one's standard deviations.
    width = min(math.sqrt(beta / alpha), spread)
    centre = x_t / math.sqrt(alpha) if math.sqrt(beta / alpha) < spread else signal * x0
    half = 12 * width + abs(x_t / math.sqrt(alpha) - signal * x0)
    z = centre + half * torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    log_p = -((x_t - math.sqrt(alpha) * z) ** 2) / (2 * beta) - (z - signal * x0) ** 2 / (2 * spread**2)
    p = torch.softmax(log_p, 0)
    mean = float((p * z).sum())
    return mean, float((p * (z - mean) ** 2).sum())


def check_time_embedding(embedding: Callable[[Tensor, int], Any], *, generator: torch.Generator | None = None) -> float:
    """Judge `my_time_embedding(t, width)`: sines and cosines of t at width / 2 frequencies from 1 to 1 / 10,000.

    Both usual orders are right: first all sines, then all cosines (or the reverse), or in turn.

    Args:
        embedding: takes t int64 (B,) and an even width; returns (B, width).
        generator: source of the random input.

    Returns:
        The largest error of sin^2 + cos^2 and of the inner products, which depend on the difference of times only.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5.
    """
    generator = fresh_generator(generator)
    worst = 0.0
    for width, n in ((8, 5), (128, 3)):
        t = torch.randint(0, 1000, (n,), generator=generator)
        got = as_tensor(embedding(t.clone(), width), "the embedding", (n, width))
        zero = as_tensor(embedding(torch.zeros(1, dtype=torch.int64), width), "the embedding", (1, width))[0]
        ones = int((zero - 1).abs().lt(1e-6).sum())
        require(
            ones == width // 2 and int(zero.abs().lt(1e-6).sum()) == width // 2,
            "at t = 0 half of the entries must be 0 (sines) and half 1 (cosines).",
        )
        length = got.square().sum(1)
        require(
            bool((length - width / 2).abs().lt(1e-3 * width).all()),
            "sin^2 + cos^2 must be 1 at each frequency: each frequency needs both, of the same angle.",
        )
        sines = got[:, zero.abs() < 1e-6]
        candidates = []
        for last in (width // 2, width // 2 - 1):  # with or without the end point 1 / 10,000
            frequencies = 10_000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / last)
            want = (t[:, None].double() * frequencies).sin()
            candidates.append(float((sines - want).abs().max()))
        error = min(candidates)
        require(error < 1e-2, "the frequencies must fall from 1 to about 1 / 10,000 in geometric progression.")
        worst = max(worst, error, float((length - width / 2).abs().max()) / width)
    return worst


def check_guided(guided: Callable[[Tensor, Tensor, float], Any], *, generator: torch.Generator | None = None) -> float:
    """Judge `my_guided(eps_none, eps_label, w)`: eps_none + w (eps_label - eps_none).

    Args:
        guided: takes the predictions without and with the label, shape (B, ...), and w; returns their combination.
        generator: source of the random input.

    Returns:
        The largest relative error.

    Source: Ho and Salimans 2022, arXiv 2207.12598, equation 6 (there w + 1 stands for our w).
    """
    generator = fresh_generator(generator)
    worst = 0.0
    for shape in ((4, 3, 8, 8), (5, 2)):
        none, label = (torch.randn(shape, generator=generator) for _ in range(2))
        for w in (0.0, 1.0, 3.0, float(torch.rand((), generator=generator))):
            got = as_tensor(guided(none.clone(), label.clone(), w), "the guided prediction", shape)
            want = (none + w * (label - none)).double()
            error = relative_error(got, want)
            other = relative_error(got, (none + (1 + w) * (label - none)).double())
            require(
                not other < 1e-5 < error,
                "this is the paper's convention, in which w = 0 is the plain label; here w = 1 is, and w = 0 no label.",
            )
            require(error < 1e-4, f"at w = {w:g} the combination is wrong: w = 0 gives eps_none and w = 1 eps_label.")
            worst = max(worst, error)
    return worst
