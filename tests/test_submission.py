"""Submissions: folders, archives, copies of downloads; every file is found or named."""

import os
import shutil
import stat
import zipfile
from datetime import datetime

import nbformat
import pytest
from course_helpers import mark, write
from nbformat.v4 import new_code_cell, new_markdown_cell

from hw3utils.course.grading.submission import open_submission
from hw3utils.course.notebooks.cells import ANSWER
from hw3utils.course.notebooks.execute import NOTEBOOKS

HOMEWORK = ("01_forward_process.ipynb", "02_ddpm_training.ipynb")
ONE = HOMEWORK[0]


def put(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"this is {name}")
    return folder


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, f"this is {name}")
    return path


@pytest.mark.parametrize("inner", ["", "علی رضایی/", "a folder (2)/"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_notebooks_are_found_one_folder_deep(inner, kind, tmp_path):
    names = [f"{inner}{name}" for name in (ONE, "student_number.txt", "my_helper.py", "data/x.npy")]
    path = put(tmp_path / "in", *names) if kind == "folder" else zipped(tmp_path / "in.zip", *names, "__MACOSX/._x")
    found = open_submission(path, tmp_path / "scratch", HOMEWORK)
    assert found.notebooks[ONE].read_text() == f"this is {inner}{ONE}"
    assert [file.name for file in found.beside] == ["my_helper.py"]
    assert found.left_out == {"data/": "it is a folder"}
    assert (found.folder / "student_number.txt").is_file()


def test_a_single_notebook_has_no_other_files(tmp_path):
    put(tmp_path, ONE, "other.py")
    found = open_submission(tmp_path / ONE, tmp_path / "scratch", HOMEWORK)
    assert (found.notebooks, found.beside) == ({ONE: tmp_path / ONE}, [])


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["01_forward_process (1).ipynb"], "01_forward_process (1).ipynb"),
        (["01_forward_process(2).ipynb", "01_forward_process (10).ipynb"], "01_forward_process (10).ipynb"),
        (["01_forward_process (1).ipynb", ONE], ONE),
    ],
)
def test_copies_of_downloads_are_found(names, taken, tmp_path):
    found = open_submission(put(tmp_path / "in", *names), tmp_path / "scratch", HOMEWORK)
    assert found.notebooks[ONE].name == taken
    assert set(found.left_out) == {*names} - {taken}


def test_links_hidden_files_and_shadowing_modules_are_left_out(tmp_path):
    folder = put(tmp_path / "in", ONE, ".hidden", "torch.py", "hw3utils.py", "mine.py", "notes.txt")
    (folder / "link.txt").symlink_to("/etc/passwd")
    found = open_submission(folder, tmp_path / "scratch", HOMEWORK)
    assert [file.name for file in found.beside] == ["mine.py", "notes.txt"]
    assert found.left_out == {
        ".hidden": "it is hidden",
        "hw3utils.py": "it would stand in the way of the module hw3utils",
        "link.txt": "it is a link",
        "torch.py": "it would stand in the way of the module torch",
    }


@pytest.mark.parametrize("name", ["../outside.ipynb", "/tmp/outside.ipynb", "a\\..\\..\\outside.ipynb"])
def test_archive_names_outside_of_the_folder_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"outside\.ipynb"):
        open_submission(zipped(tmp_path / "in.zip", name), tmp_path / "deep" / "scratch", HOMEWORK)
    assert not list(tmp_path.rglob("outside.ipynb"))


