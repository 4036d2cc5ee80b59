"""The classifier of sprites: its objective, its training on the embedded set, and how right it is."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hw3utils.arguments import check_number
from hw3utils.devices import process_rank
from hw3utils.learning.networks import SpriteClassifier
from hw3utils.learning.objectives import Batch
from hw3utils.learning.recipes import run_facts
from hw3utils.learning.run_files import read_average
from hw3utils.learning.training import Step, TrainConfig, seeded, train
from hw3utils.learning.weights import save_weights
from hw3utils.sprites import ATTRIBUTE_VALUES, sprite_set

CLASSIFIER = TrainConfig(
    steps=6000, batch_size=256, lr=1e-3, lr_decay=True, ema_decay=0.999, checkpoint_every=500, heldout_every=250
)
HELDOUT_PICTURES = 1024


class ClassificationObjective:
    """The mean cross-entropy over the attributes, of pictures with a little noise.

    The batch is pictures uint8 (B, 3, 16, 16) and attributes int64 (B, A), in the order of the network's own. The noise
    is normal, of a standard deviation drawn for each picture: what a sampler makes is never quite flat, and features
    that jump at that would measure nothing else.

    Args:
        names: the attributes, in the order of the columns.
        noise: largest standard deviation, on the scale of [-1, 1].

    Raises:
        ValueError: when noise is negative or not finite.
    """

    def __init__(self, names: tuple[str, ...] = tuple(ATTRIBUTE_VALUES), *, noise: float = 0.1) -> None:
        self.names, self.noise = names, check_number(noise, "noise")
        if self.noise < 0:
            raise ValueError(f"noise is {noise}, expected a number of at least 0.")

    def draw(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Pictures on the scale of the network with a little noise, and their attributes."""
        pictures, attributes = batch
        x = pictures.float() / 127.5 - 1
        size = self.noise * torch.rand(len(x), generator=generator, device=x.device).view(-1, 1, 1, 1)
        return x + size * torch.randn(x.shape, generator=generator, device=x.device), attributes

    def __call__(self, network: nn.Module, x: Tensor, attributes: Tensor) -> Tensor:
        """Mean cross-entropy of each picture, (B,)."""
        logits = network(x)
        losses = [
            F.cross_entropy(logits[name], attributes[:, i], reduction="none") for i, name in enumerate(self.names)
        ]
        return torch.stack(losses).mean(0)


def attribute_tensors(drawn: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]) -> tuple[Tensor, Tensor]:
    """Pictures uint8 (N, 3, 16, 16) and attributes int64 (N, A), from what `draw_sprites` returns."""
    images, _, attributes = drawn
    pictures = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return pictures, torch.from_numpy(np.stack([attributes[name] for name in ATTRIBUTE_VALUES], axis=1))


@torch.no_grad()
def accuracy(network: SpriteClassifier, pictures: Tensor, attributes: Tensor) -> dict[str, float]:
    """Share of right answers for each attribute; pictures uint8 (N, 3, 16, 16), attributes int64 (N, A)."""
    right: dict[str, int] = dict.fromkeys(network.attributes, 0)
    for x, wanted in zip(pictures.split(512), attributes.split(512), strict=True):
        for i, (name, logits) in enumerate(network(x.float() / 127.5 - 1).items()):
            right[name] += int((logits.argmax(1) == wanted[:, i]).sum())
    return {name: count / len(pictures) for name, count in right.items()}


@torch.no_grad()
def feature_scale(network: SpriteClassifier, pictures: Tensor) -> float:
    """The number that gives the features of these pictures (uint8 (N, 3, 16, 16)) a mean variance of 1.

    A distance of two sets is then in units that mean something: the spread of the features themselves.
    """
    features = torch.cat([network.features(x.float() / 127.5 - 1) for x in pictures.split(500)])
    return round(float(features.double().var(0).mean() ** -0.5), 6)


def train_classifier(
    config: TrainConfig,
    *,
    out: str | Path,
    device: torch.device,
    n_train: int | None = None,
    n_test: int | None = None,
    resume: bool = False,
    capture: bool = False,
) -> Iterator[Step]:
    """Train the classifier on the embedded sprites; at the end `out/weights.safetensors` and its card are written.

    Args:
        config: `CLASSIFIER`, or a changed one.
        out: folder of checkpoints and weights.
        device: where to train.
        n_train, n_test: sizes of the embedded set (None: its own).
        resume, capture: as in `train`.

    Returns:
        An iterator over `Step`.

    Raises:
        ValueError, FloatingPointError, OSError: as `train` does.
    """
    sizes = {name: n for name, n in (("n_train", n_train), ("n_test", n_test)) if n is not None}
    drawn = sprite_set(**sizes)
    (pictures, attributes), (test_pictures, test_attributes) = map(attribute_tensors, drawn)
    sizes = {name: len(values) for name, values in ATTRIBUTE_VALUES.items()}
    network = seeded(lambda: SpriteClassifier(attributes=sizes), config.seed).to(device)
    objective = ClassificationObjective()
    heldout = test_pictures[:HELDOUT_PICTURES], test_attributes[:HELDOUT_PICTURES]
    yield from train(
        network, (pictures, attributes), objective, config, heldout=heldout, out=out, resume=resume, capture=capture
    )
    if process_rank() == 0:
        average = read_average(out)
        network.load_state_dict(average)
        right = accuracy(network.cpu().eval(), test_pictures, test_attributes)
        save_weights(
            Path(out) / "weights.safetensors",
            average,
            network=network,
            schedule=None,
            card={
                "what": "classifier of the embedded sprites and of their attributes; its features measure distances",
                "config": dataclasses.asdict(config),
                "objective": {"loss": "mean cross-entropy over the attributes", "noise": objective.noise},
                "data": {"source": "embedded", "train": len(pictures), "test": len(test_pictures)},
                "accuracy": {name: round(share, 4) for name, share in right.items()},
                "feature_scale": feature_scale(network, pictures),
                "attributes": {name: list(values) for name, values in ATTRIBUTE_VALUES.items()},
                **run_facts(out, device),
            },
        )
