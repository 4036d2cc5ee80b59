"""The page of a training run: its loss curves, samples from always the same noises, and the time left."""

import base64
import html
import re
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from hw3utils.files import write_atomically
from hw3utils.learning.training import Step, TrainConfig
from hw3utils.plots import STYLE, save_grid, smooth
from hw3utils.samplers import sample_ddim, sample_in_batches
from hw3utils.schedules import schedule_from_card
from hw3utils.sprites import tensor_to_images

PAGE, SAMPLES = "index.html", "samples"
_SAMPLE_FILE, _MARK = re.compile(r"\d{8,}\.png"), "<title>Training in "
# Pictures in a row of samples, DDIM steps, and rows on the page.
PICTURES, EVALUATIONS, ROWS = 12, 20, 20

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">{refresh}<title>{title}</title>
<style>body {{ font: 16px/1.5 sans-serif; max-width: 820px; margin: 2em auto; padding: 0 1em }}
img {{ max-width: 100%; display: block; margin: .3em 0 1em }}
img.row {{ image-rendering: pixelated; width: 100% }}</style>
</head><body><h1>{title}</h1><p>{state}</p>
<img src="data:image/png;base64,{curve}" alt="Loss of training and of held-out data against the step.">
{rows}</body></html>
"""


def sample_files(out: Path) -> list[Path]:
    """The rows of samples in the folder of a run, in the order of their steps; other files are ignored."""
    return sorted(path for path in (out / SAMPLES).glob("*.png") if _SAMPLE_FILE.fullmatch(path.name))


def check_page(out: Path) -> None:
    """Raise ValueError when the page or the samples of a run cannot be written beside what is in its folder."""
    page, samples = out / PAGE, out / SAMPLES
    if samples.exists() and not samples.is_dir():
        raise ValueError(f"{samples} is a file, expected a folder; choose another --out.")
    if page.is_dir():
        raise ValueError(f"{page} is a folder, expected the page of a training; choose another --out.")
    if page.exists() and _MARK not in page.read_text(encoding="utf-8", errors="replace")[:1000]:
        raise ValueError(f"{page} is not the page of a training and would be overwritten; choose another --out.")


class Watch:
    """The page of a run in its folder, and events for TensorBoard on request.

    The run does not depend on it: the noises of the samples come from a seed of their own.

    Args:
        out: folder of the run; the page is its `index.html`, the rows of samples lie in `samples`.
        config: of the run.
        history: losses of the steps before, and held-out losses (step, loss), of a resumed run.
        side: of the pictures; None for a network that does not generate any.
        tensorboard: also write event files to the folder `tensorboard`.

    Raises:
        ValueError: when tensorboard is True and the package is not installed.
    """

    def __init__(
        self,
        out: str | Path,
        config: TrainConfig,
        *,
        history: tuple[Sequence[float], Sequence[tuple[int, float]]] = ((), ()),
        side: int | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.out, self.config, self.side = Path(out), config, side
        self.losses, self.heldout = list(history[0]), list(history[1])
        self.first, self.start_time = len(self.losses), time.monotonic()
        self.writer = event_writer(self.out / "tensorboard", self.first) if tensorboard else None

    def update(self, step: Step) -> None:
        """Add a step; the page is written at every held-out loss, samples are made at every checkpoint."""
        self.losses.append(step.loss)
        config, last = self.config, step.step == self.config.steps
        if self.writer:
            self.writer.add_scalar("loss/training", step.loss, step.step)
        if step.heldout is not None:
            self.heldout.append((step.step, step.heldout))
            if self.writer:
                self.writer.add_scalar("loss/held-out", step.heldout, step.step)
        if self.side and (last or step.step % config.checkpoint_every == 0):
            self._sample(step)
        if last or step.step == self.first + 1 or step.step % config.heldout_every == 0:
            self.write()

    def _sample(self, step: Step) -> None:
        """Write a row of samples of the averaged network, from the same noises every time."""
        side = cast(int, self.side)
        with step.ema.applied() as network:
            config = cast(dict[str, Any], network.config)
            shape, schedule = (config["channels"], side, side), schedule_from_card(config["schedule"])
            options: dict[str, Any] = {"n": PICTURES, "steps": EVALUATIONS, "device": next(network.parameters()).device}
            images = tensor_to_images(sample_in_batches(sample_ddim, network, schedule, shape, **options))
        save_grid(images, self.out / SAMPLES / f"{step.step:08d}.png", columns=PICTURES)
        if self.writer:
            self.writer.add_images("samples", images, step.step, dataformats="NHWC")

    def write(self, *, stopped: bool = False) -> None:
        """Write the page, which reloads itself until the run is finished or stopped."""
        ended = stopped or len(self.losses) >= self.config.steps
        files = sample_files(self.out)
        places = np.unique(np.linspace(0, len(files) - 1, min(ROWS, len(files))).round().astype(int))
        text = _PAGE.format(
            refresh="" if ended else '<meta http-equiv="refresh" content="20">',
            title=html.escape(f"Training in {self.out}"),
            state=self._state(stopped),
            curve=_encoded(self._curve()),
            rows="\n".join(_row(files[k]) for k in places),
        )
        content = text.encode("utf-8", "backslashreplace")  # a path may hold bytes that are not UTF-8
        write_atomically(self.out / PAGE, lambda path: path.write_bytes(content))
        if self.writer:
            self.writer.flush()

    def _state(self, stopped: bool) -> str:
        done, steps = len(self.losses), self.config.steps
        spent = time.monotonic() - self.start_time
        left = spent / max(1, done - self.first) * (steps - done)
        text = f"Step {done:,} of {steps:,}"
        if self.heldout:
            text += f"; held-out loss {self.heldout[-1][1]:.4f} at step {self.heldout[-1][0]:,}"
        if done >= steps:
            return f"{text}; finished."
        return f"{text}; stopped, to go on with --resume." if stopped else f"{text}; about {duration(left)} left."

    def _curve(self) -> bytes:
        """The loss curves as a PNG."""
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(8, 3.4))
            ax = figure.subplots()
            x, y = smooth(self.losses, max(1, len(self.losses) // 200))
            ax.plot(x, y, label="training")
            if self.heldout:
                ax.plot(*zip(*self.heldout, strict=True), label="held out, averaged network")
            ax.set(xlabel="step", ylabel="loss", yscale="log")
            ax.legend()
            buffer = BytesIO()
            figure.savefig(buffer, format="png")
        return buffer.getvalue()


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours, as text."""
    for size, name in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {name}" if seconds < 10 * size else f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def event_writer(folder: Path, first: int) -> Any:
    """TensorBoard's event writer; events after the checkpoint of an interrupted run are purged.

    Raises:
        ValueError: when the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "--tensorboard needs the package tensorboard; install it (pip install tensorboard) or leave the option out."
        ) from None
    return SummaryWriter(str(folder), purge_step=first + 1)


def _encoded(png: bytes) -> str:
    return base64.b64encode(png).decode()


def _row(path: Path) -> str:
    step = int(path.stem)
    picture = f'<img class="row" src="data:image/png;base64,{_encoded(path.read_bytes())}"'
    return f'<p>Step {step:,}</p>{picture} alt="Samples of step {step:,}, from the same noises in every row.">'
