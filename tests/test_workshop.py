"""Whose function a notebook uses, and what its report says of an item."""

import contextlib
import functools
import json
import sys
import types

import numpy as np
import pytest
import torch
from tiny import unet

from hw3utils.course import Report, checks, stand_ins, workshop
from hw3utils.course.assignment import ANSWER, MIMETYPE
from hw3utils.diffusion import perturb_input
from hw3utils.losses import noise_prediction_loss
from hw3utils.schedules import linear_schedule


@pytest.fixture(autouse=True)
def session(monkeypatch):
    """A notebook's session: no check has passed, and the names that its cells have defined."""
    names = vars(cells := types.ModuleType("__main__"))
    monkeypatch.setitem(sys.modules, "__main__", cells)
    monkeypatch.setattr(workshop, "_passed", [])
    monkeypatch.setattr(workshop, "_refused", [])
    monkeypatch.setattr(workshop, "outcomes", {})
    monkeypatch.setattr(workshop, "_exercises", 0)
    return names


def right(x0, t, eps, schedule):
    bar = schedule.alpha_bar[t].to(x0.dtype).view(-1, *[1] * (x0.ndim - 1))
    return bar.sqrt() * x0 + (1 - bar).sqrt() * eps


def wrong(x0, t, eps, schedule):
    bar = schedule.alpha_bar[t].to(x0.dtype).view(-1, *[1] * (x0.ndim - 1))
    return bar.sqrt() * x0 + (1 - bar) * eps


def stub(x0, t, eps, schedule):
    raise NotImplementedError("write this part first")


def package(x0, t, eps, schedule):
    return perturb_input(x0, t, eps, schedule)


def test_a_function_whose_check_has_passed_is_used(session, capsys):
    session["my_perturb_input"] = right
    checks.check_perturb_input(right)
    chosen = workshop.choose("my_perturb_input", instead=package)
    assert chosen.__wrapped__ is right
    assert "your my_perturb_input" in capsys.readouterr().out


def misspelt(x0, t, eps, schedule):
    return schedule.alfa_bar[t] * x0


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (wrong, "has not passed its check: the noise has the wrong size: at t = "),
        (stub, "is not written"),
        (misspelt, "has not passed its check: AttributeError: 'NoiseSchedule' object has no attribute 'alfa_bar'"),
    ],
)
def test_a_function_that_fails_its_check_is_not_used_and_the_reason_is_said(session, capsys, function, why):
    session["my_perturb_input"] = function
    with pytest.raises((AssertionError, NotImplementedError, AttributeError)):
        checks.check_perturb_input(function)
    assert workshop.choose("my_perturb_input", instead=package) is package
    assert f"the package's function, because my_perturb_input {why}" in capsys.readouterr().out


def test_a_missing_function_is_replaced(session, capsys):
    assert workshop.choose("my_perturb_input", instead=package) is package
    assert "my_perturb_input is not written" in capsys.readouterr().out


def test_a_function_that_was_changed_after_its_check_must_pass_again(session):
    session["my_perturb_input"] = right
    checks.check_perturb_input(right)
    session["my_perturb_input"] = lambda *arguments: right(*arguments)
    assert workshop.choose("my_perturb_input", instead=package) is package


