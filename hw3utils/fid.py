"""Distances between sets of pictures: FID and KID with standard errors, and to the nearest picture.

A distance depends on the features it is measured in, so print their name with every number. There are two: the standard
Inception network (`inception`), whose weights are downloaded, and a small classifier of the embedded sprites
(`sprites`), which is shipped. Numbers in different features cannot be compared.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image.kid import poly_mmd

from hw3utils import CallableModule
from hw3utils.arguments import check_count
from hw3utils.learning.features import feature_extractor
from hw3utils.noise import evaluating

sys.modules[__name__].__class__ = CallableModule  # `hw3utils.fid(...)` is the function

Pictures = np.ndarray | Tensor | Iterable[np.ndarray | Tensor]


# ------------------------------------------------------------------------------------------------------ the distance


def frechet_distance(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians, in float64.

        d^2 = |mean_1 - mean_2|^2 + tr(cov_1) + tr(cov_2) - 2 tr((cov_1^(1/2) cov_2 cov_1^(1/2))^(1/2))

    The last trace is the sum of the square roots of the eigenvalues of a symmetric matrix, so no matrix square root is
    taken and singular covariances need no special case.

    Args:
        mean_1, mean_2: means, shape (D,).
        cov_1, cov_2: covariances, symmetric, shape (D, D).

    Returns:
        The squared distance, at least 0, in squared units of the features.

    Raises:
        ValueError: when a shape does not fit, a matrix is not symmetric, or a value is not finite.

    Source: Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500, section 3 (the FID).

    >>> frechet_distance(torch.zeros(1), torch.eye(1), torch.ones(1), 4 * torch.eye(1))
    2.0
    """
    mean_1, cov_1 = _statistics(mean_1, cov_1, "1")
    mean_2, cov_2 = _statistics(mean_2, cov_2, "2")
    if mean_1.shape != mean_2.shape:
        raise ValueError(f"the two Gaussians have {len(mean_1)} and {len(mean_2)} dimensions, expected the same.")
    values, vectors = torch.linalg.eigh(cov_1)
    # The square root of an eigenvalue that is zero but for rounding is not small: leave those directions out.
    kept = values > len(values) * torch.finfo(torch.float64).eps * values.abs().max()
    root = vectors[:, kept] * values[kept].sqrt()
    overlap = torch.linalg.eigvalsh(root.mT @ cov_2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean_1 - mean_2).square().sum() + cov_1.trace() + cov_2.trace() - 2 * overlap
    return max(float(distance), 0.0)


def _statistics(mean: Tensor, cov: Tensor, which: str) -> tuple[Tensor, Tensor]:
    """Mean and covariance in float64 on the CPU; ValueError when they are invalid."""
    mean, cov = (torch.as_tensor(value).detach().cpu().double() for value in (mean, cov))
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise ValueError(
            f"mean_{which} has shape {tuple(mean.shape)} and cov_{which} {tuple(cov.shape)}, expected (D,) and (D, D)."
        )
    if not (mean.isfinite().all() and cov.isfinite().all()):
        raise ValueError(f"mean_{which} or cov_{which} holds NaN or infinity, expected finite numbers.")
    if not torch.allclose(cov, cov.mT, rtol=1e-4, atol=1e-6 * float(cov.abs().max())):
        raise ValueError(f"cov_{which} is not symmetric, expected a covariance matrix.")
    return mean, (cov + cov.mT) / 2


