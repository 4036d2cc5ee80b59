"""The homework's training run: its configuration, network, schedule and objective, and the card of its result."""

import dataclasses
import platform
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

import hw3utils
from hw3utils.devices import device_name, process_rank
from hw3utils.learning.networks import UNet
from hw3utils.learning.objectives import DiffusionObjective
from hw3utils.learning.run_files import check_new_run, read_average, read_history
from hw3utils.learning.training import Step, TrainConfig, TrainingStep, seeded, train
from hw3utils.learning.weights import save_weights
from hw3utils.schedules import NoiseSchedule, linear_schedule

RECIPES = {"sprites": TrainConfig()}
HELDOUT_PICTURES = 1024
RESULTS = ("weights.safetensors", "weights.json")


class LabelledPictures(Protocol):
    """Pictures split in a training and a held-out set, as `load_sprites` gives them.

    Images are uint8 (N, side, side, 3), labels one-hot (N, C).
    """

    @property
    def train_images(self) -> np.ndarray: ...  # noqa: D102
    @property
    def train_labels(self) -> np.ndarray: ...  # noqa: D102
    @property
    def test_images(self) -> np.ndarray: ...  # noqa: D102
    @property
    def test_labels(self) -> np.ndarray: ...  # noqa: D102
    @property
    def class_names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def sha256(self) -> str: ...  # noqa: D102
    @property
    def background(self) -> int: ...  # noqa: D102
    @property
    def side(self) -> int: ...  # noqa: D102
    @property
    def channels(self) -> int: ...  # noqa: D102


def picture_tensors(images: np.ndarray, labels: np.ndarray, *, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Pictures as uint8 (N, channels, H, W) and labels as int64 (N,), from what `load_sprites` returns.

    With 1 channel only the first is kept: the three channels of grey pictures are equal.
    """
    pictures = torch.from_numpy(np.ascontiguousarray(images[..., :channels].transpose(0, 3, 1, 2)))
    return pictures, torch.from_numpy(labels.argmax(1).astype(np.int64))


def heldout_tensors(data: LabelledPictures, n: int = HELDOUT_PICTURES) -> tuple[Tensor, Tensor]:
    """The first n held-out pictures and their labels: the fixed subset on which held-out losses are measured."""
    return picture_tensors(data.test_images[:n], data.test_labels[:n], channels=data.channels)


def diffusion_parts(
    data: LabelledPictures, seed: int, **network_arguments: Any
) -> tuple[nn.Module, NoiseSchedule, DiffusionObjective]:
    """The recipe's network (first weights by seed), schedule and objective for a data set."""
    n_classes = data.train_labels.shape[1]
    schedule = linear_schedule()
    sizes = {"channels": data.channels, "n_classes": n_classes} | network_arguments
    network = seeded(lambda: UNet(schedule=schedule.card(), **sizes), seed)
    return network, schedule, DiffusionObjective(schedule, label_dropout=0.1, n_classes=n_classes)


def train_sprites(
    data: LabelledPictures,
    config: TrainConfig,
    *,
    out: str | Path,
    device: torch.device,
    resume: bool = False,
    compile: bool = False,
    step: TrainingStep | None = None,
) -> Generator[Step]:
    """Train the recipe's network on sprites; at the end write `out/weights.safetensors` and its card.

    Args:
        data: what `load_sprites` returned.
        config: the recipe's, or a changed one.
        out: folder of checkpoints and weights.
        device: where to train.
        resume, compile, step: as in `train`.

    Returns:
        A generator of `Step`; closing it ends and saves the run.

    Raises:
        ValueError, FloatingPointError, OSError: as `train` does.
    """
    check_new_run(out, resume, results=RESULTS)
    network, schedule, objective = diffusion_parts(data, config.seed)
    network.to(device)
    pictures = picture_tensors(data.train_images, data.train_labels, channels=data.channels)

    def write_weights() -> None:
        if process_rank() == 0:
            card = run_card(data, config, out=out, device=device, objective=objective)
            path = Path(out) / RESULTS[0]
            save_weights(path, read_average(out), network=network, schedule=schedule, card=card)

    options: dict[str, Any] = {"heldout": heldout_tensors(data), "out": out, "resume": resume}
    options |= {"compile": compile, "step": step}
    return train(network, pictures, objective, config, at_end=write_weights, **options)


def run_card(
    data: LabelledPictures, config: TrainConfig, *, out: str | Path, device: torch.device, objective: DiffusionObjective
) -> dict[str, Any]:
    """The card of a run, the JSON beside its weights: all that decided it, and its history."""
    return {
        "what": f"DDPM noise predictor on {data.side}x{data.side} sprites, weights of the exponential moving average",
        "config": dataclasses.asdict(config),
        "objective": {"label_dropout": objective.label_dropout, "loss": "noise prediction, equation 14 of DDPM"},
        "data": {
            "source": data.source,
            "sha256": data.sha256,
            "side": data.side,
            "train": len(data.train_images),
            "test": len(data.test_images),
            "class_names": list(data.class_names),
            "background": data.background,
        },
        "heldout": {"pictures": min(HELDOUT_PICTURES, len(data.test_images)), "seed": 0, "batch_size": 256},
        **run_facts(out, device),
    }


def run_facts(out: str | Path, device: torch.device) -> dict[str, Any]:
    """The part of a card that every run has: its loss curve, time, machine, versions, commit and command."""
    losses, heldout, seconds = read_history(out)
    # At most 500 points: each is the mean loss of consecutive steps.
    groups = np.array_split(np.arange(len(losses)), min(500, len(losses)))
    return {
        "optimizer": "Adam, betas 0.9 and 0.999, no weight decay",
        "curve": {
            "train": [[int(group[-1]) + 1, float(np.mean([losses[i] for i in group]))] for group in groups],
            "heldout": [list(point) for point in heldout],
        },
        "seconds": round(seconds, 1),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {"hw3utils": hw3utils.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "commit": _commit(),
        "command": " ".join(["hw3", *sys.argv[1:]]),
    }


def _commit() -> str:
    """The git commit of the code, "unknown" outside a clone; marked when tracked files of the package were changed."""
    folder = Path(__file__).parent.parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", ".")
        return git("rev-parse", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
