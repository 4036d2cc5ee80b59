"""`hw3 sample`: what it writes under which name; pictures like one, between two, and a part made anew."""

import argparse

import numpy as np
import pytest
from PIL import Image

from hw3utils.__main__ import main
from hw3utils.commands.sample import read_inputs
from hw3utils.datasets import open_set, picture_background, picture_shape
from hw3utils.files import read_json
from hw3utils.sprites import load_sprites

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
    assert "3 pictures of sprites-tuned, ddim, 20 evaluations each" in capsys.readouterr().out
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


def test_transparent_parts_of_a_mask_are_sampled_anew(pictures, tmp_path):
    mask = np.zeros((32, 32, 4), np.uint8)  # twice the size, the same shape
    mask[:16] = 255
    mask[16:, :, :3] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    images = made(tmp_path / "a.npz", "--like", pictures[0], "--mask", tmp_path / "mask.png", "--n", 2, "--steps", 2)
    assert (images[:, :8] == HELDOUT[0][:8]).all()
    assert off(images[0, 8:], images[1, 8:]) > 1


@pytest.mark.parametrize("option", ["--like", "--between"])
def test_pictures_are_put_on_the_background_of_the_training(option, tmp_path):
    """Weights trained on white drawings on black; with a mask that keeps all, the input comes out."""
    for k in range(12):
        drawing = np.zeros((16, 16, 4), np.uint8)
        drawing[2:10, 2 : 4 + k] = 255
        Image.fromarray(drawing).save(tmp_path / f"{k}.png")
    words = [
        "train",
        "--source",
        tmp_path,
        "--steps",
        1,
        "--batch-size",
        2,
        "--device",
        "cpu",
        "--out",
        tmp_path / "run",
    ]
    assert main([*map(str, words)]) == 0
    args = argparse.Namespace(like=None, between=None, mask=None)
    setattr(args, option[2:], tmp_path / "3.png" if option == "--like" else [tmp_path / "3.png", tmp_path / "4.png"])
    card = read_json(tmp_path / "run" / "weights.json")
    inputs = read_inputs(args, picture_shape(card), picture_background(card))
    drawn = inputs["known" if option == "--like" else "first"]
    assert set(drawn.flatten().tolist()) == {-1.0, 1.0}
    assert float((drawn == 1).double().mean()) == 8 * 5 / 256


def test_an_animation_is_named(pictures, tmp_path, capsys):
    frames = [Image.fromarray(image) for image in HELDOUT[:2]]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    made(tmp_path / "o.png", "--like", tmp_path / "a.gif", "--n", 1, "--steps", 1)
    assert "a.gif is an animation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--like", "{0}", "--between", "{0}", "{1}"], "--between"),
        (["--mask", "{0}"], "--like"),
        (["--like", "{0}", "--mask", "{1}", "--sampler", "dpm"], "--sampler"),
        (["--like", "{0}", "--sampler", "ddpm"], "ddim"),
        (["--like", "{0}.none"], "0.png.none"),
        (["--weights", "classifier"], "SpriteClassifier"),
        (["--out", "a.jpg"], "PNG, GIF or NPZ"),
        (["--out", "{folder}"], "not empty"),
        (["--between", "{0}", "{1}", "--seed", "3"], "--seed"),
        (["--like", "{0}", "--mask", "{wide}"], "32x16"),
        (["--like", "{0}", "--mask", "{small}"], "10x10"),
    ],
)
def test_options_that_exclude_each_other_are_one_sentence(words, named, pictures, tmp_path, capsys):
    masks = {"wide": tmp_path / "wide.png", "small": tmp_path / "small.png"}
    for size, path in zip(((32, 16), (10, 10)), masks.values(), strict=True):
        Image.new("L", size).save(path)
    words = [word.format(*pictures, folder=tmp_path, **masks) for word in words]
    where = [] if "--out" in words else ["--out", str(tmp_path / "x.png")]
    assert main([*FAST, *words, *where]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
