"""Pictures of users: files of the common formats and sheets are read correctly, and what is left out is named."""

import os
import re
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import opaque, picture_folder

from hw3utils.__main__ import main
from hw3utils.datasets import open_set
from hw3utils.files import read_json
from hw3utils.learning.networks import UNet
from hw3utils.learning.weights import save_weights
from hw3utils.schedules import linear_schedule
from hw3utils.sprites import draw_sprites, load_sprites, preview_figure
from hw3utils.sprites.pictures import Cut, cut_tiles, picture_files, read_folder, read_frame, read_rgba

SPRITES = draw_sprites(40, seed=11)[0]


def sheet(tiles, columns, spacing=0, margin=0, line=(0, 0, 0, 0), behind=0):
    """A sheet of RGBA tiles, drawn tile by tile."""
    rows, step = -(-len(tiles) // columns), 16 + spacing
    height, width = (2 * margin + n * step - spacing + behind for n in (rows, columns))
    page = np.empty((height, width, 4), np.uint8)
    page[:] = line
    for k, tile in enumerate(tiles):
        y, x = (margin + n * step for n in divmod(k, columns))
        page[y : y + 16, x : x + 16] = tile
    return page


def keys(images):
    return {image.tobytes() for image in images}


# ------------------------------------------------------------------------------------------------------- files


EXACT = {"PNG": {}, "GIF": {}, "BMP": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("kind", EXACT)
def test_lossless_formats_give_the_saved_pixels(kind, tmp_path):
    path = tmp_path / f"a.{kind.lower()}"
    picture = Image.fromarray(SPRITES[0]).quantize(64).convert("RGB")
    picture.save(path, kind, **EXACT[kind])
    np.testing.assert_array_equal(read_rgba(path)[..., :3], np.asarray(picture))


def test_a_photograph_keeps_its_colours_and_orientation(tmp_path):
    big = np.kron(SPRITES[0], np.ones((8, 8, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.fromarray(np.rot90(big)).save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif)
    assert np.abs(read_rgba(tmp_path / "a.jpg")[..., :3].astype(int) - big).mean() < 6


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_depth_of_png_is_read(mode, tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(np.stack([grey] * 3, axis=-1)).convert("L").convert(mode)
    picture.save(tmp_path / "a.png")
    want = np.where(grey > 127, 255, 0) if mode == "1" else grey
    off = np.abs(read_rgba(tmp_path / "a.png")[..., 0].astype(int) - want)
    # One bit is dithered: right on the average.
    assert off.mean() < 60 if mode == "1" else off.max() == 0


@pytest.mark.parametrize(("mode", "key"), [("L", 40000), ("RGB", (40000, 0, 0))])
def test_transparency_of_16_bit_files_is_read(mode, key, tmp_path):
    """A key colour among 16-bit pixels; Pillow writes no 16-bit RGB, so the file is put together here."""
    pixels = np.zeros((16, 16, 3 if mode == "RGB" else 1), ">u2")
    pixels[4:12, 4:12] = key
    pixels[0, 0, 0] = 65535
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", 16, 16, 16, 2 if mode == "RGB" else 0, 0, 0, 0)
    transparent = np.array(key, ">u2").tobytes()

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    chunks = [(b"IHDR", head), (b"tRNS", transparent), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks))
    read = read_rgba(tmp_path / "a.png")
    assert ((read[..., 3] == 0) == (pixels == key).all(-1)).all()
    assert read[0, 0, 0] == 255


def test_the_first_frame_of_an_animation_is_read_and_named(tmp_path):
    frames = [Image.fromarray(image) for image in SPRITES[:3]]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=100)
    pixels, animated = read_frame(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels[..., :3], SPRITES[0])
    assert animated
    Image.fromarray(SPRITES[4]).save(tmp_path / "b.png")
    assert any("1 animations (first: a.png)" in line for line in read_folder(tmp_path, Cut()).said)


def test_what_is_left_out_is_counted_and_named(tmp_path):
    picture_folder(SPRITES[:3], tmp_path)
    Image.fromarray(SPRITES[0]).save(tmp_path / "again.png")
    Image.new("RGBA", (16, 16)).save(tmp_path / "nothing.png")
    for suffix in ("tiff", "jp2", "xcf"):
        (tmp_path / f"other.{suffix}").write_bytes(b"not read")
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    (tmp_path / "readme.txt").write_text("no picture")
    (tmp_path / "linked.png").symlink_to(tmp_path / "00.png")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "pipe.png")
    tiles = read_folder(tmp_path, Cut())
    assert keys(tiles.images) == keys(SPRITES[:3])
    [said] = [line for line in tiles.said if line.startswith("left out")]
    for count, first in (
        (2, "linked.png"), (3, "other.jp2"), (1, "pipe.png"), (1, "broken.gif"), (1, "nothing.png"),
    ):  # fmt: skip
        assert any(part.strip().startswith(f"{count} ") and f"first: {first}" in part for part in said[9:].split(","))
    assert "1 repeated" in said
    with pytest.raises(ValueError, match=r"broken.gif"):
        read_folder(tmp_path, Cut(strict=True))


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "jpeg", "JPG", "apng", "bmp", "webp"])
def test_every_suffix_of_the_formats_is_read(suffix, tmp_path):
    kind = {"apng": "PNG", "bmp": "BMP", "webp": "WEBP"}.get(suffix, "JPEG")
    for n in range(2):
        Image.fromarray(SPRITES[n]).save(tmp_path / f"{n}.{suffix}", kind)
    assert len(read_folder(tmp_path, Cut()).images) == 2


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    for name in "ab":
        picture_folder(SPRITES[:5] if name == "a" else SPRITES[5:9], tmp_path / name)
    scandir = os.scandir

    def denied(path="."):
        if os.fspath(path).endswith(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    closed = "/b"
    monkeypatch.setattr(os, "scandir", denied)
    assert any("left out" in line and "first: b" in line for line in read_folder(tmp_path, Cut()).said)
    with pytest.raises(ValueError, match="/b"):
        read_folder(tmp_path, Cut(strict=True))
    closed = tmp_path.name
    with pytest.raises(OSError, match="Permission denied"):
        read_folder(tmp_path, Cut())


def test_a_folder_without_pictures_names_what_it_has(tmp_path):
    (tmp_path / "a.tiff").write_bytes(b"")
    for read in (lambda: read_folder(tmp_path, Cut()), lambda: open_set(str(tmp_path))):
        with pytest.raises(ValueError, match=r"a\.tiff"):
            read()


def test_a_pipe_or_folder_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path, tmp_path / "pipe.png"):
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read_rgba(path)
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(ValueError, match=r"pipe\.npy"):
        open_set(str(tmp_path / "pipe.npy"))


