"""Pictures of pictures: the grid's layout, the saved file, the style that stays where it is."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from hw3utils import plots
from hw3utils.mixtures import GaussianMixture


def pictures(n):
    return np.arange(n, dtype=np.uint8)[:, None, None, None] + np.zeros((n, 4, 4, 3), np.uint8)


def test_tile_puts_each_picture_in_its_place():
    sheet = plots.tile(pictures(5), columns=3)
    assert sheet.shape == (9, 14, 3)
    for k in range(5):
        row, column = divmod(k, 3)
        assert (sheet[5 * row : 5 * row + 4, 5 * column : 5 * column + 4] == k).all()
    assert (sheet[4] == 255).all()
    assert (sheet[5:, 10:] == 255).all()


@pytest.mark.parametrize("bad", [np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4), np.uint8), pictures(0)])
def test_tile_refuses_what_is_no_picture(bad):
    with pytest.raises(ValueError, match="uint8"):
        plots.tile(bad, columns=2)


def test_saved_grid_is_the_tiling_enlarged(tmp_path):
    path = plots.save_grid(pictures(3), tmp_path / "grid.png", columns=10, scale=2)
    assert (np.asarray(Image.open(path)) == plots.tile(pictures(3), columns=3).repeat(2, 0).repeat(2, 1)).all()


def test_figure_is_saved_with_its_description_and_leaves_the_style_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HW3_FIGURES", str(tmp_path))
    before = dict(mpl.rcParams)
    with plots.figure("name", 1, 2, alt="two empty axes") as (left, right):
        left.plot([0, 1], label="line")
        assert right.figure is left.figure
    assert dict(mpl.rcParams) == before
    image = Image.open(tmp_path / "name.png")
    assert image.info["Description"] == "two empty axes"
    assert image.width > 600


def test_strip_labels_every_column():
    ax = plots.strip(Figure().subplots(), np.stack([pictures(3), pictures(3)]), ["a", "b", "c"], title="title")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]
    assert ax.get_images()[0].get_array().shape[:2] == (9, 14)
    assert ax.get_title() == "title"


def test_smooth_is_the_mean_of_stretches():
    steps, values = plots.smooth([1.0, 3.0, 5.0, 7.0, 100.0], 2)
    assert steps.tolist() == [2, 4]
    assert values.tolist() == [2.0, 6.0]
    steps, values = plots.smooth([1.0, 3.0], 50)
    assert (steps.tolist(), values.tolist()) == ([2], [2.0])
    assert len(plots.smooth([], 50)[0]) == 0


def test_density_contours_hold_the_mass_that_they_say(monkeypatch):
    # A round Gaussian: the contour with a share q outside lies at the radius s sqrt(-2 log q).
    mixture = GaussianMixture([1.0], torch.tensor([[1.0, -2.0]]), [2.25])
    ax = Figure().subplots()
    plots.density_panel(ax, mixture.log_prob, low=-9, high=9, fill=False)
    [drawn] = ax.collections
    for share, path in zip(plots.OUTSIDE, drawn.get_paths(), strict=True):
        radius = np.hypot(*(path.vertices - [1.0, -2.0]).T)
        assert radius == pytest.approx(1.5 * np.sqrt(-2 * np.log(share)), rel=0.04)


def test_kernel_estimate_is_near_the_density_convolved_with_the_kernel():
    mixture = GaussianMixture([0.5, 0.5], torch.tensor([[-4.0, 0.0], [4.0, 0.0]]), [1.0, 1.0])
    samples = mixture.sample(4_000, torch.Generator().manual_seed(0))
    levels = []
    for density in (samples, mixture.perturbed(1.0, 0.5).log_prob):
        ax = Figure().subplots()
        plots.density_panel(ax, density, fill=False)
        levels.append(ax.collections[0].levels)
    # The estimate sums unnormalised kernels: its levels are 2 pi 0.25 times those of the density.
    assert levels[0] == pytest.approx(levels[1] * 2 * np.pi * 0.25, rel=0.1)
    with pytest.raises(ValueError, match="shape"):
        plots.density_panel(Figure().subplots(), torch.zeros(5))


def test_score_field_points_where_the_score_points_and_colours_its_size():
    ax = plots.score_field(Figure().subplots(), lambda x: 2 * x, low=-4, high=4, n=5, title="outwards")
    [arrows] = ax.collections
    at = arrows.XY
    assert np.hypot(*at.T) * 2 == pytest.approx(np.asarray(arrows.get_array()))
    there = np.stack([arrows.U, arrows.V], 1)
    outside = np.hypot(*at.T) > 0
    assert (there[outside] * at[outside]).sum(1) == pytest.approx(np.hypot(*at[outside].T))
    assert np.hypot(*there[~outside].T) == pytest.approx(0)
    assert ax.get_title() == "outwards"


def test_animation_holds_every_frame_and_its_times(tmp_path, monkeypatch):
    monkeypatch.setenv("HW3_FIGURES", str(tmp_path))
    before = dict(mpl.rcParams)
    plots.animation(
        "moves", lambda ax, k: ax.plot([0, k], [0, 1]), 4, alt="a line turns", size=(2, 2), seconds=0.1, hold=0.7
    )
    assert dict(mpl.rcParams) == before
    image = Image.open(tmp_path / "moves.png")
    assert image.info["Description"] == "a line turns"
    assert image.n_frames == 4
    times, frames = [], []
    for k in range(4):
        image.seek(k)
        times.append(image.info["duration"])
        frames.append(np.asarray(image.convert("RGB")))
    assert times == [100, 100, 100, 700]
    assert all((a != b).any() for a, b in itertools.pairwise(frames))


def test_trajectories_start_at_the_ring_and_end_at_the_dot():
    states = [torch.tensor([[0.0, 1.0], [5.0, 5.0]]) + k for k in range(3)]
    ax = plots.trajectories(Figure().subplots(), states)
    lines = ax.get_lines()
    assert len(lines) == 6
    path, ring, dot = lines[:3]
    assert path.get_xydata().tolist() == [[0, 1], [1, 2], [2, 3]]
    assert ring.get_xydata().tolist() == [[0, 1]]
    assert dot.get_xydata().tolist() == [[2, 3]]


def test_sliders_draw_for_every_setting(monkeypatch, capsys):
    import ipywidgets

    drawn, boxes = [], []
    monkeypatch.setattr("IPython.display.display", boxes.append)
    monkeypatch.setenv("HW3_QUIET", "0")
    plots.sliders(lambda t, eta: drawn.append((t, eta)), t=range(0, 101, 50), eta=(0.0, 1.0))
    assert drawn == [(50, 1.0)]
    [box] = boxes
    t, eta = box.children[0].children
    assert isinstance(t, ipywidgets.SelectionSlider)
    t.value, eta.value = 100, 0.0
    assert drawn[1:] == [(100, 1.0), (100, 0.0)]


def test_sliders_are_a_line_of_text_in_executed_notebooks(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data["text/plain"]))
    monkeypatch.setenv("HW3_QUIET", "1")
    plots.sliders(lambda t: shown.append(t), t=(1, 2))
    assert shown == ["sliders for t: run this cell in JupyterLab to move them"]


def test_a_figure_without_a_name_is_not_saved(tmp_path, monkeypatch):
    monkeypatch.setenv("HW3_FIGURES", str(tmp_path))
    with plots.figure(None, alt="nothing"):
        pass
    assert list(tmp_path.iterdir()) == []
