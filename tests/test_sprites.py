"""The sprites: what the grammar draws, its exact size and rules, and every way pictures come in."""

import json
from itertools import product

import numpy as np
import pytest
import requests
import torch
from hub import Hub
from PIL import Image

from hw3utils.files import file_sha256
from hw3utils.sprites import (
    ATTRIBUTE_VALUES,
    CLASS_NAMES,
    count_grammar,
    describe,
    draw_sprites,
    drawing,
    grammar,
    grammar_accepts,
    images_to_tensor,
    load_sprites,
    loading,
    outline_share,
    preview,
    preview_figure,
    sprite_set,
    tensor_to_images,
)

PICTURES, LABELS = loading.PICTURES_FILE, loading.LABELS_FILE


def keys(images):
    return [image.tobytes() for image in images]


@pytest.fixture(scope="module")
def drawn():
    return draw_sprites(4000, seed=3)


@pytest.fixture(scope="module")
def one_of_each():
    """Every drawing of the grammar in one set of colours, as pictures; 80,640 adventurers are thinned out."""
    palette = np.full((grammar.N_CODES, 3), 255, np.uint8)
    palette[grammar.OUTLINE_CODE] = grammar.OUTLINES["black"]
    for i, material in enumerate(grammar.MATERIALS):
        ramp = next(iter(grammar.PALETTES[material].values()))
        palette[grammar.FIRST_COLOUR + 3 * i : grammar.FIRST_COLOUR + 3 * i + 3] = ramp
    maps = [grammar.structures(kind)[0] for kind in drawing.KINDS]
    return palette[np.concatenate([m[:: 7 if len(m) > 10_000 else 1] for m in maps])]


# ------------------------------------------------------------------------------------------------- the generator


def test_drawn_sprites_have_the_form_of_the_real_files(drawn):
    images, labels, attributes = drawn
    assert images.shape == (4000, 16, 16, 3)
    assert labels.shape == (4000, 5)
    assert images.dtype == labels.dtype == np.uint8
    assert (labels.sum(axis=1) == 1).all()
    assert (labels.argmax(axis=1) == attributes["class"]).all()


def test_no_class_is_rare(drawn):
    assert (drawn[1].mean(axis=0) >= 0.15).all()
    training_labels = sprite_set(3000, 500, seed=1)[0][1]
    assert (training_labels.mean(axis=0) >= 0.15).all()


def test_attributes_stay_in_their_values_and_name_the_picture(drawn):
    images, _, attributes = drawn
    assert attributes.keys() == ATTRIBUTE_VALUES.keys()
    for name, values in attributes.items():
        assert values.min() >= 0
        assert values.max() < len(ATTRIBUTE_VALUES[name])
    # Same picture, same attributes, and the other way round.
    rows = np.stack(list(attributes.values()), axis=1)
    assert len(set(keys(images))) == len({row.tobytes() for row in rows})
    assert len({(key, row.tobytes()) for key, row in zip(keys(images), rows, strict=True)}) == len(set(keys(images)))


def test_a_kind_belongs_to_one_class(drawn):
    attributes = drawn[2]
    for kind, class_index in set(zip(attributes["kind"].tolist(), attributes["class"].tolist(), strict=True)):
        assert drawing.KINDS[kind].class_name == CLASS_NAMES[class_index]
    assert len(set(attributes["kind"].tolist())) == len(drawing.KINDS)


