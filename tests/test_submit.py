"""`hw3 submit`: one reproducible archive, with a warning for each problem."""

import hashlib
import json
import os
import zipfile
from datetime import UTC, datetime

import nbformat
import pytest
from course_helpers import KERNEL, mark

from hw3utils.__main__ import main
from hw3utils.course.assignment import CellState, GradedCell
from hw3utils.course.notebooks.cells import ANSWER
from hw3utils.course.student import check, submit

new = nbformat.v4
MADE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def notebook(text="Because.", *, ran=True, check="assert double(2) == 4, 'it must double'", body="return 2 * x"):
    """A homework of one function, one check and one answer."""
    role = {"grade": True, "locked": True, "points": 2}
    count = 1 if ran else None
    cells = [
        new.new_code_cell(
            f"def double(x):\n    {body}", execution_count=count, metadata=mark("Q1-P1-solution", solution=True)
        ),
        new.new_code_cell(check, execution_count=count, metadata=mark("Q1-P1-check", **role)),
        new.new_markdown_cell(text, metadata=mark("Q1-T1-answer", grade=True, solution=True, points=5)),
    ]
    for n, cell in enumerate(cells):
        cell.id = f"cell-{n}"
    return new.new_notebook(cells=cells, metadata=KERNEL)


@pytest.fixture
def homework(tmp_path, monkeypatch):
    """A homework of two notebooks with the example number 810; a student's folder with both and another number."""
    edition, folder = tmp_path / "edition", tmp_path / "alice"
    for place in (edition, folder):
        place.mkdir()
        for name in ("01_small.ipynb", "02_small.ipynb"):
            nbformat.write(notebook(), place / name)
    (edition / "student_number.txt").write_text("810\n")
    (folder / "student_number.txt").write_text("4711\n")
    for module in (check, submit):
        monkeypatch.setattr(module, "find_notebooks", lambda names=(): sorted(edition.glob("*.ipynb")))
    monkeypatch.setattr(submit, "NOTEBOOKS", edition)
    return folder


@pytest.fixture
def no_kernel(monkeypatch):
    """Checks are not run, in tests of the archive."""
    part = GradedCell("Q1-P1-check", "Q1.P1", 2.0, state=CellState.DONE)
    monkeypatch.setattr(submit, "check_notebook", lambda path, timeout: [part])


def read(archive):
    with zipfile.ZipFile(archive) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_archive_and_manifest(homework, tmp_path, capsys):
    out = tmp_path / "hand in" / "alice.zip"
    nbformat.write(notebook(ANSWER, body="return 3 * x"), homework / "02_small.ipynb")
    before = {path.name: path.read_bytes() for path in homework.iterdir()}
    assert main(["submit", str(homework), "--out", str(out)]) == 0
    assert {path.name: path.read_bytes() for path in homework.iterdir()} == before
    content = read(out)
    assert list(content) == ["manifest.json", "01_small.ipynb", "02_small.ipynb", "student_number.txt"]
    assert {name: content[name] for name in before} == before
    manifest = json.loads(content["manifest.json"])
    assert manifest["format"] == 1
    assert manifest["package"]["name"] == "hw3utils"
    assert manifest["student_number"] == "4711"
    assert datetime.fromisoformat(manifest["made"]).tzinfo is not None
    assert {entry["name"]: (entry["sha256"], entry["bytes"]) for entry in manifest["files"]} == {
        name: (hashlib.sha256(text).hexdigest(), len(text)) for name, text in before.items()
    }
    states = {name: [part["state"] for part in parts] for name, parts in manifest["checks"].items()}
    assert not any("points" in part for parts in manifest["checks"].values() for part in parts)
    assert states == {"01_small.ipynb": ["done", "done"], "02_small.ipynb": ["failed", "missing"]}
    assert manifest["warnings"] == ["02_small.ipynb has parts that are not done: Q1.P1, Q1.T1."]
    said = capsys.readouterr().out.splitlines()
    assert "  Q1.P1    2 points  failed   it must double" in said
    assert said[-2] == f"warning: {manifest['warnings'][0]}"
    assert said[-1] == f"{out}: 3 files and a manifest; parts: 2 done, 1 failed, 1 missing"


def test_the_same_files_make_the_same_archive(homework, tmp_path, no_kernel):
    made = []
    for name in ("a.zip", "b.zip"):
        submit.submit(homework, tmp_path / name, made=MADE)
        made.append((tmp_path / name).read_bytes())
        os.utime(homework / "01_small.ipynb", (0, 0))
        (homework / "student_number.txt").chmod(0o600)
    assert made[0] == made[1]
    submit.submit(homework, tmp_path / "c.zip", made=MADE.replace(year=2027))
    first, later = read(tmp_path / "a.zip"), read(tmp_path / "c.zip")
    assert json.loads(later.pop("manifest.json"))["made"] == "2027-01-02T03:04:05+00:00"
    first.pop("manifest.json")
    assert first == later


def warnings(folder, out):
    return submit.submit(folder, out, made=MADE).warnings


def test_a_complete_homework_has_no_warnings(homework, tmp_path, no_kernel):
    assert warnings(homework, tmp_path / "a.zip") == []


