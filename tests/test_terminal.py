"""No name of a file, and no text of a student, reaches a terminal with control characters."""

import io
import unicodedata

import nbformat
import pytest
from course_helpers import hand_in, small_homework
from nbformat.v4 import new_code_cell
from test_check import code, judge, solution, write

from hw3utils.__main__ import main
from hw3utils.progress import Terminal, printable

# It clears the screen, sets the title of the window, and turns the direction of writing.
EVIL = "a\x1b[2J\x1b]0;title\x07\u202eb"


def controls(text):
    """The control characters of a text, apart from line breaks."""
    return [c for c in text if (unicodedata.category(c) == "Cc" and c != "\n") or "\u202a" <= c <= "\u202e"]


def said(capsys, *words):
    """What a command prints, with its exit code."""
    capsys.readouterr()
    try:
        ended = main([str(word) for word in words])
    except SystemExit as end:
        ended = end.code
    printed = capsys.readouterr()
    assert printed.out + printed.err
    assert controls(printed.out + printed.err) == []
    return ended, printed.out + printed.err


MISSING = {
    "run": ["run", "{}/x.ipynb"],
    "check": ["check", "{}/x.ipynb"],
    "submit": ["submit", "{}"],
    "submit to a folder": ["submit", "--out", "{}.tar"],
    "train": ["train", "--steps", "1", "--out", "{}", "--tensorboard", "{}"],
    "sample": ["sample", "--weights", "{}/x.safetensors", "--out", "{}.png"],
    "sample to": ["sample", "--out", "{}.txt"],
    "fid": ["fid", "{}/one", "{}/two"],
    "data": ["data", "--source", "{}"],
    "data to": ["data", "--preview", "--out", "{}.txt"],
    "bench": ["bench", "{}"],
    "release": ["release", "{}"],
    "grade": ["grade", "{}"],
    "marks": ["marks", "{}"],
    "no command": ["{}"],
    "no option": ["check", "--{}"],
    "no number": ["check", "--timeout", "{}"],
}


@pytest.mark.parametrize("words", MISSING.values(), ids=MISSING)
def test_errors_have_no_control_characters(words, tmp_path, capsys):
    ended, text = said(
        capsys, *(word.format(tmp_path / EVIL if "/" in word or word == "{}" else EVIL) for word in words)
    )
    assert ended == 2
    assert text.count("\n") == 1


def test_pictures(tmp_path, capsys):
    out = tmp_path / EVIL
    out.mkdir()
    assert said(capsys, "data", "--preview", "--out", out / "a.png")[0] == 0
    sample = ["sample", "--sampler", "ddim", "--steps", "2", "--n", "4"]
    assert said(capsys, *sample, "--out", out / f"{EVIL}.png")[0] == 0
    (out / f"{EVIL}.txt").write_text("no picture")
    said(capsys, "fid", out, out, "--n", "2", "--steps", "2")
    said(capsys, "data", "--source", out)


def test_a_training(tmp_path, capsys):
    assert said(capsys, "train", "--steps", "1", "--out", tmp_path / EVIL)[0] == 0
    assert said(capsys, "train", "--steps", "1", "--resume", "--out", tmp_path / EVIL)[0] == 0


def test_a_students_notebooks(tmp_path, capsys, monkeypatch):
    folder = tmp_path / EVIL
    folder.mkdir()
    source = f"def double(x):\n    raise ValueError({EVIL!r})"
    path = write(
        folder / f"{EVIL}.ipynb",
        solution("Q1-P1", source),
        judge("Q1-P1", "assert double(2) == 4"),
        solution("Q1-P2", "def broken(:"),
        judge("Q1-P2", f"raise AssertionError({EVIL!r})"),
        code(f"print({EVIL!r})"),
    )
    assert said(capsys, "check", path)[0] == 1
    monkeypatch.chdir(folder)
    assert said(capsys, "check")[0] == 1
    (folder / EVIL).write_text("x")
    (folder / "student_number.txt").write_text(EVIL)
    write(folder / "01_forward_process.ipynb", solution("Q1-P1", source), judge("Q1-P1", "assert double(2) == 4"))
    assert said(capsys, "submit", folder, "--out", folder / f"{EVIL}.zip")[0] == 0
    write(folder / f"{EVIL}2.ipynb", code(f"raise ValueError({EVIL!r})"))
    assert said(capsys, "run", folder / f"{EVIL}2.ipynb", "--out", folder / "out")[0] == 1


def test_a_course(tmp_path, capsys):
    pytest.importorskip("nbgrader", reason="nbgrader is not installed")
    with small_homework(tmp_path / "homework") as edition:
        source = f"def double(x):\n    raise ValueError({EVIL!r})"
        folder = hand_in(tmp_path / "in" / EVIL, edition, source, f"Because {EVIL}.", EVIL)
        (folder / f"{EVIL}.7z").write_text("x")
        notebook = nbformat.read(folder / edition.name, as_version=4)
        notebook.cells.append(new_code_cell(f"!echo {EVIL}"))
        nbformat.write(notebook, folder / edition.name)
        out = tmp_path / "out"
        assert said(capsys, "grade", folder, "--out", out)[0] == 1
        assert said(capsys, "grade", folder, "--out", out, "--list")[0] == 0
    said(capsys, "marks", out)
    for path in [*out.glob("*.csv"), *out.glob("*/report.json"), out / "marks.json"]:
        text = path.read_text(encoding="utf-8")
        assert controls(text) == []
        assert "\\u001b" not in text
    assert said(capsys, "release", "7", "--out", tmp_path / f"edition {EVIL}")[0] == 0


def test_the_terminal_keeps_line_breaks_and_escapes_invalid_names():
    stream = io.StringIO()
    print("a\tb\x1b[2J", "\udce9", file=Terminal(stream))
    assert stream.getvalue() == "a\tb [2J \\udce9\n"
    assert printable("a\n\udce9\x07") == "a \\udce9"
