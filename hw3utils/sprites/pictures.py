"""Other people's pictures: files of any usual kind, single ones and sheets, cut into tiles; what is dropped is said."""

import os
import struct
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from hw3utils.arguments import check_count
from hw3utils.sprites.grammar import SIDE

# What is read, by Pillow's names and by the ends of the files' names.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
ENDS = (".png", ".apng", ".jpg", ".jpeg", ".gif", ".webp", ".bmp")
# Pictures too, but not read: they are named, not passed over.
OTHER_ENDS = (
    *(".tif", ".tiff", ".tga", ".psd", ".xcf", ".svg", ".ase", ".aseprite", ".kra", ".ico", ".dds", ".avif", ".heic"),
    *(".ppm", ".pgm", ".pcx", ".jp2", ".jxl", ".exr", ".qoi"),
)
# What Pillow raises on a damaged file.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error, Image.DecompressionBombError)
# Sides of the pictures that come out.
SIDES = (8, 16, 24, 32)
# Lines between tiles that are looked for when nothing is said, in pixels.
_SPACINGS = (1, 2, 3, 4)
_PLAIN = "sheets of {0}x{0} tiles"


class Uneven(ValueError):
    """A picture that does not come out in whole tiles."""


@dataclass
class Cut:
    """How pictures are cut into tiles.

    Args:
        size: side of the pictures that come out, one of 8, 16, 24, 32.
        tile: side of the tiles in the files, made `size` where it is another; as `size` if not given.
        spacing: empty lines between the tiles of a sheet, in pixels; recognised if neither it nor margin is given.
        margin: empty lines around a sheet.
        resize: take each picture as one tile, whatever its size: enlarged by whole numbers, or shrunk by its areas.
        strict: refuse all when one file cannot be read; else it is left out and named.

    Raises:
        ValueError: on another size, a tile without pixels, or a tile together with resize, which cuts none.
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
            raise ValueError("resize takes each picture whole; leave tile, spacing and margin out, or resize.")


@dataclass
class Tiles:
    """Distinct tiles, their classes, and sentences on what was read and what was left out."""

    images: np.ndarray
    classes: np.ndarray
    class_names: tuple[str, ...]
    said: list[str] = field(default_factory=list)


def picture_files(folder: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """The picture files below a folder, sorted; and those left out, by the reason. Links are not followed."""
    found, left_out = [], {}
    for place, folders, names in os.walk(folder, followlinks=False):
        here = Path(place)
        for name in sorted(folders):
            if (here / name).is_symlink():
                left_out.setdefault("links", []).append(here / name)
        for name in names:
            path = here / name
            hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)
            if path.suffix.lower() in OTHER_ENDS and not hidden:
                left_out.setdefault("files of a kind that is not read", []).append(path)
            elif path.suffix.lower() in ENDS:
                reason = "hidden files" if hidden else "links" if path.is_symlink() else None
                (left_out.setdefault(reason, []) if reason else found).append(path)
    return sorted(found), {reason: sorted(paths) for reason, paths in left_out.items()}


def read_rgba(path: Path) -> np.ndarray:
    """Read a picture, the first of an animation, as uint8 (H, W, 4).

    Raises:
        ValueError: when the file is damaged or of another kind.
    """
    try:
        with Image.open(path, formats=FORMATS) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):  # grey of 16 bits, which Pillow would cut off at 255
                grey = np.asarray(picture).astype(np.int64)
                picture = Image.fromarray((grey >> 8 if grey.max(initial=0) > 255 else grey).astype(np.uint8))
            return np.array(picture.convert("RGBA"))
    except _UNREADABLE as error:
        kinds = ", ".join(FORMATS)
        raise ValueError(f"{path} is damaged or none of {kinds}: replace or remove it.") from error


def on_background(rgba: np.ndarray, background: int = 255) -> np.ndarray:
    """RGBA pixels, uint8 (..., 4), on a grey of 0 to 255: uint8 (..., 3)."""
    rgba = rgba.astype(np.uint32)
    alpha = rgba[..., 3:]
    return ((rgba[..., :3] * alpha + background * (255 - alpha) + 127) // 255).astype(np.uint8)


def cut(rgba: np.ndarray, path: Path, how: Cut) -> tuple[np.ndarray, str]:
    """Cut a picture into tiles, uint8 (N, size, size, 4), empty ones too; and how it was read.

    Raises:
        ValueError: when the picture does not come out even.
    """
    height, width, _ = rgba.shape
    side = how.tile or how.size
    made = "" if side == how.size else f", made {how.size}x{how.size}"
    if (width, height) == (side, side):
        return _sized(rgba[None], how.size), f"single pictures{made}"
    if how.resize:
        return _sized(rgba[None], how.size), f"pictures made {how.size}x{how.size}"
    for spacing, margin in _readings(rgba, how):
        places = [_places(length, side, spacing, margin) for length in (height, width)]
        if all(places):
            tiles = np.stack([rgba[y : y + side, x : x + side] for y in places[0] for x in places[1]])
            lines = f" with {spacing} pixels between" if spacing else ""
            around = f" and {margin} around" if margin else ""
            return _sized(tiles, how.size), f"{_PLAIN.format(side)}{lines}{around}{made}"
    raise Uneven(
        f"{path} has {width}x{height} pixels, no whole number of {side}x{side} tiles, close together or with empty "
        "lines between: for a sheet give --tile, --spacing and --margin, for single pictures --resize."
    )


def _goes_on(rgba: np.ndarray, side: int) -> bool:
    """Whether a picture goes on over the lines where it would be cut, as a single one does and a sheet does not.

    Neighbouring pixels, one of them not background, differ across a line hardly more than elsewhere. On sheets of
    sprites and of tiles they differ about twice as much; noise, which differs everywhere, is no single picture.
    """
    rgb = on_background(rgba).astype(int)
    colours, counts = np.unique(rgb.reshape(-1, 3), axis=0, return_counts=True)
    background = colours[counts.argmax()]
    across, elsewhere = [], []
    for axis in (0, 1):
        lines = np.moveaxis(rgb, axis, 0)
        one, next_one = lines[:-1], lines[1:]
        drawn = (one != background).any(-1) | (next_one != background).any(-1)
        change = np.abs(one - next_one).mean(-1)
        cut_here = np.arange(1, len(lines)) % side == 0
        across.append(change[cut_here][drawn[cut_here]])
        elsewhere.append(change[~cut_here][drawn[~cut_here]])
    here, usual = np.concatenate(across), np.concatenate(elsewhere)
    return len(here) >= side // 2 and usual.mean() < 60 and here.mean() < 1.4 * usual.mean()


def _check_not_single(tried: Sequence[tuple[tuple[int, int], bool]], how: Cut) -> None:
    """Raise ValueError when most pictures that were cut as sheets have one size and look like single ones."""
    alike = Counter(size for size, goes_on in tried if goes_on)
    (height, width), count = (alike.most_common(1) or [((0, 0), 0)])[0]
    if count < 4 or count < 0.6 * len(tried):
        return
    raise ValueError(
        f"{count} pictures of {width}x{height} pixels look like single ones, not like sheets of "
        f"{how.size}x{how.size} tiles: --resize takes each as one; if they are sheets, --tile {how.size} cuts them."
    )


def _places(length: int, side: int, spacing: int, margin: int) -> range | None:
    """Where tiles begin along one side; the last may have its spacing behind it."""
    step = side + spacing
    rest = length - 2 * margin
    if rest > 0 and (rest + spacing) % step == 0:
        return range(margin, margin + rest, step)
    return range(margin, margin + rest, step) if rest > 0 and rest % step == 0 else None


def _readings(rgba: np.ndarray, how: Cut) -> list[tuple[int, int]]:
    """The spacings and margins to try, the likeliest first."""
    if how.spacing is not None or how.margin is not None:
        return [(how.spacing or 0, how.margin or 0)]
    side = how.tile or how.size
    found = [(s, m) for s in _SPACINGS for m in dict.fromkeys((0, s, s // 2)) if _lines_are_empty(rgba, side, s, m)]
    return [*found, (0, 0)]


def _lines_are_empty(rgba: np.ndarray, side: int, spacing: int, margin: int) -> bool:
    """Whether all lines between the tiles of this reading are of one colour, while there is something in the tiles."""
    lines = 0
    for axis, length in enumerate(rgba.shape[:2]):
        places = _places(length, side, spacing, margin)
        if places is None:
            return False
        inside = np.zeros(length, bool)
        for place in places:
            inside[place : place + side] = True
        between = np.compress(~inside, rgba, axis=axis).reshape(-1, 4)
        lines += len(between)
        if len(between) and not ((between[:, 3] == 0).all() or (between == between[0]).all()):
            return False
    return lines > 0 and len(np.unique(rgba.reshape(-1, 4), axis=0)) > 1


def _sized(tiles: np.ndarray, size: int) -> np.ndarray:
    """Tiles (N, H, W, 4) as (N, size, size, 4)."""
    if tiles.shape[1:3] == (size, size):
        return tiles
    return np.stack([fitted(tile, size) for tile in tiles])


def fitted(rgba: np.ndarray, size: int) -> np.ndarray:
    """A picture uint8 (H, W, 4) as one tile (size, size, 4), centred on transparency.

    Enlarged by a whole number where it fits in, else shrunk.
    """
    height, width, _ = rgba.shape
    picture = Image.fromarray(rgba)
    if max(height, width) <= size:
        times = size // max(height, width)
        picture = picture.resize((width * times, height * times), Image.Resampling.NEAREST)
    else:
        ratio = size / max(height, width)
        smaller = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        picture = picture.resize(smaller, Image.Resampling.BOX)
    tile = Image.new("RGBA", (size, size))
    tile.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return np.asarray(tile)


def read_folder(folder: Path, how: Cut) -> Tiles:
    """Read every picture below a folder: distinct tiles that are not empty, labelled by sub-folder.

    Raises:
        ValueError: when there are not two of them, or, with `strict`, a file cannot be read.
    """
    files, left_out = picture_files(folder)
    groups = _groups(folder, files, how)
    images, classes, said, dropped = read_groups(groups, how)
    return _distinct(folder, images, classes, tuple(groups), said, left_out | dropped)


def read_groups(
    groups: Mapping[str, Sequence[Path]], how: Cut | None
) -> tuple[np.ndarray, np.ndarray, list[str], dict[str, list[Path]]]:
    """Read the pictures of each group, cut into tiles that are not empty; without `how` whole, and of one size.

    Returns:
        Images uint8 (N, H, W, 3), the number of the group of each, sentences on how they were read, and the files that
        were left out, by the reason.

    Raises:
        ValueError: when no file can be read, with `strict` one, or whole pictures are of several sizes.
    """
    tiles, classes, readings, unread, uneven = [], [], {}, {}, {}
    empty: list[Path] = []
    tried: list[tuple[tuple[int, int], bool]] = []
    for c, path in ((c, path) for c, paths in enumerate(groups.values()) for path in paths):
        try:
            rgba = read_rgba(path)
            found, reading = (rgba[None], "whole pictures") if how is None else cut(rgba, path, how)
        except ValueError as error:
            if how is not None and how.strict:
                raise
            (uneven if isinstance(error, Uneven) else unread)[path] = str(error)
            continue
        readings[reading] = readings.get(reading, 0) + 1
        if how is not None and how.tile is None and reading == _PLAIN.format(how.size):
            tried.append((rgba.shape[:2], _goes_on(rgba, how.size)))
        full = np.ones(len(found), bool) if how is None else _not_empty(found)
        empty += [path] * int((~full).sum())
        if tiles and found.shape[1:] != tiles[0].shape[1:]:
            (height, width), (high, wide) = found.shape[1:3], tiles[0].shape[1:3]
            raise ValueError(
                f"{path} is {width}x{height} pixels, others are {wide}x{high}: cut them with --tile, or --resize them."
            )
        tiles.append(found[full])
        classes.append(np.full(int(full.sum()), c))
    if not tiles:
        raise ValueError(next(iter((uneven | unread).values())))
    _check_not_single(tried, how)
    said = [", ".join(f"{count} {reading}" for reading, count in readings.items())]
    images, background = _visible(np.concatenate(tiles))
    if background != 255:
        said.append("light drawings on transparency, put on black")
    dropped = {"files that cannot be read": list(unread), "empty tiles": empty}
    if uneven:
        side = how.tile or how.size
        dropped[f"files that are no whole number of {side}x{side} tiles, which --resize takes whole"] = list(uneven)
    return images, np.concatenate(classes), said, dropped


def left_out_line(left_out: Mapping[str, Sequence[Path]]) -> list[str]:
    """What was left out, each reason with the number of files and the first one's name."""
    return [f"{len(paths)} {reason} (first: {paths[0].name})" for reason, paths in left_out.items() if paths]