def test_class_names_that_are_not_utf_8_are_printable(tmp_path):
    for name in (b"h\xe9ros", b"b"):
        picture_folder(SPRITES[len(name) :][:3], Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)))
    data = load_sprites(tmp_path)
    assert set(data.class_names) == {"b", "h\\xe9ros"}
    assert main(["data", "--source", str(tmp_path), "--preview", "--out", str(tmp_path / "p.png")]) == 0


# ------------------------------------------------------------------------------------------------------- sheets


@pytest.mark.parametrize("line", [(0, 0, 0, 0), (255, 0, 255, 255)])
@pytest.mark.parametrize(
    ("columns", "spacing", "margin", "behind"), [(5, 0, 0, 0), (5, 1, 0, 0), (8, 2, 2, 0), (16, 1, 0, 1), (5, 1, 1, 0)]
)
def test_a_sheet_is_recognised_by_its_lines(columns, spacing, margin, behind, line, tmp_path):
    tiles = opaque(SPRITES) if columns != 16 else opaque(draw_sprites(256, seed=3)[0])
    page = sheet(tiles, columns, spacing, margin, line, behind)
    if columns == 16:
        assert page.shape[:2] == (272, 272)  # 17 x 17 tiles close together, or 16 x 16 with a line behind each
    found, reading = cut_tiles(page, tmp_path / "a.png", Cut())
    np.testing.assert_array_equal(found, tiles)
    assert (f"{spacing} pixels between" in reading) == (spacing > 0)
    found, _ = cut_tiles(page, tmp_path / "a.png", Cut(spacing=spacing, margin=margin))
    np.testing.assert_array_equal(found, tiles)


