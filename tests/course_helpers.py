"""Helpers of the tests of the course: marks of nbgrader, a small homework, submissions of it."""

import contextlib
import functools

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from hw3utils.course.grading import session
from hw3utils.course.release import release

with contextlib.suppress(ModuleNotFoundError):
    import nbgrader.api

    # nbgrader starts a process for it with every new gradebook, which takes two seconds; it does not change.
    nbgrader.api.get_alembic_version = functools.cache(nbgrader.api.get_alembic_version)

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
CHECK = {"grade": True, "locked": True, "points": 2}
SOLVED = "def double(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION"
TEST = "assert double(2) == 4, 'it must double'"


def mark(name, kind="code", **role):
    """The metadata of a cell that nbgrader knows."""
    base = {"grade": False, "locked": False, "solution": False, "task": False, "schema_version": 3}
    return {"nbgrader": base | {"grade_id": name, "cell_type": kind} | role}


def double_cells(answer="Because."):
    """An exercise of 2 points and a question of 5."""
    return [
        new_code_cell(SOLVED, metadata=mark("Q1-P1-solution", solution=True)),
        new_code_cell(TEST, metadata=mark("Q1-P1-check", **CHECK)),
        new_markdown_cell(answer, metadata=mark("Q1-T1-answer", "markdown", grade=True, solution=True, points=5)),
    ]


def write(path, cells):
    """Write a notebook."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells), metadata=KERNEL), path)
    return path


@contextlib.contextmanager
def small_homework(folder, cells=None):
    """Grade with a homework of one notebook; its edition."""
    path = write(folder / "01_small.ipynb", double_cells() if cells is None else cells)
    release(folder / "edition", [str(path)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "find_notebooks", lambda names=(): [path])
        yield folder / "edition" / path.name


def hand_in(folder, edition, solution, answer, number):
    """A submission with a solution and an answer."""
    notebook = nbformat.read(edition, as_version=4)
    notebook.cells[0].source, notebook.cells[2].source = solution, answer
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / edition.name)
    (folder / "student_number.txt").write_text(number)
    return folder
