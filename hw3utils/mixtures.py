"""Gaussian mixtures: data whose density, score and noise predictor are known in closed form at every noise level.

If x is a mixture with means mu_k and covariances C_k, then signal * x + noise * eps is one with means signal mu_k and
covariances signal^2 C_k + noise^2 I. The eigenvectors of C_k do not change, so they are computed once.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hw3utils.arguments import check_count, check_data, check_number, check_numbers, shown, some_of
from hw3utils.diffusion import check_times, look_up
from hw3utils.schedules import NoiseSchedule, check_schedule


class GaussianMixture:
    """The density sum_k weights[k] N(x; means[k], covariances[k]) in D dimensions.

    Parameters are kept in float64 on the CPU and cast to the dtype and device of x; for float16 and bfloat16 the
    arithmetic is float32. Points are tensors of shape (..., D).

    Args:
        weights: K positive numbers that sum to 1 (to 1e-5).
        means: shape (K, D); shape (K,) is taken as D = 1.
        covariances: symmetric positive definite, shape (K, D, D); or the diagonals, shape (K, D); or isotropic
            variances, shape (K,), or one number for all.

    Attributes:
        weights: float64, shape (K,), summing to 1.
        means: float64, shape (K, D).
        dtype: of what `sample` returns: that of `means`, or torch's default dtype when that is not a tensor.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, invalid weights or covariances.

    >>> mixture = GaussianMixture([0.2, 0.8], [[-5.0, -5.0], [5.0, 5.0]], 1.0)
    >>> mixture.mean.tolist()
    [3.0, 3.0]
    """

    def __init__(
        self,
        weights: Tensor | Sequence[float],
        means: Tensor | Sequence[Sequence[float]],
        covariances: Tensor | Sequence[Any] | float,
    ) -> None:
        weights64, means64 = check_numbers(weights, "weights"), check_numbers(means, "means")
        if weights64.ndim != 1 or len(weights64) == 0:
            raise ValueError(f"weights has shape {tuple(weights64.shape)}, expected (K,) with K of at least 1.")
        if not bool((weights64 > 0).all()) or abs(float(weights64.sum()) - 1) > 1e-5:
            raise ValueError(f"weights is {some_of(weights64.tolist())}, expected positive numbers that sum to 1.")
        K = len(weights64)
        means64 = means64[:, None] if means64.ndim == 1 else means64
        if means64.ndim != 2 or len(means64) != K or means64.shape[1] == 0:
            raise ValueError(f"means has shape {tuple(means64.shape)}, expected ({K}, D), one row per weight.")
        dtype = means.dtype if isinstance(means, Tensor) and means.is_floating_point() else torch.get_default_dtype()
        variances, basis = _decompose(check_numbers(covariances, "covariances"), K, means64.shape[1])
        self._set(weights64 / weights64.sum(), means64, variances, basis, dtype)

    def _set(
        self, weights: Tensor, means: Tensor, variances: Tensor, basis: Tensor | None, dtype: torch.dtype
    ) -> "GaussianMixture":
        """Set the parameters: variances (K, D) along the columns of basis (K, D, D), None for the coordinate axes."""
        self.weights, self.means, self.dtype = weights, means, dtype
        self._variances, self._basis = variances, basis
        return self

    def _with(self, **changes: Any) -> "GaussianMixture":
        """Make a mixture from the parameters of this one, without decomposing covariances again."""
        parts = {
            "weights": self.weights,
            "means": self.means,
            "variances": self._variances,
            "basis": self._basis,
            "dtype": self.dtype,
        }
        return object.__new__(GaussianMixture)._set(**(parts | changes))

    def __repr__(self) -> str:
        return f"GaussianMixture(K={self.K}, D={self.D})"

    @property
    def K(self) -> int:
        """Number of components."""
        return self.means.shape[0]

    @property
    def D(self) -> int:
        """Number of dimensions."""
        return self.means.shape[1]

    @property
    def covariances(self) -> Tensor:
        """Covariances of the components, float64, shape (K, D, D)."""
        if self._basis is None:
            return torch.diag_embed(self._variances)
        return (self._basis * self._variances[:, None, :]) @ self._basis.mT

    @property
    def mean(self) -> Tensor:
        """Mean of the mixture, float64, shape (D,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """Covariance of the mixture, float64, shape (D, D): within the components plus between them."""
        centred = self.means - self.mean
        return torch.einsum("k,kij->ij", self.weights, self.covariances) + (self.weights * centred.T) @ centred

    def sample(self, n: int, generator: torch.Generator | None = None, *, dtype: torch.dtype | None = None) -> Tensor:
        """Draw n points.

        Args:
            n: number of points, at least 0.
            generator: source of the draws, None for torch's default generator.
            dtype: of the result, None for `self.dtype`.

        Returns:
            Points, shape (n, D), on the device of the generator.

        Raises:
            ValueError: n is not an integer of at least 0.
        """
        n = check_count(n, "n", low=0)
        device = torch.device("cpu") if generator is None else generator.device
        # Drawn in float64, then rounded: the points are the same whatever the dtype asked for.
        work = torch.float32 if device.type == "mps" else torch.float64
        u = torch.rand(n, generator=generator, dtype=work, device=device)
        z = torch.randn(n, self.D, generator=generator, dtype=work, device=device)
        edges = self.weights.cumsum(0)[:-1].to(work).to(device)
        k = torch.searchsorted(edges, u, right=True)
        offset = self._variances.sqrt().to(work).to(device)[k] * z
        if self._basis is not None:
            offset = torch.einsum("nij,nj->ni", self._basis.to(work).to(device)[k], offset)
        return (self.means.to(work).to(device)[k] + offset).to(self.dtype if dtype is None else dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Give the logarithm of the density.

        Args:
            x: points, shape (..., D), floating point.

        Returns:
            Natural logarithm of the density, shape (...).

        Raises:
            ValueError: x is not a floating-point tensor of that shape, or not finite.
        """
        return torch.logsumexp(self._joint(x)[0], dim=0).to(x.dtype).reshape(x.shape[:-1])

    def responsibilities(self, x: Tensor) -> Tensor:
        """Give the probability of each component at x of shape (..., D), shape (..., K); errors as in `log_prob`."""
        return torch.softmax(self._joint(x)[0], dim=0).T.to(x.dtype).reshape(*x.shape[:-1], self.K)

    def score(self, x: Tensor) -> Tensor:
        """Give the gradient of the log density, in closed form; differentiable in x.

        Args:
            x: points, shape (..., D), floating point.

        Returns:
            The score, shape of x.

        Raises:
            ValueError: x is not a floating-point tensor of that shape, or not finite.
        """
        return self._score(x, 1.0, 0.0)

    def perturbed(self, signal: float, noise: float) -> "GaussianMixture":
        """Give the mixture of signal * x + noise * eps: means signal mu_k, covariances signal^2 C_k + noise^2 I.

        Args:
            signal: factor on the data; sqrt(alpha_bar_t) for DDPM, 1 for NCSN.
            noise: standard deviation of what is added, at least 0; sqrt(1 - alpha_bar_t) for DDPM, sigma for NCSN.

        Returns:
            The perturbed mixture.

        Raises:
            ValueError: not finite, noise below 0, or both 0.
        """
        signal, noise = check_number(signal, "signal"), check_number(noise, "noise")
        if noise < 0:
            raise ValueError(f"noise is {noise}, expected a number of at least 0.")
        if signal == 0 and noise == 0:
            raise ValueError("signal and noise are both 0, expected at least one that is not.")
        return self._with(means=signal * self.means, variances=signal**2 * self._variances + noise**2)

    def posterior_mean(self, x: Tensor, signal: float | Tensor, noise: float | Tensor) -> Tensor:
        """Give the posterior mean E[x_0 | signal x_0 + noise eps = x], the exact x0 prediction.

        Args:
            x: noisy points, shape (..., D), floating point.
            signal, noise: numbers, or tensors of the shape (...) of the points, as in `perturbed`.

        Returns:
            The mean of the clean point, shape of x.

        Raises:
            ValueError: shapes that do not fit.
        """
        signal, noise = (_level(value, x, name) for value, name in ((signal, "signal"), (noise, "noise")))
        joint, y, perturbed = self._joint(x, signal, noise)
        _, means, variances, basis = self._cast(x)
        shift = _flatten_level(signal) * variances[..., None] / perturbed * y
        means_given_x = means[..., None] + (shift if basis is None else basis @ shift)
        return _weighted_mean(joint, means_given_x, x)

    def eps_model(self, schedule: NoiseSchedule) -> Callable[[Tensor, int | Tensor], Tensor]:
        """Make the exact noise predictor: eps(x_t, t) = -noise_t * score of the mixture perturbed to time t.

        Args:
            schedule: noise schedule.

        Returns:
            A callable (x_t, t) -> eps. x_t has shape (B, ...) with D entries per sample, and t, in 1..T, is a number or
            an integer tensor (B,), whose steps may all differ. eps has the shape of x_t.

        Raises:
            ValueError: (from the callable) shapes that do not fit, or t out of range.

        Source: Song et al. 2021, arXiv 2011.13456, section 3; Ho, Jain and Abbeel 2020, arXiv 2006.11239, section 3.2.
        """
        check_schedule(schedule)

        def eps_model(x_t: Tensor, t: int | Tensor) -> Tensor:
            flat = _flat(x_t, self.D)
            steps = check_times(t, flat, schedule)
            wide = flat.to(_arithmetic(flat))
            signal, noise = look_up(schedule.signal, steps, wide), look_up(schedule.noise, steps, wide)
            return (-noise * self._score(wide, signal, noise)).to(x_t.dtype).reshape(x_t.shape)

        return eps_model

    def score_model(self) -> Callable[[Tensor, float | Tensor], Tensor]:
        """Make the exact noise-conditional score: score(x, sigma) is the score of the data plus N(0, sigma^2 I).

        Returns:
            A callable (x, sigma) -> score. x has shape (..., D); sigma, at least 0, is a number or a tensor with one
            entry per point.

        Raises:
            ValueError: (from the callable) shapes that do not fit.

        Source: Song and Ermon 2019, arXiv 1907.05600, section 3.1 (variance exploding).
        """

        def score(x: Tensor, sigma: float | Tensor) -> Tensor:
            return self._score(x, 1.0, _level(sigma, x, "sigma"))

        return score

    def _cast(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Weights, means, variances and basis in the dtype of the arithmetic and on the device of x."""
        weights, means, variances = (
            part.to(_arithmetic(x)).to(x.device) for part in (self.weights, self.means, self._variances)
        )
        basis = None if self._basis is None else self._basis.to(_arithmetic(x)).to(x.device)
        return weights, means, variances, basis

    def _joint(
        self, x: Tensor, signal: float | Tensor = 1.0, noise: float | Tensor = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give log(w_k N_k(x)) of the perturbed mixture, and along its axes x - signal mu_k and the variances.

        signal and noise are numbers or tensors (..., 1). The N points are the last dimension: so the short sums over
        axes and components are fast. Shapes: (K, N), (K, D, N), and (K, D, N) or, for numbers, (K, D, 1).
        """
        _check_points(x, self.D)
        weights, means, variances, basis = self._cast(x)
        signal, noise = _flatten_level(signal), _flatten_level(noise)
        y = x.to(_arithmetic(x)).reshape(-1, self.D).T - signal * means[..., None]
        if basis is not None:
            y = basis.mT @ y
        perturbed = signal**2 * variances[..., None] + noise**2
        log_density = -0.5 * (y.square() / perturbed + perturbed.log()).sum(1) - 0.5 * self.D * math.log(2 * math.pi)
        return weights.log()[:, None] + log_density, y, perturbed

    def _score(self, x: Tensor, signal: float | Tensor, noise: float | Tensor) -> Tensor:
        joint, y, perturbed = self._joint(x, signal, noise)
        basis = self._cast(x)[3]
        residual = y / perturbed  # weighted by the precision
        return -_weighted_mean(joint, residual if basis is None else basis @ residual, x)


def reverse_conditional(mixture: GaussianMixture, x_t: Tensor, t: int, schedule: NoiseSchedule) -> GaussianMixture:
    """Give the exact reverse step q(x_{t-1} | x_t) for mixture data: again a mixture, Gaussian only if K = 1.

    q(x_{t-1} | x_t) is proportional to q(x_{t-1}) N(x_t; sqrt(alpha_t) x_{t-1}, beta_t I). Component k of q(x_{t-1}),
    with mean m and covariance C, gives a component with the covariance (C^-1 + alpha_t / beta_t I)^-1, and its weight
    grows with its density at x_t.

    Args:
        mixture: the density of x_0.
        x_t: one point, D entries.
        t: the step, in 1..T.
        schedule: noise schedule.

    Returns:
        The density of x_{t-1} given x_t.

    Raises:
        ValueError: x_t is not one finite point, or t is out of range.

    Source: Bayes' rule; Sohl-Dickstein et al. 2015, section 2.2 (Gaussian in the limit of small beta_t).
    """
    x = check_numbers(x_t, "x_t").reshape(-1)
    if len(x) != mixture.D:
        raise ValueError(f"x_t has {len(x)} entries, expected one point of {mixture.D}.")
    check_schedule(schedule)
    t = check_count(t, "t", high=schedule.T)
    alpha, beta = schedule.alpha[t].item(), schedule.beta[t].item()
    before = mixture.perturbed(schedule.signal[t - 1].item(), schedule.noise[t - 1].item())
    joint, y, marginal = before._joint(x, math.sqrt(alpha), math.sqrt(beta))
    shift = before._variances[..., None] * math.sqrt(alpha) / marginal * y
    shift = shift if before._basis is None else before._basis @ shift
    variances = before._variances * beta / marginal[..., 0]
    return before._with(weights=torch.softmax(joint[:, 0], 0), means=before.means + shift[..., 0], variances=variances)


def student_mixture(student_number: int | str) -> GaussianMixture:
    """Make the two-dimensional mixture of two isotropic Gaussians that belongs to a student's number.

    The light component has a weight uniform in [0.15, 0.25]; the means are (-5, 5) and (5, -5), or (5, 5) and (-5, -5);
    the variances are uniform in [1, 2]; which component is the light one is drawn too. All draws come from the SHA-256
    of the number, so they do not depend on the machine or on any version.

    Args:
        student_number: an integer of at least 0, or a string of 1 to 20 digits; leading zeros are ignored.

    Returns:
        The mixture; its samples are float32.

    Raises:
        ValueError: not such a number.

    >>> student_mixture(810100000).K
    2
    """
    number = _student(student_number)
    weight, diagonal, light, *variances = (_uniform(number, f"mixture {i}") for i in range(5))
    light_weight = 0.15 + 0.1 * weight
    weights = [light_weight, 1 - light_weight] if light < 0.5 else [1 - light_weight, light_weight]
    first = [-5.0, 5.0] if diagonal < 0.5 else [5.0, 5.0]
    means = torch.tensor([first, [-value for value in first]], dtype=torch.float32)
    return GaussianMixture(weights, means, [1 + variance for variance in variances])


def student_data(student_number: int | str) -> tuple[Tensor, Tensor]:
    """Draw the 5,000 points of a student's mixture: 80 % for training, the rest for testing.

    Args:
        student_number: as in `student_mixture`.

    Returns:
        Training points (4000, 2) and test points (1000, 2), float32.

    Raises:
        ValueError: not such a number.
    """
    seed = int(_uniform(_student(student_number), "data") * 2**32)
    points = student_mixture(student_number).sample(5000, torch.Generator().manual_seed(seed))
    return points[:4000].clone(), points[4000:].clone()


def _student(student_number: Any) -> int:
    """Check a student's number and return it as an int."""
    digits = student_number.strip() if isinstance(student_number, str) else student_number
    if isinstance(digits, str) and digits.isdecimal() and len(digits) <= 20:
        digits = int(digits)
    try:
        return check_count(digits, "student_number", low=0, high=10**20 - 1)
    except ValueError:
        raise ValueError(f"student_number is {shown(student_number)}, expected a number of 1 to 20 digits.") from None


def _uniform(number: int, purpose: str) -> float:
    """Give a number in [0, 1) that depends on the student's number and the purpose only."""
    digest = hashlib.sha256(f"{number} {purpose}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _decompose(covariances: Tensor, K: int, D: int) -> tuple[Tensor, Tensor | None]:
    """Turn covariances of any accepted shape into variances (K, D) along the columns of a basis (K, D, D) or None."""
    shape, basis = tuple(covariances.shape), None
    if shape == ():
        variances = covariances.expand(K, D)
    elif shape == (K,):
        variances = covariances[:, None].expand(K, D)
    elif shape == (K, D):
        variances = covariances
    elif shape == (K, D, D):
        scale = covariances.abs().amax((1, 2), keepdim=True)
        if not bool(((covariances - covariances.mT).abs() <= 1e-6 * scale).all()):
            raise ValueError("covariances are not symmetric, expected symmetric positive definite matrices.")
        variances = covariances.diagonal(dim1=1, dim2=2)
        if not torch.equal(covariances, torch.diag_embed(variances)):
            variances, basis = torch.linalg.eigh((covariances + covariances.mT) / 2)
    else:
        raise ValueError(f"covariances has shape {shape}, expected ({K}, {D}, {D}), ({K}, {D}), ({K},) or ().")
    if not bool((variances > 0).all()):
        raise ValueError(f"covariances have an eigenvalue {float(variances.min()):.6g}, expected all above 0.")
    return variances.clone(), basis


def _check_points(x: Any, D: int) -> None:
    """Raise ValueError unless x is a floating-point tensor (..., D) of finite numbers."""
    check_data(x, "x")
    if x.ndim == 0 or x.shape[-1] != D:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (..., {D}).")


def _flat(x: Any, D: int) -> Tensor:
    """Reshape (B, ...) with D entries per sample to (B, D)."""
    if not isinstance(x, Tensor) or x.ndim < 2 or math.prod(x.shape[1:]) != D:
        got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x_t has {got}, expected (B, ...) with {D} entries per sample.")
    return x.reshape(x.shape[0], D)


def _level(value: Any, x: Tensor, name: str) -> float | Tensor:
    """Give a noise level as a number, or as a tensor (..., 1) that broadcasts against x of shape (..., D)."""
    if not isinstance(value, Tensor):
        return check_number(value, name)
    if value.ndim and value.shape != x.shape[:-1]:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected () or {tuple(x.shape[:-1])}.")
    value = value.to(_arithmetic(x)).to(x.device)
    return value[..., None] if value.ndim else value.reshape([1] * x.ndim)


def _flatten_level(level: float | Tensor) -> float | Tensor:
    """Reshape a level that broadcasts against (..., D) so that it broadcasts against (K, D, N)."""
    return level.reshape(-1) if isinstance(level, Tensor) else level


def _weighted_mean(joint: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """Average values (K, D, N) over the components by their responsibilities; shape and dtype of the points x."""
    return (torch.softmax(joint, dim=0)[:, None] * values).sum(0).T.contiguous().view(x.shape).to(x.dtype)


def _arithmetic(x: Tensor) -> torch.dtype:
    """The dtype in which densities at x are computed: squares overflow float16, and bfloat16 has two digits."""
    return torch.promote_types(x.dtype, torch.float32)
