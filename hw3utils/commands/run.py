"""`hw3 run`: execute the notebooks."""

import argparse
from pathlib import Path

from hw3utils.commands import count

HELP = "execute the notebooks in number order"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="number, name or path (default: all)")
    parser.add_argument("--profile", choices=["quick", "full"], help="sizes (default: $HW3_PROFILE, else quick)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of executed copies, HTML and figures")
    parser.add_argument("--update", action="store_true", help="replace the committed notebooks and figures too")
    parser.add_argument(
        "--jobs", type=count, help="notebooks at the same time, each with its share of the cores (default: at most 2)"
    )


def call(args: argparse.Namespace) -> int:
    """Run them; 1 when a notebook failed."""
    from hw3utils.course.notebooks.execute import run_notebooks
    from hw3utils.course.profiles import current_profile

    profile = args.profile or current_profile().name
    outcomes = run_notebooks(args.notebooks, profile=profile, out=args.out, update=args.update, jobs=args.jobs)
    return 1 if any(outcome.error for outcome in outcomes) else 0
