"""The files of a submission: a notebook, a folder, or archives as `hw3 submit` and learning platforms make them."""

import contextlib
import importlib.util
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from hw3utils.course.assignment import STUDENT_FILE
from hw3utils.course.notebooks.cells import ANSWER, STUB_LINE, grade_id, marked_cells
from hw3utils.course.notebooks.execute import find_notebooks
from hw3utils.course.notebooks.repair import read_leniently
from hw3utils.files import read_json

MANIFEST = "manifest.json"
MAX_FILE = 50_000_000
_MAX_ARCHIVE = 500_000_000
_MAX_MEMBERS = 1000
_MAX_DEPTH = 8
# Files that may be notebooks, by their names; the content decides.
_NOTEBOOK = re.compile(r"ipynb|\.json$|(^|/)[^./]+$", re.I)
Homework = Mapping[str, Path | None]
_COPY_NUMBER = re.compile(r"(\d+)\)?(?=\.ipynb)", re.I)
_NUMBER_FILE = re.compile(r"student[_ -]?number.*\.txt", re.I)
_CLOSED_ARCHIVES = (".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz")
_MACOS = "__MACOSX"


@dataclass
class Submission:
    """The files of a submission.

    Args:
        folder: where the student number is, or else the notebooks.
        notebooks: by the name that the homework has for them.
        beside: other files in the folders of the notebooks.
        left_out: every other file, and why.
        number_file, manifest: where they are, None if they are missing.
    """

    folder: Path
    notebooks: dict[str, Path] = field(default_factory=dict)
    beside: list[Path] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    number_file: Path | None = None
    manifest: Path | None = None


def open_submission(path: Path, scratch: Path, homework: Collection[str] | Mapping[str, Path]) -> Submission:
    """Find the files of a submission; nothing in it is changed.

    Notebooks are found in any folder and in any archive inside, under any name: by their content, or else by the part
    of the name that is the homework's. Of several copies the one with most work in it is taken.

    Args:
        path: a notebook, a folder, or a zip file.
        scratch: a folder that archives are unpacked into; it need not exist.
        homework: the released notebooks by name, or only the names of those of this package.

    Raises:
        ValueError: when the archive is damaged or too large, or contains a name outside of it.
    """
    homework = _with_paths(homework)
    if path.is_file() and not zipfile.is_zipfile(path) and path.suffix.lower() != ".zip":
        number = path.parent / STUDENT_FILE
        name = _identify(path, homework) or path.name
        return Submission(path.parent, {name: path}, number_file=number if number.is_file() else None)
    tree = _Tree(scratch)
    root = path
    if path.is_file():
        tree.left_out |= _unpack(path, scratch)
        root = scratch
    tree.add(root, "", 0)
    return _sort(tree, root, homework)


def _with_paths(homework: Collection[str] | Mapping[str, Path]) -> Homework:
    if isinstance(homework, Mapping):
        return homework
    paths = {}
    with contextlib.suppress(ValueError):  # installed without them: names decide
        paths = {path.name: path for path in find_notebooks()}
    return {name: paths.get(name) for name in homework}


