"""Checks whose function is at the other end of a connection, as when a submission is judged."""

import contextlib
import functools
import multiprocessing
import threading

import pytest

from hw3utils.course import checks
from hw3utils.course.grading.judge.judge_side import JudgeConnection
from hw3utils.course.grading.judge.student_side import StudentConnection

# Every check with points that takes one function.
JUDGED = (
    *("check_linear_schedule", "check_perturb_input", "check_noise_prediction_loss", "check_training_step"),
    *("check_sample_ddpm", "check_sample_ddim", "check_frechet_distance", "check_mixture_score"),
    *("check_perturbed_score", "check_denoising_score_matching", "check_score_training", "check_ascent"),
    *("check_langevin", "check_annealed_langevin", "check_denoise"),
)


@contextlib.contextmanager
def judge_of(namespace, seconds=300):
    """The judge's end of a connection to these names."""
    ours, theirs = multiprocessing.Pipe()
    student = threading.Thread(target=StudentConnection(theirs, namespace).work)
    student.start()
    with ours:
        judge = JudgeConnection(ours, seconds)
        yield judge
        with contextlib.suppress(OSError):
            judge.finish()
    student.join()


def remote(check):
    """A check whose function is called over a connection."""

    @functools.wraps(check)
    def run(function, **options):
        with judge_of({"function": function}) as judge:
            return check(judge.look_up(["function"])["function"], **options)

    return run


@pytest.fixture(autouse=True, params=["local", "remote"])
def way(request, monkeypatch):
    """Where the function of a check runs."""
    if request.param == "remote":
        for name in JUDGED:
            monkeypatch.setattr(checks, name, remote(getattr(checks, name)))
