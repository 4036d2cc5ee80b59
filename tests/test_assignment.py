"""The graded items and the student number."""

import pytest
import torch

from hw3utils.course.assignment import ITEMS, NOTEBOOK_FILES, is_homework, student_number
from hw3utils.course.notebooks.execute import find_notebooks
from hw3utils.mixtures import student_data, student_mixture


def test_points_add_up_to_the_homework():
    assert len(ITEMS) == 22
    assert sum(item.points for item in ITEMS.values()) == 110
    assert sum(item.points for name, item in ITEMS.items() if ".P" in name) == 60


def test_the_variable_has_priority_over_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HW3_STUDENT", raising=False)
    with pytest.raises(FileNotFoundError, match=r"student_number\.txt"):
        student_number()
    (tmp_path / "student_number.txt").write_text(" 0810 \n")
    assert student_number() == "0810"
    monkeypatch.setenv("HW3_STUDENT", "7")
    assert student_number() == "7"


@pytest.mark.parametrize("written", ["", "abc", "-5", "1.5", "1" * 21, "12 34", "B9910", "9910 or 4711"])
def test_invalid_student_numbers_are_refused(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HW3_STUDENT", raising=False)
    (tmp_path / "student_number.txt").write_text(written, encoding="utf-8")
    with pytest.raises(ValueError, match=r"student_number\.txt.*1 to 20"):
        student_number()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "written",
    [
        "0810\r\n",
        "Student number: 0810.",
        "number=0810",
        "#0810",
        "(0810)\n\n",
        "\u06f0\u06f8\u06f1\u06f0",
        "\u0634\u0645\u0627\u0631\u0647: \u200f\u06f0\u06f8\u06f1\u06f0\u200f",
        "\u0660\u0668\u0661\u0660",
    ],
)
def test_student_numbers_in_many_forms(written, encoding, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HW3_STUDENT", raising=False)
    (tmp_path / "student_number.txt").write_bytes(written.encode(encoding))
    assert student_number() == "0810"


def test_two_students_have_different_mixtures_and_data():
    one, two = student_mixture("810100000"), student_mixture("810100001")
    assert not torch.equal(one.weights, two.weights)
    assert not torch.equal(student_data("810100000")[0], student_data("810100001")[0])
    assert torch.equal(student_data("810100000")[0], student_data(810100000)[0])


def test_the_names_of_the_notebooks_are_those_of_the_repository():
    assert list(NOTEBOOK_FILES) == [path.name for path in find_notebooks() if is_homework(path.name)]
