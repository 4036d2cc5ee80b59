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
import tempfile
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from hw3utils.course.records import gradebook
from hw3utils.course.assignment import ITEMS, STUDENT_FILE, is_homework, number_in
from hw3utils.course.grading.submission import MANIFEST, HandedIn, open_submission, time_of
from hw3utils.course.notebooks.cells import ANSWER, graded_cells, item_of, marked_cells, need_nbgrader, program_path
from hw3utils.course.records.originality import borrowed
from hw3utils.course.grading.kernel import NOT_RUN, PASSED, Brake, Judge, Surroundings, Verdict, student_environment
from hw3utils.course.profiles import PROFILES
from hw3utils.course.notebooks.repair import read_leniently, rebuild
from hw3utils.course.notebooks.execute import NOTEBOOKS, environment, find_notebooks
from hw3utils.course.grading.run import keep_small, plan, run, write_verdicts
from hw3utils.course.grading.sandbox import sandbox_command, sandbox_folders
from hw3utils.course.notebooks.images import take_in_all
from hw3utils.files import check_writable, file_sha256, read_json, write_json
from hw3utils.progress import progress

BY_HAND, TAMPERED = "to be read by hand", "tampered check"
PACKAGE = Path(__file__).resolve().parents[2]


@dataclass
class Judged:
    """One graded cell: its item and notebook, points got and possible, state, and a message for the student.

    The states: passed, failed, timed out, lost (its process ended), tampered check (it was put back before it ran), to
    be read by hand, not run (the notebook is missing or broken).
    """

    item: str
    cell: str
    notebook: str
    points: float
    possible: float
    state: str
    message: str = ""


@dataclass
class Graded:
    """What came of one submission: every graded cell, and what was wrong with its files."""

    student: str
    submission: str
    student_number: str
    cells: list[Judged] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def points(self, item: str | None = None) -> float:
        """Automatic points, of one item or of all."""
        return sum(cell.points for cell in self.cells if item in (None, cell.item))

    def possible(self, *, manual: bool) -> float:
        """Points that can be had automatically, or those that a person gives."""
        return sum(cell.possible for cell in self.cells if (ITEMS[cell.item].manual) == manual)


@dataclass
class _Class:
    """What one grading has for all its submissions."""

    out: Path
    spare: Path
    masters: dict[str, Path]
    settings: dict[str, Any]
    threads: int
    sandbox: Sequence[str] | None
    brake: Brake = field(default_factory=Brake)
    files: dict[Path, str] = field(default_factory=lambda: _files_of_the_package())
    # Python 3.11 cannot make two syntax trees at once: what does that waits its turn; students' code runs meanwhile.
    thinking: threading.Lock = field(default_factory=threading.Lock)
    own: threading.local = field(default_factory=threading.local)
    judges: list[Judge] = field(default_factory=list)


