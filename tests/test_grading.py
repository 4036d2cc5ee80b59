"""The student edition and its grading, through nbgrader: points, states, and submissions of every kind."""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from course_helpers import mark as nbgrader_mark
from nbclient import NotebookClient
from tiny import default_signals

from hw3utils.__main__ import main
from hw3utils.course import release
from hw3utils.course.assignment import ITEMS, is_homework
from hw3utils.course.grading import session as grade
from hw3utils.course.notebooks import cells as nbgrading
from hw3utils.course.notebooks.execute import NOTEBOOKS, find_notebooks
from hw3utils.course.records import gradebook

pytest.importorskip("nbgrader", reason="nbgrader is not installed")

SOLVED = {path.name: nbformat.read(path, as_version=4) for path in find_notebooks()}


def marks(notebook):
    """(cell, mark) of every cell that nbgrader knows."""
    return [(cell, cell.metadata["nbgrader"]) for cell in notebook.cells if "nbgrader" in cell.metadata]


# ------------------------------------------------------------------------------------------------------- the marks


def test_points_of_the_cells_add_up_to_the_homework_item_by_item():
    points = dict.fromkeys(ITEMS, 0)
    for file, notebook in SOLVED.items():
        for name, cell in nbgrading.graded_cells(notebook).items():
            item = nbgrading.item_of(name)
            points[item] += cell.metadata["nbgrader"]["points"]
            assert file[:2] in ITEMS[item].homes
            assert (cell.cell_type == "markdown") == ITEMS[item].manual
    assert points == {name: item.points for name, item in ITEMS.items()}
    assert sum(points.values()) == 110
    assert [file for file in SOLVED if not is_homework(file)] == ["07_one_process.ipynb"]
    assert nbgrading.graded_cells(SOLVED["07_one_process.ipynb"]) == {}


def test_every_programming_item_has_a_solution_and_a_check_that_uses_the_package():
    for file, notebook in SOLVED.items():
        solutions = {nbgrading.item_of(mark["grade_id"]) for _, mark in marks(notebook) if mark["solution"]}
        for name, cell in nbgrading.graded_cells(notebook).items():
            assert nbgrading.item_of(name) in solutions, file
            if cell.cell_type == "code":
                assert "checks.check_" in cell.source
                assert cell.metadata["nbgrader"]["locked"]
    code = [cell for notebook in SOLVED.values() for cell, mark in marks(notebook) if mark["solution"]]
    for cell in code:
        if cell.cell_type == "code":
            assert cell.source.count("### BEGIN SOLUTION") == cell.source.count("### END SOLUTION") >= 1


def test_every_theory_item_has_a_question_with_a_marking_scheme_that_adds_up():
    for name, item in ITEMS.items():
        if item.manual:
            [question] = [
                cell.source
                for notebook in SOLVED.values()
                for cell, mark in marks(notebook)
                if mark["grade_id"] == f"{name.replace('.', '-')}-question"
            ]
            scheme = question.partition("**Marking scheme.**")[2]
            digits = [int(word[0]) for word in scheme.split(": ")[1:] if word[0].isdigit()]
            assert sum(digits) == item.points, name


# ------------------------------------------------------------------------------------------------------- the edition


@pytest.fixture(scope="module")
def edition(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edition")
    assert main(["release", "--out", str(folder)]) == 0
    return folder


def read(folder):
    return {path.name: nbformat.read(path, as_version=4) for path in sorted(folder.glob("*.ipynb"))}


def test_the_edition_has_stubs_blank_answers_and_checks(edition):
    released = read(edition)
    assert set(released) == set(SOLVED)
    assert (edition / "student_number.txt").read_text() == (NOTEBOOKS / "student_number.txt").read_text()
    for file, notebook in released.items():
        assert "SOLUTION" not in json.dumps(notebook)
        text = nbgrading.student_text((NOTEBOOKS / file).read_text(encoding="utf-8"))
        solved = {mark["grade_id"]: cell for cell, mark in marks(nbformat.reads(text, as_version=4))}
        for cell, mark in marks(notebook):
            if mark["solution"] and cell.cell_type == "code":
                assert nbgrading.STUB_LINE in cell.source
            elif mark["solution"]:
                assert cell.source == nbgrading.ANSWER
            else:
                assert cell.source == solved[mark["grade_id"]].source
        assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)


