"""A Gradescope autograder: one submission in, its results.json out."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hw3utils.course.assignment import ITEMS
from hw3utils.course.grading.session import GradedSubmission, grade
from hw3utils.files import write_json

SUBMISSION, RESULTS = Path("/autograder/submission"), Path("/autograder/results")


def autograde(submissions: Sequence[Path], out: Path | None, *, timeout: int = 600) -> int:
    """Grade the one submission of an autograder and write its results.

    Args:
        submissions: at most one; /autograder/submission if not given.
        out: folder of results.json; /autograder/results if not given.
        timeout: seconds that a cell may take.

    Raises:
        ValueError: on several submissions.

    Source: Gradescope's documentation of autograders, "Output format".
    """
    if len(submissions) > 1:
        raise ValueError(f"there are {len(submissions)} submissions; a Gradescope autograder gets one.")
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hw3-gradescope-") as folder:
        [result] = grade([submissions[0] if submissions else SUBMISSION], Path(folder), timeout=timeout)
    target = (out or RESULTS) / "results.json"
    write_json(target, results_of(result, time.monotonic() - start))
    print(f"{target}: {result.points():g} of {result.possible(manual=False):g} automatic points")
    return 0


def results_of(result: GradedSubmission, seconds: float) -> dict:
    """A result in Gradescope's format: a test for each check."""
    tests = [
        {
            "name": f"{cell.item} {ITEMS[cell.item].title} ({cell.cell})",
            "number": cell.item,
            "score": cell.points,
            "max_score": cell.possible,
            "status": "passed" if cell.points == cell.possible else "failed",
            "output": cell.message or cell.state,
            "visibility": "visible",
        }
        for cell in result.cells
        if not ITEMS[cell.item].manual
    ]
    by_hand = f"{result.possible(manual=True):g} points more are given by a person."
    return {
        "execution_time": round(seconds),
        "output": "\n".join([by_hand, *result.problems]),
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": tests,
    }