def grade(
    submissions: Sequence[Path], out: Path, *, timeout: int = 600, profile: str | None = None, seed: int | None = None,
    full: bool = False, jobs: int = 1, sandbox: bool = False,
) -> list[Graded]:  # fmt: skip
    """Grade submissions: each notebook runs in a kernel of its own, its checks in a process that it cannot reach.

    THIS EXECUTES THE STUDENTS' CODE, with this Python and the rights of this user, in a temporary folder; without
    `sandbox` nothing else holds it. The files of a submission are read, never changed. A submission that lies graded
    in `out` as it would be graded now is not graded again.

    Args:
        submissions: a folder with notebooks, an archive of one (`hw3 submit`), or a notebook; one for each student.
        out: folder of an nbgrader course: gradebook.db, submitted/, autograded/, feedback/; and of the reports,
            NAME/report.json and NAME/NOTEBOOK.html for each student, and grades.csv.
        timeout: seconds that a cell, or a check, may take.
        profile: sizes of the notebooks' own experiments (see `profiles`); tiny, and quick with `full`.
        seed: decides the random input of the checks; that of `out` if not given, drawn for a new one.
        full: run every cell; else only a student's own and what they and the checks stand on.
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
    need_nbgrader()
    profile = profile or ("quick" if full else "tiny")
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}, expected one of {', '.join(PROFILES)}.")
    named = named_submissions(submissions)
    check_writable(out)
    out = out.resolve()
    with tempfile.TemporaryDirectory(prefix="hw3-grade-") as folder, environment(PATH=program_path()):
        command = sandbox_command() if sandbox else None
        held = "in a sandbox" if sandbox else "no sandbox"
        print(f"executing students' code with {sys.executable}, {held}, in {folder}", flush=True)
        masters = gradebook.prepare(out, [path for path in find_notebooks() if is_homework(path.name)])
        settings = {"profile": profile, "full": full, "timeout": timeout, "seed": gradebook.seed_of(out, seed)}
        threads = max(1, (os.cpu_count() or 1) // jobs)
        group = _Class(out, Path(folder), masters, settings, threads, command)
        return _grade_all(group, named, jobs)


def named_submissions(submissions: Sequence[Path]) -> dict[str, Path]:
    """Each submission by the name that its reports get.

    Raises:
        ValueError: when one does not exist, or two have the same name.
    """
    named: dict[str, Path] = {}
    for path in submissions:
        if not path.exists():
            raise ValueError(
                f"there is no submission {path}; give a folder with notebooks, an archive of one, or a notebook."
            )
        name = re.sub(r"[^\w-]+", "-", path.resolve().stem if path.is_file() else path.resolve().name).strip("-")
        # The folders of the course stand beside those of the students.
        name = f"student-{name}" if name in gradebook.FOLDERS else name or "student"
        if name in named:
            raise ValueError(f"two submissions are called {name!r}; rename one, their reports would be one file.")
        # Whole: nbgrader works in folders of its own meanwhile.
        named[name] = path.absolute()
    return named


def _grade_all(group: _Class, named: Mapping[str, Path], jobs: int) -> list[Graded]:
    """Grade what is not graded yet, several at once, and take each into the gradebook when it is done."""
    results: dict[str, Graded] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            works = {pool.submit(_one, group, name, path): name for name, path in named.items()}
            for work in as_completed(works):
                name = works[work]
                results[name] = work.result()
                with group.thinking:
                    results[name].problems += gradebook.join(group.out, [name]) if results[name].cells else []
        except BaseException:
            group.brake.pull()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            for judge in group.judges:
                judge.stop()
    return [results[name] for name in named]


def _one(group: _Class, name: str, path: Path) -> Graded:
    """Grade one submission in a folder of its own."""
    spare = Path(tempfile.mkdtemp(dir=group.spare))
    try:
        return _in_folder(group, name, path, spare)
    finally:
        shutil.rmtree(spare, ignore_errors=True)


def _in_folder(group: _Class, name: str, path: Path, spare: Path) -> Graded:
    """Grade one submission, or read the report of it that still holds."""
    result = Graded(name, str(path), "")
    try:
        found = open_submission(path, spare / "unpacked", group.masters)
        print_of = _fingerprint(found, group)
    except Exception as error:  # whatever its files are, they stop nobody else's grading
        known = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
        reason = f"{path.name} cannot be read ({type(error).__name__}: {error}); ask for another."
        result.problems.append(str(error) if known else reason)
        found = HandedIn(spare / "unpacked")
        print_of = _fingerprint(found, group)
    old = _report_of(group.out / name)
    if old.get("fingerprint") == print_of:
        cells = [Judged(**cell) for cell in old["cells"]]
        return Graded(name, old["submission"], old["student_number"], cells, old["problems"])
    if other := _other_student(found, old):
        result.problems.append(
            f"{name} was graded before with the student number {old['student_number']}, this one has {other}: "
            f"rename it, or remove {group.out / name} if it is the same student."
        )
        return result
    try:
        _grade_one(group, found, result, path, spare, print_of)
    except Exception as error:  # whatever it is, it stops nobody else's grading
        reason = f"could not be graded ({type(error).__name__}: {str(error)[:200]})"
        result = Graded(name, str(path), result.student_number, problems=[*result.problems, f"it {reason}."])
        with group.thinking:
            editions = {file: nbformat.read(master, as_version=4) for file, master in group.masters.items()}
        notebooks = {file: _never_run(edition, file, result, reason) for file, edition in editions.items()}
        # Nothing was judged: no mark comes of it, and it is tried again.
        more = {"seconds": {}, "hints": [], "fingerprint": f"{print_of} failed", "failed": True}
        _write(group, result, notebooks, found, more)
    return result


def _report_of(folder: Path) -> dict[str, Any]:
    """The report of an earlier grading, {} where there is none that can be read."""
    with contextlib.suppress(ValueError, OSError):
        report = read_json(folder / "report.json")
        if isinstance(report, dict) and {"cells", "problems", "submission", "student_number"} <= report.keys():
            return report
    return {}


def _other_student(found: HandedIn, old: Mapping[str, Any]) -> str:
    """The student number of a submission, where a report of the same name has another one."""
    with contextlib.suppress(ValueError, OSError):
        number = number_in(found.folder)
        if old.get("student_number") not in (None, "", number):
            return number
    return ""


def _fingerprint(found: HandedIn, group: _Class) -> str:
    """Everything that a grading follows from, as one hash."""
    total = hashlib.sha256(json.dumps(group.settings, sort_keys=True).encode())
    number = found.folder / STUDENT_FILE
    ours = [*group.masters.values(), *(path for path in sorted(PACKAGE.rglob("*.py")) if "course" in path.parts)]
    theirs = [*found.notebooks.values(), *found.beside, *([number] if number.is_file() else [])]
    for path in [*ours, *sorted(theirs)]:
        total.update(os.fsencode(path.name) + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _grade_one(group: _Class, found: HandedIn, result: Graded, path: Path, spare: Path, fingerprint: str) -> None:
    """Run the notebooks of a submission and write its report."""
    _say_what_lies_there(found, group.masters, result)
    own_number = result.student_number or (NOTEBOOKS / STUDENT_FILE).read_text(encoding="utf-8").strip()
    package = spare / "package"
    shutil.copytree(PACKAGE, package / "hw3utils", ignore=shutil.ignore_patterns("__pycache__"))
    seconds, notebooks, works, hints = {}, {}, {}, []
    with group.thinking:
        for file, master in group.masters.items():
            edition = nbformat.read(master, as_version=4)
            works[file] = (edition, _read(file, found, edition, path, group.masters, result))
        steps = {
            file: plan(rebuilt.notebook, rebuilt.own, full=group.settings["full"])
            for file, (_, rebuilt) in works.items()
            if rebuilt is not None
        }
    with progress(None, total=sum(map(len, steps.values())), desc=result.student, unit="cell") as bar:
        for file, (edition, rebuilt) in works.items():
            began = time.monotonic()
            if rebuilt is None:
                notebooks[file] = _never_run(edition, file, result)
                continue
            folder = _kernel_folder(spare, file, found, own_number)
            around = Surroundings(
                folder, student_environment(group.settings["profile"], group.threads, package),
                group.settings["timeout"], _within(group, folder, package), group.brake,
            )  # fmt: skip
            order = {"notebook": str(group.masters[file]), "student_number": own_number}
            verdicts = run(rebuilt.notebook, steps[file], around, _judge(group, order, folder), bar.update)
            result.cells += _judged(edition, rebuilt, verdicts, file)
            with group.thinking:
                hints += [f"{file}: {hint}" for hint in borrowed(rebuilt.notebook, file)]
            write_verdicts(rebuilt.notebook, verdicts)
            notebooks[file] = rebuilt.notebook
            seconds[file] = round(time.monotonic() - began, 1)
    if changed := _changed_files(group):
        result.problems.append(
            f"{', '.join(changed)} of the package changed while this submission ran; if that was not you, it was the "
            "submission: install the package again, and grade again."
        )
        fingerprint += " failed"
    _write(group, result, notebooks, found, {"seconds": seconds, "hints": hints, "fingerprint": fingerprint})


def _judge(group: _Class, order: dict[str, Any], folder: Path) -> Any:
    """The judge of this thread, for the checks of one notebook."""
    if not hasattr(group.own, "judge"):
        place = Path(tempfile.mkdtemp(dir=group.spare, prefix="judge-"))
        kept = student_environment(group.settings["profile"], group.threads, None)
        masters, seed = list(group.masters.values()), group.settings["seed"]
        group.own.judge = Judge(place, kept, masters, seed, lambda: _changed_files(group))
        group.judges.append(group.own.judge)
        group.own.judge.start()
    judge, seconds = group.own.judge, group.settings["timeout"]
    # In a sandbox nothing but its own folder is there for the student's process to meet the judge in.
    place = str(folder) if group.sandbox else None
    return lambda check, serve: judge.decide(order | {"check": check, "seconds": seconds, "folder": place}, serve)


def _files_of_the_package() -> dict[Path, str]:
    """The package's files, by their hashes."""
    return {path: file_sha256(path) for path in sorted(PACKAGE.rglob("*")) if path.is_file() and path.suffix != ".pyc"}


