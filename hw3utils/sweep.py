"""DDPM against DDIM over steps and eta: the pictures of every cell of the table, made once, piece by piece.

A cell is one sampler: DDIM with S steps and some eta, or DDPM's ancestral step with the larger variance (sigma-hat) on
S steps. Its pictures are kept in files of 500, each written whole; a command that is stopped goes on where it was, and
several processes may share one folder. Sample i of every cell starts from the same noise, so cells differ by their
sampler and not by their luck.

Source of the layout: Song, Meng and Ermon 2021, arXiv 2010.02502, table 1.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from hw3utils.checkpoints import check_writable, read_json, write_atomically, write_json
from hw3utils.samplers import sample_ddim, sample_ddpm, sample_in_batches
from hw3utils.schedules import NoiseSchedule
from hw3utils.sprites import tensor_to_images

SIGMA_HAT = "sigma-hat"
STEPS = (10, 20, 50, 100, 1000)
ETAS = ("0", "0.2", "0.5", "1", SIGMA_HAT)
PLAN = "plan.json"
PICTURES_A_FILE = 500
BATCH = 100


class Cell(NamedTuple):
    """One sampler of the table.

    Attributes:
        eta: "0", "0.2", "0.5", "1" (DDIM), or "sigma-hat".
        steps: S, evaluations of the network.
    """

    eta: str
    steps: int

    @property
    def folder(self) -> str:
        return f"S{self.steps:04d}_eta_{self.eta}"

    def sampler(self) -> dict[str, Any]:
        """What `sample_in_batches` takes for this cell."""
        if self.eta == SIGMA_HAT:
            return {"sampler": sample_ddpm, "variance": "beta", "steps": self.steps}
        return {"sampler": sample_ddim, "eta": float(self.eta), "steps": self.steps}


def table_cells() -> list[Cell]:
    """The 23 cells, in the order in which they are worth having: at S = 1000 only eta = 0, 1 and sigma-hat."""
    short = [Cell(eta, steps) for steps in STEPS[:-1] for eta in ETAS]
    return short + [Cell(eta, STEPS[-1]) for eta in (SIGMA_HAT, "0", "1")]


def picture_files(out: str | Path, cell: Cell, n: int) -> list[Path]:
    """The files that hold a cell's first n pictures, made or not."""
    return [Path(out) / cell.folder / f"{first:06d}.npy" for first in range(0, n, PICTURES_A_FILE)]


def make_pictures(
    eps_model: nn.Module,
    schedule: NoiseSchedule,
    plan: dict[str, Any],
    *,
    out: str | Path,
    share: tuple[int, int] = (1, 1),
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Path, int]]:
    """Make what is missing of the table's pictures, file by file.

    Args:
        eps_model: the network.
        schedule: its schedule.
        plan: what all pictures of a folder have in common: "weights" (hash), "precision", "seed", "n" (pictures a cell
            up to S = 100), "n_1000" (pictures a cell at S = 1000), both multiples of 500.
        out: the folder.
        share: (k, m): every m-th file from the k-th on, for m processes that share the folder.
        device: where to sample.

    Yields:
        (file, evaluations it took), 0 evaluations for a file that was there.

    Raises:
        ValueError: when the folder holds pictures of another plan, or numbers do not fit.
        OSError: when a file cannot be written.
    """
    out = check_writable(out)
    for name in ("n", "n_1000"):
        if plan[name] % PICTURES_A_FILE:
            raise ValueError(f"{name} is {plan[name]}, expected a multiple of {PICTURES_A_FILE}.")
    part, parts = share
    if not 1 <= part <= parts:
        raise ValueError(f"share is {part}/{parts}, expected k/m with k in 1..m.")
    check_plan(out, plan)
    wanted = [
        (cell, index, path)
        for cell in table_cells()
        for index, path in enumerate(picture_files(out, cell, plan["n_1000" if cell.steps == 1000 else "n"]))
    ]
    for cell, index, path in wanted[part - 1 :: parts]:
        if path.exists():
            yield path, 0
            continue
        pictures = sample_in_batches(
            eps_model=eps_model,
            schedule=schedule,
            shape=(3, 16, 16),
            n=PICTURES_A_FILE,
            first=index * PICTURES_A_FILE,
            batch_size=BATCH,
            seed=plan["seed"],
            device=device,
            **cell.sampler(),
        )
        images = tensor_to_images(pictures)
        write_atomically(path, lambda temporary, images=images: _save(temporary, images))
        yield path, cell.steps * PICTURES_A_FILE


def _save(path: Path, images: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, images)


def check_plan(out: Path, plan: dict[str, Any]) -> None:
    """Write the plan of a new folder, or hold it against that of an old one, where only n may have grown."""
    path = out / PLAN
    if path.exists():
        before = read_json(path)
        for name in plan.keys() - {"n", "n_1000"}:
            if before.get(name) != plan[name]:
                raise ValueError(
                    f"{out} holds pictures made with {name} = {before.get(name)!r}, not {plan[name]!r}; "
                    "choose another folder."
                )
    write_json(path, plan)
