"""A handed-in notebook set upon the edition again: cells from their sources, marks never trusted, nothing dropped."""

import ast
import codecs
import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell

from hw3utils.course.notebooks.cells import ANSWER, grade_id, marked_cells

# Code that stands in Markdown, between two fences.
_FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.M | re.S)


@dataclass
class Rebuilt:
    """A notebook with the edition's marks, the edition's own cells in it, and what was put right on the way.

    `tampered` has the checks that came back changed or not at all, and which of the two. `own` has the numbers of the
    cells that are the edition's, word for word.
    """

    notebook: NotebookNode
    tampered: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    own: set[int] = field(default_factory=set)


def read_leniently(path: Path) -> NotebookNode:
    """Read a notebook as any editor may have saved it: only its cells' kinds, sources and outputs count.

    Raises:
        ValueError: when the file is no notebook.
    """
    data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        content = _written(json.loads(data.decode("utf-16" if utf16 else "utf-8-sig", errors="replace")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({type(error).__name__}); it may be cut off") from None
    if isinstance(content, dict) and isinstance(content.get("worksheets"), list):
        try:
            content = nbformat.convert(nbformat.from_dict(content), 4)
        except Exception as error:  # whatever an old notebook that is none makes nbformat raise
            raise ValueError(f"it is of an old format that cannot be read ({type(error).__name__})") from None
    cells = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(cells, list):
        raise ValueError("it has no cells")
    return new_notebook(
        cells=[_cell(cell) for cell in cells if isinstance(cell, Mapping)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )


def _written(value: Any) -> Any:
    """What was read, without the halves of letters that JSON allows and no file can hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_written(part) for part in value]
    if isinstance(value, dict):
        return {_written(name): _written(part) for name, part in value.items()}
    return value


def _text(value: Any) -> str:
    return "".join(str(line) for line in value) if isinstance(value, list) else str(value or "")


def _cell(cell: Mapping[str, Any]) -> NotebookNode:
    """A cell made anew."""
    source = _text(cell.get("source", cell.get("input")))
    given = cell.get("metadata")
    mark = given.get("nbgrader") if isinstance(given, Mapping) else None
    metadata = {"nbgrader": dict(mark)} if isinstance(mark, Mapping) else {}
    if cell.get("cell_type") == "code":
        outputs = cell.get("outputs")
        made = (
            [_output(output) for output in outputs if isinstance(output, Mapping)] if isinstance(outputs, list) else []
        )
        return new_code_cell(source, metadata=metadata, outputs=[output for output in made if output])
    if cell.get("cell_type") == "raw":
        return new_raw_cell(source, metadata=metadata)
    given = cell.get("attachments")
    pictures = {str(name): _data(kinds) for name, kinds in given.items()} if isinstance(given, Mapping) else {}
    extra = {"attachments": pictures} if any(pictures.values()) else {}
    return new_markdown_cell(source, metadata=metadata, **extra)


def _data(given: Any) -> dict[str, Any]:
    """What an output or an attachment holds, by its kinds: text, or JSON where the kind says so."""
    if not isinstance(given, Mapping):
        return {}
    whole = {str(name): _text(value) if isinstance(value, list) else value for name, value in given.items()}
    return {name: value for name, value in whole.items() if isinstance(value, str) or name.endswith("json")}


def _output(output: Mapping[str, Any]) -> NotebookNode | None:
    """An output made anew; None for what is none."""
    kind = output.get("output_type")
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        return new_output("stream", name=name, text=_text(output.get("text")))
    if kind == "error":
        lines = output.get("traceback")
        trace = [str(line) for line in lines] if isinstance(lines, list) else []
        return new_output("error", ename=str(output.get("ename")), evalue=str(output.get("evalue")), traceback=trace)
    data = _data(output.get("data"))
    return new_output("display_data", data=data) if kind in ("display_data", "execute_result") and data else None


def rebuild(edition: NotebookNode, handed_in: NotebookNode) -> Rebuilt:
    """Set a handed-in notebook upon the edition.

    Every mark is the edition's: found by nbgrader's name or, where that is gone, by what the cell holds. A repeated
    cell keeps no mark, a locked one is put back, a missing one stands after its old neighbour again. What a student
    wrote into a locked cell, and cells of his own, stay as cells without a mark.

    Args:
        edition: the notebook as it was handed out.
        handed_in: from `read_leniently`; it is changed.
    """
    result = Rebuilt(handed_in)
    marked = marked_cells(edition)
    places = _claim(edition, handed_in, result)
    _collect_answers(edition, handed_in, places, result)
    cells: list[NotebookNode] = []
    mine = {id(handed_in.cells[place]): name for name, place in places.items()}
    for cell in handed_in.cells:
        name = mine.get(id(cell))
        cell.metadata.pop("nbgrader", None)
        if name is None:
            cells.append(cell)
            continue
        cells += _marked(marked[name], name, cell, result)
    result.notebook = copy.copy(handed_in)
    result.notebook.cells = cells
    _put_back(edition, result)
    texts = {cell.source.strip() for cell in edition.cells if cell.cell_type == "code"}
    result.own = {
        n
        for n, cell in enumerate(result.notebook.cells)
        if cell.cell_type == "code" and cell.source.strip() in texts and not _is_solution(cell)
    }
    return result


def _is_solution(cell: NotebookNode) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))


def _blank(original: NotebookNode, cell: NotebookNode) -> bool:
    """Whether nothing was written into a solution or an answer."""
    return cell.source.strip() in ("", original.source.strip(), ANSWER)


def _claim(edition: NotebookNode, handed_in: NotebookNode, result: Rebuilt) -> dict[str, int]:
    """Which cell of a student stands for which marked one of the edition."""
    places: dict[str, int] = {}
    taken: set[int] = set()
    marked = marked_cells(edition)
    for name, original in marked.items():
        there = [n for n, cell in enumerate(handed_in.cells) if grade_id(cell) == name]
        if not there:
            continue
        solution = _is_solution(original)
        best = max(there, key=lambda n: (_fits(original, handed_in.cells[n], solution), n if solution else -n))
        places[name] = best
        taken.add(best)
        if len(there) > 1:
            result.notes.append(
                f"the cell {name} stands there {len(there)} times; one was taken, the others count not."
            )
    for name, original in marked.items():
        if name in places:
            continue
        fits = [
            n
            for n, cell in enumerate(handed_in.cells)
            if n not in taken and grade_id(cell) not in marked and _alike(original, cell)
        ]
        if fits:
            places[name] = fits[-1] if _is_solution(original) else fits[0]
            taken.add(places[name])
    return places


def _fits(original: NotebookNode, cell: NotebookNode, solution: bool) -> bool:
    return not _blank(original, cell) if solution else cell.source.strip() == original.source.strip()


def _alike(original: NotebookNode, cell: NotebookNode) -> bool:
    """Whether a cell without a mark is a marked one by what it holds."""
    if not _is_solution(original):
        return cell.source.strip() == original.source.strip() != ""
    if original.cell_type != "code":
        return False
    wanted = _defined(original.source)
    return bool(wanted) and cell.cell_type == "code" and wanted <= _defined(cell.source)


def _defined(source: str) -> set[str]:
    """The functions that a cell defines."""
    try:
        return {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()


def _collect_answers(edition: NotebookNode, handed_in: NotebookNode, places: dict[str, int], result: Rebuilt) -> None:
    """Take an answer that stands beside its cell, in cells of the student's own, into the answer's cell."""
    texts = {cell.source.strip() for cell in edition.cells}
    names = list(marked_cells(edition).items())
    for k, (name, original) in enumerate(names):
        if original.cell_type != "markdown" or not _is_solution(original):
            continue
        place = places.get(name)
        if place is not None and not _blank(original, handed_in.cells[place]):
            continue
        start = place if place is not None else places.get(names[k - 1][0]) if k else None
        if start is None:
            continue
        found = _texts_behind(handed_in, start, texts, places)
        if not found:
            continue
        where = places.setdefault(name, found[0])
        metadata = handed_in.cells[where].metadata
        handed_in.cells[where] = new_markdown_cell(metadata=metadata, **_joined([handed_in.cells[n] for n in found]))
        for n in found:
            if n != where:
                handed_in.cells[n] = new_markdown_cell("")
        result.notes.append(f"the answer {name} was found in another cell, and taken into its own.")


def _joined(cells: Sequence[NotebookNode]) -> dict[str, Any]:
    """Source and attachments of several cells in one; equal names of attachments are told apart."""
    sources, pictures = [], {}
    for k, cell in enumerate(cells):
        source = cell.source
        for name, kinds in cell.get("attachments", {}).items():
            own = f"{k}-{name}" if name in pictures else name
            source = source.replace(f"attachment:{name}", f"attachment:{own}")
            pictures[own] = kinds
        sources.append(source)
    return {"source": "\n\n".join(sources)} | ({"attachments": pictures} if pictures else {})


def _texts_behind(handed_in: NotebookNode, start: int, texts: set[str], places: dict[str, int]) -> list[int]:
    """The cells of text that a student put behind a cell, up to the next one of the edition."""
    found = []
    for n in range(start + 1, len(handed_in.cells)):
        cell = handed_in.cells[n]
        if cell.source.strip() in texts or n in places.values():
            break
        if cell.source.strip() and (cell.cell_type != "code" or _is_text(cell.source)):
            found.append(n)
    return found


def _is_text(source: str) -> bool:
    """Whether what stands in a code cell is no code: no Python, or nothing but comments and strings."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return not source.lstrip().startswith(("%", "!"))
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def _marked(original: NotebookNode, name: str, cell: NotebookNode, result: Rebuilt) -> list[NotebookNode]:
    """A student's cell with the edition's mark; a locked one as it was handed out, behind what was made of it."""
    whole = copy.deepcopy(original)
    mark = original.metadata["nbgrader"]
    if mark.get("solution"):
        if cell.cell_type != original.cell_type and cell.source.strip():
            result.notes.append(f"the cell {name} was no {original.cell_type} cell, and was read as one.")
        whole.source = cell.source
        if original.cell_type == "code":
            if cell.cell_type == "markdown" and (fenced := _FENCED.findall(cell.source)):
                whole.source = "\n".join(fenced)
            whole.outputs = cell.get("outputs", [])
        elif "attachments" in cell:
            whole.attachments = cell.attachments
        return [whole]
    if original.cell_type == "code":
        whole.outputs = cell.get("outputs", [])
    if cell.source.strip() == original.source.strip():
        return [whole]
    if mark.get("grade"):
        result.tampered[name] = "was changed"
    if original.cell_type == "code" and cell.source.strip():
        return [new_code_cell(cell.source), whole]
    return [whole]


def _put_back(edition: NotebookNode, result: Rebuilt) -> None:
    """Put every marked cell that is missing behind its old neighbour."""
    cells = result.notebook.cells
    place = 0
    for name, cell in marked_cells(edition).items():
        names = [grade_id(other) for other in cells]
        if name not in names:
            if cell.metadata["nbgrader"].get("grade") and cell.cell_type == "code":
                result.tampered[name] = "was deleted"
            cells.insert(place, copy.deepcopy(cell))
            place += 1
        else:
            place = names.index(name) + 1
