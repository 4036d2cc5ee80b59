"""Training objectives: the random draws of a step, and the loss computed from them."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hw3utils.arguments import check_number
from hw3utils.losses import implicit_score_matching, sliced_score_matching
from hw3utils.noise import gaussian_noise
from hw3utils.schedules import NoiseSchedule

Batch = tuple[Tensor, ...]


class Objective(Protocol):
    """A loss in two parts, the random draws and the deterministic rest, so that processes can share a random stream.

    `draw` makes all random draws for a batch; the first dimension of each tensor is the sample. Calling the objective
    with the network and the result of `draw` gives the loss of each sample, shape (B,).
    """

    def draw(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Make all random draws for a batch."""
        ...

    # Any arguments, for the type checker: an objective names those that its own draw returns.
    def __call__(self, network: nn.Module, /, *drawn: Any, **options: Any) -> Tensor:
        """Give the loss of each sample, (B,)."""
        ...


class DiffusionObjective:
    """The simple noise-prediction loss on pictures, with the label dropped at random.

    The batch is (pictures, labels) or (pictures,): uint8 pictures (B, C, H, W) are scaled to [-1, 1], floating-point
    ones are used as they are; labels are int64 (B,).

    Args:
        schedule: the noise schedule; t is drawn uniformly from 1..T.
        label_dropout: share of the labels replaced by "no label", `network.n_classes`.
        n_classes: the number that stands for "no label".

    Source: Ho et al. 2020, arXiv 2006.11239, equation 14; label dropout: Ho and Salimans 2022, arXiv 2207.12598.
    """

    def __init__(self, schedule: NoiseSchedule, *, label_dropout: float = 0.1, n_classes: int = 5) -> None:
        if not 0 <= check_number(label_dropout, "label_dropout") <= 1:
            raise ValueError(f"label_dropout is {label_dropout}, expected a number in [0, 1].")
        self.schedule, self.label_dropout, self.n_classes = schedule, label_dropout, n_classes
        self._tables: dict[torch.device, Tensor] = {}

    def tables(self, device: torch.device) -> Tensor:
        """Signal and noise levels as float32 (2, T + 1), copied to the device once."""
        if device not in self._tables:
            self._tables[device] = torch.stack([self.schedule.signal, self.schedule.noise]).float().to(device)
        return self._tables[device]

    def draw(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Pictures in [-1, 1], time steps, noise, and labels, some of them dropped."""
        pictures, *labels = batch
        x0 = pictures.float() / 127.5 - 1 if pictures.dtype == torch.uint8 else pictures
        b, device = len(x0), x0.device
        t = torch.randint(1, self.schedule.T + 1, (b,), generator=generator, device=device)
        eps = gaussian_noise(x0, generator)
        if not labels:
            return x0, t, eps
        dropped = torch.rand(b, generator=generator, device=device) < self.label_dropout
        return x0, t, eps, labels[0].masked_fill(dropped, self.n_classes)

    def __call__(self, network: nn.Module, x0: Tensor, t: Tensor, eps: Tensor, *label: Tensor) -> Tensor:
        """Mean squared error of the predicted noise of each picture, (B,)."""
        signal, noise = self.tables(x0.device).to(x0.dtype)[:, t].view(2, -1, *[1] * (x0.ndim - 1))
        return (network(signal * x0 + noise * eps, t, *label) - eps).square().flatten(1).mean(1)


class DenoisingObjective:
    """Denoising score matching, sigma^2 |score(x + sigma z, sigma) + z / sigma|^2 / 2, at one noise level or many.

    The batch is points (B, D). The weight sigma^2 gives all levels of a noise-conditional network losses of one size.

    Args:
        sigmas: one noise level, or levels of which each sample draws one evenly.

    Raises:
        ValueError: when a level is not above 0.

    Source: Vincent 2011, equation 9; Song and Ermon 2019, arXiv 1907.05600, equations 5 and 6.
    """

    def __init__(self, sigmas: float | Sequence[float] | Tensor) -> None:
        self.sigmas = torch.as_tensor(sigmas, dtype=torch.float32).reshape(-1)
        if not len(self.sigmas) or not bool((self.sigmas > 0).all()) or not bool(self.sigmas.isfinite().all()):
            raise ValueError(f"sigmas is {sigmas}, expected noise levels above 0.")

    def draw(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Points, a noise level for each, and noise."""
        [x] = batch
        index = torch.randint(len(self.sigmas), (len(x),), generator=generator, device=x.device)
        z = gaussian_noise(x, generator)
        return x, self.sigmas.to(x)[index], z

    def __call__(self, network: nn.Module, x: Tensor, sigma: Tensor, z: Tensor) -> Tensor:
        """Weighted squared error of the score of each point, (B,)."""
        level = sigma[:, None]
        return (level * network(x + level * z, sigma) + z).square().sum(1) / 2


class SlicedObjective:
    """Sliced score matching, or with `exact` implicit score matching with the full trace.

    The batch is points (B, D).

    Args:
        variance_reduced: use the form with the mean of the squared projection.
        exact: the full trace by D backward passes, in place of one projection.

    Source: Song, Garg, Shi and Ermon 2019, arXiv 1905.07088, equations 7 and 8; Hyvarinen 2005, theorem 1.
    """

    def __init__(self, *, variance_reduced: bool = False, exact: bool = False) -> None:
        self.variance_reduced, self.exact = variance_reduced, exact

    def draw(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Points, and a projection for each."""
        [x] = batch
        return x, gaussian_noise(x, generator)

    def __call__(self, network: nn.Module, x: Tensor, v: Tensor) -> Tensor:
        """The loss of each point, (B,)."""
        if self.exact:
            return implicit_score_matching(network, x)
        return sliced_score_matching(network, x, projection=lambda *_: v, variance_reduced=self.variance_reduced)
