"""`hw3 release`: make the student edition."""

import argparse
from pathlib import Path

HELP = "make the student edition of the notebooks (needs nbgrader)"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="number, name or path (default: all)")
    parser.add_argument("--out", type=Path, default=Path("out/release"), help="folder of the edition")


def call(args: argparse.Namespace) -> int:
    """Write the edition."""
    from hw3utils.course.release import release

    written = release(args.out, args.notebooks)
    print(f"{len(written)} notebooks of the student edition are in {args.out}")
    return 0
