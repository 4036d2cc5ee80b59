"""Sprites from their three sources, split by distinct picture; conversion to tensors, description and preview."""

import hashlib
import os
import tokenize
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from hw3utils.arguments import check_count
from hw3utils.files import download, file_sha256, read_json, write_json
from hw3utils.sprites.drawing import CLASS_NAMES, N_TEST, N_TRAIN, as_rows, sprite_set
from hw3utils.sprites.grammar import SIDE
from hw3utils.sprites.pictures import Cut, read_folder

PICTURES_FILE = "sprites_1788_16x16.npy"
LABELS_FILE = "sprite_labels_nc_1788_16x16.npy"
HUB = (
    "https://huggingface.co/datasets/ashis-palai/sprites_image_dataset/resolve/a24918819843abc0d1bee75a239024415081a87d"
)
#: Most bytes that a download may have: the real files need 69 MB and at most 4 MB.
SIZE_LIMITS = {PICTURES_FILE: 100_000_000, LABELS_FILE: 10_000_000}

#: What numpy raises on a damaged .npy file, beside OSError; Python 3.13 lets the tokenizer's error through.
NPY_ERRORS = (ValueError, EOFError, SyntaxError, OverflowError, tokenize.TokenError, MemoryError)

CACHE_VARIABLE = "HW3_CACHE"

_HINT = "put both files in one folder and name it: hw3 data --source real --root FOLDER"


