"""The student edition: notebooks with stubs and blank answers, a README, and the package as a wheel."""

import base64
import csv
import hashlib
import io
import re
import shutil
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from PIL import Image

from hw3utils.course.assignment import EDITION, ITEMS, STUDENT_FILE
from hw3utils.course.notebooks.cells import (
    EXPECTED_PICTURE,
    Course,
    is_check,
    marked_cells,
    need_nbgrader,
    program_path,
)
from hw3utils.course.notebooks.execute import CONTINUE_TAG, NOTEBOOKS, ROOT, environment, find_notebooks, read_notebook
from hw3utils.files import check_writable, read_json, write_atomically, write_json

PACKAGE = Path(__file__).resolve().parents[1]
_IN_WHEEL = (".py", ".json", ".safetensors", ".txt", ".typed")
_SOLUTION_MARKS = ("### BEGIN SOLUTION", "### END SOLUTION")
README, REQUIREMENTS = "README.md", "requirements.txt"
STUDENT_README = """# Homework 3: diffusion and score-based generative models

Seven notebooks: you write the parts that are marked, and each has a check that tells at once whether it is right. A
note below its line names what would stop with tensors on a GPU; it costs no points.
Notebooks 01 to 06 are graded ({points} points), 07 is for those who want to go on.

## Install

Python 3.11 or later, in this folder:

    python -m venv .venv && . .venv/bin/activate
    pip install -r requirements.txt
    jupyter lab

In the cloud, the first cell of a notebook does it, in every session anew:

* *A Jupyter server*: upload this folder, open a notebook in it, and run `%pip install -r requirements.txt`.
* *Colab*: upload this folder to Google Drive, and open a notebook there. The first cell, with your folder's name:

      from google.colab import drive
      drive.mount("/content/drive")
      %cd /content/drive/MyDrive/edition
      %pip install -r requirements.txt

* *Kaggle*: upload this folder, zipped, as a dataset, import a notebook, add the dataset as its input, and switch the
  internet on. The first cell, with the path that Kaggle shows for the dataset:

      !cp -rn /kaggle/input/edition/. .
      %pip install -r requirements.txt

  `hw3` does not see the notebook that you edit there. Download it, and check and hand in where all of them are in one
  folder.

pip keeps what is installed and fits, such as the cloud's torch (2.11 or later). If it replaces a package that the
session has already imported, restart the session and run the cell again. What is outside this folder is lost when the
session ends; in Colab, this folder is in Google Drive and stays.

## Work

Write your student number into `student_number.txt` (in a cell: `!echo NUMBER > student_number.txt`). Begin with Q1.P1
in `01_forward_process.ipynb`: replace the line with `NotImplementedError` by your code, run the cell and the check
below it. Answers in text go into the cells that say *Your answer here.* Locked cells are restored before grading:
write below them, not into them.

| notebook | about |
|---|---|
| 01 forward process | 5 hours |
| 02 DDPM training | 5 hours |
| 03 DDIM | 5 hours |
| 04 FID | 3 hours |
| 05 score matching | 6 hours |
| 06 Langevin dynamics | 6 hours |
| 07 one process (optional) | 4 hours |

`hw3 check` runs all checks of the notebooks in this folder in a minute or two, without the experiments, and lists what
is done, missing or failed. Grading runs the same checks on other random input. Save a notebook before you check it.
In a cell, write `!hw3 check`. Where the shell does not find `hw3`, write `import sys` and, in the next line,
`!{{sys.executable}} -m hw3utils check`.

The hidden file `.edition.json` has the notebooks as you got them: `hw3 check` compares yours with them, and repairs
damaged cells as grading does. Some browsers leave hidden files out when they upload a folder; `hw3 check` then says
that it compares nothing.

## Hand in

`hw3 submit` checks everything and packs `submission.zip`: the notebooks, your student number, and files beside them
that your notebooks need. Hand in that one file{due}.

## Rules

{rules}
"""
_RULES = "(Your teacher writes here what you may work on together, and what you must write alone.)"


