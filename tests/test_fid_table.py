"""The table DDPM against DDIM: its pictures are made once, piece by piece, and each piece depends on its seed alone."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import hw3utils
from hw3utils import datasets as sets
from hw3utils.__main__ import main
from hw3utils.bench import fid_table
from hw3utils.datasets import open_set
from hw3utils.devices import in_precision
from hw3utils.fid import FeatureStatistics, distance_of, jackknife_error, merged
from hw3utils.learning.features import feature_extractor
from hw3utils.samplers import ddim_steps, sample_ddim, sample_in_batches
from hw3utils.schedules import linear_schedule
from hw3utils.sprites import load_sprites, tensor_to_images


@pytest.fixture
def small(monkeypatch):
    """A table of three cells with 4 pictures a file."""
    monkeypatch.setattr(fid_table, "PICTURES_A_FILE", 4)
    monkeypatch.setattr(fid_table, "BATCH", 3)
    cells = [fid_table.Cell("0", 3), fid_table.Cell("1", 3), fid_table.Cell(fid_table.SIGMA_HAT, 2)]
    monkeypatch.setattr(fid_table, "table_cells", lambda: cells)
    return {"weights": "none", "precision": "fp32", "compiled": False, "seed": 0, "shares": [0.2] * 5, "n": 8}


def model(x, t, label):
    return 0.5 * x + 0.01 * label.view(-1, 1, 1, 1)


def made(plan, out, **options):
    cells = fid_table.table_cells()
    return list(fid_table.make_pictures(model, linear_schedule(), plan, **{"out": out, "cells": cells} | options))


def test_the_cells_are_those_of_the_papers_table():
    cells = fid_table.table_cells()
    assert len(set(cells)) == len(cells) == 43
    assert {cell.steps for cell in cells} == set(fid_table.STEPS)
    assert {cell.row for cell in cells if cell.steps == 1000} == {"0", "1", "sigma-hat"}
    assert all({cell.row for cell in cells if cell.steps == s} >= set(fid_table.ETAS) for s in (10, 20, 50, 100))
    assert set(fid_table.NAMES) == set(fid_table.SAMPLERS) == {cell.row for cell in cells}


@pytest.mark.parametrize("steps", [10, 20, 50, 100])
def test_the_authors_grid_is_that_of_their_code_one_step_later(steps):
    """Their times count from 0: seq = range(0, 1000, 1000 // S)."""
    options = fid_table.SAMPLERS["authors"](steps)
    assert options["steps"] == [t + 1 for t in range(0, 1000, 1000 // steps)]
    calls = []
    states = ddim_steps(
        lambda x, t: calls.append(int(t[0])) or 0 * x, torch.zeros(1, 3), linear_schedule(),
        steps=options["steps"], t_start=options["t_start"],
    )  # fmt: skip
    assert [state.t for state in states] == [*reversed(options["steps"]), 0]
    assert calls == options["steps"][::-1]


def test_pictures_are_those_of_the_sampler_and_what_is_there_is_kept(small, tmp_path):
    first = made(small, tmp_path)
    assert [evaluations for _, evaluations in first] == [12, 12, 12, 12, 8, 8]
    files = fid_table.picture_files(tmp_path, fid_table.Cell("1", 3), 8)
    got = np.concatenate([sets.read_pictures(path) for path in files])
    labels = {"label": fid_table.drawn_labels(small["shares"], seed=0)[:8]}
    options = {"n": 8, "seed": 0, "eta": 1.0, "steps": 3, "model_kwargs": labels}
    want = sample_in_batches(sample_ddim, model, linear_schedule(), (3, 16, 16), **options)
    assert np.array_equal(got, tensor_to_images(want))
    before = files[0].stat().st_mtime_ns
    files[1].unlink()
    again = made(small, tmp_path)
    assert sum(evaluations for _, evaluations in again) == 12
    assert files[0].stat().st_mtime_ns == before
    assert np.array_equal(np.concatenate([sets.read_pictures(path) for path in files]), got)


def test_classes_are_drawn_with_their_shares():
    shares = [0.5, 0.3, 0.2]
    labels = fid_table.drawn_labels(shares, seed=1)
    counts = torch.bincount(labels, minlength=3) / len(labels)
    errors = [math.sqrt(p * (1 - p) / len(labels)) for p in shares]
    assert all(abs(float(c) - p) < 4 * e for c, p, e in zip(counts, shares, errors, strict=True))
    assert torch.equal(labels, fid_table.drawn_labels(shares, seed=1))


def test_processes_share_the_files_and_make_none_twice(small, tmp_path):
    shares = []
    for rank in (0, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fid_table, "process_count", lambda: 2)
            patch.setattr(fid_table, "process_rank", lambda rank=rank: rank)
            shares.append(made(small, tmp_path))
            assert fid_table.n_files(small, fid_table.table_cells()) == len(shares[-1]) == 3
    one, two = shares
    assert not {path for path, _ in one} & {path for path, _ in two}
    assert len(made(small, tmp_path)) == 6
    assert all(evaluations == 0 for _, evaluations in made(small, tmp_path))


def test_named_cells_alone_are_made(small, tmp_path):
    cells = fid_table.cells_named(["S0002_sigma-hat", "S0003_0"])
    assert cells == [fid_table.Cell("0", 3), fid_table.Cell(fid_table.SIGMA_HAT, 2)]
    assert {path.parent.name for path, _ in made(small, tmp_path, cells=cells)} == {cell.folder for cell in cells}
    assert sum(evaluations for _, evaluations in made(small, tmp_path)) == 24  # the third cell, the others are there
    assert fid_table.cells_named([]) == fid_table.table_cells()
    with pytest.raises(ValueError, match="'S0050_ddim'"):
        fid_table.cells_named(["S0050_ddim"])


def test_another_plan_in_the_same_folder_is_refused(small, tmp_path):
    made(small, tmp_path)
    with pytest.raises(ValueError, match=r"precision.*'fp32'.*'bf16'"):
        made(small | {"precision": "bf16"}, tmp_path)
    assert len(made(small | {"n": 12}, tmp_path)) == 9  # n may differ


def test_the_table_is_measured_from_complete_cells_only(small, tmp_path, monkeypatch):
    monkeypatch.setattr(fid_table, "PICTURES_A_FILE", 300)
    monkeypatch.setattr(fid_table, "BATCH", 300)
    small |= {"n": 600}
    made(small, tmp_path)
    fid_table.picture_files(tmp_path, fid_table.Cell("1", 3), 600)[1].unlink()
    data = load_sprites(n_train=1500, n_test=10)
    rows = dict(fid_table.make_table(tmp_path, feature_extractor("sprites"), data))
    assert list(rows) == ["floor", "S0003_0", "S0002_sigma-hat"]
    assert rows["floor"]["fid"] < rows["S0003_0"]["fid"]
    assert rows["floor"]["confident"] > rows["S0003_0"]["confident"]
    assert rows["floor"]["grammar"] == 1
    assert rows["S0003_0"]["grammar"] == 0
    row = rows["floor"]
    assert row["n"] == 600
    assert math.isclose(row["error"], jackknife_error(row["without"]))
    json.dumps(rows, allow_nan=False)
    assert "S = 1000" in fid_table.table_text(rows)


def test_fid_by_size_is_that_of_the_unions_and_begins_where_it_is_a_line():
    generator = torch.Generator().manual_seed(0)

    def statistics(n):
        found = FeatureStatistics()
        found.update(torch.randn(n, 4, generator=generator))
        return found

    reference, groups = statistics(2000), [statistics(50) for _ in range(20)]
    sizes = fid_table.by_size(groups, reference)
    assert list(sizes) == [250, 500, 1000]
    assert math.isclose(sizes[1000][0], distance_of(merged(groups), reference))
    halves = [distance_of(merged(half), reference) for half in (groups[:10], groups[10:])]
    assert math.isclose(sizes[500][0], sum(halves) / 2)
    assert math.isclose(sizes[500][1], abs(halves[0] - halves[1]) / math.sqrt(2))


def test_bf16_is_opt_in_and_near_fp32():
    network, _ = hw3utils.load_pretrained("sprites")
    assert in_precision(network, "fp32") is network
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([1, 10, 300, 1000])
    with torch.no_grad():
        full, half = network(x, t), in_precision(network, "bf16")(x, t)
    assert half.dtype == torch.float32
    assert 0 < float((half - full).square().mean().sqrt()) < 0.05
    with pytest.raises(ValueError, match="precision"):
        in_precision(network, "fp8")


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_damaged_pictures_are_refused(content, tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"\.npy"):
        sets.read_pictures(path)


# ------------------------------------------------------------------------------------------------ the stored table


@pytest.fixture(scope="module")
def table():
    return fid_table.stored_table()


def test_the_stored_table_has_its_settings_and_versions(table):
    assert table["command"].startswith("hw3 fid --table")
    assert table["plan"]["weights"] == hw3utils.pretrained_card("sprites")["sha256"]
    assert table["features"]["sha256"] == hw3utils.pretrained_card("classifier")["sha256"]
    assert table["reference"]["sha256"] == load_sprites().sha256
    assert table["reference"]["pictures"] == 89_400


def test_the_stored_table_has_its_cells_and_errors(table):
    assert set(table["cells"]) == {cell.folder for cell in fid_table.table_cells()}
    for row in [table["floor"], *table["cells"].values()]:
        assert row["n"] == table["plan"]["n"]
        assert row["fid"] > 0
        assert math.isclose(row["error"], jackknife_error(row["without"]), rel_tol=1e-9)
        sizes = sorted((int(n), value) for n, (value, _) in row["by_size"].items())
        assert all(b < a for (_, a), (_, b) in itertools.pairwise(sizes)), "FID falls with the number of pictures"
        assert row["fid_infinity"] < row["fid"]
    floor = table["floor"]["fid"]
    assert all(row["fid"] > floor for row in table["cells"].values())


def test_the_larger_cell_is_of_the_same_pictures(table):
    larger = fid_table.stored_table("fid_ddpm_1000")
    assert larger["plan"] == table["plan"] | {"n": larger["floor"]["n"]}
    assert [larger[name] for name in ("features", "reference")] == [table[name] for name in ("features", "reference")]
    [(name, more)], cell = larger["cells"].items(), table["cells"]["S1000_sigma-hat"]
    assert name == "S1000_sigma-hat"
    assert larger["plan"]["n"] == more["n"] > 2 * cell["n"]
    assert more["error"] < cell["error"]
    assert larger["floor"]["fid"] < more["fid"] < cell["fid"]
    # Of the first 500 pictures, which are the same.
    assert all(math.isclose(more[key], cell[key], abs_tol=0.01) for key in ("confident", "grammar", "outline"))


def test_fid_command_line(tmp_path, capsys):
    np.save(tmp_path / "a.npy", load_sprites(n_train=300, n_test=10).train_images)
    assert main(["fid", str(tmp_path / "a.npy"), "embedded:test", "--n", "300", "--kid"]) == 0
    said = capsys.readouterr().out
    assert "128 sprites features" in said
    assert "A: 300 pictures" in said
    assert "held-out" in said
    assert "KID" in said
    assert main(["fid", "sprites", "embedded:test", "--n", "8", "--steps", "2"]) == 0
    assert "samples of sprites (DDIM, 2 steps" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_part_of_a_set_is_random_and_the_seed_decides_it(kind, tmp_path):
    """Names and rows are often in the order of the classes: the first n would be the first class."""
    images = np.zeros((200, 16, 16, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(200)
    np.save(tmp_path / "a.npy", images)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i:03d}.png")

    def taken(n, seed):
        pictures = open_set(str(tmp_path / "a.npy" if kind == "file" else tmp_path), n=n, seed=seed)
        return np.concatenate(list(pictures))[:, 0, 0, 0].tolist(), pictures.description

    part, said = taken(100, 0)
    assert part == taken(100, 0)[0] != taken(100, 1)[0]
    assert len(set(part)) == 100
    # The mean of 100 of 200 ranks has the standard deviation 4.1 about 99.5; that of the first 100 is 49.5.
    assert abs(np.mean(part) - 99.5) < 20
    assert "(a random 100 of 200, seed 0)" in said
    assert taken(200, 0)[0] == list(range(200))


def test_a_set_knows_how_many_batches_it_gives(tmp_path):
    images = load_sprites(n_train=23, n_test=10).train_images
    np.save(tmp_path / "a.npy", images)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i:02d}.png")
    for name in (str(tmp_path / "a.npy"), str(tmp_path), "embedded:test", "sprites"):
        for n in (20, 21):
            pictures = open_set(name, n=n, steps=1, batch_size=5)
            assert len(list(pictures)) == len(pictures) == {20: 4, 21: 5}[n]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "two sets"),
        (["nowhere", "embedded:test"], "no pictures 'nowhere'"),
        (["{tmp}", "embedded:test"], "no picture in"),
        (["{tmp}/none.npy", "embedded:test"], "no file"),
        (["classifier", "embedded:test"], "SpriteClassifier"),
        (["embedded:test", "embedded:test", "--extractor", "vgg"], "'vgg'"),
        (["embedded:test", "embedded:test", "--inception-weights", "x.pth"], "ask for 'inception'"),
        (["--table", "a"], "leave the sets"),
        (["--table", "--n", "750", "--out", "{tmp}"], "one of 500, 1000"),
    ],
)
def test_wrong_fid_commands_are_one_sentence(words, message, tmp_path, capsys):
    assert main(["fid", *(word.format(tmp=tmp_path) for word in words)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1


def test_a_difference_is_the_first_less_the_second():
    first, second = ({"n": 20, "fid": fid, "without": [fid, fid + 0.1]} for fid in (3.0, 2.0))
    assert fid_table.paired_difference(first, second).value == 1.0


def test_sigma_hat_has_the_larger_variance():
    states = {name: [] for name in ("beta", "posterior")}
    options = fid_table.SAMPLERS["sigma-hat"](10)
    sampler = options.pop("sampler")
    x_T, schedule = torch.zeros(2000, 1, dtype=torch.float64), linear_schedule(100, 1e-3, 0.1)
    for name in states:
        generator = torch.Generator().manual_seed(0)
        given = options if name == "beta" else options | {"variance": "posterior"}
        states[name] = sampler(lambda x, t: 0 * x, x_T, schedule, generator=generator, **given).var()
    assert states["beta"] > 1.02 * states["posterior"]
