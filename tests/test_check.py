"""`hw3 check`: only the dependencies of the checks run; every part is done, missing or failed."""

import json
import os
import re
import signal
import subprocess
import sys

import nbformat
import pytest
from course_helpers import mark
from course_helpers import write as write_cells
from tiny import default_signals, is_running

from hw3utils.__main__ import main
from hw3utils.course.notebooks.cells import ANSWER, STUB, graded_cells, marked_cells
from hw3utils.course.notebooks.dependencies import required_statements, statements_of
from hw3utils.course.notebooks.execute import find_notebooks
from hw3utils.course.student import check
from hw3utils.course.student.check import DONE, FAILED, MISSING, check_notebook

new = nbformat.v4
SOLUTION = re.compile(r"( *)### BEGIN SOLUTION\n.*?### END SOLUTION", re.DOTALL)


def code(source, name=None, **role):
    return new.new_code_cell(source, metadata=mark(name, **role) if name else {})


def solution(name, source):
    return code(source, f"{name}-solution", solution=True)


def judge(name, source, points=1):
    return code(source, f"{name}-check", grade=True, locked=True, points=points)


def answer(name, text, points=1):
    role = mark(f"{name}-answer", grade=True, solution=True, points=points)
    return new.new_markdown_cell(text, metadata=role)


def write(path, *cells):
    return write_cells(path, cells)


def stubbed(notebook):
    """The student's version of a solved notebook, as `hw3 release` makes it."""
    for cell in marked_cells(notebook).values():
        if cell.metadata["nbgrader"]["solution"]:
            if cell.cell_type == "markdown":
                cell.source = ANSWER
            else:
                stub = lambda found: "\n".join(found[1] + line for line in STUB.splitlines())  # noqa: E731
                cell.source = SOLUTION.sub(stub, cell.source)
    return notebook


# ------------------------------------------------------------------------------------------------- what a cell needs


def chosen(*sources):
    """Which statements run for the last of some cells."""
    found = statements_of(new.new_notebook(cells=[new.new_code_cell(source) for source in sources]))
    return [found[n].source for n in sorted(required_statements(found, len(found) - 1))]


@pytest.mark.parametrize(
    ("sources", "runs"),
    [
        (["a = 1\nb = 2", "print(b)"], ["b = 2", "print(b)"]),
        (["a = 1", "a = 2", "print(a)"], ["a = 2", "print(a)"]),
        (["a = 1", "a = a + 1", "print(a)"], ["a = 1", "a = a + 1", "print(a)"]),
        (["a = []\na[0:] = [1]\nlen(a)", "print(a)"], ["a = []", "a[0:] = [1]", "print(a)"]),
        (["import os, sys\nimport math", "print(sys)"], ["import os, sys", "print(sys)"]),
        (["def f(x):\n    return g(x)", "x = 1", "def g(y):\n    return y", "f(2)"],
         ["def f(x):\n    return g(x)", "def g(y):\n    return y", "f(2)"]),
        (["k = 3", "f = lambda x: k * x", "[f(k) for k in range(2)]"],
         ["k = 3", "f = lambda x: k * x", "[f(k) for k in range(2)]"]),
        (["with open('x') as file:\n    text = 1", "text"], ["with open('x') as file:\n    text = 1", "text"]),
        (["from math import *\nz = 1", "print(pi)"], ["from math import *", "print(pi)"]),
        (["%matplotlib inline\na = 1", "!ls\na"], ["a = 1", "a"]),
        (["a = (", "print(1)"], ["print(1)"]),
        (["a = []\nb = []", "a.append(1)\nb.append(2)", "print(a)"], ["a = []", "a.append(1)", "print(a)"]),
        (["a = []", "for k in b'x':\n    a.append(k)", "a"], ["a = []", "for k in b'x':\n    a.append(k)", "a"]),
        (["import math", "math.floor(1)", "math.pi"], ["import math", "math.pi"]),
        (["import torch", "torch.set_default_dtype(1)\ntorch.ones(1)", "torch.pi"],
         ["import torch", "torch.set_default_dtype(1)", "torch.pi"]),
        (["%%time\na = 1\nb = 2", "print(b)"], ["a = 1\nb = 2", "print(b)"]),
        (["def set_a():\n    global a\n    a = 1\nset_a()", "print(a)"],
         ["def set_a():\n    global a\n    a = 1", "set_a()", "print(a)"]),
        (["%run helper.py", "print(a)"], ["get_ipython().run_line_magic('run', 'helper.py')", "print(a)"]),
    ],
)  # fmt: skip
def test_only_dependencies_run(sources, runs):
    assert chosen(*sources) == runs


@pytest.mark.parametrize("path", find_notebooks(), ids=lambda path: path.stem)
def test_checks_of_the_homework_depend_on_no_experiment(path):
    notebook = nbformat.read(path, as_version=4)
    found = statements_of(notebook)
    checks = [cell for cell in graded_cells(notebook).values() if cell.cell_type == "code"]
    goals = [n for n, statement in enumerate(found) if any(notebook.cells[statement.cell] is cell for cell in checks)]
    assert len(goals) == len(checks)
    for goal in goals:
        text = "\n".join(found[n].source for n in required_statements(found, goal))
        for slow in ("load_sprites(", "fit(", "train(", "plots.figure", "student_data("):
            assert slow not in text


