"""Data that join networks and sprites: picture sets by name, the classifier's data, the pictures of a card."""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hw3utils.arguments import check_count
from hw3utils.files import expanded
from hw3utils.learning.classifier import AttributeData, attribute_tensors
from hw3utils.learning.networks import UNet
from hw3utils.learning.weights import load_weights, pretrained_names, pretrained_path
from hw3utils.samplers import sample_batches, sample_ddim
from hw3utils.sprites import ATTRIBUTE_VALUES, load_sprites, sprite_set, tensor_to_images
from hw3utils.sprites.drawing import N_TEST, N_TRAIN
from hw3utils.sprites.grammar import SIDE
from hw3utils.sprites.loading import NPY_ERRORS
from hw3utils.sprites.pictures import Cut, found_pictures, left_out_line, read_groups

EMBEDDED = ("embedded:train", "embedded:test")
SAMPLES = 5000


def picture_shape(card: Mapping[str, Any]) -> tuple[int, int, int]:
    """The shape (channels, side, side) of the pictures that weights generate, from their card; default side 16.

    Raises:
        ValueError: when the channels are neither colour nor grey, or the side is out of range.
    """
    channels = card["network"]["channels"]
    if channels not in (1, 3):
        raise ValueError(f"these weights generate {channels} channels, expected 3 of colour or 1 of grey.")
    data = card.get("data")
    side = data.get("side", SIDE) if isinstance(data, Mapping) else SIDE
    side = check_count(side, "the side of pictures on the card of these weights", high=1024)
    return channels, side, side


def picture_background(card: Mapping[str, Any]) -> int:
    """The grey level that stands for transparent pixels in the pictures that weights were trained on, from their card.

    Raises:
        ValueError: when it is not a level of 0 to 255.
    """
    data = card.get("data")
    level = data.get("background", 255) if isinstance(data, Mapping) else 255
    return check_count(level, "the background on the card of these weights", low=0, high=255)


def attribute_data(n_train: int = N_TRAIN, n_test: int = N_TEST) -> AttributeData:
    """The embedded sprites with their attributes, as the classifier is trained on them."""
    train, test = map(attribute_tensors, sprite_set(n_train, n_test))
    return AttributeData(train, test, ATTRIBUTE_VALUES, "embedded")


@dataclass(frozen=True)
class PictureSet:
    """A set of pictures that can be iterated over more than once, batch by batch.

    Attributes:
        description: where the pictures come from, in words.
        open: starts an iteration over arrays uint8 (B, H, W, 3).
        batches: the number of these arrays.
    """

    description: str
    open: Callable[[], Iterator[np.ndarray]]
    batches: int

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.open()


def open_set(
    name: str,
    *,
    n: int | None = None,
    steps: int = 50,
    eta: float = 0.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int = 250,
    cut: Cut | None = None,
) -> PictureSet:
    """Open a set of pictures.

    Args:
        name: "embedded:train" or "embedded:test"; an .npy or .npz file of pictures uint8 (N, H, W, 3); a folder of
            pictures; or weights (a safetensors file, its folder, or the name of shipped weights), of which samples are
            made by DDIM.
        n: most pictures to take (of weights: 5000 if not given); of a file or a folder that holds more, a random part.
        steps, eta, device: for sampling.
        seed: decides the samples, and the random part.
        batch_size: pictures at once.
        cut: how the pictures of a folder are cut; not at all if not given. Other sets are not cut.

    Raises:
        ValueError: when there is no such set, or no pictures in it.
    """
    limit = None if n is None else check_count(n, "n")
    batch_size, steps = check_count(batch_size, "batch_size"), check_count(steps, "steps")
    seed = check_count(seed, "seed", low=0)
    path = expanded(name)
    if name in EMBEDDED:
        data = load_sprites()
        images = (data.train_images if name.endswith("train") else data.test_images)[:limit]
        what = "training" if name.endswith("train") else "held-out"
        return _array(f"the embedded {what} sprites", images, batch_size)
    if path.suffix.lower() in (".npy", ".npz"):
        images = read_pictures(path)
        part = _part(len(images), limit, seed)
        return _array(f"{path}{_part_text(len(images), part, seed)}", images[part], batch_size)
    if is_weights(name):
        weights = path if path.exists() else pretrained_path(name)
        options = {"steps": steps, "eta": eta, "seed": seed, "device": device}
        return _samples(name, weights, limit or SAMPLES, batch_size, **options)
    if path.is_dir():
        return _folder(path, limit, seed, batch_size, cut)
    expected = f"a folder of pictures, an .npy file, a safetensors file, or one of {', '.join(EMBEDDED)}"
    raise ValueError(f"there are no pictures {name!r}, expected {expected} or {', '.join(pretrained_names())}.")


