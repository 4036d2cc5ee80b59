"""A class of every kind of submission: each one's points, with the reason; `hw3 check` says the same as `hw3 grade`."""

import codecs
import json
import shutil
import subprocess
import zipfile

import nbformat
import pytest
from course_helpers import mark, small_homework
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output, new_raw_cell

from hw3utils.course.assignment import EDITION, CellState
from hw3utils.course.grading import session
from hw3utils.course.notebooks.cells import ANSWER, STUB, marked_cells
from hw3utils.course.student import check

pytest.importorskip("nbgrader", reason="nbgrader is not installed")

EXERCISES, QUESTIONS = 6, 3
# Behind the exercises of `CODE`, a check of the homework. Everybody has it right, and it must not pay for the others.
SETUP = "import torch\nfrom hw3utils.course import Report, checks\nreport = Report('01')"
NOISY = """def noisy(x0, t, eps, schedule):
    ### BEGIN SOLUTION
    bar = schedule.alpha_bar[t].to(x0.dtype).view(-1, *[1] * (x0.ndim - 1))
    return bar.sqrt() * x0 + (1 - bar).sqrt() * eps
    ### END SOLUTION"""
NOISY_CHECK = "report.check('Q1.P2', 'error', checks.check_perturb_input(noisy), below=1e-5, fresh=True)"
POINTS = EXERCISES
RIGHT = "def {f}(x):\n    return 2 * x"
SCALED = "def {f}(x):\n    return {f}_factor[0] * x"
# The solution of one exercise ({f}: its function), its point, and words of the message or of the problems.
CODE = {
    "right": (RIGHT, 1, ""),
    "stub": (None, 0, "NotImplementedError"),
    "wrong": ("def {f}(x):\n    return 3 * x", 0, "it must double"),
    "nothing returned": ("def {f}(x):\n    2 * x", 0, "TypeError"),
    "syntax error": ("def {f}(x:\n    return 2 * x", 0, "NameError"),
    "empty cell": ("", 0, "NameError"),
    "quit() in the cell": (RIGHT + "\nquit()", 1, ""),
    "sys.exit() in the cell": (RIGHT + "\nimport sys\nsys.exit()", 1, ""),
    "exit() in the function": ("def {f}(x):\n    exit()", 0, ""),
    "the process ends in the function": ("import os\ndef {f}(x):\n    os._exit(0)", 0, "ended its process"),
    "the process kills itself in the cell": ("import os\nos.kill(os.getpid(), 9)", 0, "ended its process"),
    "endless function": ("def {f}(x):\n    while True:\n        pass", 0, "took longer than 3 s"),
    "endless cell": ("while True:\n    pass", 0, "took longer than 3 s"),
    "endless recursion": ("def {f}(x):\n    return {f}(x)", 0, "RecursionError"),
    "interrupts": ("def {f}(x):\n    raise KeyboardInterrupt", 0, ""),
    "asks for input": ("factor = int(input())\n" + RIGHT, 0, "NameError"),
    "closes the output": ("import sys\nsys.stdout.close()\n" + RIGHT, 1, ""),
    "has no output": ("import sys\nsys.stdout = sys.stderr = None\n" + RIGHT, 1, ""),
    "prints without end": ("for _ in range(10**5):\n    print('x' * 200)\n" + RIGHT, 1, ""),
    "a figure of 20 MB": (
        "from IPython.display import HTML, display\ndisplay(HTML('<b>x</b>' * 2_500_000))\n" + RIGHT, 1, "",
    ),
    "timed by a magic": ("%%time\n" + RIGHT, 1, ""),
    "installs": ("!pip install nothing\n" + RIGHT, 1, "not run in grading"),
    "changes the folder": ("%cd /\nimport os\nos.chdir('/')\n" + RIGHT, 1, ""),
    "removes all files": (
        "import os\nfor name in os.listdir():\n    os.path.isfile(name) and os.remove(name)\n" + RIGHT, 1, "",
    ),
    "imports a file beside": ("from my_helper import double as {f}", 1, ""),
    "reads a file in a folder": ("{f} = eval(open('data/double.txt').read())", 0, "data"),
    "a name of a cell below": ("def {f}(x):\n    return below(x)", 1, ""),
    "a thread without end": (
        "import threading\nthreading.Thread(target=threading.Event().wait).start()\n" + RIGHT, 1, "",
    ),
    "a process without end": ("import subprocess\nsubprocess.Popen(['sleep', '1000'])\n" + RIGHT, 1, ""),
    "more memory than there is": ("memory = bytearray(10**13)\n" + RIGHT, 0, "NameError"),
    "an object that is called": (
        "class Double:\n    def __call__(self, x):\n        return 2 * x\n{f} = Double()", 1, "",
    ),
    "with a cache": ("import functools\n@functools.cache\n" + RIGHT, 1, ""),
    "a result of NumPy": ("import numpy as np\ndef {f}(x):\n    return np.float64(2) * x", 1, ""),
    "async": ("async def {f}(x):\n    return 2 * x", 0, ""),
    "a generator": ("def {f}(x):\n    yield 2 * x", 0, ""),
    "print is replaced": ("import builtins\nbuiltins.print = None\n" + RIGHT, 1, ""),
    "equal to everything": (
        "class Equal:\n    def __eq__(self, other):\n        return True\ndef {f}(x):\n    return Equal()", 0, "",
    ),
    "Windows line ends": (RIGHT.replace("\n", "\r\n"), 1, ""),
    "Persian names": ("def دو(x):\n    return 2 * x\n{f} = دو", 1, ""),
    "warnings are errors": ("import warnings\nwarnings.simplefilter('error')\n" + RIGHT, 1, ""),
    "clears its names": ("def {f}(x):\n    globals().clear()\n    return 2 * x", 1, ""),
    "the exercise is deleted": ("%reset -f\n" + RIGHT, 1, ""),
    "a helper changed by a method": (SCALED, 1, ""),
    "a helper with a magic": (SCALED, 1, ""),
    "a helper bound in a function": (SCALED, 1, ""),
    "a helper below commands of a shell": (SCALED, 1, ""),
    "a helper that is missing": ("def {f}(x):\n    return missing(x)", 0, "missing"),
    "solved at the end": (None, 1, ""),
}  # fmt: skip
# Cells that these have at the beginning and at the end of the notebook.
CELLS = {
    "a name of a cell below": ("", "def below(x):\n    return 2 * x"),
    "a helper changed by a method": ("{f}_factor = []\n{f}_factor.append(2)", ""),
    "a helper with a magic": ("%%time\n{f}_factor = [2]", ""),
    "a helper bound in a function": ("def prepare():\n    global {f}_factor\n    {f}_factor = [2]\nprepare()", ""),
    "a helper below commands of a shell": ("!pip install nothing\n%cd /\n{f}_factor = [2]", ""),
    "solved at the end": ("", RIGHT),
}
MINE = "My derivation."


