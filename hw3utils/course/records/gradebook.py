"""The folder of a course: the edition, nbgrader's gradebook, reports and pages.

Several machines may grade into one folder: each writes the reports and notebooks of its own submissions, and one at a
time updates the gradebook.
"""

import contextlib
import csv
import functools
import hashlib
import io
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from filelock import FileLock
from nbformat import NotebookNode

from hw3utils.course.assignment import ITEMS
from hw3utils.course.notebooks.cells import (
    ASSIGNMENT,
    CONFIGURATION,
    Course,
    graded_cells,
    item_of,
    marked_cells,
)
from hw3utils.files import file_sha256, read_json, write_atomically, write_json
from hw3utils.progress import printable, progress

FOLDERS = ("source", "release", "submitted", "autograded", "feedback")
_STATE, _JOINED = "course.json", "joined.json"
# The marks that a student's pages show, in the same folder.
_SHOWN = ".shown.json"


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock the files that all submissions share, against other processes and machines."""
    with FileLock(out / ".lock"):
        yield


def submitted(out: Path, student: str) -> Path:
    """The folder of a student's judged notebooks."""
    return out / "submitted" / student / ASSIGNMENT


def prepare(out: Path, notebooks: Sequence[Path]) -> dict[str, Path]:
    """Create the edition and nbgrader's configuration in a folder, unless they are there.

    Returns:
        The released notebooks by name.

    Raises:
        ValueError: when graded cells or their points have changed since submissions were graded here.
    """
    with locked(out):
        state = read_json(out / _STATE) if (out / _STATE).is_file() else {}
        hashes = {path.name: file_sha256(path) for path in notebooks}
        editions = {path.name: out / "release" / ASSIGNMENT / path.name for path in notebooks}
        if state.get("notebooks") != hashes or not all(path.is_file() for path in editions.values()):
            _check_same_cells(out, notebooks)
            for folder in ("source", "release"):
                shutil.rmtree(out / folder, ignore_errors=True)
            Course(out).generate(notebooks)
            write_json(out / _STATE, state | {"notebooks": hashes})
        write_atomically(out / "nbgrader_config.py", lambda to: to.write_text(CONFIGURATION, encoding="utf-8"))
    return editions


def _check_same_cells(out: Path, notebooks: Sequence[Path]) -> None:
    """Refuse other graded cells or points than those of the graded submissions: nbgrader would delete their marks."""
    known = {cell["cell"]: cell["possible"] for report in reports_in(out).values() for cell in report["cells"]}
    now = {
        name: float(cell.metadata["nbgrader"]["points"])
        for path in notebooks
        for name, cell in graded_cells(nbformat.read(path, as_version=4)).items()
    }
    if known and known != now:
        other = {name for name in known.keys() & now.keys() if known[name] != now[name]}
        changes = [f"{what} {', '.join(sorted(names))}" for what, names in
                   (("new:", now.keys() - known.keys()), ("gone:", known.keys() - now.keys()), ("other points:", other))
                   if names]  # fmt: skip
        raise ValueError(
            f"the graded cells changed since submissions were graded in {out} ({'; '.join(changes)}): grade all again "
            "in a new folder with --out, or take the change back."
        )


def stored_seed(out: Path) -> int | None:
    """The seed of a course's folder, None if it has none yet."""
    return read_json(out / _STATE).get("seed") if (out / _STATE).is_file() else None


def seed_of(out: Path, given: int | None) -> int:
    """The seed of the checks' random input: the given one, else that of the folder, else a new one."""
    with locked(out):
        state = read_json(out / _STATE)
        seed = state.get("seed", secrets.randbits(31)) if given is None else given
        write_json(out / _STATE, state | {"seed": seed})
    return seed


def answers_of(notebook: NotebookNode) -> dict[str, str]:
    """For each graded cell, a hash of what is graded: the answer, or the solutions of its item."""
    cells = marked_cells(notebook)
    found = {}
    for name, cell in graded_cells(notebook).items():
        own = [cell] if cell.cell_type == "markdown" else [
            other for key, other in cells.items()
            if other.metadata["nbgrader"].get("solution") and item_of(key) == item_of(name)
        ]  # fmt: skip
        found[name] = hashlib.sha256("\0".join(part.source.strip() for part in own).encode()).hexdigest()
    return found


def reports_in(out: Path) -> dict[str, dict[str, Any]]:
    """The reports of all graded submissions, by student."""
    return {path.parent.name: read_json(path) for path in sorted(out.glob("*/report.json"))}


def join(out: Path, students: Iterable[str]) -> list[str]:
    """Read judged submissions into the gradebook, as `join_all` does; the problems with these."""
    with locked(out):
        reports, problems = _join(out, students)
    return [problem for student in reports for problem in problems.get(student, [])]


def join_all(out: Path) -> dict[str, dict[str, Any]]:
    """Read new and changed submissions into the gradebook; make their pages and the table of points.

    Points and comments by hand are kept. An answer that changed after it was marked has to be read again.

    Args:
        out: the course's folder.

    Returns:
        The reports of all submissions.
    """
    with locked(out):
        reports, _ = _join(out, progress(list(reports_in(out)), desc="joining"))
    return reports