def test_data_of_the_student_are_used_after_their_check(session):
    for own in ({"deterministic": torch.ones(2, 2)}, {"deterministic": np.ones((2, 2))}):
        workshop.exercise(lambda samples: None)(own)
        session["samples"] = own
        [chosen] = workshop.choose("samples", instead={"deterministic": torch.zeros(2, 2)}).values()
        assert chosen.dtype == torch.float32
        assert chosen.eq(1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_get_the_dtype_of_the_input(session, dtype):
    """A right function may compute in float32 or in NumPy: what follows it never stops at that."""

    def in_numpy(x0, t, eps, schedule):
        return right(x0.float(), t, eps.float(), schedule).numpy()

    @functools.partial(workshop.exercise)
    def anything(function):
        return 0.0

    anything(in_numpy)
    session["my_perturb_input"] = in_numpy
    chosen = workshop.choose("my_perturb_input", instead=package)
    from hw3utils.schedules import linear_schedule

    x0 = torch.randn(4, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    got = chosen(x0, torch.tensor([1, 5, 9, 1000]), torch.ones_like(x0), linear_schedule())
    assert got.dtype == dtype
    nested = workshop._as_tensors((np.ones(2), {"a": np.zeros(1)}, [torch.ones(1)]), x0)
    assert nested[0].dtype == nested[1]["a"].dtype == nested[2][0].dtype == dtype


def test_an_integer_result_stays_an_integer():
    assert workshop._as_tensors(torch.tensor([3]), torch.ones(1)).dtype == torch.int64


# ---------------------------------------------------------------------------------------------------------- the table


def states(report):
    """The states of a report's items, from the table it displays."""
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
        report.table()
    return {item: row["state"] for item, row in shown[0][MIMETYPE].items()}


def notebook(folder, answer):
    """A file of notebook 01 with one theory item and one exercise."""
    mark = {"grade": True, "solution": True, "points": 5, "grade_id": "Q1-T1-answer"}
    check = {"grade": True, "solution": False, "points": 5, "grade_id": "Q1-P2-check"}
    cells = [
        {"cell_type": "markdown", "metadata": {"nbgrader": mark}, "source": answer},
        {
            "cell_type": "code",
            "metadata": {"nbgrader": check},
            "source": "checks.check_perturb_input(f)",
            "outputs": [],
        },
    ]
    (folder / "01_forward_process.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4}), encoding="utf-8")


@pytest.mark.parametrize(("answer", "state"), [(ANSWER, "not written"), ("", "not written"), ("Proof.", "answered")])
def test_a_theory_item_is_answered_only_with_an_answer(tmp_path, monkeypatch, answer, state):
    notebook(tmp_path, answer)
    monkeypatch.chdir(tmp_path)
    report = Report("01")
    report.check("Q1.T1", "a line of the package", 0.0, below=1)
    assert states(report)["Q1.T1"] == state


def test_an_item_of_programming_is_passed_only_by_its_check(tmp_path, monkeypatch):
    notebook(tmp_path, "Proof.")
    monkeypatch.chdir(tmp_path)
    report = Report("01")
    report.check("Q1.P2", "a line of the package", 0.0, below=1)
    assert states(report)["Q1.P2"] == "not written"
    report.check("Q1.P2", "the exercise", checks.check_perturb_input(right), below=1e-5, fresh=True)
    assert states(report)["Q1.P2"] == "passed"


def test_the_state_is_that_of_the_last_call_and_of_this_item(tmp_path, monkeypatch):
    notebook(tmp_path, "Proof.")
    monkeypatch.chdir(tmp_path)
    report = Report("01")
    report.check("Q1.P2", "an exercise without points", workshop.exercise(lambda f: 0.0)(right), below=1)
    assert states(report)["Q1.P2"] == "not written"
    for function, state in ((stub, "not written"), (wrong, "not passed"), (right, "passed"), (wrong, "not passed")):
        with contextlib.suppress(AssertionError, NotImplementedError):
            report.check("Q1.P2", "the exercise", checks.check_perturb_input(function), below=1)
        assert states(report)["Q1.P2"] == state


def test_a_number_outside_its_limits_withdraws_the_pass(session, capsys):
    session["own"] = right
    with pytest.raises(AssertionError):
        Report("01").check("Q1.P2", "too large", workshop.exercise(lambda f: 3.0)(right), below=1)
    assert workshop.choose("own", instead=package) is package
    assert "own has not passed its check: FAIL  Q1.P2  too large: measured 3" in capsys.readouterr().out


def test_the_table_lists_a_measurement_outside_its_limits_until_it_holds(tmp_path, monkeypatch):
    notebook(tmp_path, "Proof.")
    monkeypatch.chdir(tmp_path)
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    report = Report("01")
    report.check("Q1.P2", "the exercise", checks.check_perturb_input(right), below=1e-5, fresh=True)
    for value in (2.0, 0.5):
        with contextlib.suppress(AssertionError):
            report.check("Q1.P2", "a ratio", value, below=1)
        report.table()
    first, second = ((data["text/html"], data["text/plain"], data[MIMETYPE]["Q1.P2"]) for data in shown)
    assert "2: FAIL, expected below 1" in first[0]
    assert "a ratio: 2: FAIL" in first[1]
    assert "FAIL" not in second[0] + second[1]
    assert first[2] == second[2] == {"points": 5, "checks": 2, "state": "passed"}


def test_an_item_without_exercises_here_is_not_passed_with_a_failing_measurement():
    report = Report("02")
    with pytest.raises(AssertionError):
        report.check("Q1.P1", "a ratio", 2.0, below=1)
    assert states(report)["Q1.P1"] == "not passed"
    report.check("Q1.P1", "a ratio", 0.5, below=1)
    assert states(report)["Q1.P1"] == "passed"


def test_a_line_says_what_was_measured_and_expected(capsys):
    report = Report("01")
    report.check("Q1.P1", "ratio", 1.0051, expected=1, tolerance=0.05)
    assert "measured 1.005, expected 1 ± 0.05" in capsys.readouterr().out
    with pytest.raises(AssertionError, match=r"0\.9"):
        report.check("Q1.P1", "ratio", 0.9, expected=1, tolerance=0.05)


@pytest.mark.parametrize(
    "limits", [{}, {"expected": 1}, {"tolerance": 0.1}, {"expected": 1, "tolerance": 0}, {"expected": 1, "below": 2}]
)
def test_incomplete_limits_are_refused(limits):
    with pytest.raises(ValueError, match=r"expected|tolerance"):
        Report("01").check("Q1.P1", "ratio", 1.0, **limits)


def loss_of_a_step(network, x0, t, eps, schedule):
    return noise_prediction_loss(network, x0, t, eps, schedule).mean()


@pytest.mark.parametrize(
    ("check", "stand_in", "limit"),
    [
        (checks.check_training_step, stand_ins.training_step(loss_of_a_step), 1e-4),
        (checks.check_guided, stand_ins.guided, 1e-4),
        (checks.check_denoising_score_matching, stand_ins.denoising_loss, 1e-3),
        (checks.check_flow_log_prob, stand_ins.log_prob, 0.1),
    ],
)
def test_what_stands_in_for_a_missing_function_would_pass(check, stand_in, limit):
    assert check(stand_in) < limit


def test_what_stands_in_for_both_samplers_would_pass():
    network, schedule = unet(), linear_schedule()
    pair = stand_ins.sampling_pair(network, schedule, lambda n: torch.randn(n, 3, 16, 16))
    assert checks.check_sampling_pair(*pair, network) == 20