def written(notebook, name, text):
    """Write an answer into its cell."""
    marked_cells(notebook)[name].source = text


def beside(kind, step):
    """Write an answer into a cell of a kind before (0) or behind (1) its own."""

    def write(notebook, name, text):
        place = notebook.cells.index(marked_cells(notebook)[name])
        notebook.cells.insert(place + step, kind(f"# {text}" if kind is new_code_cell else text))

    return write


def in_question(notebook, name, text):
    marked_cells(notebook)[name.replace("answer", "question")].source += f"\n\n{text}"


def at_the_end(notebook, name, text):
    notebook.cells.append(new_markdown_cell(text))


def split(notebook, name, text):
    cell = marked_cells(notebook)[name]
    cell.source = text
    notebook.cells.insert(notebook.cells.index(cell) + 1, new_markdown_cell("More.", metadata=dict(cell.metadata)))


def cell_deleted(notebook, name, text):
    beside(new_markdown_cell, 1)(notebook, name, text)
    notebook.cells.remove(marked_cells(notebook)[name])


def a_photo(notebook, name, text):
    cell = marked_cells(notebook)[name]
    cell.source = f"{text} ![](attachment:p.png)"
    cell.attachments = {"p.png": {"image/png": "AAAA"}}


# How a question is answered, and whether the answer is to be read (or blank).
ANSWERS = {
    "in its cell": (written, True),
    "blank": (lambda notebook, name, text: None, False),
    "deleted text": (lambda notebook, name, text: written(notebook, name, ""), False),
    "in the locked question": (in_question, True),
    "in a cell below": (beside(new_markdown_cell, 1), True),
    "in a cell above": (beside(new_markdown_cell, 0), True),
    "in a raw cell": (beside(new_raw_cell, 1), True),
    "as a comment in code": (beside(new_code_cell, 1), True),
    "in two cells": (split, True),
    "at the end": (at_the_end, True),
    "in place of its cell": (cell_deleted, True),
    "a photo": (a_photo, True),
}


