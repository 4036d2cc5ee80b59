"""Final marks: points of the checks and of a person for each item, also in the formats of Moodle and Canvas."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat

from hw3utils.course.assignment import ITEMS, GradedCell
from hw3utils.course.notebooks.cells import ASSIGNMENT, STUB_LINE, Course, item_of, marked_cells
from hw3utils.course.records import gradebook
from hw3utils.course.records.originality import alike, solutions
from hw3utils.files import write_json
from hw3utils.progress import printable, progress

TITLE = "Homework 3"
POSSIBLE = sum(item.points for item in ITEMS.values())
_COLUMNS = ("student", "item", "points", "comment")
# How the messages of a missing notebook's cells begin.
_MISSING = ("the notebook was not handed in", "the notebook cannot be read")


@dataclass
class Marks:
    """The marks of one student: every graded cell; notebooks missing, hours late, answers changed after marking."""

    student: str
    student_number: str
    handed_in: str | None
    late: str = ""
    missing: list[str] = field(default_factory=list)
    cells: list[GradedCell] = field(default_factory=list)
    changed: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def items(self) -> dict[str, float | None]:
        """Points of each of the 22 items, to two decimals; None if an answer of it has to be read."""
        found: dict[str, float | None] = {}
        for name in ITEMS:
            mine = [cell for cell in self.cells if cell.item == name]
            total = round(sum(cell.points for cell in mine), 2)
            found[name] = None if any(cell.unread for cell in mine) else total
        return found

    def unread(self) -> list[str]:
        """The items that have to be read."""
        return [name for name, points in self.items().items() if points is None]

    def total(self) -> float:
        """The sum of the items as they are shown."""
        return round(sum(points or 0.0 for points in self.items().values()), 2)


def collect(out: Path, *, table: Path | None = None, due: datetime | None = None) -> list[Marks]:
    """Update the gradebook from the reports and from a table of marks, and write the final marks.

    Writes marks.csv, marks.json, moodle.csv and canvas.csv into the folder, and renews the pages of students whose
    marks or comments changed.

    Args:
        out: the folder of `hw3 grade`.
        table: a CSV of marks made elsewhere: student, item, points, comment; a student by name or number.
        due: deadline; a time without a zone is local time.

    Returns:
        The marks of each student, by name.

    Raises:
        ModuleNotFoundError: without nbgrader.
        ValueError: when there are no reports, or a row of the table is invalid; then nothing is changed.
    """
    if not (out / "course.json").is_file():
        raise ValueError(f"{out} is no folder of hw3 grade; give the one that was its --out.")
    out = out.resolve()
    reports = gradebook.join_all(out)
    if not reports:
        raise ValueError(f"there is no graded submission in {out}; run hw3 grade first.")
    course = Course(out)
    rows = [] if table is None else _read_table(table, reports)
    with gradebook.locked(out), gradebook.opened(course) as book:
        for row in rows:
            _enter(book, *row)
        marks = [_marks_of(book, student, report, due) for student, report in reports.items()]
    for mine in progress(marks, desc="pages"):
        if reports[mine.student]["joined"]:
            try:
                gradebook.renew_pages(course, mine.student)
            except ValueError as error:  # a page that cannot be made must not stop the marks
                mine.problems.append(str(error))
    _write(out, marks)
    return marks


def _marks_of(book: Any, student: str, report: Mapping[str, Any], due: datetime | None) -> Marks:
    """The marks of one student, from the gradebook and the report."""
    cells = [GradedCell.from_record(cell) for cell in report["cells"]]
    missing = {cell.notebook for cell in cells if cell.message.startswith(_MISSING)}
    found = Marks(student, report["student_number"], report["handed_in"], missing=sorted(missing), cells=cells)
    found.changed = report.get("changed", {})
    found.problems = report["problems"]
    if due is not None and found.handed_in:
        after = datetime.fromisoformat(found.handed_in) - due.astimezone(UTC)
        if after.total_seconds() > 0:
            found.late = f"{after.total_seconds() / 3600:.1f} h"
    if not report["joined"] or report.get("failed"):
        for cell in cells:
            cell.unread = True
        return found
    submission = book.find_submission(ASSIGNMENT, student)
    comments = {other.name: other.comment for notebook in submission.notebooks for other in notebook.comments}
    known = {cell.cell: cell for cell in cells}
    found.cells = [_with_grade(known, grade, comments) for grade in gradebook.grades_of(book, student)]
    return found


def _with_grade(known: Mapping[str, GradedCell], grade: Any, comments: Mapping[str, str | None]) -> GradedCell:
    """A graded cell with nbgrader's points and comments."""
    item, automatic, by_hand = item_of(grade.name), grade.auto_score, grade.manual_score
    cell = known.get(grade.name) or GradedCell(grade.name, item, grade.max_score)
    cell.possible, cell.automatic = grade.max_score, automatic
    cell.unread = bool(grade.needs_manual_grade) or (ITEMS[item].manual and automatic is None and by_hand is None)
    # nbgrader adds extra credit to the points of a check, too.
    extra = grade.extra_credit or 0.0
    given = automatic if by_hand is None and extra else by_hand
    cell.by_hand = given if given is None else given + extra
    own = (text for name, text in comments.items() if item_of(name) == item and text)
    cell.comment = printable(" ".join(dict.fromkeys(own)))
    return cell