def _changed_files(group: _Class) -> list[str]:
    """The package's files that are not what they were when the grading began."""
    now = _files_of_the_package()
    return sorted(path.name for path in group.files.keys() | now.keys() if group.files.get(path) != now.get(path))


def _within(group: _Class, folder: Path, package: Path) -> Sequence[str]:
    return () if group.sandbox is None else [*group.sandbox, *sandbox_folders(folder, package)]


def _kernel_folder(spare: Path, file: str, found: HandedIn, number: str) -> Path:
    """The folder that a notebook runs in: the student's number, and what was handed in beside it."""
    folder = spare / file[:2]
    folder.mkdir(parents=True)
    for beside in found.beside:
        shutil.copyfile(beside, folder / beside.name)
    (folder / STUDENT_FILE).write_text(number, encoding="utf-8")
    return folder


def _read(file: str, found: HandedIn, edition: Any, path: Path, masters: Collection[str], result: Graded) -> Any:
    """A notebook set upon the edition; None, with the reason among the problems, for what is not there or is none."""
    if file not in found.notebooks:
        if path.suffix != ".ipynb" or not set(found.notebooks) & set(masters):
            result.problems.append(f"{file} was not handed in.")
        return None
    try:
        rebuilt = rebuild(edition, read_leniently(found.notebooks[file]))
    except (ValueError, OSError) as error:
        result.problems.append(f"{file} cannot be read as a notebook: {error}.")
        return None
    rebuilt.notes += take_in_all(rebuilt.notebook, edition, found.beside)
    result.problems += [f"{file}: {note}" for note in rebuilt.notes]
    result.problems += [f"{file}: the check {name} {what}; it was put back." for name, what in rebuilt.tampered.items()]
    return rebuilt


