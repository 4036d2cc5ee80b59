"""Final marks: by hand in the gradebook or from a table, kept when a submission is graded again."""

import base64
import contextlib
import csv
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import warnings
import zipfile
from datetime import datetime
from pathlib import Path

import nbformat
import pytest
from course_helpers import CHECK, double_cells, hand_in, mark, small_homework, write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from hw3utils.__main__ import command_parser, main
from hw3utils.course.assignment import ITEMS, GradedCell
from hw3utils.course.grading import session as grade
from hw3utils.course.notebooks.cells import ANSWER, ASSIGNMENT, Course
from hw3utils.course.notebooks.execute import find_notebooks, read_notebook
from hw3utils.course.records import gradebook, marks
from hw3utils.course.records.originality import alike, borrowed, shape

pytest.importorskip("nbgrader", reason="nbgrader is not installed")


STUDENTS = {
    "ann": ("def double(x):\n    return 2 * x", "Because.", "4711"),
    "بهار": ("def double(x): return 3", ANSWER, "4712"),
}


@pytest.fixture(scope="module")
def homework(tmp_path_factory):
    with small_homework(tmp_path_factory.mktemp("homework")) as edition:
        yield edition


@pytest.fixture(scope="module")
def graded(homework, tmp_path_factory):
    """Two students, graded one after the other into one folder, as two machines do; and where their work lies."""
    work = tmp_path_factory.mktemp("class")
    for name, (solution, answer, number) in STUDENTS.items():
        folder = hand_in(work / "in" / name, homework, solution, answer, number)
        grade.grade([folder], work / "out", timeout=60, seed=3)
    return work


def rows(path):
    return list(csv.DictReader(path.open(encoding="utf-8-sig")))