def test_links_in_an_archive_are_left_out(tmp_path):
    link = zipfile.ZipInfo("link.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr(ONE, "{}")
    found = open_submission(tmp_path / "in.zip", tmp_path / "scratch", HOMEWORK)
    assert (list(found.notebooks), found.beside) == ([ONE], [])
    assert found.left_out == {"link.txt": "it is a link"}


def test_damaged_and_huge_archives_are_refused(tmp_path):
    intact = zipped(tmp_path / "intact.zip", ONE, HOMEWORK[1])
    (tmp_path / "half.zip").write_bytes(intact.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"half\.zip"):
        open_submission(tmp_path / "half.zip", tmp_path / "a", HOMEWORK)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for n in range(1001):
            archive.writestr(f"{n}.txt", "")
    with pytest.raises(ValueError, match=r"many\.zip.*1001.*1000"):
        open_submission(tmp_path / "many.zip", tmp_path / "b", HOMEWORK)


@pytest.mark.parametrize("outer", ["folder", "zip"])
def test_a_nested_archive_is_opened(outer, tmp_path):
    inner = zipped(tmp_path / "hw3.zip", f"work/{ONE}", "work/student_number.txt")
    path = tmp_path / ("Ali_123_assignsubmission_file_" if outer == "folder" else "all.zip")
    if outer == "folder":
        path.mkdir()
        inner.rename(path / "hw3.zip")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(inner, "Ali/hw3.zip")
    found = open_submission(path, tmp_path / "scratch", HOMEWORK)
    assert found.notebooks[ONE].read_text() == f"this is work/{ONE}"
    assert (found.folder / "student_number.txt").is_file()


def test_an_archive_with_any_byte_damaged_is_read_or_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(ONE, "".join(map(str, range(3000))))
    intact = (tmp_path / "in.zip").read_bytes()
    refused = 0
    for place in range(0, len(intact), len(intact) // 60):
        damaged = bytearray(intact)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "damaged.zip").write_bytes(damaged)
        try:
            open_submission(tmp_path / "damaged.zip", tmp_path / f"scratch-{place}", HOMEWORK)
        except ValueError:
            refused += 1
    assert refused > 20


def test_odd_names_in_an_archive_are_skipped(tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr(ONE, "this")
        archive.writestr(".", "that")
        archive.writestr("__main__.py", "x = 1")
    found = open_submission(tmp_path / "in.zip", tmp_path / "scratch", HOMEWORK)
    assert found.notebooks[ONE].read_text() == "this"
    assert [file.name for file in found.beside] == ["__main__.py"]


def test_unpacked_files_keep_their_times(tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(ONE, (2026, 11, 20, 10, 30, 0)), "this")
        archive.writestr(zipfile.ZipInfo(HOMEWORK[1], (1980, 1, 1, 0, 0, 0)), "that")
    found = open_submission(tmp_path / "in.zip", tmp_path / "scratch", HOMEWORK)
    times = [os.stat(found.notebooks[name]).st_mtime for name in HOMEWORK]
    assert times == [datetime(2026, 11, 20, 10, 30).timestamp(), 0.0]


# ------------------------------------------------------------------------------------------------- found by content


@pytest.mark.parametrize(
    "name",
    [
        f"Copy of {ONE}",
        "01_forward_process-Copy1.ipynb",
        "01_forward_process-1.ipynb",
        "01_forward_process - Copy.ipynb",
        "01_forward_process copy.ipynb",
        f"{ONE}.json",
        f"{ONE}.txt",
        "01_FORWARD_PROCESS.IPYNB",
        f"smithjohn_LATE_1234_567890_{ONE}",
        f"Ali Rezaei_123_assignsubmission_file_/{ONE}",
        f"hw3/notebooks/deep/er/{ONE}",
        "lee-ann_1234_01-Forward Process (1) (2).ipynb",
        f"{ONE} (1)",
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_notebook_is_found_under_any_name(name, kind, tmp_path):
    path = put(tmp_path / "in", name) if kind == "folder" else zipped(tmp_path / "in.zip", name)
    assert list(open_submission(path, tmp_path / "scratch", HOMEWORK).notebooks) == [ONE]


@pytest.fixture
def editions(tmp_path):
    """Two editions with different content."""
    found = {}
    for n, name in enumerate(HOMEWORK):
        cells = [new_code_cell(f"def f{n}(): ...", metadata=mark(f"Q1-P{n}-solution", solution=True))]
        cells.append(new_markdown_cell(ANSWER, metadata=mark(f"Q1-T{n}-answer", "markdown", solution=True, grade=True)))
        found[name] = write(tmp_path / "edition" / name, cells)
    return found


def solved(editions, name, path, **sources):
    notebook = nbformat.read(editions[name], as_version=4)
    for n, source in sources.items():
        notebook.cells[int(n[1:])].source = source
    return write(path, notebook.cells)


@pytest.mark.parametrize("name", ["Untitled3.ipynb", "notebook", "my work.json"])
def test_names_alone_are_enough_to_compare_the_content(name, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(NOTEBOOKS / ONE, tmp_path / "in" / name)
    assert list(open_submission(tmp_path / "in", tmp_path / "scratch", HOMEWORK).notebooks) == [ONE]


def test_content_goes_before_the_name(editions, tmp_path):
    solved(editions, HOMEWORK[1], tmp_path / "in" / "Untitled.ipynb", c0="def f1(): return 1")
    solved(editions, HOMEWORK[0], tmp_path / "in" / HOMEWORK[1], c0="def f0(): return 0")
    found = open_submission(tmp_path / "in", tmp_path / "scratch", editions)
    names = {name: path.name for name, path in found.notebooks.items()}
    assert names == {HOMEWORK[0]: HOMEWORK[1], HOMEWORK[1]: "Untitled.ipynb"}


def test_of_two_copies_the_fuller_one_is_taken_and_the_other_named(editions, tmp_path):
    solved(editions, ONE, tmp_path / "in" / ONE, c0="def f0(): return 0")
    solved(editions, ONE, tmp_path / "in" / "final.ipynb", c0="def f0(): return 0", c1="Because.")
    found = open_submission(tmp_path / "in", tmp_path / "scratch", editions)
    assert found.notebooks[ONE].name == "final.ipynb"
    assert found.left_out == {ONE: f"final.ipynb is a fuller or newer copy of {ONE}"}


def test_several_archives_are_opened_and_other_kinds_named(tmp_path):
    folder = put(tmp_path / "in", "notes.7z", "old.rar")
    for n, name in enumerate(HOMEWORK):
        zipped(folder / f"part{n}.zip", name)
    found = open_submission(folder, tmp_path / "scratch", HOMEWORK)
    assert set(found.notebooks) == set(HOMEWORK)
    assert set(found.left_out) == {"notes.7z", "old.rar"}


@pytest.mark.parametrize("place", ["", "work/", "work/deep/", "other/"])
def test_the_student_number_is_found_above_beside_and_inside(place, tmp_path):
    folder = put(tmp_path / "in", f"work/{ONE}", f"{place}student_number.txt")
    found = open_submission(folder, tmp_path / "scratch", HOMEWORK)
    assert found.number_file == folder / place / "student_number.txt"


def test_a_notebook_with_large_outputs_is_read(tmp_path):
    folder = put(tmp_path / "in", ONE, "data.bin")
    for name in (ONE, "data.bin"):
        with (folder / name).open("r+b") as file:
            file.truncate(60_000_000)
    found = open_submission(folder, tmp_path / "scratch", HOMEWORK)
    assert list(found.notebooks) == [ONE]
    assert list(found.left_out) == ["data.bin"]
