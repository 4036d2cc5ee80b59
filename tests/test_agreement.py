"""`hw3 check` and `hw3 grade` say the same of every cell, whatever a student hands in."""

import nbformat
import pytest
from course_helpers import CHECK, mark, small_homework
from nbformat.v4 import new_code_cell, new_markdown_cell

from hw3utils.course.assignment import CellState
from hw3utils.course.grading import session
from hw3utils.course.notebooks.cells import marked_cells
from hw3utils.course.notebooks.execute import find_notebooks
from hw3utils.course.student import check

pytest.importorskip("nbgrader", reason="nbgrader is not installed")

SETUP = "import torch\nfrom hw3utils.course import Report, checks\nreport = Report('01')"
NOISY = """def noisy(x0, t, eps, schedule):
    ### BEGIN SOLUTION
    bar = schedule.alpha_bar[t].to(x0.dtype).view(-1, *[1] * (x0.ndim - 1))
    return bar.sqrt() * x0 + (1 - bar).sqrt() * eps
    ### END SOLUTION"""
RIGHT = "\n".join(line for line in NOISY.splitlines() if "SOLUTION" not in line)
FACTOR = "def double(x):\n    return FACTOR[0] * x"
HALF = "def half(x):\n    return x / 2"
# What a student writes for `double` (a stub if it is None), the cells before it and behind all others, and whether
# it is right. Every submission also has a right solution of the next exercise, which must not pay for this one.
CASES = {
    "right": ("def double(x):\n    return x + x", None, None, True),
    "stub": (None, None, None, False),
    "wrong": ("def double(x):\n    return 3 * x", None, None, False),
    "quit in the cell": ("def double(x):\n    return 2 * x\nquit()", None, None, True),
    "exit in the function": ("def double(x):\n    exit()", None, None, False),
    "killed in the function": ("import os\ndef double(x):\n    os._exit(1)", None, None, False),
    "killed": ("import os\nos._exit(1)", None, None, False),
    "hanging cell": ("while True:\n    pass", None, None, False),
    "hanging function": ("def double(x):\n    while True:\n        pass", None, None, False),
    "syntax error": ("def double(x:\n    return 2 * x", None, None, False),
    "helper missing": ("def double(x):\n    return helper(x)", None, None, False),
    "helper below": ("def double(x):\n    return helper(x)", None, "def helper(x):\n    return 2 * x", True),
    "helper changed by a method": (FACTOR, "FACTOR = []\nFACTOR.append(2)", None, True),
    "helper with a magic": (FACTOR, "%%time\nFACTOR = [2]", None, True),
    "global in a function": (FACTOR, "def prepare():\n    global FACTOR\n    FACTOR = [2]\nprepare()", None, True),
    "shell": (FACTOR, "!pip install nothing\n%cd /\nFACTOR = [2]", None, True),
    "closed output": ("import sys\nsys.stdout.close()\ndef double(x):\n    return 2 * x", None, None, True),
    "imported from a file beside": ("from my_helper import double", None, None, True),
    "file in a folder": ("double = eval(open('data/double.txt').read())", None, None, False),
    "solved below": (None, None, "def double(x):\n    return 2 * x", True),
    "None": ("def double(x):\n    pass", None, None, False),
}


def cells():
    """A homework of two exercises and a question."""
    return [
        new_code_cell(SETUP, metadata=mark("Q1-setup", locked=True)),
        new_code_cell(
            "def double(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION",
            metadata=mark("Q1-P1-solution", solution=True),
        ),
        new_code_cell("assert double(2) == 4, 'it must double'", metadata=mark("Q1-P1-check", **CHECK)),
        new_code_cell(NOISY, metadata=mark("Q1-P2-solution", solution=True)),
        new_code_cell(
            "report.check('Q1.P2', 'error', checks.check_perturb_input(noisy), below=1e-5, fresh=True)",
            metadata=mark("Q1-P2-check", **CHECK),
        ),
        new_markdown_cell("Because.", metadata=mark("Q1-T1-answer", "markdown", grade=True, solution=True, points=5)),
    ]