def test_a_sheet_of_17_x_17_tiles_close_together_stays_one(tmp_path):
    tiles = opaque(draw_sprites(289, seed=5)[0])
    found, reading = cut_tiles(sheet(tiles, 17), tmp_path / "a.png", Cut())
    np.testing.assert_array_equal(found, tiles)
    assert "between" not in reading


@pytest.mark.parametrize("cut", [Cut(), Cut(spacing=1), Cut(margin=3)])
def test_what_does_not_come_out_even_is_refused_with_advice_that_helps(cut, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 61, 3), dtype=np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"61x50.*--spacing.*64x64.*--resize"):
        cut_tiles(read_rgba(path), path, cut)


def test_single_pictures_of_any_size_become_tiles(tmp_path):
    big = np.kron(opaque(SPRITES[0]), np.ones((5, 5, 1), np.uint8))
    found, _ = cut_tiles(big, tmp_path / "a.png", Cut(resize=True))
    np.testing.assert_array_equal(found[0], opaque(SPRITES[0]))
    small = opaque(SPRITES[0][:8, :8])
    found, _ = cut_tiles(small, tmp_path / "a.png", Cut(resize=True))
    np.testing.assert_array_equal(found[0], np.kron(small, np.ones((2, 2, 1), np.uint8)))
    found, _ = cut_tiles(opaque(SPRITES[0][:4, :16]), tmp_path / "a.png", Cut(resize=True))
    assert (found[0][:6, :, 3] == 0).all()
    np.testing.assert_array_equal(found[0][6:10], opaque(SPRITES[0][:4]))


def test_white_on_transparency_is_put_on_black(tmp_path):
    for n in range(6):
        tile = np.zeros((16, 16, 4), np.uint8)
        tile[2 : 4 + n, 3:9] = 255
        Image.fromarray(tile).save(tmp_path / f"{n}.png")
    tiles = read_folder(tmp_path, Cut())
    assert len(tiles.images) == 6
    assert tiles.background == 0
    assert sorted(int((image == 255).all(-1).sum()) for image in tiles.images) == [12, 18, 24, 30, 36, 42]


# ------------------------------------------------------------------------------------------------------- classes


def test_classes_have_the_names_of_the_folders(tmp_path):
    names = ["قهرمان", "$money$", "a b", "日本", "_under"]
    for n, name in enumerate(names):
        folder = tmp_path / "pack-1.0" / name / "deeper"
        folder.mkdir(parents=True)
        Image.fromarray(SPRITES[2 * n]).save(folder / "0.png")
        Image.fromarray(SPRITES[2 * n + 1]).save(folder / "1.png")
    (tmp_path / "pack-1.0" / "void").mkdir()
    Image.new("RGBA", (16, 16)).save(tmp_path / "pack-1.0" / "void" / "0.png")
    data = load_sprites(tmp_path, n_test=1)
    assert sorted(data.class_names) == sorted(names)
    assert "1 classes that ended up empty (void)" in data.source
    assert main(["data", "--source", str(tmp_path), "--preview", "--out", str(tmp_path / "page.png")]) == 0
    with Image.open(tmp_path / "page.png") as page:
        assert page.width > 0


def test_the_preview_of_a_thousand_classes_is_a_page():
    labels = np.eye(1000, dtype=np.uint8).repeat(2, axis=0)
    images = np.random.default_rng(0).integers(0, 255, (2000, 16, 16, 3), dtype=np.uint8)
    figure = preview_figure(images, labels, [f"class {n}" for n in range(1000)])
    [ax] = figure.axes
    assert len(ax.get_yticklabels()) == 40
    assert ax.get_xlabel() == "and 960 classes more"
    assert figure.get_size_inches()[1] < 30


def test_options_of_a_folder_are_refused_for_drawn_sprites(capsys):
    assert main(["data", "--resize"]) == 2
    assert "--size" in capsys.readouterr().err


