"""Files that survive: tensors as safetensors, everything else as JSON, each written whole or not at all."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hw3utils.devices import resolve_device
from hw3utils.learning.networks import SpriteClassifier, UNet
from hw3utils.schedules import NoiseSchedule, schedule_from_card, shown

NETWORKS: dict[str, Callable[..., nn.Module]] = {"UNet": UNet, "SpriteClassifier": SpriteClassifier}


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Write a file under a temporary name beside its own, then rename: a reader sees the old file or the new one.

    Args:
        path: the file to make; its folder is made if missing.
        write: called with the temporary path.

    Raises:
        OSError: in one sentence, when the folder cannot be written or the disk is full; the old file is untouched.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"could not write {path} ({reason}); free some space or choose another folder.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def check_writable(folder: str | Path) -> Path:
    """Make a folder if it is missing and see that a file can be written there, before long work that ends in one.

    Raises:
        OSError: in one sentence, when it cannot.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"could not write to the folder {folder} ({error.strerror}); choose another one.") from error
    return folder


def write_json(path: str | Path, value: Any) -> Path:
    """Write a value as indented JSON, atomically."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: when the file is not JSON, or not an object.
        FileNotFoundError: when there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; check the path.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is not readable as JSON; it may be cut off, or another kind of file.") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}, expected an object.")
    return value


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write tensors as safetensors, atomically."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return write_atomically(path, lambda temporary: save_file(contiguous, temporary))


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file to the CPU. Nothing is ever unpickled.

    Raises:
        ValueError: when the file is not safetensors (a pickle, a truncated file).
        FileNotFoundError: when there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; check the path.")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); only safetensors are read, never pickles."
        ) from None


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_state(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    """Hold tensors against those they are to replace: the same names and shapes, and finite numbers.

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
        tensors: the state to keep (for example the EMA's).
        network: gives the architecture's name and, from its attribute `config`, the arguments.
        schedule: the schedule it was trained for, None for a network that predicts no noise.
        card: everything else that is known of the run.
        dtype: store floating tensors in this type (None: as they are).

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
        "network": {"name": type(network).__name__, **network.config},
        "schedule": None if schedule is None else schedule.card(),
        "sha256": file_sha256(path),
    }
    # What describes this file comes from this file, also when the card is that of another one.
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
        The network in fp32 and evaluation mode, its schedule (None for a classifier), and the whole card.

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
        # First weights are drawn and then replaced: let them not move the global random state.
        with torch.random.fork_rng(devices=[]):
            network = NETWORKS[name](**{key: value for key, value in described.items() if key != "name"})
        predicts_noise = name == "UNet" or card["schedule"] is not None
        schedule = schedule_from_card(card["schedule"]) if predicts_noise else None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{card_path} describes a network or schedule that cannot be made: {error}") from None
    load_state(network, tensors, str(path))
    return network.to(device).eval(), schedule, card


PRETRAINED_FOLDER = Path(__file__).parent.parent / "pretrained"


def pretrained_names() -> list[str]:
    """Names that `load_pretrained` knows."""
    return sorted(path.stem for path in PRETRAINED_FOLDER.glob("*.safetensors"))


def pretrained_path(name: str) -> Path:
    """The safetensors file of shipped weights; their card lies beside it.

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
    """Load weights that are shipped with the package, their hash checked.

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
    """The card of a stored run: every parameter, and its loss curve.

    Args:
        name: "sprites" (the shipped weights), or a run that only its card was kept of ("faster").

    Raises:
        ValueError: on an unknown name.
    """
    names = sorted(path.stem for path in PRETRAINED_FOLDER.glob("*.json"))
    if name not in names:
        raise ValueError(f"there is no card {shown(name)}, expected one of {', '.join(names)}.")
    return read_json(PRETRAINED_FOLDER / f"{name}.json")