@dataclass(frozen=True, eq=False, repr=False)
class SpriteData:
    """Sprites split in two sets that share no picture.

    Attributes:
        train_images, test_images: uint8 (N, side, side, 3); side is 16 but for folders that were cut otherwise.
        train_labels, test_labels: uint8 (N, C), one-hot.
        class_names: C names, in the order of the label columns.
        source: where the pictures come from, in words.
        sha256: hash of the training pictures and labels, as hexadecimal.
        background: grey level, 0 to 255, that stands for transparent pixels of picture files.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    source: str
    sha256: str
    background: int = 255

    @property
    def side(self) -> int:
        """Pixels of a side."""
        return self.train_images.shape[1]

    @property
    def channels(self) -> int:
        """1 where every picture is grey, else 3."""
        every = (self.train_images, self.test_images)
        return 1 if all((images == images[..., :1]).all() for images in every) else 3

    def __repr__(self) -> str:
        return (
            f"SpriteData({len(self.train_images)} to train, {len(self.test_images)} held out, "
            f"{len(self.class_names)} classes, {self.source!r}, sha256 {self.sha256[:12]})"
        )


def load_sprites(
    source: str | os.PathLike = "embedded",
    *,
    root: str | os.PathLike | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
    seed: int = 0,
    download: bool = True,
    cut: Cut | None = None,
) -> SpriteData:
    """Load sprites from a source.

    Args:
        source: "embedded" draws them; "real" reads the two published .npy files; "folder", or the path of a folder
            itself, reads pictures and sheets of tiles, labelled by sub-folder (PNG, JPEG, GIF, WebP, BMP).
        root: the folder of the files; for "real" without a root, the cache folder (`$HW3_CACHE`, else
            `~/.cache/hw3utils`), filled by a download where it lacks a file.
        n_train: pictures to train on; 89,400 embedded ones, or all that are not held out.
        n_test: distinct pictures to hold out; 4,096 embedded ones, or a tenth of the distinct pictures.
        seed: decides drawing and splitting.
        download: False forbids the network.
        cut: how the pictures of a folder are cut; recognised if not given.

    Returns:
        A `SpriteData`. Repeats in the real file stay in the training set, but every copy of a held-out picture
        is removed from it.

    Raises:
        ValueError: if the source is unknown, a file or picture is damaged, or n_train or n_test is out of range.
        FileNotFoundError: if a folder or a file is missing.
        ConnectionError: if a download was needed and failed.
        OSError: if a folder cannot be read, or there is no folder for the cache.
    """
    n_train, n_test = (
        n if n is None else check_count(n, name) for name, n in (("n_train", n_train), ("n_test", n_test))
    )
    seed = check_count(seed, "seed", low=0)
    if cut is not None and source in ("embedded", "real"):
        raise ValueError(f"the {source} sprites are not cut; leave --size, --tile and what follows them out.")
    if source == "embedded":
        if root is not None:
            raise ValueError(
                f"Got root = {os.fspath(root)!r} with the embedded source, which reads no files: "
                "ask for source 'real' (the two .npy files) or 'folder' (pictures)."
            )
        train, test = sprite_set(n_train or N_TRAIN, n_test or N_TEST, seed=seed)
        return _sprite_data(*train[:2], *test[:2], CLASS_NAMES, f"drawn by the embedded generator, seed {seed}")
    if source == "real":
        images, labels, sentence = _read_real(root, download)
        class_names, background = tuple(CLASS_NAMES), 255
    else:
        folder = _folder(source, root)
        tiles = read_folder(folder, cut or Cut())
        images, class_names, background = tiles.images, tiles.class_names, tiles.background
        labels = np.eye(len(class_names), dtype=np.uint8)[tiles.classes]
        sentence = "; ".join([f"{len(images)} distinct tiles of the pictures in {folder}", *tiles.said])
    kept, held_out = _split(images, n_train, n_test, seed)
    parts = images[kept], labels[kept], images[held_out], labels[held_out]
    return _sprite_data(*parts, class_names, sentence, background)


def _sprite_data(
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    class_names: tuple[str, ...],
    sentence: str,
    background: int = 255,
) -> SpriteData:
    arrays = (train_images, train_labels, test_images, test_labels)
    train_images, train_labels, test_images, test_labels = map(np.ascontiguousarray, arrays)
    sha256 = hashlib.sha256(train_images.data)
    sha256.update(train_labels.data)
    names, digest = tuple(class_names), sha256.hexdigest()
    return SpriteData(train_images, train_labels, test_images, test_labels, names, sentence, digest, background)


def _split(images: np.ndarray, n_train: int | None, n_test: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and the rows to hold out; copies of one picture are never on both sides."""
    _, first, picture = np.unique(as_rows(images), return_index=True, return_inverse=True)
    distinct = len(first)
    if n_test is None:
        n_test = max(1, distinct // 10)
    if n_test >= distinct:
        raise ValueError(
            f"Got n_test = {n_test} with {distinct} distinct pictures, expected at most {distinct - 1}: "
            "hold out fewer, or bring more pictures."
        )
    rng = np.random.default_rng(seed)
    held_out = np.zeros(distinct, bool)
    held_out[rng.permutation(distinct)[:n_test]] = True
    test = np.sort(first[held_out])
    train = np.flatnonzero(~held_out[picture])
    if n_train is not None:
        if n_train > len(train):
            raise ValueError(
                f"Got n_train = {n_train}, expected at most {len(train)}, all that is not held out: "
                "train on fewer, or leave n_train out."
            )
        train = np.sort(rng.permutation(train)[:n_train])
    return train, test


# ------------------------------------------------------------------------------------------------- the real files


def cache_folder() -> Path:
    """Return the folder where downloads are kept: `$HW3_CACHE`, or `~/.cache/hw3utils`.

    Raises:
        OSError: when the variable is not set and this user has no home folder.
    """
    try:
        return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/hw3utils").expanduser()
    except RuntimeError:
        raise OSError(f"this user has no home folder to keep downloads in; set {CACHE_VARIABLE} to a folder.") from None


def _read_real(root: str | os.PathLike[str] | None, download: bool) -> tuple[np.ndarray, np.ndarray, str]:
    """Return images, labels and the sentence that names their source."""
    if root is None:
        folder = cache_folder()
        paths = [_cached(folder, name, download) for name in (PICTURES_FILE, LABELS_FILE)]
        origin = f"the real files from {HUB}, kept in {folder}"
    else:
        folder = Path(root)
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}: {_HINT}.")
        paths = [folder / name for name in (PICTURES_FILE, LABELS_FILE)]
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(f"There is no {path.name} in {folder}: {_HINT}.")
        origin = f"the real files in {folder}"
    images, labels = (_read_array(path, path.name) for path in paths)
    if len(images) != len(labels):
        raise ValueError(
            f"Got {len(images)} pictures in {PICTURES_FILE} and {len(labels)} labels in {LABELS_FILE}, "
            "expected as many labels as pictures: fetch both files again."
        )
    return images, labels, origin