def test_loops_and_hidden_folders_end(tmp_path):
    (tmp_path / ".git").mkdir()
    Image.fromarray(SPRITES[0]).save(tmp_path / ".git" / "0.png")
    (tmp_path / "round").symlink_to(tmp_path, target_is_directory=True)
    found, left_out = picture_files(tmp_path)
    assert found == []
    assert {reason: len(paths) for reason, paths in left_out.items()} == {"links": 1, "hidden files": 1}


@pytest.mark.parametrize(("channels", "code"), [(1, 0), (2, 2), (4, 2)])
def test_weights_of_other_channels_are_sampled_or_refused_before_the_first_step(channels, code, tmp_path, capsys):
    schedule = linear_schedule()
    network = UNet(channels=channels, schedule=schedule.card())
    save_weights(tmp_path / "weights.safetensors", network.state_dict(), network=network, schedule=schedule, card={})
    words = ["sample", "--weights", str(tmp_path), "--sampler", "ddim", "--steps", "1", "--n", "2"]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "o.png")]) == code
    assert (tmp_path / "o.png").exists() == (code == 0)
    assert (f"{channels} channels" in capsys.readouterr().err) == (code == 2)


# ---------------------------------------------------------------------------------------------- other sizes, grey


@pytest.mark.parametrize(("size", "grey"), [(8, False), (24, True), (32, False)])
def test_other_sizes_and_grey_go_all_the_way_through(size, grey, tmp_path, capsys):
    rng = np.random.default_rng(size)
    images = rng.integers(0, 256, (24, size, size, 1 if grey else 3), np.uint8).repeat(3 if grey else 1, axis=3)
    folder, run = picture_folder(images, tmp_path / "pictures"), tmp_path / "run"
    size_option = ["--size", str(size)]
    words = ["train", "--source", str(folder), *size_option, "--steps", "2", "--batch-size", "4", "--device", "cpu"]
    assert main([*words, "--out", str(run)]) == 0
    card = read_json(run / "weights.json")
    assert (card["data"]["side"], card["network"]["channels"]) == (size, 1 if grey else 3)
    words = ["sample", "--weights", str(run), "--sampler", "ddim", "--steps", "2", "--n", "2", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "a.npz")]) == 0
    made = np.load(tmp_path / "a.npz")["images"]
    assert made.shape == (2, size, size, 3)
    assert not grey or (made == made[..., :1]).all()
    capsys.readouterr()
    # The sprites features are those of 16x16 pictures: refused with what helps.
    assert main(["fid", str(folder), str(run), "--n", "2", "--steps", "1", "--device", "cpu"]) == 2
    assert "--extractor inception" in capsys.readouterr().err


def test_tiles_of_another_size_are_scaled(tmp_path):
    big = SPRITES[:12].repeat(2, axis=1).repeat(2, axis=2)
    page = np.concatenate([np.concatenate(big[k : k + 4], axis=1) for k in (0, 4, 8)])
    folder = picture_folder([page], tmp_path / "sheet")
    shrunk = read_folder(folder, Cut(tile=32))
    assert keys(shrunk.images) == keys(SPRITES[:12])
    assert "tiles, made 16x16" in shrunk.said[0]
    enlarged = read_folder(picture_folder(SPRITES[:12], tmp_path / "single"), Cut(size=32, tile=16))
    assert keys(enlarged.images) == keys(big)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"size": 20}, "20"),
        ({"resize": True, "tile": 8}, "resize"),
    ],
)
def test_an_invalid_cut_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        Cut(**options)


