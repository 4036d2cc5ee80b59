"""`hw3 sample`: what it writes under which name; pictures like one, between two, and a part made anew."""

import numpy as np
import pytest
from PIL import Image

from hw3utils.__main__ import main
from hw3utils.sprites import load_sprites
from hw3utils.datasets import open_set

HELDOUT = load_sprites(n_train=2, n_test=20).test_images
FAST = ["sample", "--steps", "20", "--device", "cpu"]


def made(out, *words):
    assert main([*FAST, *map(str, words), "--out", str(out)]) == 0
    return np.load(out)["images"] if out.suffix == ".npz" else None


@pytest.fixture
def pictures(tmp_path):
    for k in (0, 1):
        Image.fromarray(HELDOUT[k]).save(tmp_path / f"{k}.png")
    return tmp_path / "0.png", tmp_path / "1.png"


def off(a, b):
    """Mean distance of two pictures, in levels of 256."""
    return np.abs(a.astype(int) - b.astype(int)).mean()


def test_grid_array_files_and_animation_show_the_same_pictures(tmp_path, capsys):
    names = [tmp_path / name for name in ("a.png", "a.npz", "a.gif", "files")]
    assert main([*FAST, "--sampler", "ddim", "--n", "3", "--batch-size", "2", "--out", *map(str, names)]) == 0
    assert "3 pictures, ddim, 20 evaluations each" in capsys.readouterr().out
    images = np.load(names[1])["images"]
    assert images.shape == (3, 16, 16, 3)
    assert sorted(path.name for path in names[3].iterdir()) == ["0000.png", "0001.png", "0002.png"]
    for k, path in enumerate(sorted(names[3].iterdir())):
        assert (np.asarray(Image.open(path)) == images[k]).all()
    grid = np.asarray(Image.open(names[0]))
    assert grid.shape == (4 * 16, 4 * (3 * 17 - 1), 3)
    assert (grid[::4, ::4][:, 17:33] == images[1]).all()
    with Image.open(names[2]) as moving:
        assert (moving.format, moving.n_frames) == ("GIF", 21)
        moving.seek(20)
        last = np.asarray(moving.convert("RGB"))
    assert off(last, grid) < 6  # a GIF has 256 colours
    # What was written is a set of pictures for the other commands.
    for name in (names[1], names[3]):
        assert (np.concatenate(list(open_set(str(name)))) == images).all()


def test_like_begins_with_the_picture_itself_and_ends_with_a_fresh_one(pictures, tmp_path):
    images = made(tmp_path / "a.npz", "--like", pictures[0], "--n", 5)
    distances = [off(image, HELDOUT[0]) for image in images]
    assert distances[0] < 6 < 25 < distances[-1]
    assert distances[0] < distances[1] < distances[-1]


def test_between_goes_from_the_one_to_the_other(pictures, tmp_path):
    images = made(tmp_path / "a.npz", "--between", *pictures, "--n", 3)
    assert off(images[0], HELDOUT[0]) < 6
    assert off(images[-1], HELDOUT[1]) < 6
    assert min(off(images[1], HELDOUT[k]) for k in (0, 1)) > 6


def test_a_mask_keeps_what_is_white_and_makes_the_rest(pictures, tmp_path):
    mask = np.zeros((16, 16), np.uint8)
    mask[:8] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    images = made(tmp_path / "a.npz", "--like", pictures[0], "--mask", tmp_path / "mask.png", "--n", 2, "--steps", 10)
    assert (images[:, :8] == HELDOUT[0][:8]).all()
    assert off(images[0, 8:], images[1, 8:]) > 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--like", "{0}", "--between", "{0}", "{1}"], "two things"),
        (["--mask", "{0}"], "name the picture with --like"),
        (["--like", "{0}", "--mask", "{1}", "--sampler", "dpm"], "leave --sampler out"),
        (["--like", "{0}", "--sampler", "ddpm"], "by ddim with eta 0"),
        (["--like", "{0}.none"], "damaged or none of"),
        (["--weights", "classifier"], "holds a SpriteClassifier, expected a noise predictor"),
        (["--out", "a.jpg"], "PNG, GIF or NPZ"),
        (["--out", "{folder}"], "not empty"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(words, said, pictures, tmp_path, capsys):
    words = [word.format(*pictures, folder=tmp_path) for word in words]
    where = [] if "--out" in words else ["--out", str(tmp_path / "x.png")]
    assert main([*FAST, *words, *where]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