def table(path, *lines):
    path.write_text("student,item,points,comment\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def score_of_nbgrader(out, student):
    with gradebook.opened(Course(out)) as book:
        return book.find_submission(ASSIGNMENT, student).score


def test_points_come_from_the_judge_not_from_outputs(homework, tmp_path, monkeypatch):
    """nbgrader reads a check's points from the outputs of its cell, where a student's process writes too."""
    monkeypatch.setattr(grade, "write_results", lambda notebook, cells: None)
    folder = hand_in(tmp_path / "in" / "eve", homework, "def double(x): return 3", "Because.", "4711")
    grade.grade([folder], tmp_path / "out", timeout=60, seed=3)
    main(["marks", str(tmp_path / "out")])
    assert [row["Q1.P1"] for row in rows(tmp_path / "out" / "marks.csv")] == ["0"]
    assert score_of_nbgrader(tmp_path / "out", "eve") == 0


def test_unread_answers_have_no_mark(graded, capsys):
    out = graded / "out"
    assert main(["marks", str(out), "--due", "2020-01-01T00:00"]) == 1
    said = capsys.readouterr().out
    assert "ann: 2 of 110 points; unread: Q1.T1; late: " in said
    assert "1 of them have answers that have not been read yet" in said
    ann, bahar = rows(out / "marks.csv")
    assert [ann["student"], ann["Q1.P1"], ann["Q1.T1"], ann["unread"], ann["total"]] == ["ann", "2", "", "Q1.T1", "2"]
    # A blank answer needs no reading.
    assert [bahar["student"], bahar["Q1.P1"], bahar["Q1.T1"], bahar["unread"]] == ["بهار", "0", "0", ""]
    assert set(ITEMS) <= set(ann)
    # A row without a mark would delete one: ann has none yet.
    assert [(row["ID number"], row["Homework 3"]) for row in rows(out / "moodle.csv")] == [("4712", "0")]
    assert [row["Homework 3"] for row in rows(out / "canvas.csv")] == ["110", "0"]
    assert "not in moodle.csv and canvas.csv, for want of a number or a final mark: ann" in said


def test_a_table_of_a_spreadsheet_with_decimal_commas_is_read(graded, tmp_path):
    out = shutil.copytree(graded / "out", tmp_path / "out")
    (tmp_path / "t.csv").write_text("\ufeffstudent;item;points;comment\r\nann;Q1.T1;3,5;Good, but short\r\n")
    assert main(["marks", str(out), "--table", str(tmp_path / "t.csv")]) == 0
    [ann, _] = json.loads((out / "marks.json").read_text(encoding="utf-8"))["students"]
    [answer] = [cell for cell in ann["cells"] if cell["item"] == "Q1.T1"]
    assert (answer["by_hand"], answer["comment"]) == (3.5, "Good, but short")


@pytest.mark.parametrize("number", ["4711", ""], ids=["another's", "none"])
def test_rows_without_a_unique_number_are_left_out(number, graded, tmp_path, capsys):
    out = shutil.copytree(graded / "out", tmp_path / "out")
    report = out / "بهار" / "report.json"
    report.write_text(json.dumps(json.loads(report.read_text()) | {"student_number": number}))
    main(["marks", str(out), "--table", table(tmp_path / "t.csv", "ann,Q1.T1,3,Good."), "--due", "2020-01-01"])
    said = capsys.readouterr().out
    unsure = ["ann", "بهار"] if number else ["بهار"]
    assert f"without a student number of their own: {', '.join(unsure)}" in said
    assert [row["total"] for row in rows(out / "marks.csv")] == ["5", "0"]
    # Moodle reads an empty number as the student of the row before.
    assert [row["Homework 3"] for row in rows(out / "moodle.csv")] == ([] if number else ["5"])
    assert [row["Homework 3"] for row in rows(out / "canvas.csv")] == (["110"] if number else ["110", "5"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("eve,Q1.T1,3,", "'eve' is no student of this course"),
        (",Q1.T1,3,", "'' is no student"),
        ("ann,Q9.T1,3,", "'Q9.T1' is no item, expected one of Q1.T1"),
        ("ann,Q1.T1,6,", "'6' points for Q1.T1, expected 0 to 5"),
        ("ann,Q1.T1,-1,", "'-1' points"),
        ("ann,Q1.T1,nan,", "'nan' points"),
        ("ann,Q1.T1,three,", "'three' points"),
        ("ann,Q1.T1,3,\n4711,Q1.T1,3,", "Q1.T1 of ann is there twice"),
        ("ann,Q1.T1,4,5,good", "line 3: more columns than in the first line; put quotes around commas"),
        ('ann,Q1.T1,3,"good\n4712,Q1.T1,3,x', "it is no CSV (unexpected end of data); put quotes right"),
    ],
)
def test_invalid_tables_change_nothing(line, message, graded, tmp_path, capsys):
    before = score_of_nbgrader(graded / "out", "ann")
    words = ["marks", str(graded / "out"), "--table", table(tmp_path / "t.csv", "ann,Q1.P1,1,no", line)]
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert score_of_nbgrader(graded / "out", "ann") == before


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe\x00\x01"])
def test_files_that_are_no_tables_are_refused(content, graded, tmp_path, capsys):
    (tmp_path / "t.csv").write_bytes(content)
    assert main(["marks", str(graded / "out"), "--table", str(tmp_path / "t.csv")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


GRADE = """
import sys
from pathlib import Path

from hw3utils.course.grading import session as grade

homework, out, *folders = map(Path, sys.argv[1:])
grade.find_notebooks = lambda names=(): [homework]
results = grade.grade(folders, out, timeout=60, seed=3)
print(*(f"{result.student} {result.points():g}" for result in results), sep="\\n")
"""


def test_a_killed_grading_resumes(homework, tmp_path):
    words = [sys.executable, "-c", GRADE, str(homework.parent.parent / homework.name), str(tmp_path / "out")]
    words += [str(hand_in(tmp_path / name, homework, *STUDENTS["ann"])) for name in ("one", "two")]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        first = tmp_path / "out" / "one" / "report.json"
        while not first.is_file():
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert process.wait(0.2) is None, "it ended before its first report"
        process.kill()
    done = {path: path.read_bytes() for path in (tmp_path / "out").glob("*/report.json")}
    assert len(done) == 1
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-2:] == ["one 2", "two 2"]
    # A report holds the seconds that its grading took: graded again, it would differ.
    assert {path: path.read_bytes() for path in done} == done
    assert {row["student"] for row in rows(tmp_path / "out" / "grades.csv")} == {"one", "two"}


def test_marks_by_hand_are_kept_when_a_submission_is_graded_again(graded, homework, tmp_path, capsys):
    out = graded / "out"
    given = table(tmp_path / "t.csv", "4711,Q1.T1,4,Well said.", "بهار,Q1.P1,1,half")
    assert main(["marks", str(out), "--table", given]) == 0
    ann, bahar = rows(out / "marks.csv")
    assert [ann["Q1.T1"], ann["total"], ann["unread"], bahar["Q1.P1"]] == ["4", "6", "", "1"]
    assert score_of_nbgrader(out, "ann") == 6
    assert rows(out / "moodle.csv")[0] == {
        "ID number": "4711", "Homework 3": "6", "Homework 3 (feedback)": "Q1.T1: Well said."
    }  # fmt: skip
    assert "Well said." in (out / "ann" / "01_small.html").read_text(encoding="utf-8")
    told = {s["student"]: s for s in json.loads((out / "marks.json").read_text(encoding="utf-8"))["students"]}
    [check] = [cell for cell in told["بهار"]["cells"] if cell["cell"] == "Q1-P1-check"]
    assert (check["automatic"], check["by_hand"], check["message"]) == (0.0, 1.0, "it must double")
    # The same again is not run again; another answer is, and waits to be read; the mark of before is shown.
    ran = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grade, "_grade_one", lambda *a: ran.append(a))
        grade.grade([graded / "in" / name for name in STUDENTS], out, timeout=60, seed=3)
    assert ran == []
    solution, _, number = STUDENTS["ann"]
    hand_in(graded / "in" / "ann", homework, solution + "  # again", "Because of that.", number)
    grade.grade([graded / "in" / "ann"], out, timeout=60)
    capsys.readouterr()
    assert main(["marks", str(out)]) == 1
    assert "Q1-T1-answer changed after it was marked with 4: not read again" in capsys.readouterr().out
    ann, bahar = rows(out / "marks.csv")
    assert [ann["unread"], ann["changed"], ann["Q1.P1"], bahar["Q1.P1"]] == ["Q1.T1", "Q1-T1-answer", "2", "1"]
    told = json.loads((out / "marks.json").read_text(encoding="utf-8"))["students"][0]
    assert told["changed"]["Q1-T1-answer"] == {"points": 4.0, "answer": "Because."}
    # Graded once more before anybody has read it, it waits on.
    grade.grade([graded / "in" / "ann"], out, timeout=61)
    assert main(["marks", str(out)]) == 1
    assert rows(out / "marks.csv")[0]["unread"] == "Q1.T1"
    # A hand-in that changes something else keeps the mark.
    assert main(["marks", str(out), "--table", table(tmp_path / "t.csv", "ann,Q1.T1,5,")]) == 0
    hand_in(graded / "in" / "ann", homework, solution + "  # once more", "Because of that.", number)
    grade.grade([graded / "in" / "ann"], out, timeout=60)
    assert main(["marks", str(out)]) == 0
    assert rows(out / "marks.csv")[0]["total"] == "7"


def test_an_unexpected_error_stops_no_other_submission(graded, homework, tmp_path, monkeypatch):
    ann, eve = (hand_in(tmp_path / "in" / name, homework, *STUDENTS["ann"]) for name in ("ann", "eve"))
    right = grade.plan
    monkeypatch.setattr(grade, "plan", lambda *a, **k: 1 / 0 if not ran.append(1) and len(ran) == 1 else right(*a, **k))
    ran = []
    one, two = grade.grade([eve, ann], tmp_path / "out", timeout=60, seed=3)
    assert [one.points(), two.points()] == [0, 2]
    assert one.problems == ["it could not be graded (ZeroDivisionError: division by zero)."]
    assert main(["marks", str(tmp_path / "out")]) == 1
    # What was not judged is no mark, and is tried again; meanwhile it takes nothing from what stood there.
    listed = rows(tmp_path / "out" / "marks.csv")
    assert [(row["student"], row["unread"]) for row in listed] == [("ann", "Q1.T1"), ("eve", "Q1.T1 Q1.P1")]
    [again] = grade.grade([eve], tmp_path / "out", timeout=60)
    assert (again.points(), again.problems) == (2, [])
    assert main(["marks", str(tmp_path / "out")]) == 1
    assert [row["unread"] for row in rows(tmp_path / "out" / "marks.csv")] == ["Q1.T1", "Q1.T1"]


def test_odd_submissions_are_graded(homework, tmp_path, capsys):
    """A photo below a blank answer, half a letter, a sum without end, a damaged archive, a file of an old encoding."""
    photo = hand_in(tmp_path / "in" / "photo", homework, "def double(x): return x + x", ANSWER, "1")
    notebook = nbformat.read(photo / "01_small.ipynb", as_version=4)
    made = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 10, 10)).save(made, "PNG")
    picture = base64.b64encode(made.getvalue()).decode()
    below = new_markdown_cell("![](attachment:p.png) ![gone]()", attachments={"p.png": {"image/png": picture}})
    notebook.cells.append(below)
    nbformat.write(notebook, photo / "01_small.ipynb")
    odd = hand_in(tmp_path / "in" / "odd", homework, "def double(x): return 2 * x", "So \\ud83d it is.", "2")
    text = (odd / "01_small.ipynb").read_text(encoding="utf-8").replace("\\\\ud83d", "\\ud83d")
    cells = json.loads(text)
    long = new_code_cell("y = " + " + ".join(["1"] * 3000))
    large = new_code_cell('open("large", "wb").truncate(2**31)')
    (odd / "01_small.ipynb").write_text(json.dumps(cells | {"cells": [*cells["cells"], long, large]}))
    (odd / os.fsdecode(b"\xe4\xf6.txt")).write_text("x")
    damaged = tmp_path / "in" / "damaged.zip"
    with zipfile.ZipFile(damaged, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(homework, homework.name)
    content = bytearray(damaged.read_bytes())
    content[80] ^= 255
    damaged.write_bytes(content)
    out = tmp_path / "out"
    # The sum is too deep for the kernel, which does not answer: the cell takes all of its time.
    results = grade.grade([photo, odd, damaged], out, timeout=5, seed=3)
    assert [result.points() for result in results] == [2, 2, 0]
    assert any("shows a picture that was not handed in with it" in problem for problem in results[0].problems)
    assert any("damaged.zip cannot be unpacked" in problem for problem in results[2].problems)
    assert main(["marks", str(out)]) == 1
    assert [(row["student"], row["unread"]) for row in rows(out / "marks.csv")][1:] == [
        ("odd", "Q1.T1"), ("photo", "Q1.T1")
    ]  # fmt: skip
    if sys.platform.startswith("linux"):
        assert "File too large" in (out / "submitted" / "odd" / ASSIGNMENT / homework.name).read_text(encoding="utf-8")
    read = nbformat.read(out / "autograded" / "photo" / ASSIGNMENT / homework.name, as_version=4)
    [answer] = [c for c in read.cells if c.metadata.get("nbgrader", {}).get("grade_id") == "Q1-T1-answer"]
    assert answer.attachments["picture-1"] == {"image/png": picture}
    assert f"data:image/png;base64,{picture}" in (out / "photo" / "01_small.html").read_text(encoding="utf-8")
    # Another student with the same name is refused; the earlier report stays.
    other = hand_in(tmp_path / "other" / "photo", homework, "def double(x): return 0", "No.", "9")
    capsys.readouterr()
    [refused] = grade.grade([other], out, timeout=60)
    assert refused.problems[0].startswith("photo was graded before with the student number 1, this one has 9: rename")
    assert json.loads((out / "photo" / "report.json").read_text())["automatic"]["points"] == 2


def test_an_interrupted_join_keeps_all_marks(homework, tmp_path, monkeypatch):
    folder, out = tmp_path / "in" / "ann", tmp_path / "out"
    grade.grade([hand_in(folder, homework, *STUDENTS["ann"])], out, timeout=60, seed=3)
    assert main(["marks", str(out), "--table", table(tmp_path / "t.csv", "ann,Q1.T1,4,Good.")]) == 0
    solution, answer, number = STUDENTS["ann"]

    def stopped(*a):
        raise KeyboardInterrupt

    for place in ("autograde", "feedback"):
        # The points of the check change, the answer does not; it is stopped after nbgrader has taken it.
        hand_in(folder, homework, f"{solution}  # {place}", answer, number)
        with monkeypatch.context() as patch:
            right = getattr(Course, place)
            patch.setattr(Course, place, lambda self, student, right=right: stopped(right(self, student)))
            with pytest.raises(KeyboardInterrupt):
                grade.grade([folder], out, timeout=60)
        assert main(["marks", str(out)]) == 0
        [ann] = rows(out / "marks.csv")
        assert (ann["Q1.T1"], ann["unread"], ann["changed"], ann["total"]) == ("4", "", "", "6")


def test_extra_credit_is_added_to_a_check(graded, tmp_path):
    out = shutil.copytree(graded / "out", tmp_path / "out")
    with gradebook.opened(Course(out)) as book:
        [grade_of] = [grade for grade in gradebook.grades_of(book, "ann") if grade.name == "Q1-P1-check"]
        grade_of.extra_credit = 0.5
        book.db.commit()
        wanted = grade_of.score
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        [ann, _] = marks.collect(out)
    assert ann.items()["Q1.P1"] == wanted == 2.5


def test_list_uses_the_seed_of_the_folder(graded, capsys):
    lines = []
    for _ in range(2):
        main(["grade", str(graded / "in" / "ann"), "--out", str(graded / "out"), "--list"])
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1]
    assert "--seed 3" in lines[0]


