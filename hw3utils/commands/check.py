"""`hw3 check`: run the checks of notebooks."""

import argparse
from pathlib import Path

from hw3utils.commands import count

HELP = "run the checks of your notebooks, without the experiments"
NO_EDITION = "checked as they are, for the file {} with the notebooks as you got them is not beside them"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "notebooks", nargs="*", type=Path, metavar="NOTEBOOK", help="path (default: all notebooks of this folder)"
    )
    parser.add_argument("--timeout", type=count, default=120, help="seconds that a cell may take")


def call(args: argparse.Namespace) -> int:
    """Check them; 1 when something that gives points is missing or fails."""
    from hw3utils.course.assignment import EDITION
    from hw3utils.course.student.check import DONE, as_released, check_notebook, summary
    from hw3utils.progress import printable

    paths = args.notebooks or sorted(Path().glob("*.ipynb"))
    if not paths:
        raise ValueError("there are no notebooks in this folder; go to the folder of yours, or give their paths.")
    results = {}
    for path in paths:
        results[path.name] = check_notebook(path, timeout=args.timeout)
        print(f"\n{printable(path.name)}")
        for part in results[path.name]:
            print(part.line(), flush=True)
    unknown = [path.name for path in paths if as_released(path) is None]
    if unknown:
        print(f"\n{NO_EDITION.format(EDITION)}: {printable(', '.join(unknown))}")
    print(f"\n{summary(results)}")
    return 0 if all(part.state == DONE for parts in results.values() for part in parts if part.possible) else 1