class _Tree:
    """All files of a submission, with those in archives inside it."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.files: dict[str, Path] = {}  # by the name that messages show
        self.left_out: dict[str, str] = {}
        self.manifests: list[Path] = []
        self.archives = 0

    def add(self, folder: Path, prefix: str, depth: int) -> None:
        """Add a folder with the folders and archives in it."""
        files, left_out = sort_files(folder)
        for name, reason in left_out.items():
            inner = folder / name
            if name == MANIFEST and inner.is_file():
                self.manifests.append(inner)
            if name == f"{_MACOS}/":
                continue
            if not name.endswith("/") or name.startswith(".") or depth >= _MAX_DEPTH:
                self.left_out[prefix + name] = reason
                continue
            before = len(self.files), len(self.manifests)
            self.add(inner, prefix + name, depth + 1)
            if not any(_is_wanted(other) for other in list(self.files)[before[0] :]):
                # A folder without notebooks is one line.
                self.files = dict(list(self.files.items())[: before[0]])
                self.left_out = {key: why for key, why in self.left_out.items() if not key.startswith(prefix + name)}
                self.left_out[prefix + name] = reason
        for file in files:
            if file.suffix.lower() == ".zip" and depth < _MAX_DEPTH:
                self._add_archive(file, prefix, depth)
            elif file.suffix.lower() in _CLOSED_ARCHIVES:
                self.left_out[prefix + file.name] = "it is an archive of a kind that is not opened; ask for a zip"
            else:
                self.files[prefix + file.name] = file

    def _add_archive(self, file: Path, prefix: str, depth: int) -> None:
        self.archives += 1
        folder = self.scratch.with_name(f"{self.scratch.name}-{self.archives}")
        try:
            self.left_out |= {f"{prefix}{file.name}/{name}": why for name, why in _unpack(file, folder).items()}
        except ValueError as error:
            self.left_out[prefix + file.name] = str(error).rstrip(".")
            return
        self.add(folder, f"{prefix}{file.name}/", depth + 1)


def _is_wanted(name: str) -> bool:
    return bool(_NOTEBOOK.search(name) or _NUMBER_FILE.fullmatch(PurePosixPath(name).name))


def _sort(tree: _Tree, root: Path, homework: Homework) -> Submission:
    """Choose the notebooks among the files, and the files beside them."""
    candidates: dict[str, list[str]] = {}
    for name, path in tree.files.items():
        if _NOTEBOOK.search(name):
            known = _identify(path, homework)
            if known or "ipynb" in path.name.lower():
                candidates.setdefault(known or name, []).append(name)
    found = Submission(root, left_out=dict(tree.left_out), manifest=next(iter(tree.manifests), None))
    taken = set()
    for known, names in candidates.items():
        ranks = {name: _rank(name, tree.files[name], known, homework) for name in names}
        best = max(ranks, key=ranks.__getitem__)
        found.notebooks[known if known in homework else PurePosixPath(known).name] = tree.files[best]
        taken |= set(names)
        reason = f"{PurePosixPath(best).name} is a fuller or newer copy of {known}"
        found.left_out |= {name: reason for name in names if name != best}
    _sort_others({name: path for name, path in tree.files.items() if name not in taken}, found)
    # Names as the student knows them: without the folders that everything is in.
    common = os.path.commonpath([f"{PurePosixPath(name).parent}/." for name in taken]) if taken else ""
    prefix = f"{common}/" if common not in ("", ".") else ""
    found.left_out = {name.removeprefix(prefix): why for name, why in found.left_out.items()}
    return found


def _sort_others(files: Mapping[str, Path], found: Submission) -> None:
    """Find the student number, and the files beside the notebooks."""
    homes = {path.parent for path in found.notebooks.values()}
    for name, path in files.items():
        if _NUMBER_FILE.fullmatch(path.name):
            if found.number_file is None or path.parent in homes:
                found.number_file = path
        elif homes and path.parent not in homes:
            found.left_out[name] = "it is in another folder than the notebooks"
        elif module := shadowed_module(path):
            found.left_out[name] = f"it would stand in the way of the module {module}"
        else:
            found.beside.append(path)
    number_home = [] if found.number_file is None else [found.number_file.parent]
    found.folder = next(iter([*number_home, *sorted(homes)]), found.folder)


def sort_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The regular files of a folder; the names of everything else in it, and why it does not count."""
    files, left_out = [], {}
    for path in sorted(folder.iterdir()):
        kind = path.lstat()
        limit = _MAX_ARCHIVE if _NOTEBOOK.search(path.name) else MAX_FILE
        if stat.S_ISLNK(kind.st_mode):
            left_out[path.name] = "it is a link"
        elif stat.S_ISDIR(kind.st_mode):
            left_out[f"{path.name}/"] = "it is a folder"
        elif path.name == MANIFEST:
            left_out[path.name] = "it is made anew"
        elif path.name.startswith("."):
            left_out[path.name] = "it is hidden"
        elif not stat.S_ISREG(kind.st_mode):
            left_out[path.name] = "it is no file"
        elif not os.access(path, os.R_OK):
            left_out[path.name] = "it may not be read"
        elif kind.st_size > limit:
            left_out[path.name] = f"it has {kind.st_size / 1e6:.0f} MB, more than {limit / 1e6:.0f}"
        else:
            files.append(path)
    return files, left_out


