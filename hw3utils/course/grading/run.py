"""A handed-in notebook in its kernel, and each check of it before the judge: no cell costs more than itself."""

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_output

from hw3utils.course.notebooks.cells import grade_id, item_of
from hw3utils.course.notebooks.dependencies import Piece, needed, pieces
from hw3utils.course.grading.kernel import (
    FAILED,
    LOST,
    NOT_RUN,
    PASSED,
    SLOW,
    Down,
    Kernel,
    Surroundings,
    Verdict,
)
from hw3utils.course.notebooks.images import without_attachments

# How often a notebook is begun again, without the cells that brought its process down.
ATTEMPTS = 5
# What one notebook may keep of its outputs, in bytes, one output of it, and how many a cell may have.
MAX_NOTEBOOK, MAX_OUTPUT, MOST_OUTPUTS = 2_500_000, 300_000, 200
_SERVE = """
from hw3utils.course.grading.judge.student_side import serve as _hw3_serve
_hw3_serve({address!r}, {key!r}, globals())
"""


@dataclass
class Step:
    """A cell that runs: its number, what of it runs, the check that it is, the names that it gives."""

    cell: int
    source: str
    check: str | None = None
    binds: frozenset[str] = frozenset()


def plan(notebook: NotebookNode, own: set[int], *, full: bool) -> list[Step]:
    """What of a rebuilt notebook runs: a student's cells, and of the edition's what these and the checks stand on.

    Args:
        notebook: the notebook, marked.
        own: numbers of the cells that are the edition's, word for word.
        full: run every cell whole.
    """
    found = pieces(notebook)
    checks = {n: grade_id(cell) for n, cell in enumerate(notebook.cells) if _is_check(cell)}
    goals = [n for n, piece in enumerate(found) if piece.cell in checks or piece.cell not in own]
    keep = set().union(*(needed(found, goal) for goal in goals)) if goals else set()
    by_cell: dict[int, list[Piece]] = {}
    for n, piece in enumerate(found):
        if full or n in keep or piece.cell not in own:
            by_cell.setdefault(piece.cell, []).append(piece)
    replaced = _replaced_stubs(notebook, found)
    steps = []
    for number, cell in enumerate(notebook.cells):
        if number in checks:
            steps.append(Step(number, cell.source, checks[number], _uses(found, number)))
        elif number in by_cell and number not in replaced:
            whole = full or number not in own
            source = cell.source if whole else "\n".join(piece.source for piece in by_cell[number])
            binds = frozenset().union(*(piece.binds for piece in by_cell[number]))
            steps.append(Step(number, source, None, binds))
    return steps


def _is_check(cell: NotebookNode) -> bool:
    mark = cell.metadata.get("nbgrader", {})
    return cell.cell_type == "code" and bool(mark.get("grade"))


def _uses(found: Sequence[Piece], number: int) -> frozenset[str]:
    return frozenset().union(*(piece.uses for piece in found if piece.cell == number))


def _replaced_stubs(notebook: NotebookNode, found: Sequence[Piece]) -> set[int]:
    """Stubs that were left as they are while another cell gives their names: they would undo it."""
    stubs = set()
    for n, cell in enumerate(notebook.cells):
        mark = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "code" and mark.get("solution") and "raise NotImplementedError" in cell.source:
            mine = frozenset().union(*(piece.binds for piece in found if piece.cell == n))
            others = frozenset().union(*(piece.binds for piece in found if piece.cell != n))
            if mine and mine <= others and cell.source.count("raise NotImplementedError") >= len(mine):
                stubs.add(n)
    return stubs


def run(
    notebook: NotebookNode,
    steps: Sequence[Step],
    around: Surroundings,
    judge: Callable[[str, Callable[[Any, str], None]], Verdict],
    tick: Callable[[], object],
) -> dict[str, Verdict]:
    """Run a notebook's steps, each check before the judge; outputs are put into the notebook.

    A cell that hangs or ends its process is left out, and all before it run again. A check that failed is judged once
    more at the end, when a later cell gave a name that it uses.

    Returns:
        The verdict of each check.
    """
    verdicts: dict[str, Verdict] = {}
    left_out: set[int] = set()
    ticked = 0
    for _ in range(ATTEMPTS):
        kernel = Kernel(around)
        try:
            for n, step in _standing(steps, left_out):
                try:
                    _step(kernel, step, notebook, around, judge, verdicts)
                except Down as error:
                    left_out.add(n)
                    _note_down(step, notebook, verdicts, str(error))
                    break
                finally:
                    if n >= ticked:
                        tick()
                        ticked = n + 1
            else:
                with contextlib.suppress(Down):
                    _second_look(kernel, steps, left_out, notebook, around, judge, verdicts)
                break
        finally:
            kernel.stop()
    _blame(steps, left_out, notebook, verdicts)
    for step in steps:
        if step.check and step.check not in verdicts:
            verdicts[step.check] = Verdict(
                NOT_RUN, "cells before it brought the notebook's process down again and again"
            )
    return verdicts


def _standing(steps: Sequence[Step], left_out: set[int]) -> Iterator[tuple[int, Step]]:
    return ((n, step) for n, step in enumerate(steps) if n not in left_out)


def _step(kernel: Kernel, step: Step, notebook: NotebookNode, around: Surroundings, judge: Any, verdicts: Any) -> None:
    """Run a cell, or have a check judged that has no verdict yet."""
    if step.check is None:
        notebook.cells[step.cell].outputs = kernel.run(step.source, around.seconds)
        return
    if step.check in verdicts:
        return

    def serve(address: Any, key: str) -> None:
        kernel.run(_SERVE.format(address=address, key=key), around.seconds + 10)

    verdicts[step.check] = judge(step.check, serve)


