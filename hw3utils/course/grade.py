"""Grading: each notebook of a submission runs with its checks put back; points, states and pages come of it."""

import copy
import csv
import importlib.metadata
import io
import platform
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hw3utils.course.assignment import ITEMS, STUDENT_FILE, STUDENT_VARIABLE, is_homework, number_in
from hw3utils.course.checks.building_blocks import SEED_VARIABLE
from hw3utils.course.handed_in import MANIFEST, HandedIn, open_submission
from hw3utils.course.nbgrading import (
    ANSWER,
    Course,
    grade_id,
    graded_cells,
    item_of,
    marked_cells,
    need_nbgrader,
    program_path,
    reason_of,
)
from hw3utils.course.profiles import PROFILE_VARIABLE, PROFILES
from hw3utils.course.runner import NOTEBOOKS, environment, find_notebooks, plain
from hw3utils.files import check_writable, write_atomically, write_json
from hw3utils.progress import progress


@dataclass
class Judged:
    """One graded cell: its item and notebook, points got and possible, state, and a message for the student.

    The states: passed, failed, timed out, tampered check (it was put back before it ran), to be read by hand, not run
    (the notebook is missing or broken).
    """

    item: str
    cell: str
    notebook: str
    points: float
    possible: float
    state: str
    message: str = ""


@dataclass
class Graded:
    """What came of one submission: every graded cell, and what was wrong with its files."""

    student: str
    submission: str
    student_number: str
    cells: list[Judged] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def points(self, item: str | None = None) -> float:
        """Automatic points, of one item or of all."""
        return sum(cell.points for cell in self.cells if item in (None, cell.item))

    def possible(self, *, manual: bool) -> float:
        """Points that can be had automatically, or those that a person gives."""
        return sum(cell.possible for cell in self.cells if (ITEMS[cell.item].manual) == manual)


def grade(
    submissions: Sequence[Path], out: Path, *, timeout: int = 600, profile: str = "quick", seed: int | None = None
) -> list[Graded]:
    """Grade submissions: each notebook runs in a fresh kernel, its checks put back as they were handed out.

    THIS EXECUTES THE STUDENTS' CODE, with this Python, the rights of this user and no sandbox, in a temporary folder.
    The files of a submission are read, never changed.

    Args:
        submissions: a folder with notebooks, an archive of one (`hw3 submit`), or a notebook; one for each student.
        out: folder of the reports: NAME/NOTEBOOK.html and NAME/report.json for each student, and grades.csv.
        timeout: seconds that a cell may take.
        profile: sizes of the notebooks' own experiments (see `profiles`).
        seed: decides the random input of the checks; drawn if not given, and written into the report.

    Returns:
        One result for each submission, in order.

    Raises:
        ModuleNotFoundError: without nbgrader.
        ValueError: when a submission does not exist, two have the same name, or the profile is unknown.
        OSError: when the reports cannot be written.
        KeyboardInterrupt: on Ctrl-C; the reports that are done are kept.
    """
    need_nbgrader()
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}, expected one of {', '.join(PROFILES)}.")
    named = {}
    for path in submissions:
        if not path.exists():
            raise ValueError(
                f"there is no submission {path}; give a folder with notebooks, an archive of one, or a notebook."
            )
        name = re.sub(r"[^\w-]+", "-", path.resolve().stem if path.is_file() else path.resolve().name).strip("-")
        if name in named:
            raise ValueError(f"two submissions are called {name!r}; rename one, their reports would be one file.")
        named[name] = path
    check_writable(out)
    seed = secrets.randbits(31) if seed is None else seed
    results: list[Graded] = []
    changes = {
        PROFILE_VARIABLE: profile, SEED_VARIABLE: str(seed), STUDENT_VARIABLE: None,
        "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "agg", "PATH": program_path(),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="hw3-grade-") as folder, environment(**changes):
        print(f"executing students' code with {sys.executable}, no sandbox, in {folder}", flush=True)
        course = Course(Path(folder), timeout=timeout)
        paths = [path for path in find_notebooks() if is_homework(path.name)]
        sources = {path.name: course.generate(path) for path in progress(paths, desc="preparing")}
        for name, path in named.items():
            results.append(_grade_one(course, sources, name, path, out / name, seed=seed, profile=profile))
            _write_table(results, out / "grades.csv")
    return results


def _grade_one(
    course: Course, sources: dict[str, Path], name: str, path: Path, out: Path, *, seed: int, profile: str
) -> Graded:
    """Grade one submission and write its report."""
    import nbformat

    result = Graded(name, str(path), "")
    try:
        found = open_submission(path, course.root / "unpacked" / name, sources)
    except ValueError as error:
        result.problems.append(str(error))
        found = HandedIn(course.root / "unpacked" / name)
    _say_what_lies_there(found, sources, result)
    files = found.notebooks
    seconds = {}
    masters = {file: nbformat.read(source, as_version=4) for file, source in sources.items()}
    cells = sum(cell.cell_type == "code" for file in masters.keys() & files.keys() for cell in masters[file].cells)
    bar = progress(None, total=cells, desc=name, unit="cell")
    course.tick = bar.update
    for file, handed_out in masters.items():
        began = time.monotonic()
        if file not in files:
            if path.suffix != ".ipynb" or not set(files) & set(sources):
                result.problems.append(f"{file} was not handed in.")
            result.cells += _none(handed_out, file, "it was not handed in")
            continue
        try:
            handed_in = nbformat.read(files[file], as_version=4)
            nbformat.validate(handed_in)
        except Exception as error:  # whatever a file that is no notebook makes nbformat raise
            reason = f"{file} cannot be read as a notebook ({type(error).__name__}); it may be cut off."
            result.problems.append(reason)
            result.cells += _none(handed_out, file, reason)
            continue
        folder = course.root / "submitted" / name / Path(file).stem
        folder.mkdir(parents=True)
        for beside in found.beside:
            shutil.copyfile(beside, folder / beside.name)
        result.cells += _run(course, handed_out, handed_in, folder / file, out, result)
        seconds[file] = round(time.monotonic() - began, 1)
    bar.close()
    report = {
        "student": name,
        "student_number": result.student_number,
        "submission": result.submission,
        "automatic": {"points": result.points(), "possible": result.possible(manual=False)},
        "by_hand": {"pending": result.possible(manual=True)},
        "problems": result.problems,
        "cells": [asdict(cell) for cell in result.cells],
        "seconds": seconds,
        "seed": seed,
        "profile": profile,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("hw3utils", "nbgrader", "torch", "numpy")},
    }
    write_json(out / "report.json", report)
    return result