def test_submissions_are_absolute_paths(homework, tmp_path, monkeypatch):
    """Its interface goes into other folders; what was given by a relative path is another place there."""
    hand_in(tmp_path / "in" / "ann", homework, *STUDENTS["ann"])
    monkeypatch.chdir(tmp_path / "in")
    named = grade.named_submissions([Path("ann"), Path("./ann/01_small.ipynb")])
    assert list(named.values()) == [tmp_path / "in" / "ann", tmp_path / "in" / "ann" / "01_small.ipynb"]


def test_checks_added_after_grading_has_begun_are_refused_before_anything_is_deleted(graded, tmp_path, monkeypatch):
    out = shutil.copytree(graded / "out", tmp_path / "out")
    cells = double_cells()
    cells.insert(2, new_code_cell("assert double(3) == 6", metadata=mark("Q1-P1-more-check", **CHECK)))
    path = write(tmp_path / "01_small.ipynb", cells)
    monkeypatch.setattr(grade, "find_notebooks", lambda names=(): [path])
    before = score_of_nbgrader(out, "ann")
    with pytest.raises(ValueError, match="Q1-P1-more-check"):
        grade.grade([graded / "in" / "ann"], out, timeout=60)
    assert (out / "release").is_dir()
    assert score_of_nbgrader(out, "ann") == before


