"""Run the checks of a student's notebook in seconds, without its experiments: what is done, missing or failed.

The notebook is repaired, cut to the dependencies of its checks and run as in grading. Only the judge is missing: a
check runs in the student's process.
"""

import ast
import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from hw3utils.course.assignment import EDITION, ITEMS, NOTE, STUDENT_VARIABLE, CellState, GradedCell
from hw3utils.course.grading.kernel import Kernel, KernelConfig, KernelCrashed, student_environment, uses_torch
from hw3utils.course.grading.run import MAX_RESTARTS
from hw3utils.course.grading.submission import shadowed_module, sort_files
from hw3utils.course.notebooks.cells import ANSWER, STUB_LINE, checked_cells, item_of, marked_cells, syntax_tree
from hw3utils.course.notebooks.dependencies import Statement, replaced_stubs, required_statements, statements_of
from hw3utils.course.notebooks.execute import find_notebooks, plain, read_notebook
from hw3utils.course.notebooks.repair import read_leniently, rebuild
from hw3utils.course.profiles import current_profile
from hw3utils.files import read_json
from hw3utils.progress import progress

DONE, MISSING, FAILED = CellState.DONE, CellState.MISSING, CellState.FAILED
_TIMEOUT = "CellTimeoutError"
# Name and text of the error of a cell, None without one.
Error = tuple[str, str] | None


def as_released(path: Path) -> NotebookNode | None:
    """A student's notebook as it was handed out: the homework's own, else the copy that `hw3 release` put beside it."""
    with contextlib.suppress(ValueError):  # the package is installed without notebooks
        if own := [known for known in find_notebooks() if known.name == path.name]:
            return read_notebook(own[0])
    with contextlib.suppress(ValueError, OSError, AttributeError):  # the copy is missing or damaged
        return nbformat.from_dict(read_json(path.resolve().parent / EDITION).get(path.name))
    return None


