"""`hw3 check` and `hw3 grade` say the same of an exercise of the homework; test_class.py has small ones."""

import nbformat
import pytest
from course_helpers import small_homework

from hw3utils.course.assignment import CellState
from hw3utils.course.grading import session
from hw3utils.course.notebooks.cells import marked_cells
from hw3utils.course.notebooks.execute import find_notebooks
from hw3utils.course.student import check

pytest.importorskip("nbgrader", reason="nbgrader is not installed")

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
        patch.setattr(check, "find_notebooks", lambda names=(): [])
        parts = check.check_notebook(tmp_path / "ann" / edition.name, timeout=300)
    graded = {cell.cell: cell.message for cell in result.cells if cell.state == CellState.FAILED}
    checked = {part.cell: part.message for part in parts if part.state == CellState.FAILED}
    assert checked["Q1-P6-check"] == graded["Q1-P6-check"]
    assert "eta" in checked["Q1-P6-check"]
