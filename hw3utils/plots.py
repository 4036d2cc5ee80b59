"""Figures: functions that draw tensors and pictures into Axes; the style is set in a context, not at import."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from torch import Tensor
from torchvision.utils import make_grid

from hw3utils.arguments import check_count, check_number
from hw3utils.files import write_atomically
from hw3utils.progress import quiet

# Okabe and Ito's palette for colour-blind readers, without black, the yellow last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")

STYLE: dict[Any, Any] = {
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
    "axes.prop_cycle": cycler(color=COLOURS),
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
    name: str | None,
    rows: int = 1,
    columns: int = 1,
    *,
    alt: str,
    size: tuple[float, float] | None = None,
    **options: Any,
) -> Iterator[Any]:
    """A figure in the project's style, displayed in the notebook at the end of the `with`.

    Under `hw3 run` (which sets HW3_FIGURES) it is also written to that folder as NAME.png.

    Args:
        name: file name without suffix, for example "01_chain"; None for a figure that is not saved.
        rows, columns: grid of Axes.
        alt: alternative text, a sentence on what the figure shows; stored in the PNG and the notebook.
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
    _save_figure(name, buffer.getvalue())
    display(Image(buffer.getvalue(), metadata={"alt": alt}))


def animation(
    name: str,
    draw: Callable[[Axes, int], None],
    frames: int,
    *,
    alt: str,
    size: tuple[float, float] = (4.6, 4.6),
    seconds: float = 0.12,
    hold: float = 1.5,
    colours: int = 32,
) -> None:
    """Draw an animation in the project's style and display it as an animated PNG, which every browser plays.

    Viewers without animated PNG show the first frame. Saved as in `figure`.

    Args:
        name: file name without suffix.
        draw: function of the cleared Axes and the number of the frame, 0 to frames - 1.
        frames: number of frames.
        alt: alternative text, a sentence on what it shows.
        size: width and height in inches.
        seconds: time of a frame.
        hold: time of the last frame.
        colours: size of the palette of each frame; fewer make a smaller file.
    """
    from io import BytesIO

    from IPython.display import Image, display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image as Picture
    from PIL.PngImagePlugin import PngInfo

    pictures = []
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=size)
        canvas, ax = FigureCanvasAgg(drawn), drawn.subplots()
        for k in range(frames):
            ax.clear()
            draw(ax, k)
            canvas.draw()
            pictures.append(Picture.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()).quantize(colours))
    text, buffer = PngInfo(), BytesIO()
    text.add_text("Description", alt)
    times = [round(1000 * seconds)] * (frames - 1) + [round(1000 * hold)]
    first, *rest = pictures
    first.save(buffer, "PNG", save_all=True, append_images=rest, duration=times, loop=0, pnginfo=text, optimize=True)
    _save_figure(name, buffer.getvalue())
    display(Image(buffer.getvalue(), metadata={"alt": alt}))


