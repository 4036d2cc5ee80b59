"""nbgrader courses, and the cells of a notebook that nbgrader marks.

nbgrader is an optional extra; only `hw3 release`, `hw3 grade` and `hw3 marks` need it.
"""

import ast
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hw3utils.course.assignment import ANSWER
from hw3utils.course.notebooks.execute import plain
from hw3utils.course.notebooks.html import Page
from hw3utils.progress import progress

STUB_LINE = 'raise NotImplementedError("write this part first")'
STUB = f"# your code here\n{STUB_LINE}"
_TOOL_COMMENT = re.compile(r"^# NBVAL_\w+\n|  # noqa\b[^\n]*", re.M)
# A folded picture of the student edition: how a figure may look.
EXPECTED_PICTURE = (
    "<details><summary>How it may look</summary>\n\n<img alt='' src='data:image/png;base64,{}'>\n\n</details>"
)
_SOLVED_ONLY = re.compile(r"\n?^<!-- solved edition -->$.*?^<!-- end -->$", re.M | re.S)


def need_nbgrader() -> Any:
    """nbgrader's API; raises ModuleNotFoundError that says how to install it."""
    try:
        from nbgrader.apps import NbGraderAPI
    except ImportError:
        raise ModuleNotFoundError(
            "this needs nbgrader, which is not installed; install it with: python -m pip install nbgrader==0.9.6."
        ) from None
    return NbGraderAPI


ASSIGNMENT = "hw3"
# For nbgrader's formgrader. No student's code runs there: the notebooks are executed and their checks judged before.
CONFIGURATION = f"""# Made by hw3 grade; `jupyter lab` in this folder opens the course in nbgrader's formgrader.
from pathlib import Path

from nbgrader.preprocessors import CheckCellMetadata, OverwriteCells, SaveAutoGrades

c = get_config()  # noqa: F821
c.CourseDirectory.root = str(Path(__file__).resolve().parent)
c.ClearSolutions.code_stub = {{"python": {STUB!r}}}
c.ClearSolutions.text_stub = {ANSWER!r}
c.Autograde.sanitize_preprocessors = [OverwriteCells, CheckCellMetadata]
c.Autograde.autograde_preprocessors = [SaveAutoGrades, CheckCellMetadata]
"""


class Course:
    """An nbgrader course with one assignment, `hw3`, of all notebooks."""

    def __init__(self, root: Path) -> None:
        from nbgrader.preprocessors import CheckCellMetadata, OverwriteCells, SaveAutoGrades
        from traitlets.config import Config

        self.root = root
        self.address = f"sqlite:///{root / 'gradebook.db'}"
        config = Config()
        config.CourseDirectory.root = str(root)
        config.CourseDirectory.db_url = self.address
        config.NbGrader.logfile = ""
        config.ClearSolutions.code_stub = {"python": STUB}
        config.ClearSolutions.text_stub = ANSWER
        config.GenerateFeedback.exporter_class = Page
        config.Autograde.sanitize_preprocessors = [OverwriteCells, CheckCellMetadata]
        config.Autograde.autograde_preprocessors = [SaveAutoGrades, CheckCellMetadata]
        self.api = need_nbgrader()(config=config)

    def folder(self, step: str, student: str = ".") -> Path:
        """The folder of one step: source, release, submitted, autograded or feedback."""
        return self.root / step / student / ASSIGNMENT

    def generate(self, paths: Sequence[Path]) -> list[Path]:
        """Generate the student edition of solved notebooks; its paths."""
        folder = self.folder("source")
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            (folder / path.name).write_text(student_text(path.read_text(encoding="utf-8")), encoding="utf-8")
        with progress(None, total=len(paths), desc="releasing") as bar:
            self._call(self.api.generate_assignment, ASSIGNMENT)
            bar.update(len(paths))
        return [self.folder("release") / path.name for path in paths]

    def autograde(self, student: str) -> None:
        """Read a student's judged notebooks into the gradebook."""
        self._call(self.api.autograde, ASSIGNMENT, student)

    def feedback(self, student: str) -> None:
        """Generate a student's feedback pages, with points and comments."""
        self._call(self.api.generate_feedback, ASSIGNMENT, student)

    def _call(self, method: Callable[..., dict[str, Any]], *arguments: str) -> None:
        """Call nbgrader's API.

        Raises:
            ValueError: with the first error of its log.
            KeyboardInterrupt: on Ctrl-C, which nbgrader reports as a failed notebook.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = method(*arguments)
        if "KeyboardInterrupt" in (done.get("error") or ""):
            raise KeyboardInterrupt
        if not done["success"]:
            raise ValueError(f"nbgrader could not do it for {', '.join(arguments)}: {reason_of(done.get('log'))}.")


def student_text(notebook: str) -> str:
    """The JSON of a notebook without what is only for its authors.

    That is the text between the lines `<!-- solved edition -->` and `<!-- end -->`, and comments for linter and tests.
    """
    content = json.loads(notebook)
    for cell in content["cells"]:
        pattern = _SOLVED_ONLY if cell["cell_type"] == "markdown" else _TOOL_COMMENT
        cell["source"] = pattern.sub("", "".join(cell["source"])).splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def reason_of(log: str | None) -> str:
    """The first error in nbgrader's log."""
    lines = [plain(line) for line in (log or "").splitlines()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Entry)\b", line) and "NbGrader" not in line]
    return errors[0].rstrip(".") if errors else "nbgrader gave no reason"


def program_path() -> str:
    """PATH with this Python's folder first: nbgrader calls programs of the same environment."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def graded_cells(notebook: Any) -> dict[str, Any]:
    """The cells of a notebook that give points, by nbgrader's grade_id."""
    return {name: cell for name, cell in marked_cells(notebook).items() if cell.metadata["nbgrader"].get("grade")}


def checked_cells(notebook: Any) -> dict[str, Any]:
    """The cells that `hw3 check` judges: those with points, or the optional checks of a notebook without points."""
    optional = {name: cell for name, cell in marked_cells(notebook).items() if is_check(name)}
    return graded_cells(notebook) or optional


def syntax_tree(source: str) -> ast.Module | None:
    """The syntax tree of a cell, None if it is not valid Python."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def is_check(grade_id: str) -> bool:
    """Whether a name is that of a check, optional or not."""
    return grade_id.endswith("-check")


def item_of(grade_id: str) -> str:
    """The item of a cell: Q1-P3-loss-check belongs to Q1.P3."""
    return ".".join(grade_id.split("-")[:2])


def marked_cells(notebook: Any) -> dict[str, Any]:
    """All cells with an nbgrader mark, by grade_id."""
    names = ((grade_id(cell), cell) for cell in notebook.cells)
    return {name: cell for name, cell in names if name is not None}


def grade_id(cell: Any) -> str | None:
    """The grade_id of a cell, None without a valid mark."""
    mark = cell.get("metadata", {}).get("nbgrader")
    name = mark.get("grade_id") if isinstance(mark, dict) else None
    return name if isinstance(name, str) and name else None