def test_the_edition_runs_up_to_the_first_stub(edition, monkeypatch):
    monkeypatch.setenv("HW3_PROFILE", "tiny")
    notebook = nbformat.read(edition / "01_forward_process.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=300, allow_errors=True, resources={"metadata": {"path": str(edition)}})
    last = notebook.cells.index(next(cell for cell, mark in marks(notebook) if mark["grade_id"] == "Q1-P1-check"))
    notebook.cells = notebook.cells[: last + 1]
    client.execute()
    errors = {
        cell.metadata["nbgrader"]["grade_id"]: output.ename
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "error" and "nbgrader" in cell.metadata
    }
    assert errors == {"Q1-P1-check": "NotImplementedError"}


def test_release_refuses_a_folder_with_other_files(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("x")
    assert main(["release", "--out", str(tmp_path)]) == 2
    assert "'thesis.tex', which is no part of an edition; choose a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("words", [["release"], ["grade", "."]])
def test_without_nbgrader_the_error_says_how_to_install_it(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nbgrader.apps", None)
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "install it with: python -m pip install nbgrader" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------- the homework


def solve(notebook, file, changes=None):
    """Paste the reference back into an edition, with other solutions for some cells."""
    solved = {mark["grade_id"]: cell.source for cell, mark in marks(SOLVED[file])}
    for cell, mark in marks(notebook):
        if mark["solution"]:
            text = solved[mark["grade_id"]]
            for old, new in (changes or {}).get(mark["grade_id"], []):
                assert old in text
                text = text.replace(old, new)
            cell.source = text
    return notebook


def lean(notebook):
    """Leave out the experiments that give no points, as a student may."""
    notebook.cells = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
    return notebook


def hand_in(folder, notebooks, number="4711"):
    folder.mkdir()
    for file, notebook in notebooks.items():
        nbformat.write(notebook, folder / file)
    (folder / "student_number.txt").write_text(number)
    return str(folder)


MISTAKES = {
    "Q1-P2-solution": [("(1 - alpha_bar).sqrt()", "(1 - alpha_bar)")],
    "Q1-P5-solution": [("eta * math.sqrt", "0 * math.sqrt")],
    "Q2-P3-solution": [("step_size**0.5 * z", "(2 * step_size)**0.5 * z")],
}


def test_reference_empty_and_three_mistakes(edition, tmp_path, capsys):
    solved = {file: solve(notebook, file) for file, notebook in read(edition).items()}
    wrong = {file: lean(solve(notebook, file, MISTAKES)) for file, notebook in read(edition).items()}
    empty = {file: lean(notebook) for file, notebook in read(edition).items()}
    submissions = [
        hand_in(tmp_path / "reference", solved),
        hand_in(tmp_path / "empty", empty),
        hand_in(tmp_path / "mistakes", wrong, "4712"),
    ]
    out = tmp_path / "out"
    assert main(["grade", *submissions, "--out", str(out), "--profile", "tiny", "--seed", "3"]) == 0
    assert "executing students' code with" in capsys.readouterr().out
    reports = {
        name: json.loads((out / name / "report.json").read_text()) for name in ("reference", "empty", "mistakes")
    }
    assert {name: report["automatic"] for name, report in reports.items()} == {
        "reference": {"points": 60, "possible": 60},
        "empty": {"points": 0, "possible": 60},
        "mistakes": {"points": 60 - 5 - 5 - 3, "possible": 60},
    }
    for name, report in reports.items():
        pending = [cell for cell in report["cells"] if cell["state"] == "to be read by hand"]
        assert sum(cell["possible"] for cell in pending) == report["by_hand"]["pending"] == 50
        assert all((cell["message"] == "the answer is blank") == (name == "empty") for cell in pending)
        assert report["problems"] == []
        assert report["seed"] == 3
        assert set(report["versions"]) == {"python", "hw3utils", "nbgrader", "torch", "numpy"}
    lost = {cell["cell"]: cell["message"] for cell in reports["mistakes"]["cells"] if cell["state"] == "failed"}
    assert set(lost) == {"Q1-P2-check", "Q1-P5-check", "Q2-P3-langevin-check"}
    assert "wrong size" in lost["Q1-P2-check"]
    failed = [cell["message"] for cell in reports["empty"]["cells"] if cell["state"] == "failed"]
    assert len(failed) == 17
    assert all(message.startswith(("NotImplementedError", "NameError")) for message in failed)
    rows = {row["student"]: row for row in csv.DictReader((out / "grades.csv").open(encoding="utf-8-sig"))}
    assert [rows["mistakes"][item] for item in ("Q1.P1", "Q1.P2", "Q1.P5", "Q2.P3")] == ["2", "0", "0", "2"]
    assert rows["mistakes"]["student_number"] == "4712"
    page = (out / "mistakes" / "01_forward_process.html").read_text()
    assert "the noise has the wrong size" in page


# ------------------------------------------------------------------------------------------------- the submissions


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A homework of one notebook with one function, one check and one answer."""
    new = nbformat.v4
    code = "def double(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION"
    cells = [
        new.new_code_cell(code, metadata=nbgrader_mark("Q1-P1-solution", solution=True)),
        new.new_code_cell(
            "assert double(2) == 4, 'it must double'",
            metadata=nbgrader_mark("Q1-P1-check", grade=True, locked=True, points=2),
        ),
        new.new_markdown_cell("Because.", metadata=nbgrader_mark("Q1-T1-answer", grade=True, solution=True, points=5)),
    ]
    for cell in cells:
        cell.metadata["nbgrader"]["cell_type"] = cell.cell_type
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = tmp_path / "source" / "01_small.ipynb"
    path.parent.mkdir()
    nbformat.write(new.new_notebook(cells=cells, metadata=kernel), path)
    monkeypatch.setattr(grade, "find_notebooks", lambda names=(): [path])
    out = tmp_path / "edition"
    release.release(out, [str(path)])
    return out / path.name


def variant(small, name, solution=None, *, check=None, deleted=False):
    notebook = nbformat.read(small, as_version=4)
    if solution is not None:
        notebook.cells[0].source = solution
    if check is not None:
        notebook.cells[1].source = check
    if deleted:
        del notebook.cells[1]
    return hand_in(small.parent.parent / name, {small.name: notebook})


RIGHT = "def double(x):\n    return x + x"
WRONG = "def double(x):\n    return 3 * x"
ENDLESS = "def double(x):\n    while True:\n        pass"


def test_a_class_has_its_reports_and_its_files_are_unchanged(small, tmp_path, capsys):
    """The kinds of submission are in test_class.py; here what is written for each."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / small.name).write_text(small.read_text()[:300])
    (tmp_path / "none").mkdir()
    letters = Path(variant(small, "letters", RIGHT))
    (letters / "student_number.txt").write_text("B9910")
    (letters / "07_one_process.ipynb").write_text("for a reader, not for a grader")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.write(letters / small.name, f"inner/{small.stem} (1).ipynb")
        archive.writestr("inner/student_number.txt", "4714")
    submissions = [
        variant(small, "wrong", WRONG),
        variant(small, "endless", ENDLESS),
        variant(small, "cheat", WRONG, check="assert True"),
        variant(small, "deleted", WRONG, deleted=True),
        variant(small, "deleted-right", RIGHT, deleted=True),
        variant(small, "killer", "import os\nos._exit(1)"),
        variant(small, "numpy", "import numpy as np\ndef double(x):\n    return np.array(2.0 * x)"),
        str(broken),
        str(tmp_path / "none"),
        str(letters),
        str(tmp_path / "packed.zip"),
    ]
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.rglob("*") if path.is_file()}
    out = tmp_path / "out"
    assert main(["grade", *submissions, "--out", str(out), "--timeout", "3"]) == 1
    after = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in before}
    assert after == before
    reports = {path.parent.name: json.loads(path.read_text()) for path in out.glob("*/report.json")}
    checks = {name: report["cells"][0] for name, report in reports.items()}
    assert {name: (cell["points"], cell["state"]) for name, cell in checks.items()} == {
        "wrong": (0, "failed"),
        "endless": (0, "timed out"),
        "cheat": (0, "tampered check"),
        "deleted": (0, "tampered check"),
        "deleted-right": (2, "tampered check"),
        "killer": (0, "lost"),
        "numpy": (2, "passed"),
        "broken": (0, "not run"),
        "none": (0, "not run"),
        "letters": (2, "passed"),
        "packed": (2, "passed"),
    }
    assert [reports[name]["student_number"] for name in ("letters", "packed")] == ["", "4714"]
    assert "student_number.txt holds 'B9910'" in reports["letters"]["problems"][0]
    assert reports["packed"]["problems"] == [f"{small.stem} (1).ipynb was taken for {small.name}."]
    assert checks["wrong"]["message"] == "it must double"
    assert "was changed and was put back; then it failed. it must double" in checks["cheat"]["message"]
    assert "was deleted" in checks["deleted"]["message"]
    assert "cannot be read as a notebook" in reports["broken"]["problems"][-1]
    assert "was not handed in" in reports["none"]["problems"][-1]
    assert len((out / "grades.csv").read_text().splitlines()) == 12
    said = capsys.readouterr().out
    assert "killer: 0 of 2 automatic points" in said


CLOUD = """!git clone https://example.org/hw3 && cd hw3
%cd hw3
!pip install -e ./hw3utils
%pip uninstall -y hw3utils
"""


def test_nothing_outside_of_a_submission_changes(small, tmp_path):
    """Cells of a student before a right solution that install or start something; test_class.py has more."""
    guilty = {"cloud": CLOUD, "\x1b[31mcontrol\u202e": "1 / 0"}
    folders = []
    for name, source in guilty.items():
        folder = Path(variant(small, name, RIGHT))
        notebook = nbformat.read(folder / small.name, as_version=4)
        notebook.cells.insert(0, nbformat.v4.new_code_cell(source))
        nbformat.write(notebook, folder / small.name)
        (folder / "\x1b[2Jevil.zip").write_bytes(b"no archive")
        folders.append(folder)
    before = grade.environment_state()
    results = grade.grade(folders, tmp_path / "out", timeout=3, seed=3, jobs=2)
    assert grade.environment_state() == before
    assert [(result.student, result.cells[0].points) for result in results] == [
        (result.student, 2) for result in results
    ]
    problems = {result.student: " ".join(result.problems) for result in results}
    for command in CLOUD.splitlines():
        assert command in problems["cloud"]
    text = "".join(grade.summary(result) for result in results)
    text += "".join(path.read_text() for path in (tmp_path / "out").glob("*/report.json"))
    assert not [c for c in ("\x1b", "\\u001b", "\u202e", "\\u202e") if c in text]


def test_a_changed_package_or_library_is_a_reason_to_grade_again(small, tmp_path, monkeypatch):
    folder, out = Path(variant(small, "ann", RIGHT)), tmp_path / "out"
    ran = []
    monkeypatch.setattr(grade, "_grade_one", lambda *words: ran.append(words[-1]))
    state = grade.environment_state()
    assert {"losses.py", "tables/fid_sprites.json", "torch", "numpy"} <= set(state)
    for change in ({}, {"losses.py": "other"}, {"tables/fid_sprites.json": "other"}, {"torch": "2.0"}):
        monkeypatch.setattr(grade, "environment_state", lambda change=change: state | change)
        grade.grade([folder], out, timeout=3, seed=3)
    assert len(set(ran)) == len(ran) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no submission nowhere; give a folder with notebooks, an archive of one, or a notebook"),
        ([".", "."], "two submissions are called"),
    ],
)
def test_grade_refuses_invalid_arguments(words, message, tmp_path, capsys):
    assert main(["grade", *words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tables_have_no_formulas():
    assert gradebook.table_text("=1+1") == "'=1+1"
    assert gradebook.table_text("") == ""
    assert gradebook.table_text("na\x1bme\n") == "na me"


# ------------------------------------------------------------------------------------------------- interrupted


def interrupted(command, bar):
    """Run a command until its progress bar is shown, press Ctrl-C; its exit code and standard error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hw3utils", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "HW3_QUIET": "0"},
        preexec_fn=default_signals,
    )
    seen = b""
    while bar not in seen:
        byte = process.stderr.read(1)
        assert byte, seen.decode()
        seen += byte
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    return process.returncode, error.decode()


def test_ctrl_c_stops_a_release(tmp_path):
    out = tmp_path / "edition"
    code, error = interrupted(["release", "--out", str(out)], b"releasing")
    assert code == 130
    assert error.splitlines()[-1] == f"hw3 release: interrupted; files that were written are complete, also in {out}"
    assert list(out.iterdir()) == []


def test_grading_shows_its_progress_and_ctrl_c_keeps_the_reports(tmp_path):
    for name in ("alice", "bob"):
        (tmp_path / name).mkdir()
    shutil.copy(NOTEBOOKS / "02_ddpm_training.ipynb", tmp_path / "bob")
    out = tmp_path / "grades"
    command = ["grade", str(tmp_path / "alice"), str(tmp_path / "bob"), "--profile", "tiny", "--out", str(out)]
    code, error = interrupted(command, b"bob: ")
    assert code == 130
    assert "Traceback" not in error
    assert error.splitlines()[-1] == f"hw3 grade: interrupted; files that were written are complete, also in {out}"
    assert json.loads((out / "alice" / "report.json").read_text())["automatic"]["points"] == 0
    assert not (out / "bob" / "report.json").exists()