def cells(setup):
    found = [new_code_cell(setup, metadata=mark("Q1-setup", locked=True))]
    for k in range(EXERCISES):
        item = f"Q1-P{k + 1}"
        source = f"def f{k}(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION"
        role = {"grade": True, "locked": True, "points": 1}
        found.append(new_code_cell(source, metadata=mark(f"{item}-solution", solution=True)))
        found.append(
            new_code_cell(f"assert f{k}(2) - 4 == 0, 'it must double'", metadata=mark(f"{item}-check", **role))
        )
    if setup:
        found.append(new_code_cell(NOISY, metadata=mark("Q1-P7-solution", solution=True)))
        found.append(new_code_cell(NOISY_CHECK, metadata=mark("Q1-P7-check", **role)))
    for k in range(QUESTIONS):
        item, role = f"Q1-T{k + 1}", {"grade": True, "solution": True, "points": 5}
        found.append(new_markdown_cell(f"**Why {k}?**", metadata=mark(f"{item}-question", "markdown", locked=True)))
        found.append(new_markdown_cell("Because.", metadata=mark(f"{item}-answer", "markdown", **role)))
    return found


def solved(edition, exercises=("right",) * EXERCISES, answers=(written,) * QUESTIONS):
    """The edition with these solutions, by their names in `CODE`, and ways of answering."""
    notebook = nbformat.read(edition, as_version=4)
    marked = marked_cells(notebook)
    if "Q1-P7-solution" in marked:
        marked["Q1-P7-solution"].source = "\n".join(line for line in NOISY.splitlines() if "SOLUTION" not in line)
    for k, name in enumerate(exercises):
        source, (before, after) = CODE[name][0], CELLS.get(name, ("", ""))
        if source is not None:
            marked[f"Q1-P{k + 1}-solution"].source = source.replace("{f}", f"f{k}")
        if before:
            notebook.cells.insert(1, new_code_cell(before.replace("{f}", f"f{k}")))
        if after:
            notebook.cells.append(new_code_cell(after.replace("{f}", f"f{k}")))
    for k, answer in enumerate(answers):
        answer(notebook, f"Q1-T{k + 1}-answer", f"{MINE} {k}")
    return notebook