def _say_what_lies_there(found: HandedIn, sources: Collection[str], result: Graded) -> None:
    """Read the student's number; name what was left out, and what was taken for something else."""
    try:
        result.student_number = number_in(found.folder)
    except FileNotFoundError:
        result.problems.append(f"there is no {STUDENT_FILE}; the number of the source was taken.")
    except ValueError as error:
        result.problems.append(f"{error} The number of the source was taken.")
    for file, where in found.notebooks.items():
        if file not in sources and is_homework(file):
            result.problems.append(f"{file} is no notebook of this homework and was left out.")
        elif where.name != file:
            result.problems.append(f"{where.name} was taken for {file}.")
    ours = {MANIFEST, *(name for name in found.left_out if name.startswith("."))}
    for name, reason in found.left_out.items():
        if name not in ours:
            result.problems.append(f"{name} was left out: {reason}.")


def _none(handed_out: Any, file: str, reason: str) -> list[Judged]:
    """No points for a notebook that could not be run."""
    return [
        Judged(item_of(name), name, file, 0.0, float(cell.metadata.nbgrader["points"]), "not run", reason)
        for name, cell in graded_cells(handed_out).items()
    ]


def _run(course: Course, handed_out: Any, handed_in: Any, file: Path, out: Path, result: Graded) -> list[Judged]:
    """Execute one notebook through nbgrader, as `file`; the graded cells with their points, and the HTML feedback."""
    import nbformat
    from nbgrader.api import Gradebook

    assignment, student, problems = file.stem, result.student, result.problems
    nbformat.write(_put_back(handed_out, handed_in), file)
    own = result.student_number or (NOTEBOOKS / STUDENT_FILE).read_text(encoding="utf-8")
    file.with_name(STUDENT_FILE).write_text(own, encoding="utf-8")
    tampered = _tampered(handed_out, handed_in)
    problems += [f"{file.name}: the check {name} {what}; it was put back." for name, what in tampered.items()]
    done = course.autograde(assignment, student)
    if not done["success"]:
        reason = f"{file.name} could not be run: {reason_of(done.get('log'))}."
        problems.append(reason)
        return _none(handed_out, file.name, reason)
    executed = nbformat.read(course.root / "autograded" / student / assignment / file.name, as_version=4)
    errors = {name: _error(cell) for name, cell in marked_cells(executed).items()}
    judged = []
    with Gradebook(f"sqlite:///{course.root / 'gradebook.db'}") as book:
        grades = {grade.name: grade for grade in book.find_submission_notebook(assignment, assignment, student).grades}
        for name, cell in graded_cells(handed_out).items():
            possible = float(cell.metadata.nbgrader["points"])
            if cell.cell_type == "markdown":
                blank = marked_cells(executed).get(name, cell).source.strip() == ANSWER
                state, got = "to be read by hand", 0.0
                message = "the answer is blank" if blank else ""
            else:
                grade = grades.get(name)
                got = float(grade.auto_score or 0.0) if grade else 0.0
                message = (errors.get(name) or ("", ""))[1]
                late = [other for other, error in errors.items() if error and error[0] == "CellTimeoutError"]
                mine = [other for other in late if item_of(other) == item_of(name)]
                state = "passed" if got == possible else "timed out" if mine else "failed"
                if state == "timed out":
                    message = f"the cell {mine[0]} took longer than allowed"
                if name in tampered:
                    state, message = (
                        "tampered check",
                        f"it {tampered[name]} and was put back; then it {state}. {message}",
                    )
            judged.append(Judged(item_of(name), name, file.name, got, possible, state, message.strip()))
    feedback = course.feedback(assignment, student)
    page = course.root / "feedback" / student / assignment / f"{file.stem}.html"
    if feedback["success"] and page.is_file():
        write_atomically(out / page.name, lambda to: shutil.copyfile(page, to))
    else:
        problems.append(f"{file.name}: no feedback page could be made.")
    return judged


