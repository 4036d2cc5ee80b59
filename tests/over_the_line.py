"""Checks whose function stands at the other end of a line, as when a submission is judged."""

import contextlib
import functools
import socket
import threading

import pytest

from hw3utils.course import checks
from hw3utils.course.grading.judge.judge_side import JudgeEnd
from hw3utils.course.grading.judge.student_side import StudentEnd

# Every check of points that takes one function.
JUDGED = (
    *("check_linear_schedule", "check_perturb_input", "check_noise_prediction_loss", "check_training_step"),
    *("check_sample_ddpm", "check_sample_ddim", "check_frechet_distance", "check_mixture_score"),
    *("check_perturbed_score", "check_denoising_score_matching", "check_score_training", "check_ascent"),
    *("check_langevin", "check_annealed_langevin", "check_denoise"),
)


@contextlib.contextmanager
def judge_of(namespace, seconds=300):
    """The judge's end of a line to these names."""
    ours, theirs = socket.socketpair()
    student = threading.Thread(target=StudentEnd(theirs, namespace).work)
    student.start()
    with ours:
        line = JudgeEnd(ours, seconds)
        yield line
        with contextlib.suppress(OSError):
            line.end()
    student.join()


def across(check):
    """A check whose function is called over a line."""

    @functools.wraps(check)
    def run(function, **options):
        with judge_of({"function": function}) as line:
            return check(line.look(["function"])["function"], **options)

    return run


@pytest.fixture(autouse=True, params=["here", "over the line"])
def way(request, monkeypatch):
    """Where the function of a check runs."""
    if request.param == "over the line":
        for name in JUDGED:
            monkeypatch.setattr(checks, name, across(getattr(checks, name)))
