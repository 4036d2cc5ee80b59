"""The commands of the guides, executed as they stand there, with smaller numbers where a command takes long."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
from course_helpers import hand_in, small_homework
from PIL import Image
from tiny import picture_folder

from hw3utils.__main__ import main
from hw3utils.course import release
from hw3utils.sprites import draw_sprites

PACKAGE = Path(__file__).resolve().parent.parent / "hw3utils"
SMALLER = {
    "train": ["--steps", "2", "--batch-size", "4", "--checkpoint-every", "2"],
    "sample": ["--n", "2", "--steps", "3"],
}


def commands_of(guide):
    """The `hw3` commands of a guide's first block of code, as lists of words."""
    block = re.search(r"```sh\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)[1]
    lines = [shlex.split(line.split("#")[0]) for line in block.splitlines()]
    return [words[1:] for words in lines if words and words[0] == "hw3"]


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
