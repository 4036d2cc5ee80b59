"""Submitted notebooks restored to the structure of the edition, without losing any text."""

import codecs
import copy
import json

import nbformat
import pytest
from course_helpers import mark
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from hw3utils.course.grading.run import keep_small, plan
from hw3utils.course.notebooks.cells import ANSWER, STUB, grade_id, marked_cells
from hw3utils.course.notebooks.repair import read_leniently, rebuild

CHECK = {"grade": True, "locked": True, "points": 2}
SOLVED = "def double(x):\n    return 2 * x"
ANSWERED = "Because $x = 1$."


@pytest.fixture
def edition():
    """An edition: imports, an exercise with its check, a question with its answer, an experiment."""
    stub = STUB.replace("\n", "\n    ")
    return new_notebook(
        cells=[
            new_code_cell("import math", metadata=mark("Q1-setup", "code", locked=True)),
            new_code_cell(f"def double(x):\n    {stub}", metadata=mark("Q1-P1-solution", "code", solution=True)),
            new_code_cell("assert double(2) == 4", metadata=mark("Q1-P1-check", "code", **CHECK)),
            new_markdown_cell("**Why?**", metadata=mark("Q1-T1-question", "markdown", locked=True)),
            new_markdown_cell(ANSWER, metadata=mark("Q1-T1-answer", "markdown", grade=True, solution=True, points=5)),
            new_code_cell("picture = [double(k) for k in range(10**9)]"),
        ]
    )


@pytest.fixture
def done(edition):
    """The edition with its two parts done."""
    notebook = copy.deepcopy(edition)
    notebook.cells[1].source, notebook.cells[4].source = SOLVED, ANSWERED
    return notebook


def sources(repaired):
    return {name: cell.source for name, cell in marked_cells(repaired.notebook).items()}


def rebuild_file(edition, content, tmp_path, encoding="utf-8"):
    """Write a file and repair it."""
    path = tmp_path / "x.ipynb"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode(encoding))
    return rebuild(edition, read_leniently(path))


def assert_repaired(repaired, edition):
    """The marks are the edition's, the solution and the answer are in their cells."""
    marks = {name: cell.metadata["nbgrader"] for name, cell in marked_cells(repaired.notebook).items()}
    assert marks == {name: cell.metadata["nbgrader"] for name, cell in marked_cells(edition).items()}
    assert [name for name in map(grade_id, repaired.notebook.cells) if name] == list(marks)
    assert sources(repaired)["Q1-P1-solution"].strip() == SOLVED
    assert sources(repaired)["Q1-T1-answer"].strip() == ANSWERED
    nbformat.validate(repaired.notebook)


def without_metadata(content):
    for cell in content["cells"]:
        cell["metadata"] = {}


def without_key(key):
    def change(content):
        for cell in content["cells"]:
            cell.pop(key, None)

    return change


def other_marks(content):
    for cell in content["cells"]:
        if "nbgrader" in cell["metadata"]:
            cell["metadata"]["nbgrader"] |= {"grade": False, "solution": False, "points": 100, "schema_version": 1}


def invalid_mark(content):
    for cell in content["cells"]:
        cell["metadata"]["nbgrader"] = ["no", "mark"]


def sources_as_one_text(content):
    for cell in content["cells"]:
        cell["source"] = "".join(cell["source"])


def bare_outputs(content):
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [{"output_type": "display_data", "data": {"text/plain": ["1", "2"]}}, "no output", {}]


def invalid_attachments(content):
    for n, cell in enumerate(content["cells"]):
        if cell["cell_type"] == "markdown":
            cell["attachments"] = [{"a.png": "no kinds"}, {"a.png": {"image/png": 3}}, "none"][n % 3]
        else:
            cell["outputs"] = [{"output_type": "execute_result", "data": {"text/plain": 3, "image/png": {}}}]


def ids_of_an_old_minor_version(content):
    content["nbformat_minor"] = 2
    for n, cell in enumerate(content["cells"]):
        cell["id"] = f"the same {n % 2}"


@pytest.mark.parametrize(
    "change",
    [
        *(
            without_metadata,
            other_marks,
            invalid_mark,
            sources_as_one_text,
            bare_outputs,
            invalid_attachments,
            ids_of_an_old_minor_version,
        ),
        *(without_key("outputs"), without_key("metadata"), without_key("id"), without_key("execution_count")),
    ],
)
def test_notebooks_of_other_editors_are_read(change, edition, done, tmp_path):
    content = json.loads(nbformat.writes(done))
    change(content)
    assert_repaired(rebuild_file(edition, content, tmp_path), edition)


