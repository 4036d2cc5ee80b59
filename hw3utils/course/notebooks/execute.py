"""Execute the notebooks in fresh kernels, in number order, with a table of the graded items at the end."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from hw3utils.course.assignment import ITEMS, MIMETYPE, SECTIONS
from hw3utils.course.notebooks.html import Page
from hw3utils.course.notebooks.sanitize import printable
from hw3utils.course.profiles import PROFILE_VARIABLE, PROFILES
from hw3utils.files import check_writable, write_atomically
from hw3utils.progress import QUIET_VARIABLE

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOKS = ROOT / "notebooks"
FIGURES_VARIABLE = "HW3_FIGURES"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Outcome:
    """The result of one notebook: cells done, of how many, seconds, the failure if any, and the items it checked."""

    notebook: str
    done: int = 0
    cells: int = 0
    seconds: float = 0.0
    failed_cell: int | None = None
    error: str | None = None
    items: dict[str, dict[str, Any]] = field(default_factory=dict)


def find_notebooks(names: Sequence[str] = ()) -> list[Path]:
    """Notebooks in number order; a name may be a path, a file name, or the number ("2" or "02").

    Raises:
        ValueError: when there is no notebook of that name.
    """
    known = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not names:
        if not known:
            raise ValueError(f"there are no notebooks in {NOTEBOOKS}; install the package from a clone with -e.")
        return known
    found = []
    for name in names:
        fits = [
            p
            for p in known
            if name in (p.name, p.stem) or (name.isdecimal() and p.name.startswith(f"{int(name):02d}_"))
        ]
        if not fits and Path(name).suffix == ".ipynb" and Path(name).is_file():
            fits = [Path(name).resolve()]
        if not fits:
            raise ValueError(
                f"there is no notebook {name!r}, expected a path or one of {', '.join(p.stem for p in known)}."
            )
        found += fits
    return sorted(dict.fromkeys(found), key=lambda path: path.name)


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook.

    Raises:
        ValueError: when the file is not a notebook.
    """
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a notebook ({error}); it may be cut off.") from None


def plain(text: str) -> str:
    """A kernel's message as one line, without colours and control characters."""
    return printable(_COLOURS.sub("", text))


