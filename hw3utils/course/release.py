"""The student edition: solutions become stubs, answers become blank, the checks stay."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hw3utils.course.assignment import STUDENT_FILE
from hw3utils.course.notebooks.cells import (
    Course,
    need_nbgrader,
    program_path,
)
from hw3utils.course.notebooks.execute import NOTEBOOKS, environment, find_notebooks
from hw3utils.files import check_writable, write_atomically


def release(out: Path, names: Sequence[str] = ()) -> list[Path]:
    """Write the student edition: solutions replaced by a stub that raises, answers blank, checks unchanged.

    Args:
        out: folder to write, new or empty, or an earlier edition.
        names: which notebooks (see `find_notebooks`); none is all.

    Returns:
        The notebooks written.

    Raises:
        ModuleNotFoundError: without nbgrader.
        ValueError: unknown notebooks, or a folder with other files in it.
        OSError: when the folder cannot be written.
    """
    need_nbgrader()
    paths = find_notebooks(names)
    ours = {path.name for path in find_notebooks()} | {STUDENT_FILE}
    if out.exists():
        foreign = sorted(path.name for path in out.iterdir() if path.name not in ours) if out.is_dir() else [out.name]
        if foreign:
            raise ValueError(f"{out} holds {foreign[0]!r}, which is no part of an edition; choose a new folder.")
    check_writable(out)
    written = []
    with tempfile.TemporaryDirectory(prefix="hw3-release-") as folder, environment(PATH=program_path()):
        course = Course(Path(folder))
        made = course.generate(paths)
        out.mkdir(parents=True, exist_ok=True)
        for path in made:
            written.append(write_atomically(out / path.name, lambda to, path=path: shutil.copyfile(path, to)))
    number = NOTEBOOKS / STUDENT_FILE
    write_atomically(out / STUDENT_FILE, lambda to: shutil.copyfile(number, to))
    return written
