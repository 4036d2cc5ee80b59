"""The variational bound, term by term, in bits per dimension: estimated for any model, exact for Gaussian data."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hw3utils.arguments import check_count, check_data, check_number, shown
from hw3utils.diffusion import check_times, perturb_input, posterior_tables, x0_from_eps
from hw3utils.noise import EpsModel, Generators, InferenceModel, check_finite, gaussian_noise, working_dtype
from hw3utils.schedules import NoiseSchedule


@dataclass(frozen=True)
class BoundTerms:
    """The terms of the variational bound on -log p(x_0), in bits per dimension, averaged over the data.

    Attributes:
        terms: float64, shape (T + 1,). terms[T] is L_T, terms[t - 1] is L_{t-1} for t = 2..T, terms[0] is L_0.
        stderr: standard error of each, over the samples and noise draws; 0 where there is no Monte Carlo.
    """

    terms: Tensor
    stderr: Tensor

    @property
    def L_T(self) -> Tensor:
        """KL(q(x_T | x_0) || N(0, I)): how far x_T still is from pure noise."""
        return self.terms[-1]

    @property
    def L_t(self) -> Tensor:
        """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for t = 2..T, shape (T - 1,); entry 0 is t = 2."""
        return self.terms[1:-1]

    @property
    def L_0(self) -> Tensor:
        """-log p(x_0 | x_1): the last step, to the data."""
        return self.terms[0]

    @property
    def total(self) -> Tensor:
        """The bound: the sum of all terms."""
        return self.terms.sum()


def gaussian_decoder(x0: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Give -log N(x0; mean, variance) of each entry, in nats: L_0 for continuous data.

    Args:
        x0: data, floating point.
        mean, variance: of p(x_0 | x_1), shapes that broadcast against x0.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, or a variance that is not positive.
    """
    _check_decoder(x0, mean, variance)
    return 0.5 * ((2 * math.pi * variance).log() + (x0 - mean).square() / variance)