def _read_array(path: Path, name: str) -> np.ndarray:
    """Read and check one of the two real files, named by `name`: uint8 pictures, or labels made uint8."""
    try:
        # A memory map reads the header and compares the size before anything is allocated; pickles are refused.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise OSError(f"cannot read {path} ({error}), expected {name}: check the file's permissions.") from error
    except NPY_ERRORS as error:
        raise ValueError(
            f"{path} is truncated, pickled or no .npy file, expected {name} as published: fetch it again."
        ) from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is an archive of arrays, expected {name}, a single .npy array: fetch it again.")
    return _check_pictures(array, path) if name == PICTURES_FILE else _check_labels(array, path)


def _check_pictures(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype != np.uint8:
        raise ValueError(f"Got pictures of dtype {array.dtype} in {path}, expected uint8: convert or fetch them again.")
    if array.ndim != 4 or array.shape[1:] != (SIDE, SIDE, 3) or len(array) < 2:
        raise ValueError(
            f"Got pictures of shape {array.shape} in {path}, expected (N, {SIDE}, {SIDE}, 3) with N at least 2: "
            "cut or fetch them again."
        )
    return np.array(array)


def _check_labels(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype.kind not in "buif":
        raise ValueError(f"Got labels of dtype {array.dtype} in {path}, expected numbers 0 and 1: fetch them again.")
    if array.ndim != 2 or array.shape[1] != len(CLASS_NAMES):
        raise ValueError(
            f"Got labels of shape {array.shape} in {path}, expected (N, {len(CLASS_NAMES)}), one-hot: fetch them again."
        )
    one_hot = ((array == 0) | (array == 1)).all(axis=1) & (array.sum(axis=1) == 1)
    if not one_hot.all():
        row = int(np.flatnonzero(~one_hot)[0])
        raise ValueError(
            f"Got label {np.asarray(array[row]).tolist()} in row {row} of {path}, expected one-hot "
            "(a single 1, the rest 0): correct that row or fetch the file again."
        )
    return array.astype(np.uint8)


def _cached(folder: Path, name: str, download_allowed: bool) -> Path:
    """Return the path of a real file in the cache; download it first where it or its hash is missing."""
    path, record = folder / name, folder / f"{name}.json"
    if path.is_file() and record.is_file():
        try:
            expected = read_json(record)["sha256"]
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{record} holds no sha256 of {name}, expected one: delete both files to fetch anew."
            ) from error
        if (got := file_sha256(path)) != expected:
            raise ValueError(
                f"Got sha256 {got[:12]} for {path}, expected {str(expected)[:12]} as when it was downloaded: "
                "delete the file and its .json to fetch it anew."
            )
        return path
    if not download_allowed:
        raise FileNotFoundError(f"There is no {name} in {folder} and no download was allowed: {_HINT}.")
    url = f"{HUB}/{name}"

    def check(temporary: Path) -> None:
        try:
            _read_array(temporary, name)
        except ValueError as error:
            raise ValueError(f"What came from {url} is not {name}: {error}") from error
        # The hash is written first: after a crash in between the file is missing and the next call downloads again.
        write_json(record, {"url": url, "bytes": temporary.stat().st_size, "sha256": file_sha256(temporary)})

    return download(url, path, limit=SIZE_LIMITS[name], hint=_HINT, check=check)


# ------------------------------------------------------------------------------------------------- folders of pictures


def _folder(source: str | os.PathLike[str], root: str | os.PathLike[str] | None) -> Path:
    if source == "folder" and root is None:
        raise ValueError("Got source 'folder' without a root, expected the folder of the pictures: give it as root.")
    if source != "folder" and root is not None:
        raise ValueError(
            f"Got source {os.fspath(source)!r} and root {os.fspath(root)!r}, expected one of them to name the folder: "
            "use source 'folder' with a root."
        )
    folder = Path(source if root is None else root)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Got source {str(folder)!r}, expected 'embedded', 'real', 'folder' or an existing folder of pictures."
        )
    return folder


# ------------------------------------------------------------------------------------------------- tensors, preview


def images_to_tensor(images: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Convert pictures to the tensors that networks take.

    Args:
        images: uint8 (N, H, W, 3), array or tensor.

    Returns:
        float32 (N, 3, H, W) in [-1, 1].

    Raises:
        ValueError: if dtype or shape is another.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(images)) if isinstance(images, np.ndarray) else images
    if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.uint8 or tensor.ndim != 4 or tensor.shape[-1] != 3:
        got = f"{getattr(images, 'dtype', type(images).__name__)} {tuple(getattr(images, 'shape', ()))}"
        raise ValueError(f"Got images of {got}, expected uint8 (N, H, W, 3): a batch of pictures, channels last.")
    return (tensor.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1).contiguous()


