"""The 22 graded items of the homework, with points and notebooks, and the sections of the notebook after it."""

import codecs
import os
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple


class Item(NamedTuple):
    """One graded item: its points, its title, and the numbers of the notebooks that hold it."""

    points: int
    title: str
    homes: tuple[str, ...]
    manual: bool  # a written derivation, whose points a person gives


ITEMS: dict[str, Item] = {
    "Q1.T1": Item(5, "The forward chain in closed form", ("01",), manual=True),
    "Q1.T2": Item(5, "The reverse step and the posterior", ("01",), manual=True),
    "Q1.T3": Item(5, "The variational bound and the simple loss", ("01",), manual=True),
    "Q1.T4": Item(3, "DDIM generalises DDPM", ("03",), manual=True),
    "Q1.T5": Item(7, "Early-stopped DDPM", ("03",), manual=True),
    "Q1.P1": Item(2, "The linear noise schedule", ("01", "02"), manual=False),
    "Q1.P2": Item(5, "Perturbing the input in one step", ("01", "02"), manual=False),
    "Q1.P3": Item(5, "Training the noise predictor", ("02",), manual=False),
    "Q1.P4": Item(5, "Ancestral sampling", ("02",), manual=False),
    "Q1.P5": Item(5, "DDIM sampling", ("03",), manual=False),
    "Q1.P6": Item(3, "Sampling time of DDPM and DDIM", ("03",), manual=False),
    "Q1.P7": Item(5, "FID of DDPM and DDIM", ("04",), manual=False),
    "Q2.T1": Item(4, "The unnormalised density and the score", ("05",), manual=True),
    "Q2.T2": Item(7, "From score matching to sliced score matching", ("05",), manual=True),
    "Q2.T3": Item(5, "Perturbing the data with noise", ("05",), manual=True),
    "Q2.T4": Item(4, "Langevin dynamics and why it converges", ("06",), manual=True),
    "Q2.T5": Item(5, "Annealed Langevin dynamics", ("06",), manual=True),
    "Q2.P1": Item(7, "The student-number mixture and its score", ("05",), manual=False),
    "Q2.P2": Item(7, "Score matching with noise perturbation", ("05",), manual=False),
    "Q2.P3": Item(5, "Deterministic and Langevin trajectories", ("06",), manual=False),
    "Q2.P4": Item(4, "1000 starting points of each method", ("06",), manual=False),
    "Q2.P5": Item(7, "One noise-conditional model, annealed sampling", ("06",), manual=False),
}

# Notebook 07 comes after the homework: its sections are checked by numbers like the items, and give no points.
SECTIONS: dict[str, Item] = {
    f"07.{n}": Item(0, title, ("07",), manual=False)
    for n, title in enumerate(
        (
            "From steps to an equation",
            "The probability flow",
            "Likelihood",
            "Flow matching",
            "Parametrisations",
            "Guidance, measured",
            "Predictor and corrector",
        ),
        start=1,
    )
}

# What stands in an answer cell of the student edition.
ANSWER = "*Your answer here.*"
# Of the table of items in the output of a notebook.
MIMETYPE = "application/vnd.hw3utils.items+json"
STUDENT_VARIABLE = "HW3_STUDENT"
STUDENT_FILE = "student_number.txt"


def is_homework(file: str) -> bool:
    """Whether a notebook, by its file name, is handed in and graded: all but those after the homework."""
    return not any(file.startswith(f"{home}_") for section in SECTIONS.values() for home in section.homes)


def student_number() -> str:
    """The student's number: the one place where it is read.

    It stands in the file `student_number.txt` beside the notebooks; the environment variable HW3_STUDENT goes first,
    so that a grader can run the same notebook for another student. `hw3utils.mixtures.student_mixture` makes the data
    of it.

    Returns:
        The number in digits of 0 to 9, with its leading zeros. Words may stand around it in the file, which may be
        UTF-8 or UTF-16; digits of other scripts, such as Persian ones, are taken too.

    Raises:
        FileNotFoundError: when there is neither the variable nor the file.
        ValueError: when there is not exactly one number, of 1 to 20 digits.
    """
    given = os.environ.get(STUDENT_VARIABLE)
    return _number(given, STUDENT_VARIABLE) if given else number_in(Path())


def number_in(folder: Path) -> str:
    """The student's number in a folder of notebooks, with the exceptions of `student_number`."""
    path = folder / STUDENT_FILE
    if not path.is_file():
        where = "this folder" if folder == Path() else folder
        raise FileNotFoundError(
            f"there is no file {STUDENT_FILE} in {where}; write your student number into it, or set {STUDENT_VARIABLE}."
        )
    return _number(_text(path.read_bytes()), STUDENT_FILE)


def _text(data: bytes) -> str:
    """The text of a small file, as editors and shells write it: UTF-8, or UTF-16 with its byte order mark."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig", errors="replace")


def _number(given: str, place: str) -> str:
    """The one number in a text, in digits of 0 to 9; words may stand around it, and it may be in other digits."""
    visible = "".join(c for c in given if unicodedata.category(c) != "Cf")
    words = [word.strip("\"'().,;") for word in re.split(r"[\s:=#]+", visible)]
    numbers = [word for word in words if any(c.isdecimal() for c in word)]
    if len(numbers) != 1 or not numbers[0].isdecimal() or len(numbers[0]) > 20:
        raise ValueError(f"{place} holds {given.strip()[:40]!r}, expected a student number of 1 to 20 digits.")
    return "".join(str(unicodedata.decimal(c)) for c in numbers[0])
