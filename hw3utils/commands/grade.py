"""`hw3 grade`: grade submissions."""

import argparse
import os
import shlex
from pathlib import Path

from hw3utils.commands import count
from hw3utils.course.profiles import PROFILES

HELP = "grade submissions (needs nbgrader)"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Grade submissions. This EXECUTES THE STUDENTS' CODE, with this Python and the rights of this "
        "user: use --sandbox, or a machine or a container that has nothing to lose."
    )
    parser.add_argument(
        "submissions", nargs="*", type=Path, metavar="SUBMISSION", help="folder or zip of notebooks, or one"
    )
    parser.add_argument("--out", type=Path, help="folder of the course and its reports (default: out/grades)")
    parser.add_argument("--timeout", type=count, default=600, help="seconds that a cell or a check may take")
    parser.add_argument("--full", action="store_true", help="run every cell, experiments without points too")
    parser.add_argument("--profile", choices=list(PROFILES), help="sizes (default: tiny, with --full quick)")
    parser.add_argument("--seed", type=int, help="decides the checks' random input (default: drawn, and reported)")
    parser.add_argument("--jobs", type=count, help="submissions graded at once (default: one a core, at most 4)")
    parser.add_argument("--sandbox", action="store_true", help="no network, no writing elsewhere (needs bubblewrap)")
    parser.add_argument("--list", action="store_true", help="print one command a submission, for other machines")
    parser.add_argument("--gradescope", action="store_true", help="be a Gradescope autograder: write its results.json")


def call(args: argparse.Namespace) -> int:
    """Grade them; 1 when a submission had problems."""
    if args.gradescope:
        from hw3utils.course.grading.gradescope import autograde

        return autograde(args.submissions, args.out, timeout=args.timeout)
    if not args.submissions:
        raise ValueError("there is no submission; give at least one.")
    args.out = args.out or Path("out/grades")
    if args.list:
        return _list(args)
    from hw3utils.course.grading.session import grade, summary

    results = grade(
        args.submissions, args.out, timeout=args.timeout, profile=args.profile, seed=args.seed, full=args.full,
        jobs=args.jobs or min(os.cpu_count() or 1, 4), sandbox=args.sandbox,
    )  # fmt: skip
    for result in results:
        print(summary(result))
    print(f"the course is in {args.out}: for each student report.json and one page a notebook, and grades.csv")
    print(f"read the answers: cd {args.out} && jupyter lab, its Formgrader; final marks: hw3 marks {args.out}")
    return 1 if any(result.problems for result in results) else 0


def _list(args: argparse.Namespace) -> int:
    """One command a submission, all with the same seed; each can run on a machine of its own."""
    import secrets

    from hw3utils.course.grading.session import named_submissions
    from hw3utils.course.records.gradebook import stored_seed

    named_submissions(args.submissions)
    known = stored_seed(args.out) if args.seed is None else args.seed
    seed = secrets.randbits(31) if known is None else known
    options = ["--out", str(args.out.resolve()), "--timeout", str(args.timeout), "--seed", str(seed)]
    options += ["--full"] if args.full else []
    options += ["--profile", args.profile] if args.profile else []
    options += ["--sandbox"] if args.sandbox else []
    for path in args.submissions:
        print(shlex.join(["hw3", "grade", str(path.resolve()), *options]))
    return 0
