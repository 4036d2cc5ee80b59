"""The processes of a grading: the judge, the students' kernels, and everything that these start."""

import contextlib
import json
import math
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from pathlib import Path
from typing import IO, Any

import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output

from hw3utils.course.assignment import SEED_VARIABLE, STUDENT_VARIABLE, CellState
from hw3utils.course.grading.judge.connection import connect
from hw3utils.course.grading.sandbox import LARGEST_FILE, MEMORY, PROCESSES
from hw3utils.course.notebooks.execute import plain
from hw3utils.course.profiles import PROFILE_VARIABLE
from hw3utils.progress import QUIET_VARIABLE

# Printed characters of one cell that are kept, and half of the limit for all its outputs.
MAX_CELL_OUTPUT = 5_000_000
_OUTPUT_CUT = "\n(left out: the rest of this cell's output, which is too long)\n"
# Set in the environment of a kernel and inherited by what it starts: everything with it is killed in the end.
TOKEN_VARIABLE = "HW3_SESSION"
# Runs first in a kernel. Magics, `quit()`, a closed stdout and replaced builtins cost only the cell that uses them;
# prints beyond the limit stay in the process; orphans become children of the kernel, so that they are found in the end.
_KERNEL_SETUP = """
def _hw3_setup():
    import builtins, ctypes, sys

    import hw3utils.course.grading.judge.{module}
    shell, left, own = get_ipython(), [0], dict(vars(builtins))
    streams = sys.stdout, sys.stderr

    def leave(*args, **options):
        raise SystemExit

    def not_run(line="", cell=None):
        print("(not run in grading: " + " ".join(str(line).split())[:200] + ")")

    def restore(info=None):
        sys.stdout, sys.stderr = streams
        vars(builtins).update(own)
        shell.user_ns.update(quit=leave, exit=leave)

    def before_cell(info=None):
        left[0] = {output}
        restore()

    def shortened(message):
        text, room = message["content"]["text"], left[0]
        left[0] -= len(text)
        if room < 0:
            return None
        if len(text) > room:
            message["content"]["text"] = text[:room] + {note!r}
        return message

    shell.events.register("pre_run_cell", before_cell)
    shell.events.register("post_run_cell", restore)
    shell.ask_exit = leave
    shell.system = shell.system_raw = shell.system_piped = not_run
    shell.getoutput = lambda line, *args, **options: not_run(line) or []
    for name in ("reset", "cd", "pip", "conda", "mamba", "micromamba", "uv", "sx", "sc", "system"):
        shell.register_magic_function(not_run, magic_name=name)
    for name in ("bash", "sh", "script", "cmd", "sx", "system", "perl", "ruby"):
        shell.register_magic_function(not_run, magic_kind="cell", magic_name=name)
    for stream in streams:
        stream.close = lambda: None
        # A hook works in the thread that registers it, and another one sends.
        stream.pub_thread.schedule(lambda stream=stream: stream.register_hook(shortened))
    if sys.platform.startswith("linux"):
        import resource
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        resource.setrlimit(resource.RLIMIT_DATA, ({memory}, {memory}))
        resource.setrlimit(resource.RLIMIT_FSIZE, ({file}, {file}))
        if {processes}:
            resource.setrlimit(resource.RLIMIT_NPROC, ({processes}, {processes}))
_hw3_setup()
del _hw3_setup
"""


def uses_torch(sources: Iterable[str]) -> bool:
    """Whether source code names torch, or this package, which imports it."""
    return any("torch" in source or "hw3utils" in source for source in sources)


class CancelToken:
    """Kills all students' kernels of a grading, and lets none start."""

    def __init__(self) -> None:
        self.cancelled = False
        self.kernels: set[Kernel] = set()

    def cancel(self) -> None:
        """Kill them."""
        self.cancelled = True
        for kernel in list(self.kernels):
            kernel.kill()


@dataclass
class KernelConfig:
    """How a student's kernel runs.

    Args:
        folder: its working folder.
        environment: its environment variables.
        seconds: limit for a cell.
        sandbox: words before its command.
        cancel: kills it when the grading is interrupted.
        torch: import it before the first cell, so that no cell's limit pays for it.
    """

    folder: Path
    environment: Mapping[str, str]
    seconds: float
    sandbox: Sequence[str] = field(default_factory=tuple)
    cancel: CancelToken = field(default_factory=CancelToken)
    torch: bool = True