def _never_run(edition: Any, file: str, result: Graded, reason: str = "was not handed in") -> Any:
    """The blank notebook that stands for one that could not be run: no points."""
    found = [problem for problem in result.problems if problem.startswith(f"{file} ")]
    reason = found[0].rstrip(".").removeprefix(f"{file} ") if found else reason
    graded = graded_cells(edition)
    for name, cell in graded.items():
        possible = float(cell.metadata.nbgrader["points"])
        result.cells.append(Judged(item_of(name), name, file, 0.0, possible, NOT_RUN, f"the notebook {reason}"))
    write_verdicts(edition, {name: Verdict(NOT_RUN, f"the notebook {reason}") for name in graded})
    return edition


def _judged(edition: Any, rebuilt: Any, verdicts: Mapping[str, Verdict], file: str) -> list[Judged]:
    """The graded cells of a notebook with their points."""
    judged = []
    there = marked_cells(rebuilt.notebook)
    for name, cell in graded_cells(edition).items():
        possible = float(cell.metadata.nbgrader["points"])
        if cell.cell_type == "markdown":
            blank = there[name].source.strip() in ("", ANSWER)
            judged.append(
                Judged(item_of(name), name, file, 0.0, possible, BY_HAND, "the answer is blank" if blank else "")
            )
            continue
        verdict = verdicts[name]
        state, message = verdict.state, "" if verdict.state == PASSED else verdict.message
        if name in rebuilt.tampered:
            state = TAMPERED
            message = f"it {rebuilt.tampered[name]} and was put back; then it {verdict.state}. {message}".strip()
        points = possible if verdict.state == PASSED else 0.0
        judged.append(Judged(item_of(name), name, file, points, possible, state, message))
    return judged


def _write(group: _Class, result: Graded, notebooks: Mapping[str, Any], found: HandedIn, more: dict[str, Any]) -> None:
    """Write the judged notebooks, then the report: what has a report is whole."""
    folder = gradebook.submitted(group.out, result.student)
    folder.mkdir(parents=True, exist_ok=True)
    for file, notebook in notebooks.items():
        keep_small(notebook)
        nbformat.write(notebook, folder / file)
    result.problems[:] = [problem.encode("utf-8", "replace").decode() for problem in result.problems]
    report = {
        "student": result.student,
        "student_number": result.student_number,
        "submission": result.submission,
        "handed_in": time_of(found),
        "automatic": {"points": result.points(), "possible": result.possible(manual=False)},
        "by_hand": {"pending": result.possible(manual=True)},
        "problems": result.problems,
        "cells": [asdict(cell) for cell in result.cells],
        "answers": {file: gradebook.answers_of(notebook) for file, notebook in notebooks.items()},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("hw3utils", "nbgrader", "torch", "numpy")},
    }
    write_json(group.out / result.student / "report.json", report | group.settings | more)


def _say_what_lies_there(found: HandedIn, sources: Collection[str], result: Graded) -> None:
    """Read the student's number; name what was left out, and what was taken for something else."""
    try:
        result.student_number = number_in(found.folder)
    except FileNotFoundError:
        result.problems.append(f"there is no {STUDENT_FILE}; the number of the source was taken.")
    except ValueError as error:
        result.problems.append(f"{error} The number of the source was taken.")
    for file, where in found.notebooks.items():
        if file not in sources and is_homework(file):
            result.problems.append(f"{file} is no notebook of this homework and was left out.")
        elif where.name != file:
            result.problems.append(f"{where.name} was taken for {file}.")
    ours = {MANIFEST, *(name for name in found.left_out if name.startswith("."))}
    for name, reason in found.left_out.items():
        if name not in ours:
            result.problems.append(f"{name} was left out: {reason}.")


def summary(result: Graded) -> str:
    """A few lines on one submission, for the terminal."""
    lines = [
        f"{result.student}: {result.points():g} of {result.possible(manual=False):g} automatic points, "
        f"{result.possible(manual=True):g} to be given by hand"
    ]
    for cell in result.cells:
        if cell.state not in (PASSED, BY_HAND):
            lines.append(f"  {cell.item}  {cell.points:g} of {cell.possible:g}  {cell.state}: {cell.message}")
    return "\n".join(lines + [f"  {problem}" for problem in result.problems])
