"""Submissions: folders, archives, copies of downloads; every file is found or named."""

import os
import stat
import zipfile
from datetime import datetime

import pytest

from hw3utils.course.grading.submission import open_submission

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
    with pytest.raises(ValueError, match="leads out of it"):
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
    with pytest.raises(ValueError, match=r"half\.zip cannot be unpacked .*; ask for another"):
        open_submission(tmp_path / "half.zip", tmp_path / "a", HOMEWORK)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for n in range(1001):
            archive.writestr(f"{n}.txt", "")
    with pytest.raises(ValueError, match=r"many\.zip holds 1001 files .*, expected at most 1000"):
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
