"""The student edition: texts are complete, hints reveal no answer, and unsolved items block nothing."""

import json
import os
import re
import subprocess
import sys
import zipfile

import nbformat
import pytest

from hw3utils.course import release
from hw3utils.course.assignment import ITEMS
from hw3utils.course.notebooks.cells import ANSWER, checked_cells, student_text
from hw3utils.course.notebooks.execute import NOTEBOOKS, ROOT, find_notebooks

NAMES = [path.stem for path in find_notebooks()]


@pytest.fixture(scope="module")
def edition(tmp_path_factory):
    pytest.importorskip("nbgrader", reason="nbgrader is not installed")
    out = tmp_path_factory.mktemp("edition") / "out"
    release.release(out)
    return {path.stem: nbformat.read(path, 4) for path in sorted(out.glob("*.ipynb"))}


def solved(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)


def mark(cell):
    return cell.metadata.get("nbgrader") or {}


def texts(notebook, kind="markdown"):
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def exercises(notebook):
    """Numbers of the cells that a student writes: stubs and answers."""
    return [i for i, cell in enumerate(notebook.cells) if mark(cell).get("solution")]


def graded_exercises(notebook):
    """Those of them that are graded: every answer, and the code above a check."""
    found = []
    for i in exercises(notebook):
        cell = notebook.cells[i]
        checks = [name for name, check in checked_cells(notebook).items() if check.cell_type == "code"]
        if cell.cell_type == "markdown" or mark(cell)["grade_id"] in {before(notebook, name) for name in checks}:
            found.append(i)
    return found


def before(notebook, check):
    """The grade_id of the stub above a check."""
    names = [mark(cell).get("grade_id") for cell in notebook.cells]
    place = names.index(check)
    return next(mark(notebook.cells[i])["grade_id"] for i in reversed(exercises(notebook)) if i < place)


def solution_lines(name):
    """The characteristic lines of each solution, by grade_id."""
    found = {}
    for cell in solved(name).cells:
        if cell.cell_type == "code" and mark(cell).get("solution"):
            inside = re.findall(r"### BEGIN SOLUTION\n(.*?)\s*### END SOLUTION", cell.source, re.DOTALL)
            lines = [line.strip() for part in inside for line in part.splitlines()]
            found[mark(cell)["grade_id"]] = [line for line in lines if len(line) > 30 and not line.startswith("#")]
    return found


def test_every_item_has_its_heading(edition):
    headings = "\n".join(
        line
        for notebook in edition.values()
        for text in texts(notebook)
        for line in text.splitlines()
        if line[:2] == "##"
    )
    for item in ITEMS:
        assert re.search(rf"{re.escape(item)}\b", headings), item


@pytest.mark.parametrize("name", NAMES)
def test_every_equation_that_is_cited_is_defined(edition, name):
    text = "\n".join(texts(edition[name]))
    defined = re.findall(r"\\tag\{(\d+)\}", text)
    assert len(defined) == len(set(defined))
    text = re.sub(r"^\*\*Items:.*$", "", text, flags=re.MULTILINE)
    # A number of another paper or notebook has its name beside it.
    foreign = r"(DDPM|arXiv[^.]*|paper|\d{4}\)?|et al\.[^.]*|notebook \d\d|ipynb\)),? equations?[^.;)]*"
    own = re.sub(foreign, "", re.sub(r"\$\$.*?\$\$|\$[^$]*\$", "", text, flags=re.DOTALL))
    cited = set(re.findall(r"[Ee]quations? \((\d+)\)|(?<![\w)])\((\d{1,2})\)(?![\w(])", own))
    cited = {one or other for one, other in cited}
    assert cited <= set(defined), cited - set(defined)


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_before_a_stub_shows_its_solution(edition, name):
    notebook = edition[name]
    for grade_id, lines in solution_lines(name).items():
        place = next(i for i, cell in enumerate(notebook.cells) if mark(cell).get("grade_id") == grade_id)
        above = "\n".join(cell.source for cell in notebook.cells[:place])
        for line in lines:
            assert line not in above, (grade_id, line)


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_blank_and_their_questions_locked(edition, name):
    for cell in edition[name].cells:
        if mark(cell).get("solution"):
            assert cell.source == ANSWER if cell.cell_type == "markdown" else "raise NotImplementedError" in cell.source
        elif "\\tag{" in cell.source and re.search(r"T\d", mark(cell).get("grade_id", "")):
            assert mark(cell)["locked"]
        assert "solved edition" not in cell.source


