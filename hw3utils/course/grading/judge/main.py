"""The judge: a process that runs the checks as they were released, with the student's functions over a connection.

It reads one order per line (JSON) and writes one result per line. It starts before any student's code runs.
"""

import builtins
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from hw3utils.course.assignment import SEED_VARIABLE, STUDENT_VARIABLE, CellState
from hw3utils.course.grading.judge.connection import ConnectionLost, Listener, RemoteError
from hw3utils.course.grading.judge.judge_side import JudgeConnection
from hw3utils.course.notebooks.cells import grade_id, graded_cells
from hw3utils.course.notebooks.dependencies import required_statements, statements_of
from hw3utils.course.notebooks.execute import environment, read_notebook


@cache
def trusted_sources(notebook: Path, check: str) -> tuple[list[str], list[str], list[str]]:
    """What a check depends on, from the released notebook.

    Returns:
        The statements that the judge runs itself, the check last; the names that come from the student; the names
        that both sides have and that the student's functions use.
    """
    released = read_notebook(notebook)
    statements = statements_of(released)
    is_solution = [
        bool(released.cells[statement.cell].metadata.get("nbgrader", {}).get("solution")) for statement in statements
    ]
    # Dependencies of a solution are the student's own business.
    statements = [
        replace(statement, uses=frozenset()) if solution else statement
        for statement, solution in zip(statements, is_solution, strict=True)
    ]
    [goal] = [n for n, statement in enumerate(statements) if grade_id(released.cells[statement.cell]) == check]
    chosen = sorted(required_statements(statements, goal))
    own = [statements[n] for n in chosen if not is_solution[n]]
    from_student = frozenset().union(*(statements[n].binds for n in chosen if is_solution[n]))
    used = frozenset().union(*(statement.uses for statement in own))
    bound = frozenset().union(*(statement.binds for statement in own))
    # A stub may not show which names it will define: names without any definition are the student's, too.
    undefined = used - bound - from_student - set(dir(builtins))
    sources = [statement.source for statement in own]
    return sources, sorted(from_student & used | undefined), sorted(statements[goal].uses & bound)


def run_check(connection: JudgeConnection, notebook: Path, check: str) -> str:
    """Run a check with the student's names; the PASS lines that it printed.

    Raises:
        AssertionError: the check failed.
        RemoteError: the student's function raised.
    """
    sources, names, shared = trusted_sources(notebook, check)
    namespace: dict[str, Any] = {"__name__": "hw3utils_judge"} | connection.look_up(names)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for source in sources[:-1]:
            exec(compile(source, "<setup>", "exec"), namespace)
        networks = {name: namespace[name] for name in shared if isinstance(namespace.get(name), nn.Module)}
        if networks:
            connection.bind(networks)
        printed.seek(0)
        printed.truncate()
        exec(compile(sources[-1], "<check>", "exec"), namespace)
    connection.finish()
    return printed.getvalue().strip()


def judge(order: dict[str, Any], listener: Listener) -> tuple[CellState, str]:
    """Wait for a student's process and run one check; its state, and the message for the student."""
    seconds = float(order["seconds"])
    try:
        with listener.accept() as channel, environment(**{STUDENT_VARIABLE: order["student_number"] or None}):
            connection = JudgeConnection(channel, seconds)
            return CellState.PASSED, run_check(connection, Path(order["notebook"]), order["check"])
    except AssertionError as error:
        return CellState.FAILED, str(error).strip() or "a condition of the check does not hold"
    except RemoteError as error:
        return CellState.FAILED, f"{error.name}: {error}" if str(error) else error.name
    except TimeoutError:
        return CellState.TIMED_OUT, f"the check took longer than {seconds:g} s"
    except ConnectionLost as error:
        return CellState.LOST, f"the notebook's process was lost during the check ({error})"
    except Exception as error:  # a student's value may raise anything in a check: a wrong answer
        return CellState.FAILED, f"{type(error).__name__}: {str(error)[:500]}"


def prepare(notebooks: Sequence[Path]) -> None:
    """Read every check and import its dependencies, before there is any student's code."""
    for path in notebooks:
        for name, cell in graded_cells(read_notebook(path)).items():
            if cell.cell_type == "code":
                sources, _, _ = trusted_sources(path, name)
                with contextlib.redirect_stdout(io.StringIO()), environment(**{STUDENT_VARIABLE: "1"}):
                    namespace: dict[str, Any] = {"__name__": "hw3utils_judge"}
                    for source in sources[:-1]:
                        exec(compile(source, "<setup>", "exec"), namespace)


def main() -> None:
    """Read orders from the standard input until it ends; the first has the notebooks and the seed of the checks."""
    orders, results = sys.stdin, os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Prints of libraries are no results.
    os.dup2(2, 1)

    def write(result: dict[str, str | bool]) -> None:
        print(json.dumps(result), file=results, flush=True)

    first = json.loads(orders.readline())
    os.environ[SEED_VARIABLE] = str(first["seed"])
    prepare([Path(path) for path in first["notebooks"]])
    write({"ready": True})
    with tempfile.TemporaryDirectory(prefix="hw3-judge-") as folder:
        for text in orders:
            order = json.loads(text)
            listener = Listener(Path(order["folder"] or folder))
            write({"address": listener.address, "key": listener.key})
            try:
                state, message = judge(order, listener)
                write({"state": state, "message": message})
            finally:
                listener.close()


if __name__ == "__main__":
    main()
