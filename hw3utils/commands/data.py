"""`hw3 data`: show and fetch the sprites."""

import argparse
from pathlib import Path

from hw3utils.commands import check_png, cut_arguments, cut_of, data_arguments

HELP = "show and fetch the sprites"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    data_arguments(parser)
    cut_arguments(parser)
    parser.add_argument("--preview", action="store_true", help="write a labelled picture of each class")
    parser.add_argument("--out", type=Path, default=Path("out/sprites.png"), help="where --preview writes, a PNG file")


def call(args: argparse.Namespace) -> int:
    """Describe them, and draw the preview if it was asked for."""
    from hw3utils.files import write_atomically
    from hw3utils.sprites import describe, load_sprites, preview

    if args.preview:
        check_png(args.out)
    data = load_sprites(args.source, root=args.root, how=cut_of(args))
    print(describe(data))
    if args.preview:
        write_atomically(args.out, lambda temporary: preview(data, temporary))
        print(f"a labelled picture of each class is in {args.out}")
    return 0