def check_notebook(path: Path, *, timeout: int = 120) -> list[GradedCell]:
    """Run the checks of a notebook, released or solved, with their dependencies only.

    The code runs on this machine, in a temporary folder with the files beside the notebook. A check that was changed
    runs as it was released.

    Args:
        path: the notebook.
        timeout: seconds that a cell may take.

    Returns:
        The graded cells in order, done, missing or failed; of a notebook without points, its optional checks.

    Raises:
        ValueError: when there is no such file, it is not a notebook, or it has no graded cells.
        KeyboardInterrupt: on Ctrl-C, the kernel ended.
    """
    if not path.is_file():
        raise ValueError(f"there is no notebook {path}; check the path.")
    original = as_released(path)
    try:
        notebook = read_leniently(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a notebook: {error}.") from None
    graded = checked_cells(original or notebook)
    if original:
        # As in grading.
        notebook = rebuild(original, notebook).notebook
    if not graded:
        raise ValueError(f"{path} has no graded cells, expected a notebook of the homework.")
    results = _run_checks(notebook, graded, path, timeout)
    own = marked_cells(notebook)
    cells = []
    for name, original_cell in graded.items():
        possible = float(original_cell.metadata["nbgrader"].get("points", 0))
        cell = GradedCell(name, item_of(name), possible, notebook=path.name)
        if original_cell.cell_type == "code":
            cell.set_result(*results.get(name, (FAILED, f"the cell {name} is empty: take it from the edition again")))
        elif not own[name].source.replace(ANSWER, "").strip():
            cell.set_result(MISSING, "the answer is blank")
        else:
            # The functions that belong to an answer have no check of their own.
            cell.set_result(*results.get(f"{cell.item} functions", (DONE, "an answer, read by a person")))
        cells.append(cell)
    return cells


def _run_checks(
    notebook: NotebookNode, graded: Mapping[str, NotebookNode], path: Path, timeout: int
) -> dict[str, tuple[CellState, str]]:
    """State and message of each check of a notebook, run in one fresh kernel; of an answer's functions by its item."""
    grade_ids = {id(cell): name for name, cell in marked_cells(notebook).items()}
    checks = [name for name, cell in graded.items() if cell.cell_type == "code"]
    check_cells = {n for n, cell in enumerate(notebook.cells) if grade_ids.get(id(cell)) in checks}
    statements = _in_order(notebook, check_cells)
    names = [grade_ids.get(id(notebook.cells[statement.cell])) for statement in statements]
    items = {item_of(name) for name, cell in graded.items() if cell.cell_type != "code"}
    goals = {name: [names.index(name)] for name in checks if name in names}
    goals |= {f"{item} functions": _ungraded(statements, names, item) for item in items}
    needed = {name: _needed(statements, names, numbers) for name, numbers in goals.items() if numbers}
    sources: dict[int, list[str]] = {}
    for n in sorted(set().union(*needed.values())):
        sources.setdefault(statements[n].cell, []).append(statements[n].source)
    found_errors, found_notes = _run_cells(list(sources.values()), path, timeout)
    errors, notes = dict(zip(sources, found_errors, strict=True)), dict(zip(sources, found_notes, strict=True))
    results = {}
    for name, numbers in needed.items():
        # Other checks do not count, even if this one uses a name of theirs.
        used = [n for n in sorted(numbers) if names[n] == name or names[n] not in checks]
        stubs = [stub for n in used if (own_name := names[n]) for stub in _unwritten(statements[n].source, own_name)]
        if name in checks:
            # A cell may have functions that this check does not use.
            called = frozenset().union(*(statements[n].uses for n in used))
            stubs = [stub for stub in stubs if stub in called or stub in names]
        elif stubs:
            results[name] = _missing(stubs)
        found = [errors[statements[n].cell] for n in used]
        if name in checks or any(found):
            state, message = _result(found, stubs, timeout)
            results.setdefault(name, (state, notes[statements[goals[name][0]].cell] if state == DONE else message))
    return results


def _ungraded(statements: Sequence[Statement], names: Sequence[str | None], item: str) -> list[int]:
    """The functions of an answer's item, and the notebook's own tests of them."""
    functions = [n for n, name in enumerate(names) if name and item_of(name) == item and statements[n].binds]
    if not functions:
        return []
    tests = [
        n
        for n, statement in enumerate(statements)
        if statement.source.startswith(f"report.check('{item}'")
        and "difference from hw3utils" not in statement.source
        and required_statements(statements, n) & set(functions)
    ]
    return [*functions, *tests]


def _needed(statements: Sequence[Statement], names: Sequence[str | None], goals: Sequence[int]) -> set[int]:
    """The dependencies of some statements, and solutions of the item that define no name: stubs, invalid Python."""
    needed = set().union(*(required_statements(statements, goal) for goal in goals))
    items = {item_of(name) for goal in goals if (name := names[goal])}
    return needed | {
        n for n in range(max(goals)) if (name := names[n]) and item_of(name) in items and not statements[n].binds
    }


def _unwritten(source: str, name: str) -> list[str]:
    """The functions in a solution that are still stubs; the cell's name if there is no function."""
    if STUB_LINE not in source:
        return []
    tree = syntax_tree(source)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)] if tree else []
    return [f.name for f in functions if STUB_LINE in (ast.get_source_segment(source, f) or "")] or [name]


def _in_order(notebook: NotebookNode, check_cells: set[int]) -> list[Statement]:
    """The statements without stubs that another cell replaces; a check that lacks a name defined below it comes last.

    Grading runs such a check again when all cells have run.
    """
    statements = statements_of(notebook)
    replaced = replaced_stubs(notebook, statements)
    statements = [statement for statement in statements if statement.cell not in replaced]
    late = set()
    for n, statement in enumerate(statements):
        if statement.cell in check_cells:
            used = frozenset().union(*(statements[k].uses for k in required_statements(statements, n)))
            above = frozenset().union(*(other.binds for other in statements[:n]))
            below = frozenset().union(*(other.binds for other in statements[n:] if other.cell not in check_cells))
            if (used - above) & below:
                late.add(statement.cell)
    return sorted(statements, key=lambda statement: statement.cell in late)


