"""Nothing unsafe, and no network: what the code must not contain, and what every test runs under."""

import ast
import json
import os
import pickle
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from hw3utils import datasets as sets
from hw3utils import files
from hw3utils.learning import weights
from hw3utils.learning.features import INCEPTION_URL, feature_extractor
from hw3utils.sprites.loading import HUB

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "hw3utils").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "get_ipython",
    "torch.hub.load",
    "torch.jit.load",
    "pd.read_pickle",
    "yaml.load",
}
SAFE_WITH = {
    "torch.load": ("weights_only", "True"),
    "np.load": ("allow_pickle", "False"),
    "numpy.load": ("allow_pickle", "False"),
}


def source(path):
    """The code of a module, or of a notebook without its timings; `!` and any other magic are no Python."""
    if path.suffix == ".py":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code").splitlines()
    return "\n".join(line.removeprefix("%timeit -r 1 -n 1 ") for line in lines)


def unsafe(code):
    """What code imports or calls that could run what it reads."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from UNSAFE_MODULES & {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            yield from UNSAFE_MODULES & {(node.module or "").split(".")[0]}
        elif isinstance(node, ast.Call):
            name, words = ast.unparse(node.func), {(word.arg, ast.unparse(word.value)) for word in node.keywords}
            if name in UNSAFE_CALLS or SAFE_WITH.get(name) not in words | {None} or ("shell", "True") in words:
                yield name


def test_the_search_for_unsafe_code_finds_it():
    for code in ("import pickle", "from joblib import load", "torch.load(path)", "np.load(f)", "eval('1')"):
        assert list(unsafe(code)), code
    for code in ("np.load(f, allow_pickle=False)", "torch.load(f, weights_only=True)", "model.eval()"):
        assert not list(unsafe(code)), code


@pytest.mark.parametrize("line", ["!ls", "%pip install numpy", "%%bash\nls", "files = !ls", "%run other.py"])
def test_a_notebook_that_runs_a_shell_or_installs_is_no_python(line, tmp_path):
    path = tmp_path / "new.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": [line]}]}))
    with pytest.raises(SyntaxError):
        list(unsafe(source(path)))


# The judge executes the checks of the released notebooks, which are the teacher's code, never a student's.
ALLOWED = {"main.py": {"exec"}}


@pytest.mark.parametrize("path", [*SOURCES, *NOTEBOOKS], ids=lambda path: path.name)
def test_nothing_is_unpickled_or_evaluated(path):
    assert set(unsafe(source(path))) == ALLOWED.get(path.name, set())
    assert path.suffix == ".py" or "subprocess" not in source(path)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path(os.environ["HW3_EVIL"]),))


def test_a_pickle_is_refused_and_not_run_wherever_a_file_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HW3_EVIL", str(tmp_path / "ran"))
    pickle.loads(pickle.dumps(Evil()))
    (tmp_path / "ran").unlink()  # the trap works
    pickled, array, saved = (tmp_path / name for name in ("weights.safetensors", "pictures.npy", "saved.safetensors"))
    pickled.write_bytes(pickle.dumps(Evil()))
    np.save(array, np.array([Evil()], dtype=object), allow_pickle=True)
    torch.save({"a": Evil()}, saved)
    weights_file = tmp_path / "inception.pth"
    weights_file.write_bytes(saved.read_bytes())
    for path in (pickled, saved):  # with a card that has their hash
        card = {"network": {"name": "UNet"}, "schedule": {}, "sha256": files.file_sha256(path)}
        files.write_json(path.with_suffix(".json"), card)
    for read, path in (
        (files.read_tensors, pickled),
        (files.read_tensors, saved),
        (files.read_json, pickled),
        (weights.load_weights, pickled),
        (weights.load_weights, saved),
        (sets.read_pictures, array),
        (lambda path: feature_extractor("inception", inception_weights=path), saved),
        (lambda path: feature_extractor("inception", inception_weights=path), weights_file),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=path.name):
            read(path)
    assert not (tmp_path / "ran").exists()


def test_downloads_are_https_at_a_pinned_revision():
    assert HUB.startswith("https://")
    assert len(HUB.rsplit("/", 1)[1]) == 40
    assert INCEPTION_URL.startswith("https://")
    assert "/v0.2.0/" in INCEPTION_URL


def test_this_process_has_no_network():
    with pytest.raises(OSError, match="without a network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(urllib.error.URLError, match="without a network"):
        urllib.request.urlopen("https://example.org", timeout=1)


COMMANDS = [
    ["data"],
    ["sample", "--sampler", "ddim", "--steps", "2", "--n", "2", "--out", "{out}/a.png"],
    ["train", "--steps", "1", "--out", "{out}/train"],
    ["fid", "embedded:test", "sprites", "--n", "20", "--steps", "2"],
    ["bench", "fid", "--rounds", "1", "--no-memory"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_commands_need_no_network_gpu_or_display(command, tmp_path):
    """In a process of its own, with sockets that fail, no GPU and no display."""
    environment = {name: value for name, value in os.environ.items() if name not in {"DISPLAY", "WAYLAND_DISPLAY"}}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "HW3_CACHE": str(tmp_path / "cache"), "TORCH_HOME": str(tmp_path)}
    words = [word.format(out=tmp_path) for word in command]
    probe = "import socket, sys; from hw3utils.__main__ import main; assert socket.getaddrinfo.__name__ == '_lookup'; "
    code = probe + f"sys.exit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
