"""`hw3 marks`: the final marks of a class."""

import argparse
from datetime import datetime
from pathlib import Path

HELP = "write the final marks of graded submissions (needs nbgrader)"


def _time(text: str) -> datetime:
    """A date and time, for argparse."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date and time such as 2026-12-01T23:59") from None


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Final marks: marks.csv, marks.json, moodle.csv and canvas.csv in the folder of hw3 grade, and the students' "
        "pages with the grader's comments. Marks by hand come from nbgrader's formgrader, or from a table."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the --out folder of hw3 grade")
    parser.add_argument("--table", type=Path, help="a CSV of marks made elsewhere: student, item, points, comment")
    parser.add_argument("--due", type=_time, help="the deadline, for example 2026-12-01T23:59")
    parser.add_argument("--alike", action="store_true", help="list pairs whose solutions have the same syntax tree")


def call(args: argparse.Namespace) -> int:
    """Write the marks; exit code 1 while an answer is unread."""
    from hw3utils.course.notebooks.cells import need_nbgrader
    from hw3utils.course.records.marks import alike_in, collect, not_exported, summary, without_a_number

    need_nbgrader()
    marks = collect(args.out, table=args.table, due=args.due)
    for mine in marks:
        print(summary(mine))
    if args.alike:
        for pair in alike_in(args.out):
            one, two = pair["students"]
            print(f"alike: {one} and {two}, {len(pair['alike'])} of {pair['both']}: {', '.join(pair['alike'])}")
    unread = sum(bool(mine.unread()) for mine in marks)
    print(f"marks of {len(marks)} students are in {args.out}: marks.csv, marks.json, moodle.csv, canvas.csv")
    if unread:
        print(f"{unread} of them have answers that have not been read yet")
    if unsure := without_a_number(marks):
        print(f"without a student number of their own: {', '.join(unsure)}")
    if left_out := not_exported(marks):
        print(f"not in moodle.csv and canvas.csv, for want of a number or a final mark: {', '.join(left_out)}")
    return 1 if unread else 0
