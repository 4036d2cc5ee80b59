"""The section "Changing the homework" of the course's README, followed in a copy of the package."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from course_helpers import mark
from nbformat.v4 import new_code_cell, new_markdown_cell

pytest.importorskip("nbgrader", reason="nbgrader is not installed")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = "notebooks/01_forward_process.ipynb"
CHECK = '''

def check_triple(function):
    """Judge Q1.P8: function(x) -> 3 x.

    Returns:
        The error.
    """
    error = abs(float(function(2.0)) - 6.0)
    require(error < 1, "it must triple.")
    return error
'''
# What is written in a place of each file of code: (before it, the new text).
EDITS = {
    "hw3utils/course/checks/optional.py": ("", CHECK),
    "hw3utils/course/checks/__init__.py": (
        "__all__ = [\n",
        'from hw3utils.course.checks.optional import check_triple\n\n__all__ = [\n    "check_triple",\n',
    ),
    "hw3utils/course/assignment.py": (
        '    "Q2.T1": Item(',
        '    "Q1.P8": Item(3, "Three times", ("01",), manual=False),\n    "Q2.T1": Item(',
    ),
}
ALSO_NAMED = {NOTEBOOK, "tests/test_checks.py", "tests/test_assignment.py", "tests/test_grading.py", "README.md"}
ALSO_NAMED |= {"hw3utils/course/README.md"}


def section():
    text = (ROOT / "hw3utils/course/README.md").read_text(encoding="utf-8")
    return text.partition("## Changing the homework\n")[2].partition("\n## ")[0]


def test_the_section_names_the_files_that_are_edited_here():
    named = set(re.findall(r"`([\w/]+\.(?:py|md|ipynb))`", section()))
    assert named == set(EDITS) | ALSO_NAMED
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package with one notebook."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "hw3utils", root / "hw3utils", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "notebooks").mkdir()
    for name in (NOTEBOOK, "notebooks/student_number.txt", "requirements.txt"):
        shutil.copy(ROOT / name, root / name)
    return root


def hw3(root, *words):
    """Run a command of the copy; its exit code, output and errors."""
    environment = os.environ | {"PYTHONPATH": str(root), "HW3_QUIET": "1"}
    command = [sys.executable, "-m", "hw3utils", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def add_exercise(root):
    """Follow the section."""
    for name, (before, new) in EDITS.items():
        text = (root / name).read_text(encoding="utf-8")
        assert not before or text.count(before) == 1
        (root / name).write_text(text.replace(before, new) if before else text + new, encoding="utf-8")
    notebook = nbformat.read(root / NOTEBOOK, as_version=4)
    solution = "def my_triple(x):\n    ### BEGIN SOLUTION\n    return 3 * x\n    ### END SOLUTION"
    check = 'report.check("Q1.P8", "error", checks.check_triple(my_triple), below=1e-6)'
    notebook.cells[-1:-1] = [
        new_markdown_cell("## Q1.P8 · Three times (3 points)"),
        new_code_cell(solution, metadata=mark("Q1-P8-solution", solution=True)),
        new_code_cell(check, metadata=mark("Q1-P8-check", grade=True, locked=True, points=3)),
        new_code_cell('triple = choose("my_triple", instead=lambda x: 3 * x)'),
    ]
    nbformat.write(notebook, root / NOTEBOOK)


def hand_in(root, name, solution):
    """A submission of the edition with a solution of the new exercise."""
    folder = root / name
    shutil.copytree(root / "edition", folder)
    notebook = nbformat.read(folder / Path(NOTEBOOK).name, as_version=4)
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "Q1-P8-solution":
            cell.source = solution
    nbformat.write(notebook, folder / Path(NOTEBOOK).name)
    return folder


def hashes(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


def line_of(text, item):
    [line] = [line for line in text.splitlines() if line.split()[:1] == [item]]
    return line


def test_a_new_exercise_is_released_checked_and_graded(copy):
    assert hw3(copy, "release", "--out", "before")[0] == 0
    assert hw3(copy, "grade", "before", "--out", "grades", "--seed", "3")[0] == 0
    add_exercise(copy)
    code, out, _ = hw3(copy, "check", NOTEBOOK)
    assert code == 0
    assert line_of(out, "Q1.P8").split()[1:] == ["3", "points", "done"]
    assert hw3(copy, "release", "--out", "edition")[0] == 0
    assert "113 points" in (copy / "edition" / "README.md").read_text(encoding="utf-8")
    code, out, _ = hw3(copy, "check", f"edition/{Path(NOTEBOOK).name}")
    assert code == 1
    assert "missing" in line_of(out, "Q1.P8")

    # In the folder of the grading before, a sentence with advice, and nothing has changed.
    before = hashes(copy / "grades")
    code, _, error = hw3(copy, "grade", "edition", "--out", "grades")
    assert code == 2
    assert error.count("\n") == 1
    assert "Q1-P8-check" in error
    assert "in a new folder with --out" in error
    assert hashes(copy / "grades") == before

    right, wrong = "def my_triple(x):\n    return x + x + x", "def my_triple(x):\n    return 4 * x"
    folders = [hand_in(copy, name, text) for name, text in (("right", right), ("wrong", wrong))]
    assert hw3(copy, "grade", *folders, "--out", "grades-2", "--seed", "3")[0] == 0
    points = {}
    for folder in folders:
        report = json.loads((copy / "grades-2" / folder.name / "report.json").read_text())
        [cell] = [cell for cell in report["cells"] if cell["item"] == "Q1.P8"]
        points[folder.name] = cell["points"], cell["possible"], cell["message"]
    assert points["right"] == (3, 3, "")
    assert points["wrong"] == (0, 3, "it must triple.")
    assert hw3(copy, "marks", "grades-2")[0] == 0


def test_other_points_after_grading_has_begun_are_refused_too(copy):
    notebook = nbformat.read(copy / NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "Q1-P8-check":
            cell.metadata["nbgrader"]["points"] = 2
    nbformat.write(notebook, copy / NOTEBOOK)
    before = hashes(copy / "grades-2")
    code, _, error = hw3(copy, "grade", "right", "--out", "grades-2")
    assert code == 2
    assert "in a new folder with --out" in error
    assert hashes(copy / "grades-2") == before