# ------------------------------------------------------------------------------------------------- the parts


def test_parts_are_done_missing_or_failed_with_a_message(tmp_path):
    path = write(
        tmp_path / "01_small.ipynb",
        code("import math\ndata = 1 / 0", "Q1-setup", locked=True),
        code("def helper(x):\n    return 2 * x\n\nhelper(1 / 0)"),
        solution("Q1-P1", "def double(x):\n    return helper(x)"),
        judge(
            "Q1-P1",
            "worst = double(2)\nassert worst == 4, 'it must double'\nprint('PASS\\nnote: on a GPU double stops.')",
            2,
        ),
        code("raise SystemExit('an experiment')"),
        solution("Q1-P2", "def half(x):\n    return math.floor(x / 2)"),
        judge("Q1-P2", "worst = half(3)\nassert worst == 1.5, 'it must\\nhalve'"),
        solution("Q1-P3", f"def third(x):\n    {STUB.splitlines()[1]}"),
        judge("Q1-P3", "assert third(3) == 1"),
        solution("Q1-P4", STUB),
        judge("Q1-P4", "assert size == 3"),
        solution("Q1-P5", "def broken(:\n    pass"),
        judge("Q1-P5", "assert broken() is None"),
        solution("Q1-P6", "def endless():\n    while True:\n        pass"),
        judge("Q1-P6", "assert endless() is None"),
        solution("Q1-P7", "file = open('nowhere.txt')"),
        judge("Q1-P7", "assert file.read() == ''"),
        answer("Q1-T1", "Because."),
        answer("Q1-T2", ANSWER),
        answer("Q1-T3", " \n", 3),
    )
    before = path.read_bytes()
    parts = check_notebook(path, timeout=2)
    assert path.read_bytes() == before
    assert [(part.item, part.possible, part.state) for part in parts] == [
        ("Q1.P1", 2, DONE),
        ("Q1.P2", 1, FAILED),
        ("Q1.P3", 1, MISSING),
        ("Q1.P4", 1, MISSING),
        ("Q1.P5", 1, FAILED),
        ("Q1.P6", 1, FAILED),
        ("Q1.P7", 1, FAILED),
        ("Q1.T1", 1, DONE),
        ("Q1.T2", 1, MISSING),
        ("Q1.T3", 3, MISSING),
    ]
    messages = {part.item: part.message for part in parts}
    assert messages["Q1.P2"] == "it must halve"
    assert messages["Q1.P3"] == "still to be written: third"
    assert messages["Q1.P4"] == "still to be written: Q1-P4-solution"
    assert messages["Q1.P5"].startswith("SyntaxError: ")
    assert messages["Q1.P6"] == "a cell took longer than 2 s"
    assert messages["Q1.P7"].startswith("FileNotFoundError: ")
    assert messages["Q1.T2"] == "the answer is blank"
    assert re.findall(r"\d+ of \d+", check.summary({"x": parts})) == ["2 of 10", "2 of 8", "1 of 5"]
    assert parts[0].line() == "  Q1.P1    2 points  done     note: on a GPU double stops."


REPORT = """
class report:
    def check(item, claim, value, below):
        assert value < below, f"off by {value}"
"""


def test_an_answer_is_not_done_while_a_function_of_its_item_is_missing_or_fails(tmp_path):
    for body, state, message in (
        (STUB.splitlines()[1], MISSING, "still to be written: posterior"),
        ("return x + 1", FAILED, "off by 1"),
        ("return x", DONE, "an answer, read by a person"),
    ):
        path = write(
            tmp_path / "01_small.ipynb",
            code(REPORT),
            answer("Q1-T2", "Because."),
            solution("Q1-T2", f"def posterior(x):\n    {body}"),
            code("worst = 0\nfor k in range(3):\n    worst = max(worst, posterior(k) - k)"),
            code("report.check('Q1.T2', 'error', worst, below=1)"),
        )
        [part] = check_notebook(path)
        assert (part.state, part.message) == (state, message)


def test_only_the_functions_that_a_check_uses_are_called_missing(tmp_path):
    path = write(
        tmp_path / "01_small.ipynb",
        solution("Q1-P1", f"def one(x):\n    return x\n\n\ndef two(x):\n    {STUB.splitlines()[1]}"),
        code("assert one(1) == 1", "Q1-P1-one-check", grade=True, points=1),
        code("assert one(1) == 2, 'it must double'", "Q1-P1-wrong-check", grade=True, points=1),
        code("assert two(1) == 2", "Q1-P1-two-check", grade=True, points=1),
    )
    parts = check_notebook(path)
    assert [(part.state, part.message) for part in parts] == [
        (DONE, ""), (FAILED, "it must double"), (MISSING, "still to be written: two")
    ]  # fmt: skip


