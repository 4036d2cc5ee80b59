"""Pack a homework into one archive: its notebooks and the files beside them, checked, with a manifest."""

import json
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from hw3utils import __version__
from hw3utils.course.assignment import (
    EDITION,
    NOTEBOOK_FILES,
    STUDENT_FILE,
    CellState,
    GradedCell,
    is_homework,
    number_in,
)
from hw3utils.course.grading.submission import MANIFEST, MAX_FILE, sort_files
from hw3utils.course.notebooks.cells import grade_id, graded_cells
from hw3utils.course.notebooks.execute import NOTEBOOKS, find_notebooks
from hw3utils.course.notebooks.repair import read_leniently
from hw3utils.course.student.check import as_released, check_notebook
from hw3utils.files import check_writable, file_sha256, write_atomically
from hw3utils.progress import printable

FORMAT = 1
# Why requirements.txt and the package are not packed.
RELEASED = "it came with the homework"
MAX_OUTPUTS = 5_000_000
# The time of every file in an archive, so that the same files make the same archive.
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass
class PackedHomework:
    """What is in an archive: the number, the files packed and left out, the checks, and the warnings."""

    student_number: str | None = None
    files: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    checks: dict[str, list[GradedCell]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def submit(folder: Path, out: Path, *, timeout: int = 120, made: datetime | None = None) -> PackedHomework:
    """Check the notebooks of a folder and pack them.

    The files of the folder are packed; folders, hidden files and links are left out, and named. Only the archive is
    written.

    Args:
        folder: the notebooks and `student_number.txt`.
        out: the archive to write.
        timeout: seconds that a cell of a check may take.
        made: the time in the manifest, now if not given.

    Returns:
        What was packed, with the warnings.

    Raises:
        ValueError: when there is nothing to pack, a file is too large, or `out` is not the name of a zip file.
        OSError: when the archive cannot be written.
        KeyboardInterrupt: on Ctrl-C; no archive is left.
    """
    if out.suffix.lower() != ".zip" or out.is_dir():
        raise ValueError(f"--out is {out}, expected the name of a zip file.")
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; check the path.")
    check_writable(out.parent)
    homework = _homework()
    result = PackedHomework()
    _collect(folder, out, result)
    if not set(homework) & set(result.files):
        raise ValueError(f"there is no notebook of this homework in {folder}, expected {', '.join(homework)}.")
    _number(folder, result)
    for name in homework:
        if name not in result.files:
            result.warnings.append(f"{name} is missing.")
            continue
        result.warnings += _notebook(folder / name, result, timeout)
    for name in result.files:
        if name not in (*homework, STUDENT_FILE, "README.md") and is_homework(name):
            result.warnings.append(f"{name} is no notebook of this homework: it is packed, but no check will see it.")
    result.warnings += [
        f"{name} is left out: {reason}." for name, reason in sorted(result.left_out.items()) if reason != RELEASED
    ]
    _pack(folder, out, result, made or datetime.now(UTC))
    return result


def _homework() -> list[str]:
    """The names of the homework's notebooks."""
    try:
        return [path.name for path in find_notebooks() if is_homework(path.name)]
    except ValueError:  # the package is installed without notebooks
        return list(NOTEBOOK_FILES)


def _collect(folder: Path, out: Path, result: PackedHomework) -> None:
    """Sort the files of a folder into those to pack and those to leave out."""
    files, result.left_out = sort_files(folder)
    for path in folder.iterdir():
        if (
            path.is_file()
            and not path.is_symlink()
            and path.stat().st_size > MAX_FILE
            and path.resolve() != out.resolve()
        ):
            raise ValueError(
                f"{path} has {path.stat().st_size / 1e6:.0f} MB, expected at most {MAX_FILE / 1e6:.0f}; "
                "clear its outputs, or move it out of the folder."
            )
    released = [path for path in files if path.name == "requirements.txt" or path.suffix == ".whl"]
    result.left_out |= {path.name: RELEASED for path in released}
    if EDITION in result.left_out:
        result.left_out[EDITION] = RELEASED
    result.files = [path.name for path in files if path.resolve() != out.resolve() and path not in released]
    if out.resolve() in [path.resolve() for path in files]:
        result.left_out[out.name] = "it is made anew"


def _number(folder: Path, result: PackedHomework) -> None:
    """Read the student number, or warn."""
    if STUDENT_FILE in result.left_out:
        result.warnings.append(f"{STUDENT_FILE} cannot be packed: {result.left_out[STUDENT_FILE]}.")
        return
    try:
        result.student_number = number_in(folder)
    except (ValueError, OSError) as error:
        result.warnings.append(str(error))
        return
    example = NOTEBOOKS / STUDENT_FILE
    own = not example.is_file() or example.samefile(folder / STUDENT_FILE)
    if not own and number_in(NOTEBOOKS) == result.student_number:
        result.warnings.append(f"{STUDENT_FILE} still holds {result.student_number}, an example: write your own.")


def _notebook(path: Path, result: PackedHomework, timeout: int) -> list[str]:
    """Check one notebook; warnings about it."""
    try:
        notebook = read_leniently(path)
    except ValueError as error:
        return [f"{path.name} cannot be read as a notebook: {error}."]
    result.checks[path.name] = check_notebook(path, timeout=timeout)
    open_items = dict.fromkeys(part.item for part in result.checks[path.name] if part.state != CellState.DONE)
    found = [f"{path.name} has parts that are not done: {', '.join(open_items)}."] if open_items else []
    if original := as_released(path):
        found += _changed_checks(path.name, original, notebook)
    try:
        as_saved = nbformat.read(path, as_version=4)
        nbformat.validate(as_saved)
    except Exception:  # nbformat raises anything on what some editors save
        return [
            *found,
            f"{path.name} is not saved as Jupyter saves: it can be graded, but better save it in JupyterLab.",
        ]
    return found + _cells(path.name, as_saved)


def _changed_checks(file: str, original: NotebookNode, notebook: NotebookNode) -> list[str]:
    """The checks that are not as they were released."""
    sources: dict[str, list[str]] = {}
    for cell in notebook.cells:
        sources.setdefault(grade_id(cell) or "", []).append(cell.source.strip())
    found = []
    for name, cell in graded_cells(original).items():
        there = sources.get(name, [])
        what = "was copied" if len(there) > 1 else "was deleted" if not there else None
        if what is None and cell.cell_type == "code" and there[0] != cell.source.strip():
            what = "was changed"
        if what:
            found.append(f"{file}: the cell {name} {what}; take it from the edition again.")
    return found


def _cells(file: str, notebook: NotebookNode) -> list[str]:
    """Cells that were never run, and outputs that are very large, each by the heading above it."""
    code = [
        (place, cell)
        for place, cell in zip(_places(notebook), notebook.cells, strict=True)
        if cell.cell_type == "code" and cell.source.strip()
    ]
    never = [place for place, cell in code if cell.get("execution_count") is None]
    found = []
    if never:
        which = list(dict.fromkeys(never))
        shown = "; ".join(which[:5]) + ("; ..." if len(which) > 5 else "")
        found.append(f"{file}: {len(never)} of {len(code)} code cells were never run ({shown}); run them and save.")
    sizes = [(place, len(json.dumps(cell.get("outputs", [])))) for place, cell in code]
    found += [
        f"{file}: an output has {size / 1e6:.0f} MB ({place}); show less."
        for place, size in sizes
        if size > MAX_OUTPUTS
    ]
    return found


def _places(notebook: NotebookNode) -> list[str]:
    """For each cell the last heading at or above it."""
    places, heading = [], "at the top"
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := re.findall(r"^#+ +(.+)", cell.source, re.M)):
            heading = f"below {printable(found[-1])[:60]!r}"
        places.append(heading)
    return places