def release(
    out: Path,
    names: Sequence[str] = (),
    *,
    package: bool = False,
    answers: bool = False,
    due: str = "",
    rules: str = "",
) -> list[Path]:
    """Write the student edition: solutions replaced by a stub that raises, answers blank, checks unchanged.

    Args:
        out: folder to write, new or empty, or an earlier edition.
        names: which notebooks (see `find_notebooks`); none is all.
        package: also build the package as a wheel, so that the folder needs nothing else.
        answers: for those who learn alone: each solution and answer folded below its exercise.
        due: the deadline, for the README.
        rules: on working together, for the README.

    Returns:
        The notebooks written.

    Raises:
        ModuleNotFoundError: without nbgrader.
        ValueError: unknown notebooks, or a folder with other files in it.
        OSError: when the folder cannot be written.
    """
    paths = find_notebooks(names)
    need_nbgrader()
    wheel = _wheel_name()
    known = {path.name for path in find_notebooks()} | {STUDENT_FILE, README, REQUIREMENTS, EDITION, wheel}
    if out.exists():
        foreign = sorted(path.name for path in out.iterdir() if path.name not in known) if out.is_dir() else [out.name]
        if foreign:
            raise ValueError(f"{out} holds {foreign[0]!r}, which is no part of an edition; choose a new folder.")
    check_writable(out)
    written = []
    # `hw3 check` compares with it, as grading does.
    as_released = read_json(out / EDITION) if (out / EDITION).is_file() else {}
    with tempfile.TemporaryDirectory(prefix="hw3-release-") as folder, environment(PATH=program_path()):
        course = Course(Path(folder))
        for path, made in zip(paths, course.generate(paths), strict=True):
            notebook = read_notebook(made)
            _run_to_the_end(notebook)
            _add_expected_pictures(notebook)
            if answers:
                _fold_answers(notebook, read_notebook(path))
            text = nbformat.writes(notebook) + "\n"
            written.append(_write(out / path.name, text))
            as_released[path.name] = notebook
    write_json(out / EDITION, as_released)
    number = NOTEBOOKS / STUDENT_FILE
    write_atomically(out / STUDENT_FILE, lambda to: shutil.copyfile(number, to))
    points = sum(item.points for item in ITEMS.values())
    when = f", by {due}" if due else " (your teacher says where and by when)"
    _write(out / README, STUDENT_README.format(points=points, due=when, rules=rules or _RULES))
    _write(out / REQUIREMENTS, _requirements(f"./{wheel}" if package else "hw3utils"))
    if package:
        write_atomically(out / wheel, build_wheel)
    return written


def _requirements(package: str) -> str:
    """The versions of this repository as the newest ones: a new environment gets them, the cloud keeps older ones."""
    lines = (ROOT / REQUIREMENTS).read_text(encoding="utf-8").splitlines()
    pins = [line.replace("==", "<=") for line in lines if "==" in line]
    return "\n".join(
        ["# In a new environment pip takes these versions; older ones that fit are kept.", *pins, package, ""]
    )


def _write(path: Path, text: str) -> Path:
    return write_atomically(path, lambda to: to.write_text(text, encoding="utf-8"))


def _run_to_the_end(notebook: NotebookNode) -> None:
    """Let Run All go past an exercise that raises; `hw3 run`, nbval and grading still stop at every error."""
    for name, cell in marked_cells(notebook).items():
        if cell.cell_type == "code" and (cell.metadata["nbgrader"].get("solution") or is_check(name)):
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), CONTINUE_TAG]


def _add_expected_pictures(notebook: NotebookNode) -> None:
    """Insert below each cell that draws a figure a small picture of how it may look, folded."""
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        name = re.search(r"plots\.figure\(\s*\"(\w+)\"", cell.source) if cell.cell_type == "code" else None
        path = ROOT / "figures" / f"{name[1]}.png" if name else None
        if path is not None and path.is_file():
            buffer = io.BytesIO()
            with Image.open(path) as picture:
                small = picture.convert("RGB")
            small.thumbnail((480, 360))
            small.quantize(32).save(buffer, "png", optimize=True)
            cells.append(new_markdown_cell(EXPECTED_PICTURE.format(base64.b64encode(buffer.getvalue()).decode())))
    notebook.cells = cells


def _fold_answers(edition: NotebookNode, solved: NotebookNode) -> None:
    """Insert the solution or answer of each exercise below its cell, folded."""
    solutions = marked_cells(solved)
    cells = []
    for cell in edition.cells:
        cells.append(cell)
        mark = cell.metadata.get("nbgrader", {})
        if mark.get("solution"):
            source = solutions[mark["grade_id"]].source
            if cell.cell_type == "code":
                lines = [line for line in source.splitlines() if line.strip() not in _SOLUTION_MARKS]
                source = "\n".join(["```python", *lines, "```"])
            folded = f"<details><summary>One solution</summary>\n\n{source}\n\n</details>"
            cells.append(new_markdown_cell(folded))
    edition.cells = cells


def _project() -> dict:
    return tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _wheel_name() -> str:
    return f"{_project()['name']}-{_project()['version']}-py3-none-any.whl"


def build_wheel(path: Path) -> None:
    """Write the package as a wheel, without network and build tools; the same files give the same wheel."""
    project = _project()
    info = f"{project['name']}-{project['version']}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}"]
    metadata += [f"Summary: {project['description']}", f"Requires-Python: {project['requires-python']}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in project["dependencies"]]
    for extra, requirements in project.get("optional-dependencies", {}).items():
        metadata.append(f"Provides-Extra: {extra}")
        metadata += [f'Requires-Dist: {requirement}; extra == "{extra}"' for requirement in requirements]
    scripts = [f"{name} = {target}" for name, target in project["scripts"].items()]
    files = {
        f"{PACKAGE.name}/{path.relative_to(PACKAGE).as_posix()}": path.read_bytes()
        for path in sorted(PACKAGE.rglob("*"))
        if path.is_file() and (path.suffix in _IN_WHEEL or path.name == README) and "__pycache__" not in path.parts
    }
    files[f"{info}/METADATA"] = "\n".join([*metadata, ""]).encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: hw3\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = "\n".join(["[console_scripts]", *scripts, ""]).encode()
    record = io.StringIO()
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        csv.writer(record, lineterminator="\n").writerow([name, f"sha256={digest}", len(content)])
    csv.writer(record, lineterminator="\n").writerow([f"{info}/RECORD", "", ""])
    files[f"{info}/RECORD"] = record.getvalue().encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