def test_only_the_cell_that_ends_the_process_pays(tmp_path):
    path = write(
        tmp_path / "01_small.ipynb",
        solution("Q1-P1", "def die():\n    import os\n    os._exit(1)"),
        judge("Q1-P1", "die()"),
        judge("Q1-P2", "assert True"),
    )
    first, second = check_notebook(path)
    assert (first.state, second.state) == (FAILED, DONE)
    assert "Kernel died" in first.message


@pytest.mark.parametrize("path", find_notebooks(), ids=lambda path: path.stem)
def test_a_solved_notebook_is_done_and_a_released_one_is_missing(path, tmp_path):
    solved = check_notebook(path)
    assert [part for part in solved if part.state != DONE] == []
    notebook = stubbed(nbformat.read(path, as_version=4))
    (tmp_path / "student_number.txt").write_text("4711")
    nbformat.write(notebook, tmp_path / path.name)
    released = check_notebook(tmp_path / path.name)
    assert [part.cell for part in released] == [part.cell for part in solved]
    assert [part for part in released if part.state != MISSING] == []


def test_notebooks_without_metadata_are_checked(tmp_path, capsys):
    """All marks gone, a byte order mark before the text, no outputs: graded all the same, so checked all the same."""
    [source] = find_notebooks(["1"])
    notebook = json.loads(source.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        cell.pop("outputs", None)
        cell.pop("id", None)
    (tmp_path / source.name).write_text(json.dumps(notebook), encoding="utf-8-sig")
    assert main(["check", str(tmp_path / source.name)]) == 0
    assert any("Q1.P2    5 points  done" in line for line in capsys.readouterr().out.splitlines())


def test_changed_and_deleted_checks_run_as_released(tmp_path, capsys):
    [source] = find_notebooks(["1"])
    notebook = nbformat.read(source, as_version=4)
    cells = marked_cells(notebook)
    cells["Q1-P2-solution"].source = cells["Q1-P2-solution"].source.replace("(1 - alpha_bar).sqrt()", "(1 - alpha_bar)")
    cells["Q1-P2-check"].source = "assert True"
    notebook.cells.remove(cells["Q1-P1-check"])
    nbformat.write(notebook, tmp_path / source.name)
    assert main(["check", str(tmp_path / source.name)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("Q1.P2    5 points  failed" in line and "wrong size" in line for line in lines)
    assert any("Q1.P1    2 points  done" in line for line in lines)
    assert re.findall(r"\d+ of \d+", lines[-1]) == ["5 of 6", "2 of 7", "15 of 15"]


def test_optional_checks_have_no_points(tmp_path, capsys):
    path = write(
        tmp_path / "07_small.ipynb",
        solution("07-1-double", "def double(x):\n    return 3 * x"),
        code("worst = 1\nassert double(2) == 4, 'it must double'", "07-1-double-check", locked=True),
        solution("07-2-half", STUB),
        code("assert half(2) == 1", "07-2-half-check", locked=True),
    )
    assert main(["check", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  07.1     optional  failed   it must double" in lines
    assert "  07.2     optional  missing  still to be written: 07-2-half-solution" in lines
    assert lines[-1] == "0 of 0 parts are done"


# ------------------------------------------------------------------------------------------------- the command


def test_all_notebooks_of_the_folder_are_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.ipynb", answer("Q1-T1", "Because."))
    assert main(["check"]) == 0
    assert "a.ipynb\n  Q1.T1    1 points  done" in capsys.readouterr().out
    write(tmp_path / "b.ipynb", answer("Q1-T2", ANSWER))
    assert main(["check"]) == 1


def test_check_refuses_invalid_arguments(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.ipynb").write_text("no notebook")
    write(tmp_path / "empty.ipynb", new.new_markdown_cell("nothing"))
    for words, message in (
        (["nowhere.ipynb"], "there is no notebook nowhere.ipynb; check the path."),
        (["."], "there is no notebook .; check the path."),
        (["text.ipynb"], "text.ipynb cannot be read as a notebook"),
        (["empty.ipynb"], "empty.ipynb has no graded cells, expected a notebook of the homework."),
        (["text.ipynb", "--timeout", "0"], "--timeout: '0'"),
    ):
        try:
            ended = main(["check", *words])
        except SystemExit as end:
            ended = end.code
        assert ended == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    monkeypatch.chdir(tmp_path.parent / tmp_path.name)
    for path in tmp_path.glob("*.ipynb"):
        path.unlink()
    assert main(["check"]) == 2
    assert "there are no notebooks in this folder" in capsys.readouterr().err


def test_submit_does_not_import_torch():
    code = "import sys, hw3utils.course.student.submit; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ctrl_c_ends_the_kernel(tmp_path):
    """The cell tells its process number through a pipe, so that the signal meets it at work; then nothing is left."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    told = f"import os, threading\nopen({str(pipe)!r}, 'w').write(str(os.getpid()))\nthreading.Event().wait()"
    path = write(tmp_path / "long.ipynb", judge("Q1-P1", told))
    process = subprocess.Popen(
        [sys.executable, "-m", "hw3utils", "check", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,
    )
    kernel = int(pipe.read_text())
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert error.splitlines()[-1] == "hw3 check: interrupted; files that were written are complete"
    assert not is_running(kernel)
