"""What lies in a submission: a notebook, a folder, or an archive as `hw3 submit` and learning platforms make them."""

import contextlib
import importlib.util
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from hw3utils.course.assignment import STUDENT_FILE
from hw3utils.files import read_json

MANIFEST = "manifest.json"
MAX_FILE = 50_000_000
_MAX_ARCHIVE = 500_000_000
_MAX_MEMBERS = 1000
_COPY = re.compile(r"[ _]?\((\d+)\)(?=\.ipynb$)")
_OF_THE_SYSTEM = "__MACOSX"


@dataclass
class HandedIn:
    """The files of a submission: notebooks by the homework's names, what lies beside them, what was left out and why.

    `folder` is where the student's number stands.
    """

    folder: Path
    notebooks: dict[str, Path] = field(default_factory=dict)
    beside: list[Path] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def open_submission(path: Path, spare: Path, homework: Collection[str]) -> HandedIn:
    """Find the files of a submission; nothing in it is changed.

    The notebooks may lie one folder deeper than they should, or in the one archive that a folder or an archive holds,
    and be called "x (1).ipynb".

    Args:
        path: a notebook, a folder, or a zip file.
        spare: a folder that an archive is unpacked into; it need not exist.
        homework: the names of the homework's notebooks.

    Raises:
        ValueError: when an archive is damaged, too large, or holds a name that leads out of it.
    """
    if path.is_file() and not zipfile.is_zipfile(path) and path.suffix.lower() != ".zip":
        return HandedIn(path.parent, {_original([path.name], homework).get(path.name, path.name): path})
    packed = path.is_file()
    links = _unpack(path, spare) if packed else {}
    folder = _home(spare if packed else path)
    files, left_out = sort_files(folder)
    archives = [file for file in files if file.suffix.lower() == ".zip"]
    if len(archives) == 1 and not any(file.suffix == ".ipynb" for file in files):
        inner = spare.with_name(f"{spare.name}-inner")
        links |= _unpack(archives[0], inner)
        folder = _home(inner)
        files, left_out = sort_files(folder)
    found = HandedIn(folder, left_out=links | left_out)
    originals = _original([file.name for file in files], homework)
    for file in files:
        if file.suffix == ".ipynb":
            found.notebooks[originals.get(file.name, file.name)] = file
        elif hides := _hidden_module(file):
            found.left_out[file.name] = f"it would stand in the way of the module {hides}"
        elif file.name != STUDENT_FILE:
            found.beside.append(file)
    return found


def sort_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The files that lie directly in a folder and count as handed in; the names of the others, and why they do not."""
    files, left_out = [], {}
    for path in sorted(folder.iterdir()):
        kind = path.lstat()
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
        elif kind.st_size > MAX_FILE:
            left_out[path.name] = f"it has {kind.st_size / 1e6:.0f} MB, more than {MAX_FILE / 1e6:.0f}"
        else:
            files.append(path)
    return files, left_out


def _home(folder: Path) -> Path:
    """The folder that holds the notebooks: the given one, or the only one in it."""
    inner = [
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.is_symlink() and not path.name.startswith(".") and path.name != _OF_THE_SYSTEM
    ]
    return inner[0] if len(inner) == 1 and not list(folder.glob("*.ipynb")) else folder


def _original(names: list[str], homework: Collection[str]) -> dict[str, str]:
    """Which notebook a download's copy is, "x (1).ipynb": the copy of the highest number, where x itself is not."""
    copies: dict[str, tuple[int, str]] = {}
    for name in names:
        if copy := _COPY.search(name):
            original = _COPY.sub("", name)
            if original in homework and original not in names:
                copies[original] = max(copies.get(original, (-1, "")), (int(copy[1]), name))
    return {name: original for original, (_, name) in copies.items()}


def _hidden_module(file: Path) -> str | None:
    """The installed module that a file beside the notebooks would be imported in place of."""
    stem = file.name.split(".")[0]
    if file.suffix not in (".py", ".pyc", ".so", ".pyd") or not stem.isidentifier():
        return None
    # Every program has a __main__, which nobody imports.
    return stem if stem != "__main__" and importlib.util.find_spec(stem) else None


def _unpack(archive: Path, folder: Path) -> dict[str, str]:
    """Write an archive's files into a folder and nowhere else, without what macOS adds; the links left out, and why."""
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
                    continue
                if not name.parts or name.parts[0] == _OF_THE_SYSTEM:
                    continue
                to = folder / name
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes(opened.read(member))
                _set_time(to, member.date_time)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{archive.name} cannot be unpacked ({error}); ask for another.") from error
    return links


def _set_time(path: Path, date: tuple[int, ...]) -> None:
    """Give an unpacked file the time that its archive says; 1970 where it says none."""
    try:
        seconds = datetime(*date).timestamp() if date[0] > 1980 else 0.0
    except ValueError:
        seconds = 0.0
    os.utime(path, (seconds, seconds))


def time_of(found: HandedIn) -> str | None:
    """When a submission was made: by its manifest, else by its newest notebook."""
    with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
        made = datetime.fromisoformat(read_json(found.folder / MANIFEST)["made"])
        return (made if made.tzinfo else made.replace(tzinfo=UTC)).isoformat(timespec="seconds")
    times = [seconds for path in found.notebooks.values() if (seconds := path.stat().st_mtime) > 0]
    return datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds") if times else None