def test_totals_are_the_sums_of_the_shown_points(tmp_path):
    cells = [GradedCell(f"{item}-check", item, 2.0, 1 / 3, None, False) for item in ITEMS]
    marks._write(tmp_path, [marks.Marks("ann", "4711", None, cells=cells)])
    [row] = rows(tmp_path / "marks.csv")
    assert float(row["total"]) == pytest.approx(sum(float(row[item]) for item in ITEMS), abs=1e-9)


def test_excel_opens_names_in_any_script(graded):
    assert main(["marks", str(graded / "out")]) in (0, 1)
    for name in ("marks.csv", "grades.csv", "moodle.csv", "canvas.csv"):
        assert (graded / "out" / name).read_bytes().startswith(b"\xef\xbb\xbf")


def test_marks_of_nothing_are_refused(tmp_path, capsys):
    assert main(["marks", str(tmp_path)]) == 2
    assert "is no folder of hw3 grade" in capsys.readouterr().err


def test_listed_commands_are_complete(graded, capsys):
    folders = [str(graded / "in" / name) for name in STUDENTS]
    assert main(["grade", *folders, "--list", "--out", "o", "--full"]) == 0
    parsed = [command_parser().parse_args(shlex.split(line)[1:]) for line in capsys.readouterr().out.splitlines()]
    assert [str(p.submissions[0]) for p in parsed] == [str(Path(folder).resolve()) for folder in folders]
    assert len({(p.seed, p.full, p.out) for p in parsed}) == 1
    assert parsed[0].out == Path("o").resolve()