def _not_empty(tiles: np.ndarray) -> np.ndarray:
    """Which tiles hold something: by transparency where a tile has any, else by not being white all over."""
    clear = (tiles[..., 3] == 0).all(axis=(1, 2))
    white = (tiles == 255).all(axis=(1, 2, 3))
    return ~(clear | white)


def _visible(rgba: np.ndarray) -> tuple[np.ndarray, int]:
    """Tiles on white; on black where most of them are all but invisible on white."""
    images = on_background(rgba)
    if len(rgba) and (rgba[..., 3] == 0).any():
        drawn = (rgba[..., 3] > 127)[..., None]
        darkness = ((255 - images.astype(int)) * drawn).sum(axis=(1, 2, 3)) / (3 * drawn.sum(axis=(1, 2, 3)).clip(1))
        if (darkness < 20).mean() > 0.5:
            return on_background(rgba, 0), 0
    return images, 255


def _groups(folder: Path, files: Sequence[Path], how: Cut) -> dict[str, list[Path]]:
    """Files by class: the name of the sub-folder. A folder that holds but one other, as archives do, is passed by."""
    if not files:
        raise ValueError(
            f"Found no picture in {folder}, expected {', '.join(FORMATS)} files: single ones or sheets of "
            f"{how.size}x{how.size} tiles."
        )
    top = folder
    while len(inner := {path.relative_to(top).parts[0] for path in files}) == 1 and (top / next(iter(inner))).is_dir():
        if all(path.parent == top / next(iter(inner)) for path in files):
            break
        top = top / next(iter(inner))
    beside, inside = [], {}
    for path in files:
        within = beside if path.parent == top else inside.setdefault(path.relative_to(top).parts[0], [])
        within.append(path)
    if not inside:
        return {"sprite": beside}
    # Those beside the sub-folders are a class too, by the name of the folder that holds all.
    name = top.resolve().name
    return inside | ({f"{name}/" if name in inside else name: beside} if beside else {})