@contextlib.contextmanager
def environment(**changes: str | None) -> Iterator[None]:
    """Set environment variables in a `with` block; None removes one."""
    before = {name: os.environ.get(name) for name in changes}

    def assign(values: dict[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    assign(changes)
    try:
        yield
    finally:
        assign(before)


def on_interrupt(stop: Callable[[], object]) -> None:
    """On Ctrl-C call `stop` and cancel the running task; nbclient's own handler reports a dead kernel instead."""
    task = asyncio.current_task()

    def handler() -> None:
        stop()
        task.cancel()

    with contextlib.suppress(RuntimeError):  # not the main thread, or Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, handler)


def execute(path: Path, outcome: Outcome, *, figures: Path, profile: str, tick: bool = True) -> NotebookNode:
    """Run every cell of a notebook in a fresh kernel until one fails; the executed copy, with `outcome` filled in."""
    notebook = read_notebook(path)
    code = [n for n, cell in enumerate(notebook.cells) if cell.cell_type == "code" and cell.source.strip()]
    outcome.cells = len(code)
    start = time.monotonic()

    def done(cell: NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
        if execute_reply["content"]["status"] == "ok":
            outcome.done += 1
        if tick and sys.stdout.isatty():
            print(f"\r{path.stem}: {outcome.done} of {outcome.cells} cells ...", end="", flush=True)

    with environment(**{PROFILE_VARIABLE: profile, QUIET_VARIABLE: "1", FIGURES_VARIABLE: str(figures)}):
        error = run_cells(notebook, path.parent, done)
    if error is not None:
        outcome.error = plain(error)
        outcome.failed_cell = code[min(outcome.done, len(code) - 1)] + 1
    outcome.seconds = time.monotonic() - start
    for cell in notebook.cells:
        # Times would change with every run.
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            outcome.items |= output.get("data", {}).get(MIMETYPE, {})
    return notebook


def run_cells(notebook: NotebookNode, folder: Path, done: Callable[..., object], **options: Any) -> str | None:
    """Execute a notebook in place, in a fresh kernel.

    Args:
        notebook: the notebook.
        folder: where its kernel runs.
        done: called by nbclient after each cell, with its `execute_reply`.
        options: further ones of nbclient, for example a timeout.

    Returns:
        The error that ended it, None for none.

    Raises:
        KeyboardInterrupt: on Ctrl-C; the kernel is ended.
    """
    interrupted = []

    def stop() -> None:
        interrupted.append(True)
        client.shutdown_kernel = "immediate"

    client = NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        on_notebook_start=lambda notebook: on_interrupt(stop),
        on_cell_executed=done,
        # The kernel's own log is not for users.
        extra_arguments=["--IPKernelApp.log_level=50"],
        **{"timeout": None} | options,
    )
    failure = None
    try:
        client.execute()
    except CellExecutionError as error:
        failure = f"{error.ename}: {error.evalue}"
    except (CellTimeoutError, DeadKernelError) as error:
        failure = str(error).splitlines()[0]
    except BaseException:
        if not interrupted:
            raise
    if interrupted:
        raise KeyboardInterrupt
    return failure


def run_notebooks(
    names: Sequence[str] = (), *, profile: str = "quick", out: str | Path = "out", update: bool = False
) -> list[Outcome]:
    """Execute notebooks and keep the executed copies, their HTML and their figures.

    Args:
        names: which notebooks (see `find_notebooks`); none is all.
        profile: "quick" or "full".
        out: folder for NAME.ipynb, NAME.html and figures/.
        update: also replace the committed notebooks and figures/ of those that ran to their end.

    Returns:
        An outcome for each notebook, in the order they ran. A notebook that fails does not stop those after it.

    Raises:
        ValueError: on an unknown notebook or profile, or a file that is not a notebook.
        OSError: when `out` cannot be written.
        KeyboardInterrupt: on Ctrl-C; the kernel is ended, the notebooks before are kept.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}, expected one of {', '.join(PROFILES)}.")
    paths = find_notebooks(names)
    out = check_writable(out)
    outcomes = []
    print(f"running {len(paths)} notebooks, profile {profile}", flush=True)
    for path in paths:
        outcome = Outcome(path.stem)
        with tempfile.TemporaryDirectory() as folder:
            figures = Path(folder)
            notebook = execute(path, outcome, figures=figures, profile=profile)
            made = sorted(figures.iterdir())
            good = outcome.error is None
            for target in [out / "figures", *([ROOT / "figures"] if update and good else [])]:
                target.mkdir(parents=True, exist_ok=True)
                for figure in made:
                    shutil.copy(figure, target / figure.name)
        text = nbformat.writes(notebook) + "\n"
        for target in [out / path.name, *([path] if update and good else [])]:
            write_atomically(target, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))
        html, _ = Page().from_notebook_node(notebook, {"metadata": {"name": path.stem, "path": str(path.parent)}})
        write_atomically(
            out / f"{path.stem}.html", lambda temporary, html=html: temporary.write_text(html, encoding="utf-8")
        )
        clear = "\r" if sys.stdout.isatty() else ""
        line = f"{clear}{path.stem}: {outcome.done} of {outcome.cells} cells, {outcome.seconds:.1f} s"
        if not good:
            line += f", failed in cell {outcome.failed_cell}: {outcome.error}"
        print(line, flush=True)
        outcomes.append(outcome)
    _summary(outcomes, out)
    return outcomes


def _summary(outcomes: list[Outcome], out: Path) -> None:
    """Print the items of the notebooks, their points and state."""
    ran = {outcome.notebook[:2]: outcome for outcome in outcomes}
    points = 0
    print("\nitem   points  state")
    for name, item in (ITEMS | SECTIONS).items():
        homes = [ran[home] for home in item.homes if home in ran]
        if not homes:
            continue
        passed = all(home.items.get(name, {}).get("state") == "PASS" for home in homes)
        checks = sum(home.items.get(name, {}).get("checks", 0) for home in homes)
        points += item.points if passed else 0
        state = f"PASS ({checks} checks)" if passed else "NOT SHOWN"
        print(f"{name:7}{item.points:6}  {state:18} {item.title}")
    print(f"total  {points:6}  of {sum(item.points for item in ITEMS.values())}")
    print(f"executed copies, HTML and figures are in {out}")
