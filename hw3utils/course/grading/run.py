"""Run a submitted notebook, each check by the judge: a crashing cell loses only its own points."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nbformat import NotebookNode
from nbformat.v4 import new_output

from hw3utils.course.assignment import CellState, GradedCell
from hw3utils.course.grading.kernel import Kernel, KernelConfig, KernelCrashed, uses_torch
from hw3utils.course.notebooks.cells import grade_id, item_of
from hw3utils.course.notebooks.dependencies import (
    Statement,
    bound_names,
    replaced_stubs,
    required_statements,
    statements_of,
)
from hw3utils.course.notebooks.images import without_attachments

# How often a notebook starts again, without the cells that crashed its kernel.
MAX_RESTARTS = 20
# Bytes of all outputs of a notebook and of one output, and the number of outputs of a cell.
MAX_NOTEBOOK, MAX_OUTPUT, MAX_OUTPUTS = 2_500_000, 300_000, 200
_SERVE = """
from hw3utils.course.grading.judge.student_side import serve as _hw3_serve
_hw3_serve({address!r}, {key!r}, globals())
"""


@dataclass
class Step:
    """A cell to run: its number, the source to run, the check that it is, the names that it defines (or uses)."""

    cell: int
    source: str
    check: str | None = None
    names: frozenset[str] = frozenset()


def plan(notebook: NotebookNode, unchanged: set[int], *, full: bool) -> list[Step]:
    """The cells to run: the student's own, and the dependencies of these and of the checks.

    Args:
        notebook: the repaired notebook.
        unchanged: numbers of the cells that are those of the edition.
        full: run every cell completely.
    """
    statements = statements_of(notebook)
    checks = {n: grade_id(cell) for n, cell in enumerate(notebook.cells) if _is_check(cell)}
    goals = [n for n, statement in enumerate(statements) if statement.cell in checks or statement.cell not in unchanged]
    needed = set().union(*(required_statements(statements, goal) for goal in goals))
    by_cell: dict[int, list[Statement]] = {}
    for n, statement in enumerate(statements):
        if full or n in needed or statement.cell not in unchanged:
            by_cell.setdefault(statement.cell, []).append(statement)
    replaced = replaced_stubs(notebook, statements)
    steps = []
    for number, cell in enumerate(notebook.cells):
        if number in checks:
            used = frozenset().union(*(statement.uses for statement in statements if statement.cell == number))
            steps.append(Step(number, cell.source, checks[number], used))
        elif number in by_cell and number not in replaced:
            complete = full or number not in unchanged
            source = cell.source if complete else "\n".join(statement.source for statement in by_cell[number])
            steps.append(Step(number, source, names=bound_names(by_cell[number])))
    return steps


def _is_check(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and bool(cell.metadata.get("nbgrader", {}).get("grade"))


JudgeCheck = Callable[[str, Callable[[str, str], None]], tuple[CellState, str]]


def run(
    notebook: NotebookNode,
    steps: Sequence[Step],
    config: KernelConfig,
    judge: JudgeCheck,
    on_step: Callable[[], object],
    results: Mapping[str, GradedCell],
) -> None:
    """Run the steps of a notebook, each check by the judge; outputs are written to the notebook.

    A cell that hangs or ends its kernel is skipped, and all others run again. A check that failed runs again in the
    end if a later cell defines a name that it uses, or if a name was missing.

    Args:
        notebook: the repaired notebook.
        steps: see `plan`.
        config: of the kernel.
        judge: runs one check (see `Judge.decide`).
        on_step: called once for each step.
        results: the graded cells by name; those of the checks get their results.
    """
    _Runner(notebook, steps, config, judge, on_step, results).run()


@dataclass
class _Runner:
    """One run of `run`; `crashed` has the steps that crashed a kernel."""

    notebook: NotebookNode
    steps: Sequence[Step]
    config: KernelConfig
    judge: JudgeCheck
    on_step: Callable[[], object]
    results: Mapping[str, GradedCell]
    crashed: dict[int, KernelCrashed] = field(default_factory=dict)

    def run(self) -> None:
        """Run everything."""
        reached = 0
        config = replace(self.config, torch=uses_torch(step.source for step in self.steps))
        for _ in range(MAX_RESTARTS):
            kernel = Kernel(config)
            try:
                for n, step in self._remaining():
                    try:
                        self._run_step(kernel, step)
                    except KernelCrashed as error:
                        self._record_crash(n, error)
                        break
                    finally:
                        if n >= reached:
                            self.on_step()
                            reached = n + 1
                else:
                    with contextlib.suppress(KernelCrashed):
                        self._retry_failed_checks(kernel)
                    break
            finally:
                kernel.stop()
        self._attribute_failures()
        for step in self.steps:
            if step.check and self.results[step.check].state == CellState.NOT_RUN:
                message = "cells before it brought the notebook's process down again and again"
                self.results[step.check].set_result(CellState.NOT_RUN, message)

    def _remaining(self) -> Iterator[tuple[int, Step]]:
        return ((n, step) for n, step in enumerate(self.steps) if n not in self.crashed)

    def _run_step(self, kernel: Kernel, step: Step) -> None:
        """Run a cell, or have a check judged that has no result yet."""
        if step.check is None:
            self.notebook.cells[step.cell].outputs = kernel.run(step.source, self.config.seconds)
        elif self.results[step.check].state == CellState.NOT_RUN:
            self._run_check(kernel, step.check)

    def _run_check(self, kernel: Kernel, check: str) -> None:
        def serve(address: str, key: str) -> None:
            try:
                kernel.run(_SERVE.format(address=address, key=key), self.config.seconds + 5)
            except KernelCrashed as error:
                if error.state == CellState.TIMED_OUT:
                    error.text = f"the check took longer than {self.config.seconds:g} s"
                raise

        self.results[check].set_result(*self.judge(check, serve))

    def _record_crash(self, n: int, error: KernelCrashed) -> None:
        """Write down which cell crashed the kernel."""
        self.crashed[n] = error
        step = self.steps[n]
        if step.check:
            self.results[step.check].set_result(error.state, error.text)
        else:
            self.notebook.cells[step.cell].outputs = [_error(error.name, error.text)]

    def _attribute_failures(self) -> None:
        """Replace the message of a check that failed because its solution crashed by the reason of the crash."""
        for n, error in self.crashed.items():
            name = grade_id(self.notebook.cells[self.steps[n].cell])
            if self.steps[n].check or not name:
                continue
            for result in self.results.values():
                if result.item == item_of(name) and result.state == CellState.FAILED:
                    result.set_result(error.state, f"{name}: {error.text}")

    def _retry_failed_checks(self, kernel: Kernel) -> None:
        """Run cells again that lacked a name that is defined below them, then the failed checks that depend on it."""
        remaining = list(self._remaining())
        failed = [
            (n, step, step.check)
            for n, step in remaining
            if step.check and self.results[step.check].state == CellState.FAILED
        ]
        if not failed:
            return
        again = {
            check
            for n, step, check in failed
            if self.results[check].message.startswith("NameError")
            or any(other.names & step.names for m, other in remaining if m > n and not other.check)
        }
        for _, step in remaining:
            if step.check is None and any(o.get("ename") == "NameError" for o in self._outputs(step)):
                outputs = kernel.run(step.source, self.config.seconds)
                if not any(output.output_type == "error" for output in outputs):
                    self.notebook.cells[step.cell].outputs = outputs
                    again |= {check for _, other, check in failed if other.names & step.names}
        for _, _, check in failed:
            if check in again:
                self._retry(kernel, check)

    def _retry(self, kernel: Kernel, check: str) -> None:
        """Run a failed check again; only a better result counts."""
        result = self.results[check]
        first = result.state, result.message
        try:
            self._run_check(kernel, check)
        finally:
            if result.state != CellState.PASSED:
                result.set_result(*first)

    def _outputs(self, step: Step) -> list[NotebookNode]:
        return self.notebook.cells[step.cell].outputs


def _error(name: str, text: str) -> NotebookNode:
    return new_output("error", ename=name, evalue=text, traceback=[f"{name}: {text}"])


def write_results(notebook: NotebookNode, results: Mapping[str, GradedCell]) -> None:
    """Write each result below its check in the form that nbgrader counts: an error gives no points."""
    for cell in notebook.cells:
        result = results.get(grade_id(cell) or "")
        if result and cell.cell_type == "code":
            if result.state == CellState.PASSED:
                cell.outputs = [new_output("stream", name="stdout", text=f"{result.message}\n")]
            else:
                cell.outputs = [_error("AssertionError", f"{result.state}: {result.message}")]


def keep_small(notebook: NotebookNode) -> None:
    """Shorten long outputs, long sources and large pictures, with a note at each: a page must not have megabytes."""
    room = MAX_NOTEBOOK
    # The answers first: figures must not take their room.
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
            small = _shorten(output)
            size = len(json.dumps(small))
            # The result of a check is never left out: nbgrader would count the check as passed.
            if size > room and not _is_check(cell):
                small = _left_out("the outputs of this notebook are too large")
                size = 100
            room -= size
            kept.append(small)
            if room < 0:
                break
        if len(kept) > MAX_OUTPUTS:
            kept[MAX_OUTPUTS:] = [_left_out(f"{len(kept) - MAX_OUTPUTS} further outputs of this cell")]
        cell.outputs = kept


def _left_out(what: str) -> NotebookNode:
    return new_output("stream", name="stdout", text=f"(left out: {what})\n")


def _shorten(output: NotebookNode) -> NotebookNode:
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


def _cut(text: str, limit: int = 20_000) -> str:
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}\n[... {len(text) - limit:,} characters ...]\n{text[-limit // 2 :]}"