def _read_table(path: Path, reports: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, float, str]]:
    """The rows of a table of marks.

    Raises:
        ValueError: when a row is invalid.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the table {path} cannot be read ({error}); give a CSV in UTF-8.") from None
    # Where decimals have commas, spreadsheets separate columns by semicolons.
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
            raise ValueError(f"{path}, line {n}: {item} of {fits[0]} is there twice; keep one of the two.")
        rows[fits[0], item] = (fits[0], item, points, str(row.get("comment") or "").strip())
    return list(rows.values())


def _lines(path: Path, reader: csv.DictReader) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table, each with the number of its last line.

    Raises:
        ValueError: at an invalid row.
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
    """Enter a person's points for an item into the gradebook; its cells are filled in order."""
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
    """Write the table of marks, and those for other systems."""
    head = ["student", "student_number", "total", "possible", *ITEMS]
    head += ["unread", "missing", "late", "changed", "handed_in", "problems"]
    rows = []
    for mine in marks:
        points = ["" if value is None else gradebook.number_text(value) for value in mine.items().values()]
        total = gradebook.number_text(mine.total())
        words = [" ".join(mine.unread()), " ".join(mine.missing), mine.late, " ".join(mine.changed)]
        rows.append([mine.student, mine.student_number, total, f"{POSSIBLE:g}", *points, *words])
        rows[-1] += [mine.handed_in or "", " ".join(mine.problems)]
    gradebook.write_table(out / "marks.csv", [head, *rows])
    students = [_record(mine) for mine in marks]
    items = {name: {"points": item.points, "title": item.title, "by_hand": item.manual} for name, item in ITEMS.items()}
    write_json(out / "marks.json", {"possible": POSSIBLE, "items": items, "students": students})
    # These systems read an empty number as the student of the row before, and an empty mark as "no grade".
    left_out = set(not_exported(marks))
    final = [mine for mine in marks if mine.student not in left_out]
    totals = {mine.student: gradebook.number_text(mine.total()) for mine in final}
    gradebook.write_table(
        out / "moodle.csv",
        [["ID number", TITLE, f"{TITLE} (feedback)"]]
        + [[mine.student_number, totals[mine.student], _comments(mine)] for mine in final],
    )
    gradebook.write_table(
        out / "canvas.csv",
        [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", TITLE]]
        + [["    Points Possible", "", "", "", "", f"{POSSIBLE:g}"]]
        + [[mine.student, "", mine.student_number, "", "", totals[mine.student]] for mine in final],
    )


def _record(mine: Marks) -> dict[str, Any]:
    sums = {"total": mine.total(), "items": mine.items(), "unread": mine.unread()}
    return asdict(mine) | {"cells": [cell.record() for cell in mine.cells]} | sums


def not_exported(marks: Sequence[Marks]) -> list[str]:
    """The students who are not in Moodle's and Canvas's files: without a final mark, or without a unique number."""
    unsure = without_a_number(marks)
    return [mine.student for mine in marks if mine.unread() or mine.student in unsure]


def without_a_number(marks: Sequence[Marks]) -> list[str]:
    """The students without a student number, or with that of another."""
    count = Counter(mine.student_number for mine in marks)
    return [mine.student for mine in marks if not mine.student_number or count[mine.student_number] > 1]


def _comments(mine: Marks) -> str:
    """The graders' comments, item by item, in a line."""
    lines = {cell.item: cell.comment for cell in mine.cells if cell.comment}
    return "; ".join(f"{item}: {text}" for item, text in lines.items())


def alike_in(out: Path) -> list[dict[str, Any]]:
    """Pairs of submissions of a course whose solutions are alike (see `originality.alike`)."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(out.glob(f"submitted/*/{ASSIGNMENT}/*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if marked_cells(notebook):
            own = {name: text for name, text in solutions(notebook).items() if STUB_LINE not in text}
            found.setdefault(path.parts[-3], {}).update(own)
    return alike(found)


def summary(mine: Marks) -> str:
    """One line on a student's marks, and one for each answer that changed after it was marked."""
    more = [f"{name}: {value}" for name, value in (
        ("unread", " ".join(mine.unread())), ("missing", " ".join(mine.missing)), ("late", mine.late)
    ) if value]  # fmt: skip
    line = f"{mine.student}: {gradebook.number_text(mine.total())} of {POSSIBLE:g} points" + "".join(
        f"; {text}" for text in more
    )
    now = {cell.cell: cell for cell in mine.cells}
    for name, was in mine.changed.items():
        state = "not read again" if now[name].unread else f"now {now[name].points:g}"
        line += f"\n  {name} changed after it was marked with {was['points']:g}: {state}"
    return line
