"""Training losses, one value per sample: reduce them outside, with the weights you want."""

from torch import Tensor

from hw3utils.diffusion import EpsModel, check_data, check_times, perturb_input, predict_eps
from hw3utils.schedules import NoiseSchedule


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