def test_the_seed_decides_everything():
    first, again, other = draw_sprites(300, seed=5), draw_sprites(300, seed=5), draw_sprites(300, seed=6)
    for a, b in zip(first[:2], again[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    for name, values in first[2].items():
        np.testing.assert_array_equal(values, again[2][name])
    assert (first[0] != other[0]).any()


def test_drawing_leaves_the_global_random_state_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    draw_sprites(50)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("n", [0, -3, 2.5])
def test_a_wrong_number_of_sprites_is_refused(n):
    with pytest.raises(ValueError, match=f"n is {n}"):
        draw_sprites(n)


def test_the_grammar_has_a_million_pictures_and_enough_of_each_class():
    counts = count_grammar()
    assert counts["total"] == sum(counts[name] for name in CLASS_NAMES)
    assert counts["total"] >= 1_000_000
    assert min(counts.values()) >= 400_000


def test_no_colour_is_used_twice():
    # Which makes the count exact: a pixel determines its material, tone and option.
    tones = [tone for palette in grammar.PALETTES.values() for ramp in palette.values() for tone in ramp]
    tones += [*grammar.OUTLINES.values(), grammar.WHITE]
    assert len(set(tones)) == len(tones)


def test_kinds_of_different_classes_share_no_drawing():
    seen = {}
    for kind in drawing.KINDS:
        for key in set(keys(grammar.structures(kind)[0])):
            assert seen.setdefault(key, kind.name) == kind.name


def test_the_count_equals_enumeration_where_that_is_possible(monkeypatch):
    full = {kind.name: kind for kind in drawing.KINDS}
    # A few colours each; the second material is hidden in some drawings and not in others.
    small = {
        "apple": {"main": ("red", "lime"), "second": ("teal", "pink"), "accent": ("sky", "red", "lime")},
        "goblin": {
            "main": ("green", "red"),
            "second": ("blue",),
            "accent": ("red", "sky"),
            "metal": ("iron", "golden"),
        },
    }
    kinds = tuple(
        grammar.Kind(**{**vars(full[name]), "colours": {**full[name].colours, **colours}})
        for name, colours in small.items()
    )
    monkeypatch.setattr(drawing, "KINDS", kinds)
    drawing._drawings.cache_clear()
    try:
        counts = count_grammar()
    finally:
        drawing._drawings.cache_clear()
    for kind in kinds:
        pictures = set()
        codes = np.unique(grammar.structures(kind)[0], axis=0)
        materials = [m for m in grammar.MATERIALS if m in small[kind.name]]
        for outline, *options in product(grammar.OUTLINES.values(), *(kind.options(m) for m in materials)):
            chosen = dict(zip(materials, options, strict=True))
            palette = np.full((grammar.N_CODES, 3), 255, np.uint8)
            palette[grammar.OUTLINE_CODE] = outline
            for i, m in enumerate(grammar.MATERIALS):
                tones = grammar.PALETTES[m][chosen.get(m, next(iter(grammar.PALETTES[m])))]
                palette[grammar.FIRST_COLOUR + 3 * i : grammar.FIRST_COLOUR + 3 * i + 3] = tones
            pictures.update(keys(palette[codes]))
        # Materials left out of `small` have one colour only, or are not in this kind at all.
        assert counts[kind.class_name] == len(pictures)


def test_every_drawing_keeps_the_rules(one_of_each, drawn):
    assert grammar_accepts(one_of_each).all()
    assert grammar_accepts(drawn[0], tolerance=0).all()


def test_every_outline_is_dark_and_closed(one_of_each):
    # Independently of grammar_accepts: flood the background from outside; it meets dark pixels only.
    one_of_each = one_of_each[::3]
    white = (one_of_each == 255).all(axis=-1)
    dark = (one_of_each <= 64).all(axis=-1)
    flooded = np.zeros((len(white), 18, 18), bool)
    flooded[:, 0], flooded[:, -1], flooded[:, :, 0], flooded[:, :, -1] = True, True, True, True
    passable = np.pad(white, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    solid = np.pad(dark, ((0, 0), (1, 1), (1, 1)))
    for _ in range(60):
        grown = flooded.copy()
        grown[:, 1:] |= flooded[:, :-1]
        grown[:, :-1] |= flooded[:, 1:]
        grown[:, :, 1:] |= flooded[:, :, :-1]
        grown[:, :, :-1] |= flooded[:, :, 1:]
        assert not (grown & ~passable & ~solid).any()
        flooded = grown & passable


def test_shifts_never_wrap_round():
    for kind in drawing.KINDS:
        still = grammar.Kind(**{**vars(kind), "shifts": ((0, 0),)})
        coloured = (grammar.structures(still)[0] >= grammar.FIRST_COLOUR).any(axis=0)
        rows, columns = np.flatnonzero(coloured.any(axis=1)), np.flatnonzero(coloured.any(axis=0))
        for down, right in kind.shifts:
            assert rows[0] + down >= 1
            assert rows[-1] + down <= 14
            assert columns[0] + right >= 1
            assert columns[-1] + right <= 14


def test_grammar_accepts_tolerates_small_errors_of_a_network(drawn):
    rng = np.random.default_rng(0)
    images = drawn[0][:1000].astype(int)
    for off in (6, 12):
        noisy = (images + rng.integers(-off, off + 1, images.shape)).clip(0, 255).astype(np.uint8)
        assert grammar_accepts(noisy, tolerance=off).all()
        assert not grammar_accepts(noisy, tolerance=off // 2).any()


def test_grammar_accepts_refuses_damage(drawn):
    images = drawn[0][:500]
    rng = np.random.default_rng(0)
    assert not grammar_accepts(rng.integers(0, 256, images.shape, np.uint8)).any()
    blurred = (sum(np.roll(images.astype(int), k, axis=2) for k in (-1, 0, 1)) // 3).astype(np.uint8)
    assert not grammar_accepts(blurred).any()
    assert not grammar_accepts(np.full_like(images, 255)).any()
    assert not grammar_accepts(255 - images).any()
    # Palette colours at random places: colours right, drawing wrong.
    shuffled = rng.permutation(images.reshape(500, 256, 3), axis=1).reshape(images.shape)
    assert not grammar_accepts(shuffled).any()


def test_grammar_accepts_refuses_a_broken_outline(drawn):
    broken = drawn[0][:500].copy()
    for image in broken:
        dark = (image <= 64).all(axis=-1)
        coloured = ~dark & ~(image == 255).all(axis=-1)
        beside = np.zeros_like(dark)
        beside[:-1] |= coloured[1:]
        # The topmost outline pixel above a coloured one is erased.
        y, x = np.argwhere(dark & beside)[0]
        image[y, x] = 255
    assert not grammar_accepts(broken).any()


def test_grammar_accepts_refuses_invalid_input(drawn):
    with pytest.raises(ValueError, match=r"float64 \(2, 16, 16, 3\)"):
        grammar_accepts(np.zeros((2, 16, 16, 3)))
    with pytest.raises(ValueError, match="99"):
        grammar_accepts(drawn[0][:2], tolerance=99)


# ------------------------------------------------------------------------------------------------- the sets


def test_train_and_held_out_share_no_picture():
    train, test = sprite_set(6000, 600, seed=2)
    assert len(train[0]) == 6000
    assert len(test[0]) == 600
    assert len(set(keys(train[0]) + keys(test[0]))) == 6600
    for images, labels, attributes in (train, test):
        assert (labels.argmax(axis=1) == attributes["class"]).all()
        assert len(images) == len(attributes["kind"])
        assert grammar_accepts(images, tolerance=0).all()


def test_embedded_source_is_the_sprite_set():
    data = load_sprites(n_train=400, n_test=40, seed=9)
    train, test = sprite_set(400, 40, seed=9)
    np.testing.assert_array_equal(data.train_images, train[0])
    np.testing.assert_array_equal(data.train_labels, train[1])
    np.testing.assert_array_equal(data.test_images, test[0])
    assert data.class_names == CLASS_NAMES
    assert data.source == "drawn by the embedded generator, seed 9"
    assert data.sha256 == load_sprites(n_train=400, n_test=40, seed=9).sha256
    assert data.sha256 != load_sprites(n_train=400, n_test=40, seed=8).sha256
    assert repr(data).startswith("SpriteData(400 to train, 40 held out, 5 classes")
    assert len(repr(data)) < 200


def test_the_usual_sizes_are_those_of_the_homework():
    assert (loading.N_TRAIN, loading.N_TEST) == (89_400, 4_096)


def test_impossible_embedded_sizes_are_refused():
    with pytest.raises(ValueError, match="500000"):
        sprite_set(500_000, 1)
    with pytest.raises(ValueError, match="n_train is 0"):
        load_sprites(n_train=0)
    with pytest.raises(ValueError, match="somewhere"):
        load_sprites("embedded", root="somewhere")


# ------------------------------------------------------------------------------------------------- the real files


def write_real(folder, images=None, labels=None):
    """Write the two files as published, small: 20 distinct pictures, each three times."""
    distinct = draw_sprites(20, seed=1)
    folder.mkdir(exist_ok=True)
    np.save(folder / PICTURES, np.tile(distinct[0], (3, 1, 1, 1)) if images is None else images)
    np.save(folder / LABELS, np.tile(distinct[1], (3, 1)).astype(np.int64) if labels is None else labels)
    return folder


def test_real_files_are_split_by_distinct_picture(tmp_path):
    data = load_sprites("real", root=write_real(tmp_path / "real"), n_test=5)
    assert len(data.test_images) == len(set(keys(data.test_images))) == 5
    assert len(data.train_images) == 45
    assert len(set(keys(data.train_images))) == 15
    assert not set(keys(data.train_images)) & set(keys(data.test_images))
    assert data.train_labels.dtype == np.uint8
    assert data.class_names == CLASS_NAMES
    assert str(tmp_path / "real") in data.source
    # Each picture keeps its label.
    label_of = dict(zip(keys(draw_sprites(20, seed=1)[0]), draw_sprites(20, seed=1)[1].tolist(), strict=True))
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        assert [label_of[key] for key in keys(images)] == labels.tolist()


def test_the_split_follows_the_seed_and_the_sizes(tmp_path):
    root = write_real(tmp_path)
    first, again, other = (load_sprites("real", root=root, seed=seed) for seed in (0, 0, 1))
    assert keys(first.test_images) == keys(again.test_images)
    assert first.sha256 == again.sha256
    assert keys(first.test_images) != keys(other.test_images)
    assert len(first.test_images) == 2
    assert len(load_sprites("real", root=root, n_train=7, n_test=3).train_images) == 7
    with pytest.raises(ValueError, match=r"n_test = 20\b.*\b19\b"):
        load_sprites("real", root=root, n_test=20)
    with pytest.raises(ValueError, match=r"n_train = 55\b.*\b54\b"):
        load_sprites("real", root=root, n_train=55)


BAD_FILES = {
    "shape": ({"images": np.zeros((60, 16, 15, 3), np.uint8)}, r"\(60, 16, 15, 3\)"),
    "dtype": ({"images": np.zeros((60, 16, 16, 3), np.float32)}, "float32"),
    "lengths": ({"labels": np.eye(5)[np.zeros(59, int)]}, "60 .* 59"),
    "label shape": ({"labels": np.zeros((60, 4))}, r"\(60, 4\)"),
    "label dtype": ({"labels": np.full((60, 5), "a")}, "<U1"),
    "no class": ({"labels": np.zeros((60, 5))}, r"\[0.0, .*row 0"),
    "two classes": ({"labels": np.tile([1, 1, 0, 0, 0], (60, 1))}, r"\[1, 1, 0, 0, 0\].*row 0"),
    "half a class": ({"labels": np.tile([0.5, 0.5, 0, 0, 0], (60, 1))}, "one-hot"),
    "NaN": ({"labels": np.full((60, 5), np.nan)}, "one-hot"),
    "pickled": ({"labels": np.array([{"class": 1}] * 60, object)}, "pickled"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_real_files_are_refused(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        load_sprites("real", root=write_real(tmp_path, **arrays))


@pytest.mark.parametrize("kept", [0, 40, 1000], ids=["empty", "header cut", "data cut"])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = write_real(tmp_path) / PICTURES
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=PICTURES):
        load_sprites("real", root=tmp_path)


def test_an_archive_is_refused(tmp_path):
    write_real(tmp_path)
    with open(tmp_path / PICTURES, "wb") as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(ValueError, match="archive"):
        load_sprites("real", root=tmp_path)


def test_missing_real_files_are_never_replaced_by_drawn_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "draw_sprites", lambda *_, **__: pytest.fail("the generator was asked"))
    with pytest.raises(FileNotFoundError, match="--root"):
        load_sprites("real", root=tmp_path / "nowhere")
    write_real(tmp_path)
    (tmp_path / LABELS).unlink()
    with pytest.raises(FileNotFoundError, match=LABELS):
        load_sprites("real", root=tmp_path)


# ------------------------------------------------------------------------------------------------- downloads


@pytest.fixture
def hub(tmp_path, monkeypatch):
    files = write_real(tmp_path / "published")
    server = Hub({name: (files / name).read_bytes() for name in (PICTURES, LABELS)}, monkeypatch)
    monkeypatch.setenv("HW3_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(drawing, "draw_sprites", lambda *_, **__: pytest.fail("the generator was asked"))
    return server


def test_a_download_is_kept_with_its_hash(hub, tmp_path):
    data = load_sprites("real")
    assert hub.asked == [f"{loading.HUB}/{name}" for name in (PICTURES, LABELS)]
    assert all(url.startswith("https://") and "a24918819843abc0d1bee75a239024415081a87d" in url for url in hub.asked)
    cache = tmp_path / "cache"
    names = (PICTURES, LABELS)
    assert sorted(p.name for p in cache.iterdir()) == sorted([*names, *(f"{name}.json" for name in names)])
    record = json.loads((cache / f"{PICTURES}.json").read_text())
    assert record["sha256"] == file_sha256(tmp_path / "published" / PICTURES)
    assert record["url"] == hub.asked[0]
    # The second time needs no network.
    assert load_sprites("real", download=False).sha256 == data.sha256
    assert len(hub.asked) == 2
    assert data.sha256 == load_sprites("real", root=tmp_path / "published").sha256


def test_a_file_that_changed_after_its_download_is_refused(hub, tmp_path):
    load_sprites("real")
    path = tmp_path / "cache" / PICTURES
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="sha256"):
        load_sprites("real")


def test_a_damaged_record_is_refused(hub, tmp_path):
    load_sprites("real")
    (tmp_path / "cache" / f"{LABELS}.json").write_text("{")
    with pytest.raises(ValueError, match="sha256"):
        load_sprites("real")


def test_a_file_without_its_record_is_fetched_again(hub, tmp_path):
    load_sprites("real")
    (tmp_path / "cache" / f"{LABELS}.json").unlink()
    load_sprites("real")
    assert [url.rsplit("/", 1)[1] for url in hub.asked] == [PICTURES, LABELS, LABELS]


NETWORK_ERRORS = {
    "down": (requests.ConnectionError("no route"), r"could not download .* \(no route\)"),
    "http": (404, r"\(HTTP 404\)"),
    "timeout": (requests.Timeout("timed out"), r"\(timed out\)"),
}


@pytest.mark.parametrize(("error", "message"), NETWORK_ERRORS.values(), ids=NETWORK_ERRORS)
def test_a_failed_download_names_the_reason_and_the_option(hub, tmp_path, error, message):
    hub.answers[PICTURES] = error
    with pytest.raises(ConnectionError, match=message) as caught:
        load_sprites("real")
    sentence = str(caught.value)
    assert PICTURES in sentence
    assert loading.HUB in sentence
    assert "hw3 data --source real --root FOLDER" in sentence
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_forbidden_download_is_not_tried(hub):
    with pytest.raises(FileNotFoundError, match=PICTURES):
        load_sprites("real", download=False)
    assert hub.asked == []


def test_too_large_a_download_is_cut_off(hub, tmp_path, monkeypatch):
    monkeypatch.setitem(loading.SIZE_LIMITS, PICTURES, 1000)
    with pytest.raises(ValueError, match="1000 bytes"):
        load_sprites("real")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_short_or_foreign_download_is_not_kept(hub, tmp_path):
    complete = hub.answers[PICTURES]
    hub.answers[PICTURES] = complete[:-10]
    with pytest.raises(ValueError, match=PICTURES):
        load_sprites("real")
    hub.answers[PICTURES] = b"<html>please log in</html>"
    with pytest.raises(ValueError, match=PICTURES):
        load_sprites("real")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_redirect_away_from_https_is_refused(hub):
    hub.landed = "http://elsewhere.example/file"
    hub.answers["file"] = hub.answers[PICTURES]
    with pytest.raises(ValueError, match="https"):
        load_sprites("real")


# ------------------------------------------------------------------------------------------------- folders of PNG


def on_transparent(image):
    """RGBA of a sprite whose white is transparent, with a colour hidden below."""
    white = (image == 255).all(axis=-1)
    rgba = np.dstack([image, np.where(white, 0, 255).astype(np.uint8)])
    rgba[white, :3] = (10, 200, 10)
    return rgba


def save_png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_a_sheet_is_cut_composited_and_freed_of_empty_and_repeated_tiles(tmp_path):
    sprites = draw_sprites(5, seed=4)[0]
    empty = np.zeros((16, 16, 4), np.uint8)
    white = np.full((16, 16, 4), 255, np.uint8)
    a, b, c = (on_transparent(image) for image in sprites[:3])
    save_png(tmp_path / "sheet.png", np.concatenate([np.hstack([a, empty, b, a]), np.hstack([white, c, b, empty])]))
    save_png(tmp_path / "single.PNG", sprites[3])
    data = load_sprites(tmp_path, n_test=1)
    assert len(data.train_images) == 3
    assert set(keys(data.train_images) + keys(data.test_images)) == set(keys(sprites[:4]))
    assert data.class_names == ("sprite",)
    assert (data.train_labels == 1).all()
    assert data.train_labels.shape == (3, 1)
    assert data.source == (
        f"4 distinct tiles of the pictures in {tmp_path}; 1 sheets of 16x16 tiles, 1 single pictures; "
        "left out: 3 empty tiles (first: sheet.png), 2 repeated tiles"
    )
    assert load_sprites("folder", root=tmp_path, n_test=1).sha256 == data.sha256
    assert load_sprites(str(tmp_path), n_test=1).sha256 == data.sha256


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
    sprites = draw_sprites(2, seed=4)[0]
    rgba = np.dstack([sprites[0], np.full((16, 16), 255, np.uint8)])
    rgba[3, 4] = (200, 0, 100, 128)
    save_png(tmp_path / "a.png", rgba)
    save_png(tmp_path / "b.png", sprites[1])
    data = load_sprites(tmp_path)
    pixels = {tuple(image[3, 4].tolist()) for image in (data.train_images[0], data.test_images[0])}
    assert (227, 127, 177) in pixels  # (c * 128 + 255 * 127) / 255


def test_sub_folders_are_classes(tmp_path):
    sprites = draw_sprites(6, seed=4)[0]
    save_png(tmp_path / "food" / "deep" / "sheet.png", np.hstack(list(sprites[:4])))
    save_png(tmp_path / "birds" / "sheet.png", np.hstack([sprites[0], sprites[4], sprites[5]]))
    (tmp_path / "notes").mkdir()
    data = load_sprites(tmp_path, n_test=2)
    assert data.class_names == ("birds", "food")
    images = np.concatenate([data.train_images, data.test_images])
    labels = np.concatenate([data.train_labels, data.test_labels])
    assert len(images) == 6
    found = {key: int(label.argmax()) for key, label in zip(keys(images), labels, strict=True)}
    # The picture that both hold goes to the first folder.
    assert [found[key] for key in keys(sprites)] == [0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("shape", ["one class", "classes"])
def test_hidden_files_are_left_out_and_counted(shape, tmp_path):
    sprites = draw_sprites(6, seed=4)[0]
    for n, sprite in enumerate(sprites):
        save_png(tmp_path / ("" if shape == "one class" else f"class {n % 2}") / f"{n}.png", sprite)
    want = load_sprites(tmp_path, n_test=1)
    for name in (".ipynb_checkpoints/0-checkpoint.png", ".git/x.png", "class 0/.hidden/y.png"):
        save_png(tmp_path / name, sprites[0] // 2)
    for name in ("__MACOSX/class 0/._0.png", "._0.png", "class 1/._1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"Mac OS X")
    data = load_sprites(tmp_path, n_test=1)
    assert (data.sha256, data.class_names) == (want.sha256, want.class_names)
    assert data.source == f"{want.source}; left out: 6 hidden files (first: ._0.png)"


def test_bad_folders_are_refused(tmp_path):
    sprite = draw_sprites(1)[0][0]
    with pytest.raises(FileNotFoundError, match="'embedded', 'real', 'folder'"):
        load_sprites("rael")
    with pytest.raises(ValueError, match="root"):
        load_sprites("folder")
    with pytest.raises(ValueError, match="root"):
        load_sprites(tmp_path, root=tmp_path)
    with pytest.raises(ValueError, match="no picture"):
        load_sprites(tmp_path)
    save_png(tmp_path / "a.png", np.hstack([sprite, sprite]))
    with pytest.raises(ValueError, match="1 distinct"):
        load_sprites(tmp_path)


def test_bad_picture_files_are_refused(tmp_path):
    path = tmp_path / "a.png"
    sprites = draw_sprites(2)[0]
    save_png(path, np.hstack([sprites[0], sprites[1][:, :9]]))
    with pytest.raises(ValueError, match=r"a.png.*25x16.*32x16.*--resize"):
        load_sprites(tmp_path)
    save_png(path, np.hstack(list(sprites)))
    content = path.read_bytes()
    for damaged in (
        content[: len(content) // 2],
        b"",
        b"GIF89a" + content[6:],
        content[:60] + b"\0" * 40 + content[100:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.png"):
            load_sprites(tmp_path)


# ------------------------------------------------------------------------------------------------- tensors, preview


def test_tensors_and_images_are_inverse(drawn):
    images = drawn[0][:50]
    tensor = images_to_tensor(images)
    assert tensor.shape == (50, 3, 16, 16)
    assert tensor.dtype == torch.float32
    assert tensor.min() >= -1
    assert tensor.max() == 1
    np.testing.assert_array_equal(tensor_to_images(tensor), images)
    torch.testing.assert_close(images_to_tensor(torch.from_numpy(images)), tensor)
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    np.testing.assert_array_equal(tensor_to_images(images_to_tensor(levels)), levels)


def test_tensor_to_images_clamps_and_refuses_nan():
    x = torch.zeros(1, 3, 16, 16)
    x[0, 0], x[0, 1] = 7.0, -torch.inf
    assert tensor_to_images(x)[0, 0, 0].tolist() == [255, 0, 128]
    grey = tensor_to_images(torch.zeros(2, 1, 16, 16))
    assert grey.shape == (2, 16, 16, 3)
    assert (grey == 128).all()
    x[0, 2, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="1 NaN"):
        tensor_to_images(x)
    with pytest.raises(ValueError, match=r"\(1, 16, 16, 3\)"):
        tensor_to_images(torch.zeros(1, 16, 16, 3))
    with pytest.raises(ValueError, match="float64"):
        images_to_tensor(np.zeros((1, 16, 16, 3)))


def test_preview_writes_a_row_for_each_class(tmp_path):
    data = load_sprites(n_train=60, n_test=5)
    preview(data, tmp_path / "new" / "preview.png")
    with Image.open(tmp_path / "new" / "preview.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height > 200
    [ax] = preview_figure(data.train_images, data.train_labels, data.class_names, per_class=4).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == list(CLASS_NAMES)
    page = ax.images[0].get_array()
    for c in range(len(CLASS_NAMES)):
        first = data.train_images[data.train_labels[:, c] == 1][0]
        np.testing.assert_array_equal(page[18 * c + 1 : 18 * c + 17, 1:17], first)
    with pytest.raises(ValueError, match="label"):
        preview_figure(data.train_images, data.test_labels, data.class_names)


def test_describe_has_source_sizes_and_shares(tmp_path):
    text = describe(load_sprites("real", root=write_real(tmp_path), n_test=5))
    assert f"the real files in {tmp_path}" in text
    assert "45 pictures, 15 of them distinct" in text
    assert "5 pictures, none of them in train" in text
    assert all(name in text for name in CLASS_NAMES)


def test_outline_share_separates_sprites_from_noise_and_broken_outlines():
    images, _, _ = draw_sprites(200, seed=3)
    noise = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), dtype=np.uint8)
    light = np.where((images < 90).all(-1, keepdims=True), np.uint8(180), images)
    assert outline_share(images).mean() > 0.97
    assert outline_share(noise).mean() < 0.4
    assert outline_share(light).mean() < 0.4
    assert outline_share(np.full((1, 16, 16, 3), 255, np.uint8)).tolist() == [0]
    with pytest.raises(ValueError, match="float64"):
        outline_share(images / 255)
