"""A handed-in notebook in its kernel, and each check of it before the judge: no cell costs more than itself."""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output

from hw3utils.course.judging.line import knock
from hw3utils.course.nbgrading import grade_id, item_of
from hw3utils.course.needs import Piece, needed, pieces
from hw3utils.course.runner import plain

# How often a notebook is begun again, without the cells that brought its process down.
ATTEMPTS = 5
# What one notebook may keep of its outputs, in bytes, and one output of it.
MAX_NOTEBOOK, MAX_OUTPUT = 2_500_000, 300_000
PASSED, FAILED, SLOW, LOST, NOT_RUN = "passed", "failed", "timed out", "lost", "not run"
# In the environment of a student's process and of all that it starts, so that they end with it.
_TOKEN = "HW3_SESSION"
# A student's `%reset` would take the homework's names with it, and his own; a cell costs no more than itself.
_BEFORE = """
def _hw3_before():
    import sys

    import hw3utils.course.judging.student_end
    get_ipython().register_magic_function(lambda line="": None, magic_name="reset")
    if {memory} and sys.platform.startswith("linux"):
        import resource
        resource.setrlimit(resource.RLIMIT_DATA, ({memory}, {memory}))
_hw3_before()
del _hw3_before
"""
_SERVE = """
from hw3utils.course.judging.student_end import serve as _hw3_serve
_hw3_serve({address!r}, {key!r}, globals())
"""


@dataclass
class Verdict:
    """What came of a check: passed, failed, timed out, lost or not run; and what the student is told."""

    state: str
    message: str = ""


@dataclass
class Step:
    """A cell that runs: its number, what of it runs, the check that it is, the names that it gives."""

    cell: int
    source: str
    check: str | None = None
    binds: frozenset[str] = frozenset()


class Brake:
    """Stops all students' processes of a grading, and lets none begin."""

    def __init__(self) -> None:
        self.pulled = False
        self.kernels: set[_Kernel] = set()

    def pull(self) -> None:
        """Stop them."""
        self.pulled = True
        for kernel in list(self.kernels):
            kernel.kill()


@dataclass
class Surroundings:
    """Where a student's process runs: its folder, its environment, a program that it runs under, its limits."""

    folder: Path
    environment: Mapping[str, str]
    seconds: float
    memory: int = 0
    within: Sequence[str] = field(default_factory=tuple)
    brake: "Brake" = field(default_factory=lambda: Brake())


class Judge:
    """The judge's process: started before any student's code, asked for one check after the other."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        notebooks: Sequence[Path],
        seed: int,
        changed: Callable[[], object] = lambda: None,
    ) -> None:
        self.folder, self.environment, self.changed = folder, environment, changed
        # Read and imported before any student's code runs; the seed is in no list of processes.
        self.first = {"notebooks": [str(path) for path in notebooks], "seed": seed}
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start the process, if it does not run."""
        if self.process is None or self.process.poll() is not None:
            if self.changed():
                raise ValueError("the package's own files are not what they were")
            self.folder.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "hw3utils.course.judging.judge"]
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self.folder,
                env=dict(self.environment),
            )
            self._say(self.first)
            self._read(300)

    def _say(self, order: Mapping[str, Any]) -> None:
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None

    def decide(self, order: dict[str, Any], serve: Callable[[Any, str], None]) -> Verdict:
        """Judge one check.

        Args:
            order: the notebook as it was handed out, the check, the student's number, the seconds.
            serve: has the student's process answer at an address, with a key.

        Raises:
            what `serve` raises.
        """
        try:
            self.start()
            self._say(order)
            door = self._read(60)
            try:
                serve(door["address"], door["key"])
            finally:
                # Whether or not the student's process came: the judge waits no longer.
                with contextlib.suppress(OSError):
                    knock(door["address"], door["key"]).close()
            return Verdict(**self._read(order["seconds"] + 30))
        except (OSError, ValueError, TypeError):
            self.stop()
            return Verdict(LOST, "the judge was lost during the check")
        except BaseException:
            self.stop()
            raise

    def _read(self, seconds: float) -> dict[str, Any]:
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            return json.loads(self.process.stdout.readline())
        finally:
            timer.cancel()


class _Down(Exception):
    """The student's process hangs, or is gone."""