class Judge:
    """The judge's process: started before any student's code, it runs one check after the other."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        notebooks: Sequence[Path],
        seed: int,
        package_changed: Callable[[], object] = lambda: None,
    ) -> None:
        self.folder, self.environment, self.package_changed = folder, environment, package_changed
        # By a pipe: the seed is not in the list of processes.
        self.first_order = {"notebooks": [str(path) for path in notebooks], "seed": seed}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process if it is not running. A submission of another grading may kill it meanwhile: try again."""
        for attempt in range(3):
            if self.process is not None and self.process.poll() is None:
                return
            self.stop()
            if self.package_changed():
                raise ValueError("the files of the package were changed")
            try:
                self._start_once()
            except (ValueError, OSError):
                self.stop()
                if attempt == 2:
                    raise

    def _start_once(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hw3utils.course.grading.judge.main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            env=dict(self.environment),
        )
        self._write(self.first_order)
        self._read(300)

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            # Leaving it closes the pipes, and waits. What was not written is lost.
            with contextlib.suppress(OSError), self.process:
                self.process.kill()
            self.process = None

    def decide(self, order: dict[str, Any], serve: Callable[[str, str], None]) -> tuple[CellState, str]:
        """Run one check; its state, and the message for the student.

        Args:
            order: the released notebook, the check, the student number, the seconds.
            serve: has the student's process answer at an address, with a key.

        Raises:
            whatever `serve` raises.
        """
        try:
            self.start()
            self._write(order)
            listener = self._read(60)
            try:
                serve(listener["address"], listener["key"])
            finally:
                # If the student's process did not connect, the judge must not wait for it.
                threading.Thread(target=_wake, args=(listener["address"], listener["key"]), daemon=True).start()
            result = self._read(order["seconds"] + 30)
            return CellState(result["state"]), str(result["message"])
        except (OSError, ValueError, TypeError, KeyError):
            self.stop()
            return CellState.LOST, "the judge was lost during the check"
        except BaseException:
            self.stop()
            raise

    def _running(self) -> tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]:
        """The process, its input and its output."""
        process = self.process
        if process is None or process.stdin is None or process.stdout is None:
            raise ValueError("the judge is not running")
        return process, process.stdin, process.stdout

    def _write(self, order: Mapping[str, Any]) -> None:
        _, stdin, _ = self._running()
        stdin.write(json.dumps(order).encode() + b"\n")
        stdin.flush()

    def _read(self, seconds: float) -> dict[str, Any]:
        process, _, stdout = self._running()
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            return json.loads(stdout.readline())
        finally:
            timer.cancel()


def _wake(address: str, key: str) -> None:
    with contextlib.suppress(OSError, EOFError, AuthenticationError):
        connect(address, key).close()


class KernelCrashed(Exception):
    """The student's kernel hangs or has ended; `name` and `text` are those of the error to show."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name, self.text = name, text

    @property
    def state(self) -> CellState:
        """The state of a check that it stopped."""
        return CellState.TIMED_OUT if self.name == "CellTimeoutError" else CellState.LOST


class _Client(NotebookClient):
    """nbclient's, which keeps the first outputs of a cell and its error, and joins prints to one stream."""

    size: float = 0

    def output(self, outs: list[NotebookNode], msg: dict[str, Any], *where: Any) -> NotebookNode | None:
        """Keep an output, unless there is too much before it."""
        if not outs or self.clear_before_next_output:
            self.size = 0
        kind, content, before = msg["msg_type"], msg["content"], self.size
        if before > 2 * MAX_CELL_OUTPUT and kind != "error":
            if before != math.inf:
                outs.append(new_output("stream", name="stderr", text=_OUTPUT_CUT))
            self.size = math.inf
            return None
        self.size += len(json.dumps(content, default=str))
        last = outs[-1] if outs and not self.clear_before_next_output else {}
        if kind == last.get("output_type") == "stream" and content["name"] == last["name"]:
            last["text"] += content["text"]
            return None
        return super().output(outs, msg, *where)


