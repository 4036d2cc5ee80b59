"""Noise levels: the variance-preserving schedules of DDPM and the geometric levels of NCSN.

Index convention of the whole package: `t = 0` is the data and `t = T` the noise. Every table has T + 1 entries, with
`beta[0] == 0`, `alpha[0] == 1` and `alpha_bar[0] == 1`, so that `table[t]` is the paper's symbol with index t.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hw3utils.arguments import check_count, check_number, check_numbers, shown, some_of

# More steps than this are a mistake, and their tables would not fit into memory.
MAX_STEPS = 1_000_000
_FLOAT64_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A variance-preserving schedule: x_t = signal[t] * x_0 + noise[t] * eps.

    Make one with `linear_schedule`, `cosine_schedule`, `NoiseSchedule.from_beta` or `NoiseSchedule.from_alpha_bar`.
    Two schedules are equal when their betas are.

    Args:
        beta: variances of the single steps, T + 1 numbers, `beta[0] == 0`, the others in (0, 1).
        name: the name under which `schedule_from_card` rebuilds it.
        parameters: the arguments with which it is rebuilt.

    Attributes:
        T: number of steps.
        beta: float64, shape (T + 1,), q(x_t | x_{t-1}) = N(sqrt(1 - beta[t]) x_{t-1}, beta[t] I).
        alpha: 1 - beta.
        alpha_bar: running product of alpha, strictly decreasing from exactly 1.
        signal: sqrt(alpha_bar).
        noise: sqrt(1 - alpha_bar).

    Raises:
        ValueError: wrong shape, not finite, out of range, a beta too small for float64 to see in alpha_bar, or so much
            noise that 1 - alpha_bar[T] rounds to 1: then x_T holds nothing of the data.

    Source: Ho, Jain and Abbeel 2020, arXiv 2006.11239, section 2, equations 2 and 4.

    >>> schedule = linear_schedule()
    >>> schedule.T, round(float(schedule.alpha_bar[1000]), 9)
    (1000, 4.0358e-05)
    """

    beta: Tensor
    name: str = "custom"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    T: int = field(init=False)
    alpha: Tensor = field(init=False, repr=False)
    alpha_bar: Tensor = field(init=False, repr=False)
    signal: Tensor = field(init=False, repr=False)
    noise: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        beta = _table(self.beta, "beta")
        if len(beta) < 2:
            raise ValueError(f"beta has {len(beta)} entries, expected T + 1 with T of at least 1.")
        if beta[0] != 0:
            raise ValueError(f"beta[0] is {float(beta[0])}, expected 0 (t = 0 is the data).")
        _check_open_unit(beta[1:], "beta[1:]")
        alpha = 1 - beta
        alpha_bar = torch.cumprod(alpha, dim=0)
        if not 1 - alpha_bar[-1] < 1:
            raise ValueError(
                f"alpha_bar[T] is {float(alpha_bar[-1]):.3g}, expected at least {_FLOAT64_EPS:.1e}: in float64 x_T "
                "would hold nothing of the data. Take fewer steps or smaller betas."
            )
        if not bool((alpha_bar.diff() < 0).all()):
            raise ValueError(
                f"beta goes down to {float(beta[1:].min()):.3g}, expected at least {_FLOAT64_EPS:.1e}: in float64 a "
                "smaller one does not change alpha_bar."
            )
        values = {
            "beta": beta,
            "parameters": dict(self.parameters),
            "T": len(beta) - 1,
            "alpha": alpha,
            "alpha_bar": alpha_bar,
            "signal": alpha_bar.sqrt(),
            "noise": (1 - alpha_bar).sqrt(),
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)

    @classmethod
    def from_beta(cls, beta: Tensor | Sequence[float]) -> "NoiseSchedule":
        """Make a schedule from beta_1, ..., beta_T: T numbers in (0, 1), without beta_0 = 0."""
        beta = _table(beta, "beta")
        return cls(torch.cat([beta.new_zeros(1), beta]))

    @classmethod
    def from_alpha_bar(cls, alpha_bar: Tensor | Sequence[float]) -> "NoiseSchedule":
        """Make a schedule from alpha_bar_0, ..., alpha_bar_T: T + 1 numbers above 0, strictly decreasing from 1.

        Raises:
            ValueError: other numbers; a table that ends with 0 (zero terminal SNR), at which noise prediction says
                nothing of the data.
        """
        alpha_bar = _table(alpha_bar, "alpha_bar")
        if len(alpha_bar) < 2 or alpha_bar[0] != 1:
            raise ValueError(f"alpha_bar is {some_of(alpha_bar.tolist())}, expected two or more numbers, the first 1.")
        if alpha_bar[-1] == 0:
            raise ValueError(
                "the last entry of alpha_bar is 0 (zero terminal SNR), expected a number above 0: there the predicted "
                "noise says nothing of the data, and only a sampler for v-prediction can use such a table."
            )
        if not (bool((alpha_bar.diff() < 0).all()) and alpha_bar[-1] > 0):
            raise ValueError(
                f"alpha_bar is {some_of(alpha_bar.tolist())}, expected strictly decreasing numbers above 0."
            )
        return cls.from_beta(1 - alpha_bar[1:] / alpha_bar[:-1])

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar), float64, shape (T + 1,); inf at t = 0."""
        return self.alpha_bar / (1 - self.alpha_bar)

    def card(self) -> dict[str, Any]:
        """Describe the schedule in a JSON-serialisable dict, from which `schedule_from_card` makes it again."""
        if self.name in _MAKERS:
            return {"name": self.name, **self.parameters}
        return {"name": "custom", "beta": self.beta[1:].tolist()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NoiseSchedule) and torch.equal(self.beta, other.beta)

    def __hash__(self) -> int:
        return hash(tuple(self.beta.tolist()))


def linear_schedule(T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> NoiseSchedule:
    """Make the schedule of DDPM: beta_t is linear in t, from beta_1 at t = 1 to beta_T at t = T.

    Args:
        T: number of steps, at least 1 (with T = 1 the only beta is beta_1).
        beta_1, beta_T: first and last variance, both in (0, 1).

    Returns:
        The schedule, in float64.

    Raises:
        ValueError: T is not an integer in 1..1,000,000, or a beta is out of (0, 1).

    Source: Ho, Jain and Abbeel 2020, arXiv 2006.11239, section 4.

    >>> linear_schedule().beta[[0, 1, 1000]].tolist()
    [0.0, 0.0001, 0.02]
    """
    T = check_count(T, "T", high=MAX_STEPS)
    ends = {
        "beta_1": check_number(beta_1, "beta_1", above=0, below=1),
        "beta_T": check_number(beta_T, "beta_T", above=0, below=1),
    }
    beta = torch.zeros(T + 1, dtype=torch.float64)
    beta[1:] = torch.linspace(ends["beta_1"], ends["beta_T"], T, dtype=torch.float64)
    return NoiseSchedule(beta, name="linear", parameters={"T": T, **ends})


def cosine_schedule(T: int = 1000, *, s: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
    """Make the schedule in which alpha_bar_t follows a squared cosine, with beta_t clipped at max_beta.

    Args:
        T: number of steps, in 1..1,000,000.
        s: offset that keeps beta_1 from being too small, above 0.
        max_beta: upper bound on beta_t, in (0, 1). alpha_bar is the product of the clipped alphas.

    Returns:
        The schedule, in float64.

    Raises:
        ValueError: T, s or max_beta out of range.

    Source: Nichol and Dhariwal 2021, arXiv 2102.09672, equation 17.
    """
    T = check_count(T, "T", high=MAX_STEPS)
    s, max_beta = check_number(s, "s", above=0), check_number(max_beta, "max_beta", above=0, below=1)
    u = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    beta = torch.zeros(T + 1, dtype=torch.float64)
    beta[1:] = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
    return NoiseSchedule(beta, name="cosine", parameters={"T": T, "s": s, "max_beta": max_beta})


_MAKERS: dict[str, Callable[..., NoiseSchedule]] = {"linear": linear_schedule, "cosine": cosine_schedule}


def schedule_from_card(card: Mapping[str, Any]) -> NoiseSchedule:
    """Rebuild the schedule that `NoiseSchedule.card` described.

    Args:
        card: a mapping with the key `name` ("linear", "cosine" or "custom") and the arguments of that schedule.

    Returns:
        An equal schedule.

    Raises:
        ValueError: unknown name, missing or unknown parameters, or parameters out of range.

    >>> schedule_from_card({"name": "linear", "T": 10}).T
    10
    """
    if not isinstance(card, Mapping) or "name" not in card:
        raise ValueError(f"the schedule card is {shown(card)}, expected a mapping with the key 'name'.")
    parameters = {key: value for key, value in card.items() if key != "name"}
    name = card["name"]
    if name == "custom":
        if set(parameters) != {"beta"}:
            raise ValueError(
                f"the card of a custom schedule has the keys {sorted(map(str, parameters))}, expected beta."
            )
        return NoiseSchedule.from_beta(parameters["beta"])
    if not isinstance(name, str) or name not in _MAKERS:
        raise ValueError(f"the schedule's name is {shown(name)}, expected one of {[*_MAKERS, 'custom']}.")
    try:
        return _MAKERS[name](**parameters)
    except TypeError:
        raise ValueError(f"the card of a {name} schedule has unknown keys in {sorted(map(str, parameters))}.") from None


def geometric_sigmas(sigma_max: float, sigma_min: float, n: int) -> Tensor:
    """Give n noise levels from sigma_max down to sigma_min, in geometric progression.

    Args:
        sigma_max, sigma_min: largest and smallest level, sigma_max > sigma_min > 0 (equal only when n is 1).
        n: number of levels, at least 1.

    Returns:
        float64, shape (n,), strictly decreasing, both ends exact.

    Raises:
        ValueError: levels not positive, not in decreasing order, or n not a positive integer.

    Source: Song and Ermon 2019, arXiv 1907.05600, section 4.2.

    >>> geometric_sigmas(8.0, 1.0, 4).tolist()
    [8.0, 4.0, 2.0, 1.0]
    """
    n = check_count(n, "n", high=MAX_STEPS)
    high, low = check_number(sigma_max, "sigma_max"), check_number(sigma_min, "sigma_min", above=0)
    if (n > 1 and high <= low) or (n == 1 and high != low):
        order = "larger than sigma_min" if n > 1 else "equal to sigma_min for a single level"
        raise ValueError(f"sigma_max is {high} and sigma_min {low}, expected sigma_max {order}.")
    sigmas = torch.logspace(math.log2(high), math.log2(low), n, base=2, dtype=torch.float64)
    sigmas[0], sigmas[-1] = high, low
    if not bool((sigmas.diff() < 0).all()):
        raise ValueError(f"{n} levels from {high} to {low} are not all different in float64, expected fewer levels.")
    return sigmas


def check_schedule(schedule: Any) -> None:
    """Raise ValueError unless this is a `NoiseSchedule`."""
    if not isinstance(schedule, NoiseSchedule):
        raise ValueError(f"schedule is {type(schedule).__name__}, expected a NoiseSchedule.")


def _table(values: Any, name: str) -> Tensor:
    """Copy a sequence of numbers to a one-dimensional finite float64 tensor on the CPU."""
    table = check_numbers(values, name, expected="a sequence of numbers")
    if table.ndim != 1:
        raise ValueError(f"{name} has shape {tuple(table.shape)}, expected one dimension.")
    return table


def _check_open_unit(table: Tensor, name: str) -> None:
    """Raise unless every entry lies strictly between 0 and 1."""
    if not bool(((table > 0) & (table < 1)).all()):
        low, high = float(table.min()), float(table.max())
        raise ValueError(f"{name} lies in [{low}, {high}], expected numbers between 0 and 1, both excluded.")