def put(folder, notebook, name="01_small.ipynb", number="4711", **files):
    """A folder of a submission."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(nbformat.writes(notebook), encoding="utf-8")
    if number is not None:
        (folder / "student_number.txt").write_text(number, encoding="utf-8")
    (folder / "my_helper.py").write_text("def double(x):\n    return 2 * x")
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "double.txt").write_text("lambda x: 2 * x")
    return folder


def packed(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def named(name):
    return lambda folder, notebook: put(folder, notebook, name)


def with_number(content):
    def make(folder, notebook):
        put(folder, notebook, number=None)
        if content is not None:
            (folder / "student_number.txt").write_bytes(content)
        return folder

    return make


def changed(change, encode=lambda text: text.encode()):
    """A notebook whose JSON was changed."""

    def make(folder, notebook):
        content = json.loads(nbformat.writes(notebook))
        content = change(content) or content
        put(folder, notebook)
        (folder / "01_small.ipynb").write_bytes(encode(content if isinstance(content, str) else json.dumps(content)))
        return folder

    return make


def no_marks(content):
    for cell in content["cells"]:
        cell["metadata"] = {}


def more_points(content):
    for cell in content["cells"]:
        cell["metadata"].get("nbgrader", {})["points"] = 100


def check_deleted(content):
    content["cells"] = [
        c for c in content["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") != "Q1-P1-check"
    ]


def check_changed(content):
    for cell in content["cells"]:
        if cell["metadata"].get("nbgrader", {}).get("grade_id") == "Q1-P1-check":
            cell["source"] = ["assert True"]


def ids_twice(content):
    for cell in content["cells"]:
        cell["id"] = "same"


def zipped(inner):
    return lambda folder, notebook: packed(
        folder.with_suffix(".zip"), {inner: nbformat.writes(notebook), "student_number.txt": "4711"}
    )


def zip_in_zip(folder, notebook):
    inner = packed(folder / "inner.zip", {"01_small.ipynb": nbformat.writes(notebook), "student_number.txt": "4711"})
    made = packed(folder.with_suffix(".zip"), {"hand in/inner.zip": inner.read_bytes()})
    shutil.rmtree(folder)
    return made


def two_copies(folder, notebook):
    put(folder, notebook, "01_small (1).ipynb")
    for cell in marked_cells(notebook).values():
        if cell.metadata["nbgrader"]["solution"]:
            cell.source = STUB if cell.cell_type == "code" else ANSWER
    return put(folder, notebook)


def link(folder, notebook):
    put(folder, notebook)
    (folder / "01_small.ipynb").rename(folder / "data" / "elsewhere.txt")
    (folder / "01_small.ipynb").symlink_to(folder / "data" / "elsewhere.txt")
    return folder


def shadow(folder, notebook):
    put(folder, notebook)
    (folder / "torch.py").write_text("raise SystemExit")
    return folder


def large_output(folder, notebook):
    notebook.cells[0].outputs = [new_output("stream", text="x" * 60_000_000)]
    return put(folder, notebook)


def only(content, name="01_small.ipynb"):
    def make(folder, notebook):
        folder.mkdir(parents=True)
        if name:
            (folder / name).write_bytes(content)
        return folder

    return make


def other_homework(folder, notebook):
    notebook.cells = [new_code_cell("print('another homework')")]
    return put(folder, notebook, "hw2.ipynb")


# A right notebook in every form: how it is handed in, its points, and a word of the problems that are named.
FILES = {
    "folder": (put, POINTS, ""),
    "notebook": (lambda folder, notebook: put(folder, notebook) / "01_small.ipynb", POINTS, ""),
    "zip": (zipped("01_small.ipynb"), POINTS, ""),
    "zip with folders": (zipped("a/b/01_small.ipynb"), POINTS, ""),
    "zip in a zip": (zip_in_zip, POINTS, ""),
    "Copy of": (named("Copy of 01_small.ipynb"), POINTS, "was taken for"),
    "Copy1": (named("01_small-Copy1.ipynb"), POINTS, "was taken for"),
    "ipynb.json": (named("01_small.ipynb.json"), POINTS, "was taken for"),
    "upper case": (named("01_SMALL.IPYNB"), POINTS, "was taken for"),
    "Canvas": (named("smithjohn_LATE_1234_567890_01_small-1.ipynb"), POINTS, "was taken for"),
    "Moodle": (named("Ann Lee_12345_assignsubmission_file_/01_small.ipynb"), POINTS, ""),
    "Persian name": (named("تکلیف/01_small.ipynb"), POINTS, ""),
    "a name that clears the screen": (named("01_small\x1b[2J.ipynb"), POINTS, "was taken for"),
    "two copies": (two_copies, POINTS, "fuller or newer"),
    "no metadata": (changed(no_marks), POINTS, ""),
    "more points in its marks": (changed(more_points), POINTS, ""),
    "all cells with one id": (changed(ids_twice), POINTS, ""),
    "UTF-16": (changed(lambda content: None, lambda text: text.encode("utf-16")), POINTS, ""),
    "byte order mark": (changed(lambda content: None, lambda text: codecs.BOM_UTF8 + text.encode()), POINTS, ""),
    "cut off": (changed(lambda content: json.dumps(content)[:400]), 0, "cut off"),
    "check deleted": (changed(check_deleted), POINTS, "was deleted"),
    "check changed": (changed(check_changed), POINTS, "was changed"),
    "output of 60 MB": (large_output, POINTS, ""),
    "link": (link, 0, "it is a link"),
    "a file called torch.py": (shadow, POINTS, "in the way of the module torch"),
    "no number": (with_number(None), POINTS, "no student_number.txt"),
    "two numbers": (with_number(b"4711 4712"), POINTS, "expected a student number"),
    "number in Persian": (with_number("۴۷۱۱".encode()), POINTS, ""),
    "number of PowerShell": (with_number("4711\r\n".encode("utf-16")), POINTS, ""),
    "nothing": (only(b"", None), 0, "was not handed in"),
    "a text": (only(b"I could not do it."), 0, "cannot be read"),
    "an empty file": (only(b""), 0, "cannot be read"),
    "7z": (only(b"7z", "all.7z"), 0, "ask for a zip"),
    "another homework": (other_homework, 0, "was not handed in"),
    "a name outside of the zip": (
        lambda folder, notebook: packed(folder.with_suffix(".zip"), {"../01_small.ipynb": "{}"}), 0, "leads out of it",
    ),
    "too many files": (
        lambda folder, notebook: packed(folder.with_suffix(".zip"), {f"{n}.txt": "" for n in range(1001)}), 0, "1001",
    ),
}  # fmt: skip


def groups(names, size):
    names = list(names)
    return [names[n : n + size] for n in range(0, len(names), size)]


def allowed():
    words = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"]
    return shutil.which("bwrap") is not None and subprocess.run(words, check=False).returncode == 0


@pytest.fixture(scope="module", params=["default", "sandbox"])
def graded(request, tmp_path_factory):
    """The class, graded: submissions of code and answers by their group, of files by their kind."""
    sandbox = request.param == "sandbox"
    if sandbox and not allowed():
        pytest.skip("bubblewrap is not installed, or not allowed here")
    folder = tmp_path_factory.mktemp("class")
    code, others, results = {}, {}, {}
    with small_homework(folder / "1", cells(SETUP)) as edition:
        for n, names in enumerate(groups(CODE, EXERCISES)):
            code[tuple(names)] = put(folder / f"code-{n}", solved(edition, names), number=f"1{n}")
        results |= grade(code, edition, folder / "out-1", sandbox)
    with small_homework(folder / "2", cells("")) as edition:
        for n, names in enumerate(groups(ANSWERS, QUESTIONS)):
            notebook = solved(edition, ["stub"] * EXERCISES, [ANSWERS[name][0] for name in names])
            others[tuple(names)] = put(folder / f"answers-{n}", notebook, number=f"2{n}")
        # What is unpacked does not depend on the sandbox.
        for n, (name, (make, *_)) in enumerate(FILES.items()):
            if not sandbox or n % 6 == 0:
                others[name] = make(folder / f"file-{n}", solved(edition))
        results |= grade(others, edition, folder / "out-2", sandbox)
    return folder / "out-2", code | others, results


def grade(places, edition, out, sandbox):
    """Grade these submissions; the result of each."""
    for names, place in places.items():
        if isinstance(names, tuple):
            shutil.copy(edition.parent / EDITION, place / EDITION)
    found = session.grade(list(places.values()), out, timeout=3, seed=3, jobs=2, sandbox=sandbox)
    return dict(zip(places, found, strict=True))


@pytest.mark.parametrize("name", CODE)
def test_code(name, graded):
    *_, results = graded
    [(group, result)] = [(key, found) for key, found in results.items() if isinstance(key, tuple) and name in key]
    _, points, reason = CODE[name]
    cell = result.cells[group.index(name)]
    print(name, "|", f"{cell.points:g}", "|", cell.state, cell.message)
    assert cell.points == points
    assert reason in cell.message + " ".join(result.problems)
    assert bool(points) == (cell.state == CellState.PASSED)
    assert result.cells[EXERCISES].state == CellState.PASSED, result.cells[EXERCISES].message


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name, graded):
    out, _, results = graded
    [(group, result)] = [(key, found) for key, found in results.items() if isinstance(key, tuple) and name in key]
    k, to_read = group.index(name), ANSWERS[name][1]
    cell = result.cells[POINTS + k]
    print(name, "|", "to read" if cell.message == "" else "blank", "|", *result.problems)
    assert cell.state == CellState.TO_READ
    notebook = nbformat.read(out / "submitted" / result.student / "hw3" / "01_small.ipynb", as_version=4)
    text = marked_cells(notebook)[f"Q1-T{k + 1}-answer"].source
    assert (f"{MINE} {k}" in text) == to_read
    assert (cell.message == "") == (text not in ("", ANSWER))


@pytest.mark.parametrize("name", FILES)
def test_files(name, graded):
    *_, results = graded
    if name not in results:
        pytest.skip("it does not depend on the sandbox")
    result, (_, points, reason) = results[name], FILES[name]
    print(name, "|", f"{result.points():g}", "|", *result.problems)
    assert result.points() == points
    assert reason in " ".join(result.problems)


@pytest.mark.parametrize("graded", ["default"], indirect=True)
@pytest.mark.parametrize("name", groups(CODE, EXERCISES) + groups(ANSWERS, QUESTIONS), ids=lambda names: names[0])
def test_check_and_grade_agree(name, graded, monkeypatch):
    """As a student has it, without the homework's own notebooks."""
    _, places, results = graded
    monkeypatch.setattr(check, "find_notebooks", lambda names=(): [])
    parts = check.check_notebook(places[tuple(name)] / "01_small.ipynb", timeout=3)
    points = {
        cell.cell: cell.state == CellState.PASSED or not (cell.automatic or cell.message)
        for cell in results[tuple(name)].cells
    }
    if "clears its names" in name:
        # In the student's process the names that the next check uses are gone, too.
        points["Q1-P7-check"] = False
    assert {part.cell: part.state == CellState.DONE for part in parts} == points
