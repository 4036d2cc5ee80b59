"""A student's copy of all notebooks, written in a style of its own: its functions make the results.

The same copy with one wrong function runs to the end, and shows the other results unchanged: also if a later function
of the student calls the wrong one. A copy in which nothing is written stops only where it needs the student's own work.
"""

import ast
import contextlib
import functools
import io
import re
import shutil
import sys
import types

import nbformat
import pytest
from own_style import RIGHT, WRONG
from tiny import unet

from hw3utils import plots
from hw3utils.course import release, workshop
from hw3utils.course.assignment import ITEMS, MIMETYPE, SECTIONS
from hw3utils.course.notebooks.cells import marked_cells
from hw3utils.course.notebooks.dependencies import required_statements, statements_of
from hw3utils.course.notebooks.execute import find_notebooks
from hw3utils.fid import feature_statistics
from hw3utils.plots import animation
from hw3utils.schedules import linear_schedule
from hw3utils.sprites import load_sprites

NAMES = [path.stem for path in find_notebooks()]
# Limits that an experiment of a few steps, or a network without training, misses.
OF_TRAINING = (
    "loss of the last 50 steps", "smallest distance to a training picture", "w = 3: fraction",
    "held-out sprites to noise and back", "difference of two halves", "10 steps: FID", "last 1000 losses",
    "relative error of the learned", "learned score", "error of a single step", "worst of 1001 terms",
)  # fmt: skip


@pytest.fixture(scope="module")
def edition(tmp_path_factory):
    pytest.importorskip("nbgrader", reason="nbgrader is not installed")
    return {path.stem: path for path in release.release(tmp_path_factory.mktemp("edition") / "out")}


class Run:
    """A notebook of the edition with these answers, executed: what each cell printed and showed, and its error.

    Args:
        path: the notebook.
        answers: source of each cell of the student, by grade_id; None leaves all of them empty.
        folder: where it runs.
        only: the source to run at each place; None is all cells.
    """

    def __init__(self, path, answers, folder, only=None):
        self.notebook, self.folder = filled(path, answers), folder
        self.printed, self.errors, self.shown = {}, {}, {}
        shutil.copy(path.parent / "student_number.txt", folder)
        nbformat.write(self.notebook, folder / path.name)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("HW3_PROFILE", "tiny")
            patch.setenv("HW3_CHECK_SEED", "3")
            for name, value in (("_passed", []), ("_refused", []), ("outcomes", {}), ("_exercises", 0)):
                patch.setattr(workshop, name, value)
            patch.setattr("hw3utils.load_pretrained", untrained, raising=False)
            patch.setattr("hw3utils.sprites.load_sprites", functools.cache(load_sprites))
            patch.setattr("hw3utils.fid.feature_statistics", few_training_pictures)
            # Figures are drawn, small.
            for option, value in SMALL.items():
                patch.setitem(plots.STYLE, option, value)
            patch.setattr("hw3utils.plots.animation", two_frames)
            patch.setitem(sys.modules, "__main__", module := types.ModuleType("__main__"))
            for place, cell in enumerate(self.notebook.cells):
                if cell.cell_type == "code" and (only is None or place in only):
                    shown = self.shown[place] = []
                    patch.setattr("IPython.display.display", lambda data, shown=shown, **raw: shown.append(data))
                    self.execute(place, cell.source if only is None else only[place], vars(module))

    def execute(self, place, source, names):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                exec(compile(source, f"cell {place}", "exec"), names)
            except Exception as error:
                self.errors[place] = error
        self.printed[place] = out.getvalue().splitlines()

    def choices(self):
        """Names of the functions that `choose` took from the student, and the lines that say why not."""
        lines = [line for lines in self.printed.values() for line in lines if line.startswith("from here on: ")]
        return (
            {line.removeprefix("from here on: your ") for line in lines if "your" in line},
            [line for line in lines if "your" not in line],
        )

    def states(self):
        tables = [data[MIMETYPE] for shown in self.shown.values() for data in shown if MIMETYPE in vars_of(data)]
        return {item: row["state"] for item, row in tables[-1].items()}

    def stopped(self):
        """Errors other than the limits of a training that is too short here."""
        return {
            place: error
            for place, error in self.errors.items()
            if not (str(error).startswith("FAIL") and any(claim in str(error) for claim in OF_TRAINING))
        }

    def results(self, place):
        """The claims of a cell that hold, and how many pictures it drew."""
        lines = [line.split(": measured")[0] for line in self.printed[place] if line.startswith("PASS")]
        return lines, sum(type(data).__name__ == "Image" for data in self.shown[place])


def vars_of(data):
    return data if isinstance(data, dict) else {}


def filled(path, answers):
    """A notebook of the edition with these answers; None leaves all of them empty."""
    notebook = nbformat.read(path, 4)
    for name, cell in marked_cells(notebook).items():
        if answers is not None and cell.metadata["nbgrader"]["solution"]:
            cell.source = answers[name] if cell.cell_type == "code" else "My derivation."
    return notebook