def _join(out: Path, students: Iterable[str]) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """Read some submissions into the gradebook; the reports of all, and the problems by student."""
    joined = read_json(out / _JOINED) if (out / _JOINED).is_file() else {}
    reports, problems, course = reports_in(out), {}, Course(out)
    for student in students:
        report, before = reports[student], joined.get(student, {})
        # A submission that could not be graded does not replace an earlier one.
        if before.get("fingerprint") == report["fingerprint"] or (before and report.get("failed")):
            continue
        if before and "pending" not in before:
            # Written before anything changes, so that an interrupted run loses no mark.
            before["pending"] = {"texts": _texts(course, student), "waiting": _waiting(course, student)}
            write_json(out / _JOINED, joined)
        try:
            joined[student] = _join_one(course, student, report, before)
            write_json(out / _JOINED, joined)
            make_pages(course, student)
        except ValueError as error:  # nbgrader's failure must not stop the others
            problems[student] = [str(error)]
            report["problems"].append(str(error))
    _write_grades(list(reports.values()), out / "grades.csv")
    for student, report in reports.items():
        report["changed"] = joined.get(student, {}).get("changed", {})
        report["joined"] = student in joined
    return reports, problems


def _join_one(course: Course, student: str, report: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Read one submission into the gradebook, marks by hand are kept; its entry in joined.json."""
    pending = before.get("pending", {"texts": {}, "waiting": []})
    old, waiting = pending["texts"], pending["waiting"]
    course.autograde(student)
    changed = dict(before.get("changed", {}))
    judged = {cell["cell"]: cell["points"] for cell in report["cells"] if not ITEMS[cell["item"]].manual}
    with opened(course) as book:
        for grade in grades_of(book, student):
            # The points of a check come from the judge, not from the outputs that nbgrader reads.
            grade.auto_score = judged.get(grade.name, grade.auto_score)
            file = f"{grade.notebook.name}.ipynb"
            same = before.get("answers", {}).get(file, {}).get(grade.name) == report["answers"][file][grade.name]
            if grade.manual_score is None:
                continue
            # An answer that was not read since it changed stays unread, however often it is graded again.
            grade.needs_manual_grade = not same or grade.name in waiting
            if not same and grade.name not in waiting:
                text = old.get(grade.name, "")
                changed[grade.name] = {"points": grade.manual_score, "answer": text[:20_000]}
        book.db.commit()
    return {"fingerprint": report["fingerprint"], "answers": report["answers"], "changed": changed}


def _waiting(course: Course, student: str) -> list[str]:
    """The cells that have a mark by hand and have to be read again."""
    with opened(course) as book:
        grades = grades_of(book, student)
        return [grade.name for grade in grades if grade.manual_score is not None and grade.needs_manual_grade]


def _texts(course: Course, student: str) -> dict[str, str]:
    """The text of each answer in the gradebook's notebooks of a student."""
    found = {}
    for path in course.folder("autograded", student).glob("*.ipynb"):
        for name, cell in graded_cells(nbformat.read(path, as_version=4)).items():
            found[name] = cell.source
    return found


def make_pages(course: Course, student: str) -> None:
    """Make a student's pages with points and comments, and copy them to the report."""
    course.feedback(student)
    for page in course.folder("feedback", student).glob("*.html"):
        write_atomically(course.root / student / page.name, functools.partial(shutil.copyfile, page))
    write_json(course.root / student / _SHOWN, {"marks": _marks(course, student)})


def renew_pages(course: Course, student: str) -> None:
    """Make a student's pages again if marks or comments have changed."""
    path = course.root / student / _SHOWN
    if not path.is_file() or read_json(path) != {"marks": _marks(course, student)}:
        make_pages(course, student)


def _marks(course: Course, student: str) -> list[list[Any]]:
    """All marks and comments of a student in the gradebook."""
    with opened(course) as book:
        marks = [
            [g.name, g.auto_score, g.manual_score, g.extra_credit, g.needs_manual_grade]
            for g in grades_of(book, student)
        ]
        notebooks = book.find_submission(ASSIGNMENT, student).notebooks
        return marks + [[other.name, other.comment] for notebook in notebooks for other in notebook.comments]


@contextlib.contextmanager
def opened(course: Course) -> Iterator[Any]:
    """Open the gradebook."""
    import warnings

    from nbgrader.api import Gradebook

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Gradebook(course.address) as book:
            yield book


def grades_of(book: Any, student: str) -> list[Any]:
    """nbgrader's grades of a student, one for each graded cell."""
    return [grade for notebook in book.find_submission(ASSIGNMENT, student).notebooks for grade in notebook.grades]


def _write_grades(reports: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write one row for each student: automatic points of each item, the sums, the problems."""
    automatic = [name for name, item in ITEMS.items() if not item.manual]
    rows = [["student", "student_number", "automatic", "possible", "by_hand_pending", *automatic, "problems"]]
    for report in reports:
        points = dict.fromkeys(ITEMS, 0.0)
        for cell in report["cells"]:
            points[cell["item"]] += cell["points"]
        total = sum(round(points[name], 2) for name in automatic)
        sums = [total, report["automatic"]["possible"], report["by_hand"]["pending"]]
        numbers = [number_text(value) for value in (*sums, *(points[name] for name in automatic))]
        rows.append([report["student"], report["student_number"], *numbers, " ".join(report["problems"])])
    write_table(path, rows)


def write_table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write a CSV that a spreadsheet opens in any script, and in which no cell is a formula."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table_text(cell) for cell in row] for row in rows)
    write_atomically(path, lambda to: to.write_text(text.getvalue(), encoding="utf-8-sig"))


def number_text(points: float) -> str:
    """Points as all tables show them; sums are taken of these."""
    return f"{round(points, 2):g}"


def table_text(text: str) -> str:
    """A text without control characters that a spreadsheet does not read as a formula."""
    kept = printable(text.encode("utf-8", "replace").decode())
    return f"'{kept}" if kept.startswith(("=", "+", "-", "@")) else kept
