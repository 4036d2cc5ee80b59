"""Execute the notebooks in fresh kernels, in number order, with a table of the graded items at the end."""

import asyncio
import contextlib
import html
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from hw3utils.course.assignment import ITEMS, MIMETYPE, SECTIONS
from hw3utils.course.notebooks.html import Page
from hw3utils.course.profiles import PROFILE_VARIABLE, PROFILES
from hw3utils.files import check_writable, write_atomically
from hw3utils.progress import QUIET_VARIABLE, printable

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOKS = ROOT / "notebooks"
FIGURES_VARIABLE = "HW3_FIGURES"
# A cell with this tag may raise, and Run All goes on.
CONTINUE_TAG = "raises-exception"
# States of an item in the table of a notebook that leave nothing to do.
DONE_STATES = ("passed", "answered")
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
            raise ValueError(
                f"this needs the solved notebooks, and there are none in {NOTEBOOKS}; install the package from a clone "
                "with -e."
            )
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
        if task is not None:
            task.cancel()

    with contextlib.suppress(RuntimeError):  # not the main thread, or Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, handler)


def execute(path: Path, outcome: Outcome, *, figures: Path, profile: str, tick: bool = True) -> NotebookNode:
    """Run every cell of a notebook in a fresh kernel until one fails; the executed copy, with `outcome` filled in."""
    notebook = read_notebook(path)
    for cell in notebook.cells:
        # In the student edition a failing check does not stop Run All; here it does.
        tags = cell.metadata.get("tags", [])
        if CONTINUE_TAG in tags:
            cell.metadata["tags"] = [tag for tag in tags if tag != CONTINUE_TAG]
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
    names: Sequence[str] = (),
    *,
    profile: str = "quick",
    out: str | Path = "out",
    update: bool = False,
    jobs: int | None = None,
) -> list[Outcome]:
    """Execute notebooks and keep the executed copies, their pages with an index, and their figures.

    Args:
        names: which notebooks (see `find_notebooks`); none is all.
        profile: "quick" or "full".
        out: folder for NAME.ipynb, NAME.html, index.html and figures/.
        update: also replace the committed notebooks and figures/ of those that ran to their end.
        jobs: notebooks that run at the same time, each with its share of the cores; None is two where there are at
            least two cores and two notebooks.

    Returns:
        An outcome for each notebook, in number order. A notebook that fails does not stop those after it.

    Raises:
        ValueError: on an unknown notebook or profile, a file that is not a notebook, two notebooks of one name, or an
            `out` in which a copy would replace the notebook itself.
        OSError: when `out` cannot be written.
        KeyboardInterrupt: on Ctrl-C; the kernels are ended, the notebooks before are kept.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}, expected one of {', '.join(PROFILES)}.")
    paths = find_notebooks(names)
    _check_targets(paths, Path(out), update)
    for path in paths:
        read_notebook(path)
    out = check_writable(out)
    cores = os.cpu_count() or 1
    jobs = min(2, cores, len(paths)) if jobs is None else max(1, min(jobs, len(paths)))
    print(f"running {len(paths)} notebooks, profile {profile}, {jobs} at a time", flush=True)
    outcomes: list[Outcome] = []
    committed = ROOT / "figures" if update else None
    if jobs == 1:
        for path in paths:
            outcomes.append(_run_one(path, profile, out, committed, tick=True))
            _print_outcome(outcomes[-1])
    else:
        threads = str(max(1, cores // jobs))
        given = os.environ.get("OMP_NUM_THREADS")
        with (
            environment(OMP_NUM_THREADS=given or threads),
            ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool,
        ):
            try:
                for work in as_completed([pool.submit(_run_one, path, profile, out, committed) for path in paths]):
                    outcomes.append(work.result())
                    _print_outcome(outcomes[-1])
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                for pid in [worker.pid for worker in multiprocessing.active_children() if worker.pid]:
                    os.kill(pid, signal.SIGINT)
                raise
        outcomes.sort(key=lambda outcome: outcome.notebook)
    _write_index(outcomes, out)
    _summary(outcomes, out)
    return outcomes


def _check_targets(paths: Sequence[Path], out: Path, update: bool) -> None:
    """Raise ValueError when two copies would have one name, or a copy would replace the notebook that is read."""
    seen: dict[str, Path] = {}
    for path in paths:
        if path.name in seen:
            raise ValueError(f"{seen[path.name]} and {path} have the same name; run them with different --out.")
        seen[path.name] = path
        if not update and (out / path.name).exists() and (out / path.name).samefile(path):
            raise ValueError(f"{out / path.name} is the notebook itself; choose another --out, or add --update.")


def _run_one(path: Path, profile: str, out: Path, committed: Path | None, tick: bool = False) -> Outcome:
    """Execute one notebook and write its copy, page and figures; with the folder of committed figures, update both."""
    outcome = Outcome(path.stem)
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder)
        notebook = execute(path, outcome, figures=figures, profile=profile, tick=tick)
        good = outcome.error is None
        for target in [out / "figures", *([committed] if committed and good else [])]:
            target.mkdir(parents=True, exist_ok=True)
            for figure in sorted(figures.iterdir()):
                shutil.copy(figure, target / figure.name)
    text = nbformat.writes(notebook) + "\n"
    for target in [out / path.name, *([path] if committed and good else [])]:
        write_atomically(target, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    page, _ = Page().from_notebook_node(notebook, {"metadata": {"name": path.stem, "path": str(path.parent)}})
    write_atomically(out / f"{path.stem}.html", lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return outcome


def _print_outcome(outcome: Outcome) -> None:
    """One line for a notebook that has run."""
    line = f"{outcome.notebook}: {outcome.done} of {outcome.cells} cells, {outcome.seconds:.1f} s"
    if outcome.error is not None:
        line += f", failed in cell {outcome.failed_cell}: {outcome.error}"
    print(("\r" if sys.stdout.isatty() else "") + line, flush=True)


def _write_index(outcomes: Sequence[Outcome], out: Path) -> None:
    """Write index.html, and links to it, to the next and to the previous page into each page."""
    rows = []
    for k, outcome in enumerate(outcomes):
        title = html.escape(_title(out / f"{outcome.notebook}.ipynb"))
        items = ", ".join(f"{name} ({row['state']})" for name, row in outcome.items.items())
        state = "" if outcome.error is None else f", failed in cell {outcome.failed_cell}"
        rows.append(
            f'<li><a href="{outcome.notebook}.html">{title}</a><br>{html.escape(items)}<br>'
            f"{outcome.seconds:.0f} s{state}</li>"
        )
        links = ['<a href="index.html">contents</a>']
        if k:
            links.insert(0, f'<a href="{outcomes[k - 1].notebook}.html">previous</a>')
        if k + 1 < len(outcomes):
            links.append(f'<a href="{outcomes[k + 1].notebook}.html">next</a>')
        bar = f'<nav style="text-align:center;padding:6px;font-family:sans-serif">{" &middot; ".join(links)}</nav>'
        _add_bar(out / f"{outcome.notebook}.html", bar)
    book = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>hw3utils: the notebooks</title>'
        "<style>body{font-family:sans-serif;max-width:46em;margin:2em auto;line-height:1.5}li{margin:.8em 0}</style>"
        f"</head><body><h1>Diffusion and score-based models</h1><ol>{''.join(rows)}</ol></body></html>\n"
    )
    write_atomically(out / "index.html", lambda temporary: temporary.write_text(book, encoding="utf-8"))


def _add_bar(page: Path, bar: str) -> None:
    """Write links at the top and at the bottom of a page."""
    text = re.sub(r"<body[^>]*>", lambda found: found[0] + bar, page.read_text(encoding="utf-8"), count=1)
    text = text.replace("</body>", f"{bar}</body>")
    write_atomically(page, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _title(path: Path) -> str:
    """The first heading of a notebook."""
    for cell in read_notebook(path).cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            return cell.source.splitlines()[0].removeprefix("# ")
    return path.stem


def _summary(outcomes: Sequence[Outcome], out: Path) -> None:
    """Print the items of the notebooks, their points and state."""
    ran = {outcome.notebook[:2]: outcome for outcome in outcomes}
    points = 0
    print("\nitem   points  state")
    for name, item in (ITEMS | SECTIONS).items():
        homes = [ran[home] for home in item.homes if home in ran]
        if not homes:
            continue
        states = [home.items.get(name, {}).get("state", "not shown") for home in homes]
        good = all(state in DONE_STATES for state in states)
        points += item.points if good else 0
        state = states[-1] if good else next(state for state in states if state not in DONE_STATES)
        print(f"{name:7}{item.points:6}  {state:12} {item.title}")
    print(f"total  {points:6}  of {sum(item.points for item in ITEMS.values())}")
    print(f"executed copies, pages (index.html) and figures are in {out}")
