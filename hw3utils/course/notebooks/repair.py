"""Restore a submitted notebook to the structure of the edition; the marks are the edition's, no text is dropped."""

import ast
import codecs
import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell

from hw3utils.course.notebooks.cells import ANSWER, EXPECTED_PICTURE, grade_id, marked_cells, syntax_tree

_EXPECTED_PICTURE = re.compile(re.escape(EXPECTED_PICTURE).replace(re.escape("{}"), "[^'\"<>]*"))
# Code in Markdown.
_FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.M | re.S)


@dataclass
class RepairedNotebook:
    """A submitted notebook with the edition's cells and marks.

    Args:
        notebook: the notebook.
        tampered: checks that were changed or deleted, and which of the two.
        notes: what was repaired, one sentence each.
        unchanged: numbers of the code cells that are those of the edition.
    """

    notebook: NotebookNode
    tampered: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unchanged: set[int] = field(default_factory=set)


def read_leniently(path: Path) -> NotebookNode:
    """Read a notebook as any editor may have saved it: only types, sources, outputs and attachments of cells count.

    Raises:
        ValueError: when the file is not a notebook.
    """
    data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        content = _valid_unicode(json.loads(data.decode("utf-16" if utf16 else "utf-8-sig", errors="replace")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({type(error).__name__}); it may be cut off") from None
    if isinstance(content, dict) and isinstance(content.get("worksheets"), list):
        try:
            content = nbformat.convert(nbformat.from_dict(content), 4)
        except Exception as error:  # nbformat raises anything on an invalid old notebook
            raise ValueError(f"it is of an old format that cannot be read ({type(error).__name__})") from None
    cells = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(cells, list):
        raise ValueError("it has no cells")
    return new_notebook(
        cells=[_cell(cell) for cell in cells if isinstance(cell, Mapping)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )


def _valid_unicode(value: Any) -> Any:
    """The value without lone surrogates, which JSON allows and UTF-8 does not."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_valid_unicode(part) for part in value]
    if isinstance(value, dict):
        return {_valid_unicode(name): _valid_unicode(part) for name, part in value.items()}
    return value


def _text(value: Any) -> str:
    return "".join(str(line) for line in value) if isinstance(value, list) else str(value or "")


def _cell(cell: Mapping[str, Any]) -> NotebookNode:
    """A valid cell from an untrusted one."""
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
    """The data of an output or an attachment by MIME type: text, or JSON for JSON types."""
    if not isinstance(given, Mapping):
        return {}
    joined = {str(name): _text(value) if isinstance(value, list) else value for name, value in given.items()}
    return {name: value for name, value in joined.items() if isinstance(value, str) or name.endswith("json")}


def _output(output: Mapping[str, Any]) -> NotebookNode | None:
    """A valid output from an untrusted one; None if it is none."""
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


def rebuild(edition: NotebookNode, submitted: NotebookNode) -> RepairedNotebook:
    """Restore a submitted notebook to the structure of the edition.

    Every mark comes from the edition: its cell is found by grade_id, or by content. Duplicates get no mark, locked
    cells are restored, missing ones are inserted behind their old neighbour. The student's own cells, and what was
    written into locked cells, stay as cells without a mark; a blank answer gets text that was written elsewhere.

    Args:
        edition: the released notebook.
        submitted: from `read_leniently`; it is changed.
    """
    submitted.cells = [cell for cell in submitted.cells if not _EXPECTED_PICTURE.fullmatch(cell.source.strip())]
    result = RepairedNotebook(submitted)
    claimed = _claim(edition, submitted, result)
    _separate_additions(edition, submitted, claimed, result)
    _collect_answers(edition, submitted, claimed, result)
    marked = marked_cells(edition)
    names = {id(cell): name for name, cell in claimed.items()}
    cells: list[NotebookNode] = []
    for cell in submitted.cells:
        name = names.get(id(cell))
        cell.metadata.pop("nbgrader", None)
        if name is not None:
            cells += _marked(marked[name], name, cell, result)
        else:
            # A page shows raw cells as they are, as HTML.
            cells.append(new_markdown_cell(cell.source) if cell.cell_type == "raw" else cell)
    result.notebook = copy.copy(submitted)
    result.notebook.cells = cells
    _insert_missing(edition, result)
    texts = {cell.source.strip() for cell in edition.cells if cell.cell_type == "code"}
    result.unchanged = {
        n
        for n, cell in enumerate(result.notebook.cells)
        if cell.cell_type == "code" and cell.source.strip() in texts and not _is_solution(cell)
    }
    return result


def _is_solution(cell: NotebookNode) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))


def _is_answer(cell: NotebookNode) -> bool:
    return cell.cell_type == "markdown" and _is_solution(cell)


def _blank(original: NotebookNode, cell: NotebookNode) -> bool:
    """Whether a solution or an answer is as it was released."""
    return cell.source.strip() in ("", original.source.strip(), ANSWER)


def _claim(edition: NotebookNode, submitted: NotebookNode, result: RepairedNotebook) -> dict[str, NotebookNode]:
    """The submitted cell for each marked one of the edition."""
    claimed: dict[str, NotebookNode] = {}
    marked = marked_cells(edition)
    for name, original in marked.items():
        copies = [cell for cell in submitted.cells if grade_id(cell) == name]
        if copies:
            claimed[name] = _best_copy(name, original, copies, result)
    taken = {id(cell) for cell in claimed.values()}
    for name, original in marked.items():
        fits = [
            cell
            for cell in submitted.cells
            if id(cell) not in taken and grade_id(cell) not in marked and _same_content(original, cell)
        ]
        if name not in claimed and fits:
            claimed[name] = fits[-1] if _is_solution(original) else fits[0]
            taken.add(id(claimed[name]))
    return claimed


def _best_copy(
    name: str, original: NotebookNode, copies: Sequence[NotebookNode], result: RepairedNotebook
) -> NotebookNode:
    """The one of several cells with the same grade_id that counts; the parts of a split answer are joined in it."""
    if not _is_solution(original):
        best = next((cell for cell in copies if cell.source.strip() == original.source.strip()), copies[0])
    else:
        best = next((cell for cell in reversed(copies) if not _blank(original, cell)), copies[-1])
    if len(copies) == 1:
        return best
    parts = {cell.source.strip(): cell for cell in copies if not _blank(original, cell)}
    if _is_answer(original) and len(parts) > 1:
        joined = _joined(list(parts.values()))
        for cell in copies:
            cell.source = joined["source"] if cell is best else ""
            cell.pop("attachments", None)
        best.update(joined)
        result.notes.append(f"the answer {name} was split into {len(parts)} cells; they were joined.")
    else:
        result.notes.append(f"the cell {name} exists {len(copies)} times; one of them counts.")
    return best


def _same_content(original: NotebookNode, cell: NotebookNode) -> bool:
    """Whether a cell without a mark is a marked one by its content."""
    if not _is_solution(original):
        return cell.source.strip() == original.source.strip() != ""
    if original.cell_type != "code":
        return False
    wanted = defined_names(original.source)
    return bool(wanted) and cell.cell_type == "code" and wanted <= defined_names(cell.source)


def defined_names(source: str) -> set[str]:
    """The functions and variables that a cell defines at its top level."""
    tree = syntax_tree(source)
    body = tree.body if tree else []
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)} | {
        target.id for target in targets if isinstance(target, ast.Name)
    }


def _new_lines(source: str, known: Iterable[str]) -> str:
    """The lines of a text that are not in others."""
    lines = {line.strip() for text in known for line in text.splitlines()}
    return "\n".join(line for line in source.splitlines() if line.strip() not in lines or not line.strip()).strip()


def _separate_additions(
    edition: NotebookNode, submitted: NotebookNode, claimed: Mapping[str, NotebookNode], result: RepairedNotebook
) -> None:
    """Move what was written into locked Markdown cells to cells of its own."""
    for name, original in marked_cells(edition).items():
        cell = claimed.get(name)
        if cell is None or original.cell_type != "markdown" or _is_solution(original):
            continue
        added = _new_lines(cell.source, [original.source])
        pictures = {"attachments": cell.pop("attachments")} if "attachments" in cell else {}
        cell.source = original.source
        if added or pictures:
            place = next(n for n, other in enumerate(submitted.cells) if other is cell)
            submitted.cells.insert(place + 1, new_markdown_cell(added, **pictures))
            result.notes.append(f"text was written into the locked cell {name}; it is below it now.")


def _collect_answers(
    edition: NotebookNode, submitted: NotebookNode, claimed: dict[str, NotebookNode], result: RepairedNotebook
) -> None:
    """Give blank answers the text in cells next to them, else the nearest text anywhere in the notebook."""
    known = [cell.source for cell in edition.cells]
    texts = {source.strip() for source in known}
    names = list(marked_cells(edition).items())
    blank: dict[str, int] = {}
    for k, (name, original) in enumerate(names):
        if not _is_answer(original) or (name in claimed and not _blank(original, claimed[name])):
            continue
        start = claimed.get(name, claimed.get(names[k - 1][0]) if k else None)
        place = next((n for n, cell in enumerate(submitted.cells) if cell is start), None)
        if place is None:
            continue
        step = 1 if _neighbours(submitted, place, 1, texts, claimed) else -1
        found = sorted(_neighbours(submitted, place, step, texts, claimed))
        if not found or (step < 0 and name not in claimed):
            if name not in claimed:
                claimed[name] = new_markdown_cell(original.source)
                submitted.cells.insert(place + 1, claimed[name])
            blank[name] = place
            continue
        if name not in claimed:
            claimed[name] = submitted.cells[found[0]]
        target = claimed[name]
        target.update({"source": "", "cell_type": "markdown"} | _joined([submitted.cells[n] for n in found]))
        for n in found:
            if submitted.cells[n] is not target:
                submitted.cells[n] = new_markdown_cell("")
        result.notes.append(f"the answer {name} was found in another cell, and moved to its own.")
    _copy_distant_texts(submitted, claimed, blank, known, result)


def _copy_distant_texts(
    submitted: NotebookNode,
    claimed: Mapping[str, NotebookNode],
    blank: Mapping[str, int],
    known: Sequence[str],
    result: RepairedNotebook,
) -> None:
    """Copy each text that a student wrote elsewhere to the nearest blank answer, so that a person reads it."""
    taken = {id(cell) for cell in claimed.values()}
    texts: dict[str, list[NotebookNode]] = {}
    for n, cell in enumerate(submitted.cells):
        if not blank or id(cell) in taken or (cell.cell_type == "code" and not _is_comment(cell.source)):
            continue
        pictures = {"attachments": cell.attachments} if "attachments" in cell else {}
        new = new_markdown_cell(_new_lines(cell.source, known), **pictures)
        if pictures or re.search(r"\w", new.source):
            nearest = min(blank, key=lambda name: (abs(blank[name] - n), blank[name] > n))
            texts.setdefault(nearest, []).append(new)
    for name, found in texts.items():
        lead = new_markdown_cell("*(This cell was blank. Text that was found elsewhere in the notebook:)*")
        claimed[name].update(_joined([lead, *found]))
        result.notes.append(f"the answer {name} is blank; text that was found elsewhere was copied to it, to be read.")


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


def _neighbours(
    submitted: NotebookNode, start: int, step: int, texts: set[str], claimed: Mapping[str, NotebookNode]
) -> list[int]:
    """The student's cells of text behind a cell (or above it), up to the next one of the edition."""
    found = []
    n = start + step
    while 0 <= n < len(submitted.cells):
        cell = submitted.cells[n]
        if cell.source.strip() in texts or any(cell is other for other in claimed.values()):
            break
        if cell.source.strip() and (cell.cell_type != "code" or _is_text(cell.source)):
            found.append(n)
        n += step
    return found


def _is_text(source: str) -> bool:
    """Whether a code cell contains no code: no Python, or only comments and strings."""
    if syntax_tree(source) is None:
        return not source.lstrip().startswith(("%", "!"))
    return _is_comment(source)


def _is_comment(source: str) -> bool:
    """Whether a code cell contains only comments and strings."""
    tree = syntax_tree(source)
    return tree is not None and all(
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree.body
    )


def _marked(original: NotebookNode, name: str, cell: NotebookNode, result: RepairedNotebook) -> list[NotebookNode]:
    """A student's cell with the edition's mark; a changed locked one is restored behind the student's code."""
    restored = copy.deepcopy(original)
    mark = original.metadata["nbgrader"]
    if mark.get("solution"):
        if cell.cell_type != original.cell_type and cell.source.strip():
            result.notes.append(f"the cell {name} was not a {original.cell_type} cell, and was read as one.")
        restored.source = cell.source
        if original.cell_type == "code":
            if cell.cell_type == "markdown" and (fenced := _FENCED.findall(cell.source)):
                restored.source = "\n".join(fenced)
            restored.outputs = cell.get("outputs", [])
        elif "attachments" in cell:
            restored.attachments = cell.attachments
        return [restored]
    if original.cell_type == "code":
        restored.outputs = cell.get("outputs", [])
    if cell.source.strip() == original.source.strip():
        return [restored]
    if mark.get("grade"):
        result.tampered[name] = "was changed"
    if original.cell_type == "code" and cell.source.strip():
        return [new_code_cell(cell.source), restored]
    return [restored]


def _insert_missing(edition: NotebookNode, result: RepairedNotebook) -> None:
    """Insert every missing marked cell behind its old neighbour."""
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