def test_a_gradescope_autograder_writes_its_results(graded, tmp_path):
    folder = graded / "in" / "بهار"
    assert main(["grade", "--gradescope", str(folder), "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    [test] = results["tests"]
    assert (test["score"], test["max_score"], test["status"], test["number"]) == (0, 2, "failed", "Q1.P1")
    assert test["output"] == "it must double"
    # The fields of the documentation.
    fields = {"score": float, "execution_time": int, "output": str, "visibility": str, "stdout_visibility": str}
    assert all(isinstance(value, (*fields.values(), list)) for value in results.values())
    assert set(results) <= {*fields, "tests", "leaderboard", "extra_data", "output_format", "test_output_format"}
    assert set(test) <= {"score", "max_score", "status", "name", "number", "output", "tags", "visibility"}
    assert results["visibility"] in ("hidden", "after_due_date", "after_published", "visible")


# ------------------------------------------------------------------------------------------------- originality


MINE = "def f(x, t):\n    y = x * t\n    for k in range(3):\n        y = y + k\n    return y"


def test_solutions_are_alike_up_to_names_and_comments():
    theirs = (
        'def g(a, b):\n    """Mine."""\n    c = a * b  # new\n    for i in range(3):\n        c = c + i\n    return c'
    )
    other = MINE.replace("range(3)", "range(4)")
    swapped = MINE.replace("x * t", "t * x")
    found = alike({"ann": {"q": MINE}, "bob": {"q": theirs}, "cid": {"q": other}, "dan": {"q": swapped}, "eve": {}})
    assert [(pair["students"], pair["alike"], pair["both"]) for pair in found] == [(["ann", "bob"], ["q"], 1)]
    assert shape("def f(:") is None
    stub = 'def f(x):\n    raise NotImplementedError("write this part first")'
    assert alike({"ann": {"q": stub}, "bob": {"q": stub}}) == []


def test_calls_of_the_package_are_reported():
    [path] = find_notebooks(["01"])
    notebook = read_notebook(path)
    assert borrowed(notebook, path.name) == []
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        if name == "Q1-P1-solution":
            cell.source = "from hw3utils.schedules import linear_schedule as _l\nmake_schedule = lambda *a: _l(*a)"
        if name == "Q1-P2-solution":
            cell.source = "my_perturb_input = diffusion.perturb_input"
    one, two = borrowed(notebook, path.name)
    assert one.startswith("Q1-P1-solution calls hw3utils.schedules.linear_schedule")
    assert two.startswith("Q1-P2-solution calls hw3utils.diffusion.perturb_input")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import importlib\nf = importlib.import_module('hw3utils.' + 'losses')", "importlib"),
        ("f = getattr(diffusion, 'perturb' + '_input')", "getattr"),
        ("f = __import__('hw3utils').losses", "__import__"),
        ("exec('from hw3utils import losses')", "exec"),
    ],
)
def test_functions_that_are_fetched_by_name_are_reported(source, name):
    notebook = new_notebook(cells=[new_code_cell(source, metadata=mark("Q1-P2-solution", solution=True))])
    assert f"Q1-P2-solution uses {name}: which function does it fetch?" in borrowed(
        notebook, "01_forward_process.ipynb"
    )


def test_lateness_is_counted_from_the_time_in_the_manifest(graded, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        [ann, _] = marks.collect(graded / "out", due=datetime.fromisoformat("2100-01-01T00:00"))
    assert ann.late == ""
