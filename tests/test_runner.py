"""Running notebooks, PASS lines, and the items at the end."""

import math

import nbformat
import pytest
import torch

from hw3utils import runner
from hw3utils.__main__ import main
from hw3utils.assignment import ITEMS
from hw3utils.profiles import PROFILES, current_profile
from hw3utils.report import Report

GOOD = [
    "from hw3utils.report import Report\nreport = Report('04')",
    "report.check('Q1.P7', 'nothing', 0.0, below=1)",
    "from hw3utils import plots\nwith plots.figure('04_empty', alt='nothing') as ax:\n    ax.plot([0, 1])",
    "report.table()",
    "from hw3utils.profiles import current_profile\nprint(current_profile().name)",
]
BAD = ["x = 1", "raise KeyError('lost')", "print('never')"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    for name, cells in (("03_bad", BAD), ("04_good", GOOD)):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        nbformat.write(notebook, notebooks / f"{name}.ipynb")
    monkeypatch.setattr(runner, "NOTEBOOKS", notebooks)
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    return tmp_path


def test_a_failing_cell_is_named_and_the_next_notebook_runs(folder, capsys):
    before = {path.name: path.read_bytes() for path in (folder / "notebooks").iterdir()}
    assert main(["run", "--out", str(folder / "out")]) == 1
    out = capsys.readouterr().out
    assert "03_bad: 1 of 3 cells" in out
    assert "failed in cell 2: KeyError: 'lost'" in out
    assert "04_good: 5 of 5 cells" in out
    assert "Q1.P7" in out
    assert "PASS (1 checks)" in out
    made = {str(path.relative_to(folder / "out")) for path in (folder / "out").rglob("*.*")}
    assert made >= {"03_bad.ipynb", "03_bad.html", "04_good.ipynb", "04_good.html", "figures/04_empty.png"}
    assert {path.name: path.read_bytes() for path in (folder / "notebooks").iterdir()} == before


def test_update_replaces_what_ran_to_its_end(folder, capsys):
    bad = (folder / "notebooks" / "03_bad.ipynb").read_bytes()
    outcomes = runner.run_notebooks(profile="full", out=folder / "out", update=True)
    assert [outcome.error is None for outcome in outcomes] == [False, True]
    assert (folder / "notebooks" / "03_bad.ipynb").read_bytes() == bad
    good = nbformat.read(folder / "notebooks" / "04_good.ipynb", as_version=4)
    assert good.cells[-1].outputs[0].text == "full\n"
    assert (folder / "figures" / "04_empty.png").exists()
    assert outcomes[1].items == {"Q1.P7": {"points": 5, "checks": 1, "state": "PASS"}}


def test_notebooks_are_found_by_number_name_and_path(folder):
    good = folder / "notebooks" / "04_good.ipynb"
    assert [path.name for path in runner.find_notebooks()] == ["03_bad.ipynb", "04_good.ipynb"]
    for name in ("4", "04", "04_good", "04_good.ipynb", str(good)):
        assert [path.name for path in runner.find_notebooks([name])] == ["04_good.ipynb"]
    with pytest.raises(ValueError, match="no notebook '7', expected a path or one of 03_bad, 04_good"):
        runner.find_notebooks(["7"])


def test_profiles_by_environment(monkeypatch):
    monkeypatch.setenv("HW3_PROFILE", "full")
    assert current_profile() is PROFILES["full"]
    monkeypatch.delenv("HW3_PROFILE")
    assert current_profile() is PROFILES["quick"]
    monkeypatch.setenv("HW3_PROFILE", "slow")
    with pytest.raises(ValueError, match="'slow', expected one of quick, full"):
        current_profile()
    assert main(["run"]) == 2


# --------------------------------------------------------------------------------------------------------- PASS lines


def test_lines_hold_the_number_and_its_limits(capsys):
    report = Report("01")
    report.check("Q1.P1", "a", 0.0123, below=0.1)
    report.check("Q1.P1", "b", -3e-9, below=1e-3)
    report.check("Q1.P1", "c", torch.tensor([5.0, 6.0]), above=4, below=7)
    report.check("Q1.P1", "d", 0.123, below=1, fresh=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "PASS  Q1.P1  a: 0.012 (must be below 0.1)"
    assert lines[1] == "PASS  Q1.P1  b: below 1e-06 (must be below 0.001)"
    assert lines[2].startswith("PASS  Q1.P1  c: ")
    assert lines[2].endswith("(must be above 4 and below 7)")
    assert lines[3] == "PASS  Q1.P1  d: within its limits (must be below 1)"


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        (2.0, {"below": 1}),
        (-2.0, {"below": 1}),
        (math.nan, {"below": 1}),
        (math.inf, {"above": 1}),
        (0.5, {"above": 1}),
        (torch.tensor([0.5, 2.0]), {"below": 1}),
        (torch.tensor([0.5, 2.0]), {"above": 1}),
        (3.0, {"above": 1, "below": 2}),
    ],
)
def test_a_number_out_of_its_limits_stops(value, limits, capsys):
    with pytest.raises(AssertionError, match=r"^FAIL  Q1.P1  claim: "):
        Report("01").check("Q1.P1", "claim", value, **limits)
    assert capsys.readouterr().out.startswith("FAIL")


def test_what_a_report_refuses():
    report = Report("01")
    with pytest.raises(ValueError, match=r"'Q2.P1' has no home in notebook 01"):
        report.check("Q2.P1", "x", 0.0, below=1)
    with pytest.raises(ValueError, match="needs a limit"):
        report.check("Q1.P1", "x", 0.0)
    with pytest.raises(AssertionError, match=r"nothing was checked for Q1.T1"):
        report.table()
    with pytest.raises(ValueError, match="no notebook '99'"):
        Report("99")


def test_the_items_add_up_to_the_homework():
    assert len(ITEMS) == 22
    assert sum(item.points for item in ITEMS.values()) == 110
    assert sum(item.points for name, item in ITEMS.items() if ".P" in name) == 60
    assert {home for item in ITEMS.values() for home in item.homes} == {"01", "02", "03", "04", "05", "06"}