def _tampered(handed_out: Any, handed_in: Any) -> dict[str, str]:
    """The checks that came back changed or not at all, and which of the two."""
    there = marked_cells(handed_in)
    found = {}
    for name, cell in graded_cells(handed_out).items():
        if cell.cell_type == "code":
            if name not in there:
                found[name] = "was deleted"
            elif there[name].source.strip() != cell.source.strip():
                found[name] = "was changed"
    return found


def _put_back(handed_out: Any, handed_in: Any) -> Any:
    """A copy of what was handed in with every marked cell in it: a deleted one stands after its old neighbour again.

    Cells that were changed are put back by nbgrader itself.
    """
    whole = copy.deepcopy(handed_in)
    names = [grade_id(cell) for cell in whole.cells]
    place = 0
    for name, cell in marked_cells(handed_out).items():
        if name not in names:
            whole.cells.insert(place, copy.deepcopy(cell))
            names.insert(place, name)
        place = names.index(name) + 1
    return whole


def _error(cell: Any) -> tuple[str, str] | None:
    """Name and text of the error that a cell ended with."""
    errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
    if not errors:
        return None
    # A cell that was too slow ends with two: the interrupt, and what it was interrupted for.
    error = next((error for error in errors if error.ename == "CellTimeoutError"), errors[0])
    text = plain(str(error.evalue))
    return error.ename, text if error.ename == "AssertionError" else f"{error.ename}: {text}"


def _write_table(results: Sequence[Graded], path: Path) -> None:
    """One row for each student: points of each item, the sums, the problems."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    automatic = [name for name, item in ITEMS.items() if not item.manual]
    table.writerow(["student", "student_number", "automatic", "possible", "by_hand_pending", *automatic, "problems"])
    for result in results:
        row = [f"{result.points(item):g}" for item in automatic]
        sums = [result.points(), result.possible(manual=False), result.possible(manual=True)]
        table.writerow(
            [_cell(result.student), _cell(result.student_number), *(f"{value:g}" for value in sums), *row,
             _cell(" ".join(result.problems))]
        )  # fmt: skip
    write_atomically(path, lambda to: to.write_text(text.getvalue(), encoding="utf-8"))


def _cell(text: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def summary(result: Graded) -> str:
    """A few lines on one submission, for the terminal."""
    lines = [
        f"{result.student}: {result.points():g} of {result.possible(manual=False):g} automatic points, "
        f"{result.possible(manual=True):g} to be given by hand"
    ]
    for cell in result.cells:
        if cell.state not in ("passed", "to be read by hand"):
            lines.append(f"  {cell.item}  {cell.points:g} of {cell.possible:g}  {cell.state}: {cell.message}")
    return "\n".join(lines + [f"  {problem}" for problem in result.problems])