def sliders(draw: Callable[..., None], **values: Sequence[float]) -> None:
    """Show sliders above a figure that is redrawn for each setting.

    In executed notebooks (HW3_QUIET, as in `hw3 run` and in the tests) a line of text takes their place: put a static
    figure below.

    Args:
        draw: function of one keyword argument for each slider; draws with `figure(None, ...)`.
        values: the settings of each slider; the middle one is shown first.
    """
    from IPython.display import display

    if quiet():
        text = f"sliders for {', '.join(values)}: run this cell in JupyterLab to move them"
        display({"text/plain": text, "text/html": f"<em>{text}</em>"}, raw=True)
        return
    import ipywidgets

    controls = {
        name: ipywidgets.SelectionSlider(
            options=[(f"{value:g}", value) for value in given],
            value=given[len(given) // 2],
            description=name.replace("_", " "),
            continuous_update=False,
        )
        for name, given in values.items()
    }
    shown = ipywidgets.interactive_output(draw, controls)
    display(ipywidgets.VBox([ipywidgets.HBox(list(controls.values())), shown]))


def _save_figure(name: str | None, png: bytes) -> None:
    """Write a figure into the folder HW3_FIGURES, if the variable is set."""
    folder = os.environ.get("HW3_FIGURES")
    if folder and name:
        write_atomically(Path(folder) / f"{name}.png", lambda path: path.write_bytes(png))


def tile(images: np.ndarray, *, columns: int, gap: int = 1) -> np.ndarray:
    """Arrange pictures in rows, with white gaps.

    Args:
        images: uint8 (N, H, W, 3).
        columns: pictures in a row.
        gap: white pixels between two.

    Returns:
        uint8 (rows (H + gap) - gap, columns (W + gap) - gap, 3).

    Raises:
        ValueError: on another shape or dtype, no picture, or no column.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"pictures to tile are uint8 (N, H, W, 3): got {images.dtype} {images.shape}.")
    columns, gap = check_count(columns, "columns"), check_count(gap, "gap", low=0, high=1000)
    # Padded to complete rows, for make_grid makes an incomplete single row narrower; its frame is cut off.
    white = np.full((-len(images) % columns, *images.shape[1:]), 255, np.uint8)
    padded = torch.from_numpy(np.concatenate([images, white])).movedim(-1, 1)
    sheet = make_grid(padded, nrow=columns, padding=gap, pad_value=255).movedim(0, -1).numpy()
    return sheet if len(padded) == 1 or gap == 0 else np.ascontiguousarray(sheet[gap:-gap, gap:-gap])


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
        ValueError: as `tile`.
        OSError: when the file cannot be written.
    """
    from PIL import Image

    columns, scale = check_count(columns, "columns"), check_count(scale, "scale", high=100)
    sheet = tile(images, columns=min(columns, max(1, len(images)))).repeat(scale, 0).repeat(scale, 1)
    return write_atomically(path, lambda temporary: Image.fromarray(sheet).save(temporary, format="PNG"))


def save_moving_grid(
    frames: Sequence[np.ndarray], path: str | Path, *, columns: int = 10, scale: int = 4, seconds: float = 0.08
) -> Path:
    """Write grids of pictures as an animated GIF that loops and shows its last frame longer.

    Args:
        frames: pictures uint8 (N, H, W, 3) of each frame.
        path: the file to write.
        columns: pictures in a row.
        scale: side of a pixel.
        seconds: time of a frame; the last one stays for twenty times that.

    Raises:
        ValueError: without a frame, and as `tile`.
        OSError: when the file cannot be written.
    """
    from PIL import Image

    if not len(frames):
        raise ValueError("there is no frame, expected at least one.")
    sheets = [tile(images, columns=min(columns, max(1, len(images)))) for images in frames]
    first, *rest = [Image.fromarray(sheet.repeat(scale, 0).repeat(scale, 1)) for sheet in sheets]
    times = [round(1000 * seconds)] * len(rest) + [round(20_000 * seconds)]
    options: dict[str, Any] = {"format": "GIF", "save_all": True, "append_images": rest, "duration": times, "loop": 0}
    return write_atomically(path, lambda temporary: first.save(temporary, **options))


def smooth(values: Sequence[float] | Tensor, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of consecutive groups of `width` values (of all if there are fewer), and the last index of each, from 1."""
    array = np.asarray(values, dtype=np.float64)
    width = min(check_count(width, "width"), max(len(array), 1))
    n = len(array) // width
    return np.arange(1, n + 1) * width, array[: n * width].reshape(n, width).mean(1)


# Contours of a density by the share of its mass that lies outside, the same for a formula and for samples.
OUTSIDE = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9)


def grid_points(low: float, high: float, n: int) -> Tensor:
    """Points of a square grid, float32 (n * n, 2), the second coordinate running fastest."""
    low, high, n = check_number(low, "low"), check_number(high, "high"), check_count(n, "n", high=10_000)
    line = torch.linspace(low, high, n)
    return torch.cartesian_prod(line, line)


def plane(ax: Axes, low: float, high: float, title: str | None = None) -> Axes:
    """Make `ax` a square of the plane with equal units, labelled $x_1$ and $x_2$."""
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
    ax.locator_params(nbins=5)
    ax.grid(False)
    if title:
        ax.set_title(title)
    return ax


def density_panel(
    ax: Axes,
    density: Callable[[Tensor], Tensor] | Tensor,
    *,
    low: float = -10.0,
    high: float = 10.0,
    fill: bool = True,
    kernel: float = 0.5,
    title: str | None = None,
) -> Axes:
    """Draw a density of the plane, from its formula or estimated from samples, by contours of equal mass.

    The contours leave 1, 10, 30, 50, 70 and 90 % of the mass outside, so a formula and an estimate can be compared.

    Args:
        ax: where to draw.
        density: log density, callable (N, 2) -> (N,), or samples (N, 2) for a kernel estimate.
        low, high: ends of the square.
        fill: filled contours, or grey lines to lay under something else.
        kernel: standard deviation of the Gaussian kernel; the expected estimate is the true density convolved with it.
        title: title of the Axes.

    Raises:
        ValueError: when samples are not (N, 2).
    """
    n = 101
    points = grid_points(low, high, n).double()
    if isinstance(density, Tensor):
        if density.ndim != 2 or density.shape[1] != 2:
            raise ValueError(f"samples of the plane have shape (N, 2): got {tuple(density.shape)}.")
        near = torch.cdist(points, density.detach().cpu().double())
        p = (-(near / kernel).square() / 2).exp().mean(1)
    else:
        p = density(points).detach().cpu().exp()
    falling = p.sort(descending=True).values
    inside = falling.cumsum(0) / falling.sum()
    levels = [float(falling[torch.searchsorted(inside, 1 - share)]) for share in OUTSIDE]
    line, height = np.linspace(low, high, n), p.reshape(n, n).T.numpy()
    if fill:
        ax.contourf(line, line, height, levels=[*levels, float(falling[0])], cmap="Blues")
    else:
        ax.contour(line, line, height, levels=levels, colors="0.6", linewidths=0.9)
    return plane(ax, low, high, title)


def score_field(
    ax: Axes,
    score: Callable[[Tensor], Tensor],
    *,
    low: float = -10.0,
    high: float = 10.0,
    n: int = 19,
    largest: float | None = None,
    colorbar: bool = False,
    title: str | None = None,
) -> Axes:
    """Draw a score as arrows of equal length, coloured by its norm.

    Args:
        ax: where to draw.
        score: callable (N, 2) -> (N, 2).
        low, high: ends of the square.
        n: arrows along a side.
        largest: norm at the end of the colour scale (default: the largest of the field); for comparable panels.
        colorbar: draw the scale of the colours.
        title: title of the Axes.
    """
    points = grid_points(low, high, n)
    with torch.no_grad():
        s = score(points).detach().cpu().double()
    size = s.norm(dim=1)
    arrows = s / size.clamp(min=1e-12)[:, None]
    dark = mpl.colors.ListedColormap(mpl.colormaps["plasma"](np.linspace(0, 0.87, 256)))
    drawn = ax.quiver(
        *points.T.numpy(), *arrows.T.numpy(), size.numpy(), cmap=dark, clim=(0, largest or float(size.max())),
        pivot="mid", units="xy", scale=1.3 * n / (high - low), width=(high - low) / (10 * n), headwidth=4,
    )  # fmt: skip
    if colorbar:
        ax.figure.colorbar(drawn, ax=ax, label="size of the score", shrink=0.85)
    return plane(ax, low, high, title)


def trajectories(ax: Axes, states: Sequence[Tensor], *, colour: str | None = None, label: str | None = None) -> Axes:
    """Draw trajectories of points in the plane: a ring where each starts, a dot where it ends.

    Args:
        ax: where to draw.
        states: positions (N, 2) at each step.
        colour: of all paths; a colour for each if not given.
        label: entry of the legend.
    """
    paths = torch.stack([state.detach().cpu() for state in states]).numpy()
    for i in range(paths.shape[1]):
        x, y = paths[:, i].T
        own = colour or COLOURS[i % len(COLOURS)]
        ax.plot(x, y, color=own, linewidth=0.9, label=label if i == 0 else None)
        ax.plot(x[:1], y[:1], "o", color="white", markeredgecolor=own, markersize=6)
        ax.plot(x[-1:], y[-1:], "o", color=own, markersize=6)
    return ax


def chain_diagram(ax: Axes) -> Axes:
    """Draw the forward process q and the reverse chain p_theta as one graphical model on x_0, ..., x_T."""
    names = ["$x_0$", r"$\cdots$", "$x_{t-1}$", "$x_t$", r"$\cdots$", "$x_T$"]
    arrow = {"arrowstyle": "-|>", "shrinkA": 17, "shrinkB": 17, "lw": 1.4}
    for i, name in enumerate(names):
        ax.text(i, 0, name, ha="center", va="center", fontsize=13, zorder=3)
        if "dots" not in name:
            ax.plot(i, 0, "o", ms=34, mfc="white", mec="black", zorder=2)
        if i:
            forward = {**arrow, "connectionstyle": "arc3,rad=-0.35", "color": COLOURS[0]}
            reverse = {**arrow, "connectionstyle": "arc3,rad=-0.35", "color": COLOURS[1]}
            ax.annotate("", (i, 0), (i - 1, 0), arrowprops=forward)
            ax.annotate("", (i - 1, 0), (i, 0), arrowprops=reverse)
    ax.text(2.5, 0.42, r"$q(x_t \mid x_{t-1})$", ha="center", color=COLOURS[0])
    ax.text(2.5, -0.42, r"$p_\theta(x_{t-1} \mid x_t)$", ha="center", va="top", color=COLOURS[1])
    ax.text(0, -0.62, "data", ha="center")
    ax.text(5, -0.62, "noise", ha="center")
    ax.set(xlim=(-0.5, 5.5), ylim=(-0.75, 0.75))
    ax.axis("off")
    return ax


def plain_ticks(ax: Axes, *, x: Sequence[float] = (), y: Sequence[float] = ()) -> Axes:
    """Put ticks at the given values of logarithmic axes, with plain numbers (20, 50) in place of powers of ten."""
    for axis, values in ((ax.xaxis, x), (ax.yaxis, y)):
        if len(values):
            low, high = sorted(axis.get_view_interval())
            axis.set_ticks([value for value in values if low <= value <= high])
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(mpl.ticker.NullLocator())
    return ax


def unet_diagram(ax: Axes) -> Axes:
    """Draw the UNet of the sprites with the shapes of its levels, its skip connections and its embeddings."""
    arrow = {"arrowstyle": "-|>", "lw": 1.2}
    box = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": "black"}
    places = {
        "$x_t$\n3 x 16 x 16": (-2.2, 0),
        "32 x 16 x 16\n1 block": (0, 0),
        "64 x 8 x 8\n1 block": (1.4, -1),
        "128 x 4 x 4\n2 blocks": (3.5, -2),
        "64 x 8 x 8\n1 block ": (5.6, -1),
        "32 x 16 x 16\n2 blocks, attention": (7.2, 0),
        r"$f_\theta$" + "\n3 x 16 x 16": (9.8, 0),
    }
    texts = [ax.text(*xy, label, ha="center", va="center", fontsize=10, bbox=box) for label, xy in places.items()]
    for (first, tail), (second, head) in itertools.pairwise(zip(texts, places.values(), strict=True)):
        ends = {"patchA": first.get_bbox_patch(), "patchB": second.get_bbox_patch()}  # from box to box
        ax.annotate("", head, tail, arrowprops=arrow | ends)
    for start, end in (((0.9, 0), (5.8, 0)), ((2.3, -1), (4.8, -1))):
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "ls": "--"})
    ax.text(3.5, 0.12, "skip connections (added)", ha="center", fontsize=9)
    label = "time and label: an embedding of 256, a scale and a shift in each block"
    ax.text(3.5, 0.7, label, ha="center", fontsize=9)
    ax.set(xlim=(-3.4, 11), ylim=(-2.5, 1))
    ax.axis("off")
    return ax
