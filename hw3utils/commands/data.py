"""`hw3 data`: show and download the sprites."""

import argparse
from pathlib import Path

from hw3utils.commands import check_png, cut_arguments, cut_of, data_arguments, path, refuse_unused

HELP = "show and download the sprites"
OUT = Path("out/sprites.png")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    data_arguments(parser)
    cut_arguments(parser)
    parser.add_argument("--preview", action="store_true", help="write a labelled picture of each class")
    parser.add_argument("--out", type=path, help=f"with --preview: the PNG file to write (default: {OUT})")


def call(args: argparse.Namespace) -> int:
    """Describe the sprites, and write the preview with --preview."""
    from hw3utils.files import write_atomically
    from hw3utils.sprites import describe, load_sprites, preview

    out = args.out or OUT
    if args.preview:
        check_png(out)
    else:
        refuse_unused(args, ["out"], "is the file of --preview; add --preview")
    data = load_sprites(args.source, root=args.root, cut=cut_of(args))
    print(describe(data))
    if args.preview:
        write_atomically(out, lambda temporary: preview(data, temporary))
        print(f"a labelled picture of each class is in {out}")
    return 0
