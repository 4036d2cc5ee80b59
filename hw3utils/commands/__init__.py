"""The commands of `hw3`, one file each: its arguments, its function. Here is what several of them share."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from hw3utils.sprites.pictures import Cut


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        """End the program with that line and exit code 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --source and --root: which sprites."""
    parser.add_argument(
        "--source",
        default="embedded",
        help="embedded (sprites drawn by our generator), real (the course's files), or a folder of pictures",
    )
    parser.add_argument("--root", type=Path, help="folder of the real files (default: the cache, else a download)")


def cut_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how the pictures of a folder are cut into tiles."""
    parser.add_argument(
        "--size", type=int, choices=[8, 16, 24, 32], default=16, help="side of the pictures (default: 16)"
    )
    parser.add_argument("--tile", type=count, help="of a sheet: side of a tile, made --size (default: --size)")
    parser.add_argument("--spacing", type=_pixels, help="of a sheet: pixels between tiles (default: recognised)")
    parser.add_argument("--margin", type=_pixels, help="of a sheet: pixels around the tiles (default: recognised)")
    parser.add_argument("--resize", action="store_true", help="take each picture as one tile, whatever its size")
    parser.add_argument("--strict", action="store_true", help="refuse all when one picture cannot be read")


def _pixels(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def cut_of(args: argparse.Namespace) -> "Cut | None":
    """What `cut_arguments` added, or None where nothing was said."""
    from hw3utils.sprites.pictures import Cut

    how = Cut(args.size, args.tile, args.spacing, args.margin, args.resize, args.strict)
    return None if how == Cut() else how


def check_png(path: Path) -> None:
    """Raise ValueError or OSError unless a PNG file can be written there, before the work that ends in it."""
    from hw3utils.files import check_writable

    if path.suffix.lower() != ".png" or path.is_dir():
        raise ValueError(f"--out is {path}, expected the name of a PNG file.")
    check_writable(path.parent)
