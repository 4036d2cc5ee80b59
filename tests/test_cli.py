"""The command line, as a person uses it: what it writes, and one sentence for each wrong use."""

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hw3utils
from hw3utils.__main__ import main
from hw3utils.files import read_json, write_json
from hw3utils.learning import recipes
from hw3utils.learning.networks import UNet
from hw3utils.learning.run_files import read_history
from hw3utils.sprites import load_sprites

TINY = {"widths": (8, 16), "blocks_down": (1, 1), "blocks_up": (1, 1), "groups": 4, "time_width": 16}


@pytest.fixture(scope="module")
def few():
    return load_sprites("embedded", n_train=200, n_test=40)


def shrink(patch, few):
    """The same commands with a small network and few pictures."""
    patch.setattr(recipes, "UNet", lambda **options: UNet(**{**TINY, **options}))
    patch.setattr("hw3utils.sprites.load_sprites", lambda source, **options: few)


@pytest.fixture
def small(few, monkeypatch):
    shrink(monkeypatch, few)


@pytest.fixture(scope="module")
def trained(few, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "w"
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch, few)
        assert main(["train", "--steps", "2", "--batch-size", "4", "--device", "cpu", "--out", str(out)]) == 0
    return out


@pytest.fixture
def weights(small, trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "w"))


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


def test_guidance_0_is_no_label_and_1_is_the_plain_one(tmp_path):
    def picture(*options):
        path = tmp_path / "grid.png"
        command = ["sample", "--sampler", "ddim", "--steps", "2", "--n", "2", "--device", "cpu", "--out", str(path)]
        assert main([*command, *options]) == 0
        return path.read_bytes()

    labelled = picture("--label", "food")
    assert picture("--label", "2", "--guidance", "1") == labelled
    assert picture("--label", "food", "--guidance", "0") == picture() != labelled
    assert picture("--label", "food", "--guidance", "4") != labelled


def test_the_card_may_say_nothing_of_the_data(weights, tmp_path, capsys):
    card = weights / "weights.json"
    command = ["sample", "--weights", str(weights), "--n", "1", "--steps", "1", "--out", str(tmp_path / "x.png")]
    for data in (None, [], {"class_names": []}):
        write_json(card, {**read_json(card), "data": data})
        assert main([*command, "--label", "4"]) == 0
        assert main([*command, "--label", "food"]) == 2
        assert capsys.readouterr().err == "hw3 sample: --label is 'food', expected 0..4.\n"


def test_training_that_diverges_says_so_and_exits_with_1(small, tmp_path, capsys):
    command = ["train", "--steps", "40", "--batch-size", "4", "--device", "cpu", "--checkpoint-every", "1"]
    assert main([*command, "--lr", "1e38", "--out", str(tmp_path / "w")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("hw3 train: the ")
    assert "training has diverged" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "w" / "weights.safetensors").exists()


def test_data_is_shown_and_previewed(small, tmp_path, capsys):
    path = tmp_path / "preview.png"
    assert main(["data", "--preview", "--out", str(path)]) == 0
    assert "side-facing" in capsys.readouterr().out
    assert Image.open(path).width > 300
    assert [p.name for p in tmp_path.iterdir()] == ["preview.png"]


WRONG = [
    ([], "COMMAND"),
    (["fly"], "fly"),
    (["run", "²"], "no notebook '²'"),
    (["run", "1", "--out", "{file}/x"], "{file}"),
    (["train", "--steps", "1.5"], "'1.5'"),
    (["train", "--lr", "fast"], "'fast'"),
    (["train", "--lr", "inf"], "lr is inf"),
    (["train", "--seed", "4294967296"], "seed is 4294967296"),
    (["train", "--device", "meta"], "'meta'"),
    (["train", "--out", "{weights}"], "already holds a checkpoint"),
    (["train", "--out", "{weights}", "--resume", "--batch-size", "4", "--steps", "1"], "past steps = 1"),
    (["train", "--out", "{weights}", "--resume", "--batch-size", "5"], "batch_size = 4, not 5"),
    (["sample", "--weights", "{weights}/checkpoint.json"], "not a whole safetensors file"),
    (["sample", "--weights", "{weights}", "--out", "{weights}"], "PNG"),
    (["sample", "--weights", "{weights}", "--label", "²"], "'²'"),
    (["sample", "--weights", "{weights}", "--batch-size", "-1"], "'-1'"),
    (["sample", "--weights", "{weights}", "--device", "cuda:99"], "'cuda:99'"),
    (["bench", "flying"], "'flying'"),
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
def test_wrong_use_is_one_sentence_and_exit_code_2(weights, tmp_path, capsys, monkeypatch, command, named):
    file = tmp_path / "file"
    file.write_text("no folder")

    def fill(text):
        return text.format(file=file, weights=weights)

    words = [fill(word) for word in command]
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    if words[:1] == ["train"] and "--out" not in words:
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
    assert "Traceback" not in error[0]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_both_names_of_the_command_are_one():
    [script] = [entry for entry in importlib.metadata.entry_points(group="console_scripts") if entry.name == "hw3"]
    assert script.load() is main
    says = [
        subprocess.run([*command, "--version"], capture_output=True, text=True).stdout
        for command in ([sys.executable, "-m", "hw3utils"], [os.path.join(os.path.dirname(sys.executable), "hw3")])
    ]
    assert says[0] == says[1] == f"hw3utils {hw3utils.__version__}\n"


INTERRUPTED = """
import sys
from hw3utils import sprites
from hw3utils.__main__ import main
from hw3utils.learning import recipes
from hw3utils.learning.networks import UNet

few, TINY = sprites.load_sprites("embedded", n_train=200, n_test=40), %r
recipes.UNet = lambda **options: UNet(**{**TINY, **options})
sprites.load_sprites = lambda source, **options: few
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_stops_between_two_steps_and_the_run_goes_on_later(small, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--batch-size", "4", "--device", "cpu", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED % TINY, "train", "--steps", "1000000", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "HW3_QUIET": "0", "OMP_NUM_THREADS": "1"},
    )
    seen = b""
    while b"training" not in seen:  # the bar, which is there after the first step
        byte = process.stderr.read(1)
        assert byte, seen.decode()
        seen += byte
    process.send_signal(signal.SIGINT)
    said, error = (stream.decode() for stream in process.communicate())
    assert process.returncode == 130
    assert str(out) in said
    assert "Traceback" not in error
    done = len(read_history(out)[0])
    assert f"stopped; step {done} is saved in {out}, go on with the same command and --resume" in error
    assert main(["train", "--steps", str(done + 1), "--resume", *options]) == 0
    assert len(read_history(out)[0]) == done + 1


def test_ctrl_c_anywhere_else_is_a_sentence(small, weights, tmp_path, monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("hw3utils.samplers.sample_in_batches", interrupt)
    assert main(["sample", "--weights", str(weights), "--out", str(tmp_path / "x.png")]) == 130
    monkeypatch.setattr("hw3utils.sprites.load_sprites", interrupt)
    assert main(["train", "--out", str(tmp_path / "new")]) == 130
    assert main(["data"]) == 130
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["hw3 sample", "hw3 train", "hw3 data"]
    assert all("interrupted; what was written before is whole" in line for line in lines)
    assert not (tmp_path / "x.png").exists()