def untrained(name, device="cpu"):
    """In place of the shipped network one that is quick."""
    return unet(schedule=linear_schedule().card()), linear_schedule()


SMALL = {"figure.dpi": 30, "savefig.dpi": 30, "figure.constrained_layout.use": False}


def few_training_pictures(images, extractor):
    """The statistics of features, of 5,000 of the 89,400 training pictures."""
    return feature_statistics(images[:5000], extractor)


def two_frames(name, draw, frames, **options):
    """An animation, shorter."""
    animation(name, draw, 2, **options)


def chosen(source):
    """The functions that a cell takes from the student."""
    return re.findall(r"choose\(\s*['\"](\w+)['\"]", source)


def sources_of(notebook, function, cell):
    """What runs again for another function: the cells that it reaches, the checks, the table, their dependencies.

    Returns:
        Places of the cells that it reaches, and the source to run at each place.
    """
    statements, cells = statements_of(notebook), notebook.cells
    home = next(k for k, c in enumerate(cells) if c.metadata.get("nbgrader", {}).get("grade_id") == cell)
    choice = {k for k, c in enumerate(cells) if function in chosen(c.source)}
    needs = [required_statements(statements, n) for n in range(len(statements))]
    ways = {home, *choice}
    reached = {statements[n].cell for n, need in enumerate(needs) if ways & {statements[k].cell for k in need}}
    goals = reached | {statements[-1].cell} | {k for k, c in enumerate(cells) if "checks.check_" in c.source}
    wanted = set().union(*(needs[n] for n, s in enumerate(statements) if s.cell in goals))
    sources = {}
    for n in sorted(wanted):
        sources.setdefault(statements[n].cell, []).append(statements[n].source)
    return reached, {k: cells[k].source if k in goals else "\n".join(parts) for k, parts in sources.items()}


@pytest.fixture(scope="module")
def runs(edition, tmp_path_factory):
    return functools.cache(lambda name: Run(edition[name], RIGHT, tmp_path_factory.mktemp(name)))


@pytest.mark.parametrize("name", NAMES)
def test_every_result_is_made_with_the_functions_of_the_student(runs, name):
    run = runs(name)
    assert run.stopped() == {}
    assert run.choices() == ({name for cell in run.notebook.cells for name in chosen(cell.source)}, [])
    items = ITEMS if name[:2] != "07" else SECTIONS
    assert set(run.states()) == {item for item, row in items.items() if name[:2] in row.homes}
    assert set(run.states().values()) <= {"passed", "answered", "no exercise"}


def test_the_copy_ends_in_22_of_22(runs):
    states = [(item, state) for name in NAMES[:6] for item, state in runs(name).states().items()]
    assert {item for item, state in states if state in ("passed", "answered")} == set(ITEMS)
    assert {state for _, state in states} == {"passed", "answered"}


@pytest.mark.parametrize("mistake", WRONG)
def test_one_wrong_function_changes_nothing_else(edition, runs, tmp_path, mistake):
    """The checks, the table, and every cell that the function reaches run again: no other can change."""
    name = next(name for name in NAMES if name[:2] == mistake[:2])
    cell, function, reason, source = WRONG[mistake]
    assert source != RIGHT[cell]
    right = runs(name)
    answers = RIGHT | {cell: source}
    reached, sources = sources_of(filled(edition[name], answers), function, cell)
    wrong = Run(edition[name], answers, tmp_path, sources)
    [(place, error)] = wrong.stopped().items()
    assert right.notebook.cells[place].metadata["nbgrader"]["grade_id"].endswith("-check")
    assert reason in str(error)
    others, [said] = wrong.choices()
    assert others == {name for text in sources.values() for name in chosen(text)} - {function}
    assert f"because {function} has not passed its check: " in said
    assert reason in said
    for k in reached - {place}:
        assert wrong.results(k) == right.results(k)
    item = ".".join(cell.split("-")[:2]) if name[:2] != "07" else "07.1"
    assert {item for item, state in wrong.states().items() if state == "not passed"} == {item}


def defined_by(source):
    """Names that a cell of the student defines at its top level."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_copy_stops_only_where_it_needs_the_work_of_the_student(edition, tmp_path, name):
    run = Run(edition[name], None, tmp_path)
    mine = {defined for cell in RIGHT.keys() & marked_cells(run.notebook).keys() for defined in defined_by(RIGHT[cell])}
    assert run.errors
    for place, error in run.errors.items():
        cell = run.notebook.cells[place]
        stub = cell.metadata.get("nbgrader", {}).get("solution") and isinstance(error, NotImplementedError)
        # The table fails last, for it names what is not written; a tiny experiment may miss its limits.
        table = cell.source.startswith("report.table()")
        needs = any(re.search(rf"\b{own}\b", cell.source) for own in mine)
        assert stub or table or needs or isinstance(error, AssertionError), (cell.source[:200], error)