class Kernel:
    """A student's process, which runs cells one by one."""

    def __init__(self, config: KernelConfig) -> None:
        self.config = config
        if config.cancel.cancelled:
            raise KeyboardInterrupt
        self.client = _Client(
            new_notebook(cells=[new_code_cell()]),
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=50"],
            store_widget_state=False,
            timeout=None,
            allow_errors=True,
            interrupt_on_timeout=False,
            iopub_timeout=10,
        )
        self.client.km = self.client.create_kernel_manager()
        self.client.km.connection_file = str(config.folder / ".kernel.json")
        self.token = secrets.token_hex(16)
        if config.sandbox:
            self.client.km.transport = "ipc"
            spec = self.client.km.kernel_spec
            assert spec is not None
            # Jupyter replaces the word "python" by its own Python only where it comes first.
            spec.argv = [*config.sandbox, sys.executable, *spec.argv[1:]]
        environment = dict(config.environment) | {TOKEN_VARIABLE: self.token}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.client.start_new_kernel(cwd=str(config.folder), env=environment, **quiet)
        config.cancel.kernels.add(self)
        try:
            self.client.start_new_kernel_client()
            limits = {"memory": MEMORY, "file": LARGEST_FILE, "processes": PROCESSES if config.sandbox else 0}
            module = "proxies" if config.torch else "student_side"
            self.run(_KERNEL_SETUP.format(module=module, output=MAX_CELL_OUTPUT, note=_OUTPUT_CUT, **limits), 300)
        except BaseException:
            self.stop()
            raise

    def run(self, source: str, seconds: float) -> list[NotebookNode]:
        """Run a cell; its outputs.

        Raises:
            KernelCrashed: the cell took longer than allowed, or ended the process.
        """
        cell = new_code_cell(source)
        self.client.timeout = int(max(seconds, 1))
        if self.config.cancel.cancelled:
            raise KeyboardInterrupt
        try:
            self.client.execute_cell(cell, 0)
        except CellTimeoutError:
            raise KernelCrashed("CellTimeoutError", f"the cell took longer than {seconds:g} s") from None
        except (DeadKernelError, RuntimeError) as error:
            reason = f"the cell ended its process ({plain(str(error))[:100]})"
            raise KernelCrashed("DeadKernelError", reason) from None
        return cell.outputs

    def _process(self) -> psutil.Process | None:
        pid = getattr(getattr(self.client.km, "provisioner", None), "pid", None)
        with contextlib.suppress(psutil.Error):
            # Without a number psutil would give the process that runs this.
            return None if pid is None else psutil.Process(pid)
        return None

    def kill(self) -> None:
        """Kill the process; a thread that waits for it sees that it is gone."""
        if process := self._process():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def stop(self) -> None:
        """End the process and everything that it has started."""
        self.config.cancel.kernels.discard(self)
        descendants = []
        if process := self._process():
            with contextlib.suppress(psutil.Error):
                process.suspend()  # it starts no more
                descendants = process.children(recursive=True)
        self.kill()
        self.client.shutdown_kernel = "immediate"
        with contextlib.suppress(Exception):  # a process that is gone cannot be stopped
            self.client._cleanup_kernel()
        # What is killed may start another process meanwhile: again until there is none.
        for _ in range(20):
            for process in descendants:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            descendants = self._leftovers()
            if not descendants:
                break

    def _leftovers(self) -> list[psutil.Process]:
        """Processes with this kernel's token, or in its folder: also those that detached from it."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                marked = process.environ().get(TOKEN_VARIABLE) == self.token
                inside = Path(process.cwd() or os.sep).is_relative_to(self.config.folder.resolve())
                if (marked or inside) and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                    found.append(process)
        return found


def student_environment(profile: str, threads: int, package: Path | None) -> dict[str, str]:
    """The environment of a student's process: without the checks' seed, with its own copy of the package first.

    pip changes nothing in it, whatever way it is called.
    """
    own = {name: value for name, value in os.environ.items() if name not in (SEED_VARIABLE, STUDENT_VARIABLE)}
    path = os.pathsep.join(filter(None, [str(package or ""), own.get("PYTHONPATH", "")]))
    quiet = {QUIET_VARIABLE: "1", "MPLBACKEND": "agg", "PYTHONDONTWRITEBYTECODE": "1"}
    no_install = {"PIP_DRY_RUN": "1", "PIP_NO_INDEX": "1", "PIP_NO_INPUT": "1", "UV_OFFLINE": "1"}
    given = {PROFILE_VARIABLE: profile, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    return own | quiet | no_install | given
