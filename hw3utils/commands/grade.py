"""`hw3 grade`: grade submissions."""

import argparse
from pathlib import Path

from hw3utils.commands import count
from hw3utils.course.profiles import PROFILES, current_profile

HELP = "grade submissions (needs nbgrader)"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Grade submissions. This EXECUTES THE STUDENTS' CODE, with this Python and the rights of this "
        "user: use a machine or a container that has nothing to lose."
    )
    parser.add_argument(
        "submissions", nargs="+", type=Path, metavar="SUBMISSION", help="folder or zip of notebooks, or one"
    )
    parser.add_argument("--out", type=Path, default=Path("out/grades"), help="folder of the reports")
    parser.add_argument("--timeout", type=count, default=600, help="seconds that a cell may take")
    parser.add_argument("--profile", choices=list(PROFILES), help="sizes (default: $HW3_PROFILE, else quick)")
    parser.add_argument("--seed", type=int, help="decides the checks' random input (default: drawn, and reported)")


def call(args: argparse.Namespace) -> int:
    """Grade them; 1 when a submission had problems."""
    from hw3utils.course.grade import grade, summary

    profile = args.profile or current_profile().name
    results = grade(args.submissions, args.out, timeout=args.timeout, profile=profile, seed=args.seed)
    for result in results:
        print(summary(result))
    print(f"reports are in {args.out}: grades.csv, and for each student report.json and one page a notebook")
    return 1 if any(result.problems for result in results) else 0
