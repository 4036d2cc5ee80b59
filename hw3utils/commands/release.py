"""`hw3 release`: write the student edition."""

import argparse
from pathlib import Path

HELP = "write the student edition: notebooks, README, package (needs nbgrader)"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="number, name or path (default: all)")
    parser.add_argument("--out", type=Path, default=Path("out/release"), help="folder of the edition")
    parser.add_argument("--answers", action="store_true", help="fold each solution below its exercise, to learn alone")
    parser.add_argument("--due", default="", help="the deadline, as the README says it")
    parser.add_argument("--rules", default="", help="the README's text on working together")


def call(args: argparse.Namespace) -> int:
    """Write the edition."""
    from hw3utils.course.release import release

    options = {"answers": args.answers, "due": args.due, "rules": args.rules}
    written = release(args.out, args.notebooks, package=True, **options)
    print(f"{len(written)} notebooks of the student edition are in {args.out}")
    return 0