def _distinct(
    folder: Path, images: np.ndarray, classes: np.ndarray, names: tuple[str, ...], said: list[str],
    left_out: Mapping[str, Sequence[Path]],
) -> Tiles:  # fmt: skip
    """Each picture once, in the class that has it first; classes that end up empty are named and left out."""
    count = len(images)
    if count:
        rows = images.reshape(count, -1)
        first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
        images, classes = images[first], classes[first]
    lines = left_out_line(left_out)
    if count > len(images):
        lines.append(f"{count - len(images)} repeated tiles")
    there = [c for c in range(len(names)) if (classes == c).any()]
    gone = [names[c] for c in range(len(names)) if c not in there]
    if gone and there:
        lines.append(
            f"{len(gone)} classes that ended up empty ({', '.join(gone[:5])}{', ...' if len(gone) > 5 else ''})"
        )
        classes = np.searchsorted(there, classes)
        names = tuple(names[c] for c in there)
    if lines:
        said.append(f"left out: {', '.join(lines)}")
    if len(images) < 2:
        raise ValueError(
            f"Found {len(images)} distinct tiles that are not empty in {folder}, expected at least 2, "
            f"one to train on and one to hold out: add pictures. {'; '.join(said)}"
        )
    return Tiles(images, classes, names, said)
