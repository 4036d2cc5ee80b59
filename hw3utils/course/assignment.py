"""The 22 graded items of the homework, the state of a graded cell, and the student number."""

import codecs
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple


class Item(NamedTuple):
    """One graded item: its points, its title, and the numbers of the notebooks that contain it."""

    points: int
    title: str
    homes: tuple[str, ...]
    manual: bool  # a written derivation, graded by a person


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

# Notebook 07 is optional: its sections are checked like the items, and give no points.
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
# The graded notebooks: the package may be installed without them.
NOTEBOOK_FILES = (
    "01_forward_process.ipynb",
    "02_ddpm_training.ipynb",
    "03_ddim.ipynb",
    "04_fid.ipynb",
    "05_score_matching.ipynb",
    "06_langevin_dynamics.ipynb",
)
# The output of `Report.table`, which `hw3 run` collects.
MIMETYPE = "application/vnd.hw3utils.items+json"
# What the lines begin with that a check prints below its PASS line.
NOTE = "note: "
STUDENT_VARIABLE = "HW3_STUDENT"
# Set by `hw3 grade`, which writes it into its report, so that a grade can be repeated.
SEED_VARIABLE = "HW3_CHECK_SEED"
STUDENT_FILE = "student_number.txt"
# In the folder of a student: the notebooks as they were handed out, by name.
EDITION = ".edition.json"


class CellState(StrEnum):
    """What is known of a graded cell, from the student's own check to the final marks."""

    PASSED = "passed"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    LOST = "lost"  # the process that ran it ended
    NOT_RUN = "not run"  # the notebook is missing, or cannot be run
    TAMPERED = "tampered check"  # restored before it ran
    TO_READ = "to be read by hand"
    DONE = "done"  # DONE and MISSING: of `hw3 check`
    MISSING = "missing"


@dataclass
class GradedCell:
    """A graded cell and its result: from the kernel through the report to the marks.

    Args:
        cell: nbgrader's grade_id.
        item: the graded item, "Q1.P2".
        possible: points of the cell; 0 for an optional check.
        automatic: points from the check, None for an answer that a person grades.
        by_hand: points from a person; they take precedence.
        unread: whether a person still has to read it.
        comment: a person's comment.
        message: the reason of the state, for the student.
        notebook: file name.
        state: see `CellState`.
    """

    cell: str
    item: str
    possible: float
    automatic: float | None = None
    by_hand: float | None = None
    unread: bool = False
    comment: str = ""
    message: str = ""
    notebook: str = ""
    state: CellState = CellState.NOT_RUN

    @property
    def points(self) -> float:
        """The points that count."""
        return (self.automatic or 0.0) if self.by_hand is None else self.by_hand

    def set_result(self, state: CellState, message: str = "") -> None:
        """Store the result of the check; only a passed check gives points."""
        self.state, self.message = CellState(state), message
        self.automatic = self.possible if state == CellState.PASSED else 0.0

    def record(self) -> dict[str, Any]:
        """The cell as JSON, for reports."""
        return asdict(self) | {"points": self.points}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "GradedCell":
        """The inverse of `record`."""
        known = {name: value for name, value in record.items() if name in cls.__dataclass_fields__}
        return cls(**known | {"state": CellState(record["state"])})

    def line(self) -> str:
        """The cell in one line of `hw3 check`."""
        worth = f"{self.possible:3g} points" if self.possible else "  optional"
        return f"  {self.item:7}{worth}  {self.state:9}{self.message}".rstrip()


def is_homework(file: str) -> bool:
    """Whether a notebook, by its file name, is graded: all but the optional ones."""
    return not any(file.startswith(f"{home}_") for section in SECTIONS.values() for home in section.homes)


def student_number() -> str:
    """The student number, from `student_number.txt` beside the notebooks.

    The environment variable HW3_STUDENT takes precedence, so that a grader can run a notebook for another student.
    `hw3utils.mixtures.student_mixture` derives the data from it.

    Returns:
        The number in digits 0 to 9, with its leading zeros. The file may be UTF-8 or UTF-16, may have words around the
        number, and digits of other scripts, such as Persian.

    Raises:
        FileNotFoundError: when there is neither the variable nor the file.
        ValueError: when there is not exactly one number, of 1 to 20 digits.
    """
    given = os.environ.get(STUDENT_VARIABLE)
    return parse_number(given, STUDENT_VARIABLE) if given else number_in(Path())


def number_in(folder: Path) -> str:
    """The student number of a folder; raises as `student_number`."""
    path = folder / STUDENT_FILE
    if not path.is_file():
        where = "this folder" if folder == Path() else folder
        raise FileNotFoundError(
            f"there is no file {STUDENT_FILE} in {where}; write your student number into it, or set {STUDENT_VARIABLE}."
        )
    return number_of_file(path)


def number_of_file(path: Path) -> str:
    """The student number in a file, UTF-8 or UTF-16 with a byte order mark.

    Raises:
        ValueError: when there is not exactly one number, of 1 to 20 digits.
    """
    data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return parse_number(data.decode("utf-16" if utf16 else "utf-8-sig", errors="replace"), STUDENT_FILE)


def parse_number(text: str, place: str) -> str:
    """The only number in a text, converted to digits 0 to 9; `place` is for the message.

    Raises:
        ValueError: when there is not exactly one number, of 1 to 20 digits.
    """
    visible = "".join(c for c in text if unicodedata.category(c) != "Cf")
    words = [word.strip("\"'().,;") for word in re.split(r"[\s:=#]+", visible)]
    numbers = [word for word in words if any(c.isdecimal() for c in word)]
    if len(numbers) != 1 or not numbers[0].isdecimal() or len(numbers[0]) > 20:
        raise ValueError(f"{place} holds {text.strip()[:40]!r}, expected a student number of 1 to 20 digits.")
    return "".join(str(unicodedata.decimal(c)) for c in numbers[0])