def hand_in(folder, edition, solution, before, after):
    """A submission of one case."""
    notebook = nbformat.read(edition, as_version=4)
    marked = marked_cells(notebook)
    marked["Q1-P2-solution"].source = RIGHT
    if solution is not None:
        marked["Q1-P1-solution"].source = solution
        marked["Q1-T1-answer"].source = "Because."
    if before is not None:
        notebook.cells.insert(1, new_code_cell(before))
    if after is not None:
        notebook.cells.append(new_code_cell(after))
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "double.txt").write_text("lambda x: 2 * x")
    (folder / "my_helper.py").write_text("def double(x):\n    return 2 * x")
    (folder / "student_number.txt").write_text("4711")
    nbformat.write(notebook, folder / edition.name)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The points of each cell by grading, and by check as a student has it, without the homework's own notebooks."""
    folder = tmp_path_factory.mktemp("agreement")
    graded, checked = {}, {}
    with small_homework(folder, cells()) as edition:
        places = {name: hand_in(folder / name.replace(" ", "-"), edition, *CASES[name][:3]) for name in CASES}
        for name, result in zip(
            CASES, session.grade(list(places.values()), folder / "out", timeout=5, seed=3, jobs=2), strict=True
        ):
            graded[name] = {
                cell.cell: cell.state == CellState.PASSED or not (cell.automatic or cell.message)
                for cell in result.cells
            }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "editions", dict)
        for name, place in places.items():
            parts = check.check_notebook(place / edition.name, timeout=5)
            checked[name] = {part.cell: part.state == CellState.DONE for part in parts}
            print(name, [(p.cell, p.state, p.message) for p in parts])
    return graded, checked


@pytest.mark.parametrize("name", CASES)
def test_check_and_grade_agree(name, results):
    graded, checked = (result[name] for result in results)
    assert checked == graded


@pytest.mark.parametrize("name", CASES)
def test_only_the_guilty_cell_pays(name, results):
    solution, *_, right = CASES[name]
    answered = solution is not None
    assert results[0][name] == {"Q1-P1-check": right, "Q1-P2-check": True, "Q1-T1-answer": answered}


STEPS = "range(schedule.T, -1, -1), 1.0, torch.Generator().manual_seed(1)"
FEW = "time_grid(schedule.T, 50).tolist(), 0.0, None"
NOISY_FEW = "time_grid(schedule.T, 50).tolist(), 1.0, torch.Generator().manual_seed(1)"


def test_swapped_etas_lose_their_points_in_both(tmp_path):
    """Q1.P6 of the homework: DDPM without noise, DDIM with it; the other exercises are not written."""
    [path] = find_notebooks(["3"])
    source = nbformat.read(path, as_version=4)
    solution = marked_cells(source)["Q1-P6-solution"].source
    assert STEPS in solution
    assert FEW in solution
    swapped = solution.replace(STEPS, "range(schedule.T, -1, -1), 0.0, None").replace(FEW, NOISY_FEW)
    with small_homework(tmp_path, source.cells) as edition:
        notebook = nbformat.read(edition, as_version=4)
        marked_cells(notebook)["Q1-P6-solution"].source = swapped
        (tmp_path / "ann").mkdir()
        (tmp_path / "ann" / "student_number.txt").write_text("4711")
        nbformat.write(notebook, tmp_path / "ann" / edition.name)
        [result] = session.grade([tmp_path / "ann"], tmp_path / "out", timeout=300, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "editions", dict)
        parts = check.check_notebook(tmp_path / "ann" / edition.name, timeout=300)
    graded = {cell.cell: cell.message for cell in result.cells if cell.state == CellState.FAILED}
    checked = {part.cell: part.message for part in parts if part.state == CellState.FAILED}
    assert checked["Q1-P6-check"] == graded["Q1-P6-check"]
    assert "eta" in checked["Q1-P6-check"]