class FeatureStatistics:
    """Running mean and covariance of batches of feature vectors, in float64.

    Attributes:
        n: number of vectors.
        mean: float64 (D,).

    Source: Chan, Golub and LeVeque 1979, for the merging of two parts.

    >>> statistics = FeatureStatistics()
    >>> statistics.update(torch.tensor([[0.0], [2.0]]))
    >>> statistics.n, statistics.mean.tolist(), statistics.covariance.tolist()
    (2, [1.0], [[2.0]])
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance, float64 (D, D).

        Raises:
            ValueError: for fewer than two vectors.
        """
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 pictures, got {self.n}; give more.")
        return self._scatter / (self.n - 1)

    def update(self, features: Tensor) -> None:
        """Add a batch of vectors (B, D).

        Raises:
            ValueError: on another shape, another D than before, NaN or infinity.
        """
        if features.ndim != 2:
            raise ValueError(f"features have shape {tuple(features.shape)}, expected (B, D).")
        x = features.detach().double().cpu()
        if not bool(x.isfinite().all()):
            raise ValueError("the features hold NaN or infinity; look at the pictures, or at the feature network.")
        if len(x):
            mean = x.mean(0)
            centred = x - mean
            self._merge(len(x), mean, centred.mT @ centred)

    def merge(self, other: "FeatureStatistics") -> None:
        """Add the vectors of other statistics."""
        if other.n:
            self._merge(other.n, other.mean, other._scatter)

    def _merge(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        if self.n == 0:
            self.n, self.mean, self._scatter = n, mean.clone(), scatter.clone()
            return
        if mean.shape != self.mean.shape:
            raise ValueError(f"features have {len(mean)} dimensions, expected {len(self.mean)} as before.")
        total = self.n + n
        difference = mean - self.mean
        self._scatter = self._scatter + scatter + torch.outer(difference, difference) * (self.n * n / total)
        self.mean = self.mean + difference * (n / total)
        self.n = total


def merged(parts: Iterable[FeatureStatistics]) -> FeatureStatistics:
    """The statistics of all parts together."""
    together = FeatureStatistics()
    for part in parts:
        together.merge(part)
    return together


def distance_of(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """`frechet_distance` of two sets from their statistics."""
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


# --------------------------------------------------------------------------------------------------------- features


def picture_batches(pictures: Pictures, batch_size: int) -> Iterator[Tensor]:
    """Split pictures into batches for a feature network.

    Args:
        pictures: uint8 array (N, H, W, 3) or tensor (N, 3, H, W) (or array (N, 3, H, W)), or an iterable of such, so
            that a set larger than memory can be measured. Floating-point tensors are passed on as they are.
        batch_size: most pictures in a batch.

    Raises:
        ValueError: on another shape or kind, or when there is no picture.
    """
    check_count(batch_size, "batch_size")
    parts = [pictures] if isinstance(pictures, np.ndarray | Tensor) else pictures
    empty = True
    for part in parts:
        for batch in _channels_first(part).split(batch_size):
            if len(batch):
                empty = False
                yield batch
    if empty:
        raise ValueError("there is no picture, expected at least one.")


def _channels_first(part: Any) -> Tensor:
    if isinstance(part, np.ndarray) and part.dtype == np.uint8 and part.ndim == 4 and part.shape[3] == 3:
        return torch.from_numpy(np.ascontiguousarray(part.transpose(0, 3, 1, 2)))
    if isinstance(part, np.ndarray) and part.dtype == np.uint8 and part.ndim == 4 and part.shape[1] == 3:
        return torch.from_numpy(np.ascontiguousarray(part))
    if isinstance(part, Tensor) and part.ndim == 4 and part.shape[1] == 3:
        return part
    got = f"{getattr(part, 'dtype', type(part).__name__)} {tuple(getattr(part, 'shape', ()))}"
    raise ValueError(f"pictures are {got}, expected an array uint8 (N, H, W, 3) or a tensor (N, 3, H, W).")


@torch.no_grad()
def features_of(pictures: Pictures, extractor: str | nn.Module, *, batch_size: int = 250) -> Iterator[Tensor]:
    """Yield the feature vectors of pictures batch by batch, the network in evaluation mode (its mode is restored).

    Args:
        pictures: see `picture_batches`.
        extractor: a name of `feature_extractor`, or any module that takes a batch of pictures and returns (B, D).
        batch_size: pictures at once; changes memory, and the result by rounding only.

    Raises:
        ValueError: as `picture_batches` and `feature_extractor` do, and when a module returns another shape.
    """
    network = feature_extractor(extractor) if isinstance(extractor, str) else extractor
    device = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    for batch in picture_batches(pictures, batch_size):
        with evaluating(network):
            vectors = network(batch.to(device))
        if not isinstance(vectors, Tensor) or vectors.ndim != 2 or len(vectors) != len(batch):
            got = tuple(getattr(vectors, "shape", ())) or type(vectors).__name__
            raise ValueError(f"the feature network returned {got} for {len(batch)} pictures, expected (B, D).")
        yield vectors


def feature_statistics(
    pictures: Pictures, extractor: str | nn.Module = "sprites", *, batch_size: int = 250
) -> FeatureStatistics:
    """Mean and covariance of the features of pictures, batch by batch. Arguments and errors as in `features_of`."""
    statistics = FeatureStatistics()
    for vectors in features_of(pictures, extractor, batch_size=batch_size):
        statistics.update(vectors)
    return statistics


# ------------------------------------------------------------------------------------------------------ FID and KID


def fid(
    pictures_1: Pictures, pictures_2: Pictures, *, extractor: str | nn.Module = "sprites", batch_size: int = 250
) -> float:
    """Fréchet distance of two sets of pictures, between Gaussians with the mean and covariance of their features.

    It depends on the number of pictures (fewer make it larger) and on the features: numbers that differ in either
    cannot be compared. It does not depend on the order of the pictures or the batch size.

    Args:
        pictures_1, pictures_2: at least 2 pictures each, see `picture_batches`; processed batch by batch.
        extractor: "sprites", "inception", or any module (B, 3, H, W) -> (B, D).
        batch_size: pictures at once.

    Returns:
        The distance, at least 0, in squared units of the features.

    Raises:
        ValueError: on wrong pictures, or fewer than 2.
        ConnectionError: when the weights of "inception" cannot be downloaded.

    Source: Heusel et al. 2017, arXiv 1706.08500, equation 6.
    """
    network = feature_extractor(extractor) if isinstance(extractor, str) else extractor
    statistics = [feature_statistics(pictures, network, batch_size=batch_size) for pictures in (pictures_1, pictures_2)]
    return distance_of(*statistics)


class FrechetDistance:
    """FID of a stream of pictures, with the interface of torchmetrics' `FrechetInceptionDistance`.

    Running sums are float64 and the pictures are not kept, so sets larger than memory can be measured.

    Args:
        extractor: "sprites", "inception", or any module (B, 3, H, W) -> (B, D).
        reset_real_features: whether `reset` also forgets the real pictures; False to compare several sets with them.

    >>> import numpy as np
    >>> pictures = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    >>> metric = FrechetDistance()
    >>> metric.update(pictures[:20], real=True)
    >>> metric.update(pictures[20:], real=False)
    >>> bool(metric.compute() > 0)
    True
    """

    def __init__(self, extractor: str | nn.Module = "sprites", *, reset_real_features: bool = True) -> None:
        self.extractor = feature_extractor(extractor) if isinstance(extractor, str) else extractor
        self.reset_real_features = reset_real_features
        self.real, self.fake = FeatureStatistics(), FeatureStatistics()

    def update(self, images: Pictures, real: bool) -> None:
        """Add a batch of pictures, see `picture_batches`, to the real or to the generated ones.

        Raises:
            ValueError: as `features_of`.
        """
        (self.real if real else self.fake).merge(feature_statistics(images, self.extractor))

    def compute(self) -> float:
        """The distance of the real and the generated pictures so far.

        Raises:
            ValueError: for fewer than two of either.
        """
        return distance_of(self.real, self.fake)

    def reset(self) -> None:
        """Forget the generated pictures, and the real ones unless `reset_real_features` is False."""
        self.fake = FeatureStatistics()
        if self.reset_real_features:
            self.real = FeatureStatistics()


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    error: float


def kid(
    pictures_1: Pictures,
    pictures_2: Pictures,
    *,
    extractor: str | nn.Module = "sprites",
    subset_size: int = 500,
    batch_size: int = 250,
    seed: int | None = 0,
) -> Estimate:
    """Kernel distance of two sets of pictures: the unbiased squared MMD with the kernel (x.y / D + 1)^3.

    The sets are split into disjoint subsets; the value is the mean over the subsets and the error the standard error of
    this mean, which is valid because the subsets are independent. It may be negative when the sets are alike.

    Args:
        pictures_1, pictures_2: see `picture_batches`; processed batch by batch, two subsets in memory at a time.
        extractor: as in `fid`.
        subset_size: pictures of each set in a subset; fewer if the smaller set is too small for two subsets.
        batch_size: pictures at once.
        seed: decides the order in which arrays and tensors are taken, as they may be sorted; None keeps their order.
            Other iterables keep their order.

    Returns:
        (value, error).

    Raises:
        ValueError: as `fid`, and when a set has fewer than 4 pictures.

    Source: Binkowski et al. 2018, arXiv 1801.01401, section 4; the kernel MMD is that of torchmetrics.
    """
    check_count(subset_size, "subset_size", low=2)
    network = feature_extractor(extractor) if isinstance(extractor, str) else extractor
    seed = None if seed is None else check_count(seed, "seed", low=0)
    sets = [
        _shuffled(pictures, None if seed is None else seed + i) for i, pictures in enumerate((pictures_1, pictures_2))
    ]
    sizes = [len(pictures) for pictures in sets if isinstance(pictures, np.ndarray | Tensor)]
    if sizes and min(sizes) < 4:
        raise ValueError(f"KID got a set of {min(sizes)} pictures, expected at least 4.")
    subset_size = min([subset_size, *(size // 2 for size in sizes)])
    cut = [_subsets(features_of(part, network, batch_size=batch_size), subset_size) for part in sets]
    values = [float(poly_mmd(a, b)) for a, b in zip(*cut, strict=False)]
    if len(values) < 2:
        raise ValueError(f"KID got {len(values)} subsets of {subset_size} pictures, expected 2; take smaller subsets.")
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5))


def _shuffled(pictures: Pictures, seed: int | None) -> Pictures:
    """Arrays and tensors in random order, other iterables as they are."""
    if seed is None or not isinstance(pictures, np.ndarray | Tensor):
        return pictures
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))
    return pictures[order.numpy() if isinstance(pictures, np.ndarray) else order]


def _subsets(batches: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Groups of `size` vectors, float64; an incomplete last group is dropped."""
    kept: list[Tensor] = []
    for batch in batches:
        kept.append(batch.double().cpu())
        while sum(map(len, kept)) >= size:
            together = torch.cat(kept)
            kept = [together[size:]]
            yield together[:size]


# -------------------------------------------------------------------------------------------------- standard errors


def leave_one_out(groups: Sequence[FeatureStatistics], reference: FeatureStatistics) -> list[float]:
    """FID against a reference with each of at least 2 groups left out in turn.

    Raises:
        ValueError: on fewer than 2 groups.
    """
    if len(groups) < 2:
        raise ValueError(f"the jackknife got {len(groups)} groups, expected at least 2.")
    return [distance_of(merged([*groups[:i], *groups[i + 1 :]]), reference) for i in range(len(groups))]


def jackknife_error(without: Sequence[float]) -> float:
    """Standard error of an estimate from its values with each of the groups left out.

    For the difference of two estimates on paired groups, give the differences of their values.

    Raises:
        ValueError: on fewer than 2 values.

    Source: Efron 1982, "The jackknife, the bootstrap and other resampling plans", chapter 3.

    >>> round(jackknife_error([2.5, 2.0, 1.5]), 3)  # means of 1, 2, 3 with one left out: the error is 1 / sqrt(3)
    0.577
    """
    if len(without) < 2:
        raise ValueError(f"the jackknife got {len(without)} values, expected at least 2.")
    return ((len(without) - 1) * float(np.var(without))) ** 0.5


def at_infinity(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Extrapolate FIDs of growing sets to infinitely many pictures: the intercept of a line in 1 / N.

    Args:
        sizes: numbers of pictures, at least two different ones.
        values: the FID of each.

    Returns:
        The intercept.

    Raises:
        ValueError: when the lengths differ, or there are not two different sizes.

    Source: Chong and Forsyth 2020, arXiv 1911.07023, section 4.1.

    >>> round(at_infinity([100, 200, 400], [3 + 50 / n for n in (100, 200, 400)]), 6)
    3.0
    """
    if len(sizes) != len(values) or len(set(sizes)) < 2:
        raise ValueError(f"got {len(sizes)} sizes and {len(values)} values, expected as many, of two sizes or more.")
    return float(np.polynomial.Polynomial.fit(1 / np.asarray(sizes, float), values, 1).convert().coef[0])


@torch.no_grad()
def nearest_distances(pictures: np.ndarray, others: np.ndarray, *, chunk: int = 500) -> np.ndarray:
    """Distance of each picture to the nearest of the others: root of the mean squared difference of the channels.

    Args:
        pictures: uint8 (N, H, W, 3).
        others: uint8 (M, H, W, 3).
        chunk: pictures compared at once.

    Returns:
        float64 (N,), in levels of 0 to 255; 0 for a copy.

    Raises:
        ValueError: on another dtype or shape, different sizes, or no other picture.
    """
    for images in (pictures, others):
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
            got = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
            raise ValueError(f"pictures are {got}, expected arrays uint8 (N, H, W, 3).")
    chunk = check_count(chunk, "chunk")
    if pictures.shape[1:] != others.shape[1:] or not len(others):
        raise ValueError(
            f"pictures have shapes {pictures.shape} and {others.shape}, expected the same height and width."
        )
    # Sums of products of centred levels are exact in float32 below 2^24, in float64 for every picture that fits.
    exact = np.float32 if int(np.prod(pictures.shape[1:])) * 128**2 < 2**24 else np.float64
    a, b = (torch.from_numpy(x.reshape(len(x), -1).astype(exact) - 128) for x in (pictures, others))
    half = b.square().sum(1) / 2
    found = [torch.zeros(0, dtype=torch.float64)]
    for part in a.split(chunk):
        nearest = (half - part @ b.mT).argmin(1)
        found.append((part - b[nearest]).double().square().mean(1))
    return torch.cat(found).sqrt().numpy()
