"""nbgrader as we use it: a course in a folder of its own, each notebook an assignment, and the cells that it marks.

nbgrader is an optional extra; nothing but `hw3 release` and `hw3 grade` needs it. Each notebook is an assignment of its
own, so that a broken one takes nothing else with it.
"""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hw3utils.course.pages import Page
from hw3utils.course.runner import environment, on_interrupt, plain
from hw3utils.progress import QUIET_VARIABLE

STUB = '# your code here\nraise NotImplementedError("write this part first")'


ANSWER = "*Your answer here.*"
_SOLVED_ONLY = re.compile(r"\n?^<!-- solved edition -->$.*?^<!-- end -->$", re.M | re.S)


def need_nbgrader() -> Any:
    """nbgrader's programming interface, or a sentence that says how to get it."""
    try:
        from nbgrader.apps import NbGraderAPI
    except ImportError:
        raise ModuleNotFoundError(
            "this needs nbgrader, which is not installed; install it with: python -m pip install nbgrader==0.9.6."
        ) from None
    return NbGraderAPI


class Course:
    """An nbgrader course in a folder of its own; each notebook is one assignment."""

    def __init__(self, root: Path, *, timeout: int | None = None) -> None:
        from traitlets.config import Config

        self.root = root
        config = Config()
        config.CourseDirectory.root = str(root)
        config.CourseDirectory.db_url = f"sqlite:///{root / 'gradebook.db'}"
        config.NbGrader.logfile = ""
        config.ClearSolutions.code_stub = {"python": STUB}
        config.ClearSolutions.text_stub = ANSWER
        config.GenerateFeedback.exporter_class = Page
        config.Execute.timeout = timeout
        config.Execute.shutdown_kernel = "immediate"
        self.interrupted = False

        def stop() -> None:
            self.interrupted = True

        # A function of this scope, for traitlets copies its configuration, and what a method is bound to with it.
        def started(**cell: Any) -> None:
            self.tick()
            on_interrupt(stop)

        config.Execute.on_cell_start = started
        self.tick: Callable[[], object] = lambda: None
        self.api = need_nbgrader()(config=config)

    def autograde(self, assignment: str, student: str) -> dict[str, Any]:
        """Run one notebook of one student, `tick` called before each cell; nbgrader's result."""
        with environment(**{QUIET_VARIABLE: "1"}):
            return self._call(self.api.autograde, assignment, student)

    def _call(self, method: Callable[..., dict[str, Any]], *arguments: str) -> dict[str, Any]:
        """Call nbgrader's interface.

        Raises:
            KeyboardInterrupt: on Ctrl-C, which nbgrader takes for a failure of the notebook.
        """
        done = method(*arguments)
        if self.interrupted or "KeyboardInterrupt" in (done.get("error") or ""):
            raise KeyboardInterrupt
        return done

    def feedback(self, assignment: str, student: str) -> dict[str, Any]:
        """Make the HTML page of a notebook that was run; nbgrader's result."""
        return self._call(self.api.generate_feedback, assignment, student)

    def generate(self, path: Path) -> Path:
        """Make the student's version of a solved notebook; where it lies."""
        folder = self.root / "source" / path.stem
        folder.mkdir(parents=True)
        (folder / path.name).write_text(student_text(path.read_text(encoding="utf-8")), encoding="utf-8")
        done = self._call(self.api.generate_assignment, path.stem)
        if not done["success"]:
            raise ValueError(f"{path.name} cannot be released: {reason_of(done.get('log'))}.")
        return self.root / "release" / path.stem / path.name


def student_text(notebook: str) -> str:
    """The text of a notebook file without what only the solved edition shows: what stands between two marks in a cell.

    The marks are lines of their own, `<!-- solved edition -->` and `<!-- end -->`.
    """
    content = json.loads(notebook)
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = _SOLVED_ONLY.sub("", "".join(cell["source"])).splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def reason_of(log: str | None) -> str:
    """The first error in nbgrader's log, from which the later ones follow."""
    lines = [plain(line) for line in (log or "").splitlines()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Entry)\b", line) and "NbGrader" not in line]
    return errors[0].rstrip(".") if errors else "nbgrader gave no reason"


def program_path() -> str:
    """PATH with this Python's folder first: nbgrader calls a program that is installed beside it."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def graded_cells(notebook: Any) -> dict[str, Any]:
    """The cells of a notebook that give points, by nbgrader's grade_id."""
    return {name: cell for name, cell in marked_cells(notebook).items() if cell.metadata["nbgrader"].get("grade")}


def checked_cells(notebook: Any) -> dict[str, Any]:
    """The cells that `hw3 check` judges: those that give points, and in a notebook without any its optional checks."""
    optional = {name: cell for name, cell in marked_cells(notebook).items() if is_check(name)}
    return graded_cells(notebook) or optional


def is_check(grade_id: str) -> bool:
    """Whether a cell is a check by its name; one that gives points is marked so as well."""
    return grade_id.endswith("-check")


def item_of(grade_id: str) -> str:
    """The graded item that a cell belongs to: Q1-P3-loss-check is of Q1.P3."""
    return ".".join(grade_id.split("-")[:2])


def marked_cells(notebook: Any) -> dict[str, Any]:
    """Every cell that nbgrader knows, by its grade_id."""
    names = ((grade_id(cell), cell) for cell in notebook.cells)
    return {name: cell for name, cell in names if name is not None}


def grade_id(cell: Any) -> str | None:
    """The grade_id of a cell that nbgrader knows."""
    mark = cell.get("metadata", {}).get("nbgrader")
    name = mark.get("grade_id") if isinstance(mark, dict) else None
    return name if isinstance(name, str) and name else None