def _run_cells(sources: Sequence[Sequence[str]], path: Path, timeout: int) -> tuple[list[Error], list[str]]:
    """Run cells one after the other, also after an error; the error of each, and the notes that it printed.

    A cell that hangs or ends the process is left out, and all others run again, as in grading.
    """
    errors: dict[int, Error] = {}
    notes: dict[int, str] = {}
    crashed: set[int] = set()
    variables = student_environment(current_profile().name, os.cpu_count() or 1, None)
    variables |= {name: os.environ[name] for name in (STUDENT_VARIABLE, "OMP_NUM_THREADS") if name in os.environ}
    with (
        tempfile.TemporaryDirectory(prefix="hw3-check-") as folder,
        progress(None, total=len(sources), desc=path.stem, unit="cell") as bar,
    ):
        _link_files(path, Path(folder))
        config = KernelConfig(Path(folder), variables, timeout, torch=uses_torch(chain.from_iterable(sources)))
        for _ in range(MAX_RESTARTS if sources else 0):
            kernel = Kernel(config)
            try:
                for n in (n for n in range(len(sources)) if n not in crashed):
                    errors[n], notes[n] = _run_cell("\n".join(sources[n]), kernel, timeout)
                    bar.update(max(0, len(errors) - bar.n))
                break
            except KernelCrashed as error:
                crashed.add(n)
                errors[n] = (_TIMEOUT if error.state == CellState.TIMED_OUT else "", error.text)
            finally:
                kernel.stop()
    numbers = range(len(sources))
    return [errors.get(n, ("", "it did not run")) for n in numbers], [notes.get(n, "") for n in numbers]


def _run_cell(source: str, kernel: Kernel, timeout: int) -> tuple[Error, str]:
    """Run a cell; its error, and the notes that it printed, in one line.

    Raises:
        KernelCrashed: it hangs or ended the process.
    """
    outputs = kernel.run(source, timeout)
    found = [output for output in outputs if output.output_type == "error"]
    printed = "".join(output.text for output in outputs if output.output_type == "stream").splitlines()
    notes = " ".join(line for line in printed if line.startswith(NOTE))
    return (found[0].ename, plain(found[0].evalue)) if found else None, notes


def _link_files(path: Path, folder: Path) -> None:
    """Put links to the files beside a notebook into a folder: those that grading takes."""
    files, _ = sort_files(path.resolve().parent)
    for file in files:
        if file.suffix.lower() not in (".ipynb", ".zip") and not shadowed_module(file):
            try:
                (folder / file.name).symlink_to(file)
            except OSError:  # Windows, without the right to make links
                shutil.copyfile(file, folder / file.name)


def _missing(stubs: Sequence[str]) -> tuple[CellState, str]:
    return MISSING, f"still to be written: {', '.join(dict.fromkeys(stubs))}"


def _result(errors: Sequence[Error], stubs: Sequence[str], timeout: int) -> tuple[CellState, str]:
    """State and message of a check from the errors of its dependencies and its own, the last of them."""
    first = next((error for error in errors if error), None)
    if errors[-1] is None or first is None:
        return DONE, ""
    if stubs:
        return _missing(stubs)
    name, text = first
    if name == "NotImplementedError":
        return MISSING, text
    if name == _TIMEOUT:
        return FAILED, f"a cell took longer than {timeout} s"
    return FAILED, text if name in ("AssertionError", "") else f"{name}: {text}"


def summary(results: Mapping[str, Sequence[GradedCell]]) -> str:
    """How much of what gives points is done: the points of the checks, and those that a person gives."""
    parts = [part for found in results.values() for part in found if part.possible]
    kinds = {
        "{} of {} points checked": [part for part in parts if not _is_manual(part)],
        "answers to {} of {} points that a person gives": [part for part in parts if _is_manual(part)],
    }
    done = sum(part.state == DONE for part in parts)
    points = [
        text.format(
            f"{sum(part.possible for part in some if part.state == DONE):g}", f"{sum(part.possible for part in some):g}"
        )
        for text, some in kinds.items()
        if some
    ]
    return f"{done} of {len(parts)} parts are done{': ' if points else ''}{', '.join(points)}"


def _is_manual(part: GradedCell) -> bool:
    return part.item in ITEMS and ITEMS[part.item].manual
