"""In a sandbox a submission cannot read others' files, write outside of its folder, or reach the network."""

import os
import shutil
import subprocess

import pytest
from course_helpers import hand_in, small_homework

from hw3utils.__main__ import main
from hw3utils.course.grading import session as grade

pytest.importorskip("nbgrader", reason="nbgrader is not installed")


@pytest.fixture(scope="module")
def homework(tmp_path_factory):
    with small_homework(tmp_path_factory.mktemp("homework")) as edition:
        yield edition


PROBE = """
import socket
from pathlib import Path

found = []
for place in {places!r}:
    try:
        found.append(Path(place).read_text())
    except OSError:
        pass
    try:
        Path(place).write_text("changed")
        found.append("written")
    except OSError:
        pass
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=2)
    found.append("reached")
except OSError:
    pass


def double(x):
    return 2 * x if found else 3 * x
"""


def test_without_bubblewrap_a_sandbox_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    (tmp_path / "ann").mkdir()
    assert main(["grade", str(tmp_path / "ann"), "--sandbox", "--out", str(tmp_path / "out")]) == 2
    assert "--sandbox needs bubblewrap" in capsys.readouterr().err


def allowed():
    """Whether bubblewrap is installed and allowed."""
    words = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"]
    return shutil.which("bwrap") is not None and subprocess.run(words, check=False).returncode == 0


def test_a_machine_without_sandboxes_is_refused_before_anything_runs(tmp_path, monkeypatch, capsys):
    refuses = tmp_path / "bin" / "bwrap"
    refuses.parent.mkdir()
    refuses.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
    refuses.chmod(0o755)
    monkeypatch.setenv("PATH", str(refuses.parent), prepend=":")
    (tmp_path / "ann").mkdir()
    assert main(["grade", str(tmp_path / "ann"), "--sandbox", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "cannot make a sandbox on this machine (bwrap: No permissions to create new namespace)" in error


@pytest.mark.skipif(not allowed(), reason="bubblewrap is not installed, or not allowed here")
def test_a_submission_is_isolated(homework, tmp_path, hub):
    neighbour = hand_in(tmp_path / "in" / "bob", homework, "def double(x): return 2 * x", "Mine.", "1")
    secret = neighbour / "student_number.txt"
    source = PROBE.format(places=[str(secret), str(tmp_path / "new.txt")], port=hub)
    folder = hand_in(tmp_path / "in" / "eve", homework, source, "x", "2")
    results = grade.grade([folder, neighbour], tmp_path / "out", timeout=60, seed=3, sandbox=True)
    # The probe doubles only where it got through.
    assert [result.cells[0].points for result in results] == [0, 2]
    assert secret.read_text() == "1"
    assert not (tmp_path / "new.txt").exists()


FORKS = """
import os
import signal

made = []


def double(x):
    try:
        while len(made) < 2000:
            pid = os.fork()
            if pid == 0:
                signal.pause()
            made.append(pid)
    except OSError:
        pass
    for pid in made:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return 2 * x if 1 < len(made) < 512 else x
"""


@pytest.mark.skipif(not allowed(), reason="bubblewrap is not installed, or not allowed here")
@pytest.mark.skipif(os.geteuid() == 0, reason="the kernel sets root no limit on processes")
def test_forks_are_limited(homework, tmp_path):
    folder = hand_in(tmp_path / "in" / "eve", homework, FORKS, "x", "2")
    (result,) = grade.grade([folder], tmp_path / "out", timeout=60, seed=3, sandbox=True)
    assert result.cells[0].points == 2


@pytest.fixture
def hub():
    """A local port with a listener."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
