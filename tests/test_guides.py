"""The commands of the guides, executed as they stand there, with smaller numbers where a command takes long."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import numpy as np
from course_helpers import double_cells, hand_in, small_homework, write
from nbformat.v4 import new_code_cell
from PIL import Image
from tiny import picture_folder, unet

from hw3utils.__main__ import main
from hw3utils.bench import parts, peers
from hw3utils.bench.peers import ContextUnet
from hw3utils.course import release
from hw3utils.course.notebooks import execute
from hw3utils.course.student import check, submit
from hw3utils.sprites import draw_sprites

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hw3utils"
SMALLER = {
    "train": ["--steps", "2", "--batch-size", "4", "--checkpoint-every", "2"],
    "sample": ["--n", "2", "--steps", "3"],
}


def lines_of(guide):
    """The lines of a guide's first block of code, without comments."""
    block = re.search(r"```sh\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)[1]
    return [line.split("#")[0].strip() for line in block.splitlines()]


def commands_of(guide):
    """The `hw3` commands of a guide's first block of code, as lists of words."""
    return [shlex.split(line)[1:] for line in lines_of(guide) if line.startswith("hw3 ")]


def commands_in_the_text_of(guide):
    """The `hw3` commands between single backquotes, as lists of words."""
    return [shlex.split(words) for words in re.findall(r"`hw3 ([^`]+)`", guide.read_text(encoding="utf-8"))]


def test_commands_for_pictures_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture_folder(draw_sprites(30, seed=3)[0], tmp_path / "pictures")
    keep = np.zeros((16, 16), np.uint8)
    keep[:8] = 255
    Image.fromarray(keep).save(tmp_path / "keep.png")
    for words in commands_of(PACKAGE / "sprites" / "README.md"):
        assert main([*words, *SMALLER.get(words[0], [])]) == 0, words
    for name in ("out/mine/index.html", "out/mine/weights.safetensors", "a.gif", "files/0001.png", "new.png"):
        assert (tmp_path / name).exists(), name


def test_commands_of_a_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with small_homework(tmp_path / "homework") as edition:
        notebook = edition.parent.parent / edition.name
        monkeypatch.setattr(release, "find_notebooks", lambda names=(): [notebook])
        hand_in(tmp_path / "alice", edition, "def double(x): return 2 * x", "Because.", "1")
        shutil.make_archive("bob", "zip", hand_in(tmp_path / "b", edition, "def double(x): return x", "", "2"))
        for words in commands_of(PACKAGE / "course" / "README.md"):
            # The exit code of marks says that an answer has not been read.
            assert main(words) == (words[0] == "marks"), words
    rows = (tmp_path / "grades" / "marks.csv").read_text(encoding="utf-8-sig").splitlines()
    totals = {row.split(",")[0]: dict(zip(rows[0].split(","), row.split(","), strict=True)) for row in rows[1:]}
    assert {name: row["Q1.P1"] for name, row in totals.items()} == {"alice": "2", "bob": "0"}
    shown = re.search(r"^student,.*$", (PACKAGE / "course" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)[0]
    first, last = shown.split(",...,")
    assert rows[0].startswith(first)
    assert rows[0].endswith(last)
    assert {path.name for path in (tmp_path / "edition").iterdir()} >= {"README.md", "requirements.txt", notebook.name}


def test_commands_of_a_student(tmp_path, monkeypatch, capsys):
    cells, name = double_cells(), "01_forward_process.ipynb"
    write(tmp_path / "homework" / name, cells)
    monkeypatch.setattr(submit, "NOTEBOOKS", tmp_path / "homework")
    for module in (check, submit):
        monkeypatch.setattr(module, "find_notebooks", lambda names=(): [tmp_path / "homework" / name])
    write(tmp_path / "mine" / name, cells)
    for folder, number in (("homework", "810"), ("mine", "4711")):
        (tmp_path / folder / "student_number.txt").write_text(number)
    monkeypatch.chdir(tmp_path / "mine")
    for words in commands_in_the_text_of(ROOT / "notebooks" / "README.md"):
        assert main(words) == 0, words
    assert "2 of 2 points checked" in capsys.readouterr().out
    assert (tmp_path / "mine" / "hw3.zip").is_file()


def test_commands_of_a_developer(tmp_path, monkeypatch):
    lines = lines_of(PACKAGE / "README.md")
    quick, everything, clean, update = lines
    assert everything == "python -m pytest"
    few = f"{quick} --collect-only -q -n0 tests/test_schedules.py".replace("python", shlex.quote(sys.executable), 1)
    tools = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    for line in (few, clean):
        done = subprocess.run(
            line, shell=True, cwd=ROOT, env=os.environ | {"PATH": tools}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    monkeypatch.setattr(execute, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "notebooks" / "01_small.ipynb", [new_code_cell("print(6 * 7)")])
    assert main(shlex.split(update)[1:]) == 0
    assert nbformat.read(path, as_version=4).cells[0].outputs[0].text == "42\n"


def test_commands_of_the_bench(monkeypatch, capsys):
    monkeypatch.setattr(parts, "our_network", unet)
    monkeypatch.setattr(peers, "CONTENDERS", {"course": lambda: ContextUnet(features=8)})
    monkeypatch.setattr(parts, "peak_memory", lambda *_, **__: {"peak MB": 1.0})
    commands = commands_in_the_text_of(PACKAGE / "bench" / "README.md")
    [timed] = [words for words in commands if words[:3] == ["bench", "train", "sample"]]
    assert main([*timed, "--rounds", "1", "--batch-size", "2", "--nfe", "2", "--no-compile", "--device", "cpu"]) == 0
    assert "1 thread" in capsys.readouterr().out.splitlines()[0]
