"""Pictures of users: files of the common formats, single pictures and sheets, cut into tiles of one size."""

import functools
import os
import stat
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from hw3utils.arguments import check_count
from hw3utils.progress import progress
from hw3utils.sprites.drawing import as_rows
from hw3utils.sprites.grammar import SIDE

# The formats that are read, by Pillow's names.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
# Suffixes of pictures that Pillow does not know.
_OTHER_SUFFIXES = {".xcf", ".svg", ".ase", ".aseprite", ".kra", ".heic", ".heif", ".jxl", ".exr"}
# What Pillow raises on a damaged file.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error, Image.DecompressionBombError)
# Sides of the pictures that result.
SIDES = (8, 16, 24, 32)
# Spacings of sheets that are recognised, in pixels.
_SPACINGS = (1, 2, 3, 4)
_PLAIN = "sheets of {0}x{0} tiles"
# Pixels that are processed at once, which bounds the memory.
_BLOCK = 1 << 20


class UnevenSheetError(ValueError):
    """A picture whose sides are not a whole number of tiles; its attribute `padded` is the size that would be."""

    def __init__(self, message: str, padded: str) -> None:
        super().__init__(message)
        self.padded = padded


@dataclass
class Cut:
    """How pictures are cut into tiles.

    Args:
        size: side of the pictures that result, one of 8, 16, 24, 32.
        tile: side of the tiles in the files, scaled to `size` where it differs; as `size` if not given.
        spacing: empty pixels between the tiles of a sheet; recognised if neither it nor margin is given.
        margin: empty pixels around a sheet.
        resize: take each picture as one tile, whatever its size: enlarged by a whole number, or averaged down.
        strict: raise when one file cannot be read, instead of leaving it out and naming it.

    Raises:
        ValueError: on another size, a tile without pixels, or a tile together with resize.
    """

    size: int = SIDE
    tile: int | None = None
    spacing: int | None = None
    margin: int | None = None
    resize: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        if self.size not in SIDES:
            raise ValueError(f"size is {self.size!r}, expected one of {', '.join(map(str, SIDES))}.")
        if self.tile is not None:
            check_count(self.tile, "tile", high=4096)
        if self.resize and (self.tile, self.spacing, self.margin) != (None, None, None):
            raise ValueError("resize takes each picture as one tile; leave tile, spacing and margin out, or resize.")

    @property
    def side(self) -> int:
        """Side of the tiles in the files."""
        return self.tile or self.size


@dataclass
class Tiles:
    """Distinct tiles and their classes.

    Attributes:
        images: uint8 (N, size, size, 3).
        classes: int (N,), indices of `class_names`.
        class_names: names of the sub-folders.
        said: sentences on what was read and what was left out.
        background: grey level, 0 to 255, that stands for transparent pixels.
    """

    images: np.ndarray
    classes: np.ndarray
    class_names: tuple[str, ...]
    said: list[str] = field(default_factory=list)
    background: int = 255


# ------------------------------------------------------------------------------------------------------------- files


@functools.cache
def _suffixes() -> tuple[set[str], set[str]]:
    """Suffixes of the formats that are read, and of other pictures, in lower case."""
    known = Image.registered_extensions()
    read = {suffix for suffix, kind in known.items() if kind in FORMATS}
    return read, (known.keys() - read) | _OTHER_SUFFIXES