def _identify(path: Path, homework: Homework) -> str | None:
    """Which notebook of the homework a file is: by its content, else by its name; None if it is none."""
    if (notebook := _read(path)) is not None:
        names = {grade_id(cell) for cell in notebook.cells} - {None}
        sources = {cell.source.strip() for cell in notebook.cells}
        scores = {}
        for known, released in homework.items():
            marked = _marked_sources(released)
            same = sum(name in names or source in sources for name, source in marked.items())
            scores[known] = same / max(len(marked), 1)
        best = max(scores, key=scores.__getitem__, default=None)
        if best is not None and scores[best] >= 0.3:
            return best
    if "ipynb" not in path.name.lower():
        return None
    # Platforms change the case, the separators, and add words on both sides.
    fits = [known for known in homework if _letters(known.removesuffix(".ipynb")) in _letters(path.name)]
    return max(fits, key=len, default=None)


def _letters(name: str) -> str:
    return re.sub(r"%20|[\W_]+", "", name.casefold())


def _marked_sources(path: Path | None) -> dict[str, str]:
    """The marked cells of a released notebook, by grade_id."""
    return {} if path is None else _read_marked(path, path.stat().st_mtime_ns)


@lru_cache
def _read_marked(path: Path, changed: int) -> dict[str, str]:
    notebook = _read(path)
    return {name: cell.source.strip() for name, cell in marked_cells(notebook).items()} if notebook else {}


def _read(path: Path) -> Any:
    with contextlib.suppress(ValueError, OSError):
        return read_leniently(path)
    return None


def _rank(name: str, path: Path, known: str, homework: Homework) -> tuple:
    """The order of several copies of a notebook: most work, then the exact name, the highest number, the latest."""
    notebook = _read(path)
    work = 0
    if notebook is not None:
        marked = marked_cells(notebook)
        released = _marked_sources(homework.get(known))
        work = sum(
            bool(cell.source.strip()) and STUB_LINE not in cell.source
            and cell.source.strip() not in (ANSWER, released.get(key))
            for key, cell in marked.items()
        )  # fmt: skip
    numbers = _COPY_NUMBER.findall(PurePosixPath(name).name)
    return work, path.name == known, int(numbers[-1]) if numbers else -1, path.stat().st_mtime


def shadowed_module(file: Path) -> str | None:
    """The installed module that a file beside the notebooks would be imported in place of."""
    stem = file.name.split(".")[0]
    if file.suffix not in (".py", ".pyc", ".so", ".pyd") or not stem.isidentifier():
        return None
    # Every program has a __main__, which is not imported.
    return stem if stem != "__main__" and importlib.util.find_spec(stem) else None


def _unpack(archive: Path, folder: Path) -> dict[str, str]:
    """Unpack an archive into a folder and nowhere else; the links in it, which are left out."""
    links = {}
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            size = sum(member.file_size for member in members)
            if size > _MAX_ARCHIVE or len(members) > _MAX_MEMBERS:
                raise ValueError(
                    f"{archive.name} holds {len(members)} files of {size / 1e6:.0f} MB, expected at most "
                    f"{_MAX_MEMBERS} of {_MAX_ARCHIVE / 1e6:.0f} MB; ask for a smaller one."
                )
            folder.mkdir(parents=True)
            for member in members:
                name = PurePosixPath(member.filename.replace("\\", "/"))
                if name.is_absolute() or ".." in name.parts:
                    raise ValueError(
                        f"{archive.name} holds {member.filename!r}, which leads out of it; ask for another."
                    )
                if stat.S_ISLNK(member.external_attr >> 16):
                    links[member.filename] = "it is a link"
                elif name.parts and name.parts[0] != _MACOS:
                    to = folder / name
                    to.parent.mkdir(parents=True, exist_ok=True)
                    to.write_bytes(opened.read(member))
                    _set_time(to, member.date_time)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{archive.name} cannot be unpacked ({error}); ask for another.") from error
    return links


def _set_time(path: Path, date: tuple[int, int, int, int, int, int]) -> None:
    """Give an unpacked file the time in its archive; 1970 if there is none."""
    try:
        time = datetime(*date)
        seconds = time.timestamp() if time.year > 1980 else 0.0
    except ValueError:
        seconds = 0.0
    os.utime(path, (seconds, seconds))


def time_of(found: Submission) -> str | None:
    """When a submission was made: by its manifest, else by its newest notebook."""
    manifest = found.manifest or found.folder / MANIFEST
    with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
        made = datetime.fromisoformat(read_json(manifest)["made"])
        return (made if made.tzinfo else made.replace(tzinfo=UTC)).isoformat(timespec="seconds")
    times = [seconds for path in found.notebooks.values() if (seconds := path.stat().st_mtime) > 0]
    return datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds") if times else None
