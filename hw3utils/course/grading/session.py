"""Grading: each submission runs with the edition's checks, judged in another process; reports, pages, a gradebook."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from hw3utils.course.assignment import (
    ITEMS,
    STUDENT_FILE,
    CellState,
    GradedCell,
    is_homework,
    number_of_file,
    parse_number,
)
from hw3utils.course.grading.kernel import CancelToken, Judge, KernelConfig, student_environment
from hw3utils.course.grading.run import JudgeCheck, keep_small, plan, run, write_results
from hw3utils.course.grading.sandbox import sandbox_command, sandbox_folders
from hw3utils.course.grading.submission import MANIFEST, Submission, open_submission, time_of
from hw3utils.course.notebooks.cells import ANSWER, graded_cells, item_of, marked_cells, need_nbgrader, program_path
from hw3utils.course.notebooks.execute import NOTEBOOKS, environment, find_notebooks
from hw3utils.course.notebooks.images import embed_all
from hw3utils.course.notebooks.repair import RepairedNotebook, read_leniently, rebuild
from hw3utils.course.notebooks.sanitize import clean_notebook
from hw3utils.course.profiles import PROFILES
from hw3utils.course.records import gradebook
from hw3utils.course.records.originality import borrowed, shell_commands
from hw3utils.files import check_writable, file_sha256, read_json, write_json
from hw3utils.progress import printable, progress

PACKAGE = Path(__file__).resolve().parents[2]
# Their versions are in the report.
LIBRARIES = ("hw3utils", "nbgrader", "torch", "numpy")


@dataclass
class GradedSubmission:
    """The result of one submission: every graded cell, and the problems with its files."""

    student: str
    submission: str
    student_number: str
    cells: list[GradedCell] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def points(self, item: str | None = None) -> float:
        """Automatic points, of one item or of all."""
        return sum(cell.points for cell in self.cells if item in (None, cell.item))

    def possible(self, *, manual: bool) -> float:
        """Points of the checks, or of the answers that a person grades."""
        return sum(cell.possible for cell in self.cells if ITEMS[cell.item].manual == manual)


@dataclass
class GradingSession:
    """What all submissions of one call of `grade` share.

    Args:
        out: folder of the course.
        scratch: temporary folder.
        editions: the released notebooks by name.
        settings: profile, full, timeout, seed.
        threads: of each student's process.
        sandbox: words before a student's command, None without a sandbox.
        cancel: stops all students' processes.
        environment: the package's files and the installed distributions at the start.
        parse_lock: Python 3.11 cannot build two syntax trees at once; students' code runs meanwhile.
        thread: the judge of each thread.
        judges: all of them.
    """

    out: Path
    scratch: Path
    editions: dict[str, Path]
    settings: dict[str, Any]
    threads: int
    sandbox: Sequence[str] | None
    cancel: CancelToken = field(default_factory=CancelToken)
    environment: dict[str, str] = field(default_factory=lambda: environment_state())
    parse_lock: threading.Lock = field(default_factory=threading.Lock)
    thread: threading.local = field(default_factory=threading.local)
    judges: list[Judge] = field(default_factory=list)

    def changes(self) -> list[str]:
        """What is not as it was at the start: files of the package, installed distributions."""
        now = environment_state()
        names = self.environment.keys() | now.keys()
        return sorted(Path(name).name for name in names if self.environment.get(name) != now.get(name))


def environment_state() -> dict[str, str]:
    """A hash of each file of the package, the version of each installed distribution, and a hash of each .pth file."""
    files = [path for path in sorted(PACKAGE.rglob("*")) if path.is_file() and path.suffix != ".pyc"]
    state = {str(path.relative_to(PACKAGE)): file_sha256(path) for path in files}
    for path in sorted(Path(sysconfig.get_path("purelib")).glob("*.pth")):
        state[path.name] = file_sha256(path)
    for distribution in importlib.metadata.distributions():
        state[str(distribution.metadata["Name"])] = str(distribution.version)
    return state


def grade(
    submissions: Sequence[Path], out: Path, *, timeout: int = 600, profile: str | None = None, seed: int | None = None,
    full: bool = False, jobs: int = 1, sandbox: bool = False,
) -> list[GradedSubmission]:  # fmt: skip
    """Grade submissions: each notebook runs in a kernel of its own, its checks in a process that it cannot reach.

    THIS EXECUTES THE STUDENTS' CODE, with this Python and the rights of this user, in a temporary folder; only
    `sandbox` restricts it further. The files of a submission are read, never changed. A submission whose report in
    `out` has the same fingerprint (files, settings, package, versions) is not graded again.

    Args:
        submissions: a folder with notebooks, an archive of one (`hw3 submit`), or a notebook; one for each student.
        out: folder of an nbgrader course: gradebook.db, submitted/, autograded/, feedback/; and of the reports,
            NAME/report.json and NAME/NOTEBOOK.html for each student, and grades.csv.
        timeout: seconds that a cell, or a check, may take.
        profile: sizes of the notebooks' own experiments (see `profiles`); tiny, and quick with `full`.
        seed: decides the random input of the checks; that of `out` if not given, drawn for a new one.
        full: run every cell; else only a student's own, and the dependencies of these and of the checks.
        jobs: submissions that are graded at once.
        sandbox: run each notebook without network, able to write into its own folder alone.

    Returns:
        One result for each submission, in order.

    Raises:
        ModuleNotFoundError: without nbgrader.
        ValueError: when a submission does not exist, two have the same name, or the profile is unknown.
        OSError: when the reports cannot be written.
        KeyboardInterrupt: on Ctrl-C; the reports that are done are kept.
    """
    homework = [path for path in find_notebooks() if is_homework(path.name)]
    need_nbgrader()
    profile = profile or ("quick" if full else "tiny")
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}, expected one of {', '.join(PROFILES)}.")
    named = named_submissions(submissions)
    check_writable(out)
    out = out.resolve()
    with tempfile.TemporaryDirectory(prefix="hw3-grade-") as folder, environment(PATH=program_path()):
        command = sandbox_command() if sandbox else None
        where = "in a sandbox" if sandbox else "no sandbox"
        print(f"executing students' code with {sys.executable}, {where}, in {folder}", flush=True)
        editions = gradebook.prepare(out, homework)
        settings = {"profile": profile, "full": full, "timeout": timeout, "seed": gradebook.seed_of(out, seed)}
        threads = max(1, (os.cpu_count() or 1) // jobs)
        session = GradingSession(out, Path(folder), editions, settings, threads, command)
        return _grade_all(session, named, jobs)


def named_submissions(submissions: Sequence[Path]) -> dict[str, Path]:
    """Each submission by the name that its reports get.

    Raises:
        ValueError: when one does not exist, or two have the same name.
    """
    named: dict[str, Path] = {}
    for path in submissions:
        if not path.exists():
            raise ValueError(
                f"there is no submission {printable(str(path))}; give a folder with notebooks, an archive of one, or a "
                "notebook."
            )
        name = re.sub(r"[^\w-]+", "-", path.resolve().stem if path.is_file() else path.resolve().name).strip("-")
        # These are folders of the course.
        name = f"student-{name}" if name in gradebook.FOLDERS else name or "student"
        if name in named:
            raise ValueError(f"two submissions are called {name!r}; rename one, their reports would be one file.")
        # Absolute: nbgrader changes the working folder.
        named[name] = path.absolute()
    return named


def _grade_all(session: GradingSession, named: Mapping[str, Path], jobs: int) -> list[GradedSubmission]:
    """Grade the submissions, several at once; each is read into the gradebook when it is done."""
    results: dict[str, GradedSubmission] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            futures = {pool.submit(_grade_in_scratch, session, name, path): name for name, path in named.items()}
            for future in as_completed(futures):
                name = futures[future]
                results[name] = future.result()
                with session.parse_lock:
                    results[name].problems += gradebook.join(session.out, [name]) if results[name].cells else []
        except BaseException:
            session.cancel.cancel()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            for judge in session.judges:
                judge.stop()
    return [results[name] for name in named]


def _grade_in_scratch(session: GradingSession, name: str, path: Path) -> GradedSubmission:
    """Grade one submission in a temporary folder."""
    scratch = Path(tempfile.mkdtemp(dir=session.scratch))
    try:
        return _grade_or_reuse(session, name, path, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _grade_or_reuse(session: GradingSession, name: str, path: Path, scratch: Path) -> GradedSubmission:
    """Grade one submission, or return its earlier result if nothing has changed since."""
    result = GradedSubmission(name, str(path), "")
    try:
        found = open_submission(path, scratch / "unpacked", session.editions)
        fingerprint = _fingerprint(found, session)
    except Exception as error:  # a damaged submission must not stop the others
        known = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
        reason = f"{path.name} cannot be read ({type(error).__name__}: {error}); ask for another."
        result.problems.append(str(error) if known else reason)
        found = Submission(scratch / "unpacked")
        fingerprint = _fingerprint(found, session)
    old = _read_report(session.out / name)
    if old.get("fingerprint") == fingerprint:
        cells = [GradedCell.from_record(cell) for cell in old["cells"]]
        return GradedSubmission(name, old["submission"], old["student_number"], cells, old["problems"])
    if other := _other_student(found, old):
        result.problems.append(
            f"{name} was graded before with the student number {old['student_number']}, this one has {other}: "
            f"rename it, or remove {session.out / name} if it is the same student."
        )
        return result
    try:
        _grade_one(session, found, result, path, scratch, fingerprint)
    except Exception as error:  # any error must not stop the others
        reason = f"could not be graded ({type(error).__name__}: {str(error)[:200]})"
        result = GradedSubmission(name, str(path), result.student_number, problems=[*result.problems, f"it {reason}."])
        with session.parse_lock:
            editions = {file: nbformat.read(edition, as_version=4) for file, edition in session.editions.items()}
        notebooks = {file: _not_run(edition, file, result, reason) for file, edition in editions.items()}
        # There is no mark, and it is tried again next time.
        details = {"seconds": {}, "hints": [], "fingerprint": f"{fingerprint} failed", "failed": True}
        _write_report(session, result, notebooks, found, details)
    return result


def _read_report(folder: Path) -> dict[str, Any]:
    """The report of an earlier grading, {} if there is none."""
    with contextlib.suppress(ValueError, OSError):
        report = read_json(folder / "report.json")
        if isinstance(report, dict) and {"cells", "problems", "submission", "student_number"} <= report.keys():
            return report
    return {}


def _student_number(found: Submission) -> str:
    """The number in the submission's file, else in the manifest of `hw3 submit`.

    Raises:
        FileNotFoundError, ValueError: when there is none.
    """
    if found.number_file is not None:
        return number_of_file(found.number_file)
    if found.manifest is not None:
        return parse_number(str(read_json(found.manifest).get("student_number")), MANIFEST)
    raise FileNotFoundError


def _other_student(found: Submission, old: Mapping[str, Any]) -> str:
    """The student number of a submission, if a report of the same name has another one."""
    with contextlib.suppress(ValueError, OSError):
        number = _student_number(found)
        if old.get("student_number") not in (None, "", number):
            return number
    return ""


def _fingerprint(found: Submission, session: GradingSession) -> str:
    """One hash of everything that a result depends on: files, settings, the package, versions of libraries."""
    total = hashlib.sha256(json.dumps([session.settings, session.environment, _versions()], sort_keys=True).encode())
    number = [found.number_file] if found.number_file is not None else []
    for path in [*session.editions.values(), *sorted([*found.notebooks.values(), *found.beside, *number])]:
        total.update(os.fsencode(path.name) + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES}


def _grade_one(
    session: GradingSession, found: Submission, result: GradedSubmission, path: Path, scratch: Path, fingerprint: str
) -> None:
    """Run the notebooks of a submission and write its report."""
    _report_file_problems(found, session.editions, result)
    number = result.student_number or (NOTEBOOKS / STUDENT_FILE).read_text(encoding="utf-8").strip()
    package = scratch / "package"
    shutil.copytree(PACKAGE, package / "hw3utils", ignore=shutil.ignore_patterns("__pycache__"))
    seconds, notebooks, repaired, hints = {}, {}, {}, []
    with session.parse_lock:
        editions = {file: nbformat.read(edition, as_version=4) for file, edition in session.editions.items()}
        for file, edition in editions.items():
            repaired[file] = _repair(file, found, edition, path, session, result)
        steps = {
            file: plan(fixed.notebook, fixed.unchanged, full=session.settings["full"])
            for file, fixed in repaired.items()
            if fixed is not None
        }
    with progress(None, total=sum(map(len, steps.values())), desc=result.student, unit="cell") as bar:
        for file, fixed in repaired.items():
            if fixed is None:
                notebooks[file] = _not_run(editions[file], file, result)
                continue
            start = time.monotonic()
            folder = _kernel_folder(scratch, file, found, number)
            config = _kernel_config(session, folder, package)
            judge = _judge(session, {"notebook": str(session.editions[file]), "student_number": number}, folder)
            cells = _new_cells(editions[file], fixed, file)
            run(fixed.notebook, steps[file], config, judge, bar.update, cells)
            with session.parse_lock:
                hints += [f"{file}: {hint}" for hint in borrowed(fixed.notebook, file)]
            write_results(fixed.notebook, cells)
            _describe(cells, fixed)
            result.cells += cells.values()
            notebooks[file] = fixed.notebook
            seconds[file] = round(time.monotonic() - start, 1)
    if changed := session.changes():
        result.problems.append(
            f"{', '.join(changed)} of the package or of this Python changed while this submission ran; if that was "
            "not you, it was the submission: install the package again, and grade again."
        )
        fingerprint += " failed"
    details = {"seconds": seconds, "hints": [printable(hint) for hint in hints], "fingerprint": fingerprint}
    _write_report(session, result, notebooks, found, details)


def _judge(session: GradingSession, order: dict[str, Any], folder: Path) -> JudgeCheck:
    """The judge of this thread, for the checks of one notebook."""
    if not hasattr(session.thread, "judge"):
        place = Path(tempfile.mkdtemp(dir=session.scratch, prefix="judge-"))
        variables = student_environment(session.settings["profile"], session.threads, None)
        editions, seed = list(session.editions.values()), session.settings["seed"]
        session.thread.judge = Judge(place, variables, editions, seed, session.changes)
        session.judges.append(session.thread.judge)
        session.thread.judge.start()
    judge: Judge = session.thread.judge
    # In a sandbox a student's process sees only its own folder: the socket is there.
    order = order | {"seconds": session.settings["timeout"], "folder": str(folder) if session.sandbox else None}
    return lambda check, serve: judge.decide(order | {"check": check}, serve)


def _kernel_config(session: GradingSession, folder: Path, package: Path) -> KernelConfig:
    sandbox = [] if session.sandbox is None else [*session.sandbox, *sandbox_folders(folder, package)]
    variables = student_environment(session.settings["profile"], session.threads, package)
    return KernelConfig(folder, variables, session.settings["timeout"], sandbox, session.cancel)


def _kernel_folder(scratch: Path, file: str, found: Submission, number: str) -> Path:
    """The folder that a notebook runs in: the student number, and the submitted files."""
    folder = scratch / file[:2]
    folder.mkdir(parents=True)
    for beside in found.beside:
        shutil.copyfile(beside, folder / beside.name)
    (folder / STUDENT_FILE).write_text(number, encoding="utf-8")
    return folder


def _repair(
    file: str, found: Submission, edition: NotebookNode, path: Path, session: GradingSession, result: GradedSubmission
) -> RepairedNotebook | None:
    """A submitted notebook, repaired; None, with the reason in the problems, if it is missing or invalid."""
    if file not in found.notebooks:
        if path.suffix != ".ipynb" or not set(found.notebooks) & set(session.editions):
            result.problems.append(f"{file} was not handed in.")
        return None
    try:
        fixed = rebuild(edition, read_leniently(found.notebooks[file]))
    except (ValueError, OSError) as error:
        result.problems.append(f"{file} cannot be read as a notebook: {error}.")
        return None
    fixed.notes += embed_all(fixed.notebook, edition, found.beside)
    result.problems += [f"{file}: {note}" for note in fixed.notes]
    result.problems += [f"{file}: the check {name} {what}; it was put back." for name, what in fixed.tampered.items()]
    if commands := shell_commands(fixed.notebook):
        result.problems.append(f"{file}: not run in grading: {'; '.join(commands)}.")
    return fixed


def _new_cells(edition: NotebookNode, fixed: RepairedNotebook | None, file: str) -> dict[str, GradedCell]:
    """The graded cells of a notebook, without results but for the answers."""
    answers = marked_cells(fixed.notebook) if fixed else {}
    cells = {}
    for name, original in graded_cells(edition).items():
        cells[name] = GradedCell(name, item_of(name), float(original.metadata.nbgrader["points"]), notebook=file)
        if name in answers and original.cell_type == "markdown":
            blank = answers[name].source.strip() in ("", ANSWER)
            cells[name].set_result(CellState.TO_READ, "the answer is blank" if blank else "")
    return cells


def _describe(cells: Mapping[str, GradedCell], fixed: RepairedNotebook) -> None:
    """Remove the PASS lines from the messages, and say which checks were tampered with."""
    for name, cell in cells.items():
        message = "" if cell.state == CellState.PASSED else cell.message
        if name in fixed.tampered:
            message = f"it {fixed.tampered[name]} and was put back; then it {cell.state}. {message}".strip()
            cell.state = CellState.TAMPERED
        cell.message = printable(message)


def _not_run(edition: NotebookNode, file: str, result: GradedSubmission, reason: str = "was not handed in") -> Any:
    """The blank notebook in place of one that could not be run; its cells get no points."""
    found = [problem for problem in result.problems if problem.startswith(f"{file} ")]
    reason = found[0].rstrip(".").removeprefix(f"{file} ") if found else reason
    cells = _new_cells(edition, None, file)
    for cell in cells.values():
        cell.set_result(CellState.NOT_RUN, printable(f"the notebook {reason}"))
    result.cells += cells.values()
    write_results(edition, cells)
    return edition


def _write_report(
    session: GradingSession,
    result: GradedSubmission,
    notebooks: Mapping[str, NotebookNode],
    found: Submission,
    details: dict[str, Any],
) -> None:
    """Write the judged notebooks, then the report: a submission with a report is complete."""
    folder = gradebook.submitted(session.out, result.student)
    folder.mkdir(parents=True, exist_ok=True)
    for file, notebook in notebooks.items():
        clean_notebook(notebook)
        keep_small(notebook)
        nbformat.write(notebook, folder / file)
    result.problems[:] = [printable(problem) for problem in result.problems]
    report = {
        "student": result.student,
        "student_number": result.student_number,
        "submission": printable(result.submission),
        "handed_in": time_of(found),
        "automatic": {"points": result.points(), "possible": result.possible(manual=False)},
        "by_hand": {"pending": result.possible(manual=True)},
        "problems": result.problems,
        "cells": [cell.record() for cell in result.cells],
        "answers": {file: gradebook.answers_of(notebook) for file, notebook in notebooks.items()},
        "versions": _versions(),
    }
    write_json(session.out / result.student / "report.json", report | session.settings | details)


def _report_file_problems(found: Submission, editions: Mapping[str, Path], result: GradedSubmission) -> None:
    """Read the student number; name the files that were left out, and those that were found under another name."""
    try:
        result.student_number = _student_number(found)
    except FileNotFoundError:
        result.problems.append(f"there is no {STUDENT_FILE}; the number of the source was taken.")
    except ValueError as error:
        result.problems.append(f"{error} The number of the source was taken.")
    for file, where in found.notebooks.items():
        if file not in editions and is_homework(file):
            result.problems.append(f"{file} is no notebook of this homework and was left out.")
        elif where.name != file:
            result.problems.append(f"{where.name} was taken for {file}.")
    for name, reason in found.left_out.items():
        if Path(name).name != MANIFEST and not Path(name).name.startswith("."):
            result.problems.append(f"{name} was left out: {reason}.")


def summary(result: GradedSubmission) -> str:
    """A few lines on one submission, for the terminal."""
    lines = [
        f"{result.student}: {result.points():g} of {result.possible(manual=False):g} automatic points, "
        f"{result.possible(manual=True):g} to be given by hand"
    ]
    for cell in result.cells:
        if cell.state not in (CellState.PASSED, CellState.TO_READ):
            message = printable(cell.message)
            lines.append(f"  {cell.item}  {cell.points:g} of {cell.possible:g}  {cell.state}: {message}")
    return "\n".join(lines + [f"  {printable(problem)}" for problem in result.problems])
