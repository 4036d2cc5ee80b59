"""Flow matching on straight paths from data to noise, and conversions between all predictions.

On the straight path x_s = (1 - s) x_0 + s eps, s runs from 0 (the data) to 1 (the noise), and a model is
`velocity(x, s) -> velocity` with s of shape (B,): the mean of eps - x_0 given x_s = x.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hw3utils.arguments import broadcast_to_batch, check_count, check_data, shown
from hw3utils.mixtures import GaussianMixture
from hw3utils.noise import EpsModel, InferenceModel, check_answer, model_times, predict_eps
from hw3utils.progress import last
from hw3utils.schedules import NoiseSchedule

Velocity = Callable[[Tensor, Tensor], Tensor]

# Each prediction is coef_x0 x_0 + coef_eps eps, with these coefficients at (signal, noise).
PREDICTIONS: dict[str, Callable[[Tensor, Tensor], tuple[float | Tensor, float | Tensor]]] = {
    "eps": lambda signal, noise: (0.0, 1.0),
    "x0": lambda signal, noise: (1.0, 0.0),
    "v": lambda signal, noise: (-noise, signal),
    "score": lambda signal, noise: (0.0, -1 / noise),
    "velocity": lambda signal, noise: (-1.0, 1.0),
}


def convert(
    value: Tensor, x: Tensor, signal: float | Tensor, noise: float | Tensor, *, given: str, wanted: str
) -> Tensor:
    """Turn one prediction at x = signal x_0 + noise eps into another; each pair of names has an exact inverse.

    "eps", "x0", "score" (-eps / noise), "v" (signal eps - noise x_0) and "velocity" (eps - x_0, the straight path's, on
    which x / (signal + noise) lies at s = noise / (signal + noise)) are combinations of x_0 and eps, and so is x: two
    equations give both unknowns.

    Args:
        value: the prediction, shape of x.
        x: noisy points, shape (B, ...).
        signal, noise: numbers, or one a sample (B,); noise above 0 wherever the score takes part.
        given, wanted: names of the predictions.

    Returns:
        The wanted prediction, shape of x.

    Raises:
        ValueError: unknown names, shapes that do not fit, NaN or infinity, or a level at which `given` does not
            determine the other unknown (x0 at noise 0, eps at signal 0).

    Source: Salimans and Ho 2022, arXiv 2202.00512, section 4 (v); Lipman et al. 2023, arXiv 2210.02747 (velocity).

    >>> one, x = torch.ones(1, 1), torch.full((1, 1), 2.0)
    >>> convert(one, x, 0.6, 0.8, given="eps", wanted="x0").item()
    2.0
    """
    check_data(x, "x")
    check_data(value, "the prediction", like=x)
    for name, word in (("given", given), ("wanted", wanted)):
        if not isinstance(word, str) or word not in PREDICTIONS:
            raise ValueError(f"{name} is {shown(word)}, expected one of {', '.join(PREDICTIONS)}.")
    if given == wanted:
        return value
    signal, noise = broadcast_to_batch(signal, x, "signal"), broadcast_to_batch(noise, x, "noise")
    coef_x0, coef_eps = PREDICTIONS[given](signal, noise)
    wanted_x0, wanted_eps = PREDICTIONS[wanted](signal, noise)
    determinant = coef_x0 * noise - coef_eps * signal
    if not bool((determinant.abs() > 0).all()) or (not bool((noise > 0).all()) and "score" in (given, wanted)):
        raise ValueError(f"at this signal and noise {given} does not determine {wanted}, expected other levels.")
    x0 = (noise * value - coef_eps * x) / determinant
    eps = (coef_x0 * x - signal * value) / determinant
    return wanted_x0 * x0 + wanted_eps * eps


def as_eps_model(model: Callable[[Tensor, Tensor], Tensor], schedule: NoiseSchedule, *, given: str) -> EpsModel:
    """Make an eps_model from a model with another prediction.

    Args:
        model: callable (x_t, t) -> prediction, shape of x_t.
        schedule: noise schedule.
        given: its prediction: "eps", "x0", "v", "score" or "velocity", see `convert`.

    Returns:
        A callable (x_t, t) -> eps.

    Raises:
        ValueError: (from the callable) unknown name, t out of range, or a prediction of another shape.
    """

    def eps_model(x_t: Tensor, t: int | Tensor) -> Tensor:
        steps = model_times(t, x_t).cpu()
        value = predict_eps(model, x_t, t)
        return convert(value, x_t, schedule.signal[steps], schedule.noise[steps], given=given, wanted="eps")

    return eps_model


def velocity_model(mixture: GaussianMixture) -> Velocity:
    """Make the exact velocity of a mixture on the straight path: (x - E[x_0 | x_s = x]) / s.

    Args:
        mixture: the density of x_0.

    Returns:
        A callable (x, s) -> velocity, x (B, D), s a number or (B,), in (0, 1].

    Raises:
        ValueError: (from the callable) shapes that do not fit, or s out of range.

    Source: Lipman et al. 2023, arXiv 2210.02747, section 3 (the marginal velocity is a posterior mean).
    """

    def velocity(x: Tensor, s: float | Tensor) -> Tensor:
        s = _times(s, x)
        if not bool((s > 0).all()):
            raise ValueError(f"s goes down to {float(s.min())}, expected times in (0, 1].")
        return (x - mixture.posterior_mean(x, 1 - s, s)) / s[:, None]

    return velocity


def flow_matching_loss(velocity: Velocity, x0: Tensor, s: float | Tensor, eps: Tensor) -> Tensor:
    """Measure how well a model predicts the velocity of single paths: mean over dimensions of |model - (eps - x_0)|^2.

    Its minimum is not 0, since eps - x_0 varies given x_s. The excess over the minimum is the squared distance to the
    exact velocity.

    Args:
        velocity: callable (x, s) -> velocity, differentiable if you train it.
        x0: data, shape (B, ...), floating point.
        s: time of each sample in 0..1, a number or (B,).
        eps: standard normal noise, or the other end of a path, shape of x0.

    Returns:
        The loss of each sample, shape (B,).

    Raises:
        ValueError: shapes or dtypes that do not fit, s out of range, NaN or infinity, a wrong model.

    Source: Lipman et al. 2023, arXiv 2210.02747, section 3.2; Liu, Gong and Liu 2023, arXiv 2209.03003, equation 1.

    >>> flow_matching_loss(lambda x, s: 0 * x, torch.zeros(1, 2), 0.5, torch.full((1, 2), 2.0)).tolist()
    [4.0]
    """
    check_data(x0, "x0")
    check_data(eps, "eps", like=x0)
    s = _times(s, x0)
    at = broadcast_to_batch(s, x0, "s")
    predicted = check_answer(velocity((1 - at) * x0 + at * eps, s), x0, "velocity")
    return (predicted - (eps - x0)).square().flatten(1).mean(1)


def _times(s: float | Tensor, x: Tensor) -> Tensor:
    """Times of the straight path, one a sample, in the dtype and on the device of x."""
    check_data(x, "x")
    s = torch.as_tensor(s, dtype=x.dtype, device=x.device)
    if x.ndim < 2 or s.shape not in ((), x.shape[:1]):
        raise ValueError(f"s has shape {tuple(s.shape)} for points {tuple(x.shape)}, expected one number or (B,).")
    if not bool(((s >= 0) & (s <= 1)).all()):
        raise ValueError(f"s lies in [{float(s.min())}, {float(s.max())}], expected times in 0..1.")
    return s.expand(len(x))


def sample_flow(velocity: Velocity, x1: Tensor, *, steps: int = 20, generator: torch.Generator | None = None) -> Tensor:
    """Integrate a velocity from noise at s = 1 to data at s = 0 by equal Euler steps, of order 1.

    Args:
        velocity: callable (x, s) -> velocity; called without gradients and in eval mode, at s = 1 down to 1 / steps.
        x1: initial state, shape (B, ...), normally standard normal noise.
        steps: number of steps, at least 1.
        generator: ignored, the solver draws nothing; taken so that all samplers are called alike.

    Returns:
        The state at s = 0, shape of x1. Trained again on the pairs (x1, this state), a model has straighter paths
        (reflow).

    Raises:
        ValueError: arguments out of range, or a model that returns another shape, NaN or infinity.

    Source: Liu, Gong and Liu 2023, arXiv 2209.03003, section 2 (there time runs from noise at 0 to data at 1).
    """
    return last(flow_steps(velocity, x1, steps=steps, generator=generator))


def flow_steps(
    velocity: Velocity, x1: Tensor, *, steps: int = 20, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """Yield the steps + 1 states of `sample_flow`, from x1 to s = 0."""
    n = check_count(steps, "steps")
    _times(1.0, x1)
    return _integrate(InferenceModel(velocity, "velocity"), x1, n)


@torch.no_grad()
def _integrate(velocity: InferenceModel, x: Tensor, n: int) -> Iterator[Tensor]:
    yield x
    for i in range(n, 0, -1):
        x = x - velocity(x, _times(i / n, x)) / n
        yield x


def straightness(velocity: Velocity, x1: Tensor, *, steps: int = 100) -> float:
    """Measure how curved the paths are: mean over points and time of |x_1 - x_0 - velocity|^2; 0 for straight paths.

    Args:
        velocity: callable (x, s) -> velocity.
        x1: initial states, shape (B, ...).
        steps: Euler steps of the paths.

    Returns:
        The mean, in units of x squared.

    Raises:
        ValueError: as `sample_flow`.

    Source: Liu, Gong and Liu 2023, arXiv 2209.03003, section 2.
    """
    states = torch.stack(list(flow_steps(velocity, x1, steps=steps)))
    moves = (states[:-1] - states[1:]) * steps
    return float((states[0] - states[-1] - moves).square().flatten(2).sum(2).mean())