@pytest.mark.parametrize(("bom", "encoding"), [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le")])
def test_a_byte_order_mark_is_accepted(bom, encoding, edition, done, tmp_path):
    assert_repaired(rebuild_file(edition, bom + nbformat.writes(done).encode(encoding), tmp_path), edition)


def test_an_old_format_is_read(edition, done, tmp_path):
    old = nbformat.writes(nbformat.convert(copy.deepcopy(done), 3))
    assert_repaired(rebuild_file(edition, old.encode(), tmp_path), edition)


@pytest.mark.parametrize(
    "content", [b"", b"no notebook", b"[1, 2]", b"{}", b'{"cells": 3}', b"\xff\xfe\x00", b"[" * 10**5]
)
def test_invalid_notebooks_are_refused(content, tmp_path):
    (tmp_path / "x.ipynb").write_bytes(content)
    with pytest.raises(ValueError, match="it "):
        read_leniently(tmp_path / "x.ipynb")


def test_duplicates_have_no_mark_and_are_noted(edition, done):
    for n in (4, 2, 1):
        done.cells.insert(n, copy.deepcopy(done.cells[n]))
    done.cells[1].source = "def double(x):\n    return 'first try'"
    repaired = rebuild(edition, done)
    assert [name for name in map(grade_id, repaired.notebook.cells) if name] == list(marked_cells(edition))
    assert sources(repaired)["Q1-P1-solution"] == SOLVED
    assert any("Q1-P1-solution exists 2 times" in note for note in repaired.notes)
    assert any(cell.source.endswith("'first try'") for cell in repaired.notebook.cells)


@pytest.mark.parametrize("form", ["{}", "Mine:\n```python\n{}\n```\nThat is it."])
def test_changed_cell_types_are_restored(form, edition, done):
    done.cells[1] = new_markdown_cell(form.format(SOLVED), metadata=done.cells[1].metadata)
    done.cells[4] = new_code_cell(ANSWERED, metadata=done.cells[4].metadata)
    repaired = rebuild(edition, done)
    assert_repaired(repaired, edition)
    assert len(repaired.notes) == 2


@pytest.mark.parametrize("kind", [new_markdown_cell, new_code_cell])
@pytest.mark.parametrize("deleted", [False, True])
def test_an_answer_next_to_its_cell_is_moved_to_it(kind, deleted, edition, done):
    done.cells[4].source = ANSWER
    done.cells.insert(5, kind(ANSWERED))
    if deleted:
        del done.cells[4]
    assert_repaired(rebuild(edition, done), edition)


def test_changed_and_deleted_checks_are_restored(edition, done):
    changed = copy.deepcopy(done)
    changed.cells[2].source = "print('mine')"
    repaired = rebuild(edition, changed)
    assert repaired.tampered == {"Q1-P1-check": "was changed"}
    assert_repaired(repaired, edition)
    assert "print('mine')" in [step.source for step in plan(repaired.notebook, repaired.unchanged, full=False)]
    del done.cells[2]
    repaired = rebuild(edition, done)
    assert repaired.tampered == {"Q1-P1-check": "was deleted"}
    assert_repaired(repaired, edition)


def test_a_function_solved_in_another_cell_is_found(edition, done):
    done.cells[1].source = edition.cells[1].source
    done.cells.append(new_code_cell(SOLVED))
    repaired = rebuild(edition, done)
    steps = plan(repaired.notebook, repaired.unchanged, full=False)
    assert SOLVED in [step.source for step in steps]
    assert not any("NotImplementedError" in step.source for step in steps)


def test_experiments_run_only_with_full(edition, done):
    done.cells.append(new_code_cell("mine = double(3)"))
    repaired = rebuild(edition, done)
    some, all_of_it = (
        [step.source for step in plan(repaired.notebook, repaired.unchanged, full=full)] for full in (False, True)
    )
    assert not any("10**9" in source for source in some)
    assert any("10**9" in source for source in all_of_it)
    assert "mine = double(3)" in some
    assert [step.check for step in plan(repaired.notebook, repaired.unchanged, full=False) if step.check] == [
        "Q1-P1-check"
    ]


def test_large_outputs_are_cut_with_a_note():
    stream = nbformat.v4.new_output("stream", name="stdout", text="z" * 50_000_000)
    picture = nbformat.v4.new_output("display_data", data={"image/png": "A" * 5_000_000})
    short = nbformat.v4.new_output("stream", name="stdout", text="z" * 10**6)
    outputs = [stream, picture, *(copy.deepcopy(short) for _ in range(100))]
    cells = [new_code_cell("x = 1 # " + "y" * 10**6, outputs=copy.deepcopy(outputs)) for _ in range(3)]
    notebook = new_notebook(cells=cells)
    keep_small(notebook)
    text = nbformat.writes(notebook)
    assert len(text) < 4_000_000
    assert "characters ..." in text
    assert "left out: image/png of 5.0 MB" in text
    nbformat.validate(notebook)


def test_many_outputs_do_not_displace_the_result_of_a_check():
    """nbgrader counts a check without an error among its outputs as passed."""
    flood = [nbformat.v4.new_output("display_data", data={"text/html": "y" * 1000}) for _ in range(4000)]
    failed = nbformat.v4.new_output("error", ename="AssertionError", evalue="failed", traceback=["failed"])
    metadata = {"nbgrader": {"grade": True, "grade_id": "Q1-P1-check"}}
    cells = [new_code_cell("flood()", outputs=flood), new_code_cell("check()", outputs=[failed], metadata=metadata)]
    notebook = new_notebook(cells=cells)
    keep_small(notebook)
    assert [output.output_type for output in notebook.cells[1].outputs] == ["error"]
    assert len(nbformat.writes(notebook)) < 4_000_000
    assert "further outputs of this cell" in notebook.cells[0].outputs[-1].text


# ------------------------------------------------------------------------------------------- text in other places


def answer_of(repaired):
    return sources(repaired)["Q1-T1-answer"]


@pytest.mark.parametrize("place", [3, 4], ids=["question", "answer"])
def test_text_in_a_locked_cell_is_kept_and_a_blank_answer_gets_it(place, edition):
    submitted = copy.deepcopy(edition)
    submitted.cells[place].source += f"\n\n{ANSWERED}"
    repaired = rebuild(edition, submitted)
    assert ANSWERED in answer_of(repaired)
    assert sources(repaired)["Q1-T1-question"] == "**Why?**"
    if place == 3:
        assert [note for note in repaired.notes if "Q1-T1-question" in note]
        assert [note for note in repaired.notes if "the answer Q1-T1-answer" in note]


def test_an_answer_that_is_there_is_left_alone(edition, done):
    done.cells[3].source += "\n\nA remark."
    repaired = rebuild(edition, done)
    assert answer_of(repaired) == ANSWERED
    assert "A remark." in [cell.source for cell in repaired.notebook.cells]


@pytest.mark.parametrize(
    "cells",
    [
        [nbformat.v4.new_raw_cell(ANSWERED)],
        [new_markdown_cell("Because"), nbformat.v4.new_raw_cell("$x = 1$.")],
        [new_code_cell("# Because x = 1.")],
    ],
)
@pytest.mark.parametrize("place", [0, 1, 4, 6], ids=["first", "far above", "above", "at the end"])
def test_text_anywhere_reaches_a_blank_answer(place, cells, edition):
    submitted = copy.deepcopy(edition)
    submitted.cells[place:place] = copy.deepcopy(cells)
    repaired = rebuild(edition, submitted)
    for cell in cells:
        assert cell.source in answer_of(repaired)
    assert any("Q1-T1-answer" in note for note in repaired.notes)
    nbformat.validate(repaired.notebook)


def test_the_parts_of_a_split_answer_are_joined(edition, done):
    metadata = done.cells[4].metadata
    done.cells[4:5] = [new_markdown_cell(part, metadata=copy.deepcopy(metadata)) for part in ("Because", "$x = 1$.")]
    repaired = rebuild(edition, done)
    assert answer_of(repaired) == "Because\n\n$x = 1$."
    assert any("split into 2 cells" in note for note in repaired.notes)


def test_a_blank_answer_without_other_text_stays_blank(edition):
    repaired = rebuild(edition, copy.deepcopy(edition))
    assert answer_of(repaired) == ANSWER
    assert repaired.notes == []


def test_a_raw_cell_becomes_text(edition, done):
    """A page shows raw cells as HTML."""
    done.cells.append(nbformat.v4.new_raw_cell("<script>x</script>"))
    assert {cell.cell_type for cell in rebuild(edition, done).notebook.cells} == {"code", "markdown"}
