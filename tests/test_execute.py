"""Running notebooks, PASS lines, and the items at the end."""

import configparser
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from tiny import default_signals, is_running

from hw3utils.__main__ import main
from hw3utils.course.assignment import ITEMS, SECTIONS
from hw3utils.course.notebooks import execute as runner
from hw3utils.course.profiles import PROFILES, current_profile
from hw3utils.course.report import Report

GOOD = [
    "from hw3utils.course.report import Report\nreport = Report('04')",
    "report.check('Q1.P7', 'nothing', 0.0, below=1)",
    "from hw3utils import plots\nwith plots.figure('04_empty', alt='nothing') as ax:\n    ax.plot([0, 1])",
    "report.table()",
    "from hw3utils.course.profiles import current_profile\nprint(current_profile().name)",
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


def test_a_failing_notebook_does_not_stop_the_next(folder, capsys):
    before = {path.name: path.read_bytes() for path in (folder / "notebooks").iterdir()}
    assert main(["run", "--out", str(folder / "out")]) == 1
    out = capsys.readouterr().out
    assert "03_bad: 1 of 3 cells" in out
    assert "failed in cell 2: KeyError: 'lost'" in out
    assert "04_good: 5 of 5 cells" in out
    assert "Q1.P7" in out
    assert "passed" in out
    made = {str(path.relative_to(folder / "out")) for path in (folder / "out").rglob("*.*")}
    assert made >= {"03_bad.ipynb", "03_bad.html", "04_good.ipynb", "04_good.html", "figures/04_empty.png"}
    assert {path.name: path.read_bytes() for path in (folder / "notebooks").iterdir()} == before


def test_update_replaces_successful_notebooks(folder, capsys):
    bad = (folder / "notebooks" / "03_bad.ipynb").read_bytes()
    outcomes = runner.run_notebooks(profile="full", out=folder / "out", update=True)
    assert [outcome.error is None for outcome in outcomes] == [False, True]
    assert (folder / "notebooks" / "03_bad.ipynb").read_bytes() == bad
    good = nbformat.read(folder / "notebooks" / "04_good.ipynb", as_version=4)
    assert good.cells[-1].outputs[0].text == "full\n"
    assert (folder / "figures" / "04_empty.png").exists()
    assert outcomes[1].items == {"Q1.P7": {"points": 5, "checks": 1, "state": "passed"}}


def test_source_and_environment_are_unchanged(folder, monkeypatch):
    monkeypatch.setenv("HW3_PROFILE", "quick")
    monkeypatch.delenv("HW3_FIGURES", raising=False)
    monkeypatch.setenv("HW3_QUIET", "0")
    path = folder / "notebooks" / "04_good.ipynb"
    before = nbformat.read(path, as_version=4)
    [outcome] = runner.run_notebooks(["4"], profile="full", out=folder / "out", update=True)
    assert (outcome.done, outcome.cells, outcome.error, outcome.failed_cell) == (5, 5, None, None)
    assert {name: os.environ.get(f"HW3_{name}") for name in ("PROFILE", "FIGURES", "QUIET")} == {
        "PROFILE": "quick",
        "FIGURES": None,
        "QUIET": "0",
    }
    after = nbformat.read(path, as_version=4)
    assert [(c.id, c.cell_type, c.source, c.metadata) for c in after.cells] == [
        (c.id, c.cell_type, c.source, c.metadata) for c in before.cells
    ]
    assert path.read_bytes() == (folder / "out" / "04_good.ipynb").read_bytes()
    assert "<title>04_good</title>" in (folder / "out" / "04_good.html").read_text()


@pytest.mark.parametrize("content", ["", '{"cells": [', "[]", '{"nbformat": 4}'])
def test_invalid_notebooks_are_named(folder, content, capsys):
    (folder / "notebooks" / "03_bad.ipynb").write_text(content)
    assert main(["run", "3", "--out", str(folder / "out")]) == 2
    error = capsys.readouterr().err
    assert "03_bad.ipynb cannot be read as a notebook" in error
    assert error.count("\n") == 1


def test_run_refuses_invalid_arguments(folder):
    with pytest.raises(ValueError, match=r"slow.*quick.*full"):
        runner.run_notebooks(profile="slow", out=folder / "out")
    (folder / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        runner.run_notebooks(out=folder / "file" / "x")


def test_no_notebooks_are_an_error(folder, monkeypatch):
    monkeypatch.setattr(runner, "NOTEBOOKS", folder / "nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        runner.find_notebooks()


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_the_kernel(folder, jobs):
    """The cell tells its process number through a pipe, so that the signal meets it at work; then nothing is left."""
    pipe, path = folder / "pipe", folder / "long.ipynb"
    os.mkfifo(pipe)
    cells = [
        f"import os\nwith open({str(pipe)!r}, 'w') as file:\n    file.write(str(os.getpid()))",
        "import threading\nthreading.Event().wait()",
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), path)
    paths = [str(path), *([str(folder / "notebooks" / "03_bad.ipynb")] if jobs == 2 else [])]
    run = subprocess.Popen(
        [sys.executable, "-m", "hw3utils", "run", *paths, "--jobs", str(jobs), "--out", str(folder / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,
    )
    kernel = int(pipe.read_text())
    run.send_signal(signal.SIGINT)
    _, error = run.communicate()
    assert run.returncode == 130
    told = f"hw3 run: interrupted; files that were written are complete, also in {folder / 'out'}"
    # With two notebooks at a time, asyncio of a worker may add warnings of its own.
    assert error == f"{told}\n" if jobs == 1 else told in error.splitlines()
    assert not is_running(kernel)


def test_notebooks_are_found_by_number_name_and_path(folder):
    good = folder / "notebooks" / "04_good.ipynb"
    assert [path.name for path in runner.find_notebooks()] == ["03_bad.ipynb", "04_good.ipynb"]
    for name in ("4", "04", "04_good", "04_good.ipynb", str(good)):
        assert [path.name for path in runner.find_notebooks([name])] == ["04_good.ipynb"]
    with pytest.raises(ValueError, match=r"'7'.*03_bad.*04_good"):
        runner.find_notebooks(["7"])


def test_profiles_by_environment(monkeypatch):
    monkeypatch.setenv("HW3_PROFILE", "full")
    assert current_profile() is PROFILES["full"]
    monkeypatch.delenv("HW3_PROFILE")
    assert current_profile() is PROFILES["quick"]
    monkeypatch.setenv("HW3_PROFILE", "slow")
    with pytest.raises(ValueError, match=r"slow.*quick.*full"):
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
    assert lines[0] == "PASS  Q1.P1  a: measured 0.012, expected below 0.1"
    assert lines[1] == "PASS  Q1.P1  b: measured below 1e-06, expected below 0.001"
    assert lines[2].startswith("PASS  Q1.P1  c: ")
    assert lines[2].endswith("expected above 4 and below 7")
    assert lines[3] == "PASS  Q1.P1  d: measured 0.12 in this run, expected below 1"


@pytest.mark.parametrize(
    ("value", "limits", "shown"),
    [
        (259.4, {"above": 259}, "259.4"),
        (260.0, {"above": 259}, "260"),
        (0.20004, {"above": 0.2}, "0.20004"),
        (0.9996, {"below": 1}, "0.9996"),
        (1.31, {"above": 1.3, "below": 2}, "1.31"),
        (-0.049, {"below": 0.05}, "0.049"),
        (89_400.0, {"above": 1e4}, "89400"),
        (1e-9, {"above": 0, "below": 1}, "1e-09"),
    ],
)
def test_shown_digits_agree_with_the_limits(value, limits, shown, capsys):
    Report("01").check("Q1.P1", "claim", value, **limits)
    assert capsys.readouterr().out.startswith(f"PASS  Q1.P1  claim: measured {shown}, expected ")


def test_comparisons_ignore_numbers_of_one_run(capsys):
    rules = configparser.ConfigParser(interpolation=None)
    rules.read(Path(__file__).parent.parent / ".nbval.cfg")
    [rule] = [rules[section] for section in rules.sections()]
    compared = set()
    for value in (0.123, -3e-9, 5e-05):
        Report("01").check("Q1.P1", "d", value, below=1, fresh=True)
        compared.add(re.sub(rule["regex"], rule["replace"], capsys.readouterr().out))
    assert compared == {"PASS  Q1.P1  d: measured NUMBER in this run, expected below 1\n"}


def test_a_number_within_its_tolerance(capsys):
    Report("01").check("Q1.P1", "a ratio", 1.0049, expected=1, tolerance=0.05)
    assert capsys.readouterr().out == "PASS  Q1.P1  a ratio: measured 1.005, expected 1 ± 0.05\n"


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        (1.06, {"expected": 1, "tolerance": 0.05}),
        (0.94, {"expected": 1, "tolerance": 0.05}),
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
def test_a_number_outside_of_its_limits_fails(value, limits, capsys):
    with pytest.raises(AssertionError, match=r"^FAIL  Q1.P1  claim: "):
        Report("01").check("Q1.P1", "claim", value, **limits)
    assert capsys.readouterr().out.startswith("FAIL")


def test_the_sign_counts_only_between_two_limits():
    report = Report("01")
    report.check("Q1.P1", "an error", torch.tensor(-0.5), below=1)
    report.check("Q1.P1", "a gain", -2.0, below=0)
    for value in (-2.0, torch.tensor(-2.0), torch.tensor([3.0, -2.0])):
        with pytest.raises(AssertionError, match="-2,"):
            report.check("Q1.P1", "positive", value, above=0, below=5)


def test_the_table_has_all_claims(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    report = Report("04")
    report.check("Q1.P7", "a < b", 0.25, below=1)
    report.check("Q1.P7", "second", 7, above=6)
    report.table()
    assert shown[0][runner.MIMETYPE] == {"Q1.P7": {"points": 5, "checks": 2, "state": "passed"}}
    assert shown[0]["text/plain"] == "Q1.P7  5 points  FID of DDPM and DDIM: passed"
    assert all(text in shown[0]["text/html"] for text in ("a &lt; b", "0.25", "second", "7"))


def test_report_refuses_invalid_arguments():
    report = Report("01")
    with pytest.raises(ValueError, match=r"Q2\.P1.*01"):
        report.check("Q2.P1", "x", 0.0, below=1)
    with pytest.raises(ValueError, match=r"below.*above"):
        report.check("Q1.P1", "x", 0.0)
    with pytest.raises(ValueError, match="'x'"):
        report.check("Q1.P1", "x", torch.zeros(0), below=1)
    with pytest.raises(ValueError, match="tolerance"):
        report.check("Q1.P1", "x", 0.0, expected=1)
    with pytest.raises(ValueError, match="'99'"):
        Report("99")


def test_the_items_add_up_to_the_homework():
    assert len(ITEMS) == 22
    assert sum(item.points for item in ITEMS.values()) == 110
    for question, kind, points in (("Q1", "T", 25), ("Q1", "P", 30), ("Q2", "T", 25), ("Q2", "P", 30)):
        assert sum(item.points for name, item in ITEMS.items() if name.startswith(f"{question}.{kind}")) == points
    assert {home for item in ITEMS.values() for home in item.homes} == {"01", "02", "03", "04", "05", "06"}


def test_sections_have_no_points(capsys):
    assert {(section.points, section.homes) for section in SECTIONS.values()} == {(0, ("07",))}
    report = Report("07")
    assert list(report.claims) == list(SECTIONS) == [f"07.{n}" for n in range(1, 8)]
    report.check("07.3", "an error", 0.0123, below=0.1)
    assert capsys.readouterr().out == "PASS  07.3  an error: measured 0.012, expected below 0.1\n"
    with pytest.raises(ValueError, match=r"07\.1.*06"):
        Report("06").check("07.1", "x", 0.0, below=1)
