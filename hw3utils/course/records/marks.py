"""Final marks: what the checks gave and what a person gave, item by item, in the forms that others import."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat

from hw3utils.course.records import gradebook
from hw3utils.course.assignment import ITEMS
from hw3utils.course.notebooks.cells import ASSIGNMENT, STUB, Course, item_of, marked_cells
from hw3utils.course.records.originality import alike, solutions
from hw3utils.files import write_json
from hw3utils.progress import progress

TITLE = "Homework 3"
POSSIBLE = sum(item.points for item in ITEMS.values())
_COLUMNS = ("student", "item", "points", "comment")
# What is said of every cell of a notebook that is not there, or is none.
_MISSING = ("the notebook was not handed in", "the notebook cannot be read")


@dataclass
class Cell:
    """A graded cell: points of the check, points by hand if any, whether it waits to be read, and what was said."""

    cell: str
    item: str
    possible: float
    automatic: float | None
    by_hand: float | None
    unread: bool
    comment: str = ""
    message: str = ""

    def points(self) -> float:
        """What counts: a person's points go before a check's."""
        return (self.automatic or 0.0) if self.by_hand is None else self.by_hand


@dataclass
class Marks:
    """The marks of one student: every graded cell, and what is missing, late, or changed after it was marked."""

    student: str
    student_number: str
    handed_in: str | None
    late: str = ""
    missing: list[str] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    changed: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def items(self) -> dict[str, float | None]:
        """Points of each of the 22 items; None for one that waits to be read."""
        found: dict[str, float | None] = {}
        for name in ITEMS:
            mine = [cell for cell in self.cells if cell.item == name]
            found[name] = None if any(cell.unread for cell in mine) else sum(cell.points() for cell in mine)
        return found

    def unread(self) -> list[str]:
        """The items that wait to be read."""
        return [name for name, points in self.items().items() if points is None]

    def total(self) -> float:
        """The sum of what is marked."""
        return sum(points or 0.0 for points in self.items().values())


def collect(out: Path, *, table: Path | None = None, due: datetime | None = None) -> list[Marks]:
    """Join what lies in a course's folder, take a table of marks, and write the final ones.

    Writes marks.csv, marks.json, moodle.csv and canvas.csv into the folder, and makes the pages of those students anew
    whose marks or comments changed.

    Args:
        out: the folder of `hw3 grade`.
        table: a CSV of marks made elsewhere: student, item, points, comment; a student by name or number.
        due: when the homework was due; a time without a zone is this machine's.

    Returns:
        The marks of each student, by name.

    Raises:
        ModuleNotFoundError: without nbgrader.
        ValueError: when nothing lies there, or the table does not fit; then nothing is changed.
    """
    if not (out / "course.json").is_file():
        raise ValueError(f"{out} is no folder of hw3 grade; give the one that was its --out.")
    out = out.resolve()
    reports = gradebook.join_all(out)
    if not reports:
        raise ValueError(f"there is no graded submission in {out}; run hw3 grade first.")
    course = Course(out)
    rows = [] if table is None else _read_table(table, reports)
    with gradebook.alone(out), gradebook.opened(course) as book:
        for row in rows:
            _enter(book, *row)
        marks = [_marks_of(book, student, report, due) for student, report in reports.items()]
    for mine in progress(marks, desc="pages"):
        if reports[mine.student]["joined"]:
            try:
                gradebook.renew_pages(course, mine.student)
            except ValueError as error:  # a page that cannot be made stops nobody's marks
                mine.problems.append(str(error))
    _write(out, marks)
    return marks


def _marks_of(book: Any, student: str, report: Mapping[str, Any], due: datetime | None) -> Marks:
    """The marks of one student, from the gradebook and the report."""
    messages = {cell["cell"]: cell["message"] for cell in report["cells"]}
    missing = {cell["notebook"] for cell in report["cells"] if cell["message"].startswith(_MISSING)}
    found = Marks(student, report["student_number"], report["handed_in"], missing=sorted(missing))
    found.changed = report.get("changed", {})
    found.problems = report["problems"]
    if due is not None and found.handed_in:
        after = datetime.fromisoformat(found.handed_in) - due.astimezone(UTC)
        if after.total_seconds() > 0:
            found.late = f"{after.total_seconds() / 3600:.1f} h"
    if not report["joined"] or report.get("failed"):
        found.cells = [
            Cell(cell["cell"], cell["item"], cell["possible"], cell["points"], None, True, "", cell["message"])
            for cell in report["cells"]
        ]
        return found
    comments = {
        comment.name: comment.comment or ""
        for notebook in book.find_submission(ASSIGNMENT, student).notebooks
        for comment in notebook.comments
    }
    for grade in gradebook.grades_of(book, student):
        manual = ITEMS[item_of(grade.name)].manual
        unread = bool(grade.needs_manual_grade) or (manual and grade.auto_score is None and grade.manual_score is None)
        extra = grade.extra_credit or 0.0
        given = grade.auto_score if grade.manual_score is None and extra else grade.manual_score
        by_hand = given if given is None else given + extra
        item = item_of(grade.name)
        said = " ".join(dict.fromkeys(text for name, text in comments.items() if item_of(name) == item and text))
        found.cells.append(
            Cell(
                grade.name, item, grade.max_score, grade.auto_score, by_hand, unread, said, messages.get(grade.name, "")
            )
        )
    return found


def _read_table(path: Path, reports: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, float, str]]:
    """The rows of a table of marks.

    Raises:
        ValueError: when a row does not fit.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the table {path} cannot be read ({error}); give a CSV in UTF-8.") from None
    # A spreadsheet of a country with decimal commas parts the columns by semicolons.
    comma = ";" not in text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="," if comma else ";", strict=True)
    if reader.fieldnames is None or not {"student", "item", "points"} <= set(reader.fieldnames):
        raise ValueError(f"{path} has the columns {reader.fieldnames}, expected {', '.join(_COLUMNS)}.")
    numbers: dict[str, list[str]] = {}
    for student, report in reports.items():
        numbers.setdefault(report["student_number"], []).append(student)
    rows: dict[tuple[str, str], tuple[str, str, float, str]] = {}
    for n, row in _lines(path, reader):
        given, item = (str(row.get(name) or "").strip() for name in ("student", "item"))
        fits = [given] if given in reports else numbers.get(given, []) if given else []
        if len(fits) != 1 or not reports[fits[0]]["joined"]:
            what = "is the number of several students" if fits else "is no student of this course"
            raise ValueError(f"{path}, line {n}: {given!r} {what}; give the name of a folder of it.")
        if item not in ITEMS:
            raise ValueError(f"{path}, line {n}: {item!r} is no item, expected one of {', '.join(ITEMS)}.")
        try:
            number = str(row.get("points")).strip()
            points = float(number if comma else number.replace(",", "."))
        except ValueError:
            points = float("nan")
        if not 0 <= points <= ITEMS[item].points:
            raise ValueError(
                f"{path}, line {n}: {row.get('points')!r} points for {item}, expected 0 to {ITEMS[item].points}."
            )
        if (fits[0], item) in rows:
            raise ValueError(f"{path}, line {n}: {item} of {fits[0]} stands there twice; keep one of the two.")
        rows[fits[0], item] = (fits[0], item, points, str(row.get("comment") or "").strip())
    return list(rows.values())


