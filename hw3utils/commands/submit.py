"""`hw3 submit`: check the homework and pack it into one archive."""

import argparse
from pathlib import Path

from hw3utils.commands import count

HELP = "check your homework and pack it into one archive"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="FOLDER", help="default: this folder")
    parser.add_argument("--out", type=Path, default=Path("submission.zip"), help="the archive, a zip file")
    parser.add_argument("--timeout", type=count, default=120, help="seconds that a cell of a check may take")


def call(args: argparse.Namespace) -> int:
    """Pack it; warnings do not stop that."""
    from hw3utils.course.student.submit import report, submit
    from hw3utils.progress import printable

    result = submit(args.folder, args.out, timeout=args.timeout)
    for name, parts in result.checks.items():
        print("\n".join([printable(name), *(part.line() for part in parts), ""]))
    print("\n".join(report(result, args.out)))
    return 0