class _Kernel:
    """A student's process, which runs cells one by one."""

    def __init__(self, around: Surroundings) -> None:
        self.brake = around.brake
        if self.brake.pulled:
            raise KeyboardInterrupt
        options = {"timeout": None, "allow_errors": True, "interrupt_on_timeout": False, "iopub_timeout": 10}
        self.client = NotebookClient(
            new_notebook(cells=[new_code_cell()]),
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=50"],
            **options,
        )
        self.client.km = self.client.create_kernel_manager()
        self.client.km.connection_file = str(around.folder / ".kernel.json")
        self.token = secrets.token_hex(16)
        if around.within:
            self.client.km.transport = "ipc"
            self.client.km.kernel_spec.argv = [*around.within, *self.client.km.kernel_spec.argv]
        self.client.start_new_kernel(
            cwd=str(around.folder), env=dict(around.environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.brake.kernels.add(self)
        self.client.start_new_kernel_client()
        self.run(_BEFORE.format(memory=around.memory), 300)

    def run(self, source: str, seconds: float) -> list[NotebookNode]:
        """Run a cell; its outputs.

        Raises:
            _Down: the cell took longer than allowed, or ended the process.
        """
        cell = new_code_cell(source)
        self.client.timeout = int(max(seconds, 1))
        if self.brake.pulled:
            raise KeyboardInterrupt
        try:
            self.client.execute_cell(cell, 0)
        except CellTimeoutError:
            raise _Down(f"CellTimeoutError: the cell took longer than {seconds:g} s") from None
        except (DeadKernelError, RuntimeError) as error:
            raise _Down(f"DeadKernelError: the cell ended its process ({plain(str(error))[:100]})") from None
        return cell.outputs

    def kill(self) -> None:
        """Kill the process; whoever waits for it sees that it is gone."""
        with contextlib.suppress(psutil.Error, AttributeError, TypeError):
            psutil.Process(self.client.km.provisioner.pid).kill()

    def stop(self) -> None:
        """End the process and all that it has started."""
        self.brake.kernels.discard(self)
        self.kill()
        self.client.shutdown_kernel = "immediate"
        with contextlib.suppress(Exception):  # a process that is gone cannot be stopped
            self.client._cleanup_kernel()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(_TOKEN) == self.token:
                    process.kill()


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
        kernel = _Kernel(around)
        try:
            for n, step in _standing(steps, left_out):
                try:
                    _step(kernel, step, notebook, around, judge, verdicts)
                except _Down as error:
                    left_out.add(n)
                    _note_down(step, notebook, verdicts, str(error))
                    break
                finally:
                    if n >= ticked:
                        tick()
                        ticked = n + 1
            else:
                with contextlib.suppress(_Down):
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


def _step(kernel: _Kernel, step: Step, notebook: NotebookNode, around: Surroundings, judge: Any, verdicts: Any) -> None:
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
    kernel: _Kernel, steps: Sequence[Step], left_out: set[int], notebook: NotebookNode, around: Surroundings,
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
        _step(kernel, step, notebook, around, judge, verdicts)
        if verdicts[step.check].state != PASSED:
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
    for cell in notebook.cells:
        cell.source = _cut(cell.source)
        if cell.cell_type != "code":
            size = len(json.dumps(cell.get("attachments", {})))
            if size > room:
                cell.pop("attachments")
                cell.source += "\n\n(a picture was left out of this page: it is too large)"
            room -= len(cell.source) + (size if size <= room else 0)
            continue
        kept = []
        for output in cell.outputs:
            small = _small(output)
            size = len(json.dumps(small))
            if size > room:
                small = new_output(
                    "stream", name="stdout", text="(left out: the outputs of this notebook are too large)\n"
                )
                size = 100
            room -= size
            kept.append(small)
            if room < 0:
                break
        cell.outputs = kept[:200]


def _small(output: NotebookNode) -> NotebookNode:
    if output.output_type == "stream":
        output.text = _cut(output.text)
    elif output.output_type == "error":
        output.evalue = _cut(output.evalue, 2_000)
        output.traceback = [_cut(line, 5_000) for line in output.traceback[-30:]]
    else:
        for name, value in list(output.data.items()):
            size = len(value) if isinstance(value, str) else len(json.dumps(value))
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


def student_environment(profile: str, threads: int, package: Path | None) -> dict[str, str]:
    """The environment of a student's process: no word of the checks' seed, and the package's own copy first."""
    from hw3utils.course.assignment import STUDENT_VARIABLE
    from hw3utils.course.checks.building_blocks import SEED_VARIABLE
    from hw3utils.course.profiles import PROFILE_VARIABLE
    from hw3utils.progress import QUIET_VARIABLE

    given = {name: value for name, value in os.environ.items() if name not in (SEED_VARIABLE, STUDENT_VARIABLE)}
    path = os.pathsep.join(filter(None, [str(package or ""), given.get("PYTHONPATH", "")]))
    quiet = {QUIET_VARIABLE: "1", "MPLBACKEND": "agg", "PYTHONDONTWRITEBYTECODE": "1"}
    return given | quiet | {PROFILE_VARIABLE: profile, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