def picture_files(folder: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """The picture files below a folder, sorted, and what was left out, by the reason. Links are not followed.

    Raises:
        OSError: when the folder itself cannot be read.
    """
    found: list[Path] = []
    left_out: dict[str, list[Path]] = {}

    def unreadable(error: OSError) -> None:
        path = Path(error.filename)
        if path == folder:
            raise OSError(f"cannot read the folder {folder} ({error.strerror}); check its permissions.") from error
        left_out.setdefault("folders that cannot be read", []).append(path)

    for place, folders, names in os.walk(folder, followlinks=False, onerror=unreadable):
        here = Path(place)
        for name in folders:
            if (here / name).is_symlink():
                left_out.setdefault("links", []).append(here / name)
        for path in (here / name for name in names):
            reason = _reason_to_leave_out(path, folder)
            if reason is None:
                found.append(path)
            elif reason:
                left_out.setdefault(reason, []).append(path)
    return sorted(found), {reason: sorted(paths) for reason, paths in left_out.items()}


def found_pictures(folder: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """What `picture_files` gives, with at least one picture.

    Raises:
        ValueError: when there is none.
        OSError: as `picture_files`.
    """
    files, left_out = picture_files(folder)
    if not files:
        others = "".join(f"; left out: {line}" for line in left_out_line(left_out))
        raise ValueError(f"found no picture in {folder}, expected {', '.join(FORMATS)} files{others}.")
    return files, left_out


def _reason_to_leave_out(path: Path, folder: Path) -> str | None:
    """Why a file is left out: None for a picture that is read, "" for what is no picture."""
    read, other = _suffixes()
    suffix = path.suffix.lower()
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)
    if suffix in other:
        return "" if hidden else "files of a kind that is not read"
    if suffix not in read:
        return ""
    if hidden:
        return "hidden files"
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return "links"
    return None if stat.S_ISREG(mode) else "pipes and devices"


def read_rgba(path: Path) -> np.ndarray:
    """Read a picture, the first frame of an animation, as uint8 (H, W, 4).

    Raises:
        ValueError: when the file is damaged, of another format, or a pipe or device.
    """
    return read_frame(path)[0]


def read_frame(path: Path) -> tuple[np.ndarray, bool]:
    """Read a picture as `read_rgba` does, and whether it is the first frame of an animation."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a folder, a pipe or a device, expected a picture file.")
    try:
        with Image.open(path, formats=FORMATS) as opened:
            animated = opened.format in ("PNG", "GIF", "WEBP") and getattr(opened, "is_animated", False)
            deep = "16" in str(opened.tile[0][3]) if opened.tile else False
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):
                return _grey_16_bits(picture), animated
            key = picture.info.get("transparency")
            if deep and isinstance(key, tuple):  # Pillow keeps 8 bits of the colours and 16 of the transparent one
                picture.info["transparency"] = tuple(value >> 8 for value in key)
            return np.array(picture.convert("RGBA")), animated
    except _UNREADABLE as error:
        kinds = ", ".join(FORMATS)
        raise ValueError(f"{path} is damaged or none of {kinds}: replace or remove it.") from error


def _grey_16_bits(picture: Image.Image) -> np.ndarray:
    """A grey picture of 16 bits, which Pillow would clip at 255, as uint8 (H, W, 4)."""
    grey = np.asarray(picture).astype(np.int64)
    alpha = np.full(grey.shape, 255)
    if isinstance(key := picture.info.get("transparency"), int):
        alpha[grey == key] = 0
    grey = grey >> 8 if grey.max(initial=0) > 255 else grey
    return np.stack([grey, grey, grey, alpha], axis=-1).astype(np.uint8)


def on_background(rgba: np.ndarray, background: int = 255) -> np.ndarray:
    """RGBA pixels, uint8 (..., 4), over a grey of 0 to 255: uint8 (..., 3)."""
    pixels = rgba.reshape(-1, 4)
    rgb = np.empty((len(pixels), 3), np.uint8)
    for first in range(0, len(pixels), _BLOCK):
        part = pixels[first : first + _BLOCK].astype(np.uint16)  # 255 * 255 + 127 fits
        alpha = part[:, 3:]
        rgb[first : first + _BLOCK] = (part[:, :3] * alpha + background * (255 - alpha) + 127) // 255
    return rgb.reshape(*rgba.shape[:-1], 3)


# ------------------------------------------------------------------------------------------------------------- tiles


def cut_tiles(rgba: np.ndarray, path: Path, cut: Cut) -> tuple[np.ndarray, str]:
    """Cut a picture into tiles, uint8 (N, size, size, 4), empty ones too; and how it was read, in words.

    Raises:
        UnevenSheetError: when its sides are not a whole number of tiles.
    """
    height, width, _ = rgba.shape
    side = cut.side
    scaled = "" if side == cut.size else f", made {cut.size}x{cut.size}"
    if (width, height) == (side, side):
        return _sized(rgba[None], cut.size), f"single pictures{scaled}"
    if cut.resize:
        return _sized(rgba[None], cut.size), f"pictures made {cut.size}x{cut.size}"
    for spacing, margin in _layouts(rgba, cut):
        rows, columns = (_tile_starts(length, side, spacing, margin) for length in (height, width))
        if rows and columns:
            tiles = np.stack([rgba[y : y + side, x : x + side] for y in rows for x in columns])
            between = f" with {spacing} pixels between" if spacing else ""
            around = f" and {margin} around" if margin else ""
            return _sized(tiles, cut.size), f"{_PLAIN.format(side)}{between}{around}{scaled}"
    padded = "x".join(str(-(-length // side) * side) for length in (width, height))
    raise UnevenSheetError(
        f"{path} has {width}x{height} pixels, not a whole number of {side}x{side} tiles, with or without empty pixels "
        f"between them: for a sheet give --tile, --spacing and --margin, or enlarge its canvas to {padded}; for single "
        "pictures --resize.",
        padded,
    )


def _is_single_picture(rgba: np.ndarray, side: int) -> bool:
    """Whether a picture continues across the lines where it would be cut, as a single one does and a sheet does not.

    Neighbouring pixels, one of them not background, differ across a cut hardly more than elsewhere. On sheets of
    sprites and of tiles they differ about twice as much; noise, which differs everywhere, counts as a sheet.
    """
    rgb = on_background(rgba)
    packed = rgb.astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16], np.uint32)
    colours, counts = np.unique(packed, return_counts=True)
    drawn = packed != colours[counts.argmax()]
    total, n = {True: 0.0, False: 0.0}, {True: 0, False: 0}
    for axis in (0, 1):
        lines, marked = np.moveaxis(rgb, axis, 0), np.moveaxis(drawn, axis, 0)
        for k in range(1, len(lines)):
            here = marked[k - 1] | marked[k]
            change = np.abs(lines[k - 1][here].astype(np.int16) - lines[k][here])
            total[k % side == 0] += change.sum(dtype=np.int64) / 3
            n[k % side == 0] += len(change)
    if n[True] < side // 2:
        return False
    across, elsewhere = (total[cut] / max(n[cut], 1) for cut in (True, False))
    return elsewhere < 60 and across < 1.4 * elsewhere


def _check_not_single(tried: Sequence[tuple[tuple[int, int], bool]], cut: Cut) -> None:
    """Raise ValueError when most pictures that were cut as sheets have one size and look like single ones."""
    alike = Counter(size for size, single in tried if single)
    (height, width), count = (alike.most_common(1) or [((0, 0), 0)])[0]
    if count < 4 or count < 0.6 * len(tried):
        return
    raise ValueError(
        f"{count} pictures of {width}x{height} pixels look like single ones, not like sheets of "
        f"{cut.size}x{cut.size} tiles: --resize takes each as one; if they are sheets, --tile {cut.size} cuts them."
    )


def _tile_starts(length: int, side: int, spacing: int, margin: int) -> range | None:
    """First pixels of the tiles along one side, None when they do not fit; the last may have its spacing behind it."""
    step = side + spacing
    rest = length - 2 * margin
    fits = rest > 0 and (rest % step == 0 or (rest + spacing) % step == 0)
    return range(margin, margin + rest, step) if fits else None


def _layouts(rgba: np.ndarray, cut: Cut) -> list[tuple[int, int]]:
    """The spacings and margins to try, the likeliest first."""
    if cut.spacing is not None or cut.margin is not None:
        return [(cut.spacing or 0, cut.margin or 0)]
    pairs = [(spacing, margin) for spacing in _SPACINGS for margin in dict.fromkeys((0, spacing, spacing // 2))]
    packed = np.ascontiguousarray(rgba).view(np.uint32)[..., 0]
    return [*(pair for pair in pairs if _gaps_are_empty(packed, cut.side, *pair)), (0, 0)]


def _gaps_are_empty(packed: np.ndarray, side: int, spacing: int, margin: int) -> bool:
    """Whether all pixels between the tiles of this layout have one colour, and the tiles are not all of one colour.

    `packed` is uint32 (H, W), alpha in the highest byte.
    """
    pixels = 0
    for axis, length in enumerate(packed.shape):
        starts = _tile_starts(length, side, spacing, margin)
        if starts is None:
            return False
        inside = np.zeros(length, bool)
        for start in starts:
            inside[start : start + side] = True
        gaps = np.compress(~inside, packed, axis=axis).reshape(-1)
        pixels += len(gaps)
        if len(gaps) and not ((gaps >> 24 == 0).all() or (gaps == gaps[0]).all()):
            return False
    return pixels > 0 and bool((packed != packed[0, 0]).any())


def _sized(tiles: np.ndarray, size: int) -> np.ndarray:
    """Tiles (N, H, W, 4) as (N, size, size, 4)."""
    if tiles.shape[1:3] == (size, size):
        return tiles
    return np.stack([fitted(tile, size) for tile in tiles])


def fitted_shape(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Height and width that a picture of this shape has in a tile, see `fitted`."""
    longer = max(shape)
    if longer <= size:
        return shape[0] * (size // longer), shape[1] * (size // longer)
    return max(1, round(shape[0] * size / longer)), max(1, round(shape[1] * size / longer))


def fitted(rgba: np.ndarray, size: int) -> np.ndarray:
    """A picture uint8 (H, W, 4) as one tile (size, size, 4), centred on transparency.

    Enlarged by a whole number where it fits in, else shrunk.
    """
    height, width = fitted_shape(rgba.shape[:2], size)
    resample = Image.Resampling.NEAREST if height >= rgba.shape[0] else Image.Resampling.BOX
    picture = Image.fromarray(rgba).resize((width, height), resample)
    tile = Image.new("RGBA", (size, size))
    tile.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return np.asarray(tile)


# ----------------------------------------------------------------------------------------------------------- folders


def read_folder(folder: Path, cut: Cut) -> Tiles:
    """Read every picture below a folder: distinct tiles that are not empty, labelled by sub-folder.

    Raises:
        ValueError: when there are not two of them, or, with `strict`, a file or folder cannot be read.
        OSError: when the folder cannot be read.
    """
    files, left_out = found_pictures(folder)
    if cut.strict and (unread := left_out.get("folders that cannot be read")):
        raise ValueError(f"cannot read the folder {unread[0]}; check its permissions, or leave --strict out.")
    groups = _groups(folder, files)
    read = read_groups(groups, cut)
    return _distinct(folder, read, tuple(map(_printable, groups)), left_out | read.left_out)


@dataclass
class GroupedPictures:
    """The pictures of several groups of files.

    Attributes:
        images: uint8 (N, H, W, 3).
        groups: int (N,), the number of the group of each.
        said: sentences on how they were read.
        left_out: files that were left out, by the reason.
        background: grey level that stands for transparent pixels.
    """

    images: np.ndarray
    groups: np.ndarray
    said: list[str]
    left_out: dict[str, list[Path]]
    background: int


def read_groups(groups: Mapping[str, Sequence[Path]], cut: Cut | None) -> GroupedPictures:
    """Read the pictures of each group, cut into tiles that are not empty; without `cut` uncut, and of one size.

    Raises:
        ValueError: when no file can be read, with `strict` one, or uncut pictures are of several sizes.
    """
    tiles: list[np.ndarray] = []
    numbers, tried, animated, empty = [], [], [], []
    readings: Counter[str] = Counter()
    failed: dict[Path, ValueError] = {}
    files = [(c, path) for c, paths in enumerate(groups.values()) for path in paths]
    for c, path in progress(files, desc="reading pictures", unit="file"):
        try:
            rgba, moving = read_frame(path)
            found, reading = (rgba[None], "whole pictures") if cut is None else cut_tiles(rgba, path, cut)
        except ValueError as error:
            if cut is not None and cut.strict:
                raise
            failed[path] = error
            continue
        readings[reading] += 1
        animated += [path] * moving
        if cut is not None and cut.tile is None and reading == _PLAIN.format(cut.size):
            tried.append((rgba.shape[:2], _is_single_picture(rgba, cut.size)))
        full = np.ones(len(found), bool) if cut is None else _not_empty(found)
        empty += [path] * int((~full).sum())
        if tiles and found.shape[1:] != tiles[0].shape[1:]:
            (height, width), (high, wide) = found.shape[1:3], tiles[0].shape[1:3]
            raise ValueError(
                f"{path} is {width}x{height} pixels, others are {wide}x{high}: cut them with --tile, or --resize them."
            )
        tiles.append(found[full])
        numbers.append(np.full(int(full.sum()), c))
    if not tiles:
        raise ValueError(str(min(failed.values(), key=lambda error: not isinstance(error, UnevenSheetError))))
    if cut is not None:
        _check_not_single(tried, cut)
    said = [", ".join(f"{count} {reading}" for reading, count in readings.items())]
    if animated:
        said.append(f"the first frame of {len(animated)} animations (first: {animated[0].name})")
    images, background = _visible(np.concatenate(tiles))
    if background != 255:
        said.append("light drawings on transparency, put on black")
    left_out = {"empty tiles": empty, **_failed_by_reason(failed, cut)}
    return GroupedPictures(images, np.concatenate(numbers), said, left_out, background)


def _failed_by_reason(failed: Mapping[Path, ValueError], cut: Cut | None) -> dict[str, list[Path]]:
    """Files that could not be used, by what to do about them."""
    uneven = {path: error for path, error in failed.items() if isinstance(error, UnevenSheetError)}
    reasons = {"files that cannot be read": [path for path in failed if path not in uneven]}
    if uneven and cut is not None:
        padded = next(iter(uneven.values())).padded
        reasons[
            f"files that are not a whole number of {cut.side}x{cut.side} tiles; enlarge the canvas of a sheet, here to "
            f"{padded}; --resize takes each as one tile"
        ] = list(uneven)
    return reasons


def left_out_line(left_out: Mapping[str, Sequence[Path]]) -> list[str]:
    """What was left out: for each reason the number of files and the name of the first."""
    return [
        f"{len(paths)} {reason} (first: {_printable(paths[0].name)})" for reason, paths in left_out.items() if paths
    ]


def _printable(name: str) -> str:
    """A file name with bytes that are not UTF-8 written as escapes: not every output takes them."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _blocks(tiles: np.ndarray) -> Iterator[slice]:
    """Slices of tiles (N, H, W, 4) that bound the memory of what is computed from them."""
    step = max(1, _BLOCK // max(1, tiles[0].size)) if len(tiles) else 1
    return (slice(first, first + step) for first in range(0, len(tiles), step))


def _not_empty(tiles: np.ndarray) -> np.ndarray:
    """Which tiles are not empty: not transparent, and not white, in every pixel."""
    pixels = np.ascontiguousarray(tiles).view(np.uint32).reshape(len(tiles), -1)
    return (pixels >> 24 != 0).any(axis=1) & (pixels != 0xFFFFFFFF).any(axis=1)


def _visible(rgba: np.ndarray) -> tuple[np.ndarray, int]:
    """Tiles on white, or on black where most of them would be all but invisible on white; and that grey level."""
    light = np.zeros(len(rgba), bool)
    transparent = False
    for block in _blocks(rgba):
        part = rgba[block]
        transparent |= bool((part[..., 3] == 0).any())
        drawn = (part[..., 3] > 127)[..., None]
        darkness = ((255 - on_background(part).astype(int)) * drawn).sum(axis=(1, 2, 3))
        light[block] = darkness / (3 * drawn.sum(axis=(1, 2, 3)).clip(1)) < 20
    background = 0 if transparent and light.mean() > 0.5 else 255
    return on_background(rgba, background), background


def _groups(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by class, the name of the sub-folder.

    Folders that contain one other folder and nothing else, as archives have them, are skipped.
    """
    top = folder
    while len(inner := {path.relative_to(top).parts[0] for path in files}) == 1 and (top / next(iter(inner))).is_dir():
        if all(path.parent == top / next(iter(inner)) for path in files):
            break
        top = top / next(iter(inner))
    beside: list[Path] = []
    inside: dict[str, list[Path]] = {}
    for path in files:
        group = beside if path.parent == top else inside.setdefault(path.relative_to(top).parts[0], [])
        group.append(path)
    if not inside:
        return {"sprite": beside}
    # Files beside the sub-folders are a class too, named after the folder that holds all.
    name = top.resolve().name
    return inside | ({f"{name}/" if name in inside else name: beside} if beside else {})


def _distinct(
    folder: Path, read: GroupedPictures, names: tuple[str, ...], left_out: Mapping[str, Sequence[Path]]
) -> Tiles:
    """Each picture once, in the class that has it first; classes that end up empty are named and left out."""
    images, classes, said = read.images, read.groups, [*read.said]
    count = len(images)
    if count:
        first = np.sort(np.unique(as_rows(images), return_index=True)[1])
        images, classes = images[first], classes[first]
    lines = left_out_line(left_out)
    if count > len(images):
        lines.append(f"{count - len(images)} repeated tiles")
    present = np.unique(classes)
    gone = [name for c, name in enumerate(names) if c not in present]
    if gone and len(present):
        lines.append(
            f"{len(gone)} classes that ended up empty ({', '.join(gone[:5])}{', ...' if len(gone) > 5 else ''})"
        )
        classes, names = np.searchsorted(present, classes), tuple(names[c] for c in present)
    if lines:
        said.append(f"left out: {', '.join(lines)}")
    if len(images) < 2:
        raise ValueError(
            f"Found {len(images)} distinct tiles that are not empty in {folder}, expected at least 2, "
            f"one to train on and one to hold out: add pictures. {'; '.join(said)}"
        )
    return Tiles(images, classes, names, said, read.background)
