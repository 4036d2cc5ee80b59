"""The time grid of a sampler: the time steps of the schedule that it uses, from T down to 0."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from hw3utils.arguments import check_count, shown, some_of
from hw3utils.schedules import NoiseSchedule

Steps = int | Sequence[int] | Tensor | None
# log(signal / noise) below which "logsnr" makes no equal steps; the linear schedule ends at -5.06.
LOWEST_LOG_SNR = -5.1


def time_grid(T: int, S: int, spacing: str = "uniform", *, schedule: NoiseSchedule | None = None) -> Tensor:
    """Choose S steps down from T to 0.

    Args:
        T: where the grid starts, at least 1.
        S: number of steps, in 1..T.
        spacing: "uniform" (tau_i = T i / S, rounded), "quadratic" (tau_i = T (i / S)^2, rounded, at least i), or
            "logsnr" (equal steps in log(signal / noise) to t = 1, rounded, then 0; needs `schedule`). Where the
            schedule ends below log(signal / noise) = -5.1, in nearly pure noise, the equal steps begin at -5.1, and the
            first step goes from T to the second of them.
        schedule: the noise schedule, for "logsnr" only.

    Returns:
        int64, shape (S + 1,), strictly decreasing, first entry T, last entry 0.

    Raises:
        ValueError: T or S out of range, unknown spacing, or "logsnr" without a schedule that reaches T.

    Source: Song, Meng and Ermon 2021, arXiv 2010.02502, appendix D.2 (uniform, quadratic); Lu et al. 2022, arXiv
    2206.00927, section 3.4 (log-SNR) and its code (`numerical_clip_alpha`, the limit of -5.1).

    >>> time_grid(1000, 4).tolist(), time_grid(1000, 4, "quadratic").tolist()
    ([1000, 750, 500, 250, 0], [1000, 563, 250, 63, 0])
    """
    T = check_count(T, "T")
    S = check_count(S, "S", high=T)
    i = torch.arange(S + 1)
    if spacing == "uniform":
        tau = (2 * T * i + S) // (2 * S)
    elif spacing == "quadratic":
        tau = torch.maximum((2 * T * i * i + S * S) // (2 * S * S), i)
    elif spacing == "logsnr":
        if schedule is None or schedule.T < T:
            got = "no schedule" if schedule is None else f"a schedule of {schedule.T} steps"
            raise ValueError(f"the spacing 'logsnr' got {got}, expected one with at least T = {T} steps.")
        lam = (schedule.signal[1 : T + 1] / schedule.noise[1 : T + 1]).log()
        end = max(float(lam[-1]), LOWEST_LOG_SNR)
        target = torch.linspace(float(lam[0]), end, S, dtype=torch.float64)
        target[-1] = end
        nearest = (lam[None] - target[:, None]).abs().argmin(1) + 1
        # Rounding may give one step twice: move the later one up, and stay far enough below T for those that follow.
        tau = torch.maximum(nearest - i[:-1], torch.ones(())).long().cummax(0).values + i[:-1]
        tau = torch.cat([i[:1], torch.minimum(tau, T - S + 1 + i[:-1])])
        tau[-1] = T
    else:
        raise ValueError(f"spacing is {shown(spacing)}, expected 'uniform', 'quadratic' or 'logsnr'.")
    return tau.flip(0)


def steps_to_grid(steps: Steps, start: int, spacing: str, schedule: NoiseSchedule) -> list[int]:
    """Turn the argument `steps` of a sampler into its time grid, the list [start, ..., 0]."""
    if steps is None:
        steps = start
    values = steps.tolist() if hasattr(steps, "tolist") else steps  # a tensor, an array, or plain Python
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        S = check_count(values, "steps", high=start)
        return time_grid(start, S, spacing, schedule=schedule).tolist()
    values = list(values)
    if not values:
        raise ValueError("steps is empty, expected at least one time step.")
    values = [check_count(value, "a time step", low=0, high=start) for value in values]
    # A grid as `time_grid` gives it, from T down to 0, is taken as well.
    if values[-1] == 0 and len(values) > 1:
        values.reverse()
    increasing = [0, *values] if values[0] != 0 else values
    if any(b <= a for a, b in itertools.pairwise(increasing)) or len(increasing) < 2:
        raise ValueError(f"steps is {some_of(values)}, expected strictly increasing time steps in 1..{start}.")
    if increasing[-1] != start:
        raise ValueError(f"the last of steps is {increasing[-1]}, expected {start}, where the chain starts.")
    return increasing[::-1]
