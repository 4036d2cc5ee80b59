"""The command line, as a person uses it: what it writes, and one sentence for each wrong use."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from hw3utils import recipes
from hw3utils.__main__ import main
from hw3utils.networks import UNet
from hw3utils.sprites import load_sprites
from hw3utils.training import read_history

TINY = {"widths": (8, 16), "blocks_down": (1, 1), "blocks_up": (1, 1), "groups": 4, "time_width": 16}


@pytest.fixture
def small(monkeypatch):
    """The same commands with a small network and few pictures."""
    few = load_sprites("embedded", n_train=200, n_test=40)
    monkeypatch.setattr(recipes, "UNet", lambda **options: UNet(**{**TINY, **options}))
    monkeypatch.setattr("hw3utils.sprites.load_sprites", lambda source, root=None: few)


@pytest.fixture
def weights(small, tmp_path):
    assert main(["train", "--steps", "2", "--batch-size", "4", "--device", "cpu", "--out", str(tmp_path / "w")]) == 0
    return tmp_path / "w"


def test_train_says_where_its_results_are_and_goes_on(weights, capsys):
    assert (weights / "weights.safetensors").exists()
    again = ["train", "--steps", "5", "--batch-size", "4", "--device", "cpu", "--out", str(weights)]
    assert main(again) == 2
    assert "already holds a checkpoint" in capsys.readouterr().err
    assert main([*again, "--resume"]) == 0
    assert len(read_history(weights)[0]) == 5
    assert f"{weights / 'weights.safetensors'}" in capsys.readouterr().out


def test_resume_without_a_checkpoint_says_so_and_begins(small, tmp_path, capsys):
    command = [
        "train",
        "--steps",
        "1",
        "--batch-size",
        "4",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "new"),
        "--resume",
    ]
    assert main(command) == 0
    assert "no checkpoint in" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        ["--sampler", "ddpm", "--steps", "3"],
        ["--sampler", "ddim", "--steps", "3", "--eta", "0.5"],
        ["--sampler", "dpm", "--steps", "3"],
        ["--sampler", "ddim", "--steps", "2", "--label", "food", "--guidance", "2"],
        ["--sampler", "ddim", "--steps", "2", "--label", "4"],
    ],
)
def test_sample_writes_a_grid(weights, tmp_path, capsys, options):
    path = tmp_path / "deep" / "grid.png"
    command = ["sample", "--weights", str(weights), "--n", "12", "--device", "cpu", "--out", str(path), *options]
    assert main(command) == 0
    assert str(path) in capsys.readouterr().out
    first = np.asarray(Image.open(path))
    assert first.shape == (4 * (2 * 17 - 1), 4 * (10 * 17 - 1), 3)
    assert main([*command, "--batch-size", "5"]) == 0
    assert (np.asarray(Image.open(path)) == first).all()
    assert main([*command, "--seed", "1"]) == 0
    assert (np.asarray(Image.open(path)) != first).any()


def test_data_is_shown_and_previewed(small, tmp_path, capsys):
    path = tmp_path / "preview.png"
    assert main(["data", "--preview", "--out", str(path)]) == 0
    assert "side-facing" in capsys.readouterr().out
    assert Image.open(path).width > 300


WRONG = [
    (["fly"], "fly"),
    (["run", "99"], "no notebook '99'"),
    (["run", "--profile", "slow"], "slow"),
    (["train", "--steps", "-3"], "'-3'"),
    (["train", "--steps", "many"], "'many'"),
    (["train", "--batch-size", "0"], "'0'"),
    (["train", "--lr", "nan"], "lr is nan"),
    (["train", "--lr", "0"], "lr is 0"),
    (["train", "--seed", "-1"], "seed is -1"),
    (["train", "--device", "toaster"], "toaster"),
    (["train", "--precision", "fp8"], "fp8"),
    (["train", "--recipe", "cake"], "cake"),
    (["train", "--batch-size", "500"], "batch_size is 500"),
    (["train", "--capture", "--device", "cpu"], "CUDA"),
    (["train", "--out", "{file}/x"], "{file}"),
    (["sample", "--weights", "nothing"], "'nothing'"),
    (["sample", "--weights", "{weights}", "--sampler", "euler"], "euler"),
    (["sample", "--weights", "{weights}", "--n", "0"], "'0'"),
    (["sample", "--weights", "{weights}", "--steps", "1001"], "1001"),
    (["sample", "--weights", "{weights}", "--sampler", "ddim", "--eta", "3"], "eta"),
    (["sample", "--weights", "{weights}", "--eta", "0.5"], "--eta"),
    (["sample", "--weights", "{weights}", "--guidance", "2"], "--guidance"),
    (["sample", "--weights", "{weights}", "--label", "cat"], "'cat'"),
    (["sample", "--weights", "{weights}", "--label", "5"], "'5'"),
    (["sample", "--weights", "{weights}", "--label", "1", "--guidance", "nan"], "guidance"),
    (["sample", "--weights", "{weights}", "--seed", "-1"], "seed"),
    (["sample", "--weights", "{weights}", "--out", "grid.jpg"], "PNG"),
    (["sample", "--weights", "{weights}", "--out", "{file}/x.png"], "{file}"),
    (["sample", "--weights", "{file}"], "{file}"),
    (["data", "--preview", "--out", "x.txt"], "PNG"),
]


@pytest.mark.parametrize(
    ("command", "named"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_wrong_use_is_one_sentence_and_exit_code_2(weights, tmp_path, capsys, command, named):
    file = tmp_path / "file"
    file.write_text("no folder")

    def fill(text):
        return text.format(file=file, weights=weights)

    words = [fill(word) for word in command]
    if words[0] == "train" and "--out" not in words:
        words += ["--out", str(tmp_path / "fresh")]
    capsys.readouterr()
    try:
        code = main(words)
    except SystemExit as left:
        code = left.code
    error = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(error) == 1
    assert error[0].startswith("hw3")
    assert fill(named) in error[0]
    assert not (tmp_path / "fresh" / "checkpoint.json").exists()


@pytest.mark.parametrize("module", [[sys.executable, "-m", "hw3utils"], ["hw3"]])
def test_both_names_of_the_command(module):
    if module == ["hw3"]:
        module = [os.path.join(os.path.dirname(sys.executable), "hw3")]
    done = subprocess.run([*module, "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("hw3utils ")


def test_ctrl_c_stops_between_two_steps_with_a_sentence(tmp_path):
    out = tmp_path / "run"
    options = ["--steps", "100000", "--batch-size", "4", "--device", "cpu", "--checkpoint-every", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hw3utils", "train", *options, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HW3_QUIET": "1", "OMP_NUM_THREADS": "1"},
    )
    while not (out / "checkpoint.json").exists():
        assert process.poll() is None, process.stderr.read()
        torch.randn(1000, 1000) @ torch.randn(1000, 1000)  # something to do until its first checkpoint is there
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in error
    assert "--resume" in error
    assert len(read_history(out)[0]) >= 1
