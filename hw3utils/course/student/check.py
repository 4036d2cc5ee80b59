"""What a student has done and what is missing: the checks of a notebook in seconds, without its experiments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from hw3utils.course.notebooks.cells import ANSWER, STUB, checked_cells, item_of, marked_cells
from hw3utils.course.notebooks.dependencies import Piece, needed, pieces
from hw3utils.course.notebooks.repair import read_leniently, rebuild
from hw3utils.course.notebooks.execute import environment, find_notebooks, plain, read_notebook, run_cells
from hw3utils.progress import QUIET_VARIABLE, progress

DONE, MISSING, FAILED = "done", "missing", "failed"
_STUB = STUB.splitlines()[-1]
_TOO_SLOW = "CellTimeoutError"


@dataclass(frozen=True)
class Part:
    """One check or answer of a notebook: its item and points, whether it is done, missing or failed, and why.

    Those without points are optional.
    """

    item: str
    cell: str
    points: float
    state: str
    message: str = ""

    def line(self) -> str:
        """The part in one line."""
        worth = f"{self.points:3g} points" if self.points else "  optional"
        return f"  {self.item:7}{worth}  {self.state:9}{self.message}".rstrip()


def editions() -> dict[str, Path]:
    """The homework's own notebooks by file name; none where the package came without them."""
    try:
        return {path.name: path for path in find_notebooks()}
    except ValueError:
        return {}


def check_notebook(path: Path, *, timeout: int = 120) -> list[Part]:
    """Run the checks of a notebook, released or solved, with what they need and nothing else.

    The code runs on this machine, in the notebook's folder. A check that was changed runs as it was handed out.

    Args:
        path: the notebook.
        timeout: seconds that a cell may take.

    Returns:
        A part for each graded cell, in order; in a notebook without points, for each of its optional checks.

    Raises:
        ValueError: when there is no such file, it is no notebook, or nothing in it is graded.
        KeyboardInterrupt: on Ctrl-C, the kernel gone.
    """
    if not path.is_file():
        raise ValueError(f"there is no notebook {path}; check the path.")
    original = editions().get(path.name)
    notebook = _read(path)
    graded = checked_cells(read_notebook(original) if original else notebook)
    if original:
        # As in grading: what became of marks, metadata and checks is put right.
        notebook = rebuild(read_notebook(original), notebook).notebook
    if not graded:
        raise ValueError(f"{path} has no graded cells, expected a notebook of the homework.")
    theirs = marked_cells(notebook)
    checks = [name for name, cell in graded.items() if cell.cell_type == "code"]
    results = _run(notebook, checks, path, timeout)
    parts = []
    for name, cell in graded.items():
        if name in results:
            state, message = results[name]
        else:
            blank = not theirs[name].source.replace(ANSWER, "").strip()
            state, message = (MISSING, "the answer is blank") if blank else (DONE, "an answer, read by a person")
        parts.append(Part(item_of(name), name, float(cell.metadata["nbgrader"].get("points", 0)), state, message))
    return parts


def _read(path: Path) -> NotebookNode:
    """A student's notebook, as any editor may have saved it.

    Raises:
        ValueError: when the file is no notebook.
    """
    try:
        return read_leniently(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a notebook: {error}.") from None


def _run(notebook: NotebookNode, checks: Sequence[str], path: Path, timeout: int) -> dict[str, tuple[str, str]]:
    """State and message of each check of a notebook, run in one fresh kernel."""
    found = pieces(notebook)
    marked = {id(cell): name for name, cell in marked_cells(notebook).items()}
    names = [marked.get(id(notebook.cells[piece.cell])) for piece in found]
    needs = {name: _stands_on(found, names, names.index(name)) for name in checks if name in names}
    chosen = sorted(set().union(*needs.values()))
    by_cell: dict[int, list[str]] = {}
    for n in chosen:
        by_cell.setdefault(found[n].cell, []).append(found[n].source)
    errors = _errors(list(by_cell.values()), path, timeout)
    troubles = dict(zip(by_cell, errors, strict=True))
    results = {name: (FAILED, f"the cell {name} is empty: take it from the edition again") for name in checks}
    for name, needs_of in needs.items():
        # Other checks are in nobody's way, even if a name of theirs is used.
        standing = [n for n in sorted(needs_of) if names[n] == name or names[n] not in checks]
        stubs = [names[n] for n in standing if names[n] and _STUB in found[n].source]
        results[name] = _judge([troubles[found[n].cell] for n in standing], stubs, timeout)
    return results


def _stands_on(found: Sequence[Piece], names: Sequence[str | None], goal: int) -> set[int]:
    """What a check needs, and solutions of its item that give no name: a stub, or no Python; a name is missing then."""
    item = item_of(names[goal])
    empty = {n for n in range(goal) if names[n] and item_of(names[n]) == item and not found[n].binds}
    return needed(found, goal) | empty


def _errors(sources: Sequence[Sequence[str]], path: Path, timeout: int) -> list[tuple[str, str] | None]:
    """Run cells one after the other, whatever becomes of those before; name and text of each one's error."""
    errors: list[tuple[str, str] | None] = []
    small = new_notebook(cells=[new_code_cell("\n".join(lines)) for lines in sources])
    bar = progress(None, total=len(sources), desc=path.stem, unit="cell")

    def done(cell: NotebookNode, cell_index: int, execute_reply: Mapping[str, Any]) -> None:
        said = execute_reply["content"]
        errors.append((said["ename"], plain(said["evalue"])) if said["status"] == "error" else None)
        bar.update()

    too_slow = {"ename": _TOO_SLOW, "evalue": "", "traceback": []}
    options = {"timeout": timeout, "allow_errors": True, "interrupt_on_timeout": True, "error_on_timeout": too_slow}
    with bar, environment(**{QUIET_VARIABLE: "1", "MPLBACKEND": "agg"}):
        end = run_cells(small, path.resolve().parent, done, **options) if sources else None
    return errors + [("", end or "it did not run")] * (len(sources) - len(errors))


def _judge(troubles: Sequence[tuple[str, str] | None], stubs: Sequence[str], timeout: int) -> tuple[str, str]:
    """State and message of a check, from the errors of what it stands on and its own, the last of them."""
    if troubles[-1] is None:
        return DONE, ""
    name, text = next(trouble for trouble in troubles if trouble)
    if stubs or name == "NotImplementedError":
        return MISSING, f"still to be written: {', '.join(stubs)}" if stubs else text
    if name == _TOO_SLOW:
        return FAILED, f"a cell took longer than {timeout} s"
    return FAILED, text if name in ("AssertionError", "") else f"{name}: {text}"


def summary(results: Mapping[str, Sequence[Part]]) -> str:
    """How much of what gives points is done, in all notebooks that were checked."""
    parts = [part for found in results.values() for part in found if part.points]
    done = [part for part in parts if part.state == DONE]
    points = [sum(part.points for part in some) for some in (done, parts)]
    return f"{len(done)} of {len(parts)} parts are done, with {points[0]:g} of {points[1]:g} points"
