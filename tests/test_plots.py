"""Pictures of pictures: the grid's layout, the saved file, the style that stays where it is."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hw3utils import plots


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
