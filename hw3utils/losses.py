"""Losses, one value per sample: noise prediction, and implicit, sliced and denoising score matching."""

from collections.abc import Callable

import torch
from torch import Tensor

from hw3utils.arguments import check_count, check_data, check_number
from hw3utils.diffusion import check_times, perturb_input
from hw3utils.noise import EpsModel, check_answer, differentiable, gaussian_noise, predict_eps
from hw3utils.schedules import NoiseSchedule

Score = Callable[[Tensor], Tensor]
Projection = Callable[[Tensor, torch.Generator | None], Tensor]


def noise_prediction_loss(
    eps_model: EpsModel, x0: Tensor, t: int | Tensor, eps: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """Measure how well the model predicts the noise in x_t: mean over the dimensions of (eps - eps_model(x_t, t))^2.

    Args:
        eps_model: callable (x_t, t) -> eps, differentiable if you train it.
        x0: data, shape (B, ...), floating point.
        t: step, or one step per sample (B,), in 1..T.
        eps: standard normal noise, shape, dtype and device of x0.
        schedule: noise schedule.

    Returns:
        The loss of each sample, shape (B,).

    Raises:
        ValueError: shapes or dtypes that do not fit, t out of range, NaN or infinity, a wrong model.

    Source: Ho, Jain and Abbeel 2020, arXiv 2006.11239, equation 14 (L_simple, with the mean over the dimensions in
    place of the sum).

    >>> import torch
    >>> from hw3utils.schedules import linear_schedule
    >>> noise_prediction_loss(lambda x, t: 0 * x, torch.zeros(2, 3), 5, torch.full((2, 3), 2.0), linear_schedule())
    tensor([4., 4.])
    """
    check_data(x0, "x0")
    if x0.ndim < 2:
        raise ValueError(f"x0 has shape {tuple(x0.shape)}, expected (B, ...) with at least one dimension per sample.")
    check_times(t, x0, schedule)
    x_t = perturb_input(x0, t, eps, schedule)
    error = eps - predict_eps(eps_model, x_t, t)
    return error.square().flatten(1).mean(1)


# ------------------------------------------------------------------------------------------------------ score matching


def _check_points(x: Tensor) -> Tensor:
    """Return points (B, D) without their graph, or raise ValueError."""
    check_data(x, "x")
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected points (B, D).")
    return x.detach()


def vector_jacobian(value: Tensor, x: Tensor, v: Tensor, *, create_graph: bool = False) -> Tensor:
    """Give v^T (d value / dx), shape of x; 0 where value does not depend on x."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    (product,) = torch.autograd.grad(
        value, x, v, create_graph=create_graph, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return product


def explicit_score_matching(score: Score, x: Tensor, true_score: Score) -> Tensor:
    """Measure half the squared distance to a known score: |score(x) - true_score(x)|^2 / 2.

    Args:
        score, true_score: callables x (B, D) -> (B, D).
        x: points, shape (B, D).

    Returns:
        The loss of each sample, shape (B,).

    Raises:
        ValueError: points or scores of a wrong shape, NaN or infinity in x.

    Source: Hyvarinen 2005, equation 2.
    """
    x = _check_points(x)
    difference = check_answer(score(x), x, "score") - check_answer(true_score(x), x, "true_score")
    return difference.square().sum(1) / 2


def implicit_score_matching(score: Score, x: Tensor) -> Tensor:
    """Measure tr(d score / dx) + |score|^2 / 2 with the exact trace, which takes D backward passes.

    Its mean over the data differs from that of `explicit_score_matching` by a constant that does not depend on the
    model.

    Args:
        score: differentiable callable x (B, D) -> (B, D) that treats each sample by itself.
        x: data, shape (B, D).

    Returns:
        The loss of each sample, shape (B,), differentiable by the parameters of the score.

    Raises:
        ValueError: points or a score of a wrong shape, NaN or infinity in x.

    Source: Hyvarinen 2005, equation 4.

    >>> implicit_score_matching(lambda x: -x, torch.tensor([[0.0, 2.0]])).tolist()
    [0.0]
    """
    with differentiable(_check_points(x)) as x:
        s = check_answer(score(x), x, "score")
        one = torch.ones_like(x[:, 0])
        rows = [vector_jacobian(s[:, i], x, one, create_graph=True)[:, i] for i in range(x.shape[1])]
        loss = torch.stack(rows).sum(0) + s.square().sum(1) / 2
    return loss if torch.is_grad_enabled() else loss.detach()


def gaussian_projection(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw directions v ~ N(0, I), shape of x; E[v v^T] = I."""
    return gaussian_noise(x, generator)


def rademacher_projection(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw directions with entries -1 or 1 of equal probability, shape of x; E[v v^T] = I."""
    return gaussian_noise(x, generator).sign()


def sphere_projection(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw directions from the sphere of radius sqrt(D), shape of x; E[v v^T] = I."""
    v = gaussian_noise(x, generator)
    return v * (x.shape[-1] ** 0.5 / v.norm(dim=-1, keepdim=True))


def sliced_score_matching(
    score: Score,
    x: Tensor,
    *,
    n_projections: int = 1,
    variance_reduced: bool = False,
    projection: Projection = gaussian_projection,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Measure v^T (d score / dx) v + (v^T score)^2 / 2 over random directions v: one backward pass whatever D is.

    An unbiased estimate of `implicit_score_matching`. The variance-reduced form, with |score|^2 / 2 itself, is another.

    Args:
        score: differentiable callable x (B, D) -> (B, D) that treats each sample by itself.
        x: data, shape (B, D).
        n_projections: directions for each sample, averaged.
        variance_reduced: replace (v^T score)^2 by its mean |score|^2 (SSM-VR).
        projection: draws the directions: `gaussian_projection`, `rademacher_projection` or `sphere_projection`.
        generator: source of the directions.

    Returns:
        The loss of each sample, shape (B,), differentiable by the parameters of the score.

    Raises:
        ValueError: points or a score of a wrong shape, NaN or infinity in x, n_projections below 1.

    Source: Song, Garg, Shi and Ermon 2019, arXiv 1905.07088, equations 7 and 8.
    """
    n = check_count(n_projections, "n_projections")
    with differentiable(_check_points(x)) as x:
        s = check_answer(score(x), x, "score")
        total = torch.zeros_like(s[:, 0])
        for _ in range(n):
            v = check_answer(projection(x.detach(), generator), x, "projection")
            v_dot_score = (s * v).sum(1)
            vjp_dot_v = (vector_jacobian(v_dot_score, x, torch.ones_like(v_dot_score), create_graph=True) * v).sum(1)
            total = total + vjp_dot_v + (s.square().sum(1) if variance_reduced else v_dot_score.square()) / 2
    return total / n if torch.is_grad_enabled() else total.detach() / n


def denoising_score_matching(
    score: Callable[[Tensor, float | Tensor], Tensor],
    x: Tensor,
    sigma: float | Tensor,
    *,
    sigma_weighted: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Measure |score(x + sigma z, sigma) + z / sigma|^2 / 2: its minimiser is the score of the perturbed data.

    Args:
        score: callable (x (B, D), sigma) -> (B, D).
        x: data, shape (B, D).
        sigma: noise level above 0, one number or one a sample (B,).
        sigma_weighted: multiply by sigma^2, so that all levels of a noise-conditional model have equal weight.
        generator: source of the noise.

    Returns:
        The loss of each sample, shape (B,).

    Raises:
        ValueError: points or a score of a wrong shape, NaN or infinity in x, a sigma that is not above 0.

    Source: Vincent 2011, equation 9; weighting: Song and Ermon 2019, arXiv 1907.05600, equations 5 and 6.
    """
    x = _check_points(x)
    level: float | Tensor
    if isinstance(sigma, Tensor) and sigma.ndim:
        if sigma.shape != x.shape[:1] or not bool((sigma > 0).all()):
            raise ValueError(f"sigma has shape {tuple(sigma.shape)}, expected {len(x)} levels above 0, one a sample.")
        level = sigma.to(x)[:, None]
    else:
        level = check_number(sigma, "sigma", above=0)
    z = gaussian_noise(x, generator)
    error = level * check_answer(score(x + level * z, sigma), x, "score") + z
    return (error if sigma_weighted else error / level).square().sum(1) / 2