def test_sheets_are_measured_like_the_folders_that_are_trained_on(tmp_path):
    """FID reads with the same options; without them uncut pictures with all copies, which count in a distance."""
    page = sheet(opaque(SPRITES[:12]), 4, spacing=1)
    Image.fromarray(page).save(tmp_path / "sheet.png")
    pictures = np.concatenate(list(open_set(str(tmp_path), cut=Cut())))
    assert keys(pictures) == keys(SPRITES[:12])
    (tmp_path / "sheet.png").unlink()
    picture_folder([SPRITES[0], SPRITES[0], SPRITES[1]], tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    measured = open_set(str(tmp_path))
    assert len(np.concatenate(list(measured))) == 3
    assert "first: broken.png" in measured.description


def test_pictures_of_several_sizes_are_refused_with_what_helps(tmp_path):
    picture_folder([SPRITES[0], SPRITES[1].repeat(2, axis=0).repeat(2, axis=1)], tmp_path)
    with pytest.raises(ValueError, match=r"01\.png.*32x32.*16x16.*--tile"):
        open_set(str(tmp_path))


# ------------------------------------------------------------------------------------------ as found in public sets


def test_pictures_beside_the_sub_folders_are_a_class_of_their_own(tmp_path):
    top = tmp_path / "regular"
    picture_folder(SPRITES[:3], top)
    picture_folder(SPRITES[3:7], top / "female")
    tiles = read_folder(top, Cut())
    assert dict(zip(tiles.class_names, np.bincount(tiles.classes).tolist(), strict=True)) == {"female": 4, "regular": 3}


def blob(side, seed):
    """A smooth drawing on transparency, as icons are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    colours = [127 + 60 * np.sin(3 * (rng.normal() * x + rng.normal() * y) + rng.normal()) for _ in range(3)]
    inside = (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.2
    return np.stack([*colours, 255 * inside], axis=-1).astype(np.uint8)


def test_larger_single_pictures_are_not_taken_for_sheets(tmp_path):
    """Icons of 64x64 would come out even, as 16 pieces each."""
    for k in range(6):
        Image.fromarray(blob(64, k)).save(tmp_path / f"{k}.png")
    Image.fromarray(sheet(opaque(SPRITES[:12]), 4)).save(tmp_path / "sheet.png")
    with pytest.raises(ValueError, match=r"6 .*64x64.*--resize.*--tile 16"):
        read_folder(tmp_path, Cut())
    assert len(read_folder(tmp_path, Cut(resize=True)).images) == 7
    assert "7 sheets of 16x16 tiles" in read_folder(tmp_path, Cut(tile=16)).said[0]


@pytest.mark.parametrize("kind", ["sprites", "noise"])
def test_small_sheets_are_not_taken_for_single_pictures(kind, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    tiles = SPRITES if kind == "sprites" else noise
    for k in range(0, 40, 4):
        Image.fromarray(sheet(opaque(tiles[k : k + 4]), 2)).save(tmp_path / f"{k}.png")
    assert keys(read_folder(tmp_path, Cut()).images) == keys(tiles)


def test_each_tile_with_an_edge_of_its_own_is_a_sheet_with_spacing_and_half_of_it_around(tmp_path):
    Image.fromarray(sheet(opaque(SPRITES[:12]), 4, spacing=2, margin=1)).save(tmp_path / "a.png")
    tiles = read_folder(tmp_path, Cut())
    assert keys(tiles.images) == keys(SPRITES[:12])
    assert "with 2 pixels between and 1 around" in tiles.said[0]


def test_an_uneven_sheet_among_others_is_named_with_the_size_that_helps(tmp_path):
    picture_folder(SPRITES[:3], tmp_path)
    Image.fromarray(sheet(opaque(SPRITES[4:8]), 2)[:31]).save(tmp_path / "flag.png")
    left_out = read_folder(tmp_path, Cut()).said[-1]
    assert "32x32" in left_out
    assert "(first: flag.png)" in left_out
    Image.fromarray(np.pad(sheet(opaque(SPRITES[4:8]), 2)[:31], [(0, 1), (0, 0), (0, 0)])).save(tmp_path / "flag.png")
    assert len(read_folder(tmp_path, Cut()).images) == 7


def test_a_large_sheet_takes_memory_in_proportion(tmp_path):
    """4096 tiles of 1024x1024 pixels, 4 MB: reading them takes some copies of that, not hundreds of bytes a pixel."""
    pixels = np.random.default_rng(0).integers(0, 256, (1024, 1024, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", compress_level=0)
    tracemalloc.start()
    try:
        tiles = read_folder(tmp_path, Cut())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(tiles.images) == 4096
    assert peak < 20 * pixels.nbytes