def _check_decoder(x0: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Raise ValueError unless these are data and a Gaussian for each of their entries."""
    for value, name in ((x0, "x0"), (mean, "mean"), (variance, "variance")):
        check_data(value, name)
        try:
            torch.broadcast_shapes(value.shape, x0.shape)
        except RuntimeError:
            got = tuple(value.shape)
            raise ValueError(f"{name} has shape {got}, expected one that fits x0 of {tuple(x0.shape)}.") from None
    if not bool((variance > 0).all()):
        raise ValueError(f"variance goes down to {float(variance.min()):.6g}, expected positive numbers.")


def discrete_decoder(x0: Tensor, mean: Tensor, variance: Tensor, *, levels: int = 256) -> Tensor:
    """Give -log of the probability that N(mean, variance) puts on the bin of x0, in nats: L_0 for pictures.

    Args:
        x0: pictures with entries on the grid -1, -1 + 2 / (levels - 1), ..., 1.
        mean, variance: of p(x_0 | x_1).
        levels: number of grey levels; the first and last bin reach to infinity.

    Returns:
        Shape of x0. The probabilities of all bins sum to 1.

    Raises:
        ValueError: levels is not an integer of at least 2, x0 leaves [-1, 1], or as `gaussian_decoder`.

    Source: Ho, Jain and Abbeel 2020, arXiv 2006.11239, equation 13.
    """
    levels = check_count(levels, "levels", low=2)
    _check_decoder(x0, mean, variance)
    if not bool((x0.abs() <= 1 + 1e-6).all()):
        raise ValueError(f"x0 lies in [{float(x0.min())}, {float(x0.max())}], expected [-1, 1].")
    half = 1 / (levels - 1)
    std = variance.sqrt()
    upper, lower = (x0 + half - mean) / std, (x0 - half - mean) / std
    upper = torch.where(x0 > 1 - half, torch.inf, upper)
    lower = torch.where(x0 < -1 + half, -torch.inf, lower)
    # In the upper tail both probabilities round to 1: mirror them, so that they are small and their difference exact.
    mirror = lower > 0
    upper, lower = torch.where(mirror, -lower, upper), torch.where(mirror, -upper, lower)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    return -(log_upper + torch.log(-torch.expm1(log_lower - log_upper)))


Decoder = Callable[[Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def bound_terms(
    eps_model: EpsModel,
    x0: Tensor,
    schedule: NoiseSchedule,
    *,
    variance: str = "beta",
    decoder: Decoder = gaussian_decoder,
    n_draws: int = 1,
    generator: Generators = None,
) -> BoundTerms:
    """Estimate every term of the variational bound for a noise predictor, with T model calls per draw.

    L_T is exact for the given x0; the others are averages over x_t drawn from q(x_t | x_0).

    Args:
        eps_model: callable (x_t, t) -> eps; called without gradients, in eval mode.
        x0: data, shape (B, ...), floating point.
        schedule: noise schedule.
        variance: of p(x_{t-1} | x_t): "beta" (beta_t) or "posterior" (that of q(x_{t-1} | x_t, x_0)). Both take beta_1
            at t = 1, where the posterior variance is 0.
        decoder: function (x0, mean, variance) -> nats of each entry, for L_0: `gaussian_decoder` for continuous data,
            `discrete_decoder` for 8-bit pictures in [-1, 1].
        n_draws: number of x_t per sample and time step.
        generator: source of the noise, see `gaussian_noise`.

    Returns:
        The terms, in bits per dimension.

    Raises:
        ValueError: arguments out of range, or a model that returns another shape, NaN or infinity.

    Source: Ho, Jain and Abbeel 2020, arXiv 2006.11239, equations 5, 8 and 13; Nichol and Dhariwal 2021, arXiv
    2102.09672, equations 4 to 7.
    """
    check_data(x0, "x0")
    check_times(1, x0, schedule)
    if x0.ndim < 2 or x0.shape[0] == 0:
        raise ValueError(f"x0 has shape {tuple(x0.shape)}, expected (B, ...) with B of at least 1.")
    n_draws = check_count(n_draws, "n_draws")
    coef_x0, q_variance, p_variance = _model_variances(schedule, variance)
    model, work = InferenceModel(eps_model), working_dtype(x0)
    data = x0.to(work)
    rows = []
    for _ in range(n_draws):
        for t in range(1, schedule.T + 1):
            x_t = perturb_input(x0, t, gaussian_noise(x0, generator), schedule)
            eps = model.at(x_t, t).to(work)
            x0_hat = x0_from_eps(eps, x_t.to(work), schedule.signal[t].item(), schedule.noise[t].item())
            p = p_variance[t].item()
            if t == 1:
                nats = decoder(data, x0_hat, torch.full_like(data, p))
            else:
                shift2 = (coef_x0[t].item() * (data - x0_hat)).square()
                nats = _gaussian_kl(q_variance[t].item(), p, shift2)
            rows.append(nats.flatten(1).mean(1).cpu().to(torch.float64))
    values = torch.stack(rows).reshape(n_draws, schedule.T, -1).movedim(1, 0).flatten(1)
    check_finite(values, "a term of the bound is NaN or infinity, expected finite numbers: look at the eps_model.")
    abar = schedule.alpha_bar[-1].item()
    L_T = 0.5 * (abar * data.square().flatten(1).mean(1) - abar - math.log1p(-abar)).cpu().to(torch.float64)
    terms, stderr = torch.cat([values.mean(1), L_T.mean()[None]]), torch.cat([_stderr(values), _stderr(L_T[None])])
    return BoundTerms(terms / math.log(2), stderr / math.log(2))


def gaussian_bound_terms(
    schedule: NoiseSchedule, *, mean: float = 0.0, std: float = 1.0, variance: str = "beta"
) -> BoundTerms:
    """Give every term of the bound in closed form, for data N(mean, std^2) and the exact noise predictor.

    Then x_0 given x_t has the variance e_t = std^2 (1 - abar_t) / (abar_t std^2 + 1 - abar_t), which is also the mean
    squared error of the predicted data, and that is all the terms need. The decoder of L_0 is `gaussian_decoder`.

    Args:
        schedule: noise schedule.
        mean, std: of each dimension of the data, std above 0.
        variance: of p(x_{t-1} | x_t), "beta" or "posterior", see `bound_terms`.

    Returns:
        The terms, in bits per dimension; their sum is at least the entropy of the data, log2(2 pi e std^2) / 2.

    Raises:
        ValueError: std is not above 0, or unknown variance.

    Source: Ho, Jain and Abbeel 2020, arXiv 2006.11239, equations 5 and 8, with Gaussian data substituted.

    >>> from hw3utils.schedules import linear_schedule
    >>> f"{gaussian_bound_terms(linear_schedule()).L_T:.1e}"
    '2.9e-05'
    """
    mean, std = check_number(mean, "mean"), check_number(std, "std", above=0)
    coef_x0, q_variance, p_variance = _model_variances(schedule, variance)
    abar = schedule.alpha_bar
    error = std**2 * (1 - abar) / (abar * std**2 + 1 - abar)
    terms = torch.empty_like(abar)
    for t in range(2, schedule.T + 1):
        terms[t - 1] = _gaussian_kl(q_variance[t].item(), p_variance[t].item(), coef_x0[t] ** 2 * error[t])
    terms[0] = 0.5 * ((2 * math.pi * p_variance[1]).log() + error[1] / p_variance[1])
    terms[-1] = 0.5 * (abar[-1] * (mean**2 + std**2) - abar[-1] - (-abar[-1]).log1p())
    return BoundTerms(terms / math.log(2), torch.zeros_like(terms))


def _model_variances(schedule: NoiseSchedule, variance: str) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficient of x_0 in the posterior mean, posterior variance, and the model's variance, for t = 0..T."""
    if not isinstance(variance, str) or variance not in ("beta", "posterior"):
        raise ValueError(f"variance is {shown(variance)}, expected 'beta' or 'posterior'.")
    coef_x0, _, q_variance = posterior_tables(schedule)
    p_variance = (schedule.beta if variance == "beta" else q_variance).clone()
    p_variance[1] = schedule.beta[1]
    return coef_x0, q_variance, p_variance


def _gaussian_kl(q: float, p: float, shift2: Tensor) -> Tensor:
    """KL(N(m, q) || N(m + shift, p)) in nats, for variances q and p."""
    return 0.5 * (q / p - 1 - math.log(q / p) + shift2 / p)


def _stderr(values: Tensor) -> Tensor:
    """Standard error of the mean of each row; 0 for a single value."""
    n = values.shape[1]
    return values.std(1) / math.sqrt(n) if n > 1 else torch.zeros_like(values[:, 0])