def is_weights(name: str) -> bool:
    """Whether `open_set` samples this set with weights."""
    path = expanded(name)
    if path.suffix.lower() in (".npy", ".npz"):
        return False
    return path.suffix == ".safetensors" or (path / "weights.safetensors").is_file() or name in pretrained_names()


def read_pictures(path: str | Path) -> np.ndarray:
    """Read an .npy file of pictures, uint8 (N, H, W, 3), or an .npz file of that one array.

    Raises:
        ValueError: when it is missing, damaged, a pickle, or holds something else.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{path} is a folder, a pipe or a device, expected an .npy file of pictures.")
    try:
        images = np.load(path, allow_pickle=False)
        if isinstance(images, np.lib.npyio.NpzFile) and len(images.files) == 1:
            with images as archive:
                images = archive[archive.files[0]]
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}; check the path.") from None
    except (OSError, zipfile.BadZipFile, *NPY_ERRORS) as error:
        raise ValueError(f"{path} is not a complete .npy file of pictures ({error}).") from None
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        got = f"{getattr(images, 'dtype', type(images).__name__)} {getattr(images, 'shape', '')}"
        raise ValueError(f"{path} holds {got}, expected pictures uint8 (N, H, W, 3).")
    return images


def _array(description: str, images: np.ndarray, size: int) -> PictureSet:
    firsts = range(0, len(images), size)
    return PictureSet(description, lambda: (images[first : first + size] for first in firsts), len(firsts))


def _samples(name: str, path: Path, n: int, batch_size: int, **options: Any) -> PictureSet:
    """Samples of weights; `options` are those of `sample_ddim` and `sample_batches`."""
    network, schedule, card = load_weights(path, device=options["device"])
    if not isinstance(network, UNet) or schedule is None:
        raise ValueError(f"{name} holds a {type(network).__name__}, expected the weights of a noise predictor (UNet).")
    shape = picture_shape(card)

    def make() -> Iterator[np.ndarray]:
        batches = sample_batches(sample_ddim, network, schedule, shape, n=n, batch_size=batch_size, **options)
        return map(tensor_to_images, batches)

    description = "samples of {} (DDIM, {steps} steps, eta {eta:g}, seed {seed})".format(name, **options)
    return PictureSet(description, make, -(-n // batch_size))


def _part(count: int, limit: int | None, seed: int) -> np.ndarray:
    """Indices of the pictures to take of `count`: all, or a random part (the files may be sorted by class)."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def _part_text(count: int, part: np.ndarray, seed: int) -> str:
    return "" if len(part) == count else f" (a random {len(part)} of {count}, seed {seed})"


def _folder(folder: Path, limit: int | None, seed: int, batch_size: int, cut: Cut | None) -> PictureSet:
    """The pictures of a folder, read when it is opened: as they are, or cut into tiles."""
    files, left_out = found_pictures(folder)
    count, part = len(files), _part(len(files), limit if cut is None else None, seed)
    read = read_groups({"": [files[k] for k in part]}, cut)
    images = read.images
    if cut is not None:
        count, part = len(images), _part(len(images), limit, seed)
        images = images[part]
    said = [*read.said, *(f"left out: {line}" for line in left_out_line(left_out | read.left_out))]
    return _array(f"the pictures in {folder}{_part_text(count, part, seed)}; {'; '.join(said)}", images, batch_size)
