"""The page of a training run: its content, that the run does not depend on it, and that a resumed run continues it."""

import os
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import hw3utils.datasets  # noqa: F401 (it takes load_sprites before a test replaces it)
from hw3utils.__main__ import main
from hw3utils.files import file_sha256
from hw3utils.learning.recipes import RECIPES, train_sprites
from hw3utils.learning.weights import load_weights
from hw3utils.plots import tile
from hw3utils.samplers import sample_ddim, sample_in_batches
from hw3utils.sprites import load_sprites, tensor_to_images
from hw3utils.watch import EVALUATIONS, PICTURES, Watch, duration

FEW = load_sprites(n_train=40, n_test=10)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr("hw3utils.sprites.load_sprites", lambda *args, **kwargs: FEW)


def train(out, steps, *words):
    size = ["--batch-size", "4", "--checkpoint-every", "2", "--device", "cpu"]
    assert main(["train", "--steps", str(steps), *size, "--out", str(out), *words]) == 0
    return (out / "index.html").read_text(encoding="utf-8")


def rows(page):
    return [int(step) for step in re.findall(r"<p>Step ([0-9,]+)</p>", page)]


def test_a_run_with_a_page_has_the_bits_of_one_without(few, tmp_path):
    train(tmp_path / "watched", 4)
    config = RECIPES["sprites"].__class__(steps=4, batch_size=4, checkpoint_every=2)
    for _ in train_sprites(FEW, config, out=tmp_path / "alone", device=torch.device("cpu")):
        pass
    assert len({file_sha256(tmp_path / name / "weights.safetensors") for name in ("watched", "alone")}) == 1


def test_the_rows_are_samples_of_the_average_from_the_same_noises(few, tmp_path):
    page = train(tmp_path, 4)
    assert rows(page) == [2, 4]
    assert "finished" in page
    assert "refresh" not in page
    network, schedule, _ = load_weights(tmp_path)
    made = sample_in_batches(sample_ddim, network, schedule, (3, 16, 16), n=PICTURES, steps=EVALUATIONS)
    kept = np.asarray(Image.open(tmp_path / "samples" / "00000004.png"))[::4, ::4]
    assert (kept == tile(tensor_to_images(made), columns=PICTURES)).all()


def test_a_resumed_run_continues_its_page(few, tmp_path):
    train(tmp_path, 2)
    page = train(tmp_path, 4, "--resume")
    assert rows(page) == [2, 4]
    assert "Step 4 of 4" in page


def test_the_page_reloads_itself_until_the_run_has_ended(tmp_path):
    from hw3utils.learning.training import Step

    watch = Watch(tmp_path, RECIPES["sprites"])
    watch.update(Step(1, 0.5, None, None))
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' in page
    assert re.search(r"Step 1 of 50,000; about [0-9.]+ \w+ left", page)
    watch.write(stopped=True)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "refresh" not in page
    assert "stopped, to go on with --resume" in page
    # It loads nothing from elsewhere.
    assert not re.findall(r"https?://", page)


def test_durations_have_a_fitting_unit():
    assert [duration(s) for s in (5, 90, 3000, 5400, 86400)] == ["5 s", "1.5 min", "50 min", "1.5 h", "24 h"]


def test_a_missing_tensorboard_is_one_sentence(few, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main(["train", "--steps", "1", "--batch-size", "4", "--tensorboard", "--out", str(tmp_path / "run")]) == 2
    assert "pip install tensorboard" in capsys.readouterr().err


def test_tensorboard_gets_the_losses(few, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, 4, "--tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss/training")] == [1, 2, 3, 4]


def test_other_files_among_the_samples_are_ignored(tmp_path):
    (tmp_path / "samples").mkdir()
    for name in ("._00000002.png", "00000002 (1).png", "best.png", "00000003.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / "samples" / name)
    Watch(tmp_path, RECIPES["sprites"], history=([0.5, 0.4], [])).write()
    assert rows((tmp_path / "index.html").read_text(encoding="utf-8")) == [3]


def test_a_page_in_a_folder_whose_name_is_not_utf_8(tmp_path):
    out = tmp_path / os.fsdecode(b"h\xe9ros")
    Watch(out, RECIPES["sprites"], history=([0.5, 0.4], [])).write()
    assert "h\\udce9ros" in (out / "index.html").read_text(encoding="utf-8")