def test_warnings_about_notebooks(homework, tmp_path, no_kernel):
    changed = notebook(ran=False, check="assert True")
    changed.cells.insert(1, new.new_markdown_cell("A text.\n\n## Q1.P1 · Twice\x1b[2J (2 points)", id="heading"))
    changed.cells[0].outputs = [new.new_output("stream", text="x" * 6_000_000)]
    nbformat.write(changed, homework / "01_small.ipynb")
    copied = notebook()
    copied.cells.append(copied.cells[1].copy())
    copied.cells[3].id = "another"
    del copied.cells[2]
    nbformat.write(copied, homework / "02_small.ipynb")
    (homework / "student_number.txt").write_text("mine\n")
    nbformat.write(notebook(), homework / "draft.ipynb")
    (homework / "sketch.png").write_bytes(b"picture")
    assert warnings(homework, tmp_path / "a.zip") == [
        "student_number.txt holds 'mine', expected a student number of 1 to 20 digits.",
        "01_small.ipynb: the cell Q1-P1-check was changed; take it from the edition again.",
        "01_small.ipynb: 2 of 2 code cells were never run (at the top; below 'Q1.P1 · Twice [2J (2 points)');"
        " run them and save.",
        "01_small.ipynb: an output has 6 MB (at the top); show less.",
        "02_small.ipynb: the cell Q1-P1-check was copied; take it from the edition again.",
        "02_small.ipynb: the cell Q1-T1-answer was deleted; take it from the edition again.",
        "draft.ipynb is no notebook of this homework: it is packed, but no check will see it.",
        "sketch.png is no notebook of this homework: it is packed, but no check will see it.",
    ]
    assert {"draft.ipynb", "sketch.png"} < set(read(tmp_path / "a.zip"))


def test_the_optional_notebook_is_accepted(homework, tmp_path, no_kernel):
    nbformat.write(notebook(), homework.parent / "edition" / "07_small.ipynb")
    assert warnings(homework, tmp_path / "a.zip") == []
    nbformat.write(notebook(ANSWER, body="return 3 * x"), homework / "07_small.ipynb")
    assert warnings(homework, tmp_path / "b.zip") == []
    assert "07_small.ipynb" in read(tmp_path / "b.zip")
    assert "07_small.ipynb" not in json.loads(read(tmp_path / "b.zip")["manifest.json"])["checks"]


def test_missing_and_damaged_files_are_named(homework, tmp_path, no_kernel):
    (homework / "01_small.ipynb").write_text('{"cells": [')
    (homework / "02_small.ipynb").unlink()
    (homework / "student_number.txt").unlink()
    found = warnings(homework, tmp_path / "a.zip")
    assert found[0].startswith("there is no file student_number.txt in ")
    assert (
        found[1] == "01_small.ipynb cannot be read as a notebook: it is no JSON (JSONDecodeError); it may be cut off."
    )
    assert found[2:] == ["02_small.ipynb is missing."]
    (homework / "student_number.txt").write_text("810")
    assert "student_number.txt still holds 810, an example: write your own." in warnings(homework, tmp_path / "a.zip")


def test_only_files_of_the_folder_are_packed_and_others_named(homework, tmp_path, no_kernel):
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    (homework / "link.txt").symlink_to(secret)
    (homework / "student_number.txt").unlink()
    (homework / "student_number.txt").symlink_to(secret)
    (homework / "folder").symlink_to(tmp_path)
    (homework / "out").mkdir()
    (homework / "out" / "big.npy").write_bytes(b"x")
    (homework / ".hidden").write_text("x")
    os.mkfifo(homework / "pipe")
    out = homework / "a.zip"
    out.write_bytes(b"an earlier one")
    found = warnings(homework, out)
    assert [warning for warning in found if "left out" in warning] == [
        ".hidden is left out: it is hidden.",
        "a.zip is left out: it is made anew.",
        "folder is left out: it is a link.",
        "link.txt is left out: it is a link.",
        "out/ is left out: it is a folder.",
        "pipe is left out: it is no file.",
        "student_number.txt is left out: it is a link.",
    ]
    assert "student_number.txt cannot be packed: it is a link." in found
    content = read(out)
    assert list(content) == ["manifest.json", "01_small.ipynb", "02_small.ipynb"]
    assert all(b"a secret" not in text for text in content.values())
    assert json.loads(content["manifest.json"])["student_number"] is None


def test_submit_refuses_invalid_arguments(homework, tmp_path, capsys, no_kernel):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with (tmp_path / "alice" / "huge.bin").open("wb") as file:
        file.truncate(61_000_000)
    for words, message in (
        ([str(tmp_path / "nowhere")], "there is no folder"),
        ([str(tmp_path / "empty")], "there is no notebook of this homework in"),
        ([str(homework)], "huge.bin has 61 MB, expected at most 50; clear its outputs, or move it out of the folder."),
        ([str(homework), "--out", str(tmp_path / "a.tar")], "a.tar, expected the name of a zip file."),
        ([str(homework), "--out", str(tmp_path / "file" / "a.zip")], "could not write to the folder"),
    ):
        given = words if "--out" in words else [*words, "--out", str(tmp_path / "a.zip")]
        assert main(["submit", *given]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert list(tmp_path.glob("*.zip*")) == []
