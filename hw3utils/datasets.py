"""Sets of pictures by name, for the command line: a folder of pictures, an array, weights, the embedded data."""

import tokenize
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hw3utils.arguments import check_count
from hw3utils.learning.networks import UNet
from hw3utils.learning.weights import load_weights, pretrained_names, pretrained_path
from hw3utils.noise import sample_batches
from hw3utils.samplers import sample_ddim
from hw3utils.sprites import load_sprites, tensor_to_images
from hw3utils.sprites.loading import picture_shape
from hw3utils.sprites.pictures import Cut, left_out_line, picture_files, read_groups

EMBEDDED = ("embedded:train", "embedded:test")
SAMPLES = 5000


@dataclass(frozen=True)
class PictureSet:
    """Pictures that can be gone through more than once, batch by batch, and a sentence on where they come from.

    Attributes:
        description: where the pictures come from.
        open: starts an iteration over arrays uint8 (B, H, W, 3).
        batches: how many arrays that gives.
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
    how: Cut | None = None,
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
        how: how the pictures of a folder are cut; whole if not given. Other sets are not cut.

    Raises:
        ValueError: when there is no such set, or what is there is no set of pictures.
    """
    limit = None if n is None else check_count(n, "n")
    batch_size, steps, seed = (
        check_count(batch_size, "batch_size"),
        check_count(steps, "steps"),
        check_count(seed, "seed", low=0),
    )
    path = Path(name)
    if name in EMBEDDED:
        data = load_sprites()
        images = (data.train_images if name.endswith("train") else data.test_images)[:limit]
        what = "training" if name.endswith("train") else "held-out"
        return _array(f"the embedded {what} sprites", images, batch_size)
    if path.suffix in (".npy", ".npz"):
        images = read_pictures(path)
        part = _part(len(images), limit, seed)
        return _array(f"{path}{_said(len(images), part, seed)}", images[part], batch_size)
    if path.suffix == ".safetensors" or (path / "weights.safetensors").is_file() or name in pretrained_names():
        weights = path if path.exists() else pretrained_path(name)
        return _samples(name, weights, limit or SAMPLES, steps, eta, seed, device, batch_size)
    if path.is_dir():
        return _folder(path, limit, seed, batch_size, how)
    expected = f"a folder of pictures, an .npy file, a safetensors file, or one of {', '.join(EMBEDDED)}"
    raise ValueError(f"there are no pictures {name!r}, expected {expected} or {', '.join(pretrained_names())}.")


def read_pictures(path: str | Path) -> np.ndarray:
    """Read an .npy file of pictures, uint8 (N, H, W, 3), or an .npz file of that one array.

    Raises:
        ValueError: when it is missing, damaged, a pickle, or holds something else.
    """
    try:
        images = np.load(path, allow_pickle=False)
        if isinstance(images, np.lib.npyio.NpzFile) and len(images.files) == 1:
            with images as archive:
                images = archive[archive.files[0]]
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}; check the path.") from None
    except (
        OSError,
        ValueError,
        EOFError,
        SyntaxError,
        OverflowError,
        tokenize.TokenError,
        MemoryError,
        zipfile.BadZipFile,
    ) as error:
        # Python 3.13 lets the tokenizer's error out of a damaged header.
        raise ValueError(f"{path} is not a whole .npy file of pictures ({error}).") from None
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        got = f"{getattr(images, 'dtype', type(images).__name__)} {getattr(images, 'shape', '')}"
        raise ValueError(f"{path} holds {got}, expected pictures uint8 (N, H, W, 3).")
    return images


def _array(description: str, images: np.ndarray, size: int) -> PictureSet:
    firsts = range(0, len(images), size)
    return PictureSet(description, lambda: (images[first : first + size] for first in firsts), len(firsts))


def _samples(
    name: str,
    path: Path,
    n: int,
    steps: int,
    eta: float,
    seed: int,
    device: torch.device | str,
    batch_size: int,
) -> PictureSet:
    network, schedule, card = load_weights(path, device=device)
    if not isinstance(network, UNet) or schedule is None:
        raise ValueError(f"{name} holds a {type(network).__name__}, expected the weights of a noise predictor (UNet).")

    shape = picture_shape(card)

    def make() -> Iterator[np.ndarray]:
        batches: Iterator[Tensor] = sample_batches(
            sample_ddim,
            network,
            schedule,
            shape,
            n=n,
            batch_size=batch_size,
            seed=seed,
            device=device,
            steps=steps,
            eta=eta,
        )
        return map(tensor_to_images, batches)

    description = f"samples of {name} (DDIM, {steps} steps, eta {eta:g}, seed {seed})"
    return PictureSet(description, make, -(-n // batch_size))


def _part(count: int, limit: int | None, seed: int) -> np.ndarray:
    """Which of `count` pictures to take: all, or a random part, for their order may be that of their classes."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def _said(count: int, part: np.ndarray, seed: int) -> str:
    return "" if len(part) == count else f" (a random {len(part)} of {count}, seed {seed})"


def _folder(folder: Path, limit: int | None, seed: int, batch_size: int, how: Cut | None) -> PictureSet:
    """The pictures of a folder, read when it is opened: whole, or cut into tiles as `how` says."""
    files, left_out = picture_files(folder)
    if not files:
        raise ValueError(f"there is no picture in {folder}, expected PNG, JPEG, GIF, WebP or BMP files there.")
    count, part = len(files), _part(len(files), limit if how is None else None, seed)
    images, _, said, dropped = read_groups({"": [files[k] for k in part]}, how)
    if how is not None:
        count, part = len(images), _part(len(images), limit, seed)
        images = images[part]
    said += [f"left out: {line}" for line in left_out_line(left_out | dropped)]
    return _array(f"the pictures in {folder}{_said(count, part, seed)}; {'; '.join(said)}", images, batch_size)
