"""The FID table, samplers over steps: generates the pictures of every cell once, and measures them.

A row is a sampler: DDIM with some eta, DDPM's ancestral step with the larger variance (sigma-hat), both also on other
time grids, or DPM-Solver++. A cell is a row at S steps. Its pictures are stored in files of 500, each written
atomically: an interrupted command goes on where it was, and processes of torchrun share the work. Samples are drawn as
the data are, first a class by its share, then a picture of it, for the network was trained without label in one case of
ten only. Sample i of every cell has the same class and the same noise, so that differences between cells are paired.

Source of the layout: Song, Meng and Ermon 2021, arXiv 2010.02502, table 1.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn

import hw3utils
from hw3utils.datasets import read_pictures
from hw3utils.devices import process_count, process_rank
from hw3utils.fid import (
    Estimate,
    FeatureStatistics,
    at_infinity,
    distance_of,
    feature_statistics,
    jackknife_error,
    kid,
    leave_one_out,
    merged,
    nearest_distances,
)
from hw3utils.files import check_writable, read_json, write_atomically, write_json
from hw3utils.learning.features import Features
from hw3utils.learning.weights import pretrained_card
from hw3utils.samplers import sample_ddim, sample_ddpm, sample_dpm_solver, sample_in_batches
from hw3utils.schedules import NoiseSchedule
from hw3utils.sprites import SpriteData, draw_sprites, grammar_accepts, outline_share, tensor_to_images

SIGMA_HAT = "sigma-hat"
STEPS = (10, 15, 20, 50, 100, 1000)
ETAS = ("0", "0.2", "0.5", "1", SIGMA_HAT)
PLAN = "plan.json"
STORED = Path(__file__).parent.parent / "tables"
PICTURES_A_FILE = 500
GROUPS = 20
LEAST = 250  # about twice the number of features: with fewer pictures than features the covariance is singular
SIZES = (500, 1000, 2000, 5000, 10_000)
BATCH = 100


def _authors_grid(S: int) -> dict[str, Any]:
    """The grid of the DDIM authors' code: t = 1, 1 + 1000 / S, ...; it ends below T, and is shown pure noise there."""
    grid = list(range(1, 1001, 1000 // S))
    return {"steps": grid, "t_start": grid[-1]}


def _ddim(eta: float, S: int) -> dict[str, Any]:
    return {"sampler": sample_ddim, "eta": eta, "steps": S}


# What `sample_in_batches` takes for S steps of each row.
SAMPLERS: dict[str, Callable[[int], dict[str, Any]]] = {
    **{eta: partial(_ddim, float(eta)) for eta in ETAS[:-1]},
    SIGMA_HAT: lambda S: {"sampler": sample_ddpm, "variance": "beta", "steps": S},
    "quadratic": lambda S: {"sampler": sample_ddim, "spacing": "quadratic", "steps": S},
    "logsnr": lambda S: {"sampler": sample_ddim, "spacing": "logsnr", "steps": S},
    "authors": lambda S: {"sampler": sample_ddim, **_authors_grid(S)},
    "authors-sigma-hat": lambda S: {"sampler": sample_ddpm, "variance": "beta", "clip_x0": True, **_authors_grid(S)},
    "dpm-solver": lambda S: {"sampler": sample_dpm_solver, "steps": S},
}
NAMES = {
    **{eta: f"DDIM, eta = {eta}" for eta in ETAS[:-1]},
    SIGMA_HAT: "DDPM, sigma-hat",
    "quadratic": "DDIM, quadratic grid",
    "logsnr": "DDIM, log-SNR grid",
    "authors": "DDIM, authors' grid",
    "authors-sigma-hat": "DDPM, authors' grid",
    "dpm-solver": "DPM-Solver++(2M)",
}


class Cell(NamedTuple):
    """One sampler of the table at one number of steps.

    Attributes:
        row: a key of `SAMPLERS`: "0", "0.2", "0.5" or "1" for DDIM's eta, "sigma-hat" for DDPM, or one beside them.
        steps: S, evaluations of the network.
    """

    row: str
    steps: int

    @property
    def folder(self) -> str:
        """Name of the folder of its pictures."""
        return f"S{self.steps:04d}_{self.row}"


def table_cells() -> list[Cell]:
    """The 43 cells, in the order in which they are made; at S = 1000 only eta = 0, 1 and sigma-hat."""
    short = [Cell(row, steps) for steps in (10, 20, 50, 100) for row in SAMPLERS if row != "dpm-solver"]
    solver = [Cell("dpm-solver", steps) for steps in (10, 15, 20, 50)]
    return short + solver + [Cell(row, 1000) for row in (SIGMA_HAT, "0", "1")]


def cells_named(names: Sequence[str]) -> list[Cell]:
    """The cells with these folder names, in the order of the table; all of them where no name is given.

    Raises:
        ValueError: when the table has no cell of a name.
    """
    cells = {cell.folder: cell for cell in table_cells()}
    if unknown := sorted(set(names) - cells.keys()):
        raise ValueError(f"the table has no cell {unknown[0]!r}, expected names such as {', '.join([*cells][-3:])}.")
    return [cell for name, cell in cells.items() if name in names or not names]


def picture_files(out: str | Path, cell: Cell, n: int) -> list[Path]:
    """The files of a cell's first n pictures, whether they exist or not."""
    return [Path(out) / cell.folder / f"{first:06d}.npy" for first in range(0, n, PICTURES_A_FILE)]


def drawn_labels(shares: Sequence[float], *, seed: int) -> torch.Tensor:
    """Classes of the table's samples, int64 (10000,), drawn with the shares that they have in the data."""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(torch.tensor(shares), max(SIZES), replacement=True, generator=generator)


def make_pictures(
    eps_model: nn.Module,
    schedule: NoiseSchedule,
    plan: dict[str, Any],
    *,
    out: str | Path,
    cells: Sequence[Cell],
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Path, int]]:
    """Generate the missing pictures of the table, file by file; each process of torch.distributed a part of them.

    Args:
        eps_model: the network.
        schedule: its schedule.
        plan: the settings of all pictures in the folder: "weights" (hash), "precision", "compiled", "seed", "shares"
            (of the classes), and "n", pictures a cell.
        out: the folder.
        cells: the cells to make.
        device: where to sample.

    Yields:
        (file, evaluations it took), 0 evaluations for a file that existed.

    Raises:
        ValueError: when the folder holds pictures of another plan.
        OSError: when a file cannot be written.
    """
    out = check_writable(out)
    check_plan(out, plan)
    labels = drawn_labels(plan["shares"], seed=plan["seed"])
    for cell, index, path in _wanted(out, plan, cells):
        rows = range(index * PICTURES_A_FILE, (index + 1) * PICTURES_A_FILE)
        if path.exists():
            yield path, 0
            continue
        pictures = sample_in_batches(
            eps_model=eps_model,
            schedule=schedule,
            shape=(3, 16, 16),
            n=rows,
            model_kwargs={"label": labels[rows.start : rows.stop]},
            batch_size=BATCH,
            seed=plan["seed"],
            device=device,
            **SAMPLERS[cell.row](cell.steps),
        )
        images = tensor_to_images(pictures)
        write_atomically(path, partial(_save, images=images))
        yield path, cell.steps * PICTURES_A_FILE


def _wanted(out: Path, plan: dict[str, Any], cells: Sequence[Cell]) -> list[tuple[Cell, int, Path]]:
    """The files of these cells that this process makes: cell, number in the cell, path."""
    files = [(cell, index, path) for cell in cells for index, path in enumerate(picture_files(out, cell, plan["n"]))]
    return files[process_rank() :: process_count()]


def n_files(plan: dict[str, Any], cells: Sequence[Cell]) -> int:
    """The number of files that this process makes."""
    return len(_wanted(Path(), plan, cells))


def _save(path: Path, images: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, images)


def check_plan(out: Path, plan: dict[str, Any]) -> None:
    """Write the plan of a new folder, or compare it with that of an old one, where only n may differ."""
    path = out / PLAN
    if path.exists():
        before = read_json(path)
        for name in plan.keys() - {"n"}:
            if before.get(name) != plan[name]:
                raise ValueError(
                    f"{out} holds pictures made with {name} = {before.get(name)!r}, not {plan[name]!r}; "
                    "choose another folder."
                )
    write_json(path, plan)


# -------------------------------------------------------------------------------------------------- the table itself


def confident_share(classifier: nn.Module, images: np.ndarray, *, least: float = 0.9) -> float:
    """Share of pictures (uint8 (N, 16, 16, 3)) that the classifier gives one of its classes with some probability."""
    pictures = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        sure = [
            classifier(part.float() / 127.5 - 1)["class"].softmax(1).amax(1) > least for part in pictures.split(500)
        ]
    return float(torch.cat(sure).double().mean())


def by_size(groups: list[FeatureStatistics], reference: FeatureStatistics) -> dict[int, tuple[float, float]]:
    """FID at growing numbers of pictures, from disjoint groups of one size.

    Returns:
        {pictures: (mean, standard deviation) over the disjoint unions of that size}; the deviation is 0 where there is
        only one union. Below `LEAST` pictures FID is no line in 1 / N, so smaller unions are left out.
    """
    found = {}
    for together in (1, 2, 5, 10, 20):
        unions = [groups[i : i + together] for i in range(0, len(groups) - together + 1, together)]
        n = together * groups[0].n
        if unions and n >= LEAST:
            values = [distance_of(merged(union), reference) for union in unions]
            found[n] = (float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)
    return found


def measure(images: np.ndarray, features: Features, reference: FeatureStatistics, data: SpriteData) -> dict[str, Any]:
    """All entries of the table for one set of pictures.

    Args:
        images: the pictures, uint8 (N, 16, 16, 3), N a multiple of 20: the errors are those of 20 groups.
        features: the sprites features.
        reference: statistics of the training set.
        data: the embedded sprites, for KID (training pictures) and the nearest neighbours.

    Returns:
        "n", "fid", "error" (jackknife), "without" (FID with each group left out), "by_size", "fid_infinity", "kid",
        "kid_error", and of the first 500 pictures: "confident", "grammar" (share that follows its rules within
        24 levels), "outline" and "nearest" (median distance to the nearest training picture, in levels).
    """
    groups = [feature_statistics(group, features) for group in np.split(images, GROUPS)]
    sizes = by_size(groups, reference)
    without = leave_one_out(groups, reference)
    first = images[:PICTURES_A_FILE]
    kernel = kid(data.train_images[: len(images)], images, extractor=features)
    return {
        "n": len(images),
        "fid": sizes[len(images)][0],
        "error": jackknife_error(without),
        "without": without,
        "by_size": {str(n): list(pair) for n, pair in sizes.items()},
        "fid_infinity": at_infinity(list(sizes), [value for value, _ in sizes.values()]),
        "kid": kernel.value,
        "kid_error": kernel.error,
        "confident": confident_share(cast(nn.Module, features.classifier), first),
        "grammar": float(grammar_accepts(first, tolerance=24).mean()),
        "outline": float(outline_share(first).mean()),
        "nearest": float(np.median(nearest_distances(first, data.train_images))),
    }


def make_table(out: str | Path, features: Features, data: SpriteData) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure the pictures of `make_pictures`; incomplete cells are left out.

    Args:
        out: the folder of pictures.
        features: the sprites features.
        data: the embedded sprites.

    Yields:
        (name, row), the floor (fresh pictures of the grammar) first, then each complete cell.

    Raises:
        ValueError: when the folder has no plan, or a file of pictures is damaged.
    """
    plan = read_json(Path(out) / PLAN)
    reference = feature_statistics(data.train_images, features)
    fresh = draw_sprites(plan["n"], seed=plan["seed"] + 1_000)[0]
    yield "floor", measure(fresh, features, reference, data)
    for cell in table_cells():
        files = picture_files(out, cell, plan["n"])
        if all(path.exists() for path in files):
            images = np.concatenate([read_pictures(path) for path in files])
            row = {"row": cell.row, "steps": cell.steps, **measure(images, features, reference, data)}
            yield cell.folder, row


def table_text(rows: dict[str, Any]) -> str:
    """The table in the layout of the DDIM paper, FID +- standard error: a line a sampler, a column for each S."""

    def number(row: dict[str, Any]) -> str:
        return f"{row['fid']:.2f} +- {row['error']:.2f}"

    floor = rows["floor"]
    lines = [
        f"FID in sprites features, {floor['n']} pictures a cell",
        " " * 21 + "".join(f"S = {steps}".rjust(14) for steps in STEPS),
    ]
    for row, name in NAMES.items():
        cells = [rows.get(Cell(row, steps).folder) for steps in STEPS]
        texts = ["-" if cell is None else number(cell) for cell in cells]
        lines.append(name.ljust(21) + "".join(text.rjust(14) for text in texts))
    lines.append(f"floor: {floor['n']} new pictures of the grammar {number(floor)}")
    return "\n".join(lines)


def paired_difference(row_1: dict[str, Any], row_2: dict[str, Any]) -> Estimate:
    """FID of one cell less that of another, from the same starting noises, with standard error.

    Raises:
        ValueError: when the cells have different numbers of pictures.
    """
    if row_1["n"] != row_2["n"]:
        raise ValueError(f"the cells have {row_1['n']} and {row_2['n']} pictures, expected the same.")
    change = [a - b for a, b in zip(row_1["without"], row_2["without"], strict=True)]
    return Estimate(row_1["fid"] - row_2["fid"], jackknife_error(change))


def write_table(path: str | Path, out: str | Path, rows: dict[str, Any], data: SpriteData, command: str) -> Path:
    """Write the measured table with its settings and versions."""
    cells = {name: row for name, row in rows.items() if name != "floor"}
    return write_json(
        path,
        {
            "what": "FID on sprites features of the samples of DDIM, DDPM and DPM-Solver++ against the training set",
            "command": command,
            "plan": read_json(Path(out) / PLAN),
            "features": {"name": "sprites", "sha256": pretrained_card("classifier")["sha256"]},
            "reference": {"data": data.source, "sha256": data.sha256, "pictures": len(data.train_images)},
            "versions": {"hw3utils": hw3utils.__version__, "torch": torch.__version__, "numpy": np.__version__},
            "floor": rows["floor"],
            "cells": cells,
        },
    )


def stored_table(name: str = "fid_sprites") -> dict[str, Any]:
    """A table that is shipped with the package, with its settings and versions.

    Args:
        name: "fid_sprites" (all cells) or "fid_ddpm_1000" (DDPM in 1000 steps alone, with more samples).
    """
    return read_json(STORED / f"{name}.json")
