"""The commands of `hw3`, one file each, and the argument types and options that several of them share."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hw3utils.progress import printable

if TYPE_CHECKING:
    from hw3utils.sprites.pictures import Cut


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with code 2."""
        self.exit(2, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")


def count(text: str) -> int:
    """An integer of at least 1, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return value


def path(text: str) -> Path:
    """A path, with `~` for the home folder, for argparse."""
    from hw3utils.files import expanded

    try:
        return expanded(text)
    except OSError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def name_or_path(text: str) -> str:
    """A name, or a path with `~` for the home folder, for argparse."""
    return str(path(text)) if text.startswith("~") else text


def data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --source and --root: which sprites."""
    parser.add_argument(
        "--source",
        type=name_or_path,
        default="embedded",
        help="embedded (sprites drawn by our generator), real (the course's files), or a folder of pictures",
    )
    parser.add_argument("--root", type=path, help="folder of the real files (default: the cache, else a download)")


def cut_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how the pictures of a folder are cut into tiles."""
    parser.add_argument(
        "--size", type=int, choices=[8, 16, 24, 32], default=16, help="side of the pictures (default: 16)"
    )
    parser.add_argument("--tile", type=count, help="of a sheet: side of a tile, scaled to --size (default: --size)")
    parser.add_argument("--spacing", type=_pixels, help="of a sheet: pixels between tiles (default: recognised)")
    parser.add_argument("--margin", type=_pixels, help="of a sheet: pixels around the tiles (default: recognised)")
    parser.add_argument("--resize", action="store_true", help="take each picture as one tile, whatever its size")
    parser.add_argument("--strict", action="store_true", help="end with an error when one picture cannot be read")


def _pixels(text: str) -> int:
    """An integer of at least 0, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 0")
    return int(text)


def cut_of(args: argparse.Namespace) -> "Cut | None":
    """The `Cut` of the options that `cut_arguments` added, None when all have their defaults."""
    from hw3utils.sprites.pictures import Cut

    cut = Cut(args.size, args.tile, args.spacing, args.margin, args.resize, args.strict)
    return None if cut == Cut() else cut


def refuse_unused(args: argparse.Namespace, options: Iterable[str], reason: str) -> None:
    """Raise ValueError when one of these options (default None or False) was given, which would have no effect."""
    for option in options:
        if getattr(args, option.replace("-", "_")) not in (None, False):
            raise ValueError(f"--{option} {reason}; leave it out.")


def check_png(out: Path) -> None:
    """Raise ValueError or OSError unless a PNG file can be written there, before the work that ends in it."""
    from hw3utils.files import check_output

    if out.suffix.lower() != ".png" or out.is_dir():
        raise ValueError(f"--out is {out}, expected the name of a PNG file.")
    check_output(out)
