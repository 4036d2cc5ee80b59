"""Weights and their cards (JSON): saving, loading as a network with its schedule, and the shipped weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from hw3utils.arguments import shown
from hw3utils.devices import resolve_device
from hw3utils.files import file_sha256, read_json, read_tensors, write_json, write_tensors
from hw3utils.learning.networks import SpriteClassifier, UNet
from hw3utils.schedules import NoiseSchedule, schedule_from_card

NETWORKS: dict[str, Callable[..., nn.Module]] = {"UNet": UNet, "SpriteClassifier": SpriteClassifier}


def check_state(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    """Check that tensors can replace others: the same names and shapes, and finite numbers.

    Raises:
        ValueError: naming the first tensor that is missing, unexpected, of another shape, or not finite.
    """
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise ValueError(f"{source} has no tensor {name}; it was made for another network.")
        if name not in wanted:
            raise ValueError(f"{source} has a tensor {name} that the network lacks; it was made for another network.")
        if tensors[name].shape != wanted[name].shape:
            got, want = tuple(tensors[name].shape), tuple(wanted[name].shape)
            raise ValueError(f"{source} has {name} of shape {got}, the network has {want}; it is for another network.")
        if not tensors[name].isfinite().all():
            raise ValueError(f"{source} has values in {name} that are not finite; the file is damaged.")


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a module, which must have exactly those names and shapes.

    Raises:
        ValueError: as `check_state`, before anything is changed.
    """
    state = module.state_dict()
    check_state(state, tensors, source)
    module.load_state_dict({name: tensor.to(state[name].dtype) for name, tensor in tensors.items()})


def save_weights(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    *,
    network: nn.Module,
    schedule: NoiseSchedule | None,
    card: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a network's weights, PATH.safetensors, and beside it the card, PATH.json.

    Args:
        path: the safetensors file; its card has the same name and the suffix .json.
        tensors: the state to store (for example the EMA's).
        network: its class and its attribute `config` describe the architecture.
        schedule: the schedule it was trained for, None for a network that predicts no noise.
        card: further entries of the card.
        dtype: store floating-point tensors in this dtype (None: as they are).

    Raises:
        OSError: when a file cannot be written.
    """
    path = Path(path)
    kept = {
        name: tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    write_tensors(path, kept)
    own = {
        "network": {"name": type(network).__name__, **cast(Mapping[str, Any], network.config)},
        "schedule": None if schedule is None else schedule.card(),
        "sha256": file_sha256(path),
    }
    # These entries describe this file, also when `card` was read from another one.
    write_json(path.with_suffix(".json"), own | {key: value for key, value in card.items() if key not in own})
    return path


def load_weights(
    path: str | Path, *, device: str | torch.device = "cpu"
) -> tuple[nn.Module, NoiseSchedule | None, dict[str, Any]]:
    """Read what `save_weights` wrote.

    Args:
        path: the safetensors file, or the folder that holds `weights.safetensors`.
        device: where the network goes.

    Returns:
        The network in fp32 and evaluation mode, its schedule (None for a classifier), and the card.

    Raises:
        ValueError: when the device is not here, a file is damaged, or the card does not belong to the weights or names
            an unknown network.
        FileNotFoundError: when a file is missing.
    """
    device = resolve_device(device)
    path = Path(path)
    if path.is_dir():
        path = path / "weights.safetensors"
    tensors = read_tensors(path)
    card_path = path.with_suffix(".json")
    card = read_json(card_path)
    missing = {"network", "schedule", "sha256"} - card.keys()
    if missing:
        raise ValueError(f"{card_path} lacks {', '.join(sorted(missing))}; it is not the card of a weights file.")
    if card["sha256"] != file_sha256(path):
        raise ValueError(f"{path} does not have the SHA-256 of its card {card_path.name}; take the pair from one run.")
    described = card["network"]
    name = described.get("name") if isinstance(described, dict) else None
    if not isinstance(name, str) or name not in NETWORKS:
        raise ValueError(f"{card_path} names the network {shown(name)}, expected one of {', '.join(NETWORKS)}.")
    try:
        # The initial weights are drawn and then replaced, without changing the global random state.
        with torch.random.fork_rng(devices=[]):
            if described.get("schedule") is not None:
                schedule_from_card(described["schedule"])
            network = NETWORKS[name](**{key: value for key, value in described.items() if key != "name"}).float()
        predicts_noise = name == "UNet" or card["schedule"] is not None
        schedule = schedule_from_card(card["schedule"]) if predicts_noise else None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{card_path} describes a network or schedule that cannot be made: {error}") from None
    load_state(network, tensors, str(path))
    return network.to(device).eval(), schedule, card


PRETRAINED_FOLDER = Path(__file__).parent.parent / "pretrained"


def pretrained_names() -> list[str]:
    """Names of the shipped weights."""
    return sorted(path.stem for path in PRETRAINED_FOLDER.glob("*.safetensors"))


def pretrained_path(name: str) -> Path:
    """The safetensors file of shipped weights, beside their card.

    Raises:
        ValueError: on an unknown name.
    """
    if name not in pretrained_names():
        raise ValueError(
            f"there are no shipped weights {shown(name)}, expected one of {', '.join(pretrained_names())}."
        )
    return PRETRAINED_FOLDER / f"{name}.safetensors"


def load_pretrained(
    name: str = "sprites", *, device: str | torch.device = "cpu"
) -> tuple[nn.Module, NoiseSchedule | None]:
    """Load weights that are shipped with the package; their hash is verified.

    Args:
        name: one of `pretrained_names()`.
        device: where the network goes.

    Returns:
        The network in fp32 and evaluation mode, and its schedule (None for the classifier).

    Raises:
        ValueError: on an unknown name, a damaged file, or a device that is not here.
    """
    network, schedule, _ = load_weights(pretrained_path(name), device=device)
    return network, schedule


def pretrained_card(name: str = "sprites") -> dict[str, Any]:
    """The card of shipped weights: the configuration of their run and its loss curve.

    Args:
        name: "sprites" (the homework's run), "sprites-tuned" (the same network with a better learning rate), or
            "classifier".

    Raises:
        ValueError: on an unknown name.
    """
    return read_json(pretrained_path(name).with_suffix(".json"))
