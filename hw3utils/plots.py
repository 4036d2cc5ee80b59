"""Tensors to Axes: every function takes and returns `ax`; the visual style is a context, never set at import."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from hw3utils.checkpoints import write_atomically

# Okabe and Ito's eight colours, which stay apart for colour-blind readers; black left out, the yellow put last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")

STYLE: dict[str, Any] = {
    "figure.figsize": (8.0, 3.6),
    "figure.dpi": 100,
    "savefig.dpi": 120,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.8,
    "image.interpolation": "nearest",
    "image.cmap": "viridis",
}


@contextmanager
def figure(
    name: str, rows: int = 1, columns: int = 1, *, alt: str, size: tuple[float, float] | None = None, **options: Any
) -> Iterator[Any]:
    """A figure in the project's style, shown in the notebook at the end of the `with`, and saved when asked for.

    Under `hw3 run` (which sets HW3_FIGURES) it is also written to that folder as NAME.png.

    Args:
        name: file name without suffix, for example "01_chain".
        rows, columns: grid of Axes.
        alt: what the figure shows, in a sentence, for those who cannot see it; goes into the PNG and the notebook.
        size: width and height in inches.
        options: further arguments of `matplotlib.pyplot.subplots`.

    Yields:
        One Axes, or an array of them.
    """
    from IPython.display import Image, display
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=size or STYLE["figure.figsize"])
        FigureCanvasAgg(drawn)
        yield drawn.subplots(rows, columns, **options)
        from io import BytesIO

        buffer = BytesIO()
        drawn.savefig(buffer, format="png", metadata={"Description": alt, "Software": None})
    folder = os.environ.get("HW3_FIGURES")
    if folder:
        write_atomically(Path(folder) / f"{name}.png", lambda path: path.write_bytes(buffer.getvalue()))
    display(Image(buffer.getvalue(), alt=alt))


def tile(images: np.ndarray, *, columns: int, gap: int = 1) -> np.ndarray:
    """Pictures side by side in rows, white between them.

    Args:
        images: uint8 (N, H, W, 3).
        columns: pictures in a row.
        gap: white pixels between two.

    Returns:
        uint8 (rows (H + gap) - gap, columns (W + gap) - gap, 3).

    Raises:
        ValueError: on another shape or dtype, or no picture.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"pictures to tile are uint8 (N, H, W, 3): got {images.dtype} {images.shape}.")
    n, h, w, _ = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * columns, h + gap, w + gap, 3), 255, np.uint8)
    sheet[:n, :h, :w] = images
    sheet = sheet.reshape(rows, columns, h + gap, w + gap, 3).swapaxes(1, 2)
    return sheet.reshape(rows * (h + gap), columns * (w + gap), 3)[
        : rows * (h + gap) - gap, : columns * (w + gap) - gap
    ]


def image_grid(ax: Axes, images: np.ndarray, *, columns: int = 10, title: str | None = None) -> Axes:
    """Draw pictures as a grid, without axes.

    Args:
        ax: where to draw.
        images: uint8 (N, H, W, 3).
        columns: pictures in a row.
        title: title of the Axes.
    """
    ax.imshow(tile(images, columns=columns), interpolation="nearest")
    ax.set_axis_off()
    if title:
        ax.set_title(title)
    return ax


def strip(ax: Axes, images: np.ndarray, labels: Sequence[str], *, title: str | None = None) -> Axes:
    """Draw one or more rows of pictures with a label under each column.

    Args:
        ax: where to draw.
        images: uint8 (rows, N, H, W, 3) or (N, H, W, 3).
        labels: N texts.
        title: title of the Axes.
    """
    images = np.asarray(images)
    images = images if images.ndim == 5 else images[None]
    rows, n, _, w, _ = images.shape
    ax.imshow(tile(images.reshape(rows * n, *images.shape[2:]), columns=n), interpolation="nearest")
    ax.grid(False)
    ax.set_xticks([(w + 1) * i + w / 2 - 0.5 for i in range(n)], labels)
    ax.set_yticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title)
    return ax


def save_grid(images: np.ndarray, path: str | Path, *, columns: int = 10, scale: int = 4) -> Path:
    """Write pictures as one PNG grid, each pixel enlarged.

    Args:
        images: uint8 (N, H, W, 3).
        path: the file to write.
        columns: pictures in a row.
        scale: side of a pixel.

    Raises:
        OSError: when the file cannot be written.
    """
    from PIL import Image

    sheet = tile(images, columns=min(columns, len(images))).repeat(scale, 0).repeat(scale, 1)
    return write_atomically(path, lambda temporary: Image.fromarray(sheet).save(temporary, format="PNG"))


def smooth(values: Sequence[float] | Tensor, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of consecutive stretches of `width` values, and the index (from 1) of the last value of each."""
    values = np.asarray(values, dtype=np.float64)
    n = len(values) // width
    return np.arange(1, n + 1) * width, values[: n * width].reshape(n, width).mean(1)