@pytest.mark.parametrize("name", NAMES)
def test_help_in_three_steps(edition, name):
    notebook, solution = edition[name], solved(name)
    for i in graded_exercises(notebook):
        grade_id = mark(notebook.cells[i])["grade_id"]
        near = [cell.source for cell in notebook.cells[max(0, i - 3) : i] if "<summary>Hint 1" in cell.source]
        assert near, grade_id
        help_text = near[-1]
        assert "<summary>Hint 2" in help_text
        assert len(re.findall("<details>", help_text)) == len(re.findall("</details>", help_text)) == 2
        for lines in solution_lines(name).values():
            assert not any(line in help_text for line in lines)
        there = next(cell.source for cell in solution.cells if cell.source.startswith(help_text[:60]))
        assert "the answer</summary>" in there


@pytest.mark.parametrize("name", NAMES)
def test_questions_come_before_figures_and_the_end_says_what_is_not_shown(edition, name):
    text = "\n".join(texts(edition[name]))
    assert text.count("<summary>Then compare</summary>") == text.count("**Predict first.**") >= 4
    end = text.split("## What this does not show")[1]
    assert len(re.findall(r"<summary>\d\. ", end)) == 5
    assert len(re.findall(r"^\* .*\d{4}", end.split("**To go on.**")[1], re.MULTILINE)) >= 3
    assert text.count("<details>") == text.count("</details>")


def test_common_mistakes_are_numbered(edition):
    numbers = [
        int(number) for notebook in edition.values() for text in texts(notebook)
        for number in re.findall(r"Common mistake (\d+)", text)
    ]  # fmt: skip
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 6


def test_text_of_the_solved_edition_is_removed():
    cell = {"cell_type": "markdown", "source": ["a\n", "<!-- solved edition -->\n", "b\n", "<!-- end -->\n", "c"]}
    code = {"cell_type": "code", "source": ["# NBVAL_IGNORE_OUTPUT\n", "<!-- solved edition -->\n", "x  # noqa: E731"]}
    left = json.loads(student_text(json.dumps({"cells": [cell, code]})))["cells"]
    assert "".join(left[0]["source"]) == "a\nc"
    assert "".join(left[1]["source"]) == "<!-- solved edition -->\nx"


def test_the_folder_stands_alone(tmp_path):
    """What is in it says how to install it, and the package is there without notebooks or solutions."""
    pytest.importorskip("nbgrader", reason="nbgrader is not installed")
    out = tmp_path / "out"
    release.release(out, ["1"], package=True, due="1 December", rules="Alone.")
    readme, pins = (out / "README.md").read_text(), (out / "requirements.txt").read_text()
    for said in (
        "pip install -r requirements.txt",
        "%cd /content/drive",
        "!{sys.executable} -m hw3utils check",
        "hw3 check",
        "hw3 submit",
        "by 1 December",
        "Alone.",
        "hours",
    ):
        assert said in readme
    [wheel] = out.glob("*.whl")
    assert f"./{wheel.name}" in pins.splitlines()
    # A new environment gets the pins; a cloud that has older versions keeps them, and imports nothing anew.
    own = (ROOT / "requirements.txt").read_text()
    assert set(re.findall(r"^(.+)<=(.+)$", pins, re.M)) == set(re.findall(r"^(.+)==(.+)$", own, re.M))
    assert "==" not in pins
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert not [name for name in names if name.endswith(".ipynb")]
        assert {"hw3utils/__init__.py", "hw3utils/tables/fid_sprites.json"} <= set(names)
    target = tmp_path / "site"
    words = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(words, check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(target)}
    command = "import hw3utils, pathlib; print(pathlib.Path(hw3utils.__file__).parent)"
    told = subprocess.run(
        [sys.executable, "-P", "-c", command], env=environment, capture_output=True, text=True, cwd=out
    )
    assert told.stdout.strip() == str(target / "hw3utils")
    # Without the repository the checks of a notebook run, and what needs the solutions says so.
    (out / ".edition.json").rename(tmp_path / "hidden files are not uploaded")
    for words, code, part in ((["check", "01_forward_process.ipynb"], 1, "checked as they are"),
                              (["submit"], 0, "02_ddpm_training.ipynb is missing"),
                              (["grade", ".", "--out", "x"], 2, "this needs the solved notebooks"),
                              (["release", "--out", "x"], 2, "install the package from a clone")):  # fmt: skip
        done = subprocess.run([sys.executable, "-P", "-m", "hw3utils", *words], env=environment, capture_output=True,
                              text=True, cwd=out)  # fmt: skip
        assert done.returncode == code, done.stderr
        assert part in done.stdout + done.stderr


def test_an_edition_to_learn_alone_has_the_solutions_folded(tmp_path):
    pytest.importorskip("nbgrader", reason="nbgrader is not installed")
    [path] = release.release(tmp_path / "out", ["1"], answers=True)
    notebook = nbformat.read(path, 4)
    for n in exercises(notebook):
        below = notebook.cells[n + 1].source
        assert below.startswith("<details><summary>One solution</summary>")
        assert "SOLUTION" not in below
    assert sum("torch.cumprod" in text for text in texts(notebook)) >= 1