def tensor_to_images(x: torch.Tensor) -> np.ndarray:
    """Convert the tensors that samplers return to pictures: clamped to [-1, 1] and rounded to 256 levels.

    Args:
        x: floating point (N, 3, H, W), or grey (N, 1, H, W), on any device.

    Returns:
        uint8 (N, H, W, 3).

    Raises:
        ValueError: if dtype or shape is another, or a value is NaN.
    """
    if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.ndim != 4 or x.shape[1] not in (1, 3):
        got = f"{getattr(x, 'dtype', type(x).__name__)} {tuple(getattr(x, 'shape', ()))}"
        raise ValueError(f"Got pictures of {got}, expected floating point (N, 3, H, W): a batch, channels first.")
    x = x.detach().to("cpu", torch.float32)
    if x.isnan().any():
        raise ValueError(f"Got {int(x.isnan().sum())} NaN values, expected numbers: the sampler has diverged.")
    levels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy())


# Classes that fit in a preview.
_ROWS = 40


def preview_figure(
    images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], *, per_class: int = 16
) -> Figure:
    """Draw the first sprites of each class in a row labelled with its name; of many classes the first 40.

    Args:
        images: uint8 (N, side, side, 3).
        labels: one-hot (N, C).
        class_names: C names.
        per_class: sprites in a row.

    Returns:
        A matplotlib Figure of its own, unknown to pyplot.

    Raises:
        ValueError: if the numbers of images, labels and names do not fit.
    """
    if len(images) != len(labels) or labels.ndim != 2 or labels.shape[1] != len(class_names):
        raise ValueError(
            f"Got {len(images)} images, labels of shape {labels.shape} and {len(class_names)} names, expected one "
            "label for each image and one name for each label column: pass them from one data set."
        )
    names = [name if len(name) <= 30 else f"{name[:29]}…" for name in class_names[:_ROWS]]
    step = images.shape[1] + 2
    # Two white pixels between sprites; a class with fewer sprites leaves the rest of its row white.
    page = np.full((len(names), step, per_class, step, 3), 255, np.uint8)
    for c in range(len(names)):
        shown = images[np.flatnonzero(labels[:, c])[:per_class]]
        page[c, 1:-1, : len(shown), 1:-1] = shown.swapaxes(0, 1)
    figure = Figure(figsize=(1 + 0.5 * per_class, 0.55 * len(names) + 0.5), dpi=150, layout="constrained")
    ax = figure.subplots()
    ax.imshow(page.reshape(len(names) * step, per_class * step, 3), interpolation="nearest")
    # Without mathtext: a name may contain dollar signs.
    ax.set_yticks([(c + 0.5) * step - 0.5 for c in range(len(names))], names, parse_math=False)
    ax.tick_params(length=0)
    ax.set_xticks([])
    ax.spines[:].set_visible(False)
    if len(class_names) > len(names):
        ax.set_xlabel(f"and {len(class_names) - len(names)} classes more")
    return figure


def preview(data: SpriteData, path: str | os.PathLike, *, per_class: int = 16) -> None:
    """Write a labelled PNG picture of the training sprites of each class; missing folders are made.

    Args:
        data: what `load_sprites` returned.
        path: where to write.
        per_class: sprites in a row.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure = preview_figure(data.train_images, data.train_labels, data.class_names, per_class=per_class)
    with warnings.catch_warnings():
        # Characters that matplotlib's font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(path, format="png")


def describe(data: SpriteData) -> str:
    """Describe sprites in some lines: source, numbers, classes, hash.

    Args:
        data: what `load_sprites` returned.
    """
    distinct = len(np.unique(as_rows(data.train_images)))
    counts = data.train_labels.sum(axis=0, dtype=np.int64)
    classes = ", ".join(
        f"{name} {count} ({count / counts.sum():.1%})" for name, count in zip(data.class_names, counts, strict=True)
    )
    return "\n".join(
        (
            f"source:   {data.source}",
            f"train:    {len(data.train_images)} pictures, {distinct} of them distinct",
            f"held out: {len(data.test_images)} pictures, none of them in train",
            f"classes:  {classes}",
            f"sha256:   {data.sha256} (training pictures and labels)",
        )
    )