def _lines(path: Path, reader: csv.DictReader) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table, each with the number of its last line.

    Raises:
        ValueError: at one that is no row of this table.
    """
    try:
        for row in reader:
            if None in row:
                raise ValueError(
                    f"{path}, line {reader.line_num}: more columns than in the first line; put quotes around commas."
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: it is no CSV ({error}); put quotes right.") from None


def _enter(book: Any, student: str, item: str, points: float, comment: str) -> None:
    """Put a person's points for an item into the gradebook: its cells are filled in their order."""
    left = points
    for grade in gradebook.grades_of(book, student):
        if item_of(grade.name) == item:
            grade.manual_score = min(left, grade.max_score)
            grade.extra_credit = 0.0
            grade.needs_manual_grade = False
            left -= grade.manual_score
    if comment:
        own = [
            other
            for notebook in book.find_submission(ASSIGNMENT, student).notebooks
            for other in notebook.comments
            if item_of(other.name) == item
        ]
        own[0].manual_comment = comment
    book.db.commit()


def _write(out: Path, marks: Sequence[Marks]) -> None:
    """Write the table of marks, and the same for other systems."""
    head = ["student", "student_number", "total", "possible", *ITEMS]
    head += ["unread", "missing", "late", "changed", "handed_in", "problems"]
    rows = []
    for mine in marks:
        points = ["" if value is None else f"{value:g}" for value in mine.items().values()]
        words = [" ".join(mine.unread()), " ".join(mine.missing), mine.late, " ".join(mine.changed)]
        rows.append([mine.student, mine.student_number, f"{mine.total():g}", f"{POSSIBLE:g}", *points, *words])
        rows[-1] += [mine.handed_in or "", " ".join(mine.problems)]
    gradebook.write_table(out / "marks.csv", [head, *rows])
    students = [
        asdict(mine) | {"total": mine.total(), "items": mine.items(), "unread": mine.unread()} for mine in marks
    ]
    items = {name: {"points": item.points, "title": item.title, "by_hand": item.manual} for name, item in ITEMS.items()}
    write_json(out / "marks.json", {"possible": POSSIBLE, "items": items, "students": students})
    # A mark that is not final is no mark yet.
    unsure = without_a_number(marks)
    final = [(mine, "" if mine.unread() or mine.student in unsure else f"{mine.total():g}") for mine in marks]
    comment = {mine.student: _said(mine) for mine in marks}
    gradebook.write_table(
        out / "moodle.csv",
        [["ID number", TITLE, f"{TITLE} (feedback)"]]
        + [[mine.student_number, total, comment[mine.student]] for mine, total in final],
    )
    gradebook.write_table(
        out / "canvas.csv",
        [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", TITLE]]
        + [["    Points Possible", "", "", "", "", f"{POSSIBLE:g}"]]
        + [[mine.student, "", mine.student_number, "", "", total] for mine, total in final],
    )


def without_a_number(marks: Sequence[Marks]) -> list[str]:
    """The students whom no other system can tell by their number: it is missing, or several have the same."""
    count = Counter(mine.student_number for mine in marks)
    return [mine.student for mine in marks if not mine.student_number or count[mine.student_number] > 1]


def _said(mine: Marks) -> str:
    """What the graders said, item by item, in a line."""
    lines = {cell.item: cell.comment for cell in mine.cells if cell.comment}
    return "; ".join(f"{item}: {text}" for item, text in lines.items())


def alike_in(out: Path) -> list[dict[str, Any]]:
    """Pairs of submissions in a course's folder whose solutions are alike (see `originality.alike`)."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(out.glob(f"submitted/*/{ASSIGNMENT}/*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if marked_cells(notebook):
            # What was left as it was handed out is nobody's work.
            own = {name: text for name, text in solutions(notebook).items() if STUB.splitlines()[-1] not in text}
            found.setdefault(path.parts[-3], {}).update(own)
    return alike(found)


def summary(mine: Marks) -> str:
    """One line on a student's marks, and one for each answer that changed after it was marked."""
    more = [f"{name}: {value}" for name, value in (
        ("unread", " ".join(mine.unread())), ("missing", " ".join(mine.missing)), ("late", mine.late)
    ) if value]  # fmt: skip
    line = f"{mine.student}: {mine.total():g} of {POSSIBLE:g} points" + "".join(f"; {text}" for text in more)
    now = {cell.cell: cell for cell in mine.cells}
    for name, was in mine.changed.items():
        state = "not read again" if now[name].unread else f"now {now[name].points():g}"
        line += f"\n  {name} changed after it was marked with {was['points']:g}: {state}"
    return line
