"""The judge: a process of its own that runs the checks as they were handed out, with a student's names over a line.

It reads one order a line, JSON, and writes one verdict a line. It is started before any student's code runs.
"""

import builtins
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from hw3utils.course.assignment import STUDENT_VARIABLE
from hw3utils.course.checks.building_blocks import SEED_VARIABLE
from hw3utils.course.grading.judge.judge_side import JudgeEnd
from hw3utils.course.grading.judge.connection import Door, LostLine, OtherSide
from hw3utils.course.notebooks.cells import grade_id, graded_cells
from hw3utils.course.notebooks.dependencies import Piece, needed, pieces
from hw3utils.course.notebooks.execute import environment, read_notebook

PASSED, FAILED, SLOW, LOST = "passed", "failed", "timed out", "lost"


@cache
def trusted(notebook: Path, check: str) -> tuple[list[str], list[str], list[str]]:
    """What a check stands on, from the notebook as it was handed out.

    Returns:
        The statements that the judge runs himself, the check last; the names that the student gives; those that
        both have and that the student's functions use by themselves.
    """
    read = read_notebook(notebook)
    found = pieces(read)
    marks = [read.cells[piece.cell].metadata.get("nbgrader", {}) for piece in found]
    own = [bool(mark.get("solution")) for mark in marks]
    # What a solution stands on is the student's affair.
    found = [Piece(p.cell, p.source, p.binds) if student else p for p, student in zip(found, own, strict=True)]
    [goal] = [n for n, piece in enumerate(found) if grade_id(read.cells[piece.cell]) == check]
    chosen = sorted(needed(found, goal))
    students = frozenset().union(*(found[n].binds for n in chosen if own[n]))
    used = frozenset().union(*(found[n].uses for n in chosen if not own[n]))
    bound = frozenset().union(*(found[n].binds for n in chosen if not own[n]))
    sources = [found[n].source for n in chosen if not own[n]]
    # A stub need not say which names it will give: what nobody gives is the student's as well.
    nobody = used - bound - students - set(dir(builtins))
    return sources, sorted(students & used | nobody), sorted(found[goal].uses & bound)


def judge(line: JudgeEnd, notebook: Path, check: str) -> str:
    """Run a check with the student's names; the PASS lines that it printed.

    Raises:
        AssertionError: the check does not hold.
        OtherSide: the student's function raised.
    """
    sources, names, shared = trusted(notebook, check)
    namespace: dict[str, Any] = {"__name__": "hw3utils_judge"} | line.look(names)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for source in sources[:-1]:
            exec(compile(source, "<setup>", "exec"), namespace)
        networks = {name: namespace[name] for name in shared if isinstance(namespace.get(name), nn.Module)}
        if networks:
            line.bind(networks)
        printed.seek(0)
        printed.truncate()
        exec(compile(sources[-1], "<check>", "exec"), namespace)
    line.end()
    return printed.getvalue().strip()


def verdict(order: dict[str, Any], door: Door) -> dict[str, str]:
    """Wait for a student's process and judge one check; the state, and what the student is told."""
    seconds = float(order["seconds"])
    try:
        # The grader knocks himself where the student's process does not.
        with door.accept(seconds + 3600) as connection:
            line = JudgeEnd(connection, seconds)
            with environment(**{STUDENT_VARIABLE: order["student_number"] or None}):
                return {"state": PASSED, "message": judge(line, Path(order["notebook"]), order["check"])}
    except AssertionError as error:
        return {"state": FAILED, "message": _last_line(error)}
    except OtherSide as error:
        return {"state": FAILED, "message": f"{error.name}: {error}" if str(error) else error.name}
    except TimeoutError:
        return {"state": SLOW, "message": f"the check took longer than {seconds:g} s"}
    except LostLine as error:
        return {"state": LOST, "message": f"the notebook's process was lost during the check ({error})"}
    except Exception as error:  # what a student's value makes of a check is a wrong answer, whatever it is
        return {"state": FAILED, "message": f"{type(error).__name__}: {str(error)[:500]}"}


def _last_line(error: AssertionError) -> str:
    text = str(error).strip()
    return text or "a condition of the check does not hold"


def prepare(notebooks: Sequence[Path]) -> None:
    """Read every check, and import all that they stand on, before there is any student's code."""
    for path in notebooks:
        for name, cell in graded_cells(read_notebook(path)).items():
            if cell.cell_type == "code":
                sources, _, _ = trusted(path, name)
                with contextlib.redirect_stdout(io.StringIO()), environment(**{STUDENT_VARIABLE: "1"}):
                    namespace: dict[str, Any] = {"__name__": "hw3utils_judge"}
                    for source in sources[:-1]:
                        exec(compile(source, "<setup>", "exec"), namespace)


def main() -> None:
    """Read orders from the standard input until it ends; the first has the notebooks and the seed of the checks."""
    orders, verdicts = sys.stdin, os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What a library prints is no verdict.
    os.dup2(2, 1)
    first = json.loads(orders.readline())
    os.environ[SEED_VARIABLE] = str(first["seed"])
    prepare([Path(path) for path in first["notebooks"]])
    print(json.dumps({"ready": True}), file=verdicts, flush=True)
    with tempfile.TemporaryDirectory(prefix="hw3-judge-") as folder:
        for text in orders:
            order = json.loads(text)
            door = Door(Path(order["folder"] or folder))
            print(json.dumps({"address": door.address, "key": door.key}), file=verdicts, flush=True)
            try:
                print(json.dumps(verdict(order, door)), file=verdicts, flush=True)
            finally:
                door.close()


if __name__ == "__main__":
    main()