def _pack(folder: Path, out: Path, result: PackedHomework, made: datetime) -> None:
    """Write the archive: the manifest first, then the files by name."""
    manifest = {
        "format": FORMAT,
        "package": {"name": "hw3utils", "version": __version__},
        "student_number": result.student_number,
        "made": made.isoformat(timespec="seconds"),
        "files": [_entry(folder / name) for name in result.files],
        "left_out": result.left_out,
        "checks": {name: [_checked(part) for part in parts] for name, parts in result.checks.items()},
        "warnings": result.warnings,
    }

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            _add(archive, MANIFEST, json.dumps(manifest, indent=1).encode() + b"\n")
            for name in result.files:
                _add(archive, name, (folder / name).read_bytes())

    write_atomically(out, write)


def _checked(part: GradedCell) -> dict[str, Any]:
    """A part as `hw3 check` found it, without points: only grading gives them."""
    return {name: getattr(part, name) for name in ("cell", "item", "possible", "state", "message")}


def _entry(path: Path) -> dict[str, Any]:
    """A file's name, size and hash."""
    return {"name": path.name, "sha256": file_sha256(path), "bytes": path.stat().st_size}


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Put a file into an archive, the same way on every machine."""
    info = zipfile.ZipInfo(name, _TIME)
    info.external_attr = 0o644 << 16
    info.create_system = 3
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, content)


def report(result: PackedHomework, out: Path) -> Sequence[str]:
    """What was packed and what to look at again, line by line."""
    counts = Counter(part.state for parts in result.checks.values() for part in parts)
    states = ", ".join(f"{number} {state}" for state, number in counts.items())
    lines = [f"warning: {printable(warning)}" for warning in result.warnings]
    return [*lines, f"{out}: {len(result.files)} files and a manifest; parts: {states or 'none could be checked'}"]