def _note_down(step: Step, notebook: NotebookNode, verdicts: dict[str, Verdict], reason: str) -> None:
    """Write down which cell brought the process down."""
    name, _, text = reason.partition(": ")
    if step.check:
        verdicts[step.check] = Verdict(SLOW if name == "CellTimeoutError" else LOST, text)
    else:
        notebook.cells[step.cell].outputs = [_error(name, text)]


def _blame(
    steps: Sequence[Step], left_out: Collection[int], notebook: NotebookNode, verdicts: dict[str, Verdict]
) -> None:
    """Say of a check that failed for want of its solution, which hung or ended the process, that it was this."""
    for n in left_out:
        name = grade_id(notebook.cells[steps[n].cell])
        for check, verdict in verdicts.items():
            if name and not steps[n].check and item_of(check) == item_of(name) and verdict.state == FAILED:
                [error] = notebook.cells[steps[n].cell].outputs
                state = SLOW if error.ename == "CellTimeoutError" else LOST
                verdicts[check] = Verdict(state, f"{name}: {error.evalue}")


def _second_look(
    kernel: Kernel, steps: Sequence[Step], left_out: set[int], notebook: NotebookNode, around: Surroundings,
    judge: Any, verdicts: dict[str, Verdict],
) -> None:  # fmt: skip
    """Run the cells again that failed, for want of what stands below them; judge again what failed before them."""
    standing = list(_standing(steps, left_out))
    failed = {step.check for _, step in standing if step.check and verdicts[step.check].state == FAILED}
    again = [
        step
        for n, step in standing
        if step.check in failed and any(other.binds & step.binds for m, other in standing if m > n and not other.check)
    ]
    if failed:
        for _, step in standing:
            if step.check is None and any(o.get("ename") == "NameError" for o in notebook.cells[step.cell].outputs):
                outputs = kernel.run(step.source, around.seconds)
                if not any(output.output_type == "error" for output in outputs):
                    notebook.cells[step.cell].outputs = outputs
                    again += [s for _, s in standing if s.check in failed and s.binds & step.binds and s not in again]
    for step in again:
        first = verdicts.pop(step.check)
        try:
            _step(kernel, step, notebook, around, judge, verdicts)
        finally:
            if verdicts.get(step.check, first).state != PASSED:
                verdicts[step.check] = first


def _error(name: str, text: str) -> NotebookNode:
    return new_output("error", ename=name, evalue=text, traceback=[f"{name}: {text}"])


def write_verdicts(notebook: NotebookNode, verdicts: Mapping[str, Verdict]) -> None:
    """Put each verdict under its check, as nbgrader counts it: an error gives no points."""
    for cell in notebook.cells:
        verdict = verdicts.get(grade_id(cell) or "")
        if verdict and cell.cell_type == "code":
            if verdict.state == PASSED:
                cell.outputs = [new_output("stream", name="stdout", text=f"{verdict.message}\n")]
            else:
                cell.outputs = [_error("AssertionError", f"{verdict.state}: {verdict.message}")]


def keep_small(notebook: NotebookNode) -> None:
    """Cut what would make a page of megabytes: long outputs, long sources, large pictures; each says so."""
    room = MAX_NOTEBOOK
    # The answers first: no figure takes their room.
    for cell in sorted(notebook.cells, key=lambda cell: cell.cell_type == "code"):
        cell.source = _cut(cell.source)
        if cell.cell_type != "code":
            size = len(json.dumps(cell.get("attachments", {})))
            if size > room:
                cell.pop("attachments")
                cell.source = without_attachments(cell.source)
            room -= len(cell.source) + (size if size <= room else 0)
            continue
        kept = []
        for output in cell.outputs:
            small = _small(output)
            size = len(json.dumps(small))
            # A verdict is never left out: nbgrader would count the check as passed.
            if size > room and not _is_check(cell):
                small = _left_out("the outputs of this notebook are too large")
                size = 100
            room -= size
            kept.append(small)
            if room < 0:
                break
        if len(kept) > MOST_OUTPUTS:
            kept[MOST_OUTPUTS:] = [_left_out(f"{len(kept) - MOST_OUTPUTS} further outputs of this cell")]
        cell.outputs = kept


def _left_out(what: str) -> NotebookNode:
    return new_output("stream", name="stdout", text=f"(left out: {what})\n")


def _small(output: NotebookNode) -> NotebookNode:
    if output.output_type == "stream":
        output.text = _cut(output.text)
    elif output.output_type == "error":
        output.evalue = _cut(output.evalue, 2_000)
        output.traceback = [_cut(line, 5_000) for line in output.traceback[-30:]]
    else:
        for name, value in list(output.data.items()):
            size = len(value) if isinstance(value, str) else len(json.dumps(value))
            if name in ("text/markdown", "text/latex") and isinstance(value, str):
                output.data[name] = value = without_attachments(value)
            if name.startswith("text/plain") and isinstance(value, str):
                output.data[name] = _cut(value)
            elif size > (MAX_OUTPUT * 3 if name.startswith("image/") else MAX_OUTPUT):
                del output.data[name]
                output.data.setdefault("text/plain", f"(left out: {name} of {size / 1e6:.1f} MB)")
    return output


def _cut(text: str, most: int = 20_000) -> str:
    return (
        text
        if len(text) <= most
        else f"{text[: most // 2]}\n[... {len(text) - most:,} characters ...]\n{text[-most // 2 :]}"
    )
