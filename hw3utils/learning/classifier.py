"""The classifier of sprites: its training objective, its training run, and its accuracy."""

import dataclasses
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hw3utils.arguments import check_number
from hw3utils.devices import process_rank
from hw3utils.learning.networks import SpriteClassifier
from hw3utils.learning.objectives import Batch
from hw3utils.learning.recipes import HELDOUT_PICTURES, RESULTS, run_facts
from hw3utils.learning.run_files import check_new_run, read_average
from hw3utils.learning.training import Step, TrainConfig, seeded, train
from hw3utils.learning.weights import save_weights

CLASSIFIER = TrainConfig(
    steps=6000, batch_size=256, lr=1e-3, lr_decay=True, ema_decay=0.999, checkpoint_every=500, heldout_every=250
)


@dataclass(frozen=True, eq=False)
class AttributeData:
    """Pictures with several attributes each, in a training and a held-out set.

    Attributes:
        train, test: pictures uint8 (N, 3, 16, 16) and attributes int64 (N, A), as `attribute_tensors` makes them.
        values: name of each attribute -> the names of its values, in the order of the columns.
        source: where they come from, for the card.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    values: Mapping[str, tuple[str, ...]]
    source: str


class ClassificationObjective:
    """The mean cross-entropy over the attributes, of pictures with a little noise.

    The batch is pictures uint8 (B, 3, 16, 16) and attributes int64 (B, A), in the order of the network's own. The noise
    is normal, with a standard deviation drawn uniformly for each picture: samples of a diffusion model always have a
    little, and the features should not measure it.

    Args:
        noise: largest standard deviation, on the scale of [-1, 1].

    Raises:
        ValueError: when noise is negative or not finite.
    """

    def __init__(self, *, noise: float = 0.1) -> None:
        self.noise = check_number(noise, "noise")
        if self.noise < 0:
            raise ValueError(f"noise is {noise}, expected a number of at least 0.")

    def draw(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Pictures in [-1, 1] with a little noise, and their attributes."""
        pictures, attributes = batch
        x = pictures.float() / 127.5 - 1
        size = self.noise * torch.rand(len(x), generator=generator, device=x.device).view(-1, 1, 1, 1)
        return x + size * torch.randn(x.shape, generator=generator, device=x.device), attributes

    def __call__(self, network: nn.Module, x: Tensor, attributes: Tensor) -> Tensor:
        """Mean cross-entropy of each picture, (B,)."""
        predictions = zip(network(x).values(), attributes.unbind(1), strict=True)
        return torch.stack([F.cross_entropy(*pair, reduction="none") for pair in predictions]).mean(0)


def attribute_tensors(drawn: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]) -> tuple[Tensor, Tensor]:
    """Pictures uint8 (N, 3, 16, 16) and attributes int64 (N, A), of the result of `draw_sprites`."""
    images, _, attributes = drawn
    pictures = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return pictures, torch.from_numpy(np.stack([*attributes.values()], axis=1))


@torch.no_grad()
def accuracy(network: SpriteClassifier, pictures: Tensor, attributes: Tensor) -> dict[str, float]:
    """Accuracy for each attribute; pictures uint8 (N, 3, 16, 16), attributes int64 (N, A)."""
    correct: dict[str, int] = dict.fromkeys(network.attributes, 0)
    for x, target in zip(pictures.split(512), attributes.split(512), strict=True):
        for i, (name, logits) in enumerate(network(x.float() / 127.5 - 1).items()):
            correct[name] += int((logits.argmax(1) == target[:, i]).sum())
    return {name: count / len(pictures) for name, count in correct.items()}


@torch.no_grad()
def feature_scale(network: SpriteClassifier, pictures: Tensor) -> float:
    """The factor that gives the features of these pictures (uint8 (N, 3, 16, 16)) a mean variance of 1.

    A Fréchet distance is then in units of the variance of the features.
    """
    features = torch.cat([network.features(x.float() / 127.5 - 1) for x in pictures.split(500)])
    return round(float(features.double().var(0).mean() ** -0.5), 6)


def train_classifier(
    data: AttributeData,
    config: TrainConfig,
    *,
    out: str | Path,
    device: torch.device,
    resume: bool = False,
    compile: bool = False,
) -> Generator[Step]:
    """Train the classifier; at the end write `out/weights.safetensors` and its card.

    Args:
        data: the pictures and their attributes.
        config: `CLASSIFIER`, or a changed one.
        out: folder of checkpoints and weights.
        device: where to train.
        resume, compile: as in `train`.

    Returns:
        A generator of `Step`; closing it ends and saves the run.

    Raises:
        ValueError, FloatingPointError, OSError: as `train` does.
    """
    check_new_run(out, resume, results=RESULTS)
    sizes = {name: len(values) for name, values in data.values.items()}
    network = seeded(lambda: SpriteClassifier(attributes=sizes), config.seed).to(device)
    objective = ClassificationObjective()
    heldout = tuple(tensor[:HELDOUT_PICTURES] for tensor in data.test)

    def write_weights() -> None:
        if process_rank() > 0:
            return
        average = read_average(out)
        measured = SpriteClassifier(attributes=sizes).eval()
        measured.load_state_dict(average)
        card = {
            "what": "classifier of the embedded sprites and of their attributes; its features measure distances",
            "config": dataclasses.asdict(config),
            "objective": {"loss": "mean cross-entropy over the attributes", "noise": objective.noise},
            "data": {"source": data.source, "train": len(data.train[0]), "test": len(data.test[0])},
            "accuracy": {name: round(share, 4) for name, share in accuracy(measured, *data.test).items()},
            "feature_scale": feature_scale(measured, data.train[0]),
            "attributes": {name: list(values) for name, values in data.values.items()},
            **run_facts(out, device),
        }
        save_weights(Path(out) / RESULTS[0], average, network=network, schedule=None, card=card)

    options: dict[str, Any] = {"heldout": heldout, "out": out, "resume": resume, "compile": compile}
    return train(network, data.train, objective, config, at_end=write_weights, **options)
