"""The processes of a grading: the judge's, a student's, and what holds them."""

import contextlib
import json
import math
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output

from hw3utils.course.assignment import STUDENT_VARIABLE
from hw3utils.course.checks.building_blocks import SEED_VARIABLE
from hw3utils.course.grading.judge.connection import knock
from hw3utils.course.profiles import PROFILE_VARIABLE
from hw3utils.course.notebooks.execute import plain
from hw3utils.course.grading.sandbox import LARGEST_FILE, MEMORY, PROCESSES
from hw3utils.progress import QUIET_VARIABLE

PASSED, FAILED, SLOW, LOST, NOT_RUN = "passed", "failed", "timed out", "lost", "not run"
# Characters of one cell's print that are taken, and half of what is taken of all its output: a cell that prints without
# end fills no memory of the grader's.
MOST_OUTPUT = 5_000_000
_NOTE = "\n(left out: the rest of this cell's output, which is too long)\n"
# In the environment of a student's process and of all that it starts, so that they end with it.
_TOKEN = "HW3_SESSION"
# A student's `%reset` would take the homework's names with it, and his own; a cell costs no more than itself. What it
# prints beyond a limit stays in its process: gigabytes would wait for the grader to read them.
_BEFORE = """
def _hw3_before():
    import sys

    import hw3utils.course.grading.judge.student_side
    shell, left = get_ipython(), [0]
    shell.register_magic_function(lambda line="": None, magic_name="reset")
    shell.events.register("pre_run_cell", lambda info: left.__setitem__(0, {output}))

    def shortened(message):
        text, room = message["content"]["text"], left[0]
        left[0] -= len(text)
        if room < 0:
            return None
        if len(text) > room:
            message["content"]["text"] = text[:room] + {note!r}
        return message

    for stream in (sys.stdout, sys.stderr):
        # A hook holds in the thread that registers it, and another one sends.
        stream.pub_thread.schedule(lambda stream=stream: stream.register_hook(shortened))
    if sys.platform.startswith("linux"):
        import resource
        resource.setrlimit(resource.RLIMIT_DATA, ({memory}, {memory}))
        resource.setrlimit(resource.RLIMIT_FSIZE, ({file}, {file}))
        if {processes}:
            resource.setrlimit(resource.RLIMIT_NPROC, ({processes}, {processes}))
_hw3_before()
del _hw3_before
"""


@dataclass
class Verdict:
    """What came of a check: passed, failed, timed out, lost or not run; and what the student is told."""

    state: str
    message: str = ""


class Brake:
    """Stops all students' processes of a grading, and lets none begin."""

    def __init__(self) -> None:
        self.pulled = False
        self.kernels: set[Kernel] = set()

    def pull(self) -> None:
        """Stop them."""
        self.pulled = True
        for kernel in list(self.kernels):
            kernel.kill()


@dataclass
class Surroundings:
    """Where a student's process runs: its folder, its environment, seconds for a cell, a program that it runs under."""

    folder: Path
    environment: Mapping[str, str]
    seconds: float
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
            command = [sys.executable, "-m", "hw3utils.course.grading.judge.main"]
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


class Down(Exception):
    """The student's process hangs, or is gone."""


class _Client(NotebookClient):
    """nbclient's, which takes the first outputs of a cell and its error, and joins what one stream says in a row."""

    taken = 0

    def output(self, outs: list[NotebookNode], msg: dict[str, Any], *where: Any) -> NotebookNode | None:
        """Take an output, or leave it out where there is too much before it."""
        if not outs or self.clear_before_next_output:
            self.taken = 0
        kind, content, before = msg["msg_type"], msg["content"], self.taken
        if before > 2 * MOST_OUTPUT and kind != "error":
            if before != math.inf:
                outs.append(new_output("stream", name="stderr", text=_NOTE))
            self.taken = math.inf
            return None
        self.taken += len(json.dumps(content, default=str))
        last = outs[-1] if outs and not self.clear_before_next_output else {}
        if kind == last.get("output_type") == "stream" and content["name"] == last["name"]:
            last["text"] += content["text"]
            return None
        return super().output(outs, msg, *where)


class Kernel:
    """A student's process, which runs cells one by one."""

    def __init__(self, around: Surroundings) -> None:
        self.brake = around.brake
        if self.brake.pulled:
            raise KeyboardInterrupt
        options = {"timeout": None, "allow_errors": True, "interrupt_on_timeout": False, "iopub_timeout": 10}
        self.client = _Client(
            new_notebook(cells=[new_code_cell()]),
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=50"],
            store_widget_state=False,
            **options,
        )
        self.client.km = self.client.create_kernel_manager()
        self.client.km.connection_file = str(around.folder / ".kernel.json")
        self.token = secrets.token_hex(16)
        if around.within:
            self.client.km.transport = "ipc"
            # Jupyter puts its own Python for the bare word only where that comes first.
            self.client.km.kernel_spec.argv = [*around.within, sys.executable, *self.client.km.kernel_spec.argv[1:]]
        self.client.start_new_kernel(
            cwd=str(around.folder), env=dict(around.environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.brake.kernels.add(self)
        try:
            self.client.start_new_kernel_client()
            limits = {"memory": MEMORY, "file": LARGEST_FILE, "processes": PROCESSES if around.within else 0}
            self.run(_BEFORE.format(output=MOST_OUTPUT, note=_NOTE, **limits), 300)
        except BaseException:
            self.stop()
            raise

    def run(self, source: str, seconds: float) -> list[NotebookNode]:
        """Run a cell; its outputs.

        Raises:
            Down: the cell took longer than allowed, or ended the process.
        """
        cell = new_code_cell(source)
        self.client.timeout = int(max(seconds, 1))
        if self.brake.pulled:
            raise KeyboardInterrupt
        try:
            self.client.execute_cell(cell, 0)
        except CellTimeoutError:
            raise Down(f"CellTimeoutError: the cell took longer than {seconds:g} s") from None
        except (DeadKernelError, RuntimeError) as error:
            raise Down(f"DeadKernelError: the cell ended its process ({plain(str(error))[:100]})") from None
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


def student_environment(profile: str, threads: int, package: Path | None) -> dict[str, str]:
    """The environment of a student's process: no word of the checks' seed, and the package's own copy first."""
    given = {name: value for name, value in os.environ.items() if name not in (SEED_VARIABLE, STUDENT_VARIABLE)}
    path = os.pathsep.join(filter(None, [str(package or ""), given.get("PYTHONPATH", "")]))
    quiet = {QUIET_VARIABLE: "1", "MPLBACKEND": "agg", "PYTHONDONTWRITEBYTECODE": "1"}
    return given | quiet | {PROFILE_VARIABLE: profile, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
